// SPDX-License-Identifier: MIT
// The device of the runtime API: one, of the architecture that the library was built for.
#include <stdio.h>

#include "cuda/host_state.hpp"

using namespace ksim::cuda;

namespace {
constexpr int kVersion = 13000;   // of CUDA: 13.0
constexpr int kRegisters = 65536; // of a multiprocessor and of a block, on all architectures here
constexpr int kGrid = 65535;      // blocks in y and z
} // namespace

extern "C" {

cudaError_t cudaDeviceReset() {
  forget_errors();
  free_everything();
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() { return sticky(); }
cudaError_t cudaGetDeviceCount(int *count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int *device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  return device ? failed(cudaErrorInvalidDevice, "there is device 0 only, not %d", device) : sticky();
}
cudaError_t cudaSetDeviceFlags(unsigned int) { return cudaSuccess; }
cudaError_t cudaDeviceSetLimit(cudaLimit, size_t) { return cudaSuccess; }
cudaError_t cudaDeviceGetLimit(size_t *value, cudaLimit limit) {
  *value = limit == cudaLimitStackSize ? 1024 : 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceSetCacheConfig(cudaFuncCache) { return cudaSuccess; }
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
  *least = *greatest = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceCanAccessPeer(int *can, int, int) {
  *can = 0;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *version) {
  *version = kVersion;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *version) { return cudaRuntimeGetVersion(version); }
cudaError_t cudaProfilerStart() { return cudaSuccess; }
cudaError_t cudaProfilerStop() { return cudaSuccess; }

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int number) {
  if (const cudaError_t error = cudaSetDevice(number)) return error;
  *p = {};
  snprintf(p->name, sizeof p->name, "%s", device.name);
  p->totalGlobalMem = size_t(device.memory);
  p->sharedMemPerBlock = size_t(device.shared_default);
  p->sharedMemPerBlockOptin = size_t(device.shared_optin);
  p->sharedMemPerMultiprocessor = size_t(device.shared_of_multiprocessor);
  p->reservedSharedMemPerBlock = size_t(device.shared_reserved);
  p->regsPerBlock = p->regsPerMultiprocessor = kRegisters;
  p->warpSize = ksim::kLanes;
  p->memPitch = 0x7fffffff;
  p->maxThreadsPerBlock = p->maxThreadsDim[0] = p->maxThreadsDim[1] = ksim::kMaxThreads;
  p->maxThreadsDim[2] = 64;
  p->maxGridSize[0] = 0x7fffffff;
  p->maxGridSize[1] = p->maxGridSize[2] = kGrid;
  p->totalConstMem = 65536;
  p->major = device.major;
  p->minor = device.minor;
  p->textureAlignment = 512;
  p->multiProcessorCount = device.multiprocessors;
  p->maxThreadsPerMultiProcessor = device.threads_of_multiprocessor;
  p->maxBlocksPerMultiProcessor = device.blocks_of_multiprocessor;
  p->l2CacheSize = device.l2;
  p->integrated = device.integrated;
  p->canMapHostMemory = p->concurrentKernels = p->unifiedAddressing = p->managedMemory = 1;
  p->concurrentManagedAccess = p->cooperativeLaunch = p->hostRegisterSupported = 1;
  p->globalL1CacheSupported = p->memoryPoolsSupported = 1;
  p->asyncEngineCount = 1;
  p->pageableMemoryAccess = p->pageableMemoryAccessUsesHostPageTables = device.integrated;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int number) {
  cudaDeviceProp p;
  if (const cudaError_t error = cudaGetDeviceProperties(&p, number)) return error;
  switch (attribute) {
  case cudaDevAttrMaxThreadsPerBlock:
    *value = p.maxThreadsPerBlock;
    break;
  case cudaDevAttrMaxBlockDimX:
    *value = p.maxThreadsDim[0];
    break;
  case cudaDevAttrMaxBlockDimY:
    *value = p.maxThreadsDim[1];
    break;
  case cudaDevAttrMaxBlockDimZ:
    *value = p.maxThreadsDim[2];
    break;
  case cudaDevAttrMaxGridDimX:
    *value = p.maxGridSize[0];
    break;
  case cudaDevAttrMaxGridDimY:
    *value = p.maxGridSize[1];
    break;
  case cudaDevAttrMaxGridDimZ:
    *value = p.maxGridSize[2];
    break;
  case cudaDevAttrMaxSharedMemoryPerBlock:
    *value = int(p.sharedMemPerBlock);
    break;
  case cudaDevAttrTotalConstantMemory:
    *value = int(p.totalConstMem);
    break;
  case cudaDevAttrWarpSize:
    *value = p.warpSize;
    break;
  case cudaDevAttrMaxRegistersPerBlock:
    *value = p.regsPerBlock;
    break;
  case cudaDevAttrMaxRegistersPerMultiprocessor:
    *value = p.regsPerMultiprocessor;
    break;
  case cudaDevAttrMultiProcessorCount:
    *value = p.multiProcessorCount;
    break;
  case cudaDevAttrIntegrated:
    *value = p.integrated;
    break;
  case cudaDevAttrL2CacheSize:
    *value = p.l2CacheSize;
    break;
  case cudaDevAttrMaxThreadsPerMultiProcessor:
    *value = p.maxThreadsPerMultiProcessor;
    break;
  case cudaDevAttrMaxBlocksPerMultiprocessor:
    *value = p.maxBlocksPerMultiProcessor;
    break;
  case cudaDevAttrComputeCapabilityMajor:
    *value = p.major;
    break;
  case cudaDevAttrComputeCapabilityMinor:
    *value = p.minor;
    break;
  case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
    *value = int(p.sharedMemPerMultiprocessor);
    break;
  case cudaDevAttrMaxSharedMemoryPerBlockOptin:
    *value = int(p.sharedMemPerBlockOptin);
    break;
  case cudaDevAttrReservedSharedMemoryPerBlock:
    *value = int(p.reservedSharedMemPerBlock);
    break;
  case cudaDevAttrPageableMemoryAccess:
    *value = p.pageableMemoryAccess;
    break;
  case cudaDevAttrPageableMemoryAccessUsesHostPageTables:
    *value = p.pageableMemoryAccessUsesHostPageTables;
    break;
  case cudaDevAttrGpuOverlap:
  case cudaDevAttrAsyncEngineCount:
  case cudaDevAttrCanMapHostMemory:
  case cudaDevAttrConcurrentKernels:
  case cudaDevAttrUnifiedAddressing:
  case cudaDevAttrManagedMemory:
  case cudaDevAttrConcurrentManagedAccess:
  case cudaDevAttrCooperativeLaunch:
  case cudaDevAttrHostRegisterSupported:
  case cudaDevAttrMemoryPoolsSupported:
    *value = 1;
    break;
  case cudaDevAttrKernelExecTimeout:
  case cudaDevAttrComputeMode:   // default
  case cudaDevAttrClusterLaunch: // not simulated
  case cudaDevAttrClockRate:     // a CPU has none that would mean anything
  case cudaDevAttrMemoryClockRate:
  case cudaDevAttrGlobalMemoryBusWidth:
    *value = 0;
    break;
  default:
    return failed(cudaErrorInvalidValue, "cudaDeviceGetAttribute: attribute %d is not known", int(attribute));
  }
  return cudaSuccess;
}
}
