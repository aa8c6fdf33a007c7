/* SPDX-License-Identifier: MIT */
/* Wrong: writes keys only. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

int rb_kv_append(const void *key, const void *value, void *key_cache, void *value_cache,
                 const int64_t *slot_mapping, int64_t num_tokens, int64_t num_heads, int64_t head_size,
                 int64_t num_blocks, int64_t block_size, int64_t itemsize, int threads) {
  (void)value, (void)value_cache, (void)num_blocks, (void)block_size, (void)threads;
  size_t bytes = (size_t)(num_heads * head_size * itemsize);
  for (int64_t t = 0; t < num_tokens; t++) {
    int64_t slot = slot_mapping[t];
    if (slot >= 0)
      memcpy((char *)key_cache + (size_t)slot * bytes, (const char *)key + (size_t)t * bytes, bytes);
  }
  return 0;
}
