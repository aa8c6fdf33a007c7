# SPDX-License-Identifier: MIT
"""What Apple's compiler refuses, found without it: the lint, recursion, and the pass over address spaces."""

import re

import numpy as np
import pytest
from simulated import KERNELS

from kernelsim import SourceError, metal

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


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            "device float* a [[buffer(0)]],\n device float* b [[buffer(0)]]",
            r"5: \[\[buffer\(0\)\]\] is another parameter's",
        ),
        ("threadgroup int* a [[threadgroup(1)]], threadgroup int* b [[threadgroup(1)]]", "4: .*is another parameter's"),
        ("device float* a [[buffer(31)]]", r"4: \[\[buffer\(31\)\]\]: the index is not a small number"),
        ("threadgroup int* a [[threadgroup(31)]]", "4: .*the index is not a small number"),
        ("device float* a [[buffer(0)]] [[buffer(1)]]", r"4: \[\[buffer\]\] and \[\[buffer\]\] on one parameter"),
        ("uint n [[buffer(0)]]", "4: .*is a pointer or a reference"),
        ("constant packed_float3 n [[buffer(0)]]", "4: .*is a pointer or a reference"),
        ("device float* a,\n uint i [[thread_position_in_gird]]", r"5: \[\[thread_position_in_gird\]\] is not known"),
        ("threadgroup float* a [[buffer(0)]]", "4: .*is in constant or device memory"),
        ("device float* a [[threadgroup(0)]]", "4: .*is in threadgroup memory"),
        (
            "device float* a, int i [[thread_position_in_grid]]",
            "4: .*is of ushort or uint, or of a vector of them: int i",
        ),
    ],
)
def test_parameters_that_apples_compiler_refuses(parameters, message):
    source = f"#include <metal_stdlib>\nusing namespace metal;\nkernel void f(\n {parameters}) {{}}\n"
    with pytest.raises(SourceError, match=rf"\.metal:{message}"):
        metal.load(source=source)


PARAMETERS = [
    "device float* y [[buffer(0)]], unsigned int i [[thread_position_in_grid]]",
    "device float* y [[buffer(0)]], const unsigned short i [[thread_position_in_grid]]",
    "device float* y [[buffer(0)]], vec<unsigned int, 3> at [[grid_size]], uint i [[thread_position_in_grid]]",
    "Pointer y [[buffer(0)]], Same<uint, int>::type i [[thread_position_in_grid]]",
    "Pointer y, uint i [[maybe_unused]] [[thread_position_in_grid]]",
]


@pytest.mark.parametrize("parameters", PARAMETERS)
def test_types_of_parameters_that_only_the_compiler_knows(parameters):
    source = f"""#include <metal_stdlib>
    using namespace metal;
    typedef device float* Pointer;
    using Factor = constant float&;
    template <class T, class> struct Same {{ using type = T; }};
    kernel void f({parameters}, Factor x [[buffer(1)]]) {{ y[i] = i * x; }}
    template <class T> kernel void g(T y [[buffer(0)]], uint i [[thread_position_in_grid]]) {{ y[i] = i * 3; }}
    template [[host_name("h")]] kernel void g<device float*>(device float*, uint);"""
    library = metal.load(source=source)
    for kernel, args in (("f", [2.0]), ("h", [])):
        y = np.zeros(4, np.float32)
        library.kernel(kernel)([y, *args], grid=4, threadgroup=4)
        assert np.array_equal(y, np.arange(4) * (2 if args else 3))


NOT_SIMULATED = [
    ("texture2d<float> t [[texture(0)]]", "[[texture(0)]]"),
    ("array<texture2d<half>, 4> t [[texture(0)]], sampler s [[sampler(0)]]", "[[texture(0)]]"),
    ("instance_acceleration_structure t [[buffer(1)]]", "instance_acceleration_structure"),
    ("visible_function_table<float(float)> t [[buffer(1)]]", "visible_function_table"),
]


@pytest.mark.parametrize("template", ["", "template <class T>\n"])
@pytest.mark.parametrize(("parameter", "what"), NOT_SIMULATED)
def test_a_kernel_that_is_not_simulated_beside_one_that_is(template, parameter, what):
    instance = '\ntemplate [[host_name("textured")]] kernel void textured<float>(device float*);' if template else ""
    source = f"""#include <metal_stdlib>
using namespace metal;
{template}kernel void textured(device float* y [[buffer(0)]],
    {parameter}) {{
  y[0] = t.read(0);
}}{instance}
kernel void plain(device float* y) {{ y[0] = __LINE__; }}"""
    library = metal.load(source=source)
    assert set(library.kernels) == {"textured", "plain"}
    assert library.check() == []
    y = np.zeros(1, np.float32)
    library.kernel("plain")([y], grid=1, threadgroup=1)
    assert y[0] == len(source.splitlines())
    line = next(n for n, code in enumerate(source.splitlines(), 1) if parameter in code)
    with pytest.raises(SourceError, match=rf"\.metal:{line}: {re.escape(what)} is not simulated"):
        library.kernel("textured")


def test_parameters_that_function_constants_choose_among_share_an_index():
    source = """constant bool a [[function_constant(0)]]; constant bool b = !a;
    kernel void f(device int* y [[buffer(0)]], device int* p [[buffer(1), function_constant(a)]],
                  device float* q [[buffer(1), function_constant(b)]], uint3 at [[thread_position_in_grid]],
                  ushort lane [[thread_index_in_simdgroup]]) {}"""
    assert metal.load(source=source).check() == []


VARIABLES = """#include <metal_stdlib>
using namespace metal;
int counter = 0;  // refused
const int n = 3;  // refused
constexpr int m = 3, k = 4;  // refused
static float table[2] = {1, 2};  // refused
constant int right = 4;
constant float right_table[] = {1, 2};
static constant constexpr const int right_too = 5;
struct S {
  static constexpr int a = 3;  // refused
  static constant constexpr int b = 2;
  int member;
  static int of(int x = 4) { return x; }
};
template <class T> constexpr T e = T(2.7);  // refused
template <class T> constant T pi = T(3.14);
using word = uint;
typedef uint other;
enum Kind { first, second };
enum class Other : uint { third = 1 };
float declared(float a = 1);
struct S;
namespace inner { int x; }  // refused
namespace m = metal;
inline float function(int i) {
  static int calls;  // refused
  static constant int fixed = 2;
  constexpr int local = 3;
  const float values[2] = {1, 2};
  for (int j = 0; j < 2; j++) { i += local; }
  return values[i & 1] + fixed;
}
kernel void f(device float* y [[buffer(0)]], constant S& s) { y[0] = function(s.member); }
"""


def test_variables_that_are_not_constant():
    findings = metal.load(source=VARIABLES).lint()
    assert {f.line for f in findings} == {n for n, x in enumerate(VARIABLES.splitlines(), 1) if "refused" in x}
    kinds = [f.message.partition(" variable")[0] for f in findings]
    assert kinds.count("static local") == 1
    assert kinds.count("program scope") == len(kinds) - 1


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


def test_copies_of_constant_objects_and_names_that_opencl_keeps():
    source = """
    #include <metal_stdlib>
    using namespace metal;
    template <class T> struct Lowest { static constexpr constant T init = T(-3.0f); };
    template <class T> struct First { static constexpr constant T init = Lowest<T>::init; };
    constexpr constant float table[2] = {1, 2};
    float last(constant float *values) { return values[1]; }
    struct Place { int n; int get() constant { return n; } };
    template <class V> void fill(device const float *x, thread V &v) { v = V(x[0] + last(table)); }
    template <class T, void (*function)(device const T *, thread float4 &)>
    kernel void called(device const T *x [[buffer(0)]], device T *y [[buffer(1)]], constant Place &p [[buffer(2)]]) {
      float4 v;
      function(x, v);
      y[0] = v.x + p.get();
    }
    typedef decltype(called<float, fill>) called_t;
    template [[host_name("g")]] kernel called_t called<float, fill>;
    template <class T, class V = T>
    kernel void copies(device const T *x [[buffer(0)]], device T *y [[buffer(1)]], constant T &c [[buffer(2)]],
                       uint i [[thread_position_in_grid]]) {
      V v = First<T>::init, w[1];
      threadgroup T shared[1];
      for (int local = 0; local < 1; local++) w[local] = Lowest<T>::init, shared[local] = c;
      y[i] = i ? x[i] : v;
      uint global = i, generic = 0, pipe = 0;
      y[global + generic + pipe] = w[0];
      thread const device T *rows[2] = {x, x + 1};
      y[i] = *rows[i];
    }
    template [[host_name("f")]] kernel void
    copies<bfloat>(device const bfloat *, device bfloat *, constant bfloat &, uint);
    """
    assert metal.load(source=source).address_spaces() == []
