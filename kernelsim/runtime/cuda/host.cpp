// SPDX-License-Identifier: MIT
// Device, memory, streams, events and graphs of the runtime API.
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <mutex>
#include <set>

#include "cuda/host_state.hpp"

namespace ksim::cuda {
namespace {

// ---- Memory: each allocation ends at unmapped pages, so that an access past its end is a fault. Around it its
// own pages hold a pattern that is looked after when a kernel has ended.

// Of an allocation: the widest access. cudaMalloc promises 256 bytes, which those have whose size is a multiple
// of 256: the more others were aligned, the further from their ends the unmapped page would be.
constexpr size_t kAlignment = 32;
constexpr size_t kAround = 64 << 20;
constexpr unsigned char kPoison = 0xff;

struct Allocation {
  size_t bytes;
  unsigned char *base;
  size_t mapped;
  cudaMemoryType type;
  unsigned char *start() const { return base + kAround; } // of its pages
  unsigned char *end() const { return base + mapped - kAround; }
};
std::mutex mutex;
std::map<const unsigned char *, Allocation> allocations; // by address
std::set<CUstream_st *> streams;

size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

// NaN in every floating type of two bytes or more, but not what a kernel writes that stores one, or -1.
unsigned char filling(const unsigned char *p) { return 0xfe | (reinterpret_cast<size_t>(p) & 1); }
void fill(unsigned char *p, const unsigned char *end) {
  for (; p < end; p++) *p = filling(p);
}
bool is_filled(const unsigned char *p, const unsigned char *end) {
  unsigned char wrong = 0;
  for (; p < end; p++) wrong |= *p ^ filling(p);
  return !wrong;
}

// The allocation around or next to an address, or null.
const std::pair<const unsigned char *const, Allocation> *near(const void *address) {
  const auto *p = static_cast<const unsigned char *>(address);
  for (const auto &one : allocations)
    if (p >= one.second.base && p < one.second.base + one.second.mapped) return &one;
  return nullptr;
}

cudaError_t allocate(void **p, size_t bytes, cudaMemoryType type) {
  if (const cudaError_t error = sticky()) return error;
  if (!p) return failed(cudaErrorInvalidValue, "cudaMalloc: no pointer to write to");
  *p = nullptr;
  if (!bytes) return cudaSuccess;
  const size_t page = size_t(sysconf(_SC_PAGESIZE)), room = round_up(bytes, kAlignment);
  const size_t inner = round_up(room, page), mapped = inner + 2 * kAround;
  void *base = bytes > size_t(device.memory)
                   ? MAP_FAILED
                   : mmap(nullptr, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED)
    return failed(cudaErrorMemoryAllocation, "cudaMalloc of %zu bytes: out of memory", bytes);
  unsigned char *start = static_cast<unsigned char *>(base) + kAround;
  mprotect(start, inner, PROT_READ | PROT_WRITE);
  unsigned char *address = start + inner - room;
  fill(start, address);
  memset(address, kPoison, bytes);
  fill(address + bytes, address + room);
  const std::lock_guard<std::mutex> lock(mutex);
  allocations[address] = {bytes, static_cast<unsigned char *>(base), mapped, type};
  *p = address;
  return cudaSuccess;
}

cudaError_t release(const char *function, void *p, bool host) {
  if (!p) return sticky();
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = allocations.find(static_cast<unsigned char *>(p));
  if (found == allocations.end() || (found->second.type == cudaMemoryTypeHost) != host)
    return failed(cudaErrorInvalidValue, "%s: %p is no address that it can free", function, p);
  munmap(found->second.base, found->second.mapped);
  allocations.erase(found);
  return sticky();
}

bool is_device(const void *p) {
  const auto *one = near(p);
  return one && one->second.type == cudaMemoryTypeDevice;
}

cudaError_t check_direction(const char *function, const void *to, const void *from, cudaMemcpyKind kind) {
  if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault)
    return failed(cudaErrorInvalidMemcpyDirection, "%s: there is no direction %d", function, int(kind));
  const std::lock_guard<std::mutex> lock(mutex);
  if ((kind == cudaMemcpyHostToDevice || kind == cudaMemcpyHostToHost) && is_device(from))
    return failed(cudaErrorInvalidValue, "%s: the source %p lies on the device, not on the host", function,
                  from);
  if ((kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyHostToHost) && is_device(to))
    return failed(cudaErrorInvalidValue, "%s: the destination %p lies on the device, not on the host", function,
                  to);
  return cudaSuccess;
}

// Does work now, or, where the stream is captured, later.
template <class F> cudaError_t enqueue(cudaStream_t stream, F work) {
  CUgraph_st *graph = nullptr;
  if (const cudaError_t error = capturing(stream, &graph)) return error;
  if (graph)
    graph->work.push_back(work);
  else
    work();
  return cudaSuccess;
}

cudaError_t copy_rows(const char *function, void *to, size_t to_pitch, const void *from, size_t from_pitch,
                      size_t width, size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
  if (const cudaError_t error = sticky()) return error;
  if (!width || !height) return cudaSuccess;
  if (width > to_pitch || width > from_pitch)
    return failed(cudaErrorInvalidPitchValue, "%s: rows of %zu bytes, pitches %zu and %zu", function, width,
                  to_pitch, from_pitch);
  if (!to || !from) return failed(cudaErrorInvalidValue, "%s: a null pointer", function);
  const size_t rows = height - 1;
  cudaError_t error = check_range(function, "the destination", to, rows * to_pitch + width);
  if (!error) error = check_range(function, "the source", from, rows * from_pitch + width);
  if (!error) error = check_direction(function, to, from, kind);
  if (error) return error;
  return enqueue(stream, [=] {
    for (size_t row = 0; row < height; row++)
      memmove(static_cast<char *>(to) + row * to_pitch, static_cast<const char *>(from) + row * from_pitch,
              width);
  });
}

cudaError_t fill_rows(const char *function, void *p, size_t pitch, int value, size_t width, size_t height,
                      cudaStream_t stream) {
  if (const cudaError_t error = sticky()) return error;
  if (!width || !height) return cudaSuccess;
  if (width > pitch)
    return failed(cudaErrorInvalidPitchValue, "%s: rows of %zu bytes, pitch %zu", function, width, pitch);
  if (!p) return failed(cudaErrorInvalidValue, "%s: a null pointer", function);
  if (const cudaError_t error = check_range(function, "it", p, (height - 1) * pitch + width)) return error;
  return enqueue(stream, [=] {
    for (size_t row = 0; row < height; row++) memset(static_cast<char *>(p) + row * pitch, value, width);
  });
}

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

} // namespace

cudaError_t check_range(const char *function, const char *what, const void *p, size_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex);
  const auto *one = near(p);
  if (!one) return cudaSuccess;
  const size_t at = size_t(static_cast<const unsigned char *>(p) - one->first);
  if (p >= one->first && at + bytes <= one->second.bytes) return cudaSuccess;
  return failed(cudaErrorInvalidValue, "%s: %s, %zu bytes at byte %zd of an allocation of %zu", function, what,
                bytes, ptrdiff_t(at), one->second.bytes);
}

std::string find_overrun() {
  const std::lock_guard<std::mutex> lock(mutex);
  std::string found;
  for (const auto &[first, one] : allocations) {
    unsigned char *address = const_cast<unsigned char *>(first), *end = address + one.bytes;
    const bool before = !is_filled(one.start(), address), past = !is_filled(end, one.end());
    if (before) fill(one.start(), address);
    if (past) fill(end, one.end());
    if (before || past)
      found = std::string("writes ") + (past ? "past the end" : "before the start") + " of an allocation of " +
              std::to_string(one.bytes) + " bytes, seen when the grid had ended";
  }
  return found;
}

std::string describe_address(uint64_t address, int write) {
  const std::lock_guard<std::mutex> lock(mutex);
  const auto *one = near(reinterpret_cast<void *>(address));
  if (!one) return "";
  const ptrdiff_t at = reinterpret_cast<unsigned char *>(address) - one->first;
  const ptrdiff_t bytes = ptrdiff_t(one->second.bytes);
  const std::string place = at < 0 ? std::to_string(-at) + " bytes before the start"
                                   : std::to_string(at - bytes) + " bytes past the end";
  return std::string(write < 0 ? "accesses"
                     : write   ? "writes"
                               : "reads") +
         " " + place + " of an allocation of " + std::to_string(bytes) + " bytes";
}

void free_everything() {
  const std::lock_guard<std::mutex> lock(mutex);
  for (const auto &one : allocations) munmap(one.second.base, one.second.mapped);
  allocations.clear();
}

cudaError_t capturing(cudaStream_t stream, CUgraph_st **graph) {
  *graph = nullptr;
  if (!stream || stream == cudaStreamLegacy || stream == cudaStreamPerThread) return cudaSuccess;
  const std::lock_guard<std::mutex> lock(mutex);
  if (!streams.count(stream)) return failed(cudaErrorInvalidResourceHandle, "%p is no stream", (void *)stream);
  *graph = stream->captures;
  return cudaSuccess;
}

cudaError_t copy_symbol(void *symbol, size_t size, size_t offset, void *other, size_t bytes, bool to_symbol) {
  if (const cudaError_t error = sticky()) return error;
  if (offset > size || bytes > size - offset)
    return failed(cudaErrorInvalidValue, "cudaMemcpy%sSymbol: %zu bytes at byte %zu of a variable of %zu",
                  to_symbol ? "To" : "From", bytes, offset, size);
  char *at = static_cast<char *>(symbol) + offset;
  memcpy(to_symbol ? at : other, to_symbol ? other : at, bytes);
  return cudaSuccess;
}

} // namespace ksim::cuda

using namespace ksim::cuda;

extern "C" {

// ---- Memory

cudaError_t cudaMalloc(void **p, size_t bytes) { return allocate(p, bytes, cudaMemoryTypeDevice); }
cudaError_t cudaMallocAsync(void **p, size_t bytes, cudaStream_t) {
  return allocate(p, bytes, cudaMemoryTypeDevice);
}
cudaError_t cudaMallocHost(void **p, size_t bytes, unsigned int) {
  return allocate(p, bytes, cudaMemoryTypeHost);
}
cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned int) {
  return allocate(p, bytes, cudaMemoryTypeHost);
}
cudaError_t cudaMallocManaged(void **p, size_t bytes, unsigned int) {
  return allocate(p, bytes, cudaMemoryTypeManaged);
}
cudaError_t cudaMallocPitch(void **p, size_t *pitch, size_t width, size_t height) {
  *pitch = round_up(width, 512);
  return allocate(p, *pitch * height, cudaMemoryTypeDevice);
}
cudaError_t cudaFree(void *p) { return release("cudaFree", p, false); }
cudaError_t cudaFreeAsync(void *p, cudaStream_t) { return release("cudaFreeAsync", p, false); }
cudaError_t cudaFreeHost(void *p) { return release("cudaFreeHost", p, true); }
cudaError_t cudaHostRegister(void *, size_t, unsigned int) { return sticky(); }
cudaError_t cudaHostUnregister(void *) { return sticky(); }
cudaError_t cudaHostGetDevicePointer(void **device, void *host, unsigned int) {
  *device = host;
  return sticky();
}
cudaError_t cudaMemGetInfo(size_t *free, size_t *total) {
  const std::lock_guard<std::mutex> lock(mutex);
  *free = *total = size_t(device.memory);
  for (const auto &one : allocations) *free -= std::min(*free, one.second.bytes);
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *attributes, const void *p) {
  const std::lock_guard<std::mutex> lock(mutex);
  const auto *one = near(p);
  const cudaMemoryType type = one ? one->second.type : cudaMemoryTypeUnregistered;
  void *address = const_cast<void *>(p);
  *attributes = {type, 0, one ? address : nullptr, type == cudaMemoryTypeDevice ? nullptr : address};
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
  return copy_rows("cudaMemcpy", to, bytes, from, bytes, bytes, 1, kind, nullptr);
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return copy_rows("cudaMemcpyAsync", to, bytes, from, bytes, bytes, 1, kind, stream);
}
cudaError_t cudaMemcpy2D(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                         size_t height, cudaMemcpyKind kind) {
  return copy_rows("cudaMemcpy2D", to, to_pitch, from, from_pitch, width, height, kind, nullptr);
}
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
  return copy_rows("cudaMemcpy2DAsync", to, to_pitch, from, from_pitch, width, height, kind, stream);
}
cudaError_t cudaMemcpyBatchAsync(void *const *to, const void *const *from, const size_t *bytes, size_t count,
                                 cudaMemcpyAttributes *attributes, size_t *attribute_indices,
                                 size_t attribute_count, cudaStream_t stream) {
  if (!stream || !attributes || !attribute_indices || !attribute_count || attribute_count > count ||
      attribute_indices[0] != 0)
    return failed(
        cudaErrorInvalidValue,
        "cudaMemcpyBatchAsync needs a stream that is not the null stream, and attributes from copy 0 on");
  for (size_t i = 0; i < count; i++) {
    const size_t n = bytes[i];
    const cudaError_t error = copy_rows("cudaMemcpyBatchAsync", to[i], n, from[i], n, n, 1, cudaMemcpyDefault,
                                        stream);
    if (error) return error;
  }
  return cudaSuccess;
}
cudaError_t cudaMemset(void *p, int value, size_t bytes) {
  return fill_rows("cudaMemset", p, bytes, value, bytes, 1, nullptr);
}
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream) {
  return fill_rows("cudaMemsetAsync", p, bytes, value, bytes, 1, stream);
}
cudaError_t cudaMemset2D(void *p, size_t pitch, int value, size_t width, size_t height) {
  return fill_rows("cudaMemset2D", p, pitch, value, width, height, nullptr);
}
cudaError_t cudaMemset2DAsync(void *p, size_t pitch, int value, size_t width, size_t height,
                              cudaStream_t stream) {
  return fill_rows("cudaMemset2DAsync", p, pitch, value, width, height, stream);
}
cudaError_t cudaMemPrefetchAsync(const void *, size_t, cudaMemLocation, unsigned int, cudaStream_t) {
  return sticky();
}

// ---- Streams and events

cudaError_t cudaStreamCreate(cudaStream_t *stream) {
  const std::lock_guard<std::mutex> lock(mutex);
  streams.insert(*stream = new CUstream_st);
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned int) { return cudaStreamCreate(stream); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned int, int) {
  return cudaStreamCreate(stream);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const std::lock_guard<std::mutex> lock(mutex);
  if (!streams.erase(stream))
    return failed(cudaErrorInvalidResourceHandle, "cudaStreamDestroy: %p is no stream", (void *)stream);
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  CUgraph_st *graph = nullptr;
  if (const cudaError_t error = capturing(stream, &graph)) return error;
  if (graph) return failed(cudaErrorStreamCaptureUnsupported, "a captured stream cannot be waited for");
  return sticky();
}
cudaError_t cudaStreamQuery(cudaStream_t stream) { return cudaStreamSynchronize(stream); }
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int) {
  CUgraph_st *graph = nullptr;
  if (const cudaError_t error = capturing(stream, &graph)) return error;
  if (!event) return failed(cudaErrorInvalidResourceHandle, "cudaStreamWaitEvent: no event");
  if (event->captured && stream && stream > cudaStreamPerThread) stream->captures = event->captured;
  return sticky();
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data) {
  return enqueue(stream, [=] { function(data); });
}
cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t function, void *data,
                                  unsigned int) {
  return enqueue(stream, [=] { function(stream, cudaSuccess, data); });
}
cudaError_t cudaEventCreate(cudaEvent_t *event) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned int) { return cudaEventCreate(event); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (!event) return failed(cudaErrorInvalidResourceHandle, "cudaEventRecord: no event");
  if (const cudaError_t error = capturing(stream, &event->captured)) return error;
  event->recorded = true;
  event->seconds = now();
  return sticky();
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return sticky(); }
cudaError_t cudaEventQuery(cudaEvent_t) { return sticky(); }
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end) {
  if (!start || !end || !start->recorded || !end->recorded)
    return failed(cudaErrorInvalidResourceHandle, "cudaEventElapsedTime: an event was never recorded");
  *milliseconds = float(1e3 * (end->seconds - start->seconds));
  return sticky();
}

// ---- Graphs

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  CUgraph_st *graph = nullptr;
  if (const cudaError_t error = capturing(stream, &graph)) return error;
  if (graph || !stream || stream <= cudaStreamPerThread)
    return failed(cudaErrorStreamCaptureUnsupported,
                  "cudaStreamBeginCapture: the default stream, or one captured already");
  stream->captures = new CUgraph_st;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
  if (const cudaError_t error = capturing(stream, graph)) return error;
  if (!*graph) return failed(cudaErrorIllegalState, "cudaStreamEndCapture: the stream is not captured");
  const std::lock_guard<std::mutex> lock(mutex);
  for (CUstream_st *other : streams) // those that events had joined
    if (other->captures == *graph) other->captures = nullptr;
  return sticky();
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status) {
  CUgraph_st *graph = nullptr;
  const cudaError_t error = capturing(stream, &graph);
  *status = graph ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return error;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long) {
  *exec = new CUgraphExec_st{*graph};
  return sticky();
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  return enqueue(stream, [work = exec->graph.work] {
    for (const auto &one : work) one();
  });
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}
}
