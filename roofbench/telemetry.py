# SPDX-License-Identifier: MIT
"""What the device does while it is measured: clocks, throttling, load. What cannot be read is None."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol


class Reading(NamedTuple):
    """One look at a device.

    Args:
        clock_mhz: of the units that compute.
        throttled: the device says that it holds itself back.
    """

    clock_mhz: float | None
    throttled: bool = False


class Telemetry(Protocol):
    """Reads a device. `nominal_mhz` is the clock it should hold, None if unknown."""

    nominal_mhz: float | None

    def read(self) -> Reading: ...


class Silent:
    """A device that says nothing."""

    nominal_mhz: float | None = None

    def read(self) -> Reading:
        return Reading(None)


class CpuTelemetry:
    """The clock of the core that runs this, measured: n dependent one-cycle operations take n cycles.

    Cores of virtual machines report a clock that they do not run at; this one cannot lie.

    Args:
        cycles: runs that many cycles of dependent operations.
        seconds: times a call.
        hybrid: cores differ, and which of them runs this is not known: no clock is expected of it.
    """

    CYCLES = 40_000

    def __init__(
        self,
        cycles: Callable[[int], object],
        seconds: Callable[[Callable[[], object]], float],
        *,
        hybrid: bool = False,
    ) -> None:
        self._cycles, self._seconds = cycles, seconds
        self.nominal_mhz: float | None = None if hybrid else max(self._mhz() for _ in range(50))

    def read(self) -> Reading:
        # The best of three: an interrupt can only make the core look slower.
        return Reading(max(self._mhz() for _ in range(3)))

    def _mhz(self) -> float:
        return self.CYCLES / self._seconds(lambda: self._cycles(self.CYCLES)) * 1e-6


def host_load() -> dict[str, float | str | None]:
    """What else the host is busy with, and how its power is managed."""
    return {
        "load_average_1min": os.getloadavg()[0],
        "steal_share": _steal_share(),
        "governor": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "transparent_hugepages": _chosen(_text("/sys/kernel/mm/transparent_hugepage/enabled")),
    }


def available_memory() -> int | None:
    """Bytes that can be allocated without swapping, of the machine and of the container; None where none says."""
    limit, used = (_text(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    contained = max(0, int(limit) - int(used)) if limit and used and limit.isdigit() and used.isdigit() else None
    free = _free_memory()
    return min((each for each in (contained, free) if each is not None), default=None)


def _free_memory() -> int | None:
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _text("/proc/meminfo") or "", re.MULTILINE)
    if found:
        return int(found[1]) * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 3 // 4
    except (ValueError, OSError):
        return None


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _chosen(options: str | None) -> str | None:
    """The bracketed word of a list like ``always [madvise] never``."""
    if options is None:
        return None
    return next((word[1:-1] for word in options.split() if word.startswith("[")), None)


def _steal_share() -> float | None:
    """Share of CPU time since boot that a hypervisor gave to others (proc(5), field 8 of ``cpu``)."""
    text = _text("/proc/stat")
    if text is None:
        return None
    ticks = [int(field) for field in text.splitlines()[0].split()[1:]]
    total = sum(ticks)
    return ticks[7] / total if len(ticks) > 7 and total else None
