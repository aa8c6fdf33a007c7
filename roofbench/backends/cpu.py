# SPDX-License-Identifier: MIT
"""C kernels on the cores of the host: csrc/*.c through cffi."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

from roofbench import devices, sources
from roofbench.backends.base import Backend, Call, Claim, Launch, Unsupported
from roofbench.devices import Device
from roofbench.formats import Array
from roofbench.numerics import Limit
from roofbench.op import TYPES, dtype_of
from roofbench.ops import OPS
from roofbench.ops.probe import KINDS, STREAMS
from roofbench.telemetry import CpuTelemetry, Silent, Telemetry
from roofbench.timing import Clock, WallClock

# Longest chains of additions, as the files declare them.
_CHAIN: dict[str, Callable[[Mapping[str, int]], int]] = {
    "gemv": lambda d: 1024 // 64 + 8 + -(-d["K"] // 1024),
    "gemv_moe": lambda d: 1024 // 64 + 8 + -(-d["K"] // 1024),
    "gemm": lambda d: -(-d["K"] // 16) + 10,
}


class Library(NamedTuple):
    """Compiled launchers: cffi's ``lib`` and ``ffi``, and the file they came from, None for our own."""

    lib: Any
    ffi: Any
    source: Path | None = None


class Cpu(Backend):
    """Args: source: a C file of the user's own that defines some of the launchers of cpu_kernels.h."""

    name = "cpu"
    heading = "CPU cores"

    def __init__(self, source: Path | None = None) -> None:
        self._source = source

    @cached_property
    def library(self) -> Library:
        """Raises ImportError where our own was not built, ValueError where the user's does not compile."""
        if self._source is None:
            from roofbench import _cpu  # type: ignore[attr-defined]

            return Library(_cpu.lib, _cpu.ffi)
        return load(self._source)

    def missing(self) -> str | None:
        try:
            self.library  # noqa: B018
        except ImportError as error:
            hint = f"{sources.compiler_hint()}; pip install --force-reinstall roofbench"
            return f"the C library does not load ({error}): {hint}"
        changed = _changed() if self._source is None else None
        return f"csrc/{changed} has changed since the library was built: pip install -e ." if changed else None

    def claim(self, op: str, format: str) -> Claim | str:
        if not hasattr(self.library.lib, _launcher(op, format)):
            return f"{self._source} does not define {_launcher(op, format)}"
        source = self._source or sources.find(OPS[op].stem(format), ".c")
        if self._source:  # it declares nothing: K additions, one after the other, are the worst it may do
            return Claim(lambda dims: Limit(dims.get("K", 0)), source)
        return Claim(lambda dims: Limit(_CHAIN[op](dims) if op in _CHAIN else 0), source)

    def bind(self, op: str, format: str, dims: Mapping[str, int], arrays: Mapping[str, Array]) -> Launch:
        name = f"rb_probe_{KINDS[dims['kind']]}" if op == "probe" else _launcher(op, format)
        lib, ffi, _ = self.library if op != "probe" else Cpu().library  # a user's file has no probes
        function = getattr(lib, name, None)
        if function is None:
            raise ValueError(f"{op} {format}: {self._source} does not define {name}")
        tables: list[Any] = []  # of pointers; they live as long as the call
        sizes = {"threads": 0, "variant": 0, "itemsize": dtype_of(TYPES[op][format].x).itemsize, **dims}
        names = _prototypes()[name]
        values = [_pointer(ffi, tables, kind, arrays[arg]) if "*" in kind else sizes[arg] for kind, arg in names]

        def call() -> None:
            code = function(*values)
            if code:
                raise _refusal(name, names, code, values)

        launch = Launch(call, arrays)
        launch.tables = tables  # type: ignore[attr-defined]
        return launch

    def last_level_cache(self, device: Device | None) -> int:
        return devices.last_level_cache()

    def clock(self) -> Clock:
        return WallClock()

    def telemetry(self) -> Telemetry:
        ours = Cpu().library
        out = ours.ffi.new("double *")
        if ours.lib.rb_probe_clock(1, out):
            return Silent()  # a processor whose clock it cannot count
        clock = WallClock()
        return CpuTelemetry(
            lambda n: ours.lib.rb_probe_clock(n // 2, out), lambda call: clock.run([call]), hybrid=devices.hybrid()
        )

    def probe_variants(self, kind: str, format: str) -> dict[str, dict[str, int]]:
        """Every variant of probe.c, in f32, on all threads; streams also on half of them, which may be faster."""
        if format != "f32":
            return {}
        ours = Cpu().library
        found: dict[str, dict[str, int]] = {}
        half = self.threads() // 2
        while (name := ours.lib.rb_probe_variant(kind.encode(), len(found))) != ours.ffi.NULL:
            found[ours.ffi.string(name).decode()] = {"variant": len(found)}
        if kind in STREAMS and half:
            found |= {f"{name}, {half} threads": {**dims, "threads": half} for name, dims in found.items()}
        return found

    def floor(self) -> Call:
        launch = Cpu().library.lib.rb_probe_launch
        return lambda: launch(0)

    def threads(self) -> int:
        """How many a launch uses."""
        return int(Cpu().library.lib.rb_threads())

    def isa(self) -> str:
        """Level of x86-64, or architecture, whose vectors it uses: ``x86-64-v4``."""
        ours = Cpu().library
        name: bytes = ours.ffi.string(ours.lib.rb_isa())
        return name.decode()

    def compiler(self) -> str:
        """Name and version of what our library was built with: ``GCC 12.2.0``."""
        ours = Cpu().library
        name: bytes = ours.ffi.string(ours.lib.rb_compiler)
        return name.decode()


@cache
def _built_from() -> dict[str, str]:
    """File name -> sha256 of what our library was built from; empty where it is too old to say."""
    ours = Cpu().library
    if not hasattr(ours.lib, "rb_built_from"):
        return {}
    pairs: bytes = ours.ffi.string(ours.lib.rb_built_from)
    return dict(pair.split(":") for pair in pairs.decode().split())


@cache
def _files() -> dict[str, str]:
    found: dict[str, str] = sources.build_ffi().hashes()
    return found


def _changed() -> str | None:
    """The first file of csrc that our library was not built from as it is now."""
    built, now = _built_from(), _files()
    return next((name for name in sorted({*built, *now}) if built.get(name) != now.get(name)), None)


@cache
def _prototypes() -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = sources.build_ffi().prototypes()
    return found


def load(source: Path) -> Library:
    """A file that defines some launchers, compiled and loaded through cffi's ABI mode. Raises ValueError."""
    import cffi

    ffi = cffi.FFI()
    ffi.cdef(sources.build_ffi().declarations())
    with tempfile.TemporaryDirectory(prefix="roofbench-") as folder:  # a loaded library needs its file no more
        path = Path(folder) / f"{source.stem}.so"
        sources.compile_c(source, path)
        return Library(ffi.dlopen(str(path)), ffi, source)


def _launcher(op: str, format: str) -> str:
    """Formats that only move bits share one launcher, told apart by itemsize."""
    if op == "probe":
        return "rb_probe_read"
    types = TYPES[op][format]
    moved = types.acc is None and types.scale is None
    return f"rb_{op}" if moved else f"rb_{op}_{format}"


def _pointer(ffi: Any, tables: list[Any], kind: str, array: Array) -> Any:
    if kind != "void *const *":
        return ffi.cast(kind, array.ctypes.data)
    table = ffi.new("void *[]", [ffi.cast("void *", layer.ctypes.data) for layer in array])
    tables.append(table)
    return table


def _refusal(name: str, names: list[tuple[str, str]], code: int, values: list[Any]) -> Exception:
    if code == 1:
        return MemoryError(f"{name}: out of memory")
    if code == 2:
        return Unsupported(f"{name}: this processor cannot run it")
    if not -len(names) <= code < 0:
        return RuntimeError(f"{name} returned {code}, which means nothing")
    kind, argument = names[-code - 1]
    value = "" if "*" in kind else f" = {values[-code - 1]}"
    return ValueError(f"{name} refuses {argument}{value}")
