// SPDX-License-Identifier: MIT
// What __half and __nv_bfloat16 have in common: arithmetic, comparisons and functions, of one and of two (CUDA Math
// API, "Half Precision Intrinsics" and "Bfloat16 Precision Intrinsics").
//
// An operation is computed in float, or where that would round twice with odd rounding first, and rounded once.
// Functions such as hexp are the library's float functions, rounded; a GPU's may differ in the last place.
#pragma once
#include "math.hpp"

namespace ksim::cuda {

template <class T> struct Sixteen {};     // of one: its Pair, Raw and Format
template <class T> struct SixteenPair {}; // of two: its Element
template <class T>
concept One = requires { typename Sixteen<T>::Pair; };
template <class T>
concept Two = requires { typename SixteenPair<T>::Element; };

// A float whose rounding to sixteen bits is that of the number itself.
template <Number T> KSIM_INLINE float to_float(T x) {
  if constexpr (same<T, float> || sizeof(T) < 4) return x;
  if constexpr (same<T, double> || (Integer<T> && sizeof(T) == 4)) return round_to_odd(double(x));
  const float cut = from_integer<kTowardZero>(x);
  return float_of(bits_of(cut) | (__int128(cut) != __int128(x)));
}
// a * b + c likewise. The product is exact; the sum may need more than a double holds.
template <One T> KSIM_INLINE float fma_to_float(T a, T b, T c) {
#pragma clang fp contract(off)
  const double product = double(float(a)) * double(float(b)), addend = double(float(c));
  double sum = product + addend;
  if constexpr (Sixteen<T>::Format::kExponent == 8) { // where it does, half does not see it: 2^-48 beside 2^-24
    const double rest = rest_of_sum(product, addend, sum);
    const auto bits = __builtin_bit_cast(unsigned long long, sum);
    if (rest != 0 && rest == rest && !(bits & 1))
      sum = __builtin_bit_cast(double, (rest > 0) == (sum > 0) ? bits + 1 : bits - 1);
  }
  return round_to_odd(sum);
}
template <One T> KSIM_INLINE unsigned int bits_of(T a) { return typename Sixteen<T>::Raw(a).x; }
template <One T> KSIM_INLINE T with_bits(unsigned int bits) { return typename Sixteen<T>::Raw{(unsigned short)bits}; }

} // namespace ksim::cuda

#define KSIM_ONE template <ksim::cuda::One T> KSIM_INLINE
#define KSIM_TWO template <ksim::cuda::Two V> KSIM_INLINE
#define KSIM_SAME(T) ksim::cuda::Same<T>

// ---- Arithmetic; never fused, so that __hadd and __hadd_rn are the same

#define KSIM_ARITHMETIC(name, name2, expression)                                                                \
  KSIM_ONE T __##name(T a, KSIM_SAME(T) b) { return expression; }                                               \
  KSIM_ONE T __##name##_rn(T a, KSIM_SAME(T) b) { return expression; }                                          \
  KSIM_ONE T __##name##_sat(T a, KSIM_SAME(T) b) { return __saturatef(T(expression)); }                         \
  KSIM_TWO V name2(V a, KSIM_SAME(V) b) { return {__##name(a.x, b.x), __##name(a.y, b.y)}; }                    \
  KSIM_TWO V name2##_rn(V a, KSIM_SAME(V) b) { return {__##name(a.x, b.x), __##name(a.y, b.y)}; }               \
  KSIM_TWO V name2##_sat(V a, KSIM_SAME(V) b) { return {__##name##_sat(a.x, b.x), __##name##_sat(a.y, b.y)}; }
#pragma clang fp contract(off)
KSIM_ARITHMETIC(hadd, __hadd2, float(a) + float(b))
KSIM_ARITHMETIC(hsub, __hsub2, float(a) - float(b))
KSIM_ARITHMETIC(hmul, __hmul2, float(a) * float(b))
KSIM_ARITHMETIC(hdiv, __h2div, float(a) / float(b))
#pragma clang fp contract(on)
#undef KSIM_ARITHMETIC

KSIM_ONE T __hneg(T a) { return ksim::cuda::with_bits<T>(ksim::cuda::bits_of(a) ^ 0x8000); }
KSIM_ONE T __habs(T a) { return ksim::cuda::with_bits<T>(ksim::cuda::bits_of(a) & 0x7fff); }
KSIM_ONE T __hfma(T a, KSIM_SAME(T) b, KSIM_SAME(T) c) { return ksim::cuda::fma_to_float<T>(a, b, c); }
KSIM_ONE T __hfma_sat(T a, KSIM_SAME(T) b, KSIM_SAME(T) c) { return __saturatef(__hfma<T>(a, b, c)); }
KSIM_ONE T __hfma_relu(T a, KSIM_SAME(T) b, KSIM_SAME(T) c) { // NaN stays, canonical
  const T r = __hfma<T>(a, b, c);
  return float(r) < 0 || ksim::cuda::bits_of(r) == 0x8000 ? T(0.0f) : r;
}
KSIM_TWO V __hneg2(V a) { return {__hneg(a.x), __hneg(a.y)}; }
KSIM_TWO V __habs2(V a) { return {__habs(a.x), __habs(a.y)}; }
KSIM_TWO V __hfma2(V a, KSIM_SAME(V) b, KSIM_SAME(V) c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; }
KSIM_TWO V __hfma2_sat(V a, KSIM_SAME(V) b, KSIM_SAME(V) c) {
  return {__hfma_sat(a.x, b.x, c.x), __hfma_sat(a.y, b.y, c.y)};
}
KSIM_TWO V __hfma2_relu(V a, KSIM_SAME(V) b, KSIM_SAME(V) c) {
  return {__hfma_relu(a.x, b.x, c.x), __hfma_relu(a.y, b.y, c.y)};
}
KSIM_TWO V __hcmadd(V a, KSIM_SAME(V) b, KSIM_SAME(V) c) { // complex
  return {__hfma(__hneg(a.y), b.y, __hfma(a.x, b.x, c.x)), __hfma(a.y, b.x, __hfma(a.x, b.y, c.y))};
}

// ---- Comparisons: false where one is NaN; the "unordered" ones, with u, true

#define KSIM_COMPARISON(name, op)                                                                               \
  KSIM_ONE bool __h##name(T a, KSIM_SAME(T) b) { return float(a) op float(b); }                                 \
  KSIM_ONE bool __h##name##u(T a, KSIM_SAME(T) b) {                                                             \
    return float(a) op float(b) || float(a) != float(a) || float(b) != float(b);                                \
  }                                                                                                             \
  KSIM_COMPARISON2(name)                                                                                        \
  KSIM_COMPARISON2(name##u)
#define KSIM_COMPARISON2(name)                                                                                  \
  KSIM_TWO V __h##name##2(V a, KSIM_SAME(V) b) {                                                                \
    return {float(__h##name(a.x, b.x)), float(__h##name(a.y, b.y))};                                            \
  }                                                                                                             \
  KSIM_TWO bool __hb##name##2(V a, KSIM_SAME(V) b) { return __h##name(a.x, b.x) && __h##name(a.y, b.y); }       \
  KSIM_TWO unsigned int __h##name##2_mask(V a, KSIM_SAME(V) b) {                                                \
    return (__h##name(a.x, b.x) ? 0xffffu : 0) | (__h##name(a.y, b.y) ? 0xffff0000u : 0);                       \
  }
KSIM_COMPARISON(eq, ==)
KSIM_COMPARISON(lt, <)
KSIM_COMPARISON(le, <=)
KSIM_COMPARISON(gt, >)
KSIM_COMPARISON(ge, >=)
KSIM_ONE bool __hne(T a, KSIM_SAME(T) b) { return float(a) < float(b) || float(a) > float(b); }
KSIM_ONE bool __hneu(T a, KSIM_SAME(T) b) { return float(a) != float(b); }
KSIM_COMPARISON2(ne)
KSIM_COMPARISON2(neu)
#undef KSIM_COMPARISON
#undef KSIM_COMPARISON2
KSIM_ONE bool __hisnan(T a) { return float(a) != float(a); }
KSIM_ONE int __hisinf(T a) { return __builtin_isinf(float(a)) ? (float(a) > 0 ? 1 : -1) : 0; }
KSIM_TWO V __hisnan2(V a) { return {float(__hisnan(a.x)), float(__hisnan(a.y))}; }

// Of NaN and a number the number, or with _nan NaN; +0 is greater than -0.
namespace ksim::cuda {
template <bool kGreater, bool kNan, One T> KSIM_INLINE T choose(T a, T b) {
  const bool a_nan = __hisnan(a), b_nan = __hisnan(b);
  if (a_nan || b_nan) return (kNan || (a_nan && b_nan)) ? with_bits<T>(0x7fff) : a_nan ? b : a;
  const bool a_is_less = float(a) < float(b) || (float(a) == float(b) && bits_of(a) == 0x8000);
  return a_is_less == kGreater ? b : a;
}
} // namespace ksim::cuda
#define KSIM_CHOICE(name, name2, greater, nan)                                                                  \
  KSIM_ONE T name(T a, KSIM_SAME(T) b) { return ksim::cuda::choose<greater, nan, T>(a, b); }                    \
  KSIM_TWO V name2(V a, KSIM_SAME(V) b) { return {name(a.x, b.x), name(a.y, b.y)}; }
KSIM_CHOICE(__hmax, __hmax2, true, false)
KSIM_CHOICE(__hmin, __hmin2, false, false)
KSIM_CHOICE(__hmax_nan, __hmax2_nan, true, true)
KSIM_CHOICE(__hmin_nan, __hmin2_nan, false, true)
#undef KSIM_CHOICE

// ---- Functions

#define KSIM_FUNCTION(name, expression)                                                                         \
  KSIM_ONE T h##name(T a) {                                                                                     \
    const float x = a;                                                                                          \
    return expression;                                                                                          \
  }                                                                                                             \
  KSIM_TWO V h2##name(V a) { return {h##name(a.x), h##name(a.y)}; }
KSIM_FUNCTION(trunc, __builtin_truncf(x))
KSIM_FUNCTION(ceil, __builtin_ceilf(x))
KSIM_FUNCTION(floor, __builtin_floorf(x))
KSIM_FUNCTION(rint, __builtin_roundevenf(x))
KSIM_FUNCTION(sqrt, __builtin_sqrtf(x))
KSIM_FUNCTION(rsqrt, rsqrtf(x))
KSIM_FUNCTION(rcp, 1 / x)
KSIM_FUNCTION(log, __builtin_logf(x))
KSIM_FUNCTION(log2, __builtin_log2f(x))
KSIM_FUNCTION(log10, __builtin_log10f(x))
KSIM_FUNCTION(exp, __builtin_expf(x))
KSIM_FUNCTION(exp2, __builtin_exp2f(x))
KSIM_FUNCTION(exp10, exp10f(x))
KSIM_FUNCTION(cos, __builtin_cosf(x))
KSIM_FUNCTION(sin, __builtin_sinf(x))
KSIM_FUNCTION(tanh, __builtin_tanhf(x))
KSIM_FUNCTION(tanh_approx, __builtin_tanhf(x))
#undef KSIM_FUNCTION

KSIM_TWO float __low2float(V a) { return a.x; }
KSIM_TWO float __high2float(V a) { return a.y; }
KSIM_TWO V __lowhigh2highlow(V a) { return {a.y, a.x}; }

// ---- Operators

#define KSIM_OPERATOR(op, name, name2)                                                                          \
  KSIM_ONE T operator op(T a, T b) { return name(a, b); }                                                       \
  KSIM_TWO V operator op(V a, V b) { return name2(a, b); }                                                      \
  KSIM_ONE T &operator op##=(T &a, KSIM_SAME(T) b) { return a = name(a, b); }                                   \
  KSIM_TWO V &operator op##=(V &a, KSIM_SAME(V) b) { return a = name2(a, b); }
KSIM_OPERATOR(+, __hadd, __hadd2)
KSIM_OPERATOR(-, __hsub, __hsub2)
KSIM_OPERATOR(*, __hmul, __hmul2)
KSIM_OPERATOR(/, __hdiv, __h2div)
#undef KSIM_OPERATOR
#define KSIM_OPERATOR(op, name, name2)                                                                          \
  KSIM_ONE bool operator op(T a, T b) { return name(a, b); }                                                    \
  KSIM_TWO bool operator op(V a, V b) { return name2(a, b); }
KSIM_OPERATOR(==, __heq, __hbeq2)
KSIM_OPERATOR(!=, __hneu, __hbneu2)
KSIM_OPERATOR(<, __hlt, __hblt2)
KSIM_OPERATOR(<=, __hle, __hble2)
KSIM_OPERATOR(>, __hgt, __hbgt2)
KSIM_OPERATOR(>=, __hge, __hbge2)
#undef KSIM_OPERATOR
KSIM_ONE T operator+(T a) { return a; }
KSIM_ONE T operator-(T a) { return __hneg(a); }
KSIM_TWO V operator+(V a) { return a; }
KSIM_TWO V operator-(V a) { return __hneg2(a); }
KSIM_ONE T &operator++(T &a) { return a += T(1); }
KSIM_ONE T &operator--(T &a) { return a -= T(1); }
KSIM_ONE T operator++(T &a, int) {
  const T before = a;
  a += T(1);
  return before;
}
KSIM_ONE T operator--(T &a, int) {
  const T before = a;
  a -= T(1);
  return before;
}
