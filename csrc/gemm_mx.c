/* SPDX-License-Identifier: MIT */
/* GEMM for prefill with microscaled weights: y (B, M, N) = x (B, M, K) @ (scale * code) (w_batch, N, K).T.
 * Codes packed from the lowest bits of each word up (MLX's packing); y bf16; f32 sums.
 *   mxfp8  w (w_batch, N, K / 4) e4m3,  w_scales (w_batch, N, K / 32) e8m0
 *   mxfp4  w (w_batch, N, K / 8) e2m1,  w_scales (w_batch, N, K / 32) e8m0
 *   nvfp4  w (w_batch, N, K / 8) e2m1,  w_scales (w_batch, N, K / 16) e4m3,  w_tensor_scale (w_batch,) f32
 * x (B, M, K) bf16; as W8A8 and W4A4 it is stored like w, with scales of its own, x_tensor_scale (B,).
 * One w for the whole batch (w_batch 1) or one each (w_batch B).
 *
 * Standalone C11 with the vector extensions of GCC and Clang: cc -O3 -fopenmp -c gemm_mx.c. Threads are
 * OpenMP's, libdispatch's on macOS, else one.
 * Compute-bound. x is decoded once to f32 rows padded to a multiple of LANES. Threads share out MB x NB
 * blocks of y; for each, NB rows of w are decoded KC weights at a time, and tiles of MT x NT dot products,
 * LANES partial sums each, run along K in registers.
 * Longest chain of additions: K / LANES + 10, roundings of a decoded weight included.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(_OPENMP)
#include <omp.h>
#elif defined(__APPLE__)
#include <dispatch/dispatch.h>
#endif

/* Compiled for each level of x86-64, chosen when the library loads; other compilers need -march=native. */
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__) && __GNUC__ >= 12
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif
/* Vectors cross no call: levels of x86-64 would pass them differently. */
#define INLINE static inline __attribute__((always_inline))

enum {
  LANES = 16,
  MT = 2, /* MT * NT sums in flight hide the latency of a multiply-add; with operands, 14 registers */
  NT = 4,
  MI = 8,  /* MI rows of x, KC long, are half of an L1 and stay there while NB rows of w pass */
  MB = 64, /* each weight is decoded once per MB tokens; their sums fit a stack of 128 KB */
  NB = 16,
  KC = 512, /* sums, w and x of a block stay in L2 */
};

typedef float f32x16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef float f32x8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef uint32_t u32x16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint64_t u64x8 __attribute__((vector_size(64), aligned(8), may_alias));
typedef uint16_t u16x16 __attribute__((vector_size(32), aligned(2), may_alias));
typedef uint8_t u8x16 __attribute__((vector_size(16), aligned(1), may_alias));

struct matrix;
/* Decodes `count` values of a row from column k on. */
typedef void decode_fn(const struct matrix *a, int64_t row, int64_t k, int64_t count, float *out);

/* A stored matrix of rows K long. */
struct matrix {
  const void *codes;
  const uint8_t *scales;     /* one per group */
  const float *tensor_scale; /* one per `rows` rows, NULL for none */
  int64_t rows;
  int64_t K;
  decode_fn *decode;
};

struct job {
  struct matrix x_stored, w;
  float *wide;    /* x, decoded: (B * M, padded) */
  const float *x; /* the same, to read */
  uint16_t *y;    /* (B, M, N) */
  int64_t M, N, K, w_batch, padded;
};

/* Runs task(arg, i) for i in [0, n). */
static void parallel(size_t n, void *arg, void (*task)(void *, size_t), int threads) {
#if defined(_OPENMP)
#pragma omp parallel for schedule(static) num_threads(threads > 0 ? threads : omp_get_max_threads())
  for (size_t i = 0; i < n; i++) task(arg, i);
#elif defined(__APPLE__)
  (void)threads;
  dispatch_apply_f(n, DISPATCH_APPLY_AUTO, arg, task);
#else
  (void)threads;
  for (size_t i = 0; i < n; i++) task(arg, i);
#endif
}

INLINE u32x16 widen_u8(const uint8_t *codes) {
  return __builtin_convertvector(__builtin_convertvector(*(const u8x16 *)codes, u16x16), u32x16);
}

/* Exact for every e4m3: rebias the exponent; subnormals by a subtraction; 0x7f is NaN. */
INLINE f32x16 f32_of_e4m3(u32x16 c) {
  u32x16 sign = (c & 0x80) << 24, bits = (c & 0x7f) << 20;
  u32x16 nan = (u32x16)(bits == 0x07f00000), small = (u32x16)(bits < 0x00800000);
  f32x16 subnormal = (f32x16)(bits + 0x3c800000) - 0x1p-6f;
  return (f32x16)(sign | (nan & 0x7fc00000) | (small & (u32x16)subnormal) |
                  (~(small | nan) & (bits + 0x3c000000)));
}

/* e2m1: twice its magnitude is one of 0 1 2 3 4 6 8 12, a nibble each of one constant; bit 3 is the sign. */
INLINE f32x16 twice_e2m1(u32x16 c) {
  const u32x16 table = (u32x16){0} + 0xc8643210;
  u32x16 magnitude = table >> ((c & 7) << 2) & 15;
  return (f32x16)((u32x16) __builtin_convertvector(magnitude, f32x16) | (c & 8) << 28);
}

INLINE float f32_of_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/* 2^(e - 127); 0 is the subnormal 2^-127, 255 is NaN. */
INLINE float f32_of_e8m0(uint8_t e) {
  return f32_of_bits(e == 255 ? 0x7fc00000 : e == 0 ? 0x00400000 : (uint32_t)e << 23);
}

INLINE float scalar_of_e4m3(uint8_t c) {
  uint32_t sign = (uint32_t)(c & 0x80) << 24, bits = (uint32_t)(c & 0x7f) << 20;
  if (bits == 0x07f00000) return f32_of_bits(sign | 0x7fc00000);
  float magnitude = bits < 0x00800000 ? f32_of_bits(bits + 0x3c800000) - 0x1p-6f
                                      : f32_of_bits(bits + 0x3c000000);
  return sign ? -magnitude : magnitude;
}

/* Sixteen four-bit codes from two words, the first in the lowest bits; for little-endian chips. */
INLINE u32x16 nibbles(const uint32_t *w) {
  const u64x8 shift = {0, 8, 16, 24, 32, 40, 48, 56};
  uint64_t words;
  memcpy(&words, w, sizeof words);
  u64x8 pairs = ((u64x8){0} + words) >> shift; /* two codes in each lowest byte */
  return (u32x16)((pairs & 0x0f) | (pairs & 0xf0) << 28);
}

/* Nearest even; a NaN keeps its sign and becomes quiet. */
static uint16_t bf16_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return (uint16_t)(value != value ? bits >> 16 | 0x40 : rounded);
}

static float f32_of_bf16(uint16_t h) {
  uint32_t bits = (uint32_t)h << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

CLONES static void decode_bf16(const struct matrix *a, int64_t row, int64_t k, int64_t count, float *out) {
  const uint16_t *h = (const uint16_t *)a->codes + row * a->K + k;
  for (int64_t i = 0; i < count; i++) out[i] = f32_of_bf16(h[i]);
}

CLONES static void decode_mxfp8(const struct matrix *a, int64_t row, int64_t k, int64_t count, float *out) {
  int64_t at = row * a->K + k;
  for (int64_t i = 0; i < count; i += 16) {
    const uint8_t *codes = (const uint8_t *)a->codes + at + i;
    *(f32x16 *)(out + i) = f32_of_e8m0(a->scales[(at + i) / 32]) * f32_of_e4m3(widen_u8(codes));
  }
}

CLONES static void decode_mxfp4(const struct matrix *a, int64_t row, int64_t k, int64_t count, float *out) {
  int64_t at = row * a->K + k;
  for (int64_t i = 0; i < count; i += 16) {
    float half = 0.5f * f32_of_e8m0(a->scales[(at + i) / 32]);
    *(f32x16 *)(out + i) = half * twice_e2m1(nibbles((const uint32_t *)a->codes + (at + i) / 8));
  }
}

CLONES static void decode_nvfp4(const struct matrix *a, int64_t row, int64_t k, int64_t count, float *out) {
  int64_t at = row * a->K + k;
  float tensor_scale = a->tensor_scale[row / a->rows];
  for (int64_t i = 0; i < count; i += 16) {
    float half = 0.5f * (scalar_of_e4m3(a->scales[(at + i) / 16]) * tensor_scale);
    *(f32x16 *)(out + i) = half * twice_e2m1(nibbles((const uint32_t *)a->codes + (at + i) / 8));
  }
}

INLINE float total(const f32x16 *sums) {
  f32x8 half[2];
  memcpy(half, sums, sizeof half);
  half[0] += half[1];
  float s[8];
  memcpy(s, half, sizeof s);
  return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

/* sums[i][j] += a[i] . b[j], `count` a multiple of LANES. */
INLINE void tile(f32x16 *sums, const float *const a[MT], const float *b, int64_t count) {
  f32x16 s[MT][NT];
  for (int i = 0; i < MT; i++)
    for (int j = 0; j < NT; j++) s[i][j] = sums[i * NB + j];
  for (int64_t k = 0; k < count; k += LANES)
    for (int i = 0; i < MT; i++)
      for (int j = 0; j < NT; j++) s[i][j] += *(const f32x16 *)(a[i] + k) * *(const f32x16 *)(b + j * KC + k);
  for (int i = 0; i < MT; i++)
    for (int j = 0; j < NT; j++) sums[i * NB + j] = s[i][j];
}

/* Block i of y: rows beyond the last repeat it and are not stored. */
CLONES static void block(void *arg, size_t i) {
  const struct job *job = arg;
  int64_t across = (job->N + NB - 1) / NB, down = (job->M + MB - 1) / MB;
  int64_t first_n = (int64_t)i % across * NB, first_m = (int64_t)i / across % down * MB;
  int64_t batch = (int64_t)i / across / down;
  int64_t rows = job->M - first_m < MB ? job->M - first_m : MB;
  int64_t columns = job->N - first_n < NB ? job->N - first_n : NB;
  const float *x = job->x + (batch * job->M + first_m) * job->padded;
  int64_t w_row = (job->w_batch > 1 ? batch * job->N : 0) + first_n;
  float w[NB * KC] __attribute__((aligned(64)));
  f32x16 sums[MB * NB] __attribute__((aligned(64)));
  memset(sums, 0, sizeof sums);
  for (int64_t k = 0; k < job->K; k += KC) {
    int64_t count = job->K - k < KC ? job->K - k : KC;
    int64_t padded = (count + LANES - 1) / LANES * LANES;
    for (int64_t n = 0; n < NB; n++) {
      job->w.decode(&job->w, w_row + (n < columns ? n : columns - 1), k, count, w + n * KC);
      for (int64_t j = count; j < padded; j++) w[n * KC + j] = 0;
    }
    for (int64_t m0 = 0; m0 < rows; m0 += MI)
      for (int64_t n = 0; n < NB; n += NT)
        for (int64_t m = m0; m < rows && m < m0 + MI; m += MT) {
          const float *a[MT];
          for (int64_t j = 0; j < MT; j++) a[j] = x + (m + j < rows ? m + j : rows - 1) * job->padded + k;
          tile(sums + m * NB + n, a, w + n * KC, padded);
        }
  }
  for (int64_t m = 0; m < rows; m++)
    for (int64_t n = 0; n < columns; n++)
      job->y[(batch * job->M + first_m + m) * job->N + first_n + n] = bf16_of(total(sums + m * NB + n));
}

/* Row i of x to f32, zeros up to its padded length. */
CLONES static void widen(void *arg, size_t i) {
  const struct job *job = arg;
  float *row = job->wide + (int64_t)i * job->padded;
  job->x_stored.decode(&job->x_stored, (int64_t)i, 0, job->K, row);
  for (int64_t k = job->K; k < job->padded; k++) row[k] = 0;
}

static int run(struct job job, int64_t B, int threads) {
  job.padded = (job.K + LANES - 1) / LANES * LANES;
  job.x = job.wide = aligned_alloc(64, (size_t)(B * job.M * job.padded + LANES) * sizeof *job.wide / 64 * 64);
  if (!job.wide) return 1;
  parallel((size_t)(B * job.M), &job, widen, threads);
  parallel((size_t)(B * ((job.M + MB - 1) / MB) * ((job.N + NB - 1) / NB)), &job, block, threads);
  free(job.wide);
  return 0;
}

/* One matrix's pointers: bad gives the argument, `first` on, that cannot be; 0 is fine. */
static int bad(const struct matrix *a, int first, size_t bytes) {
  if ((!a->codes && a->K) || (uintptr_t)a->codes % bytes) return -first;
  if (a->decode == decode_bf16) return 0;
  if (!a->scales && a->K) return -(first + 1);
  if (a->decode == decode_nvfp4 && (!a->tensor_scale || (uintptr_t)a->tensor_scale % sizeof(float)))
    return -(first + 2);
  return 0;
}

/* `args` pointers come before the sizes. */
static int gemm(struct matrix x, struct matrix w, uint16_t *y, int64_t B, int64_t M, int64_t N, int64_t K,
                int64_t w_batch, int threads, int args) {
  if (B < 0) return -(args + 1);
  if (M < 0) return -(args + 2);
  if (N < 0) return -(args + 3);
  if (K < 0 || K % (w.decode == decode_nvfp4 ? 16 : 32)) return -(args + 4);
  if (w_batch != 1 && w_batch != B) return -(args + 5);
  if (B == 0 || M == 0 || N == 0) return 0;
  int plain = x.decode == decode_bf16;
  int error = bad(&x, 1, plain ? 2 : 4);
  if (!error) error = bad(&w, plain ? 2 : args / 2 + 1, 4);
  if (error) return error;
  if (!y || (uintptr_t)y % sizeof *y) return -args;
  struct job job = {.x_stored = x, .w = w, .y = y, .M = M, .N = N, .K = K, .w_batch = w_batch};
  return run(job, B, threads);
}

int rb_gemm_mxfp8(const uint16_t *x, const uint32_t *w, const uint8_t *w_scales, uint16_t *y, int64_t B,
                  int64_t M, int64_t N, int64_t K, int64_t w_batch, int threads) {
  struct matrix a = {x, NULL, NULL, M, K, decode_bf16}, b = {w, w_scales, NULL, N, K, decode_mxfp8};
  return gemm(a, b, y, B, M, N, K, w_batch, threads, 4);
}

int rb_gemm_mxfp4(const uint16_t *x, const uint32_t *w, const uint8_t *w_scales, uint16_t *y, int64_t B,
                  int64_t M, int64_t N, int64_t K, int64_t w_batch, int threads) {
  struct matrix a = {x, NULL, NULL, M, K, decode_bf16}, b = {w, w_scales, NULL, N, K, decode_mxfp4};
  return gemm(a, b, y, B, M, N, K, w_batch, threads, 4);
}

int rb_gemm_nvfp4(const uint16_t *x, const uint32_t *w, const uint8_t *w_scales, const float *w_tensor_scale,
                  uint16_t *y, int64_t B, int64_t M, int64_t N, int64_t K, int64_t w_batch, int threads) {
  struct matrix a = {x, NULL, NULL, M, K, decode_bf16}, b = {w, w_scales, w_tensor_scale, N, K, decode_nvfp4};
  return gemm(a, b, y, B, M, N, K, w_batch, threads, 5);
}

int rb_gemm_mxfp8_w8a8(const uint32_t *x, const uint8_t *x_scales, const uint32_t *w, const uint8_t *w_scales,
                       uint16_t *y, int64_t B, int64_t M, int64_t N, int64_t K, int64_t w_batch, int threads) {
  struct matrix a = {x, x_scales, NULL, M, K, decode_mxfp8}, b = {w, w_scales, NULL, N, K, decode_mxfp8};
  return gemm(a, b, y, B, M, N, K, w_batch, threads, 5);
}

int rb_gemm_mxfp4_w4a4(const uint32_t *x, const uint8_t *x_scales, const uint32_t *w, const uint8_t *w_scales,
                       uint16_t *y, int64_t B, int64_t M, int64_t N, int64_t K, int64_t w_batch, int threads) {
  struct matrix a = {x, x_scales, NULL, M, K, decode_mxfp4}, b = {w, w_scales, NULL, N, K, decode_mxfp4};
  return gemm(a, b, y, B, M, N, K, w_batch, threads, 5);
}

int rb_gemm_nvfp4_w4a4(const uint32_t *x, const uint8_t *x_scales, const float *x_tensor_scale,
                       const uint32_t *w, const uint8_t *w_scales, const float *w_tensor_scale, uint16_t *y,
                       int64_t B, int64_t M, int64_t N, int64_t K, int64_t w_batch, int threads) {
  struct matrix a = {x, x_scales, x_tensor_scale, M, K, decode_nvfp4},
                b = {w, w_scales, w_tensor_scale, N, K, decode_nvfp4};
  return gemm(a, b, y, B, M, N, K, w_batch, threads, 7);
}
