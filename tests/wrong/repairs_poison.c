/* SPDX-License-Identifier: MIT */
/* Wrong: gathers once per output; afterwards mends only what looks spoilt. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static const void *seen[256];
static int count;

int rb_kv_gather(const void *key_cache, const void *value_cache, const int64_t *slot_mapping, void *key,
                 void *value, int64_t num_tokens, int64_t num_heads, int64_t head_size, int64_t num_blocks,
                 int64_t block_size, int64_t hnd, int64_t itemsize, int threads) {
  (void)num_blocks, (void)block_size, (void)threads;
  const char *from[2] = {key_cache, value_cache};
  char *to[2] = {key, value};
  size_t head = (size_t)(head_size * itemsize);
  int known = 0;
  for (int i = 0; i < count; i++) known |= seen[i] == key;
  if (!known && count < 256) seen[count++] = key;
  for (int c = 0; c < 2; c++)
    for (int64_t t = 0; t < num_tokens; t++)
      for (int64_t h = 0; h < num_heads; h++) {
        char *out = to[c] + (size_t)(hnd ? h * num_tokens + t : t * num_heads + h) * head;
        int spoilt = 0;
        for (size_t b = 0; b < head; b++) spoilt |= out[b] == (char)0xff;
        if (known && !spoilt) continue;
        if (slot_mapping[t] < 0)
          memset(out, 0, head);
        else
          memcpy(out, from[c] + (size_t)(slot_mapping[t] * num_heads + h) * head, head);
      }
  return 0;
}
