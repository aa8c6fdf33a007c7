# SPDX-License-Identifier: MIT
"""Makes C++ of preprocessed CUDA C++.

What CUDA has and C++ has not is rewritten on the level of tokens: __global__ functions, __shared__ variables, launches
with <<<>>>, inline assembly. Types are left to the compiler, and host code stays as it is.
"""

import re
from dataclasses import dataclass, field

from kernelsim import ptx
from kernelsim.errors import SourceError
from kernelsim.tokens import (
    Token,
    Tokens,
    after_template,
    closing,
    declaration_start,
    declared_name,
    following,
    is_attribute,
    is_launch,
    line_ends,
    opening,
    place,
    preceding,
    solid,
    split,
    statement_end,
    text,
    tokenize,
    without_templates,
    word,
)

_SPECIFIERS = ("__global__", "__device__", "__host__", "__constant__", "__managed__", "__grid_constant__")
_ATTRIBUTES = ("__attribute__", "alignas", "__declspec")
_BOUNDS = ("__launch_bounds__", "__cluster_dims__", "__maxnreg__", "__block_size__")
_DYNAMIC = "ksim::worker->dynamic[0]"
# Functions that take a kernel, and which argument it is: a cast to a void pointer would lose its signature.
_TAKES_KERNEL = {
    "cudaLaunchKernel": 0,
    "cudaLaunchCooperativeKernel": 0,
    "cudaLaunchKernelExC": 1,
    "cudaFuncSetAttribute": 0,
    "cudaFuncGetAttributes": 1,
    "cudaFuncSetCacheConfig": 0,
    "cudaOccupancyMaxActiveBlocksPerMultiprocessor": 1,
    "cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags": 1,
    "cudaOccupancyMaxPotentialBlockSize": 2,
}


@dataclass(frozen=True)
class Entry:
    """A __global__ function: its name with namespaces, the names of its parameters, whether it is a template."""

    name: str
    parameters: tuple[str, ...]
    is_template: bool


@dataclass
class Source:
    """C++ and what a launcher must know of it."""

    body: str = ""
    entries: dict[str, Entry] = field(default_factory=dict)
    has_asm: bool = False


@dataclass
class _Scope:
    declares: bool  # a namespace or class: what stands in it are declarations, not statements
    name: str = ""
    is_class: bool = False


def rewrite(preprocessed: str, arch: str | None = None, *, host: bool = True) -> Source:
    """C++ for execution.

    Args:
        arch: what inline assembly may use.
        host: whether functions for the host alone are kept; they need all the templates that they launch.

    Raises:
        SourceError: the source cannot be understood, with file and line.
    """
    return _Rewriter(tokenize(preprocessed), arch, host).run()


class _Rewriter:
    def __init__(self, tokens: Tokens, arch: str | None, host: bool) -> None:
        self.tokens = tokens
        self.arch = arch
        self.host = host
        self.is_device = False  # the declaration that is being read says __device__ or __global__
        self.out: Tokens = []
        self.source = Source()
        self.scopes = [_Scope(declares=True)]
        self.shared_count = 0
        self.shared: dict[str, str] = {}  # __shared__ variables of namespaces: name -> expression
        self.bounds: Tokens = []  # the first argument of a __launch_bounds__ whose function has not begun
        self.bodies: set[int] = set()  # where the bodies of kernels begin
        self.behind: dict[int, str] = {}  # what is to be written behind a token

    def run(self) -> Source:
        i = 0
        while i < len(self.tokens):
            end = self.step(i)
            for done in self.behind.keys() & set(range(i, end)):
                self.out += [("op", character) for character in self.behind.pop(done)]
            i = end
        self.source.body = "".join(now for _, now in self.out)
        return self.source

    def step(self, i: int) -> int:
        """Writes what becomes of the token at i, and returns where to go on."""
        kind, now = self.tokens[i]
        if kind == "line":
            unroll = re.match(r"\s*#pragma\s+unroll\b(.*)", now)
            is_loop = word(self.tokens, following(self.tokens, i)) in ("for", "while", "do")
            self.out.append(("line", f"KSIM_UNROLL({unroll[1].strip()})\n") if unroll and is_loop else _line(now))
            return i + 1
        if kind == "op" and now == "{":
            return self.open_scope(i)
        if kind == "op" and now == "}" and len(self.scopes) > 1:
            self.scopes.pop()
        elif kind == "op" and now == ";":
            self.bounds = []
            self.is_device = False
        elif kind == "op" and now == "<" and is_launch(self.tokens, i):
            return self.launch(i)
        elif kind == "name":
            if now in _SPECIFIERS:
                self.is_device |= now in ("__device__", "__global__")
                if now == "__global__":
                    self.kernel(i)
                return i + 1
            if now in _BOUNDS:
                return self.launch_bounds(i)
            if now == "__shared__":
                return self.shared_variable(i)
            if now in ptx.KEYWORDS:
                return self.asm(i)
            if now in _TAKES_KERNEL:
                return self.takes_kernel(i)
            if now in self.shared and word(self.tokens, preceding(self.tokens, i)) not in (".", "->", "::"):
                self.out.append(("name", self.shared[now]))
                return i + 1
        self.out.append((kind, now))
        return i + 1

    def open_scope(self, i: int) -> int:
        head = _without_attributes(without_templates(solid(self.out[declaration_start(self.out) :])))
        words = {now for _, now in head}
        kept = self.host or self.is_device or "constexpr" in words or any(scope.is_class for scope in self.scopes)
        if not kept and self.scopes[-1].declares and _is_function(head):
            end = closing(self.tokens, i)
            self.out += [("op", "{"), ("name", " __builtin_trap();"), line_ends(self.tokens[i:end]), ("op", "}")]
            return end + 1
        self.is_device = False
        declares = self.scopes[-1].declares and "(" not in words
        is_space = declares and bool(words & {"namespace", "extern"})
        is_type = declares and bool(words & {"struct", "class", "union"})
        name = next((now for kind, now in reversed(head) if kind == "name"), "") if is_space else ""
        name = "::".join(now for kind, now in head if kind == "name" and now not in ("namespace", "inline")) or name
        self.scopes.append(_Scope(is_space or is_type, name if "namespace" in words else "", is_type))
        self.out.append(self.tokens[i])
        if i in self.bodies:
            threads = f"int({text(self.bounds).strip()})" if self.bounds else "0"
            self.bounds = []
            declared = f"static ksim::cuda::Kernel ksim_kernel{{__PRETTY_FUNCTION__, {threads}}};"
            self.out += [("op", f" {declared} ksim::cuda::run(ksim_kernel, [=]() mutable "), ("op", "{")]
            self.behind[closing(self.tokens, i)] = ");}"
        return i + 1

    # ---- Kernels and launches

    def launch_bounds(self, i: int) -> int:
        """Takes __launch_bounds__(threads, ...) out and remembers the first argument."""
        start = following(self.tokens, i)
        if word(self.tokens, start) != "(":
            raise SourceError(f"{place(self.tokens, i)}: {self.tokens[i][1]} needs arguments in brackets")
        end = closing(self.tokens, start)
        if self.tokens[i][1] == "__launch_bounds__":
            self.bounds = split(self.tokens[start + 1 : end])[0]
        self.out.append(line_ends(self.tokens[i:end]))
        return end + 1

    def kernel(self, i: int) -> None:
        """Finds the name, parameters and body of the __global__ function declared here."""
        j = following(self.tokens, i)
        name = ""
        while j < len(self.tokens) and word(self.tokens, j) not in (";", "{"):
            kind, now = self.tokens[j]
            opens = word(self.tokens, following(self.tokens, j)) == "("
            if now in (*_BOUNDS, "__attribute__", "alignas") and opens:
                j = closing(self.tokens, following(self.tokens, j))
            elif now == "<":
                j = after_template(self.tokens, j) - 1
            elif now == "(":
                break
            elif kind == "name":
                name = now
            j = following(self.tokens, j)
        if not name or word(self.tokens, j) != "(":
            raise SourceError(f"{place(self.tokens, i)}: __global__ is not followed by a function")
        end = closing(self.tokens, j)
        parts = [part for part in split(self.tokens[j + 1 : end]) if text(part).strip() != "void"]
        names = tuple(_parameter(part) or f"arg{n}" for n, part in enumerate(parts))
        head = solid(self.out[declaration_start(self.out) :])
        is_template = word(head, 0) == "template"
        is_definition = word(self.tokens, following(self.tokens, end)) == "{"
        is_instance = is_template and word(head, 1) != "<"
        qualified = "::".join([*(scope.name for scope in self.scopes if scope.name), name])
        if not is_instance and (is_definition or qualified not in self.source.entries):
            known = self.source.entries.get(qualified)
            is_template = is_template or bool(known and known.is_template)
            self.source.entries[qualified] = Entry(qualified, names, is_template)
        if is_definition:
            self.bodies.add(following(self.tokens, end))

    def launch(self, i: int) -> int:
        """callee<<<grid, block, shared, stream>>>(args) -> (configure(grid, block, shared, stream), callee(args))"""
        start = _callee(self.out)
        if start is None:
            raise SourceError(f"{place(self.tokens, i)}: <<< does not stand behind a kernel's name")
        end = i + 3
        while end < len(self.tokens) and any(word(self.tokens, end + n) != ">" for n in range(3)):
            end = closing(self.tokens, end) + 1 if word(self.tokens, end) in ("(", "[", "{") else end + 1
        arguments = following(self.tokens, end + 2)
        if word(self.tokens, arguments) != "(":
            raise SourceError(f"{place(self.tokens, i)}: a launch needs >>> and arguments in brackets")
        callee = self.out[start:]
        del self.out[start:]
        configuration = self.tokens[i + 3 : end]
        self.out += [("op", "(ksim::cuda::configure("), *configuration, ("op", "), "), *callee]
        self.behind[closing(self.tokens, arguments)] = ")"
        return end + 3

    def takes_kernel(self, i: int) -> int:
        """Takes the cast to a void pointer out of cudaLaunchKernel((void*)kernel, ...) and its like."""
        start = following(self.tokens, i)
        if word(self.tokens, start) != "(":
            self.out.append(self.tokens[i])
            return i + 1
        end = closing(self.tokens, start)
        parts = split(self.tokens[start + 1 : end])
        at = _TAKES_KERNEL[self.tokens[i][1]]
        cast = start + 1 + sum(len(part) + 1 for part in parts[:at])
        behind = _behind_cast(self.tokens, cast)
        while behind is None and word(self.tokens, following(self.tokens, cast - 1)) == "(" and cast < end:
            cast = following(self.tokens, cast - 1) + 1  # in brackets
            behind = _behind_cast(self.tokens, cast)
        behind = cast if behind is None or at >= len(parts) else behind
        self.out += [*self.tokens[i:cast], line_ends(self.tokens[cast:behind])]
        return behind

    # ---- Shared memory and assembly

    def shared_variable(self, i: int) -> int:
        """`__shared__ T a[N], b;` -> a struct of them in the shared memory of the running block."""
        start = declaration_start(self.out)
        before = solid(self.out[start:])
        end = statement_end(self.tokens, i)
        is_dynamic = any(now == "extern" for _, now in before)
        plain = _without_attributes(before, ())
        kept = [token for token in plain if token[1] not in ("extern", "static") and token[0] != "string"]
        declaration = [*_spaced(kept), *(t for t in self.tokens[i + 1 : end] if t[1] != "static")]
        if is_dynamic:
            declaration = _dynamic(declaration)
        names = [declared_name(_without_bodies(part)) for part in split(declaration)]
        self.shared_count += 1
        struct = f"ksim_shared_{self.shared_count}"
        lines = line_ends(self.out[start:])
        del self.out[start:]
        body = "".join(now for _, now in declaration).strip()
        at = f"reinterpret_cast<{struct} *>({_DYNAMIC})->" if is_dynamic else f"ksim::shared<{struct}>()."
        written = f"struct {struct} {{ {body}; }}"
        if self.scopes[-1].declares:
            decay = "+" if is_dynamic else ""  # to a pointer, of whose array no size is known
            self.shared |= {name: f"({decay}{at}{name})" for name in names}
        else:
            kind = "auto *" if is_dynamic else "auto &"
            written += "".join(f"; {kind}{name} = {at}{name}" for name in names)
        self.out += [lines, ("name", written), ("op", ";")]
        return end + 1

    def asm(self, i: int) -> int:
        self.source.has_asm = True
        end, written = ptx.asm(self.tokens, i, self.arch)
        self.out += written
        return end + 1


def _line(marker: str) -> Token:
    """A line marker without its flags, which say that a file is a system header; #includes that the stubs left."""
    kept = re.match(r'\s*# \d+ "[^"]*"', marker)
    if kept:
        return ("line", kept[0] + "\n")
    left = re.match(r"\s*#pragma ksim (.*)", marker)
    return ("line", f"#{left[1]}\n") if left else ("space", "\n")


def _behind_cast(tokens: Tokens, i: int) -> int | None:
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


def _is_function(head: Tokens) -> bool:
    """Whether the body of a function begins behind head; otherwise an initialiser does, or a type."""
    words = [now for _, now in head]
    depth = 0
    for n, (kind, now) in enumerate(head):
        depth += (now in "([<") - (now in ")]>") if kind == "op" else 0
        if (kind, now) == ("op", "=") and depth == 0 and "operator" not in words[max(n - 2, 0) : n]:
            return False
    return "(" in words and ("->" in words or words[-1] in (")", "const", "noexcept", "override", "&"))


def _callee(tokens: Tokens) -> int | None:
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


def _parameter(declaration: Tokens) -> str:
    """The name of a parameter, "" if it has none."""
    words = [token for token in solid(declaration) if token[1] not in ("const", "volatile", "__restrict__")]
    name = declared_name(words)
    if len(words) < 2 or words[[now for _, now in words].index(name) - 1][1] in ("::", "struct"):
        return ""
    return name


def _without_attributes(tokens: Tokens, others: tuple[str, ...] = _ATTRIBUTES) -> Tokens:
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


def _spaced(tokens: Tokens) -> Tokens:
    return [part for token in tokens for part in (token, ("space", " "))]


def _without_bodies(declaration: Tokens) -> Tokens:
    """A declaration without the members of a struct or union that it defines."""
    if not any(now in ("struct", "union", "class") for _, now in declaration):
        return declaration
    i = next((n for n, token in enumerate(declaration) if token == ("op", "{")), None)
    return declaration if i is None else declaration[:i] + declaration[closing(declaration, i) + 1 :]


def _dynamic(declaration: Tokens) -> Tokens:
    """`T a[]` as a member: of one element, and without an alignment, which the engine's memory may not have."""
    kept: Tokens = []
    i = 0
    while i < len(declaration):
        kind, now = declaration[i]
        if now in ("alignas", "__attribute__"):
            i = closing(declaration, following(declaration, i)) + 1
            continue
        kept.append((kind, now))
        after = following(declaration, i)
        if now == "[" and word(declaration, after) == "]":
            kept.append(("number", "1"))
        i += 1
    return kept
