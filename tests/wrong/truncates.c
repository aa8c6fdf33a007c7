/* SPDX-License-Identifier: MIT */
/* Wrong: cuts results off where it should round them. */
#include <stdint.h>
#include <string.h>

static float widen(uint16_t h) {
  uint32_t bits = (uint32_t)h << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

int rb_gemv_bf16(const uint16_t *x, const uint16_t *w, uint16_t *y, int64_t M, int64_t N, int64_t K,
                 int threads) {
  (void)threads;
  for (int64_t m = 0; m < M; m++)
    for (int64_t n = 0; n < N; n++) {
      float sum = 0;
      for (int64_t k = 0; k < K; k++) sum += widen(x[m * K + k]) * widen(w[n * K + k]);
      uint32_t bits;
      memcpy(&bits, &sum, 4);
      y[m * N + n] = (uint16_t)(bits >> 16);
    }
  return 0;
}
