# SPDX-License-Identifier: MIT
"""bench/ as pytest runs it: pytest-benchmark shows the engine's device times."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from roofbench import results

ROOT = Path(__file__).parent.parent
ROW = ("--op", "kv_append", "--format", "bf16", "--rival", "none")


def bench(*arguments, cwd=ROOT):
    command = [sys.executable, "-m", "pytest", str(ROOT / "bench"), "--benchmark-only", "-p", "no:cacheprovider"]
    return subprocess.run([*command, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
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


def test_a_wrong_kernel_fails_its_test(tmp_path):
    from test_wrong import WRONG

    process = bench("--source", str(WRONG / "zero.c"), "--out", str(tmp_path / "r.json"))
    assert process.returncode == 1
    assert "INCORRECT: y of buffer 0 is" in process.stdout


def test_a_name_that_is_not_there_is_a_usage_error():
    process = bench("--suite", "slow")
    assert process.returncode == 4
    assert "roofbench: unknown suite 'slow'" in process.stderr


def test_collecting_measures_nothing():
    process = bench("--collect-only", "-q")
    assert process.returncode == 0
    assert "bench_gemv[gemv-cpu-int4-llama-3.1-8b/gate+up/M1-cold]" in process.stdout
    assert "µs" not in process.stdout
