# SPDX-License-Identifier: MIT
"""Metal's vectors, matrices, bfloat and atomics, and what its type system refuses.

Many expressions are compiled as one kernel, in the order of the tables here.
"""

import ml_dtypes
import numpy as np
import pytest

from kernelsim import KernelFault, SourceError, metal

HEAD = "#include <metal_stdlib>\nusing namespace metal;\n"
BF16 = ml_dtypes.bfloat16


def run(source, name, *args, threads=32):
    metal.load(source=HEAD + source).kernel(name)(list(args), grid=threads, threadgroup=min(threads, 256))


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
    ("float4x4 m(2, 0, 0, 1, 0, 3, 1, 0, 0, 1, 1, 0, 1, 0, 0, 1); float r = determinant(m);", [2]),
    ("float r = determinant(float3x3(1, 2, 3, 0, 1, 4, 5, 6, 0)) + determinant(float2x2(1, 2, 3, 4));", [-1]),
    ("half4x4 h(float4x4(3)); h[1] += 1; half4 r = h[1];", [1, 4, 1, 1]),
    # bfloat: implicitly only to float; with integers it stays bfloat
    ("bfloat b = 3; b += 1; float r = b * b / 32;", [0.5]),
    ("bfloat b = bfloat(257); float r = b + 0.25f;", [256.25]),
    ("bfloat b = 1.5bf; int r = int(b * 3) + (b < 2) + (b == 1.5f);", [6]),
    ("float r = true ? bfloat(2) : 0;", [2]),
    ("float r = 1; r += bfloat(2); uint u = bfloat(7); r *= u;", [21]),
    ("float r = bfloat(16842753);", [16908288]),  # just above the middle of two, which is what f32 would make of it
    ("float r = exp(bfloat(0)) + max(bfloat(2), bfloat(3));", [4]),
    ("float r = float(numeric_limits<half>::max()) + numeric_limits<half>::epsilon() * 1024;", [65505]),
    ("float r = numeric_limits<bfloat>::min() == 0x1p-126f && isinf(numeric_limits<bfloat>::infinity());", [1]),
    ("int r = numeric_limits<short>::lowest() + numeric_limits<uchar>::max() + numeric_limits<char>::digits;",
     [-32768 + 255 + 7]),
    ("float r = isnan(numeric_limits<float>::quiet_NaN()) && numeric_limits<float>::lowest() == -FLT_MAX;", [1]),
    ("uint r = vec<uint, 2>(1, 2).y + is_same_v<float4, vec<float, 4>> + is_floating_point_v<bfloat>;", [4]),
    ("int r = is_same_v<make_unsigned_t<short>, ushort> + is_convertible_v<bfloat, float>;", [2]),
    ("int r = is_convertible_v<float, bfloat> + is_convertible_v<bfloat, half> + is_convertible_v<int4, float4>;", [0]),
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


@pytest.mark.parametrize(
    ("text", "line"),
    [("int4 v(x[0]);\nv[x[1]] = 1;\nx[0] = v.x;", 5), ("float3x3 m(1);\nx[0] = m[x[1]].x;", 5)],
)
def test_an_index_out_of_range_is_a_fault(text, line):
    with pytest.raises(KernelFault, match=rf"\.metal:{line}:"):
        run(f"kernel void k(device int* x) {{\n{text} }}\n", "k", np.array([1, 4], np.int32), threads=1)


def test_a_vector_divided_by_zero_is_a_fault():
    with pytest.raises(KernelFault, match="division by zero"):
        run("kernel void k(device int4* x) { x[0] = 7 / x[0]; }\n", "k", np.array([1, 1, 0, 1], np.int32), threads=1)


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
