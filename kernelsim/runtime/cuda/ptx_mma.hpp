// SPDX-License-Identifier: MIT
// PTX ISA, "Warp Level Matrix Multiply-Accumulate Instructions": mma.sync, D = A B + C, and with block scaling.
//
// All shapes have one layout ("Matrix Fragments for mma..."). With g = lane / 4, t = lane % 4 and n elements in
// a 32-bit register, element e of register r is
//   of A (M x K): row g + 8 (r % 2), column n t + e + 4 n (r / 2)      (M = 8: row g, column n t + e + 4 n r)
//   of B (K x 8): row n t + e + 4 n r, column g
//   of C and D (M x 8), i counting f32 or s32 elements: row g + 8 (i / 2), column 2 t + i % 2.
//
// Products are exact and summed in f32 from C on, k = 0 first, each sum rounded to nearest even: as if by fmaf.
// The ISA leaves order, rounding and width of the sums open; tensor cores sum several products at once and cut
// off what does not fit, so results differ in the last places. D in f16 is rounded once, at the end. Integers
// are exact.
#pragma once
#include "ptx_matrix.hpp"

namespace ksim::ptx {

// ---- Elements of A and B: bits in a register, and their value

struct S4 {};
struct U4 {};
struct Packed {}; // E2m1 without padding
struct Ue8m0 {};
struct Ue4m3 {};

template <class E> struct Element { // e4m3, e5m2, and e3m2, e2m3 in the lower six bits of a byte
  using Value = float;
  static constexpr int kBits = 8;
  static constexpr float value(uint32_t bits) { return decode<E>(bits); }
};
template <> struct Element<E2m1> : Element<E4m3> { // in the middle of a byte
  static constexpr float value(uint32_t bits) { return decode<E2m1>(bits >> 2); }
};
template <> struct Element<Packed> {
  using Value = float;
  static constexpr int kBits = 4;
  static constexpr float value(uint32_t bits) { return decode<E2m1>(bits); }
};
template <> struct Element<Half> {
  using Value = float;
  static constexpr int kBits = 16;
  static KSIM_INLINE float value(uint32_t bits) { return f16_to_f32(bits & 0xffff); }
};
template <> struct Element<Bfloat> : Element<Half> {
  static KSIM_INLINE float value(uint32_t bits) { return bf16_to_f32(bits); }
};
template <> struct Element<Tf32> {
  using Value = float;
  static constexpr int kBits = 32;
  static KSIM_INLINE float value(uint32_t bits) {
    return float_of(bits & ~0x1fffu);
  } // as hardware does with f32
};
template <> struct Element<int8_t> {
  using Value = int32_t;
  static constexpr int kBits = 8;
  static constexpr int32_t value(uint32_t bits) { return int8_t(bits); }
};
template <> struct Element<uint8_t> : Element<int8_t> {
  static constexpr int32_t value(uint32_t bits) { return uint8_t(bits); }
};
template <> struct Element<S4> {
  using Value = int32_t;
  static constexpr int kBits = 4;
  static constexpr int32_t value(uint32_t bits) { return int32_t(bits << 28) >> 28; }
};
template <> struct Element<U4> : Element<S4> {
  static constexpr int32_t value(uint32_t bits) { return int32_t(bits & 15); }
};
// The values of all codes of a small element.
template <class E> struct Codes {
  typename Element<E>::Value of[1 << Element<E>::kBits];
  constexpr Codes() : of() {
    for (uint32_t code = 0; code < 1u << Element<E>::kBits; code++) of[code] = Element<E>::value(code);
  }
};
template <class E> constexpr Codes<E> kCodes;
// Element e of a register.
template <class E> KSIM_INLINE typename Element<E>::Value element(uint32_t word, int e) {
  constexpr int bits = Element<E>::kBits;
  if constexpr (bits > 8)
    return Element<E>::value(word >> bits * e);
  else
    return kCodes<E>.of[word >> bits * e & ((1u << bits) - 1)];
}
template <class S> KSIM_INLINE double scale_of(uint32_t bits) {
  return __is_same(S, Ue8m0) ? decode_e8m0(bits) : decode_ue4m3(bits);
}

// ---- Fragments

template <int kRows, int kK, class A, class B, class C> struct MmaShape {
  static constexpr int kA = kRows * kK * Element<A>::kBits / 1024, kB = kK * Element<B>::kBits / 128;
  static constexpr int kC = kRows * 8 / 32 / (sizeof(C) == 2 ? 2 : 1);
};
template <int kA, int kB, int kC> struct MmaOperands {
  uint32_t a[kA], b[kB], c[kC];
};
struct ScaledOperands : MmaOperands<4, 2, 4> {
  uint32_t scale_a, scale_b;
  uint32_t byte_a, thread_a, byte_b,
      thread_b; // selectors: constants in most programs, and the same in every lane
};

// The matrices of a warp's operands.
template <int kRows, int kK, class A, class B> struct Matrices {
  using Value = typename Element<A>::Value;
  Value a[kRows][kK], b[kK][8];

  template <class Operands> KSIM_INLINE void gather(const Lanes &lanes) {
    constexpr int n = 32 / Element<A>::kBits, m = 32 / Element<B>::kBits, down = kRows / 8;
    for (int lane = 0; lane < kLanes; lane++) {
      const auto &mine = lanes.arg<Operands>(lane);
      const int g = lane / 4, t = lane % 4;
      for (int r = 0; r < int(sizeof mine.a / 4); r++)
        for (int e = 0; e < n; e++)
          a[g + 8 * (r % down)][n * t + 4 * n * (r / down) + e] = element<A>(mine.a[r], e);
      for (int r = 0; r < int(sizeof mine.b / 4); r++)
        for (int e = 0; e < m; e++) b[m * t + 4 * m * r + e][g] = element<B>(mine.b[r], e);
    }
  }
};
// f(lane, i, row, column) for each element i that a lane holds of C and D.
template <int kRows, class F> KSIM_INLINE void each_sum(F f) {
  for (int lane = 0; lane < kLanes; lane++)
    for (int i = 0; i < kRows / 4; i++) f(lane, i, lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2);
}
template <class C> KSIM_INLINE auto accumulator(const uint32_t *c, int i) {
  if constexpr (sizeof(C) == 2)
    return f16_to_f32(c[i / 2] >> 16 * (i & 1) & 0xffff);
  else
    return as<C>(c[i]);
}
template <class D, class V> KSIM_INLINE void set_accumulator(void *to, int i, V value) {
  auto *d = static_cast<uint32_t *>(to);
  if constexpr (sizeof(D) == 2)
    d[i / 2] = (i & 1 ? d[i / 2] : 0) | uint32_t(f32_to_f16(value)) << 16 * (i & 1);
  else
    d[i] = raw<uint32_t>(canonical(value));
}

// ---- mma

template <int kRows, int kK, class D, class A, class B, class C, bool kSatfinite>
inline void multiply(Lanes &lanes) {
  demand_full_warp(lanes);
  using Shape = MmaShape<kRows, kK, A, B, C>;
  using Operands = MmaOperands<Shape::kA, Shape::kB, Shape::kC>;
  constexpr bool integers = __is_same(D, int32_t);
  Matrices<kRows, kK, A, B> of;
  of.template gather<Operands>(lanes);
  typename Element<A>::Value sums[kRows][8] = {}; // of integers without C: they cannot overflow
  if constexpr (!integers)
    each_sum<kRows>([&](int lane, int i, int row, int column) {
      sums[row][column] = accumulator<C>(lanes.arg<Operands>(lane).c, i);
    });
  for (int row = 0; row < kRows; row++)
    for (int k = 0; k < kK; k++)
      for (int column = 0; column < 8; column++)
        if constexpr (integers)
          sums[row][column] += of.a[row][k] * of.b[k][column];
        else
          sums[row][column] = __builtin_fmaf(of.a[row][k], of.b[k][column], sums[row][column]);
  each_sum<kRows>([&](int lane, int i, int row, int column) {
    if constexpr (integers) {
      const int64_t sum = int64_t(as<int32_t>(lanes.arg<Operands>(lane).c[i])) + sums[row][column];
      set_accumulator<D>(lanes.out[lane], i, kSatfinite ? clamped<int32_t>(sum) : int32_t(sum));
    } else {
      set_accumulator<D>(lanes.out[lane], i, sums[row][column]);
    }
  });
}

template <int kRows, int kK, class D, class A, class B, class C, bool kSatfinite = false, class Results,
          class VA, class VB, class VC>
KSIM_INLINE void mma(Results d, VA a, VB b, VC c, Where where = here()) {
  using Shape = MmaShape<kRows, kK, A, B, C>;
  constexpr int kD = MmaShape<kRows, kK, A, B, D>::kC;
  static_assert(Results::count == kD && decltype(vector(a))::count == Shape::kA &&
                    decltype(vector(b))::count == Shape::kB && decltype(vector(c))::count == Shape::kC,
                "asm: mma of this shape and these types has another number of registers");
  MmaOperands<Shape::kA, Shape::kB, Shape::kC> in;
  for (int i = 0; i < Shape::kA; i++) in.a[i] = vector(a).of[i];
  for (int i = 0; i < Shape::kB; i++) in.b[i] = vector(b).of[i];
  for (int i = 0; i < Shape::kC; i++) in.c[i] = vector(c).of[i];
  uint32_t out[kD];
  together(multiply<kRows, kK, D, A, B, C, kSatfinite>, &in, out, {"mma.sync", where});
  for (int i = 0; i < kD; i++) *d.of[i] = out[i];
}

// ---- "Block Scaling for mma.sync": each row of A and column of B has kScales scales, one for each of as many
// equal parts of K. A part's products are summed in f64, where only sums of e5m2's extremes are not exact (of
// e2m1 alone, f32 does); times its two scales that is added to the f32 sum, which is rounded once per part.
//
// Row g's scales are in lane 4 g + 2 thread_a, those of row g + 8 in the lane behind; column g's in lane
// 4 g + thread_b. The byte selector says which byte of that lane's register holds the first scale.

template <int kK, int kScales, class A, class B, class S> inline void multiply_scaled(Lanes &lanes) {
  demand_full_warp(lanes);
  Matrices<16, kK, A, B> of;
  of.template gather<ScaledOperands>(lanes);
  const auto operands = [&](int lane) -> const ScaledOperands & { return lanes.arg<ScaledOperands>(lane); };
  const ScaledOperands &at = operands(0);
  double scales_a[16][kScales], scales_b[kScales][8];
  for (int part = 0; part < kScales; part++) {
    for (int row = 0; row < 16; row++)
      scales_a[row][part] = scale_of<S>(operands(4 * (row % 8) + 2 * at.thread_a + row / 8).scale_a >>
                                        8 * (at.byte_a + part));
    for (int column = 0; column < 8; column++)
      scales_b[part][column] = scale_of<S>(operands(4 * column + at.thread_b).scale_b >>
                                           8 * (at.byte_b + part));
  }
  float sums[16][8];
  each_sum<16>(
      [&](int lane, int i, int row, int column) { sums[row][column] = as<float>(operands(lane).c[i]); });
  constexpr int kPart = kK / kScales;
  for (int row = 0; row < 16; row++)
    for (int part = 0; part < kScales; part++) {
      typename Select<__is_same(A, Packed), float, double>::type products[8] = {};
      for (int k = part * kPart; k < (part + 1) * kPart; k++)
        for (int column = 0; column < 8; column++) products[column] += of.a[row][k] * of.b[k][column];
      for (int column = 0; column < 8; column++)
        sums[row][column] = float(sums[row][column] +
                                  products[column] * (scales_a[row][part] * scales_b[part][column]));
    }
  each_sum<16>([&](int lane, int i, int row, int column) {
    set_accumulator<float>(lanes.out[lane], i, sums[row][column]);
  });
}
template <int kK, int kScales, class A, class B, class S, class Results, class VA, class VB, class VC, class SA,
          class IA, class SB, class IB>
KSIM_INLINE void mma_scaled(Results d, VA a, VB b, VC c, SA scale_a, IA at_a, SB scale_b, IB at_b,
                            Where where = here()) {
  static_assert(Results::count == 4 && VA::count == 4 && VB::count == 2 && VC::count == 4 && IA::count == 2 &&
                    IB::count == 2,
                "asm: mma of this shape and these types has another number of registers");
  ScaledOperands in;
  for (int i = 0; i < 4; i++) in.a[i] = a.of[i], in.c[i] = c.of[i];
  for (int i = 0; i < 2; i++) in.b[i] = b.of[i];
  in.scale_a = as<uint32_t>(vector(scale_a).of[0]);
  in.scale_b = as<uint32_t>(vector(scale_b).of[0]);
  in.byte_a = uint32_t(at_a.of[0]), in.thread_a = uint32_t(at_a.of[1]);
  in.byte_b = uint32_t(at_b.of[0]), in.thread_b = uint32_t(at_b.of[1]);
  constexpr uint32_t last = 4 - kScales, step = kScales == 2 ? 2 : 1;
  if (in.byte_a > last || in.byte_a % step || in.byte_b > last || in.byte_b % step || in.thread_a > 1 ||
      in.thread_b > 3)
    fail(kUndefined, where, "mma: selectors {%u, %u} and {%u, %u} are not valid", in.byte_a, in.thread_a,
         in.byte_b, in.thread_b);
  uint32_t out[4];
  together(multiply_scaled<kK, kScales, A, B, S>, &in, out, {"mma.sync", where});
  for (int i = 0; i < 4; i++) *d.of[i] = out[i];
}

} // namespace ksim::ptx
