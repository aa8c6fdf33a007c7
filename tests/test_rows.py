# SPDX-License-Identifier: MIT
"""Rows of a fake device: rivals that fail, what is not served, memory of its own, no invented numbers."""

import itertools

import numpy as np
import pytest
from fakes import CASES, RULES, FakeBackend, FakeBench, row

from roofbench import hazards, rows
from roofbench.backends.base import Launch, Unsupported
from roofbench.backends.numpy_ import NumPy
from roofbench.numerics import Limit, poison
from roofbench.op import Case
from roofbench.ops import OPS
from roofbench.results import Look
from roofbench.rivals import Bound, Rival
from roofbench.rows import RowSpec
from roofbench.telemetry import Reading


def row_case():
    return CASES["gemv"]


class TestRivals:
    """What goes wrong with another's library is said of it, and costs our row nothing."""

    class Other(Rival):
        name, module, install = "other", "numpy", ""

        def __init__(self, call, bind=None):
            self.call, self.fails = call, bind

        def bind(self, case, buffers):
            if self.fails:
                raise self.fails
            return [Bound(self.call, dict) for _ in buffers]

    def row(self, monkeypatch, call=lambda: None, bind=None):
        backend = FakeBackend()
        monkeypatch.setattr(rows, "RIVALS", {"fake": (self.Other(lambda: call(backend.machine.clock), bind),)})
        result = FakeBench(backend).measure(RowSpec(row_case(), "fake"), RULES)
        assert result.status == "OK", result.reason
        return result.rivals[0]

    def test_it_is_interleaved(self, monkeypatch):
        rival = self.row(monkeypatch, lambda clock: clock.spend(2e-3))
        assert rival.speedup == pytest.approx(2, rel=0.02)

    def test_it_cannot_be_bound(self, monkeypatch):
        rival = self.row(monkeypatch, bind=RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED"))
        assert (rival.median_s, rival.reason) == (None, "RuntimeError: CUBLAS_STATUS_NOT_SUPPORTED")

    def test_it_fails_in_the_middle(self, monkeypatch):
        count = itertools.count()

        def call(clock):
            if next(count) > 20:
                raise RuntimeError("device lost")
            clock.spend(1e-3)

        assert self.row(monkeypatch, call).reason == "RuntimeError: device lost"

    def test_it_is_too_fast_for_the_clock(self, monkeypatch):
        assert "too coarse" in self.row(monkeypatch, lambda _: None).reason

    def test_only_its_first_launch_is_slow(self, monkeypatch):
        """It compiles then."""
        count = itertools.count()
        rival = self.row(monkeypatch, lambda clock: clock.spend(1e-3 if next(count) else 5.0))
        assert (rival.reason, rival.median_s) == (None, pytest.approx(1e-3))

    def test_every_launch_is_slow(self, monkeypatch):
        rival = self.row(monkeypatch, lambda clock: clock.spend(1.5))
        assert (rival.reason, rival.median_s) == ("one launch, apart", 1.5)


class TestUnsupported:
    def test_sizes_that_a_backend_does_not_serve(self):
        class Picky(FakeBackend):
            def bind(self, op, format, dims, arrays):
                raise Unsupported("K must be a multiple of 256")

        result = FakeBench(Picky()).measure(RowSpec(row_case(), "fake"), RULES)
        assert (result.status, result.reason) == ("UNSUPPORTED", "K must be a multiple of 256")

    def test_a_probe_that_a_backend_does_not_have(self):
        case = Case("probe", "f32", "matrix", {"kind": 5, "n": 1 << 20})
        assert FakeBench(FakeBackend()).measure(RowSpec(case, "fake"), RULES).status == "UNSUPPORTED"

    def test_a_launch_that_takes_for_ever(self):
        backend = FakeBackend(seconds=48.0)
        result = FakeBench(backend).measure(RowSpec(row_case(), "fake"), RULES)
        assert (result.status, result.reason) == ("UNSUPPORTED", "a launch takes 48 s")
        assert backend.launches == 1


def test_what_does_not_fit_into_memory_is_unsupported():
    backend = FakeBackend()
    backend.free_memory = lambda: 1 << 10
    result = FakeBench(backend).measure(RowSpec(row_case(), "fake"), RULES)
    assert result.status == "UNSUPPORTED"
    assert "GiB of the device's memory, 0.0 are free" in result.reason


class TestDeviceMemory:
    """A device whose memory the host does not see: all traffic goes through its launches."""

    class Away(Launch):
        def __init__(self, call, arrays):
            self.device = {name: array.copy() for name, array in arrays.items()}
            super().__init__(lambda: call(self.device), self.device)

        def load(self, contents):
            for name, content in contents.items():
                self.device[name][...] = content

        def poison(self, name):
            poison(self.device[name])

        def spoil(self, name, where):
            self.device[name].reshape(-1).view(np.uint8).reshape(-1, self.device[name].itemsize)[where] = 0xFF

        def peek(self, name, where):
            return self.device[name].reshape(-1)[where]

        def output(self, name):
            return self.device[name].copy()

        def intact(self, name):
            return True

    class Backend(FakeBackend):
        def bind(self, op, format, dims, arrays):
            def call(device):
                self.machine.clock.spend(self.seconds)
                NumPy().bind(op, format, dims, device)()

            return TestDeviceMemory.Away(call, arrays)

    @pytest.mark.parametrize("op", ["gemv", "kv_append", "kv_gather"])
    def test_rows_are_measured_there(self, op):
        result = FakeBench(self.Backend()).measure(RowSpec(CASES[op], "fake"), RULES)
        assert result.status == "OK", result.reason

    @pytest.mark.parametrize("cache", ["cold", "warm"])
    def test_arrays_that_buffers_share_are_shared_there(self, cache):
        """One w of a warm row, one w of all the launches that visit its experts."""
        uploads = {}

        class Sharing(self.Backend):
            def bind_all(self, op, format, dims, sets):
                launches = super().bind_all(op, format, dims, sets)
                for launch, arrays in zip(launches, sets, strict=True):
                    for name, array in arrays.items():
                        launch.device[name] = uploads.setdefault((name, array.ctypes.data), launch.device[name])
                return launches

        case = Case("gemv_moe", "bf16", "moe", {"M": 1, "N": 64, "K": 64, "E": 8, "top_k": 2, "x_slots": 1})
        case = row_case() if cache == "warm" else case
        result = FakeBench(Sharing()).measure(RowSpec(case, "fake", cache), RULES)
        assert result.status == "OK", result.reason
        weights = [place for name, place in uploads if name == "w"]
        assert len(weights) < result.buffers

    def test_results_come_back_to_a_caller(self):
        from roofbench.hazards import inputs

        dims = {"M": 2, "N": 8, "K": 64}
        arrays = inputs("gemv", "f32", dims, np.random.default_rng(0))
        self.Backend().run("gemv", "f32", arrays)
        known = OPS["gemv"].reference("f32", arrays)["y"]
        assert known.error(arrays["y"], Limit(64)) <= 1


class TestDeviceSays:
    """What the driver said before, during and after a row."""

    class Telling(FakeBackend):
        def telemetry(self):
            looks = itertools.chain(
                [Reading(300.0, False, 2600.0, 70.0, 35.0, ("idle",))],
                [
                    Reading(1900.0, False, 2600.0, 650.0, None, ("power cap",)),
                    Reading(1980.0, True, None, 690.0, None, ()),
                ],
                itertools.repeat(Reading(1980.0, False, 2600.0, 700.0, 60.0, ())),
            )
            self.read = lambda: next(looks)
            return self

        nominal_mhz = None

    def test_looks_are_summed_up(self):
        result = FakeBench(self.Telling()).measure(RowSpec(row_case(), "fake"), RULES)
        said = result.telemetry
        assert said.before == Look(sm_clock_mhz=300, memory_clock_mhz=2600, power_w=70, temperature_c=35,
                                   throttle_reasons=["idle"])  # fmt: skip
        assert (said.during.sm_clock_mhz, said.during.power_w, said.during.temperature_c) == (1980, 700, 60)
        assert said.during.throttle_reasons == ["power cap"]  # of one round, which was thrown away or not
        assert said.after.throttle_reasons == []
        assert result.clock_mhz == 1980

    def test_cores_have_a_clock_only(self):
        class Cores(self.Telling):
            accelerator = False

        result = FakeBench(Cores()).measure(RowSpec(row_case(), "fake"), RULES)
        assert result.telemetry is None
        assert result.clock_mhz == 1980


@pytest.mark.parametrize(("paths", "path"), [((None, None), None), (("vector",) * 2, "vector"), (("vector", "x"), "x")])
def test_the_path_of_a_row_is_that_of_its_launches(paths, path):
    class Named(FakeBackend):
        def bind_all(self, *given):
            launches = super().bind_all(*given)
            for launch, name in zip(launches, [*paths[:1], *paths[1:] * len(launches)], strict=False):
                launch.path = name
            return launches

    result = FakeBench(Named()).measure(RowSpec(row_case(), "fake"), RULES)
    assert result.buffers > 1
    assert result.path == path


def test_a_row_that_is_over_keeps_no_memory(monkeypatch):
    forgotten, backend = [], FakeBackend(kernel=lambda *_: None)  # of failing rows, too
    monkeypatch.setattr(backend.machine.clock, "forget", lambda: forgotten.append(1))
    assert FakeBench(backend).measure(RowSpec(row_case(), "fake"), RULES).status == "INCORRECT"
    assert forgotten == [1]


def test_rows_have_no_invented_numbers():
    """What is not known is None: there is no roof, no peak and no rival here."""
    result = row()
    assert result.status == "OK"
    assert result.pct_spec is result.pct_measured is result.pct_clock is None
    assert result.roof.measured is result.roof.spec is result.roof.clock is None
    assert result.rivals == []
    assert result.numerics.err_over_bound <= 1
    assert result.n == len(result.samples_s) >= 30
    assert result.gbps == pytest.approx(OPS["gemv"].traffic(row_case()).bytes / result.median_s / 1e9)
    assert result.buffers > 1


def test_numerics_on_a_device_tell_right_from_wrong_and_refused():
    def refuse(backend, arrays, right):
        raise ValueError("x is not to its taste")

    def wrong(backend, arrays, right):
        right()
        arrays["y"][...] = 0

    def numerics(kernel=None, seconds=60.0):
        return FakeBench(FakeBackend(kernel=kernel)).numerics("fake", "gemv", "bf16", seconds)

    every = len(list(hazards.sizes("gemv", "bf16"))) * len(hazards.KINDS)
    assert numerics() == f"right at {every} of {every}"
    assert numerics(seconds=-1.0) == f"right at 0 of {every}"
    assert numerics(refuse) == f"INCORRECT: {every} of {every} problems are refused"
    assert numerics(wrong).startswith("INCORRECT: y at M=1 N=5 K=1 on random values")
