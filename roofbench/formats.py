# SPDX-License-Identifier: MIT
"""Weight formats: one row each in `FORMATS`; `pack` quantises, `unpack` decodes, both in NumPy.

A packed matrix is a dict of arrays, the *parts*: ``w`` (the codes) and, by format, ``w_scales``,
``w_biases``, ``w_tensor_scale``. Leading axes are free: (N, K), (E, N, K), (B, N, K).

Words are little-endian, as is every machine that roofbench measures: code j of b bits is at bit j b.

Sources: affine int4/int8, mxfp4, mxfp8, nvfp4 quantise as `mlx.core.quantize` does on a CPU, bit for
bit (groups and packing: https://ml-explore.github.io/mlx/build/html/python/_autosummary/mlx.core.quantize.html).
Decoding follows the OCP Microscaling Formats (MX) v1.0 specification (e2m1, e4m3, e8m0, §5) and, for
nvfp4, NVIDIA's two-level scaling: e2m1 code x e4m3 block scale x f32 tensor scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Parts = dict[str, Array]

DTYPES: dict[str, np.dtype[Any]] = {
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "fp8": np.dtype(ml_dtypes.float8_e4m3fn),
}

# Unit roundoff of a type, 2^-p with p significand bits, the hidden one included.
UNIT_ROUNDOFF = {"f32": 2.0**-24, "f16": 2.0**-11, "bf16": 2.0**-8, "fp8": 2.0**-4}

FP8_MAX = 448.0  # largest finite e4m3fn
FP4_MAX = 6.0  # largest e2m1
NVFP4_MAX = FP8_MAX * FP4_MAX  # 2688: tensor_scale = amax / 2688


@dataclass(frozen=True, slots=True)
class Format:
    """How one matrix of weights is stored.

    Args:
        name: what `--format` takes.
        bits: per code.
        codes: dtype of the array of codes; with `bits` below its width, codes are packed into it
            from the lowest bits up (MLX's packing).
        group: weights along K that share a scale; 0 where a whole row shares it or there is none.
        scales: dtype of ``w_scales``; ``"x"`` is the activations' own type, ``None`` is no scales.
        biases: whether ``w_biases`` of the scales' dtype and shape exist (affine formats).
        tensor_scale: whether one f32 scales a whole (N, K) matrix (nvfp4).
    """

    name: str
    bits: int
    codes: np.dtype[Any]
    group: int = 0
    scales: np.dtype[Any] | str | None = None
    biases: bool = False
    tensor_scale: bool = False

    @property
    def per_word(self) -> int:
        """Codes in one element of the array of codes."""
        return self.codes.itemsize * 8 // self.bits

    def parts(
        self, shape: tuple[int, ...], x: str, prefix: str = "w"
    ) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Shape and dtype of every part of a matrix of `shape` (..., N, K), activations of type `x`.

        Raises:
            ValueError: K is not a multiple of the group.
        """
        *lead, k = shape
        if k % (self.group or 1):
            raise ValueError(f"K = {k} is not a multiple of {self.name}'s group of {self.group}")
        found = {prefix: ((*lead, k // self.per_word), self.codes)}
        if self.scales is not None:
            dtype = DTYPES[x] if isinstance(self.scales, str) else self.scales
            found[f"{prefix}_scales"] = ((*lead, k // self.group) if self.group else tuple(lead), dtype)
            if self.biases:
                found[f"{prefix}_biases"] = found[f"{prefix}_scales"]
        if self.tensor_scale:
            found[f"{prefix}_tensor_scale"] = (tuple(lead[:-1]) or (1,), DTYPES["f32"])
        return found


_U32, _U8, _F32 = np.dtype(np.uint32), np.dtype(np.uint8), np.dtype(np.float32)

FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        Format("f32", 32, DTYPES["f32"]),
        Format("f16", 16, DTYPES["f16"]),
        Format("bf16", 16, DTYPES["bf16"]),
        Format("fp8", 8, DTYPES["fp8"], scales=_F32),
        Format("int8", 8, _U32, group=64, scales="x", biases=True),
        Format("int4", 4, _U32, group=64, scales="x", biases=True),
        Format("mxfp8", 8, _U32, group=32, scales=_U8),
        Format("mxfp4", 4, _U32, group=32, scales=_U8),
        Format("nvfp4", 4, _U32, group=16, scales=_U8, tensor_scale=True),
    )
}

# e2m1, in the order of its codes (OCP MX v1.0, table 5)
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
# e4m3 and e8m0 by code; 0x7F and 0xFF of e4m3 and 0xFF of e8m0 are NaN
E4M3 = np.arange(256, dtype=np.uint8).view(DTYPES["fp8"]).astype(np.float32)
E8M0 = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e8m0fnu).astype(np.float32)

# Both codes of a byte at once: the low nibble is the earlier weight.
_NIBBLES = np.stack([np.arange(256) & 15, np.arange(256) >> 4], axis=-1)

# Magnitudes above which e2m1 takes the next code. A tie goes to the smaller one (MLX's argmin).
_E2M1_STEPS = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0], np.float32)


def format_of(name: str) -> Format:
    """The row of `FORMATS` called `name`.

    Raises:
        ValueError: there is none.
    """
    try:
        return FORMATS[name]
    except KeyError:
        raise ValueError(f"unknown format {name!r}; known: {' '.join(FORMATS)}") from None


def cast_fp8(x: Array) -> Array:
    """f32 to e4m3fn: nearest even; overflow and infinities saturate to +-448; NaN stays NaN."""
    return np.clip(np.asarray(x, np.float32), -FP8_MAX, FP8_MAX).astype(DTYPES["fp8"])


def bf16_to_f32(x: Array) -> Array:
    """Exact; several times faster than ``astype``."""
    return (x.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def pack(w: Array, name: str, x: str = "f32") -> Parts:
    """Store `w` in a format.

    Args:
        w: (..., N, K) weights, any float dtype, finite; they are quantised from f32.
        name: the format.
        x: type of the activations, which int4's and int8's scales and biases take.

    Returns:
        The parts, as `Format.parts` lists them.

    Raises:
        ValueError: unknown format, fewer than two axes, K no multiple of the group, NaN or infinity.
    """
    fmt = format_of(name)
    w = np.asarray(w)
    if w.ndim < 2:
        raise ValueError(f"w needs two or more axes (N, K); its shape is {w.shape}")
    spec = fmt.parts(w.shape, x)
    if fmt.scales is None:
        return {"w": np.ascontiguousarray(w.astype(fmt.codes))}
    w = np.ascontiguousarray(w, np.float32)
    if not np.isfinite(w).all():
        at = tuple(int(i) for i in np.argwhere(~np.isfinite(w))[0])
        raise ValueError(f"w is not finite at {at}: {name} cannot store {w[at]}")
    *lead, k = w.shape
    grouped = w.reshape(*lead, k // fmt.group, fmt.group) if fmt.group else w.reshape(*lead, 1, k)
    with np.errstate(all="ignore"):
        if fmt.biases:
            codes, *scales = _affine(grouped, fmt.bits)
        elif fmt.tensor_scale:
            codes, *scales = _nvfp4(grouped)
        elif fmt.group:
            codes, *scales = _mx(grouped, fmt.bits)
        else:
            codes, *scales = _fp8_rows(grouped)
    parts = _pack_codes(codes.reshape(w.shape), fmt), *scales
    return {
        key: part.astype(dtype, copy=False).reshape(shape)
        for (key, (shape, dtype)), part in zip(spec.items(), parts, strict=True)
    }


def _pack_codes(codes: Array, fmt: Format) -> Array:
    if fmt.bits == 4:
        codes = codes[..., 0::2] | codes[..., 1::2] << 4
    return np.ascontiguousarray(codes).view(fmt.codes)


def _fp8_rows(w: Array) -> tuple[Array, Array]:
    """One scale per row: amax / 448, and 1 for a row of zeros."""
    scale = np.abs(w).max(axis=-1, keepdims=True, initial=0) / np.float32(FP8_MAX)
    scale = np.where(scale == 0, np.float32(1), scale)
    return cast_fp8(w / scale).view(np.uint8), scale


def _affine(w: Array, bits: int) -> tuple[Array, Array, Array]:
    """w = scale * q + bias with q in 0 ... 2^bits - 1; the edge of larger magnitude is kept exactly."""
    top = np.float32(2**bits - 1)
    high, low = w.max(axis=-1, keepdims=True), w.min(axis=-1, keepdims=True)
    low_edge = np.abs(low) > np.abs(high)
    scale = np.maximum((high - low) / top, np.float32(1e-7))
    scale = np.where(low_edge, scale, -scale)
    edge = np.where(low_edge, low, high)
    steps = np.rint(edge / scale)
    scale = np.where(steps != 0, edge / steps, scale)
    bias = np.where(steps != 0, edge, np.float32(0))
    codes = np.rint((w - bias) / scale).clip(0, top).astype(np.uint8)
    return codes, scale, bias


def _mx(w: Array, bits: int) -> tuple[Array, Array]:
    """Scale: the smallest power of two that is at least amax / largest code, stored plus 127.

    So no code saturates (MLX 0.32.4; 0.32.2 still took the nearest power). MLX lets the stored
    exponent wrap where amax is below about 2^-125, and so does this.
    """
    amax = np.abs(w).max(axis=-1, keepdims=True)
    mantissa, exponent = np.frexp(amax / np.float32(FP4_MAX if bits == 4 else FP8_MAX))
    exponent -= mantissa == 0.5
    scaled = w / np.ldexp(np.float32(1), exponent)
    codes = _e2m1(scaled) if bits == 4 else _e4m3(scaled)
    return codes, (exponent + 127).astype(np.uint8)


def _nvfp4(w: Array) -> tuple[Array, Array, Array]:
    """Block scale e4m3(amax / 6 / tensor_scale), tensor_scale = amax of the matrix / 2688."""
    amax = np.abs(w).max(axis=-1, keepdims=True)
    whole = amax.max(axis=(-3, -2), keepdims=True, initial=0)
    whole = np.where(whole == 0, np.float32(NVFP4_MAX), whole)
    encode = np.float32(NVFP4_MAX) / whole
    scale = _e4m3(amax / np.float32(FP4_MAX) * encode)
    return _e2m1(w / E4M3[scale] * encode), scale, whole / np.float32(NVFP4_MAX)


def _e4m3(x: Array) -> Array:
    return cast_fp8(x).view(np.uint8)


def _e2m1(x: Array) -> Array:
    magnitude = np.searchsorted(_E2M1_STEPS, np.abs(x)).astype(np.uint8)
    return np.where(np.isnan(x) | np.isinf(x), 0, magnitude | ((x < 0) & (magnitude > 0)) << 3).astype(np.uint8)


def unpack(parts: Parts, name: str, dtype: Any = np.float32, prefix: str = "w") -> Array:
    """Decode to (..., N, K) of `dtype`, f32 or f64, in arithmetic of that type.

    fp8: code * scale. int8, int4: s * q + b, always rounded to f32. mxfp8, mxfp4: code * e8m0.
    nvfp4: code * (e4m3 * tensor_scale).

    Raises:
        ValueError: unknown format.
    """
    fmt = format_of(name)
    codes = parts[prefix]
    if fmt.scales is None:
        return (bf16_to_f32(codes) if name == "bf16" else codes).astype(dtype)
    # The largest e8m0 scales overflow f32, as they do in every kernel.
    with np.errstate(over="ignore", invalid="ignore"):
        return _decode(codes.view(np.uint8), fmt, parts, dtype, prefix)


def _decode(raw: Array, fmt: Format, parts: Parts, dtype: Any, prefix: str) -> Array:
    scales = parts[f"{prefix}_scales"]
    table = (np.arange(256) if fmt.biases else E4M3) if fmt.bits == 8 else (np.arange(16) if fmt.biases else E2M1)
    table = table.astype(np.float32 if fmt.biases else dtype)
    shape = (*raw.shape[:-1], raw.shape[-1] * 8 // fmt.bits)
    w = (table if fmt.bits == 8 else table[_NIBBLES])[raw].reshape(shape)
    if not fmt.group:
        w *= scales[..., None]
        return w
    w = w.reshape(*scales.shape, fmt.group)
    if fmt.biases:
        w *= scales.astype(np.float32)[..., None]
        w += parts[f"{prefix}_biases"].astype(np.float32)[..., None]
    elif fmt.tensor_scale:
        whole = parts[f"{prefix}_tensor_scale"].reshape(*scales.shape[:-2], 1, 1)
        w *= (E4M3.astype(dtype)[scales] * whole)[..., None]
    else:
        w *= E8M0.astype(dtype)[scales][..., None]
    return w.reshape(shape).astype(dtype, copy=False)
