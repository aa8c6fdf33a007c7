# SPDX-License-Identifier: MIT
"""What the device does while it is measured: clocks, throttling, load. What cannot be read is None."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import psutil

BUSY_S = 0.3  # the machine is watched for so long, while we do nothing


class Reading(NamedTuple):
    """One look at a device.

    Args:
        clock_mhz: of the units that compute.
        throttled: the device says that it holds itself back.
        reasons: what keeps its clock from being higher; None where it does not say.
    """

    clock_mhz: float | None
    throttled: bool = False
    memory_clock_mhz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    reasons: tuple[str, ...] | None = None


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
    times = psutil.cpu_times()
    return {
        "busy_share": psutil.cpu_percent(BUSY_S) / 100,
        "load_average_1min": os.getloadavg()[0],
        "steal_share": times.steal / sum(times) if hasattr(times, "steal") else None,  # since boot
        "governor": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "transparent_hugepages": _chosen(_text("/sys/kernel/mm/transparent_hugepage/enabled")),
    }


def available_memory() -> int:
    """Bytes that can be allocated without swapping, of the machine and of the container that this runs in."""
    free: int = psutil.virtual_memory().available
    limit, used = (_text(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit and used and limit.isdigit() and used.isdigit():
        return min(free, max(0, int(limit) - int(used)))
    return free


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
