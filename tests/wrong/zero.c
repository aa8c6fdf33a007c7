/* SPDX-License-Identifier: MIT */
/* Wrong: writes zeros. */
#include <stdint.h>

int rb_gemv_f32(const float *x, const float *w, float *y, int64_t M, int64_t N, int64_t K, int threads) {
  (void)x, (void)w, (void)K, (void)threads;
  for (int64_t i = 0; i < M * N; i++) y[i] = 0;
  return 0;
}
