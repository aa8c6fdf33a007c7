# SPDX-License-Identifier: MIT
"""Weight formats, against MLX where it has them and against their definitions everywhere."""

import math
import platform
import sys

import ml_dtypes
import numpy as np
import pytest

from roofbench import formats
from roofbench.formats import FORMATS, pack, unpack

QUANTISED = [f.name for f in FORMATS.values() if f.scales is not None]
IN_MLX = {
    "int8": {"bits": 8, "group_size": 64},
    "int4": {"bits": 4, "group_size": 64},
    "mxfp8": {"mode": "mxfp8"},
    "mxfp4": {"mode": "mxfp4"},
    "nvfp4": {"mode": "nvfp4"},
}


def weights():
    """(name, (N, K) f32): random ones of every size, and the ones that break quantisers."""
    rng = np.random.default_rng(0)
    normal = rng.standard_normal((16, 256)).astype(np.float32)
    for scale in (1, 1e-3, 64, 1e-6, 1e6, 1e-20, 1e20, 1e-30, 1e-37, 1e-40, 1e30, 1e37):
        yield f"normal x {scale}", normal * np.float32(scale)
    yield "zero", np.zeros((4, 128), np.float32)
    yield "negative zero", -np.zeros((4, 128), np.float32)
    yield "constant", np.full((4, 128), 3, np.float32)
    yield "negative constant", np.full((4, 128), -3, np.float32)
    yield "ties", (rng.integers(-24, 25, (16, 256)) / 4).astype(np.float32)
    yield "outliers", np.where(rng.random((16, 256)) < 0.01, 1e4, normal).astype(np.float32)
    yield "largest", np.where(rng.random((16, 256)) < 0.01, 3.4e38, normal).astype(np.float32)
    mixed = normal.copy()
    mixed[:, ::3] = 0
    mixed[2] *= 1e-10
    mixed[3, 64:] = 1e-42
    mixed[4, ::7] = 6
    yield "mixed", mixed
    near = np.zeros((600, 32), np.float32)  # amax at and beside every power of two times 6 and 448
    for i, exponent in enumerate(range(-100, 100)):
        for j, largest in enumerate((6, 448, 1)):
            near[3 * i + j, :2] = largest * 2.0**exponent
            near[3 * i + j, 1] = np.nextafter(near[3 * i + j, 0], np.float32(0))
    yield "powers of two", np.tile(near, 2)
    yield "just above powers of two", np.tile(np.nextafter(near, np.float32(np.inf)), 2)


def oracle():
    """mlx, which the tests depend on wherever it has wheels."""
    if sys.platform == "darwin" and platform.machine() != "arm64":
        pytest.skip("mlx has no wheels for Intel Macs")
    import mlx.core as mx

    return mx


@pytest.mark.parametrize("name", IN_MLX)
def test_mlx_quantises_to_the_same_bits(name):
    mx = oracle()
    for title, w in weights():
        options = dict(IN_MLX[name])
        ours = pack(w, name)
        if name == "nvfp4":
            options["global_scale"] = mx.array(np.float32(np.abs(w).max() or formats.NVFP4_MAX))
        theirs = [np.array(part) for part in mx.quantize(mx.array(w), **options, stream=mx.cpu)]
        keys = [key for key in ours if key != "w_tensor_scale"]
        for key, part in zip(keys, theirs, strict=True):
            assert ours[key].tobytes() == part.tobytes(), f"{title}: {key}"
        parts = [mx.array(ours[key]) for key in keys]
        decoded = np.array(mx.dequantize(*parts, **options, dtype=mx.float32, stream=mx.cpu))
        same = decoded.view(np.uint32) == unpack(ours, name).view(np.uint32)
        assert same.all(), f"{title}: {np.argwhere(~same)[0]}"


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_mlx_rounds_scales_of_bf16_weights_alike(name):
    mx = oracle()
    w = np.random.default_rng(1).standard_normal((16, 256)).astype(ml_dtypes.bfloat16)
    ours = pack(w, name, "bf16")
    theirs = mx.quantize(mx.array(w.view(np.uint16)).view(mx.bfloat16), **IN_MLX[name], stream=mx.cpu)
    assert ours["w"].tobytes() == np.array(theirs[0]).tobytes()
    for key, part in zip(("w_scales", "w_biases"), theirs[1:], strict=True):
        assert ours[key].tobytes() == np.array(part.view(mx.uint16)).tobytes()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shape", [(8, 128), (3, 8, 128), (2, 3, 8, 64)])
def test_parts_are_what_the_format_says(name, shape):
    w = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    spec, parts = FORMATS[name].parts(shape, "bf16"), pack(w, name, "bf16")
    assert {key: (part.shape, part.dtype) for key, part in parts.items()} == spec
    stored = sum(part.nbytes for part in parts.values()) * 8 / w.size
    scales = {"fp8": 32 / shape[-1], "nvfp4": 8 / 16, "mxfp8": 8 / 32, "mxfp4": 8 / 32, "int8": 0.5, "int4": 0.5}
    tensor = 32 * math.prod(shape[:-2]) / w.size if name == "nvfp4" else 0
    assert stored == pytest.approx(FORMATS[name].bits + scales.get(name, 0) + tensor)


@pytest.mark.parametrize(("name", "relative"), [("fp8", 2**-4), ("int8", 2 / 255), ("int4", 2 / 15)])
def test_quantising_is_as_close_as_the_format_allows(name, relative):
    w = np.random.default_rng(3).standard_normal((32, 256)).astype(np.float32)
    error = np.abs(unpack(pack(w, name), name) - w)
    groups = np.abs(w).reshape(32, -1, FORMATS[name].group or 256).max(axis=-1, keepdims=True)
    assert (error.reshape(*groups.shape[:2], -1) <= relative * groups).all()


@pytest.mark.parametrize("name", ["mxfp8", "mxfp4", "nvfp4"])
def test_microscaled_codes_keep_what_they_can_hold(name):
    """Weights that are codes times a power of two come back to the bit."""
    rng = np.random.default_rng(4)
    codes = formats.E4M3[rng.choice([c for c in range(256) if c & 0x7F != 0x7F], (8, 128))] if name == "mxfp8" else None
    w = formats.E2M1[rng.integers(0, 16, (8, 128))] if codes is None else codes
    w[:, ::16] = 448 if name == "mxfp8" else 6  # each group has its largest code
    w = w * np.float32(2.0**-9)
    assert (unpack(pack(w, name), name) == w).all()


def test_fp8_cast_is_nearest_even_and_saturates():
    codes = np.arange(0x7F, dtype=np.uint8)
    values = formats.E4M3[codes].astype(np.float64)
    middles = (values[:-1] + values[1:]) / 2
    even = np.where(codes[:-1] % 2 == 0, codes[:-1], codes[1:])
    assert (formats.cast_fp8(middles).view(np.uint8) == even).all()
    assert (
        formats.cast_fp8(np.nextafter(middles.astype(np.float32), np.float32(0))).view(np.uint8) == codes[:-1]
    ).all()
    assert (formats.cast_fp8(values).view(np.uint8) == codes).all()
    assert formats.cast_fp8(np.float32([449, 1e9, np.inf])).view(np.uint8).tolist() == [0x7E] * 3
    assert formats.cast_fp8(np.float32([-464, -np.inf, -0.0])).view(np.uint8).tolist() == [0xFE, 0xFE, 0x80]
    assert np.isnan(formats.cast_fp8(np.float32([np.nan])).astype(np.float32)).all()


def test_e8m0_extremes_decode():
    """0 is 2^-127, a subnormal f32; 254 is 2^127; 255 is NaN."""
    parts = {"w": np.full((1, 16), 0x22222222, np.uint32), "w_scales": np.array([[0, 254, 255, 127]], np.uint8)}
    w = unpack(parts, "mxfp4")[0]  # every code is 1
    assert w[0] == np.float32(2.0**-127)
    assert w[32] == np.float32(2.0**127)
    assert np.isnan(w[64])
    assert w[96] == 1


def test_first_weight_is_in_the_lowest_bits():
    w = np.zeros((1, 64), np.float32)
    w[0, 0], w[0, 1] = -15, 15  # int4: scale -2, bias 15, codes 15 and 0
    assert pack(w, "int4")["w"][0, 0] & 0xFF == 0x0F
    w[...] = 0
    w[0, 0], w[0, 9] = 6, -0.5
    assert pack(w, "mxfp4")["w"][0, :2].tolist() == [0x7, 0x90]


def test_float64_decoding_is_exact():
    """code * scale of fp8 and nvfp4 has more bits than f32."""
    parts = {"w": np.array([[0x7E]], np.uint8).view(formats.DTYPES["fp8"]), "w_scales": np.float32([1 / 3])}
    assert unpack(parts, "fp8", np.float64)[0, 0] == 448 * float(np.float32(1 / 3))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: pack(np.zeros((2, 64)), "int3"), "unknown format 'int3'; known: f32 f16"),
        (lambda: unpack({"w": np.zeros((2, 64))}, "q4"), "unknown format 'q4'"),
        (lambda: pack(np.zeros(64), "int4"), r"w needs two or more axes \(N, K\); its shape is \(64,\)"),
        (lambda: pack(np.zeros((2, 63)), "int4"), "K = 63 is not a multiple of int4's group of 64"),
        (lambda: pack(np.full((2, 64), np.nan), "int4"), r"w is not finite at \(0, 0\): int4 cannot store nan"),
        (lambda: pack(np.full((2, 64), -np.inf), "fp8"), r"fp8 cannot store -inf"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(ValueError, match=says):
        call()


@pytest.mark.parametrize("name", QUANTISED)
def test_empty_matrices_pack(name):
    parts = pack(np.zeros((0, 64), np.float32), name)
    assert unpack(parts, name).shape == (0, 64)
