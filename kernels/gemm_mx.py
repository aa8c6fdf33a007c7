# SPDX-License-Identifier: MIT
"""GEMM for prefill with microscaled weights: y (B, M, N) = x (B, M, K) @ (scale * code) (1 or B, N, K).T.

Codes packed from the lowest bits of each word up (MLX's packing); y bf16; f32 sums.
  mxfp8  w (1 or B, N, K / 4) e4m3,  w_scales (1 or B, N, K / 32) e8m0
  mxfp4  w (1 or B, N, K / 8) e2m1,  w_scales (1 or B, N, K / 32) e8m0
  nvfp4  w (1 or B, N, K / 8) e2m1,  w_scales (1 or B, N, K / 16) e4m3,  w_tensor_scale (1 or B,) f32
x (B, M, K) bf16; as W8A8 and W4A4 it is stored like w, with x_scales and x_tensor_scale (B,).

Standalone: torch and Triton. Launch: ``y = gemm_mx(x, w, w_scales)``, with x_scales=... for quantised x.
Compute-bound: 2 B M N K operations.
`gemm_mx_kernel`: a tile of outputs per program; decodes w (and quantised x) to bf16, which holds code * scale
exactly, and multiplies with bf16's matrix instructions. Only mxfp8 has smaller values than bf16, under scales
of 2^-125 and less: `grouped_kernel`, which scales each group's product in f32, then redoes rows of w with such a
scale, and all of a product of mxfp8 with mxfp8.
Quantised x on chips whose matrix instructions take the scales (sm_100, 103, 120, 121): see gemm_mx_scaled.py.
Longest chain of additions: K + 4, tensor scales included.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))  # it can neither round to bf16 nor multiply it
LEAST_SCALE = tl.constexpr(3)  # e8m0 of 2^-124: times e4m3's 2^-9 it is bf16's smallest number


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
def _dot(w, x, acc):
    if INTERPRETED:  # its own conversion loses subnormal numbers
        w = (w.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
        x = (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    return tl.dot(w, tl.trans(x), acc)


@triton.jit
def _tile(pid, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP_M: tl.constexpr):
    """Tiles in groups of GROUP_M rows, down the rows of a group first."""
    tiles_m, tiles_n = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    first = pid // (GROUP_M * tiles_n) * GROUP_M
    rows = min(tiles_m - first, GROUP_M)
    place = pid % (GROUP_M * tiles_n)
    return (first + place % rows) * BLOCK_M, place // rows * BLOCK_N


@triton.jit
def _code(words, i: tl.constexpr, BITS: tl.constexpr):
    """Code i of each word in f32: its bits are those of a float of a smaller exponent, subnormal ones too."""
    top = words << (32 - BITS - BITS * i)  # the code's sign where a float has it
    if BITS == 4:
        value = ((top & -0x80000000) | (top >> 6 & 0x01C00000)).to(tl.float32, bitcast=True) * 2.0**126
    else:
        magnitude = top >> 4 & 0x07F00000
        value = ((top & -0x80000000) | magnitude).to(tl.float32, bitcast=True) * 2.0**120
        value = tl.where(magnitude == 0x07F00000, float("nan"), value)
    return value


@triton.jit
def _codes(words, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BITS: tl.constexpr):
    """All codes in order. Joins keep those of a word in one lane, so that it writes 16 bytes of them at a time."""
    if BITS == 4:
        even = tl.join(tl.join(_code(words, 0, 4), _code(words, 4, 4)), tl.join(_code(words, 2, 4), _code(words, 6, 4)))
        odd = tl.join(tl.join(_code(words, 1, 4), _code(words, 5, 4)), tl.join(_code(words, 3, 4), _code(words, 7, 4)))
    else:
        even = tl.join(_code(words, 0, 8), _code(words, 2, 8))
        odd = tl.join(_code(words, 1, 8), _code(words, 3, 8))
    return tl.reshape(tl.join(even, odd), (ROWS, COLUMNS))


@triton.jit
def _e8m0(exponent):
    """2^(exponent - 127); 0 is a subnormal float, 255 is NaN."""
    bits = tl.where(exponent == 0, 0x00400000, exponent << 23)
    return tl.where(exponent == 255, 0x7FC00000, bits).to(tl.float32, bitcast=True)


@triton.jit
def _decode(words, scales, ROWS: tl.constexpr, BLOCK_K: tl.constexpr, BITS: tl.constexpr, GROUP: tl.constexpr):
    """(ROWS, BLOCK_K) bf16, exact but for the smallest of mxfp8."""
    codes = tl.reshape(_codes(words, ROWS, BLOCK_K, BITS), (ROWS, BLOCK_K // GROUP, GROUP))
    scale = _code(scales.to(tl.int32), 0, 8) if GROUP == 16 else _e8m0(scales.to(tl.int32))
    return _bf16(tl.reshape(codes * scale[:, :, None], (ROWS, BLOCK_K)))


@triton.jit
def _store(y_ptr, acc, row, column, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """acc is y.T."""
    rows, columns = row + tl.arange(0, BLOCK_M), column + tl.arange(0, BLOCK_N)
    at = rows.to(tl.int64)[:, None] * N + columns[None, :]
    tl.store(y_ptr + at, tl.trans(_bf16(acc)), mask=(rows < M)[:, None] & (columns < N)[None, :])


@triton.jit
def gemm_mx_kernel(
    x_ptr,  # (B, M, K) bf16, or words like w
    x_scales_ptr,
    x_tensor_scale_ptr,
    w_ptr,  # (1 or B, N, K * BITS / 32) words
    w_scales_ptr,  # (1 or B, N, K / GROUP)
    w_tensor_scale_ptr,
    y_ptr,  # (B, M, N)
    M,
    N,
    groups,  # K / GROUP
    W_SHARED: tl.constexpr,  # one w for the whole batch
    X_CODES: tl.constexpr,  # x is stored like w
    EVEN_K: tl.constexpr,  # K is a multiple of BLOCK_K
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    WORDS: tl.constexpr = BLOCK_K * BITS // 32
    STEP: tl.constexpr = BLOCK_K // GROUP
    tiles = tl.cdiv(M, BLOCK_M) * tl.cdiv(N, BLOCK_N)
    batch = (tl.program_id(0) // tiles).to(tl.int64)
    matrix = batch * 0 if W_SHARED else batch
    row, column = _tile(tl.program_id(0) % tiles, M, N, BLOCK_M, BLOCK_N, GROUP_M)
    # Rows past the end read the last one again and are not stored: no mask in the loop.
    rows = tl.minimum(row + tl.arange(0, BLOCK_M), M - 1).to(tl.int64) + batch * M
    columns = tl.minimum(column + tl.arange(0, BLOCK_N), N - 1).to(tl.int64) + matrix * N
    # Strides made here out of groups show the compiler that 16-byte loads are aligned.
    offs_k, offs_w, offs_g = tl.arange(0, BLOCK_K), tl.arange(0, WORDS), tl.arange(0, STEP)
    row_words = groups * (GROUP * BITS // 32)
    w_ptrs = w_ptr + columns[:, None] * row_words + offs_w[None, :]
    ws_ptrs = w_scales_ptr + columns[:, None] * groups + offs_g[None, :]
    xs_ptrs = x_scales_ptr + rows[:, None] * groups + offs_g[None, :]
    if X_CODES:
        x_ptrs = x_ptr + rows[:, None] * row_words + offs_w[None, :]
    else:
        x_ptrs = x_ptr + rows[:, None] * (groups * GROUP) + offs_k[None, :]
    acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)  # y.T: w is what matrix instructions may take from registers
    following = tl.load(ws_ptrs, mask=(offs_g < groups)[None, :], other=0)
    for g in range(0, groups, STEP):
        w_scales = following
        ws_ptrs += STEP  # a step ahead: nobody waits for scales
        following = tl.load(ws_ptrs, mask=(g + STEP + offs_g < groups)[None, :], other=0)
        if EVEN_K:
            words, x = tl.load(w_ptrs), tl.load(x_ptrs)
        else:
            inside = (g * (GROUP * BITS // 32) + offs_w < row_words)[None, :]
            words = tl.load(w_ptrs, mask=inside, other=0)
            if not X_CODES:
                inside = (g * GROUP + offs_k < groups * GROUP)[None, :]
            x = tl.load(x_ptrs, mask=inside, other=0)
        if X_CODES:
            x_scales = tl.load(xs_ptrs, mask=(g + offs_g < groups)[None, :], other=0)
            x = _decode(x, x_scales, BLOCK_M, BLOCK_K, BITS, GROUP)
            xs_ptrs += STEP
            x_ptrs += WORDS
        else:
            x_ptrs += BLOCK_K
        acc = _dot(_decode(words, w_scales, BLOCK_N, BLOCK_K, BITS, GROUP), x, acc)
        w_ptrs += WORDS
    if GROUP == 16:
        acc *= tl.load(w_tensor_scale_ptr + matrix)
        if X_CODES:
            acc *= tl.load(x_tensor_scale_ptr + batch)
    _store(y_ptr + batch * M * N, acc, row, column, M, N, BLOCK_M, BLOCK_N)


@triton.jit
def grouped_kernel(
    x_ptr,  # (B, M, groups * 32) bf16, or words like w
    x_scales_ptr,
    w_ptr,  # (1 or B, N, groups * 8) words of mxfp8
    w_scales_ptr,  # (1 or B, N, groups)
    y_ptr,  # (B, M, N)
    M,
    N,
    groups,
    W_SHARED: tl.constexpr,
    X_CODES: tl.constexpr,  # x is stored like w: every tile counts
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """mxfp8 with scales in f32. Program: BLOCK_N rows of w, and all of x if it is bf16 and a scale is that small."""
    tiles_n = tl.cdiv(N, BLOCK_N)
    batch = (tl.program_id(0) // tiles_n).to(tl.int64)
    matrix = batch * 0 if W_SHARED else batch
    column = tl.program_id(0) % tiles_n * BLOCK_N
    columns = tl.minimum(column + tl.arange(0, BLOCK_N), N - 1).to(tl.int64) + matrix * N
    w_ptrs = w_ptr + columns[:, None] * (groups * 8) + tl.arange(0, 8)[None, :]
    ws_ptrs = w_scales_ptr + columns * groups
    first, end = tl.program_id(1) * BLOCK_M, tl.program_id(1) * BLOCK_M + 1
    if not X_CODES:
        SCAN: tl.constexpr = 128
        least = tl.full((BLOCK_N, SCAN), 255, tl.int32)
        offs = tl.arange(0, SCAN)[None, :]
        for g in range(0, groups, SCAN):
            scales = tl.load(ws_ptrs[:, None] + g + offs, mask=g + offs < groups, other=255)
            least = tl.minimum(least, scales.to(tl.int32))
        first = 0
        end = tl.where(tl.min(tl.min(least, 1), 0) < LEAST_SCALE, M, 0)
    for row in range(first, end, BLOCK_M):
        rows = tl.minimum(row + tl.arange(0, BLOCK_M), M - 1).to(tl.int64) + batch * M
        acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
        for g in range(groups):
            w = _bf16(_codes(tl.load(w_ptrs + g * 8), BLOCK_N, 32, 8))
            w_scale = tl.load(ws_ptrs + g).to(tl.int32)[:, None]
            if X_CODES:
                x_ptrs = x_ptr + rows[:, None] * (groups * 8) + g * 8 + tl.arange(0, 8)[None, :]
                x = _bf16(_codes(tl.load(x_ptrs), BLOCK_M, 32, 8))
                x_scale = tl.load(x_scales_ptr + rows * groups + g).to(tl.int32)[None, :]
            else:
                x = tl.load(x_ptr + rows[:, None] * (groups * 32) + g * 32 + tl.arange(0, 32)[None, :])
                x_scale = tl.full((1, BLOCK_M), 127, tl.int32)
            part = _dot(w, x, tl.zeros((BLOCK_N, BLOCK_M), tl.float32))
            # Two factors of about the same size: neither overflows or underflows unless the result does.
            both = w_scale + x_scale
            half = both >> 1
            part *= (half << 23).to(tl.float32, bitcast=True)
            part *= (both - half << 23).to(tl.float32, bitcast=True)
            acc += part + (tl.where(w_scale == 255, float("nan"), 0.0) + tl.where(x_scale == 255, float("nan"), 0.0))
        _store(y_ptr + batch * M * N, acc, row, column, M, N, BLOCK_M, BLOCK_N)


class Config(NamedTuple):
    """A tile, its pipeline, and the part of the chip's peak that a full wave of such tiles can reach."""

    BLOCK_M: int
    BLOCK_N: int
    BLOCK_K: int
    num_warps: int
    num_stages: int
    weight: float = 1.0
    GROUP_M: int = 8


# Many rows of x per tile pay for the decoding of w.
_SM90 = (Config(256, 128, 64, 8, 3), Config(128, 128, 64, 8, 4, 0.85), Config(64, 64, 64, 4, 4, 0.4))
_SM120 = (Config(128, 128, 64, 8, 3), Config(64, 64, 64, 4, 4, 0.7))
CONFIGS: dict[str, tuple[Config, ...]] = {
    "sm_80": (Config(128, 128, 64, 8, 4), Config(64, 64, 64, 4, 4, 0.6)),
    "sm_90": _SM90,
    "sm_100": _SM90,
    "sm_110": _SM90,
    "sm_120": _SM120,
    "sm_121": _SM120,
    "gfx942": (Config(128, 128, 64, 8, 2), Config(64, 64, 64, 4, 2, 0.6)),
    "gfx1151": (Config(64, 64, 64, 4, 2),),
}
_GROUPED = {"BLOCK_M": 64, "BLOCK_N": 64}
_GROUPED_OPTIONS = {"num_warps": 8, "num_stages": 2}
SMS = {"sm_80": 108, "sm_90": 132, "sm_100": 148, "sm_103": 148, "sm_110": 20, "sm_120": 170, "sm_121": 48}
SMS |= {"gfx942": 304}
# bf16's matrix instructions of each chip, as its disassembly has them; gates of `specimens`.
_MATRIX = {"sm_80": "HMMA", "sm_90": "HGMMA", "sm_100": "UTCHMMA", "sm_110": "UTCHMMA", "sm_120": "HMMA"}
_MATRIX |= {"sm_121": "HMMA", "gfx942": "v_mfma", "gfx1151": "v_wmma"}


def configs(M: int, N: int, K: int, chip: str = "sm_80", x_codes: bool = False) -> tuple[Config, ...]:
    """What a sweep may try, best guess for a large problem first."""
    found = CONFIGS.get(chip, CONFIGS["gfx1151" if chip.startswith("gfx") else "sm_120"])  # these fit any chip
    return found[-1:] if x_codes else found  # decoding both takes many registers


def pick_config(M: int, N: int, K: int, chip: str = "sm_80", B: int = 1, x_codes: bool = False) -> Config:
    """The tile that takes least time: whole waves of tiles, each as long as its size over its weight."""

    def time(c: Config) -> float:
        tiles = B * -(-M // c.BLOCK_M) * -(-N // c.BLOCK_N)
        return -(-tiles // SMS.get(chip, 64)) * c.BLOCK_M * c.BLOCK_N / c.weight

    return min(configs(M, N, K, chip, x_codes), key=time)


def chain(M: int, N: int, K: int) -> int:
    """Longest chain of additions between the first product and the result."""
    return K + 4


def path(x: torch.Tensor, w: torch.Tensor, *others: Any, **more: Any) -> str:
    """``vector``: 16-byte loads of x and w; ``unaligned``: a pointer that is no multiple of 16 takes narrow ones."""
    return "vector" if (x.data_ptr() | w.data_ptr()) % 16 == 0 else "unaligned"


def specimens(chip: str) -> Iterator[dict[str, Any]]:
    """What is launched for typical sizes, as tests/triton_kernels/codegen.py compiles it."""
    sizes = dict.fromkeys(("M", "N", "groups"), "i32")
    for name, bits, group, x_codes in (
        ("mxfp8", 8, 32, False),
        ("mxfp8-a8", 8, 32, True),
        ("mxfp4", 4, 32, False),
        ("nvfp4", 4, 16, False),
        ("nvfp4-a4", 4, 16, True),
    ):
        grouped = bits == 8 and x_codes
        signature = {"x_ptr": "*i32" if x_codes else "*bf16", "w_ptr": "*i32", "y_ptr": "*bf16"}
        signature |= {"x_scales_ptr": "*u8", "w_scales_ptr": "*u8"} | sizes
        constants: dict[str, Any] = {"W_SHARED": True, "X_CODES": x_codes}
        if grouped:
            constants, options = constants | _GROUPED, _GROUPED_OPTIONS
        else:
            c = pick_config(4096, 8192, 4096, chip, 1, x_codes)
            signature |= dict.fromkeys(("x_tensor_scale_ptr", "w_tensor_scale_ptr"), "*fp32")
            constants |= {"EVEN_K": True, "BITS": bits, "GROUP": group, "BLOCK_M": c.BLOCK_M, "BLOCK_N": c.BLOCK_N}
            constants |= {"BLOCK_K": c.BLOCK_K, "GROUP_M": c.GROUP_M}
            options = {"num_warps": c.num_warps, "num_stages": c.num_stages}
        # Where both operands are codes, few tiles have 16 bytes of each for a lane. AMD has no asynchronous loads here.
        gates: dict[str, Any] = {"matrix": _MATRIX[chip]}
        if chip.startswith("sm"):
            gates["async_loads"] = 64 if grouped else 128
        elif not grouped:
            gates["weights"] = 64 if x_codes else 128
        yield {
            "name": name,
            "kernel": grouped_kernel if grouped else gemm_mx_kernel,
            "signature": signature,
            "constexprs": constants,
            "options": options,
            "divisible": tuple(sizes),
            "gates": gates,
        }


def _chip(device: torch.device) -> str:
    if device.type != "cuda":
        return "interpreter"
    if torch.version.hip:
        return str(torch.cuda.get_device_properties(device).gcnArchName).split(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


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


def gemm_mx(
    x: torch.Tensor,  # (B, M, K), or words like w
    w: torch.Tensor,  # (1 or B, N, K / 4 or K / 8)
    w_scales: torch.Tensor,  # (1 or B, N, K / 32 or K / 16)
    w_tensor_scale: torch.Tensor | None = None,  # (1 or B,): nvfp4
    y: torch.Tensor | None = None,  # (B, M, N)
    *,
    x_scales: torch.Tensor | None = None,  # (B, M, K / 32 or K / 16)
    x_tensor_scale: torch.Tensor | None = None,  # (B,)
    config: Config | None = None,
    check: bool = False,
) -> torch.Tensor:
    """y = x @ (scale * code).T; x and y bf16, words int32 or uint32, scales uint8.

    Args:
        config: a tile instead of `pick_config`'s.
        check: nothing to check beyond shapes; here for the sake of one signature for all.

    Raises:
        ValueError: an argument is missing, on another device, of another type or shape, or not contiguous.
    """
    if x.device.type != "cuda" and not INTERPRETED.value:
        raise ValueError(f"x is on {x.device}; it needs a GPU")
    for name, a in (("x", x), ("w", w), ("w_scales", w_scales)):
        if a.ndim != 3:
            raise ValueError(f"{name} has shape {tuple(a.shape)}; it needs 3 axes")
    (B, M, _), (batch, N, words) = x.shape, w.shape
    x_codes, group = x_scales is not None, 16 if w_tensor_scale is not None else 32
    K = w_scales.shape[2] * group if x_codes else x.shape[2]
    bits, groups = 4 if words * 8 == K else 8, K // group
    if K % group:
        raise ValueError(f"x has K = {K}; it must be a multiple of the group of {group}")
    if words * 32 != K * bits or (group == 16 and bits == 8):
        raise ValueError(f"w has shape {tuple(w.shape)}; K = {K} needs {K // 8} (4 bits) or {K // 4} (mxfp8) words")
    if batch not in (1, B):
        raise ValueError(f"w has a batch of {batch}; it must be 1 or x's batch of {B}")
    if y is None:
        y = torch.empty((B, M, N), dtype=torch.bfloat16, device=x.device)
    code, half, byte, single = (torch.uint32, torch.int32), (torch.bfloat16,), (torch.uint8,), (torch.float32,)
    _check("x", x, code if x_codes else half, (B, M, words if x_codes else K), x.device)
    _check("w", w, code, (batch, N, words), x.device)
    _check("w_scales", w_scales, byte, (batch, N, groups), x.device)
    if x_codes:
        _check("x_scales", x_scales, byte, (B, M, groups), x.device)
    if group == 16:
        _check("w_tensor_scale", w_tensor_scale, single, (batch,), x.device)
        if x_codes:
            _check("x_tensor_scale", x_tensor_scale, single, (B,), x.device)
    _check("y", y, half, (B, M, N), x.device)
    if y.numel() == 0 or K == 0:
        return y.zero_()
    shared = batch == 1
    if shared and x_tensor_scale is None:
        B, M = 1, B * M
    c = config or pick_config(M, N, K, _chip(x.device), B, x_codes)
    x, w = x.view(torch.int32) if x_codes else x, w.view(torch.int32)
    # What a format lacks is not read.
    xs, xt, wt = (w_scales if a is None else a for a in (x_scales, x_tensor_scale, w_tensor_scale))
    common = {"W_SHARED": shared, "X_CODES": x_codes}
    if bits == 4 or not x_codes:
        gemm_mx_kernel[(B * math.ceil(M / c.BLOCK_M) * math.ceil(N / c.BLOCK_N),)](
            x, xs, xt, w, w_scales, wt, y, M, N, groups, **common, EVEN_K=K % c.BLOCK_K == 0, BITS=bits, GROUP=group,
            BLOCK_M=c.BLOCK_M, BLOCK_N=c.BLOCK_N, BLOCK_K=c.BLOCK_K, GROUP_M=c.GROUP_M,
            num_warps=c.num_warps, num_stages=c.num_stages,
        )  # fmt: skip
    if bits == 8:
        rows = (B * math.ceil(N / _GROUPED["BLOCK_N"]), math.ceil(M / _GROUPED["BLOCK_M"]) if x_codes else 1)
        grouped_kernel[rows](x, xs, w, w_scales, y, M, N, groups, **common, **_GROUPED, **_GROUPED_OPTIONS)
    return y
