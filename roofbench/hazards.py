# SPDX-License-Identifier: MIT
"""Small, awkward problems that find bugs: sizes by op, contents by kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from roofbench import formats, numerics
from roofbench.formats import Array
from roofbench.numerics import Expected
from roofbench.op import Arrays, Dims
from roofbench.ops import OPS

KINDS = ("random", "cancelling", "extreme", "special")
GEMV_TILE, GEMM_TILE, CHUNK = 16, 64, 1024  # rows of a task, tokens of a block, weights of a step: csrc/*.c


def _multiples(format: str, *ks: int) -> list[int]:
    """Each K, rounded up to what a format's group allows; duplicates dropped."""
    weights = formats.FORMATS[format.split("_", maxsplit=1)[0]]
    step = weights.group or 1
    return sorted({-(-k // step) * step for k in ks})


def sizes(op: str, format: str) -> Iterator[Dims]:
    """Sizes around the edges of tiles and vectors, smaller than one of each, and empty."""
    if op == "gemv":
        for k in _multiples(format, 1, 15, 16, 17, 62, 66, CHUNK - 2, CHUNK, CHUNK + 2, 2 * CHUNK + 66):
            yield {"M": 1, "N": 5, "K": k}
        for n in (1, GEMV_TILE - 2, GEMV_TILE, GEMV_TILE + 2, 3 * GEMV_TILE + 1):
            yield {"M": 2, "N": n, "K": 192}
        for m in range(1, 17):
            yield {"M": m, "N": 3, "K": 64}
        yield from ({"M": 0, "N": 3, "K": 64}, {"M": 2, "N": 0, "K": 64}, {"M": 2, "N": 3, "K": 0})
    elif op == "gemv_moe":
        base = {"M": 3, "N": 18, "K": 192, "E": 5, "top_k": 2, "x_slots": 1}
        yield from ({**base, "x_slots": 2}, {**base, "E": 1, "top_k": 1}, {**base, "M": 16, "N": 1})
        for k in _multiples(format, 1, 17, CHUNK + 2):
            yield {**base, "K": k}
        yield from ({**base, "M": 0}, {**base, "N": 0}, {**base, "K": 0})
    elif op == "gemm":
        base = {"B": 1, "M": 5, "N": 18, "K": 192, "w_batch": 1}
        for k in _multiples(format, 1, 15, 17, 510, 512, 514):
            yield {**base, "K": k}
        for m in (1, 2, GEMM_TILE - 2, GEMM_TILE, GEMM_TILE + 2):
            yield {**base, "M": m}
        for n in (1, 3, 14, 16):
            yield {**base, "N": n}
        yield from ({**base, "B": 3}, {**base, "B": 3, "w_batch": 3, "M": 130}, {**base, "B": 2, "M": 17})
        yield from ({**base, "B": 0}, {**base, "M": 0}, {**base, "N": 0}, {**base, "K": 0})
    elif op in ("kv_append", "kv_gather"):
        base = {"num_tokens": 19, "num_heads": 3, "head_size": 20, "num_blocks": 7, "block_size": 4}
        sizes = [base, {**base, "num_tokens": 0}, {**base, "num_tokens": 1}, {**base, "head_size": 1}]
        sizes += [{**base, "head_size": d, "num_heads": h} for d in (15, 16, 17, 127, 128) for h in (1, 2)]
        sizes += [{**base, "block_size": 1, "num_blocks": 40}]
        for one in sizes:
            yield from [{**one, "hnd": hnd} for hnd in (0, 1)] if op == "kv_gather" else [one]
    else:
        base = {"num_layers": 3, "num_blocks": 9, "block_size": 4, "num_heads": 2, "head_size": 5, "num_pairs": 4}
        yield from (base, {**base, "num_pairs": 0}, {**base, "num_layers": 0}, {**base, "num_layers": 1})
        yield {**base, "head_size": 128, "num_pairs": 1}


def inputs(op: str, format: str, dims: Mapping[str, int], rng: np.random.Generator, kind: str = "random") -> Arrays:
    """Arrays of a call in aligned memory between guards, outputs poisoned.

    kind: ``random``; ``cancelling``: sums that nearly vanish; ``extreme``: largest codes, smallest and
    largest scales, zeros of both signs; ``special``: NaN and infinities.
    """
    contract = OPS[op]
    signature = contract.signature(format, dims)
    arrays = {}
    for name, arg in signature.items():
        arrays[name] = numerics.aligned(arg.shape, arg.dtype)
        numerics.poison(arrays[name])
    if op.startswith("kv_"):
        _fill_cache(op, dims, arrays, rng, kind)
        return arrays
    types = contract.types(format)
    x_shape = signature["x"].shape
    if "x_scales" in signature:
        x_shape = (dims["B"], dims["M"], dims["K"])
    lead = {"gemv": (), "gemv_moe": (dims.get("E", 1),), "gemm": (dims.get("w_batch", 1),)}[op]
    x, w = _values(rng, x_shape, kind), _values(rng, (*lead, dims["N"], dims["K"]), kind)
    if kind == "cancelling" and dims["K"] >= 2:
        half = dims["K"] // 2
        x[..., half : 2 * half] = x[..., :half]
        w[..., half : 2 * half] = -w[..., :half]
    _store(arrays, "w", types.w, types.x if types.x in ("f32", "f16", "bf16") else types.y, w, rng, kind)
    if "x_scales" in signature:
        _store(arrays, "x", types.x, types.y, x, rng, kind)
    else:
        arrays["x"][...] = x
    if op == "gemv_moe":
        ids = arrays["expert_ids"]
        ids[...] = rng.integers(0, dims["E"], ids.shape)
    return arrays


def _values(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> Array:
    out = rng.standard_normal(shape).astype(np.float32)
    if kind == "extreme":
        out *= rng.choice([1e-4, 1.0, 64.0], shape).astype(np.float32)
        out[rng.random(shape) < 0.2] = -0.0
    return out


def _store(
    arrays: Arrays, prefix: str, format: str, x: str, values: Array, rng: np.random.Generator, kind: str
) -> None:
    if values.size == 0:
        for name in arrays:
            if name.startswith(prefix):
                arrays[name][...] = 0
        return
    parts = formats.pack(values, format, x)
    for key, part in parts.items():
        arrays[key.replace("w", prefix, 1)][...] = part
    codes, scales = arrays[prefix], arrays.get(f"{prefix}_scales", arrays[prefix])
    if kind == "extreme":
        raw = codes.view(np.uint8)
        pick = rng.random(raw.shape) < 0.3
        if format in ("fp8", "mxfp8"):
            raw[pick] = rng.choice([0x7E, 0xFE, 0x01, 0x81, 0x80, 0x00], pick.sum())  # +-448, +-2^-9, -0, 0
        elif format in ("mxfp4", "nvfp4"):
            raw[pick] = rng.choice([0x77, 0xFF, 0x7F, 0x80, 0x18], pick.sum())  # +-6, -0, +-0.5
        subnormal = {"fp8": [1, 7, 0x81, 0x87], "mxfp8": [1, 7, 0x81, 0x87], "mxfp4": [0x19], "nvfp4": [0x19]}
        if format in subnormal:  # rows of nothing else, where they count
            raw[..., ::3, :] = rng.choice(subnormal[format], raw[..., ::3, :].shape)
        if format.startswith("mx"):
            scales[...] = rng.choice([0, 1, 127, 140, 180], scales.shape)  # 2^-127 ... 2^53
        elif format == "nvfp4":
            scales[...] = rng.choice([0x7E, 0x01, 0x38, 0x00], scales.shape)
    elif kind == "special":
        if format in ("f32", "f16", "bf16"):
            some = rng.random(codes.shape)
            codes[some < 0.02] = np.nan
            codes[(some > 0.02) & (some < 0.03)] = np.inf
            codes[(some > 0.03) & (some < 0.04)] = -np.inf
        elif format in ("fp8", "mxfp8"):
            raw = codes.view(np.uint8)
            raw[rng.random(raw.shape) < 0.01] = 0x7F
        elif format == "mxfp4":
            scales[rng.random(scales.shape) < 0.05] = 255
        elif format == "nvfp4":
            scales[rng.random(scales.shape) < 0.05] = 0x7F


def _fill_cache(op: str, dims: Mapping[str, int], arrays: Arrays, rng: np.random.Generator, kind: str) -> None:
    for name, array in arrays.items():
        if name.endswith("_scale_inv"):
            array[...] = rng.choice([1, 64]) if kind == "extreme" else rng.uniform(0.5, 300)  # ties need a power of 2
        elif name == "slot_mapping":
            slots = dims["num_blocks"] * dims["block_size"]
            array[...] = rng.choice(slots, array.size, replace=False)
            array[rng.random(array.size) < 0.2] = -1 - rng.integers(0, 5)
        elif name == "block_mapping":
            array[...] = rng.permutation(dims["num_blocks"])[: array.size].reshape(array.shape)
        elif op == "kv_gather" and name in ("key", "value"):
            continue
        else:
            raw = array.view(np.uint8)
            raw[...] = rng.integers(0, 256, raw.shape, np.uint8)  # every bit pattern, NaN among them
            if kind == "random" and array.dtype.itemsize > 1:
                array[...] = rng.standard_normal(array.shape)


def expected(op: str, format: str, arrays: Arrays, kind: str) -> dict[str, Expected]:
    """What outputs must hold after a launch on `inputs` of that kind."""
    return OPS[op].reference(format, arrays, random=kind == "random")
