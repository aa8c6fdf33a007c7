/* SPDX-License-Identifier: MIT */
/* GEMM for prefill: y (B, M, N) = x (B, M, K) @ w (w_batch, N, K).T; f32, f16 or bf16, f32 sums.
 * One w for the whole batch (w_batch 1) or one each (w_batch B).
 *
 * Standalone C11 with the vector extensions of GCC and Clang: cc -O3 -fopenmp -c gemm.c. Threads are
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
typedef uint16_t u16x16 __attribute__((vector_size(32), aligned(2), may_alias));

struct matrix;
/* Decodes `count` values of a row from column k on. */
typedef void decode_fn(const struct matrix *a, int64_t row, int64_t k, int64_t count, float *out);
typedef void store_fn(void *y, int64_t i, float value);

/* A stored matrix of rows K long. */
struct matrix {
  const void *codes;
  int64_t K;
  decode_fn *decode;
};

struct job {
  struct matrix x_stored, w;
  float *wide;    /* x, decoded: (B * M, padded) */
  const float *x; /* the same, to read */
  void *y;        /* (B, M, N) */
  store_fn *store;
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

INLINE u32x16 bf16_bits(u32x16 h) { return h << 16; }

/* Exact for every f16: rebias the exponent, twice for infinities and NaN; subnormals by a subtraction. */
INLINE u32x16 f16_bits(u32x16 h) {
  u32x16 sign = (h & 0x8000) << 16, bits = (h & 0x7fff) << 13;
  u32x16 large = (u32x16)(bits >= 0x0f800000), small = (u32x16)(bits < 0x00800000);
  u32x16 normal = bits + 0x38000000 + (large & 0x38000000);
  f32x16 subnormal = (f32x16)(bits + 0x38800000) - 0x1p-14f;
  return sign | (small & (u32x16)subnormal) | (~small & normal);
}

CLONES static void decode_f32(const struct matrix *a, int64_t row, int64_t k, int64_t count, float *out) {
  memcpy(out, (const float *)a->codes + row * a->K + k, (size_t)count * sizeof *out);
}

#define DECODE_HALF(NAME, BITS)                                                                        \
  CLONES static void NAME(const struct matrix *a, int64_t row, int64_t k, int64_t count, float *out) { \
    const uint16_t *h = (const uint16_t *)a->codes + row * a->K + k;                                   \
    int64_t i = 0;                                                                                     \
    for (; i + 16 <= count; i += 16)                                                                   \
      *(u32x16 *)(out + i) = BITS(__builtin_convertvector(*(const u16x16 *)(h + i), u32x16));          \
    if (i < count) {                                                                                   \
      uint16_t tail[16] = {0};                                                                         \
      memcpy(tail, h + i, (size_t)(count - i) * sizeof *tail);                                         \
      u32x16 bits = BITS(__builtin_convertvector(*(const u16x16 *)tail, u32x16));                      \
      memcpy(out + i, &bits, (size_t)(count - i) * sizeof *out);                                       \
    }                                                                                                  \
  }
DECODE_HALF(decode_bf16, bf16_bits)
DECODE_HALF(decode_f16, f16_bits)

static void store_f32(void *y, int64_t i, float value) { ((float *)y)[i] = value; }

/* Nearest even; a NaN keeps its sign and becomes quiet. */
static void store_bf16(void *y, int64_t i, float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  ((uint16_t *)y)[i] = (uint16_t)(value != value ? bits >> 16 | 0x40 : rounded);
}

static void store_f16(void *y, int64_t i, float value) {
  uint32_t bits, sign;
  memcpy(&bits, &value, sizeof bits);
  sign = bits >> 16 & 0x8000;
  bits &= 0x7fffffff;
  uint32_t h;
  if (bits > 0x7f800000) {
    h = 0x7e00;
  } else if (bits >= 0x477ff000) { /* 65520 and more round to infinity */
    h = 0x7c00;
  } else if (bits < 0x38800000) { /* subnormal: the addition rounds to a multiple of 2^-24 */
    float shifted;
    memcpy(&shifted, &bits, sizeof shifted);
    shifted += 0.5f;
    memcpy(&h, &shifted, sizeof h);
    h -= 0x3f000000;
  } else {
    h = (bits - 0x38000000 + 0xfff + (bits >> 13 & 1)) >> 13;
  }
  ((uint16_t *)y)[i] = (uint16_t)(sign | h);
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
      job->store(job->y, (batch * job->M + first_m + m) * job->N + first_n + n, total(sums + m * NB + n));
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

/* `bytes` is the size of an element of x, w and y. */
static int gemm(const void *x, const void *w, void *y, int64_t B, int64_t M, int64_t N, int64_t K,
                int64_t w_batch, int threads, size_t bytes, decode_fn *decode, store_fn *store) {
  if (B < 0) return -4;
  if (M < 0) return -5;
  if (N < 0) return -6;
  if (K < 0) return -7;
  if (w_batch != 1 && w_batch != B) return -8;
  if (B == 0 || M == 0 || N == 0) return 0;
  if ((!x && K) || (uintptr_t)x % bytes) return -1;
  if ((!w && K) || (uintptr_t)w % bytes) return -2;
  if (!y || (uintptr_t)y % bytes) return -3;
  struct job job = {.x_stored = {x, K, decode},
                    .w = {w, K, decode},
                    .y = y,
                    .store = store,
                    .M = M,
                    .N = N,
                    .K = K,
                    .w_batch = w_batch};
  return run(job, B, threads);
}

int rb_gemm_f32(const float *x, const float *w, float *y, int64_t B, int64_t M, int64_t N, int64_t K,
                int64_t w_batch, int threads) {
  return gemm(x, w, y, B, M, N, K, w_batch, threads, sizeof *x, decode_f32, store_f32);
}

int rb_gemm_f16(const uint16_t *x, const uint16_t *w, uint16_t *y, int64_t B, int64_t M, int64_t N, int64_t K,
                int64_t w_batch, int threads) {
  return gemm(x, w, y, B, M, N, K, w_batch, threads, sizeof *x, decode_f16, store_f16);
}

int rb_gemm_bf16(const uint16_t *x, const uint16_t *w, uint16_t *y, int64_t B, int64_t M, int64_t N, int64_t K,
                 int64_t w_batch, int threads) {
  return gemm(x, w, y, B, M, N, K, w_batch, threads, sizeof *x, decode_bf16, store_bf16);
}
