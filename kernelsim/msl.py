# SPDX-License-Identifier: MIT
"""Makes C++ of preprocessed Metal Shading Language.

What MSL has and C++ has not is taken out on the level of tokens: address spaces, attributes, `kernel`, instantiations
with [[host_name]], function constants, threadgroup variables. Types are left to the compiler.
"""

import re
from dataclasses import dataclass, field, replace

from kernelsim.attributes import (
    SPACES,
    NotSimulated,
    Parameter,
    function_constant,
    has,
    max_threads_of,
    parameters_of,
    string_of,
)
from kernelsim.constants import derive_label, label
from kernelsim.errors import SourceError
from kernelsim.lint import Finding
from kernelsim.tokens import (
    Tokens,
    closing,
    declaration_start,
    declared_name,
    following,
    in_brackets,
    is_attribute,
    line,
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

_SWIZZLE = re.compile(r"\.\s*([xyzw]{2,4}|[rgba]{1,4})\b(?!\s*\()")
_ASKED = re.compile(r"(?:\bmetal(\s*)::(\s*))?\bis_function_constant_defined(\s*)\((\s*)((?:\w+\s*::\s*)*)(\w+)(\s*)\)")
_TYPES = ("struct", "class", "union")


@dataclass
class Entry:
    """A kernel that can be launched under `name`: the C++ `expression` names the function."""

    name: str
    expression: str
    function: str
    parameters: list[Parameter] = field(default_factory=list)
    max_threads: int | None = None
    conditions: list[str] = field(default_factory=list)  # constants that say which parameters there are
    refusal: str = ""  # why it cannot run here


@dataclass
class Source:
    """C++ and what a launcher must know of it."""

    body: str = ""
    entries: dict[str, Entry] = field(default_factory=dict)
    constants: dict[int, str] = field(default_factory=dict)  # function constants: index -> name
    derived: list[str] = field(default_factory=list)  # names of constants that are made of these
    dropped: list[Finding] = field(default_factory=list)


def swizzles(body: str) -> str:
    """The swizzles that occur in the source, as macros that define each as a property of vectors."""
    found = sorted(set(_SWIZZLE.findall(body)))
    letters = "xyzwrgba"
    return " ".join(
        f"KSIM_SWIZZLE{len(name)}({name}, {', '.join(str(letters.index(c) % 4) for c in name)})" for name in found
    )


@dataclass
class _Scope:
    number: int
    declares: bool  # a namespace or class: what stands in it are declarations, not statements
    name: str = ""
    type: str = ""  # of a class


def rewrite(preprocessed: str, *, keep_spaces: bool = False) -> Source:
    """C++ for execution; with keep_spaces, C++ for OpenCL, in which address spaces are checked.

    Raises:
        SourceError: it cannot be understood, with file and line.
    """
    # What asks whether a constant is given reads a variable, but for the address spaces.
    asked = "true" if keep_spaces else r"\5ksim_defined_\6"
    if keep_spaces:  # OpenCL's templates take functions by reference only
        preprocessed = re.sub(r"([<,]\s*\w+\s*\(\s*)\*(\s*\w+\s*\)\s*\()", r"\1&\2", preprocessed)
    preprocessed = re.sub(r"\busing\s+metal\s*::\s*is_function_constant_defined\s*;", "", preprocessed)
    return _Rewriter(tokenize(_ASKED.sub(rf"\1\2\3\4{asked}\7", preprocessed)), keep_spaces).run()


class _Rewriter:
    def __init__(self, tokens: Tokens, keep_spaces: bool) -> None:
        self.tokens = tokens
        self.keep = keep_spaces
        self.out: Tokens = []
        self.source = Source()
        self.definitions: dict[str, Entry] = {}
        self.scopes = [_Scope(0, declares=True)]
        self.scope_count = 0
        self.seen: dict[tuple[int, str], str] = {}  # bodies by scope and head
        self.shared_count = 0
        self.variable: dict[str, str] = {}  # function constants and what is made of them: name -> qualified name
        names = dict.fromkeys(SPACES, "")
        names["constant"] = "const"
        opencl = {"device": "__global", "constant": "__constant const", "threadgroup": "__local", "thread": "__private"}
        self.keywords = {**names, **opencl} if keep_spaces else names

    def run(self) -> Source:
        i = 0
        while i < len(self.tokens):
            i = self.step(i)
        for entry in self.source.entries.values():
            if entry.function not in self.definitions:
                raise SourceError(f"[[host_name]] {entry.name!r} instantiates {entry.function}, which is no kernel")
            found = self.definitions[entry.function]
            self.source.entries[entry.name] = replace(found, name=entry.name, expression=entry.expression)
        self.source.body = "".join(now for _, now in self.out)
        return self.source

    def step(self, i: int) -> int:
        """Writes what becomes of the token at i, and returns where to go on."""
        kind, now = self.tokens[i]
        if kind == "line":
            self.out.append(line(now))
            return i + 1
        if kind == "op" and now == "{":
            return self.open_scope(i)
        if kind == "op" and now == "}" and len(self.scopes) > 1:
            self.scopes.pop()
        elif kind == "op" and now == ";" and self.scopes[-1].declares and not self.keep:
            return self.declaration(i)
        elif kind == "number":
            self.out.append((kind, _literal(now)))
            return i + 1
        elif kind == "name" and now == "coherent" and word(self.tokens, following(self.tokens, i)) == "(":
            return closing(self.tokens, following(self.tokens, i)) + 1
        elif kind == "op" and is_attribute(self.tokens, i):
            return self.attribute(i)
        elif kind == "name" and now == "template" and is_attribute(self.tokens, following(self.tokens, i)):
            return self.instantiation(i)
        elif kind == "name" and now == "kernel":
            return self.kernel(i, i + 1)
        elif kind == "name" and now in self.keywords:
            return self.address_space(i)
        self.out.append((kind, now))
        return i + 1

    # ---- Scopes

    def open_scope(self, i: int) -> int:
        start = declaration_start(self.out)
        head = solid(self.out[start:])
        plain = without_templates(head)
        words = {now for _, now in plain}
        declares = self.scopes[-1].declares
        is_type = declares and bool(words & {*_TYPES, "enum"}) and "(" not in words
        is_space = declares and bool(words & {"namespace", "extern"}) and "(" not in words
        is_function = declares and "(" in words
        specialised = is_type and "<" in words
        if (is_function or specialised) and not self.keep and self.repeated(head, i):
            end = closing(self.tokens, i)
            after = following(self.tokens, end)
            end = after if word(self.tokens, after) == ";" else end
            self.out[start:] = [line_ends(self.out[start:] + self.tokens[i:end])]
            return end + 1
        names = [now for kind, now in plain if kind == "name" and now not in ("namespace", "extern")] or [""]
        self.scope_count += 1
        types = [plain[n][1] for n in range(1, len(plain)) if plain[n - 1][1] in _TYPES] or ["class"]
        space, type_ = names[-1] if is_space else "", types[0] if is_type else ""
        self.scopes.append(_Scope(self.scope_count, is_type or is_space, space, type_))
        self.out.append(self.tokens[i])
        return i + 1

    def declaration(self, i: int) -> int:
        """The ; at i, or nothing of a declaration that stands here already, as `T() thread = default;` may."""
        start = declaration_start(self.out)
        head = solid(self.out[start:])
        if not any(now == "default" for _, now in head) or not self.repeated(head):
            self.out.append(self.tokens[i])
            return i + 1
        self.out[start:] = [line_ends(self.out[start:])]
        return i + 1

    def repeated(self, head: Tokens, body: int | None = None) -> bool:
        """Whether a function or specialisation with this head stands here already: it was for another address space.

        If its body, whose { is at `body`, is another one, that is a finding: without address spaces the first one runs.
        """
        words = " ".join(now.strip() for _, now in head if now.strip())
        key = (self.scopes[-1].number, re.sub(r"\b(const )+", "const ", words))  # constant became const
        code = ""
        if body is not None:
            code = "".join(now for _, now in solid(self.tokens[body : closing(self.tokens, body)]) if now not in SPACES)
        found = key in self.seen
        if self.seen.setdefault(key, code) != code:
            file, _, number = place(self.tokens, body or 0).rpartition(":")
            message = "not executed: an overload for another address space, with another body, stands before it"
            self.source.dropped.append(Finding(file, int(number.split()[-1]), message))
        return found

    def qualified(self, name: str) -> str:
        return "::".join([*(scope.name for scope in self.scopes if scope.name), name])

    def label(self, name: str) -> str:
        """The assembler's name of a constant's variable, which is known by it from now on."""
        known = self.qualified(name)
        if self.variable.setdefault(name, known) != known:
            self.variable[name] = ""  # which of several is meant only the compiler knows
        return label(known)

    # ---- Attributes, kernels, instantiations

    def attribute(self, i: int) -> int:
        end = closing(self.tokens, i)
        words = [now for kind, now in self.tokens[i:end] if kind == "name"]
        if words[:1] == ["kernel"]:
            return self.kernel(i, end + 1)
        self.out.append(line_ends(self.tokens[i:end]))
        return end + 1

    def kernel(self, start: int, i: int) -> int:
        """A kernel function: `kernel void f(...)`, `[[kernel]] void f(...)`, attributes between and before them."""
        behind = i
        max_threads = max_threads_of(self.tokens[start:i])
        host_name = string_of(self.attributes_before(start), "host_name")
        while word(self.tokens, following(self.tokens, behind - 1)) == "[":
            behind = following(self.tokens, behind - 1)
            end = closing(self.tokens, behind)
            max_threads = max_threads or max_threads_of(self.tokens[behind:end])
            host_name = host_name or string_of(self.tokens[behind:end], "host_name")
            behind = end + 1
        result = following(self.tokens, behind - 1)
        name = following(self.tokens, result)
        parameters = following(self.tokens, name)
        if word(self.tokens, result) != "void" or word(self.tokens, parameters) != "(":
            self.out.append(line_ends(self.tokens[start:i]))
            return i
        end = closing(self.tokens, parameters)
        max_threads = max_threads or max_threads_of(self.attributes_before(start))
        function = self.qualified(self.tokens[name][1])
        definition = Entry(function, function, function, max_threads=max_threads)
        try:
            definition.parameters = parameters_of(self.tokens, parameters + 1, end)
        except NotSimulated as error:
            definition.refusal = str(error)
        conditions = {self.variable.get(p.condition.rpartition("::")[2], "") for p in definition.parameters}
        definition.conditions = sorted(conditions - {""})
        self.definitions.setdefault(function, definition)
        is_template = without_templates(solid(self.out[declaration_start(self.out) :])) == []
        is_template &= word(self.out, preceding(self.out, len(self.out))) == ">"
        if not is_template:
            entry = host_name or function
            self.source.entries[entry] = Entry(entry, function, function)
        if definition.refusal:  # its types may be unknown
            end = following(self.tokens, end)
            end = closing(self.tokens, end) if word(self.tokens, end) == "{" else statement_end(self.tokens, end)
            declaration = declaration_start(self.out)
            self.out[declaration:] = [line_ends(self.out[declaration:] + self.tokens[start:end])]
            return end + 1
        if not is_template and not self.keep:
            self.out.append(("name", "static "))
        self.out.append(line_ends(self.tokens[start:behind]))
        return behind

    def attributes_before(self, i: int) -> Tokens:
        """The attributes right before i."""
        first = i
        while True:
            last = preceding(self.tokens, first)
            if word(self.tokens, last) != "]" or word(self.tokens, last - 1) != "]":
                return self.tokens[first:i]
            first = opening(self.tokens, last)

    def instantiation(self, i: int) -> int:
        """`template [[host_name("n")]] [[kernel]] void f<A>(...);` is taken out: the launcher names what it needs."""
        end = statement_end(self.tokens, i)
        rest = following(self.tokens, i)
        host_name = ""
        while is_attribute(self.tokens, rest):
            behind = closing(self.tokens, rest)
            host_name = host_name or string_of(self.tokens[rest:behind], "host_name")
            rest = following(self.tokens, behind)
        declared = solid(self.tokens[rest:end])
        parameters = ""
        if declared and declared[-1][1] == ")":  # the form with parameters
            start = opening(declared, len(declared) - 1)
            parameters = self.types(declared[start + 1 : -1])
            declared = declared[:start]
        name = (
            opening(declared, len(declared) - 1) - 1 if word(declared, len(declared) - 1) == ">" else len(declared) - 1
        )
        first = name
        while word(declared, first - 1) == "::":
            first -= 2
        if not host_name or name < 0 or declared[name][0] != "name":
            raise SourceError(f"{place(self.tokens, i)}: an instantiation needs [[host_name]] and a kernel's name")
        function = self.qualified("".join(now for _, now in declared[first : name + 1]))
        arguments = self.types(declared[name + 1 :])
        expression = f"{function}{arguments}"
        if not arguments and parameters:  # the parameters decide which of the template's instances is meant
            expression = f"static_cast<void (*)({parameters})>({function})"
        self.source.entries[host_name] = Entry(host_name, expression, function)
        self.out.append(line_ends(self.tokens[i:end]))
        return end + 1

    def types(self, parameters: Tokens) -> str:
        """Parameters without attributes, and with address spaces as they are rewritten."""
        kept, i = [], 0
        while i < len(parameters):
            if is_attribute(parameters, i):
                i = closing(parameters, i)
            else:
                kept.append(self.keywords.get(parameters[i][1], parameters[i][1]))
            i += 1
        return " ".join(kept)

    # ---- Address spaces

    def address_space(self, i: int) -> int:
        now = self.tokens[i][1]
        after = following(self.tokens, i)
        before = preceding(self.out, len(self.out))
        opens = opening(self.out, before) if word(self.out, before) == ")" else 0
        if opens or (word(self.out, before) == "const" and word(self.tokens, after) in ("{", ":", ";")):
            # The space of a method's object; a constructor cannot be const.
            constructs = word(self.out, preceding(self.out, opens)) == self.scopes[-1].type
            space = self.keywords[now].removesuffix("const" if constructs else "") if self.keep else ""
            self.out.append(("name", space + " "))
            return i + 1
        is_parameter = in_brackets(self.out)
        if now == "threadgroup" and word(self.tokens, after) != "(" and not is_parameter and self.is_variable(i):
            return self.shared_variable(i)
        if now == "constant" and self.scopes[-1].declares and not self.scopes[-1].type and not is_parameter:
            end = self.constant(i)
            if end:
                return end
        while word(self.tokens, after) in ("const", "volatile"):
            after = following(self.tokens, after)
        if now == "thread" and word(self.tokens, after) in SPACES:  # of `thread const device T* p[2]`, p's own
            return i + 1
        self.out.append(("name", self.keywords[now] + " "))
        return i + 1

    def is_variable(self, i: int) -> bool:
        """Whether `threadgroup` at i begins the declaration of variables: no pointer, no reference, no parameter."""
        angles = 0
        j = i + 1
        while j < len(self.tokens):
            kind, now = self.tokens[j]
            if kind == "op":
                if now in "([":
                    j = closing(self.tokens, j)
                elif angles <= 0 and now in "*&)={,":
                    return now in ",="
                elif now == ";":
                    return True
                angles += (now == "<") - (now == ">")
            j += 1
        return False

    def shared_variable(self, i: int) -> int:
        """`threadgroup T a[N], b;` -> a struct of them in the shared memory of the running threadgroup."""
        if self.scopes[-1].declares:
            raise SourceError(f"{place(self.tokens, i)}: a threadgroup variable is declared inside of a kernel")
        end = statement_end(self.tokens, i)
        declaration = [t for t in self.tokens[i + 1 : end] if t[1] not in SPACES]
        parts = [_without_initialiser(part) for part in split(declaration)]  # which has no effect
        names = [declared_name(part) for part in parts]
        declaration = [t for n, part in enumerate(parts) for t in [("op", ",")][: n > 0] + part]
        self.shared_count += 1
        struct = f"ksim_shared_{self.shared_count}"
        references = "; ".join(f"auto& {name} = ksim::shared<{struct}>().{name}" for name in names)
        body = "".join(now for _, now in declaration).strip()
        named = "" if self.keep else f' static constexpr const char* ksim_names() {{ return "{", ".join(names)}"; }}'
        self.out += [("name", f"struct {struct} {{ {body};{named} }}; {references}"), ("op", ";")]
        return end + 1

    def constant(self, i: int) -> int:
        """A function constant, or one derived from it, becomes a variable that a launch sets. 0 if it is neither."""
        end = statement_end(self.tokens, i)
        declaration = self.tokens[i + 1 : end]
        if any(now == "(" for _, now in _before_equals(declaration)) and not has(declaration, "function_constant"):
            return 0
        name, derive, before = declared_name(declaration), "", ""
        if has(declaration, "function_constant"):
            plain, number = function_constant(declaration)
            name = declared_name(plain)
            self.source.constants[number] = self.qualified(name)
            flag = f"ksim_defined_{name}"
            before = f'[[gnu::used]] static bool {flag} asm("{self.label(flag)}") = false; '  # it keeps its name
        else:
            value = declaration[len(_before_equals(declaration)) + 1 :]
            if not any(kind == "name" and now in self.variable for kind, now in value):
                return 0
            plain = _before_equals(declaration)
            derive = (
                f'; [[gnu::noinline]] static void ksim_derive_{name}() asm("{derive_label(self.qualified(name))}"); '
                f"void ksim_derive_{name}() {{ {name} = {' '.join(text(value).split())}; }}"
            )
            self.source.derived.append(self.qualified(name))
        self.label(name)
        while self.out and word(self.out, preceding(self.out, len(self.out))) in ("static", "const", "constexpr"):
            del self.out[preceding(self.out, len(self.out)) :]
        kept = [t for t in plain if t[1] not in ("const", "constexpr", "static", *SPACES)]
        variable = f'{before}static {text(kept).strip()} asm("{self.label(name)}") {{}}{derive}'
        if self.keep:
            variable = f"__constant {text(kept).strip()} = {{}}"
        self.out += [("name", variable), ("op", ";"), line_ends(self.tokens[i:end])]
        return end + 1


_FLOAT = re.compile(r"((?:\d*\.\d*|\d+(?=[eE]))(?:[eE][+-]?\d+)?|0[xX][\da-fA-F.]*[pP][+-]?\d+)([a-zA-Z]*)")
_SUFFIXES = {"": "f", "h": "_h", "H": "_h", "bf": "_bf", "BF": "_bf"}


def _literal(number: str) -> str:
    """1.0 as 1.0f, for MSL has no double; 1.0h and 1.0bf as literals that C++ lets us define, 1.0_h and 1.0_bf."""
    found = _FLOAT.fullmatch(number.replace("'", ""))
    return found[1] + _SUFFIXES.get(found[2], found[2]) if found else number


def _before_equals(tokens: Tokens) -> Tokens:
    at = next((n for n, (kind, now) in enumerate(tokens) if kind == "op" and now in "={"), len(tokens))
    return tokens[:at]


def _without_initialiser(declarator: Tokens) -> Tokens:
    depth = 0
    for n, (kind, now) in enumerate(declarator):
        if kind == "op":
            depth += (now in "([") - (now in ")]")
            if depth == 0 and now in "={":
                return declarator[:n]
    return declarator
