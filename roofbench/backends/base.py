# SPDX-License-Identifier: MIT
"""What a backend must offer the engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from roofbench import numerics
from roofbench.devices import Device
from roofbench.formats import Array
from roofbench.numerics import Limit
from roofbench.ops.probe import PEAK_TASK
from roofbench.telemetry import Telemetry
from roofbench.timing import Clock

Call = Callable[[], object]

VECTOR = "vector"  # the path of wide accesses


class Launch:
    """A kernel bound to one buffer's arrays, ready to be called many times.

    This one is for memory that the host shares; a device with memory of its own overrides all but `__init__`, and
    does what it is told in the order of its calls: what is loaded or spoilt is there when the launch begins.

    Args:
        call: launches once.
        arrays: every argument; a device keeps its own handles here, for rivals to share.

    Attributes:
        path: which of a kernel's ways these arguments take: ``vector`` where its accesses are wide; None where it has
            one way only, or does not say.
    """

    path: str | None = None

    def __init__(self, call: Call, arrays: Mapping[str, Any]) -> None:
        self._call, self.arrays = call, arrays

    def __call__(self) -> object:
        return self._call()

    def load(self, contents: Mapping[str, Array]) -> None:
        """Replace the contents of some inputs."""
        for name, content in contents.items():
            self.arrays[name][...] = content

    def poison(self, name: str) -> None:
        """Fill an output with NaN."""
        numerics.poison(self.arrays[name])

    def spoil(self, name: str, where: Array) -> None:
        """Poison some elements of an output, by their index in memory."""
        array = self.arrays[name]
        array.reshape(-1).view(np.uint8).reshape(-1, array.itemsize)[where] = 0xFF

    def peek(self, name: str, where: Array) -> Array:
        """Some elements of an output, by their index in memory."""
        some: Array = self.arrays[name].reshape(-1)[where]
        return some

    def output(self, name: str) -> Array:
        """What an output, or an input, holds now."""
        array: Array = self.arrays[name]
        return array

    def intact(self, name: str) -> bool:
        """Whether the memory beside an array is as it was."""
        return numerics.guards_intact(self.arrays[name])


@dataclass(frozen=True, slots=True)
class Claim:
    """That a backend serves an op x format.

    Args:
        limit: sizes -> how the kernel sums, for its error bound.
        source: the file that does it, None for a library.
    """

    limit: Callable[[Mapping[str, int]], Limit]
    source: Path | None


class Ways(NamedTuple):
    """Configurations of a kernel at some sizes, for a sweep.

    Args:
        file: of the kernel.
        chip: as that names it.
        sizes: what its choice depends on.
        fields: names of a configuration's values.
        present: the configuration that a launch takes, as the file writes it.
        others: the rest, with what each adds to the dims of a launch.
    """

    file: str
    chip: str
    sizes: dict[str, int]
    fields: tuple[str, ...]
    present: str
    others: dict[str, dict[str, int]]


class Unsupported(Exception):  # noqa: N818 - a verdict, not a fault
    """A kernel does not serve such sizes, or this machine cannot run it; the message says which."""


class Backend(ABC):
    """One way to run kernels on one kind of device."""

    name: ClassVar[str]
    heading: ClassVar[str]  # over its rows
    default: ClassVar[bool] = True  # measured without being asked for
    accelerator: ClassVar[bool] = False  # its rows are set against the device's catalogue entry
    warmup_s: ClassVar[float] = 0.05  # longer than its clock takes to ramp

    @abstractmethod
    def missing(self) -> str | None:
        """Why it cannot run here and the line that helps; None where it can."""

    @abstractmethod
    def claim(self, op: str, format: str) -> Claim | str:
        """What it declares for an op x format, or the reason why it does not serve it."""

    @abstractmethod
    def bind(self, op: str, format: str, dims: Mapping[str, int], arrays: Mapping[str, Array]) -> Launch:
        """A launch on these arrays, or on a device's copies of them; arguments are not checked again.

        Raises:
            ValueError: nothing here serves the op x format.
            Unsupported: not these sizes; the call may raise it too.
            The call raises ValueError where the launcher refuses an argument.
        """

    def bind_all(
        self, op: str, format: str, dims: Mapping[str, int], sets: Sequence[Mapping[str, Array]]
    ) -> list[Launch]:
        """The same for the buffers of a problem. An array that is in several sets is one on the device, too."""
        return [self.bind(op, format, dims, arrays) for arrays in sets]

    def ways(self, op: str, format: str, dims: Mapping[str, int]) -> Ways | None:
        """What a sweep may try; None where the kernel has no configurations."""
        return None

    def again(self, launches: Sequence[Launch], op: str, format: str, dims: Mapping[str, int]) -> list[Launch]:
        """Launches of the same op on the memory of others, with other ``variant`` or ``threads`` in `dims`."""
        return self.bind_all(op, format, dims, [launch.arrays for launch in launches])

    @abstractmethod
    def clock(self) -> Clock:
        """Times launches of this backend on its device, in the queue that they go to."""

    @abstractmethod
    def telemetry(self) -> Telemetry:
        """Clocks of the device."""

    def facts(self) -> dict[str, Any] | None:
        """What its device is and is set to, for the file; None where that is the host."""
        return None

    @abstractmethod
    def last_level_cache(self, device: Device | None) -> int:
        """Bytes that cold rows must overflow, on a device of the catalogue or an unknown one."""

    def usable(self) -> bool:
        """Whether its device still works for this process."""
        return True

    def free_memory(self) -> int | None:
        """Bytes of the device that a row's buffers may take; None where it is the host's memory, or not known."""
        return None

    def probe_sizes(self, cold_bytes: int) -> tuple[int, int]:
        """Bytes, and multiply-adds, of one launch of a probe: enough to last a millisecond on the device.

        Args:
            cold_bytes: what overflows its caches.
        """
        return min(max(cold_bytes // 4, 32 << 20), 512 << 20), 256 * PEAK_TASK

    @abstractmethod
    def probe_variants(self, kind: str, format: str) -> dict[str, dict[str, int]]:
        """Ways in which it can run a probe: name -> what to add to the probe's dims. Empty where it has none."""

    @abstractmethod
    def floor(self) -> Call:
        """An empty launch: what every launch costs at least."""

    def run(self, op: str, format: str, arrays: Mapping[str, Array]) -> None:
        """Check arrays that a caller brings, then launch once.

        Raises:
            ValueError: names the argument and what is wrong with it.
        """
        from roofbench.ops import op_of

        contract = op_of(op)
        dims = contract.check(format, arrays)
        launch = self.bind(op, format, dims, arrays)
        launch()
        for name, arg in contract.signature(format, dims).items():
            result = launch.output(name) if arg.role != "in" else arrays[name]
            if result is not arrays[name]:
                arrays[name][...] = result
