# SPDX-License-Identifier: MIT
"""Write new keys and values into a paged cache: ``cache[slot_mapping[t]] = key[t]``; a negative slot is padding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from roofbench.models import Model
from roofbench.numerics import Exact, Expected
from roofbench.op import Arg, Arrays, Case, Dims, Instance, Op, Problem, Traffic, dtype_of, instances_for
from roofbench.ops import _kv as kv


class KvAppend(Op):
    """key, value (num_tokens, num_heads, head_size), slot_mapping (num_tokens,) int64, and the caches
    key_cache, value_cache (num_blocks, block_size, num_heads, head_size).

    fp8: the caches hold e4m3 of x * k_scale_inv and x * v_scale_inv, each (1,) f32.
    """

    name = "kv_append"

    def cases(self, model: Model, suite: str) -> Iterator[Case]:
        for context, tokens in kv.contexts(model, suite):
            for format in kv.SUITE_FORMATS.get(suite, self.formats):
                yield Case(self.name, format, f"{model.id}/{context}", kv.sizes(model, tokens))

    def signature(self, format: str, dims: Mapping[str, int]) -> dict[str, Arg]:
        types = self.types(format)
        kv.check_kv_sizes(dims)
        tokens = (dims["num_tokens"], dims["num_heads"], dims["head_size"])
        cache = (dims["num_blocks"], dims["block_size"], *tokens[1:])
        return {
            "key": Arg(tokens, dtype_of(types.x)),
            "value": Arg(tokens, dtype_of(types.x)),
            "key_cache": Arg(cache, dtype_of(types.y), "inout"),
            "value_cache": Arg(cache, dtype_of(types.y), "inout"),
            "slot_mapping": Arg(tokens[:1], np.dtype(np.int64)),
            **(kv.SCALES if types.scale else {}),
        }

    def infer(self, format: str, arrays: Mapping[str, Any]) -> Dims:
        return kv.infer(arrays)

    def check_values(self, format: str, dims: Mapping[str, int], arrays: Mapping[str, Any]) -> None:
        kv.check_slots(dims, arrays["slot_mapping"], distinct=True)

    def traffic(self, case: Case) -> Traffic:
        signature = self.signature(case.format, case.dims)
        read = sum(arg.nbytes for arg in signature.values() if arg.role == "in")
        key = signature["key"]
        written = 2 * key.nbytes // key.dtype.itemsize * signature["key_cache"].dtype.itemsize
        return Traffic(read, written)

    def flops(self, case: Case) -> int:
        return 0

    def problem(self, case: Case, seed: int, cold_bytes: int) -> Problem:
        count = instances_for(self.traffic(case).bytes, cold_bytes)
        return Problem([self._instance(case, seed + i) for i in range(count)])

    def _instance(self, case: Case, seed: int) -> Instance:
        rng = np.random.default_rng(seed)
        types, signature = case.types, self.signature(case.format, case.dims)
        arrays: Arrays = {
            name: kv.contents(rng, signature[name].shape, types.x if name in ("key", "value") else types.y)
            for name in ("key", "value", "key_cache", "value_cache")
        }
        arrays |= {"slot_mapping": kv.paged_slots(rng, case.dims)} | (kv.scales(rng) if types.scale else {})
        known = self.reference(case.format, arrays)

        def spots(rng: np.random.Generator) -> Arrays:
            slots, token = arrays["slot_mapping"], case.dims["num_heads"] * case.dims["head_size"]
            drawn = {name: rng.choice(slots, min(8, slots.size)) for name in known}
            return {name: some * token + rng.integers(0, token, some.size) for name, some in drawn.items()}

        return Instance(arrays, lambda _: known, spots)

    def reference(self, format: str, arrays: Mapping[str, Any], *, random: bool = True) -> dict[str, Expected]:
        slots, out = arrays["slot_mapping"], {}
        used = slots >= 0
        for name in ("key", "value"):
            new = arrays[name][used]
            cache = arrays[f"{name}_cache"].copy()
            if self.types(format).scale:
                new = kv.cast(new, arrays, name)
            cache.reshape(-1, *cache.shape[2:])[slots[used]] = new
            out[f"{name}_cache"] = Exact(cache)
        return dict(out)
