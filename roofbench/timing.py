# SPDX-License-Identifier: MIT
"""Clocks: how long launches take on a device, and what time it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol


class Clock(Protocol):
    """Times launches. A GPU's clock reads its events or graphs; a CPU's is the wall."""

    name: str
    resolution_s: float

    def run(self, calls: Sequence[Callable[[], object]]) -> float:
        """Seconds that the calls took, back to back."""
        ...

    def now(self) -> float:
        """Seconds of the host, for deadlines."""
        ...

    def sleep(self, seconds: float) -> None: ...

    def forget(self) -> None:
        """Drop what is kept of earlier launches, and with it their memory."""
        ...


class WallClock:
    """The host's monotonic clock: right for kernels that have finished when their call returns."""

    name = "perf_counter"

    def __init__(self) -> None:
        self.resolution_s = max(time.get_clock_info("perf_counter").resolution, _step())

    def run(self, calls: Sequence[Callable[[], object]]) -> float:
        start = time.perf_counter_ns()
        for call in calls:
            call()
        return (time.perf_counter_ns() - start) * 1e-9

    def now(self) -> float:
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def forget(self) -> None:
        pass


def _step() -> float:
    """The smallest step seen between two readings, in seconds."""
    steps = []
    for _ in range(200):
        first = last = time.perf_counter_ns()
        while last == first:
            last = time.perf_counter_ns()
        steps.append(last - first)
    return min(steps) * 1e-9
