// SPDX-License-Identifier: MIT
// Reductions of floats in a warp, as truth_warp.cu. For sm_100a, which alone has them.

__global__ void reductions(float *d, const float *a, const unsigned *mask) {
  const int t = blockIdx.x * 32 + threadIdx.x, n = gridDim.x * 32;
  const unsigned m = mask[blockIdx.x];
  if (!(m >> threadIdx.x & 1)) return;
  d += t;
  asm volatile("redux.sync.min.f32 %0, %1, %2;\n" : "=f"(d[0]) : "f"(a[t]), "r"(m));
  asm volatile("redux.sync.max.f32 %0, %1, %2;\n" : "=f"(d[n]) : "f"(a[t]), "r"(m));
  asm volatile("redux.sync.min.abs.f32 %0, %1, %2;\n" : "=f"(d[2 * n]) : "f"(a[t]), "r"(m));
  asm volatile("redux.sync.max.NaN.f32 %0, %1, %2;\n" : "=f"(d[3 * n]) : "f"(a[t]), "r"(m));
  asm volatile("redux.sync.max.abs.NaN.f32 %0, %1, %2;\n" : "=f"(d[4 * n]) : "f"(a[t]), "r"(m));
}
