# SPDX-License-Identifier: MIT
"""Inline assembly to C++: statements as projects write them, and what cannot be translated."""

import re

import numpy as np
import pytest

from kernelsim import cuda, ptx
from kernelsim.errors import SourceError
from kernelsim.ptx import AsmOperand
from kernelsim.tokens import text, tokenize

N = 64  # threads


def statement(source, arch=None):
    """The C++ for an asm statement of C++."""
    tokens = tokenize(source)
    end, written = ptx.asm(tokens, 0, arch)
    assert text(tokens[end + 1 :]).strip() == ";"
    return text(written)


def run(body, *arrays, arch="sm_120a", n=N):
    """Runs `body` in n threads; arrays are its parameters a, b, ...; i is the thread."""
    types = {"u1": "uint8_t", "u2": "uint16_t", "u4": "uint32_t", "i4": "int32_t", "f4": "float", "u8": "uint64_t"}
    parameters = ", ".join(f"{types[x.dtype.str[1:]]}* {name}" for x, name in zip(arrays, "abcdefgh", strict=False))
    source = f"#include <stdint.h>\n__global__ void kernel({parameters}) {{ const int i = threadIdx.x; {body} }}\n"
    cuda.load(source=source, arch=arch).kernel("kernel")(list(arrays), grid=1, block=n)


def words(seed, n=N):
    return np.random.default_rng(seed).integers(0, 2**32, n, np.uint64).astype(np.uint32)


# ---- What is between the brackets


@pytest.mark.parametrize(
    ("literal", "characters"),
    [
        (r'"a\n\tb"', "a\n\tb"),
        (r'"\"%0\\\x41\101\0"', '"%0\\AA\0'),
        ('"a\\\nb"', "ab"),
        ('R"(a\\n"b")"', 'a\\n"b"'),
        ('R"ptx(a)")ptx"', 'a)"'),
        ('u8"x"', "x"),
    ],
)
def test_string_literals(literal, characters):
    assert ptx.unquote(literal) == characters


@pytest.mark.parametrize(
    "source",
    [
        'asm("mov.u32 %0, %1;" : "=r"(d) : "r"(a));',
        'asm volatile ("mov.u32 %0, %1;\\n" : "=r"(d) : "r"(a) : "memory");',
        '__asm__ __volatile__("mov" ".u32 %0, "\n    "%1;" : "=r" (d) : "r" (a));',
        'asm volatile(R"(mov.u32 %0, %1;)" : "=r"(d) : "r"(a));',
        'asm("{ mov.u32 %0, %1; }" : "=r"(d) : "r"(a));',
        'asm("// a comment\\n mov.u32 /* another; */ %0,\\t%1" : "=r"(d) : "r"(a));',
        'asm volatile("mov.u32 %0, %1;"\n : "=r"(d)\n : "r"(a)\n : );',
    ],
)
def test_spellings_of_a_statement(source):
    assert re.search(r"auto &&\w+ = \(d\);.*read<uint32_t>\(\(a\)\).*::mov<uint32_t>\(.*write\(", statement(source))


def test_lines_are_kept():
    source = 'asm volatile(\n  "membar.gl;\\n"\n  ::: "memory")'
    assert statement(source + ";").count("\n") == source.count("\n")


def test_operands_are_expressions():
    written = statement(
        'asm("mov.u32 %0, %1;" : "=r"(d[f(1, 2)]) : "r"(x ? n::a<int>(1, 2) : *reinterpret_cast<const int *>(&y)));'
    )
    assert "= (d[f(1, 2)]);" in written
    assert "(x ? n::a<int>(1, 2) : *reinterpret_cast<const int *>(&y))" in written


# ---- Instructions


def test_names_of_all_constraints():
    h, f = np.zeros(N, np.uint16), np.zeros(N, np.float32)
    run(
        """
        uint64_t l; double d; uint32_t r = 7;
        asm("mov.b16 %0, 0x1234;" : "=h"(a[i]));
        asm("mov.f64 %0, 0d3FF8000000000000;" : "=d"(d));
        asm("cvt.rn.f32.f64 %0, %1;" : "=f"(b[i]) : "d"(d));
        asm("mov.u64 %0, %1;" : "=l"(l) : "l"(b + i));
        asm("add.u32 %0, %0, %1;" : "+r"(r) : "n"(3 + 2));
        *(float *)l += r;
        """,
        h, f,
    )  # fmt: skip
    assert (h == 0x1234).all()
    assert (f == 13.5).all()


def test_several_instructions_with_registers_of_their_own():
    a, b, d = words(0), words(1), np.zeros(N, np.uint32)
    run(
        r"""
        asm volatile("{\n\t"
                     ".reg .pred p, q;\n\t"
                     ".reg .b32 low<2>, %high;\n\t"
                     "and.b32 low0, %1, 0xffff;   // the lower half\n\t"
                     "shr.u32 %high, %1, 16;\n\t"
                     "add.u32 low1, low0, %high;\n\t"
                     "setp.ge.u32 p|q, low1, %2;\n\t"
                     "@p  mov.b32 %0, low1;\n\t"
                     "@!p sub.u32 %0, %2, low1;\n\t"
                     "{ .reg .b32 low0; mov.b32 low0, 1; @q add.u32 %0, %0, low0; }\n\t"
                     "}"
                     : "=r"(c[i])
                     : "r"(a[i]), "r"(b[i]));
        """,
        a, b, d,
    )  # fmt: skip
    total = (a & 0xFFFF) + (a >> 16)
    np.testing.assert_array_equal(d, np.where(total >= b, total, b - total + 1))


def test_parts_of_registers():
    a, d, e = words(0), np.zeros(N, np.uint32), np.zeros(N, np.uint64)
    run(
        r"""
        asm("{ .reg .b16 x, y; mov.b32 {x, y}, %1; mov.b32 %0, {y, x}; }" : "=r"(b[i]) : "r"(a[i]));
        asm("{ .reg .b8 w, x, y, z; mov.b32 {w, x, y, z}, %1; .reg .b32 r; mov.b32 r, {z, y, x, w};"
            " mov.b64 %0, {%1, r}; }" : "=l"(c[i]) : "r"(a[i]));
        uint32_t high;
        asm("mov.b64 {_, %0}, %1;" : "=r"(high) : "l"(c[i]));
        c[i] ^= (uint64_t)high;
        """,
        a, d, e,
    )  # fmt: skip
    np.testing.assert_array_equal(d, a << 16 | a >> 16)
    swapped = a.byteswap().astype(np.uint64)
    np.testing.assert_array_equal(e, (swapped << np.uint64(32) | a) ^ swapped)


def test_addresses():
    a, b = words(0, 4 * N), np.zeros(4 * N, np.uint32)
    run(
        r"""
        __shared__ __align__(16) uint32_t s[4 * 64];
        const uint32_t at = (uint32_t)__cvta_generic_to_shared(s + 4 * i);
        uint32_t r[4];
        asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "l"(a + 4 * i));
        asm volatile("st.shared.v2.b32 [%0], {%1, %2};" :: "r"(at), "r"(r[0]), "r"(r[1]));
        asm volatile("st.shared.u32 [%0 + 8], %1; st.shared.u32 [%0+%3], %2;"
                     :: "r"(at), "r"(r[2]), "r"(r[3]), "n"(12));
        asm volatile("ld.shared.v4.b32 {%0, %1, %2, _}, [%3 + -0];\n ld.volatile.shared.s32 %4, [%5-4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]) : "r"(at), "r"(0), "r"(at + 16));
        asm volatile("ld.u32 %0, [%1+12];" : "=r"(r[3]) : "l"(s + 4 * i));
        for (int j = 0; j < 4; j++)
          asm volatile("st.global.cs.b32 [%0], %1;" :: "l"(b + 4 * i + j), "r"(r[j]) : "memory");
        """,
        a, b,
    )  # fmt: skip
    np.testing.assert_array_equal(b, a)


def test_narrow_memory_in_wide_registers():
    a, b = np.arange(256, dtype=np.uint8), np.zeros(256, np.uint32)
    run(
        r"""
        int x; uint16_t y;
        asm("ld.global.s8 %0, [%1];" : "=r"(x) : "l"(a + i));
        asm("ld.global.nc.u8 %0, [%1];" : "=h"(y) : "l"(a + i));
        asm("st.global.u8 [%0], %1;" :: "l"(a + i), "r"(x + 256));
        b[i] = (uint32_t)x ^ y << 8;
        """,
        a, b, n=256,
    )  # fmt: skip
    np.testing.assert_array_equal(b, np.arange(256).astype(np.int8).astype(np.uint32) ^ np.arange(256) << 8)
    np.testing.assert_array_equal(a, np.arange(256))


def test_special_registers():
    a = np.zeros(8 * N, np.uint32)
    run(
        r"""
        uint32_t r[8];
        asm volatile("mov.u32 %0, %%tid.x;" : "=r"(r[0]));
        asm volatile("mov.u32 %0, %laneid;" : "=r"(r[1]));
        asm volatile("mov.u32 %0, %%ntid.x;" : "=r"(r[2]) :);
        asm volatile("mov.u32 %0, %%ctaid.y;" : "=r"(r[3]) ::);
        asm volatile("mov.u32 %0, %%warpid;" : "=r"(r[4]));
        asm volatile("mov.u32 %0, %%lanemask_lt;" : "=r"(r[5]));
        asm volatile("mov.u32 %0, %nctaid.z;" : "=r"(r[6]));
        asm volatile("mov.u32 %0, WARP_SZ;" : "=r"(r[7]));
        for (int j = 0; j < 8; j++) a[8 * i + j] = r[j];
        """,
        a,
    )
    i = np.arange(N)
    expected = [i, i % 32, i * 0 + N, i * 0, i // 32, (1 << i % 32) - 1, i * 0 + 1, i * 0 + 32]
    np.testing.assert_array_equal(a.reshape(N, 8).T, expected)


def test_constants():
    a = np.zeros((8, N), np.uint32)
    run(
        r"""
        asm("mov.b32 %0, 0x80000000U;" : "=r"(a[i]));
        asm("mov.b32 %0, -1;" : "=r"(a[64 + i]));
        asm("mov.b32 %0, 0b101;" : "=r"(a[128 + i]));
        asm("mov.b32 %0, 017;" : "=r"(a[192 + i]));
        float x, y;
        asm("mov.f32 %0, 0fBF800000;" : "=f"(x));
        asm("add.f32 %0, %1, 2.5;" : "=f"(y) : "f"(x));
        a[256 + i] = __float_as_uint(y);
        asm("mov.b32 %0, 0f40490FDB;" : "=r"(a[320 + i]));
        asm("fma.rn.f32 %0, %1, 1.5e2, 0f3F800000;" : "=f"(y) : "f"(x));
        a[384 + i] = __float_as_uint(y);
        """,
        a,
    )
    bits = [0x80000000, 0xFFFFFFFF, 5, 15, 0x3FC00000, 0x40490FDB, np.float32(-149).view(np.uint32), 0]
    np.testing.assert_array_equal(a, np.array(bits, np.uint32)[:, None] + np.zeros(N, np.uint32))


def test_branches():
    a, b = np.arange(N, dtype=np.uint32), np.zeros(N, np.uint32)
    run(
        r"""
        for (int twice = 0; twice < 2; twice++)
          asm volatile("{ .reg .pred p; .reg .u32 n;\n"
                       "mov.u32 n, %1; mov.u32 %0, 0;\n"
                       "LOOP_%=: setp.eq.u32 p, n, 0;\n"
                       "@p bra.uni DONE;\n"
                       "add.u32 %0, %0, n;\n"
                       "sub.u32 n, n, 1;\n"
                       "bra LOOP_%=;\n"
                       "DONE: }" : "=&r"(b[i]) : "r"(a[i]));
        """,
        a, b,
    )  # fmt: skip
    np.testing.assert_array_equal(b, a * (a + 1) // 2)


def test_an_operand_for_input_and_output():
    a, b = words(0), words(1)
    expected = a + b
    run('asm("add.u32 %0, %1, %2;" : "=r"(a[i]) : "0"(a[i]), "r"(b[i]));', a, b)
    np.testing.assert_array_equal(a, expected)


def test_what_is_not_written_is_poison():
    a = np.zeros(N, np.uint32)
    run('asm("{ .reg .pred p; setp.lt.s32 p, %1, 32; @p mov.u32 %0, 1; }" : "=r"(a[i]) : "r"(i));', a)
    np.testing.assert_array_equal(a, np.where(np.arange(N) < 32, 1, 0xFFFFFFFF))


def test_conditions_and_macros_around_statements():
    a = np.zeros(N, np.uint32)
    run(
        r"""
#define MOVE(type, to, from) asm volatile("mov." #type " %0, %1;" : "=r"(to) : "r"(from))
        uint32_t r;
        if (i % 2) MOVE(u32, r, 1); else MOVE(b32, r, 2);
        a[i] = r;
        """,
        a,
    )
    np.testing.assert_array_equal(a, np.where(np.arange(N) % 2, 1, 2))


# ---- What cannot be translated


def translated(template, arch=None):
    operands = [AsmOperand("=r", "(x)"), AsmOperand("r", "(y)"), AsmOperand("l", "(p)"), AsmOperand("n", "(4)")]
    return ptx.translate(template, operands[:1], operands[1:], arch)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("wgmma.fence.sync.aligned;", "wgmma.fence.sync.aligned: kernelsim does not know this PTX instruction"),
        ("cp.async.bulk.tensor.2d.shared::cluster.global.tile [%1], [%2];", "cp.async.bulk.tensor.2d.*does not know"),
        ("add.u33 %0, %1, %1;", "add.u33: kernelsim does not know"),
        ("ld.global.v3.u32 %0, [%2];", "ld.global.v3.u32: kernelsim does not know"),
        ("add.u32 %0, %1;", "add.u32 %0, %1: other operands are wanted: .*d, a, b"),
        ("add.u32 %0, %1, %9;", "there is no operand %9"),
        ("add.u32 %0, %1, r7;", "r7 is neither a register nor a constant"),
        ("add.u32 3, %1, %1;", "3 is not a register"),
        ("add.u32 %3, %1, %1;", "%3 is not a register"),
        ("ld.global.u32 %0, %2;", r"%2 is not an address in \[ \]"),
        ("@%0 mov.u32 %0, %1;", "%0 is not a predicate"),
        ("selp.b32 %0, %1, %1, !%1;", "%1 is not a predicate"),
        ("{ mov.u32 %0, %1;", "a { is never closed"),
        ("mov.u32 %0, %1; }", "a } closes no {"),
        ("{ .reg .b33 x; }", "no such type"),
        ("mov.u32 %0, %pm3;", "%pm3 is neither"),
        ("?", "cannot read PTX from here"),
    ],
)
def test_mistakes(template, message):
    with pytest.raises(SourceError, match=message):
        translated(template)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ('asm(template : "=r"(d));', "not a string literal"),
        ('asm("mov.u32 %0, %1;" : "=r"(d) : "x"(a));', 'constraint "x"'),
        ('asm("mov.u32 %0, 1;" : "r"(d));', "not an output's constraint"),
        ('asm("mov.u32 %0, %1;" : "=r"(d) : "3"(a));', "there is no operand %3"),
        ('asm("mov.u32 %0, %1;" : "=r"(d) : (a));', "does not begin with a constraint"),
        ('asm("wgmma.wait_group.sync.aligned %0;" :: "n"(0));', "wgmma.wait_group.sync.aligned: kernelsim does not"),
    ],
)
def test_a_mistake_becomes_an_error_of_the_compiler(source, message):
    assert message in statement(source).replace('\\"', '"')
    assert "error(" in statement(source)


WGMMA = """
__device__ inline void fence() {
  asm volatile("wgmma.fence.sync.aligned;\\n" ::: "memory");
}
template <bool kHopper> __global__ void kernel(int* y) {
  if constexpr (kHopper) fence();
  *y = 1;
}
"""


def test_an_unknown_instruction_concerns_who_uses_it():
    y = np.zeros(1, np.int32)
    library = cuda.load(source=WGMMA, arch="sm_90a")
    library.kernel("kernel<false>")([y], grid=1, block=1)
    assert y[0] == 1
    with pytest.raises(SourceError, match=r"\.cu:3:.*wgmma\.fence\.sync\.aligned: kernelsim does not know"):
        library.kernel("kernel<true>")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('short x = 1; asm("mov.u32 %0, %1;" : "=r"(a[i]) : "r"(x));', "not of the size that its constraint says"),
        (
            'uint64_t x = 1; asm("add.u32 %0, %1, 1;" : "=r"(a[i]) : "l"(x));',
            "not of the size that the instruction wants",
        ),
        ('asm("ld.global.v2.u32 %0, [%1];" : "=r"(a[i]) : "l"(a));', "as many results as its vector has elements"),
        ('asm("{ .reg .pred p; mov.u32 %0, 1; setp.eq.u32 p, %0, p; }" : "=r"(a[i]));', "predicate and a register"),
        ('asm("ld.u32 %0, [%1];" : "=r"(a[i]) : "r"(i));', "a generic or global address has 64 bits"),
    ],
)
def test_registers_of_the_wrong_kind(body, message):
    with pytest.raises(SourceError, match=message):
        run(body, np.zeros(N, np.uint32))


def test_other_kinds_of_asm():
    with pytest.raises(SourceError, match="line 2: asm goto is not supported"):
        ptx.asm(tokenize('\nasm goto("bra %l0;" :::: there);'), 1)
