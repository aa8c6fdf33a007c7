# SPDX-License-Identifier: MIT
"""Runs a grid of a compiled library, and makes an exception of what the engine reports."""

import ctypes
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kernelsim import symbols
from kernelsim.errors import ArgumentError, KernelFault, TimeLimitExceeded
from kernelsim.memory import Guarded
from kernelsim.toolchain import RUNTIME

Dim = tuple[int, int, int]

SCHEDULES = ("forward", "reverse", "random")
CONVERGENCE = ("every", "live", "hardware")
SLOTS = 31  # kSlots of engine.hpp
_UNKNOWN = 0xFFFFFFFF  # kUnknown


@dataclass(frozen=True)
class Options:
    """How a grid is run.

    Attributes:
        schedule: the order in which the lanes of a warp, its warps and the threadgroups run.
        seed: of the random schedule.
        convergence: who must come to a barrier: "every" thread at the same line, as the specifications have it; every
            "live" thread, those that returned left out, as GPUs have it; or, as "hardware" does it, lanes that went
            different ways wait apart.
        guard: arrays are copied to memory that ends at an unmapped page, those that a kernel declares const to memory
            that cannot be written. Without it the kernel works on the arrays themselves, and a wild write can crash
            the process.
        workers: threads of the operating system; None = one for each processor.
        time_limit: seconds.
    """

    schedule: str = "forward"
    seed: int = 1
    convergence: str = "live"
    guard: bool = True
    workers: int | None = None
    time_limit: float = 60.0

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ArgumentError(f"schedule is one of {', '.join(SCHEDULES)}, not {self.schedule!r}")
        if self.convergence not in CONVERGENCE:
            raise ArgumentError(f"convergence is one of {', '.join(CONVERGENCE)}, not {self.convergence!r}")
        if self.workers is not None and not (isinstance(self.workers, int) and self.workers >= 1):
            raise ArgumentError(f"workers is at least 1, not {self.workers!r}")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 1 << 32:
            raise ArgumentError(f"seed is an integer from 0 to 2^32 - 1, not {self.seed!r}")
        if not isinstance(self.time_limit, (int, float)) or not self.time_limit > 0:
            raise ArgumentError(f"time_limit is a positive number of seconds, not {self.time_limit!r}")


@dataclass
class Bound:
    """An array that a kernel was given: how messages name it, and where it lies."""

    name: str
    memory: Guarded
    const: bool


@dataclass(frozen=True)
class Grid:
    """What is launched: threadgroups, threads of each, and the threads of all where the last groups are smaller."""

    groups: Dim
    group: Dim
    threads: Dim = (0, 0, 0)


class _Dim(ctypes.Structure):
    _fields_ = [("x", ctypes.c_uint32), ("y", ctypes.c_uint32), ("z", ctypes.c_uint32)]


class _Launch(ctypes.Structure):  # Launch of engine.hpp
    _fields_ = [
        ("entry", ctypes.c_void_p),
        ("args", ctypes.c_void_p),
        ("kernel", ctypes.c_char_p),
        ("shared", ctypes.c_void_p),
        ("groups", _Dim),
        ("group", _Dim),
        ("threads", _Dim),
        ("dynamic_bytes", ctypes.c_uint32 * SLOTS),
        ("shared_limit", ctypes.c_uint32),
        ("schedule", ctypes.c_int),
        ("seed", ctypes.c_uint32),
        ("convergence", ctypes.c_int),
        ("workers", ctypes.c_int),
        ("seconds", ctypes.c_double),
        ("cuda", ctypes.c_int),
        ("cancelled", ctypes.c_int),
    ]


class Fault(ctypes.Structure):
    """Fault of engine.hpp."""

    _fields_ = [
        ("kind", ctypes.c_int),
        ("line", ctypes.c_int),
        ("group", _Dim),
        ("thread", _Dim),
        ("address", ctypes.c_uint64),
        ("pc", ctypes.c_uint64),
        ("write", ctypes.c_int),
        ("file", ctypes.c_char * 256),
        ("message", ctypes.c_char * 512),
    ]


KINDS = (  # FaultKind of engine.hpp
    *("", "memory", "division", "divergence", "trap", "timeout", "cancelled", "resources", "argument", "undefined"),
)


def default_workers() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(
    library: ctypes.CDLL,
    path: Path,
    *,
    entry: str,
    kernel: str,
    pointers: ctypes.Array[ctypes.c_void_p],
    grid: Grid,
    dynamic: Sequence[int] = (),
    shared_limit: int,
    options: Options,
    bound: Sequence[Bound] = (),
    cuda: bool = False,
) -> None:
    """Runs exported function `entry` of library once for every thread of the grid.

    Raises:
        KernelFault: the kernel faulted. TimeLimitExceeded: it ran too long. ArgumentError: it could not be launched.
    """
    launch = _Launch(
        entry=ctypes.cast(library[entry], ctypes.c_void_p),
        args=ctypes.cast(pointers, ctypes.c_void_p),
        kernel=kernel.encode(),
        shared=_shared_variables(library),
        groups=_Dim(*grid.groups),
        group=_Dim(*grid.group),
        threads=_Dim(*grid.threads),
        shared_limit=shared_limit,
        schedule=SCHEDULES.index(options.schedule),
        seed=options.seed,
        convergence=CONVERGENCE.index(options.convergence),
        workers=options.workers or default_workers(),
        seconds=options.time_limit,
        cuda=cuda,
    )
    launch.dynamic_bytes[: len(dynamic)] = list(dynamic)
    fault = Fault()
    ended = threading.Event()
    start = library.ksim_launch  # an error if it is not there, in this thread

    def work() -> None:
        try:
            start(ctypes.byref(launch), ctypes.byref(fault))
        finally:
            ended.set()

    threading.Thread(target=work).start()
    interrupt: BaseException | None = None
    while not ended.is_set():
        try:
            ended.wait()  # outside of C, so that an interrupt is heard
        except BaseException as error:  # noqa: BLE001 - raised again when the kernel has stopped to use the arrays
            interrupt = error
            launch.cancelled = 1
    if interrupt:
        raise interrupt
    if fault.kind:
        raise as_error(fault, kernel, path, bound, "block" if cuda else "threadgroup")


def _shared_variables(library: ctypes.CDLL) -> int:
    function = library.ksim_shared_variables
    function.restype = ctypes.c_void_p
    return int(function())


def as_error(fault: Fault, kernel: str, path: Path, bound: Sequence[Bound], group_word: str) -> Exception:
    """The exception that tells of a fault, with the source's line, and the array that it hit where that is known."""
    kind, message = KINDS[fault.kind], fault.message.decode(errors="replace")
    spot: symbols.Place | None = (fault.file.decode(errors="replace"), fault.line) if fault.line else None
    if fault.pc and (spot is None or spot[0].startswith(str(RUNTIME))):  # a check in a function of the language
        spot = symbols.place(path, fault.pc) or spot
    if kind in ("argument", "resources"):
        return ArgumentError(f"{spot[0]}:{spot[1]}: {kernel}: {message}" if spot else f"{kernel}: {message}")
    if kind == "memory" and fault.address:
        message = _in_words(fault, bound) or message
    file, line = spot or (None, None)
    where = [None if dim.x == _UNKNOWN else (dim.x, dim.y, dim.z) for dim in (fault.group, fault.thread)]
    cls = TimeLimitExceeded if kind == "timeout" else KernelFault
    return cls(kernel, kind, message, file, line, where[0], where[1], group_word)


def _in_words(fault: Fault, bound: Sequence[Bound]) -> str | None:
    verb = {0: "reads", 1: "writes"}.get(fault.write, "accesses")
    for one in bound:
        where = one.memory.where(fault.address)
        if where and where.startswith("at byte") and one.const:
            return f"writes to {one.name}, which it declares const, {where}"
        if where:
            return f"{verb} {one.name} {where}"
    return None


def check_overruns(kernel: str, bound: Sequence[Bound], group_word: str) -> None:
    """Raises KernelFault if a byte right behind or before an array was written."""
    for one in bound:
        where = one.memory.overrun()
        if where:
            reason = f"writes {where} of {one.name}"
            raise KernelFault(kernel, "memory", reason, None, None, None, None, group_word)


def three(value: Any, name: str) -> Dim:
    """An int or up to three of them as x, y, z.

    Raises:
        ArgumentError: it is not that, or one is not positive.
    """
    listed = value if isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, str) else [value]
    whole = all(isinstance(v, (int, np.integer)) and not isinstance(v, bool) for v in listed)
    if not whole or not 1 <= len(listed) <= 3:
        raise ArgumentError(f"{name} is one to three integers, not {value!r}")
    if min(listed) < 1 or max(listed) >= 1 << 32:
        raise ArgumentError(f"{name} is one to three positive integers, not {value!r}")
    x, y, z = [int(v) for v in listed] + [1] * (3 - len(listed))
    return x, y, z
