# SPDX-License-Identifier: MIT
"""Metal kernels launched from Python: results, arguments, grids, errors."""

import re

import ml_dtypes
import numpy as np
import pytest
from simulated import KERNELS, int4

import kernelsim
from kernelsim import ArgumentError, KernelFault, SourceError, metal


@pytest.fixture(scope="module")
def matrix():
    return metal.load(KERNELS / "matrix.metal")


@pytest.fixture(scope="module")
def language():
    return metal.load(KERNELS / "language.metal")


def error(got, reference):
    return float(np.abs(got.astype(np.float64) - reference).max() / np.abs(reference).max())


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_gemv(matrix, rows):
    rng = np.random.default_rng(0)
    w = rng.standard_normal((rows, 512)).astype(np.float16)
    x = rng.standard_normal(512).astype(np.float16)
    y = kernelsim.poisoned(rows, np.float16)
    matrix.kernel("gemv_f16").check([w, x, y, rows, 512], threadgroups=-(-rows // 2), threadgroup=64)
    assert error(y, w.astype(np.float64) @ x.astype(np.float64)) < 2**-10


def test_int4_gemv_with_dynamic_threadgroup_memory(matrix):
    rng = np.random.default_rng(0)
    q, scales, biases, w = int4(rng, 5, 512)
    x = rng.standard_normal(512).astype(np.float16)
    y = kernelsim.poisoned(5, np.float32)
    args = {"q": q, "scales": scales, "biases": biases, "x": x, "y": y, "K": 512}
    matrix.kernel("gemv_int4").check(args, threadgroups=5, threadgroup=128, threadgroup_memory=16)
    assert error(y, w @ x.astype(np.float64)) < 1e-6


def test_gemm_with_simdgroup_matrix(matrix):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype(np.float16) for shape in ((64, 96), (96, 128)))
    c = kernelsim.poisoned((64, 128), np.float16)
    sizes = np.array([64, 128, 96, 0], np.uint32)  # a uint3 has the size of a uint4
    matrix.kernel("gemm_f16").check([a, b, c, sizes], threadgroups=(4, 2), threadgroup=128)
    assert error(c, a.astype(np.float64) @ b.astype(np.float64)) < 2**-10


def test_kernels_are_found_by_their_host_names(language):
    names = {"constants", "multiply_float_3", "multiply_half_2", "nested::spaces", "builtins"}
    assert set(language.kernels) == names
    parameters = language.kernel("multiply_half_2").parameters
    assert [(p.name, p.index, p.type, p.const, p.pointer) for p in parameters] == [
        ("y", 1, "float16", False, True),
        ("sizes", 0, "struct of 8 bytes", True, False),
    ]


@pytest.mark.parametrize(("name", "dtype", "factor"), [("float_3", np.float32, 3), ("half_2", np.float16, 2)])
def test_a_grid_in_threads(language, name, dtype, factor):
    y = np.arange(35, dtype=dtype).reshape(5, 7)
    sizes = np.array([4, 6], np.uint32)
    language.kernel(f"multiply_{name}")({"y": y, "sizes": sizes}, grid=(7, 5), threadgroup=(4, 4))
    expected = np.arange(35).reshape(5, 7)
    expected[:4, :6] *= factor
    assert np.array_equal(y, expected)


@pytest.mark.parametrize(
    ("constants", "offset"),
    [
        ({"has_offset": False, "offset": 0}, -1 + 0.25),
        ({"scale": 2, "has_offset": False, "offset": 0}, -1 + 0.5),
        ({3: 2, "has_offset": True, "offset": 0.125}, 0.125 + 0.5),
    ],
)
def test_function_constants(language, constants, offset):
    y = kernelsim.poisoned(4, np.float32)
    language.kernel("constants", constants)([y], grid=4, threadgroup=4)
    scale = 2 if "scale" in constants or 3 in constants else 0
    assert np.array_equal(y, scale * np.array([1, 10, 100, 1000]) + offset)


def test_constants_belong_to_a_kernel_not_to_its_library(language):
    results = []
    others = {"has_offset": False, "offset": 0}
    for kernel in (language.kernel("constants", {"scale": 1, **others}), language.kernel("constants", others)):
        y = kernelsim.poisoned(1, np.float32)
        kernel([y], grid=1, threadgroup=1)
        results.append(float(y[0]))
    assert results == [1 - 1 + 0.5, 0 - 1 + 0.25]


@pytest.mark.parametrize(
    ("body", "missing"),
    [
        ("y[0] = a;", "a (0)"),
        ("y[0] = through<int>(1);", "n::b (1)"),
        ("y[0] = S<2>{}.get();", "a (0)"),
        ("y[0] = derived;", "n::b (1)"),
        ("y[0] = (P{1} + P{2}).a;", "a (0)"),
        ("y[0] = c;", "c (2)"),  # asked for in another kernel only
        ("y[0] = is_function_constant_defined(c) ? c : 4;", None),
        ("y[0] = metal::is_function_constant_defined(n::b) ? n::b : 4;", None),
        ("y[0] = has_c ? c : 4;", None),
        ("y[0] = unrelated(1);", None),
        ("P p = {.a = 3}; y[0] = p.a;", None),
        ("y[0] = P{1}.b();", None),
        ("int a = 2; y[0] = a;", None),
        ("y[0] = chosen(2.0f);", None),
        ("y[0] = T<3>{}.b;", None),
        ("y[0] = enumerated;", None),
        ("metal::float2 v = 1; y[0] = v.x + metal::length(v);", None),
    ],
)
def test_a_function_constant_that_is_used_must_be_given(body, missing):
    source = f"""
    constant int a [[function_constant(0)]];
    namespace n {{ constant int b [[function_constant(1)]]; }}
    constant int c [[function_constant(2)]];
    constant int x [[function_constant(3)]];
    constant int length [[function_constant(4)]];
    using metal::is_function_constant_defined;
    enum class E {{ a = 1 }};
    constant int derived = n::b + 1;
    constant int enumerated = int(E::a);
    constant bool has_c = is_function_constant_defined(c);
    struct P {{ int a; int b() {{ return a; }} }};
    inline P operator+(P p, P q) {{ return P{{p.a + q.a + a}}; }}
    inline int chosen(int x) {{ return x * a; }}
    inline float chosen(float a) {{ return a; }}
    template <int a> struct T {{ static constant constexpr int b = a; }};
    inline int unrelated(int x = 1) {{ return x; }}
    namespace n {{ template <class T = int> __attribute__((always_inline)) T through(T x) {{ return x + n::b; }} }}
    using namespace n;
    template <int N> struct S {{ int get() {{ return N + a; }} }};
    kernel void g(device int* y) {{ y[0] = is_function_constant_defined(c) ? c : 4; }}
    kernel void f(device int* y) {{ {body} }}"""
    library = metal.load(source=source)
    library.kernel("f", {"a": 1, "n::b": 2, "c": 3})
    if not missing:
        library.kernel("f")
        return
    with pytest.raises(ArgumentError, match=re.escape(f"f: function constant {missing} is used, but not given")):
        library.kernel("f")


def test_a_function_constant_that_says_which_parameters_there_are():
    source = """constant bool a [[function_constant(0)]];
    constant bool b = !a;
    kernel void f(device int* y [[buffer(0)]], device int* z [[buffer(1), function_constant(b)]]) { y[0] = 1; }"""
    library = metal.load(source=source)
    y = np.zeros(1, np.int32)
    library.kernel("f", {"a": True})({"y": y}, grid=1, threadgroup=1)
    assert y[0] == 1
    with pytest.raises(ArgumentError, match=re.escape("f: function constant a (0) is used, but not given")):
        library.kernel("f")


def test_address_spaces_and_threadgroup_memory(language):
    x = np.arange(32, dtype=np.float32) + 1
    y = kernelsim.poisoned(32, np.float32)
    language.kernel("nested::spaces").check([x, y], grid=32, threadgroup=32, threadgroup_memory=[4, 128])
    assert np.array_equal(y, x[0] + x[0] + x[::-1] + 1 + x[0] + 2)


def test_builtins(language):
    out = kernelsim.poisoned((3 * 3 * 64, 12), np.uint32)
    language.kernel("builtins")([out], grid=(40, 10), threadgroup=(16, 4))
    rows = {}
    for y in range(10):
        for x in range(40):
            group, position, width = (x // 16, y // 4), (x % 16, y % 4), 16 if x < 32 else 8
            index = position[0] + width * position[1]
            row = (group[1] * 3 + group[0]) * 64 + index
            rows[row] = [*position, *group, width, 3, index, x, y, index // 4, index % 4, 16]
    for row, values in enumerate(out):
        expected = rows.get(row, [0xFFFFFFFF] * 12)
        assert list(values) == expected, row


def test_bfloat_and_bits():
    source = """
    #include <metal_stdlib>
    kernel void twice(device bfloat* y, const device half* x, uint i [[thread_position_in_grid]]) {
      y[i] = y[i] * bfloat(2) + bfloat(float(x[i]));
    }"""
    kernel = metal.load(source=source).kernel("twice")
    y = np.array([1, 2, 3], ml_dtypes.bfloat16)
    x = np.array([1, 1, 1], np.float16)
    kernel([y, x], grid=3, threadgroup=3)
    bits = np.array([1, 2, 3], ml_dtypes.bfloat16).view(np.uint16)
    kernel([bits, x.view(np.uint16)], grid=3, threadgroup=3)
    assert list(y.astype(float)) == list(bits.view(ml_dtypes.bfloat16).astype(float)) == [3, 5, 7]


W, X, Y = np.zeros((2, 64), np.float16), np.zeros(64, np.float16), np.zeros(2, np.float16)
ARGS = {"w": W, "x": X, "y": Y, "N": 2, "K": 64}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w": W.astype(np.float32)}, "gemv_f16: w (argument 0) is an array of float16, not float32"),
        ({"w": W[:, ::2]}, "gemv_f16: w (argument 0) is not C-contiguous"),
        ({"w": 3}, "w (argument 0) takes an array, not 3"),
        ({"N": 0.5}, "N (argument 3) is a uint32 and cannot hold 0.5"),
        ({"N": -1}, "N (argument 3) is a uint32 and cannot hold -1"),
        ({"N": "2"}, "N (argument 3) is a uint32, not '2'"),
        ({"N": np.zeros(0, np.uint32)}, "gemv_f16: N (argument 3) needs 4 bytes, the array has 0"),
        ({"z": 1}, "gemv_f16 has no argument 'z'; it takes w (0), x (1), y (2), N (3), K (4)"),
        ({0: W}, "gemv_f16: argument 0 is given twice"),
    ],
)
def test_bad_arguments(matrix, change, message):
    with pytest.raises(ArgumentError) as caught:
        matrix.kernel("gemv_f16")({**ARGS, **change}, threadgroups=2, threadgroup=32)
    assert message in str(caught.value)


def test_missing_and_read_only_arguments(matrix):
    kernel = matrix.kernel("gemv_f16")
    with pytest.raises(ArgumentError, match=r"argument 'K' \(4\) is missing"):
        kernel({k: v for k, v in ARGS.items() if k != "K"}, threadgroups=2, threadgroup=32)
    with pytest.raises(ArgumentError, match="takes 5 arguments, not 4"):
        kernel([W, X, Y, 2], threadgroups=2, threadgroup=32)
    fixed = Y.copy()
    fixed.flags.writeable = False
    with pytest.raises(ArgumentError, match=r"y \(argument 2\) can be written by the kernel, but"):
        kernel({**ARGS, "y": fixed}, threadgroups=2, threadgroup=32)


@pytest.mark.parametrize(
    ("launch", "message"),
    [
        ({"threadgroup": 32}, "give either grid, in threads, or threadgroups"),
        ({"grid": 1, "threadgroups": 1, "threadgroup": 32}, "give either grid"),
        ({"grid": 0, "threadgroup": 32}, "grid is one to three positive integers, not 0"),
        ({"grid": (1, 2, 3, 4), "threadgroup": 32}, "grid is one to three integers"),
        ({"grid": "x", "threadgroup": 32}, "grid is one to three integers, not 'x'"),
        ({"grid": 1, "threadgroup": 0}, "threadgroup is one to three positive integers, not 0"),
        ({"grid": 1, "threadgroup": 1025}, "1 to 1024 threads, not 1025"),
        ({"grid": 1, "threadgroup": 32, "threadgroup_memory": 4}, r"gemv_f16 has no \[\[threadgroup\(0\)\]\]"),
        ({"grid": 1, "threadgroup": 32, "shedule": "x"}, "there is no option 'shedule'; there are convergence"),
        ({"grid": 1, "threadgroup": 32, "schedule": "x"}, "schedule is one of forward, reverse, random, not 'x'"),
        ({"grid": 1, "threadgroup": 32, "convergence": 1}, "convergence is one of every, live, hardware, not 1"),
        ({"grid": 1, "threadgroup": 32, "time_limit": 0}, "time_limit is a positive number of seconds, not 0"),
        ({"grid": 1, "threadgroup": 32, "workers": 0}, "workers is at least 1, not 0"),
    ],
)
def test_bad_launches(matrix, launch, message):
    with pytest.raises(ArgumentError, match=message):
        matrix.kernel("gemv_f16")(ARGS, **launch)


def test_limits_of_a_threadgroup(matrix, language):
    with pytest.raises(ArgumentError, match=r"threadgroup has 65 threads; builtins says \[\[max_total_threads_per"):
        language.kernel("builtins")([np.zeros(12 * 65, np.uint32)], grid=65, threadgroup=65)
    q, scales, biases, _ = int4(np.random.default_rng(0), 1, 64)
    args = [q, scales, biases, X, np.zeros(1, np.float32), 64]
    kernel = matrix.kernel("gemv_int4")
    with pytest.raises(ArgumentError, match=r"threadgroup_memory: gemv_int4 needs bytes for \[\[threadgroup\(0\)\]\]"):
        kernel(args, threadgroups=1, threadgroup=32)
    with pytest.raises(ArgumentError, match=r"needs 32772 bytes of threadgroup memory \(0 static, 32772 dynamic\)"):
        kernel(args, threadgroups=1, threadgroup=32, threadgroup_memory=32772)


def test_bad_sources(matrix, tmp_path):
    with pytest.raises(ArgumentError, match=r"has no kernel 'gemv'; it has gemv_f16, gemv_int4, gemm_f16"):
        matrix.kernel("gemv")
    with pytest.raises(ArgumentError, match="has no function constant 'n'"):
        matrix.kernel("gemv_f16", {"n": 1})
    with pytest.raises(ArgumentError, match="there is no file"):
        metal.load(tmp_path / "none.metal")
    with pytest.raises(ArgumentError, match="either path or source"):
        metal.load()
    broken = tmp_path / "broken.metal"
    broken.write_text("#include <metal_stdlib>\nkernel void f(device float* y) {\n  y[0] = undeclared;\n}\n")
    with pytest.raises(SourceError, match=rf"{broken}:3:10: error: use of undeclared identifier 'undeclared'"):
        metal.load(broken).kernel("f")
    broken.write_text("kernel void f(device float* y) {\n  y[0] = 1;\n")
    with pytest.raises(SourceError, match=r"broken.metal:1: '{' is never closed|expected '}'"):
        metal.load(broken).kernel("f")
    broken.write_text('#include "not_there.h"\n')
    with pytest.raises(SourceError, match="'not_there.h' file not found"):
        metal.load(broken)
    broken.write_text("threadgroup float s[4];\nkernel void f(device float* y) { y[0] = s[0]; }\n")
    with pytest.raises(SourceError, match=r"broken\.metal:1: a threadgroup variable is declared inside of a kernel"):
        metal.load(broken)
    broken.write_text("int g(int);\nkernel void f(device int* y) { y[0] = g(1); }\n")
    with pytest.raises(SourceError, match=r"g\(int\)"):
        metal.load(broken).kernel("f")
    broken.write_text("kernel void f(device float* y [[buffer(9**9**9)]]) {}\n")
    with pytest.raises(SourceError, match="the index is not a small number"):
        metal.load(broken)
    broken.write_text("kernel void f(float x) {}\n")
    with pytest.raises(SourceError, match="a kernel's parameter has no attribute: float x"):
        metal.load(broken)
    broken.write_text("struct S { int n; };\nkernel void f(S s) {}\n")
    with pytest.raises(SourceError, match="f: s is a pointer or a reference, or has another attribute"):
        metal.load(broken).kernel("f")
    broken.write_text('template [[host_name("g")]] kernel void f<float>(device float*);\n')
    with pytest.raises(SourceError, match="'g' instantiates f, which is no kernel"):
        metal.load(broken)


REWRITTEN = """
#include <metal_stdlib>
using namespace metal;
namespace ns {
constant int factor [[function_constant(01)]];
constant int twice = 2 * factor;
}
template <int n, int bits = n << 1, metal::enable_if_t<n <= 4, int> = 0> int shifted() { return bits; }
float read(device const float* p) { return p[0]; }
float read(threadgroup const float* p) { return -p[0]; }
kernel void k(device float* x, device float* y, ushort i [[thread_index_in_threadgroup]]) {
  threadgroup float zeros[32] = {0};
  switch (i) {
    case 40: { threadgroup float never[4]; never[0] = 1; }
    default: break;
  }
  zeros[i] = x[i];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = zeros[31 - i] + ns::twice + shifted<2>() + 1'0.5;
  x[i] *= 2;
}
"""


@pytest.mark.parametrize("guard", [True, False])
def test_corners_of_the_language_and_an_array_that_is_given_twice(guard):
    library = metal.load(source=REWRITTEN)
    kernel = library.kernel("k", {"ns::factor": 3})
    x, y = np.arange(32, dtype=np.float32), kernelsim.poisoned(32, np.float32)
    kernel([x, y], grid=32, threadgroup=32, guard=guard)
    assert np.array_equal(y, np.arange(32)[::-1] + 6 + 4 + 10.5)
    both = np.arange(32, dtype=np.float32)
    kernel([both, both], grid=32, threadgroup=32, guard=guard, schedule="forward")
    assert np.array_equal(both, (np.arange(32)[::-1] + 6 + 4 + 10.5) * 2)
    with pytest.raises(ArgumentError, match=r"x \(argument 0\) and y \(argument 1\) overlap"):
        kernel([both[:20], both[10:]], grid=10, threadgroup=10)
    assert [f.line for f in library.lint() + library.source.dropped] == [10]


@pytest.mark.parametrize("value", [2.5, 3e9, -3e9, "x"])
def test_a_function_constant_that_its_type_cannot_hold(language, value):
    constants = {"scale": value, "has_offset": False, "offset": 0}
    with pytest.raises(ArgumentError, match="function constant (3 cannot hold|'scale' is a number)"):
        language.kernel("constants", constants)([np.zeros(4, np.float32)], grid=4, threadgroup=4)


@pytest.mark.parametrize("dtype", [">f2", "bfloat16", np.complex64, "S2"])
def test_types_that_have_the_same_size(matrix, dtype):
    dtype = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    with pytest.raises(ArgumentError, match=r"w \(argument 0\) is an array of float16"):
        matrix.kernel("gemv_f16")({**ARGS, "w": np.zeros((2, 64), dtype)}, threadgroups=1, threadgroup=64)


def test_a_frame_larger_than_the_stack():
    loop = "for (int i = 0; i < 90000; i++) a[i] = i;"
    source = f"kernel void k(device float* y) {{ volatile float a[90000]; {loop} y[0] = a[int(y[0])]; }}"
    with pytest.raises(KernelFault, match="stack overflow"):
        metal.load(source=source).kernel("k")([np.zeros(1, np.float32)], grid=1, threadgroup=1)


def test_unguarded_arrays_are_worked_on_in_place(matrix):
    w, x, y = W + np.float16(1), X + np.float16(1), kernelsim.poisoned(2, np.float16)
    matrix.kernel("gemv_f16")([w, x, y, 2, 64], threadgroups=1, threadgroup=64, guard=False)
    assert list(y) == [64, 64]


def test_a_buffer_that_is_not_bound_faults_when_it_is_read(matrix):
    with pytest.raises(KernelFault, match=r"matrix\.metal:\d+: gemv_f16: reads unmapped memory at 0"):
        matrix.kernel("gemv_f16")({**ARGS, "x": None}, threadgroups=1, threadgroup=32)


def test_a_fault_leaves_the_callers_arrays_alone(matrix):
    y = np.full(1, 7, np.float16)
    with pytest.raises(KernelFault, match=r"matrix\.metal:\d+: gemv_f16: writes y .argument 2. \d+ bytes past"):
        matrix.kernel("gemv_f16")([np.zeros((16, 64), np.float16), X, y, 16, 64], threadgroups=16, threadgroup=32)
    assert y[0] == 7


def test_names_of_kernels_are_the_users():
    source = "kernel void a(device float* a [[buffer(0)]]) { a[0] = 1; }"
    y = np.zeros(1, np.float32)
    metal.load(source=source).kernel("a")([y], threadgroups=1, threadgroup=1)
    assert y[0] == 1
