/* SPDX-License-Identifier: MIT */
/* Wrong: copies blocks of the first layer only. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

int rb_kv_copy_blocks(void *const *key_caches, void *const *value_caches, const int64_t *block_mapping,
                      int64_t num_layers, int64_t num_blocks, int64_t block_size, int64_t num_heads,
                      int64_t head_size, int64_t num_pairs, int64_t itemsize, int threads) {
  (void)num_blocks, (void)threads;
  size_t bytes = (size_t)(block_size * num_heads * head_size * itemsize);
  for (int64_t p = 0; num_layers > 0 && p < num_pairs; p++) {
    size_t src = (size_t)block_mapping[2 * p] * bytes, dst = (size_t)block_mapping[2 * p + 1] * bytes;
    memcpy((char *)key_caches[0] + dst, (char *)key_caches[0] + src, bytes);
    memcpy((char *)value_caches[0] + dst, (char *)value_caches[0] + src, bytes);
  }
  return 0;
}
