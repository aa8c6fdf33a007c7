# SPDX-License-Identifier: MIT
"""cvt between 16, 32 and 64 bits, and its modifiers, against truth/formats.py and NumPy."""

import numpy as np
from truth.formats import BF16, E4M3, E5M2, F16, TF32, encode_ue8m0, to_integer
from truth.launch import run
from truth.samples import check, floats, padded

FILE = "truth_convert_wide.cu"


def convert(kernel, results, source, dtype=np.uint32):
    d = np.full((results, source.size), 85, dtype)
    run(FILE, kernel, d, source, grid=source.size // 32)
    return d


def wide(x):
    with np.errstate(invalid="ignore"):  # signalling NaN
        return x.astype(np.float64)


def plus_zero(codes, format):
    """.relu: whether what rounds to -0 is "negative" is left open."""
    return np.where(codes == format.sign, 0, codes)


def doubles():
    rng = np.random.default_rng(0)
    x = wide(floats(1024))
    near = x * (1 + 2.0**-40)
    many = rng.standard_normal(2048) * 2.0 ** rng.integers(-160, 140, 2048)
    edges = [2.0**-150, 2.0**-150 * (1 + 2.0**-30), 2.0**128, -(2.0**128) * (1 - 2.0**-25), 1e-320, 1.7e308]
    with np.errstate(over="ignore"):
        return padded(np.concatenate([x, near, many, np.array(edges), (x[:-1] + x[1:]) / 2]))


def test_modifiers():
    x = floats()
    d = convert("from_f32_modified", 8, x)
    check("rna.satfinite.tf32", d[0] >> 13, TF32.encode(wide(x), "rna", satfinite=True), x, TF32)
    relu = np.where(d[1] >> 31 & (d[1] << 1 == 0), 0, d[1])
    check("rn.relu.tf32", relu >> 13, TF32.encode(wide(x), relu=True), x, TF32)
    check("rz.satfinite.bf16", d[2], BF16.encode(wide(x), "rz", satfinite=True), x, BF16)
    # .ftz: "subnormal inputs are flushed to sign-preserving zero"
    tiny = np.abs(x) < np.float32(2.0**-126)
    flushed = np.where(tiny, np.copysign(0, x), x)
    check("rn.ftz.f16", d[3], F16.encode(wide(flushed)), x, F16)
    check("rm.f16", d[4], F16.encode(wide(x), "rm"), x, F16)
    check("rp.f16", d[5], F16.encode(wide(x), "rp"), x, F16)
    # .sat: "limits the result to the range [0.0, 1.0]. NaN results are flushed to positive zero"
    limited = np.where(np.isnan(x), 0, np.clip(np.nan_to_num(wide(x)), 0, 1))
    check("rn.sat.f16", plus_zero(d[6], F16), F16.encode(limited + 0.0), x)
    check("rzi.ftz.s32", d[7], to_integer(wide(flushed), "rzi", 32, signed=True), x)


def test_packed_modifiers():
    low = np.arange(1 << 16, dtype=np.uint32)
    high = np.random.default_rng(0).permutation(low)
    d = convert("from_f16x2_modified", 3, high << 16 | low)
    for part, codes in ((d >> 8, high), (d & 0xFF, low)):
        for number, format in enumerate((E4M3, E5M2)):
            expected = format.encode(F16.decode(codes), satfinite=True, relu=True)
            check(f"relu.{format.name}x2.f16x2", plus_zero(part[number], format), expected, codes, format)
        check("rz.ue8m0x2.bf16x2", part[2], encode_ue8m0(BF16.decode(codes), "rz", satfinite=False), codes)
    both = np.arange(1 << 16, dtype=np.uint16)
    d = convert("from_8_bits_modified", 2, both)
    for number, format in enumerate((E4M3, E5M2)):
        for part, codes in ((d[number] >> 16, both >> 8), (d[number] & 0xFFFF, both & 0xFF)):
            expected = F16.encode(format.decode(codes), relu=True)
            check(f"relu.f16x2.{format.name}x2", plus_zero(part, F16), expected, codes, F16)


def test_from_16_bits():
    codes = np.arange(1 << 16, dtype=np.uint16)
    d = convert("from_16_bits", 7, codes)
    half, bfloat = F16.decode(codes), BF16.decode(codes)
    check("bf16.f16", d[0], BF16.encode(half), codes, BF16)
    check("f16.bf16", d[1], F16.encode(bfloat), codes, F16)
    check("rni.s32.f16", d[2], to_integer(half, "rni", 32, signed=True), codes)
    check("rzi.u8.f16", d[3], to_integer(half, "rzi", 8, signed=False), codes)
    check("rni.s32.bf16", d[4], to_integer(bfloat, "rni", 32, signed=True), codes)
    check("rni.f16.f16", d[5], F16.encode(np.rint(half)), codes, F16)
    check("rzi.f16.f16", d[6], F16.encode(np.trunc(half)), codes, F16)
    d = convert("f64_from_16_bits", 2, codes, np.float64)
    np.testing.assert_array_equal(d, [half, bfloat])
    assert (np.signbit(d[:, 0x8000])).all()


def to_f32(x, rounding):
    """float64 to float32 in a direction: the nearest, moved by one where it lies on the wrong side."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        nearest = x.astype(np.float32)
        wrong = {
            "rn": np.zeros(x.shape, bool),
            "rz": np.abs(wide(nearest)) > np.abs(x),
            "rm": wide(nearest) > x,
            "rp": wide(nearest) < x,
        }[rounding]
        towards = {"rn": 0, "rz": 0, "rm": -np.inf, "rp": np.inf}[rounding]
        return np.where(wrong, np.nextafter(nearest, np.float32(towards)), nearest)


def test_from_f64():
    x = doubles()
    d = convert("from_f64", 4, x, np.float32)
    for number, rounding in enumerate(("rn", "rz", "rm", "rp")):
        expected = to_f32(x, rounding)
        np.testing.assert_array_equal(d[number], expected, rounding)
        assert (np.signbit(d[number]) == np.signbit(expected))[~np.isnan(x)].all()
    d = convert("f16_from_f64", 2, x)
    check("rn.f16.f64", d[0], F16.encode(x), x, F16)
    check("rn.bf16.f64", d[1], BF16.encode(x), x, BF16)
    d = convert("f64_from_f64", 2, x, np.float64)
    np.testing.assert_array_equal(d, [np.rint(x), np.ceil(x)])
    single = floats()
    np.testing.assert_array_equal(convert("f64_from_f32", 1, single, np.float64)[0], wide(single))


def test_from_integers():
    rng = np.random.default_rng(0)
    edges = [0, -1, 1, 2049, 2051, 65519, 65520, -65520, 2**31 - 1, -(2**31), 257, 259, -(2**24) - 1]
    spread = rng.integers(-(2**31), 2**31, 500) >> rng.integers(0, 31, 500)
    a = padded(np.concatenate([edges, spread]).astype(np.int32))
    u = a.view(np.uint32)
    d = convert("f16_from_integers", 5, a)
    check("rn.f16.s32", d[0], F16.encode(a), a)
    check("rn.f16.u8", d[1], F16.encode(u & 0xFF), a)
    check("rz.f16.s32", d[2], F16.encode(a, "rz"), a)
    check("rn.bf16.s32", d[3], BF16.encode(a), a)
    check("rn.bf16.u16", d[4], BF16.encode(u & 0xFFFF), a)
    b = padded(np.concatenate([a.astype(np.int64) << 31, a, [2**63 - 1, -(2**63), 2**53 + 1, 2**40 + 2**16 + 1]]))
    d = convert("f32_from_64_bits", 2, b, np.float32)
    np.testing.assert_array_equal(d, [b.astype(np.float32), b.view(np.uint64).astype(np.float32)])
    d = convert("integers_widened", 4, a, np.int64)
    np.testing.assert_array_equal(d, [a, u, u.astype(np.uint8).view(np.int8), u & 0xFFFF])
