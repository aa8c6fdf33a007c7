# SPDX-License-Identifier: MIT
"""CUDA host launchers through the library's C ABI."""

import ctypes
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from simulated import KERNELS

import kernelsim
from kernelsim import ArgumentError, KernelFault, TimeLimitExceeded, cuda

P = ctypes.c_void_p
ILLEGAL_ADDRESS, MISALIGNED, TIMEOUT, INVALID_CONFIGURATION, INVALID_VALUE = 700, 716, 702, 9, 1
LAUNCH_FAILURE, NOT_SUPPORTED = 719, 801


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
    assert f"launchers.cu:{line}: stray: writes a guarded array (32 bytes) 1048544 bytes past" in library.error()
    with pytest.raises(KernelFault, match=r"stray: .*\(block \(0, 0, 0\), thread \(0, 0, 0\)\)"):
        library.check(ILLEGAL_ADDRESS)
    library.configure()
    assert (launchers.launch_stray(pointer(x), 1), x[1], library.error()) == (0, 1, "")
    assert launchers.allocate_and_stray(100, 1000) == ILLEGAL_ADDRESS
    assert "stray: writes 3600 bytes past the end of an allocation of 400 bytes" in library.error()


def test_an_overrun_by_one_is_seen(launchers, library):
    assert launchers.allocate_and_stray(101, 101) == ILLEGAL_ADDRESS
    assert "writes past the end of an allocation of 404 bytes" in library.error()


STRAY = """
__global__ void stray(int* x, int at, int value) { x[at] = value; }
extern "C" int given(int* x, int at) {
  stray<<<1, 1>>>(x, at, 1);
  return cudaGetLastError();
}
extern "C" int allocated(int bytes, int at, int value) {
  int* x = nullptr;
  cudaMalloc(&x, bytes);
  stray<<<1, 1>>>(x, at, value);
  const int error = cudaGetLastError();
  cudaFree(x);
  return error;
}
"""


@pytest.mark.parametrize(
    ("size", "at", "value", "message"),
    [
        (100, 25, 1, "stray: writes past the end of an allocation of 100 bytes"),
        (100, 26, -1, "stray: writes past the end of an allocation of 100 bytes"),
        (100, -1, -1, "stray: writes before the start of an allocation of 100 bytes"),
        (100, -900, 1, "stray: writes before the start of an allocation of 100 bytes"),
        (4096, -1, 1, ":2: stray: writes 4 bytes before the start of an allocation of 4096 bytes"),
        (4096, 1024, 1, ":2: stray: writes 0 bytes past the end of an allocation of 4096 bytes"),
    ],
)
def test_a_launch_tells_of_its_own_writes_around_an_allocation(size, at, value, message):
    library = cuda.build(source=STRAY)
    code = library.functions.allocated(size, at, value)
    assert code == ILLEGAL_ADDRESS
    with pytest.raises(KernelFault, match=message):
        library.check(code)
    library.configure()
    assert library.functions.allocated(100, 24, -1) == 0


@pytest.mark.parametrize(
    ("writable", "at", "message"),
    [
        (True, 8, r"writes a guarded array \(32 bytes\) 0 bytes past the end"),
        (False, -2048, r"writes a guarded array \(32 bytes, not writable\) 8192 bytes before the start"),
        (False, 3, r"writes a guarded array \(32 bytes, not writable\) at byte 12"),
    ],
)
def test_a_fault_names_a_guarded_array(writable, at, message):
    library, x = cuda.build(source=STRAY), kernelsim.guarded(np.zeros(8, np.int32), writable=writable)
    library.functions.given(pointer(x), at)
    with pytest.raises(KernelFault, match=f":2: stray: {message}"):
        library.check(ILLEGAL_ADDRESS)


@pytest.mark.parametrize("at", [-1, 5])
def test_writes_beside_a_guarded_array_are_found(at):
    library, x = cuda.build(source=STRAY), kernelsim.guarded(np.zeros(5, np.int32))
    code = library.functions.given(pointer(x), at)
    with pytest.raises(KernelFault, match=r"writes .* of a guarded array \(20 bytes\)$"):
        library.check(code)
    library.check(code)  # each is told of once


def test_host_code_does_what_its_compiler_lets_it():
    source = """
    struct Table { int rows[1]; int get(int i) const { return rows[i]; } };
    namespace some { template <class T> T unaligned(const char* p) { return *reinterpret_cast<const T*>(p); } }
    __global__ void on_the_device(int* x) { *x = 1; }
    extern "C" int host(const char* p, int n) {
      auto read = [](const char* p) { return *reinterpret_cast<const int*>(p); };
      return some::unaligned<int>(p + 1) + read(p + 1) + reinterpret_cast<const Table*>(p)->get(n);
    }
    extern "C" int launch(int* x) {
      on_the_device<<<1, 1>>>(x);
      return cudaGetLastError();
    }
    """
    library, x = cuda.build(source=source), np.arange(1, 9, dtype=np.int32)
    word = int.from_bytes(x.tobytes()[1:5], "little")
    assert library.functions.host(pointer(x), 3) == 2 * word + 4
    assert library.functions.launch(P(x.ctypes.data + 1)) == MISALIGNED


def test_exceptions_and_exit_of_host_code():
    source = """
    #include <cstdlib>
    #include <stdexcept>
    __global__ void quits() { exit(1); }
    extern "C" int caught(int x) {
      try {
        if (x < 0) throw std::runtime_error("negative");
        return x > 9 ? throw x : x;
      } catch (const std::exception&) { return -1; } catch (int big) { return big; }
    }
    extern "C" void leave(int code) { exit(code); }
    extern "C" int launch() {
      quits<<<1, 1>>>();
      return cudaGetLastError();
    }
    """
    library = cuda.build(source=source)
    assert [library.functions.caught(x) for x in (-3, 5, 20)] == [-1, 5, 20]
    assert library.functions.launch() == LAUNCH_FAILURE
    assert ":4: quits: calls exit(1)" in library.error()
    leaves = f"import ctypes; ctypes.CDLL({str(library.path)!r}).leave(7)"
    assert subprocess.run([sys.executable, "-c", leaves], check=False).returncode == 7


def test_grids_that_wait_for_themselves_do_not_disturb_each_other():
    source = """
    #include <cooperative_groups.h>
    __global__ void meets(int rounds, int fails) {
      const long long start = clock64();
      if (int(blockIdx.x) == fails) {
        while (clock64() < start + 100000000) {}  // the others wait
        __trap();
      }
      for (int i = 0; i < rounds; i++) cooperative_groups::this_grid().sync();
    }
    extern "C" int launch(int rounds, int fails) {
      void* args[] = {&rounds, &fails};
      return cudaLaunchCooperativeKernel((void*)meets, 3, 32, args, 0, 0);
    }
    """
    library, kernel = cuda.build(source=source), cuda.load(source=source).kernel("meets")
    with pytest.raises(KernelFault, match="__trap"):
        kernel([1, 2], grid=3, block=32, workers=3)
    kernel([1, -1], grid=3, block=32, workers=3, time_limit=10)
    library.configure(time_limit=10)
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: library.functions.launch(100, -1), range(16))) == {0}


def test_clusters_are_refused():
    source = """
    __global__ void __cluster_dims__(2, 1, 1) pair(int* x) { *x = 1; }
    extern "C" int launch(int* x) {
      pair<<<2, 1>>>(x);
      return cudaGetLastError();
    }
    """
    library, x = cuda.build(source=source), np.zeros(1, np.int32)
    assert library.functions.launch(pointer(x)) == NOT_SUPPORTED
    assert library.error() == "pair: thread block clusters are not simulated"
    assert x[0] == 0


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
