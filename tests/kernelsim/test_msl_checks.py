# SPDX-License-Identifier: MIT
"""What Apple's compiler refuses, found without it: the lint, recursion, and the pass over address spaces."""

import pytest
from simulated import KERNELS

from kernelsim import metal

MATRIX = (KERNELS / "matrix.metal").read_text()


@pytest.mark.parametrize("name", ["matrix", "language"])
def test_right_kernels_have_no_findings(name):
    assert metal.load(KERNELS / f"{name}.metal").check() == []


LINT = [
    ("float sum = 0;", "double sum = 0;", "MSL has no double"),
    ("float sum = 0;", "auto f = [&](float v) { return v; }; float sum = f(0);", "MSL has no lambda expressions"),
    ("float sum = 0;", "float sum = 0; goto end; end:", "MSL has no goto"),
    ("float sum = 0;", "float sum = *new float;", "MSL has no new"),
    ("device const half4* w4 = ", "const half4* w4 = ", "a pointer to half4 names no address space"),
    ("(device const half4*)x", "(const half4*)x", "a pointer to half4 names no address space"),
    ("float sum = 0;", "float sum = 0; float& alias = sum;", "a reference to float names no address space"),
    ("kernel void gemv_f16", "float f(const half* p) { return 0; }\nkernel void gemv_f16", "a pointer to half names"),
]  # fmt: skip


@pytest.mark.parametrize(("right", "wrong", "message"), LINT)
def test_lint(right, wrong, message):
    assert right in MATRIX
    text = MATRIX.replace(right, wrong, 1)
    findings = metal.load(source=text).lint()
    assert [finding.message for finding in findings if message in finding.message]
    line = next(n for n, (a, b) in enumerate(zip(MATRIX.splitlines(), text.splitlines(), strict=False), 1) if a != b)
    assert line in {finding.line for finding in findings}


@pytest.mark.parametrize(
    "code",
    [
        "uint a = 3, b = 4; uint c = a * b, d = a & b;",
        "thread half4* p = &v; thread float& r = s; const device half4* q = (const device half4*)y;",
        "y[0] = half(float(v.x) * s); y[1 & 1] = v[0];",
        "auto p = &v; auto& r = s; r = (*p).x * s;",
        "float table[2] = {1, 2}; s = table[int(s) & 1] * (s);",
    ],
)
def test_lint_leaves_what_is_right_alone(code):
    body = f"float s = 0; half4 v = 0; {code}"
    source = f"#include <metal_stdlib>\nusing namespace metal;\nkernel void f(device half* y) {{ {body} }}\n"
    assert metal.load(source=source).lint() == []


def test_recursion():
    functions = """
    int odd(int n);
    int even(int n) { return n == 0 ? 1 : odd(n - 1); }
    int odd(int n) { return n == 0 ? 0 : even(n - 1); }
    template <int n> int depth() { if constexpr (n > 0) return 1 + depth<n - 1>(); else return 0; }
    kernel void f(device int* y) { y[0] = even(y[0]) + depth<3>(); }
    """
    findings = metal.load(source=functions).check()
    assert {f.message for f in findings} == {
        "even calls itself; MSL has no recursion",
        "odd calls itself; MSL has no recursion",
    }
    assert {f.line for f in findings} == {3, 4}


SPACES = [
    ("threadgroup half4* to_a = (threadgroup half4*)&a_tile[row][column];", "threadgroup half* to_a = a;"),
    ("(threadgroup half4*)&a_tile[row][column]", "(threadgroup half4*)&a[row]"),
    ("device const half4* x4 = (device const half4*)x;", "constant half4* x4 = (constant half4*)x;"),
    ("if (lane == 0) y[row] = half(sum);", "if (lane == 0) w[row] = half(sum);"),
    ("dot(float4(w4[k]), float4(x4[k]))", "dot(w4[k], float4(x4[k]))"),
    ("float4(uint4(bits, bits >> 4, bits >> 8, bits >> 12) & 15u)", "uint4(bits, bits >> 4, bits >> 8, bits >> 12)"),
    ("device const half4* w4 = (device const half4*)(w", "device half4* w4 = (device const half4*)(w"),
    ("sum = simd_sum(sum);", "sum = simd_total(sum);"),
]


@pytest.mark.parametrize(("right", "wrong"), SPACES)
def test_mixed_up_address_spaces_and_types(right, wrong):
    assert right in MATRIX
    text = MATRIX.replace(right, wrong, 1)
    findings = metal.load(source=text).address_spaces()
    line = next(n for n, (a, b) in enumerate(zip(MATRIX.splitlines(), text.splitlines(), strict=False), 1) if a != b)
    assert line in {finding.line for finding in findings}
