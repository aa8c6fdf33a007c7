// SPDX-License-Identifier: MIT
// One kernel for each part of the language that the rewriter takes apart.
#include <metal_stdlib>
using namespace metal;

constant int scale [[function_constant(3)]];
constant bool has_offset [[function_constant(4)]];
constant float offset [[function_constant(5), maybe_unused]];
constant float chosen_offset = has_offset ? offset : -1.0f;
constant bool scale_given = is_function_constant_defined(scale);
constant float table[4] = {1, 10, 100, 1000};

struct Sizes {
  uint rows;
  uint columns;
};

// Overloads that differ in their address space alone.
inline float first(device const float* p) { return p[0]; }
inline float first(threadgroup const float* p) { return p[0]; }
inline float first(constant float* p) { return p[0]; }

kernel void constants(device float* y [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  y[i] = scale * table[i % 4] + chosen_offset + (scale_given ? 0.5f : 0.25f);
}

template <typename T, int n>
[[kernel]] void multiply(device T* y [[buffer(1)]], constant Sizes& sizes [[buffer(0)]],
                         uint2 at [[thread_position_in_grid]], uint2 size [[threads_per_grid]]) {
  if (at.x < sizes.columns && at.y < sizes.rows) y[at.y * size.x + at.x] *= T(n);
}
template [[host_name("multiply_float_3")]] [[kernel]] decltype(multiply<float, 3>) multiply<float, 3>;
template [[host_name("multiply_"
                     "half_2")]] kernel void
multiply<half, 2>(device half* y [[buffer(1)]], constant Sizes& sizes [[buffer(0)]],
                  uint2 at [[thread_position_in_grid]], uint2 size [[threads_per_grid]]);

namespace nested {
kernel void spaces(const device float* x, device float* y, threadgroup float* scratch [[threadgroup(1)]],
                   threadgroup float& other [[threadgroup(0)]], ushort i [[thread_index_in_threadgroup]]) {
  threadgroup float shared_[32], one;
  if (i == 0) one = x[0], other = 2;
  scratch[i] = shared_[i] = x[i];
  threadgroup_barrier(mem_flags::mem_threadgroup | mem_flags::mem_device);
  y[i] = first(shared_) + first(x) + first(scratch + 31 - i) + first(table) + one + other;
}
}  // namespace nested

[[max_total_threads_per_threadgroup(64)]] kernel void builtins(
    device uint* out [[buffer(0)]], uint3 position [[thread_position_in_threadgroup]],
    uint3 group [[threadgroup_position_in_grid]], ushort3 group_size [[threads_per_threadgroup]],
    uint3 groups [[threadgroups_per_grid]], uint index [[thread_index_in_threadgroup]],
    ushort2 at [[thread_position_in_grid]], uint quad [[quadgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_quadgroup]], uint3 whole [[dispatch_threads_per_threadgroup]]) {
  const uint row = (group.y * groups.x + group.x) * 64 + index;
  device uint* y = out + 12 * row;
  y[0] = position.x;
  y[1] = position.y;
  y[2] = group.x;
  y[3] = group.y;
  y[4] = group_size.x;
  y[5] = groups.x;
  y[6] = index;
  y[7] = at.x;
  y[8] = at.y;
  y[9] = quad;
  y[10] = lane;
  y[11] = whole.x;
}
