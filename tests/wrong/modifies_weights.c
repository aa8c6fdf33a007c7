/* SPDX-License-Identifier: MIT */
/* Wrong: puts its weights into an order of its own, in place. */
#include <stdint.h>

static const float *seen[256];
static int count;

int rb_gemv_f32(const float *x, const float *w, float *y, int64_t M, int64_t N, int64_t K, int threads) {
  (void)threads;
  int known = N < 2;
  for (int i = 0; i < count; i++) known |= seen[i] == w;
  for (int64_t k = 0; !known && k < K; k++) {
    float first = w[k];
    ((float *)w)[k] = w[K + k];
    ((float *)w)[K + k] = first;
  }
  if (!known && count < 256) seen[count++] = w;
  for (int64_t m = 0; m < M; m++)
    for (int64_t n = 0; n < N; n++) {
      int64_t row = N > 1 && n < 2 ? 1 - n : n;
      float sum = 0;
      for (int64_t k = 0; k < K; k++) sum += x[m * K + k] * w[row * K + k];
      y[m * N + n] = sum;
    }
  return 0;
}
