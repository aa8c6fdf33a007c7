// SPDX-License-Identifier: MIT
// CUDA's integer intrinsics (CUDA Math API: "Integer Intrinsics", "SIMD Intrinsics").
#pragma once
#include "types.hpp"

KSIM_INLINE int __popc(unsigned int x) { return __builtin_popcount(x); }
KSIM_INLINE int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
KSIM_INLINE int __clz(int x) { return x ? __builtin_clz((unsigned int)x) : 32; }
KSIM_INLINE int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
KSIM_INLINE int __ffs(int x) { return __builtin_ffs(x); }
KSIM_INLINE int __ffsll(long long x) { return __builtin_ffsll(x); }
KSIM_INLINE unsigned int __brev(unsigned int x) { return __builtin_bitreverse32(x); }
KSIM_INLINE unsigned long long __brevll(unsigned long long x) { return __builtin_bitreverse64(x); }
// The position of the offset-th set bit of mask from bit `base` on, upwards, or downwards for a negative
// offset.
KSIM_INLINE unsigned int __fns(unsigned int mask, unsigned int base, int offset) {
  if (offset == 0) return mask >> base & 1 ? base : ~0u;
  const int step = offset > 0 ? 1 : -1;
  for (int at = int(base), left = offset * step; at >= 0 && at < 32; at += step)
    if ((mask >> at & 1) && --left == 0) return (unsigned int)at;
  return ~0u;
}

KSIM_INLINE int __mulhi(int a, int b) { return int((long long)a * b >> 32); }
KSIM_INLINE unsigned int __umulhi(unsigned int a, unsigned int b) {
  return (unsigned int)((unsigned long long)a * b >> 32);
}
KSIM_INLINE long long __mul64hi(long long a, long long b) { return (long long)((__int128)a * b >> 64); }
KSIM_INLINE unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)((unsigned __int128)a * b >> 64);
}
KSIM_INLINE int __mul24(int a, int b) { // the low 24 bits of each
  return int((unsigned int)(a << 8 >> 8) * (unsigned int)(b << 8 >> 8));
}
KSIM_INLINE unsigned int __umul24(unsigned int a, unsigned int b) { return (a & 0xffffff) * (b & 0xffffff); }
KSIM_INLINE unsigned int __sad(int a, int b, unsigned int c) {
  return c + (a > b ? (unsigned int)a - (unsigned int)b : (unsigned int)b - (unsigned int)a);
}
KSIM_INLINE unsigned int __usad(unsigned int a, unsigned int b, unsigned int c) {
  return c + (a > b ? a - b : b - a);
}
KSIM_INLINE int __hadd(int a, int b) { return int(((long long)a + b) >> 1); } // (half.hpp overloads the name)
KSIM_INLINE int __rhadd(int a, int b) { return int(((long long)a + b + 1) >> 1); }
KSIM_INLINE unsigned int __uhadd(unsigned int a, unsigned int b) {
  return (unsigned int)(((unsigned long long)a + b) >> 1);
}
KSIM_INLINE unsigned int __urhadd(unsigned int a, unsigned int b) {
  return (unsigned int)(((unsigned long long)a + b + 1) >> 1);
}

// Four bytes of y:x, each chosen by the low three bits of a nibble of s. The nibble's fourth bit is ignored
// here; PTX's prmt replicates the byte's sign with it.
KSIM_INLINE unsigned int __byte_perm(unsigned int x, unsigned int y, unsigned int s) {
  const unsigned long long bytes = (unsigned long long)y << 32 | x;
  unsigned int result = 0;
  for (int i = 0; i < 4; i++) result |= (unsigned int)(bytes >> 8 * (s >> 4 * i & 7) & 0xff) << 8 * i;
  return result;
}
KSIM_INLINE unsigned int __funnelshift_l(unsigned int low, unsigned int high, unsigned int shift) {
  return (unsigned int)((((unsigned long long)high << 32 | low) << (shift & 31)) >> 32);
}
KSIM_INLINE unsigned int __funnelshift_r(unsigned int low, unsigned int high, unsigned int shift) {
  return (unsigned int)(((unsigned long long)high << 32 | low) >> (shift & 31));
}
KSIM_INLINE unsigned int __funnelshift_lc(unsigned int low, unsigned int high, unsigned int shift) {
  return shift >= 32 ? low : __funnelshift_l(low, high, shift);
}
KSIM_INLINE unsigned int __funnelshift_rc(unsigned int low, unsigned int high, unsigned int shift) {
  return shift >= 32 ? high : __funnelshift_r(low, high, shift);
}

// ---- Dot products of packed bytes

namespace ksim::cuda {
// Element i of a word that holds elements of type E.
template <class E> KSIM_INLINE int element(unsigned int packed, int i) {
  return E(packed >> 8 * sizeof(E) * i);
}
template <class A, class B> KSIM_INLINE unsigned int dot4(unsigned int a, unsigned int b, unsigned int c) {
  for (int i = 0; i < 4; i++) c += (unsigned int)(element<A>(a, i) * element<B>(b, i));
  return c;
}
// Two 16-bit elements of a with the lower (kFirst 0) or upper (kFirst 2) two bytes of b.
template <class A, class B, int kFirst>
KSIM_INLINE unsigned int dot2(unsigned int a, unsigned int b, unsigned int c) {
  for (int i = 0; i < 2; i++) c += (unsigned int)(element<A>(a, i) * element<B>(b, kFirst + i));
  return c;
}
using S8 = signed char;
using U8 = unsigned char;
using S16 = short;
using U16 = unsigned short;
} // namespace ksim::cuda
KSIM_INLINE int __dp4a(int a, int b, int c) {
  return int(
      ksim::cuda::dot4<ksim::cuda::S8, ksim::cuda::S8>((unsigned int)a, (unsigned int)b, (unsigned int)c));
}
KSIM_INLINE unsigned int __dp4a(unsigned int a, unsigned int b, unsigned int c) {
  return ksim::cuda::dot4<ksim::cuda::U8, ksim::cuda::U8>(a, b, c);
}
KSIM_INLINE int __dp4a(char4 a, char4 b, int c) { return c + a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w; }
KSIM_INLINE unsigned int __dp4a(uchar4 a, uchar4 b, unsigned int c) {
  return c + (unsigned int)(a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w);
}
KSIM_INLINE int __dp2a_lo(int a, int b, int c) {
  return int(
      ksim::cuda::dot2<ksim::cuda::S16, ksim::cuda::S8, 0>((unsigned int)a, (unsigned int)b, (unsigned int)c));
}
KSIM_INLINE int __dp2a_hi(int a, int b, int c) {
  return int(
      ksim::cuda::dot2<ksim::cuda::S16, ksim::cuda::S8, 2>((unsigned int)a, (unsigned int)b, (unsigned int)c));
}
KSIM_INLINE unsigned int __dp2a_lo(unsigned int a, unsigned int b, unsigned int c) {
  return ksim::cuda::dot2<ksim::cuda::U16, ksim::cuda::U8, 0>(a, b, c);
}
KSIM_INLINE unsigned int __dp2a_hi(unsigned int a, unsigned int b, unsigned int c) {
  return ksim::cuda::dot2<ksim::cuda::U16, ksim::cuda::U8, 2>(a, b, c);
}

// ---- Four bytes or two halfwords of a word at once

namespace ksim::cuda {
constexpr int clamp(int x, int low, int high) { return x < low ? low : x > high ? high : x; }
template <class E> KSIM_INLINE int saturated(int x) {
  constexpr int bits = 8 * sizeof(E);
  return E(-1) < 0 ? clamp(x, -(1 << (bits - 1)), (1 << (bits - 1)) - 1) : clamp(x, 0, (1 << bits) - 1);
}
template <class E, class F> KSIM_INLINE unsigned int each(unsigned int a, unsigned int b, F f) {
  constexpr int bits = 8 * sizeof(E);
  unsigned int result = 0;
  for (int i = 0; i < 32 / bits; i++)
    result |= ((unsigned int)f(element<E>(a, i), element<E>(b, i)) & ((1u << bits) - 1)) << bits * i;
  return result;
}
} // namespace ksim::cuda
#define KSIM_SIMD(name, E, expression)                                         \
  KSIM_INLINE unsigned int name(unsigned int a, unsigned int b) {              \
    return ksim::cuda::each<E>(a, b, [](int x, int y) { return expression; }); \
  }
#define KSIM_SIMD_ONE(name, E, expression)                                   \
  KSIM_INLINE unsigned int name(unsigned int a) {                            \
    return ksim::cuda::each<E>(a, a, [](int x, int) { return expression; }); \
  }
#define KSIM_SIMD_COMPARISON(suffix, S, U, name, sign, op) \
  KSIM_SIMD(__vcmp##name##suffix, sign, x op y ? -1 : 0)   \
  KSIM_SIMD(__vset##name##suffix, sign, x op y ? 1 : 0)
#define KSIM_SIMDS(suffix, S, U)                                                                          \
  KSIM_SIMD(__vadd##suffix, U, x + y)                                                                     \
  KSIM_SIMD(__vaddss##suffix, S, ksim::cuda::saturated<S>(x + y))                                         \
  KSIM_SIMD(__vaddus##suffix, U, ksim::cuda::saturated<U>(x + y))                                         \
  KSIM_SIMD(__vsub##suffix, U, x - y)                                                                     \
  KSIM_SIMD(__vsubss##suffix, S, ksim::cuda::saturated<S>(x - y))                                         \
  KSIM_SIMD(__vsubus##suffix, U, ksim::cuda::saturated<U>(x - y))                                         \
  KSIM_SIMD(__vavgs##suffix, S, (x + y + (x + y >= 0)) >> 1)                                              \
  KSIM_SIMD(__vavgu##suffix, U, (x + y + 1) >> 1)                                                         \
  KSIM_SIMD(__vhaddu##suffix, U, (x + y) >> 1)                                                            \
  KSIM_SIMD(__vmaxs##suffix, S, x > y ? x : y)                                                            \
  KSIM_SIMD(__vmaxu##suffix, U, x > y ? x : y)                                                            \
  KSIM_SIMD(__vmins##suffix, S, x < y ? x : y)                                                            \
  KSIM_SIMD(__vminu##suffix, U, x < y ? x : y)                                                            \
  KSIM_SIMD(__vabsdiffs##suffix, S, x > y ? x - y : y - x)                                                \
  KSIM_SIMD(__vabsdiffu##suffix, U, x > y ? x - y : y - x)                                                \
  KSIM_SIMD_ONE(__vabs##suffix, S, x < 0 ? -x : x)                                                        \
  KSIM_SIMD_ONE(__vabsss##suffix, S, ksim::cuda::saturated<S>(x < 0 ? -x : x))                            \
  KSIM_SIMD_ONE(__vneg##suffix, S, -x)                                                                    \
  KSIM_SIMD_ONE(__vnegss##suffix, S, ksim::cuda::saturated<S>(-x))                                        \
  KSIM_SIMD_COMPARISON(suffix, S, U, eq, U, ==)                                                           \
  KSIM_SIMD_COMPARISON(suffix, S, U, ne, U, !=)                                                           \
  KSIM_SIMD_COMPARISON(suffix, S, U, gts, S, >)                                                           \
  KSIM_SIMD_COMPARISON(suffix, S, U, gtu, U, >)                                                           \
  KSIM_SIMD_COMPARISON(suffix, S, U, ges, S, >=)                                                          \
  KSIM_SIMD_COMPARISON(suffix, S, U, geu, U, >=)                                                          \
  KSIM_SIMD_COMPARISON(suffix, S, U, lts, S, <)                                                           \
  KSIM_SIMD_COMPARISON(suffix, S, U, ltu, U, <)                                                           \
  KSIM_SIMD_COMPARISON(suffix, S, U, les, S, <=)                                                          \
  KSIM_SIMD_COMPARISON(suffix, S, U, leu, U, <=)                                                          \
  KSIM_INLINE unsigned int __vsads##suffix(unsigned int a, unsigned int b) {                              \
    unsigned int sum = 0;                                                                                 \
    ksim::cuda::each<S>(a, b,                                                                             \
                        [&](int x, int y) { return int(sum += (unsigned int)(x > y ? x - y : y - x)); }); \
    return sum;                                                                                           \
  }                                                                                                       \
  KSIM_INLINE unsigned int __vsadu##suffix(unsigned int a, unsigned int b) {                              \
    unsigned int sum = 0;                                                                                 \
    ksim::cuda::each<U>(a, b,                                                                             \
                        [&](int x, int y) { return int(sum += (unsigned int)(x > y ? x - y : y - x)); }); \
    return sum;                                                                                           \
  }
KSIM_SIMDS(4, ksim::cuda::S8, ksim::cuda::U8)
KSIM_SIMDS(2, ksim::cuda::S16, ksim::cuda::U16)
#undef KSIM_SIMDS
#undef KSIM_SIMD_COMPARISON
#undef KSIM_SIMD_ONE
#undef KSIM_SIMD

// Of three, and with a lower bound of zero (sm_90 has them in hardware).
KSIM_INLINE int __vimax3_s32(int a, int b, int c) { return a > b ? (a > c ? a : c) : (b > c ? b : c); }
KSIM_INLINE int __vimin3_s32(int a, int b, int c) { return a < b ? (a < c ? a : c) : (b < c ? b : c); }
KSIM_INLINE int __vimax_s32_relu(int a, int b) { return __vimax3_s32(a, b, 0); }
KSIM_INLINE int __vimin_s32_relu(int a, int b) {
  const int least = a < b ? a : b;
  return least > 0 ? least : 0;
}
