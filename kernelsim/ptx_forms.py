# SPDX-License-Identifier: MIT
"""Reads ptx_table.py: which of its lines an instruction is, and what the C++ in that line becomes."""

import functools
import re
from dataclasses import dataclass

from kernelsim.ptx_table import LISTS, SETS, TABLE

_TYPES = {
    **{f"{name}{bits}": f"{sign}int{bits}_t" for name, sign in zip("sub", ("", "u", "u"), strict=True)
       for bits in (8, 16, 32, 64)},
    **{f"{name}x2": f"::ksim::ptx::Pair<{cpp}>" for name, cpp in
       {"f16": "::ksim::ptx::Half", "bf16": "::ksim::ptx::Bfloat", "f32": "float", "u16": "uint16_t",
        "s16": "int16_t"}.items()},
    **{name: f"::ksim::{name.capitalize()}" for name in ("e4m3", "e5m2", "e3m2", "e2m3", "e2m1", "tf32")},
    **{name: f"::ksim::ptx::{name.capitalize()}" for name in ("s4", "u4", "ue8m0", "ue4m3")},
    "b128": "unsigned __int128", "f32": "float", "f64": "double", "pred": "bool", "f16": "::ksim::ptx::Half",
    "bf16": "::ksim::ptx::Bfloat",
}  # fmt: skip
_TYPE = re.compile(r"[busf]\d+(x\d+)?|bf16(x2)?|tf32|u?e\dm\d(x\d)?|b\dx16(_p\d+)?|pred")  # these keep their order
_ROUNDINGS = {
    "rn": "::ksim::kNearestEven", "rna": "::ksim::kNearestAway", "rz": "::ksim::kTowardZero", "rp": "::ksim::kUp",
    "rm": "::ksim::kDown",
}  # fmt: skip
_CONSTANTS = _ROUNDINGS | {
    name: f"::ksim::ptx::{cpp}"
    for name, cpp in {
        "packed": "Packed",
        "rows": "kRows",
        "trans16": "kTransposed16",
        "trans8": "kTransposed8",
        "accumulators": "kAccumulators8",
    }.items()
}


def _cpp(group: str, word: str | None) -> str:
    """The C++ for what stands in a named place of the syntax, or for its absence."""
    if group == "space":
        return f"::ksim::ptx::{'kShared' if word and 'shared' in word else 'kGeneric'}"
    if group == "vec":
        return word[1:] if word else "1"
    if group == "rnd":
        return _ROUNDINGS[word.rstrip("i")] if word else _ROUNDINGS["rn"]
    if group == "fmt":
        return f"::ksim::{(word or '').removesuffix('x2').capitalize()}"
    if group in ("f", "dir"):
        return word or ""
    if group == "bits":
        return word[1:2] if word else ""
    if group in ("n", "k", "x"):
        return re.sub(r"\D", "", word or "")
    if word is None or word.startswith("."):
        return "true" if word else "false"
    return _TYPES.get(word) or f"::ksim::ptx::k{word.capitalize()}"


@dataclass(frozen=True)
class Operand:
    """Of an instruction.

    Args:
        kind: result, source, address or hint.
        names: of the results: d, p, d|p or p|q.
        space: of an address, C++ with the names of the syntax in braces.
    """

    kind: str
    names: tuple[str, ...] = ()
    space: str = ""


@dataclass(frozen=True)
class Part:
    """What stands between two dots of the syntax.

    Args:
        words: what may be written there, with the names of groups.
        flag: the name of a word that may be left out.
        again: the name of a group that must have been the same word.
    """

    words: re.Pattern[str]
    optional: bool
    many: bool
    flag: str
    again: str

    def takes(self, word: str, found: dict[str, str | None]) -> bool:
        return word == found[self.again] if self.again else bool(self.words.fullmatch(word))


@dataclass(frozen=True)
class Form:
    """A line of TABLE. `style` is "=", "~" or "" as in `d = f`, `d ~ f` and `f`."""

    syntax: str
    parts: tuple[Part, ...]
    operands: tuple[Operand, ...]
    fewest: int
    callee: str
    style: str
    needs: tuple[str, ...]

    def match(self, opcode: str) -> dict[str, str] | None:
        """The C++ for the names in the syntax, if opcode is of this form."""
        given = opcode.split(".")
        found: dict[str, str | None] = {}
        for n, part in enumerate(self.parts):
            first_type = next((word for word in given if _TYPE.fullmatch(word)), None)
            taken = [
                word
                for word in (given if n else given[:1])
                if part.takes(word, found) and (word == first_type or not _TYPE.fullmatch(word))
            ]
            taken = taken if part.many else taken[:1]
            if not taken and not part.optional:
                return None
            for word in taken:
                given.remove(word)
            if part.flag:
                found[part.flag] = "." if taken else None
            for name in part.words.groupindex:
                matched = [m[name] for word in taken if (m := part.words.fullmatch(word)) and m[name]]
                found[name] = matched[0] if matched else None
        return None if given else _CONSTANTS | {name: _cpp(name, word) for name, word in found.items()}

    def takes(self, count: int) -> bool:
        return self.fewest <= count <= len(self.operands)

    def lacks(self, arch: str) -> bool:
        """Whether `arch`, such as sm_90a, does not have it."""
        number, suffix = _architecture(arch)
        for need in self.needs:
            least, exact = _architecture(need)
            if number >= least if not exact else suffix and number >= least and number // 10 == least // 10:
                return False
        return bool(self.needs)


def _architecture(name: str) -> tuple[int, str]:
    found = re.fullmatch(r"(?:sm_|compute_)?(\d+)([af]?)", name)
    if not found:
        raise ValueError(f"{name} is not an architecture such as sm_90a")
    return int(found[1]), found[2]


def _operand(text: str) -> Operand:
    if text.startswith("-"):
        return Operand("hint")
    if text.startswith("["):
        space = text[1:-1].partition(":")[2]
        named = {"shared": "::ksim::ptx::kShared", "global": "::ksim::ptx::kGeneric"}
        return Operand("address", space=named.get(space, space))
    return Operand("result", tuple(text.split("|"))) if text in ("d", "p", "d|p", "p|q") else Operand("source")


def _part(text: str, names: set[str]) -> Part:
    """A part, as {.ftz}, .<t:u32|s32>, m16n8<k:k16> or .=d; names are those that the C++ asks for."""
    optional = text.startswith("{")
    inside = text.strip("{}").lstrip(".").replace("|.", "|")
    words = re.sub(r"\b[A-Z][A-Z0-9_]+\b", lambda m: SETS.get(m[0], m[0]), inside)
    if inside in LISTS:
        spaces = "|".join(word for word in LISTS[inside].split("|") if word in SETS["SPACE"].split("|"))
        words = f"(?P<space>{spaces})|{LISTS[inside]}" if spaces else LISTS[inside]
    words = re.sub(r"<(\w+):(.*?)>", r"(?P<\1>\2)", words)
    flag = inside if optional and inside in names else ""
    again = inside[1:] if inside.startswith("=") else ""
    return Part(re.compile(words), optional, inside in LISTS, flag, again)


def _form(line: str) -> tuple[list[str], Form]:
    """The first words of the instructions that a line of TABLE describes, and what it says of them."""
    left, cpp, needs = (part.strip() for part in f"{line} : ".split(" : ")[:3])
    syntax, _, operands = left.partition(" ")
    callee = re.fullmatch(r"(?:d ([=~]) )?(.*)", cpp)
    assert callee
    names = set(re.findall(r"\{(\w+)\}", cpp)) - set(_CONSTANTS)
    parts = re.findall(r"\{[^{}]*\}|(?:^|\.)(?:<[^<>]*>|[^.<{])+", syntax)
    required, _, optional = operands.partition("{,")
    both = [[part.strip() for part in re.split(r",(?![^\[]*\])", piece.strip(" }")) if part.strip()]
            for piece in (required, optional)]  # fmt: skip
    first = re.sub(r"<\w+:(.*)>", r"\1", parts[0]).split("|")
    form = Form(
        syntax=left, parts=tuple(_part(part, names) for part in parts),
        operands=tuple(map(_operand, both[0] + both[1])), fewest=len(both[0]), callee=callee[2], style=callee[1] or "",
        needs=tuple(needs.replace("BLACKWELL", "100a 110a 120a").split()),
    )  # fmt: skip
    return first, form


@functools.cache
def _forms() -> dict[str, list[Form]]:
    known: dict[str, list[Form]] = {}
    for line in TABLE.replace("\\\n", "").splitlines():
        if line and not line.startswith("#"):
            words, form = _form(line)
            for word in words:
                known.setdefault(word, []).append(form)
    return known


def forms(opcode: str) -> list[Form]:
    """What is known of instructions that begin with the word that opcode begins with."""
    return _forms().get(opcode.partition(".")[0], [])
