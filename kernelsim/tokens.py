# SPDX-License-Identifier: MIT
"""C++ as a list of tokens, and the few questions that the rewriters ask about it.

A token is a pair (kind, text). Nothing is lost: the texts of all tokens, one after another, are the source.
"""

import re

from kernelsim.errors import SourceError

Token = tuple[str, str]
Tokens = list[Token]

_TOKEN = re.compile(
    r"""(?P<line>^[ \t]*\#[^\n]*\n)                       # what the preprocessor leaves: line markers, pragmas
      | (?P<space>\s+)
      | (?P<string>(?:u8|[uUL])?R"(?P<delimiter>[^()\\\s]*)\(.*?\)(?P=delimiter)"
                 | (?:u8|[uUL])?"(?:\\.|[^"\\])*" | (?:u8|[uUL])?'(?:\\.|[^'\\])*')
      | (?P<number>\.?\d(?:[eEpP][+-]|[\w.]|'\w)*)
      | (?P<name>[A-Za-z_$][\w$]*)
      | (?P<op>::|->|<=|>=|==|!=|&&|\|\||.)""",
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_BLANK = ("space", "line")


def tokenize(source: str) -> Tokens:
    return [(match.lastgroup or "", match.group()) for match in _TOKEN.finditer(source)]


def text(tokens: Tokens) -> str:
    """The source of tokens, line markers as plain line ends."""
    return "".join("\n" if kind == "line" else word for kind, word in tokens)


def line_ends(tokens: Tokens) -> Token:
    """White space to stand in the place of tokens: as many lines, and the last line marker among them."""
    last = max((n for n, (kind, _) in enumerate(tokens) if kind == "line"), default=None)
    if last is None:
        return ("space", "\n" * text(tokens).count("\n"))
    return ("space", "\n" + line(tokens[last][1])[1] + "\n" * text(tokens[last + 1 :]).count("\n"))


def line(marker: str) -> Token:
    """A line marker without its flags, which say that a file is a system header; pragmas are not for us."""
    kept = re.match(r'\s*# \d+ "[^"]*"', marker)
    return ("line", kept[0].strip() + "\n") if kept else ("space", "\n")


def solid(tokens: Tokens) -> Tokens:
    """Tokens without white space and line markers."""
    return [token for token in tokens if token[0] not in _BLANK]


def following(tokens: Tokens, i: int) -> int:
    """The index of the first solid token behind i; the length of tokens if there is none."""
    i += 1
    while i < len(tokens) and tokens[i][0] in _BLANK:
        i += 1
    return i


def preceding(tokens: Tokens, i: int) -> int:
    """The index of the last solid token before i, or -1."""
    i -= 1
    while i >= 0 and tokens[i][0] in _BLANK:
        i -= 1
    return i


def word(tokens: Tokens, i: int) -> str:
    """The text of token i, "" beyond the ends."""
    return tokens[i][1] if 0 <= i < len(tokens) else ""


def closing(tokens: Tokens, i: int) -> int:
    """The index of the bracket that closes the one at i."""
    opens, closes = tokens[i][1], _CLOSING[tokens[i][1]]
    depth = 0
    for j in range(i, len(tokens)):
        kind, now = tokens[j]
        if kind == "op":
            depth += (now == opens) - (now == closes)
            if depth == 0:
                return j
    raise SourceError(f"{place(tokens, i)}: '{opens}' is never closed")


def opening(tokens: Tokens, i: int) -> int:
    """The index of the bracket, <> too, that the one at i closes."""
    closes = tokens[i][1]
    opens = {")": "(", "]": "[", "}": "{", ">": "<"}[closes]
    depth = 0
    j = i
    while j >= 0:
        kind, now = tokens[j]
        if kind == "op":
            depth += (now == closes) - (now == opens)
            if depth == 0:
                return j
            if now == ")" and closes == ">":  # a comparison in round brackets is none of ours
                j = opening(tokens, j)
        j -= 1
    raise SourceError(f"{place(tokens, i)}: '{closes}' was never opened")


def after_template(tokens: Tokens, i: int) -> int:
    """Behind the > of the template parameters whose < is at i."""
    angles = round_ = 0
    for j in range(i, len(tokens)):
        kind, now = tokens[j]
        if kind != "op":
            continue
        round_ += (now in "([{") - (now in ")]}")
        if round_ == 0 and not _is_less(tokens, i, j):
            angles += (now == "<") - (now == ">")
            if angles <= 0:
                return j + 1
    raise SourceError(f"{place(tokens, i)}: '<' is never closed")


def _is_less(tokens: Tokens, start: int, i: int) -> bool:
    """Whether a < at i, behind start, compares or shifts: it stands after a number, a bracket or another <."""
    before = preceding(tokens, i)
    if word(tokens, i) != "<" or i == start:
        return False
    return (
        tokens[before][0] == "number" or tokens[before][1] == ")" or "<" in (word(tokens, i - 1), word(tokens, i + 1))
    )


def is_launch(tokens: Tokens, i: int) -> bool:
    """Whether CUDA's <<< begins at i."""
    return all(word(tokens, i + n) == "<" for n in range(3))


def is_attribute(tokens: Tokens, i: int) -> bool:
    """Whether [[ begins at i."""
    return word(tokens, i) == "[" and word(tokens, i + 1) == "["


def statement_end(tokens: Tokens, i: int) -> int:
    """The index of the ; that ends the statement or declaration in which i lies, brackets skipped."""
    while i < len(tokens):
        kind, now = tokens[i]
        if kind == "op":
            if now == ";":
                return i
            if now in _CLOSING:
                i = closing(tokens, i)
            elif now in _CLOSING.values():
                break
        i += 1
    raise SourceError(f"{place(tokens, min(i, len(tokens) - 1))}: a declaration does not end with ';'")


def in_brackets(tokens: Tokens) -> bool:
    """Whether the end of tokens lies between ( and ) of its declaration."""
    declaration = tokens[declaration_start(tokens) :]
    return sum((now == "(") - (now == ")") for kind, now in declaration if kind == "op") > 0


def declaration_start(tokens: Tokens) -> int:
    """Where the declaration begins that the end of tokens is a part of."""
    depth = 0
    for j in range(len(tokens) - 1, -1, -1):
        kind, now = tokens[j]
        if kind != "op":
            continue
        if now in ")]":
            depth += 1
        elif now in "([":
            depth = max(depth - 1, 0)
        elif depth == 0 and (now in "{};" or (now == ":" and _ends_label(tokens, j))):
            return j + 1
    return 0


def _ends_label(tokens: Tokens, i: int) -> bool:
    """Whether the : at i ends `public:`, `case n:` or `label:`."""
    before = preceding(tokens, i)
    return word(tokens, before) in ("public", "private", "protected", "default") or word(
        tokens, preceding(tokens, before)
    ) in ("case", ";", "{", "}")


def without_templates(tokens: Tokens) -> Tokens:
    """Solid tokens of a declaration without its leading template<...> parts; all, if one of them is not whole yet."""
    while tokens and tokens[0][1] == "template" and word(tokens, 1) == "<":
        try:
            tokens = tokens[after_template(tokens, 1) :]
        except SourceError:
            break
    return tokens


def split(tokens: Tokens, separator: str = ",") -> list[Tokens]:
    """Parts between separators that stand outside of brackets, <> included."""
    parts: list[Tokens] = []
    part: Tokens = []
    round_ = angles = 0
    for token in tokens:
        kind, now = token
        if kind == "op":
            if now in "([{":
                round_ += 1
            elif now in ")]}":
                round_ -= 1
            elif round_ == 0 and now in "<>":
                angles += 1 if now == "<" else -1
            elif now == separator and round_ == 0 and angles <= 0:
                parts.append(part)
                part = []
                continue
        part.append(token)
    if solid(part):
        parts.append(part)
    return parts


def declared_name(declarator: Tokens) -> str:
    """The name that `T a[N]`, `, b` or `T *c = x` declares: the last name before brackets or an initialiser."""
    name = ""
    depth = 0
    for kind, now in solid(declarator):
        if kind == "op":
            if depth == 0 and now in ("[", "=", "{"):
                break
            depth += (now in "(<") - (now in ")>")
        elif kind == "name" and depth <= 0:
            name = now
    return name


def place(tokens: Tokens, i: int) -> str:
    """`file:line` of token i, by the line markers before it."""
    ends = 0
    for j in range(i - 1, -1, -1):
        kind, now = tokens[j]
        marker = kind == "line" and re.match(r'\s*# (\d+) "([^"]*)"', now)
        if marker:
            return f"{marker[2]}:{int(marker[1]) + ends}"
        ends += now.count("\n")
    return f"line {ends + 1}"
