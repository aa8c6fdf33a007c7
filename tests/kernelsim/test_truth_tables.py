# SPDX-License-Identifier: MIT
"""The tables of truth/ agree with themselves and with what else knows: nothing here is run."""

import shutil
import subprocess

import ml_dtypes
import numpy as np
import pytest
from truth import formats, matrix, msl, warp, words
from truth.formats import FORMATS
from truth.launch import KERNELS, arch

FRAGMENTS = {
    **{f"A of {shape} {bits}": f for (shape, bits), f in matrix.A.items()},
    **{f"B of {shape} {bits}": f for (shape, bits), f in matrix.B.items()},
    **{f"C {rows} {bits}": f for (rows, bits), f in matrix.C.items()},
    **{name: getattr(matrix, name) for name in ("M8N8", "M8N8_TRANS", "M16N16_TRANS", "M8N16", "M16N8_TRANS")},
}
PEERS = {
    "f16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "e2m1": ml_dtypes.float4_e2m1fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e3m2": ml_dtypes.float6_e3m2fn,
}


@pytest.mark.parametrize("name", FRAGMENTS)
def test_every_element_of_a_matrix_is_held_once(name):
    fragment = FRAGMENTS[name]
    places = sorted(zip(fragment.row.ravel().tolist(), fragment.col.ravel().tolist(), strict=True))
    rows, columns = fragment.shape
    assert places == [(r, c) for r in range(rows) for c in range(columns)]


@pytest.mark.parametrize("name", FRAGMENTS)
def test_registers_hold_what_was_packed(name):
    fragment = FRAGMENTS[name]
    codes = np.random.default_rng(0).integers(0, 1 << fragment.bits, (3, *fragment.shape), np.uint64)
    registers = fragment.pack(codes)
    assert registers.shape == (3, 32, fragment.elements * fragment.bits // 32)
    np.testing.assert_array_equal(fragment.unpack(registers), codes)


def test_ldmatrix_loads_what_mma_takes():
    """A of m16n8k16 is ldmatrix.x4 of its four quarters, B, n-major in memory, ldmatrix.x2, k-major with .trans."""
    rng = np.random.default_rng(0)
    a = rng.integers(0, 1 << 16, (16, 16))
    quarters = [a[:8, :8], a[8:, :8], a[:8, 8:], a[8:, 8:]]
    loaded = np.concatenate([matrix.M8N8.pack(q) for q in quarters], axis=1)
    np.testing.assert_array_equal(loaded, matrix.A["m16n8k16", 16].pack(a))
    b = rng.integers(0, 1 << 16, (16, 8))
    held = matrix.B["m16n8k16", 16].pack(b)
    np.testing.assert_array_equal(np.concatenate([matrix.M8N8.pack(b[i : i + 8].T) for i in (0, 8)], axis=1), held)
    np.testing.assert_array_equal(np.concatenate([matrix.M8N8_TRANS.pack(b[i : i + 8]) for i in (0, 8)], axis=1), held)


def test_shapes_of_the_same_bytes_are_the_same():
    """m16n8k32 of bytes and m16n8k64 of nibbles are m16n8k16 of 16 bits, cut up."""
    rng = np.random.default_rng(0)
    a = rng.integers(0, 1 << 16, (16, 16))
    expected = matrix.A["m16n8k16", 16].pack(a)
    as_bytes = a.astype("<u2").view(np.uint8)
    np.testing.assert_array_equal(matrix.A["m16n8k32", 8].pack(as_bytes), expected)
    nibbles = np.stack([as_bytes & 15, as_bytes >> 4], axis=-1).reshape(16, 64)
    np.testing.assert_array_equal(matrix.A["m16n8k64", 4].pack(nibbles), expected)


@pytest.mark.parametrize("size", matrix.SELECTORS)
def test_scales_lie_apart(size):
    """Every selector takes bytes of its own, and together they take all that scale_vec_size lets them."""
    bytes_, a_threads, b_threads = matrix.SELECTORS[size]
    for places, threads, rows in ((matrix.scale_a, a_threads, 16), (matrix.scale_b, b_threads, 8)):
        taken = [(byte, thread, *places(size, byte, thread)) for byte in bytes_ for thread in threads]
        flat = [(int(x), int(y)) for _, _, lane, byte in taken for x, y in np.broadcast(lane, byte)]
        assert len(set(flat)) == len(flat) == len(bytes_) * len(threads) * rows * size
        assert set(flat) == {(lane, byte) for lane in range(32) for byte in range(4)}


@pytest.mark.parametrize("name", PEERS)
def test_formats_are_those_of_numpy_and_ml_dtypes(name):
    format, dtype = FORMATS[name], PEERS[name]
    storage = np.uint16 if format.sign > 128 else np.uint8
    codes = np.arange(2 * format.sign, dtype=storage)
    with np.errstate(invalid="ignore"):  # NaN, cast by ml_dtypes
        np.testing.assert_array_equal(format.decode(codes), codes.view(dtype).astype(np.float64))
    rng = np.random.default_rng(0)
    largest = format.all_magnitudes[format.finite - 1]
    values = (rng.uniform(-1, 1, 5000) * largest * 2.0 ** rng.integers(-20, 1, 5000)).astype(np.float32)
    values = np.concatenate([values, format.decode(codes[: format.finite]), [-0.0]]).astype(np.float32)
    between = (values[:-1] + np.float64(values[1:])) / 2  # of neighbours: ties
    values = np.concatenate([values, between.astype(np.float32)])
    values = values[np.abs(values) <= largest]
    np.testing.assert_array_equal(format.encode(values), values.astype(dtype).view(storage))


def test_conversions_by_hand():
    """The edges that formats differ at, worked out on paper."""
    e4m3, e2m1, f16 = FORMATS["e4m3"], FORMATS["e2m1"], FORMATS["f16"]
    assert e4m3.encode([448, 464, 1e9, -np.inf, np.nan], satfinite=True).tolist() == [0x7E, 0x7E, 0x7E, 0xFE, 0x7F]
    assert e2m1.encode([0.25, 0.75, 2.5, 5, 7, -9], satfinite=True).tolist() == [0, 2, 4, 6, 7, 15]  # ties to even
    assert e2m1.encode([np.nan], satfinite=True).tolist() == [7]  # positive MAX_NORM
    assert f16.encode([65519, 65520, -65520], "rn").tolist() == [0x7BFF, 0x7C00, 0xFC00]
    assert f16.encode([65520, 1e9, np.inf], "rz").tolist() == [0x7BFF, 0x7BFF, 0x7C00]
    assert f16.encode([65520, np.inf], satfinite=True).tolist() == [0x7BFF, 0x7BFF]
    assert f16.encode([-1.0, 2.0], relu=True).tolist() == [0, 0x4000]
    tie = 1 + 2.0**-11  # half way between two tf32
    assert [int(FORMATS["tf32"].encode([tie], r)[0]) & 1 for r in ("rn", "rna", "rz", "rp", "rm")] == [0, 1, 0, 1, 0]
    assert formats.encode_ue8m0([1, 1.5, -1.5, 0, 1e-45, 3e38, np.nan], "rp", True).tolist() == [
        127, 128, 128, 0, 0, 254, 255,
    ]  # fmt: skip
    assert formats.encode_ue8m0([1, 1.9, 0, 3e38, np.inf], "rz", False).tolist() == [127, 127, 0, 254, 255]
    assert formats.to_integer([2.5, 3.5, -2.5, 1e10, np.nan], "rni", 32, True).tolist() == [
        2, 4, (1 << 32) - 2, 0x7FFFFFFF, 0,
    ]  # fmt: skip
    assert formats.to_integer([np.nan], "rzi", 64, True).tolist() == [1 << 63]


def test_words_by_hand():
    assert words.lop3(0xF0, 0xCC, 0xAA, 0x80) == 0xF0 & 0xCC & 0xAA
    assert words.lop3(0xF0, 0xCC, 0xAA, 0x1A) & 0xFF == (0xF0 & 0xCC | 0xAA) ^ 0xF0  # the ISA's example
    assert words.prmt("", 0x33221100, 0x77665544, 0x5410) == 0x55441100
    assert words.prmt("", 0x00008000, 0, 0xBA98) == 0x0000FF00  # signs, as the SIMD intrinsics make masks
    assert words.prmt("f4e", 0x33221100, 0x77665544, 1) == 0x44332211
    assert words.shf("l", "clamp", 0x80000000, 1, 40) == 0x80000000
    assert words.shf("l", "wrap", 0x80000000, 1, 33) == 3
    assert words.bfe(32, True, 0x80, 4, 4) == 0xFFFFFFF8
    assert words.bfi(32, 0xF, 0, 30, 4) == 0xC0000000
    assert words.dp4a(True, True, 0xFF01FF01, 0x01010101, 5) == 5


def test_shuffles_by_hand():
    lanes = list(range(32))
    for mode, width in (("up", 8), ("down", 8), ("idx", 4), ("bfly", 32)):
        c = [warp.intrinsic_c(mode, width)] * 32
        got = [d for d, _ in warp.shfl(mode, lanes, [2] * 32, c)]
        expected = {
            "up": [i - 2 if i % 8 >= 2 else i for i in lanes],
            "down": [i + 2 if i % 8 < 6 else i for i in lanes],
            "idx": [i - i % 4 + 2 for i in lanes],
            "bfly": [i ^ 2 for i in lanes],
        }[mode]
        assert got == expected
    assert warp.shfl("idx", lanes, [20] * 32, [0x1F] * 32, mask=0xFFFF)[0] == (None, True)


def test_simd_groups_by_hand():
    """The pictures of the Metal specification: 16 lanes a to p and fillings fa, fb, ... there, 32 here."""
    data, filling = list(range(32)), list(range(100, 132))
    assert msl.fill_up(data, filling, 2, 8)[:10] == [106, 107, 0, 1, 2, 3, 4, 5, 114, 115]
    assert msl.fill_down(data, filling, 2, 8)[:10] == [2, 3, 4, 5, 6, 7, 100, 101, 10, 11]
    assert msl.shuffle_up(data, 2)[:4] == [0, 1, 0, 1]
    assert msl.shuffle_down(data, 2)[28:] == [30, 31, 30, 31]
    assert msl.rotate_down(data, 1, 4)[:5] == [1, 2, 3, 0, 5]
    assert msl.prefix("sum", data, inclusive=False)[3] == 3
    held = [(r, c + i) for r, c in map(msl.matrix_position, range(32)) for i in (0, 1)]
    assert sorted(held) == [(r, c) for r in range(8) for c in range(8)]


@pytest.mark.skipif(not shutil.which("nvcc"), reason="nvcc is not installed")
@pytest.mark.parametrize("path", sorted(KERNELS.glob("truth_*.cu")), ids=lambda p: p.stem)
def test_nvcc_takes_every_instruction(path, tmp_path):
    command = ["nvcc", f"-arch={arch(path.name)}", "-cubin", "-o", tmp_path / "x.cubin", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
