# SPDX-License-Identifier: MIT
"""Plans, budgets, locks and resumption; kernels that crash or hang in their own process."""

import math
import time
from pathlib import Path

import pytest

from roofbench import results, session, sources
from roofbench.backends import BACKENDS
from roofbench.engine import Rules
from roofbench.op import SUITES, Case
from roofbench.results import Row
from roofbench.rows import RowSpec
from roofbench.session import Options, Session, plan
from roofbench.worker import Worker


def names(specs):
    return [(spec.case.op, spec.case.format) for spec in specs]


class TestPlan:
    def test_quick_has_every_op_and_every_format(self):
        specs = plan(Options())
        assert {spec.case.op for spec in specs} == {
            "probe",
            "gemv",
            "gemv_moe",
            "gemm",
            "kv_append",
            "kv_gather",
            "kv_copy_blocks",
        }
        formats = {spec.case.format for spec in specs if spec.case.op == "gemv"}
        assert formats == {"f32", "f16", "bf16", "fp8", "int8", "int4", "mxfp8", "mxfp4", "nvfp4"}

    def test_rows_are_distinct(self):
        for suite in SUITES:
            keys = [spec.blank().key for spec in plan(Options(suite=suite))]
            assert len(keys) == len(set(keys))

    def test_warm_rows_stand_beside_their_cold_ones(self):
        specs = plan(Options())
        warm = [spec for spec in specs if spec.cache == "warm"]
        assert warm
        assert all(RowSpec(spec.case, spec.backend, "cold") in specs for spec in warm)

    def test_what_no_cache_holds_has_no_warm_row(self, monkeypatch):
        monkeypatch.setattr(type(BACKENDS[0]), "last_level_cache", lambda *_: 4 << 20)
        warm = [spec for spec in plan(Options(suite="standard")) if spec.cache == "warm"]
        assert {spec.case.format for spec in warm} == {"int4"}  # 2.4 of 33.6, 16.8 and 2.4 MB

    @pytest.mark.parametrize(
        ("options", "check"),
        [
            (Options(ops=("gemm",)), lambda s: s.case.op == "gemm"),
            (Options(formats=("int4",)), lambda s: s.case.format == "int4"),
            (Options(models=("qwen3-32b",), ops=("gemv",)), lambda s: s.case.name.startswith("qwen3-32b/")),
            (Options(backends=("numpy",), ops=("gemv",)), lambda s: s.backend == "numpy"),
        ],
    )
    def test_filters(self, options, check):
        specs = plan(options)
        assert specs
        assert all(check(spec) for spec in specs)

    def test_the_reference_is_not_measured_unasked(self):
        assert {spec.backend for spec in plan(Options())} == {b.name for b in BACKENDS if b.default}

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"suite": "slow"}, "unknown suite 'slow'; known: quick standard full"),
            ({"models": ("gpt-5",)}, "unknown model 'gpt-5'"),
            ({"ops": ("conv",)}, "unknown op 'conv'"),
            ({"formats": ("int3",)}, "unknown format 'int3'"),
            ({"backends": ("opencl",)}, "unknown backend 'opencl'; known: cpu numpy"),
            ({"device": "gtx-480"}, "unknown device 'gtx-480'"),
            ({"rivals": ("blis",)}, "unknown rival 'blis'"),
        ],
    )
    def test_unknown_names(self, options, says):
        with pytest.raises(ValueError, match=says):
            Options(**options)

    def test_nothing_left(self):
        with pytest.raises(ValueError, match="nothing to measure"):
            plan(Options(ops=("gemm",), formats=("mxfp8",)))

    def test_a_backend_that_cannot_run_says_why(self, monkeypatch):
        monkeypatch.setattr(type(BACKENDS[0]), "missing", lambda _: "no compiler: apt install gcc")
        with pytest.raises(ValueError, match="backend cpu: no compiler: apt install gcc"):
            plan(Options(backends=("cpu",)))


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """A session over one short row, with a lock and a file of its own, that does not probe roofs."""
    monkeypatch.setattr(session, "LOCK", tmp_path / "roofbench.lock")
    lines = []
    made = Session(Options(ops=("kv_append",), formats=("bf16",)), tmp_path / "run.json", say=lines.append)
    made._worker.calibrate = lambda _: []
    made.lines = lines
    yield made
    made._worker.close()


def fake_row(spec, *_):
    row = spec.blank("OK")
    row.kernel_sha256 = sources.sha256(BACKENDS[0].claim(spec.case.op, spec.case.format).source)
    return row


class TestSession:
    def test_every_row_is_on_disk_when_it_is_done(self, quick, monkeypatch):
        monkeypatch.setattr(session, "SAVING", math.inf)
        quick._worker.measure = fake_row
        quick.start()
        assert results.load(quick.path).rows == []
        quick.measure(quick.specs[0])
        assert [row.status for row in results.load(quick.path).rows] == ["OK"]
        assert not results.load(quick.path).finished
        quick.finish()
        assert results.load(quick.path).finished

    def test_saving_takes_a_small_share_of_a_long_run(self, quick, monkeypatch):
        """A file that takes a second to write is written every 20 seconds, and at the end."""
        now, saved = [1.0], []

        def save(run, _):
            now[0] += 1.0
            saved.append(len(run.rows))

        monkeypatch.setattr(session.time, "monotonic", lambda: now[0])
        monkeypatch.setattr(results, "save", save)
        quick._worker.measure = fake_row
        quick.start()
        quick.specs = [RowSpec(Case("kv_append", "bf16", str(i), quick.specs[0].case.dims), "cpu") for i in range(100)]
        for spec in quick.specs:
            quick.measure(spec)
            now[0] += 1.0
        quick.finish()
        assert saved[0] == 0
        assert 5 <= len(saved) <= 7
        assert saved[-1] == 100

    def test_a_lock_of_another_user(self, quick, monkeypatch):
        def denied(**_):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(quick._lock, "acquire", denied)
        with pytest.raises(ValueError, match="roofbench.lock, which keeps other runs off .*: Permission denied"):
            quick.start()

    def test_an_interrupted_run_is_not_finished(self, quick):
        quick.start()
        quick.finish()
        assert not results.load(quick.path).finished

    def test_only_one_run_at_a_time(self, quick, tmp_path):
        quick.start()
        second = Session(quick.options, tmp_path / "second.json", say=lambda _: None)
        with pytest.raises(ValueError, match="another roofbench run is measuring on this machine"):
            second.start()
        assert not (tmp_path / "second.json").exists()
        quick.finish()

    def test_the_machine_is_free_again(self, quick, tmp_path):
        quick.start()
        quick.finish()
        second = Session(quick.options, tmp_path / "second.json", say=lambda _: None)
        second._worker.calibrate = lambda _: []
        second.start()
        second.finish()

    def test_the_introduction_names_machine_and_suite(self, quick):
        quick.start()
        quick.finish()
        text = "\n".join(quick.lines)
        assert "suite quick: 1 rows" in text
        assert "cpu: " in text

    def test_what_is_missing_is_named_with_its_install_line(self, quick, monkeypatch):
        monkeypatch.setattr(session.RIVALS["cpu"][0], "missing", lambda: "pip install torch", raising=False)
        made = Session(quick.options, quick.path, say=lambda _: None)
        assert "  missing rival torch: pip install torch" in made.introduction()

    def test_environment_is_recorded(self, quick):
        run = quick.run
        assert run.environment["llc_bytes"] > 0
        assert run.environment["packages"]["numpy"]
        assert run.environment["compiler"]
        assert run.device["found"][-1]["kind"] == "cpu"
        assert run.seed == 0
        assert run.command

    def test_caps_shrink_when_a_run_is_behind(self, quick, monkeypatch):
        quick.specs = quick.specs * 20
        now = [0.0]
        monkeypatch.setattr(session.time, "monotonic", lambda: now[0])
        quick._started = 0.0
        assert quick._cap() == 1.0
        now[0] = quick.suite.budget_s - 10
        assert quick._cap() == pytest.approx(10 / 20)
        now[0] = 500.0
        assert quick._cap() == pytest.approx(0.2)


class TestResume:
    def test_rows_are_kept_and_errors_tried_again(self, quick, tmp_path):
        spec = quick.specs[0]
        asked = []
        quick._worker.measure = lambda spec, *_: (asked.append(spec), spec.blank("OK"))[1]
        done = spec.blank("NOISY")
        quick.start([done, RowSpec(Case("gemv", "f32", "other", {"M": 1, "N": 1, "K": 1}), "cpu").blank("OK")])
        assert quick.measure(spec) is done
        assert asked == []
        quick.finish()
        assert len(results.load(quick.path).rows) == 1

    def test_an_error_is_measured_again(self, quick):
        quick._worker.measure = fake_row
        quick.start([quick.specs[0].blank("ERROR", "crashed")])
        assert quick.measure(quick.specs[0]).status == "OK"
        quick.finish()

    def test_from_the_file(self, quick):
        quick._worker.measure = fake_row
        quick.start()
        quick.measure(quick.specs[0])
        quick.finish()
        assert [row.status for row in session.resume(quick.path, quick.options)] == ["OK"]

    def test_a_kernel_that_has_changed_is_measured_again(self, quick):
        quick._worker.measure = fake_row
        quick.start()
        quick.measure(quick.specs[0])
        quick.finish()
        run = results.load(quick.path)
        run.rows[0].kernel_sha256 = "0" * 64
        results.save(run, quick.path)
        assert session.resume(quick.path, quick.options) == []

    def test_another_suite_or_machine_is_refused(self, quick):
        quick.start()
        quick.finish()
        with pytest.raises(ValueError, match="was measured with suite 'quick'; now it is 'standard'"):
            session.resume(quick.path, Options(suite="standard"))
        with pytest.raises(ValueError, match="was measured with seed 0; now it is 1"):
            session.resume(quick.path, Options(seed=1))
        with pytest.raises(ValueError, match=r"was measured with rivals None; now it is \['torch'\]"):
            session.resume(quick.path, Options(rivals=("torch",)))
        with pytest.raises(ValueError, match="was measured with source None; now it is 'mine.c'"):
            session.resume(quick.path, Options(source=Path("mine.c")))
        run = results.load(quick.path)
        run.environment["cpu"] = "Another CPU"
        results.save(run, quick.path)
        with pytest.raises(ValueError, match="was measured with cpu 'Another CPU'; now it is"):
            session.resume(quick.path, quick.options)


SPEC = RowSpec(Case("gemv", "f32", "test", {"M": 1, "N": 64, "K": 64}), "cpu")
CRASHES = {
    "segfault": ("volatile int *p = 0; return *p;", "was killed by SIGSEGV"),
    "abort": ("abort();", "was killed by SIGABRT"),
    "exit": ("_exit(3);", "ended with code 3"),
    "hang": ("for (;;) sleep(1);", "no result after 10 s"),
}


@pytest.mark.parametrize("name", CRASHES)
def test_a_kernel_that_dies_costs_its_row_only(tmp_path, name):
    body, says = CRASHES[name]
    path = tmp_path / f"{name}.c"
    path.write_text(
        "#include <stdint.h>\n#include <stdlib.h>\n#include <unistd.h>\n"
        "int rb_gemv_f32(const float *x, const float *w, float *y, int64_t M, int64_t N, int64_t K, int threads) {\n"
        f"  (void)x, (void)w, (void)y, (void)M, (void)N, (void)K, (void)threads;\n  {body}\n  return 0;\n}}\n"
    )
    worker = Worker(None, 1 << 16, rivals=(), source=path)
    try:
        start = time.monotonic()
        row = worker.measure(SPEC, Rules(cap_s=0.05), timeout_s=10)
        assert row.status == "ERROR"
        assert says in row.reason
        assert time.monotonic() - start < 30
        worker._arguments = (None, 1 << 16, 0, (), None)  # the next row has our kernel
        assert worker.measure(SPEC, Rules(cap_s=0.05), timeout_s=60).status in ("OK", "NOISY")
    finally:
        worker.close()


def test_a_row_is_the_same_in_the_child():
    worker = Worker(None, 1 << 16, rivals=())
    try:
        row = worker.measure(SPEC, Rules(cap_s=0.05), timeout_s=60)
    finally:
        worker.close()
    assert isinstance(row, Row)
    assert row.kernel_sha256
    assert row.roof.name == "read"
    assert row.pct_measured == pytest.approx(100 * row.gbps / row.roof.measured)
    assert row.clock_mhz > 100
    assert row.timer == "perf_counter"
