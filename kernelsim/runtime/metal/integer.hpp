// SPDX-License-Identifier: MIT
// <metal_integer> on scalars; vector_math.hpp lifts them to vectors.
#pragma once
#include "traits.hpp"

namespace ksim {

// An integer type that holds products and sums of T's.
template <int kBytes, bool kSigned> struct WideOf {
  using type = metal::conditional_t<kSigned, long, ulong>;
};
#ifndef KSIM_CHECK
template <> struct WideOf<8, true> {
  using type = __int128;
};
template <> struct WideOf<8, false> {
  using type = unsigned __int128;
};
#endif
template <class T> using wide = typename WideOf<sizeof(T), __is_signed(T)>::type;
template <class T> constexpr int bits = 8 * sizeof(T);
template <class T> constexpr T greatest = __is_signed(T) ? T(~(T(1) << (bits<T> - 1))) : T(~T(0));
template <class T> constexpr T least = __is_signed(T) ? T(T(1) << (bits<T> - 1)) : T(0);

template <class T> KSIM_INLINE constexpr T saturated(wide<T> x) {
  return x > wide<T>(greatest<T>) ? greatest<T> : x < wide<T>(least<T>) ? least<T> : T(x);
}
template <class T> constexpr wide<T> low24(T x) {
  return __is_signed(T) ? wide<T>(int(uint(x) << 8) >> 8) : wide<T>(x & 0xffffff);
}

} // namespace ksim

namespace metal {

// These are there for each type, not as templates: arguments of class types, such as MLX's integral constants,
// must convert; and arguments of two types are ambiguous, as they are for Apple's compiler.
#define KSIM_INTEGER(T)                                                                        \
  KSIM_INLINE constexpr T min(T x, T y) { return y < x ? y : x; }                              \
  KSIM_INLINE constexpr T max(T x, T y) { return x < y ? y : x; }                              \
  KSIM_INLINE constexpr T clamp(T x, T low, T high) { return min(max(x, low), high); }         \
  KSIM_INLINE constexpr T min3(T x, T y, T z) { return min(x, min(y, z)); }                    \
  KSIM_INLINE constexpr T max3(T x, T y, T z) { return max(x, max(y, z)); }                    \
  KSIM_INLINE constexpr T median3(T x, T y, T z) { return max(min(x, y), min(max(x, y), z)); } \
  KSIM_INLINE constexpr T abs(T x) { return x < 0 ? static_cast<T>(0 - x) : x; }
KSIM_INTEGER(char)
KSIM_INTEGER(signed char)
KSIM_INTEGER(uchar)
KSIM_INTEGER(short)
KSIM_INTEGER(ushort)
KSIM_INTEGER(int)
KSIM_INTEGER(uint)
KSIM_INTEGER(long)
KSIM_INTEGER(ulong)
#ifndef KSIM_CHECK
KSIM_INTEGER(long long) // int64_t on macOS
KSIM_INTEGER(unsigned long long)
#endif
#undef KSIM_INTEGER

#define KSIM_INTEGER template <class T, class = ksim::if_integral<T>> KSIM_INLINE constexpr
KSIM_INTEGER make_unsigned_t<T> absdiff(T x, T y) {
  using U = make_unsigned_t<T>;
  return x < y ? U(U(y) - U(x)) : U(U(x) - U(y));
}
KSIM_INTEGER T addsat(T x, T y) { return ksim::saturated<T>(ksim::wide<T>(x) + ksim::wide<T>(y)); }
KSIM_INTEGER T subsat(T x, T y) {
  if constexpr (__is_unsigned(T)) return x < y ? T(0) : T(x - y);
  return ksim::saturated<T>(ksim::wide<T>(x) - ksim::wide<T>(y));
}
KSIM_INTEGER T hadd(T x, T y) { return T((x & y) + ((x ^ y) >> 1)); }  // (x + y) >> 1
KSIM_INTEGER T rhadd(T x, T y) { return T((x | y) - ((x ^ y) >> 1)); } // (x + y + 1) >> 1
KSIM_INTEGER T mulhi(T x, T y) { return T(ksim::wide<T>(x) * ksim::wide<T>(y) >> ksim::bits<T>); }
KSIM_INTEGER T madhi(T x, T y, T z) { return T(ksim::wide<T>(mulhi(x, y)) + ksim::wide<T>(z)); }
KSIM_INTEGER T madsat(T x, T y, T z) {
  return ksim::saturated<T>(ksim::wide<T>(x) * ksim::wide<T>(y) + ksim::wide<T>(z));
}
KSIM_INTEGER T mul24(T x, T y) { return T(ksim::low24(x) * ksim::low24(y)); } // of the operands' lower 24 bits
KSIM_INTEGER T mad24(T x, T y, T z) { return T(ksim::low24(x) * ksim::low24(y) + ksim::wide<T>(z)); }

KSIM_INTEGER T popcount(T x) { return T(__builtin_popcountl(make_unsigned_t<T>(x))); }
KSIM_INTEGER T clz(T x) {
  return T(x ? __builtin_clzl(make_unsigned_t<T>(x)) - (64 - ksim::bits<T>) : ksim::bits<T>);
}
KSIM_INTEGER T ctz(T x) { return T(x ? __builtin_ctzl(make_unsigned_t<T>(x)) : ksim::bits<T>); }
KSIM_INTEGER T reverse_bits(T x) {
  return T(__builtin_bitreverse64(make_unsigned_t<T>(x)) >> (64 - ksim::bits<T>));
}
KSIM_INTEGER T rotate(T x, T by) { // to the left
  using U = make_unsigned_t<T>;
  const int left = int(U(by) % ksim::bits<T>);
  return left ? T(U(x) << left | U(x) >> (ksim::bits<T> - left)) : x;
}
// Undefined where offset + count exceeds the bits of T; here bits beyond are as if x were wider.
KSIM_INTEGER T extract_bits(T x, uint offset, uint count) {
  if (!count) return 0;
  const int up = 64 - int(count);
  if constexpr (__is_unsigned(T)) return T(ulong(x) >> (offset & 63) << (up & 63) >> (up & 63));
  return T(long(ulong(long(x) >> (offset & 63)) << (up & 63)) >> (up & 63));
}
KSIM_INTEGER T insert_bits(T base, T insert, uint offset, uint count) {
  if (!count) return base;
  const ulong mask = ~0ul >> (64 - count & 63) << (offset & 63);
  return T((ulong(base) & ~mask) | (ulong(insert) << (offset & 63) & mask));
}
#undef KSIM_INTEGER

} // namespace metal
