// SPDX-License-Identifier: MIT
// Launches from host code: what kernel<<<grid, block, shared, stream>>>(args) becomes, and the functions of the
// runtime API that take a kernel.
//
// A __global__ function keeps its name and signature, as nvcc's host stub does. Its body is a lambda:
//
//     __global__ void scale(float *x, float by) { x[threadIdx.x] *= by; }
//
//     void scale(float *x, float by) {
//       static ksim::cuda::Kernel ksim_kernel{__PRETTY_FUNCTION__, 0, 1};
//       ksim::cuda::run(ksim_kernel, [=]() mutable { x[threadIdx.x] *= by; });
//     }
//
// and scale<<<1, 32>>>(x, 2) becomes (ksim::cuda::configure(1, 32), scale(x, 2)).
#pragma once
#include <utility>

#include "host_types.hpp"

#pragma GCC visibility push(hidden) // a process may hold several of these libraries, and NVIDIA's

namespace ksim::cuda {

// One for every instantiation of a __global__ function.
struct Kernel {
  const char *signature; // as the compiler prints it
  int max_threads;       // of __launch_bounds__; 0 = none
  int cluster;           // blocks, of __cluster_dims__
  int max_dynamic = -1;  // cudaFuncAttributeMaxDynamicSharedMemorySize; -1 = not set
};

constexpr char kNoClusters[] = "thread block clusters are not simulated";

struct Configuration {
  dim3 grid, block;
  size_t shared = 0;
  cudaStream_t stream = nullptr;
  bool cooperative = false;
};
// Of the next call of a __global__ function by this thread.
void configure(const Configuration &configuration);
inline void configure(dim3 grid, dim3 block, size_t shared = 0, cudaStream_t stream = nullptr) {
  configure(Configuration{grid, block, shared, stream});
}
// Runs entry(body) in every thread of the grid, or records that it is to be run; body is copied.
void submit(Kernel &kernel, void (*entry)(void *body), const void *body, size_t bytes);
// What became of the last launch of this thread.
cudaError_t launched();

template <class F> void thread_of(void *body) {
  F mine = *static_cast<const F *>(body); // every thread has parameters of its own
  mine();
}
template <class F> inline void run(Kernel &kernel, F body) {
  if (!worker) return submit(kernel, thread_of<F>, &body, sizeof body);
  if (kernel.cluster > 1) fail(kArgument, {}, kNoClusters); // a thread that Python launched
  body();
}

// Dynamic shared memory as S: a struct of `extern __shared__ T name[]`, whose alignment counts for the library.
template <class S>
inline size_t align_dynamic __attribute__((visibility("hidden"))){
    library_variables.dynamic_align = alignof(S) > library_variables.dynamic_align
                                          ? alignof(S)
                                          : library_variables.dynamic_align};
template <class S> KSIM_INLINE S &dynamic() {
  static_assert(alignof(S) <= 4096, "shared memory is aligned to 4096 bytes at most");
  static_cast<void>(&align_dynamic<S>);
  return *reinterpret_cast<S *>(worker ? worker->dynamic[0] : nullptr);
}
// Other variables of namespaces. All those of a file are initialised together, in each worker when it names one
// of them, and in host code; which of them a kernel uses shows when it has written them.
template <class S> KSIM_INLINE S &shared_of_namespace() {
  alignas(S) static unsigned char none[sizeof(S)];
  SharedVariable &v = shared_variable<S>;
  if (!worker) return *reinterpret_cast<S *>(none);
  if (v.use == kUnused) v.use = kIfWritten;
  return *reinterpret_cast<S *>(worker->shared + v.offset);
}

// What stands before a throw.
inline void thrown(Where where = here()) {
  if (worker) fail(kTrap, where, "throws an exception");
}

// The kernel behind a function pointer: the function is called, and says so instead of doing anything.
void ask(Kernel **answer);
template <class P> P nothing() {
  alignas(P) static unsigned char bytes[sizeof(P)];
  return *reinterpret_cast<P *>(bytes);
}
template <class... P> Kernel *kernel_of(void (*function)(P...)) {
  Kernel *kernel = nullptr;
  ask(&kernel);
  function(nothing<P>()...);
  ask(nullptr);
  return kernel;
}
template <class... P, size_t... I>
void call(void (*function)(P...), void **args, std::integer_sequence<size_t, I...>) {
  function(*static_cast<P *>(args[I])...);
}

cudaError_t set_attribute(Kernel &kernel, cudaFuncAttribute attribute, int value);
cudaError_t get_attributes(cudaFuncAttributes *attributes, const Kernel &kernel);
cudaError_t occupancy(int *blocks, int threads, size_t dynamic);
cudaError_t configured(const cudaLaunchConfig_t &config);
cudaError_t untyped(const char *function);

} // namespace ksim::cuda

template <class... P>
cudaError_t cudaLaunchKernel(void (*function)(P...), dim3 grid, dim3 block, void **args, size_t shared = 0,
                             cudaStream_t stream = nullptr) {
  ksim::cuda::configure(grid, block, shared, stream);
  ksim::cuda::call(function, args, std::make_integer_sequence<size_t, sizeof...(P)>());
  return ksim::cuda::launched();
}
template <class... P>
cudaError_t cudaLaunchCooperativeKernel(void (*function)(P...), dim3 grid, dim3 block, void **args,
                                        size_t shared = 0, cudaStream_t stream = nullptr) {
  ksim::cuda::configure({grid, block, shared, stream, true});
  ksim::cuda::call(function, args, std::make_integer_sequence<size_t, sizeof...(P)>());
  return ksim::cuda::launched();
}
template <class... P>
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, void (*function)(P...), void **args) {
  if (const cudaError_t error = ksim::cuda::configured(*config)) return error;
  ksim::cuda::call(function, args, std::make_integer_sequence<size_t, sizeof...(P)>());
  return ksim::cuda::launched();
}
template <class... P, class... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*function)(P...), A &&...args) {
  if (const cudaError_t error = ksim::cuda::configured(*config)) return error;
  function(std::forward<A>(args)...);
  return ksim::cuda::launched();
}
template <class... P>
cudaError_t cudaFuncSetAttribute(void (*function)(P...), cudaFuncAttribute attribute, int value) {
  return ksim::cuda::set_attribute(*ksim::cuda::kernel_of(function), attribute, value);
}
template <class... P>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, void (*function)(P...)) {
  return ksim::cuda::get_attributes(attributes, *ksim::cuda::kernel_of(function));
}
template <class... P> cudaError_t cudaFuncSetCacheConfig(void (*)(P...), cudaFuncCache) { return cudaSuccess; }
template <class... P>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, void (*)(P...), int threads,
                                                          size_t dynamic) {
  return ksim::cuda::occupancy(blocks, threads, dynamic);
}
template <class... P>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, void (*)(P...), int threads,
                                                                   size_t dynamic, unsigned int) {
  return ksim::cuda::occupancy(blocks, threads, dynamic);
}
template <class... P>
cudaError_t cudaOccupancyMaxPotentialBlockSize(int *min_grid, int *block, void (*function)(P...),
                                               size_t dynamic = 0, int limit = 0) {
  const int bound = ksim::cuda::kernel_of(function)->max_threads;
  *block = limit ? limit : bound ? bound : ksim::kMaxThreads;
  int blocks = 0;
  const cudaError_t error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, function, *block, dynamic);
  *min_grid = blocks * ksim::cuda::device.multiprocessors;
  return error;
}

// A kernel behind a void pointer has lost its signature; the rewriter takes such casts out where it sees them.
inline cudaError_t cudaLaunchKernel(const void *, dim3, dim3, void **, size_t = 0, cudaStream_t = nullptr) {
  return ksim::cuda::untyped("cudaLaunchKernel");
}
inline cudaError_t cudaLaunchCooperativeKernel(const void *, dim3, dim3, void **, size_t = 0,
                                               cudaStream_t = nullptr) {
  return ksim::cuda::untyped("cudaLaunchCooperativeKernel");
}
inline cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *, const void *, void **) {
  return ksim::cuda::untyped("cudaLaunchKernelExC");
}
inline cudaError_t cudaFuncSetAttribute(const void *, cudaFuncAttribute, int) {
  return ksim::cuda::untyped("cudaFuncSetAttribute");
}
inline cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *, int threads,
                                                                 size_t dynamic) {
  return ksim::cuda::occupancy(blocks, threads, dynamic); // which does not depend on the kernel
}
inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *, const void *) {
  return ksim::cuda::untyped("cudaFuncGetAttributes");
}

#pragma GCC visibility pop
