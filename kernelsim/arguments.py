# SPDX-License-Identifier: MIT
"""Arrays and scalars for a kernel's parameters: checked against the types that the compiler saw."""

import ctypes
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from kernelsim.errors import ArgumentError
from kernelsim.launch import Bound, Options, check_overruns
from kernelsim.memory import Guarded

MAX_BUFFERS = 64  # of one kernel
Array = np.ndarray[Any, Any]

KINDS = ("", "float", "int", "uint", "bool", "bfloat", "struct")  # Kind of describe.hpp


_KIND = {"float": "f", "int": "i", "uint": "u", "bool": "b"}  # NumPy's


class _Description(ctypes.Structure):  # Description of describe.hpp
    _fields_ = [
        ("kind", ctypes.c_int),
        ("bytes", ctypes.c_int),
        ("components", ctypes.c_int),
        ("pointer", ctypes.c_int),
    ]


@dataclass(frozen=True)
class Described:
    """A parameter that takes an array or a scalar.

    Attributes:
        index: its position among the kernel's arguments; MSL: n of [[buffer(n)]].
        const: the kernel cannot write through it.
        kind: float, int, uint, bool, bfloat, or struct for anything else, void and bytes included.
        bytes: of one scalar of it, or of the struct.
        components: scalars of one element, 4 for float4.
        pointer: an array of elements; otherwise one, a reference or a value.
        optional: need not be given.
    """

    name: str
    index: int
    const: bool
    kind: str
    bytes: int
    components: int
    pointer: bool
    optional: bool = False

    def __str__(self) -> str:
        return f"{self.name} (argument {self.index})"

    @property
    def type(self) -> str:
        if self.kind == "struct":
            return "bytes" if self.bytes == 1 else f"struct of {self.bytes} bytes"
        name = f"{self.kind}{8 * self.bytes}" if self.kind not in ("bool", "bfloat") else self.kind
        return name if self.components == 1 else f"{name} x {self.components}"

    def accepts(self, dtype: np.dtype[Any]) -> bool:
        """Whether an array of dtype can be given: the same type, or unsigned integers that hold its bits."""
        if self.kind == "struct" or dtype.type is np.void:
            return True
        if dtype.itemsize != self.bytes or not dtype.isnative:
            return False
        if dtype.kind == "u" and self.kind in ("float", "bfloat"):
            return True  # the bits of any type
        return dtype.name == "bfloat16" if self.kind == "bfloat" else dtype.kind == _KIND.get(self.kind)

    def scalar(self, value: Any) -> Array:
        """A Python number as this type, or ArgumentError."""
        types = {"float": f"f{self.bytes}", "int": f"i{self.bytes}", "uint": f"u{self.bytes}", "bool": "?"}
        if self.kind not in types or self.components > 1 or not isinstance(value, (int, float, np.generic)):
            raise ArgumentError(f"{self} is a {self.type}, not {value!r}")
        dtype = np.dtype(types[self.kind])
        whole = not isinstance(value, (float, np.floating)) or float(value).is_integer()
        if dtype.kind in "iu" and not (whole and np.iinfo(dtype).min <= int(value) <= np.iinfo(dtype).max):
            raise ArgumentError(f"{self} is a {self.type} and cannot hold {value!r}")
        return np.array(int(value) if dtype.kind in "iu" else value, dtype)


def describe(library: ctypes.CDLL, number: int) -> Iterator[tuple[str, int, int, bool]]:
    """Kind, bytes, components and pointer of each parameter of the kernel of this number."""
    function = library[f"ksim_parameters_{number}"]
    function.restype = ctypes.POINTER(_Description)
    table = function()
    n = 0
    while table[n].kind:
        row = table[n]
        yield KINDS[row.kind], row.bytes, row.components, bool(row.pointer)
        n += 1


@dataclass
class Bindings:
    """The arguments of one launch, in memory where the kernel finds them."""

    addresses: dict[int, int] = field(default_factory=dict)
    guarded: list[Bound] = field(default_factory=list)
    kept: list[Any] = field(default_factory=list)
    outputs: list[tuple[Array, Array]] = field(default_factory=list)  # the caller's, the kernel's
    extents: dict[str, tuple[int, int]] = field(default_factory=dict)  # address and bytes of arrays, by name
    kernel: str = ""

    def pointers(self, count: int) -> ctypes.Array[ctypes.c_void_p]:
        table = (ctypes.c_void_p * count)()
        for index, address in self.addresses.items():
            table[index] = address
        return table

    def finish(self, group_word: str = "threadgroup") -> None:
        """Hands the results back; raises KernelFault if the kernel wrote behind an array."""
        check_overruns(self.kernel, self.guarded, group_word)
        for theirs, ours in self.outputs:
            theirs[...] = ours


@contextmanager
def bind(
    parameters: Sequence[Described], args: Mapping[str | int, Any] | Sequence[Any], kernel: str, guard: bool
) -> Iterator[Bindings]:
    """Checks args against parameters and places them. An array that is given twice is in one place.

    Raises:
        ArgumentError: one is missing, superfluous, of the wrong type, too small, not contiguous, or overlaps another.
    """
    bindings = Bindings(kernel=kernel)
    unused = np.zeros(4096, np.uint8)
    placed: list[tuple[Described, Array]] = []
    for parameter, value in pair(parameters, args, kernel):
        if value is None and parameter.optional:  # compilers for the device leave out reads whose results are not used
            array = unused
        elif value is None:  # not bound: the kernel finds a null pointer
            continue
        else:
            array = value if isinstance(value, np.ndarray) else _number(parameter, value)
            _check(parameter, array, kernel)
            if value is array and not parameter.const and not array.flags.writeable:
                raise ArgumentError(f"{kernel}: {parameter} can be written by the kernel, but the array is read-only")
        placed.append((parameter, array))
    _demand_no_overlap(placed, kernel)
    for same in _by_memory(placed):
        _place(bindings, same, guard)
    yield bindings


def _by_memory(placed: Sequence[tuple[Described, Array]]) -> list[list[tuple[Described, Array]]]:
    """The same, those of one memory together."""
    groups: dict[tuple[int, int], list[tuple[Described, Array]]] = {}
    for parameter, array in placed:
        key = (array.ctypes.data, array.nbytes) if array.nbytes else (-1 - parameter.index, 0)
        groups.setdefault(key, []).append((parameter, array))
    return list(groups.values())


def _place(bindings: Bindings, same: Sequence[tuple[Described, Array]], guard: bool) -> None:
    """Places one array for the parameters that it was given for."""
    array = same[0][1]
    address = array.ctypes.data
    if guard:
        memory = Guarded(array.nbytes)
        copy = memory.array(array.shape, array.dtype)
        copy[...] = array
        const = all(parameter.const for parameter, _ in same)
        if const:
            memory.write_protect()
        elif array.flags.writeable:
            bindings.outputs.append((array, copy))
        address = memory.address
        bindings.guarded.append(Bound(" and ".join(str(parameter) for parameter, _ in same), memory, const))
        bindings.kept.append(memory)
    bindings.kept.append(array)
    for parameter, _ in same:
        bindings.addresses[parameter.index] = address
        if parameter.pointer:
            bindings.extents[parameter.name] = (address, array.nbytes)


def _demand_no_overlap(placed: Sequence[tuple[Described, Array]], kernel: str) -> None:
    """Raises ArgumentError if two arrays share a part of their memory."""
    order = sorted(placed, key=lambda one: one[1].ctypes.data)
    for (a, first), (b, second) in pairwise(order):
        if first.ctypes.data == second.ctypes.data and first.nbytes == second.nbytes:
            continue
        if first.nbytes and second.nbytes and first.ctypes.data + first.nbytes > second.ctypes.data:
            raise ArgumentError(f"{kernel}: {a} and {b} overlap; give one array, or arrays apart")


def _number(parameter: Described, value: Any) -> Array:
    if parameter.pointer or parameter.components > 1 or isinstance(value, (list, tuple)):
        if isinstance(value, (str, dict)):
            raise ArgumentError(f"{parameter} takes an array, not {value!r}")
        array = np.asarray(value)
        if array.ndim and parameter.const:  # values to be read may be a list
            types = {"float": f"f{parameter.bytes}", "int": f"i{parameter.bytes}", "uint": f"u{parameter.bytes}"}
            return array.astype(types.get(parameter.kind, array.dtype))
        if parameter.pointer:
            raise ArgumentError(f"{parameter} takes an array, not {value!r}")
    return parameter.scalar(value)


def _check(parameter: Described, array: Array, kernel: str) -> None:
    if not array.flags.c_contiguous:
        raise ArgumentError(f"{kernel}: {parameter} is not C-contiguous")
    if not parameter.accepts(array.dtype):
        raise ArgumentError(f"{kernel}: {parameter} is an array of {parameter.type}, not {array.dtype}")
    element = parameter.bytes * parameter.components
    if not parameter.pointer and array.nbytes < element:
        raise ArgumentError(f"{kernel}: {parameter} needs {element} bytes, the array has {array.nbytes}")


def pair(
    parameters: Sequence[Described], args: Mapping[str | int, Any] | Sequence[Any], kernel: str
) -> list[tuple[Described, Any]]:
    """Each parameter with its value.

    Raises:
        ArgumentError: a value is missing, or there is one that no parameter takes.
    """
    takes = ", ".join(f"{p.name} ({p.index})" for p in parameters) or "nothing"
    if not isinstance(args, Mapping):
        if len(args) != len(parameters):
            raise ArgumentError(f"{kernel} takes {len(parameters)} arguments, not {len(args)}: {takes}")
        return list(zip(sorted(parameters, key=lambda p: p.index), args, strict=True))
    keys = {key: p for p in parameters for key in (p.name, p.index)}
    given: dict[int, Any] = {}
    for key, value in args.items():
        if key not in keys:
            raise ArgumentError(f"{kernel} has no argument {key!r}; it takes {takes}")
        if keys[key].index in given:
            raise ArgumentError(f"{kernel}: argument {key!r} is given twice")
        given[keys[key].index] = value
    for p in parameters:
        if p.index not in given and not p.optional:
            raise ArgumentError(f"{kernel}: argument {p.name!r} ({p.index}) is missing; it takes {takes}")
    return [(p, given.get(p.index)) for p in parameters]


def known_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options by name.

    Raises:
        ArgumentError: one is unknown.
    """
    names = {f.name for f in dataclasses.fields(Options)}
    for name in options:
        if name not in names:
            raise ArgumentError(f"there is no option {name!r}; there are {', '.join(sorted(names))}")
    return dict(options)
