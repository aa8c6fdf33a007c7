// SPDX-License-Identifier: MIT
// ldmatrix, stmatrix, movmatrix and cp.async, one warp. For sm_120a.

// 64 rows of 16 bytes in shared memory; thread t gives the address of row rows[t] to the instruction.
__device__ unsigned fill(uint4 *shared, const uint4 *memory, const unsigned *rows) {
  const int t = threadIdx.x;
  shared[t] = memory[t];
  shared[t + 32] = memory[t + 32];
  __syncthreads();
  return static_cast<unsigned>(__cvta_generic_to_shared(shared + rows[t]));
}

__global__ void ldmatrix_x1(unsigned *r, const uint4 *memory, const unsigned *rows) {
  __shared__ uint4 shared[64];
  const unsigned p = fill(shared, memory, rows);
  r += threadIdx.x;
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];\n" : "=r"(r[0]) : "r"(p));
}

__global__ void ldmatrix_x2(unsigned *r, const uint4 *memory, const unsigned *rows) {
  __shared__ uint4 shared[64];
  const unsigned p = fill(shared, memory, rows);
  r += 2 * threadIdx.x;
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];\n" : "=r"(r[0]), "=r"(r[1]) : "r"(p));
}

__global__ void ldmatrix_x4(unsigned *r, const uint4 *memory, const unsigned *rows) {
  __shared__ uint4 shared[64];
  const unsigned p = fill(shared, memory, rows);
  r += 4 * threadIdx.x;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(p));
}

__global__ void ldmatrix_x1_trans(unsigned *r, const uint4 *memory, const unsigned *rows) {
  __shared__ uint4 shared[64];
  const unsigned p = fill(shared, memory, rows);
  r += threadIdx.x;
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];\n" : "=r"(r[0]) : "r"(p));
}

__global__ void ldmatrix_x2_trans(unsigned *r, const uint4 *memory, const unsigned *rows) {
  __shared__ uint4 shared[64];
  const unsigned p = fill(shared, memory, rows);
  r += 2 * threadIdx.x;
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared::cta.b16 {%0, %1}, [%2];\n"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(p));
}

__global__ void ldmatrix_x4_trans(unsigned *r, const uint4 *memory, const unsigned *rows) {
  __shared__ uint4 shared[64];
  const unsigned p = fill(shared, memory, rows);
  r += 4 * threadIdx.x;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(p));
}

// What the rows hold after something was stored to them.
__device__ void give_back(uint4 *memory, const uint4 *shared) {
  __syncthreads();
  memory[threadIdx.x] = shared[threadIdx.x];
  memory[threadIdx.x + 32] = shared[threadIdx.x + 32];
}

__global__ void stmatrix_x1(const unsigned *r, uint4 *memory, const unsigned *rows) {
  __shared__ uint4 shared[64];
  const unsigned p = fill(shared, memory, rows);
  r += threadIdx.x;
  asm volatile("stmatrix.sync.aligned.m8n8.x1.shared.b16 [%0], {%1};\n" : : "r"(p), "r"(r[0]) : "memory");
  give_back(memory, shared);
}

__global__ void stmatrix_x2_trans(const unsigned *r, uint4 *memory, const unsigned *rows) {
  __shared__ uint4 shared[64];
  const unsigned p = fill(shared, memory, rows);
  r += 2 * threadIdx.x;
  asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};\n"
               :
               : "r"(p), "r"(r[0]), "r"(r[1])
               : "memory");
  give_back(memory, shared);
}

__global__ void stmatrix_x4(const unsigned *r, uint4 *memory, const unsigned *rows) {
  __shared__ uint4 shared[64];
  const unsigned p = fill(shared, memory, rows);
  r += 4 * threadIdx.x;
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};\n"
               :
               : "r"(p), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
  give_back(memory, shared);
}

__global__ void movmatrix(unsigned *d, const unsigned *a) {
  const int t = threadIdx.x;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;\n" : "=r"(d[t]) : "r"(a[t]));
}

// cp.async. Every thread has `slot`, 64 bytes of 0xEE; what it reads there goes to out, 16 words.
__device__ unsigned prepare(volatile unsigned *slot) {
  for (int i = 0; i < 16; ++i) slot[i] = 0xEEEEEEEEu;
  return static_cast<unsigned>(__cvta_generic_to_shared(const_cast<unsigned *>(slot)));
}

__device__ void look(unsigned *out, volatile unsigned *slot) {
  for (int i = 0; i < 16; ++i) out[i] = slot[i];
}

__global__ void cp_async_sizes(unsigned *before, unsigned *after, const unsigned *source) {
  __shared__ uint4 shared[128];
  const int t = threadIdx.x;
  volatile unsigned *slot = reinterpret_cast<volatile unsigned *>(shared + 4 * t);
  const unsigned to = prepare(slot);
  source += 16 * t;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;\n" ::"r"(to + 4), "l"(source + 1) : "memory");
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;\n" ::"r"(to + 8), "l"(source + 2) : "memory");
  asm volatile("cp.async.ca.shared::cta.global [%0], [%1], 16;\n" ::"r"(to + 16), "l"(source + 4) : "memory");
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(to + 32), "l"(source + 8) : "memory");
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], %2;\n" ::"r"(to + 48), "l"(source + 12), "n"(16)
               : "memory");
  look(before + 16 * t, slot);
  asm volatile("cp.async.commit_group;\n" ::: "memory");
  asm volatile("cp.async.wait_group %0;\n" ::"n"(0) : "memory");
  look(after + 16 * t, slot);
}

// src-size of thread t at each size, and ignore-src.
__global__ void cp_async_partial(unsigned *after, const unsigned *source, const unsigned *sizes) {
  __shared__ uint4 shared[128];
  const int t = threadIdx.x;
  volatile unsigned *slot = reinterpret_cast<volatile unsigned *>(shared + 4 * t);
  const unsigned to = prepare(slot);
  source += 16 * t, sizes += 4 * t;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(to), "l"(source), "r"(sizes[0])
               : "memory");
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;\n" ::"r"(to + 8), "l"(source + 2), "r"(sizes[1])
               : "memory");
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to + 16), "l"(source + 4), "r"(sizes[2])
               : "memory");
  asm volatile("{\n"
               "  .reg .pred p;\n"
               "  setp.ne.b32 p, %2, 0;\n"
               "  cp.async.cg.shared.global [%0], [%1], 16, p;\n"
               "}\n" ::"r"(to + 32),
               "l"(source + 8), "r"(sizes[3])
               : "memory");
  asm volatile("cp.async.wait_all;\n" ::: "memory");
  look(after + 16 * t, slot);
}

__device__ void copy_word(unsigned to, const unsigned *source, int i) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;\n" ::"r"(to + 4 * i), "l"(source + i) : "memory");
}

// Word 0 | words 1 and 2 | word 3, not committed; then word 4 and an empty group. seen[5][16 words].
__global__ void cp_async_groups(unsigned *seen, const unsigned *source) {
  __shared__ uint4 shared[128];
  const int t = threadIdx.x;
  volatile unsigned *slot = reinterpret_cast<volatile unsigned *>(shared + 4 * t);
  const unsigned to = prepare(slot);
  source += 16 * t, seen += 80 * t;
  copy_word(to, source, 0);
  asm volatile("cp.async.commit_group;\n" ::: "memory");
  copy_word(to, source, 1);
  copy_word(to, source, 2);
  asm volatile("cp.async.commit_group;\n" ::: "memory");
  copy_word(to, source, 3);
  asm volatile("cp.async.wait_group 2;\n" ::: "memory");
  look(seen, slot);
  asm volatile("cp.async.wait_group 1;\n" ::: "memory");
  look(seen + 16, slot);
  asm volatile("cp.async.wait_group 0;\n" ::: "memory");
  look(seen + 32, slot);
  asm volatile("cp.async.wait_all;\n" ::: "memory");
  look(seen + 48, slot);
  copy_word(to, source, 4);
  asm volatile("cp.async.commit_group;\n" ::: "memory");
  asm volatile("cp.async.commit_group;\n" ::: "memory");
  asm volatile("cp.async.wait_group 1;\n" ::: "memory");
  look(seen + 64, slot);
}

// Threads with an even number wait, those with an odd one do not, all read what their neighbour copied.
__global__ void cp_async_neighbours(unsigned *seen, const unsigned *source) {
  __shared__ uint4 shared[128];
  const int t = threadIdx.x;
  volatile unsigned *slot = reinterpret_cast<volatile unsigned *>(shared + 4 * t);
  const unsigned to = prepare(slot);
  copy_word(to, source + 16 * t, 0);
  asm volatile("cp.async.commit_group;\n" ::: "memory");
  if (t % 2 == 0) asm volatile("cp.async.wait_group 0;\n" ::: "memory");
  __syncthreads();
  seen[t] = *reinterpret_cast<volatile unsigned *>(shared + 4 * (t ^ 1));
  __syncthreads();
  asm volatile("cp.async.wait_group 0;\n" ::: "memory");
}
