# SPDX-License-Identifier: MIT
"""Sources as projects have them: with headers of torch and CUTLASS, and C++ that is hard to read by tokens."""

import numpy as np
import pytest

from kernelsim import cuda
from kernelsim.errors import SourceError


def run(source, kernel="k", grid=1, block=1, dtype=np.float32, count=8, **options):
    y = np.zeros(count, dtype)
    cuda.load(source=source, **options).kernel(kernel)([y], grid=grid, block=block)
    return y


# What a PyTorch extension looks like: it needs torch to compile, but its kernels do not.
EXTENSION = """
#include <torch/extension.h>
#include <ATen/cuda/CUDAContext.h>
#include <cublas_v2.h>
using at::Tensor;
template <class T> struct number { using type = T; };
template <> struct number<at::Half> { using type = half; };
torch::Tensor scaled(torch::Tensor x, float factor);
struct Handle {
  cublasHandle_t blas;
  int kept;
};
__device__ __constant__ float factor = 2;
__global__ void k(float *y) {
  half h[2];
  memset(h, 0, sizeof h);
  Handle handle{1};
  y[threadIdx.x] = factor * threadIdx.x + float(h[1]) + handle.kept + (y[0] < FLT_MAX);
}
torch::Tensor scaled(torch::Tensor x, float factor) {
  TORCH_CHECK(x.is_cuda(), "x lies on a CPU");
  k<<<1, 32, 0, at::cuda::getCurrentCUDAStream()>>>(x.data_ptr<float>());
  return x;
}
template torch::Tensor cast<at::Half>(torch::Tensor);
PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) { m.def("scaled", &scaled); }
static int last() { return __LINE__; }
__global__ void line(float *y) { y[0] = __LINE__; }
"""


def test_load_does_without_torch():
    np.testing.assert_array_equal(run(EXTENSION, block=8), 2 * np.arange(8) + 2)
    assert run(EXTENSION, "line")[0] == EXTENSION[: EXTENSION.index("__global__ void line")].count("\n") + 1


def test_build_needs_torch():
    with pytest.raises(SourceError, match="torch/extension.h"):
        cuda.build(source=EXTENSION)


def test_functions_stay_where_no_library_is_missing():
    source = "namespace at { using T = float; } at::T f(at::T); __global__ void k(float *y) { y[0] = sizeof(f(1)); }"
    assert run(source)[0] == 4


SHAPES = {
    "an unnamed namespace": """
        namespace { namespace n { __global__ void j(float *y) {} } __global__ void k(float *y) { y[0] = 1; } }""",
    "a base that is called": """
        __device__ int f(); struct Base { static constexpr float one = 1; }; Base g();
        struct S : decltype(g()) { __device__ float get() { return one; } };
        __global__ void k(float *y) { y[0] = S().get(); }""",
    "braces in a template's head": """
        template <class T, class = decltype(T{1})> struct S { T x; };
        template <auto n, decltype(n) m = decltype(n){1}> __device__ int f() { return n - m; }
        __global__ void k(float *y) { y[0] = S<float>{float(f<2>())}.x; }""",
    "braces in alignas": """
        #include <algorithm>
        struct alignas(std::max({4, 16})) S { float x; };
        __global__ void k(float *y) { y[0] = alignof(S) / 16; }""",
    "a template without the word": """
        template <class T> struct S { template <int n> static __device__ T f(T x) { return x * n; } };
        template <class T> __device__ T g(T x) { return S<T>::f<2>(x); }
        __global__ void k(float *y) { y[0] = g(0.5f); }""",
    "braces in a parameter list": """
        struct S { int x = 1; };
        __device__ int f(S a = {}, S b = S{}) { return a.x * b.x; }
        __global__ void k(float *y) { y[0] = f(); }""",
    "a parameter without a name": "__global__ void j(float *, int); __global__ void k(float *y) { y[0] = 1; }",
}


@pytest.mark.parametrize("source", SHAPES.values(), ids=SHAPES)
def test_the_rewriter_understands(source):
    assert run(source)[0] == 1


def test_names_in_an_unnamed_namespace():
    library = cuda.load(source=SHAPES["an unnamed namespace"])
    assert library.kernels == ("n::j", "k")


def test_state_spaces_of_addresses():
    source = """
    __global__ void k(float *y) {
      __shared__ float s[2];
      y[0] = __isShared(s) && __isShared(s + 1) && !__isGlobal(s);
      y[1] = __isGlobal(y) && !__isShared(y) && !__isConstant(y);
    }"""
    np.testing.assert_array_equal(run(source)[:2], 1)


def test_atomics_with_order_and_scope():
    source = """
    __global__ void k(int *y) {
      __nv_atomic_add(y, 2, __NV_ATOMIC_RELAXED, __NV_THREAD_SCOPE_DEVICE);
      __nv_atomic_fetch_max(y + 1, int(threadIdx.x), __NV_ATOMIC_ACQ_REL);
      __nv_atomic_fetch_xor(y + 2, int(threadIdx.x), __NV_ATOMIC_SEQ_CST);
      if (threadIdx.x) return;
      __nv_atomic_store_n(y + 3, 5, __NV_ATOMIC_RELEASE);
      y[4] = __nv_atomic_load_n(y + 3, __NV_ATOMIC_ACQUIRE);
      y[5] = __nv_atomic_exchange_n(y + 3, 6, __NV_ATOMIC_RELAXED);
      int expected = 7;
      y[6] = __nv_atomic_compare_exchange_n(y + 3, &expected, 8, false, __NV_ATOMIC_RELAXED, __NV_ATOMIC_RELAXED);
      y[7] = expected;
    }"""
    np.testing.assert_array_equal(run(source, block=64, dtype=np.int32), [128, 63, 0, 6, 5, 5, 0, 6])


def test_complex_numbers():
    source = """
    #include <cuComplex.h>
    __global__ void k(float *y) {
      const cuComplex a = make_cuComplex(1, 2), b = make_cuFloatComplex(3, -4);
      const cuComplex all[] = {cuCmulf(a, b), cuCdivf(a, b), cuCaddf(a, cuConjf(b))};
      for (int i = 0; i < 3; i++) y[2 * i] = cuCrealf(all[i]), y[2 * i + 1] = cuCimagf(all[i]);
      y[6] = cuCabsf(b);
      y[7] = cuCreal(cuCmul(make_cuDoubleComplex(0, 1), cuComplexFloatToDouble(a)));
    }"""
    a, b = 1 + 2j, 3 - 4j
    want = [x for z in (a * b, a / b, a + b.conjugate()) for x in (z.real, z.imag)] + [5, -2]
    np.testing.assert_allclose(run(source), want, rtol=1e-6)


def test_names_that_libraries_for_devices_count_on():
    source = """
    #include <cuda.h>
    #include <cudaTypedefs.h>
    #include <cuda_bf16.h>
    #include <cuda_fp16.h>
    template <class T> struct Bits : T { using T::__x; };
    __device__ int which(long4) { return 1; }
    __device__ int which(long4_16a) { return 2; }
    __device__ int which(long4_32a) { return 3; }
    CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_128B;
    struct Node { cudaKernelNodeParams params; CUlaunchAttribute attribute; CUtensorMapDataType type; };
    __global__ void k(float *y) {
      Bits<half> h;
      h.__x = 0x4000;
      y[0] = half(h), y[1] = h.__x;
      Bits<nv_bfloat16> b;
      b.__x = 0x4000;
      y[2] = nv_bfloat16(b), y[3] = b.__x;
      y[4] = which(make_long4(1, 2, 3, 4)), y[5] = which(make_long4_16a(1, 2, 3, 4)), y[6] = which(long4_32a());
      y[7] = CU_TENSOR_MAP_DATA_TYPE_TFLOAT32;
    }"""
    np.testing.assert_array_equal(run(source), [2, 0x4000, 2, 0x4000, 1, 2, 3, 11])


def test_groups_that_libcudacxx_declares_beforehand():
    source = """
    namespace cooperative_groups { namespace __v1 { class thread_block; } using namespace __v1; }
    #include <cooperative_groups.h>
    static_assert(cudaErrorStartupFailure == 127 && cudaErrorMapBufferObjectFailed == 205);
    __global__ void k(float *y) { y[0] = cooperative_groups::this_thread_block().size(); }"""
    assert run(source, block=32)[0] == 32


def test_macros_of_the_standard_library_for_cccl(tmp_path):
    (tmp_path / "cuda/std").mkdir(parents=True)
    (tmp_path / "cuda/std/version").write_text("#pragma once\n#include <version>\n")
    source = """
    #include <cuda/std/version>
    #if defined(_GLIBCXX_RELEASE) || defined(_LIBCPP_VERSION)
    __global__ void k(float *y) { y[0] = 1; }
    #endif
    """
    assert run(source, include=[tmp_path])[0] == 1
    with pytest.raises(SourceError, match="cccl"):
        cuda.load(source=source)
