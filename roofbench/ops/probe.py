# SPDX-License-Identifier: MIT
"""What the machine itself can do: streams of reads and writes, and multiply-adds. Other rows' roofs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from roofbench.models import Model
from roofbench.numerics import Exact, Expected, aligned
from roofbench.op import TYPES, Arg, Arrays, Case, Dims, Instance, Op, Traffic, check_sizes, instances_for

KINDS = ("read", "write", "copy", "triad", "fma", "matrix")
STREAMS, PEAKS = KINDS[:4], KINDS[4:]

_U64, _F32, _I64 = np.dtype(np.uint64), np.dtype(np.float32), np.dtype(np.int64)
FASTER = {"f32": 1, "f16": 8, "bf16": 8, "fp8": 16}  # about, than f32: how much more work takes as long
PEAK_TASK = 16 * 120 * 1024  # multiply-adds that one thread of a CPU does at a time


class Probe(Op):
    """One case per kind, with ``kind`` its index in `KINDS` and n elements or multiply-adds.

    read: ``sum = a[0] + ... + a[n - 1]`` modulo 2^64, a (n,) u64. write: ``a = 1``, a (n,) f32.
    copy: ``b = a``. triad: ``a = b + 3 c``. fma, matrix: n multiply-adds, each of which adds 1 to
    ``count`` (1,) i64, in registers or as outer products from the nearest cache. matrix has a case for each type
    of operands: a product's roof is the one of its activations' type.
    """

    name = "probe"

    def cases(self, model: Model, suite: str) -> Iterator[Case]:
        yield from ()  # probes belong to no model: see `probes`

    def signature(self, format: str, dims: Mapping[str, int]) -> dict[str, Arg]:
        self.types(format)
        check_sizes(dims, n=1)
        n, kind = (dims["n"],), KINDS[dims["kind"]]
        return {
            "read": {"a": Arg(n, _U64), "sum": Arg((1,), _U64, "out")},
            "write": {"a": Arg(n, _F32, "out")},
            "copy": {"a": Arg(n, _F32), "b": Arg(n, _F32, "out")},
            "triad": {"a": Arg(n, _F32, "out"), "b": Arg(n, _F32), "c": Arg(n, _F32)},
            "fma": {"count": Arg((1,), _I64, "out")},
            "matrix": {"count": Arg((1,), _I64, "out")},
        }[kind]

    def infer(self, format: str, arrays: Mapping[str, Any]) -> Dims:
        raise ValueError("probe takes its sizes from its case: it has no arrays of a caller's")

    def traffic(self, case: Case) -> Traffic:
        if KINDS[case.dims["kind"]] in PEAKS:
            return Traffic(0, 0)
        signature = self.signature(case.format, case.dims)
        large = [arg for arg in signature.values() if arg.shape != (1,)]
        return Traffic(
            sum(arg.nbytes for arg in large if arg.role == "in"),
            sum(arg.nbytes for arg in large if arg.role == "out"),
        )

    def flops(self, case: Case) -> int:
        return 2 * case.dims["n"] if KINDS[case.dims["kind"]] in PEAKS else 0

    def problem(self, case: Case, seed: int, cold_bytes: int) -> list[Instance]:
        count = instances_for(self.traffic(case).bytes, cold_bytes)
        return [self._instance(case, seed + i) for i in range(count)]

    def _instance(self, case: Case, seed: int) -> Instance:
        rng = np.random.default_rng(seed)
        arrays = {}
        for name, arg in self.signature(case.format, case.dims).items():
            arrays[name] = aligned(arg.shape, arg.dtype, align=4096)
            if arg.role == "in" and arg.dtype == _U64:
                arrays[name][...] = rng.integers(0, 1 << 63, arg.shape, np.uint64)
            elif arg.role == "in":
                arrays[name][...] = rng.integers(-1000, 1000, arg.shape, np.int32)  # whole numbers: sums are exact
        return _Instance(arrays, self.reference(case.format, {**arrays, "n": case.dims["n"]}))

    def reference(self, format: str, arrays: Mapping[str, Any], *, random: bool = True) -> dict[str, Expected]:
        if "sum" in arrays:
            return {"sum": Exact(arrays["a"].sum(dtype=np.uint64, keepdims=True))}
        if "count" in arrays:
            return {"count": Exact(np.array([arrays["n"]], np.int64))}
        if "c" in arrays:
            return {"a": Exact(arrays["b"] + np.float32(3) * arrays["c"])}
        if "b" in arrays:
            return {"b": Exact(arrays["a"].copy())}
        return {"a": Exact(np.ones_like(arrays["a"]))}


class _Instance(Instance):
    def __init__(self, arrays: Arrays, known: dict[str, Expected]) -> None:
        super().__init__(arrays)
        self._known = known

    def expect(self) -> dict[str, Expected]:
        return self._known


def kind_of(case: Case) -> str:
    """One of `KINDS`."""
    return KINDS[case.dims["kind"]]


def probes(nbytes: int, multiply_adds: int) -> Iterator[Case]:
    """One case per kind, and type of matrix: streams that move `nbytes` a launch, peaks of so many multiply-adds.

    Backends have variants of those that they can run.
    """
    per_element = {"read": 8, "write": 4, "copy": 8, "triad": 12}
    for kind, name in enumerate(KINDS):
        n = multiply_adds if name in PEAKS else nbytes // per_element[name] // 4096 * 4096
        for format in TYPES["probe"] if name == "matrix" else ("f32",):
            case = name if format == "f32" else f"{name}_{format}"
            yield Case("probe", format, case, {"kind": kind, "n": n * FASTER[format]})
