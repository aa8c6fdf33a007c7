// SPDX-License-Identifier: MIT
// Kernels for the simulator's own tests, written as kernels for a device are: GEMV in f16, GEMV in int4 with a reduction
// over simdgroups, GEMM with simdgroup_matrix and tiles in threadgroup memory.
#include <metal_stdlib>
#include <metal_simdgroup_matrix>
using namespace metal;

// y (N) = w (N, K) x (K); a simdgroup for each row, four weights to a load. K is a multiple of 4.
kernel void gemv_f16(device const half* w [[buffer(0)]],  // (N, K)
                     device const half* x [[buffer(1)]],  // (K)
                     device half* y [[buffer(2)]],        // (N)
                     constant uint& N [[buffer(3)]], constant uint& K [[buffer(4)]],
                     uint group [[threadgroup_position_in_grid]], uint simd [[simdgroup_index_in_threadgroup]],
                     uint simds [[simdgroups_per_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
  const uint row = group * simds + simd;
  if (row >= N) return;
  device const half4* w4 = (device const half4*)(w + row * K);
  device const half4* x4 = (device const half4*)x;
  float sum = 0;
  for (uint k = lane; k < K / 4; k += 32) sum += dot(float4(w4[k]), float4(x4[k]));
  sum = simd_sum(sum);
  if (lane == 0) y[row] = half(sum);
}

// y (N) = w (N, K) x (K), w = scale * q + bias for groups of 64 weights, eight 4-bit q to a word; a threadgroup for each
// row. K is a multiple of 64.
kernel void gemv_int4(device const uint* q [[buffer(0)]],       // (N, K / 8)
                      device const half* scales [[buffer(1)]],  // (N, K / 64)
                      device const half* biases [[buffer(2)]],  // (N, K / 64)
                      device const half* x [[buffer(3)]],       // (K)
                      device float* y [[buffer(4)]],            // (N)
                      constant uint& K [[buffer(5)]],
                      threadgroup float* partial [[threadgroup(0)]],  // one float for each simdgroup
                      uint row [[threadgroup_position_in_grid]], ushort thread_ [[thread_index_in_threadgroup]],
                      ushort threads [[threads_per_threadgroup]], ushort lane [[thread_index_in_simdgroup]],
                      ushort simd [[simdgroup_index_in_threadgroup]], ushort simds [[simdgroups_per_threadgroup]]) {
  float sum = 0;
  for (uint word = thread_; word < K / 8; word += threads) {
    const uint bits = q[row * (K / 8) + word];
    const uint group = row * (K / 64) + word / 8;
    const float scale = scales[group], bias = biases[group];
    device const half4* xs = (device const half4*)(x + 8 * word);
    const float4 low = float4(xs[0]), high = float4(xs[1]);
    const float4 q_low = float4(uint4(bits, bits >> 4, bits >> 8, bits >> 12) & 15u);
    const float4 q_high = float4(uint4(bits >> 16, bits >> 20, bits >> 24, bits >> 28) & 15u);
    const float4 one = float4(1.0f);
    sum += scale * (dot(q_low, low) + dot(q_high, high)) + bias * (dot(low, one) + dot(high, one));
  }
  sum = simd_sum(sum);
  if (lane == 0) partial[simd] = sum;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (simd == 0) {
    const float all = simd_sum(lane < simds ? partial[lane] : 0.0f);
    if (lane == 0) y[row] = all;
  }
}

// c (M, N) = a (M, K) b (K, N), accumulated in float; 4 simdgroups make a tile of 32 x 32, each a quarter of it. M, N and
// K are multiples of 32.
kernel void gemm_f16(device const half* a [[buffer(0)]],  // (M, K)
                     device const half* b [[buffer(1)]],  // (K, N)
                     device half* c [[buffer(2)]],        // (M, N)
                     constant uint3& mnk [[buffer(3)]], uint2 tile [[threadgroup_position_in_grid]],
                     ushort thread_ [[thread_index_in_threadgroup]], ushort simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup half a_tile[32][40];  // padded by 8
  threadgroup half b_tile[32][40];
  const uint N = mnk.y, K = mnk.z;
  const ushort row = thread_ / 4, column = thread_ % 4 * 8;  // of the eight elements that this thread brings
  const ushort m = simd / 2 * 16, n = simd % 2 * 16;         // of this simdgroup's quarter
  simdgroup_float8x8 sum[2][2];
  for (ushort i = 0; i < 2; i++)
    for (ushort j = 0; j < 2; j++) sum[i][j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  for (uint k = 0; k < K; k += 32) {
    device const half4* from_a = (device const half4*)(a + (tile.y * 32 + row) * K + k + column);
    device const half4* from_b = (device const half4*)(b + (k + row) * N + tile.x * 32 + column);
    threadgroup half4* to_a = (threadgroup half4*)&a_tile[row][column];
    threadgroup half4* to_b = (threadgroup half4*)&b_tile[row][column];
    to_a[0] = from_a[0];
    to_a[1] = from_a[1];
    to_b[0] = from_b[0];
    to_b[1] = from_b[1];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (ushort kk = 0; kk < 32; kk += 8) {
      simdgroup_half8x8 as[2], bs[2];
      for (ushort i = 0; i < 2; i++) simdgroup_load(as[i], &a_tile[m + 8 * i][kk], 40);
      for (ushort j = 0; j < 2; j++) simdgroup_load(bs[j], &b_tile[kk][n + 8 * j], 40);
      for (ushort i = 0; i < 2; i++)
        for (ushort j = 0; j < 2; j++) simdgroup_multiply_accumulate(sum[i][j], as[i], bs[j], sum[i][j]);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
  for (ushort i = 0; i < 2; i++)
    for (ushort j = 0; j < 2; j++) {
      simdgroup_half8x8 rounded;
      rounded.thread_elements() = half2(sum[i][j].thread_elements());
      simdgroup_store(rounded, c + (tile.y * 32 + m + 8 * i) * N + tile.x * 32 + n + 8 * j, N);
    }
}
