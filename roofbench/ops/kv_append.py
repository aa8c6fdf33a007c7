# SPDX-License-Identifier: MIT
"""Write new keys and values into a paged cache: ``cache[slot_mapping[t]] = key[t]``; a negative slot is padding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from roofbench.formats import Array
from roofbench.models import Model
from roofbench.numerics import Exact, Expected, Moved
from roofbench.op import Arg, Arrays, Case, Dims, Instance, Op, Traffic, draw_spots, dtype_of, instances_for
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

    def problem(self, case: Case, seed: int, cold_bytes: int) -> list[Instance]:
        count = instances_for(self.traffic(case).bytes, cold_bytes)
        return [self._instance(case, seed + i) for i in range(count)]

    def _instance(self, case: Case, seed: int) -> Instance:
        rng = np.random.default_rng(seed)
        types, signature = case.types, self.signature(case.format, case.dims)
        arrays: Arrays = {
            name: kv.contents(rng, signature[name].shape, types.x if name in ("key", "value") else types.y)
            for name in ("key", "value", "key_cache", "value_cache")
        }
        arrays |= {"slot_mapping": kv.paged_slots(rng, case.dims)} | (kv.scales(rng) if types.scale else {})
        return _Instance(case, arrays)

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


class _Instance(Instance):
    """The same tokens go to other slots with every launch."""

    def __init__(self, case: Case, arrays: Arrays) -> None:
        super().__init__(arrays)
        self._dims, self._slots = case.dims, arrays["slot_mapping"]
        # What a slot holds: what it held at first, or the token that was written there last.
        self._owner = np.full(case.dims["num_blocks"] * case.dims["block_size"], -1)
        self._first = {name: arrays[f"{name}_cache"].copy() for name in ("key", "value")}
        self._tokens = {
            name: kv.cast(arrays[name], arrays, name) if case.types.scale else arrays[name].copy()
            for name in ("key", "value")
        }

    def draw(self, rng: np.random.Generator) -> Arrays:
        self._slots = kv.paged_slots(rng, self._dims)
        self._owner[self._slots] = np.arange(self._slots.size)
        return {"slot_mapping": self._slots}

    def expect(self) -> dict[str, Expected]:
        return {
            f"{name}_cache": Moved(partial(self._whole, name), partial(self._some, name)) for name in ("key", "value")
        }

    def _whole(self, name: str) -> Iterator[Array]:
        cache, written = self._first[name].copy(), self._owner >= 0
        cache.reshape(-1, *cache.shape[2:])[written] = self._tokens[name][self._owner[written]]
        yield cache

    def _some(self, name: str, where: Array) -> Array:
        tokens = self._tokens[name].reshape(self._dims["num_tokens"], -1)
        slot, rest = np.divmod(where, tokens.shape[1])
        owner = self._owner[slot]
        old = self._first[name].reshape(-1)[where]
        out: Array = np.where(owner >= 0, tokens[owner, rest], old) if tokens.size else old
        return out

    def spots(self, rng: np.random.Generator) -> Arrays:
        """In slots that are written."""
        token = self._dims["num_heads"] * self._dims["head_size"]
        slots = self._slots[draw_spots(rng, self._slots.size)]
        return {name: slots * token + rng.integers(0, token, slots.size) for name in self.expect()}
