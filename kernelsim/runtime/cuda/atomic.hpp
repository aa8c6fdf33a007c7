// SPDX-License-Identifier: MIT
// Atomic functions (CUDA C++ Programming Guide, "Atomic Functions"), each for the types that CUDA has it for.
// Blocks run on several threads of the operating system, so they are atomic indeed; order is relaxed, as on a
// GPU.
#pragma once
#include "sixteen.hpp"

namespace ksim::cuda {

template <class T, class... Ts> constexpr bool any_of = (same<T, Ts> || ...);
template <class T>
concept Word = any_of<T, int, unsigned int, unsigned long long>;
template <class T>
concept OrderedWord = Word<T> || any_of<T, long long>; // 64-bit signed: atomicMin and atomicMax only
template <class T>
concept Addable = Word<T> || any_of<T, float, double, float2, float4> || One<T> || Two<T>;
template <class T>
concept Swappable = Word<T> || any_of<T, float>;
template <class T>
concept Comparable = Word<T> || any_of<T, unsigned short>;

template <int kBytes> struct Bits_ {};
template <> struct Bits_<2> {
  using type = unsigned short;
};
template <> struct Bits_<4> {
  using type = unsigned int;
};
template <> struct Bits_<8> {
  using type = unsigned long long;
};
template <class T> using WordOf = typename Bits_<sizeof(T)>::type;

// The audit sees loads and stores as it does any others; what does both at once reports itself.
template <class T> KSIM_INLINE T *counted(T *p) {
  audit_read(p, sizeof *p);
  audit_write(p, sizeof *p);
  return p;
}
// The value at p becomes f of it; returns what it was.
template <class T, class F> KSIM_INLINE T update(T *p, F f) {
  auto *word = reinterpret_cast<WordOf<T> *>(p);
  WordOf<T> before = __atomic_load_n(word, __ATOMIC_RELAXED), after;
  do {
    after = __builtin_bit_cast(WordOf<T>, f(__builtin_bit_cast(T, before)));
  } while (!__atomic_compare_exchange_n(word, &before, after, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  audit_write(p, sizeof *p);
  return __builtin_bit_cast(T, before);
}
template <class T> KSIM_INLINE T add(T *p, T value) {
  if constexpr (Integer<T>) {
    return __atomic_fetch_add(counted(p), value, __ATOMIC_RELAXED);
  } else if constexpr (same<T, float2>) { // elements one by one, as CUDA has it
    return {add(&p->x, value.x), add(&p->y, value.y)};
  } else if constexpr (same<T, float4>) {
    return {add(&p->x, value.x), add(&p->y, value.y), add(&p->z, value.z), add(&p->w, value.w)};
  } else if constexpr (Two<T>) {
    return {add(&p->x, value.x), add(&p->y, value.y)};
  } else {
    return update(p, [=](T old) -> T { return old + value; });
  }
}

} // namespace ksim::cuda

#define KSIM_ATOMIC(name, Which, expression)                                                                \
  template <ksim::cuda::Which T> KSIM_INLINE T name(T *p, ksim::cuda::Same<T> value) { return expression; } \
  template <ksim::cuda::Which T> KSIM_INLINE T name##_block(T *p, ksim::cuda::Same<T> value) {              \
    return expression;                                                                                      \
  }                                                                                                         \
  template <ksim::cuda::Which T> KSIM_INLINE T name##_system(T *p, ksim::cuda::Same<T> value) {             \
    return expression;                                                                                      \
  }
KSIM_ATOMIC(atomicAdd, Addable, ksim::cuda::add(p, value))
KSIM_ATOMIC(atomicSub, Word, __atomic_fetch_sub(ksim::cuda::counted(p), value, __ATOMIC_RELAXED))
KSIM_ATOMIC(atomicAnd, Word, __atomic_fetch_and(ksim::cuda::counted(p), value, __ATOMIC_RELAXED))
KSIM_ATOMIC(atomicOr, Word, __atomic_fetch_or(ksim::cuda::counted(p), value, __ATOMIC_RELAXED))
KSIM_ATOMIC(atomicXor, Word, __atomic_fetch_xor(ksim::cuda::counted(p), value, __ATOMIC_RELAXED))
KSIM_ATOMIC(atomicMin, OrderedWord, ksim::cuda::update(p, [=](T old) { return value < old ? value : old; }))
KSIM_ATOMIC(atomicMax, OrderedWord, ksim::cuda::update(p, [=](T old) { return value > old ? value : old; }))
KSIM_ATOMIC(atomicExch, Swappable, ksim::cuda::update(p, [=](T) { return value; }))
#undef KSIM_ATOMIC

#define KSIM_ATOMIC(name)                                                                         \
  template <ksim::cuda::Comparable T>                                                             \
  KSIM_INLINE T name(T *p, ksim::cuda::Same<T> compare, ksim::cuda::Same<T> value) {              \
    __atomic_compare_exchange_n(ksim::cuda::counted(p), &compare, value, false, __ATOMIC_SEQ_CST, \
                                __ATOMIC_SEQ_CST);                                                \
    return compare;                                                                               \
  }
KSIM_ATOMIC(atomicCAS)
KSIM_ATOMIC(atomicCAS_block)
KSIM_ATOMIC(atomicCAS_system)
#undef KSIM_ATOMIC

#define KSIM_ATOMIC(suffix)                                                                                  \
  KSIM_INLINE unsigned int atomicInc##suffix(unsigned int *p, unsigned int last) {                           \
    return ksim::cuda::update(p, [=](unsigned int old) { return old >= last ? 0 : old + 1; });               \
  }                                                                                                          \
  KSIM_INLINE unsigned int atomicDec##suffix(unsigned int *p, unsigned int last) {                           \
    return ksim::cuda::update(p, [=](unsigned int old) { return old == 0 || old > last ? last : old - 1; }); \
  }
KSIM_ATOMIC()
KSIM_ATOMIC(_block)
KSIM_ATOMIC(_system)
#undef KSIM_ATOMIC

// ---- Atomics with a memory order and a scope (CUDA 12.8)

enum {
  __NV_ATOMIC_RELAXED,
  __NV_ATOMIC_CONSUME,
  __NV_ATOMIC_ACQUIRE,
  __NV_ATOMIC_RELEASE,
  __NV_ATOMIC_ACQ_REL,
  __NV_ATOMIC_SEQ_CST
};
enum {
  __NV_THREAD_SCOPE_THREAD,
  __NV_THREAD_SCOPE_BLOCK,
  __NV_THREAD_SCOPE_CLUSTER,
  __NV_THREAD_SCOPE_DEVICE,
  __NV_THREAD_SCOPE_SYSTEM
};
template <class T> KSIM_INLINE T __nv_atomic_load_n(T *p, int, int = __NV_THREAD_SCOPE_SYSTEM) {
  ksim::audit_read(p, sizeof *p);
  return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}
template <class T>
KSIM_INLINE void __nv_atomic_store_n(T *p, ksim::cuda::Same<T> value, int, int = __NV_THREAD_SCOPE_SYSTEM) {
  ksim::audit_write(p, sizeof *p);
  __atomic_store_n(p, value, __ATOMIC_SEQ_CST);
}
template <class T>
KSIM_INLINE T __nv_atomic_exchange_n(T *p, ksim::cuda::Same<T> value, int, int = __NV_THREAD_SCOPE_SYSTEM) {
  return __atomic_exchange_n(ksim::cuda::counted(p), value, __ATOMIC_SEQ_CST);
}
template <class T>
KSIM_INLINE bool __nv_atomic_compare_exchange_n(T *p, T *expected, ksim::cuda::Same<T> value, bool, int, int,
                                                int = __NV_THREAD_SCOPE_SYSTEM) {
  auto *word = ksim::cuda::counted(p);
  return __atomic_compare_exchange_n(word, expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
#define KSIM_NV_ATOMIC(name, result)                                              \
  template <class T>                                                              \
  KSIM_INLINE T __nv_atomic_fetch_##name(T *p, ksim::cuda::Same<T> value, int,    \
                                         int = __NV_THREAD_SCOPE_SYSTEM) {        \
    return ksim::cuda::update(p, [=](T old) -> T { return result; });             \
  }                                                                               \
  template <class T>                                                              \
  KSIM_INLINE void __nv_atomic_##name(T *p, ksim::cuda::Same<T> value, int order, \
                                      int scope = __NV_THREAD_SCOPE_SYSTEM) {     \
    __nv_atomic_fetch_##name(p, value, order, scope);                             \
  }
KSIM_NV_ATOMIC(add, T(old + value))
KSIM_NV_ATOMIC(sub, T(old - value))
KSIM_NV_ATOMIC(and, T(old &value))
KSIM_NV_ATOMIC(or, T(old | value))
KSIM_NV_ATOMIC(xor, T(old ^ value))
KSIM_NV_ATOMIC(min, value < old ? value : old)
KSIM_NV_ATOMIC(max, old < value ? value : old)
#undef KSIM_NV_ATOMIC
