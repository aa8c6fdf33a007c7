# SPDX-License-Identifier: MIT
"""What clang accepts and Apple's Metal compiler refuses, as far as single declarations show it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from kernelsim.attributes import SPACES
from kernelsim.tokens import (
    Tokens,
    closing,
    following,
    is_attribute,
    preceding,
    solid,
    tokenize,
    without_templates,
    word,
)

_REFUSED = {
    "double": "MSL has no double",
    "goto": "MSL has no goto",
    "new": "MSL has no new",
    "delete": "MSL has no delete",
    "throw": "MSL has no exceptions",
    "try": "MSL has no exceptions",
    "dynamic_cast": "MSL has no dynamic_cast",
    "typeid": "MSL has no typeid",
    "virtual": "MSL has no virtual functions",
    "thread_local": "MSL has no thread_local",
    "asm": "MSL has no inline assembly",
}
_QUALIFIERS = ("const", "volatile", "restrict")
_NOT_TYPES = ("return", "auto", "else", "case", "operator", "sizeof", "typename", "public", "private", "class")


@dataclass(frozen=True)
class Finding:
    """One place of a source that a compiler for the device would refuse."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}"


def lint(preprocessed: str, skip: str) -> list[Finding]:
    """Findings in a preprocessed .metal source, but for files below the folder `skip`."""
    tokens = tokenize(preprocessed)
    found = []
    variables = dict(_not_constant(tokens))
    for i, file, line in _places(tokens):
        message = variables.get(i) or _refused(tokens, i) or _lambda(tokens, i) or _pointer(tokens, i)
        message = "" if file.startswith(skip) else message
        if message:
            found.append(Finding(file, line, message))
    return found


def _places(tokens: Tokens) -> Iterator[tuple[int, str, int]]:
    """Index, file and line of each solid token."""
    file, line = "", 1
    for i, (kind, now) in enumerate(tokens):
        marker = kind == "line" and re.match(r'\s*# (\d+) "([^"]*)"', now)
        if marker:
            file, line = marker[2], int(marker[1])
            continue
        if kind not in ("space", "line"):
            yield i, file, line
        line += now.count("\n")


def _refused(tokens: Tokens, i: int) -> str:
    kind, now = tokens[i]
    member = word(tokens, preceding(tokens, i)) in (".", "->", "::", "=")  # x.new, `= delete`
    return "" if kind != "name" or member else _REFUSED.get(now, "")


def _lambda(tokens: Tokens, i: int) -> str:
    if tokens[i][1] != "[" or is_attribute(tokens, i) or word(tokens, i - 1) == "[":
        return ""
    before = preceding(tokens, i)
    subscript = before >= 0 and (
        (tokens[before][0] == "name" and tokens[before][1] not in ("return", "case")) or tokens[before][1] in ")]}>"
    )
    behind = word(tokens, following(tokens, closing(tokens, i)))
    return "" if subscript or behind not in ("(", "{") else "MSL has no lambda expressions"


def _pointer(tokens: Tokens, i: int) -> str:
    """`half4* p = ...`, `(half4*)p`, `reinterpret_cast<half4*>` and `half& x` name no address space."""
    sign = tokens[i][1]
    if tokens[i][0] != "op" or sign not in "*&" or word(tokens, i + 1) == sign or word(tokens, i - 1) == sign:
        return ""
    type_ = preceding(tokens, i)
    while word(tokens, type_) in _QUALIFIERS:
        type_ = preceding(tokens, type_)
    if word(tokens, type_) == ">":
        return ""  # a template's arguments may be anything; the address-space pass sees what comes of it
    if type_ < 0 or tokens[type_][0] != "name" or tokens[type_][1] in (*_NOT_TYPES, *SPACES):
        return ""
    start = preceding(tokens, type_)
    while word(tokens, start) == "::":
        start = preceding(tokens, preceding(tokens, start))
    qualified = False
    while word(tokens, start) in (*_QUALIFIERS, *SPACES, "static", "constexpr", "unsigned", "typename"):
        qualified |= word(tokens, start) in SPACES
        start = preceding(tokens, start)
    if qualified or not _declares(tokens, start, i):
        return ""
    what = "pointer" if sign == "*" else "reference"
    return f"a {what} to {tokens[type_][1]} names no address space (device, constant, threadgroup or thread)"


def _declares(tokens: Tokens, start: int, sign: int) -> bool:
    """Whether what stands around `*` or `&` is a type, not a product or an 'and'."""
    before, after = word(tokens, start), following(tokens, sign)
    if tokens[sign][1] == "*" and word(tokens, after) in (")", ">", "*") and before in ("(", "<", ","):
        return True  # a cast or a template argument
    behind = word(tokens, following(tokens, after))
    statement = before in (";", "{", "}", "") and behind in ("=", ";", "[")
    parameter = before in ("(", ",") and behind in (",", ")", "[") and _is_parameter(tokens, start)
    return after < len(tokens) and tokens[after][0] == "name" and (statement or parameter)


def _is_parameter(tokens: Tokens, i: int) -> bool:
    """Whether the list that the ( or , at i belongs to is followed by a function's body."""
    depth = 0
    for j in range(i, -1, -1):
        depth += (tokens[j][1] == ")") - (tokens[j][1] == "(")
        if depth < 0:
            behind = following(tokens, closing(tokens, j))
            while word(tokens, behind) in ("const", *SPACES):
                behind = following(tokens, behind)
            return word(tokens, behind) == "{"
        if tokens[j][1] in (";", "{", "}"):
            return False
    return False


def _not_constant(tokens: Tokens) -> Iterator[tuple[int, str]]:
    """Where a variable of a file or class, or a static one of a function, is declared without `constant`."""
    scopes = ["namespace"]
    start = i = 0
    while i < len(tokens):
        kind, now = tokens[i]
        if kind == "op" and now in "([" and not (now == "[" and word(tokens, i - 1) == "["):
            i = closing(tokens, i)
        elif kind == "op" and now == "{":
            scope = _scope(tokens, start, i, scopes[-1])
            if scope:
                scopes.append(scope)
                start = i + 1
            else:
                i = closing(tokens, i)  # a list of values
        elif kind == "op" and now in ";}":
            head = following(tokens, start - 1)
            if now == ";" and _is_variable(tokens, head, i, scopes[-1]):
                where = "static local" if scopes[-1] == "function" else "program scope"
                yield head, f"{where} variable must reside in constant address space"
            if now == "}" and len(scopes) > 1:
                scopes.pop()
            start = i + 1
        i += 1


def outline(declaration: Tokens) -> list[str]:
    """The words of a declaration without what stands in brackets, in attributes, and before a template's body."""
    head = without_templates(solid(declaration))
    words, i = [], 0
    while i < len(head):
        words.append(head[i][1])
        i = closing(head, i) if head[i][0] == "op" and head[i][1] in "([{" else i + 1
    return words


def _scope(tokens: Tokens, start: int, brace: int, outer: str) -> str:
    """What the { at brace begins: a namespace, class or function, or, "", a list of values."""
    words = outline(tokens[start:brace])
    if outer == "function" or "(" in words:
        return "" if "=" in words or words[-1:] == ["return"] else "function"
    if "=" in words:
        return ""
    if {"struct", "class", "union"} & set(words):
        return "class"
    return "namespace" if {"namespace", "extern"} & set(words) else ""


def _is_variable(tokens: Tokens, start: int, end: int, scope: str) -> bool:
    words = outline(tokens[start:end])
    if {"constant", "sampler", "operator", "struct", "class", "union", "enum"} & set(words):
        return False
    if "(" in words[: words.index("=") if "=" in words else None]:  # a function
        return False
    if scope != "namespace":
        return "static" in words
    others = ("using", "typedef", "static_assert", "template", "friend", "extern", "namespace")
    return len([now for now in words if now.isidentifier()]) > 1 and words[0] not in others
