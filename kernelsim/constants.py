# SPDX-License-Identifier: MIT
"""Which of a Metal source's function constants a kernel uses, and so must be given."""

from kernelsim.lint import outline
from kernelsim.tokens import Tokens, closing, following, is_attribute, opening, solid, tokenize, without_templates, word


class Uses:
    """The names that each function, class and variable of a source mentions.

    Overloads, and what has one name in two namespaces, count as one: rather a constant too many than one too few.
    """

    def __init__(self, preprocessed: str) -> None:
        tokens = tokenize(preprocessed)
        asked = [i for i, (_, now) in enumerate(tokens) if now == "is_function_constant_defined"]
        self._optional = {solid(tokens[i : closing(tokens, following(tokens, i))])[-1][1] for i in asked}
        self._mentions: dict[str, set[str]] = {}
        for declaration in _declarations(tokens):
            names = {now for kind, now in declaration if kind == "name"}
            for name in _declared(declaration):
                self._mentions.setdefault(name, set()).update(names)

    def required(self, function: str) -> set[str]:
        """What is reached from a function, less what is_function_constant_defined() asks for."""
        reached: set[str] = set()
        waiting = [function.rpartition("::")[2]]
        while waiting:
            new = self._mentions.get(waiting.pop(), set()) - reached
            reached |= new
            waiting += new
        return reached - self._optional


def _declarations(tokens: Tokens) -> list[Tokens]:
    """The declarations of all namespaces, solid, without attributes and what stands before a template's body."""
    found = []
    start = i = 0
    while i < len(tokens):
        kind, now = tokens[i]
        ends = kind == "op" and now in ";}"
        if kind == "op" and now in "([":
            i = closing(tokens, i)
        elif kind == "op" and now == "{":
            words = outline(tokens[start:i])
            if {"namespace", "extern"} & {*words} and "(" not in words:
                start = i + 1
            else:
                i = closing(tokens, i)
                ends = "(" in words and "=" not in words  # a function, which no ; follows
        if ends:
            found.append(without_templates(solid(tokens[start : i + 1])))
            start = i + 1
        i += 1
    return found


def _declared(declaration: Tokens) -> set[str]:
    """The names that a declaration may be that of."""
    names: set[str] = set()
    i = 0
    while i < len(declaration):
        kind, now = declaration[i]
        if kind == "op" and is_attribute(declaration, i):
            i = closing(declaration, i)
        elif kind == "name" and now in ("__attribute__", "alignas", "decltype"):
            i = closing(declaration, i + 1)
        elif kind == "name" and now == "operator":
            return names  # which is found under its type's name, or not at all
        elif kind == "name" and now in ("struct", "class", "union"):
            names.add(word(declaration, i + 1))
        elif kind == "op" and now in "([{=;":  # behind the name of a function or variable
            name = opening(declaration, i - 1) - 1 if word(declaration, i - 1) == ">" else i - 1
            return names | {word(declaration, name)}
        i += 1
    return names
