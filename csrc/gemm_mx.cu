// SPDX-License-Identifier: MIT
// GEMM for prefill with microscaled weights: y (B, M, N) = x (B, M, K) @ (scale * code).T, f32 sums.
// x, y bf16; w words of codes, packed from the lowest bits up:
//   mxfp8  w (w_batch, N, K / 4) e4m3, w_scales (w_batch, N, K / 32) e8m0
//   mxfp4  w (w_batch, N, K / 8) e2m1, w_scales (w_batch, N, K / 32) e8m0
//   nvfp4  w (w_batch, N, K / 8) e2m1, w_scales (w_batch, N, K / 16) e4m3, w_tensor_scale (w_batch,) f32
// One w for the whole batch (w_batch 1: B * M are the rows of one product) or one each (w_batch B).
//
// Standalone CUDA C++17, sm_80 and later; meant for chips whose matrix unit is mma.sync (sm_80, 86, 89, 120,
// 121): nvcc -O3 -arch=native -c gemm_mx.cu.
// Launch: rb_cuda_gemm_mxfp4(x, w, w_scales, y, B, M, N, K, w_batch, stream).
// Compute-bound: 2 B M N K operations.
//
// 1. Four warps own a tile of y, BLOCK_M x BLOCK_N. They copy x and w, 64 of K at a time, to a ring of STAGES
//    in shared memory by cp.async. Blocks that run together share rows of x and w in L2.
// 2. Each warp has all rows of the tile and its own columns: no code is decoded twice in a tile. w is the left
// operand of
//    mma.m16n8k16. Sums do not care about the order of k, so of each 32 of K a lane's registers are what
//    16 bytes of x and 8 codes of w bring.
// 3. Codes are exact in bf16: the bits of e2m1 at 15 and 8:6 are its value / 2^126, those of e4m3 at 15 and
//    10:4 its value / 2^120, subnormals too; a multiplication makes that good. Scales of 32 multiply their
//    products, in f32: the smallest of mxfp8 lie below bf16. nvfp4's scales times codes are exact in bf16.
//    NaN codes of mxfp8 are 480; as they make a whole column of y NaN, they are looked for beside the products.
// 4. Rows of w lie permuted in shared memory, so that the sums that the matrix unit gives a lane are of
//    neighbouring columns: y is stored from registers, whole sectors.
// Rows past the end read the last one again and are not stored; past the end of K there are zeros.
// x or w, or a row of either, unaligned: the same kernels with narrow loads.
//
// Longest chain of additions: 32 in a group, then one for each; nvfp4: K, by 16 in the matrix unit's order.
#include <cuda_bf16.h>
#include <stdint.h>
#include <string.h>

namespace {

constexpr int STAGES = 3, BLOCK_M = 64, BLOCK_K = 64;
constexpr unsigned GROUP_M = 8;    // rows of tiles that are worked through together
constexpr int64_t MAX_K = 1 << 22; // offsets within a tile of rows have 32 bits

__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
               "{%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
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

// A block's tile of y: batch, row, column.
struct Tile {
  int64_t batch, m, n;
};

// Tiles in groups of GROUP_M rows, down the rows of a group first.
template <int BLOCK_M, int BLOCK_N>
__device__ __forceinline__ Tile tile_of(unsigned block, int64_t M, int64_t N) {
  const unsigned tiles_m = unsigned((M + BLOCK_M - 1) / BLOCK_M),
                 tiles_n = unsigned((N + BLOCK_N - 1) / BLOCK_N);
  const unsigned batch = block / (tiles_m * tiles_n), tile = block % (tiles_m * tiles_n);
  const unsigned first = tile / (GROUP_M * tiles_n) * GROUP_M, in_group = tile % (GROUP_M * tiles_n);
  const unsigned rows = min(tiles_m - first, GROUP_M);
  return {batch, int64_t(first + in_group % rows) * BLOCK_M, int64_t(in_group / rows) * BLOCK_N};
}

// What a thread copies of a tile whose rows have CHUNKS pieces of 16 bytes: the same piece of every APART-th
// row. FLIP: of rows in which this bit is set, the halves change places, so that the same piece of rows read
// together lies in different banks.
template <typename T, int ROWS, int CHUNKS, int FLIP, bool VECTOR> struct Copies {
  static constexpr int APART = 128 / CHUNKS, COUNT = ROWS / APART, PER_CHUNK = 16 / sizeof(T);
  static_assert(ROWS % APART == 0 && APART % 8 == 0,
                "the threads share out the rows, a thread's are flipped alike");
  const T *tile;          // (ROWS, of_row), from the step's first element on
  uint32_t offset[COUNT]; // elements
  int left;               // elements from the thread's piece to the end of a row
  uint32_t to;            // bytes

  // row_of: which row of `matrix`, from `first` on, lies in row `slot` of the tile.
  template <typename RowOf>
  __device__ __forceinline__ Copies(const T *matrix, int64_t first, int64_t rows, int64_t of_row, RowOf row_of)
      : tile(matrix + first * of_row) {
    const int chunk = threadIdx.x % CHUNKS, slot = threadIdx.x / CHUNKS;
    left = int(of_row) - chunk * PER_CHUNK;
    to = (slot * CHUNKS + (slot & FLIP ? chunk ^ CHUNKS / 2 : chunk)) * 16;
#pragma unroll
    for (int i = 0; i < COUNT; i++)
      offset[i] = uint32_t(min(int64_t(row_of(slot + i * APART)), rows - 1 - first) * of_row +
                           chunk * PER_CHUNK);
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

__device__ __forceinline__ uint32_t times(uint32_t two, uint32_t by) {
  const __nv_bfloat162 out = __hmul2(*reinterpret_cast<const __nv_bfloat162 *>(&two),
                                     *reinterpret_cast<const __nv_bfloat162 *>(&by));
  return *reinterpret_cast<const uint32_t *>(&out);
}

// e4m3 codes at bits 8 to 15 and 24 to 31 as two bf16; 480 for NaN.
__device__ __forceinline__ uint32_t two_e4m3(uint32_t codes) {
  return times((codes & 0x80008000) | (codes >> 4 & 0x07f007f0), 0x7b807b80);
}

// Eight codes in order; of 4 bits of words[0], of 8 of both.
template <int BITS> __device__ __forceinline__ void decode(uint32_t (&out)[4], const uint32_t *words) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if (BITS == 4) { // byte i to both halves, its first code with four bits of another one behind
      const uint32_t codes = __byte_perm(words[0] << 4, words[0], 0x4400 + 0x1111 * i);
      out[i] = times((codes & 0x80008000) | (codes >> 6 & 0x01c001c0), 0x7e807e80);
    } else {
      out[i] = two_e4m3(__byte_perm(words[i / 2], 0, i % 2 ? 0x3424 : 0x1404));
    }
  }
}

// Two e8m0 as bf16: 0 is a subnormal number, 255 a NaN.
__device__ __forceinline__ uint32_t two_e8m0(uint32_t low, uint32_t high) {
  low = low << 7 | (low == 0 || low == 255 ? 0x40 : 0);
  high = high << 7 | (high == 0 || high == 255 ? 0x40 : 0);
  return low | high << 16;
}

__device__ __forceinline__ uint32_t nan_where_480(uint32_t two) {
  if ((two & 0x7fff) == 0x43f0) two |= 0x7fc0;
  if ((two & 0x7fff0000) == 0x43f00000) two |= 0x7fc00000;
  return two;
}

// A row's next 16 scales, of which `left` exist.
__device__ __forceinline__ void load_16(uint32_t (&out)[4], const uint8_t *from, int left, bool vector) {
  if (left <= 0) return;
  if (vector) {
    const uint4 all = __ldg(reinterpret_cast<const uint4 *>(from));
    memcpy(out, &all, 16);
  } else {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      out[i] = 0;
      for (int e = 0; e < 4; e++) out[i] |= (4 * i + e < left ? uint32_t(from[4 * i + e]) : 0) << (8 * e);
    }
  }
}

// Sums of columns n to n + COUNT - 1 of a row; `wide`: rows are aligned, and N a multiple of COUNT.
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
    if constexpr (COUNT == 4) *reinterpret_cast<uint2 *>(row + n) = {out[0], out[1]};
    if constexpr (COUNT == 2) *reinterpret_cast<uint32_t *>(row + n) = out[0];
  } else {
#pragma unroll
    for (int i = 0; i < COUNT; i++)
      if (n + i < N) row[n + i] = __ushort_as_bfloat16(uint16_t(out[i / 2] >> (i % 2 * 16)));
  }
}

// Block: 128 threads, a tile of BLOCK_M x BLOCK_N. grid.x: tiles of all batches. GROUP: codes of one scale.
template <int BITS, int GROUP, int BLOCK_N, bool VECTOR>
__global__ void __launch_bounds__(128, 2)
    gemm_mx_kernel(const uint16_t *x, const uint32_t *w, const uint8_t *w_scales, const float *w_tensor_scale,
                   __nv_bfloat16 *y, int64_t M, int64_t N, int64_t K) {
  constexpr int OF_WARP = BLOCK_N / 4, TILES_M = BLOCK_M / 8, TILES_N = OF_WARP / 16, COLUMNS = OF_WARP / 8;
  constexpr int W_ROW = 8 * BITS, X_BYTES = BLOCK_M * 2 * BLOCK_K, STAGE = X_BYTES + BLOCK_N * W_ROW;
  constexpr int SCALES = BLOCK_K / GROUP, STEPS = 16 / SCALES;    // of a step; steps that 16 scales last
  constexpr int FLIP = BITS == 8 ? 2 : 4;                         // rows of w are read by four or by eight
  __shared__ __align__(128) unsigned char shared[STAGES * STAGE]; // of each stage x, then w
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = lane / 4, quarter = lane % 4;
  const Tile at = tile_of<BLOCK_M, BLOCK_N>(blockIdx.x, M, N);
  // Rows 16 i + 8 h + row of a warp's part of the tile, a lane's, hold columns COLUMNS * row + 2 i + h of it.
  const auto column_of = [](int slot) {
    return slot / OF_WARP * OF_WARP + slot % 8 * COLUMNS + slot % OF_WARP / 16 * 2 + slot / 8 % 2;
  };
  const int64_t words_of_row = K * BITS / 32;
  Copies<uint16_t, BLOCK_M, 8, 1, VECTOR> from_x(x + at.batch * M * K, at.m, M, K,
                                                 [](int slot) { return slot; });
  Copies<uint32_t, BLOCK_N, W_ROW / 16, FLIP, VECTOR> from_w(w + at.batch * N * words_of_row, at.n, N,
                                                             words_of_row, column_of);
  const auto fetch = [&](uint32_t stage) {
    from_x.fetch(shared + stage);
    from_w.fetch(shared + stage + X_BYTES);
  };
  // A lane holds scales of one of the warp's rows of w, 16 at a time.
  const int groups = int(K / GROUP);
  const uint8_t *scales_at = w_scales +
                             (at.batch * N + min(at.n + column_of(warp * OF_WARP + lane % OF_WARP), N - 1)) *
                                 groups;
  const bool by_16 = groups % 16 == 0 && reinterpret_cast<uintptr_t>(w_scales) % 16 == 0;
  uint32_t scales[4] = {};

  float acc[TILES_N][TILES_M][4] = {};
  uint32_t nan[COLUMNS] = {}; // bits 7 of bytes
  const int steps_k = int((K + BLOCK_K - 1) / BLOCK_K);
#pragma unroll
  for (int t = 0; t < STAGES - 1; t++) {
    if (t < steps_k) fetch(t * STAGE);
    commit();
  }
  // Of each half of a step, piece `quarter` of row 8 j + row of x, and codes from 8 quarter on of a row of w.
  const unsigned char *const my_x = shared + row * 2 * BLOCK_K + quarter * 16;
  const unsigned char *const my_w = shared + X_BYTES + (warp * OF_WARP + row) * W_ROW + quarter * BITS;
  uint32_t reading = 0, writing = (STAGES - 1) * STAGE;
  load_16(scales, scales_at, groups, by_16);
#pragma unroll 1
  for (int t = 0; t < steps_k; t++) {
    wait<STAGES - 2>();
    __syncthreads(); // this stage has arrived, and all warps are done with the stage before
    if (t + STAGES - 1 < steps_k) fetch(writing);
    commit();
    uint32_t mine[2], scale[COLUMNS][2]; // two groups of 32, or of a half's two groups of 16 the lane's, twice
    if (GROUP == 32) {
      mine[0] = two_e8m0(scales[0] & 0xff, scales[0] >> 8 & 0xff);
#pragma unroll
      for (int c = 0; c < COLUMNS; c++) scale[c][0] = __shfl_sync(~0u, mine[0], 8 * c + row);
    } else {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        mine[half] = nan_where_480(two_e4m3(__byte_perm(scales[0], 0, half ? 0x3424 : 0x1404)));
#pragma unroll
        for (int c = 0; c < COLUMNS; c++)
          scale[c][half] = __byte_perm(__shfl_sync(~0u, mine[half], 8 * c + row), 0,
                                       quarter < 2 ? 0x1010 : 0x3232);
      }
    }
    if ((t + 1) % STEPS == 0) {
      load_16(scales, scales_at + (t + 1) * SCALES, groups - (t + 1) * SCALES, by_16);
    } else { // those of the next step come first
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const uint32_t next = i < 3 ? scales[i + 1] : 0;
        scales[i] = GROUP == 32 ? __funnelshift_r(scales[i], next, 16) : next;
      }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      uint4 b[TILES_M];
#pragma unroll
      for (int j = 0; j < TILES_M; j++)
        b[j] = *reinterpret_cast<const uint4 *>(my_x + reading + 8 * j * 2 * BLOCK_K +
                                                (half ^ row % 2) * BLOCK_K);
#pragma unroll
      for (int i = 0; i < TILES_N; i++) {
        uint32_t codes[2][4];
#pragma unroll
        for (int h = 0; h < 2; h++) {
          const int c = 2 * i + h;
          uint32_t words[2];
          const unsigned char *from = my_w + reading + 8 * c * W_ROW +
                                      (row & FLIP ? 1 - half : half) * W_ROW / 2;
          if constexpr (BITS == 4) {
            words[0] = *reinterpret_cast<const uint32_t *>(from);
          } else {
            const uint2 all = *reinterpret_cast<const uint2 *>(from);
            words[0] = all.x, words[1] = all.y;
            nan[c] |= ((words[0] & 0x7f7f7f7f) + 0x01010101) | ((words[1] & 0x7f7f7f7f) + 0x01010101);
          }
          decode<BITS>(codes[h], words);
          if (GROUP == 16)
#pragma unroll
            for (int k = 0; k < 4; k++) codes[h][k] = times(codes[h][k], scale[c][half]);
        }
        float product[TILES_M][4] = {};
#pragma unroll
        for (int k = 0; k < 2; k++) {
          const uint32_t a[4] = {codes[0][2 * k], codes[1][2 * k], codes[0][2 * k + 1], codes[1][2 * k + 1]};
#pragma unroll
          for (int j = 0; j < TILES_M; j++)
            mma(GROUP == 16 ? acc[i][j] : product[j], a, k ? b[j].z : b[j].x, k ? b[j].w : b[j].y);
        }
        if (GROUP == 32)
#pragma unroll
          for (int j = 0; j < TILES_M; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
              const uint32_t bits = scale[2 * i + e / 2][0];
              acc[i][j][e] = fmaf(__uint_as_float(half ? bits & 0xffff0000 : bits << 16), product[j][e],
                                  acc[i][j][e]);
            }
      }
    }
    reading = reading == (STAGES - 1) * STAGE ? 0 : reading + STAGE;
    writing = writing == (STAGES - 1) * STAGE ? 0 : writing + STAGE;
  }

  // acc[i][j][2 h + e]: row 8 j + 2 quarter + e, column COLUMNS * row + 2 i + h
  const int64_t n = at.n + warp * OF_WARP + COLUMNS * row;
  const bool wide = N % COLUMNS == 0 && reinterpret_cast<uintptr_t>(y) % (2 * COLUMNS) == 0;
  float factor[COLUMNS];
#pragma unroll
  for (int c = 0; c < COLUMNS; c++) {
    factor[c] = GROUP == 16 ? w_tensor_scale[at.batch] : 1;
    if (BITS == 8) {
      nan[c] |= __shfl_xor_sync(~0u, nan[c], 1); // a row of w is in four lanes
      nan[c] |= __shfl_xor_sync(~0u, nan[c], 2);
      if (nan[c] & 0x80808080) factor[c] = __uint_as_float(0x7fffffff);
    }
  }
#pragma unroll
  for (int j = 0; j < TILES_M; j++)
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const int64_t m = at.m + 8 * j + 2 * quarter + e;
      float out[COLUMNS];
#pragma unroll
      for (int c = 0; c < COLUMNS; c++) out[c] = acc[c / 2][j][c % 2 * 2 + e] * factor[c];
      if (m < M) store(y + (at.batch * M + m) * N, n, N, wide, out);
    }
}

int processors() {
  int device = 0, count = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 1;
  return cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) == cudaSuccess ? count : 1;
}

bool off(const void *pointer, uintptr_t by) { return reinterpret_cast<uintptr_t>(pointer) % by; }

int64_t tiles(int64_t B, int64_t M, int64_t N, int64_t block_n) {
  return B * ((M + BLOCK_M - 1) / BLOCK_M) * ((N + block_n - 1) / block_n);
}

// Arguments are counted as in nvfp4's launcher; AFTER_SCALES is 1 where there is a tensor scale. Large tiles
// where each multiprocessor gets one, else small ones.
template <int BITS, int GROUP, int AFTER_SCALES>
int gemm(const void *x, const void *w, const void *s, const void *t, void *y, int64_t B, int64_t M, int64_t N,
         int64_t K, int64_t w_batch, void *stream) {
  constexpr int64_t MOST = int64_t(1) << 34;
  if (B < 0 || B > MOST) return -5 - AFTER_SCALES;
  if (M < 0 || M > MOST) return -6 - AFTER_SCALES;
  if (N < 0 || N > MOST) return -7 - AFTER_SCALES;
  if (K < 0 || K > MAX_K || K % GROUP) return -8 - AFTER_SCALES;
  if (w_batch != 1 && w_batch != B) return -9 - AFTER_SCALES;
  if (B == 0 || M == 0 || N == 0) return 0;
  if (double(B) * double((M + 63) / 64) * double((N + 63) / 64) > 0x7fffffff)
    return -7 - AFTER_SCALES; // tiles of a grid
  if ((!x && K) || off(x, 2)) return -1;
  if ((!w && K) || off(w, 4)) return -2;
  if (!s && K) return -3;
  if (AFTER_SCALES && (!t || off(t, 4))) return -4;
  if (!y || off(y, 2)) return -4 - AFTER_SCALES;
  if (w_batch == 1) M *= B, B = 1;
  const auto run = [&](auto kernel, int64_t block_n) {
    kernel<<<unsigned(tiles(B, M, N, block_n)), 128, 0, static_cast<cudaStream_t>(stream)>>>(
        static_cast<const uint16_t *>(x), static_cast<const uint32_t *>(w), static_cast<const uint8_t *>(s),
        static_cast<const float *>(t), static_cast<__nv_bfloat16 *>(y), M, N, K);
    return int(cudaGetLastError());
  };
  if (off(x, 16) || off(w, 16) || K % 32) return run(gemm_mx_kernel<BITS, GROUP, 64, false>, 64);
  if (tiles(B, M, N, 128) < processors()) return run(gemm_mx_kernel<BITS, GROUP, 64, true>, 64);
  return run(gemm_mx_kernel<BITS, GROUP, 128, true>, 128);
}

} // namespace

extern "C" int rb_cuda_gemm_mxfp8(const void *x, const void *w, const void *w_scales, void *y, int64_t B,
                                  int64_t M, int64_t N, int64_t K, int64_t w_batch, void *stream) {
  return gemm<8, 32, 0>(x, w, w_scales, nullptr, y, B, M, N, K, w_batch, stream);
}

extern "C" int rb_cuda_gemm_mxfp4(const void *x, const void *w, const void *w_scales, void *y, int64_t B,
                                  int64_t M, int64_t N, int64_t K, int64_t w_batch, void *stream) {
  return gemm<4, 32, 0>(x, w, w_scales, nullptr, y, B, M, N, K, w_batch, stream);
}

extern "C" int rb_cuda_gemm_nvfp4(const void *x, const void *w, const void *w_scales,
                                  const void *w_tensor_scale, void *y, int64_t B, int64_t M, int64_t N,
                                  int64_t K, int64_t w_batch, void *stream) {
  return gemm<4, 16, 1>(x, w, w_scales, w_tensor_scale, y, B, M, N, K, w_batch, stream);
}
