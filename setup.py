# SPDX-License-Identifier: MIT
"""Only what pyproject.toml cannot say: the C library, and the word to native Windows."""

import sys

from setuptools import setup

if sys.platform == "win32":
    sys.exit(
        "roofbench does not run on native Windows. Install WSL2 (in PowerShell: wsl --install), open its "
        "Ubuntu, and run the same commands there; an NVIDIA GPU is visible inside WSL2."
    )

setup(cffi_modules=["csrc/build_ffi.py:ffibuilder"])
