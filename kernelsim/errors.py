# SPDX-License-Identifier: MIT
"""What goes wrong, one class for each thing that a caller may want to tell apart."""

from dataclasses import dataclass


class KernelSimError(Exception):
    """The base of all of them."""


class ToolchainError(KernelSimError):
    """No clang++ was found, or it is too old."""


class SourceError(KernelSimError):
    """The source cannot be parsed or compiled; the message holds the compiler's, with the source's own lines."""


class ArgumentError(KernelSimError, ValueError):
    """A launch was called with an unknown kernel, a wrong count, dtype or size of arguments, or an empty grid."""


@dataclass
class KernelFault(KernelSimError):  # noqa: N818 - a fault is what GPUs have
    """A kernel did what it must not do; where and in which thread is in the message and in the attributes.

    None is what cannot be known, as of a write that is only seen afterwards.
    """

    kernel: str
    kind: str
    reason: str
    file: str | None
    line: int | None
    group: tuple[int, int, int] | None
    thread: tuple[int, int, int] | None
    group_word: str = "threadgroup"

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: " if self.file and self.line else ""
        known = [f"{self.group_word} {self.group}"] if self.group else []
        known += [f"thread {self.thread}"] if self.thread else []
        who = f" ({', '.join(known)})" if known else ""
        return f"{place}{self.kernel}: {self.reason}{who}"


class TimeLimitExceeded(KernelFault):
    """A kernel ran longer than its time limit."""


class ScheduleError(KernelSimError):
    """Results depend on the order in which threads run: a race."""
