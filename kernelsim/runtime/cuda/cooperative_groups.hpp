// SPDX-License-Identifier: MIT
// cooperative_groups.h (CUDA C++ Programming Guide, "Cooperative Groups"): the grid, the block, tiles of up to
// 32 threads, coalesced threads; reduce, scans and asynchronous copies.
//
// A tile's operations are those of a warp with the tile's mask. A grid waits for itself when every block has a
// thread of the operating system: after cudaLaunchCooperativeKernel, or when Python launches with that many
// workers.
#pragma once
#include "launch.hpp"
#include "pipeline.hpp"
#include "warp.hpp"

namespace ksim::cuda {

constexpr unsigned int tile_mask(int size, int first) {
  return size == kLanes ? kFullMask : ((1u << size) - 1) << first;
}
// What reduce() gives every lane: a tree over all lanes of a tile, as shuffles would build it, else one after
// another.
template <class Op, class T> struct Reduction {
  T value;
  Op op;
};
template <class Op, class T> void reduce_with(Lanes &lanes) {
  using In = Reduction<Op, T>;
  const int first = __builtin_ctz(lanes.active), count = __builtin_popcount(lanes.active);
  const unsigned int all = tile_mask(count, first);
  if (!(count & (count - 1)) && lanes.active == all) {
    T values[kLanes];
    for (int i = 0; i < count; i++) values[i] = lanes.arg<In>(first + i).value;
    const Op op = lanes.arg<In>(first).op;
    for (int step = count / 2; step; step /= 2)
      for (int i = 0; i < step; i++) values[i] = op(values[i], values[i + step]);
    each_lane(lanes.active, [&](int lane) { lanes.result<T>(lane) = values[0]; });
    return;
  }
  T sum = lanes.arg<In>(first).value;
  each_lane(lanes.active & (lanes.active - 1),
            [&](int lane) { sum = lanes.arg<In>(first).op(sum, lanes.arg<In>(lane).value); });
  each_lane(lanes.active, [&](int lane) { lanes.result<T>(lane) = sum; });
}
template <bool kInclusive, class Op, class T> void scan_with(Lanes &lanes) {
  using In = Reduction<Op, T>;
  T sum{};
  bool is_first = true;
  each_lane(lanes.active, [&](int lane) {
    const In &in = lanes.arg<In>(lane);
    const T before = sum;
    sum = is_first ? in.value : in.op(sum, in.value);
    lanes.result<T>(lane) = kInclusive ? sum : before;
    is_first = false;
  });
}

} // namespace ksim::cuda

namespace cooperative_groups {
namespace __v1 { // as NVIDIA's: libcu++ declares some of this beforehand

// ---- Grid and block

struct thread_block {
  static void sync(KSIM_WHERE) { ksim::barrier({"thread_block::sync", where}); }
  static unsigned int thread_rank() { return ksim::self().index; }
  static unsigned int size() { return (unsigned int)ksim::worker->threads; }
  static unsigned int num_threads() { return size(); }
  static dim3 group_index() { return uint3(blockIdx); }
  static dim3 thread_index() { return uint3(threadIdx); }
  static dim3 group_dim() { return blockDim; }
  static dim3 dim_threads() { return blockDim; }
};
inline thread_block this_thread_block() { return {}; }

struct grid_group {
  static bool is_valid() { return ksim::worker->launch->workers >= (int)num_blocks(); }
  static void sync(KSIM_WHERE) {
    if (!is_valid())
      ksim::fail(ksim::kUndefined, where, "grid.sync() of a grid that was not launched cooperatively");
    ksim::barrier({"grid_group::sync", where});
    if (thread_block::thread_rank() == 0) wait();
    ksim::barrier({"grid_group::sync", where});
  }
  static dim3 dim_blocks() { return gridDim; }
  static dim3 group_dim() { return gridDim; }
  static dim3 block_index() { return uint3(blockIdx); }
  static unsigned long long num_blocks() { return 1ull * gridDim.x * gridDim.y * gridDim.z; }
  static unsigned long long block_rank() {
    return (1ull * blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  }
  static unsigned long long num_threads() { return num_blocks() * thread_block::size(); }
  static unsigned long long size() { return num_threads(); }
  static unsigned long long thread_rank() {
    return block_rank() * thread_block::size() + thread_block::thread_rank();
  }

private:
  static void wait() {
    ksim::SharedVariables &b = *ksim::worker->launch->shared;
    const unsigned int generation = __atomic_load_n(&b.generation, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&b.arrived, 1, __ATOMIC_ACQ_REL) == num_blocks()) {
      __atomic_store_n(&b.arrived, 0, __ATOMIC_RELAXED);
      __atomic_add_fetch(&b.generation, 1, __ATOMIC_RELEASE);
    }
    while (__atomic_load_n(&b.generation, __ATOMIC_ACQUIRE) == generation) ksim::give_way();
  }
};
inline grid_group this_grid() { return {}; }

// ---- Groups within a warp

struct warp_group {
  unsigned int mask; // of the warp's lanes

  unsigned int size() const { return (unsigned int)__builtin_popcount(mask); }
  unsigned int num_threads() const { return size(); }
  unsigned int thread_rank() const {
    return (unsigned int)__builtin_popcount(mask & ((1u << ksim::self().lane) - 1));
  }
  void sync(KSIM_WHERE) const { __syncwarp(mask, where); }
  int any(int predicate, KSIM_WHERE) const { return __any_sync(mask, predicate, where); }
  int all(int predicate, KSIM_WHERE) const { return __all_sync(mask, predicate, where); }
  unsigned int ballot(int predicate, KSIM_WHERE) const { return packed(__ballot_sync(mask, predicate, where)); }
  template <class T> unsigned int match_any(T value, KSIM_WHERE) const {
    return packed(__match_any_sync(mask, value, where));
  }
  template <class T> unsigned int match_all(T value, int &predicate, KSIM_WHERE) const {
    return packed(__match_all_sync(mask, value, &predicate, where));
  }
  template <class T> T shfl(T value, int rank, KSIM_WHERE) const {
    return moved(value, lane_of(rank % int(size())), where);
  }
  template <class T> T shfl_up(T value, unsigned int delta, KSIM_WHERE) const {
    const int rank = int(thread_rank()) - int(delta);
    return moved(value, rank < 0 ? ksim::self().lane : lane_of(rank), where);
  }
  template <class T> T shfl_down(T value, unsigned int delta, KSIM_WHERE) const {
    const unsigned int rank = thread_rank() + delta;
    return moved(value, rank >= size() ? ksim::self().lane : lane_of(int(rank)), where);
  }

protected:
  // Bits of lanes as bits of ranks.
  unsigned int packed(unsigned int lanes) const {
    unsigned int ranks = 0, rank = 0;
    for (unsigned int rest = mask; rest; rest &= rest - 1, rank++)
      ranks |= (lanes >> __builtin_ctz(rest) & 1) << rank;
    return ranks;
  }
  int lane_of(int rank) const {
    unsigned int rest = mask;
    while (rank-- > 0) rest &= rest - 1;
    return __builtin_ctz(rest);
  }
  template <class T> T moved(T value, int lane, ksim::Where where) const {
    return T(ksim::cuda::shuffled<ksim::cuda::kFromLane>("shfl", mask, value, lane, ksim::kLanes, where));
  }
};

struct coalesced_group : warp_group {
  unsigned int meta_group_rank() const { return 0; }
  unsigned int meta_group_size() const { return 1; }
};
KSIM_INLINE coalesced_group coalesced_threads(KSIM_WHERE) { return {{__activemask(where)}}; }

template <unsigned int kSize, class Parent = void> struct thread_block_tile;
template <unsigned int kSize> struct thread_block_tile<kSize, void> : warp_group {
  static_assert(kSize && kSize <= 32 && !(kSize & (kSize - 1)),
                "kernelsim has tiles of 1, 2, 4, 8, 16 and 32 threads");
  unsigned int meta_rank, meta_size;
  static constexpr unsigned int size() { return kSize; }
  static constexpr unsigned int num_threads() { return kSize; }
  unsigned int thread_rank() const { return ksim::self().lane % kSize; }
  unsigned int meta_group_rank() const { return meta_rank; }
  unsigned int meta_group_size() const { return meta_size; }
  template <class T> T shfl(T value, int rank, KSIM_WHERE) const {
    return T(ksim::cuda::shuffled<ksim::cuda::kFromLane>("shfl", mask, value, rank, int(kSize), where));
  }
  template <class T> T shfl_up(T value, unsigned int delta, KSIM_WHERE) const {
    return T(ksim::cuda::shuffled<ksim::cuda::kUpwards>("shfl_up", mask, value, int(delta), int(kSize), where));
  }
  template <class T> T shfl_down(T value, unsigned int delta, KSIM_WHERE) const {
    return T(
        ksim::cuda::shuffled<ksim::cuda::kDownwards>("shfl_down", mask, value, int(delta), int(kSize), where));
  }
  template <class T> T shfl_xor(T value, unsigned int lanes, KSIM_WHERE) const {
    return T(ksim::cuda::shuffled<ksim::cuda::kXor>("shfl_xor", mask, value, int(lanes), int(kSize), where));
  }
};
template <unsigned int kSize, class Parent> struct thread_block_tile : thread_block_tile<kSize> {};
template <unsigned int kSize, class Parent>
thread_block_tile<kSize, Parent> tile_of(unsigned int rank, unsigned int size) {
  thread_block_tile<kSize, Parent> tile;
  tile.mask = ksim::cuda::tile_mask(kSize, ksim::self().lane / kSize * kSize);
  tile.meta_rank = rank / kSize;
  tile.meta_size = (size + kSize - 1) / kSize;
  return tile;
}
template <unsigned int kSize> auto tiled_partition(const thread_block &) {
  return tile_of<kSize, thread_block>(thread_block::thread_rank(), thread_block::size());
}
template <unsigned int kSize, unsigned int kOuter, class P>
auto tiled_partition(const thread_block_tile<kOuter, P> &outer) {
  static_assert(kSize <= kOuter, "a tile of a tile is not larger");
  return tile_of<kSize, thread_block_tile<kOuter, P>>(outer.thread_rank(), kOuter);
}
template <class Group> coalesced_group labeled_partition(const Group &group, int label, KSIM_WHERE) {
  return {{__match_any_sync(group.mask, label, where)}};
}
template <class Group> coalesced_group binary_partition(const Group &group, bool label, KSIM_WHERE) {
  return labeled_partition(group, label, where);
}

template <class Group> KSIM_INLINE void sync(const Group &group, KSIM_WHERE) { group.sync(where); }
template <class Group> unsigned int thread_rank(const Group &group) { return group.thread_rank(); }
template <class Group> unsigned int group_size(const Group &group) { return group.size(); }

// A group whose kind is known when the program runs: the block, or lanes of a warp.
struct thread_group {
  thread_group(const thread_block &) : lanes{0}, is_block(true) {}
  thread_group(const warp_group &group) : lanes(group), is_block(false) {}
  unsigned int size() const { return is_block ? thread_block::size() : lanes.size(); }
  unsigned int num_threads() const { return size(); }
  unsigned int thread_rank() const { return is_block ? thread_block::thread_rank() : lanes.thread_rank(); }
  void sync(KSIM_WHERE) const { is_block ? thread_block::sync(where) : lanes.sync(where); }

private:
  warp_group lanes;
  bool is_block;
};
inline thread_group tiled_partition(const thread_group &group, unsigned int size) {
  const unsigned int rank = group.thread_rank() % ksim::kLanes;
  return warp_group{ksim::cuda::tile_mask(int(size), int((ksim::self().lane - rank % size)))};
}

// ---- Reductions and scans

template <class T = void> struct plus {
  T operator()(T a, T b) const { return a + b; }
};
template <class T = void> struct less { // the less of two
  T operator()(T a, T b) const { return b < a ? b : a; }
};
template <class T = void> struct greater {
  T operator()(T a, T b) const { return a < b ? b : a; }
};
template <class T = void> struct bit_and {
  T operator()(T a, T b) const { return a & b; }
};
template <class T = void> struct bit_or {
  T operator()(T a, T b) const { return a | b; }
};
template <class T = void> struct bit_xor {
  T operator()(T a, T b) const { return a ^ b; }
};

template <class Group, class T, class Op> KSIM_INLINE T reduce(const Group &group, T value, Op op, KSIM_WHERE) {
  const ksim::cuda::Reduction<Op, T> in{value, op};
  T out;
  ksim::together(ksim::cuda::reduce_with<Op, T>, &in, &out, ksim::cuda::masked("reduce", group.mask, where));
  return out;
}
template <class Group, class T, class Op = plus<T>>
KSIM_INLINE T inclusive_scan(const Group &group, T value, Op op = {}, KSIM_WHERE) {
  const ksim::cuda::Reduction<Op, T> in{value, op};
  T out;
  ksim::together(ksim::cuda::scan_with<true, Op, T>, &in, &out,
                 ksim::cuda::masked("inclusive_scan", group.mask, where));
  return out;
}
template <class Group, class T, class Op = plus<T>>
KSIM_INLINE T exclusive_scan(const Group &group, T value, Op op = {}, KSIM_WHERE) {
  const ksim::cuda::Reduction<Op, T> in{value, op};
  T out;
  ksim::together(ksim::cuda::scan_with<false, Op, T>, &in, &out,
                 ksim::cuda::masked("exclusive_scan", group.mask, where));
  return out;
}

// ---- Asynchronous copies, shared among the threads of a group

template <class Group>
KSIM_INLINE void memcpy_async(const Group &group, void *to, const void *from, size_t bytes, KSIM_WHERE) {
  const size_t both = reinterpret_cast<size_t>(to) | reinterpret_cast<size_t>(from) | bytes;
  const size_t unit = both % 16 == 0 ? 16 : both % 8 == 0 ? 8 : both % 4 == 0 ? 4 : 1;
  for (size_t at = unit * group.thread_rank(); at < bytes; at += unit * group.size()) {
    char *target = static_cast<char *>(to) + at;
    const char *source = static_cast<const char *>(from) + at;
    if (unit == 1)
      *target = *source;
    else
      __pipeline_memcpy_async(target, source, unit, 0, where);
  }
  __pipeline_commit();
}
template <class Group, class T>
KSIM_INLINE void memcpy_async(const Group &group, T *to, const T *from, size_t bytes, KSIM_WHERE) {
  memcpy_async(group, static_cast<void *>(to), static_cast<const void *>(from), bytes, where);
}
template <int kPending, class Group> KSIM_INLINE void wait_prior(const Group &group, KSIM_WHERE) {
  __pipeline_wait_prior(kPending);
  group.sync(where);
}
template <class Group> KSIM_INLINE void wait(const Group &group, KSIM_WHERE) { wait_prior<0>(group, where); }

} // namespace __v1
using namespace __v1;
} // namespace cooperative_groups
