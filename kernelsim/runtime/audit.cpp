// SPDX-License-Identifier: MIT
// The traffic audit: what kernels ask of memory, as requests of warps.
//
// A kernel that is compiled for it calls back before every access (audit.py tells with which flags). A request
// is what the lanes of a warp do together: the accesses of the same instruction, which the return address
// names, that are each lane's n-th since the lanes last came together. Lanes run one after another here, so a
// request stays open until every live lane has brought its address; then only sums are kept, by instruction and
// by buffer, and a bit for every byte that was touched.
#define KSIM_AUDIT // declares what is defined here
#include "running.hpp"

#include <string.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "audit_memory.hpp"

namespace ksim {
namespace {

constexpr uint64_t kWidest = 16;       // bytes of the widest access of one lane
constexpr uint64_t kSector = 32;       // what a GPU's caches fetch at least
constexpr uint64_t kLine = 128;        // their lines, NVIDIA's and Apple's
constexpr uint64_t kWord = 4;          // the width of a shared memory bank
constexpr uint64_t kBankCount = 32;    // NVIDIA's, since Fermi
constexpr size_t kMostOpen = 1u << 20; // requests of a worker: some 280 MB

// The layouts of Sums and Row are mirrored in audit.py.
struct Sums {
  uint64_t requests, accesses; // of warps, of lanes
  uint64_t bytes;              // of all accesses
  uint64_t unique;             // the same without what lanes of one request have in common
  uint64_t sectors, least_sectors, lines;
  uint64_t wavefronts, least_wavefronts; // of shared memory: passes over its banks
  void add(const Sums &other) {
    const auto *from = reinterpret_cast<const uint64_t *>(&other);
    auto *to = reinterpret_cast<uint64_t *>(this);
    for (size_t i = 0; i < sizeof *this / sizeof *to; i++) to[i] += from[i];
  }
};
struct Row {
  uint64_t pc; // offset in the library, behind the call
  int32_t kernel, buffer, write, width;
  Sums sums;
};

// An instruction, and what it does in each lane.
struct Place {
  uint64_t pc;
  uint32_t bytes, align; // align 0: what the addresses have in common
  bool write;
  bool operator==(const Place &o) const {
    return pc == o.pc && bytes == o.bytes && align == o.align && write == o.write;
  }
};
struct Hash {
  size_t operator()(const Place &p) const {
    return (p.pc * 8 + p.bytes * 2 + p.write) * 0x9e3779b97f4a7c15u >> 20;
  }
};

struct Request {
  uint32_t lanes;
  uint64_t address[kLanes];
};

// An instruction in one warp, since the warp's lanes last came together.
struct Track {
  uint32_t epoch = 0;
  uint32_t count[kLanes];          // how often each lane has executed it
  std::vector<Request *> requests; // by occurrence; null when finished
};

struct Cell { // sums of one kernel, buffer and width
  int kernel, buffer, width;
  Sums sums;
};
struct Site {
  Place place;
  std::vector<Cell> cells;
  Track tracks[kMaxThreads / kLanes];
  Sums &sums(int kernel, int buffer, int width) {
    for (Cell &c : cells)
      if (c.width == width && c.buffer == buffer && c.kernel == kernel) return c.sums;
    cells.push_back({kernel, buffer, width, {}});
    return cells.back().sums;
  }
};

struct Recorder;

// What all workers share between ksim_audit_begin() and ksim_audit_end().
struct Session {
  Range library; // of the kernels
  Memory memory;
  Touched touched;
  std::mutex mutex; // of what follows
  std::vector<std::string> kernels;
  std::vector<std::unique_ptr<Recorder>> recorders;
  std::vector<Row> rows;
  std::vector<Touched::Count> counts;
};
Session *session = nullptr;
uint64_t sessions = 0; // how many there have been

// The addresses of a request that lie in one buffer.
struct Gathered {
  uint32_t lanes = 0;
  int count = 0;
  uint64_t address[kLanes]; // of each lane of the set, one after another
};

// How often shared memory's banks are gone over for the lanes of `set`: as often as there are different words
// in the bank that has most. Lanes that want the same word get it together.
uint64_t passes(const Gathered &g, uint32_t set, uint64_t width) {
  uint64_t words[kBankCount][kLanes * 2];
  int used[kBankCount] = {}, most = 0, at = 0;
  for (uint32_t rest = g.lanes; rest; rest &= rest - 1, at++) {
    if (!(set >> __builtin_ctz(rest) & 1)) continue;
    for (uint64_t word = g.address[at] / kWord; word <= (g.address[at] + width - 1) / kWord; word++) {
      const uint64_t bank = word % kBankCount;
      const bool known = std::find(words[bank], words[bank] + used[bank], word) != words[bank] + used[bank];
      if (known) continue;
      words[bank][used[bank]++] = word;
      most = std::max(most, used[bank]);
    }
  }
  return uint64_t(most);
}

// The banks give 128 bytes at a time: to a whole warp 4 bytes for each lane, to half of one 8, to a quarter 16.
void count_wavefronts(Sums &sums, const Gathered &g, uint64_t width) {
  const int lanes = width <= 4 ? 32 : width <= 8 ? 16 : 8;
  for (int first = 0; first < kLanes; first += lanes) {
    const uint32_t set = (lanes == 32 ? ~0u : (1u << lanes) - 1) << first;
    if (!(g.lanes & set)) continue;
    sums.wavefronts += passes(g, set, width);
    sums.least_wavefronts++;
  }
}

struct Recorder {
  Running *of;
  int kernel = -1; // of the session's; -1 = look
  std::unordered_map<Place, std::unique_ptr<Site>, Hash> sites;
  std::vector<Site *> recent = std::vector<Site *>(1024); // by hash
  uint32_t epochs[kMaxThreads / kLanes] = {};
  std::vector<std::pair<Site *, Track *>> active[kMaxThreads / kLanes]; // tracks of this epoch
  std::vector<std::unique_ptr<Request>> made;
  std::vector<Request *> unused;
  Touched::Cache cache;

  Site &site(const Place &place) {
    Site *&slot = recent[Hash()(place) % recent.size()];
    if (slot && slot->place == place) return *slot;
    std::unique_ptr<Site> &kept = sites[place];
    if (!kept) {
      kept = std::make_unique<Site>();
      kept->place = place;
    }
    return *(slot = kept.get());
  }

  Request *take(uint64_t pc) {
    if (unused.empty()) {
      if (made.size() == kMostOpen)
        fail_at(reinterpret_cast<void *>(pc), kResources, {nullptr, 0},
                "the audit holds %zu requests of lanes that others of their warp do not join", kMostOpen);
      made.push_back(std::make_unique<Request>());
      unused.push_back(made.back().get());
    }
    Request *request = unused.back();
    unused.pop_back();
    request->lanes = 0;
    return request;
  }

  void look_up_kernel() {
    const char *name = of->launch->kernel ? of->launch->kernel : "";
    const std::lock_guard<std::mutex> lock(session->mutex);
    const auto found = std::find(session->kernels.begin(), session->kernels.end(), name);
    kernel = int(found - session->kernels.begin());
    if (found == session->kernels.end()) session->kernels.push_back(name);
  }

  void access(const Place &place, uint64_t address) {
    const Fibre &me = *of->current;
    const int warp = me.warp;
    Site &s = site(place);
    Track &track = s.tracks[warp];
    if (track.epoch != epochs[warp] + 1) {
      track.epoch = epochs[warp] + 1;
      track.requests.clear();
      memset(track.count, 0, sizeof track.count);
      active[warp].emplace_back(&s, &track);
    }
    const uint32_t n = track.count[me.lane]++;
    if (n == track.requests.size()) track.requests.push_back(nullptr);
    Request *&request = track.requests[n];
    if (!request) request = take(place.pc);
    request->lanes |= 1u << me.lane;
    request->address[me.lane] = address;
    if (of->warps[warp].live & ~request->lanes) return;
    finish(s, *request);
    unused.push_back(request);
    request = nullptr;
  }

  // All lanes of the warp have come together: what is open will not be joined any more.
  void converged(int warp) {
    for (const auto &[site, track] : active[warp]) {
      for (Request *request : track->requests)
        if (request) {
          finish(*site, *request);
          unused.push_back(request);
        }
      track->requests.clear();
    }
    active[warp].clear();
    epochs[warp]++;
    kernel = -1;
  }

  // Splits what lanes want into accesses that memory serves: no wider than their alignment.
  void finish(Site &site, const Request &request) {
    const Place &place = site.place;
    uint64_t common = place.align;
    if (!common)
      for (uint32_t rest = request.lanes; rest; rest &= rest - 1)
        common |= request.address[__builtin_ctz(rest)];
    for (uint64_t offset = 0; offset < place.bytes;) {
      const uint64_t at = common | offset | kWidest, left = place.bytes - offset;
      uint64_t width = at & -at;
      while (width > left) width /= 2;
      split(site, request, offset, width);
      offset += width;
    }
  }

  // Splits a request whose lanes point into different buffers. In a named buffer addresses count from its
  // beginning: on a GPU it begins with a line, here where it happened to be placed.
  void split(Site &site, const Request &request, uint64_t offset, uint64_t width) {
    for (uint32_t todo = request.lanes; todo;) {
      Gathered g;
      const int buffer = session->memory.buffer(*of, request.address[__builtin_ctz(todo)]);
      const uint64_t origin = session->memory.range(buffer).begin;
      for (uint32_t rest = todo; rest; rest &= rest - 1) {
        const int lane = __builtin_ctz(rest);
        if (session->memory.buffer(*of, request.address[lane]) != buffer) continue;
        g.lanes |= 1u << lane;
        g.address[g.count++] = request.address[lane] - origin + offset;
      }
      todo &= ~g.lanes;
      count(site, g, buffer, width);
    }
  }

  void count(Site &site, Gathered &g, int buffer, uint64_t width) {
    if (kernel < 0) look_up_kernel();
    Sums &sums = site.sums(kernel, buffer, int(width));
    sums.requests++;
    sums.accesses += uint64_t(g.count);
    sums.bytes += uint64_t(g.count) * width;
    if (buffer == kShared) count_wavefronts(sums, g, width);
    if (!std::is_sorted(g.address, g.address + g.count)) std::sort(g.address, g.address + g.count);
    uint64_t unique = 0, next_sector = 0, next_line = 0, begin = g.address[0], end = begin;
    for (int i = 0; i < g.count; i++) {
      const uint64_t a = g.address[i], behind = a + width;
      if (a > end) {
        touch(buffer, begin, end, site.place.write);
        begin = a;
      }
      unique += behind - std::max(a, std::min(end, behind));
      end = std::max(end, behind);
      const uint64_t sector = std::max(a / kSector, next_sector), line = std::max(a / kLine, next_line);
      next_sector = std::max(next_sector, (behind - 1) / kSector + 1);
      next_line = std::max(next_line, (behind - 1) / kLine + 1);
      sums.sectors += next_sector - std::min(sector, next_sector);
      sums.lines += next_line - std::min(line, next_line);
    }
    touch(buffer, begin, end, site.place.write);
    sums.unique += unique;
    sums.least_sectors += (unique + kSector - 1) / kSector;
  }

  void touch(int buffer, uint64_t begin, uint64_t end, bool write) {
    if (buffer != kShared) session->touched.mark(cache, kernel, buffer, begin, end, write);
  }
};

thread_local Recorder *mine = nullptr; // of session `mine_of`
thread_local uint64_t mine_of = 0;

// While it lives, no signal takes this thread out of what it does.
class Undisturbed {
public:
  explicit Undisturbed(Running &w) : worker_(w), before_(w.in_fibres) {
    w.in_fibres = false;
    std::atomic_signal_fence(std::memory_order_seq_cst);
  }
  ~Undisturbed() {
    std::atomic_signal_fence(std::memory_order_seq_cst);
    worker_.in_fibres = before_;
  }
  Undisturbed(const Undisturbed &) = delete;

private:
  Running &worker_;
  const bool before_;
};

Recorder &recorder(Running &w) {
  if (mine_of == sessions && mine->of == &w) return *mine;
  const std::lock_guard<std::mutex> lock(session->mutex);
  mine_of = sessions;
  for (const auto &one : session->recorders)
    if (one->of == &w) return *(mine = one.get());
  session->recorders.push_back(std::make_unique<Recorder>());
  mine = session->recorders.back().get();
  mine->of = &w;
  return *mine;
}

void access(uint64_t address, const Place &place) {
  if (!session || !worker || !session->library.holds(place.pc)) return;
  Running &w = running();
  if (w.current->state != kRunnable) return; // inside of what lanes do together
  if (session->memory.buffer(w, address) == kNotAudited) return;
  const Undisturbed undisturbed(w);
  recorder(w).access(place, address);
}

void when_converged(Running &w, int warp) {
  if (!session) return;
  const Undisturbed undisturbed(w);
  recorder(w).converged(warp);
}

void collect(Session &s) {
  std::map<std::tuple<int, uint64_t, int, int, bool>, Row> rows; // by kernel, pc, buffer, width, write
  for (const auto &recorder : s.recorders)
    for (const auto &[place, site] : recorder->sites)
      for (const Cell &cell : site->cells) {
        Row &row = rows[{cell.kernel, place.pc, cell.buffer, cell.width, place.write}];
        row.pc = place.pc - s.library.begin;
        row.kernel = cell.kernel;
        row.buffer = cell.buffer;
        row.width = cell.width;
        row.write = place.write;
        row.sums.add(cell.sums);
      }
  for (const auto &[key, row] : rows) s.rows.push_back(row);
  s.counts = s.touched.counts(s.memory);
}

} // namespace

// ---- What compiled kernels and the headers call

#define KSIM_SITE uint64_t(__builtin_return_address(0))

void audit_read(const void *from, size_t bytes) {
  access(uint64_t(from), {KSIM_SITE, uint32_t(bytes), 0, false});
}
void audit_write(const void *to, size_t bytes) { access(uint64_t(to), {KSIM_SITE, uint32_t(bytes), 0, true}); }
void audit_copy(void *to, const void *from, size_t bytes) {
  access(uint64_t(from), {KSIM_SITE, uint32_t(bytes), 0, false});
  access(uint64_t(to), {KSIM_SITE, uint32_t(bytes), 0, true});
  memmove(to, from, bytes);
}

} // namespace ksim

using namespace ksim;

extern "C" {

#define KSIM_TRACE(n)                                                                      \
  void __sanitizer_cov_load##n(void *p) { access(uint64_t(p), {KSIM_SITE, n, n, false}); } \
  void __sanitizer_cov_store##n(void *p) { access(uint64_t(p), {KSIM_SITE, n, n, true}); }
KSIM_TRACE(1)
KSIM_TRACE(2)
KSIM_TRACE(4)
KSIM_TRACE(8)
KSIM_TRACE(16)

// What the callbacks above do not tell: see instrument.py.
void ksim_audit_load(void *p, uint64_t bytes, uint32_t align) {
  access(uint64_t(p), {KSIM_SITE, uint32_t(bytes), align, false});
}
void ksim_audit_store(void *p, uint64_t bytes, uint32_t align) {
  access(uint64_t(p), {KSIM_SITE, uint32_t(bytes), align, true});
}

// ---- Entry points for Python

// From now on the accesses of the library that holds `symbol` are counted: those to the named ranges and to
// shared memory, and, if `others`, to all memory that is neither a stack nor the library's own. False while
// another audit has not ended.
bool ksim_audit_begin(const void *symbol, const Range *ranges, int count, int others) {
  const std::lock_guard<std::mutex> no_launch(launching);
  if (session) return false;
  session = new Session;
  session->library = library_of(symbol);
  session->memory.set(ranges, count, others != 0, session->library);
  sessions++;
  on_converged = when_converged;
  return true;
}

// What was counted; it stays until ksim_audit_end().
int64_t ksim_audit_read(const Row **rows, const Touched::Count **touched, int64_t *touched_count) {
  collect(*session);
  *rows = session->rows.data();
  *touched = session->counts.data();
  *touched_count = int64_t(session->counts.size());
  return int64_t(session->rows.size());
}

const char *ksim_audit_kernel(int n) { return session->kernels[size_t(n)].c_str(); }

void ksim_audit_end() {
  const std::lock_guard<std::mutex> no_launch(launching);
  on_converged = nullptr;
  delete session;
  session = nullptr;
}
}
