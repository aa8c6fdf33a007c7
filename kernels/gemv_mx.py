# SPDX-License-Identifier: MIT
"""GEMV for decode with microscaled weights: y = x @ (scale * code).T.

x (M, K) and y (M, N) bf16; w words of codes, packed from the lowest bits up, int32 or uint32; f32 sums.
  mxfp8  w (N, K / 4) e4m3, w_scales (N, K / 32) e8m0
  mxfp4  w (N, K / 8) e2m1, w_scales (N, K / 32) e8m0
  nvfp4  w (N, K / 8) e2m1, w_scales (N, K / 16) e4m3, w_tensor_scale (1,) f32
w_scales are uint8. Codes are decoded exactly, NaN codes to NaN; a scale is applied to sums of eight products.

Standalone: needs torch >= 2.10 and triton >= 3.6. Launch: ``y = gemv_mx(x, w, w_scales, w_tensor_scale)``; captures
into a CUDA graph. Memory-bound: reads w and scales once; at the bandwidth of an H200 the five instructions that a
weight takes limit it as well.

1. A program owns BLOCK_N rows and up to four tokens. Each lane takes 16 bytes of each row per step, which is 32
   weights of four bits or 16 of eight, and the x of the same weights by 16-byte loads: no data move between lanes.
2. Two codes at a time become halves: the bits of e2m1 moved to 15 and 11:9 of an f16 are its value / 2^14, those of
   e4m3 at 15 and 13:7 its value / 2^8, subnormals too. The power of two is made good with the scale.
3. Each lane keeps a sum per chunk of eight weights; lanes meet once, at the end.
SPLIT_K > 1: partial sums go to a (SPLIT_K, M, N) f32 workspace and a second launch adds them in order.

Longest chain of additions, `chain`: eight in a chunk + steps + the tree over chunks and lanes + splits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl


@triton.jit
def _e2m1(halves):
    """Two f16 with the bits of e2m1 / 2^14 from codes at bits 12 to 15 and 28 to 31."""
    return (halves & 0x80008000) | ((halves & 0x70007000) >> 3)


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
def _code(low, high, J: tl.constexpr, BITS: tl.constexpr):
    """Code J of every chunk, / 2^14 for e2m1, / 2^8 for e4m3."""
    if BITS == 4:  # low is the chunk
        halves = _e2m1(low << (12 - J % 4 * 4))
        return _low_half(halves) if J < 4 else _high_half(halves)
    halves = _e4m3((low if J < 4 else high) << (8 - J % 2 * 8))
    return _low_half(halves) if J % 4 < 2 else _high_half(halves)


@triton.jit
def _e8m0(codes):
    """2^(code - 127), 255 is NaN."""
    bits = codes.to(tl.uint32) << 23
    return tl.where((codes == 0) | (codes == 255), bits | 0x00400000, bits).to(tl.float32, bitcast=True)


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
def _store_y(acc, y_ptr, split, token, M, N, rows):
    at = (split * M + token).to(tl.int64) * N + rows
    y = tl.sum(tl.sum(acc, axis=1), axis=1)
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=rows < tl.where(token < M, N, 0))


@triton.jit
def gemv_mx_kernel(
    x_ptr,  # (M, K)
    w_ptr,  # (N, K BITS / 32) words
    s_ptr,  # (N, K / GROUP)
    t_ptr,  # (1,) of nvfp4, else not read
    y_ptr,  # (SPLIT_K, M, N)
    M,
    N,
    UNITS,  # K / UNIT: so the compiler sees what rows are aligned to
    UNITS_SPLIT,  # units of a row in one split
    UNIT: tl.constexpr,  # 32; 16 where K is no multiple of it, which halves the width of loads
    BITS: tl.constexpr,
    GROUP: tl.constexpr,  # 32, or 16 of nvfp4
    BLOCK_M: tl.constexpr,  # 1, 2 or 4
    BLOCK_N: tl.constexpr,
    LANES: tl.constexpr,
):
    WEIGHTS: tl.constexpr = 128 // BITS  # of a lane, per step and row
    CHUNKS: tl.constexpr = WEIGHTS // 8
    WORDS: tl.constexpr = UNIT * BITS // 32
    BACK: tl.constexpr = 16384.0 if BITS == 4 else 256.0
    # Programs of the same rows and other tokens follow each other, so that w comes from the cache.
    blocks = tl.cdiv(M, BLOCK_M)
    token = tl.program_id(0) % blocks * BLOCK_M
    rows = tl.program_id(0) // blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(1)
    end = min(UNITS, (split + 1) * UNITS_SPLIT)
    inside = (rows < N)[:, None]
    w_rows = w_ptr + rows.to(tl.int64)[:, None] * (UNITS * WORDS)
    s_rows = s_ptr + rows.to(tl.int64)[:, None] * (UNITS * (UNIT // GROUP))
    # Lane l takes weights l * WEIGHTS and on, in CHUNKS of eight: a row of this tile is one 16-byte load of each lane.
    at = tl.arange(0, LANES * 8)
    x_in_step = tl.arange(0, CHUNKS)[:, None] * 8 + (at // 8 * WEIGHTS + at % 8)[None, :]
    acc0 = tl.zeros((BLOCK_N, CHUNKS, LANES), tl.float32)
    acc1 = tl.zeros((BLOCK_N, CHUNKS, LANES), tl.float32)
    acc2 = tl.zeros((BLOCK_N, CHUNKS, LANES), tl.float32)
    acc3 = tl.zeros((BLOCK_N, CHUNKS, LANES), tl.float32)
    for unit in range(split * UNITS_SPLIT, end, LANES * WEIGHTS // UNIT):
        cols = unit * WORDS + tl.arange(0, LANES * 4)
        ok = inside & (cols < end * WORDS)[None, :]
        words = tl.load(w_rows + cols[None, :], mask=ok, other=0, eviction_policy="evict_first")
        if BITS == 4:  # a word is a chunk
            low = tl.permute(tl.reshape(words, (BLOCK_N, LANES, CHUNKS)), (0, 2, 1))
            high = low
        else:  # two words are
            low, high = tl.split(tl.reshape(words, (BLOCK_N, LANES, CHUNKS, 2)))
            low = tl.permute(low, (0, 2, 1))
            high = tl.permute(high, (0, 2, 1))
        if GROUP == 16:  # two scales in a lane, each of two chunks
            cols = unit * (UNIT // 16) + tl.arange(0, LANES * 2)
            codes = tl.load(s_rows + cols[None, :], inside & (cols < end * (UNIT // 16))[None, :], 0)
            s = _low_half(_e4m3(codes.to(tl.uint32) << 8)) * 256.0 * tl.load(t_ptr)
            s = tl.permute(tl.reshape(s, (BLOCK_N, LANES, 2)), (0, 2, 1))[:, :, None, :]
            s = tl.reshape(tl.broadcast_to(s, (BLOCK_N, 2, 2, LANES)), (BLOCK_N, 4, LANES))
        else:
            cols = unit + tl.arange(0, LANES) * WEIGHTS // 32
            s = _e8m0(tl.load(s_rows + cols[None, :], inside & (cols < end)[None, :], 0))[:, None, :]
        x_at = unit * UNIT + x_in_step
        x0 = _load_x(x_ptr, token, M, UNITS * UNIT, x_at, end * UNIT, CHUNKS, LANES)
        x1 = x0
        x2 = x0
        x3 = x0
        if BLOCK_M > 1:
            x1 = _load_x(x_ptr, token + 1, M, UNITS * UNIT, x_at, end * UNIT, CHUNKS, LANES)
        if BLOCK_M > 2:
            x2 = _load_x(x_ptr, token + 2, M, UNITS * UNIT, x_at, end * UNIT, CHUNKS, LANES)
            x3 = _load_x(x_ptr, token + 3, M, UNITS * UNIT, x_at, end * UNIT, CHUNKS, LANES)
        sum0 = tl.zeros((BLOCK_N, CHUNKS, LANES), tl.float32)
        sum1 = sum0
        sum2 = sum0
        sum3 = sum0
        for j in tl.static_range(8):
            w = _code(low, high, j, BITS)
            sum0 += w * x0[j].to(tl.float32)
            if BLOCK_M > 1:
                sum1 += w * x1[j].to(tl.float32)
            if BLOCK_M > 2:
                sum2 += w * x2[j].to(tl.float32)
                sum3 += w * x3[j].to(tl.float32)
        acc0 += sum0 * BACK * s  # not s * BACK, which may overflow
        if BLOCK_M > 1:
            acc1 += sum1 * BACK * s
        if BLOCK_M > 2:
            acc2 += sum2 * BACK * s
            acc3 += sum3 * BACK * s
    _store_y(acc0, y_ptr, split, token, M, N, rows)
    if BLOCK_M > 1:
        _store_y(acc1, y_ptr, split, token + 1, M, N, rows)
    if BLOCK_M > 2:
        _store_y(acc2, y_ptr, split, token + 2, M, N, rows)
        _store_y(acc3, y_ptr, split, token + 3, M, N, rows)


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
BITS = {"mxfp8": 8, "mxfp4": 4, "nvfp4": 4}


def pick_config(M: int, N: int, K: int, format: str = "mxfp4", chip: str = FALLBACK_CHIP) -> Config:
    """The tile sizes that a launch takes."""
    processors, lanes = CHIPS.get(chip, CHIPS[FALLBACK_CHIP])
    weights = lanes * 128 // BITS[format]  # of a warp, per step
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


def configs(M: int, N: int, K: int, format: str = "mxfp4", chip: str = FALLBACK_CHIP) -> Iterator[Config]:
    """What a sweep may try; the first is what a launch takes."""
    first = pick_config(M, N, K, format, chip)
    yield first
    weights = CHIPS.get(chip, CHIPS[FALLBACK_CHIP])[1] * 128 // BITS[format]
    for split in (1, 2, 4):
        for n in (1, 2, 4, 8):
            for warps in (1, 2, 4, 8):
                yield Config(first.BLOCK_M, n, warps * weights, split, warps, 1)


def chain(
    M: int, N: int, K: int, format: str = "mxfp4", chip: str = FALLBACK_CHIP, config: Config | None = None
) -> int:
    """Longest chain of additions between a product and its result."""
    c = config or pick_config(M, N, K, format, chip)
    steps = -(-K // (c.BLOCK_K * c.SPLIT_K))
    return 9 + steps + (c.BLOCK_K // 8 - 1).bit_length() + c.SPLIT_K


def path(
    x: torch.Tensor,
    w: torch.Tensor,
    w_scales: torch.Tensor,
    w_tensor_scale: torch.Tensor | None = None,
    y: torch.Tensor | None = None,
) -> str:
    """``vector`` where x, w and their rows start at multiples of 16 bytes, so that loads are 16 bytes wide."""
    aligned = x.data_ptr() % 16 == 0 and w.data_ptr() % 16 == 0 and x.shape[-1] % 32 == 0
    return "vector" if aligned else "unaligned"


def _interpreted() -> bool:
    return not isinstance(gemv_mx_kernel, triton.JITFunction)


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


def gemv_mx(
    x: torch.Tensor,
    w: torch.Tensor,
    w_scales: torch.Tensor,
    w_tensor_scale: torch.Tensor | None = None,
    y: torch.Tensor | None = None,
    *,
    config: Config | dict[str, int] | None = None,
    check: bool = False,  # no indices to check
) -> torch.Tensor:
    """y = x @ (scale * code).T; nvfp4 where there is a tensor scale, else mxfp4 or mxfp8, as the words of w tell.

    Args:
        x: (M, K) bf16, contiguous.
        w: (N, K / 8) e2m1 or (N, K / 4) e4m3 codes in int32 or uint32 words, contiguous.
        w_scales: (N, K / 32) e8m0 or (N, K / 16) e4m3 codes in uint8, contiguous.
        w_tensor_scale: (1,) f32 of nvfp4.
        y: (M, N) bf16, contiguous; allocated if None.
        config: tile sizes; `pick_config`'s if None.
        check: for symmetry with launchers that take indices.

    Returns:
        y.

    Raises:
        ValueError: names the argument and what is wrong with it.
    """
    _check_x(x, w, 2)
    (M, K), (N, words) = x.shape, w.shape
    group = 32 if w_tensor_scale is None else 16
    if K % group:
        raise ValueError(f"x has {K} columns; they must be a multiple of the group of {group}")
    if words != K // 8 and (words != K // 4 or group == 16):
        raise ValueError(f"w has {words} words in a row; with {K} columns of x it must have {K // 8} or {K // 4}")
    format = "nvfp4" if group == 16 else "mxfp4" if words == K // 8 else "mxfp8"
    _check("x", x, torch.bfloat16, (M, K), x.device)
    _check("w", w, torch.uint32 if w.dtype == torch.uint32 else torch.int32, (N, words), x.device)
    _check("w_scales", w_scales, torch.uint8, (N, K // group), x.device)
    if w_tensor_scale is not None:
        _check("w_tensor_scale", w_tensor_scale, torch.float32, (1,), x.device)
    if y is None:
        y = torch.empty((M, N), dtype=x.dtype, device=x.device)
    _check("y", y, x.dtype, (M, N), x.device)
    if M == 0 or N == 0:
        return y
    if K == 0:
        return y.zero_()
    picked = config or pick_config(M, N, K, format, _chip(x.device))
    c = Config(**picked) if isinstance(picked, dict) else picked
    bits, unit = BITS[format], 16 if K % 32 else 32
    out = torch.empty_like(y, dtype=torch.float32) if _interpreted() else y  # it truncates when it casts to bf16
    sums = out if c.SPLIT_K == 1 else torch.empty((c.SPLIT_K, M, N), dtype=torch.float32, device=x.device)
    grid = (triton.cdiv(M, c.BLOCK_M) * triton.cdiv(N, c.BLOCK_N), c.SPLIT_K)
    gemv_mx_kernel[grid](
        x, w.view(torch.uint32), w_scales, w_scales if w_tensor_scale is None else w_tensor_scale, sums,
        M, N, K // unit, triton.cdiv(K, c.BLOCK_K * c.SPLIT_K) * c.BLOCK_K // unit, unit, bits, group,
        c.BLOCK_M, c.BLOCK_N, c.BLOCK_K * bits // 128, num_warps=c.num_warps, num_stages=c.num_stages,
    )  # fmt: skip
    if c.SPLIT_K > 1:
        add_splits_kernel[(triton.cdiv(M * N, 256),)](sums, out, M * N, c.SPLIT_K, 256, num_warps=4)
    return y if out is y else y.copy_(out)


def specimens(chip: str) -> Iterator[dict[str, Any]]:
    """Typical launches, for checks of the generated code."""
    for format, M, N, K in (
        ("mxfp4", 1, 4096, 4096), ("mxfp4", 1, 28672, 4096), ("mxfp4", 4, 14336, 4096),
        ("nvfp4", 1, 28672, 4096), ("nvfp4", 4, 14336, 4096), ("mxfp8", 1, 28672, 4096), ("mxfp8", 4, 14336, 4096),
        ("mxfp4", 1, 128, 16384),
    ):  # fmt: skip
        c, bits, group = pick_config(M, N, K, format, chip), BITS[format], 16 if format == "nvfp4" else 32
        pointers = {"x_ptr": "*bf16", "w_ptr": "*u32", "s_ptr": "*u8", "t_ptr": "*u8" if group == 32 else "*fp32"}
        pointers["y_ptr"] = "*bf16" if c.SPLIT_K == 1 else "*fp32"
        blocks = {"UNIT": 32, "BITS": bits, "GROUP": group}
        blocks |= {"BLOCK_M": c.BLOCK_M, "BLOCK_N": c.BLOCK_N, "LANES": c.BLOCK_K * bits // 128}
        signature = pointers | dict.fromkeys(("M", "N", "UNITS", "UNITS_SPLIT"), "i32")
        signature |= dict.fromkeys(blocks, "constexpr")
        options = {"num_warps": c.num_warps, "num_stages": c.num_stages}
        one = {"name": f"{format}-M{M}-N{N}", "kernel": gemv_mx_kernel, "signature": signature}
        yield one | {"constexprs": blocks, "options": options}
