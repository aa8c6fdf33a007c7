// SPDX-License-Identifier: MIT
// cuda.h, the driver API: the types that sources of the runtime API mention. Nothing of it can be called but
// what makes words of errors.
#pragma once
#include "host.hpp"

enum CUresult {
  CUDA_SUCCESS = 0,
  CUDA_ERROR_INVALID_VALUE = 1,
  CUDA_ERROR_OUT_OF_MEMORY = 2,
  CUDA_ERROR_NOT_SUPPORTED = 801
};
using CUdevice = int;
using CUdeviceptr = unsigned long long;
using CUcontext = struct CUctx_st *;
using CUmodule = struct CUmod_st *;
using CUfunction = struct CUfunc_st *;
using CUstream = cudaStream_t;
using CUevent = cudaEvent_t;
struct alignas(64) CUtensorMap {
  unsigned long long opaque[16];
};

inline CUresult cuGetErrorString(CUresult error, const char **text) {
  *text = cudaGetErrorString(cudaError(error));
  return CUDA_SUCCESS;
}
inline CUresult cuGetErrorName(CUresult error, const char **text) {
  *text = cudaGetErrorName(cudaError(error));
  return CUDA_SUCCESS;
}
