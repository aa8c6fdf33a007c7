# SPDX-License-Identifier: MIT
"""Finds kernel files, in a checkout, in an installed wheel or at a user's own path, and builds C ones."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
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


def compile_c(source: Path, out: Path) -> None:
    """Compile a C file to the shared library `out` with the flags of our own.

    Raises:
        ValueError: the file cannot be read or does not compile, or there is no C compiler; says which.
    """
    try:
        source.open("rb").close()
    except OSError as error:
        raise ValueError(f"{source}: {error.strerror}") from None
    builder = build_ffi()
    compile_flags, link_flags = builder.flags()
    command = [*builder.compiler(), *compile_flags, "-shared", "-fPIC", str(source), "-o", str(out), *link_flags, "-lm"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        raise ValueError(f"no C compiler: {command[0]} is not there; {compiler_hint()}") from None
    if done.returncode:
        raise ValueError(f"{source} does not compile:\n{done.stderr.strip()}")


def compiler_hint() -> str:
    """The line that installs a C compiler here."""
    import sys

    return (
        "xcode-select --install" if sys.platform == "darwin" else "sudo apt install gcc python3-dev  # or your system's"
    )
