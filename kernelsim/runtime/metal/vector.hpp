// SPDX-License-Identifier: MIT
// Vectors: float4, packed_float3 and the like, with swizzles.
//
// clang's own vector types do not do: as C++ they know neither float4(a, b, c, d) nor float4(half4), and
// int4(float4) takes over the bits instead of converting. So a vector is a class with the components x, y, z,
// w, and a swizzle a property that reads and writes some of them. The source's own swizzles are the only ones
// there are: before this header KSIM_SWIZZLES is defined as a list such as `KSIM_SWIZZLE2(xy, 0, 1)
// KSIM_SWIZZLE1(r, 0)`.
//
// Functions take vectors by value: to pass one is to read it as a whole, as on a GPU. Where memory traffic is
// audited the compiler's accesses to neighbouring components are taken as one; only vectors of three must tell
// that they are as wide as four.
#pragma once
#include "bfloat.hpp"

#ifndef KSIM_SWIZZLES
#define KSIM_SWIZZLES
#endif
#if !defined(KSIM_CHECK) && !defined(_INITIALIZER_LIST)
namespace std { // the compiler makes lists of this type; C++'s own header is not there
template <class T> class initializer_list {
  const T *first;
  size_t count;

public:
  constexpr const T *begin() const { return first; }
  constexpr size_t size() const { return count; }
};
} // namespace std
#endif

namespace metal {
template <class T, int N, bool kPacked = false> struct vec;
template <class T, int N> using packed_vec = vec<T, N, true>;
} // namespace metal

namespace ksim {

using metal::vec;

template <class T, int N, bool kPacked> struct Components;
template <class T, bool kPacked> struct Components<T, 1, kPacked> {
  T x;
};
template <class T, bool kPacked>
struct alignas(kPacked ? alignof(T) : 2 * sizeof(T)) Components<T, 2, kPacked> {
  T x, y;
};
template <class T, bool kPacked>
struct alignas(kPacked ? alignof(T) : 4 * sizeof(T)) Components<T, 3, kPacked> {
  T x, y, z;
#ifdef KSIM_AUDIT
  Components() = default;
  KSIM_INLINE Components(const Components &c) { ksim::audit_copy(this, &c, sizeof c); }
  KSIM_INLINE Components &operator=(const Components &c) {
    ksim::audit_copy(this, &c, sizeof c);
    return *this;
  }
#endif
};
template <class T, bool kPacked>
struct alignas(kPacked ? alignof(T) : 4 * sizeof(T)) Components<T, 4, kPacked> {
  T x, y, z, w;
};

// How many components an argument of a constructor brings; 0: it cannot be one.
template <class A> constexpr int count_of = is_scalar<A>;
template <class T, int N, bool kPacked> constexpr int count_of<vec<T, N, kPacked>> = N;

// A scalar becomes a component implicitly, but a float not one of an integer vector.
template <class S, class T>
constexpr bool becomes = is_scalar<S> && metal::is_convertible_v<S, T> &&
                         !(__is_integral(T) && metal::is_floating_point_v<S>);

// One component of a list in braces.
template <class T> struct Component {
  T value;
  template <class S, class = if_scalar<S>> KSIM_INLINE constexpr Component(S s) : value(static_cast<T>(s)) {}
};

} // namespace ksim

namespace metal {

// In the address space pass objects in `constant` need methods of their own: it is no part of the generic
// space.
#ifdef KSIM_CHECK
#define KSIM_SWIZZLE_GET(type, name, ...)         \
  type get_##name() const { return __VA_ARGS__; } \
  type get_##name() const __constant { return __VA_ARGS__; }
#else
#define KSIM_SWIZZLE_GET(type, name, ...) \
  KSIM_INLINE type get_##name() const { return __VA_ARGS__; }
#endif
#define KSIM_SWIZZLE1(name, a)                         \
  KSIM_SWIZZLE_GET(T, name, read<a>())                 \
  KSIM_INLINE void put_##name(T v) { write<a>() = v; } \
  __declspec(property(get = get_##name, put = put_##name)) T name;
#define KSIM_SWIZZLE2(name, a, b)                                                    \
  KSIM_SWIZZLE_GET(KSIM_VEC(2), name, KSIM_VEC(2)(read<a>(), read<b>()))             \
  KSIM_INLINE void put_##name(KSIM_VEC(2) v) { write<a>() = v.x, write<b>() = v.y; } \
  __declspec(property(get = get_##name, put = put_##name)) KSIM_VEC(2) name;
#define KSIM_SWIZZLE3(name, a, b, c)                                                                   \
  KSIM_SWIZZLE_GET(KSIM_VEC(3), name, KSIM_VEC(3)(read<a>(), read<b>(), read<c>()))                    \
  KSIM_INLINE void put_##name(KSIM_VEC(3) v) { write<a>() = v.x, write<b>() = v.y, write<c>() = v.z; } \
  __declspec(property(get = get_##name, put = put_##name)) KSIM_VEC(3) name;
#define KSIM_SWIZZLE4(name, a, b, c, d)                                                        \
  KSIM_SWIZZLE_GET(KSIM_VEC(4), name, KSIM_VEC(4)(read<a>(), read<b>(), read<c>(), read<d>())) \
  KSIM_INLINE void put_##name(KSIM_VEC(4) v) {                                                 \
    write<a>() = v.x, write<b>() = v.y, write<c>() = v.z, write<d>() = v.w;                    \
  }                                                                                            \
  __declspec(property(get = get_##name, put = put_##name)) KSIM_VEC(4) name;
#define KSIM_VEC(n) vec<T, n, false>

template <class T, int N, bool kPacked> struct vec : ksim::Components<T, N, kPacked> {
  static constexpr int kSize = N;
  using Base = ksim::Components<T, N, kPacked>;

  vec() = default;
  template <class S, class = ksim::if_scalar<S>>
  KSIM_INLINE constexpr explicit(!ksim::becomes<S, T>) vec(S s) : Base{} {
    for (int i = 0; i < N; i++) at(i) = static_cast<T>(s);
  }
  // Of other components explicitly; between packed and not implicitly.
  template <class U, bool kOther, class = enable_if_t<!is_same_v<vec<U, N, kOther>, vec>>>
  KSIM_INLINE constexpr explicit(!is_same_v<T, U>) vec(vec<U, N, kOther> v) : Base{} {
#ifndef KSIM_CHECK
    if constexpr (ksim::is_number<T> && ksim::is_number<U> && !is_same_v<T, bool> && !is_same_v<U, bool>) {
      // one instruction for all components
      if (!__builtin_is_constant_evaluated()) {
        typedef U From __attribute__((ext_vector_type(N)));
        typedef T To __attribute__((ext_vector_type(N)));
        From from;
        __builtin_memcpy(&from, &v, N * sizeof(U));
        const To to = __builtin_convertvector(from, To);
        __builtin_memcpy(this, &to, N * sizeof(T));
        return;
      }
    }
#endif
    for (int i = 0; i < N; i++) at(i) = static_cast<T>(v.at(i));
  }
  // Of scalars and smaller vectors.
  template <class A, class B, class... C,
            class = enable_if_t<(ksim::count_of<A> && ksim::count_of<B> && (ksim::count_of<C> && ...)) &&
                                ksim::count_of<A> + ksim::count_of<B> + (ksim::count_of<C> + ... + 0) == N>>
  KSIM_INLINE constexpr vec(A a, B b, C... c) : Base{} {
    int i = 0;
    append(i, a);
    append(i, b);
    (append(i, c), ...);
  }
#ifdef KSIM_CHECK
  vec(const vec &v) = default;
  vec(const __constant vec &v);
  vec &operator=(const vec &v) = default;
  const __constant T &operator[](int i) const __constant;
  // Of fewer scalars in braces than components. OpenCL C++ has no lists, so parentheses pass as well.
  template <class A, class B, class... C, class = ksim::if_scalar<A>,
            class = enable_if_t<ksim::is_scalar<B> && (ksim::is_scalar<C> && ...) && sizeof...(C) + 2 < N>,
            class = void>
  vec(A a, B b, C... c);
#else
  // `{a, b}`: the remaining components are zero.
  KSIM_INLINE constexpr vec(std::initializer_list<ksim::Component<T>> list) : Base{} {
    for (int i = 0; i < N; i++) at(i) = i < int(list.size()) ? list.begin()[i].value : T(0);
  }
#endif

  KSIM_INLINE constexpr T &operator[](int i) {
    if (uint(i) >= uint(N)) __builtin_trap();
    return at(i);
  }
  KSIM_INLINE constexpr const T &operator[](int i) const {
    if (uint(i) >= uint(N)) __builtin_trap();
    return at(i);
  }
  KSIM_SWIZZLES

  // The component i < N, for these headers.
  KSIM_INLINE constexpr T &at(int i) {
    if constexpr (N == 2) {
      if (__builtin_is_constant_evaluated()) return i == 0 ? this->x : this->y;
    } else if constexpr (N == 3) {
      if (__builtin_is_constant_evaluated()) return i == 0 ? this->x : i == 1 ? this->y : this->z;
    } else if constexpr (N == 4) {
      if (__builtin_is_constant_evaluated())
        return i == 0 ? this->x : i == 1 ? this->y : i == 2 ? this->z : this->w;
    }
    return (&this->x)[i];
  }
  KSIM_INLINE constexpr const T &at(int i) const { return const_cast<vec *>(this)->at(i); }

private:
  template <class A> KSIM_INLINE constexpr void append(int &i, A a) {
    if constexpr (ksim::is_scalar<A>)
      at(i++) = static_cast<T>(a);
    else
      for (int j = 0; j < A::kSize; j++) at(i++) = static_cast<T>(a.at(j));
  }
  template <int kIndex> KSIM_INLINE const T &read() const {
    static_assert(kIndex < N, "a swizzle names a component that the vector has not");
    return at(kIndex);
  }
  template <int kIndex> KSIM_INLINE T &write() {
    static_assert(kIndex < N, "a swizzle names a component that the vector has not");
    return at(kIndex);
  }
#ifdef KSIM_CHECK
  template <int kIndex> T read() const __constant;
#endif
};

} // namespace metal

namespace ksim {

template <class A> constexpr bool is_vector = false;
template <class T, int N, bool kPacked> constexpr bool is_vector<vec<T, N, kPacked>> = true;

// The type in which an expression of these operands is computed: that of its vectors, which must be the same;
// scalars become it. There is none if that cannot be.
template <class A, class B> struct Common : metal::enable_if<is_scalar<A> && is_scalar<B>, A> {};
template <class T, int N, class B> struct Common<vec<T, N>, B> : metal::enable_if<becomes<B, T>, vec<T, N>> {};
template <class A, class T, int N> struct Common<A, vec<T, N>> : metal::enable_if<becomes<A, T>, vec<T, N>> {};
template <class T, int N, class U, int M>
struct Common<vec<T, N>, vec<U, M>> : metal::enable_if<__is_same(T, U) && N == M, vec<T, N>> {};

template <class A> struct Unpacked {
  using type = A;
};
template <class T, int N> struct Unpacked<vec<T, N, true>> {
  using type = vec<T, N>;
};
template <class A> using unpacked = typename Unpacked<A>::type;
template <class A, class B> using common = typename Common<unpacked<A>, unpacked<B>>::type;
template <class V> using only_vector = metal::enable_if_t<is_vector<V>, V>;
template <class A, class B = A, class C = B> using vector_of = only_vector<common<common<A, B>, C>>;

template <class V> struct Element {};
template <class T, int N> struct Element<vec<T, N>> {
  using type = T;
};
template <class V> using element = typename Element<V>::type;
template <class T, class V> using vector_like = vec<T, V::kSize>; // T's, as many as V has components

} // namespace ksim

namespace metal {

// An internal name of Apple's headers that kernels use all the same.
template <class T> struct vec_elements : integral_constant<uint, ksim::count_of<T>> {};

#define KSIM_OPERATOR(op, assign)                                                                              \
  template <class A, class B, class V = ksim::vector_of<A, B>> KSIM_INLINE constexpr V operator op(A a, B b) { \
    const V &x = a, &y = b;                                                                                    \
    V r;                                                                                                       \
    for (int i = 0; i < V::kSize; i++) r.at(i) = ksim::element<V>(x.at(i) op y.at(i));                         \
    return r;                                                                                                  \
  }                                                                                                            \
  template <class T, int N, bool kPacked, class B, class V = ksim::vector_of<vec<T, N, kPacked>, B>>           \
  KSIM_INLINE constexpr vec<T, N, kPacked> &operator assign(vec<T, N, kPacked> &a, B b) {                      \
    return a = a op b;                                                                                         \
  }
KSIM_OPERATOR(+, +=)
KSIM_OPERATOR(-, -=)
KSIM_OPERATOR(*, *=)
KSIM_OPERATOR(/, /=)
KSIM_OPERATOR(%, %=)
KSIM_OPERATOR(&, &=)
KSIM_OPERATOR(|, |=)
KSIM_OPERATOR(^, ^=)
#undef KSIM_OPERATOR

// Of the count only as many bits are used as are needed to name a bit of the shifted component.
#define KSIM_SHIFT(op, assign)                                                                               \
  template <class A, class B, class V = ksim::vector_of<A>, class U = ksim::vector_like<uint, V>,            \
            class = enable_if_t<is_constructible_v<U, B>>>                                                   \
  KSIM_INLINE constexpr V operator op(A a, B b) {                                                            \
    const V &x = a;                                                                                          \
    const U count(b);                                                                                        \
    V r;                                                                                                     \
    for (int i = 0; i < V::kSize; i++)                                                                       \
      r.at(i) = ksim::element<V>(x.at(i) op(count.at(i) & (8 * sizeof(x.at(i)) - 1)));                       \
    return r;                                                                                                \
  }                                                                                                          \
  template <class T, int N, bool kPacked, class B, class V = decltype(declval<vec<T, N>>() op declval<B>())> \
  KSIM_INLINE constexpr vec<T, N, kPacked> &operator assign(vec<T, N, kPacked> &a, B b) {                    \
    return a = a op b;                                                                                       \
  }
KSIM_SHIFT(<<, <<=)
KSIM_SHIFT(>>, >>=)
#undef KSIM_SHIFT

#define KSIM_COMPARISON(op)                                                \
  template <class A, class B, class V = ksim::vector_of<A, B>>             \
  KSIM_INLINE constexpr ksim::vector_like<bool, V> operator op(A a, B b) { \
    const V &x = a, &y = b;                                                \
    ksim::vector_like<bool, V> r;                                          \
    for (int i = 0; i < V::kSize; i++) r.at(i) = x.at(i) op y.at(i);       \
    return r;                                                              \
  }
KSIM_COMPARISON(==)
KSIM_COMPARISON(!=)
KSIM_COMPARISON(<)
KSIM_COMPARISON(>)
KSIM_COMPARISON(<=)
KSIM_COMPARISON(>=)
KSIM_COMPARISON(&&)
KSIM_COMPARISON(||)
#undef KSIM_COMPARISON

#define KSIM_UNARY(op, result)                                                    \
  template <class A, class V = ksim::vector_of<A>>                                \
  KSIM_INLINE constexpr ksim::vector_like<result, V> operator op(A a) {           \
    ksim::vector_like<result, V> r;                                               \
    for (int i = 0; i < V::kSize; i++) r.at(i) = static_cast<result>(op a.at(i)); \
    return r;                                                                     \
  }
KSIM_UNARY(+, ksim::element<V>)
KSIM_UNARY(-, ksim::element<V>)
KSIM_UNARY(~, ksim::element<V>)
KSIM_UNARY(!, bool)
#undef KSIM_UNARY

#define KSIM_STEP(op, by)                                                            \
  template <class T, int N, bool kPacked>                                            \
  KSIM_INLINE constexpr vec<T, N, kPacked> &operator op(vec<T, N, kPacked> &a) {     \
    return a = a by T(1);                                                            \
  }                                                                                  \
  template <class T, int N, bool kPacked>                                            \
  KSIM_INLINE constexpr vec<T, N, kPacked> operator op(vec<T, N, kPacked> &a, int) { \
    const vec<T, N, kPacked> before = a;                                             \
    a = a by T(1);                                                                   \
    return before;                                                                   \
  }
KSIM_STEP(++, +)
KSIM_STEP(--, -)
#undef KSIM_STEP

} // namespace metal

#define KSIM_VECTORS(name, T)                                                                        \
  using name##2 = metal::vec<T, 2>;                                                                  \
  using name##3 = metal::vec<T, 3>;                                                                  \
  using name##4 = metal::vec<T, 4>;                                                                  \
  using packed_##name##2 = metal::packed_vec<T, 2>;                                                  \
  using packed_##name##3 = metal::packed_vec<T, 3>;                                                  \
  using packed_##name##4 = metal::packed_vec<T, 4>;                                                  \
  namespace metal {                                                                                  \
  using ::name##2, ::name##3, ::name##4, ::packed_##name##2, ::packed_##name##3, ::packed_##name##4; \
  }
KSIM_VECTORS(bool, bool)
KSIM_VECTORS(char, char)
KSIM_VECTORS(uchar, uchar)
KSIM_VECTORS(short, short)
KSIM_VECTORS(ushort, ushort)
KSIM_VECTORS(int, int)
KSIM_VECTORS(uint, uint)
KSIM_VECTORS(long, long)
KSIM_VECTORS(ulong, ulong)
KSIM_VECTORS(half, half)
KSIM_VECTORS(bfloat, bfloat)
KSIM_VECTORS(float, float)
#undef KSIM_VECTORS

// The same bits as another type of the same size.
template <class To, class From> KSIM_INLINE constexpr To as_type(From from) {
  static_assert(sizeof(To) == sizeof(From), "as_type needs a type of the same size");
  if constexpr (__is_trivially_copyable(To) && __is_trivially_copyable(From)) {
    return __builtin_bit_cast(To, from);
  } else {
    To to;
    __builtin_memcpy(&to, &from, sizeof to);
    return to;
  }
}
namespace metal {
using ::as_type;
}
