# SPDX-License-Identifier: MIT
"""x @ w.T in float64 over stored codes: what gemv, gemv_moe and gemm share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from roofbench import data
from roofbench.formats import DTYPES, FORMATS, Array, Parts, unpack
from roofbench.models import Layer
from roofbench.numerics import Close, Expected, Limit, Sampled, aligned, to_f64
from roofbench.op import Arrays, Types

_T = TypeVar("_T")

SAMPLE_FLOPS = 1e9  # GEMMs above this are checked on some whole columns and a projection
SAMPLE_COLUMNS = 256
WARM_PAIRS = 64  # of x and y, that share the weights of a warm row
MOST_BLOCKS = 16  # of K: 65536 contents of one row of x
WINDOWS = 1 << 16  # contents of an x that is a window
_PARTIALS_BYTES = 64 << 20
_CHUNK = 1 << 20  # weights decoded at a time: 8 MB of float64, about a cache


def linear_stem(op: str, w: str) -> str:
    """Kernel file of an op for a weight format: float, fp8, integer and microscaling kernels."""
    if w == "fp8":
        return f"{op}_fp8"
    if w in ("int8", "int4"):
        return f"{op}_int"
    return f"{op}_mx" if FORMATS[w].group else op


def chosen(table: Mapping[str, tuple[_T, ...]], layer: Layer) -> tuple[_T, ...]:
    """What a suite's table says of any of the layers that `layer` stands for."""
    return tuple(dict.fromkeys(entry for part in layer.parts for entry in table.get(part, ())))


def parts_of(arrays: Mapping[str, Any], prefix: str) -> Parts:
    """The parts of one stored matrix: ``prefix`` and ``prefix_...``."""
    return {name: a for name, a in arrays.items() if name == prefix or name.startswith(f"{prefix}_")}


def activations(arrays: Mapping[str, Any], types: Types) -> Array:
    """x in float64, decoded if it is stored in a format."""
    if "x_scales" in arrays:
        return unpack(parts_of(arrays, "x"), types.x, np.float64, prefix="x")
    return to_f64(arrays["x"])


class SignedInputs:
    """x, drawn anew for each launch: one normal content, each block of K of each row with a random sign.

    A product is linear in x, so what a launch must give follows from the products of the blocks.

    Args:
        shape: (..., K) of x.
        rows: of all products together, which share the memory for those of the blocks.
        n: columns of a product.
    """

    def __init__(self, rng: np.random.Generator, shape: tuple[int, ...], x: str, rows: int, n: int) -> None:
        self.x = data.normal(rng, shape, DTYPES[x])
        self.values = to_f64(self.x)
        count = max(1, min(MOST_BLOCKS, shape[-1], _PARTIALS_BYTES // max(8 * rows * n, 1)))
        self.edges = np.linspace(0, shape[-1], count + 1).astype(int)

    @property
    def blocks(self) -> list[slice]:
        return [slice(a, b) for a, b in zip(self.edges[:-1], self.edges[1:], strict=True)]

    def draw(self, rng: np.random.Generator) -> tuple[Array, Array]:
        """x with other signs, and the signs (..., blocks)."""
        flips = rng.integers(0, 2, (*self.x.shape[:-1], len(self.edges) - 1), np.uint8)
        raw = self.x.view(f"u{self.x.itemsize}")
        mask = np.repeat(flips, np.diff(self.edges), axis=-1).astype(raw.dtype) << (8 * raw.itemsize - 1)
        return (raw ^ mask).view(self.x.dtype), 1.0 - 2.0 * flips


class WindowInputs:
    """x, drawn anew for each launch: a window of one long row of normal values, in any type.

    Args:
        shape: (B, M, K) of x.
    """

    def __init__(self, rng: np.random.Generator, shape: tuple[int, ...], types: Types) -> None:
        self.shape, self._x = shape, types.x
        self._packed = FORMATS[types.x].scales is not None
        self._unit = FORMATS[types.x].group or 1
        length = math.prod(shape) + WINDOWS * self._unit
        if not self._packed:
            self._pool: Arrays = {"x": data.normal(rng, (length,), DTYPES[types.x])}
            return
        self._parts = FORMATS[types.x].parts(shape, types.y, "x")
        self._pool = {k: part.reshape(-1) for k, part in data.weights(rng, (1, length), types.x, types.y, "x").items()}
        if types.x == "fp8":
            scales = self._pool["x_scales"][0] * rng.uniform(0.5, 1.5, math.prod(shape[:-1]) + WINDOWS)
            self._pool["x_scales"] = scales.astype(np.float32)

    def draw(self, rng: np.random.Generator) -> int:
        """Where the next window starts, in units of the type's group."""
        return int(rng.integers(WINDOWS))

    def contents(self, start: int) -> Arrays:
        """Every part of x in that window."""
        if not self._packed:
            return {"x": self._pool["x"][start : start + math.prod(self.shape)].reshape(self.shape)}
        out = {}
        for key, (shape, _) in self._parts.items():
            size, pool = math.prod(shape), self._pool[key]
            if key == "x_tensor_scale":
                out[key] = np.broadcast_to(pool, shape)
                continue
            groups = math.prod(self.shape) // self._unit
            first = start * size // groups if FORMATS[self._x].group else start
            out[key] = pool[first : first + size].reshape(shape)
        return out

    def values(self, start: int, rows: Any) -> Array:
        """Some rows of x (B M, K), in float64."""
        parts = {
            key: part.reshape(-1)[0] if key == "x_tensor_scale" else _rows(part, self.shape)[rows]
            for key, part in self.contents(start).items()
        }
        return unpack(parts, self._x, np.float64, prefix="x") if self._packed else to_f64(parts["x"])


def _rows(part: Array, shape: tuple[int, ...]) -> Array:
    return part.reshape(math.prod(shape[:-1]), *part.shape[len(shape) - 1 :])


@dataclass(frozen=True, slots=True)
class Signed(Expected):
    """A product of `SignedInputs`, from those of its blocks of K.

    Args:
        values: (rows, blocks, N) float64, the product of each block by itself.
        spread: (rows, N), of all blocks together.
        signs: (rows, blocks) of the x that was drawn.
        y: type of the output.
        shift: columns are moved on by it.
    """

    values: Array
    spread: Array
    signs: Array
    y: str
    shift: int = 0

    def error(self, actual: Array, limit: Limit) -> float:
        value = np.matmul(self.signs[:, None, :], self.values)[:, 0, :]
        return Close(value, self.spread, self.y).rolled(self.shift).error(actual.reshape(value.shape), limit)

    def error_at(self, values: Array, where: Array, limit: Limit) -> float:
        n = self.values.shape[-1]
        row, column = np.divmod(where, n)
        column = (column - self.shift) % n
        value = np.einsum("ib,ib->i", self.signs[row], self.values[row, :, column])
        return Close(value, self.spread[row, column], self.y).error(values, limit)


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


def copies(base: Parts, count: int) -> Iterator[tuple[int, Parts]]:
    """A matrix `count` times in memory of its own, with the shift by which its rows were moved on."""
    n = next(iter(base.values())).shape[_rank(base) - 2]
    for i in range(count):
        shift = i * n // count
        yield shift, rolled(base, shift) if i else base


def product(x: Array, parts: Parts, types: Types, *, random: bool = True) -> Close:
    """Every element of ``x (M, K) @ w (N, K).T``, and its spread."""
    values, spread = products(x, parts, types, [slice(None)], random=random)
    return Close(values[:, 0], spread, types.y, random)


def products(x: Array, parts: Parts, types: Types, blocks: list[slice], *, random: bool = True) -> tuple[Array, Array]:
    """The same, each block of K by itself.

    Args:
        x: (M, K) float64.
        parts: one stored (N, K) matrix.
        random: data has random signs; the spread is then ||w o x||_2, else sum |w x|.

    Returns:
        Products (M, blocks, N), and the spread (M, N) of all blocks together.
    """
    values = np.zeros((x.shape[0], len(blocks), parts["w"].shape[0]))
    spread = np.zeros((x.shape[0], parts["w"].shape[0]))
    with np.errstate(all="ignore"):
        other = np.square(x) if random else np.abs(x)
        for rows, w in _chunks(parts, types.w):
            for i, block in enumerate(blocks):
                values[:, i, rows] = x[:, block] @ w[:, block].T
            np.square(w, out=w) if random else np.abs(w, out=w)
            spread[:, rows] = other @ w.T
        return values, np.sqrt(spread) if random else spread


def _chunks(parts: Parts, fmt: str) -> Iterator[tuple[slice, Array]]:
    n, words = parts["w"].shape
    step = max(1, _CHUNK // max(words * FORMATS[fmt].per_word, 1))
    for start in range(0, n, step):
        rows = slice(start, min(n, start + step))
        yield rows, unpack(at(parts, rows), fmt, np.float64)


class Columns:
    """What is worked out once of a large w (N, K): some whole rows of it, drawn at random, and w^T r."""

    def __init__(self, rng: np.random.Generator, parts: Parts, types: Types) -> None:
        n = parts["w"].shape[0]
        self.parts, self.types = parts, types
        self.columns = rng.choice(n, min(n, SAMPLE_COLUMNS), replace=False)
        self.sample = at(parts, self.columns)
        self.signs = rng.choice([-1.0, 1.0], n)
        self.projection = sum(self.signs[rows] @ w for rows, w in _chunks(parts, types.w))

    def expected(self, x: Array, count: int, shift: int) -> Sampled:
        """Of x (M, K) float64 and `count` columns, all columns moved on by `shift`."""
        n = self.signs.size
        sample = product(x, at(self.sample, slice(count)), self.types)
        return Sampled((self.columns[:count] + shift) % n, sample, np.roll(self.signs, shift), x @ self.projection)
