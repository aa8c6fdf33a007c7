# SPDX-License-Identifier: MIT
"""What a kernel asks of memory, counted: bytes against those it must move, widths, coalescing, bank conflicts.

    audit = library.kernel("gemv").audit(args, threadgroups=64, threadgroup=128, compulsory={"w": w.nbytes})
    assert audit["w"].read_ratio == 1.0              # reads w once
    assert set(audit["w"].loads.widths) == {16}      # 16 bytes per lane and load
    assert audit["w"].sector_efficiency == 1.0       # coalesced
    print(audit.table())

A request is what the lanes of a warp ask for with one instruction. Its sectors are the aligned 32 bytes it touches, the
least that a GPU's caches fetch; its wavefronts are the passes over shared memory's banks that it takes.
"""

import ctypes
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from kernelsim import instrument, symbols
from kernelsim.arguments import Bindings
from kernelsim.errors import ArgumentError
from kernelsim.toolchain import Toolchain
from kernelsim.traffic import OTHER_MEMORY, SHARED_MEMORY, Audit, Buffer, Site, Traffic

SHARED, OTHER = -1, -2  # kShared and kOther of audit_memory.hpp

FLAGS = (
    "-DKSIM_AUDIT",  # vectors report their copies with their whole width
    "-fsanitize-coverage=func,trace-loads,trace-stores",
    # A loop over scalars stays one, where the CPU could load several at once.
    "-fno-vectorize",
    "-fno-slp-vectorize",
    # Nor do loops and runs of stores become calls of these, of which no callback tells.
    *(f"-fno-builtin-{name}" for name in ("memcpy", "memmove", "memset", "memcmp", "bcmp")),
    # The return address of a callback tells where it was called: it is not jumped to at the end of a function.
    "-fno-optimize-sibling-calls",
    # Copies of an access are different instructions, at which lanes with different trip counts do not meet.
    "-fno-unroll-loops",
)


def build(compiler: Toolchain, source: str, flags: Sequence[str], *, suffix: str, objects: Sequence[Path] = ()) -> Path:
    """Toolchain.compile() for the audit; objects hold the engine."""
    return compiler.compile(source, (*flags, *FLAGS), suffix=suffix, objects=objects, through=instrument.instrument)


_SUMS = (
    "requests",
    "accesses",
    "bytes",
    "unique",
    "sectors",
    "least_sectors",
    "lines",
    "wavefronts",
    "least_wavefronts",
)


class _Sums(ctypes.Structure):  # Sums of audit.cpp
    _fields_ = [(name, ctypes.c_uint64) for name in _SUMS]


class _Row(ctypes.Structure):  # Row of audit.cpp
    _fields_ = [
        ("pc", ctypes.c_uint64),
        ("kernel", ctypes.c_int32),
        ("buffer", ctypes.c_int32),
        ("write", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("sums", _Sums),
    ]


class _Count(ctypes.Structure):  # Touched::Count of audit_memory.hpp
    _fields_ = [
        ("kernel", ctypes.c_int32),
        ("buffer", ctypes.c_int32),
        ("loaded", ctypes.c_uint64),
        ("stored", ctypes.c_uint64),
        ("first_unread", ctypes.c_uint64),
        ("first_unwritten", ctypes.c_uint64),
    ]


class _Range(ctypes.Structure):  # Range of audit_memory.hpp
    _fields_ = [("begin", ctypes.c_uint64), ("end", ctypes.c_uint64)]


Compulsory = Mapping[str, int] | Literal["all"]


@contextmanager
def record(
    library: Any, buffers: Mapping[str, Any] | None = None, compulsory: Compulsory | None = None
) -> Iterator[Audit]:
    """Counts what the kernels of an audited library do while the `with` block runs; then the Audit is filled.

        with kernelsim.audit.record(library, buffers={"w": w, "y": y}, compulsory={"w": w.nbytes}) as audit:
            library.gemv(...)

    Args:
        library: what kernelsim.cuda.build(..., audit=True) returned, or its path, or a ctypes.CDLL of it.
        buffers: arrays by name: anything with __array_interface__ or data_ptr(), or (address, bytes). All other device
            memory counts as audit.other.
        compulsory: bytes that must be moved, by the name of the buffer; "all": each buffer as a whole.

    Raises:
        ArgumentError: library was not built for the audit, or a buffer is none.
    """
    path = Path(getattr(library, "path", None) or getattr(library, "_name", None) or library)
    ranges = {name: extent(name, buffer) for name, buffer in (buffers or {}).items()}
    with recording(ctypes.CDLL(str(path)), path, ranges, compulsory, others=True, banks=True) as audit:
        yield audit


@contextmanager
def recording(
    library: ctypes.CDLL,
    path: Path,
    ranges: Mapping[str, tuple[int, int]],
    compulsory: Compulsory | None,
    *,
    others: bool,
    banks: bool,
) -> Iterator[Audit]:
    """record() for launchers.

    Args:
        ranges: (address, bytes) by name. others: memory outside of them counts as well.
        banks: those of shared memory are known, as they are of NVIDIA's GPUs.
    """
    if not hasattr(library, instrument.MARK):
        raise ArgumentError(f"library: {path} was not built for the audit")
    stated = {name: size for name, (_, size) in ranges.items()} if compulsory == "all" else dict(compulsory or {})
    for name in stated:
        if name not in ranges:
            raise ArgumentError(f"compulsory: there is no buffer {name!r}; there are {', '.join(ranges) or 'none'}")
    library.ksim_audit_begin.restype = ctypes.c_bool
    audit = Audit()
    table = (_Range * len(ranges))(*(_Range(address, address + size) for address, size in ranges.values()))
    mark = ctypes.byref(ctypes.c_char.in_dll(library, instrument.MARK))
    if not library.ksim_audit_begin(mark, table, len(ranges), others):
        raise ArgumentError(f"library: {path} is being audited already")
    try:
        yield audit
        rows, counts = _fetch(library, path, banks=banks)
        _fill(audit, rows, counts, {name: size for name, (_, size) in ranges.items()}, stated)
    finally:
        library.ksim_audit_end()


Around = Callable[[Bindings], AbstractContextManager[object]]


def launched(
    launch: Callable[[Around], None], library: ctypes.CDLL, path: Path, compulsory: Compulsory | None, *, banks: bool
) -> Audit:
    """The Audit of one launch, which enters what it is given when its arguments are in their places."""
    found: list[Audit] = []

    @contextmanager
    def around(bound: Bindings) -> Iterator[None]:
        with recording(library, path, bound.extents, compulsory, others=False, banks=banks) as audit:
            yield
        found.append(audit)

    launch(around)
    return found[0]


def extent(name: str, buffer: Any) -> tuple[int, int]:
    """Address and bytes of an array.

    Raises:
        ArgumentError: it is none, or not contiguous.
    """
    if isinstance(buffer, tuple):
        return int(buffer[0]), int(buffer[1])
    if hasattr(buffer, "__array_interface__"):
        if not buffer.flags.c_contiguous:
            raise ArgumentError(f"buffers: {name} is not C-contiguous")
        return int(buffer.__array_interface__["data"][0]), int(buffer.nbytes)
    if hasattr(buffer, "data_ptr"):
        return int(buffer.data_ptr()), int(buffer.numel() * buffer.element_size())
    raise ArgumentError(f"buffers: {name} takes an array or (address, bytes), not {buffer!r}")


@dataclass(frozen=True)
class _Line:
    """A row as the library reports it, with the place in the source."""

    kernel: str
    buffer: int
    write: bool
    width: int
    file: str | None
    line: int | None
    pc: int
    sums: dict[str, int]


def _fetch(
    library: ctypes.CDLL, path: Path, *, banks: bool
) -> tuple[list[_Line], dict[tuple[str | None, int], _Count]]:
    rows, counts, n = ctypes.POINTER(_Row)(), ctypes.POINTER(_Count)(), ctypes.c_int64()
    library.ksim_audit_read.restype = ctypes.c_int64
    library.ksim_audit_kernel.restype = ctypes.c_char_p
    total = library.ksim_audit_read(ctypes.byref(rows), ctypes.byref(counts), ctypes.byref(n))

    def kernel(number: int) -> str:
        return str(library.ksim_audit_kernel(number).decode())

    def line(row: _Row) -> _Line:
        # The return address of a call belongs to the instruction behind it.
        file, number = symbols.place(path, row.pc - 1) or (None, None)
        sums = {name: int(getattr(row.sums, name)) for name in _SUMS if banks or "wavefronts" not in name}
        return _Line(kernel(row.kernel), row.buffer, bool(row.write), row.width, file, number, row.pc, sums)

    by_buffer = {
        (kernel(c.kernel) if c.kernel >= 0 else None, c.buffer): _Count.from_buffer_copy(c) for c in counts[: n.value]
    }
    return [line(row) for row in rows[:total]], by_buffer


def _fill(
    audit: Audit,
    rows: list[_Line],
    counts: Mapping[tuple[str | None, int], _Count],
    sizes: Mapping[str, int],
    compulsory: Mapping[str, int],
) -> None:
    kernels = list(dict.fromkeys(row.kernel for row in rows))
    _summarise(audit, rows, lambda buffer: counts.get((None, buffer)), sizes, compulsory)
    audit.name = ", ".join(kernels)
    for name in kernels:
        one = Audit(name)
        mine = [row for row in rows if row.kernel == name]
        _summarise(one, mine, lambda buffer, name=name: counts.get((name, buffer)), sizes, compulsory)  # type: ignore[misc]
        audit.kernels[name] = one


def _summarise(
    audit: Audit,
    rows: list[_Line],
    count: Callable[[int], _Count | None],
    sizes: Mapping[str, int],
    compulsory: Mapping[str, int],
) -> None:
    names = {**dict(enumerate(sizes)), SHARED: SHARED_MEMORY, OTHER: OTHER_MEMORY}

    def buffer(number: int) -> Buffer:
        touched = count(number) or _Count()
        of_it = [row for row in rows if row.buffer == number]
        return Buffer(
            names[number],
            sizes.get(names[number], 0) if number >= 0 else 0,
            _add((row for row in of_it if not row.write), int(touched.loaded)),
            _add((row for row in of_it if row.write), int(touched.stored)),
            compulsory.get(names[number]) if number >= 0 else None,
            int(touched.first_unread),
            int(touched.first_unwritten),
        )

    audit.buffers = {name: buffer(number) for number, name in enumerate(sizes)}
    audit.shared, audit.other = buffer(SHARED), buffer(OTHER)
    totals = {
        shared: sum(row.sums["bytes"] for row in rows if (row.buffer == SHARED) == shared) for shared in (True, False)
    }
    sites: dict[tuple[Any, ...], list[_Line]] = {}
    for row in rows:
        where = (row.file, row.line) if row.file else (None, row.pc)
        sites.setdefault((*where, row.buffer, row.write, row.width), []).append(row)
    audit.sites = [
        Site(
            group[0].file,
            group[0].line,
            group[0].pc,
            names[group[0].buffer],
            group[0].write,
            group[0].width,
            _add(group, 0),
            sum(row.sums["bytes"] for row in group) / totals[group[0].buffer == SHARED],
        )
        for group in sites.values()
    ]
    audit.sites.sort(key=lambda site: (-site.share, site.file or "", site.line or 0))


def _add(rows: Iterable[_Line], distinct: int) -> Traffic:
    sums: Counter[str] = Counter()
    widths: Counter[int] = Counter()
    for row in rows:
        sums.update(row.sums)
        widths[row.width] += row.sums["accesses"]
    traffic = Traffic(**sums, distinct=distinct, widths=dict(sorted(widths.items(), reverse=True)))
    unknown = bool(sums) and "wavefronts" not in sums
    return replace(traffic, wavefronts=None, least_wavefronts=None) if unknown else traffic
