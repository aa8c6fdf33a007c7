# SPDX-License-Identifier: MIT
"""Instructions that compute values, each against the ISA's definition in Python integers, fractions or NumPy."""

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from operands import COUNT, TYPES, inputs, signed, sixteen

from kernelsim import cuda


def clamp(x, bits):
    return max(-(1 << (bits - 1)), min((1 << (bits - 1)) - 1, x))


def bits_of(kind):
    return {"h": 16, "r": 32, "l": 64}[kind]


def with_signs(f, kinds):
    """f of the operands as signed integers."""
    return lambda *xs: f(*(signed(x, bits_of(k)) for x, k in zip(xs, kinds, strict=True)))


def bfe(x, position, length, bits, is_signed):
    position, length = position & 255, length & 255
    sign = is_signed and length and x >> min(position + length - 1, bits - 1) & 1
    out = 0
    for i in range(bits):
        bit = x >> (position + i) & 1 if i < length and position + i < bits else sign
        out |= bit << i
    return out


def bfi(a, b, position, length, bits):
    for i in range(length & 255):
        at = (position & 255) + i
        if at < bits:
            b = b & ~(1 << at) | (a >> i & 1) << at
    return b


def bfind(x, bits, is_signed, shift):
    if is_signed and x >> (bits - 1):
        x = ~x & ((1 << bits) - 1)
    top = x.bit_length() - 1
    return 0xFFFFFFFF if top < 0 else bits - 1 - top if shift else top


def lop3(a, b, c):
    return sum(1 << i for i in range(32) if 0x6A >> (4 * (a >> i & 1) + 2 * (b >> i & 1) + (c >> i & 1)) & 1)


def divide(a, b):
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


U, S = lambda f, _: f, with_signs
INTEGERS = [  # opcode and the rest of its operands, operands, the result's kind, the function
    ("add.u32", "rr", "r", lambda a, b: a + b),
    ("add.s64", "ll", "l", lambda a, b: a + b),
    ("add.sat.s32", "rr", "r", S(lambda a, b: clamp(a + b, 32), "rr")),
    ("sub.u16", "hh", "h", lambda a, b: a - b),
    ("sub.sat.s32", "rr", "r", S(lambda a, b: clamp(a - b, 32), "rr")),
    ("mul.lo.u32", "rr", "r", lambda a, b: a * b),
    ("mul.hi.u32", "rr", "r", lambda a, b: a * b >> 32),
    ("mul.hi.s32", "rr", "r", S(lambda a, b: a * b >> 32, "rr")),
    ("mul.hi.u64", "ll", "l", lambda a, b: a * b >> 64),
    ("mul.hi.s64", "ll", "l", S(lambda a, b: a * b >> 64, "ll")),
    ("mul.wide.u32", "rr", "l", lambda a, b: a * b),
    ("mul.wide.s32", "rr", "l", S(lambda a, b: a * b, "rr")),
    ("mul.wide.s16", "hh", "r", S(lambda a, b: a * b, "hh")),
    ("mul.hi.s16", "hh", "h", S(lambda a, b: a * b >> 16, "hh")),
    ("mad.lo.s32", "rrr", "r", lambda a, b, c: a * b + c),
    ("mad.hi.u32", "rrr", "r", lambda a, b, c: (a * b >> 32) + c),
    ("mad.hi.sat.s32", "rrr", "r", S(lambda a, b, c: clamp((a * b >> 32) + c, 32), "rrr")),
    ("mad.wide.u16", "hhr", "r", lambda a, b, c: a * b + c),
    ("mad.wide.s32", "rrl", "l", S(lambda a, b, c: a * b + c, "rrl")),
    ("mul24.lo.u32", "rr", "r", lambda a, b: (a & 0xFFFFFF) * (b & 0xFFFFFF)),
    ("mul24.hi.s32", "rr", "r", lambda a, b: signed(a & 0xFFFFFF, 24) * signed(b & 0xFFFFFF, 24) >> 16),
    ("mad24.lo.s32", "rrr", "r", lambda a, b, c: signed(a & 0xFFFFFF, 24) * signed(b & 0xFFFFFF, 24) + c),
    ("sad.u32", "rrr", "r", lambda a, b, c: abs(a - b) + c),
    ("sad.s16", "hhh", "h", S(lambda a, b, c: abs(a - b) + c, "hhh")),
    ("div.u32", "rr", "r", lambda a, b: a // b if b else None),
    ("div.s32", "rr", "r", S(lambda a, b: divide(a, b) if b else None, "rr")),
    ("rem.u64", "ll", "l", lambda a, b: a % b if b else None),
    ("rem.s32", "rr", "r", S(lambda a, b: a - divide(a, b) * b if b else None, "rr")),
    ("abs.s32", "r", "r", S(abs, "r")),
    ("neg.s16", "h", "h", lambda a: -a),
    ("min.s32", "rr", "r", S(min, "rr")),
    ("max.u64", "ll", "l", max),
    ("max.s16", "hh", "h", S(max, "hh")),
    ("max.relu.s32", "rr", "r", S(lambda a, b: max(a, b, 0), "rr")),
    ("popc.b32", "r", "r", lambda a: a.bit_count()),
    ("popc.b64", "l", "r", lambda a: a.bit_count()),
    ("clz.b32", "r", "r", lambda a: 32 - a.bit_length()),
    ("clz.b64", "l", "r", lambda a: 64 - a.bit_length()),
    ("brev.b32", "r", "r", lambda a: int(f"{a:032b}"[::-1], 2)),
    ("brev.b64", "l", "l", lambda a: int(f"{a:064b}"[::-1], 2)),
    ("bfind.u32", "r", "r", lambda a: bfind(a, 32, False, False)),
    ("bfind.shiftamt.s32", "r", "r", lambda a: bfind(a, 32, True, True)),
    ("bfind.s64", "l", "r", lambda a: bfind(a, 64, True, False)),
    ("bfe.u32", "rrr", "r", lambda a, b, c: bfe(a, b, c, 32, False)),
    ("bfe.s32", "rrr", "r", lambda a, b, c: bfe(a, b, c, 32, True)),
    ("bfe.s64", "lrr", "l", lambda a, b, c: bfe(a, b, c, 64, True)),
    ("bfi.b32", "rrrr", "r", lambda a, b, c, d: bfi(a, b, c, d, 32)),
    ("bfi.b64", "llrr", "l", lambda a, b, c, d: bfi(a, b, c, d, 64)),
    ("bmsk.clamp.b32", "rr", "r", lambda a, b: (1 << min(b, 32)) - 1 << min(a, 32)),
    ("bmsk.wrap.b32", "rr", "r", lambda a, b: (1 << b % 32) - 1 << a % 32),
    ("and.b64", "ll", "l", lambda a, b: a & b),
    ("xor.b16", "hh", "h", lambda a, b: a ^ b),
    ("not.b32", "r", "r", lambda a: ~a),
    ("cnot.b32", "r", "r", lambda a: int(a == 0)),
    ("shl.b32", "rr", "r", lambda a, n: a << n if n < 32 else 0),
    ("shl.b16", "hr", "h", lambda a, n: a << n if n < 16 else 0),
    ("shr.u64", "lr", "l", lambda a, n: a >> n if n < 64 else 0),
    ("shr.s32", "rr", "r", lambda a, n: signed(a, 32) >> min(n, 31)),
    ("lop3.b32", "rrr,0x6a", "r", lop3),
    ("slct.u32.s32", "rrr", "r", lambda a, b, c: a if signed(c, 32) >= 0 else b),
    ("cvt.sat.s8.s32", "r", "r", lambda a: clamp(signed(a, 32), 8)),
    ("cvt.sat.u16.s32", "r", "r", lambda a: max(0, min(65535, signed(a, 32)))),
    ("cvt.s8.u32", "r", "r", lambda a: signed(a & 0xFF, 8)),
    ("cvt.u64.s32", "r", "l", S(lambda a: a, "r")),
    ("cvt.u32.u64", "l", "r", lambda a: a),
    ("cvt.pack.sat.s16.s32", "rr", "r", S(lambda a, b: (clamp(a, 16) & 0xFFFF) << 16 | clamp(b, 16) & 0xFFFF, "rr")),
    ("cvt.pack.sat.u8.s32.b32", "rrr", "r", lambda a, b, c: (
        c << 16 | max(0, min(255, signed(a, 32))) << 8 | max(0, min(255, signed(b, 32))))),
    ("add.u16x2", "rr", "r", lambda a, b: (a + b & 0xFFFF) | ((a >> 16) + (b >> 16) & 0xFFFF) << 16),
]  # fmt: skip

# ---- Floating point


def rounded(exact, mode, bits=24, least=-149, greatest=3.4028234663852886e38):
    """A fraction to a binary format; float() is f64 and to nearest even, so other roundings go by neighbours."""
    if exact == 0:
        return 0.0
    size = abs(exact)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent -= size < Fraction(2) ** exponent
    step = Fraction(2) ** max(exponent - bits + 1, least)
    down = size // step
    rest = size - down * step
    up = {
        "rn": rest * 2 > step or (rest * 2 == step and down % 2),
        "rz": False,
        "rp": rest and exact > 0,
        "rm": rest and exact < 0,
    }[mode]
    value = (down + bool(up)) * step
    if value > Fraction(greatest):
        to_zero = mode == "rz" or (mode == "rp" and exact < 0) or (mode == "rm" and exact > 0)
        return math.copysign(greatest if to_zero else math.inf, exact)
    return math.copysign(float(value), exact)


def exactly(f, mode, zero):
    """f of finite numbers as fractions, rounded; `zero` gives the sign of an exact zero, else IEEE's own result."""

    def function(*xs):
        if not all(map(math.isfinite, xs)):
            with np.errstate(all="ignore"):
                return float(f(*map(np.float64, xs)))
        exact = f(*map(Fraction, map(float, xs)))
        return rounded(exact, mode) if exact else zero(mode, *map(float, xs))

    return function


def sum_zero(mode, *xs):
    """An exact sum of zero is -0 where all terms are -0, or rounding down unless all are +0."""
    signs = [math.copysign(1, x) < 0 and x == 0 for x in xs]
    return -0.0 if all(signs) or (mode == "rm" and not all(x == 0 and math.copysign(1, x) > 0 for x in xs)) else 0.0


def product_zero(mode, a, b):
    return math.copysign(1, a) * math.copysign(1, b) * 0.0


def fma_zero(mode, a, b, c):
    product = product_zero(mode, a, b) if a == 0 or b == 0 else a * b
    return sum_zero(mode, product if product == 0 else 1.0, c if product == 0 else -1.0)


def flush(x):
    return math.copysign(0.0, x) if 0 < abs(x) < 2.0**-126 else x


def ftz(f):
    return lambda *xs: flush(f(*map(flush, map(float, xs))))


def sat(f):
    def function(*xs):
        r = f(*xs)
        return min(r, 1.0) if r > 0 else 0.0

    return function


def least(a, b, nan=False):
    a, b = float(a), float(b)
    if math.isnan(a) or math.isnan(b):
        return math.nan if nan or (math.isnan(a) and math.isnan(b)) else b if math.isnan(a) else a
    return min(a, b) if a != b else (a if math.copysign(1, a) < 0 else b)


def greatest(a, b, nan=False):
    return -least(-float(a), -float(b), nan)


ADD, MUL = (lambda a, b: a + b), (lambda a, b: a * b)
FMA = lambda a, b, c: a * b + c  # noqa: E731


def to_integer(mode, bits, is_signed, nan=0):
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if is_signed else (0, (1 << bits) - 1)
    rounding = {"rni": round, "rzi": math.trunc, "rmi": math.floor, "rpi": math.ceil}[mode]

    def function(x):
        x = float(x)
        if math.isnan(x):
            return nan
        return high if x == math.inf else low if x == -math.inf else max(low, min(high, rounding(x)))

    return function


FLOATS = [
    *((f"add.{m}.f32", "ff", "f", exactly(ADD, m, sum_zero)) for m in ("rn", "rz", "rm", "rp")),
    *((f"mul.{m}.f32", "ff", "f", exactly(MUL, m, product_zero)) for m in ("rn", "rz", "rm", "rp")),
    *((f"fma.{m}.f32", "fff", "f", exactly(FMA, m, fma_zero)) for m in ("rn", "rz", "rm", "rp")),
    ("sub.f32", "ff", "f", exactly(lambda a, b: a - b, "rn", lambda m, a, b: sum_zero(m, a, -b))),
    ("add.ftz.f32", "ff", "f", ftz(exactly(ADD, "rn", sum_zero))),
    ("mul.sat.f32", "ff", "f", sat(exactly(MUL, "rn", product_zero))),
    ("fma.rn.ftz.sat.f32", "fff", "f", sat(ftz(exactly(FMA, "rn", fma_zero)))),
    ("min.f32", "ff", "f", least),
    ("max.NaN.f32", "ff", "f", lambda a, b: greatest(a, b, nan=True)),
    ("min.xorsign.abs.f32", "ff", "f", lambda a, b: math.copysign(
        least(abs(a), abs(b)), math.copysign(1, a) * math.copysign(1, b))),
    ("max.f32", "fff", "f", lambda a, b, c: greatest(greatest(a, b), c)),
    ("abs.f32", "f", "f", abs),
    ("neg.ftz.f32", "f", "f", lambda a: flush(-float(a))),
    ("copysign.f32", "ff", "f", lambda a, b: math.copysign(b, a)),
    ("fma.rn.f64", "ddd", "d", None),
    ("slct.f32.f32", "fff", "f", lambda a, b, c: a if c >= 0 else b),
    ("cvt.rni.s32.f32", "f", "r", to_integer("rni", 32, True)),
    ("cvt.rzi.u32.f32", "f", "r", to_integer("rzi", 32, False)),
    ("cvt.rmi.s8.f32", "f", "r", to_integer("rmi", 8, True)),
    ("cvt.rpi.s64.f64", "d", "l", to_integer("rpi", 64, True, -(1 << 63))),
    ("cvt.rzi.u64.f32", "f", "l", to_integer("rzi", 64, False, 1 << 63)),
    ("cvt.rn.f32.u32", "r", "f", lambda a: rounded(Fraction(a), "rn")),
    ("cvt.rz.f32.s32", "r", "f", lambda a: rounded(Fraction(signed(a, 32)), "rz")),
    ("cvt.rp.f32.s64", "l", "f", lambda a: rounded(Fraction(signed(a, 64)), "rp")),
    ("cvt.rm.f32.f64", "d", "f", lambda a: rounded(Fraction(float(a)), "rm") if math.isfinite(a) and a else float(a)),
    ("cvt.rni.f32.f32", "f", "f", lambda a: math.copysign(float(round(float(a))), a) if math.isfinite(a) else float(a)),
    ("cvt.sat.f32.f32", "f", "f", sat(float)),
    ("cvt.f64.f32", "f", "d", float),
]  # fmt: skip


def to_sixteen(x, mode="rn", bfloat=False):
    """A number, exact as a fraction or f64, to the code of f16 or bf16."""
    dtype = ml_dtypes.bfloat16 if bfloat else np.float16
    if isinstance(x, float) and not math.isfinite(x):
        return 0x7FFF if math.isnan(x) else int(np.array([x], dtype).view(np.uint16)[0])
    negative_zero = x == 0 and math.copysign(1, x) < 0
    form = {"bits": 8, "least": -133, "greatest": 3.3895313892515355e38} if bfloat else {
        "bits": 11, "least": -24, "greatest": 65504.0}  # fmt: skip
    value = -0.0 if negative_zero else rounded(Fraction(x), mode, **form)
    return int(np.array([value], dtype).view(np.uint16)[0])


def in_sixteen(f, zero, bfloat=False):
    """f of halves or bfloats, exact and rounded once."""

    def function(*codes):
        xs = [sixteen(code, bfloat) for code in codes]
        if not all(map(math.isfinite, xs)):
            with np.errstate(all="ignore"):
                return to_sixteen(float(f(*map(np.float64, xs))), bfloat=bfloat)
        exact = f(*map(Fraction, xs))
        return to_sixteen(exact or zero("rn", *xs), bfloat=bfloat)

    return function


def both(f):
    """f of the lower and of the upper halves."""
    return lambda *xs: f(*(x & 0xFFFF for x in xs)) | f(*(x >> 16 for x in xs)) << 16


def relu(f):
    def function(*xs):
        r = f(*xs)
        return 0 if r & 0x8000 and r & 0x7FFF <= 0x7F80 else r

    return function


HALVES = [
    ("add.f16", "hh", "h", in_sixteen(ADD, sum_zero)),
    ("mul.rn.f16x2", "rr", "r", both(in_sixteen(MUL, product_zero))),
    ("sub.bf16x2", "rr", "r", both(in_sixteen(lambda a, b: a - b, lambda m, a, b: sum_zero(m, a, -b), bfloat=True))),
    ("fma.rn.f16", "hhh", "h", in_sixteen(FMA, fma_zero)),
    ("fma.rn.f16x2", "rrr", "r", both(in_sixteen(FMA, fma_zero))),
    ("fma.rn.bf16", "hhh", "h", in_sixteen(FMA, fma_zero, bfloat=True)),
    ("fma.rn.relu.bf16x2", "rrr", "r", both(relu(in_sixteen(FMA, fma_zero, bfloat=True)))),
    ("max.f16", "hh", "h", lambda a, b: to_sixteen(greatest(sixteen(a), sixteen(b)))),
    ("min.NaN.bf16x2", "rr", "r", both(
        lambda a, b: to_sixteen(least(sixteen(a, True), sixteen(b, True), nan=True), bfloat=True))),
    ("neg.f16x2", "r", "r", lambda a: a ^ 0x80008000),
    ("abs.bf16", "h", "h", lambda a: a & 0x7FFF),
    ("cvt.f32.f16", "h", "f", sixteen),
    ("cvt.rn.f16.f32", "f", "h", lambda a: to_sixteen(float(a))),
    ("cvt.rz.f16.f32", "f", "h", lambda a: to_sixteen(float(a), "rz")),
    ("cvt.rn.f16.f64", "d", "h", lambda a: to_sixteen(float(a))),
    ("cvt.rn.f16x2.f32", "ff", "r", lambda a, b: to_sixteen(float(a)) << 16 | to_sixteen(float(b))),
    ("cvt.rz.bf16x2.f32", "ff", "r",
     lambda a, b: to_sixteen(float(a), "rz", True) << 16 | to_sixteen(float(b), "rz", True)),
    ("cvt.rn.bf16.f32", "f", "h", lambda a: to_sixteen(float(a), bfloat=True)),
    ("cvt.rn.relu.f16.f32", "f", "h", lambda a: to_sixteen(0.0 if a <= 0 else float(a))),
    ("cvt.f32.bf16", "h", "f", lambda a: sixteen(a, True)),
    ("cvt.rn.f16.s32", "r", "h", lambda a: to_sixteen(Fraction(signed(a, 32)))),
    ("add.rz.f32.f16", "hf", "f", lambda a, c: exactly(ADD, "rz", sum_zero)(sixteen(a), float(c))),
    ("fma.rn.f32.bf16", "hhf", "f", lambda a, b, c: exactly(FMA, "rn", fma_zero)(
        sixteen(a, True), sixteen(b, True), float(c))),
    ("set.gtu.u32.f16x2", "rr", "r", both(lambda a, b: 0xFFFF * (not sixteen(a) <= sixteen(b)))),
    ("set.le.f16x2.f16x2", "rr", "r", both(lambda a, b: 0x3C00 * (sixteen(a) <= sixteen(b)))),
    ("set.lt.f32.s32", "rr", "f", S(lambda a, b: float(a < b), "rr")),
    ("cvt.rzi.s16.f16", "h", "h", lambda a: to_integer("rzi", 16, True)(sixteen(a))),
]  # fmt: skip

CASES = [*INTEGERS, *FLOATS, *HALVES]


def kernel(n, opcode, kinds, result):
    letters = [k for k in kinds if k in TYPES]
    constant = kinds.partition(",")[2]
    parameters = ", ".join(f"const {TYPES[k][0]}* x{i}" for i, k in enumerate(letters))
    operands = ", ".join([*(f"%{i + 1}" for i in range(len(letters))), *([constant] if constant else [])])
    values = ", ".join(f'"{TYPES[k][2]}"(x{i}[i])' for i, k in enumerate(letters))
    return (
        f"__global__ void k{n}({TYPES[result][0]}* y, {parameters}) {{ const int i = blockIdx.x * 64 + threadIdx.x;"
        f' asm("{opcode} %0, {operands};" : "={TYPES[result][2]}"(y[i]) : {values}); }}\n'
    )


@pytest.fixture(scope="module")
def library():
    source = "#include <stdint.h>\n" + "".join(kernel(n, *case[:3]) for n, case in enumerate(CASES))
    return cuda.load(source=source, arch="sm_100a", kernels=[f"k{n}" for n in range(len(CASES))])


def same(got, expected):
    """Bit for bit, a NaN by being the canonical one."""
    if got.dtype.kind != "f":
        return got == expected
    bits = np.uint32 if got.dtype == np.float32 else np.uint64
    nan = np.isnan(expected) & (got.view(bits) == 0x7FFFFFFF if got.dtype == np.float32 else np.isnan(got))
    return nan | (got.view(bits) == expected.view(bits))


@pytest.mark.parametrize("n", range(len(CASES)), ids=[case[0] for case in CASES])
def test_values(library, n):
    opcode, kinds, result, function = CASES[n]
    letters = [k for k in kinds if k in TYPES]
    xs = [inputs(k, 10 * n + i) for i, k in enumerate(letters)]
    if opcode.startswith(("div", "rem")):
        xs[1][xs[1] == 0] = 3  # a fault, not a value
    if opcode.startswith(("abs.f", "neg.ftz", "copysign", "slct.f32")):
        xs = [np.where(np.isnan(x), np.float32(2), x) for x in xs]
    y = np.full(COUNT, 0, TYPES[result][1])
    library.kernel(f"k{n}")([y, *xs], grid=COUNT // 64, block=64)
    if function is None:
        with np.errstate(all="ignore"):
            return np.testing.assert_allclose(y, xs[0] * xs[1] + xs[2], rtol=1e-12)
    rows = list(zip(*[x.tolist() if x.dtype.kind == "u" else x for x in xs], strict=True))
    values = [function(*row) for row in rows]
    if result in "fd":
        with np.errstate(all="ignore"):
            expected = np.array(values, np.float64).astype(TYPES[result][1])
    else:
        mask = (1 << bits_of(result)) - 1
        expected = np.array([v & mask for v in values], TYPES[result][1])
    wrong = np.flatnonzero(~same(y, expected))
    assert not wrong.size, [(rows[i], y[i], expected[i]) for i in wrong[:5]]
    return None
