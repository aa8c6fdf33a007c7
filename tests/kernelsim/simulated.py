# SPDX-License-Identifier: MIT
"""What several tests of the simulator use."""

from pathlib import Path

import numpy as np

KERNELS = Path(__file__).parent / "kernels"


def int4(rng, rows, columns):
    """Words of eight weights, scales and biases of groups of 64, and the weights that they stand for."""
    q = rng.integers(0, 16, (rows, columns), np.uint32)
    words = np.bitwise_or.reduce(q.reshape(rows, -1, 8) << (4 * np.arange(8, dtype=np.uint32)), axis=2)
    scales = rng.uniform(0.01, 0.02, (rows, columns // 64)).astype(np.float16)
    biases = (-8 * scales.astype(np.float32)).astype(np.float16)
    decoded = q.reshape(rows, -1, 64) * scales[..., None].astype(np.float64) + biases[..., None]
    return words, scales, biases, decoded.reshape(rows, columns)
