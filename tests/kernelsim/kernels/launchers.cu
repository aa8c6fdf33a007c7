// SPDX-License-Identifier: MIT
// Host code of every kind that a launcher has: launches, attributes, errors, memory, streams, graphs.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <vector>

template <class T, int kThreads> __global__ void __launch_bounds__(kThreads) scale(T *x, T by, int n) {
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i < n) x[i] *= by;
}
template <class T> __global__ void fill(T *x, T value, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) x[i] = value;
}
__global__ void dynamic(int *out, int n) {
  extern __shared__ int values[];
  for (int i = threadIdx.x; i < n; i += blockDim.x) values[i] = i;
  __syncthreads();
  if (threadIdx.x == 0) *out = values[n - 1];
}
__global__ void stray(int *x, int at) { x[at] = 1; }
__global__ void target(int *out) {
#if defined(__CUDA_ARCH_FEAT_SM120_ALL)
  *out = __CUDA_ARCH__ + 1;
#elif defined(__CUDA_ARCH_FAMILY_SPECIFIC__)
  *out = __CUDA_ARCH_FAMILY_SPECIFIC__ + 2;
#elif defined(__CUDA_ARCH__)
  *out = __CUDA_ARCH__;
#endif
}
__global__ void spin(volatile int *x) {
  while (*x == 0) {
  }
}

extern "C" {

// Returns -1 for a bad size, a cudaError_t otherwise.
int launch_scale(float *x, float by, int n, void *stream) {
  if (n < 0) return -1;
  if (n == 0) return cudaSuccess;
  dim3 gridDim((n + 127) / 128), blockDim(128); // names that device code has too
  scale<float, 128><<<gridDim, blockDim, 0, static_cast<cudaStream_t>(stream)>>>(x, by, n);
  return cudaGetLastError();
}
int launch_scale_with(float *x, int n, int blocks, int threads) {
  scale<float, 128><<<blocks, threads>>>(x, 2.0f, n);
  return cudaGetLastError();
}
int launch_deduced(double *x, int n) {
  if (n > 0) fill<<<2, 32>>>(x, 3.0, n);
  return cudaPeekAtLastError();
}
int launch_dynamic(int *out, int bytes, int allowed) {
  if (allowed) {
    const cudaError_t error = cudaFuncSetAttribute((const void *)dynamic,
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize, allowed);
    if (error != cudaSuccess) return 1000 + error;
  }
  dynamic<<<1, 32, bytes>>>(out, bytes / 4);
  return cudaGetLastError();
}
int launch_by_pointer(float *x, int n) {
  float by = 5;
  void *args[] = {&x, &by, &n};
  void (*kernel)(float *, float, int) = n > 64 ? scale<float, 128> : scale<float, 64>;
  if (const cudaError_t error = cudaLaunchKernel((void *)scale<float, 32>, dim3((n + 31) / 32), dim3(32), args,
                                                 0, 0))
    return error;
  kernel<<<1, 64>>>(x, 0.5f, std::min(n, 64));
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(1);
  config.blockDim = dim3(32);
  return cudaLaunchKernelEx(&config, fill<float>, x, 7.0f, 1);
}
int launch_stray(int *x, int at) {
  stray<<<1, 1>>>(x, at);
  return cudaDeviceSynchronize();
}
int launch_spin(int *x) {
  spin<<<1, 1>>>(x);
  return cudaGetLastError();
}
int allocate_and_stray(int n, int at) {
  int *x = nullptr;
  if (cudaMalloc(&x, n * sizeof(int))) return -1;
  stray<<<1, 1>>>(x, at);
  const cudaError_t error = cudaDeviceSynchronize(), again = cudaFree(x);
  return error == again ? error : -1; // a fault stays
}
int copies(float *host, int n) {
  std::vector<float> staging(host, host + n);
  float *device = nullptr;
  if (cudaMalloc(&device, n * sizeof(float))) return 1;
  cudaMemcpy(device, staging.data(), n * sizeof(float), cudaMemcpyHostToDevice);
  scale<float, 128><<<(n + 127) / 128, 128>>>(device, 2.0f, n);
  cudaMemcpy(host, device, n * sizeof(float), cudaMemcpyDeviceToHost);
  const int past_the_end = cudaMemcpy(host, device, (n + 1) * sizeof(float), cudaMemcpyDeviceToHost);
  const int backwards = cudaMemcpy(device, host, n * sizeof(float), cudaMemcpyDeviceToHost);
  if (past_the_end != cudaErrorInvalidValue || backwards != cudaErrorInvalidValue) return 2;
  if (cudaGetLastError() != cudaErrorInvalidValue || cudaGetLastError() != cudaSuccess) return 3;
  return cudaFree(device) || cudaFree(device) != cudaErrorInvalidValue;
}
int graphs(float *x, int n) {
  cudaStream_t stream;
  cudaEvent_t start, end;
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  cudaStreamCreate(&stream);
  cudaEventCreate(&start);
  cudaEventCreate(&end);
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal);
  scale<float, 128><<<1, 128, 0, stream>>>(x, 2.0f, n);
  cudaMemsetAsync(x, 0, sizeof(float), stream);
  cudaStreamEndCapture(stream, &graph);
  cudaGraphInstantiate(&exec, graph, 0);
  cudaEventRecord(start, stream);
  for (int i = 0; i < 3; i++) cudaGraphLaunch(exec, stream);
  cudaEventRecord(end, stream);
  float milliseconds = -1;
  const int error = cudaEventElapsedTime(&milliseconds, start, end);
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
  return error || milliseconds < 0;
}
int device(int *capability, int *multiprocessors, int *shared, char *name) {
  cudaDeviceProp properties;
  if (const cudaError_t error = cudaGetDeviceProperties(&properties, 0)) return error;
  *capability = 10 * properties.major + properties.minor;
  snprintf(name, 64, "%s", properties.name);
  cudaDeviceGetAttribute(multiprocessors, cudaDevAttrMultiProcessorCount, 0);
  return cudaDeviceGetAttribute(shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0);
}
int launch_target(int *out) {
  target<<<1, 1>>>(out);
  return cudaGetLastError();
}
}
