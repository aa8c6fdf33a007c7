# SPDX-License-Identifier: MIT
"""csrc/*.c against the contracts, at the shapes and values where kernels go wrong."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import CPU, every_format, hazards, worst

from roofbench import formats
from roofbench.hazards import KINDS, expected, inputs
from roofbench.numerics import aligned, poison
from roofbench.ops import OPS
from roofbench.telemetry import available_memory


def check(op, format, dims, rng, kind):
    arrays = inputs(op, format, dims, rng, kind)
    known = expected(op, format, arrays, kind)
    CPU.run(op, format, arrays)
    error = worst(op, format, dims, arrays, known)
    assert error <= 1, f"{op} {format} {kind} {dims}: error is {error} times its bound"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("op", "format"), every_format())
def test_hazard_shapes(op, format, kind):
    rng = np.random.default_rng(1)
    for dims in hazards(op, format):
        check(op, format, dims, rng, kind)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_shape(data):
    op, format = data.draw(st.sampled_from(every_format()))
    some = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    group = formats.FORMATS[format.split("_")[0]].group or 1
    if op.startswith("gem"):
        dims = {"M": some(1, 20), "N": some(1, 40), "K": group * some(1, max(1, 1100 // group))}
    if op == "gemm":
        batch = some(1, 3)
        dims |= {"B": batch, "w_batch": data.draw(st.sampled_from([1, batch]))}
    elif op == "gemv_moe":
        top_k = some(1, 4)
        dims |= {"E": some(top_k, 6), "top_k": top_k, "x_slots": data.draw(st.sampled_from([1, top_k]))}
    elif op.startswith("kv_"):
        dims = {"num_heads": some(1, 4), "head_size": some(1, 70), "num_blocks": some(2, 8), "block_size": some(1, 6)}
        if op == "kv_copy_blocks":
            dims |= {"num_layers": some(0, 3), "num_pairs": some(0, dims["num_blocks"] // 2)}
        else:
            dims["num_tokens"] = some(0, dims["num_blocks"] * dims["block_size"])
        if op == "kv_gather":
            dims["hnd"] = some(0, 1)
    check(op, format, dims, np.random.default_rng(some(0, 10**6)), data.draw(st.sampled_from(KINDS)))


@pytest.mark.parametrize("format", OPS["gemv"].formats)
def test_one_hot_dequantises_exactly(format):
    """y is the column of w that x picks, to the bit."""
    rng = np.random.default_rng(2)
    dims = {"M": 8, "N": 37, "K": 256}
    arrays = inputs("gemv", format, dims, rng)
    if format == "fp8":
        arrays["w_scales"][...] = 2.0 ** rng.integers(-8, 3, arrays["w_scales"].shape)
    if format == "nvfp4":
        arrays["w_tensor_scale"][...] = 2.0**-6
    w = formats.unpack({name: a for name, a in arrays.items() if name[0] == "w"}, format)
    for start in range(0, dims["K"], dims["M"]):
        arrays["x"][...] = np.eye(dims["M"], dims["K"], start)
        CPU.run("gemv", format, arrays)
        want = w[:, start : start + dims["M"]].T.astype(arrays["y"].dtype)
        assert arrays["y"].tobytes() == want.tobytes()


@pytest.mark.parametrize("format", ["f16", "bf16"])
def test_every_half_survives_widening_and_rounding(format):
    """All 65,536 patterns through w; NaN stays NaN."""
    dtype = formats.DTYPES[format]
    arrays = {"x": aligned((1, 16), dtype), "w": aligned((65536, 16), dtype), "y": aligned((1, 65536), dtype)}
    arrays["x"][...] = np.eye(1, 16)
    arrays["w"][...] = 0
    arrays["w"][:, 0] = np.arange(65536, dtype=np.uint16).view(dtype)
    CPU.run("gemv", format, arrays)
    want, got = arrays["w"][:, 0], arrays["y"][0]
    nan = np.isnan(want.astype(np.float32))
    assert np.isnan(got.astype(np.float32))[nan].all()
    signed = got.view(np.uint16)
    signed[want.view(np.uint16) == 0x8000] = 0x8000  # a sum of -0 and zeros is +0
    assert (signed[~nan] == want.view(np.uint16)[~nan]).all()


@pytest.mark.parametrize("format", ["f16", "bf16"])
def test_results_round_to_nearest_even(format):
    """Sums of two halves hit every kind of tie, overflow and subnormal."""
    rng = np.random.default_rng(3)
    dtype = formats.DTYPES[format]
    w = aligned((200_000, 2), dtype)
    w.view(np.uint16)[...] = rng.integers(0, 65536, w.shape)
    near = w[:100_000].view(np.uint16)
    near[:, 1] = near[:, 0] ^ rng.integers(0, 0x2000, len(near))  # exponents close: ties are frequent
    arrays = {"x": aligned((1, 2), dtype), "w": w, "y": aligned((1, len(w)), dtype)}
    arrays["x"][...] = 1
    CPU.run("gemv", format, arrays)
    with np.errstate(all="ignore"):
        want = w.astype(np.float32).sum(axis=1).astype(dtype)
    nan = np.isnan(want.astype(np.float32))
    assert (np.isnan(arrays["y"][0].astype(np.float32)) == nan).all()
    assert (arrays["y"][0].view(np.uint16)[~nan] == want.view(np.uint16)[~nan]).all()


@pytest.mark.parametrize("scale", [1.0, 0.25, 3.7, 448.0, 1e-3, 1e30])
def test_fp8_cast_of_every_bf16(scale):
    """kv_append and kv_gather cast as the contract says, for every input there is."""
    dims = {"num_tokens": 256, "num_heads": 1, "head_size": 256, "num_blocks": 16, "block_size": 16}
    rng = np.random.default_rng(4)
    arrays = inputs("kv_append", "fp8", dims, rng)
    arrays["key"].view(np.uint16)[...] = np.arange(65536).reshape(arrays["key"].shape)
    arrays["slot_mapping"][...] = np.arange(256)
    arrays["k_scale_inv"][...] = arrays["v_scale_inv"][...] = scale
    with np.errstate(all="ignore"):
        x = formats.bf16_to_f32(arrays["key"]) * np.float32(scale)
    want = np.where(np.isnan(x), np.float32(np.nan), np.clip(x, -448, 448)).astype(formats.DTYPES["fp8"])
    CPU.run("kv_append", "fp8", arrays)
    got = arrays["key_cache"].reshape(want.shape)
    nan = np.isnan(x)
    assert (got.view(np.uint8)[~nan] == want.view(np.uint8)[~nan]).all()
    assert ((got.view(np.uint8)[nan] & 0x7F) == 0x7F).all()
    gathered = {
        "key_cache": arrays["key"].reshape(16, 16, 1, 256),
        "value_cache": arrays["key"].reshape(16, 16, 1, 256).copy(),
        "slot_mapping": arrays["slot_mapping"],
        "k_scale_inv": arrays["k_scale_inv"],
        "v_scale_inv": arrays["v_scale_inv"],
        "key": np.empty_like(got),
        "value": np.empty_like(got),
    }
    CPU.run("kv_gather", "fp8", gathered)
    assert gathered["key"].tobytes() == got.tobytes() == gathered["value"].tobytes()


@pytest.mark.parametrize(("op", "format"), every_format())
def test_two_runs_give_the_same_bits(op, format):
    rng = np.random.default_rng(5)
    dims = max(hazards(op, format), key=lambda d: np.prod([float(v) for v in d.values()]))
    arrays = inputs(op, format, dims, rng)
    outputs = [name for name, arg in OPS[op].signature(format, dims).items() if arg.role == "out"]
    CPU.run(op, format, arrays)
    first = {name: arrays[name].tobytes() for name in outputs}
    for name in outputs:
        poison(arrays[name])
    CPU.run(op, format, arrays)
    assert first == {name: arrays[name].tobytes() for name in outputs}


def test_plain_gather_of_bytes():
    """A cache that is stored in fp8 is gathered without a cast by the launcher for bytes."""
    rng = np.random.default_rng(6)
    dims = {"num_tokens": 9, "num_heads": 2, "head_size": 24, "num_blocks": 3, "block_size": 4, "hnd": 1}
    cache = {n: rng.integers(0, 256, (3, 4, 2, 24), np.uint8) for n in ("key_cache", "value_cache")}
    out = {n: np.zeros((2, 9, 24), np.uint8) for n in ("key", "value")}
    slots = rng.permutation(12)[:9]
    CPU.bind("kv_gather", "bf16", {**dims, "itemsize": 1}, {**cache, "slot_mapping": slots, **out})()
    want = cache["key_cache"].reshape(12, 2, 24)[slots].swapaxes(0, 1)
    assert (out["key"] == want).all()


def needs_memory(gib):
    free = available_memory()
    if free < gib * 2**30:
        pytest.skip(f"needs {gib} GiB of free memory, {free / 2**30:.1f} are there")


def test_weights_beyond_2_to_31():
    """Rows past element 2^31 are read from where they are."""
    needs_memory(4)
    k = 131072
    n = 2**31 // k + 3
    arrays = {
        "x": aligned((1, k), formats.DTYPES["bf16"]),
        "w": np.zeros((n, k // 8), np.uint32),
        "w_scales": np.ones((n, k // 32), np.uint8) * 127,
        "y": aligned((1, n), formats.DTYPES["bf16"]),
    }
    arrays["x"][...] = 1
    arrays["w"][-1, -1] = 0x20000000  # the last weight of all is 1
    arrays["w"][0, 0] = 0x4  # the first is 2
    CPU.run("gemv", "mxfp4", arrays)
    got = arrays["y"][0].astype(np.float32)
    assert got[0] == 2
    assert got[-1] == 1
    assert not got[1:-1].any()


def test_slots_beyond_2_to_31():
    """A cache of more than 2^31 elements; only a few pages of it are ever touched."""
    needs_memory(6)
    dims = {"num_tokens": 2, "num_heads": 8, "head_size": 128, "num_blocks": 2**31 // (16 * 1024) + 2, "block_size": 16}
    shape = (dims["num_blocks"], 16, 8, 128)
    dtype = formats.DTYPES["fp8"]
    arrays = {
        "key": np.full((2, 8, 128), 3, formats.DTYPES["bf16"]),
        "value": np.full((2, 8, 128), 5, formats.DTYPES["bf16"]),
        "key_cache": np.zeros(shape, np.uint8).view(dtype),
        "value_cache": np.zeros(shape, np.uint8).view(dtype),
        "slot_mapping": np.array([dims["num_blocks"] * 16 - 1, 0]),
        "k_scale_inv": np.ones(1, np.float32),
        "v_scale_inv": np.ones(1, np.float32),
    }
    CPU.run("kv_append", "fp8", arrays)
    last, first = arrays["value_cache"][-1, -1], arrays["key_cache"][0, 0]
    assert (last.astype(np.float32) == 5).all()
    assert (first.astype(np.float32) == 3).all()
    assert not arrays["key_cache"][0, 1].view(np.uint8).any()
