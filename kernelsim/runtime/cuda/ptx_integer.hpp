// SPDX-License-Identifier: MIT
// PTX ISA: "Integer Arithmetic Instructions", "Logic and Shift Instructions", "Comparison and Selection
// Instructions", and prmt. Each is the function of values that the ISA's pseudocode gives.
#pragma once
#include "integer.hpp"
#include "ptx_registers.hpp"

namespace ksim::ptx {

template <int kBytes, bool kSigned> struct Sized : Word<kBytes> {};
template <> struct Sized<4, true> {
  using type = int32_t;
};
template <> struct Sized<8, true> {
  using type = int64_t;
};
template <> struct Sized<16, true> {
  using type = __int128;
};
template <class T> using Wide = typename Sized<2 * sizeof(T), is_signed_integer<T>>::type;

template <class T> constexpr int kBitsOf = 8 * int(sizeof(T));
template <class T> constexpr T kLeast = is_signed_integer<T> ? T(Raw<T>(1) << (kBitsOf<T> - 1)) : T(0);
template <class T> constexpr T kGreatest = T(~kLeast<T>);
// x, or the end of T's range beyond which it lies.
template <class T, class W> KSIM_INLINE T clamped(W x) {
  return x < W(kLeast<T>) ? kLeast<T> : x > W(kGreatest<T>) ? kGreatest<T> : T(x);
}

// ---- Products; hi and lo are halves of the exact product

KSIM_INLINE int32_t add_sat(int32_t a, int32_t b) { return clamped<int32_t>(int64_t(a) + b); }
KSIM_INLINE int32_t sub_sat(int32_t a, int32_t b) { return clamped<int32_t>(int64_t(a) - b); }
template <class T> KSIM_INLINE Wide<T> mul_wide(T a, T b) { return Wide<T>(Wide<T>(a) * Wide<T>(b)); }
template <class T, Name kHalf> KSIM_INLINE T mul_half(T a, T b) {
  return kHalf == kHi ? T(mul_wide(a, b) >> kBitsOf<T>) : T(mul_wide(a, b));
}
template <class T, Name kHalf> KSIM_INLINE T mad_half(T a, T b, T c) {
  return T(Raw<T>(mul_half<T, kHalf>(a, b)) + Raw<T>(c));
}
KSIM_INLINE int32_t mad_hi_sat(int32_t a, int32_t b, int32_t c) {
  return add_sat(mul_half<int32_t, kHi>(a, b), c);
}
template <class T> KSIM_INLINE Wide<T> mad_wide(T a, T b, Wide<T> c) {
  return Wide<T>(Raw<Wide<T>>(mul_wide(a, b)) + Raw<Wide<T>>(c));
}
// Of 24-bit numbers; hi is the upper 32 of the product's 48 bits.
template <class T, Name kHalf> KSIM_INLINE T mul24(T a, T b) {
  const Wide<T> product = mul_wide(T(T(Raw<T>(a) << 8) >> 8), T(T(Raw<T>(b) << 8) >> 8));
  return kHalf == kHi ? T(product >> 16) : T(product);
}
template <class T, Name kHalf> KSIM_INLINE T mad24(T a, T b, T c) {
  return T(Raw<T>(mul24<T, kHalf>(a, b)) + Raw<T>(c));
}
template <class T> KSIM_INLINE T sad(T a, T b, T c) {
  return T(Raw<T>(c) + (a < b ? Raw<T>(Raw<T>(b) - Raw<T>(a)) : Raw<T>(Raw<T>(a) - Raw<T>(b))));
}
template <class T, class R, class A, class B>
KSIM_INLINE void div_integer(R &d, A a, B b, Where where = here()) {
  const T n = as<T>(a), by = as<T>(b);
  if (by == 0) fail(kDivision, where, "div: integer division by zero");
  d = raw<R>(is_signed_integer<T> && by == T(-1) ? T(0 - Raw<T>(n)) : T(n / by));
}
template <class T, class R, class A, class B>
KSIM_INLINE void rem_integer(R &d, A a, B b, Where where = here()) {
  const T n = as<T>(a), by = as<T>(b);
  if (by == 0) fail(kDivision, where, "rem: integer division by zero");
  d = raw<R>(is_signed_integer<T> && by == T(-1) ? T(0) : T(n % by));
}
template <class A, class B> KSIM_INLINE uint32_t dp4a(uint32_t a, uint32_t b, uint32_t c) {
  return cuda::dot4<typename Select<is_signed_integer<A>, int8_t, uint8_t>::type,
                    typename Select<is_signed_integer<B>, int8_t, uint8_t>::type>(a, b, c);
}
template <class A, class B, Name kHalf> KSIM_INLINE uint32_t dp2a(uint32_t a, uint32_t b, uint32_t c) {
  return cuda::dot2<typename Select<is_signed_integer<A>, int16_t, uint16_t>::type,
                    typename Select<is_signed_integer<B>, int8_t, uint8_t>::type, kHalf == kHi ? 2 : 0>(a, b,
                                                                                                        c);
}

// ---- Bits

template <class T> KSIM_INLINE uint32_t popc(T a) { return uint32_t(__builtin_popcountll(a)); }
template <class T> KSIM_INLINE uint32_t clz(T a) {
  return a ? uint32_t(__builtin_clzll(a)) - (64 - kBitsOf<T>) : kBitsOf<T>;
}
template <class T> KSIM_INLINE T brev(T a) { return T(__builtin_bitreverse64(a) >> (64 - kBitsOf<T>)); }
// The most significant bit that is not a sign; all ones where there is none.
template <class T, bool kShiftAmount> KSIM_INLINE uint32_t bfind(T a) {
  const Raw<T> bits = a < 0 ? Raw<T>(~a) : Raw<T>(a);
  const uint32_t zeros = clz(bits);
  return !bits ? ~0u : kShiftAmount ? zeros : kBitsOf<T> - 1 - zeros;
}
template <class T> KSIM_INLINE T bfe(T a, uint32_t b, uint32_t c) {
  const int position = int(b & 0xff), length = int(c & 0xff), last = kBitsOf<T> - 1;
  const int top = position + length - 1 < last ? position + length - 1 : last;
  const bool sign = is_signed_integer<T> && length && (Raw<T>(a) >> top & 1);
  const Raw<T> shifted = position > last ? 0 : Raw<T>(a) >> position;
  const int kept = position > last ? 0 : top - position + 1;
  const Raw<T> mask = kept > last ? ~Raw<T>(0) : Raw<T>((Raw<T>(1) << kept) - 1);
  return T((shifted & mask) | (sign ? Raw<T>(~mask) : 0));
}
template <class T> KSIM_INLINE T bfi(T a, T b, uint32_t c, uint32_t d) {
  const uint32_t position = c & 0xff, length = d & 0xff;
  if (position >= kBitsOf<T>) return b;
  const T field = length >= kBitsOf<T> ? ~T(0) : (T(1) << length) - 1, mask = field << position;
  return (b & ~mask) | (a << position & mask);
}
// A mask of b bits from bit a on.
template <Name kMode> KSIM_INLINE uint32_t bmsk(uint32_t a, uint32_t b) {
  const uint32_t position = a & 31, width = b & 31;
  if (kMode == kClamp && a >= 32) return 0;
  const bool reaches_the_top = position + width >= 32 || (kMode == kClamp && b >= 32);
  return ~0u << position & (reaches_the_top ? ~0u : ~(~0u << (position + width)));
}

// ---- Logic and shifts; a shift by the width or more leaves nothing but signs

template <class T> KSIM_INLINE T and_(T a, T b) { return a & b; }
template <class T> KSIM_INLINE T or_(T a, T b) { return a | b; }
template <class T> KSIM_INLINE T xor_(T a, T b) { return a ^ b; }
template <class T> KSIM_INLINE T not_(T a) {
  if constexpr (is_bool<T>)
    return !a;
  else
    return T(~a);
}
template <class T> KSIM_INLINE T cnot(T a) { return T(a == 0); }
template <class T> KSIM_INLINE T shl(T a, uint32_t n) { return n >= kBitsOf<T> ? T(0) : T(a << n); }
template <class T> KSIM_INLINE T shr(T a, uint32_t n) {
  return n >= kBitsOf<T> ? T(a < 0 ? -1 : 0) : T(a >> n);
}
template <Name kMode> KSIM_INLINE uint32_t shf_l(uint32_t a, uint32_t b, uint32_t n) {
  return kMode == kClamp ? __funnelshift_lc(a, b, n) : __funnelshift_l(a, b, n);
}
template <Name kMode> KSIM_INLINE uint32_t shf_r(uint32_t a, uint32_t b, uint32_t n) {
  return kMode == kClamp ? __funnelshift_rc(a, b, n) : __funnelshift_r(a, b, n);
}
// Bit i of the table is the result where the bits of a, b, c are those of the number i.
KSIM_INLINE uint32_t lop3(uint32_t a, uint32_t b, uint32_t c, uint32_t table) {
  uint32_t d = 0;
  for (int i = 0; i < 8; i++)
    if (table >> i & 1) d |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  return d;
}
template <Name kBool> KSIM_INLINE bool logical(bool a, bool b) {
  return kBool == kAnd ? a && b : kBool == kOr ? a || b : a != b;
}
template <Name kBool, class R>
KSIM_INLINE void lop3_and_test(R &d, bool &p, uint32_t a, uint32_t b, uint32_t c, uint32_t table, bool q) {
  d = lop3(a, b, c, table);
  p = logical<kBool>(d != 0, q);
}
// Bytes 0 to 3 are those of a, 4 to 7 those of b.
KSIM_INLINE uint32_t byte_of(uint32_t a, uint32_t b, uint32_t i) {
  return (i & 4 ? b : a) >> 8 * (i & 3) & 0xff;
}
KSIM_INLINE uint32_t prmt(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d = 0;
  for (int i = 0; i < 4; i++) {
    const uint32_t choice = c >> 4 * i, byte = byte_of(a, b, choice);
    d |= (choice & 8 ? (byte & 0x80 ? 0xffu : 0u) : byte) << 8 * i;
  }
  return d;
}
template <Name kMode> KSIM_INLINE uint32_t prmt_mode(uint32_t a, uint32_t b, uint32_t c) {
  const uint32_t n = c & 3;
  uint32_t d = 0;
  for (uint32_t i = 0; i < 4; i++) {
    const uint32_t choice = kMode == kF4e   ? n + i                  // forward 4 extract
                            : kMode == kB4e ? (n - i) & 7            // backward 4 extract
                            : kMode == kRc8 ? n                      // replicate 8
                            : kMode == kEcl ? (i > n ? i : n)        // edge clamp left
                            : kMode == kEcr ? (i < n ? i : n)        // edge clamp right
                                            : 2 * (n & 1) + (i & 1); // replicate 16
    d |= byte_of(a, b, choice) << 8 * i;
  }
  return d;
}

// ---- Comparison and selection

// "lo ls hi hs" are of unsigned integers; of floating-point numbers those that end in u are true where one is
// NaN.
template <Name kCmp, class T> KSIM_INLINE bool compare(T a, T b) {
  if constexpr (kCmp == kNum) return a == a && b == b;
  if constexpr (kCmp == kNan) return a != a || b != b;
  const bool unordered = a != a || b != b;
  if constexpr (kCmp == kEqu) return unordered || a == b;
  if constexpr (kCmp == kNeu) return unordered || a != b;
  if constexpr (kCmp == kLtu) return unordered || a < b;
  if constexpr (kCmp == kLeu) return unordered || a <= b;
  if constexpr (kCmp == kGtu) return unordered || a > b;
  if constexpr (kCmp == kGeu) return unordered || a >= b;
  if constexpr (kCmp == kEq) return a == b;
  if constexpr (kCmp == kNe) return !unordered && a != b;
  if constexpr (kCmp == kLt || kCmp == kLo) return a < b;
  if constexpr (kCmp == kLe || kCmp == kLs) return a <= b;
  if constexpr (kCmp == kGt || kCmp == kHi) return a > b;
  return a >= b; // ge, hs
}
template <class T> KSIM_INLINE T selp(T a, T b, bool c) { return c ? a : b; }
template <class T, class C> KSIM_INLINE T slct(T a, T b, C c) { return c >= 0 ? a : b; }

} // namespace ksim::ptx
