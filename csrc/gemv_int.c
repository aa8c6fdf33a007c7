/* SPDX-License-Identifier: MIT */
/* GEMV for decode with int8 or int4 weights in groups of 64: y (M, N) = x (M, K) @ (s * q + b).T.
 * x, y bf16; codes packed from the lowest bits of each word up (MLX's packing): w (N, K / 4) for int8,
 * (N, K / 8) for int4; w_scales, w_biases (N, K / 64) bf16; f32 sums.
 *
 * Standalone C11 with the vector extensions of GCC and Clang: cc -O3 -fopenmp -c gemv_int.c. Threads are
 * OpenMP's, libdispatch's on macOS, else one.
 * Memory-bound: reads w once. A row is decoded CHUNK weights at a time and multiplied with up to TOKENS
 * rows of x, which were widened once and stay in cache.
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
  GROUP = 64,   /* weights that share a scale and a bias */
};

typedef float f32x16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef float f32x8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef uint32_t u32x16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint64_t u64x8 __attribute__((vector_size(64), aligned(8), may_alias));
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
  const float *x;           /* (tokens, K) */
  const uint32_t *w;        /* (N, K * bits / 32) */
  const uint16_t *w_scales; /* (N, K / GROUP) */
  const uint16_t *w_biases; /* (N, K / GROUP) */
  uint16_t *y;              /* (tokens, N) */
  int64_t tokens, N, K;
  int bits;
};

INLINE u32x16 widen_u8(const uint8_t *codes) {
  return __builtin_convertvector(__builtin_convertvector(*(const u8x16 *)codes, u16x16), u32x16);
}

/* Codes of one group to s * q + b. */
INLINE void decode8(const uint32_t *w, float s, float b, float *out) {
  for (int i = 0; i < GROUP; i += 16) {
    u32x16 q = widen_u8((const uint8_t *)w + i);
    *(f32x16 *)(out + i) = s * __builtin_convertvector(q, f32x16) + b;
  }
}

/* Sixteen four-bit codes from two words, the first in the lowest bits; for little-endian chips. */
INLINE u32x16 nibbles(const uint32_t *w) {
  const u64x8 shift = {0, 8, 16, 24, 32, 40, 48, 56};
  uint64_t words;
  memcpy(&words, w, sizeof words);
  u64x8 pairs = ((u64x8){0} + words) >> shift; /* two codes in each lowest byte */
  return (u32x16)((pairs & 0x0f) | (pairs & 0xf0) << 28);
}

INLINE void decode4(const uint32_t *w, float s, float b, float *out) {
  for (int i = 0; i < GROUP; i += 16)
    *(f32x16 *)(out + i) = s * __builtin_convertvector(nibbles(w + i / 8), f32x16) + b;
}

CLONES static void decode(const struct job *job, int64_t n, int64_t k, int64_t count, float *out) {
  int64_t group = (n * job->K + k) / GROUP;
  for (int64_t i = 0; i < count; i += GROUP, group++) {
    float s = f32_of_bf16(job->w_scales[group]), b = f32_of_bf16(job->w_biases[group]);
    if (job->bits == 4)
      decode4(job->w + group * (GROUP / 8), s, b, out + i);
    else
      decode8(job->w + group * (GROUP / 4), s, b, out + i);
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
      decode(job, n, k, count, buffer);
      for (int64_t m = 0; m < job->tokens; m++) dot(&sums[m], buffer, job->x + m * K + k, count);
    }
    for (int64_t m = 0; m < job->tokens; m++) job->y[m * job->N + n] = bf16_of(total(&sums[m]));
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

static int gemv(const uint16_t *x, const uint32_t *w, const uint16_t *w_scales, const uint16_t *w_biases,
                uint16_t *y, int64_t M, int64_t N, int64_t K, int threads, int bits) {
  if (M < 0) return -6;
  if (N < 0) return -7;
  if (K < 0 || K % GROUP) return -8;
  if (M == 0 || N == 0) return 0;
  if ((!x && K) || (uintptr_t)x % sizeof *x) return -1;
  if ((!w && K) || (uintptr_t)w % sizeof *w) return -2;
  if ((!w_scales && K) || (uintptr_t)w_scales % sizeof *w_scales) return -3;
  if ((!w_biases && K) || (uintptr_t)w_biases % sizeof *w_biases) return -4;
  if (!y || (uintptr_t)y % sizeof *y) return -5;
  struct job job = {.w = w, .w_scales = w_scales, .w_biases = w_biases, .N = N, .K = K, .bits = bits};
  return run(job, x, y, M, threads);
}

int rb_gemv_int8(const uint16_t *x, const uint32_t *w, const uint16_t *w_scales, const uint16_t *w_biases,
                 uint16_t *y, int64_t M, int64_t N, int64_t K, int threads) {
  return gemv(x, w, w_scales, w_biases, y, M, N, K, threads, 8);
}

int rb_gemv_int4(const uint16_t *x, const uint32_t *w, const uint16_t *w_scales, const uint16_t *w_biases,
                 uint16_t *y, int64_t M, int64_t N, int64_t K, int threads) {
  return gemv(x, w, w_scales, w_biases, y, M, N, K, threads, 4);
}
