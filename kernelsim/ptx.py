# SPDX-License-Identifier: MIT
"""Inline PTX as C++: the instructions of an asm statement become calls of the functions in runtime/cuda/ptx*.hpp.

    asm volatile("add.f32 %0, %1, %2;" : "=f"(d) : "f"(a), "f"(b));

becomes, in one line,

    do {
        auto &&ksim_o0 = (d);
        uint32_t ksim_r0 = -1, ksim_r1 = ksim::ptx::read<uint32_t>(a), ksim_r2 = ...;
        ksim::ptx::set<ksim::ptx::add<float, ...>>(ksim_r0, ksim_r1, ksim_r2);
        ksim::ptx::write(ksim_o0, ksim_r0);
    } while (0)

Registers are unsigned integers of their width; the functions know what the bits mean. What cannot be translated
becomes a call that no compiler lets pass, with the reason: like ptxas, it then concerns nobody but who uses it.
"""

import itertools
import re
from dataclasses import dataclass, field

from kernelsim.errors import SourceError
from kernelsim.ptx_forms import Form, Operand, forms
from kernelsim.tokens import Token, Tokens, closing, following, line_ends, place, solid, split, text, tokenize
from kernelsim.tokens import word as token_word

KEYWORDS = ("asm", "__asm__", "__asm")
_QUALIFIERS = ("volatile", "__volatile__", "inline", "__inline__")
_CONSTRAINTS = {"h": 16, "r": 32, "f": 32, "l": 64, "d": 64, "q": 128}  # and "n", an integer constant
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'", "v": "\v", "f": "\f", "a": "\a", "\n": ""}
_PTX = "::ksim::ptx::"


@dataclass(frozen=True)
class AsmOperand:
    """`"=r"(x)`: what may be done to the register, its width in bits, and the C++ expression."""

    constraint: str
    expression: str

    @property
    def width(self) -> int:
        """0 for an immediate."""
        letter = self.constraint.lstrip("=+&")
        if letter == "n":
            return 0
        if letter not in _CONSTRAINTS:
            raise SourceError(f'constraint "{self.constraint}" is not one of h r l f d q n')
        return _CONSTRAINTS[letter]


def asm(tokens: Tokens, i: int, arch: str | None = None) -> tuple[int, Tokens]:
    """The C++ statement for the asm statement whose keyword is token i, and the index of its closing bracket.

    Args:
        arch: what the source is compiled for, such as sm_90a; an instruction that it lacks is an error.
    """
    j = following(tokens, i)
    while token_word(tokens, j) in _QUALIFIERS:
        j = following(tokens, j)
    if token_word(tokens, j) != "(":
        raise SourceError(f"{place(tokens, i)}: asm {token_word(tokens, j)} is not supported")
    end = closing(tokens, j)
    try:
        template, outputs, inputs, clobbers = _sections(tokens[j + 1 : end])
        statement = translate(template, outputs, inputs, arch, memory="memory" in clobbers, number=i)
    except SourceError as error:
        statement = refusal(str(error), number=i)
    return end, [*tokenize(statement), line_ends(tokens[i:end])]


def refusal(reason: str, number: int) -> str:
    """C++ that compiles where it is never used, and otherwise gives the reason as the compiler's error."""
    name = f"ksim_asm_{number}"
    reason = reason.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
    return f'do {{ void {name}() __attribute__((error("asm: {reason}"))); {name}(); }} while (0)'


def _sections(inside: Tokens) -> tuple[str, list[AsmOperand], list[AsmOperand], list[str]]:
    """Template, outputs, inputs and clobbers of what stands between the brackets."""
    parts: list[Tokens] = [[]]
    depth = 0
    for kind, now in inside:
        if kind == "op":
            depth += (now in "([{") - (now in ")]}")
            if depth == 0 and now in (":", "::"):
                parts += [[] for _ in now]
                continue
        parts[-1].append((kind, now))
    parts += [[], [], []]
    strings, outputs, inputs, clobbers = parts[:4]
    literals = solid(strings)
    if not literals or any(kind != "string" for kind, _ in literals):
        raise SourceError("the instructions are not a string literal")
    template = "".join(unquote(literal) for _, literal in literals)
    named = [unquote(literal) for kind, literal in clobbers if kind == "string"]
    return template, [_operand(part) for part in split(outputs)], [_operand(part) for part in split(inputs)], named


def _operand(tokens: Tokens) -> AsmOperand:
    words = solid(tokens)
    if not words or words[0][0] != "string":
        raise SourceError(f"operand {text(tokens).strip()} does not begin with a constraint")
    start = next(n for n, token in enumerate(tokens) if token == ("op", "("))
    expression: list[Token] = [("space", " ") if token[0] == "line" else token for token in tokens[start:]]
    return AsmOperand(unquote(words[0][1]), " ".join(text(expression).split("\n")).strip())


def unquote(literal: str) -> str:
    """The characters of a C++ string literal."""
    raw = re.fullmatch(r'(?:u8|[uUL])?R"([^()\\\s]*)\((.*)\)\1"', literal, re.DOTALL)
    if raw:
        return raw[2]
    body = literal[literal.index('"') + 1 : -1]
    return re.sub(r"\\(x[0-9a-fA-F]+|[0-7]{1,3}|\n|.)", lambda m: _escape(m[1]), body, flags=re.DOTALL)


def _escape(behind: str) -> str:
    """The character for what stands behind a backslash; none for the end of a line."""
    if behind[0] == "x" and len(behind) > 1:
        return chr(int(behind[1:], 16))
    if behind[0] in "01234567":
        return chr(int(behind, 8))
    return _ESCAPES.get(behind, behind)


def translate(
    template: str,
    outputs: list[AsmOperand],
    inputs: list[AsmOperand],
    arch: str | None = None,
    *,
    memory: bool = False,
    number: int = 0,
) -> str:
    """C++ for the instructions of template.

    Args:
        arch: see asm().
        memory: the compiler must not move memory accesses across it.
        number: of the statement, another one for each of a function.

    Raises:
        SourceError: they cannot be translated; the message names the instruction.
    """
    statement = _Statement(arch, number)
    before, after = statement.bind(outputs, inputs)
    statement.block(template)
    declared = [f"{_type(r.width)} {r.cpp} = {r.start};" for r in statement.declared]
    fence = ["__atomic_signal_fence(__ATOMIC_SEQ_CST);"] if memory else []
    return " ".join(["do {", *before, *declared, *fence, *statement.code, *fence, *after, "} while (0)"])


@dataclass(frozen=True)
class Register:
    """A register: its name in C++, bits (0 an immediate, 1 a predicate), and what it holds at first."""

    cpp: str
    width: int
    start: str = "-1"


def _type(width: int) -> str:
    return {1: "bool", 128: "unsigned __int128"}.get(width, f"uint{width}_t")


_WIDTHS = {"pred": 1, "f16": 16, "bf16": 16, "f16x2": 32, "bf16x2": 32, "tf32": 32, "f32x2": 64}
_STATEMENT = re.compile(
    r"""\s* (?: (?P<open>\{) | (?P<close>\}) | (?P<label>[A-Za-z_$%][\w$]*) \s* :(?!:)
            | \.reg \s* \.(?P<type>\w+) \s+ (?P<names>[^;]*) ;
            | (?:@(?P<unless>!?)\s*(?P<guard>%?[\w$%]+)\s+)? (?P<opcode>[a-z][\w.:]*) \s* (?P<operands>[^;]*) (?:;|$)
            | ; )""",
    re.VERBOSE,
)


@dataclass
class _Statement:
    """An asm statement while it is translated."""

    arch: str | None
    number: int
    operands: list[Register] = field(default_factory=list)
    scopes: list[dict[str, Register]] = field(default_factory=lambda: [{}])
    declared: list[Register] = field(default_factory=list)
    code: list[str] = field(default_factory=list)

    def bind(self, outputs: list[AsmOperand], inputs: list[AsmOperand]) -> tuple[list[str], list[str]]:
        """C++ that takes the operands in, and that which gives the outputs back."""
        before: list[str] = []
        after: list[str] = []
        starts = [f"{_PTX}read<{_type(o.width)}>(ksim_o{n})" if "+" in o.constraint else "-1"
                  for n, o in enumerate(outputs)]  # fmt: skip
        tied = [int(o.constraint) if o.constraint.isdigit() else -1 for o in inputs]
        for n, operand in zip(tied, inputs, strict=True):
            if n >= len(outputs):
                raise SourceError(f'there is no operand %{n} for constraint "{n}"')
            if n >= 0:
                starts[n] = f"{_PTX}read<{_type(outputs[n].width)}>({operand.expression})"
        for n, operand in enumerate(outputs):
            if not operand.constraint.startswith(("=", "+")) or not operand.width:
                raise SourceError(f'"{operand.constraint}" is not an output\'s constraint')
            register = Register(f"ksim_r{n}", operand.width)
            before.append(f"auto &&ksim_o{n} = {operand.expression};")
            before.append(f"{_type(operand.width)} {register.cpp} = {starts[n]};")
            after.append(f"{_PTX}write(ksim_o{n}, {register.cpp});")
            self.operands.append(register)
        for n, operand in enumerate(inputs):
            if tied[n] >= 0:
                self.operands.append(self.operands[tied[n]])
                continue
            register = Register(f"ksim_r{n + len(outputs)}", operand.width)
            taken = f"{_PTX}read<{_type(operand.width)}>({operand.expression})"
            before.append(
                f"const {_PTX}Imm {register.cpp}{{(long long){operand.expression}}};"
                if not operand.width
                else f"{_type(operand.width)} {register.cpp} = {taken};"
            )
            self.operands.append(register)
        return before, after

    def block(self, template: str) -> None:
        source = re.sub(r"/\*.*?\*/|//[^\n]*", " ", template, flags=re.DOTALL).replace("%=", "_").strip()
        at = 0
        while at < len(source):
            m = _STATEMENT.match(source, at)
            if not m or m.end() == at:
                raise SourceError(f"cannot read PTX from here: {source[at : at + 60].strip()}")
            at = m.end()
            if m["open"]:
                self.scopes.append({})
            elif m["close"]:
                if len(self.scopes) == 1:
                    raise SourceError("a } closes no {")
                self.scopes.pop()
            elif m["label"]:
                self.code.append(f"{self.label(m['label'])}:;")
            elif m["type"]:
                self.declare(m["type"], m["names"])
            elif m["opcode"]:
                guard = f"if ({m['unless']}{self.predicate(m['guard'])}) " if m["guard"] else ""
                self.code.append(f"{guard}{{ {self.instruction(m['opcode'], m['operands'].strip())} }}")
            while at < len(source) and source[at].isspace():
                at += 1
        if len(self.scopes) != 1:
            raise SourceError("a { is never closed")

    def label(self, name: str) -> str:
        return f"ksim_l{self.number}_{re.sub(r'[^A-Za-z0-9_]', '_', name)}"

    def declare(self, kind: str, names: str) -> None:
        width = _WIDTHS.get(kind) or int(kind[1:] if re.fullmatch(r"[busf](8|16|32|64|128)", kind) else 0)
        if not width:
            raise SourceError(f".reg .{kind} {names}: no such type")
        for name in (name.strip() for name in names.split(",")):
            many = re.fullmatch(r"(%?%?[\w$]+)<(\d+)>", name)
            for one in [f"{many[1]}{n}" for n in range(int(many[2]))] if many else [name]:
                register = Register(f"ksim_t{len(self.declared)}", width)
                self.declared.append(register)
                self.scopes[-1][one.lstrip("%")] = register

    def scratch(self, width: int) -> str:
        self.declared.append(Register(f"ksim_t{len(self.declared)}", width))
        return self.declared[-1].cpp

    def find(self, word: str) -> Register | None:
        """The register or asm operand that word names."""
        if re.fullmatch(r"%\d+", word):
            if int(word[1:]) >= len(self.operands):
                raise SourceError(f"there is no operand {word}")
            return self.operands[int(word[1:])]
        name = word.lstrip("%")
        return next((scope[name] for scope in reversed(self.scopes) if name in scope), None)

    def predicate(self, word: str) -> str:
        register = self.find(word)
        if not register or register.width != 1:
            raise SourceError(f"{word} is not a predicate")
        return register.cpp

    def instruction(self, opcode: str, operands: str) -> str:
        """The call of one instruction."""
        if opcode in ("bra", "bra.uni"):
            return f"goto {self.label(operands)};"
        found = [(form, values) for form in forms(opcode) if (values := form.match(opcode)) is not None]
        if not found:
            raise SourceError(f"{opcode}: kernelsim does not know this PTX instruction")
        words = [word.strip() for word in _split(operands)] if operands else []
        fitting = [(form, values) for form, values in found if form.takes(len(words))]
        if not fitting:
            raise SourceError(f"{opcode} {operands}: other operands are wanted: {found[0][0].syntax}")
        usable = [(form, values) for form, values in fitting if not self.arch or not form.lacks(self.arch)]
        if not usable:
            needs = " or ".join(f"sm_{need}" for need in fitting[0][0].needs)
            raise SourceError(f"{opcode} needs {needs}, and this is compiled for {self.arch}")
        try:
            return self.call(*usable[0], words)
        except SourceError as error:
            raise SourceError(f"{opcode} {operands}: {error}") from None

    def call(self, form: Form, values: dict[str, str], words: list[str]) -> str:
        arguments = [
            argument
            for operand, word in zip(form.operands, words, strict=False)
            for argument in self.arguments(operand, word, values)
        ]
        callee = form.callee.format(**values)
        callee = {"=": f"set<{_PTX}{callee}>", "~": f"set_wide<{_PTX}{callee}>"}.get(form.style, callee)
        return f"{_PTX}{callee}({', '.join(arguments)});"

    def arguments(self, operand: Operand, word: str, values: dict[str, str]) -> list[str]:
        """C++ for one operand: two arguments for two results, none for a hint."""
        if operand.kind == "hint":
            return []
        if operand.kind == "result":
            names = [part.strip() for part in word.split("|")]
            if len(names) > len(operand.names):
                raise SourceError(f"{word} are too many results")
            both = itertools.zip_longest(operand.names, names, fillvalue="_")
            return [self.result(given) if name == "d" else self.predicate_result(given) for name, given in both]
        if operand.kind == "source":
            return [self.source(word)]
        inside = re.fullmatch(r"\[(.*)\]", word, re.DOTALL)
        if not inside:
            raise SourceError(f"{word} is not an address in [ ]")
        terms = re.findall(r"[+-]?[^+-]+", re.sub(r"\s|\+(?=-)", "", inside[1]))
        parts = [self.source(term.lstrip("+")) for term in terms]
        return [f"{_PTX}at<{operand.space.format(**values)}>(::ksim::here(), {', '.join(parts)})"]

    def predicate_result(self, word: str) -> str:
        return self.scratch(1) if word == "_" else self.predicate(word)

    def result(self, word: str) -> str:
        vector = re.fullmatch(r"\{(.*)\}", word, re.DOTALL)
        if vector:
            names = [name.strip() for name in _split(vector[1])]
            width = next((r.width for name in names if (r := self.find(name))), 32)
            parts = [self.scratch(width) if name == "_" else self.result(name) for name in names]
            return f"{_PTX}tie({', '.join(parts)})"
        if word == "_":
            return self.scratch(32)
        register = self.find(word)
        if not register or not register.width:
            raise SourceError(f"{word} is not a register")
        return register.cpp

    def source(self, word: str) -> str:
        vector = re.fullmatch(r"\{(.*)\}", word, re.DOTALL)
        if vector:
            return f"{_PTX}vec({', '.join(self.source(part.strip()) for part in _split(vector[1]))})"
        if word.startswith("!"):
            return f"!{self.predicate(word[1:].strip())}"
        register = self.find(word)
        if register:
            return register.cpp
        special = _SPECIAL.get(word.lstrip("%")) if word.startswith("%") else None
        if special:
            return special
        return _immediate(word)


def _split(operands: str) -> list[str]:
    """At commas outside of brackets."""
    parts, depth = [""], 0
    for c in operands:
        depth += (c in "{[") - (c in "}]")
        if c == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += c
    return parts


def _immediate(word: str) -> str:
    """C++ for a constant (PTX ISA, Constants)."""
    negative, digits = word.startswith("-"), word.lstrip("-").strip()
    sign = "-" if negative else ""
    if re.fullmatch(r"0[fF][0-9a-fA-F]{8}", digits):
        return f"{_PTX}Real{{{sign}__builtin_bit_cast(float, 0x{digits[2:]}u)}}"
    if re.fullmatch(r"0[dD][0-9a-fA-F]{16}", digits):
        return f"{_PTX}Real{{{sign}__builtin_bit_cast(double, 0x{digits[2:]}ull)}}"
    if re.fullmatch(r"\d+\.\d*(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+", digits):
        return f"{_PTX}Real{{{sign}{digits}}}"
    if re.fullmatch(r"(0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)U?", digits):
        number = digits.rstrip("U")
        value = int(number, 8) if re.fullmatch(r"0[0-7]+", number) else int(number, 0)
        return f"{_PTX}Imm{{(long long){sign}{value}ull}}"
    if digits == "WARP_SZ":
        return f"{_PTX}Imm{{32}}"
    raise SourceError(f"{word} is neither a register nor a constant")


_SPECIAL = (
    {
        f"{name}.{axis}": f"(uint32_t){expression}.{axis}"
        for name, expression in {
            "tid": "::ksim::self().position",
            "ntid": "::ksim::worker->group_size",
            "ctaid": "::ksim::worker->group_position",
            "nctaid": "::ksim::worker->launch->groups",
        }.items()
        for axis in "xyz"
    }
    | {
        f"{name}.{axis}": f"(uint32_t){value}"  # a cluster is one block
        for name, value in {"cluster_ctaid": 0, "cluster_nctaid": 1}.items()
        for axis in "xyz"
    }
    | {
        f"{name}.{axis}": f"(uint32_t){expression}.{axis}"
        for name, expression in {
            "clusterid": "::ksim::worker->group_position",
            "nclusterid": "::ksim::worker->launch->groups",
        }.items()
        for axis in "xyz"
    }
    | {"cluster_ctarank": "(uint32_t)0", "cluster_nctarank": "(uint32_t)1", "is_explicit_cluster": "false"}
    | {
        name: f"{_PTX}special_{name}()"
        for name in (
            *("laneid", "warpid", "nwarpid", "smid", "nsmid", "gridid", "dynamic_smem_size"),
            *("lanemask_eq", "lanemask_le", "lanemask_lt", "lanemask_ge", "lanemask_gt"),
            *("clock", "clock_hi", "clock64", "globaltimer", "globaltimer_lo", "globaltimer_hi"),
        )
    }
)
