/* SPDX-License-Identifier: MIT */
/* Wrong: keeps the experts that it saw first at an address. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static struct {
  const int32_t *ids;
  int32_t *kept;
} seen[256];
static int count;

int rb_gemv_moe_f32(const float *x, const float *w, const int32_t *expert_ids, float *y, int64_t M, int64_t N,
                    int64_t K, int64_t E, int64_t top_k, int64_t x_slots, int threads) {
  (void)threads, (void)E;
  int i = 0;
  while (i < count && seen[i].ids != expert_ids) i++;
  if (i == count) {
    if (count == 256) return 1;
    seen[i].ids = expert_ids;
    seen[i].kept = malloc((size_t)(M * top_k) * sizeof *expert_ids + 1);
    memcpy(seen[i].kept, expert_ids, (size_t)(M * top_k) * sizeof *expert_ids);
    count++;
  }
  for (int64_t v = 0; v < M * top_k; v++) {
    const float *row = x + (x_slots == 1 ? v / top_k : v) * K;
    for (int64_t n = 0; n < N; n++) {
      float sum = 0;
      for (int64_t k = 0; k < K; k++) sum += row[k] * w[(seen[i].kept[v] * N + n) * K + k];
      y[v * N + n] = sum;
    }
  }
  return 0;
}
