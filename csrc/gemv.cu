// SPDX-License-Identifier: MIT
// GEMV for decode: y (M, N) = x (M, K) @ w (N, K).T; f32, f16 or bf16, all row-major, f32 sums.
//
// Standalone CUDA C++17, sm_80 and later: nvcc -O3 -arch=native -c gemv.cu. Launch: rb_cuda_gemv_bf16(x, w, y,
// M, N, K, stream). Memory-bound: reads w once for up to 16 tokens, N * K * itemsize bytes.
//
// f16, bf16: a block owns ROWS rows of w, its warps share out K. w is the left operand of mma.m16n8k16, tokens
// are
//   padded to 8 or 16. Sums do not care about the order of k, so a lane's registers are what one 16-byte load
//   of its row brings: nothing passes through shared memory but the warps' sums, which one warp adds in order.
// f32: a warp owns ROWS rows; each lane multiplies 16 bytes of each row and keeps sums of its own; lanes meet
// at the end. K no multiple of 16 bytes, or an unaligned x or w: the same kernels with loads of single
// elements.
//
// Longest chain of additions: f16, bf16: what a warp has of K, in the order of the matrix unit, then WARPS;
// f32: steps of a lane, 4, the tree over lanes.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>
#include <string.h>

namespace {

constexpr int UNROLL = 4; // 16-byte loads of a row in flight per lane

template <typename T>
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

template <>
__device__ __forceinline__ void mma<__nv_bfloat16>(float (&c)[4], const uint32_t (&a)[4],
                                                   const uint32_t (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
               "{%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <>
__device__ __forceinline__ void mma<__half>(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// 16 bytes of a row from element k on, zeros past its end. w is read once, so it leaves the cache first.
template <bool VECTOR, bool ONCE, typename T>
__device__ __forceinline__ uint4 load(const T *row, int64_t k, int64_t K) {
  constexpr int COUNT = 16 / sizeof(T);
  uint4 out = {0, 0, 0, 0};
  if (VECTOR) {
    if (k < K) {
      const uint4 *at = reinterpret_cast<const uint4 *>(row + k);
      out = ONCE ? __ldcs(at) : __ldg(at);
    }
  } else {
    T part[COUNT];
    for (int i = 0; i < COUNT; i++) part[i] = k + i < K ? row[k + i] : T(0.0f);
    memcpy(&out, part, sizeof out);
  }
  return out;
}

// Block: 32 x WARPS threads. grid.x: rows in blocks of ROWS; grid.y: tokens in blocks of 8 TILES.
template <typename T, int ROWS, int TILES, int WARPS, bool VECTOR>
__global__ void __launch_bounds__(32 * WARPS)
    gemv_mma_kernel(const T *x, const T *w, T *y, int64_t M, int64_t N, int64_t K) {
  constexpr int HALVES = ROWS / 8, STEP = 32 * UNROLL; // elements of a row that a warp takes at a time
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = lane / 4, quarter = lane % 4;
  const int64_t first = int64_t(blockIdx.x) * ROWS, token = int64_t(blockIdx.y) * 8 * TILES;
  // Rows and tokens past the end read the last one again and are not stored.
  const T *w_row[HALVES], *x_row[TILES];
  for (int h = 0; h < HALVES; h++) w_row[h] = w + min(first + 8 * h + row, N - 1) * K;
  for (int t = 0; t < TILES; t++) x_row[t] = x + min(token + 8 * t + row, M - 1) * K;
  float acc[TILES][4] = {};
  for (int64_t k = int64_t(warp) * STEP; k < K; k += WARPS * STEP) {
    uint4 a[UNROLL][HALVES], b[UNROLL][TILES];
#pragma unroll
    for (int u = 0; u < UNROLL; u++) {
      const int64_t at = k + 32 * u + 8 * quarter;
#pragma unroll
      for (int h = 0; h < HALVES; h++) a[u][h] = load<VECTOR, true>(w_row[h], at, K);
    }
#pragma unroll
    for (int u = 0; u < UNROLL; u++) {
      const int64_t at = k + 32 * u + 8 * quarter;
#pragma unroll
      for (int t = 0; t < TILES; t++)
        b[u][t] = token + 8 * t + row < M ? load<VECTOR, false>(x_row[t], at, K) : uint4{};
    }
#pragma unroll
    for (int u = 0; u < UNROLL; u++) {
      const uint4 low = a[u][0], high = HALVES == 2 ? a[u][HALVES - 1] : uint4{};
#pragma unroll
      for (int t = 0; t < TILES; t++) {
        mma<T>(acc[t], {low.x, high.x, low.y, high.y}, {b[u][t].x, b[u][t].y});
        mma<T>(acc[t], {low.z, high.z, low.w, high.w}, {b[u][t].z, b[u][t].w});
      }
    }
  }
  // acc[t][i]: row 8 (i / 2) + row, token 8 t + 2 quarter + i % 2
  __shared__ float sums[WARPS][TILES * 8][ROWS + 1];
  for (int t = 0; t < TILES; t++)
    for (int i = 0; i < 2 * HALVES; i++) sums[warp][8 * t + 2 * quarter + i % 2][8 * (i / 2) + row] = acc[t][i];
  __syncthreads();
  for (int i = threadIdx.x; i < TILES * 8 * ROWS; i += 32 * WARPS) {
    const int m = i / ROWS, n = i % ROWS;
    float sum = 0;
    for (int part = 0; part < WARPS; part++) sum += sums[part][m][n];
    if (token + m < M && first + n < N) y[(token + m) * N + first + n] = T(sum);
  }
}

// Block: 32 x WARPS threads. grid.x: rows in blocks of WARPS * ROWS; grid.y: tokens in blocks of TOKENS.
template <int ROWS, int TOKENS, int WARPS, bool VECTOR>
__global__ void __launch_bounds__(32 * WARPS)
    gemv_lanes_kernel(const float *x, const float *w, float *y, int64_t M, int64_t N, int64_t K) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t first = (int64_t(blockIdx.x) * WARPS + warp) * ROWS, token = int64_t(blockIdx.y) * TOKENS;
  float acc[TOKENS][ROWS] = {};
  for (int64_t k = 4 * lane; k < K; k += 128) {
    uint4 a[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) a[r] = load<VECTOR, true>(w + min(first + r, N - 1) * K, k, K);
#pragma unroll
    for (int t = 0; t < TOKENS; t++) {
      const uint4 b = load<VECTOR, false>(x + min(token + t, M - 1) * K, k, K);
      const float4 xs = {__uint_as_float(b.x), __uint_as_float(b.y), __uint_as_float(b.z),
                         __uint_as_float(b.w)};
#pragma unroll
      for (int r = 0; r < ROWS; r++) {
        acc[t][r] = fmaf(__uint_as_float(a[r].x), xs.x, acc[t][r]);
        acc[t][r] = fmaf(__uint_as_float(a[r].y), xs.y, acc[t][r]);
        acc[t][r] = fmaf(__uint_as_float(a[r].z), xs.z, acc[t][r]);
        acc[t][r] = fmaf(__uint_as_float(a[r].w), xs.w, acc[t][r]);
      }
    }
  }
#pragma unroll
  for (int t = 0; t < TOKENS; t++)
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      float sum = acc[t][r];
      for (int apart = 16; apart > 0; apart /= 2) sum += __shfl_xor_sync(~0u, sum, apart);
      if (lane == 0 && token + t < M && first + r < N) y[(token + t) * N + first + r] = sum;
    }
}

int processors() {
  int device = 0, count = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 1;
  return cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) == cudaSuccess ? count : 1;
}

bool aligned(const void *x, const void *w, int64_t row_bytes) {
  return (reinterpret_cast<uintptr_t>(x) | reinterpret_cast<uintptr_t>(w) | uintptr_t(row_bytes)) % 16 == 0;
}

int check(const void *x, const void *w, const void *y, int64_t M, int64_t N, int64_t K, uintptr_t itemsize) {
  if (M < 0 || M > 16 * 65535) return -4;
  if (N < 0 || N > (int64_t(1) << 34)) return -5;
  if (K < 0) return -6;
  if (M == 0 || N == 0) return 0;
  if ((!x && K) || reinterpret_cast<uintptr_t>(x) % itemsize) return -1;
  if ((!w && K) || reinterpret_cast<uintptr_t>(w) % itemsize) return -2;
  if (!y || reinterpret_cast<uintptr_t>(y) % itemsize) return -3;
  return 0;
}

template <typename T, int ROWS, int TILES, int WARPS>
int launch(const T *x, const T *w, T *y, int64_t M, int64_t N, int64_t K, cudaStream_t stream) {
  const dim3 grid(unsigned((N + ROWS - 1) / ROWS), unsigned((M + 8 * TILES - 1) / (8 * TILES)));
  if (aligned(x, w, K * int64_t(sizeof(T))))
    gemv_mma_kernel<T, ROWS, TILES, WARPS, true><<<grid, 32 * WARPS, 0, stream>>>(x, w, y, M, N, K);
  else
    gemv_mma_kernel<T, ROWS, TILES, WARPS, false><<<grid, 32 * WARPS, 0, stream>>>(x, w, y, M, N, K);
  return int(cudaGetLastError());
}

// The fewer blocks there are, the more warps share a row, so that enough loads are in flight.
template <typename T>
int gemv(const T *x, const T *w, T *y, int64_t M, int64_t N, int64_t K, cudaStream_t stream) {
  const int bad = check(x, w, y, M, N, K, sizeof(T));
  if (bad || M == 0 || N == 0) return bad;
  const bool few = N < 32 * int64_t(processors());
  if (M > 8)
    return few ? launch<T, 8, 2, 8>(x, w, y, M, N, K, stream) : launch<T, 16, 2, 4>(x, w, y, M, N, K, stream);
  return few ? launch<T, 8, 1, 8>(x, w, y, M, N, K, stream) : launch<T, 16, 1, 4>(x, w, y, M, N, K, stream);
}

template <int ROWS, int TOKENS>
int launch_lanes(const float *x, const float *w, float *y, int64_t M, int64_t N, int64_t K,
                 cudaStream_t stream) {
  constexpr int WARPS = 4;
  const dim3 grid(unsigned((N + WARPS * ROWS - 1) / (WARPS * ROWS)), unsigned((M + TOKENS - 1) / TOKENS));
  if (aligned(x, w, K * int64_t(sizeof(float))))
    gemv_lanes_kernel<ROWS, TOKENS, WARPS, true><<<grid, 32 * WARPS, 0, stream>>>(x, w, y, M, N, K);
  else
    gemv_lanes_kernel<ROWS, TOKENS, WARPS, false><<<grid, 32 * WARPS, 0, stream>>>(x, w, y, M, N, K);
  return int(cudaGetLastError());
}

} // namespace

extern "C" int rb_cuda_gemv_f32(const void *x, const void *w, void *y, int64_t M, int64_t N, int64_t K,
                                void *stream) {
  const int bad = check(x, w, y, M, N, K, sizeof(float));
  if (bad || M == 0 || N == 0) return bad;
  const auto *a = static_cast<const float *>(x), *b = static_cast<const float *>(w);
  const auto s = static_cast<cudaStream_t>(stream);
  if (M == 1) return launch_lanes<4, 1>(a, b, static_cast<float *>(y), M, N, K, s);
  if (M <= 4) return launch_lanes<4, 4>(a, b, static_cast<float *>(y), M, N, K, s);
  return launch_lanes<4, 16>(a, b, static_cast<float *>(y), M, N, K, s);
}

extern "C" int rb_cuda_gemv_f16(const void *x, const void *w, void *y, int64_t M, int64_t N, int64_t K,
                                void *stream) {
  return gemv(static_cast<const __half *>(x), static_cast<const __half *>(w), static_cast<__half *>(y), M, N, K,
              static_cast<cudaStream_t>(stream));
}

extern "C" int rb_cuda_gemv_bf16(const void *x, const void *w, void *y, int64_t M, int64_t N, int64_t K,
                                 void *stream) {
  return gemv(static_cast<const __nv_bfloat16 *>(x), static_cast<const __nv_bfloat16 *>(w),
              static_cast<__nv_bfloat16 *>(y), M, N, K, static_cast<cudaStream_t>(stream));
}
