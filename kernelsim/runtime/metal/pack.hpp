// SPDX-License-Identifier: MIT
// <metal_pack>: normalised integers in a word, component 0 in its lowest bits.
#pragma once
#include "vector_math.hpp"

namespace ksim {

// c / (2^bits - 1) of an unsigned, c / (2^(bits - 1) - 1) of a signed field.
KSIM_INLINE float from_unorm(uint word, int at, int bits) {
  const uint field = word >> at & ((1u << bits) - 1);
  return float(field) / float((1u << bits) - 1);
}
KSIM_INLINE float from_snorm(uint word, int at, int bits) {
  const int field = int(word << (32 - at - bits)) >> (32 - bits);
  return fmax(float(field) / float((1 << (bits - 1)) - 1), -1.0f);
}
// To the nearest, even where two are; NaN becomes zero.
KSIM_INLINE uint to_unorm(float x, int at, int bits) {
  const float scaled = fmin(fmax(x, 0.0f), 1.0f) * float((1u << bits) - 1);
  return uint(__builtin_rintf(scaled)) << at;
}
KSIM_INLINE uint to_snorm(float x, int at, int bits) {
  const float scaled = x != x ? 0.0f : fmin(fmax(x, -1.0f), 1.0f) * float((1 << (bits - 1)) - 1);
  return (uint(int(__builtin_rintf(scaled))) & ((1u << bits) - 1)) << at;
}
KSIM_INLINE float from_srgb(float c) {
  return c <= 0.04045f ? c / 12.92f : __builtin_powf((c + 0.055f) / 1.055f, 2.4f);
}
KSIM_INLINE float to_srgb(float c) {
  const float x = fmin(fmax(c, 0.0f), 1.0f);
  return x < 0.0031308f ? 12.92f * x : 1.055f * __builtin_powf(x, 1 / 2.4f) - 0.055f;
}

} // namespace ksim

namespace metal {

// For float and for half.
#define KSIM_PACK(T)                                                                                        \
  KSIM_INLINE vec<T, 4> unpack_unorm4x8_to_##T(uint w) {                                                    \
    using ksim::from_unorm;                                                                                 \
    return vec<T, 4>(from_unorm(w, 0, 8), from_unorm(w, 8, 8), from_unorm(w, 16, 8), from_unorm(w, 24, 8)); \
  }                                                                                                         \
  KSIM_INLINE vec<T, 4> unpack_snorm4x8_to_##T(uint w) {                                                    \
    using ksim::from_snorm;                                                                                 \
    return vec<T, 4>(from_snorm(w, 0, 8), from_snorm(w, 8, 8), from_snorm(w, 16, 8), from_snorm(w, 24, 8)); \
  }                                                                                                         \
  KSIM_INLINE vec<T, 4> unpack_unorm4x8_srgb_to_##T(uint w) {                                               \
    const auto linear = [w](int at) { return ksim::from_srgb(ksim::from_unorm(w, at, 8)); };                \
    return vec<T, 4>(linear(0), linear(8), linear(16), ksim::from_unorm(w, 24, 8));                         \
  }                                                                                                         \
  KSIM_INLINE vec<T, 2> unpack_unorm2x16_to_##T(uint w) {                                                   \
    return vec<T, 2>(ksim::from_unorm(w, 0, 16), ksim::from_unorm(w, 16, 16));                              \
  }                                                                                                         \
  KSIM_INLINE vec<T, 2> unpack_snorm2x16_to_##T(uint w) {                                                   \
    return vec<T, 2>(ksim::from_snorm(w, 0, 16), ksim::from_snorm(w, 16, 16));                              \
  }                                                                                                         \
  KSIM_INLINE vec<T, 4> unpack_unorm10a2_to_##T(uint w) {                                                   \
    using ksim::from_unorm;                                                                                 \
    return vec<T, 4>(from_unorm(w, 0, 10), from_unorm(w, 10, 10), from_unorm(w, 20, 10),                    \
                     from_unorm(w, 30, 2));                                                                 \
  }                                                                                                         \
  KSIM_INLINE vec<T, 3> unpack_unorm565_to_##T(ushort w) { /* red in the highest bits */                    \
    using ksim::from_unorm;                                                                                 \
    return vec<T, 3>(from_unorm(w, 11, 5), from_unorm(w, 5, 6), from_unorm(w, 0, 5));                       \
  }                                                                                                         \
  KSIM_INLINE uint pack_##T##_to_unorm4x8(vec<T, 4> v) {                                                    \
    using ksim::to_unorm;                                                                                   \
    return to_unorm(v.x, 0, 8) | to_unorm(v.y, 8, 8) | to_unorm(v.z, 16, 8) | to_unorm(v.w, 24, 8);         \
  }                                                                                                         \
  KSIM_INLINE uint pack_##T##_to_snorm4x8(vec<T, 4> v) {                                                    \
    using ksim::to_snorm;                                                                                   \
    return to_snorm(v.x, 0, 8) | to_snorm(v.y, 8, 8) | to_snorm(v.z, 16, 8) | to_snorm(v.w, 24, 8);         \
  }                                                                                                         \
  KSIM_INLINE uint pack_##T##_to_srgb_unorm4x8(vec<T, 4> v) {                                               \
    using ksim::to_srgb, ksim::to_unorm;                                                                    \
    return to_unorm(to_srgb(v.x), 0, 8) | to_unorm(to_srgb(v.y), 8, 8) | to_unorm(to_srgb(v.z), 16, 8) |    \
           to_unorm(v.w, 24, 8);                                                                            \
  }                                                                                                         \
  KSIM_INLINE uint pack_##T##_to_unorm2x16(vec<T, 2> v) {                                                   \
    return ksim::to_unorm(v.x, 0, 16) | ksim::to_unorm(v.y, 16, 16);                                        \
  }                                                                                                         \
  KSIM_INLINE uint pack_##T##_to_snorm2x16(vec<T, 2> v) {                                                   \
    return ksim::to_snorm(v.x, 0, 16) | ksim::to_snorm(v.y, 16, 16);                                        \
  }                                                                                                         \
  KSIM_INLINE uint pack_##T##_to_unorm10a2(vec<T, 4> v) {                                                   \
    using ksim::to_unorm;                                                                                   \
    return to_unorm(v.x, 0, 10) | to_unorm(v.y, 10, 10) | to_unorm(v.z, 20, 10) | to_unorm(v.w, 30, 2);     \
  }                                                                                                         \
  KSIM_INLINE ushort pack_##T##_to_unorm565(vec<T, 3> v) {                                                  \
    return ushort(ksim::to_unorm(v.x, 11, 5) | ksim::to_unorm(v.y, 5, 6) | ksim::to_unorm(v.z, 0, 5));      \
  }
KSIM_PACK(float)
KSIM_PACK(half)
#undef KSIM_PACK

} // namespace metal
