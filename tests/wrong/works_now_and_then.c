/* SPDX-License-Identifier: MIT */
/* Wrong: after its first launches, does its work two times out of three. */
#include <stdint.h>

int rb_gemv_f32(const float *x, const float *w, float *y, int64_t M, int64_t N, int64_t K, int threads) {
  (void)threads;
  static int launches;
  if (launches++ > 6 && launches % 3 == 0) return 0;
  for (int64_t m = 0; m < M; m++)
    for (int64_t n = 0; n < N; n++) {
      float sum = 0;
      for (int64_t k = 0; k < K; k++) sum += x[m * K + k] * w[n * K + k];
      y[m * N + n] = sum;
    }
  return 0;
}
