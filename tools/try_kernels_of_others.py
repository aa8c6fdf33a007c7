# SPDX-License-Identifier: MIT
"""Runs kernels of other projects, unmodified, in kernelsim and compares them with NumPy in float64.

    python tools/try_kernels_of_others.py FOLDER [WORD ...]

FOLDER holds clones of the repositories, under their names, as `git clone URL` makes them; without a FOLDER the URLs
are printed. WORDs choose kernels by any part of their line. A line for each kernel says `ran`, with the largest error
in parts of the largest value, `wrong`, `failed` or `not there`. Each runs in three schedules, which must agree.
"""

import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import kernelsim
from kernelsim.errors import KernelSimError

Array = np.ndarray[Any, Any]
Random = np.random.Generator
F16, F32, F64 = np.float16, np.float32, np.float64


@dataclass(frozen=True)
class Problem:
    args: list[Any]
    launch: dict[str, Any]
    want: dict[int, Array]  # what the arguments of these indices must be afterwards, in float64
    tolerance: float  # in parts of the largest value


@dataclass(frozen=True)
class Kernel:
    repository: str  # of github.com
    file: str
    name: str
    shows: str
    problem: Callable[[Random], Problem]
    include: tuple[str, ...] = ()
    before: str = ""  # a file that the project puts before this one
    constants: tuple[tuple[str, int], ...] = ()  # Metal's function constants


def normal(rng: Random, *shape: int, dtype: Any = F16) -> Array:
    return rng.standard_normal(shape).astype(dtype)


def softmax(x: Array) -> Array:
    e: Array = np.exp(x - x.max(-1, keepdims=True))
    e /= e.sum(-1, keepdims=True)
    return e


def attention(q: Array, k: Array, v: Array) -> Array:
    """softmax(q @ k.T / sqrt(d)) @ v over the last two axes, in float64."""
    q, k, v = (a.astype(F64) for a in (q, k, v))
    weights = softmax(q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]))
    return weights @ v


def nibbles(values: Array, order: tuple[int, ...] = tuple(range(8))) -> Array:
    """Eight values along the last axis to a uint32: bits 4 i to 4 i + 3 are value order[i]."""
    eights = values.reshape(*values.shape[:-1], -1, 8)[..., list(order)].astype(np.uint32)
    packed: Array = np.bitwise_or.reduce(eights << np.arange(0, 32, 4, dtype=np.uint32), -1)
    return packed


# ---- Matrix multiplications


def hgemm(rng: Random) -> Problem:
    m, n, k = 128, 256, 64
    a, b, c = normal(rng, m, k), normal(rng, k, n), kernelsim.poisoned((m, n), F16)
    launch = {"grid": (n // 128, m // 128), "block": 256}
    return Problem([a, b, c, m, n, k], launch, {2: a.astype(F64) @ b}, 2**-7)  # accumulates in f16


def sgemm(rng: Random) -> Problem:
    m, n, k = 128, 256, 64
    a, b, c = normal(rng, m, k, dtype=F32), normal(rng, k, n, dtype=F32), normal(rng, m, n, dtype=F32)
    want = 0.5 * (a.astype(F64) @ b) + 3.0 * c
    launch = {"grid": (n // 128, m // 128), "block": 128}
    return Problem([m, n, k, 0.5, a, b, 3.0, c], launch, {7: want}, 1e-6)


def mul_mm(rng: Random) -> Problem:
    n, k, m = 70, 256, 41
    w, x, y = normal(rng, n, k), normal(rng, m, k, dtype=F32), kernelsim.poisoned((m, n), F32)
    sizes = [k, 1, k * 2, n * k * 2, n * k * 2, 1, 4, k * 4, m * k * 4, m * k * 4, n, m, 1, 1]
    args = [np.frombuffer(struct.pack("<2i3Qi4x4Q2i2h4x", *sizes), np.uint8), w, x, y]
    launch = {"threadgroups": (-(-m // 32), -(-n // 64)), "threadgroup": 128, "threadgroup_memory": [8192]}
    return Problem(args, launch, {3: x.astype(F64) @ w.T.astype(F64)}, 2**-9)  # x is rounded to f16


# ---- Matrix-vector multiplications


def hgemv(rng: Random) -> Problem:
    m, k = 32, 128
    a, x, y = normal(rng, m, k), normal(rng, k), kernelsim.poisoned(m, F16)
    return Problem([a, x, y, m, k], {"grid": m // 4, "block": (32, 4)}, {2: a.astype(F64) @ x}, 2**-8)  # sums in f16


def matmul_of_simdgroups(rng: Random) -> Problem:
    n, k = 24, 512
    w, x, y = normal(rng, n, k), normal(rng, k, dtype=F32), kernelsim.poisoned(n, F32)
    launch = {"grid": n * 32, "threadgroup": 128}
    return Problem([k, y, x, w], launch, {1: w.astype(F64) @ x}, 1e-6)


# ---- Four-bit weights

NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)  # of the QLoRA paper, appendix E


def nf4(rng: Random, m: int, n: int, k: int) -> tuple[list[Any], Array]:
    a, q = normal(rng, m, k), rng.integers(0, 16, (n, k))
    absmax = rng.uniform(0.5, 2, (n, k // 64)).astype(F32)
    packed = (q[:, ::2] << 4 | q[:, 1::2]).astype(np.uint8)
    w = np.array(NF4)[q] * np.repeat(absmax, 64, 1)
    args = [a, packed, absmax, None, None, None, kernelsim.poisoned((m, n), F16), None, m, n, k, 64, 2]
    return args, a.astype(F64) @ w.T


def nf4_gemv(rng: Random) -> Problem:
    args, want = nf4(rng, 1, 32, 512)
    return Problem(args, {"grid": 32 // 4, "block": 128}, {6: want}, 2**-9)


def nf4_gemm(rng: Random) -> Problem:
    args, want = nf4(rng, 48, 128, 256)
    shared = 2 * (64 + 64) * (64 + 8) * 2
    return Problem(args, {"grid": (1, 2), "block": 256, "shared": shared}, {6: want}, 2**-9)


def awq(rng: Random) -> Problem:
    m, n, k, group = 16, 128, 128, 64
    a, q, zeros = normal(rng, m, k), rng.integers(0, 16, (k, n)), rng.integers(0, 16, (k // group, n))
    scales, order = rng.uniform(0.01, 0.1, (k // group, n)).astype(F16), (0, 2, 4, 6, 1, 3, 5, 7)
    w = (q - np.repeat(zeros, group, 0)) * np.repeat(scales.astype(F64), group, 0)
    c = kernelsim.poisoned((m, n), F16)
    packed, packed_zeros = (nibbles(x, order).view(np.int32) for x in (q, zeros))
    args = [group, 1, a, packed, scales, packed_zeros, m, k, n, c]
    return Problem(args, {"grid": 1, "block": (32, 2)}, {9: a.astype(F64) @ w}, 2**-8)  # weights are rounded to f16


def int4pack(rng: Random) -> Problem:
    m, n, k, group = 2, 16, 256, 64
    a, q = normal(rng, m, k, dtype=F32), rng.integers(0, 16, (n, k))
    scales, zeros = rng.uniform(0.5, 2, (n, k // group)).astype(F32), normal(rng, n, k // group, dtype=F32)
    w = q * np.repeat(scales.astype(F64), group, 1) + np.repeat(zeros, group, 1)
    packed, y = (q[:, ::2] | q[:, 1::2] << 4).astype(np.uint8), kernelsim.poisoned((m, n), F32)
    args = [a, packed, scales, zeros, y, np.array([m, k, n, 0], np.uint32)]
    launch = {"grid": (n // 4 * 32, 1, m), "threadgroup": (32, 1, 1)}
    return Problem(args, launch, {4: a.astype(F64) @ w.T}, 1e-5)


# ---- Attention


def flash_attention_split_q(rng: Random) -> Problem:
    batch, heads, n, d = 1, 2, 128, 64
    q, k, v = (normal(rng, batch, heads, n, d) for _ in range(3))
    o = kernelsim.poisoned(q.shape, F16)
    shared = (64 + 2 * 64 + 64) * (d + 8) * 2
    launch = {"grid": (n // 64, batch * heads), "block": 128, "shared": shared}
    return Problem([q, k, v, o, n, heads], launch, {3: attention(q, k, v)}, 2**-6)  # accumulates in f16


def flash_attention_minimal(rng: Random) -> Problem:
    batch, heads, n, d, rows = 2, 2, 64, 16, 32
    q, k, v = (normal(rng, batch, heads, n, d, dtype=F32) for _ in range(3))
    state, o = np.zeros((batch, heads, n), F32), np.zeros(q.shape, F32)
    args = [q, k, v, n, d, n // rows, n // rows, rows, rows, d**-0.5, state, state - np.float32(np.inf), o]
    shared = (3 * rows * d + rows * rows) * 4
    return Problem(args, {"grid": (batch, heads), "block": rows, "shared": shared}, {12: attention(q, k, v)}, 1e-5)


def paged_attention(rng: Random) -> Problem:
    heads, kv_heads, d, page, pages, lengths = 4, 2, 64, 16, 8, np.array([37, 50], np.int32)
    q, o = normal(rng, 2, heads, d), kernelsim.poisoned((2, heads, d), F16)
    k, v = (normal(rng, pages, kv_heads, page, d) for _ in range(2))
    tables = rng.permutation(pages).reshape(2, 4).astype(np.int32)
    k_cache = np.ascontiguousarray(k.reshape(pages, kv_heads, page, d // 8, 8).transpose(0, 1, 3, 2, 4))
    v_cache = np.ascontiguousarray(v.transpose(0, 1, 3, 2))
    want = np.empty(q.shape)
    for s, h in np.ndindex(2, heads):
        rows = (cache[tables[s], h // 2].reshape(-1, d)[: lengths[s]] for cache in (k, v))
        want[s, h] = attention(q[s, h, None], *rows)
    arrays = (x.view(np.uint16) for x in (o, q, k_cache, v_cache))  # its name for half
    args = [*arrays, kv_heads, d**-0.5, tables, lengths, 4, None, heads * d]
    args += [kv_heads * page * d, page * d, 1.0, 0, 0, 1, 1, 0]
    return Problem(args, {"grid": (heads, 2, 1), "block": 128, "shared": 512}, {0: want}, 2**-8)


# ---- Rows


def rms(x: Array, w: Array) -> Array:
    x = x.astype(F64)
    normed: Array = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * w
    return normed


def rms_norm(rng: Random) -> Problem:
    rows, n = 3, 200
    x, w, y = normal(rng, rows, n), normal(rng, n), kernelsim.poisoned((rows, n), F16)
    return Problem([y, x, w, 1e-5, rows, n], {"grid": rows, "block": 128}, {0: rms(x, w)}, 2**-9)


def rms_norm_of_vectors(rng: Random) -> Problem:
    rows, n = 3, 512
    x, w, y = normal(rng, rows, n), normal(rng, n), kernelsim.poisoned((rows, n), F16)
    launch = {"grid": rows, "block": (32, 2), "shared": 64}
    return Problem([x, w, y, n, n, n, 0.0, 1e-5], launch, {2: rms(x, w)}, 2**-9)


def rms_norm_residual(rng: Random) -> Problem:
    rows, n = 3, 200
    x, r, w, y = normal(rng, rows, n), normal(rng, rows, n), normal(rng, n), kernelsim.poisoned((rows, n), F16)
    launch = {"threadgroups": rows, "threadgroup": 64, "threadgroup_memory": [256]}
    return Problem([x, r, w, normal(rng, 1), y, n, 1e-5, 0], launch, {4: rms(x, w) + r}, 2**-9)


def softmax_with_sinks(rng: Random) -> Problem:
    batch, heads, q, n = 2, 2, 3, 100
    x, sinks = normal(rng, batch, heads, q, n, dtype=F32), normal(rng, heads, dtype=F32)
    y = kernelsim.poisoned(x.shape, F32)
    sink = np.broadcast_to(sinks[:, None, None], (batch, heads, q, 1))
    want = softmax(np.concatenate([x, sink], -1).astype(F64))[..., :-1]
    launch = {"threadgroups": batch * heads * q, "threadgroup": 64, "threadgroup_memory": [256]}
    return Problem([x, sinks, y, heads, q, n], launch, {2: want}, 1e-6)


def rotary(rng: Random) -> Problem:
    tokens, heads, kv_heads, d = 5, 4, 2, 64
    positions, angles = rng.integers(0, 16, tokens), rng.uniform(0, 7, (16, d // 2))
    cache = np.concatenate([np.cos(angles), np.sin(angles)], 1).astype(F32)
    q, k = normal(rng, tokens, heads, d, dtype=F32), normal(rng, tokens, kv_heads, d, dtype=F32)
    cos, sin = cache[positions, None, : d // 2].astype(F64), cache[positions, None, d // 2 :].astype(F64)

    def rotated(x: Array) -> Array:
        a, b = x[..., : d // 2], x[..., d // 2 :]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    args = [positions, q, k, cache, d, heads * d, kv_heads * d, heads, kv_heads, d]
    return Problem(args, {"grid": tokens, "block": 64}, {1: rotated(q), 2: rotated(k)}, 1e-6)


def inclusive_scan(rng: Random) -> Problem:
    x, sums = rng.integers(-9, 9, (3, 256), np.int32), kernelsim.poisoned(3, np.int32)
    want = np.cumsum(x, 1)
    return Problem([x, 32, sums], {"grid": 3, "block": 256, "shared": 32}, {0: want, 2: want[:, -1]}, 0)


LEET, VLLM, MISTRAL = "xlite-dev/LeetCUDA", "neuralmagic/nm-vllm", "EricLBuehler/mistral.rs"
CCCL = ("../cccl/libcudacxx/include", "../cccl/cub", "../cccl/thrust")  # NVIDIA/cccl, which some of them include
METAL_OF_MISTRAL = "mistralrs-quant/src/metal_kernels"
MUL_MM = tuple(
    (f"FC_mul_mm_{name}", int(name != "bc_inp")) for name in ("bc_inp", "bc_out", "ne12", "ne13", "r2", "r3")
)
KERNELS = (
    Kernel(
        LEET,
        "kernels/hgemm/mma/basic/hgemm_mma_stage.cu",
        "hgemm_mma_m16n8k16_mma2x4_warp4x4_stages_kernel<16, 8, 16, 2, 4, 4, 4, 8, 8, 3, false>",
        "mma.sync f16, ldmatrix, .trans, cp.async in three stages",
        hgemm,
        include=("kernels/hgemm/utils",),
    ),
    Kernel(
        LEET,
        "kernels/flash-attn/mma/basic/flash_attn_mma_split_q.cu",
        "flash_attn_mma_stages_split_q_kernel<64, 16, 8, 16, 4, 1, 4, 1, 1, 8, 1, 8, 2, 8>",
        "mma.sync, ldmatrix, cp.async, shuffles",
        flash_attention_split_q,
        include=("kernels/flash-attn/utils",),
    ),
    Kernel(LEET, "kernels/hgemv/hgemv.cu", "hgemv_k128_f16x4_kernel", "shuffles of half", hgemv),
    Kernel(
        "siboehm/SGEMM_CUDA",
        "src/kernels/10_kernel_warptiling.cuh",
        "sgemmWarptiling<128, 128, 16, 64, 64, 4, 8, 4, 128>",
        "float4, shared memory",
        sgemm,
    ),
    Kernel(
        "bitsandbytes-foundation/bitsandbytes",
        "csrc/gemm_4bit_simt.cu",
        "gemm_4bit_simt<half, 1>",
        "a table of NF4 by shuffles",
        nf4_gemv,
    ),
    Kernel(
        "bitsandbytes-foundation/bitsandbytes",
        "csrc/gemm_4bit_sm80.cu",
        "gemm_4bit_sm80_m16n8k16<half, 64, 64, 64>",
        "mma.sync, shuffles, ld.global.v4",
        nf4_gemm,
    ),
    Kernel(
        VLLM,
        "csrc/quantization/awq/gemm_kernels.cu",
        "vllm::awq::gemm_forward_4bit_cuda_m16nXk32<128>",
        "lop3, ldmatrix, mma.sync, sub.f16x2",
        awq,
    ),
    Kernel(
        VLLM,
        "csrc/attention/attention_kernels.cu",
        "vllm::paged_attention_v1_kernel<uint16_t, uint16_t, 64, 16, 128, vllm::Fp8KVCacheDataType::kAuto, false>",
        "cvt, fma.rn.f16x2, shuffles",
        paged_attention,
        include=("csrc",),
    ),
    Kernel(VLLM, "csrc/layernorm_kernels.cu", "vllm::rms_norm_kernel<__half>", "shuffles", rms_norm, include=("csrc",)),
    Kernel(
        VLLM,
        "csrc/pos_encoding_kernels.cu",
        "vllm::rotary_embedding_kernel<float, true>",
        "loads through the read-only cache",
        rotary,
        include=("csrc",),
    ),
    Kernel(
        "flashinfer-ai/flashinfer",
        "include/flashinfer/norm.cuh",
        "flashinfer::norm::RMSNormKernel<8, half>",
        "vectors of 16 bytes, shuffles, griddepcontrol",
        rms_norm_of_vectors,
        include=("include", *CCCL),
    ),
    Kernel(
        "tspeterkim/flash-attention-minimal",
        "flash.cu",
        "forward_kernel",
        "dynamic shared memory",
        flash_attention_minimal,
    ),
    Kernel(
        "NVIDIA/cuda-samples",
        "Samples/2_Concepts_and_Techniques/shfl_scan/shfl_scan.cu",
        "shfl_scan_test",
        "shfl.sync.up, also of a part of a warp",
        inclusive_scan,
        include=("Common",),
    ),
    Kernel(
        "ggml-org/ggml",
        "src/ggml-metal/ggml-metal.metal",
        "kernel_mul_mm_f16_f32",
        "simdgroup_matrix",
        mul_mm,
        include=("src", "src/ggml-metal"),
        constants=MUL_MM,
    ),
    Kernel("zeux/calm", "src/infer.metal", "output_half", "simd_sum", matmul_of_simdgroups),
    Kernel(
        "pytorch/ao",
        "torchao/experimental/kernels/mps/metal/int4mm_opt.metal",
        "int4pack_mm_64_float",
        "simd_shuffle_down of float4, float4x4",
        int4pack,
        before="torchao/experimental/kernels/mps/metal/common.metal",
    ),
    Kernel(
        MISTRAL,
        f"{METAL_OF_MISTRAL}/softmax_with_sinks.metal",
        "softmax_with_sinks_float",
        "simd_shuffle_xor",
        softmax_with_sinks,
    ),
    Kernel(
        MISTRAL,
        f"{METAL_OF_MISTRAL}/rmsnorm_residual.metal",
        "rmsnorm_residual_f16",
        "threadgroup memory",
        rms_norm_residual,
    ),
)


def tried(kernel: Kernel, folder: Path) -> str:
    clone = folder / kernel.repository.partition("/")[2]
    file = clone / kernel.file
    if not file.exists():
        return "not there"
    problem = kernel.problem(np.random.default_rng(0))
    source = "".join(f'#include "{clone / one}"\n' for one in (kernel.before, kernel.file) if one)
    include = [clone / one for one in kernel.include]
    try:
        if file.suffix == ".metal":
            library: Any = kernelsim.metal.load(source=source, include=include)
            compiled = library.kernel(kernel.name, dict(kernel.constants))
        else:
            compiled = kernelsim.cuda.load(source=source, arch="sm_80", include=include).kernel(kernel.name)
        compiled.check(problem.args, **problem.launch)
    except KernelSimError as error:
        return f"failed: {error}"
    worst = 0.0
    for n, want in problem.want.items():
        got = problem.args[n].view(F16) if problem.args[n].dtype == np.uint16 else problem.args[n]
        worst = float(
            np.maximum(worst, np.abs(got - want).max() / np.abs(want).max())
        )  # NaN, where nothing was written
    return f"{'ran' if worst <= problem.tolerance else 'wrong'}, error {worst:.1e}, allowed {problem.tolerance:.1e}"


def main() -> int:
    if len(sys.argv) < 2:
        repositories = {"NVIDIA/cccl", *(kernel.repository for kernel in KERNELS)}
        print(*(f"https://github.com/{repository}" for repository in sorted(repositories)), sep="\n")
        return 0
    failed = 0
    for kernel in KERNELS:
        line = f"{kernel.repository} {kernel.file} {kernel.name} ({kernel.shows})"
        if all(word in line for word in sys.argv[2:]):
            outcome = tried(kernel, Path(sys.argv[1]))
            failed += outcome.startswith(("wrong", "failed"))
            print(f"{line}: {outcome}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
