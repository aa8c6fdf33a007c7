# SPDX-License-Identifier: MIT
"""ldmatrix, stmatrix and movmatrix against the tables of truth/matrix.py; cp.async against 9.7.9.25.3."""

import numpy as np
import pytest
from truth import matrix
from truth.launch import differences, run

FILE, SMALL = "truth_moves.cu", "truth_moves_small.cu"
EMPTY = 0xEEEEEEEE  # what shared memory holds before a copy lands


def memory_and_rows(rng, count):
    """64 rows of 16 bytes, and for each thread the number of one; the first `count` threads' differ."""
    memory = rng.permutation(2048)[:512].astype(np.uint16).view(np.uint8).reshape(64, 16)  # distinct 16-bit elements
    rows = rng.integers(0, 64, 32).astype(np.uint32)
    rows[:count] = rng.permutation(64)[:count]
    return memory, rows


def load(kernel, registers, memory, rows, file=FILE):
    r = np.full((32, registers), 0xFFFFFFFF, np.uint32)
    run(file, kernel, r, memory.view(np.uint32), rows)
    return r


@pytest.mark.parametrize("trans", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_ldmatrix(count, trans):
    """Threads 8m to 8m + 7 give the rows of matrix m, which goes to register m; the other threads' are not used."""
    fragment = matrix.M8N8_TRANS if trans else matrix.M8N8
    for seed in range(4):
        memory, rows = memory_and_rows(np.random.default_rng(seed), 8 * count)
        elements = memory.view(np.uint16)[rows[: 8 * count]].reshape(count, 8, 8)
        expected = np.concatenate([fragment.pack(m) for m in elements], axis=1)
        got = load(f"ldmatrix_x{count}{'_trans' if trans else ''}", count, memory, rows)
        assert not differences(got, expected, ("lane", "register"))


@pytest.mark.parametrize("count", [1, 2])
def test_ldmatrix_of_bytes_transposed(count):
    """.m16n16: threads 16m to 16m + 15 give the rows of matrix m, which takes two registers."""
    memory, rows = memory_and_rows(np.random.default_rng(0), 16 * count)
    expected = np.concatenate(
        [matrix.M16N16_TRANS.pack(m) for m in memory[rows[: 16 * count]].reshape(count, 16, 16)], axis=1
    )
    got = load(f"ldmatrix_m16n16_x{count}", 2 * count, memory, rows, SMALL)
    assert not differences(got, expected, ("lane", "register"))


@pytest.mark.parametrize(("bits", "count"), [(4, 4), (6, 2)])
def test_ldmatrix_that_spreads_small_elements(bits, count):
    """.m8n16.b8x16: rows of 16 elements of 4 or 6 bits and padding, each to a byte of its own."""
    rng = np.random.default_rng(0)
    memory, rows = rng.integers(0, 256, (64, 16), np.uint8), rng.permutation(64)[:32].astype(np.uint32)
    spread = matrix.decompress(memory, bits)[rows[: 8 * count]].reshape(count, 8, 16)
    expected = np.concatenate([matrix.M8N16.pack(m) for m in spread], axis=1)
    got = load(f"ldmatrix_m8n16_b{bits}", count, memory, rows, SMALL)
    assert not differences(got, expected, ("lane", "register"))


@pytest.mark.parametrize(
    ("file", "kernel", "count", "fragment"),
    [
        (FILE, "stmatrix_x1", 1, matrix.M8N8),
        (FILE, "stmatrix_x4", 4, matrix.M8N8),
        (FILE, "stmatrix_x2_trans", 2, matrix.M8N8_TRANS),
        (SMALL, "stmatrix_m16n8_x2", 2, matrix.M16N8_TRANS),
    ],
)
def test_stmatrix(file, kernel, count, fragment):
    rng = np.random.default_rng(0)
    memory, rows = memory_and_rows(rng, 8 * count)
    registers = rng.integers(0, 1 << 32, (32, count), np.uint64).astype(np.uint32)
    expected = memory.copy()
    for m in range(count):
        codes = fragment.unpack(registers[:, m : m + 1])
        expected[rows[8 * m : 8 * m + 8]] = codes.astype(f"<u{fragment.bits // 8}").view(np.uint8)
    run(file, kernel, registers, memory.view(np.uint32), rows)
    assert not differences(memory, expected, ("row", "byte"))


def test_movmatrix():
    a = np.arange(64, dtype=np.uint16).reshape(8, 8)
    d = np.zeros((32, 1), np.uint32)
    run(FILE, "movmatrix", d, matrix.M8N8.pack(a))
    assert not differences(d, matrix.M8N8.pack(a.T), ("lane", "register"))
    assert not differences(d, matrix.M8N8_TRANS.pack(a), ("lane", "register"))


def source():
    return np.arange(1, 513, dtype=np.uint32).reshape(32, 16)  # 64 bytes a thread


def test_cp_async_lands_at_its_wait():
    """ "Writes performed by cp.async operations are made visible to the executing thread only after" a wait."""
    before, after = np.zeros((2, 32, 16), np.uint32)
    run(FILE, "cp_async_sizes", before, after, source())
    assert (before == EMPTY).all()
    expected = source()
    expected[:, 0] = EMPTY  # nothing is copied there
    assert not differences(after, expected, ("lane", "word"))


def test_cp_async_fills_with_zeros():
    """src-size "represents the size of the data in bytes to be copied [...] remaining bytes in destination dst are
    filled with zeros"; ignore-src: "zeros will be copied"."""
    lane = np.arange(32)
    sizes = np.stack([lane % 5, lane % 9, lane % 17, lane % 2], axis=1).astype(np.uint32)
    after = np.zeros((32, 16), np.uint32)
    run(FILE, "cp_async_partial", after, source(), sizes)
    expected = np.full((32, 64), EMPTY & 0xFF, np.uint8)
    data = source().view(np.uint8)
    for t in range(32):
        for start, whole, copied in ((0, 4, sizes[t, 0]), (8, 8, sizes[t, 1]), (16, 16, sizes[t, 2])):
            expected[t, start : start + whole] = 0
            expected[t, start : start + copied] = data[t, start : start + copied]
        expected[t, 32:48] = 0 if sizes[t, 3] else data[t, 32:48]
    assert not differences(after.view(np.uint8), expected, ("lane", "byte"))


def test_cp_async_waits_for_groups():
    """wait_group N: "wait till only N or fewer of the most recent cp.async-groups are pending and all the prior
    cp.async-groups committed by the executing threads are complete"; an empty group counts."""
    seen = np.zeros((32, 5, 16), np.uint32)
    run(FILE, "cp_async_groups", seen, source())
    landed = (seen == source()[:, None]).astype(int)
    assert ((landed == 1) | (seen == EMPTY)).all()
    expected = [
        [0, 0, 0, 0, 0],  # wait_group 2: two groups are pending, as many as may be
        [1, 0, 0, 0, 0],  # wait_group 1
        [1, 1, 1, 0, 0],  # wait_group 0: word 3 is in no group
        [1, 1, 1, 1, 0],  # wait_all commits first
        [1, 1, 1, 1, 1],  # wait_group 1 with an empty group behind
    ]
    assert (landed[..., :5] == expected).all(), landed[0, :, :5]


def test_cp_async_groups_are_a_threads_own():
    seen = np.zeros(32, np.uint32)
    run(FILE, "cp_async_neighbours", seen, source())
    neighbour = np.arange(32) ^ 1
    assert not differences(seen, np.where(neighbour % 2 == 0, source()[neighbour, 0], EMPTY), ("lane",))
