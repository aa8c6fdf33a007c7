// SPDX-License-Identifier: MIT
// GEMV for decode with int8 or int4 weights in groups of 64: y = x @ (s * q + b).T, f32 sums.
//
// x (M, K), y (M, N) bf16; w words of codes, packed from the lowest bits up: (N, K / 4) for int8, (N, K / 8)
// for int4; w_scales, w_biases (N, K / 64) bf16. Standalone CUDA C++17, sm_80 and later: nvcc -O3 -arch=native
// -c gemv_int.cu. Launch: rb_cuda_gemv_int4(x, w, w_scales, w_biases, y, M, N, K, stream). Memory-bound: reads
// w, scales and biases once for up to 16 tokens.
//
// A block owns ROWS rows of w, its warps share out K. Codes are exact in bf16, s * q + b is not, so with g the
// groups:
//   y = sum_g s[g] * (q[g] @ x[g]) + b[g] * (1 @ x[g]), each product by mma.m16n8k16 with w as left operand and
//   tokens
// padded to 8 or 16, each sum of two by lanes, in f32. Sums do not care about the order of k, so a lane's
// registers are what one 16-byte load of its row brings; of int4 that is half a group, and two lanes swap 8
// bytes. A code of four bits becomes a bf16 by three instructions for two: or-ed into 128's mantissa, then
// minus 128. An infinity in x may give NaN: s * (q * inf) and b * inf can have opposite signs.
//
// Longest chain of additions: 64 in a group, groups of a warp, WARPS.
#include <cuda_bf16.h>
#include <stdint.h>

#include <type_traits>

namespace {

constexpr int GROUP = 64;
constexpr uint32_t ONES = 0x3f803f80;

__device__ __forceinline__ void mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                    uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
               "{%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ __forceinline__ float bf16(uint32_t bits) { return __uint_as_float(bits << 16); }

// Two codes of four bits, at bits 0 and 16, as two bf16.
__device__ __forceinline__ uint32_t two_of_int4(uint32_t word) {
  uint32_t both;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;"
      : "=r"(both)
      : "r"(word), "n"(0x000f000f), "n"(0x43004300)); // (a & b) | c
  const __nv_bfloat162 by = __halves2bfloat162(__ushort_as_bfloat16(0x4300), __ushort_as_bfloat16(0x4300));
  const __nv_bfloat162 out = __hsub2(*reinterpret_cast<const __nv_bfloat162 *>(&both), by);
  return *reinterpret_cast<const uint32_t *>(&out);
}

// Codes i and i + 1 of a word of bytes: under the exponent of 2^23 each is the float 2^23 + code.
__device__ __forceinline__ uint32_t two_of_int8(uint32_t word, int i) {
  const float low = __uint_as_float(__byte_perm(word, 0x4b000000, 0x7650 + i)) - 8388608.0f;
  const float high = __uint_as_float(__byte_perm(word, 0x4b000000, 0x7651 + i)) - 8388608.0f;
  return __byte_perm(__float_as_uint(low), __float_as_uint(high), 0x7632);
}

// A lane's 16 codes of a group, as pairs: two words of int4, four of int8.
template <int BITS> __device__ __forceinline__ void pairs_of_codes(uint32_t (&out)[8], const uint32_t *words) {
#pragma unroll
  for (int i = 0; i < 8; i++)
    out[i] = BITS == 4 ? two_of_int4(words[i / 4] >> (4 * (i % 4))) : two_of_int8(words[i / 2], i % 2 * 2);
}

// x of the same codes in the same order: of int4 code j comes with code j + 4.
template <int BITS> __device__ __forceinline__ void pairs_of_x(uint32_t (&out)[8], const uint32_t (&x)[8]) {
#pragma unroll
  for (int i = 0; i < 8; i++)
    out[i] = BITS == 8
                 ? x[i]
                 : __byte_perm(x[i / 4 * 4 + i % 4 / 2], x[i / 4 * 4 + i % 4 / 2 + 2], i % 2 ? 0x7632 : 0x5410);
}

// Block: 32 x WARPS threads. grid.x: rows in blocks of ROWS; grid.y: tokens in blocks of 8 TILES.
// VECTOR: K is a multiple of 512, so scales and biases of a step are one load of 8 or 16 bytes.
template <int BITS, int ROWS, int TILES, int WARPS, bool VECTOR>
__global__ void __launch_bounds__(32 * WARPS)
    gemv_int_kernel(const uint16_t *x, const uint32_t *w, const uint16_t *scales, const uint16_t *biases,
                    __nv_bfloat16 *y, int64_t M, int64_t N, int64_t K) {
  constexpr int HALVES = ROWS / 8, LOADS = 4, CHUNK = 512 / BITS; // codes of a row that four lanes load at once
  constexpr int STEP = LOADS * CHUNK, GROUPS = STEP / GROUP;      // of a row, that a warp takes at a time
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = lane / 4, quarter = lane % 4;
  const int64_t first = int64_t(blockIdx.x) * ROWS, token = int64_t(blockIdx.y) * 8 * TILES;
  // Where a lane's 16 codes of a group lie in it.
  const int mine = BITS == 8 ? 16 * quarter : 32 * (quarter % 2) + 16 * (quarter / 2);
  // Rows past the end read the last one again and are not stored.
  int64_t n[HALVES];
  for (int h = 0; h < HALVES; h++) n[h] = min(first + 8 * h + row, N - 1);
  const uint16_t *x_row[TILES];
  for (int t = 0; t < TILES; t++) x_row[t] = x + (token + 8 * t + row) * K;
  float acc[TILES][4] = {};
  for (int64_t k = int64_t(warp) * STEP; k < K; k += WARPS * STEP) {
    uint4 words[LOADS][HALVES];
    uint16_t s[HALVES][GROUPS], b[HALVES][GROUPS];
#pragma unroll
    for (int u = 0; u < LOADS; u++)
#pragma unroll
      for (int h = 0; h < HALVES; h++) {
        const int64_t at = k + u * CHUNK + quarter * (CHUNK / 4);
        words[u][h] = at < K ? __ldcs(reinterpret_cast<const uint4 *>(w + (n[h] * K + at) / (32 / BITS)))
                             : uint4{};
      }
#pragma unroll
    for (int h = 0; h < HALVES; h++) {
      const int64_t at = (n[h] * K + k) / GROUP;
      if (VECTOR) {
        using Part = typename std::conditional<GROUPS == 8, uint4, uint2>::type;
        *reinterpret_cast<Part *>(s[h]) = __ldcs(reinterpret_cast<const Part *>(scales + at));
        *reinterpret_cast<Part *>(b[h]) = __ldcs(reinterpret_cast<const Part *>(biases + at));
      } else {
#pragma unroll
        for (int g = 0; g < GROUPS; g++) {
          const bool inside = k + g * GROUP < K;
          s[h][g] = inside ? scales[at + g] : 0;
          b[h][g] = inside ? biases[at + g] : 0;
        }
      }
    }
#pragma unroll
    for (int g = 0; g < GROUPS; g++) {
      uint32_t codes[2][8];
#pragma unroll
      for (int h = 0; h < HALVES; h++) {
        if (BITS == 8) {
          const uint32_t part[4] = {words[g % LOADS][h].x, words[g % LOADS][h].y, words[g % LOADS][h].z,
                                    words[g % LOADS][h].w};
          pairs_of_codes<8>(codes[h], part);
        } else {
          // Quarters 0 and 1 hold the load's first group, 2 and 3 its second; each gives half of it away.
          const uint4 all = words[g / 2][h];
          const bool keeps = (quarter < 2) == (g % 2 == 0);
          const uint32_t give[2] = {quarter < 2 ? all.z : all.x, quarter < 2 ? all.w : all.y};
          const uint32_t keep[2] = {quarter < 2 ? all.x : all.z, quarter < 2 ? all.y : all.w};
          const uint32_t taken[2] = {__shfl_xor_sync(~0u, give[0], 2), __shfl_xor_sync(~0u, give[1], 2)};
          const uint32_t part[2] = {keeps ? keep[0] : taken[0], keeps ? keep[1] : taken[1]};
          pairs_of_codes<4>(codes[h], part);
        }
      }
      if (HALVES == 1)
        for (int i = 0; i < 8; i++) codes[1][i] = ONES; // the tile's empty rows add up x
#pragma unroll
      for (int t = 0; t < TILES; t++) {
        uint4 raw[2] = {};
        const int64_t at = k + g * GROUP + mine;
        if (token + 8 * t + row < M && k + g * GROUP < K) {
          raw[0] = __ldg(reinterpret_cast<const uint4 *>(x_row[t] + at));
          raw[1] = __ldg(reinterpret_cast<const uint4 *>(x_row[t] + at + 8));
        }
        const uint32_t natural[8] = {raw[0].x, raw[0].y, raw[0].z, raw[0].w,
                                     raw[1].x, raw[1].y, raw[1].z, raw[1].w};
        uint32_t xs[8];
        pairs_of_x<BITS>(xs, natural);
        float product[4] = {}, sums[4] = {};
#pragma unroll
        for (int i = 0; i < 8; i += 2) {
          mma(product, codes[0][i], codes[1][i], codes[0][i + 1], codes[1][i + 1], xs[i], xs[i + 1]);
          if (HALVES == 2) mma(sums, ONES, ONES, ONES, ONES, xs[i], xs[i + 1]);
        }
#pragma unroll
        for (int i = 0; i < 2 * HALVES; i++) {
          const float sum = HALVES == 2 ? sums[i] : product[i + 2];
          acc[t][i] = fmaf(bf16(s[i / 2][g]), product[i], fmaf(bf16(b[i / 2][g]), sum, acc[t][i]));
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
    const int m = i / ROWS, c = i % ROWS;
    float sum = 0;
    for (int part = 0; part < WARPS; part++) sum += parts[part][m][c];
    if (token + m < M && first + c < N) y[(token + m) * N + first + c] = __float2bfloat16(sum);
  }
}

int processors() {
  int device = 0, count = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 1;
  return cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) == cudaSuccess ? count : 1;
}

bool off(const void *pointer, uintptr_t by) { return reinterpret_cast<uintptr_t>(pointer) % by; }

template <int BITS, int ROWS, int TILES, int WARPS>
int launch(const void *x, const void *w, const void *s, const void *b, void *y, int64_t M, int64_t N, int64_t K,
           cudaStream_t stream) {
  const dim3 grid(unsigned((N + ROWS - 1) / ROWS), unsigned((M + 8 * TILES - 1) / (8 * TILES)));
  const auto run = [&](auto kernel) {
    kernel<<<grid, 32 * WARPS, 0, stream>>>(static_cast<const uint16_t *>(x), static_cast<const uint32_t *>(w),
                                            static_cast<const uint16_t *>(s), static_cast<const uint16_t *>(b),
                                            static_cast<__nv_bfloat16 *>(y), M, N, K);
    return int(cudaGetLastError());
  };
  if (K % 512 == 0 && !off(s, 16) && !off(b, 16)) return run(gemv_int_kernel<BITS, ROWS, TILES, WARPS, true>);
  return run(gemv_int_kernel<BITS, ROWS, TILES, WARPS, false>);
}

template <int BITS>
int gemv(const void *x, const void *w, const void *s, const void *b, void *y, int64_t M, int64_t N, int64_t K,
         void *stream) {
  if (M < 0 || M > 8 * 65535) return -6;
  if (N < 0 || N > (int64_t(1) << 34)) return -7;
  if (K < 0 || K % GROUP) return -8;
  if (M == 0 || N == 0) return 0;
  if ((!x && K) || off(x, 16)) return -1;
  if ((!w && K) || off(w, 16)) return -2;
  if ((!s && K) || off(s, 2)) return -3;
  if ((!b && K) || off(b, 2)) return -4;
  if (!y || off(y, 2)) return -5;
  const auto run = static_cast<cudaStream_t>(stream);
  const bool few = N < 32 * int64_t(processors());
  if (M > 8)
    return few ? launch<BITS, 8, 2, 8>(x, w, s, b, y, M, N, K, run)
               : launch<BITS, 16, 2, 4>(x, w, s, b, y, M, N, K, run);
  return few ? launch<BITS, 8, 1, 8>(x, w, s, b, y, M, N, K, run)
             : launch<BITS, 16, 1, 4>(x, w, s, b, y, M, N, K, run);
}

} // namespace

extern "C" int rb_cuda_gemv_int8(const void *x, const void *w, const void *w_scales, const void *w_biases,
                                 void *y, int64_t M, int64_t N, int64_t K, void *stream) {
  return gemv<8>(x, w, w_scales, w_biases, y, M, N, K, stream);
}

extern "C" int rb_cuda_gemv_int4(const void *x, const void *w, const void *w_scales, const void *w_biases,
                                 void *y, int64_t M, int64_t N, int64_t K, void *stream) {
  return gemv<4>(x, w, w_scales, w_biases, y, M, N, K, stream);
}
