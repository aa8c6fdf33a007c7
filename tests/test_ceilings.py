# SPDX-License-Identifier: MIT
"""Which roof bounds a row, what the vendor's word means at the clock held, and what is impossible."""

import pytest

from roofbench import ceilings
from roofbench.backends.base import Launch
from roofbench.ceilings import Roof, Spec, calibrate, impossible, roof_of, spec_of
from roofbench.devices import device_of
from roofbench.engine import Lane
from roofbench.op import TYPES, Case, Traffic
from roofbench.ops.probe import KINDS, probes


def roof(name, rate, format="f32"):
    case = Case("probe", format, name, {"kind": KINDS.index(name), "n": 1})
    return Roof(name, case, 1, Lane(name, []), rate, [], {})


ROOFS = {name: roof(name, rate) for name, rate in zip(KINDS, (40e9, 30e9, 35e9, 36e9, 450e9, 440e9), strict=True)}


@pytest.mark.parametrize(
    ("traffic", "flops", "bound", "name"),
    [
        (Traffic(10**9, 10**3), 10**9, "bandwidth", "read"),
        (Traffic(10**9, 10**9), 0, "bandwidth", "copy"),
        (Traffic(2 * 10**9, 10**9), 0, "bandwidth", "triad"),
        (Traffic(10**6, 10**6), 10**10, "compute", "fma"),  # the better of the two peaks
        (Traffic(44 * 10**6, 0), 490 * 10**6, "bandwidth", "read"),  # 1.100 ms against 1.089 ms
        (Traffic(44 * 10**6, 0), 500 * 10**6, "compute", "fma"),  # 1.100 ms against 1.111 ms
    ],
)
def test_the_slower_of_two_times_bounds_a_row(traffic, flops, bound, name):
    got, found = roof_of(traffic, flops, "f32", ROOFS, {})
    assert (got, found.name) == (bound, name)


def test_without_probes_there_is_no_roof():
    assert roof_of(Traffic(10**9, 0), 10**9, "f32", {}, {}) == ("bandwidth", None)
    assert roof_of(Traffic(0, 0), 10**9, "f32", {}, {}) == ("compute", None)


def test_without_probes_the_vendor_says_what_bounds_a_row():
    """A GEMM of 8192^3 in bf16 on an H200: 0.4 GB at 4800 GB/s, 1.1 TFLOP at 989."""
    specs = {"bandwidth": 4800.0, "compute": 989.4}
    assert roof_of(Traffic(268 * 10**6, 134 * 10**6), 2 * 8192**3, "bf16", {}, specs) == ("compute", None)
    assert roof_of(Traffic(134 * 10**6, 16384), 2 * 8192**2, "bf16", {}, specs) == ("bandwidth", None)


def test_the_peak_of_another_type_is_no_roof():
    """bf16 instructions may be twice or sixteen times as fast as those of f32."""
    flops = 10**12
    assert roof_of(Traffic(10**6, 10**6), flops, "bf16", ROOFS, {}) == ("compute", None)
    specs = {"bandwidth": 40.0, "compute": 10**6}
    assert roof_of(Traffic(10**6, 10**6), flops, "bf16", ROOFS, specs) == ("bandwidth", ROOFS["copy"])


def test_the_peak_of_the_activations_type_is_the_roof():
    peaks = {f"matrix_{format}": roof("matrix", rate, format) for format, rate in (("bf16", 900e12), ("fp8", 1.8e15))}
    roofs = {**ROOFS, **peaks}
    for format, name in (("f32", "fma"), ("bf16", "matrix_bf16"), ("int4", "matrix_bf16"), ("fp8_w8a8", "matrix_fp8")):
        bound, found = roof_of(Traffic(10**6, 10**6), 10**15, TYPES["gemm"][format].x, roofs, {})
        assert (bound, found) == ("compute", roofs[name]), format
    for format in ("f16", "mxfp8_w8a8", "nvfp4_w4a4"):  # no probe has these
        assert roof_of(Traffic(10**6, 10**6), 10**15, TYPES["gemm"][format].x, roofs, {}) == ("compute", None)


def test_the_cores_have_peaks_of_f32_alone():
    from support import CPU

    for format in TYPES["probe"]:
        assert bool(CPU.probe_variants("matrix", format)) == (format == "f32")
    names = {case.name for case in probes(1 << 20, 1 << 20)}
    assert names == {"read", "write", "copy", "triad", "fma", "matrix", "matrix_f16", "matrix_bf16", "matrix_fp8"}


class TestSpec:
    def test_bandwidth_needs_no_clock(self):
        assert spec_of(device_of("dgx-spark"), "bandwidth", "bf16", None) == Spec(273.1, 273.1, 273.1)

    def test_a_5090_truly_reaches_121_percent_of_its_catalogue(self):
        """253 TFLOP/s at 2.85 GHz, of 209.5 at 2.407 GHz: 102 % of what that clock gives."""
        spec = spec_of(device_of("rtx-5090"), "compute", "bf16", 2850)
        assert spec.value == 209.5
        assert spec.at_clock == pytest.approx(248.06, abs=0.01)
        assert impossible(248, spec, [], "") is None
        assert impossible(253, spec, [], "") is not None

    def test_without_a_clock_the_highest_counts(self):
        spec = spec_of(device_of("rtx-5090"), "compute", "bf16", None)
        assert spec.at_clock is None
        assert spec.limit == pytest.approx(209.5 * 3.09 / 2.407)
        assert impossible(253, spec, [], "") is None

    def test_without_any_clock_there_is_no_verdict(self):
        spec = spec_of(device_of("mac-studio-m4-max"), "compute", "f16", None)
        assert spec == Spec(16.16, None, None)
        assert impossible(18.4, spec, [], "") is None

    def test_a_type_may_have_a_clock_of_its_own(self):
        """The H100's f32 peak assumes 1.98 GHz, its tensor peaks 1.83 GHz."""
        h100 = device_of("h100")
        assert spec_of(h100, "compute", "f32", 1980).at_clock == pytest.approx(66.9)
        assert spec_of(h100, "compute", "bf16", 1980).at_clock == pytest.approx(989.4 * 1.98 / 1.83)

    def test_an_unknown_device_gets_nothing(self):
        assert spec_of(None, "bandwidth", "bf16", 2000) == Spec(None, None, None)

    def test_a_peak_that_the_device_lacks(self):
        assert spec_of(device_of("rtx-4090"), "compute", "fp4", 2500) == Spec(None, None, None)

    @pytest.mark.parametrize(
        ("format", "peak"),
        [("bf16", "bf16"), ("int4", "bf16"), ("fp8_w8a8", "fp8"), ("mxfp8_w8a8", "fp8"), ("nvfp4_w4a4", "fp4")],
    )
    def test_activations_decide_the_peak(self, format, peak):
        assert ceilings.peak_name(TYPES["gemm"][format]) == peak


class TestImpossible:
    free = Spec(None, None, None)

    def test_bandwidth_above_spec(self):
        spec = spec_of(device_of("mac-studio-m3-ultra"), "bandwidth", "f16", None)
        assert impossible(819.2, spec, [], "") is None
        assert impossible(819.3, spec, [], "") == "819.3 exceeds the 819.2 that the device can do"

    @pytest.mark.parametrize(("ratio", "wrong"), [(1.0, False), (1.029, False), (1.031, True), (2.0, True)])
    def test_the_measured_roof_may_be_beaten_by_3_percent(self, ratio, wrong):
        assert bool(impossible(1, self.free, [ratio] * 30, "read")) == wrong

    def test_the_whole_interval_must_be_above(self):
        wide = [0.9, 1.3] * 15
        assert impossible(1, self.free, wide, "read") is None

    def test_few_rounds_are_no_evidence(self):
        """A bootstrap of five agrees with itself too easily."""
        assert impossible(1, self.free, [5.0] * 7, "read") is None
        assert impossible(1, self.free, [5.0] * 8, "read") is not None


def test_calibration_measures_every_variant_and_keeps_the_best():
    """On this machine, whatever it is: at least eight ways to read."""
    from support import CPU

    found, failed = calibrate(CPU, CPU.clock(), 1 << 20, kinds=("read", "fma"))
    assert not failed
    assert found.keys() == {"read", "fma"}
    read = found["read"]
    assert len(read.variants) >= 8
    assert [variant.name for variant in read.variants] == list(CPU.probe_variants("read", "f32"))
    assert read.rate == max(variant.rate for variant in read.variants)
    assert read.way == CPU.probe_variants("read", "f32")[read.lane.name]
    assert sum(variant.best for variant in read.variants) == 1


def test_a_variant_that_fails_costs_no_other():
    from fakes import FakeBackend

    class Some(FakeBackend):
        broken = ("narrow",)

        def probe_variants(self, kind, format):
            return {"narrow": {"variant": 0}, "wide": {"variant": 1}} if kind == "read" else {}

        def bind(self, op, format, dims, arrays):
            def call():
                if ("narrow", "wide")[dims["variant"]] in self.broken:
                    raise RuntimeError("out of resource: shared memory")
                self.machine.clock.spend(1e-3)

            return Launch(call, arrays)

    some = Some()
    found, failed = calibrate(some, some.clock(), 1 << 14)
    assert failed == {"read": {"narrow": "RuntimeError: out of resource: shared memory"}}
    assert [(variant.name, variant.best) for variant in found["read"].variants] == [("wide", True)]
    assert found["read"].way == {"variant": 1}
    some.broken = ("narrow", "wide")
    found, failed = calibrate(some, some.clock(), 1 << 14)
    assert not found
    assert list(failed["read"]) == ["narrow", "wide"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_variant_of_every_probe_does_its_work(kind):
    """Sums, fills, copies and counts come out right, with one thread and with all."""
    from support import CPU

    from roofbench.numerics import Limit, guards_intact, poison
    from roofbench.op import Case
    from roofbench.ops import OPS
    from roofbench.ops.probe import PEAK_TASK, PEAKS

    for n in (PEAK_TASK * 4,) if kind in PEAKS else (1, 63, 64, 4096, 100_003):
        case = Case("probe", "f32", kind, {"kind": KINDS.index(kind), "n": n})
        (instance,) = OPS["probe"].problem(case, 0, 0)
        for way in CPU.probe_variants(kind, "f32").values():
            for threads in (1, 0, 3):
                for name in instance.expect():
                    poison(instance.arrays[name])
                CPU.bind("probe", "f32", {**case.dims, **way, "threads": threads}, instance.arrays)()
                for name, expected in instance.expect().items():
                    assert expected.error(instance.arrays[name], Limit(1)) == 0, (n, way, threads)
                    assert guards_intact(instance.arrays[name])


def test_a_variant_that_is_not_there_is_refused():
    from support import CPU

    from roofbench.op import Case
    from roofbench.ops import OPS

    case = Case("probe", "f32", "read", {"kind": 0, "n": 64})
    (instance,) = OPS["probe"].problem(case, 0, 0)
    with pytest.raises(ValueError, match="rb_probe_read refuses variant = 99"):
        CPU.bind("probe", "f32", {**case.dims, "variant": 99}, instance.arrays)()
