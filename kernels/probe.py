# SPDX-License-Identifier: MIT
"""Ceilings of a GPU: reads, writes, copies and triads from memory; multiply-adds of lanes and of matrix units.

read (a) -> sum of its 64-bit words modulo 2^64; write a = 1; copy b = a; triad a = b + 3 c, f32; fma and matrix: n
multiply-adds, each of which adds 1 to a count (1,) int64, so that none can be left out.

Standalone: needs torch >= 2.10 and triton >= 3.6. Launch: ``probe_read(a)``, ``probe_copy(a, b)``, ...,
``probe_matrix(n, count, "bf16")``; all but the first call of each capture into a CUDA graph.
Which code streams fastest differs between chips, so each probe has `variants`: bytes of an access, accesses in flight
per lane, programs per multiprocessor (0: as many as there are pieces). The best of them is the roof. Sums are integers,
or whole numbers that f32 holds: in whichever order, the same bits. A second launch adds those of the programs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl


@triton.jit(do_not_specialize=["n"])
def read_kernel(a_ptr, partial_ptr, n, BLOCK: tl.constexpr, UNROLL: tl.constexpr):
    """partial (programs,) of a (n,) int64. Blocks of UNROLL * BLOCK words go around the programs."""
    inside = tl.arange(0, BLOCK)
    acc = tl.zeros((BLOCK,), tl.int64)
    step: tl.constexpr = UNROLL * BLOCK
    whole = n // step
    for i in range(tl.program_id(0), whole, tl.num_programs(0)):
        words = a_ptr + tl.cast(i, tl.int64) * step + inside
        for j in tl.static_range(UNROLL):
            acc += tl.load(words + j * BLOCK, eviction_policy="evict_first")
    if tl.program_id(0) == whole % tl.num_programs(0):  # the rest
        for j in tl.static_range(UNROLL):
            at = tl.cast(whole, tl.int64) * step + j * BLOCK + inside
            acc += tl.load(a_ptr + at, mask=at < n, other=0)
    tl.store(partial_ptr + tl.program_id(0), tl.sum(acc, 0))


@triton.jit(do_not_specialize=["n"])
def sum_kernel(partial_ptr, sum_ptr, n, BLOCK: tl.constexpr):
    """sum (1,) of partial (n,) int64, by one program."""
    inside = tl.arange(0, BLOCK)
    acc = tl.zeros((BLOCK,), tl.int64)
    for start in range(0, n, BLOCK):
        acc += tl.load(partial_ptr + start + inside, mask=start + inside < n, other=0)
    tl.store(sum_ptr, tl.sum(acc, 0))


@triton.jit
def _write(a_ptr, b_ptr, c_ptr, at, there, READS: tl.constexpr, FIRST: tl.constexpr):
    value = tl.full(at.shape, 1.0, tl.float32)
    if READS > 0:
        value = tl.load(b_ptr + at, mask=there, eviction_policy="evict_first")
    if READS > 1:
        value += 3.0 * tl.load(c_ptr + at, mask=there, eviction_policy="evict_first")
    tl.store(a_ptr + at, value, mask=there, eviction_policy="evict_first" if FIRST else "")


@triton.jit(do_not_specialize=["n"])
def stream_kernel(
    a_ptr,  # (n,) f32, written: 1, b or b + 3 c
    b_ptr,
    c_ptr,
    n,
    READS: tl.constexpr,  # 0, 1 or 2 of b and c
    FIRST: tl.constexpr,  # stores leave the cache first
    BLOCK: tl.constexpr,
):
    inside = tl.arange(0, BLOCK)
    whole = n // BLOCK
    for i in range(tl.program_id(0), whole, tl.num_programs(0)):
        _write(a_ptr, b_ptr, c_ptr, tl.cast(i, tl.int64) * BLOCK + inside, None, READS, FIRST)
    if tl.program_id(0) == whole % tl.num_programs(0):  # the rest
        at = tl.cast(whole, tl.int64) * BLOCK + inside
        _write(a_ptr, b_ptr, c_ptr, at, at < n, READS, FIRST)


@triton.jit(do_not_specialize=["n"])
def fma_kernel(ones_ptr, partial_ptr, n, BLOCK: tl.constexpr, UNROLL: tl.constexpr):
    """n steps, shared out between programs, of UNROLL multiply-adds to each of BLOCK sums."""
    # Ones that the compiler does not know, each its own: it could count for itself, or once for all sums of a lane.
    ones = tl.load(ones_ptr + tl.arange(0, BLOCK))
    acc = tl.zeros((BLOCK,), tl.float32)
    for _ in range(tl.program_id(0), n, tl.num_programs(0)):
        for _j in tl.static_range(UNROLL):
            acc = tl.fma(ones, ones, acc)
    tl.store(partial_ptr + tl.program_id(0), tl.sum(acc.to(tl.int64), 0))


@triton.jit(do_not_specialize=["n"])
def matrix_kernel(
    ones_ptr,  # of the operands' type
    partial_ptr,
    n,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    CHAIN: tl.constexpr,  # steps that one sum takes; 0: all
):
    """n steps, shared out: acc (BLOCK_M, BLOCK_N) += ones (BLOCK_M, BLOCK_K) @ ones (BLOCK_K, BLOCK_N)."""
    k = tl.arange(0, BLOCK_K)
    a = tl.load(ones_ptr + tl.arange(0, BLOCK_M)[:, None] * BLOCK_K + k[None, :])
    b = tl.load(ones_ptr + tl.arange(0, BLOCK_N)[None, :] * BLOCK_K + k[:, None])
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    step = tl.num_programs(0)
    if CHAIN == 0:
        for _ in range(tl.program_id(0), n, step):
            acc = tl.dot(a, b, acc, input_precision=PRECISION)
    else:
        for start in range(tl.program_id(0), n, CHAIN * step):
            part = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
            for _ in range(start, min(n, start + CHAIN * step), step):
                part = tl.dot(a, b, part, input_precision=PRECISION)
            acc += part
    tl.store(partial_ptr + tl.program_id(0), tl.sum(acc.to(tl.int64)))


class Read(NamedTuple):
    width: int  # bytes of an access of a lane
    unroll: int  # accesses in flight per lane
    per_sm: int  # programs per multiprocessor; 0: one per piece
    num_warps: int


class Stream(NamedTuple):
    unroll: int  # accesses of 16 bytes in flight per lane and array
    per_sm: int
    num_warps: int
    first: bool  # stores leave the cache first


class Fma(NamedTuple):
    sums: int  # per lane
    unroll: int
    per_sm: int
    num_warps: int


class Matrix(NamedTuple):
    BLOCK_M: int
    BLOCK_N: int
    BLOCK_K: int  # bytes
    per_sm: int
    num_warps: int


_STREAMS = tuple(
    Stream(unroll, per_sm, num_warps, first)
    for first in (False, True)
    for unroll, per_sm, num_warps in ((1, 0, 4), (2, 0, 8), (4, 0, 4), (8, 0, 4), (4, 8, 8), (2, 16, 4))
)
CONFIGS: dict[str, tuple[Any, ...]] = {
    "read": (
        *(Read(8, 8, 8, 8), Read(16, 4, 8, 8), Read(16, 8, 4, 8), Read(16, 8, 16, 4)),
        *(Read(16, 16, 8, 4), Read(16, 8, 0, 4), Read(32, 4, 8, 8)),
    ),
    "write": _STREAMS,
    "copy": _STREAMS,
    "triad": _STREAMS,
    "fma": (Fma(4, 16, 8, 8), Fma(8, 8, 8, 8), Fma(8, 16, 16, 4), Fma(16, 8, 4, 8), Fma(16, 8, 8, 4)),
    "matrix": (
        *(Matrix(128, 256, 256, 1, 8), Matrix(128, 256, 128, 1, 8), Matrix(128, 256, 64, 1, 4)),
        *(Matrix(128, 128, 128, 2, 4), Matrix(128, 128, 64, 2, 8), Matrix(128, 64, 64, 4, 4)),
        *(Matrix(64, 64, 64, 4, 4), Matrix(64, 64, 32, 4, 4), Matrix(64, 64, 32, 8, 2)),
    ),
}
GRANULE = 1 << 23  # multiply-adds: whole steps of every variant
FORMATS = {  # of matrix: operands, precision
    "f32": (torch.float32, "ieee"),
    "tf32": (torch.float32, "tf32"),
    "f16": (torch.float16, "ieee"),
    "bf16": (torch.bfloat16, "ieee"),
    "fp8": (torch.float8_e4m3fn, "ieee"),
}
_HOPPER_CHAIN = 8192  # sums that 14 bits hold, as Hopper's fp8 units add


def variants(kind: str, format: str = "f32", chip: str = "sm_90") -> Iterator[Any]:
    """What to try on that chip; the best is the roof. None where it has no such unit."""
    if kind != "matrix" and format != "f32":
        return
    for config in CONFIGS[kind]:
        if kind == "matrix" and not _fits(config, format, chip):
            continue
        yield config


def _fits(config: Matrix, format: str, chip: str) -> bool:
    if format == "fp8" and not (chip.startswith("sm_") and int(chip[3:]) >= 89):
        return False
    if format == "tf32" and chip.startswith("gfx"):
        return False
    sums = config.BLOCK_M * config.BLOCK_N // (config.num_warps * (64 if chip == "gfx942" else 32))
    if format == "f32" and chip != "gfx942":  # no matrix unit: lanes hold the operands, too
        return sums <= 32 and config.BLOCK_K <= 32
    # Where units read operands from elsewhere, registers hold sums alone. Hopper's chains of fp8 need them twice.
    apart = chip in ("sm_90", "sm_100", "sm_103", "sm_110", "gfx942") and (format, chip) != ("fp8", "sm_90")
    most = 128 if apart else 64
    return sums <= most and (config.BLOCK_K <= 128 or chip in ("sm_90", "sm_100", "sm_103"))


def pick_config(kind: str, format: str = "f32", chip: str = "sm_90") -> Any:
    """A variant that does well everywhere."""
    return next(iter(variants(kind, format, chip)))


def _multiprocessors(device: torch.device) -> int:
    if device.type == "cpu":  # the interpreter's
        return 2
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def _lanes(device: torch.device) -> int:
    return 32 if device.type == "cpu" else int(torch.cuda.get_device_properties(device).warp_size)


def _chip(device: torch.device) -> str:
    if device.type == "cpu":
        return "sm_90"
    properties = torch.cuda.get_device_properties(device)
    name: str = getattr(properties, "gcnArchName", "")
    return name.partition(":")[0] if torch.version.hip else f"sm_{properties.major}{properties.minor}"


def _programs(per_sm: int, pieces: int, device: torch.device) -> int:
    return max(1, min(pieces, per_sm * _multiprocessors(device)) if per_sm else pieces)


def _total(partial: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    sum_kernel[(1,)](partial, out, partial.numel(), BLOCK=1024, num_warps=4)
    return out


def probe_read(a: torch.Tensor, sum: torch.Tensor | None = None, *, config: Read | None = None) -> torch.Tensor:
    """sum (1,) of a (n,), both int64 or uint64, modulo 2^64."""
    sum = torch.empty(1, dtype=a.dtype, device=a.device) if sum is None else sum
    _check({"a": a, "sum": sum}, (torch.int64, torch.uint64))
    if sum.shape != (1,):
        raise ValueError(f"sum must be (1,), not {tuple(sum.shape)}")
    config = config or pick_config("read")
    block = config.width // 8 * config.num_warps * _lanes(a.device)
    programs = _programs(config.per_sm, triton.cdiv(a.numel(), block * config.unroll), a.device)
    partial = torch.empty(programs, dtype=torch.int64, device=a.device)
    words = a.view(torch.int64)
    read_kernel[(programs,)](words, partial, a.numel(), BLOCK=block, UNROLL=config.unroll, num_warps=config.num_warps)
    _total(partial, sum.view(torch.int64))
    return sum


def probe_write(a: torch.Tensor, *, config: Stream | None = None) -> torch.Tensor:
    """a = 1, a (n,) f32."""
    return _stream(a, {"a": a}, [], config or pick_config("write"))


def probe_copy(a: torch.Tensor, b: torch.Tensor | None = None, *, config: Stream | None = None) -> torch.Tensor:
    """b = a, both (n,) f32."""
    b = torch.empty_like(a) if b is None else b
    return _stream(b, {"a": a, "b": b}, [a], config or pick_config("copy"))


def probe_triad(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, *, config: Stream | None = None) -> torch.Tensor:
    """a = b + 3 c, all (n,) f32."""
    return _stream(a, {"a": a, "b": b, "c": c}, [b, c], config or pick_config("triad"))


def _stream(
    out: torch.Tensor, tensors: dict[str, torch.Tensor], read: list[torch.Tensor], config: Stream
) -> torch.Tensor:
    _check(tensors, (torch.float32,))
    for name, t in tensors.items():
        if t.shape != out.shape:
            raise ValueError(f"{name} is {tuple(t.shape)}, unlike the others: {tuple(out.shape)}")
    block = 4 * config.unroll * config.num_warps * _lanes(out.device)
    programs = _programs(config.per_sm, triton.cdiv(out.numel(), block), out.device)
    b, c = [*read, None, None][:2]
    stream_kernel[(programs,)](
        out, b, c, out.numel(), READS=len(read), FIRST=config.first, BLOCK=block, num_warps=config.num_warps
    )
    return out


def _check(tensors: dict[str, torch.Tensor], dtypes: tuple[torch.dtype, ...]) -> None:
    place = next(iter(tensors.values())).device
    for name, t in tensors.items():
        _check_place(name, t.device)
        if t.device != place:
            raise ValueError(f"{name} is on {t.device}, others on {place}")
        if t.dtype not in dtypes:
            raise ValueError(f"{name} is {t.dtype}")
        if t.ndim != 1 or not t.is_contiguous():
            raise ValueError(f"{name} is no contiguous vector: {tuple(t.shape)}")


def _check_place(name: str, device: torch.device) -> None:
    if device.type == "cpu" and isinstance(read_kernel, triton.JITFunction):
        raise ValueError(f"{name} is on the CPU")


_ONES: dict[Any, torch.Tensor] = {}


def _ones(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Kept, so that a launch is the probe alone."""
    key = dtype, device
    if key not in _ONES:
        _ONES[key] = torch.ones(1 << 16, dtype=torch.float32, device=device).to(dtype)
    return _ONES[key]


def _peak(n: int, count: torch.Tensor, step: int, chain: int, per_sm: int) -> tuple[int, torch.Tensor]:
    """(steps, partial counts). `step` multiply-adds a step, `chain` to one sum."""
    _check({"count": count}, (torch.int64,))
    if count.shape != (1,):
        raise ValueError(f"count must be (1,), not {tuple(count.shape)}")
    if n < 1 or n % step:
        raise ValueError(f"n = {n} is no multiple of {step}; multiples of {GRANULE} suit every variant")
    programs = _programs(per_sm, n // step, count.device)
    if triton.cdiv(n // step, programs) * chain > 1 << 24:
        raise ValueError(f"n = {n} is more than f32 sums of {programs} programs count")
    return n // step, torch.empty(programs, dtype=torch.int64, device=count.device)


def probe_fma(n: int, count: torch.Tensor, *, config: Fma | None = None) -> torch.Tensor:
    """n f32 multiply-adds in registers; count (1,) int64 = n."""
    config = config or pick_config("fma")
    block = config.sums * config.num_warps * _lanes(count.device)
    steps, partial = _peak(n, count, block * config.unroll, config.unroll, config.per_sm)
    fma_kernel[partial.shape](
        _ones(torch.float32, count.device),
        partial,
        steps,
        BLOCK=block,
        UNROLL=config.unroll,
        num_warps=config.num_warps,
    )
    return _total(partial, count)


def probe_matrix(n: int, count: torch.Tensor, format: str = "f32", *, config: Matrix | None = None) -> torch.Tensor:
    """n multiply-adds of matrix units with f32 sums, operands of `FORMATS`; count (1,) int64 = n."""
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}; known: {' '.join(FORMATS)}")
    dtype, precision = FORMATS[format]
    if dtype == torch.bfloat16 and not isinstance(matrix_kernel, triton.JITFunction):
        dtype = torch.float16  # the interpreter cannot multiply bf16
    chip = _chip(count.device)
    config = config or next(variants("matrix", format, chip), None)
    if config is None:
        raise ValueError(f"format {format}: {chip} has no such matrix unit")
    shape = {"BLOCK_M": config.BLOCK_M, "BLOCK_N": config.BLOCK_N, "BLOCK_K": config.BLOCK_K // dtype.itemsize}
    step = config.BLOCK_M * config.BLOCK_N * shape["BLOCK_K"]
    steps, partial = _peak(n, count, step, shape["BLOCK_K"], config.per_sm)
    chain = _HOPPER_CHAIN // shape["BLOCK_K"] if format == "fp8" and chip == "sm_90" else 0
    ones, constexprs = _ones(dtype, count.device), {"PRECISION": precision, "CHAIN": chain, **shape}
    matrix_kernel[partial.shape](ones, partial, steps, **constexprs, num_warps=config.num_warps)
    return _total(partial, count)


_UNITS = {"sm_90": "HGMMA", "sm_100": "UTCHMMA", "sm_110": "UTCHMMA", "gfx942": "v_mfma", "gfx1151": "v_wmma"}
_FP8_UNITS = {"sm_90": "QGMMA", "sm_100": "UTCQMMA", "sm_110": "UTCQMMA", "sm_120": "QMMA", "sm_121": "QMMA"}


def specimens(chip: str) -> Iterator[dict[str, Any]]:
    """What a launch on that chip compiles, for tests/triton_kernels/codegen.py."""
    lanes = 64 if chip == "gfx942" else 32
    read, stream, fma = CONFIGS["read"][3], CONFIGS["copy"][2], CONFIGS["fma"][2]

    def specimen(name: str, kernel: Any, types: dict[str, str], constexprs: Any, num_warps: int, gates: Any) -> Any:
        options, types = {"num_warps": num_warps}, {**types, "n": "i32"}
        one = {"name": name, "kernel": kernel, "signature": types, "constexprs": constexprs, "options": options}
        return {**one, "gates": {"matrix": None, **gates}}

    block = read.width // 8 * read.num_warps * lanes
    types, wide = {"a_ptr": "*i64", "partial_ptr": "*i64"}, {"weights": 128, "loads": 128}
    yield specimen("read", read_kernel, types, {"BLOCK": block, "UNROLL": read.unroll}, read.num_warps, wide)
    block = 4 * stream.unroll * stream.num_warps * lanes
    pointers = ("a_ptr", "b_ptr", "c_ptr")
    for name, reads in (("write", 0), ("copy", 1), ("triad", 2)):
        given, absent = pointers[: reads + 1], pointers[reads + 1 :]
        constexprs = {**dict.fromkeys(absent), "READS": reads, "FIRST": False, "BLOCK": block}
        wide = {"stores": 128, **({"loads": 128} if reads else {})}
        yield specimen(name, stream_kernel, dict.fromkeys(given, "*fp32"), constexprs, stream.num_warps, wide)
    block = fma.sums * fma.num_warps * lanes
    types = {"ones_ptr": "*fp32", "partial_ptr": "*i64"}
    there = {"present": ("FFMA" if chip.startswith("sm") else r"v_(dual_|pk_)?fma",)}
    yield specimen("fma", fma_kernel, types, {"BLOCK": block, "UNROLL": fma.unroll}, fma.num_warps, there)
    for format, type in (("bf16", "*bf16"), ("fp8", "*fp8e4nv")):
        config = next(variants("matrix", format, chip), None)
        if config is None:
            continue
        size = FORMATS[format][0].itemsize
        unit = (_FP8_UNITS if format == "fp8" else _UNITS).get(chip, "HMMA")
        chain = _HOPPER_CHAIN * size // config.BLOCK_K if format == "fp8" and chip == "sm_90" else 0
        shape = {"BLOCK_M": config.BLOCK_M, "BLOCK_N": config.BLOCK_N, "BLOCK_K": config.BLOCK_K // size}
        constexprs = {"PRECISION": "ieee", "CHAIN": chain, **shape}
        types = {"ones_ptr": type, "partial_ptr": "*i64"}
        yield specimen(f"matrix {format}", matrix_kernel, types, constexprs, config.num_warps, {"matrix": unit})
