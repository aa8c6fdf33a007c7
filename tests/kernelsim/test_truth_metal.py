# SPDX-License-Identifier: MIT
"""SIMD-group functions and simdgroup_matrix of Metal against truth/msl.py."""

import numpy as np
import pytest
from truth import msl
from truth.launch import differences
from truth.launch import run_metal as run

FILE = "truth_simd.metal"
LANES = list(range(32))


def numbers(seed=0, small=False):
    rng = np.random.default_rng(seed)
    return rng.integers(-3, 4, 32).astype(np.int32) if small else rng.integers(-(2**31), 2**31, 32).astype(np.int32)


def same(got, expected, what):
    """What a dictionary leaves out is a lane that was not active, and not written."""
    if isinstance(expected, dict):
        expected = [expected.get(lane, -7) for lane in LANES]
    wrapped = np.array([int(v) & 0xFFFFFFFF for v in expected], np.uint64).astype(np.uint32)
    assert not differences(np.asarray(got).view(np.uint32), wrapped, ("lane",)), what


@pytest.mark.parametrize(("kernel", "width"), [("permute", 32), ("permute_quad", 4)])
def test_permutations(kernel, width):
    x, filling = numbers(0), numbers(1)
    lanes = np.random.default_rng(2).integers(0, width, 32).astype(np.uint16)
    base = np.arange(32) // width * width
    for delta in range(width):
        d = np.full((10, 32), -7, np.int32)
        run(FILE, kernel, d, x, filling, lanes, np.uint16(delta))
        data, fill = x.tolist(), filling.tolist()
        expected = (
            ("shuffle", msl.shuffle(data, (base + lanes).tolist())),
            ("shuffle_up", msl.shuffle_up(data, delta, width)),
            ("shuffle_down", msl.shuffle_down(data, delta, width)),
            ("shuffle_rotate_up", msl.rotate_up(data, delta, width)),
            ("shuffle_rotate_down", msl.rotate_down(data, delta, width)),
            ("shuffle_xor", msl.shuffle_xor(data, delta)),
            ("shuffle_and_fill_up", msl.fill_up(data, fill, delta, width)),
            ("shuffle_and_fill_down", msl.fill_down(data, fill, delta, width)),
            ("broadcast", msl.shuffle(data, (base + delta).tolist())),
            ("broadcast_first", msl.shuffle(data, base.tolist())),
        )
        for number, (name, values) in enumerate(expected):
            same(d[number], values, (name, delta))


@pytest.mark.parametrize("modulo", [2, 4, 8, 16, 32])
def test_fills_with_modulo(modulo):
    x, filling = numbers(0), numbers(1)
    for delta in range(modulo):
        d = np.zeros((2, 32), np.int32)
        run(FILE, "permute_modulo", d, x, filling, np.uint16(delta), np.uint16(modulo))
        same(d[0], msl.fill_up(x.tolist(), filling.tolist(), delta, modulo), ("up", delta))
        same(d[1], msl.fill_down(x.tolist(), filling.tolist(), delta, modulo), ("down", delta))


@pytest.mark.parametrize("small", [False, True])
def test_reductions(small):
    x = numbers(3, small)
    d = np.zeros((14, 32), np.int32)
    run(FILE, "reduce", d, x)
    for number, (width, op) in enumerate((w, op) for w in (32, 4) for op in msl.REDUCTIONS):
        same(d[number], msl.reduction(op, x.tolist(), width), (op, width))


@pytest.mark.parametrize("small", [False, True])
def test_scans(small):
    x = numbers(4, small)
    d = np.zeros((4, 32), np.int32)
    run(FILE, "scan", d, x)
    for number, (op, inclusive) in enumerate((op, i) for op in ("sum", "product") for i in (True, False)):
        same(d[number], msl.prefix(op, x.tolist(), inclusive), (op, inclusive))


def test_only_active_lanes_take_part():
    x = numbers(5)
    d = np.full((6, 32), -7, np.int32)
    run(FILE, "some_lanes", d, x)
    odd = range(1, 32, 2)
    data = x.tolist()
    same(d[0], msl.reduction("sum", data, active=odd), "sum")
    same(d[1], msl.reduction("min", data, active=odd), "min")
    same(d[2], msl.prefix("sum", data, inclusive=True, active=odd), "inclusive")
    same(d[3], msl.prefix("sum", data, inclusive=False, active=odd), "exclusive")
    same(d[4], {lane: int(lane == 1) for lane in odd}, "is_first")
    same(d[5], dict.fromkeys(odd, data[1]), "broadcast_first")


def test_votes():
    for seed, choices in enumerate(((0,), (5,), (0, 1), (0, 0, 0, 1))):
        x = np.random.default_rng(seed).choice(choices, 32).astype(np.uint32)
        d = np.zeros((5, 32), np.uint32)
        run(FILE, "vote", d, x)
        same(d[0], [sum(1 << lane for lane in LANES if x[lane])] * 32, "ballot")
        same(d[1], [int(x.all())] * 32, "all")
        same(d[2], [int(x.any())] * 32, "any")
        same(d[3], [1] + [0] * 31, "is_first")
        same(d[4], [0xFFFFFFFF] * 32, "active_threads_mask")


def test_simdgroup_matrix_lies_in_lanes_as_on_apple_gpus():
    x = np.arange(64, dtype=np.float32).reshape(8, 8)
    held, stored = np.zeros((32, 2), np.float32), np.zeros((8, 8), np.float32)
    run(FILE, "elements", held, stored, x)
    for lane in LANES:
        row, column = msl.matrix_position(lane)
        assert held[lane].tolist() == x[row, column : column + 2].tolist(), lane
        assert stored[row, column : column + 2].tolist() == [100 * lane, 100 * lane + 1], lane


def test_simdgroup_load():
    """matrix_origin is (column, row); "elements_per_row indicates the number of elements in the source"."""
    x = np.arange(400, dtype=np.float16).reshape(20, 20)
    plain, moved, transposed = np.zeros((3, 8, 8), np.float16)
    run(FILE, "places", plain, moved, transposed, x, np.uint32(20))
    np.testing.assert_array_equal(plain, x[:8, :8])
    np.testing.assert_array_equal(moved, x[2:10, 3:11])
    np.testing.assert_array_equal(transposed, x[:8, :8].T)


def test_simdgroup_multiply():
    rng = np.random.default_rng(0)
    a, b = rng.integers(-40, 40, (2, 8, 8)).astype(np.float16)
    c, f = rng.integers(-1000, 1000, (2, 8, 8)).astype(np.float32)
    d, e = np.zeros((2, 8, 8), np.float32)
    run(FILE, "multiply", d, e, a, b, c, f)
    np.testing.assert_array_equal(d, a.astype(np.float32) @ b.astype(np.float32) + c)
    np.testing.assert_array_equal(e, 3 * f)
