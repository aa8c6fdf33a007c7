# SPDX-License-Identifier: MIT
"""GEMV for decode with fp8 weights and a scale per row: y = (x @ codes.T) * w_scales.

x (M, K) and y (M, N) bf16; w (N, K) float8_e4m3fn, row-major; w_scales (N,) f32; f32 sums. Codes are decoded exactly,
NaN codes to NaN, on every chip, with or without fp8 of its own.

Standalone: needs torch >= 2.10 and triton >= 3.6. Launch: ``y = gemv_fp8(x, w, w_scales)``; captures into a CUDA
graph. Memory-bound: reads w once, N * K bytes.

M = 1, `gemv_fp8_kernel`:
1. A program owns BLOCK_N rows. A lane takes 16 bytes of each row per step and the x of the same weights; lanes meet at
   the end.
2. Two codes at a time become halves: the bits of e4m3 at 15 and 13:7 of an f16 are its value / 2^8, subnormals too.
   The power of two is made good with the scale.
M > 1, `gemv_fp8_dot_kernel`, 16 tokens at a time:
1. Codes are exact in bf16, which the matrix unit multiplies by x; scales multiply the f32 sums at the end.
2. Sums over k may go in any order: x takes the one that lanes have w in, and w stays where it is loaded to.
3. Each warp has weights of its own in a step; warps meet at the end. Loads run num_stages ahead.
K no multiple of 16, or w at an odd address: `gemv_fp8_bytes_kernel`, which reads bytes, once per token.
SPLIT_K > 1: partial sums go to a (SPLIT_K, M, N) f32 workspace and a second launch adds them in order.

Longest chain of additions, `chain`: eight per step + the tree over chunks and lanes + splits; of the matrix unit all
products of a warp, since it does not say in which order it adds, + warps + scales + splits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))  # it can neither round to bf16 nor multiply it


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
def _load_x(x_row, x_at, end, LANES: tl.constexpr):
    """x of weight j of both chunks, for j = 0 ... 7: eight tiles (1, 2, LANES)."""
    x = tl.load(x_row + x_at, mask=x_at < end, other=0.0)
    even, odd = tl.split(tl.reshape(x, (1, 2, LANES, 2, 2, 2)))
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
    tl.store(y_ptr + at, (sums * 256.0 * s).to(y_ptr.dtype.element_ty), mask=rows < N)


@triton.jit
def gemv_fp8_kernel(
    x_ptr,  # (M, K)
    w_ptr,  # (N, K / 4) words
    s_ptr,  # (N,)
    y_ptr,  # (SPLIT_K, M, N)
    M,
    N,
    UNITS,  # K / 16: so the compiler sees that rows are aligned to 16 bytes
    STEPS,  # of a split
    BLOCK_N: tl.constexpr,
    LANES: tl.constexpr,
):
    # Programs of the same rows and other tokens follow each other, so that w comes from the cache.
    token = tl.program_id(0) % M
    rows = tl.program_id(0) // M * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(1)
    inside = (rows < N)[:, None]
    w_rows = w_ptr + rows.to(tl.int64)[:, None] * (UNITS * 4)
    # Lane l takes weights 16 l and on, in two chunks of eight: a row of this tile is one 16-byte load of each lane.
    at = tl.arange(0, LANES * 8)
    x_in_step = tl.arange(0, 2)[:, None] * 8 + (at // 8 * 16 + at % 8)[None, :]
    x_row = x_ptr + token.to(tl.int64) * (UNITS * 16)
    acc = tl.zeros((BLOCK_N, 2, LANES), tl.float32)
    for step in range(split * STEPS, min(tl.cdiv(UNITS, LANES), (split + 1) * STEPS)):
        cols = step * (LANES * 4) + tl.arange(0, LANES * 4)
        ok = inside & (cols < UNITS * 4)[None, :]
        words = tl.load(w_rows + cols[None, :], mask=ok, other=0, eviction_policy="evict_first")
        low, high = tl.split(tl.reshape(words, (BLOCK_N, LANES, 2, 2)))
        low, high = tl.permute(low, (0, 2, 1)), tl.permute(high, (0, 2, 1))
        x = _load_x(x_row, step * (LANES * 16) + x_in_step, UNITS * 16, LANES)
        for j in tl.static_range(8):
            acc += _code(low, high, j) * x[j].to(tl.float32)
    _store_y(tl.sum(tl.sum(acc, axis=1), axis=1), s_ptr, y_ptr, split, token, M, N, rows)


@triton.jit
def _bf16(a):
    """Of 32 bits the upper half: exact where a is a float that bf16 holds."""
    return (a.to(tl.uint32, bitcast=True) >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)


@triton.jit
def gemv_fp8_dot_kernel(
    x_ptr,  # (M, K)
    w_ptr,  # (N, K) bytes
    s_ptr,  # (N,)
    y_ptr,  # (SPLIT_K, M, N)
    M,
    N,
    UNITS,  # K / 16
    STEPS,  # of a split
    BLOCK_N: tl.constexpr,
    SLICES: tl.constexpr,  # of 128 weights of a row in a step, best one for each warp
    STAGES: tl.constexpr,
    CONVERTS: tl.constexpr,  # the chip converts e4m3
):
    blocks, K = tl.cdiv(M, 16), UNITS * 16
    token = tl.program_id(0) % blocks * 16
    row = tl.program_id(0) // blocks * BLOCK_N
    split = tl.program_id(1)
    # w (rows / 2, slices, halves, 2, 64), x (slices, halves, 8, 2 chunks, 2, 4 lanes of 8): in shared memory no two
    # lanes that read at once meet in a bank. Rows past the end read the last one again, and are not stored.
    half = tl.arange(0, SLICES)[:, None] * 128 + tl.arange(0, 2)[None, :] * 64
    w_item = half[None, :, :, None, None] + tl.arange(0, 64)[None, None, None, None, :]
    w_row = tl.arange(0, BLOCK_N // 2)[:, None] * 2 + tl.arange(0, 2)[None, :]
    w_at = tl.minimum(w_row, N - 1 - row)[:, None, None, :, None] * K + w_item
    tokens = (tl.arange(0, 8)[:, None] * 2 + tl.arange(0, 2)[None, :])[None, None, :, None, :, None]
    x_item = tl.arange(0, 2)[:, None] * 8 + (tl.arange(0, 32) // 8 * 16 + tl.arange(0, 32) % 8)[None, :]
    x_item = half[:, :, None, None, None, None] + x_item[None, None, None, :, None, :]
    x_at = tokens * K + x_item
    x_ptr += token.to(tl.int64) * K
    w_ptr += row.to(tl.int64) * K
    acc = tl.zeros((SLICES, 16, BLOCK_N), tl.float32)
    for step in tl.range(split * STEPS, min(tl.cdiv(K, SLICES * 128), (split + 1) * STEPS), num_stages=STAGES):
        k = step * (SLICES * 128)
        codes = tl.load(w_ptr + w_at + k, mask=k + w_item < K, other=0, eviction_policy="evict_first")
        ok = (tokens < M - token) & (k + x_item < K)
        x = tl.load(x_ptr + x_at + k, mask=ok, other=0.0, cache_modifier=".ca")  # other programs read it, too
        if CONVERTS:
            w = codes.to(tl.float8e4nv, bitcast=True).to(tl.float16).to(tl.float32)
        else:
            w = _low_half(_e4m3(codes.to(tl.uint32) << 8)) * 256.0
        # Within a slice columns go by half, half a chunk, lane, four: where the matrix unit wants what a lane has.
        w = tl.reshape(tl.permute(_bf16(w), (1, 0, 3, 2, 4)), (SLICES, BLOCK_N, 2, 4, 4, 4))
        w = tl.reshape(tl.permute(w, (0, 1, 2, 4, 3, 5)), (SLICES, BLOCK_N, 128))
        x = tl.permute(tl.reshape(x, (SLICES, 2, 8, 2, 2, 4, 2, 4)), (0, 2, 4, 1, 3, 6, 5, 7))
        x = tl.reshape(x, (SLICES, 16, 128))
        if INTERPRETED:  # it multiplies the bits of bf16 as integers
            x, w = x.to(tl.float32), w.to(tl.float32)
        acc = tl.dot(x, tl.permute(w, (0, 2, 1)), acc)
    rows, tokens = row + tl.arange(0, BLOCK_N), token + tl.arange(0, 16)
    y = tl.sum(acc, 0) * tl.load(s_ptr + rows, mask=rows < N, other=0.0)[None, :]
    at = (split * M + tokens).to(tl.int64)[:, None] * N + rows[None, :]
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=(tokens < M)[:, None] & (rows < N)[None, :])


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
LARGE = ("sm_80", "sm_90", "sm_100", "sm_103", "sm_110")  # shared memory for eight warps of the matrix unit
_MATRIX = {"gfx942": "v_mfma", "gfx1151": "v_wmma"}  # its instructions where they are not HMMA


def pick_config(M: int, N: int, K: int, format: str = "fp8", chip: str = FALLBACK_CHIP) -> Config:
    """The tile sizes that a launch takes."""
    processors, lanes = CHIPS.get(chip, CHIPS[FALLBACK_CHIP])
    if M > 1:
        nvidia = chip.startswith("sm")
        block_n = 32 if nvidia or chip == "gfx942" else 16
        warps = 8 if 2 * processors * block_n > N and chip in LARGE else 4
        splits = _splits(N, K, block_n, warps * 128, processors // 2)
        return Config(16, block_n, warps * 128, splits, warps, 3 if nvidia else 2 if chip == "gfx942" else 1)
    weights = lanes * 16  # of a warp, per step
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


def configs(M: int, N: int, K: int, format: str = "fp8", chip: str = FALLBACK_CHIP) -> Iterator[Config]:
    """What a sweep may try; the first is what a launch takes."""
    yield pick_config(M, N, K, format, chip)
    weights = CHIPS.get(chip, CHIPS[FALLBACK_CHIP])[1] * 16
    for split in (1, 2, 4):
        for n in (16, 32, 64, 128):
            for warps in (2, 4, 8):
                yield Config(16, n, warps * 128, split, warps, 3 if chip.startswith("sm") else 1)
        for n in (1, 2, 4, 8) if M == 1 else ():
            for warps in (1, 2, 4, 8):
                yield Config(1, n, warps * weights, split, warps, 1)


def chain(M: int, N: int, K: int, format: str = "fp8", chip: str = FALLBACK_CHIP, config: Config | None = None) -> int:
    """Longest chain of additions between a product and its result."""
    c = config or pick_config(M, N, K, format, chip)
    steps = -(-K // (c.BLOCK_K * c.SPLIT_K))
    if c.BLOCK_M == 16:
        return min(128 * steps, K) + 1 + c.BLOCK_K // 128 + c.SPLIT_K
    return 8 * steps + (c.BLOCK_K // 8 - 1).bit_length() + c.SPLIT_K


def path(x: torch.Tensor, w: torch.Tensor, w_scales: torch.Tensor, y: torch.Tensor | None = None) -> str:
    """``vector`` where rows start at multiples of 16 bytes, so that loads are 16 bytes wide."""
    return "unaligned" if x.data_ptr() % 16 or w.data_ptr() % 16 or w.shape[-1] % 16 else "vector"


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


def gemv_fp8(
    x: torch.Tensor,  # (M, K)
    w: torch.Tensor,  # (N, K)
    w_scales: torch.Tensor,  # (N,)
    y: torch.Tensor | None = None,  # (M, N)
    *,
    config: Config | dict[str, int] | None = None,
    check: bool = False,
) -> torch.Tensor:
    """y = (x @ codes.T) * w_scales.

    Args:
        config: tile sizes; `pick_config`'s if None.
        check: for symmetry with launchers that take indices; there are none to check.

    Raises:
        ValueError: names the argument and what is wrong with it.
    """
    _check_x(x, w, 2)
    (M, K), N = x.shape, w.shape[0]
    _check("x", x, torch.bfloat16, (M, K), x.device)
    _check("w", w, torch.float8_e4m3fn, (N, K), x.device)
    _check("w_scales", w_scales, torch.float32, (N,), x.device)
    y = torch.empty((M, N), dtype=x.dtype, device=x.device) if y is None else y
    _check("y", y, x.dtype, (M, N), x.device)
    if y.numel() == 0 or K == 0:
        return y.zero_()
    picked = config or pick_config(M, N, K, "fp8", _chip(x.device))
    c = Config(**picked) if isinstance(picked, dict) else picked
    if c.BLOCK_M != 1 and (c.BLOCK_M != 16 or c.BLOCK_K % 128):
        raise ValueError(f"config has tiles {c}; BLOCK_M must be 1, or 16 with BLOCK_K a multiple of 128")
    out = torch.empty_like(y, dtype=torch.float32) if INTERPRETED.value else y  # it truncates when it casts to bf16
    sums = out if c.SPLIT_K == 1 else torch.empty((c.SPLIT_K, M, N), dtype=torch.float32, device=x.device)
    grid = (triton.cdiv(M, c.BLOCK_M) * triton.cdiv(N, c.BLOCK_N), c.SPLIT_K)
    steps = triton.cdiv(K, c.BLOCK_K * c.SPLIT_K)
    if K % 16 or w.data_ptr() % 16:
        gemv_fp8_bytes_kernel[(M * triton.cdiv(N, c.BLOCK_N), c.SPLIT_K)](
            x, w.view(torch.uint8), w_scales, sums, M, N, K, steps * c.BLOCK_K, c.BLOCK_N, c.BLOCK_K,
            num_warps=c.num_warps, num_stages=c.num_stages,
        )  # fmt: skip
    else:
        kernel, items, blocks, options = _launch(c, _chip(x.device))
        kernel[grid](x, w.view(items), w_scales, sums, M, N, K // 16, steps, **blocks, **options)
    if c.SPLIT_K > 1:
        add_splits_kernel[(triton.cdiv(M * N, 256),)](sums, out, M * N, c.SPLIT_K, 256, num_warps=4)
    return y if out is y else y.copy_(out)


def _launch(c: Config, chip: str) -> tuple[Any, torch.dtype, dict[str, int], dict[str, int]]:
    """Kernel, type that it takes w as, blocks, options."""
    options = {"num_warps": c.num_warps, "num_stages": c.num_stages}
    if c.BLOCK_M == 1:
        return gemv_fp8_kernel, torch.uint32, {"BLOCK_N": c.BLOCK_N, "LANES": c.BLOCK_K // 16}, options
    nvidia = chip.startswith("sm") and not INTERPRETED.value
    if nvidia:
        options["maxnreg"] = 255  # else the compiler may spill some, for the sake of more programs
    blocks = {"BLOCK_N": c.BLOCK_N, "SLICES": c.BLOCK_K // 128, "STAGES": c.num_stages}
    blocks["CONVERTS"] = nvidia and chip not in ("sm_80", "sm_86", "sm_87")
    return gemv_fp8_dot_kernel, torch.uint8, blocks, options


def specimens(chip: str) -> Iterator[dict[str, Any]]:
    """Typical launches, for checks of the generated code."""
    for M, N, K in ((1, 28672, 4096), (16, 28672, 4096), (16, 4096, 14336)):
        c = pick_config(M, N, K, "fp8", chip)
        kernel, items, blocks, options = _launch(c, chip)
        types = {"x_ptr": "*bf16", "w_ptr": f"*u{items.itemsize * 8}", "s_ptr": "*fp32"}
        types["y_ptr"] = "*bf16" if c.SPLIT_K == 1 else "*fp32"
        dot = c.BLOCK_M == 16
        loads = {"async_loads": 128} if dot and chip.startswith("sm") else {"weights": 128}
        signature = {n: "constexpr" if n in blocks else types.get(n, "i32") for n in kernel.arg_names}
        one = {"name": f"fp8-M{M}-N{N}", "kernel": kernel, "signature": signature, "constexprs": blocks}
        one |= {"options": options, "divisible": ("N",)}
        yield one | {"gates": {"matrix": _MATRIX.get(chip, "HMMA") if dot else None, **loads}}
