# SPDX-License-Identifier: MIT
"""Write new tokens into a paged KV cache: cache[slot_mapping[t]] = token t; a negative slot is padding.

key, value (num_tokens, num_heads, head_size); key_cache, value_cache (num_blocks, block_size, num_heads, head_size);
slot_mapping (num_tokens,) int64, no slot twice. All f32, f16, bf16 or bytes; or bf16 into caches of e4m3 (or uint8),
which then hold e4m3(x * scale_inv): k_scale_inv, v_scale_inv (1,) f32, round to nearest even, overflow and infinities
saturate to +-448, NaN stays NaN.

Standalone: needs torch >= 2.10 and triton >= 3.6. Launch: ``kv_append(key, value, key_cache, value_cache, slots)``;
captures into a CUDA graph. Memory-bound: reads and writes each token once, in accesses of 16 bytes where a token is a
multiple of 16 bytes and pointers are aligned. No additions.
Grid: one program per BLOCK_T tokens and BLOCK_D elements, of keys and values alike: it loads both before it needs
slots.
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
def kv_append_kernel(
    key_ptr,  # (num_tokens, parts * PART)
    value_ptr,
    key_cache_ptr,  # (slots, parts * PART)
    value_cache_ptr,
    slot_ptr,  # (num_tokens,)
    k_scale_ptr,  # (1,), of the cast only
    v_scale_ptr,
    num_tokens,
    parts,  # of PART elements: a token is a multiple of them
    PART: tl.constexpr,
    CAST: tl.constexpr,  # 0: none, 1: by bit arithmetic, 2: by the hardware
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    width = parts * PART
    tokens = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    cols = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]
    there = tokens < num_tokens
    read = there[:, None] & (cols < width)
    start = tokens.to(tl.int64)[:, None] * width + cols
    key = tl.load(key_ptr + start, mask=read, other=0, eviction_policy="evict_first")
    value = tl.load(value_ptr + start, mask=read, other=0, eviction_policy="evict_first")
    slots = tl.load(slot_ptr + tokens, mask=there, other=-1)
    if CAST > 0:
        key = _e4m3(key, tl.load(k_scale_ptr), CAST == 2)
        value = _e4m3(value, tl.load(v_scale_ptr), CAST == 2)
    written = (slots >= 0)[:, None] & (cols < width)
    to = slots[:, None] * width + cols
    tl.store(key_cache_ptr + to, key, mask=written)
    tl.store(value_cache_ptr + to, value, mask=written)


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


def pick_config(num_tokens: int, width: int, itemsize: int, chip: str = "sm_90") -> Config:
    """Tile for tokens of `width` elements: BLOCK_D wastes as few lanes as it can, BLOCK_T fills the program."""
    few, many, num_warps = CONFIGS.get(chip, CONFIGS["gfx" if chip.startswith("gfx") else "sm"])
    elements = (few if num_tokens * width * itemsize <= _FEW else many) // itemsize
    # No pieces below 128 bytes, a cache line, of what is longer.
    sizes = [1 << i for i in range(4, elements.bit_length()) if min(128, width * itemsize) <= itemsize << i]
    block_d = min(sizes, key=lambda size: (triton.cdiv(width, size) * size, -size))
    return Config(elements // block_d, block_d, num_warps)


def configs(num_tokens: int, width: int, itemsize: int, chip: str = "sm_90") -> Iterator[Config]:
    """What a sweep may try."""
    block_d = pick_config(num_tokens, width, itemsize, chip).BLOCK_D
    for block_t in (1, 2, 4, 8, 16, 32, 64):
        for num_warps in (2, 4, 8):
            if 8 * num_warps * 32 <= block_t * block_d * itemsize <= 256 * num_warps * 32:
                yield Config(block_t, block_d, num_warps)


def path(key: torch.Tensor, value: torch.Tensor, key_cache: torch.Tensor, value_cache: torch.Tensor, *_: Any) -> str:
    """``vector``: 16 bytes a lane; ``unaligned``: narrower, as the token or a pointer is no multiple of 16 bytes."""
    tensors = (key, value, key_cache, value_cache)
    width = key.shape[-1] * key.shape[-2]
    aligned = all(t.data_ptr() % 16 == 0 and width * t.element_size() % 16 == 0 for t in tensors)
    return "vector" if aligned else "unaligned"


def specimens(chip: str) -> Iterator[dict[str, Any]]:
    """What a launch on that chip compiles, for tests/triton_kernels/codegen.py."""
    pointers = ("key_ptr", "value_ptr", "key_cache_ptr", "value_cache_ptr")
    rest = {"slot_ptr": "*i64", "num_tokens": "i32", "parts": "i32"}
    for tokens in (64, 4096):
        yield {
            "name": f"bf16 T{tokens}",
            "kernel": kv_append_kernel,
            "signature": {**dict.fromkeys(pointers, "*i16"), **rest},
            "constexprs": _constexprs(
                2, 0, pick_config(tokens, 1024, 2, chip), {"k_scale_ptr": None, "v_scale_ptr": None}
            ),
            "options": {"num_warps": pick_config(tokens, 1024, 2, chip).num_warps},
            "divisible": ("parts",),
            "gates": {"weights": 128, "stores": 128, "matrix": None},
        }
    hardware = _converts(chip)
    yield {
        "name": "fp8 T4096",
        "kernel": kv_append_kernel,
        "signature": {
            **dict.fromkeys(pointers[:2], "*bf16"),
            **dict.fromkeys(pointers[2:], "*u8"),
            **dict.fromkeys(("k_scale_ptr", "v_scale_ptr"), "*fp32"),
            **rest,
        },
        "constexprs": _constexprs(2, 2 if hardware else 1, pick_config(4096, 1024, 2, chip), {}),
        "options": {"num_warps": pick_config(4096, 1024, 2, chip).num_warps},
        "divisible": ("parts",),
        "gates": {
            "weights": 128,
            "stores": 64,
            "matrix": None,
            "present": (r"F2FP\.SATFINITE\.E4M3",) if hardware else (),
        },
    }


def _constexprs(itemsize: int, cast: int, config: Config, more: dict[str, Any]) -> dict[str, Any]:
    return {"PART": 16 // itemsize, "CAST": cast, "BLOCK_T": config.BLOCK_T, "BLOCK_D": config.BLOCK_D, **more}


def kv_append(
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    k_scale_inv: torch.Tensor | None = None,
    v_scale_inv: torch.Tensor | None = None,
    *,
    config: Config | None = None,
    check: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Write tokens into both caches.

    Args:
        key, value: (num_tokens, num_heads, head_size), contiguous.
        key_cache, value_cache: (num_blocks, block_size, num_heads, head_size), contiguous.
        slot_mapping: (num_tokens,) int64.
        k_scale_inv, v_scale_inv: (1,) f32, for bf16 tokens in caches of e4m3.
        config: instead of `pick_config`'s.
        check: read the slots first: none past the cache, none twice. Waits for the device.

    Returns:
        key_cache, value_cache.
    """
    cast = _check(key, value, key_cache, value_cache, slot_mapping, k_scale_inv, v_scale_inv)
    num_tokens, num_heads, head_size = key.shape
    width, itemsize = num_heads * head_size, key.element_size()
    if check:
        _check_slots(slot_mapping, key_cache.shape[0] * key_cache.shape[1])
    if key.numel() == 0:
        return key_cache, value_cache
    chip = _chip(key)
    config = config or pick_config(num_tokens, width, itemsize, chip)
    part = 16 // itemsize if width * key_cache.element_size() % 16 == 0 else 1
    hardware = _converts(chip) and isinstance(kv_append_kernel, triton.JITFunction)
    tensors = [key, value, key_cache, value_cache]
    if cast:
        tensors[2:] = [cache.view(torch.uint8) for cache in tensors[2:]]
    else:  # copies know no types
        integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[itemsize]
        tensors = [t.view(integer) for t in tensors]
    grid = (triton.cdiv(num_tokens, config.BLOCK_T), triton.cdiv(width, config.BLOCK_D))
    kv_append_kernel[grid](
        *tensors,
        slot_mapping,
        k_scale_inv if cast else None,
        v_scale_inv if cast else None,
        num_tokens,
        width // part,
        PART=part,
        CAST=(2 if hardware else 1) if cast else 0,
        **config._asdict(),
    )
    return key_cache, value_cache


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


def _check(
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    k_scale_inv: torch.Tensor | None,
    v_scale_inv: torch.Tensor | None,
) -> bool:
    """Raises ValueError; returns whether tokens are cast."""
    tensors = {"key": key, "value": value, "key_cache": key_cache, "value_cache": value_cache}
    tensors["slot_mapping"] = slot_mapping
    scales = {"k_scale_inv": k_scale_inv, "v_scale_inv": v_scale_inv}
    cast = key.dtype == torch.bfloat16 and key_cache.dtype in _BYTES
    for name, scale in scales.items():
        if cast != (scale is not None):
            word = "needs" if cast else "takes no"
            raise ValueError(f"{name}: {key.dtype} in caches of {key_cache.dtype} {word} scale")
        if scale is not None:
            tensors[name] = scale
            if scale.shape != (1,) or scale.dtype != torch.float32:
                raise ValueError(f"{name} must be (1,) float32, not {tuple(scale.shape)} {scale.dtype}")
    for name, t in tensors.items():
        if t.device.type == "cpu" and isinstance(kv_append_kernel, triton.JITFunction):
            raise ValueError(f"{name} is on the CPU")
        if t.device != key.device:
            raise ValueError(f"{name} is on {t.device}, key on {key.device}")
        if not t.is_contiguous():
            raise ValueError(f"{name} is not contiguous")
    if key.ndim != 3:
        raise ValueError(f"key must be (num_tokens, num_heads, head_size), not {tuple(key.shape)}")
    if key.dtype not in (torch.float32, torch.float16, torch.bfloat16, *_BYTES):
        raise ValueError(f"key is {key.dtype}")
    if value.shape != key.shape or value.dtype != key.dtype:
        raise ValueError(f"value is {tuple(value.shape)} {value.dtype}, key {tuple(key.shape)} {key.dtype}")
    if key_cache.ndim != 4 or key_cache.shape[2:] != key.shape[1:]:
        raise ValueError(f"key_cache is {tuple(key_cache.shape)}, key {tuple(key.shape)}")
    if not cast and key_cache.dtype != key.dtype:
        raise ValueError(f"key_cache is {key_cache.dtype}, key {key.dtype}")
    if value_cache.shape != key_cache.shape or value_cache.dtype != key_cache.dtype:
        raise ValueError(f"value_cache is {tuple(value_cache.shape)} {value_cache.dtype}, unlike key_cache")
    if slot_mapping.shape != key.shape[:1] or slot_mapping.dtype != torch.int64:
        raise ValueError(
            f"slot_mapping must be ({key.shape[0]},) int64, not {tuple(slot_mapping.shape)} {slot_mapping.dtype}"
        )
    return cast


def _check_slots(slots: torch.Tensor, limit: int) -> None:
    used = slots[slots >= 0].sort().values
    if used.numel() and int(used[-1]) >= limit:
        raise ValueError(f"slot_mapping holds {int(used[-1])}; the cache ends at slot {limit - 1}")
    twice = used[1:][used[1:] == used[:-1]]
    if twice.numel():
        raise ValueError(f"slot_mapping holds slot {int(twice[0])} twice: which token it keeps is undefined")
