// SPDX-License-Identifier: MIT
// What the sources of the host side share: errors, allocations, streams.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "host.hpp"

#pragma GCC visibility push(hidden)

struct CUgraph_st {
  std::vector<std::function<void()>> work;
};
struct CUgraphExec_st {
  CUgraph_st graph;
};
struct CUstream_st {
  CUgraph_st *captures = nullptr; // into this graph, while it is captured
};
struct CUevent_st {
  bool recorded = false;
  double seconds = 0;
  CUgraph_st *captured = nullptr; // recorded while this graph was captured
};

namespace ksim::cuda {

// Sets the last error of this thread, and what ksim_last_error() says; returns it.
cudaError_t failed(cudaError_t error, const char *format, ...) __attribute__((format(printf, 2, 3)));
// The fault that nothing works after, or cudaSuccess.
cudaError_t sticky();
void forget_errors();

// The graph that a stream's work goes to, or null: it is done at once. Throws nothing; an unknown stream is an
// error.
cudaError_t capturing(cudaStream_t stream, CUgraph_st **graph);

// How an address lies to memory that cudaMalloc and its like gave, in words; "" if it lies at none.
std::string describe_address(uint64_t address, int write);
// Error if [p, p + bytes) leaves the allocation that p lies in; memory of other origin is believed.
cudaError_t check_range(const char *function, const char *what, const void *p, size_t bytes);
// What was written on the pages of an allocation around it, in words; "" if nothing was. Mends it.
std::string find_overrun();
void free_everything();

} // namespace ksim::cuda

#pragma GCC visibility pop
