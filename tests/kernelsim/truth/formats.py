# SPDX-License-Identifier: MIT
"""Small floating-point formats and what cvt makes of a number, by enumeration: a format is the ascending list of
its positive values, a conversion is a search in it.

PTX ISA 9.0: formats in 5.2.3, conversions in 9.7.9.21 (cvt), block scales in 9.7.14.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Format:
    """sign | exponent | mantissa, with subnormals and the usual bias 2^(exponent - 1) - 1."""

    name: str
    exponent: int
    mantissa: int
    specials: str  # "inf nan" as IEEE 754 has them, "nan" where only all ones is one, "" where every code is a number

    @property
    def sign(self):
        return 1 << self.exponent + self.mantissa

    @cached_property
    def all_magnitudes(self):
        """The value of every code without a sign, as if none were special: the last ones are beyond the finite."""
        codes = np.arange(self.sign)
        e, m = codes >> self.mantissa, codes & (1 << self.mantissa) - 1
        significand = np.where(e == 0, m, m + (1 << self.mantissa))
        return np.ldexp(significand.astype(np.float64), np.maximum(e, 1) - (1 << self.exponent - 1) + 1 - self.mantissa)

    @property
    def finite(self):
        """How many codes without a sign are finite; the next one is infinity where the format has it."""
        return self.sign - {"inf nan": 1 << self.mantissa, "nan": 1, "": 0}[self.specials]

    @property
    def nan(self):
        return self.sign - 1 if self.specials else None

    def decode(self, codes):
        codes = np.asarray(codes).astype(np.int64)
        magnitude = codes & self.sign - 1
        special = np.where((self.specials == "inf nan") & (magnitude == self.finite), np.inf, np.nan)
        values = np.where(magnitude < self.finite, self.all_magnitudes[magnitude], special)
        return np.where(codes & self.sign, -values, values)

    def encode(self, x, rounding="rn", satfinite=False, relu=False):
        """The codes of float64 x; rounding is .rn (ties to even), .rna (ties away), .rz, .rp or .rm."""
        x = np.asarray(x, np.float64)
        nan, negative, magnitude = np.isnan(x), np.signbit(x), np.abs(x)
        magnitude = np.where(nan, 0, magnitude)
        steps = np.append(self.all_magnitudes[: self.finite], self.after_the_last)
        low = np.searchsorted(steps, magnitude, side="right") - 1
        low = np.minimum(low, self.finite - 1)  # beyond the finite, a number rounds as if the exponent went on
        middle = (steps[low] + steps[low + 1]) / 2
        exact = steps[low] == magnitude
        up = {
            "rn": (magnitude > middle) | ((magnitude == middle) & (low % 2 == 1)),
            "rna": magnitude >= middle,
            "rz": np.zeros_like(exact),
            "rp": ~exact & ~negative,
            "rm": ~exact & negative,
        }[rounding]
        codes = np.where(np.isinf(magnitude), self.finite, low + up)
        if satfinite:
            codes = np.minimum(codes, self.finite - 1)
        codes = np.where(negative, codes | self.sign, codes)
        if relu:
            codes = np.where(negative, 0, codes)
        # "For .e2m1x2, .e2m3x2, .e3m2x2 [...] NaN results are converted to positive MAX_NORM."
        return np.where(nan, self.finite - 1 if self.nan is None else self.nan, codes).astype(np.uint32)

    @property
    def after_the_last(self):
        """What would follow the last finite value: half way to it and beyond does not round back."""
        if self.finite < self.sign:
            return self.all_magnitudes[self.finite]
        return 2 * self.all_magnitudes[-1] - self.all_magnitudes[-2]

    def same(self, codes, expected):
        """Equal codes, or two NaNs: which NaN is left open unless a section says so."""
        codes, expected = np.asarray(codes), np.asarray(expected)
        return (codes == expected) | (np.isnan(self.decode(codes)) & np.isnan(self.decode(expected)))


F16 = Format("f16", 5, 10, "inf nan")
BF16 = Format("bf16", 8, 7, "inf nan")
TF32 = Format("tf32", 8, 10, "inf nan")  # in a register: the upper 19 bits of 32
E4M3 = Format("e4m3", 4, 3, "nan")
E5M2 = Format("e5m2", 5, 2, "inf nan")
E2M1 = Format("e2m1", 2, 1, "")
E2M3 = Format("e2m3", 2, 3, "")
E3M2 = Format("e3m2", 3, 2, "")
FORMATS = {f.name: f for f in (F16, BF16, TF32, E4M3, E5M2, E2M1, E2M3, E3M2)}


def decode_ue8m0(codes):
    """A power of two, 255 is NaN; no sign and no zero."""
    codes = np.asarray(codes).astype(np.int64)
    return np.where(codes == 255, np.nan, np.ldexp(1.0, np.minimum(codes, 254) - 127))


def encode_ue8m0(x, rounding, satfinite):
    """cvt.{rz,rp}{.satfinite}.ue8m0x2: the magnitude's power of two below (rz) or above (rp).

    The sign is dropped ("a positive MAX_NORM in .ue8m0x2 for which the destination sign is not supported"); what is
    smaller than the smallest becomes the smallest. These two follow cuda_fp8.hpp's code for CPUs.
    """
    magnitude = np.abs(np.asarray(x, np.float64))
    powers = np.ldexp(1.0, np.arange(-127, 129))  # 2^128 takes the place of NaN
    side = {"rz": "right", "rp": "left"}[rounding]
    finite = np.where(np.isnan(magnitude), 1, magnitude)
    codes = np.clip(np.searchsorted(powers, finite, side=side) - (rounding == "rz"), 0, 255)
    if satfinite:
        codes = np.minimum(codes, 254)
    return np.where(np.isnan(magnitude), 255, codes).astype(np.uint32)


def to_integer(x, rounding, bits, signed, from_f64=False):
    """cvt.{rni,rzi,rmi,rpi} to an integer: clamped to the range.

    "NaN input results in: 1. Zero if source is not .f64 and destination is not .s64, .u64. 2. Otherwise
    1 << (BitWidth(dst) - 1)".
    """
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    step = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}[rounding]
    of_nan = 1 << bits - 1 if from_f64 or bits == 64 else 0

    def one(value):
        if np.isnan(value):
            return of_nan
        if np.isinf(value):
            return high if value > 0 else low
        return min(max(int(step(value)), low), high)

    return np.array([one(v) & (1 << bits) - 1 for v in np.asarray(x, np.float64)], np.uint64)
