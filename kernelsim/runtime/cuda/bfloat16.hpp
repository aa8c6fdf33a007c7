// SPDX-License-Identifier: MIT
// cuda_bf16.h: __nv_bfloat16 and __nv_bfloat162, and their conversions (CUDA Math API, "Bfloat16 Precision
// Intrinsics"). What they have in common with half is in sixteen.hpp.
#pragma once
#include "sixteen.hpp"

struct __nv_bfloat16_raw {
  unsigned short x;
};
struct alignas(4) __nv_bfloat162_raw {
  unsigned short x, y;
};

struct __nv_bfloat16 {
  __nv_bfloat16() = default;
  KSIM_INLINE constexpr __nv_bfloat16(const __nv_bfloat16_raw &raw) : __x(raw.x) {}
  template <ksim::cuda::Number T> KSIM_INLINE __nv_bfloat16(T x) : __x(rounded(ksim::cuda::to_float(x))) {}
  KSIM_INLINE operator float() const { return ksim::float_of(ksim::Bits(__x) << 16); }
  KSIM_INLINE constexpr operator __nv_bfloat16_raw() const { return {__x}; }
  // Explicitly, integers saturate as PTX's cvt does.
  template <ksim::cuda::Integer T> KSIM_INLINE explicit operator T() const {
    if constexpr (ksim::cuda::same<T, bool>) return float(*this) != 0;
    return ksim::cuda::to_integer<T, ksim::kTowardZero>(float(*this));
  }
  template <ksim::cuda::Number T> KSIM_INLINE __nv_bfloat16 &operator=(T x) { return *this = __nv_bfloat16(x); }

protected:
  static KSIM_INLINE unsigned short rounded(float x) { // to nearest even; NaN is 0x7fff
    const ksim::Bits b = ksim::bits_of(x);
    return x == x ? (unsigned short)((b + 0x7fff + (b >> 16 & 1)) >> 16) : (unsigned short)0x7fff;
  }
  unsigned short __x; // the name in NVIDIA's header, which CUB relies on
};
using nv_bfloat16 = __nv_bfloat16;

struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
  __nv_bfloat162() = default;
  KSIM_INLINE __nv_bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) : x(x), y(y) {}
  KSIM_INLINE __nv_bfloat162(const __nv_bfloat162_raw &raw)
      : x(__nv_bfloat16_raw{raw.x}), y(__nv_bfloat16_raw{raw.y}) {}
  KSIM_INLINE operator __nv_bfloat162_raw() const { return {__nv_bfloat16_raw(x).x, __nv_bfloat16_raw(y).x}; }
  KSIM_AUDITED_COPY(__nv_bfloat162)
};
using nv_bfloat162 = __nv_bfloat162;

namespace ksim::cuda {
template <> struct Sixteen<__nv_bfloat16> {
  using Pair = __nv_bfloat162;
  using Format = Bf16;
  using Raw = __nv_bfloat16_raw;
};
template <> struct SixteenPair<__nv_bfloat162> {
  using Element = __nv_bfloat16;
};
template <Rounding kRounding> KSIM_INLINE __nv_bfloat16 to_bfloat16(float x) {
  return __nv_bfloat16_raw{(unsigned short)encode<Bf16, kRounding>(x)};
}
} // namespace ksim::cuda

#define KSIM_T __nv_bfloat16
#define KSIM_V __nv_bfloat162
#include "sixteen_functions.hpp"
#undef KSIM_T
#undef KSIM_V

// ---- Between bfloat16 and float

KSIM_INLINE float __bfloat162float(__nv_bfloat16 a) { return a; }
KSIM_INLINE __nv_bfloat16 __float2bfloat16(float a) { return a; }
KSIM_INLINE __nv_bfloat16 __float2bfloat16_rn(float a) { return a; }
KSIM_INLINE __nv_bfloat16 __float2bfloat16_rz(float a) { return ksim::cuda::to_bfloat16<ksim::kTowardZero>(a); }
KSIM_INLINE __nv_bfloat16 __float2bfloat16_rd(float a) { return ksim::cuda::to_bfloat16<ksim::kDown>(a); }
KSIM_INLINE __nv_bfloat16 __float2bfloat16_ru(float a) { return ksim::cuda::to_bfloat16<ksim::kUp>(a); }
KSIM_INLINE __nv_bfloat16 __double2bfloat16(double a) { return a; }
KSIM_INLINE __nv_bfloat162 __float2bfloat162_rn(float a) { return {a, a}; }
KSIM_INLINE __nv_bfloat162 __floats2bfloat162_rn(float a, float b) { return {a, b}; }
KSIM_INLINE __nv_bfloat162 __float22bfloat162_rn(float2 a) { return {a.x, a.y}; }
KSIM_INLINE float2 __bfloat1622float2(__nv_bfloat162 a) { return {a.x, a.y}; }
KSIM_INLINE __nv_bfloat162 make_bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
KSIM_INLINE __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 a) { return {a, a}; }
KSIM_INLINE __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 a, __nv_bfloat16 b) { return {a, b}; }
KSIM_INLINE __nv_bfloat16 __low2bfloat16(__nv_bfloat162 a) { return a.x; }
KSIM_INLINE __nv_bfloat16 __high2bfloat16(__nv_bfloat162 a) { return a.y; }
KSIM_INLINE __nv_bfloat162 __low2bfloat162(__nv_bfloat162 a) { return {a.x, a.x}; }
KSIM_INLINE __nv_bfloat162 __high2bfloat162(__nv_bfloat162 a) { return {a.y, a.y}; }
KSIM_INLINE __nv_bfloat162 __lows2bfloat162(__nv_bfloat162 a, __nv_bfloat162 b) { return {a.x, b.x}; }
KSIM_INLINE __nv_bfloat162 __highs2bfloat162(__nv_bfloat162 a, __nv_bfloat162 b) { return {a.y, b.y}; }

// ---- Between bfloat16 and integers

#define KSIM_BF16_ROUNDED(name, T, suffix, mode)                   \
  KSIM_INLINE T __bfloat162##name##_##suffix(__nv_bfloat16 a) {    \
    return ksim::cuda::to_integer<T, mode>(float(a));              \
  }                                                                \
  KSIM_INLINE __nv_bfloat16 __##name##2bfloat16_##suffix(T a) {    \
    return ksim::cuda::to_bfloat16<mode>(ksim::cuda::to_float(a)); \
  }
#define KSIM_BF16_INTEGER(name, T)                   \
  KSIM_BF16_ROUNDED(name, T, rn, ksim::kNearestEven) \
  KSIM_BF16_ROUNDED(name, T, rz, ksim::kTowardZero)  \
  KSIM_BF16_ROUNDED(name, T, rd, ksim::kDown)        \
  KSIM_BF16_ROUNDED(name, T, ru, ksim::kUp)
KSIM_BF16_INTEGER(short, short)
KSIM_BF16_INTEGER(ushort, unsigned short)
KSIM_BF16_INTEGER(int, int)
KSIM_BF16_INTEGER(uint, unsigned int)
KSIM_BF16_INTEGER(ll, long long)
KSIM_BF16_INTEGER(ull, unsigned long long)
#undef KSIM_BF16_INTEGER
#undef KSIM_BF16_ROUNDED
KSIM_INLINE signed char __bfloat162char_rz(__nv_bfloat16 a) {
  return ksim::cuda::to_integer<signed char, ksim::kTowardZero>(float(a));
}
KSIM_INLINE unsigned char __bfloat162uchar_rz(__nv_bfloat16 a) {
  return ksim::cuda::to_integer<unsigned char, ksim::kTowardZero>(float(a));
}

KSIM_INLINE short __bfloat16_as_short(__nv_bfloat16 a) { return short(__nv_bfloat16_raw(a).x); }
KSIM_INLINE unsigned short __bfloat16_as_ushort(__nv_bfloat16 a) { return __nv_bfloat16_raw(a).x; }
KSIM_INLINE __nv_bfloat16 __short_as_bfloat16(short a) { return __nv_bfloat16_raw{(unsigned short)a}; }
KSIM_INLINE __nv_bfloat16 __ushort_as_bfloat16(unsigned short a) { return __nv_bfloat16_raw{a}; }
