// SPDX-License-Identifier: MIT
// What __half and __nv_bfloat16 share: how numbers come to sixteen bits with a single rounding.
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
template <One T> KSIM_INLINE T with_bits(unsigned int bits) {
  return typename Sixteen<T>::Raw{(unsigned short)bits};
}

// Of NaN and a number the number, or with kNan NaN; +0 is greater than -0.
template <bool kGreater, bool kNan, One T> KSIM_INLINE T choose(T a, T b) {
  const bool a_nan = float(a) != float(a), b_nan = float(b) != float(b);
  if (a_nan || b_nan) return (kNan || (a_nan && b_nan)) ? with_bits<T>(0x7fff) : a_nan ? b : a;
  const bool a_is_less = float(a) < float(b) || (float(a) == float(b) && bits_of(a) == 0x8000);
  return a_is_less == kGreater ? b : a;
}

} // namespace ksim::cuda
