# SPDX-License-Identifier: MIT
"""Without a compiler the simulator's tests are skipped with one line, but not where nobody would see it: in CI."""

import os

import pytest

from kernelsim import ToolchainError, toolchain


@pytest.fixture(autouse=True, scope="session")
def compiler():
    try:
        return toolchain.find()
    except ToolchainError as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI must not skip: {error}", pytrace=False)
        pytest.skip(str(error))
