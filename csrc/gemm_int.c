/* SPDX-License-Identifier: MIT */
/* GEMM for prefill with int8 or int4 weights in groups of 64: y = x @ (s * q + b).T.
 * x (B, M, K), y (B, M, N) bf16; codes packed from the lowest bits of each word up (MLX's packing):
 * w (w_batch, N, K / 4) for int8, (w_batch, N, K / 8) for int4; w_scales, w_biases (w_batch, N, K / 64) bf16;
 * f32 sums. One w for the whole batch (w_batch 1) or one each (w_batch B).
 *
 * Standalone C11 with the vector extensions of GCC and Clang: cc -O3 -fopenmp -c gemm_int.c. Threads are
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
  KC = 512,   /* sums, w and x of a block stay in L2 */
  GROUP = 64, /* weights that share a scale and a bias */
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
  const uint16_t *scales, *biases; /* one per GROUP */
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

CLONES static void decode_int8(const struct matrix *a, int64_t row, int64_t k, int64_t count, float *out) {
  int64_t at = row * a->K + k;
  for (int64_t i = 0; i < count; i += 16) {
    float s = f32_of_bf16(a->scales[(at + i) / GROUP]), b = f32_of_bf16(a->biases[(at + i) / GROUP]);
    u32x16 q = widen_u8((const uint8_t *)a->codes + at + i);
    *(f32x16 *)(out + i) = s * __builtin_convertvector(q, f32x16) + b;
  }
}

CLONES static void decode_int4(const struct matrix *a, int64_t row, int64_t k, int64_t count, float *out) {
  int64_t at = row * a->K + k;
  for (int64_t i = 0; i < count; i += 16) {
    float s = f32_of_bf16(a->scales[(at + i) / GROUP]), b = f32_of_bf16(a->biases[(at + i) / GROUP]);
    u32x16 q = nibbles((const uint32_t *)a->codes + (at + i) / 8);
    *(f32x16 *)(out + i) = s * __builtin_convertvector(q, f32x16) + b;
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

static int gemm(const uint16_t *x, const uint32_t *w, const uint16_t *w_scales, const uint16_t *w_biases,
                uint16_t *y, int64_t B, int64_t M, int64_t N, int64_t K, int64_t w_batch, int threads,
                decode_fn *decode) {
  if (B < 0) return -6;
  if (M < 0) return -7;
  if (N < 0) return -8;
  if (K < 0 || K % GROUP) return -9;
  if (w_batch != 1 && w_batch != B) return -10;
  if (B == 0 || M == 0 || N == 0) return 0;
  if ((!x && K) || (uintptr_t)x % sizeof *x) return -1;
  if ((!w && K) || (uintptr_t)w % sizeof *w) return -2;
  if ((!w_scales && K) || (uintptr_t)w_scales % sizeof *w_scales) return -3;
  if ((!w_biases && K) || (uintptr_t)w_biases % sizeof *w_biases) return -4;
  if (!y || (uintptr_t)y % sizeof *y) return -5;
  struct job job = {.x_stored = {x, NULL, NULL, K, decode_bf16},
                    .w = {w, w_scales, w_biases, K, decode},
                    .y = y,
                    .M = M,
                    .N = N,
                    .K = K,
                    .w_batch = w_batch};
  return run(job, B, threads);
}

int rb_gemm_int8(const uint16_t *x, const uint32_t *w, const uint16_t *w_scales, const uint16_t *w_biases,
                 uint16_t *y, int64_t B, int64_t M, int64_t N, int64_t K, int64_t w_batch, int threads) {
  return gemm(x, w, w_scales, w_biases, y, B, M, N, K, w_batch, threads, decode_int8);
}

int rb_gemm_int4(const uint16_t *x, const uint32_t *w, const uint16_t *w_scales, const uint16_t *w_biases,
                 uint16_t *y, int64_t B, int64_t M, int64_t N, int64_t K, int64_t w_batch, int threads) {
  return gemm(x, w, w_scales, w_biases, y, B, M, N, K, w_batch, threads, decode_int4);
}
