// SPDX-License-Identifier: MIT
// PTX ISA, "Parallel Synchronization and Communication Instructions: mbarrier", and the copies that complete on
// one: cp.async.mbarrier.arrive, cp.async.bulk of contiguous bytes from global to shared memory.
//
// Such a copy reads when it is issued and lands when somebody waits for its barrier. test_wait and try_wait
// suspend a thread whose phase is not complete until something happens to a barrier of the block, and may then
// still say no; where nothing can happen any more, that is divergence.
#pragma once
#include "ptx_async.hpp"

namespace ksim::ptx {

struct Mbarrier { // 64 bits in shared memory, opaque to programs
  uint64_t pending : 20, expected : 20;
  int64_t bytes : 22; // that transactions have announced and not yet brought
  uint64_t phase : 1, is_poison : 1;
};
static_assert(sizeof(Mbarrier) == 8);

// Of the 16 barriers this one is kept for threads that wait for mbarriers: any event releases all of them.
constexpr int kEvents = kBarriers - 1;
KSIM_INLINE void announce(Where where) { arrive({"mbarrier", where}, kEvents, 1); }

KSIM_UNSEEN inline Mbarrier load(const unsigned char *p, Where where) {
  check_alignment(p, 8, "mbarrier", where);
  Mbarrier b;
  __builtin_memcpy(&b, p, 8);
  if (b.is_poison) fail(kUndefined, where, "mbarrier: it has not been initialised");
  return b;
}
KSIM_UNSEEN inline void store(unsigned char *p, Mbarrier b) { __builtin_memcpy(p, &b, 8); }
// What has happened to it may complete its phase.
KSIM_INLINE void settle(unsigned char *p, Mbarrier b, Where where) {
  if (b.pending || b.bytes) return store(p, b);
  b.phase = !b.phase;
  b.pending = b.expected;
  store(p, b);
  announce(where);
}

template <class N> KSIM_INLINE void mbarrier_init(unsigned char *p, N n, Where where = here()) {
  const uint32_t count = as<uint32_t>(n);
  check_alignment(p, 8, "mbarrier.init", where);
  if (!count || count >> 20)
    fail(kUndefined, where, "mbarrier.init: the count must be 1 to 2^20 - 1, not %u", count);
  store(p, {count, count, 0, 0, 0});
}
KSIM_INLINE void mbarrier_inval(unsigned char *p, Where where = here()) {
  load(p, where);
  store(p, cuda::poison<Mbarrier>());
}
KSIM_INLINE void arrive_at(unsigned char *p, uint32_t count, Where where) {
  Mbarrier b = load(p, where);
  if (count > b.pending) fail(kUndefined, where, "mbarrier: more arrivals than its phase expects");
  b.pending -= count;
  settle(p, b, where);
}
KSIM_INLINE void mbarrier_expect_tx(unsigned char *p, uint32_t bytes, Where where = here()) {
  Mbarrier b = load(p, where);
  b.bytes += bytes;
  store(p, b);
}
KSIM_INLINE void mbarrier_complete_tx(unsigned char *p, uint32_t bytes, Where where = here()) {
  Mbarrier b = load(p, where);
  b.bytes -= bytes;
  settle(p, b, where);
}
// The result is the barrier's state before; all that wait wants of it is the phase.
template <class R, class N = Imm>
KSIM_INLINE void mbarrier_arrive(R &d, unsigned char *p, N n = N{1}, Where where = here()) {
  d = R(load(p, where).phase);
  arrive_at(p, as<uint32_t>(n), where);
}
template <class R, class N>
KSIM_INLINE void mbarrier_arrive_expect_tx(R &d, unsigned char *p, N bytes, Where where = here()) {
  d = R(load(p, where).phase);
  mbarrier_expect_tx(p, as<uint32_t>(bytes), where);
  arrive_at(p, 1, where);
}

// ---- Copies on their way to a barrier

struct Arrival {
  Arrival *next;
  unsigned char *barrier;
  Queue *copies; // cp.async.mbarrier.arrive: that one thread has issued, `count` of them not landed
  uint32_t count;
  unsigned char *to; // cp.async.bulk
  uint32_t size;
  unsigned char bytes[]; // read from global memory
};
inline Arrival *&arrivals() {
  static thread_local Arrival *first = nullptr;
  if (was_fresh(2 * kMaxThreads))
    first = nullptr; // a block that left some behind has lost track of its barriers
  return first;
}
KSIM_UNSEEN inline Arrival *expect(unsigned char *barrier, uint32_t size) {
  auto *a = static_cast<Arrival *>(__builtin_malloc(sizeof(Arrival) + size));
  *a = {arrivals(), barrier, nullptr, 0, nullptr, size};
  return arrivals() = a;
}
KSIM_UNSEEN inline void deliver(Arrival &a, Where where) {
  if (a.copies) {
    const uint32_t left = a.copies->end - a.copies->first;
    for (uint32_t i = left < a.count ? left : a.count; i; i--) a.copies->land_oldest();
    arrive_at(a.barrier, 1, where);
  } else {
    __builtin_memcpy(a.to, a.bytes, a.size);
    mbarrier_complete_tx(a.barrier, a.size, where);
  }
}
// All that is on its way to the barrier comes there.
KSIM_UNSEEN inline void deliver_all(const unsigned char *barrier, Where where) {
  for (Arrival **link = &arrivals(); *link;) {
    Arrival *a = *link;
    if (a->barrier != barrier) {
      link = &a->next;
      continue;
    }
    *link = a->next;
    deliver(*a, where);
    __builtin_free(a);
  }
}

// Without .noinc the arrival is one more than the barrier was told to expect.
template <bool kNoInc> KSIM_INLINE void cp_async_mbarrier_arrive(unsigned char *p, Where where = here()) {
  Mbarrier b = load(p, where);
  if (!kNoInc) b.pending++;
  store(p, b);
  Queue &mine = queue<kCopies>();
  Arrival *a = expect(p, 0);
  a->copies = &mine;
  a->count = mine.end - mine.first;
  announce(where);
}
template <class Size>
KSIM_INLINE void cp_async_bulk_load(unsigned char *to, const unsigned char *from, Size size,
                                    unsigned char *barrier, Where where = here()) {
  const uint32_t bytes = as<uint32_t>(size);
  if (bytes % 16) fail(kUndefined, where, "cp.async.bulk: %u bytes, not a multiple of 16", bytes);
  check_alignment(to, 16, "cp.async.bulk", where);
  check_alignment(from, 16, "cp.async.bulk", where);
  load(barrier, where);
  Arrival *a = expect(barrier, bytes);
  a->to = to;
  for (uint32_t i = 0; i < bytes; i += 16) {
    copy(a->bytes + i, from + i, 16);
    touch(to + i);
    audit_write(to + i, 16);
  }
  announce(where);
}

// ---- Waiting

template <bool kParity, class State>
KSIM_INLINE void mbarrier_wait(bool &done, unsigned char *p, State state, Where where = here()) {
  // Of the phase that has this parity or state: complete when the barrier is in the next one.
  const auto complete = [&] {
    deliver_all(p, where);
    return load(p, where).phase != (as<uint64_t>(state) & 1);
  };
  done = complete();
  if (done) return;
  barrier({kParity ? "mbarrier.try_wait.parity" : "mbarrier.try_wait", where}, kEvents, kMaxThreads + 1);
  done = complete();
}

} // namespace ksim::ptx
