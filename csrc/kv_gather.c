/* SPDX-License-Identifier: MIT */
/* Collects a sequence from a paged KV cache: token t = cache[slot_mapping[t]], zeros for a negative slot.
 * caches (num_blocks, block_size, num_heads, head_size); key, value (num_tokens, num_heads, head_size), or
 * with hnd (num_heads, num_tokens, head_size); f32, f16, bf16 or bytes, or bf16 to e4m3 of x * scale_inv.
 *
 * Standalone C11 with the vector extensions of GCC and Clang: cc -O3 -fopenmp -c kv_gather.c. Threads are
 * OpenMP's, libdispatch's on macOS, else one.
 * Memory-bound: reads and writes each token once; with hnd in runs of head_size.
 */
#include <stddef.h>
#include <stdint.h>
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

typedef float f32x16 __attribute__((vector_size(64), aligned(4), may_alias));
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

/* e4m3 of f32 bits: nearest even; overflow and infinities saturate to 448; NaN stays NaN. */
INLINE u8x16 e4m3_of(u32x16 bits) {
  u32x16 sign = bits >> 24 & 0x80, a = bits & 0x7fffffff;
  u32x16 nan = (u32x16)(a > 0x7f800000), over = (u32x16)(a > 0x43e00000), small = (u32x16)(a < 0x3c800000);
  a = (over & 0x43e00000) | (~over & a);
  u32x16 normal = ((a + 0x7ffff + (a >> 20 & 1)) >> 20) - 960;
  u32x16 subnormal = (u32x16)((f32x16)a + 16384.0f) - 0x46800000; /* rounds to a multiple of 2^-9 */
  u32x16 code = (nan & 0x7f) | (~nan & ((small & subnormal) | (~small & normal)));
  return __builtin_convertvector(sign | code, u8x16);
}

CLONES static void cast_bf16(const uint16_t *src, uint8_t *dst, int64_t n, float scale) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    u32x16 wide = __builtin_convertvector(*(const u16x16 *)(src + i), u32x16) << 16;
    *(u8x16 *)(dst + i) = e4m3_of((u32x16)((f32x16)wide * scale));
  }
  if (i < n) {
    uint16_t tail[16] = {0};
    memcpy(tail, src + i, (size_t)(n - i) * sizeof *tail);
    u32x16 wide = __builtin_convertvector(*(const u16x16 *)tail, u32x16) << 16;
    u8x16 codes = e4m3_of((u32x16)((f32x16)wide * scale));
    memcpy(dst + i, &codes, (size_t)(n - i));
  }
}

struct job {
  const char *src[2]; /* caches: (slots, heads, head_size) */
  char *dst[2];       /* key, value */
  const int64_t *slot_mapping;
  int64_t tokens, heads, head_size, hnd;
  int64_t itemsize; /* of an output */
  int cast;
  float scale_inv[2];
};

/* Token t, in one run or one per head. */
static void token(void *arg, size_t t) {
  const struct job *job = arg;
  int64_t slot = job->slot_mapping[t], runs = job->hnd ? job->heads : 1;
  int64_t n = job->hnd ? job->head_size : job->heads * job->head_size;
  for (int i = 0; i < 2; i++)
    for (int64_t run = 0; run < runs; run++) {
      char *out = job->dst[i] + (job->hnd ? run * job->tokens + (int64_t)t : (int64_t)t) * n * job->itemsize;
      int64_t from = (slot * runs + run) * n;
      if (slot < 0)
        memset(out, 0, (size_t)(n * job->itemsize));
      else if (job->cast)
        cast_bf16((const uint16_t *)job->src[i] + from, (uint8_t *)out, n, job->scale_inv[i]);
      else
        memcpy(out, job->src[i] + from * job->itemsize, (size_t)(n * job->itemsize));
    }
}

/* The first size is argument `sizes`; slots are checked before anything is written. */
static int bad(const int64_t *slots, int64_t tokens, int64_t heads, int64_t head_size, int64_t blocks,
               int64_t block_size, int64_t hnd, int sizes) {
  if (tokens < 0) return -sizes;
  if (heads < 1) return -(sizes + 1);
  if (head_size < 1) return -(sizes + 2);
  if (blocks < 1) return -(sizes + 3);
  if (block_size < 1) return -(sizes + 4);
  if (hnd != 0 && hnd != 1) return -(sizes + 5);
  if (tokens == 0) return 0;
  if (!slots || (uintptr_t)slots % sizeof *slots) return -3;
  for (int64_t t = 0; t < tokens; t++)
    if (slots[t] >= blocks * block_size) return -3;
  return 0;
}

int rb_kv_gather(const void *key_cache, const void *value_cache, const int64_t *slot_mapping, void *key,
                 void *value, int64_t num_tokens, int64_t num_heads, int64_t head_size, int64_t num_blocks,
                 int64_t block_size, int64_t hnd, int64_t itemsize, int threads) {
  int error = bad(slot_mapping, num_tokens, num_heads, head_size, num_blocks, block_size, hnd, 6);
  if (error) return error;
  if (itemsize != 1 && itemsize != 2 && itemsize != 4) return -12;
  if (num_tokens == 0) return 0;
  const void *pointers[] = {key_cache, value_cache, slot_mapping, key, value};
  for (int i = 0; i < 5; i++)
    if (!pointers[i] || (uintptr_t)pointers[i] % (size_t)itemsize) return -(i + 1);
  struct job job = {.src = {key_cache, value_cache},
                    .dst = {key, value},
                    .slot_mapping = slot_mapping,
                    .tokens = num_tokens,
                    .heads = num_heads,
                    .head_size = head_size,
                    .hnd = hnd,
                    .itemsize = itemsize};
  parallel((size_t)num_tokens, &job, token, threads);
  return 0;
}

int rb_kv_gather_fp8(const uint16_t *key_cache, const uint16_t *value_cache, const int64_t *slot_mapping,
                     const float *k_scale_inv, const float *v_scale_inv, uint8_t *key, uint8_t *value,
                     int64_t num_tokens, int64_t num_heads, int64_t head_size, int64_t num_blocks,
                     int64_t block_size, int64_t hnd, int threads) {
  int error = bad(slot_mapping, num_tokens, num_heads, head_size, num_blocks, block_size, hnd, 8);
  if (error) return error;
  if (num_tokens == 0) return 0;
  if (!key_cache || (uintptr_t)key_cache % sizeof *key_cache) return -1;
  if (!value_cache || (uintptr_t)value_cache % sizeof *value_cache) return -2;
  if (!k_scale_inv || (uintptr_t)k_scale_inv % sizeof *k_scale_inv) return -4;
  if (!v_scale_inv || (uintptr_t)v_scale_inv % sizeof *v_scale_inv) return -5;
  if (!key) return -6;
  if (!value) return -7;
  struct job job = {.src = {(const char *)key_cache, (const char *)value_cache},
                    .dst = {(char *)key, (char *)value},
                    .slot_mapping = slot_mapping,
                    .tokens = num_tokens,
                    .heads = num_heads,
                    .head_size = head_size,
                    .hnd = hnd,
                    .itemsize = 1,
                    .cast = 1,
                    .scale_inv = {*k_scale_inv, *v_scale_inv}};
  parallel((size_t)num_tokens, &job, token, threads);
  return 0;
}
