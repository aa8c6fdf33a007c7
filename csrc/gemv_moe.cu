// SPDX-License-Identifier: MIT
// GEMV of a mixture of experts, for decode: y[m, j] = w[expert_ids[m, j]] @ x[m, j or 0], f32 sums.
//
// x (M, x_slots, K) bf16 with x_slots 1 or top_k, expert_ids (M, top_k) int32, y (M, top_k, N) bf16.
//   bf16   w (E, N, K)
//   int4   w (E, N, K / 8) words of codes from the lowest bits up, w_scales, w_biases (E, N, K / 64) bf16: s *
//   q + b mxfp4  w (E, N, K / 8) words of e2m1,                           w_scales (E, N, K / 32) e8m0: 2^(s -
//   127) * code
// Standalone CUDA C++17, sm_80 and later: nvcc -O3 -arch=native -c gemv_moe.cu. Launch:
// rb_cuda_gemv_moe_bf16(x, w, expert_ids, y, M, N, K, E, top_k, x_slots, stream). Memory-bound: reads each
// visited expert once.
//
// A block owns 16 rows of the expert of one assignment (m, j), its warps share out K. It takes along all
// assignments to the same expert, 8 at a time, as columns of mma.m16n8k16; the blocks of those others find that
// and end. How codes become bf16 and groups are scaled: gemv_int.cu, gemv_mx.cu. An expert that does not exist
// gives NaN.
//
// Longest chain of additions: what a warp has of K, then WARPS.
#include <cuda_bf16.h>
#include <stdint.h>
#include <string.h>

namespace {

constexpr int LOADS = 4, WARPS = 4, ROWS = 16, COLUMNS = 8;
constexpr uint32_t ONES = 0x3f803f80;

struct Problem {
  const uint16_t *x;
  const void *w, *scales, *biases;
  const int32_t *expert_ids;
  __nv_bfloat16 *y;
  int64_t N, K, E;
  int assignments, top_k, x_slots;
};

__device__ __forceinline__ void mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                    uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
               "{%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ __forceinline__ float bf16(uint32_t bits) { return __uint_as_float(bits << 16); }

__device__ __forceinline__ uint4 load_x(const uint16_t *x, int64_t at, bool there) {
  return there ? __ldg(reinterpret_cast<const uint4 *>(x + at)) : uint4{};
}

// Pairs (0, 4), (1, 5), (2, 6), (3, 7) of eight.
__device__ __forceinline__ void pairs_of_x(uint32_t (&out)[4], const uint4 &x) {
  const uint32_t of[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
  for (int i = 0; i < 4; i++) out[i] = __byte_perm(of[i / 2], of[i / 2 + 2], i % 2 ? 0x7632 : 0x5410);
}

__device__ __forceinline__ uint4 load_once(const void *base, int64_t bytes) {
  return __ldcs(reinterpret_cast<const uint4 *>(static_cast<const char *>(base) + bytes));
}

// A step of a warp: rows n[0], n[1] of w from column k on times a column of x; `quarter` of the lanes of a row.
template <bool VECTOR> struct Bf16 {
  static constexpr int STEP = 32 * LOADS;

  // Eight of a row; one by one where rows are no multiples of 16 bytes.
  static __device__ __forceinline__ uint4 eight(const uint16_t *row, int64_t at, int64_t K, bool once) {
    uint4 out = {};
    if (VECTOR) {
      if (at < K) out = once ? load_once(row, 2 * at) : load_x(row, at, true);
    } else {
      uint16_t part[8];
#pragma unroll
      for (int i = 0; i < 8; i++) part[i] = at + i < K ? row[at + i] : 0;
      memcpy(&out, part, sizeof out);
    }
    return out;
  }

  static __device__ __forceinline__ void step(float (&acc)[4], const Problem &p, const int64_t (&n)[2],
                                              const uint16_t *x, int64_t k, int quarter) {
    const auto *w = static_cast<const uint16_t *>(p.w);
    uint4 a[LOADS][2];
#pragma unroll
    for (int u = 0; u < LOADS; u++)
#pragma unroll
      for (int h = 0; h < 2; h++) a[u][h] = eight(w + n[h] * p.K, k + 32 * u + 8 * quarter, p.K, true);
#pragma unroll
    for (int u = 0; u < LOADS; u++) {
      const uint4 b = x ? eight(x, k + 32 * u + 8 * quarter, p.K, false) : uint4{};
      mma(acc, a[u][0].x, a[u][1].x, a[u][0].y, a[u][1].y, b.x, b.y);
      mma(acc, a[u][0].z, a[u][1].z, a[u][0].w, a[u][1].w, b.z, b.w);
    }
  }
};

struct Int4 {
  static constexpr int STEP = 128 * LOADS;

  // Two codes, at bits 0 and 16, as two bf16: or-ed into 128's mantissa, then minus 128.
  static __device__ __forceinline__ uint32_t two(uint32_t word) {
    const uint32_t both = (word & 0x000f000f) | 0x43004300;
    const __nv_bfloat162 by = __halves2bfloat162(__ushort_as_bfloat16(0x4300), __ushort_as_bfloat16(0x4300));
    const __nv_bfloat162 out = __hsub2(*reinterpret_cast<const __nv_bfloat162 *>(&both), by);
    return *reinterpret_cast<const uint32_t *>(&out);
  }

  static __device__ __forceinline__ void step(float (&acc)[4], const Problem &p, const int64_t (&n)[2],
                                              const uint16_t *x, int64_t k, int quarter) {
    uint4 words[LOADS][2];
#pragma unroll
    for (int u = 0; u < LOADS; u++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int64_t at = k + 128 * u + 32 * quarter;
        words[u][h] = at < p.K ? load_once(p.w, (n[h] * p.K + at) / 2) : uint4{};
      }
    const auto *scales = static_cast<const uint16_t *>(p.scales),
               *biases = static_cast<const uint16_t *>(p.biases);
#pragma unroll
    for (int g = 0; g < 2 * LOADS; g++) {
      const int64_t group = k + 64 * g;
      float s[2], b[2];
      uint32_t codes[2][8];
#pragma unroll
      for (int h = 0; h < 2; h++) {
        s[h] = group < p.K ? bf16(scales[(n[h] * p.K + group) / 64]) : 0;
        b[h] = group < p.K ? bf16(biases[(n[h] * p.K + group) / 64]) : 0;
        // Quarters 0 and 1 hold the load's first group, 2 and 3 its second; each gives half of it away.
        const uint4 all = words[g / 2][h];
        const bool early = quarter < 2, keeps = early == (g % 2 == 0);
        const uint32_t taken[2] = {__shfl_xor_sync(~0u, early ? all.z : all.x, 2),
                                   __shfl_xor_sync(~0u, early ? all.w : all.y, 2)};
        const uint32_t part[2] = {keeps ? (early ? all.x : all.z) : taken[0],
                                  keeps ? (early ? all.y : all.w) : taken[1]};
#pragma unroll
        for (int i = 0; i < 8; i++) codes[h][i] = two(part[i / 4] >> (4 * (i % 4)));
      }
      float product[4] = {}, sums[4] = {};
#pragma unroll
      for (int half = 0; half < 2; half++) {
        uint32_t xs[4];
        pairs_of_x(xs, load_x(x, group + 32 * (quarter % 2) + 16 * (quarter / 2) + 8 * half, x && group < p.K));
#pragma unroll
        for (int i = 0; i < 4; i += 2) {
          const int c = 4 * half + i;
          mma(product, codes[0][c], codes[1][c], codes[0][c + 1], codes[1][c + 1], xs[i], xs[i + 1]);
          mma(sums, ONES, ONES, ONES, ONES, xs[i], xs[i + 1]);
        }
      }
#pragma unroll
      for (int i = 0; i < 4; i++) acc[i] = fmaf(s[i / 2], product[i], fmaf(b[i / 2], sums[i], acc[i]));
    }
  }
};

struct Mxfp4 {
  static constexpr int STEP = 128 * LOADS;

  static __device__ __forceinline__ float e8m0(uint32_t exponent) {
    const uint32_t bits = exponent << 23; // 0 is a subnormal number, 255 a NaN
    return __uint_as_float(exponent == 0 || exponent == 255 ? bits | 0x00400000 : bits);
  }

  // Codes i and i + 4: their bits at 15 and 8:6 of a bf16 are their value / 2^126.
  static __device__ __forceinline__ uint32_t two(uint32_t word, int i) {
    const uint32_t magnitude = i < 2 ? word << (6 - 4 * i) : word >> (4 * i - 6);
    const uint32_t bits = (word << (12 - 4 * i) & 0x80008000) | (magnitude & 0x01c001c0);
    const __nv_bfloat162 by = __halves2bfloat162(__ushort_as_bfloat16(0x7e80), __ushort_as_bfloat16(0x7e80));
    const __nv_bfloat162 out = __hmul2(*reinterpret_cast<const __nv_bfloat162 *>(&bits), by);
    return *reinterpret_cast<const uint32_t *>(&out);
  }

  // From four groups of one lane each to a word of each group in every lane of the four.
  static __device__ __forceinline__ void transpose(uint32_t (&words)[4], int quarter) {
    const bool odd = quarter % 2, late = quarter >= 2;
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      const uint32_t taken = __shfl_xor_sync(~0u, odd ? words[i] : words[i + 1], 1);
      (odd ? words[i] : words[i + 1]) = taken;
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const uint32_t taken = __shfl_xor_sync(~0u, late ? words[i] : words[i + 2], 2);
      (late ? words[i] : words[i + 2]) = taken;
    }
  }

  static __device__ __forceinline__ void step(float (&acc)[4], const Problem &p, const int64_t (&n)[2],
                                              const uint16_t *x, int64_t k, int quarter) {
    uint32_t words[LOADS][2][4];
#pragma unroll
    for (int u = 0; u < LOADS; u++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int64_t at = k + 128 * u + 32 * quarter;
        const uint4 all = at < p.K ? load_once(p.w, (n[h] * p.K + at) / 2) : uint4{};
        memcpy(words[u][h], &all, 16);
      }
    const auto *scales = static_cast<const uint8_t *>(p.scales);
#pragma unroll
    for (int u = 0; u < LOADS; u++) {
      transpose(words[u][0], quarter);
      transpose(words[u][1], quarter);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int64_t group = k + 128 * u + 32 * i;
        float product[4] = {}, s[2];
        uint32_t codes[2][4], xs[4];
#pragma unroll
        for (int h = 0; h < 2; h++) {
          s[h] = e8m0(group < p.K ? scales[(n[h] * p.K + group) / 32] : 0);
#pragma unroll
          for (int j = 0; j < 4; j++) codes[h][j] = two(words[u][h][i], j);
        }
        pairs_of_x(xs, load_x(x, group + 8 * quarter, x && group < p.K));
        mma(product, codes[0][0], codes[1][0], codes[0][1], codes[1][1], xs[0], xs[1]);
        mma(product, codes[0][2], codes[1][2], codes[0][3], codes[1][3], xs[2], xs[3]);
#pragma unroll
        for (int j = 0; j < 4; j++) acc[j] = fmaf(s[j / 2], product[j], acc[j]);
      }
    }
  }
};

// grid.x: assignments, so that blocks of one expert run together; grid.y: rows in blocks of ROWS.
template <typename Format> __global__ void __launch_bounds__(32 * WARPS) gemv_moe_kernel(const Problem p) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = lane / 4, quarter = lane % 4;
  const int own = blockIdx.x, expert = p.expert_ids[own];
  const int64_t first = int64_t(blockIdx.y) * ROWS;
  __shared__ int columns[COLUMNS];
  __shared__ float parts[WARPS][COLUMNS][ROWS + 1];
  if (expert < 0 || expert >= p.E) {
    for (int i = threadIdx.x; i < ROWS && first + i < p.N; i += 32 * WARPS)
      p.y[own * p.N + first + i] = __ushort_as_bfloat16(0x7fff);
    return;
  }
  for (int i = 0; i < own; i += 32) { // an earlier assignment's block does it
    const bool same = i + lane < own && p.expert_ids[i + lane] == expert;
    if (__any_sync(~0u, same)) return;
  }
  // Rows past the end read the last one again and are not stored.
  const int64_t n[2] = {expert * p.N + min(first + row, p.N - 1), expert * p.N + min(first + 8 + row, p.N - 1)};
  for (int next = own; next < p.assignments;) {
    int count = 0;
    for (; next < p.assignments && count < COLUMNS; next += 32) {
      const bool same = next + lane < p.assignments && p.expert_ids[next + lane] == expert;
      const unsigned found = __ballot_sync(~0u, same);
      const int place = count + __popc(found & ((1u << lane) - 1));
      if (warp == 0 && same && place < COLUMNS) columns[place] = next + lane;
      count += __popc(found);
      if (count > COLUMNS) { // those that found no place come next
        const unsigned left = __ballot_sync(~0u, same && place >= COLUMNS);
        next += __ffs(left) - 1 - 32;
      }
    }
    count = min(count, COLUMNS);
    if (count == 0) return;
    __syncthreads();
    const uint16_t *x = nullptr;
    if (row < count)
      x = p.x +
          (int64_t(columns[row] / p.top_k) * p.x_slots + (p.x_slots > 1 ? columns[row] % p.top_k : 0)) * p.K;
    float acc[4] = {};
    for (int64_t k = int64_t(warp) * Format::STEP; k < p.K; k += WARPS * Format::STEP)
      Format::step(acc, p, n, x, k, quarter);
    // acc[i]: row 8 (i / 2) + row, column 2 quarter + i % 2
    for (int i = 0; i < 4; i++) parts[warp][2 * quarter + i % 2][8 * (i / 2) + row] = acc[i];
    __syncthreads();
    for (int i = threadIdx.x; i < count * ROWS; i += 32 * WARPS) {
      float sum = 0;
      for (int part = 0; part < WARPS; part++) sum += parts[part][i / ROWS][i % ROWS];
      if (first + i % ROWS < p.N) p.y[columns[i / ROWS] * p.N + first + i % ROWS] = __float2bfloat16(sum);
    }
    __syncthreads();
  }
}

bool off(const void *pointer, uintptr_t by) { return reinterpret_cast<uintptr_t>(pointer) % by; }

// The arguments after the weights' begin at number `after`, counted from 1.
template <typename Format>
int gemv_moe(Problem p, int after, int64_t group, int64_t M, int64_t top_k, int64_t x_slots, void *stream) {
  const uintptr_t alignment = group == 1 ? 2 : 16;
  if (M < 0 || M > (1 << 24)) return -after - 2;
  if (p.N < 0 || p.N > int64_t(ROWS) * 65535) return -after - 3;
  if (p.K < 0 || p.K % group) return -after - 4;
  if (p.E < 1) return -after - 5;
  if (top_k < 1 || top_k > (1 << 24) || M * top_k > (1 << 30)) return -after - 6;
  if (x_slots != 1 && x_slots != top_k) return -after - 7;
  if (M == 0 || p.N == 0) return 0;
  if ((!p.x && p.K) || off(p.x, alignment)) return -1;
  if ((!p.w && p.K) || off(p.w, alignment)) return -2;
  if (after > 3 && ((!p.scales && p.K) || (after > 4 && off(p.scales, 2)))) return -3;
  if (after > 4 && ((!p.biases && p.K) || off(p.biases, 2))) return -4;
  if (!p.expert_ids || off(p.expert_ids, 4)) return -after;
  if (!p.y || off(p.y, 2)) return -after - 1;
  p.assignments = int(M * top_k), p.top_k = int(top_k), p.x_slots = int(x_slots);
  const dim3 grid(unsigned(p.assignments), unsigned((p.N + ROWS - 1) / ROWS));
  gemv_moe_kernel<Format><<<grid, 32 * WARPS, 0, static_cast<cudaStream_t>(stream)>>>(p);
  return int(cudaGetLastError());
}

Problem problem(const void *x, const void *w, const void *scales, const void *biases, const void *ids, void *y,
                int64_t N, int64_t K, int64_t E) {
  return {static_cast<const uint16_t *>(x),
          w,
          scales,
          biases,
          static_cast<const int32_t *>(ids),
          static_cast<__nv_bfloat16 *>(y),
          N,
          K,
          E,
          0,
          0,
          0};
}

} // namespace

extern "C" int rb_cuda_gemv_moe_bf16(const void *x, const void *w, const void *expert_ids, void *y, int64_t M,
                                     int64_t N, int64_t K, int64_t E, int64_t top_k, int64_t x_slots,
                                     void *stream) {
  const Problem p = problem(x, w, nullptr, nullptr, expert_ids, y, N, K, E);
  if (K % 8 || off(x, 16) || off(w, 16)) return gemv_moe<Bf16<false>>(p, 3, 1, M, top_k, x_slots, stream);
  return gemv_moe<Bf16<true>>(p, 3, 1, M, top_k, x_slots, stream);
}

extern "C" int rb_cuda_gemv_moe_int4(const void *x, const void *w, const void *w_scales, const void *w_biases,
                                     const void *expert_ids, void *y, int64_t M, int64_t N, int64_t K,
                                     int64_t E, int64_t top_k, int64_t x_slots, void *stream) {
  return gemv_moe<Int4>(problem(x, w, w_scales, w_biases, expert_ids, y, N, K, E), 5, 64, M, top_k, x_slots,
                        stream);
}

extern "C" int rb_cuda_gemv_moe_mxfp4(const void *x, const void *w, const void *w_scales,
                                      const void *expert_ids, void *y, int64_t M, int64_t N, int64_t K,
                                      int64_t E, int64_t top_k, int64_t x_slots, void *stream) {
  return gemv_moe<Mxfp4>(problem(x, w, w_scales, nullptr, expert_ids, y, N, K, E), 4, 32, M, top_k, x_slots,
                         stream);
}
