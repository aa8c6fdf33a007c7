// SPDX-License-Identifier: MIT
// Threadgroups and launches: memory, workers, the order of threadgroups, the time limit.
#include "running.hpp"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <numeric>
#include <thread>
#include <vector>

namespace ksim {

namespace {

size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

// Memory that nobody has touched costs nothing, so it is reserved generously.
unsigned char *reserve(size_t bytes) {
  void *p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return p == MAP_FAILED ? nullptr : static_cast<unsigned char *>(p);
}

} // namespace

// ---- Threadgroups

// Reserves what a threadgroup of so many threads needs. A process may have only so many mappings: stacks are
// guarded when they are used first.
bool Running::prepare(int threads) {
  const size_t guard = page(), slot = kSlotBytes + guard;
  if (!fibres) fibres = new Fibre[kMaxThreads](), warps = new Warp[kMaxThreads / kLanes]();
  if (!stacks) stacks = reserve(kMaxThreads * kStackBytes);
  if (!signal_stack) signal_stack = reserve(kSignalStackBytes);
  if (!window) {
    window = reserve(kStaticBytes + guard + kSlots * slot);
    static_end = window ? window + kStaticBytes : nullptr;
    for (int i = 0; window && i < kSlots; i++)
      slot_ends[i] = static_end + guard + size_t(i) * slot + kSlotBytes;
    bool all = window && !mprotect(static_end, guard, PROT_NONE);
    for (int i = 0; all && i < kSlots; i++) all = !mprotect(slot_ends[i], guard, PROT_NONE);
    if (!all) return false;
  }
  if (!stacks || !signal_stack) return false;
  for (; guarded < threads; guarded++)
    if (mprotect(stacks + size_t(guarded) * kStackBytes, guard, PROT_NONE)) return false;
  return true;
}

Running::~Running() {
  if (stacks) munmap(stacks, kMaxThreads * kStackBytes);
  if (signal_stack) munmap(signal_stack, kSignalStackBytes);
  if (window) munmap(window, kStaticBytes + page() + kSlots * (kSlotBytes + page()));
  delete[] fibres;
  delete[] warps;
}

// What lies between variables is NaN too, in types of two bytes or more, but not what one who writes NaN or -1
// writes.
static unsigned char between(const unsigned char *p) { return uintptr_t(p) & 1 ? 0xff : 0xfe; }
static void fill(unsigned char *begin, const unsigned char *end) {
  for (; begin < end; begin++) *begin = between(begin);
}
static bool untouched(const unsigned char *begin, const unsigned char *end) {
  unsigned char changed = 0;
  for (; begin < end; begin++) changed |= *begin ^ between(begin);
  return !changed;
}

void Running::poison() {
  shared = static_end - round_up(launch->shared->bytes, launch->shared->align);
  memset(shared, kPoison, size_t(static_end - shared));
  const unsigned char *end = static_end;
  for (const SharedVariable *v = launch->shared->first; v; v = v->next) {
    fill(shared + v->offset + v->size, end);
    end = shared + v->offset;
  }
  fill(shared, end);
  for (int i = 0; i < kSlots; i++) {
    const uint32_t bytes = launch->dynamic_bytes[i];
    dynamic[i] = slot_ends[i] - round_up(bytes, launch->shared->dynamic_align);
    if (!bytes) continue;
    memset(dynamic[i], kPoison, bytes);
    fill(dynamic[i] + bytes, slot_ends[i]);
  }
}

// Fails if something was written between the shared variables, or behind dynamic shared memory.
void Running::demand_red_zones() {
  current = nullptr; // nobody knows who it was
  const char *memory = launch->cuda ? "shared" : "threadgroup";
  const unsigned char *end = static_end;
  const char *behind = nullptr;
  for (SharedVariable *v = launch->shared->first; v; v = v->next) {
    const unsigned char *own = shared + v->offset, *zone = own + v->size;
    const bool far = behind && untouched(zone, zone + kRedZone / 2); // nearer to the variable behind it
    if (!untouched(zone, end))
      fail(kMemory, {nullptr, 0}, "writes %s of %s in %s memory", far ? "before the start" : "past the end",
           far ? behind : v->names, memory);
    if (v->use == kIfWritten && std::any_of(own, zone, [](unsigned char c) { return c != kPoison; }))
      v->use = kUsed;
    behind = v->names;
    end = own;
  }
  if (!untouched(shared, end))
    fail(kMemory, {nullptr, 0}, "writes before the start of %s in %s memory", behind, memory);
  for (int i = 0; i < kSlots; i++)
    if (launch->dynamic_bytes[i] && !untouched(dynamic[i] + launch->dynamic_bytes[i], slot_ends[i]))
      fail(kMemory, {nullptr, 0}, "writes past the end of its dynamic %s memory", memory);
}

// How far below its end a fibre begins to use its stack. Stacks lie at a distance that is a power of two:
// without this the frames of all lanes would share a few sets of the caches, and push each other out.
static size_t colour(int fibre) { return 64 + size_t(fibre) * 576 % (32 << 10); }

bool Running::run(Dim at) {
  const Launch &l = *launch;
  const auto rest = [](uint32_t p, uint32_t group, uint32_t all) {
    return all && all - p * group < group ? all - p * group : group;
  };
  group_position = at;
  group_size = {rest(at.x, l.group.x, l.threads.x), rest(at.y, l.group.y, l.threads.y),
                rest(at.z, l.group.z, l.threads.z)};
  threads = live = int(group_size.x * group_size.y * group_size.z);
  warp_count = (threads + kLanes - 1) / kLanes;
  memset(at_barrier, 0, sizeof at_barrier);
  memset(arrived, 0, sizeof arrived);
  memset(counted, 0, sizeof counted);
  poison();
  for (int i = 0; i < warp_count; i++) {
    const int lanes = threads - i * kLanes;
    warps[i].live = warps[i].runnable = lanes >= kLanes ? ~0u : (1u << lanes) - 1;
    warps[i].waiting = 0;
    warps[i].fibres = fibres + i * kLanes;
  }
  for (int i = 0; i < threads; i++) {
    Fibre &f = fibres[i];
    const uint32_t n = uint32_t(i);
    f.position = {n % group_size.x, n / group_size.x % group_size.y, n / (group_size.x * group_size.y)};
    f.index = n;
    f.lane = uint16_t(i % kLanes);
    f.warp = uint16_t(i / kLanes);
    f.of = &warps[f.warp];
    f.state = kRunnable;
    f.line = 0;
    f.sp = first_frame(stacks + size_t(i + 1) * kStackBytes - colour(i), start);
  }
  const int warp = l.schedule == kForward   ? 0
                   : l.schedule == kReverse ? warp_count - 1
                                            : int(shuffle(random) % uint32_t(warp_count));
  const int lane = pick(warps[warp].runnable);
  warps[warp].runnable &= ~(1u << lane);
  current = &fibres[warp * kLanes + lane];
  in_fibres = true;
  switch_stack(&main_sp, current->sp);
  in_fibres = false;
  if (*failed) return false;
  for (int i = 0; on_converged && i < warp_count; i++) on_converged(*this, i);
  demand_red_zones();
  return true;
}

// ---- Launches

std::mutex launching; // the shared variables of a library are global

namespace {

std::vector<Running *> idle;

struct Progress {
  std::atomic<uint64_t> next{0};
  std::atomic<bool> failed{false};
  std::atomic<bool> cancelled{false};
  uint64_t total = 0, step = 1, offset = 0;
  std::mutex mutex; // of `working`
  std::condition_variable ended;
  int working = 0;
};

void work(Running &w, Progress &progress) {
  worker = &w;
  stack_t mine = {}, before = {};
  mine.ss_sp = w.signal_stack;
  mine.ss_size = kSignalStackBytes;
  sigaltstack(&mine, &before);
  const Launch &l = *w.launch;
  if (const int how = sigsetjmp(w.fallback, 1)) {
    if (how == kSignalled) report_signal(w, progress.cancelled);
    progress.failed = true;
  } else {
    while (!progress.failed) {
      const uint64_t i = progress.next++;
      if (i >= progress.total) break;
      const uint64_t n = l.schedule == kForward   ? i
                         : l.schedule == kReverse ? progress.total - 1 - i
                                                  : (i * progress.step + progress.offset) % progress.total;
      const uint64_t x = l.groups.x, y = l.groups.y;
      if (!w.run({uint32_t(n % x), uint32_t(n / x % y), uint32_t(n / (x * y))})) break;
    }
  }
  w.in_fibres = false;
  sigaltstack(&before, nullptr);
  worker = nullptr;
  const std::lock_guard<std::mutex> lock(progress.mutex);
  progress.working--;
  progress.ended.notify_all();
}

int resources(const Launch &l, Fault &fault) {
  uint64_t used = 0;
  for (SharedVariable *v = l.shared->first; v; v = v->next) used += v->use == kUsed ? v->size : 0;
  const uint64_t fixed = used;
  if (l.cuda && fixed > kStaticLimit) {
    snprintf(fault.message, sizeof fault.message,
             "needs %llu bytes of static shared memory; %u are allowed, more must be dynamic",
             (unsigned long long)fixed, kStaticLimit);
    return fault.kind = kResources;
  }
  for (uint32_t bytes : l.dynamic_bytes) used += bytes;
  if (!l.shared_limit || used <= l.shared_limit) return 0;
  snprintf(fault.message, sizeof fault.message,
           "needs %llu bytes of %s memory (%llu static, %llu dynamic); the device has %u",
           (unsigned long long)used, l.cuda ? "shared" : "threadgroup", (unsigned long long)fixed,
           (unsigned long long)(used - fixed), l.shared_limit);
  return fault.kind = kResources;
}

// Keeps a few workers for the next launch; more would hold mappings of which a process has only so many.
void dismiss(std::vector<Running *> &crew) {
  for (Running *w : crew)
    if (idle.size() < kKeptWorkers && w->window)
      idle.push_back(w);
    else
      delete w;
}

int refuse(Fault &fault, FaultKind kind, const char *message) {
  snprintf(fault.message, sizeof fault.message, "%s", message);
  return fault.kind = kind;
}

} // namespace

int launch(const Launch &l, Fault &fault) {
  fault = {};
  const uint64_t size = uint64_t(l.group.x) * l.group.y * l.group.z;
  Progress progress;
  progress.total = uint64_t(l.groups.x) * l.groups.y * l.groups.z;
  const char *unit = l.cuda ? "block" : "threadgroup";
  char text[128];
  snprintf(text, sizeof text, "a %s has 1 to %d threads, not %llu", unit, kMaxThreads,
           (unsigned long long)size);
  if (!size || size > kMaxThreads) return refuse(fault, kArgument, text);
  if (!progress.total) return refuse(fault, kArgument, "the grid is empty");
  if (round_up(l.shared->bytes, l.shared->align) > kStaticBytes)
    return refuse(fault, kResources, "more static shared memory than kernelsim has");
  for (uint32_t bytes : l.dynamic_bytes)
    if (round_up(bytes, l.shared->dynamic_align) > kSlotBytes)
      return refuse(fault, kResources, "more dynamic shared memory than kernelsim has");
  const std::lock_guard<std::mutex> one_at_a_time(launching);
  install_handlers();
  for (SharedVariable *v = l.shared->first; v; v = v->next) v->use = kUnused;
  l.shared->arrived = l.shared->generation = 0;
  // For the random schedule: threadgroup i * step + offset, step coprime to their number, visits each once.
  uint32_t state = l.seed * 2654435761u | 1;
  progress.offset = shuffle(state);
  progress.step = shuffle(state) % progress.total;
  while (std::gcd(progress.step, progress.total) != 1) progress.step++;
  const int workers = l.workers < 1                          ? 1
                      : uint64_t(l.workers) > progress.total ? int(progress.total)
                                                             : l.workers;
  std::vector<Running *> crew;
  for (int i = 0; i < workers; i++) {
    if (idle.empty()) idle.push_back(new Running);
    Running *w = idle.back();
    idle.pop_back();
    crew.push_back(w);
    if (!w->prepare(int(size))) {
      dismiss(crew);
      return refuse(fault, kResources,
                    "the system gives no more memory mappings: fewer workers or threads are needed");
    }
    w->launch = &l;
    w->last = {nullptr, 0};
    w->fault = &fault;
    w->failed = &progress.failed;
    w->random = shuffle(state) | 1;
    find_code(*w);
  }
  std::vector<std::thread> threads;
  progress.working = workers;
  // Each is a thread that was not there before: what a kernel has in thread_local variables, the addresses of
  // shared memory, is of this launch.
  for (Running *w : crew) threads.emplace_back([w, &progress] { work(*w, progress); });
  {
    using Clock = std::chrono::steady_clock;
    const auto start = Clock::now();
    std::unique_lock<std::mutex> lock(progress.mutex);
    const auto done = [&] { return progress.working == 0; };
    while (!progress.ended.wait_for(lock, std::chrono::milliseconds(20), done)) {
      progress.cancelled = l.cancelled != 0;
      const bool late = l.seconds > 0 &&
                        std::chrono::duration<double>(Clock::now() - start).count() > l.seconds;
      if (!progress.cancelled && !late) continue;
      progress.failed = true; // which a worker sees that is between two threadgroups, or in heed_stop()
      while (!progress.ended.wait_for(lock, std::chrono::milliseconds(1), done))
        for (std::thread &t : threads) pthread_kill(t.native_handle(), kStopSignal);
      break;
    }
  }
  for (std::thread &t : threads) t.join();
  dismiss(crew);
  if (fault.kind) return fault.kind;
  if (progress.failed) return refuse(fault, progress.cancelled ? kCancelled : kTimeout, "stopped");
  return resources(l, fault);
}

} // namespace ksim

using namespace ksim;

extern "C" {

int ksim_launch(const Launch *l, Fault *fault) { return launch(*l, *fault); }
}
