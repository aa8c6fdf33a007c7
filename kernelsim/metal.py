# SPDX-License-Identifier: MIT
"""Runs .metal files: `load(path).kernel(name)(args, grid=, threadgroup=)`.

>>> import numpy as np
>>> source = '''
... #include <metal_stdlib>
... kernel void twice(device float* y, uint i [[thread_position_in_grid]]) { y[i] *= 2; }
... '''
>>> y = np.arange(4, dtype=np.float32)
>>> load(source=source).kernel("twice")([y], grid=4, threadgroup=4)
>>> y
array([0., 2., 4., 6.], dtype=float32)
"""

import ctypes
import functools
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kernelsim import arguments, checks, msl, toolchain
from kernelsim.arguments import Described
from kernelsim.audit import Compulsory, launched
from kernelsim.audit import build as build_audited
from kernelsim.constants import label, record, required
from kernelsim.errors import ArgumentError, SourceError
from kernelsim.launch import SLOTS, Grid, Options, run, three
from kernelsim.lint import Finding, lint
from kernelsim.traffic import Audit

VERSION = 320  # __METAL_VERSION__: MSL 3.2
THREADGROUP_MEMORY = 32768  # bytes a threadgroup may have, on every Apple GPU since A11 (Metal feature set tables)
WHOLE = 8  # a file of no more kernels is compiled as a whole, a larger one as its kernels are asked for
_STUBS = (
    "metal_stdlib metal_simdgroup metal_simdgroup_matrix metal_atomic metal_math metal_integer metal_common "
    "metal_compute metal_geometric metal_relational metal_array metal_pack metal_limits metal_types metal_type_traits "
    "metal_uniform metal_logging metal_matrix metal_quadgroup metal_texture metal_config metal_assert simd/simd.h"
)
FLAGS = (
    "-std=c++17",  # MSL 4's; in C++20 fewer structs are aggregates
    "-fdeclspec",  # swizzles are properties
    "-fsigned-char",  # as in MSL, on AArch64 too
    "-fno-strict-aliasing",  # kernels read weights through pointers of other types
    "-fno-exceptions",
    "-fstack-clash-protection",  # a large frame meets the unmapped page below its stack
    "-fno-finite-loops",  # a loop that never ends is not taken out
    "-ffp-contract=on",  # a * b + c within an expression is fused, as Apple's compiler does
    *("-Xclang", "-ffloat16-excess-precision=none"),  # half arithmetic is rounded after every operation
    "-fno-math-errno",
    "-fwrapv",  # as atomics, and as GPUs do
    "-fsanitize=integer-divide-by-zero,bounds",
    "-fstrict-flex-arrays=3",  # an array that ends a struct has the size it says
    "-fno-sanitize-recover=all",
    "-gline-tables-only",
)
LAX = "-fmax-type-align=8"  # float4 at addresses that only float needs: undefined, but Apple's GPUs take it


def load(
    path: str | Path | None = None,
    *,
    source: str | None = None,
    include: Sequence[str | Path] = (),
    defines: Sequence[str] = (),
    version: int = VERSION,
    kernels: Iterable[str] | None = None,
) -> "Library":
    """Reads a .metal file, or source text, and finds its kernels.

    Args:
        path: the file.
        source: the text, instead of a file.
        include: folders for #include.
        defines: macros, as NAME or NAME=value.
        version: __METAL_VERSION__, e.g. 310 for MSL 3.1.
        kernels: names to be compiled together; default: all of a file of up to 8, one by one of a larger.

    Raises:
        SourceError: it cannot be parsed. ToolchainError: no clang++. ArgumentError: neither path nor source.
    """
    file = toolchain.source_file(path, source, ".metal")
    compiler = toolchain.find()
    preprocessed = _preprocess(compiler, file, include, defines, version)
    return Library(file, preprocessed, compiler, kernels)


def _preprocess(
    compiler: toolchain.Toolchain, file: Path, include: Sequence[str | Path], defines: Sequence[str], version: int
) -> str:
    macros = ("__METAL__=1", f"__METAL_VERSION__={version}", "__METAL_MACOS__=1", *defines)
    header = toolchain.RUNTIME / "metal" / "macros.hpp"
    stubs = toolchain.stubs("metal", dict.fromkeys(_STUBS.split(), f'#include "{header}"\n'))
    return compiler.preprocess(file, stubs=stubs, include=include, defines=macros)


class Library:
    """The kernels of one file."""

    def __init__(
        self, path: Path, preprocessed: str, compiler: toolchain.Toolchain, together: Iterable[str] | None
    ) -> None:
        self.path = path
        self.preprocessed = preprocessed
        self.source = msl.rewrite(preprocessed)
        self._compiler = compiler
        self._libraries: dict[tuple[tuple[str, ...], bool], Compiled] = {}
        self._together = tuple(together or ())
        for name in self._together:
            self._entry(name)

    @property
    def kernels(self) -> tuple[str, ...]:
        """The names of all kernels, [[host_name]]s where they have them."""
        return tuple(self.source.entries)

    def kernel(self, name: str, constants: Mapping[str | int, float] | None = None) -> "Kernel":
        """The kernel of this name, compiled, with function constants by index or name.

        Raises:
            ArgumentError: there is no such kernel or constant, or one that the kernel uses is not given.
            SourceError: it does not compile, or has parameters that are not simulated.
        """
        entry = self._entry(name)
        given = self._given(constants or {})
        compiled = self._compiled(name)
        if self.source.constants.keys() - given.keys():
            used = required(compiled.library, compiled.entry(name))
            for index, constant in self.source.constants.items():
                if index not in given and label(constant) in used:
                    raise ArgumentError(f"{name}: function constant {constant} ({index}) is used, but not given")
        return Kernel(self, entry, compiled, given)

    def check(self, kernels: Iterable[str] | None = None) -> list[Finding]:
        """What Apple's compiler would refuse, in all kernels or these: lint(), address_spaces() and recursion.

        All are those that can be simulated: without textures and the like.

        Raises:
            SourceError: it does not compile, for a reason that is none of these.
        """
        names = tuple(kernels or self._simulated)
        unit = generate(self.source, [self._entry(name) for name in names])
        found = [*self.lint(), *self.source.dropped, *self.address_spaces(names)]
        try:
            return [*found, *checks.recursion(unit, FLAGS)]
        except SourceError:
            if found:  # the same mistakes in clang's words
                return found
            raise

    def lint(self) -> list[Finding]:
        """Lambdas, double, pointers without an address space and other things that clang takes and MSL does not."""
        return lint(self.preprocessed, str(toolchain.RUNTIME))

    def address_spaces(self, kernels: Iterable[str] | None = None) -> list[Finding]:
        """Pointers and types that are mixed up, by a pass as OpenCL C++."""
        return checks.address_spaces(self.preprocessed, kernels)

    def _entry(self, name: str) -> msl.Entry:
        if name not in self.source.entries:
            known = ", ".join(list(self.kernels)[:20]) or "none"
            raise ArgumentError(f"{self.path.name} has no kernel {name!r}; it has {known}")
        entry = self.source.entries[name]
        if entry.refusal:
            raise SourceError(entry.refusal)
        return entry

    @property
    def _simulated(self) -> tuple[str, ...]:
        return tuple(name for name, entry in self.source.entries.items() if not entry.refusal)

    def _given(self, given: Mapping[str | int, float]) -> dict[int, float]:
        by_name = {name: index for index, name in self.source.constants.items()}
        indices = {}
        for key, value in given.items():
            index = by_name.get(key) if isinstance(key, str) else key
            if index not in self.source.constants:
                raise ArgumentError(f"{self.path.name} has no function constant {key!r}; it has {by_name}")
            if not isinstance(value, (int, float, np.generic)):
                raise ArgumentError(f"function constant {key!r} is a number, not {value!r}")
            indices[index] = float(value)
        return indices

    def _compiled(self, name: str) -> "Compiled":
        names = self._simulated if len(self._simulated) <= WHOLE else (name,)
        if name in self._together:
            names = self._together
        return self._compile(names)

    def _compile(self, names: tuple[str, ...], *, audited: bool = False) -> "Compiled":
        if (names, audited) not in self._libraries:
            text = generate(self.source, [self.source.entries[name] for name in names])
            recording = functools.partial(self._compiler.compile, through=record if self.source.constants else None)
            compile_ = functools.partial(build_audited, self._compiler) if audited else recording
            flags = FLAGS if audited else (*FLAGS, LAX)
            path = compile_(text, flags, suffix=".so", objects=[self._compiler.engine()])
            self._libraries[names, audited] = Compiled(path, names)
        return self._libraries[names, audited]


class Compiled:
    """A shared library with entries for some kernels of a file."""

    def __init__(self, path: Path, names: tuple[str, ...]) -> None:
        self.path = path
        self.names = names
        self.library = toolchain.load(path)
        self.lock = threading.Lock()  # of its function constants
        self.library.ksim_set_constant.argtypes = [ctypes.c_int, ctypes.c_double]

    def entry(self, name: str) -> str:
        return f"ksim_entry_{self.names.index(name)}"

    def set_constants(self, constants: Mapping[int, float]) -> None:
        self.library.ksim_reset_constants()
        for index, value in constants.items():
            if not self.library.ksim_set_constant(index, value):
                raise ArgumentError(f"function constant {index} cannot hold {value:g}")
        self.library.ksim_derive_constants()


@dataclass(frozen=True)
class Kernel:
    """A compiled kernel; call it to run it."""

    library: Library
    entry: msl.Entry
    compiled: Compiled
    constants: dict[int, float]
    around: Callable[[arguments.Bindings], AbstractContextManager[object]] = nullcontext  # a launch: the audit's

    @property
    def name(self) -> str:
        return self.entry.name

    @functools.cached_property
    def parameters(self) -> list[Described]:
        """Its buffers: name, index, type and constness."""
        described = arguments.describe(self.compiled.library, self.compiled.names.index(self.name))
        return [
            Described(p.name, p.index, p.const, *kind, optional=bool(p.condition))
            for p, kind in zip(self.entry.parameters, described, strict=True)
            if p.kind == "buffer"
        ]

    def __call__(
        self,
        args: Mapping[str | int, Any] | Sequence[Any],
        *,
        grid: int | Sequence[int] | None = None,
        threadgroups: int | Sequence[int] | None = None,
        threadgroup: int | Sequence[int],
        threadgroup_memory: int | Mapping[int, int] | Sequence[int] = (),
        **options: Any,
    ) -> None:
        """Runs the kernel; arrays that it writes hold the results.

        Args:
            args: arrays and scalars in the order of [[buffer(n)]], or by index or name. Arrays are C-contiguous and
                of the parameter's element type, unsigned integers of its size, or, for structs and bytes, anything;
                None is a buffer that is not bound.
            grid: threads in x, y, z, as dispatchThreads has it: the last threadgroups may be smaller.
            threadgroups: threadgroups in x, y, z instead, as dispatchThreadgroups has it.
            threadgroup: threads of a threadgroup in x, y, z.
            threadgroup_memory: bytes of [[threadgroup(n)]], by n or in order.
            options: see Options.

        Raises:
            ArgumentError: an argument is missing, superfluous or of the wrong type; the message names it.
            KernelFault: the kernel did what it must not do. TimeLimitExceeded: it ran too long.
        """
        launched = self._grid(grid, threadgroups, threadgroup)
        chosen = Options(**arguments.known_options(options))
        with arguments.bind(self.parameters, args, self.name, chosen.guard) as bound:
            with self.compiled.lock, self.around(bound):
                self.compiled.set_constants(self.constants)
                run(
                    self.compiled.library,
                    self.compiled.path,
                    entry=self.compiled.entry(self.name),
                    kernel=self.name,
                    pointers=bound.pointers(arguments.MAX_BUFFERS),
                    grid=launched,
                    dynamic=self._dynamic(threadgroup_memory),
                    shared_limit=THREADGROUP_MEMORY,
                    options=chosen,
                    bound=bound.guarded,
                )
            bound.finish()

    def check(self, args: Mapping[str | int, Any] | Sequence[Any], **launch: Any) -> None:
        """Runs the kernel in three schedules, which must give the same bits, then leaves the results in args.

        Raises:
            ScheduleError: they differ, and so would a GPU's from run to run. Otherwise what a call raises.
        """
        checks.schedules(self, args, launch)

    def audit(
        self,
        args: Mapping[str | int, Any] | Sequence[Any],
        *,
        compulsory: Compulsory | None = None,
        **launch: Any,
    ) -> Audit:
        """Runs the kernel once and counts what it asks of memory; arrays that it writes hold the results.

        Args:
            args: as for a call.
            compulsory: bytes that must be moved, by argument name; "all": each array as a whole.
            launch: as for a call.
        """
        compiled = self.library._compile(self.compiled.names, audited=True)  # noqa: SLF001 - of this module
        return launched(
            lambda around: replace(self, compiled=compiled, around=around)(args, **launch),
            compiled.library,
            compiled.path,
            compulsory,
            banks=False,
        )

    def _grid(self, grid: Any, threadgroups: Any, threadgroup: Any) -> Grid:
        if (grid is None) == (threadgroups is None):
            raise ArgumentError("give either grid, in threads, or threadgroups")
        group = three(threadgroup, "threadgroup")
        size = group[0] * group[1] * group[2]
        if self.entry.max_threads and size > self.entry.max_threads:
            raise ArgumentError(
                f"threadgroup has {size} threads; {self.name} says [[max_total_threads_per_threadgroup"
                f"({self.entry.max_threads})]]"
            )
        if grid is None:
            return Grid(three(threadgroups, "threadgroups"), group)
        threads = three(grid, "grid")
        x, y, z = (-(-all_ // one) for all_, one in zip(threads, group, strict=True))
        return Grid((x, y, z), group, threads)

    def _dynamic(self, given: int | Mapping[int, int] | Sequence[int]) -> list[int]:
        sizes = (
            dict(given) if isinstance(given, Mapping) else dict(enumerate([given] if isinstance(given, int) else given))
        )
        slots = {p.index: p.name for p in self.entry.parameters if p.kind == "threadgroup"}
        for index in slots.keys() ^ sizes.keys():
            what = f"needs bytes for [[threadgroup({index})]]" if index in slots else f"has no [[threadgroup({index})]]"
            raise ArgumentError(f"threadgroup_memory: {self.name} {what}")
        return [int(sizes.get(index, 0)) for index in range(SLOTS)]


def generate(source: msl.Source, entries: Sequence[msl.Entry]) -> str:
    """The translation unit: the standard library, the rewritten source, an entry for each kernel."""
    lines = [f"#define KSIM_SWIZZLES {msl.swizzles(source.body)}", '#include "metal/metal.hpp"', source.body]
    lines.append('# 1 "kernelsim entries"')
    for number, entry in enumerate(entries):
        lines.append(_entry(number, entry))
    lines.append('extern "C" {')
    cases, resets = [], []
    for index, name in source.constants.items():
        defined = _prefixed("ksim_defined_", name)
        cases.append(f"case {index}: {defined} = true; return ksim::assign(::{name}, value);")
        resets.append(f"::{name} = {{}}; {defined} = false;")
    derived = " ".join(f"{_prefixed('ksim_derive_', name)}();" for name in source.derived)
    lines.append(
        f"int ksim_set_constant(int index, double value) {{ switch (index) {{ {' '.join(cases)} }} return false; }}"
    )
    lines.append(f"void ksim_reset_constants() {{ {' '.join(resets)} }}")
    lines.append(f"void ksim_derive_constants() {{ {derived} }}")
    lines.append("}")
    return "\n".join(lines)


def _prefixed(prefix: str, name: str) -> str:
    """::n::ksim_b of n::b."""
    space, colons, plain = f"::{name}".rpartition("::")
    return f"{space}{colons}{prefix}{plain}"


def _entry(number: int, entry: msl.Entry) -> str:
    call, described = [], []
    checks = [f'asm volatile("" : : "m"(::{name}));' for name in entry.conditions]  # which are used
    for n, parameter in enumerate(entry.parameters):
        kind = f"S::arg<{n}>"
        if parameter.kind in ("buffer", "threadgroup"):
            wrong = f"{entry.name}: {parameter.name} is a pointer or a reference, or has another attribute"
            checks.append(f'static_assert(__is_pointer({kind}) || __is_reference({kind}), "{wrong}");')
        if parameter.kind == "buffer":
            call.append(f"ksim::buffer<{kind}>(ksim_arguments, {parameter.index})")
        elif parameter.kind == "threadgroup":
            call.append(f"ksim::threadgroup<{kind}>({parameter.index})")
        else:
            call.append(f"ksim::builtin<{kind}>(ksim::{parameter.kind})")
        described.append(f"ksim::describe<{kind}>()")
    signature = f"using S = ksim::signature<decltype({entry.expression})>;"
    return (
        f'extern "C" void ksim_entry_{number}(void* ksim_arguments) {{ {signature} '
        f"{' '.join(checks)} {entry.expression}({', '.join(call)}); }}\n"
        f'extern "C" const ksim::Description* ksim_parameters_{number}() {{ {signature} '
        f"static const ksim::Description all[] = {{{', '.join([*described, '{}'])}}}; return all; }}"
    )
