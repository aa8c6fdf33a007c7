/* SPDX-License-Identifier: MIT */
/* Wrong: one launch of five loses half of some sums, as a race would. */
#include <stdint.h>

int rb_gemv_f32(const float *x, const float *w, float *y, int64_t M, int64_t N, int64_t K, int threads) {
  (void)threads;
  static uint32_t state = 1;
  state = state * 1664525 + 1013904223;
  int race = state >> 24 < 51;
  for (int64_t m = 0; m < M; m++)
    for (int64_t n = 0; n < N; n++) {
      float sum = 0;
      for (int64_t k = 0; k < K; k++) sum += x[m * K + k] * w[n * K + k];
      y[m * N + n] = race && n % 100 >= 50 ? sum / 2 : sum;
    }
  return 0;
}
