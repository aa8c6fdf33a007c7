# SPDX-License-Identifier: MIT
"""Kernels that crash, hang or print in their own process, which ends with its parent."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from roofbench.engine import Rules
from roofbench.op import Case
from roofbench.results import Row
from roofbench.rows import RowSpec
from roofbench.worker import Worker

SPEC = RowSpec(Case("gemv", "f32", "test", {"M": 1, "N": 64, "K": 64}), "cpu")
CRASHES = {
    "segfault": ("volatile int *p = 0; return *p;", "was killed by SIGSEGV"),
    "abort": ("abort();", "was killed by SIGABRT"),
    "exit": ("_exit(3);", "ended with code 3"),
    "hang": ("for (;;) sleep(1);", "no result after 10 s"),
}


def kernel(path, body, before=""):
    path.write_text(
        "#include <stdint.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <unistd.h>\n"
        f"{before}\n"
        "int rb_gemv_f32(const float *x, const float *w, float *y, int64_t M, int64_t N, int64_t K, int threads) {\n"
        f"  (void)x, (void)w, (void)y, (void)M, (void)N, (void)K, (void)threads;\n  {body}\n  return 0;\n}}\n"
    )
    return path


@pytest.mark.parametrize("name", CRASHES)
def test_a_kernel_that_dies_costs_its_row_only(tmp_path, name):
    body, says = CRASHES[name]
    path = kernel(tmp_path / f"{name}.c", body)
    worker = Worker(None, 1 << 16, rivals=(), source=path)
    try:
        row = worker.measure(SPEC, Rules(cap_s=0.05), timeout_s=10 if name == "hang" else 60)
        assert row.status == "ERROR"
        assert says in row.reason
        assert worker.late == (name == "hang")
        worker._arguments = (None, 1 << 16, 0, (), None)  # the next row has our kernel
        assert worker.measure(SPEC, Rules(cap_s=0.05), timeout_s=60).status in ("OK", "NOISY")
    finally:
        worker.close()


FAULTY = """
from roofbench import rows
from roofbench.backends import backend_of

cpu = backend_of("cpu")
bind, broken = type(cpu).bind, []

def once(self, op, format, dims, arrays):
    if format == "f16":
        broken.append(op)
        raise RuntimeError("an illegal memory access was encountered")
    return bind(self, op, format, dims, arrays)

type(cpu).bind = once
type(cpu).usable = lambda self: not broken
"""


def test_a_fault_that_ends_the_use_of_a_device_costs_one_row(tmp_path, monkeypatch):
    """The next one has a process of its own, and so a device that works."""
    (tmp_path / "sitecustomize.py").write_text(FAULTY)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    worker = Worker(None, 1 << 16, rivals=())
    try:
        assert worker.fresh
        assert worker.measure(SPEC, Rules(cap_s=0.05), timeout_s=60).status in ("OK", "NOISY")
        assert not worker.fresh
        bad = RowSpec(replace(SPEC.case, format="f16"), "cpu")
        assert "illegal memory access" in worker.measure(bad, Rules(cap_s=0.05), timeout_s=60).reason
        assert worker.fresh
        assert worker.measure(SPEC, Rules(cap_s=0.05), timeout_s=60).status in ("OK", "NOISY")
        assert "illegal memory access" in worker.numerics("cpu", "gemv", "f16", 1.0, 60)
        assert worker.fresh
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


def claims(path, timeout_s=60.0):
    worker = Worker(None, source=path)
    try:
        return worker.claims(timeout_s)
    finally:
        worker.close()


@pytest.mark.parametrize("name", ["my.c", "my kernel.c", "-O0.c", "@x.c", "µ.c", "a'b.c"])
def test_what_a_file_serves_whatever_its_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert claims(kernel(Path(name), "")) == [("gemv", "f32")]


LOADS = {
    "crash": ("__attribute__((constructor)) static void f(void) { abort(); }", "does not load: .* killed by SIGABRT"),
    "hang": (
        "__attribute__((constructor)) static void f(void) { for (;;) sleep(1); }",
        "does not load: no result after",
    ),
    "symbol": ("extern int not_there(void); int f(void) { return not_there(); }", "not_there"),
    "syntax": ("int f(", "does not compile:"),
    "latin": ('#error "\xe4"', "does not compile:"),
}


@pytest.mark.parametrize("name", LOADS)
def test_a_file_that_does_not_load_is_named(tmp_path, name):
    before, says = LOADS[name]
    path = kernel(tmp_path / "mine.c", "", before)
    path.write_bytes(path.read_text().encode("latin-1"))
    with pytest.raises(ValueError, match=rf"^{path} .*{says}") as caught:
        claims(path, 5)
    assert "/roofbench-" not in str(caught.value).splitlines()[0]


def test_a_file_that_is_none(tmp_path):
    os.mkfifo(tmp_path / "fifo.c")
    for path, says in ((tmp_path / "gone.c", "No such file"), (tmp_path / "fifo.c", "is not a regular file")):
        with pytest.raises(ValueError, match=f"{path}.*{says}"):
            claims(path)


@pytest.mark.parametrize("value", ["'gcc", "  ", "no-such-compiler"])
def test_a_compiler_that_is_none(tmp_path, monkeypatch, value):
    monkeypatch.setenv("CC", value)
    with pytest.raises(ValueError, match=rf"CC={value!r} is no command|no C compiler: {value} \(from CC\)"):
        claims(kernel(tmp_path / "mine.c", ""))


def test_what_a_kernel_prints_is_no_result(tmp_path):
    """It goes to standard error: the child's standard output is the parent's, which may be JSON."""
    path = kernel(tmp_path / "prints.c", 'puts("from the kernel"); fflush(stdout); return -1;')
    code = f"""
if __name__ == "__main__":
    from pathlib import Path
    from test_worker import SPEC, Rules, Worker
    worker = Worker(None, 1 << 16, rivals=(), source=Path({str(path)!r}))
    print(worker.measure(SPEC, Rules(cap_s=0.05), 60).status)
    worker.close()
"""
    (tmp_path / "main.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "main.py"], cwd=tmp_path, env=with_tests(), capture_output=True, text=True, check=True
    )
    assert done.stdout == "ERROR\n"
    assert "from the kernel" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("body", ["for (;;) sleep(1);", "for (;;) ;"])
def test_a_child_dies_with_its_parent(tmp_path, number, body):
    """Also while a kernel hangs."""
    path = kernel(
        tmp_path / "hangs.c", f'FILE *f = fopen({json.dumps(str(tmp_path / "here"))}, "w"); fclose(f); {body}'
    )
    code = f"""
if __name__ == "__main__":
    from pathlib import Path
    from test_worker import SPEC, Rules, Worker
    worker = Worker(None, 1 << 16, rivals=(), source=Path({str(path)!r}))
    worker.claims()
    print(worker._process.pid, flush=True)
    worker.measure(SPEC, Rules(cap_s=0.05), 600)
"""
    (tmp_path / "main.py").write_text(code)
    command = [sys.executable, "main.py"]
    with subprocess.Popen(command, cwd=tmp_path, env=with_tests(), stdout=subprocess.PIPE, text=True) as process:
        child = int(process.stdout.readline())
        until(lambda: (tmp_path / "here").exists(), 60)
        process.send_signal(number)
    try:
        until(lambda: not alive(child), 10)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def with_tests():
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])}


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().split(") ")[1].startswith("Z"))


def until(true, seconds):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
