// SPDX-License-Identifier: MIT
// Arithmetic, comparisons and functions of KSIM_T, which is __half or __nv_bfloat16, and of two of it, KSIM_V
// (CUDA Math API, "Half Precision Intrinsics" and "Bfloat16 Precision Intrinsics"). Included once for each of
// them: as functions, not templates, arguments convert as they do with nvcc.
//
// An operation is computed in float, or where that would round twice with odd rounding first, and rounded once.
// Functions such as hexp are the library's float functions, rounded; a GPU's may differ in the last place.

// ---- Arithmetic; never fused, so that __hadd and __hadd_rn are the same

#define KSIM_ARITHMETIC(name, name2, expression)                                                         \
  KSIM_INLINE KSIM_T __##name(KSIM_T a, KSIM_T b) { return expression; }                                 \
  KSIM_INLINE KSIM_T __##name##_rn(KSIM_T a, KSIM_T b) { return expression; }                            \
  KSIM_INLINE KSIM_T __##name##_sat(KSIM_T a, KSIM_T b) { return __saturatef(KSIM_T(expression)); }      \
  KSIM_INLINE KSIM_V name2(KSIM_V a, KSIM_V b) { return {__##name(a.x, b.x), __##name(a.y, b.y)}; }      \
  KSIM_INLINE KSIM_V name2##_rn(KSIM_V a, KSIM_V b) { return {__##name(a.x, b.x), __##name(a.y, b.y)}; } \
  KSIM_INLINE KSIM_V name2##_sat(KSIM_V a, KSIM_V b) {                                                   \
    return {__##name##_sat(a.x, b.x), __##name##_sat(a.y, b.y)};                                         \
  }
#pragma clang fp contract(off)
KSIM_ARITHMETIC(hadd, __hadd2, float(a) + float(b))
KSIM_ARITHMETIC(hsub, __hsub2, float(a) - float(b))
KSIM_ARITHMETIC(hmul, __hmul2, float(a) * float(b))
KSIM_ARITHMETIC(hdiv, __h2div, float(a) / float(b))
#pragma clang fp contract(on)
#undef KSIM_ARITHMETIC

KSIM_INLINE KSIM_T __hneg(KSIM_T a) { return ksim::cuda::with_bits<KSIM_T>(ksim::cuda::bits_of(a) ^ 0x8000); }
KSIM_INLINE KSIM_T __habs(KSIM_T a) { return ksim::cuda::with_bits<KSIM_T>(ksim::cuda::bits_of(a) & 0x7fff); }
KSIM_INLINE KSIM_T __hfma(KSIM_T a, KSIM_T b, KSIM_T c) { return ksim::cuda::fma_to_float<KSIM_T>(a, b, c); }
KSIM_INLINE KSIM_T __hfma_sat(KSIM_T a, KSIM_T b, KSIM_T c) { return __saturatef(__hfma(a, b, c)); }
KSIM_INLINE KSIM_T __hfma_relu(KSIM_T a, KSIM_T b, KSIM_T c) { // NaN stays, canonical
  const KSIM_T r = __hfma(a, b, c);
  return float(r) < 0 || ksim::cuda::bits_of(r) == 0x8000 ? KSIM_T(0.0f) : r;
}
KSIM_INLINE KSIM_V __hneg2(KSIM_V a) { return {__hneg(a.x), __hneg(a.y)}; }
KSIM_INLINE KSIM_V __habs2(KSIM_V a) { return {__habs(a.x), __habs(a.y)}; }
KSIM_INLINE KSIM_V __hfma2(KSIM_V a, KSIM_V b, KSIM_V c) {
  return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)};
}
KSIM_INLINE KSIM_V __hfma2_sat(KSIM_V a, KSIM_V b, KSIM_V c) {
  return {__hfma_sat(a.x, b.x, c.x), __hfma_sat(a.y, b.y, c.y)};
}
KSIM_INLINE KSIM_V __hfma2_relu(KSIM_V a, KSIM_V b, KSIM_V c) {
  return {__hfma_relu(a.x, b.x, c.x), __hfma_relu(a.y, b.y, c.y)};
}
KSIM_INLINE KSIM_V __hcmadd(KSIM_V a, KSIM_V b, KSIM_V c) { // complex
  return {__hfma(__hneg(a.y), b.y, __hfma(a.x, b.x, c.x)), __hfma(a.y, b.x, __hfma(a.x, b.y, c.y))};
}

// ---- Comparisons: false where one is NaN; the "unordered" ones, with u, true

#define KSIM_COMPARISON(name, op)                                                 \
  KSIM_INLINE bool __h##name(KSIM_T a, KSIM_T b) { return float(a) op float(b); } \
  KSIM_INLINE bool __h##name##u(KSIM_T a, KSIM_T b) {                             \
    return float(a) op float(b) || float(a) != float(a) || float(b) != float(b);  \
  }                                                                               \
  KSIM_COMPARISON2(name)                                                          \
  KSIM_COMPARISON2(name##u)
#define KSIM_COMPARISON2(name)                                                                              \
  KSIM_INLINE KSIM_V __h##name##2(KSIM_V a, KSIM_V b) {                                                     \
    return {float(__h##name(a.x, b.x)), float(__h##name(a.y, b.y))};                                        \
  }                                                                                                         \
  KSIM_INLINE bool __hb##name##2(KSIM_V a, KSIM_V b) { return __h##name(a.x, b.x) && __h##name(a.y, b.y); } \
  KSIM_INLINE unsigned int __h##name##2_mask(KSIM_V a, KSIM_V b) {                                          \
    return (__h##name(a.x, b.x) ? 0xffffu : 0) | (__h##name(a.y, b.y) ? 0xffff0000u : 0);                   \
  }
KSIM_COMPARISON(eq, ==)
KSIM_COMPARISON(lt, <)
KSIM_COMPARISON(le, <=)
KSIM_COMPARISON(gt, >)
KSIM_COMPARISON(ge, >=)
KSIM_INLINE bool __hne(KSIM_T a, KSIM_T b) { return float(a) < float(b) || float(a) > float(b); }
KSIM_INLINE bool __hneu(KSIM_T a, KSIM_T b) { return float(a) != float(b); }
KSIM_COMPARISON2(ne)
KSIM_COMPARISON2(neu)
#undef KSIM_COMPARISON
#undef KSIM_COMPARISON2
KSIM_INLINE bool __hisnan(KSIM_T a) { return float(a) != float(a); }
KSIM_INLINE int __hisinf(KSIM_T a) { return __builtin_isinf(float(a)) ? (float(a) > 0 ? 1 : -1) : 0; }
KSIM_INLINE KSIM_V __hisnan2(KSIM_V a) { return {float(__hisnan(a.x)), float(__hisnan(a.y))}; }

#define KSIM_CHOICE(name, name2, greater, nan)                                                           \
  KSIM_INLINE KSIM_T name(KSIM_T a, KSIM_T b) { return ksim::cuda::choose<greater, nan, KSIM_T>(a, b); } \
  KSIM_INLINE KSIM_V name2(KSIM_V a, KSIM_V b) { return {name(a.x, b.x), name(a.y, b.y)}; }
KSIM_CHOICE(__hmax, __hmax2, true, false)
KSIM_CHOICE(__hmin, __hmin2, false, false)
KSIM_CHOICE(__hmax_nan, __hmax2_nan, true, true)
KSIM_CHOICE(__hmin_nan, __hmin2_nan, false, true)
#undef KSIM_CHOICE

// ---- Functions

#define KSIM_FUNCTION(name, expression)  \
  KSIM_INLINE KSIM_T h##name(KSIM_T a) { \
    const float x = a;                   \
    return expression;                   \
  }                                      \
  KSIM_INLINE KSIM_V h2##name(KSIM_V a) { return {h##name(a.x), h##name(a.y)}; }
KSIM_FUNCTION(trunc, __builtin_truncf(x))
KSIM_FUNCTION(ceil, __builtin_ceilf(x))
KSIM_FUNCTION(floor, __builtin_floorf(x))
KSIM_FUNCTION(rint, __builtin_roundevenf(x))
KSIM_FUNCTION(sqrt, __builtin_sqrtf(x))
KSIM_FUNCTION(rsqrt, rsqrtf(x))
KSIM_FUNCTION(rcp, 1 / x)
KSIM_FUNCTION(log, __builtin_logf(x))
KSIM_FUNCTION(log2, __builtin_log2f(x))
KSIM_FUNCTION(log10, __builtin_log10f(x))
KSIM_FUNCTION(exp, __builtin_expf(x))
KSIM_FUNCTION(exp2, __builtin_exp2f(x))
KSIM_FUNCTION(exp10, exp10f(x))
KSIM_FUNCTION(cos, __builtin_cosf(x))
KSIM_FUNCTION(sin, __builtin_sinf(x))
KSIM_FUNCTION(tanh, __builtin_tanhf(x))
KSIM_FUNCTION(tanh_approx, __builtin_tanhf(x))
#undef KSIM_FUNCTION

KSIM_INLINE float __low2float(KSIM_V a) { return a.x; }
KSIM_INLINE float __high2float(KSIM_V a) { return a.y; }
KSIM_INLINE KSIM_V __lowhigh2highlow(KSIM_V a) { return {a.y, a.x}; }

// ---- Operators

#define KSIM_OPERATOR(op, name, name2)                                                  \
  KSIM_INLINE KSIM_T operator op(KSIM_T a, KSIM_T b) { return name(a, b); }             \
  KSIM_INLINE KSIM_V operator op(KSIM_V a, KSIM_V b) { return name2(a, b); }            \
  KSIM_INLINE KSIM_T &operator op## = (KSIM_T & a, KSIM_T b) { return a = name(a, b); } \
  KSIM_INLINE KSIM_V &operator op## = (KSIM_V & a, KSIM_V b) { return a = name2(a, b); }
KSIM_OPERATOR(+, __hadd, __hadd2)
KSIM_OPERATOR(-, __hsub, __hsub2)
KSIM_OPERATOR(*, __hmul, __hmul2)
KSIM_OPERATOR(/, __hdiv, __h2div)
#undef KSIM_OPERATOR
#define KSIM_OPERATOR(op, name, name2)                                    \
  KSIM_INLINE bool operator op(KSIM_T a, KSIM_T b) { return name(a, b); } \
  KSIM_INLINE bool operator op(KSIM_V a, KSIM_V b) { return name2(a, b); }
KSIM_OPERATOR(==, __heq, __hbeq2)
KSIM_OPERATOR(!=, __hneu, __hbneu2)
KSIM_OPERATOR(<, __hlt, __hblt2)
KSIM_OPERATOR(<=, __hle, __hble2)
KSIM_OPERATOR(>, __hgt, __hbgt2)
KSIM_OPERATOR(>=, __hge, __hbge2)
#undef KSIM_OPERATOR
KSIM_INLINE KSIM_T operator+(KSIM_T a) { return a; }
KSIM_INLINE KSIM_T operator-(KSIM_T a) { return __hneg(a); }
KSIM_INLINE KSIM_V operator+(KSIM_V a) { return a; }
KSIM_INLINE KSIM_V operator-(KSIM_V a) { return __hneg2(a); }
KSIM_INLINE KSIM_T &operator++(KSIM_T &a) { return a += KSIM_T(1); }
KSIM_INLINE KSIM_T &operator--(KSIM_T &a) { return a -= KSIM_T(1); }
KSIM_INLINE KSIM_T operator++(KSIM_T &a, int) {
  const KSIM_T before = a;
  a += KSIM_T(1);
  return before;
}
KSIM_INLINE KSIM_T operator--(KSIM_T &a, int) {
  const KSIM_T before = a;
  a -= KSIM_T(1);
  return before;
}
