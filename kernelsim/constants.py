# SPDX-License-Identifier: MIT
"""Which of a Metal source's function constants a kernel uses, and so must be given.

The compiler knows: what it has kept of a kernel refers to the constants' variables, which have names of ours in the
assembly. What is_function_constant_defined() reads is a variable as well, ksim_defined_ before the constant's name.
"""

import ctypes
import re
from collections.abc import Mapping

_LABEL, _DERIVE, _USED = "ksim_constant.", "ksim_derive.", "ksim_used_constants"


def label(name: str) -> str:
    """The name that the assembly has for a constant's variable."""
    return _LABEL + name.replace("::", ".")


def derive_label(name: str) -> str:
    """The name that the assembly has for the function which makes a constant of others."""
    return _DERIVE + name.replace("::", ".")


def record(assembly: str) -> str:
    """LLVM's assembly, and in it a string: on a line for each kernel its entry and the labels reached from there."""
    refers: dict[str, set[str]] = {}
    for block in re.findall(r"^(?:define .*?^\}|@[^\n]*)", assembly, re.MULTILINE | re.DOTALL):
        name, *others = re.findall(r'@"?(?:\\01)?([\w.$-]+)', block)
        refers.setdefault(name.replace(_DERIVE, _LABEL), set()).update(others)
    text = ""
    for start in (name for name in refers if name.startswith("ksim_entry_")):
        text += " ".join([start, *sorted(name for name in reached(refers, start) if name.startswith(_LABEL))]) + "\n"
    escaped = text.replace("\n", "\\0A")
    return f'{assembly}\n@{_USED} = constant [{len(text) + 1} x i8] c"{escaped}\\00"\n'


def required(library: ctypes.CDLL, entry: str) -> set[str]:
    """The labels of the constants that a kernel needs, less those that it asks is_function_constant_defined() about."""
    lines = ctypes.string_at(ctypes.addressof(ctypes.c_char.in_dll(library, _USED))).decode().splitlines()
    used = next(set(labels) for name, *labels in map(str.split, lines) if name == entry)
    return used - {name.replace("ksim_defined_", "") for name in used if "ksim_defined_" in name}


def reached(graph: Mapping[str, set[str]], start: str) -> set[str]:
    """All that `start` leads to, directly or not."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found
