# SPDX-License-Identifier: MIT
"""Decode: ``y (M, N) = x (M, K) @ w (N, K).T`` for M = 1 ... 16 tokens. Reads w once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from roofbench import data
from roofbench.formats import FORMATS, Array, Parts
from roofbench.models import Layer, Model
from roofbench.numerics import Expected, aligned
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
    dtype_of,
    instances_for,
)
from roofbench.ops import _product as linear

# layer -> M, by suite
_LAYERS: dict[str, dict[str, tuple[int, ...]]] = {
    "quick": {"k": (1,), "gate": (1,)},
    "standard": {"k": (1,), "q": (1,), "gate": (1, 8), "lm_head": (1,)},
}
_EVERY_M = (1, 2, 4, 8, 16)
_WARM_LAYERS = {"k", "v"}  # small enough for a last-level cache
_WARM_FORMATS = {"quick": ("int4",), "standard": ("f32", "bf16", "int4")}  # of that layer


class Gemv(Op):
    """x (M, K), w (N, K) stored in any format, y (M, N)."""

    name = "gemv"

    def stem(self, format: str) -> str:
        return linear.linear_stem(self.name, self.types(format).w)

    def cases(self, model: Model, suite: str) -> Iterator[Case]:
        if suite != "full" and model.experts:
            return  # the suites measure a mixture's experts in gemv_moe
        for layer in model.matrices():
            if layer.experts or layer.name == "router":
                continue
            for m in linear.chosen(_LAYERS[suite], layer) if suite in _LAYERS else _EVERY_M:
                for format in self._formats(suite, layer):
                    dims = {"M": m, "N": layer.N, "K": layer.K}
                    yield Case(self.name, format, f"{model.id}/{layer.name}/M{m}", dims)

    def _formats(self, suite: str, layer: Layer) -> tuple[str, ...]:
        return _WARM_FORMATS.get(suite, self.formats) if _WARM_LAYERS.issuperset(layer.parts) else self.formats

    def warm(self, case: Case) -> bool:
        _, layer, _ = case.name.split("/")
        return case.dims["M"] == 1 and not _WARM_LAYERS.isdisjoint(layer.split("+"))

    def signature(self, format: str, dims: Mapping[str, int]) -> dict[str, Arg]:
        types = self.types(format)
        m, n, k = (dims[name] for name in "MNK")
        check_sizes(dims, M=0, N=0, K=0)
        weights = FORMATS[types.w].parts((n, k), types.x)
        return {
            "x": Arg((m, k), dtype_of(types.x)),
            **{name: Arg(*part) for name, part in weights.items()},
            "y": Arg((m, n), dtype_of(types.y), "out"),
        }

    def infer(self, format: str, arrays: Mapping[str, Any]) -> Dims:
        n = axes(arrays, "w", "N words")["N"]
        return {**axes(arrays, "x", "M K"), "N": n}

    def traffic(self, case: Case) -> Traffic:
        signature = self.signature(case.format, case.dims)
        return Traffic(sum(a.nbytes for a in signature.values() if a.role == "in"), signature["y"].nbytes)

    def flops(self, case: Case) -> int:
        return 2 * case.dims["M"] * case.dims["N"] * case.dims["K"]

    def problem(self, case: Case, seed: int, cold_bytes: int) -> list[Instance]:
        rng = np.random.default_rng(seed)
        types, (m, n, k) = case.types, (case.dims[name] for name in "MNK")
        inputs = linear.SignedInputs(rng, (m, k), types.x, m, n)
        base = data.weights(rng, (n, k), types.w, types.x)
        products = linear.products(inputs.values, base, types, inputs.blocks)

        def instance(shift: int, weights: Parts) -> Instance:
            x, y = aligned((m, k), dtype_of(types.x)), aligned((m, n), dtype_of(types.y))
            return _Instance({"x": x, **weights, "y": y}, inputs, products, types.y, shift)

        if not cold_bytes:
            return [instance(0, base) for _ in range(linear.WARM_PAIRS)]
        count = instances_for(self.traffic(case).bytes, cold_bytes)
        return [instance(*copy) for copy in linear.copies(base, count)]

    def reference(self, format: str, arrays: Mapping[str, Any], *, random: bool = True) -> dict[str, Expected]:
        types = self.types(format)
        weights = linear.parts_of(arrays, "w")
        return {"y": linear.product(linear.activations(arrays, types), weights, types, random=random)}


class _Instance(Instance):
    """Args: products: (M, blocks, N) of each block of K, and their spread (M, N), before `shift`."""

    def __init__(
        self, arrays: Arrays, inputs: linear.SignedInputs, products: tuple[Array, Array], y: str, shift: int
    ) -> None:
        super().__init__(arrays)
        self._inputs, self._products, self._y, self._shift = inputs, products, y, shift
        self._signs = np.ones(products[0].shape[:2])

    def draw(self, rng: np.random.Generator) -> Arrays:
        x, self._signs = self._inputs.draw(rng)
        return {"x": x}

    def expect(self) -> dict[str, Expected]:
        return {"y": linear.Signed(*self._products, self._signs, self._y, self._shift)}
