# SPDX-License-Identifier: MIT
"""What one thread does with the bits of a 32- or 64-bit word, as the PTX ISA's pseudocode has it.

PTX ISA 9.0, 9.7.1.19 and .20 (bfe, bfi), 9.7.1.23 and .24 (dp4a, dp2a), 9.7.8.6 and .7 (lop3, shf), 9.7.9.7 (prmt).
Plain integers: a word is 0 <= x < 2^32.
"""

from __future__ import annotations

WORD = 0xFFFFFFFF


def signed(x, bits):
    return x - (x >> bits - 1 << bits)


def lop3(a, b, c, lut):
    """Bit i of d is the bit of the look-up table that a, b and c choose: ta = 0xF0, tb = 0xCC, tc = 0xAA."""
    d = 0
    for bit in range(32):
        index = (a >> bit & 1) << 2 | (b >> bit & 1) << 1 | (c >> bit & 1)
        d |= (lut >> index & 1) << bit
    return d


# The table of 9.7.9.7: source bytes of d.b3, d.b2, d.b1, d.b0 for c[1:0] = 0, 1, 2, 3.
PRMT = {
    "f4e": ((3, 2, 1, 0), (4, 3, 2, 1), (5, 4, 3, 2), (6, 5, 4, 3)),
    "b4e": ((5, 6, 7, 0), (6, 7, 0, 1), (7, 0, 1, 2), (0, 1, 2, 3)),
    "rc8": ((0, 0, 0, 0), (1, 1, 1, 1), (2, 2, 2, 2), (3, 3, 3, 3)),
    "ecl": ((3, 2, 1, 0), (3, 2, 1, 1), (3, 2, 2, 2), (3, 3, 3, 3)),
    "ecr": ((0, 0, 0, 0), (1, 1, 1, 0), (2, 2, 1, 0), (3, 2, 1, 0)),
    "rc16": ((1, 0, 1, 0), (3, 2, 3, 2), (1, 0, 1, 0), (3, 2, 3, 2)),
}


def prmt(mode, a, b, c):
    source = (b << 32 | a).to_bytes(8, "little")
    if mode:
        return int.from_bytes(bytes(source[i] for i in PRMT[mode][c & 3]), "big")
    picked = []
    for place in range(4):
        selector = c >> 4 * place & 0xF
        byte = source[selector & 7]
        picked.append((0xFF if byte & 0x80 else 0) if selector & 8 else byte)  # msb=1 means replicate the sign
    return int.from_bytes(bytes(picked), "little")


def byte_perm(x, y, s):
    """__byte_perm: selectors are s<2:0>, s<6:4>, s<10:8>, s<14:12> (CUDA Math API); no signs, other than prmt."""
    return prmt("", x, y, s & 0x7777)


def shf(direction, mode, a, b, c):
    n = min(c, 32) if mode == "clamp" else c & 0x1F
    both = b << 32 | a
    return (both << n >> 32 if direction == "l" else both >> n) & WORD


def bfe(bits, is_signed, a, b, c):
    msb, pos, length = bits - 1, b & 0xFF, c & 0xFF
    sign = a >> min(pos + length - 1, msb) & 1 if is_signed and length else 0
    d = 0
    for i in range(bits):
        d |= (a >> pos + i & 1 if i < length and pos + i <= msb else sign) << i
    return d


def bfi(bits, a, b, c, d):
    pos, length = c & 0xFF, d & 0xFF
    f = b
    for i in range(length):
        if pos + i < bits:
            f = f & ~(1 << pos + i) | (a >> i & 1) << pos + i
    return f


def parts(x, bits, is_signed):
    """The 8- or 16-bit parts of a word, low to high."""
    values = [x >> place & (1 << bits) - 1 for place in range(0, 32, bits)]
    return [signed(v, bits) for v in values] if is_signed else values


def dp4a(a_signed, b_signed, a, b, c):
    return (c + sum(x * y for x, y in zip(parts(a, 8, a_signed), parts(b, 8, b_signed), strict=True))) & WORD


def dp2a(half, a_signed, b_signed, a, b, c):
    chosen = parts(b, 8, b_signed)[:2] if half == "lo" else parts(b, 8, b_signed)[2:]
    return (c + sum(x * y for x, y in zip(parts(a, 16, a_signed), chosen, strict=True))) & WORD


def bytewise(function, is_signed, a, b):
    """SIMD intrinsics of the CUDA Math API: `function` of each pair of bytes, wrapped to 8 bits."""
    pairs = zip(parts(a, 8, is_signed), parts(b, 8, is_signed), strict=True)
    return int.from_bytes(bytes(function(x, y) & 0xFF for x, y in pairs), "little")


SIMD = {
    "__vadd4": (False, lambda x, y: x + y),
    "__vsub4": (False, lambda x, y: x - y),
    "__vsubss4": (True, lambda x, y: min(max(x - y, -128), 127)),
    "__vaddss4": (True, lambda x, y: min(max(x + y, -128), 127)),
    "__vcmpeq4": (False, lambda x, y: 0xFF if x == y else 0),
    "__vcmpne4": (False, lambda x, y: 0xFF if x != y else 0),
    "__vmaxs4": (True, max),
    "__vmaxu4": (False, max),
    "__vminu4": (False, min),
    "__vabsdiffu4": (False, lambda x, y: abs(x - y)),
}
