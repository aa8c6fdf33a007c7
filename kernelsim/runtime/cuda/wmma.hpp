// SPDX-License-Identifier: MIT
// mma.h: nvcuda::wmma for half, bfloat16, tf32 and 8-bit integers (CUDA C++ Programming Guide, "Warp Matrix
// Functions").
//
// How a fragment lies in the lanes is unspecified; here a lane holds neighbours in row-major order, each
// element once. Products are exact and added to the accumulator in float, one after another.
#pragma once
#include "bfloat16.hpp"
#include "half.hpp"
#include "warp.hpp"

namespace nvcuda::wmma {

struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
struct col_major {};
enum layout_t {
  mem_row_major,
  mem_col_major
};
namespace precision {
struct tf32 {};
} // namespace precision
namespace experimental { // names that CUTLASS's headers mention; fragments of these there are none
namespace precision {
struct u4 {};
struct s4 {};
struct b1 {};
} // namespace precision
enum bmmaBitOp {
  bmmaBitOpXOR = 1,
  bmmaBitOpAND = 2
};
enum bmmaAccumulateOp {
  bmmaAccumulateOpPOPC = 1
};
} // namespace experimental
template <class D, class A, class B, class C>
void bmma_sync(D &, const A &, const B &, const C &, experimental::bmmaBitOp, experimental::bmmaAccumulateOp) {
  __builtin_trap();
}

template <class T> struct element_of {
  using type = T;
};
template <> struct element_of<precision::tf32> {
  using type = float;
};
template <class Use, int M, int N, int K> struct extent;
template <int M, int N, int K> struct extent<matrix_a, M, N, K> {
  static constexpr int rows = M, columns = K;
};
template <int M, int N, int K> struct extent<matrix_b, M, N, K> {
  static constexpr int rows = K, columns = N;
};
template <int M, int N, int K> struct extent<accumulator, M, N, K> {
  static constexpr int rows = M, columns = N;
};

template <class Use, int M, int N, int K, class T, class Layout = void> struct fragment {
  using element_type = typename element_of<T>::type;
  static constexpr int num_elements = extent<Use, M, N, K>::rows * extent<Use, M, N, K>::columns / ksim::kLanes;
  static constexpr int num_storage_elements = num_elements;
  element_type x[num_elements];
};

// Calls f(i, row, column) for the elements of this lane.
template <class Use, int M, int N, int K, class T, class L, class F>
KSIM_INLINE void each_element(const fragment<Use, M, N, K, T, L> &fragment, F f) {
  constexpr int columns = extent<Use, M, N, K>::columns;
  for (int i = 0; i < fragment.num_elements; i++) {
    const int at = ksim::self().lane * fragment.num_elements + i;
    f(i, at / columns, at % columns);
  }
}
KSIM_INLINE void meet(const char *name, ksim::Where where) {
  ksim::together(ksim::cuda::meet, nullptr, nullptr, ksim::cuda::masked(name, 0xffffffff, where));
}

template <class Use, int M, int N, int K, class T, class L, class V>
KSIM_INLINE void fill_fragment(fragment<Use, M, N, K, T, L> &a, const V &value) {
  for (auto &x : a.x) x = value;
}
template <class Use, int M, int N, int K, class T, class L, class E>
KSIM_INLINE void load_matrix_sync(fragment<Use, M, N, K, T, L> &a, const E *p, unsigned int stride,
                                  KSIM_WHERE) {
  meet("load_matrix_sync", where);
  constexpr bool by_rows = ksim::cuda::same<L, row_major>;
  each_element(a, [&](int i, int row, int column) {
    a.x[i] = by_rows ? p[size_t(row) * stride + column] : p[size_t(column) * stride + row];
  });
}
template <int M, int N, int K, class T, class E>
KSIM_INLINE void load_matrix_sync(fragment<accumulator, M, N, K, T> &a, const E *p, unsigned int stride,
                                  layout_t layout, KSIM_WHERE) {
  meet("load_matrix_sync", where);
  each_element(a, [&](int i, int row, int column) {
    a.x[i] = layout == mem_row_major ? p[size_t(row) * stride + column] : p[size_t(column) * stride + row];
  });
}
template <int M, int N, int K, class T, class E>
KSIM_INLINE void store_matrix_sync(E *p, const fragment<accumulator, M, N, K, T> &a, unsigned int stride,
                                   layout_t layout, KSIM_WHERE) {
  meet("store_matrix_sync", where);
  each_element(a, [&](int i, int row, int column) {
    p[layout == mem_row_major ? size_t(row) * stride + column : size_t(column) * stride + row] = a.x[i];
  });
}

// What is multiplied: numbers of the accumulator's kind; tf32 without the bits that it lacks.
template <class T, class E> KSIM_INLINE auto factor(E x) {
  if constexpr (ksim::cuda::same<T, precision::tf32>)
    return ksim::float_of(ksim::bits_of(float(x)) & 0xffffe000);
  else if constexpr (ksim::cuda::Integer<E>)
    return int(x);
  else
    return float(x);
}
template <class D, class A, class B, class C> struct Operands {
  A a;
  B b;
  C c;
};
template <int M, int N, int K, class TA, class TB, class In, class D> void multiply(ksim::Lanes &lanes) {
  if (lanes.active != ksim::cuda::kFullMask) { // lanes that have returned leave it undefined
    ksim::cuda::each_lane(lanes.active, [&](int lane) { lanes.result<D>(lane) = ksim::cuda::poison<D>(); });
    return;
  }
  using F = decltype(factor<TA>(lanes.arg<In>(0).a.x[0]));
  F a[M * K], b[K * N], d[M * N];
  for (int lane = 0; lane < ksim::kLanes; lane++) {
    const In &in = lanes.arg<In>(lane);
    for (int i = 0; i < in.a.num_elements; i++) a[lane * in.a.num_elements + i] = factor<TA>(in.a.x[i]);
    for (int i = 0; i < in.b.num_elements; i++) b[lane * in.b.num_elements + i] = factor<TB>(in.b.x[i]);
    for (int i = 0; i < in.c.num_elements; i++) d[lane * in.c.num_elements + i] = F(in.c.x[i]);
  }
  for (int m = 0; m < M; m++)
    for (int k = 0; k < K; k++)
      for (int n = 0; n < N; n++) d[m * N + n] += a[m * K + k] * b[k * N + n];
  for (int lane = 0; lane < ksim::kLanes; lane++)
    for (int i = 0; i < D::num_elements; i++) lanes.result<D>(lane).x[i] = d[lane * D::num_elements + i];
}
template <int M, int N, int K, class TD, class TA, class LA, class TB, class LB, class TC>
KSIM_INLINE void mma_sync(fragment<accumulator, M, N, K, TD> &d, const fragment<matrix_a, M, N, K, TA, LA> &a,
                          const fragment<matrix_b, M, N, K, TB, LB> &b,
                          const fragment<accumulator, M, N, K, TC> &c, KSIM_WHERE) {
  using FD = fragment<accumulator, M, N, K, TD>;
  using In = Operands<FD, fragment<matrix_a, M, N, K, TA, LA>, fragment<matrix_b, M, N, K, TB, LB>,
                      fragment<accumulator, M, N, K, TC>>;
  const In in{a, b, c};
  FD out;
  ksim::together(multiply<M, N, K, TA, TB, In, FD>, &in, &out, {"mma_sync", where});
  d = out;
}

KSIM_INLINE float __float_to_tf32(float x) { return ksim::float_of(ksim::tf32(x)); }

} // namespace nvcuda::wmma
