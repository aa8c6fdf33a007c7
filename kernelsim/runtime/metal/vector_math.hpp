// SPDX-License-Identifier: MIT
// What math.hpp and integer.hpp compute on scalars, component by component; fast:: and precise::;
// <metal_geometric>.
#pragma once
#include "integer.hpp"
#include "math.hpp"
#include "vector.hpp"

namespace metal {

// One of several arguments may be a vector, the others scalars: clamp(v, 0, 1).
#define KSIM_LIFT1(name)                                                          \
  template <class A, class V = ksim::vector_of<A>> KSIM_INLINE V name(A a) {      \
    V r;                                                                          \
    for (int i = 0; i < V::kSize; i++) r.at(i) = ksim::element<V>(name(a.at(i))); \
    return r;                                                                     \
  }
#define KSIM_LIFT2(name)                                                                      \
  template <class A, class B, class V = ksim::vector_of<A, B>> KSIM_INLINE V name(A a, B b) { \
    const V &x = a, &y = b;                                                                   \
    V r;                                                                                      \
    for (int i = 0; i < V::kSize; i++) r.at(i) = ksim::element<V>(name(x.at(i), y.at(i)));    \
    return r;                                                                                 \
  }
#define KSIM_LIFT3(name)                                                                                       \
  template <class A, class B, class C, class V = ksim::vector_of<A, B, C>> KSIM_INLINE V name(A a, B b, C c) { \
    const V &x = a, &y = b, &z = c;                                                                            \
    V r;                                                                                                       \
    for (int i = 0; i < V::kSize; i++) r.at(i) = ksim::element<V>(name(x.at(i), y.at(i), z.at(i)));            \
    return r;                                                                                                  \
  }

// Those that fast:: and precise:: have too.
#define KSIM_EACH1(f)                                                                                        \
  f(acos) f(acosh) f(asin) f(asinh) f(atan) f(atanh) f(ceil) f(cos) f(cosh) f(cospi) f(exp) f(exp10) f(exp2) \
      f(fabs) f(floor) f(fract) f(log) f(log10) f(log2) f(rint) f(round) f(rsqrt) f(saturate) f(sign) f(sin) \
          f(sinh) f(sinpi) f(sqrt) f(tan) f(tanh) f(tanpi) f(trunc) f(abs)
#define KSIM_EACH2(f)                                                                                      \
  f(atan2) f(copysign) f(divide) f(fdim) f(fmax) f(fmin) f(fmod) f(max) f(min) f(nextafter) f(pow) f(powr) \
      f(step)
#define KSIM_EACH3(f) \
  f(clamp) f(fma) f(fmax3) f(fmin3) f(fmedian3) f(max3) f(min3) f(median3) f(mix) f(smoothstep)
KSIM_EACH1(KSIM_LIFT1)
KSIM_EACH2(KSIM_LIFT2)
KSIM_EACH3(KSIM_LIFT3)
KSIM_LIFT1(popcount)
KSIM_LIFT1(clz)
KSIM_LIFT1(ctz)
KSIM_LIFT1(reverse_bits)
KSIM_LIFT2(addsat)
KSIM_LIFT2(subsat)
KSIM_LIFT2(hadd)
KSIM_LIFT2(rhadd)
KSIM_LIFT2(mulhi)
KSIM_LIFT2(mul24)
KSIM_LIFT2(rotate)
KSIM_LIFT3(madhi)
KSIM_LIFT3(madsat)
KSIM_LIFT3(mad24)
#undef KSIM_LIFT1
#undef KSIM_LIFT2
#undef KSIM_LIFT3

#define KSIM_VECTOR template <class A, class V = ksim::vector_of<A>> KSIM_INLINE
#define KSIM_COMPONENTS(...)                                  \
  for (int i = 0; i < V::kSize; i++) r.at(i) = (__VA_ARGS__); \
  return r

KSIM_VECTOR V extract_bits(A x, uint offset, uint count) {
  V r;
  KSIM_COMPONENTS(extract_bits(x.at(i), offset, count));
}
KSIM_VECTOR V insert_bits(A base, A insert, uint offset, uint count) {
  V r;
  KSIM_COMPONENTS(insert_bits(base.at(i), insert.at(i), offset, count));
}
KSIM_VECTOR auto absdiff(A x, A y) {
  ksim::vector_like<decltype(absdiff(x.x, y.x)), V> r;
  KSIM_COMPONENTS(absdiff(x.at(i), y.at(i)));
}
KSIM_VECTOR V ldexp(A x, ksim::vector_like<int, V> k) {
  V r;
  KSIM_COMPONENTS(ldexp(x.at(i), k.at(i)));
}
KSIM_VECTOR ksim::vector_like<int, V> ilogb(A x) {
  ksim::vector_like<int, V> r;
  KSIM_COMPONENTS(ilogb(x.at(i)));
}
KSIM_VECTOR V frexp(A x, ksim::vector_like<int, V> &exponent) {
  V r;
  KSIM_COMPONENTS(frexp(x.at(i), exponent.at(i)));
}
KSIM_VECTOR V modf(A x, ksim::same<V> &whole) {
  V r;
  KSIM_COMPONENTS(modf(x.at(i), whole.at(i)));
}
KSIM_VECTOR V sincos(A x, ksim::same<V> &cosine) {
  V r;
  KSIM_COMPONENTS(sincos(x.at(i), cosine.at(i)));
}

#define KSIM_TEST(name)                              \
  KSIM_VECTOR ksim::vector_like<bool, V> name(A x) { \
    ksim::vector_like<bool, V> r;                    \
    KSIM_COMPONENTS(name(x.at(i)));                  \
  }
KSIM_TEST(isnan)
KSIM_TEST(isinf)
KSIM_TEST(isfinite)
KSIM_TEST(isnormal)
KSIM_TEST(signbit)
#undef KSIM_TEST
KSIM_VECTOR ksim::vector_like<bool, V> isordered(A x, A y) { return !isnan(x) && !isnan(y); }
KSIM_VECTOR ksim::vector_like<bool, V> isunordered(A x, A y) { return isnan(x) || isnan(y); }
template <int N> KSIM_INLINE bool all(vec<bool, N> x) {
  bool r = true;
  for (int i = 0; i < N; i++) r &= x.at(i);
  return r;
}
template <int N> KSIM_INLINE bool any(vec<bool, N> x) {
  bool r = false;
  for (int i = 0; i < N; i++) r |= x.at(i);
  return r;
}
template <class A, class B, class V = ksim::vector_of<A, B>>
KSIM_INLINE V select(A a, B b, ksim::vector_like<bool, V> choose_b) {
  const V &x = a, &y = b;
  V r;
  KSIM_COMPONENTS(choose_b.at(i) ? y.at(i) : x.at(i));
}

// In the arithmetic of the components, from the first to the last.
template <class A, class B, class V = ksim::vector_of<A, B>> KSIM_INLINE ksim::element<V> dot(A x, B y) {
  ksim::element<V> r = x.at(0) * y.at(0);
  for (int i = 1; i < V::kSize; i++) r = r + x.at(i) * y.at(i);
  return r;
}
KSIM_VECTOR ksim::element<V> length_squared(A x) { return dot(x, x); }
KSIM_VECTOR ksim::element<V> length(A x) { return sqrt(dot(x, x)); }
KSIM_VECTOR ksim::element<V> distance_squared(A x, A y) { return length_squared(x - y); }
KSIM_VECTOR ksim::element<V> distance(A x, A y) { return length(x - y); }
KSIM_VECTOR V normalize(A x) { return x * rsqrt(dot(x, x)); }
KSIM_VECTOR V faceforward(A n, A incident, A reference) { return dot(reference, incident) < 0 ? V(n) : -V(n); }
KSIM_VECTOR V reflect(A incident, A n) { return incident - n * (2 * dot(n, incident)); }
KSIM_VECTOR V refract(A incident, A n, ksim::element<V> eta) {
  const ksim::element<V> cosine = dot(n, incident), k = 1 - eta * eta * (1 - cosine * cosine);
  return k < 0 ? V(0) : incident * eta - n * (eta * cosine + sqrt(k));
}
KSIM_VECTOR V cross(A a, A b) {
  static_assert(V::kSize == 3, "cross is of vectors of three");
  return V(a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x);
}
#undef KSIM_VECTOR
#undef KSIM_COMPONENTS

#define KSIM_USING(name) using metal::name;
#define KSIM_NAMESPACE                                                        \
  KSIM_EACH1(KSIM_USING)                                                      \
  KSIM_EACH2(KSIM_USING)                                                      \
  KSIM_EACH3(KSIM_USING)                                                      \
  using metal::frexp, metal::ilogb, metal::ldexp, metal::modf, metal::sincos; \
  using metal::distance, metal::length, metal::normalize;
namespace fast {
KSIM_NAMESPACE
}
namespace precise {
KSIM_NAMESPACE
}
#undef KSIM_NAMESPACE
#undef KSIM_USING
#undef KSIM_EACH1
#undef KSIM_EACH2
#undef KSIM_EACH3

} // namespace metal
