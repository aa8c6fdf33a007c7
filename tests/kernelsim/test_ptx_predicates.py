# SPDX-License-Identifier: MIT
"""Predicates, faults and approximations of PTX."""

import math
import operator

import numpy as np
import pytest
from operands import COUNT, TYPES, inputs, signed, sixteen

from kernelsim import cuda

ORDERED = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}


def comparison(name, a, b):
    """CmpOp of the ISA."""
    unordered = math.isnan(a) or math.isnan(b)
    if name in ("num", "nan"):
        return unordered == (name == "nan")
    if name in ("lo", "ls", "hi", "hs"):
        return ORDERED[{"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}[name]](a, b)
    return name.endswith("u") if unordered else ORDERED[name.removesuffix("u")](a, b)


@pytest.mark.parametrize(("kind", "type_"), [("f", "f32"), ("r", "s32"), ("r", "u32"), ("h", "f16")])
def test_setp_and_selp(kind, type_):
    a, b = inputs(kind, 1), inputs(kind, 2)
    b[::3] = a[::3]
    names = [
        *ORDERED,
        *{"u": ("lo", "ls", "hi", "hs"), "f": (*(n + "u" for n in ORDERED), "num", "nan")}.get(type_[0], ()),
    ]
    lines = "".join(
        f'asm("{{ .reg .pred p, q; setp.{name}.{type_} p|q, %1, %2; selp.u32 %0, 1, 2, p; @q add.u32 %0, %0, 2; }}"'
        f' : "=r"(r) : "{kind}"(a[i]), "{kind}"(b[i])); y[{COUNT} * {n} + i] = r;\n'
        for n, name in enumerate(names)
    )
    source = (
        f"#include <stdint.h>\n__global__ void k(const {TYPES[kind][0]}* a, const {TYPES[kind][0]}* b, uint32_t* y)"
        f"{{ const int i = blockIdx.x * 64 + threadIdx.x; uint32_t r;\n{lines}}}\n"
    )
    y = np.zeros((len(names), COUNT), np.uint32)
    cuda.load(source=source).kernel("k")([a, b, y], grid=COUNT // 64, block=64)
    value = {"f32": float, "s32": lambda x: signed(int(x), 32), "u32": int, "f16": sixteen}[type_]
    for n, name in enumerate(names):
        expected = [1 if comparison(name, value(p), value(q)) else 4 for p, q in zip(a, b, strict=True)]
        np.testing.assert_array_equal(y[n], expected, name)


def test_division_by_zero_is_a_fault():
    source = '__global__ void k(int* y) { asm("div.s32 %0, 1, %1;" : "=r"(*y) : "r"(*y)); }'
    with pytest.raises(Exception, match="integer division by zero"):
        cuda.load(source=source).kernel("k")([np.zeros(1, np.int32)], grid=1, block=1)


@pytest.mark.parametrize(
    ("opcode", "function", "bound"),
    [  # the ISA's bounds are looser
        ("ex2.approx.f32", np.exp2, 1e-6),
        ("lg2.approx.f32", np.log2, 1e-6),
        ("rcp.approx.f32", lambda x: 1 / x, 1e-6),
        ("rsqrt.approx.f32", lambda x: 1 / np.sqrt(x), 1e-6),
        ("sqrt.rn.f32", np.sqrt, 6e-8),
        ("sin.approx.f32", np.sin, 1e-6),
        ("tanh.approx.f32", np.tanh, 1e-6),
    ],
)
def test_functions(opcode, function, bound):
    x = np.linspace(0.01, 20, COUNT).astype(np.float32)
    y = np.zeros(COUNT, np.float32)
    source = (
        "__global__ void k(float* y, const float* x) { const int i = blockIdx.x * 64 + threadIdx.x;"
        f' asm("{opcode} %0, %1;" : "=f"(y[i]) : "f"(x[i])); }}'
    )
    cuda.load(source=source).kernel("k")([y, x], grid=COUNT // 64, block=64)
    np.testing.assert_allclose(y, function(x.astype(np.float64)), rtol=bound, atol=bound)
