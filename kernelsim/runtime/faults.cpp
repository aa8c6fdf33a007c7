// SPDX-License-Identifier: MIT
// What becomes of faults: signals, the checks that the compiler puts in, and failures that the engine finds.
#include "running.hpp"

#include <dlfcn.h>
#include <sched.h>
#if defined(__linux__)
#include <link.h>
#endif
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ucontext.h>

#include <mutex>

extern "C" int ksim_printf(const char *format, ...) __attribute__((format(printf, 1, 2)));

namespace ksim {

namespace {

std::mutex fault_mutex;

// Where code lies in the kernels' library, which alone has lines of the kernel's source; 0 if elsewhere.
uint64_t offset(const Running &w, uint64_t pc) {
  Dl_info library = {}, kernels = {};
  const bool known = dladdr(reinterpret_cast<void *>(pc), &library) &&
                     dladdr(reinterpret_cast<void *>(w.launch->entry), &kernels) &&
                     library.dli_fbase == kernels.dli_fbase;
  return known ? pc - uint64_t(library.dli_fbase) : 0;
}

void report(Running &w, FaultKind kind, uint64_t pc, Where where, const char *message) {
  const std::lock_guard<std::mutex> lock(fault_mutex);
  *w.failed = true;
  Fault &f = *w.fault;
  if (f.kind) return; // the first one counts
  f.kind = kind;
  f.line = where.line;
  f.group = w.group_position;
  f.thread = w.current ? w.current->position : kUnknown;
  f.address = 0;
  f.pc = pc ? offset(w, pc) : 0;
  f.write = -1;
  snprintf(f.file, sizeof f.file, "%s", where.file ? where.file : "");
  snprintf(f.message, sizeof f.message, "%s", message);
}

struct sigaction previous[NSIG];

// Whoever was there before us.
void pass_on(int signal, siginfo_t *info, void *context) {
  const struct sigaction &old = previous[signal];
  if (old.sa_flags & SA_SIGINFO)
    old.sa_sigaction(signal, info, context);
  else if (old.sa_handler != SIG_DFL && old.sa_handler != SIG_IGN)
    old.sa_handler(signal);
  else if (signal != kStopSignal)
    ::signal(signal, SIG_DFL); // the instruction faults again, and ends the process
}

uint64_t program_counter(const ucontext_t &context) {
#if defined(__linux__) && defined(__x86_64__)
  return uint64_t(context.uc_mcontext.gregs[REG_RIP]);
#elif defined(__linux__)
  return context.uc_mcontext.pc;
#elif defined(__aarch64__)
  return __darwin_arm_thread_state64_get_pc(context.uc_mcontext->__ss);
#else
  return context.uc_mcontext->__ss.__rip;
#endif
}

constexpr uint64_t kPrintfBytes = 512; // of ksim_printf()'s code, at most

void on_signal(int signal, siginfo_t *info, void *context) {
  Running *w = static_cast<Running *>(worker);
  if (!w || !w->in_fibres) return pass_on(signal, info, context);
  const auto &state = *static_cast<ucontext_t *>(context);
  w->pc = program_counter(state);
  if (signal == kStopSignal) {
    if (!*w->failed) return pass_on(signal, info, context); // not from us
    // In other libraries the C library's locks may be held; the signal comes again soon.
    const bool ours = w->pc - w->code < w->code_end - w->code || w->pc - w->engine < w->engine_end - w->engine;
    if (!ours && w->code_end) return;
    if (w->pc - uint64_t(&ksim_printf) < kPrintfBytes) return; // it ends by itself, with the caller's line
  }
  w->in_fibres = false;
  w->signal = signal;
  w->address = uint64_t(info->si_addr);
  w->write = -1;
#if defined(__linux__) && defined(__x86_64__)
  if (signal == SIGSEGV) w->write = state.uc_mcontext.gregs[REG_ERR] >> 1 & 1;
  w->misaligned = signal == SIGSEGV && info->si_code == SI_KERNEL; // no page, so no address, is to blame
#endif
  siglongjmp(w->fallback, kSignalled);
}

#if defined(__linux__)
// The addresses of the library that `address` lies in.
struct Range {
  uint64_t address, begin, end;
};
int in_range(dl_phdr_info *library, size_t, void *wanted) {
  Range &range = *static_cast<Range *>(wanted);
  uint64_t end = library->dlpi_addr;
  bool found = false;
  for (int i = 0; i < library->dlpi_phnum; i++) {
    const auto &part = library->dlpi_phdr[i];
    if (part.p_type != PT_LOAD) continue;
    const uint64_t begin = library->dlpi_addr + part.p_vaddr;
    found |= range.address - begin < part.p_memsz;
    if (begin + part.p_memsz > end) end = begin + part.p_memsz;
  }
  if (found) range.begin = library->dlpi_addr, range.end = end;
  return found;
}
#endif

} // namespace

// Where code is that a stop may interrupt anywhere: the kernels' and the engine's own.
void find_code(Running &w) {
#if defined(__linux__)
  Range kernels = {uint64_t(w.launch->entry), 0, 0}, engine = {uint64_t(&find_code), 0, 0};
  dl_iterate_phdr(in_range, &kernels);
  dl_iterate_phdr(in_range, &engine);
  w.code = kernels.begin, w.code_end = kernels.end;
  w.engine = engine.begin, w.engine_end = engine.end;
#else
  (void)w;
#endif
}

void install_handlers() {
  for (int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, kStopSignal}) {
    struct sigaction now = {}, ours = {};
    sigaction(signal, nullptr, &now);
    ours.sa_sigaction = on_signal;
    if (now.sa_sigaction == on_signal) continue;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    previous[signal] = now;
    sigaction(signal, &ours, nullptr);
  }
}

void report_signal(Running &w, bool cancelled) {
  const uint64_t pc = offset(w, w.pc);
  const Where where = !pc && w.signal == kStopSignal ? w.last : Where{nullptr, 0}; // stopped in the engine
  char text[200];
  FaultKind kind = kMemory;
  if (w.signal == kStopSignal) {
    kind = cancelled ? kCancelled : kTimeout;
    if (cancelled)
      snprintf(text, sizeof text, "cancelled");
    else
      snprintf(
          text, sizeof text,
          "runs longer than the time limit of %g s: an endless loop, or it waits for a %s that has no worker?",
          w.launch->seconds, w.launch->cuda ? "block" : "threadgroup");
  } else if (w.signal == SIGFPE) {
    kind = kDivision;
    snprintf(text, sizeof text, "integer division overflows, as INT_MIN / -1 does"); // a zero is found before
  } else if (w.signal == SIGILL || w.signal == SIGTRAP) {
    kind = kTrap;
    snprintf(text, sizeof text, "a trap: an assertion, or code that cannot be reached");
  } else {
    const unsigned char *stack = w.stacks + size_t(w.current - w.fibres) * kStackBytes;
    const bool overflow = w.address - uint64_t(stack) < page();
    if (w.misaligned)
      snprintf(text, sizeof text, "misaligned address of a vector, or one that no memory has");
    else
      snprintf(text, sizeof text,
               overflow ? "stack overflow: endless recursion?" : "%s unmapped memory at %#llx",
               w.write < 0 ? "accesses"
               : w.write   ? "writes"
                           : "reads",
               (unsigned long long)w.address);
  }
  const std::lock_guard<std::mutex> lock(fault_mutex);
  if (w.fault->kind) return;
  *w.fault = {kind, where.line, w.group_position, w.current->position, w.address, pc, w.write, "", ""};
  snprintf(w.fault->file, sizeof w.fault->file, "%s", where.file ? where.file : "");
  snprintf(w.fault->message, sizeof w.fault->message, "%s", text);
}

void heed_stop(const void *caller) {
  if (!worker || !*running().failed) return;
  Running &w = running();
  w.in_fibres = false;
  w.signal = kStopSignal;
  w.pc = uint64_t(caller) - 1; // the call, not what follows it
  siglongjmp(w.fallback, kSignalled);
}

void give_way() {
  heed_stop(__builtin_return_address(0));
  sched_yield();
}

[[noreturn]] static void fail(uint64_t pc, FaultKind kind, Where where, const char *format, va_list args) {
  if (worker)
    running().in_fibres = false; // a stop signal must not jump away from what follows, which takes locks
  char message[480];
  vsnprintf(message, sizeof message, format, args);
  if (!worker) { // host code of a CUDA file
    fprintf(stderr, "%s:%d: %s\n", where.file, where.line, message);
    __builtin_trap();
  }
  Running &w = running();
  report(w, kind, pc, where, message);
  siglongjmp(w.fallback, kFailed);
}

void fail(FaultKind kind, Where where, const char *format, ...) {
  va_list args;
  va_start(args, format);
  fail(0, kind, where, format, args);
}

void fail_at(const void *caller, FaultKind kind, Where where, const char *format, ...) {
  va_list args;
  va_start(args, format);
  fail(uint64_t(caller) - 1, kind, where, format, args);
}

} // namespace ksim

using namespace ksim;

extern "C" {

// CUDA's printf.
int ksim_printf(const char *format, ...) {
  if (worker && *running().failed) heed_stop(__builtin_return_address(0));
  va_list arguments;
  va_start(arguments, format);
  const int printed = vprintf(format, arguments);
  va_end(arguments);
  return printed;
}

// What the compiler passes to the handlers of -fsanitize: the place, then what the check is about. The place
// may be in the language's headers, then the handler's caller tells the kernel's line.
struct Place {
  const char *file;
  uint32_t line, column;
  Where where() const { return {file, int(line)}; }
};
#define KSIM_CALLER __builtin_return_address(0)

void __ubsan_handle_divrem_overflow_abort(Place *at, uintptr_t, uintptr_t divisor) {
  fail_at(KSIM_CALLER, kDivision, at->where(),
          divisor ? "integer division overflows" : "integer division by zero");
}
void __ubsan_handle_out_of_bounds_abort(Place *at, uintptr_t index) {
  fail_at(KSIM_CALLER, kMemory, at->where(), "index %lld is outside of its array", (long long)index);
}
struct Mismatch {
  Place at;
  const void *type;
  unsigned char log_align, kind;
};
void __ubsan_handle_type_mismatch_v1_abort(Mismatch *m, uintptr_t address) {
  fail_at(KSIM_CALLER, kMemory, m->at.where(), "misaligned address %#llx: %d bytes of alignment are needed",
          (unsigned long long)address, 1 << m->log_align);
}
void __ubsan_handle_alignment_assumption_abort(Place *at, uintptr_t address, uintptr_t align, uintptr_t) {
  fail_at(KSIM_CALLER, kMemory, at->where(), "misaligned address %#llx: %llu bytes of alignment are assumed",
          (unsigned long long)address, (unsigned long long)align);
}
}
