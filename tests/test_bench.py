# SPDX-License-Identifier: MIT
"""bench/ as pytest runs it: pytest-benchmark shows the engine's device times."""

import json
import os
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

from roofbench import results, session, sources
from roofbench.ops import OPS

ROOT = Path(__file__).parent.parent
NUMPY = ("--backend", "numpy", "--op", "kv_append", "--format", "bf16")
ROW = ("--op", "kv_append", "--format", "bf16", "--rival", "none")


PLUGINS = {
    "stops": """
def pytest_runtest_logreport(report):
    if report.when == "teardown":
        raise KeyboardInterrupt
""",
    "fills": """
from roofbench import results, session

session.SAVING = float("inf")
save = results.save

def full(run, path):
    if len(run.rows) > 1:
        raise ValueError("results cannot be written to r.json: No space left on device")
    save(run, path)

results.save = full
""",
}


@pytest.fixture(scope="module")
def plugins(tmp_path_factory):
    """What goes wrong during a run: `-p` one of them."""
    folder = tmp_path_factory.mktemp("plugins")
    for name, text in PLUGINS.items():
        (folder / f"{name}.py").write_text(text)
    return folder


@pytest.fixture(scope="module")
def bench(plugins):
    def run(*arguments):
        command = [sys.executable, "-m", "pytest", str(ROOT / "bench"), "--benchmark-only", "-p", "no:cacheprovider"]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(plugins), os.environ.get("PYTHONPATH", "")])}
        return subprocess.run([*command, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="module")
def done(bench, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    files = ("--out", str(folder / "ours.json"), "--benchmark-json", str(folder / "theirs.json"))
    return bench(*ROW, *files), folder


def test_it_passes_and_shows_the_table(done):
    process, _ = done
    assert process.returncode == 0, process.stdout
    assert "CPU cores" in process.stdout
    assert "kv_append-cpu-bf16-llama-3.1-8b/kv4k-cold" in process.stdout
    assert "% of the measured roof" in process.stdout
    assert "[1/1 " in process.stdout


def test_the_table_comes_last(bench, tmp_path):
    """pytest-benchmark's own is for who asks for something of it, and above ours."""
    quiet = bench(*NUMPY, "--out", str(tmp_path / "a.json"))
    assert "Rounds" not in quiet.stdout
    asked = bench(*NUMPY, "--out", str(tmp_path / "b.json"), "--benchmark-columns=median,rounds")
    assert 0 < asked.stdout.index("Rounds") < asked.stdout.index("NumPy reference")
    for process, name in ((quiet, "a.json"), (asked, "b.json")):
        *_, path, end = process.stdout.strip().splitlines()
        assert path == str(tmp_path / name)
        assert "1 passed" in end


def test_the_ops_of_the_files_are_all_ops():
    found = []
    for path in (ROOT / "bench").glob("bench_*.py"):
        found += sources.load_module(path).OPS
    assert sorted(found) == sorted(OPS)


def test_what_is_selected_is_the_run(bench, tmp_path):
    process = bench("--backend", "numpy", "--out", str(tmp_path / "r.json"), "-k", "kv_gather and bf16")
    assert process.returncode == 0, process.stdout
    assert "suite quick: 1 rows" in process.stdout
    run = results.load(tmp_path / "r.json")
    assert [row.op for row in run.rows] == ["kv_gather"]
    assert run.finished


def test_a_run_that_is_cut_short_says_how_to_go_on(bench, tmp_path):
    process = bench("--backend", "numpy", "--op", "kv_append", "--out", str(tmp_path / "r.json"), "-p", "stops")
    assert f"To go on: python -m pytest {ROOT / 'bench'} " in process.stdout
    assert f" --resume {tmp_path / 'r.json'}\n" in process.stdout
    assert not results.load(tmp_path / "r.json").finished


def test_a_disk_that_fills_stops_the_run_with_one_line(bench, tmp_path):
    process = bench("--backend", "numpy", "--op", "kv_append", "--out", str(tmp_path / "r.json"), "-p", "fills")
    assert process.returncode == 2
    assert "Exit: roofbench: results cannot be written to r.json: No space left on device" in process.stdout
    assert "Traceback" not in process.stdout + process.stderr
    (row,) = results.load(tmp_path / "r.json").rows
    table = process.stdout[process.stdout.index("NumPy reference") :]
    assert [line.split()[2] for line in table.splitlines() if line.startswith("kv_append  ")] == [row.format]


def test_tests_and_rows_in_one_call(bench, tmp_path):
    (tmp_path / "test_other.py").write_text(
        "import pytest\n@pytest.mark.parametrize('spec', [1, 2])\ndef test_it(spec): pass\ndef test_that(): pass\n"
    )
    process = bench(*NUMPY, "--out", str(tmp_path / "r.json"), str(tmp_path))
    assert process.returncode == 0, process.stdout
    assert "1 passed, 3 skipped" in process.stdout  # by --benchmark-only
    both = subprocess.run(
        [sys.executable, "-m", "pytest", "tests", "bench", "--collect-only", "-q"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert both.returncode == 0, both.stdout
    assert "test_bench.py::test_tests_and_rows_in_one_call" in both.stdout
    assert "bench_gemv[gemv-cpu-int4-" in both.stdout


def test_a_machine_that_is_taken_is_told_of_at_once(bench, tmp_path):
    lock = filelock.FileLock(session.LOCK)
    lock.acquire()
    try:
        process = bench(*NUMPY, "--out", str(tmp_path / "r.json"))
        assert bench(*NUMPY, "--collect-only").returncode == 0
    finally:
        lock.release()
    assert process.returncode == 2
    assert "Exit: roofbench: another roofbench run is measuring on this machine" in process.stdout
    assert not (tmp_path / "r.json").exists()


def test_kept_rows_are_replayed(bench, tmp_path):
    bench(*NUMPY, "--out", str(tmp_path / "a.json"))
    files = ("--resume", str(tmp_path / "a.json"), "--out", str(tmp_path / "b.json"))
    process = bench(*NUMPY, *files)
    assert process.returncode == 0, process.stdout
    assert "kv4k-cold  kept: " in process.stdout
    assert results.load(tmp_path / "b.json").rows == results.load(tmp_path / "a.json").rows


def test_both_files_have_the_same_times(done):
    """All samples, to a nanosecond; the medians agree."""
    _, folder = done
    (row,) = results.load(folder / "ours.json").rows
    data = json.loads((folder / "theirs.json").read_text())
    (theirs,) = data["benchmarks"]
    assert theirs["stats"]["rounds"] == row.n
    assert theirs["stats"]["median"] == pytest.approx(row.median_s, rel=1e-6)
    assert theirs["stats"]["data"] == pytest.approx(row.samples_s, abs=1e-9)
    assert theirs["options"]["timer"] == "device_time"
    assert theirs["extra_info"] == {k: v for k, v in json.loads(json.dumps(row.to_dict())).items() if k != "samples_s"}


def test_a_wrong_kernel_fails_its_test(bench, tmp_path):
    from test_wrong import WRONG

    process = bench("--source", str(WRONG / "zero.c"), "--out", str(tmp_path / "r.json"))
    assert process.returncode == 1
    assert "INCORRECT: y " in process.stdout


def test_a_name_that_is_not_there_is_a_usage_error(bench):
    process = bench("--suite", "slow")
    assert process.returncode == 4
    assert "roofbench: unknown suite 'slow'" in process.stderr


def test_collecting_measures_nothing(bench):
    process = bench("--collect-only", "-q")
    assert process.returncode == 0
    assert "bench_gemv[gemv-cpu-int4-llama-3.1-8b/gate+up/M1-cold]" in process.stdout
    assert "µs" not in process.stdout
