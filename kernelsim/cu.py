# SPDX-License-Identifier: MIT
"""Makes C++ of preprocessed CUDA C++.

What CUDA has and C++ has not is rewritten on the level of tokens: __global__ functions, __shared__ variables, launches
with <<<>>>, inline assembly. Types are left to the compiler, and host code stays as it is.
"""

import itertools
import re
from dataclasses import dataclass, field

from kernelsim import ptx
from kernelsim.cu_tokens import (
    behind_cast,
    callee,
    declarators,
    is_function,
    lacks_template,
    parameter,
    spaced,
    wants_static,
    without_attributes,
    without_bodies,
    without_default,
)
from kernelsim.errors import SourceError
from kernelsim.headers import HOST_LIBRARIES, HOST_PREFIXES, LEFT_OUT
from kernelsim.tokens import (
    Token,
    Tokens,
    after_template,
    closing,
    declaration_start,
    declared_name,
    following,
    in_brackets,
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
_BOUNDS = ("__launch_bounds__", "__cluster_dims__", "__maxnreg__", "__block_size__")
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
    pointers: dict[str, str] = field(default_factory=dict)  # to those that are no templates
    has_asm: bool = False


@dataclass
class _Limits:
    """Of a kernel's launches, as its attributes have them."""

    threads: str = "0"
    cluster: str = "1"

    def __str__(self) -> str:
        return f"int({self.threads}), {self.cluster}"


@dataclass
class _Scope:
    declares: bool  # a namespace or class: what stands in it are declarations, not statements
    name: str = ""
    is_class: bool = False
    start: int = 0


def rewrite(preprocessed: str, arch: str | None = None, *, host: bool = True) -> Source:
    """C++ for execution.

    Args:
        arch: what inline assembly may use.
        host: whether functions for the host alone are kept; they need all the templates that they launch.

    Raises:
        SourceError: the source cannot be understood, with file and line.
    """
    rewriter = _Rewriter(tokenize(preprocessed), arch, host)
    rewriter.lacks_libraries = not host and LEFT_OUT in preprocessed
    return rewriter.run()


class _Rewriter:
    def __init__(self, tokens: Tokens, arch: str | None, host: bool) -> None:
        self.tokens = tokens
        self.arch = arch
        self.host = host
        self.lacks_libraries = False  # a header of HOST_HEADERS was not found
        self.is_device = False  # the declaration that is being read says __device__ or __global__
        self.out: Tokens = []
        self.source = Source()
        self.scopes = [_Scope(declares=True)]
        self.shared_count = 0
        self.dynamic: set[tuple[object, ...]] = set()  # `extern __shared__` variables: where, and the declaration
        self.limits = _Limits()  # of a kernel that has not begun
        self.declared: dict[str, _Limits] = {}  # of kernels that were declared before
        self.kernel_name = ""  # of the declaration that is being read
        self.bodies: dict[int, Tokens] = {}  # where the bodies of kernels begin, and what is to be written behind them
        self.defined: set[str] = set()  # kernels that have one; others are defined in another file
        self.behind: dict[int, Tokens] = {}  # what is to be written behind a token

    def run(self) -> Source:
        i = 0
        while i < len(self.tokens):
            end = self.step(i)
            for done in sorted(self.behind.keys() & set(range(i, end))):
                self.out += self.behind.pop(done)
            i = end
        self.source.body = "".join(now for _, now in self.out)
        self.source.entries = {name: self.source.entries[name] for name in self.source.entries if name in self.defined}
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
            self.declared |= {self.kernel_name: self.limits} if self.limits != _Limits() else {}
            self.limits = _Limits()
            if self.is_of_host_library():
                return self.leave_out(i, i + 1)
            self.is_device = False
        elif kind == "op" and now == "<" and is_launch(self.tokens, i):
            return self.launch(i)
        elif kind == "op" and now == "::" and lacks_template(self.tokens, i):
            self.out += [(kind, now), ("name", "template ")]
            return i + 1
        elif kind == "name":
            if now in _SPECIFIERS:
                self.is_device |= now in ("__device__", "__global__", "__constant__")
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
            if now == "throw" and self.is_statement(i):
                self.out.append(("name", "ksim::cuda::thrown(), "))
        self.out.append((kind, now))
        return i + 1

    def is_of_host_library(self) -> bool:
        """Whether the declaration so far speaks of a library whose headers are not there, as of torch::Tensor."""
        if not self.lacks_libraries or self.is_device or not self.scopes[-1].declares:
            return False
        head = solid(self.out[declaration_start(self.out) :])
        words = [now for _, now in head]
        is_macro = words[1:2] == ["("] and words[-1] == ")" and opening(head, len(head) - 1) == 1  # PYBIND11_MODULE(m)
        is_macro = is_macro and words[0] != "static_assert" and not self.scopes[-1].is_class
        scopes = {first for first, second in itertools.pairwise(words) if second == "::"}
        return is_macro or bool(scopes & HOST_LIBRARIES) or any(now.startswith(HOST_PREFIXES) for now in words)

    def leave_out(self, i: int, end: int) -> int:
        """Takes back the declaration so far, of which tokens[i:end] is the rest, but for its line ends."""
        self.take_back(declaration_start(self.out))
        self.out.append(line_ends(self.tokens[i:end]))
        return end

    def take_back(self, start: int) -> None:
        """Takes back what was written from start on, but for its line ends and what pragmas end there."""
        self.out[start:] = [t if t[0] in ("line", "space") else line_ends([t]) for t in self.out[start:]]

    def open_scope(self, i: int) -> int:
        if self.is_of_host_library():
            return self.leave_out(i, closing(self.tokens, i) + 1)
        if self.scopes[-1].declares and in_brackets(self.out):  # of f(T x = {}), alignas(max({4, 8}))
            end = closing(self.tokens, i) + 1
            self.out.append(("name", text(self.tokens[i:end])))  # one word, of the declaration that goes on
            return end
        head = without_attributes(without_templates(solid(self.out[declaration_start(self.out) :])))
        words = {now for _, now in head}
        kept = self.host or self.is_device or "constexpr" in words or any(scope.is_class for scope in self.scopes)
        if not kept and self.scopes[-1].declares and is_function(head):
            end = closing(self.tokens, i)
            self.out += [("op", "{"), ("name", " __builtin_trap();"), line_ends(self.tokens[i:end]), ("op", "}")]
            return end + 1
        is_host = self.is_host(i, head)
        self.is_device = False
        declares = self.scopes[-1].declares and "(" not in words
        is_space = declares and bool(words & {"namespace", "extern"})
        is_type = declares and bool(words & {"struct", "class", "union"})
        name = "::".join(now for kind, now in head if kind == "name" and now not in ("namespace", "inline"))
        self.scopes.append(_Scope(is_space or is_type, name if "namespace" in words else "", is_type, i))
        if is_host:
            self.out.insert(following(self.out, declaration_start(self.out) - 1), ("space", "KSIM_HOST "))
            end = statement_end(self.tokens, i) if is_type else closing(self.tokens, i)
            self.behind[end] = [("space", " KSIM_HOST_END ")]
        self.out.append(self.tokens[i])
        if i in self.bodies:
            limits = self.declared.get(self.kernel_name, self.limits) if self.limits == _Limits() else self.limits
            self.limits = _Limits()
            declared = f"static ksim::cuda::Kernel ksim_kernel{{__PRETTY_FUNCTION__, {limits}}};"
            self.out += [("op", f" {declared} ksim::cuda::run(ksim_kernel, [=]() mutable "), ("op", "{")]
            self.behind[closing(self.tokens, i)] = [*(("op", character) for character in ");}"), *self.bodies[i]]
        return i + 1

    def is_host(self, i: int, head: Tokens) -> bool:
        """Whether a function, or class, for the host alone begins with the { at i: it may do what kernels may not."""
        words = {now for _, now in head}
        is_of_class = any(scope.is_class for scope in self.scopes)
        if not self.scopes[-1].declares or is_of_class or self.is_device or "constexpr" in words:
            return False
        if "(" in words:
            return is_function(head)
        of_device = {"__device__", "__global__", "constexpr"}
        inner = {now for _, now in self.tokens[i : closing(self.tokens, i)]}
        return bool(words & {"struct", "class", "union"}) and not inner & of_device

    def is_statement(self, i: int) -> bool:
        """Whether the throw at i begins a statement; others specify exceptions or are a part of `?:`."""
        return not self.scopes[-1].declares and ("op", "?") not in self.out[declaration_start(self.out) :]

    # ---- Kernels and launches

    def launch_bounds(self, i: int) -> int:
        """Takes __launch_bounds__(threads, ...) and its like out and remembers what they limit."""
        start = following(self.tokens, i)
        if word(self.tokens, start) != "(":
            raise SourceError(f"{place(self.tokens, i)}: {self.tokens[i][1]} needs arguments in brackets")
        end = closing(self.tokens, start)
        parts = split(self.tokens[start + 1 : end])
        if self.tokens[i][1] == "__launch_bounds__":
            self.limits.threads = text(parts[0]).strip()
        if self.tokens[i][1] == "__cluster_dims__":
            self.limits.cluster = "*".join(f"int({text(part).strip()})" for part in parts) or "2"
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
        names = tuple(parameter(part) or f"arg{n}" for n, part in enumerate(parts))
        head = solid(self.out[declaration_start(self.out) :])
        is_template = word(head, 0) == "template"
        is_definition = word(self.tokens, following(self.tokens, end)) == "{"
        is_instance = is_template and word(head, 1) != "<"
        self.kernel_name = qualified = "::".join([*self.namespaces(), name])
        if not is_instance and (is_definition or qualified not in self.source.entries):
            known = self.source.entries.get(qualified)
            is_template = is_template or bool(known and known.is_template)
            self.source.entries[qualified] = Entry(qualified, names, is_template)
        if not is_definition:
            return
        self.defined.add(qualified)
        self.bodies[following(self.tokens, end)] = []
        is_elsewhere = word(self.tokens, preceding(self.tokens, preceding(self.tokens, j))) == "::"
        if not (is_template or is_elsewhere or self.host):  # a pointer knows which of the functions of this name it is
            pointer = f"ksim_kernel_{len(self.source.pointers)}"
            types = ", ".join(without_default(part, _SPECIFIERS) for part in parts)
            declared = f" static void (*const {pointer})({types}) = &{name}"
            self.bodies[following(self.tokens, end)] = [("name", declared), ("op", ";")]
            self.source.pointers[qualified] = "::".join([*self.namespaces(), pointer])

    def launch(self, i: int) -> int:
        """callee<<<grid, block, shared, stream>>>(args) -> (configure(grid, block, shared, stream), callee(args))"""
        start = callee(self.out)
        if start is None:
            raise SourceError(f"{place(self.tokens, i)}: <<< does not stand behind a kernel's name")
        end = i + 3
        while end < len(self.tokens) and any(word(self.tokens, end + n) != ">" for n in range(3)):
            end = closing(self.tokens, end) + 1 if word(self.tokens, end) in ("(", "[", "{") else end + 1
        arguments = following(self.tokens, end + 2)
        if word(self.tokens, arguments) != "(":
            raise SourceError(f"{place(self.tokens, i)}: a launch needs >>> and arguments in brackets")
        kernel = self.out[start:]
        del self.out[start:]
        configuration = self.tokens[i + 3 : end]
        self.out += [("op", "(ksim::cuda::configure("), *configuration, ("op", "), "), *kernel]
        self.behind[closing(self.tokens, arguments)] = [("op", ")")]
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
        behind = behind_cast(self.tokens, cast)
        while behind is None and word(self.tokens, following(self.tokens, cast - 1)) == "(" and cast < end:
            cast = following(self.tokens, cast - 1) + 1  # in brackets
            behind = behind_cast(self.tokens, cast)
        behind = cast if behind is None or at >= len(parts) else behind
        self.out += [*self.tokens[i:cast], line_ends(self.tokens[cast:behind])]
        return behind

    # ---- Shared memory and assembly

    def shared_variable(self, i: int) -> int:
        """`__shared__ T a[N], b;` -> a struct of them in the running block's shared memory, and references to both."""
        start, end = declaration_start(self.out), statement_end(self.tokens, i)
        before = without_attributes(solid(self.out[start:]), ())
        self.take_back(start)
        is_dynamic = ("name", "extern") in before
        kept = [token for token in before if token[1] not in ("extern", "static") and token[0] != "string"]
        declaration = [*spaced(kept), *(t for t in self.tokens[i + 1 : end] if t[1] != "static")]
        # A static variable is nothing that lambdas copy, and what a name means is C++'s affair. A function's own
        # reference is faster: it stays in a register.
        function = next((scope.start for scope in self.scopes if not scope.declares), None)
        is_static = function is None or wants_static(self.tokens[function : closing(self.tokens, function)])
        reference = "static thread_local auto" if is_static else "auto"
        of_scope = "ksim::shared" if function is not None else "ksim::cuda::shared_of_namespace"
        for one in declarators(declaration) if is_dynamic else [declaration]:  # all dynamic ones begin at one address
            names = [declared_name(without_bodies(part)) for part in split(one)]
            body = "".join(now for _, now in one).strip()
            where = (function and self.scopes[-1].start, self.namespaces(), " ".join(body.split()))
            if is_dynamic and where in self.dynamic:
                continue  # as an extern variable may be declared again
            self.dynamic |= {where} if is_dynamic else set()
            self.shared_count += 1
            struct = f"ksim_shared_{self.shared_count}"
            named = f'static constexpr const char *ksim_names() {{ return "{", ".join(names)}"; }}'
            at = f"{'ksim::cuda::dynamic' if is_dynamic else of_scope}<{struct}>()"
            references = "".join(f"; {reference} &{name} = {at}.{name}" for name in names)
            self.out += [("name", f"struct {struct} {{ {body}; {named} }}{references}"), ("op", ";")]
        return end + 1

    def namespaces(self) -> tuple[str, ...]:
        """Those around, outermost first."""
        return tuple(name for scope in self.scopes for name in scope.name.split("::") if name)

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
    left = re.match(r"\s*#pragma ksim (?!without)(.*)", marker)
    return ("line", f"#{left[1]}\n") if left else ("space", "\n")
