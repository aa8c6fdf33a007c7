// SPDX-License-Identifier: MIT
// GEMV for decode with fp8 weights and a scale per row: y = (x @ codes.T) * w_scales, f32 sums.
//
// x (M, K), y (M, N) bf16; w (N, K) e4m3 codes; w_scales (N,) f32. Standalone CUDA C++17, sm_80 and later:
// nvcc -O3 -arch=native -c gemv_fp8.cu. Launch: rb_cuda_gemv_fp8(x, w, w_scales, y, M, N, K, stream).
// Memory-bound: reads w once for up to 16 tokens, N * K bytes.
//
// A block owns ROWS rows of w, its warps share out K. Codes are exact in bf16: w is the left operand of
// mma.m16n8k16, tokens are padded to 8 or 16. Sums do not care about the order of k, so a lane's registers are
// what one 16-byte load of its row brings. The bits of a code at 15 and 10:4 of a bf16 are its value / 2^120,
// subnormals too; a multiplication makes that good. Conversion instructions give f16, which x is not: no gain.
// NaN codes are rare and patched apart. K no multiple of 16, or x or w unaligned: the same kernel with loads of
// single elements.
//
// Longest chain of additions: what a warp has of K, then WARPS.
#include <cuda_bf16.h>
#include <stdint.h>
#include <string.h>

namespace {

constexpr int LOADS = 4,
              STEP = 64 * LOADS; // 16-byte loads of a row in flight per lane, codes of a row per step

__device__ __forceinline__ void mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                    uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
               "{%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// 16 bytes of a row from element k on, zeros past its end. w is read once, so it leaves the cache first.
template <bool VECTOR, bool ONCE, typename T>
__device__ __forceinline__ uint4 load(const T *row, int64_t k, int64_t K) {
  uint4 out = {0, 0, 0, 0};
  if (VECTOR) {
    if (k < K)
      out = ONCE ? __ldcs(reinterpret_cast<const uint4 *>(row + k))
                 : __ldg(reinterpret_cast<const uint4 *>(row + k));
  } else {
    T part[16 / sizeof(T)];
    for (int i = 0; i < int(16 / sizeof(T)); i++) part[i] = k + i < K ? row[k + i] : T(0);
    memcpy(&out, part, sizeof out);
  }
  return out;
}

// Codes at bits 8 to 15 and 24 to 31 as two bf16; 480 for NaN.
__device__ __forceinline__ uint32_t two(uint32_t codes) {
  const uint32_t bits = (codes & 0x80008000) | (codes >> 4 & 0x07f007f0);
  const __nv_bfloat162 by = __halves2bfloat162(__ushort_as_bfloat16(0x7b80),
                                               __ushort_as_bfloat16(0x7b80)); // 2^120
  const __nv_bfloat162 out = __hmul2(*reinterpret_cast<const __nv_bfloat162 *>(&bits), by);
  return *reinterpret_cast<const uint32_t *>(&out);
}

__device__ __forceinline__ uint32_t nan_where_480(uint32_t two) {
  if ((two & 0x7fff) == 0x43f0) two |= 0x7fc0;
  if ((two & 0x7fff0000) == 0x43f00000) two |= 0x7fc00000;
  return two;
}

// 16 codes as pairs: of a word (0, 2), (1, 3).
__device__ __forceinline__ void pairs_of_codes(uint32_t (&out)[8], const uint4 &w) {
  const uint32_t words[4] = {w.x, w.y, w.z, w.w};
  uint32_t nan = 0;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    out[2 * i] = two(words[i] << 8);
    out[2 * i + 1] = two(words[i]);
    nan |= ((words[i] & 0x7f7f7f7f) + 0x01010101) & 0x80808080;
  }
  if (nan)
#pragma unroll
    for (int i = 0; i < 8; i++) out[i] = nan_where_480(out[i]);
}

// Block: 32 x WARPS threads. grid.x: rows in blocks of ROWS; grid.y: tokens in blocks of 8 TILES.
template <int ROWS, int TILES, int WARPS, bool VECTOR>
__global__ void __launch_bounds__(32 * WARPS)
    gemv_fp8_kernel(const uint16_t *x, const uint8_t *w, const float *scales, __nv_bfloat16 *y, int64_t M,
                    int64_t N, int64_t K) {
  constexpr int HALVES = ROWS / 8;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = lane / 4, quarter = lane % 4;
  const int64_t first = int64_t(blockIdx.x) * ROWS, token = int64_t(blockIdx.y) * 8 * TILES;
  // Rows past the end read the last one again and are not stored.
  const uint8_t *w_row[HALVES];
  const uint16_t *x_row[TILES];
  for (int h = 0; h < HALVES; h++) w_row[h] = w + min(first + 8 * h + row, N - 1) * K;
  for (int t = 0; t < TILES; t++) x_row[t] = x + (token + 8 * t + row) * K;
  float acc[TILES][4] = {};
  for (int64_t k = int64_t(warp) * STEP; k < K; k += WARPS * STEP) {
    uint4 a[LOADS][HALVES];
#pragma unroll
    for (int u = 0; u < LOADS; u++)
#pragma unroll
      for (int h = 0; h < HALVES; h++) a[u][h] = load<VECTOR, true>(w_row[h], k + 64 * u + 16 * quarter, K);
#pragma unroll
    for (int u = 0; u < LOADS; u++) {
      uint32_t codes[2][8] = {};
#pragma unroll
      for (int h = 0; h < HALVES; h++) pairs_of_codes(codes[h], a[u][h]);
#pragma unroll
      for (int t = 0; t < TILES; t++) {
        const int64_t at = k + 64 * u + 16 * quarter, end = token + 8 * t + row < M ? K : 0;
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const uint4 b = load<VECTOR, false>(x_row[t], at + 8 * half, end);
          const uint32_t (&low)[8] = codes[0], (&high)[8] = codes[1];
          const int i = 4 * half;
          mma(acc[t], low[i], high[i], low[i + 1], high[i + 1], __byte_perm(b.x, b.y, 0x5410),
              __byte_perm(b.x, b.y, 0x7632));
          mma(acc[t], low[i + 2], high[i + 2], low[i + 3], high[i + 3], __byte_perm(b.z, b.w, 0x5410),
              __byte_perm(b.z, b.w, 0x7632));
        }
      }
    }
  }
  // acc[t][i]: row 8 (i / 2) + row, token 8 t + 2 quarter + i % 2
  __shared__ float parts[WARPS][TILES * 8][ROWS + 1];
  for (int t = 0; t < TILES; t++)
    for (int i = 0; i < 2 * HALVES; i++)
      parts[warp][8 * t + 2 * quarter + i % 2][8 * (i / 2) + row] = acc[t][i];
  __syncthreads();
  for (int i = threadIdx.x; i < TILES * 8 * ROWS; i += 32 * WARPS) {
    const int m = i / ROWS, n = i % ROWS;
    float sum = 0;
    for (int part = 0; part < WARPS; part++) sum += parts[part][m][n];
    if (token + m < M && first + n < N)
      y[(token + m) * N + first + n] = __float2bfloat16(sum * scales[first + n]);
  }
}

int processors() {
  int device = 0, count = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 1;
  return cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) == cudaSuccess ? count : 1;
}

bool off(const void *pointer, uintptr_t by) { return reinterpret_cast<uintptr_t>(pointer) % by; }

template <int ROWS, int TILES, int WARPS>
int launch(const void *x, const void *w, const void *w_scales, void *y, int64_t M, int64_t N, int64_t K,
           void *stream) {
  const dim3 grid(unsigned((N + ROWS - 1) / ROWS), unsigned((M + 8 * TILES - 1) / (8 * TILES)));
  const auto run = [&](auto kernel) {
    kernel<<<grid, 32 * WARPS, 0, static_cast<cudaStream_t>(stream)>>>(
        static_cast<const uint16_t *>(x), static_cast<const uint8_t *>(w), static_cast<const float *>(w_scales),
        static_cast<__nv_bfloat16 *>(y), M, N, K);
    return int(cudaGetLastError());
  };
  if (K % 16 == 0 && !off(x, 16) && !off(w, 16)) return run(gemv_fp8_kernel<ROWS, TILES, WARPS, true>);
  return run(gemv_fp8_kernel<ROWS, TILES, WARPS, false>);
}

} // namespace

extern "C" int rb_cuda_gemv_fp8(const void *x, const void *w, const void *w_scales, void *y, int64_t M,
                                int64_t N, int64_t K, void *stream) {
  if (M < 0 || M > 8 * 65535) return -5;
  if (N < 0 || N > (int64_t(1) << 34)) return -6;
  if (K < 0) return -7;
  if (M == 0 || N == 0) return 0;
  if ((!x && K) || off(x, 2)) return -1;
  if (!w && K) return -2;
  if (!w_scales || off(w_scales, 4)) return -3;
  if (!y || off(y, 2)) return -4;
  const bool few = N <
                   32 *
                       int64_t(processors()); // then more warps share a row, so that enough loads are in flight
  if (M > 8)
    return few ? launch<8, 2, 8>(x, w, w_scales, y, M, N, K, stream)
               : launch<16, 2, 4>(x, w, w_scales, y, M, N, K, stream);
  return few ? launch<8, 1, 8>(x, w, w_scales, y, M, N, K, stream)
             : launch<16, 1, 4>(x, w, w_scales, y, M, N, K, stream);
}
