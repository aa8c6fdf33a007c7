// SPDX-License-Identifier: MIT
// <metal_matrix>: float4x4 and the like, column by column. simdgroup_matrix is in simdgroup_matrix.hpp.
#pragma once
#include "vector_math.hpp"

namespace metal {

template <class T, int kColumns, int kRows> struct matrix {
  vec<T, kRows> columns[kColumns];

  matrix() = default;
#ifdef KSIM_AUDIT
  KSIM_INLINE matrix(const matrix &m) { ksim::audit_copy(this, &m, sizeof m); }
  KSIM_INLINE matrix &operator=(const matrix &m) {
    ksim::audit_copy(this, &m, sizeof m);
    return *this;
  }
#endif
  KSIM_INLINE explicit matrix(T diagonal) {
    for (int c = 0; c < kColumns; c++)
      for (int r = 0; r < kRows; r++) columns[c].at(r) = c == r ? diagonal : T(0);
  }
  template <class U, class = enable_if_t<!is_same_v<T, U>>>
  KSIM_INLINE explicit matrix(const matrix<U, kColumns, kRows> &m) {
    for (int c = 0; c < kColumns; c++) columns[c] = vec<T, kRows>(m.columns[c]);
  }
  // Of columns.
  template <class... A,
            class = enable_if_t<sizeof...(A) == kColumns && (is_convertible_v<A, vec<T, kRows>> && ...)>,
            class = enable_if_t<(ksim::is_vector<A> && ...)>>
  KSIM_INLINE matrix(A... column) : columns{column...} {}
  // Of components, column by column.
  template <class... A, class = enable_if_t<sizeof...(A) == kColumns * kRows && (ksim::is_scalar<A> && ...)>>
  KSIM_INLINE matrix(A... a) {
    const T all[] = {static_cast<T>(a)...};
    for (int i = 0; i < kColumns * kRows; i++) columns[i / kRows].at(i % kRows) = all[i];
  }

  KSIM_INLINE vec<T, kRows> &operator[](int c) {
    if (uint(c) >= uint(kColumns)) __builtin_trap();
    return columns[c];
  }
  KSIM_INLINE const vec<T, kRows> &operator[](int c) const {
    if (uint(c) >= uint(kColumns)) __builtin_trap();
    return columns[c];
  }
#ifdef KSIM_CHECK
  matrix(const matrix &) = default;
  matrix(const __constant matrix &);
  matrix &operator=(const matrix &) = default;
  const __constant vec<T, kRows> &operator[](int c) const __constant;
#endif
};

#define KSIM_MATRIX template <class T, int C, int R> KSIM_INLINE

KSIM_MATRIX matrix<T, C, R> operator+(matrix<T, C, R> a, matrix<T, C, R> b) {
  for (int c = 0; c < C; c++) a.columns[c] += b.columns[c];
  return a;
}
KSIM_MATRIX matrix<T, C, R> operator-(matrix<T, C, R> a, matrix<T, C, R> b) {
  for (int c = 0; c < C; c++) a.columns[c] -= b.columns[c];
  return a;
}
KSIM_MATRIX matrix<T, C, R> operator-(matrix<T, C, R> a) {
  for (int c = 0; c < C; c++) a.columns[c] = -a.columns[c];
  return a;
}
KSIM_MATRIX matrix<T, C, R> operator*(matrix<T, C, R> m, ksim::same<T> s) {
  for (int c = 0; c < C; c++) m.columns[c] *= s;
  return m;
}
KSIM_MATRIX matrix<T, C, R> operator*(ksim::same<T> s, matrix<T, C, R> m) { return m * s; }
KSIM_MATRIX vec<T, R> operator*(matrix<T, C, R> m, vec<T, C> v) {
  vec<T, R> r = m.columns[0] * v.at(0);
  for (int c = 1; c < C; c++) r = r + m.columns[c] * v.at(c);
  return r;
}
KSIM_MATRIX vec<T, C> operator*(vec<T, R> v, matrix<T, C, R> m) {
  vec<T, C> r;
  for (int c = 0; c < C; c++) r.at(c) = dot(v, m.columns[c]);
  return r;
}
template <class T, int K, int R, int C>
KSIM_INLINE matrix<T, C, R> operator*(matrix<T, K, R> a, matrix<T, C, K> b) {
  matrix<T, C, R> m;
  for (int c = 0; c < C; c++) m.columns[c] = a * b.columns[c];
  return m;
}
template <class T, int C, int R, class B> KSIM_INLINE matrix<T, C, R> &operator+=(matrix<T, C, R> &a, B b) {
  return a = a + b;
}
template <class T, int C, int R, class B> KSIM_INLINE matrix<T, C, R> &operator-=(matrix<T, C, R> &a, B b) {
  return a = a - b;
}
template <class T, int C, int R, class B> KSIM_INLINE matrix<T, C, R> &operator*=(matrix<T, C, R> &a, B b) {
  return a = a * b;
}
KSIM_MATRIX bool operator==(matrix<T, C, R> a, matrix<T, C, R> b) {
  bool equal = true;
  for (int c = 0; c < C; c++) equal &= all(a.columns[c] == b.columns[c]);
  return equal;
}
KSIM_MATRIX bool operator!=(matrix<T, C, R> a, matrix<T, C, R> b) { return !(a == b); }
KSIM_MATRIX matrix<T, R, C> transpose(matrix<T, C, R> m) {
  matrix<T, R, C> t;
  for (int c = 0; c < C; c++)
    for (int r = 0; r < R; r++) t.columns[r].at(c) = m.columns[c].at(r);
  return t;
}
#undef KSIM_MATRIX

template <class T> KSIM_INLINE T determinant(matrix<T, 2, 2> m) {
  return m.columns[0].x * m.columns[1].y - m.columns[1].x * m.columns[0].y;
}
template <class T> KSIM_INLINE T determinant(matrix<T, 3, 3> m) {
  return dot(m.columns[0], cross(m.columns[1], m.columns[2]));
}
template <class T> KSIM_INLINE T determinant(matrix<T, 4, 4> m) { // by the minors of the last two rows
  const auto minor = [&m](int i, int j) {
    return m.columns[i].z * m.columns[j].w - m.columns[j].z * m.columns[i].w;
  };
  const vec<T, 4> x(m.columns[0].x, m.columns[1].x, m.columns[2].x, m.columns[3].x);
  const vec<T, 4> y(m.columns[0].y, m.columns[1].y, m.columns[2].y, m.columns[3].y);
  const vec<T, 4> cofactors(y.y * minor(2, 3) - y.z * minor(1, 3) + y.w * minor(1, 2),
                            y.x * minor(2, 3) - y.z * minor(0, 3) + y.w * minor(0, 2),
                            y.x * minor(1, 3) - y.y * minor(0, 3) + y.w * minor(0, 1),
                            y.x * minor(1, 2) - y.y * minor(0, 2) + y.z * minor(0, 1));
  return dot(x, cofactors * vec<T, 4>(1, -1, 1, -1));
}

} // namespace metal

#define KSIM_MATRIX(C, R)                            \
  using float##C##x##R = metal::matrix<float, C, R>; \
  using half##C##x##R = metal::matrix<half, C, R>;   \
  namespace metal {                                  \
  using ::float##C##x##R, ::half##C##x##R;           \
  }
KSIM_MATRIX(2, 2)
KSIM_MATRIX(2, 3)
KSIM_MATRIX(2, 4)
KSIM_MATRIX(3, 2)
KSIM_MATRIX(3, 3)
KSIM_MATRIX(3, 4)
KSIM_MATRIX(4, 2)
KSIM_MATRIX(4, 3)
KSIM_MATRIX(4, 4)
#undef KSIM_MATRIX
