# SPDX-License-Identifier: MIT
"""Triton kernels on NVIDIA and AMD GPUs: kernels/*.py through torch."""

from __future__ import annotations

import importlib.util
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from roofbench import sources
from roofbench.backends.base import Backend, Call, Claim, Launch
from roofbench.backends.gpu import Gpu, GpuTelemetry, GraphClock, put
from roofbench.devices import Device
from roofbench.formats import Array
from roofbench.numerics import Limit
from roofbench.ops import OPS
from roofbench.ops.probe import KINDS, PEAKS
from roofbench.telemetry import Telemetry
from roofbench.timing import Clock

_MOE = ("bf16", "int4", "mxfp4")  # formats of gemv_moe
_PRODUCTS = ("gemv", "gemv_moe", "gemm")


class Triton(Backend):
    """Args: gpu: another than the first of torch.cuda."""

    name = "triton"
    heading = "Triton"
    accelerator = True
    warmup_s = 0.2

    def __init__(self, gpu: Gpu | None = None) -> None:
        self._gpu = gpu or Gpu()

    def missing(self) -> str | None:
        if not importlib.util.find_spec("triton"):
            return "triton is not installed: pip install triton"
        return self._gpu.missing()

    def claim(self, op: str, format: str) -> Claim | str:
        if op == "gemv_moe" and format not in _MOE:
            return f"gemv_moe is written for {', '.join(_MOE)}"
        try:
            source = sources.find(OPS[op].stem(format), ".py")
        except FileNotFoundError:
            return f"kernels/ has no {OPS[op].stem(format)}.py"
        return Claim(self._limit(op, format), source)

    def _limit(self, op: str, format: str) -> Callable[[Mapping[str, int]], Limit]:
        if op not in _PRODUCTS:
            return lambda _: Limit(0)

        def limit(dims: Mapping[str, int]) -> Limit:
            """By the file's own `limit`, chain and unit roundoff, or its `chain` of f32 sums."""
            module = _module(OPS[op].stem(format))
            declared = getattr(module, "limit", module.chain)
            takes = inspect.signature(declared).parameters
            known = {**dims, "format": format, "chip": self._gpu.chip(), "w8a8": format.endswith("_w8a8")}
            found = declared(**{name: value for name, value in known.items() if name in takes})
            return Limit(*found) if isinstance(found, tuple) else Limit(int(found))

        return limit

    def bind(self, op: str, format: str, dims: Mapping[str, int], arrays: Mapping[str, Array]) -> Launch:
        return self.bind_all(op, format, dims, [arrays])[0]

    def bind_all(
        self, op: str, format: str, dims: Mapping[str, int], sets: Sequence[Mapping[str, Array]]
    ) -> list[Launch]:
        claim = self.claim(op, format)
        if isinstance(claim, str):
            raise ValueError(f"{op} {format}: {claim}")  # noqa: TRY004 - a sentence is a reason
        stem, kind = OPS[op].stem(format), KINDS[dims.get("kind", 0)]
        options: dict[str, Any] = {"hnd": bool(dims["hnd"])} if op == "kv_gather" else {}
        if op == "probe":
            options["config"] = self._ways(kind, format)[dims.get("variant", 0)]
            options |= {"n": dims["n"]} if kind in PEAKS else {}
        launcher = getattr(_module(stem), f"probe_{kind}" if op == "probe" else stem)

        def bind(tensors: Mapping[str, Any]) -> Call:
            return lambda: launcher(**tensors, **options)

        return list(put(self._gpu, sets, bind))

    def clock(self) -> Clock:
        return GraphClock(self._gpu)

    def telemetry(self) -> Telemetry:
        return GpuTelemetry(self._gpu)

    def last_level_cache(self, device: Device | None) -> int:
        """What the driver says, or the catalogue's where that is more: the system's cache of an iGPU."""
        of_catalogue = device.llc_bytes if device and device.kind == "gpu" else None
        return max(int(self._gpu.properties().L2_cache_size), of_catalogue or 0)

    def free_memory(self) -> int | None:
        return self._gpu.free_memory()

    def probe_sizes(self, cold_bytes: int) -> tuple[int, int]:
        return min(max(cold_bytes // 4, 256 << 20), 2 << 30), 4096 * int(_module("probe").GRANULE)

    def probe_variants(self, kind: str, format: str) -> dict[str, dict[str, int]]:
        return {_words(way): {"variant": i} for i, way in enumerate(self._ways(kind, format))}

    def floor(self) -> Call:
        arrays = {"a": np.zeros(16, np.float32)}
        return self.bind("probe", "f32", {"kind": KINDS.index("write"), "n": 16}, arrays)

    def _ways(self, kind: str, format: str) -> list[Any]:
        return list(_module("probe").variants(kind, format, self._gpu.chip()))


def _words(config: Any) -> str:
    """A configuration as messages name it: ``BLOCK 1024, warps 4``."""
    return ", ".join(f"{name.removeprefix('num_')} {value}" for name, value in config._asdict().items())


@cache
def _module(stem: str) -> ModuleType:
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # Triton 3.10 turns it off
    return sources.load_module(sources.find(stem, ".py"))
