// SPDX-License-Identifier: MIT
// cuda_fp8.h: E4M3, E5M2 and the scale E8M0 (CUDA Math API, "FP8 Intrinsics").
#pragma once
#include "narrow.hpp"

using __nv_fp8_storage_t = unsigned char;
using __nv_fp8x2_storage_t = unsigned short; // the first element is in the lower bits
using __nv_fp8x4_storage_t = unsigned int;
enum __nv_saturation_t {
  __NV_NOSAT,    // overflow becomes infinity, in E4M3, which has none, NaN
  __NV_SATFINITE // overflow and infinity become the greatest finite value
};
enum __nv_fp8_interpretation_t {
  __NV_E4M3,
  __NV_E5M2
};

namespace ksim::cuda {
// cuda_fp8.h converts double by itself, on devices too: NaN keeps its sign, in E5M2 its upper bits as well.
template <class F> KSIM_INLINE unsigned int nan_of(double x) {
  const auto bits = __builtin_bit_cast(unsigned long long, x);
  return (F::kSpecial == kIeee ? 0x7e | (bits >> 50 & 3) : 0x7f) | (unsigned int)(bits >> 63) << 7;
}
template <class F> struct Fp8 {
  static constexpr int kBits = 8;
  static KSIM_INLINE unsigned int encode(float x) { return ksim::encode<F, kNearestEven, kSaturate>(x); }
  static KSIM_INLINE unsigned int encode(double x) { return x == x ? encode(to_float(x)) : nan_of<F>(x); }
  static KSIM_INLINE float decode(unsigned int code) { return ksim::decode<F>(code); }
};
struct E8m0 {
  static constexpr int kBits = 8;
  static KSIM_INLINE unsigned int encode(float x) { return encode_e8m0<kUp, kSaturate>(x); }
  static KSIM_INLINE unsigned int encode(double x) { return encode(to_float(x)); }
  static KSIM_INLINE float decode(unsigned int code) { return decode_e8m0(code); }
};
template <class F> KSIM_INLINE unsigned int to_fp8(float x, __nv_saturation_t saturate) {
  return saturate == __NV_SATFINITE ? encode<F, kNearestEven, kSaturate>(x)
                                    : encode<F, kNearestEven, kToInfinity>(x);
}
KSIM_INLINE __nv_fp8_storage_t to_fp8(float x, __nv_saturation_t saturate, __nv_fp8_interpretation_t kind) {
  return __nv_fp8_storage_t(kind == __NV_E4M3 ? to_fp8<E4m3>(x, saturate) : to_fp8<E5m2>(x, saturate));
}
KSIM_INLINE __nv_fp8_storage_t to_fp8(double x, __nv_saturation_t saturate, __nv_fp8_interpretation_t kind) {
  if (x != x) return __nv_fp8_storage_t(kind == __NV_E4M3 ? nan_of<E4m3>(x) : nan_of<E5m2>(x));
  return to_fp8(to_float(x), saturate, kind);
}
KSIM_INLINE float of_fp8(unsigned int code, __nv_fp8_interpretation_t kind) {
  return kind == __NV_E4M3 ? decode<E4m3>(code & 0xff) : decode<E5m2>(code & 0xff);
}
template <Rounding kRounding> KSIM_INLINE unsigned int to_e8m0(float x, __nv_saturation_t saturate) {
  return saturate == __NV_SATFINITE ? ksim::encode_e8m0<kRounding, kSaturate>(x)
                                    : ksim::encode_e8m0<kRounding, kToInfinity>(x);
}
template <class T>
KSIM_INLINE __nv_fp8_storage_t to_e8m0(T wide, __nv_saturation_t saturate, cudaRoundMode rounding,
                                       Where where = here()) {
  const float x = to_float(wide);
  if (rounding != cudaRoundZero && rounding != cudaRoundPosInf)
    fail(kUndefined, where, "to E8M0 is rounded with cudaRoundZero or cudaRoundPosInf");
  return __nv_fp8_storage_t(rounding == cudaRoundZero ? to_e8m0<kTowardZero>(x, saturate)
                                                      : to_e8m0<kUp>(x, saturate));
}
} // namespace ksim::cuda

struct __nv_fp8_e4m3 : ksim::cuda::NarrowOne<ksim::cuda::Fp8<ksim::E4m3>> {
  using NarrowOne::NarrowOne;
};
struct __nv_fp8x2_e4m3 : ksim::cuda::NarrowTwo<ksim::cuda::Fp8<ksim::E4m3>> {
  using NarrowTwo::NarrowTwo;
};
struct __nv_fp8x4_e4m3 : ksim::cuda::NarrowFour<ksim::cuda::Fp8<ksim::E4m3>> {
  using NarrowFour::NarrowFour;
};
struct __nv_fp8_e5m2 : ksim::cuda::NarrowOne<ksim::cuda::Fp8<ksim::E5m2>> {
  using NarrowOne::NarrowOne;
};
struct __nv_fp8x2_e5m2 : ksim::cuda::NarrowTwo<ksim::cuda::Fp8<ksim::E5m2>> {
  using NarrowTwo::NarrowTwo;
};
struct __nv_fp8x4_e5m2 : ksim::cuda::NarrowFour<ksim::cuda::Fp8<ksim::E5m2>> {
  using NarrowFour::NarrowFour;
};
struct __nv_fp8_e8m0 : ksim::cuda::NarrowOne<ksim::cuda::E8m0> {
  using NarrowOne::NarrowOne;
};
struct __nv_fp8x2_e8m0 : ksim::cuda::NarrowTwo<ksim::cuda::E8m0> {
  using NarrowTwo::NarrowTwo;
};
struct __nv_fp8x4_e8m0 : ksim::cuda::NarrowFour<ksim::cuda::E8m0> {
  using NarrowFour::NarrowFour;
};

// ---- Conversions of codes

#define KSIM_FP8(name, T, name2, T2)                                                             \
  KSIM_INLINE __nv_fp8_storage_t __nv_cvt_##name##_to_fp8(T x, __nv_saturation_t saturate,       \
                                                          __nv_fp8_interpretation_t kind) {      \
    return ksim::cuda::to_fp8(ksim::cuda::widened(x), saturate, kind);                           \
  }                                                                                              \
  KSIM_INLINE __nv_fp8x2_storage_t __nv_cvt_##name2##_to_fp8x2(T2 x, __nv_saturation_t saturate, \
                                                               __nv_fp8_interpretation_t kind) { \
    const auto v = ksim::cuda::widened(x);                                                       \
    return __nv_fp8x2_storage_t(ksim::cuda::to_fp8(v.x, saturate, kind) |                        \
                                ksim::cuda::to_fp8(v.y, saturate, kind) << 8);                   \
  }
KSIM_FP8(double, double, double2, double2)
KSIM_FP8(float, float, float2, float2)
KSIM_FP8(halfraw, __half_raw, halfraw2, __half2_raw)
KSIM_FP8(bfloat16raw, __nv_bfloat16_raw, bfloat16raw2, __nv_bfloat162_raw)
#undef KSIM_FP8
KSIM_INLINE __half_raw __nv_cvt_fp8_to_halfraw(__nv_fp8_storage_t x, __nv_fp8_interpretation_t kind) {
  return __half(ksim::cuda::of_fp8(x, kind));
}
KSIM_INLINE __half2_raw __nv_cvt_fp8x2_to_halfraw2(__nv_fp8x2_storage_t x, __nv_fp8_interpretation_t kind) {
  return __half2(ksim::cuda::of_fp8(x, kind), ksim::cuda::of_fp8(x >> 8, kind));
}

#define KSIM_E8M0(name, T, name2, T2)                                                             \
  KSIM_INLINE __nv_fp8_storage_t __nv_cvt_##name##_to_e8m0(T x, __nv_saturation_t saturate,       \
                                                           cudaRoundMode rounding) {              \
    return ksim::cuda::to_e8m0(ksim::cuda::widened(x), saturate, rounding);                       \
  }                                                                                               \
  KSIM_INLINE __nv_fp8x2_storage_t __nv_cvt_##name2##_to_e8m0x2(T2 x, __nv_saturation_t saturate, \
                                                                cudaRoundMode rounding) {         \
    const auto v = ksim::cuda::widened(x);                                                        \
    return __nv_fp8x2_storage_t(ksim::cuda::to_e8m0(v.x, saturate, rounding) |                    \
                                ksim::cuda::to_e8m0(v.y, saturate, rounding) << 8);               \
  }
KSIM_E8M0(double, double, double2, double2)
KSIM_E8M0(float, float, float2, float2)
KSIM_E8M0(bfloat16raw, __nv_bfloat16_raw, bfloat162raw, __nv_bfloat162_raw)
#undef KSIM_E8M0
KSIM_INLINE __nv_bfloat16_raw __nv_cvt_e8m0_to_bf16raw(__nv_fp8_storage_t x) {
  return __nv_bfloat16(ksim::decode_e8m0(x));
}
KSIM_INLINE __nv_bfloat162_raw __nv_cvt_e8m0x2_to_bf162raw(__nv_fp8x2_storage_t x) {
  return __nv_bfloat162(ksim::decode_e8m0(x & 0xff), ksim::decode_e8m0(x >> 8));
}
