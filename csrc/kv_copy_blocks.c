/* SPDX-License-Identifier: MIT */
/* Copies blocks within the paged KV caches of every layer, in one call: block dst = block src, per pair.
 * key_caches, value_caches: num_layers pointers to (num_blocks, block_size, num_heads, head_size);
 * block_mapping (num_pairs, 2) of (src, dst), each dst in one pair only and never a src.
 *
 * Standalone C11: cc -O3 -fopenmp -c kv_copy_blocks.c. Threads are OpenMP's, libdispatch's on macOS, else
 * one. Memory-bound: reads and writes each copied block once; threads share out (layer, pair).
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(_OPENMP)
#include <omp.h>
#elif defined(__APPLE__)
#include <dispatch/dispatch.h>
#endif

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

struct job {
  void *const *caches[2];
  const int64_t *block_mapping;
  int64_t pairs, bytes; /* of one block */
};

static void copy(void *arg, size_t i) {
  const struct job *job = arg;
  int64_t layer = (int64_t)i / job->pairs, pair = (int64_t)i % job->pairs;
  int64_t src = job->block_mapping[2 * pair], dst = job->block_mapping[2 * pair + 1];
  for (int j = 0; j < 2; j++) {
    char *cache = job->caches[j][layer];
    memcpy(cache + dst * job->bytes, cache + src * job->bytes, (size_t)job->bytes);
  }
}

int rb_kv_copy_blocks(void *const *key_caches, void *const *value_caches, const int64_t *block_mapping,
                      int64_t num_layers, int64_t num_blocks, int64_t block_size, int64_t num_heads,
                      int64_t head_size, int64_t num_pairs, int64_t itemsize, int threads) {
  if (num_layers < 0) return -4;
  if (num_blocks < 1) return -5;
  if (block_size < 1) return -6;
  if (num_heads < 1) return -7;
  if (head_size < 1) return -8;
  if (num_pairs < 0) return -9;
  if (itemsize != 1 && itemsize != 2 && itemsize != 4) return -10;
  if (num_layers == 0 || num_pairs == 0) return 0;
  if (!key_caches) return -1;
  if (!value_caches) return -2;
  for (int64_t layer = 0; layer < num_layers; layer++) {
    if (!key_caches[layer]) return -1;
    if (!value_caches[layer]) return -2;
  }
  if (!block_mapping || (uintptr_t)block_mapping % sizeof *block_mapping) return -3;
  for (int64_t i = 0; i < 2 * num_pairs; i++)
    if (block_mapping[i] < 0 || block_mapping[i] >= num_blocks) return -3;
  struct job job = {
      {key_caches, value_caches}, block_mapping, num_pairs, block_size * num_heads * head_size * itemsize};
  parallel((size_t)(num_layers * num_pairs), &job, copy, threads);
  return 0;
}
