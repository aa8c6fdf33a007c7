# SPDX-License-Identifier: MIT
"""The simulator against Metal kernels that others wrote: the headers in MLX's wheel, as they are.

The reference is float64 NumPy over the stored codes.
"""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import kernelsim
from kernelsim import metal

(FOLDER,) = (Path(path) / "include" for path in __import__("mlx").__path__)
INCLUDE = "mlx/backend/metal/kernels"
SOURCE = f"""#include <metal_stdlib>
#include "{INCLUDE}/utils.h"
#include "{INCLUDE}/steel/gemm/gemm.h"
#include "{INCLUDE}/quantized_utils.h"
#include "{INCLUDE}/quantized.h"
#include "{INCLUDE}/gemv.h"
instantiate_kernel("gemv_f32", gemv, float, 1, 8, 1, 32, 4, 4, false, false)
instantiate_kernel("gemv_f16", gemv, half, 4, 1, 1, 32, 4, 4, false, false)
instantiate_kernel("gemv_bf16", gemv, bfloat16_t, 4, 1, 1, 32, 4, 4, false, false)
instantiate_kernel("qmv_fast_int4", affine_qmv_fast, half, 64, 4, false)
instantiate_kernel("qmv_int4", affine_qmv, half, 64, 4, false)
instantiate_kernel("qmv_fast_int8", affine_qmv_fast, bfloat16_t, 64, 8, false)
instantiate_kernel("qmm_t_int4", affine_qmm_t, half, 64, 4, true, false)
"""
FP_SOURCE = f"""#include <metal_stdlib>
#include "{INCLUDE}/utils.h"
#include "{INCLUDE}/steel/gemm/gemm.h"
#include "{INCLUDE}/quantized_utils.h"
#include "{INCLUDE}/fp_quantized.h"
instantiate_kernel("mxfp4", fp_qmv_fast, half, 32, 4, false)
instantiate_kernel("nvfp4", fp_qmv_fast, half, 16, 4, false)
instantiate_kernel("mxfp8", fp_qmv_fast, half, 32, 8, false)
"""
STEEL_SOURCE = f"""#include <metal_stdlib>
#include "{INCLUDE}/utils.h"
#include "{INCLUDE}/steel/gemm/params.h"
#include "{INCLUDE}/steel/gemm/gemm.h"
#include "{INCLUDE}/steel/gemm/kernels/steel_gemm_fused.h"
instantiate_kernel("nn", gemm, float, 32, 32, 16, 2, 2, false, false)
instantiate_kernel("nt", gemm, half, 32, 32, 16, 2, 2, false, true)
"""
TYPES = {"f32": mx.float32, "f16": mx.float16, "bf16": mx.bfloat16}
ROUNDING = {"f32": 2**-20, "f16": 2**-10, "bf16": 2**-7}  # of the output, and of sums kept in f32


@pytest.fixture(scope="module")
def affine():
    return metal.load(source=SOURCE, include=[FOLDER])


@pytest.fixture(scope="module")
def floating():
    return metal.load(source=FP_SOURCE, include=[FOLDER])


@pytest.fixture(scope="module")
def steel():
    return metal.load(source=STEEL_SOURCE, include=[FOLDER])


def array(values, dtype="f16"):
    """An MLX array of these values and its bits for the kernel."""
    exact = mx.array(values.astype(np.float32)).astype(TYPES[dtype])
    return exact, np.array(exact.view(mx.uint16)) if dtype == "bf16" else np.array(exact)


def exact(value):
    return np.array(value.astype(mx.float32)).astype(np.float64)


def close(got, dtype, reference):
    if dtype == "bf16":
        got = (got.astype(np.uint32) << 16).view(np.float32)
    assert np.abs(got.astype(np.float64) - reference).max() <= ROUNDING[dtype] * np.abs(reference).max()


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_gemv(affine, dtype):
    rng = np.random.default_rng(0)
    rows, columns = 64, 512
    w, w_bits = array(rng.standard_normal((rows, columns)), dtype)
    x, x_bits = array(rng.standard_normal(columns), dtype)
    y = kernelsim.poisoned(rows, w_bits.dtype)
    args = {"mat": w_bits, "in_vec": x_bits, "out_vec": y, "in_vec_size": columns, "out_vec_size": rows}
    args |= {"marix_ld": columns, "batch_ndim": 1, "batch_shape": np.array([1], np.int32), "bias": None}
    args |= {"vector_batch_stride": np.zeros(1, np.int64), "matrix_batch_stride": np.zeros(1, np.int64)}
    args |= dict.fromkeys(("alpha", "beta", "bias_batch_stride", "bias_stride"))
    kernel = affine.kernel(f"gemv_{dtype}")
    if dtype == "f32":  # eight simdgroups share a row
        kernel.check(args, threadgroups=rows // 4, threadgroup=(32, 8, 1))
    else:
        kernel.check(args, threadgroups=rows // 16, threadgroup=(32, 1, 4))
    close(y, dtype, exact(w) @ exact(x))


@pytest.mark.parametrize(
    ("name", "bits", "dtype", "rows", "columns"),
    [
        ("qmv_fast_int4", 4, "f16", 64, 512),
        ("qmv_fast_int8", 8, "bf16", 32, 512),
        ("qmv_int4", 4, "f16", 20, 192),
    ],
)
def test_affine_qmv(affine, name, bits, dtype, rows, columns):
    rng = np.random.default_rng(0)
    w = mx.array(rng.standard_normal((rows, columns)).astype(np.float32)).astype(TYPES[dtype])
    q, scales, biases = mx.quantize(w, 64, bits)
    x, x_bits = array(rng.standard_normal(columns), dtype)
    bits_of = [np.array(v.view(mx.uint16)) if dtype == "bf16" else np.array(v) for v in (scales, biases)]
    y = kernelsim.poisoned(rows, x_bits.dtype)
    args = [np.array(q), *bits_of, x_bits, y, columns, rows, *[None] * 8]
    affine.kernel(name).check(args, threadgroups=(1, -(-rows // 8), 1), threadgroup=(32, 2, 1))
    codes = unpacked(np.array(q), bits).reshape(rows, -1, 64)
    decoded = (codes * exact(scales)[..., None] + exact(biases)[..., None]).reshape(rows, columns)
    close(y, dtype, decoded @ exact(x))


def unpacked(q, bits):
    per_word = 32 // bits
    shifts = bits * np.arange(per_word, dtype=np.uint32)
    return ((q[..., None] >> shifts) & np.uint32((1 << bits) - 1)).reshape(q.shape[0], -1).astype(np.float64)


def test_affine_qmm(affine):
    rng = np.random.default_rng(0)
    m, n, k = 40, 64, 128
    w = mx.array(rng.standard_normal((n, k)).astype(np.float16))
    q, scales, biases = mx.quantize(w, 64, 4)
    x, x_bits = array(rng.standard_normal((m, k)))
    y = kernelsim.poisoned((m, n), np.float16)
    args = [np.array(q), np.array(scales), np.array(biases), x_bits, y, k, n, m, *[None] * 8]
    affine.kernel("qmm_t_int4").check(args, threadgroups=(n // 32, -(-m // 32), 1), threadgroup=(32, 2, 2))
    codes = unpacked(np.array(q), 4).reshape(n, -1, 64)
    decoded = (codes * exact(scales)[..., None] + exact(biases)[..., None]).reshape(n, k)
    reference = exact(x) @ decoded.T
    assert np.abs(y - reference).max() <= 2**-9 * np.abs(reference).max()  # the tile of weights is in half


E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def e4m3(code):
    import ml_dtypes

    return code.astype(np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float64)


@pytest.mark.parametrize("mode", ["mxfp4", "nvfp4", "mxfp8"])
def test_floating_point_qmv(floating, mode):
    rng = np.random.default_rng(0)
    rows, columns = 32, 512
    q, scales = (np.array(v) for v in mx.quantize(mx.array(rng.standard_normal((rows, columns))), mode=mode)[:2])
    codes = unpacked(q, 8 if mode == "mxfp8" else 4)
    values = e4m3(codes) if mode == "mxfp8" else E2M1[codes.astype(int) & 7] * np.where(codes >= 8, -1, 1)
    factors = e4m3(scales) if mode == "nvfp4" else 2.0 ** (scales.astype(np.float64) - 127)
    decoded = (values.reshape(rows, scales.shape[1], -1) * factors[..., None]).reshape(rows, columns)
    x, x_bits = array(rng.standard_normal(columns))
    y = kernelsim.poisoned(rows, np.float16)
    args = {"w": q, "scales": scales, "x": x_bits, "y": y, "in_vec_size": columns, "out_vec_size": rows}
    kernel = floating.kernel(mode)
    args |= {p.name: None for p in kernel.parameters if p.name not in args}
    kernel.check(args, threadgroups=(1, rows // 8, 1), threadgroup=(32, 2, 1))
    close(y, "f16", decoded @ exact(x))


PARAMS = np.dtype(
    [*[(name, np.int32) for name in ("M", "N", "K", "lda", "ldb", "ldd", "tiles_n", "tiles_m")],
     *[(name, np.int64) for name in ("batch_a", "batch_b", "batch_d")],
     *[(name, np.int32) for name in ("swizzle_log", "k_iterations", "batch_ndim", "padding")]]
)  # fmt: skip


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize(("name", "dtype"), [("nn", "f32"), ("nt", "f16")])
def test_steel_gemm(steel, name, dtype, aligned):
    rng = np.random.default_rng(0)
    m, n, k = (64, 64, 48) if aligned else (50, 70, 37)
    a, a_bits = array(rng.standard_normal((m, k)), dtype)
    b, b_bits = array(rng.standard_normal((n, k) if name == "nt" else (k, n)), dtype)
    d = kernelsim.poisoned((m, n), a_bits.dtype)
    tiles_n, tiles_m = -(-n // 32), -(-m // 32)
    params = np.zeros(1, PARAMS)
    params[0] = (m, n, k, k, b_bits.shape[1], n, tiles_n, tiles_m, 0, 0, 0, 0, k // 16, 1, 0)
    constants = {"has_batch": 0, "use_out_source": 0, "do_axpby": 0}
    constants |= {"align_M": m % 32 == 0, "align_N": n % 32 == 0, "align_K": k % 16 == 0}
    kernel = steel.kernel(name, constants)
    kernel.check(
        {"A": a_bits, "B": b_bits, "D": d, "params": params}, threadgroups=(tiles_n, tiles_m), threadgroup=(32, 2, 2)
    )
    close(d, dtype, exact(a) @ (exact(b).T if name == "nt" else exact(b)))
