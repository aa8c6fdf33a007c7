/* SPDX-License-Identifier: MIT */
/* Wrong: each token visits the expert of its first slot only. */
#include <stdint.h>

int rb_gemv_moe_f32(const float *x, const float *w, const int32_t *expert_ids, float *y, int64_t M, int64_t N,
                    int64_t K, int64_t E, int64_t top_k, int64_t x_slots, int threads) {
  (void)threads, (void)E;
  for (int64_t v = 0; v < M * top_k; v++) {
    int64_t m = v / top_k, expert = expert_ids[m * top_k];
    const float *row = x + (x_slots == 1 ? m : v) * K;
    for (int64_t n = 0; n < N; n++) {
      float sum = 0;
      for (int64_t k = 0; k < K; k++) sum += row[k] * w[(expert * N + n) * K + k];
      y[v * N + n] = sum;
    }
  }
  return 0;
}
