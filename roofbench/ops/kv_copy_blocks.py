# SPDX-License-Identifier: MIT
"""Copy whole blocks within the caches of every layer, in one call: ``cache[dst] = cache[src]`` for each pair."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from roofbench.formats import Array
from roofbench.models import Model
from roofbench.numerics import Exact, Expected, Stack, aligned
from roofbench.op import (
    Arg,
    Arrays,
    Case,
    Dims,
    Instance,
    Op,
    Problem,
    Traffic,
    axes,
    check_sizes,
    dtype_of,
    instances_for,
)
from roofbench.ops import _kv as kv

_CACHES = ("key_caches", "value_caches")


class KvCopyBlocks(Op):
    """key_caches, value_caches (num_layers, num_blocks, block_size, num_heads, head_size) and
    block_mapping (num_pairs, 2) int64 of (source, destination); no destination is another pair's block.
    """

    name = "kv_copy_blocks"

    def cases(self, model: Model, suite: str) -> Iterator[Case]:
        for context, tokens in kv.contexts(model, "quick" if suite == "standard" else suite):
            pairs = -(-tokens // kv.BLOCK_SIZE)
            sizes = kv.sizes(model, 2 * tokens)
            del sizes["num_tokens"]
            for format in ("bf16",) if suite == "quick" else kv.SUITE_FORMATS.get(suite, self.formats):
                dims = {**sizes, "num_layers": model.layers, "num_pairs": pairs}
                yield Case(self.name, format, f"{model.id}/{context}", dims)

    def signature(self, format: str, dims: Mapping[str, int]) -> dict[str, Arg]:
        types = self.types(format)
        check_sizes(dims, num_layers=0, num_blocks=1, block_size=1, num_heads=1, head_size=1, num_pairs=0)
        shape = tuple(dims[name] for name in f"num_layers {kv.CACHE_AXES}".split())
        return {
            "key_caches": Arg(shape, dtype_of(types.x), "inout"),
            "value_caches": Arg(shape, dtype_of(types.x), "inout"),
            "block_mapping": Arg((dims["num_pairs"], 2), np.dtype(np.int64)),
        }

    def infer(self, format: str, arrays: Mapping[str, Any]) -> Dims:
        pairs = axes(arrays, "block_mapping", "num_pairs source,destination")
        return {**axes(arrays, "key_caches", f"num_layers {kv.CACHE_AXES}"), "num_pairs": pairs["num_pairs"]}

    def check_values(self, format: str, dims: Mapping[str, int], arrays: Mapping[str, Any]) -> None:
        pairs = arrays["block_mapping"]
        outside = np.argwhere((pairs < 0) | (pairs >= dims["num_blocks"]))
        if outside.size:
            i, j = (int(k) for k in outside[0])
            raise ValueError(f"block_mapping[{i}, {j}] = {pairs[i, j]}; there are {dims['num_blocks']} blocks, from 0")
        written, counts = np.unique(pairs[:, 1], return_counts=True)
        if (counts > 1).any():
            raise ValueError(f"block_mapping writes block {written[counts > 1][0]} twice")
        overlap = np.intersect1d(pairs[:, 0], written)
        if overlap.size:
            raise ValueError(f"block_mapping both reads and writes block {overlap[0]}: the copies overlap")

    def traffic(self, case: Case) -> Traffic:
        signature = self.signature(case.format, case.dims)
        cache = signature["key_caches"]
        moved = 2 * cache.nbytes // case.dims["num_blocks"] * case.dims["num_pairs"]
        return Traffic(moved + signature["block_mapping"].nbytes, moved)

    def flops(self, case: Case) -> int:
        return 0

    def problem(self, case: Case, seed: int, cold_bytes: int) -> Problem:
        count = instances_for(self.traffic(case).bytes, cold_bytes)
        return Problem([self._instance(case, seed + i) for i in range(count)])

    def _instance(self, case: Case, seed: int) -> Instance:
        """Every layer holds one layer's blocks, moved on by its number, so that one copy is enough to check all."""
        rng = np.random.default_rng(seed)
        signature, dims = self.signature(case.format, case.dims), case.dims
        shape = signature["key_caches"].shape
        base = {name: kv.contents(rng, shape[1:], case.types.x) for name in _CACHES}
        arrays: Arrays = {name: aligned(shape, signature[name].dtype) for name in _CACHES}
        for name, one in base.items():
            for layer in range(shape[0]):
                arrays[name][layer] = np.roll(one, layer, axis=0)
        pairs = aligned(signature["block_mapping"].shape, np.int64)
        pairs[...] = rng.permutation(dims["num_blocks"])[: pairs.size].reshape(2, -1).T
        arrays["block_mapping"] = pairs

        def expect(_: object) -> dict[str, Expected]:
            return {
                name: Stack(shape[0], lambda i, one=base[name]: _copied(np.roll(one, i, axis=0), pairs))  # type: ignore[misc]
                for name in _CACHES
            }

        def spots(rng: np.random.Generator) -> Arrays:
            block = int(np.prod(shape[2:]))
            out = {}
            for name in _CACHES:
                layers, written = rng.integers(0, shape[0], 8), rng.choice(pairs[:, 1], 8)
                out[name] = (layers * shape[1] + written) * block + rng.integers(0, block, 8)
            return out

        return Instance(arrays, expect, spots)

    def reference(self, format: str, arrays: Mapping[str, Any], *, random: bool = True) -> dict[str, Expected]:
        before = {name: arrays[name].copy() for name in _CACHES}
        pairs = arrays["block_mapping"].copy()
        return {
            name: Stack(len(before[name]), lambda i, name=name: _copied(before[name][i], pairs))  # type: ignore[misc]
            for name in _CACHES
        }


def _copied(blocks: Array, pairs: Array) -> Exact:
    out = blocks.copy()
    out[pairs[:, 1]] = blocks[pairs[:, 0]]
    return Exact(out)
