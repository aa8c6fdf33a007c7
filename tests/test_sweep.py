# SPDX-License-Identifier: MIT
"""Every configuration of a kernel beside the present one, on a fake device."""

import io
import json
import re
import signal
from types import SimpleNamespace

import msgspec
import pytest
from fakes import CASES, FakeBackend, FakeBench
from rich.console import Console
from support import CPU

from roofbench import cli, results, session, sweep, trials
from roofbench.backends.base import Claim, Launch, Ways
from roofbench.backends.numpy_ import NumPy
from roofbench.ceilings import Roof
from roofbench.engine import Rules
from roofbench.numerics import Limit
from roofbench.ops import OPS
from roofbench.plan import Options
from roofbench.rows import RowSpec
from roofbench.session import Session
from roofbench.sweep import Shape, Sweep
from roofbench.trials import Stands, Trial
from roofbench.worker import Worker

RULES = Rules(cap_s=0.5, min_s=0.02, min_samples=20, min_turns=8)


CONFIGS = ("Config(4, 1)", "Config(8, 1)", "Config(16, 1)", "Config(32, 1)")


class Tuned(FakeBackend):
    """Configuration 0 takes a millisecond, as the present one does; 1 half of it; others fail."""

    def __init__(self):
        super().__init__()
        self.drift = 0.0
        self.configs = dict(zip(CONFIGS, (1e-3, 0.5e-3, "wrong", "raises"), strict=True))

    def ways(self, op, format, dims):
        others = {name: {"variant": i} for i, name in enumerate(self.configs)}
        present = next(iter(others))
        sizes = {name: dims[name] for name in ("M", "N", "K") if name in dims}
        del others[present]
        return Ways("kernels/gemv.py", "sm_90", sizes, ("BLOCK", "SPLIT"), present, others)

    def claim(self, op, format):
        self.limits = []
        return Claim(lambda dims: self.limits.append(dims.get("variant")) or Limit(dims.get("K", 0)), None)

    def bind(self, op, format, dims, arrays):
        right = NumPy().bind(op, format, dims, arrays)
        seconds = list(self.configs.values())[dims.get("variant", 0)]

        def call():
            if seconds == "raises":
                raise RuntimeError("out of resource: shared memory,\n  Required: 400")
            self.machine.clock.spend((1e-3 if seconds == "wrong" else seconds) * (1 + self.drift))
            self.drift *= 1.002  # the machine becomes slower and slower
            right()
            if seconds == "wrong":
                next(iter(arrays.values()))[...] = 7
                arrays["y" if "y" in arrays else "key_cache"][...] = 7

        return Launch(call, arrays)


@pytest.fixture
def bench():
    return FakeBench(Tuned())


def trial(bench, config, op="gemv", *, roof=False, stands=None):
    way = bench._backend.ways(op, "bf16", CASES[op].dims).others.get(config, {})
    return (stands or Stands(bench)).trial(RowSpec(CASES[op], "fake"), config, way, RULES, roof)


def test_a_configuration_is_timed_beside_the_present_one(bench):
    found = trial(bench, "Config(8, 1)")
    assert found.status in ("OK", "NOISY"), found.reason
    assert found.median_s == pytest.approx(0.5e-3, rel=0.01)
    assert found.present_s == pytest.approx(1e-3, rel=0.01)
    assert found.ratio == pytest.approx(2, rel=0.01)
    assert found.ratio_ci95[0] > 1.9
    assert trial(bench, "Config(4, 1)").ratio == pytest.approx(1, rel=0.01)


def test_a_machine_that_drifts_favours_none(bench):
    bench._backend.drift = 1e-2
    assert trial(bench, "Config(8, 1)").ratio == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("op", ["gemv", "kv_append"])
def test_one_that_is_wrong_or_fails_has_no_time_and_costs_no_other(bench, op):
    stands = Stands(bench)
    for _ in range(2):
        before = bench._backend.machine.clock.time
        wrong = trial(bench, "Config(16, 1)", op, stands=stands)
        assert (wrong.status, wrong.median_s) == ("INCORRECT", None)
        assert bench._backend.machine.clock.time - before < 0.1  # it was not timed
        failed = trial(bench, "Config(32, 1)", op, stands=stands)
        assert (failed.status, failed.ratio) == ("ERROR", None)
        assert failed.reason == "RuntimeError: out of resource: shared memory, Required: 400"
        assert trial(bench, "Config(8, 1)", op, stands=stands).ratio == pytest.approx(2, rel=0.01)


def test_buffers_are_made_once_for_all(bench, monkeypatch):
    made = []
    real = trials.Gate
    monkeypatch.setattr(trials, "Gate", lambda *given: made.append(1) or real(*given))
    stands = Stands(bench)
    for config in ("Config(8, 1)", "Config(32, 1)", "Config(4, 1)"):
        trial(bench, config, stands=stands)
    assert len(made) == 1
    trial(bench, "Config(16, 1)", stands=stands)  # may have written anywhere
    trial(bench, "Config(8, 1)", stands=stands)
    assert len(made) == 2


def test_a_configuration_has_its_own_chain_of_additions(bench):
    trial(bench, "Config(8, 1)")
    assert 1 in bench._backend.limits


def test_it_runs_in_a_process_of_its_own():
    """Here on the cores, whose kernels have one configuration."""
    spec = RowSpec(type(CASES["gemv"])("gemv", "f32", "test", {"M": 1, "N": 512, "K": 512}), "cpu")
    worker = Worker(None, 1 << 16, rivals=())
    try:
        assert worker.ways(spec) == "backend cpu has no configurations of it"
        found = worker.trial(spec, "present", {}, Rules(cap_s=0.1), roof=True)
        failed = worker.trial(spec, "other", {"M": -1}, Rules(cap_s=0.1), roof=False)
    finally:
        worker.close()
    assert found.status in ("OK", "NOISY"), found.reason
    assert found.ratio > 0
    assert found.pct_measured > 0
    assert failed.status == "ERROR"
    assert "refuses M" in failed.reason


def test_what_has_no_configurations():
    stands = Stands(FakeBench(FakeBackend()))
    assert stands.ways(RowSpec(CASES["gemv"], "fake")) == "backend fake has no configurations of it"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A session whose worker is this process, with a fake device of two GEMV shapes."""
    monkeypatch.setattr(session, "LOCK", tmp_path / "roofbench.lock")
    made = Session(Options(ops=("kv_append",), formats=("bf16",)), tmp_path / "run.json", say=lambda _: None)
    bench = FakeBench(Tuned())
    stands = Stands(bench)
    made.worker.ways = stands.ways
    made.worker.trial = lambda spec, config, way, rules, roof: stands.trial(spec, config, way, RULES, roof)
    made.backend = bench._backend
    case = CASES["gemv"]
    other = type(case)(case.op, case.format, "m/other/M1", {**case.dims, "N": 96})
    again = type(case)(case.op, case.format, "m/twin/M2", case.dims)
    made.specs = [RowSpec(case, "fake"), RowSpec(other, "fake"), RowSpec(again, "fake"), RowSpec(case, "fake", "warm")]
    yield made
    made.finish()


def shown(file, width=120):
    text = io.StringIO()
    sweep.show(file, Console(file=text, width=width, highlight=False, markup=False))
    return text.getvalue()


def test_the_sweep_finds_the_best_and_says_what_to_write(run, tmp_path):
    said = []
    file = sweep.sweep(run, tmp_path / "sweep.json", said.append)
    assert file.finished
    assert [shape.sizes["N"] for shape in file.shapes] == [64, 96]  # the same sizes of another layer are one shape
    shape = file.shapes[0]
    assert shape.present == "Config(4, 1)"
    assert [trial.status for trial in shape.trials][1:] == ["INCORRECT", "ERROR"]
    assert shape.gains
    assert shape.best.config == "Config(8, 1)"
    assert msgspec.json.decode((tmp_path / "sweep.json").read_bytes(), type=Sweep) == file
    assert said[0].endswith("s] gemv bf16 2 64 128: 4 configurations")
    assert "  Config(32, 1): ERROR: RuntimeError: out of resource: shared memory, Required: 400" in said
    text = shown(file)
    assert "kernels/gemv.py, bf16 on sm_90\nConfigurations are BLOCK, SPLIT.\n" in text
    assert re.search(r"^2 64 128 +4, 1 +1000 +8, 1 +500(\.\d)? +2.00 +-$", text, re.MULTILINE), text
    assert "Config(32, 1) at 2 64 128 and 1 more: ERROR: RuntimeError: out of resource" in text
    assert (
        "# sm_90, bf16: (M, N, K) -> Config(BLOCK, SPLIT)\n(2, 64, 128): Config(8, 1),  # 2.00 x Config(4, 1)\n" in text
    )


def test_where_none_is_faster_the_present_one_stays(run, tmp_path):
    run.backend.configs = {"Config(4, 1)": 1e-3, "Config(8, 1)": 0.995e-3, "Config(16, 1)": 1.2e-3}
    file = sweep.sweep(run, tmp_path / "sweep.json", lambda _: None)
    assert not any(shape.gains for shape in file.shapes)
    text = shown(file)
    assert re.search(r"^2 64 128 +4, 1 +\d+(\.\d)? +the same +\d+(\.\d)? +1.00 +-$", text, re.MULTILINE), text
    assert "No configuration is faster than the present one by 1 %" in text
    assert "->" not in text


def test_an_interrupt_leaves_what_was_tried(run, tmp_path):
    tried = run.worker.trial

    def stops(spec, config, *rest):
        if spec.case.dims["N"] == 96:
            raise KeyboardInterrupt
        return tried(spec, config, *rest)

    run.worker.trial = lambda *given, **named: stops(*given, *named.values())
    file = sweep.sweep(run, tmp_path / "sweep.json", lambda _: None)
    assert file.interrupted
    assert not file.finished
    assert len(json.loads((tmp_path / "sweep.json").read_text())["shapes"]) == 2
    assert "2 96 128" in shown(file)


def test_time_that_is_up(run, tmp_path):
    run.options = SimpleNamespace(seconds=1e-9)
    file = sweep.sweep(run, tmp_path / "sweep.json", lambda _: None)
    assert not file.finished
    assert [(shape.best, shape.trials) for shape in file.shapes] == [(None, [])] * 2
    assert len(json.loads((tmp_path / "sweep.json").read_text())["shapes"]) == 2
    text = shown(file)
    assert "2 64 128: not tried: the time was up\n2 96 128: not tried: the time was up\n" in text
    assert "2 64 128, 2 96 128: nothing could be timed.\n" in text


def test_time_that_is_up_within_a_shape(run, tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(sweep, "time", SimpleNamespace(monotonic=lambda: now[0]))
    run.options = SimpleNamespace(seconds=10.0)
    tried = run.worker.trial
    run.worker.trial = lambda *given, **more: (now.append(now.pop() + 6.0), tried(*given, **more))[1]
    file = sweep.sweep(run, tmp_path / "sweep.json", lambda _: None)
    assert len(file.shapes[0].trials) == 2
    assert file.shapes[0].best.config == "Config(8, 1)"  # what was tried is confirmed
    assert file.shapes[1].best is None
    text = shown(file)
    assert "2 64 128: 1 configurations were not tried: the time was up" in text
    assert "2 96 128: not tried: the time was up" in text


def test_what_is_wrong_is_no_verdict(run, tmp_path):
    run.backend.configs = dict.fromkeys(CONFIGS, "wrong")
    file = sweep.sweep(run, tmp_path / "sweep.json", lambda _: None)
    assert file.failed
    text = shown(file)
    assert "2 64 128, 2 96 128: nothing could be timed." in text
    assert "Config(8, 1) at 2 64 128 and 7 more: INCORRECT: y " in text
    assert "No configuration is faster" not in text


@pytest.mark.parametrize(("status", "failed"), [("THROTTLED", False), ("SUSPECT", True), ("ERROR", True)])
def test_a_best_that_does_not_count_is_no_line(status, failed):
    best = Trial(config="Config(8, 1)", status=status, reason="of heat", median_s=1e-4, present_s=2e-4, ratio=2.0,
                 ratio_ci95=(1.9, 2.1), pct_measured=310.0)  # fmt: skip
    shape = Shape(op="gemv", backend="triton", format="bf16", case="c", file="f.py", chip="sm_90", sizes={"M": 1},
                  fields=["BLOCK", "SPLIT"], present="Config(4, 1)", best=best)  # fmt: skip
    file = Sweep(created="", command="", device={}, environment={}, shapes=[shape])
    assert not shape.gains
    assert file.failed == failed
    text = shown(file)
    assert f"Config(8, 1) at 1: {status}: of heat" in text
    assert "->" not in text
    assert "No configuration is faster" not in text
    assert "310" not in text


def test_a_best_that_is_faster_than_its_roof_can_be(bench):
    """The roof does its work in a millisecond; this does as much in half of it."""
    work = OPS["gemv"].traffic(CASES["gemv"]).bytes
    roof = bench._backend.machine.lane("read", 1e-3)
    bench.bound = lambda spec: ("bandwidth", Roof("read", CASES["gemv"], work, roof, work / 1e-3, [], {}))
    found = trial(bench, "Config(8, 1)", roof=True)
    assert found.status == "SUSPECT"
    assert re.match(r"(199|200)% of the measured read roof at least", found.reason)
    assert trial(bench, "Config(4, 1)", roof=True).status in ("OK", "NOISY")
    bench.device = SimpleNamespace(kind="gpu", memory=SimpleNamespace(bandwidth_gbs=1e-9))
    found = trial(bench, "Config(4, 1)", roof=True)
    assert (found.status, "that the device can do" in found.reason) == ("SUSPECT", True)


def test_ends_from_outside_are_like_interrupts(run, tmp_path):
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        run.worker.trial = lambda *_, **__: signal.raise_signal(signal.SIGTERM)
        assert sweep.sweep(run, tmp_path / "sweep.json", lambda _: None).interrupted
        run.finish()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_file_that_cannot_be_written_costs_no_trial(run, tmp_path):
    (tmp_path / "file").touch()
    run.worker.trial = lambda *_, **__: pytest.fail("a trial was made")
    with pytest.raises(ValueError, match="results cannot be written to "):
        sweep.sweep(run, tmp_path / "file" / "sweep.json", lambda _: None)


def test_narrow_terminals_lose_nothing():
    best = Trial(config="Config(16, 64, 256, 8, 4, 2)", status="OK", median_s=1.2345e-4, present_s=2e-4, ratio=1.62,
                 ratio_ci95=(1.6, 1.64), pct_measured=91.4)  # fmt: skip
    shape = Shape(op="gemv", backend="triton", format="int4", case="c", file="kernels/gemv_int.py", chip="sm_121",
                  sizes={"M": 16, "N": 28672, "K": 14336}, present="Config(16, 32, 512, 1, 4, 3)", best=best,
                  fields=["BLOCK_M", "BLOCK_N", "BLOCK_K", "SPLIT_K", "num_warps", "num_stages"])  # fmt: skip
    file = Sweep(created="2026-01-01", command="", device={}, environment={}, shapes=[shape])
    for width in (80, 120):
        text = shown(file, width)
        table = text[: text.index("#")]
        for word in ("28672", "14336", "123.4", "1.62", "91", "256,", "% roof"):
            assert word in table, (width, word)
        assert max(map(len, table.splitlines())) <= width
        assert "(16, 28672, 14336): Config(16, 64, 256, 8, 4, 2),  # 1.62 x Config(16, 32, 512, 1, 4, 3)\n" in text


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(session, "LOCK", tmp_path / "roofbench.lock")
    monkeypatch.chdir(tmp_path)
    if CPU.missing() is None:
        assert cli.main(["bench", "--sweep", "--backend", "cpu", "--op", "kv_append"]) == 2
        assert "roofbench: nothing to sweep: backend cpu has no configurations of it" in capsys.readouterr().err
    assert cli.main(["bench", "--sweep", "--resume", "x.json"]) == 2
    assert "--resume: a sweep starts anew" in capsys.readouterr().err
    assert not (tmp_path / "roofbench-runs").exists()


def test_the_command_prints_and_keeps_what_it_found(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(session, "LOCK", tmp_path / "roofbench.lock")
    monkeypatch.chdir(tmp_path)
    best = Trial(config="Config(8, 1)", status="OK", median_s=1e-3, present_s=2e-3, ratio=2.0, ratio_ci95=(1.9, 2.1))

    def fake(run, path, say):
        shape = Shape(op="gemv", backend="triton", format="bf16", case="c", file="kernels/gemv.py", chip="sm_90",
                      sizes={"M": 1}, fields=["BLOCK", "SPLIT"], present="Config(4, 1)", best=best)  # fmt: skip
        file = Sweep(created="", command="", device={}, environment={}, shapes=[shape], interrupted=fake.interrupted)
        results.save(file, path)
        return file

    monkeypatch.setattr(sweep, "sweep", fake)
    fake.interrupted = False
    words = ["bench", "--sweep", "--backend", "numpy", "--op", "kv_append"]
    assert cli.main(words) == 0
    said = capsys.readouterr()
    assert "(1): Config(8, 1),  # 2.00 x Config(4, 1)" in said.out
    assert (tmp_path / said.err.strip()).name.endswith("-sweep.json")
    best.status = "SUSPECT"
    assert cli.main(words) == 1
    capsys.readouterr()
    fake.interrupted = True
    assert cli.main([*words, "--json", "--out", "s.json"]) == 130
    assert json.loads(capsys.readouterr().out)["shapes"][0]["best"]["config"] == "Config(8, 1)"
    assert (tmp_path / "s.json").exists()
