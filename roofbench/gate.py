# SPDX-License-Identifier: MIT
"""Right before fast: whether a kernel's outputs are right, before, while and after it is timed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from roofbench import hazards, numerics
from roofbench.backends.base import Backend, Claim, Launch, Unsupported
from roofbench.engine import MeasurementError
from roofbench.formats import Array
from roofbench.numerics import Expected, Limit
from roofbench.op import Arrays, Case, Instance, Op
from roofbench.ops import op_of
from roofbench.timing import Clock

LONGEST_S = 10.0  # a launch that takes longer is not measured
RIVAL_TOLERANCE = 0.1  # of the results' root mean square: a rival may be less exact, not wrong
IDLE_S = 0.02
IDLE_SHARE = 0.25  # of that, spent by all threads, is too much


class Incorrect(Exception):  # noqa: N818 - a verdict, not a fault
    """Outputs are not what the contract says."""


class Gate:
    """A kernel on the buffers of a problem.

    Args:
        clock: of the backend.

    Raises:
        Unsupported: it does not serve such sizes.
    """

    def __init__(
        self, backend: Backend, case: Case, problem: Sequence[Instance], claim: Claim, clock: Clock, seed: int
    ) -> None:
        self._problem, self._clock, self._host = problem, clock, not backend.accelerator
        self._limit = claim.limit(case.dims)
        self._signature = op_of(case.op).signature(case.format, case.dims)
        self.launches = backend.bind_all(case.op, case.format, case.dims, [one.arrays for one in problem])
        self._rng = np.random.default_rng(seed + 1)
        self._spots: list[Arrays] = [{}] * len(problem)
        self._drawn: set[str] = set()  # inputs that change from launch to launch
        self._sums = self._checksums(lambda i, name: problem[i].arrays[name])

    def watch(self, launches: list[Launch], limit: Limit) -> None:
        """From now on other launches, on the same memory."""
        self.launches, self._limit = launches, limit

    def prepare(self, i: int) -> None:
        """Draw other inputs for buffer i and spoil a few outputs, so that no kept result passes."""
        contents = self._problem[i].draw(self._rng)
        self.launches[i].load(contents)
        self._drawn |= contents.keys()
        self._spots[i] = self._problem[i].spots(self._rng)
        for name, where in self._spots[i].items():
            self.launches[i].spoil(name, where)

    def verify(self, i: int) -> None:
        """Compare what was spoilt, after every launch: as a whole only the last results remain. Raises Incorrect."""
        expected = self._problem[i].expect()
        for name, where in self._spots[i].items():
            error = expected[name].error_at(self.launches[i].peek(name, where), where, self._limit)
            if error > 1:
                raise Incorrect(f"{name} of buffer {i} is {_far(error)} after a timed launch")

    def check(self) -> tuple[float, float]:
        """Launch once on every buffer, outputs poisoned, and compare.

        Returns:
            Largest error over its bound, and seconds of the first launch.

        Raises:
            Incorrect: an output is wrong.
            Unsupported: a launch takes too long.
            MeasurementError: threads of the kernel keep running.
        """
        first_s = 0.0
        for i, launch in enumerate(self.launches):
            for name, arg in self._signature.items():
                if arg.role == "out":
                    launch.poison(name)
            self.prepare(i)
            seconds = self._clock.run([launch])
            first_s = first_s or seconds
            if seconds > LONGEST_S:
                raise Unsupported(f"a launch takes {seconds:.0f} s")
        worst = self.check_last()
        if self._host:
            self._check_idle()
        return worst, first_s

    def check_last(self) -> float:
        """Compare what the last launches left. Raises Incorrect; returns the largest error over its bound."""
        worst = 0.0
        for i, (instance, launch) in enumerate(zip(self._problem, self.launches, strict=True)):
            worst = max(worst, compare(instance.expect(), launch, self._limit, f"of buffer {i} "))
            for name in self._signature:
                if not launch.intact(name):
                    raise Incorrect(f"memory beside {name} of buffer {i} was written to")
        return worst

    def check_inputs(self) -> None:
        """Raise Incorrect where the kernel has changed what it may only read."""
        now = self._checksums(lambda i, name: self.launches[i].output(name))
        for (i, name), checksum in now.items():
            if self._sums[i, name] != checksum:
                raise Incorrect(f"{name} of buffer {i}, an input, was written to")

    def agrees(self, outputs: Arrays) -> bool:
        """Whether a rival's outputs on buffer 0 are about ours."""
        for name, theirs in outputs.items():
            ours = numerics.to_f64(self.launches[0].output(name))
            difference = numerics.to_f64(theirs).reshape(ours.shape) - ours
            if not np.square(difference).mean() <= RIVAL_TOLERANCE**2 * np.square(ours).mean():
                return False
        return True

    def _checksums(self, array: Callable[[int, str], Array]) -> dict[tuple[int, str], int]:
        """Of inputs that stay as they are, each array once."""
        seen: dict[int, tuple[int, str]] = {}
        for i, instance in enumerate(self._problem):
            for name, arg in self._signature.items():
                if arg.role == "in" and name not in self._drawn:
                    seen.setdefault(instance.arrays[name].ctypes.data, (i, name))
        return {place: numerics.checksum(array(*place)) for place in seen.values()}

    def _check_idle(self) -> None:
        """Raise MeasurementError where threads work on when a launch has returned: the clock does not see them."""
        if not any(_busy_threads() <= IDLE_SHARE for _ in range(20)):
            return  # others of this process are busy: nothing can be said
        self.prepare(0)
        self.launches[0]()
        time.sleep(IDLE_S)  # threads that wait for work by spinning go to sleep
        if (busy := _busy_threads()) > IDLE_SHARE:
            raise MeasurementError(f"{busy:.1f} threads of the kernel keep running after its launch")


def _busy_threads() -> float:
    """Of this process, while this one sleeps."""
    before, start = time.process_time(), time.perf_counter()
    time.sleep(IDLE_S)
    return (time.process_time() - before) / (time.perf_counter() - start)


def compare(expected: dict[str, Expected], launch: Launch, limit: Limit, of: str = "") -> float:
    """Outputs of a launch with what they must hold. Raises Incorrect; returns the largest error over its bound."""
    worst = 0.0
    for name, what in expected.items():
        error = what.error(launch.output(name), limit)
        if error > 1:
            raise Incorrect(f"{name} {of}is {_far(error)}")
        worst = max(worst, error)
    return worst


class Tried(NamedTuple):
    """How many hazards gave what the contract says, how many the launcher refused, and how many there are."""

    right: int
    refused: int
    of: int


def try_hazards(backend: Backend, op: str, format: str, claim: Claim, seconds: float = math.inf) -> Tried:
    """Small, awkward problems, as the tests of our own kernels have them: edges of sizes, extreme and special values.

    Sizes that a launcher refuses are no fault of it. Raises Incorrect.

    Args:
        seconds: no problem is begun later.
    """
    rng, start = np.random.default_rng(0), time.monotonic()
    problems = [(dims, kind) for dims in hazards.sizes(op, format) for kind in hazards.KINDS]
    right = refused = 0
    for dims, kind in problems:
        if time.monotonic() - start > seconds:
            break
        served = _is_right(backend, op, format, claim, dims, kind, rng)
        right, refused = right + served, refused + (not served)
    return Tried(right, refused, len(problems))


def _is_right(
    backend: Backend,
    op: str,
    format: str,
    claim: Claim,
    dims: Mapping[str, int],
    kind: str,
    rng: np.random.Generator,
) -> bool:
    """False where the launcher refuses such sizes. Raises Incorrect."""
    arrays = hazards.inputs(op, format, dims, rng, kind)
    expected = hazards.expected(op, format, arrays, kind)
    try:
        launch = backend.bind(op, format, dims, arrays)
        launch()
    except (Unsupported, ValueError):
        return False
    sizes = " ".join(f"{name}={size}" for name, size in dims.items())
    compare(expected, launch, claim.limit(dims), f"at {sizes} on {kind} values ")
    for name in arrays:
        if not launch.intact(name):
            raise Incorrect(f"memory beside {name} was written to at {sizes}")
    return True


def check_buffers(contract: Op, case: Case, problem: Sequence[Instance], cold_bytes: int) -> None:
    """Raise MeasurementError where buffers cannot hold the bytes that a row counts, or would stay cached."""
    counted = contract.traffic(case).bytes
    seen: set[int] = set()
    distinct = 0
    for instance in problem:
        touched = {a.ctypes.data: a.nbytes for a in contract.touched(case, instance.arrays)}
        held = sum(touched.values())
        if counted > 2 * held:  # an array that is read and written counts twice
            raise MeasurementError(f"counts {counted} bytes a launch, which touches {held} at most")
        distinct += min(counted, sum(nbytes for place, nbytes in touched.items() if place not in seen))
        seen |= touched.keys()
    if distinct < cold_bytes and counted:
        raise MeasurementError(
            f"{len(problem)} buffers of {distinct} bytes in all stay in caches; cold needs {cold_bytes}"
        )


def _far(error: float) -> str:
    return "wrong" if math.isinf(error) else f"{error:.3g} times as far off as its bound allows"
