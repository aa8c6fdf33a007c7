# SPDX-License-Identifier: MIT
"""Prefill: ``y (B, M, N) = x (B, M, K) @ w (1 or B, N, K).T``, one w for all of the batch or one each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from roofbench import data
from roofbench.formats import FORMATS, Array, Parts
from roofbench.models import Layer, Model
from roofbench.numerics import Expected, Stack, aligned
from roofbench.op import (
    Arg,
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
from roofbench.ops import _product as linear

# layer -> (B, M), by suite
_LAYERS: dict[str, dict[str, tuple[tuple[int, int], ...]]] = {
    "quick": {"k": ((1, 512),)},
    "standard": {"k": ((1, 512),), "q": ((1, 512),)},
}
_EVERY_M = ((1, 128), (1, 512), (1, 2048), (4, 512))
_QUICK_FORMATS = ("f32", "bf16", "int4")


class Gemm(Op):
    """x (B, M, K), w (w_batch, N, K) stored in any format, y (B, M, N); w_batch is 1 or B.

    Rows named W8A8 or W4A4 take x in the format of w, with ``x_scales`` and ``x_tensor_scale`` beside it.
    """

    name = "gemm"

    def stem(self, format: str) -> str:
        return linear.linear_stem(self.name, self.types(format).w)

    def cases(self, model: Model, suite: str) -> Iterator[Case]:
        if suite != "full" and model.experts:
            return
        for layer in model.matrices():
            if layer.experts or layer.name in ("router", "lm_head"):
                continue  # a prompt needs the logits of its last token only: lm_head is a gemv
            for b, m in linear.chosen(_LAYERS[suite], layer) if suite in _LAYERS else _EVERY_M:
                for format in self._formats(suite, layer):
                    dims = {"B": b, "M": m, "N": layer.N, "K": layer.K, "w_batch": 1}
                    batch = f"B{b}M{m}" if b > 1 else f"M{m}"
                    yield Case(self.name, format, f"{model.id}/{layer.name}/{batch}", dims)

    def _formats(self, suite: str, layer: Layer) -> tuple[str, ...]:
        if suite == "quick" or (suite == "standard" and "k" in layer.parts):
            return _QUICK_FORMATS
        return tuple(FORMATS) if suite == "standard" else self.formats

    def signature(self, format: str, dims: Mapping[str, int]) -> dict[str, Arg]:
        types = self.types(format)
        b, m, n, k, w_batch = (dims[name] for name in ("B", "M", "N", "K", "w_batch"))
        check_sizes(dims, B=0, M=0, N=0, K=0)
        if w_batch not in (1, b):
            raise ValueError(f"w has a batch of {w_batch}; it must be 1 or x's batch of {b}")
        if format in FORMATS:
            x = {"x": Arg((b, m, k), dtype_of(types.x))}
        else:
            x = {name: Arg(*part) for name, part in FORMATS[types.x].parts((b, m, k), types.y, "x").items()}
        return {
            **x,
            **{name: Arg(*part) for name, part in FORMATS[types.w].parts((w_batch, n, k), types.x).items()},
            "y": Arg((b, m, n), dtype_of(types.y), "out"),
        }

    def infer(self, format: str, arrays: Mapping[str, Any]) -> Dims:
        w, x = axes(arrays, "w", "w_batch N words"), axes(arrays, "x", "B M K")
        if format not in FORMATS:
            x["K"] *= FORMATS[self.types(format).x].per_word
        return {**x, "N": w["N"], "w_batch": w["w_batch"]}

    def traffic(self, case: Case) -> Traffic:
        signature = self.signature(case.format, case.dims)
        return Traffic(sum(a.nbytes for a in signature.values() if a.role == "in"), signature["y"].nbytes)

    def flops(self, case: Case) -> int:
        return 2 * case.dims["B"] * case.dims["M"] * case.dims["N"] * case.dims["K"]

    def problem(self, case: Case, seed: int, cold_bytes: int) -> Problem:
        rng = np.random.default_rng(seed)
        types = case.types
        b, m, n, k, w_batch = (case.dims[name] for name in ("B", "M", "N", "K", "w_batch"))
        inputs = linear.Inputs(rng, (b, m, k), types)
        base = data.weights(rng, (w_batch, n, k), types.w, types.x)

        def known(i: int) -> Expected:
            x, w = inputs.values[i], linear.at(base, i if w_batch > 1 else 0)
            large = 2.0 * m * n * k > linear.SAMPLE_FLOPS
            return linear.sampled(x, w, types, rng) if large else linear.product(x, w, types)

        batches = [known(i) for i in range(b)]

        def instance(shift: int, weights: Parts) -> Instance:
            y = aligned((b, m, n), dtype_of(types.y))
            x = {name: aligned(array.shape, array.dtype) for name, array in inputs.stored.items()}

            def expect(signs: Array) -> dict[str, Expected]:
                return {"y": Stack(b, lambda i: batches[i].signed(signs[i, :, 0]).rolled(shift))}

            return Instance({**x, **weights, "y": y}, expect, linear.anywhere(y=y))

        count = instances_for(self.traffic(case).bytes, cold_bytes)
        return Problem([instance(*copy) for copy in linear.copies(base, count)], inputs.draw)

    def reference(self, format: str, arrays: Mapping[str, Any], *, random: bool = True) -> dict[str, Expected]:
        types, x = self.types(format), linear.activations(arrays, self.types(format))
        weights = linear.parts_of(arrays, "w")
        shared = weights["w"].shape[0] == 1

        def item(i: int) -> Expected:
            return linear.product(x[i], linear.at(weights, 0 if shared else i), types, random=random)

        return {"y": Stack(x.shape[0], item)}
