// SPDX-License-Identifier: MIT
// PTX ISA: "Data Movement and Conversion Instructions": mov, cvt, cvt.pack.
#pragma once
#include "ptx_float.hpp"

namespace ksim::ptx {

// ---- mov, which also packs the parts of a register and takes them apart; the first part is the lowest

template <class T, class R, class A> KSIM_INLINE void mov(R &d, A a) {
  if constexpr (!is_constant<A>)
    static_assert(sizeof(T) == sizeof(R) && sizeof(T) == sizeof(A),
                  "asm: mov of another size than its registers'");
  d = raw<R>(as<T>(a));
}
template <class T, class R, class E, int kCount> KSIM_INLINE void mov(R &d, Vec<E, kCount> parts) {
  static_assert(sizeof(T) == sizeof(R) && sizeof(E) * kCount == sizeof(R),
                "asm: parts are not of the register's size");
  d = 0;
  for (int i = 0; i < kCount; i++) d |= R(R(parts.of[i]) << kBitsOf<E> * i);
}
template <class T, class E, int kCount, class A> KSIM_INLINE void mov(Tie<E, kCount> parts, A a) {
  static_assert(is_constant<A> || (sizeof(T) == sizeof(A) && sizeof(E) * kCount == sizeof(A)),
                "asm: parts are not of the register's size");
  const Raw<T> bits = as<Raw<T>>(a);
  for (int i = 0; i < kCount; i++) *parts.of[i] = E(bits >> kBitsOf<E> * i);
}

// ---- cvt between integers and floating point numbers of the usual sizes

template <class D, class A, bool kSat> KSIM_INLINE D resize(A a) {
  if constexpr (kSat) return clamped<D>(__int128(a));
  return D(a);
}
template <class D, class A, Rounding kRounding, bool kFtz> KSIM_INLINE D to_integer(A a) {
  return cuda::to_integer<D, kRounding>(wide(flushed<kFtz>(a)));
}
// A double, or one whose rounding to D is that of the number itself, to D.
template <class D, Rounding kRounding> KSIM_INLINE D from_double(double x) {
  if constexpr (__is_same(D, double))
    return x;
  else if constexpr (__is_same(D, float))
    return canonical(cuda::narrow<kRounding>(x, 0));
  else
    return cuda::with_bits<D>(encode<typename cuda::Sixteen<D>::Format, kRounding>(round_to_odd(x)));
}
template <class D, class A, Rounding kRounding, bool kSat = false> KSIM_INLINE D from_integer(A a) {
  if constexpr (__is_same(D, double))
    return bounded<kSat, false>(D(a));
  else if constexpr (__is_same(D, float))
    return bounded<kSat, false>(cuda::from_integer<kRounding>(a));
  else
    return bounded<kSat, false>(from_double<D, kRounding>(double(cuda::to_float(a))));
}
template <class D, class A, Rounding kRounding = kNearestEven, bool kFtz = false, bool kSat = false>
KSIM_INLINE D resize_float(A a) {
  return bounded<kSat, false>(flushed<kFtz &&__is_same(D, float)>(
      from_double<D, kRounding>(double(wide(flushed<kFtz &&__is_same(A, float)>(a))))));
}
// To an integer, in a floating point type.
template <class D, class A, Rounding kRounding, bool kFtz, bool kSat> KSIM_INLINE D round_float(A a) {
  const double x = double(wide(flushed<kFtz &&__is_same(A, float)>(a)));
  return bounded<kSat, false>(from_double<D, kNearestEven>(cuda::round_to_integer<kRounding>(x)));
}

// ---- cvt to and from small formats; of two, the first operand is the upper

// A format in registers: E2m1 in four bits, F16 and Bf16 in sixteen, all others in eight.
template <class F>
constexpr int kFieldBits = F::kExponent + F::kMantissa == 3  ? 4
                           : F::kExponent + F::kMantissa > 7 ? 16
                                                             : 8;
template <class F, Rounding kRounding, bool kSatfinite, bool kRelu> KSIM_INLINE uint32_t field(float x) {
  if constexpr (kRelu) x = bits_of(x) >> 31 && x == x ? 0 : x;
  return encode<F, kRounding, kSatfinite ? kSaturate : kToInfinity>(x);
}
template <class F, Rounding kRounding, bool kSatfinite, bool kRelu> KSIM_INLINE uint16_t encode_one(float a) {
  return uint16_t(field<F, kRounding, kSatfinite, kRelu>(a));
}
template <class F, Rounding kRounding, bool kSatfinite, bool kRelu>
KSIM_INLINE typename Word<kFieldBits<F> / 4>::type encode_two(float a, float b) {
  return typename Word<kFieldBits<F> / 4>::type(field<F, kRounding, kSatfinite, kRelu>(a) << kFieldBits<F> |
                                                field<F, kRounding, kSatfinite, kRelu>(b));
}
template <class F, bool kRelu> KSIM_INLINE uint16_t encode_pair(Pair<Half> a) {
  return encode_two<F, kNearestEven, true, kRelu>(a.y, a.x);
}
template <class F, bool kRelu> KSIM_INLINE Pair<Half> decode_pair(typename Word<kFieldBits<F> / 4>::type a) {
  const float low = decode<F>(a), high = decode<F>(a >> kFieldBits<F>);
  return {bounded<false, kRelu>(Half(low)), bounded<false, kRelu>(Half(high))};
}
template <Rounding kRounding, bool kSatfinite, bool kRelu = false> KSIM_INLINE uint32_t encode_tf32(float a) {
  if constexpr (kRelu) a = bits_of(a) >> 31 && a == a ? 0 : a;
  return tf32<kRounding, kSatfinite ? kSaturate : kToInfinity>(a);
}
template <Rounding kRounding, bool kSatfinite> KSIM_INLINE uint16_t encode_scales(float a, float b) {
  constexpr Overflow overflow = kSatfinite ? kSaturate : kToInfinity;
  return uint16_t(encode_e8m0<kRounding, overflow>(a) << 8 | encode_e8m0<kRounding, overflow>(b));
}
template <Rounding kRounding, bool kSatfinite> KSIM_INLINE uint16_t encode_bf16_scales(Pair<Bfloat> a) {
  return encode_scales<kRounding, kSatfinite>(a.y, a.x);
}
KSIM_INLINE Pair<Bfloat> decode_scales(uint16_t a) {
  return {Bfloat(decode_e8m0(a)), Bfloat(decode_e8m0(a >> 8))};
}

// ---- cvt.pack: b, then a, then what c has in its lower bits

template <class D> KSIM_INLINE uint32_t pack_words(int32_t a, int32_t b) {
  return uint32_t(Raw<D>(clamped<D>(a))) << 16 | Raw<D>(clamped<D>(b));
}
template <class D> KSIM_INLINE uint32_t pack_bytes(int32_t a, int32_t b, uint32_t c) {
  return c << 16 | uint32_t(Raw<D>(clamped<D>(a))) << 8 | Raw<D>(clamped<D>(b));
}

} // namespace ksim::ptx
