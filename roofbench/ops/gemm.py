# SPDX-License-Identifier: MIT
"""Prefill: ``y (B, M, N) = x (B, M, K) @ w (1 or B, N, K).T``, one w for all of the batch or one each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from roofbench import data
from roofbench.formats import FORMATS, Array, Parts
from roofbench.models import Layer, Model
from roofbench.numerics import Expected, Limit, Stack, aligned
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
    draw_spots,
    dtype_of,
    instances_for,
)
from roofbench.ops import _product as linear

THOROUGH = 2  # buffers whose products are compared more thoroughly
WHOLE_ROWS = 4
FEW_COLUMNS = 16

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

    def problem(self, case: Case, seed: int, cold_bytes: int) -> list[Instance]:
        rng = np.random.default_rng(seed)
        types = case.types
        b, m, n, k, w_batch = (case.dims[name] for name in ("B", "M", "N", "K", "w_batch"))
        inputs = linear.WindowInputs(rng, (b, m, k), types)
        base = data.weights(rng, (w_batch, n, k), types.w, types.x)
        matrices = [linear.at(base, i) for i in range(w_batch)]
        large = 2.0 * m * n * k > linear.SAMPLE_FLOPS
        columns = [linear.Columns(rng, w, types) for w in matrices] if large else []

        def instance(i: int, shift: int, weights: Parts) -> Instance:
            x = {name: aligned(array.shape, array.dtype) for name, array in inputs.contents(0).items()}
            arrays = {**x, **weights, "y": aligned((b, m, n), dtype_of(types.y))}
            if large:
                return _LargeInstance(arrays, inputs, columns, types, shift, thorough=i < THOROUGH)
            return _Instance(arrays, inputs, matrices, types, shift)

        count = instances_for(self.traffic(case).bytes, cold_bytes)
        return [instance(i, *copy) for i, copy in enumerate(linear.copies(base, count))]

    def reference(self, format: str, arrays: Mapping[str, Any], *, random: bool = True) -> dict[str, Expected]:
        types, x = self.types(format), linear.activations(arrays, self.types(format))
        weights = linear.parts_of(arrays, "w")
        shared = weights["w"].shape[0] == 1

        def item(i: int) -> Expected:
            return linear.product(x[i], linear.at(weights, 0 if shared else i), types, random=random)

        return {"y": Stack(x.shape[0], x.shape[1] * weights["w"].shape[1], item)}


class _Instance(Instance):
    """A product that is small enough to be worked out for every launch.

    Args:
        of: one per matrix of the batch: the stored matrices.
    """

    def __init__(
        self, arrays: Arrays, inputs: linear.WindowInputs, of: Sequence[Any], types: Types, shift: int
    ) -> None:
        super().__init__(arrays)
        self._inputs, self._of, self._types, self._shift = inputs, of, types, shift
        self._start = 0

    def draw(self, rng: np.random.Generator) -> Arrays:
        self._start = self._inputs.draw(rng)
        return self._inputs.contents(self._start)

    def expect(self) -> dict[str, Expected]:
        b, m, n = self.arrays["y"].shape
        return {"y": Stack(b, m * n, self._item)}

    def _item(self, i: int) -> Expected:
        return linear.product(self._x(i), self._of[i % len(self._of)], self._types).rolled(self._shift)

    def _x(self, i: int, rows: Any = slice(None)) -> Array:
        """Some rows of the x of product i, in float64."""
        m = self.arrays["y"].shape[1]
        return self._inputs.values(self._start, np.arange(i * m, (i + 1) * m)[rows])


class _LargeInstance(_Instance):
    """One that is not.

    Args:
        of: `Columns` of each matrix.
        thorough: all sampled columns and some whole rows are compared, else a few columns; the projection is always.
    """

    def __init__(self, *arguments: Any, thorough: bool) -> None:
        super().__init__(*arguments)
        self._thorough = thorough

    def _item(self, i: int) -> Expected:
        return _Large(self._of[i % len(self._of)], partial(self._x, i), self._shift, self._thorough)

    def spots(self, rng: np.random.Generator) -> Arrays:
        """Half of them in columns whose elements are known."""
        b, m, n = self.arrays["y"].shape
        known = (self._of[0].columns[rng.integers(0, FEW_COLUMNS, 8)] + self._shift) % n
        rows = rng.integers(0, b * m, 8)
        return {"y": np.concatenate([rows * n + known, draw_spots(rng, b * m * n)])}


@dataclass(frozen=True, slots=True)
class _Large(Expected):
    """y (M, N) of one large product."""

    of: linear.Columns
    x: Callable[[Any], Array]  # rows -> x in float64
    shift: int
    thorough: bool

    def error(self, actual: Array, limit: Limit) -> float:
        count = linear.SAMPLE_COLUMNS if self.thorough else FEW_COLUMNS
        worst = self.of.expected(self.x(slice(None)), count, self.shift).error(actual, limit)
        if self.thorough:
            rows = np.unique(np.linspace(0, len(actual) - 1, WHOLE_ROWS).astype(int))
            whole = linear.product(self.x(rows), self.of.parts, self.of.types).rolled(self.shift)
            worst = max(worst, whole.error(actual[rows], limit))
        return worst

    def error_at(self, values: Array, where: Array, limit: Limit) -> float:
        row, column = np.divmod(where, self.of.signs.size)
        rows, at = np.unique(row, return_inverse=True)
        few = self.of.expected(self.x(rows), FEW_COLUMNS, self.shift)
        return few.error_at(values, at * self.of.signs.size + column, limit)
