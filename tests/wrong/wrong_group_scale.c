/* SPDX-License-Identifier: MIT */
/* Wrong: one group of the matrix takes the scale of the next. */
#include <stdint.h>
#include <string.h>

static float widen(uint16_t h) {
  uint32_t bits = (uint32_t)h << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

static uint16_t narrow(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  if (value != value) return (uint16_t)(bits >> 16 | 0x40);
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

int rb_gemv_int4(const uint16_t *x, const uint32_t *w, const uint16_t *w_scales, const uint16_t *w_biases,
                 uint16_t *y, int64_t M, int64_t N, int64_t K, int threads) {
  (void)threads;
  for (int64_t m = 0; m < M; m++)
    for (int64_t n = 0; n < N; n++) {
      float sum = 0;
      for (int64_t k = 0; k < K; k++) {
        int64_t group = (n * K + k) / 64;
        uint32_t q = w[(n * K + k) / 8] >> 4 * (k % 8) & 15;
        sum += widen(x[m * K + k]) *
               (widen(w_scales[group == 1 ? 2 : group]) * (float)q + widen(w_biases[group]));
      }
      y[m * N + n] = narrow(sum);
    }
  return 0;
}
