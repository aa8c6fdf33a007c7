// SPDX-License-Identifier: MIT
// Instructions of one thread on words: thread t has a[t], b[t] and c[t], result k is d[k * n + t]. For sm_120a.

// The tables FIRST to FIRST + COUNT - 1; the table is an immediate.
template <int FIRST, int COUNT> __device__ void lop3(unsigned *d, int n, unsigned a, unsigned b, unsigned c) {
  if constexpr (COUNT == 1) {
    asm("lop3.b32 %0, %1, %2, %3, %4;\n" : "=r"(d[FIRST * n]) : "r"(a), "r"(b), "r"(c), "n"(FIRST));
  } else {
    lop3<FIRST, COUNT / 2>(d, n, a, b, c);
    lop3<FIRST + COUNT / 2, COUNT / 2>(d, n, a, b, c);
  }
}

__global__ void lop3_all(unsigned *d, const unsigned *a, const unsigned *b, const unsigned *c) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
  lop3<0, 256>(d + t, n, a[t], b[t], c[t]);
}

__global__ void permute(unsigned *d, const unsigned *a, const unsigned *b, const unsigned *c) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
  d += t;
  asm("prmt.b32 %0, %1, %2, %3;\n" : "=r"(d[0]) : "r"(a[t]), "r"(b[t]), "r"(c[t]));
  asm("prmt.b32.f4e %0, %1, %2, %3;\n" : "=r"(d[n]) : "r"(a[t]), "r"(b[t]), "r"(c[t]));
  asm("prmt.b32.b4e %0, %1, %2, %3;\n" : "=r"(d[2 * n]) : "r"(a[t]), "r"(b[t]), "r"(c[t]));
  asm("prmt.b32.rc8 %0, %1, %2, %3;\n" : "=r"(d[3 * n]) : "r"(a[t]), "r"(b[t]), "r"(c[t]));
  asm("prmt.b32.ecl %0, %1, %2, %3;\n" : "=r"(d[4 * n]) : "r"(a[t]), "r"(b[t]), "r"(c[t]));
  asm("prmt.b32.ecr %0, %1, %2, %3;\n" : "=r"(d[5 * n]) : "r"(a[t]), "r"(b[t]), "r"(c[t]));
  asm("prmt.b32.rc16 %0, %1, %2, %3;\n" : "=r"(d[6 * n]) : "r"(a[t]), "r"(b[t]), "r"(c[t]));
  d[7 * n] = __byte_perm(a[t], b[t], c[t]);
}

__global__ void shift(unsigned *d, const unsigned *a, const unsigned *b, const unsigned *c) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
  d += t;
  asm("shf.l.clamp.b32 %0, %1, %2, %3;\n" : "=r"(d[0]) : "r"(a[t]), "r"(b[t]), "r"(c[t]));
  asm("shf.l.wrap.b32 %0, %1, %2, %3;\n" : "=r"(d[n]) : "r"(a[t]), "r"(b[t]), "r"(c[t]));
  asm("shf.r.clamp.b32 %0, %1, %2, %3;\n" : "=r"(d[2 * n]) : "r"(a[t]), "r"(b[t]), "r"(c[t]));
  asm("shf.r.wrap.b32 %0, %1, %2, %3;\n" : "=r"(d[3 * n]) : "r"(a[t]), "r"(b[t]), "r"(c[t]));
  d[4 * n] = __funnelshift_l(a[t], b[t], c[t]);
  d[5 * n] = __funnelshift_lc(a[t], b[t], c[t]);
  d[6 * n] = __funnelshift_r(a[t], b[t], c[t]);
  d[7 * n] = __funnelshift_rc(a[t], b[t], c[t]);
}

// Fields at bit c[7:0] of c[15:8] bits, of a; bfi puts a there into b. 64-bit results in two halves.
__global__ void field(unsigned *d, const unsigned *a, const unsigned *b, const unsigned *c) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
  const unsigned position = c[t] & 0xff, length = c[t] >> 8 & 0xff;
  const unsigned long long wide = static_cast<unsigned long long>(b[t]) << 32 | a[t];
  unsigned long long r;
  d += t;
  asm("bfe.u32 %0, %1, %2, %3;\n" : "=r"(d[0]) : "r"(a[t]), "r"(position), "r"(length));
  asm("bfe.s32 %0, %1, %2, %3;\n" : "=r"(d[n]) : "r"(a[t]), "r"(position), "r"(length));
  asm("bfi.b32 %0, %1, %2, %3, %4;\n" : "=r"(d[2 * n]) : "r"(a[t]), "r"(b[t]), "r"(position), "r"(length));
  asm("bfe.u64 %0, %1, %2, %3;\n" : "=l"(r) : "l"(wide), "r"(position), "r"(length));
  d[3 * n] = static_cast<unsigned>(r), d[4 * n] = static_cast<unsigned>(r >> 32);
  asm("bfe.s64 %0, %1, %2, %3;\n" : "=l"(r) : "l"(wide), "r"(position), "r"(length));
  d[5 * n] = static_cast<unsigned>(r), d[6 * n] = static_cast<unsigned>(r >> 32);
  asm("bfi.b64 %0, %1, %2, %3, %4;\n" : "=l"(r) : "l"(~wide), "l"(wide), "r"(position), "r"(length));
  d[7 * n] = static_cast<unsigned>(r), d[8 * n] = static_cast<unsigned>(r >> 32);
}

__global__ void dot(unsigned *d, const unsigned *a, const unsigned *b, const unsigned *c) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
  d += t;
  asm("dp4a.u32.u32 %0, %1, %2, %3;\n" : "=r"(d[0]) : "r"(a[t]), "r"(b[t]), "r"(c[t]));
  asm("dp4a.u32.s32 %0, %1, %2, %3;\n" : "=r"(d[n]) : "r"(a[t]), "r"(b[t]), "r"(c[t]));
  asm("dp4a.s32.u32 %0, %1, %2, %3;\n" : "=r"(d[2 * n]) : "r"(a[t]), "r"(b[t]), "r"(c[t]));
  asm("dp4a.s32.s32 %0, %1, %2, %3;\n" : "=r"(d[3 * n]) : "r"(a[t]), "r"(b[t]), "r"(c[t]));
  asm("dp2a.lo.s32.s32 %0, %1, %2, %3;\n" : "=r"(d[4 * n]) : "r"(a[t]), "r"(b[t]), "r"(c[t]));
  asm("dp2a.hi.u32.s32 %0, %1, %2, %3;\n" : "=r"(d[5 * n]) : "r"(a[t]), "r"(b[t]), "r"(c[t]));
  d[6 * n] = static_cast<unsigned>(
      __dp4a(static_cast<int>(a[t]), static_cast<int>(b[t]), static_cast<int>(c[t])));
  d[7 * n] = __dp4a(a[t], b[t], c[t]);
}

// In the order of truth/words.py's SIMD.
__global__ void simd(unsigned *d, const unsigned *a, const unsigned *b) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
  d += t;
  d[0] = __vadd4(a[t], b[t]);
  d[n] = __vsub4(a[t], b[t]);
  d[2 * n] = __vsubss4(a[t], b[t]);
  d[3 * n] = __vaddss4(a[t], b[t]);
  d[4 * n] = __vcmpeq4(a[t], b[t]);
  d[5 * n] = __vcmpne4(a[t], b[t]);
  d[6 * n] = __vmaxs4(a[t], b[t]);
  d[7 * n] = __vmaxu4(a[t], b[t]);
  d[8 * n] = __vminu4(a[t], b[t]);
  d[9 * n] = __vabsdiffu4(a[t], b[t]);
}
