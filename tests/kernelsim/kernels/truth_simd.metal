// SPDX-License-Identifier: MIT
// SIMD-group and quad-group functions of one SIMD-group of 32, and the layout of simdgroup_matrix.
#include <metal_stdlib>
using namespace metal;

// Result k of lane t is d[32 * k + t]. delta is the same for all lanes, lanes gives each one of its own.
kernel void permute(device int *d, device const int *x, device const int *filling, device const ushort *lanes,
                    constant ushort &delta, ushort t [[thread_index_in_simdgroup]]) {
  d += t;
  d[0] = simd_shuffle(x[t], lanes[t]);
  d[32] = simd_shuffle_up(x[t], delta);
  d[64] = simd_shuffle_down(x[t], delta);
  d[96] = simd_shuffle_rotate_up(x[t], delta);
  d[128] = simd_shuffle_rotate_down(x[t], delta);
  d[160] = simd_shuffle_xor(x[t], delta);
  d[192] = simd_shuffle_and_fill_up(x[t], filling[t], delta);
  d[224] = simd_shuffle_and_fill_down(x[t], filling[t], delta);
  d[256] = simd_broadcast(x[t], delta);
  d[288] = simd_broadcast_first(x[t]);
}

kernel void permute_modulo(device int *d, device const int *x, device const int *filling,
                           constant ushort &delta, constant ushort &modulo,
                           ushort t [[thread_index_in_simdgroup]]) {
  d[t] = simd_shuffle_and_fill_up(x[t], filling[t], delta, modulo);
  d[32 + t] = simd_shuffle_and_fill_down(x[t], filling[t], delta, modulo);
}

kernel void permute_quad(device int *d, device const int *x, device const int *filling,
                         device const ushort *lanes, constant ushort &delta,
                         ushort t [[thread_index_in_simdgroup]]) {
  d += t;
  d[0] = quad_shuffle(x[t], lanes[t]);
  d[32] = quad_shuffle_up(x[t], delta);
  d[64] = quad_shuffle_down(x[t], delta);
  d[96] = quad_shuffle_rotate_up(x[t], delta);
  d[128] = quad_shuffle_rotate_down(x[t], delta);
  d[160] = quad_shuffle_xor(x[t], delta);
  d[192] = quad_shuffle_and_fill_up(x[t], filling[t], delta);
  d[224] = quad_shuffle_and_fill_down(x[t], filling[t], delta);
  d[256] = quad_broadcast(x[t], delta);
  d[288] = quad_broadcast_first(x[t]);
}

kernel void reduce(device int *d, device const int *x, ushort t [[thread_index_in_simdgroup]]) {
  d += t;
  d[0] = simd_sum(x[t]);
  d[32] = simd_product(x[t]);
  d[64] = simd_min(x[t]);
  d[96] = simd_max(x[t]);
  d[128] = simd_and(x[t]);
  d[160] = simd_or(x[t]);
  d[192] = simd_xor(x[t]);
  d[224] = quad_sum(x[t]);
  d[256] = quad_product(x[t]);
  d[288] = quad_min(x[t]);
  d[320] = quad_max(x[t]);
  d[352] = quad_and(x[t]);
  d[384] = quad_or(x[t]);
  d[416] = quad_xor(x[t]);
}

kernel void scan(device int *d, device const int *x, ushort t [[thread_index_in_simdgroup]]) {
  d += t;
  d[0] = simd_prefix_inclusive_sum(x[t]);
  d[32] = simd_prefix_exclusive_sum(x[t]);
  d[64] = simd_prefix_inclusive_product(x[t]);
  d[96] = simd_prefix_exclusive_product(x[t]);
}

// Every other lane is not active: reductions and scans leave it out.
kernel void some_lanes(device int *d, device const int *x, ushort t [[thread_index_in_simdgroup]]) {
  if (t % 2 == 0) return;
  d += t;
  d[0] = simd_sum(x[t]);
  d[32] = simd_min(x[t]);
  d[64] = simd_prefix_inclusive_sum(x[t]);
  d[96] = simd_prefix_exclusive_sum(x[t]);
  d[128] = simd_is_first();
  d[160] = simd_broadcast_first(x[t]);
}

kernel void vote(device uint *d, device const uint *x, ushort t [[thread_index_in_simdgroup]]) {
  d += t;
  d[0] = (uint)(ulong)(simd_vote::vote_t)simd_ballot(x[t] != 0);
  d[32] = simd_all(x[t] != 0);
  d[64] = simd_any(x[t] != 0);
  d[96] = simd_is_first();
  d[128] = (uint)(ulong)(simd_vote::vote_t)simd_active_threads_mask();
}

// What thread_elements() hold after a load, and where they go in a store.
kernel void elements(device float *held, device float *stored, device const float *x,
                     ushort t [[thread_index_in_simdgroup]]) {
  simdgroup_matrix<float, 8, 8> m;
  simdgroup_load(m, x, 8);
  held[2 * t] = m.thread_elements()[0];
  held[2 * t + 1] = m.thread_elements()[1];
  m.thread_elements()[0] = 100 * t;
  m.thread_elements()[1] = 100 * t + 1;
  simdgroup_store(m, stored, 8);
}

// Rows of `stride` elements, an origin of (column, row), and transposed.
kernel void places(device half *plain, device half *moved, device half *transposed, device const half *x,
                   constant uint &stride) {
  simdgroup_matrix<half, 8, 8> m;
  simdgroup_load(m, x, stride);
  simdgroup_store(m, plain, 8);
  simdgroup_load(m, x, stride, ulong2(3, 2));
  simdgroup_store(m, moved, 8);
  simdgroup_load(m, x, stride, ulong2(0, 0), true);
  simdgroup_store(m, transposed, 8);
}

kernel void multiply(device float *d, device float *e, device const half *a, device const half *b,
                     device const float *c, device const float *f) {
  simdgroup_matrix<half, 8, 8> x, y;
  simdgroup_matrix<float, 8, 8> z, r = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  simdgroup_load(x, a, 8);
  simdgroup_load(y, b, 8);
  simdgroup_load(z, c, 8);
  simdgroup_multiply_accumulate(r, x, y, z);
  simdgroup_store(r, d, 8);
  simdgroup_matrix<float, 8, 8> u, diagonal(3.0f);
  simdgroup_load(u, f, 8);
  simdgroup_multiply(r, u, diagonal);
  simdgroup_store(r, e, 8);
}
