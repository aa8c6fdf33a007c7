// SPDX-License-Identifier: MIT
// CUDA's mathematics for float and double: what the C++ library lacks, and the intrinsics with rounding modes
// (CUDA Math API; "Mathematical Functions" of the CUDA C++ Programming Guide).
//
// sqrtf, expf, fmaf and the others that C++ has are the C++ library's, which nvcc includes without being asked.
// Approximate intrinsics such as __expf give the library's better result; a GPU's differs within the bounds
// that the programming guide states. What C++ lacks is declared as templates, because newer C libraries declare
// some of it (rsqrtf, sinpif), and those must not clash.
#pragma once
#define lerp ksim_lerp // C++20's; sources of C++17, which nvcc takes by default, have functions of that name
#include <math.h>
#undef lerp
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <utility>

#include "../floats.hpp"
#include "types.hpp"

namespace ksim::cuda {

template <class T> struct Real {
  using type = double;
};
template <> struct Real<float> {
  using type = float;
};
template <class T> using Float = typename Real<T>::type;

template <class T> constexpr bool is_signed = T(-1) < T(0);
template <class T> constexpr T greatest = is_signed<T> ? T((1ull << (8 * sizeof(T) - 1)) - 1) : T(~0ull);
template <class T> constexpr T least = is_signed<T> ? T(1ull << (8 * sizeof(T) - 1)) : T(0);

template <Rounding kRounding> KSIM_INLINE double round_to_integer(double x) {
  if constexpr (kRounding == kNearestEven) return __builtin_roundeven(x);
  if constexpr (kRounding == kTowardZero) return __builtin_trunc(x);
  if constexpr (kRounding == kUp) return __builtin_ceil(x);
  return __builtin_floor(x);
}

// PTX cvt to an integer: saturates. NaN becomes 0; when either type has 64 bits, the sign bit alone.
template <class T, Rounding kRounding, class F> KSIM_INLINE T to_integer(F x) {
  constexpr T not_a_number = sizeof(T) == 8 || sizeof(F) == 8 ? T(1ull << (8 * sizeof(T) - 1)) : T(0);
  constexpr double end = 2.0 * double(1ull << (8 * sizeof(T) - 1 - is_signed<T>)); // greatest + 1
  const double r = round_to_integer<kRounding>(double(x));
  if (r != r) return not_a_number;
  return r >= end ? greatest<T> : r <= double(least<T>) ? least<T> : T(r);
}

// The float next to x, where the exact value lies off x by an amount with the sign of `rest`.
template <Rounding kRounding> KSIM_INLINE float directed(float x, double rest) {
  const Bits bits = bits_of(x);
  const bool finite = (bits & 0x7f800000) != 0x7f800000, negative = bits >> 31;
  if (rest != rest || rest == 0) return x;
  const bool zero = !(bits & 0x7fffffff);
  const bool up = kRounding == kUp || (kRounding == kTowardZero && (zero ? false : negative));
  if (kRounding == kTowardZero && zero) return x;
  if (up != (rest > 0)) return x;
  if (zero) return float_of(up ? 1u : 0x80000001u);
  if (!finite) return up == negative ? float_of(bits - 1) : x; // overflow rounded back to the greatest
  return float_of(up != negative ? bits + 1 : bits - 1);
}
// high + low, exactly, to float; |low| is below the last place of high.
template <Rounding kRounding> KSIM_INLINE float narrow(double high, double low) {
#pragma clang fp contract(off)
  const float nearest = float(high);
  if constexpr (kRounding == kNearestEven) return nearest;
  const double rest = high - double(nearest);
  return directed<kRounding>(nearest, rest != 0 ? rest : low);
}
// What high = a + b, rounded, leaves of the sum.
KSIM_INLINE double rest_of_sum(double a, double b, double high) {
#pragma clang fp contract(off)
  const double other = high - a;
  return (a - (high - other)) + (b - other);
}
template <Rounding kRounding> KSIM_INLINE float add(float a, float b) {
#pragma clang fp contract(off)
  if constexpr (kRounding == kNearestEven) return a + b;
  const double high = double(a) + double(b);
  const float sum = narrow<kRounding>(high, rest_of_sum(a, b, high));
  return kRounding == kDown && sum == 0 && (__builtin_signbit(a) || __builtin_signbit(b)) ? -0.0f : sum;
}
template <Rounding kRounding> KSIM_INLINE float mul(float a, float b) {
#pragma clang fp contract(off)
  if constexpr (kRounding == kNearestEven) return a * b;
  return narrow<kRounding>(double(a) * double(b), 0);
}
template <Rounding kRounding> KSIM_INLINE float fma(float a, float b, float c) {
#pragma clang fp contract(off)
  if constexpr (kRounding == kNearestEven) return __builtin_fmaf(a, b, c);
  const double product = double(a) * double(b), high = product + double(c);
  return narrow<kRounding>(high, rest_of_sum(product, c, high));
}
template <Rounding kRounding> KSIM_INLINE float div(float a, float b) {
  if constexpr (kRounding == kNearestEven) return a / b;
  const double q = double(a) / double(b), rest = __builtin_fma(-q, double(b), double(a));
  return narrow<kRounding>(q, b < 0 ? -rest : rest);
}
template <Rounding kRounding> KSIM_INLINE float sqrt(float a) {
  if constexpr (kRounding == kNearestEven) return __builtin_sqrtf(a);
  const double root = __builtin_sqrt(double(a));
  return narrow<kRounding>(root, __builtin_fma(-root, root, double(a)));
}
template <Rounding kRounding, class T> KSIM_INLINE float from_integer(T i) {
  const float nearest = float(i);
  if constexpr (kRounding == kNearestEven) return nearest;
  const __int128 rest = __int128(i) - __int128(nearest);
  return directed<kRounding>(nearest, rest < 0 ? -1.0 : rest > 0 ? 1.0 : 0.0);
}

} // namespace ksim::cuda

// ---- Functions that C++ lacks, of float and, without the f, of the argument's type

#define KSIM_MATH(name, ...)                                                          \
  template <ksim::cuda::Number T> KSIM_INLINE float name##f(T argument) {             \
    const double x = argument;                                                        \
    return float(__VA_ARGS__);                                                        \
  }                                                                                   \
  template <ksim::cuda::Number T> KSIM_INLINE ksim::cuda::Float<T> name(T argument) { \
    const double x = argument;                                                        \
    return ksim::cuda::Float<T>(__VA_ARGS__);                                         \
  }
namespace ksim::cuda {
constexpr double kPi = 3.14159265358979323846;
KSIM_INLINE double sin_of_pi(double x) {
  const double r = __builtin_fmod(x, 2), a = __builtin_fabs(r);
  const double s = a == 0 || a == 1 ? 0 : a == 0.5 ? 1 : a == 1.5 ? -1 : __builtin_sin(kPi * a);
  return __builtin_copysign(1, r) * s;
}
KSIM_INLINE double cos_of_pi(double x) {
  const double a = __builtin_fabs(__builtin_fmod(x, 2));
  return a == 0.5 || a == 1.5 ? 0 : __builtin_cos(kPi * a);
}
} // namespace ksim::cuda
KSIM_MATH(rsqrt, 1 / __builtin_sqrt(x))
KSIM_MATH(rcbrt, 1 / __builtin_cbrt(x))
KSIM_MATH(exp10, __builtin_pow(10, x))
KSIM_MATH(sinpi, ksim::cuda::sin_of_pi(x))
KSIM_MATH(cospi, ksim::cuda::cos_of_pi(x))
KSIM_MATH(normcdf, 0.5 * __builtin_erfc(-x * 0.70710678118654752440))
KSIM_MATH(erfcx, __builtin_exp(x *x) * __builtin_erfc(x))
#undef KSIM_MATH

template <ksim::cuda::Number T> KSIM_INLINE void sincosf(T x, float *sine, float *cosine) {
  *sine = __builtin_sinf(float(x));
  *cosine = __builtin_cosf(float(x));
}
template <ksim::cuda::Number T> KSIM_INLINE void sincospif(T x, float *sine, float *cosine) {
  *sine = sinpif(x);
  *cosine = cospif(x);
}
template <ksim::cuda::Number T> KSIM_INLINE float norm3df(T a, T b, T c) {
  return float(__builtin_sqrt(double(a) * a + double(b) * b + double(c) * c));
}
template <ksim::cuda::Number T> KSIM_INLINE float rnorm3df(T a, T b, T c) {
  return float(1 / __builtin_sqrt(double(a) * a + double(b) * b + double(c) * c));
}
template <ksim::cuda::Number T> KSIM_INLINE float rhypotf(T a, T b) {
  return float(1 / __builtin_hypot(double(a), double(b)));
}
template <ksim::cuda::Number T> KSIM_INLINE float fdividef(T a, T b) { return float(a) / float(b); }

// ---- min and max

#define KSIM_MINMAX(A, B, R)                                                  \
  KSIM_INLINE constexpr R min(A a, B b) { return (R)a < (R)b ? (R)a : (R)b; } \
  KSIM_INLINE constexpr R max(A a, B b) { return (R)a > (R)b ? (R)a : (R)b; }
#define KSIM_MINMAX_INTEGERS(S, U) \
  KSIM_MINMAX(S, S, S) KSIM_MINMAX(U, U, U) KSIM_MINMAX(S, U, U) KSIM_MINMAX(U, S, U)
KSIM_MINMAX_INTEGERS(int, unsigned int)
KSIM_MINMAX_INTEGERS(long, unsigned long)
KSIM_MINMAX_INTEGERS(long long, unsigned long long)
#undef KSIM_MINMAX_INTEGERS
#undef KSIM_MINMAX
#define KSIM_MINMAX(A, B, R, fmin, fmax)                                                  \
  KSIM_INLINE R min(A a, B b) { return fmin(a, b); } /* of a number and NaN the number */ \
  KSIM_INLINE R max(A a, B b) { return fmax(a, b); }
KSIM_MINMAX(float, float, float, __builtin_fminf, __builtin_fmaxf)
KSIM_MINMAX(double, double, double, __builtin_fmin, __builtin_fmax)
KSIM_MINMAX(float, double, double, __builtin_fmin, __builtin_fmax)
KSIM_MINMAX(double, float, double, __builtin_fmin, __builtin_fmax)
#undef KSIM_MINMAX
KSIM_INLINE constexpr unsigned int umin(unsigned int a, unsigned int b) { return a < b ? a : b; }
KSIM_INLINE constexpr unsigned int umax(unsigned int a, unsigned int b) { return a > b ? a : b; }
KSIM_INLINE constexpr long long llmin(long long a, long long b) { return a < b ? a : b; }
KSIM_INLINE constexpr long long llmax(long long a, long long b) { return a > b ? a : b; }
KSIM_INLINE constexpr unsigned long long ullmin(unsigned long long a, unsigned long long b) {
  return a < b ? a : b;
}
KSIM_INLINE constexpr unsigned long long ullmax(unsigned long long a, unsigned long long b) {
  return a > b ? a : b;
}

// ---- Fast approximations

KSIM_INLINE float __expf(float x) { return __builtin_expf(x); }
KSIM_INLINE float __exp10f(float x) { return exp10f(x); }
KSIM_INLINE float __logf(float x) { return __builtin_logf(x); }
KSIM_INLINE float __log2f(float x) { return __builtin_log2f(x); }
KSIM_INLINE float __log10f(float x) { return __builtin_log10f(x); }
KSIM_INLINE float __powf(float x, float y) { return __builtin_powf(x, y); }
KSIM_INLINE float __sinf(float x) { return __builtin_sinf(x); }
KSIM_INLINE float __cosf(float x) { return __builtin_cosf(x); }
KSIM_INLINE float __tanf(float x) { return __builtin_tanf(x); }
KSIM_INLINE float __tanhf(float x) { return __builtin_tanhf(x); }
KSIM_INLINE void __sincosf(float x, float *sine, float *cosine) { sincosf(x, sine, cosine); }
KSIM_INLINE float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1) : 0; } // NaN becomes 0
// "if 2^126 < |y| < 2^128, it delivers 0, and NaN where x is infinite"
KSIM_INLINE float __fdividef(float x, float y) {
  const float magnitude = __builtin_fabsf(y);
  return magnitude > 0x1p126f && magnitude < __builtin_inff() ? x * 0.0f : x / y;
}
KSIM_INLINE float __frsqrt_rn(float x) { return float(1 / __builtin_sqrt(double(x))); }

// ---- Rounding modes: __fadd_rn and its like are never fused into an fma

#define KSIM_ROUNDED(suffix, mode)                                                                           \
  KSIM_INLINE float __fadd_##suffix(float a, float b) { return ksim::cuda::add<mode>(a, b); }                \
  KSIM_INLINE float __fsub_##suffix(float a, float b) { return ksim::cuda::add<mode>(a, -b); }               \
  KSIM_INLINE float __fmul_##suffix(float a, float b) { return ksim::cuda::mul<mode>(a, b); }                \
  KSIM_INLINE float __fmaf_##suffix(float a, float b, float c) { return ksim::cuda::fma<mode>(a, b, c); }    \
  KSIM_INLINE float __fdiv_##suffix(float a, float b) { return ksim::cuda::div<mode>(a, b); }                \
  KSIM_INLINE float __frcp_##suffix(float a) { return ksim::cuda::div<mode>(1, a); }                         \
  KSIM_INLINE float __fsqrt_##suffix(float a) { return ksim::cuda::sqrt<mode>(a); }                          \
  KSIM_INLINE float __double2float_##suffix(double a) { return ksim::cuda::narrow<mode>(a, 0); }             \
  KSIM_INLINE float __int2float_##suffix(int a) { return ksim::cuda::from_integer<mode>(a); }                \
  KSIM_INLINE float __uint2float_##suffix(unsigned int a) { return ksim::cuda::from_integer<mode>(a); }      \
  KSIM_INLINE float __ll2float_##suffix(long long a) { return ksim::cuda::from_integer<mode>(a); }           \
  KSIM_INLINE float __ull2float_##suffix(unsigned long long a) { return ksim::cuda::from_integer<mode>(a); } \
  KSIM_TO_INTEGERS(float, float, suffix, mode)                                                               \
  KSIM_TO_INTEGERS(double, double, suffix, mode)
#define KSIM_TO_INTEGERS(F, name, suffix, mode)                                                            \
  KSIM_INLINE int __##name##2int_##suffix(F x) { return ksim::cuda::to_integer<int, mode>(x); }            \
  KSIM_INLINE unsigned int __##name##2uint_##suffix(F x) {                                                 \
    return ksim::cuda::to_integer<unsigned int, mode>(x);                                                  \
  }                                                                                                        \
  KSIM_INLINE long long __##name##2ll_##suffix(F x) { return ksim::cuda::to_integer<long long, mode>(x); } \
  KSIM_INLINE unsigned long long __##name##2ull_##suffix(F x) {                                            \
    return ksim::cuda::to_integer<unsigned long long, mode>(x);                                            \
  }
KSIM_ROUNDED(rn, ksim::kNearestEven)
KSIM_ROUNDED(rz, ksim::kTowardZero)
KSIM_ROUNDED(ru, ksim::kUp)
KSIM_ROUNDED(rd, ksim::kDown)
#undef KSIM_ROUNDED

#pragma clang fp contract(off)
KSIM_INLINE double __dadd_rn(double a, double b) { return a + b; }
KSIM_INLINE double __dsub_rn(double a, double b) { return a - b; }
KSIM_INLINE double __dmul_rn(double a, double b) { return a * b; }
KSIM_INLINE double __ddiv_rn(double a, double b) { return a / b; }
KSIM_INLINE double __drcp_rn(double a) { return 1 / a; }
KSIM_INLINE double __dsqrt_rn(double a) { return __builtin_sqrt(a); }
KSIM_INLINE double __fma_rn(double a, double b, double c) { return __builtin_fma(a, b, c); }
KSIM_INLINE double __int2double_rn(int a) { return a; }
KSIM_INLINE double __uint2double_rn(unsigned int a) { return a; }
KSIM_INLINE double __ll2double_rn(long long a) { return double(a); }
KSIM_INLINE double __ull2double_rn(unsigned long long a) { return double(a); }
#pragma clang fp contract(on)

// ---- Bits of one type as another

KSIM_INLINE int __float_as_int(float x) { return __builtin_bit_cast(int, x); }
KSIM_INLINE unsigned int __float_as_uint(float x) { return __builtin_bit_cast(unsigned int, x); }
KSIM_INLINE float __int_as_float(int x) { return __builtin_bit_cast(float, x); }
KSIM_INLINE float __uint_as_float(unsigned int x) { return __builtin_bit_cast(float, x); }
KSIM_INLINE long long __double_as_longlong(double x) { return __builtin_bit_cast(long long, x); }
KSIM_INLINE double __longlong_as_double(long long x) { return __builtin_bit_cast(double, x); }
KSIM_INLINE int __double2hiint(double x) { return int(__builtin_bit_cast(unsigned long long, x) >> 32); }
KSIM_INLINE int __double2loint(double x) { return int(__builtin_bit_cast(unsigned long long, x)); }
KSIM_INLINE double __hiloint2double(int high, int low) {
  return __builtin_bit_cast(double, (unsigned long long)(unsigned int)high << 32 | (unsigned int)low);
}
