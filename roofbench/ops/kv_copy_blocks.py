# SPDX-License-Identifier: MIT
"""Copy whole blocks within the caches of every layer, in one call: ``cache[dst] = cache[src]`` for each pair."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from roofbench.formats import Array
from roofbench.models import Model
from roofbench.numerics import Exact, Expected, Moved, Stack, aligned
from roofbench.op import (
    Arg,
    Arrays,
    Case,
    Dims,
    Instance,
    Op,
    Traffic,
    axes,
    check_sizes,
    draw_spots,
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

    def problem(self, case: Case, seed: int, cold_bytes: int) -> list[Instance]:
        count = instances_for(self.traffic(case).bytes, cold_bytes)
        return [self._instance(case, seed + i) for i in range(count)]

    def _instance(self, case: Case, seed: int) -> Instance:
        rng = np.random.default_rng(seed)
        signature = self.signature(case.format, case.dims)
        shape = signature["key_caches"].shape
        base = {name: kv.contents(rng, shape[1:], case.types.x) for name in _CACHES}
        arrays: Arrays = {name: aligned(arg.shape, arg.dtype) for name, arg in signature.items()}
        for name, one in base.items():
            for layer in range(shape[0]):
                arrays[name][layer] = np.roll(one, layer, axis=0)
        arrays["block_mapping"][...] = 0
        return _Instance(arrays, base)

    def reference(self, format: str, arrays: Mapping[str, Any], *, random: bool = True) -> dict[str, Expected]:
        before = {name: arrays[name].copy() for name in _CACHES}
        pairs = arrays["block_mapping"].copy()
        return {
            name: Stack(len(before[name]), before[name][:1].size, partial(_copied, before[name], pairs))
            for name in _CACHES
        }


class _Instance(Instance):
    """Other blocks with every launch.

    Args:
        base: contents of the first layer; every other layer holds the same blocks, moved on by its number, so that
            one copy is enough to know all.
    """

    def __init__(self, arrays: Arrays, base: Arrays) -> None:
        super().__init__(arrays)
        self._base, self._pairs = base, arrays["block_mapping"]
        # What a block holds: what that block of the same layer held at first.
        self._owner = np.arange(arrays["key_caches"].shape[1])

    def draw(self, rng: np.random.Generator) -> Arrays:
        self._pairs = rng.permutation(self._owner.size)[: self._pairs.size].reshape(2, -1).T
        source, destination = self._pairs.T
        self._owner[destination] = self._owner[source]
        return {"block_mapping": self._pairs}

    def expect(self) -> dict[str, Expected]:
        return {name: Moved(partial(self._layers, name), partial(self._some, name)) for name in _CACHES}

    def _layers(self, name: str) -> Iterator[Array]:
        for layer in range(len(self.arrays[name])):
            yield self._base[name][(self._owner - layer) % self._owner.size][None]

    def _some(self, name: str, where: Array) -> Array:
        base = self._base[name].reshape(self._owner.size, -1)
        rest, element = np.divmod(where, base.shape[1])
        layer, block = np.divmod(rest, self._owner.size)
        return base[(self._owner[block] - layer) % self._owner.size, element]

    def spots(self, rng: np.random.Generator) -> Arrays:
        """In blocks that are written."""
        layers, blocks = self.arrays["key_caches"].shape[:2]
        size = self._base["key_caches"][0].size
        written = self._pairs[draw_spots(rng, len(self._pairs)), 1]
        where = (rng.integers(0, layers, written.size) * blocks + written) * size + rng.integers(0, size, written.size)
        return dict.fromkeys(_CACHES, where)


def _copied(caches: Array, pairs: Array, layer: int) -> Exact:
    out = caches[layer].copy()
    out[pairs[:, 1]] = caches[layer][pairs[:, 0]]
    return Exact(out)
