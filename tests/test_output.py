# SPDX-License-Identifier: MIT
"""Standard streams that are closed, cut off, full, narrow or plain: the result file is safe, the exit code right."""

import json
import os
import pty
import subprocess
import sys

import pytest

from roofbench import results

BENCH = f"'{sys.executable}' -m roofbench bench --backend numpy --op kv_append --format bf16 --out r.json"
DEVICES = f"'{sys.executable}' -m roofbench devices"


def shell(line, cwd, **environment):
    return subprocess.run(
        ["bash", "-c", line],
        cwd=cwd,
        capture_output=True,
        encoding="latin-1",
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams(tmp_path, closed):
    done = shell(f"{BENCH} {closed}", tmp_path)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert results.load(tmp_path / "r.json").finished


@pytest.mark.parametrize("cut", ["| true", "| head -1", "2>&1 | head -1"])
def test_readers_that_leave(tmp_path, cut):
    done = shell(f"{BENCH} {cut}; exit ${{PIPESTATUS[0]}}", tmp_path)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert "Broken" not in done.stderr
    assert results.load(tmp_path / "r.json").finished


def test_a_reader_of_the_catalogue_that_leaves(tmp_path):
    done = shell(f"{DEVICES} | true; exit ${{PIPESTATUS[0]}}", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")  # noqa: PTH110
class TestFull:
    def test_standard_output(self, tmp_path):
        done = shell(f"{BENCH} > /dev/full", tmp_path)
        assert done.returncode == 2
        assert done.stderr.endswith("\nr.json\nroofbench: standard output: No space left on device\n")
        assert results.load(tmp_path / "r.json").finished

    def test_standard_error(self, tmp_path):
        done = shell(f"{BENCH} 2> /dev/full", tmp_path)
        assert done.returncode == 0
        assert "kv_append" in done.stdout

    def test_the_catalogue(self, tmp_path):
        done = shell(f"{DEVICES} > /dev/full", tmp_path)
        assert (done.returncode, done.stderr) == (2, "roofbench: standard output: No space left on device\n")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_an_encoding_lacks_is_replaced(tmp_path, encoding):
    done = shell(BENCH, tmp_path, PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert done.returncode == 0
    assert "kv_append" in done.stdout
    assert "Traceback" not in done.stderr


def test_json_is_ascii(tmp_path):
    done = shell(f"{BENCH} --json", tmp_path, PYTHONIOENCODING="ascii")
    assert json.loads(done.stdout)["rows"][0]["op"] == "kv_append"


def terminal(line, cwd, name):
    """What a program shows on a terminal of such a name."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        ["bash", "-c", line], cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": name}
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while block := os.read(ours, 4096):
                shown += block
        except OSError:  # how Linux says that the other end is closed
            pass
    os.close(ours)
    assert process.returncode == 0
    return shown.decode()


def test_terminals(tmp_path):
    """One line for the row that is under way where it can be taken back; no escape codes on a dumb terminal."""
    assert "\x1b[2K" in terminal(BENCH, tmp_path, "xterm")
    (tmp_path / "r.json").unlink()
    shown = terminal(BENCH, tmp_path, "dumb")
    assert "kv_append" in shown
    assert "\x1b" not in shown
