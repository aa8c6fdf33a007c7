// SPDX-License-Identifier: MIT
// Loads and stores with cache hints, addresses of shared memory, copies that land later (CUDA C++ Programming
// Guide: "Read-Only Data Cache Load Function", "Load Functions Using Cache Hints", "Address Space Predicate and
// Conversion Functions", "Pipeline Primitives Interface").
//
// A hint changes nothing that a CPU could show: __ldcs(p) is *p.
#pragma once
#include "types.hpp"

#define KSIM_LOAD(name) \
  template <class T> KSIM_INLINE T name(const T *address) { return *address; }
KSIM_LOAD(__ldg)
KSIM_LOAD(__ldca)
KSIM_LOAD(__ldcg)
KSIM_LOAD(__ldcs)
KSIM_LOAD(__ldlu)
KSIM_LOAD(__ldcv)
#undef KSIM_LOAD
#define KSIM_STORE(name) \
  template <class T> KSIM_INLINE void name(T *address, ksim::cuda::Same<T> value) { *address = value; }
KSIM_STORE(__stwb)
KSIM_STORE(__stcg)
KSIM_STORE(__stcs)
KSIM_STORE(__stwt)
#undef KSIM_STORE

KSIM_INLINE size_t __cvta_generic_to_shared(const void *p) {
  return size_t(static_cast<const unsigned char *>(p) - ksim::worker->window);
}
KSIM_INLINE void *__cvta_shared_to_generic(size_t offset) { return ksim::worker->window + offset; }
KSIM_INLINE size_t __cvta_generic_to_global(const void *p) { return reinterpret_cast<size_t>(p); }
KSIM_INLINE void *__cvta_global_to_generic(size_t address) { return reinterpret_cast<void *>(address); }

// Whether a generic address lies in this state space; of local memory nothing is known: it counts as global.
KSIM_INLINE unsigned int __isShared(const void *p) {
  const auto window_bytes = size_t(ksim::worker->dynamic[ksim::kSlots - 1] - ksim::worker->window);
  return size_t(static_cast<const unsigned char *>(p) - ksim::worker->window) < window_bytes;
}
KSIM_INLINE unsigned int __isClusterShared(const void *p) { return __isShared(p); }
KSIM_INLINE unsigned int __isGlobal(const void *p) { return !__isShared(p); }
KSIM_INLINE unsigned int __isConstant(const void *) { return 0; }
KSIM_INLINE unsigned int __isLocal(const void *) { return 0; }
KSIM_INLINE unsigned int __isGridConstant(const void *) { return 0; }

KSIM_INLINE void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
KSIM_INLINE void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
KSIM_INLINE void __threadfence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
KSIM_INLINE long long clock64() { return (long long)__builtin_readcyclecounter(); }
KSIM_INLINE void __prof_trigger(int) {}
KSIM_INLINE void __nanosleep(unsigned int) { ksim::give_way(); }

// Programmatic dependent launch: the grid before this one has ended.
KSIM_INLINE void cudaGridDependencySynchronize() {}
KSIM_INLINE void cudaTriggerProgrammaticLaunchCompletion() {}
