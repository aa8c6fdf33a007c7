# SPDX-License-Identifier: MIT
"""CUDA host launchers through the library's C ABI."""

import ctypes

import numpy as np
import pytest
from simulated import KERNELS

import kernelsim
from kernelsim import ArgumentError, KernelFault, TimeLimitExceeded, cuda

P = ctypes.c_void_p
ILLEGAL_ADDRESS, MISALIGNED, TIMEOUT, INVALID_CONFIGURATION, INVALID_VALUE = 700, 716, 702, 9, 1


@pytest.fixture(scope="module")
def library():
    return cuda.build(KERNELS / "launchers.cu", arch="sm_120a")


@pytest.fixture
def launchers(library):
    library.configure(time_limit=20)
    return library.functions


def pointer(array):
    return P(array.ctypes.data)


def test_a_launcher(launchers, library):
    for schedule in ("forward", "reverse", "random"):
        library.configure(schedule=schedule)
        x = kernelsim.guarded(np.arange(1000, dtype=np.float32))
        assert launchers.launch_scale(pointer(x), ctypes.c_float(2.5), 1000, None) == 0
        assert np.array_equal(x, 2.5 * np.arange(1000, dtype=np.float32))
    assert launchers.launch_scale(None, ctypes.c_float(1), -1, None) == -1
    assert launchers.launch_scale(None, ctypes.c_float(1), 0, None) == 0


def test_a_deduced_template_and_kernels_behind_pointers(launchers):
    x = np.zeros(100)
    assert launchers.launch_deduced(pointer(x), 100) == 0
    assert (x == 3).all()
    y = np.ones(100, np.float32)
    assert launchers.launch_by_pointer(pointer(y), 100) == 0
    assert y.tolist() == [7, *[2.5] * 63, *[5] * 36]


@pytest.mark.parametrize(
    ("blocks", "threads", "code", "message"),
    [
        (0, 128, INVALID_CONFIGURATION, "the grid is empty"),
        (1, 0, INVALID_CONFIGURATION, "1 to 1024 threads"),
        (1, 1025, INVALID_CONFIGURATION, "1 to 1024 threads.*not 1025"),
        (1, 256, INVALID_VALUE, "256 threads, its __launch_bounds__ say 128"),
    ],
)
def test_configurations_that_a_device_refuses(launchers, library, blocks, threads, code, message):
    x = np.ones(100, np.float32)
    assert launchers.launch_scale_with(pointer(x), 100, blocks, threads) == code
    assert (x == 1).all()
    with pytest.raises(ArgumentError, match=message):
        library.check(code)
    assert launchers.launch_scale_with(pointer(x), 100, 1, 128) == 0  # such an error does not stay
    assert (x == 2).all()


def test_shared_memory_has_the_limits_of_the_architecture(launchers, library):
    out = np.zeros(1, np.int32)
    assert launchers.launch_dynamic(pointer(out), 49152, 0) == 0
    assert out[0] == 49152 // 4 - 1
    assert launchers.launch_dynamic(pointer(out), 49156, 0) == INVALID_VALUE
    assert "49156 bytes of dynamic shared memory; without cudaFuncAttributeMax" in library.error()
    assert launchers.launch_dynamic(pointer(out), 101376, 101376) == 0
    assert out[0] == 101376 // 4 - 1
    assert launchers.launch_dynamic(pointer(out), 1024, 101380) == 1000 + INVALID_VALUE
    assert "the device has 101376" in library.error()


def test_a_fault_has_the_code_of_cuda_stays_and_is_told(launchers, library):
    x, source = kernelsim.guarded(np.zeros(8, np.int32)), (KERNELS / "launchers.cu").read_text().splitlines()
    line = next(n for n, text in enumerate(source, 1) if "void stray" in text)
    assert launchers.launch_stray(pointer(x), 1 << 18) == ILLEGAL_ADDRESS
    assert launchers.launch_stray(pointer(x), 0) == ILLEGAL_ADDRESS  # nothing works any more
    assert x[0] == 0
    assert f"launchers.cu:{line}: stray: writes unmapped memory" in library.error()
    with pytest.raises(KernelFault, match=r"stray: .*\(block \(0, 0, 0\), thread \(0, 0, 0\)\)"):
        library.check(ILLEGAL_ADDRESS)
    library.configure()
    assert (launchers.launch_stray(pointer(x), 1), x[1], library.error()) == (0, 1, "")
    assert launchers.allocate_and_stray(100, 1000) == ILLEGAL_ADDRESS
    assert "stray: writes 3600 bytes past the end of an allocation of 400 bytes" in library.error()


def test_an_overrun_by_one_is_seen(launchers, library):
    assert launchers.allocate_and_stray(101, 101) == ILLEGAL_ADDRESS
    assert "writes past the end of an allocation of 404 bytes" in library.error()


def test_misalignment_and_time_limit_have_their_codes(launchers, library):
    x = np.zeros(9, np.int32)
    assert launchers.launch_stray(P(x.ctypes.data + 2), 0) == MISALIGNED
    library.configure(time_limit=0.3)
    assert launchers.launch_spin(pointer(x)) == TIMEOUT
    with pytest.raises(TimeLimitExceeded):
        library.check(TIMEOUT)


def test_memory_streams_and_graphs(launchers, library):
    x = np.arange(200, dtype=np.float32)
    assert launchers.copies(pointer(x), 200) == 0
    assert np.array_equal(x, 2 * np.arange(200))
    assert launchers.graphs(pointer(x), 100) == 0
    assert np.array_equal(x[:101], [0, *(16 * np.arange(1, 100)), 200])
    assert library.error() != "a stream"


def test_the_device_is_that_of_the_architecture(launchers):
    capability, multiprocessors, shared = (np.zeros(1, np.int32) for _ in range(3))
    name = ctypes.create_string_buffer(64)
    assert launchers.device(pointer(capability), pointer(multiprocessors), pointer(shared), name) == 0
    assert (capability[0], multiprocessors[0], shared[0], name.value) == (120, 170, 101376, b"GeForce RTX 5090")
    out = np.zeros(1, np.int32)
    assert launchers.launch_target(pointer(out)) == 0
    assert out[0] == 1201


@pytest.mark.parametrize(("arch", "target"), [("sm_80", 800), ("sm_100f", 1002), ("sm_90a", 902)])
def test_architectures_define_what_nvcc_defines(arch, target):
    out = np.zeros(1, np.int32)
    cuda.load(KERNELS / "launchers.cu", arch=arch).kernel("target")([out], grid=1, block=1)
    assert out[0] == target


def test_nothing_is_compiled_twice(library):
    assert cuda.build(KERNELS / "launchers.cu", arch="sm_120a").path == library.path
