# SPDX-License-Identifier: MIT
"""GEMV for decode with fp8 weights and a scale per row: y = (x @ codes.T) * w_scales.

x (M, K) and y (M, N) bf16; w (N, K) float8_e4m3fn, row-major; w_scales (N,) f32; f32 sums. Codes are decoded exactly,
NaN codes to NaN, on every chip, with or without fp8 of its own.

Standalone: needs torch >= 2.10 and triton >= 3.6. Launch: ``y = gemv_fp8(x, w, w_scales)``; captures into a CUDA
graph. Memory-bound: reads w once, N * K bytes.

1. A program owns BLOCK_N rows and up to four tokens. Each lane takes 16 bytes of each row per step and the x of the
   same weights by two 16-byte loads: no data move between lanes.
2. Two codes at a time become halves: the bits of e4m3 at 15 and 13:7 of an f16 are its value / 2^8, subnormals too.
   The power of two is made good with the scale.
3. Each lane keeps a sum per chunk of eight weights; lanes meet once, at the end.
K no multiple of 16, or w at an odd address: `gemv_fp8_bytes_kernel`, which reads bytes.
SPLIT_K > 1: partial sums go to a (SPLIT_K, M, N) f32 workspace and a second launch adds them in order.

Longest chain of additions, `chain`: eight per step + the tree over chunks and lanes + splits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl


@triton.jit
def _e4m3(halves):
    """Two f16 with the bits of e4m3 / 2^8 from codes at bits 8 to 15 and 24 to 31."""
    magnitude = halves & 0x7F007F00
    nan = (magnitude + 0x01000100) & 0x80008000  # bit 14 turns 480, which 0x7F comes out as, into NaN
    return (halves & 0x80008000) | (magnitude >> 1) | (nan >> 1)


@triton.jit
def _low_half(halves):
    return (halves & 0xFFFF).to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def _high_half(halves):
    return (halves >> 16).to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def _code(low, high, J: tl.constexpr):
    """Code J of every chunk of two words, / 2^8."""
    halves = _e4m3((low if J < 4 else high) << (8 - J % 2 * 8))
    return _low_half(halves) if J % 4 < 2 else _high_half(halves)


@triton.jit
def _load_x(x_ptr, token, M, K, x_at, end, CHUNKS: tl.constexpr, LANES: tl.constexpr):
    """x of weight j of every chunk, for j = 0 ... 7: eight tiles (1, CHUNKS, LANES)."""
    x = tl.load(x_ptr + token.to(tl.int64) * K + x_at, mask=x_at < tl.where(token < M, end, 0), other=0.0)
    even, odd = tl.split(tl.reshape(x, (1, CHUNKS, LANES, 2, 2, 2)))
    x04, x26 = tl.split(even)
    x15, x37 = tl.split(odd)
    x0, x4 = tl.split(x04)
    x1, x5 = tl.split(x15)
    x2, x6 = tl.split(x26)
    x3, x7 = tl.split(x37)
    return x0, x1, x2, x3, x4, x5, x6, x7


@triton.jit
def _store_y(sums, s_ptr, y_ptr, split, token, M, N, rows):
    s = tl.load(s_ptr + rows, mask=rows < N, other=0.0)
    at = (split * M + token).to(tl.int64) * N + rows
    tl.store(y_ptr + at, (sums * 256.0 * s).to(y_ptr.dtype.element_ty), mask=rows < tl.where(token < M, N, 0))


@triton.jit
def gemv_fp8_kernel(
    x_ptr,  # (M, K)
    w_ptr,  # (N, K / 4) words
    s_ptr,  # (N,)
    y_ptr,  # (SPLIT_K, M, N)
    M,
    N,
    UNITS,  # K / 16: so the compiler sees that rows are aligned to 16 bytes
    UNITS_SPLIT,  # units of a row in one split
    BLOCK_M: tl.constexpr,  # 1, 2 or 4
    BLOCK_N: tl.constexpr,
    LANES: tl.constexpr,
):
    # Programs of the same rows and other tokens follow each other, so that w comes from the cache.
    blocks = tl.cdiv(M, BLOCK_M)
    token = tl.program_id(0) % blocks * BLOCK_M
    rows = tl.program_id(0) // blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(1)
    end = min(UNITS, (split + 1) * UNITS_SPLIT)
    inside = (rows < N)[:, None]
    w_rows = w_ptr + rows.to(tl.int64)[:, None] * (UNITS * 4)
    # Lane l takes weights 16 l and on, in two chunks of eight: a row of this tile is one 16-byte load of each lane.
    at = tl.arange(0, LANES * 8)
    x_in_step = tl.arange(0, 2)[:, None] * 8 + (at // 8 * 16 + at % 8)[None, :]
    acc0 = tl.zeros((BLOCK_N, 2, LANES), tl.float32)
    acc1 = tl.zeros((BLOCK_N, 2, LANES), tl.float32)
    acc2 = tl.zeros((BLOCK_N, 2, LANES), tl.float32)
    acc3 = tl.zeros((BLOCK_N, 2, LANES), tl.float32)
    for unit in range(split * UNITS_SPLIT, end, LANES):
        cols = unit * 4 + tl.arange(0, LANES * 4)
        ok = inside & (cols < end * 4)[None, :]
        words = tl.load(w_rows + cols[None, :], mask=ok, other=0, eviction_policy="evict_first")
        low, high = tl.split(tl.reshape(words, (BLOCK_N, LANES, 2, 2)))
        low = tl.permute(low, (0, 2, 1))
        high = tl.permute(high, (0, 2, 1))
        x_at = unit * 16 + x_in_step
        x0 = _load_x(x_ptr, token, M, UNITS * 16, x_at, end * 16, 2, LANES)
        x1 = x0
        x2 = x0
        x3 = x0
        if BLOCK_M > 1:
            x1 = _load_x(x_ptr, token + 1, M, UNITS * 16, x_at, end * 16, 2, LANES)
        if BLOCK_M > 2:
            x2 = _load_x(x_ptr, token + 2, M, UNITS * 16, x_at, end * 16, 2, LANES)
            x3 = _load_x(x_ptr, token + 3, M, UNITS * 16, x_at, end * 16, 2, LANES)
        for j in tl.static_range(8):
            w = _code(low, high, j)
            acc0 += w * x0[j].to(tl.float32)
            if BLOCK_M > 1:
                acc1 += w * x1[j].to(tl.float32)
            if BLOCK_M > 2:
                acc2 += w * x2[j].to(tl.float32)
                acc3 += w * x3[j].to(tl.float32)
    _store_y(tl.sum(tl.sum(acc0, axis=1), axis=1), s_ptr, y_ptr, split, token, M, N, rows)
    if BLOCK_M > 1:
        _store_y(tl.sum(tl.sum(acc1, axis=1), axis=1), s_ptr, y_ptr, split, token + 1, M, N, rows)
    if BLOCK_M > 2:
        _store_y(tl.sum(tl.sum(acc2, axis=1), axis=1), s_ptr, y_ptr, split, token + 2, M, N, rows)
        _store_y(tl.sum(tl.sum(acc3, axis=1), axis=1), s_ptr, y_ptr, split, token + 3, M, N, rows)


@triton.jit
def gemv_fp8_bytes_kernel(
    x_ptr,  # (M, K)
    w_ptr,  # (N, K) bytes
    s_ptr,  # (N,)
    y_ptr,  # (SPLIT_K, M, N)
    M,
    N,
    K,
    K_SPLIT,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    token = tl.program_id(0) % M
    rows = tl.program_id(0) // M * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(1)
    end = min(K, (split + 1) * K_SPLIT)
    w_rows = w_ptr + rows.to(tl.int64)[:, None] * K
    acc = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    for k in range(split * K_SPLIT, end, BLOCK_K):
        cols = k + tl.arange(0, BLOCK_K)
        codes = tl.load(w_rows + cols[None, :], (rows < N)[:, None] & (cols < end)[None, :], 0)
        x = tl.load(x_ptr + token.to(tl.int64) * K + cols, mask=cols < end, other=0.0)
        acc += _low_half(_e4m3(codes.to(tl.uint32) << 8)) * x.to(tl.float32)[None, :]
    _store_y(tl.sum(acc, axis=1), s_ptr, y_ptr, split, token, M, N, rows)


@triton.jit
def add_splits_kernel(
    partial_ptr,  # (SPLIT_K, size) f32
    y_ptr,  # (size,)
    size,
    SPLIT_K: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    y = tl.zeros((BLOCK,), tl.float32)
    for split in tl.static_range(SPLIT_K):
        y += tl.load(partial_ptr + split * size + at, mask=at < size, other=0.0)
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=at < size)


class Config(NamedTuple):
    """Tile sizes of a launch; a step reads BLOCK_K weights of a row, 16 bytes a lane."""

    BLOCK_M: int
    BLOCK_N: int
    BLOCK_K: int
    SPLIT_K: int
    num_warps: int
    num_stages: int


# chip -> processors, lanes of a warp. Rows per program and splits follow from how many programs fill the chip.
CHIPS = {
    "sm_80": (108, 32),
    "sm_90": (132, 32),
    "sm_100": (148, 32),
    "sm_110": (20, 32),
    "sm_120": (170, 32),
    "sm_121": (48, 32),
    "gfx942": (304, 64),
    "gfx1151": (40, 32),
}
FALLBACK_CHIP = "sm_90"


def pick_config(M: int, N: int, K: int, format: str = "fp8", chip: str = FALLBACK_CHIP) -> Config:
    """The tile sizes that a launch takes."""
    processors, lanes = CHIPS.get(chip, CHIPS[FALLBACK_CHIP])
    weights = lanes * 16  # of a warp, per step
    block_m = min(triton.next_power_of_2(max(M, 1)), 4)
    # As many warps as leave the fewest lanes without work in the last step of a row
    warps = min((4, 2, 1), key=lambda warps: -(-K // (warps * weights)) * warps)
    block_n = 2 if block_m == 4 else 4  # sums in registers: block_m * block_n * 2 or 4 of a lane
    while block_n > 1 and -(-N // block_n) * warps < 16 * processors:
        block_n //= 2
    splits = 1
    while splits < 16 and splits * -(-N // block_n) <= processors and 4 * splits * warps * weights <= K:
        splits *= 2
    return Config(block_m, block_n, warps * weights, splits, warps, 1)


def configs(M: int, N: int, K: int, format: str = "fp8", chip: str = FALLBACK_CHIP) -> Iterator[Config]:
    """What a sweep may try; the first is what a launch takes."""
    first = pick_config(M, N, K, format, chip)
    yield first
    weights = CHIPS.get(chip, CHIPS[FALLBACK_CHIP])[1] * 16
    for split in (1, 2, 4):
        for n in (1, 2, 4, 8):
            for warps in (1, 2, 4, 8):
                yield Config(first.BLOCK_M, n, warps * weights, split, warps, 1)


def chain(M: int, N: int, K: int, format: str = "fp8", chip: str = FALLBACK_CHIP, config: Config | None = None) -> int:
    """Longest chain of additions between a product and its result."""
    c = config or pick_config(M, N, K, format, chip)
    steps = -(-K // (c.BLOCK_K * c.SPLIT_K))
    return 8 * steps + (c.BLOCK_K // 8 - 1).bit_length() + c.SPLIT_K


def path(
    x: torch.Tensor,
    w: torch.Tensor,
    w_scales: torch.Tensor,
    y: torch.Tensor | None = None,
) -> str:
    """``vector`` where rows start at multiples of 16 bytes, so that loads are 16 bytes wide."""
    aligned = x.data_ptr() % 16 == 0 and w.data_ptr() % 16 == 0 and w.shape[-1] % 16 == 0
    return "vector" if aligned else "unaligned"


def _interpreted() -> bool:
    return not isinstance(gemv_fp8_kernel, triton.JITFunction)


def _chip(device: torch.device) -> str:
    if device.type != "cuda":
        return FALLBACK_CHIP
    if torch.version.hip:
        return str(torch.cuda.get_device_properties(device).gcnArchName).split(":")[0]
    return "sm_{}{}".format(*torch.cuda.get_device_capability(device))


def _check(name: str, tensor: Any, dtype: torch.dtype, shape: tuple[int, ...], device: torch.device) -> None:
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"{name} must be a torch.Tensor, not {type(tensor).__name__}")  # noqa: TRY004
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}, x on {device}")
    if tensor.dtype != dtype:
        raise ValueError(f"{name} has dtype {tensor.dtype}; with the other arguments it must be {dtype}")
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; with the other arguments it must be {shape}")
    if not tensor.is_contiguous():
        raise ValueError(f"{name} is not contiguous: its strides are {tensor.stride()}")


def _check_x(x: Any, w: Any, rank: int) -> None:
    """What all other checks build upon: two tensors of the right rank on a device that runs kernels."""
    for name, tensor, axes in (("x", x, rank), ("w", w, 2)):
        if not isinstance(tensor, torch.Tensor):
            raise ValueError(f"{name} must be a torch.Tensor, not {type(tensor).__name__}")  # noqa: TRY004
        if tensor.ndim != axes:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; it needs {axes} axes")
    if x.device.type != "cuda" and not _interpreted():
        raise ValueError(f"x is on {x.device}; it must be on a GPU")


def gemv_fp8(
    x: torch.Tensor,
    w: torch.Tensor,
    w_scales: torch.Tensor,
    y: torch.Tensor | None = None,
    *,
    config: Config | dict[str, int] | None = None,
    check: bool = False,  # no indices to check
) -> torch.Tensor:
    """y = (x @ codes.T) * w_scales.

    Args:
        x: (M, K) bf16, contiguous.
        w: (N, K) float8_e4m3fn, contiguous; 16-byte loads where `path` says ``vector``.
        w_scales: (N,) f32, contiguous.
        y: (M, N) bf16, contiguous; allocated if None.
        config: tile sizes; `pick_config`'s if None.
        check: for symmetry with launchers that take indices.

    Returns:
        y.

    Raises:
        ValueError: names the argument and what is wrong with it.
    """
    _check_x(x, w, 2)
    (M, K), N = x.shape, w.shape[0]
    _check("x", x, torch.bfloat16, (M, K), x.device)
    _check("w", w, torch.float8_e4m3fn, (N, K), x.device)
    _check("w_scales", w_scales, torch.float32, (N,), x.device)
    if y is None:
        y = torch.empty((M, N), dtype=x.dtype, device=x.device)
    _check("y", y, x.dtype, (M, N), x.device)
    if M == 0 or N == 0:
        return y
    if K == 0:
        return y.zero_()
    picked = config or pick_config(M, N, K, "fp8", _chip(x.device))
    c = Config(**picked) if isinstance(picked, dict) else picked
    out = torch.empty_like(y, dtype=torch.float32) if _interpreted() else y  # it truncates when it casts to bf16
    sums = out if c.SPLIT_K == 1 else torch.empty((c.SPLIT_K, M, N), dtype=torch.float32, device=x.device)
    k_split = triton.cdiv(K, c.BLOCK_K * c.SPLIT_K) * c.BLOCK_K
    options = {"num_warps": c.num_warps, "num_stages": c.num_stages}
    if K % 16 or w.data_ptr() % 16:
        gemv_fp8_bytes_kernel[(M * triton.cdiv(N, c.BLOCK_N), c.SPLIT_K)](
            x, w.view(torch.uint8), w_scales, sums, M, N, K, k_split, c.BLOCK_N, c.BLOCK_K, **options
        )
    else:
        gemv_fp8_kernel[(triton.cdiv(M, c.BLOCK_M) * triton.cdiv(N, c.BLOCK_N), c.SPLIT_K)](
            x, w.view(torch.uint32), w_scales, sums, M, N, K // 16, k_split // 16,
            c.BLOCK_M, c.BLOCK_N, c.BLOCK_K // 16, **options,
        )  # fmt: skip
    if c.SPLIT_K > 1:
        add_splits_kernel[(triton.cdiv(M * N, 256),)](sums, out, M * N, c.SPLIT_K, 256, num_warps=4)
    return y if out is y else y.copy_(out)


def specimens(chip: str) -> Iterator[dict[str, Any]]:
    """Typical launches, for checks of the generated code."""
    for M, N, K in ((1, 4096, 4096), (1, 28672, 4096), (2, 14336, 4096), (4, 14336, 4096), (1, 128, 16384)):
        c = pick_config(M, N, K, "fp8", chip)
        pointers = {"x_ptr": "*bf16", "w_ptr": "*u32", "s_ptr": "*fp32"}
        pointers["y_ptr"] = "*bf16" if c.SPLIT_K == 1 else "*fp32"
        blocks = {"BLOCK_M": c.BLOCK_M, "BLOCK_N": c.BLOCK_N, "LANES": c.BLOCK_K // 16}
        signature = pointers | dict.fromkeys(("M", "N", "UNITS", "UNITS_SPLIT"), "i32")
        signature |= dict.fromkeys(blocks, "constexpr")
        options = {"num_warps": c.num_warps, "num_stages": c.num_stages}
        one = {"name": f"fp8-M{M}-N{N}", "kernel": gemv_fp8_kernel, "signature": signature}
        yield one | {"constexprs": blocks, "options": options}
