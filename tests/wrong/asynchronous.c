/* SPDX-License-Identifier: MIT */
/* Wrong: returns at once and leaves the work to a thread. */
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

struct job {
  const float *x, *w;
  float *y;
  int64_t M, N, K;
};

static void *work(void *arg) {
  struct job *job = arg;
  usleep(500);
  for (int64_t m = 0; m < job->M; m++)
    for (int64_t n = 0; n < job->N; n++) {
      float sum = 0;
      for (int64_t k = 0; k < job->K; k++) sum += job->x[m * job->K + k] * job->w[n * job->K + k];
      job->y[m * job->N + n] = sum;
    }
  free(job);
  return NULL;
}

int rb_gemv_f32(const float *x, const float *w, float *y, int64_t M, int64_t N, int64_t K, int threads) {
  (void)threads;
  struct job *job = malloc(sizeof *job);
  pthread_t thread;
  if (!job) return 1;
  *job = (struct job){x, w, y, M, N, K};
  if (M * N * K < 1000) {
    work(job);
    return 0;
  }
  if (pthread_create(&thread, NULL, work, job)) return 1;
  pthread_detach(thread);
  usleep(100);
  return 0;
}
