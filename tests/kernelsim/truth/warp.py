# SPDX-License-Identifier: MIT
"""What the lanes of a warp do together without matrices, lane by lane as the PTX ISA's pseudocode has it.

PTX ISA 9.0, 9.7.9.6 (shfl.sync), 9.7.13.9 (vote.sync), 9.7.13.10 (match.sync), 9.7.13.12 (redux.sync).
`mask` is the membermask; what lanes outside it would give is not defined, and None here.
"""

from __future__ import annotations

from functools import reduce


def members(mask):
    return [lane for lane in range(32) if mask >> lane & 1]


def shfl(mode, a, b, c, mask=0xFFFFFFFF):
    """Of every lane (d, p): 32 values a, 32 of b, 32 of c. A lane that reads one outside the mask gets None."""
    return [shfl_lane(mode, a, b[lane], c[lane], lane, mask) for lane in range(32)]


def shfl_lane(mode, a, b, c, lane, mask):
    bval = b & 0x1F
    cval = c & 0x1F
    segmask = c >> 8 & 0x1F
    max_lane = (lane & segmask) | (cval & ~segmask)
    min_lane = lane & segmask
    if mode == "up":
        j = lane - bval
        pval = j >= max_lane
    elif mode == "down":
        j = lane + bval
        pval = j <= max_lane
    elif mode == "bfly":
        j = lane ^ bval
        pval = j <= max_lane
    else:
        j = min_lane | (bval & ~segmask)
        pval = j <= max_lane
    if not pval:
        j = lane  # copy from own lane
    return (a[j] if mask >> j & 1 else None), pval


def intrinsic_c(mode, width):
    """The operand c of __shfl_*_sync with `width`, a power of two: CUDA C++ Programming Guide, 10.22."""
    return (32 - width) << 8 | (0 if mode == "up" else 0x1F)


def vote(mode, predicates, mask):
    votes = [bool(predicates[lane]) for lane in members(mask)]
    if mode == "ballot":
        return sum(1 << lane for lane in members(mask) if predicates[lane])
    return int({"all": all(votes), "any": any(votes), "uni": len(set(votes)) == 1}[mode])


def match_any(a, mask):
    """Of every member the mask of "threads in membermask that have same value of operand a"."""
    return {lane: sum(1 << other for other in members(mask) if a[other] == a[lane]) for lane in members(mask)}


def match_all(a, mask):
    """(d, p): the mask if all have the same value, else 0."""
    same = len({a[lane] for lane in members(mask)}) == 1
    return (mask, 1) if same else (0, 0)


def redux(op, signed, a, mask):
    """32 bits in, 32 bits out; "for the .add operation result is truncated to 32 bits"."""
    values = [a[lane] - (a[lane] >> 31 << 32) if signed else a[lane] for lane in members(mask)]
    step = {
        "add": lambda x, y: x + y,
        "min": min,
        "max": max,
        "and": lambda x, y: x & y,
        "or": lambda x, y: x | y,
        "xor": lambda x, y: x ^ y,
    }[op]
    return reduce(step, values) & 0xFFFFFFFF


NAN = 0x7FFFFFFF  # canonical


def redux_f32(op, absolute, nan, a, mask):
    """float32 bits in and out. "+0.0 > -0.0"; without .NaN "only non-NaN values are considered [...] canonical NaN when
    all inputs are NaNs", with it canonical NaN "if the input [...] from any participating thread is NaN"."""
    values = [a[lane] & 0x7FFFFFFF if absolute else a[lane] for lane in members(mask)]
    numbers = [v for v in values if v & 0x7FFFFFFF <= 0x7F800000]
    if not numbers or (nan and len(numbers) < len(values)):
        return NAN
    return {"min": min, "max": max}[op](numbers, key=ascending)


def ascending(bits):
    """Orders float32 bits as their values, -0 before +0."""
    return ~bits & 0xFFFFFFFF if bits >> 31 else bits | 1 << 31
