# SPDX-License-Identifier: MIT
"""What a contract is: arguments, types, traffic, FLOPs, reference, cases.

Bytes, FLOPs and references live in `roofbench.ops` and nowhere else. Vocabulary: M tokens, N outputs,
K reduction, ``y (M, N) = x (M, K) @ w (N, K).T``; E experts, B batch; KV words are vLLM's.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from roofbench.formats import DTYPES, FORMATS, Array

if TYPE_CHECKING:
    from roofbench.models import Model
    from roofbench.numerics import Expected

Arrays = dict[str, Array]
Dims = dict[str, int]


@dataclass(frozen=True, slots=True)
class Types:
    """Types of one op x format.

    Args:
        w: storage of the large operand, a name of `FORMATS`: weights, or the cache of a KV op.
        x: type of the activations, or of what a KV op reads; a format where activations are quantised.
        y: type of the outputs, or of what a KV op writes.
        scale: type of the scales, as the table's reader wants it; the exact one is the format's.
        acc: type of the sums; None where bits are moved.
    """

    w: str
    x: str
    y: str
    scale: str | None
    acc: str | None


# The one table of types. Activations are quantised only in rows named W8A8 or W4A4.
_WEIGHT_ONLY = {
    #              w        x       y       scale   sums
    "f32": Types("f32", "f32", "f32", None, "f32"),
    "f16": Types("f16", "f16", "f16", None, "f32"),
    "bf16": Types("bf16", "bf16", "bf16", None, "f32"),
    "fp8": Types("fp8", "bf16", "bf16", "f32", "f32"),
    "int8": Types("int8", "bf16", "bf16", "bf16", "f32"),
    "int4": Types("int4", "bf16", "bf16", "bf16", "f32"),
    "mxfp8": Types("mxfp8", "bf16", "bf16", "e8m0", "f32"),
    "mxfp4": Types("mxfp4", "bf16", "bf16", "e8m0", "f32"),
    "nvfp4": Types("nvfp4", "bf16", "bf16", "e4m3", "f32"),
}
_QUANTISED_ACTIVATIONS = {
    "fp8_w8a8": Types("fp8", "fp8", "bf16", "f32", "f32"),
    "mxfp8_w8a8": Types("mxfp8", "mxfp8", "bf16", "e8m0", "f32"),
    "mxfp4_w4a4": Types("mxfp4", "mxfp4", "bf16", "e8m0", "f32"),
    "nvfp4_w4a4": Types("nvfp4", "nvfp4", "bf16", "e4m3", "f32"),
}
_MOVED = {name: Types(name, name, name, None, None) for name in ("f32", "f16", "bf16")}
TYPES: dict[str, dict[str, Types]] = {
    "gemv": _WEIGHT_ONLY,
    "gemv_moe": _WEIGHT_ONLY,
    "gemm": _WEIGHT_ONLY | _QUANTISED_ACTIVATIONS,
    "kv_append": _MOVED | {"fp8": Types("fp8", "bf16", "fp8", "f32", None)},
    "kv_gather": _MOVED | {"fp8": Types("bf16", "bf16", "fp8", "f32", None)},
    "kv_copy_blocks": _MOVED | {"fp8": Types("fp8", "fp8", "fp8", None, None)},
    "probe": {name: Types(name, name, name, None, "f32") for name in ("f32", "f16", "bf16", "fp8")},
}


@dataclass(frozen=True, slots=True)
class Suite:
    """How much is measured, and for how long.

    Args:
        cap_s: the longest a row may sample, rivals and its probe included; its buffers and warm-up come before.
        min_s: device time a row samples at least, if the cap allows.
        budget_s: what the whole run may take; caps shrink when it runs behind.
        models: measured unless `--model` names others.
    """

    name: str
    cap_s: float
    min_s: float
    budget_s: float
    models: tuple[str, ...]


_FIVE = ("llama-3.1-8b", "llama-3.1-70b", "qwen3-32b", "qwen3-30b-a3b", "gpt-oss-20b")
SUITES = {
    suite.name: suite
    for suite in (
        Suite("quick", 1.0, 0.1, 48.0, ("llama-3.1-8b", "qwen3-30b-a3b")),
        Suite("standard", 3.0, 0.5, 570.0, ("llama-3.1-8b", "qwen3-30b-a3b", "gpt-oss-20b")),
        Suite("full", 15.0, 0.5, math.inf, _FIVE),
    )
}


@dataclass(frozen=True, slots=True)
class Case:
    """One problem: an op, a format and sizes.

    Args:
        name: model, layer and tokens, as in ``llama-3.1-8b/gate+up/M1``.
        dims: every size that the op's arguments and launchers take, by name.
    """

    op: str
    format: str
    name: str
    dims: Mapping[str, int] = field(hash=False)

    @property
    def types(self) -> Types:
        return TYPES[self.op][self.format]


@dataclass(frozen=True, slots=True)
class Arg:
    """One array argument: its shape, its dtype, and ``in``, ``out`` or ``inout``."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    role: str = "in"

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Traffic:
    """Compulsory bytes: what must be read and written once, scales and zeros included."""

    read: int
    write: int

    @property
    def bytes(self) -> int:
        return self.read + self.write

    @property
    def mix(self) -> str:
        """The probe with the nearest share of reads: read 1, triad 2/3, copy 1/2, write 0."""
        share = self.read / self.bytes if self.bytes else 1.0
        return min(PROBE_READ_SHARE, key=lambda name: abs(PROBE_READ_SHARE[name] - share))


PROBE_READ_SHARE = {"read": 1.0, "triad": 2 / 3, "copy": 0.5, "write": 0.0}


class Instance(ABC):
    """One set of arrays of a case, and what a launch on them must give.

    Args:
        arrays: every argument, inputs filled, outputs allocated.
    """

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays

    def draw(self, rng: np.random.Generator) -> Arrays:
        """Other contents of some inputs for the next launch, so that it cannot know its result from an earlier one.

        It comes before every launch.
        """
        return {}

    @abstractmethod
    def expect(self) -> dict[str, Expected]:
        """What each output must hold after a launch on each of the contents drawn so far."""

    def spots(self, rng: np.random.Generator) -> Arrays:
        """A few elements of each output, by their index in memory, that the next launch must write.

        They are overwritten before it and compared after it, so that a launch that does nothing is found out.
        """
        return {name: draw_spots(rng, self.arrays[name].size) for name in self.expect()}


def draw_spots(rng: np.random.Generator, size: int) -> Array:
    """Eight indices below `size`."""
    return rng.integers(0, size, 8 if size else 0)


def instances_for(touched: int, cold_bytes: int) -> int:
    """Buffers to rotate so that `cold_bytes` lie between two uses of one, each launch touching `touched`."""
    return 1 if touched >= cold_bytes or not touched else -(-cold_bytes // touched) + 1


class Op(ABC):
    """One operation: everything about it that no backend may decide."""

    name: ClassVar[str]

    @property
    def formats(self) -> tuple[str, ...]:
        return tuple(TYPES[self.name])

    def types(self, format: str) -> Types:
        """Raises ValueError where the op has no such format."""
        try:
            return TYPES[self.name][format]
        except KeyError:
            known = " ".join(self.formats)
            raise ValueError(f"format {format!r} is unknown to {self.name}; known: {known}") from None

    def stem(self, format: str) -> str:
        """Name, without suffix, of the kernel file that serves a format."""
        return self.name

    @abstractmethod
    def cases(self, model: Model, suite: str) -> Iterator[Case]:
        """The real layers of one model that a suite measures, in every format."""

    @abstractmethod
    def signature(self, format: str, dims: Mapping[str, int]) -> dict[str, Arg]:
        """Every array argument, in order. Raises ValueError where the sizes cannot be."""

    @abstractmethod
    def infer(self, format: str, arrays: Mapping[str, Any]) -> Dims:
        """Sizes, read off the shapes of arrays that a caller brings. Raises ValueError on a wrong rank."""

    def check_values(self, format: str, dims: Mapping[str, int], arrays: Mapping[str, Any]) -> None:  # noqa: B027
        """Raise ValueError where an index is out of range or a copy overlaps itself; most ops have no indices."""

    @abstractmethod
    def traffic(self, case: Case) -> Traffic:
        """Bytes that one launch must read and write."""

    @abstractmethod
    def flops(self, case: Case) -> int:
        """Useful, dense floating-point operations: 2 for a multiply-add, nothing for padding."""

    def warm(self, case: Case) -> bool:
        """Whether the case is measured with warm caches too, as a row of its own, where its bytes fit them."""
        return False

    def touched(self, case: Case, arrays: Mapping[str, Array]) -> Iterator[Array]:
        """The memory of an instance that one launch may touch."""
        yield from arrays.values()

    def footprint(self, case: Case, cold_bytes: int) -> int:
        """Bytes of all buffers of its problem; references take about as much again, on the host."""
        held = sum(arg.nbytes for arg in self.signature(case.format, case.dims).values())
        return held * instances_for(self.traffic(case).bytes, cold_bytes)

    @abstractmethod
    def problem(self, case: Case, seed: int, cold_bytes: int) -> list[Instance]:
        """Distinct buffers with distinct contents, of which at least `cold_bytes` are touched before any is again.

        Args:
            cold_bytes: 0 for a warm row, whose instances share all that is large.
        """

    @abstractmethod
    def reference(self, format: str, arrays: Mapping[str, Any], *, random: bool = True) -> dict[str, Expected]:
        """What each output must hold, from the stored inputs, in float64 NumPy.

        Args:
            random: inputs have random signs, so errors grow with the square root of the chain.
        """

    def check(self, format: str, arrays: Mapping[str, Any], *, values: bool = True) -> Dims:
        """Check arrays that a caller brings against the contract.

        Args:
            values: check indices too, which reads them.

        Returns:
            The sizes.

        Raises:
            ValueError: names the argument and what is wrong with it.
        """
        self.types(format)
        for name, array in arrays.items():
            if not isinstance(array, np.ndarray):
                raise ValueError(f"{name} must be a numpy.ndarray, not {type(array).__name__}")  # noqa: TRY004
        dims = self.infer(format, arrays)
        signature = self.signature(format, dims)
        for name in signature.keys() - arrays.keys():
            raise ValueError(f"{name} is missing: {self.name} {format} takes {', '.join(signature)}")
        for name in arrays.keys() - signature.keys():
            raise ValueError(f"{name} is no argument of {self.name} {format}, which takes {', '.join(signature)}")
        for name, arg in signature.items():
            _check_array(f"{self.name} {format}", name, arg, arrays[name])
        _check_overlap(signature, arrays)
        if values:
            self.check_values(format, dims, arrays)
        return dims


def _check_array(what: str, name: str, arg: Arg, array: Array) -> None:
    if array.dtype != arg.dtype:
        raise ValueError(f"{name} has dtype {array.dtype}; {what} takes {arg.dtype}")
    if array.shape != arg.shape:
        raise ValueError(f"{name} has shape {array.shape}; with the other arguments {what} takes {arg.shape}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{name} is not contiguous: its strides are {array.strides}")
    if not array.flags.aligned:
        raise ValueError(f"{name} starts at {array.ctypes.data:#x}, which is not aligned to its {array.itemsize} bytes")
    if arg.role != "in" and not array.flags.writeable:
        raise ValueError(f"{name} is read-only and {what} writes to it")


def _check_overlap(signature: dict[str, Arg], arrays: Mapping[str, Any]) -> None:
    written = [name for name, arg in signature.items() if arg.role != "in"]
    for out in written:
        for other in signature:
            if other != out and np.may_share_memory(arrays[out], arrays[other]):
                raise ValueError(f"{out} overlaps {other}: outputs need memory of their own")


def axes(arrays: Mapping[str, Any], name: str, letters: str) -> dict[str, int]:
    """Sizes of one array's axes by name, as in ``axes(arrays, "x", "M K")``.

    Raises:
        ValueError: the array is missing or its rank is another.
    """
    if name not in arrays:
        raise ValueError(f"{name} is missing")
    names = letters.split()
    shape = arrays[name].shape
    if len(shape) != len(names):
        raise ValueError(f"{name} has shape {shape}; it needs {len(names)} axes ({', '.join(names)})")
    return dict(zip(names, shape, strict=True))


def check_sizes(dims: Mapping[str, int], **least: int) -> None:
    """Raise ValueError where a size is below its least value."""
    for name, low in least.items():
        if dims[name] < low:
            raise ValueError(f"{name} = {dims[name]}; it must be at least {low}")


def dtype_of(name: str) -> np.dtype[Any]:
    """NumPy dtype of a type in `TYPES`; a packed format gives that of its codes."""
    return DTYPES.get(name) or FORMATS[name].codes
