// SPDX-License-Identifier: MIT
// GEMV for decode with microscaled weights: y = x @ (scale * code).T, f32 sums.
//
// x (M, K), y (M, N) bf16; w words of codes, packed from the lowest bits up:
//   mxfp8  w (N, K / 4) e4m3, w_scales (N, K / 32) e8m0
//   mxfp4  w (N, K / 8) e2m1, w_scales (N, K / 32) e8m0
//   nvfp4  w (N, K / 8) e2m1, w_scales (N, K / 16) e4m3, w_tensor_scale (1,) f32
// Standalone CUDA C++17, sm_80 and later: nvcc -O3 -arch=native -c gemv_mx.cu. Launch: rb_cuda_gemv_mxfp4(x, w,
// w_scales, y, M, N, K, stream). Memory-bound: reads w and scales once for up to 16 tokens.
//
// A block owns ROWS rows of w, its warps share out K. Codes are exact in bf16: w is the left operand of
// mma.m16n8k16, tokens are padded to 8 or 16. Sums do not care about the order of k, so a lane's registers are
// what one 16-byte load of its row brings. A group's products are added up by themselves and then scaled in
// f32, so the four lanes of a row first swap what they loaded until each has eight codes of one group; nvfp4's
// scales times codes are exact in bf16. The bits of e2m1 at 15 and 8:6 of a bf16 are its value / 2^126, those
// of e4m3 at 15 and 10:4 its value / 2^120, subnormals too; a multiplication makes that good. NaN codes are
// rare and patched apart.
//
// Longest chain of additions: 32 in a group, groups of a warp, WARPS; nvfp4: what a warp has of K, then WARPS.
#include <cuda_bf16.h>
#include <stdint.h>
#include <string.h>

namespace {

constexpr int LOADS = 4; // 16-byte loads of a row in flight per lane

__device__ __forceinline__ void mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                    uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
               "{%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ __forceinline__ uint32_t times(uint32_t two, uint16_t by) {
  const __nv_bfloat16 factor = __ushort_as_bfloat16(by);
  const __nv_bfloat162 out = __hmul2(*reinterpret_cast<const __nv_bfloat162 *>(&two),
                                     __halves2bfloat162(factor, factor));
  return *reinterpret_cast<const uint32_t *>(&out);
}

__device__ __forceinline__ uint32_t nan_where_480(uint32_t two) {
  if ((two & 0x7fff) == 0x43f0) two |= 0x7fc0;
  if ((two & 0x7fff0000) == 0x43f00000) two |= 0x7fc00000;
  return two;
}

// Eight codes as four pairs: e2m1 (0, 4), (1, 5), (2, 6), (3, 7); e4m3 (0, 2), (1, 3), (4, 6), (5, 7).
template <int BITS>
__device__ __forceinline__ void pairs_of_codes(uint32_t (&out)[4], uint32_t low, uint32_t high) {
  if (BITS == 4) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const uint32_t magnitude = i < 2 ? low << (6 - 4 * i) : low >> (4 * i - 6);
      out[i] = times((low << (12 - 4 * i) & 0x80008000) | (magnitude & 0x01c001c0), 0x7e80);
    }
  } else {
    const uint32_t halves[4] = {low << 8, low, high << 8, high};
#pragma unroll
    for (int i = 0; i < 4; i++)
      out[i] = times((halves[i] & 0x80008000) | (halves[i] >> 4 & 0x07f007f0), 0x7b80);
    if ((((low & 0x7f7f7f7f) + 0x01010101) | ((high & 0x7f7f7f7f) + 0x01010101)) & 0x80808080)
#pragma unroll
      for (int i = 0; i < 4; i++) out[i] = nan_where_480(out[i]);
  }
}

// x of the same codes in the same order.
template <int BITS> __device__ __forceinline__ void pairs_of_x(uint32_t (&out)[4], const uint4 &x) {
  const uint32_t of[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int from = BITS == 4 ? i / 2 : i / 2 * 2, apart = BITS == 4 ? 2 : 1;
    out[i] = __byte_perm(of[from], of[from + apart], i % 2 ? 0x7632 : 0x5410);
  }
}

// The four lanes of a row hold 16 bytes each of one run. Afterwards words[i] of lane q is, of 4 bits, the 8
// codes from 8 q on of the run's group i; of 8 bits, words[2 i] and words[2 i + 1] are 8 codes of group i, see
// `mine`.
template <int BITS> __device__ __forceinline__ void swap(uint32_t (&words)[4], int quarter) {
  const bool odd = quarter % 2, late = quarter >= 2;
  if (BITS == 4) {
    const uint32_t a = __shfl_xor_sync(~0u, odd ? words[0] : words[1], 1),
                   b = __shfl_xor_sync(~0u, odd ? words[2] : words[3], 1);
    (odd ? words[0] : words[1]) = a;
    (odd ? words[2] : words[3]) = b;
  }
  const uint32_t a = __shfl_xor_sync(~0u, late ? words[0] : words[2], 2),
                 b = __shfl_xor_sync(~0u, late ? words[1] : words[3], 2);
  (late ? words[0] : words[2]) = a;
  (late ? words[1] : words[3]) = b;
}

__device__ __forceinline__ float e8m0(uint32_t exponent) {
  const uint32_t bits = exponent << 23; // 0 is a subnormal number, 255 a NaN
  return __uint_as_float(exponent == 0 || exponent == 255 ? bits | 0x00400000 : bits);
}

__device__ __forceinline__ uint16_t e4m3_as_bf16(uint32_t code) {
  return uint16_t(nan_where_480(times((code << 8 & 0x8000) | (code << 4 & 0x07f0), 0x7b80)));
}

// Block: 32 x WARPS threads. grid.x: rows in blocks of ROWS; grid.y: tokens in blocks of 8 TILES.
// VECTOR: rows are multiples of 16 bytes, and scales of a step are one load.
template <int BITS, int GROUP, int ROWS, int TILES, int WARPS, bool VECTOR>
__global__ void __launch_bounds__(32 * WARPS)
    gemv_mx_kernel(const uint16_t *x, const uint32_t *w, const uint8_t *scales, const float *tensor_scale,
                   __nv_bfloat16 *y, int64_t M, int64_t N, int64_t K) {
  constexpr int HALVES = ROWS / 8, PER_WORD = 32 / BITS, RUN = 16 * PER_WORD,
                STEP = LOADS * RUN;                                        // codes of a row
  constexpr int UNITS = 32 / BITS / 2 == 4 ? 4 : 2, SCALES = STEP / GROUP; // of a lane's 16 bytes; of a step
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = lane / 4, quarter = lane % 4;
  const int64_t first = int64_t(blockIdx.x) * ROWS, token = int64_t(blockIdx.y) * 8 * TILES;
  // Where a lane's eight codes of a group lie in it, after `swap`.
  const int mine = BITS == 4 ? 8 * quarter : 16 * (quarter % 2) + 8 * (quarter / 2);
  // Rows past the end read the last one again and are not stored.
  int64_t n[HALVES];
  for (int h = 0; h < HALVES; h++) n[h] = min(first + 8 * h + row, N - 1);
  float acc[TILES][4] = {};
  for (int64_t k = int64_t(warp) * STEP; k < K; k += WARPS * STEP) {
    uint32_t words[LOADS][HALVES][4];
    uint8_t s[HALVES][SCALES];
#pragma unroll
    for (int u = 0; u < LOADS; u++)
#pragma unroll
      for (int h = 0; h < HALVES; h++) {
        const int64_t at = k + u * RUN + quarter * (RUN / 4);
        const uint32_t *from = w + (n[h] * K + at) / PER_WORD;
        if (VECTOR) {
          const uint4 all = at < K ? __ldcs(reinterpret_cast<const uint4 *>(from)) : uint4{};
          memcpy(words[u][h], &all, 16);
        } else {
          for (int i = 0; i < 4; i++) words[u][h][i] = at + i * PER_WORD < K ? from[i] : 0;
        }
      }
#pragma unroll
    for (int h = 0; h < HALVES; h++) {
      const uint8_t *from = scales + (n[h] * K + k) / GROUP;
      if (VECTOR && SCALES == 8) {
        const uint2 all = __ldcs(reinterpret_cast<const uint2 *>(from));
        memcpy(s[h], &all, 8);
      } else if (VECTOR) {
#pragma unroll
        for (int i = 0; i < SCALES; i += 16) {
          const uint4 all = __ldcs(reinterpret_cast<const uint4 *>(from + i));
          memcpy(s[h] + i, &all, 16);
        }
      } else {
        for (int i = 0; i < SCALES; i++) s[h][i] = k + i * GROUP < K ? from[i] : 0;
      }
    }
#pragma unroll
    for (int u = 0; u < LOADS; u++) {
      if (GROUP == 32)
#pragma unroll
        for (int h = 0; h < HALVES; h++) swap<BITS>(words[u][h], quarter);
#pragma unroll
      for (int i = 0; i < UNITS; i++) {
        uint32_t codes[2][4] = {};
#pragma unroll
        for (int h = 0; h < HALVES; h++) {
          pairs_of_codes<BITS>(codes[h], words[u][h][BITS == 4 ? i : 2 * i],
                               words[u][h][BITS == 4 ? i : 2 * i + 1]);
          if (GROUP == 16) {
            // Of the run's eight groups a quarter has two, of two words each.
            uint32_t code = s[h][8 * u + i / 2];
#pragma unroll
            for (int q = 1; q < 4; q++) code = quarter == q ? s[h][8 * u + 2 * q + i / 2] : code;
            const uint16_t scale = e4m3_as_bf16(code);
#pragma unroll
            for (int j = 0; j < 4; j++) codes[h][j] = times(codes[h][j], scale);
          }
        }
        const int64_t group = k + u * RUN + (GROUP == 32 ? 32 * i + mine : 32 * quarter + 8 * i);
#pragma unroll
        for (int t = 0; t < TILES; t++) {
          const int64_t m = token + 8 * t + row;
          uint4 raw = {};
          if (m < M && group < K) raw = __ldg(reinterpret_cast<const uint4 *>(x + m * K + group));
          uint32_t xs[4];
          pairs_of_x<BITS>(xs, raw);
          if (GROUP == 16) {
            mma(acc[t], codes[0][0], codes[1][0], codes[0][1], codes[1][1], xs[0], xs[1]);
            mma(acc[t], codes[0][2], codes[1][2], codes[0][3], codes[1][3], xs[2], xs[3]);
          } else {
            float product[4] = {};
            mma(product, codes[0][0], codes[1][0], codes[0][1], codes[1][1], xs[0], xs[1]);
            mma(product, codes[0][2], codes[1][2], codes[0][3], codes[1][3], xs[2], xs[3]);
#pragma unroll
            for (int j = 0; j < 2 * HALVES; j++)
              acc[t][j] = fmaf(e8m0(s[j / 2][u * UNITS + i]), product[j], acc[t][j]);
          }
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
    if (GROUP == 16) sum *= *tensor_scale;
    if (token + m < M && first + c < N) y[(token + m) * N + first + c] = __float2bfloat16(sum);
  }
}

int processors() {
  int device = 0, count = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 1;
  return cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) == cudaSuccess ? count : 1;
}

bool off(const void *pointer, uintptr_t by) { return reinterpret_cast<uintptr_t>(pointer) % by; }

template <int BITS, int GROUP, int ROWS, int TILES, int WARPS>
int launch(const void *x, const void *w, const void *s, const void *t, void *y, int64_t M, int64_t N, int64_t K,
           void *stream) {
  const dim3 grid(unsigned((N + ROWS - 1) / ROWS), unsigned((M + 8 * TILES - 1) / (8 * TILES)));
  const auto run = [&](auto kernel) {
    kernel<<<grid, 32 * WARPS, 0, static_cast<cudaStream_t>(stream)>>>(
        static_cast<const uint16_t *>(x), static_cast<const uint32_t *>(w), static_cast<const uint8_t *>(s),
        static_cast<const float *>(t), static_cast<__nv_bfloat16 *>(y), M, N, K);
    return int(cudaGetLastError());
  };
  if (K % 512 == 0 && !off(w, 16) && !off(s, 16))
    return run(gemv_mx_kernel<BITS, GROUP, ROWS, TILES, WARPS, true>);
  return run(gemv_mx_kernel<BITS, GROUP, ROWS, TILES, WARPS, false>);
}

// Arguments are counted as in nvfp4's launcher; AFTER_SCALES is 1 where there is a tensor scale.
template <int BITS, int GROUP, int AFTER_SCALES>
int gemv(const void *x, const void *w, const void *s, const void *t, void *y, int64_t M, int64_t N, int64_t K,
         void *stream) {
  if (M < 0 || M > 8 * 65535) return -5 - AFTER_SCALES;
  if (N < 0 || N > (int64_t(1) << 34)) return -6 - AFTER_SCALES;
  if (K < 0 || K % GROUP) return -7 - AFTER_SCALES;
  if (M == 0 || N == 0) return 0;
  if ((!x && K) || off(x, 16)) return -1;
  if ((!w && K) || off(w, 4)) return -2;
  if (!s && K) return -3;
  if (AFTER_SCALES && (!t || off(t, 4))) return -4;
  if (!y || off(y, 2)) return -4 - AFTER_SCALES;
  const bool few = N <
                   32 *
                       int64_t(processors()); // then more warps share a row, so that enough loads are in flight
  if (M > 8)
    return few ? launch<BITS, GROUP, 8, 2, 8>(x, w, s, t, y, M, N, K, stream)
               : launch<BITS, GROUP, 16, 2, 4>(x, w, s, t, y, M, N, K, stream);
  return few ? launch<BITS, GROUP, 8, 1, 8>(x, w, s, t, y, M, N, K, stream)
             : launch<BITS, GROUP, 16, 1, 4>(x, w, s, t, y, M, N, K, stream);
}

} // namespace

extern "C" int rb_cuda_gemv_mxfp8(const void *x, const void *w, const void *w_scales, void *y, int64_t M,
                                  int64_t N, int64_t K, void *stream) {
  return gemv<8, 32, 0>(x, w, w_scales, nullptr, y, M, N, K, stream);
}

extern "C" int rb_cuda_gemv_mxfp4(const void *x, const void *w, const void *w_scales, void *y, int64_t M,
                                  int64_t N, int64_t K, void *stream) {
  return gemv<4, 32, 0>(x, w, w_scales, nullptr, y, M, N, K, stream);
}

extern "C" int rb_cuda_gemv_nvfp4(const void *x, const void *w, const void *w_scales,
                                  const void *w_tensor_scale, void *y, int64_t M, int64_t N, int64_t K,
                                  void *stream) {
  return gemv<4, 16, 1>(x, w, w_scales, w_tensor_scale, y, M, N, K, stream);
}
