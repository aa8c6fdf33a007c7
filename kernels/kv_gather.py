# SPDX-License-Identifier: MIT
"""Collect a sequence from a paged KV cache: token t = cache[slot_mapping[t]], zeros for a negative slot.

key_cache, value_cache (num_blocks, block_size, num_heads, head_size); slot_mapping (num_tokens,) int64; to key, value
(num_tokens, num_heads, head_size), "NHD", or (num_heads, num_tokens, head_size), "HND". All f32, f16, bf16 or bytes; or
bf16 caches to e4m3(x * scale_inv): k_scale_inv, v_scale_inv (1,) f32, round to nearest even, overflow and infinities
saturate to +-448, NaN stays NaN.

Standalone: needs torch >= 2.10 and triton >= 3.6. Launch: ``key, value = kv_gather(key_cache, value_cache, slots)``,
with ``hnd=True`` heads first; captures into a CUDA graph. Memory-bound: reads and writes each token once, in accesses
of 16 bytes where a run is a multiple of 16 bytes and pointers are aligned. No additions.
Grid: one program per BLOCK_T tokens and BLOCK_D elements of a run, of keys and values alike; a run is what stays
together, a token in NHD and a head of a token in HND. Programs of other runs of the same tokens follow each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

# Four bf16 times a scale to four e4m3. The conversion makes every NaN 0x7f: the last four lines bring back its sign.
_CAST = tl.constexpr("""{
.reg .b32 t, s; .reg .f32 a, b, c, d; .reg .b16 lo, hi;
shl.b32 t, $1, 16; mov.b32 a, t; mul.rn.f32 a, a, $3;
and.b32 t, $1, 0xffff0000; mov.b32 b, t; mul.rn.f32 b, b, $4;
shl.b32 t, $2, 16; mov.b32 c, t; mul.rn.f32 c, c, $5;
and.b32 t, $2, 0xffff0000; mov.b32 d, t; mul.rn.f32 d, d, $6;
cvt.rn.satfinite.e4m3x2.f32 lo, b, a;
cvt.rn.satfinite.e4m3x2.f32 hi, d, c;
mov.b32 t, {lo, hi};
prmt.b32 s, $1, $2, 0x7531;
and.b32 $0, t, 0x7f7f7f7f; add.u32 $0, $0, 0x01010101;
and.b32 s, s, $0; and.b32 s, s, 0x80808080;
or.b32 $0, t, s;
}""")


@triton.jit
def _e4m3(x, scale, HARDWARE: tl.constexpr):
    """Codes of bf16 x * scale. Multiplying may lose the sign of a NaN: it comes from x."""
    if HARDWARE:
        scales = tl.broadcast_to(scale, x.shape)
        return tl.inline_asm_elementwise(_CAST, "=&r,r,r,r,r,r,r", [x, scales], dtype=tl.uint8, is_pure=True, pack=4)
    wide = x.to(tl.float32)
    bits = (wide * scale).to(tl.uint32, bitcast=True)
    a = bits & 0x7FFFFFFF
    nan = a > 0x7F800000
    a = tl.minimum(a, 0x43E00000)  # 448
    normal = ((a + 0x7FFFF + ((a >> 20) & 1)) >> 20) - 960
    # Adding 2^14 rounds to a multiple of 2^-9, the least subnormal.
    subnormal = (a.to(tl.float32, bitcast=True) + 16384.0).to(tl.uint32, bitcast=True) - 0x46800000
    code = tl.where(nan, 0x7F, tl.where(a < 0x3C800000, subnormal, normal))
    sign = tl.where(nan, wide.to(tl.uint32, bitcast=True), bits) >> 24
    return (code | (sign & 0x80)).to(tl.uint8)


@triton.jit(do_not_specialize=["num_tokens"])
def kv_gather_kernel(
    key_cache_ptr,  # (slots, runs, parts * PART)
    value_cache_ptr,
    slot_ptr,  # (num_tokens,)
    k_scale_ptr,  # (1,), of the cast only
    v_scale_ptr,
    key_ptr,  # (runs, num_tokens, parts * PART)
    value_ptr,
    num_tokens,
    runs,
    parts,  # of PART elements: a run is a multiple of them
    PART: tl.constexpr,
    CAST: tl.constexpr,  # 0: none, 1: by bit arithmetic, 2: by the hardware
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    width = parts * PART
    run = tl.program_id(0) % runs
    tokens = tl.program_id(0) // runs * BLOCK_T + tl.arange(0, BLOCK_T)
    cols = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]
    there = tokens < num_tokens
    slots = tl.load(slot_ptr + tokens, mask=there, other=-1)
    used = (slots >= 0)[:, None]
    start = (slots * runs + run)[:, None] * width + cols
    key = tl.load(key_cache_ptr + start, mask=used & (cols < width), other=0, eviction_policy="evict_first")
    value = tl.load(value_cache_ptr + start, mask=used & (cols < width), other=0, eviction_policy="evict_first")
    if CAST > 0:  # padding is 0 * 0: zero times a scale may be NaN
        key = _e4m3(key, tl.where(used, tl.load(k_scale_ptr), 0.0), CAST == 2)
        value = _e4m3(value, tl.where(used, tl.load(v_scale_ptr), 0.0), CAST == 2)
    to = (run.to(tl.int64) * num_tokens + tokens)[:, None] * width + cols
    written = there[:, None] & (cols < width)
    tl.store(key_ptr + to, key, mask=written)
    tl.store(value_ptr + to, value, mask=written)


class Config(NamedTuple):
    BLOCK_T: int
    BLOCK_D: int
    num_warps: int


# Bytes of keys that a program moves, per class of chip: for few tokens (one access a lane), for many (four).
CONFIGS = {
    "sm": (2048, 8192, 4),
    "gfx942": (4096, 16384, 4),  # 64 lanes to a wave
    "gfx": (2048, 8192, 4),
}
_FEW = 1 << 21  # bytes of keys, below which programs are kept small so that every multiprocessor has one


def pick_config(num_tokens: int, runs: int, width: int, itemsize: int, chip: str = "sm_90") -> Config:
    """Tile for runs of `width` elements: BLOCK_D wastes as few lanes as it can, BLOCK_T fills the program."""
    few, many, num_warps = CONFIGS.get(chip, CONFIGS["gfx" if chip.startswith("gfx") else "sm"])
    elements = (few if num_tokens * runs * width * itemsize <= _FEW else many) // itemsize
    # No pieces below 128 bytes, a cache line, of what is longer.
    sizes = [1 << i for i in range(4, elements.bit_length()) if min(128, width * itemsize) <= itemsize << i]
    block_d = min(sizes, key=lambda size: (triton.cdiv(width, size) * size, -size))
    return Config(elements // block_d, block_d, num_warps)


def configs(num_tokens: int, runs: int, width: int, itemsize: int, chip: str = "sm_90") -> Iterator[Config]:
    """What a sweep may try."""
    block_d = pick_config(num_tokens, runs, width, itemsize, chip).BLOCK_D
    for block_t in (1, 2, 4, 8, 16, 32, 64, 128):
        for num_warps in (2, 4, 8):
            if 8 * num_warps * 32 <= block_t * block_d * itemsize <= 256 * num_warps * 32:
                yield Config(block_t, block_d, num_warps)


def path(
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    k_scale_inv: torch.Tensor | None = None,
    v_scale_inv: torch.Tensor | None = None,
    key: torch.Tensor | None = None,
    value: torch.Tensor | None = None,
    *,
    hnd: bool | None = None,
) -> str:
    """``vector``: 16 bytes a lane; ``unaligned``: narrower, as the run or a pointer is no multiple of 16 bytes."""
    hnd = _is_hnd(key_cache, slot_mapping, key, hnd)
    width = key_cache.shape[-1] * (1 if hnd else key_cache.shape[-2])
    tensors = [t for t in (key_cache, value_cache, key, value) if t is not None]
    itemsize = 1 if k_scale_inv is not None or v_scale_inv is not None else key_cache.element_size()
    aligned = all(t.data_ptr() % 16 == 0 for t in tensors) and width * itemsize % 16 == 0
    return "vector" if aligned else "unaligned"


def specimens(chip: str) -> Iterator[dict[str, Any]]:
    """What a launch on that chip compiles, for tests/triton_kernels/codegen.py."""
    caches, scales, out = ("key_cache_ptr", "value_cache_ptr"), ("k_scale_ptr", "v_scale_ptr"), ("key_ptr", "value_ptr")
    rest = {"slot_ptr": "*i64", "num_tokens": "i32", "runs": "i32", "parts": "i32"}
    for layout, runs, width in (("NHD", 1, 1024), ("HND", 8, 128)):
        config = pick_config(4096, runs, width, 2, chip)
        yield {
            "name": f"bf16 {layout}",
            "kernel": kv_gather_kernel,
            "signature": {**dict.fromkeys((*caches, *out), "*i16"), **rest},
            "constexprs": {**dict.fromkeys(scales), "PART": 8, "CAST": 0, "BLOCK_T": config[0], "BLOCK_D": config[1]},
            "options": {"num_warps": config.num_warps},
            "divisible": ("parts",),
            "gates": {"weights": 128, "stores": 128, "matrix": None},
        }
        types = {**dict.fromkeys(caches, "*bf16"), **dict.fromkeys(out, "*u8"), **dict.fromkeys(scales, "*fp32")}
        cast = 2 if _converts(chip) else 1
        yield {
            "name": f"fp8 {layout}",
            "kernel": kv_gather_kernel,
            "signature": {**types, **rest},
            "constexprs": {"PART": 16, "CAST": cast, "BLOCK_T": config[0], "BLOCK_D": config[1]},
            "options": {"num_warps": config.num_warps},
            "divisible": ("parts",),
            "gates": {
                "weights": 128,
                "stores": 128,
                "matrix": None,
                "present": (r"F2FP\.SATFINITE\.E4M3",) if cast == 2 else (),
            },
        }


def kv_gather(
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    k_scale_inv: torch.Tensor | None = None,
    v_scale_inv: torch.Tensor | None = None,
    key: torch.Tensor | None = None,
    value: torch.Tensor | None = None,
    *,
    hnd: bool | None = None,
    config: Config | None = None,
    check: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Collect the tokens of both caches.

    Args:
        key_cache, value_cache: (num_blocks, block_size, num_heads, head_size), contiguous.
        slot_mapping: (num_tokens,) int64.
        k_scale_inv, v_scale_inv: (1,) f32, to cast bf16 to e4m3.
        key, value: (num_tokens, num_heads, head_size) or (num_heads, num_tokens, head_size); allocated if None.
        hnd: heads first; None takes it from the shape of key, and tokens first where that fits both.
        config: instead of `pick_config`'s.
        check: read the slots first: none past the cache. Waits for the device.

    Returns:
        key, value.
    """
    cast = _check_caches(key_cache, value_cache, slot_mapping, k_scale_inv, v_scale_inv)
    num_blocks, block_size, num_heads, head_size = key_cache.shape
    num_tokens = slot_mapping.shape[0]
    hnd = _is_hnd(key_cache, slot_mapping, key, hnd)
    shape = (num_heads, num_tokens, head_size) if hnd else (num_tokens, num_heads, head_size)
    dtype = torch.float8_e4m3fn if cast else key_cache.dtype
    key = torch.empty(shape, dtype=dtype, device=key_cache.device) if key is None else key
    value = torch.empty(shape, dtype=dtype, device=key_cache.device) if value is None else value
    for name, t in (("key", key), ("value", value)):
        _check_place(name, t, key_cache)
        if t.shape != shape:
            raise ValueError(f"{name} is {tuple(t.shape)}; {shape} is meant")
        if t.dtype != dtype and not (cast and t.dtype == torch.uint8):
            raise ValueError(f"{name} is {t.dtype}; {dtype} is meant")
    limit = num_blocks * block_size
    if check and num_tokens and int(slot_mapping.max()) >= limit:
        raise ValueError(f"slot_mapping holds {int(slot_mapping.max())}; the cache ends at slot {limit - 1}")
    if key.numel() == 0:
        return key, value
    runs, width = (num_heads, head_size) if hnd else (1, num_heads * head_size)
    chip, itemsize = _chip(key_cache), key_cache.element_size()
    config = config or pick_config(num_tokens, runs, width, itemsize, chip)
    small = 1 if cast else itemsize
    part = 16 // small if width * small % 16 == 0 else 1
    hardware = _converts(chip) and isinstance(kv_gather_kernel, triton.JITFunction)
    caches, out = (key_cache, value_cache), (key, value)
    integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[small]
    kv_gather_kernel[(runs * triton.cdiv(num_tokens, config.BLOCK_T), triton.cdiv(width, config.BLOCK_D))](
        *(caches if cast else [t.view(integer) for t in caches]),  # copies know no types
        slot_mapping,
        k_scale_inv if cast else None,
        v_scale_inv if cast else None,
        *[t.view(integer) for t in out],
        num_tokens,
        runs,
        width // part,
        PART=part,
        CAST=(2 if hardware else 1) if cast else 0,
        **config._asdict(),
    )
    return key, value


def _is_hnd(key_cache: torch.Tensor, slot_mapping: torch.Tensor, key: torch.Tensor | None, hnd: bool | None) -> bool:
    if hnd is not None or key is None:
        return bool(hnd)
    (tokens,), (heads, head_size) = slot_mapping.shape, key_cache.shape[2:]
    return key.shape != (tokens, heads, head_size) and key.shape == (heads, tokens, head_size)


def _chip(tensor: torch.Tensor) -> str:
    if tensor.device.type == "cpu":  # the interpreter's
        return "sm_90"
    properties = torch.cuda.get_device_properties(tensor.device)
    name: str = getattr(properties, "gcnArchName", "")
    return name.partition(":")[0] if torch.version.hip else f"sm_{properties.major}{properties.minor}"


def _converts(chip: str) -> bool:
    """Whether the hardware converts to e4m3fn. AMD's gfx942 has another e4m3."""
    return chip.startswith("sm_") and int(chip[3:]) >= 89


_BYTES = (torch.float8_e4m3fn, torch.uint8)


def _check_place(name: str, t: torch.Tensor, like: torch.Tensor) -> None:
    if t.device.type == "cpu" and isinstance(kv_gather_kernel, triton.JITFunction):
        raise ValueError(f"{name} is on the CPU")
    if t.device != like.device:
        raise ValueError(f"{name} is on {t.device}, key_cache on {like.device}")
    if not t.is_contiguous():
        raise ValueError(f"{name} is not contiguous")


def _check_caches(
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    k_scale_inv: torch.Tensor | None,
    v_scale_inv: torch.Tensor | None,
) -> bool:
    """Raises ValueError; returns whether tokens are cast."""
    cast = k_scale_inv is not None or v_scale_inv is not None
    tensors = {"key_cache": key_cache, "value_cache": value_cache, "slot_mapping": slot_mapping}
    for name, scale in (("k_scale_inv", k_scale_inv), ("v_scale_inv", v_scale_inv)):
        if not cast:
            continue
        if scale is None:
            raise ValueError(f"{name} is missing: a cast needs both scales")
        if scale.shape != (1,) or scale.dtype != torch.float32:
            raise ValueError(f"{name} must be (1,) float32, not {tuple(scale.shape)} {scale.dtype}")
        tensors[name] = scale
    for name, t in tensors.items():
        _check_place(name, t, key_cache)
    if key_cache.ndim != 4:
        raise ValueError(
            f"key_cache must be (num_blocks, block_size, num_heads, head_size), not {tuple(key_cache.shape)}"
        )
    known = (torch.bfloat16,) if cast else (torch.float32, torch.float16, torch.bfloat16, *_BYTES)
    if key_cache.dtype not in known:
        raise ValueError(f"key_cache is {key_cache.dtype}" + ("; only bfloat16 is cast" if cast else ""))
    if value_cache.shape != key_cache.shape or value_cache.dtype != key_cache.dtype:
        raise ValueError(f"value_cache is {tuple(value_cache.shape)} {value_cache.dtype}, unlike key_cache")
    if slot_mapping.ndim != 1 or slot_mapping.dtype != torch.int64:
        raise ValueError(
            f"slot_mapping must be (num_tokens,) int64, not {tuple(slot_mapping.shape)} {slot_mapping.dtype}"
        )
    return cast
