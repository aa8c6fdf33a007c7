// SPDX-License-Identifier: MIT
// Conversions of the types in cuda_fp16.h, cuda_bf16.h, cuda_fp8.h and cuda_fp4.h; result k of thread t is d[k
// * n + t].
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp4.h>
#include <cuda_fp8.h>

__global__ void to_16_bits(unsigned short *d, const float *x) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
  d += t;
  d[0] = __half_as_ushort(__float2half(x[t]));
  d[n] = __half_as_ushort(__float2half_rn(x[t]));
  d[2 * n] = __half_as_ushort(__float2half_rz(x[t]));
  d[3 * n] = __half_as_ushort(__low2half(__floats2half2_rn(x[t], 0.0f)));
  d[4 * n] = __half_as_ushort(static_cast<__half>(x[t]));
  d[5 * n] = __bfloat16_as_ushort(__float2bfloat16(x[t]));
  d[6 * n] = __bfloat16_as_ushort(__float2bfloat16_rz(x[t]));
  d[7 * n] = __bfloat16_as_ushort(__high2bfloat16(__floats2bfloat162_rn(0.0f, x[t])));
  d[8 * n] = __bfloat16_as_ushort(static_cast<__nv_bfloat16>(x[t]));
}

__global__ void from_16_bits(float *d, const unsigned short *h) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
  d += t;
  d[0] = __half2float(__ushort_as_half(h[t]));
  d[n] = __half22float2(__halves2half2(__ushort_as_half(0), __ushort_as_half(h[t]))).y;
  d[2 * n] = __bfloat162float(__ushort_as_bfloat16(h[t]));
  d[3 * n] = __bfloat1622float2(__halves2bfloat162(__ushort_as_bfloat16(h[t]), __ushort_as_bfloat16(0))).x;
}

__global__ void to_8_bits(unsigned char *d, const float *x) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
  d += t;
  d[0] = __nv_cvt_float_to_fp8(x[t], __NV_SATFINITE, __NV_E4M3);
  d[n] = __nv_cvt_float_to_fp8(x[t], __NV_NOSAT, __NV_E4M3);
  d[2 * n] = __nv_cvt_float_to_fp8(x[t], __NV_SATFINITE, __NV_E5M2);
  d[3 * n] = __nv_cvt_float_to_fp8(x[t], __NV_NOSAT, __NV_E5M2);
  d[4 * n] = __nv_fp8_e4m3(x[t]).__x;
  d[5 * n] = __nv_fp8_e5m2(x[t]).__x;
  d[6 * n] = static_cast<unsigned char>(
      __nv_cvt_float2_to_fp8x2(make_float2(1.0f, x[t]), __NV_SATFINITE, __NV_E4M3) >> 8);
  d[7 * n] = __nv_cvt_halfraw_to_fp8(__float2half(x[t]), __NV_SATFINITE, __NV_E4M3);
  d[8 * n] = __nv_cvt_float_to_e8m0(x[t], __NV_SATFINITE, cudaRoundPosInf);
  d[9 * n] = __nv_cvt_float_to_e8m0(x[t], __NV_SATFINITE, cudaRoundZero);
  d[10 * n] = __nv_cvt_float_to_fp4(x[t], __NV_E2M1, cudaRoundNearest);
  d[11 * n] = __nv_cvt_float2_to_fp4x2(make_float2(x[t], 6.0f), __NV_E2M1, cudaRoundNearest);
}

__global__ void from_8_bits(float *d, const unsigned char *b) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
  __nv_fp8_e4m3 e;
  __nv_fp8_e5m2 f;
  d += t;
  e.__x = f.__x = b[t];
  d[0] = static_cast<float>(e);
  d[n] = static_cast<float>(f);
  d[2 * n] = __half2float(__half(__nv_cvt_fp8_to_halfraw(b[t], __NV_E4M3)));
  d[3 * n] = __half2float(__half(__nv_cvt_fp8_to_halfraw(b[t], __NV_E5M2)));
  d[4 * n] = __high2float(
      __half2(__nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(b[t] << 8), __NV_E4M3)));
  d[5 * n] = __half2float(__half(__nv_cvt_fp4_to_halfraw(b[t] & 15, __NV_E2M1)));
  d[6 * n] = __low2float(__half2(__nv_cvt_fp4x2_to_halfraw2(b[t], __NV_E2M1)));
}
