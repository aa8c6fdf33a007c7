# SPDX-License-Identifier: MIT
"""GEMM for prefill, weights and activations microscaled alike: y (B, M, N) = x (B, M, K) @ w (1 or B, N, K).T.

For chips whose matrix instructions take the scales: sm_100, sm_103, sm_120, and sm_121 from Triton 3.8 on. gemm_mx.py
serves all others.
Codes packed from the lowest bits of each word up (MLX's packing); y bf16; f32 sums.
  mxfp8  w (1 or B, N, K / 4) e4m3,  w_scales (1 or B, N, K / 32) e8m0
  mxfp4  w (1 or B, N, K / 8) e2m1,  w_scales (1 or B, N, K / 32) e8m0
  nvfp4  w (1 or B, N, K / 8) e2m1,  w_scales (1 or B, N, K / 16) e4m3,  w_tensor_scale (1 or B,) f32
x (B, M, ...), x_scales and x_tensor_scale (B,) are stored alike. One w for the whole batch or one each.

Standalone: torch and Triton. Launch: ``y = gemm_mx_scaled(x, w, w_scales, x_scales=...)``.
Compute-bound: 2 B M N K operations. Grid: one program per tile of BLOCK_M x BLOCK_N outputs; tl.dot_scaled hands
codes and scales to the matrix unit as they are stored. For other chips tl.dot_scaled would decode to bf16.
Longest chain of additions: K + 4, tensor scales included.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))  # it cannot round to bf16


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
def _tile(pid, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP_M: tl.constexpr):
    """Tiles in groups of GROUP_M rows, down the rows of a group first."""
    tiles_m, tiles_n = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    first = pid // (GROUP_M * tiles_n) * GROUP_M
    rows = min(tiles_m - first, GROUP_M)
    place = pid % (GROUP_M * tiles_n)
    return (first + place % rows) * BLOCK_M, place // rows * BLOCK_N


@triton.jit
def gemm_mx_scaled_kernel(
    x_ptr,  # (B, M, K * BITS / 8) bytes
    x_scales_ptr,  # (B, M, K / GROUP)
    x_tensor_scale_ptr,
    w_ptr,  # (1 or B, N, K * BITS / 8) bytes
    w_scales_ptr,  # (1 or B, N, K / GROUP)
    w_tensor_scale_ptr,
    y_ptr,  # (B, M, N)
    M,
    N,
    groups,  # K / GROUP
    W_SHARED: tl.constexpr,  # one w for the whole batch
    EVEN_K: tl.constexpr,  # K is a multiple of BLOCK_K
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    FORMAT: tl.constexpr = "e2m1" if BITS == 4 else "e4m3"
    BYTES: tl.constexpr = BLOCK_K * BITS // 8
    STEP: tl.constexpr = BLOCK_K // GROUP
    tiles = tl.cdiv(M, BLOCK_M) * tl.cdiv(N, BLOCK_N)
    batch = (tl.program_id(0) // tiles).to(tl.int64)
    matrix = batch * 0 if W_SHARED else batch
    row, column = _tile(tl.program_id(0) % tiles, M, N, BLOCK_M, BLOCK_N, GROUP_M)
    # Rows past the end read the last one again and are not stored: no mask in the loop.
    rows = tl.minimum(row + tl.arange(0, BLOCK_M), M - 1).to(tl.int64) + batch * M
    columns = tl.minimum(column + tl.arange(0, BLOCK_N), N - 1).to(tl.int64) + matrix * N
    # Strides made here out of groups show the compiler that 16-byte loads are aligned.
    offs_b, offs_g = tl.arange(0, BYTES), tl.arange(0, STEP)
    row_bytes = groups * (GROUP * BITS // 8)
    x_ptrs = x_ptr + rows[:, None] * row_bytes + offs_b[None, :]
    w_ptrs = w_ptr + columns[:, None] * row_bytes + offs_b[None, :]
    xs_ptrs = x_scales_ptr + rows[:, None] * groups + offs_g[None, :]
    ws_ptrs = w_scales_ptr + columns[:, None] * groups + offs_g[None, :]
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for g in range(0, groups, STEP):
        if EVEN_K:
            x, w, x_scales, w_scales = tl.load(x_ptrs), tl.load(w_ptrs), tl.load(xs_ptrs), tl.load(ws_ptrs)
        else:
            inside = (g * (GROUP * BITS // 8) + offs_b < row_bytes)[None, :]
            x, w = tl.load(x_ptrs, mask=inside, other=0), tl.load(w_ptrs, mask=inside, other=0)
            inside = (g + offs_g < groups)[None, :]
            x_scales, w_scales = tl.load(xs_ptrs, mask=inside, other=0), tl.load(ws_ptrs, mask=inside, other=0)
        if BITS == 8:
            x, w = x.to(tl.float8e4nv, bitcast=True), w.to(tl.float8e4nv, bitcast=True)
        if GROUP == 16:
            x_scales = x_scales.to(tl.float8e4nv, bitcast=True)
            w_scales = w_scales.to(tl.float8e4nv, bitcast=True)
        acc = tl.dot_scaled(x, x_scales, FORMAT, tl.trans(w), w_scales, FORMAT, acc)
        x_ptrs += BYTES
        w_ptrs += BYTES
        xs_ptrs += STEP
        ws_ptrs += STEP
    if GROUP == 16:
        acc *= tl.load(w_tensor_scale_ptr + matrix)
        acc *= tl.load(x_tensor_scale_ptr + batch)
    rows, columns = row + tl.arange(0, BLOCK_M), column + tl.arange(0, BLOCK_N)
    at = (batch * M + rows)[:, None] * N + columns[None, :]
    tl.store(y_ptr + at, _bf16(acc), mask=(rows < M)[:, None] & (columns < N)[None, :])


class Config(NamedTuple):
    """A tile, its pipeline, and the part of the chip's peak that a full wave of such tiles can reach."""

    BLOCK_M: int
    BLOCK_N: int
    BLOCK_K: int
    num_warps: int
    num_stages: int
    weight: float = 1.0
    GROUP_M: int = 8


# For 4-bit codes; 8-bit ones take half of BLOCK_K.
_SM100 = (Config(128, 256, 256, 8, 3), Config(128, 128, 256, 4, 4, 0.8), Config(128, 64, 256, 4, 4, 0.5))
_SM120 = (Config(128, 128, 256, 8, 3), Config(64, 64, 256, 8, 3, 0.6))
CONFIGS: dict[str, tuple[Config, ...]] = {"sm_100": _SM100, "sm_103": _SM100, "sm_120": _SM120, "sm_121": _SM120}
SMS = {"sm_100": 148, "sm_103": 148, "sm_120": 170, "sm_121": 48}
_TRITON = tuple(int(part) for part in triton.__version__.split(".")[:2])


def serves(chip: str) -> bool:
    """Whether matrix instructions of a chip take scales, and this Triton knows it: before 3.8 it decodes for sm_121."""
    return chip in CONFIGS and (chip != "sm_121" or _TRITON >= (3, 8))


def configs(M: int, N: int, K: int, bits: int = 4, chip: str = "sm_120") -> tuple[Config, ...]:
    """What a sweep may try, best guess for a large problem first."""
    return tuple(c._replace(BLOCK_K=c.BLOCK_K * 4 // bits) for c in CONFIGS.get(chip, _SM120))


def pick_config(M: int, N: int, K: int, bits: int = 4, chip: str = "sm_120", B: int = 1) -> Config:
    """The tile that takes least time: whole waves of tiles, each as long as its size over its weight."""

    def time(c: Config) -> float:
        tiles = B * -(-M // c.BLOCK_M) * -(-N // c.BLOCK_N)
        return -(-tiles // SMS.get(chip, 64)) * c.BLOCK_M * c.BLOCK_N / c.weight

    return min(configs(M, N, K, bits, chip), key=time)


def chain(M: int, N: int, K: int) -> int:
    """Longest chain of additions between the first product and the result."""
    return K + 4


def path(x: torch.Tensor, w: torch.Tensor, *others: Any, **more: Any) -> str:
    """``vector``: 16-byte loads of x and w; ``unaligned``: a pointer that is no multiple of 16 takes narrow ones."""
    return "vector" if (x.data_ptr() | w.data_ptr()) % 16 == 0 else "unaligned"


def specimens(chip: str) -> Iterator[dict[str, Any]]:
    """What is launched for typical sizes, as tests/triton_kernels/codegen.py compiles it."""
    if not serves(chip):
        return
    pointers = {"x_ptr": "*u8", "x_scales_ptr": "*u8", "x_tensor_scale_ptr": "*fp32", "w_ptr": "*u8"}
    pointers |= {"w_scales_ptr": "*u8", "w_tensor_scale_ptr": "*fp32", "y_ptr": "*bf16"}
    sizes = dict.fromkeys(("M", "N", "groups"), "i32")
    for name, bits, group, M, N in (
        ("mxfp8", 8, 32, 4096, 8192),
        ("mxfp4", 4, 32, 4096, 8192),
        ("nvfp4", 4, 16, 4096, 8192),
        ("nvfp4-few", 4, 16, 512, 1024),
    ):
        c = pick_config(M, N, 4096, bits, chip)
        constants = {"W_SHARED": True, "EVEN_K": True, "BITS": bits, "GROUP": group, "BLOCK_M": c.BLOCK_M}
        matrix = "OMMA" if bits == 4 else "QMMA"
        matrix = f"UTC{matrix}" if chip in ("sm_100", "sm_103") else rf"{matrix}\.SF"
        yield {
            "name": name,
            "kernel": gemm_mx_scaled_kernel,
            "signature": pointers | sizes,
            "constexprs": constants | {"BLOCK_N": c.BLOCK_N, "BLOCK_K": c.BLOCK_K, "GROUP_M": c.GROUP_M},
            "options": {"num_warps": c.num_warps, "num_stages": c.num_stages},
            "divisible": tuple(sizes),
            # Codes by 16 bytes, scales by as many as a row of the tile has; never bf16's instructions.
            "gates": {"matrix": matrix, "present": (r"LDGSTS\S*\.128",), "absent": (r"\bHMMA", "UTCHMMA")},
        }


def _chip(device: torch.device) -> str:
    if device.type != "cuda":
        return "interpreter"
    major, minor = torch.cuda.get_device_capability(device)
    return f"{'gfx' if torch.version.hip else 'sm_'}{major}{minor}"


def _check(name: str, a: Any, dtypes: tuple[Any, ...], shape: tuple[int, ...], device: torch.device) -> None:
    if a is None:
        raise ValueError(f"{name} is missing")
    if a.device != device:
        raise ValueError(f"{name} is on {a.device}, x on {device}")
    if a.dtype not in dtypes:
        raise ValueError(f"{name} has dtype {a.dtype}; it needs {dtypes[0]}")
    if tuple(a.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(a.shape)}; it needs {shape}")
    if not a.is_contiguous():
        raise ValueError(f"{name} is not contiguous: its strides are {a.stride()}")


def gemm_mx_scaled(
    x: torch.Tensor,  # (B, M, K / 4 or K / 8)
    w: torch.Tensor,  # (1 or B, N, K / 4 or K / 8)
    w_scales: torch.Tensor,  # (1 or B, N, K / 32 or K / 16)
    w_tensor_scale: torch.Tensor | None = None,  # (1 or B,): nvfp4
    y: torch.Tensor | None = None,  # (B, M, N)
    *,
    x_scales: torch.Tensor | None = None,  # (B, M, K / 32 or K / 16)
    x_tensor_scale: torch.Tensor | None = None,  # (B,): nvfp4
    config: Config | None = None,
    check: bool = False,
) -> torch.Tensor:
    """y = (x's scale * code) @ (w's scale * code).T; words int32 or uint32, scales uint8, y bf16.

    Args:
        config: a tile instead of `pick_config`'s.
        check: nothing to check beyond shapes; here for the sake of one signature for all.

    Raises:
        ValueError: the chip has no such instructions; an argument is missing, on another device, of another type or
            shape, or not contiguous.
    """
    chip = _chip(x.device)
    if not (serves(chip) or INTERPRETED.value):
        raise ValueError(f"x is on {x.device} ({chip}); it needs one of {', '.join(filter(serves, CONFIGS))}")
    for name, a in (("x", x), ("w", w), ("w_scales", w_scales)):
        if a.ndim != 3:
            raise ValueError(f"{name} has shape {tuple(a.shape)}; it needs 3 axes")
    (B, M, _), (batch, N, words), groups = x.shape, w.shape, w_scales.shape[2]
    group = 16 if w_tensor_scale is not None else 32
    K = groups * group
    bits = 4 if words * 8 == K else 8
    if words * 32 != K * bits or (group == 16 and bits == 8):
        raise ValueError(f"w has shape {tuple(w.shape)}; K = {K} needs {K // 8} (4 bits) or {K // 4} (mxfp8) words")
    if batch not in (1, B):
        raise ValueError(f"w has a batch of {batch}; it must be 1 or x's batch of {B}")
    if y is None:
        y = torch.empty((B, M, N), dtype=torch.bfloat16, device=x.device)
    code, byte, single = (torch.uint32, torch.int32), (torch.uint8,), (torch.float32,)
    _check("x", x, code, (B, M, words), x.device)
    _check("w", w, code, (batch, N, words), x.device)
    _check("w_scales", w_scales, byte, (batch, N, groups), x.device)
    _check("x_scales", x_scales, byte, (B, M, groups), x.device)
    if group == 16:
        _check("w_tensor_scale", w_tensor_scale, single, (batch,), x.device)
        _check("x_tensor_scale", x_tensor_scale, single, (B,), x.device)
    _check("y", y, (torch.bfloat16,), (B, M, N), x.device)
    if y.numel() == 0 or K == 0:
        return y.zero_()
    if batch == 1 and x_tensor_scale is None:
        B, M = 1, B * M
    c = config or pick_config(M, N, K, bits, chip, B)
    tiles = B * triton.cdiv(M, c.BLOCK_M) * triton.cdiv(N, c.BLOCK_N)
    # Tensor scales of mxfp8 and mxfp4 are not read.
    xt, wt = (w_scales if a is None else a for a in (x_tensor_scale, w_tensor_scale))
    gemm_mx_scaled_kernel[(tiles,)](
        x.view(torch.uint8), x_scales, xt, w.view(torch.uint8), w_scales, wt, y, M, N, groups,
        W_SHARED=batch == 1, EVEN_K=K % c.BLOCK_K == 0, BITS=bits, GROUP=group,
        BLOCK_M=c.BLOCK_M, BLOCK_N=c.BLOCK_N, BLOCK_K=c.BLOCK_K, GROUP_M=c.GROUP_M,
        num_warps=c.num_warps, num_stages=c.num_stages,
    )  # fmt: skip
    return y
