// SPDX-License-Identifier: MIT
// Copies whole blocks of the paged KV caches of every layer, in one launch: cache[dst] = cache[src] for each
// pair. rb_cuda_kv_copy_blocks: within each cache. rb_cuda_kv_swap_blocks: from one set of caches to another,
// such as from the device's memory to the host's or back.
//
// *_caches: (num_layers,) pointers on the device to caches (num_blocks, block_size, num_heads, head_size) of
// elements of 1, 2 or 4 bytes; block_mapping (num_pairs, 2) int64 of (src, dst) on the device, each dst in one
// pair only and, within a cache, never a src. A pair outside of the caches is left out: nobody would hear of
// it.
//
// Standalone CUDA C++17, sm_80 and later: nvcc -O3 -arch=native -c kv_copy_blocks.cu. Launch:
// rb_cuda_kv_copy_blocks(key_caches, value_caches, block_mapping, num_layers, num_blocks, block_size,
// num_heads, head_size, num_pairs, itemsize, stream). Memory-bound: reads and writes each copied block once. No
// additions.
//
// A tile is a piece of a pair's block in keys and values of one layer; blocks go round the tiles. A lane has
// UNROLL accesses of 16 bytes of each in flight; all is touched once and leaves the cache first. Where a
// pointer or a block is no multiple of 16 bytes, which only the kernel can see, the layer is copied by 4, 2
// or 1.
//
// Swaps are the same kernel, on host memory that the device can address: pinned, its address as
// cudaHostGetDevicePointer gives it, or any where the device has cudaDevAttrPageableMemoryAccess. Why no
// cudaMemcpyAsync: a call costs the host about 2.3 us (FlexKV#193), so blocks of 32 KiB would move at 14 GB/s
// at most if they do not follow each other, the host would have to know the mapping, and a graph would keep it;
// kernels that read pinned memory reach 93 to 97 % of memcpy (sglang#18968). A bus needs few bytes in flight,
// so a swap takes SWAP_BLOCKS blocks, 1 MiB in flight, and leaves the other multiprocessors to whoever computes
// meanwhile. Chips whose memory is the host's, too, have no bus: there a swap is a copy, with the grid of one,
// and nothing is staged. The host sees the bytes when the stream is synchronised.
#include <stdint.h>

namespace {

constexpr int SWAP_BLOCKS = 32;

struct Copy {
  const void *const *src_keys, *const *src_values;
  void *const *dst_keys, *const *dst_values;
  const int64_t *mapping; // (pairs, 2)
  int64_t src_blocks, dst_blocks;
  int64_t bytes;   // of a block
  uint32_t pairs;  // of a layer
  uint32_t pieces; // tiles that make a block
  uint32_t count;  // of all tiles
};

// `bytes` of keys and of values, by all threads of the block.
template <typename V, int THREADS, int UNROLL>
__device__ __forceinline__ void move(const char *k_src, const char *v_src, char *k_dst, char *v_dst,
                                     int bytes) {
#pragma unroll 1
  for (int first = threadIdx.x * int(sizeof(V)); first < bytes; first += THREADS * UNROLL * int(sizeof(V))) {
    V k[UNROLL], v[UNROLL];
#pragma unroll
    for (int u = 0; u < UNROLL; u++) {
      const int at = first + u * THREADS * int(sizeof(V));
      if (at < bytes) {
        k[u] = __ldcs(reinterpret_cast<const V *>(k_src + at));
        v[u] = __ldcs(reinterpret_cast<const V *>(v_src + at));
      }
    }
#pragma unroll
    for (int u = 0; u < UNROLL; u++) {
      const int at = first + u * THREADS * int(sizeof(V));
      if (at < bytes) {
        __stcs(reinterpret_cast<V *>(k_dst + at), k[u]);
        __stcs(reinterpret_cast<V *>(v_dst + at), v[u]);
      }
    }
  }
}

// Grid: any number of blocks, which go round the tiles.
template <int THREADS, int UNROLL>
__global__ void __launch_bounds__(THREADS, 1024 / THREADS) copy_blocks_kernel(Copy copy) {
  constexpr int TILE = THREADS * UNROLL * 16; // bytes of keys
  for (uint32_t tile = blockIdx.x; tile < copy.count; tile += gridDim.x) {
    const uint32_t piece = tile % copy.pieces, pair = tile / copy.pieces % copy.pairs,
                   layer = tile / copy.pieces / copy.pairs;
    const int64_t src = __ldg(copy.mapping + 2 * int64_t(pair)),
                  dst = __ldg(copy.mapping + 2 * int64_t(pair) + 1);
    if (uint64_t(src) >= uint64_t(copy.src_blocks) || uint64_t(dst) >= uint64_t(copy.dst_blocks)) continue;
    const int64_t at = int64_t(piece) * TILE, from = src * copy.bytes + at, to = dst * copy.bytes + at;
    const char *k_src = static_cast<const char *>(copy.src_keys[layer]) + from;
    const char *v_src = static_cast<const char *>(copy.src_values[layer]) + from;
    char *k_dst = static_cast<char *>(copy.dst_keys[layer]) + to,
         *v_dst = static_cast<char *>(copy.dst_values[layer]) + to;
    const int bytes = int(min(copy.bytes - at, int64_t(TILE)));
    const uintptr_t bits = reinterpret_cast<uintptr_t>(k_src) | reinterpret_cast<uintptr_t>(v_src) |
                           reinterpret_cast<uintptr_t>(k_dst) | reinterpret_cast<uintptr_t>(v_dst) |
                           uintptr_t(bytes);
    if (bits % 16 == 0)
      move<uint4, THREADS, UNROLL>(k_src, v_src, k_dst, v_dst, bytes);
    else if (bits % 4 == 0)
      move<uint32_t, THREADS, 2>(k_src, v_src, k_dst, v_dst, bytes);
    else if (bits % 2 == 0)
      move<uint16_t, THREADS, 2>(k_src, v_src, k_dst, v_dst, bytes);
    else
      move<uint8_t, THREADS, 2>(k_src, v_src, k_dst, v_dst, bytes);
  }
}

int attribute(cudaDeviceAttr name) {
  int device = 0, value = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  return cudaDeviceGetAttribute(&value, name, device) == cudaSuccess ? value : 0;
}

// Counts tiles of `size` bytes; false where there are too many.
bool divide(Copy &copy, int64_t layers, int64_t size) {
  const int64_t pieces = (copy.bytes - 1) / size + 1;
  if (pieces > INT32_MAX / copy.pairs / layers) return false;
  copy.pieces = uint32_t(pieces), copy.count = uint32_t(pieces * copy.pairs * layers);
  return true;
}

template <int THREADS, int UNROLL> int queue(const Copy &copy, int most_blocks, cudaStream_t stream) {
  const int blocks = int64_t(copy.count) < most_blocks ? int(copy.count) : most_blocks;
  copy_blocks_kernel<THREADS, UNROLL><<<blocks, THREADS, 0, stream>>>(copy);
  return int(cudaGetLastError());
}

// -1 where there are too many tiles.
int launch(Copy copy, int64_t layers, bool swap, cudaStream_t stream) {
  if (!divide(copy, layers, 256 * 4 * 16)) return -1;
  if (swap && !attribute(cudaDevAttrIntegrated)) return queue<256, 4>(copy, SWAP_BLOCKS, stream);
  const int processors = attribute(cudaDevAttrMultiProcessorCount) > 0
                             ? attribute(cudaDevAttrMultiProcessorCount)
                             : 1;
  if (int64_t(copy.count) >= 2 * processors) return queue<256, 4>(copy, 4 * processors, stream);
  // Few bytes: small tiles, so that every multiprocessor has some.
  divide(copy, layers, 128 * 16);
  return queue<128, 1>(copy, 16 * processors, stream);
}

// The first of block_size, num_heads, head_size, num_pairs and itemsize is argument `sizes`.
int check_sizes(int64_t block_size, int64_t heads, int64_t head_size, int64_t pairs, int64_t itemsize,
                int sizes) {
  constexpr int64_t MOST = int64_t(1) << 40; // elements of a block
  if (block_size < 1 || block_size > MOST) return -sizes;
  if (heads < 1 || heads > MOST / block_size) return -(sizes + 1);
  if (head_size < 1 || head_size > MOST / block_size / heads) return -(sizes + 2);
  if (pairs < 0 || pairs > INT32_MAX) return -(sizes + 3);
  if (itemsize != 1 && itemsize != 2 && itemsize != 4) return -(sizes + 4);
  return 0;
}

bool bad_pointer(const void *pointer) { return !pointer || reinterpret_cast<uintptr_t>(pointer) % 8; }

} // namespace

extern "C" int rb_cuda_kv_copy_blocks(void *const *key_caches, void *const *value_caches,
                                      const int64_t *block_mapping, int64_t num_layers, int64_t num_blocks,
                                      int64_t block_size, int64_t num_heads, int64_t head_size,
                                      int64_t num_pairs, int64_t itemsize, void *stream) {
  if (num_layers < 0 || num_layers > INT32_MAX) return -4;
  if (num_blocks < 1) return -5;
  const int bad = check_sizes(block_size, num_heads, head_size, num_pairs, itemsize, 6);
  if (bad || num_layers == 0 || num_pairs == 0) return bad;
  if (bad_pointer(key_caches)) return -1;
  if (bad_pointer(value_caches)) return -2;
  if (bad_pointer(block_mapping)) return -3;
  const Copy copy = {key_caches,
                     value_caches,
                     key_caches,
                     value_caches,
                     block_mapping,
                     num_blocks,
                     num_blocks,
                     block_size * num_heads * head_size * itemsize,
                     uint32_t(num_pairs),
                     0,
                     0};
  const int code = launch(copy, num_layers, false, static_cast<cudaStream_t>(stream));
  return code < 0 ? -9 : code;
}

// Each src of block_mapping is a block of the src caches, of src_blocks, each dst one of the dst caches, of
// dst_blocks.
extern "C" int rb_cuda_kv_swap_blocks(void *const *src_key_caches, void *const *src_value_caches,
                                      void *const *dst_key_caches, void *const *dst_value_caches,
                                      const int64_t *block_mapping, int64_t num_layers, int64_t src_blocks,
                                      int64_t dst_blocks, int64_t block_size, int64_t num_heads,
                                      int64_t head_size, int64_t num_pairs, int64_t itemsize, void *stream) {
  if (num_layers < 0 || num_layers > INT32_MAX) return -6;
  if (src_blocks < 1) return -7;
  if (dst_blocks < 1) return -8;
  const int bad = check_sizes(block_size, num_heads, head_size, num_pairs, itemsize, 9);
  if (bad || num_layers == 0 || num_pairs == 0) return bad;
  if (bad_pointer(src_key_caches)) return -1;
  if (bad_pointer(src_value_caches)) return -2;
  if (bad_pointer(dst_key_caches)) return -3;
  if (bad_pointer(dst_value_caches)) return -4;
  if (bad_pointer(block_mapping)) return -5;
  const Copy copy = {src_key_caches,
                     src_value_caches,
                     dst_key_caches,
                     dst_value_caches,
                     block_mapping,
                     src_blocks,
                     dst_blocks,
                     block_size * num_heads * head_size * itemsize,
                     uint32_t(num_pairs),
                     0,
                     0};
  const int code = launch(copy, num_layers, true, static_cast<cudaStream_t>(stream));
  return code < 0 ? -12 : code;
}
