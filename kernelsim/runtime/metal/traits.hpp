// SPDX-License-Identifier: MIT
// <metal_type_traits>, from the compiler's builtins.
//
// Kernels add templates of their own to namespace metal (MLX: is_empty, void_t, pointer_element), so only what
// Apple's header has is defined there; what these headers need for themselves is in namespace ksim.
#pragma once
#ifdef KSIM_CHECK
#include "check.hpp"
#else
#include "../engine.hpp"
using half = _Float16; // arithmetic rounds every result to half
#endif

using uchar = unsigned char;
using ushort = unsigned short;
using uint = unsigned int;
using ulong = unsigned long;
class bfloat;

namespace metal {

using ::bfloat;
using ::ptrdiff_t;
using ::size_t;
using ::uchar;
using ::uint;
using ::ulong;
using ::ushort;

template <class T, T kValue> struct integral_constant {
  static constexpr T value = kValue;
  using value_type = T;
  using type = integral_constant;
  constexpr operator T() const { return kValue; }
  constexpr T operator()() const { return kValue; }
};
template <bool kValue> using bool_constant = integral_constant<bool, kValue>;
using true_type = bool_constant<true>;
using false_type = bool_constant<false>;

template <bool kCondition, class T = void> struct enable_if {};
template <class T> struct enable_if<true, T> {
  using type = T;
};
template <bool kCondition, class T = void> using enable_if_t = typename enable_if<kCondition, T>::type;

template <bool kCondition, class T, class F> struct conditional {
  using type = T;
};
template <class T, class F> struct conditional<false, T, F> {
  using type = F;
};
template <bool kCondition, class T, class F> using conditional_t = typename conditional<kCondition, T, F>::type;

// A trait `name` of T (and U), with its name_v.
#define KSIM_TRAIT(name, ...)                                       \
  template <class T> struct name : bool_constant<(__VA_ARGS__)> {}; \
  template <class T> constexpr bool name##_v = name<T>::value
#define KSIM_TRAIT2(name, ...)                                               \
  template <class T, class U> struct name : bool_constant<(__VA_ARGS__)> {}; \
  template <class T, class U> constexpr bool name##_v = name<T, U>::value

KSIM_TRAIT(is_void, __is_void(T));
KSIM_TRAIT(is_integral, __is_integral(T));
KSIM_TRAIT(is_floating_point, __is_floating_point(T) || __is_same(__remove_cv(T), ::bfloat));
KSIM_TRAIT(is_arithmetic, is_integral_v<T> || is_floating_point_v<T>);
KSIM_TRAIT(is_signed, __is_signed(T) || __is_same(__remove_cv(T), ::bfloat));
KSIM_TRAIT(is_unsigned, __is_unsigned(T));
KSIM_TRAIT(is_enum, __is_enum(T));
KSIM_TRAIT(is_class, __is_class(T));
KSIM_TRAIT(is_union, __is_union(T));
KSIM_TRAIT(is_array, __is_array(T));
KSIM_TRAIT(is_function, __is_function(T));
KSIM_TRAIT(is_pointer, __is_pointer(T));
KSIM_TRAIT(is_reference, __is_reference(T));
KSIM_TRAIT(is_lvalue_reference, __is_lvalue_reference(T));
KSIM_TRAIT(is_rvalue_reference, __is_rvalue_reference(T));
KSIM_TRAIT(is_const, __is_const(T));
KSIM_TRAIT(is_volatile, __is_volatile(T));
KSIM_TRAIT(is_fundamental, is_arithmetic_v<T> || is_void_v<T>);
KSIM_TRAIT(is_scalar, is_arithmetic_v<T> || __is_enum(T) || __is_pointer(T));
KSIM_TRAIT(is_trivial, __is_trivial(T));
KSIM_TRAIT(is_trivially_copyable, __is_trivially_copyable(T));
KSIM_TRAIT(is_standard_layout, __is_standard_layout(T));
KSIM_TRAIT(is_pod, __is_pod(T));
KSIM_TRAIT(is_aggregate, __is_aggregate(T));
KSIM_TRAIT2(is_same, __is_same(T, U));
KSIM_TRAIT2(is_base_of, __is_base_of(T, U));
#if __has_builtin(__is_convertible)
KSIM_TRAIT2(is_convertible, __is_convertible(T, U));
#else
KSIM_TRAIT2(is_convertible, __is_convertible_to(T, U));
#endif
#undef KSIM_TRAIT
#undef KSIM_TRAIT2

template <class T, class... A> struct is_constructible : bool_constant<__is_constructible(T, A...)> {};
template <class T, class... A> constexpr bool is_constructible_v = is_constructible<T, A...>::value;

#define KSIM_TRANSFORM(name, ...)  \
  template <class T> struct name { \
    using type = __VA_ARGS__;      \
  };                               \
  template <class T> using name##_t = typename name<T>::type

KSIM_TRANSFORM(add_const, const T);
KSIM_TRANSFORM(add_volatile, volatile T);
KSIM_TRANSFORM(add_cv, const volatile T);
KSIM_TRANSFORM(add_pointer, __remove_reference_t(T) *);
KSIM_TRANSFORM(remove_const, __remove_const(T));
KSIM_TRANSFORM(remove_volatile, __remove_volatile(T));
KSIM_TRANSFORM(remove_cv, __remove_cv(T));
KSIM_TRANSFORM(remove_reference, __remove_reference_t(T));
KSIM_TRANSFORM(remove_pointer, __remove_pointer(T));
KSIM_TRANSFORM(remove_extent, __remove_extent(T));
KSIM_TRANSFORM(decay, __decay(T));
KSIM_TRANSFORM(make_signed, __make_signed(T));
KSIM_TRANSFORM(make_unsigned, __make_unsigned(T));
KSIM_TRANSFORM(underlying_type, __underlying_type(T));
#undef KSIM_TRANSFORM

// Where kernels run there is one address space, and the keywords are gone.
template <class T> struct remove_addrspace {
  using type = T;
};
#ifdef KSIM_CHECK
template <class T> struct remove_addrspace<__global T> : remove_addrspace<T> {};
template <class T> struct remove_addrspace<__local T> : remove_addrspace<T> {};
template <class T> struct remove_addrspace<__constant T> : remove_addrspace<T> {};
template <class T> struct remove_addrspace<__private T> : remove_addrspace<T> {};
template <class T> struct remove_addrspace<__generic T> : remove_addrspace<T> {};
#endif
template <class T> using remove_addrspace_t = typename remove_addrspace<T>::type;

template <class T> T &&declval();
template <class... T> struct common_type;
template <class T> struct common_type<T> {
  using type = decay_t<T>;
};
template <class T, class U> struct common_type<T, U> {
  using type = decay_t<decltype(false ? declval<T>() : declval<U>())>;
};
template <class... T> using common_type_t = typename common_type<T...>::type;

// Internal names of Apple's headers that kernels use all the same.
template <class... T> struct _disjunction : bool_constant<(T::value || ...)> {};
template <class... T> struct _conjunction : bool_constant<(T::value && ...)> {};

// A value that is the same in all threads.
template <class T> struct uniform {
  T value;
  uniform() = default;
  KSIM_INLINE constexpr uniform(T v) : value(v) {}
  KSIM_INLINE constexpr operator T() const { return value; }
};
template <class T> KSIM_INLINE constexpr uniform<T> make_uniform(T value) { return value; }

template <class T, size_t N> struct array {
  T elements[N];
  static constexpr size_t size() { return N; }
  static constexpr size_t max_size() { return N; }
  static constexpr bool empty() { return N == 0; }
  KSIM_INLINE constexpr T &operator[](size_t i) { return elements[i]; }
  KSIM_INLINE constexpr const T &operator[](size_t i) const { return elements[i]; }
  KSIM_INLINE constexpr T &front() { return elements[0]; }
  KSIM_INLINE constexpr const T &front() const { return elements[0]; }
  KSIM_INLINE constexpr T &back() { return elements[N - 1]; }
  KSIM_INLINE constexpr const T &back() const { return elements[N - 1]; }
  KSIM_INLINE constexpr T *data() { return elements; }
  KSIM_INLINE constexpr const T *data() const { return elements; }
  KSIM_INLINE constexpr T *begin() { return elements; }
  KSIM_INLINE constexpr const T *begin() const { return elements; }
  KSIM_INLINE constexpr T *end() { return elements + N; }
  KSIM_INLINE constexpr const T *end() const { return elements + N; }
  KSIM_INLINE constexpr void fill(T v) {
    for (size_t i = 0; i < N; i++) elements[i] = v;
  }
};

} // namespace metal

namespace ksim {

#ifdef KSIM_CHECK
using Text = const __constant char *;
#else
using Text = const char *;
#endif

template <class T> constexpr bool is_number = __is_arithmetic(T); // half, not bfloat
// What stands for one number: half, bfloat and enumerators too.
template <class T> struct IsScalar : metal::bool_constant<__is_arithmetic(T) || __is_enum(T)> {};
template <> struct IsScalar<bfloat> : metal::true_type {};
template <class T> struct IsScalar<metal::uniform<T>> : IsScalar<T> {};
template <class T> constexpr bool is_scalar = IsScalar<T>::value;
template <class T> using if_scalar = metal::enable_if_t<is_scalar<T>>;
template <class T> using if_integral = metal::enable_if_t<__is_integral(T)>;

// Keeps T from being deduced, so that other arguments decide it.
template <class T> struct Same {
  using type = T;
};
template <class T> using same = typename Same<T>::type;

} // namespace ksim
