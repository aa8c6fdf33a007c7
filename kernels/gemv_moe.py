# SPDX-License-Identifier: MIT
"""GEMV of a mixture of experts, for decode: y[m, j] = w[expert_ids[m, j]] @ x[m, j or 0].

x (M, x_slots, K) bf16 with x_slots 1 or top_k, expert_ids (M, top_k) int32, y (M, top_k, N) bf16; f32 sums.
  bf16   w (E, N, K)
  int4   w (E, N, K / 8) words, w_scales, w_biases (E, N, K / 64) bf16: s * q + b, rounded to f32 once
  mxfp4  w (E, N, K / 8) words, w_scales (E, N, K / 32) uint8 e8m0: scale * e2m1
Words of codes, packed from the lowest bits up, are int32 or uint32.

Standalone: needs torch >= 2.10 and triton >= 3.6. Launch: ``y = gemv_moe(x, w, expert_ids, w_scales=..., ...)``; ids
are read on the device, so a launch captures into a CUDA graph and later ids count.
Memory-bound: reads each visited expert once per visit.

One program per (token, slot) and BLOCK_N rows. Programs of the same rows of all visits follow each other, so that
tokens that chose the same expert share it in cache. Each lane takes 16 bytes of each row per step and the x of the
same weights by 16-byte loads; lanes meet once, at the end. Decoding is that of gemv_int.py and gemv_mx.py.

Longest chain of additions, `chain`: those of a lane + the tree over lanes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl


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
def gemv_moe_kernel(
    x_ptr,  # (M, x_slots, K)
    w_ptr,  # (E, N, K)
    ids_ptr,  # (M, top_k)
    y_ptr,  # (M, top_k, N)
    N,
    K,
    VISITS_PER_X,  # visits, one after the other, that share an x: top_k or 1
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    visit = tl.program_id(0).to(tl.int64)
    rows = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    x_row = x_ptr + (tl.program_id(0) // VISITS_PER_X).to(tl.int64) * K
    w_rows = w_ptr + (tl.load(ids_ptr + visit).to(tl.int64) * N + rows)[:, None] * K
    acc = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    for k in range(0, K, BLOCK_K):
        cols = k + tl.arange(0, BLOCK_K)
        ok = (rows < N)[:, None] & (cols < K)[None, :]
        w = tl.load(w_rows + cols[None, :], mask=ok, other=0.0, eviction_policy="evict_first")
        x = tl.load(x_row + cols, mask=cols < K, other=0.0)
        acc += w.to(tl.float32) * x.to(tl.float32)[None, :]
    tl.store(y_ptr + visit * N + rows, tl.sum(acc, axis=1).to(y_ptr.dtype.element_ty), mask=rows < N)


@triton.jit
def _int4(low, high, base, s, b, J: tl.constexpr):
    """s * q + b of code J of every word; high is the word 12 bits further down: bits 20 to 31 came to 8 to 19.

    A code becomes a float by being or-ed into the mantissa of 2^23; where it stays in the word scales it by 2^AT.
    """
    AT: tl.constexpr = 4 * J if J < 5 else 4 * J - 12
    words = low if J < 5 else high
    code = ((words & (15 << AT)) | base).to(tl.float32, bitcast=True) - 8388608.0
    return code * (s * 2.0**-AT) + b


@triton.jit
def gemv_moe_int4_kernel(
    x_ptr,  # (M, x_slots, 64 GROUPS)
    w_ptr,  # (E, N, 8 GROUPS) words
    s_ptr,  # (E, N, GROUPS)
    b_ptr,  # (E, N, GROUPS)
    ids_ptr,  # (M, top_k)
    y_ptr,  # (M, top_k, N)
    N,
    GROUPS,  # K / 64: so the compiler sees that rows start at multiples of 32 bytes
    VISITS_PER_X,  # visits, one after the other, that share an x: top_k or 1
    base,  # 0x4B000000, the bits of 2^23: as a constant it would be loaded anew for every code
    BLOCK_N: tl.constexpr,
    LANES: tl.constexpr,
):
    visit = tl.program_id(0).to(tl.int64)
    rows = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (rows < N)[:, None]
    x_row = x_ptr + (tl.program_id(0) // VISITS_PER_X).to(tl.int64) * (GROUPS * 64)
    groups_at = (tl.load(ids_ptr + visit).to(tl.int64) * N + rows)[:, None] * GROUPS
    # Lane l takes weights 32 l and on, in four chunks of eight: a row of this tile is one 16-byte load of each lane.
    at = tl.arange(0, LANES * 8)
    x_in_step = tl.arange(0, 4)[:, None] * 8 + (at // 8 * 32 + at % 8)[None, :]
    acc = tl.zeros((BLOCK_N, 4, LANES), tl.float32)
    for group in range(0, GROUPS, LANES // 2):
        cols = group * 8 + tl.arange(0, LANES * 4)
        ok = inside & (cols < GROUPS * 8)[None, :]
        words = tl.load(w_ptr + groups_at * 8 + cols[None, :], mask=ok, other=0, eviction_policy="evict_first")
        groups = group + tl.arange(0, LANES) // 2
        ok = inside & (groups < GROUPS)[None, :]
        s = tl.load(s_ptr + groups_at + groups[None, :], mask=ok, other=0.0).to(tl.float32)[:, None, :]
        b = tl.load(b_ptr + groups_at + groups[None, :], mask=ok, other=0.0).to(tl.float32)[:, None, :]
        x = _load_x(x_row, group * 64 + x_in_step, GROUPS * 64, 4, LANES)
        low = tl.permute(tl.reshape(words, (BLOCK_N, LANES, 4)), (0, 2, 1))
        high = low >> 12
        for j in tl.static_range(8):
            acc += _int4(low, high, base, s, b, j) * x[j].to(tl.float32)
    y = tl.sum(tl.sum(acc, axis=1), axis=1)
    tl.store(y_ptr + visit * N + rows, y.to(y_ptr.dtype.element_ty), mask=rows < N)


@triton.jit
def _e2m1(words, J: tl.constexpr):
    """Code J of every word, / 2^14: its bits at 15 and 11:9 of an f16, two at a time."""
    halves = words << (12 - J % 4 * 4)
    halves = (halves & 0x80008000) | ((halves & 0x70007000) >> 3)
    half = halves & 0xFFFF if J < 4 else halves >> 16
    return half.to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def gemv_moe_mxfp4_kernel(
    x_ptr,  # (M, x_slots, 32 GROUPS)
    w_ptr,  # (E, N, 4 GROUPS) words
    s_ptr,  # (E, N, GROUPS)
    ids_ptr,  # (M, top_k)
    y_ptr,  # (M, top_k, N)
    N,
    GROUPS,  # K / 32: so the compiler sees that rows start at multiples of 16 bytes
    VISITS_PER_X,  # visits, one after the other, that share an x: top_k or 1
    BLOCK_N: tl.constexpr,
    LANES: tl.constexpr,
):
    visit = tl.program_id(0).to(tl.int64)
    rows = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (rows < N)[:, None]
    x_row = x_ptr + (tl.program_id(0) // VISITS_PER_X).to(tl.int64) * (GROUPS * 32)
    groups_at = (tl.load(ids_ptr + visit).to(tl.int64) * N + rows)[:, None] * GROUPS
    # Lane l takes group l of the step, in four chunks of eight: a row of this tile is one 16-byte load of each lane.
    at = tl.arange(0, LANES * 8)
    x_in_step = tl.arange(0, 4)[:, None] * 8 + (at // 8 * 32 + at % 8)[None, :]
    acc = tl.zeros((BLOCK_N, 4, LANES), tl.float32)
    for group in range(0, GROUPS, LANES):
        cols = group * 4 + tl.arange(0, LANES * 4)
        ok = inside & (cols < GROUPS * 4)[None, :]
        words = tl.load(w_ptr + groups_at * 4 + cols[None, :], mask=ok, other=0, eviction_policy="evict_first")
        groups = group + tl.arange(0, LANES)
        codes = tl.load(s_ptr + groups_at + groups[None, :], mask=inside & (groups < GROUPS)[None, :], other=0)
        bits = codes.to(tl.uint32) << 23  # 2^(code - 127); 0 is subnormal, 255 is NaN
        s = tl.where((codes == 0) | (codes == 255), bits | 0x00400000, bits).to(tl.float32, bitcast=True)
        x = _load_x(x_row, group * 32 + x_in_step, GROUPS * 32, 4, LANES)
        words = tl.permute(tl.reshape(words, (BLOCK_N, LANES, 4)), (0, 2, 1))
        sums = tl.zeros((BLOCK_N, 4, LANES), tl.float32)
        for j in tl.static_range(8):
            sums += _e2m1(words, j) * x[j].to(tl.float32)
        acc += sums * 16384.0 * s[:, None, :]  # not s * 16384, which may overflow
    y = tl.sum(tl.sum(acc, axis=1), axis=1)
    tl.store(y_ptr + visit * N + rows, y.to(y_ptr.dtype.element_ty), mask=rows < N)


class Config(NamedTuple):
    """Tile sizes of a launch; a step reads BLOCK_K weights of a row, 16 bytes a lane."""

    BLOCK_N: int
    BLOCK_K: int
    num_warps: int
    num_stages: int


# chip -> processors, lanes of a warp. Rows per program follow from how many programs fill the chip.
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
BITS = {"bf16": 16, "int4": 4, "mxfp4": 4}
BASE = 0x4B000000


def pick_config(M: int, N: int, K: int, top_k: int = 8, format: str = "int4", chip: str = FALLBACK_CHIP) -> Config:
    """The tile sizes that a launch takes."""
    processors, lanes = CHIPS.get(chip, CHIPS[FALLBACK_CHIP])
    weights = lanes * 128 // BITS[format]  # of a warp, per step
    # As many warps as leave the fewest lanes without work in the last step of a row
    warps = min((4, 2, 1), key=lambda warps: -(-K // (warps * weights)) * warps)
    block_n = 4
    while block_n > 1 and M * top_k * -(-N // block_n) * warps < 16 * processors:
        block_n //= 2
    return Config(block_n, warps * weights, warps, 1)


def configs(
    M: int, N: int, K: int, top_k: int = 8, format: str = "int4", chip: str = FALLBACK_CHIP
) -> Iterator[Config]:
    """What a sweep may try; the first is what a launch takes."""
    yield pick_config(M, N, K, top_k, format, chip)
    weights = CHIPS.get(chip, CHIPS[FALLBACK_CHIP])[1] * 128 // BITS[format]
    for n in (1, 2, 4, 8):
        for warps in (1, 2, 4, 8):
            yield Config(n, warps * weights, warps, 1)


def chain(
    M: int,
    N: int,
    K: int,
    top_k: int = 8,
    format: str = "int4",
    chip: str = FALLBACK_CHIP,
    config: Config | None = None,
) -> int:
    """Longest chain of additions between a product and its result."""
    c = config or pick_config(M, N, K, top_k, format, chip)
    steps = -(-K // c.BLOCK_K)
    if format == "bf16":
        return steps + (c.BLOCK_K - 1).bit_length() + 1
    return (8 * steps if format == "int4" else 8 + steps) + (c.BLOCK_K // 8 - 1).bit_length() + 1


def path(
    x: torch.Tensor,
    w: torch.Tensor,
    expert_ids: torch.Tensor,
    y: torch.Tensor | None = None,
    **scales: torch.Tensor,
) -> str:
    """``vector`` where rows start at multiples of 16 bytes (bf16: and elements), so that loads are 16 bytes wide."""
    aligned = x.data_ptr() % 16 == 0 and w.data_ptr() % 16 == 0 and x.shape[-1] % 16 == 0
    return "vector" if aligned else "unaligned"


def _interpreted() -> bool:
    return not isinstance(gemv_moe_kernel, triton.JITFunction)


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
    for name, tensor, axes in (("x", x, rank), ("w", w, 3)):
        if not isinstance(tensor, torch.Tensor):
            raise ValueError(f"{name} must be a torch.Tensor, not {type(tensor).__name__}")  # noqa: TRY004
        if tensor.ndim != axes:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; it needs {axes} axes")
    if x.device.type != "cuda" and not _interpreted():
        raise ValueError(f"x is on {x.device}; it must be on a GPU")


def gemv_moe(
    x: torch.Tensor,
    w: torch.Tensor,
    expert_ids: torch.Tensor,
    y: torch.Tensor | None = None,
    *,
    w_scales: torch.Tensor | None = None,
    w_biases: torch.Tensor | None = None,
    config: Config | dict[str, int] | None = None,
    check: bool = False,
) -> torch.Tensor:
    """y[m, j] = w[expert_ids[m, j]] @ x[m, j or 0]; bf16, int4 with scales and biases, mxfp4 with scales.

    Args:
        x: (M, x_slots, K) bf16, contiguous; x_slots is 1 where a token's experts share its x, else top_k.
        w: (E, N, K) bf16, or (E, N, K / 8) codes in int32 or uint32 words, contiguous.
        expert_ids: (M, top_k) int32 in 0 ... E - 1, contiguous, on the device.
        y: (M, top_k, N) bf16, contiguous; allocated if None.
        w_scales: (E, N, K / 64) bf16 of int4, (E, N, K / 32) uint8 e8m0 of mxfp4, contiguous.
        w_biases: (E, N, K / 64) bf16 of int4, contiguous.
        config: tile sizes; `pick_config`'s if None.
        check: whether ids are read back and checked; it waits for the device.

    Returns:
        y.

    Raises:
        ValueError: names the argument and what is wrong with it.
    """
    _check_x(x, w, 3)
    (M, x_slots, K), (E, N) = x.shape, w.shape[:2]
    if not isinstance(expert_ids, torch.Tensor) or expert_ids.ndim != 2:
        raise ValueError(f"expert_ids must be a torch.Tensor of 2 axes (M, top_k), not {expert_ids!r}")
    top_k = expert_ids.shape[1]
    _check("x", x, torch.bfloat16, (M, x_slots, K), x.device)
    if x_slots not in (1, top_k):
        raise ValueError(f"x has {x_slots} slots per token; it must have 1 or expert_ids' top_k of {top_k}")
    _check("expert_ids", expert_ids, torch.int32, (M, top_k), x.device)
    format = _check_weights(x, w, w_scales, w_biases)
    if y is None:
        y = torch.empty((M, top_k, N), dtype=x.dtype, device=x.device)
    _check("y", y, x.dtype, (M, top_k, N), x.device)
    if check and expert_ids.numel():
        low, high = (int(v) for v in torch.aminmax(expert_ids))
        if low < 0 or high >= E:
            raise ValueError(f"expert_ids has {low if low < 0 else high}; with {E} experts ids are 0 to {E - 1}")
    if M == 0 or N == 0 or top_k == 0:
        return y
    if K == 0:
        return y.zero_()
    picked = config or pick_config(M, N, K, top_k, format, _chip(x.device))
    c = Config(**picked) if isinstance(picked, dict) else picked
    out = torch.empty_like(y, dtype=torch.float32) if _interpreted() else y  # it truncates when it casts to bf16
    grid = (M * top_k, triton.cdiv(N, c.BLOCK_N))
    options = {"num_warps": c.num_warps, "num_stages": c.num_stages}
    shared = top_k if x_slots == 1 else 1
    if format == "bf16":
        gemv_moe_kernel[grid](x, w, expert_ids, out, N, K, shared, c.BLOCK_N, c.BLOCK_K, **options)
    elif format == "int4":
        gemv_moe_int4_kernel[grid](
            x, w.view(torch.int32), w_scales, w_biases, expert_ids, out, N, K // 64, shared, BASE,
            c.BLOCK_N, c.BLOCK_K // 32, **options,
        )  # fmt: skip
    else:
        gemv_moe_mxfp4_kernel[grid](
            x, w.view(torch.uint32), w_scales, expert_ids, out, N, K // 32, shared,
            c.BLOCK_N, c.BLOCK_K // 32, **options,
        )  # fmt: skip
    return y if out is y else y.copy_(out)


def _check_weights(x: torch.Tensor, w: torch.Tensor, w_scales: Any, w_biases: Any) -> str:
    """The format that the arguments make."""
    (E, N), K = w.shape[:2], x.shape[2]
    format = "bf16" if w_scales is None else "mxfp4" if w_biases is None else "int4"
    if format == "bf16":
        if w_biases is not None:
            raise ValueError("w_biases without w_scales: int4 has both")
        _check("w", w, torch.bfloat16, (E, N, K), x.device)
        return format
    group, dtype = (64, torch.bfloat16) if format == "int4" else (32, torch.uint8)
    if K % group:
        raise ValueError(f"x has {K} columns; they must be a multiple of {format}'s group of {group}")
    _check("w", w, torch.uint32 if w.dtype == torch.uint32 else torch.int32, (E, N, K // 8), x.device)
    _check("w_scales", w_scales, dtype, (E, N, K // group), x.device)
    if format == "int4":
        _check("w_biases", w_biases, dtype, (E, N, K // group), x.device)
    return format


def specimens(chip: str) -> Iterator[dict[str, Any]]:
    """Typical launches, for checks of the generated code."""
    kernels = {"bf16": gemv_moe_kernel, "int4": gemv_moe_int4_kernel, "mxfp4": gemv_moe_mxfp4_kernel}
    words = {"bf16": "*bf16", "int4": "*i32", "mxfp4": "*u32"}
    scales = {"bf16": {}, "int4": {"s_ptr": "*bf16", "b_ptr": "*bf16"}, "mxfp4": {"s_ptr": "*u8"}}
    for format, M, N, K in (("bf16", 1, 1536, 4096), ("int4", 1, 1536, 4096), ("mxfp4", 4, 2880, 2880)):
        c = pick_config(M, N, K, 8, format, chip)
        types = {"x_ptr": "*bf16", "w_ptr": words[format], **scales[format], "ids_ptr": "*i32", "y_ptr": "*bf16"}
        blocks = {"BLOCK_N": c.BLOCK_N}
        blocks |= {"BLOCK_K": c.BLOCK_K} if format == "bf16" else {"LANES": c.BLOCK_K // 32}
        names = kernels[format].arg_names
        yield {
            "name": f"{format}-M{M}-N{N}-K{K}",
            "kernel": kernels[format],
            "signature": {n: "constexpr" if n in blocks else types.get(n, "i32") for n in names},
            "constexprs": blocks,
            "options": {"num_warps": c.num_warps, "num_stages": c.num_stages},
            "divisible": ("K",) if format == "bf16" else (),
            "gates": {"matrix": None, "weights": 128},
        }
