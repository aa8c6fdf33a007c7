# SPDX-License-Identifier: MIT
"""GEMV for decode with microscaled weights: y = x @ (scale * code).T.

x (M, K) and y (M, N) bf16; w words of codes, packed from the lowest bits up, int32 or uint32; f32 sums.
  mxfp8  w (N, K / 4) e4m3, w_scales (N, K / 32) e8m0
  mxfp4  w (N, K / 8) e2m1, w_scales (N, K / 32) e8m0
  nvfp4  w (N, K / 8) e2m1, w_scales (N, K / 16) e4m3, w_tensor_scale (1,) f32
w_scales are uint8. Codes are decoded exactly, NaN codes to NaN.

Standalone: needs torch >= 2.10 and triton >= 3.6. Launch: ``y = gemv_mx(x, w, w_scales, w_tensor_scale)``; captures
into a CUDA graph. Memory-bound: reads w and scales once; at the bandwidth of an H200 the instructions that a weight
takes limit it as well: six to eight for M = 1, four to five for M > 1.

M = 1, `gemv_mx_kernel`: a program owns BLOCK_N rows. A lane takes 16 bytes of each row per step and the x of the same
weights; lanes meet at the end. Scales are applied to sums of eight products.
M > 1, `gemv_mx_dot_kernel`, 16 tokens at a time:
1. The matrix unit multiplies scale * code, which bf16 holds, by x. So that it holds the smallest of mxfp8, these are
   8 times as large until the end: scales, weights and results from 2^125 on may become infinity or NaN there.
2. Sums over k may go in any order: x takes the one that codes have in their words, and w stays where it is loaded to.
3. Each warp has weights of its own in a step; warps meet at the end. Loads run num_stages ahead.
SPLIT_K > 1: partial sums go to a (SPLIT_K, M, N) f32 workspace and a second launch adds them in order.

Longest chain of additions, `chain`: eight in a chunk + steps + the tree over chunks and lanes + splits; of the matrix
unit all products of a warp, since it does not say in which order it adds, + warps + scales + splits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))  # it can neither round to bf16 nor multiply it


@triton.jit
def _e8m0(codes):
    """2^(code - 127), 255 is NaN."""
    bits = codes.to(tl.uint32) << 23
    return tl.where((codes == 0) | (codes == 255), bits | 0x00400000, bits).to(tl.float32, bitcast=True)


@triton.jit
def _e4m3(codes):
    """e4m3 to f32: its bits are those of a float of a smaller exponent, subnormal ones too."""
    magnitude = (codes.to(tl.uint32) & 0x7F) << 20
    nan = (magnitude + 0x00100000) & 0x08000000  # of 0x7F, whose exponent it completes
    nan |= nan << 1
    bits = magnitude | ((codes.to(tl.uint32) & 0x80) << 24) | nan | (nan << 2)
    return bits.to(tl.float32, bitcast=True) * 2.0**120


@triton.jit
def _code(low, high, J: tl.constexpr, BITS: tl.constexpr):
    """Code J of every chunk; two at a time become f16 of e2m1 / 2^14, with its bits at 15 and 11:9, or e4m3 / 2^8."""
    if BITS == 4:  # low is the chunk
        halves = low << (12 - J % 4 * 4)
        halves = (halves & 0x80008000) | ((halves & 0x70007000) >> 3)
        half = halves & 0xFFFF if J < 4 else halves >> 16
    else:
        halves = (low if J < 4 else high) << (8 - J % 2 * 8)
        magnitude = halves & 0x7F007F00
        nan = (magnitude + 0x01000100) & 0x80008000  # bit 14 turns 480, which 0x7F comes out as, into NaN
        halves = (halves & 0x80008000) | (magnitude >> 1) | (nan >> 1)
        half = halves & 0xFFFF if J % 4 < 2 else halves >> 16
    return half.to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def _load_x(x_row, x_at, end, CHUNKS: tl.constexpr, LANES: tl.constexpr):
    """x of weight j of every chunk, for j = 0 ... 7: eight tiles (1, CHUNKS, LANES)."""
    x = tl.load(x_row + x_at, mask=x_at < end, other=0.0)
    even, odd = tl.split(tl.reshape(x, (1, CHUNKS, LANES, 2, 2, 2)))
    x04, x26 = tl.split(even)
    x15, x37 = tl.split(odd)
    x0, x4 = tl.split(x04)
    x1, x5 = tl.split(x15)
    x2, x6 = tl.split(x26)
    x3, x7 = tl.split(x37)
    return x0, x1, x2, x3, x4, x5, x6, x7


@triton.jit
def gemv_mx_kernel(
    x_ptr,  # (M, K)
    w_ptr,  # (N, K BITS / 32) words
    s_ptr,  # (N, K / GROUP)
    t_ptr,  # (1,) of nvfp4, else not read
    y_ptr,  # (SPLIT_K, M, N)
    M,
    N,
    UNITS,  # K / UNIT
    STEPS,  # of a split
    UNIT: tl.constexpr,  # so the compiler sees what rows are aligned to
    BITS: tl.constexpr,
    GROUP: tl.constexpr,  # 32, or 16 of nvfp4
    BLOCK_N: tl.constexpr,
    LANES: tl.constexpr,
):
    WEIGHTS: tl.constexpr = 128 // BITS  # of a lane, per step and row
    CHUNKS: tl.constexpr = WEIGHTS // 8
    STEP: tl.constexpr = LANES * WEIGHTS
    token = tl.program_id(0) % M
    rows = tl.program_id(0) // M * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(1)
    inside = (rows < N)[:, None]
    row_words, row_scales = UNITS * (UNIT * BITS // 32), UNITS * (UNIT // GROUP)
    w_rows = w_ptr + rows.to(tl.int64)[:, None] * row_words
    s_rows = s_ptr + rows.to(tl.int64)[:, None] * row_scales
    # Lane l takes weights l * WEIGHTS and on, in CHUNKS of eight: a row of this tile is one 16-byte load of each lane.
    at = tl.arange(0, LANES * 8)
    x_in_step = tl.arange(0, CHUNKS)[:, None] * 8 + (at // 8 * WEIGHTS + at % 8)[None, :]
    x_row = x_ptr + token.to(tl.int64) * (UNITS * UNIT)
    acc = tl.zeros((BLOCK_N, CHUNKS, LANES), tl.float32)
    for step in range(split * STEPS, min(tl.cdiv(UNITS * UNIT, STEP), (split + 1) * STEPS)):
        cols = step * (LANES * 4) + tl.arange(0, LANES * 4)
        ok = inside & (cols < row_words)[None, :]
        words = tl.load(w_rows + cols[None, :], mask=ok, other=0, eviction_policy="evict_first")
        if BITS == 4:  # a word is a chunk
            low = tl.permute(tl.reshape(words, (BLOCK_N, LANES, CHUNKS)), (0, 2, 1))
            high = low
        else:  # two words are
            low, high = tl.split(tl.reshape(words, (BLOCK_N, LANES, CHUNKS, 2)))
            low, high = tl.permute(low, (0, 2, 1)), tl.permute(high, (0, 2, 1))
        if GROUP == 16:  # two scales in a lane, each of two chunks
            cols = step * (LANES * 2) + tl.arange(0, LANES * 2)
            codes = tl.load(s_rows + cols[None, :], inside & (cols < row_scales)[None, :], 0)
            s = tl.reshape(_e4m3(codes) * tl.load(t_ptr), (BLOCK_N, LANES, 2))
            s = tl.broadcast_to(tl.permute(s, (0, 2, 1))[:, :, None, :], (BLOCK_N, 2, 2, LANES))
            s = tl.reshape(s, (BLOCK_N, 4, LANES))
        else:
            cols = step * (STEP // 32) + tl.arange(0, LANES) * WEIGHTS // 32
            s = _e8m0(tl.load(s_rows + cols[None, :], inside & (cols < row_scales)[None, :], 0))[:, None, :]
        x = _load_x(x_row, step * STEP + x_in_step, UNITS * UNIT, CHUNKS, LANES)
        sums = tl.zeros((BLOCK_N, CHUNKS, LANES), tl.float32)
        for j in tl.static_range(8):
            sums += _code(low, high, j, BITS) * x[j].to(tl.float32)
        acc += sums * (16384.0 if BITS == 4 else 256.0) * s  # not first times s, which may overflow
    y = tl.sum(tl.sum(acc, axis=1), axis=1)
    at = (split * M + token).to(tl.int64) * N + rows
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=rows < N)


@triton.jit
def _bf16(a):
    """Of 32 bits the upper half: exact where a is a float that bf16 holds."""
    return (a.to(tl.uint32, bitcast=True) >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)


@triton.jit
def _float(a):
    """bf16 to f32; the interpreter's own conversion loses subnormal numbers."""
    return (a.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)


@triton.jit
def _pair(words, J: tl.constexpr):
    """Codes J and J + 4 of every word, / 2^126, in a last axis of two: halves of one register."""
    # Times two powers of two the bits of e2m1 come to 15 and 8:6, where bf16 has its value / 2^126.
    four = (words >> (4 * (J - J % 2))) & (0x000F000F << (4 * (J % 2)))
    halves = (four * (0x1040 >> (4 * (J % 2)))) & 0x81C081C0
    return tl.join(_bf16(halves << 16), _bf16(halves))


@triton.jit
def gemv_mx_dot_kernel(
    x_ptr,  # (M, K)
    w_ptr,  # (N, K / 8) words of e2m1, (N, K) bytes of e4m3
    s_ptr,  # (N, K / GROUP)
    t_ptr,  # (1,) of nvfp4, else not read
    y_ptr,  # (SPLIT_K, M, N)
    M,
    N,
    UNITS,  # K / UNIT
    STEPS,  # of a split
    UNIT: tl.constexpr,  # so the compiler sees what rows are aligned to
    BITS: tl.constexpr,
    GROUP: tl.constexpr,  # 32, or 16 of nvfp4
    BLOCK_N: tl.constexpr,
    SLICES: tl.constexpr,  # of 128 weights of a row in a step, best one for each warp
    STAGES: tl.constexpr,
    PACKED: tl.constexpr,  # the chip multiplies two bf16 at a time
    CONVERTS: tl.constexpr,  # the chip converts e4m3
):
    PARTS: tl.constexpr = BITS // 4  # of a slice, 64 bytes of w each
    CHUNKS: tl.constexpr = 4 // PARTS  # of eight weights: a lane's, of a part
    ITEMS: tl.constexpr = 16 if BITS == 4 else 64  # of a part: words of eight codes, or bytes
    SCALES: tl.constexpr = 128 // GROUP  # of a slice
    BACK: tl.constexpr = 2.0**126 if BITS == 4 and GROUP == 32 else 1.0  # nvfp4 has its power of two in the scales
    blocks, K = tl.cdiv(M, 16), UNITS * UNIT
    token = tl.program_id(0) % blocks * 16
    row = tl.program_id(0) // blocks * BLOCK_N
    split = tl.program_id(1)
    # w (rows / 2, slices, parts, 2, items), x (slices, parts, 8, chunks, 2, 4 lanes of 8): in shared memory no two
    # lanes that read at once meet in a bank. Rows past the end read the last one again, and are not stored.
    row_items = UNITS * (UNIT * ITEMS * PARTS // 128)
    part = tl.arange(0, SLICES)[:, None] * PARTS + tl.arange(0, PARTS)[None, :]
    w_item = part[None, :, :, None, None] * ITEMS + tl.arange(0, ITEMS)[None, None, None, None, :]
    w_row = tl.arange(0, BLOCK_N // 2)[:, None] * 2 + tl.arange(0, 2)[None, :]
    w_at = tl.minimum(w_row, N - 1 - row)[:, None, None, :, None] * row_items + w_item
    row_scales = UNITS * (UNIT // GROUP)
    s_item = tl.arange(0, SLICES * SCALES)[None, :]
    s_at = tl.minimum(tl.arange(0, BLOCK_N), N - 1 - row)[:, None] * row_scales + s_item
    tokens = (tl.arange(0, 8)[:, None] * 2 + tl.arange(0, 2)[None, :])[None, None, :, None, :, None]
    x_item = tl.arange(0, CHUNKS)[:, None] * 8 + (tl.arange(0, 32) // 8 * (8 * CHUNKS) + tl.arange(0, 32) % 8)[None, :]
    x_item = part[:, :, None, None, None, None] * (32 * CHUNKS) + x_item[None, None, None, :, None, :]
    x_at = tokens * K + x_item
    x_ptr += token.to(tl.int64) * K
    w_ptr += row.to(tl.int64) * row_items
    s_ptr += row.to(tl.int64) * row_scales
    acc = tl.zeros((SLICES, 16, BLOCK_N), tl.float32)
    for step in tl.range(split * STEPS, min(tl.cdiv(K, SLICES * 128), (split + 1) * STEPS), num_stages=STAGES):
        w_start, s_start, x_start = step * (SLICES * PARTS * ITEMS), step * (SLICES * SCALES), step * (SLICES * 128)
        w = tl.load(w_ptr + w_at + w_start, mask=w_start + w_item < row_items, other=0, eviction_policy="evict_first")
        s = tl.load(s_ptr + s_at + s_start, mask=s_start + s_item < row_scales, other=0)
        ok = (tokens < M - token) & (x_start + x_item < K)
        x = tl.load(x_ptr + x_at + x_start, mask=ok, other=0.0, cache_modifier=".ca")  # other programs read it, too
        w = tl.reshape(tl.permute(w, (1, 0, 3, 2, 4)), (SLICES, BLOCK_N, PARTS * ITEMS))
        s = tl.permute(tl.reshape(s, (BLOCK_N, SLICES, SCALES, 1)), (1, 0, 2, 3))
        s = _e4m3(s) * 2.0**118 if GROUP == 16 else _e8m0(s) * (1.0 if BITS == 4 else 8.0)
        # Within a slice columns go by chunk, lane, pair, half, or by part, half a chunk, lane, four: where the matrix
        # unit wants what a lane has.
        if BITS == 4:
            even, odd = tl.join(_pair(w, 0), _pair(w, 2)), tl.join(_pair(w, 1), _pair(w, 3))
            q = tl.join(even, odd)
            x = tl.permute(tl.reshape(x, (SLICES, 8, 4, 2, 4, 2, 2, 2)), (0, 1, 3, 2, 4, 6, 7, 5))
        else:
            q = w.to(tl.float8e4nv, bitcast=True).to(tl.float16).to(tl.float32) if CONVERTS else _e4m3(w)
            q = _bf16(q) if PACKED else q
            x = tl.permute(tl.reshape(x, (SLICES, 2, 8, 2, 2, 4, 2, 4)), (0, 2, 4, 1, 3, 6, 5, 7))
        q = tl.reshape(q, (SLICES, BLOCK_N, SCALES, GROUP))
        q = q * BACK * _bf16(s) if PACKED else _bf16((_float(q) if BITS == 4 else q) * BACK * s)
        if BITS == 4:
            q = tl.permute(tl.reshape(q, (SLICES, BLOCK_N, 4, 4, 2, 2, 2)), (0, 1, 3, 2, 5, 6, 4))
        else:
            q = tl.permute(tl.reshape(q, (SLICES, BLOCK_N, 2, 4, 4, 4)), (0, 1, 2, 4, 3, 5))
        x, q = tl.reshape(x, (SLICES, 16, 128)), tl.reshape(q, (SLICES, BLOCK_N, 128))
        if INTERPRETED:  # it multiplies the bits of bf16 as integers
            x, q = _float(x), _float(q)
        acc = tl.dot(x, tl.permute(q, (0, 2, 1)), acc)
    y = tl.sum(acc, 0) * (256.0 if GROUP == 16 else 1.0 if BITS == 4 else 0.125)
    if GROUP == 16:
        y *= tl.load(t_ptr)
    rows, tokens = row + tl.arange(0, BLOCK_N), token + tl.arange(0, 16)
    at = (split * M + tokens).to(tl.int64)[:, None] * N + rows[None, :]
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=(tokens < M)[:, None] & (rows < N)[None, :])


@triton.jit
def add_splits_kernel(partial_ptr, y_ptr, size, SPLIT_K: tl.constexpr, BLOCK: tl.constexpr):
    """y (size,) is the sum of partial (SPLIT_K, size) f32, in order."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    y = tl.zeros((BLOCK,), tl.float32)
    for split in tl.static_range(SPLIT_K):
        y += tl.load(partial_ptr + split * size + at, mask=at < size, other=0.0)
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=at < size)


class Config(NamedTuple):
    """Tile sizes of a launch; a step reads BLOCK_K weights of a row. BLOCK_M 16 stands for the matrix unit."""

    BLOCK_M: int
    BLOCK_N: int
    BLOCK_K: int
    SPLIT_K: int
    num_warps: int
    num_stages: int


# chip -> processors, lanes of a warp. Rows per program and splits follow from how many programs fill the chip.
CHIPS = {
    "sm_80": (108, 32), "sm_90": (132, 32), "sm_100": (148, 32), "sm_110": (20, 32), "sm_120": (170, 32),
    "sm_121": (48, 32), "gfx942": (304, 64), "gfx1151": (40, 32),
}  # fmt: skip
FALLBACK_CHIP, BITS = "sm_90", {"mxfp8": 8, "mxfp4": 4, "nvfp4": 4}
# Of the matrix unit: rows of a program for four and eight bits, num_stages
DOT = {"sm": (64, 32, 3), "gfx942": (32, 32, 2), "gfx": (16, 16, 1)}
LARGE = ("sm_80", "sm_90", "sm_100", "sm_103", "sm_110")  # shared memory for eight warps, over 99 KiB
_MATRIX = {"gfx942": "v_mfma", "gfx1151": "v_wmma"}  # its instructions where they are not HMMA


def pick_config(M: int, N: int, K: int, format: str = "mxfp4", chip: str = FALLBACK_CHIP) -> Config:
    """The tile sizes that a launch takes."""
    processors, lanes = CHIPS.get(chip, CHIPS[FALLBACK_CHIP])
    if M > 1:
        rows4, rows8, stages = DOT.get(chip) or DOT["sm" if chip.startswith("sm") else "gfx"]
        block_n = rows8 if format == "mxfp8" else rows4
        if 3 * processors * block_n > N:
            block_n = min(block_n, 32)  # more programs, each of which reads all of x
        warps = 8 if 2 * processors * block_n > N and chip in LARGE else 4
        return Config(16, block_n, warps * 128, _splits(N, K, block_n, warps * 128, processors // 2), warps, stages)
    weights = lanes * 128 // BITS[format]  # of a warp, per step
    # As many warps as leave the fewest lanes without work in the last step of a row
    warps = min((4, 2, 1), key=lambda warps: -(-K // (warps * weights)) * warps)
    block_n = next(n for n in (4, 2, 1) if n == 1 or -(-N // n) * warps >= 16 * processors)
    return Config(1, block_n, warps * weights, _splits(N, K, block_n, warps * weights, processors), warps, 1)


def _splits(N: int, K: int, block_n: int, block_k: int, few: int) -> int:
    """Programs along K, where those along N are few and each still has two steps."""
    splits = 1
    while splits < 16 and splits * -(-N // block_n) <= few and 4 * splits * block_k <= K:
        splits *= 2
    return splits


def configs(M: int, N: int, K: int, format: str = "mxfp4", chip: str = FALLBACK_CHIP) -> Iterator[Config]:
    """What a sweep may try; the first is what a launch takes."""
    yield pick_config(M, N, K, format, chip)
    weights = CHIPS.get(chip, CHIPS[FALLBACK_CHIP])[1] * 128 // BITS[format]
    for split in (1, 2, 4):
        for n in (16, 32, 64, 128):
            for warps in (2, 4, 8):
                yield Config(16, n, warps * 128, split, warps, 3 if chip.startswith("sm") else 1)
        for n in (1, 2, 4, 8) if M == 1 else ():
            for warps in (1, 2, 4, 8):
                yield Config(1, n, warps * weights, split, warps, 1)


def chain(M: int, N: int, K: int, format: str = "mxfp4", chip: str = FALLBACK_CHIP, config: Any = None) -> int:
    """Longest chain of additions between a product and its result."""
    c = config or pick_config(M, N, K, format, chip)
    steps = -(-K // (c.BLOCK_K * c.SPLIT_K))
    if c.BLOCK_M == 16:
        return min(128 * steps, K) + 2 + c.BLOCK_K // 128 + c.SPLIT_K
    return 9 + steps + (c.BLOCK_K // 8 - 1).bit_length() + c.SPLIT_K


def path(
    x: torch.Tensor, w: torch.Tensor, w_scales: torch.Tensor, w_tensor_scale: Any = None, y: torch.Tensor | None = None
) -> str:
    """``vector`` where x, w and their rows start at multiples of 16 bytes, so that loads are 16 bytes wide."""
    return "unaligned" if x.data_ptr() % 16 or w.data_ptr() % 16 or x.shape[-1] % 32 else "vector"


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
    for name, tensor, axes in (("x", x, rank), ("w", w, 2)):
        if not isinstance(tensor, torch.Tensor) or tensor.ndim != axes:
            raise ValueError(f"{name} must be a torch.Tensor of {axes} axes, not {getattr(tensor, 'shape', tensor)}")
    if x.device.type != "cuda" and not INTERPRETED.value:
        raise ValueError(f"x is on {x.device}; it must be on a GPU")


def gemv_mx(
    x: torch.Tensor,  # (M, K)
    w: torch.Tensor,  # (N, K / 8) or (N, K / 4)
    w_scales: torch.Tensor,  # (N, K / 32) or (N, K / 16)
    w_tensor_scale: torch.Tensor | None = None,  # (1,)
    y: torch.Tensor | None = None,  # (M, N)
    *,
    config: Config | dict[str, int] | None = None,
    check: bool = False,
) -> torch.Tensor:
    """y = x @ (scale * code).T; nvfp4 where there is a tensor scale, else mxfp4 or mxfp8, as the words of w tell.

    Args:
        config: tile sizes; `pick_config`'s if None.
        check: for symmetry with launchers that take indices; there are none to check.

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
    y = torch.empty((M, N), dtype=x.dtype, device=x.device) if y is None else y
    _check("y", y, x.dtype, (M, N), x.device)
    if y.numel() == 0 or K == 0:
        return y.zero_()
    picked = config or pick_config(M, N, K, format, _chip(x.device))
    c = Config(**picked) if isinstance(picked, dict) else picked
    if c.BLOCK_M != 1 and (c.BLOCK_M != 16 or c.BLOCK_K % 128):
        raise ValueError(f"config has tiles {c}; BLOCK_M must be 1, or 16 with BLOCK_K a multiple of 128")
    bits, unit, t = BITS[format], min(K & -K, 512), w_scales if w_tensor_scale is None else w_tensor_scale
    out = torch.empty_like(y, dtype=torch.float32) if INTERPRETED.value else y  # it truncates when it casts to bf16
    sums = out if c.SPLIT_K == 1 else torch.empty((c.SPLIT_K, M, N), dtype=torch.float32, device=x.device)
    grid = (triton.cdiv(M, c.BLOCK_M) * triton.cdiv(N, c.BLOCK_N), c.SPLIT_K)
    kernel, items, blocks, options = _launch(c, bits, _chip(x.device))
    kernel[grid](
        x, w.view(items), w_scales, t, sums, M, N, K // unit, triton.cdiv(K, c.BLOCK_K * c.SPLIT_K),
        unit, bits, group, **blocks, **options,
    )  # fmt: skip
    if c.SPLIT_K > 1:
        add_splits_kernel[(triton.cdiv(M * N, 256),)](sums, out, M * N, c.SPLIT_K, 256, num_warps=4)
    return y if out is y else y.copy_(out)


def _launch(c: Config, bits: int, chip: str) -> tuple[Any, torch.dtype, dict[str, int], dict[str, int]]:
    """Kernel, type that it takes w as, blocks, options."""
    options = {"num_warps": c.num_warps, "num_stages": c.num_stages}
    if c.BLOCK_M == 1:
        return gemv_mx_kernel, torch.uint32, {"BLOCK_N": c.BLOCK_N, "LANES": c.BLOCK_K * bits // 128}, options
    packed = chip.startswith("sm") and not INTERPRETED.value
    if packed:
        options["maxnreg"] = 255  # else the compiler may spill some, for the sake of more programs
    blocks = {"BLOCK_N": c.BLOCK_N, "SLICES": c.BLOCK_K // 128, "STAGES": c.num_stages, "PACKED": packed}
    blocks["CONVERTS"] = packed and chip not in ("sm_80", "sm_86", "sm_87")
    return gemv_mx_dot_kernel, torch.uint32 if bits == 4 else torch.uint8, blocks, options


def specimens(chip: str) -> Iterator[dict[str, Any]]:
    """Typical launches, for checks of the generated code."""
    for format, M, N, K in (("mxfp4", 1, 28672, 4096), ("mxfp8", 1, 28672, 4096), ("mxfp4", 16, 4096, 14336),
                            ("nvfp4", 16, 28672, 4096), ("mxfp8", 16, 28672, 4096)):  # fmt: skip
        c, bits, group = pick_config(M, N, K, format, chip), BITS[format], 16 if format == "nvfp4" else 32
        kernel, items, blocks, options = _launch(c, bits, chip)
        types = {"x_ptr": "*bf16", "w_ptr": f"*u{items.itemsize * 8}", "s_ptr": "*u8", "y_ptr": "*bf16"}
        types |= {"t_ptr": "*u8" if group == 32 else "*fp32"} | ({} if c.SPLIT_K == 1 else {"y_ptr": "*fp32"})
        dot = c.BLOCK_M == 16  # of its asynchronous loads, which AMD has none of here, those of scales are narrower
        loads = {"async_loads": 32} if dot and chip.startswith("sm") else {"weights": 128}
        gates = {"matrix": _MATRIX.get(chip, "HMMA") if dot else None, **loads}
        blocks |= {"UNIT": 512, "BITS": bits, "GROUP": group}
        signature = {n: "constexpr" if n in blocks else types.get(n, "i32") for n in kernel.arg_names}
        one = {"name": f"{format}-M{M}-N{N}", "kernel": kernel, "signature": signature, "constexprs": blocks}
        yield one | {"options": options, "divisible": ("N",), "gates": gates}
