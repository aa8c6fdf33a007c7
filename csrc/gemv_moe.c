/* SPDX-License-Identifier: MIT */
/* GEMV of a mixture of experts, for decode: y[m, j] = w[expert_ids[m, j]] @ x[m, j or 0].
 * x (M, x_slots, K) with x_slots 1 or top_k, expert_ids (M, top_k), y (M, top_k, N); f32 sums.
 *   f32, f16, bf16  w (E, N, K), x and y of the same type; x and y of all others are bf16
 *   fp8             w (E, N, K) e4m3,      w_scales (E, N) f32
 *   int8, int4      w (E, N, K * bits / 32), w_scales, w_biases (E, N, K / 64) bf16
 *   mxfp8, mxfp4    w (E, N, K * bits / 32), w_scales (E, N, K / 32) e8m0
 *   nvfp4           w (E, N, K / 8),         w_scales (E, N, K / 16) e4m3, w_tensor_scale (E,) f32
 * Codes are packed from the lowest bits of each word up (MLX's packing).
 *
 * Standalone C11 with the vector extensions of GCC and Clang: cc -O3 -fopenmp -c gemv_moe.c. Threads are
 * OpenMP's, libdispatch's on macOS, else one.
 * Memory-bound: reads each visited expert once per visit. Threads share out (token, slot, ROWS rows); a row
 * is decoded CHUNK weights at a time and multiplied with its x, which was widened once.
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
  ROWS = 16,    /* rows of w that a thread takes at a time */
};

typedef float f32x16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef float f32x8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef uint32_t u32x16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint16_t u16x16 __attribute__((vector_size(32), aligned(2), may_alias));
typedef uint64_t u64x8 __attribute__((vector_size(64), aligned(8), may_alias));
typedef uint8_t u8x16 __attribute__((vector_size(16), aligned(1), may_alias));

struct job;
/* Decodes `count` weights from weight `at` of all E * N * K on. */
typedef void decode_fn(const struct job *job, int64_t at, int64_t count, float *out);
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

static float f32_of_bf16(uint16_t h) {
  uint32_t bits = (uint32_t)h << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
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
  const float *x; /* (M, x_slots, K) */
  const void *w;  /* (E, N, K), stored */
  const void *w_scales;
  const uint16_t *w_biases;
  const float *w_tensor_scale;
  const int32_t *expert_ids; /* (M, top_k) */
  void *y;                   /* (M, top_k, N) */
  int64_t N, K, top_k, x_slots;
  decode_fn *decode;
  store_fn *store;
};

CLONES static void decode_f32(const struct job *job, int64_t at, int64_t count, float *out) {
  memcpy(out, (const float *)job->w + at, (size_t)count * sizeof *out);
}

#define DECODE_HALF(NAME, BITS)                                                               \
  CLONES static void NAME(const struct job *job, int64_t at, int64_t count, float *out) {     \
    const uint16_t *h = (const uint16_t *)job->w + at;                                        \
    int64_t i = 0;                                                                            \
    for (; i + 16 <= count; i += 16)                                                          \
      *(u32x16 *)(out + i) = BITS(__builtin_convertvector(*(const u16x16 *)(h + i), u32x16)); \
    if (i < count) {                                                                          \
      uint16_t tail[16] = {0};                                                                \
      memcpy(tail, h + i, (size_t)(count - i) * sizeof *tail);                                \
      u32x16 bits = BITS(__builtin_convertvector(*(const u16x16 *)tail, u32x16));             \
      memcpy(out + i, &bits, (size_t)(count - i) * sizeof *out);                              \
    }                                                                                         \
  }
DECODE_HALF(decode_bf16, bf16_bits)
DECODE_HALF(decode_f16, f16_bits)

CLONES static void decode_fp8(const struct job *job, int64_t at, int64_t count, float *out) {
  const uint8_t *c = (const uint8_t *)job->w + at;
  float scale = ((const float *)job->w_scales)[at / job->K];
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) *(f32x16 *)(out + i) = scale * f32_of_e4m3(widen_u8(c + i));
  if (i < count) {
    uint8_t tail[16] = {0};
    memcpy(tail, c + i, (size_t)(count - i));
    f32x16 values = scale * f32_of_e4m3(widen_u8(tail));
    memcpy(out + i, &values, (size_t)(count - i) * sizeof *out);
  }
}

CLONES static void decode_int8(const struct job *job, int64_t at, int64_t count, float *out) {
  for (int64_t i = 0; i < count; i += 16) {
    int64_t group = (at + i) / 64;
    float s = f32_of_bf16(((const uint16_t *)job->w_scales)[group]), b = f32_of_bf16(job->w_biases[group]);
    u32x16 q = widen_u8((const uint8_t *)job->w + at + i);
    *(f32x16 *)(out + i) = s * __builtin_convertvector(q, f32x16) + b;
  }
}

CLONES static void decode_int4(const struct job *job, int64_t at, int64_t count, float *out) {
  for (int64_t i = 0; i < count; i += 16) {
    int64_t group = (at + i) / 64;
    float s = f32_of_bf16(((const uint16_t *)job->w_scales)[group]), b = f32_of_bf16(job->w_biases[group]);
    u32x16 q = nibbles((const uint32_t *)job->w + (at + i) / 8);
    *(f32x16 *)(out + i) = s * __builtin_convertvector(q, f32x16) + b;
  }
}

CLONES static void decode_mxfp8(const struct job *job, int64_t at, int64_t count, float *out) {
  for (int64_t i = 0; i < count; i += 16) {
    float scale = f32_of_e8m0(((const uint8_t *)job->w_scales)[(at + i) / 32]);
    const uint8_t *codes = (const uint8_t *)job->w + at + i;
    *(f32x16 *)(out + i) = scale * f32_of_e4m3(widen_u8(codes));
  }
}

CLONES static void decode_mxfp4(const struct job *job, int64_t at, int64_t count, float *out) {
  for (int64_t i = 0; i < count; i += 16) {
    float half = 0.5f * f32_of_e8m0(((const uint8_t *)job->w_scales)[(at + i) / 32]);
    *(f32x16 *)(out + i) = half * twice_e2m1(nibbles((const uint32_t *)job->w + (at + i) / 8));
  }
}

CLONES static void decode_nvfp4(const struct job *job, int64_t at, int64_t count, float *out) {
  float tensor_scale = job->w_tensor_scale[at / (job->N * job->K)];
  for (int64_t i = 0; i < count; i += 16) {
    float half = 0.5f * (scalar_of_e4m3(((const uint8_t *)job->w_scales)[(at + i) / 16]) * tensor_scale);
    *(f32x16 *)(out + i) = half * twice_e2m1(nibbles((const uint32_t *)job->w + (at + i) / 8));
  }
}

/* Task i is ROWS rows of the expert of one (token, slot). */
CLONES static void rows(void *arg, size_t i) {
  const struct job *job = arg;
  int64_t K = job->K, blocks = (job->N + ROWS - 1) / ROWS;
  int64_t visit = (int64_t)i / blocks, first = (int64_t)i % blocks * ROWS;
  int64_t last = first + ROWS < job->N ? first + ROWS : job->N;
  int64_t token = visit / job->top_k, slot = visit % job->top_k;
  const float *x = job->x + (token * job->x_slots + (job->x_slots > 1 ? slot : 0)) * K;
  int64_t expert = job->expert_ids[visit];
  float buffer[CHUNK] __attribute__((aligned(64)));
  for (int64_t n = first; n < last; n++) {
    f32x16 sums = {0};
    for (int64_t k = 0; k < K; k += CHUNK) {
      int64_t count = K - k < CHUNK ? K - k : CHUNK;
      job->decode(job, (expert * job->N + n) * K + k, count, buffer);
      dot(&sums, buffer, x + k, count);
    }
    job->store(job->y, visit * job->N + n, total(&sums));
  }
}

struct sizes {
  int64_t M, N, K, E, top_k, x_slots;
};

/* Arguments are numbered as in the prototypes: x, w, scales and the like (`weights` of them), expert_ids,
 * y, then the sizes. `bytes` is the size of an element of x and y, `group` what K must be a multiple of. */
static int moe(struct job job, const void *x, struct sizes d, int threads, int weights, size_t bytes,
               size_t w_bytes, size_t scale_bytes, int64_t group) {
  int sizes = 3 + weights;
  if (d.M < 0) return -(sizes + 1);
  if (d.N < 0) return -(sizes + 2);
  if (d.K < 0 || d.K % group) return -(sizes + 3);
  if (d.E < 1) return -(sizes + 4);
  if (d.top_k < 1) return -(sizes + 5);
  if (d.x_slots != 1 && d.x_slots != d.top_k) return -(sizes + 6);
  if (d.M == 0 || d.N == 0) return 0;
  if ((!x && d.K) || (uintptr_t)x % bytes) return -1;
  if ((!job.w && d.K) || (uintptr_t)job.w % w_bytes) return -2;
  if (weights > 1 && ((!job.w_scales && d.K) || (uintptr_t)job.w_scales % scale_bytes)) return -3;
  const void *third = job.w_biases ? (const void *)job.w_biases : (const void *)job.w_tensor_scale;
  if (weights > 2 && (!third || (uintptr_t)third % (job.w_biases ? 2 : 4))) return -4;
  if (!job.expert_ids || (uintptr_t)job.expert_ids % sizeof *job.expert_ids) return -(sizes - 1);
  for (int64_t i = 0; i < d.M * d.top_k; i++)
    if (job.expert_ids[i] < 0 || job.expert_ids[i] >= d.E) return -(sizes - 1);
  if (!job.y || (uintptr_t)job.y % bytes) return -sizes;
  int64_t count = d.M * d.x_slots * d.K;
  float *wide = malloc((size_t)(count + 1) * sizeof *wide);
  if (!wide) return 1;
  struct job input = {.w = x, .K = d.K, .N = 1};
  (job.store == store_f32   ? decode_f32
   : job.store == store_f16 ? decode_f16
                            : decode_bf16)(&input, 0, count, wide);
  job.x = wide;
  job.N = d.N, job.K = d.K, job.top_k = d.top_k, job.x_slots = d.x_slots;
  parallel((size_t)(d.M * d.top_k * ((d.N + ROWS - 1) / ROWS)), &job, rows, threads);
  free(wide);
  return 0;
}

int rb_gemv_moe_f32(const float *x, const float *w, const int32_t *expert_ids, float *y, int64_t M, int64_t N,
                    int64_t K, int64_t E, int64_t top_k, int64_t x_slots, int threads) {
  struct job job = {.w = w, .expert_ids = expert_ids, .y = y, .decode = decode_f32, .store = store_f32};
  return moe(job, x, (struct sizes){M, N, K, E, top_k, x_slots}, threads, 1, 4, 4, 1, 1);
}

int rb_gemv_moe_f16(const uint16_t *x, const uint16_t *w, const int32_t *expert_ids, uint16_t *y, int64_t M,
                    int64_t N, int64_t K, int64_t E, int64_t top_k, int64_t x_slots, int threads) {
  struct job job = {.w = w, .expert_ids = expert_ids, .y = y, .decode = decode_f16, .store = store_f16};
  return moe(job, x, (struct sizes){M, N, K, E, top_k, x_slots}, threads, 1, 2, 2, 1, 1);
}

int rb_gemv_moe_bf16(const uint16_t *x, const uint16_t *w, const int32_t *expert_ids, uint16_t *y, int64_t M,
                     int64_t N, int64_t K, int64_t E, int64_t top_k, int64_t x_slots, int threads) {
  struct job job = {.w = w, .expert_ids = expert_ids, .y = y, .decode = decode_bf16, .store = store_bf16};
  return moe(job, x, (struct sizes){M, N, K, E, top_k, x_slots}, threads, 1, 2, 2, 1, 1);
}

int rb_gemv_moe_fp8(const uint16_t *x, const uint8_t *w, const float *w_scales, const int32_t *expert_ids,
                    uint16_t *y, int64_t M, int64_t N, int64_t K, int64_t E, int64_t top_k, int64_t x_slots,
                    int threads) {
  struct job job = {.w = w,
                    .w_scales = w_scales,
                    .expert_ids = expert_ids,
                    .y = y,
                    .decode = decode_fp8,
                    .store = store_bf16};
  return moe(job, x, (struct sizes){M, N, K, E, top_k, x_slots}, threads, 2, 2, 1, 4, 1);
}

int rb_gemv_moe_int8(const uint16_t *x, const uint32_t *w, const uint16_t *w_scales, const uint16_t *w_biases,
                     const int32_t *expert_ids, uint16_t *y, int64_t M, int64_t N, int64_t K, int64_t E,
                     int64_t top_k, int64_t x_slots, int threads) {
  struct job job = {.w = w,
                    .w_scales = w_scales,
                    .w_biases = w_biases,
                    .expert_ids = expert_ids,
                    .y = y,
                    .decode = decode_int8,
                    .store = store_bf16};
  return moe(job, x, (struct sizes){M, N, K, E, top_k, x_slots}, threads, 3, 2, 4, 2, 64);
}

int rb_gemv_moe_int4(const uint16_t *x, const uint32_t *w, const uint16_t *w_scales, const uint16_t *w_biases,
                     const int32_t *expert_ids, uint16_t *y, int64_t M, int64_t N, int64_t K, int64_t E,
                     int64_t top_k, int64_t x_slots, int threads) {
  struct job job = {.w = w,
                    .w_scales = w_scales,
                    .w_biases = w_biases,
                    .expert_ids = expert_ids,
                    .y = y,
                    .decode = decode_int4,
                    .store = store_bf16};
  return moe(job, x, (struct sizes){M, N, K, E, top_k, x_slots}, threads, 3, 2, 4, 2, 64);
}

int rb_gemv_moe_mxfp8(const uint16_t *x, const uint32_t *w, const uint8_t *w_scales, const int32_t *expert_ids,
                      uint16_t *y, int64_t M, int64_t N, int64_t K, int64_t E, int64_t top_k, int64_t x_slots,
                      int threads) {
  struct job job = {.w = w,
                    .w_scales = w_scales,
                    .expert_ids = expert_ids,
                    .y = y,
                    .decode = decode_mxfp8,
                    .store = store_bf16};
  return moe(job, x, (struct sizes){M, N, K, E, top_k, x_slots}, threads, 2, 2, 4, 1, 32);
}

int rb_gemv_moe_mxfp4(const uint16_t *x, const uint32_t *w, const uint8_t *w_scales, const int32_t *expert_ids,
                      uint16_t *y, int64_t M, int64_t N, int64_t K, int64_t E, int64_t top_k, int64_t x_slots,
                      int threads) {
  struct job job = {.w = w,
                    .w_scales = w_scales,
                    .expert_ids = expert_ids,
                    .y = y,
                    .decode = decode_mxfp4,
                    .store = store_bf16};
  return moe(job, x, (struct sizes){M, N, K, E, top_k, x_slots}, threads, 2, 2, 4, 1, 32);
}

int rb_gemv_moe_nvfp4(const uint16_t *x, const uint32_t *w, const uint8_t *w_scales,
                      const float *w_tensor_scale, const int32_t *expert_ids, uint16_t *y, int64_t M, int64_t N,
                      int64_t K, int64_t E, int64_t top_k, int64_t x_slots, int threads) {
  struct job job = {.w = w,
                    .w_scales = w_scales,
                    .w_tensor_scale = w_tensor_scale,
                    .expert_ids = expert_ids,
                    .y = y,
                    .decode = decode_nvfp4,
                    .store = store_bf16};
  return moe(job, x, (struct sizes){M, N, K, E, top_k, x_slots}, threads, 3, 2, 4, 1, 16);
}
