# SPDX-License-Identifier: MIT
"""Budgets, locks, files and resumption."""

import math
import os
import signal
from pathlib import Path

import msgspec
import pytest

from roofbench import environment, progress, results, session, sources
from roofbench.backends import backend_of
from roofbench.op import Case
from roofbench.plan import Options
from roofbench.results import RoofVariant, RunRoof
from roofbench.rows import RowSpec
from roofbench.session import Session


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """A session over one short row, with a lock and a file of its own, that does not probe roofs."""
    monkeypatch.setattr(session, "LOCK", tmp_path / "roofbench.lock")
    lines = []
    made = Session(Options(ops=("kv_append",), formats=("bf16",)), tmp_path / "run.json", say=lines.append)
    made._worker.calibrate = lambda _: ([], 1e-6)
    made.lines = lines
    yield made
    made.finish()


def again(made, path, **changes):
    """A session like another one, that does not probe either."""
    new = Session(made.options, path, made.lines.append, **changes)
    new._worker.calibrate = lambda _: ([], 1e-6)
    return new


def fake_row(spec, *_):
    row = spec.blank("OK")
    row.median_s, row.samples_s, row.n = 1e-3, [1e-3], 1
    row.kernel_sha256 = sources.sha256(backend_of("cpu").claim(spec.case.op, spec.case.format).source)
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
        assert results.load(quick.path).floors_s == {"cpu": 1e-6}  # an empty launch

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
        session.LOCK.touch()
        says = f"roofbench.lock, which .*: Permission denied; owned by {session.LOCK.owner()}; remove it"
        with pytest.raises(ValueError, match=says):
            quick.start()

    def test_the_lock_is_taken_before_anything_is_measured(self, quick, tmp_path):
        quick.take()
        quick.take()
        with pytest.raises(ValueError, match="another roofbench run"):
            again(quick, tmp_path / "second.json").take()
        quick.finish()
        assert not quick.path.exists()
        again(quick, tmp_path / "second.json").take()

    def test_a_disk_that_fills_leaves_the_rows_of_the_file(self, quick, monkeypatch):
        def full(*_):
            raise ValueError("results cannot be written to run.json: No space left on device")

        monkeypatch.setattr(session, "SAVING", math.inf)
        quick._worker.measure = fake_row
        quick.specs = [RowSpec(Case("kv_append", "bf16", str(i), quick.specs[0].case.dims), "cpu") for i in range(3)]
        quick.start()
        quick.measure(quick.specs[0])
        monkeypatch.setattr(results, "save", full)
        with pytest.raises(ValueError, match="No space left"):
            quick.measure(quick.specs[1])
        quick.finish()
        assert [row.key for row in quick.run.rows] == [row.key for row in results.load(quick.path).rows]
        assert len(quick.run.rows) == 1

    def test_rows_beyond_the_budget_are_left_out(self, quick, monkeypatch):
        now = [1.0]
        monkeypatch.setattr(session.time, "monotonic", lambda: now[0])
        quick._worker.measure = fake_row
        quick.start()
        now[0] += 1.16 * quick.suite.budget_s
        row = quick.measure(quick.specs[0])
        assert row.status == "UNSUPPORTED"
        assert row.reason == "left out: the run has taken its 48 s; take a longer suite or --resume"
        quick.finish()
        assert not results.load(quick.path).finished
        assert session.resume(quick.path, quick.options).rows == []

    def test_what_a_run_may_take_can_be_said(self, quick, tmp_path, monkeypatch):
        now = [1.0]
        monkeypatch.setattr(session.time, "monotonic", lambda: now[0])
        made = Session(Options(ops=("kv_append",), seconds=600), tmp_path / "s.json")
        made.say, made._worker.measure, made._worker.calibrate = quick.say, fake_row, lambda _: ([], 1e-6)
        made.start()
        now[0] += 590
        assert made.measure(made.specs[0]).status == "OK"
        now[0] += 20
        assert "left out: the run has taken its 600 s" in made.measure(made.specs[1]).reason
        made.finish()

    def test_a_kernel_that_hung_is_not_tried_again(self, quick):
        asked = []

        def hangs(spec, rules, timeout_s):
            asked.append((spec.case.name, timeout_s))
            quick._worker.late = True
            return spec.blank("ERROR", "no result")

        quick._worker.measure = hangs
        quick.start()
        dims = quick.specs[0].case.dims
        for format, name in (("bf16", "a"), ("bf16", "b"), ("fp8", "c")):
            quick.measure(RowSpec(Case("kv_append", format, name, dims), "cpu"))
        assert [name for name, _ in asked] == ["a", "c"]
        assert quick.run.rows[1].status == "ERROR"
        assert quick.run.rows[1].reason == "left out: kv_append-cpu-bf16-a-cold took too long"
        quick.specs = [
            RowSpec(Case("kv_append", f, n, dims), "cpu") for f, n in (("bf16", "a"), ("bf16", "b"), ("fp8", "c"))
        ]

    def test_how_long_a_row_may_take(self, quick):
        assert quick._patience(1.0) == 3 + session.SETUP_S + session.RESTART_S  # its process must start
        quick._worker._process = True
        assert quick._patience(1.0) == 3 + session.SETUP_S
        quick.options = Options(seconds=400)
        assert quick._patience(1.0) == 50
        quick.options = Options(seconds=10)
        assert quick._patience(1.0) == session.HUNG_S
        quick._worker._process = None

    def test_a_run_within_its_budget_leaves_nothing_out(self, quick, monkeypatch):
        now = [1.0]
        monkeypatch.setattr(session.time, "monotonic", lambda: now[0])
        quick._worker.measure = fake_row
        quick.start()
        now[0] += 1.14 * quick.suite.budget_s
        assert quick.measure(quick.specs[0]).status == "OK"
        quick.finish()

    @pytest.mark.parametrize("number", session.LIKE_INTERRUPTS)
    def test_ends_from_outside_are_like_interrupts(self, quick, number):
        before = signal.signal(number, signal.SIG_DFL)
        try:
            quick.start()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
            quick.finish()
            assert signal.getsignal(number) == signal.SIG_DFL
        finally:
            signal.signal(number, before)

    def test_nohup_is_heeded(self, quick):
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            quick.start()
            signal.raise_signal(signal.SIGHUP)
            quick.finish()
        finally:
            signal.signal(signal.SIGHUP, before)

    def test_an_interrupted_run_is_not_finished(self, quick):
        quick.start()
        quick.finish()
        assert not results.load(quick.path).finished

    def test_only_one_run_at_a_time(self, quick, tmp_path):
        quick.start()
        second = Session(quick.options, tmp_path / "second.json", say=lambda _: None)
        with pytest.raises(ValueError, match=f"measuring on this machine.*process {os.getpid()}, {session.LOCK}"):
            second.start()
        assert not (tmp_path / "second.json").exists()
        quick.finish()

    def test_the_machine_is_free_again(self, quick, tmp_path):
        quick.start()
        quick.finish()
        second = again(quick, tmp_path / "second.json")
        second.start()
        second.finish()

    def test_the_introduction_names_machine_and_suite(self, quick):
        quick.start()
        quick.finish()
        text = "\n".join(quick.lines)
        assert "suite quick: 1 rows" in text
        assert "cpu: " in text

    def test_a_busy_machine_and_cores_that_are_not_used(self, quick):
        quick.run.telemetry["before"]["busy_share"] = 0.52
        quick.run.environment |= {"cores": 2, "threads": 1}
        lines = quick.introduction()
        assert "  The machine is busy: others use 52% of its cores; results will be off." in lines
        assert "  1 of 2 cores used (OMP_NUM_THREADS or affinity)" in lines
        quick.run.telemetry["before"]["busy_share"] = 0.02
        quick.run.environment["threads"] = 2
        assert not [line for line in quick.introduction() if "busy" in line or "used" in line]

    @pytest.mark.parametrize(
        ("words", "command"),
        [
            (["/usr/bin/roofbench", "bench", "--out", "a b"], "roofbench bench --out 'a b'"),
            (["/lib/site-packages/pytest/__main__.py", "bench/"], "python -m pytest bench/"),
            (["/lib/site-packages/roofbench/__main__.py", "bench"], "python -m roofbench bench"),
            (["roofbench", "bench", "\udcff"], "roofbench bench '?'"),
        ],
    )
    def test_the_command_can_be_run_again(self, quick, monkeypatch, words, command):
        monkeypatch.setattr(session.sys, "argv", words)
        assert session._command() == command

    def test_the_line_that_goes_on(self, quick, monkeypatch):
        quick.run.command = "roofbench bench --op kv_append"
        assert quick.again() is None
        quick.start()
        assert quick.again() == f"roofbench bench --op kv_append --resume {quick.path}"
        quick._worker.measure = fake_row
        quick.measure(quick.specs[0])
        quick.finish()
        assert quick.again() is None

    def test_what_is_missing_is_named_with_its_install_line(self, quick, monkeypatch):
        monkeypatch.setattr(session.RIVALS["cpu"][0], "missing", lambda: "pip install torch", raising=False)
        made = Session(quick.options, quick.path, say=lambda _: None)
        assert "  missing rival torch: pip install torch" in made.introduction()

    @pytest.mark.parametrize(("toolkit", "package"), [("CUDA 13.0", "nvidia-ml-py"), ("ROCm 7.0", "amdsmi")])
    def test_a_gpu_that_says_nothing(self, quick, monkeypatch, toolkit, package):
        here = {**environment.describe(), "gpu": {"name": "?", "toolkit": toolkit}}
        monkeypatch.setattr(session.environment, "describe", lambda: here)
        made = Session(quick.options, quick.path, say=lambda _: None)
        assert f"  missing clocks, power, temperature: pip install {package}" in made.introduction()
        assert f"  {toolkit}" in made.introduction()

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


class TestOut:
    """A file that is there is only written over where it is gone on with."""

    def test_what_is_no_file_of_ours(self, quick, tmp_path):
        os.mkfifo(tmp_path / "fifo")
        (tmp_path / "notes.txt").write_text("mine")
        (tmp_path / "link").symlink_to(tmp_path / "notes.txt")
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        for name, says in (
            ("fifo", "--out .*fifo is not a regular file"),
            (".", "--out .* is not a regular file"),
            ("/dev/null", "--out /dev/null is not a regular file"),
            ("notes.txt", "--out .*notes.txt exists already and is not a roofbench result file"),
            ("link", "--out .*link exists already and is not a roofbench result file"),
            ("loop", "--out .*loop"),
        ):
            with pytest.raises(ValueError, match=says):
                Session(quick.options, tmp_path / name)
        assert (tmp_path / "notes.txt").read_text() == "mine"

    def test_a_result_file(self, quick):
        quick.start()
        quick.finish()
        with pytest.raises(ValueError, match="--out .*run.json exists already; --resume .*run.json goes on with it"):
            again(quick, quick.path)
        assert again(quick, quick.path, resumed=quick.path).path == quick.path

    def test_the_source(self, tmp_path):
        path = tmp_path / "my.c"
        path.write_text("")
        with pytest.raises(ValueError, match="--out .*my.c is the file of --source"):
            Session(Options(source=path), path)

    def test_a_link_is_followed(self, quick, tmp_path):
        (tmp_path / "link").symlink_to(tmp_path / "target.json")
        made = again(quick, tmp_path / "link")
        made.start()
        made.finish()
        assert (tmp_path / "link").is_symlink()
        assert results.load(tmp_path / "target.json").suite == "quick"


class TestResume:
    def test_rows_with_a_verdict_are_kept(self, quick):
        asked = []
        quick._worker.measure = lambda spec, *_: asked.append(spec)
        quick._worker.calibrate = lambda _: asked.append("roofs")
        done = fake_row(quick.specs[0])
        roofs = [RunRoof(backend="cpu", name="read", variants=[RoofVariant("plain", 1e9, True)])]
        other = RowSpec(Case("gemv", "f32", "other", {"M": 1, "N": 1, "K": 1}), "cpu").blank("OK")
        quick.start(msgspec.structs.replace(quick.run, rows=[other, done], roofs=roofs))
        assert quick.measure(quick.specs[0]) is done
        assert asked == []
        assert "1 rows, 1 of them kept" in quick.lines[0]
        assert progress.line(quick, done).endswith("kv_append-cpu-bf16-llama-3.1-8b/kv4k-cold  kept: OK")
        assert progress.line(quick, done).startswith("[1/1 ")
        quick.finish()
        saved = results.load(quick.path)
        assert len(saved.rows) == 1
        assert saved.roofs == roofs
        assert saved.finished

    def test_a_row_that_is_measured_is_not_called_kept(self, quick):
        quick._worker.measure = fake_row
        quick.start(quick.run)
        assert "kept" not in progress.line(quick, quick.measure(quick.specs[0]))

    @pytest.mark.parametrize(
        ("status", "numbers", "kept"),
        [
            ("OK", True, True),
            ("NOISY", True, True),
            ("THROTTLED", True, True),
            ("SUSPECT", True, True),
            ("INCORRECT", False, True),
            ("ERROR", False, False),
            ("ERROR", True, False),
            ("UNSUPPORTED", False, False),
        ],
    )
    def test_which_rows_are_measured_again(self, quick, status, numbers, kept):
        row = fake_row(quick.specs[0])
        row.status = status
        if not numbers:
            row.median_s, row.samples_s, row.n = None, [], 0
        quick.run.rows = [row]
        results.save(quick.run, quick.path)
        assert session.resume(quick.path, quick.options).rows == [row] * kept

    def test_from_the_file(self, quick):
        quick._worker.measure = fake_row
        quick.start()
        quick.measure(quick.specs[0])
        quick.finish()
        assert [row.status for row in session.resume(quick.path, quick.options).rows] == ["OK"]

    def test_a_kernel_that_has_changed_is_measured_again(self, quick):
        quick._worker.measure = fake_row
        quick.start()
        quick.measure(quick.specs[0])
        quick.finish()
        run = results.load(quick.path)
        run.rows[0].kernel_sha256 = "0" * 64
        results.save(run, quick.path)
        assert session.resume(quick.path, quick.options).rows == []

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

    def test_another_device_is_refused(self, quick):
        quick.run.device["id"] = "another"
        results.save(quick.run, quick.path)
        with pytest.raises(ValueError, match="was measured with device 'another'; now it is"):
            session.resume(quick.path, quick.options)

    def test_another_commit_or_python_is_not(self, quick):
        quick.run.environment |= {"commit": "another", "python": "3.10.0", "os": "Linux-1"}
        results.save(quick.run, quick.path)
        assert session.resume(quick.path, quick.options).rows == []

    @pytest.mark.parametrize("key", session.SAME)
    def test_what_decides_a_result_is_compared(self, quick, key):
        quick.run.environment[key] = "another"
        results.save(quick.run, quick.path)
        with pytest.raises(ValueError, match=f"was measured with {key} 'another'; now it is"):
            session.resume(quick.path, quick.options)

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"backend": "opencl"}, "run.json: row kv_append-opencl-bf16-.*: unknown backend 'opencl'"),
            ({"op": "conv"}, "run.json: row conv-cpu-bf16-.*: unknown op 'conv'"),
            ({"format": "int2"}, "run.json: row kv_append-cpu-int2-.*: format 'int2' is unknown to kv_append"),
        ],
    )
    def test_rows_of_what_is_not_known_here(self, quick, change, says):
        quick.run.rows = [msgspec.structs.replace(fake_row(quick.specs[0]), **change)]
        results.save(quick.run, quick.path)
        with pytest.raises(ValueError, match=says):
            session.resume(quick.path, quick.options)
