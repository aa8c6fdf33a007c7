// SPDX-License-Identifier: MIT
// cuda_pipeline.h (CUDA C++ Programming Guide, "Pipeline Primitives Interface"). A copy lands when it is waited
// for, as cp.async does, so a missing wait shows.
#pragma once
#include "ptx_async.hpp"

KSIM_INLINE void __pipeline_memcpy_async(void *to, const void *from, size_t size, size_t zeros = 0,
                                         ksim::Where where = ksim::here()) {
  if ((size != 4 && size != 8 && size != 16) || zeros > size)
    ksim::fail(ksim::kUndefined, where,
               "__pipeline_memcpy_async copies 4, 8 or 16 bytes, not %zu with %zu zeros", size, zeros);
  ksim::ptx::cp_async<ksim::ptx::kCa>(static_cast<unsigned char *>(to),
                                      static_cast<const unsigned char *>(from), uint32_t(size),
                                      uint32_t(size - zeros), where);
}
KSIM_INLINE void __pipeline_commit() { ksim::ptx::cp_async_commit_group(); }
KSIM_INLINE void __pipeline_wait_prior(size_t pending) { ksim::ptx::cp_async_wait_group(uint32_t(pending)); }
