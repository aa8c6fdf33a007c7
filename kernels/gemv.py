# SPDX-License-Identifier: MIT
"""GEMV for decode: y = x @ w.T.  x (M, K), w (N, K) row-major, y (M, N); all f32, f16 or bf16; f32 sums.

Standalone: needs torch >= 2.10 and triton >= 3.6. Launch: ``y = gemv(x, w)``; captures into a CUDA graph.
Memory-bound: reads w once, N * K * itemsize bytes.

M <= 4, and f32: a program owns BLOCK_N rows; each lane multiplies 16 bytes of each row per step and keeps a sum of
  its own for each of its columns, so that lanes meet only once, at the end. Four tokens at most share a program: for
  more, f32 reads w again from the cache. No matrix unit multiplies f32, and more tokens would need more registers.
M > 4 of f16 and bf16: tokens are padded to 16 for the matrix unit, w is its left operand, loads run num_stages ahead.
SPLIT_K > 1: partial sums go to a (SPLIT_K, M, N) f32 workspace and a second launch adds them in order.

Longest chain of additions, `chain`: steps of a lane + the tree over BLOCK_K columns + splits; of the matrix unit all
products of a split, since it does not say in which order it adds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl


@triton.jit
def _load_x(x_ptr, token, M, K, cols, end):
    x = tl.load(x_ptr + token.to(tl.int64) * K + cols, mask=cols < tl.where(token < M, end, 0), other=0.0)
    return x.to(tl.float32)[None, :]


@triton.jit
def _store_y(acc, y_ptr, split, token, M, N, rows):
    at = (split * M + token).to(tl.int64) * N + rows
    tl.store(y_ptr + at, tl.sum(acc, axis=1).to(y_ptr.dtype.element_ty), mask=rows < tl.where(token < M, N, 0))


@triton.jit
def gemv_kernel(
    x_ptr,  # (M, K)
    w_ptr,  # (N, K)
    y_ptr,  # (SPLIT_K, M, N)
    M,
    N,
    K,
    K_SPLIT,  # weights of a row in one split, a multiple of BLOCK_K
    BLOCK_M: tl.constexpr,  # 1, 2 or 4
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    # Programs of the same rows and other tokens follow each other, so that w comes from the cache.
    blocks = tl.cdiv(M, BLOCK_M)
    token = tl.program_id(0) % blocks * BLOCK_M
    rows = tl.program_id(0) // blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(1)
    end = min(K, (split + 1) * K_SPLIT)
    w_rows = w_ptr + rows.to(tl.int64)[:, None] * K
    # One sum per token: a third axis would send w through shared memory. Those that are not used cost nothing.
    acc0 = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    acc1 = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    acc2 = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    acc3 = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    for k in range(split * K_SPLIT, end, BLOCK_K):
        cols = k + tl.arange(0, BLOCK_K)
        ok = (rows < N)[:, None] & (cols < end)[None, :]
        w = tl.load(w_rows + cols[None, :], mask=ok, other=0.0, eviction_policy="evict_first").to(tl.float32)
        acc0 += w * _load_x(x_ptr, token, M, K, cols, end)
        if BLOCK_M > 1:
            acc1 += w * _load_x(x_ptr, token + 1, M, K, cols, end)
        if BLOCK_M > 2:
            acc2 += w * _load_x(x_ptr, token + 2, M, K, cols, end)
            acc3 += w * _load_x(x_ptr, token + 3, M, K, cols, end)
    _store_y(acc0, y_ptr, split, token, M, N, rows)
    if BLOCK_M > 1:
        _store_y(acc1, y_ptr, split, token + 1, M, N, rows)
    if BLOCK_M > 2:
        _store_y(acc2, y_ptr, split, token + 2, M, N, rows)
        _store_y(acc3, y_ptr, split, token + 3, M, N, rows)


@triton.jit
def gemv_dot_kernel(
    x_ptr,  # (M, K)
    w_ptr,  # (N, K)
    y_ptr,  # (SPLIT_K, M, N)
    M,
    N,
    K,
    K_SPLIT,
    BLOCK_M: tl.constexpr,  # 16, the least that a matrix unit takes
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    tokens = tl.program_id(2) * BLOCK_M + tl.arange(0, BLOCK_M)
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(1)
    end = min(K, (split + 1) * K_SPLIT)
    w_rows = w_ptr + rows.to(tl.int64)[:, None] * K
    x_rows = x_ptr + tokens.to(tl.int64)[:, None] * K
    acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for k in range(split * K_SPLIT, end, BLOCK_K):
        cols = k + tl.arange(0, BLOCK_K)
        w_ok = (rows < N)[:, None] & (cols < end)[None, :]
        x_ok = (tokens < M)[:, None] & (cols < end)[None, :]
        w = tl.load(w_rows + cols[None, :], mask=w_ok, other=0.0, eviction_policy="evict_first")
        x = tl.load(x_rows + cols[None, :], mask=x_ok, other=0.0)
        acc = tl.dot(w, x.T, acc, input_precision="ieee")
    at = (split * M + tokens).to(tl.int64)[None, :] * N + rows[:, None]
    tl.store(y_ptr + at, acc.to(y_ptr.dtype.element_ty), mask=(tokens < M)[None, :] & (rows < N)[:, None])


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
    """Tile sizes of a launch; BLOCK_M 16 stands for the kernel of the matrix unit."""

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
# chip -> (BLOCK_N, BLOCK_K in bytes, num_warps, num_stages) of the matrix unit; shared memory bounds the stages
DOT = {
    "sm_80": (32, 512, 4, 4),
    "sm_90": (32, 512, 4, 4),
    "sm_100": (32, 512, 4, 4),
    "gfx942": (32, 512, 4, 2),
    "gfx1151": (32, 256, 4, 2),
}
DOT_FALLBACK = (32, 512, 4, 3)
ITEMSIZE = {"f32": 4, "f16": 2, "bf16": 2}
FORMATS = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
FALLBACK_CHIP = "sm_90"


def pick_config(M: int, N: int, K: int, format: str = "bf16", chip: str = FALLBACK_CHIP) -> Config:
    """The tile sizes that a launch takes."""
    processors, lanes = CHIPS.get(chip, CHIPS[FALLBACK_CHIP])
    itemsize = ITEMSIZE[format]
    if M > 4 and itemsize == 2:
        block_n, row_bytes, warps, stages = DOT.get(chip, DOT_FALLBACK)
        if 2 * processors * block_n > N:
            block_n = 16  # more programs, each of which reads as much of x as of w
        return Config(16, block_n, row_bytes // itemsize, _splits(N, K, block_n, 512, processors), warps, stages)
    block_m = min(triton.next_power_of_2(max(M, 1)), 4)
    # 16 bytes a lane; fewer warps where a row has no work for them
    warps = 4
    while warps > 1 and warps * lanes * 16 // itemsize > K:
        warps //= 2
    block_k = warps * lanes * 16 // itemsize
    block_n = max(1, min(4, 8 // block_m))  # block_m * block_n * 16 / itemsize sums in a lane's registers
    while block_n > 1 and -(-N // block_n) < 4 * processors:
        block_n //= 2
    return Config(block_m, block_n, block_k, _splits(N, K, block_n, block_k, processors), warps, 1)


def _splits(N: int, K: int, block_n: int, block_k: int, processors: int) -> int:
    """Programs along K, where those along N leave half of the chip idle and each still has four steps."""
    splits = 1
    while splits < 16 and 2 * splits * -(-N // block_n) <= 2 * processors and 8 * splits * block_k <= K:
        splits *= 2
    return splits


def configs(M: int, N: int, K: int, format: str = "bf16", chip: str = FALLBACK_CHIP) -> Iterator[Config]:
    """What a sweep may try; the first is what a launch takes."""
    first = pick_config(M, N, K, format, chip)
    yield first
    lanes, itemsize = CHIPS.get(chip, CHIPS[FALLBACK_CHIP])[1], ITEMSIZE[format]
    for split in (1, 2, 4, 8):
        if first.BLOCK_M == 16:
            for n in (16, 32, 64):
                for k in (128, 256):
                    yield Config(16, n, k, split, 4, first.num_stages)
        else:
            for n in (1, 2, 4, 8):
                for warps in (1, 2, 4, 8):
                    for unroll in (1, 2):
                        yield Config(first.BLOCK_M, n, unroll * warps * lanes * 16 // itemsize, split, warps, 1)


def chain(M: int, N: int, K: int, format: str = "bf16", chip: str = FALLBACK_CHIP, config: Config | None = None) -> int:
    """Longest chain of additions between a product and its result."""
    c = config or pick_config(M, N, K, format, chip)
    k_split = _k_split(K, c)
    if c.BLOCK_M == 16:
        return min(k_split, K) + c.SPLIT_K
    return k_split // c.BLOCK_K + (c.BLOCK_K - 1).bit_length() + c.SPLIT_K


def _k_split(K: int, c: Config) -> int:
    return -(-K // (c.BLOCK_K * c.SPLIT_K)) * c.BLOCK_K


def path(x: torch.Tensor, w: torch.Tensor, y: torch.Tensor | None = None) -> str:
    """``vector`` where rows start at multiples of 16 bytes and elements, so that loads are 16 bytes wide."""
    aligned = x.data_ptr() % 16 == 0 and w.data_ptr() % 16 == 0 and w.shape[-1] % 16 == 0
    return "vector" if aligned else "unaligned"


def _interpreted() -> bool:
    return not isinstance(gemv_kernel, triton.JITFunction)


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


def gemv(
    x: torch.Tensor,
    w: torch.Tensor,
    y: torch.Tensor | None = None,
    *,
    config: Config | dict[str, int] | None = None,
    check: bool = False,  # no indices to check
) -> torch.Tensor:
    """y = x @ w.T.

    Args:
        x: (M, K), f32, f16 or bf16, contiguous.
        w: (N, K) of the same type, contiguous; 16-byte loads where `path` says ``vector``.
        y: (M, N) of the same type, contiguous; allocated if None.
        config: tile sizes; `pick_config`'s if None.
        check: for symmetry with launchers that take indices.

    Returns:
        y.

    Raises:
        ValueError: names the argument and what is wrong with it.
    """
    _check_x(x, w, 2)
    (M, K), N = x.shape, w.shape[0]
    if x.dtype not in FORMATS:
        raise ValueError(f"x has dtype {x.dtype}; it must be float32, float16 or bfloat16")
    _check("x", x, x.dtype, (M, K), x.device)
    _check("w", w, x.dtype, (N, K), x.device)
    if y is None:
        y = torch.empty((M, N), dtype=x.dtype, device=x.device)
    _check("y", y, x.dtype, (M, N), x.device)
    if M == 0 or N == 0:
        return y
    if K == 0:
        return y.zero_()
    picked = config or pick_config(M, N, K, FORMATS[x.dtype], _chip(x.device))
    c = Config(**picked) if isinstance(picked, dict) else picked
    if _interpreted():  # it truncates when it casts to bf16, and multiplies its bits as integers in a dot
        return y.copy_(_launch(x.float(), w.float(), torch.empty_like(y, dtype=torch.float32), c))
    return _launch(x, w, y, c)


def _launch(x: torch.Tensor, w: torch.Tensor, y: torch.Tensor, c: Config) -> torch.Tensor:
    (M, K), N = x.shape, w.shape[0]
    out = y if c.SPLIT_K == 1 else torch.empty((c.SPLIT_K, M, N), dtype=torch.float32, device=x.device)
    blocks = triton.cdiv(M, c.BLOCK_M), triton.cdiv(N, c.BLOCK_N)
    kernel, grid = gemv_kernel, (blocks[0] * blocks[1], c.SPLIT_K)
    if c.BLOCK_M == 16:
        kernel, grid = gemv_dot_kernel, (blocks[1], c.SPLIT_K, blocks[0])
    kernel[grid](
        x, w, out, M, N, K, _k_split(K, c), c.BLOCK_M, c.BLOCK_N, c.BLOCK_K,
        num_warps=c.num_warps, num_stages=c.num_stages,
    )  # fmt: skip
    if c.SPLIT_K > 1:
        add_splits_kernel[(triton.cdiv(M * N, 256),)](out, y, M * N, c.SPLIT_K, 256, num_warps=4)
    return y


def specimens(chip: str) -> Iterator[dict[str, Any]]:
    """Typical launches, for checks of the generated code."""
    types = {"f32": "*fp32", "f16": "*fp16", "bf16": "*bf16"}
    nvidia = chip.startswith("sm")
    for format, M, N, K in (("f32", 1, 28672, 4096), ("bf16", 1, 28672, 4096), ("bf16", 4, 14336, 4096),
                            ("bf16", 16, 4096, 14336)):  # fmt: skip
        c = pick_config(M, N, K, format, chip)
        pointers = {"x_ptr": types[format], "w_ptr": types[format]}
        pointers["y_ptr"] = types[format] if c.SPLIT_K == 1 else "*fp32"
        blocks = {"BLOCK_M": c.BLOCK_M, "BLOCK_N": c.BLOCK_N, "BLOCK_K": c.BLOCK_K}
        kernel, gates = gemv_kernel, dict[str, Any](matrix=None, weights=128)
        if c.BLOCK_M == 16:  # tiles are too small for what a warpgroup multiplies
            matrix = {"gfx942": "v_mfma", "gfx1151": "v_wmma"}.get(chip, "HMMA")
            kernel, gates = gemv_dot_kernel, {"matrix": matrix, "async_loads" if nvidia else "weights": 128}
        one = {"name": f"{format}-M{M}-N{N}", "kernel": kernel, "constexprs": blocks, "gates": gates}
        one["signature"] = pointers | dict.fromkeys(("M", "N", "K", "K_SPLIT"), "i32")
        one["signature"] |= dict.fromkeys(blocks, "constexpr")
        options = {"num_warps": c.num_warps, "num_stages": c.num_stages}
        yield one | {"options": options, "divisible": ("N", "K", "K_SPLIT")}
    blocks = {"SPLIT_K": 4, "BLOCK": 256}
    signature = {"partial_ptr": "*fp32", "y_ptr": "*bf16", "size": "i32"} | dict.fromkeys(blocks, "constexpr")
    one = {"name": "splits", "kernel": add_splits_kernel, "signature": signature, "constexprs": blocks}
    yield one | {"options": {"num_warps": 4}, "divisible": ("size",), "gates": {"matrix": None}}
