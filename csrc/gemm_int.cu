// SPDX-License-Identifier: MIT
// GEMM for prefill with int8 or int4 weights in groups of 64: y (B, M, N) = x (B, M, K) @ (s * q + b).T, f32
// sums. x, y bf16; w words of codes, packed from the lowest bits up: (w_batch, N, K / 4) for int8, (w_batch, N,
// K / 8) for int4; w_scales, w_biases (w_batch, N, K / 64) bf16. One w for the whole batch (w_batch 1: B * M
// are the rows of one product) or one each (w_batch B).
//
// Standalone CUDA C++17, sm_80 and later; meant for chips whose matrix unit is mma.sync (sm_80, 86, 89, 120,
// 121): nvcc -O3 -arch=native -c gemm_int.cu.
// Launch: rb_cuda_gemm_int4(x, w, w_scales, w_biases, y, B, M, N, K, w_batch, stream).
// Compute-bound: 2 B M N K operations.
//
// Codes are exact in bf16, s * q + b is not, so with g the groups:
//   y = sum_g s[g] * (q[g] @ x[g]) + b[g] * (1 @ x[g]), products by mma.m16n8k16, sums of two by lanes, in f32.
// 1. Four warps own a tile of y, BLOCK_M x BLOCK_N. They copy one group of x and w after the other to a ring
//    of STAGES in shared memory by cp.async. Blocks that run together share rows of x and w in L2.
// 2. Each warp has all rows of the tile and its own columns: no code is decoded twice in a tile. w is the left
// operand.
//    Sums do not care about the order of k: a lane's registers are what 32 bytes of x and 16 codes of w bring.
// 3. Products with ones, which add up x, are shared out over the warps; their results serve in the next step.
// 4. Rows of w lie permuted in shared memory, so that the sums that the matrix unit gives a lane are of
//    neighbouring columns: y is stored from registers, whole sectors.
// Rows past the end read the last one again and are not stored. x or w unaligned: the same kernels with narrow
// loads. An infinity in x may give NaN: 0 * inf is, and s * (q * inf) and b * inf can have opposite signs.
//
// Longest chain of additions: 64 in a group, then two for each group.
#include <cuda_bf16.h>
#include <stdint.h>
#include <string.h>

namespace {

constexpr int GROUP = 64, STAGES = 3;
constexpr unsigned GROUP_M = 8;    // rows of tiles that are worked through together
constexpr int64_t MAX_K = 1 << 22; // offsets within a tile of rows have 32 bits
constexpr uint32_t ONES = 0x3f803f80;

__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
               "{%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void copy_async(void *to, const void *from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(uint32_t(__cvta_generic_to_shared(to))),
               "l"(from)
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
// row. SWIZZLED: of odd rows, pieces 2 i and 2 i + 1 change places, so that pieces 2 i of two rows lie in
// different banks.
template <typename T, int ROWS, int CHUNKS, bool SWIZZLED, bool VECTOR> struct Copies {
  static constexpr int APART = 128 / CHUNKS, COUNT = ROWS / APART, PER_CHUNK = 16 / sizeof(T);
  static_assert(ROWS % APART == 0, "the threads share out the rows");
  const T *tile;          // (ROWS, of_row), from the group's first element on
  uint32_t offset[COUNT]; // elements
  uint32_t to;            // bytes

  // row_of: which row of `matrix`, from `first` on, lies in row `slot` of the tile.
  template <typename RowOf>
  __device__ __forceinline__ Copies(const T *matrix, int64_t first, int64_t rows, int64_t of_row, RowOf row_of)
      : tile(matrix + first * of_row) {
    const int chunk = threadIdx.x % CHUNKS, slot = threadIdx.x / CHUNKS;
    to = (slot * CHUNKS + (SWIZZLED ? chunk ^ slot % 2 : chunk)) * 16;
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
        copy_async(at, tile + offset[i]);
      } else {
        T part[PER_CHUNK];
        for (int e = 0; e < PER_CHUNK; e++) part[e] = (tile + offset[i])[e];
        uint4 all;
        memcpy(&all, part, 16);
        *reinterpret_cast<uint4 *>(at) = all;
      }
    }
    tile += CHUNKS * PER_CHUNK;
  }
};

// Codes 2 i and 2 i + 1 of a lane's 16 as two bf16. Of four bits: or-ed into 128's mantissa, then minus 128. Of
// eight: under the exponent of 2^23 each is the float 2^23 + code.
template <int BITS> __device__ __forceinline__ uint32_t two(const uint32_t *words, int i) {
  if (BITS == 4) {
    const uint32_t word = words[i / 4];
    uint32_t both;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" // (a & b) | c
        : "=r"(both)
        : "r"(__byte_perm(word, word >> 4, 0x4400 + 0x1111 * (i % 4))), "n"(0x000f000f), "n"(0x43004300));
    const __nv_bfloat16 by = __ushort_as_bfloat16(0x4300);
    const __nv_bfloat162 out = __hsub2(*reinterpret_cast<const __nv_bfloat162 *>(&both),
                                       __halves2bfloat162(by, by));
    return *reinterpret_cast<const uint32_t *>(&out);
  }
  const uint32_t word = words[i / 2];
  const float low = __uint_as_float(__byte_perm(word, 0x4b000000, 0x7650 + i % 2 * 2)) - 8388608.0f;
  const float high = __uint_as_float(__byte_perm(word, 0x4b000000, 0x7651 + i % 2 * 2)) - 8388608.0f;
  return __byte_perm(__float_as_uint(low), __float_as_uint(high), 0x7632);
}

// Scales, or biases, of a row's next eight groups, of which `left` exist.
__device__ __forceinline__ void load_eight(uint32_t (&out)[4], const uint16_t *from, int left, bool vector) {
  if (left <= 0) return;
  if (vector) {
    const uint4 all = __ldg(reinterpret_cast<const uint4 *>(from));
    memcpy(out, &all, 16);
  } else {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const uint32_t low = 2 * i < left ? from[2 * i] : 0, high = 2 * i + 1 < left ? from[2 * i + 1] : 0;
      out[i] = low | high << 16;
    }
  }
}

__device__ __forceinline__ void drop_first(uint32_t (&eight)[4]) {
#pragma unroll
  for (int i = 0; i < 4; i++) eight[i] = __funnelshift_r(eight[i], i < 3 ? eight[i + 1] : 0, 16);
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

constexpr int BLOCK_M = 64;

template <int BITS, int BLOCK_N> constexpr int shared_bytes() {
  return STAGES * (BLOCK_M * 2 * GROUP + BLOCK_N * 8 * BITS) + 2 * BLOCK_M * int(sizeof(float));
}

// Block: 128 threads, a tile of BLOCK_M x BLOCK_N, shared_bytes(). grid.x: tiles of all batches.
template <int BITS, int BLOCK_N, bool VECTOR>
__global__ void __launch_bounds__(128, 2)
    gemm_int_kernel(const uint16_t *x, const uint32_t *w, const uint16_t *w_scales, const uint16_t *w_biases,
                    __nv_bfloat16 *y, int64_t M, int64_t N, int64_t K) {
  constexpr int OF_WARP = BLOCK_N / 4, TILES_M = BLOCK_M / 8, TILES_N = OF_WARP / 16, COLUMNS = OF_WARP / 8;
  constexpr int W_ROW = 8 * BITS, X_BYTES = BLOCK_M * 2 * GROUP, STAGE = X_BYTES + BLOCK_N * W_ROW;
  extern __shared__ __align__(
      128) unsigned char shared[]; // of each stage x, then w; then sums of x of two groups
  float *const sums = reinterpret_cast<float *>(shared + STAGES * STAGE);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = lane / 4, quarter = lane % 4;
  const Tile at = tile_of<BLOCK_M, BLOCK_N>(blockIdx.x, M, N);
  const int groups = int(K / GROUP);
  // Rows 16 i + 8 h + row of a warp's part of the tile, a lane's, hold columns COLUMNS * row + 2 i + h of it.
  const auto column_of = [](int slot) {
    return slot / OF_WARP * OF_WARP + slot % 8 * COLUMNS + slot % OF_WARP / 16 * 2 + slot / 8 % 2;
  };
  Copies<uint16_t, BLOCK_M, 8, true, VECTOR> from_x(x + at.batch * M * K, at.m, M, K,
                                                    [](int slot) { return slot; });
  Copies<uint32_t, BLOCK_N, W_ROW / 16, false, VECTOR> from_w(w + at.batch * N * (K / 32 * BITS), at.n, N,
                                                              K / 32 * BITS, column_of);
  const auto fetch = [&](uint32_t stage) {
    from_x.fetch(shared + stage);
    from_w.fetch(shared + stage + X_BYTES);
  };
  // A lane holds scales and biases of one of the warp's rows of w, eight groups at a time.
  const int64_t of_lane = at.batch * N + min(at.n + column_of(warp * OF_WARP + lane % OF_WARP), N - 1);
  const uint16_t *scales_at = w_scales + of_lane * groups, *biases_at = w_biases + of_lane * groups;
  const bool eight_each = groups % 8 == 0 &&
                          (reinterpret_cast<uintptr_t>(w_scales) | reinterpret_cast<uintptr_t>(w_biases)) %
                                  16 ==
                              0;
  uint32_t scales[4] = {}, biases[4] = {};

  float acc[TILES_N][TILES_M][4] = {};
  uint32_t both[COLUMNS] = {}; // scale and bias of the lane's rows
  const auto add_biases = [&](const float *of_x) {
#pragma unroll
    for (int j = 0; j < TILES_M; j++) {
      const float2 sum = *reinterpret_cast<const float2 *>(of_x + 8 * j + 2 * quarter);
#pragma unroll
      for (int c = 0; c < COLUMNS; c++) {
        const float bias = __uint_as_float(both[c] & 0xffff0000);
        acc[c / 2][j][c % 2 * 2] = fmaf(bias, sum.x, acc[c / 2][j][c % 2 * 2]);
        acc[c / 2][j][c % 2 * 2 + 1] = fmaf(bias, sum.y, acc[c / 2][j][c % 2 * 2 + 1]);
      }
    }
  };

#pragma unroll
  for (int t = 0; t < STAGES - 1; t++) {
    if (t < groups) fetch(t * STAGE);
    commit();
  }
  sums[threadIdx.x] = 0; // before the first group
  // Pieces 2 quarter and 2 quarter + 1 of row 8 j + row.
  const unsigned char *const my_x = shared + row * 2 * GROUP + (2 * quarter + row % 2) * 16;
  const int apart = row % 2 ? -16 : 16;
  const unsigned char *const my_w = shared + X_BYTES + (warp * OF_WARP + row) * W_ROW + quarter * (W_ROW / 4);
  const auto load_x = [&](uint4(&out)[2], uint32_t stage, int token) {
    out[0] = *reinterpret_cast<const uint4 *>(my_x + stage + token * 2 * GROUP);
    out[1] = *reinterpret_cast<const uint4 *>(my_x + stage + token * 2 * GROUP + apart);
  };
  uint32_t reading = 0, writing = (STAGES - 1) * STAGE;
  load_eight(scales, scales_at, groups, eight_each);
  load_eight(biases, biases_at, groups, eight_each);
#pragma unroll 1
  for (int t = 0; t < groups; t++) {
    wait<STAGES - 2>();
    __syncthreads(); // this stage and the last sums have arrived, and all warps are done with the stage before
    if (t + STAGES - 1 < groups) fetch(writing);
    commit();
    add_biases(sums + (t + 1) % 2 * BLOCK_M);
#pragma unroll
    for (int c = 0; c < COLUMNS; c++)
      both[c] = __shfl_sync(~0u, __byte_perm(scales[0], biases[0], 0x5410), 8 * c + row);
    if ((t + 1) % 8 == 0) {
      load_eight(scales, scales_at + t + 1, groups - t - 1, eight_each);
      load_eight(biases, biases_at + t + 1, groups - t - 1, eight_each);
    } else {
      drop_first(scales);
      drop_first(biases);
    }

    uint4 b[TILES_M][2];
#pragma unroll
    for (int j = 0; j < TILES_M; j++) load_x(b[j], reading, 8 * j);
#pragma unroll
    for (int i = 0; i < TILES_N; i++) {
      uint32_t words[2][BITS / 2];
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const unsigned char *from = my_w + reading + (16 * i + 8 * h) * W_ROW;
        if constexpr (BITS == 4) {
          const uint2 all = *reinterpret_cast<const uint2 *>(from);
          words[h][0] = all.x, words[h][1] = all.y;
        } else {
          const uint4 all = *reinterpret_cast<const uint4 *>(from);
          words[h][0] = all.x, words[h][1] = all.y, words[h][2] = all.z, words[h][3] = all.w;
        }
      }
      float product[TILES_M][4] = {};
#pragma unroll
      for (int k = 0; k < 4; k++) {
        const uint32_t a[4] = {two<BITS>(words[0], 2 * k), two<BITS>(words[1], 2 * k),
                               two<BITS>(words[0], 2 * k + 1), two<BITS>(words[1], 2 * k + 1)};
#pragma unroll
        for (int j = 0; j < TILES_M; j++) {
          const uint4 of = b[j][k / 2];
          mma(product[j], a, k % 2 ? of.z : of.x, k % 2 ? of.w : of.y);
        }
      }
#pragma unroll
      for (int j = 0; j < TILES_M; j++)
#pragma unroll
        for (int e = 0; e < 4; e++)
          acc[i][j][e] = fmaf(__uint_as_float(both[2 * i + e / 2] << 16), product[j][e], acc[i][j][e]);
    }
    constexpr uint32_t ones[4] = {ONES, ONES, ONES, ONES};
#pragma unroll
    for (int j = 0; j < TILES_M / 4; j++) {
      const int token = (warp * (TILES_M / 4) + j) * 8;
      uint4 of[2];
      load_x(of, reading, token);
      float sum[4] = {};
      mma(sum, ones, of[0].x, of[0].y);
      mma(sum, ones, of[0].z, of[0].w);
      mma(sum, ones, of[1].x, of[1].y);
      mma(sum, ones, of[1].z, of[1].w);
      if (row == 0)
        *reinterpret_cast<float2 *>(sums + t % 2 * BLOCK_M + token + 2 * quarter) = {sum[0], sum[1]};
    }
    reading = reading == (STAGES - 1) * STAGE ? 0 : reading + STAGE;
    writing = writing == (STAGES - 1) * STAGE ? 0 : writing + STAGE;
  }
  __syncthreads();
  add_biases(sums + (groups + 1) % 2 * BLOCK_M);

  // acc[i][j][2 h + e]: row 8 j + 2 quarter + e, column COLUMNS * row + 2 i + h
  const int64_t n = at.n + warp * OF_WARP + COLUMNS * row;
  const bool wide = N % COLUMNS == 0 && reinterpret_cast<uintptr_t>(y) % (2 * COLUMNS) == 0;
#pragma unroll
  for (int j = 0; j < TILES_M; j++)
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const int64_t m = at.m + 8 * j + 2 * quarter + e;
      float out[COLUMNS];
#pragma unroll
      for (int c = 0; c < COLUMNS; c++) out[c] = acc[c / 2][j][c % 2 * 2 + e];
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

// Large tiles where each multiprocessor gets one, else small ones.
template <int BITS>
int gemm(const void *x, const void *w, const void *s, const void *b, void *y, int64_t B, int64_t M, int64_t N,
         int64_t K, int64_t w_batch, void *stream) {
  constexpr int64_t MOST = int64_t(1) << 34;
  if (B < 0 || B > MOST) return -6;
  if (M < 0 || M > MOST) return -7;
  if (N < 0 || N > MOST) return -8;
  if (K < 0 || K > MAX_K || K % GROUP) return -9;
  if (w_batch != 1 && w_batch != B) return -10;
  if (B == 0 || M == 0 || N == 0) return 0;
  if (double(B) * double((M + 63) / 64) * double((N + 63) / 64) > 0x7fffffff) return -8; // tiles of a grid
  if ((!x && K) || off(x, 2)) return -1;
  if ((!w && K) || off(w, 4)) return -2;
  if ((!s && K) || off(s, 2)) return -3;
  if ((!b && K) || off(b, 2)) return -4;
  if (!y || off(y, 2)) return -5;
  if (w_batch == 1) M *= B, B = 1;
  const auto run = [&](auto kernel, int64_t block_n, int bytes) {
    if (bytes > 48 << 10) {
      const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                     bytes);
      if (error != cudaSuccess) return int(error);
    }
    kernel<<<unsigned(tiles(B, M, N, block_n)), 128, unsigned(bytes), static_cast<cudaStream_t>(stream)>>>(
        static_cast<const uint16_t *>(x), static_cast<const uint32_t *>(w), static_cast<const uint16_t *>(s),
        static_cast<const uint16_t *>(b), static_cast<__nv_bfloat16 *>(y), M, N, K);
    return int(cudaGetLastError());
  };
  if (off(x, 16) || off(w, 16)) return run(gemm_int_kernel<BITS, 64, false>, 64, shared_bytes<BITS, 64>());
  if (tiles(B, M, N, 128) < processors())
    return run(gemm_int_kernel<BITS, 64, true>, 64, shared_bytes<BITS, 64>());
  return run(gemm_int_kernel<BITS, 128, true>, 128, shared_bytes<BITS, 128>());
}

} // namespace

extern "C" int rb_cuda_gemm_int8(const void *x, const void *w, const void *w_scales, const void *w_biases,
                                 void *y, int64_t B, int64_t M, int64_t N, int64_t K, int64_t w_batch,
                                 void *stream) {
  return gemm<8>(x, w, w_scales, w_biases, y, B, M, N, K, w_batch, stream);
}

extern "C" int rb_cuda_gemm_int4(const void *x, const void *w, const void *w_scales, const void *w_biases,
                                 void *y, int64_t B, int64_t M, int64_t N, int64_t K, int64_t w_batch,
                                 void *stream) {
  return gemm<4>(x, w, w_scales, w_biases, y, B, M, N, K, w_batch, stream);
}
