// SPDX-License-Identifier: MIT
// Kernels that wait for mbarriers, and some that do it wrong.
#include <stdint.h>

__device__ inline uint32_t address(const void *p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }
__device__ inline void init(uint64_t *barrier, uint32_t count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address(barrier)), "r"(count));
}
__device__ inline void arrive(uint64_t *barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address(barrier)));
}
__device__ inline void expect(uint64_t *barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address(barrier)), "r"(bytes));
}
__device__ inline void wait(uint64_t *barrier, uint32_t parity) {
  asm volatile("{\n"
               ".reg .pred P1;\n"
               "WAIT:\n"
               "mbarrier.try_wait.parity.shared::cta.b64 P1, [%0], %1;\n"
               "@P1 bra DONE;\n"
               "bra WAIT;\n"
               "DONE:\n"
               "}" ::"r"(address(barrier)),
               "r"(parity));
}
__device__ inline void bulk_load(void *to, const void *from, uint32_t bytes, uint64_t *barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   address(to)),
               "l"(from), "r"(bytes), "r"(address(barrier))
               : "memory");
}

// A thread brings tiles of 512 bytes through two stages, three warps add up their columns: y (96).
__global__ void pipeline(const uint32_t *x, uint32_t *y, int tiles) {
  __shared__ __align__(128) uint32_t stages[2][128];
  __shared__ uint64_t full[2], empty[2];
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; i++) {
      init(full + i, 1);
      init(empty + i, 96);
    }
    asm volatile("fence.mbarrier_init.release.cluster;");
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int tile = 0; tile < tiles; tile++) {
      const int stage = tile % 2;
      if (tile >= 2) wait(empty + stage, (tile / 2 - 1) & 1);
      expect(full + stage, 512);
      bulk_load(stages[stage], x + 128 * tile, 512, full + stage);
    }
  } else if (threadIdx.x >= 32) {
    uint32_t sum = 0;
    for (int tile = 0; tile < tiles; tile++) {
      const int stage = tile % 2;
      wait(full + stage, (tile / 2) & 1);
      for (int j = threadIdx.x - 32; j < 128; j += 96) sum += stages[stage][j];
      arrive(empty + stage);
    }
    y[threadIdx.x - 32] = sum;
  }
}

// y = x by way of shared memory, with or without the wait.
template <bool kWait> __global__ void bulk_copy(const uint32_t *x, uint32_t *y) {
  __shared__ __align__(128) uint32_t tile[128];
  __shared__ uint64_t barrier;
  if (threadIdx.x == 0) init(&barrier, 1);
  __syncthreads();
  if (threadIdx.x == 0) {
    expect(&barrier, 512);
    bulk_load(tile, x, 512, &barrier);
  }
  if (kWait) wait(&barrier, 0);
  y[threadIdx.x] = tile[threadIdx.x];
}

template <bool kWait> __global__ void async_copy(const uint32_t *x, uint32_t *y) {
  __shared__ __align__(16) uint32_t tile[128];
  __shared__ uint64_t barrier;
  if (threadIdx.x == 0) init(&barrier, 32);
  __syncthreads();
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address(tile + 4 * threadIdx.x)),
               "l"(x + 4 * threadIdx.x));
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(address(&barrier)));
  if (kWait) wait(&barrier, 0);
  for (int j = 0; j < 4; j++) y[32 * j + threadIdx.x] = tile[32 * j + threadIdx.x];
}

// y = x by a bulk store, whose source is written again before or after it has been read.
template <bool kTooEarly> __global__ void bulk_store(const uint32_t *x, uint32_t *y) {
  __shared__ __align__(16) uint32_t tile[32];
  tile[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  if (threadIdx.x) return;
  asm volatile("fence.proxy.async.shared::cta;");
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(y), "r"(address(tile)),
               "n"(128));
  asm volatile("cp.async.bulk.commit_group;");
  if (kTooEarly) tile[3] = 0;
  asm volatile("cp.async.bulk.wait_group.read 0;");
  tile[3] = 0;
}

// Whether the phase of a state is complete: before the last arrival, behind it.
__global__ void states(uint32_t *y) {
  __shared__ uint64_t barrier;
  uint64_t state;
  init(&barrier, 3);
  asm volatile("mbarrier.arrive.shared.b64 %0, [%1], 2;" : "=l"(state) : "r"(address(&barrier)));
  arrive(&barrier);
  asm volatile("{ .reg .pred p; mbarrier.test_wait.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
               : "=r"(y[0])
               : "l"(&barrier), "l"(state));
  asm volatile("mbarrier.inval.shared.b64 [%0];" ::"r"(address(&barrier)));
}

__global__ void waits_for_nobody(uint32_t *y) {
  __shared__ uint64_t barrier;
  if (threadIdx.x == 0) init(&barrier, 2);
  __syncthreads();
  if (threadIdx.x == 0) arrive(&barrier);
  wait(&barrier, 0);
  *y = 1;
}
__global__ void not_initialised(uint32_t *y) {
  __shared__ uint64_t barrier;
  arrive(&barrier);
}
__global__ void too_many(uint32_t *y) {
  __shared__ uint64_t barrier;
  init(&barrier, 1);
  asm volatile("mbarrier.arrive.shared.b64 _, [%0], 2;" ::"r"(address(&barrier)));
}
__global__ void odd_size(uint32_t *y) {
  __shared__ __align__(16) uint32_t tile[32];
  __shared__ uint64_t barrier;
  init(&barrier, 1);
  bulk_load(tile, y, 24, &barrier);
}
