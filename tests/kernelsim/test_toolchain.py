# SPDX-License-Identifier: MIT
"""Finding a compiler, and compiling nothing twice."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from kernelsim import SourceError, ToolchainError, metal, toolchain
from kernelsim.toolchain import Toolchain

SOURCE = "kernel void f(device float* y, uint i [[thread_position_in_grid]]) { y[i] = 3; }"


def fake(folder, name, version):
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{version}'\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("compilers", "found"),
    [
        ({"clang++": "Debian clang version 14.0.6"}, None),
        ({"clang++": "Debian clang version 17.0.6"}, "clang++"),
        ({"clang++": "clang version 14.0.6", "clang++-18": "Ubuntu clang version 18.1.3"}, "clang++-18"),
        ({"clang++": "Apple clang version 15.0.0 (clang-1500.3.9.4)"}, None),
        ({"clang++": "Apple clang version 16.0.0 (clang-1600.0.26.4)"}, "clang++"),
        ({"clang++": "nothing that it knows"}, None),
        ({}, None),
    ],
)
def test_the_first_that_is_new_enough_is_taken(monkeypatch, tmp_path, compilers, found):
    for name, version in compilers.items():
        fake(tmp_path, name, version)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("KERNELSIM_CLANG", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    if found:
        assert toolchain.find.__wrapped__().command == (str(tmp_path / found),)
    else:
        with pytest.raises(ToolchainError, match=r"no clang\+\+ >= 17 on this machine: install clang 17 or later"):
            toolchain.find.__wrapped__()


def test_a_named_compiler_is_taken_or_refused(monkeypatch, tmp_path):
    fake(tmp_path, "mine", "clang version 21.1.0")
    monkeypatch.setenv("KERNELSIM_CLANG", str(tmp_path / "mine"))
    assert toolchain.find.__wrapped__() == Toolchain((str(tmp_path / "mine"),), "clang version 21.1.0")
    monkeypatch.setenv("KERNELSIM_CLANG", "/nowhere/clang++")
    with pytest.raises(ToolchainError, match=r"KERNELSIM_CLANG=/nowhere/clang\+\+ is not a clang\+\+ >= 17"):
        toolchain.find.__wrapped__()


def test_pypis_compiler_is_the_last_resort(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("KERNELSIM_CLANG", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "ziglang")
    fake(tmp_path, "python", "clang version 22.1.0")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert toolchain.find.__wrapped__().is_zig


def test_what_has_not_changed_is_not_compiled_again(monkeypatch, tmp_path):
    monkeypatch.setattr(toolchain, "cache", lambda: tmp_path)
    commands = []
    run = Toolchain.run

    def counted(self, *arguments, **options):
        commands.append(arguments)
        return run(self, *arguments, **options)

    monkeypatch.setattr(Toolchain, "run", counted)
    file = tmp_path / "f.metal"
    file.write_text(SOURCE)
    metal.load(file).kernel("f")
    first = len(commands)
    assert first > 2
    y = np.zeros(4, np.float32)
    metal.load(file).kernel("f")([y], grid=4, threadgroup=4)
    assert list(y) == [3] * 4
    assert len(commands) == first + 1  # the preprocessor, which sees what the file includes
    file.write_text(SOURCE.replace("3", "5"))
    metal.load(file).kernel("f")([y], grid=4, threadgroup=4)
    assert list(y) == [5] * 4
    assert len(commands) == first + 3  # again, and the kernel; the engine is there


def test_processes_may_compile_the_same_file_at_once(tmp_path):
    (tmp_path / "f.metal").write_text(SOURCE)
    code = "import sys, kernelsim; kernelsim.metal.load(sys.argv[1]).kernel('f')"
    environment = {"KERNELSIM_CACHE": str(tmp_path / "cache"), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", code, str(tmp_path / "f.metal")]
    jobs = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) for _ in range(3)]
    assert [job.communicate()[1] for job in jobs] == [b""] * 3
    assert not [path for path in (tmp_path / "cache").iterdir() if path.name.startswith("tmp")]


def test_a_compiler_that_hangs_is_ended(monkeypatch):
    monkeypatch.setattr(toolchain, "COMPILE_SECONDS", 0.2)
    start = time.monotonic()
    with pytest.raises(SourceError, match=r"the compiler took more than 0\.2 s"):
        Toolchain(("sleep",), "").run("60")
    assert time.monotonic() - start < 10


WITH_ZIG = '''
import ctypes
import numpy as np
from kernelsim import cuda, metal, toolchain

assert toolchain.find().is_zig
recursive = "int f(int n) { return n ? f(n - 1) : 0; } kernel void k(device int* y) { *y = f(1); }"
mixed_up = "kernel void k(device int* y, constant int* x) { device int* z = x; z[0] = y[0]; }"
for source in (recursive, mixed_up):
    print([finding.message for finding in metal.load(source=source).check()])
cuda_source = """
#include <vector>
__global__ void k(int* y) { *y = 7; }
extern "C" int launch(int* y) { std::vector<int> v(1); k<<<v.size(), 1>>>(y); return cudaGetLastError(); }
"""
y = np.zeros(1, np.int32)
print(cuda.build(source=cuda_source).functions.launch(ctypes.c_void_p(y.ctypes.data)), y[0])
'''


def test_pypis_compiler_checks_and_compiles_host_code():
    """What its driver does in another way than clang's: languages, standard output, the host's C++ library."""
    pytest.importorskip("ziglang", reason="pip install ziglang: it is not tested")
    environment = {**os.environ, "KERNELSIM_CLANG": f"{sys.executable} -m ziglang c++"}
    done = subprocess.run(
        [sys.executable, "-c", WITH_ZIG], env=environment, capture_output=True, text=True, check=False
    )
    assert "constant int" in done.stdout, done.stderr
    assert "f calls itself" in done.stdout
    assert done.stdout.endswith("0 7\n"), done.stdout + done.stderr


def test_the_cache_loses_what_was_used_longest_ago(tmp_path):
    for age, name in enumerate("edcba"):
        (tmp_path / f"{name * 24}.so").write_bytes(bytes(10))
        os.utime(tmp_path / f"{name * 24}.so", (1000 - age, 1000 - age))
    others = ["tmp_of_somebody", "results.npy"]
    for name in others:
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (0, 0))
    for name in ("kernelsim_killed", "kernelsim_running", "stubs_x", "tmp_folder"):
        (tmp_path / name).mkdir()
    for name in ("kernelsim_killed", "tmp_folder"):
        os.utime(tmp_path / name, (0, 0))

    def left():
        return "".join(sorted(path.name[0] for path in tmp_path.glob("*.so")))

    toolchain.prune(tmp_path, 50, before=2000)
    assert left() == "abcde"
    toolchain.prune(tmp_path, 35, before=2000)
    assert left() == "cde"
    toolchain.prune(tmp_path, 0, before=999)  # "d" was used then, "e" later
    assert left() == "de"
    kept = sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".so")
    assert kept == sorted([*others, "kernelsim_running", "stubs_x", "tmp_folder"])


def test_a_file_of_the_cache_that_is_used_is_the_last_to_go(monkeypatch, tmp_path):
    monkeypatch.setattr(toolchain, "cache", lambda: tmp_path)
    compiler = toolchain.find()
    made = [compiler.compile(f"int f{n};", (), suffix=".o") for n in range(2)]
    for path in made:
        os.utime(path, (1000, 1000))
    assert compiler.compile("int f0;", (), suffix=".o") == made[0]
    toolchain.prune(tmp_path, 1, before=2000)
    assert [path.exists() for path in made] == [True, False]
