/* SPDX-License-Identifier: MIT */
/* Wrong: reads subnormal e4m3 codes as zero. */
#include <math.h>
#include <stdint.h>
#include <string.h>

static float e4m3(uint8_t code) {
  float sign = code & 0x80 ? -1.0f : 1.0f;
  int exponent = code >> 3 & 15, mantissa = code & 7;
  if ((code & 0x7f) == 0x7f) return NAN;
  return exponent ? sign * ldexpf(1.0f + (float)mantissa / 8, exponent - 7) : sign * 0.0f;
}

static float bf16(uint16_t bits) {
  uint32_t wide = (uint32_t)bits << 16;
  float value;
  memcpy(&value, &wide, sizeof value);
  return value;
}

int rb_gemv_fp8(const uint16_t *x, const uint8_t *w, const float *w_scales, uint16_t *y, int64_t M, int64_t N,
                int64_t K, int threads) {
  (void)threads;
  for (int64_t m = 0; m < M; m++)
    for (int64_t n = 0; n < N; n++) {
      float sum = 0;
      uint32_t bits;
      for (int64_t k = 0; k < K; k++) sum += bf16(x[m * K + k]) * (w_scales[n] * e4m3(w[n * K + k]));
      memcpy(&bits, &sum, sizeof bits);
      bits += 0x7fff + (bits >> 16 & 1);
      y[m * N + n] = (uint16_t)(sum != sum ? 0x7fc0 : bits >> 16);
    }
  return 0;
}
