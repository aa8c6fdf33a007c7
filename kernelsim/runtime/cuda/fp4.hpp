// SPDX-License-Identifier: MIT
// cuda_fp4.h: E2M1 (CUDA Math API, "FP4 Intrinsics"). Conversion to it saturates; NaN becomes +6.
#pragma once
#include "fp8.hpp"

using __nv_fp4_storage_t = unsigned char;   // a code in the lower four bits
using __nv_fp4x2_storage_t = unsigned char; // the first element is in the lower four bits
using __nv_fp4x4_storage_t = unsigned short;
enum __nv_fp4_interpretation_t {
  __NV_E2M1
};

namespace ksim::cuda {
struct Fp4 {
  static constexpr int kBits = 4;
  static KSIM_INLINE unsigned int encode(float x) { return ksim::encode<E2m1, kNearestEven>(x); }
  static KSIM_INLINE unsigned int encode(double x) { return encode(to_float(x)); }
  static KSIM_INLINE float decode(unsigned int code) { return ksim::decode<E2m1>(code & 15); }
};
template <class T> KSIM_INLINE __nv_fp4_storage_t to_fp4(T wide, cudaRoundMode rounding) {
  const float x = to_float(wide);
  return __nv_fp4_storage_t(rounding == cudaRoundNearest  ? encode<E2m1, kNearestEven>(x)
                            : rounding == cudaRoundZero   ? encode<E2m1, kTowardZero>(x)
                            : rounding == cudaRoundPosInf ? encode<E2m1, kUp>(x)
                                                          : encode<E2m1, kDown>(x));
}
} // namespace ksim::cuda

struct __nv_fp4_e2m1 : ksim::cuda::NarrowOne<ksim::cuda::Fp4> {
  using NarrowOne::NarrowOne;
};
struct __nv_fp4x2_e2m1 : ksim::cuda::NarrowTwo<ksim::cuda::Fp4> {
  using NarrowTwo::NarrowTwo;
};
struct __nv_fp4x4_e2m1 : ksim::cuda::NarrowFour<ksim::cuda::Fp4> {
  using NarrowFour::NarrowFour;
};

#define KSIM_FP4(name, T, name2, T2)                                                                         \
  KSIM_INLINE __nv_fp4_storage_t __nv_cvt_##name##_to_fp4(T x, __nv_fp4_interpretation_t,                    \
                                                          cudaRoundMode rounding) {                          \
    return ksim::cuda::to_fp4(ksim::cuda::widened(x), rounding);                                             \
  }                                                                                                          \
  KSIM_INLINE __nv_fp4x2_storage_t __nv_cvt_##name2##_to_fp4x2(T2 x, __nv_fp4_interpretation_t,              \
                                                               cudaRoundMode rounding) {                     \
    const auto v = ksim::cuda::widened(x);                                                                   \
    return __nv_fp4x2_storage_t(ksim::cuda::to_fp4(v.x, rounding) | ksim::cuda::to_fp4(v.y, rounding) << 4); \
  }
KSIM_FP4(double, double, double2, double2)
KSIM_FP4(float, float, float2, float2)
KSIM_FP4(halfraw, __half_raw, halfraw2, __half2_raw)
KSIM_FP4(bfloat16raw, __nv_bfloat16_raw, bfloat16raw2, __nv_bfloat162_raw)
#undef KSIM_FP4
KSIM_INLINE __half_raw __nv_cvt_fp4_to_halfraw(__nv_fp4_storage_t x, __nv_fp4_interpretation_t) {
  return __half(ksim::cuda::Fp4::decode(x));
}
KSIM_INLINE __half2_raw __nv_cvt_fp4x2_to_halfraw2(__nv_fp4x2_storage_t x, __nv_fp4_interpretation_t) {
  return __half2(ksim::cuda::Fp4::decode(x), ksim::cuda::Fp4::decode(x >> 4));
}
