# SPDX-License-Identifier: MIT
"""Other implementations of an op, to be timed beside ours: torch, memcpy. Each is optional."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from roofbench.formats import DTYPES, Array
from roofbench.op import Case

Call = Callable[[], object]


class Bound(NamedTuple):
    """A rival on one set of arrays: a launch, and its outputs as NumPy, in memory of its own."""

    call: Call
    outputs: Callable[[], dict[str, Array]]


class Rival(ABC):
    """One library on one kind of device."""

    name: ClassVar[str]
    module: ClassVar[str]
    install: ClassVar[str]

    def missing(self) -> str | None:
        """The line that installs it; None where it is installed."""
        return None if importlib.util.find_spec(self.module) else self.install

    @abstractmethod
    def bind(self, case: Case, buffers: Sequence[Mapping[str, Array]]) -> list[Bound]:
        """Ready to be launched on each of the rotated inputs; empty where the library has no such operation."""


class TorchCpu(Rival):
    """torch on CPU tensors: MKL and oneDNN, and torch's own int4 kernel. Tensors share our inputs."""

    name = "torch"
    module = "torch"
    install = "make bench RIVALS=1, or pip install torch"

    def bind(self, case: Case, buffers: Sequence[Mapping[str, Array]]) -> list[Bound]:
        if case.op in ("gemv", "gemm") and case.format == "int4" and case.dims.get("w_batch", 1) == 1:
            return _torch_int4(buffers)
        make = {"gemv": _torch_product, "gemm": _torch_product, "gemv_moe": _torch_experts}.get(case.op)
        if case.op == "kv_append":
            make = _torch_append
        if case.op == "kv_gather" and not case.dims["hnd"]:
            make = _torch_gather
        if make is None or case.format not in ("f32", "f16", "bf16"):
            return []
        return [make({name: _tensor(array) for name, array in arrays.items()}) for arrays in buffers]


class Memcpy(Rival):
    """The C library's memcpy, one thread, of the bytes that a KV op reads, from one run of memory to another."""

    name = "memcpy"
    module = "numpy"
    install = ""

    def bind(self, case: Case, buffers: Sequence[Mapping[str, Array]]) -> list[Bound]:
        if case.op not in ("kv_append", "kv_gather") or case.types.scale:
            return []
        names = {"kv_append": ("key", "value"), "kv_gather": ("key_cache", "value_cache")}[case.op]
        elements = case.dims["num_tokens"] * case.dims["num_heads"] * case.dims["head_size"]

        def bound(arrays: Mapping[str, Array]) -> Bound:
            runs = [arrays[name].reshape(-1)[:elements].view(np.uint8) for name in names]
            pairs = [(run, np.zeros_like(run)) for run in runs]

            def copy() -> None:
                for src, dst in pairs:
                    np.copyto(dst, src)

            return Bound(copy, dict)

        return [bound(arrays) for arrays in buffers]


RIVALS: dict[str, tuple[Rival, ...]] = {"cpu": (TorchCpu(), Memcpy())}


def _tensor(array: Array) -> Any:
    import torch

    if array.dtype == DTYPES["bf16"]:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _array(tensor: Any) -> Array:
    import torch

    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.int16)
        out: Array = tensor.numpy().view(DTYPES["bf16"])
        return out
    array: Array = tensor.numpy()
    return array


def _torch_product(t: dict[str, Any]) -> Bound:
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


def _torch_experts(t: dict[str, Any]) -> Bound:
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


def _torch_append(t: dict[str, Any]) -> Bound:

    caches = {name: t[f"{name}_cache"].clone() for name in ("key", "value")}
    flat = {name: cache.view(-1, *cache.shape[2:]) for name, cache in caches.items()}
    for cache in flat.values():
        cache.index_fill_(0, t["slot_mapping"], 0)

    def append() -> None:
        for name, cache in flat.items():
            cache.index_copy_(0, t["slot_mapping"], t[name])

    return Bound(append, lambda: {f"{name}_cache": _array(cache) for name, cache in caches.items()})


def _torch_gather(t: dict[str, Any]) -> Bound:
    import torch

    out = {name: torch.empty_like(t[name]) for name in ("key", "value")}

    def gather() -> None:
        for name, y in out.items():
            cache = t[f"{name}_cache"]
            torch.index_select(cache.view(-1, *cache.shape[2:]), 0, t["slot_mapping"], out=y)

    return Bound(gather, lambda: {name: _array(y) for name, y in out.items()})
