# SPDX-License-Identifier: MIT
"""cvt against truth/formats.py: every code where there are few, edges and ties where there are many."""

import numpy as np
from truth import formats
from truth.formats import BF16, E2M1, E2M3, E3M2, E4M3, E5M2, F16, TF32, encode_ue8m0
from truth.launch import run
from truth.samples import check, floats, padded

FILE = "truth_convert.cu"


def convert(kernel, results, *sources, dtype=np.uint32):
    d = np.full((results, sources[0].size), 0x55555555, np.uint32).view(dtype)
    run(FILE, kernel, d, *sources, grid=sources[0].size // 32)
    return d.view(np.uint32)


def clamped(codes, format):
    """.relu leaves open which zero a small negative number becomes; here +0, as clamp to 0 has it."""
    return np.where(codes == format.sign, 0, codes)


def test_from_f32():
    x = floats()
    d = convert("from_f32", 10, x)
    with np.errstate(invalid="ignore"):
        wide = x.astype(np.float64)
    check("cvt.rn.f16.f32", d[0], F16.encode(wide), x, F16)
    check("cvt.rz.f16.f32", d[1], F16.encode(wide, "rz"), x, F16)
    check("cvt.rn.satfinite.f16.f32", d[2], F16.encode(wide, satfinite=True), x, F16)
    check("cvt.rn.relu.f16.f32", clamped(d[3], F16), F16.encode(wide, relu=True), x, F16)
    check("cvt.rn.bf16.f32", d[4], BF16.encode(wide), x, BF16)
    check("cvt.rz.bf16.f32", d[5], BF16.encode(wide, "rz"), x, BF16)
    check("cvt.rn.relu.bf16.f32", clamped(d[6], BF16), BF16.encode(wide, relu=True), x, BF16)
    for number, rounding in ((7, "rna"), (8, "rn"), (9, "rz")):
        # The lower 13 bits of a register are not part of its tf32.
        check(f"cvt.{rounding}.tf32.f32", d[number] >> 13, TF32.encode(wide, rounding), x, TF32)


def test_pairs_from_f32():
    """ "The value converted from input a is stored in the upper half of d"."""
    x = floats()
    y = np.random.default_rng(1).permutation(x)
    d = convert("pairs_from_f32", 14, x, y)
    cases = [
        ("f16x2", F16, 16, {}),
        ("rz.f16x2", F16, 16, {"rounding": "rz"}),
        ("bf16x2", BF16, 16, {}),
        ("relu.bf16x2", BF16, 16, {"relu": True}),
        ("e4m3x2", E4M3, 8, {"satfinite": True}),
        ("e5m2x2", E5M2, 8, {"satfinite": True}),
        ("relu.e4m3x2", E4M3, 8, {"satfinite": True, "relu": True}),
        ("e2m3x2", E2M3, 8, {"satfinite": True}),
        ("e3m2x2", E3M2, 8, {"satfinite": True}),
        ("rz.satfinite.ue8m0x2", None, 8, {"rounding": "rz", "satfinite": True}),
        ("rp.satfinite.ue8m0x2", None, 8, {"rounding": "rp", "satfinite": True}),
        ("rp.ue8m0x2", None, 8, {"rounding": "rp", "satfinite": False}),
        ("e2m1x2", E2M1, 4, {"satfinite": True}),
        ("relu.e2m1x2", E2M1, 4, {"satfinite": True, "relu": True}),
    ]
    for number, (name, format, bits, how) in enumerate(cases):
        assert not (d[number].astype(np.uint64) >> 2 * bits).any(), name
        for part, source in ((d[number] >> bits, x), (d[number], y)):
            codes = part & np.uint32((1 << bits) - 1)
            with np.errstate(invalid="ignore"):
                wide = source.astype(np.float64)
            if how.get("relu"):
                codes = clamped(codes, format)
            check(name, codes, format.encode(wide, **how) if format else encode_ue8m0(wide, **how), source, format)


def test_pairs_from_16_bits():
    """All 65536 codes in either half."""
    low = np.arange(1 << 16, dtype=np.uint32)
    high = np.random.default_rng(0).permutation(low)
    d = convert("pairs_from_16", 3, high << 16 | low)
    for part, codes in ((d >> 8, high), (d & 0xFF, low)):
        check("e4m3x2.f16x2", part[0], E4M3.encode(F16.decode(codes), satfinite=True), codes, E4M3)
        check("e5m2x2.f16x2", part[1], E5M2.encode(F16.decode(codes), satfinite=True), codes, E5M2)
        check("ue8m0x2.bf16x2", part[2], encode_ue8m0(BF16.decode(codes), "rp", satfinite=True), codes)


def test_pairs_from_8_bits():
    """All 65536 pairs of codes; 6-bit ones with their upper two bits 0, of 4 bits a byte holds both."""
    both = np.arange(1 << 16, dtype=np.uint16)
    low, high = both & 0xFF, both >> 8
    d = convert("pairs_from_8", 6, both)
    for number, format in enumerate((E4M3, E5M2)):
        for part, codes in ((d[number] >> 16, high), (d[number] & 0xFFFF, low)):
            check(f"f16x2.{format.name}x2", part, F16.encode(format.decode(codes)), codes, F16)
    six = both[(both & 0xC0C0) == 0]
    d6 = d[:, six]
    for number, format in ((2, E2M3), (3, E3M2)):
        for part, codes in ((d6[number] >> 16, six >> 8), (d6[number] & 0xFFFF, six & 0xFF)):
            check(f"f16x2.{format.name}x2", part, F16.encode(format.decode(codes)), codes, F16)
    for part, codes in ((d[4] >> 16, high), (d[4] & 0xFFFF, low)):
        check("bf16x2.ue8m0x2", part, BF16.encode(formats.decode_ue8m0(codes)), codes, BF16)
    for part, codes in ((d[5] >> 16, low >> 4), (d[5] & 0xFFFF, low & 0xF)):
        check("f16x2.e2m1x2", part, F16.encode(E2M1.decode(codes)), codes, F16)


def test_f32_from_16_bits():
    codes = np.arange(1 << 16, dtype=np.uint16)
    d = convert("f32_from_16", 2, codes).view(np.float32)
    np.testing.assert_array_equal(d[0], F16.decode(codes))
    np.testing.assert_array_equal(d[1], BF16.decode(codes))
    assert (np.signbit(d[:, 0x8000]) == [True, True]).all()


def test_integers_from_f32():
    rng = np.random.default_rng(0)
    edges = [2.0**k + delta for k in (7, 8, 15, 16, 31, 32, 63, 64) for delta in (-1, -0.5, 0, 0.5, 1)]
    x = np.concatenate(
        [edges, np.negative(edges), np.arange(-20, 20) / 4, [np.nan, np.inf, -np.inf, 1e30, -1e30, 1e-40]]
    )
    x = padded(np.concatenate([x, rng.standard_normal(256) * 2.0 ** rng.integers(0, 40, 256)]).astype(np.float32))
    d = convert("integers_from_f32", 15, x)
    cases = [
        *((r, 32, True) for r in ("rni", "rzi", "rmi", "rpi")),
        *((r, 32, False) for r in ("rni", "rzi")),
        *(("rni", 8, True), ("rni", 8, False), ("rzi", 16, True), ("rzi", 16, False)),
    ]
    for number, (rounding, bits, signed) in enumerate(cases):
        expected = formats.to_integer(x, rounding, bits, signed)
        if signed:  # "sign-extended to the destination register width"
            sign = np.uint64(1 << bits - 1)
            expected = (expected ^ sign) - sign
        check(f"{rounding} {bits} {signed}", d[number], expected & np.uint64(0xFFFFFFFF), x)
    for number, rounding, signed in ((10, "rzi", True), (12, "rni", False)):
        expected = formats.to_integer(x, rounding, 64, signed)
        check(f"{rounding} 64 low", d[number], expected & np.uint64(0xFFFFFFFF), x)
        check(f"{rounding} 64 high", d[number + 1], expected >> np.uint64(32), x)
    check("rni.s32.f64", d[14], formats.to_integer(x, "rni", 32, signed=True, from_f64=True), x)


def test_integers_from_integers():
    rng = np.random.default_rng(0)
    edges = [s * (1 << k) + delta for k in (0, 7, 8, 15, 16, 30) for s in (1, -1) for delta in (-1, 0, 1)]
    a = padded(np.concatenate([edges, [2**31 - 1, -(2**31)], rng.integers(-(2**31), 2**31, 200)]).astype(np.int32))
    b, c = rng.permutation(a), rng.integers(0, 1 << 32, a.size, np.uint64).astype(np.uint32)
    d = convert("integers_from_integers", 10, a, b, c)
    s8, u8, s16 = (
        (lambda v: np.clip(v, -128, 127)),
        (lambda v: np.clip(v, 0, 255)),
        (lambda v: np.clip(v, -32768, 32767)),
    )
    u = a.view(np.uint32)
    expected = [
        ("sat.s8.s32", s8(a)),
        ("sat.u8.s32", u8(a)),
        ("sat.s16.s32", s16(a)),
        ("sat.u32.s32", np.maximum(a, 0)),
        ("sat.u8.u32", np.minimum(u, 255)),
        ("u32.u8", u & 0xFF),
        ("s32.s8", u.astype(np.uint8).view(np.int8).astype(np.int32)),
        # cvt.pack (9.7.9.22): b's bits, then a's, then for 8 bits the lower ones of c
        ("pack.sat.s8", s8(b) & 0xFF | (s8(a) & 0xFF) << 8 | c.astype(np.int64) << 16),
        ("pack.sat.u8", u8(b) | u8(a) << 8 | c.astype(np.int64) << 16),
        ("pack.sat.s16", s16(b) & 0xFFFF | (s16(a) & 0xFFFF) << 16),
    ]
    for number, (name, values) in enumerate(expected):
        check(name, d[number], values.astype(np.int64) & 0xFFFFFFFF, a)


def test_f32_from_integers():
    rng = np.random.default_rng(0)
    edges = [2**24 + 1, 2**24 + 3, -(2**24) - 1, 2**31 - 1, -(2**31), 2**31 - 64, 2**31 - 65, 0, -1, 127, 128, 255]
    a = padded(np.concatenate([edges, rng.integers(-(2**31), 2**31, 500)]).astype(np.int32))
    u = a.view(np.uint32)
    d = convert("f32_from_integers", 5, a, dtype=np.float32).view(np.float32)
    np.testing.assert_array_equal(d[0], a.astype(np.float32))
    np.testing.assert_array_equal(d[1], u.astype(np.float32))
    nearest = a.astype(np.float32)
    away = np.abs(nearest.astype(np.float64)) > np.abs(a.astype(np.float64))
    np.testing.assert_array_equal(d[2], np.where(away, np.nextafter(nearest, np.float32(0)), nearest))
    np.testing.assert_array_equal(d[3], u.astype(np.uint8).view(np.int8).astype(np.float32))
    np.testing.assert_array_equal(d[4], u.astype(np.uint16).astype(np.float32))


def test_f32_to_integral_f32():
    x = floats()
    x = x[~np.isnan(x)]
    x = padded(np.concatenate([x, np.float32([np.nan] * 4)]))
    nan = np.isnan(x)
    d = convert("f32_from_f32", 5, x, dtype=np.float32).view(np.float32)
    for number, step in enumerate((np.rint, np.trunc, np.floor, np.ceil)):
        np.testing.assert_array_equal(d[number], step(x))
        assert (np.signbit(d[number]) == np.signbit(step(x)))[~nan].all()
    # .sat: "limits the result to the range [0.0, 1.0]. NaN results are flushed to positive zero"
    np.testing.assert_array_equal(d[4], np.where(nan, 0, np.clip(x, 0, 1)).astype(np.float32))
