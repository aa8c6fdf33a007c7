# SPDX-License-Identifier: MIT
"""Products by MLX, on copies of our arrays in its own memory: what its rivals on CPUs and GPUs share."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from roofbench.formats import DTYPES, FORMATS, Array

SERVED = ("f32", "f16", "bf16", "int8", "int4", "mxfp8", "mxfp4")  # it knows no tensor scale of nvfp4


def core() -> Any:
    """mlx.core; None where it cannot be imported."""
    os.environ.setdefault("MLX_ENABLE_TF32", "0")  # f32 is f32
    try:
        import mlx.core
    except ImportError:
        return None
    return mlx.core


def matrices(arrays: Mapping[str, Array]) -> list[Array]:
    """x (M, K) and the parts of one stored (N, K), batches and a batch of one flattened away."""
    names = [name for name in ("x", "w", "w_scales", "w_biases") if name in arrays]
    return [arrays[name].reshape(-1, arrays[name].shape[-1]) for name in names]


def product(
    mx: Any, format: str, arrays: Sequence[Array], device: Any
) -> tuple[Callable[[], Any], Callable[[], dict[str, Array]]]:
    """One product of x (M, K) and the parts of a stored (N, K): what queues it and returns y, and the last y."""

    def copied(array: Array) -> Any:
        if array.dtype == DTYPES["bf16"]:
            return mx.view(mx.array(array.view(np.uint16)), mx.bfloat16, stream=device)
        return mx.array(array)

    x, w, *scales = (copied(array) for array in arrays)
    weights, kept = FORMATS[format], [None]
    options = {
        "group_size": weights.group,
        "bits": weights.bits,
        "mode": "affine" if weights.biases else format,
        "stream": device,
    }
    if not scales:
        w = mx.transpose(w, stream=device)
    mx.eval(x, w, *scales)

    def plain() -> Any:
        kept[0] = mx.matmul(x, w, stream=device)
        return kept[0]

    def quantized() -> Any:
        kept[0] = mx.quantized_matmul(x, w, *scales, transpose=True, **options)
        return kept[0]

    def outputs() -> dict[str, Array]:
        y: Any = kept[0]
        if y.dtype == mx.bfloat16:
            return {"y": np.array(mx.view(y, mx.uint16, stream=device)).view(DTYPES["bf16"])}
        return {"y": np.array(y)}

    return quantized if scales else plain, outputs


class EvalClock:
    """The host's, around a batch of products that are queued and then evaluated as one.

    Its resolution stands for what the wait for an empty batch takes: a batch lasts at least twenty of them.
    """

    name = "mlx.eval"

    def __init__(self, mx: Any, device: Any) -> None:
        self._mx, self._device = mx, device
        one = mx.ones(1)
        empty = sorted(self.run([lambda: mx.add(one, one, stream=device)]) for _ in range(30))
        self.resolution_s = empty[len(empty) // 2] / 5

    def run(self, calls: Sequence[Callable[[], object]]) -> float:
        start = time.perf_counter_ns()
        self._mx.eval([call() for call in calls])
        self._mx.synchronize(self._mx.default_stream(self._device))
        return (time.perf_counter_ns() - start) * 1e-9

    def now(self) -> float:
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def forget(self) -> None:
        pass
