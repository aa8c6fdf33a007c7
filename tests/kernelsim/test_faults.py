# SPDX-License-Identifier: MIT
"""What a fault says: the place as an editor finds it, the array, the lanes; and that a launch ends in time."""

import ctypes
import time

import numpy as np
import pytest

from kernelsim import ArgumentError, KernelFault, TimeLimitExceeded, cuda, metal

CUDA = """
#include <cooperative_groups.h>
__global__ void prints(int* out) {
    for (;;) printf("again\\n");
}
__global__ void naps(volatile int* out) { while (*out == 0) __nanosleep(100); }
__global__ void before(int* w, int n) { w[-n] = -1; }
__global__ void what_lies_before(const float* w, float* out, int n) { out[0] = w[-n]; }
__global__ void two_lines(int* out) {
    const int lane = threadIdx.x;
    if (lane < 16)
        out[lane] = __shfl_sync(0xffffffff, lane, lane ^ 16);
    else
        out[lane] = __shfl_sync(0xffffffff, lane, lane ^ 16);
}
__global__ void two_intrinsics(int* out) {
    if (threadIdx.x < 16)
        out[0] = __any_sync(0xffffffff, 1);
    else
        out[1] = __ballot_sync(0xffffffff, 1);
}
__global__ void disagree(int* out, const int* masks) {
    const int lane = threadIdx.x;
    out[lane] = __shfl_sync(masks[lane], lane, 1);
}
__global__ void growing_masks(int* out) {
    int sum = 1;
    for (int width = 2; width <= 32; width *= 2) {
        const unsigned mask = width == 32 ? ~0u : ((1u << width) - 1) << (threadIdx.x & ~(width - 1));
        sum += __shfl_xor_sync(mask, sum, width / 2);
    }
    out[threadIdx.x] = sum;
}
__global__ void no_such_barrier(int n) {
    asm volatile("bar.sync %0, 32;" :: "r"(n));
}
__global__ void half_return(int* out) {
    if (threadIdx.x >= 16) return;
    out[threadIdx.x] = __reduce_add_sync(0xffffffff, 1);
}
"""


@pytest.fixture(scope="module")
def kernels():
    return cuda.load(source=CUDA)


def line(source, text):
    return next(n for n, one in enumerate(source.splitlines(), 1) if text in one)


@pytest.mark.parametrize(("kernel", "text"), [("prints", "again"), ("naps", "nanosleep")])
def test_what_spends_its_time_in_the_c_library_ends_too(kernels, kernel, text, capfd):
    launch = kernels.kernel(kernel)
    start = time.monotonic()
    with pytest.raises(TimeLimitExceeded) as caught:
        launch([np.zeros(1, np.int32)], grid=4, block=32, time_limit=0.5)
    assert time.monotonic() - start < 5
    assert caught.value.line == line(CUDA, text)
    ctypes.CDLL(None).fflush(None)
    assert ("again\n" in capfd.readouterr().out) == (kernel == "prints")


@pytest.mark.parametrize("n", [1, 4, 1000])
def test_writes_before_the_start_of_an_array_are_found(kernels, n):
    w = np.zeros(4, np.int32)
    with pytest.raises(KernelFault, match="before: writes before the start of w .argument 0."):
        kernels.kernel("before")([w, n], grid=1, block=1)
    assert not w.any()


def test_what_lies_before_an_array_is_not_a_number(kernels):
    out = np.zeros(1, np.float32)
    kernels.kernel("what_lies_before")([np.zeros(4, np.float32), out, 1], grid=1, block=1)
    assert np.isnan(out[0])


SCHEDULES = ["forward", "reverse", "random"]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("convergence", ["every", "live", "hardware"])
def test_lanes_of_a_mask_may_meet_at_different_lines(kernels, schedule, convergence):
    out = np.zeros(32, np.int32)
    how = {"grid": 1, "block": 32, "schedule": schedule, "convergence": convergence}
    kernels.kernel("two_lines")([out], **how)
    assert np.array_equal(out, np.arange(32) ^ 16)
    kernels.kernel("growing_masks")([out], **how)
    assert (out == 32).all()
    kernels.kernel("half_return")([out], **how)  # those that have returned need not come
    assert (out[:16] == 16).all()
    with pytest.raises(KernelFault, match="divergent __.*_sync with mask ffffffff: 16 of 32"):
        kernels.kernel("two_intrinsics")([out], **how)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("masks", [(3, 2), (1, 3)])
def test_lanes_that_disagree_about_their_mask(kernels, schedule, masks):
    names, named = (0, 1) if masks[0] == 3 else (1, 0)
    message = f"lane {names} comes with mask 00000003, lane {named}, which it names, came with 0000000{masks[named]}"
    with pytest.raises(KernelFault, match=message) as caught:
        kernels.kernel("disagree")(
            [np.zeros(32, np.int32), np.array(masks, np.int32)], grid=1, block=2, schedule=schedule
        )
    assert caught.value.thread == (names, 0, 0)
    assert caught.value.line == line(CUDA, "masks[lane]")


def test_wrong_arguments_of_an_operation_name_its_line(kernels):
    message = rf":{line(CUDA, 'bar.sync')}: no_such_barrier: .*there is no barrier 20"
    with pytest.raises(ArgumentError, match=message):
        kernels.kernel("no_such_barrier")([20], grid=1, block=32)


METAL = """#include <metal_stdlib>
using namespace metal;
kernel void past(device float* y) { y[1000] = 1; }
kernel void by_zero(device int4* y, constant int& n) {
  y[0] = y[0] /
      int4(n);
}
kernel void remainder_of_zero(device int4* y, constant int& n) { y[0] %= n; }
kernel void waits_forever(device int* y) {
  for (;;)
    threadgroup_barrier(mem_flags::mem_none);
}
"""


@pytest.fixture(scope="module", params=["relative", "absolute"])
def file(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kernels")
    (folder / "below").mkdir()
    (folder / "below" / "k.metal").write_text(METAL)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield "below/k.metal" if request.param == "relative" else str(folder / "below" / "k.metal")


@pytest.mark.parametrize(
    ("kernel", "args", "text"),
    [
        ("past", 1, "y[1000]"),  # a signal
        ("by_zero", 2, "y[0] /"),  # a check of the compiler's, in a function of the standard library
        ("remainder_of_zero", 2, "y[0] %"),
        ("waits_forever", 1, "threadgroup_barrier"),  # in the engine
    ],
)
def test_faults_name_the_file_as_it_was_given(file, kernel, args, text):
    given = [np.zeros(4, np.float32 if kernel == "past" else np.int32), 0][:args]
    with pytest.raises(KernelFault) as caught:
        metal.load(file).kernel(kernel)(given, grid=64, threadgroup=64, time_limit=0.5)
    assert (caught.value.file, caught.value.line) == (file, line(METAL, text))


SHARED = """
__shared__ int first[32];
template <class T> __global__ void neighbours(T* out, int n, int value) {
    __shared__ T second[32], third;
    static __shared__ T fourth[32];
    first[threadIdx.x] = 1, second[threadIdx.x] = 2, third = 3, fourth[threadIdx.x] = 4;
    T* p = second;
    if (threadIdx.x == 0) p[n] = value;
    out[threadIdx.x] = p[threadIdx.x];
}
"""


@pytest.mark.parametrize("language", ["cuda", "metal"])
@pytest.mark.parametrize("value", [5, -1, -2])
@pytest.mark.parametrize(
    ("n", "message"),
    [
        (33, "writes past the end of second, third in"),
        (-1, "writes before the start of second, third in"),
        (31, None),
        (32, None),  # third: the variables of one declaration lie side by side
    ],
)
def test_writes_between_shared_variables_are_found(language, value, n, message):
    out = np.zeros(32, np.int32)
    if language == "cuda":
        kernel, how = cuda.load(source=SHARED).kernel("neighbours<int>"), {"grid": 1, "block": 32}
    else:
        body = SHARED.partition("{")[2].replace("static ", "").replace("__shared__", "threadgroup")
        body = body.replace("threadIdx.x", "i").replace("T*", "threadgroup int*").replace("T ", "int ")
        numbers = "constant int& n, constant int& value, uint i [[thread_index_in_threadgroup]]"
        head = f"kernel void neighbours(device int* out, {numbers}) {{"
        source = f"{head} threadgroup int first[32]; {body}"
        kernel, how = metal.load(source=source).kernel("neighbours"), {"grid": 32, "threadgroup": 32}
    if message is None:
        kernel([out, n, value], **how)
        return
    with pytest.raises(KernelFault, match=message) as caught:
        kernel([out, n, value], **how)
    assert caught.value.thread is None
    assert str(caught.value).endswith("(0, 0, 0))")  # the threadgroup is known
