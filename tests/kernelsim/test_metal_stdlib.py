# SPDX-License-Identifier: MIT
"""metal_stdlib: each function against NumPy, or Python integers, and what MSL refuses.

Many expressions are compiled as one kernel, in the order of the tables here.
"""

from functools import reduce

import ml_dtypes
import numpy as np
import pytest

from kernelsim import KernelFault, SourceError, metal

HEAD = "#include <metal_stdlib>\nusing namespace metal;\n"
BF16 = ml_dtypes.bfloat16


def run(source, name, *args, threads=32):
    metal.load(source=HEAD + source).kernel(name)(list(args), grid=threads, threadgroup=min(threads, 256))


def ulps(got, reference):
    """How many representable numbers lie between got and the reference, rounded to got's type."""
    bits = {2: np.int16, 4: np.int32}[got.dtype.itemsize]
    ordered = [np.asarray(a, got.dtype).view(bits).astype(np.int64) for a in (got, reference)]
    a, b = (np.where(o < 0, np.iinfo(bits).min - o, o) for o in ordered)
    both_nan = np.isnan(got) & np.isnan(np.asarray(reference, got.dtype))
    return np.where(both_nan, 0, np.abs(a - b))


# ---- Vectors: statements that leave a value in r

VECTORS = [
    ("float4 r(1, 2, 3, 4);", [1, 2, 3, 4]),
    ("float4 r(7);", [7, 7, 7, 7]),
    ("float4 r = 7;", [7, 7, 7, 7]),
    ("float4 r(float2(1, 2), 3, 4);", [1, 2, 3, 4]),
    ("float4 r(1, float3(2, 3, 4));", [1, 2, 3, 4]),
    ("float4 r(half2(1, 2), int2(3, -4));", [1, 2, 3, -4]),
    ("uint4 r = {1, 2};", [1, 2, 0, 0]),
    ("float4 r = {5};", [5, 0, 0, 0]),
    ("half3 r{};", [0, 0, 0]),
    ("float4 r = {float2(1, 2), 3, 4};", [1, 2, 3, 4]),
    ("int4 r(float4(1.9f, -1.9f, 2.5f, 0));", [1, -1, 2, 0]),
    ("half4 r(float4(1, 1.0004f, 1.0006f, 65504));", [1, 1, 1 + 2**-10, 65504]),
    ("bfloat4 r(float4(1, 1.00390625f, 1.01171875f, 3));", [1, 1, 1.015625, 3]),
    ("bool4 r = float4(1, 2, 3, 4) > 2;", [0, 0, 1, 1]),
    ("bool2 r = !(int2(1, 2) == int2(1, 3));", [0, 1]),
    ("bool4 r = bool4(1, 1, 0, 0) && bool4(1, 0, 1, 0);", [1, 0, 0, 0]),
    ("float4 r = float4(1, 2, 3, 4) * 2 - 1;", [1, 3, 5, 7]),
    ("float4 r = 12 / float4(1, 2, 3, 4);", [12, 6, 4, 3]),
    ("half2 r = half2(2048) + half2(1, 3);", [2048, 2052]),
    ("half2 r = half2(1) + 1.0h / 2;", [1.5, 1.5]),
    ("bfloat2 r = bfloat2(256) + bfloat2(1, 3);", [256, 260]),
    ("int4 r = int4(-7, 7, 8, 9) / 2 + int4(-7, 7, 8, 9) % 4;", [-6, 6, 4, 5]),
    ("uint4 r = (uint4(0xff) >> uint4(0, 4, 36, 1)) & 0x7fu;", [127, 15, 15, 127]),
    ("uchar4 r = uchar4(200, 100, 1, 0) + uchar4(100);", [44, 200, 101, 100]),
    ("ushort4 r = ~ushort4(0, 1, 2, 3);", [65535, 65534, 65533, 65532]),
    ("int3 r = -int3(1, -2, 3); r += 10; r *= int3(1, 2, 3); r <<= 1;", [18, 48, 42]),
    ("int2 r(5); r++; --r; r |= 8; r ^= int2(1, 2);", [12, 15]),
    ("float4 v(1, 2, 3, 4); float4 r = v.wzyx;", [4, 3, 2, 1]),
    ("float4 v(1, 2, 3, 4); float3 r = v.xxy;", [1, 1, 2]),
    ("float4 v(1, 2, 3, 4); float2 r = v.wzyx.xy;", [4, 3]),
    ("float4 r(1, 2, 3, 4); r.xw = r.yz;", [2, 2, 3, 3]),
    ("float4 r(1, 2, 3, 4); r.zyx *= float3(2, 3, 4);", [4, 6, 6, 4]),
    ("float4 r(1, 2, 3, 4); r.b = 9; r.rg = float2(r.a);", [4, 4, 9, 4]),
    ("float4 r(1, 2, 3, 4); r[2] = 7; r.x += r[1];", [3, 2, 7, 4]),
    ("packed_float3 p(1, 2, 3); float3 r = p; r.x += sizeof(p);", [13, 2, 3]),
    ("packed_float3 r; r = float3(1, 2, 3); r.xy = r.yz * 2; r[2] = 5;", [4, 6, 5]),
    ("packed_half4 p(1); half4 r = p * 2 + p;", [3, 3, 3, 3]),
    ("float3 v(1, 2, 3); float r = sizeof(v) + v.z;", [19]),
    ("uint r = as_type<uint>(1.0f) >> 16;", [0x3F80]),
    ("half2 r = as_type<half2>(0x3c00c000u);", [-2, 1]),
    ("uint2 r = as_type<uint2>(0x0000000500000006ul);", [6, 5]),
    ("float r = as_type<bfloat>(ushort(0x4049));", [3.140625]),
    ("int r = all(bool3(true)) + 2 * any(bool2(false)) + 4 * any(int2(1, 2) == 2);", [5]),
    ("int4 r = select(int4(1), int4(2), bool4(0, 1, 0, 1));", [1, 2, 1, 2]),
    ("int4 r = clamp(int4(-5, 0, 5, 50), 0, 9);", [0, 0, 5, 9]),
    ("float3 r = max(float3(1, 2, 3), 2.0f);", [2, 2, 3]),
    ("float4 r = mix(float4(0), float4(8), 0.25f);", [2, 2, 2, 2]),
    ("float2 r = smoothstep(0.0f, 2.0f, float2(1, 3));", [0.5, 1]),
    ("float r = dot(float4(1, 2, 3, 4), float4(4, 3, 2, 1));", [20]),
    ("half r = dot(half2(2048, 1), half2(1, 1));", [2048]),
    ("float3 r = cross(float3(1, 2, 3), float3(4, 5, 6));", [-3, 6, -3]),
    ("float r = length(float2(3, 4)) + distance(float2(0), float2(6, 8)) + length_squared(float2(1, 2));", [20]),
    ("float2 r = normalize(float2(0, -4));", [0, -1]),
    ("float2 r = reflect(float2(1, -1), float2(0, 1));", [1, 1]),
    ("float2 r = faceforward(float2(0, 1), float2(0, 1), float2(0, 1));", [0, -1]),
    ("float2 r = refract(float2(0, -1), float2(0, 1), 0.5f);", [0, -1]),
    ("float whole; float f = modf(-2.5f, whole); float2 r(f, whole);", [-0.5, -2]),
    ("int2 e; float2 f = frexp(float2(8, 0.375f), e); float4 r(f, float2(e));", [0.5, 0.75, 4, -1]),
    ("float2 r = ldexp(float2(1, 3), int2(4, -1));", [16, 1.5]),
    ("int r = ilogb(0.3f);", [-2]),
    ("float c; float s = sincos(0.0f, c); float2 r(s, c);", [0, 1]),
    ("array<int, 3> a = {1, 2, 3}; int r = a[0] + a.back() * int(a.size());", [10]),
    ("float2x3 m(1, 2, 3, 4, 5, 6); float3 r = m * float2(1, 10);", [41, 52, 63]),
    ("float2x3 m(float3(1, 2, 3), float3(4, 5, 6)); float2 r = float3(1, 1, 2) * m;", [9, 21]),
    ("float2x2 r_ = float2x2(1, 2, 3, 4) * float2x2(2); float4 r(r_[0], r_[1]);", [2, 4, 6, 8]),
    ("half3x2 t = transpose(half2x3(1, 2, 3, 4, 5, 6)); half4 r(t[0], t[2]);", [1, 4, 3, 6]),
    ("float4x4 m(float4(2, 0, 0, 1), float4(0, 3, 1, 0), float4(0, 1, 1, 0), float4(1, 0, 0, 1)); "
     "float r = determinant(m);", [2]),
    ("float r = determinant(float3x3(1, 2, 3, 0, 1, 4, 5, 6, 0)) + determinant(float2x2(1, 2, 3, 4));", [-1]),
    ("half4x4 h(float4x4(3)); h[1] += 1; half4 r = h[1];", [1, 4, 1, 1]),
    # bfloat: implicitly only to float; with integers it stays bfloat
    ("bfloat b = 3; b += 1; float r = b * b / 32;", [0.5]),
    ("bfloat b = bfloat(257); float r = b + 0.25f;", [256.25]),
    ("bfloat b = bfloat(1.5f); int r = int(b * 3) + (b < 2) + (b == 1.5f);", [6]),
    ("float r = true ? bfloat(2) : 0;", [2]),
    ("float r = bfloat(16842753);", [16908288]),  # just above the middle of two, which is what f32 would make of it
    ("float r = exp(bfloat(0)) + max(bfloat(2), bfloat(3));", [4]),
    ("float r = float(numeric_limits<half>::max()) + numeric_limits<half>::epsilon() * 1024;", [65505]),
    ("float r = numeric_limits<bfloat>::min() == 0x1p-126f && isinf(numeric_limits<bfloat>::infinity());", [1]),
    ("int r = numeric_limits<short>::lowest() + numeric_limits<uchar>::max() + numeric_limits<char>::digits;",
     [-32768 + 255 + 7]),
    ("float r = isnan(numeric_limits<float>::quiet_NaN()) && numeric_limits<float>::lowest() == -FLT_MAX;", [1]),
    ("uint r = vec<uint, 2>(1, 2).y + is_same_v<float4, vec<float, 4>> + is_floating_point_v<bfloat>;", [4]),
    ("int r = is_same_v<make_unsigned_t<short>, ushort> + is_convertible_v<bfloat, float> + "
     "is_convertible_v<float, bfloat> + is_convertible_v<bfloat, half> + is_convertible_v<int4, float4>;", [2]),
    ("conditional_t<true, half, int> h = 0.5; enable_if_t<true, float> r = h;", [0.5]),
]  # fmt: skip


def test_vectors():
    cases = "".join(f"  {{ {text} put(out + {4 * n}, r); }}\n" for n, (text, _) in enumerate(VECTORS))
    source = (
        "template <typename T> void put(device float* out, T v) { out[0] = v; }\n"
        "template <typename T, int N> void put(device float* out, vec<T, N> v) {\n"
        "  for (int i = 0; i < N; i++) out[i] = v[i];\n}\n"
        "void put(device float* out, packed_float3 v) { put(out, float3(v)); }\n"
        f"kernel void all_of_them(device float* out) {{\n{cases}}}\n"
    )
    out = np.full((len(VECTORS), 4), np.nan, np.float32)
    run(source, "all_of_them", out, threads=1)
    for row, (text, expected) in zip(out, VECTORS, strict=True):
        assert row[: len(expected)].tolist() == expected, text


REFUSED = [
    "float4 v = int4(1);",  # no conversion of vectors but a written one
    "float4 v = half4(1);",
    "float4 v(1, 2, 3);",
    "float3 v(float4(1));",
    "float4 v = float4(1) + half4(1);",
    "float4 v = float4(1) * float3(1);",
    "int4 v = int4(1) * 1.5f;",
    "float2 v(1); v.z = 1;",
    "float2 v(1); float r = v.xyz.x;",
    "half h = bfloat(1);",
    "bfloat b = 1.0f;",
    "bfloat b = 1.0h;",
    "float r = max(1.0f, 1);",  # as ambiguous as for Apple's compiler
    "float r = exp(1);",
    "device const half* p = x; simdgroup_float8x8 m; simdgroup_load(m, p);",
    "float r = as_type<float>(1ul);",
    "simd_vote v = simd_ballot(true); ulong r = v;",
]


@pytest.mark.parametrize("text", REFUSED)
def test_what_msl_refuses(text):
    source = f"kernel void k(device const half* x) {{\n{text} }}\n"
    with pytest.raises(SourceError, match=r"\.metal:4:"):
        run(source, "k", np.zeros(1, np.float16))


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


# ---- Lanes together: types other than int, order of sums, what is undefined

LANES = np.arange(32)


def butterfly(values, op):
    values = list(values)
    while len(values) > 1:
        half = len(values) // 2
        values = [op(values[i], values[i + half]) for i in range(half)]
    return values[0]


LANE_TYPES = {"float": np.float32, "half": np.float16, "bfloat": BF16, "short": np.int16, "ulong": np.uint64}


@pytest.fixture(scope="module")
def lanes():
    template = """
template <typename T> kernel void lanes(device T* out, device const T* x, uint i [[thread_index_in_simdgroup]]) {
  const T v = x[i];
  device T* o = out + i;
  o[0] = simd_sum(v); o[32] = quad_sum(v); o[64] = simd_min(v); o[96] = simd_max(v);
  o[128] = simd_prefix_inclusive_sum(v); o[160] = simd_prefix_exclusive_product(v);
  o[192] = quad_prefix_inclusive_sum(v); o[224] = quad_prefix_exclusive_sum(v);
  o[256] = simd_shuffle(v, ushort(31 - i)); o[288] = simd_shuffle_and_fill_down(v, T(7), ushort(3), ushort(8));
}
template <typename T> kernel void vectors(device vec<T, 4>* out, device const vec<T, 4>* x,
                                          uint i [[thread_index_in_simdgroup]]) {
  out[i] = simd_sum(x[i]);
  out[32 + i] = simd_shuffle_xor(x[i], 5);
  out[64 + i] = simd_max(x[i]);
}
kernel void divergent(device float* out, uint i [[thread_index_in_simdgroup]]) {
  if (i < 8) {
    out[i] = (ulong)simd_active_threads_mask();
    out[32 + i] = (ulong)simd_ballot(i % 2);
    out[64 + i] = simd_is_first();
  } else if (i % 8 < 4) {
    out[i] = quad_sum(1.0f) + quad_any(i == 8) * 10 + quad_all(i >= 8) * 100;
    out[32 + i] = quad_broadcast_first(float(i));
    out[64 + i] = (ulong)quad_ballot(i % 4 != 0);
  } else {
    out[i] = quad_shuffle_rotate_down(float(i), 1);
    out[32 + i] = quad_prefix_exclusive_sum(float(i));
    out[64 + i] = quad_is_first();
  }
  if (i >= 20) return;
  out[96 + i] = simd_shuffle_down(float(i), 4);
  out[128 + i] = simd_sum(1.0f);
  out[160 + i] = simd_shuffle_up(float(i), 30);
}
kernel void partial(device uint* out, uint i [[thread_position_in_threadgroup]]) {
  out[i] = simd_sum(1u);
  out[40 + i] = simd_ballot(true).all() + 2 * simd_ballot(i > 36).any();
}
kernel void uneven(device uint* out, constant uint& which, uint i [[thread_position_in_threadgroup]]) {
  if (which == 0) out[i] = simd_shuffle_down(i, i % 3);
  if (which == 1) out[i] = simd_broadcast(i, i);
  if (which == 2) out[i] = simd_shuffle_and_fill_up(i, i, 1, 3);
  if (which == 3) out[i] = quad_shuffle_xor(i, i / 2);
  if (which == 4 && i < 16)
    out[i] = simd_sum(i);
  else if (which == 4)
    simdgroup_barrier(mem_flags::mem_none);
  if (which == 5) out[i] = simd_shuffle(i, 32 + i);
}
"""
    instances = [f'template [[host_name("{t}")]] kernel decltype(lanes<{t}>) lanes<{t}>;\n' for t in LANE_TYPES]
    instances += [f'template [[host_name("{t}4")]] kernel decltype(vectors<{t}>) vectors<{t}>;\n' for t in LANE_TYPES]
    source = HEAD + template + "".join(instances)
    return metal.load(source=source, kernels=metal.load(source=source).kernels)


def lane_values(dtype, shape=(32,)):
    rng = np.random.default_rng(0)
    if np.dtype(dtype).kind in "iu":
        return rng.integers(1, 100, shape).astype(dtype)
    return rng.uniform(0.5, 1.5, shape).astype(dtype)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", LANE_TYPES)
def test_lanes(lanes, name):
    dtype = LANE_TYPES[name]
    x, out = lane_values(dtype), np.zeros((10, 32), dtype)
    lanes.kernel(name).check([out, x], grid=32, threadgroup=32)
    plus, times = lambda a, b: dtype(a + b), lambda a, b: dtype(a * b)
    quads = x.reshape(8, 4)
    shifted = [7 if i % 8 >= 5 else x[i + 3] for i in LANES]
    expected = (
        [butterfly(x, plus)] * 32,
        [butterfly(quad, plus) for quad in quads for _ in range(4)],
        [min(x)] * 32,
        [max(x)] * 32,
        [reduce(plus, x[: i + 1]) for i in LANES],
        [reduce(times, x[:i], dtype(1)) for i in LANES],
        [reduce(plus, quads[i // 4, : i % 4 + 1]) for i in LANES],
        [reduce(plus, quads[i // 4, : i % 4], dtype(0)) for i in LANES],
        x[::-1],
        shifted,
    )
    for row, values in zip(out, expected, strict=True):
        assert row.tolist() == np.array(values, dtype).tolist()


@pytest.mark.parametrize("name", LANE_TYPES)
def test_lanes_of_vectors(lanes, name):
    dtype = LANE_TYPES[name]
    x, out = lane_values(dtype, (32, 4)), np.zeros((3, 32, 4), dtype)
    lanes.kernel(f"{name}4").check([out, x], grid=32, threadgroup=32)
    total = butterfly(x, lambda a, b: (a + b).astype(dtype))
    assert out[0].tolist() == [total.tolist()] * 32
    assert out[1].tolist() == x[LANES ^ 5].tolist()
    assert out[2].tolist() == [x.max(axis=0).tolist()] * 32


def test_lanes_that_go_different_ways(lanes):
    out = np.full((6, 32), -1, np.float32)
    lanes.kernel("divergent").check([out], grid=32, threadgroup=32)
    few, quads, others = LANES < 8, (LANES >= 8) & (LANES % 8 < 4), (LANES >= 8) & (LANES % 8 >= 4)
    base = LANES // 4 * 4
    assert (out[0][few] == 0xFF).all()
    assert (out[1][few] == 0xAA).all()
    assert (out[2][few] == (LANES[few] == 0)).all()
    assert (out[0][quads] == 104 + 10 * (base[quads] == 8)).all()
    assert (out[1][quads] == base[quads]).all()
    assert (out[2][quads] == 0b1110).all()
    assert (out[0][others] == base[others] + (LANES[others] + 1) % 4).all()
    assert out[1][others].tolist() == [sum(range(b, i)) for b, i in zip(base[others], LANES[others], strict=True)]
    assert (out[2][others] == (LANES[others] % 4 == 0)).all()
    assert out[3][:16].tolist() == [i + 4 for i in range(16)]
    assert np.isnan(out[3][16:20]).all(), "lanes 20 and on have returned: poison"
    assert (out[4][:20] == 20).all()
    assert (out[5][:20] == LANES[:20]).all(), "shuffled up by 30 there is no lane below: its own value"


def test_a_last_simdgroup_that_is_smaller(lanes):
    out = np.zeros((2, 40), np.uint32)
    lanes.kernel("partial").check([out], grid=40, threadgroup=40)
    assert out[0].tolist() == [32] * 32 + [8] * 8
    assert out[1].tolist() == [1] * 32 + [3] * 8


@pytest.mark.parametrize(
    ("which", "message"),
    [
        (0, "simd_shuffle_down: 0 in lane 0, but 1 in lane 1; it must be the same in all"),
        (1, "simd_broadcast: 0 in lane 0, but 1 in lane 1"),
        (2, "simd_shuffle_and_fill_up: modulo is 3, no power of two from 2 to 32"),
        (3, "quad_shuffle_xor"),
        (4, "divergent simd"),
    ],
)
def test_undefined_use_of_lanes_is_a_fault(lanes, which, message):
    with pytest.raises(KernelFault, match=r"\.metal:\d+") as caught:
        lanes.kernel("uneven")([np.zeros(32, np.uint32), which], grid=32, threadgroup=32)
    assert message in str(caught.value)


def test_a_lane_that_does_not_exist_is_poison(lanes):
    out = np.zeros(32, np.uint32)
    lanes.kernel("uneven")([out, 5], grid=32, threadgroup=32)
    assert (out == 0xFFFFFFFF).all()


# ---- simdgroup_matrix


@pytest.fixture(scope="module")
def matrices():
    template = """
template <typename D, typename A, typename B> kernel void multiply(
    device D* d, device const A* a, device const B* b, device const D* c, device A* other) {
  simdgroup_matrix<A, 8, 8> x, filled = make_filled_simdgroup_matrix<A, 8>(A(2));
  simdgroup_matrix<B, 8, 8> y;
  simdgroup_matrix<D, 8, 8> z;
  simdgroup_load(x, a);
  simdgroup_load(y, b, 8, ulong2(0), true);
  simdgroup_load(z, c);
  simdgroup_multiply_accumulate(z, x, y, z);
  simdgroup_store(z, d, 8, ulong2(0), false);
  simdgroup_store(x * simdgroup_matrix<A, 8, 8>(A(3)), other, 20, ulong2(3, 1), true);
  simdgroup_multiply(x, x, filled);
  simdgroup_store(x, other, 20, ulong2(11, 9));
}
kernel void threads(device float* out, uint i [[thread_index_in_simdgroup]]) {
  if (i >= 24) return;  // leaves its elements undefined
  simdgroup_float8x8 m(1.0f), n = make_filled_simdgroup_matrix<float, 8, 8>(i);
  simdgroup_multiply(n, m, n);
  out[2 * i] = n.thread_elements()[0];
  out[2 * i + 1] = n.thread_elements().y;
}
"""
    uses = {"fff": "float, float, float", "fhh": "float, half, half", "hhh": "half, half, half",
            "fbb": "float, bfloat, bfloat", "bbb": "bfloat, bfloat, bfloat"}  # fmt: skip
    return metal.load(
        source=HEAD
        + template
        + "".join(
            f'template [[host_name("{n}")]] kernel decltype(multiply<{t}>) multiply<{t}>;\n' for n, t in uses.items()
        )
    )


@pytest.mark.parametrize("types", ["fff", "fhh", "hhh", "fbb", "bbb"])
def test_simdgroup_matrix(matrices, types):
    d_type, a_type, b_type = ({"f": np.float32, "h": np.float16, "b": BF16}[t] for t in types)
    rng = np.random.default_rng(0)
    a, b = rng.integers(-8, 8, (8, 8)).astype(a_type), rng.integers(-8, 8, (8, 8)).astype(b_type)
    c = rng.uniform(-1, 1, (8, 8)).astype(d_type)
    d, other = np.zeros((8, 8), d_type), np.zeros((20, 20), a_type)
    matrices.kernel(types).check([d, a, b, c, other], grid=32, threadgroup=32)
    expected = c.astype(np.float32)
    for k in range(8):  # products of small integers are exact: one rounding for each k
        expected += np.outer(a[:, k].astype(np.float32), b[:, k].astype(np.float32))
    np.testing.assert_array_equal(d.astype(np.float32), expected.astype(d_type).astype(np.float32))
    np.testing.assert_array_equal(other[1:9, 3:11].astype(int), 3 * a.astype(int).T)
    rows = 2 * a.astype(int).sum(axis=1, keepdims=True)
    np.testing.assert_array_equal(other[9:17, 11:19].astype(int), np.repeat(rows, 8, axis=1))
    assert np.count_nonzero(other) <= 128, "nothing is stored beside the two"


def test_elements_of_missing_lanes_poison_a_product(matrices):
    out = np.zeros(64, np.float32)
    matrices.kernel("threads")([out], grid=32, threadgroup=32)
    for lane in range(24):  # missing are the rows and columns 4 to 7
        row, column = lane // 16 * 4 + lane // 2 % 4, lane // 8 % 2 * 4 + lane % 2 * 2
        complete = row < 4 and column < 4
        assert out[2 * lane : 2 * lane + 2].tolist() == [lane] * 2 or not complete
        assert complete or np.isnan(out[2 * lane : 2 * lane + 2]).all()


# ---- Atomics


def test_atomics():
    source = """
kernel void k(device atomic_int* ints, device atomic_uint* uints, device atomic_float* floats,
              device atomic_ulong* ulongs, device uint* tickets, device int* out,
              uint i [[thread_position_in_grid]], uint t [[thread_position_in_threadgroup]]) {
  tickets[i] = atomic_fetch_add_explicit(&uints[0], 1, memory_order_relaxed);
  atomic_fetch_sub_explicit(&ints[0], int(i), memory_order_relaxed);
  atomic_fetch_min_explicit(&ints[1], -int(i), memory_order_relaxed);
  atomic_fetch_max_explicit(&ints[2], int(i), memory_order_relaxed);
  atomic_fetch_min_explicit(&uints[1], i ^ 77, memory_order_relaxed);
  atomic_fetch_max_explicit(&uints[2], -i, memory_order_relaxed);
  atomic_fetch_and_explicit(&uints[3], ~(1u << i % 32), memory_order_relaxed);
  atomic_fetch_or_explicit(&uints[4], 1u << i % 32, memory_order_relaxed);
  atomic_fetch_xor_explicit(&uints[5], i, memory_order_relaxed);
  atomic_fetch_add_explicit(&floats[0], 0.5f, memory_order_relaxed);
  atomic_max_explicit(&ulongs[0], ulong(i) << 40, memory_order_relaxed);
  float seen = atomic_load_explicit(&floats[1], memory_order_relaxed);
  while (!atomic_compare_exchange_weak_explicit(&floats[1], &seen, max(seen, float(i)), memory_order_relaxed,
                                                memory_order_relaxed)) {}
  threadgroup atomic_int count;
  threadgroup atomic<bool> flag;
  if (t == 0) {
    atomic_store_explicit(&count, 5, memory_order_relaxed);
    atomic_store_explicit(&flag, false, memory_order_relaxed);
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  atomic_fetch_add_explicit(&count, 1, memory_order_relaxed);
  const bool first = !atomic_exchange_explicit(&flag, true, memory_order_relaxed);
  atomic_thread_fence(mem_flags::mem_threadgroup, memory_order_seq_cst, thread_scope_threadgroup);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  out[i] = atomic_load_explicit(&count, memory_order_relaxed) + (first ? 1000 : 0);
}"""
    n = 256
    ints = np.array([0, 9, -9], np.int32)
    uints = np.array([7, 500, 0, 0xFFFFFFFF, 0, 0], np.uint32)
    floats, ulongs = np.zeros(2, np.float32), np.zeros(1, np.uint64)
    tickets, out = np.zeros(n, np.uint32), np.zeros(n, np.int32)
    args = [ints, uints, floats, ulongs, tickets, out]
    metal.load(source=HEAD + source).kernel("k")(args, grid=n, threadgroup=32)
    i = np.arange(n)
    assert sorted(tickets) == list(range(7, 7 + n))
    assert ints.tolist() == [-i.sum(), -i.max(), i.max()]
    assert uints.tolist() == [7 + n, 0, 0xFFFFFFFF, 0, 0xFFFFFFFF, np.bitwise_xor.reduce(i)]
    assert floats.tolist() == [n / 2, n - 1]
    assert ulongs.tolist() == [(n - 1) << 40]
    groups = out.reshape(-1, 32)
    assert (groups % 1000 == 37).all()
    assert (np.count_nonzero(groups >= 1000, axis=1) == 1).all()


def test_bfloat_conversions():
    """To nearest even from every interesting float; NaN stays NaN; arithmetic rounds after each operation."""
    source = """kernel void k(device bfloat* out, device bfloat* sums, device const float* x, device const int* n,
                              device bfloat* whole, uint i [[thread_position_in_grid]]) {
      out[i] = bfloat(x[i]);
      sums[i] = out[i] * out[i] + bfloat(1) / out[i] - out[i];
      whole[i] = n[i];
    }"""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 1024, dtype=np.uint32)
    bits[:512] = bits[:512] & 0xFFFF0000 | rng.choice([0x7FFF, 0x8000, 0x8001, 0, 1, 0xFFFF], 512).astype(np.uint32)
    x, n = bits.view(np.float32), rng.integers(-(2**31), 2**31, 1024).astype(np.int32)
    n[:4] = [2**24 + 2**16 + 1, 2**31 - 1, -(2**31), 0]
    out, sums, whole = (np.zeros(1024, BF16) for _ in range(3))
    run(source, "k", out, sums, x, n, whole, threads=1024)
    with np.errstate(all="ignore"):
        expected = x.astype(BF16)
        total = expected * expected + BF16(1) / expected - expected
    np.testing.assert_array_equal(out.astype(np.float32), expected.astype(np.float32))
    np.testing.assert_array_equal(sums.astype(np.float32), total.astype(np.float32))
    exponent = np.floor(np.log2(np.maximum(np.abs(n.astype(np.float64)), 1)))
    place = 2.0 ** np.maximum(exponent - 7, 0)  # np.rint takes the even one of two
    np.testing.assert_array_equal(whole.astype(np.float64), np.rint(n / place) * place)
