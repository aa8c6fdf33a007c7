// SPDX-License-Identifier: MIT
// A kernel's arguments when Python launches it: found by what the compiler knows of its parameters.
//
//   extern "C" void entry(void *table) { ksim::cuda::enter(&gemv<128, __half>, static_cast<void **>(table)); }
//
// The table holds pointers as they are, and the addresses of what is passed by value.
#pragma once
#include "../describe.hpp"
#include "atomic.hpp"
#include "launch.hpp"

namespace ksim::cuda {

template <class V> struct Components {
  static constexpr int count = 1;
  using type = V;
};
#define KSIM_COMPONENTS(name, T)           \
  template <> struct Components<name##2> { \
    static constexpr int count = 2;        \
    using type = T;                        \
  };                                       \
  template <> struct Components<name##3> { \
    static constexpr int count = 3;        \
    using type = T;                        \
  };                                       \
  template <> struct Components<name##4> { \
    static constexpr int count = 4;        \
    using type = T;                        \
  };
KSIM_COMPONENTS(float, float)
KSIM_COMPONENTS(double, double)
KSIM_COMPONENTS(int, int)
KSIM_COMPONENTS(uint, unsigned int)
KSIM_COMPONENTS(short, short)
KSIM_COMPONENTS(ushort, unsigned short)
KSIM_COMPONENTS(longlong, long long)
KSIM_COMPONENTS(ulonglong, unsigned long long)
#undef KSIM_COMPONENTS
template <Two V> struct Components<V> {
  static constexpr int count = 2;
  using type = typename SixteenPair<V>::Element;
};

template <class T> constexpr Kind kind_of() {
  if constexpr (same<T, bool>)
    return kBool;
  else if constexpr (One<T>)
    return Sixteen<T>::Format::kExponent == 5 ? kFloat : kBfloat;
  else if constexpr (__is_floating_point(T))
    return kFloat;
  else if constexpr (__is_enum(T))
    return kind_of<__underlying_type(T)>();
  else
    return !__is_integral(T) ? kStruct : __is_signed(T) ? kInt : kUint;
}
template <class P> constexpr Description describe() {
  using Element = __remove_cv(__remove_pointer(P));
  constexpr bool pointer = __is_pointer(P);
  if constexpr (__is_void(Element)) {
    return {kStruct, 1, 1, pointer};
  } else if constexpr (pointer && sizeof(Element) == 1 && !same<Element, bool>) {
    return {kStruct, 1, 1, pointer}; // bytes, of anything
  } else {
    using Scalar = typename Components<Element>::type;
    return {kind_of<Scalar>(), sizeof(Scalar), Components<Element>::count, pointer};
  }
}
template <class... P> const Description *describe_all(void (*)(P...)) {
  static const Description all[] = {describe<P>()..., {}};
  return all;
}
// Bit n: the kernel cannot write what argument n refers to.
template <class... P> unsigned long long constants(void (*)(P...)) {
  const bool all[] = {(!__is_pointer(P) || __is_const(__remove_pointer(P)))..., false};
  unsigned long long set = 0;
  for (unsigned int i = 0; i < sizeof...(P); i++) set |= (unsigned long long)all[i] << i;
  return set;
}

template <class P> KSIM_INLINE P argument(void *entry) {
  if constexpr (__is_pointer(P))
    return static_cast<P>(entry);
  else
    return *static_cast<P *>(entry);
}
template <class... P, size_t... I>
KSIM_INLINE void enter(void (*kernel)(P...), void **table, std::integer_sequence<size_t, I...>) {
  kernel(argument<P>(table[I])...);
}
template <class... P> KSIM_INLINE void enter(void (*kernel)(P...), void **table) {
  enter(kernel, table, std::make_integer_sequence<size_t, sizeof...(P)>());
}

} // namespace ksim::cuda
