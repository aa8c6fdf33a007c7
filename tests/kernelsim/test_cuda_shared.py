# SPDX-License-Identifier: MIT
"""__shared__ variables: what their names mean, and where."""

import numpy as np
import pytest

import kernelsim
from kernelsim import ArgumentError, cuda

# Declarations, and what thread t of four does to get *y = t.
DYNAMIC = "extern __shared__ float a[];"
USE = "a[t] = t; *y = a[t];"
CHANGED = "a[t] = -1; auto f = {}; a[t] = t; *y = f();"
CASES = {
    "a class for the host before it": ("struct S { float x[4]; }; __shared__ S s;", "s.x[t] = t; *y = s.x[t];"),
    "declared twice": (2 * DYNAMIC, 2 * DYNAMIC + USE),
    "two dynamic arrays": ("extern __shared__ float a[], b[];", "a[t] = t; *y = b[t];"),
    "two in a function": ("", "extern __shared__ __align__(16) float a[], b[]; a[t] = t; *y = b[t];"),
    "several types": ("__shared__ float *a, b[4], c;", "a = b; a[t] = t; c = 1; *y = b[t] * c;"),
    "captured by copy": ("__shared__ float a[4];", CHANGED.format("[=] { return a[t]; }")),
    "captured by nobody": (DYNAMIC, CHANGED.format("[t] { return a[t]; }")),
    "of a function, by copy": ("", "__shared__ float a[4]; " + CHANGED.format("[=, &y] { return a[t]; }")),
    "of a function, by nobody": ("", DYNAMIC + CHANGED.format("[t] { return a[t]; }")),
    "of a function, by reference": ("", DYNAMIC + CHANGED.format("[&, t] { return a[t]; }")),
    "of a function, in a lambda returned": (
        "__device__ auto set(int t) { __shared__ float a[4]; return [=](float x) { return a[t] = x; }; }",
        "*y = set(t)(t);",
    ),
    "of a function, in a class": (
        "",
        "__shared__ float a[4]; struct L { __device__ float get(int i) { return a[i]; } }; a[t] = t; *y = L().get(t);",
    ),
    "members have the name": (
        DYNAMIC + "struct B { float a[4]; }; struct D : B { __device__ float of_base(int i) { return a[i]; } };"
        "struct E { float a[4]; __device__ float get(int i); }; __device__ float E::get(int i) { return a[i]; }",
        "a[t] = 9; D d; d.a[t] = t; E e; e.a[t] = 0; *y = d.of_base(t) + e.get(t);",
    ),
    "in an initialiser": (
        DYNAMIC + "struct S { float *p; __device__ S() : p(a) {} };",
        "a[t] = t; *y = S().p[t];",
    ),
    "in a default argument": (
        DYNAMIC + "__device__ float get(int t, float *p = a) { return p[t]; }",
        USE + "*y = get(t);",
    ),
    "in a return type": (
        DYNAMIC + "__device__ auto get(int t) -> decltype(a[t]) { return a[t]; }",
        USE + "*y = get(t);",
    ),
    "in what is final": (
        DYNAMIC + "struct B { __device__ virtual float get(int) = 0; };"
        "struct F : B { __device__ float get(int t) final { return a[t]; } };"
        "struct R { __device__ float get(int t) && { return a[t]; } };",
        "a[t] = t; F f; *y = f.get(t) + R().get(t) - t;",
    ),
    "of a namespace in use": (f"namespace n {{ {DYNAMIC} }} using namespace n;", USE),
    "of a using declaration": (f"namespace n {{ {DYNAMIC} }} using n::a;", USE),
    "of an inline namespace": (f"namespace n {{ inline namespace i {{ {DYNAMIC} }} }}", "n::a[t] = t; *y = n::a[t];"),
}


@pytest.fixture(scope="module")
def scopes():
    kernel = "__global__ void k(float* out) {{ const int t = threadIdx.x; float* y = out + t; {} }}"
    cases = [
        f"namespace case_{n} {{ {outer} {kernel.format(body)} }}" for n, (outer, body) in enumerate(CASES.values())
    ]
    last = kernel.format("::global[t] = t; *y = ::global[t];")
    source = "\n".join([*cases, "extern __shared__ float global[];", last])
    return cuda.load(source=source, kernels=[f"case_{n}::k" for n in range(len(CASES))] + ["k"])


@pytest.mark.parametrize("name", [*CASES, ""])
def test_names_are_what_they_are_in_cpp(scopes, name):
    out = kernelsim.poisoned(4, np.float32)
    scopes.kernel(f"case_{[*CASES].index(name)}::k" if name else "k").check([out], grid=3, block=4, shared=16)
    assert out.tolist() == [0, 1, 2, 3]


def test_static_memory_counts_for_kernels_that_write_it():
    kernel = "__global__ void {}(float* out) {{ {} *out = 1; }}"
    bodies = {"first": "a[0] = 1;", "second": "b[9] = 1;", "neither": "", "both": "a[0] = b[0] = 1;"}
    kernels = [kernel.format(*one) for one in bodies.items()]
    library = cuda.load(source="\n".join(["__shared__ float a[10000]; __shared__ float b[10000];", *kernels]))
    out = np.zeros(1, np.float32)
    for name in ("first", "second", "neither"):
        library.kernel(name)([out], grid=2, block=1)
    with pytest.raises(ArgumentError, match="needs 80000 bytes of static shared memory; 49152 are allowed"):
        library.kernel("both")([out], grid=2, block=1)


def test_every_launch_has_its_own_addresses():
    source = """
    #include <cuda_runtime.h>
    int before(int n) { return n; }
    __shared__ float a[4];
    extern __shared__ float b[];
    __host__ __device__ float* at(int i) { return i ? a : b; }
    __global__ void sums(float* out) {
      const int t = threadIdx.x;
      at(0)[t] = t;
      at(1)[t] = 10 * t;
      out[t] = at(0)[t] + at(1)[t];
    }
    extern "C" int launch(float* out) {
      if (at(0) || !at(1)) return -1;  // of the host there is none of one, and a place for the other
      at(1)[0] = 3;
      sums<<<1, 4, 64>>>(out);
      sums<<<2, 4, 4096>>>(out + 4);
      return cudaGetLastError();
    }
    """
    out = kernelsim.poisoned(8, np.float32)
    assert cuda.build(source=source).functions.launch(*cuda.addresses(out)) == 0
    assert out.tolist() == [0, 11, 22, 33] * 2


def test_shared_memory_of_a_namespace_is_what_its_name_means_there():
    source = """
    extern __shared__ __align__(1024) float memory[];
    __shared__ int fixed[4], one;
    template <class T> __device__ T get(int i) { return memory[i]; }
    __device__ float parameter(const float* memory, int i) { return memory[i]; }
    __device__ float local(int i) { float memory[2] = {5, 6}; return memory[i & 1]; }
    struct Member { float memory[2]; __device__ float get(int i) const { return memory[i]; } };
    namespace other { __device__ float fixed(float x) { return x + memory[0]; } }
    namespace there { __shared__ float only[1]; }
    __device__ float only = 7;
    int host(int one) { size_t memory = 1; int fixed[1] = {one}; return fixed[0] + int(memory); }
    __host__ __device__ int both(int one) { int fixed[2] = {one, 1}; return fixed[0]; }
    __global__ void scopes(float* out, size_t* address) {
      const int i = threadIdx.x;
      memory[i] = i;
      if (i < 4) fixed[i] = 10 * i;
      if (i == 0) one = 9;
      __syncthreads();
      auto captures = [&](int i) -> float { return memory[i] + fixed[1]; };
      auto does_not = [](int i) { return memory[i]; };
      out[i] = get<float>(31 - i);
      out[32 + i] = parameter(memory + 1, i) + local(i) + Member{{1, 2}}.get(i & 1) + fixed[i % 4] + one;
      out[64 + i] = captures(i) + does_not(i) + other::fixed(1) + both(2) + only;
      address[0] = reinterpret_cast<size_t>(&memory);
      address[1] = __cvta_generic_to_shared(memory);
    }
    __global__ void an_argument(float* out, int memory) { out[0] = memory; }
    """
    library = cuda.load(source=source)
    out, address, i = kernelsim.poisoned((3, 32), np.float32), np.ones(2, np.uint64), np.arange(32)
    library.kernel("scopes")([out, address], grid=1, block=32, shared=33 * 4)
    assert np.array_equal(out[0], 31 - i)
    assert np.array_equal(out[1, :31], (i + 1 + 5 + i % 2 + 1 + i % 2 + 10 * (i % 4) + 9)[:31])
    assert np.array_equal(out[2], i + 10 + i + 1 + 2 + 7)
    assert (address % 1024).tolist() == [0, 0]
    library.kernel("an_argument")([out, 3], grid=1, block=1)
    assert out[0, 0] == 3
    cuda.build(source=source)
