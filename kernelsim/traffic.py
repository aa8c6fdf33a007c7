# SPDX-License-Identifier: MIT
"""What the traffic audit has counted: of a buffer, of a line of the source, of a kernel; and its report."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kernelsim.errors import ArgumentError

SHARED_MEMORY, OTHER_MEMORY = "shared memory", "other memory"  # the names of what are no arguments


@dataclass(frozen=True)
class Traffic:
    """Loads or stores of one buffer, or of one line of the source.

    Attributes:
        requests: of warps. accesses: of lanes.
        bytes: of all accesses.
        unique: the same, but what lanes of one request have in common is counted once.
        distinct: different bytes that were touched, over the whole grid; for device memory.
        sectors: touched, the sum over requests. least_sectors: had the same bytes lain side by side, aligned.
        lines: of 128 bytes touched.
        wavefronts: passes over the banks of shared memory. least_wavefronts: without conflicts. None where nobody knows
            the banks, as of Apple's GPUs.
        widths: lanes' accesses by their bytes.
    """

    requests: int = 0
    accesses: int = 0
    bytes: int = 0
    unique: int = 0
    distinct: int = 0
    sectors: int = 0
    least_sectors: int = 0
    lines: int = 0
    wavefronts: int | None = 0
    least_wavefronts: int | None = 0
    widths: dict[int, int] = field(default_factory=dict)

    @property
    def sector_efficiency(self) -> float:
        """The least possible sectors over those touched: 1.0 is coalesced."""
        return self.least_sectors / self.sectors if self.sectors else 1.0

    @property
    def sectors_per_request(self) -> float:
        return self.sectors / self.requests if self.requests else 0.0

    @property
    def conflicts(self) -> int:
        """Passes over the banks of shared memory beyond the least.

        Raises:
            ArgumentError: the device's banks are not known.
        """
        if self.wavefronts is None or self.least_wavefronts is None:
            raise ArgumentError("conflicts: the banks of threadgroup memory are not documented for Apple's GPUs")
        return self.wavefronts - self.least_wavefronts


@dataclass(frozen=True)
class Buffer:
    """An array of the caller's, or shared memory.

    Attributes:
        nbytes: its size, 0 for shared memory and for memory without a name.
        compulsory: bytes that the kernel must move, where the caller stated them.
        first_unread: offset of the first byte that was never loaded, nbytes if there is none; first_unwritten alike.
    """

    name: str
    nbytes: int
    loads: Traffic
    stores: Traffic
    compulsory: int | None = None
    first_unread: int = 0
    first_unwritten: int = 0

    @property
    def read_ratio(self) -> float:
        """Bytes that lanes load over the compulsory bytes; 2.0: everything is read twice, by whatever lane."""
        return self.loads.bytes / self._compulsory()

    @property
    def write_ratio(self) -> float:
        """Bytes that lanes store over the compulsory bytes."""
        return self.stores.bytes / self._compulsory()

    @property
    def sector_efficiency(self) -> float:
        """The least possible sectors of loads and stores over those touched."""
        touched = self.loads.sectors + self.stores.sectors
        return (self.loads.least_sectors + self.stores.least_sectors) / touched if touched else 1.0

    @property
    def conflicts(self) -> int:
        """Passes over the banks of shared memory beyond the least, of loads and stores."""
        return self.loads.conflicts + self.stores.conflicts

    def _compulsory(self) -> int:
        if not self.compulsory:
            raise ArgumentError(f"compulsory: no bytes were stated for {self.name!r}")
        return self.compulsory


@dataclass(frozen=True)
class Site:
    """The loads or stores of one buffer, of one width, in one line of the source.

    Attributes:
        line: None, with file None, where the library does not tell; then pc is the offset in it.
        share: of all bytes that are loaded from and stored to device memory, or to shared memory.
    """

    file: str | None
    line: int | None
    pc: int
    buffer: str
    write: bool
    width: int
    traffic: Traffic
    share: float

    @property
    def place(self) -> str:
        return f"{Path(self.file).name}:{self.line}" if self.file else f"pc {self.pc:#x}"


@dataclass
class Audit:
    """What was counted of one kernel, or of all between the beginning and the end of a recording.

    Attributes:
        buffers: by name; audit["w"] is audit.buffers["w"].
        shared: shared, or threadgroup, memory.
        other: device memory that the caller did not name.
        sites: lines of the source, the one that moves most bytes first.
        kernels: the same for each kernel, by name.
    """

    name: str = ""
    buffers: dict[str, Buffer] = field(default_factory=dict)
    shared: Buffer = field(default_factory=lambda: Buffer(SHARED_MEMORY, 0, Traffic(), Traffic()))
    other: Buffer = field(default_factory=lambda: Buffer(OTHER_MEMORY, 0, Traffic(), Traffic()))
    sites: list[Site] = field(default_factory=list)
    kernels: dict[str, "Audit"] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Buffer:
        if name not in self.buffers:
            raise ArgumentError(f"there is no buffer {name!r}; there are {', '.join(self.buffers) or 'none'}")
        return self.buffers[name]

    def to_dict(self) -> dict[str, Any]:
        """All of it as what JSON can hold."""
        plain = dataclasses.asdict(self)
        for one in (*plain["buffers"].values(), plain["shared"], plain["other"]):
            for traffic in (one["loads"], one["stores"]):
                traffic["widths"] = {str(width): count for width, count in traffic["widths"].items()}
        return plain

    def table(self, lines: int = 12) -> str:
        """Buffers, then the `lines` lines of the source that move most, as aligned text."""
        return _table(self, lines)


def _table(audit: Audit, lines: int) -> str:
    rows: list[tuple[str, ...]] = [
        ("buffer", "access", "bytes", "distinct", "compulsory", "ratio", "bytes per lane", "requests", *_EACH)
    ]
    notes = []
    for buffer in (*audit.buffers.values(), audit.shared, audit.other):
        for access, traffic in (("load", buffer.loads), ("store", buffer.stores)):
            if not traffic.requests:
                continue
            stated = buffer.compulsory or 0
            rows.append(
                (
                    *(buffer.name, access, str(traffic.bytes), str(traffic.distinct or ""), str(stated or "")),
                    f"{traffic.bytes / stated:.2f}" if stated else "",
                    ", ".join(map(str, traffic.widths)),
                    str(traffic.requests),
                    *_each(traffic, buffer is audit.shared),
                )
            )
        unread = buffer.nbytes - buffer.loads.distinct
        if buffer.compulsory and buffer.loads.requests and unread:
            notes.append(
                f"{buffer.name}: {unread} of {buffer.nbytes} bytes are never loaded, the first at {buffer.first_unread}"
            )
    sites: list[tuple[str, ...]] = [("line", "buffer", "access", "share", "bytes per lane", "requests", *_EACH)]
    sites += [
        (
            *(site.place, site.buffer, "store" if site.write else "load", f"{100 * site.share:.1f} %"),
            *(str(site.width), str(site.traffic.requests)),
            *_each(site.traffic, site.buffer == SHARED_MEMORY),
        )
        for site in audit.sites[:lines]
    ]
    return "\n".join([audit.name, *_aligned(rows), *notes, "", *_aligned(sites)])


_EACH = ("sectors each", "efficiency", "conflicts each")  # each request


def _each(traffic: Traffic, shared: bool) -> tuple[str, str, str]:
    if shared:
        return "", "", "" if traffic.wavefronts is None else f"{traffic.conflicts / traffic.requests:.2f}"
    return f"{traffic.sectors_per_request:.2f}", f"{100 * traffic.sector_efficiency:.1f} %", ""


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell, those of numbers on the right; no empty ones."""
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    left = [any(cell[:1].isalpha() for cell in column[1:]) for column in columns]
    return [
        "  ".join(
            cell.ljust(w) if is_left else cell.rjust(w) for cell, w, is_left in zip(row, widths, left, strict=True)
        ).rstrip()
        for row in zip(*columns, strict=True)
    ]
