// SPDX-License-Identifier: MIT
// GEMM for prefill with fp8 weights: y (B, M, N) = (x (B, M, K) @ w.T) * w_scales, f32 sums.
// w (w_batch, N, K) e4m3 codes, w_scales (w_batch, N) f32; x bf16, or as W8A8 e4m3 codes with x_scales (B, M)
// f32, which multiply the sums too; y bf16. One w for the whole batch (w_batch 1: B * M are the rows of one
// product) or one each (w_batch B).
//
// Standalone CUDA C++17, sm_80 and later; meant for chips whose matrix unit is mma.sync (sm_80, 86, 89, 120,
// 121): nvcc -O3 -arch=native -c gemm_fp8.cu.
// Launch: rb_cuda_gemm_fp8(x, w, w_scales, y, B, M, N, K, w_batch, stream).
// Compute-bound: 2 B M N K operations.
//
// Four warps in a square own a tile of y. They copy tiles of x, 64 bytes of K wide, and of w, as much of K, to
// a ring of STAGES in shared memory by cp.async. Blocks that run together share rows in L2. Rows of w lie
// permuted in shared memory, so that the sums that the matrix unit gives a lane are of neighbouring columns:
// y is stored from registers, 16 bytes per lane (of small tiles of bf16 x 8), whole sectors.
// * bf16 x: w is the left operand of mma.m16n8k16. Sums do not care about the order of k, so a lane's registers
//   are what one load of its row brings, 16 bytes of x, 8 of w. Codes are exact in bf16: their bits at 15 and
//   10:4 are their value / 2^120, subnormals too; a multiplication makes that good. NaN codes are 480 then; as
//   they make a whole column of y NaN, they are looked for beside the products.
// * W8A8: ldmatrix, and mma.m16n8k32 of e4m3 where the chip has it (sm_89, 120, 121), else codes are decoded
//   to f16, exactly. Pieces of 16 bytes are swizzled: eight rows' same piece lies in different banks.
// Rows past the end read the last one again and are not stored; past the end of K there are zeros.
// K no multiple of 16, or x or w unaligned: the same kernels with loads of single elements.
//
// Longest chain of additions: K, by 16 or 32 in the order of the matrix unit. That of sm_89 drops what lies
// 2^-13 below the largest of 32 products and their sum so far: W8A8 is off by some 2^-11 of their norm there.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>
#include <string.h>

namespace {

constexpr unsigned GROUP_M = 8;    // rows of tiles that are worked through together
constexpr int64_t MAX_K = 1 << 22; // offsets within a tile of rows have 32 bits

// sm_90, 100 and 110 multiply e4m3 by wgmma and tcgen05 only, and emulate mma.sync.
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1200)
constexpr bool NATIVE = true;
#else
constexpr bool NATIVE = false;
#endif

__device__ __forceinline__ void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
               "{%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void mma_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void mma_e4m3(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1200)
  asm volatile("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
               "{%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

// Four 8 x 8 matrices of 16 bits, or 8 x 16 of 8; lane i gives the address of row i % 8 of matrix i / 8.
__device__ __forceinline__ void ldmatrix(uint32_t &a, uint32_t &b, uint32_t &c, uint32_t &d, uint32_t from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(a), "=r"(b), "=r"(c), "=r"(d)
               : "r"(from)
               : "memory");
}

// 16 bytes, of which `bytes` (0 or 16) are read, the rest zeros.
__device__ __forceinline__ void copy_async(void *to, const void *from, uint32_t bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(uint32_t(__cvta_generic_to_shared(to))),
               "l"(from), "r"(bytes)
               : "memory");
}

__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until all but the last PENDING groups have arrived.
template <int PENDING> __device__ __forceinline__ void wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Where a piece of 16 bytes lies in a tile whose rows have CHUNKS of them; SWIZZLED: 4.
template <int CHUNKS, bool SWIZZLED> __device__ __forceinline__ uint32_t place(int row, int chunk) {
  return (row * CHUNKS + (SWIZZLED ? chunk ^ (row / 2 % CHUNKS) : chunk)) * 16;
}

// A block's tile of y: batch, row, column.
struct Tile {
  int64_t batch, m, n;
};

// Tiles in groups of GROUP_M rows, down the rows of a group first.
template <int BLOCK> __device__ __forceinline__ Tile tile_of(unsigned block, int64_t M, int64_t N) {
  const unsigned tiles_m = unsigned((M + BLOCK - 1) / BLOCK), tiles_n = unsigned((N + BLOCK - 1) / BLOCK);
  const unsigned batch = block / (tiles_m * tiles_n), tile = block % (tiles_m * tiles_n);
  const unsigned first = tile / (GROUP_M * tiles_n) * GROUP_M, in_group = tile % (GROUP_M * tiles_n);
  const unsigned rows = min(tiles_m - first, GROUP_M);
  return {batch, int64_t(first + in_group % rows) * BLOCK, int64_t(in_group / rows) * BLOCK};
}

// What a thread copies of a tile with CHUNKS pieces of 16 bytes a row: the same piece of every APART-th row.
template <typename T, int ROWS, int CHUNKS, bool SWIZZLED, bool VECTOR> struct Copies {
  static constexpr int APART = 128 / CHUNKS, COUNT = ROWS / APART, PER_CHUNK = 16 / sizeof(T);
  static_assert(ROWS % APART == 0, "the threads share out the rows");
  const T *tile;          // (ROWS, K), from the step's first element on
  uint32_t offset[COUNT]; // elements
  int left;               // elements from the thread's piece to the end of K
  uint32_t to;            // bytes

  // row_of: which row of `matrix`, from `first` on, lies in row `slot` of the tile.
  template <typename RowOf>
  __device__ __forceinline__ Copies(const T *matrix, int64_t first, int64_t rows, int64_t K, RowOf row_of)
      : tile(matrix + first * K) {
    const int chunk = threadIdx.x % CHUNKS, slot = threadIdx.x / CHUNKS;
    left = int(K) - chunk * PER_CHUNK;
    to = place<CHUNKS, SWIZZLED>(slot, chunk);
#pragma unroll
    for (int i = 0; i < COUNT; i++)
      offset[i] = uint32_t(min(int64_t(row_of(slot + i * APART)), rows - 1 - first) * K + chunk * PER_CHUNK);
  }

  __device__ __forceinline__ void fetch(unsigned char *stage) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      unsigned char *at = stage + to + i * APART * CHUNKS * 16;
      if (VECTOR) {
        copy_async(at, tile + offset[i], left > 0 ? 16 : 0);
      } else {
        T part[PER_CHUNK];
        for (int e = 0; e < PER_CHUNK; e++) part[e] = e < left ? (tile + offset[i])[e] : T(0);
        uint4 all;
        memcpy(&all, part, 16);
        *reinterpret_cast<uint4 *>(at) = all;
      }
    }
    tile += CHUNKS * PER_CHUNK;
    left -= CHUNKS * PER_CHUNK;
  }
};

// Codes 2 HALF and 2 HALF + 1 of a word as two bf16; 480 for NaN.
template <int HALF> __device__ __forceinline__ uint32_t two_bf16(uint32_t word) {
  const uint32_t codes = __byte_perm(word, 0, HALF ? 0x3424 : 0x1404); // at bits 8 to 15 and 24 to 31
  const uint32_t bits = (codes & 0x80008000) | (codes >> 4 & 0x07f007f0);
  const __nv_bfloat16 by = __ushort_as_bfloat16(0x7b80); // 2^120
  const __nv_bfloat162 out = __hmul2(*reinterpret_cast<const __nv_bfloat162 *>(&bits),
                                     __halves2bfloat162(by, by));
  return *reinterpret_cast<const uint32_t *>(&out);
}

// The same as two f16, NaN too.
template <int HALF> __device__ __forceinline__ uint32_t two_f16(uint32_t word) {
  uint32_t out;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(out) : "h"(uint16_t(word >> (16 * HALF))));
#else
  const uint32_t codes = __byte_perm(word, 0, HALF ? 0x3424 : 0x1404);
  const uint32_t bits = (codes & 0x80008000) | (codes >> 1 & 0x3f803f80); // value / 2^8
  const __half2 values = __hmul2(*reinterpret_cast<const __half2 *>(&bits),
                                 __half2half2(__ushort_as_half(0x5c00)));
  out = *reinterpret_cast<const uint32_t *>(&values) |
        __heq2_mask(__habs2(values), __half2half2(__ushort_as_half(0x5f80)));
#endif
  return out;
}

// Sums of columns n to n + COUNT - 1 of a row; `wide`: rows are aligned, and N a multiple of 8.
template <int COUNT>
__device__ __forceinline__ void store(__nv_bfloat16 *row, int64_t n, int64_t N, bool wide,
                                      const float (&sums)[COUNT]) {
  uint32_t out[COUNT / 2];
#pragma unroll
  for (int i = 0; i < COUNT / 2; i++) {
    const __nv_bfloat162 both = __floats2bfloat162_rn(sums[2 * i], sums[2 * i + 1]);
    out[i] = *reinterpret_cast<const uint32_t *>(&both);
  }
  if (n >= N) return;
  if (wide) {
    if constexpr (COUNT == 8) *reinterpret_cast<uint4 *>(row + n) = {out[0], out[1], out[2], out[3]};
    if constexpr (COUNT == 4) *reinterpret_cast<uint2 *>(row + n) = {out[0], out[1]};
  } else {
#pragma unroll
    for (int i = 0; i < COUNT; i++)
      if (n + i < N) row[n + i] = __ushort_as_bfloat16(uint16_t(out[i / 2] >> (i % 2 * 16)));
  }
}

// y = x @ (w * w_scales).T, bf16 x. Block: 128 threads, tiles of BLOCK x BLOCK. grid.x: tiles of all batches.
template <int BLOCK, bool VECTOR>
__global__ void __launch_bounds__(128, 2)
    gemm_fp8_kernel(const uint16_t *x, const uint8_t *w, const float *w_scales, __nv_bfloat16 *y, int64_t M,
                    int64_t N, int64_t K) {
  constexpr int STAGES = 4, BLOCK_K = 32, OF_WARP = BLOCK / 2, TILES_M = OF_WARP / 8, TILES_N = OF_WARP / 16;
  constexpr int COLUMNS = 2 * TILES_N, X_BYTES = BLOCK * 64, STAGE = X_BYTES + BLOCK * 32;
  __shared__ __align__(128) unsigned char shared[STAGES * STAGE]; // of each stage x, then w
  const int lane = threadIdx.x % 32, row = lane / 4, quarter = lane % 4;
  const int warp_m = threadIdx.x / 64 * OF_WARP, warp_n = threadIdx.x / 32 % 2 * OF_WARP;
  const Tile at = tile_of<BLOCK>(blockIdx.x, M, N);
  Copies<uint16_t, BLOCK, 4, false, VECTOR> from_x(x + at.batch * M * K, at.m, M, K,
                                                   [](int slot) { return slot; });
  // Rows 16 i + 8 h + row of a warp's part of the tile, a lane's, hold columns COLUMNS * row + 2 i + h of it.
  Copies<uint8_t, BLOCK, 2, false, VECTOR> from_w(w + at.batch * N * K, at.n, N, K, [](int slot) {
    return slot / OF_WARP * OF_WARP + slot % 8 * COLUMNS + slot % OF_WARP / 16 * 2 + slot / 8 % 2;
  });
  const auto fetch = [&](uint32_t stage) {
    from_x.fetch(shared + stage);
    from_w.fetch(shared + stage + X_BYTES);
  };

  float acc[TILES_N][TILES_M][4] = {};
  uint32_t nan[COLUMNS] = {}; // bits 7 of bytes
  const int steps_k = int((K + BLOCK_K - 1) / BLOCK_K);
#pragma unroll
  for (int t = 0; t < STAGES - 1; t++) {
    if (t < steps_k) fetch(t * STAGE);
    commit();
  }
  const unsigned char *const my_x = shared + (warp_m + row) * 64 + quarter * 16;
  const unsigned char *const my_w = shared + X_BYTES + (warp_n + row) * 32 + quarter * 8;
  uint32_t reading = 0, writing = (STAGES - 1) * STAGE;
#pragma unroll 1
  for (int t = 0; t < steps_k; t++) {
    wait<STAGES - 2>();
    __syncthreads(); // this stage has arrived, and all warps are done with the one before
    if (t + STAGES - 1 < steps_k) fetch(writing);
    commit();
    uint4 b[TILES_M];
#pragma unroll
    for (int j = 0; j < TILES_M; j++) b[j] = *reinterpret_cast<const uint4 *>(my_x + reading + 8 * j * 64);
#pragma unroll
    for (int i = 0; i < TILES_N; i++) {
      uint2 words[2];
#pragma unroll
      for (int h = 0; h < 2; h++) {
        words[h] = *reinterpret_cast<const uint2 *>(my_w + reading + (16 * i + 8 * h) * 32);
        nan[2 * i + h] |= ((words[h].x & 0x7f7f7f7f) + 0x01010101) | ((words[h].y & 0x7f7f7f7f) + 0x01010101);
      }
      const uint32_t a[2][4] = {
          {two_bf16<0>(words[0].x), two_bf16<0>(words[1].x), two_bf16<1>(words[0].x), two_bf16<1>(words[1].x)},
          {two_bf16<0>(words[0].y), two_bf16<0>(words[1].y), two_bf16<1>(words[0].y), two_bf16<1>(words[1].y)}};
#pragma unroll
      for (int j = 0; j < TILES_M; j++) mma_bf16(acc[i][j], a[0], b[j].x, b[j].y);
#pragma unroll
      for (int j = 0; j < TILES_M; j++) mma_bf16(acc[i][j], a[1], b[j].z, b[j].w);
    }
    reading = reading == (STAGES - 1) * STAGE ? 0 : reading + STAGE;
    writing = writing == (STAGES - 1) * STAGE ? 0 : writing + STAGE;
  }

  // acc[i][j][2 h + e]: row 8 j + 2 quarter + e, column COLUMNS * row + 2 i + h
  const int64_t n = at.n + warp_n + COLUMNS * row;
  float scale[COLUMNS];
#pragma unroll
  for (int c = 0; c < COLUMNS; c++) {
    nan[c] |= __shfl_xor_sync(~0u, nan[c], 1); // a row of w is in four lanes
    nan[c] |= __shfl_xor_sync(~0u, nan[c], 2);
    scale[c] = nan[c] & 0x80808080 ? __uint_as_float(0x7fffffff) : w_scales[at.batch * N + min(n + c, N - 1)];
  }
  const bool wide = N % 8 == 0 && reinterpret_cast<uintptr_t>(y) % 16 == 0;
#pragma unroll
  for (int j = 0; j < TILES_M; j++)
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const int64_t m = at.m + warp_m + 8 * j + 2 * quarter + e;
      float sums[COLUMNS];
#pragma unroll
      for (int c = 0; c < COLUMNS; c++) sums[c] = acc[c / 2][j][c % 2 * 2 + e] * scale[c];
      if (m < M) store(y + (at.batch * M + m) * N, n, N, wide, sums);
    }
}

// The same with x of codes, and x_scales.
template <int BLOCK, bool VECTOR>
__global__ void __launch_bounds__(128, 2)
    gemm_fp8_w8a8_kernel(const uint8_t *x, const float *x_scales, const uint8_t *w, const float *w_scales,
                         __nv_bfloat16 *y, int64_t M, int64_t N, int64_t K) {
  constexpr int STAGES = 3, BLOCK_K = 64, OF_WARP = BLOCK / 2, TILES_M = OF_WARP / 16, TILES_N = OF_WARP / 8;
  constexpr int BYTES = BLOCK * BLOCK_K, STAGE = 2 * BYTES;
  __shared__ __align__(128) unsigned char shared[STAGES * STAGE]; // of each stage x, then w
  const int lane = threadIdx.x % 32, row = lane / 4, quarter = lane % 4;
  const int warp_m = threadIdx.x / 64 * OF_WARP, warp_n = threadIdx.x / 32 % 2 * OF_WARP;
  const Tile at = tile_of<BLOCK>(blockIdx.x, M, N);
  Copies<uint8_t, BLOCK, 4, true, VECTOR> from_x(x + at.batch * M * K, at.m, M, K,
                                                 [](int slot) { return slot; });
  // A lane gets columns 2 quarter and 2 quarter + 1 of each of four matrices of w: 8 quarter and up of y.
  Copies<uint8_t, BLOCK, 4, true, VECTOR> from_w(w + at.batch * N * K, at.n, N, K, [](int slot) {
    return slot / 32 * 32 + slot % 8 / 2 * 8 + slot % 32 / 8 * 2 + slot % 2;
  });
  const auto fetch = [&](uint32_t stage) {
    from_x.fetch(shared + stage);
    from_w.fetch(shared + stage + BYTES);
  };

  // Of x, matrices are rows 0 and up, 8 and up, then the next 16 of K; of w, K first, then rows.
  const uint32_t base = uint32_t(__cvta_generic_to_shared(shared));
  const uint32_t x_at = base + place<4, true>(warp_m + lane % 16, lane / 16);
  const uint32_t w_at = base + BYTES + place<4, true>(warp_n + lane % 8 + lane / 16 * 8, lane / 8 % 2);
  uint32_t a[2][TILES_M][4], b[2][TILES_N][2];
  const auto load = [&](uint32_t stage, int step) {
#pragma unroll
    for (int i = 0; i < TILES_M; i++)
      ldmatrix(a[step][i][0], a[step][i][1], a[step][i][2], a[step][i][3],
               ((x_at + stage) ^ (step * 32)) + i * 16 * 64);
#pragma unroll
    for (int j = 0; j < TILES_N; j += 2)
      ldmatrix(b[step][j][0], b[step][j][1], b[step][j + 1][0], b[step][j + 1][1],
               ((w_at + stage) ^ (step * 32)) + j * 8 * 64);
  };

  float acc[TILES_M][TILES_N][4] = {};
  const auto multiply = [&](int step) {
    uint32_t low[TILES_M][4], high[TILES_M][4]; // decoded
    if (!NATIVE)
#pragma unroll
      for (int i = 0; i < TILES_M; i++)
#pragma unroll
        for (int k = 0; k < 4; k++)
          low[i][k] = two_f16<0>(a[step][i][k]), high[i][k] = two_f16<1>(a[step][i][k]);
#pragma unroll
    for (int j = 0; j < TILES_N; j++) {
      const uint32_t *words = b[step][j];
#pragma unroll
      for (int i = 0; i < TILES_M; i++) {
        if (NATIVE) {
          mma_e4m3(acc[i][j], a[step][i], words[0], words[1]);
        } else {
          mma_f16(acc[i][j], low[i], two_f16<0>(words[0]), two_f16<0>(words[1]));
          mma_f16(acc[i][j], high[i], two_f16<1>(words[0]), two_f16<1>(words[1]));
        }
      }
    }
  };
  const int steps_k = int((K + BLOCK_K - 1) / BLOCK_K);
#pragma unroll
  for (int t = 0; t < STAGES - 1; t++) {
    if (t < steps_k) fetch(t * STAGE);
    commit();
  }
  wait<STAGES - 2>();
  __syncthreads();
  load(0, 0);
  uint32_t reading = 0, writing = (STAGES - 1) * STAGE;
#pragma unroll 1
  for (int t = 0; t < steps_k; t++) {
    load(reading, 1);
    if (t + STAGES - 1 < steps_k) fetch(writing); // all warps are done with the stage before
    commit();
    multiply(0);
    wait<STAGES - 2>();
    __syncthreads(); // the stage's last registers are loaded: on to the next one
    reading = reading == (STAGES - 1) * STAGE ? 0 : reading + STAGE;
    writing = writing == (STAGES - 1) * STAGE ? 0 : writing + STAGE;
    load(reading, 0);
    multiply(1);
  }

  // acc[i][4 h + j][2 g + e]: row 16 i + 8 g + row, column 32 h + 8 quarter + 2 j + e
  const bool wide = N % 8 == 0 && reinterpret_cast<uintptr_t>(y) % 16 == 0;
#pragma unroll
  for (int h = 0; h < TILES_N / 4; h++) {
    const int64_t n = at.n + warp_n + 32 * h + 8 * quarter;
    float scale[8];
#pragma unroll
    for (int c = 0; c < 8; c++) scale[c] = w_scales[at.batch * N + min(n + c, N - 1)];
#pragma unroll
    for (int i = 0; i < TILES_M; i++)
#pragma unroll
      for (int g = 0; g < 2; g++) {
        const int64_t m = at.m + warp_m + 16 * i + 8 * g + row;
        if (m >= M) continue;
        const float of_x = x_scales[at.batch * M + m];
        float sums[8];
#pragma unroll
        for (int c = 0; c < 8; c++) sums[c] = acc[i][4 * h + c / 2][2 * g + c % 2] * scale[c] * of_x;
        store(y + (at.batch * M + m) * N, n, N, wide, sums);
      }
  }
}

int processors() {
  int device = 0, count = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 1;
  return cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) == cudaSuccess ? count : 1;
}

bool off(const void *pointer, uintptr_t by) { return reinterpret_cast<uintptr_t>(pointer) % by; }

int64_t tiles(int64_t B, int64_t M, int64_t N, int64_t block) {
  return B * ((M + block - 1) / block) * ((N + block - 1) / block);
}

// Without x_scales, arguments behind it count one less. Large tiles where each multiprocessor gets one.
template <typename X>
int gemm(const void *x, const void *x_scales, const void *w, const void *w_scales, void *y, int64_t B,
         int64_t M, int64_t N, int64_t K, int64_t w_batch, void *stream) {
  constexpr int64_t MOST = int64_t(1) << 34;
  constexpr int MORE = sizeof(X) == 1;
  if (B < 0 || B > MOST) return -5 - MORE;
  if (M < 0 || M > MOST) return -6 - MORE;
  if (N < 0 || N > MOST) return -7 - MORE;
  if (K < 0 || K > MAX_K) return -8 - MORE;
  if (w_batch != 1 && w_batch != B) return -9 - MORE;
  if (B == 0 || M == 0 || N == 0) return 0;
  if (double(B) * double((M + 63) / 64) * double((N + 63) / 64) > 0x7fffffff)
    return -7 - MORE; // tiles of a grid
  if ((!x && K) || off(x, sizeof(X))) return -1;
  if (MORE && (!x_scales || off(x_scales, 4))) return -2;
  if (!w && K) return -2 - MORE;
  if (!w_scales || off(w_scales, 4)) return -3 - MORE;
  if (!y || off(y, 2)) return -4 - MORE;
  if (w_batch == 1) M *= B, B = 1;
  const auto run = [&](auto kernel, int64_t block, auto... scales) {
    kernel<<<unsigned(tiles(B, M, N, block)), 128, 0, static_cast<cudaStream_t>(stream)>>>(
        static_cast<const X *>(x), scales..., static_cast<const uint8_t *>(w),
        static_cast<const float *>(w_scales), static_cast<__nv_bfloat16 *>(y), M, N, K);
    return int(cudaGetLastError());
  };
  const bool vector = K % 16 == 0 && !off(x, 16) && !off(w, 16), large = tiles(B, M, N, 128) >= processors();
  if constexpr (MORE) {
    const auto *scales = static_cast<const float *>(x_scales);
    if (!vector) return run(gemm_fp8_w8a8_kernel<64, false>, 64, scales);
    return large ? run(gemm_fp8_w8a8_kernel<128, true>, 128, scales)
                 : run(gemm_fp8_w8a8_kernel<64, true>, 64, scales);
  } else {
    if (!vector) return run(gemm_fp8_kernel<64, false>, 64);
    return large ? run(gemm_fp8_kernel<128, true>, 128) : run(gemm_fp8_kernel<64, true>, 64);
  }
}

} // namespace

extern "C" int rb_cuda_gemm_fp8(const void *x, const void *w, const void *w_scales, void *y, int64_t B,
                                int64_t M, int64_t N, int64_t K, int64_t w_batch, void *stream) {
  return gemm<uint16_t>(x, nullptr, w, w_scales, y, B, M, N, K, w_batch, stream);
}

extern "C" int rb_cuda_gemm_fp8_w8a8(const void *x, const void *x_scales, const void *w, const void *w_scales,
                                     void *y, int64_t B, int64_t M, int64_t N, int64_t K, int64_t w_batch,
                                     void *stream) {
  return gemm<uint8_t>(x, x_scales, w, w_scales, y, B, M, N, K, w_batch, stream);
}
