# SPDX-License-Identifier: MIT
"""What a backend must offer the engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from roofbench.formats import Array
from roofbench.numerics import Limit
from roofbench.telemetry import Telemetry
from roofbench.timing import Clock

Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Claim:
    """That a backend serves an op x format.

    Args:
        limit: sizes -> how the kernel sums, for its error bound.
        source: the file that does it, None for a library.
    """

    limit: Callable[[Mapping[str, int]], Limit]
    source: Path | None


class Backend(ABC):
    """One way to run kernels on one kind of device."""

    name: ClassVar[str]
    heading: ClassVar[str]  # over its rows
    default: ClassVar[bool] = True  # measured without being asked for
    accelerator: ClassVar[bool] = False  # its rows are set against the device's catalogue entry

    @abstractmethod
    def missing(self) -> str | None:
        """Why it cannot run here and the line that helps; None where it can."""

    @abstractmethod
    def claim(self, op: str, format: str) -> Claim | str:
        """What it declares for an op x format, or the reason why it does not serve it."""

    @abstractmethod
    def bind(self, op: str, format: str, dims: Mapping[str, int], arrays: Mapping[str, Array]) -> Call:
        """A launch on these arrays, ready to be called many times; arguments are not checked again.

        Raises:
            ValueError: nothing here serves the op x format.
            The call raises ValueError where the launcher refuses an argument.
        """

    @abstractmethod
    def clock(self) -> Clock:
        """Times launches of this backend on its device."""

    @abstractmethod
    def telemetry(self) -> Telemetry:
        """Clocks of the device."""

    @abstractmethod
    def probe_variants(self, kind: str) -> dict[str, dict[str, int]]:
        """Ways in which it can run a probe: name -> what to add to the probe's dims. Empty where it has no probes."""

    @abstractmethod
    def floor(self) -> Call:
        """An empty launch: what every launch costs at least."""

    def run(self, op: str, format: str, arrays: Mapping[str, Array]) -> None:
        """Check arrays that a caller brings, then launch once.

        Raises:
            ValueError: names the argument and what is wrong with it.
        """
        from roofbench.ops import op_of

        dims = op_of(op).check(format, arrays)
        self.bind(op, format, dims, arrays)()
