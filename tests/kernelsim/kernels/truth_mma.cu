// SPDX-License-Identifier: MIT
// One mma.sync per kernel, of registers as they come: of thread t of block b, registers a[(b * 32 + t) * n +
// i]. A block is one warp and one try. For sm_120a.

__global__ void m16n8k8_f32_f16(float *d, const unsigned *a, const unsigned *b, const float *c) {
  const int t = blockIdx.x * 32 + threadIdx.x;
  d += t * 4, a += t * 2, b += t, c += t * 4;
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
               "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %8, %9, %10};\n"
               : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(b[0]), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

__global__ void m16n8k8_f16_f16(unsigned *d, const unsigned *a, const unsigned *b, const unsigned *c) {
  const int t = blockIdx.x * 32 + threadIdx.x;
  d += t * 2, a += t * 2, b += t, c += t * 2;
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {%0, %1}, {%2, %3}, {%4}, {%5, %6};\n"
               : "=r"(d[0]), "=r"(d[1])
               : "r"(a[0]), "r"(a[1]), "r"(b[0]), "r"(c[0]), "r"(c[1]));
}

__global__ void m16n8k8_f32_bf16(float *d, const unsigned *a, const unsigned *b, const float *c) {
  const int t = blockIdx.x * 32 + threadIdx.x;
  d += t * 4, a += t * 2, b += t, c += t * 4;
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 "
               "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %8, %9, %10};\n"
               : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(b[0]), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

__global__ void m16n8k16_f32_f16(float *d, const unsigned *a, const unsigned *b, const float *c) {
  const int t = blockIdx.x * 32 + threadIdx.x;
  d += t * 4, a += t * 4, b += t * 2, c += t * 4;
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};\n"
               : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]),
                 "f"(c[2]), "f"(c[3]));
}

__global__ void m16n8k16_f16_f16(unsigned *d, const unsigned *a, const unsigned *b, const unsigned *c) {
  const int t = blockIdx.x * 32 + threadIdx.x;
  d += t * 2, a += t * 4, b += t * 2, c += t * 2;
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 "
               "{%0, %1}, {%2, %3, %4, %5}, {%6, %7}, {%8, %9};\n"
               : "=r"(d[0]), "=r"(d[1])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(c[0]), "r"(c[1]));
}

// The accumulator in place, as kernels write it.
__global__ void m16n8k16_f32_bf16(float *d, const unsigned *a, const unsigned *b, const float *c) {
  const int t = blockIdx.x * 32 + threadIdx.x;
  d += t * 4, a += t * 4, b += t * 2, c += t * 4;
  float x[4] = {c[0], c[1], c[2], c[3]};
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
               : "+f"(x[0]), "+f"(x[1]), "+f"(x[2]), "+f"(x[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  for (int i = 0; i < 4; ++i) d[i] = x[i];
}

__global__ void m16n8k4_f32_tf32(float *d, const unsigned *a, const unsigned *b, const float *c) {
  const int t = blockIdx.x * 32 + threadIdx.x;
  d += t * 4, a += t * 2, b += t, c += t * 4;
  asm volatile("mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32 "
               "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %8, %9, %10};\n"
               : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(b[0]), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

__global__ void m16n8k8_f32_tf32(float *d, const unsigned *a, const unsigned *b, const float *c) {
  const int t = blockIdx.x * 32 + threadIdx.x;
  d += t * 4, a += t * 4, b += t * 2, c += t * 4;
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};\n"
               : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]),
                 "f"(c[2]), "f"(c[3]));
}

__global__ void m16n8k16_s32_s8(int *d, const unsigned *a, const unsigned *b, const int *c) {
  const int t = blockIdx.x * 32 + threadIdx.x;
  d += t * 4, a += t * 2, b += t, c += t * 4;
  asm volatile("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 "
               "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %8, %9, %10};\n"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(b[0]), "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]));
}

__global__ void m16n8k16_s32_u8_s8(int *d, const unsigned *a, const unsigned *b, const int *c) {
  const int t = blockIdx.x * 32 + threadIdx.x;
  d += t * 4, a += t * 2, b += t, c += t * 4;
  asm volatile("mma.sync.aligned.m16n8k16.row.col.s32.u8.s8.s32 "
               "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %8, %9, %10};\n"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(b[0]), "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]));
}

__global__ void m16n8k32_s32_s8(int *d, const unsigned *a, const unsigned *b, const int *c) {
  const int t = blockIdx.x * 32 + threadIdx.x;
  d += t * 4, a += t * 4, b += t * 2, c += t * 4;
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};\n"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(c[0]), "r"(c[1]),
                 "r"(c[2]), "r"(c[3]));
}

__global__ void m16n8k32_s32_u8(int *d, const unsigned *a, const unsigned *b, const int *c) {
  const int t = blockIdx.x * 32 + threadIdx.x;
  d += t * 4, a += t * 4, b += t * 2, c += t * 4;
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.u8.s32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};\n"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(c[0]), "r"(c[1]),
                 "r"(c[2]), "r"(c[3]));
}

__global__ void m16n8k32_s32_s8_satfinite(int *d, const unsigned *a, const unsigned *b, const int *c) {
  const int t = blockIdx.x * 32 + threadIdx.x;
  d += t * 4, a += t * 4, b += t * 2, c += t * 4;
  asm volatile("mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8.s32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};\n"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(c[0]), "r"(c[1]),
                 "r"(c[2]), "r"(c[3]));
}

__global__ void m8n8k16_s32_s8(int *d, const unsigned *a, const unsigned *b, const int *c) {
  const int t = blockIdx.x * 32 + threadIdx.x;
  d += t * 2, a += t, b += t, c += t * 2;
  asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%4, %5};\n"
               : "=r"(d[0]), "=r"(d[1])
               : "r"(a[0]), "r"(b[0]), "r"(c[0]), "r"(c[1]));
}

__global__ void m8n8k32_s32_s4_u4(int *d, const unsigned *a, const unsigned *b, const int *c) {
  const int t = blockIdx.x * 32 + threadIdx.x;
  d += t * 2, a += t, b += t, c += t * 2;
  asm volatile("mma.sync.aligned.m8n8k32.row.col.s32.s4.u4.s32 {%0, %1}, {%2}, {%3}, {%4, %5};\n"
               : "=r"(d[0]), "=r"(d[1])
               : "r"(a[0]), "r"(b[0]), "r"(c[0]), "r"(c[1]));
}

__global__ void m16n8k32_s32_s4(int *d, const unsigned *a, const unsigned *b, const int *c) {
  const int t = blockIdx.x * 32 + threadIdx.x;
  d += t * 4, a += t * 2, b += t, c += t * 4;
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s4.s4.s32 "
               "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %8, %9, %10};\n"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(b[0]), "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]));
}

__global__ void m16n8k64_s32_u4_s4(int *d, const unsigned *a, const unsigned *b, const int *c) {
  const int t = blockIdx.x * 32 + threadIdx.x;
  d += t * 4, a += t * 4, b += t * 2, c += t * 4;
  asm volatile("mma.sync.aligned.m16n8k64.row.col.s32.u4.s4.s32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};\n"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(c[0]), "r"(c[1]),
                 "r"(c[2]), "r"(c[3]));
}
