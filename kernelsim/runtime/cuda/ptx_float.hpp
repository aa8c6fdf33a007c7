// SPDX-License-Identifier: MIT
// PTX ISA: "Floating Point Instructions", "Half Precision Floating Point Instructions", and the arithmetic that
// these share with integers; setp and set.
//
// Results are rounded once, as the ISA has it. The .approx instructions give the library's result, which is
// better than a GPU's. A NaN that an instruction makes is CUDA's canonical one, 0x7fffffff or 0x7fff.
// Instructions are never fused, which ptxas may do with those that do not name a rounding.
#pragma once
#include "bfloat16.hpp"
#include "half.hpp"
#include "ptx_integer.hpp"

namespace ksim::ptx {

// ---- What modifiers do to a value

template <class T> KSIM_INLINE auto wide(T x) { // what C++ computes with
  if constexpr (cuda::One<T>)
    return float(x);
  else
    return x;
}
template <class T> KSIM_INLINE T without_sign(T x) {
  return __builtin_bit_cast(T, Raw<T>(__builtin_bit_cast(Raw<T>, x) << 1 >> 1));
}
template <class T> constexpr Raw<T> kSignBit = Raw<T>(Raw<T>(1) << (kBitsOf<T> - 1));
template <class T> KSIM_INLINE Raw<T> sign_of(T x) { return __builtin_bit_cast(Raw<T>, x) & kSignBit<T>; }
template <class T> KSIM_INLINE T with_sign(T magnitude, Raw<T> sign) {
  return __builtin_bit_cast(T, Raw<T>((__builtin_bit_cast(Raw<T>, magnitude) & Raw<T>(~kSignBit<T>)) | sign));
}
// .ftz: a subnormal number becomes zero and keeps its sign.
template <bool kFtz, class T> KSIM_INLINE T flushed(T x) {
  if constexpr (kFtz && is_real<T>) {
    constexpr Raw<T> exponent = sizeof(T) == 2   ? 0x7c00
                                : sizeof(T) == 4 ? 0x7f800000
                                                 : Raw<T>(0x7ff0000000000000ull);
    if (!(__builtin_bit_cast(Raw<T>, x) & exponent)) return __builtin_bit_cast(T, sign_of(x));
  }
  return x;
}
template <class T> KSIM_INLINE T canonical(T x) {
  if constexpr (__is_same(T, float))
    return x == x ? x : float_of(0x7fffffff);
  else
    return x;
}
template <bool kSat, bool kRelu, class T> KSIM_INLINE T bounded(T x) {
  if constexpr (kSat) return T(__saturatef(float(wide(x)))); // NaN becomes +0
  if constexpr (kRelu) return wide(x) < 0 || __builtin_bit_cast(Raw<T>, x) == kSignBit<T> ? T(0) : x;
  return x;
}
// f of each element.
template <bool kFtz, bool kSat, bool kRelu, class F, class T, class... Rest>
KSIM_INLINE T each(F f, T a, Rest... rest) {
  if constexpr (is_pair<T>) {
    return {each<kFtz, kSat, kRelu>(f, a.x, rest.x...), each<kFtz, kSat, kRelu>(f, a.y, rest.y...)};
  } else {
    return bounded<kSat, kRelu>(canonical(flushed<kFtz>(T(f(flushed<kFtz>(a), flushed<kFtz>(rest)...)))));
  }
}

// ---- Arithmetic

#define KSIM_ARITHMETIC(name, integers, floats, doubles, halves)                              \
  struct name##_of {                                                                          \
    template <class T> KSIM_INLINE T operator()(T a, T b) const {                             \
      _Pragma("clang fp contract(off)") if constexpr (__is_integral(T)) return T(integers);   \
      else if constexpr (__is_same(T, double)) return doubles;                                \
      else return halves;                                                                     \
    }                                                                                         \
  };                                                                                          \
  template <Rounding kRounding> struct name##_rounded : name##_of {                           \
    using name##_of::operator();                                                              \
    KSIM_INLINE float operator()(float a, float b) const { return floats; }                   \
  };                                                                                          \
  template <class T, Rounding kRounding = kNearestEven, bool kFtz = false, bool kSat = false> \
  KSIM_INLINE T name(T a, T b) {                                                              \
    return each<kFtz, kSat, false>(name##_rounded<kRounding>(), a, b);                        \
  }
KSIM_ARITHMETIC(add, Raw<T>(a) + Raw<T>(b), cuda::add<kRounding>(a, b), a + b, __hadd(a, b))
KSIM_ARITHMETIC(sub, Raw<T>(a) - Raw<T>(b), cuda::add<kRounding>(a, -b), a - b, __hsub(a, b))
KSIM_ARITHMETIC(mul, Raw<T>(a) * Raw<T>(b), cuda::mul<kRounding>(a, b), a *b, __hmul(a, b))
#undef KSIM_ARITHMETIC

// A sum that is exactly zero is -0 when rounding down, unless it is of +0 alone.
template <Rounding kRounding> KSIM_INLINE float fma_float(float a, float b, float c) {
  const double product = double(a) * double(b);
  if (kRounding == ksim::kDown && product + double(c) == 0)
    return __builtin_signbit(product) || __builtin_signbit(c) ? -0.0f : 0.0f;
  return cuda::fma<kRounding>(a, b, c);
}
template <class T, Rounding kRounding = kNearestEven, bool kFtz = false, bool kSat = false, bool kRelu = false>
KSIM_INLINE T fma(T a, T b, T c) {
  const auto f = [](auto x, auto y, auto z) {
    if constexpr (__is_same(decltype(x), float))
      return fma_float<kRounding>(x, y, z);
    else if constexpr (__is_same(decltype(x), double))
      return __builtin_fma(x, y, z);
    else
      return __hfma(x, y, z);
  };
  return each<kFtz, kSat, kRelu>(f, a, b, c);
}
// add.f32.f16 and its like: a half with a float.
template <class T, Rounding kRounding, bool kSat> KSIM_INLINE float add_mixed(T a, float c) {
  return add<float, kRounding, false, kSat>(wide(a), c);
}
template <class T, Rounding kRounding, bool kSat> KSIM_INLINE float sub_mixed(T a, float c) {
  return sub<float, kRounding, false, kSat>(wide(a), c);
}
template <class T, Rounding kRounding, bool kSat> KSIM_INLINE float fma_mixed(T a, T b, float c) {
  return fma<float, kRounding, false, kSat>(wide(a), wide(b), c);
}
template <class T, Rounding kRounding = kNearestEven, bool kFtz = false> KSIM_INLINE T div(T a, T b) {
  if constexpr (__is_same(T, double))
    return a / b;
  else
    return each<kFtz, false, false>([](float x, float y) { return cuda::div<kRounding>(x, y); }, a, b);
}
template <class T, Rounding kRounding = kNearestEven, bool kFtz = false> KSIM_INLINE T rcp(T a) {
  return div<T, kRounding, kFtz>(T(1), a);
}
template <class T, Rounding kRounding = kNearestEven, bool kFtz = false> KSIM_INLINE T sqrt(T a) {
  if constexpr (__is_same(T, double))
    return __builtin_sqrt(a);
  else
    return each<kFtz, false, false>([](float x) { return cuda::sqrt<kRounding>(x); }, a);
}
template <bool kFtz> KSIM_INLINE float div_approx(float a, float b) {
  return each<kFtz, false, false>([](float x, float y) { return __fdividef(x, y); }, a, b);
}

template <class T, bool kFtz = false> KSIM_INLINE T abs(T a) {
  if constexpr (__is_integral(T))
    return a < 0 ? T(0 - Raw<T>(a)) : a;
  else
    return each<kFtz, false, false>([](auto x) { return with_sign(x, 0); }, a);
}
template <class T, bool kFtz = false> KSIM_INLINE T neg(T a) {
  if constexpr (__is_integral(T))
    return T(0 - Raw<T>(a));
  else
    return each<kFtz, false, false>(
        [](auto x) { return with_sign(x, Raw<decltype(x)>(sign_of(x) ^ kSignBit<decltype(x)>)); }, a);
}
// copysign d, a, b: the sign of a, all else of b.
template <class T> KSIM_INLINE T copysign(T a, T b) { return with_sign(b, sign_of(a)); }

// Of a number and NaN the number, or with .NaN NaN; -0 is less than +0.
template <bool kGreater, bool kNaN, class T> KSIM_INLINE T choose(T a, T b) {
  const auto x = wide(a), y = wide(b);
  if constexpr (is_real<T> || cuda::One<T>) {
    if (x != x) return kNaN || y != y ? __builtin_bit_cast(T, Raw<T>(~kSignBit<T>)) : b;
    if (y != y) return kNaN ? __builtin_bit_cast(T, Raw<T>(~kSignBit<T>)) : a;
    if (x == y) return (sign_of(a) != 0) == kGreater ? b : a;
  }
  return (x < y) == kGreater ? b : a;
}
// .xorsign.abs: of the magnitudes, with the product's sign.
template <bool kGreater, bool kNaN, bool kXorSign, class T> KSIM_INLINE T choose(T a, T b) {
  if constexpr (!kXorSign)
    return choose<kGreater, kNaN>(a, b);
  else
    return with_sign(choose<kGreater, kNaN>(with_sign(a, 0), with_sign(b, 0)), Raw<T>(sign_of(a) ^ sign_of(b)));
}
template <class T, bool kFtz = false, bool kNaN = false, bool kXorSign = false, bool kRelu = false>
KSIM_INLINE T min(T a, T b) {
  return each<kFtz, false, kRelu>([](auto x, auto y) { return choose<false, kNaN, kXorSign>(x, y); }, a, b);
}
template <class T, bool kFtz = false, bool kNaN = false, bool kXorSign = false, bool kRelu = false>
KSIM_INLINE T max(T a, T b) {
  return each<kFtz, false, kRelu>([](auto x, auto y) { return choose<true, kNaN, kXorSign>(x, y); }, a, b);
}
template <bool kFtz, bool kNaN> KSIM_INLINE float min3(float a, float b, float c) {
  return min<float, kFtz, kNaN>(min<float, kFtz, kNaN>(a, b), c);
}
template <bool kFtz, bool kNaN> KSIM_INLINE float max3(float a, float b, float c) {
  return max<float, kFtz, kNaN>(max<float, kFtz, kNaN>(a, b), c);
}

// ---- Approximations

template <class T, Name kFunction, bool kFtz = false> KSIM_INLINE T approx(T a) {
  const auto f = [](auto value) {
    using E = decltype(value);
    const auto x = wide(value);
    if constexpr (kFunction == kRsqrt)
      return E(1 / __builtin_sqrt(double(x)));
    else if constexpr (kFunction == kSin)
      return E(__builtin_sinf(x));
    else if constexpr (kFunction == kCos)
      return E(__builtin_cosf(x));
    else if constexpr (kFunction == kLg2)
      return E(__builtin_log2f(x));
    else if constexpr (kFunction == kEx2)
      return E(__builtin_exp2f(x));
    else
      return E(__builtin_tanhf(x));
  };
  return each<kFtz, false, false>(f, a);
}

// ---- setp, set

template <class T, Name kCmp, bool kFtz = false> KSIM_INLINE bool test(T a, T b) {
  return compare<kCmp>(wide(flushed<kFtz>(a)), wide(flushed<kFtz>(b)));
}
template <class T, Name kCmp, bool kFtz = false, Name kBool = kAnd, class A, class B>
KSIM_INLINE void setp(bool &p, bool &q, A a, B b, bool c = true) {
  const bool t = test<T, kCmp, kFtz>(as<T>(a), as<T>(b));
  p = logical<kBool>(t, c);
  q = logical<kBool>(!t, c);
}
template <class T, Name kCmp, bool kFtz = false, class A, class B>
KSIM_INLINE void setp_both(bool &p, bool &q, A a, B b) {
  const T x = as<T>(a), y = as<T>(b);
  p = test<typename T::Element, kCmp, kFtz>(x.x, y.x);
  q = test<typename T::Element, kCmp, kFtz>(x.y, y.y);
}
template <class D, class T, Name kCmp, bool kFtz = false> KSIM_INLINE D set_if(T a, T b) {
  const bool t = test<T, kCmp, kFtz>(a, b);
  return __is_integral(D) ? D(t ? -1 : 0) : D(t);
}
// Of two halves: 1.0 or 0 each, or for integers all ones or 0 in each half of the word.
template <class D, class T, Name kCmp, bool kFtz = false> KSIM_INLINE D set_both(T a, T b) {
  const bool low = test<typename T::Element, kCmp, kFtz>(a.x, b.x),
             high = test<typename T::Element, kCmp, kFtz>(a.y, b.y);
  if constexpr (is_pair<D>)
    return {typename D::Element(float(low)), typename D::Element(float(high))};
  else
    return D((low ? 0xffffu : 0u) | (high ? 0xffff0000u : 0u));
}

} // namespace ksim::ptx
