/* SPDX-License-Identifier: MIT */
/* GEMV for decode: y (M, N) = x (M, K) @ w (N, K).T; f32, f16 or bf16, w row-major, f32 sums.
 *
 * Standalone C11 with the vector extensions of GCC and Clang: cc -O3 -fopenmp -c gemv.c. Threads are
 * OpenMP's, libdispatch's on macOS, else one.
 * Memory-bound: reads w once. A row of w is widened to f32 CHUNK weights at a time and multiplied with
 * up to TOKENS rows of x, which were widened once and stay in cache.
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

typedef void widen_fn(const void *src, int64_t first, int64_t n, float *dst);
typedef void store_fn(void *y, int64_t i, float value);

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

#define WIDEN(NAME, BITS)                                                                     \
  CLONES static void NAME(const void *src, int64_t first, int64_t n, float *dst) {            \
    const uint16_t *h = (const uint16_t *)src + first;                                        \
    int64_t i = 0;                                                                            \
    for (; i + 16 <= n; i += 16)                                                              \
      *(u32x16 *)(dst + i) = BITS(__builtin_convertvector(*(const u16x16 *)(h + i), u32x16)); \
    if (i < n) {                                                                              \
      uint16_t tail[16] = {0};                                                                \
      memcpy(tail, h + i, (size_t)(n - i) * sizeof *tail);                                    \
      u32x16 bits = BITS(__builtin_convertvector(*(const u16x16 *)tail, u32x16));             \
      memcpy(dst + i, &bits, (size_t)(n - i) * sizeof *dst);                                  \
    }                                                                                         \
  }
WIDEN(widen_bf16, bf16_bits)
WIDEN(widen_f16, f16_bits)

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
  const float *x; /* (tokens, K) */
  const void *w;  /* (N, K) */
  void *y;        /* (tokens, N) */
  int64_t tokens, N, K;
  widen_fn *widen; /* NULL where w is f32 */
  store_fn *store;
};

CLONES static void rows(void *arg, size_t block) {
  const struct job *job = arg;
  int64_t K = job->K, first = (int64_t)block * ROWS;
  int64_t last = first + ROWS < job->N ? first + ROWS : job->N;
  float buffer[CHUNK] __attribute__((aligned(64)));
  for (int64_t n = first; n < last; n++) {
    f32x16 sums[TOKENS] = {{0}};
    for (int64_t k = 0; k < K; k += CHUNK) {
      int64_t count = K - k < CHUNK ? K - k : CHUNK;
      const float *w = buffer;
      if (job->widen)
        job->widen(job->w, n * K + k, count, buffer);
      else
        w = (const float *)job->w + n * K + k;
      for (int64_t m = 0; m < job->tokens; m++) dot(&sums[m], w, job->x + m * K + k, count);
    }
    for (int64_t m = 0; m < job->tokens; m++) job->store(job->y, m * job->N + n, total(&sums[m]));
  }
}

/* `bytes` is the size of an element of x, w and y. */
static int gemv(const void *x, const void *w, void *y, int64_t M, int64_t N, int64_t K, int threads,
                size_t bytes, widen_fn *widen, store_fn *store) {
  if (M < 0) return -4;
  if (N < 0) return -5;
  if (K < 0) return -6;
  if (M == 0 || N == 0) return 0;
  if ((!x && K) || (uintptr_t)x % bytes) return -1;
  if ((!w && K) || (uintptr_t)w % bytes) return -2;
  if (!y || (uintptr_t)y % bytes) return -3;
  float *wide = NULL;
  if (widen && K) {
    wide = malloc((size_t)M * (size_t)K * sizeof *wide);
    if (!wide) return 1;
    widen(x, 0, M * K, wide);
  }
  struct job job = {.w = w, .N = N, .K = K, .widen = widen, .store = store};
  for (int64_t m = 0; m < M; m += TOKENS) {
    job.x = (wide ? wide : (const float *)x) + m * K;
    job.y = (char *)y + (size_t)(m * N) * bytes;
    job.tokens = M - m < TOKENS ? M - m : TOKENS;
    parallel((size_t)((N + ROWS - 1) / ROWS), &job, rows, threads);
  }
  free(wide);
  return 0;
}

int rb_gemv_f32(const float *x, const float *w, float *y, int64_t M, int64_t N, int64_t K, int threads) {
  return gemv(x, w, y, M, N, K, threads, sizeof *x, NULL, store_f32);
}

int rb_gemv_f16(const uint16_t *x, const uint16_t *w, uint16_t *y, int64_t M, int64_t N, int64_t K,
                int threads) {
  return gemv(x, w, y, M, N, K, threads, sizeof *x, widen_f16, store_f16);
}

int rb_gemv_bf16(const uint16_t *x, const uint16_t *w, uint16_t *y, int64_t M, int64_t N, int64_t K,
                 int threads) {
  return gemv(x, w, y, M, N, K, threads, sizeof *x, widen_bf16, store_bf16);
}
