# SPDX-License-Identifier: MIT
"""GEMM for prefill with int8 or int4 weights in groups of 64: y = x @ (s * q + b).T, f32 sums.

x (B, M, K), y (B, M, N) bf16; codes packed from the lowest bits of each word up (MLX's packing):
w (1 or B, N, K / 4) for int8, (1 or B, N, K / 8) for int4; w_scales, w_biases (1 or B, N, K / 64) bf16.
One w for the whole batch (then B * M are the rows of one product) or one each.

Standalone: torch and Triton. Launch: ``y = gemm_int(x, w, w_scales, w_biases)``.
Compute-bound: 2 B M N K operations. s * q + b has up to 24 bits, too many for bf16's matrix instructions,
but codes are exact in bf16. So, with g the groups along K:

    y = sum_g s[g] * (x[g] @ q[g].T)  +  (sum of x[g]) @ b.T

1. `sums_kernel` adds up the groups of x and stores each f32 sum as three bf16 that make it up exactly.
2. `gemm_int_kernel`: a tile of outputs per program. Its loop decodes one group of w to bf16, multiplies
   it into fresh f32 sums and adds these, scaled in f32; then the biases are a product with the three parts.
An infinity in x, or a sum of a group of x beyond f32, gives NaN where a code is 0 or s and b have different signs.
Longest chain of additions: K + K / 16, groups, sums of x and biases included.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))  # it can neither round to bf16 nor multiply it
GROUP = tl.constexpr(64)  # weights that share a scale and a bias
SUMS_BLOCK = 64  # groups of x per program of `sums_kernel`
GROUPS_BLOCK = tl.constexpr(16)  # groups of a step of the product with the biases


@triton.jit
def _bf16(a):
    """f32 to the nearest bf16."""
    if INTERPRETED:
        bits = a.to(tl.uint32, bitcast=True)
        bits = tl.where(a == a, (bits + 0x7FFF + (bits >> 16 & 1)) >> 16, 0x7FC0)
        out = bits.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        out = a.to(tl.bfloat16)
    return out


@triton.jit
def _dot(w, x, acc):
    if INTERPRETED:
        w, x = w.to(tl.float32), x.to(tl.float32)
    return tl.dot(w, tl.trans(x), acc)


@triton.jit
def _tile(pid, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP_M: tl.constexpr):
    """Tiles in groups of GROUP_M rows, down the rows of a group first."""
    tiles_m, tiles_n = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    first = pid // (GROUP_M * tiles_n) * GROUP_M
    rows = min(tiles_m - first, GROUP_M)
    place = pid % (GROUP_M * tiles_n)
    return (first + place % rows) * BLOCK_M, place // rows * BLOCK_N


@triton.jit
def sums_kernel(
    x_ptr,  # (count, 64)
    sums_ptr,  # (3, count)
    count,
    BLOCK: tl.constexpr,
):
    groups = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = groups < count
    x = tl.load(x_ptr + groups[:, None] * GROUP + tl.arange(0, GROUP)[None, :], mask=inside[:, None], other=0)
    rest = tl.sum(x.to(tl.float32), 1)
    for part in tl.static_range(3):
        top = _bf16(rest)
        tl.store(sums_ptr + part * tl.cast(count, tl.int64) + groups, top, mask=inside)
        left = rest - top.to(tl.float32)  # exact
        rest = tl.where(left == left, left, 0.0)  # nothing is left of an infinity


@triton.jit
def _code(words, i: tl.constexpr, BITS: tl.constexpr):
    """Code i of each word. Under the exponent of 2^23 it is the float 2^23 + code: cheaper than a conversion."""
    codes = words >> i * BITS & ((1 << BITS) - 1)
    return (codes | 0x4B000000).to(tl.float32, bitcast=True) - 8388608.0


@triton.jit
def _pairs(words, i: tl.constexpr, j: tl.constexpr, BITS: tl.constexpr):
    """Joins keep the codes of a word in one lane, so that it writes 16 bytes of them at a time."""
    return tl.join(_code(words, i, BITS), _code(words, j, BITS))


@triton.jit
def gemm_int_kernel(
    x_ptr,  # (B, M, groups * 64)
    w_ptr,  # (B, N, groups * 2 * BITS) words
    scales_ptr,  # (B, N, groups)
    biases_ptr,  # (B, N, groups)
    sums_ptr,  # (3, B, M, groups)
    y_ptr,  # (B, M, N)
    B,
    M,
    N,
    groups,
    BITS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    WORDS: tl.constexpr = 2 * BITS  # of a group
    tiles = tl.cdiv(M, BLOCK_M) * tl.cdiv(N, BLOCK_N)
    batch = (tl.program_id(0) // tiles).to(tl.int64)
    row, column = _tile(tl.program_id(0) % tiles, M, N, BLOCK_M, BLOCK_N, GROUP_M)
    # Rows past the end read the last one again and are not stored: no mask in the loop.
    rows = tl.minimum(row + tl.arange(0, BLOCK_M), M - 1).to(tl.int64) + batch * M
    columns = tl.minimum(column + tl.arange(0, BLOCK_N), N - 1).to(tl.int64) + batch * N
    # Strides made here out of groups show the compiler that 16-byte loads are aligned.
    x_ptrs = x_ptr + rows[:, None] * (groups * GROUP) + tl.arange(0, GROUP)[None, :]
    w_ptrs = w_ptr + columns[:, None] * (groups * WORDS) + tl.arange(0, WORDS)[None, :]
    scale_ptrs = scales_ptr + columns * groups
    acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)  # y.T: a lane's sums lie in few rows of w, so it needs few scales
    scale = tl.load(scale_ptrs)
    for g in range(groups):
        x, words = tl.load(x_ptrs), tl.load(w_ptrs)
        following = tl.load(scale_ptrs + tl.minimum(g + 1, groups - 1))  # a step ahead: nobody waits for it
        if BITS == 4:
            even = tl.join(_pairs(words, 0, 4, BITS), _pairs(words, 2, 6, BITS))
            codes = tl.join(even, tl.join(_pairs(words, 1, 5, BITS), _pairs(words, 3, 7, BITS)))
        else:
            codes = tl.join(_pairs(words, 0, 2, BITS), _pairs(words, 1, 3, BITS))
        q = _bf16(tl.reshape(codes, (BLOCK_N, GROUP)))
        acc += _dot(q, x, tl.zeros((BLOCK_N, BLOCK_M), tl.float32)) * scale.to(tl.float32)[:, None]
        scale = following
        x_ptrs += GROUP
        w_ptrs += WORDS
    for g in tl.range(0, groups, GROUPS_BLOCK, num_stages=1):
        offs_g = g + tl.arange(0, GROUPS_BLOCK)
        inside = (offs_g < groups)[None, :]
        b = tl.load(biases_ptr + columns[:, None] * groups + offs_g[None, :], mask=inside, other=0)
        sum_ptrs = sums_ptr + rows[:, None] * groups + offs_g[None, :]
        for part in tl.static_range(3):
            sums = tl.load(sum_ptrs + part * tl.cast(B, tl.int64) * M * groups, mask=inside, other=0)
            acc = _dot(b, sums, acc)
    rows, columns = row + tl.arange(0, BLOCK_M), column + tl.arange(0, BLOCK_N)
    at = (batch * M + rows)[:, None] * N + columns[None, :]
    tl.store(y_ptr + at, tl.trans(_bf16(acc)), mask=(rows < M)[:, None] & (columns < N)[None, :])


class Config(NamedTuple):
    """A tile, its pipeline, and the part of the chip's peak that a full wave of such tiles can reach."""

    BLOCK_M: int
    BLOCK_N: int
    num_warps: int
    num_stages: int
    weight: float = 1.0
    GROUP_M: int = 8


# A thread holds two tiles of sums: 8 warps for 128 x 128 leave each 2 * 64 registers of them.
_SM80 = (Config(128, 128, 8, 4), Config(128, 64, 8, 4, 0.8), Config(64, 64, 4, 4, 0.6))
CONFIGS: dict[str, tuple[Config, ...]] = {
    "sm_80": _SM80,
    "sm_90": (Config(128, 128, 8, 4), Config(64, 128, 4, 4, 0.8), Config(64, 64, 4, 4, 0.5)),
    "sm_100": (Config(128, 128, 8, 4), Config(128, 64, 8, 4, 0.75), Config(64, 64, 4, 4, 0.5)),
    "sm_110": (Config(128, 128, 8, 4), Config(128, 64, 8, 4, 0.75), Config(64, 64, 4, 4, 0.5)),
    "sm_120": (Config(128, 128, 8, 3), Config(128, 64, 8, 3, 0.8), Config(64, 64, 4, 4, 0.7)),
    "sm_121": (Config(128, 128, 8, 3), Config(128, 64, 8, 3, 0.8), Config(64, 64, 4, 4, 0.7)),
    "gfx942": (Config(128, 128, 8, 2), Config(64, 64, 4, 2, 0.6)),
    "gfx1151": (Config(128, 64, 8, 2), Config(64, 64, 4, 2, 0.8)),
}
SMS = {"sm_80": 108, "sm_90": 132, "sm_100": 148, "sm_103": 148, "sm_110": 20, "sm_120": 170, "sm_121": 48}
SMS |= {"gfx942": 304}
# bf16's matrix instructions of each chip, as its disassembly has them; gates of `specimens`.
_MATRIX = {"sm_80": "HMMA", "sm_90": "HGMMA", "sm_100": "UTCHMMA", "sm_110": "UTCHMMA", "sm_120": "HMMA"}
_MATRIX |= {"sm_121": "HMMA", "gfx942": "v_mfma", "gfx1151": "v_wmma"}


def configs(M: int, N: int, K: int, chip: str = "sm_80") -> tuple[Config, ...]:
    """What a sweep may try, best guess for a large problem first."""
    return CONFIGS.get(chip, CONFIGS["gfx1151" if chip.startswith("gfx") else "sm_120"])  # these fit any chip


def pick_config(M: int, N: int, K: int, chip: str = "sm_80", B: int = 1) -> Config:
    """The tile that takes least time: whole waves of tiles, each as long as its size over its weight."""

    def time(c: Config) -> float:
        tiles = B * -(-M // c.BLOCK_M) * -(-N // c.BLOCK_N)
        return -(-tiles // SMS.get(chip, 64)) * c.BLOCK_M * c.BLOCK_N / c.weight

    return min(configs(M, N, K, chip), key=time)


def chain(M: int, N: int, K: int) -> int:
    """Longest chain of additions between the first product and the result."""
    return max(K + K // 16, 1)


def path(
    x: torch.Tensor, w: torch.Tensor, w_scales: torch.Tensor, w_biases: torch.Tensor, y: torch.Tensor | None = None
) -> str:
    """``vector``: 16-byte loads of x and w; ``unaligned``: a pointer that is no multiple of 16 takes narrow ones."""
    return "vector" if (x.data_ptr() | w.data_ptr()) % 16 == 0 else "unaligned"


def specimens(chip: str) -> Iterator[dict[str, Any]]:
    """What is launched for typical sizes, as tests/triton_kernels/codegen.py compiles it."""
    yield {
        "name": "sums",
        "kernel": sums_kernel,
        "signature": {"x_ptr": "*bf16", "sums_ptr": "*bf16", "count": "i32"},
        "constexprs": {"BLOCK": SUMS_BLOCK},
        "divisible": ("count",),
        "gates": {"matrix": "", "loads": 128},
    }
    pointers = {f"{name}_ptr": "*bf16" for name in ("x", "scales", "biases", "sums", "y")} | {"w_ptr": "*i32"}
    sizes = dict.fromkeys(("B", "M", "N", "groups"), "i32")
    for bits, size, M, N in (
        (4, "few", 512, 1024),
        (4, "many", 4096, 8192),
        (8, "few", 512, 1024),
        (8, "many", 4096, 8192),
    ):
        c = pick_config(M, N, 4096, chip)
        # int4's codes are few: of small tiles a lane loads 8 bytes. AMD has no asynchronous loads here.
        loads = {"async_loads": 64 if size == "few" else 128} if chip.startswith("sm") else {"weights": 128}
        yield {
            "name": f"int{bits}-{size}",
            "kernel": gemm_int_kernel,
            "signature": pointers | sizes,
            "constexprs": {"BITS": bits, "BLOCK_M": c.BLOCK_M, "BLOCK_N": c.BLOCK_N, "GROUP_M": c.GROUP_M},
            "options": {"num_warps": c.num_warps, "num_stages": c.num_stages},
            "divisible": ("M", "N", "groups"),
            "gates": {"matrix": _MATRIX[chip], **loads},
        }


def _chip(device: torch.device) -> str:
    if device.type != "cuda":
        return "interpreter"
    if torch.version.hip:
        return str(torch.cuda.get_device_properties(device).gcnArchName).split(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def _check(name: str, a: torch.Tensor, dtypes: tuple[Any, ...], shape: tuple[int, ...], device: torch.device) -> None:
    if a.device != device:
        raise ValueError(f"{name} is on {a.device}, x on {device}")
    if a.dtype not in dtypes:
        raise ValueError(f"{name} has dtype {a.dtype}; it needs {dtypes[0]}")
    if tuple(a.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(a.shape)}; it needs {shape}")
    if not a.is_contiguous():
        raise ValueError(f"{name} is not contiguous: its strides are {a.stride()}")


def gemm_int(
    x: torch.Tensor,  # (B, M, K)
    w: torch.Tensor,  # (1 or B, N, K / 8 or K / 4)
    w_scales: torch.Tensor,  # (1 or B, N, K / 64)
    w_biases: torch.Tensor,  # (1 or B, N, K / 64)
    y: torch.Tensor | None = None,  # (B, M, N)
    *,
    config: Config | None = None,
    check: bool = False,
) -> torch.Tensor:
    """y = x @ (s * q + b).T; bf16, words of w int32 or uint32.

    Args:
        config: a tile instead of `pick_config`'s.
        check: nothing to check beyond shapes; here for the sake of one signature for all.

    Raises:
        ValueError: an argument is on another device, of another type or shape, or not contiguous.
    """
    if x.device.type != "cuda" and not INTERPRETED.value:
        raise ValueError(f"x is on {x.device}; it needs a GPU")
    for name, a in (("x", x), ("w", w), ("w_scales", w_scales)):
        if a.ndim != 3:
            raise ValueError(f"{name} has shape {tuple(a.shape)}; it needs 3 axes")
    (B, M, K), (batch, N, words) = x.shape, w.shape
    groups = K // 64
    if K % 64:
        raise ValueError(f"x has K = {K}; it must be a multiple of the group of 64")
    if batch not in (1, B):
        raise ValueError(f"w has a batch of {batch}; it must be 1 or x's batch of {B}")
    if words not in (groups * 8, groups * 16):
        raise ValueError(
            f"w has shape {tuple(w.shape)}; K = {K} needs {groups * 8} (int4) or {groups * 16} (int8) words"
        )
    if y is None:
        y = torch.empty((B, M, N), dtype=torch.bfloat16, device=x.device)
    half = (torch.bfloat16,)
    _check("x", x, half, (B, M, K), x.device)
    _check("w", w, (torch.uint32, torch.int32), (batch, N, words), x.device)
    _check("w_scales", w_scales, half, (batch, N, groups), x.device)
    _check("w_biases", w_biases, half, (batch, N, groups), x.device)
    _check("y", y, half, (B, M, N), x.device)
    if y.numel() == 0 or K == 0:
        return y.zero_()
    bits = words // groups // 2
    if batch == 1:
        B, M = 1, B * M
    c = config or pick_config(M, N, K, _chip(x.device), B)
    count = B * M * groups
    sums = torch.empty(3 * count, dtype=torch.bfloat16, device=x.device)
    sums_kernel[(math.ceil(count / SUMS_BLOCK),)](x, sums, count, BLOCK=SUMS_BLOCK)
    tile = {"BITS": bits, "BLOCK_M": c.BLOCK_M, "BLOCK_N": c.BLOCK_N, "GROUP_M": c.GROUP_M}
    grid = (B * math.ceil(M / c.BLOCK_M) * math.ceil(N / c.BLOCK_N),)
    options = {"num_warps": c.num_warps, "num_stages": c.num_stages}
    gemm_int_kernel[grid](x, w.view(torch.int32), w_scales, w_biases, sums, y, B, M, N, groups, **tile, **options)
    return y
