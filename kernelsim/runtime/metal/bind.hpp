// SPDX-License-Identifier: MIT
// A kernel's arguments: found by what the compiler knows of the kernel's parameters.
//
//   extern "C" void entry(void *a) {
//     using S = ksim::signature<decltype(gemv<half>)>;
//     gemv<half>(ksim::buffer<S::arg<0>>(a, 0), ksim::builtin<S::arg<1>>(ksim::thread_position_in_grid));
//   }
//
// `a` is a table of the addresses of the buffers.
#pragma once
#include "../describe.hpp"
#include "atomic.hpp"
#include "matrix.hpp"

namespace ksim {

template <class F> struct signature;
template <class R, class... A> struct signature<R(A...)> {
  template <int kIndex> using arg = __type_pack_element<kIndex, A...>;
};
template <class F> struct signature<F *> : signature<F> {};

// A pointer to a buffer or threadgroup array, or a reference to what lies there.
template <class P> struct At {
  static KSIM_INLINE P from(void *p) { return reinterpret_cast<P>(p); }
};
template <class T> struct At<T &> {
  static KSIM_INLINE T &from(void *p) { return *reinterpret_cast<T *>(p); }
};
template <class P> KSIM_INLINE P buffer(void *table, int index) {
  return At<P>::from(static_cast<void **>(table)[index]);
}
template <class P> KSIM_INLINE P threadgroup(int index) { return At<P>::from(worker->dynamic[index]); }

// ---- Builtins

enum Builtin {
  thread_position_in_grid,
  thread_position_in_threadgroup,
  threadgroup_position_in_grid,
  threads_per_threadgroup,
  threadgroups_per_grid,
  threads_per_grid,
  grid_origin,
  grid_size,
  thread_index_in_threadgroup,
  thread_index_in_simdgroup,
  thread_index_in_quadgroup,
  simdgroup_index_in_threadgroup,
  quadgroup_index_in_threadgroup,
  threads_per_simdgroup,
  simdgroups_per_threadgroup,
  quadgroups_per_threadgroup,
  thread_execution_width,
  dispatch_threads_per_threadgroup,
  dispatch_simdgroups_per_threadgroup,
  dispatch_quadgroups_per_threadgroup,
};

KSIM_INLINE uint32_t groups_of(uint32_t width, Dim d) { return (d.x * d.y * d.z + width - 1) / width; }

KSIM_INLINE Dim value_of(Builtin which) {
  const Worker &w = *worker;
  const Launch &l = *w.launch;
  const Fibre &me = *w.current;
  const Dim at = w.group_position, size = l.group;
  const Dim all = {l.groups.x * size.x, l.groups.y * size.y, l.groups.z * size.z};
  switch (which) {
  case thread_position_in_grid:
    return {at.x * size.x + me.position.x, at.y * size.y + me.position.y, at.z * size.z + me.position.z};
  case thread_position_in_threadgroup:
    return me.position;
  case threadgroup_position_in_grid:
    return at;
  case threads_per_threadgroup:
    return w.group_size; // of this one, which may be smaller
  case dispatch_threads_per_threadgroup:
    return size;
  case threadgroups_per_grid:
    return l.groups;
  case threads_per_grid:
  case grid_size:
    return l.threads.x ? l.threads : all;
  case grid_origin:
    return {0, 0, 0};
  case thread_index_in_threadgroup:
    return {me.index, 0, 0};
  case thread_index_in_simdgroup:
    return {me.lane, 0, 0};
  case thread_index_in_quadgroup:
    return {me.index % 4, 0, 0};
  case simdgroup_index_in_threadgroup:
    return {me.warp, 0, 0};
  case quadgroup_index_in_threadgroup:
    return {me.index / 4, 0, 0};
  case threads_per_simdgroup:
  case thread_execution_width:
    return {kLanes, 0, 0};
  case simdgroups_per_threadgroup:
    return {groups_of(kLanes, w.group_size), 0, 0};
  case quadgroups_per_threadgroup:
    return {groups_of(4, w.group_size), 0, 0};
  case dispatch_simdgroups_per_threadgroup:
    return {groups_of(kLanes, size), 0, 0};
  case dispatch_quadgroups_per_threadgroup:
    return {groups_of(4, size), 0, 0};
  }
}

// As a scalar, or a vector of two or three.
template <class T> KSIM_INLINE T from_dim(Dim d) {
  if constexpr (is_scalar<T>)
    return static_cast<T>(d.x);
  else if constexpr (T::kSize == 2)
    return T(d.x, d.y);
  else
    return T(d.x, d.y, d.z);
}
template <class P> KSIM_INLINE auto builtin(Builtin which) {
  return from_dim<__remove_cv(__remove_reference_t(P))>(value_of(which));
}

// ---- What a parameter takes, for the launcher to check

template <class T> struct ScalarOf { // and how many of them
  using type = T;
  static constexpr int count = 1;
};
template <class T, int N, bool kPacked> struct ScalarOf<vec<T, N, kPacked>> {
  using type = T;
  static constexpr int count = sizeof(vec<T, N, kPacked>) / sizeof(T); // float3 takes the room of four
};
template <class T, int C, int R> struct ScalarOf<metal::matrix<T, C, R>> {
  using type = T;
  static constexpr int count = sizeof(metal::matrix<T, C, R>) / sizeof(T);
};
template <class T> struct ScalarOf<metal::atomic<T>> : ScalarOf<T> {};

template <class T> constexpr Kind kind_of() {
  if (__is_same(T, bool)) return kBool;
  if (__is_same(T, bfloat)) return kBfloat;
  if (__is_floating_point(T)) return kFloat;
  if constexpr (__is_enum(T)) return kind_of<__underlying_type(T)>();
  return !__is_integral(T) ? kStruct : __is_signed(T) ? kInt : kUint;
}

template <class P> constexpr Description describe() {
  using Target = __remove_pointer(__remove_reference_t(P));
  using Element = __remove_cv(Target);
  constexpr bool pointer = __is_pointer(__remove_reference_t(P));
  using Scalar = typename ScalarOf<Element>::type;
  if constexpr (__is_void(Element))
    return {kStruct, 1, 1, pointer};
  else if constexpr (pointer && __is_integral(Element) && sizeof(Element) == 1 && !__is_same(Element, bool))
    return {kStruct, 1, 1, pointer}; // bytes, of anything
  else
    return {kind_of<Scalar>(), sizeof(Scalar), ScalarOf<Element>::count, pointer};
}

// A function constant, from what the launcher gives; false if an integer cannot hold it.
template <class T> KSIM_INLINE bool assign(T &constant, double value) {
  if constexpr (__is_same(T, bool)) {
    constant = value != 0;
  } else if constexpr (__is_same(T, bfloat)) {
    constant = bfloat(float(value));
  } else if constexpr (__is_integral(T)) {
    const double least = T(-1) < T(0) ? -__builtin_ldexp(1, 8 * sizeof(T) - 1) : 0;
    const double limit = __builtin_ldexp(1, 8 * sizeof(T) - (T(-1) < T(0)));
    if (!(value >= least && value < limit && __builtin_floor(value) == value)) return false;
    constant = static_cast<T>(value);
  } else {
    constant = static_cast<T>(value);
  }
  return true;
}

} // namespace ksim
