# SPDX-License-Identifier: MIT
"""Metal's lanes together: SIMD-groups, quad-groups and simdgroup_matrix of all types, and what is undefined.

Integers and the layout of matrices are tested against tables of the specification, in test_truth_metal.py.
"""

from functools import reduce

import ml_dtypes
import numpy as np
import pytest

from kernelsim import KernelFault, metal

HEAD = "#include <metal_stdlib>\nusing namespace metal;\n"
BF16 = ml_dtypes.bfloat16


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
