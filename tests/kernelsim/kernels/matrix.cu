// SPDX-License-Identifier: MIT
// Kernels for the simulator's own tests, written as kernels for a device are: GEMV in f16 with a warp for each row, and
// a GEMM with cp.async, ldmatrix and mma.sync. Launchers return a cudaError_t and have C's calling convention.
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

// y (N) = w (N, K) x (K): a warp for each row, 16 bytes of weights to a load. K is a multiple of 8.
template <int kWarps>
__global__ void __launch_bounds__(32 * kWarps) gemv_f16(const __half* __restrict__ w,  // (N, K)
                                                        const __half* __restrict__ x,  // (K)
                                                        float* __restrict__ y,         // (N)
                                                        int N, int K) {
  const int row = blockIdx.x * kWarps + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= N) return;
  float sum = 0;
  for (int k = 8 * lane; k < K; k += 256) {
    const uint4 weights = __ldcs(reinterpret_cast<const uint4*>(w + (size_t)row * K + k));
    const uint4 inputs = *reinterpret_cast<const uint4*>(x + k);
    const __half2* a = reinterpret_cast<const __half2*>(&weights);
    const __half2* b = reinterpret_cast<const __half2*>(&inputs);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float2 p = __half22float2(a[i]), q = __half22float2(b[i]);
      sum += p.x * q.x + p.y * q.y;
    }
  }
  for (int step = 16; step; step /= 2) sum += __shfl_xor_sync(0xffffffff, sum, step);
  if (lane == 0) y[row] = sum;
}

// c (M, N) = a (M, K) b (N, K)^T in f16 with f32 sums: four warps make a tile of 64 x 64, each 32 x 32 of it, in steps of
// 32 in K through two buffers of shared memory. M and N are multiples of 64, K of 32.
constexpr int kTile = 64, kStep = 32, kRow = kStep + 8;  // rows padded by 16 bytes: ldmatrix has no bank conflicts

__device__ __forceinline__ void copy_16(void* to, const void* from) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(address), "l"(from));
}

__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], const __half* row) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}

__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__global__ void __launch_bounds__(128) gemm_f16(const __half* a, const __half* b, float* c, int N, int K) {
  extern __shared__ __align__(16) unsigned char memory[];
  auto tiles = reinterpret_cast<__half(*)[2][kTile][kRow]>(memory);  // buffer, operand
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const __half* from[2] = {a + (size_t)blockIdx.y * kTile * K, b + (size_t)blockIdx.x * kTile * K};
  const auto fetch = [&](int k, int buffer) {
    for (int operand = 0; operand < 2; operand++)
      for (int i = thread; i < kTile * kStep / 8; i += 128)
        copy_16(&tiles[buffer][operand][i / 4][i % 4 * 8], from[operand] + (size_t)(i / 4) * K + k + i % 4 * 8);
    asm volatile("cp.async.commit_group;\n");
  };
  float sum[2][4][4] = {};
  const int m = warp / 2 * 32, n = warp % 2 * 32;
  fetch(0, 0);
  for (int k = 0, buffer = 0; k < K; k += kStep, buffer ^= 1) {
    if (k + kStep < K)
      fetch(k + kStep, buffer ^ 1);
    else
      asm volatile("cp.async.commit_group;\n");
    asm volatile("cp.async.wait_group 1;\n");
    __syncthreads();
    for (int kk = 0; kk < kStep; kk += 16) {
      uint32_t as[2][4], bs[2][4];
      for (int i = 0; i < 2; i++) load_matrices(as[i], &tiles[buffer][0][m + 16 * i + lane % 16][kk + lane / 16 * 8]);
      for (int j = 0; j < 2; j++)
        load_matrices(bs[j], &tiles[buffer][1][n + 16 * j + lane / 16 * 8 + lane % 8][kk + lane / 8 % 2 * 8]);
      for (int i = 0; i < 2; i++)
        for (int j = 0; j < 4; j++) multiply(sum[i][j], as[i], bs[j / 2][j % 2 * 2], bs[j / 2][j % 2 * 2 + 1]);
    }
    __syncthreads();
  }
  for (int i = 0; i < 2; i++)
    for (int j = 0; j < 4; j++) {
      const int row = blockIdx.y * kTile + m + 16 * i + lane / 4, column = blockIdx.x * kTile + n + 8 * j + lane % 4 * 2;
      *reinterpret_cast<float2*>(c + (size_t)row * N + column) = make_float2(sum[i][j][0], sum[i][j][1]);
      *reinterpret_cast<float2*>(c + (size_t)(row + 8) * N + column) = make_float2(sum[i][j][2], sum[i][j][3]);
    }
}

// sum (1) of x (n), n a multiple of 1024: partial sums of warps meet in shared memory.
__global__ void sum_f32(const float* x, float* out, int n) {
  __shared__ float partial[32];
  float sum = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) sum += x[i];
  for (int step = 16; step; step /= 2) sum += __shfl_down_sync(~0u, sum, step);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  sum = threadIdx.x < blockDim.x / 32 ? partial[threadIdx.x] : 0.0f;
  for (int step = 16; step; step /= 2) sum += __shfl_down_sync(~0u, sum, step);
  if (threadIdx.x == 0) *out = sum;
}

extern "C" int launch_gemv_f16(const void* w, const void* x, void* y, int N, int K, void* stream) {
  if (!w || !x || !y) return cudaErrorInvalidValue;
  gemv_f16<4><<<(N + 3) / 4, 128, 0, static_cast<cudaStream_t>(stream)>>>(
      static_cast<const __half*>(w), static_cast<const __half*>(x), static_cast<float*>(y), N, K);
  return cudaGetLastError();
}

extern "C" int launch_gemm_f16(const void* a, const void* b, void* c, int M, int N, int K, void* stream) {
  const int bytes = 2 * 2 * kTile * kRow * sizeof(__half);
  const cudaError_t set = cudaFuncSetAttribute(gemm_f16, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (set != cudaSuccess) return set;
  gemm_f16<<<dim3(N / kTile, M / kTile), 128, bytes, static_cast<cudaStream_t>(stream)>>>(
      static_cast<const __half*>(a), static_cast<const __half*>(b), static_cast<float*>(c), N, K);
  return cudaGetLastError();
}
