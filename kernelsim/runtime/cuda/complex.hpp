// SPDX-License-Identifier: MIT
// cuComplex.h: complex numbers as pairs, and their arithmetic (CUDA Toolkit, cuComplex.h). Division and
// absolute value scale their operands, so that nothing in between overflows.
#pragma once
#include "math.hpp"

using cuFloatComplex = float2;
using cuDoubleComplex = double2;
using cuComplex = cuFloatComplex;

#define KSIM_COMPLEX(C, T, f)                                                                  \
  KSIM_INLINE T cuCreal##f(C a) { return a.x; }                                                \
  KSIM_INLINE T cuCimag##f(C a) { return a.y; }                                                \
  KSIM_INLINE C cuConj##f(C a) { return {a.x, -a.y}; }                                         \
  KSIM_INLINE C cuCadd##f(C a, C b) { return {a.x + b.x, a.y + b.y}; }                         \
  KSIM_INLINE C cuCsub##f(C a, C b) { return {a.x - b.x, a.y - b.y}; }                         \
  KSIM_INLINE C cuCmul##f(C a, C b) { return {a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x}; } \
  KSIM_INLINE C cuCfma##f(C a, C b, C c) { return cuCadd##f(cuCmul##f(a, b), c); }             \
  KSIM_INLINE C cuCdiv##f(C a, C b) {                                                          \
    const T scale = 1 / (__builtin_fabs##f(b.x) + __builtin_fabs##f(b.y));                     \
    const C p{a.x * scale, a.y * scale}, q{b.x * scale, b.y * scale};                          \
    const T squared = q.x * q.x + q.y * q.y;                                                   \
    return {(p.x * q.x + p.y * q.y) / squared, (p.y * q.x - p.x * q.y) / squared};             \
  }                                                                                            \
  KSIM_INLINE T cuCabs##f(C a) { return __builtin_hypot##f(a.x, a.y); }
KSIM_COMPLEX(cuFloatComplex, float, f)
KSIM_COMPLEX(cuDoubleComplex, double, )
#undef KSIM_COMPLEX
KSIM_INLINE cuFloatComplex make_cuFloatComplex(float x, float y) { return {x, y}; }
KSIM_INLINE cuDoubleComplex make_cuDoubleComplex(double x, double y) { return {x, y}; }
KSIM_INLINE cuComplex make_cuComplex(float x, float y) { return {x, y}; }
KSIM_INLINE cuDoubleComplex cuComplexFloatToDouble(cuFloatComplex a) { return {a.x, a.y}; }
KSIM_INLINE cuFloatComplex cuComplexDoubleToFloat(cuDoubleComplex a) { return {float(a.x), float(a.y)}; }
