/* SPDX-License-Identifier: MIT */
/* Wrong: values take the scale of the keys. */
#include <stdint.h>
#include <string.h>

static float widen(uint16_t h) {
  uint32_t bits = (uint32_t)h << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

static uint8_t cast(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  uint32_t sign = bits >> 24 & 0x80, a = bits & 0x7fffffff;
  if (a > 0x7f800000) return (uint8_t)(sign | 0x7f);
  if (a > 0x43e00000) a = 0x43e00000;
  if (a < 0x3c800000) {
    float f;
    memcpy(&f, &a, 4);
    f += 16384.0f;
    memcpy(&a, &f, 4);
    return (uint8_t)(sign | (a - 0x46800000));
  }
  return (uint8_t)(sign | (((a + 0x7ffff + (a >> 20 & 1)) >> 20) - 960));
}

int rb_kv_append_fp8(const uint16_t *key, const uint16_t *value, uint8_t *key_cache, uint8_t *value_cache,
                     const int64_t *slot_mapping, const float *k_scale_inv, const float *v_scale_inv,
                     int64_t num_tokens, int64_t num_heads, int64_t head_size, int64_t num_blocks,
                     int64_t block_size, int threads) {
  (void)v_scale_inv, (void)num_blocks, (void)block_size, (void)threads;
  int64_t n = num_heads * head_size;
  for (int64_t t = 0; t < num_tokens; t++)
    for (int64_t i = 0; slot_mapping[t] >= 0 && i < n; i++) {
      key_cache[slot_mapping[t] * n + i] = cast(widen(key[t * n + i]) * *k_scale_inv);
      value_cache[slot_mapping[t] * n + i] = cast(widen(value[t * n + i]) * *k_scale_inv);
    }
  return 0;
}
