# SPDX-License-Identifier: MIT
"""The engine under a fake clock: when it stops, what it reports, and the faults that it must not miss."""

import itertools

import numpy as np
import pytest
import scipy.stats
from fakes import CASES, RULES, Machine, row

from roofbench import ceilings, engine
from roofbench.devices import device_of
from roofbench.engine import MeasurementError, Rules, ci95_rel, median_interval
from roofbench.gate import check_buffers
from roofbench.numerics import aligned
from roofbench.op import Case, Instance
from roofbench.ops import OPS


def suspect(machine, kernel, roof, work_ratio=1.0):
    """What the guard says of a kernel beside its probe."""
    shares = [ratio * work_ratio for ratio in machine.measure(kernel, roof).roof_ratios()]
    return ceilings.impossible(1.0, ceilings.Spec(None, None, None), shares, "read")


class TestWithoutFault:
    def test_a_quiet_machine_is_ok(self):
        measured = Machine().measure(1e-3, 8e-4, [3e-3])
        assert (measured.status, measured.reason) == ("OK", None)
        assert measured.kernel.median_s == pytest.approx(1e-3, rel=0.005)
        assert measured.rivals[0].median_s == pytest.approx(3e-3, rel=0.01)
        assert len(measured.kernel.samples) >= 30

    def test_it_stops_when_the_interval_is_tight(self):
        machine = Machine(noise=0.001)
        machine.measure(1e-3, rules=Rules(cap_s=100, min_s=0))
        assert machine.clock.time < 1

    def test_it_samples_the_least_device_time(self):
        machine = Machine(noise=0.0001)
        measured = machine.measure(1e-4, rules=Rules(cap_s=100, min_s=0.5))
        assert sum(measured.kernel.samples) * measured.kernel.per_sample >= 0.5

    def test_it_stops_at_the_cap_and_says_noisy(self):
        machine = Machine(noise=0.5)
        measured = machine.measure(lambda _: 1e-3, rules=Rules(cap_s=1))
        assert measured.status == "NOISY"
        assert "95 % interval" in measured.reason
        assert machine.clock.time < 1.5

    def test_too_few_samples_are_noisy(self):
        measured = Machine().measure(0.1, rules=Rules(cap_s=1))
        assert measured.status == "NOISY"
        assert "samples fitted into 1 s; 30 are needed" in measured.reason

    def test_too_few_turns_are_noisy(self):
        measured = Machine().measure(1e-3, rules=Rules(cap_s=0.03, min_samples=5))
        assert measured.status == "NOISY"
        assert "turns fitted into 0.03 s; 6 are needed" in measured.reason

    def test_turns_alternate_so_that_a_common_drift_cancels(self):
        machine = Machine()
        measured = machine.measure(lambda t: 1e-3 * (1 + 0.3 * t), lambda t: 8e-4 * (1 + 0.3 * t))
        assert measured.status == "NOISY"
        assert median_interval(measured.roof_ratios()) == pytest.approx((0.8, 0.8), rel=0.01)

    def test_short_launches_share_a_sample(self):
        machine = Machine()
        measured = machine.measure(2e-6, floor_s=1e-6, buffers=20)
        assert measured.kernel.per_sample * 2e-6 >= 20 * 1e-6 * 0.9
        assert measured.kernel.median_s == pytest.approx(2e-6, rel=0.01)
        assert measured.status == "OK"

    def test_a_sample_launches_no_buffer_twice(self):
        """Its inputs would be those of the launch before, and so would its caches."""
        measured = Machine().measure(2e-6, floor_s=1e-6, buffers=4)
        assert measured.kernel.per_sample == 4
        assert measured.status == "NOISY"
        assert measured.reason == "too short: 4 launches take less than 20 empty ones"

    def test_buffers_rotate(self):
        machine, order = Machine(), []
        lane = machine.lane("kernel", 1e-3, buffers=4)
        lane.calls = [lambda i=i: (order.append(i), machine.clock.spend(1e-3)) for i in range(4)]
        engine.measure(lane, machine.clock, machine.telemetry, Rules(cap_s=0.5, min_s=0))
        steps = {(b - a) % 4 for a, b in itertools.pairwise(order[1:])}
        assert steps == {1}

    def test_each_launch_is_prepared(self):
        machine, prepared = Machine(), []
        lane = machine.lane("kernel", 1e-3)
        lane.prepare = prepared.append
        engine.measure(lane, machine.clock, machine.telemetry, Rules(cap_s=0.2, min_s=0))
        assert len(prepared) == machine.clock.windows  # of one launch each

    def test_every_sample_is_kept(self):
        """Outliers too: a sample in ten takes three times as long."""
        count = itertools.count()
        measured = Machine(noise=0.001).measure(lambda _: 3e-3 if next(count) % 10 == 0 else 1e-3)
        assert max(measured.kernel.samples) == pytest.approx(3e-3, rel=0.01)
        assert measured.kernel.median_s == pytest.approx(1e-3, rel=0.01)


class TestPlantedFaults:
    def test_warm_cache(self):
        """Buffers stay cached: the kernel outruns the memory that its probe measures."""
        assert suspect(Machine(), 5e-4, 1e-3) is not None

    def test_wrong_byte_count(self):
        """Twice the bytes are counted: the share of the roof doubles."""
        assert suspect(Machine(), 1e-3, 8e-4, work_ratio=1) is None
        assert suspect(Machine(), 1e-3, 8e-4, work_ratio=2) == (
            "160% of the measured read roof at least, with 95 % confidence"
        )

    def test_a_kernel_at_its_roof_is_possible(self):
        assert suspect(Machine(noise=0.05), 1e-3, 1.02e-3) is None

    def test_noise_alone_makes_nothing_impossible(self):
        for seed in range(20):
            assert suspect(Machine(noise=0.2, seed=seed), 1e-3, 1e-3) is None

    def test_cached_output(self):
        """Works once per buffer, then returns what is there."""
        seen = set()

        def kernel(_, arrays, right):
            if arrays["y"].ctypes.data not in seen:
                seen.add(arrays["y"].ctypes.data)
                right()

        assert row(kernel).status == "INCORRECT"

    def test_replayed_output(self):
        """Keeps a result by address and writes it again, whatever the activations are now."""
        kept = {}

        def kernel(_, arrays, right):
            if arrays["y"].ctypes.data not in kept:
                right()
                kept[arrays["y"].ctypes.data] = arrays["y"].copy()
            arrays["y"][...] = kept[arrays["y"].ctypes.data]

        assert row(kernel).status == "INCORRECT"

    @pytest.mark.parametrize("op", ["gemv", "kv_append", "kv_gather"])
    def test_does_nothing_once_it_is_timed(self, op):
        """Passes the check before timing, then skips its work."""

        def kernel(backend, arrays, right):
            if backend.launches <= 50:
                right()

        assert row(kernel, op).status == "INCORRECT"

    @pytest.mark.parametrize("op", ["gemv", "kv_append", "kv_gather"])
    def test_works_every_third_time(self, op):
        """And always when it matters: only the last result of each buffer is compared as a whole."""

        def kernel(backend, _, right):
            if backend.launches < 50 or backend.launches % 3 == 0:
                right()

        result = row(kernel, op)
        assert result.status == "INCORRECT"
        assert "after a timed launch" in result.reason

    def test_recognises_activations(self):
        """Keeps a result for every content that it has seen, the sign of x aside: no content comes twice."""
        kept = {}

        def kernel(_, arrays, right):
            key = (arrays["y"].ctypes.data, np.abs(arrays["x"].astype(np.float32)).tobytes())
            if key not in kept:
                right()
                kept[key] = arrays["y"].copy()
            arrays["y"][...] = kept[key]

        assert row(kernel).status == "INCORRECT"

    def test_goes_wrong_while_timed(self):
        def kernel(backend, arrays, right):
            right()
            if backend.launches > 50:
                arrays["y"][0, 7] += 1

        assert row(kernel).status == "INCORRECT"

    def test_writes_beside_its_output(self):
        def kernel(_, arrays, right):
            right()
            raw = arrays["y"]
            while raw.base is not None:
                raw = raw.base
            end = arrays["y"].ctypes.data - raw.ctypes.data + arrays["y"].nbytes
            raw[end] = 0

        result = row(kernel)
        assert result.status == "INCORRECT"
        assert "memory beside y of buffer 0 was written to" in result.reason

    def test_fails_in_the_middle(self):
        def kernel(backend, _, right):
            if backend.launches > 40:
                raise RuntimeError("device lost")
            right()

        result = row(kernel)
        assert (result.status, result.reason) == ("ERROR", "RuntimeError: device lost")
        assert result.median_s is None

    def test_throttled(self):
        machine = Machine()
        machine.telemetry.clock_of = lambda _: 1400.0
        measured = machine.measure(1e-3)
        assert measured.status == "THROTTLED"
        assert machine.clock.slept > 0

    def test_throttled_for_a_while(self):
        """Samples of the slow time are thrown away, and the rest is fine."""
        machine = Machine()
        hot = lambda t: 0.3 < t < 0.4  # noqa: E731
        machine.telemetry.clock_of = lambda t: 1000.0 if hot(t) else 2000.0
        measured = machine.measure(lambda t: 2e-3 if hot(t) else 1e-3)
        assert measured.status == "OK"
        assert max(measured.kernel.samples) < 1.1e-3
        assert measured.clock_mhz == 2000

    def test_throttled_in_the_middle_and_never_measured_again(self):
        """Slow samples that came in after all the pauses taint the row, though the clock recovers."""
        machine, reads = Machine(), itertools.count()
        machine.telemetry.clock_of = lambda _: 1000.0 if next(reads) in range(5, 10) else 2000.0
        assert machine.measure(1e-3, rules=Rules(cap_s=10, throttle_retries=3)).status == "THROTTLED"

    def test_a_device_that_says_it_throttles(self):
        machine = Machine()
        machine.telemetry.read = lambda: engine.Reading(None, throttled=True)
        assert machine.measure(1e-3).status == "THROTTLED"

    def test_drifting(self):
        measured = Machine().measure(lambda t: 1e-3 * (1 + 0.1 * t), rules=Rules(cap_s=3))
        assert measured.status == "NOISY"
        assert measured.reason.startswith("drifts: the last half is +")

    def test_bimodal(self):
        count = itertools.count()
        measured = Machine().measure(lambda _: 1.3e-3 if next(count) % 2 else 1e-3)
        assert measured.status == "NOISY"
        assert measured.reason.startswith("bimodal: a gap of ")

    def test_turns_that_disagree(self):
        """Samples of a turn are alike, turns are not: hundreds of samples, but few measurements."""
        machine, rng = Machine(noise=0.0001), np.random.default_rng(0)
        pace, until = [1.0], [0.0]

        def seconds(now):
            if now >= until[0]:
                pace[0], until[0] = rng.uniform(0.9, 1.1), now + 0.012
            return 1e-3 * pace[0]

        measured = machine.measure(seconds, rules=Rules(cap_s=1, min_s=0))
        assert measured.status == "NOISY"
        assert ci95_rel(measured.kernel.samples) < ci95_rel(measured.kernel.turns)

    def test_a_first_launch_that_hides_how_short_the_others_are(self):
        """The sizes of samples are chosen once it is warm."""
        count = itertools.count()
        measured = Machine().measure(lambda _: 1e-2 if next(count) < 5 else 2e-6, floor_s=1e-6, buffers=20)
        assert measured.kernel.per_sample >= 10

    def test_clock_running_backwards(self):
        machine = Machine()
        machine.clock.backwards_at = 40
        with pytest.raises(MeasurementError, match="the clock fake ran backwards: -1e-06 s for 1 launches"):
            machine.measure(1e-3)

    def test_clock_standing_still(self):
        machine = Machine()
        machine.clock.step = 1e9
        with pytest.raises(MeasurementError, match="too coarse: 5 launches took 0 s, a sample needs 1e-06 s"):
            machine.measure(1e-9)

    def test_timer_too_coarse_for_one_launch(self):
        """A timer of 1 ms: launches are gathered until a sample is a hundred steps long."""
        machine = Machine(resolution_s=1e-3)
        machine.clock.step = 1e-3
        measured = machine.measure(1.7e-4, rules=Rules(cap_s=30, min_s=0), buffers=1000)
        assert measured.kernel.per_sample * 1.7e-4 >= 0.1
        assert measured.kernel.median_s == pytest.approx(1.7e-4, rel=0.01)

    def test_slow_first_launches(self):
        """Compilation, page faults, a clock that ramps: over before the samples that count."""
        count = itertools.count()
        measured = Machine(noise=0.001).measure(lambda _: 1e-3 * max(1.0, 5 - 0.1 * next(count)), rules=RULES)
        assert measured.status == "OK"
        assert max(measured.kernel.samples) < 1.1e-3

    def test_buffers_that_fit_a_cache(self):
        case, contract = row_case(), OPS["gemv"]
        small = contract.problem(case, 0, 0)[:1]
        with pytest.raises(MeasurementError, match="1 buffers of .* stay in caches; cold needs 1048576"):
            check_buffers(contract, case, small, 1 << 20)
        check_buffers(contract, case, contract.problem(case, 0, 1 << 20), 1 << 20)

    def test_the_same_buffer_counted_again_and_again(self):
        """A rotation of one buffer under many names."""
        case, contract = row_case(), OPS["gemv"]
        one = contract.problem(case, 0, 0)[0]
        with pytest.raises(MeasurementError, match="100 buffers of .* stay in caches"):
            check_buffers(contract, case, [one] * 100, 1 << 20)

    def test_more_bytes_than_the_buffers_hold(self):
        case, contract = row_case(), OPS["gemv"]

        class Tiny(Instance):
            expect = dict

        tiny = Tiny({"x": aligned((4,), np.float32)})
        with pytest.raises(MeasurementError, match="counts .* bytes a launch, which touches 16 at most"):
            check_buffers(contract, case, [tiny], 0)

    def test_every_expert_counted_where_few_are_visited(self):
        contract = OPS["gemv_moe"]
        case = Case("gemv_moe", "bf16", "test", {"M": 1, "N": 64, "K": 64, "E": 16, "top_k": 2, "x_slots": 1})
        problem = contract.problem(case, 0, 0)
        check_buffers(contract, case, problem, 0)
        contract = type(contract)()
        contract.distinct = lambda case: case.dims["E"]
        with pytest.raises(MeasurementError, match="counts 131.* bytes a launch, which touches 16.* at most"):
            check_buffers(contract, case, problem, 0)

    def test_faster_than_the_vendor_says(self):
        """17,152 bytes in 0.2 us are 86 GB/s: no phone does that."""
        rules = Rules(cap_s=0.01, min_s=0, warmup_s=0)
        result = row(seconds=2e-7, device=device_of("iphone-17"), rules=rules)
        assert result.status == "SUSPECT"
        assert "exceeds the 68.26 that the device can do" in result.reason
        assert result.pct_spec > 100


def row_case():
    return CASES["gemv"]


class TestInterval:
    @pytest.mark.parametrize("n", [31, 100, 1001])
    @pytest.mark.parametrize("draw", ["normal", "exponential", "bimodal"])
    def test_agrees_with_scipy(self, n, draw):
        rng = np.random.default_rng(n)
        samples = {
            "normal": lambda: rng.normal(10, 1, n),
            "exponential": lambda: 1 + rng.exponential(1, n),
            "bimodal": lambda: np.where(rng.random(n) < 0.3, 2.0, 1.0) + rng.normal(0, 0.01, n),
        }[draw]()
        theirs = scipy.stats.bootstrap((samples,), np.median, method="percentile", n_resamples=10_000, rng=rng)
        low, high = median_interval(samples)
        width = theirs.confidence_interval.high - theirs.confidence_interval.low
        assert abs(low - theirs.confidence_interval.low) <= 0.15 * width
        assert abs(high - theirs.confidence_interval.high) <= 0.15 * width

    def test_covers_the_median_about_95_times_of_100(self):
        rng = np.random.default_rng(0)
        hits = sum(low <= 0 <= high for low, high in (median_interval(rng.normal(0, 1, 51)) for _ in range(1000)))
        assert 920 <= hits <= 985

    def test_one_sample_says_nothing(self):
        assert median_interval([1.0]) == (-np.inf, np.inf)

    def test_relative(self):
        assert ci95_rel([1.0] * 10) == 0
