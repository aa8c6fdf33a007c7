# SPDX-License-Identifier: MIT
"""kernels/gemv*.py against the contracts in Triton's interpreter, at the shapes and values where kernels go wrong."""

import importlib.util
import inspect
import math
import sys
from functools import cache
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch

from roofbench import formats, numerics
from roofbench.hazards import KINDS, expected, inputs, sizes
from roofbench.numerics import Limit, poison
from roofbench.ops import OPS

# It computes with NumPy, which warns of the infinities and NaN that a kernel is to carry through.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

KERNELS = Path(__file__).parents[2] / "kernels"
MOE = ("bf16", "int4", "mxfp4")
EVERY = [("gemv", format) for format in OPS["gemv"].formats] + [("gemv_moe", format) for format in MOE]
SMALL = {"M": 3, "N": 5, "K": 192, "E": 4, "top_k": 2, "x_slots": 1}
TORCH = {
    np.dtype(ml_dtypes.bfloat16): (np.int16, torch.bfloat16),
    np.dtype(ml_dtypes.float8_e4m3fn): (np.uint8, torch.float8_e4m3fn),
}


@cache
def load(stem):
    spec = importlib.util.spec_from_file_location(f"kernels_{stem}", KERNELS / f"{stem}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def kernel(op, format):
    """The module and its launcher."""
    stem = op if op == "gemv_moe" else OPS[op].stem(format)
    return load(stem), getattr(load(stem), stem)


def tensor(array):
    """The same memory."""
    raw, dtype = TORCH.get(array.dtype, (None, None))
    return torch.from_numpy(array) if raw is None else torch.from_numpy(array.view(raw)).view(dtype)


def tensors(arrays):
    return {name: tensor(array) for name, array in arrays.items()}


def dims_of(op, dims):
    return {name: dims[name] for name in (*"MNK", *(("top_k",) if op == "gemv_moe" else ()))}


def wide(op, format, dims, splits=1):
    """Few programs, since the interpreter takes its time for each; several steps along K, tokens in blocks."""
    module, _ = kernel(op, format)
    block_k = 256 if format in ("f32", "f16", "bf16") else 128
    sizes = {"BLOCK_M": 4, "BLOCK_N": 32, "BLOCK_K": block_k, "SPLIT_K": splits, "num_warps": 1, "num_stages": 1}
    if dims["M"] > 4 and op == "gemv" and format in ("f16", "bf16"):
        sizes["BLOCK_M"] = 16
    return module.Config(**{name: sizes[name] for name in module.Config._fields})


def error(op, format, dims, arrays, known, config=None):
    """Largest error over its bound; infinity where memory beside y was written to."""
    module, launch = kernel(op, format)
    launch(**tensors(arrays), config=config)
    chain = module.chain(**dims_of(op, dims), format=format, config=config)
    intact = numerics.guards_intact(arrays["y"])
    return known["y"].error(arrays["y"], Limit(chain)) if intact else math.inf


def hazards(op, format):
    yield from sizes(op, format)
    yield {"gemv": {"M": 17, "N": 3, "K": 64}, "gemv_moe": {**SMALL, "M": 17, "N": 1}}[op]


@pytest.mark.parametrize(("op", "format"), EVERY)
def test_hazard_sizes(op, format):
    """Each size with one of the kinds, since the interpreter is slow."""
    rng = np.random.default_rng(1)
    for i, dims in enumerate(hazards(op, format)):
        kind = KINDS[i % len(KINDS)]
        arrays = inputs(op, format, dims, rng, kind)
        known = expected(op, format, arrays, kind)
        found = error(op, format, dims, arrays, known, wide(op, format, dims, 1 + i % 3))
        assert found <= 1, f"{op} {format} {kind} {dims}: error is {found} times its bound"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("op", "format"), EVERY)
def test_hazard_kinds(op, format, kind):
    """Each kind, with the tiles that a launch picks."""
    rng = np.random.default_rng(2)
    for m in (1, 6):
        dims = {**SMALL, "M": m, "N": 2, "K": 576}
        arrays = inputs(op, format, dims, rng, kind)
        assert error(op, format, dims, arrays, expected(op, format, arrays, kind)) <= 1


@pytest.mark.parametrize("format", OPS["gemv"].formats)
def test_one_hot_dequantises_exactly(format):
    """y is the column of w that x picks, to the bit."""
    rng = np.random.default_rng(3)
    dims = {"M": 16, "N": 37, "K": 64}
    arrays = inputs("gemv", format, dims, rng)
    if format == "fp8":
        arrays["w_scales"][...] = 2.0 ** rng.integers(-8, 3, arrays["w_scales"].shape)
    if format == "nvfp4":
        arrays["w_tensor_scale"][...] = 2.0**-6
    w = formats.unpack({name: a for name, a in arrays.items() if name[0] == "w"}, format)
    for start in range(0, dims["K"], dims["M"]):
        arrays["x"][...] = np.eye(dims["M"], dims["K"], start)
        error("gemv", format, dims, arrays, expected("gemv", format, arrays, "random"), wide("gemv", format, dims))
        want = w[:, start : start + dims["M"]].T.astype(arrays["y"].dtype)
        assert arrays["y"].tobytes() == want.tobytes()


@pytest.mark.parametrize("format", ["fp8", "mxfp8", "mxfp4", "nvfp4"])
def test_every_code_decodes(format):
    """NaN codes too: as weights, and as scales."""
    rng = np.random.default_rng(4)
    dims = {"M": 1, "N": 256, "K": 32}
    arrays = inputs("gemv", format, dims, rng)
    codes = arrays["w"].view(np.uint8)
    codes[...] = 0
    codes[:, 0] = np.arange(256)
    if format == "fp8":
        arrays["w_scales"][...] = 1
    else:
        arrays["w_scales"][...] = 127 if format.startswith("mx") else 0x38  # 1
    if format.endswith("4"):
        arrays["w_scales"][...] = np.arange(256)[:, None]
        codes[:, 0] = 2  # 1
    if format == "nvfp4":
        arrays["w_tensor_scale"][...] = 1
    arrays["x"][...] = np.eye(1, 32)
    _, launch = kernel("gemv", format)
    launch(**tensors(arrays), config=wide("gemv", format, dims))
    want = formats.unpack({n: a for n, a in arrays.items() if n[0] == "w"}, format)[:, 0].astype(arrays["y"].dtype)
    assert np.array_equal(arrays["y"][0].astype(np.float32), want.astype(np.float32), equal_nan=True)


@pytest.mark.parametrize(("op", "format"), EVERY)
def test_two_runs_give_the_same_bits(op, format):
    rng = np.random.default_rng(5)
    arrays = inputs(op, format, SMALL, rng)
    _, launch = kernel(op, format)
    got = []
    for _ in range(2):
        poison(arrays["y"])
        launch(**tensors(arrays), config=wide(op, format, SMALL, 2))
        got.append(arrays["y"].tobytes())
    assert got[0] == got[1]


@pytest.mark.parametrize(("op", "format"), EVERY)
def test_output_is_allocated(op, format):
    rng = np.random.default_rng(6)
    arrays = inputs(op, format, SMALL, rng)
    given = tensors(arrays)
    _, launch = kernel(op, format)
    launch(**given, config=wide(op, format, SMALL))
    y = given.pop("y")
    assert torch.equal(launch(**given, config=wide(op, format, SMALL)).view(torch.uint8), y.view(torch.uint8))


@pytest.mark.parametrize(("op", "format"), EVERY)
def test_unaligned_memory(op, format):
    """x and w that start between two multiples of 16 bytes give the same result, and path says so."""
    rng = np.random.default_rng(7)
    arrays = inputs(op, format, SMALL, rng)
    given = tensors(arrays)
    module, launch = kernel(op, format)
    config = wide(op, format, SMALL)
    launch(**given, config=config)
    assert module.path(**given) == "vector"
    want = given.pop("y")
    for name in "xw":
        flat = torch.empty(given[name].numel() + 1, dtype=given[name].dtype)
        shifted = flat[1:].view(given[name].shape)
        shifted.view(torch.uint8).copy_(given[name].contiguous().view(torch.uint8))
        changed = {**given, name: shifted}
        assert module.path(**changed) == "unaligned"
        assert torch.equal(launch(**changed, config=config).view(torch.uint8), want.view(torch.uint8))


def broken(name, given):
    """An argument in every wrong form."""
    t = given[name]
    yield t.to(torch.complex64) if t.dtype not in (torch.uint32, torch.float8_e4m3fn) else t.view(torch.int8)
    yield t[None]
    yield torch.empty((*t.shape[:-1], t.shape[-1] + 1), dtype=t.dtype)
    yield torch.empty((*t.shape[:-1], 2 * t.shape[-1]), dtype=t.dtype)[..., ::2] if t.shape[-1] > 1 else t[None]
    yield t.to("meta")
    yield "text"


@pytest.mark.parametrize(("op", "format"), EVERY)
def test_bad_input_names_the_argument(op, format):
    dims = {**SMALL, "top_k": 2, "x_slots": 2}
    given = tensors(inputs(op, format, dims, np.random.default_rng(8)))
    _, launch = kernel(op, format)
    for name in given:
        for bad in broken(name, given):
            with pytest.raises(ValueError, match=r"^(x|w|w_\w+|expert_ids|y) ") as caught:
                launch(**{**given, name: bad})
            # A wrong x may show as a w that does not fit it
            assert name in ("x", "w", "expert_ids") or str(caught.value).startswith(name)


def test_moe_refuses_other_formats():
    given = tensors(inputs("gemv_moe", "int8", SMALL, np.random.default_rng(9)))
    with pytest.raises(ValueError, match="^w has shape"):
        kernel("gemv_moe", "int4")[1](**given)


def test_moe_checks_ids_on_request():
    given = tensors(inputs("gemv_moe", "bf16", SMALL, np.random.default_rng(10)))
    _, launch = kernel("gemv_moe", "bf16")
    launch(**given, check=True)
    for bad in (-1, SMALL["E"]):
        given["expert_ids"][1, 1] = bad
        with pytest.raises(ValueError, match=f"^expert_ids has {bad};"):
            launch(**given, check=True)


@pytest.mark.parametrize(("op", "format"), EVERY)
def test_configs_are_sound(op, format):
    """Every chip, every size: powers of two, groups within a step, and the first is what a launch takes."""
    module, _ = kernel(op, format)
    chips = [*module.CHIPS, "sm_103"]
    for chip in chips:
        for m in (1, 2, 5, 16):
            for n, k in ((1, 64), (128, 16384), (4096, 4096), (28672, 4096), (2880, 2880), (128256, 8192)):
                dims = dims_of(op, {"M": m, "N": n, "K": k, "top_k": 8})
                picked = module.pick_config(**dims, format=format, chip=chip)
                assert next(module.configs(**dims, format=format, chip=chip)) == picked
                for size in picked:
                    assert size > 0
                    assert size & (size - 1) == 0 or size == picked.num_stages
                assert module.chain(**dims, format=format, chip=chip) <= k + 64


def test_specimens_bind():
    """What is compiled in checks of the generated code are the parameters that kernels have."""
    for stem in ("gemv", "gemv_fp8", "gemv_int", "gemv_mx", "gemv_moe"):
        module = load(stem)
        for chip in module.CHIPS:
            for one in module.specimens(chip):
                assert list(one["signature"]) == list(inspect.signature(one["kernel"].fn).parameters)
                assert {n for n, kind in one["signature"].items() if kind == "constexpr"} == one["constexprs"].keys()
