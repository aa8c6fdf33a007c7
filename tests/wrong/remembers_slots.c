/* SPDX-License-Identifier: MIT */
/* Wrong: keeps the slots that it saw first at an address. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static struct {
  const int64_t *slots;
  int64_t *kept;
} seen[256];
static int count;

int rb_kv_append(const void *key, const void *value, void *key_cache, void *value_cache,
                 const int64_t *slot_mapping, int64_t num_tokens, int64_t num_heads, int64_t head_size,
                 int64_t num_blocks, int64_t block_size, int64_t itemsize, int threads) {
  (void)num_blocks, (void)block_size, (void)threads;
  int i = 0;
  while (i < count && seen[i].slots != slot_mapping) i++;
  if (i == count) {
    if (count == 256) return 1;
    seen[i].slots = slot_mapping;
    seen[i].kept = malloc((size_t)num_tokens * sizeof *slot_mapping + 1);
    memcpy(seen[i].kept, slot_mapping, (size_t)num_tokens * sizeof *slot_mapping);
    count++;
  }
  size_t token = (size_t)(num_heads * head_size * itemsize);
  for (int64_t t = 0; t < num_tokens; t++) {
    if (seen[i].kept[t] < 0) continue;
    memcpy((char *)key_cache + (size_t)seen[i].kept[t] * token, (const char *)key + (size_t)t * token, token);
    memcpy((char *)value_cache + (size_t)seen[i].kept[t] * token, (const char *)value + (size_t)t * token,
           token);
  }
  return 0;
}
