// SPDX-License-Identifier: MIT
// cvt of every kind that kernels of language models use: thread t converts its inputs, result k goes to d[k * n
// + t]. The tests list the same in the same order. For sm_120a.

__global__ void from_f32(unsigned *d, const float *x) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
  unsigned short h;
  d += t;
  asm("cvt.rn.f16.f32 %0, %1;\n" : "=h"(h) : "f"(x[t]));
  d[0] = h;
  asm("cvt.rz.f16.f32 %0, %1;\n" : "=h"(h) : "f"(x[t]));
  d[n] = h;
  asm("cvt.rn.satfinite.f16.f32 %0, %1;\n" : "=h"(h) : "f"(x[t]));
  d[2 * n] = h;
  asm("cvt.rn.relu.f16.f32 %0, %1;\n" : "=h"(h) : "f"(x[t]));
  d[3 * n] = h;
  asm("cvt.rn.bf16.f32 %0, %1;\n" : "=h"(h) : "f"(x[t]));
  d[4 * n] = h;
  asm("cvt.rz.bf16.f32 %0, %1;\n" : "=h"(h) : "f"(x[t]));
  d[5 * n] = h;
  asm("cvt.rn.relu.bf16.f32 %0, %1;\n" : "=h"(h) : "f"(x[t]));
  d[6 * n] = h;
  asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(d[7 * n]) : "f"(x[t]));
  asm("cvt.rn.tf32.f32 %0, %1;\n" : "=r"(d[8 * n]) : "f"(x[t]));
  asm("cvt.rz.tf32.f32 %0, %1;\n" : "=r"(d[9 * n]) : "f"(x[t]));
}

// x becomes the upper half, y the lower.
__global__ void pairs_from_f32(unsigned *d, const float *x, const float *y) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
  unsigned short h;
  d += t;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;\n" : "=r"(d[0]) : "f"(x[t]), "f"(y[t]));
  asm("cvt.rz.f16x2.f32 %0, %1, %2;\n" : "=r"(d[n]) : "f"(x[t]), "f"(y[t]));
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(d[2 * n]) : "f"(x[t]), "f"(y[t]));
  asm("cvt.rn.relu.bf16x2.f32 %0, %1, %2;\n" : "=r"(d[3 * n]) : "f"(x[t]), "f"(y[t]));
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;\n" : "=h"(h) : "f"(x[t]), "f"(y[t]));
  d[4 * n] = h;
  asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;\n" : "=h"(h) : "f"(x[t]), "f"(y[t]));
  d[5 * n] = h;
  asm("cvt.rn.satfinite.relu.e4m3x2.f32 %0, %1, %2;\n" : "=h"(h) : "f"(x[t]), "f"(y[t]));
  d[6 * n] = h;
  asm("cvt.rn.satfinite.e2m3x2.f32 %0, %1, %2;\n" : "=h"(h) : "f"(x[t]), "f"(y[t]));
  d[7 * n] = h;
  asm("cvt.rn.satfinite.e3m2x2.f32 %0, %1, %2;\n" : "=h"(h) : "f"(x[t]), "f"(y[t]));
  d[8 * n] = h;
  asm("cvt.rz.satfinite.ue8m0x2.f32 %0, %1, %2;\n" : "=h"(h) : "f"(x[t]), "f"(y[t]));
  d[9 * n] = h;
  asm("cvt.rp.satfinite.ue8m0x2.f32 %0, %1, %2;\n" : "=h"(h) : "f"(x[t]), "f"(y[t]));
  d[10 * n] = h;
  asm("cvt.rp.ue8m0x2.f32 %0, %1, %2;\n" : "=h"(h) : "f"(x[t]), "f"(y[t]));
  d[11 * n] = h;
  asm("{\n"
      "  .reg .b8 e;\n"
      "  cvt.rn.satfinite.e2m1x2.f32 e, %1, %2;\n"
      "  cvt.u32.u8 %0, e;\n"
      "}\n"
      : "=r"(d[12 * n])
      : "f"(x[t]), "f"(y[t]));
  asm("{\n"
      "  .reg .b8 e;\n"
      "  cvt.rn.satfinite.relu.e2m1x2.f32 e, %1, %2;\n"
      "  cvt.u32.u8 %0, e;\n"
      "}\n"
      : "=r"(d[13 * n])
      : "f"(x[t]), "f"(y[t]));
}

// u holds two 16-bit numbers.
__global__ void pairs_from_16(unsigned *d, const unsigned *u) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
  unsigned short h;
  d += t;
  asm("cvt.rn.satfinite.e4m3x2.f16x2 %0, %1;\n" : "=h"(h) : "r"(u[t]));
  d[0] = h;
  asm("cvt.rn.satfinite.e5m2x2.f16x2 %0, %1;\n" : "=h"(h) : "r"(u[t]));
  d[n] = h;
  asm("cvt.rp.satfinite.ue8m0x2.bf16x2 %0, %1;\n" : "=h"(h) : "r"(u[t]));
  d[2 * n] = h;
}

// h holds two 8-bit numbers, or in its low byte two of 4.
__global__ void pairs_from_8(unsigned *d, const unsigned short *h) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
  d += t;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;\n" : "=r"(d[0]) : "h"(h[t]));
  asm("cvt.rn.f16x2.e5m2x2 %0, %1;\n" : "=r"(d[n]) : "h"(h[t]));
  asm("cvt.rn.f16x2.e2m3x2 %0, %1;\n" : "=r"(d[2 * n]) : "h"(h[t]));
  asm("cvt.rn.f16x2.e3m2x2 %0, %1;\n" : "=r"(d[3 * n]) : "h"(h[t]));
  asm("cvt.rn.bf16x2.ue8m0x2 %0, %1;\n" : "=r"(d[4 * n]) : "h"(h[t]));
  asm("{\n"
      "  .reg .b8 e, unused;\n"
      "  mov.b16 {e, unused}, %1;\n"
      "  cvt.rn.f16x2.e2m1x2 %0, e;\n"
      "}\n"
      : "=r"(d[5 * n])
      : "h"(h[t]));
}

__global__ void f32_from_16(unsigned *d, const unsigned short *h) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
  float x;
  d += t;
  asm("cvt.f32.f16 %0, %1;\n" : "=f"(x) : "h"(h[t]));
  d[0] = __float_as_uint(x);
  asm("cvt.f32.bf16 %0, %1;\n" : "=f"(x) : "h"(h[t]));
  d[n] = __float_as_uint(x);
}

// "Float-to-int saturates by default." Narrow results arrive extended to the register.
__global__ void integers_from_f32(unsigned *d, const float *x) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
  unsigned long long w;
  d += t;
  asm("cvt.rni.s32.f32 %0, %1;\n" : "=r"(d[0]) : "f"(x[t]));
  asm("cvt.rzi.s32.f32 %0, %1;\n" : "=r"(d[n]) : "f"(x[t]));
  asm("cvt.rmi.s32.f32 %0, %1;\n" : "=r"(d[2 * n]) : "f"(x[t]));
  asm("cvt.rpi.s32.f32 %0, %1;\n" : "=r"(d[3 * n]) : "f"(x[t]));
  asm("cvt.rni.u32.f32 %0, %1;\n" : "=r"(d[4 * n]) : "f"(x[t]));
  asm("cvt.rzi.u32.f32 %0, %1;\n" : "=r"(d[5 * n]) : "f"(x[t]));
  asm("cvt.rni.s8.f32 %0, %1;\n" : "=r"(d[6 * n]) : "f"(x[t]));
  asm("cvt.rni.sat.u8.f32 %0, %1;\n" : "=r"(d[7 * n]) : "f"(x[t]));
  asm("cvt.rzi.s16.f32 %0, %1;\n" : "=r"(d[8 * n]) : "f"(x[t]));
  asm("cvt.rzi.u16.f32 %0, %1;\n" : "=r"(d[9 * n]) : "f"(x[t]));
  asm("cvt.rzi.s64.f32 %0, %1;\n" : "=l"(w) : "f"(x[t]));
  d[10 * n] = static_cast<unsigned>(w), d[11 * n] = static_cast<unsigned>(w >> 32);
  asm("cvt.rni.u64.f32 %0, %1;\n" : "=l"(w) : "f"(x[t]));
  d[12 * n] = static_cast<unsigned>(w), d[13 * n] = static_cast<unsigned>(w >> 32);
  asm("cvt.rni.s32.f64 %0, %1;\n" : "=r"(d[14 * n]) : "d"(static_cast<double>(x[t])));
}

__global__ void integers_from_integers(unsigned *d, const int *a, const int *b, const unsigned *c) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
  d += t;
  asm("cvt.sat.s8.s32 %0, %1;\n" : "=r"(d[0]) : "r"(a[t]));
  asm("cvt.sat.u8.s32 %0, %1;\n" : "=r"(d[n]) : "r"(a[t]));
  asm("cvt.sat.s16.s32 %0, %1;\n" : "=r"(d[2 * n]) : "r"(a[t]));
  asm("cvt.sat.u32.s32 %0, %1;\n" : "=r"(d[3 * n]) : "r"(a[t]));
  asm("cvt.sat.u8.u32 %0, %1;\n" : "=r"(d[4 * n]) : "r"(a[t]));
  asm("cvt.u32.u8 %0, %1;\n" : "=r"(d[5 * n]) : "r"(a[t]));
  asm("cvt.s32.s8 %0, %1;\n" : "=r"(d[6 * n]) : "r"(a[t]));
  asm("cvt.pack.sat.s8.s32.b32 %0, %1, %2, %3;\n" : "=r"(d[7 * n]) : "r"(a[t]), "r"(b[t]), "r"(c[t]));
  asm("cvt.pack.sat.u8.s32.b32 %0, %1, %2, %3;\n" : "=r"(d[8 * n]) : "r"(a[t]), "r"(b[t]), "r"(c[t]));
  asm("cvt.pack.sat.s16.s32 %0, %1, %2;\n" : "=r"(d[9 * n]) : "r"(a[t]), "r"(b[t]));
}

__global__ void f32_from_integers(float *d, const int *a) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
  d += t;
  asm("cvt.rn.f32.s32 %0, %1;\n" : "=f"(d[0]) : "r"(a[t]));
  asm("cvt.rn.f32.u32 %0, %1;\n" : "=f"(d[n]) : "r"(a[t]));
  asm("cvt.rz.f32.s32 %0, %1;\n" : "=f"(d[2 * n]) : "r"(a[t]));
  asm("cvt.rn.f32.s8 %0, %1;\n" : "=f"(d[3 * n]) : "r"(a[t]));
  asm("cvt.rn.f32.u16 %0, %1;\n" : "=f"(d[4 * n]) : "r"(a[t]));
}

__global__ void f32_from_f32(float *d, const float *x) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
  d += t;
  asm("cvt.rni.f32.f32 %0, %1;\n" : "=f"(d[0]) : "f"(x[t]));
  asm("cvt.rzi.f32.f32 %0, %1;\n" : "=f"(d[n]) : "f"(x[t]));
  asm("cvt.rmi.f32.f32 %0, %1;\n" : "=f"(d[2 * n]) : "f"(x[t]));
  asm("cvt.rpi.f32.f32 %0, %1;\n" : "=f"(d[3 * n]) : "f"(x[t]));
  asm("cvt.sat.f32.f32 %0, %1;\n" : "=f"(d[4 * n]) : "f"(x[t]));
}
