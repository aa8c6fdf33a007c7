# SPDX-License-Identifier: MIT
"""Triton kernels on NVIDIA and AMD GPUs: kernels/*.py through torch."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import metadata
from types import ModuleType
from typing import Any

import numpy as np

from roofbench import sources
from roofbench.backends.base import Call, Claim, Launch, Ways
from roofbench.backends.gpu import DeviceLaunch, GpuBackend, put
from roofbench.formats import FORMATS, Array
from roofbench.numerics import Limit
from roofbench.op import TYPES, dtype_of
from roofbench.ops import OPS
from roofbench.ops.probe import KINDS, PEAKS

_MOE = ("bf16", "int4", "mxfp4")  # formats of gemv_moe
_PRODUCTS = ("gemv", "gemv_moe", "gemm")
_LEAST = {"torch": (2, 10), "triton": (3, 6)}  # versions; one brings the other


class Triton(GpuBackend):
    name = "triton"
    heading = "Triton"

    def missing(self) -> str | None:
        if not importlib.util.find_spec("triton"):
            return "triton is not installed: pip install triton"
        return self._gpu.missing() or _too_old()

    def claim(self, op: str, format: str) -> Claim | str:
        if op == "gemv_moe" and format not in _MOE:
            return f"gemv_moe is written for {', '.join(_MOE)}"
        try:
            source = sources.find(self._stem(op, format), ".py")
        except FileNotFoundError:
            return f"kernels/ has no {OPS[op].stem(format)}.py"
        return Claim(self._limit(op, format), source)

    def _stem(self, op: str, format: str) -> str:
        """The file that serves a format, on this chip: where matrix instructions take scales, one that gives them."""
        stem = OPS[op].stem(format)
        scaled = stem == "gemm_mx" and format.endswith(("_w8a8", "_w4a4")) and self.missing() is None
        return "gemm_mx_scaled" if scaled and _module("gemm_mx_scaled").serves(self._gpu.chip()) else stem

    def _limit(self, op: str, format: str) -> Callable[[Mapping[str, int]], Limit]:
        if op not in _PRODUCTS:
            return lambda _: Limit(0)

        def limit(dims: Mapping[str, int]) -> Limit:
            """By the file's own `limit`, chain and unit roundoff, or its `chain` of f32 sums."""
            module = _module(self._stem(op, format))
            declared = getattr(module, "limit", module.chain)
            known = self._known(op, format, dims)
            if "variant" in dims:
                known["config"] = self._configs(op, format, dims)[dims["variant"]]
            found = _named(declared, known)
            return Limit(*found) if isinstance(found, tuple) else Limit(int(found))

        return limit

    def bind(self, op: str, format: str, dims: Mapping[str, int], arrays: Mapping[str, Array]) -> Launch:
        return self.bind_all(op, format, dims, [arrays])[0]

    def bind_all(
        self, op: str, format: str, dims: Mapping[str, int], sets: Sequence[Mapping[str, Array]]
    ) -> list[Launch]:
        launches = put(self._gpu, sets, self._binder(op, format, dims))
        path = getattr(_module(self._stem(op, format)), "path", None)
        for launch in launches:
            launch.path = _named(path, {**launch.arrays, **_options(op, dims)}) if path else None
        return list(launches)

    def again(self, launches: Sequence[Launch], op: str, format: str, dims: Mapping[str, int]) -> list[Launch]:
        bind = self._binder(op, format, dims)
        return [launch.again(bind(launch.arrays)) for launch in launches if isinstance(launch, DeviceLaunch)]

    def _binder(self, op: str, format: str, dims: Mapping[str, int]) -> Callable[[Mapping[str, Any]], Call]:
        claim = self.claim(op, format)
        if isinstance(claim, str):
            raise ValueError(f"{op} {format}: {claim}")  # noqa: TRY004 - a sentence is a reason
        stem, kind = self._stem(op, format), KINDS[dims.get("kind", 0)]
        options = _options(op, dims)
        if op != "probe" and "variant" in dims:
            options["config"] = self._configs(op, format, dims)[dims["variant"]]
        if op == "probe":
            options["config"] = self._ways(kind, format)[dims.get("variant", 0)]
            options |= {"n": dims["n"]} if kind in PEAKS else {}
            options |= {"format": format} if kind == "matrix" else {}
        launcher = getattr(_module(stem), f"probe_{kind}" if op == "probe" else stem)

        def bind(tensors: Mapping[str, Any]) -> Call:
            return lambda: launcher(**tensors, **options)

        return bind

    def ways(self, op: str, format: str, dims: Mapping[str, int]) -> Ways | None:
        claim = self.claim(op, format)
        if isinstance(claim, str) or not (configs := self._configs(op, format, dims)):
            return None
        module, known = _module(self._stem(op, format)), self._known(op, format, dims)
        if hasattr(module, "UNALIGNED") and known["K"] % 16:  # a launch takes that, whatever `pick_config` says
            return None
        pick = module.pick_config
        present, takes = _named(pick, known), inspect.signature(pick).parameters
        return Ways(
            f"kernels/{self._stem(op, format)}.py",
            known["chip"],
            {name: known[name] for name in takes if type(known.get(name)) is int},
            present._fields,
            _written(present),
            {_written(config): {"variant": i} for i, config in enumerate(configs) if config != present},
        )

    def _configs(self, op: str, format: str, dims: Mapping[str, int]) -> list[Any]:
        """Of the kernel's file, each once."""
        configs = getattr(_module(self._stem(op, format)), "configs", None)
        return list(dict.fromkeys(_named(configs, self._known(op, format, dims)))) if configs else []

    def _known(self, op: str, format: str, dims: Mapping[str, int]) -> dict[str, Any]:
        """What functions of kernel files ask for, by the names that they have there."""
        types = TYPES[op][format]
        coded = format.endswith(("_w8a8", "_w4a4"))
        known: dict[str, Any] = {**dims, "format": format, "chip": self._gpu.chip(), "x_codes": coded}
        known |= {
            "w8a8": format.endswith("_w8a8"),
            "itemsize": dtype_of(types.x).itemsize,
            "bits": FORMATS[types.w].bits,
        }
        if op == "gemm" and dims["w_batch"] == 1:  # one product of all rows
            known |= {"B": 1, "M": dims["B"] * dims["M"]}
        if op.startswith("kv_"):
            heads, size = dims["num_heads"], dims["head_size"]
            runs = heads if dims.get("hnd") else 1
            known |= {"runs": runs, "width": heads * size // runs}
        if op == "kv_copy_blocks":
            known["width"] *= dims["block_size"]
        return known

    def probe_sizes(self, cold_bytes: int) -> tuple[int, int]:
        return min(max(cold_bytes // 4, 256 << 20), 2 << 30), 4096 * int(_module("probe").GRANULE)

    def probe_variants(self, kind: str, format: str) -> dict[str, dict[str, int]]:
        return {_words(way): {"variant": i} for i, way in enumerate(self._ways(kind, format))}

    def floor(self) -> Call:
        arrays = {"a": np.zeros(16, np.float32)}
        return self.bind("probe", "f32", {"kind": KINDS.index("write"), "n": 16}, arrays)

    def _ways(self, kind: str, format: str) -> list[Any]:
        return list(_module("probe").variants(kind, format, self._gpu.chip()))


def _options(op: str, dims: Mapping[str, int]) -> dict[str, Any]:
    """What a launcher takes beside the contract's arrays."""
    return {"hnd": bool(dims["hnd"])} if op == "kv_gather" else {}


def _named(function: Callable[..., Any], known: Mapping[str, Any]) -> Any:
    """What it returns for those of the known values that it has parameters for."""
    takes = inspect.signature(function).parameters
    return function(**{name: value for name, value in known.items() if name in takes})


def _written(config: Any) -> str:
    """As its file has it: ``Config(128, 256, 64, 8, 4)``."""
    return f"{type(config).__name__}({', '.join(map(repr, config))})"


def _words(config: Any) -> str:
    """A configuration as messages name it: ``BLOCK 1024, warps 4``."""
    return ", ".join(f"{name.removeprefix('num_')} {value}" for name, value in config._asdict().items())


def _too_old() -> str | None:
    for name, least in _LEAST.items():
        version = _version(name)
        if (known := tuple(map(int, re.findall(r"\d+", version)[:2]))) and known < least:
            return f"{name} {version} is too old: pip install 'torch>=2.10', which brings Triton 3.6 or later"
    return None


@cache
def _version(name: str) -> str:
    """Of a module; AMD's packages have other names."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return str(getattr(importlib.import_module(name), "__version__", ""))


@cache
def _module(stem: str) -> ModuleType:
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # Triton 3.10 turns it off
    return sources.load_module(sources.find(stem, ".py"))
