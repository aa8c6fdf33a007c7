# SPDX-License-Identifier: MIT
"""Seeded contents for buffers: normally distributed weights in any format, quickly.

Quantising hundreds of megabytes per row would take longer than measuring it. So a pool of groups is
drawn from a normal distribution and quantised, and a matrix is made of groups picked from it at random.
"""

from __future__ import annotations

import math

import numpy as np

from roofbench.formats import Array, Parts, format_of, pack
from roofbench.numerics import aligned

_POOL = 16384  # groups
WEIGHT_SIGMA = 0.05


def normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
    """Standard normal activations, in aligned memory."""
    out = aligned(shape, dtype)
    out[...] = rng.standard_normal(shape, np.float32)
    return out


def weights(rng: np.random.Generator, shape: tuple[int, ...], name: str, x: str, prefix: str = "w") -> Parts:
    """Normal weights of `shape` (..., N, K) in a format, each part in aligned memory.

    Args:
        x: type of the activations, for the formats whose scales take it.

    Raises:
        ValueError: K is not a multiple of the format's group.
    """
    fmt = format_of(name)
    spec = fmt.parts(shape, x, prefix)
    group = fmt.group or math.gcd(shape[-1], 64)
    drawn = rng.standard_normal((_POOL, group), np.float32) * np.float32(WEIGHT_SIGMA)
    # fp8 has one scale per row: the pool is one long row
    pool = pack(drawn if fmt.group else drawn.reshape(1, -1), name, x)
    pick = rng.integers(0, _POOL, (math.prod(shape[:-1]), shape[-1] // group), np.int32)
    out = {key: aligned(*part) for key, part in spec.items()}
    for key, array in out.items():
        source = pool[key.replace(prefix, "w", 1)]
        if array.ndim == len(shape) and (key == prefix or fmt.group):
            flat = source.reshape(_POOL, -1)
            np.take(flat, pick, axis=0, out=array.reshape(*pick.shape, flat.shape[-1]), mode="clip")
        elif key.endswith("_tensor_scale"):
            array[...] = source[0]
        else:
            array[...] = source.ravel()[0] * rng.uniform(0.5, 1.5, array.shape)
    return out
