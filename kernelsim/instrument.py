# SPDX-License-Identifier: MIT
"""Makes the traffic audit's callbacks tell what a GPU would access, in LLVM's assembly.

With -fsanitize-coverage=trace-loads,trace-stores the compiler calls back before every load and store of 1, 2, 4, 8 and
16 bytes. Three things are put right here:

- It does not say how an access is aligned. A CPU loads four bytes from any address at once, so that
  memcpy(&word, bytes, 4) is one access of 4 bytes, and so are four bytes put together by shifts; on a GPU it is four,
  for none is wider than its alignment.
- It is silent about other sizes and about copies of structs, which are memcpy to it. (So it is about atomic operations,
  but those report themselves.)
- It takes structs apart. `struct alignas(16) { half h[8]; }` read as a whole is eight loads of 2 bytes here, and one of
  16 on a GPU, whose compilers join neighbours where the alignment allows it. So are they here, within a basic block.

Such accesses get calls of their own instead of the compiler's:

    ksim_audit_load(pointer, bytes, alignment), ksim_audit_store(pointer, bytes, alignment)
"""

import re
from dataclasses import dataclass

WIDEST = 16  # bytes that a lane accesses at once
MARK = "ksim_audited"  # a symbol of libraries that went through here
_DECLARATIONS = f"""
@{MARK} = constant i8 1
declare void @ksim_audit_load(ptr, i64, i32)
declare void @ksim_audit_store(ptr, i64, i32)
"""
_ACCESS = re.compile(
    r"\s+(?:%\S+ = )?(?P<kind>load|store)\b(?P<operands>.*?)"
    r"(?: syncscope\(.*?\))?(?: (?:unordered|monotonic|acquire|release|acq_rel|seq_cst))*"
    r", align (?P<align>\d+)(?:, !.*)?$"
)
_MEMORY = re.compile(
    r"\s+(?:\w+ )?call void @llvm\.mem(?P<kind>cpy|move|set)\.\S*?\((?P<operands>.*)\)(?: #\d+)?(?:, !.*)?$"
)
_OFFSET = re.compile(
    r"\s+(?P<name>%\S+) = getelementptr (?:\w+ )*i8, ptr (?P<base>%[^,\s]+), i64 (?P<offset>-?\d+)(?:,|$)"
)
_CALLBACK = " call void @__sanitizer_cov_"
_TRACED = (1, 2, 4, 8, 16)  # bytes of an access that has a callback
_SIZES = {"half": 2, "bfloat": 2, "float": 4, "double": 8, "ptr": 8, "fp128": 16}


def instrument(assembly: str) -> str:
    """LLVM assembly of a kernel that was compiled with the callbacks, with calls that tell of all its accesses."""
    unseen = re.findall(r"^attributes (#\d+) = {[^}]*\bnosanitize_coverage\b", assembly, re.MULTILINE)
    thread_locals = set(re.findall(r"^(@\S+) = .*?\bthread_local\b", assembly, re.MULTILINE))
    writer, seen = _Writer(thread_locals), True
    for line in assembly.splitlines():
        if line.startswith("define"):
            seen = not any(f" {group} " in line for group in unseen)
        writer.add(line) if seen else writer.lines.append(line)
    writer.end_block()
    return "\n".join(line for line in writer.lines if line is not None) + _DECLARATIONS


@dataclass
class _Run:
    """Neighbours that are accessed one after another."""

    slot: int  # of the call in the lines
    call: str | None  # the compiler's, which stays if the run remains a single access
    kind: str
    pointer: str
    start: int
    end: int
    align: int
    location: str


class _Writer:
    def __init__(self, thread_locals: set[str]) -> None:
        self.lines: list[str | None] = []
        self._callback: str | None = None  # the compiler's, before the access that it tells of
        self._offsets: dict[str, tuple[str, int]] = {}  # pointers that lie at a constant distance from another
        self._runs: dict[tuple[str, str], _Run] = {}  # by kind and base
        self._of_module = thread_locals  # kernels have none, the simulator does
        self._thread_locals = thread_locals  # of a function: pointers to them

    def add(self, line: str) -> None:
        if _CALLBACK in line:
            self._callback = line
            return
        access = ", align " in line and _ACCESS.match(line)
        if access:
            self._access(access, line)
        elif self._callback:
            self.lines.append(self._callback)
        self._callback = None
        if not line.startswith(" "):  # a label, a function
            self.end_block()
            if line.startswith("define"):
                self._offsets, self._thread_locals = {}, set(self._of_module)
        elif " call " in line or " invoke " in line:
            copy = "@llvm.mem" in line and _MEMORY.match(line)
            if "@llvm.threadlocal.address" in line:
                self._thread_locals.add(line.split(maxsplit=1)[0])
            if copy or "@llvm." not in line:  # what might write
                self.end_block()
            if copy:
                self._copy(copy["kind"], _split(copy["operands"]), _location(line))
        elif " = phi ptr " in line and self._thread_locals.issuperset(re.findall(r"\[ (\S+),", line)):
            self._thread_locals.add(line.split(maxsplit=1)[0])
        elif offset := "getelementptr" in line and _OFFSET.match(line):
            base, before = self._place(offset["base"])
            self._offsets[offset["name"]] = (base, before + int(offset["offset"]))
        self.lines.append(line)

    def end_block(self) -> None:
        """No access behind this joins one before it."""
        for run in self._runs.values():
            size = run.end - run.start
            self.lines[run.slot] = run.call or _call(run.kind, run.pointer, size, run.align, run.location)
        self._runs = {}

    def _place(self, pointer: str) -> tuple[str, int]:
        return self._offsets.get(pointer, (pointer, 0))

    def _access(self, access: re.Match[str], line: str) -> None:
        value, pointer = _split(access["operands"])[:2]
        words = re.match(r"(?:atomic |volatile )*", value)
        special = words[0] if words else ""
        size = _size(_type(value[len(special) :]))
        if size is None or (size in _TRACED and not self._callback):
            self.lines += [self._callback] if self._callback else []
            return
        at = pointer.partition("ptr ")[2]
        if self._place(at)[0] in self._thread_locals:
            return
        self._join(access["kind"], at, size, int(access["align"]), _location(line), separate=bool(special))

    def _join(self, kind: str, pointer: str, size: int, align: int, location: str, *, separate: bool) -> None:
        base, offset = self._place(pointer)
        run = self._runs.get((kind, base))
        if run and not separate and run.end == offset and offset + size - run.start <= min(run.align, WIDEST):
            run.end += size
            run.call = None
            return
        if run:
            self.end_block()
        call = self._callback if align >= size else None
        self._runs[kind, base] = _Run(len(self.lines), call, kind, pointer, offset, offset + size, align, location)
        self.lines.append(None)
        if separate:
            self.end_block()

    def _copy(self, kind: str, operands: list[str], location: str) -> None:
        size = operands[2].split()[-1]
        for one, operand in (("store", operands[0]), ("load", operands[1])):
            pointer, align = operand.split()[-1], re.search(r"\balign (\d+)", operand)
            if pointer[0] == "%" and not (kind == "set" and one == "load"):
                self.lines.append(_call(one, pointer, size, int(align[1]) if align else 1, location))


def _call(kind: str, pointer: str, size: int | str, align: int, location: str) -> str:
    return f"  call void @ksim_audit_{kind}(ptr {pointer}, i64 {size}, i32 {align}){location}"


def _location(line: str) -> str:
    found = re.search(r", !dbg !\d+", line)
    return found[0] if found else ""


def _split(operands: str) -> list[str]:
    """Operands between commas that no bracket holds."""
    parts, depth, start = [], 0, 0
    for n, character in enumerate(operands):
        if character in "([{<":
            depth += 1
        elif character in ")]}>":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(operands[start:n].strip())
            start = n + 1
    return [*parts, operands[start:].strip()]


def _type(operand: str) -> str:
    """The type that an operand begins with."""
    bracketed = re.match(r"<[^>]*>", operand)
    return bracketed[0] if bracketed else operand.split(" ", 1)[0]


def _size(type: str) -> int | None:
    """Bytes of a scalar or a vector of them; None for what optimised code does not load as a whole."""
    vector = re.fullmatch(r"<(\d+) x (\S+)>", type)
    count, element = (int(vector[1]), vector[2]) if vector else (1, type)
    integer = re.fullmatch(r"i(\d+)", element)
    bits = int(integer[1]) if integer else 8 * _SIZES.get(element, 0)
    return (count * bits + 7) // 8 or None
