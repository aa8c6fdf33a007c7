// SPDX-License-Identifier: MIT
// cvt between 16-, 32- and 64-bit numbers, and modifiers that truth_convert.cu leaves out. The tests list the
// same in the same order. For sm_120a.

__global__ void from_f32_modified(unsigned *d, const float *x) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
  unsigned short h;
  d += t;
  asm("cvt.rna.satfinite.tf32.f32 %0, %1;\n" : "=r"(d[0]) : "f"(x[t]));
  asm("cvt.rn.relu.tf32.f32 %0, %1;\n" : "=r"(d[n]) : "f"(x[t]));
  asm("cvt.rz.satfinite.bf16.f32 %0, %1;\n" : "=h"(h) : "f"(x[t]));
  d[2 * n] = h;
  asm("cvt.rn.ftz.f16.f32 %0, %1;\n" : "=h"(h) : "f"(x[t]));
  d[3 * n] = h;
  asm("cvt.rm.f16.f32 %0, %1;\n" : "=h"(h) : "f"(x[t]));
  d[4 * n] = h;
  asm("cvt.rp.f16.f32 %0, %1;\n" : "=h"(h) : "f"(x[t]));
  d[5 * n] = h;
  asm("cvt.rn.sat.f16.f32 %0, %1;\n" : "=h"(h) : "f"(x[t]));
  d[6 * n] = h;
  asm("cvt.rzi.ftz.s32.f32 %0, %1;\n" : "=r"(d[7 * n]) : "f"(x[t]));
}

__global__ void from_f16x2_modified(unsigned *d, const unsigned *u) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
  unsigned short h;
  d += t;
  asm("cvt.rn.satfinite.relu.e4m3x2.f16x2 %0, %1;\n" : "=h"(h) : "r"(u[t]));
  d[0] = h;
  asm("cvt.rn.satfinite.relu.e5m2x2.f16x2 %0, %1;\n" : "=h"(h) : "r"(u[t]));
  d[n] = h;
  asm("cvt.rz.ue8m0x2.bf16x2 %0, %1;\n" : "=h"(h) : "r"(u[t]));
  d[2 * n] = h;
}

__global__ void from_8_bits_modified(unsigned *d, const unsigned short *h) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
  d += t;
  asm("cvt.rn.relu.f16x2.e4m3x2 %0, %1;\n" : "=r"(d[0]) : "h"(h[t]));
  asm("cvt.rn.relu.f16x2.e5m2x2 %0, %1;\n" : "=r"(d[n]) : "h"(h[t]));
}

__global__ void from_16_bits(unsigned *d, const unsigned short *x) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
  unsigned short h;
  d += t;
  asm("cvt.rn.bf16.f16 %0, %1;\n" : "=h"(h) : "h"(x[t]));
  d[0] = h;
  asm("cvt.rn.f16.bf16 %0, %1;\n" : "=h"(h) : "h"(x[t]));
  d[n] = h;
  asm("cvt.rni.s32.f16 %0, %1;\n" : "=r"(d[2 * n]) : "h"(x[t]));
  asm("cvt.rzi.u8.f16 %0, %1;\n" : "=r"(d[3 * n]) : "h"(x[t]));
  asm("cvt.rni.s32.bf16 %0, %1;\n" : "=r"(d[4 * n]) : "h"(x[t]));
  asm("cvt.rni.f16.f16 %0, %1;\n" : "=h"(h) : "h"(x[t]));
  d[5 * n] = h;
  asm("cvt.rzi.f16.f16 %0, %1;\n" : "=h"(h) : "h"(x[t]));
  d[6 * n] = h;
}

__global__ void f64_from_16_bits(double *d, const unsigned short *x) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
  d += t;
  asm("cvt.f64.f16 %0, %1;\n" : "=d"(d[0]) : "h"(x[t]));
  asm("cvt.f64.bf16 %0, %1;\n" : "=d"(d[n]) : "h"(x[t]));
}

__global__ void from_f64(float *d, const double *x) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
  d += t;
  asm("cvt.rn.f32.f64 %0, %1;\n" : "=f"(d[0]) : "d"(x[t]));
  asm("cvt.rz.f32.f64 %0, %1;\n" : "=f"(d[n]) : "d"(x[t]));
  asm("cvt.rm.f32.f64 %0, %1;\n" : "=f"(d[2 * n]) : "d"(x[t]));
  asm("cvt.rp.f32.f64 %0, %1;\n" : "=f"(d[3 * n]) : "d"(x[t]));
}

__global__ void f16_from_f64(unsigned *d, const double *x) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
  unsigned short h;
  d += t;
  asm("cvt.rn.f16.f64 %0, %1;\n" : "=h"(h) : "d"(x[t]));
  d[0] = h;
  asm("cvt.rn.bf16.f64 %0, %1;\n" : "=h"(h) : "d"(x[t]));
  d[n] = h;
}

__global__ void f64_from_f64(double *d, const double *x) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
  d += t;
  asm("cvt.rni.f64.f64 %0, %1;\n" : "=d"(d[0]) : "d"(x[t]));
  asm("cvt.rpi.f64.f64 %0, %1;\n" : "=d"(d[n]) : "d"(x[t]));
}

__global__ void f64_from_f32(double *d, const float *x) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x;
  d += t;
  asm("cvt.f64.f32 %0, %1;\n" : "=d"(d[0]) : "f"(x[t]));
}

__global__ void f16_from_integers(unsigned *d, const int *a) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
  unsigned short h;
  d += t;
  asm("cvt.rn.f16.s32 %0, %1;\n" : "=h"(h) : "r"(a[t]));
  d[0] = h;
  asm("cvt.rn.f16.u8 %0, %1;\n" : "=h"(h) : "r"(a[t]));
  d[n] = h;
  asm("cvt.rz.f16.s32 %0, %1;\n" : "=h"(h) : "r"(a[t]));
  d[2 * n] = h;
  asm("cvt.rn.bf16.s32 %0, %1;\n" : "=h"(h) : "r"(a[t]));
  d[3 * n] = h;
  asm("cvt.rn.bf16.u16 %0, %1;\n" : "=h"(h) : "h"(static_cast<unsigned short>(a[t])));
  d[4 * n] = h;
}

__global__ void f32_from_64_bits(float *d, const long long *a) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
  d += t;
  asm("cvt.rn.f32.s64 %0, %1;\n" : "=f"(d[0]) : "l"(a[t]));
  asm("cvt.rn.f32.u64 %0, %1;\n" : "=f"(d[n]) : "l"(a[t]));
}

__global__ void integers_widened(long long *d, const int *a) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
  d += t;
  asm("cvt.s64.s32 %0, %1;\n" : "=l"(d[0]) : "r"(a[t]));
  asm("cvt.u64.u32 %0, %1;\n" : "=l"(d[n]) : "r"(a[t]));
  asm("cvt.s64.s8 %0, %1;\n" : "=l"(d[2 * n]) : "r"(a[t]));
  asm("cvt.u64.u16 %0, %1;\n" : "=l"(d[3 * n]) : "r"(a[t]));
}
