# SPDX-License-Identifier: MIT
"""Finds kernel files, in a checkout, in an installed wheel or at a user's own path, and builds C ones."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

_PACKAGE = Path(__file__).parent


def folder(name: str) -> Path:
    """``csrc``, ``kernels`` or ``metal``: inside the installed package, else beside it in a checkout.

    Raises:
        FileNotFoundError: neither is there.
    """
    for parent in (_PACKAGE, _PACKAGE.parent):
        if (parent / name).is_dir():
            return parent / name
    raise FileNotFoundError(f"no folder {name} in {_PACKAGE} or beside it: the installation is not complete")


def find(stem: str, suffix: str) -> Path:
    """The kernel file of a stem: ``find("gemv_int", ".c")``. Raises FileNotFoundError."""
    home = {".c": "csrc", ".cu": "csrc", ".py": "kernels", ".metal": "metal"}[suffix]
    path = folder(home) / f"{stem}{suffix}"
    if not path.is_file():
        raise FileNotFoundError(f"no kernel file {path}")
    return path


def sha256(path: Path) -> str:
    """Of a file's bytes, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_module(path: Path) -> ModuleType:
    """A Python file as a module that `import` cannot find."""
    spec = importlib.util.spec_from_file_location(f"roofbench_source_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def build_ffi() -> Any:
    """csrc/build_ffi.py: flags and prototypes of the C launchers."""
    return load_module(folder("csrc") / "build_ffi.py")


def compiler() -> list[str]:
    """The C compiler, as a command. Raises ValueError where CC names none."""
    try:
        command: list[str] = build_ffi().compiler()
    except ValueError as error:
        raise ValueError(f"CC={os.environ['CC']!r} is no command: {error}") from None
    if not command:
        raise ValueError(f"CC={os.environ['CC']!r} is no command")
    return command


def compile_c(source: Path, out: Path) -> None:
    """Compile a C file to the shared library `out` with the flags of our own.

    Raises:
        ValueError: the file cannot be read or does not compile, or there is no C compiler; says which.
    """
    if source.exists() and not source.is_file():
        raise ValueError(f"{source} is not a regular file")
    try:
        source.open("rb").close()
    except OSError as error:
        raise ValueError(f"{source}: {error.strerror}") from None
    command = compiler()
    compile_flags, link_flags = build_ffi().flags()
    command += [*compile_flags, "-shared", "-fPIC", "-x", "c", str(source.absolute()), "-x", "none"]
    try:
        done = subprocess.run([*command, "-o", str(out), *link_flags, "-lm"], capture_output=True, check=False)
    except OSError as error:
        of = " (from CC)" if os.environ.get("CC") else ""
        raise ValueError(f"no C compiler: {command[0]}{of}: {error.strerror}; {compiler_hint()}") from None
    if done.returncode:
        raise ValueError(f"{source} does not compile:\n{done.stderr.decode(errors='replace').strip()}")


def compiler_hint() -> str:
    """The line that installs a C compiler here."""
    if sys.platform == "darwin":
        return "xcode-select --install"
    return "sudo apt install gcc python3-dev  # or your system's"
