// SPDX-License-Identifier: MIT
// Kernels whose memory traffic is known by hand: 32 lanes of 4 bytes side by side touch 4 sectors of 32 bytes.
#include <metal_stdlib>
#include <metal_simdgroup_matrix>
using namespace metal;

#define THREAD uint i [[thread_position_in_grid]]

kernel void unit_stride(device const float* x, device float* y, THREAD) { y[i] = x[i]; }
kernel void stride_2(device const float* x, device float* y, THREAD) { y[i] = x[2 * i]; }
kernel void column(device const float* x, device float* y, THREAD) { y[i] = x[32 * i]; }
kernel void shifted(device const float* x, device float* y, THREAD) { y[i] = x[i + 1]; }
kernel void broadcast(device const float* x, device float* y, THREAD) { y[i] = x[0]; }

// What a CPU's compiler would widen, and a GPU's cannot: nothing says that x is aligned to more than its type.
kernel void scalar_sum(device const float* x, device float* y, THREAD) {
  float sum = 0;
  for (uint k = 0; k < 4; k++) sum += x[4 * i + k];
  y[i] = sum;
}
kernel void scalar_copy(device const float* x, device float* y, THREAD) {
  for (uint k = 0; k < 4; k++) y[4 * i + k] = x[4 * i + k];
}
kernel void scalar_zero(device uchar* y, THREAD) {
  for (uint k = 0; k < 16; k++) y[16 * i + k] = 0;
}
kernel void bytes_to_word(device const uchar* x, device uint* y, THREAD) {
  device const uchar* b = x + 4 * i;
  y[i] = b[0] | b[1] << 8 | b[2] << 16 | uint(b[3]) << 24;
}
kernel void word_to_bytes(device const uint* x, device uchar* y, THREAD) {
  const uint word = x[i];
  y[4 * i] = uchar(word);
  y[4 * i + 1] = uchar(word >> 8);
  y[4 * i + 2] = uchar(word >> 16);
  y[4 * i + 3] = uchar(word >> 24);
}

kernel void float4_copy(device const float4* x, device float4* y, THREAD) { y[i] = x[i]; }
kernel void uint4_add(device const uint4* x, device uint4* y, THREAD) { y[i] = x[i] + 1; }
kernel void half4x2_sum(device const half4x2* x, device float* y, THREAD) {
  const half4x2 m = x[i];
  y[i] = float(m[0].x) + float(m[3].y);
}
kernel void half4_to_float4(device const half4* x, device float4* y, THREAD) { y[i] = float4(x[i]); }
kernel void cast_to_float4(device const float* x, device float4* y, THREAD) { y[i] = ((device const float4*)x)[i]; }
kernel void packed_to_float3(device const packed_float3* x, device float3* y, THREAD) { y[i] = float3(x[i]); }
kernel void component(device const float4* x, device float* y, THREAD) { y[i] = x[i].y; }

struct Block { // of llama.cpp's q4_0: 18 bytes, aligned to 2
  half d;
  uchar q[16];
};
kernel void block_copy(device const Block* x, device Block* y, THREAD) { y[i] = x[i]; }
struct alignas(16) Eight {
  half h[8];
};
kernel void eight_halves(device const Eight* x, device float* y, THREAD) {
  const Eight e = x[i];
  y[i] = float(e.h[0]) + float(e.h[1]) + float(e.h[2]) + float(e.h[3]) + float(e.h[4]) + float(e.h[5]) + float(e.h[6]) +
         float(e.h[7]);
}

kernel void reads_twice(device const float* x, device float* y, THREAD) {
  float sum = 0, most = 0;
  for (uint k = 0; k < 8; k++) sum += x[256 * k + i];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (uint k = 0; k < 8; k++) most = max(most, x[256 * k + i]);
  y[i] = sum / most;
}
kernel void leaves_the_tail(device const float* x, device float* y, constant uint& n, THREAD) {
  for (uint k = i; k < n - 16; k += 256) y[k] = x[k];
}

kernel void odd_lanes(device const float* x, device float* y, THREAD) {
  if (i % 2) y[i] = x[i];
}
kernel void lanes_return(device const float* x, device float* y, THREAD) {
  if (i % 32 >= 8) return;
  y[i] = x[i];
}
kernel void trip_counts(device const float* x, device float* y, THREAD) { // 1, 2, 3, 4 by lane
  float sum = 0;
  for (uint k = 0; k <= i % 4; k++) sum += x[256 * k + i];
  y[i] = sum;
}
kernel void takes_turns(device const float* x, device float* y, THREAD) { // half of the lanes, then the other half
  float sum = 0;
  for (uint turn = 0; turn < 2; turn++) {
    if (i % 32 / 16 == turn) sum += x[i];
    simdgroup_barrier(mem_flags::mem_none);
  }
  y[i] = sum;
}

kernel void one_lane(device const float* x, device float* y, constant uint& n, THREAD) {
  float sum = 0;
  if (i == 0)
    for (uint k = 0; k < n; k++) sum += x[k % 64];
  y[i] = sum;
}
kernel void many(device const float* x, device float* y, constant uint& n, THREAD) {
  float sum = 0;
  for (uint k = 0; k < n; k++) sum += x[2048 * k + i];
  y[i] = sum;
}

kernel void counts(device atomic_uint* y, THREAD) { atomic_fetch_add_explicit(y + i, 1u, memory_order_relaxed); }
kernel void matrix_copy(device const float* x, device float* y, uint group [[threadgroup_position_in_grid]]) {
  simdgroup_float8x8 m;
  simdgroup_load(m, x + 64 * group, 8);
  simdgroup_store(m, y + 64 * group, 8);
}
kernel void transpose_tile(device const float* x, device float* y, uint2 t [[thread_position_in_threadgroup]]) {
  threadgroup float tile[32][32];
  tile[t.y][t.x] = x[32 * t.y + t.x];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[32 * t.y + t.x] = tile[t.x][t.y];
}
