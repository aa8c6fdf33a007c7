// SPDX-License-Identifier: MIT
// bfloat, and the literals of half and bfloat.
#pragma once
#include "traits.hpp"

namespace ksim {
template <class T>
constexpr bool from_bfloat = __is_same(T, float) ||
                             (__is_integral(T) && !__is_same(T, int) && !__is_same(T, bool));
} // namespace ksim

// The upper half of a float. As MSL 3.1 has it: implicitly only to float, from integers, and not from float or
// half; arithmetic with integers gives bfloat, with float gives float. Every result is rounded to nearest even.
class bfloat {
public:
  bfloat() = default;
  template <class T, class = metal::enable_if_t<ksim::is_number<T>>>
  KSIM_INLINE constexpr explicit(!__is_integral(T)) bfloat(T x) : bits(round(narrow(x))) {}

  KSIM_INLINE constexpr explicit bfloat(float x) : bits(round(x)) {} // and of classes that become a number

  // Implicitly to float and integers, but not to half. Where MSL would also take int and bool without a cast
  // this does not: C++ would find `condition ? x : 0` ambiguous, as classes have no ranks.
  template <class T, class = metal::enable_if_t<ksim::from_bfloat<T>>>
  KSIM_INLINE constexpr operator T() const {
    return T(value());
  }
  template <class T, class = metal::enable_if_t<ksim::is_number<T> && !ksim::from_bfloat<T>>, class = void>
  KSIM_INLINE constexpr explicit operator T() const {
    return T(value());
  }

#ifdef KSIM_CHECK // of objects in `constant`; templates, with which a class stays trivially copyable
  template <class C, class = metal::enable_if_t<__is_same(const C, const __constant bfloat)>>
  constexpr bfloat(C &x) : bits(x.bits) {}
  template <class C, class = metal::enable_if_t<__is_same(const C, const __constant bfloat)>>
  constexpr bfloat(C &x) __constant : bits(x.bits) {}
  template <class C, class = metal::enable_if_t<__is_same(const C, const __constant bfloat)>>
  void operator=(C &x) __generic;
#endif

private:
  ushort bits;

  KSIM_INLINE constexpr float value() const { return __builtin_bit_cast(float, uint(bits) << 16); }

  static KSIM_INLINE constexpr ushort round(float x) {
    const uint b = __builtin_bit_cast(uint, x);
    const uint nearest = (b + 0x7fff + (b >> 16 & 1)) >> 16, quiet_nan = b >> 16 | 0x40;
    return ushort((b & 0x7fffffff) > 0x7f800000 ? quiet_nan : nearest);
  }

  // A float that rounds to bfloat as x does: the last of its bits set where bits of an integer were cut off.
  template <class T> static KSIM_INLINE constexpr float narrow(T x) {
    if constexpr (__is_integral(T) && sizeof(T) > 2) {
      const ulong magnitude = x < 0 ? 0 - ulong(x) : ulong(x);
      if (magnitude >> 24) {
        const int cut = 40 - __builtin_clzl(magnitude);
        const ulong kept = magnitude >> cut | ((magnitude & ((1ul << cut) - 1)) != 0);
        return (x < 0 ? -1.0f : 1.0f) * float(kept) * float(1ul << cut);
      }
    }
    return float(x);
  }
};

namespace ksim {
template <class A, class B>
constexpr bool with_bfloat = (__is_same(A, bfloat) && (is_number<B> || __is_same(B, bfloat))) ||
                             (__is_same(B, bfloat) && is_number<A>);
// Of arithmetic between A and B, of which one is bfloat.
template <class A, class B, class = metal::enable_if_t<with_bfloat<A, B>>>
using bfloat_result = metal::conditional_t<__is_floating_point(A) || __is_floating_point(B), float, bfloat>;
} // namespace ksim

#define KSIM_BFLOAT(op, assign)                                                \
  template <class A, class B, class R = ksim::bfloat_result<A, B>>             \
  KSIM_INLINE constexpr R operator op(A a, B b) {                              \
    return R(float(a) op float(b));                                            \
  }                                                                            \
  template <class B, class = metal::enable_if_t<ksim::with_bfloat<bfloat, B>>> \
  KSIM_INLINE constexpr bfloat &operator assign(bfloat &a, B b) {              \
    return a = bfloat(a op b);                                                 \
  }                                                                            \
  template <class A, class = metal::enable_if_t<ksim::is_number<A>>>           \
  KSIM_INLINE constexpr A &operator assign(A &a, bfloat b) {                   \
    return a = metal::remove_addrspace_t<A>(a op b);                           \
  }
KSIM_BFLOAT(+, +=)
KSIM_BFLOAT(-, -=)
KSIM_BFLOAT(*, *=)
KSIM_BFLOAT(/, /=)
#undef KSIM_BFLOAT
#define KSIM_BFLOAT(op)                                                            \
  template <class A, class B, class = metal::enable_if_t<ksim::with_bfloat<A, B>>> \
  KSIM_INLINE constexpr bool operator op(A a, B b) {                               \
    return float(a) op float(b);                                                   \
  }
KSIM_BFLOAT(==)
KSIM_BFLOAT(!=)
KSIM_BFLOAT(<)
KSIM_BFLOAT(>)
KSIM_BFLOAT(<=)
KSIM_BFLOAT(>=)
#undef KSIM_BFLOAT
KSIM_INLINE constexpr bfloat operator+(bfloat a) { return a; }
KSIM_INLINE constexpr bfloat operator-(bfloat a) { // of NaN and zero too
  return __builtin_bit_cast(bfloat, ushort(__builtin_bit_cast(ushort, a) ^ 0x8000));
}
KSIM_INLINE bfloat &operator++(bfloat &a) { return a += 1; }
KSIM_INLINE bfloat &operator--(bfloat &a) { return a -= 1; }

// 1.0h is a literal of C++ too, if one defines it; H, bf and BF are not, and the rewriter makes _h and _bf of
// them.
constexpr half operator""h(long double x) { return half(x); }
constexpr half operator""h(unsigned long long x) { return half(x); }
constexpr half operator""_h(long double x) { return half(x); }
constexpr bfloat operator""_bf(long double x) { return bfloat(float(x)); }
