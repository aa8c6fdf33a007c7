# SPDX-License-Identifier: MIT
"""GEMV for decode with int8 or int4 weights in groups of 64: y = x @ (s * q + b).T.

x (M, K) and y (M, N) bf16; w words of codes, packed from the lowest bits up, int32 or uint32: (N, K / 4) for int8,
(N, K / 8) for int4; w_scales, w_biases (N, K / 64) bf16; f32 sums. s * q + b is rounded to f32 once.

Standalone: needs torch >= 2.10 and triton >= 3.6. Launch: ``y = gemv_int(x, w, w_scales, w_biases)``; captures into a
CUDA graph. Memory-bound: reads w, scales and biases once; at the bandwidth of an H200 the four instructions that a
weight takes (mask, subtract, decode, multiply) limit it as well.

1. A program owns BLOCK_N rows and up to four tokens. Each lane takes 16 bytes of each row per step, which is 32
   weights of int4 or 16 of int8, and the x of the same weights by 16-byte loads: no data move between lanes.
2. A code becomes a float without a conversion: or-ed into the mantissa of 2^23, then minus 2^23. Codes that stay where
   they are in the word come out times a power of two, which s is divided by.
3. Each lane keeps a sum per chunk of eight weights; lanes meet once, at the end.
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
def _code(words, base, AT: tl.constexpr, MASK: tl.constexpr):
    """2^AT times the code at bits AT and up; all of it must lie below bit 23."""
    return ((words & (MASK << AT)) | base).to(tl.float32, bitcast=True) - 8388608.0


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
    GROUPS,  # K / 64: so the compiler sees that rows start at multiples of 32 bytes
    GROUPS_SPLIT,  # groups of a row in one split
    base,  # 0x4B000000, the bits of 2^23: as a constant it would be loaded anew for every code
    BITS: tl.constexpr,
    BLOCK_M: tl.constexpr,  # 1, 2 or 4
    BLOCK_N: tl.constexpr,
    LANES: tl.constexpr,
):
    WEIGHTS: tl.constexpr = 128 // BITS  # of a lane, per step and row
    CHUNKS: tl.constexpr = WEIGHTS // 8
    # Programs of the same rows and other tokens follow each other, so that w comes from the cache.
    blocks = tl.cdiv(M, BLOCK_M)
    token = tl.program_id(0) % blocks * BLOCK_M
    rows = tl.program_id(0) // blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(1)
    end = min(GROUPS, (split + 1) * GROUPS_SPLIT)
    inside = (rows < N)[:, None]
    w_rows = w_ptr + rows.to(tl.int64)[:, None] * (GROUPS * (2 * BITS))
    s_rows = rows.to(tl.int64)[:, None] * GROUPS
    # Lane l takes weights l * WEIGHTS and on, in CHUNKS of eight: a row of this tile is one 16-byte load of each lane.
    at = tl.arange(0, LANES * 8)
    x_in_step = tl.arange(0, CHUNKS)[:, None] * 8 + (at // 8 * WEIGHTS + at % 8)[None, :]
    acc0 = tl.zeros((BLOCK_N, CHUNKS, LANES), tl.float32)
    acc1 = tl.zeros((BLOCK_N, CHUNKS, LANES), tl.float32)
    acc2 = tl.zeros((BLOCK_N, CHUNKS, LANES), tl.float32)
    acc3 = tl.zeros((BLOCK_N, CHUNKS, LANES), tl.float32)
    for group in range(split * GROUPS_SPLIT, end, LANES * WEIGHTS // 64):
        cols = group * (2 * BITS) + tl.arange(0, LANES * 4)
        ok = inside & (cols < end * (2 * BITS))[None, :]
        words = tl.load(w_rows + cols[None, :], mask=ok, other=0, eviction_policy="evict_first")
        groups = group + tl.arange(0, LANES) * WEIGHTS // 64
        ok = inside & (groups < end)[None, :]
        s = tl.load(s_ptr + s_rows + groups[None, :], mask=ok, other=0.0).to(tl.float32)[:, None, :]
        b = tl.load(b_ptr + s_rows + groups[None, :], mask=ok, other=0.0).to(tl.float32)[:, None, :]
        if BITS == 4:  # a word is a chunk
            low = tl.permute(tl.reshape(words, (BLOCK_N, LANES, CHUNKS)), (0, 2, 1))
            high = low >> 12
        else:  # two words are
            low, high = tl.split(tl.reshape(words, (BLOCK_N, LANES, CHUNKS, 2)))
            low = tl.permute(low, (0, 2, 1))
            high = tl.permute(high, (0, 2, 1))
        x_at = group * 64 + x_in_step
        x0 = _load_x(x_ptr, token, M, GROUPS * 64, x_at, end * 64, CHUNKS, LANES)
        x1 = x0
        x2 = x0
        x3 = x0
        if BLOCK_M > 1:
            x1 = _load_x(x_ptr, token + 1, M, GROUPS * 64, x_at, end * 64, CHUNKS, LANES)
        if BLOCK_M > 2:
            x2 = _load_x(x_ptr, token + 2, M, GROUPS * 64, x_at, end * 64, CHUNKS, LANES)
            x3 = _load_x(x_ptr, token + 3, M, GROUPS * 64, x_at, end * 64, CHUNKS, LANES)
        for j in tl.static_range(8):
            w = _weight(low, high, base, s, b, j, BITS)
            acc0 += w * x0[j].to(tl.float32)
            if BLOCK_M > 1:
                acc1 += w * x1[j].to(tl.float32)
            if BLOCK_M > 2:
                acc2 += w * x2[j].to(tl.float32)
                acc3 += w * x3[j].to(tl.float32)
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
BITS = {"int8": 8, "int4": 4}
BASE = 0x4B000000


def pick_config(M: int, N: int, K: int, format: str = "int4", chip: str = FALLBACK_CHIP) -> Config:
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


def configs(M: int, N: int, K: int, format: str = "int4", chip: str = FALLBACK_CHIP) -> Iterator[Config]:
    """What a sweep may try; the first is what a launch takes."""
    first = pick_config(M, N, K, format, chip)
    yield first
    weights = CHIPS.get(chip, CHIPS[FALLBACK_CHIP])[1] * 128 // BITS[format]
    for split in (1, 2, 4):
        for n in (1, 2, 4, 8):
            for warps in (1, 2, 4, 8):
                yield Config(first.BLOCK_M, n, warps * weights, split, warps, 1)


def chain(M: int, N: int, K: int, format: str = "int4", chip: str = FALLBACK_CHIP, config: Config | None = None) -> int:
    """Longest chain of additions between a product and its result."""
    c = config or pick_config(M, N, K, format, chip)
    steps = -(-K // (c.BLOCK_K * c.SPLIT_K))
    return 8 * steps + (c.BLOCK_K // 8 - 1).bit_length() + c.SPLIT_K


def path(
    x: torch.Tensor,
    w: torch.Tensor,
    w_scales: torch.Tensor,
    w_biases: torch.Tensor,
    y: torch.Tensor | None = None,
) -> str:
    """``vector`` where x and w start at multiples of 16 bytes, so that loads are 16 bytes wide."""
    return "vector" if x.data_ptr() % 16 == 0 and w.data_ptr() % 16 == 0 else "unaligned"


def _interpreted() -> bool:
    return not isinstance(gemv_int_kernel, triton.JITFunction)


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


def gemv_int(
    x: torch.Tensor,
    w: torch.Tensor,
    w_scales: torch.Tensor,
    w_biases: torch.Tensor,
    y: torch.Tensor | None = None,
    *,
    config: Config | dict[str, int] | None = None,
    check: bool = False,  # no indices to check
) -> torch.Tensor:
    """y = x @ (s * q + b).T; int4 or int8, as the words of w tell.

    Args:
        x: (M, K) bf16, contiguous.
        w: (N, K / 8) int4 or (N, K / 4) int8 codes in int32 or uint32 words, contiguous.
        w_scales: (N, K / 64) bf16, contiguous.
        w_biases: (N, K / 64) bf16, contiguous.
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
    if K % 64:
        raise ValueError(f"x has {K} columns; they must be a multiple of the group of 64")
    if words not in (K // 8, K // 4):
        raise ValueError(f"w has {words} words in a row; with {K} columns of x it must have {K // 8} or {K // 4}")
    bits = 4 if words == K // 8 else 8
    _check("x", x, torch.bfloat16, (M, K), x.device)
    _check("w", w, torch.uint32 if w.dtype == torch.uint32 else torch.int32, (N, words), x.device)
    _check("w_scales", w_scales, torch.bfloat16, (N, K // 64), x.device)
    _check("w_biases", w_biases, torch.bfloat16, (N, K // 64), x.device)
    if y is None:
        y = torch.empty((M, N), dtype=x.dtype, device=x.device)
    _check("y", y, x.dtype, (M, N), x.device)
    if M == 0 or N == 0:
        return y
    if K == 0:
        return y.zero_()
    picked = config or pick_config(M, N, K, f"int{bits}", _chip(x.device))
    c = Config(**picked) if isinstance(picked, dict) else picked
    out = torch.empty_like(y, dtype=torch.float32) if _interpreted() else y  # it truncates when it casts to bf16
    sums = out if c.SPLIT_K == 1 else torch.empty((c.SPLIT_K, M, N), dtype=torch.float32, device=x.device)
    grid = (triton.cdiv(M, c.BLOCK_M) * triton.cdiv(N, c.BLOCK_N), c.SPLIT_K)
    gemv_int_kernel[grid](
        x, w.view(torch.int32), w_scales, w_biases, sums, M, N, K // 64,
        triton.cdiv(K, c.BLOCK_K * c.SPLIT_K) * c.BLOCK_K // 64, BASE,
        bits, c.BLOCK_M, c.BLOCK_N, c.BLOCK_K * bits // 128,
        num_warps=c.num_warps, num_stages=c.num_stages,
    )  # fmt: skip
    if c.SPLIT_K > 1:
        add_splits_kernel[(triton.cdiv(M * N, 256),)](sums, out, M * N, c.SPLIT_K, 256, num_warps=4)
    return y if out is y else y.copy_(out)


def specimens(chip: str) -> Iterator[dict[str, Any]]:
    """Typical launches, for checks of the generated code."""
    for format, M, N, K in (
        ("int4", 1, 4096, 4096), ("int4", 1, 28672, 4096), ("int4", 2, 14336, 4096), ("int4", 4, 14336, 4096),
        ("int4", 16, 4096, 14336), ("int4", 1, 128, 16384),
        ("int8", 1, 4096, 4096), ("int8", 1, 28672, 4096), ("int8", 4, 14336, 4096),
    ):  # fmt: skip
        c, bits = pick_config(M, N, K, format, chip), BITS[format]
        pointers = {f"{name}_ptr": "*bf16" for name in "xwsby"} | {"w_ptr": "*i32"}
        pointers["y_ptr"] = "*bf16" if c.SPLIT_K == 1 else "*fp32"
        blocks = {"BITS": bits, "BLOCK_M": c.BLOCK_M, "BLOCK_N": c.BLOCK_N, "LANES": c.BLOCK_K * bits // 128}
        signature = pointers | dict.fromkeys(("M", "N", "GROUPS", "GROUPS_SPLIT", "base"), "i32")
        signature |= dict.fromkeys(blocks, "constexpr")
        options = {"num_warps": c.num_warps, "num_stages": c.num_stages}
        one = {"name": f"{format}-M{M}-N{N}", "kernel": gemv_int_kernel, "signature": signature}
        yield one | {"constexprs": blocks, "options": options}
