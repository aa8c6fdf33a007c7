# SPDX-License-Identifier: MIT
"""The conversions of CUDA's 16-, 8- and 4-bit types against truth/formats.py."""

import numpy as np
from truth.formats import BF16, E2M1, E4M3, E5M2, F16, encode_ue8m0
from truth.launch import run
from truth.samples import check, floats

FILE = "truth_types.cu"


def wide(x):
    with np.errstate(invalid="ignore"):
        return x.astype(np.float64)


def convert(kernel, results, source, dtype):
    d = np.full((results, source.size), 85, dtype)
    run(FILE, kernel, d, source, grid=source.size // 32)
    return d


def test_to_16_bits():
    x = floats()
    d = convert("to_16_bits", 9, x, np.uint16)
    for number in (0, 1, 3, 4):
        check("half", d[number], F16.encode(wide(x)), x, F16)
    check("__float2half_rz", d[2], F16.encode(wide(x), "rz"), x, F16)
    for number in (5, 7, 8):
        check("bfloat16", d[number], BF16.encode(wide(x)), x, BF16)
    check("__float2bfloat16_rz", d[6], BF16.encode(wide(x), "rz"), x, BF16)


def test_from_16_bits():
    codes = np.arange(1 << 16, dtype=np.uint16)
    d = convert("from_16_bits", 4, codes, np.float32)
    for number, format in enumerate((F16, F16, BF16, BF16)):
        np.testing.assert_array_equal(d[number], format.decode(codes))


def test_to_8_bits():
    """__NV_SATFINITE clamps; __NV_NOSAT gives NaN in e4m3, which has no infinity, and infinity in e5m2."""
    x = floats()
    d = convert("to_8_bits", 12, x, np.uint8)
    for number in (0, 4, 6):
        check("e4m3", d[number], E4M3.encode(wide(x), satfinite=True), x, E4M3)
    check("e4m3, not saturated", d[1], E4M3.encode(wide(x)), x, E4M3)
    for number in (2, 5):
        check("e5m2", d[number], E5M2.encode(wide(x), satfinite=True), x, E5M2)
    check("e5m2, not saturated", d[3], E5M2.encode(wide(x)), x, E5M2)
    check("e4m3 of half", d[7], E4M3.encode(F16.decode(F16.encode(wide(x))), satfinite=True), x, E4M3)
    check("e8m0 up", d[8], encode_ue8m0(wide(x), "rp", satfinite=True), x)
    check("e8m0 down", d[9], encode_ue8m0(wide(x), "rz", satfinite=True), x)
    check("e2m1", d[10], E2M1.encode(wide(x), satfinite=True), x)
    check("e2m1 x 2", d[11], E2M1.encode(wide(x), satfinite=True) | 0x70, x)


def test_from_8_bits():
    codes = np.arange(256, dtype=np.uint8)
    d = convert("from_8_bits", 7, codes, np.float32)
    for number, format in enumerate((E4M3, E5M2, E4M3, E5M2, E4M3)):
        np.testing.assert_array_equal(d[number], format.decode(codes))
    for number in (5, 6):
        np.testing.assert_array_equal(d[number], E2M1.decode(codes & 15))
