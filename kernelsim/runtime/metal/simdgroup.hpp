// SPDX-License-Identifier: MIT
// Barriers, and <metal_simdgroup> and <metal_quadgroup>: what the lanes of a simdgroup, or of four neighbours,
// do together. Each operation is a function that the engine runs once, when the last lane has come, on the
// arguments of all (see engine.hpp).
//
// What a lane reads from one that does not take part is undefined on a GPU. Here it is poison, all bits set:
// NaN, -1. That a lane to read from, a delta or a mask is the same in all lanes, where MSL demands it, is
// checked.
#pragma once
#include "vector_math.hpp"

namespace ksim {

template <class T> KSIM_INLINE T poison() {
  if constexpr (__is_same(T, bool)) return true;
  T t;
  __builtin_memset(static_cast<void *>(&t), 0xff, sizeof t);
  return t;
}

// A group of 32 or 4 lanes. A quad meets by itself: other quads of the simdgroup may be elsewhere.
template <int kWidth> KSIM_INLINE Call meeting(Text name, Where where) {
  if (kWidth == kLanes) return {name, where, kAllLive, ~0u};
  return {name, where, kMasked, 0xfu << (self().lane & ~3)};
}
template <int kWidth> KSIM_INLINE int first_lane(const Lanes &lanes) { // of the group that has met
  return __builtin_ctz(lanes.active) & -kWidth;
}
template <class T, class In> KSIM_INLINE T meet(Together fn, In in, const Call &call) {
  T out;
  together(fn, &in, &out, call);
  return out;
}

// ---- Shuffles: a lane reads the data of another

template <class T> struct Shuffled {
  T data, fill;      // fill: of the _and_fill_ variants
  ushort by, modulo; // by: lane, delta or mask
};

// Which lane of its group a lane reads from. Where there is none it keeps its own value, or that is undefined.
struct FromLane {
  static constexpr bool kKeeps = false;
  static KSIM_INLINE int source(int, int by, int) { return by; }
};
struct FromXor {
  static constexpr bool kKeeps = false;
  static KSIM_INLINE int source(int lane, int by, int) { return lane ^ by; }
};
struct FromBelow {
  static constexpr bool kKeeps = true;
  static KSIM_INLINE int source(int lane, int by, int) { return lane - by; }
};
struct FromAbove {
  static constexpr bool kKeeps = true;
  static KSIM_INLINE int source(int lane, int by, int) { return lane + by; }
};
struct FromBelowAround {
  static constexpr bool kKeeps = false;
  static KSIM_INLINE int source(int lane, int by, int width) { return (lane - by) & (width - 1); }
};
struct FromAboveAround {
  static constexpr bool kKeeps = false;
  static KSIM_INLINE int source(int lane, int by, int width) { return (lane + by) & (width - 1); }
};

template <class T> KSIM_INLINE void demand_uniform(const Lanes &lanes) {
  const int first = __builtin_ctz(lanes.active);
  const auto &a = lanes.arg<Shuffled<T>>(first);
  for (int i = first; i < kLanes; i++) {
    if (!lanes.has(i)) continue;
    const auto &b = lanes.arg<Shuffled<T>>(i);
    if (a.by == b.by && a.modulo == b.modulo) continue;
    fail(kUndefined, lanes.call->where, "%s: %d in lane %d, but %d in lane %d; it must be the same in all",
         lanes.call->name, a.by, first, b.by, i);
  }
}

template <class T, class From, int kWidth, bool kUniform> void shuffle(Lanes &lanes) {
  if constexpr (kUniform) demand_uniform<T>(lanes);
  const int base = first_lane<kWidth>(lanes);
  for (int i = 0; i < kWidth; i++) {
    if (!lanes.has(base + i)) continue;
    const auto &mine = lanes.arg<Shuffled<T>>(base + i);
    T &result = lanes.result<T>(base + i);
    const int from = From::source(i, mine.by, kWidth);
    const bool outside = from < 0 || from >= kWidth;
    if (outside && From::kKeeps)
      result = mine.data;
    else if (outside || !lanes.has(base + from))
      result = poison<T>();
    else
      result = lanes.arg<Shuffled<T>>(base + from).data;
  }
}

// The group is split into vectors of `modulo` lanes; what is shifted in comes from the other end of `fill`.
template <class T, class From, int kWidth> void shuffle_and_fill(Lanes &lanes) {
  demand_uniform<T>(lanes);
  const int first = first_lane<kWidth>(lanes);
  for (int i = first; i < first + kWidth; i++) {
    if (!lanes.has(i)) continue;
    const auto &mine = lanes.arg<Shuffled<T>>(i);
    const int modulo = mine.modulo;
    if (modulo < 2 || modulo > kWidth || modulo & (modulo - 1))
      fail(kUndefined, lanes.call->where, "%s: modulo is %d, no power of two from 2 to %d", lanes.call->name,
           modulo, kWidth);
    const int from = From::source(i & (modulo - 1), mine.by, modulo);
    const int wrapped = (i & -modulo) + (from & (modulo - 1));
    T &result = lanes.result<T>(i);
    if (from < -modulo || from >= 2 * modulo || !lanes.has(wrapped))
      result = poison<T>();
    else if (from < 0 || from >= modulo)
      result = lanes.arg<Shuffled<T>>(wrapped).fill;
    else
      result = lanes.arg<Shuffled<T>>(wrapped).data;
  }
}

// ---- Reductions and scans

// `neutral` stands for a lane that does not take part: -0.0 for sums, and where twice the same changes nothing
// the value of one that does. `empty` is the result of no lanes.
struct Sum {
  template <class T> static KSIM_INLINE T of(T a, T b) { return T(a + b); }
  template <class T> static KSIM_INLINE T neutral(T) { return T(-T(0)); }
  template <class T> static KSIM_INLINE T empty() { return T(0); }
};
struct Product {
  template <class T> static KSIM_INLINE T of(T a, T b) { return T(a * b); }
  template <class T> static KSIM_INLINE T neutral(T) { return T(1); }
  template <class T> static KSIM_INLINE T empty() { return T(1); }
};
struct Xor {
  template <class T> static KSIM_INLINE T of(T a, T b) { return T(a ^ b); }
  template <class T> static KSIM_INLINE T neutral(T) { return T(0); }
};
struct Idempotent {
  template <class T> static KSIM_INLINE T neutral(T any) { return any; }
};
struct Least : Idempotent {
  template <class T> static KSIM_INLINE T of(T a, T b) { return T(metal::min(a, b)); }
};
struct Greatest : Idempotent {
  template <class T> static KSIM_INLINE T of(T a, T b) { return T(metal::max(a, b)); }
};
struct And : Idempotent {
  template <class T> static KSIM_INLINE T of(T a, T b) { return T(a & b); }
};
struct Or : Idempotent {
  template <class T> static KSIM_INLINE T of(T a, T b) { return T(a | b); }
};

// In the order of a butterfly: lane i with i + 16, then with i + 8, and so on, rounded after every step. MSL
// leaves the order open.
template <class T, class Op, int kWidth> void reduce(Lanes &lanes) {
  const int first = first_lane<kWidth>(lanes);
  const T any = lanes.arg<T>(__builtin_ctz(lanes.active));
  T v[kWidth];
  for (int i = 0; i < kWidth; i++) v[i] = lanes.has(first + i) ? lanes.arg<T>(first + i) : Op::neutral(any);
  for (int step = kWidth / 2; step; step /= 2)
    for (int i = 0; i < step; i++) v[i] = Op::of(v[i], v[i + step]);
  for (int i = first; i < first + kWidth; i++)
    if (lanes.has(i)) lanes.result<T>(i) = v[0];
}

// From the lowest lane to the highest.
template <class T, class Op, bool kInclusive> void scan(Lanes &lanes) {
  T all = Op::template empty<T>();
  bool none = true;
  for (int i = 0; i < kLanes; i++) {
    if (!lanes.has(i)) continue;
    const T before = all;
    all = none ? lanes.arg<T>(i) : Op::of(all, lanes.arg<T>(i));
    none = false;
    lanes.result<T>(i) = kInclusive ? all : before;
  }
}

// ---- Votes

struct Votes {
  uint active, yes;
};
inline void vote(Lanes &lanes) {
  uint yes = 0;
  for (int i = 0; i < kLanes; i++)
    if (lanes.has(i) && lanes.arg<bool>(i)) yes |= 1u << i;
  for (int i = 0; i < kLanes; i++)
    if (lanes.has(i)) lanes.result<Votes>(i) = {lanes.active, yes};
}
// Among the lanes of this one's group that are here with it: these operations are meant for divergent code.
template <int kWidth> KSIM_INLINE Votes vote_of_active(bool yes, Text name, Where where) {
  const Votes votes = meet<Votes>(vote, yes, {name, where, kConverged, ~0u});
  const uint group = (kWidth == kLanes ? ~0u : 0xfu) << (self().lane & -kWidth);
  return {votes.active & group, votes.yes & group};
}
template <class T, int kWidth> void broadcast_first(Lanes &lanes) {
  for (int i = 0, first = -1; i < kLanes; i++) {
    if (i % kWidth == 0) first = -1;
    if (!lanes.has(i)) continue;
    if (first < 0) first = i;
    lanes.result<T>(i) = lanes.arg<T>(first);
  }
}
KSIM_INLINE uint existing_lanes() { // of this simdgroup; the last one may be smaller
  const int lanes = worker->threads - self().warp * kLanes;
  return lanes >= kLanes ? ~0u : (1u << lanes) - 1;
}

inline void nothing(Lanes &) {}

} // namespace ksim

namespace metal {

enum class mem_flags {
  mem_none = 0,
  mem_device = 1,
  mem_threadgroup = 2,
  mem_texture = 4,
  mem_threadgroup_imageblock = 8,
  mem_object_data = 16,
};
KSIM_INLINE constexpr mem_flags operator|(mem_flags a, mem_flags b) { return mem_flags(int(a) | int(b)); }
KSIM_INLINE constexpr mem_flags operator&(mem_flags a, mem_flags b) { return mem_flags(int(a) & int(b)); }

enum memory_order {
  memory_order_relaxed = __ATOMIC_RELAXED,
  memory_order_acquire = __ATOMIC_ACQUIRE,
  memory_order_release = __ATOMIC_RELEASE,
  memory_order_acq_rel = __ATOMIC_ACQ_REL,
  memory_order_seq_cst = __ATOMIC_SEQ_CST,
};
enum thread_scope {
  thread_scope_thread,
  thread_scope_simdgroup,
  thread_scope_threadgroup,
  thread_scope_device,
};

// An internal name of Apple's header that kernels use all the same: what can be shuffled and summed by
// hardware.
template <class T>
struct __is_valid_simdgroup_type : bool_constant<is_arithmetic_v<T> && sizeof(T) < 8 && !is_same_v<T, bool>> {};
template <class T, int N> struct __is_valid_simdgroup_type<vec<T, N>> : __is_valid_simdgroup_type<T> {};

// Memory is in order here whatever the flags.
KSIM_INLINE void threadgroup_barrier(mem_flags, ksim::Where where = ksim::here()) {
  ksim::barrier({"threadgroup_barrier", where});
}
KSIM_INLINE void threadgroup_barrier(mem_flags, thread_scope, ksim::Where where = ksim::here()) {
  ksim::barrier({"threadgroup_barrier", where});
}
KSIM_INLINE void simdgroup_barrier(mem_flags, ksim::Where where = ksim::here()) {
  ksim::together(ksim::nothing, nullptr, nullptr, {"simdgroup_barrier", where});
}
KSIM_INLINE void atomic_thread_fence(mem_flags, memory_order, thread_scope = thread_scope_device) {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

#define KSIM_SHUFFLE(name, width, by, From, uniform)                                           \
  template <class T> KSIM_INLINE T name(T data, ushort by, ksim::Where where = ksim::here()) { \
    const ksim::Call call = ksim::meeting<width>(#name, where);                                \
    return ksim::meet<T>(ksim::shuffle<T, ksim::From, width, uniform>,                         \
                         ksim::Shuffled<T>{data, data, by, width}, call);                      \
  }
#define KSIM_FILL(name, width, From)                                                                       \
  template <class T>                                                                                       \
  KSIM_INLINE T name(T data, ksim::same<T> filling_data, ushort delta, ushort modulo,                      \
                     ksim::Where where = ksim::here()) {                                                   \
    const ksim::Call call = ksim::meeting<width>(#name, where);                                            \
    return ksim::meet<T>(ksim::shuffle_and_fill<T, ksim::From, width>,                                     \
                         ksim::Shuffled<T>{data, filling_data, delta, modulo}, call);                      \
  }                                                                                                        \
  template <class T>                                                                                       \
  KSIM_INLINE T name(T data, ksim::same<T> filling_data, ushort delta, ksim::Where where = ksim::here()) { \
    return name(data, filling_data, delta, ushort(width), where);                                          \
  }
#define KSIM_REDUCE(name, width, Op)                                                                  \
  template <class T> KSIM_INLINE T name(T data, ksim::Where where = ksim::here()) {                   \
    return ksim::meet<T>(ksim::reduce<T, ksim::Op, width>, data, ksim::meeting<width>(#name, where)); \
  }
#define KSIM_SCAN(name, width, Op, inclusive)                                                           \
  template <class T> KSIM_INLINE T name(T data, ksim::Where where = ksim::here()) {                     \
    return ksim::meet<T>(ksim::scan<T, ksim::Op, inclusive>, data, ksim::meeting<width>(#name, where)); \
  }
#define KSIM_VOTE(name, width, result)                                                                      \
  KSIM_INLINE bool name(bool expression, ksim::Where where = ksim::here()) {                                \
    const auto votes = ksim::meet<ksim::Votes>(ksim::vote, expression, ksim::meeting<width>(#name, where)); \
    return result;                                                                                          \
  }

// `group` is simd, of 32 lanes, or quad, of 4.
#define KSIM_GROUP(group, width)                                                                        \
  KSIM_SHUFFLE(group##_broadcast, width, lane_id, FromLane, true)                                       \
  KSIM_SHUFFLE(group##_shuffle, width, lane_id, FromLane, false)                                        \
  KSIM_SHUFFLE(group##_shuffle_xor, width, mask, FromXor, true)                                         \
  KSIM_SHUFFLE(group##_shuffle_up, width, delta, FromBelow, true)                                       \
  KSIM_SHUFFLE(group##_shuffle_down, width, delta, FromAbove, true)                                     \
  KSIM_SHUFFLE(group##_shuffle_rotate_up, width, delta, FromBelowAround, true)                          \
  KSIM_SHUFFLE(group##_shuffle_rotate_down, width, delta, FromAboveAround, true)                        \
  KSIM_FILL(group##_shuffle_and_fill_up, width, FromBelow)                                              \
  KSIM_FILL(group##_shuffle_and_fill_down, width, FromAbove)                                            \
  KSIM_REDUCE(group##_sum, width, Sum)                                                                  \
  KSIM_REDUCE(group##_product, width, Product)                                                          \
  KSIM_REDUCE(group##_min, width, Least)                                                                \
  KSIM_REDUCE(group##_max, width, Greatest)                                                             \
  KSIM_REDUCE(group##_and, width, And)                                                                  \
  KSIM_REDUCE(group##_or, width, Or)                                                                    \
  KSIM_REDUCE(group##_xor, width, Xor)                                                                  \
  KSIM_SCAN(group##_prefix_inclusive_sum, width, Sum, true)                                             \
  KSIM_SCAN(group##_prefix_exclusive_sum, width, Sum, false)                                            \
  KSIM_SCAN(group##_prefix_inclusive_product, width, Product, true)                                     \
  KSIM_SCAN(group##_prefix_exclusive_product, width, Product, false)                                    \
  KSIM_VOTE(group##_all, width, votes.yes == votes.active)                                              \
  KSIM_VOTE(group##_any, width, votes.yes != 0)                                                         \
  class group##_vote {                                                                                  \
  public:                                                                                               \
    using vote_t = ulong;                                                                               \
    KSIM_INLINE explicit constexpr group##_vote(vote_t v = 0) : bits(v) {}                              \
    KSIM_INLINE explicit constexpr operator vote_t() const { return bits; }                             \
    KSIM_INLINE bool all() const {                                                                      \
      return bits == (ksim::existing_lanes() >> (ksim::self().lane & -width) & kAll);                   \
    }                                                                                                   \
    KSIM_INLINE bool any() const { return bits != 0; }                                                  \
                                                                                                        \
  private:                                                                                              \
    static constexpr vote_t kAll = width == 4 ? 0xf : ~0u;                                              \
    vote_t bits;                                                                                        \
  };                                                                                                    \
  KSIM_INLINE group##_vote group##_ballot(bool expression, ksim::Where where = ksim::here()) {          \
    const uint yes = ksim::vote_of_active<width>(expression, #group "_ballot", where).yes;              \
    return group##_vote(yes >> (ksim::self().lane & -width));                                           \
  }                                                                                                     \
  KSIM_INLINE group##_vote group##_active_threads_mask(ksim::Where where = ksim::here()) {              \
    const uint active = ksim::vote_of_active<width>(true, #group "_active_threads_mask", where).active; \
    return group##_vote(active >> (ksim::self().lane & -width));                                        \
  }                                                                                                     \
  KSIM_INLINE bool group##_is_first(ksim::Where where = ksim::here()) {                                 \
    return __builtin_ctz(ksim::vote_of_active<width>(true, #group "_is_first", where).active) ==        \
           ksim::self().lane;                                                                           \
  }                                                                                                     \
  KSIM_INLINE constexpr bool group##_is_helper_thread() { return false; }                               \
  template <class T> KSIM_INLINE T group##_broadcast_first(T data, ksim::Where where = ksim::here()) {  \
    return ksim::meet<T>(ksim::broadcast_first<T, width>, data,                                         \
                         {#group "_broadcast_first", where, ksim::kConverged, ~0u});                    \
  }
KSIM_GROUP(simd, 32)
KSIM_GROUP(quad, 4)
#undef KSIM_GROUP
#undef KSIM_SHUFFLE
#undef KSIM_FILL
#undef KSIM_REDUCE
#undef KSIM_SCAN
#undef KSIM_VOTE

} // namespace metal
