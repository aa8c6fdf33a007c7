// SPDX-License-Identifier: MIT
// What CUDA C++ adds to C++, one kernel for each thing. Every kernel writes what test_cuda.py compares with
// NumPy.
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cooperative_groups/scan.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp4.h>
#include <cuda_fp8.h>
#include <cuda_pipeline.h>
#include <mma.h>

#include <type_traits>

namespace cg = cooperative_groups;

// ---- Threads, blocks, types

__global__ void indices(unsigned int *out) { // (blocks, threads, 4)
  const uint3 t = threadIdx;
  const dim3 size = blockDim;
  const unsigned int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned int thread = (t.z * size.y + t.y) * size.x + t.x;
  unsigned int *mine = out + 4 * (block * size.x * size.y * size.z + thread);
  mine[0] = blockIdx.x + 10 * blockIdx.y + 100 * blockIdx.z;
  mine[1] = threadIdx.x + 10 * threadIdx.y + 100 * threadIdx.z;
  mine[2] = gridDim.x + 10 * gridDim.y + 100 * gridDim.z;
  mine[3] = warpSize;
}

union Bits {
  uint4 vector;
  float floats[4];
};
union Halves { // as kernels name the parts of a 16-byte load
  uint4 vector;
  __half2 halves[4];
};
static_assert(sizeof(float3) == 12 && alignof(float4) == 16 && alignof(short4) == 8 && alignof(double4) == 16,
              "");
struct __align__(16) Wide {
  float a, b;
};
static_assert(alignof(Wide) == 16 && std::is_same<decltype(make_uchar4(1, 2, 3, 4)), uchar4>::value, "");

__global__ void vectors(float4 *out, const float4 *in) {
  float4 v = {1, 2}; // the rest is zero
  Bits bits;
  bits.vector = *reinterpret_cast<const uint4 *>(in);
  const Bits copy = bits;
  Halves parts;
  parts.vector = copy.vector;
  v.z = copy.floats[2] + __low2float(parts.halves[0]); // the lower half of in[0].x, which is zero
  out[0] = v;
  out[1] = make_float4(copy.floats[0], copy.floats[1], __ldg(in).x, __ldcs(&in->y));
  __stcs(out + 2, __ldcg(in));
}

// ---- Memory spaces

__constant__ float factors[4] = {1, 2, 3, 4};
__device__ int counter;
static __device__ int twice(int x) { return 2 * x; }

namespace outer {
namespace inner {
__global__ void constants(float *out, int n = 4) {
  if (threadIdx.x < n) out[threadIdx.x] = factors[threadIdx.x] * twice(3);
  atomicAdd(&counter, 1);
  __syncthreads();
  if (threadIdx.x == 0) out[4] = counter;
}
} // namespace inner
} // namespace outer

extern __shared__ float whole[]; // in a namespace, and so of every kernel
__global__ void shared_of_a_namespace(float *out) {
  whole[threadIdx.x] = threadIdx.x;
  __syncthreads();
  out[threadIdx.x] = whole[blockDim.x - 1 - threadIdx.x];
}

template <class T, int kRows> __device__ T sum_of_shared(const T *in) {
  [[maybe_unused]] __shared__ alignas(64) T tile[kRows][32], extra;
  __shared__ union {
    T typed[32];
    char bytes[32 * sizeof(T)];
  } other;
  for (int row = 0; row < kRows; row++) tile[row][threadIdx.x] = in[row * 32 + threadIdx.x];
  other.typed[threadIdx.x] = T(0);
  __syncthreads();
  T sum = other.typed[0];
#pragma unroll
  for (int row = 0; row < kRows; row++) sum = sum + tile[row][31 - threadIdx.x];
  return sum;
}
template <class T, int kRows>
__global__ void __launch_bounds__(kRows * 8) shared(T *out, const T *in) { // (32), (kRows, 32)
  extern __shared__ __align__(16) unsigned char bytes[];
  T *dynamic = reinterpret_cast<T *>(bytes);
  dynamic[threadIdx.x] = sum_of_shared<T, kRows>(in);
  __syncthreads();
  auto add = [&](int lane) { return dynamic[lane] + dynamic[lane ^ 1]; };
  out[threadIdx.x] = add(threadIdx.x);
}

__global__ void later(float *out, const float *in, int wait) { // (64)
  __shared__ float tile[64];
  __pipeline_memcpy_async(&tile[2 * threadIdx.x], &in[2 * threadIdx.x], 8);
  __pipeline_commit();
  if (wait) __pipeline_wait_prior(0);
  __syncthreads();
  out[2 * threadIdx.x] = tile[2 * threadIdx.x];
  out[2 * threadIdx.x + 1] = tile[2 * threadIdx.x + 1];
}

// ---- Warps and blocks

__global__ void shuffles(int *out, int width) { // (5, 32)
  const int lane = threadIdx.x, value = 100 + lane;
  out[lane] = __shfl_sync(0xffffffff, value, lane + 5, width);
  out[32 + lane] = __shfl_up_sync(0xffffffff, value, 3, width);
  out[64 + lane] = __shfl_down_sync(0xffffffff, value, 3, width);
  out[96 + lane] = __shfl_xor_sync(0xffffffff, value, 6, width);
  if (lane < 16) out[128 + lane] = __shfl_sync(0x0000ffff, value, lane + 8); // of lanes that do not take part
}
__global__ void votes(unsigned int *out) { // (9, 64)
  const int i = threadIdx.x, n = blockDim.x;
  const bool odd = i & 1;
  int all_alike;
  out[i] = __ballot_sync(0xffffffff, odd);
  out[n + i] = __any_sync(0xffffffff, i == 33) + 2 * __all_sync(0xffffffff, i < 40);
  out[2 * n + i] = __match_any_sync(0xffffffff, i % 3);
  out[3 * n + i] = __match_all_sync(0xffffffff, i / 32, &all_alike) + all_alike;
  out[4 * n + i] = __reduce_add_sync(0xffffffff, (unsigned int)i);
  out[5 * n + i] = __reduce_max_sync(0xffffffff, -i) + 1000;
  out[6 * n + i] = __syncthreads_count(odd);
  out[7 * n + i] = __syncthreads_or(i == 5) + 2 * __syncthreads_and(i != 5);
  if (odd)
    out[8 * n + i] = __activemask();
  else
    out[8 * n + i] = __ballot_sync(0x55555555, i < 8);
}
__global__ void partial_mask(int *out, unsigned int mask) {
  out[threadIdx.x] = __shfl_sync(mask, threadIdx.x, 0);
}

__global__ void groups(float *out, const float *in) { // (6, 64)
  const int n = blockDim.x;
  cg::thread_block block = cg::this_thread_block();
  cg::thread_block_tile<16> tile = cg::tiled_partition<16>(block);
  const float x = in[block.thread_rank()];
  out += block.thread_rank();
  out[0] = cg::reduce(tile, x, cg::plus<float>());
  out[n] = tile.shfl_xor(x, 5) + 100 * tile.meta_group_rank();
  out[2 * n] = cg::inclusive_scan(tile, x);
  auto quad = cg::tiled_partition<4>(tile);
  out[3 * n] = quad.shfl(x, 1) + quad.shfl_down(x, 1);
  if (threadIdx.x % 3 == 0) {
    cg::coalesced_group some = cg::coalesced_threads();
    out[4 * n] = cg::reduce(some, x, cg::greater<float>()) + some.thread_rank();
  }
  out[5 * n] = tile.ballot(x > 0) + tile.any(x > 1000);
  cg::sync(block);
}
__global__ void whole_grid(int *sums, int *out) { // each block sees what all have written before
  atomicAdd(sums, 1);
  cg::this_grid().sync();
  if (threadIdx.x == 0) out[blockIdx.x] = *sums;
}

__global__ void matrix(float *d, const __half *a, const __half *b, const float *c) { // 16 x 16, b column-major
  using namespace nvcuda;
  wmma::fragment<wmma::matrix_a, 16, 16, 16, __half, wmma::row_major> fa;
  wmma::fragment<wmma::matrix_b, 16, 16, 16, __half, wmma::col_major> fb;
  wmma::fragment<wmma::accumulator, 16, 16, 16, float> fc;
  wmma::load_matrix_sync(fa, a, 16);
  wmma::load_matrix_sync(fb, b, 16);
  wmma::load_matrix_sync(fc, c, 16, wmma::mem_row_major);
  wmma::mma_sync(fc, fa, fb, fc);
  for (int i = 0; i < fc.num_elements; i++) fc.x[i] *= 2;
  wmma::store_matrix_sync(d, fc, 16, wmma::mem_row_major);
}

__global__ void atomics(int *integers, unsigned int *words, float *sums, double *doubles, __half2 *halves) {
  const int i = threadIdx.x;
  atomicAdd(&integers[0], i);
  atomicMax(&integers[1], i * 7 % 32);
  atomicMin(&integers[2], i * 7 % 32 - 40);
  atomicInc(&words[0], 9);
  atomicDec(&words[1], 9);
  atomicOr(&words[2], 1u << i);
  atomicXor(&words[3], 3u << (i % 4));
  atomicCAS(&words[4], 0u, 7u);
  atomicAdd(&sums[0], 0.5f);
  atomicAdd(doubles, 0.25);
  atomicAdd(halves, __floats2half2_rn(1, 2));
}

// ---- Numbers

__global__ void integers(unsigned int *out, const unsigned int *in, int n) { // (12, n)
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    const unsigned int a = in[i], b = in[(i + 1) % n];
    const unsigned int results[] = {unsigned(__popc(a)),  unsigned(__clz(a)),
                                    unsigned(__ffs(a)),   __brev(a),
                                    __byte_perm(a, b, b), unsigned(__dp4a(int(a), int(b), 7)),
                                    __vadd4(a, b),        __vsubss4(a, b),
                                    __vcmpgts4(a, b),     __funnelshift_l(a, b, b),
                                    __umulhi(a, b),       __vavgu4(a, b)};
    for (int row = 0; row < 12; row++) out[row * n + i] = results[row];
  }
}
__global__ void rounded(float *out, const float *in, int n) { // (9, n)
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    const float a = in[i], b = in[(i + 1) % n], c = in[(i + 2) % n];
    const float results[] = {__fadd_rz(a, b),      __fadd_ru(a, b),  __fmul_rd(a, b),
                             __fmul_rn(a, b) + c,  fmaf(a, b, c),    __fdiv_ru(a, b),
                             __fsqrt_rd(fabsf(a)), rsqrtf(fabsf(a)), __float2int_rn(a)};
    for (int row = 0; row < 9; row++) out[row * n + i] = results[row];
  }
}
__global__ void narrow(unsigned char *codes, unsigned short *words, const float *in, int n) { // (5, n), (4, n)
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    const float x = in[i];
    codes[i] = __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
    codes[n + i] = __nv_fp8_e5m2(x).__x;
    codes[2 * n + i] = __nv_fp8_e8m0(x).__x;
    codes[3 * n + i] = __nv_cvt_float_to_fp4(x, __NV_E2M1, cudaRoundNearest);
    codes[4 * n + i] = __nv_fp4x2_e2m1(make_float2(x, -x)).__x;
    words[i] = __half_as_ushort(__float2half(x));
    words[n + i] = __bfloat16_as_ushort(__float2bfloat16(x));
    words[2 * n + i] = __half_as_ushort(__hfma(__float2half(x), __float2half(3.f), __float2half(0.1f)));
    const __nv_bfloat162 pair = __floats2bfloat162_rn(x, 1.f);
    words[3 * n + i] = __bfloat16_as_ushort(__low2bfloat16(pair * pair + pair));
  }
}
__global__ void wide(float *out) { // (4, 256): what codes stand for
  const int code = threadIdx.x;
  __nv_fp8_e4m3 a;
  __nv_fp8_e5m2 b;
  a.__x = b.__x = code;
  out[code] = float(a);
  out[256 + code] = float(b);
  out[512 + code] = __half2float(__half(__nv_cvt_fp8_to_halfraw(code, __NV_E4M3)));
  const __half2 both = __nv_cvt_fp4x2_to_halfraw2(code, __NV_E2M1);
  out[768 + code] = __low2float(both) + 100 * __high2float(both);
}

// ---- What goes wrong

__device__ __noinline__ void write_at(int *p, int i) { p[i] = 1; }
__device__ __noinline__ float read_vector(const int *p) { return reinterpret_cast<const float4 *>(p)->y; }
__device__ __noinline__ int divide(int a, int b) { return a / b; }

__global__ void faulty(int *p, int what, int zero) {
  __shared__ int small[4];
  if (threadIdx.x != 3 || threadIdx.y != 0) return;
  if (what == 0) write_at(p, 100);
  if (what == 1) write_at(nullptr, zero);
  if (what == 2) p[0] = read_vector(p + 1);
  if (what == 3) assert(zero == 1);
  if (what == 4) __trap();
  if (what == 5) p[0] = divide(1, zero);
  if (what == 6) p[0] = small[zero + 4];
  while (what == 7 && *(volatile int *)p == 0) {
  }
}
__global__ void printing(int n) {
  if (threadIdx.x == 0) printf("%d of %d in %s\n", n, blockDim.x, "language.cu");
}
