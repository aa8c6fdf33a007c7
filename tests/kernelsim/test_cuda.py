# SPDX-License-Identifier: MIT
"""CUDA kernels launched from Python."""

import ctypes
import math

import ml_dtypes
import numpy as np
import pytest
from simulated import KERNELS

import kernelsim
from kernelsim import ArgumentError, KernelFault, SourceError, TimeLimitExceeded, cuda

TEMPLATES = ("shared<float, 8>", "shared<__half, 4>")


@pytest.fixture(scope="module")
def language():
    names = cuda.load(KERNELS / "language.cu").kernels
    return cuda.load(KERNELS / "language.cu", kernels=[*(name for name in names if name != "shared"), *TEMPLATES])


def test_indices(language):
    grid, block = (3, 2, 2), (4, 3, 2)
    out = np.zeros((12, 24, 4), np.uint32)
    language.kernel("indices").check([out], grid=grid, block=block)
    for n, (z, y, x) in enumerate(np.ndindex(grid[::-1])):
        assert (out[n, :, 0] == x + 10 * y + 100 * z).all()
    threads = [x + 10 * y + 100 * z for z, y, x in np.ndindex(block[::-1])]
    assert (out[:, :, 1] == threads).all()
    assert (out[:, :, 2] == 3 + 20 + 200).all()
    assert (out[:, :, 3] == 32).all()


def test_vectors(language):
    out, x = kernelsim.poisoned((3, 4), np.float32), np.array([2, 3, 4, 5], np.float32)
    language.kernel("vectors")([out, x], grid=1, block=1)
    assert out.tolist() == [[1, 2, 4, 0], [2, 3, 2, 3], [2, 3, 4, 5]]


def test_a_namespace_a_constant_and_a_device_variable(language):
    out = kernelsim.poisoned(5, np.float32)
    language.kernel("outer::inner::constants")({"out": out, "n": 4}, grid=1, block=32)
    assert out.tolist() == [6, 12, 18, 24, 32]


def test_dynamic_shared_memory_of_a_namespace(language):
    out = kernelsim.poisoned(64, np.float32)
    language.kernel("shared_of_a_namespace").check([out], grid=1, block=64, shared=256)
    assert out.tolist() == list(range(63, -1, -1))


@pytest.mark.parametrize(("name", "rows", "dtype"), [(TEMPLATES[0], 8, np.float32), (TEMPLATES[1], 4, np.float16)])
def test_shared_memory_in_templates(language, name, rows, dtype):
    x = np.arange(rows * 32, dtype=dtype).reshape(rows, 32) / 64
    out = kernelsim.poisoned(32, dtype)
    language.kernel(name).check([out, x], grid=1, block=32, shared=128)
    sums = x.sum(axis=0, dtype=dtype)[::-1]
    assert np.array_equal(out, sums + sums[np.arange(32) ^ 1])


def test_launch_bounds_hold(language):
    out, x = np.zeros(32, np.float16), np.zeros((4, 32), np.float16)
    with pytest.raises(ArgumentError, match=r"block has 64 threads; .* says __launch_bounds__\(32\)"):
        language.kernel(TEMPLATES[1])([out, x], grid=1, block=64, shared=128)


def test_an_asynchronous_copy_lands_when_it_is_waited_for(language):
    x = np.arange(64, dtype=np.float32)
    out = kernelsim.poisoned(64, np.float32)
    language.kernel("later").check([out, x, 1], grid=1, block=32)
    assert np.array_equal(out, x)
    language.kernel("later")([out, x, 0], grid=1, block=32)
    assert np.isnan(out).all()


def test_device_printf(language, capfd):
    language.kernel("printing")([3], grid=2, block=32)
    ctypes.CDLL(None).fflush(None)
    assert capfd.readouterr().out == "3 of 32 in language.cu\n" * 2


# ---- Warps, blocks, groups


@pytest.mark.parametrize("width", [32, 8, 1])
def test_shuffles(language, width):
    out = kernelsim.poisoned((5, 32), np.int32)
    language.kernel("shuffles").check([out, width], grid=1, block=32)
    lane = np.arange(32)
    first, within = lane // width * width, lane % width
    expected = [
        first + (lane + 5) % width,
        np.where(within >= 3, lane - 3, lane),
        np.where(within + 3 < width, lane + 3, lane),
        np.where((lane ^ 6) // width <= lane // width, lane ^ 6, lane),  # earlier segments may be read
    ]
    assert np.array_equal(out[:4], 100 + np.array(expected))
    assert np.array_equal(out[4, :16], np.where(lane[:16] < 8, 108 + lane[:16], -1))


def test_votes_matches_and_reductions(language):
    out = kernelsim.poisoned((9, 64), np.uint32)
    language.kernel("votes").check([out], grid=1, block=64)
    i = np.arange(64)
    warp = i // 32
    alike = [sum(1 << lane for lane in range(32) if (w * 32 + lane) % 3 == n % 3) for n, w in zip(i, warp, strict=True)]
    expected = [
        np.full(64, 0xAAAAAAAA),
        np.where(warp == 0, 2, 1),
        alike,
        np.full(64, 0xFFFFFFFF + 1 & 0xFFFFFFFF),  # the mask, and 1
        np.where(warp == 0, 496, 1520),
        1000 - 32 * warp,
        np.full(64, 32),
        np.full(64, 1),
        np.where(i % 2, 0xAAAAAAAA, np.where(warp == 0, 0x55, 0)),
    ]
    for row, want in zip(out, expected, strict=True):
        assert np.array_equal(row, np.array(want, np.uint32))


@pytest.mark.parametrize(("mask", "message"), [(0x0000FFFF, "lane 16 is not in its own mask"), (1, "not in its own")])
def test_a_lane_outside_of_its_own_mask(language, mask, message):
    with pytest.raises(KernelFault, match=message):
        language.kernel("partial_mask")([np.zeros(32, np.int32), mask], grid=1, block=32)


def test_cooperative_groups(language):
    x = np.random.default_rng(0).standard_normal(64).astype(np.float32)
    out = kernelsim.poisoned((6, 64), np.float32)
    language.kernel("groups").check([out, x], grid=1, block=64)
    i = np.arange(64)
    tiles = x.reshape(4, 16)
    assert np.allclose(out[0], np.repeat(tiles.sum(axis=1), 16), rtol=1e-6, atol=1e-6)
    assert np.allclose(out[1], x[i ^ 5] + 100 * (i // 16))
    assert np.allclose(out[2].reshape(4, 16), np.cumsum(tiles, axis=1), rtol=1e-5, atol=1e-6)
    assert np.allclose(out[3], x[i // 4 * 4 + 1] + x[np.where(i % 4 == 3, i, i + 1)])
    some = np.where(i % 3 == 0)[0]
    greatest = [
        max(x[j] for j in some if j // 32 == n // 32) + sum(1 for j in some if n // 32 * 32 <= j < n) for n in some
    ]
    assert np.allclose(out[4, some], greatest)
    assert np.array_equal(out[5], np.repeat((tiles > 0) @ (1 << np.arange(16)), 16).astype(np.float32))


def test_the_grid_waits_for_itself(language):
    sums, out = np.zeros(1, np.int32), kernelsim.poisoned(3, np.int32)
    language.kernel("whole_grid")([sums, out], grid=3, block=64, workers=3)
    assert out.tolist() == [192, 192, 192]
    with pytest.raises(KernelFault, match="was not launched cooperatively"):
        language.kernel("whole_grid")([sums, out], grid=3, block=64, workers=1)


def test_warp_matrices(language):
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-8, 8, (16, 16)).astype(np.float16) for _ in range(2))
    c, d = rng.integers(-8, 8, (16, 16)).astype(np.float32), kernelsim.poisoned((16, 16), np.float32)
    language.kernel("matrix").check([d, a, b, c], grid=1, block=32)
    assert np.array_equal(d, 2 * (a.astype(np.float32) @ b.T.astype(np.float32) + c))


def test_atomics(language):
    integers, words = np.array([0, 0, 99], np.int32), np.array([0, 5, 0, 0, 0], np.uint32)
    sums, doubles, halves = np.zeros(1, np.float32), np.zeros(1), np.zeros(2, np.float16)
    language.kernel("atomics").check([integers, words, sums, doubles, halves], grid=1, block=32)
    assert integers.tolist() == [496, 31, -40]
    assert words.tolist() == [2, 3, 0xFFFFFFFF, 0, 7]
    assert (sums[0], doubles[0], halves.tolist()) == (16, 8, [32, 64])


# ---- Numbers


def test_integer_intrinsics(language):
    words = np.random.default_rng(0).integers(0, 1 << 32, 254, np.uint32)
    x = np.concatenate([words, np.array([0, 0xFFFFFFFF], np.uint32)])
    out = np.zeros((12, len(x)), np.uint32)
    language.kernel("integers")([out, x, len(x)], grid=1, block=64)
    for n, (a, b) in enumerate(zip(x.tolist(), np.roll(x, -1).tolist(), strict=True)):
        bits = f"{a:032b}"
        both = (b << 32 | a).to_bytes(8, "little")
        at, bt = (np.frombuffer(v.to_bytes(4, "little"), np.int8).astype(int) for v in (a, b))
        au, bu = at & 255, bt & 255
        shift = b & 31

        def packed(values):
            return int.from_bytes(bytes(int(v) & 255 for v in values), "little")

        expected = [
            *(bits.count("1"), (bits + "1").index("1"), (bits[::-1] + "1").index("1") + 1 if a else 0),
            *(int(bits[::-1], 2), packed(both[b >> 4 * i & 7] for i in range(4)), int(at @ bt + 7) & 0xFFFFFFFF),
            *(packed(au + bu), packed(np.clip(at - bt, -128, 127)), packed(np.where(at > bt, 255, 0))),
            *((b << 32 | a) << shift >> 32 & 0xFFFFFFFF, a * b >> 32, packed((au + bu + 1) // 2)),
        ]
        assert out[:, n].tolist() == expected


def test_rounding_modes(language):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(300) * 10.0 ** rng.integers(-20, 20, 300)).astype(np.float32)
    x[:6] = [0, -0.0, 3e38, -3e38, 1e-45, 1]
    out = np.zeros((9, 300), np.float32)
    language.kernel("rounded")([out, x, 300], grid=1, block=32)
    a, b, c = (np.roll(x, -n).astype(np.longdouble) for n in range(3))  # 64 bits: products are exact
    with np.errstate(all="ignore"):
        greatest = np.finfo(np.float32).max

        def rounded(exact, direction):
            near = exact.astype(np.float32)
            wrong = (near.astype(np.longdouble) - exact) * direction < 0
            return np.where(wrong, np.nextafter(near, np.float32(direction * math.inf)), near)

        product = rounded(a * b, -1)
        assert np.array_equal(out[2], np.where(a * b > greatest, greatest, product))
        assert np.array_equal(out[4], (a * b + c).astype(np.float32))
        quotient = rounded(a / b, 1)
        fine = np.isfinite(a / b) & (np.abs(a / b) < greatest) & (np.abs(a / b) > 1e-37)
        assert np.array_equal(out[5][fine], quotient[fine])
        assert np.array_equal(out[6], rounded(np.sqrt(np.abs(a)), -1))
        assert np.allclose(out[7][x != 0], 1 / np.sqrt(np.abs(x[x != 0].astype(np.float64))), rtol=2**-23)
        assert np.array_equal(out[8], np.clip(np.rint(x.astype(np.float64)), -(2**31), 2**31 - 1).astype(np.float32))


def test_narrow_formats_are_rounded_as_ml_dtypes_rounds(language):
    rng = np.random.default_rng(0)
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    x = np.concatenate([halves[np.isfinite(halves)].astype(np.float32), rng.standard_normal(4000).astype(np.float32)])
    codes, words = np.zeros((5, len(x)), np.uint8), np.zeros((4, len(x)), np.uint16)
    language.kernel("narrow")([codes, words, x, len(x)], grid=1, block=128)
    e4m3 = np.clip(x, -448, 448).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    e5m2 = np.clip(x, -57344, 57344).astype(ml_dtypes.float8_e5m2).view(np.uint8)
    e2m1 = np.clip(x, -6, 6).astype(ml_dtypes.float4_e2m1fn).view(np.uint8)
    assert np.array_equal(codes[0], e4m3)
    assert np.array_equal(codes[1], e5m2)
    magnitude = np.abs(x[x != 0].astype(np.float64))
    assert np.array_equal(codes[2][x != 0], np.clip(np.ceil(np.log2(magnitude)) + 127, 0, 254).astype(np.uint8))
    assert np.array_equal(codes[3], e2m1)
    assert np.array_equal(codes[4], e2m1 | (e2m1 ^ 8) << 4)
    assert np.array_equal(words[0], x.astype(np.float16).view(np.uint16))
    bf16 = x.astype(ml_dtypes.bfloat16)
    assert np.array_equal(words[1], bf16.view(np.uint16))
    with np.errstate(over="ignore"):
        fused = x.astype(np.float16).astype(np.float64) * 3 + float(np.float16(0.1))
        assert np.array_equal(words[2], fused.astype(np.float16).view(np.uint16))
    assert np.array_equal(words[3], (bf16 * bf16 + bf16).view(np.uint16))


def test_what_narrow_codes_stand_for(language):
    out = kernelsim.poisoned((4, 256), np.float32)
    language.kernel("wide")([out], grid=1, block=256)
    codes = np.arange(256, dtype=np.uint8)
    e4m3 = codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    assert np.array_equal(out[0], e4m3, equal_nan=True)
    assert np.array_equal(out[1], codes.view(ml_dtypes.float8_e5m2).astype(np.float32), equal_nan=True)
    assert np.array_equal(out[2], e4m3, equal_nan=True)
    low, high = (codes.astype(np.uint8) >> s & 15 for s in (0, 4))
    fp4 = [v.view(ml_dtypes.float4_e2m1fn).astype(np.float32) for v in (low, high)]
    assert np.array_equal(out[3], fp4[0] + 100 * fp4[1])


# ---- Faults and errors


@pytest.mark.parametrize(
    ("what", "place", "kind", "message"),
    [
        (0, "write_at", "memory", "writes p \\(argument 0\\) 368 bytes past the end"),
        (1, "write_at", "memory", "writes unmapped memory at 0"),
        (2, "read_vector", "memory", "misaligned address"),
        (3, "what == 3", "trap", "assertion `zero == 1' failed"),
        (4, "what == 4", "trap", "__trap"),
        (5, "divide", "division", "integer division by zero"),
        (6, "what == 6", "memory", "index 4 is outside of its array"),
    ],
)
def test_faults_name_line_block_and_thread(language, what, place, kind, message):
    source = (KERNELS / "language.cu").read_text().splitlines()
    line = next(n for n, text in enumerate(source, 1) if place in text)
    with pytest.raises(KernelFault, match=message) as caught:
        language.kernel("faulty")([np.zeros(8, np.int32), what, 0], grid=(2, 2), block=(4, 2), workers=1)
    fault = caught.value
    assert (fault.kind, fault.line, fault.group, fault.thread) == (kind, line, (0, 0, 0), (3, 0, 0))
    assert f"language.cu:{line}: faulty: " in str(fault)
    assert str(fault).endswith("(block (0, 0, 0), thread (3, 0, 0))")


def test_what_would_end_the_process_is_a_fault():
    source = """
    #include <cstdlib>
    #include <stdexcept>
    __global__ void ends(int what) {
      if (what == 0) throw std::runtime_error("no");
      if (what == 1) exit(3);
      else if (what == 2) std::abort();
    }
    """
    kernel = cuda.load(source=source).kernel("ends")
    for what, message in enumerate(("throws an exception", r"calls exit\(3\)", r"calls abort\(\)")):
        with pytest.raises(KernelFault, match=rf":{5 + what}: ends: {message} ") as caught:
            kernel([what], grid=1, block=32)
        assert caught.value.kind == "trap"


def test_what_a_device_cannot_launch():
    source = """
    template <int n> __global__ void fixed(int* out) {
      __shared__ int x[n];
      x[0] = 1;
      *out = x[0];
    }
    template <int n> __global__ void __cluster_dims__(n, 1, 1) clusters(int* out) { *out = 1; }
    __global__ void __cluster_dims__(2) declared(int* out);
    __global__ void declared(int* out) { *out = 1; }
    """
    library, out = cuda.load(source=source), np.zeros(1, np.int32)
    for allowed in ("fixed<12288>", "clusters<1>"):
        library.kernel(allowed)([out], grid=1, block=1)
    with pytest.raises(ArgumentError, match="needs 49156 bytes of static shared memory; 49152 are allowed"):
        library.kernel("fixed<12289>")([out], grid=1, block=1)
    for name in ("clusters<2>", "declared"):
        with pytest.raises(ArgumentError, match=f"{name}: thread block clusters are not simulated"):
            library.kernel(name)([out], grid=2, block=1)


def test_an_endless_loop_meets_its_time_limit(language):
    with pytest.raises(TimeLimitExceeded, match="longer than the time limit"):
        language.kernel("faulty")([np.zeros(8, np.int32), 7, 0], grid=1, block=32, time_limit=0.3)


@pytest.mark.parametrize(
    ("args", "launch", "message"),
    [
        ([1.0], {}, "takes 5 arguments"),
        ([None] * 5, {}, "by .* is a float32, not None"),
        ([np.zeros(4)] * 3 + [1, 2], {}, "out.*is an array of float32, not float64"),
        ([np.zeros((4, 4), np.float32)[:, ::2]] * 3 + [1, 2], {}, "not C-contiguous"),
        ({"out": np.zeros(4, np.float32), "zero": 1}, {}, "no argument 'zero'"),
        ({"out": np.zeros(4, np.float32)}, {}, "argument 'a' .* is missing"),
        ([np.zeros(4, np.float32)] * 3 + [1, 2.5], {}, "cannot hold 2.5"),
        ([np.zeros(4, np.float32)] * 3 + [1, 2], {"grid": 0}, "grid is one to three positive integers"),
        ([np.zeros(4, np.float32)] * 3 + [1, 2], {"block": (32, 0)}, "block is one to three positive integers"),
        ([np.zeros(4, np.float32)] * 3 + [1, 2], {"block": (32, 64)}, "1 to 1024 threads, not 2048"),
        ([np.zeros(4, np.float32)] * 3 + [1, 2], {"block": 1025}, "block has at most 1024 in x, not 1025"),
        ([np.zeros(4, np.float32)] * 3 + [1, 2], {"block": (1, 1, 65)}, "block has at most 64 in z, not 65"),
        ([np.zeros(4, np.float32)] * 3 + [1, 2], {"grid": 1 << 31}, "grid has at most 2147483647 in x"),
        ([np.zeros(4, np.float32)] * 3 + [1, 2], {"grid": (1, 65536)}, "grid has at most 65535 in y, not 65536"),
        ([np.zeros(4, np.float32)] * 3 + [1, 2], {"shared": 1 << 20}, "0 to 101376 bytes for a block"),
        ([np.zeros(4, np.float32)] * 3 + [1, 2], {"speed": 1}, "no option 'speed'"),
    ],
)
def test_wrong_arguments(args, launch, message):
    source = "__global__ void add(float* out, const float* a, const float* b, float by, int n) { out[0] = by; }"
    kernel = cuda.load(source=source, arch="sm_89").kernel("add")
    with pytest.raises(ArgumentError, match=message):
        kernel(args, **{"grid": 1, "block": 32, **launch})


def test_null_pointers_and_scalars_of_every_type():
    source = """
    struct Pair { int a; float b; };
    __global__ void mixed(float* out, const float* bias, Pair pair, bool flag, long long wide, double d, __half h) {
      out[0] = (bias ? 1 : 0) + pair.a + pair.b + flag + wide + d + (float)h;
    }
    """
    out = np.zeros(1, np.float32)
    pair = np.array([(2, 0.25)], [("a", "i4"), ("b", "f4")])
    kernel = cuda.load(source="#include <cuda_fp16.h>\n" + source).kernel("mixed")
    kernel([out, None, pair, True, 1 << 20, 0.5, 0.125], grid=1, block=1)
    assert out[0] == 2 + 0.25 + 1 + (1 << 20) + 0.5 + 0.125
    assert [p.type for p in kernel.parameters][2:] == ["struct of 8 bytes", "bool", "int64", "float64", "float16"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("__global__ void f(int* p) { *p = undeclared; }", r":1:\d+: error: use of undeclared identifier 'undeclared'"),
        ("__global__ void f(float *p, __half h) { *p = *p + h; }\n", "ambiguous"),
        ("__global__ void f(int* p) { *p = 1;", "'{' is never closed"),
        ("__global__ int x;", "__global__ is not followed by a function"),
        ("void f() { 3<<<1, 2>>>(); }", "<<< does not stand behind a kernel's name"),
        ('#include "nowhere.h"\n', "'nowhere.h' file not found"),
        ("#include <cub/cub.cuh>\n", ":1:10: fatal error: <cub/cub.cuh> is not simulated"),
        ('__global__ void f() { asm volatile("frobnicate.b32 %0;" :: "r"(1)); }', "frobnicate.b32"),
    ],
)
def test_sources_that_do_not_compile(source, message):
    with pytest.raises(SourceError, match=message):
        cuda.build(source="#include <cuda_fp16.h>\n#line 1\n" + source)


def test_unknown_kernels_templates_files_and_architectures(language, tmp_path):
    with pytest.raises(ArgumentError, match=r"language.cu has no kernel 'gone'; it has indices, vectors"):
        language.kernel("gone")
    with pytest.raises(ArgumentError, match="shared is a template: give its arguments"):
        language.kernel("shared")
    with pytest.raises(SourceError, match="no matching|could not match|undeclared"):
        language.kernel("shared<float>")
    with pytest.raises(ArgumentError, match="there is no file"):
        cuda.load(tmp_path / "none.cu")
    with pytest.raises(ArgumentError, match="either path or source"):
        cuda.load()
    with pytest.raises(ArgumentError, match=r"arch: 'sm_12' is not one of sm_75, sm_80"):
        cuda.build(source="", arch="sm_12")


def test_a_kernel_may_have_the_name_of_other_functions():
    source = """
    __global__ void fma(float* out, const int by = 1);
    __global__ void fma(float *__restrict__ out, const int by) { out[threadIdx.x] = by * (int)threadIdx.x; }
    namespace mine {
      struct P { float x; };
      void set(P) {}
      __global__ void set(float* out, const __grid_constant__ P p = P{3}) { out[threadIdx.x] = p.x; }
    }
    """
    library, out = cuda.load(source=source), kernelsim.poisoned(3, np.float32)
    library.kernel("fma")([out, 2], grid=1, block=3)
    assert out.tolist() == [0, 2, 4]
    library.kernel("mine::set")([out, np.float32([7])], grid=1, block=3)
    assert out.tolist() == [7, 7, 7]
