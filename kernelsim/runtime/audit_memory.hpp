// SPDX-License-Identifier: MIT
// For audit.cpp: which buffer an address belongs to, and which bytes of it were touched.
#pragma once
#include "running.hpp"

#include <dlfcn.h>
#include <pthread.h>
#if defined(__APPLE__)
#include <mach-o/loader.h>
#else
#include <link.h>
#endif

#include <algorithm>
#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace ksim {

// Buffers are named by their number among the caller's ranges, or:
enum : int {
  kShared = -1,
  kOther = -2, // memory that nobody named
  kNotAudited = -3
};

// The layout is mirrored in audit.py.
struct Range {
  uint64_t begin, end;
  bool holds(uint64_t address) const { return address - begin < end - begin; }
};

// The library that holds `symbol`, with its data.
inline Range library_of(const void *symbol) {
  Dl_info library = {};
  if (!dladdr(symbol, &library)) return {0, 0};
  const auto base = uint64_t(library.dli_fbase);
  uint64_t size = 0;
#if defined(__APPLE__)
  const auto *header = reinterpret_cast<const mach_header_64 *>(base);
  const auto *command = reinterpret_cast<const load_command *>(header + 1);
  for (uint32_t i = 0; i < header->ncmds; i++) { // a dylib's segments count from 0
    const auto *segment = reinterpret_cast<const segment_command_64 *>(command);
    if (command->cmd == LC_SEGMENT_64) size = std::max(size, segment->vmaddr + segment->vmsize);
    command = reinterpret_cast<const load_command *>(reinterpret_cast<const char *>(command) +
                                                     command->cmdsize);
  }
#else
  const auto *header = reinterpret_cast<const ElfW(Ehdr) *>(base);
  const auto *segment = reinterpret_cast<const ElfW(Phdr) *>(base + header->e_phoff);
  for (int i = 0; i < header->e_phnum; i++)
    if (segment[i].p_type == PT_LOAD) size = std::max<uint64_t>(size, segment[i].p_vaddr + segment[i].p_memsz);
#endif
  return {base, base + size};
}

// The stack of this thread.
inline Range stack() {
#if defined(__APPLE__)
  const auto top = uint64_t(pthread_get_stackaddr_np(pthread_self()));
  return {top - pthread_get_stacksize_np(pthread_self()), top};
#else
  pthread_attr_t attributes;
  void *begin = nullptr;
  size_t bytes = 0;
  if (pthread_getattr_np(pthread_self(), &attributes)) return {0, 0};
  pthread_attr_getstack(&attributes, &begin, &bytes);
  pthread_attr_destroy(&attributes);
  return {uint64_t(begin), uint64_t(begin) + bytes};
#endif
}

class Memory {
public:
  // With `others`, all memory counts that is not of the engine, of the kernels' library, whose data is constant
  // memory on a GPU, or the stack of the thread that calls this and will launch: a launcher's arguments lie
  // there.
  void set(const Range *ranges, int count, bool others, Range library) {
    others_ = others;
    for (int i = 0; i < count; i++) ranges_.push_back({ranges[i], i});
    std::sort(ranges_.begin(), ranges_.end(),
              [](const Named &a, const Named &b) { return a.range.begin < b.range.begin; });
    own_ = {library, library_of(&on_converged), stack()};
  }

  int buffer(const Running &w, uint64_t address) const {
    if (address - uint64_t(w.stacks) < kMaxThreads * kStackBytes) return kNotAudited;
    if (address - uint64_t(w.window) < window_bytes_) return kShared;
    const auto behind = std::upper_bound(ranges_.begin(), ranges_.end(), address,
                                         [](uint64_t a, const Named &n) { return a < n.range.begin; });
    if (behind != ranges_.begin() && behind[-1].range.holds(address)) return behind[-1].number;
    return others_ && !engine(w, address) ? kOther : kNotAudited;
  }

  Range range(int buffer) const {
    for (const Named &n : ranges_)
      if (n.number == buffer) return n.range;
    return {0, 0};
  }

private:
  struct Named {
    Range range;
    int number;
  };
  std::vector<Named> ranges_; // by address
  std::array<Range, 3> own_ = {};
  bool others_ = false;
  const uint64_t window_bytes_ = kStaticBytes + page() + kSlots * (kSlotBytes + page());

  // Whether an address is not a GPU's memory at all, but what runs it here.
  bool engine(const Running &w, uint64_t address) const {
    const auto within = [address](const void *begin, size_t bytes) {
      return address - uint64_t(begin) < bytes;
    };
    return within(&w, sizeof w) || within(&worker, sizeof worker) || within(w.launch, sizeof *w.launch) ||
           within(w.fibres, kMaxThreads * sizeof *w.fibres) ||
           within(w.warps, kMaxThreads / kLanes * sizeof *w.warps) ||
           std::any_of(own_.begin(), own_.end(), [address](const Range &r) { return r.holds(address); });
  }
};

// A bit for every byte that was loaded, and one for every byte that was stored, by kernel and buffer.
class Touched {
  static constexpr uint64_t kPage = 4096, kWord = 64;
  struct Key {
    int kernel, buffer;
    uint64_t page;
    bool operator==(const Key &o) const { return page == o.page && kernel == o.kernel && buffer == o.buffer; }
  };
  struct Hash {
    size_t operator()(const Key &k) const {
      return (k.page ^ uint64_t(k.kernel) << 48 ^ uint64_t(k.buffer + 2) << 40) * 0x9e3779b97f4a7c15u >> 20;
    }
  };
  struct Bits {
    std::atomic<uint64_t> words[2][kPage / kWord] = {}; // loaded, stored
  };

public:
  struct Cache { // of one worker: the pages it marked last
    struct Entry {
      Key key = {-1, 0, 0};
      Bits *bits;
    };
    std::vector<Entry> entries = std::vector<Entry>(256);
  };

  // The layout is mirrored in audit.py.
  struct Count {
    int32_t kernel, buffer; // kernel -1: of all
    uint64_t loaded, stored;
    uint64_t first_unread, first_unwritten; // offsets in a named buffer
  };

  void mark(Cache &cache, int kernel, int buffer, uint64_t begin, uint64_t end, bool write) {
    while (begin < end) {
      const Key key = {kernel, buffer, begin / kPage};
      Cache::Entry &entry = cache.entries[Hash()(key) % cache.entries.size()];
      if (!(entry.key == key)) entry = {key, &bits(key)};
      auto &words = entry.bits->words[write];
      for (const uint64_t stop = std::min(end, (key.page + 1) * kPage); begin < stop;) {
        const uint64_t bit = begin % kWord, count = std::min(stop - begin, kWord - bit);
        const uint64_t set = (count == kWord ? ~uint64_t(0) : (uint64_t(1) << count) - 1) << bit;
        std::atomic<uint64_t> &word = words[begin % kPage / kWord];
        if (set & ~word.load(std::memory_order_relaxed)) word.fetch_or(set, std::memory_order_relaxed);
        begin += count;
      }
    }
  }

  std::vector<Count> counts(const Memory &memory) const {
    std::map<std::pair<int, int>, std::map<uint64_t, std::vector<uint64_t>>> pages; // by kernel and buffer
    for (const auto &[key, bits] : pages_)
      for (int kernel : {key.kernel, -1}) {
        std::vector<uint64_t> &words = pages[{kernel, key.buffer}][key.page];
        words.resize(2 * kPage / kWord);
        for (size_t i = 0; i < words.size(); i++)
          words[i] |= bits->words[i / (kPage / kWord)][i % (kPage / kWord)];
      }
    std::vector<Count> all;
    for (const auto &[of, by_page] : pages) {
      uint64_t set[2] = {};
      for (const auto &[page, words] : by_page)
        for (size_t i = 0; i < words.size(); i++)
          set[i / (kPage / kWord)] += uint64_t(__builtin_popcountll(words[i]));
      const Range range = memory.range(of.second);
      const uint64_t bytes = range.end - range.begin;
      all.push_back({of.first, of.second, set[0], set[1], gap(by_page, bytes, 0), gap(by_page, bytes, 1)});
    }
    return all;
  }

private:
  mutable std::mutex mutex_;
  std::unordered_map<Key, std::unique_ptr<Bits>, Hash> pages_;

  Bits &bits(const Key &key) {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::unique_ptr<Bits> &page = pages_[key];
    if (!page) page = std::make_unique<Bits>();
    return *page;
  }

  // The first of `bytes` bytes that is not marked.
  static uint64_t gap(const std::map<uint64_t, std::vector<uint64_t>> &by_page, uint64_t bytes, size_t kind) {
    uint64_t at = 0;
    while (at < bytes) {
      const auto page = by_page.find(at / kPage);
      if (page == by_page.end()) break;
      const uint64_t word = page->second[kind * (kPage / kWord) + at % kPage / kWord];
      const uint64_t marked = ~word ? uint64_t(__builtin_ctzll(~word)) : kWord;
      at += marked;
      if (marked < kWord) break;
    }
    return std::min(at, bytes);
  }
};

} // namespace ksim
