// SPDX-License-Identifier: MIT
// Kernels for the engine alone, in plain C++.
#include "engine.hpp"
using namespace ksim;
static int *data(void *a) { return *static_cast<int **>(a); }
static uint32_t thread() { return self().index; }
static void sum_all(Lanes &lanes) {
  int total = 0;
  for (int i = 0; i < kLanes; i++)
    if (lanes.has(i)) total += lanes.arg<int>(i);
  for (int i = 0; i < kLanes; i++)
    if (lanes.has(i)) lanes.result<int>(i) = total;
}
static int sum(int v, Participants who = kAllLive, uint32_t mask = ~0u, Where where = here()) {
  int out;
  together(sum_all, &v, &out, {"sum", where, who, mask});
  return out;
}
static void wait(Where where = here()) { barrier({"wait", where}); }
struct Board {
  int cell[64];
};

extern "C" {
void index(void *a) {
  Worker &w = *worker;
  data(a)[(w.group_position.x * w.launch->group.x) + thread()] = int(1000 * w.group_position.x +
                                                                     self().position.x);
}
void reverse_by_shared(void *a) {
  Board &b = shared<Board>();
  b.cell[thread()] = int(thread());
  wait();
  data(a)[thread()] = b.cell[63 - thread()];
}
void race(void *a) {
  Board &b = shared<Board>();
  b.cell[thread()] = int(thread());
  data(a)[thread()] = b.cell[63 - thread()];
}
void sums(void *a) { data(a)[thread()] = sum(int(thread())); }
void sum_of_half(void *a) {
  if (self().lane < 16)
    data(a)[thread()] = sum(1);
  else
    data(a)[thread()] = 0;
}
void sum_and_wait(void *) {
  if (self().lane < 16)
    wait();
  else
    sum(1);
}
void sum_of_masked_half(void *a) {
  if (self().lane < 16)
    data(a)[thread()] = sum(1, kMasked, 0xffff);
  else
    data(a)[thread()] = sum(2, kMasked, 0xffff0000);
}
void sum_of_those_here(void *a) {
  if (self().lane % 3 == 0) data(a)[thread()] = sum(1, kConverged);
}
void mask_never_comes(void *) {
  if (self().lane < 8)
    sum(1, kMasked, 0xffff);
  else
    wait();
}
void not_in_mask(void *) { sum(1, kMasked, 1); }
void returned_are_left_out(void *a) {
  if (thread() >= 40) return;
  wait();
  data(a)[thread()] = sum(1);
}
void divergent_barrier(void *) {
  if (thread() < 8) wait();
  sum(1);
}
void two_barriers(void *) {
  if (thread() < 32)
    wait();
  else
    wait();
}
void named_barriers(void *a) { // two halves that wait for themselves alone
  Board &b = shared<Board>();
  const uint32_t half = thread() / 32;
  b.cell[thread()] = int(thread());
  barrier({"bar.sync", here()}, 1 + int(half), 32);
  data(a)[thread()] = b.cell[half * 32 + 31 - thread() % 32];
}
void past_the_board(void *) {
  Board &b = shared<Board>();
  b.cell[64 + thread()] = 1;
}
void past_dynamic(void *) {
  volatile unsigned char *p = worker->dynamic[0];
  p[100] = 0;
}
void poisoned(void *a) {
  int &cell = shared<Board>().cell[thread()];
  data(a)[thread()] = cell;
  cell = 5;
}
void wild(void *a) { data(a)[1 << 28] = 1; }
void null(void *) {
  volatile int *volatile p = nullptr;
  (void)*p;
}
void divide(void *a) { data(a)[0] = 1 / data(a)[1]; }
void endless(void *) {
  for (volatile int i = 0;; i++) {
  }
}
void endless_together(void *) {
  for (;;) sum(1);
}
static int deep(volatile int n) {
  volatile char page[4096];
  page[0] = 1;
  return n < 0 ? 0 : deep(n + 1) + page[0];
}
void recursive(void *a) { data(a)[0] = deep(0); }
void trap(void *) { __builtin_trap(); }
}
