# SPDX-License-Identifier: MIT
"""Checks by request: schedules that must agree, address spaces, and what Apple's compiler refuses."""

import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from kernelsim import msl, toolchain
from kernelsim.constants import reached
from kernelsim.errors import ScheduleError, SourceError
from kernelsim.launch import SCHEDULES
from kernelsim.lint import Finding


class Launchable(Protocol):
    """A kernel of either language: called with args, and with what its language says of a launch."""

    @property
    def name(self) -> str: ...

    @property
    def __call__(self) -> Callable[..., None]: ...


def schedules(kernel: Launchable, args: Mapping[str | int, Any] | Sequence[Any], launch: Mapping[str, Any]) -> None:
    """Runs kernel on copies of args in each schedule, compares the bits, and leaves the results in args.

    Raises:
        ScheduleError: two schedules differ.
    """
    named = list(args.items()) if isinstance(args, Mapping) else list(enumerate(args))
    first: dict[str | int, Any] = {}
    for schedule in SCHEDULES:
        copies = {key: value.copy(order="K") if isinstance(value, np.ndarray) else value for key, value in named}
        kernel(copies if isinstance(args, Mapping) else list(copies.values()), **{**launch, "schedule": schedule})
        if not first:
            first = copies
            continue
        for key, value in copies.items():
            if isinstance(value, np.ndarray) and value.tobytes() != first[key].tobytes():
                raise ScheduleError(f"{kernel.name}: {_difference(key, first[key], value, schedule)}")
    for key, value in named:
        if isinstance(value, np.ndarray) and value.flags.writeable:
            value[...] = first[key]


def _difference(key: str | int, a: np.ndarray[Any, Any], b: np.ndarray[Any, Any], schedule: str) -> str:
    width = a.dtype.itemsize
    bits = [np.frombuffer(array.tobytes(), np.uint8).reshape(-1, width) for array in (a, b)]
    rows = np.flatnonzero((bits[0] != bits[1]).any(axis=1))
    at = tuple(int(i) for i in np.unravel_index(rows[0], a.shape))
    return (
        f"argument {key!r} differs between the schedules {SCHEDULES[0]} and {schedule} in {len(rows)} elements, first "
        f"at {at}: {a[at]} and {b[at]}; the kernel has a race, adds in an order that it does not fix, or keeps "
        "something in device variables, which are not reset between the schedules"
    )


# ---- Metal: what Apple's compiler refuses

_OPENCL = (
    *("-x", "clcpp", "-cl-std=clc++2021", "-cl-no-stdinc", "-fdeclspec", "-fsyntax-only", "-Wno-everything"),
    "-fno-elide-type",  # both types of a message in full
    *("-Xclang", "-cl-ext=+cl_khr_fp16,+cl_khr_fp64,+__cl_clang_variadic_functions,+__cl_clang_function_pointers"),
    "-DKSIM_CHECK",
    "-ferror-limit=50",
)


def address_spaces(preprocessed: str, kernels: Iterable[str] | None = None) -> list[Finding]:
    """Mixed-up address spaces in a preprocessed .metal source, which is compiled as OpenCL C++.

    device becomes __global, threadgroup __local, constant __constant and thread __private. Types that differ without
    a conversion in MSL are found as well. Templates are checked where a kernel that is instantiated needs them.
    """
    source = msl.rewrite(preprocessed, keep_spaces=True)
    wanted = [source.entries[name] for name in kernels or source.entries]
    instances = [
        f"template decltype({e.expression}) {e.expression};"
        for e in wanted
        if e.expression.endswith(">") and not e.refusal
    ]
    lines = [f"#define KSIM_SWIZZLES {msl.swizzles(source.body)}", '#include "metal/metal.hpp"', source.body]
    text = "\n".join([*lines, '# 1 "instantiations"', *instances])
    file = toolchain.keep(text, ".clcpp")
    try:
        toolchain.find().driver.run(*_OPENCL, f"-I{toolchain.RUNTIME}", str(file))
    except SourceError as error:
        return _findings(str(error))
    return []


def recursion(translation_unit: str, flags: Sequence[str]) -> list[Finding]:
    """Functions that call themselves, or each other in a circle, by the calls in the code made of them."""
    file = toolchain.keep(translation_unit, ".cpp")
    flags = [flag for flag in (*toolchain.BASE_FLAGS, *flags) if "sanitize" not in flag]
    with tempfile.TemporaryDirectory() as folder:  # zig c++ does not write to standard output
        output = Path(folder) / "unit.ll"
        toolchain.find().run(*flags, "-O0", "-S", "-emit-llvm", str(file), "-o", str(output))
        code = output.read_text(errors="surrogateescape")
    files = dict(re.findall(r'^(!\d+) = !DIFile\(filename: "([^"]*)"', code, re.MULTILINE))
    pattern = r'^(!\d+) = distinct !DISubprogram\(name: "([^"]*)".*?file: (!\d+), line: (\d+)'
    subprograms = {
        number: (name, files[at], int(line)) for number, name, at, line in re.findall(pattern, code, re.MULTILINE)
    }
    calls: dict[str, set[str]] = {}
    places: dict[str, tuple[str, str, int]] = {}
    for head, body in re.findall(r"^define ([^\n]*)\{\n(.*?)^\}", code, re.MULTILINE | re.DOTALL):
        name = re.findall(r'@"?([^\s"(]+)"?\(', head)[0]
        calls[name] = set(re.findall(r'call [^\n]*?@"?([^\s"(]+)"?\(', body))
        subprogram = re.search(r"!dbg (!\d+)", head)
        if subprogram and subprogram[1] in subprograms:  # others are the compiler's own
            places[name] = subprograms[subprogram[1]]
    own = {name: place for name, place in places.items() if not place[1].startswith(str(toolchain.RUNTIME))}
    circular = [own[name] for name in own if name in reached(calls, name)]
    return [Finding(file, line, f"{name} calls itself; MSL has no recursion") for name, file, line in circular]


def _findings(messages: str) -> list[Finding]:
    """The errors among a compiler's messages."""
    found = re.findall(r"^([^:\n]+):(\d+):\d+: (?:fatal )?error: (.*)$", messages, re.MULTILINE)
    if not found:
        return [Finding("", 0, messages)]
    return [
        Finding(file, int(line), _translated(message)) for file, line, message in found if not _of_one_type(message)
    ]


def _of_one_type(message: str) -> bool:
    """Whether `condition ? a : b` is refused for the address spaces of its operands, which are values, not pointers."""
    message = re.sub(r"'[^']*' \(aka ('[^']*')\)", r"\1", message)
    types = re.fullmatch(r"incompatible operand types \('(.*)' and '(.*)'\)", message)
    space = r"\b(const|volatile|__global|__local|__constant|__private|__generic) "
    if not types or "*" in types[1] + types[2]:
        return False
    return re.sub(space, "", types[1]) == re.sub(space, "", types[2])


def _translated(message: str) -> str:
    """OpenCL's words back to Metal's."""
    for opencl, metal in (("__global", "device"), ("__local", "threadgroup"), ("__constant", "constant")):
        message = message.replace(opencl, metal)
    return message.replace("__private", "thread")
