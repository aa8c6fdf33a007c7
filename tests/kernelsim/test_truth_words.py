# SPDX-License-Identifier: MIT
"""lop3, prmt, shf, bfe, bfi, dp4a, dp2a and the SIMD intrinsics against truth/words.py."""

import numpy as np
from truth import words
from truth.launch import differences, run

FILE = "truth_words.cu"
EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFFFFFF, 0x80000000, 0x80808080, 0x7F7F7F7F, 0xFFFFFFFF)


def inputs(seed=0, tries=256):
    """Words a, b and c of every thread: edges, then random."""
    rng = np.random.default_rng(seed)
    words_ = rng.integers(0, 1 << 32, (3, tries), np.uint64)
    edges = min(tries, 100)
    words_[0, :edges] = np.repeat(EDGES, 10)[:edges]
    words_[1, :edges] = np.tile(EDGES, 10)[:edges]
    return words_.astype(np.uint32)


def compare(kernel, functions, arrays):
    """Runs it and compares result k with functions[k](a, b, c) of every thread."""
    d = np.full((len(functions), arrays[0].size), 0x55555555, np.uint32)
    run(FILE, kernel, d, *arrays, grid=arrays[0].size // 32)
    threads = list(zip(*(x.tolist() for x in arrays), strict=True))
    for number, (name, function) in enumerate(functions.items()):
        expected = np.array([function(*thread) for thread in threads], np.uint64).astype(np.uint32)
        wrong = differences(d[number], expected, ("thread",))
        at = int(np.argmax(d[number] != expected))
        assert not wrong, (name, [hex(x) for x in threads[at]], wrong)


def test_lop3():
    """All 256 tables, with every combination of inputs among the bits of the first thread."""
    a, b, c = inputs(tries=32)
    a[0], b[0], c[0] = 0xF0, 0xCC, 0xAA  # of which d is the table itself
    compare("lop3_all", {lut: lambda *abc, lut=lut: words.lop3(*abc, lut) for lut in range(256)}, (a, b, c))


def test_prmt():
    a, b, c = inputs(tries=1024)
    modes = {mode: lambda *abc, mode=mode: words.prmt(mode, *abc) for mode in ("", *words.PRMT)}
    compare("permute", {**modes, "__byte_perm": words.byte_perm}, (a, b, c))


def test_shf():
    a, b, c = inputs()
    c[::2] %= 70
    c[:4] = 0, 31, 32, 33
    each = [(d, m) for d in "lr" for m in ("clamp", "wrap")]
    functions = {f"shf.{d}.{m}": lambda a, b, c, d=d, m=m: words.shf(d, m, a, b, c) for d, m in each}
    names = {"__funnelshift_l": ("l", "wrap"), "__funnelshift_lc": ("l", "clamp"), "__funnelshift_r": ("r", "wrap")}
    names["__funnelshift_rc"] = ("r", "clamp")
    functions |= {n: lambda a, b, c, d=d, m=m: words.shf(d, m, a, b, c) for n, (d, m) in names.items()}
    compare("shift", functions, (a, b, c))


def half(function, upper):
    return lambda *abc: function(*abc) >> 32 * upper & words.WORD


def test_bfe_and_bfi():
    """Positions and lengths of 0 to 255, most of them near the edges of 32 and 64."""
    a, b, c = inputs(tries=1024)
    rng = np.random.default_rng(1)
    near = np.array([0, 1, 7, 8, 31, 32, 33, 63, 64, 65, 255])
    c[:] = rng.choice(near, c.size) | rng.choice(near, c.size) << 8 | (c & 0xFFFF0000)
    wide = {
        "bfe.u64": lambda a, b, c: words.bfe(64, False, b << 32 | a, c, c >> 8),
        "bfe.s64": lambda a, b, c: words.bfe(64, True, b << 32 | a, c, c >> 8),
        "bfi.b64": lambda a, b, c: words.bfi(64, ~(b << 32 | a), b << 32 | a, c, c >> 8),
    }
    functions = {
        "bfe.u32": lambda a, b, c: words.bfe(32, False, a, c, c >> 8),
        "bfe.s32": lambda a, b, c: words.bfe(32, True, a, c, c >> 8),
        "bfi.b32": lambda a, b, c: words.bfi(32, a, b, c, c >> 8),
    }
    for name, function in wide.items():
        functions |= {f"{name} low": half(function, 0), f"{name} high": half(function, 1)}
    compare("field", functions, (a, b, c))


def test_dp4a_and_dp2a():
    functions = {
        "dp4a.u32.u32": lambda *abc: words.dp4a(False, False, *abc),
        "dp4a.u32.s32": lambda *abc: words.dp4a(False, True, *abc),
        "dp4a.s32.u32": lambda *abc: words.dp4a(True, False, *abc),
        "dp4a.s32.s32": lambda *abc: words.dp4a(True, True, *abc),
        "dp2a.lo.s32.s32": lambda *abc: words.dp2a("lo", True, True, *abc),
        "dp2a.hi.u32.s32": lambda *abc: words.dp2a("hi", False, True, *abc),
        "__dp4a(int)": lambda *abc: words.dp4a(True, True, *abc),
        "__dp4a(unsigned)": lambda *abc: words.dp4a(False, False, *abc),
    }
    compare("dot", functions, inputs())


def test_simd_intrinsics():
    functions = {
        name: lambda a, b, s=signed, f=function: words.bytewise(f, s, a, b)
        for name, (signed, function) in words.SIMD.items()
    }
    compare("simd", functions, inputs()[:2])
