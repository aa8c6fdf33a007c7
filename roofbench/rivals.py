# SPDX-License-Identifier: MIT
"""Other implementations of an op, to be timed beside ours: torch, MLX, memcpy. Each is optional."""

from __future__ import annotations

import importlib.util
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from roofbench import mlx_
from roofbench.formats import DTYPES, Array
from roofbench.op import Case
from roofbench.ops import op_of
from roofbench.timing import Clock

Call = Callable[[], object]

_MOVED = {"kv_append": ("key", "value"), "kv_gather": ("key_cache", "value_cache")}  # what an op reads
MLX_LONGEST_S = 2.0  # of a launch: some of MLX's CPU kernels are plain loops
MLX_ROUNDS = 64  # of the rotation, in one batch at most
MLX_CACHE = 256 << 20  # bytes that it keeps for itself: outputs, not the weights of earlier rows


class Bound(NamedTuple):
    """A rival on one set of arrays: a launch, and its outputs as NumPy, in memory of its own.

    Args:
        clock: of the rival's own queue, where it is not the backend's.
    """

    call: Call
    outputs: Callable[[], dict[str, Array]]
    clock: Clock | None = None


class Rival(ABC):
    """One library on one kind of device. On a device, it shares the handles in `Launch.arrays`."""

    name: ClassVar[str]
    module: ClassVar[str]
    install: ClassVar[str]

    def missing(self) -> str | None:
        """The line that installs it; None where it is installed."""
        return None if importlib.util.find_spec(self.module) else self.install

    @abstractmethod
    def bind(self, case: Case, buffers: Sequence[Mapping[str, Array]]) -> list[Bound]:
        """Ready to be launched on each of the rotated inputs; empty where the library has no such operation,
        or none for such sizes."""


class TorchCpu(Rival):
    """torch on CPU tensors: MKL and oneDNN, and torch's own int4 kernel. Tensors share our inputs."""

    name = "torch"
    module = "torch"
    install = "make bench RIVALS=1, or pip install torch"

    def bind(self, case: Case, buffers: Sequence[Mapping[str, Array]]) -> list[Bound]:
        if _empty(case):
            return []
        if case.op in ("gemv", "gemm") and case.format == "int4" and case.dims.get("w_batch", 1) == 1:
            return _torch_int4(buffers) if case.dims["N"] % 16 == 0 else []
        make = _torch_op(case)
        if make is None:
            return []
        return [make({name: _tensor(array) for name, array in arrays.items()}) for arrays in buffers]


class TorchGpu(Rival):
    """torch on the device's own tensors: cuBLAS or hipBLASLt, and `torch._scaled_mm` for fp8."""

    name = "torch"
    module = "torch"
    install = "pip install torch"

    def bind(self, case: Case, buffers: Sequence[Mapping[str, Any]]) -> list[Bound]:
        if _empty(case):
            return []
        scaled = case.op == "gemm" and case.format == "fp8_w8a8" and case.dims["w_batch"] == 1
        make = _torch_scaled if scaled else _torch_op(case)
        return [make(tensors) for tensors in buffers] if make else []


class DeviceCopy(Rival):
    """The driver's copy from device to device, of the bytes that a KV op reads."""

    name = "memcpy"
    module = "torch"
    install = "pip install torch"

    def bind(self, case: Case, buffers: Sequence[Mapping[str, Any]]) -> list[Bound]:
        if case.op not in _MOVED or case.types.scale or _empty(case):
            return []
        elements = case.dims["num_tokens"] * case.dims["num_heads"] * case.dims["head_size"]
        if any(tensors[name].numel() < elements for tensors in buffers for name in _MOVED[case.op]):
            return []  # slots that are read more than once

        def bound(tensors: Mapping[str, Any]) -> Bound:
            runs = [tensors[name].reshape(-1)[:elements] for name in _MOVED[case.op]]
            pairs = [(run.new_empty(elements), run) for run in runs]

            def copy() -> None:
                for to, run in pairs:
                    to.copy_(run)

            return Bound(copy, dict)

        return [bound(tensors) for tensors in buffers]


class MlxCpu(Rival):
    """MLX on the CPU, on its own copies of our inputs, one for each: it cannot share a host's memory.

    So x stays what it was at the time of binding. The wheel for Linux brings the reference BLAS, and
    its int4 and int8 are the less exact the larger K is: too far off to be timed from about 8192 on.
    None of them takes nvfp4's tensor scale.
    """

    name = "mlx"
    module = "mlx"
    install = "pip install mlx" if sys.platform == "darwin" else "pip install 'mlx[cpu]'"

    def missing(self) -> str | None:
        return super().missing() or (None if mlx_.core() else self.install)  # on Linux, mlx alone has no library

    def bind(self, case: Case, buffers: Sequence[Mapping[str, Array]]) -> list[Bound]:
        mx = mlx_.core()
        if mx is None or not _mlx_has(case):
            return []
        matrices = [mlx_.matrices(arrays) for arrays in buffers]
        x, *parts = matrices[0]
        some = [x[:16], *(part[:64] for part in parts)]  # whose launch takes well under a second
        try:
            mx.clear_cache()  # memory of earlier rows
            trial = self._product(mx, case.format, some).call
            seconds = min(_seconds(trial) for _ in range(3))
        except (AttributeError, TypeError, ValueError, RuntimeError):
            return []  # this MLX is older than the format
        share = (len(some[0]) / len(x)) * (len(some[1]) / len(parts[0]))
        if seconds > MLX_LONGEST_S * share:
            return []
        return [self._product(mx, case.format, m) for m in matrices]

    def _product(self, mx: Any, format: str, arrays: Sequence[Array]) -> Bound:
        queue, outputs = mlx_.product(mx, format, arrays, mx.cpu)
        return Bound(lambda: mx.eval(queue()), outputs)


class MlxGpu(Rival):
    """MLX's CUDA build on the same GPU, on its own copies of our inputs, by its own clock: its queue is not ours.

    The clock waits for whole batches, so the rotation is gone around several times in one.
    """

    name = "mlx"
    module = "mlx"
    install = "pip install 'mlx[cuda]' (for NVIDIA's GPUs)"
    device = "gpu"

    def missing(self) -> str | None:
        if super().missing() or not (mx := mlx_.core()):
            return self.install
        there = hasattr(mx, "is_available") and mx.is_available(getattr(mx, self.device))
        return None if there else f"this mlx has no CUDA: {self.install}"

    def bind(self, case: Case, buffers: Sequence[Mapping[str, Any]]) -> list[Bound]:
        mx = mlx_.core()
        if mx is None or not _mlx_has(case):
            return []
        device = getattr(mx, self.device)
        mx.set_cache_limit(MLX_CACHE)
        clock = mlx_.EvalClock(mx, device)
        bound = []
        for tensors in buffers:
            arrays = {name: _array(tensor) for name, tensor in tensors.items() if name[0] in "xw"}
            queue, outputs = mlx_.product(mx, case.format, mlx_.matrices(arrays), device)
            bound.append(Bound(queue, outputs, clock))
        return bound * MLX_ROUNDS


class Memcpy(Rival):
    """The C library's memcpy, one thread, of the bytes that a KV op reads, from one run of memory to another."""

    name = "memcpy"
    module = "numpy"
    install = ""

    def bind(self, case: Case, buffers: Sequence[Mapping[str, Array]]) -> list[Bound]:
        if case.op not in _MOVED or case.types.scale or _empty(case):
            return []
        names = _MOVED[case.op]
        elements = case.dims["num_tokens"] * case.dims["num_heads"] * case.dims["head_size"]
        if any(arrays[name].size < elements for arrays in buffers for name in names):
            return []  # slots that are read more than once

        def bound(arrays: Mapping[str, Array]) -> Bound:
            runs = [arrays[name].reshape(-1)[:elements].view(np.uint8) for name in names]
            pairs = [(run, np.zeros_like(run)) for run in runs]

            def copy() -> None:
                for src, dst in pairs:
                    np.copyto(dst, src)

            return Bound(copy, dict)

        return [bound(arrays) for arrays in buffers]


_GPU: tuple[Rival, ...] = (TorchGpu(), MlxGpu(), DeviceCopy())
# MLX's wheel for Linux links a reference BLAS: nobody's rival.
RIVALS: dict[str, tuple[Rival, ...]] = {
    "cpu": (TorchCpu(), *([MlxCpu()] if sys.platform == "darwin" else []), Memcpy()),
    "triton": _GPU,
    "cuda": _GPU,
}


def _empty(case: Case) -> bool:
    """Whether one of its arrays has no elements: libraries differ in what they make of these."""
    return any(0 in arg.shape for arg in op_of(case.op).signature(case.format, case.dims).values())


def _mlx_has(case: Case) -> bool:
    """Whether MLX has such a product, with one w."""
    products = case.op in ("gemv", "gemm") and case.dims.get("w_batch", 1) == 1
    return products and case.format in mlx_.SERVED and not _empty(case)


def _seconds(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _tensor(array: Array) -> Any:
    import torch

    if array.dtype == DTYPES["bf16"]:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _array(tensor: Any) -> Array:
    import torch

    tensor = tensor.cpu()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.int16)
        out: Array = tensor.numpy().view(DTYPES["bf16"])
        return out
    array: Array = tensor.numpy()
    return array


def _torch_op(case: Case) -> Callable[[Mapping[str, Any]], Bound] | None:
    """torch's way to do a case on tensors of any device; None where it has none."""
    if case.format not in ("f32", "f16", "bf16"):
        return None
    if case.op == "kv_append":
        return _torch_append
    if case.op == "kv_gather":
        return None if case.dims["hnd"] else _torch_gather
    return {"gemv": _torch_product, "gemm": _torch_product, "gemv_moe": _torch_experts}.get(case.op)


def _torch_scaled(t: Mapping[str, Any]) -> Bound:
    """fp8 by fp8 with a scale for each row of either: cuBLASLt's, or CUTLASS's."""
    import torch

    x, w = t["x"].view(-1, t["x"].shape[-1]), t["w"][0]
    x_scales, w_scales = t["x_scales"].reshape(-1, 1), t["w_scales"].reshape(1, -1)
    kept: list[Any] = [None]

    def call() -> None:
        kept[0] = torch._scaled_mm(x, w.t(), x_scales, w_scales, out_dtype=torch.bfloat16)  # noqa: SLF001

    return Bound(call, lambda: {"y": _array(kept[0])})


def _torch_product(t: Mapping[str, Any]) -> Bound:
    import torch

    x, w, y = t["x"], t["w"], torch.empty_like(t["y"])
    if x.dim() == 2 and x.shape[0] == 1:
        return Bound(lambda: torch.mv(w, x[0], out=y[0]), lambda: {"y": _array(y)})
    if x.dim() == 2:
        return Bound(lambda: torch.mm(x, w.t(), out=y), lambda: {"y": _array(y)})
    if w.shape[0] == 1:
        flat, out = x.view(-1, x.shape[-1]), y.view(-1, y.shape[-1])
        return Bound(lambda: torch.mm(flat, w[0].t(), out=out), lambda: {"y": _array(y)})
    return Bound(lambda: torch.bmm(x, w.transpose(1, 2), out=y), lambda: {"y": _array(y)})


def _torch_experts(t: Mapping[str, Any]) -> Bound:
    """A loop of matrix-vector products: what a caller without a fused kernel does."""
    import torch

    x, w, y, ids = t["x"], t["w"], torch.empty_like(t["y"]), t["expert_ids"].tolist()
    visits = [
        (w[expert], x[m, j % x.shape[1]], y[m, j]) for m, experts in enumerate(ids) for j, expert in enumerate(experts)
    ]

    def loop() -> None:
        for expert, row, out in visits:
            torch.mv(expert, row, out=out)

    return Bound(loop, lambda: {"y": _array(y)})


def _torch_int4(buffers: Sequence[Mapping[str, Array]]) -> list[Bound]:
    """torch's weight-only int4 kernel, groups of 64. Its packing is its own; the first buffer's serves for all,
    in memory of its own for each: it is the addresses that must rotate."""
    import torch

    ops = torch.ops.aten
    if not hasattr(ops, "_weight_int4pack_mm_for_cpu"):
        return []
    first = {name: array[0] if array.ndim == 3 else array for name, array in buffers[0].items() if name[0] == "w"}
    raw = first["w"].view(np.uint8)
    codes = np.stack([raw & 15, raw >> 4], axis=-1).reshape(raw.shape[0], -1)
    packed = ops._convert_weight_to_int4pack_for_cpu(torch.from_numpy(codes.astype(np.int32)), 1)  # noqa: SLF001
    scale, bias = (first[name].astype(np.float32) for name in ("w_scales", "w_biases"))
    # s q + b = s (q - 8) + (b + 8 s)
    scales = torch.from_numpy(np.ascontiguousarray(np.stack([scale, bias + 8 * scale], axis=-1).swapaxes(0, 1)))
    scales = scales.to(torch.bfloat16)

    def bound(arrays: Mapping[str, Array]) -> Bound:
        x, weights, their_scales = _tensor(arrays["x"]), packed.clone(), scales.clone()
        flat = x.reshape(-1, x.shape[-1])
        kept: list[Any] = [None]

        def call() -> None:
            kept[0] = ops._weight_int4pack_mm_for_cpu(flat, weights, 64, their_scales)  # noqa: SLF001

        return Bound(call, lambda: {"y": _array(kept[0])})

    return [bound(arrays) for arrays in buffers]


def _torch_append(t: Mapping[str, Any]) -> Bound:

    caches = {name: t[f"{name}_cache"].clone() for name in ("key", "value")}
    flat = {name: cache.view(-1, *cache.shape[2:]) for name, cache in caches.items()}
    for cache in flat.values():
        cache.index_fill_(0, t["slot_mapping"], 0)

    def append() -> None:
        for name, cache in flat.items():
            cache.index_copy_(0, t["slot_mapping"], t[name])

    return Bound(append, lambda: {f"{name}_cache": _array(cache) for name, cache in caches.items()})


def _torch_gather(t: Mapping[str, Any]) -> Bound:
    import torch

    out = {name: torch.empty_like(t[name]) for name in ("key", "value")}

    def gather() -> None:
        for name, y in out.items():
            cache = t[f"{name}_cache"]
            torch.index_select(cache.view(-1, *cache.shape[2:]), 0, t["slot_mapping"], out=y)

    return Bound(gather, lambda: {name: _array(y) for name, y in out.items()})
