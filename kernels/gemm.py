# SPDX-License-Identifier: MIT
"""GEMM for prefill: y (B, M, N) = x (B, M, K) @ w (1 or B, N, K).T; f32, f16 or bf16, f32 sums.

All row-major, so both operands run along K. One w for the whole batch (then B * M are the rows of one
product) or one each. f32 products are true f32, or with precision="tf32" those of operands cut to 11 bits.

Standalone: torch and Triton. Launch: ``y = gemm(x, w)``.
Compute-bound: 2 B M N K operations. Tiles of BLOCK_M x BLOCK_N outputs, taken in groups of GROUP_M rows of
tiles, so that what runs together shares x and w in L2; matrix instructions add them up in f32.
`gemm_tma_kernel`, where the chip has TMA (sm_90 and later; one w, 16-byte aligned rows): x, w and y move
through shared memory by TMA. Persistent: one program per multiprocessor takes tile after tile, and loads for
the next one while it stores.
`gemm_kernel` elsewhere: one program per tile, cp.async or plain 16-byte loads. Where tiles are few and K is long,
SPLIT_K programs share a tile: partial sums go to a (SPLIT_K, B, M, N) f32 workspace, `add_splits_kernel` adds them
in order.
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
def _dot(x, w, acc, PRECISION: tl.constexpr):
    if INTERPRETED:
        x, w = x.to(tl.float32), w.to(tl.float32)
    return tl.dot(x, tl.trans(w), acc, input_precision=PRECISION)


@triton.jit
def _round(acc, dtype: tl.constexpr):
    """f32 to the nearest of a type."""
    y = acc.to(dtype)
    if INTERPRETED and dtype == tl.bfloat16:  # it truncates; nearest even here, as hardware does
        bits = acc.to(tl.uint32, bitcast=True)
        bits = tl.where(acc == acc, (bits + 0x7FFF + (bits >> 16 & 1)) >> 16, 0x7FC0)
        y = bits.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    return y


@triton.jit
def gemm_kernel(
    x_ptr,  # (B, M, K)
    w_ptr,  # (B, N, K)
    y_ptr,  # (SPLIT_K, B, M, N)
    B,
    M,
    N,
    K,
    K_SPLIT,  # products of a sum in one split, a multiple of BLOCK_K
    EVEN_K: tl.constexpr,  # K is a multiple of BLOCK_K
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    tiles = tl.cdiv(M, BLOCK_M) * tl.cdiv(N, BLOCK_N)
    batch = (tl.program_id(0) // tiles).to(tl.int64)
    row, column = _tile(tl.program_id(0) % tiles, M, N, BLOCK_M, BLOCK_N, GROUP_M)
    first = tl.program_id(1) * K_SPLIT
    end = min(K, first + K_SPLIT)
    # Rows past the end read the last one again and are not stored: no mask in the loop.
    rows = tl.minimum(row + tl.arange(0, BLOCK_M), M - 1).to(tl.int64) + batch * M
    columns = tl.minimum(column + tl.arange(0, BLOCK_N), N - 1).to(tl.int64) + batch * N
    offs_k = tl.arange(0, BLOCK_K)
    x_ptrs = x_ptr + first + rows[:, None] * K + offs_k[None, :]
    w_ptrs = w_ptr + first + columns[:, None] * K + offs_k[None, :]
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(first, end, BLOCK_K):
        if EVEN_K:
            x, w = tl.load(x_ptrs), tl.load(w_ptrs)
        else:
            inside = (k + offs_k < end)[None, :]
            x, w = tl.load(x_ptrs, mask=inside, other=0), tl.load(w_ptrs, mask=inside, other=0)
        acc = _dot(x, w, acc, PRECISION)
        x_ptrs += BLOCK_K
        w_ptrs += BLOCK_K
    rows, columns = row + tl.arange(0, BLOCK_M), column + tl.arange(0, BLOCK_N)
    at = ((tl.program_id(1) * B + batch) * M + rows)[:, None] * N + columns[None, :]
    tl.store(y_ptr + at, _round(acc, y_ptr.dtype.element_ty), mask=(rows < M)[:, None] & (columns < N)[None, :])


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
        y += tl.load(partial_ptr + split * tl.cast(size, tl.int64) + at, mask=at < size, other=0.0)
    tl.store(y_ptr + at, _round(y, y_ptr.dtype.element_ty), mask=at < size)


@triton.jit
def gemm_tma_kernel(
    x_desc,  # (M, K)
    w_desc,  # (N, K)
    y_desc,  # (M, N), by tiles of half a BLOCK_N
    M,
    N,
    K,
    PRECISION: tl.constexpr,
    SPECIALIZE: tl.constexpr,  # warps of their own for loads and for matrix instructions
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    """What lies outside of x and w is read as 0, what lies outside of y is not stored."""
    tiles = tl.cdiv(M, BLOCK_M) * tl.cdiv(N, BLOCK_N)
    # Flattened, all steps of all tiles are one loop, whose loads run ahead over the end of a tile.
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True, warp_specialize=SPECIALIZE):
        row, column = _tile(tile, M, N, BLOCK_M, BLOCK_N, GROUP_M)
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for k in range(0, K, BLOCK_K):
            acc = _dot(x_desc.load([row, k]), w_desc.load([column, k]), acc, PRECISION)
        # By halves: y takes half the shared memory, which leaves room for one more stage of loads.
        halves = tl.permute(tl.reshape(acc, (BLOCK_M, 2, BLOCK_N // 2)), (0, 2, 1))
        left, right = tl.split(halves)
        y_desc.store([row, column], _round(left, y_desc.dtype))
        y_desc.store([row, column + BLOCK_N // 2], _round(right, y_desc.dtype))


class Config(NamedTuple):
    """A tile, its pipeline, and the part of the chip's peak that a full wave of such tiles can reach."""

    BLOCK_M: int
    BLOCK_N: int
    BLOCK_K: int
    num_warps: int
    num_stages: int
    weight: float = 1.0
    GROUP_M: int = 8
    PERSISTENT: bool = False  # a program per multiprocessor instead of one per tile: TMA only
    SPLIT_K: int = 1  # programs that share a tile


# By chip and bytes of an element. BLOCK_K of 128 bytes is one line of TMA's swizzle. Stages fill the shared memory
# that half a tile of y leaves (mma.sync holds one buffer less than stages, AMD's pipeline one in all).
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
# Sums lie in tensor memory; 8 warps carry them to y, and others load and multiply (SPECIALIZE).
_SM100 = (
    Config(128, 256, 64, 8, 4),
    Config(128, 128, 64, 8, 5, 0.8),
    Config(128, 64, 64, 4, 6, 0.55),
    Config(64, 64, 64, 4, 6, 0.4),
)
_SM120 = (
    Config(128, 128, 64, 8, 3),
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
    ("sm_103", 2): _SM100,
    ("sm_110", 2): _SM100,
    ("sm_120", 2): _SM120,
    ("sm_121", 2): _SM120,
    ("gfx942", 2): _CDNA,
    ("gfx1151", 2): _RDNA,
    ("gfx942", 4): (Config(128, 128, 32, 4, 2), Config(64, 64, 32, 4, 2, 0.6)),
    ("gfx1151", 4): (Config(128, 64, 16, 8, 2), Config(64, 64, 16, 4, 2, 0.8)),
}
_TF32_SM90 = (Config(128, 256, 32, 8, 3), Config(128, 128, 32, 8, 5, 0.85), Config(64, 64, 32, 4, 6, 0.45))
_TF32_SM120 = (Config(128, 128, 32, 8, 3), Config(64, 64, 32, 4, 4, 0.7))  # fits any chip
TF32: dict[str, tuple[Config, ...]] = {
    "sm_80": (Config(128, 128, 32, 8, 4), Config(64, 64, 32, 4, 4, 0.6)),
    "sm_90": _TF32_SM90,
    "sm_100": _TF32_SM90,
    "sm_103": _TF32_SM90,
    "sm_110": _TF32_SM90,
    "gfx942": CONFIGS["gfx942", 4],
}
UNALIGNED = Config(64, 64, 32, 8, 2)  # loads of single elements take many registers
SMS = {"sm_80": 108, "sm_90": 132, "sm_100": 148, "sm_103": 148, "sm_110": 20, "sm_120": 170, "sm_121": 48}
SMS |= {"gfx942": 304}
HAS_TMA = ("sm_90", "sm_100", "sm_103", "sm_110", "sm_120", "sm_121", "interpreter")
SPECIALIZES = ("sm_100", "sm_103", "sm_110")
# What the first loads and the stores of a tile, and a partial sum that another kernel adds, cost per output, in
# multiply-adds: estimates.
TILE_ENDS, PARTIAL_SUM = 256, 2048
# bf16's matrix instructions of each chip, as its disassembly has them; gates of `specimens`.
_MATRIX = {"sm_80": "HMMA", "sm_90": "HGMMA", "sm_100": "UTCHMMA", "sm_110": "UTCHMMA", "sm_120": "HMMA"}
_MATRIX |= {"sm_121": "HMMA", "gfx942": "v_mfma", "gfx1151": "v_wmma"}
_KNOWN = (torch.float32, torch.float16, torch.bfloat16)


def _tiles(M: int, N: int, B: int, c: Config) -> int:
    return B * -(-M // c.BLOCK_M) * -(-N // c.BLOCK_N)


def configs(
    M: int, N: int, K: int, itemsize: int = 2, chip: str = "sm_80", B: int = 1, precision: str = "ieee"
) -> tuple[Config, ...]:
    """What a sweep may try, best guess for a large problem first."""
    if precision == "tf32":
        found = TF32.get(chip, _TF32_SM120)
    elif itemsize == 4:
        found = CONFIGS.get((chip, 4), CONFIGS["gfx1151", 4] if chip.startswith("gfx") else _LANES)
    else:
        found = CONFIGS.get((chip, 2), _RDNA if chip.startswith("gfx") else _SM120)  # both fit any chip
    out = []
    for c in found:
        tiles, processors = _tiles(M, N, B, c), SMS.get(chip, 64)
        out.append(c)
        if tiles > processors and B == 1 and chip in HAS_TMA and (itemsize == 2 or precision == "tf32"):
            out += [c._replace(PERSISTENT=True, GROUP_M=rows) for rows in (8, 16)]
        # Eight steps each at least, or most of the time would be that of filling the pipeline.
        out += [c._replace(SPLIT_K=n) for n in (2, 4, 8) if n * tiles <= processors and n * 8 * c.BLOCK_K <= K]
    return tuple(out)


def pick_config(
    M: int, N: int, K: int, itemsize: int = 2, chip: str = "sm_80", B: int = 1, precision: str = "ieee"
) -> Config:
    """The tile that takes least time: whole waves of tiles, each as long as its products over its weight.

    A persistent program pays once for the ends of its tiles, others with every tile.
    """

    def time(c: Config) -> float:
        waves = -(-_tiles(M, N, B, c) * c.SPLIT_K // SMS.get(chip, 64))
        products = waves * K / c.SPLIT_K / c.weight
        ends = TILE_ENDS * (1 if c.PERSISTENT else waves)
        return c.BLOCK_M * c.BLOCK_N * (products + ends + (PARTIAL_SUM if c.SPLIT_K > 1 else 0))

    return min(configs(M, N, K, itemsize, chip, B, precision), key=time)


def chain(M: int, N: int, K: int) -> int:
    """Longest chain of additions between the first product and the result."""
    return max(K, 1)


def limit(M: int, N: int, K: int, precision: str = "ieee") -> tuple[int, float]:
    """Chain and unit roundoff of the sums.

    tf32 keeps 11 significant bits, and matrix units may cut the others off instead of rounding: an operand loses up
    to 2^-10 of itself, a product less than 2^-9, whatever K is; f32 sums add K times 2^-24.
    """
    return (1, 2.0**-9 + K * 2.0**-24) if precision == "tf32" else (chain(M, N, K), 2.0**-24)


def path(x: torch.Tensor, w: torch.Tensor, y: torch.Tensor | None = None) -> str:
    """``vector``: 16-byte loads; ``unaligned``: a K or a pointer that is no multiple of 16 takes narrow ones."""
    return "vector" if x.shape[-1] % 16 == 0 and (x.data_ptr() | w.data_ptr()) % 16 == 0 else "unaligned"


def specimens(chip: str) -> Iterator[dict[str, Any]]:
    """What is launched for typical sizes, as tests/triton_kernels/codegen.py compiles it."""
    sizes = dict.fromkeys(("M", "N", "K"), "i32")
    for name, dtype, precision, M, N in (
        ("bf16", "bf16", "ieee", 4096, 8192),
        ("f16", "fp16", "ieee", 512, 2048),
        ("bf16-few", "bf16", "ieee", 128, 1024),  # tiles: shared by several programs
        ("f32", "fp32", "ieee", 4096, 8192),
        ("tf32", "fp32", "tf32", 4096, 8192),
    ):
        if precision == "tf32" and not _has_tf32(chip):
            continue
        c = pick_config(M, N, 4096, 4 if dtype == "fp32" else 2, chip, 1, precision)
        matrix = _MATRIX[chip] if name != "f32" or chip == "gfx942" else ""
        if precision == "tf32":
            matrix += {"HMMA": ".*TF32", "HGMMA": ".*TF32", "v_mfma": ".*xf32"}.get(matrix, "")
        constants: dict[str, Any] = {"PRECISION": precision, "BLOCK_M": c.BLOCK_M, "BLOCK_N": c.BLOCK_N}
        constants |= {"BLOCK_K": c.BLOCK_K, "GROUP_M": c.GROUP_M}
        common = {"name": name, "options": {"num_warps": c.num_warps, "num_stages": c.num_stages}}
        if chip in HAS_TMA and c.SPLIT_K == 1 and name != "f32":
            shapes = {"x": (c.BLOCK_M, c.BLOCK_K), "w": (c.BLOCK_N, c.BLOCK_K), "y": (c.BLOCK_M, c.BLOCK_N // 2)}
            yield common | {
                "kernel": gemm_tma_kernel,
                "signature": {f"{a}_desc": f"tensordesc<{dtype}{list(shape)}>" for a, shape in shapes.items()} | sizes,
                "constexprs": constants | {"SPECIALIZE": chip in SPECIALIZES},
                "divisible": tuple(sizes),
                "gates": {"matrix": matrix, "present": ("UTMALDG", "UTMASTG"), "absent": ("LDGSTS", r"\bSTG")},
            }
            continue
        y = "*fp32" if c.SPLIT_K > 1 else f"*{dtype}"
        yield common | {
            "kernel": gemm_kernel,
            "signature": {"x_ptr": f"*{dtype}", "w_ptr": f"*{dtype}", "y_ptr": y, "B": "i32", "K_SPLIT": "i32"} | sizes,
            "constexprs": constants | {"EVEN_K": True},
            "divisible": (*sizes, "K_SPLIT"),
            "gates": {"matrix": matrix, "async_loads" if chip.startswith("sm") else "loads": 128},
        }
    yield {
        "name": "splits",
        "kernel": add_splits_kernel,
        "signature": {"partial_ptr": "*fp32", "y_ptr": "*bf16", "size": "i32"},
        "constexprs": {"SPLIT_K": 4, "BLOCK": 1024},
        "divisible": ("size",),
        "gates": {"matrix": "", "loads": 128},
    }


def _chip(device: torch.device) -> str:
    if device.type != "cuda":
        return "interpreter"
    if torch.version.hip:
        return str(torch.cuda.get_device_properties(device).gcnArchName).split(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 4  # in the interpreter few, so that each takes several tiles
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def _has_tf32(chip: str) -> bool:
    return chip == "gfx942" or not chip.startswith("gfx")


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
    precision: str = "ieee",
) -> torch.Tensor:
    """y = x @ w.T; f32, f16 or bf16, all of one type.

    Args:
        config: a tile instead of `pick_config`'s.
        check: nothing to check beyond shapes; here for the sake of one signature for all.
        precision: of f32 products: ``ieee``, or ``tf32``: by the matrix unit, of operands cut to 11 bits (`limit`).

    Raises:
        ValueError: an argument is on another device, of another type or shape, or not contiguous; a precision that
            the type or the chip does not have.
    """
    if x.device.type != "cuda" and not INTERPRETED.value:
        raise ValueError(f"x is on {x.device}; it needs a GPU")
    for name, a in (("x", x), ("w", w)):
        if a.ndim != 3:
            raise ValueError(f"{name} has shape {tuple(a.shape)}; it needs 3 axes")
    (B, M, K), N, chip = x.shape, w.shape[1], _chip(x.device)
    if x.dtype not in _KNOWN:
        raise ValueError(f"x has dtype {x.dtype}; it needs float32, float16 or bfloat16")
    if precision not in ("ieee", "tf32"):
        raise ValueError(f"precision is {precision!r}; it must be 'ieee' or 'tf32'")
    if precision == "tf32" and (x.dtype != torch.float32 or not _has_tf32(chip)):
        raise ValueError(f"precision is 'tf32', which {chip} does not have for {x.dtype}")
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
    itemsize = x.element_size()
    wide, matrix = path(x, w) == "vector", itemsize == 2 or precision == "tf32"
    c = config or (pick_config(M, N, K, itemsize, chip, B, precision) if wide or not matrix else UNALIGNED)
    tile = {"PRECISION": precision, "BLOCK_M": c.BLOCK_M, "BLOCK_N": c.BLOCK_N, "BLOCK_K": c.BLOCK_K}
    tile |= {"GROUP_M": c.GROUP_M}
    tiles, options = _tiles(M, N, B, c), {"num_warps": c.num_warps, "num_stages": c.num_stages}
    if matrix and wide and (N * itemsize | y.data_ptr()) % 16 == 0 and chip in HAS_TMA and B == c.SPLIT_K == 1:
        programs = min(tiles, _processors(x.device)) if c.PERSISTENT else tiles
        x_desc = TensorDescriptor.from_tensor(x.view(M, K), [c.BLOCK_M, c.BLOCK_K])
        w_desc = TensorDescriptor.from_tensor(w.view(N, K), [c.BLOCK_N, c.BLOCK_K])
        y_desc = TensorDescriptor.from_tensor(y.view(M, N), [c.BLOCK_M, c.BLOCK_N // 2])
        gemm_tma_kernel[(programs,)](x_desc, w_desc, y_desc, M, N, K, SPECIALIZE=chip in SPECIALIZES, **tile, **options)
        return y
    out = y if c.SPLIT_K == 1 else torch.empty((c.SPLIT_K, B, M, N), dtype=torch.float32, device=x.device)
    k_split = math.ceil(K / (c.BLOCK_K * c.SPLIT_K)) * c.BLOCK_K
    gemm_kernel[(tiles, c.SPLIT_K)](
        x, w, out, B, M, N, K, k_split, EVEN_K=K % c.BLOCK_K == 0, **tile, **options
    )  # fmt: skip
    if c.SPLIT_K > 1:
        add_splits_kernel[(math.ceil(y.numel() / 1024),)](out, y, y.numel(), SPLIT_K=c.SPLIT_K, BLOCK=1024)
    return y
