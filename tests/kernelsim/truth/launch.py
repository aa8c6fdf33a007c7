# SPDX-License-Identifier: MIT
"""Runs the kernels beside these tests, and says where a warp's registers differ from what they should be."""

import functools
from pathlib import Path

import numpy as np

from kernelsim import metal

KERNELS = Path(__file__).parent.parent / "kernels"


@functools.cache
def library(name):
    from kernelsim import cuda

    return cuda.load(KERNELS / name, arch=arch(name))


def arch(name):
    return "sm_100a" if "sm100a" in name else "sm_120a"


def run(file, kernel, *args, grid=1, block=32):
    """Runs one, with NumPy arrays that it reads and fills."""
    library(file).kernel(kernel)(args, grid=grid, block=block)


@functools.cache
def metal_library(name):
    path = KERNELS / name
    return metal.load(path, kernels=metal.load(path).kernels)  # compiled together


def run_metal(file, kernel, *args, grid=32):
    metal_library(file).kernel(kernel)(args, grid=grid, threadgroup=32)


def differences(got, expected, axes, limit=4):
    """Lines that name the first few places where two arrays of codes differ; none where they are the same."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape
    wrong = np.argwhere(got != expected)
    lines = [
        f"{' '.join(f'{a} {i}' for a, i in zip(axes, place, strict=True))}: "
        f"{got[tuple(place)]:#x}, not {expected[tuple(place)]:#x}"
        for place in wrong[:limit]
    ]
    return [f"{len(wrong)} of {got.size} are wrong", *lines] if lines else []
