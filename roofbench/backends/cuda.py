# SPDX-License-Identifier: MIT
"""CUDA kernels on NVIDIA GPUs: csrc/*.cu, compiled by nvcc at first use, through cffi."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from roofbench import sources
from roofbench.backends.base import Call, Claim, Launch
from roofbench.backends.gpu import Gpu, GpuBackend, put
from roofbench.cuda_build import Builder, Nvcc
from roofbench.formats import Array
from roofbench.numerics import Limit
from roofbench.op import TYPES, dtype_of
from roofbench.ops import OPS
from roofbench.ops.probe import KINDS

# Longest chains of additions, as the files declare them.
_CHAIN: dict[str, Callable[[Mapping[str, int]], int]] = {
    "gemv": lambda d: d["K"] // 4 + 512 + 8,
    "gemv_moe": lambda d: d["K"] // 4 + 512 + 8,
    "gemm": lambda d: d["K"] + d["K"] // 16,
}
GRANULE = 1 << 20  # multiply-adds: whole steps of every variant of probe.cu


class Cuda(GpuBackend):
    """Args: gpu: another than the first of torch.cuda. builder: another than nvcc."""

    name = "cuda"
    heading = "CUDA"

    def __init__(self, gpu: Gpu | None = None, builder: Builder | None = None) -> None:
        super().__init__(gpu)
        self._builder = builder or Nvcc()
        self._libraries: dict[str, Any] = {}

    def missing(self) -> str | None:
        reason = self._gpu.missing() or self._builder.missing()
        if reason:
            return reason
        return None if self._gpu.chip().startswith("sm_") else f"{self._gpu.chip()} is not an NVIDIA GPU"

    def claim(self, op: str, format: str) -> Claim | str:
        if _launcher(op, format) not in prototypes():
            return f"there is no CUDA kernel for {op} {format}"
        source = sources.find(OPS[op].stem(format), ".cu")

        def limit(dims: Mapping[str, int]) -> Limit:
            if format == "fp8_w8a8" and self._gpu.chip() == "sm_89":
                return Limit(1, 2.0**-11)  # an estimate: its fp8 units keep fewer bits of sums
            return Limit(_CHAIN[op](dims) if op in _CHAIN else 0)

        return Claim(limit, source)

    def bind(self, op: str, format: str, dims: Mapping[str, int], arrays: Mapping[str, Array]) -> Launch:
        return self.bind_all(op, format, dims, [arrays])[0]

    def bind_all(
        self, op: str, format: str, dims: Mapping[str, int], sets: Sequence[Mapping[str, Array]]
    ) -> list[Launch]:
        claim = self.claim(op, format)
        if isinstance(claim, str):
            raise ValueError(f"{op} {format}: {claim}")  # noqa: TRY004 - a sentence is a reason
        name = f"rb_cuda_probe_{_probe(KINDS[dims['kind']], format)}" if op == "probe" else _launcher(op, format)
        source = sources.find(OPS[op].stem(format), ".cu")
        function = getattr(self._library(source), name)
        sizes = {"variant": 0, "itemsize": dtype_of(TYPES[op][format].x).itemsize, **dims}
        names = prototypes()[name]

        def bind(tensors: Mapping[str, Any]) -> Call:
            tables = {arg: _table(tensors[arg]) for kind, arg in names if kind == "void *const *"}
            values = [
                self._ffi.cast("void *", tables.get(arg, tensors[arg]).data_ptr()) if "*" in kind else sizes[arg]
                for kind, arg in names[:-1]
            ]

            def call() -> object:
                kept = tables  # noqa: F841 - alive as long as the call
                code = function(*values, self._ffi.cast("void *", self._gpu.stream()))
                if code:
                    raise self._refusal(source, name, names, code, values)
                return None

            return call

        return list(put(self._gpu, sets, bind))

    @cached_property
    def _ffi(self) -> Any:
        import cffi

        ffi = cffi.FFI()
        ffi.cdef(sources.build_ffi().declarations(sources.build_ffi().CUDA_HEADER))
        return ffi

    def probe_sizes(self, cold_bytes: int) -> tuple[int, int]:
        return min(max(cold_bytes // 4, 256 << 20), 2 << 30), 4096 * GRANULE

    def probe_variants(self, kind: str, format: str) -> dict[str, dict[str, int]]:
        name = _probe(kind, format)
        if f"rb_cuda_probe_{name}" not in prototypes():
            return {}
        library, found = self._library(sources.find("probe", ".cu")), dict[str, dict[str, int]]()
        while (words := library.rb_cuda_probe_variant(name.encode(), len(found))) != self._ffi.NULL:
            found[self._ffi.string(words).decode()] = {"variant": len(found)}
        return found

    def floor(self) -> Call:
        launch = self._library(sources.find("probe", ".cu")).rb_cuda_probe_launch
        return lambda: launch(self._ffi.cast("void *", self._gpu.stream()))

    def _library(self, source: Path) -> Any:
        if source.stem not in self._libraries:
            self._libraries[source.stem] = self._ffi.dlopen(str(self._builder.build(source, self._gpu.chip())))
        return self._libraries[source.stem]

    def _refusal(
        self, source: Path, name: str, names: list[tuple[str, str]], code: int, values: list[Any]
    ) -> Exception:
        if code > 0:
            return RuntimeError(f"{name}: {self._builder.explain(source, code)}")
        if code < -len(names):
            return RuntimeError(f"{name} returned {code}, which means nothing")
        kind, argument = names[-code - 1]
        value = "" if "*" in kind else f" = {values[-code - 1]}"
        return ValueError(f"{name} refuses {argument}{value}")


@cache
def prototypes() -> dict[str, list[tuple[str, str]]]:
    """Launcher -> its (type, name) arguments."""
    found: dict[str, list[tuple[str, str]]] = sources.build_ffi().prototypes(sources.build_ffi().CUDA_HEADER)
    return found


def _probe(kind: str, format: str) -> str:
    """Matrix units are probed by format."""
    return f"{kind}_{format}" if kind == "matrix" else kind


def _launcher(op: str, format: str) -> str:
    """Formats that only move bits share one launcher, told apart by itemsize."""
    if op == "probe":
        return "rb_cuda_probe_read"
    types = TYPES[op][format]
    moved = types.acc is None and types.scale is None
    return f"rb_cuda_{op}" if moved else f"rb_cuda_{op}_{format}"


def _table(layers: Any) -> Any:
    """Addresses of the layers of a tensor, on its device."""
    import torch

    return torch.tensor([layer.data_ptr() for layer in layers], dtype=torch.int64, device=layers.device)
