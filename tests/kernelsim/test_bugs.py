# SPDX-License-Identifier: MIT
"""Bugs that ship: each is put into a kernel that is right, and must be found."""

import re

import numpy as np
import pytest
from simulated import KERNELS

from kernelsim import (
    ArgumentError,
    KernelFault,
    KernelSimError,
    ScheduleError,
    TimeLimitExceeded,
    cuda,
    metal,
    poisoned,
)

METAL = (KERNELS / "matrix.metal").read_text()
CUDA = (KERNELS / "matrix.cu").read_text()
RNG = np.random.default_rng(0)


def half(*shape):
    return RNG.standard_normal(shape).astype(np.float16)


def metal_gemv(library):
    y = poisoned(5, np.float16)
    library.kernel("gemv_f16").check([half(5, 256), half(256), y, 5, 256], threadgroups=3, threadgroup=64, time_limit=2)
    return y


def metal_int4(library):
    y = poisoned(2, np.float32)
    q = RNG.integers(0, 1 << 32, (2, 64), np.uint32)
    args = [q, half(2, 8), half(2, 8), half(512), y, 512]
    library.kernel("gemv_int4").check(args, threadgroups=2, threadgroup=128, threadgroup_memory=16)
    return y


def metal_gemm(library):
    c = poisoned((32, 64), np.float16)
    args = [half(32, 64), half(64, 64), c, np.array([32, 64, 64, 0], np.uint32)]
    library.kernel("gemm_f16").check(args, threadgroups=(2, 1), threadgroup=128)
    return c


def cuda_gemv(library):
    y = poisoned(5, np.float32)
    library.kernel("gemv_f16<4>").check([half(5, 512), half(512), y, 5, 512], grid=2, block=128)
    return y


def cuda_gemm(library):
    c = poisoned((64, 128), np.float32)
    library.kernel("gemm_f16").check([half(64, 96), half(128, 96), c, 128, 96], grid=(2, 1), block=128, shared=20480)
    return c


def cuda_sum(library):
    out = poisoned(1, np.float32)
    library.kernel("sum_f32").check([RNG.standard_normal(1024).astype(np.float32), out, 1024], grid=1, block=256)
    return out


NAN = "a result that is not a number"
RIGHT = [metal_gemv, metal_int4, metal_gemm, cuda_gemv, cuda_gemm, cuda_sum]
BUGS = {
    # kernel: [(name, what is right, what is wrong, the error, its message)]
    metal_gemv: [
        (
            "no check of the last row",
            "if (row >= N) return;",
            "if (row > N) return;",
            KernelFault,
            r":\d+: gemv_f16: reads w .argument 0. \d+ bytes past the end .threadgroup .2, 0, 0., thread .32, 0, 0",
        ),
        (
            "a row too many",
            "w + row * K",
            "w + (row + 1) * K",
            KernelFault,
            "reads w .argument 0. 0 bytes past the end",
        ),
        ("an index without its factor of four", "k < K / 4", "k < K", KernelFault, "reads . .argument .. 0 bytes past"),
        ("a loop that never ends", "k += 32", "k += simds - 2", TimeLimitExceeded, "an endless loop"),
        (
            "division by a zero that is given",
            "group * simds",
            "group / (N - 5) * simds",
            KernelFault,
            "integer division by zero",
        ),
        (
            "a lane's own sum",
            "sum = simd_sum(sum);",
            "if (lane < 16) sum = simd_sum(sum); simdgroup_barrier(mem_flags::mem_none);",
            KernelFault,
            "divergent simd_sum",
        ),
        (
            "outputs of another lane's row",
            "if (lane == 0) y[row] = half(sum);",
            "if (lane == 1) y[row + 1] = half(sum);",
            KernelFault,
            r"writes y \(argument 2\) 0 bytes past the end|writes past the end of y",
        ),
    ],
    metal_int4: [
        (
            "no barrier before partial sums are read",
            "threadgroup_barrier(mem_flags::mem_threadgroup);",
            ";",
            (ScheduleError, NAN),
            "differs between the schedules",
        ),
        (
            "a barrier that only one lane reaches",
            "if (lane == 0) partial[simd] = sum;\n  threadgroup_barrier(mem_flags::mem_threadgroup);",
            (
                "if (lane == 0) { partial[simd] = sum; threadgroup_barrier(mem_flags::mem_threadgroup); }\n"
                "  simdgroup_barrier(mem_flags::mem_none);"
            ),
            KernelFault,
            "divergent threadgroup_barrier",
        ),
        ("a partial sum that nobody wrote", "lane < simds ?", "lane <= simds ?", (KernelFault, NAN), "reads unmapped"),
        (
            "more simdgroups than partial sums",
            "partial[simd]",
            "partial[simd + 1]",
            KernelFault,
            "writes past the end of its dynamic threadgroup memory|writes unmapped",
        ),
    ],
    metal_gemm: [
        (
            "no barrier before the tiles are read",
            "threadgroup_barrier(mem_flags::mem_threadgroup);\n    for",
            "for",
            (ScheduleError, NAN),
            "differs between",
        ),
        (
            "no barrier before the tiles are written again",
            "    threadgroup_barrier(mem_flags::mem_threadgroup);\n  }",
            "  }",
            ScheduleError,
            "differs between",
        ),
        ("a tile too far", "k < K; k += 32", "k <= K; k += 32", KernelFault, r"reads . \(argument .\) \d+ bytes past"),
        (
            "a wrong leading dimension",
            "&b_tile[kk][n + 8 * j], 40",
            "&b_tile[kk][n + 8 * j], 48",
            (KernelFault, NAN),
            "unmapped",
        ),
        (
            "an index outside of the tile",
            "&a_tile[row][column]",
            "&a_tile[row + 1][column]",
            KernelFault,
            "index 32 is outside of its array",
        ),
        (
            "an input that is written",
            "const uint N = mnk.y",
            "((device half*)a)[thread_] = 0; const uint N = mnk.y",
            KernelFault,
            r"writes to a \(argument 0\), which it declares const",
        ),
        (
            "more threadgroup memory than there is",
            "b_tile[32][40]",
            "b_tile[400][40]",
            ArgumentError,
            "needs 34560 bytes of threadgroup memory",
        ),
    ],
    cuda_gemv: [
        (
            "a mask that leaves lanes out",
            "__shfl_xor_sync(0xffffffff",
            "__shfl_xor_sync(0x0000ffff",
            KernelFault,
            "not in its own mask",
        ),
        (
            "a misaligned load",
            "w + (size_t)row * K + k",
            "w + (size_t)row * K + k + 1",
            KernelFault,
            "misaligned address",
        ),
        (
            "no check of the last row",
            "if (row >= N) return;",
            "",
            KernelFault,
            r"reads w \(argument 0\) \d+ bytes past the end",
        ),
    ],
    cuda_gemm: [
        (
            "a wait that leaves one group out",
            "cp.async.wait_group 1",
            "cp.async.wait_group 2",
            (ScheduleError, NAN),
            "differs",
        ),
        ("no barrier after the wait", "__syncthreads();\n    for", "for", (ScheduleError, NAN), "differs"),
        ("no barrier before the buffer is filled again", "    __syncthreads();\n  }", "  }", ScheduleError, "differs"),
        (
            "ldmatrix of a row too many",
            "m + 16 * i + lane % 16",
            "m + 16 * i + lane % 16 + 65",
            KernelFault,
            "index .* is outside of its array",
        ),
        (
            "an instruction that does not exist",
            "ldmatrix.sync.aligned.m8n8.x4",
            "ldmatrix.sync.aligned.m8n8.x3",
            KernelSimError,
            r"\.cu:\d+:\d+: error: asm: ldmatrix\.sync\.aligned\.m8n8\.x3\.shared\.b16: kernelsim does not know",
        ),
    ],
    cuda_sum: [
        ("no barrier before partial sums are read", "__syncthreads();\n  if", "if", (ScheduleError, NAN), "differs"),
        (
            "a barrier behind a return",
            "  if (threadIdx.x >= 32) return;",
            "  if (threadIdx.x < 8) __syncthreads(); __syncwarp();",
            KernelFault,
            "divergent __syncwarp with mask ffffffff: 24 of 32 threads wait here, others at __syncthreads",
        ),
        (
            "a partial sum that nobody wrote",
            "threadIdx.x < blockDim.x / 32 ?",
            "threadIdx.x <= blockDim.x / 32 ?",
            NAN,
            "",
        ),
    ],
}


def library(run, text):
    if run in (metal_gemv, metal_int4, metal_gemm):
        return metal.load(source=text)
    return cuda.load(source=text, arch="sm_90")


@pytest.mark.parametrize("run", RIGHT, ids=lambda run: run.__name__)
def test_the_kernels_themselves_pass(run):
    text = METAL if run in (metal_gemv, metal_int4, metal_gemm) else CUDA
    assert np.isfinite(run(library(run, text))).all()


CASES = [pytest.param(run, *bug, id=f"{run.__name__}: {bug[0]}") for run, bugs in BUGS.items() for bug in bugs]


@pytest.mark.parametrize(("run", "name", "right", "wrong", "error", "message"), CASES)
def test_an_injected_bug_is_found(run, name, right, wrong, error, message):
    text = METAL if run.__name__.startswith("metal") else CUDA
    assert right in text, name
    expected = error if isinstance(error, tuple) else (error,)
    errors = tuple(e for e in expected if isinstance(e, type))
    try:
        result = run(library(run, text.replace(right, wrong, 1)))
    except errors as caught:
        assert re.search(message, str(caught)), str(caught)
        return
    assert NAN in expected
    assert np.isnan(result).any()
