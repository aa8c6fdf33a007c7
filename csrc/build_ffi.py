# SPDX-License-Identifier: MIT
"""Builds ``roofbench._cpu`` from the C sources beside this file, with cffi in API mode.

setup.py names `ffibuilder`. `flags` and `prototypes` also serve who compiles one of the files alone.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
import sysconfig
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
HEADER = HERE / "cpu_kernels.h"
CUDA_HEADER = HERE / "cuda_kernels.h"

# Contraction: a multiply-add rounds once wherever the chip can, as ISO modes of GCC otherwise forbid.
# psabi: vectors wider than the baseline's registers never cross a call between files.
COMPILE = ("-O3", "-std=gnu11", "-ffp-contract=fast", "-Wall", "-Wextra", "-Wno-psabi")


def compiler() -> list[str]:
    """The C compiler: $CC, else the one that built this Python, else cc."""
    return shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")


def openmp() -> list[str]:
    """``["-fopenmp"]`` where the compiler has OpenMP and its runtime, else nothing."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.c"
        source.write_text("#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n")
        command = [*compiler(), "-fopenmp", str(source), "-o", str(source.with_suffix(""))]
        try:
            done = subprocess.run(command, capture_output=True, check=False)
        except OSError:
            return []
        return [] if done.returncode else ["-fopenmp"]


def level() -> list[str]:
    """``["-march=native"]`` on x86-64 where the compiler cannot make `CLONES`, as in the sources; else nothing."""
    test = "#if defined(__x86_64__) && (defined(__clang__) || __GNUC__ < 12 || !defined(__gnu_linux__))\nnative\n#endif"
    try:
        done = subprocess.run(
            [*compiler(), "-E", "-x", "c", "-"], input=test, capture_output=True, text=True, check=False
        )
    except OSError:
        return []
    return ["-march=native"] if "\nnative" in done.stdout else []


# What the library says of itself: the files that it was built from, and what compiled them.
ORIGIN = """static const char *const rb_built_from;
static const char *const rb_compiler;
"""
COMPILER = """#if defined(__apple_build_version__)
static const char *const rb_compiler = "Apple Clang " __clang_version__;
#elif defined(__clang__)
static const char *const rb_compiler = "Clang " __clang_version__;
#elif defined(__GNUC__)
static const char *const rb_compiler = "GCC " __VERSION__;
#else
static const char *const rb_compiler = "unknown";
#endif
"""


@cache
def flags() -> tuple[list[str], list[str]]:
    """Compile and link flags of every C source, the header that declares it included."""
    threads = openmp()
    return [*COMPILE, *level(), "-include", str(HEADER), *threads], threads


def declarations(header: Path = HEADER) -> str:
    """Plain C prototypes, cut out of a header for cffi."""
    text = header.read_text()
    return text[text.index("/* cffi: begin */") : text.index("/* cffi: end */")]


def prototypes(header: Path = HEADER) -> dict[str, list[tuple[str, str]]]:
    """Launcher -> its (type, name) arguments, as a header spells them."""
    text = re.sub(r"/\*.*?\*/", "", declarations(header), flags=re.DOTALL)
    found = {}
    for name, arguments in re.findall(r"(rb_\w+)\(([^)]*)\);", text):
        pairs = re.findall(r"\s*(.*?)(\w+)\s*(?:,|$)", " ".join(arguments.split()))
        found[name] = [(kind.strip(), arg) for kind, arg in pairs if arg != "void"]
    return found


def sources() -> list[Path]:
    return sorted(HERE.glob("*.c"))


def hashes() -> dict[str, str]:
    """The sha256 of the header and of every source, by file name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (HEADER, *sources())}


def ffibuilder() -> Any:
    """The cffi.FFI that setup.py builds."""
    import cffi

    ffi = cffi.FFI()
    ffi.cdef(declarations() + ORIGIN)
    files = "\n".join(f'  "{name}:{digest} "' for name, digest in hashes().items())
    compile_args, link_args = flags()
    ffi.set_source(
        "roofbench._cpu",
        f"static const char *const rb_built_from =\n{files};\n{COMPILER}",  # the header comes with -include
        sources=[os.path.relpath(source) for source in sources()],
        depends=[os.path.relpath(HEADER)],
        extra_compile_args=compile_args,
        extra_link_args=link_args,
    )
    return ffi
