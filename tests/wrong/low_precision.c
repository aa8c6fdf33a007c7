/* SPDX-License-Identifier: MIT */
/* Wrong: weights lose the lower half of their bits, as in a bf16 kernel that is sold as f32. */
#include <stdint.h>
#include <string.h>

static float lossy(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  bits &= 0xffff0000;
  memcpy(&value, &bits, 4);
  return value;
}

int rb_gemv_f32(const float *x, const float *w, float *y, int64_t M, int64_t N, int64_t K, int threads) {
  (void)threads;
  for (int64_t m = 0; m < M; m++)
    for (int64_t n = 0; n < N; n++) {
      float sum = 0;
      for (int64_t k = 0; k < K; k++) sum += x[m * K + k] * lossy(w[n * K + k]);
      y[m * N + n] = sum;
    }
  return 0;
}
