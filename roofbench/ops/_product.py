# SPDX-License-Identifier: MIT
"""x @ w.T in float64 over stored codes: what gemv, gemv_moe and gemm share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from roofbench import data
from roofbench.formats import DTYPES, FORMATS, Array, Parts, unpack
from roofbench.numerics import Close, Expected, Sampled, aligned, to_f64
from roofbench.op import Arrays, Types

SAMPLE_FLOPS = 1e9  # products above this are checked on some whole columns and a projection
SAMPLE_COLUMNS = 256
VARIANTS = 3  # contents of x, the last of them unseen until timing is over
_CHUNK = 1 << 20  # weights decoded at a time: 8 MB of float64, about a cache


def linear_stem(op: str, w: str) -> str:
    """Kernel file of an op for a weight format: float, fp8, integer and microscaling kernels."""
    if w == "fp8":
        return f"{op}_fp8"
    if w in ("int8", "int4"):
        return f"{op}_int"
    return f"{op}_mx" if FORMATS[w].group else op


def parts_of(arrays: Mapping[str, Any], prefix: str) -> Parts:
    """The parts of one stored matrix: ``prefix`` and ``prefix_...``."""
    return {name: a for name, a in arrays.items() if name == prefix or name.startswith(f"{prefix}_")}


def activations(arrays: Mapping[str, Any], types: Types) -> Array:
    """x in float64, decoded if it is stored in a format."""
    if "x_scales" in arrays:
        return unpack(parts_of(arrays, "x"), types.x, np.float64, prefix="x")
    return to_f64(arrays["x"])


def random_activations(rng: np.random.Generator, shape: tuple[int, ...], types: Types) -> list[Arrays]:
    """`VARIANTS` standard normal contents of x, in the format that the row's name says."""
    if types.x in DTYPES and types.x != "fp8":
        return [{"x": data.normal(rng, shape, DTYPES[types.x])} for _ in range(VARIANTS)]
    return [data.weights(rng, shape, types.x, types.y, prefix="x") for _ in range(VARIANTS)]


def at(parts: Parts, index: Any) -> Parts:
    """Some rows of a stored (N, K), or some matrices of a stored (E, N, K).

    A tensor scale belongs to a whole (N, K), so an index of rows leaves it as it is.
    """
    of_rows = _rank(parts) == 2
    return {k: part if of_rows and k.endswith("_tensor_scale") else part[index] for k, part in parts.items()}


def _rank(parts: Parts) -> int:
    return next(iter(parts.values())).ndim


def rolled(parts: Parts, shift: int) -> Parts:
    """A copy with the rows (axis -2 of the codes) moved on by `shift`: other contents, same values."""
    axis = _rank(parts) - 2
    out = {}
    for key, part in parts.items():
        out[key] = aligned(part.shape, part.dtype)
        out[key][...] = part if key.endswith("_tensor_scale") else np.roll(part, shift, axis=axis)
    return out


def product(x: Array, parts: Parts, types: Types, *, random: bool = True) -> Close:
    """Every element of ``x (M, K) @ w (N, K).T``, and its spread.

    Args:
        x: (M, K) float64.
        parts: one stored (N, K) matrix.
        random: data has random signs; the spread is then ||w o x||_2, else sum |w x|.
    """
    value = np.zeros((x.shape[0], parts["w"].shape[0]))
    spread = np.zeros_like(value)
    with np.errstate(all="ignore"):
        other = np.square(x) if random else np.abs(x)
        for rows, w in _chunks(parts, types.w):
            value[:, rows] = x @ w.T
            np.square(w, out=w) if random else np.abs(w, out=w)
            spread[:, rows] = other @ w.T
        return Close(value, np.sqrt(spread) if random else spread, types.y, random)


def _chunks(parts: Parts, fmt: str) -> Iterator[tuple[slice, Array]]:
    n, words = parts["w"].shape
    step = max(1, _CHUNK // max(words * FORMATS[fmt].per_word, 1))
    for start in range(0, n, step):
        rows = slice(start, min(n, start + step))
        yield rows, unpack(at(parts, rows), fmt, np.float64)


def sampled(xs: list[Array], parts: Parts, types: Types, rng: np.random.Generator) -> list[Sampled]:
    """For each x (M, K): whole columns drawn at random, and the projection of every column."""
    n = parts["w"].shape[0]
    columns = np.sort(rng.choice(n, min(n, SAMPLE_COLUMNS), replace=False))
    signs = rng.choice([-1.0, 1.0], n)
    some = at(parts, columns)
    projection = np.zeros(xs[0].shape[1])
    for rows, w in _chunks(parts, types.w):
        projection += signs[rows] @ w
    return [Sampled(columns, product(x, some, types), signs, x @ projection) for x in xs]


def expected(xs: list[Array], parts: Parts, types: Types, rng: np.random.Generator) -> list[Expected]:
    """For each x (M, K): every element where that is quick, a sample where the product is large."""
    m, k = xs[0].shape
    if 2.0 * m * k * parts["w"].shape[0] > SAMPLE_FLOPS:
        return list(sampled(xs, parts, types, rng))
    whole = product(np.concatenate(xs), parts, types)
    return [Close(whole.value[i : i + m], whole.spread[i : i + m], types.y) for i in range(0, m * len(xs), m)]


def anywhere(**outputs: Array) -> Callable[[np.random.Generator], Arrays]:
    """Draws eight elements of each output: all of it is written."""

    def spots(rng: np.random.Generator) -> Arrays:
        return {name: rng.integers(0, y.size, 8 if y.size else 0) for name, y in outputs.items()}

    return spots
