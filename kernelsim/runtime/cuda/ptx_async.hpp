// SPDX-License-Identifier: MIT
// PTX ISA, "Data Movement and Conversion Instructions: Asynchronous Copy": cp.async, cp.async.bulk to global
// memory, and their groups.
//
// A copy lands no sooner than its thread waits for its group: what was not waited for is poison, or what was
// there before. cp.async reads when it is issued, a bulk store when it lands, so that shared memory which is
// written again too early shows. Every thread has a queue of its own, without a limit. On a GPU a copy may read
// and land at any time in between.
#pragma once
#include "ptx_memory.hpp"

namespace ksim::ptx {

struct Copy {
  unsigned char bytes[16];
  const unsigned char *from; // to be read when the copy lands, or null: `bytes` were read
  unsigned char *to;
  uint32_t size, group; // groups count commits
};
// The copies of one thread that have not landed, oldest first.
struct Queue {
  Copy *copies = nullptr;
  uint32_t first = 0, end = 0, capacity = 0, group = 0;

  ~Queue() { __builtin_free(copies); }
  KSIM_UNSEEN void push(const Copy &copy) {
    if (end == capacity && first > 0) {
      __builtin_memmove(copies, copies + first, sizeof(Copy) * (end - first));
      end -= first;
      first = 0;
    } else if (end == capacity) {
      capacity = capacity ? 2 * capacity : 16;
      copies = static_cast<Copy *>(__builtin_realloc(copies, sizeof(Copy) * capacity));
    }
    copies[end++] = copy;
  }
  // A copy that the thread issues.
  KSIM_UNSEEN void issue(Copy &copy) {
    copy.group = group;
    push(copy);
    while (worker->launch->schedule == kReverse && first < end) land_oldest();
  }
  KSIM_UNSEEN void commit() { group++; }
  KSIM_UNSEEN void land_oldest() {
    const Copy &c = copies[first++];
    if (c.from)
      __builtin_memcpy(c.to, c.from, c.size);
    else if (c.size == 16)
      __builtin_memcpy(c.to, c.bytes, 16);
    else if (c.size == 8)
      __builtin_memcpy(c.to, c.bytes, 8);
    else
      __builtin_memcpy(c.to, c.bytes, 4);
    if (first == end) first = end = 0;
  }
  // Waits until at most `pending` of the latest groups have not landed.
  KSIM_UNSEEN void wait(uint32_t pending) {
    while (first < end && copies[first].group + pending < group) land_oldest();
  }
};
// Shared memory is all ones when a block begins, which tells its threads that what they find is another
// block's.
struct Fresh {
  uint8_t is[2 * kMaxThreads + 1];
};
KSIM_UNSEEN inline bool was_fresh(uint32_t i) {
  // Not through shared<>(): the kernel does not use this memory.
  uint8_t &fresh = reinterpret_cast<Fresh *>(worker->shared + shared_variable<Fresh>.offset)->is[i];
  const bool was = fresh;
  fresh = 0;
  return was;
}
enum QueueKind {
  kCopies,
  kBulkStores
};
template <QueueKind kKind> KSIM_UNSEEN inline Queue &queue() {
  static thread_local Queue queues[kMaxThreads];
  Queue &mine = queues[self().index];
  if (was_fresh(kMaxThreads * kKind + self().index)) mine.first = mine.end = mine.group = 0;
  return mine;
}

// Reads `bytes` of at most 16, the rest are zeros.
KSIM_INLINE void fetch(unsigned char *to, const unsigned char *from, uint32_t bytes) {
  if (bytes == 16) return copy(to, from, 16);
  __builtin_memset(to, 0, 16);
  if (bytes == 8) return copy(to, from, 8);
  if (bytes == 4) return copy(to, from, 4);
  for (uint32_t i = 0; i < bytes; i++) copy(to + i, from + i, 1);
}
// An address outside of shared memory faults in this line, not where the copy lands.
KSIM_INLINE void touch(const unsigned char *p) {
#ifndef KSIM_AUDIT
  (void)*static_cast<const volatile unsigned char *>(p);
#endif
}

// `rest` is the number of bytes to read, less than size, or a predicate that says to read none.
template <Name kCached, class Size, class Rest = Imm>
KSIM_INLINE void cp_async(unsigned char *to, const unsigned char *from, Size size, Rest rest = Rest{-1},
                          Where where = here()) {
  const uint32_t bytes = as<uint32_t>(size);
  if (bytes != 16 && (kCached == kCg || (bytes != 4 && bytes != 8)))
    fail(kUndefined, where, "cp.async: cannot copy %u bytes", bytes);
  check_alignment(to, bytes, "cp.async", where);
  check_alignment(from, bytes, "cp.async", where);
  uint32_t read = bytes;
  if constexpr (is_bool<Rest>)
    read = rest ? 0 : bytes;
  else if (as<uint32_t>(rest) != ~0u)
    read = as<uint32_t>(rest);
  if (read > bytes) fail(kUndefined, where, "cp.async: src-size %u is more than cp-size %u", read, bytes);
  Copy copy;
  fetch(copy.bytes, from, read);
  copy.from = nullptr;
  copy.to = to;
  copy.size = bytes;
  touch(to);
  audit_write(to, bytes);
  queue<kCopies>().issue(copy);
}
KSIM_INLINE void cp_async_commit_group() { queue<kCopies>().commit(); }
template <class N> KSIM_INLINE void cp_async_wait_group(N n) { queue<kCopies>().wait(as<uint32_t>(n)); }
// For all copies, also those of no group yet.
KSIM_INLINE void cp_async_wait_all() {
  Queue &mine = queue<kCopies>();
  mine.commit();
  mine.wait(0);
}

// ---- cp.async.bulk from shared to global memory

template <class Size>
KSIM_INLINE void cp_async_bulk_store(unsigned char *to, const unsigned char *from, Size size,
                                     Where where = here()) {
  const uint32_t bytes = as<uint32_t>(size);
  if (bytes % 16) fail(kUndefined, where, "cp.async.bulk: %u bytes, not a multiple of 16", bytes);
  check_alignment(to, 16, "cp.async.bulk", where);
  check_alignment(from, 16, "cp.async.bulk", where);
  for (uint32_t i = 0; i < bytes; i += 16) {
    touch(from + i);
    touch(to + i);
    audit_read(from + i, 16);
    audit_write(to + i, 16);
  }
  Queue &mine = queue<kBulkStores>();
  mine.push({{}, from, to, bytes, mine.group});
}
KSIM_INLINE void cp_async_bulk_commit_group() { queue<kBulkStores>().commit(); }
// .read, which waits only until the sources have been read, waits for all here.
template <class N> KSIM_INLINE void cp_async_bulk_wait_group(N n) {
  queue<kBulkStores>().wait(as<uint32_t>(n));
}

} // namespace ksim::ptx
