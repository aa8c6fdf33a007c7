/* SPDX-License-Identifier: MIT */
/* Prototypes of every CUDA launcher in this folder, once.
 *
 * The sources do not include this file: a build passes it with -include, so that a signature that has
 * drifted does not compile, and a source copied elsewhere needs nothing beside it.
 *
 * Every launcher queues its work on `stream` (a cudaStream_t, NULL is the default one) and returns
 *    0   queued;
 *   -i   its i-th argument, from 1, is bad, and nothing was queued;
 *   > 0  the cudaError_t of the launch.
 * It allocates nothing and waits for nothing, so it can be captured into a graph. Arrays are row-major,
 * contiguous and on the device. Codes are packed as roofbench/formats.py says. What is written overlaps no
 * other argument.
 */
#ifndef ROOFBENCH_CUDA_KERNELS_H
#define ROOFBENCH_CUDA_KERNELS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* cffi: begin */

/* y (M, N) = x (M, K) @ w (N, K).T */
int rb_cuda_gemv_f32(const void *x, const void *w, void *y, int64_t M, int64_t N, int64_t K, void *stream);
int rb_cuda_gemv_f16(const void *x, const void *w, void *y, int64_t M, int64_t N, int64_t K, void *stream);
int rb_cuda_gemv_bf16(const void *x, const void *w, void *y, int64_t M, int64_t N, int64_t K, void *stream);
int rb_cuda_gemv_fp8(const void *x, const void *w, const void *w_scales, void *y, int64_t M, int64_t N,
                     int64_t K, void *stream);
int rb_cuda_gemv_int8(const void *x, const void *w, const void *w_scales, const void *w_biases, void *y,
                      int64_t M, int64_t N, int64_t K, void *stream);
int rb_cuda_gemv_int4(const void *x, const void *w, const void *w_scales, const void *w_biases, void *y,
                      int64_t M, int64_t N, int64_t K, void *stream);
int rb_cuda_gemv_mxfp8(const void *x, const void *w, const void *w_scales, void *y, int64_t M, int64_t N,
                       int64_t K, void *stream);
int rb_cuda_gemv_mxfp4(const void *x, const void *w, const void *w_scales, void *y, int64_t M, int64_t N,
                       int64_t K, void *stream);
int rb_cuda_gemv_nvfp4(const void *x, const void *w, const void *w_scales, const void *w_tensor_scale, void *y,
                       int64_t M, int64_t N, int64_t K, void *stream);

/* y (M, top_k, N): y[m, j] = w[expert_ids[m, j]] (N, K) @ x[m, j or 0] (K) */
int rb_cuda_gemv_moe_bf16(const void *x, const void *w, const void *expert_ids, void *y, int64_t M, int64_t N,
                          int64_t K, int64_t E, int64_t top_k, int64_t x_slots, void *stream);
int rb_cuda_gemv_moe_int4(const void *x, const void *w, const void *w_scales, const void *w_biases,
                          const void *expert_ids, void *y, int64_t M, int64_t N, int64_t K, int64_t E,
                          int64_t top_k, int64_t x_slots, void *stream);
int rb_cuda_gemv_moe_mxfp4(const void *x, const void *w, const void *w_scales, const void *expert_ids, void *y,
                           int64_t M, int64_t N, int64_t K, int64_t E, int64_t top_k, int64_t x_slots,
                           void *stream);

/* y (B, M, N) = x (B, M, K) @ w (w_batch, N, K).T, w_batch 1 or B; w8a8: x in the format of w */
int rb_cuda_gemm_f32(const void *x, const void *w, void *y, int64_t B, int64_t M, int64_t N, int64_t K,
                     int64_t w_batch, void *stream);
int rb_cuda_gemm_f16(const void *x, const void *w, void *y, int64_t B, int64_t M, int64_t N, int64_t K,
                     int64_t w_batch, void *stream);
int rb_cuda_gemm_bf16(const void *x, const void *w, void *y, int64_t B, int64_t M, int64_t N, int64_t K,
                      int64_t w_batch, void *stream);
int rb_cuda_gemm_fp8(const void *x, const void *w, const void *w_scales, void *y, int64_t B, int64_t M,
                     int64_t N, int64_t K, int64_t w_batch, void *stream);
int rb_cuda_gemm_fp8_w8a8(const void *x, const void *x_scales, const void *w, const void *w_scales, void *y,
                          int64_t B, int64_t M, int64_t N, int64_t K, int64_t w_batch, void *stream);
int rb_cuda_gemm_int8(const void *x, const void *w, const void *w_scales, const void *w_biases, void *y,
                      int64_t B, int64_t M, int64_t N, int64_t K, int64_t w_batch, void *stream);
int rb_cuda_gemm_int4(const void *x, const void *w, const void *w_scales, const void *w_biases, void *y,
                      int64_t B, int64_t M, int64_t N, int64_t K, int64_t w_batch, void *stream);
int rb_cuda_gemm_mxfp8(const void *x, const void *w, const void *w_scales, void *y, int64_t B, int64_t M,
                       int64_t N, int64_t K, int64_t w_batch, void *stream);
int rb_cuda_gemm_mxfp4(const void *x, const void *w, const void *w_scales, void *y, int64_t B, int64_t M,
                       int64_t N, int64_t K, int64_t w_batch, void *stream);
int rb_cuda_gemm_nvfp4(const void *x, const void *w, const void *w_scales, const void *w_tensor_scale, void *y,
                       int64_t B, int64_t M, int64_t N, int64_t K, int64_t w_batch, void *stream);

/* cache[slot_mapping[t]] = token t; a negative slot is padding, no other comes twice. itemsize 1, 2 or 4. */
int rb_cuda_kv_append(const void *key, const void *value, void *key_cache, void *value_cache,
                      const int64_t *slot_mapping, int64_t num_tokens, int64_t num_heads, int64_t head_size,
                      int64_t num_blocks, int64_t block_size, int64_t itemsize, void *stream);
int rb_cuda_kv_append_fp8(const void *key, const void *value, void *key_cache, void *value_cache,
                          const int64_t *slot_mapping, const float *k_scale_inv, const float *v_scale_inv,
                          int64_t num_tokens, int64_t num_heads, int64_t head_size, int64_t num_blocks,
                          int64_t block_size, void *stream);

/* token t = cache[slot_mapping[t]], zeros for a negative slot; hnd 1 puts heads first. */
int rb_cuda_kv_gather(const void *key_cache, const void *value_cache, const int64_t *slot_mapping, void *key,
                      void *value, int64_t num_tokens, int64_t num_heads, int64_t head_size, int64_t num_blocks,
                      int64_t block_size, int64_t hnd, int64_t itemsize, void *stream);
int rb_cuda_kv_gather_fp8(const void *key_cache, const void *value_cache, const int64_t *slot_mapping,
                          const float *k_scale_inv, const float *v_scale_inv, void *key, void *value,
                          int64_t num_tokens, int64_t num_heads, int64_t head_size, int64_t num_blocks,
                          int64_t block_size, int64_t hnd, void *stream);

/* In each of num_layers key and value caches: block dst = block src, for each pair of block_mapping. Tables of
 * caches are on the device. swap: from caches of one place, such as pinned memory of the host, to those of
 * another. */
int rb_cuda_kv_copy_blocks(void *const *key_caches, void *const *value_caches, const int64_t *block_mapping,
                           int64_t num_layers, int64_t num_blocks, int64_t block_size, int64_t num_heads,
                           int64_t head_size, int64_t num_pairs, int64_t itemsize, void *stream);
int rb_cuda_kv_swap_blocks(void *const *src_key_caches, void *const *src_value_caches,
                           void *const *dst_key_caches, void *const *dst_value_caches,
                           const int64_t *block_mapping, int64_t num_layers, int64_t src_blocks,
                           int64_t dst_blocks, int64_t block_size, int64_t num_heads, int64_t head_size,
                           int64_t num_pairs, int64_t itemsize, void *stream);

/* Ceilings of the device; what `variant` means, rb_cuda_probe_variant tells, NULL past the last. */
int rb_cuda_probe_read(const void *a, void *sum, int64_t n, int variant, void *stream);
int rb_cuda_probe_write(void *a, int64_t n, int variant, void *stream);
int rb_cuda_probe_copy(const void *a, void *b, int64_t n, int variant, void *stream);
int rb_cuda_probe_triad(void *a, const void *b, const void *c, int64_t n, int variant, void *stream);
int rb_cuda_probe_fma(void *count, int64_t n, int variant, void *stream);
int rb_cuda_probe_matrix_bf16(void *count, int64_t n, int variant, void *stream);
int rb_cuda_probe_matrix_f16(void *count, int64_t n, int variant, void *stream);
int rb_cuda_probe_matrix_fp8(void *count, int64_t n, int variant, void *stream);
int rb_cuda_probe_launch(void *stream);
const char *rb_cuda_probe_variant(const char *probe, int variant);

/* cffi: end */

#ifdef __cplusplus
}
#endif

#endif
