// SPDX-License-Identifier: MIT
// PTX ISA: "Parallel Synchronization and Communication Instructions", shfl.sync, "Special Registers" and what
// is left of the "Miscellaneous Instructions". Where CUDA has a function for it, the instruction is that
// function.
#pragma once
#include "ptx_memory.hpp"
#include "warp.hpp"

namespace ksim::ptx {

// ---- shfl.sync: b is a lane or a distance, c holds the clamp in bits 0 to 4 and the mask of segments in 8 to
// 12

struct Shuffle {
  uint32_t a, b, c;
};
struct Shuffled {
  uint32_t d;
  bool p;
};
template <Name kMode> inline void shuffle(Lanes &lanes) {
  cuda::each_lane(lanes.active, [&](int lane) {
    const auto &mine = lanes.arg<Shuffle>(lane);
    const int b = int(mine.b & 31), clamp = int(mine.c & 31), segments = int(mine.c >> 8 & 31);
    const int first = lane & segments, last = first | (clamp & ~segments);
    const int from = kMode == kUp     ? lane - b
                     : kMode == kDown ? lane + b
                     : kMode == kBfly ? lane ^ b
                                      : first | (b & ~segments);
    const bool inside = kMode == kUp ? from >= last : from <= last;
    const int source = inside ? from : lane;
    lanes.result<Shuffled>(lane) = {lanes.has(source) ? lanes.arg<Shuffle>(source).a : ~0u, inside};
  });
}
template <Name kMode, class R, class A, class B, class C, class M>
KSIM_INLINE void shfl(R &d, bool &p, A a, B b, C c, M mask, Where where = here()) {
  const Shuffle in{as<uint32_t>(a), as<uint32_t>(b), as<uint32_t>(c)};
  Shuffled out;
  together(shuffle<kMode>, &in, &out, cuda::masked("shfl.sync", as<uint32_t>(mask), where));
  d = out.d;
  p = out.p;
}

// ---- Votes, matches, reductions

template <Name kMode, class M> KSIM_INLINE void vote(bool &p, bool a, M mask, Where where = here()) {
  const auto m = as<uint32_t>(mask);
  const bool all = kMode != kAny && __all_sync(m, a, where), any = kMode != kAll && __any_sync(m, a, where);
  p = kMode == kAll ? all : kMode == kAny ? any : all || !any; // uni: the same in all lanes
}
template <class R, class M> KSIM_INLINE void ballot(R &d, bool a, M mask, Where where = here()) {
  d = __ballot_sync(as<uint32_t>(mask), a, where);
}
template <class T, class R, class A, class M>
KSIM_INLINE void match_any(R &d, A a, M mask, Where where = here()) {
  d = __match_any_sync(as<uint32_t>(mask), as<T>(a), where);
}
template <class T, class R, class A, class M>
KSIM_INLINE void match_all(R &d, bool &p, A a, M mask, Where where = here()) {
  int all;
  d = __match_all_sync(as<uint32_t>(mask), as<T>(a), &all, where);
  p = all;
}
template <class R> KSIM_INLINE void activemask(R &d, Where where = here()) { d = __activemask(where); }

template <class T, Name kOp, bool kAbs, bool kNaN> inline void reduce(Lanes &lanes) {
  const auto value = [&](int lane) { return kAbs ? abs<T>(lanes.arg<T>(lane)) : lanes.arg<T>(lane); };
  T all = value(__builtin_ctz(lanes.active));
  cuda::each_lane(lanes.active & (lanes.active - 1), [&](int lane) {
    if constexpr (__is_integral(T))
      all = combined<T, kOp>(all, value(lane));
    else
      all = kOp == kMin ? min<T, false, kNaN>(all, value(lane)) : max<T, false, kNaN>(all, value(lane));
  });
  all = canonical(all);
  cuda::each_lane(lanes.active, [&](int lane) { lanes.result<T>(lane) = all; });
}
template <class T, Name kOp, bool kAbs = false, bool kNaN = false, class R, class A, class M>
KSIM_INLINE void redux(R &d, A a, M mask, Where where = here()) {
  const T in = as<T>(a);
  T out;
  together(reduce<T, kOp, kAbs, kNaN>, &in, &out, cuda::masked("redux.sync", as<uint32_t>(mask), where));
  d = raw<R>(out);
}

// One lane of those in the mask is elected, the same every time; d is its number, p is true in it.
inline void elect_one(Lanes &lanes) {
  const uint32_t leader = uint32_t(__builtin_ctz(lanes.active));
  cuda::each_lane(lanes.active, [&](int lane) { lanes.result<uint32_t>(lane) = leader; });
}
template <class R, class M> KSIM_INLINE void elect(R &d, bool &p, M mask, Where where = here()) {
  uint32_t leader;
  together(elect_one, nullptr, &leader, cuda::masked("elect.sync", as<uint32_t>(mask), where));
  d = leader;
  p = leader == self().lane;
}

// ---- Barriers and fences

template <class M> KSIM_INLINE void bar_warp(M mask, Where where = here()) {
  together(cuda::meet, nullptr, nullptr, cuda::masked("bar.warp.sync", as<uint32_t>(mask), where));
}
inline int one_of_16(int id, const char *name, Where where) {
  if (id < 0 || id > 15) fail(kArgument, where, "%s: there is no barrier %d", name, id);
  return id;
}
template <class A, class B = Imm> KSIM_INLINE void bar_sync(A id, B threads = B{0}, Where where = here()) {
  barrier({"bar.sync", where}, one_of_16(as<int>(id), "bar.sync", where), as<int>(threads));
}
template <class A, class B> KSIM_INLINE void bar_arrive(A id, B threads, Where where = here()) {
  arrive({"bar.arrive", where}, one_of_16(as<int>(id), "bar.arrive", where), as<int>(threads));
}
// A cluster is one block: its threads have all arrived when all wait.
KSIM_INLINE void barrier_cluster_wait(Where where = here()) { barrier({"barrier.cluster.wait", where}); }
KSIM_INLINE void fence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
[[noreturn]] KSIM_INLINE void trap(Where where = here()) { fail(kTrap, where, "trap"); }

// ---- Special registers

KSIM_INLINE uint32_t special_laneid() { return self().lane; }
KSIM_INLINE uint32_t special_warpid() { return self().warp; }
KSIM_INLINE uint32_t special_nwarpid() { return kMaxThreads / kLanes; }
KSIM_INLINE uint32_t special_lanemask_eq() { return 1u << self().lane; }
KSIM_INLINE uint32_t special_lanemask_lt() { return (1u << self().lane) - 1; }
KSIM_INLINE uint32_t special_lanemask_le() { return 2 * (1u << self().lane) - 1; }
KSIM_INLINE uint32_t special_lanemask_gt() { return ~special_lanemask_le(); }
KSIM_INLINE uint32_t special_lanemask_ge() { return ~special_lanemask_lt(); }
// Blocks go round over as many multiprocessors as an H200 has.
constexpr uint32_t kMultiprocessors = 132;
KSIM_INLINE uint32_t special_nsmid() { return kMultiprocessors; }
KSIM_INLINE uint32_t special_smid() {
  const Dim &at = worker->group_position, &n = worker->launch->groups;
  return uint32_t((at.x + uint64_t(n.x) * (at.y + uint64_t(n.y) * at.z)) % kMultiprocessors);
}
KSIM_INLINE uint64_t special_gridid() { return 1; }
KSIM_INLINE uint32_t special_dynamic_smem_size() { return worker->launch->dynamic_bytes[0]; }
// A clock that never stands still, so that a loop which waits for time to pass ends; its unit is not a GPU's.
inline uint64_t special_clock64() {
#ifdef __aarch64__
  uint64_t ticks;
  __asm__ volatile("mrs %0, cntvct_el0" : "=r"(ticks));
  return ticks;
#else
  return __builtin_readcyclecounter();
#endif
}
KSIM_INLINE uint32_t special_clock() { return uint32_t(special_clock64()); }
KSIM_INLINE uint32_t special_clock_hi() { return uint32_t(special_clock64() >> 32); }
KSIM_INLINE uint64_t special_globaltimer() { return special_clock64(); }
KSIM_INLINE uint32_t special_globaltimer_lo() { return special_clock(); }
KSIM_INLINE uint32_t special_globaltimer_hi() { return special_clock_hi(); }

} // namespace ksim::ptx
