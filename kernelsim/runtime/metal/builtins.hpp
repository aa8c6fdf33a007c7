// SPDX-License-Identifier: MIT
// Names that no specification has but that kernels take from Apple's own headers: __metal_exp(x, fast) and the
// like, which MLX uses to define functions of bfloat.
#pragma once
#include "simdgroup.hpp"
#include "vector_math.hpp"

#define __METAL_MAYBE_FAST_MATH__ true
#define __METAL_FAST_MATH__ true
#define __METAL_PRECISE_MATH__ false

#define KSIM_BUILTIN1(name) \
  template <class T> KSIM_INLINE auto __metal_##name(T x, bool = false) { return metal::name(x); }
#define KSIM_BUILTIN2(name)                                                                \
  template <class T> KSIM_INLINE auto __metal_##name(T x, ksim::same<T> y, bool = false) { \
    return metal::name(x, y);                                                              \
  }
#define KSIM_BUILTIN3(name)                                                                                 \
  template <class T> KSIM_INLINE auto __metal_##name(T x, ksim::same<T> y, ksim::same<T> z, bool = false) { \
    return metal::name(x, y, z);                                                                            \
  }
KSIM_BUILTIN1(acos)
KSIM_BUILTIN1(acosh)
KSIM_BUILTIN1(asin)
KSIM_BUILTIN1(asinh)
KSIM_BUILTIN1(atan)
KSIM_BUILTIN1(atanh)
KSIM_BUILTIN1(ceil)
KSIM_BUILTIN1(cos)
KSIM_BUILTIN1(cosh)
KSIM_BUILTIN1(cospi)
KSIM_BUILTIN1(exp)
KSIM_BUILTIN1(exp10)
KSIM_BUILTIN1(exp2)
KSIM_BUILTIN1(fabs)
KSIM_BUILTIN1(floor)
KSIM_BUILTIN1(fract)
KSIM_BUILTIN1(ilogb)
KSIM_BUILTIN1(isfinite)
KSIM_BUILTIN1(isinf)
KSIM_BUILTIN1(isnan)
KSIM_BUILTIN1(isnormal)
KSIM_BUILTIN1(log)
KSIM_BUILTIN1(log10)
KSIM_BUILTIN1(log2)
KSIM_BUILTIN1(rint)
KSIM_BUILTIN1(round)
KSIM_BUILTIN1(rsqrt)
KSIM_BUILTIN1(saturate)
KSIM_BUILTIN1(sign)
KSIM_BUILTIN1(signbit)
KSIM_BUILTIN1(sin)
KSIM_BUILTIN1(sinh)
KSIM_BUILTIN1(sinpi)
KSIM_BUILTIN1(sqrt)
KSIM_BUILTIN1(tan)
KSIM_BUILTIN1(tanh)
KSIM_BUILTIN1(tanpi)
KSIM_BUILTIN1(trunc)
KSIM_BUILTIN2(atan2)
KSIM_BUILTIN2(copysign)
KSIM_BUILTIN2(divide)
KSIM_BUILTIN2(fdim)
KSIM_BUILTIN2(fmax)
KSIM_BUILTIN2(fmin)
KSIM_BUILTIN2(fmod)
KSIM_BUILTIN2(nextafter)
KSIM_BUILTIN2(pow)
KSIM_BUILTIN2(powr)
KSIM_BUILTIN3(clamp)
KSIM_BUILTIN3(fma)
KSIM_BUILTIN3(fmax3)
KSIM_BUILTIN3(fmedian3)
KSIM_BUILTIN3(fmin3)
#undef KSIM_BUILTIN1
#undef KSIM_BUILTIN2
#undef KSIM_BUILTIN3
template <class T> KSIM_INLINE T __metal_ldexp(T x, int k, bool = false) { return metal::ldexp(x, k); }
template <class T> KSIM_INLINE T __metal_frexp(T x, int *exponent) { return metal::frexp(x, *exponent); }

KSIM_INLINE ushort __metal_get_simdgroup_size(ushort) { return ksim::kLanes; }
KSIM_INLINE ushort __metal_get_thread_index_in_simdgroup(ushort) { return ksim::self().lane; }

#define KSIM_SHUFFLE(name)                                                                               \
  template <class T> KSIM_INLINE T __metal_##name(T data, ushort by, ksim::Where where = ksim::here()) { \
    return metal::name(data, by, where);                                                                 \
  }
KSIM_SHUFFLE(simd_broadcast)
KSIM_SHUFFLE(simd_shuffle)
KSIM_SHUFFLE(simd_shuffle_down)
KSIM_SHUFFLE(simd_shuffle_rotate_down)
KSIM_SHUFFLE(simd_shuffle_rotate_up)
KSIM_SHUFFLE(simd_shuffle_up)
KSIM_SHUFFLE(simd_shuffle_xor)
#undef KSIM_SHUFFLE
#define KSIM_FILL(name)                                                                    \
  template <class T>                                                                       \
  KSIM_INLINE T __metal_##name(T data, ksim::same<T> filling, ushort delta, ushort modulo, \
                               ksim::Where where = ksim::here()) {                         \
    return metal::name(data, filling, delta, modulo, where);                               \
  }
KSIM_FILL(simd_shuffle_and_fill_down)
KSIM_FILL(simd_shuffle_and_fill_up)
#undef KSIM_FILL
#define KSIM_REDUCE(name)                                                                     \
  template <class T> KSIM_INLINE T __metal_##name(T data, ksim::Where where = ksim::here()) { \
    return metal::name(data, where);                                                          \
  }
KSIM_REDUCE(simd_max)
KSIM_REDUCE(simd_min)
KSIM_REDUCE(simd_prefix_exclusive_product)
KSIM_REDUCE(simd_prefix_exclusive_sum)
KSIM_REDUCE(simd_prefix_inclusive_product)
KSIM_REDUCE(simd_prefix_inclusive_sum)
KSIM_REDUCE(simd_product)
KSIM_REDUCE(simd_sum)
KSIM_REDUCE(simd_xor)
#undef KSIM_REDUCE
// MLX instantiates this one.
KSIM_INLINE float __metal_simd_xor(float data, ksim::Where where = ksim::here()) {
  return as_type<float>(metal::simd_xor(as_type<uint>(data), where));
}

namespace metal {

// <metal_logging>: accepted, and silent.
struct os_log {
  KSIM_INLINE constexpr os_log(ksim::Text, ksim::Text) {}
  template <class... A> KSIM_INLINE void log(ksim::Text, A...) const {}
  template <class... A> KSIM_INLINE void log_debug(ksim::Text, A...) const {}
  template <class... A> KSIM_INLINE void log_info(ksim::Text, A...) const {}
  template <class... A> KSIM_INLINE void log_error(ksim::Text, A...) const {}
  template <class... A> KSIM_INLINE void log_fault(ksim::Text, A...) const {}
};

} // namespace metal
