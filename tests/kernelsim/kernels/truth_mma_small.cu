// SPDX-License-Identifier: MIT
// As truth_mma.cu: mma.sync of 8-, 6- and 4-bit floating-point elements, without scales and with. For sm_120a.

__global__ void m16n8k32_f32_e4m3(float *d, const unsigned *a, const unsigned *b, const float *c) {
  const int t = blockIdx.x * 32 + threadIdx.x;
  d += t * 4, a += t * 4, b += t * 2, c += t * 4;
  asm volatile("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};\n"
               : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]),
                 "f"(c[2]), "f"(c[3]));
}

__global__ void m16n8k32_f32_e5m2_e4m3(float *d, const unsigned *a, const unsigned *b, const float *c) {
  const int t = blockIdx.x * 32 + threadIdx.x;
  d += t * 4, a += t * 4, b += t * 2, c += t * 4;
  asm volatile("mma.sync.aligned.m16n8k32.row.col.f32.e5m2.e4m3.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};\n"
               : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]),
                 "f"(c[2]), "f"(c[3]));
}

__global__ void m16n8k32_f16_e4m3(unsigned *d, const unsigned *a, const unsigned *b, const unsigned *c) {
  const int t = blockIdx.x * 32 + threadIdx.x;
  d += t * 2, a += t * 4, b += t * 2, c += t * 2;
  asm volatile("mma.sync.aligned.m16n8k32.row.col.f16.e4m3.e4m3.f16 "
               "{%0, %1}, {%2, %3, %4, %5}, {%6, %7}, {%8, %9};\n"
               : "=r"(d[0]), "=r"(d[1])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(c[0]), "r"(c[1]));
}

__global__ void m16n8k16_f32_e5m2(float *d, const unsigned *a, const unsigned *b, const float *c) {
  const int t = blockIdx.x * 32 + threadIdx.x;
  d += t * 4, a += t * 2, b += t, c += t * 4;
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.e5m2.e5m2.f32 "
               "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %8, %9, %10};\n"
               : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(b[0]), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

__global__ void m16n8k32_f32_f8f6f4_e2m1(float *d, const unsigned *a, const unsigned *b, const float *c) {
  const int t = blockIdx.x * 32 + threadIdx.x;
  d += t * 4, a += t * 4, b += t * 2, c += t * 4;
  asm volatile("mma.sync.aligned.kind::f8f6f4.m16n8k32.row.col.f32.e2m1.e2m1.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};\n"
               : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]),
                 "f"(c[2]), "f"(c[3]));
}

__global__ void m16n8k32_f32_f8f6f4_e4m3_e2m1(float *d, const unsigned *a, const unsigned *b, const float *c) {
  const int t = blockIdx.x * 32 + threadIdx.x;
  d += t * 4, a += t * 4, b += t * 2, c += t * 4;
  asm volatile("mma.sync.aligned.kind::f8f6f4.m16n8k32.row.col.f32.e4m3.e2m1.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};\n"
               : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]),
                 "f"(c[2]), "f"(c[3]));
}

__global__ void m16n8k32_f32_f8f6f4_e3m2_e2m3(float *d, const unsigned *a, const unsigned *b, const float *c) {
  const int t = blockIdx.x * 32 + threadIdx.x;
  d += t * 4, a += t * 4, b += t * 2, c += t * 4;
  asm volatile("mma.sync.aligned.m16n8k32.row.col.kind::f8f6f4.f32.e3m2.e2m3.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};\n"
               : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]),
                 "f"(c[2]), "f"(c[3]));
}

__global__ void m16n8k32_f16_f8f6f4_e2m3_e5m2(unsigned *d, const unsigned *a, const unsigned *b,
                                              const unsigned *c) {
  const int t = blockIdx.x * 32 + threadIdx.x;
  d += t * 2, a += t * 4, b += t * 2, c += t * 2;
  asm volatile("mma.sync.aligned.m16n8k32.row.col.kind::f8f6f4.f16.e2m3.e5m2.f16 "
               "{%0, %1}, {%2, %3, %4, %5}, {%6, %7}, {%8, %9};\n"
               : "=r"(d[0]), "=r"(d[1])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(c[0]), "r"(c[1]));
}

// .kind::mxf4 without .scale_vec_size: "it defaults to 2X". Selectors are those of one launch.
struct Selectors {
  unsigned short byte_a, thread_a, byte_b, thread_b;
};

__global__ void m16n8k32_mxf8f6f4_e4m3(float *d, const unsigned *a, const unsigned *b, const float *c,
                                       const unsigned *scale_a, const unsigned *scale_b, const Selectors *s) {
  const int t = blockIdx.x * 32 + threadIdx.x;
  d += t * 4, a += t * 4, b += t * 2, c += t * 4;
  asm volatile(
      "mma.sync.aligned.kind::mxf8f6f4.block_scale.scale_vec::1X.m16n8k32.row.col.f32.e4m3.e4m3.f32.ue8m0 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13}, "
      "%14, {%15, %16}, %17, {%18, %19};\n"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]),
        "f"(c[3]), "r"(scale_a[t]), "h"(s->byte_a), "h"(s->thread_a), "r"(scale_b[t]), "h"(s->byte_b),
        "h"(s->thread_b));
}

__global__ void m16n8k32_mxf8f6f4_e2m1_e5m2(float *d, const unsigned *a, const unsigned *b, const float *c,
                                            const unsigned *scale_a, const unsigned *scale_b,
                                            const Selectors *s) {
  const int t = blockIdx.x * 32 + threadIdx.x;
  d += t * 4, a += t * 4, b += t * 2, c += t * 4;
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.kind::mxf8f6f4.block_scale.scale_vec::1X.f32.e2m1.e5m2.f32.ue8m0 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13}, "
      "%14, {%15, %16}, %17, {%18, %19};\n"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]),
        "f"(c[3]), "r"(scale_a[t]), "h"(s->byte_a), "h"(s->thread_a), "r"(scale_b[t]), "h"(s->byte_b),
        "h"(s->thread_b));
}

__global__ void m16n8k32_mxf8f6f4_e3m2_e2m3(float *d, const unsigned *a, const unsigned *b, const float *c,
                                            const unsigned *scale_a, const unsigned *scale_b,
                                            const Selectors *s) {
  const int t = blockIdx.x * 32 + threadIdx.x;
  d += t * 4, a += t * 4, b += t * 2, c += t * 4;
  asm volatile(
      "mma.sync.aligned.kind::mxf8f6f4.block_scale.scale_vec::1X.m16n8k32.row.col.f32.e3m2.e2m3.f32.ue8m0 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13}, "
      "%14, {%15, %16}, %17, {%18, %19};\n"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]),
        "f"(c[3]), "r"(scale_a[t]), "h"(s->byte_a), "h"(s->thread_a), "r"(scale_b[t]), "h"(s->byte_b),
        "h"(s->thread_b));
}

__global__ void m16n8k64_mxf4(float *d, const unsigned *a, const unsigned *b, const float *c,
                              const unsigned *scale_a, const unsigned *scale_b, const Selectors *s) {
  const int t = blockIdx.x * 32 + threadIdx.x;
  d += t * 4, a += t * 4, b += t * 2, c += t * 4;
  asm volatile("mma.sync.aligned.kind::mxf4.block_scale.m16n8k64.row.col.f32.e2m1.e2m1.f32.ue8m0 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13}, "
               "%14, {%15, %16}, %17, {%18, %19};\n"
               : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]),
                 "f"(c[2]), "f"(c[3]), "r"(scale_a[t]), "h"(s->byte_a), "h"(s->thread_a), "r"(scale_b[t]),
                 "h"(s->byte_b), "h"(s->thread_b));
}

__global__ void m16n8k64_mxf4nvf4_2x(float *d, const unsigned *a, const unsigned *b, const float *c,
                                     const unsigned *scale_a, const unsigned *scale_b, const Selectors *s) {
  const int t = blockIdx.x * 32 + threadIdx.x;
  d += t * 4, a += t * 4, b += t * 2, c += t * 4;
  asm volatile(
      "mma.sync.aligned.m16n8k64.row.col.kind::mxf4nvf4.block_scale.scale_vec::2X.f32.e2m1.e2m1.f32.ue8m0 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13}, "
      "%14, {%15, %16}, %17, {%18, %19};\n"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]),
        "f"(c[3]), "r"(scale_a[t]), "h"(s->byte_a), "h"(s->thread_a), "r"(scale_b[t]), "h"(s->byte_b),
        "h"(s->thread_b));
}

__global__ void m16n8k64_mxf4nvf4_4x(float *d, const unsigned *a, const unsigned *b, const float *c,
                                     const unsigned *scale_a, const unsigned *scale_b, const Selectors *s) {
  const int t = blockIdx.x * 32 + threadIdx.x;
  d += t * 4, a += t * 4, b += t * 2, c += t * 4;
  asm volatile(
      "mma.sync.aligned.kind::mxf4nvf4.block_scale.scale_vec::4X.m16n8k64.row.col.f32.e2m1.e2m1.f32.ue4m3 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13}, "
      "{%14}, {%15, %16}, {%17}, {%18, %19};\n"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]),
        "f"(c[3]), "r"(scale_a[t]), "h"(s->byte_a), "h"(s->thread_a), "r"(scale_b[t]), "h"(s->byte_b),
        "h"(s->thread_b));
}
