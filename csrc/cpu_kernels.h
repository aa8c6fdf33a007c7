/* SPDX-License-Identifier: MIT */
/* Prototypes of every C launcher in this folder, once.
 *
 * The sources do not include this file: a build passes it with -include, so that a signature that has
 * drifted does not compile, and a source copied elsewhere needs nothing beside it.
 *
 * Every launcher returns
 *    0   done;
 *   -i   its i-th argument, from 1, is bad (LAPACK's INFO), and nothing was written;
 *    1   out of memory, and nothing was written;
 *    2   this processor has no such thing.
 * `threads` is how many to use, 0 for all. Arrays are row-major and contiguous. bf16 and f16 travel as
 * uint16_t, e4m3 and e8m0 as uint8_t; codes packed as roofbench/formats.py says, on a little-endian machine.
 * What is written overlaps no other argument.
 */
#ifndef ROOFBENCH_CPU_KERNELS_H
#define ROOFBENCH_CPU_KERNELS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* cffi: begin */

/* y (M, N) = x (M, K) @ w (N, K).T */
int rb_gemv_f32(const float *x, const float *w, float *y, int64_t M, int64_t N, int64_t K, int threads);
int rb_gemv_f16(const uint16_t *x, const uint16_t *w, uint16_t *y, int64_t M, int64_t N, int64_t K,
                int threads);
int rb_gemv_bf16(const uint16_t *x, const uint16_t *w, uint16_t *y, int64_t M, int64_t N, int64_t K,
                 int threads);
int rb_gemv_fp8(const uint16_t *x, const uint8_t *w, const float *w_scales, uint16_t *y, int64_t M, int64_t N,
                int64_t K, int threads);
int rb_gemv_int8(const uint16_t *x, const uint32_t *w, const uint16_t *w_scales, const uint16_t *w_biases,
                 uint16_t *y, int64_t M, int64_t N, int64_t K, int threads);
int rb_gemv_int4(const uint16_t *x, const uint32_t *w, const uint16_t *w_scales, const uint16_t *w_biases,
                 uint16_t *y, int64_t M, int64_t N, int64_t K, int threads);
int rb_gemv_mxfp8(const uint16_t *x, const uint32_t *w, const uint8_t *w_scales, uint16_t *y, int64_t M,
                  int64_t N, int64_t K, int threads);
int rb_gemv_mxfp4(const uint16_t *x, const uint32_t *w, const uint8_t *w_scales, uint16_t *y, int64_t M,
                  int64_t N, int64_t K, int threads);
int rb_gemv_nvfp4(const uint16_t *x, const uint32_t *w, const uint8_t *w_scales, const float *w_tensor_scale,
                  uint16_t *y, int64_t M, int64_t N, int64_t K, int threads);

/* y (M, top_k, N): y[m, j] = w[expert_ids[m, j]] (N, K) @ x[m, j or 0] (K) */
int rb_gemv_moe_f32(const float *x, const float *w, const int32_t *expert_ids, float *y, int64_t M, int64_t N,
                    int64_t K, int64_t E, int64_t top_k, int64_t x_slots, int threads);
int rb_gemv_moe_f16(const uint16_t *x, const uint16_t *w, const int32_t *expert_ids, uint16_t *y, int64_t M,
                    int64_t N, int64_t K, int64_t E, int64_t top_k, int64_t x_slots, int threads);
int rb_gemv_moe_bf16(const uint16_t *x, const uint16_t *w, const int32_t *expert_ids, uint16_t *y, int64_t M,
                     int64_t N, int64_t K, int64_t E, int64_t top_k, int64_t x_slots, int threads);
int rb_gemv_moe_fp8(const uint16_t *x, const uint8_t *w, const float *w_scales, const int32_t *expert_ids,
                    uint16_t *y, int64_t M, int64_t N, int64_t K, int64_t E, int64_t top_k, int64_t x_slots,
                    int threads);
int rb_gemv_moe_int8(const uint16_t *x, const uint32_t *w, const uint16_t *w_scales, const uint16_t *w_biases,
                     const int32_t *expert_ids, uint16_t *y, int64_t M, int64_t N, int64_t K, int64_t E,
                     int64_t top_k, int64_t x_slots, int threads);
int rb_gemv_moe_int4(const uint16_t *x, const uint32_t *w, const uint16_t *w_scales, const uint16_t *w_biases,
                     const int32_t *expert_ids, uint16_t *y, int64_t M, int64_t N, int64_t K, int64_t E,
                     int64_t top_k, int64_t x_slots, int threads);
int rb_gemv_moe_mxfp8(const uint16_t *x, const uint32_t *w, const uint8_t *w_scales, const int32_t *expert_ids,
                      uint16_t *y, int64_t M, int64_t N, int64_t K, int64_t E, int64_t top_k, int64_t x_slots,
                      int threads);
int rb_gemv_moe_mxfp4(const uint16_t *x, const uint32_t *w, const uint8_t *w_scales, const int32_t *expert_ids,
                      uint16_t *y, int64_t M, int64_t N, int64_t K, int64_t E, int64_t top_k, int64_t x_slots,
                      int threads);
int rb_gemv_moe_nvfp4(const uint16_t *x, const uint32_t *w, const uint8_t *w_scales,
                      const float *w_tensor_scale, const int32_t *expert_ids, uint16_t *y, int64_t M, int64_t N,
                      int64_t K, int64_t E, int64_t top_k, int64_t x_slots, int threads);

/* y (B, M, N) = x (B, M, K) @ w (w_batch, N, K).T, w_batch 1 or B */
int rb_gemm_f32(const float *x, const float *w, float *y, int64_t B, int64_t M, int64_t N, int64_t K,
                int64_t w_batch, int threads);
int rb_gemm_f16(const uint16_t *x, const uint16_t *w, uint16_t *y, int64_t B, int64_t M, int64_t N, int64_t K,
                int64_t w_batch, int threads);
int rb_gemm_bf16(const uint16_t *x, const uint16_t *w, uint16_t *y, int64_t B, int64_t M, int64_t N, int64_t K,
                 int64_t w_batch, int threads);
int rb_gemm_fp8(const uint16_t *x, const uint8_t *w, const float *w_scales, uint16_t *y, int64_t B, int64_t M,
                int64_t N, int64_t K, int64_t w_batch, int threads);
int rb_gemm_int8(const uint16_t *x, const uint32_t *w, const uint16_t *w_scales, const uint16_t *w_biases,
                 uint16_t *y, int64_t B, int64_t M, int64_t N, int64_t K, int64_t w_batch, int threads);
int rb_gemm_int4(const uint16_t *x, const uint32_t *w, const uint16_t *w_scales, const uint16_t *w_biases,
                 uint16_t *y, int64_t B, int64_t M, int64_t N, int64_t K, int64_t w_batch, int threads);
int rb_gemm_mxfp8(const uint16_t *x, const uint32_t *w, const uint8_t *w_scales, uint16_t *y, int64_t B,
                  int64_t M, int64_t N, int64_t K, int64_t w_batch, int threads);
int rb_gemm_mxfp4(const uint16_t *x, const uint32_t *w, const uint8_t *w_scales, uint16_t *y, int64_t B,
                  int64_t M, int64_t N, int64_t K, int64_t w_batch, int threads);
int rb_gemm_nvfp4(const uint16_t *x, const uint32_t *w, const uint8_t *w_scales, const float *w_tensor_scale,
                  uint16_t *y, int64_t B, int64_t M, int64_t N, int64_t K, int64_t w_batch, int threads);

/* The same with x in the format of w. */
int rb_gemm_fp8_w8a8(const uint8_t *x, const float *x_scales, const uint8_t *w, const float *w_scales,
                     uint16_t *y, int64_t B, int64_t M, int64_t N, int64_t K, int64_t w_batch, int threads);
int rb_gemm_mxfp8_w8a8(const uint32_t *x, const uint8_t *x_scales, const uint32_t *w, const uint8_t *w_scales,
                       uint16_t *y, int64_t B, int64_t M, int64_t N, int64_t K, int64_t w_batch, int threads);
int rb_gemm_mxfp4_w4a4(const uint32_t *x, const uint8_t *x_scales, const uint32_t *w, const uint8_t *w_scales,
                       uint16_t *y, int64_t B, int64_t M, int64_t N, int64_t K, int64_t w_batch, int threads);
int rb_gemm_nvfp4_w4a4(const uint32_t *x, const uint8_t *x_scales, const float *x_tensor_scale,
                       const uint32_t *w, const uint8_t *w_scales, const float *w_tensor_scale, uint16_t *y,
                       int64_t B, int64_t M, int64_t N, int64_t K, int64_t w_batch, int threads);

/* cache[slot_mapping[t]] = token t; a negative slot is padding, no other comes twice. itemsize 1, 2 or 4. */
int rb_kv_append(const void *key, const void *value, void *key_cache, void *value_cache,
                 const int64_t *slot_mapping, int64_t num_tokens, int64_t num_heads, int64_t head_size,
                 int64_t num_blocks, int64_t block_size, int64_t itemsize, int threads);
int rb_kv_append_fp8(const uint16_t *key, const uint16_t *value, uint8_t *key_cache, uint8_t *value_cache,
                     const int64_t *slot_mapping, const float *k_scale_inv, const float *v_scale_inv,
                     int64_t num_tokens, int64_t num_heads, int64_t head_size, int64_t num_blocks,
                     int64_t block_size, int threads);

/* token t = cache[slot_mapping[t]], zeros for a negative slot; hnd 1 puts heads first. */
int rb_kv_gather(const void *key_cache, const void *value_cache, const int64_t *slot_mapping, void *key,
                 void *value, int64_t num_tokens, int64_t num_heads, int64_t head_size, int64_t num_blocks,
                 int64_t block_size, int64_t hnd, int64_t itemsize, int threads);
int rb_kv_gather_fp8(const uint16_t *key_cache, const uint16_t *value_cache, const int64_t *slot_mapping,
                     const float *k_scale_inv, const float *v_scale_inv, uint8_t *key, uint8_t *value,
                     int64_t num_tokens, int64_t num_heads, int64_t head_size, int64_t num_blocks,
                     int64_t block_size, int64_t hnd, int threads);

/* In each of num_layers key and value caches: block dst = block src, for each pair of block_mapping. */
int rb_kv_copy_blocks(void *const *key_caches, void *const *value_caches, const int64_t *block_mapping,
                      int64_t num_layers, int64_t num_blocks, int64_t block_size, int64_t num_heads,
                      int64_t head_size, int64_t num_pairs, int64_t itemsize, int threads);

/* Ceilings of the machine; what `variant` means, rb_probe_variant tells, NULL past the last. */
int rb_probe_read(const uint64_t *a, uint64_t *sum, int64_t n, int variant, int threads);
int rb_probe_write(float *a, int64_t n, int variant, int threads);
int rb_probe_copy(const float *a, float *b, int64_t n, int variant, int threads);
int rb_probe_triad(float *a, const float *b, const float *c, int64_t n, int variant, int threads);
int rb_probe_fma(int64_t *count, int64_t n, int variant, int threads);
int rb_probe_matrix(int64_t *count, int64_t n, int variant, int threads);
const char *rb_probe_variant(const char *probe, int variant);
int rb_probe_launch(int threads);           /* an empty launch: the floor of every time */
int rb_probe_clock(int64_t n, double *sum); /* 2 n dependent one-cycle operations on this core */
int rb_threads(void);                       /* threads that 0 stands for */
const char *rb_isa(void);                   /* level of x86-64, or architecture, whose vectors are used */

/* cffi: end */

#ifdef __cplusplus
}
#endif

#endif
