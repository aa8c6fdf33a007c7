# SPDX-License-Identifier: MIT
"""What the rewriter of CUDA asks about C++'s declarations and expressions."""

from kernelsim.tokens import (
    Tokens,
    closing,
    declared_name,
    following,
    is_attribute,
    opening,
    preceding,
    solid,
    split,
    word,
)

ATTRIBUTES = ("__attribute__", "alignas", "__declspec")


def behind_cast(tokens: Tokens, i: int) -> int | None:
    """Behind (void*) or reinterpret_cast<const void*> at i, or None."""
    words: list[str] = []
    j = following(tokens, i - 1)
    first = j
    while j < len(tokens) and len(words) < 8 and word(tokens, j) not in (")", ">"):
        words.append(tokens[j][1])
        j = following(tokens, j)
    plain = [now for now in words if now != "const"]
    is_cast = word(tokens, first) == "(" and plain == ["(", "void", "*"]
    is_cast |= plain in (["reinterpret_cast", "<", "void", "*"], ["static_cast", "<", "void", "*"])
    return j + 1 if is_cast else None


def is_function(head: Tokens) -> bool:
    """Whether the body of a function begins behind head; otherwise an initialiser does, or a type."""
    words = [now for _, now in head]
    if words[:1] == ["template"] or (words[:1] in (["struct"], ["class"]) and ":" in words):
        return False  # a default argument, T{}, or a base, decltype(f())
    depth = 0
    for n, (kind, now) in enumerate(head):
        depth += (now in "([<") - (now in ")]>") if kind == "op" else 0
        if (kind, now) == ("op", "=") and depth == 0 and "operator" not in words[max(n - 2, 0) : n]:
            return False
    return "(" in words and ("->" in words or words[-1] in (")", "const", "noexcept", "override", "&"))


def lacks_template(tokens: Tokens, i: int) -> bool:
    """Whether the :: at i is that of `A<T>::f<8>(x)`, which nvcc takes where C++ wants `A<T>::template f<8>(x)`."""
    if word(tokens, i - 1) != ">" or word(tokens, i + 2) != "<" or tokens[i + 1][0] != "name":
        return False
    depth = 0
    for j in range(i + 2, len(tokens)):
        kind, now = tokens[j]
        if kind == "op" and now not in ("<", ">", ",", "::"):
            return False  # a comparison
        depth += (now == "<") - (now == ">")
        if depth == 0:
            return word(tokens, j + 1) == "("
    return False


def wants_static(body: Tokens) -> bool:
    """Whether a function has a lambda that captures by copy or nothing, or a class: there its references are unknown,
    or what they refer to is copied, but static variables are what they are."""
    for i, (kind, now) in enumerate(body):
        before = preceding(body, i)
        if kind == "name" and now in ("struct", "class"):
            return True
        if now != "[" or is_attribute(body, i) or is_attribute(body, before):
            continue
        is_index = body[before][0] == "name" or word(body, before) in (")", "]")
        captured = following(body, i)
        by_reference = word(body, captured) == "&" and word(body, following(body, captured)) in ("]", ",")
        if (not is_index or word(body, before) == "return") and not by_reference:
            return True
    return False


def declarators(declaration: Tokens) -> list[Tokens]:
    """`T a[N], *b` -> `T a[N]`, `T *b`."""
    first, *others = split(declaration)
    name = declared_name(without_bodies(first))
    type_end = len(first) - 1 - first[::-1].index(("name", name)) if others else 0
    while word(first, type_end - 1).strip() in ("", "*") and type_end:
        type_end -= 1
    return [first, *([*first[:type_end], ("space", " "), *other] for other in others)]


def callee(tokens: Tokens) -> int | None:
    """Where the expression begins that the end of tokens calls: f, n::f<T>, object.f, (*pointer)."""
    j = preceding(tokens, len(tokens))
    while j >= 0:
        kind, now = tokens[j]
        if now == ">":
            j = preceding(tokens, opening(tokens, j))
            continue
        if now in (")", "]"):
            j = opening(tokens, j)
            before = preceding(tokens, j)
            if now == "]" or (tokens[before][0] == "name" and now == ")" and word(tokens, before) not in _STATEMENTS):
                j = before
                continue
        elif kind != "name":
            return None
        before = preceding(tokens, j)
        if word(tokens, before) == "template":
            before = preceding(tokens, before)
        if word(tokens, before) not in ("::", ".", "->"):
            return j
        scope = preceding(tokens, before)
        if word(tokens, before) == "::" and tokens[scope][0] != "name" and word(tokens, scope) != ">":
            return before  # ::f
        j = preceding(tokens, before)
    return None


_STATEMENTS = ("if", "for", "while", "switch", "return", "else", "do")


def parameter(declaration: Tokens) -> str:
    """The name of a parameter, "" if it has none."""
    words = [token for token in solid(declaration) if token[1] not in ("const", "volatile", "__restrict__")]
    name = declared_name(words)
    if not name or len(words) < 2 or words[[now for _, now in words].index(name) - 1][1] in ("::", "struct"):
        return ""
    return name


def without_default(parameter: Tokens, others: tuple[str, ...]) -> str:
    """A parameter as a type has it, on one line."""
    words = [now for _, now in solid(split(parameter, "=")[0]) if now not in others]
    return " ".join(words)


def without_attributes(tokens: Tokens, others: tuple[str, ...] = ATTRIBUTES) -> Tokens:
    """Solid tokens without [[...]], and without alignas(...) and its like."""
    kept: Tokens = []
    i = 0
    while i < len(tokens):
        if is_attribute(tokens, i):
            i = closing(tokens, i)
        elif tokens[i][1] in others and word(tokens, i + 1) == "(":
            i = closing(tokens, i + 1)
        else:
            kept.append(tokens[i])
        i += 1
    return kept


def spaced(tokens: Tokens) -> Tokens:
    return [part for token in tokens for part in (token, ("space", " "))]


def without_bodies(declaration: Tokens) -> Tokens:
    """A declaration without the members of a struct or union that it defines."""
    if not any(now in ("struct", "union", "class") for _, now in declaration):
        return declaration
    i = next((n for n, token in enumerate(declaration) if token == ("op", "{")), None)
    return declaration if i is None else declaration[:i] + declaration[closing(declaration, i) + 1 :]
