# SPDX-License-Identifier: MIT
"""Which lane holds which element of a matrix in which register, in the words of the PTX ISA.

PTX ISA 9.0, 9.7.14.3 (block scaling) and 9.7.14.5.3 to 9.7.14.5.17 (fragments of mma, ldmatrix, stmatrix, movmatrix).
`i` counts a thread's elements from low to high through its registers, as there: a0, a1, ...
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LANE = np.arange(32)[:, None]
groupID = LANE >> 2  # noqa: N816, the ISA's name
threadID_in_group = LANE % 4  # noqa: N816


@dataclass(frozen=True)
class Fragment:
    """The registers of a warp that hold a matrix."""

    source: str
    shape: tuple[int, int]
    bits: int  # that an element takes of a register
    row: np.ndarray  # (32, elements of a thread)
    col: np.ndarray

    @property
    def elements(self):
        return self.row.shape[1]

    def pack(self, codes):
        """(..., rows, columns) codes -> (..., 32, registers) uint32."""
        held = np.asarray(codes).astype(np.uint64)[..., self.row, self.col]
        per_register = 32 // self.bits
        held = held.reshape(*held.shape[:-1], -1, per_register) & np.uint64((1 << self.bits) - 1)
        places = np.arange(per_register, dtype=np.uint64) * np.uint64(self.bits)
        return np.ascontiguousarray(np.bitwise_or.reduce(held << places, axis=-1), np.uint32)

    def unpack(self, registers):
        """(..., 32, registers) uint32 -> (..., rows, columns) codes."""
        places = np.arange(32 // self.bits, dtype=np.uint64) * np.uint64(self.bits)
        held = np.asarray(registers).astype(np.uint64)[..., None] >> places & np.uint64((1 << self.bits) - 1)
        codes = np.empty((*held.shape[:-3], *self.shape), np.uint32)
        codes[..., self.row, self.col] = held.reshape(*held.shape[:-2], -1)
        return codes


def fragment(source, shape, bits, elements, row, col):
    i = np.arange(elements)[None, :]
    full = np.zeros((32, elements), int)
    return Fragment(source, shape, bits, full + row(i), full + col(i))


def within(i, *ranges):
    """ "0 <= i < 2 || 4 <= i < 6" is within(i, (0, 2), (4, 6))."""
    return np.logical_or.reduce([(i >= low) & (i < high) for low, high in ranges])


# Multiplicand A, keyed by (shape, bits of an element's container). m16n8k16 with 8 bits is "with integer type".
A = {
    ("m8n8k16", 8): fragment(  # .u8, .s8
        "9.7.14.5.3, figure 56", (8, 16), 8, 4, row=lambda i: groupID, col=lambda i: threadID_in_group * 4 + i
    ),
    ("m8n8k32", 4): fragment(  # .u4, .s4
        "9.7.14.5.4, figure 59", (8, 32), 4, 8, row=lambda i: groupID, col=lambda i: threadID_in_group * 8 + i
    ),
    ("m16n8k4", 32): fragment(  # .tf32
        "9.7.14.5.6, figure 65", (16, 4), 32, 2,
        row=lambda i: np.where(i == 0, groupID, groupID + 8),
        col=lambda i: threadID_in_group,
    ),
    ("m16n8k8", 16): fragment(  # .f16, .bf16
        "9.7.14.5.7, figure 71", (16, 8), 16, 4,
        row=lambda i: np.where(i < 2, groupID, groupID + 8),
        col=lambda i: threadID_in_group * 2 + (i & 0x1),
    ),
    ("m16n8k8", 32): fragment(  # .tf32
        "9.7.14.5.7, figure 72", (16, 8), 32, 4,
        row=lambda i: np.where(within(i, (0, 1), (2, 3)), groupID, groupID + 8),
        col=lambda i: np.where(i < 2, threadID_in_group, threadID_in_group + 4),
    ),
    ("m16n8k16", 16): fragment(  # .f16, .bf16
        "9.7.14.5.8, figure 79", (16, 16), 16, 8,
        row=lambda i: np.where(within(i, (0, 2), (4, 6)), groupID, groupID + 8),
        col=lambda i: np.where(i < 4, threadID_in_group * 2 + (i & 0x1), threadID_in_group * 2 + (i & 0x1) + 8),
    ),
    ("m16n8k16", 8): fragment(  # .u8, .s8, .e4m3, .e5m2
        "9.7.14.5.9, figure 84", (16, 16), 8, 8,
        row=lambda i: np.where(i < 4, groupID, groupID + 8),
        col=lambda i: threadID_in_group * 4 + (i & 0x3),
    ),
    ("m16n8k32", 4): fragment(  # .u4, .s4
        "9.7.14.5.10, figure 87", (16, 32), 4, 16,
        row=lambda i: np.where(i < 8, groupID, groupID + 8),
        col=lambda i: threadID_in_group * 8 + (i & 0x7),
    ),
    ("m16n8k32", 8): fragment(  # .u8, .s8, .e4m3, .e5m2, .e3m2, .e2m3, .e2m1
        "9.7.14.5.10, figure 88", (16, 32), 8, 16,
        row=lambda i: np.where(within(i, (0, 4), (8, 12)), groupID, groupID + 8),
        col=lambda i: np.where(i < 8, threadID_in_group * 4 + (i & 0x3), threadID_in_group * 4 + (i & 0x3) + 16),
    ),
    ("m16n8k64", 4): fragment(  # .u4, .s4, .e2m1
        "9.7.14.5.11, figure 93", (16, 64), 4, 32,
        row=lambda i: np.where(within(i, (0, 8), (16, 24)), groupID, groupID + 8),
        col=lambda i: np.where(i < 16, threadID_in_group * 8 + (i & 0x7), threadID_in_group * 8 + (i & 0x7) + 32),
    ),
}  # fmt: skip

# Multiplicand B, likewise; col = groupID throughout.
B = {
    ("m8n8k16", 8): fragment(
        "9.7.14.5.3, figure 57", (16, 8), 8, 4, row=lambda i: threadID_in_group * 4 + i, col=lambda i: groupID
    ),
    ("m8n8k32", 4): fragment(
        "9.7.14.5.4, figure 60", (32, 8), 4, 8, row=lambda i: threadID_in_group * 8 + i, col=lambda i: groupID
    ),
    ("m16n8k4", 32): fragment(
        "9.7.14.5.6, figure 67", (4, 8), 32, 1, row=lambda i: threadID_in_group, col=lambda i: groupID
    ),
    ("m16n8k8", 16): fragment(
        "9.7.14.5.7, figure 74", (8, 8), 16, 2, row=lambda i: threadID_in_group * 2 + i, col=lambda i: groupID
    ),
    ("m16n8k8", 32): fragment(
        "9.7.14.5.7, figure 75", (8, 8), 32, 2,
        row=lambda i: np.where(i == 0, threadID_in_group, threadID_in_group + 4),
        col=lambda i: groupID,
    ),
    ("m16n8k16", 16): fragment(
        "9.7.14.5.8, figure 81", (16, 8), 16, 4,
        row=lambda i: np.where(i < 2, threadID_in_group * 2 + (i & 0x1), threadID_in_group * 2 + (i & 0x1) + 8),
        col=lambda i: groupID,
    ),
    ("m16n8k16", 8): fragment(
        "9.7.14.5.9, figure 85", (16, 8), 8, 4, row=lambda i: threadID_in_group * 4 + i, col=lambda i: groupID
    ),
    ("m16n8k32", 4): fragment(
        "9.7.14.5.10, figure 89", (32, 8), 4, 8, row=lambda i: threadID_in_group * 8 + (i & 0x7), col=lambda i: groupID
    ),
    ("m16n8k32", 8): fragment(
        "9.7.14.5.10, figures 90 and 91", (32, 8), 8, 8,
        row=lambda i: np.where(i < 4, threadID_in_group * 4 + (i & 0x3), threadID_in_group * 4 + (i & 0x3) + 16),
        col=lambda i: groupID,
    ),
    ("m16n8k64", 4): fragment(
        "9.7.14.5.11, figures 94 and 95", (64, 8), 4, 16,
        row=lambda i: np.where(i < 8, threadID_in_group * 8 + (i & 0x7), threadID_in_group * 8 + (i & 0x7) + 32),
        col=lambda i: groupID,
    ),
}  # fmt: skip

# Accumulators C and D, keyed by (rows, bits): of all shapes with so many rows the same. .f16 is two to a register.
C = {
    (16, bits): fragment(
        "figures 69, 77, 83, 86, 92 and 96", (16, 8), bits, 4,
        row=lambda i: np.where(i < 2, groupID, groupID + 8),
        col=lambda i: threadID_in_group * 2 + (i & 0x1),
    )
    for bits in (16, 32)
}  # fmt: skip
C[8, 32] = fragment("figures 58, 61", (8, 8), 32, 2, row=lambda i: groupID, col=lambda i: threadID_in_group * 2 + i)


def container(format, codes, kind):
    """Where an element lies in its bits (9.7.14.5.14).

    .e2m1 is packed under .kind::mxf4 and .kind::mxf4nvf4, else in the "central 4 bits of the 8-bit container";
    .e3m2 and .e2m3 are in the lower 6; .tf32 is in the upper 19 bits of 32 (5.2.3).
    """
    if format == "tf32":
        return codes << 13
    return codes << 2 if format == "e2m1" and kind not in ("mxf4", "mxf4nvf4") else codes


def scale_a(size, byte_id, thread_id):
    """Where in scale-a-data scale_A lies: (lane (16, 1), byte (1, size)) of row and chunk (9.7.14.3, figures 43, 45).

    "One thread-pair within the quad determined by thread-id-a contributes the SF_A values. The value of 0 selects
    lower two threads whereas value of 1 selects upper two": the pair's first thread has row groupID, its second
    groupID + 8. Of their data, `size` bytes from byte_id on: chunk j of the row is scaled by the jth.
    """
    row = np.arange(16)[:, None]
    return 4 * (row % 8) + 2 * thread_id + row // 8, byte_id + np.arange(size)[None, :]


def scale_b(size, byte_id, thread_id):
    """Of scale_B, (lane (8, 1), byte (1, size)) of column and chunk (figures 44, 45): "each thread satisfying
    %laneid % 4 == thread-id-b provides the SF_B", that of column groupID."""
    return 4 * np.arange(8)[:, None] + thread_id, byte_id + np.arange(size)[None, :]


# Table 37: the values that selectors may have, (byte ids, thread-id-a, thread-id-b) by .scale_vec_size.
SELECTORS = {
    1: ((0, 1, 2, 3), (0, 1), (0, 1, 2, 3)),
    2: ((0, 2), (0, 1), (0, 1, 2, 3)),
    4: ((0,), (0, 1), (0, 1, 2, 3)),
}

# One 8x8 matrix of 16-bit elements, in one register: ldmatrix (9.7.14.5.15, figure 104), stmatrix (9.7.14.5.16,
# figure 107), the source of movmatrix (9.7.14.5.17, figure 109). "A group of four threads loads an entire row".
M8N8 = fragment(
    "9.7.14.5.15, figure 104", (8, 8), 16, 2, row=lambda i: groupID, col=lambda i: threadID_in_group * 2 + i
)
# .trans: "the matrix is loaded in column-major format"; also the result of movmatrix (figure 110).
M8N8_TRANS = fragment(
    "9.7.14.5.15, .trans", (8, 8), 16, 2, row=lambda i: threadID_in_group * 2 + i, col=lambda i: groupID
)
# ldmatrix.m16n16.trans.b8, two registers: of the transposed matrix, "each thread in a warp loads 4 consecutive
# columns across 2 rows"; (row, col) here are those in memory, row j at the address of thread j.
M16N16_TRANS = fragment(
    "9.7.14.5.15, figure 105", (16, 16), 8, 8,
    row=lambda i: threadID_in_group * 4 + (i & 0x3),
    col=lambda i: np.where(i < 4, groupID, groupID + 8),
)  # fmt: skip
# ldmatrix.m8n16.b8x16, one register: "each thread in a warp loads 4 consecutive columns".
M8N16 = fragment(
    "9.7.14.5.15, figure 106", (8, 16), 8, 4, row=lambda i: groupID, col=lambda i: threadID_in_group * 4 + i
)
# stmatrix.m16n8.trans.b8, one register, e0 its LSB: (row, col) in memory, column-major, so 8 rows of 16 bytes. As
# the accumulators of mma lie, to store them as 8 bits.
M16N8_TRANS = fragment(
    "9.7.14.5.16, figure 108", (8, 16), 8, 4,
    row=lambda i: threadID_in_group * 2 + (i & 0x1),
    col=lambda i: np.where(i < 2, groupID, groupID + 8),
)  # fmt: skip


def decompress(row, bits):
    """ldmatrix.b8x16: 16 bytes in memory -> 16 containers of 8 bits, the value in the low bits of each.

    .b4x16_p64 is 16 4-bit elements and 64 bits of padding, .b6x16_p32 16 6-bit elements and 32 bits.
    """
    stream = np.unpackbits(np.asarray(row, np.uint8), axis=-1, bitorder="little")[..., : 16 * bits]
    codes = stream.reshape(*stream.shape[:-1], 16, bits).astype(np.uint32)
    return (codes << np.arange(bits, dtype=np.uint32)).sum(-1).astype(np.uint8)
