# SPDX-License-Identifier: MIT
"""atom and red."""

import ml_dtypes
import numpy as np
import pytest

from kernelsim import cuda


@pytest.mark.parametrize(
    ("opcode", "start", "operand", "expected"),
    [
        ("add.u32", 5, "i", 5 + 32 * 31 // 2),
        ("min.s32", 100, "i - 7", -7),
        ("max.u32", 3, "i", 31),
        ("inc.u32", 0, "6", 32 % 7),
        ("dec.u32", 0, "6", (-32) % 7),
        ("and.b32", 0xFF, "~(1 << i)", 0),
        ("or.b32", 0, "1 << i", 0xFFFFFFFF),
        ("xor.b32", 1, "1 << i", 0xFFFFFFFE),
    ],
)
@pytest.mark.parametrize("space", ["", ".global", ".shared"])
def test_atom_and_red(opcode, start, operand, expected, space):
    place = "(uint32_t)__cvta_generic_to_shared(&s)" if space == ".shared" else "p"
    letter = "r" if space == ".shared" else "l"
    source = f"""
#include <stdint.h>
__global__ void k(uint32_t* p, uint32_t* old) {{
  __shared__ uint32_t s;
  const int i = threadIdx.x;
  s = *p;
  __syncthreads();
  if (i % 2)
    asm volatile("red.relaxed.gpu{space}.{opcode} [%0], %1;" :: "{letter}"({place}), "r"({operand}) : "memory");
  else
    asm volatile("atom{space}.{opcode} %0, [%1], %2;" : "=r"(old[i]) : "{letter}"({place}), "r"({operand}) : "memory");
  __syncthreads();
  {"*p = s;" if space == ".shared" else ""}
}}
"""
    p, old = np.array([start], np.uint32), np.zeros(32, np.uint32)
    cuda.load(source=source).kernel("k")([p, old], grid=1, block=32)
    assert p[0] == expected % 2**32
    assert old[0] == start


def test_atomics_of_other_types():
    source = r"""
#include <stdint.h>
__global__ void k(float* f, uint32_t* h, uint64_t* l, uint16_t* b, float* v) {
  const int i = threadIdx.x;
  asm volatile("red.global.add.f32 [%0], %1;" :: "l"(f), "f"(0.5f));
  asm volatile("red.global.add.noftz.f16x2 [%0], %1;" :: "l"(h), "r"(0x3c003800));
  uint64_t old;
  asm volatile("atom.global.cas.b64 %0, [%1], %2, %3;" : "=l"(old) : "l"(l), "l"((uint64_t)i), "l"((uint64_t)i + 1));
  asm volatile("red.release.gpu.global.add.noftz.bf16 [%0], %1;" :: "l"(b), "h"((uint16_t)0x3f80));
  asm volatile("red.global.add.v2.f32 [%0], {%1, %2};" :: "l"(v), "f"(1.0f), "f"(2.0f));
}
"""
    f, h, w = np.zeros(1, np.float32), np.zeros(1, np.uint32), np.zeros(1, np.uint64)
    b, v = np.zeros(1, np.uint16), np.zeros(2, np.float32)
    cuda.load(source=source).kernel("k")([f, h, w, b, v], grid=1, block=32)
    assert f[0] == 16
    np.testing.assert_array_equal(h.view(np.float16), [16, 32])
    assert w[0] == 32
    assert b.view(ml_dtypes.bfloat16)[0] == 32
    np.testing.assert_array_equal(v, [32, 64])
