# SPDX-License-Identifier: MIT
"""Shuffles, votes, matches and reductions of a warp against truth/warp.py."""

import numpy as np
from truth import warp
from truth.launch import differences, run

FILE = "truth_warp.cu"
ALL = 0xFFFFFFFF
MASKS = (ALL, 0x0000FFFF, 0xFFFF0000, 0x80000001, 0x00000010, 0x5A5A1234)


def word(x):
    return np.asarray(x, np.uint64).astype(np.uint32)


def lanes_of(masks):
    return np.array([[m >> lane & 1 for lane in range(32)] for m in masks], bool)


def test_shfl_sync():
    """Every lane with an offset of its own, also beyond 31; the operand c with all segments and bounds."""
    rng = np.random.default_rng(0)
    segments = (0, 0x10, 0x18, 0x1C, 0x1E, 0x1F)
    cs = [segment << 8 | bound for segment in segments for bound in (0, 0x1F, 0x0F, 7, 3, 20)]
    a = word(rng.integers(0, 1 << 32, (len(cs), 32)))
    b = word(rng.integers(0, 64, (len(cs), 32)))
    b[::2] = rng.integers(0, 40, (len(b[::2]), 1))
    c = word(np.repeat(np.array(cs)[:, None], 32, axis=1))
    d, p = np.full((2, 4, len(cs), 32), 7, np.uint32)
    run(FILE, "shfl_asm", d, p, a, b, c, grid=len(cs))
    for number, mode in enumerate(("up", "down", "bfly", "idx")):
        for i in range(len(cs)):
            expected = warp.shfl(mode, a[i].tolist(), b[i].tolist(), c[i].tolist())
            where = (mode, f"c {cs[i]:#x}")
            assert not differences(d[number, i], word([v for v, _ in expected]), ("lane",)), where
            assert not differences(p[number, i], word([q for _, q in expected]), ("lane",)), where


def test_shfl_intrinsics():
    """Their width is c: 32 - width in the segment mask, the bound 0 for up and 31 for the others."""
    rng = np.random.default_rng(0)
    widths = np.repeat([1, 2, 4, 8, 16, 32], 3).astype(np.uint32)
    a = word(rng.integers(0, 1 << 32, (len(widths), 32)))
    b = word(np.repeat(rng.integers(0, 33, (len(widths), 1)), 32, axis=1))
    d = np.zeros((4, len(widths), 32), np.uint32)
    run(FILE, "shfl_intrinsics", d, a, b, widths, grid=len(widths))
    for number, mode in enumerate(("up", "down", "bfly", "idx")):
        for i, width in enumerate(widths.tolist()):
            c = [warp.intrinsic_c(mode, width)] * 32
            expected = [v for v, _ in warp.shfl(mode, a[i].tolist(), b[i].tolist(), c)]
            assert not differences(d[number, i], word(expected), ("lane",)), (mode, width, int(b[i, 0]))


def test_shfl_of_other_types():
    a = word(np.random.default_rng(0).integers(0, 1 << 31, 32)) & np.uint32(0xFF7FFFFF)  # no NaN as a float
    d = np.zeros((4, 32), np.uint32)
    run(FILE, "shfl_types", d, a)
    lane = np.arange(32)
    assert not differences(d[0], a[lane ^ 5], ("lane",))
    assert not differences(d[1], ~a[lane ^ 5], ("lane",))
    assert not differences(d[2], a[np.where(lane + 3 < 32, lane + 3, lane)], ("lane",))
    assert not differences(d[3], a[np.where(lane >= 7, lane - 7, lane)], ("lane",))


def test_shfl_of_some_lanes():
    """The others go on without; reading from one of them is not defined, and here poison: all bits set."""
    rng = np.random.default_rng(0)
    masks = np.array(MASKS, np.uint32)
    a = word(rng.integers(0, 1 << 31, (len(masks), 32)))
    b = word(rng.integers(0, 32, (len(masks), 32)))
    d = np.full((len(masks), 32), 7, np.uint32)
    run(FILE, "shfl_masked", d, a, b, masks, grid=len(masks))
    for i, mask in enumerate(MASKS):
        results = warp.shfl("idx", a[i].tolist(), b[i].tolist(), [0x1F] * 32, mask)
        expected = [(ALL if v is None else v) if mask >> lane & 1 else 7 for lane, (v, _) in enumerate(results)]
        assert not differences(d[i], word(expected), ("lane",)), f"{mask:#x}"


def collective(kernel, a, results, file=FILE):
    """Runs it with each of MASKS; (results, tries, lanes) and which lanes took part."""
    d = np.full((results, *a.shape), 0x77777777, np.uint32)
    masks = np.tile(np.array(MASKS, np.uint32), len(a) // len(MASKS))
    run(file, kernel, d, a, masks, grid=len(a))
    members = lanes_of(masks)
    assert (d[:, ~members] == 0x77777777).all()
    return d, masks.tolist()


def expect(d, mask, value, what):
    members = warp.members(mask)
    expected = [value[lane] if isinstance(value, dict) else value for lane in members]
    assert not differences(d[members], word(expected), ("member",)), (what, f"{mask:#x}")


def test_vote_sync():
    rng = np.random.default_rng(0)
    a = np.concatenate([np.full((6, 32), v) for v in (0, 1, 4)] + [rng.integers(0, 2, (24, 32))]).astype(np.uint32)
    d, masks = collective("votes", a, 5)
    for i, mask in enumerate(masks):
        predicates = a[i].tolist()
        for number, mode in enumerate(("ballot", "all", "any", "uni")):
            expect(d[number, i], mask, warp.vote(mode, predicates, mask), mode)
        expect(d[4, i], mask, warp.vote("ballot", [not p for p in predicates], mask), "ballot of !p")


def test_match_sync():
    rng = np.random.default_rng(0)
    a = np.concatenate([np.full((6, 32), 9), rng.integers(0, 3, (12, 32)), rng.integers(0, 1 << 32, (6, 32))])
    a = word(a)
    d, masks = collective("matches", a, 5)
    for i, mask in enumerate(masks):
        values = a[i].tolist()
        same = warp.match_any(values, mask)
        for number in (0, 3, 4):
            expect(d[number, i], mask, same, "any")
        for number, value in zip((1, 2), warp.match_all(values, mask), strict=True):
            expect(d[number, i], mask, value, "all")


def test_redux_sync():
    rng = np.random.default_rng(0)
    a = word(rng.integers(0, 1 << 32, (12, 32)))
    d, masks = collective("reductions", a, 10)
    order = [
        *(("add", False), ("min", False), ("max", False), ("add", True), ("min", True), ("max", True)),
        *(("and", False), ("or", False), ("xor", False), ("min", True)),
    ]
    for i, mask in enumerate(masks):
        for number, (op, signed) in enumerate(order):
            expect(d[number, i], mask, warp.redux(op, signed, a[i].tolist(), mask), (op, signed))


def test_redux_sync_of_floats():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((24, 32)).astype(np.float32).view(np.uint32)
    specials = word([0, 1 << 31, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00001, 1, 0x80000001])
    a[6:12] = rng.choice(specials[:2], (6, 32))
    a[12:18] = rng.choice(specials, (6, 32))
    a[18:24] = specials[5]
    d, masks = collective("reductions", a, 5, "truth_sm100a.cu")
    order = [("min", 0, 0), ("max", 0, 0), ("min", 1, 0), ("max", 0, 1), ("max", 1, 1)]
    for i, mask in enumerate(masks):
        for number, (op, absolute, nan) in enumerate(order):
            expect(d[number, i], mask, warp.redux_f32(op, absolute, nan, a[i].tolist(), mask), (op, absolute, nan))


def test_elect_sync():
    """ "Elects one predicated active leader thread [...] the same leader thread is elected for the same membermask"."""
    d, masks = collective("elections", word(np.zeros((12, 32))), 2)
    leaders = {}
    for i, mask in enumerate(masks):
        leader = int(d[0, i, warp.members(mask)[0]])
        assert leader in warp.members(mask)
        assert leaders.setdefault(mask, leader) == leader
        expect(d[0, i], mask, leader, "elected")
        expect(d[1, i], mask, {lane: int(lane == leader) for lane in warp.members(mask)}, "is elected")


def test_activemask():
    """ "An active thread will contribute 1": those that are there, and at least oneself."""
    d = np.zeros(32, np.uint32)
    run(FILE, "active", d)
    there = sum(1 << lane for lane in range(0, 32, 3))
    for lane in range(32):
        seen = int(d[lane])
        assert seen == 0 if lane % 3 else seen >> lane & 1 and not seen & ~there
