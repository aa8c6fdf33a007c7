// SPDX-License-Identifier: MIT
// Writes new tokens into a paged KV cache: cache[slot_mapping[t]] = token t. A negative slot is padding, no
// other comes twice; caches overlap neither each other nor the tokens.
//
// key, value (num_tokens, num_heads, head_size); key_cache, value_cache (num_blocks, block_size, num_heads,
// head_size); slot_mapping (num_tokens,) int64. Elements of 1, 2 or 4 bytes are moved as they are;
// rb_cuda_kv_append_fp8 makes e4m3 of bf16: f32 x * scale_inv, to nearest even; overflow and infinities
// saturate to +-448, NaN stays NaN with its sign.
//
// Standalone CUDA C++17, sm_80 and later: nvcc -O3 -arch=native -c kv_append.cu. Launch: rb_cuda_kv_append(key,
// value, key_cache, value_cache, slot_mapping, num_tokens, num_heads, head_size, num_blocks, block_size,
// itemsize, stream). Memory-bound: reads and writes each token once, its heads being one run of memory. No
// additions.
//
// A tile is some tokens by some lanes side by side; blocks go round the tiles. A lane has UNROLL tokens of keys
// and as many of values in flight, 16 bytes each, and loads them before it knows their slots. Tokens are read
// once and leave the cache first; what is written stays, for attention to read. The widest access that all
// pointers and a token's size allow: 16, 8, 4, 2 or 1 bytes. Slots past the cache are left out like padding:
// nobody would hear of them.
#include <stdint.h>

namespace {

// e4m3 codes of four bf16 times scale.
__device__ __forceinline__ uint32_t codes_of(uint32_t a, uint32_t b, float scale) {
  float x[4] = {__uint_as_float(a << 16), __uint_as_float(a & 0xffff0000), __uint_as_float(b << 16),
                __uint_as_float(b & 0xffff0000)};
#pragma unroll
  for (int i = 0; i < 4; i++) x[i] = __fmul_rn(x[i], scale);
  uint32_t codes = 0;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  asm("{.reg .b16 low, high;\n\t"
      "cvt.rn.satfinite.e4m3x2.f32 low, %2, %1;\n\t"
      "cvt.rn.satfinite.e4m3x2.f32 high, %4, %3;\n\t"
      "mov.b32 %0, {low, high};}"
      : "=r"(codes)
      : "f"(x[0]), "f"(x[1]), "f"(x[2]), "f"(x[3]));
#else
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const uint32_t bits = __float_as_uint(x[i]), size = bits & 0x7fffffff, least = min(size, 0x43e00000); // 448
    const uint32_t normal = ((least + 0x7ffff + (least >> 20 & 1)) >> 20) - 960;
    // Adding 2^14 rounds to a multiple of 2^-9, the least subnormal.
    const uint32_t subnormal = __float_as_uint(__uint_as_float(least) + 16384.0f) - 0x46800000;
    const uint32_t code = (bits >> 24 & 0x80) | (least < 0x3c800000 ? subnormal : normal);
    codes |= (size > 0x7f800000 ? 0x7f : code) << 8 * i;
  }
#endif
  // A product may have lost the sign of a NaN, and its code is 0x7f: the sign is that of x.
  const uint32_t nan = (codes & 0x7f7f7f7f) + 0x01010101, signs = __byte_perm(a, b, 0x7531);
  return codes | (nan & signs & 0x80808080);
}

// x as it is, or from bf16 to e4m3 where Out is half as large.
template <typename Out, typename In> __device__ __forceinline__ Out converted(const In &x, float scale) {
  if constexpr (sizeof(In) == sizeof(Out))
    return x;
  else if constexpr (sizeof(In) == 16)
    return {codes_of(x.x, x.y, scale), codes_of(x.z, x.w, scale)};
  else if constexpr (sizeof(In) == 8)
    return codes_of(x.x, x.y, scale);
  else
    return Out(codes_of(x, 0, scale));
}

struct Tiles {
  int64_t tokens;
  uint64_t slots;      // of a cache
  uint32_t parts;      // accesses that make a token
  uint32_t chunks;     // tiles side by side on a token
  uint32_t count;      // of all tiles
  uint32_t lanes_log2; // lanes side by side on a token
};

// Grid: any number of blocks, which go round the tiles. scales: of the cast only.
template <typename In, typename Out, int THREADS, int UNROLL>
__global__ void __launch_bounds__(THREADS, 1024 / THREADS)
    append_kernel(const In *key, const In *value, Out *key_cache, Out *value_cache, const int64_t *slot_mapping,
                  const float *k_scale_inv, const float *v_scale_inv, Tiles tiles) {
  const uint32_t lanes = 1u << tiles.lanes_log2, rows = THREADS >> tiles.lanes_log2;
  const uint32_t column = threadIdx.x & (lanes - 1), row = threadIdx.x >> tiles.lanes_log2;
  const float k_scale = sizeof(In) == sizeof(Out) ? 0 : *k_scale_inv;
  const float v_scale = sizeof(In) == sizeof(Out) ? 0 : *v_scale_inv;
  for (uint32_t tile = blockIdx.x; tile < tiles.count; tile += gridDim.x) {
    const uint32_t part = tile % tiles.chunks * lanes + column;
    const int64_t token = int64_t(tile / tiles.chunks) * (rows * UNROLL) + row;
    if (part >= tiles.parts) continue;
    In k[UNROLL], v[UNROLL];
    int64_t slot[UNROLL];
#pragma unroll
    for (int u = 0; u < UNROLL; u++) {
      const int64_t t = token + u * rows;
      slot[u] = -1;
      if (t < tiles.tokens) {
        k[u] = __ldcs(key + t * tiles.parts + part);
        v[u] = __ldcs(value + t * tiles.parts + part);
        slot[u] = __ldg(slot_mapping + t);
      }
    }
#pragma unroll
    for (int u = 0; u < UNROLL; u++)
      if (uint64_t(slot[u]) < tiles.slots) { // no negative one either
        const int64_t to = slot[u] * tiles.parts + part;
        key_cache[to] = converted<Out>(k[u], k_scale);
        value_cache[to] = converted<Out>(v[u], v_scale);
      }
  }
}

struct Call {
  const void *key, *value;
  void *key_cache, *value_cache;
  const void *slot_mapping, *k_scale_inv, *v_scale_inv;
  int64_t tokens, slots, row; // row: bytes of a token as it is read
  cudaStream_t stream;
};

int processors() {
  int device = 0, count = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 1;
  return cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) == cudaSuccess ? count : 1;
}

// As many lanes side by side as waste the fewest, but no pieces below 128 bytes, a cache line, of what is
// longer. The other lanes take other tokens, UNROLL each. None where there are more tiles than can be counted.
Tiles tiles_of(const Call &call, int64_t width, int threads, int unroll) {
  const int64_t parts = call.row / width;
  int64_t best = 0, least = INT64_MAX;
  uint32_t log2 = 0;
  for (uint32_t i = 0; 1 << i <= threads; i++) {
    const int64_t lanes = int64_t(1) << i, covered = (parts + lanes - 1) / lanes * lanes;
    if (lanes * width < 128 && lanes < parts && lanes < threads) continue;
    if (covered <= least) best = lanes, least = covered, log2 = i;
  }
  const int64_t chunks = (parts + best - 1) / best, rows = threads / best * unroll;
  const int64_t count = (call.tokens - 1) / rows + 1;
  if (count > INT32_MAX / chunks) return {};
  return {call.tokens, uint64_t(call.slots), uint32_t(parts), uint32_t(chunks), uint32_t(count * chunks), log2};
}

template <typename In, typename Out, int THREADS, int UNROLL>
int queue(const Call &call, const Tiles &tiles, int most_blocks) {
  const int blocks = int64_t(tiles.count) < most_blocks ? int(tiles.count) : most_blocks;
  append_kernel<In, Out, THREADS, UNROLL><<<blocks, THREADS, 0, call.stream>>>(
      static_cast<const In *>(call.key), static_cast<const In *>(call.value),
      static_cast<Out *>(call.key_cache), static_cast<Out *>(call.value_cache),
      static_cast<const int64_t *>(call.slot_mapping), static_cast<const float *>(call.k_scale_inv),
      static_cast<const float *>(call.v_scale_inv), tiles);
  return int(cudaGetLastError());
}

// -1 where there are too many tokens.
template <typename In, typename Out> int launch(const Call &call) {
  const int count = processors();
  const Tiles many = tiles_of(call, sizeof(In), 256, 4);
  if (many.count == 0) return -1;
  if (int64_t(many.count) >= 2 * count) return queue<In, Out, 256, 4>(call, many, 4 * count);
  // Few tokens, as in decoding: small tiles, so that every multiprocessor has some.
  return queue<In, Out, 128, 1>(call, tiles_of(call, sizeof(In), 128, 1), 16 * count);
}

bool off(const void *pointer, int64_t alignment) {
  return reinterpret_cast<uintptr_t>(pointer) % uintptr_t(alignment) != 0;
}

// The widest access, up to `most` bytes, for two pointers and rows of `row` bytes.
int64_t width_of(const void *a, const void *b, int64_t row, int64_t most) {
  const uint64_t bits = reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b) | uint64_t(row) |
                        uint64_t(most);
  return int64_t(bits & -bits);
}

// The first size is argument `sizes`.
int check_sizes(int64_t tokens, int64_t heads, int64_t head_size, int64_t blocks, int64_t block_size,
                int sizes) {
  constexpr int64_t MOST = 1 << 28; // elements of a token
  if (tokens < 0) return -sizes;
  if (heads < 1 || heads > MOST) return -(sizes + 1);
  if (head_size < 1 || head_size > MOST / heads) return -(sizes + 2);
  if (blocks < 1) return -(sizes + 3);
  if (block_size < 1 || block_size > INT64_MAX / blocks) return -(sizes + 4);
  return 0;
}

} // namespace

extern "C" int rb_cuda_kv_append(const void *key, const void *value, void *key_cache, void *value_cache,
                                 const int64_t *slot_mapping, int64_t num_tokens, int64_t num_heads,
                                 int64_t head_size, int64_t num_blocks, int64_t block_size, int64_t itemsize,
                                 void *stream) {
  const int bad = check_sizes(num_tokens, num_heads, head_size, num_blocks, block_size, 6);
  if (bad) return bad;
  if (itemsize != 1 && itemsize != 2 && itemsize != 4) return -11;
  if (num_tokens == 0) return 0;
  const void *pointers[] = {key, value, key_cache, value_cache};
  for (int i = 0; i < 4; i++)
    if (!pointers[i] || off(pointers[i], itemsize)) return -(i + 1);
  if (!slot_mapping || off(slot_mapping, 8)) return -5;
  const int64_t row = num_heads * head_size * itemsize;
  const Call call = {key,
                     value,
                     key_cache,
                     value_cache,
                     slot_mapping,
                     nullptr,
                     nullptr,
                     num_tokens,
                     num_blocks * block_size,
                     row,
                     static_cast<cudaStream_t>(stream)};
  int code;
  switch (width_of(key, value, row, width_of(key_cache, value_cache, row, 16))) {
  case 16:
    code = launch<uint4, uint4>(call);
    break;
  case 8:
    code = launch<uint2, uint2>(call);
    break;
  case 4:
    code = launch<uint32_t, uint32_t>(call);
    break;
  case 2:
    code = launch<uint16_t, uint16_t>(call);
    break;
  default:
    code = launch<uint8_t, uint8_t>(call);
  }
  return code < 0 ? -6 : code;
}

extern "C" int rb_cuda_kv_append_fp8(const void *key, const void *value, void *key_cache, void *value_cache,
                                     const int64_t *slot_mapping, const float *k_scale_inv,
                                     const float *v_scale_inv, int64_t num_tokens, int64_t num_heads,
                                     int64_t head_size, int64_t num_blocks, int64_t block_size, void *stream) {
  const int bad = check_sizes(num_tokens, num_heads, head_size, num_blocks, block_size, 8);
  if (bad || num_tokens == 0) return bad;
  if (!key || off(key, 2)) return -1;
  if (!value || off(value, 2)) return -2;
  if (!key_cache) return -3;
  if (!value_cache) return -4;
  if (!slot_mapping || off(slot_mapping, 8)) return -5;
  if (!k_scale_inv || off(k_scale_inv, 4)) return -6;
  if (!v_scale_inv || off(v_scale_inv, 4)) return -7;
  const int64_t row = num_heads * head_size;
  const Call call = {key,
                     value,
                     key_cache,
                     value_cache,
                     slot_mapping,
                     k_scale_inv,
                     v_scale_inv,
                     num_tokens,
                     num_blocks * block_size,
                     2 * row,
                     static_cast<cudaStream_t>(stream)};
  int code;
  switch (width_of(key, value, 2 * row, 2 * width_of(key_cache, value_cache, row, 8))) {
  case 16:
    code = launch<uint4, uint2>(call);
    break;
  case 8:
    code = launch<uint2, uint32_t>(call);
    break;
  case 4:
    code = launch<uint32_t, uint16_t>(call);
    break;
  default:
    code = launch<uint16_t, uint8_t>(call);
  }
  return code < 0 ? -8 : code;
}
