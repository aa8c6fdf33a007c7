# SPDX-License-Identifier: MIT
"""Runs .cu files: single kernels with load(), host launchers and all with build().

>>> source = '''
... __global__ void twice(float* y, int n) {
...   const int i = blockIdx.x * blockDim.x + threadIdx.x;
...   if (i < n) y[i] *= 2;
... }
... extern "C" int launch_twice(float* y, int n, cudaStream_t stream) {
...   twice<<<(n + 127) / 128, 128, 0, stream>>>(y, n);
...   return cudaGetLastError();
... }
... '''
>>> y = np.arange(4, dtype=np.float32)
>>> load(source=source).kernel("twice")([y, 4], grid=1, block=32)
>>> y
array([0., 2., 4., 6.], dtype=float32)
>>> library = build(source=source)  # library.path is what nvcc -shared would give, for CPUs
>>> library.functions.launch_twice(ctypes.c_void_p(y.ctypes.data), 4, None)
0
>>> y
array([ 0.,  4.,  8., 12.], dtype=float32)
"""

import ctypes
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from kernelsim import arch as architectures
from kernelsim import arguments, checks, cu, headers, launch, toolchain
from kernelsim.arch import Arch
from kernelsim.arguments import Described
from kernelsim.audit import Around, Compulsory
from kernelsim.audit import build as build_audited
from kernelsim.audit import launched as audit_of
from kernelsim.errors import ArgumentError, SourceError
from kernelsim.host import HostLibrary
from kernelsim.launch import Dim, Grid, Options, three
from kernelsim.lint import Finding
from kernelsim.traffic import Audit

WHOLE = 64  # kernels that are no templates are compiled together, in a larger file as they are asked for
HOST = ("cuda/launch.cpp", "cuda/host.cpp", "cuda/device.cpp")
FLAGS = (
    "-UNDEBUG",  # which zig c++ defines when it optimises
    "-fdeclspec",  # threadIdx.x is a property
    "-fsigned-char",  # on AArch64 too, so that all machines agree
    "-fno-strict-aliasing",  # kernels read weights through pointers of other types
    "-fno-finite-loops",  # a loop that never ends is not taken out
    "-fstrict-flex-arrays=3",  # an array that ends a struct has the size it says
    "-fno-math-errno",
    "-ffp-contract=fast-honor-pragmas",  # nvcc's -fmad=true: fused, but for __fmul_rn and its like
    "-fstack-clash-protection",  # a large frame meets the unmapped page below its stack
    *("-Xclang", "-ffloat16-excess-precision=none"),  # half arithmetic is rounded after every operation
    "-fno-strict-float-cast-overflow",
    "-fsanitize=integer-divide-by-zero,bounds,alignment",  # GPUs fault at misaligned addresses
    "-fno-sanitize-recover=all",
    "-gline-tables-only",
)
HOST_FLAGS = (*toolchain.ENGINE_FLAGS, "-fdeclspec")

# The preprocessor sees none of the system's and CUDA's headers: a pragma stays in their place, of which the rewriter
# makes the #include again, so that only the source's own tokens are rewritten.
_NDEBUG = "#ifdef NDEBUG\n#pragma ksim define NDEBUG\n#else\n#pragma ksim undef NDEBUG\n#endif\n"
_VERSION = 13000  # of CUDA; nvcc is 13.0
_MACROS = (
    "__CUDACC__=1",
    "__NVCC__=1",
    "__CUDACC_VER_MAJOR__=13",
    "__CUDACC_VER_MINOR__=0",
    "__CUDACC_VER_BUILD__=88",
    "__CUDACC_EXTENDED_LAMBDA__=1",
    "__CUDACC_RELAXED_CONSTEXPR__=1",
    f"CUDART_VERSION={_VERSION}",
    f"CUDA_VERSION={_VERSION}",
    "__CUDA_ARCH_HAS_FEATURE__(feature)=__CUDA_ARCH_FEAT_##feature",
    "__KERNELSIM__=1",
    *headers.GUARDS,
    "CUDART_CB=",
    "__forceinline__=inline __attribute__((always_inline))",
    "__noinline__=__attribute__((noinline))",
    "__align__(n)=__attribute__((aligned(n)))",
    "__builtin_align__(n)=__attribute__((aligned(n)))",
    "__CUDA_ALIGN__(n)=__attribute__((aligned(n)))",
    "_GNU_SOURCE=1",
)


def _stub(room: str) -> str:
    guard = f"#define {headers.GUARDS_OF[room]}\n" if room in headers.GUARDS_OF else ""
    return f'{guard}#pragma ksim include "cuda/{room}.hpp"\n'


def _stubs(system: Iterable[str], missing: Iterable[str]) -> Path:
    rooms = {header: _stub(room) for room, names in headers.ROOMS.items() for header in names.split()}
    standard = {header: f"#pragma ksim include <{header}>\n" for header in (*headers.STANDARD.split(), *system)}
    for header in ("assert.h", "cassert"):
        standard[header] = _NDEBUG + standard[header]
    return toolchain.stubs("cuda", {**standard, **rooms, **dict.fromkeys(missing, headers.LEFT_OUT_HEADER)})


def _preprocess(
    file: Path, target: Arch, include: Sequence[str | Path], defines: Sequence[str], *, host: bool = True
) -> str:
    system: list[str] = []  # headers of this machine that are in no list above
    without: list[str] = []  # headers of libraries that kernels alone do not need
    if any((Path(folder) / headers.CCCL).exists() for folder in include):
        defines = (*headers.CCCL_MACROS, *_library_macros(), *defines)
    while True:
        try:
            return toolchain.find().run(
                *("-E", "-x", "c++", "-std=c++17", "-nostdinc", "-nostdinc++", "-Wno-everything"),  # nvcc 13's standard
                *(
                    "-fgnuc-version=13.3.0",
                    "-U__clang__",
                    "-U__clang_major__",
                    "-U__clang_minor__",
                    "-U__clang_version__",
                ),
                *(f"-D{macro}" for macro in (*_MACROS, *target.macros, *defines)),
                *(f"-I{folder}" for folder in include),
                f"-I{_stubs(system, without)}",  # before what zig c++ adds in spite of -nostdinc
                str(file),
            )
        except SourceError as error:
            missing = re.search(r"fatal error: '([\w./+-]+)' file not found", str(error))
            if missing and not host and missing[1].startswith(headers.HOST_HEADERS):
                without.append(missing[1])
                continue
            if missing and missing[1].startswith(headers.TOOLKIT):
                words = str(error).replace(f"'{missing[1]}' file not found", headers.not_simulated(missing[1]))
                raise SourceError(words) from None
            if not missing or missing[1] in system or not _is_system_header(missing[1]):
                raise
            system.append(missing[1])


@functools.cache
def _library_macros() -> tuple[str, ...]:
    """Macros of this machine's C++ library, which is not there when a source is preprocessed."""
    defined = toolchain.find().run("-E", "-dM", "-x", "c++", "-", stdin="#include <version>\n#include <cstddef>\n")
    return tuple(map("=".join, re.findall(headers.LIBRARY_MACRO, defined)))


def _is_system_header(name: str) -> bool:
    try:
        toolchain.find().run("-fsyntax-only", "-x", "c++", "-", stdin=f"#include <{name}>\n")
    except SourceError:
        return False
    return True


def _unit(source: cu.Source, target: Arch, entries: Sequence[str] = ()) -> str:
    """The translation unit: CUDA's headers, the rewritten source, the device, an entry for each kernel."""
    d = target.device
    fields = (
        *(f'"{d.name}"', d.capability // 10, d.capability % 10, architectures.DEFAULT_SHARED, d.shared_optin),
        *(d.shared_of_multiprocessor, d.shared_reserved, d.multiprocessors, d.threads_of_multiprocessor),
        *(d.blocks_of_multiprocessor, d.l2, d.memory, int(d.integrated)),
    )
    lines = ['#include "cuda/cuda.hpp"', '#include "cuda/bind.hpp"']
    lines += ['#include "cuda/ptx.hpp"'] if source.has_asm else []
    lines += [source.body, '# 1 "kernelsim entries"']
    lines.append(f"const ksim::cuda::Device ksim::cuda::device = {{{', '.join(map(str, fields))}}};")
    lines += [_entry(number, source.pointers.get(name, f"&{name}")) for number, name in enumerate(entries)]
    return "\n".join(lines)


def _entry(number: int, kernel: str) -> str:
    return (
        f'extern "C" void ksim_entry_{number}(void *ksim_table) '
        f"{{ ksim::cuda::enter({kernel}, static_cast<void **>(ksim_table)); }}\n"
        f'extern "C" const ksim::Description *ksim_parameters_{number}() '
        f"{{ return ksim::cuda::describe_all({kernel}); }}\n"
        f'extern "C" unsigned long long ksim_constants_{number}() {{ return ksim::cuda::constants({kernel}); }}\n'
        f'extern "C" int ksim_bounds_{number}() {{ return ksim::cuda::kernel_of({kernel})->max_threads; }}'
    )


def _compile(unit: str, *, audited: bool = False) -> Path:
    compiler = toolchain.find()
    objects = [compiler.engine()]
    objects += [compiler.compile((toolchain.RUNTIME / name).read_text(), HOST_FLAGS, suffix=".o") for name in HOST]
    compile_ = functools.partial(build_audited, compiler) if audited else compiler.compile
    return compile_(unit, FLAGS, suffix=".so", objects=objects)


def load(
    path: str | Path | None = None,
    *,
    source: str | None = None,
    arch: str = "sm_90",
    include: Sequence[str | Path] = (),
    defines: Sequence[str] = (),
    kernels: Iterable[str] = (),
) -> "Library":
    """Reads a .cu file, or source text, and finds its __global__ functions.

    Args:
        path: the file.
        source: the text, instead of a file.
        arch: what nvcc -arch takes, such as sm_120a; one of kernelsim.arch.ARCHS.
        include: folders for #include.
        defines: macros, as NAME or NAME=value.
        kernels: names to be compiled together, templates with their arguments; others as they are asked for.

    Raises:
        SourceError: it cannot be parsed. ToolchainError: no clang++. ArgumentError: an unknown architecture.
    """
    file, target = toolchain.source_file(path, source, ".cu"), architectures.find(arch)
    return Library(file, _preprocess(file, target, include, defines, host=False), target, tuple(kernels))


def build(
    path: str | Path | None = None,
    *,
    source: str | None = None,
    arch: str = "sm_90",
    include: Sequence[str | Path] = (),
    defines: Sequence[str] = (),
    audit: bool = False,
) -> HostLibrary:
    """Compiles a .cu file with its host code to a shared library that has the C ABI that nvcc gives it.

    Args as load(), and audit: kernelsim.audit.record() can count what its kernels ask of memory. Raises what load()
    raises, and SourceError if it does not compile.
    """
    file, target = toolchain.source_file(path, source, ".cu"), architectures.find(arch)
    rewritten = cu.rewrite(_preprocess(file, target, include, defines), arch)
    return HostLibrary(_compile(_unit(rewritten, target), audited=audit))


class Library:
    """The kernels of one file."""

    def __init__(self, path: Path, preprocessed: str, target: Arch, together: tuple[str, ...]) -> None:
        self.path = path
        self.preprocessed = preprocessed
        self.source = cu.rewrite(preprocessed, target.name, host=False)
        self.arch = target
        self._together = together
        for expression in together:
            self._entry(expression)

    @property
    def kernels(self) -> tuple[str, ...]:
        """The names of all kernels; templates need arguments behind theirs to be launched."""
        return tuple(self.source.entries)

    def kernel(self, name: str) -> "Kernel":
        """The kernel of this name, such as scale or gemv<128, __half>, compiled.

        Raises:
            ArgumentError: there is no such kernel. SourceError: it does not compile.
        """
        return self._kernel(name, audited=False)

    def _kernel(self, name: str, *, audited: bool) -> "Kernel":
        entry = self._entry(name)
        names = self._names(name)
        path, library = self._compile(names, audited=audited)
        return Kernel(self, name, entry, path, library, names.index(name))

    def check(self) -> list[Finding]:
        """Compiles the whole file, host code too; what clang does not find is not found.

        Raises:
            SourceError: it does not compile.
        """
        _compile(_unit(cu.rewrite(self.preprocessed, self.arch.name), self.arch))
        return []

    def _entry(self, name: str) -> cu.Entry:
        base, bracket, _ = name.partition("<")
        entry = self.source.entries.get(base.strip())
        if entry is None:
            known = ", ".join(list(self.kernels)[:20]) or "none"
            raise ArgumentError(f"{self.path.name} has no kernel {base.strip()!r}; it has {known}")
        if entry.is_template and not bracket:
            raise ArgumentError(f"{entry.name} is a template: give its arguments, {entry.name}<...>")
        return entry

    def _names(self, name: str) -> tuple[str, ...]:
        """The kernels that are compiled with this one."""
        whole = tuple(entry.name for entry in self.source.entries.values() if not entry.is_template)
        if name in self._together:
            return self._together
        return whole if name in whole and len(whole) <= WHOLE else (name,)

    @functools.cache  # noqa: B019 - a library lives as long as its kernels
    def _compile(self, names: tuple[str, ...], *, audited: bool) -> tuple[Path, ctypes.CDLL]:
        path = _compile(_unit(self.source, self.arch, names), audited=audited)
        return path, toolchain.load(path)


class Kernel:
    """A compiled kernel; call it to run it."""

    def __init__(
        self, source: Library, name: str, entry: cu.Entry, path: Path, library: ctypes.CDLL, number: int
    ) -> None:
        self.name = name
        self.arch = source.arch
        self._source = source
        self._around: Around = nullcontext  # a launch: the audit's
        self._path = path
        self._library = library
        self._number = number
        self._names = entry.parameters

    @functools.cached_property
    def parameters(self) -> list[Described]:
        """Its arguments: name, index, type and constness."""
        described = list(arguments.describe(self._library, self._number))
        function = self._library[f"ksim_constants_{self._number}"]
        function.restype = ctypes.c_ulonglong
        constants = function()
        if len(described) != len(self._names):
            raise SourceError(f"{self.name} has {len(described)} parameters, not {len(self._names)}: {self._names}")
        return [
            Described(name, n, bool(constants >> n & 1), *kind)
            for n, (name, kind) in enumerate(zip(self._names, described, strict=True))
        ]

    @functools.cached_property
    def max_threads(self) -> int:
        """Threads of a block by __launch_bounds__; 0 = it has none."""
        return int(self._library[f"ksim_bounds_{self._number}"]())

    def __call__(
        self,
        args: Mapping[str | int, Any] | Sequence[Any],
        *,
        grid: int | Sequence[int],
        block: int | Sequence[int],
        shared: int = 0,
        **options: Any,
    ) -> None:
        """Runs the kernel; arrays that it writes hold the results.

        Args:
            args: arrays and scalars in order, or by index or name. Arrays are C-contiguous and of the parameter's
                element type, unsigned integers of its size, or, for structs and bytes, anything; None is a null
                pointer.
            grid: blocks in x, y, z.
            block: threads of a block in x, y, z.
            shared: bytes of dynamic shared memory; what cudaFuncSetAttribute would have to allow is allowed.
            options: see Options.

        Raises:
            ArgumentError: an argument is missing, superfluous or of the wrong type; the message names it.
            KernelFault: the kernel did what it must not do. TimeLimitExceeded: it ran too long.
        """
        launched = Grid(three(grid, "grid"), three(block, "block"))
        _demand("grid", launched.groups, architectures.MOST_BLOCKS)
        _demand("block", launched.group, architectures.MOST_THREADS)
        threads = launched.group[0] * launched.group[1] * launched.group[2]
        if self.max_threads and threads > self.max_threads:
            raise ArgumentError(f"block has {threads} threads; {self.name} says __launch_bounds__({self.max_threads})")
        limit = self.arch.device.shared_optin
        if not 0 <= shared <= limit:
            raise ArgumentError(f"shared: {self.arch.name} has 0 to {limit} bytes for a block, not {shared}")
        for parameter, value in arguments.pair(self.parameters, args, self.name):
            if value is None and not parameter.pointer:
                raise ArgumentError(f"{parameter.name} (argument {parameter.index}) is a {parameter.type}, not None")
        chosen = Options(**arguments.known_options(options))
        with arguments.bind(self.parameters, args, self.name, chosen.guard) as bound:
            with self._around(bound):
                launch.run(
                    self._library,
                    self._path,
                    entry=f"ksim_entry_{self._number}",
                    kernel=self.name,
                    pointers=bound.pointers(max(arguments.MAX_BUFFERS, len(self._names))),
                    grid=launched,
                    dynamic=[shared],
                    shared_limit=limit,
                    options=chosen,
                    bound=bound.guarded,
                    cuda=True,
                )
            bound.finish("block")

    def check(self, args: Mapping[str | int, Any] | Sequence[Any], **launched: Any) -> None:
        """Runs the kernel in three schedules, which must give the same bits, then leaves the results in args.

        Raises:
            ScheduleError: they differ, and so would a GPU's from run to run. Otherwise what a call raises.
        """
        checks.schedules(self, args, launched)

    def audit(
        self,
        args: Mapping[str | int, Any] | Sequence[Any],
        *,
        compulsory: Compulsory | None = None,
        **launched: Any,
    ) -> Audit:
        """Runs the kernel once and counts what it asks of memory; arrays that it writes hold the results.

        Args:
            args: as for a call.
            compulsory: bytes that must be moved, by argument name; "all": each array as a whole.
            launched: as for a call.
        """
        one = self._source._kernel(self.name, audited=True)  # noqa: SLF001 - of this module
        return one.audited(args, launched, compulsory)

    def audited(self, args: Any, launched: Mapping[str, Any], compulsory: Compulsory | None) -> Audit:
        """What audit() does, of a kernel that was compiled for it."""

        def run(around: Around) -> None:
            self._around = around
            self(args, **launched)

        return audit_of(run, self._library, self._path, compulsory, banks=True)


def _demand(name: str, given: Dim, most: Dim) -> None:
    for axis, count, limit in zip("xyz", given, most, strict=True):
        if count > limit:
            raise ArgumentError(f"{name} has at most {limit} in {axis}, not {count}")


def addresses(*arrays: np.ndarray[Any, Any]) -> tuple[ctypes.c_void_p, ...]:
    """Where arrays lie, for ctypes."""
    return tuple(ctypes.c_void_p(array.ctypes.data) for array in arrays)
