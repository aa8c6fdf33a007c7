# SPDX-License-Identifier: MIT
"""The table of PTX instructions: what it describes is found, its C++ exists, architectures have what they have."""

import re

import pytest

from kernelsim import cuda, ptx, ptx_forms, ptx_table, toolchain
from kernelsim.errors import ArgumentError, SourceError
from kernelsim.ptx import AsmOperand

# ---- Architectures and spellings


def translated(template, arch=None):
    operands = [AsmOperand("=r", "(x)"), AsmOperand("r", "(y)"), AsmOperand("l", "(p)"), AsmOperand("n", "(4)")]
    return ptx.translate(template, operands[:1], operands[1:], arch)


@pytest.mark.parametrize(
    ("template", "arch", "needs"),
    [
        ("cp.async.ca.shared.global [%1], [%2], 4;", "sm_75", "sm_80"),
        ("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];", "sm_70", "sm_75"),
        ("redux.sync.add.u32 %0, %1, %1;", "sm_75", "sm_80"),
        ("cvt.rn.f16x2.e4m3x2 %0, %1;", "sm_86", "sm_89"),
        ("{ .reg .b16 b; cvt.rn.satfinite.ue8m0x2.bf16x2 b, %1; }", "sm_90", "does not know"),
        ("{ .reg .b16 b; cvt.rz.satfinite.ue8m0x2.bf16x2 b, %1; }", "sm_90", "sm_100a or sm_110a or sm_120a"),
        ("{ .reg .b8 b; cvt.rn.f16x2.e2m1x2 %0, b; }", "sm_120", "sm_100a or sm_110a or sm_120a"),
        ("elect.sync %0|p, %1;", "sm_89", "sm_90"),
        ("setmaxnreg.inc.sync.aligned.u32 40;", "sm_90", "sm_90a"),
        ("redux.sync.min.f32 %0, %1, %1;", "sm_120a", "sm_100a"),
    ],
)
def test_instructions_that_an_architecture_lacks(template, arch, needs):
    with pytest.raises(SourceError, match=needs) as error:
        translated(template, arch)
    assert arch in str(error.value) or "does not know" in needs


@pytest.mark.parametrize(
    ("arch", "lacks"),
    [("sm_90a", True), ("sm_100a", True), ("sm_120", True), ("sm_120a", False), ("sm_120f", False), ("sm_121a", False)],
)
def test_features_of_a_family(arch, lacks):
    scaled = "mma.sync.aligned.m16n8k64.row.col.kind::mxf4.block_scale.scale_vec::2X.f32.e2m1.e2m1.f32.ue8m0"
    (form,) = [form for form in ptx_forms.forms("mma") if form.match(scaled)]
    assert form.lacks(arch) == lacks


@pytest.mark.parametrize(
    ("opcode", "same"),
    [
        ("cvt.satfinite.rn.e4m3x2.f16x2", "cvt.rn.satfinite.e4m3x2.f16x2"),
        ("fma.rn.f16x2.relu", "fma.rn.relu.f16x2"),
        ("atom.add.release.gpu.global.s32", "atom.release.gpu.global.add.s32"),
        ("ld.global.acquire.gpu.b32", "ld.acquire.gpu.global.b32"),
        ("ldmatrix.sync.aligned.x4.trans.m8n8.shared.b16", "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16"),
        (
            "mma.sync.aligned.kind::mxf4.block_scale.scale_vec::2X.m16n8k64.row.col.f32.e2m1.e2m1.f32.ue8m0",
            "mma.sync.aligned.m16n8k64.row.col.kind::mxf4.block_scale.scale_vec::2X.f32.e2m1.e2m1.f32.ue8m0",
        ),
        (
            "mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32.satfinite",
            "mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.u8.s32",
        ),
    ],
)
def test_modifiers_stand_in_any_order(opcode, same):
    one, other = ([form.match(o) for form in ptx_forms.forms(o)] for o in (opcode, same))
    assert any(one)
    assert one == other


def test_types_do_not():
    (form,) = [form for form in ptx_forms.forms("cvt") if form.match("cvt.rn.bf16.f32")]
    assert "encode_one" in form.callee
    for opcode in ("add.s32.s32", "cvt.f32.rn.f64.f32", "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f16"):
        assert not any(form.match(opcode) for form in ptx_forms.forms(opcode))


def test_an_architecture_by_another_name():
    with pytest.raises(ValueError, match="sm_9x"):
        ptx_forms.forms("elect")[0].lacks("sm_9x")


# ---- The table


def alternatives(syntax):
    """Each opcode that a line of the table describes, every alternative at least once."""
    parts = re.findall(r"\{[^{}]*\}|<\w+:[^>]*>|\b[A-Z][A-Z0-9_]+\b|=\w+|[^{<=A-Z]+|[A-Z]", syntax)
    sets = ptx_table.SETS | {"HINTS": "ca", "SYNC": "relaxed.gpu.global"}
    choices = []
    for part in parts:
        inside = re.fullmatch(r"<(\w+):(.*)>", part)
        if part in sets:
            choices.append(
                ["ca"] if part == "HINTS" else ["relaxed.gpu.global"] if part == "SYNC" else sets[part].split("|")
            )
        elif part.startswith("{"):
            choices.append(["", *(one for alt in re.split(r"\|(?=\.)", part[1:-1]) for one in alternatives(alt))])
        elif inside:
            choices.append(re.sub(r"[A-Z][A-Z0-9_]+", lambda m: sets.get(m[0], m[0]), inside[2]).split("|"))
        else:
            choices.append([part])
    first = [choice[0] for choice in choices]
    return ["".join([*first[:n], one, *first[n + 1 :]]) for n, choice in enumerate(choices) for one in choice]


def lines():
    table = ptx_table.TABLE.replace("\\\n", "")
    return [line.partition(" : ")[0].strip() for line in table.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("line", lines())
def test_every_line_of_the_table_is_found(line):
    syntax = line.partition(" ")[0]
    for opcode in alternatives(syntax):
        given = re.search(r"\.(f16|f32)\b", opcode)
        one = opcode.replace("=d", given[1]) if given else opcode
        assert any(form.match(one) for form in ptx_forms.forms(one)), one


def test_functions_of_values_exist():
    """The C++ of each line `d = f` names a function for all alternatives."""
    functions = set()
    for line in lines():
        for opcode in alternatives(line.partition(" ")[0]):
            for form in ptx_forms.forms(opcode):
                values = form.match(opcode)
                if values and form.style:
                    functions.add(form.callee.format(**values))
    source = '#include "cuda/ptx.hpp"\n' + "\n".join(
        f"auto *const f{n} = &ksim::ptx::{function};" for n, function in enumerate(sorted(functions))
    )
    assert len(functions) > 300
    toolchain.find().compile(source, [*cuda.FLAGS, "-O0"], suffix=".o")


def test_unknown_architectures_are_the_callers_mistake():
    with pytest.raises(ArgumentError, match="sm_12"):
        cuda.load(source="__global__ void k() {}", arch="sm_12")
