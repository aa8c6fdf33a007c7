# SPDX-License-Identifier: MIT
"""tools/measure_gpu.py from end to end, on a GPU whose kernels are NumPy and some of which fail."""

import argparse
import importlib.util
import json
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pytest

from roofbench import results, sources
from roofbench.op import TYPES

ROOT = Path(__file__).parent.parent
TOOL = ROOT / "tools" / "measure_gpu.py"
SITE = """
import os, sys, time
if os.environ.get("FAKE_GPU") == "bare":
    import importlib.util

    there = importlib.util.find_spec
    importlib.util.find_spec = lambda name, *rest: None if name == "pytest_benchmark" else there(name, *rest)
if os.environ.get("FAKE_GPU"):
    sys.path.insert(0, {tests!r})
    from importlib.util import find_spec
    import roofbench.backends as backends
    from roofbench import devices, plan, session
    from roofbench.devices import Found
    from fakes import FakeBackend

    class Gpu(FakeBackend):
        name, heading = "triton", "Triton"

        def claim(self, op, format):
            return super().claim(op, format) if format != "f32" else f"{{op}} is not written for f32"

        def bind(self, op, format, dims, arrays):
            launch = super().bind(op, format, dims, arrays)
            fault = faults.get((op, format)) if os.environ["FAKE_GPU"] == "faulty" else None
            if fault:
                launch._call = lambda: fault(arrays)
            return launch

    def raises(arrays):
        raise RuntimeError("out of resource: shared memory")

    def hangs(arrays):
        time.sleep(1000)

    def wrong(arrays):
        arrays["key"][...] = 1

    faults = {{("kv_gather", "fp8"): hangs, ("kv_gather", "f16"): wrong, ("kv_append", "fp8"): raises}}
    GPUS = (Gpu(),)
    for module in (backends, plan, session):
        module.BACKENDS = GPUS
    gpu, cpu = Found("gpu", "NVIDIA Fake 9000", "sm_90", 0, 0.0, None), devices._cpu(devices.Host())
    devices.detect = lambda host=None: [gpu, cpu]
"""
KV = ("--op", "kv_append", "--op", "kv_gather", "--rival", "none")


@pytest.fixture
def measure(tmp_path):
    """Starts the tool where the only GPU is a fake."""
    (tmp_path / "sitecustomize.py").write_text(SITE.format(tests=str(ROOT / "tests")))
    path = os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")])

    def start(*words, gpu="sound"):
        env = {**os.environ, "PYTHONPATH": path, "FAKE_GPU": gpu, "ROOFBENCH_LOCK": str(tmp_path / "lock")}
        command = [sys.executable, str(TOOL), "--out", str(tmp_path / "results"), "--suite", "quick", *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, env=env, cwd=tmp_path, **pipes)

    return start


def done(process, seconds=240):
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


@pytest.mark.parametrize("gpu", ["sound", "bare"])
def test_each_stage_is_in_the_folder(measure, tmp_path, gpu):
    """With pytest-benchmark and without."""
    code, out, err = done(measure(*KV, "--format", "bf16", "--format", "f32", "--seconds", "100", gpu=gpu))
    assert code == 0, out + err
    (folder,) = (tmp_path / "results" / "nvidia-fake-9000").iterdir()
    names = {"environment.json", "numerics.json", "quick-benchmark.json", "quick.json", "quick.txt"}
    assert {path.name for path in folder.iterdir()} == names - ({"quick-benchmark.json"} if gpu == "bare" else set())
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["device"] == "NVIDIA Fake 9000"
    assert ("pytest_benchmark" in environment["missing"]) == (gpu == "bare")
    numerics = json.loads((folder / "numerics.json").read_text())
    assert re.fullmatch(r"right at (\d+) of \1", numerics["triton kv_append bf16"])
    assert numerics["triton kv_gather f32"] == "UNSUPPORTED: kv_gather is not written for f32"
    run = results.load(folder / "quick.json")
    assert run.finished
    assert {row.status for row in run.rows if row.format == "bf16"} <= {"OK", "NOISY"}
    if gpu == "sound":
        replayed = json.loads((folder / "quick-benchmark.json").read_text())["benchmarks"]
        assert len(replayed) == sum(1 for row in run.rows if row.samples_s)
    said = "numerics of 4 kernels: 2 right, 2 UNSUPPORTED"
    assert said in out
    assert f"results are in {folder}" in out
    text = (folder / "quick.txt").read_text()
    assert text.startswith(f"NVIDIA Fake 9000\n{said}\n")
    assert "llama-3.1-8b/kv4k" in text
    assert "\x1b" not in text


def test_it_goes_on_past_kernels_that_fail_or_hang(measure, tmp_path):
    start = time.monotonic()
    words = ("--format", "fp8", "--format", "f16", "--format", "bf16", "--seconds", "80")
    code, out, err = done(measure(*KV, *words, gpu="faulty"))
    assert code == 1, out + err
    assert time.monotonic() - start < 85
    (folder,) = (tmp_path / "results" / "nvidia-fake-9000").iterdir()
    numerics = json.loads((folder / "numerics.json").read_text())
    hung, failed = "ERROR: no result after 10 s", "ERROR: RuntimeError: out of resource: shared memory"
    assert numerics["triton kv_gather fp8"] == hung
    assert numerics["triton kv_append fp8"] == failed
    assert numerics["triton kv_gather f16"].startswith("INCORRECT: key at ")
    for kernel in ("kv_append f16", "kv_append bf16", "kv_gather bf16"):
        assert "right at" in numerics[f"triton {kernel}"]
    assert f"triton kv_gather fp8: {hung}" in out
    assert f"triton kv_append fp8: {failed}" in out
    assert "1 INCORRECT, 2 ERROR" in out
    rows = {(row.op, row.format): row for row in results.load(folder / "quick.json").rows}
    assert rows["kv_append", "fp8"].reason == "RuntimeError: out of resource: shared memory"
    assert rows["kv_gather", "fp8"].reason == "no result after 20 s"
    assert rows["kv_gather", "bf16"].status in ("OK", "NOISY")
    assert "the suite ended with 1" in (folder / "quick.txt").read_text()


def test_a_second_run_of_a_day_gets_its_own_folder(tmp_path):
    tool = sources.load_module(TOOL)
    folders = [tool._folder(tmp_path / "gpu") for _ in range(3)]
    assert [path.name for path in folders[1:]] == [f"{folders[0].name}-2", f"{folders[0].name}-3"]


@pytest.mark.parametrize(("pytest_makes_rows", "runs"), [(True, ["pytest"]), (False, ["pytest", "roofbench"])])
def test_a_pytest_that_does_not_start_is_done_without(monkeypatch, tmp_path, pytest_makes_rows, runs):
    """It may be older than bench/ needs."""
    tool, ran = sources.load_module(TOOL), []

    def limited(command, seconds, stop_s):
        ran.append(command[2])
        if pytest_makes_rows or command[2] == "roofbench":
            Path(command[command.index("--out") + 1]).touch()
        return 4 if command[2] == "pytest" else 0

    monkeypatch.setattr(tool, "_limited", limited)
    options = argparse.Namespace(suite="quick", seconds=100.0, op=[], format=[])
    assert tool._suite(["triton"], options, [], tmp_path, 50.0) == (
        ["the suite ended with 4"] if len(runs) == 1 else []
    )
    assert ran == runs


@pytest.mark.parametrize("heeds", [True, False])
def test_a_suite_whose_time_is_up_is_stopped(heeds):
    tool, start = sources.load_module(TOOL), time.monotonic()
    program = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_{}); time.sleep(60)"
    command = [sys.executable, "-c", program.format("DFL" if heeds else "IGN")]
    assert tool._limited(command, 1.0, 1.0) == "the suite was stopped: its time was up"
    assert time.monotonic() - start < 10
    assert tool._limited([sys.executable, "-c", "raise SystemExit(3)"], 10.0, 1.0) == 3


def test_what_an_interrupt_leaves(measure, tmp_path):
    process = measure(*KV, "--format", "bf16", "--format", "fp8", "--seconds", "400", gpu="faulty")
    try:
        numerics = tmp_path / "results" / "nvidia-fake-9000"
        deadline = time.monotonic() + 60
        while not list(numerics.glob("*/numerics.json")):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        code, out, err = done(process, 30)
    finally:
        process.kill()
    assert code == 130, out + err
    assert "Traceback" not in err
    assert "interrupted\nresults are in" in out
    (folder,) = numerics.iterdir()
    assert "interrupted" in (folder / "quick.txt").read_text()


def test_an_interrupt_of_the_suite_keeps_its_rows(measure, tmp_path):
    words = (*KV, "--format", "bf16", "--format", "fp8", "--seconds", "400")
    process = measure(*words)
    try:
        folder = tmp_path / "results" / "nvidia-fake-9000"
        deadline = time.monotonic() + 120
        while not any(results.load(path).rows for path in folder.glob("*/quick.json")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        code, out, err = done(process, 60)
    finally:
        process.kill()
    assert code == 130, out + err
    (path,) = folder.glob("*/quick.json")
    run = results.load(path)
    assert run.rows
    assert not run.finished
    assert run.rows[0].case in path.with_suffix(".txt").read_text()


def test_without_a_gpu_nothing_is_written(tmp_path):
    if importlib.util.find_spec("torch") and importlib.import_module("torch").cuda.is_available():
        pytest.skip("this machine has a GPU")
    command = [sys.executable, str(TOOL), "--out", str(tmp_path / "results")]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert re.search(r"^measure_gpu: backend triton: t(riton|orch) ", process.stderr)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--suite", "qiuck"), "unknown suite 'qiuck'; known: quick"),
        (("--op", "gemw"), "unknown op 'gemw'"),
        (("--format", "int5"), "unknown format 'int5'; known: bf16"),
        (("--backend", "triton", "--backend", "tritn"), "unknown backend 'tritn'; known: triton"),
        (("--model", "gpt"), "unknown model 'gpt'"),
        (("--seconds", "0"), "--seconds 0 must be a positive number"),
        (("--seconds", "nan"), "--seconds nan must be a positive number"),
        (("--sutie", "quick"), "unrecognized arguments: --sutie"),
    ],
)
def test_words_are_refused_before_anything_is_measured(monkeypatch, capsys, tmp_path, words, says):
    tool = sources.load_module(TOOL)
    monkeypatch.setattr(tool, "_numerics", lambda *_: pytest.fail("it began"))
    monkeypatch.setattr(sys, "argv", [str(TOOL), "--out", str(tmp_path / "results"), *words])
    try:
        assert tool.main() == 2
    except SystemExit as end:  # argparse's
        assert end.code == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_a_folder_that_cannot_be_made_is_refused(measure, tmp_path):
    (tmp_path / "results").touch()
    code, out, err = done(measure(*KV))
    assert (code, out) == (2, "")
    assert err == f"measure_gpu: --out {tmp_path / 'results'}: Not a directory\n"


def test_another_run_has_the_machine(measure, tmp_path):
    with filelock.FileLock(tmp_path / "lock"):
        code, out, err = done(measure(*KV))
    assert (code, out) == (2, "")
    assert err.startswith("measure_gpu: another roofbench run is measuring on this machine")
    assert not (tmp_path / "results").exists()


def test_kernels_that_are_not_tried_are_trouble(monkeypatch, tmp_path):
    class Slow:
        def __init__(self, device):
            self.results = iter(["right at 0 of 9", "right at 5 of 9", "INCORRECT: y"])

        def numerics(self, *_):
            return next(self.results)

        def close(self):
            pass

    tool = sources.load_module(TOOL)
    monkeypatch.setattr("roofbench.worker.Worker", Slow)
    options = argparse.Namespace(seconds=100.0, op=["kv_append"], format=["bf16", "f16", "fp8"])
    formats = [format for format in TYPES["kv_append"] if format in options.format]
    assert tool._numerics(["triton"], options, tmp_path / "n.json") == [
        f"triton kv_append {formats[2]}: INCORRECT: y",
        f"1 not tried: triton kv_append {formats[0]}",
    ]
    options.seconds = -1.0
    found = tool._numerics(["triton"], options, tmp_path / "n.json")
    assert found == [f"3 not tried: {', '.join(f'triton kv_append {format}' for format in formats)}"]


def test_modules_that_are_missing_are_carried(monkeypatch, capsys):
    tool = sources.load_module(TOOL)
    there = importlib.util.find_spec
    monkeypatch.setattr(
        tool.importlib.util, "find_spec", lambda name: None if name in ("ml_dtypes", "rich") else there("json")
    )
    monkeypatch.setattr(sys, "argv", [str(TOOL)])
    assert tool.main() == 2
    said = capsys.readouterr().err
    version = "{}.{}".format(*sys.version_info)
    assert "missing: ml-dtypes rich\n" in said
    assert re.search(rf"pip download -d wheels .* --python-version {version} .* ml-dtypes rich\n", said)
    tags = [f"--platform {tag}_{platform.machine()}" for tag in ("manylinux2014", "manylinux_2_28")]
    assert " ".join(tags) in said
    assert f"  {shlex.quote(sys.executable)} -m pip install --no-index --find-links wheels" in said
    assert f"PYTHONPATH=build/packages make gpu PYTHON={shlex.quote(sys.executable)}\n" in said


def test_its_packages_are_those_of_the_project():
    """All but what the C library and kernelsim need."""
    text = (ROOT / "pyproject.toml").read_text()
    (block,) = re.findall(r"^dependencies = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    needed = {name.replace("-", "_") for name in re.findall(r'^    "([\w-]+)', block, re.MULTILINE)}
    known = set(sources.load_module(TOOL).PACKAGES) | {"tomli"}
    assert known == needed - {"cffi", "pyelftools"}


def test_numerics_in_a_line(tmp_path):
    tool = sources.load_module(TOOL)
    path = tmp_path / "numerics.json"
    found = ["right at 9 of 9", "right at 5 of 9", "right at 0 of 9", "not tried: the time was up", "INCORRECT: y is",
             "right at 8 of 8"]  # fmt: skip
    path.write_text(json.dumps({str(i): result for i, result in enumerate(found)}))
    assert tool._said(path) == [
        "numerics of 6 kernels: 2 right, 1 right as far as time allowed, 2 not tried, 1 INCORRECT"
    ]
