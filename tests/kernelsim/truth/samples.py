# SPDX-License-Identifier: MIT
"""Numbers that conversions are tried with, and how their results are compared."""

import numpy as np
from truth.formats import BF16, E2M1, E2M3, E3M2, E4M3, E5M2, F16, TF32
from truth.launch import differences


def floats(tries=4096):
    """f32 of all magnitudes: specials, values of small formats, ties between them and their neighbours, random bits."""
    rng = np.random.default_rng(0)
    specials = [0.0, np.inf, np.nan, 1e-45, 1e-40, 3.4028235e38, 65504, 65520]
    near = []
    for f in (E4M3, E5M2, E2M1, E2M3, E3M2, F16, BF16, TF32):
        codes = np.arange(f.finite) if f.finite < 200 else rng.integers(0, f.finite, 200)
        steps = np.append(f.all_magnitudes[: f.finite], f.after_the_last)
        near += [steps[codes], (steps[codes] + steps[codes + 1]) / 2]
    near = np.concatenate(near).astype(np.float32)
    near = np.concatenate([near, np.nextafter(near, np.float32(0)), np.nextafter(near, np.float32(np.inf))])
    bits = rng.integers(0, 1 << 32, tries, np.uint64).astype(np.uint32).view(np.float32)
    ordinary = (rng.standard_normal(tries) * 2.0 ** rng.integers(-12, 12, tries)).astype(np.float32)
    positive = np.concatenate([np.float32(specials), near])
    return padded(np.concatenate([positive, -positive, bits, ordinary]))


def padded(x):
    """A whole number of warps."""
    return np.concatenate([x, x[: -len(x) % 32]])


def check(name, got, expected, source, format=None):
    """The same codes; where a format is given, any NaN for a NaN."""
    expected = np.asarray(expected).astype(np.uint32)
    if format is not None:
        got = np.where(format.same(got, expected), expected, got)
    wrong = got != expected
    assert not wrong.any(), (name, source[wrong][:4], differences(got, expected, ("value",)))
