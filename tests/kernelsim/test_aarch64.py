# SPDX-License-Identifier: MIT
"""The engine and kernels of both languages on AArch64, emulated by qemu: the same bits as here."""

import shutil
import subprocess

import numpy as np
import pytest
from simulated import KERNELS, int4

import kernelsim
from kernelsim import cu, cuda, metal, toolchain
from kernelsim.launch import CONVERGENCE, SCHEDULES

DRIVER = r"""
#include "engine.hpp"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
// program ENTRY groups.x groups.y threads schedule convergence dynamic FILE...: runs a kernel on what the files hold.
extern "C" int ksim_launch(const ksim::Launch *, ksim::Fault *);
struct Entry { const char *name; void (*run)(void *); };
extern const Entry entries[];
int main(int argc, char **argv) {
  ksim::Launch l = {};
  for (const Entry *e = entries; e->name; e++)
    if (!__builtin_strcmp(e->name, argv[1])) l.entry = e->run;
  l.kernel = argv[1];
  l.shared = &ksim::library_variables;
  l.groups = {uint32_t(atoi(argv[2])), uint32_t(atoi(argv[3])), 1};
  l.group = {uint32_t(atoi(argv[4])), 1, 1};
  l.schedule = ksim::Schedule(atoi(argv[5]));
  l.convergence = ksim::Convergence(atoi(argv[6]));
  l.dynamic_bytes[0] = uint32_t(atoi(argv[7]));
  l.seed = 1, l.workers = 2, l.seconds = 60;
  void *buffers[32] = {};
  long sizes[32] = {};
  l.args = buffers;
  for (int i = 8; i < argc; i++) {
    FILE *f = fopen(argv[i], "rb");
    fseek(f, 0, SEEK_END);
    sizes[i - 8] = ftell(f);
    rewind(f);
    buffers[i - 8] = aligned_alloc(64, (size_t(sizes[i - 8]) + 127) / 64 * 64);
    if (fread(buffers[i - 8], 1, size_t(sizes[i - 8]), f) != size_t(sizes[i - 8])) return 2;
    fclose(f);
  }
  ksim::Fault fault = {};
  ksim_launch(&l, &fault);
  printf("%d|%d|%u|%s", fault.kind, fault.line, fault.thread.x, fault.message);
  for (int i = 8; i < argc; i++) {
    FILE *f = fopen(argv[i], "wb");
    fwrite(buffers[i - 8], 1, size_t(sizes[i - 8]), f);
    fclose(f);
  }
  fflush(stdout);
  _Exit(0); // exit() is what kernels must not call; a static program has no other
}
"""


def cross():
    """A command that compiles C++ for AArch64, or the reason why there is none."""
    if not shutil.which("qemu-aarch64"):
        return None, "qemu-aarch64 is not installed (apt install qemu-user)"
    compiler = toolchain.find()
    if compiler.is_zig:
        return [*compiler.command, "-target", "aarch64-linux-musl", "-static"], ""
    if not shutil.which("aarch64-linux-gnu-g++"):
        return None, "no C++ library for AArch64 (apt install g++-aarch64-linux-gnu)"
    static = ["-static", "-Wl,--allow-multiple-definition"]  # of abort(), which the C library and ours have
    return [*compiler.command, "--target=aarch64-linux-gnu", *static, "-march=armv8.2-a+fp16"], ""


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    command, reason = cross()
    if command is None:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("aarch64")
    (folder / "driver.cpp").write_text(DRIVER)
    counter = iter(range(10))

    def build(unit, flags, entries, sources=()):
        """A function that runs an entry of a unit of kernels there."""
        program = folder / f"program{next(counter)}"
        table = ", ".join(f'{{"{name}", {name}}}' for name in entries)
        path = program.with_suffix(".cpp")
        path.write_text(f"{unit}\nstruct Entry {{ const char *name; void (*run)(void *); }};\n"
                        f"extern const Entry entries[];\nconst Entry entries[] = {{{table}, {{}}}};\n")  # fmt: skip
        engine = [str(toolchain.RUNTIME / name) for name in (*toolchain.ENGINE, *sources)]
        kernels = program.with_suffix(".o")
        base = [*command, *toolchain.BASE_FLAGS, "-Wno-unused-command-line-argument"]
        subprocess.run([*base, *flags, "-c", str(path), "-o", str(kernels)], check=True)
        everything = [str(folder / "driver.cpp"), *engine, str(kernels), "-fdeclspec", "-pthread", "-o", str(program)]
        subprocess.run([*base, *everything], check=True)

        def run(entry, arrays, groups=(1, 1), threads=32, schedule="forward", convergence="live", dynamic=0):
            files = []
            for i, array in enumerate(arrays):
                files.append(folder / f"{i}.bin")
                array.tofile(files[-1])
            numbers = [*groups, threads, SCHEDULES.index(schedule), CONVERGENCE.index(convergence), dynamic]
            command = ["qemu-aarch64", str(program), entry, *map(str, numbers), *map(str, files)]
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
            for file, array in zip(files, arrays, strict=True):
                array[...] = np.fromfile(file, array.dtype).reshape(array.shape)
            kind, line, thread, message = done.stdout.split("|", 3)
            return int(kind), int(line), int(thread), message

        return run

    return build


def test_the_engine(build):
    entries = ["reverse_by_shared", "sums", "named_barriers", "sum_and_wait", "wild", "divide", "endless_together"]
    flags = ["-fsanitize=integer-divide-by-zero,bounds", "-fno-sanitize-recover=all", "-fno-finite-loops"]
    run = build((KERNELS / "engine.cpp").read_text(), flags, entries)
    out = np.zeros(64, np.int32)
    for schedule in SCHEDULES:
        assert run("reverse_by_shared", [out], threads=64, schedule=schedule)[0] == 0
        assert np.array_equal(out, np.arange(64)[::-1])
        assert run("sums", [out], threads=64, schedule=schedule)[0] == 0
        assert (out[:32] == sum(range(32))).all()
        assert run("named_barriers", [out], threads=64, schedule=schedule)[0] == 0
        assert np.array_equal(out, np.arange(64).reshape(2, 32)[:, ::-1].reshape(-1))
    assert "divergent wait: 16 of 32 threads wait here, others at sum" in run("sum_and_wait", [out])[3]
    assert "unmapped memory" in run("wild", [out], threads=1)[3]
    out[1] = 0
    assert "integer division by zero" in run("divide", [out], threads=1)[3]


def test_metal(build):
    library = metal.load(KERNELS / "matrix.metal")
    unit = metal.generate(library.source, list(library.source.entries.values()))
    run = build(unit, metal.FLAGS, [f"ksim_entry_{n}" for n in range(3)])
    rng = np.random.default_rng(0)
    q, scales, biases, _ = int4(rng, 3, 256)
    x = rng.standard_normal(256).astype(np.float16)
    here, there = kernelsim.poisoned(3, np.float32), kernelsim.poisoned(3, np.float32)
    args = [q, scales, biases, x]
    library.kernel("gemv_int4")([*args, here, 256], threadgroups=3, threadgroup=128, threadgroup_memory=16)
    assert run("ksim_entry_1", [*args, there, np.uint32([256])], (3, 1), 128, dynamic=16)[0] == 0
    assert here.tobytes() == there.tobytes()
    a, b = (rng.standard_normal((64, 64)).astype(np.float16) for _ in range(2))
    here, there = kernelsim.poisoned((64, 64), np.float16), kernelsim.poisoned((64, 64), np.float16)
    args = [a, b, here, np.uint32([64, 64, 64, 0])]
    library.kernel("gemm_f16")(args, threadgroups=(2, 2), threadgroup=128)
    assert run("ksim_entry_2", [a, b, there, args[3]], (2, 2), 128)[0] == 0
    assert here.tobytes() == there.tobytes()


def test_cuda(build):
    library = cuda.load(KERNELS / "matrix.cu")
    unit = cuda._unit(library.source, library.arch, ("gemm_f16",))
    run = build(unit, cuda.FLAGS, ["ksim_entry_0"], cuda.HOST)
    assert isinstance(library.source, cu.Source)
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((64, 64)).astype(np.float16) for _ in range(2))
    here, there = kernelsim.poisoned((64, 64), np.float32), kernelsim.poisoned((64, 64), np.float32)
    library.kernel("gemm_f16")([a, b, here, 64, 64], grid=1, block=128, shared=20480)
    arrays = [a, b, there, np.int32([64]), np.int32([64])]
    assert run("ksim_entry_0", arrays, threads=128, dynamic=20480)[0] == 0
    assert here.tobytes() == there.tobytes()
