// SPDX-License-Identifier: MIT
// Kernels whose memory traffic is known by hand, bank conflicts among them, and a launcher of two of them.
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

__device__ int thread() { return blockIdx.x * blockDim.x + threadIdx.x; }

__global__ void unit_stride(const float *x, float *y) { y[thread()] = x[thread()]; }
__global__ void stride_2(const float *x, float *y) { y[thread()] = x[2 * thread()]; }
__global__ void column(const float *x, float *y) { y[thread()] = x[32 * thread()]; }
__global__ void broadcast(const float *x, float *y) { y[thread()] = x[0]; }
__global__ void scalar_sum(const float *x, float *y) {
  float sum = 0;
  for (int k = 0; k < 4; k++) sum += x[4 * thread() + k];
  y[thread()] = sum;
}
__global__ void bytes_to_word(const uint8_t *x, uint32_t *y) {
  const uint8_t *b = x + 4 * thread();
  y[thread()] = b[0] | b[1] << 8 | b[2] << 16 | uint32_t(b[3]) << 24;
}
__global__ void uint4_copy(const uint4 *x, uint4 *y) { y[thread()] = x[thread()]; }
__global__ void cast_to_float4(const float *x, float *y) {
  const float4 v = reinterpret_cast<const float4 *>(x)[thread()];
  y[thread()] = v.x + v.y + v.z + v.w;
}
__global__ void hinted(const float4 *x, float4 *y) { __stcs(y + thread(), __ldcs(x + thread())); }
__global__ void half2_to_float2(const __half2 *x, float2 *y) { y[thread()] = __half22float2(x[thread()]); }
struct alignas(16) Eight {
  __half h[8];
};
__global__ void eight_halves(const Eight *x, float *y) {
  const Eight e = x[thread()];
  float sum = 0;
#pragma unroll
  for (int k = 0; k < 8; k++) sum += __half2float(e.h[k]);
  y[thread()] = sum;
}
__global__ void reads_twice(const float *x, float *y) {
  y[thread()] = x[thread()];
  __syncthreads();
  y[thread()] += x[thread()];
}
__global__ void inline_ptx(const uint4 *x, uint4 *y) {
  uint4 v;
  asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(x + thread()));
  y[thread()] = v;
}
__global__ void atomics(float *y, int *n) {
  atomicAdd(y + thread(), 1.0f);
  atomicMax(n + thread(), 7);
}

// Shared memory: 32 banks of 4 bytes.
template <int kPitch> __global__ void transpose(const float *x, float *y) {
  __shared__ float tile[32 * kPitch];
  tile[threadIdx.y * kPitch + threadIdx.x] = x[32 * threadIdx.y + threadIdx.x];
  __syncthreads();
  y[32 * threadIdx.y + threadIdx.x] = tile[threadIdx.x * kPitch + threadIdx.y];
}
// One warp loads T with this many T from lane to lane.
template <class T, int kStride> __global__ void shared_stride(float *y) {
  __shared__ T s[32 * (kStride ? kStride : 1)];
  s[threadIdx.x] = T();
  __syncthreads();
  const T v = s[threadIdx.x * kStride];
  y[threadIdx.x] = reinterpret_cast<const float &>(v);
}
template __global__ void transpose<32>(const float *, float *);
template __global__ void transpose<33>(const float *, float *);
template __global__ void shared_stride<float, 0>(float *);
template __global__ void shared_stride<float, 1>(float *);
template __global__ void shared_stride<float, 2>(float *);
template __global__ void shared_stride<float, 32>(float *);
template __global__ void shared_stride<float2, 1>(float *);
template __global__ void shared_stride<float2, 2>(float *);
template __global__ void shared_stride<float4, 1>(float *);
template __global__ void shared_stride<float4, 2>(float *);
template __global__ void shared_stride<float4, 8>(float *);

// ldmatrix of four 8 x 8 matrices of half from rows of 128 bytes, whose 16-byte chunks lie straight or swizzled.
template <bool kSwizzled> __global__ void load_matrix(uint32_t *y) {
  __shared__ alignas(128) uint4 tile[8 * 8];
  for (int i = threadIdx.x; i < 64; i += 32) tile[i] = make_uint4(i, i, i, i);
  __syncthreads();
  const int row = threadIdx.x % 8, chunk = threadIdx.x / 8;
  const uint4 *from = tile + 8 * row + (kSwizzled ? chunk ^ row : chunk);
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(from));
  uint32_t r[4];
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
  y[threadIdx.x] = r[0] + r[1] + r[2] + r[3];
}
template __global__ void load_matrix<false>(uint32_t *);
template __global__ void load_matrix<true>(uint32_t *);

// Global memory to shared memory past the registers: one load and one store of 16 bytes.
__global__ void async_copy(const uint4 *x, uint4 *y) {
  __shared__ uint4 tile[32];
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(tile + threadIdx.x));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(x + threadIdx.x));
  asm volatile("cp.async.commit_group;");
  asm volatile("cp.async.wait_group 0;");
  y[threadIdx.x] = tile[threadIdx.x];
}

__constant__ float table[32];
__global__ void scale(const float *x, float *y, float by) { y[thread()] = x[thread()] * by + table[threadIdx.x % 32]; }

extern "C" int scale_and_copy(const float *x, float *scratch, float *y, float by, int n) {
  scale<<<n / 64, 64>>>(x, scratch, by);
  unit_stride<<<n / 64, 64>>>(scratch, y);
  return cudaGetLastError();
}

// What the simulator keeps books of for these is no traffic.
__shared__ uint4 tile[32];
__global__ void keeps_books(const uint4 *x, uint4 *y, int *n) {
  __shared__ float kept[32];
  const auto keep = [](float value) { kept[threadIdx.x] = value; };
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(tile + threadIdx.x));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(x + threadIdx.x));
  asm volatile("cp.async.wait_all;");
  const unsigned sum = __reduce_add_sync(~0u, tile[threadIdx.x].x);
  const float moved = __shfl_xor_sync(~0u, float(sum), 1);
  keep(moved);
  const unsigned ballot = __ballot_sync(~0u, moved > 0);
  const int any = __syncthreads_or(moved > 0);
  if (threadIdx.x == 0) *n = int(ballot) + any;
  y[threadIdx.x] = make_uint4(sum, sum, sum, sum);
}
extern "C" int launch_keeps_books(const uint4 *x, uint4 *y, int *n) {
  keeps_books<<<1, 32>>>(x, y, n);
  return cudaGetLastError();
}
