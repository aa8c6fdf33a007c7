# SPDX-License-Identifier: MIT
"""Copy whole blocks within the paged KV caches of every layer, in one launch: cache[dst] = cache[src] for each pair.

key_caches, value_caches (num_layers, num_blocks, block_size, num_heads, head_size), or one tensor (num_blocks, ...) per
layer; f32, f16, bf16, e4m3 or bytes. block_mapping (num_pairs, 2) int64 of (src, dst), each dst in one pair only and
never a src.

Standalone: needs torch >= 2.10 and triton >= 3.6. Launch: ``kv_copy_blocks(key_caches, value_caches, block_mapping)``.
It captures into a CUDA graph with stacked caches, or with a ``table=pointer_table(key_caches, value_caches)``.
Memory-bound: reads and writes each copied block once, in accesses of 16 bytes where a block is a multiple of 16 bytes
and pointers are aligned. No additions.
Grid: one program per (pair, piece of BLOCK elements) and layer, for keys and values alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl


@triton.jit
def _copy(key_cache, value_cache, mapping_ptr, pieces, width, BLOCK: tl.constexpr):
    """The program's piece of one pair, in the caches of one layer."""
    pair, piece = tl.program_id(0) // pieces, tl.program_id(0) % pieces
    src = tl.load(mapping_ptr + 2 * pair) * width
    dst = tl.load(mapping_ptr + 2 * pair + 1) * width
    cols = piece * BLOCK + tl.arange(0, BLOCK)
    inside = cols < width
    key = tl.load(key_cache + src + cols, mask=inside, eviction_policy="evict_first")
    value = tl.load(value_cache + src + cols, mask=inside, eviction_policy="evict_first")
    tl.store(key_cache + dst + cols, key, mask=inside)
    tl.store(value_cache + dst + cols, value, mask=inside)


@triton.jit
def kv_copy_blocks_kernel(
    key_caches_ptr,  # (num_layers, num_blocks, parts * PART)
    value_caches_ptr,
    mapping_ptr,  # (num_pairs, 2)
    num_blocks,
    pieces,  # programs that share a block
    parts,  # of PART elements: a block is a multiple of them
    PART: tl.constexpr,
    BLOCK: tl.constexpr,
):
    width = parts * PART
    layer = tl.program_id(1).to(tl.int64) * num_blocks * width
    _copy(key_caches_ptr + layer, value_caches_ptr + layer, mapping_ptr, pieces, width, BLOCK)


@triton.jit
def kv_copy_blocks_table_kernel(
    table_ptr,  # (2, num_layers) addresses of key caches and value caches
    mapping_ptr,  # (num_pairs, 2)
    pieces,
    parts,
    PART: tl.constexpr,
    BLOCK: tl.constexpr,
    TYPE: tl.constexpr,  # integer of an element's size
    ALIGNED: tl.constexpr,  # every address and block is a multiple of 16 bytes
):
    layer, layers = tl.program_id(1), tl.num_programs(1)
    key_cache = tl.load(table_ptr + layer).to(tl.pointer_type(TYPE))
    value_cache = tl.load(table_ptr + layers + layer).to(tl.pointer_type(TYPE))
    if ALIGNED:
        key_cache = tl.multiple_of(key_cache, 16)
        value_cache = tl.multiple_of(value_cache, 16)
    _copy(key_cache, value_cache, mapping_ptr, pieces, parts * PART, BLOCK)


class Config(NamedTuple):
    BLOCK: int
    num_warps: int


# Bytes of keys that a program copies, per class of chip: four accesses a lane.
CONFIGS = {
    "sm": (8192, 4),
    "gfx942": (16384, 4),  # 64 lanes to a wave
    "gfx": (8192, 4),
}


def pick_config(width: int, itemsize: int, chip: str = "sm_90") -> Config:
    """Tile for blocks of `width` elements."""
    most, num_warps = CONFIGS.get(chip, CONFIGS["gfx" if chip.startswith("gfx") else "sm"])
    block = min(most // itemsize, triton.next_power_of_2(width))
    return Config(block, max(1, num_warps * block * itemsize // most))


def configs(width: int, itemsize: int, chip: str = "sm_90") -> Iterator[Config]:
    """What a sweep may try."""
    lanes = 64 if chip.startswith("gfx9") else 32
    for num_warps in (1, 2, 4, 8):
        for accesses in (1, 2, 4, 8):
            block = 16 * accesses * num_warps * lanes // itemsize
            if block <= triton.next_power_of_2(width):
                yield Config(block, num_warps)


Caches = torch.Tensor | Sequence[torch.Tensor]


def path(key_caches: Caches, value_caches: Caches, *_: Any) -> str:
    """``vector``: 16 bytes a lane; ``unaligned``: narrower, as the block or a pointer is no multiple of 16 bytes."""
    return "vector" if _aligned([*_layers(key_caches), *_layers(value_caches)]) else "unaligned"


def _layers(caches: Caches) -> list[torch.Tensor]:
    return [caches[layer] for layer in range(len(caches))]


def _aligned(caches: list[torch.Tensor]) -> bool:
    return all(t.data_ptr() % 16 == 0 and t[:1].numel() * t.element_size() % 16 == 0 for t in caches)


def specimens(chip: str) -> Iterator[dict[str, Any]]:
    """What a launch on that chip compiles, for tests/triton_kernels/codegen.py."""
    config = pick_config(16 * 1024, 2, chip)
    types = {"mapping_ptr": "*i64", "pieces": "i32", "parts": "i32"}
    common = {
        "options": {"num_warps": config.num_warps},
        "divisible": ("parts",),
        "gates": {"weights": 128, "stores": 128, "matrix": None},
    }
    yield {
        "name": "bf16 stacked",
        "kernel": kv_copy_blocks_kernel,
        "signature": {"key_caches_ptr": "*i16", "value_caches_ptr": "*i16", "num_blocks": "i32", **types},
        "constexprs": {"PART": 8, "BLOCK": config.BLOCK},
        **common,
    }
    yield {
        "name": "bf16 table",
        "kernel": kv_copy_blocks_table_kernel,
        "signature": {"table_ptr": "*i64", **types},
        "constexprs": {"PART": 8, "BLOCK": config.BLOCK, "TYPE": tl.int16, "ALIGNED": True},
        **common,
    }


def pointer_table(key_caches: Sequence[torch.Tensor], value_caches: Sequence[torch.Tensor]) -> torch.Tensor:
    """(2, num_layers) int64 addresses on the device of the caches, which must stay where they are."""
    addresses = [[t.data_ptr() for t in caches] for caches in (key_caches, value_caches)]
    return torch.tensor(addresses, dtype=torch.int64, device=key_caches[0].device)


def kv_copy_blocks(
    key_caches: Caches,
    value_caches: Caches,
    block_mapping: torch.Tensor,
    *,
    table: torch.Tensor | None = None,
    config: Config | None = None,
    check: bool = False,
) -> tuple[Caches, Caches]:
    """Copy blocks in every layer's caches.

    Args:
        key_caches, value_caches: (num_layers, num_blocks, block_size, num_heads, head_size), contiguous, or as many
            contiguous tensors (num_blocks, block_size, num_heads, head_size).
        block_mapping: (num_pairs, 2) int64.
        table: `pointer_table` of caches that are no one tensor; made anew with every call if None.
        config: instead of `pick_config`'s.
        check: read the mapping first: no block out of range, none written twice, none both read and written. Waits for
            the device.

    Returns:
        key_caches, value_caches.
    """
    _check(key_caches, value_caches, block_mapping, table)
    num_layers, num_pairs = len(key_caches), block_mapping.shape[0]
    if num_layers == 0:
        return key_caches, value_caches
    first = key_caches[0]
    num_blocks = first.shape[0]
    if check:
        _check_pairs(block_mapping, num_blocks)
    if num_pairs == 0 or first.numel() == 0:
        return key_caches, value_caches
    width, itemsize = first.numel() // num_blocks, first.element_size()
    config = config or pick_config(width, itemsize, _chip(first))
    pieces = triton.cdiv(width, config.BLOCK)
    part = 16 // itemsize if width * itemsize % 16 == 0 else 1
    grid = (num_pairs * pieces, num_layers)
    shape = {"pieces": pieces, "parts": width // part, "PART": part}
    if isinstance(key_caches, torch.Tensor) and isinstance(value_caches, torch.Tensor):
        integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[itemsize]  # copies know no types
        caches = key_caches.view(integer), value_caches.view(integer)
        kv_copy_blocks_kernel[grid](*caches, block_mapping, num_blocks, **shape, **config._asdict())
    else:
        keys, values = _layers(key_caches), _layers(value_caches)
        table = pointer_table(keys, values) if table is None else table
        kv_copy_blocks_table_kernel[grid](
            table,
            block_mapping,
            **shape,
            TYPE={1: tl.uint8, 2: tl.int16, 4: tl.int32}[itemsize],
            ALIGNED=_aligned([*keys, *values]),
            **config._asdict(),
        )
    return key_caches, value_caches


def _chip(tensor: torch.Tensor) -> str:
    if tensor.device.type == "cpu":  # the interpreter's
        return "sm_90"
    properties = torch.cuda.get_device_properties(tensor.device)
    name: str = getattr(properties, "gcnArchName", "")
    return name.partition(":")[0] if torch.version.hip else f"sm_{properties.major}{properties.minor}"


_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.uint8)


def _check(key_caches: Caches, value_caches: Caches, block_mapping: torch.Tensor, table: torch.Tensor | None) -> None:
    if block_mapping.ndim != 2 or block_mapping.shape[1] != 2 or block_mapping.dtype != torch.int64:
        raise ValueError(
            f"block_mapping must be (num_pairs, 2) int64, not {tuple(block_mapping.shape)} {block_mapping.dtype}"
        )
    if len(value_caches) != len(key_caches):
        raise ValueError(f"value_caches has {len(value_caches)} layers, key_caches {len(key_caches)}")
    _check_place("block_mapping", block_mapping, block_mapping)
    whole: list[tuple[str, torch.Tensor]] = []
    for name, caches in (("key_caches", key_caches), ("value_caches", value_caches)):
        if isinstance(caches, torch.Tensor):
            _check_place(name, caches, block_mapping)
            if caches.ndim != 5:
                raise ValueError(f"{name} has {caches.ndim} axes; its layers need four")
        whole += [(name, t) for t in _layers(caches)]
    for name, t in whole:
        like = whole[0][1]
        _check_place(name, t, block_mapping)
        if t.ndim != 4:
            raise ValueError(f"{name} holds {tuple(t.shape)}: (num_blocks, block_size, num_heads, head_size) is meant")
        if t.dtype not in _DTYPES:
            raise ValueError(f"{name} is {t.dtype}")
        if t.shape != like.shape or t.dtype != like.dtype:
            raise ValueError(f"{name} holds {tuple(t.shape)} {t.dtype}, key_caches {tuple(like.shape)} {like.dtype}")
    if table is not None:
        _check_place("table", table, block_mapping)
        if table.shape != (2, len(key_caches)) or table.dtype != torch.int64:
            raise ValueError(f"table must be (2, {len(key_caches)}) int64, not {tuple(table.shape)} {table.dtype}")


def _check_place(name: str, t: torch.Tensor, like: torch.Tensor) -> None:
    if t.device.type == "cpu" and isinstance(kv_copy_blocks_kernel, triton.JITFunction):
        raise ValueError(f"{name} is on the CPU")
    if t.device != like.device:
        raise ValueError(f"{name} is on {t.device}, block_mapping on {like.device}")
    if not t.is_contiguous():
        raise ValueError(f"{name} is not contiguous")


def _check_pairs(pairs: torch.Tensor, num_blocks: int) -> None:
    outside = pairs[(pairs < 0) | (pairs >= num_blocks)]
    if outside.numel():
        raise ValueError(f"block_mapping holds block {int(outside[0])}; there are {num_blocks} blocks, from 0")
    written = pairs[:, 1].sort().values
    twice = written[1:][written[1:] == written[:-1]]
    if twice.numel():
        raise ValueError(f"block_mapping writes block {int(twice[0])} twice")
    both = pairs[:, 0][torch.isin(pairs[:, 0], written)]
    if both.numel():
        raise ValueError(f"block_mapping both reads and writes block {int(both[0])}: the copies overlap")
