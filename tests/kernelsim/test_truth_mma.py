# SPDX-License-Identifier: MIT
"""mma.sync against the tables of truth/matrix.py, bit for bit.

Every element of A, and every one of B, is once the only one and meets random ones of the other matrix: the row or
column that appears in D says which lane and register it came from. All sums are exact in the accumulator's format, in
any order, since the ISA leaves order and rounding open (9.7.14.5.14).
"""

from dataclasses import dataclass

import numpy as np
import pytest
from truth import matrix
from truth.formats import E4M3, F16, FORMATS, decode_ue8m0
from truth.launch import differences, run

PLAIN, SMALL = "truth_mma.cu", "truth_mma_small.cu"
BITS = {"f16": 16, "bf16": 16, "tf32": 32, "s4": 4, "u4": 4}  # of a container; 8 for all others, 4 under .kind::mxf4*


@dataclass(frozen=True)
class Mma:
    file: str
    kernel: str  # begins with the shape
    a: str
    b: str
    d: str  # accumulators
    kind: str = ""
    scales: int = 0  # of a row of A: .scale_vec_size
    stype: str = "ue8m0"

    @property
    def shape(self):
        return self.kernel.split("_")[0]

    @property
    def m(self):
        return int(self.shape[1:].split("n")[0])

    @property
    def k(self):
        return int(self.shape.split("k")[1])

    @property
    def bits(self):
        return 4 if self.kind.startswith("mxf4") else BITS.get(self.a, 8)

    @property
    def fragments(self):
        accumulators = matrix.C[self.m, 16 if self.d == "f16" else 32]
        return matrix.A[self.shape, self.bits], matrix.B[self.shape, self.bits], accumulators


MMAS = (
    Mma(PLAIN, "m16n8k8_f32_f16", "f16", "f16", "f32"),
    Mma(PLAIN, "m16n8k8_f16_f16", "f16", "f16", "f16"),
    Mma(PLAIN, "m16n8k8_f32_bf16", "bf16", "bf16", "f32"),
    Mma(PLAIN, "m16n8k16_f32_f16", "f16", "f16", "f32"),
    Mma(PLAIN, "m16n8k16_f16_f16", "f16", "f16", "f16"),
    Mma(PLAIN, "m16n8k16_f32_bf16", "bf16", "bf16", "f32"),
    Mma(PLAIN, "m16n8k4_f32_tf32", "tf32", "tf32", "f32"),
    Mma(PLAIN, "m16n8k8_f32_tf32", "tf32", "tf32", "f32"),
    Mma(PLAIN, "m16n8k16_s32_s8", "s8", "s8", "s32"),
    Mma(PLAIN, "m16n8k16_s32_u8_s8", "u8", "s8", "s32"),
    Mma(PLAIN, "m16n8k32_s32_s8", "s8", "s8", "s32"),
    Mma(PLAIN, "m16n8k32_s32_u8", "u8", "u8", "s32"),
    Mma(PLAIN, "m8n8k16_s32_s8", "s8", "s8", "s32"),
    Mma(PLAIN, "m8n8k32_s32_s4_u4", "s4", "u4", "s32"),
    Mma(PLAIN, "m16n8k32_s32_s4", "s4", "s4", "s32"),
    Mma(PLAIN, "m16n8k64_s32_u4_s4", "u4", "s4", "s32"),
    Mma(SMALL, "m16n8k32_f32_e4m3", "e4m3", "e4m3", "f32"),
    Mma(SMALL, "m16n8k32_f32_e5m2_e4m3", "e5m2", "e4m3", "f32"),
    Mma(SMALL, "m16n8k32_f16_e4m3", "e4m3", "e4m3", "f16"),
    Mma(SMALL, "m16n8k16_f32_e5m2", "e5m2", "e5m2", "f32"),
    Mma(SMALL, "m16n8k32_f32_f8f6f4_e2m1", "e2m1", "e2m1", "f32", "f8f6f4"),
    Mma(SMALL, "m16n8k32_f32_f8f6f4_e4m3_e2m1", "e4m3", "e2m1", "f32", "f8f6f4"),
    Mma(SMALL, "m16n8k32_f32_f8f6f4_e3m2_e2m3", "e3m2", "e2m3", "f32", "f8f6f4"),
    Mma(SMALL, "m16n8k32_f16_f8f6f4_e2m3_e5m2", "e2m3", "e5m2", "f16", "f8f6f4"),
)
SCALED = (
    Mma(SMALL, "m16n8k32_mxf8f6f4_e4m3", "e4m3", "e4m3", "f32", "mxf8f6f4", 1),
    Mma(SMALL, "m16n8k32_mxf8f6f4_e2m1_e5m2", "e2m1", "e5m2", "f32", "mxf8f6f4", 1),
    Mma(SMALL, "m16n8k32_mxf8f6f4_e3m2_e2m3", "e3m2", "e2m3", "f32", "mxf8f6f4", 1),
    Mma(SMALL, "m16n8k64_mxf4", "e2m1", "e2m1", "f32", "mxf4", 2),
    Mma(SMALL, "m16n8k64_mxf4nvf4_2x", "e2m1", "e2m1", "f32", "mxf4nvf4", 2),
    Mma(SMALL, "m16n8k64_mxf4nvf4_4x", "e2m1", "e2m1", "f32", "mxf4nvf4", 4, "ue4m3"),
)


def values_of(format, codes):
    if format in FORMATS:
        return FORMATS[format].decode(codes)
    sign = 1 << int(format[1]) - 1 if format[0] == "s" else 0
    return ((np.asarray(codes) ^ sign) - sign).astype(np.float64)


def some_codes(format, accumulator):
    """Codes of numbers whose products' sums are exact: in f32 multiples of 1/8 up to 8, in f16 of 1/2 up to 3."""
    if format not in FORMATS:
        return np.arange(1 << int(format[1]))
    f = FORMATS[format]
    every = np.arange(2 * f.sign)
    values = f.decode(every)
    step, largest = (0.5, 3) if accumulator == "f16" else (0.125, 8)
    with np.errstate(invalid="ignore"):  # infinities
        return every[(np.abs(values) <= largest) & (values % step == 0)]


def tries(mma, rng, single=True, random=16):
    """(codes of A, of B): of each try; every element alone once, then random matrices."""
    a_codes, b_codes = some_codes(mma.a, mma.d), some_codes(mma.b, mma.d)
    sizes = (mma.m, mma.k), (mma.k, 8)
    cells = [s[0] * s[1] if single else 0 for s in sizes]
    count = sum(cells) + random
    a, b = rng.choice(a_codes, (count, *sizes[0])), rng.choice(b_codes, (count, *sizes[1]))
    ones = [FORMATS[f].encode(1.0) if f in FORMATS else 1 for f in (mma.a, mma.b)]
    a[: cells[0]] = (np.eye(mma.m * mma.k, dtype=int) * ones[0]).reshape(-1, *sizes[0])[: cells[0]]
    b[cells[0] : sum(cells)] = (np.eye(8 * mma.k, dtype=int) * ones[1]).reshape(-1, *sizes[1])[: cells[1]]
    return a, b


def to_registers(mma, values):
    """Accumulators as codes in their registers."""
    if mma.d == "f16":
        return mma.fragments[2].pack(F16.encode(values))
    narrow = values.astype(np.float32) if mma.d == "f32" else values.astype(np.int64).astype(np.int32)
    return mma.fragments[2].pack(narrow.view(np.uint32))


def accumulators(mma, registers):
    """As the kernel's parameter has them."""
    return registers.view({"f16": np.uint32, "f32": np.float32, "s32": np.int32}[mma.d])


def multiply(mma, a, b, c, *more):
    """D's registers, (tries, 32, registers) uint32."""
    to_a, to_b, _ = mma.fragments
    registers = to_registers(mma, c)
    d = accumulators(mma, np.full_like(registers, 0xFFFFFFFF))
    packed = (to_a.pack(matrix.container(mma.a, a, mma.kind)), to_b.pack(matrix.container(mma.b, b, mma.kind)))
    run(mma.file, mma.kernel, d, *packed, accumulators(mma, registers), *more, grid=len(a))
    return d.view(np.uint32)


def check(mma, d, expected):
    assert not differences(d, to_registers(mma, expected), ("try", "lane", "register"))


@pytest.mark.parametrize("mma", MMAS, ids=lambda m: m.kernel)
def test_mma(mma):
    rng = np.random.default_rng(0)
    a, b = tries(mma, rng)
    c = rng.integers(1, 51, (len(a), mma.m, 8)).astype(np.float64) * rng.choice((-1, 1), (len(a), mma.m, 8))
    check(mma, multiply(mma, a, b, c), values_of(mma.a, a) @ values_of(mma.b, b) + c)


def scale_data(mma, places, count, rng):
    """(scale-data (tries, 32) uint32, scales (tries, rows, chunks)): bytes not selected hold anything, NaN too."""
    data = rng.integers(0, 256, (count, 32, 4), np.uint8)
    if mma.stype == "ue8m0":
        codes = rng.integers(126, 130, (count, *np.broadcast(*places).shape), np.uint8)
        scales = decode_ue8m0(codes)
    else:
        scales = rng.choice((0.5, 1, 1.5, 2, 3, 4), (count, *np.broadcast(*places).shape))
        codes = E4M3.encode(scales)
    data[:, places[0], places[1]] = codes
    return data.view(np.uint32)[..., 0].copy(), scales


@pytest.mark.parametrize("mma", SCALED, ids=lambda m: m.kernel)
def test_block_scaled_mma(mma):
    """D = (A * scale_A) * (B * scale_B) + C with every selector of table 37, all elements alone with the first."""
    rng = np.random.default_rng(0)
    bytes_, a_threads, b_threads = matrix.SELECTORS[mma.scales]
    selectors = [(x, t, y, u) for x in bytes_ for t in a_threads for y in bytes_ for u in b_threads]
    for number, (byte_a, thread_a, byte_b, thread_b) in enumerate(selectors):
        a, b = tries(mma, rng, single=number == 0, random=4)
        c = rng.integers(1, 51, (len(a), 16, 8)).astype(np.float64)
        a_data, a_scales = scale_data(mma, matrix.scale_a(mma.scales, byte_a, thread_a), len(a), rng)
        b_data, b_scales = scale_data(mma, matrix.scale_b(mma.scales, byte_b, thread_b), len(b), rng)
        chunk = mma.k // mma.scales
        scaled_a = values_of(mma.a, a) * np.repeat(a_scales, chunk, axis=2)
        scaled_b = values_of(mma.b, b) * np.repeat(b_scales, chunk, axis=2).transpose(0, 2, 1)
        chosen = np.array([byte_a, thread_a, byte_b, thread_b], np.uint16)
        d = multiply(mma, a, b, c, a_data, b_data, chosen)
        wrong = differences(d, to_registers(mma, scaled_a @ scaled_b + c), ("try", "lane", "register"))
        assert not wrong, (
            dict(zip(("byte-id-a", "thread-id-a", "byte-id-b", "thread-id-b"), chosen, strict=True)),
            wrong,
        )


def test_integers_wrap_or_saturate():
    """ "If .satfinite is not specified, the accumulated value is wrapped instead"."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(100, 128, (2, 16, 32)), rng.integers(100, 128, (2, 32, 8))
    b[1] = 256 - b[1]  # negative
    c = np.full((2, 16, 8), 2.0**31 - 1000)
    c[1] = -(2.0**31) + 1000
    plain = next(m for m in MMAS if m.kernel == "m16n8k32_s32_s8")
    exact = values_of("s8", a) @ values_of("s8", b) + c
    assert (np.abs(exact) > 2**31).all()
    check(plain, multiply(plain, a, b, c), exact)
    satfinite = Mma(PLAIN, "m16n8k32_s32_s8_satfinite", "s8", "s8", "s32")
    check(satfinite, multiply(satfinite, a, b, c), np.clip(exact, -(2.0**31), 2.0**31 - 1))


@pytest.mark.parametrize("kernel", ["m16n8k16_f32_f16", "m16n8k16_f32_bf16", "m16n8k8_f32_tf32", "m16n8k32_f32_e4m3"])
def test_random_sums_are_within_single_precision(kernel):
    """ "At least single precision": every one of K + 1 additions loses at most one unit of the largest sum."""
    mma = next(m for m in MMAS if m.kernel == kernel)
    rng = np.random.default_rng(0)
    f = FORMATS[mma.a]
    a = f.encode(rng.standard_normal((64, 16, mma.k)), satfinite=True)
    b = f.encode(rng.standard_normal((64, mma.k, 8)), satfinite=True)
    c = rng.standard_normal((64, 16, 8)).astype(np.float32).astype(np.float64)
    x, y = values_of(mma.a, a), values_of(mma.b, b)
    d = mma.fragments[2].unpack(multiply(mma, a, b, c)).view(np.float32)
    bound = (mma.k + 1) * 2.0**-23 * (np.abs(x) @ np.abs(y) + np.abs(c))
    assert (np.abs(d - (x @ y + c)) <= bound).all()


def test_infinity_and_nan_arrive():
    mma = next(m for m in MMAS if m.kernel == "m16n8k16_f32_f16")
    a, b, c = np.zeros((3, 16, 16), int), np.full((3, 16, 8), 0x3C00), np.ones((3, 16, 8))
    a[0, 3, 5], a[1, 4, 0], a[2, 0, 0], a[2, 0, 1] = 0x7C00, 0x7E00, 0x7C00, 0xFC00
    d = mma.fragments[2].unpack(multiply(mma, a, b, c)).view(np.float32)
    expected = np.ones((3, 16, 8), np.float32)
    expected[0, 3], expected[1, 4], expected[2, 0] = np.inf, np.nan, np.nan
    np.testing.assert_array_equal(d, expected)
