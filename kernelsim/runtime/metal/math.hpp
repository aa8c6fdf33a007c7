// SPDX-License-Identifier: MIT
// <metal_math> and <metal_common> on scalars: float, and half by way of float, rounded once. vector_math.hpp
// lifts them to vectors, and to fast:: and precise::, which are the same here: a GPU's fast:: functions are
// less exact. Nothing is flushed to zero, though Apple's GPUs flush subnormal floats.
//
// There are no functions of bfloat, as in MSL: an argument of that type becomes a float.
#pragma once
#include "bfloat.hpp"

namespace ksim {

template <class T> using if_bfloat = metal::enable_if_t<__is_same(T, bfloat), float>;

constexpr double kPi = 3.14159265358979323846;

// Of pi * x: exact where the result is, for x is reduced first.
KSIM_INLINE double half_turns(float x) {
  const double d = x;
  return kPi * (d - 2.0 * __builtin_rint(d / 2.0));
}
KSIM_INLINE float sinpi(float x) {
  return __builtin_rintf(x) == x ? 0.0f * x : float(__builtin_sin(half_turns(x)));
}
KSIM_INLINE float cospi(float x) {
  const float distance = __builtin_fabsf(x) - 0.5f;
  return __builtin_rintf(distance) == distance ? 0.0f * distance : float(__builtin_cos(half_turns(x)));
}
KSIM_INLINE float fmin(float x, float y) { return y < x || x != x ? y : x; }
KSIM_INLINE float fmax(float x, float y) { return x < y || x != x ? y : x; }
KSIM_INLINE float sign(float x) { return x > 0 ? 1.0f : x < 0 ? -1.0f : x == 0 ? x : 0.0f; }
KSIM_INLINE float nextafter(float x, float y) { return __builtin_nextafterf(x, y); }
KSIM_INLINE float hermite(float t) { return t * t * (3.0f - 2.0f * t); }

// FP_ILOGB0 and FP_ILOGBNAN are INT_MIN here; C libraries differ.
KSIM_INLINE int ilogb(float x) { return x == 0 || x != x ? -__INT_MAX__ - 1 : __builtin_ilogbf(x); }

// The half next to x towards y.
KSIM_INLINE half nextafter(half x, half y) {
  if (x != x || y != y) return x + y;
  if (x == y) return y;
  ushort bits = __builtin_bit_cast(ushort, x);
  if (x == 0) return __builtin_bit_cast(half, ushort(y < 0 ? 0x8001 : 1));
  bits += (x < y) == (x > 0) ? 1 : -1;
  return __builtin_bit_cast(half, bits);
}

} // namespace ksim

namespace metal {

// A function of x, of x and y, or of x, y and z: as an expression of floats.
#define KSIM_MATH1(name, ...)                             \
  KSIM_INLINE float name(float x) { return __VA_ARGS__; } \
  KSIM_INLINE half name(half half_x) {                    \
    const float x = half_x;                               \
    return half(__VA_ARGS__);                             \
  }
#define KSIM_MATH2(name, ...)                                      \
  KSIM_INLINE float name(float x, float y) { return __VA_ARGS__; } \
  KSIM_INLINE half name(half half_x, half half_y) {                \
    const float x = half_x, y = half_y;                            \
    return half(__VA_ARGS__);                                      \
  }
#define KSIM_MATH3(name, ...)                                               \
  KSIM_INLINE float name(float x, float y, float z) { return __VA_ARGS__; } \
  KSIM_INLINE half name(half half_x, half half_y, half half_z) {            \
    const float x = half_x, y = half_y, z = half_z;                         \
    return half(__VA_ARGS__);                                               \
  }

KSIM_MATH1(acos, __builtin_acosf(x))
KSIM_MATH1(acosh, __builtin_acoshf(x))
KSIM_MATH1(asin, __builtin_asinf(x))
KSIM_MATH1(asinh, __builtin_asinhf(x))
KSIM_MATH1(atan, __builtin_atanf(x))
KSIM_MATH1(atanh, __builtin_atanhf(x))
KSIM_MATH1(ceil, __builtin_ceilf(x))
KSIM_MATH1(cos, __builtin_cosf(x))
KSIM_MATH1(cosh, __builtin_coshf(x))
KSIM_MATH1(cospi, ksim::cospi(x))
KSIM_MATH1(exp, __builtin_expf(x))
KSIM_MATH1(exp10, float(__builtin_exp2(3.32192809488736234787 * double(x))))
KSIM_MATH1(exp2, __builtin_exp2f(x))
KSIM_MATH1(fabs, __builtin_fabsf(x))
KSIM_MATH1(floor, __builtin_floorf(x))
KSIM_MATH1(log, __builtin_logf(x))
KSIM_MATH1(log10, __builtin_log10f(x))
KSIM_MATH1(log2, __builtin_log2f(x))
KSIM_MATH1(rint, __builtin_rintf(x))
KSIM_MATH1(round, __builtin_roundf(x)) // halves away from zero
KSIM_MATH1(rsqrt, float(1.0 / __builtin_sqrt(double(x))))
KSIM_MATH1(sin, __builtin_sinf(x))
KSIM_MATH1(sinh, __builtin_sinhf(x))
KSIM_MATH1(sinpi, ksim::sinpi(x))
KSIM_MATH1(sqrt, __builtin_sqrtf(x))
KSIM_MATH1(tan, __builtin_tanf(x))
KSIM_MATH1(tanh, __builtin_tanhf(x))
KSIM_MATH1(tanpi, float(__builtin_tan(ksim::half_turns(x))))
KSIM_MATH1(trunc, __builtin_truncf(x))
KSIM_MATH1(abs, __builtin_fabsf(x))
KSIM_MATH1(saturate, ksim::fmin(ksim::fmax(x, 0.0f), 1.0f))
KSIM_MATH1(sign, ksim::sign(x))

KSIM_MATH2(atan2, __builtin_atan2f(x, y)) // atan2(y, x) of the specification
KSIM_MATH2(copysign, __builtin_copysignf(x, y))
KSIM_MATH2(divide, x / y)
KSIM_MATH2(fdim, x <= y ? 0.0f : x - y)
KSIM_MATH2(fmax, ksim::fmax(x, y)) // a NaN is as if it were not there
KSIM_MATH2(fmin, ksim::fmin(x, y))
KSIM_MATH2(fmod, __builtin_fmodf(x, y))
KSIM_MATH2(max, ksim::fmax(x, y))
KSIM_MATH2(min, ksim::fmin(x, y))
KSIM_MATH2(pow, __builtin_powf(x, y))
KSIM_MATH2(powr, x < 0 ? __builtin_nanf("") : __builtin_powf(x, y))
KSIM_MATH2(step, y < x ? 0.0f : 1.0f) // step(edge, x)

KSIM_MATH3(clamp, ksim::fmin(ksim::fmax(x, y), z))
KSIM_MATH3(fmax3, ksim::fmax(x, ksim::fmax(y, z)))
KSIM_MATH3(fmin3, ksim::fmin(x, ksim::fmin(y, z)))
KSIM_MATH3(fmedian3, ksim::fmax(ksim::fmin(x, y), ksim::fmin(ksim::fmax(x, y), z)))
KSIM_MATH3(max3, ksim::fmax(x, ksim::fmax(y, z)))
KSIM_MATH3(min3, ksim::fmin(x, ksim::fmin(y, z)))
KSIM_MATH3(median3, ksim::fmax(ksim::fmin(x, y), ksim::fmin(ksim::fmax(x, y), z)))
KSIM_MATH3(mix, x + (y - x) * z)
KSIM_MATH3(smoothstep, ksim::hermite(ksim::fmin(ksim::fmax((z - x) / (y - x), 0.0f), 1.0f)))

#undef KSIM_MATH1
#undef KSIM_MATH2
#undef KSIM_MATH3

// Of bfloat these are float's, as all functions. They are named because they are those of integers too, which a
// bfloat becomes just as well.
template <class T> KSIM_INLINE ksim::if_bfloat<T> abs(T x) { return abs(float(x)); }
template <class T> KSIM_INLINE ksim::if_bfloat<T> min(T x, T y) { return min(float(x), float(y)); }
template <class T> KSIM_INLINE ksim::if_bfloat<T> max(T x, T y) { return max(float(x), float(y)); }
template <class T> KSIM_INLINE ksim::if_bfloat<T> clamp(T x, T y, T z) {
  return clamp(float(x), float(y), float(z));
}
template <class T> KSIM_INLINE ksim::if_bfloat<T> min3(T x, T y, T z) {
  return min3(float(x), float(y), float(z));
}
template <class T> KSIM_INLINE ksim::if_bfloat<T> max3(T x, T y, T z) {
  return max3(float(x), float(y), float(z));
}
template <class T> KSIM_INLINE ksim::if_bfloat<T> median3(T x, T y, T z) {
  return median3(float(x), float(y), float(z));
}

// x - floor(x), but less than 1 where that rounds up to 1.
KSIM_INLINE float fract(float x) { return ksim::fmin(x - __builtin_floorf(x), 0x1.fffffep-1f); }
KSIM_INLINE half fract(half x) { return half(ksim::fmin(x - __builtin_floorf(x), 0x1.ffcp-1f)); }

// The exact sum is rounded once: a product of halves is exact as a float, the sum as a double.
KSIM_INLINE float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
KSIM_INLINE half fma(half a, half b, half c) { return half(double(a) * double(b) + double(c)); }

KSIM_INLINE float nextafter(float x, float y) { return ksim::nextafter(x, y); }
KSIM_INLINE half nextafter(half x, half y) { return ksim::nextafter(x, y); }
KSIM_INLINE float ldexp(float x, int k) { return __builtin_ldexpf(x, k); }
KSIM_INLINE half ldexp(half x, int k) { return half(__builtin_ldexpf(x, k)); }
KSIM_INLINE int ilogb(float x) { return ksim::ilogb(x); }
KSIM_INLINE int ilogb(half x) { return ksim::ilogb(x); }
KSIM_INLINE float frexp(float x, int &exponent) { return __builtin_frexpf(x, &exponent); }
KSIM_INLINE half frexp(half x, int &exponent) { return half(__builtin_frexpf(x, &exponent)); }
KSIM_INLINE float modf(float x, float &whole) {
  whole = __builtin_truncf(x);
  return __builtin_copysignf(__builtin_isinf(x) ? 0.0f : x - whole, x);
}
KSIM_INLINE half modf(half x, half &whole) {
  whole = half(__builtin_truncf(x));
  return half(__builtin_copysignf(__builtin_isinf(float(x)) ? 0.0f : x - whole, x));
}
KSIM_INLINE float sincos(float x, float &cosine) {
  cosine = __builtin_cosf(x);
  return __builtin_sinf(x);
}
KSIM_INLINE half sincos(half x, half &cosine) {
  cosine = half(__builtin_cosf(x));
  return half(__builtin_sinf(x));
}

// <metal_relational>
KSIM_INLINE bool isnan(float x) { return x != x; }
KSIM_INLINE bool isnan(half x) { return x != x; }
KSIM_INLINE bool isinf(float x) { return __builtin_isinf(x); }
KSIM_INLINE bool isinf(half x) { return __builtin_isinf(float(x)); }
KSIM_INLINE bool isfinite(float x) { return __builtin_isfinite(x); }
KSIM_INLINE bool isfinite(half x) { return __builtin_isfinite(float(x)); }
KSIM_INLINE bool isnormal(float x) { return __builtin_isnormal(x); }
KSIM_INLINE bool isnormal(half x) { return __builtin_isfinite(float(x)) && __builtin_fabsf(x) >= 0x1p-14f; }
KSIM_INLINE bool signbit(float x) { return __builtin_bit_cast(uint, x) >> 31; }
KSIM_INLINE bool signbit(half x) { return __builtin_bit_cast(ushort, x) >> 15; }
KSIM_INLINE bool isordered(float x, float y) { return x == x && y == y; }
KSIM_INLINE bool isordered(half x, half y) { return x == x && y == y; }
KSIM_INLINE bool isunordered(float x, float y) { return x != x || y != y; }
KSIM_INLINE bool isunordered(half x, half y) { return x != x || y != y; }
KSIM_INLINE bool all(bool x) { return x; }
KSIM_INLINE bool any(bool x) { return x; }
template <class T, class = ksim::if_scalar<T>> KSIM_INLINE T select(T x, T y, bool choose_y) {
  return choose_y ? y : x;
}

} // namespace metal
