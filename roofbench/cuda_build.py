# SPDX-License-Identifier: MIT
"""Makes shared libraries of .cu files: by nvcc for GPUs, by kernelsim for CPUs. Both have the ABI of cuda_kernels.h."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import platformdirs

from roofbench import sources

FLAGS = ("-O3", "-std=c++17", "-Xcompiler", "-fPIC", "-shared")
LEAST = (12, 0)  # nvcc's version: C++17 and sm_90a


class Builder(Protocol):
    """Makes a library of one file."""

    def missing(self) -> str | None:
        """Why it cannot, and what helps; None where it can."""
        ...

    def build(self, source: Path, chip: str) -> Path:
        """The library, for a chip like ``sm_90``. Raises ValueError where the file does not compile."""
        ...

    def explain(self, source: Path, code: int) -> str:
        """A cudaError_t that a launcher returned, in words."""
        ...


class Nvcc:
    """CUDA's compiler. A file that has not changed is not compiled again."""

    def missing(self) -> str | None:
        if not nvcc():
            return "there is no nvcc: install the CUDA toolkit, or name its compiler in NVCC"
        if version() < LEAST:
            return f"nvcc is {'.'.join(map(str, version()))}; it must be {'.'.join(map(str, LEAST))} or later"
        return None

    def build(self, source: Path, chip: str) -> Path:
        header, arch = sources.build_ffi().CUDA_HEADER, architecture(chip)
        what = [*FLAGS, arch, str(version()), source.read_text(), header.read_text()]
        key = hashlib.sha256("\0".join(what).encode()).hexdigest()[:16]
        out = platformdirs.user_cache_path("roofbench") / "cuda" / f"{source.stem}-{arch}-{key}.so"
        if not out.exists():
            compile_cuda(source, out, arch)
        return out

    def explain(self, source: Path, code: int) -> str:
        return f"CUDA error {code}"


class Simulator:
    """kernelsim, for CPUs: launches are done when the launcher returns."""

    def __init__(self) -> None:
        self._libraries: dict[Path, Any] = {}

    def missing(self) -> str | None:
        return None

    def build(self, source: Path, chip: str) -> Path:
        import kernelsim

        library = kernelsim.cuda.build(source, arch=architecture(chip))
        self._libraries[source] = library
        path: Path = library.path
        return path

    def explain(self, source: Path, code: int) -> str:
        return f"CUDA error {code}: {self._libraries[source].error()}"


def architecture(chip: str) -> str:
    """What nvcc's -arch takes for ``sm_90``: with all of the chip's instructions, ``sm_90a``."""
    family = {"sm_90": "sm_90a", "sm_100": "sm_100f", "sm_103": "sm_103f", "sm_110": "sm_110f"}
    family |= {"sm_120": "sm_120f", "sm_121": "sm_121f"}
    return family.get(chip, chip)


@cache
def nvcc() -> str | None:
    """NVCC, or the one on PATH, of CUDA_HOME, in /usr/local/cuda, or of PyPI's nvidia-cuda-nvcc."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    spec = importlib.util.find_spec("nvidia")
    homes += [
        str(home) for path in (spec.submodule_search_locations or [] if spec else []) for home in Path(path).glob("cu*")
    ]
    places = [os.environ.get("NVCC"), shutil.which("nvcc"), *(f"{home}/bin/nvcc" for home in homes if home)]
    return next((place for place in places if place and os.access(place, os.X_OK)), None)


@cache
def version() -> tuple[int, int]:
    """nvcc's."""
    done = subprocess.run([nvcc() or "nvcc", "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"release (\d+)\.(\d+)", done.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def compile_cuda(source: Path, out: Path, arch: str) -> None:
    """Compile to the shared library `out`, which is there whole or not at all. Raises ValueError."""
    out.parent.mkdir(parents=True, exist_ok=True)
    header = sources.build_ffi().CUDA_HEADER
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        part = Path(folder) / out.name
        command = [nvcc() or "nvcc", *FLAGS, f"-arch={arch}", "-include", str(header), str(source), "-o", str(part)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ValueError(f"{source} does not compile for {arch}:\n{(done.stderr or done.stdout).strip()}")
        part.replace(out)
