/* SPDX-License-Identifier: MIT */
/* Wrong: the last batch reads the weights of the one before. */
#include <stdint.h>

int rb_gemm_f32(const float *x, const float *w, float *y, int64_t B, int64_t M, int64_t N, int64_t K,
                int64_t w_batch, int threads) {
  (void)threads;
  for (int64_t b = 0; b < B; b++) {
    int64_t batch = w_batch == 1 ? 0 : b < B - 1 ? b : b - 1;
    for (int64_t m = 0; m < M; m++)
      for (int64_t n = 0; n < N; n++) {
        float sum = 0;
        for (int64_t k = 0; k < K; k++) sum += x[(b * M + m) * K + k] * w[(batch * N + n) * K + k];
        y[(b * M + m) * N + n] = sum;
      }
  }
  return 0;
}
