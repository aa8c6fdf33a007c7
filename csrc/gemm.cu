// SPDX-License-Identifier: MIT
// GEMM for prefill: y (B, M, N) = x (B, M, K) @ w (w_batch, N, K).T; f32, f16 or bf16, row-major, f32 sums.
// One w for the whole batch (w_batch 1: B * M are the rows of one product) or one each (w_batch B).
//
// Standalone CUDA C++17, sm_80 and later; meant for chips whose matrix unit is mma.sync (sm_80, 86, 89, 120,
// 121): nvcc -O3 -arch=native -c gemm.cu. Launch: rb_cuda_gemm_bf16(x, w, y, B, M, N, K, w_batch, stream).
// Compute-bound: 2 B M N K operations.
//
// 1. A block owns a tile of y. It copies tiles of x and w, 64 or 128 bytes of K wide, to a ring of STAGES in
//    shared memory by cp.async, two ahead of the one in use. Blocks that run together share rows in L2.
// 2. Rows there are pieces of 16 bytes, swizzled so that eight rows' same piece lies in different banks.
// 3. f16, bf16: four warps in a square; ldmatrix and mma.m16n8k16, registers of a step loaded during the one
//    before. f32: multiply-adds, 8 x 8 sums per lane.
// 4. Rows of w lie permuted in shared memory, so that the sums that the matrix unit gives a lane are of
//    neighbouring columns: y is stored from registers, 16 bytes per lane, whole sectors.
// Rows past the end read the last one again and are not stored; past the end of K there are zeros.
// K no multiple of 16 bytes, or x or w unaligned: the same kernels with loads of single elements.
//
// Longest chain of additions: K, by 16 in the order of the matrix unit; f32: K.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>
#include <string.h>

namespace {

constexpr int STAGES = 3;       // 48 KB: two blocks fit a multiprocessor of 100 KB (sm_120), without opting in
constexpr unsigned GROUP_M = 8; // rows of tiles that are worked through together
constexpr int64_t MAX_K = 1 << 22; // offsets within a tile of rows have 32 bits

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

// Four 8 x 8 matrices of 16-bit elements; lane i gives the address of row i % 8 of matrix i / 8.
__device__ __forceinline__ void ldmatrix(uint32_t &a, uint32_t &b, uint32_t &c, uint32_t &d, uint32_t from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(a), "=r"(b), "=r"(c), "=r"(d)
               : "r"(from)
               : "memory");
}

// 16 bytes, of which `bytes` (0 or 16) are read, the rest zeros.
__device__ __forceinline__ void copy_async(uint32_t to, const void *from, uint32_t bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until all but the last PENDING groups have arrived.
template <int PENDING> __device__ __forceinline__ void wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Where a piece of 16 bytes lies in a tile whose rows have CHUNKS (4 or 8) of them.
template <int CHUNKS> __device__ __forceinline__ uint32_t place(int row, int chunk) {
  return (row * CHUNKS + (chunk ^ (row / (8 / CHUNKS) % CHUNKS))) * 16;
}

// The ring's place after this one.
template <int BYTES> __device__ __forceinline__ uint32_t following(uint32_t stage) {
  return stage == (STAGES - 1) * BYTES ? 0 : stage + BYTES;
}

// Which column of 32 lies in row `slot` of w's tile. MMA: quarter q of a row's lanes gets columns 2 q, 2 q + 1
// of each of four matrices, they are 8 q to 8 q + 7 of y. Else lane t of eight reads rows t, t + 8, ..., they
// are 4 t to 4 t + 3 of y.
template <bool MMA> __device__ __forceinline__ int column_of(int slot) {
  const int s = slot % 32;
  return slot - s + (MMA ? s % 8 / 2 * 8 + s / 8 * 2 + s % 2 : s % 8 * 4 + s / 8);
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

// What a thread copies of a tile of ROWS rows: the same piece of every APART-th row.
template <typename T, int ROWS, int CHUNKS, int THREADS, bool VECTOR> struct Copies {
  static constexpr int APART = THREADS / CHUNKS, COUNT = ROWS / APART, PER_CHUNK = 16 / sizeof(T);
  static_assert(APART % 8 == 0, "rows of a thread are swizzled alike");
  const char *tile;       // (ROWS, K), from the step's first element on
  uint32_t offset[COUNT]; // bytes

  // One tile's step; `left` elements from the thread's piece to the end of K.
  __device__ __forceinline__ void fetch(unsigned char *to, int left) const {
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      unsigned char *at = to + i * APART * CHUNKS * 16;
      if (VECTOR) {
        copy_async(uint32_t(__cvta_generic_to_shared(at)), tile + offset[i], left > 0 ? 16 : 0);
      } else {
        T part[PER_CHUNK];
        for (int e = 0; e < PER_CHUNK; e++)
          part[e] = e < left ? reinterpret_cast<const T *>(tile + offset[i])[e] : T(0.0f);
        uint4 all;
        memcpy(&all, part, 16);
        *reinterpret_cast<uint4 *>(at) = all;
      }
    }
  }
};

__device__ __forceinline__ uint32_t two(__nv_bfloat16, float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t *>(&both);
}

__device__ __forceinline__ uint32_t two(__half, float low, float high) {
  const __half2 both = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t *>(&both);
}

// Block: 128 threads, tiles of BLOCK x BLOCK. grid.x: tiles of all batches.
template <typename T, int BLOCK, int CHUNKS, bool VECTOR>
__global__ void __launch_bounds__(128, 2)
    gemm_mma_kernel(const T *x, const T *w, T *y, int64_t M, int64_t N, int64_t K) {
  constexpr int BLOCK_K = CHUNKS * 8, STEPS = BLOCK_K / 16, OF_WARP = BLOCK / 2;
  constexpr int TILES_M = OF_WARP / 16, TILES_N = OF_WARP / 8, BYTES = BLOCK * CHUNKS * 16, STAGE = 2 * BYTES;
  __shared__ __align__(128) unsigned char shared[STAGES * STAGE]; // of each stage x, then w
  const int lane = threadIdx.x % 32, warp_m = threadIdx.x / 64 * OF_WARP,
            warp_n = threadIdx.x / 32 % 2 * OF_WARP;
  const Tile at = tile_of<BLOCK>(blockIdx.x, M, N);

  using Loads = Copies<T, BLOCK, CHUNKS, 128, VECTOR>;
  Loads from_x, from_w;
  const int chunk = threadIdx.x % CHUNKS, row = threadIdx.x / CHUNKS;
  from_x.tile = reinterpret_cast<const char *>(x + (at.batch * M + at.m) * K);
  from_w.tile = reinterpret_cast<const char *>(w + (at.batch * N + at.n) * K);
#pragma unroll
  for (int i = 0; i < Loads::COUNT; i++) {
    const int64_t slot = row + i * Loads::APART;
    from_x.offset[i] = uint32_t((min(slot, M - 1 - at.m) * K + chunk * 8) * sizeof(T));
    from_w.offset[i] = uint32_t((min(int64_t(column_of<true>(int(slot))), N - 1 - at.n) * K + chunk * 8) *
                                sizeof(T));
  }
  unsigned char *const mine = shared + place<CHUNKS>(row, chunk);
  int left = int(K) - chunk * 8;
  const auto fetch = [&](uint32_t stage) {
    from_x.fetch(mine + stage, left);
    from_w.fetch(mine + stage + BYTES, left);
    from_x.tile += BLOCK_K * sizeof(T);
    from_w.tile += BLOCK_K * sizeof(T);
    left -= BLOCK_K;
  };

  // Of x, matrices are rows 0 to 7 and 8 to 15, then the next 8 of K; of w, the next 8 of K, then rows 8 to 15.
  const uint32_t base = uint32_t(__cvta_generic_to_shared(shared));
  const uint32_t x_at = base + place<CHUNKS>(warp_m + lane % 16, lane / 16);
  const uint32_t w_at = base + BYTES + place<CHUNKS>(warp_n + lane % 8 + lane / 16 * 8, lane / 8 % 2);
  uint32_t a[2][TILES_M][4], b[2][TILES_N][2];
  const auto load = [&](int to, uint32_t stage, int step) {
#pragma unroll
    for (int i = 0; i < TILES_M; i++)
      ldmatrix(a[to][i][0], a[to][i][1], a[to][i][2], a[to][i][3],
               ((x_at + stage) ^ (step * 32)) + i * 16 * CHUNKS * 16);
#pragma unroll
    for (int j = 0; j < TILES_N; j += 2)
      ldmatrix(b[to][j][0], b[to][j][1], b[to][j + 1][0], b[to][j + 1][1],
               ((w_at + stage) ^ (step * 32)) + j * 8 * CHUNKS * 16);
  };

  float acc[TILES_M][TILES_N][4] = {};
  const int steps_k = int((K + BLOCK_K - 1) / BLOCK_K);
#pragma unroll
  for (int t = 0; t < STAGES - 1; t++) {
    if (t < steps_k) fetch(t * STAGE);
    commit();
  }
  wait<STAGES - 2>();
  __syncthreads();
  load(0, 0, 0);
  uint32_t reading = 0, writing = (STAGES - 1) * STAGE;
#pragma unroll 1
  for (int t = 0; t < steps_k; t++) {
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
      if (step == STEPS - 1) { // the stage's last registers are loaded: on to the next one
        wait<STAGES - 2>();
        __syncthreads();
        reading = following<STAGE>(reading);
      }
      load((step + 1) % 2, reading, (step + 1) % STEPS);
      if (step == 0) { // all warps are done with the stage before
        if (t + STAGES - 1 < steps_k) fetch(writing);
        commit();
        writing = following<STAGE>(writing);
      }
#pragma unroll
      for (int i = 0; i < TILES_M; i++)
#pragma unroll
        for (int j = 0; j < TILES_N; j++) mma<T>(acc[i][j], a[step % 2][i], b[step % 2][j]);
    }
  }

  // acc[i][4 h + j][2 g + e]: row 16 i + 8 g + lane / 4, column 32 h + 8 (lane % 4) + 2 j + e
  const bool wide = N % 8 == 0 && reinterpret_cast<uintptr_t>(y) % 16 == 0;
#pragma unroll
  for (int i = 0; i < TILES_M; i++)
#pragma unroll
    for (int g = 0; g < 2; g++)
#pragma unroll
      for (int h = 0; h < TILES_N / 4; h++) {
        const int64_t m = at.m + warp_m + 16 * i + 8 * g + lane / 4, n = at.n + warp_n + 32 * h + lane % 4 * 8;
        uint32_t out[4];
#pragma unroll
        for (int j = 0; j < 4; j++) out[j] = two(T(), acc[i][4 * h + j][2 * g], acc[i][4 * h + j][2 * g + 1]);
        if (m >= M || n >= N) continue;
        T *to = y + (at.batch * M + m) * N + n;
        if (wide) {
          *reinterpret_cast<uint4 *>(to) = {out[0], out[1], out[2], out[3]};
        } else {
          T part[8];
          memcpy(part, out, 16);
#pragma unroll
          for (int e = 0; e < 8; e++)
            if (n + e < N) to[e] = part[e];
        }
      }
}

__device__ __forceinline__ float4 load4(const unsigned char *from) {
  return *reinterpret_cast<const float4 *>(from);
}

// Block: 32 WARPS_M WARPS_N threads; of sums a warp has 32 x 64, a lane 8 x 8. grid.x: tiles of all batches.
template <int WARPS_M, int WARPS_N, bool VECTOR>
__global__ void __launch_bounds__(32 * WARPS_M * WARPS_N, WARPS_M == 4 ? 2 : 6)
    gemm_lanes_kernel(const float *x, const float *w, float *y, int64_t M, int64_t N, int64_t K) {
  constexpr int BLOCK = 32 * WARPS_M, THREADS = 32 * WARPS_M * WARPS_N, CHUNKS = 4, BLOCK_K = CHUNKS * 4;
  constexpr int BYTES = BLOCK * CHUNKS * 16, STAGE = 2 * BYTES;
  static_assert(BLOCK == 64 * WARPS_N, "square tiles");
  __shared__ __align__(128) unsigned char shared[STAGES * STAGE];
  const int lane = threadIdx.x % 32, warp_m = threadIdx.x / 32 / WARPS_N * 32,
            warp_n = threadIdx.x / 32 % WARPS_N * 64;
  // Lanes i and i ^ 1 read the same of x, i and i ^ 2 of w: then 16 bytes per lane take two passes, not four.
  const int of_m = lane / 2 % 2 + lane / 16 * 2, of_n = lane % 2 + lane / 4 % 4 * 2;
  const Tile at = tile_of<BLOCK>(blockIdx.x, M, N);

  using Loads = Copies<float, BLOCK, CHUNKS, THREADS, VECTOR>;
  Loads from_x, from_w;
  const int chunk = threadIdx.x % CHUNKS, row = threadIdx.x / CHUNKS;
  from_x.tile = reinterpret_cast<const char *>(x + (at.batch * M + at.m) * K);
  from_w.tile = reinterpret_cast<const char *>(w + (at.batch * N + at.n) * K);
#pragma unroll
  for (int i = 0; i < Loads::COUNT; i++) {
    const int64_t slot = row + i * Loads::APART;
    from_x.offset[i] = uint32_t((min(slot, M - 1 - at.m) * K + chunk * 4) * sizeof(float));
    from_w.offset[i] = uint32_t((min(int64_t(column_of<false>(int(slot))), N - 1 - at.n) * K + chunk * 4) *
                                sizeof(float));
  }
  unsigned char *const mine = shared + place<CHUNKS>(row, chunk);
  int left = int(K) - chunk * 4;
  const auto fetch = [&](uint32_t stage) {
    from_x.fetch(mine + stage, left);
    from_w.fetch(mine + stage + BYTES, left);
    from_x.tile += BLOCK_K * sizeof(float);
    from_w.tile += BLOCK_K * sizeof(float);
    left -= BLOCK_K;
  };

  const uint32_t x_at[2] = {place<CHUNKS>(warp_m + of_m, 0), place<CHUNKS>(warp_m + of_m + 4, 0)};
  const uint32_t w_at = BYTES + place<CHUNKS>(warp_n + of_n, 0);
  float acc[8][8] = {};
  const int steps_k = int((K + BLOCK_K - 1) / BLOCK_K);
#pragma unroll
  for (int t = 0; t < STAGES - 1; t++) {
    if (t < steps_k) fetch(t * STAGE);
    commit();
  }
  uint32_t reading = 0, writing = (STAGES - 1) * STAGE;
#pragma unroll 1
  for (int t = 0; t < steps_k; t++) {
    wait<STAGES - 2>();
    __syncthreads(); // this stage has arrived, and all warps are done with the one before
    if (t + STAGES - 1 < steps_k) fetch(writing);
    commit();
    writing = following<STAGE>(writing);
#pragma unroll 1 // else loads of the next piece come early and registers spill
    for (int c = 0; c < CHUNKS; c++) {
      float4 a[8];
#pragma unroll
      for (int i = 0; i < 8; i++)
        a[i] = load4(shared + reading + i / 2 * 8 * CHUNKS * 16 + (x_at[i % 2] ^ (c * 16)));
#pragma unroll
      for (int j = 0; j < 8; j++) {
        const float4 b = load4(shared + reading + j * 8 * CHUNKS * 16 + (w_at ^ (c * 16)));
#pragma unroll
        for (int i = 0; i < 8; i++)
          acc[i][j] = fmaf(a[i].w, b.w, fmaf(a[i].z, b.z, fmaf(a[i].y, b.y, fmaf(a[i].x, b.x, acc[i][j]))));
      }
    }
    reading = following<STAGE>(reading);
  }

  // acc[i][4 h + j]: row 4 i + of_m, column 32 h + 4 of_n + j
  const bool wide = N % 4 == 0 && reinterpret_cast<uintptr_t>(y) % 16 == 0;
#pragma unroll
  for (int i = 0; i < 8; i++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int64_t m = at.m + warp_m + 4 * i + of_m, n = at.n + warp_n + 32 * h + 4 * of_n;
      if (m >= M || n >= N) continue;
      float *to = y + (at.batch * M + m) * N + n;
      const float *out = acc[i] + 4 * h;
      if (wide) {
        *reinterpret_cast<float4 *>(to) = {out[0], out[1], out[2], out[3]};
      } else {
#pragma unroll
        for (int e = 0; e < 4; e++)
          if (n + e < N) to[e] = out[e];
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

int check(const void *x, const void *w, const void *y, int64_t B, int64_t M, int64_t N, int64_t K,
          int64_t w_batch, uintptr_t itemsize) {
  constexpr int64_t MOST = int64_t(1) << 34;
  if (B < 0 || B > MOST) return -4;
  if (M < 0 || M > MOST) return -5;
  if (N < 0 || N > MOST) return -6;
  if (K < 0 || K > MAX_K) return -7;
  if (w_batch != 1 && w_batch != B) return -8;
  if (B == 0 || M == 0 || N == 0) return 0;
  if (double(B) * double((M + 63) / 64) * double((N + 63) / 64) > 0x7fffffff) return -6; // tiles of a grid
  if ((!x && K) || off(x, itemsize)) return -1;
  if ((!w && K) || off(w, itemsize)) return -2;
  return !y || off(y, itemsize) ? -3 : 0;
}

// Large tiles where each multiprocessor gets one, else small ones.
template <typename T>
int gemm_mma(const T *x, const T *w, T *y, int64_t B, int64_t M, int64_t N, int64_t K, int64_t w_batch,
             void *stream) {
  const int bad = check(x, w, y, B, M, N, K, w_batch, sizeof(T));
  if (bad || B == 0 || M == 0 || N == 0) return bad;
  if (w_batch == 1) M *= B, B = 1;
  const auto run = [&](auto kernel, int64_t block) {
    kernel<<<unsigned(tiles(B, M, N, block)), 128, 0, static_cast<cudaStream_t>(stream)>>>(x, w, y, M, N, K);
    return int(cudaGetLastError());
  };
  if (K % 8 || off(x, 16) || off(w, 16)) return run(gemm_mma_kernel<T, 64, 8, false>, 64);
  if (tiles(B, M, N, 128) < processors()) return run(gemm_mma_kernel<T, 64, 8, true>, 64);
  return run(gemm_mma_kernel<T, 128, 4, true>, 128);
}

int gemm_lanes(const float *x, const float *w, float *y, int64_t B, int64_t M, int64_t N, int64_t K,
               int64_t w_batch, void *stream) {
  const int bad = check(x, w, y, B, M, N, K, w_batch, sizeof(float));
  if (bad || B == 0 || M == 0 || N == 0) return bad;
  if (w_batch == 1) M *= B, B = 1;
  const auto run = [&](auto kernel, int64_t block, unsigned threads) {
    kernel<<<unsigned(tiles(B, M, N, block)), threads, 0, static_cast<cudaStream_t>(stream)>>>(x, w, y, M, N,
                                                                                               K);
    return int(cudaGetLastError());
  };
  if (K % 4 || off(x, 16) || off(w, 16)) return run(gemm_lanes_kernel<2, 1, false>, 64, 64);
  if (tiles(B, M, N, 128) < processors()) return run(gemm_lanes_kernel<2, 1, true>, 64, 64);
  return run(gemm_lanes_kernel<4, 2, true>, 128, 256);
}

} // namespace

extern "C" int rb_cuda_gemm_f32(const void *x, const void *w, void *y, int64_t B, int64_t M, int64_t N,
                                int64_t K, int64_t w_batch, void *stream) {
  return gemm_lanes(static_cast<const float *>(x), static_cast<const float *>(w), static_cast<float *>(y), B, M,
                    N, K, w_batch, stream);
}

extern "C" int rb_cuda_gemm_f16(const void *x, const void *w, void *y, int64_t B, int64_t M, int64_t N,
                                int64_t K, int64_t w_batch, void *stream) {
  return gemm_mma(static_cast<const __half *>(x), static_cast<const __half *>(w), static_cast<__half *>(y), B,
                  M, N, K, w_batch, stream);
}

extern "C" int rb_cuda_gemm_bf16(const void *x, const void *w, void *y, int64_t B, int64_t M, int64_t N,
                                 int64_t K, int64_t w_batch, void *stream) {
  return gemm_mma(static_cast<const __nv_bfloat16 *>(x), static_cast<const __nv_bfloat16 *>(w),
                  static_cast<__nv_bfloat16 *>(y), B, M, N, K, w_batch, stream);
}
