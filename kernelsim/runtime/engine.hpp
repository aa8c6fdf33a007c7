// SPDX-License-Identifier: MIT
// Executes a grid of GPU threads on CPU threads.
//
// Every GPU thread is a fibre with a stack of its own. A worker, one thread of the operating system, runs one
// threadgroup (CUDA: block) at a time: a fibre runs until it must wait, at a barrier or at an operation that
// the lanes of its simdgroup (CUDA: warp) do together, and the schedule says which fibre goes on. What the
// lanes do together is computed once, by the last lane that arrives, from the arguments of all.
//
// This header is all that the languages (metal/, cuda/) need; nothing here knows which of them it runs.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace ksim {

constexpr int kLanes = 32;        // of a simdgroup or warp
constexpr int kMaxThreads = 1024; // of a threadgroup or block
constexpr int kSlots = 31;        // dynamic threadgroup arrays; CUDA has one
constexpr int kBarriers = 17;     // bar.sync 0 to 15, and one for what a language adds

#define KSIM_INLINE \
  inline __attribute__((always_inline, nodebug)) // faults inside are reported at the caller's line

#define KSIM_CONSTANT __attribute__((require_constant_initialization)) // constinit, in C++17 too

struct Dim {
  uint32_t x, y, z;
};

// A line of the kernel's source: `Where where = here()` as the last parameter is the line of the call.
struct Where {
  const char *file;
  int line;
};
KSIM_INLINE constexpr Where here(const char *file = __builtin_FILE(), int line = __builtin_LINE()) {
  return {file, line};
}

enum Participants : uint8_t {
  kAllLive,   // every lane that has not returned: others missing is divergence
  kMasked,    // those of Call::mask that have not returned
  kConverged, // those that are here together, as simd_ballot and __activemask have it
};
struct Call {
  const char *name; // as the source calls it
  Where where;
  Participants participants = kAllLive;
  uint32_t mask = ~0u;
};

// What the lanes that take part bring to an operation that they do together.
struct Lanes {
  uint32_t active;        // the lanes that take part
  const Call *call;       // what one of them asked for, for messages
  const void *in[kLanes]; // the argument of each
  void *out[kLanes];      // where each wants its result
  template <class T> KSIM_INLINE bool has(T lane) const {
    return lane >= 0 && lane < kLanes && (active >> lane & 1);
  }
  template <class T> KSIM_INLINE const T &arg(int lane) const { return *static_cast<const T *>(in[lane]); }
  template <class T> KSIM_INLINE T &result(int lane) const { return *static_cast<T *>(out[lane]); }
};
using Together = void (*)(Lanes &);

enum State : uint8_t {
  kRunnable,
  kTogether,
  kAtBarrier,
  kReturned
};

struct Warp;
struct alignas(64) Fibre {
  void *sp;         // of its stack, while it does not run
  Warp *of;         // its own
  const Call *call; // what it waits for; lies on its stack
  Together together;
  Dim position;   // in the threadgroup
  uint32_t index; // the same, linear
  uint16_t lane, warp;
  State state;
  uint8_t barrier; // that it waits at
  uint32_t mask;   // of its last operation whose lanes a mask names
  int line;        // where that was; 0 = there was none
};
static_assert(sizeof(Fibre) == 64); // a line of the cache

struct Warp {
  uint32_t live, runnable; // sets of lanes
  uint32_t waiting;        // for an operation done together
  uint32_t joined;         // those of them that wait for what `first` waits for
  const Fibre *first;
  Fibre *fibres; // of its lanes
  Lanes lanes;
};

// How many of a threadgroup's threads must come to a barrier, and what happens when they do not.
enum Convergence : int {
  kEvery,    // every thread, at the same line, as the languages' specifications have it
  kLive,     // every thread that has not returned, as GPUs have it
  kHardware, // divergent lanes wait apart and come together later, as GPUs do
};
enum Schedule : int {
  kForward,
  kReverse,
  kRandom
};

struct Worker;
struct SharedVariables;

// The layout of Launch and Fault is mirrored in launch.py.
struct Launch {
  void (*entry)(void *args);
  void *args;
  const char *kernel;
  SharedVariables *shared; // of the kernel's library
  Dim groups, group;       // threadgroups of the grid, threads of a threadgroup
  Dim threads;             // of the grid where the last threadgroups are smaller, else 0
  uint32_t dynamic_bytes[kSlots];
  uint32_t shared_limit; // bytes of shared memory, static and dynamic; 0 = no limit
  Schedule schedule;
  uint32_t seed;
  Convergence convergence;
  int workers;
  double seconds;         // time limit; 0 = none
  int cuda;               // which language's words messages use
  volatile int cancelled; // set from outside: the launch ends
};

enum FaultKind : int {
  kNoFault,
  kMemory,
  kDivision,
  kDivergence,
  kTrap,
  kTimeout,
  kCancelled,
  kResources,
  kArgument,
  kUndefined
};
constexpr Dim kUnknown = {~0u, ~0u, ~0u}; // group or thread of what is only seen afterwards
struct Fault {
  FaultKind kind;
  int line; // 0 where unknown
  Dim group, thread;
  uint64_t address, pc; // pc: offset in the library
  int write;            // 1 write, 0 read, -1 unknown
  char file[256], message[512];
};

#if defined(__linux__)
extern KSIM_CONSTANT thread_local Worker *worker __attribute__((tls_model("initial-exec")));
#else
extern KSIM_CONSTANT thread_local Worker *worker;
#endif

struct Worker {
  Fibre *current = nullptr;
  unsigned char *window = nullptr; // shared memory: addresses in it are offsets from here
  unsigned char *shared = nullptr; // the static variables
  unsigned char *dynamic[kSlots] = {};
  Dim group_position = {}, group_size = {};
  int threads = 0, warp_count = 0;
  const Launch *launch = nullptr;
  Fibre *fibres = nullptr;
  Warp *warps = nullptr;
};
KSIM_INLINE Fibre &self() { return *worker->current; }

// Lanes meet here; `fn` sees the arguments of all and writes the results of all.
void together(Together fn, const void *in, void *out, const Call &call);
// Waits until `expected` threads (0: all) have come to barrier `id`; arrive() counts as one and does not wait.
void barrier(const Call &call, int id = 0, int expected = 0);
void arrive(const Call &call, int id, int expected);
// Ends the launch with a fault of this thread.
[[noreturn]] void fail(FaultKind kind, Where where, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
// fail(), with the return address of what the kernel has called.
[[noreturn]] void fail_at(const void *caller, FaultKind kind, Where where, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
// A stop interrupts a thread in the kernel's code and the engine's, but not in the C library, which may hold
// locks. What spends its time there calls these: heed_stop() ends the thread, as of code at `caller`, if the
// launch ends.
void heed_stop(const void *caller);
void give_way(); // to other threads of the operating system, while this one waits for another threadgroup
// Runs the whole grid; 0, or the kind of the fault.
int launch(const Launch &launch, Fault &fault);

// A threadgroup variable: S is a struct of the declaration's variables. They lie one after another, kRedZone
// bytes apart, in the shared memory of the worker, NaN-poisoned before every threadgroup, and count towards a
// kernel's use when it touches them.
constexpr size_t kRedZone = 128; // shows what is written past the end of a variable, or before its start
enum Use : uint8_t {
  kUnused,
  kIfWritten, // in use if it does not end a threadgroup as poison
  kUsed
};
struct SharedVariable {
  uint32_t offset, size;
  Use use = kUnused;
  const char *names;
  SharedVariable *next; // that lies before this one
  SharedVariable(size_t size, size_t align, const char *names);
};
struct SharedVariables { // of a library of kernels
  SharedVariable *first = nullptr;
  size_t bytes = 0, align = 128;        // at least the width of the 32 banks of four bytes
  size_t dynamic_align = 128;           // of dynamic shared memory
  uint32_t arrived = 0, generation = 0; // of the running grid's threadgroups, when they wait for each other
};
inline KSIM_CONSTANT SharedVariables library_variables __attribute__((visibility("hidden")));
inline __attribute__((visibility("hidden"))) SharedVariable::SharedVariable(size_t size, size_t align,
                                                                            const char *names)
    : size(uint32_t(size)), names(names), next(library_variables.first) {
  if (align < 16) align = 16;
  offset = uint32_t((library_variables.bytes + kRedZone + align - 1) / align * align);
  library_variables.first = this;
  library_variables.bytes = offset + size;
  if (align > library_variables.align) library_variables.align = align;
}
extern "C" inline __attribute__((used)) SharedVariables *ksim_shared_variables() { return &library_variables; }
template <class S> KSIM_INLINE constexpr auto shared_names(int) -> decltype(S::ksim_names()) {
  return S::ksim_names();
}
template <class S> KSIM_INLINE constexpr const char *shared_names(long) { return "a variable"; }
template <class S>
inline SharedVariable shared_variable
    __attribute__((visibility("hidden"))){sizeof(S), alignof(S), shared_names<S>(0)};
template <class S> KSIM_INLINE S &shared() {
  SharedVariable &v = shared_variable<S>;
  if (v.use != kUsed) v.use = kUsed;
  return *reinterpret_cast<S *>(worker->shared + v.offset);
}

// Copies that the traffic audit must see as one access: those of vector types, and of instructions that move
// memory.
#ifdef KSIM_AUDIT
void audit_copy(void *to, const void *from, size_t bytes);
void audit_read(const void *from, size_t bytes);
void audit_write(const void *to, size_t bytes);
KSIM_INLINE void copy(void *to, const void *from, size_t bytes) { audit_copy(to, from, bytes); }
#else
KSIM_INLINE void audit_read(const void *, size_t) {}
KSIM_INLINE void audit_write(const void *, size_t) {}
KSIM_INLINE void copy(void *to, const void *from, size_t bytes) { __builtin_memcpy(to, from, bytes); }
#endif

} // namespace ksim
