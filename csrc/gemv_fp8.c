/* SPDX-License-Identifier: MIT */
/* GEMV for decode with fp8 weights: y (M, N) = x (M, K) @ (w * w_scales).T.
 * x, y bf16; w (N, K) e4m3, w_scales (N,) f32; f32 sums.
 *
 * Standalone C11 with the vector extensions of GCC and Clang: cc -O3 -fopenmp -c gemv_fp8.c. Threads are
 * OpenMP's, libdispatch's on macOS, else one.
 * Memory-bound: reads w once. A row is decoded CHUNK weights at a time and multiplied with up to TOKENS
 * rows of x, which were widened once and stay in cache; the row's scale comes last.
 * Longest chain of additions: CHUNK / 64 + 8 within a chunk, then one per chunk.
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
  CHUNK = 1024, /* weights: 4 KB of f32, a fraction of any L1 */
  TOKENS = 16,  /* rows of x that share one pass over w */
  ROWS = 16,    /* rows of w that a thread takes at a time */
};

typedef float f32x16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef float f32x8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef uint32_t u32x16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint16_t u16x16 __attribute__((vector_size(32), aligned(2), may_alias));
typedef uint8_t u8x16 __attribute__((vector_size(16), aligned(1), may_alias));

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

static void widen_x(const uint16_t *x, int64_t n, float *wide) {
  for (int64_t i = 0; i < n; i++) wide[i] = f32_of_bf16(x[i]);
}

/* Adds 16 partial sums of a . b. */
INLINE void dot(f32x16 *sums, const float *a, const float *b, int64_t n) {
  f32x16 s[4] = {{0}};
  int64_t i = 0;
  for (; i + 64 <= n; i += 64)
    for (int j = 0; j < 4; j++) s[j] += *(const f32x16 *)(a + i + 16 * j) * *(const f32x16 *)(b + i + 16 * j);
  for (; i + 16 <= n; i += 16) s[0] += *(const f32x16 *)(a + i) * *(const f32x16 *)(b + i);
  if (i < n) {
    f32x16 u = {0}, v = {0};
    memcpy(&u, a + i, (size_t)(n - i) * sizeof *a);
    memcpy(&v, b + i, (size_t)(n - i) * sizeof *b);
    s[1] += u * v;
  }
  *sums += (s[0] + s[1]) + (s[2] + s[3]);
}

INLINE float total(const f32x16 *sums) {
  f32x8 half[2];
  memcpy(half, sums, sizeof half);
  half[0] += half[1];
  float s[8];
  memcpy(s, half, sizeof s);
  return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

struct job {
  const float *x;        /* (tokens, K) */
  const uint8_t *w;      /* (N, K) */
  const float *w_scales; /* (N,) */
  uint16_t *y;           /* (tokens, N) */
  int64_t tokens, N, K;
};

CLONES static void decode(const uint8_t *w, int64_t n, float *out) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) *(f32x16 *)(out + i) = f32_of_e4m3(widen_u8(w + i));
  if (i < n) {
    uint8_t tail[16] = {0};
    memcpy(tail, w + i, (size_t)(n - i));
    f32x16 values = f32_of_e4m3(widen_u8(tail));
    memcpy(out + i, &values, (size_t)(n - i) * sizeof *out);
  }
}

CLONES static void rows(void *arg, size_t block) {
  const struct job *job = arg;
  int64_t K = job->K, first = (int64_t)block * ROWS;
  int64_t last = first + ROWS < job->N ? first + ROWS : job->N;
  float buffer[CHUNK] __attribute__((aligned(64)));
  for (int64_t n = first; n < last; n++) {
    f32x16 sums[TOKENS] = {{0}};
    for (int64_t k = 0; k < K; k += CHUNK) {
      int64_t count = K - k < CHUNK ? K - k : CHUNK;
      decode(job->w + n * K + k, count, buffer);
      for (int64_t m = 0; m < job->tokens; m++) dot(&sums[m], buffer, job->x + m * K + k, count);
    }
    for (int64_t m = 0; m < job->tokens; m++)
      job->y[m * job->N + n] = bf16_of(total(&sums[m]) * job->w_scales[n]);
  }
}

/* Widens x and runs the rows, TOKENS tokens at a time. */
static int run(struct job job, const uint16_t *x, uint16_t *y, int64_t M, int threads) {
  float *wide = malloc((size_t)(M * job.K + 1) * sizeof *wide);
  if (!wide) return 1;
  widen_x(x, M * job.K, wide);
  for (int64_t m = 0; m < M; m += TOKENS) {
    job.x = wide + m * job.K;
    job.y = y + m * job.N;
    job.tokens = M - m < TOKENS ? M - m : TOKENS;
    parallel((size_t)((job.N + ROWS - 1) / ROWS), &job, rows, threads);
  }
  free(wide);
  return 0;
}

int rb_gemv_fp8(const uint16_t *x, const uint8_t *w, const float *w_scales, uint16_t *y, int64_t M, int64_t N,
                int64_t K, int threads) {
  if (M < 0) return -5;
  if (N < 0) return -6;
  if (K < 0) return -7;
  if (M == 0 || N == 0) return 0;
  if ((!x && K) || (uintptr_t)x % sizeof *x) return -1;
  if (!w && K) return -2;
  if (!w_scales || (uintptr_t)w_scales % sizeof *w_scales) return -3;
  if (!y || (uintptr_t)y % sizeof *y) return -4;
  struct job job = {.w = w, .w_scales = w_scales, .N = N, .K = K};
  return run(job, x, y, M, threads);
}
