# SPDX-License-Identifier: MIT
"""The command line as a person meets it: exit codes, messages, files."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from roofbench import cli, devices, results


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
        (["bench", "--source", "my.cu"], "roofbench: my.cu: only .c files can be measured by this version"),
        (
            ["bench", "--source", "a.c", "--backend", "numpy"],
            "roofbench: --source a.c: --backend numpy cannot measure it",
        ),
        (["bench", "--seed", "x"], "argument --seed: invalid int value: 'x'"),
        (["bench", "--seed", "-1"], "roofbench: --seed -1 must be from 0 to"),
        (["bench", "--out", ""], "argument --out: the name is empty"),
        (["bench", "--out", b"r\xff.json"], r"argument --out: b'r\xff.json' is not valid UTF-8"),
        (["bench", "--out", "/dev/null"], "roofbench: --out /dev/null is not a regular file"),
        (["bench", "--out", "."], "roofbench: --out . is not a regular file"),
        (["bench", "--resume", "."], "roofbench: . is not a regular file"),
        (["bench", "--resume", "/dev/zero"], "roofbench: /dev/zero is not a regular file"),
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
    assert run.command == "python -m roofbench bench --op kv_append --format bf16 --rival none --out r.json"
    assert "This machine: reads " in done.stdout


def test_a_wrong_kernel_makes_the_run_fail(tmp_path):
    from test_wrong import WRONG

    done = roofbench("bench", "--source", str(WRONG / "zero.c"), "--out", "r.json", cwd=tmp_path)
    assert done.returncode == 1
    assert "INCORRECT gemv-cpu-f32-llama-3.1-8b/gate+up/M1-cold: y " in done.stdout
    assert results.load(tmp_path / "r.json").rows[0].median_s is None


def test_json_on_standard_output(tmp_path):
    done = roofbench("bench", "--op", "kv_append", "--format", "fp8", "--json", cwd=tmp_path)
    data = json.loads(done.stdout)
    assert data["rows"][0]["op"] == "kv_append"
    assert len(list((tmp_path / "roofbench-runs").iterdir())) == 1


def interrupted(tmp_path, number):
    """A run that a signal to its group reached in its second row: what it said, and its file."""
    command = [sys.executable, "-m", "roofbench", "bench", "--op", "kv_append", "--op", "kv_gather", "--out", "r.json"]
    with subprocess.Popen(command, cwd=tmp_path, start_new_session=True, preexec_fn=hear, **PIPES) as process:  # noqa: PLW1509
        for line in process.stderr:
            if line.startswith("[1/"):
                break
        time.sleep(0.3)
        os.killpg(process.pid, number)
        out, rest = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in rest
    return out, rest, results.load(tmp_path / "r.json")


PIPES = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}


def hear():
    """A job in the background is started deaf to interrupts, and so are its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_an_interrupt_keeps_what_is_done(tmp_path):
    """Ctrl-C: exit code 130, the rows so far as a table and as a file, and the line that goes on."""
    out, rest, run = interrupted(tmp_path, signal.SIGINT)
    assert "roofbench: interrupted" in rest
    assert "kv_append" in out
    assert "\nr.json\n" in rest
    line = "To go on: python -m roofbench bench --op kv_append --op kv_gather --out r.json --resume r.json\n"
    assert line in rest
    assert not run.finished
    assert len(run.rows) >= 1
    done = roofbench(*line.split()[6:], cwd=tmp_path)
    assert done.returncode == 0
    assert "kv4k-cold  kept: " in done.stderr
    after = results.load(tmp_path / "r.json")
    assert after.rows[0].samples_s == run.rows[0].samples_s
    assert len(after.rows) == 4
    assert after.finished


def test_a_request_to_end_is_like_an_interrupt(tmp_path):
    _, rest, run = interrupted(tmp_path, signal.SIGTERM)
    assert "roofbench: interrupted" in rest
    assert {row.status for row in run.rows} <= {"OK", "NOISY"}


@pytest.mark.parametrize("delay", [0.0, 0.5, 1.0, 1.5])
def test_an_interrupt_before_the_first_row_leaves_no_traceback(tmp_path, delay):
    """While modules are imported, the child starts or roofs are probed."""
    code = "from roofbench.cli import main; print('here', flush=True); main(['bench', '--op', 'kv_append'])"
    command = [sys.executable, "-c", f"if __name__ == '__main__': {code}"]
    with subprocess.Popen(command, cwd=tmp_path, start_new_session=True, preexec_fn=hear, **PIPES) as process:  # noqa: PLW1509
        assert process.stdout.readline() == "here\n"
        time.sleep(delay + 0.02)
        os.killpg(process.pid, signal.SIGINT)
        _, rest = process.communicate()
    assert "roofbench: interrupted" in rest
    assert "Traceback" not in rest


def test_little_is_imported_before_interrupts_are_heard():
    code = "import sys, roofbench.cli; print([name for name in ('numpy', 'msgspec', 'rich') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_two_runs_at_once(tmp_path):
    command = [sys.executable, "-m", "roofbench", "bench", "--op", "kv_append"]
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, **pipes) as first:
        first.stderr.readline()
        second = roofbench("bench", "--op", "kv_append", cwd=tmp_path)
        first.communicate()
    assert second.returncode == 2
    assert (
        f"another roofbench run is measuring on this machine: two would disturb each other (process {first.pid},"
        in (second.stderr)
    )
    assert first.returncode == 0


def test_native_windows_is_told_of_wsl(monkeypatch, capsys):
    monkeypatch.setattr(cli.sys, "platform", "win32")
    assert cli.main(["devices"]) == 2
    assert "WSL2 (wsl --install)" in capsys.readouterr().err
