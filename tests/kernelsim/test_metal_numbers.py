# SPDX-License-Identifier: MIT
"""Metal's functions of numbers: floats against NumPy, integers against Python's, packing against the bits.

Many expressions are compiled as one kernel, in the order of the tables here.
"""

import numpy as np
import pytest

from kernelsim import metal

HEAD = "#include <metal_stdlib>\nusing namespace metal;\n"


def run(source, name, *args, threads=32):
    metal.load(source=HEAD + source).kernel(name)(list(args), grid=threads, threadgroup=min(threads, 256))


def ulps(got, reference):
    """How many representable numbers lie between got and the reference, rounded to got's type."""
    bits = {2: np.int16, 4: np.int32}[got.dtype.itemsize]
    ordered = [np.asarray(a, got.dtype).view(bits).astype(np.int64) for a in (got, reference)]
    a, b = (np.where(o < 0, np.iinfo(bits).min - o, o) for o in ordered)
    both_nan = np.isnan(got) & np.isnan(np.asarray(reference, got.dtype))
    return np.where(both_nan, 0, np.abs(a - b))


# ---- Functions of float and half

ODD = [0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 1.5, 2.5, -2.5, 3.75, -7.25, 255.5, 1e-4, 6e-5, 1000.0, np.inf, -np.inf, np.nan]
INPUTS = np.array([*ODD, *np.random.default_rng(0).uniform(-6, 6, 238)], np.float32)


def away(x):
    return np.copysign(np.floor(np.abs(x) + 0.5), x)


def half_turns(function):
    def of(x):
        with np.errstate(invalid="ignore"):
            return function(np.pi * np.float64(np.fmod(x, 2)))

    return of


# name -> reference, and how many units in the last place the result may be off
UNARY = {
    "acos": (np.arccos, 2), "acosh": (np.arccosh, 2), "asin": (np.arcsin, 2), "asinh": (np.arcsinh, 2),
    "atan": (np.arctan, 2), "atanh": (np.arctanh, 2), "cos": (np.cos, 2), "cosh": (np.cosh, 2),
    "exp": (np.exp, 2), "exp2": (np.exp2, 2), "exp10": (lambda x: 10.0**x, 2), "log": (np.log, 2),
    "log2": (np.log2, 2), "log10": (np.log10, 2), "sin": (np.sin, 2), "sinh": (np.sinh, 2), "tan": (np.tan, 2),
    "tanh": (np.tanh, 2), "ceil": (np.ceil, 0), "floor": (np.floor, 0), "trunc": (np.trunc, 0),
    "rint": (np.rint, 0), "round": (away, 0), "fabs": (np.abs, 0), "abs": (np.abs, 0), "sqrt": (np.sqrt, 0),
    "rsqrt": (lambda x: 1 / np.sqrt(x), 0), "precise::rsqrt": (lambda x: 1 / np.sqrt(x), 0),
    "fast::exp": (np.exp, 2), "saturate": (lambda x: np.where(np.isnan(x), 0, np.clip(x, 0, 1)), 0),
    "sign": (lambda x: np.where(np.isnan(x), 0, np.sign(x)), 0),
}  # fmt: skip
TURNS = {"sinpi": np.sin, "cospi": np.cos, "tanpi": np.tan}
BINARY = {
    "atan2": (np.arctan2, 2), "pow": (np.power, 2), "powr": (lambda x, y: np.where(x < 0, np.nan, np.power(x, y)), 2),
    "copysign": (np.copysign, 0), "divide": (np.divide, 0), "fmod": (np.fmod, 0), "fmax": (np.fmax, 0),
    "fmin": (np.fmin, 0), "max": (np.fmax, 0), "min": (np.fmin, 0),
    "fdim": (lambda x, y: np.where(x <= y, 0, x - y), 0), "step": (lambda x, y: np.where(y < x, 0, 1), 0),
    "nextafter": (None, 0),
}  # fmt: skip
TESTS = {
    "isnan": np.isnan, "isinf": np.isinf, "isfinite": np.isfinite, "signbit": np.signbit,
    "isnormal": lambda x: np.isfinite(x) & (np.abs(x) >= np.finfo(x.dtype).tiny),
}  # fmt: skip


@pytest.fixture(scope="module")
def math():
    lines = [f"out[{n} * n + i] = {name}(a);" for n, name in enumerate([*UNARY, *TURNS, "fract"])]
    binary = [f"out[{n} * n + i] = {name}(a, b);" for n, name in enumerate(BINARY)]
    tests = [f"tests[{n} * n + i] = {name}(a);" for n, name in enumerate(TESTS)]
    head = "uint i [[thread_position_in_grid]], uint n [[threads_per_grid]]"
    templates = f"""
template <typename T> kernel void unary(device T* out, device bool* tests, device const T* x, {head}) {{
  const T a = x[i]; {" ".join(lines + tests)}
}}
template <typename T> kernel void binary(device T* out, device const T* x, device const T* y, {head}) {{
  const T a = x[i], b = y[i]; {" ".join(binary)}
}}
// The same on vectors: components n / 4 apart.
template <typename T> kernel void vectors(device vec<T, 4>* out, device const vec<T, 4>* x, {head}) {{
  const vec<T, 4> a = x[i], b = x[n - 1 - i];
  out[i] = fma(precise::floor(a), fast::min(b, T(1)), fmax3(a, b, vec<T, 4>(T(0))));
  out[n + i] = select(clamp(a, T(-2), T(2)), fmedian3(a, b, T(1)), isordered(a, b) || isinf(b));
}}
"""
    instances = "".join(
        f'template [[host_name("{kernel}_{t}")]] kernel decltype({kernel}<{t}>) {kernel}<{t}>;\n'
        for kernel in ("unary", "binary", "vectors")
        for t in ("float", "half")
    )
    return metal.load(source=HEAD + templates + instances)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_math(math, dtype):
    x = INPUTS.astype(dtype)
    out, tests = np.zeros((len(UNARY) + len(TURNS) + 1, x.size), dtype), np.zeros((len(TESTS), x.size), bool)
    math.kernel(f"unary_{'float' if dtype == np.float32 else 'half'}")([out, tests, x], grid=256, threadgroup=32)
    exact = x.astype(np.float64)
    for got, (name, (reference, limit)) in zip(out, UNARY.items(), strict=False):
        off = ulps(got, reference(exact).astype(dtype))
        assert off.max() <= limit, (name, x[off.argmax()], got[off.argmax()])
    for got, (name, reference) in zip(out[len(UNARY) :], TURNS.items(), strict=False):
        away_from_zero = np.abs(got.astype(np.float64) - half_turns(reference)(exact))
        fine = away_from_zero <= np.finfo(dtype).eps * np.maximum(1, np.abs(half_turns(reference)(exact)))
        whole = np.isfinite(exact) & (exact == np.rint(2 * exact) / 2)
        poles = (np.fmod(2 * exact, 2) != 0) & whole if name == "tanpi" else np.zeros(x.size, bool)
        assert (fine | np.isnan(got) & ~np.isfinite(x) | poles).all(), name
    below_one = np.nextafter(dtype(1), dtype(0))
    fract = np.fmin((x - np.floor(x)).astype(dtype), below_one)
    finite = np.isfinite(x)
    np.testing.assert_array_equal(out[-1][finite], fract[finite])
    for got, (name, reference) in zip(tests, TESTS.items(), strict=True):
        np.testing.assert_array_equal(got, reference(x), name)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_math_of_two(math, dtype):
    x, y = (a.ravel().astype(dtype) for a in np.meshgrid(INPUTS[:48], INPUTS[:48]))
    out = np.zeros((len(BINARY), x.size), dtype)
    name = "float" if dtype == np.float32 else "half"
    math.kernel(f"binary_{name}")([out, x, y], grid=x.size, threadgroup=64)
    for got, (name, (reference, limit)) in zip(out, BINARY.items(), strict=True):
        exact = np.nextafter(x, y) if reference is None else reference(x.astype(np.float64), y.astype(np.float64))
        off = ulps(got, exact.astype(dtype))
        zeros = (got == 0) & (exact == 0)  # of which sign: both are allowed in fmin and fmax
        off = np.where(zeros, 0, off)
        at = off.argmax()
        assert off[at] <= limit, (name, x[at], y[at], got[at], exact[at])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_math_on_vectors(math, dtype):
    x = INPUTS[np.isfinite(INPUTS)][:240].astype(dtype)
    out = np.zeros((2, 240), dtype)
    math.kernel(f"vectors_{'float' if dtype == np.float32 else 'half'}")([out, x], grid=60, threadgroup=20)
    a, b = x.astype(np.float64), x.reshape(60, 4)[::-1].ravel().astype(np.float64)
    first = np.floor(a) * np.minimum(b, 1) + np.maximum(np.maximum(a, b), 0)
    np.testing.assert_array_equal(out[0], first.astype(dtype))
    np.testing.assert_array_equal(out[1], np.median([a, b, np.ones(240)], axis=0).astype(dtype))


# ---- Integers, against Python's

INTEGERS = {"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "long": "i8",
            "ulong": "u8"}  # fmt: skip


class Of:
    """Arithmetic of one integer type on Python's integers."""

    def __init__(self, dtype):
        self.bits, self.signed = 8 * dtype.itemsize, dtype.kind == "i"
        self.low, self.high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)

    def pattern(self, x):
        return x & (1 << self.bits) - 1

    def wrap(self, x):
        x = self.pattern(x)
        return x - (1 << self.bits) if x > self.high else x

    def clamp(self, x):
        return min(max(x, self.low), self.high)

    def low24(self, x):
        x &= 0xFFFFFF
        return x - (1 << 24) if self.signed and x >> 23 else x

    def reverse(self, x):
        return int(format(self.pattern(x), f"0{self.bits}b")[::-1], 2)

    def rotate(self, x, by):
        by, x = self.pattern(by) % self.bits, self.pattern(x)
        return x << by | x >> (self.bits - by)

    def extract(self, x, offset, count):
        field = self.pattern(x) >> offset & (1 << count) - 1
        return field - (1 << count) if self.signed and count and field >> (count - 1) else field

    def insert(self, x, y, offset, count):
        mask = ((1 << count) - 1) << offset
        return self.pattern(x) & ~mask | self.pattern(y) << offset & mask


INTEGER = {
    "min(a, b)": lambda t, a, b, c: min(a, b),
    "max(a, b)": lambda t, a, b, c: max(a, b),
    "max3(a, b, c)": lambda t, a, b, c: max(a, b, c),
    "min3(a, b, c)": lambda t, a, b, c: min(a, b, c),
    "median3(a, b, c)": lambda t, a, b, c: sorted([a, b, c])[1],
    "clamp(a, min(b, c), max(b, c))": lambda t, a, b, c: sorted([a, b, c])[1],
    "abs(a)": lambda t, a, b, c: abs(a),
    "T(absdiff(a, b))": lambda t, a, b, c: abs(a - b),
    "addsat(a, b)": lambda t, a, b, c: t.clamp(a + b),
    "subsat(a, b)": lambda t, a, b, c: t.clamp(a - b),
    "hadd(a, b)": lambda t, a, b, c: (a + b) >> 1,
    "rhadd(a, b)": lambda t, a, b, c: (a + b + 1) >> 1,
    "mulhi(a, b)": lambda t, a, b, c: a * b >> t.bits,
    "madhi(a, b, c)": lambda t, a, b, c: (a * b >> t.bits) + c,
    "madsat(a, b, c)": lambda t, a, b, c: t.clamp(a * b + c),
    "popcount(a)": lambda t, a, b, c: t.pattern(a).bit_count(),
    "clz(a)": lambda t, a, b, c: t.bits - t.pattern(a).bit_length(),
    "ctz(a)": lambda t, a, b, c: (t.pattern(a) & -t.pattern(a)).bit_length() - 1 if a else t.bits,
    "reverse_bits(a)": lambda t, a, b, c: t.reverse(a),
    "rotate(a, b)": lambda t, a, b, c: t.rotate(a, b),
    "extract_bits(a, 2, 5)": lambda t, a, b, c: t.extract(a, 2, 5),
    "extract_bits(a, sizeof(T), 7 * sizeof(T))": lambda t, a, b, c: t.extract(a, t.bits // 8, t.bits // 8 * 7),
    "extract_bits(a, 3, 0)": lambda t, a, b, c: 0,
    "insert_bits(a, b, 1, 6)": lambda t, a, b, c: t.insert(a, b, 1, 6),
    "insert_bits(a, b, 0, 8 * sizeof(T))": lambda t, a, b, c: b,
    "mul24(a, b)": lambda t, a, b, c: t.low24(a) * t.low24(b),
    "mad24(a, b, c)": lambda t, a, b, c: t.low24(a) * t.low24(b) + c,
}


@pytest.fixture(scope="module")
def integer():
    lines = [f"out[{n} * n + i] = {text};" for n, text in enumerate(INTEGER)]
    vectors = [f"out[{len(INTEGER) + n} * n + i] = {text}.w;" for n, text in enumerate(INTEGER)]
    template = f"""
template <typename T> kernel void integer(device T* out, device const T* x, device const T* y, device const T* z,
                                          uint i [[thread_position_in_grid]], uint n [[threads_per_grid]]) {{
  {{ const T a = x[i], b = y[i], c = z[i]; {" ".join(lines)} }}
  {{ const vec<T, 4> a(0, 1, 2, x[i]), b(0, 1, 2, y[i]), c(0, 1, 2, z[i]);
     {" ".join(v.replace("T(absdiff(a, b))", "absdiff(a, b)") for v in vectors)} }}
}}
"""
    return metal.load(
        source=HEAD
        + template
        + "".join(f'template [[host_name("{t}")]] kernel decltype(integer<{t}>) integer<{t}>;\n' for t in INTEGERS)
    )


@pytest.mark.parametrize("name", INTEGERS)
def test_integers(integer, name):
    dtype = np.dtype(INTEGERS[name])
    t, rng = Of(dtype), np.random.default_rng(0)
    corners = np.array([0, 1, t.high, t.low, t.high - 1, 37 % t.bits], dtype)
    grid = [a.ravel() for a in np.meshgrid(corners, corners, corners)]
    some = [rng.integers(t.low, t.high, 40, dtype, endpoint=True) for _ in grid]
    x, y, z = (np.concatenate(pair) for pair in zip(grid, some, strict=True))
    out = np.zeros((2, len(INTEGER), x.size), dtype)
    integer.kernel(name)([out, x, y, z], grid=x.size, threadgroup=64)
    for n, (text, reference) in enumerate(INTEGER.items()):
        if "24" in text and dtype.itemsize != 4:
            continue
        expected = [t.wrap(reference(t, *(int(v) for v in abc))) for abc in zip(x, y, z, strict=True)]
        assert out[0, n].tolist() == expected, text
        assert out[1, n].tolist() == expected, f"{text} on vectors"


# ---- Pack and unpack


def fields(words, widths, *, signed=False):
    at = np.cumsum([0, *widths[:-1]])
    parts = [words.astype(np.int64) >> a & (1 << w) - 1 for a, w in zip(at, widths, strict=True)]
    if signed:
        parts = [np.where(p >> (w - 1), p - (1 << w), p) for p, w in zip(parts, widths, strict=True)]
    return np.stack(parts, axis=-1)


PACKED = {"unorm4x8": (8, 8, 8, 8), "unorm2x16": (16, 16), "unorm10a2": (10, 10, 10, 2), "unorm565": (5, 6, 5),
          "snorm4x8": (8, 8, 8, 8), "snorm2x16": (16, 16)}  # fmt: skip


@pytest.mark.parametrize("name", ["float", "half"])
def test_pack(name):
    source = f"kernel void k(device {name}4* out, device uint* again, device uint* rounded, device const uint* x, "
    source += f"device const {name}4* v, uint i [[thread_position_in_grid]], uint n [[threads_per_grid]]) {{\n"
    for k, (form, widths) in enumerate(PACKED.items()):
        t = f"{name}{len(widths)}"
        zeros = "".join(", 0" for _ in range(4 - len(widths)))
        source += f"{{ const {t} u = unpack_{form}_to_{name}(x[i]); out[{k} * n + i] = {name}4(u{zeros});\n"
        source += f"  again[{k} * n + i] = pack_{name}_to_{form}(u); "
        source += f"rounded[{k} * n + i] = pack_{name}_to_{form}(v[i].{'xyzw'[: len(widths)]}); }}\n"
    dtype = np.float32 if name == "float" else np.float16
    x = np.concatenate([np.arange(64) * 0x04104104, np.random.default_rng(0).integers(0, 2**32, 64)]).astype(np.uint32)
    v = np.random.default_rng(1).uniform(-1.2, 1.2, (128, 4)).astype(dtype)
    v[0] = [np.nan, np.inf, -np.inf, -0.0]
    out = np.zeros((len(PACKED), 128, 4), dtype)
    again, rounded = np.zeros((2, len(PACKED), 128), np.uint32)
    run(source + "}", "k", out, again, rounded, x, v, threads=128)
    for k, (form, widths) in enumerate(PACKED.items()):
        signed = form[0] == "s"
        order = widths[::-1] if form == "unorm565" else widths
        codes = fields(x, order, signed=signed)
        limit = np.array([(1 << w - signed) - 1 for w in order])
        values = np.maximum((codes.astype(np.float32) / limit.astype(np.float32)), -1).astype(dtype)
        at = np.cumsum([0, *order[:-1]])
        clean = np.nan_to_num(np.clip(v[:, : len(widths)].astype(np.float32), -1.0 if signed else 0.0, 1.0), nan=0.0)
        if form == "unorm565":
            values, clean = values[:, ::-1], clean[:, ::-1]  # red, the first component, is in the highest bits
        np.testing.assert_array_equal(out[k, :, : len(widths)], values, form)
        mask = np.array([(1 << w) - 1 for w in order])
        packed = ((np.rint(clean * limit.astype(np.float32)).astype(np.int64) & mask) << at).sum(axis=1)
        np.testing.assert_array_equal(rounded[k], packed, form)
        least = signed and codes == -limit - 1  # two codes for -1
        if name == "float" or max(widths) <= 10:
            whole = ((np.where(least, -limit, codes) & mask) << at).sum(axis=1)
            np.testing.assert_array_equal(again[k], whole, form)


def test_srgb():
    source = """kernel void k(device float4* out, device uint* again, device const uint* x,
                              uint i [[thread_position_in_grid]]) {
      out[i] = unpack_unorm4x8_srgb_to_float(x[i]);
      again[i] = pack_float_to_srgb_unorm4x8(out[i]);
    }"""
    x = (np.arange(256) * 0x01010101).astype(np.uint32)
    out, again = np.zeros((256, 4), np.float32), np.zeros(256, np.uint32)
    run(source, "k", out, again, x, threads=256)
    c = np.arange(256) / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    np.testing.assert_allclose(out[:, 0], linear, rtol=1e-6)
    np.testing.assert_allclose(out[:, 3], c, rtol=1e-7)
    np.testing.assert_array_equal(again, x)
