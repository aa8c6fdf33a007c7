# SPDX-License-Identifier: MIT
"""Kernels of Triton on a CPU: its interpreter is chosen when triton is first imported, so it gets a process of its own.

Each test file here is one item, which runs the file under TRITON_INTERPRET=1 and fails with what that printed. With
TRITON_INTERPRET=1 in the environment the tests themselves are collected, for ``-k`` and a debugger.
Files in COMPILED need the compiler and never see the interpreter.
"""

import importlib.util
import os
import subprocess
import sys

import pytest

COMPILED = ("test_codegen.py",)
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
LIMIT_S = 600

collect_ignore = list(COMPILED) if INTERPRETED else []


def missing():
    """Why nothing can run here, or None."""
    for name in ("torch", "triton"):
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed: pip install {name}"
    return None


def pytest_pycollect_makemodule(module_path, parent):
    if missing() or not (INTERPRETED or module_path.name in COMPILED):
        return OwnProcess.from_parent(parent, path=module_path)
    return None


class OwnProcess(pytest.File):
    def collect(self):
        yield Interpreted.from_parent(self, name="interpreted")


class Interpreted(pytest.Item):
    def runtest(self):
        if missing():
            pytest.skip(missing())
        command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", str(self.path)]
        env = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        run = subprocess.run(
            command, env=env, cwd=self.config.rootpath, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        if run.returncode:
            raise FailedError(run.stdout + run.stderr)

    def repr_failure(self, excinfo, style=None):
        return str(excinfo.value) if isinstance(excinfo.value, FailedError) else super().repr_failure(excinfo, style)

    def reportinfo(self):
        return self.path, None, f"{self.path.name} under the interpreter"


class FailedError(Exception):
    """What the other process printed."""
