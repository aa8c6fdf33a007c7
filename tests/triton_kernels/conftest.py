# SPDX-License-Identifier: MIT
"""Kernels of Triton on a CPU: its interpreter is chosen when triton is first imported, so it gets a process of its own.

Each test file here is one item, which runs the file under TRITON_INTERPRET=1 and fails with what that printed. With
TRITON_INTERPRET=1 in the environment the tests themselves are collected, for ``-k`` and a debugger.
Files in COMPILED need the compiler and never see the interpreter, which uses one core: files run side by side.
"""

import importlib.util
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata

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
    versions = [tuple(map(int, metadata.version(name).split(".")[:2])) for name in ("triton", "numpy")]
    if versions[0] < (3, 7) and versions[1] >= (2, 4):
        return "the interpreter of Triton before 3.7 needs NumPy before 2.4: pip install 'numpy<2.4'"
    return None


@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    # of Triton 3.6
    config.addinivalue_line("filterwarnings", "ignore:Conversion of an array with ndim:DeprecationWarning")


def pytest_pycollect_makemodule(module_path, parent):
    if module_path.name in COMPILED or (INTERPRETED and not missing()):
        return None
    return OwnProcess.from_parent(parent, path=module_path)


class OwnProcess(pytest.File):
    def collect(self):
        yield Interpreted.from_parent(self, name="interpreted")


class Interpreted(pytest.Item):
    def setup(self):
        """The first starts them all."""
        if missing() or hasattr(self.session, "interpreted"):
            return
        items = [item for item in self.session.items if isinstance(item, Interpreted)]
        pool = ThreadPoolExecutor(os.cpu_count())
        self.session.interpreted = {item.path: pool.submit(item.start) for item in items}
        self.session.config.add_cleanup(lambda: pool.shutdown(cancel_futures=True))

    def start(self):
        command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", str(self.path)]
        env = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            command, env=env, cwd=self.config.rootpath, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )

    def runtest(self):
        if missing():
            pytest.skip(missing())
        run = self.session.interpreted[self.path].result()
        if run.returncode:
            raise FailedError(run.stdout + run.stderr)

    def repr_failure(self, excinfo, style=None):
        return str(excinfo.value) if isinstance(excinfo.value, FailedError) else super().repr_failure(excinfo, style)

    def reportinfo(self):
        return self.path, None, f"{self.path.name} under the interpreter"


class FailedError(Exception):
    """What the other process printed."""
