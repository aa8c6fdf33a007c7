# SPDX-License-Identifier: MIT
"""GEMV for decode with int8 or int4 weights in groups of 64: y = x @ (s * q + b).T.

x (M, K) and y (M, N) bf16; w words of codes, packed from the lowest bits up, int32 or uint32: (N, K / 4) for int8,
(N, K / 8) for int4; w_scales, w_biases (N, K / 64) bf16; f32 sums. s * q + b is rounded to f32 once.

Standalone: needs torch >= 2.10 and triton >= 3.6. Launch: ``y = gemv_int(x, w, w_scales, w_biases)``; captures into a
CUDA graph. Memory-bound: reads w, scales and biases once; at the bandwidth of an H200 the four instructions that a
weight takes (mask, subtract, decode, multiply) limit it as well.

M = 1, `gemv_int_kernel`:
1. A program owns BLOCK_N rows. A lane takes 16 bytes of each row per step and the x of the same weights; lanes meet at
   the end.
2. A code becomes a float without a conversion: or-ed into the mantissa of 2^23, then minus 2^23. Codes that stay where
   they are in the word come out times a power of two, which s is divided by.
M > 1, `gemv_int_dot_kernel`, 16 tokens at a time: y = sum over groups of s (x @ q.T) + b (sum of x).
1. Codes are exact in bf16, two at a time: or-ed into the mantissa of 128, then minus 128. The matrix unit multiplies
   a group of them into fresh f32 sums, which s scales; sums of x are its product with ones.
2. Sums over k may go in any order: x takes the one that codes have in their words, and w stays where it is loaded to.
3. Each warp has groups of its own in a step; warps meet at the end. Loads run num_stages ahead.
An infinity in x gives NaN there where a code is 0 (0 * infinity), as the two terms would.
SPLIT_K > 1: partial sums go to a (SPLIT_K, M, N) f32 workspace and a second launch adds them in order.

Longest chain of additions, `chain`: eight per step + the tree over chunks and lanes + splits; of the matrix unit a
group, since it does not say in which order it adds, + two per group + warps + splits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))  # it can neither round to bf16 nor multiply it


@triton.jit
def _code(words, base, AT: tl.constexpr, MASK: tl.constexpr):
    """2^AT times the code at bits AT and up; all of it must lie below bit 23."""
    return ((words & (MASK << AT)) | base).to(tl.float32, bitcast=True) - 8388608.0


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
def _weight(low, high, base, s, b, J: tl.constexpr, BITS: tl.constexpr):
    """s * q + b of weight J of every chunk."""
    if BITS == 4:  # low is the word, high the same 12 bits further down: bits 20 to 31 came to 8 to 19
        AT: tl.constexpr = 4 * J if J < 5 else 4 * J - 12
        return _code(low if J < 5 else high, base, AT, 15) * (s * 2.0**-AT) + b
    SHIFT: tl.constexpr = 8 * (J % 2)
    words = low if J < 4 else high
    return _code(words if J % 4 < 2 else words >> 16, base, SHIFT, 255) * (s * 2.0**-SHIFT) + b


@triton.jit
def gemv_int_kernel(
    x_ptr,  # (M, 64 GROUPS)
    w_ptr,  # (N, 2 BITS GROUPS) words
    s_ptr,  # (N, GROUPS)
    b_ptr,  # (N, GROUPS)
    y_ptr,  # (SPLIT_K, M, N)
    M,
    N,
    UNITS,  # GROUPS / UNIT
    STEPS,  # of a split
    base,  # 0x4B000000, the bits of 2^23: as a constant it would be loaded anew for every code
    UNIT: tl.constexpr,  # so the compiler sees what rows are aligned to
    BITS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    LANES: tl.constexpr,
):
    WEIGHTS: tl.constexpr = 128 // BITS  # of a lane, per step and row
    CHUNKS: tl.constexpr = WEIGHTS // 8
    STEP: tl.constexpr = LANES * WEIGHTS // 64  # groups
    GROUPS = UNITS * UNIT
    # Programs of the same rows and other tokens follow each other, so that w comes from the cache.
    token = tl.program_id(0) % M
    rows = tl.program_id(0) // M * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(1)
    inside = (rows < N)[:, None]
    w_rows = w_ptr + rows.to(tl.int64)[:, None] * (GROUPS * (2 * BITS))
    s_rows = rows.to(tl.int64)[:, None] * GROUPS
    # Lane l takes weights l * WEIGHTS and on, in CHUNKS of eight: a row of this tile is one 16-byte load of each lane.
    at = tl.arange(0, LANES * 8)
    x_in_step = tl.arange(0, CHUNKS)[:, None] * 8 + (at // 8 * WEIGHTS + at % 8)[None, :]
    x_row = x_ptr + token.to(tl.int64) * (GROUPS * 64)
    acc = tl.zeros((BLOCK_N, CHUNKS, LANES), tl.float32)
    for step in range(split * STEPS, min(tl.cdiv(GROUPS, STEP), (split + 1) * STEPS)):
        cols = step * (LANES * 4) + tl.arange(0, LANES * 4)
        ok = inside & (cols < GROUPS * (2 * BITS))[None, :]
        words = tl.load(w_rows + cols[None, :], mask=ok, other=0, eviction_policy="evict_first")
        groups = step * STEP + tl.arange(0, LANES) * WEIGHTS // 64
        ok = inside & (groups < GROUPS)[None, :]
        s = tl.load(s_ptr + s_rows + groups[None, :], mask=ok, other=0.0).to(tl.float32)[:, None, :]
        b = tl.load(b_ptr + s_rows + groups[None, :], mask=ok, other=0.0).to(tl.float32)[:, None, :]
        if BITS == 4:  # a word is a chunk
            low = tl.permute(tl.reshape(words, (BLOCK_N, LANES, CHUNKS)), (0, 2, 1))
            high = low >> 12
        else:  # two words are
            low, high = tl.split(tl.reshape(words, (BLOCK_N, LANES, CHUNKS, 2)))
            low, high = tl.permute(low, (0, 2, 1)), tl.permute(high, (0, 2, 1))
        x = _load_x(x_row, step * (STEP * 64) + x_in_step, GROUPS * 64, CHUNKS, LANES)
        for j in tl.static_range(8):
            acc += _weight(low, high, base, s, b, j, BITS) * x[j].to(tl.float32)
    y = tl.sum(tl.sum(acc, axis=1), axis=1)
    at = (split * M + token).to(tl.int64) * N + rows
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=rows < N)


@triton.jit
def _bf16(a):
    """Of 32 bits the upper half: exact where a is a float that bf16 holds."""
    return (a.to(tl.uint32, bitcast=True) >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)


@triton.jit
def _pair(words, base, J: tl.constexpr, BITS: tl.constexpr, PACKED: tl.constexpr):
    """Codes J and J + 4 of int4, J and J + 2 of int8 / 64, in a last axis of two: halves of one register."""
    OFFSET: tl.constexpr = 128.0 if BITS == 4 else 2.0  # of base
    code = ((words >> (BITS * J)) & (0x000F000F if BITS == 4 else 0x007F007F)) | base
    code = tl.join(_bf16(code << 16), _bf16(code))
    out = (code if PACKED else code.to(tl.float32)) - OFFSET
    if BITS == 8:  # 2^-126 where bit 7 is set, of which 2^127 times that are 128 / 64
        top = (words >> (BITS * J)) & 0x00800080
        top = tl.join(_bf16(top << 16), _bf16(top))
        out += (top if PACKED else top.to(tl.float32)) * 2.0**127
    return out if PACKED else _bf16(out)


@triton.jit
def _dot(x, q):
    if INTERPRETED:  # it multiplies the bits of bf16 as integers
        x, q = x.to(tl.float32), q.to(tl.float32)
    return tl.dot(x, tl.permute(q, (0, 2, 1)))


@triton.jit
def gemv_int_dot_kernel(
    x_ptr,  # (M, 64 GROUPS)
    w_ptr,  # (N, 2 BITS GROUPS) words
    s_ptr,  # (N, GROUPS)
    b_ptr,  # (N, GROUPS)
    y_ptr,  # (SPLIT_K, M, N)
    M,
    N,
    UNITS,  # GROUPS / UNIT
    STEPS,  # of a split
    base,  # two bf16, of 128 for int4 and 2 for int8; as a constant it would be loaded anew for every pair
    UNIT: tl.constexpr,  # so the compiler sees what rows of scales are aligned to
    BITS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SLICES: tl.constexpr,  # of two groups of a row in a step, best one for each warp
    SUMS: tl.constexpr,  # columns of the product that adds up x
    STAGES: tl.constexpr,
    PACKED: tl.constexpr,  # the chip subtracts two bf16 at a time
):
    WORDS: tl.constexpr = 2 * BITS  # of a group
    ROWS: tl.constexpr = 32 // WORDS  # whose words of a group fill the banks of shared memory
    SCALE: tl.constexpr = 1.0 if BITS == 4 else 64.0
    blocks, GROUPS = tl.cdiv(M, 16), UNITS * UNIT
    token = tl.program_id(0) % blocks * 16
    row = tl.program_id(0) // blocks * BLOCK_N
    split = tl.program_id(1)
    # w (rows / ROWS, slices, 2, ROWS, words), x (slices, 2, 8, chunks, 2, 4 lanes of 8): in shared memory no two lanes
    # that read at once meet in a bank. Rows past the end read the last one again, and are not stored.
    group = tl.arange(0, SLICES)[:, None] * 2 + tl.arange(0, 2)[None, :]
    w_group, x_group = group[None, :, :, None, None], group[:, :, None, None, None, None]
    w_row = tl.arange(0, BLOCK_N // ROWS)[:, None] * ROWS + tl.arange(0, ROWS)[None, :]
    w_at = tl.minimum(w_row, N - 1 - row)[:, None, None, :, None] * GROUPS + w_group
    w_at = w_at * WORDS + tl.arange(0, WORDS)[None, None, None, None, :]
    s_group = tl.arange(0, SLICES * 2)[None, :]
    s_at = tl.minimum(tl.arange(0, BLOCK_N), N - 1 - row)[:, None] * GROUPS + s_group
    tokens = (tl.arange(0, 8)[:, None] * 2 + tl.arange(0, 2)[None, :])[None, None, :, None, :, None]
    x_item = tl.arange(0, 2)[:, None] * 8 + (tl.arange(0, 32) // 8 * 16 + tl.arange(0, 32) % 8)[None, :]
    x_at = (tokens * GROUPS + x_group) * 64 + x_item[None, None, None, :, None, :]
    x_ptr += token.to(tl.int64) * GROUPS * 64
    w_ptr += row.to(tl.int64) * GROUPS * WORDS
    s_ptr += row.to(tl.int64) * GROUPS
    b_ptr += row.to(tl.int64) * GROUPS
    acc = tl.zeros((SLICES, 16, BLOCK_N), tl.float32)
    ones = tl.full((SLICES, SUMS, 64), 1 / SCALE, tl.bfloat16)
    last = min(tl.cdiv(GROUPS, SLICES * 2), (split + 1) * STEPS)
    for step in tl.range(split * STEPS, last, num_stages=STAGES):
        g = step * (SLICES * 2)
        words = tl.load(w_ptr + w_at + g * WORDS, mask=g + w_group < GROUPS, other=0, eviction_policy="evict_first")
        s = tl.load(s_ptr + s_at + g, mask=g + s_group < GROUPS, other=0.0)
        b = tl.load(b_ptr + s_at + g, mask=g + s_group < GROUPS, other=0.0)
        ok = (tokens < M - token) & (g + x_group < GROUPS)
        x = tl.load(x_ptr + x_at + g * 64, mask=ok, other=0.0, cache_modifier=".ca")  # other programs read it, too
        words = tl.split(tl.reshape(tl.permute(words, (1, 0, 3, 4, 2)), (SLICES, BLOCK_N, WORDS, 2)))
        s = tl.split(tl.permute(tl.reshape(s, (BLOCK_N, SLICES, 2)), (1, 0, 2)))
        b = tl.split(tl.permute(tl.reshape(b, (BLOCK_N, SLICES, 2)), (1, 0, 2)))
        # Within a group columns go by chunk, pair, lane, half: where the matrix unit wants what a lane has.
        x = tl.reshape(x, (SLICES, 2, 8, 2, 2, 4, 2, 2, 2))
        x = tl.permute(x, (0, 2, 4, 3, 7, 8, 5, 6, 1) if BITS == 4 else (0, 2, 4, 3, 6, 8, 5, 7, 1))
        x = tl.split(tl.reshape(x, (SLICES, 16, 64, 2)))
        for h in tl.static_range(2):
            w = words[h]
            if BITS == 4:
                even = tl.join(_pair(w, base, 0, 4, PACKED), _pair(w, base, 2, 4, PACKED))
                odd = tl.join(_pair(w, base, 1, 4, PACKED), _pair(w, base, 3, 4, PACKED))
                q = tl.join(even, odd)
            else:
                q = tl.join(_pair(w, base, 0, 8, PACKED), _pair(w, base, 1, 8, PACKED))
            q = tl.reshape(q, (SLICES, BLOCK_N, 4, 2, 2, 2, 2))
            q = tl.permute(q, (0, 1, 3, 5, 6, 2, 4) if BITS == 4 else (0, 1, 3, 4, 6, 2, 5))
            sums = tl.broadcast_to(_dot(x[h], ones)[:, :, None, :], (SLICES, 16, BLOCK_N // SUMS, SUMS))
            acc += _dot(x[h], tl.reshape(q, (SLICES, BLOCK_N, 64))) * s[h].to(tl.float32)[:, None, :]
            acc += tl.reshape(sums, (SLICES, 16, BLOCK_N)) * b[h].to(tl.float32)[:, None, :]
    rows, tokens = row + tl.arange(0, BLOCK_N), token + tl.arange(0, 16)
    at = (split * M + tokens).to(tl.int64)[:, None] * N + rows[None, :]
    y = tl.sum(acc, 0) * SCALE
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
FALLBACK_CHIP = "sm_90"
BITS = {"int8": 8, "int4": 4}
BASE, DOT_BASE = 0x4B000000, {4: 0x43004300, 8: 0x40004000}
# Of the matrix unit: rows of a program for int4 and int8, num_stages
DOT = {"sm": (64, 32, 3), "gfx942": (32, 32, 2), "gfx": (32, 16, 1)}
LARGE = ("sm_80", "sm_90", "sm_100", "sm_103", "sm_110")  # shared memory for eight warps, over 99 KiB
_MATRIX = {"gfx942": "v_mfma", "gfx1151": "v_wmma"}  # its instructions where they are not HMMA


def pick_config(M: int, N: int, K: int, format: str = "int4", chip: str = FALLBACK_CHIP) -> Config:
    """The tile sizes that a launch takes."""
    processors, lanes = CHIPS.get(chip, CHIPS[FALLBACK_CHIP])
    if M > 1:
        rows4, rows8, stages = DOT.get(chip) or DOT["sm" if chip.startswith("sm") else "gfx"]
        block_n = rows4 if format == "int4" else rows8
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


def configs(M: int, N: int, K: int, format: str = "int4", chip: str = FALLBACK_CHIP) -> Iterator[Config]:
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


def chain(M: int, N: int, K: int, format: str = "int4", chip: str = FALLBACK_CHIP, config: Config | None = None) -> int:
    """Longest chain of additions between a product and its result."""
    c = config or pick_config(M, N, K, format, chip)
    steps = -(-K // (c.BLOCK_K * c.SPLIT_K))
    if c.BLOCK_M == 16:
        return 64 + 4 * steps + c.BLOCK_K // 128 + c.SPLIT_K
    return 8 * steps + (c.BLOCK_K // 8 - 1).bit_length() + c.SPLIT_K


def path(
    x: torch.Tensor, w: torch.Tensor, w_scales: torch.Tensor, w_biases: torch.Tensor, y: torch.Tensor | None = None
) -> str:
    """``vector`` where x and w start at multiples of 16 bytes, so that loads are 16 bytes wide."""
    return "vector" if x.data_ptr() % 16 == 0 and w.data_ptr() % 16 == 0 else "unaligned"


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
        if not isinstance(tensor, torch.Tensor) or tensor.ndim != axes:
            raise ValueError(f"{name} must be a torch.Tensor of {axes} axes, not {getattr(tensor, 'shape', tensor)}")
    if x.device.type != "cuda" and not INTERPRETED.value:
        raise ValueError(f"x is on {x.device}; it must be on a GPU")


def gemv_int(
    x: torch.Tensor,  # (M, K)
    w: torch.Tensor,  # (N, K / 8) or (N, K / 4)
    w_scales: torch.Tensor,  # (N, K / 64)
    w_biases: torch.Tensor,  # (N, K / 64)
    y: torch.Tensor | None = None,  # (M, N)
    *,
    config: Config | dict[str, int] | None = None,
    check: bool = False,
) -> torch.Tensor:
    """y = x @ (s * q + b).T; int4 or int8, as the words of w tell. All are contiguous; y is allocated if None.

    Args:
        config: tile sizes; `pick_config`'s if None.
        check: for symmetry with launchers that take indices; there are none to check.

    Raises:
        ValueError: names the argument and what is wrong with it.
    """
    _check_x(x, w, 2)
    (M, K), (N, words) = x.shape, w.shape
    if K % 64:
        raise ValueError(f"x has {K} columns; they must be a multiple of the group of 64")
    if words not in (K // 8, K // 4):
        raise ValueError(f"w has {words} words in a row; with {K} columns of x it must have {K // 8} or {K // 4}")
    bits, unit = 4 if words == K // 8 else 8, min(K // 64 & -(K // 64), 8)
    _check("x", x, torch.bfloat16, (M, K), x.device)
    _check("w", w, torch.uint32 if w.dtype == torch.uint32 else torch.int32, (N, words), x.device)
    _check("w_scales", w_scales, torch.bfloat16, (N, K // 64), x.device)
    _check("w_biases", w_biases, torch.bfloat16, (N, K // 64), x.device)
    y = torch.empty((M, N), dtype=x.dtype, device=x.device) if y is None else y
    _check("y", y, x.dtype, (M, N), x.device)
    if y.numel() == 0 or K == 0:
        return y.zero_()
    picked = config or pick_config(M, N, K, f"int{bits}", _chip(x.device))
    c = Config(**picked) if isinstance(picked, dict) else picked
    if c.BLOCK_M != 1 and (c.BLOCK_M != 16 or c.BLOCK_K % 128):
        raise ValueError(f"config has tiles {c}; BLOCK_M must be 1, or 16 with BLOCK_K a multiple of 128")
    out = torch.empty_like(y, dtype=torch.float32) if INTERPRETED.value else y  # it truncates when it casts to bf16
    sums = out if c.SPLIT_K == 1 else torch.empty((c.SPLIT_K, M, N), dtype=torch.float32, device=x.device)
    grid = (triton.cdiv(M, c.BLOCK_M) * triton.cdiv(N, c.BLOCK_N), c.SPLIT_K)
    kernel, words_type, blocks, options = _launch(c, bits, _chip(x.device))
    kernel[grid](
        x, w.view(words_type), w_scales, w_biases, sums, M, N, K // 64 // unit, triton.cdiv(K, c.BLOCK_K * c.SPLIT_K),
        DOT_BASE[bits] if c.BLOCK_M == 16 else BASE, unit, bits, **blocks, **options,
    )  # fmt: skip
    if c.SPLIT_K > 1:
        add_splits_kernel[(triton.cdiv(M * N, 256),)](sums, out, M * N, c.SPLIT_K, 256, num_warps=4)
    return y if out is y else y.copy_(out)


def _launch(c: Config, bits: int, chip: str) -> tuple[Any, torch.dtype, dict[str, int], dict[str, int]]:
    """Kernel, type that it takes w as, blocks, options."""
    options = {"num_warps": c.num_warps, "num_stages": c.num_stages}
    if c.BLOCK_M == 1:
        return gemv_int_kernel, torch.int32, {"BLOCK_N": c.BLOCK_N, "LANES": c.BLOCK_K * bits // 128}, options
    nvidia = chip.startswith("sm")
    if nvidia:
        options["maxnreg"] = 255  # else the compiler may spill some, for the sake of more programs
    blocks = {"BLOCK_N": c.BLOCK_N, "SLICES": c.BLOCK_K // 128, "SUMS": 8 if nvidia else 16, "STAGES": c.num_stages}
    return gemv_int_dot_kernel, torch.uint32, {**blocks, "PACKED": nvidia and not INTERPRETED.value}, options


def specimens(chip: str) -> Iterator[dict[str, Any]]:
    """Typical launches, for checks of the generated code."""
    for format, M, N, K in (("int4", 1, 28672, 4096), ("int8", 1, 28672, 4096), ("int4", 16, 28672, 4096),
                            ("int4", 16, 4096, 14336), ("int8", 16, 28672, 4096)):  # fmt: skip
        c, bits = pick_config(M, N, K, format, chip), BITS[format]
        kernel, words, blocks, options = _launch(c, bits, chip)
        types = {"x_ptr": "*bf16", "w_ptr": "*i32" if words == torch.int32 else "*u32", "s_ptr": "*bf16"}
        types |= {"b_ptr": "*bf16", "y_ptr": "*bf16" if c.SPLIT_K == 1 else "*fp32"}
        dot = c.BLOCK_M == 16  # of its asynchronous loads, which AMD has none of here, those of scales are narrower
        loads = {"async_loads": 32} if dot and chip.startswith("sm") else {"weights": 128}
        gates = {"matrix": _MATRIX.get(chip, "HMMA") if dot else None, **loads}
        blocks |= {"UNIT": 8, "BITS": bits}
        signature = {n: "constexpr" if n in blocks else types.get(n, "i32") for n in kernel.arg_names}
        one = {"name": f"{format}-M{M}-N{N}", "kernel": kernel, "signature": signature, "constexprs": blocks}
        yield one | {"options": options, "divisible": ("N",), "gates": gates}
