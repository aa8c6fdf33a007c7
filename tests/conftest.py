# SPDX-License-Identifier: MIT
"""Warnings are errors here, but not for who measures a machine; and tests need not have it to themselves."""

import os
import tempfile
from pathlib import Path


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "error")
    config.roofbench_lock = tempfile.TemporaryDirectory(prefix="roofbench-")
    os.environ["ROOFBENCH_LOCK"] = str(Path(config.roofbench_lock.name) / "roofbench.lock")


def pytest_unconfigure(config):
    config.roofbench_lock.cleanup()
