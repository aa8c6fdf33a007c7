# SPDX-License-Identifier: MIT
"""What the KV-cache ops share: slots, random contents, the fp8 cast."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from roofbench import data
from roofbench.formats import DTYPES, Array, cast_fp8
from roofbench.models import Model
from roofbench.numerics import aligned, to_f64
from roofbench.op import Arg, Dims, axes, check_sizes

BLOCK_SIZE = 16  # tokens per block, vLLM's default
CONTEXTS = {"quick": {"kv4k": 4096}}
_EVERY_CONTEXT = {"kv4k": 4096, "kv32k": 32768}
SUITE_FORMATS = {"quick": ("bf16", "fp8"), "standard": ("bf16", "fp8")}

CACHE_AXES = "num_blocks block_size num_heads head_size"
SCALES = {"k_scale_inv": Arg((1,), DTYPES["f32"]), "v_scale_inv": Arg((1,), DTYPES["f32"])}


def contexts(model: Model, suite: str) -> Iterator[tuple[str, int]]:
    """(name, tokens) of the contexts that a suite measures; none for a latent cache, or a mixture in short suites."""
    if model.mla or (suite != "full" and model.experts):
        return
    yield from CONTEXTS.get(suite, _EVERY_CONTEXT).items()


def sizes(model: Model, tokens: int) -> Dims:
    """A cache of one layer, an eighth larger than a context of `tokens` needs."""
    heads, head_size = model.kv_shape
    blocks = -(-tokens // BLOCK_SIZE)
    return {
        "num_tokens": tokens,
        "num_heads": heads,
        "head_size": head_size,
        "num_blocks": blocks + max(1, blocks // 8),
        "block_size": BLOCK_SIZE,
    }


def check_kv_sizes(dims: Mapping[str, int]) -> None:
    check_sizes(dims, num_tokens=0, num_heads=1, head_size=1, num_blocks=1, block_size=1)


def infer(arrays: Mapping[str, Any]) -> Dims:
    """Sizes from ``key_cache`` and ``slot_mapping``."""
    return {**axes(arrays, "key_cache", CACHE_AXES), **axes(arrays, "slot_mapping", "num_tokens")}


def check_slots(dims: Mapping[str, int], slots: Array, *, distinct: bool) -> None:
    """Negative slots are padding; others must lie in the cache and, where they are written, differ."""
    limit = dims["num_blocks"] * dims["block_size"]
    if (slots >= limit).any():
        at = int(np.argmax(slots >= limit))
        raise ValueError(f"slot_mapping[{at}] = {slots[at]}; the cache ends at slot {limit - 1}")
    used = slots[slots >= 0]
    if distinct and np.unique(used).size != used.size:
        values, counts = np.unique(used, return_counts=True)
        raise ValueError(f"slot_mapping holds slot {values[counts > 1][0]} twice: which token it keeps is undefined")


def paged_slots(rng: np.random.Generator, dims: Mapping[str, int]) -> Array:
    """Slots of one sequence: tokens in order within blocks, blocks anywhere in the cache."""
    block = rng.permutation(dims["num_blocks"])
    token = np.arange(dims["num_tokens"])
    slots = aligned((dims["num_tokens"],), np.int64)
    slots[...] = block[token // dims["block_size"]] * dims["block_size"] + token % dims["block_size"]
    return slots


def contents(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    """Normal values of any type, in aligned memory."""
    heads = (int(np.prod(shape[:-1])), shape[-1])
    return data.weights(rng, heads, dtype, "f32")["w"].reshape(shape)


def scales(rng: np.random.Generator) -> dict[str, Array]:
    """One inverse scale each for K and V, powers of two, so that ties occur; a few values saturate."""
    out = {name: aligned(arg.shape, arg.dtype) for name, arg in SCALES.items()}
    for scale, value in zip(out.values(), rng.permutation([2048.0, 4096.0]), strict=True):
        scale[...] = value
    return out


def cast(values: Array, arrays: Mapping[str, Any], which: str) -> Array:
    """The contract's fp8 cast: f32 product with the inverse scale, then `cast_fp8`."""
    with np.errstate(over="ignore"):  # which saturates
        return cast_fp8(to_f64(values).astype(np.float32) * arrays[f"{which[0]}_scale_inv"][0])
