# SPDX-License-Identifier: MIT
"""GEMM for prefill with fp8 weights: y (B, M, N) = x (B, M, K) @ (w * w_scales) (1 or B, N, K).T, f32 sums.

w (1 or B, N, K) e4m3fn, w_scales (1 or B, N) f32; y bf16; x bf16, or as W8A8 e4m3fn with x_scales (B, M) f32.
One w for the whole batch (then B * M are the rows of one product) or one each.

Standalone: torch and Triton. Launch: ``y = gemm_fp8(x, w, w_scales)``, with x_scales=... for fp8 x.
Compute-bound: 2 B M N K operations. The scales of rows multiply the f32 sums at the end.
`gemm_fp8_kernel`, one program per tile of outputs: codes are exact in bf16, so w (and fp8 x where matrix
instructions have no e4m3: sm_80, gfx942, gfx1151) is decoded on its way into bf16's matrix instructions.
W8A8 from sm_89 on: e4m3's matrix instructions. Those of sm_89 and sm_90 drop what lies 13 bits below the largest
of the products that they add (see `limit`), so sums leave them for f32 after each BLOCK_K on sm_90. Triton gives
its mma.sync of f16, exact but slower than bf16's wgmma, to whoever asks for f32 sums throughout.
`gemm_fp8_tma_kernel`, the same from sm_90 on (one w, 16-byte aligned rows): x, w and y move through shared memory
by TMA. Persistent: one program per multiprocessor takes tile after tile, and loads for the next one while it stores.
Longest chain of additions: K + 2, scales included.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))  # it can neither round to bf16 nor multiply it


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
def _decode(codes, CONVERTS: tl.constexpr):
    """e4m3 to bf16, exactly."""
    if CONVERTS:
        out = codes.to(tl.float8e4nv, bitcast=True).to(tl.bfloat16)
    else:
        bits = codes.to(tl.int32)
        magnitude = (bits & 0x7F) << 20  # as a float it is smaller by 2^120, subnormal ones too
        value = (magnitude | (bits & 0x80) << 24).to(tl.float32, bitcast=True) * 2.0**120
        out = _bf16(tl.where(magnitude == 0x07F00000, float("nan"), value))
    return out


@triton.jit
def _dot(w, x, acc):
    if INTERPRETED:
        w, x = w.to(tl.float32), x.to(tl.float32)
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
def gemm_fp8_kernel(
    x_ptr,  # (B, M, K) bf16 or e4m3
    x_scales_ptr,  # (B, M)
    w_ptr,  # (B, N, K) e4m3, as bytes unless NATIVE: sm_80 has no such type
    w_scales_ptr,  # (B, N)
    y_ptr,  # (B, M, N)
    M,
    N,
    K,
    X_CODES: tl.constexpr,  # x is fp8
    NATIVE: tl.constexpr,  # matrix instructions take e4m3
    CONVERTS: tl.constexpr,  # the chip converts e4m3 to other floats
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
    acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)  # y.T: w is what matrix instructions may take from registers
    for k in range(0, K, BLOCK_K):
        if EVEN_K:
            x, w = tl.load(x_ptrs), tl.load(w_ptrs)
        else:
            inside = (k + offs_k < K)[None, :]
            x, w = tl.load(x_ptrs, mask=inside, other=0.0), tl.load(w_ptrs, mask=inside, other=0.0)
        if NATIVE:
            acc = tl.dot(w, tl.trans(x), acc, max_num_imprecise_acc=BLOCK_K)
        else:
            if X_CODES:
                x = _decode(x, CONVERTS)
            acc = _dot(_decode(w, CONVERTS), x, acc)
        x_ptrs += BLOCK_K
        w_ptrs += BLOCK_K
    acc *= tl.load(w_scales_ptr + columns)[:, None]
    if X_CODES:
        acc *= tl.load(x_scales_ptr + rows)[None, :]
    rows, columns = row + tl.arange(0, BLOCK_M), column + tl.arange(0, BLOCK_N)
    at = (batch * M + rows)[:, None] * N + columns[None, :]
    tl.store(y_ptr + at, tl.trans(_bf16(acc)), mask=(rows < M)[:, None] & (columns < N)[None, :])


@triton.jit
def gemm_fp8_tma_kernel(
    x_desc,  # (M, K) e4m3
    x_scales_ptr,  # (M,)
    w_desc,  # (N, K) e4m3
    w_scales_ptr,  # (N,)
    y_desc,  # (M, N), by tiles of half a BLOCK_N
    M,
    N,
    K,
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
            x, w = x_desc.load([row, k]), w_desc.load([column, k])
            acc = tl.dot(x, tl.trans(w), acc, max_num_imprecise_acc=BLOCK_K)
        rows, columns = row + tl.arange(0, BLOCK_M), column + tl.arange(0, BLOCK_N)
        acc *= tl.load(w_scales_ptr + columns, mask=columns < N, other=0)[None, :]
        acc *= tl.load(x_scales_ptr + rows, mask=rows < M, other=0)[:, None]
        # By halves: y takes half the shared memory, which leaves room for one more stage of loads.
        left, right = tl.split(tl.permute(tl.reshape(acc, (BLOCK_M, 2, BLOCK_N // 2)), (0, 2, 1)))
        y_desc.store([row, column], _bf16(left))
        y_desc.store([row, column + BLOCK_N // 2], _bf16(right))


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


# bf16 x. Many rows of x per tile pay for the decoding of w.
_SM90 = (Config(256, 128, 64, 8, 4), Config(128, 128, 64, 8, 4, 0.85), Config(64, 64, 64, 4, 4, 0.4))
_SM120 = (Config(128, 128, 64, 8, 3), Config(64, 64, 64, 4, 4, 0.7))
CONFIGS: dict[str, tuple[Config, ...]] = {
    "sm_80": (Config(128, 128, 64, 8, 4), Config(64, 64, 64, 4, 4, 0.6)),
    "sm_90": _SM90,
    "sm_100": _SM90,
    "sm_110": _SM90,
    "sm_120": _SM120,
    "sm_121": _SM120,
    "gfx942": (Config(128, 128, 32, 4, 2), Config(64, 64, 64, 4, 2, 0.6)),
    "gfx1151": (Config(64, 64, 32, 4, 2),),
}
# fp8 x and matrix instructions for it. sm_90 holds two tiles of sums, one of them imprecise.
_NATIVE_SM100 = (Config(256, 128, 128, 8, 4), Config(128, 128, 128, 8, 5, 0.8), Config(64, 64, 128, 8, 6, 0.4))
_NATIVE_SM120 = (Config(128, 128, 128, 8, 3), Config(64, 64, 128, 4, 3, 0.6))
NATIVE: dict[str, tuple[Config, ...]] = {
    "sm_89": _NATIVE_SM120,
    "sm_90": (Config(128, 128, 128, 8, 5), Config(64, 128, 128, 8, 5, 0.8), Config(64, 64, 128, 4, 6, 0.5)),
    "sm_100": _NATIVE_SM100,
    "sm_103": _NATIVE_SM100,
    "sm_110": _NATIVE_SM100,
    "sm_120": _NATIVE_SM120,
    "sm_121": _NATIVE_SM120,
}
UNALIGNED = Config(64, 64, 32, 8, 2)  # loads of single elements take many registers
SMS = {"sm_80": 108, "sm_90": 132, "sm_100": 148, "sm_103": 148, "sm_110": 20, "sm_120": 170, "sm_121": 48}
SMS |= {"gfx942": 304}
HAS_TMA = ("sm_90", "sm_100", "sm_103", "sm_110", "sm_120", "sm_121", "interpreter")
SPECIALIZES = ("sm_100", "sm_103", "sm_110")
TILE_ENDS = 256  # what a tile's first loads and its stores cost per output, in multiply-adds: an estimate
# bf16's matrix instructions of each chip, as its disassembly has them; gates of `specimens`.
_MATRIX = {"sm_80": "HMMA", "sm_90": "HGMMA", "sm_100": "UTCHMMA", "sm_110": "UTCHMMA", "sm_120": "HMMA"}
_MATRIX |= {"sm_121": "HMMA", "gfx942": "v_mfma", "gfx1151": "v_wmma"}


def _tiles(M: int, N: int, B: int, c: Config) -> int:
    return B * -(-M // c.BLOCK_M) * -(-N // c.BLOCK_N)


def configs(M: int, N: int, K: int, chip: str = "sm_80", B: int = 1, w8a8: bool = False) -> tuple[Config, ...]:
    """What a sweep may try, best guess for a large problem first."""
    if w8a8 and chip in NATIVE:
        out = []
        for c in NATIVE[chip]:
            out.append(c)
            if _tiles(M, N, B, c) > SMS.get(chip, 64) and B == 1 and chip in HAS_TMA:
                out += [c._replace(PERSISTENT=True, GROUP_M=rows) for rows in (8, 16)]
        return tuple(out)
    found = CONFIGS.get(chip, CONFIGS["gfx1151" if chip.startswith("gfx") else "sm_120"])  # these fit any chip
    return found[-1:] if w8a8 else found  # decoding both takes many registers


def pick_config(M: int, N: int, K: int, chip: str = "sm_80", B: int = 1, w8a8: bool = False) -> Config:
    """The tile that takes least time: whole waves of tiles, each as long as its products over its weight.

    A persistent program pays once for the ends of its tiles, others with every tile.
    """

    def time(c: Config) -> float:
        waves = -(-_tiles(M, N, B, c) // SMS.get(chip, 64))
        return c.BLOCK_M * c.BLOCK_N * (waves * K / c.weight + TILE_ENDS * (1 if c.PERSISTENT else waves))

    return min(configs(M, N, K, chip, B, w8a8), key=time)


def chain(M: int, N: int, K: int) -> int:
    """Longest chain of additions between the first product and the result."""
    return K + 2


def limit(M: int, N: int, K: int, chip: str = "sm_80", w8a8: bool = False) -> tuple[int, float]:
    """Chain and unit roundoff of the sums: f32's, but for e4m3's matrix instructions of sm_89 and sm_90.

    Each of their products is cut off 2^-13 below the largest of 32 and their sum so far, some 11 times the root
    mean square. Errors of K products and the spread ||w o x||_2 grow alike: error is about 2^-11 of it, however long.
    """
    return (1, 2.0**-11) if w8a8 and chip in ("sm_89", "sm_90") else (chain(M, N, K), 2.0**-24)


def path(x: torch.Tensor, w: torch.Tensor, *others: Any, **more: Any) -> str:
    """``vector``: 16-byte loads; ``unaligned``: a K or a pointer that is no multiple of 16 takes narrow ones."""
    return "vector" if x.shape[-1] % 16 == 0 and (x.data_ptr() | w.data_ptr()) % 16 == 0 else "unaligned"


def _converts(chip: str) -> bool:
    return chip in NATIVE


def specimens(chip: str) -> Iterator[dict[str, Any]]:
    """What is launched for typical sizes, as tests/triton_kernels/codegen.py compiles it."""
    sizes = dict.fromkeys(("M", "N", "K"), "i32")
    for w8a8 in (False, True):
        native = w8a8 and chip in NATIVE
        matrix = _MATRIX[chip].replace("HMMA", "QMMA").replace("HG", "QG") if native else _MATRIX[chip]
        for size, M, N in (("few", 512, 1024), ("many", 4096, 8192)):
            c = pick_config(M, N, 4096, chip, 1, w8a8)
            tile = {"BLOCK_M": c.BLOCK_M, "BLOCK_N": c.BLOCK_N, "BLOCK_K": c.BLOCK_K, "GROUP_M": c.GROUP_M}
            scales = {"x_scales_ptr": "*fp32", "w_scales_ptr": "*fp32"} | sizes
            common = {"name": f"fp8{'-a8' if w8a8 else ''}-{size}", "divisible": tuple(sizes)}
            common |= {"options": {"num_warps": c.num_warps, "num_stages": c.num_stages}}
            if native and chip in HAS_TMA:
                code, y = f"{c.BLOCK_K}]>", f"tensordesc<bf16[{c.BLOCK_M}, {c.BLOCK_N // 2}]>"
                x, w = (f"tensordesc<fp8e4nv[{rows}, {code}" for rows in (c.BLOCK_M, c.BLOCK_N))
                yield common | {
                    "kernel": gemm_fp8_tma_kernel,
                    "signature": {"x_desc": x, "w_desc": w, "y_desc": y} | scales,
                    "constexprs": {"SPECIALIZE": chip in SPECIALIZES, **tile},
                    "gates": {"matrix": matrix, "present": ("UTMALDG", "UTMASTG"), "absent": ("LDGSTS", r"\bSTG")},
                }
                continue
            code, loads = "*fp8e4nv" if native else "*u8", "async_loads" if chip.startswith("sm") else "loads"
            use = {"X_CODES": w8a8, "NATIVE": native, "CONVERTS": _converts(chip), "EVEN_K": True}
            yield common | {
                "kernel": gemm_fp8_kernel,
                "signature": {"x_ptr": code if w8a8 else "*bf16", "w_ptr": code, "y_ptr": "*bf16"} | scales,
                "constexprs": use | tile,
                # wgmma takes decoded w from registers, for which Triton stores its codes by 8 bytes.
                "gates": {"matrix": matrix, loads: 64 if chip == "sm_90" else 128},
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


def _check(name: str, a: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...], device: torch.device) -> None:
    if a.device != device:
        raise ValueError(f"{name} is on {a.device}, x on {device}")
    if a.dtype != dtype:
        raise ValueError(f"{name} has dtype {a.dtype}; it needs {dtype}")
    if tuple(a.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(a.shape)}; it needs {shape}")
    if not a.is_contiguous():
        raise ValueError(f"{name} is not contiguous: its strides are {a.stride()}")


def gemm_fp8(
    x: torch.Tensor,  # (B, M, K)
    w: torch.Tensor,  # (1 or B, N, K)
    w_scales: torch.Tensor,  # (1 or B, N)
    y: torch.Tensor | None = None,  # (B, M, N)
    *,
    x_scales: torch.Tensor | None = None,  # (B, M)
    config: Config | None = None,
    check: bool = False,
    native: bool | None = None,
) -> torch.Tensor:
    """y = x @ (w * w_scales).T; w float8_e4m3fn, x bf16, or float8_e4m3fn with x_scales.

    Args:
        config: a tile instead of `pick_config`'s.
        check: nothing to check beyond shapes; here for the sake of one signature for all.
        native: whether fp8 x meets e4m3's matrix instructions (else bf16's, exactly); by chip if not given.

    Raises:
        ValueError: an argument is on another device, of another type or shape, or not contiguous.
    """
    if x.device.type != "cuda" and not INTERPRETED.value:
        raise ValueError(f"x is on {x.device}; it needs a GPU")
    for name, a in (("x", x), ("w", w)):
        if a.ndim != 3:
            raise ValueError(f"{name} has shape {tuple(a.shape)}; it needs 3 axes")
    (B, M, K), (batch, N, _) = x.shape, w.shape
    w8a8 = x_scales is not None
    if batch not in (1, B):
        raise ValueError(f"w has a batch of {batch}; it must be 1 or x's batch of {B}")
    if y is None:
        y = torch.empty((B, M, N), dtype=torch.bfloat16, device=x.device)
    _check("x", x, torch.float8_e4m3fn if w8a8 else torch.bfloat16, (B, M, K), x.device)
    _check("w", w, torch.float8_e4m3fn, (batch, N, K), x.device)
    _check("w_scales", w_scales, torch.float32, (batch, N), x.device)
    if x_scales is not None:
        _check("x_scales", x_scales, torch.float32, (B, M), x.device)
    _check("y", y, torch.bfloat16, (B, M, N), x.device)
    if y.numel() == 0 or K == 0:
        return y.zero_()
    if batch == 1:
        B, M = 1, B * M
    chip = _chip(x.device)
    wide = path(x, w) == "vector"
    c = config or (pick_config(M, N, K, chip, B, w8a8) if wide else UNALIGNED)
    native = w8a8 and (chip in NATIVE if native is None else native)
    tile = {"BLOCK_M": c.BLOCK_M, "BLOCK_N": c.BLOCK_N, "BLOCK_K": c.BLOCK_K, "GROUP_M": c.GROUP_M}
    tiles, options = _tiles(M, N, B, c), {"num_warps": c.num_warps, "num_stages": c.num_stages}
    scales = w_scales if x_scales is None else x_scales  # of bf16 x it is not read
    if native and wide and (N * 2 | y.data_ptr()) % 16 == 0 and chip in HAS_TMA and B == 1:
        programs = min(tiles, _processors(x.device)) if c.PERSISTENT else tiles
        x_desc = TensorDescriptor.from_tensor(x.view(M, K), [c.BLOCK_M, c.BLOCK_K])
        w_desc = TensorDescriptor.from_tensor(w.view(N, K), [c.BLOCK_N, c.BLOCK_K])
        y_desc = TensorDescriptor.from_tensor(y.view(M, N), [c.BLOCK_M, c.BLOCK_N // 2])
        gemm_fp8_tma_kernel[(programs,)](
            x_desc, scales, w_desc, w_scales, y_desc, M, N, K, SPECIALIZE=chip in SPECIALIZES, **tile, **options
        )
        return y
    if not native:
        x, w = x.view(torch.uint8) if w8a8 else x, w.view(torch.uint8)
    gemm_fp8_kernel[(tiles,)](
        x, scales, w, w_scales, y, M, N, K,
        X_CODES=w8a8, NATIVE=native, CONVERTS=_converts(chip), EVEN_K=K % c.BLOCK_K == 0, **tile, **options,
    )  # fmt: skip
    return y
