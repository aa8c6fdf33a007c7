// SPDX-License-Identifier: MIT
// PTX ISA: "Data Movement and Conversion Instructions": ld, st, cvta, isspacep, prefetch, createpolicy,
// discard; "Parallel Synchronization and Communication Instructions": atom, red.
//
// Cache operators, eviction priorities, prefetch sizes and policies are hints that change no result. A vector
// is one access of its whole width, which must be aligned to it.
#pragma once
#include "ptx_float.hpp"

namespace ksim::ptx {

// ---- ld, st

template <class T, int kCount, class D>
KSIM_INLINE void ld(D &&d, const unsigned char *from, Where where = here()) {
  const auto results = tied(d);
  using Results = decltype(tied(d));
  static_assert(Results::count == kCount, "asm: ld has as many results as its vector has elements");
  check_alignment(from, sizeof(T) * kCount, "ld", where);
  T values[kCount];
  copy(values, from, sizeof values);
  for (int i = 0; i < kCount; i++) *results.of[i] = raw<typename Results::Register>(values[i]);
}
template <class T, int kCount, class V> KSIM_INLINE void st(unsigned char *to, V v, Where where = here()) {
  const auto operands = vector(v);
  static_assert(decltype(vector(v))::count == kCount,
                "asm: st has as many operands as its vector has elements");
  check_alignment(to, sizeof(T) * kCount, "st", where);
  T values[kCount];
  for (int i = 0; i < kCount; i++) values[i] = as<T>(operands.of[i]);
  copy(to, values, sizeof values);
}
// .volatile, .relaxed, .acquire, .release, .mmio: fences make the order at least as strong as they ask for.
template <class T, int kCount, class D>
KSIM_INLINE void ld_ordered(D &&d, const unsigned char *from, Where where = here()) {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  ld<T, kCount>(d, from, where);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
template <class T, int kCount, class V>
KSIM_INLINE void st_ordered(unsigned char *to, V v, Where where = here()) {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  st<T, kCount>(to, v, where);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

// ---- atom, red

// What moves memory on its own must not be seen by the audit's instrumentation, which cannot look into calls.
#ifdef KSIM_AUDIT
#define KSIM_UNSEEN __attribute__((noinline, no_sanitize("coverage")))
#else
#define KSIM_UNSEEN __attribute__((always_inline, nodebug))
#endif

// *p becomes f(*p); the result is what it was.
template <class T, class F> KSIM_UNSEEN inline T update(void *p, F f) {
  auto *word = static_cast<Raw<T> *>(p);
  Raw<T> before = __atomic_load_n(word, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(word, &before,
                                      __builtin_bit_cast(Raw<T>, f(__builtin_bit_cast(T, before))), true,
                                      __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
  }
  return __builtin_bit_cast(T, before);
}
template <class T, Name kOp> KSIM_INLINE T combined(T a, T b) {
  if constexpr (kOp == kAdd)
    return add<T>(a, b);
  else if constexpr (kOp == kMin)
    return min<T>(a, b);
  else if constexpr (kOp == kMax)
    return max<T>(a, b);
  else if constexpr (kOp == kAnd)
    return a & b;
  else if constexpr (kOp == kOr)
    return a | b;
  else if constexpr (kOp == kXor)
    return a ^ b;
  else if constexpr (kOp == kInc)
    return a >= b ? T(0) : T(a + 1);
  else if constexpr (kOp == kDec)
    return a == 0 || a > b ? b : T(a - 1);
  else
    return b; // exch
}
template <class T, Name kOp> KSIM_INLINE T atomically(unsigned char *p, T b, const char *name, Where where) {
  check_alignment(p, sizeof(T), name, where);
  audit_read(p, sizeof(T));
  audit_write(p, sizeof(T));
  return update<T>(p, [b](T a) { return combined<T, kOp>(a, b); });
}
template <class T, Name kOp, class R, class B>
KSIM_INLINE void atom(R &d, unsigned char *p, B b, Where where = here()) {
  d = raw<R>(atomically<T, kOp>(p, as<T>(b), "atom", where));
}
template <class T, class R, class B, class C>
KSIM_INLINE void atom_cas(R &d, unsigned char *p, B b, C c, Where where = here()) {
  const T compare = as<T>(b), value = as<T>(c);
  check_alignment(p, sizeof(T), "atom.cas", where);
  audit_read(p, sizeof(T));
  audit_write(p, sizeof(T));
  d = raw<R>(update<T>(p, [=](T a) { return a == compare ? value : a; }));
}
template <class T, Name kOp, class B> KSIM_INLINE void red(unsigned char *p, B b, Where where = here()) {
  atomically<T, kOp>(p, as<T>(b), "red", where);
}
// Each element on its own is atomic, the vector is not.
template <class T, Name kOp, int kCount, class R>
KSIM_INLINE void red_vector(unsigned char *p, Vec<R, kCount> b, Where where = here()) {
  check_alignment(p, sizeof(T) * kCount, "red", where);
  for (int i = 0; i < kCount; i++) atomically<T, kOp>(p + sizeof(T) * i, as<T>(b.of[i]), "red", where);
}

// ---- Addresses

template <Space kSpace, class R, class A> KSIM_INLINE void to_generic(R &d, A a) {
  d = R(as<uint64_t>(a) + (kSpace == kShared ? uint64_t(worker->window) : 0));
}
template <Space kSpace, class R, class A> KSIM_INLINE void from_generic(R &d, A a) {
  d = R(as<uint64_t>(a) - (kSpace == kShared ? uint64_t(worker->window) : 0));
}
// What is not shared is taken for global memory; a CPU cannot tell it from local and constant memory.
template <Space kSpace, class A> KSIM_INLINE void is_in_space(bool &p, A a) {
  p = in_shared_window(reinterpret_cast<const void *>(as<uint64_t>(a))) == (kSpace == kShared);
}

// ---- Hints

template <class... A> KSIM_INLINE void nothing(A...) {}
template <class R> KSIM_INLINE void policy(R &d) { d = 0; } // opaque; only instructions take it, as a hint
// "semantically similar to a write of undefined value".
template <class Size> KSIM_INLINE void discard(unsigned char *p, Size size, Where where = here()) {
  check_alignment(p, 128, "discard.L2", where);
  const auto poison = cuda::poison<Vec<uint64_t, 16>>();
  if (as<long long>(size) == 128)
    copy(p, &poison, 128);
  else
    fail(kUndefined, where, "discard.L2: the size must be 128");
}

} // namespace ksim::ptx
