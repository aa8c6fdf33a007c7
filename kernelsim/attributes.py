# SPDX-License-Identifier: MIT
"""What Metal's keywords and [[attributes]] say: address spaces, builtins, and the parameters of a kernel."""

import ast
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

from kernelsim.errors import SourceError
from kernelsim.launch import SLOTS
from kernelsim.tokens import Tokens, closing, declared_name, following, is_attribute, place, solid, split, text

SPACES = ("device", "constant", "thread", "threadgroup", "ray_data", "object_data", "threadgroup_imageblock")
BUILTINS = (
    *("thread_position_in_grid", "thread_position_in_threadgroup", "threadgroup_position_in_grid"),
    *("threads_per_threadgroup", "threadgroups_per_grid", "threads_per_grid", "grid_origin", "grid_size"),
    *("thread_index_in_threadgroup", "thread_index_in_simdgroup", "thread_index_in_quadgroup"),
    *("simdgroup_index_in_threadgroup", "quadgroup_index_in_threadgroup", "threads_per_simdgroup"),
    *("simdgroups_per_threadgroup", "quadgroups_per_threadgroup", "thread_execution_width"),
    *("dispatch_threads_per_threadgroup", "dispatch_simdgroups_per_threadgroup"),
    "dispatch_quadgroups_per_threadgroup",
)


@dataclass(frozen=True)
class Parameter:
    """Of a kernel: `kind` is buffer, threadgroup or the name of a builtin such as thread_position_in_grid.

    `condition` is the function constant that says whether it is there, "" if it always is.
    """

    kind: str
    index: int
    name: str
    const: bool
    condition: str


class NotSimulated(SourceError):  # noqa: N818 - nothing is wrong with the source
    """A kernel that may be right but cannot run here."""


def has(tokens: Tokens, name: str) -> bool:
    return any(now == name for _, now in tokens)


def function_constant(declaration: Tokens) -> tuple[Tokens, int]:
    """The declaration of a function constant without its attribute, and its index."""
    start = next(n for n in range(len(declaration)) if is_attribute(declaration, n))
    end = closing(declaration, start)
    return declaration[:start] + declaration[end + 1 :], _index(declaration[start:end], "function_constant")


def _index(attribute: Tokens, name: str, where: str = "") -> int:
    """n of name(n), where n is an expression of literal numbers; `where` begins the message if it is not."""
    expression = text(_argument(attribute, name))
    try:
        value = _value(ast.parse(_python(expression), mode="eval").body)
    except (SyntaxError, ValueError):
        value = -1
    if not 0 <= value < _INDICES.get(name, 1 << 16):
        raise SourceError(f"{where}[[{name}({expression})]]: the index is not a small number")
    return value


def _argument(attribute: Tokens, name: str) -> Tokens:
    """What stands between the brackets of name(...)."""
    words = solid(attribute)
    at = next(n for n, (_, now) in enumerate(words) if now == name) + 1
    return words[at + 1 : closing(words, at)]


_INDICES = {"buffer": 31, "threadgroup": SLOTS}
_OPERATIONS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}


def _python(expression: str) -> str:
    """C's numbers as Python's: 01 is 0o1, 7u is 7."""
    plain = re.sub(r"(?<=[0-9a-fA-F])[uUlL]+\b", "", expression)
    return re.sub(r"\b0+(?=[0-7]+\b)", "0o", plain).strip()


def _value(node: ast.expr) -> int:
    """Of an expression of numbers with + - *; ValueError for any other."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        return _OPERATIONS[type(node.op)](_value(node.left), _value(node.right))
    raise ValueError


def string_of(attribute: Tokens, name: str) -> str:
    """The string of name("string"), "" if there is none; literals side by side are one."""
    words = solid(attribute)
    at = next((n for n, (_, now) in enumerate(words) if now == name), None)
    if at is None:
        return ""
    literals = words[at + 2 : closing(words, at + 1)]
    return "".join(now[1:-1] for kind, now in literals if kind == "string")


def max_threads_of(attributes: Tokens) -> int | None:
    """n of max_total_threads_per_threadgroup(n), where it does not depend on a template's parameters."""
    name = "max_total_threads_per_threadgroup"
    try:
        return _index(attributes, name) if has(attributes, name) else None
    except SourceError:
        return None


_VALUE = re.compile(r"unsigned|(packed_)?(bool|u?char|u?short|u?int|u?long|half|bfloat|float)[2-4]?")
_UNSIGNED = re.compile(r"unsigned|u(short|int)[2-4]?")
_NOT_SIMULATED = re.compile(
    r"(texture|depth)(1d|2d|3d|cube|_buffer)\w*|sampler|(visible|intersection)_function_table"
    r"|((instance|primitive)_)?acceleration_structure"
)


def parameters_of(tokens: Tokens, first: int, end: int) -> list[Parameter]:
    """The parameters of a kernel, whose list is tokens[first:end].

    Raises:
        SourceError: Apple's compiler refuses one. NotSimulated: there are textures and the like.
    """
    found: list[Parameter] = []
    free = {"buffer": 0, "threadgroup": 0}
    reserved: set[tuple[str, int]] = set()
    at = first
    for part in split(tokens[first:end]):
        kinds: list[tuple[str, int]] = []
        foreign = unknown = condition = ""
        declaration = Tokens()
        i = 0
        while i < len(part):
            if is_attribute(part, i):
                behind = closing(part, i)
                attribute = part[i:behind]
                kinds += [
                    (name, _index(attribute, name, f"{place(tokens, at + i)}: "))
                    for name in free
                    if has(attribute, name)
                ]
                kinds += [(now, -1) for _, now in attribute if now in BUILTINS]
                if has(attribute, "function_constant"):
                    condition = text(_argument(attribute, "function_constant"))
                elif any(has(attribute, name) for name in ("texture", "sampler", "stage_in")):
                    foreign = f"{text(attribute)}]"
                elif not has(attribute, "maybe_unused"):
                    unknown = f"{text(attribute)}]"
                i = behind + 1
            else:
                declaration.append(part[i])
                i += 1
        words = [now for _, now in solid(declaration)]
        at += len(part) + 1
        if words in ([], ["void"]):
            continue
        foreign = foreign or next((now for now in words[:-1] if _NOT_SIMULATED.fullmatch(now)), "")
        if not kinds and not _is_value(words):
            kinds = [("threadgroup" if "threadgroup" in words else "buffer", -1)]
        kind, index = kinds[0] if kinds else ("", -1)
        wrong = _refused(kinds, words, (kind, index) in reserved and not condition)
        wrong = f"{unknown} is not known here" if unknown and not kinds else wrong
        if foreign or wrong:
            spot, shown = place(tokens, following(tokens, at - len(part) - 2)), " ".join(text(part).split())
            if foreign:
                raise NotSimulated(f"{spot}: {foreign} is not simulated: {shown}")
            raise SourceError(f"{spot}: {wrong}: {shown}")
        if index >= 0 and not condition:
            reserved.add((kind, index))
        if kind in free:
            index = free[kind] if index < 0 else index
            free[kind] = index + 1
        const = "const" in words or "constant" in words
        found.append(Parameter(kind, index, declared_name(declaration), const, condition))
    return found


def _is_value(words: list[str]) -> bool:
    """Whether a parameter is a scalar or a vector, not what only the compiler knows: `T x`, `vec<T, 2> x`."""
    type_ = [now for now in words[:-1] if now not in ("const", "volatile", "metal", "::", *SPACES)]
    return bool(type_) and all(_VALUE.fullmatch(now) for now in type_)


def _refused(kinds: list[tuple[str, int]], words: list[str], taken: bool) -> str:
    """Why Apple's compiler refuses a parameter with these attributes and words."""
    if not kinds:
        return "a kernel's parameter has no attribute"
    kind, index = kinds[0]
    spaces = {"buffer": {"device", "constant"}, "threadgroup": {"threadgroup"}}
    if len(kinds) > 1:
        return f"[[{kind}]] and [[{kinds[1][0]}]] on one parameter"
    if taken:
        return f"[[{kind}({index})]] is another parameter's already"
    if kind in spaces and _is_value(words):
        return f"[[{kind}({index})]] is a pointer or a reference"
    if kind in spaces and {"device", "constant", "threadgroup", "thread"} & set(words) - spaces[kind]:
        return f"[[{kind}]] is in {' or '.join(sorted(spaces[kind]))} memory"
    if kind not in spaces and _is_value(words) and not any(_UNSIGNED.fullmatch(word) for word in words):
        return f"[[{kind}]] is of ushort or uint, or of a vector of them"
    return ""
