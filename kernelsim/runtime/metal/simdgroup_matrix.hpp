// SPDX-License-Identifier: MIT
// <metal_simdgroup_matrix>: matrices of 8 x 8 that lie across the lanes of a simdgroup, two elements in each.
//
// MSL leaves open where an element lies. The layout here is that of Apple's GPUs, which kernels rely on (MLX's
// steel, llama.cpp): lane l holds row 4 (l / 16) + l / 2 % 4, columns 4 (l / 8 % 2) + 2 (l % 2) and the next.
#pragma once
#include "simdgroup.hpp"

namespace ksim {

KSIM_INLINE constexpr int matrix_row(int lane) { return lane / 16 * 4 + lane / 2 % 4; }
KSIM_INLINE constexpr int matrix_column(int lane) { return lane / 8 % 2 * 4 + lane % 2 * 2; }

} // namespace ksim

namespace metal {

template <class T, int kColumns, int kRows> class simdgroup_matrix {
  static_assert(kColumns == 8 && kRows == 8, "a simdgroup_matrix is 8 x 8");
  static_assert(is_floating_point_v<T>, "a simdgroup_matrix is of half, bfloat or float");

public:
  using storage_type = vec<T, 2>;

  simdgroup_matrix() = default;
  KSIM_INLINE explicit simdgroup_matrix(T diagonal) {
    const int distance = ksim::matrix_row(ksim::self().lane) - ksim::matrix_column(ksim::self().lane);
    elements = storage_type(distance == 0 ? T(diagonal) : T(0), distance == 1 ? T(diagonal) : T(0));
  }
  KSIM_INLINE storage_type &thread_elements() { return elements; }
  KSIM_INLINE const storage_type &thread_elements() const { return elements; }

private:
  storage_type elements;
};

} // namespace metal
using simdgroup_float8x8 = metal::simdgroup_matrix<float, 8, 8>;
using simdgroup_half8x8 = metal::simdgroup_matrix<half, 8, 8>;
using simdgroup_bfloat8x8 = metal::simdgroup_matrix<bfloat, 8, 8>;

namespace ksim {

template <class T> using Matrix = metal::simdgroup_matrix<T, 8, 8>;

// The matrices of a lane; c is null where nothing is added. d may be one of the others.
template <class D, class A, class B, class C> struct Multiplied {
  const Matrix<A> *a;
  const Matrix<B> *b;
  const Matrix<C> *c;
  Matrix<D> *d;
};

#ifdef KSIM_CHECK
template <class D, class A, class B, class C> void multiply(Lanes &lanes);
#else
typedef float Row __attribute__((ext_vector_type(8)));
constexpr int kElements = 2 * kLanes;

// A row from elements in the order of the lanes: columns 0 to 3 and 4 to 7 each lie in two neighbours.
KSIM_INLINE Row row_of(const float *elements, int row) {
  const float *first = elements + row / 4 * 32 + row % 4 * 4;
  Row r;
  __builtin_memcpy(&r, first, 16);
  __builtin_memcpy(reinterpret_cast<float *>(&r) + 4, first + 16, 16);
  return r;
}
template <class T> KSIM_INLINE void to_floats(float *to, const T *from) {
  for (int i = 0; i < kElements; i++) to[i] = float(from[i]);
}

// d = a * b + c. As floats, whatever the types: each element of d begins with that of c, then a[r][k] * b[k][c]
// are added for k = 0, 1 .. 7, product and sum rounded once where the CPU has a fused multiply-add (of halves
// and bfloats the product is exact either way), and the result is rounded to d's type. What Apple's GPUs do is
// not documented. Elements of lanes that do not take part are poison.
template <class D, class A, class B, class C> void multiply(Lanes &lanes) {
  using In = Multiplied<D, A, B, C>;
  A of_a[kElements];
  B of_b[kElements];
  C of_c[kElements];
  if (lanes.active != ~0u) {
    __builtin_memset(static_cast<void *>(of_a), 0xff, sizeof of_a);
    __builtin_memset(static_cast<void *>(of_b), 0xff, sizeof of_b);
    __builtin_memset(static_cast<void *>(of_c), 0xff, sizeof of_c);
  }
  const bool adds = lanes.arg<In>(__builtin_ctz(lanes.active)).c;
  if (!adds) __builtin_memset(static_cast<void *>(of_c), 0, sizeof of_c);
  for (int i = 0; i < kLanes; i++) {
    if (!lanes.has(i)) continue;
    const In &in = lanes.arg<In>(i);
    __builtin_memcpy(of_a + 2 * i, in.a, 2 * sizeof(A));
    __builtin_memcpy(of_b + 2 * i, in.b, 2 * sizeof(B));
    if (adds) __builtin_memcpy(of_c + 2 * i, in.c, 2 * sizeof(C));
  }
  float a[kElements], b[kElements], c[kElements], d[kElements];
  to_floats(a, of_a);
  to_floats(b, of_b);
  to_floats(c, of_c);
  for (int r = 0; r < 8; r++) {
    const Row factors = row_of(a, r);
    Row sum = row_of(c, r);
    for (int k = 0; k < 8; k++) sum = factors[k] * row_of(b, k) + sum;
    float *first = d + r / 4 * 32 + r % 4 * 4;
    __builtin_memcpy(first, &sum, 16);
    __builtin_memcpy(first + 16, reinterpret_cast<float *>(&sum) + 4, 16);
  }
  D of_d[kElements];
  for (int i = 0; i < kElements; i++) of_d[i] = D(d[i]);
  for (int i = 0; i < kLanes; i++)
    if (lanes.has(i)) __builtin_memcpy(lanes.arg<In>(i).d, of_d + 2 * i, 2 * sizeof(D));
}
#endif

// Where a lane's elements lie: the first in memory, and how far behind it the second.
struct Elements {
  ulong first, step;
};
KSIM_INLINE Elements elements_of(ulong elements_per_row, metal::ulong2 origin, bool transposed) {
  const int lane = self().lane;
  const ulong row = matrix_row(lane), column = matrix_column(lane);
  const ulong start = origin.y * elements_per_row + origin.x;
  if (transposed) return {start + column * elements_per_row + row, elements_per_row};
  return {start + row * elements_per_row + column, 1};
}

} // namespace ksim

namespace metal {

template <class T, int kColumns, int kRows = kColumns>
KSIM_INLINE simdgroup_matrix<T, kColumns, kRows> make_filled_simdgroup_matrix(ksim::same<T> value) {
  simdgroup_matrix<T, kColumns, kRows> m;
  m.thread_elements() = vec<T, 2>(value);
  return m;
}

#ifdef KSIM_CHECK
template <class T, class P>
void simdgroup_load(ksim::Matrix<T> &d, const __constant P *source, ulong elements_per_row = 8,
                    ulong2 matrix_origin = 0, bool transpose_matrix = false) = delete; // device or threadgroup
#endif
// No lane waits for another: each moves its own two elements, in one access where they are neighbours.
template <class T, class P>
KSIM_INLINE void simdgroup_load(ksim::Matrix<T> &d, const P *source, ulong elements_per_row = 8,
                                ulong2 matrix_origin = 0, bool transpose_matrix = false) {
#ifndef KSIM_CHECK
  static_assert(is_same_v<remove_cv_t<P>, T>, "simdgroup_load converts nothing: the types must be the same");
  const ksim::Elements at = ksim::elements_of(elements_per_row, matrix_origin, transpose_matrix);
  T loaded[2];
  if (at.step == 1) {
    ksim::copy(loaded, source + at.first, sizeof loaded);
  } else {
    ksim::copy(loaded, source + at.first, sizeof(T));
    ksim::copy(loaded + 1, source + at.first + at.step, sizeof(T));
  }
  d.thread_elements() = vec<T, 2>(loaded[0], loaded[1]);
#endif
}
template <class T, class P>
KSIM_INLINE void simdgroup_store(ksim::Matrix<T> a, P *target, ulong elements_per_row = 8,
                                 ulong2 matrix_origin = 0, bool transpose_matrix = false) {
#ifdef KSIM_CHECK
  *target = T(); // not through const
#else
  static_assert(is_same_v<remove_volatile_t<P>, T>,
                "simdgroup_store converts nothing: the types must be the same");
  const ksim::Elements at = ksim::elements_of(elements_per_row, matrix_origin, transpose_matrix);
  const T stored[] = {a.thread_elements().x, a.thread_elements().y};
  if (at.step == 1) {
    ksim::copy(target + at.first, stored, sizeof stored);
  } else {
    ksim::copy(target + at.first, stored, sizeof(T));
    ksim::copy(target + at.first + at.step, stored + 1, sizeof(T));
  }
#endif
}

template <class D, class A, class B, class C>
KSIM_INLINE void simdgroup_multiply_accumulate(ksim::Matrix<D> &d, const ksim::Matrix<A> &a,
                                               const ksim::Matrix<B> &b, const ksim::Matrix<C> &c,
                                               ksim::Where where = ksim::here()) {
  const ksim::Multiplied<D, A, B, C> in = {&a, &b, &c, &d};
  ksim::together(ksim::multiply<D, A, B, C>, &in, nullptr, {"simdgroup_multiply_accumulate", where});
}
template <class D, class A, class B>
KSIM_INLINE void simdgroup_multiply(ksim::Matrix<D> &d, const ksim::Matrix<A> &a, const ksim::Matrix<B> &b,
                                    ksim::Where where = ksim::here()) {
  const ksim::Multiplied<D, A, B, D> in = {&a, &b, nullptr, &d};
  ksim::together(ksim::multiply<D, A, B, D>, &in, nullptr, {"simdgroup_multiply", where});
}
template <class T> KSIM_INLINE ksim::Matrix<T> operator*(const ksim::Matrix<T> &a, const ksim::Matrix<T> &b) {
  ksim::Matrix<T> d;
  simdgroup_multiply(d, a, b);
  return d;
}

using ::simdgroup_bfloat8x8;
using ::simdgroup_float8x8;
using ::simdgroup_half8x8;

} // namespace metal
