// SPDX-License-Identifier: MIT
// <metal_atomic>. The operations are atomic among the CPU threads that run threadgroups, and order nothing
// else: memory_order_relaxed is the only order that MSL has for them.
//
// The audit sees loads and stores as it does any others; what reads and writes at once tells of itself.
#pragma once
#include "simdgroup.hpp"

namespace metal {

template <class T> struct atomic {
  T value; // for these headers; MSL shows no members
};

} // namespace metal

namespace ksim {

template <class T> KSIM_INLINE T *counted(volatile metal::atomic<T> *object) {
  T *value = const_cast<T *>(&object->value);
  audit_read(value, sizeof *value);
  audit_write(value, sizeof *value);
  return value;
}
template <class T> KSIM_INLINE T atomic_load(volatile metal::atomic<T> *object) {
  T value;
  __atomic_load(const_cast<T *>(&object->value), &value, __ATOMIC_RELAXED);
  return value;
}
// What has no instruction of its own: for floats everything, and min and max.
template <class T, class F> KSIM_INLINE T atomic_update(volatile metal::atomic<T> *object, F changed) {
  T before = atomic_load(object), after;
  T *value = const_cast<T *>(&object->value);
  do {
    after = changed(before);
  } while (!__atomic_compare_exchange(value, &before, &after, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  audit_write(value, sizeof *value);
  return before;
}

} // namespace ksim

namespace metal {

template <class T>
KSIM_INLINE void atomic_store_explicit(volatile atomic<T> *object, ksim::same<T> desired, memory_order) {
  __atomic_store(const_cast<T *>(&object->value), &desired, __ATOMIC_RELAXED);
}
template <class T> KSIM_INLINE T atomic_load_explicit(const volatile atomic<T> *object, memory_order) {
  return ksim::atomic_load(const_cast<volatile atomic<T> *>(object));
}
template <class T>
KSIM_INLINE T atomic_exchange_explicit(volatile atomic<T> *object, ksim::same<T> desired, memory_order) {
  T before;
  __atomic_exchange(ksim::counted(object), &desired, &before, __ATOMIC_RELAXED);
  return before;
}
// Compares bits, so that a NaN equals itself. Never fails without a reason, though MSL would let it.
template <class T>
KSIM_INLINE bool atomic_compare_exchange_weak_explicit(volatile atomic<T> *object, ksim::same<T> *expected,
                                                       ksim::same<T> desired, memory_order, memory_order) {
  return __atomic_compare_exchange(ksim::counted(object), expected, &desired, false, __ATOMIC_RELAXED,
                                   __ATOMIC_RELAXED);
}

#define KSIM_ATOMIC(name, ...)                                                                    \
  template <class T>                                                                              \
  KSIM_INLINE T atomic_fetch_##name##_explicit(volatile atomic<T> *object, ksim::same<T> operand, \
                                               memory_order) {                                    \
    return ksim::atomic_update(object, [operand](T before) -> T { return __VA_ARGS__; });         \
  }
KSIM_ATOMIC(add, before + operand)
KSIM_ATOMIC(sub, before - operand)
KSIM_ATOMIC(min, operand < before ? operand : before)
KSIM_ATOMIC(max, before < operand ? operand : before)
KSIM_ATOMIC(and, (before & operand))
KSIM_ATOMIC(or, before | operand)
KSIM_ATOMIC(xor, before ^ operand)
#undef KSIM_ATOMIC

// Of atomic_ulong, without the value before.
template <class T>
KSIM_INLINE void atomic_min_explicit(volatile atomic<T> *object, ksim::same<T> operand, memory_order o) {
  atomic_fetch_min_explicit(object, operand, o);
}
template <class T>
KSIM_INLINE void atomic_max_explicit(volatile atomic<T> *object, ksim::same<T> operand, memory_order o) {
  atomic_fetch_max_explicit(object, operand, o);
}

} // namespace metal

using atomic_int = metal::atomic<int>;
using atomic_uint = metal::atomic<uint>;
using atomic_bool = metal::atomic<bool>;
using atomic_ulong = metal::atomic<ulong>;
using atomic_float = metal::atomic<float>;
namespace metal {
using ::atomic_bool;
using ::atomic_float;
using ::atomic_int;
using ::atomic_uint;
using ::atomic_ulong;
} // namespace metal
