# SPDX-License-Identifier: MIT
"""The kernels of matrix.cu against float64 NumPy, from Python and through the C ABI; the documentation's examples."""

import ctypes
import doctest

import numpy as np
import pytest
from simulated import KERNELS

import kernelsim
from kernelsim import KernelFault, arch, cuda, metal


@pytest.fixture(scope="module")
def matrix():
    return cuda.load(KERNELS / "matrix.cu", arch="sm_90")


@pytest.fixture(scope="module")
def launchers():
    return cuda.build(KERNELS / "matrix.cu", arch="sm_90")


def half(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float16)


def close(got, reference):
    assert np.abs(got.astype(np.float64) - reference).max() <= 1e-6 * np.abs(reference).max()


@pytest.mark.parametrize("module", [cuda, metal])
def test_the_examples_of_the_documentation(module):
    failed, tried = doctest.testmod(module)
    assert tried
    assert not failed


def test_gemv(matrix):
    w, x, y = half(5, 512), half(512), kernelsim.poisoned(5, np.float32)
    matrix.kernel("gemv_f16<4>").check([w, x, y, 5, 512], grid=2, block=128)
    close(y, w.astype(np.float64) @ x.astype(np.float64))


def test_gemm(matrix):
    a, b, c = half(64, 96), half(128, 96), kernelsim.poisoned((64, 128), np.float32)
    matrix.kernel("gemm_f16").check([a, b, c, 128, 96], grid=(2, 1), block=128, shared=20480)
    close(c, a.astype(np.float64) @ b.astype(np.float64).T)


def test_sum(matrix):
    x, out = np.arange(1024, dtype=np.float32), kernelsim.poisoned(1, np.float32)
    matrix.kernel("sum_f32").check([x, out, 1024], grid=1, block=256)
    assert out[0] == x.sum()


def pointers(*arrays):
    return [ctypes.c_void_p(array.ctypes.data) for array in arrays]


def test_launchers_have_the_abi_that_nvcc_gives(launchers):
    library = ctypes.CDLL(str(launchers.path))
    w, x, y = half(6, 256), half(256), kernelsim.poisoned(6, np.float32)
    assert library.launch_gemv_f16(*pointers(w, x, y), 6, 256, None) == 0
    close(y, w.astype(np.float64) @ x.astype(np.float64))
    a, b, c = half(128, 64), half(64, 64), kernelsim.poisoned((128, 64), np.float32)
    assert library.launch_gemm_f16(*pointers(a, b, c), 128, 64, 64, None) == 0
    close(c, a.astype(np.float64) @ b.astype(np.float64).T)
    assert library.launch_gemv_f16(None, *pointers(x, y), 6, 256, None) == 1  # cudaErrorInvalidValue


def test_a_launchers_fault_is_the_devices_error(launchers):
    w = kernelsim.guarded(half(4, 256))
    x, y = kernelsim.guarded(half(256)), kernelsim.guarded(np.zeros(4, np.float32))
    launchers.configure()
    code = launchers.functions.launch_gemv_f16(*pointers(w, x, y), 5, 256, None)
    assert code == 700  # cudaErrorIllegalAddress
    with pytest.raises(KernelFault, match=r"matrix\.cu:\d+: gemv_f16.*\(block \(1, 0, 0\), thread "):
        launchers.check(code)
    launchers.configure()
    assert launchers.functions.launch_gemv_f16(*pointers(w, x, y), 4, 256, None) == 0


@pytest.mark.parametrize("name", ["sm_75", "sm_80", "sm_89", "sm_90a", "sm_100a", "sm_120a", "sm_121"])
def test_architectures_launch_within_their_limits(name):
    source = """
    __global__ void k(int* y) { extern __shared__ int s[]; s[0] = __CUDA_ARCH__; y[0] = s[0]; }
    extern "C" int run(int* y, int bytes) { k<<<1, 32, bytes>>>(y); return cudaGetLastError(); }
    """
    assert name in arch.ARCHS
    library = cuda.build(source=source, arch=name)
    y = np.zeros(1, np.int32)
    assert library.functions.run(*pointers(y), 128) == 0
    assert y[0] == 10 * int("".join(c for c in name if c.isdigit()))
    assert library.functions.run(*pointers(y), 49 << 10) == 1  # more than 48 KB were not asked for
