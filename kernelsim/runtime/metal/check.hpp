// SPDX-License-Identifier: MIT
// The headers of this folder compiled as OpenCL C++, for the sake of its address spaces: what takes the place
// of the engine, and of C++'s own headers. Nothing of it is ever run.
#pragma once
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#pragma OPENCL EXTENSION cl_khr_fp64 : enable
#pragma OPENCL EXTENSION __cl_clang_variadic_functions : enable
#pragma OPENCL EXTENSION __cl_clang_function_pointers : enable

using size_t = __SIZE_TYPE__;
using ptrdiff_t = __PTRDIFF_TYPE__;
using intptr_t = __INTPTR_TYPE__;
using uintptr_t = __UINTPTR_TYPE__;
using int8_t = signed char;
using uint8_t = unsigned char;
using int16_t = short;
using uint16_t = unsigned short;
using int32_t = int;
using uint32_t = unsigned int;
using int64_t = long;
using uint64_t = unsigned long;

#define KSIM_INLINE inline

// OpenCL has keywords and types of these names.
#define local metal_local
#define global metal_global
#define generic metal_generic
#define pipe metal_pipe
#define read_only metal_read_only
#define write_only metal_write_only
#define atomic_int metal_atomic_int
#define atomic_uint metal_atomic_uint
#define atomic_ulong metal_atomic_ulong
#define atomic_float metal_atomic_float

namespace ksim {

constexpr int kLanes = 32;

struct Dim {
  uint32_t x, y, z;
};
struct Where {};
inline constexpr Where here() { return {}; }

struct Call;
struct Lanes {
  uint32_t active;
  const Call *call;
  template <class T> bool has(T lane) const;
  template <class T> const T &arg(int lane) const;
  template <class T> T &result(int lane) const;
};
using Together = void (*)(Lanes &);

enum Participants {
  kAllLive,
  kMasked,
  kConverged,
};
struct Call {
  const __constant char *name;
  Where where;
  Participants participants = kAllLive;
  uint32_t mask = ~0u;
};
enum FaultKind {
  kUndefined,
};

struct Fibre {
  uint32_t index;
  uint16_t lane, warp;
};
struct Worker {
  int threads;
};
extern Worker *worker;
Fibre &self();

void together(Together fn, const void *in, void *out, const Call &call);
void barrier(const Call &call);
void fail(FaultKind kind, Where where, const __constant char *format, ...);
void copy(void *to, const void *from, size_t bytes);
void audit_read(const void *from, size_t bytes);
void audit_write(const void *to, size_t bytes);

template <class S> __local S &shared() { return *(__local S *)0; } // a body: S may have no linkage

} // namespace ksim

template <class T> bool is_function_constant_defined(T);
