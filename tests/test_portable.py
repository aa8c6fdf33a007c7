# SPDX-License-Identifier: MIT
"""The C library elsewhere: under sanitisers, on AArch64, with another compiler, without OpenMP, one file alone."""

import itertools
import platform
import shutil
import subprocess
import sys

import numpy as np
import pytest
from support import CPU, Remote, every_format, hazards, worst

from roofbench import sources
from roofbench.hazards import KINDS, expected, inputs
from roofbench.numerics import aligned, poison
from roofbench.ops import OPS, probe

builder = sources.build_ffi()


def probes():
    """Sizes of every variant of every probe: less than a step, a step, a page, and two threads with a rest."""
    lib, ffi, _ = CPU.library
    for kind, name in enumerate(probe.KINDS):
        sizes = (probe.PEAK_TASK, 3 * probe.PEAK_TASK) if name in probe.PEAKS else (1, 63, 64, 4096, 5000)
        for variant in itertools.count():
            if lib.rb_probe_variant(name.encode(), variant) == ffi.NULL:
                break
            yield from ({"kind": kind, "n": n, "variant": variant} for n in sizes)


def sweep(remote):
    """Every op, format, hazard, kind of data and probe through a program of its own, in one process."""
    rng = np.random.default_rng(0)
    calls = []
    for dims in probes():
        arrays = {}
        for name, arg in OPS["probe"].signature("f32", dims).items():
            arrays[name] = aligned(arg.shape, arg.dtype)
            arrays[name][...] = rng.integers(-1000, 1000, arg.shape).astype(arg.dtype)  # modulo 2^64 where unsigned
            if arg.role == "out":
                poison(arrays[name])
        known = OPS["probe"].reference("f32", {**arrays, "n": dims["n"]})
        calls.append(("probe", "f32", dims, "", arrays, known))
        remote.add("probe", "f32", dims, arrays)
    assert len({(dims["kind"], dims["variant"]) for _, _, dims, *_ in calls}) > 30
    for op, format in every_format():
        for kind in KINDS:
            for dims in hazards(op, format):
                arrays = inputs(op, format, dims, rng, kind)
                calls.append((op, format, dims, kind, arrays, expected(op, format, arrays, kind)))
                remote.add(op, format, dims, arrays)
    codes = remote.run()
    assert set(codes) == {0}
    for op, format, dims, kind, arrays, known in calls:
        error = worst(op, format, dims, arrays, known)
        assert error <= 1, (op, format, kind, dims, error)
    return len(calls)


def available(compiler, flags, reason):
    """Skip, with the reason, where a compiler cannot build and run a program with such flags."""
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"{reason}: {compiler[0]} is not installed")
    probe = "int main(void) { return 0; }"
    done = subprocess.run(
        [*compiler, *flags, "-x", "c", "-", "-o", "/dev/null"], input=probe, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"{reason}: {' '.join(compiler)} {' '.join(flags)} fails: {done.stderr.strip()[:200]}")


SANITISE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1"]


@pytest.fixture(scope="module")
def sanitised(tmp_path_factory):
    """Every buffer has its exact size: a byte read or written beside one ends the program."""
    available(builder.compiler(), SANITISE, "no sanitisers")
    return Remote(tmp_path_factory.mktemp("sanitised"), builder.compiler(), SANITISE)


def test_sanitisers(sanitised):
    assert sweep(sanitised) > 1000


def test_sanitisers_see_a_fault(sanitised):
    """A buffer that is one element too short: the harness itself is not blind."""
    dims = {"M": 1, "N": 4, "K": 64}
    arrays = inputs("gemv", "f32", dims, np.random.default_rng(0))
    arrays["w"] = arrays["w"].reshape(-1)[:-1].copy()
    sanitised.add("gemv", "f32", dims, arrays)
    with pytest.raises(RuntimeError, match="AddressSanitizer"):
        sanitised.run()


def test_sanitisers_with_two_threads(tmp_path):
    if not builder.openmp():
        pytest.skip(f"{' '.join(builder.compiler())} has no OpenMP")
    flags = [*SANITISE, *builder.openmp()]
    available(builder.compiler(), flags, "no sanitisers")
    assert sweep(Remote(tmp_path, builder.compiler(), flags)) > 1000


def test_any_number_of_threads_gives_the_same_bits():
    dims = {"B": 2, "M": 130, "N": 50, "K": 600, "w_batch": 1}
    arrays = inputs("gemm", "f32", dims, np.random.default_rng(0))
    results = []
    for threads in (1, 2, 3, 7):
        CPU.bind("gemm", "f32", {**dims, "threads": threads}, arrays)()
        results.append(arrays["y"].tobytes())
    assert len(set(results)) == 1


def test_aarch64(tmp_path):
    """The same bits of truth under qemu-user."""
    compiler = ["aarch64-linux-gnu-gcc"]
    available(compiler, ["-static"], "no AArch64 (apt install gcc-aarch64-linux-gnu qemu-user)")
    runner = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if runner is None:
        pytest.skip("no AArch64: qemu-user is not installed (apt install qemu-user)")
    assert sweep(Remote(tmp_path, compiler, ["-static"], [runner])) > 1000


@pytest.mark.parametrize("compiler", ["gcc", "clang", "clang-19"])
def test_other_compilers_without_openmp(tmp_path, monkeypatch, compiler):
    """What cannot make code for each level of x86-64 makes it for the machine at hand."""
    available([compiler], [], "another compiler")
    monkeypatch.setenv("CC", compiler)
    native = builder.level()
    assert native == (["-march=native"] if "clang" in compiler and platform.machine() == "x86_64" else [])
    assert sweep(Remote(tmp_path, [compiler], ["-Wno-unknown-pragmas", *native])) > 1000


def test_baseline_x86(tmp_path):
    """What a chip without AVX runs: the default clone, forced by leaving the others out."""
    if sys.platform != "linux":
        pytest.skip("clones are chosen on Linux only")
    available(builder.compiler(), ["-msse2"], "no x86")
    assert sweep(Remote(tmp_path, builder.compiler(), ["-Dtarget_clones(...)=unused"])) > 1000


def test_x86_64_v3(tmp_path):
    """What a chip with AVX2 and no AVX-512 runs."""
    if CPU.isa() not in ("x86-64-v3", "x86-64-v4"):
        pytest.skip(f"no AVX2 here, which is {CPU.isa()}")
    flags = ["-march=x86-64-v3", "-Dtarget_clones(...)=unused"]
    available(builder.compiler(), flags, "no x86-64-v3")
    assert sweep(Remote(tmp_path, builder.compiler(), flags)) > 1000


@pytest.mark.parametrize("path", builder.sources(), ids=lambda path: path.name)
def test_each_file_stands_alone(tmp_path, path):
    """Copied into an empty folder, compiled with nothing of ours, warnings are errors."""
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    assert '#include "' not in copy.read_text()
    strict = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-O2"]
    for threads in ([], builder.openmp()):
        command = [*builder.compiler(), *strict, *threads, "-c", copy.name, "-o", "out.o"]
        subprocess.run([*command, *([] if threads else ["-Wno-unknown-pragmas"])], cwd=tmp_path, check=True)
