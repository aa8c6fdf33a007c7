# SPDX-License-Identifier: MIT
"""x @ w.T in float64 over stored codes: what gemv, gemv_moe and gemm share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from roofbench import data
from roofbench.formats import DTYPES, FORMATS, Array, Parts, unpack
from roofbench.models import Layer
from roofbench.numerics import Close, Sampled, aligned, to_f64
from roofbench.op import Arrays, Drawn, Types

_T = TypeVar("_T")

SAMPLE_FLOPS = 1e9  # GEMMs above this are checked on some whole columns and a projection
SAMPLE_COLUMNS = 256
WARM_PAIRS = 64  # of x and y, that share the weights of a warm row
MOST_BLOCKS = 16  # of K: 65536 contents of one row of x
_PARTIALS_BYTES = 64 << 20
_SIGN_BITS = {  # of an element, or of all codes in a word
    "f32": 1 << 31,
    "f16": 1 << 15,
    "bf16": 1 << 15,
    "fp8": 0x80,
    "mxfp8": 0x80808080,
    "mxfp4": 0x88888888,
    "nvfp4": 0x88888888,
}
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


class Inputs:
    """x, drawn anew for each launch: one normal content, each block of K of each row with a random sign.

    A product is linear in x, so what a launch must give follows from the products of the blocks.

    Args:
        shape: (..., K) of x.
        blocks: of K; 1 where x is stored in a packed format.
    """

    def __init__(self, rng: np.random.Generator, shape: tuple[int, ...], types: Types, blocks: int = 1) -> None:
        if types.x in DTYPES and types.x != "fp8":
            self.stored: Arrays = {"x": data.normal(rng, shape, DTYPES[types.x])}
        else:
            self.stored = data.weights(rng, shape, types.x, types.y, prefix="x")
        self.values = activations(self.stored, types)
        self.edges = np.linspace(0, shape[-1], blocks + 1).astype(int)
        self._rows = shape[:-1]
        self._bits = _SIGN_BITS[types.x]

    @property
    def blocks(self) -> list[slice]:
        return [slice(a, b) for a, b in zip(self.edges[:-1], self.edges[1:], strict=True)]

    def draw(self, rng: np.random.Generator) -> Drawn:
        """The key is the signs, (*rows, blocks)."""
        flips = rng.integers(0, 2, (*self._rows, len(self.edges) - 1), np.uint8)
        x = self.stored["x"]
        raw = x.view(f"u{x.itemsize}")
        mask = flips * raw.dtype.type(self._bits)
        if mask.shape[-1] > 1:
            mask = np.repeat(mask, np.diff(self.edges), axis=-1)
        return Drawn({**self.stored, "x": (raw ^ mask).view(x.dtype)}, 1.0 - 2.0 * flips)


def blocks_for(rows: int, n: int, k: int) -> int:
    """How many blocks of K to tell apart, so that their products of `rows` x and n columns take 64 MB at most."""
    return max(1, min(MOST_BLOCKS, k, _PARTIALS_BYTES // max(8 * rows * n, 1)))


@dataclass(frozen=True, slots=True)
class Partials:
    """Products of each block of K by itself, for x of any signs.

    Args:
        values: (*rows, blocks, N) float64.
        spread: (*rows, N), of all blocks together.
        y: type of the output.
    """

    values: Array
    spread: Array
    y: str

    def signed(self, signs: Array) -> Close:
        """The whole, for signs (*rows, blocks)."""
        return Close(np.matmul(signs[..., None, :], self.values)[..., 0, :], self.spread, self.y)


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


def sampled(x: Array, parts: Parts, types: Types, rng: np.random.Generator) -> Sampled:
    """Whole columns of ``x (M, K) @ w (N, K).T`` drawn at random, and the projection of every column."""
    n = parts["w"].shape[0]
    columns = np.sort(rng.choice(n, min(n, SAMPLE_COLUMNS), replace=False))
    signs = rng.choice([-1.0, 1.0], n)
    some = at(parts, columns)
    projection = np.zeros(x.shape[1])
    for rows, w in _chunks(parts, types.w):
        projection += signs[rows] @ w
    return Sampled(columns, product(x, some, types), signs, x @ projection)


def anywhere(**outputs: Array) -> Callable[[np.random.Generator], Arrays]:
    """Draws eight elements of each output: all of it is written."""

    def spots(rng: np.random.Generator) -> Arrays:
        return {name: rng.integers(0, y.size, 8 if y.size else 0) for name, y in outputs.items()}

    return spots
