// SPDX-License-Identifier: MIT
// What the sources of the engine share, and nobody else sees.
#pragma once
#include "engine.hpp"

#include <setjmp.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <mutex>

#pragma GCC visibility push(hidden) // so that calls among these files are direct
namespace ksim {

constexpr size_t kStackBytes = 256 << 10;   // of a fibre; its lowest page is unmapped
constexpr size_t kStaticBytes = 512 << 10;  // of threadgroup variables, all kernels of a library together
constexpr size_t kSlotBytes = 256 << 10;    // of one dynamic threadgroup array
constexpr uint32_t kStaticLimit = 48 << 10; // of a CUDA kernel's static shared memory, as ptxas has it
constexpr size_t kSignalStackBytes = 64 << 10;
constexpr size_t kKeptWorkers = 64;     // between launches
constexpr unsigned char kPoison = 0xff; // NaN in every floating type

inline size_t page() { return size_t(sysconf(_SC_PAGESIZE)); }

// A worker and all that it needs to run threadgroups; kept from launch to launch.
struct Running : Worker {
  void *main_sp = nullptr;
  unsigned char *stacks = nullptr, *signal_stack = nullptr, *static_end = nullptr, *slot_ends[kSlots] = {};
  int live = 0;
  Where last = {nullptr, 0}; // where a thread came last to a barrier, or to what lanes do together
  int at_barrier[kBarriers] = {}, arrived[kBarriers] = {},
      counted[kBarriers] = {}; // counted: threads it waits for
  Fault *fault = nullptr;
  std::atomic<bool> *failed = nullptr;
  uint32_t random = 1;
  bool in_fibres = false, misaligned = false;
  int guarded = 0; // stacks whose lowest page is unmapped
  sigjmp_buf fallback;
  uint64_t code = 0, code_end = 0, engine = 0,
           engine_end = 0; // addresses of the kernels' library and of this one
  int signal = 0, write = -1;
  uint64_t address = 0, pc = 0;

  // engine.cpp
  ~Running();
  bool prepare(int threads);
  bool run(Dim at);
  void poison();
  void demand_red_zones();
  // schedule.cpp
  int pick(uint32_t lanes);
  void next(Fibre &me);
  Warp *runnable_warp(const Fibre &me);
  void demand_one_mask(Fibre &one, uint32_t returned);
  void complete(Warp &warp, uint32_t lanes);
  bool settle(Warp &warp);
  bool unblock();
  void release(int id);
  void demand_every_thread();
  void diverged();
};
// Called, where the traffic audit has set it, when all live lanes of a warp have come together, and at the end
// of every threadgroup: no access before it can be part of a request with one after it.
extern void (*on_converged)(Running &, int warp); // schedule.cpp
extern std::mutex launching;                      // engine.cpp: one grid runs at a time
inline Running &running() { return *static_cast<Running *>(worker); }

// stacks.cpp: the state of a fibre that waits is on its own stack.
void switch_stack(void **save, void *load);
void *first_frame(unsigned char *top, void (*start)());
void start(); // schedule.cpp: what a fibre does first

// faults.cpp
void find_code(Running &worker);
enum Fallback {
  kSignalled = 1,
  kFailed
}; // why a worker left its fibres by siglongjmp
constexpr int kStopSignal = SIGURG; // ignored by those that do not know it
void install_handlers();
void report_signal(Running &worker, bool cancelled);

inline uint32_t shuffle(uint32_t &state) { // xorshift32
  state ^= state << 13;
  state ^= state >> 17;
  return state ^= state << 5;
}

} // namespace ksim
#pragma GCC visibility pop
