// SPDX-License-Identifier: MIT
// Shuffles, votes, matches and reductions of one warp; a block is one try, its inputs 32 words. For sm_120a.

__global__ void shfl_asm(unsigned *d, unsigned *p, const unsigned *a, const unsigned *b, const unsigned *c) {
  const int t = blockIdx.x * 32 + threadIdx.x, n = gridDim.x * 32;
  asm volatile("{\n"
               "  .reg .pred q;\n"
               "  shfl.sync.up.b32 %0|q, %2, %3, %4, 0xffffffff;\n"
               "  selp.b32 %1, 1, 0, q;\n"
               "}\n"
               : "=r"(d[t]), "=r"(p[t])
               : "r"(a[t]), "r"(b[t]), "r"(c[t]));
  asm volatile("{\n"
               "  .reg .pred q;\n"
               "  shfl.sync.down.b32 %0|q, %2, %3, %4, 0xffffffff;\n"
               "  selp.b32 %1, 1, 0, q;\n"
               "}\n"
               : "=r"(d[n + t]), "=r"(p[n + t])
               : "r"(a[t]), "r"(b[t]), "r"(c[t]));
  asm volatile("{\n"
               "  .reg .pred q;\n"
               "  shfl.sync.bfly.b32 %0|q, %2, %3, %4, 0xffffffff;\n"
               "  selp.b32 %1, 1, 0, q;\n"
               "}\n"
               : "=r"(d[2 * n + t]), "=r"(p[2 * n + t])
               : "r"(a[t]), "r"(b[t]), "r"(c[t]));
  asm volatile("{\n"
               "  .reg .pred q;\n"
               "  shfl.sync.idx.b32 %0|q, %2, %3, %4, 0xffffffff;\n"
               "  selp.b32 %1, 1, 0, q;\n"
               "}\n"
               : "=r"(d[3 * n + t]), "=r"(p[3 * n + t])
               : "r"(a[t]), "r"(b[t]), "r"(c[t]));
}

__global__ void shfl_intrinsics(unsigned *d, const unsigned *a, const unsigned *b, const unsigned *width) {
  const int t = blockIdx.x * 32 + threadIdx.x, n = gridDim.x * 32, w = width[blockIdx.x];
  d[t] = __shfl_up_sync(0xffffffffu, a[t], b[t], w);
  d[n + t] = __shfl_down_sync(0xffffffffu, a[t], b[t], w);
  d[2 * n + t] = __shfl_xor_sync(0xffffffffu, a[t], b[t], w);
  d[3 * n + t] = __shfl_sync(0xffffffffu, a[t], b[t], w);
}

// Other types take the same way, 64-bit ones in two halves.
__global__ void shfl_types(unsigned *d, const unsigned *a) {
  const int t = threadIdx.x;
  const unsigned long long wide = static_cast<unsigned long long>(~a[t]) << 32 | a[t];
  const unsigned long long moved = __shfl_xor_sync(0xffffffffu, wide, 5);
  d[t] = static_cast<unsigned>(moved), d[32 + t] = static_cast<unsigned>(moved >> 32);
  const double number = __shfl_down_sync(0xffffffffu, static_cast<double>(a[t]), 3);
  d[64 + t] = static_cast<unsigned>(number);
  d[96 + t] = __float_as_uint(__shfl_up_sync(0xffffffffu, __uint_as_float(a[t]), 7));
}

// Only the threads of the mask take part.
__global__ void shfl_masked(unsigned *d, const unsigned *a, const unsigned *b, const unsigned *mask) {
  const int t = blockIdx.x * 32 + threadIdx.x;
  const unsigned m = mask[blockIdx.x];
  if (m >> threadIdx.x & 1) d[t] = __shfl_sync(m, a[t], b[t]);
}

__global__ void votes(unsigned *d, const unsigned *a, const unsigned *mask) {
  const int t = blockIdx.x * 32 + threadIdx.x, n = gridDim.x * 32;
  const unsigned m = mask[blockIdx.x], predicate = a[t];
  if (!(m >> threadIdx.x & 1)) return;
  d[t] = __ballot_sync(m, predicate);
  d[n + t] = __all_sync(m, predicate) != 0;
  d[2 * n + t] = __any_sync(m, predicate) != 0;
  asm volatile("{\n"
               "  .reg .pred p, q;\n"
               "  setp.ne.u32 p, %1, 0;\n"
               "  vote.sync.uni.pred q, p, %2;\n"
               "  selp.u32 %0, 1, 0, q;\n"
               "}\n"
               : "=r"(d[3 * n + t])
               : "r"(predicate), "r"(m));
  asm volatile("{\n"
               "  .reg .pred p;\n"
               "  setp.ne.u32 p, %1, 0;\n"
               "  vote.sync.ballot.b32 %0, !p, %2;\n"
               "}\n"
               : "=r"(d[4 * n + t])
               : "r"(predicate), "r"(m));
}

__global__ void matches(unsigned *d, const unsigned *a, const unsigned *mask) {
  const int t = blockIdx.x * 32 + threadIdx.x, n = gridDim.x * 32;
  const unsigned m = mask[blockIdx.x];
  if (!(m >> threadIdx.x & 1)) return;
  int same = 7;
  d[t] = __match_any_sync(m, a[t]);
  d[n + t] = __match_all_sync(m, a[t], &same);
  d[2 * n + t] = same;
  d[3 * n + t] = __match_any_sync(m, static_cast<unsigned long long>(a[t]) << 32 | 1u);
  asm volatile("match.any.sync.b32 %0, %1, %2;\n" : "=r"(d[4 * n + t]) : "r"(a[t]), "r"(m));
}

__global__ void reductions(unsigned *d, const unsigned *a, const unsigned *mask) {
  const int t = blockIdx.x * 32 + threadIdx.x, n = gridDim.x * 32;
  const unsigned m = mask[blockIdx.x], x = a[t];
  const int s = static_cast<int>(x);
  if (!(m >> threadIdx.x & 1)) return;
  d[t] = __reduce_add_sync(m, x);
  d[n + t] = __reduce_min_sync(m, x);
  d[2 * n + t] = __reduce_max_sync(m, x);
  d[3 * n + t] = static_cast<unsigned>(__reduce_add_sync(m, s));
  d[4 * n + t] = static_cast<unsigned>(__reduce_min_sync(m, s));
  d[5 * n + t] = static_cast<unsigned>(__reduce_max_sync(m, s));
  d[6 * n + t] = __reduce_and_sync(m, x);
  d[7 * n + t] = __reduce_or_sync(m, x);
  d[8 * n + t] = __reduce_xor_sync(m, x);
  asm volatile("redux.sync.min.s32 %0, %1, %2;\n" : "=r"(d[9 * n + t]) : "r"(x), "r"(m));
}

__global__ void elections(unsigned *d, const unsigned *, const unsigned *mask) {
  const int t = blockIdx.x * 32 + threadIdx.x, n = gridDim.x * 32;
  const unsigned m = mask[blockIdx.x];
  if (!(m >> threadIdx.x & 1)) return;
  asm volatile("{\n"
               "  .reg .pred p;\n"
               "  elect.sync %0|p, %2;\n"
               "  selp.u32 %1, 1, 0, p;\n"
               "}\n"
               : "=r"(d[t]), "=r"(d[n + t])
               : "r"(m));
}

__global__ void active(unsigned *d) {
  const int t = threadIdx.x;
  if (t % 3 == 0) d[t] = __activemask();
}
