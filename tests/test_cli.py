# SPDX-License-Identifier: MIT
"""The command line as a person meets it: exit codes, messages, files."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from roofbench import cli, devices, results, summary
from roofbench.results import Row, RowRival, RowRoof


def roofbench(*arguments, cwd, **environment):
    return subprocess.run(
        [sys.executable, "-m", "roofbench", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["bench", "--suite", "slow"], "roofbench: unknown suite 'slow'; known: quick standard full"),
        (["bench", "--model", "gpt-5"], "roofbench: unknown model 'gpt-5'"),
        (["bench", "--op", "conv"], "roofbench: unknown op 'conv'"),
        (["bench", "--format", "int3"], "roofbench: unknown format 'int3'"),
        (["bench", "--backend", "opencl"], "roofbench: unknown backend 'opencl'"),
        (["bench", "--device", "gtx-480"], "roofbench: unknown device 'gtx-480'"),
        (["bench", "--source", "gone.c"], "roofbench: gone.c: No such file or directory"),
        (["bench", "--resume", "gone.json"], "roofbench: gone.json: No such file or directory"),
        (["bench", "--seed", "x"], "argument --seed: invalid int value: 'x'"),
        (["bench", "--op", "kv_append", "--out", "/dev/full/x.json"], "roofbench: results cannot be written to"),
        ([], "the following arguments are required: COMMAND"),
        (["dance"], "invalid choice: 'dance'"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(tmp_path, arguments, says):
    done = roofbench(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_future_file_cannot_be_resumed(tmp_path):
    (tmp_path / "run.json").write_text('{"schema": 99}')
    done = roofbench("bench", "--resume", "run.json", cwd=tmp_path)
    assert done.returncode == 2
    assert "run.json has schema 99; this roofbench reads up to 1" in done.stderr


def test_devices(tmp_path):
    done = roofbench("devices", cwd=tmp_path)
    assert done.returncode == 0
    assert "mac-studio-m3-ultra" in done.stdout
    assert "dgx-spark" in done.stdout
    assert "This machine's cpu: " in done.stdout


def test_devices_as_json(tmp_path):
    done = roofbench("devices", "--json", cwd=tmp_path)
    data = json.loads(done.stdout)
    assert data["catalogue"]["rtx-5090"]["memory"]["bandwidth_gbs"] == 1792
    assert data["found"][-1]["kind"] == "cpu"


def test_devices_add(tmp_path):
    environment = {"XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path)}
    known = next((f for f in devices.detect() if f.device is None), None)
    if known is None:
        pytest.skip("every device of this machine is in the catalogue")
    done = roofbench("devices", "add", cwd=tmp_path, **environment)
    assert done.returncode == 0
    assert "has a stub for" in done.stdout
    again = roofbench("devices", "add", cwd=tmp_path, **environment)
    assert again.returncode == 2 or "every device" in again.stderr
    assert "Traceback" not in again.stderr


def test_bench_measures_and_writes(tmp_path):
    """One short row, end to end, away from the checkout."""
    done = roofbench(
        "bench", "--op", "kv_append", "--format", "bf16", "--rival", "none", "--out", "r.json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    run = results.load(tmp_path / "r.json")
    (row,) = run.rows
    assert run.finished
    assert row.status in ("OK", "NOISY")
    assert row.rivals == []
    assert row.roof.name == "copy"
    assert "kv_append" in done.stdout
    assert "% of the measured roof" in done.stdout
    assert "[1/1 " in done.stderr
    assert run.command.endswith("bench --op kv_append --format bf16 --rival none --out r.json")


def test_a_wrong_kernel_makes_the_run_fail(tmp_path):
    from test_wrong import WRONG

    done = roofbench("bench", "--source", str(WRONG / "zero.c"), "--out", "r.json", cwd=tmp_path)
    assert done.returncode == 1
    assert "INCORRECT gemv-cpu-f32-llama-3.1-8b/gate+up/M1-cold: y of buffer 0 is" in done.stdout
    assert results.load(tmp_path / "r.json").rows[0].median_s is None


def test_json_on_standard_output(tmp_path):
    done = roofbench("bench", "--op", "kv_append", "--format", "fp8", "--json", cwd=tmp_path)
    data = json.loads(done.stdout)
    assert data["rows"][0]["op"] == "kv_append"
    assert len(list((tmp_path / "roofbench-runs").iterdir())) == 1


def test_an_interrupt_keeps_what_is_done(tmp_path):
    """Ctrl-C: exit code 130, a readable file with the rows so far, no child left behind."""
    command = [sys.executable, "-m", "roofbench", "bench", "--op", "kv_append", "--op", "kv_gather", "--out", "r.json"]
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, start_new_session=True, **pipes) as process:
        for line in process.stderr:
            if line.startswith("[1/"):
                break
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130
    assert "roofbench: interrupted" in rest
    assert "Traceback" not in rest
    run = results.load(tmp_path / "r.json")
    assert not run.finished
    assert len(run.rows) >= 1
    done = roofbench(
        "bench", "--op", "kv_append", "--op", "kv_gather", "--resume", "r.json", "--out", "s.json", cwd=tmp_path
    )
    assert done.returncode == 0
    rows = results.load(tmp_path / "s.json").rows
    assert rows[0].samples_s == run.rows[0].samples_s
    assert len(rows) == 4


def test_two_runs_at_once(tmp_path):
    command = [sys.executable, "-m", "roofbench", "bench", "--op", "kv_append"]
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, **pipes) as first:
        first.stderr.readline()
        second = roofbench("bench", "--op", "kv_append", cwd=tmp_path)
        first.communicate()
    assert second.returncode == 2
    assert "another roofbench run is measuring on this machine" in second.stderr
    assert first.returncode == 0


def test_native_windows_is_told_of_wsl(monkeypatch, capsys):
    monkeypatch.setattr(cli.sys, "platform", "win32")
    assert cli.main(["devices"]) == 2
    assert "WSL2 (wsl --install)" in capsys.readouterr().err


def row(**changes):
    base = {"op": "gemv", "backend": "cpu", "format": "f32", "case": "m/l/M1", "dims": {}, "bytes": 1, "flops": 1}
    return Row(**{**base, "status": "OK", "gbps": 40.0, "median_s": 1e-3, "bound": "bandwidth", **changes})


class TestSummary:
    def test_nothing_left_to_gain(self):
        (line,) = summary.sentences([row(pct_measured=96.2)])
        assert line == "gemv: 96 % of the measured roof: nothing left to gain."

    def test_where_most_can_be_gained(self):
        rows = [row(pct_measured=50.0, format="int4"), row(pct_measured=90.0), row(pct_measured=70.0, format="fp8")]
        (line,) = summary.sentences(rows)
        assert line.startswith("gemv: 70 % of the measured roof (median of 3 rows, 50 to 90): up to 1.4 × left to gain")
        assert line.endswith("most in int4 m/l/M1.")

    @pytest.mark.parametrize("status", ["SUSPECT", "INCORRECT", "THROTTLED", "ERROR", "UNSUPPORTED"])
    def test_only_good_rows_count(self, status):
        rows = [row(pct_measured=90.0), row(pct_measured=400.0, status=status, reason="because")]
        assert "90 % of the measured roof:" in summary.sentences(rows)[0]
        assert any(line.endswith(": because") for line in summary.remarks(rows))

    def test_a_table_shows_dashes_for_what_is_not_known(self, capsys):
        summary.show([row(gbps=None, median_s=None, status="ERROR", reason="no")])
        out = capsys.readouterr().out
        assert "CPU cores" in out
        assert "-" in out
        assert "nan" not in out.lower()
        assert "None" not in out

    def test_numbers_are_as_people_write_them(self, capsys):
        rows = [
            row(
                median_s=1234.5e-6,
                pct_spec=12.34,
                pct_measured=98.76,
                pct_clock=100.0,
                roof=RowRoof(name="read"),
                rivals=[RowRival(name="torch", median_s=2e-3, speedup=1.62)],
            ),
            row(op="gemm", bound="compute", tflops=0.456, gbps=1.0),
            row(op="gemm", bound="compute", tflops=123.4),
        ]
        summary.show(rows)
        out = capsys.readouterr().out
        for text in ("1234", "40 GB/s", "12.3", "98.8", "100", "1.62 torch", "456 GFLOP/s", "123 TFLOP/s"):
            assert text in out

    def test_the_fastest_rival_is_shown(self):
        rivals = [RowRival(name="slow", speedup=9.0), RowRival(name="fast", speedup=0.5), RowRival(name="none")]
        assert summary._rival(row(rivals=rivals)) == "0.5 fast"
