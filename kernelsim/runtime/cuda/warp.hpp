// SPDX-License-Identifier: MIT
// What the threads of a warp or block do together (CUDA C++ Programming Guide: "Warp Shuffle Functions", "Warp
// Vote Functions", "Warp Match Functions", "Warp Reduce Functions", "Synchronization Functions").
//
// The lanes that a mask names, less those that have returned, must all come, with the same mask and their own
// bit in it. A value read from a lane that does not take part is undefined on a GPU and poison here.
#pragma once
#include "types.hpp"

namespace ksim::cuda {

constexpr unsigned int kFullMask = 0xffffffff;

KSIM_INLINE Call masked(const char *name, unsigned int mask, Where where) {
  return {name, where, kMasked, mask};
}

template <class F> KSIM_INLINE void each_lane(unsigned int lanes, F f) {
  if (lanes == kFullMask) {
    for (int lane = 0; lane < kLanes; lane++) f(lane);
    return;
  }
  for (; lanes; lanes &= lanes - 1) f(__builtin_ctz(lanes));
}

// ---- Shuffles

enum Shuffle {
  kFromLane,
  kUpwards,
  kDownwards,
  kXor
};
template <class T> struct Shuffled {
  T value;
  int lane, width; // lane: an index, a distance or a mask
};
// The lane that `lane` reads from; itself where that would lie outside of its segment.
template <Shuffle kHow> KSIM_INLINE int source(int lane, int argument, int width) {
  const int segment = lane & ~(width - 1);
  if (kHow == kFromLane) return segment | (argument & (width - 1));
  const int from = kHow == kUpwards ? lane - argument : kHow == kDownwards ? lane + argument : lane ^ argument;
  const bool inside = kHow == kUpwards     ? from >= segment && argument >= 0
                      : kHow == kDownwards ? from < segment + width && argument >= 0
                                           : (from & ~(width - 1)) <= segment; // earlier segments may be read
  return inside ? from : lane;
}
template <Shuffle kHow, class T> void shuffle(Lanes &lanes) {
  each_lane(lanes.active, [&](int lane) {
    const auto &mine = lanes.arg<Shuffled<T>>(lane);
    const int from = source<kHow>(lane, mine.lane, mine.width);
    lanes.result<T>(lane) = lanes.has(from) ? lanes.arg<Shuffled<T>>(from).value : poison<T>();
  });
}
template <class T> struct Promoted { // small integers travel as int
  using type = T;
};
template <class T>
  requires(Integer<T> && sizeof(T) < 4)
struct Promoted<T> {
  using type = int;
};
template <Shuffle kHow, class T>
KSIM_INLINE auto shuffled(const char *name, unsigned int mask, T value, int lane, int width, Where where) {
  using V = typename Promoted<T>::type;
  if (width < 1 || width > kLanes || (width & (width - 1)))
    fail(kUndefined, where, "%s: width is a power of two up to 32, not %d", name, width);
  const Shuffled<V> in{value, lane, width};
  V out;
  together(shuffle<kHow, V>, &in, &out, masked(name, mask, where));
  return out;
}

// ---- Votes, matches, reductions

inline void meet(Lanes &) {}
inline void active_lanes(Lanes &lanes) {
  each_lane(lanes.active, [&](int lane) { lanes.result<unsigned int>(lane) = lanes.active; });
}
inline void ballot(Lanes &lanes) {
  unsigned int set = 0;
  each_lane(lanes.active, [&](int lane) { set |= (lanes.arg<int>(lane) ? 1u : 0) << lane; });
  each_lane(lanes.active, [&](int lane) { lanes.result<unsigned int>(lane) = set; });
}
template <class T> void match(Lanes &lanes) {
  unsigned int set[kLanes] = {};
  each_lane(lanes.active, [&](int lane) {
    each_lane(lanes.active, [&](int other) {
      const bool alike = !__builtin_memcmp(lanes.in[lane], lanes.in[other], sizeof(T));
      set[lane] |= (alike ? 1u : 0) << other;
    });
  });
  each_lane(lanes.active, [&](int lane) { lanes.result<unsigned int>(lane) = set[lane]; });
}
struct Add {
  template <class T> static KSIM_INLINE T of(T a, T b) { return a + b; }
};
struct Min {
  template <class T> static KSIM_INLINE T of(T a, T b) { return b < a ? b : a; }
};
struct Max {
  template <class T> static KSIM_INLINE T of(T a, T b) { return a < b ? b : a; }
};
struct And {
  template <class T> static KSIM_INLINE T of(T a, T b) { return a & b; }
};
struct Or {
  template <class T> static KSIM_INLINE T of(T a, T b) { return a | b; }
};
struct Xor {
  template <class T> static KSIM_INLINE T of(T a, T b) { return a ^ b; }
};
template <class Op, class T> void reduce(Lanes &lanes) {
  const int first = __builtin_ctz(lanes.active);
  T all = lanes.arg<T>(first);
  each_lane(lanes.active & (lanes.active - 1), [&](int lane) { all = Op::of(all, lanes.arg<T>(lane)); });
  each_lane(lanes.active, [&](int lane) { lanes.result<T>(lane) = all; });
}
template <class Op, class T> KSIM_INLINE T reduced(const char *name, unsigned int mask, T value, Where where) {
  T out;
  together(reduce<Op, T>, &value, &out, masked(name, mask, where));
  return out;
}
KSIM_INLINE unsigned int voted(const char *name, unsigned int mask, int predicate, Where where) {
  unsigned int out;
  together(ballot, &predicate, &out, masked(name, mask, where));
  return out;
}

// ---- Votes of a block, whose threads run one after another on one thread of the operating system

struct BlockVote {
  int come = 0, yes = 0;
};
inline thread_local BlockVote block_vote;
KSIM_INLINE int count_in_block(const char *name, bool predicate, Where where) {
  if (block_vote.come++ == 0) block_vote.yes = 0;
  block_vote.yes += predicate;
  barrier({name, where});
  const int yes = block_vote.yes;
  block_vote.come = 0;
  barrier({name, where}); // nobody begins the next vote before everyone has read this one
  return yes;
}

} // namespace ksim::cuda

#define KSIM_WHERE ksim::Where where = ksim::here()

template <class T> KSIM_INLINE auto __shfl_sync(unsigned int mask, T v, int lane, int width = 32, KSIM_WHERE) {
  return ksim::cuda::shuffled<ksim::cuda::kFromLane>("__shfl_sync", mask, v, lane, width, where);
}
template <class T>
KSIM_INLINE auto __shfl_up_sync(unsigned int mask, T v, unsigned int delta, int width = 32, KSIM_WHERE) {
  return ksim::cuda::shuffled<ksim::cuda::kUpwards>("__shfl_up_sync", mask, v, int(delta), width, where);
}
template <class T>
KSIM_INLINE auto __shfl_down_sync(unsigned int mask, T v, unsigned int delta, int width = 32, KSIM_WHERE) {
  return ksim::cuda::shuffled<ksim::cuda::kDownwards>("__shfl_down_sync", mask, v, int(delta), width, where);
}
template <class T>
KSIM_INLINE auto __shfl_xor_sync(unsigned int mask, T v, int lane_mask, int width = 32, KSIM_WHERE) {
  return ksim::cuda::shuffled<ksim::cuda::kXor>("__shfl_xor_sync", mask, v, lane_mask, width, where);
}

KSIM_INLINE unsigned int __ballot_sync(unsigned int mask, int predicate, KSIM_WHERE) {
  return ksim::cuda::voted("__ballot_sync", mask, predicate, where);
}
KSIM_INLINE int __any_sync(unsigned int mask, int predicate, KSIM_WHERE) {
  return ksim::cuda::voted("__any_sync", mask, predicate, where) != 0;
}
KSIM_INLINE int __all_sync(unsigned int mask, int predicate, KSIM_WHERE) {
  return ksim::cuda::voted("__all_sync", mask, !predicate, where) == 0;
}
KSIM_INLINE int __uni_sync(unsigned int mask, int predicate, KSIM_WHERE) {
  const unsigned int set = ksim::cuda::voted("__uni_sync", mask, predicate, where);
  return set == 0 || (set & (1u << ksim::self().lane) && predicate);
}
template <class T> KSIM_INLINE unsigned int __match_any_sync(unsigned int mask, T value, KSIM_WHERE) {
  unsigned int out;
  ksim::together(ksim::cuda::match<T>, &value, &out, ksim::cuda::masked("__match_any_sync", mask, where));
  return out;
}
// The mask where all have the same value, else 0.
template <class T>
KSIM_INLINE unsigned int __match_all_sync(unsigned int mask, T value, int *predicate, KSIM_WHERE) {
  unsigned int here;
  const unsigned int alike = __match_any_sync(mask, value, where);
  ksim::together(ksim::cuda::active_lanes, &value, &here, ksim::cuda::masked("__match_all_sync", mask, where));
  *predicate = alike == here;
  return *predicate ? alike : 0;
}

#define KSIM_REDUCE(name, T, Op)                                           \
  KSIM_INLINE T name(unsigned int mask, T value, KSIM_WHERE) {             \
    return ksim::cuda::reduced<ksim::cuda::Op>(#name, mask, value, where); \
  }
KSIM_REDUCE(__reduce_add_sync, unsigned int, Add)
KSIM_REDUCE(__reduce_add_sync, int, Add)
KSIM_REDUCE(__reduce_min_sync, unsigned int, Min)
KSIM_REDUCE(__reduce_min_sync, int, Min)
KSIM_REDUCE(__reduce_max_sync, unsigned int, Max)
KSIM_REDUCE(__reduce_max_sync, int, Max)
KSIM_REDUCE(__reduce_and_sync, unsigned int, And)
KSIM_REDUCE(__reduce_or_sync, unsigned int, Or)
KSIM_REDUCE(__reduce_xor_sync, unsigned int, Xor)
#undef KSIM_REDUCE

KSIM_INLINE void __syncwarp(unsigned int mask = 0xffffffff, KSIM_WHERE) {
  ksim::together(ksim::cuda::meet, nullptr, nullptr, ksim::cuda::masked("__syncwarp", mask, where));
}
// The lanes that are here together: what hardware gives, on which correct code does not rely.
KSIM_INLINE unsigned int __activemask(KSIM_WHERE) {
  unsigned int out;
  ksim::together(ksim::cuda::active_lanes, nullptr, &out, {"__activemask", where, ksim::kConverged});
  return out;
}

KSIM_INLINE void __syncthreads(KSIM_WHERE) { ksim::barrier({"__syncthreads", where}); }
KSIM_INLINE int __syncthreads_count(int predicate, KSIM_WHERE) {
  return ksim::cuda::count_in_block("__syncthreads_count", predicate != 0, where);
}
KSIM_INLINE int __syncthreads_or(int predicate, KSIM_WHERE) {
  return ksim::cuda::count_in_block("__syncthreads_or", predicate != 0, where) != 0;
}
KSIM_INLINE int __syncthreads_and(int predicate, KSIM_WHERE) {
  return ksim::cuda::count_in_block("__syncthreads_and", predicate == 0, where) == 0;
}

// A trap ends the launch with cudaErrorLaunchFailure; CUDA knows no more of it, here the line is named.
[[noreturn]] KSIM_INLINE void __trap(KSIM_WHERE) { ksim::fail(ksim::kTrap, where, "__trap()"); }
KSIM_INLINE void __brkpt(KSIM_WHERE) { ksim::fail(ksim::kTrap, where, "__brkpt()"); }
