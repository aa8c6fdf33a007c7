# SPDX-License-Identifier: MIT
"""What a kernel's output may differ by, and memory that shows what it wrote.

With u the unit roundoff of the sums, u_out that of the output and L the longest chain of additions
that the kernel declares, an output passes while

    random data:       |d| <= u_out |ref| + 6 u sqrt(L) ||w o x||_2
    adversarial data:  |d| <= u_out |ref| + u L sum |w x|

per element: the probabilistic and the deterministic bound of N. J. Higham and T. Mary, "A New Approach
to Probabilistic Rounding Error Analysis" (2019). Partial sums that wander far make the tail of the error
exponential: with a constant of 4 about one of 2 million correct elements of plain loops over 4096 products
fails, with 6 one of billions. What the bound must catch is hundreds of times larger.
"""

from __future__ import annotations

import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from roofbench.formats import DTYPES, UNIT_ROUNDOFF, Array, bf16_to_f32

RANDOM_FACTOR = 6
GUARD_BYTES = 1 << 16
_GUARD = 0xA5


@dataclass(frozen=True, slots=True)
class Limit:
    """How a kernel sums.

    Args:
        chain: additions, one after the other, between the first product and the result.
        u: unit roundoff of these sums.
    """

    chain: int
    u: float = UNIT_ROUNDOFF["f32"]


class Expected(ABC):
    """What an output must hold."""

    @abstractmethod
    def error(self, actual: Array, limit: Limit) -> float:
        """Largest error over its bound: at most 1 passes; infinity where no error can be given."""

    @abstractmethod
    def error_at(self, values: Array, where: Array, limit: Limit) -> float:
        """The same of a few elements, by their index in memory."""


@dataclass(frozen=True, slots=True)
class Stack(Expected):
    """One expectation per entry of the first axis, made when it is needed.

    Args:
        size: elements of one entry.
    """

    count: int
    size: int
    item: Callable[[int], Expected]

    def error(self, actual: Array, limit: Limit) -> float:
        if actual.shape[0] != self.count:
            return math.inf
        return max((self.item(i).error(actual[i], limit) for i in range(self.count)), default=0.0)

    def error_at(self, values: Array, where: Array, limit: Limit) -> float:
        entry, rest = np.divmod(where, self.size)
        found = (self.item(i).error_at(values[entry == i], rest[entry == i], limit) for i in np.unique(entry))
        return max(found, default=0.0)


@dataclass(frozen=True, slots=True)
class Exact(Expected):
    """The same bits, everywhere."""

    value: Array

    def error(self, actual: Array, limit: Limit) -> float:
        return 0.0 if np.array_equal(_bits(actual), _bits(self.value)) else math.inf

    def error_at(self, values: Array, where: Array, limit: Limit) -> float:
        return Exact(self.value.reshape(-1)[where]).error(values, limit)


@dataclass(frozen=True, slots=True)
class Moved(Expected):
    """The same bits, looked up when they are needed.

    Args:
        entries: all of them, as arrays that follow each other along the first axis.
        some: a few, by their index in memory.
    """

    entries: Callable[[], Iterator[Array]]
    some: Callable[[Array], Array]

    def error(self, actual: Array, limit: Limit) -> float:
        at = 0
        for entry in self.entries():
            if not np.array_equal(_bits(actual[at : at + len(entry)]), _bits(entry)):
                return math.inf
            at += len(entry)
        return 0.0 if at == len(actual) else math.inf

    def error_at(self, values: Array, where: Array, limit: Limit) -> float:
        return Exact(self.some(where)).error(values, limit)


@dataclass(frozen=True, slots=True)
class Close(Expected):
    """A sum of products, to its bound.

    Args:
        value: exact results in float64, of the output's shape.
        spread: ||w o x||_2 on random data, sum |w x| on adversarial data, of the same shape.
        y: type of the output.
        random: which of the two the spread is.
    """

    value: Array
    spread: Array
    y: str
    random: bool = True

    def bound(self, limit: Limit) -> Array:
        """Largest error allowed, per element, in float64."""
        u, chain = limit.u, max(limit.chain, 1)
        sums = RANDOM_FACTOR * u * math.sqrt(chain) if self.random else u * chain
        return UNIT_ROUNDOFF[self.y] * np.abs(self.value) + sums * self.spread + _tiny(self.y)

    def error(self, actual: Array, limit: Limit) -> float:
        if actual.shape != self.value.shape:
            return math.inf
        if actual.size == 0:
            return 0.0
        with np.errstate(all="ignore"):
            y = to_f64(actual)
            finite = np.isfinite(self.value.astype(DTYPES[self.y]).astype(np.float64))
            # NaN and infinities must be carried through; a finite result must be finite.
            same = np.where(np.isnan(self.value), np.isnan(y), y == np.sign(self.value) * math.inf)
            if not np.where(finite, np.isfinite(y), same).all():
                return math.inf
            error = np.abs(y - self.value) / self.bound(limit)
            return float(error.max(where=finite, initial=0.0))

    def error_at(self, values: Array, where: Array, limit: Limit) -> float:
        some = replace(self, value=self.value.reshape(-1)[where], spread=self.spread.reshape(-1)[where])
        return some.error(values, limit)

    def rolled(self, shift: int) -> Close:
        """The same with the columns (last axis) moved on by `shift`, the last ones to the front."""
        return replace(self, value=np.roll(self.value, shift, -1), spread=np.roll(self.spread, shift, -1))


@dataclass(frozen=True, slots=True)
class Sampled(Expected):
    """A large product: some whole output columns to their bound, and a projection of everything.

    The projection is y . r = x . (w^T r) with random signs r, so that each output column counts.

    Args:
        columns: indices into the last axis.
        sample: what these columns must hold.
        signs: r, one per column.
        projected: x . (w^T r) in float64: the output's shape without its last axis.
    """

    columns: Array
    sample: Close
    signs: Array
    projected: Array

    def error(self, actual: Array, limit: Limit) -> float:
        if actual.shape != (*self.projected.shape, self.signs.size):
            return math.inf
        sampled = self.sample.error(np.ascontiguousarray(actual[..., self.columns]), limit)
        got = _project(actual, self.signs)
        mean_square = np.square(self.sample.bound(limit)).mean(axis=-1)
        # Errors of N columns add up like a random walk; each is at most its bound.
        error = np.abs(got - self.projected) / (4 * np.sqrt(self.signs.size * mean_square))
        if not np.isfinite(error).all():
            return math.inf
        return max(sampled, float(error.max(initial=0.0)))

    def error_at(self, values: Array, where: Array, limit: Limit) -> float:
        """Elements outside the sample must be finite."""
        row, column = np.divmod(where, self.signs.size)
        place = np.argsort(self.columns)
        at = place[np.searchsorted(self.columns, column, sorter=place) % self.columns.size]
        known = self.columns[at] == column
        if not np.isfinite(to_f64(values)).all():
            return math.inf
        return self.sample.error_at(values[known], row[known] * self.columns.size + at[known], limit)


def _project(y: Array, signs: Array) -> Array:
    flat = y.reshape(-1, y.shape[-1])
    out = np.empty(flat.shape[0])
    for i, row in enumerate(flat):
        out[i] = to_f64(row) @ signs
    return out.reshape(y.shape[:-1])


def to_f64(a: Array) -> Array:
    """Exact, for every type that an output has."""
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        return np.asarray(bf16_to_f32(a) if a.dtype == DTYPES["bf16"] else a, np.float64)


def _bits(a: Array) -> Array:
    return np.ascontiguousarray(a).view(np.uint8)


def _tiny(y: str) -> float:
    """Half the smallest subnormal: what rounding to it may lose."""
    dtype = DTYPES[y]
    one = np.ones(1, {2: np.uint16, 4: np.uint32, 1: np.uint8}[dtype.itemsize]).view(dtype)
    return float(one.astype(np.float64)[0]) / 2


def aligned(shape: tuple[int, ...], dtype: Any, align: int = 64) -> Array:
    """Uninitialised array whose memory starts at a multiple of `align` bytes, between guard bands."""
    dtype = np.dtype(dtype)
    nbytes = math.prod(shape) * dtype.itemsize
    raw = np.empty(nbytes + 2 * GUARD_BYTES + align, np.uint8)
    start = GUARD_BYTES + -(raw.ctypes.data + GUARD_BYTES) % align
    raw[:start] = _GUARD
    raw[start + nbytes :] = _GUARD
    array: Array = raw[start : start + nbytes].view(dtype).reshape(shape)
    return array


def guards_intact(array: Array) -> bool:
    """Whether nothing was written just before or after an array of `aligned`."""
    raw = array
    while raw.base is not None:
        raw = raw.base
    if array.size == 0:  # its address says nothing
        return bool((raw == _GUARD).all())
    start = array.ctypes.data - raw.ctypes.data
    stop = start + array.nbytes
    before, after = raw[start - GUARD_BYTES : start], raw[stop : stop + GUARD_BYTES]
    return bool((before == _GUARD).all() and (after == _GUARD).all())


def checksum(array: Array) -> int:
    """CRC-32 of an array's bytes."""
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def poison(array: Array) -> None:
    """Fill with NaN (0xFF in every byte is NaN in f32, f16, bf16, e4m3 and e8m0)."""
    array.view(np.uint8)[...] = 0xFF
