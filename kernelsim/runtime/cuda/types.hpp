// SPDX-License-Identifier: MIT
// CUDA's vector types and the variables that every thread has (CUDA C++ Programming Guide, "Built-in Vector
// Types" and "Built-in Variables").
#pragma once
#include "../engine.hpp"

// A vector is an aggregate, as in CUDA. For the traffic audit it reports its copies, so that reading one from
// memory is one access of its full width, and has constructors that take what aggregate initialisation takes.
#ifdef KSIM_AUDIT
#define KSIM_AUDITED_COPY(V)                                                   \
  KSIM_INLINE V(const V &other) { ksim::audit_copy(this, &other, sizeof(V)); } \
  KSIM_INLINE V &operator=(const V &other) {                                   \
    ksim::audit_copy(this, &other, sizeof(V));                                 \
    return *this;                                                              \
  }
#define KSIM_UNPACK(...) __VA_ARGS__
#define KSIM_AUDITED(V, parameters, fields)                               \
  V() = default;                                                          \
  KSIM_INLINE constexpr V(KSIM_UNPACK parameters) : KSIM_UNPACK fields {} \
  KSIM_AUDITED_COPY(V)
#else
#define KSIM_AUDITED_COPY(V)
#define KSIM_AUDITED(V, parameters, fields)
#endif

// `#pragma unroll N` before a loop, which keeps small arrays in registers; the audit wants each access once.
#define KSIM_PRAGMA(...) _Pragma(#__VA_ARGS__)
#ifdef KSIM_AUDIT
#define KSIM_UNROLL(...)
#else
#define KSIM_UNROLL(...) KSIM_PRAGMA(unroll __VA_ARGS__)
#endif

#define KSIM_VECTOR2(V, T, align)                  \
  struct alignas(align) V {                        \
    T x, y;                                        \
    KSIM_AUDITED(V, (T a, T b = {}), (x(a), y(b))) \
  };                                               \
  KSIM_INLINE constexpr V make_##V(T x, T y) { return {x, y}; }
#define KSIM_VECTOR4(V, T, align)                                                  \
  struct alignas(align) V {                                                        \
    T x, y, z, w;                                                                  \
    KSIM_AUDITED(V, (T a, T b = {}, T c = {}, T d = {}), (x(a), y(b), z(c), w(d))) \
  };                                                                               \
  KSIM_INLINE constexpr V make_##V(T x, T y, T z, T w) { return {x, y, z, w}; }
#define KSIM_VECTORS(name, T)                                                       \
  struct name##1 { T x; };                                                          \
  KSIM_INLINE constexpr name##1 make_##name##1(T x) { return {x}; }                 \
  KSIM_VECTOR2(name##2, T, 2 * sizeof(T))                                           \
  struct name##3 { T x, y, z; };                                                    \
  KSIM_INLINE constexpr name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; } \
  KSIM_VECTOR4(name##4, T, sizeof(T) < 4 ? 4 * sizeof(T) : 16)

KSIM_VECTORS(char, signed char)
KSIM_VECTORS(uchar, unsigned char)
KSIM_VECTORS(short, short)
KSIM_VECTORS(ushort, unsigned short)
KSIM_VECTORS(int, int)
KSIM_VECTORS(uint, unsigned int)
KSIM_VECTORS(long, long)
KSIM_VECTORS(ulong, unsigned long)
KSIM_VECTORS(longlong, long long)
KSIM_VECTORS(ulonglong, unsigned long long)
KSIM_VECTORS(float, float)
KSIM_VECTORS(double, double)
// CUDA 13 names the alignment of four 8-byte elements: 16 bytes, or 32 for the 256-bit loads of sm_100.
#define KSIM_VECTOR4S(name, T)     \
  KSIM_VECTOR4(name##4_16a, T, 16) \
  KSIM_VECTOR4(name##4_32a, T, 32)
KSIM_VECTOR4S(double, double)
KSIM_VECTOR4S(longlong, long long)
KSIM_VECTOR4S(ulonglong, unsigned long long)
KSIM_VECTOR4S(long, long)
KSIM_VECTOR4S(ulong, unsigned long)
#undef KSIM_VECTOR4S

using uint = unsigned int; // as glibc has them, which nvcc's programs rely on
using ushort = unsigned short;

struct dim3 {
  unsigned int x = 1, y = 1, z = 1;
  KSIM_INLINE constexpr dim3(unsigned int x = 1, unsigned int y = 1, unsigned int z = 1) : x(x), y(y), z(z) {}
  KSIM_INLINE constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
  KSIM_INLINE constexpr operator uint3() const { return {x, y, z}; }
};

namespace ksim::cuda {

// threadIdx and its like are objects, not macros, because host code names its own variables blockDim.
template <class V, auto kRead> struct Builtin {
  __declspec(property(get = get_x)) unsigned int x;
  __declspec(property(get = get_y)) unsigned int y;
  __declspec(property(get = get_z)) unsigned int z;
  KSIM_INLINE unsigned int get_x() const { return kRead().x; }
  KSIM_INLINE unsigned int get_y() const { return kRead().y; }
  KSIM_INLINE unsigned int get_z() const { return kRead().z; }
  KSIM_INLINE operator V() const { return {kRead().x, kRead().y, kRead().z}; }
};
KSIM_INLINE const Dim &thread_index() { return self().position; }
KSIM_INLINE const Dim &block_index() { return worker->group_position; }
KSIM_INLINE const Dim &block_size() { return worker->group_size; }
KSIM_INLINE const Dim &grid_size() { return worker->launch->groups; }

template <class A, class B> constexpr bool same = __is_same(A, B);
template <class T> struct Type {
  using type = T;
};
template <class T> using Same = typename Type<T>::type; // not deduced: an argument converts to T
template <class T>
concept Number = __is_arithmetic(T);
template <class T>
concept Integer = __is_integral(T);

// What an operation leaves undefined is all ones, so that it shows: NaN, -1.
template <class T> KSIM_INLINE T poison() {
  T value;
  __builtin_memset(static_cast<void *>(&value), 0xff, sizeof value);
  return value;
}

} // namespace ksim::cuda

constexpr ksim::cuda::Builtin<uint3, ksim::cuda::thread_index> threadIdx;
constexpr ksim::cuda::Builtin<uint3, ksim::cuda::block_index> blockIdx;
constexpr ksim::cuda::Builtin<dim3, ksim::cuda::block_size> blockDim;
constexpr ksim::cuda::Builtin<dim3, ksim::cuda::grid_size> gridDim;
constexpr int warpSize = 32;
