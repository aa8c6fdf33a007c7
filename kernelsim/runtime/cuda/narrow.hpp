// SPDX-License-Identifier: MIT
// What the types of cuda_fp8.h and cuda_fp4.h have in common: one, two and four codes, made of wider types with
// saturation, and read as wider types. A Codec says what a code means:
//
//   struct Codec { static constexpr int kBits; static unsigned int encode(float x); static float
//   decode(unsigned int code); };
#pragma once
#include "bfloat16.hpp"
#include "half.hpp"

enum cudaRoundMode {
  cudaRoundNearest,
  cudaRoundZero,
  cudaRoundPosInf,
  cudaRoundMinInf
};

namespace ksim::cuda {

template <int kBits> struct StorageOf {};
template <> struct StorageOf<4> {
  using type = unsigned char;
};
template <> struct StorageOf<8> {
  using type = unsigned char;
};
template <> struct StorageOf<16> {
  using type = unsigned short;
};
template <> struct StorageOf<32> {
  using type = unsigned int;
};

// What the conversions of codes take, as numbers.
KSIM_INLINE double widened(double x) { return x; }
KSIM_INLINE float widened(float x) { return x; }
KSIM_INLINE float widened(__half_raw x) { return __half(x); }
KSIM_INLINE float widened(__nv_bfloat16_raw x) { return __nv_bfloat16(x); }
KSIM_INLINE double2 widened(double2 x) { return x; }
KSIM_INLINE float2 widened(float2 x) { return x; }
KSIM_INLINE float2 widened(__half2_raw x) { return {__half2(x).x, __half2(x).y}; }
KSIM_INLINE float2 widened(__nv_bfloat162_raw x) { return {__nv_bfloat162(x).x, __nv_bfloat162(x).y}; }

template <class Codec> struct NarrowOne {
  using Storage = typename StorageOf<Codec::kBits>::type;
  Storage __x;

  NarrowOne() = default;
  KSIM_INLINE explicit NarrowOne(double x) : __x(Storage(Codec::encode(x))) {}
  template <Number T> KSIM_INLINE explicit NarrowOne(T x) { encode(to_float(x)); }
  KSIM_INLINE explicit NarrowOne(__half x) { encode(x); }
  KSIM_INLINE explicit NarrowOne(__nv_bfloat16 x) { encode(x); }
  KSIM_INLINE explicit operator float() const { return Codec::decode(__x); }
  KSIM_INLINE explicit operator double() const { return Codec::decode(__x); }
  KSIM_INLINE explicit operator __half() const { return Codec::decode(__x); }
  KSIM_INLINE explicit operator __nv_bfloat16() const { return Codec::decode(__x); }
  template <Integer T> KSIM_INLINE explicit operator T() const {
    if constexpr (same<T, bool>) return Codec::decode(__x) != 0;
    return to_integer<T, kTowardZero>(Codec::decode(__x));
  }

private:
  KSIM_INLINE void encode(float x) { __x = Storage(Codec::encode(x)); }
};

KSIM_INLINE float real(float x) { return x; }
KSIM_INLINE double real(double x) { return x; }
template <class Codec, class... F> KSIM_INLINE unsigned int pack(F... x) {
  unsigned int codes = 0;
  int shift = 0;
  ((codes |= Codec::encode(x) << shift, shift += Codec::kBits), ...);
  return codes;
}
// Element i of packed codes.
template <class Codec> KSIM_INLINE float unpack(unsigned int codes, int i) {
  return Codec::decode(codes >> Codec::kBits * i & ((1u << Codec::kBits) - 1));
}

template <class Codec> struct alignas(2 * Codec::kBits / 8) NarrowTwo {
  typename StorageOf<2 * Codec::kBits>::type __x;

  NarrowTwo() = default;
  template <Two V> KSIM_INLINE explicit NarrowTwo(V x) { set(x.x, x.y); }
  KSIM_INLINE explicit NarrowTwo(float2 x) { set(x.x, x.y); }
  KSIM_INLINE explicit NarrowTwo(double2 x) { set(x.x, x.y); }
  KSIM_INLINE explicit operator float2() const { return {unpack<Codec>(__x, 0), unpack<Codec>(__x, 1)}; }
  KSIM_INLINE explicit operator __half2() const { return {unpack<Codec>(__x, 0), unpack<Codec>(__x, 1)}; }
  KSIM_INLINE explicit operator __nv_bfloat162() const {
    return {unpack<Codec>(__x, 0), unpack<Codec>(__x, 1)};
  }

private:
  template <class... T> KSIM_INLINE void set(T... x) { __x = decltype(__x)(pack<Codec>(real(x)...)); }
};

template <class Codec> struct alignas(4 * Codec::kBits / 8) NarrowFour {
  typename StorageOf<4 * Codec::kBits>::type __x;

  NarrowFour() = default;
  template <Two V> KSIM_INLINE explicit NarrowFour(V low, V high) { set(low.x, low.y, high.x, high.y); }
  KSIM_INLINE explicit NarrowFour(float4 x) { set(x.x, x.y, x.z, x.w); }
  KSIM_INLINE explicit NarrowFour(double4 x) { set(x.x, x.y, x.z, x.w); }
  KSIM_INLINE explicit NarrowFour(double4_32a x) { set(x.x, x.y, x.z, x.w); }
  KSIM_INLINE explicit operator float4() const {
    return {unpack<Codec>(__x, 0), unpack<Codec>(__x, 1), unpack<Codec>(__x, 2), unpack<Codec>(__x, 3)};
  }

private:
  template <class... T> KSIM_INLINE void set(T... x) { __x = decltype(__x)(pack<Codec>(real(x)...)); }
};

} // namespace ksim::cuda
