# SPDX-License-Identifier: MIT
"""python -m kernelsim."""

import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from simulated import KERNELS

from kernelsim.__main__ import main

GEMV = [
    *("--kernel", "gemv_f16", "--arg", "w=random:f16:8x512", "--arg", "x=ones:f16:512", "--arg", "y=poison:f16:8"),
    *("--arg", "N=8", "--arg", "K=512", "--grid", "256", "--threadgroup", "64"),
]


def test_run(capsys):
    assert main(["run", str(KERNELS / "matrix.metal"), *GEMV]) == 0
    out = capsys.readouterr().out
    assert out.startswith("y float16[8]: ")
    assert "NaN" not in out


def test_run_shows_what_was_not_written(capsys):
    grid = GEMV.index("256")
    assert main(["run", str(KERNELS / "matrix.metal"), *GEMV[:grid], "128", *GEMV[grid + 1 :]]) == 0
    assert "(4 NaN)" in capsys.readouterr().out


def test_check(capsys, tmp_path):
    assert main(["check", str(KERNELS / "matrix.metal"), *GEMV]) == 0
    out = capsys.readouterr().out
    assert "3 kernels, 0 findings" in out
    assert "gemv_f16: the same bits in three schedules" in out
    bad = tmp_path / "bad.metal"
    bad.write_text("kernel void f(device float* y) { double d = 1; y[0] = d; }\n")
    assert main(["check", str(bad)]) == 1
    assert f"{bad}:1: MSL has no double" in capsys.readouterr().out


def test_audit(capsys):
    assert main(["audit", str(KERNELS / "matrix.metal"), *GEMV]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^w +load +8192 +8192 +8192 +1\.00 +8 ", out, re.MULTILINE)


def changed(change):
    """GEMV's command line with options in the place of those that are there, an --arg by its name."""
    line = list(GEMV)
    for option, value in zip(change[::2], change[1::2], strict=True):
        name = value.partition("=")[0] + "="
        at = [
            n
            for n in range(0, len(line), 2)
            if line[n] == option and (option != "--arg" or line[n + 1].startswith(name))
        ]
        if at:
            line[at[0] + 1] = value
        else:
            line += [option, value]
    return line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--arg", "N"], "'N' is not NAME=VALUE"),
        (["--arg", "w=random:f16:-5"], "is not kind:type:shape"),
        (["--arg", "w=random:f16:99999999999999"], "is not kind:type:shape"),
        (["--constant", "n=x"], "--constant n: 'x' is no number"),
        (["--arg", "w=random:f16"], "'random:f16' is not kind:type:shape such as random:f16:64x1024"),
        (["--arg", "w=random:f15:4"], "is not kind:type:shape"),
        (["--arg", "w=rondom:f16:4"], "'rondom' is not random, zeros, ones or poison"),
        (["--arg", "w=many"], "'many' is no number and no kind:type:shape"),
        (["--arg", "w=none.npy"], "No such file"),
        (["--arg", "w=u32:1,-2"], "'u32:1,-2' is not type:values such as u32:512,256,64"),
        (["--arg", "w=null"], "reads unmapped memory"),
        (["--kernel", "gemv"], "has no kernel 'gemv'"),
        (["--grid", "0"], "grid is one to three positive integers, not [0]"),
        (["--schedule", "odd"], "schedule is one of forward, reverse, random"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(capsys, change, message):
    assert main(["run", str(KERNELS / "matrix.metal"), *changed(change)]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("kernelsim: ")
    assert err.count("\n") == 1


def test_arrays_from_files_and_no_grid(capsys, tmp_path):
    np.save(tmp_path / "x.npy", np.ones(512, np.float16))
    assert main(["run", str(KERNELS / "matrix.metal"), *changed(["--arg", f"x={tmp_path / 'x.npy'}"])]) == 0
    assert main(["run", str(KERNELS / "matrix.metal"), *GEMV, "--arg", "N=8"]) == 1
    assert "--arg N is given twice" in capsys.readouterr().err
    assert main(["run", str(KERNELS / "matrix.metal"), "--kernel", "gemv_f16"]) == 1
    assert "--grid and --threadgroup (CUDA: --block) are needed" in capsys.readouterr().err
    assert main(["run", str(tmp_path / "none.metal"), *GEMV]) == 1


def test_an_interrupt_ends_a_kernel_that_does_not(tmp_path):
    file = tmp_path / "endless.metal"
    file.write_text("kernel void f(device uint* y, uint i [[thread_position_in_grid]]) { for (;;) y[i] += 1; }\n")
    command = [sys.executable, "-m", "kernelsim", "run", str(file), "--kernel", "f", "--arg", "y=zeros:u32:64"]
    job = subprocess.Popen(
        [*command, "--grid", "64", "--threadgroup", "32"],
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - heard in the background too
    )
    time.sleep(4)
    assert job.poll() is None
    job.send_signal(signal.SIGINT)
    _, err = job.communicate(timeout=20)
    assert job.returncode in (130, -signal.SIGINT)
    assert b"Traceback" not in err


def test_vectors_null_and_options(capsys):
    args = ["c=poison:f16:32x32", "a=ones:f16:32x32", "b=ones:f16:32x32", "mnk=u32:32,32,32,0"]
    launch = ["--kernel", "gemm_f16", "--grid", "128,1", "--threadgroup", "128", "--workers", "1", "--no-guard"]
    given = [part for arg in args for part in ("--arg", arg)]
    assert main(["run", str(KERNELS / "matrix.metal"), *launch, *given]) == 0
    assert "c float16[32, 32]: 32.0 32.0" in capsys.readouterr().out
