// SPDX-License-Identifier: MIT
// ldmatrix and stmatrix of 8-, 6- and 4-bit elements, one warp. For sm_120a.

// 64 rows of 16 bytes in shared memory; thread t gives the address of row rows[t] to the instruction.
__device__ unsigned fill(uint4 *shared, const uint4 *memory, const unsigned *rows) {
  const int t = threadIdx.x;
  shared[t] = memory[t];
  shared[t + 32] = memory[t + 32];
  __syncthreads();
  return static_cast<unsigned>(__cvta_generic_to_shared(shared + rows[t]));
}

__global__ void ldmatrix_m16n16_x1(unsigned *r, const uint4 *memory, const unsigned *rows) {
  __shared__ uint4 shared[64];
  const unsigned p = fill(shared, memory, rows);
  r += 2 * threadIdx.x;
  asm volatile("ldmatrix.sync.aligned.m16n16.x1.trans.shared.b8 {%0, %1}, [%2];\n"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(p));
}

__global__ void ldmatrix_m16n16_x2(unsigned *r, const uint4 *memory, const unsigned *rows) {
  __shared__ uint4 shared[64];
  const unsigned p = fill(shared, memory, rows);
  r += 4 * threadIdx.x;
  asm volatile("ldmatrix.sync.aligned.m16n16.x2.trans.shared.b8 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(p));
}

__global__ void ldmatrix_m8n16_b4(unsigned *r, const uint4 *memory, const unsigned *rows) {
  __shared__ uint4 shared[64];
  const unsigned p = fill(shared, memory, rows);
  r += 4 * threadIdx.x;
  asm volatile("ldmatrix.sync.aligned.m8n16.x4.shared.b8x16.b4x16_p64 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(p));
}

__global__ void ldmatrix_m8n16_b6(unsigned *r, const uint4 *memory, const unsigned *rows) {
  __shared__ uint4 shared[64];
  const unsigned p = fill(shared, memory, rows);
  r += 2 * threadIdx.x;
  asm volatile("ldmatrix.sync.aligned.m8n16.x2.shared.b8x16.b6x16_p32 {%0, %1}, [%2];\n"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(p));
}

// What the rows hold after something was stored to them.
__device__ void give_back(uint4 *memory, const uint4 *shared) {
  __syncthreads();
  memory[threadIdx.x] = shared[threadIdx.x];
  memory[threadIdx.x + 32] = shared[threadIdx.x + 32];
}

__global__ void stmatrix_m16n8_x2(const unsigned *r, uint4 *memory, const unsigned *rows) {
  __shared__ uint4 shared[64];
  const unsigned p = fill(shared, memory, rows);
  r += 2 * threadIdx.x;
  asm volatile("stmatrix.sync.aligned.m16n8.x2.trans.shared.b8 [%0], {%1, %2};\n"
               :
               : "r"(p), "r"(r[0]), "r"(r[1])
               : "memory");
  give_back(memory, shared);
}
