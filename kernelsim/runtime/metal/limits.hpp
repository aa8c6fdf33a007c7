// SPDX-License-Identifier: MIT
// <metal_limits>: numeric_limits.
#pragma once
#include "bfloat.hpp"
#include "integer.hpp"

namespace ksim {

// Of an IEEE format: the values as codes.
template <class T, class Bits, int kExponent, int kMantissa> struct FloatLimits {
  static constexpr bool is_specialized = true, is_signed = true, is_integer = false, is_exact = false;
  static constexpr bool has_infinity = true, has_quiet_NaN = true, has_signaling_NaN = true, is_iec559 = true;
  static constexpr bool is_bounded = true, is_modulo = false;
  static constexpr int radix = 2, digits = kMantissa + 1, digits10 = kMantissa * 30103 / 100000;
  static constexpr int max_digits10 = digits * 30103 / 100000 + 2;
  static constexpr int max_exponent = 1 << (kExponent - 1), min_exponent = 3 - max_exponent;

  static constexpr T min() { return of(1, 0); }
  static constexpr T max() { return of(kSpecial - 1, kOne - 1); }
  static constexpr T lowest() { return of(kSpecial - 1 | kSpecial + 1, kOne - 1); }
  static constexpr T epsilon() { return of(max_exponent - 1 - kMantissa, 0); }
  static constexpr T round_error() { return of(max_exponent - 2, 0); } // 0.5
  static constexpr T infinity() { return of(kSpecial, 0); }
  static constexpr T quiet_NaN() { return of(kSpecial, kOne / 2); }
  static constexpr T signaling_NaN() { return of(kSpecial, 1); }
  static constexpr T denorm_min() { return of(0, 1); }

private:
  static constexpr uint kSpecial = (1u << kExponent) - 1, kOne = 1u << kMantissa;
  static constexpr T of(uint exponent, uint mantissa) {
    return __builtin_bit_cast(T, Bits(exponent << kMantissa | mantissa));
  }
};

template <class T> struct IntegerLimits {
  static constexpr bool is_specialized = true, is_signed = __is_signed(T), is_integer = true, is_exact = true;
  static constexpr bool has_infinity = false, has_quiet_NaN = false, has_signaling_NaN = false,
                        is_iec559 = false;
  static constexpr bool is_bounded = true, is_modulo = !is_signed;
  static constexpr int radix = 2, digits = bits<T> - is_signed, digits10 = digits * 30103 / 100000;

  static constexpr T min() { return least<T>; }
  static constexpr T max() { return greatest<T>; }
  static constexpr T lowest() { return least<T>; }
  static constexpr T epsilon() { return 0; }
  static constexpr T round_error() { return 0; }
  static constexpr T infinity() { return 0; }
  static constexpr T quiet_NaN() { return 0; }
  static constexpr T signaling_NaN() { return 0; }
  static constexpr T denorm_min() { return 0; }
};

struct NoLimits {
  static constexpr bool is_specialized = false;
};

} // namespace ksim

namespace metal {

// An internal name of Apple's header: kernels specialise it for types of their own.
template <class T>
struct _numeric_limits_impl : conditional_t<__is_integral(T), ksim::IntegerLimits<T>, ksim::NoLimits> {};
template <> struct _numeric_limits_impl<bool> : ksim::IntegerLimits<bool> {
  static constexpr int digits = 1;
  static constexpr bool max() { return true; }
};
template <> struct _numeric_limits_impl<float> : ksim::FloatLimits<float, uint, 8, 23> {};
template <> struct _numeric_limits_impl<half> : ksim::FloatLimits<half, ushort, 5, 10> {};
template <> struct _numeric_limits_impl<bfloat> : ksim::FloatLimits<bfloat, ushort, 8, 7> {};

template <class T> struct numeric_limits : _numeric_limits_impl<remove_cv_t<T>> {};

} // namespace metal
