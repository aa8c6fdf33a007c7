# SPDX-License-Identifier: MIT
"""Small floating-point formats against their definition in float64, and against NumPy and ml_dtypes."""

import ctypes
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import pytest

from kernelsim import toolchain

ROUNDINGS = ("kNearestEven", "kNearestAway", "kTowardZero", "kUp", "kDown")
OVERFLOWS = ("kToInfinity", "kSaturate")


@dataclass(frozen=True)
class Small:
    """A format by its definition; `peer` is somebody else's."""

    name: str
    exponent: int
    mantissa: int
    special: str  # ieee, nan or finite
    peer: type | None

    @property
    def sign(self):
        return 1 << (self.exponent + self.mantissa)

    @property
    def infinity(self):
        return ((1 << self.exponent) - 1) << self.mantissa

    @property
    def greatest(self):
        return {"ieee": self.infinity - 1, "nan": self.sign - 2, "finite": self.sign - 1}[self.special]

    def values(self, codes):
        """float64 of finite magnitudes."""
        bias = 2 ** (self.exponent - 1) - 1
        field, fraction = codes >> self.mantissa, codes & ((1 << self.mantissa) - 1)
        significand = np.where(field > 0, fraction + (1 << self.mantissa), fraction)
        return np.ldexp(significand.astype(np.float64), np.maximum(field, 1) - bias - self.mantissa)

    def decoded(self, codes):
        magnitude = codes & (self.sign - 1)
        value = self.values(magnitude)
        value[magnitude > self.greatest] = np.nan
        if self.special == "ieee":
            value[magnitude == self.infinity] = np.inf
        return np.where(codes & self.sign, -value, value)

    def encoded(self, x, rounding, overflow):
        """Codes of f32 x, by searching the neighbours among all values."""
        with np.errstate(invalid="ignore"):
            x = x.astype(np.float64)
        grid = self.values(np.arange(self.greatest + 1))
        step = grid[-1] - grid[-2]
        grid = np.append(grid, grid[-1] + step)  # what the next value would be: beyond it there is nothing to round to
        size, negative = np.abs(x), np.signbit(x)
        down = np.clip(np.searchsorted(grid, size, side="right") - 1, 0, self.greatest)
        low, high = grid[down], grid[down + 1]
        nearer = {
            "kNearestEven": (size - low > high - size) | ((size - low == high - size) & (down % 2 == 1)),
            "kNearestAway": size - low >= high - size,
            "kTowardZero": np.zeros(x.shape, bool),
            "kUp": (size > low) & ~negative,
            "kDown": (size > low) & negative,
        }[rounding]
        code = down + nearer
        too_big = code > self.greatest
        if overflow == "kSaturate" or self.special == "finite":
            code[too_big | np.isinf(x)] = self.greatest
        else:
            beyond = self.infinity if self.special == "ieee" else self.sign - 1
            code[too_big | np.isinf(x)] = beyond
        code = np.where(negative, code | self.sign, code)
        return np.where(np.isnan(x), self.greatest if self.special == "finite" else self.sign - 1, code)


FORMATS = (
    Small("F16", 5, 10, "ieee", np.float16),
    Small("Bf16", 8, 7, "ieee", ml_dtypes.bfloat16),
    Small("Tf32", 8, 10, "ieee", None),
    Small("E5m2", 5, 2, "ieee", ml_dtypes.float8_e5m2),
    Small("E4m3", 4, 3, "nan", ml_dtypes.float8_e4m3fn),
    Small("E3m2", 3, 2, "finite", ml_dtypes.float6_e3m2fn),
    Small("E2m3", 2, 3, "finite", ml_dtypes.float6_e2m3fn),
    Small("E2m1", 2, 1, "finite", ml_dtypes.float4_e2m1fn),
)

DRIVER = """
#include <stddef.h>
#include "floats.hpp"
using namespace ksim;
#define EACH(name, to, from, expression) \\
  extern "C" void name(const from *in, to *out, size_t n) { \\
    for (size_t i = 0; i < n; i++) { const from x = in[i]; out[i] = expression; } \\
  }
EACH(e8m0_decode, float, Bits, decode_e8m0(x))
EACH(ue4m3_decode, float, Bits, decode_ue4m3(x))
EACH(f16_in_hardware, float, Bits, f16_to_f32(x))
EACH(tf32_register, Bits, float, tf32<>(x))
EACH(f64_to_f16, Bits, double, encode<F16>(round_to_odd(x)))
EACH(f64_to_bf16, Bits, double, encode<Bf16>(round_to_odd(x)))
""" + "".join(
    [f"EACH({f.name}_decode, float, Bits, decode<{f.name}>(x))\n" for f in FORMATS]
    + [
        f"EACH({f.name}_{r}_{o}, Bits, float, (encode<{f.name}, {r}, {o}>(x)))\n"
        for f in FORMATS
        for r in ROUNDINGS
        for o in OVERFLOWS
    ]
    + [
        f"EACH(e8m0_{r}_{o}, Bits, float, (encode_e8m0<{r}, {o}>(x)))\n"
        for r in ("kNearestAway", "kTowardZero", "kUp")
        for o in OVERFLOWS
    ]
)


@pytest.fixture(scope="module")
def driver():
    clang = toolchain.find()
    library = ctypes.CDLL(str(clang.compile(DRIVER, [], suffix=".so")))

    def call(name, values, result):
        out = np.empty(values.shape, result)
        getattr(library, name)(ctypes.c_void_p(values.ctypes.data), ctypes.c_void_p(out.ctypes.data), values.size)
        return out

    return call


def same(a, b):
    """Equal bit for bit, NaNs by being NaN."""
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    return np.where(np.isnan(a), np.isnan(b), a.view(np.uint32) == b.view(np.uint32)).all()


def hard_inputs(f):
    """Every value of the format, every midpoint, their neighbours in f32, extremes, and random bits."""
    grid = f.values(np.arange(f.greatest + 1))
    grid = np.append(grid, 2 * grid[-1] - grid[-2])
    with np.errstate(over="ignore"):
        points = np.concatenate([grid, (grid[1:] + grid[:-1]) / 2]).astype(np.float32)
        points = np.concatenate([points, np.nextafter(points, np.float32(np.inf)), np.nextafter(points, np.float32(0))])
    bits = np.random.default_rng(0).integers(0, 2**32, 1 << 17, dtype=np.uint64).astype(np.uint32)
    near = np.random.default_rng(1).standard_normal(1 << 15).astype(np.float32)
    edges = np.array([0, 1, 0x7FFFFF, 0x800000, 0x7F7FFFFF, 0x7F800000, 0x7F800001, 0x7FC00000, 0x7FFFFFFF], np.uint32)
    x = np.concatenate([points, bits.view(np.float32), near, edges.view(np.float32)])
    return np.concatenate([x, -x])


@pytest.mark.parametrize("f", FORMATS, ids=lambda f: f.name)
def test_every_code_decodes(driver, f):
    codes = np.arange(2 * f.sign, dtype=np.uint32)
    decoded = driver(f"{f.name}_decode", codes, np.float32)
    assert same(decoded, f.decoded(codes.astype(np.int64)))
    assert same(driver(f"{f.name}_decode", codes | np.uint32(0xFFFFFFFF - (2 * f.sign - 1)), np.float32), decoded)
    if f.peer is not None:
        words = codes.astype(np.uint16 if np.dtype(f.peer).itemsize == 2 else np.uint8)
        assert same(decoded, words.view(f.peer).astype(np.float32))
    if f.name == "F16":
        assert same(decoded, driver("f16_in_hardware", codes, np.float32))


@pytest.mark.parametrize("overflow", OVERFLOWS)
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("f", FORMATS, ids=lambda f: f.name)
def test_f32_encodes(driver, f, rounding, overflow):
    x = hard_inputs(f)
    codes = driver(f"{f.name}_{rounding}_{overflow}", x, np.uint32)
    np.testing.assert_array_equal(codes, f.encoded(x, rounding, overflow))


@pytest.mark.parametrize("f", [f for f in FORMATS if f.peer is not None], ids=lambda f: f.name)
def test_the_peer_encodes_alike(driver, f):
    x = hard_inputs(f)
    if f.special == "finite":
        x = x[~np.isnan(x)]  # PTX and ml_dtypes differ in what stands for NaN
    codes = driver(f"{f.name}_kNearestEven_kToInfinity", x, np.uint32)
    with np.errstate(over="ignore", invalid="ignore"):
        theirs = x.astype(f.peer)
    assert same(driver(f"{f.name}_decode", codes, np.float32), theirs.astype(np.float32))


def test_e8m0_decodes(driver):
    codes = np.arange(256, dtype=np.uint32)
    peer = codes.astype(np.uint8).view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    assert same(driver("e8m0_decode", codes, np.float32), peer)


@pytest.mark.parametrize("overflow", OVERFLOWS)
@pytest.mark.parametrize("rounding", ["kNearestAway", "kTowardZero", "kUp"])
def test_e8m0_encodes(driver, rounding, overflow):
    powers = np.ldexp(1.0, np.arange(-149, 128)).astype(np.float32)
    points = np.concatenate([powers, powers[:-1] * np.float32(1.5)])
    with np.errstate(over="ignore"):
        points = np.concatenate([points, np.nextafter(points, np.float32(0)), np.nextafter(points, np.float32(np.inf))])
    bits = np.random.default_rng(0).integers(0, 2**32, 1 << 18, dtype=np.uint64).astype(np.uint32).view(np.float32)
    x = np.concatenate([points, -points, bits, np.array([0, -0.0, np.inf, -np.inf, np.nan], np.float32)])
    with np.errstate(invalid="ignore"):
        size = np.abs(x.astype(np.float64))
    grid = np.ldexp(1.0, np.arange(-127, 129))  # of codes 0 to 255; the last stands for all that is too big
    down = np.clip(np.searchsorted(grid, size, side="right") - 1, 0, 254)
    up = {
        "kNearestAway": size >= grid[down] * 1.5,
        "kTowardZero": np.zeros(x.shape, bool),
        "kUp": size > grid[down],
    }[rounding]
    expected = np.where(np.isnan(x), 255, down + up)
    expected[np.isinf(x)] = 255
    if overflow == "kSaturate":
        expected[~np.isnan(x)] = np.minimum(expected[~np.isnan(x)], 254)
    np.testing.assert_array_equal(driver(f"e8m0_{rounding}_{overflow}", x, np.uint32), expected)


def test_ue4m3_is_e4m3_without_its_sign(driver):
    codes = np.arange(256, dtype=np.uint32)
    assert same(driver("ue4m3_decode", codes, np.float32), (codes & 127).astype(np.uint8).view(ml_dtypes.float8_e4m3fn))


def test_a_tf32_register_has_thirteen_zeros_below(driver):
    x = np.array([1, -1, 1 + 2**-11, 1 + 2**-12, 3.4028235e38, np.inf, -np.inf], np.float32)
    expected = np.array([1, -1, 1 + 2**-10, 1, np.inf, np.inf, -np.inf], np.float32)
    assert same(driver("tf32_register", x, np.uint32).view(np.float32), expected)
    assert driver("tf32_register", np.array([np.nan], np.float32), np.uint32)[0] == 0x7FFFFFFF


@pytest.mark.parametrize(("name", "bits"), [("f16", 11), ("bf16", 8)])
def test_f64_is_rounded_once(driver, name, bits):
    """Beside a midpoint by less than f32 can tell, where rounding twice goes wrong."""
    f = next(f for f in FORMATS if f.name.lower() == name)
    grid = f.values(np.arange(f.greatest + 1))
    middle = (grid[1:] + grid[:-1]) / 2
    x = np.concatenate([middle, np.nextafter(middle, np.inf), np.nextafter(middle, 0), grid])
    x = np.concatenate([x, -x, [np.inf, -np.inf, np.nan, 1e300, -1e300, 5e-324]])
    with np.errstate(over="ignore"):
        expected = f.encoded(np.where(np.isnan(x), 0, x), "kNearestEven", "kToInfinity")
    expected[np.isnan(x)] = f.sign - 1
    np.testing.assert_array_equal(driver(f"f64_to_{name}", x, np.uint32), expected)
    assert f.mantissa + 1 == bits
