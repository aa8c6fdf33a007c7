# SPDX-License-Identifier: MIT
"""Collect a sequence from a paged cache: ``key[t] = key_cache[slot_mapping[t]]``; padding gives zeros."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from roofbench.formats import Array
from roofbench.models import Model
from roofbench.numerics import Exact, Expected, Moved, aligned
from roofbench.op import Arg, Arrays, Case, Dims, Instance, Op, Traffic, dtype_of, instances_for
from roofbench.ops import _kv as kv

LAYOUTS = ("NHD", "HND")
_QUICK = {"NHD": ("bf16",), "HND": ("fp8",)}


class KvGather(Op):
    """key_cache, value_cache (num_blocks, block_size, num_heads, head_size) and slot_mapping (num_tokens,)
    int64, to key, value: (num_tokens, num_heads, head_size) as NHD, heads first as HND (hnd = 1).

    fp8: key, value hold e4m3 of x * k_scale_inv and x * v_scale_inv, each (1,) f32; the caches are bf16.
    """

    name = "kv_gather"

    def cases(self, model: Model, suite: str) -> Iterator[Case]:
        for context, tokens in kv.contexts(model, suite):
            for hnd, layout in enumerate(LAYOUTS):
                for format in _QUICK[layout] if suite == "quick" else kv.SUITE_FORMATS.get(suite, self.formats):
                    dims = {**kv.sizes(model, tokens), "hnd": hnd}
                    yield Case(self.name, format, f"{model.id}/{context}/{layout}", dims)

    def signature(self, format: str, dims: Mapping[str, int]) -> dict[str, Arg]:
        types = self.types(format)
        kv.check_kv_sizes(dims)
        tokens, heads, head_size = dims["num_tokens"], dims["num_heads"], dims["head_size"]
        cache = (dims["num_blocks"], dims["block_size"], heads, head_size)
        out = (heads, tokens, head_size) if dims["hnd"] else (tokens, heads, head_size)
        return {
            "key_cache": Arg(cache, dtype_of(types.x)),
            "value_cache": Arg(cache, dtype_of(types.x)),
            "slot_mapping": Arg((tokens,), np.dtype(np.int64)),
            **(kv.SCALES if types.scale else {}),
            "key": Arg(out, dtype_of(types.y), "out"),
            "value": Arg(out, dtype_of(types.y), "out"),
        }

    def infer(self, format: str, arrays: Mapping[str, Any]) -> Dims:
        dims = kv.infer(arrays)
        shape = arrays["key"].shape if "key" in arrays else ()
        nhd = (dims["num_tokens"], dims["num_heads"], dims["head_size"])
        return {**dims, "hnd": int(shape != nhd and shape == (nhd[1], nhd[0], nhd[2]))}

    def check_values(self, format: str, dims: Mapping[str, int], arrays: Mapping[str, Any]) -> None:
        kv.check_slots(dims, arrays["slot_mapping"], distinct=False)

    def traffic(self, case: Case) -> Traffic:
        signature = self.signature(case.format, case.dims)
        out, cache = signature["key"], signature["key_cache"]
        small = sum(a.nbytes for name, a in signature.items() if name == "slot_mapping" or name in kv.SCALES)
        return Traffic(2 * out.nbytes // out.dtype.itemsize * cache.dtype.itemsize + small, 2 * out.nbytes)

    def flops(self, case: Case) -> int:
        return 0

    def problem(self, case: Case, seed: int, cold_bytes: int) -> list[Instance]:
        count = instances_for(self.traffic(case).bytes, cold_bytes)
        return [self._instance(case, seed + i) for i in range(count)]

    def _instance(self, case: Case, seed: int) -> Instance:
        rng = np.random.default_rng(seed)
        types, signature = case.types, self.signature(case.format, case.dims)
        arrays: Arrays = {
            name: kv.contents(rng, signature[name].shape, types.x) for name in ("key_cache", "value_cache")
        }
        arrays |= {"slot_mapping": kv.paged_slots(rng, case.dims)} | (kv.scales(rng) if types.scale else {})
        arrays |= {name: aligned(signature[name].shape, signature[name].dtype) for name in ("key", "value")}
        return _Instance(case, arrays)

    def reference(self, format: str, arrays: Mapping[str, Any], *, random: bool = True) -> dict[str, Expected]:
        slots, dims, out = arrays["slot_mapping"], self.infer(format, arrays), {}
        for name in ("key", "value"):
            cache = arrays[f"{name}_cache"]
            tokens = cache.reshape(-1, *cache.shape[2:])[np.maximum(slots, 0)]
            if self.types(format).scale:
                tokens = kv.cast(tokens, arrays, name)
            tokens[slots < 0] = 0
            out[name] = Exact(np.ascontiguousarray(tokens.swapaxes(0, 1)) if dims["hnd"] else tokens)
        return dict(out)


class _Instance(Instance):
    """Another sequence with every launch."""

    def __init__(self, case: Case, arrays: Arrays) -> None:
        super().__init__(arrays)
        self._case, self._slots = case, arrays["slot_mapping"]

    def draw(self, rng: np.random.Generator) -> Arrays:
        self._slots = kv.paged_slots(rng, self._case.dims)
        return {"slot_mapping": self._slots}

    def expect(self) -> dict[str, Expected]:
        return {name: Moved(partial(self._whole, name), partial(self._some, name)) for name in ("key", "value")}

    def _whole(self, name: str) -> Iterator[Array]:
        cache = self.arrays[f"{name}_cache"]
        tokens = self._cast(cache.reshape(-1, *cache.shape[2:])[self._slots], name)
        yield tokens.swapaxes(0, 1) if self._case.dims["hnd"] else tokens

    def _some(self, name: str, where: Array) -> Array:
        dims = self._case.dims
        heads, tokens = dims["num_heads"], dims["num_tokens"]
        rest, element = np.divmod(where, dims["head_size"])
        head, token = np.divmod(rest, tokens) if dims["hnd"] else np.divmod(rest, heads)[::-1]
        cache = self.arrays[f"{name}_cache"].reshape(-1, heads, dims["head_size"])
        return self._cast(cache[self._slots[token], head, element], name)

    def _cast(self, values: Array, name: str) -> Array:
        return kv.cast(values, self.arrays, name) if self._case.types.scale else values
