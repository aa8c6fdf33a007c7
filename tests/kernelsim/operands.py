# SPDX-License-Identifier: MIT
"""Operands of PTX instructions: random ones, and edges that meet edges."""

import ml_dtypes
import numpy as np

COUNT = 1024
TYPES = {
    "h": ("uint16_t", np.uint16, "h"), "r": ("uint32_t", np.uint32, "r"), "l": ("uint64_t", np.uint64, "l"),
    "f": ("float", np.float32, "f"), "d": ("double", np.float64, "d"),
}  # fmt: skip
EDGES = {
    "h": [0, 1, 2, 0x7FFF, 0x8000, 0x8001, 0xFFFF, 0xFFFE, 0xFF, 0x100],
    "r": [0, 1, 2, 3, 31, 32, 33, 255, 0x7FFFFFFF, 0x80000000, 0x80000001, 0xFFFFFFFF, 0xFFFFFF, 0x800000, 0xFFFF8000],
    "l": [0, 1, 63, 64, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1],
    "f": [0, -0.0, 1, -1, 0.5, 1.5, 2.5, -2.5, 3, 1e-45, -1e-45, 1.1754942e-38, 1.17549435e-38, 3.4028235e38, np.inf,
          -np.inf, np.nan, 1e20, -1e20, 2.0**31, -(2.0**31), 2.0**32, 16777217, 0.1, 1 + 2**-23],
    "d": [0, -0.0, 1, -1, 0.5, 2.5, 1e-300, 1e300, np.inf, -np.inf, np.nan, 5e-324, 2.0**63, 2.0**64, 0.1],
}  # fmt: skip


def inputs(kind, seed):
    rng = np.random.default_rng(seed)
    dtype = TYPES[kind][1]
    if kind in "fd":
        values = rng.standard_normal(COUNT) * 2.0 ** rng.integers(-30, 30, COUNT)
    else:
        bits = np.dtype(dtype).itemsize * 8
        values = rng.integers(0, 2**64, COUNT, np.uint64) >> rng.integers(64 - bits, 64, COUNT).astype(np.uint64)
    out = values.astype(dtype)
    edges = np.array(EDGES[kind], dtype)
    out[: len(edges) ** 2 : len(edges)] = edges[: len(out[: len(edges) ** 2 : len(edges)])]
    for n, at in enumerate(rng.permutation(COUNT)[: 16 * len(edges)]):  # edges meet edges of other operands
        out[at] = edges[n % len(edges)]
    return out


def signed(x, bits):
    return x - (1 << bits) if x >> (bits - 1) else x


def sixteen(bits, bfloat=False):
    return float(np.array([bits], np.uint16).view(ml_dtypes.bfloat16 if bfloat else np.float16)[0])
