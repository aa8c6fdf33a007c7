# SPDX-License-Identifier: MIT
"""The bounds are tight enough to catch what goes wrong, and wide enough for what is right."""

import math

import numpy as np
import pytest
from support import CPU, limit

from roofbench import data, formats, numerics
from roofbench.hazards import inputs
from roofbench.numerics import Close, Exact, Limit, Stack
from roofbench.ops import OPS
from roofbench.ops import _product as linear

DIMS = {"M": 4, "N": 64, "K": 1024}
FORMATS = OPS["gemv"].formats


def right(format, rng):
    """A correct result, its inputs and what it is checked against."""
    arrays = inputs("gemv", format, DIMS, rng)
    CPU.run("gemv", format, arrays)
    return arrays, OPS["gemv"].reference(format, arrays)["y"], limit("gemv", format, DIMS)


def product(x, w, y):
    with np.errstate(all="ignore"):
        return (x @ w.T).astype(y.dtype)


@pytest.fixture(params=FORMATS)
def one(request):
    rng = np.random.default_rng(7)
    arrays, known, bound = right(request.param, rng)
    types = OPS["gemv"].types(request.param)
    x, w = linear.activations(arrays, types), formats.unpack(linear.parts_of(arrays, "w"), types.w, np.float64)
    return request.param, x, w, arrays["y"], known, bound


def test_right_passes(one):
    _, _, _, y, known, bound = one
    assert known.error(y, bound) <= 1


def test_zero_output_fails(one):
    _, _, _, y, known, bound = one
    assert known.error(np.zeros_like(y), bound) > 1


def test_one_dropped_vector_load_fails(one):
    """16 bytes of one row of w are never read."""
    format, x, w, y, known, bound = one
    lost = 128 // formats.FORMATS[format].bits
    w[5, 512 : 512 + lost] = 0
    assert known.error(product(x, w, y), bound) > 1


def test_one_group_scale_a_quarter_off_fails(one):
    _, x, w, y, known, bound = one
    w[5, 128:192] *= 1.25
    assert known.error(product(x, w, y), bound) > 1


def test_one_wrong_column_fails(one):
    """One output of 64 belongs to its neighbour: a mean error would not see it."""
    _, _, _, y, known, bound = one
    wrong = y.copy()
    wrong[:, 17] = y[:, 18]
    assert known.error(wrong, bound) > 1


def test_swapped_outputs_fail(one):
    _, _, _, y, known, bound = one
    assert known.error(y[:, ::-1].copy(), bound) > 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_element_that_is_not_finite_fails(one, bad):
    _, _, _, y, known, bound = one
    wrong = y.copy()
    wrong[2, 3] = bad
    assert known.error(wrong, bound) == math.inf


def test_bf16_rounded_f32_weights_fail():
    arrays, known, bound = right("f32", np.random.default_rng(8))
    rounded = arrays["w"].astype(formats.DTYPES["bf16"]).astype(np.float64)
    assert known.error(product(arrays["x"].astype(np.float64), rounded, arrays["y"]), bound) > 100


def test_f16_sums_fail_in_f32():
    arrays, known, bound = right("f32", np.random.default_rng(9))
    y = (arrays["x"].astype(np.float16) @ arrays["w"].astype(np.float16).T).astype(np.float32)
    assert known.error(y, bound) > 10


def test_a_plain_loop_over_k_passes():
    """The worst order of summation that anyone would write, at the size where it is worst."""
    rng = np.random.default_rng(10)
    x, w = (rng.standard_normal((n, 4096)).astype(np.float32) for n in (1, 20_000))
    sums = np.zeros((1, len(w)), np.float32)
    for k in range(x.shape[1]):
        sums += x[:, k] * w[:, k]
    known = linear.product(x.astype(np.float64), {"w": w}, OPS["gemv"].types("f32"))
    assert 0.3 < known.error(sums, Limit(4096)) <= 1


def test_adversarial_bound_holds_where_sums_cancel():
    """Random signs cannot be relied on: half of the products are the other half's negatives."""
    k = 4096
    x = np.ones((1, k))
    w = np.random.default_rng(11).uniform(1, 2, (1, k)).astype(np.float32)
    w[:, k // 2 :] = -w[:, : k // 2]
    known = linear.product(x, {"w": w}, OPS["gemv"].types("f32"), random=False)
    assert known.value[0, 0] == 0
    assert known.spread[0, 0] == pytest.approx(np.abs(w).sum())
    assert known.error(np.float32([[1e-3]]), Limit(k)) <= 1
    assert known.error(np.float32([[10.0]]), Limit(k)) > 1


def test_non_finite_references_must_be_matched():
    value = np.array([[np.nan, np.inf, -np.inf, 1e39]])
    known = Close(value, np.ones((1, 4)), "bf16")
    assert known.error(np.array([[np.nan, np.inf, -np.inf, np.inf]], formats.DTYPES["bf16"]), Limit(1)) == 0
    for i, wrong in enumerate((0.0, -np.inf, np.nan, 1.0)):
        y = np.array([[np.nan, np.inf, -np.inf, np.inf]], formats.DTYPES["bf16"])
        y[0, i] = wrong
        assert known.error(y, Limit(1)) == math.inf


def test_subnormal_results_may_be_off_by_half_a_step():
    known = Close(np.array([[2.0**-149 * 0.4]]), np.zeros((1, 1)), "f32")
    assert known.error(np.zeros((1, 1), np.float32), Limit(1)) <= 1


def test_wrong_shapes_fail():
    known = Close(np.zeros((2, 3)), np.zeros((2, 3)), "f32")
    assert known.error(np.zeros((3, 2), np.float32), Limit(1)) == math.inf
    assert Exact(np.zeros(3)).error(np.zeros(4), Limit(1)) == math.inf
    assert Stack(2, 6, lambda _: known).error(np.zeros((3, 2, 3), np.float32), Limit(1)) == math.inf


def test_exact_sees_signs_of_zero_and_bits_of_nan():
    zero = np.zeros(3, np.float32)
    assert Exact(zero).error(zero.copy(), Limit(1)) == 0
    assert Exact(zero).error(-zero, Limit(1)) == math.inf
    nan = np.array([0x7FC00001], np.uint32).view(np.float32)
    assert Exact(nan).error(nan.copy(), Limit(1)) == 0
    assert Exact(nan).error(np.array([np.nan], np.float32), Limit(1)) == math.inf


class TestSampled:
    """Large products: 256 whole columns and a projection of all."""

    n, k, m = 8192, 256, 32

    @pytest.fixture
    def large(self):
        rng = np.random.default_rng(12)
        w = data.weights(rng, (self.n, self.k), "bf16", "bf16")
        x = rng.standard_normal((self.m, self.k))
        types = OPS["gemv"].types("bf16")
        self.columns = linear.Columns(rng, w, types)
        self.x = x
        known = self.columns.expected(x, 256, 0)
        y = (x @ formats.unpack(w, "bf16", np.float64).T).astype(formats.DTYPES["bf16"])
        return y, known

    def test_right_passes(self, large):
        y, known = large
        assert len(known.columns) == 256
        assert known.error(y, Limit(64)) <= 1

    def test_a_wrong_sampled_element_fails(self, large):
        y, known = large
        y[3, known.columns[100]] += 1
        assert known.error(y, Limit(64)) > 1

    def test_a_wrong_column_that_is_not_sampled_fails(self, large):
        y, known = large
        other = np.setdiff1d(np.arange(self.n), known.columns)[::777]
        for column in other:
            wrong = y.copy()
            wrong[:, column] = y[:, (column + 1) % self.n]
            assert known.error(wrong, Limit(64)) > 1

    def test_swapped_columns_fail(self, large):
        y, known = large
        other = np.setdiff1d(np.arange(self.n), known.columns)
        first, second = other[10], other[known.signs[other] != known.signs[other[10]]][0]
        wrong = y.copy()
        wrong[:, [first, second]] = y[:, [second, first]]
        assert known.error(wrong, Limit(64)) > 1

    def test_an_unwritten_tail_fails(self, large):
        y, known = large
        y[-1, -1] = np.nan
        assert known.error(y, Limit(64)) == math.inf

    @pytest.mark.parametrize("shift", [1, 100, 8191])
    def test_moves_on_with_its_columns(self, large, shift):
        y, known = large
        moved = self.columns.expected(self.x, 256, shift)
        assert moved.error(np.roll(y, shift, axis=-1), Limit(64)) <= 1
        assert moved.error(y, Limit(64)) > 1
        where = np.array([5 * self.n + (known.columns[7] + shift) % self.n])
        assert moved.error_at(np.roll(y, shift, axis=-1).reshape(-1)[where], where, Limit(64)) <= 1
        assert moved.error_at(y.reshape(-1)[where], where, Limit(64)) > 1

    def test_elements_that_are_not_known_must_be_finite(self, large):
        y, known = large
        other = np.setdiff1d(np.arange(self.n), known.columns)[:1]
        assert known.error_at(y.reshape(-1)[other] + 1, other, Limit(64)) == 0
        assert known.error_at(y.reshape(-1)[other] * np.nan, other, Limit(64)) == math.inf


class TestGuards:
    @pytest.mark.parametrize("shape", [(7,), (3, 5), (0,), (1,)])
    @pytest.mark.parametrize("align", [64, 4096])
    def test_aligned_and_intact(self, shape, align):
        array = numerics.aligned(shape, np.float32, align)
        array[...] = 1
        assert array.shape == shape
        assert array.size == 0 or array.ctypes.data % align == 0
        assert numerics.guards_intact(array)

    @pytest.mark.parametrize("offset", [-4096, -1, 0, 4095])
    def test_a_byte_beside_the_array_is_noticed(self, offset):
        array = numerics.aligned((5,), np.float32)
        raw = array
        while raw.base is not None:
            raw = raw.base
        start = array.ctypes.data - raw.ctypes.data
        raw[start + offset if offset < 0 else start + array.nbytes + offset] ^= 1
        assert not numerics.guards_intact(array)

    @pytest.mark.parametrize("name", ["f32", "f16", "bf16", "fp8"])
    def test_poison_is_nan_in_every_type(self, name):
        array = numerics.aligned((5,), formats.DTYPES[name])
        numerics.poison(array)
        assert np.isnan(array.astype(np.float32)).all()
