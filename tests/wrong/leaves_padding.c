/* SPDX-License-Identifier: MIT */
/* Wrong: padding tokens of a gather stay unwritten. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

int rb_kv_gather(const void *key_cache, const void *value_cache, const int64_t *slot_mapping, void *key,
                 void *value, int64_t num_tokens, int64_t num_heads, int64_t head_size, int64_t num_blocks,
                 int64_t block_size, int64_t hnd, int64_t itemsize, int threads) {
  (void)num_blocks, (void)block_size, (void)threads;
  size_t head = (size_t)(head_size * itemsize);
  for (int64_t t = 0; t < num_tokens; t++)
    for (int64_t h = 0; slot_mapping[t] >= 0 && h < num_heads; h++) {
      size_t from = (size_t)(slot_mapping[t] * num_heads + h) * head;
      size_t to = (size_t)(hnd ? h * num_tokens + t : t * num_heads + h) * head;
      memcpy((char *)key + to, (const char *)key_cache + from, head);
      memcpy((char *)value + to, (const char *)value_cache + from, head);
    }
  return 0;
}
