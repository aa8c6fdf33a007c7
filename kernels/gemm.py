# SPDX-License-Identifier: MIT
"""GEMM for prefill: y (B, M, N) = x (B, M, K) @ w (1 or B, N, K).T; f32, f16 or bf16, f32 sums.

All row-major, so both operands run along K. One w for the whole batch (then B * M are the rows of one
product) or one each. f32 products are true f32, never tf32.

Standalone: torch and Triton. Launch: ``y = gemm(x, w)``.
Compute-bound: 2 B M N K operations. Grid: one program per tile of BLOCK_M x BLOCK_N outputs, taken in
groups of GROUP_M rows of tiles, so that what runs together shares x and w in L2. Tiles of x and w come by
TMA where the chip has it (sm_90 and later, K a multiple of 16, 16-byte aligned, one w), by cp.async or
plain 16-byte loads elsewhere; matrix instructions add them up in f32.
Longest chain of additions: K. A matrix unit may add in any order within an instruction.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))  # it can neither round to bf16 nor multiply it


@triton.jit
def _tile(pid, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP_M: tl.constexpr):
    """Tiles in groups of GROUP_M rows, down the rows of a group first."""
    tiles_m, tiles_n = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    first = pid // (GROUP_M * tiles_n) * GROUP_M
    rows = min(tiles_m - first, GROUP_M)
    place = pid % (GROUP_M * tiles_n)
    return (first + place % rows) * BLOCK_M, place // rows * BLOCK_N


@triton.jit
def _dot(x, w, acc):
    if INTERPRETED:
        x, w = x.to(tl.float32), w.to(tl.float32)
    return tl.dot(x, tl.trans(w), acc, input_precision="ieee")


@triton.jit
def _store(y_ptr, acc, row, column, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    rows, columns = row + tl.arange(0, BLOCK_M), column + tl.arange(0, BLOCK_N)
    inside = (rows < M)[:, None] & (columns < N)[None, :]
    at = rows.to(tl.int64)[:, None] * N + columns[None, :]
    y = acc.to(y_ptr.dtype.element_ty)
    if INTERPRETED and y.dtype == tl.bfloat16:  # it truncates; nearest even here, as hardware does
        bits = acc.to(tl.uint32, bitcast=True)
        bits = tl.where(acc == acc, (bits + 0x7FFF + (bits >> 16 & 1)) >> 16, 0x7FC0)
        y = bits.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    tl.store(y_ptr + at, y, mask=inside)


@triton.jit
def gemm_kernel(
    x_ptr,  # (B, M, K)
    w_ptr,  # (B, N, K)
    y_ptr,  # (B, M, N)
    M,
    N,
    K,
    EVEN_K: tl.constexpr,  # K is a multiple of BLOCK_K
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    tiles = tl.cdiv(M, BLOCK_M) * tl.cdiv(N, BLOCK_N)
    batch = (tl.program_id(0) // tiles).to(tl.int64)
    row, column = _tile(tl.program_id(0) % tiles, M, N, BLOCK_M, BLOCK_N, GROUP_M)
    # Rows past the end read the last one again and are not stored: no mask in the loop.
    rows = tl.minimum(row + tl.arange(0, BLOCK_M), M - 1).to(tl.int64) + batch * M
    columns = tl.minimum(column + tl.arange(0, BLOCK_N), N - 1).to(tl.int64) + batch * N
    offs_k = tl.arange(0, BLOCK_K)
    x_ptrs = x_ptr + rows[:, None] * K + offs_k[None, :]
    w_ptrs = w_ptr + columns[:, None] * K + offs_k[None, :]
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, K, BLOCK_K):
        if EVEN_K:
            x, w = tl.load(x_ptrs), tl.load(w_ptrs)
        else:
            inside = (k + offs_k < K)[None, :]
            x, w = tl.load(x_ptrs, mask=inside, other=0), tl.load(w_ptrs, mask=inside, other=0)
        acc = _dot(x, w, acc)
        x_ptrs += BLOCK_K
        w_ptrs += BLOCK_K
    _store(y_ptr + batch * M * N, acc, row, column, M, N, BLOCK_M, BLOCK_N)


@triton.jit
def gemm_tma_kernel(
    x_desc,  # (M, K)
    w_desc,  # (N, K)
    y_ptr,  # (M, N)
    M,
    N,
    K,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    """The same for one w; what lies outside of x and w is read as 0."""
    row, column = _tile(tl.program_id(0), M, N, BLOCK_M, BLOCK_N, GROUP_M)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, K, BLOCK_K):
        acc = _dot(x_desc.load([row, k]), w_desc.load([column, k]), acc)
    _store(y_ptr, acc, row, column, M, N, BLOCK_M, BLOCK_N)


class Config(NamedTuple):
    """A tile, its pipeline, and the part of the chip's peak that a full wave of such tiles can reach."""

    BLOCK_M: int
    BLOCK_N: int
    BLOCK_K: int
    num_warps: int
    num_stages: int
    weight: float = 1.0
    GROUP_M: int = 8


# By chip and bytes of an element. BLOCK_K of 128 bytes is one line of TMA's swizzle; stages fill shared memory
# (mma.sync holds one buffer less than stages, AMD's pipeline one in all).
_SM80 = (
    Config(128, 256, 64, 8, 4),
    Config(128, 128, 64, 4, 4, 0.9),
    Config(128, 64, 64, 4, 4, 0.7),
    Config(64, 64, 64, 4, 4, 0.5),
)
_SM90 = (
    Config(128, 256, 64, 8, 4),
    Config(128, 128, 64, 8, 5, 0.85),
    Config(128, 64, 64, 4, 6, 0.65),
    Config(64, 64, 64, 4, 6, 0.45),
)
_SM100 = (
    Config(128, 256, 64, 4, 4),
    Config(128, 128, 64, 4, 5, 0.8),
    Config(128, 64, 64, 4, 6, 0.55),
    Config(64, 64, 64, 4, 6, 0.4),
)
_SM120 = (
    Config(128, 128, 64, 8, 4),
    Config(128, 64, 64, 4, 4, 0.85),
    Config(64, 64, 64, 4, 4, 0.7),
)
_CDNA = (
    Config(256, 128, 64, 8, 2),
    Config(128, 128, 64, 4, 2, 0.9),
    Config(64, 64, 64, 4, 2, 0.5),
)
_RDNA = (
    Config(128, 128, 32, 8, 2),
    Config(64, 64, 32, 4, 2, 0.8),
)
# True f32 products: multiply-adds of NVIDIA's and RDNA's lanes, f32 matrix instructions on CDNA.
_LANES = (
    Config(128, 128, 16, 8, 3),
    Config(64, 64, 16, 8, 3, 0.7),
)
CONFIGS: dict[tuple[str, int], tuple[Config, ...]] = {
    ("sm_80", 2): _SM80,
    ("sm_90", 2): _SM90,
    ("sm_100", 2): _SM100,
    ("sm_110", 2): _SM100,
    ("sm_120", 2): _SM120,
    ("sm_121", 2): _SM120,
    ("gfx942", 2): _CDNA,
    ("gfx1151", 2): _RDNA,
    ("gfx942", 4): (Config(128, 128, 32, 4, 2), Config(64, 64, 32, 4, 2, 0.6)),
    ("gfx1151", 4): (Config(128, 64, 16, 8, 2), Config(64, 64, 16, 4, 2, 0.8)),
}
SMS = {"sm_80": 108, "sm_90": 132, "sm_100": 148, "sm_110": 20, "sm_120": 170, "sm_121": 48, "gfx942": 304}
HAS_TMA = ("sm_90", "sm_100", "sm_103", "sm_110", "sm_120", "sm_121")
# bf16's matrix instructions of each chip, as its disassembly has them; gates of `specimens`.
_MATRIX = {"sm_80": "HMMA", "sm_90": "HGMMA", "sm_100": "UTCHMMA", "sm_110": "UTCHMMA", "sm_120": "HMMA"}
_MATRIX |= {"sm_121": "HMMA", "gfx942": "v_mfma", "gfx1151": "v_wmma"}
_KNOWN = (torch.float32, torch.float16, torch.bfloat16)


def configs(M: int, N: int, K: int, itemsize: int = 2, chip: str = "sm_80") -> tuple[Config, ...]:
    """What a sweep may try, best guess for a large problem first."""
    if (chip, itemsize) in CONFIGS:
        return CONFIGS[chip, itemsize]
    if itemsize == 4:
        return CONFIGS["gfx1151", 4] if chip.startswith("gfx") else _LANES
    return _RDNA if chip.startswith("gfx") else _SM120  # both fit any chip's shared memory


def pick_config(M: int, N: int, K: int, itemsize: int = 2, chip: str = "sm_80", B: int = 1) -> Config:
    """The tile that takes least time: whole waves of tiles, each as long as its size over its weight."""

    def time(c: Config) -> float:
        tiles = B * -(-M // c.BLOCK_M) * -(-N // c.BLOCK_N)
        return -(-tiles // SMS.get(chip, 64)) * c.BLOCK_M * c.BLOCK_N / c.weight

    return min(configs(M, N, K, itemsize, chip), key=time)


def chain(M: int, N: int, K: int) -> int:
    """Longest chain of additions between the first product and the result."""
    return max(K, 1)


def path(x: torch.Tensor, w: torch.Tensor, y: torch.Tensor | None = None) -> str:
    """``vector``: 16-byte loads; ``unaligned``: a K or a pointer that is no multiple of 16 takes narrow ones."""
    return "vector" if x.shape[-1] % 16 == 0 and (x.data_ptr() | w.data_ptr()) % 16 == 0 else "unaligned"


def specimens(chip: str) -> Iterator[dict[str, Any]]:
    """What is launched for typical sizes, as tests/triton_kernels/codegen.py compiles it."""
    sizes = dict.fromkeys(("M", "N", "K"), "i32")
    for dtype, itemsize in (("bf16", 2), ("fp16", 2), ("fp32", 4)):
        matrix = _MATRIX[chip] if itemsize == 2 or chip == "gfx942" else ""
        for c in dict.fromkeys(pick_config(M, N, 4096, itemsize, chip) for M, N in ((512, 1024), (4096, 8192))):
            tile = {"BLOCK_M": c.BLOCK_M, "BLOCK_N": c.BLOCK_N, "BLOCK_K": c.BLOCK_K, "GROUP_M": c.GROUP_M}
            common = {
                "options": {"num_warps": c.num_warps, "num_stages": c.num_stages},
                "divisible": tuple(sizes),
                "gates": {"matrix": matrix},
            }
            name = f"{dtype}-{c.BLOCK_M}x{c.BLOCK_N}x{c.BLOCK_K}"
            yield {
                "name": name,
                "kernel": gemm_kernel,
                "signature": dict.fromkeys(("x_ptr", "w_ptr", "y_ptr"), f"*{dtype}") | sizes,
                "constexprs": {"EVEN_K": True, **tile},
                **common,
            }
            if chip in HAS_TMA and itemsize == 2:
                x, w = (
                    f"tensordesc<{dtype}[{c.BLOCK_M}, {c.BLOCK_K}]>",
                    f"tensordesc<{dtype}[{c.BLOCK_N}, {c.BLOCK_K}]>",
                )
                yield {
                    "name": f"{name}-tma",
                    "kernel": gemm_tma_kernel,
                    "signature": {"x_desc": x, "w_desc": w, "y_ptr": f"*{dtype}", **sizes},
                    "constexprs": tile,
                    **common,
                    "gates": {"matrix": matrix, "present": ("UTMALDG",), "absent": ("LDGSTS",)},
                }


def _chip(device: torch.device) -> str:
    if device.type != "cuda":
        return "interpreter"
    if torch.version.hip:
        return str(torch.cuda.get_device_properties(device).gcnArchName).split(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def _check(name: str, a: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...], device: torch.device) -> None:
    if a.device != device:
        raise ValueError(f"{name} is on {a.device}, x on {device}")
    if a.dtype != dtype:
        raise ValueError(f"{name} has dtype {a.dtype}; it needs {dtype}")
    if tuple(a.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(a.shape)}; it needs {shape}")
    if not a.is_contiguous():
        raise ValueError(f"{name} is not contiguous: its strides are {a.stride()}")


def gemm(
    x: torch.Tensor,  # (B, M, K)
    w: torch.Tensor,  # (1 or B, N, K)
    y: torch.Tensor | None = None,  # (B, M, N)
    *,
    config: Config | None = None,
    check: bool = False,
) -> torch.Tensor:
    """y = x @ w.T; f32, f16 or bf16, all of one type.

    Args:
        config: a tile instead of `pick_config`'s.
        check: nothing to check beyond shapes; here for the sake of one signature for all.

    Raises:
        ValueError: an argument is on another device, of another type or shape, or not contiguous.
    """
    if x.device.type != "cuda" and not INTERPRETED.value:
        raise ValueError(f"x is on {x.device}; it needs a GPU")
    for name, a in (("x", x), ("w", w)):
        if a.ndim != 3:
            raise ValueError(f"{name} has shape {tuple(a.shape)}; it needs 3 axes")
    (B, M, K), N = x.shape, w.shape[1]
    if x.dtype not in _KNOWN:
        raise ValueError(f"x has dtype {x.dtype}; it needs float32, float16 or bfloat16")
    if w.shape[0] not in (1, B):
        raise ValueError(f"w has a batch of {w.shape[0]}; it must be 1 or x's batch of {B}")
    if y is None:
        y = torch.empty((B, M, N), dtype=x.dtype, device=x.device)
    _check("x", x, x.dtype, (B, M, K), x.device)
    _check("w", w, x.dtype, (w.shape[0], N, K), x.device)
    _check("y", y, x.dtype, (B, M, N), x.device)
    if y.numel() == 0 or K == 0:
        return y.zero_()
    if w.shape[0] == 1:
        B, M = 1, B * M
    chip = _chip(x.device)
    c = config or pick_config(M, N, K, x.element_size(), chip, B)
    tile = {"BLOCK_M": c.BLOCK_M, "BLOCK_N": c.BLOCK_N, "BLOCK_K": c.BLOCK_K, "GROUP_M": c.GROUP_M}
    grid = (B * math.ceil(M / c.BLOCK_M) * math.ceil(N / c.BLOCK_N),)
    options = {"num_warps": c.num_warps, "num_stages": c.num_stages}
    if (chip in HAS_TMA or INTERPRETED.value) and B == 1 and x.element_size() == 2 and path(x, w) == "vector":
        x_desc = TensorDescriptor.from_tensor(x.view(M, K), [c.BLOCK_M, c.BLOCK_K])
        w_desc = TensorDescriptor.from_tensor(w.view(N, K), [c.BLOCK_N, c.BLOCK_K])
        gemm_tma_kernel[grid](x_desc, w_desc, y, M, N, K, **tile, **options)
    else:
        gemm_kernel[grid](x, w, y, M, N, K, EVEN_K=K % c.BLOCK_K == 0, **tile, **options)
    return y
