# SPDX-License-Identifier: MIT
"""What the lanes of a SIMD-group of 32 do together, in the words of the Metal Shading Language Specification 3.2.

6.9.2, tables 6.14 (permute) and 6.15 (reduction); 6.9.3, tables 6.17 and 6.18 (quad-groups). A quad-group is a
SIMD-group of 4: every function here takes the width. Lists have one entry per lane.
"""

from __future__ import annotations

from itertools import accumulate
from operator import add, and_, mul, or_, xor


def shuffle(data, source):
    """simd_shuffle: "data from the thread whose SIMD lane ID is simd_lane_id"."""
    return [data[lane] for lane in source]


def shuffle_up(data, delta, width=32):
    """ "doesn't modify the lower delta lanes of data because it doesn't wrap values around the SIMD-group"."""
    return [data[i - delta] if i % width >= delta else data[i] for i in range(32)]


def shuffle_down(data, delta, width=32):
    return [data[i + delta] if i % width + delta < width else data[i] for i in range(32)]


def rotate_up(data, delta, width=32):
    return [data[i - i % width + (i - delta) % width] for i in range(32)]


def rotate_down(data, delta, width=32):
    return rotate_up(data, -delta, width)


def shuffle_xor(data, mask):
    return [data[i ^ mask] for i in range(32)]


def fill_up(data, filling, delta, modulo=32):
    """ "splits the SIMD-group into vectors, each with size modulo, and shifts each vector by the delta threads [...]
    Assigns the upper [delta] lanes of each vector in filling to the lower [delta] lanes of each vector in data"."""
    return [data[i - delta] if i % modulo >= delta else filling[i - delta + modulo] for i in range(32)]


def fill_down(data, filling, delta, modulo=32):
    return [data[i + delta] if i % modulo + delta < modulo else filling[i + delta - modulo] for i in range(32)]


REDUCTIONS = {"sum": add, "product": mul, "min": min, "max": max, "and": and_, "or": or_, "xor": xor}


def reduction(op, data, width=32, active=range(32)):
    """Of every active lane: over "all active threads in the SIMD-group"."""
    results = {}
    for i in active:
        group = [data[j] for j in active if j // width == i // width]
        results[i] = list(accumulate(group, REDUCTIONS[op]))[-1]
    return results


def prefix(op, data, inclusive, active=range(32)):
    """Over "all active threads with a lower index", exclusive, or "a lower or the same index"; from T(0) or T(1)."""
    start = {"sum": 0, "product": 1}[op]
    running, results = type(data[0])(start), {}
    for i in active:
        following = REDUCTIONS[op](running, data[i])
        results[i] = following if inclusive else running
        running = following
    return results


def matrix_position(lane):
    """(row, first of two columns) of an 8x8 simdgroup_matrix that a lane's thread_elements() hold.

    The specification leaves the mapping open (2.4); this is the one of Apple GPUs, which mlx's
    BaseMMAFrag<T, 8, 8>::get_coord (steel/gemm/mma.h) writes down and its kernels count on.
    """
    quad = lane // 4
    return (quad & 4) + lane // 2 % 4, (quad & 2) * 2 + lane % 2 * 2
