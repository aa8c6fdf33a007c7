// SPDX-License-Identifier: MIT
// Ceilings of a GPU: reads, writes, copies and triads from memory; multiply-adds of lanes and of matrix units.
//
// read: sum (1,) = a[0] + ... + a[n - 1] modulo 2^64, a (n,) u64. write: a = 1; copy: b = a;
// triad: a = b + 3 c; all (n,) f32. fma (f32), matrix (bf16, f16, e4m3 with f32 sums): n multiply-adds in
// registers, each of which adds 1 to count (1,) i64, so that none can be left out; n is a multiple of 2^20.
// launch: an empty one, the floor of every time.
//
// Standalone CUDA C++17, sm_80 and later: nvcc -O3 -arch=native -c probe.cu. Launch: rb_cuda_probe_read(a,
// sum, n, variant, stream), ... Arrays are aligned to 16 bytes, for reads of 32 bytes to 32. read, fma and
// matrix clear their result first, by a memset of 8 bytes on the stream, and blocks add to it with one integer
// atomic each: in whichever order, the same bits.
//
// Which code streams fastest differs between chips, so each probe has variants; rb_cuda_probe_variant names
// them, and the best is the roof. "16 B x 8, 4 of 256": 8 accesses of 16 bytes in flight per lane and array, 4
// blocks of 256 threads per multiprocessor, which go round the tiles. "all": a block per tile.
//
// matrix is mma.sync, the unit of sm_80 to sm_89 and sm_120. sm_90, sm_100 and sm_110 have faster ones of their
// own (wgmma, tcgen05): there it is the roof of kernels with mma.sync, no more. Their mma.sync of e4m3 is
// emulated, by conversions to f16, and no roof of anything: rb_cuda_probe_matrix_fp8 gives
// cudaErrorNotSupported there.
#include <stdint.h>
#include <string.h>

namespace {

#if defined(__CUDA_ARCH__)
constexpr int ARCH = __CUDA_ARCH__;
#else
constexpr int ARCH = 0; // of the host's pass
#endif
constexpr int64_t GRANULE = 1 << 20; // multiply-adds: whole steps of every variant
constexpr int CHAIN = 8192;          // multiply-adds to one sum: 14 bits, all that fp8 units keep on some chips

// Blocks that a multiprocessor has at least, as ptxas is told: without it, it would spare registers by keeping
// fewer accesses in flight than a variant's name says. 1536 threads are the most on some chips; 0 blocks are as
// many as fit.
constexpr int least(int blocks, int threads) {
  return blocks == 0 ? 1024 / threads : blocks * threads > 1536 ? 1536 / threads : blocks;
}

enum Hint {
  PLAIN,
  FIRST,  // leaves the cache first
  PAST_L1 // fetches 256 bytes to L2, keeps nothing in L1
};

// What one access of a lane brings.
template <int WIDTH, Hint HINT> struct Words {
  ulonglong2 x[WIDTH / 16];

  __device__ __forceinline__ void load(const ulonglong2 *at) {
    if constexpr (WIDTH == 32 && ARCH >= 1000)
      asm volatile("ld.global.v4.u64 {%0, %1, %2, %3}, [%4];"
                   : "=l"(x[0].x), "=l"(x[0].y), "=l"(x[1].x), "=l"(x[1].y)
                   : "l"(at));
    else if constexpr (HINT == PAST_L1)
      asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v2.u64 {%0, %1}, [%2];"
                   : "=l"(x[0].x), "=l"(x[0].y)
                   : "l"(at));
    else
      for (int i = 0; i < WIDTH / 16; i++) x[i] = HINT == FIRST ? __ldcs(at + i) : at[i];
  }

  __device__ __forceinline__ uint64_t sum() const {
    return x[0].x + x[0].y + (WIDTH == 32 ? x[WIDTH / 32].x + x[WIDTH / 32].y : 0);
  }
};

// Adds what the block's threads bring to *sum.
template <int THREADS> __device__ __forceinline__ void add_up(uint64_t mine, unsigned long long *sum) {
  __shared__ uint64_t sums[THREADS / 32];
  for (int apart = 16; apart > 0; apart /= 2) mine += __shfl_xor_sync(~0u, mine, apart);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = mine;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int i = 1; i < THREADS / 32; i++) mine += sums[i];
    atomicAdd(sum, mine);
  }
}

template <int WIDTH, int UNROLL, int BLOCKS, int THREADS, Hint HINT>
__global__ void __launch_bounds__(THREADS, least(BLOCKS, THREADS))
    read_kernel(const uint64_t *a, unsigned long long *sum, int64_t n) {
  constexpr int PARTS = WIDTH / 16, TILE = PARTS * UNROLL * THREADS; // of 16 bytes
  const ulonglong2 *from = reinterpret_cast<const ulonglong2 *>(a) + threadIdx.x * PARTS;
  const int64_t whole = n / (2 * TILE);
  uint64_t acc = 0;
#pragma unroll 1
  for (int64_t i = blockIdx.x; i < whole; i += gridDim.x) {
    Words<WIDTH, HINT> words[UNROLL];
#pragma unroll
    for (int u = 0; u < UNROLL; u++) words[u].load(from + i * TILE + u * (PARTS * THREADS));
#pragma unroll
    for (int u = 0; u < UNROLL; u++) acc += words[u].sum();
  }
  if (blockIdx.x == gridDim.x - 1) // the rest
#pragma unroll 1
    for (int64_t i = whole * (2 * TILE) + threadIdx.x; i < n; i += THREADS) acc += a[i];
  add_up<THREADS>(acc, sum);
}

__device__ __forceinline__ float4 triad(const float4 &b, const float4 &c) {
  return {fmaf(3, c.x, b.x), fmaf(3, c.y, b.y), fmaf(3, c.z, b.z), fmaf(3, c.w, b.w)};
}

// READS of b and c; stores leave the cache first, or not.
template <int READS, bool STORE_FIRST, int UNROLL, int BLOCKS, int THREADS>
__global__ void __launch_bounds__(THREADS, least(BLOCKS, THREADS))
    stream_kernel(float *a, const float *b, const float *c, int64_t n) {
  constexpr int TILE = UNROLL * THREADS; // accesses
  float4 *to = reinterpret_cast<float4 *>(a) + threadIdx.x;
  const float4 *from = reinterpret_cast<const float4 *>(b) + threadIdx.x;
  const float4 *other = reinterpret_cast<const float4 *>(c) + threadIdx.x;
  const int64_t whole = n / (4 * TILE);
#pragma unroll 1
  for (int64_t i = blockIdx.x; i < whole; i += gridDim.x) {
    float4 x[UNROLL], y[UNROLL];
#pragma unroll
    for (int u = 0; u < UNROLL; u++) {
      x[u] = READS > 0 ? __ldcs(from + i * TILE + u * THREADS) : float4{1, 1, 1, 1};
      if (READS > 1) y[u] = __ldcs(other + i * TILE + u * THREADS);
    }
#pragma unroll
    for (int u = 0; u < UNROLL; u++) {
      if (READS > 1) x[u] = triad(x[u], y[u]);
      if (STORE_FIRST)
        __stcs(to + i * TILE + u * THREADS, x[u]);
      else
        to[i * TILE + u * THREADS] = x[u];
    }
  }
  if (blockIdx.x == gridDim.x - 1) // the rest
#pragma unroll 1
    for (int64_t i = whole * (4 * TILE) + threadIdx.x; i < n; i += THREADS)
      a[i] = READS == 0 ? 1 : READS == 1 ? b[i] : fmaf(3, c[i], b[i]);
}

// How many of n steps are this block's.
__device__ __forceinline__ int64_t share(int64_t n) {
  return (n - int64_t(blockIdx.x) + gridDim.x - 1) / gridDim.x;
}

// n steps, which blocks share out, of UNROLL multiply-adds to each of SUMS sums of a lane. one and zero come
// from outside and differ from lane to lane and sum to sum, as far as a compiler knows: it could count for
// itself, and ptxas gives sm_120's uniform unit what all lanes of a warp compute, once for all.
template <int SUMS, int UNROLL, int THREADS>
__global__ void __launch_bounds__(THREADS)
    fma_kernel(unsigned long long *count, int64_t n, float one, float zero) {
  constexpr int BATCH = CHAIN / UNROLL;
  uint64_t total = 0;
  const float a = one + zero * float(threadIdx.x);
  for (int64_t left = share(n); left > 0; left -= BATCH) {
    float acc[SUMS];
#pragma unroll
    for (int j = 0; j < SUMS; j++) acc[j] = zero * float(threadIdx.x * SUMS + j);
#pragma unroll 1
    for (int k = int(min(left, int64_t(BATCH))); k > 0; k--)
#pragma unroll
      for (int u = 0; u < UNROLL; u++)
#pragma unroll
        for (int j = 0; j < SUMS; j++) acc[j] = fmaf(acc[j], a, a);
    for (int j = 1; j < SUMS; j++) acc[0] += acc[j];
    total += uint64_t(acc[0]);
  }
  add_up<THREADS>(total, count);
}

enum Type {
  BF16,
  F16,
  E4M3
};

template <Type TYPE>
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#define MMA(SHAPE)                                                                                          \
  asm volatile("mma.sync.aligned." SHAPE " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                             \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
  if constexpr (TYPE == BF16) MMA("m16n8k16.row.col.f32.bf16.bf16.f32");
  if constexpr (TYPE == F16) MMA("m16n8k16.row.col.f32.f16.f16.f32");
  if constexpr (TYPE == E4M3 && (ARCH == 890 || ARCH >= 1200)) MMA("m16n8k32.row.col.f32.e4m3.e4m3.f32");
#undef MMA
}

// n steps, which blocks share out, of UNROLL products to each of ROWS x COLUMNS tiles of 16 x 8 sums of a warp.
template <Type TYPE, int ROWS, int COLUMNS, int BLOCKS, int WARPS>
__global__ void __launch_bounds__(32 * WARPS, BLOCKS)
    matrix_kernel(unsigned long long *count, int64_t n, uint32_t ones, uint32_t zero) {
  constexpr int K = TYPE == E4M3 ? 32 : 16, UNROLL = 32 / (ROWS * COLUMNS), BATCH = CHAIN / (K * UNROLL);
  uint64_t total = 0;
  uint32_t a[ROWS][4], b[COLUMNS][2]; // ones, each in a register of its own
#pragma unroll
  for (int i = 0; i < ROWS * 4; i++) a[i / 4][i % 4] = ones + zero * (threadIdx.x + i);
#pragma unroll
  for (int i = 0; i < COLUMNS * 2; i++) b[i / 2][i % 2] = ones + zero * (threadIdx.x + 64 + i);
  for (int64_t left = share(n); left > 0; left -= BATCH) {
    float acc[ROWS][COLUMNS][4] = {};
#pragma unroll 1
    for (int k = int(min(left, int64_t(BATCH))); k > 0; k--)
#pragma unroll
      for (int u = 0; u < UNROLL; u++)
#pragma unroll
        for (int r = 0; r < ROWS; r++)
#pragma unroll
          for (int c = 0; c < COLUMNS; c++) mma<TYPE>(acc[r][c], a[r], b[c]);
    float sum = 0; // a whole number that f32 holds
    for (int j = 0; j < ROWS * COLUMNS * 4; j++) sum += acc[j / 4 / COLUMNS][j / 4 % COLUMNS][j % 4];
    total += uint64_t(sum);
  }
  add_up<32 * WARPS>(total, count);
}

__global__ void empty_kernel() {}

struct Read {
  const char *name;
  void (*kernel)(const uint64_t *, unsigned long long *, int64_t);
  int threads, per_processor, width, words; // width: bytes of an access; words: of a tile
};

template <int WIDTH, int UNROLL, int BLOCKS, int THREADS, Hint HINT> constexpr Read read_by(const char *name) {
  return {name,    read_kernel<WIDTH, UNROLL, BLOCKS, THREADS, HINT>,
          THREADS, BLOCKS,
          WIDTH,   WIDTH / 8 * UNROLL * THREADS};
}

constexpr Read reads[] = {
    read_by<16, 8, 4, 256, FIRST>("16 B x 8, 4 of 256"),
    read_by<16, 4, 6, 256, FIRST>("16 B x 4, 6 of 256"),
    read_by<16, 4, 8, 256, FIRST>("16 B x 4, 8 of 256"),
    read_by<16, 8, 8, 128, FIRST>("16 B x 8, 8 of 128"),
    read_by<16, 16, 4, 128, FIRST>("16 B x 16, 4 of 128"),
    read_by<16, 16, 2, 256, FIRST>("16 B x 16, 2 of 256"),
    read_by<16, 8, 1, 1024, FIRST>("16 B x 8, 1 of 1024"),
    read_by<16, 8, 4, 256, PLAIN>("16 B x 8, 4 of 256, cached"),
    read_by<16, 8, 4, 256, PAST_L1>("16 B x 8, 4 of 256, past L1"),
    read_by<16, 4, 6, 256, PAST_L1>("16 B x 4, 6 of 256, past L1"),
    read_by<32, 4, 4, 256, PLAIN>("32 B x 4, 4 of 256"),
    read_by<32, 8, 4, 128, PLAIN>("32 B x 8, 4 of 128"),
};

struct Stream {
  const char *name;
  void (*kernels[3])(float *, const float *, const float *, int64_t); // that read no, one and two arrays
  int threads, per_processor, elements;                               // per_processor 0: a block per tile
};

template <bool FIRST, int UNROLL, int BLOCKS, int THREADS> constexpr Stream stream_by(const char *name) {
  return {name,
          {stream_kernel<0, FIRST, UNROLL, BLOCKS, THREADS>, stream_kernel<1, FIRST, UNROLL, BLOCKS, THREADS>,
           stream_kernel<2, FIRST, UNROLL, BLOCKS, THREADS>},
          THREADS,
          BLOCKS,
          4 * UNROLL * THREADS};
}

constexpr Stream streams[] = {
    stream_by<false, 4, 4, 256>("16 B x 4, 4 of 256"),
    stream_by<false, 8, 2, 256>("16 B x 8, 2 of 256"),
    stream_by<false, 2, 12, 128>("16 B x 2, 12 of 128"),
    stream_by<false, 1, 0, 256>("16 B x 1, all of 256"),
    stream_by<false, 4, 0, 128>("16 B x 4, all of 128"),
    stream_by<false, 4, 0, 256>("16 B x 4, all of 256"),
    stream_by<true, 4, 4, 256>("16 B x 4, 4 of 256, streaming"),
    stream_by<true, 8, 2, 256>("16 B x 8, 2 of 256, streaming"),
    stream_by<true, 2, 12, 128>("16 B x 2, 12 of 128, streaming"),
    stream_by<true, 1, 0, 256>("16 B x 1, all of 256, streaming"),
    stream_by<true, 4, 0, 128>("16 B x 4, all of 128, streaming"),
    stream_by<true, 4, 0, 256>("16 B x 4, all of 256, streaming"),
};
constexpr int STREAMS = sizeof streams / sizeof *streams;

struct Fma {
  const char *name;
  void (*kernel)(unsigned long long *, int64_t, float, float);
  int threads, per_processor, step; // step: multiply-adds of a block at a time
};

template <int SUMS, int UNROLL, int BLOCKS, int THREADS> constexpr Fma fma_by(const char *name) {
  return {name, fma_kernel<SUMS, UNROLL, THREADS>, THREADS, BLOCKS, SUMS * UNROLL * THREADS};
}

constexpr Fma fmas[] = {
    fma_by<8, 64, 8, 256>("8 sums, 8 of 256"),   fma_by<4, 128, 8, 256>("4 sums, 8 of 256"),
    fma_by<16, 32, 4, 256>("16 sums, 4 of 256"), fma_by<16, 32, 8, 128>("16 sums, 8 of 128"),
    fma_by<32, 16, 2, 256>("32 sums, 2 of 256"),
};

struct Matrix {
  const char *name;
  void (*kernels[3])(unsigned long long *, int64_t, uint32_t, uint32_t); // of each type
  int warps, per_processor;
};

template <int ROWS, int COLUMNS, int BLOCKS, int WARPS> constexpr Matrix matrix_by(const char *name) {
  return {name,
          {matrix_kernel<BF16, ROWS, COLUMNS, BLOCKS, WARPS>, matrix_kernel<F16, ROWS, COLUMNS, BLOCKS, WARPS>,
           matrix_kernel<E4M3, ROWS, COLUMNS, BLOCKS, WARPS>},
          WARPS,
          BLOCKS};
}

constexpr Matrix matrices[] = {
    // tiles of 16 x 8 per warp, blocks of so many warps
    matrix_by<4, 4, 2, 8>("4 x 4, 2 of 8"), matrix_by<4, 8, 1, 8>("4 x 8, 1 of 8"),
    matrix_by<4, 8, 2, 4>("4 x 8, 2 of 4"), matrix_by<8, 4, 2, 4>("8 x 4, 2 of 4"),
    matrix_by<2, 4, 4, 8>("2 x 4, 4 of 8"), matrix_by<2, 8, 2, 8>("2 x 8, 2 of 8"),
    matrix_by<4, 4, 4, 4>("4 x 4, 4 of 4"),
};

template <typename T, int COUNT> const T *at(const T (&table)[COUNT], int variant) {
  return variant >= 0 && variant < COUNT ? &table[variant] : nullptr;
}

template <typename T, int COUNT> const char *name_of(const T (&table)[COUNT], int variant) {
  const T *found = at(table, variant);
  return found ? found->name : nullptr;
}

int processors() {
  int device = 0, count = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 1;
  return cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) == cudaSuccess ? count : 1;
}

// As many blocks as fill the device, no more than there are pieces, but one at least; 0: one per piece.
int blocks_of(int64_t pieces, int per_processor) {
  const int64_t most = per_processor ? int64_t(per_processor) * processors() : INT32_MAX;
  return int(pieces < 1 ? 1 : pieces < most ? pieces : most);
}

bool off(const void *pointer, uintptr_t alignment) {
  return !pointer || reinterpret_cast<uintptr_t>(pointer) % alignment;
}

int stream_probe(void *a, const void *b, const void *c, int64_t n, int reads, const Stream &stream, void *on) {
  if (n == 0) return 0;
  const int blocks = blocks_of(n / stream.elements, stream.per_processor);
  stream.kernels[reads]<<<blocks, stream.threads, 0, static_cast<cudaStream_t>(on)>>>(
      static_cast<float *>(a), static_cast<const float *>(b), static_cast<const float *>(c), n);
  return int(cudaGetLastError());
}

int matrix_probe(void *count, int64_t n, int variant, Type type, uint32_t ones, void *stream) {
  if (off(count, 8)) return -1;
  if (n < 0 || n % GRANULE) return -2;
  const Matrix *matrix = at(matrices, variant);
  if (!matrix) return -3;
  cudaFuncAttributes code;
  if (const cudaError_t error = cudaFuncGetAttributes(&code, matrix->kernels[type])) return int(error);
  const bool has_fp8 = code.binaryVersion == 89 || code.binaryVersion >= 120; // what it was compiled for
  if (type == E4M3 && !has_fp8) return int(cudaErrorNotSupported);
  const auto on = static_cast<cudaStream_t>(stream);
  if (const cudaError_t error = cudaMemsetAsync(count, 0, 8, on)) return int(error);
  const int64_t steps = n / (int64_t(32 * 16 * 8) * (type == E4M3 ? 32 : 16) * matrix->warps);
  matrix->kernels[type]<<<blocks_of(steps, matrix->per_processor), 32 * matrix->warps, 0, on>>>(
      static_cast<unsigned long long *>(count), steps, ones, 0);
  return int(cudaGetLastError());
}

} // namespace

extern "C" int rb_cuda_probe_read(const void *a, void *sum, int64_t n, int variant, void *stream) {
  const Read *read = at(reads, variant);
  if (!read) return -4;
  if (n < 0) return -3;
  if (n && off(a, uintptr_t(read->width))) return -1;
  if (off(sum, 8)) return -2;
  const auto on = static_cast<cudaStream_t>(stream);
  if (const cudaError_t error = cudaMemsetAsync(sum, 0, 8, on)) return int(error);
  read->kernel<<<blocks_of(n / read->words, read->per_processor), read->threads, 0, on>>>(
      static_cast<const uint64_t *>(a), static_cast<unsigned long long *>(sum), n);
  return int(cudaGetLastError());
}

extern "C" int rb_cuda_probe_write(void *a, int64_t n, int variant, void *stream) {
  if (n < 0) return -2;
  if (n && off(a, 16)) return -1;
  const Stream *way = at(streams, variant);
  return way ? stream_probe(a, nullptr, nullptr, n, 0, *way, stream) : -3;
}

// The variant past those of the table: the driver's copy.
extern "C" int rb_cuda_probe_copy(const void *a, void *b, int64_t n, int variant, void *stream) {
  if (n < 0) return -3;
  if (n && off(a, 16)) return -1;
  if (n && off(b, 16)) return -2;
  if (variant == STREAMS)
    return int(
        cudaMemcpyAsync(b, a, size_t(n) * 4, cudaMemcpyDeviceToDevice, static_cast<cudaStream_t>(stream)));
  const Stream *way = at(streams, variant);
  return way ? stream_probe(b, a, nullptr, n, 1, *way, stream) : -4;
}

extern "C" int rb_cuda_probe_triad(void *a, const void *b, const void *c, int64_t n, int variant,
                                   void *stream) {
  if (n < 0) return -4;
  if (n && off(a, 16)) return -1;
  if (n && off(b, 16)) return -2;
  if (n && off(c, 16)) return -3;
  const Stream *way = at(streams, variant);
  return way ? stream_probe(a, b, c, n, 2, *way, stream) : -5;
}

extern "C" int rb_cuda_probe_fma(void *count, int64_t n, int variant, void *stream) {
  if (off(count, 8)) return -1;
  if (n < 0 || n % GRANULE) return -2;
  const Fma *fma = at(fmas, variant);
  if (!fma) return -3;
  const auto on = static_cast<cudaStream_t>(stream);
  if (const cudaError_t error = cudaMemsetAsync(count, 0, 8, on)) return int(error);
  fma->kernel<<<blocks_of(n / fma->step, fma->per_processor), fma->threads, 0, on>>>(
      static_cast<unsigned long long *>(count), n / fma->step, 1.0f, 0.0f);
  return int(cudaGetLastError());
}

extern "C" int rb_cuda_probe_matrix_bf16(void *count, int64_t n, int variant, void *stream) {
  return matrix_probe(count, n, variant, BF16, 0x3f803f80, stream);
}

extern "C" int rb_cuda_probe_matrix_f16(void *count, int64_t n, int variant, void *stream) {
  return matrix_probe(count, n, variant, F16, 0x3c003c00, stream);
}

extern "C" int rb_cuda_probe_matrix_fp8(void *count, int64_t n, int variant, void *stream) {
  return matrix_probe(count, n, variant, E4M3, 0x38383838, stream);
}

extern "C" int rb_cuda_probe_launch(void *stream) {
  empty_kernel<<<1, 32, 0, static_cast<cudaStream_t>(stream)>>>();
  return int(cudaGetLastError());
}

// probe: read, write, copy, triad, fma, matrix_bf16, matrix_f16 or matrix_fp8; null past its last variant.
extern "C" const char *rb_cuda_probe_variant(const char *probe, int variant) {
  if (!probe) return nullptr;
  if (!strcmp(probe, "read")) return name_of(reads, variant);
  if (!strcmp(probe, "copy") && variant == STREAMS) return "cudaMemcpyAsync";
  for (const char *stream : {"write", "copy", "triad"})
    if (!strcmp(probe, stream)) return name_of(streams, variant);
  if (!strcmp(probe, "fma")) return name_of(fmas, variant);
  for (const char *matrix : {"matrix_bf16", "matrix_f16", "matrix_fp8"})
    if (!strcmp(probe, matrix)) return name_of(matrices, variant);
  return nullptr;
}
