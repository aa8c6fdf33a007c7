# SPDX-License-Identifier: MIT
"""Decode of a mixture of experts: ``y[m, j] = w[expert_ids[m, j]] @ x[m]``. Reads each visited expert once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from itertools import islice
from typing import Any

import numpy as np

from roofbench import data
from roofbench.formats import FORMATS, Array, Parts
from roofbench.models import Model
from roofbench.numerics import Close, Expected, aligned
from roofbench.op import (
    Arg,
    Arrays,
    Case,
    Dims,
    Instance,
    Op,
    Traffic,
    Types,
    axes,
    check_sizes,
    dtype_of,
    instances_for,
)
from roofbench.ops import _product as linear

_SUITE_FORMATS = {"quick": ("bf16", "int4", "mxfp4"), "standard": ("bf16", "int4", "mxfp4")}
_LAYERS: dict[str, dict[str, tuple[int, ...]]] = {"quick": {"gate": (1,)}, "standard": {"gate": (1,), "down": (1,)}}
_EVERY_M = (1, 2, 4, 8, 16)


class GemvMoe(Op):
    """x (M, x_slots, K), w (E, N, K) stored in any format, expert_ids (M, top_k) int32, y (M, top_k, N).

    x_slots is 1 where a token's experts share its x (gate, up), top_k where each has its own (down).
    """

    name = "gemv_moe"

    def cases(self, model: Model, suite: str) -> Iterator[Case]:
        for layer in model.matrices():
            if not layer.experts:
                continue
            for m in linear.chosen(_LAYERS[suite], layer) if suite in _LAYERS else _EVERY_M:
                for format in _SUITE_FORMATS.get(suite, self.formats):
                    dims = {
                        "M": m,
                        "N": layer.N,
                        "K": layer.K,
                        "E": layer.experts,
                        "top_k": layer.top_k,
                        "x_slots": layer.top_k if layer.per_expert_input else 1,
                    }
                    yield Case(self.name, format, f"{model.id}/experts_{layer.name}/M{m}", dims)

    def signature(self, format: str, dims: Mapping[str, int]) -> dict[str, Arg]:
        types = self.types(format)
        m, n, k, e, top_k, x_slots = (dims[name] for name in ("M", "N", "K", "E", "top_k", "x_slots"))
        check_sizes(dims, M=0, N=0, K=0, E=1, top_k=1)
        if x_slots not in (1, top_k):
            raise ValueError(f"x has {x_slots} slots per token; it must have 1 or expert_ids' top_k of {top_k}")
        weights = FORMATS[types.w].parts((e, n, k), types.x)
        return {
            "x": Arg((m, x_slots, k), dtype_of(types.x)),
            **{name: Arg(*part) for name, part in weights.items()},
            "expert_ids": Arg((m, top_k), np.dtype(np.int32)),
            "y": Arg((m, top_k, n), dtype_of(types.y), "out"),
        }

    def infer(self, format: str, arrays: Mapping[str, Any]) -> Dims:
        w, ids = axes(arrays, "w", "E N words"), axes(arrays, "expert_ids", "M top_k")
        x = axes(arrays, "x", "M x_slots K")
        return {"M": x["M"], "N": w["N"], "K": x["K"], "E": w["E"], "top_k": ids["top_k"], "x_slots": x["x_slots"]}

    def check_values(self, format: str, dims: Mapping[str, int], arrays: Mapping[str, Any]) -> None:
        ids = arrays["expert_ids"]
        bad = np.argwhere((ids < 0) | (ids >= dims["E"]))
        if bad.size:
            at = tuple(int(i) for i in bad[0])
            raise ValueError(f"expert_ids{list(at)} = {ids[at]}; there are {dims['E']} experts, from 0")

    def distinct(self, case: Case) -> int:
        """Experts that one launch of a case visits: its ids repeat none before all are used."""
        return min(case.dims["E"], case.dims["M"] * case.dims["top_k"])

    def traffic(self, case: Case) -> Traffic:
        signature = self.signature(case.format, case.dims)
        experts = sum(signature[name].nbytes for name in linear.parts_of(signature, "w"))
        read = experts // case.dims["E"] * self.distinct(case)
        return Traffic(read + signature["x"].nbytes + signature["expert_ids"].nbytes, signature["y"].nbytes)

    def flops(self, case: Case) -> int:
        return 2 * case.dims["M"] * case.dims["top_k"] * case.dims["N"] * case.dims["K"]

    def footprint(self, case: Case, cold_bytes: int) -> int:
        held = sum(arg.nbytes for arg in self.signature(case.format, case.dims).values())
        launches = instances_for(self.traffic(case).bytes, cold_bytes)
        return 2 * held * -(-launches // max(1, case.dims["E"] // self.distinct(case)))

    def touched(self, case: Case, arrays: Mapping[str, Array]) -> Iterator[Array]:
        weights = linear.parts_of(arrays, "w")
        yield from (array for name, array in arrays.items() if name not in weights)
        for expert in np.unique(arrays["expert_ids"]):
            yield from (part[expert : expert + 1] for part in weights.values())

    def problem(self, case: Case, seed: int, cold_bytes: int) -> list[Instance]:
        rng = np.random.default_rng(seed)
        types, dims = case.types, case.dims
        signature = self.signature(case.format, dims)
        visited = self.distinct(case)
        count = instances_for(self.traffic(case).bytes, cold_bytes)
        per_copy = max(1, dims["E"] // visited)  # launches that share no expert, in one copy of w
        rows = min(count, per_copy) * dims["M"] * dims["top_k"]
        inputs = linear.SignedInputs(rng, signature["x"].shape, types.x, rows, dims["N"])
        base = data.weights(rng, (dims["E"], dims["N"], dims["K"]), types.w, types.x)
        order = rng.permutation(dims["E"]).astype(np.int32)

        @cache
        def visits(slot: int) -> tuple[Array, tuple[Array, Array]]:
            ids = order[(slot * visited + np.arange(dims["M"] * dims["top_k"])) % dims["E"]]
            ids = ids.reshape(dims["M"], dims["top_k"])
            return ids, _visit(inputs.values, base, ids, types, inputs.blocks)

        def instance(slot: int, shift: int, weights: Parts) -> Instance:
            x, ids, y = (aligned(signature[name].shape, signature[name].dtype) for name in ("x", "expert_ids", "y"))
            ids[...], products = visits(slot)
            arrays = {"x": x, **weights, "expert_ids": ids, "y": y}
            return _Instance(arrays, inputs, products, types.y, shift)

        copies = linear.copies(base, -(-count // per_copy))
        launches = ((slot, *copy) for copy in copies for slot in range(per_copy))
        return [instance(*launch) for launch in islice(launches, count)]

    def reference(self, format: str, arrays: Mapping[str, Any], *, random: bool = True) -> dict[str, Expected]:
        types, weights = self.types(format), linear.parts_of(arrays, "w")
        x = linear.activations(arrays, types)
        values, spread = _visit(x, weights, arrays["expert_ids"], types, [slice(None)], random=random)
        return {"y": Close(values[..., 0, :], spread, types.y, random)}


class _Instance(Instance):
    """The same experts for every launch, so that caches stay cold, in another order.

    Args:
        products: (M, top_k, blocks, N) of each block of K with the first order, and their spread (M, top_k, N).
    """

    def __init__(
        self, arrays: Arrays, inputs: linear.SignedInputs, products: tuple[Array, Array], y: str, shift: int
    ) -> None:
        super().__init__(arrays)
        self._inputs, self._products, self._y, self._shift = inputs, products, y, shift
        self._ids = arrays["expert_ids"].copy()
        self._order = np.broadcast_to(np.arange(self._ids.shape[1]), self._ids.shape)
        self._signs = np.ones((*arrays["x"].shape[:2], products[0].shape[2]))

    def draw(self, rng: np.random.Generator) -> Arrays:
        x, self._signs = self._inputs.draw(rng)
        self._order = rng.permuted(np.broadcast_to(np.arange(self._ids.shape[1]), self._ids.shape), axis=1)
        if x.shape[1] > 1:
            x = np.take_along_axis(x, self._order[..., None], axis=1)
        return {"x": x, "expert_ids": np.take_along_axis(self._ids, self._order, axis=1)}

    def expect(self) -> dict[str, Expected]:
        values, spread = self._products
        rows = (np.arange(len(self._order))[:, None] * self._order.shape[1] + self._order).reshape(-1)
        signs = np.broadcast_to(self._signs, values.shape[:3])
        values, spread, signs = (a.reshape(-1, *a.shape[2:])[rows] for a in (values, spread, signs))
        return {"y": linear.Signed(values, spread, signs, self._y, self._shift)}


def _visit(
    x: Array, weights: Parts, ids: Array, types: Types, blocks: list[slice], *, random: bool = True
) -> tuple[Array, Array]:
    """Products of each token and its experts, expert by expert; x (M, x_slots, K) in float64."""
    x = np.broadcast_to(x, (*ids.shape, x.shape[-1]))
    n = weights["w"].shape[1]
    values, spread = np.zeros((*ids.shape, len(blocks), n)), np.zeros((*ids.shape, n))
    for expert in np.unique(ids):
        tokens = ids == expert
        values[tokens], spread[tokens] = linear.products(
            x[tokens], linear.at(weights, expert), types, blocks, random=random
        )
    return values, spread
