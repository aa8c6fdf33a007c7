# SPDX-License-Identifier: MIT
"""The headers that CUDA sources include, and which of ours stands for each."""

ROOMS = {
    "constants": "math_constants.h",
    "half": "cuda_fp16.h cuda_fp16.hpp",
    "bfloat16": "cuda_bf16.h cuda_bf16.hpp",
    "fp8": "cuda_fp8.h cuda_fp8.hpp",
    "fp4": "cuda_fp4.h cuda_fp4.hpp",
    "wmma": "mma.h",
    "nvtx": "nvToolsExt.h nvtx3/nvToolsExt.h",
    "pipeline": "cuda_pipeline.h cuda_pipeline_primitives.h",
    "cooperative_groups": "cooperative_groups.h cooperative_groups/reduce.h cooperative_groups/scan.h "
    "cooperative_groups/memcpy_async.h",
    "complex": "cuComplex.h",
    "driver": "cuda.h cudaTypedefs.h",
    "cuda": "cuda_runtime.h cuda_runtime_api.h device_launch_parameters.h driver_types.h vector_types.h "
    "vector_functions.h device_functions.h device_atomic_functions.h builtin_types.h host_defines.h math_functions.h "
    "cuda_profiler_api.h cudaProfiler.h cuda_device_runtime_api.h sm_20_intrinsics.h sm_30_intrinsics.h "
    "sm_32_intrinsics.h sm_35_intrinsics.h sm_60_atomic_functions.h sm_61_intrinsics.h crt/host_defines.h",
}
# Sources ask by these macros which of NVIDIA's headers have been included; the first are those that nvcc includes.
GUARDS = ("__CUDA_RUNTIME_H__", "__CUDA_RUNTIME_API_H__", "__DRIVER_TYPES_H__", "__VECTOR_TYPES_H__")
GUARDS_OF = {
    "half": "__CUDA_FP16_H__",
    "bfloat16": "__CUDA_BF16_H__",
    "fp8": "__CUDA_FP8_H__",
    "driver": "__cuda_cuda_h__",
}
# What host code needs beside kernels. load(), which has no host code, does without these headers where they are not
# found, and without the declarations that speak of these namespaces and names.
HOST_LIBRARIES = {"torch", "at", "c10", "pybind11", "py", "tvm"}
HOST_PREFIXES = ("cublas", "cudnn", "cufft", "curand", "cusolver", "cusparse", "nccl", "nvrtc")
HOST_HEADERS = ("torch/", "ATen/", "c10/", "THC/", "pybind11/", "tvm/", *HOST_PREFIXES)
# In the place of such a header; those of torch include these too, and sources count on it.
_TORCH_INCLUDES = "algorithm cfloat cmath cstring iostream map memory optional string tuple unordered_map vector"
LEFT_OUT = "#pragma ksim without a library\n"
LEFT_OUT_HEADER = LEFT_OUT + "".join(
    f"#include <{header}>\n" for header in (*_TORCH_INCLUDES.split(), "cuda_runtime.h", "cuda_fp16.h", "cuda_bf16.h")
)
# For CUB and libcu++ (github.com/NVIDIA/cccl), which read the standard library's own macros and, as sources are
# preprocessed as by GCC, must not find Clang's.
CCCL = "cuda/std/version"
CCCL_HEADERS = ("cuda/", "cub/", "thrust/", "nv/")
CCCL_MACROS = (
    "CCCL_DISABLE_NVTX",
    "__make_signed=__ksim_make_signed",
    "__make_unsigned=__ksim_make_unsigned",
)
TOOLKIT = (*CCCL_HEADERS, *HOST_PREFIXES)  # headers of CUDA that are not simulated
LIBRARY_MACRO = (
    r"#define (__GLIBCXX__|_GLIBCXX_RELEASE|_GLIBCXX_USE_CXX11_ABI|_LIBCPP_VERSION"
    r"|_(?:GLIBCXX|LIBCPP)_(?:BEGIN|END)_NAMESPACE_(?:CXX11|STD)) (.*)"
)
STANDARD = (
    "algorithm any array atomic bit bitset cassert cctype cerrno cfenv cfloat charconv chrono cinttypes "
    "climits clocale cmath complex concepts condition_variable csetjmp csignal cstdarg cstddef cstdint cstdio "
    "cstdlib cstring ctime cuchar cwchar deque exception execution filesystem forward_list fstream functional "
    "future initializer_list iomanip ios iosfwd iostream istream iterator limits list locale map memory "
    "memory_resource mutex new numbers numeric optional ostream queue random ranges ratio regex "
    "scoped_allocator set shared_mutex source_location span sstream stack stdexcept streambuf string "
    "string_view system_error thread tuple type_traits typeindex typeinfo unordered_map unordered_set utility "
    "valarray variant vector version assert.h complex.h ctype.h errno.h fenv.h float.h inttypes.h limits.h "
    "locale.h math.h setjmp.h signal.h stdalign.h stdarg.h stdbool.h stddef.h stdint.h stdio.h stdlib.h "
    "string.h strings.h tgmath.h time.h wchar.h dirent.h dlfcn.h fcntl.h getopt.h glob.h libgen.h malloc.h "
    "memory.h netdb.h poll.h pthread.h sched.h semaphore.h unistd.h arpa/inet.h netinet/in.h sys/file.h "
    "sys/ioctl.h sys/mman.h sys/resource.h sys/socket.h sys/stat.h sys/time.h sys/times.h sys/types.h sys/un.h "
    "sys/utsname.h sys/wait.h x86intrin.h immintrin.h omp.h"
)


def not_simulated(header: str) -> str:
    hint = "; a clone of github.com/NVIDIA/cccl has it" if header.startswith(CCCL_HEADERS) else ""
    return f"<{header}> is not simulated{hint}"
