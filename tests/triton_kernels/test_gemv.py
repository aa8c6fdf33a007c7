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


def on_matrix_unit(op, format, m):
    """What `pick_config` gives to gemv*_dot_kernel."""
    return op == "gemv" and m > {"f32": 99, "f16": 4, "bf16": 4}.get(format, 1)


def wide(op, format, dims, splits=1):
    """Few programs, since the interpreter takes its time for each; several steps along K, tokens in blocks."""
    module, _ = kernel(op, format)
    block_k = 256 if format in ("f32", "f16", "bf16") else 128
    sizes = {"BLOCK_M": 4, "BLOCK_N": 32, "BLOCK_K": block_k, "SPLIT_K": splits, "num_warps": 1, "num_stages": 1}
    if format not in ("f32", "f16", "bf16"):
        sizes["BLOCK_M"] = 1
    if on_matrix_unit(op, format, dims["M"]):
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


MANY = (5, 8, 15, 16, 17)  # tokens: a block of the matrix unit, its edge, the next block
TAILS = ((3, 64), (37, 192), (18, 576), (33, 1088), (1, 2112))  # N, K: of tiles, of steps, of splits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("format", OPS["gemv"].formats)
def test_many_tokens(format, kind):
    """Every number of tokens, with tails of rows and steps, and several warps and splits to share out a row."""
    rng = np.random.default_rng(11)
    module, _ = kernel("gemv", format)
    for i, m in enumerate(MANY):
        n, k = TAILS[(i + len(kind)) % len(TAILS)]
        dims = {"M": m, "N": n, "K": k}
        picked = module.pick_config(**dims, format=format)
        assert (picked.BLOCK_M == 16) == on_matrix_unit("gemv", format, m)
        shared = wide("gemv", format, dims, 3)
        if shared.BLOCK_M == 16:
            shared = shared._replace(BLOCK_N=16, BLOCK_K=256, num_warps=2, SPLIT_K=2)
        arrays = inputs("gemv", format, dims, rng, kind)
        known = expected("gemv", format, arrays, kind)
        for config in (shared,) if format == "f32" else (picked, shared) if m > 15 else (picked,):
            poison(arrays["y"])
            found = error("gemv", format, dims, arrays, known, config)
            assert found <= 1, f"{format} {kind} {dims} {config}: error is {found} times its bound"


@pytest.mark.parametrize("format", OPS["gemv"].formats)
def test_tokens_do_not_meet(format):
    """One that is no number leaves the others as they are, past the end of a row too."""
    for m in (2, 5, 17):
        dims = {"M": m, "N": 3, "K": 192}
        arrays = inputs("gemv", format, dims, np.random.default_rng(17))
        arrays["x"][1] = 0
        known = expected("gemv", format, arrays, "random")
        error("gemv", format, dims, arrays, known)
        want = arrays["y"].copy()
        arrays["x"][1] = np.nan
        error("gemv", format, dims, arrays, known)
        assert np.isnan(arrays["y"][1].astype(np.float32)).all()
        assert np.delete(arrays["y"], 1, 0).tobytes() == np.delete(want, 1, 0).tobytes()


class Counted:
    """A kernel that notes the grid of each launch."""

    def __init__(self, kernel):
        self.kernel, self.grids = kernel, []

    def __getitem__(self, grid):
        self.grids.append(grid)
        return self.kernel[grid]


@pytest.mark.parametrize("format", [f for f in OPS["gemv"].formats if f != "f32"])
def test_w_is_read_once_for_sixteen_tokens(format, monkeypatch):
    """No more programs for 16 tokens than rows and splits need, all of them of the matrix unit's kernel."""
    module, _ = kernel("gemv", format)
    stem = OPS["gemv"].stem(format)
    lanes, dot = (Counted(getattr(module, f"{stem}{name}kernel")) for name in ("_", "_dot_"))
    monkeypatch.setattr(module, f"{stem}_kernel", lanes)
    monkeypatch.setattr(module, f"{stem}_dot_kernel", dot)
    for m in (1, 5, 16, 17):
        dims = {"M": m, "N": 40, "K": 64}
        c = module.pick_config(**dims, format=format)
        arrays = inputs("gemv", format, dims, np.random.default_rng(12))
        assert error("gemv", format, dims, arrays, expected("gemv", format, arrays, "random")) <= 1
        grids, others = (dot.grids, lanes.grids) if m > 1 else (lanes.grids, dot.grids)
        assert not others
        assert math.prod(grids.pop()) == -(-m // c.BLOCK_M) * -(-40 // c.BLOCK_N) * c.SPLIT_K


@pytest.mark.parametrize("format", ["int4", "fp8"])
def test_whatever_a_sweep_tries_is_right(format):
    rng = np.random.default_rng(13)
    module, _ = kernel("gemv", format)
    dims = {"M": 6, "N": 20, "K": 320}
    arrays = inputs("gemv", format, dims, rng)
    known = expected("gemv", format, arrays, "random")
    tiles = set(module.configs(**dims, format=format))
    assert len(tiles) > 30
    for config in tiles:
        poison(arrays["y"])
        assert error("gemv", format, dims, arrays, known, config) <= 1


@pytest.mark.parametrize("format", [f for f in OPS["gemv"].formats if f not in ("f32", "f16", "bf16")])
def test_tiles_that_no_kernel_has(format):
    dims = {"M": 5, "N": 3, "K": 64}
    module, launch = kernel("gemv", format)
    given = tensors(inputs("gemv", format, dims, np.random.default_rng(14)))
    picked = module.pick_config(**dims, format=format)
    for wrong in ({"BLOCK_M": 4}, {"BLOCK_K": 64}):
        with pytest.raises(ValueError, match="^config has tiles"):
            launch(**given, config={**picked._asdict(), **wrong})


@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize("format", ["int8", "int4"])
def test_infinity_in_x_never_gives_a_number(format, m):
    """Of one token what s * q + b says; of more also NaN, where a code is 0."""
    dims = {"M": m, "N": 40, "K": 128}
    arrays = inputs("gemv", format, dims, np.random.default_rng(15))
    arrays["x"][0, 5] = np.inf
    arrays["w"][7] = 0
    error("gemv", format, dims, arrays, expected("gemv", format, arrays, "special"))
    y = arrays["y"].astype(np.float32)
    assert not np.isfinite(y[0]).any()
    assert np.isfinite(y[1:]).all()
    w = formats.unpack({n: a for n, a in arrays.items() if n[0] == "w"}, format)[:, 5]
    assert np.isnan(y[0, 7]) if m > 1 else np.array_equal(y[0], np.sign(w) * np.inf, equal_nan=True)


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


@pytest.mark.parametrize("m", [1, 16])
@pytest.mark.parametrize("format", ["fp8", "mxfp8", "mxfp4", "nvfp4"])
def test_every_code_decodes(format, m):
    """NaN codes too: as weights, and as scales."""
    rng = np.random.default_rng(4)
    dims = {"M": m, "N": 256, "K": 32}
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
    arrays["x"][...] = np.eye(m, 32)
    _, launch = kernel("gemv", format)
    launch(**tensors(arrays), config=wide("gemv", format, dims))
    want = formats.unpack({n: a for n, a in arrays.items() if n[0] == "w"}, format)[:, 0].astype(arrays["y"].dtype)
    assert np.array_equal(arrays["y"][0].astype(np.float32), want.astype(np.float32), equal_nan=True)


@pytest.mark.parametrize("m", [1, 16])
@pytest.mark.parametrize("code", [0x01, 0x38, 0x7E])  # 2^-9, 1, 448
def test_every_scale_of_mxfp8(code, m):
    """The smallest make weights that bf16 does not hold; at the other end 8 times as much may be no number."""
    dims = {"M": m, "N": 256, "K": 32}
    arrays = inputs("gemv", "mxfp8", dims, np.random.default_rng(16))
    arrays["w"].view(np.uint8)[...] = 0
    arrays["w"].view(np.uint8)[:, 3] = code
    arrays["w_scales"][...] = np.arange(256)[:, None]
    arrays["x"][...] = 0
    arrays["x"][0, 3] = 2.0**7
    kernel("gemv", "mxfp8")[1](**tensors(arrays), config=wide("gemv", "mxfp8", dims))
    weights = formats.unpack({n: a for n, a in arrays.items() if n[0] == "w"}, "mxfp8")[:, 3].astype(np.float64)
    want = (weights * 2.0**7).astype(np.float32).astype(arrays["y"].dtype).astype(np.float32)
    got = arrays["y"][0].astype(np.float32)
    large = (np.arange(256) >= 127 + 125) | (weights >= 2.0**125) | (want >= 2.0**125)
    assert np.array_equal(got[~large], want[~large], equal_nan=True)
    assert ((got[large] == want[large]) | ~np.isfinite(got[large])).all()


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
