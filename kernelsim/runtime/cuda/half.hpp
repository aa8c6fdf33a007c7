// SPDX-License-Identifier: MIT
// cuda_fp16.h: __half and __half2, and their conversions (CUDA Math API, "Half Precision Intrinsics"). What
// they have in common with bfloat16 is in sixteen.hpp.
//
// A __half is IEEE 754's binary16. Every operation is computed in float, where it is exact or rounds
// innocuously, and rounded once; a result that is NaN is the canonical 0x7fff.
#pragma once
#include "sixteen.hpp"

struct __half_raw {
  unsigned short x;
};
struct alignas(4) __half2_raw {
  unsigned short x, y;
};

struct __half {
  __half() = default;
  KSIM_INLINE __half(const __half_raw &raw) : value(__builtin_bit_cast(_Float16, raw.x)) {}
  template <ksim::cuda::Number T> KSIM_INLINE __half(T x) : value(rounded(ksim::cuda::to_float(x))) {}
  KSIM_INLINE operator float() const { return value; }
  KSIM_INLINE operator __half_raw() const { return {__builtin_bit_cast(unsigned short, value)}; }
  // Explicitly, integers saturate as PTX's cvt does.
  template <ksim::cuda::Integer T> KSIM_INLINE explicit operator T() const {
    if constexpr (ksim::cuda::same<T, bool>) return value != 0;
    return ksim::cuda::to_integer<T, ksim::kTowardZero>(float(value));
  }
  template <ksim::cuda::Number T> KSIM_INLINE __half &operator=(T x) { return *this = __half(x); }

  KSIM_INLINE unsigned short ksim_get() const { return __half_raw(*this).x; }
  KSIM_INLINE void ksim_put(unsigned short x) { *this = __half_raw{x}; }

protected: // the name in NVIDIA's header, which CUB relies on
  __declspec(property(get = ksim_get, put = ksim_put)) unsigned short __x;

private:
  static KSIM_INLINE _Float16 rounded(float x) {
    return x == x ? _Float16(x) : __builtin_bit_cast(_Float16, (unsigned short)0x7fff);
  }
  _Float16 value;
};
using half = __half;
using nv_half = __half;

struct alignas(4) __half2 {
  __half x, y;
  __half2() = default;
  KSIM_INLINE __half2(__half x, __half y) : x(x), y(y) {}
  KSIM_INLINE __half2(const __half2_raw &raw) : x(__half_raw{raw.x}), y(__half_raw{raw.y}) {}
  KSIM_INLINE operator __half2_raw() const { return {__half_raw(x).x, __half_raw(y).x}; }
  KSIM_AUDITED_COPY(__half2)
};
using half2 = __half2;
using nv_half2 = __half2;

namespace ksim::cuda {
template <> struct Sixteen<__half> {
  using Pair = __half2;
  using Format = F16;
  using Raw = __half_raw;
};
template <> struct SixteenPair<__half2> {
  using Element = __half;
};
KSIM_INLINE __half half_of(unsigned short bits) { return __half_raw{bits}; }
template <Rounding kRounding> KSIM_INLINE __half to_half(float x) {
  return half_of((unsigned short)encode<F16, kRounding>(x));
}
} // namespace ksim::cuda

#define KSIM_T __half
#define KSIM_V __half2
#include "sixteen_functions.hpp"
#undef KSIM_T
#undef KSIM_V

// ---- Between half and float

KSIM_INLINE float __half2float(__half a) { return a; }
KSIM_INLINE __half __float2half(float a) { return a; }
KSIM_INLINE __half __float2half_rn(float a) { return a; }
KSIM_INLINE __half __float2half_rz(float a) { return ksim::cuda::to_half<ksim::kTowardZero>(a); }
KSIM_INLINE __half __float2half_rd(float a) { return ksim::cuda::to_half<ksim::kDown>(a); }
KSIM_INLINE __half __float2half_ru(float a) { return ksim::cuda::to_half<ksim::kUp>(a); }
KSIM_INLINE __half __double2half(double a) { return a; }
KSIM_INLINE __half2 __float2half2_rn(float a) { return {a, a}; }
KSIM_INLINE __half2 __floats2half2_rn(float a, float b) { return {a, b}; }
KSIM_INLINE __half2 __float22half2_rn(float2 a) { return {a.x, a.y}; }
KSIM_INLINE float2 __half22float2(__half2 a) { return {a.x, a.y}; }
KSIM_INLINE __half2 make_half2(__half x, __half y) { return {x, y}; }
KSIM_INLINE __half2 __half2half2(__half a) { return {a, a}; }
KSIM_INLINE __half2 __halves2half2(__half a, __half b) { return {a, b}; }
KSIM_INLINE __half __low2half(__half2 a) { return a.x; }
KSIM_INLINE __half __high2half(__half2 a) { return a.y; }
KSIM_INLINE __half2 __low2half2(__half2 a) { return {a.x, a.x}; }
KSIM_INLINE __half2 __high2half2(__half2 a) { return {a.y, a.y}; }
KSIM_INLINE __half2 __lows2half2(__half2 a, __half2 b) { return {a.x, b.x}; }
KSIM_INLINE __half2 __highs2half2(__half2 a, __half2 b) { return {a.y, b.y}; }

// ---- Between half and integers

#define KSIM_HALF_ROUNDED(name, T, suffix, mode)                                                         \
  KSIM_INLINE T __half2##name##_##suffix(__half a) { return ksim::cuda::to_integer<T, mode>(float(a)); } \
  KSIM_INLINE __half __##name##2half_##suffix(T a) {                                                     \
    return ksim::cuda::to_half<mode>(ksim::cuda::to_float(a));                                           \
  }
#define KSIM_HALF_INTEGER(name, T)                   \
  KSIM_HALF_ROUNDED(name, T, rn, ksim::kNearestEven) \
  KSIM_HALF_ROUNDED(name, T, rz, ksim::kTowardZero)  \
  KSIM_HALF_ROUNDED(name, T, rd, ksim::kDown)        \
  KSIM_HALF_ROUNDED(name, T, ru, ksim::kUp)
KSIM_HALF_INTEGER(short, short)
KSIM_HALF_INTEGER(ushort, unsigned short)
KSIM_HALF_INTEGER(int, int)
KSIM_HALF_INTEGER(uint, unsigned int)
KSIM_HALF_INTEGER(ll, long long)
KSIM_HALF_INTEGER(ull, unsigned long long)
#undef KSIM_HALF_INTEGER
#undef KSIM_HALF_ROUNDED
KSIM_INLINE signed char __half2char_rz(__half a) {
  return ksim::cuda::to_integer<signed char, ksim::kTowardZero>(float(a));
}
KSIM_INLINE unsigned char __half2uchar_rz(__half a) {
  return ksim::cuda::to_integer<unsigned char, ksim::kTowardZero>(float(a));
}

KSIM_INLINE short __half_as_short(__half a) { return short(__half_raw(a).x); }
KSIM_INLINE unsigned short __half_as_ushort(__half a) { return __half_raw(a).x; }
KSIM_INLINE __half __short_as_half(short a) { return __half_raw{(unsigned short)a}; }
KSIM_INLINE __half __ushort_as_half(unsigned short a) { return __half_raw{a}; }
