# SPDX-License-Identifier: MIT
"""Measures: warm-up, cold caches by rotation, samples interleaved with probe and rivals, a stop rule.

The engine knows neither ops nor devices: it is given launches, a clock and telemetry, and gives samples and
a status. Its method is docs/methodology.md's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from roofbench.telemetry import Reading, Telemetry
from roofbench.timing import Clock

Call = Callable[[], object]

BOOTSTRAP = 10_000  # resamples
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Rules:
    """When a row has been measured long enough, and what makes it doubtful.

    Args:
        cap_s: the longest it may sample, probe and rivals included; warm-up comes before.
        min_s: device time to sample at least, if the cap allows.
        warmup_s: device time to warm up at least; clocks ramp in 5 ms (CPU) to 440 ms (Apple GPU).
    """

    cap_s: float
    min_s: float = 0.5
    warmup_s: float = 0.05
    min_samples: int = 30
    min_turns: int = 6  # between the least and the greatest of five lies the median in 94 % of cases, of six in 97 %
    max_ci95_rel: float = 0.005
    warmup_agreement: float = 0.01
    turn_s: float = 0.01
    wake_s: float = 0.01  # threads that sleep take up to 50 us to start: half a percent of this
    window_floors: float = 20.0  # a sample lasts that many empty launches
    window_steps: float = 100.0  # and that many steps of the clock
    throttle_share: float = 0.75  # of the nominal clock
    throttle_retries: int = 3
    drift: float = 0.01  # between the medians of the first and the last half, if their intervals are apart
    gap: float = 0.05  # between two neighbouring samples in the middle half, of the median


class MeasurementError(Exception):
    """A measurement that cannot be made; the message says why."""


@dataclass(slots=True, eq=False)
class Lane:
    """One contestant: the kernel, its probe or a rival.

    Args:
        calls: one launch per rotated buffer.
        prepare: run before each launch on buffer i, outside the time.
        verify: run after it, outside the time; raises where the launch did not do its work.
        wake: run between the two, outside the time: threads that went to sleep while others worked.
        per_sample: launches back to back, never two on one buffer.
    """

    name: str
    calls: Sequence[Call]
    prepare: Callable[[int], object] = lambda _: None
    verify: Callable[[int], object] = lambda _: None
    wake: Call = lambda: None
    per_sample: int = 1
    per_turn: int = 1
    seconds: float = 0.0  # of one launch, once warm
    clock: Clock | None = None  # of its own queue, where that is not the kernel's
    failed: str | None = None  # why a rival is out
    short: bool = False  # even a launch on every buffer does not hide what an empty launch takes
    at: int = 0
    samples: list[float] = field(default_factory=list)
    turns: list[float] = field(default_factory=list)  # median of each turn

    @property
    def median_s(self) -> float:
        return float(np.median(self.samples))


@dataclass(slots=True)
class Measurement:
    """What came of it.

    Args:
        status: OK, NOISY or THROTTLED.
        reason: why it is not OK.
        clock_mhz: held while sampling, the median of readings.
        warmup_s: device time of the kernel before its samples count.
        readings: one for each round, those that were thrown away included.
    """

    kernel: Lane
    roof: Lane | None
    rivals: list[Lane]
    status: str
    reason: str | None
    clock_mhz: float | None
    floor_s: float
    warmup_s: float
    readings: list[Reading]

    def roof_ratios(self) -> list[float]:
        """Time of the probe over time of the kernel, per round: proportional to the share of the roof."""
        if self.roof is None:
            return []
        return [roof / kernel for roof, kernel in zip(self.roof.turns, self.kernel.turns, strict=True)]


def median_interval(samples: Sequence[float]) -> tuple[float, float]:
    """95 % bootstrap interval of the median (percentile method, B. Efron, 1979).

    The median of a resample of n values is one of the values; its rank follows a Beta distribution, so ranks
    are drawn instead of resamples. Needs two samples at least.
    """
    ordered = np.sort(np.asarray(samples, float))
    n = ordered.size
    if n < 2:
        return -math.inf, math.inf
    middle = (n + 1) / 2
    ranks = np.random.default_rng(0).beta(middle, n + 1 - middle, BOOTSTRAP)
    medians = ordered[np.minimum((ranks * n).astype(int), n - 1)]
    low, high = np.quantile(medians, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def ci95_rel(turns: Sequence[float]) -> float:
    """Half the width of `median_interval`, over the median.

    Args:
        turns: medians of turns. Samples of one turn resemble each other: as samples of their own they would
            make the interval too narrow.
    """
    low, high = median_interval(turns)
    return (high - low) / 2 / float(np.median(turns))


def floor(clock: Clock, launch: Call) -> float:
    """Seconds of an empty launch, as the clock sees it."""
    for _ in range(20):
        clock.run([launch])
    return float(np.median([_seconds(clock, [launch], may_be_zero=True) for _ in range(100)]))


def measure(
    kernel: Lane,
    clock: Clock,
    telemetry: Telemetry,
    rules: Rules,
    roof: Lane | None = None,
    rivals: Sequence[Lane] = (),
    floor_s: float = 0.0,
) -> Measurement:
    """Measure a kernel, turn and turn about with its probe and its rivals, until the stop rule is met.

    Raises:
        MeasurementError: the clock runs backwards, stands still or is too coarse.
    """
    lanes = [kernel, *([roof] if roof else []), *rivals]
    warmed_s = {}

    def ready(lane: Lane) -> None:
        _size(lane, lane.clock or clock, rules, floor_s)
        warmed_s[lane.name] = _warm_up(lane, lane.clock or clock, rules)
        _size(lane, lane.clock or clock, rules, floor_s)

    lanes = [lane for lane in lanes if _runs(lane, ready, rivals)]
    deadline = clock.now() + rules.cap_s
    clocks: list[float] = []
    readings: list[Reading] = []
    pauses = rounds = 0
    throttled = False
    next_check = rules.min_samples
    while True:
        turns: dict[str, list[float]] = {}

        def turn(lane: Lane, turns: dict[str, list[float]] = turns) -> None:
            turns[lane.name] = _turn(lane, lane.clock or clock, rules)

        left = [lane for lane in (lanes if rounds % 2 == 0 else lanes[::-1]) if _runs(lane, turn, rivals)]
        lanes = [lane for lane in lanes if lane in left]
        rounds += 1
        reading = telemetry.read()
        readings.append(reading)
        hot = _is_throttled(reading, telemetry.nominal_mhz, rules)
        if hot and pauses < rules.throttle_retries:
            pauses += 1
            clock.sleep(0.05 * 2**pauses)  # the round is thrown away; cool down
            for lane in lanes:
                _warm_up(lane, lane.clock or clock, rules)
            continue
        throttled |= hot
        if not hot:
            pauses = 0
        for lane in lanes:
            lane.samples += turns[lane.name]
            lane.turns.append(float(np.median(turns[lane.name])))
        if reading.clock_mhz:
            clocks.append(reading.clock_mhz)
        n, late = len(kernel.samples), clock.now() >= deadline
        if late or n >= next_check:
            next_check = max(next_check + 1, int(1.15 * n))
            enough = (
                n >= rules.min_samples
                and len(kernel.turns) >= rules.min_turns
                and sum(kernel.samples) * kernel.per_sample >= rules.min_s
            )
            if late or (enough and ci95_rel(kernel.turns) <= rules.max_ci95_rel):
                break
    status, reason = _judge(kernel, rules, throttled=throttled)
    held = float(np.median(clocks)) if clocks else None
    return Measurement(kernel, roof, list(rivals), status, reason, held, floor_s, warmed_s[kernel.name], readings)


def _runs(lane: Lane, what: Callable[[Lane], object], rivals: Sequence[Lane]) -> bool:
    """Do something with a lane. A rival that fails is out, and says why; whatever else fails is raised."""
    try:
        what(lane)
    except Exception as error:
        if not any(lane is rival for rival in rivals):
            raise
        lane.failed = f"{type(error).__name__}: {error}"
        return False
    return True


def _is_throttled(reading: Reading, nominal_mhz: float | None, rules: Rules) -> bool:
    if reading.clock_mhz is None or nominal_mhz is None:
        return reading.throttled
    return reading.throttled or reading.clock_mhz < rules.throttle_share * nominal_mhz


def _judge(kernel: Lane, rules: Rules, *, throttled: bool) -> tuple[str, str | None]:
    if throttled:
        return (
            "THROTTLED",
            f"below {rules.throttle_share:.0%} of its clock, {rules.throttle_retries} pauses did not help",
        )
    n, relative, half = len(kernel.samples), ci95_rel(kernel.turns), len(kernel.turns) // 2
    first, last = kernel.turns[:half], kernel.turns[half:]
    ordered = np.sort(kernel.samples)
    middle = np.diff(ordered[n // 4 : -(n // 4) or None])
    if n < rules.min_samples:
        return "NOISY", f"{n} samples fitted into {rules.cap_s:g} s; {rules.min_samples} are needed"
    if len(kernel.turns) < rules.min_turns:
        return "NOISY", f"{len(kernel.turns)} turns fitted into {rules.cap_s:g} s; {rules.min_turns} are needed"
    if middle.size and middle.max() > rules.gap * kernel.median_s:
        return "NOISY", f"bimodal: a gap of {middle.max() / kernel.median_s:.0%} in the middle half of the samples"
    change = float(np.median(last) / np.median(first)) - 1 if first else 0.0
    if abs(change) > rules.drift and _apart(first, last):
        return "NOISY", f"drifts: the last half is {change:+.1%} against the first"
    if relative > rules.max_ci95_rel:
        return "NOISY", f"95 % interval of +-{relative:.1%} after {n} samples"
    if kernel.short:
        return "NOISY", f"too short: {kernel.per_sample} launches take less than {rules.window_floors:g} empty ones"
    return "OK", None


def _apart(first: Sequence[float], last: Sequence[float]) -> bool:
    """Whether the intervals of two medians do not overlap."""
    (low, high), (other_low, other_high) = median_interval(first), median_interval(last)
    return high < other_low or other_high < low


def _seconds(clock: Clock, calls: Sequence[Call], *, may_be_zero: bool = False) -> float:
    seconds = clock.run(calls)
    if not math.isfinite(seconds) or seconds < 0:
        raise MeasurementError(f"the clock {clock.name} ran backwards: {seconds} s for {len(calls)} launches")
    if seconds == 0 and not may_be_zero:
        raise MeasurementError(f"the clock {clock.name} stood still over {len(calls)} launches: it is too coarse")
    return seconds


def _sample(lane: Lane, clock: Clock, *, may_be_zero: bool = False) -> float:
    """Seconds of one launch, the mean of `per_sample` back to back."""
    chosen = [(lane.at + i) % len(lane.calls) for i in range(lane.per_sample)]
    lane.at = (chosen[-1] + 1) % len(lane.calls)
    for i in chosen:
        lane.prepare(i)
    lane.wake()
    seconds = _seconds(clock, [lane.calls[i] for i in chosen], may_be_zero=may_be_zero)
    for i in chosen:
        lane.verify(i)
    return seconds / lane.per_sample


def _size(lane: Lane, clock: Clock, rules: Rules, floor_s: float) -> None:
    """Choose launches per sample, so that floor and resolution vanish in it, and samples per turn."""
    finest = rules.window_steps * clock.resolution_s
    window, most = max(rules.window_floors * floor_s, finest), len(lane.calls)
    lane.per_sample = 1
    while True:
        first = _sample(lane, clock, may_be_zero=True)
        more = [_sample(lane, clock, may_be_zero=True) for _ in range(2 if first < rules.cap_s / 10 else 0)]
        lane.seconds = float(np.median([first, *more]))
        sample_s = lane.seconds * lane.per_sample
        if sample_s >= window or lane.per_sample == most:
            break
        wanted = math.ceil(1.2 * window / lane.seconds) if lane.seconds else most
        lane.per_sample = min(most, max(2 * lane.per_sample, wanted))
    if sample_s < finest:
        raise MeasurementError(
            f"the clock {clock.name} is too coarse: {lane.per_sample} launches took {sample_s:g} s, "
            f"a sample needs {finest:g} s"
        )
    lane.short = sample_s < window
    lane.per_turn = max(1, min(10, round(rules.turn_s / sample_s)))


def _warm_up(lane: Lane, clock: Clock, rules: Rules) -> float:
    """Run until the medians of the two halves agree; give up, without complaint, at a fifth of the cap.

    Returns:
        Device seconds it took.
    """
    samples: list[float] = []
    spent, deadline = 0.0, clock.now() + rules.cap_s / 5
    while clock.now() < deadline:
        samples.append(_sample(lane, clock))
        spent += samples[-1] * lane.per_sample
        half = len(samples) // 2
        if spent >= rules.warmup_s and half >= 3:
            first, last = np.median(samples[:half]), np.median(samples[half:])
            if abs(first / last - 1) <= rules.warmup_agreement:
                break
    return spent


def _turn(lane: Lane, clock: Clock, rules: Rules) -> list[float]:
    """Samples of one turn; where they are short, after one that wakes the lane's threads."""
    if lane.seconds * lane.per_sample < rules.wake_s:
        _sample(lane, clock)
    return [_sample(lane, clock) for _ in range(lane.per_turn)]
