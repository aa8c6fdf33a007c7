// SPDX-License-Identifier: MIT
// Errors and launches of the host side.
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "cuda/host_state.hpp"

namespace ksim::cuda {

namespace {

struct State { // of the device
  std::mutex mutex;
  cudaError_t sticky = cudaSuccess;
  std::string message, kernel;
  Fault fault = {};
  Options options = {kForward, 1, kLive, 0, 60};
};
State &state() {
  static State s;
  return s;
}
thread_local cudaError_t last = cudaSuccess, last_launch = cudaSuccess;
thread_local bool is_configured = false;
thread_local Configuration pending;
thread_local Kernel **asking = nullptr;

// "void scale(float *, T) [T = float]" -> "scale [T = float]"
std::string name_of(const Kernel &kernel) {
  const std::string signature = kernel.signature;
  const size_t arguments = signature.find(" [");
  const std::string head = signature.substr(0, arguments);
  const size_t paren = head.find('(', head.rfind("(anonymous namespace)") == std::string::npos
                                          ? 0
                                          : head.rfind("(anonymous namespace)") + 1);
  const std::string declared = head.substr(0, paren);
  const size_t space = declared.rfind(' ');
  const std::string name = space == std::string::npos ? declared : declared.substr(space + 1);
  return arguments == std::string::npos ? name : name + signature.substr(arguments);
}

std::string text_of(const Fault &fault, const std::string &kernel) {
  char text[1400];
  char place[320] = "";
  if (fault.line) snprintf(place, sizeof place, "%s:%d: ", fault.file, fault.line);
  char who[160] = "";
  const Dim &g = fault.group, &t = fault.thread;
  if (t.x != kUnknown.x)
    snprintf(who, sizeof who, " (block (%u, %u, %u), thread (%u, %u, %u))", g.x, g.y, g.z, t.x, t.y, t.z);
  else if (g.x != kUnknown.x)
    snprintf(who, sizeof who, " (block (%u, %u, %u))", g.x, g.y, g.z);
  snprintf(text, sizeof text, "%s%s: %s%s", place, kernel.c_str(), fault.message, who);
  return text;
}

cudaError_t code_of(const Fault &fault) {
  switch (fault.kind) {
  case kMemory:
    if (!strncmp(fault.message, "misaligned", 10)) return cudaErrorMisalignedAddress;
    return strncmp(fault.message, "stack overflow", 14) ? cudaErrorIllegalAddress : cudaErrorHardwareStackError;
  case kTrap:
    return strncmp(fault.message, "assertion", 9) ? cudaErrorLaunchFailure : cudaErrorAssert;
  case kTimeout:
  case kCancelled:
    return cudaErrorLaunchTimeout;
  case kArgument:
    return cudaErrorInvalidConfiguration;
  case kResources: // of the device, as nvcc's runtime has it for shared memory, or of this machine
    return strncmp(fault.message, "needs", 5) ? cudaErrorLaunchOutOfResources : cudaErrorInvalidValue;
  default:
    return cudaErrorLaunchFailure; // a GPU would go on, or hang
  }
}

// What went wrong last, all of it at once: other threads may fail, and ask, at the same time.
cudaError_t record(cudaError_t error, const std::string &message, const Fault &fault = {},
                   const std::string &kernel = "") {
  State &s = state();
  const std::lock_guard<std::mutex> lock(s.mutex);
  s.message = message;
  s.fault = fault;
  s.kernel = kernel;
  if (fault.kind && fault.kind != kArgument && fault.kind != kResources) s.sticky = error;
  return last = error;
}

int default_workers() { return int(std::max(1u, std::thread::hardware_concurrency())); }

cudaError_t refused(const Kernel &kernel, cudaError_t error, const char *why, unsigned long long a,
                    unsigned long long b) {
  char text[200];
  snprintf(text, sizeof text, why, a, b);
  return failed(error, "%s: %s", name_of(kernel).c_str(), text);
}

// Whether a launch could begin on the device.
cudaError_t check(const Kernel &kernel, const Configuration &c) {
  const unsigned long long threads = 1ull * c.block.x * c.block.y * c.block.z;
  const int dynamic = kernel.max_dynamic < 0 ? device.shared_default : kernel.max_dynamic;
  if (!c.grid.x || !c.grid.y || !c.grid.z)
    return refused(kernel, cudaErrorInvalidConfiguration, "the grid is empty", 0, 0);
  if (c.grid.x > 0x7fffffff || c.grid.y > 65535 || c.grid.z > 65535)
    return refused(kernel, cudaErrorInvalidConfiguration,
                   "a grid has at most 2^31 - 1, 65535 and 65535 blocks, not y %llu, z %llu", c.grid.y,
                   c.grid.z);
  if (!threads || threads > kMaxThreads || c.block.z > 64)
    return refused(kernel, cudaErrorInvalidConfiguration,
                   "a block has 1 to 1024 threads, at most 64 in z, not %llu, z %llu", threads, c.block.z);
  if (kernel.max_threads && threads > (unsigned long long)kernel.max_threads)
    return refused(kernel, cudaErrorInvalidValue, "a block of %llu threads, its __launch_bounds__ say %llu",
                   threads, (unsigned long long)kernel.max_threads);
  if (kernel.cluster > 1) return refused(kernel, cudaErrorNotSupported, kNoClusters, 0, 0);
  if (c.shared > (size_t)dynamic)
    return refused(
        kernel, cudaErrorInvalidValue,
        kernel.max_dynamic < 0
            ? "%llu bytes of dynamic shared memory; without "
              "cudaFuncAttributeMaxDynamicSharedMemorySize it has %llu"
            : "%llu bytes of dynamic shared memory; cudaFuncAttributeMaxDynamicSharedMemorySize says %llu",
        c.shared, (unsigned long long)dynamic);
  return cudaSuccess;
}

cudaError_t execute(const Kernel &kernel, const Configuration &c, void (*entry)(void *), const void *body) {
  if (const cudaError_t error = sticky()) return last = error;
  if (const cudaError_t error = check(kernel, c)) return error;
  State &s = state();
  const std::string name = name_of(kernel);
  const uint64_t blocks = uint64_t(c.grid.x) * c.grid.y * c.grid.z;
  int of_multiprocessor = 0;
  occupancy(&of_multiprocessor, int(c.block.x * c.block.y * c.block.z), c.shared);
  if (c.cooperative && blocks > uint64_t(of_multiprocessor) * device.multiprocessors)
    return refused(kernel, cudaErrorCooperativeLaunchTooLarge, "%llu blocks cooperate; %llu fit on the device",
                   blocks, uint64_t(of_multiprocessor) * device.multiprocessors);
  Launch launch = {};
  launch.shared = &library_variables;
  launch.entry = entry;
  launch.args = const_cast<void *>(body);
  launch.kernel = name.c_str();
  launch.groups = {c.grid.x, c.grid.y, c.grid.z};
  launch.group = {c.block.x, c.block.y, c.block.z};
  launch.dynamic_bytes[0] = uint32_t(c.shared);
  launch.shared_limit = uint32_t(kernel.max_dynamic < 0 ? device.shared_default : device.shared_optin);
  launch.schedule = s.options.schedule;
  launch.seed = s.options.seed;
  launch.convergence = s.options.convergence;
  launch.workers = c.cooperative ? int(blocks) : s.options.workers ? s.options.workers : default_workers();
  launch.seconds = s.options.seconds;
  launch.cuda = 1;
  Fault fault;
  static std::mutex looking; // so that what was written around allocations was written by this grid
  std::unique_lock<std::mutex> one_at_a_time(looking);
  ksim::launch(launch, fault);
  const std::string overrun = find_overrun();
  one_at_a_time.unlock();
  if (!fault.kind) {
    if (overrun.empty()) return cudaSuccess;
    fault.kind = kMemory;
    fault.group = fault.thread = kUnknown;
    snprintf(fault.message, sizeof fault.message, "%s", overrun.c_str());
  }
  const std::string address = fault.address ? describe_address(fault.address, fault.write) : "";
  if (!address.empty()) snprintf(fault.message, sizeof fault.message, "%s", address.c_str());
  const cudaError_t error = code_of(fault);
  const std::string text = fault.kind == kArgument || fault.kind == kResources ? name + ": " + fault.message
                                                                               : text_of(fault, name);
  return record(error, text, fault, name);
}

} // namespace

cudaError_t failed(cudaError_t error, const char *format, ...) {
  char text[1600];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  return record(error, text);
}
cudaError_t sticky() {
  State &s = state();
  const std::lock_guard<std::mutex> lock(s.mutex);
  return s.sticky;
}
void forget_errors() {
  State &s = state();
  const std::lock_guard<std::mutex> lock(s.mutex);
  s.sticky = last = last_launch = cudaSuccess;
  s.message.clear();
  s.fault = {};
}

void configure(const Configuration &configuration) {
  if (worker)
    fail(kUndefined, {nullptr, 0}, "a kernel launches a kernel: dynamic parallelism is not simulated");
  pending = configuration;
  is_configured = true;
}
cudaError_t configured(const cudaLaunchConfig_t &config) {
  Configuration c{config.gridDim, config.blockDim, config.dynamicSmemBytes, config.stream};
  for (unsigned int i = 0; i < config.numAttrs; i++) {
    const cudaLaunchAttribute &a = config.attrs[i];
    if (a.id == cudaLaunchAttributeCooperative) c.cooperative = a.val.cooperative;
    const auto &d = a.val.clusterDim;
    if (a.id == cudaLaunchAttributeClusterDimension && d.x * d.y * d.z > 1)
      return failed(cudaErrorNotSupported, kNoClusters);
  }
  configure(c);
  return cudaSuccess;
}
void ask(Kernel **answer) { asking = answer; }
cudaError_t launched() { return last_launch; }

void submit(Kernel &kernel, void (*entry)(void *), const void *body, size_t bytes) {
  if (asking) {
    *asking = &kernel;
    return;
  }
  if (!is_configured) {
    last_launch = failed(cudaErrorMissingConfiguration, "%s is called without <<<>>>", name_of(kernel).c_str());
    return;
  }
  is_configured = false;
  const Configuration configuration = pending;
  CUgraph_st *graph = nullptr;
  last_launch = capturing(configuration.stream, &graph);
  if (last_launch) return;
  if (!graph) {
    last_launch = execute(kernel, configuration, entry, body);
    return;
  }
  // A std::max_align_t is aligned enough for parameters; those of 64 bytes, CUtensorMap, are not simulated.
  std::vector<max_align_t> copy(bytes / sizeof(max_align_t) + 1);
  memcpy(copy.data(), body, bytes);
  graph->work.push_back([=, &kernel] { execute(kernel, configuration, entry, copy.data()); });
}

cudaError_t set_attribute(Kernel &kernel, cudaFuncAttribute attribute, int value) {
  if (const cudaError_t error = sticky()) return last = error;
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value < 0 || value > device.shared_optin)
    return refused(kernel, cudaErrorInvalidValue,
                   "cudaFuncSetAttribute: %llu bytes of dynamic shared memory; the device has %llu",
                   (unsigned long long)value, (unsigned long long)device.shared_optin);
  kernel.max_dynamic = value;
  return cudaSuccess;
}
cudaError_t get_attributes(cudaFuncAttributes *attributes, const Kernel &kernel) {
  *attributes = {};
  attributes->maxThreadsPerBlock = kernel.max_threads ? kernel.max_threads : kMaxThreads;
  attributes->maxDynamicSharedSizeBytes = kernel.max_dynamic < 0 ? device.shared_default : kernel.max_dynamic;
  attributes->ptxVersion = attributes->binaryVersion = 10 * device.major + device.minor;
  return cudaSuccess;
}
// By threads, blocks and dynamic shared memory; registers and static shared memory are not known here.
cudaError_t occupancy(int *blocks, int threads, size_t dynamic) {
  if (threads < 1 || threads > kMaxThreads) {
    *blocks = 0;
    return failed(cudaErrorInvalidValue, "occupancy of a block of %d threads", threads);
  }
  const int rounded = (threads + kLanes - 1) / kLanes * kLanes;
  const size_t shared = dynamic + size_t(device.shared_reserved);
  *blocks = std::min({device.blocks_of_multiprocessor, device.threads_of_multiprocessor / rounded,
                      int(size_t(device.shared_of_multiprocessor) / shared)});
  return cudaSuccess;
}
cudaError_t untyped(const char *function) {
  return failed(cudaErrorInvalidDeviceFunction, "%s: a kernel behind a void pointer has lost its signature",
                function);
}

} // namespace ksim::cuda

using namespace ksim::cuda;

extern "C" {

cudaError_t cudaGetLastError() {
  const cudaError_t error = sticky() ? sticky() : last;
  last = cudaSuccess;
  return error;
}
cudaError_t cudaPeekAtLastError() { return sticky() ? sticky() : last; }
const char *cudaGetErrorName(cudaError_t error) {
  switch (error) {
#define KSIM_ERROR(name, code, text) \
  case name:                         \
    return #name;
    KSIM_CUDA_ERRORS(KSIM_ERROR)
#undef KSIM_ERROR
  }
  return "unrecognized error code";
}
const char *cudaGetErrorString(cudaError_t error) {
  switch (error) {
#define KSIM_ERROR(name, code, text) \
  case name:                         \
    return text;
    KSIM_CUDA_ERRORS(KSIM_ERROR)
#undef KSIM_ERROR
  }
  return "unrecognized error code";
}

__attribute__((visibility("default"))) void ksim_configure(const Options *options) {
  state().options = *options;
  forget_errors();
}
__attribute__((visibility("default"))) const char *ksim_last_error() {
  static thread_local std::string text;
  State &s = state();
  const std::lock_guard<std::mutex> lock(s.mutex);
  text = s.message;
  return text.c_str();
}
__attribute__((visibility("default"))) const ksim::Fault *ksim_last_fault(const char **kernel) {
  static thread_local std::string name;
  static thread_local ksim::Fault fault;
  State &s = state();
  const std::lock_guard<std::mutex> lock(s.mutex);
  name = s.kernel;
  fault = s.fault;
  *kernel = name.c_str();
  return fault.kind ? &fault : nullptr;
}

// <assert.h> of the C libraries ends in these; of a kernel it is a fault, not the end of the process.
[[noreturn, gnu::visibility("hidden")]] void __assert_fail(const char *expression, const char *file,
                                                           unsigned int line, const char *) noexcept {
  ksim::fail(ksim::kTrap, {file, int(line)}, "assertion `%s' failed", expression);
}
[[noreturn, gnu::visibility("hidden")]] void __assert_rtn(const char *, const char *file, int line,
                                                          const char *expression) {
  ksim::fail(ksim::kTrap, {file, line}, "assertion `%s' failed", expression);
}
#if defined(__GLIBC__)
#define KSIM_NOEXCEPT noexcept // as the C library declares them
#else
#define KSIM_NOEXCEPT
#endif
// The same of what ends the process. Host code, and other libraries, have the C library's.
__attribute__((noreturn, visibility("hidden"))) void exit(int code) KSIM_NOEXCEPT {
  if (ksim::worker) ksim::fail_at(__builtin_return_address(0), ksim::kTrap, {}, "calls exit(%d)", code);
  reinterpret_cast<void (*)(int)>(dlsym(RTLD_NEXT, "exit"))(code);
  __builtin_unreachable();
}
__attribute__((noreturn, visibility("hidden"))) void abort() KSIM_NOEXCEPT {
  if (ksim::worker) ksim::fail_at(__builtin_return_address(0), ksim::kTrap, {}, "calls abort()");
  reinterpret_cast<void (*)()>(dlsym(RTLD_NEXT, "abort"))();
  __builtin_unreachable();
}
}
