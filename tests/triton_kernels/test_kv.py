# SPDX-License-Identifier: MIT
"""kv_append, kv_gather and kv_copy_blocks of kernels/, in Triton's interpreter."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
from support import hazards

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from roofbench import formats  # noqa: E402
from roofbench.hazards import KINDS, expected, inputs  # noqa: E402
from roofbench.numerics import Limit, aligned, guards_intact  # noqa: E402
from roofbench.ops import OPS, _kv  # noqa: E402
from roofbench.sources import find, load_module  # noqa: E402
from roofbench.telemetry import available_memory  # noqa: E402

# It computes with NumPy, which warns of the infinities and NaN that a kernel is to carry through.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

NAMES = ("kv_append", "kv_gather", "kv_copy_blocks")
EVERY = [(op, format) for op in NAMES for format in OPS[op].formats]
TORCH = {"bfloat16": torch.bfloat16, "float8_e4m3fn": torch.float8_e4m3fn}
FILES = {name: load_module(find(name, ".py")) for name in NAMES}


def tensor(array):
    """The same memory, as torch sees it."""
    special = TORCH.get(array.dtype.name)
    if special is None:
        return torch.from_numpy(array)
    return torch.from_numpy(array.view(f"i{array.dtype.itemsize}")).view(special)


def run(op, arrays, **options):
    return getattr(FILES[op], op)(**{name: tensor(a) for name, a in arrays.items()}, **options)


def check(op, format, dims, kind="random", seed=1, **options):
    arrays = inputs(op, format, dims, np.random.default_rng(seed), kind)
    known = expected(op, format, arrays, kind)
    if op == "kv_gather":
        options["hnd"] = bool(dims["hnd"])
    run(op, arrays, **options)
    for name, what in known.items():
        assert guards_intact(arrays[name]), f"{op} {format} {kind} {dims}: {name} was written beside"
        assert what.error(arrays[name], Limit(1)) == 0, f"{op} {format} {kind} {dims}: {name} is wrong"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("op", "format"), EVERY)
def test_hazard_shapes(op, format, kind):
    for dims in hazards(op, format):
        check(op, format, dims, kind)


@pytest.mark.parametrize("op", NAMES)
def test_every_configuration_gives_the_same(op):
    """Tiles smaller and larger than tokens, runs and blocks."""
    dims = {"num_tokens": 37, "num_heads": 3, "head_size": 48, "num_blocks": 9, "block_size": 5}
    if op == "kv_copy_blocks":
        dims = {**dims, "num_layers": 2, "num_pairs": 4}
        del dims["num_tokens"]
        tried = list(FILES[op].configs(720, 2))
    elif op == "kv_gather":
        tried = [c for hnd in (0, 1) for c in FILES[op].configs(37, 3 if hnd else 1, 48 if hnd else 144, 2)]
    else:
        tried = list(FILES[op].configs(37, 144, 2))
    assert len(set(tried)) > 5
    for config in set(tried):
        for hnd in (0, 1) if op == "kv_gather" else (0,):
            check(op, "bf16", {**dims, **({"hnd": hnd} if op == "kv_gather" else {})}, config=config)


def test_tiles_are_powers_of_two_that_waste_little():
    append, gather, blocks = (FILES[name].pick_config for name in NAMES)
    for chip in ("sm_80", "sm_90", "sm_121", "gfx942", "gfx1151", "gfx1201", "sm_999"):
        for width in (1, 20, 64, 640, 1024, 1536, 4096, 8192 + 128):
            for itemsize in (1, 2, 4):
                for tokens in (1, 100, 4096, 10**6):
                    one, other = append(tokens, width, itemsize, chip), gather(tokens, 2, width, itemsize, chip)
                    for config in (one, other):
                        assert math.log2(config.BLOCK_T * config.BLOCK_D).is_integer()
                        assert -(-width // config.BLOCK_D) * config.BLOCK_D < width + max(16, 128 // itemsize)
                config = blocks(width, itemsize, chip)
                assert math.log2(config.BLOCK).is_integer()
                assert math.log2(config.num_warps).is_integer()


@pytest.mark.parametrize("scale", [1.0, 0.25, 3.7, 448.0, 1e-3, 1e30, -2.0, 2.0**-140])
def test_cast_of_every_bf16(scale):
    """To the bit, the sign of a NaN as well: a product may lose it."""
    dims = {"num_tokens": 256, "num_heads": 1, "head_size": 256, "num_blocks": 16, "block_size": 16}
    arrays = inputs("kv_append", "fp8", dims, np.random.default_rng(4))
    arrays["key"].view(np.uint16)[...] = np.arange(65536).reshape(arrays["key"].shape)
    arrays["value"][...] = arrays["key"]
    arrays["slot_mapping"][...] = np.arange(256)
    arrays["k_scale_inv"][...] = arrays["v_scale_inv"][...] = scale
    x = formats.bf16_to_f32(arrays["key"])
    with np.errstate(all="ignore"):
        want = formats.cast_fp8(np.where(np.isnan(x), x, x * np.float32(scale))).view(np.uint8)
    run("kv_append", arrays)
    for name in ("key_cache", "value_cache"):
        assert (arrays[name].view(np.uint8).reshape(want.shape) == want).all()
    gathered = {
        "key_cache": arrays["key"].reshape(16, 16, 1, 256),
        "value_cache": arrays["key"].reshape(16, 16, 1, 256).copy(),
        "slot_mapping": arrays["slot_mapping"],
        "k_scale_inv": arrays["k_scale_inv"],
        "v_scale_inv": arrays["v_scale_inv"],
    }
    for key in run("kv_gather", gathered):
        assert (key.view(torch.uint8).numpy() == want).all()


def test_padding_gives_zeros_whatever_the_scale():
    dims = {"num_tokens": 9, "num_heads": 2, "head_size": 16, "num_blocks": 3, "block_size": 4, "hnd": 0}
    arrays = inputs("kv_gather", "fp8", dims, np.random.default_rng(5))
    arrays["slot_mapping"][...] = -7
    arrays["k_scale_inv"][...], arrays["v_scale_inv"][...] = np.nan, -np.inf
    run("kv_gather", arrays)
    assert not arrays["key"].view(np.uint8).any()
    assert not arrays["value"].view(np.uint8).any()


@pytest.mark.parametrize("op", ["kv_append", "kv_gather"])
def test_the_cast_in_ptx(op):
    """What chips with a conversion run: the same instructions on kernelsim, for every bf16."""
    from kernelsim import ToolchainError, cuda

    text = FILES[op]._CAST.value
    for i in range(7):
        text = text.replace(f"${i}", f"%{i}")
    lines = "".join(f'"{line.strip()}\\n\\t"\n' for line in text.splitlines())
    source = f"""#include <stdint.h>
__global__ void cast(uint32_t* y, const uint32_t* x, float scale) {{
  const int i = blockIdx.x * 64 + threadIdx.x;
  asm({lines} : "=&r"(y[i]) : "r"(x[2 * i]), "r"(x[2 * i + 1]), "f"(scale), "f"(scale), "f"(scale), "f"(scale));
}}
"""
    x = np.arange(65536, dtype=np.uint16)
    try:
        kernel = cuda.load(source=source, arch="sm_90", kernels=["cast"]).kernel("cast")
    except ToolchainError as error:
        pytest.skip(str(error))
    for scale in (1.0, 0.25, 3.7, 448.0, 1e-3, 1e30, -2.0):
        y = np.zeros(65536 // 4, np.uint32)
        kernel([y, x.view(np.uint32), np.float32(scale)], grid=len(y) // 64, block=64)
        wide = formats.bf16_to_f32(x)
        with np.errstate(all="ignore"):
            want = formats.cast_fp8(np.where(np.isnan(wide), wide, wide * np.float32(scale))).view(np.uint8)
        assert (y.view(np.uint8) == want).all(), scale


@pytest.mark.parametrize("format", ["fp8", "bytes"])
def test_bytes_are_moved_as_they_are(format):
    """Caches of codes, appended from codes and gathered without a cast."""
    rng = np.random.default_rng(6)
    dtype = formats.DTYPES["fp8"] if format == "fp8" else np.uint8
    cache = {n: rng.integers(0, 256, (3, 4, 2, 24), np.uint8).view(dtype) for n in ("key_cache", "value_cache")}
    slots = rng.permutation(12)[:9]
    key, value = run("kv_gather", {**cache, "slot_mapping": slots}, hnd=True)
    want = cache["key_cache"].reshape(12, 2, 24)[slots].swapaxes(0, 1)
    assert (key.view(torch.uint8).numpy() == want.view(np.uint8)).all()
    new = {n: np.zeros((3, 4, 2, 24), np.uint8).view(dtype) for n in cache}
    tokens = {n: np.ascontiguousarray(t.view(torch.uint8).numpy().swapaxes(0, 1)).view(dtype)
              for n, t in (("key", key), ("value", value))}  # fmt: skip
    run("kv_append", {**tokens, **new, "slot_mapping": slots})
    for name, old in cache.items():
        a, b = (c.view(np.uint8).reshape(12, -1)[slots] for c in (new[name], old))
        assert (a == b).all()


@pytest.mark.parametrize("op", ["kv_append", "kv_gather"])
@pytest.mark.parametrize("format", ["bf16", "fp8"])
def test_views_that_are_not_aligned(op, format):
    """One element further on: named, and right."""
    dims = {"num_tokens": 9, "num_heads": 2, "head_size": 32, "num_blocks": 3, "block_size": 4}
    dims |= {"hnd": 1} if op == "kv_gather" else {}
    arrays = inputs(op, format, dims, np.random.default_rng(7))
    path = FILES[op].path
    assert path(*map(tensor, arrays.values())) == "vector"
    moved = {}
    for name, a in arrays.items():
        room = aligned((a.size + 1,), a.dtype)
        moved[name] = room[1:].reshape(a.shape)
        moved[name][...] = a
    assert path(*map(tensor, moved.values())) == "unaligned"
    run(op, arrays)
    run(op, moved)
    for name, a in arrays.items():
        assert a.tobytes() == moved[name].tobytes(), name
    odd = inputs(op, format, {**dims, "head_size": 9}, np.random.default_rng(7))
    assert path(*map(tensor, odd.values())) == "unaligned"


@pytest.mark.parametrize("how", ["list", "table", "mixed"])
@pytest.mark.parametrize("format", OPS["kv_copy_blocks"].formats)
def test_a_tensor_per_layer(format, how):
    blocks = FILES["kv_copy_blocks"]
    for dims in hazards("kv_copy_blocks", format):
        arrays = inputs("kv_copy_blocks", format, dims, np.random.default_rng(8))
        known = expected("kv_copy_blocks", format, arrays, "random")
        keys, values = ([tensor(layer) for layer in arrays[f"{n}_caches"]] for n in ("key", "value"))
        mapping = tensor(arrays["block_mapping"])
        table = blocks.pointer_table(keys, values) if how == "table" and keys else None
        blocks.kv_copy_blocks(tensor(arrays["key_caches"]) if how == "mixed" else keys, values, mapping, table=table)
        assert all(what.error(arrays[name], Limit(1)) == 0 for name, what in known.items())


def test_slots_beyond_2_to_31():
    """A cache of more than 2^31 elements; only a few pages of it are ever touched."""
    if available_memory() < 6 * 2**30:
        pytest.skip(f"needs 6 GiB of free memory, {available_memory() / 2**30:.1f} are there")
    blocks = 2**31 // (16 * 1024) + 2
    caches = {n: np.zeros((blocks, 16, 8, 128), np.uint8) for n in ("key_cache", "value_cache")}
    tokens = {n: np.full((2, 8, 128), v, np.uint8) for n, v in (("key", 3), ("value", 5))}
    slots = np.array([blocks * 16 - 1, 0])
    run("kv_append", {**tokens, **caches, "slot_mapping": slots})
    assert (caches["value_cache"][-1, -1] == 5).all()
    assert (caches["key_cache"][0, 0] == 3).all()
    assert not caches["key_cache"][0, 1].any()
    for hnd in (False, True):
        key, value = run("kv_gather", {**caches, "slot_mapping": slots}, hnd=hnd)
        assert (key == 3).all()
        assert (value == 5).all()
    stacked = {f"{n}s": a[None] for n, a in caches.items()}
    run("kv_copy_blocks", {**stacked, "block_mapping": np.array([[blocks - 1, blocks - 2]])})
    assert (caches["value_cache"][-2, -1] == 5).all()


@pytest.mark.parametrize("op", ["kv_append", "kv_gather"])
def test_two_runs_give_the_same_bits(op):
    dims = {"num_tokens": 19, "num_heads": 3, "head_size": 20, "num_blocks": 7, "block_size": 4, "hnd": 1}
    arrays = inputs(op, "fp8", dims, np.random.default_rng(9), "special")
    first = [t.view(torch.uint8).clone() for t in run(op, arrays)]
    again = [t.view(torch.uint8) for t in run(op, arrays)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def append(**given):
    key = torch.zeros(2, 3, 4)
    good = {"key": key, "value": key, "key_cache": torch.zeros(5, 2, 3, 4), "value_cache": torch.zeros(5, 2, 3, 4)}
    FILES["kv_append"].kv_append(**{**good, "slot_mapping": torch.arange(2), **given})


def gather(**given):
    cache = torch.zeros(5, 2, 3, 4)
    good = {"key_cache": cache, "value_cache": cache, "slot_mapping": torch.arange(2)}
    FILES["kv_gather"].kv_gather(**{**good, **given})


def copy(**given):
    cache = torch.zeros(2, 5, 2, 3, 4)
    good = {"key_caches": cache, "value_caches": cache, "block_mapping": torch.tensor([[0, 1], [2, 3]])}
    FILES["kv_copy_blocks"].kv_copy_blocks(**{**good, **given})


BF, E4 = torch.bfloat16, torch.float8_e4m3fn
TOKEN, CACHE = torch.zeros(2, 3, 4), torch.zeros(5, 2, 3, 4)
BAD = [
    (append, {"key": TOKEN.double(), "value": TOKEN.double()}, "key is torch.float64"),
    (append, {"key": TOKEN[0]}, "key must be"),
    (append, {"key": TOKEN.transpose(1, 2)}, "key is not contiguous"),
    (append, {"value": TOKEN[:1]}, "value is"),
    (append, {"value": TOKEN.half()}, "value is"),
    (append, {"value": TOKEN.to("meta")}, "value is on meta"),
    (append, {"key_cache": CACHE.half()}, "key_cache is torch.float16"),
    (append, {"key_cache": CACHE[..., :2].contiguous()}, "key_cache is"),
    (append, {"key_cache": CACHE[0]}, "key_cache is"),
    (append, {"value_cache": CACHE[:4]}, "value_cache is"),
    (append, {"slot_mapping": torch.arange(3)}, "slot_mapping must be"),
    (append, {"slot_mapping": torch.arange(2, dtype=torch.int32)}, "slot_mapping must be"),
    (append, {"k_scale_inv": torch.ones(1)}, "k_scale_inv: .* takes no scale"),
    (append, {"key": TOKEN.to(BF), "value": TOKEN.to(BF), "key_cache": CACHE.to(E4), "value_cache": CACHE.to(E4),
              "k_scale_inv": torch.ones(1)}, "v_scale_inv: .* needs scale"),
    (append, {"key": TOKEN.to(BF), "value": TOKEN.to(BF), "key_cache": CACHE.to(E4), "value_cache": CACHE.to(E4),
              "k_scale_inv": torch.ones(2), "v_scale_inv": torch.ones(1)}, r"k_scale_inv must be \(1,\)"),
    (append, {"slot_mapping": torch.tensor([1, 10]), "check": True}, "slot_mapping holds 10"),
    (append, {"slot_mapping": torch.tensor([1, 1]), "check": True}, "slot_mapping holds slot 1 twice"),
    (gather, {"key_cache": CACHE.to(E4).view(torch.int8)}, "key_cache is torch.int8"),
    (gather, {"key_cache": CACHE[0]}, "key_cache must be"),
    (gather, {"key_cache": CACHE.transpose(0, 1)}, "key_cache is not contiguous"),
    (gather, {"value_cache": CACHE.half()}, "value_cache is"),
    (gather, {"slot_mapping": torch.arange(2)[None]}, "slot_mapping must be"),
    (gather, {"slot_mapping": torch.arange(2.0)}, "slot_mapping must be"),
    (gather, {"slot_mapping": torch.arange(2).to("meta")}, "slot_mapping is on meta"),
    (gather, {"k_scale_inv": torch.ones(1)}, "v_scale_inv is missing"),
    (gather, {"k_scale_inv": torch.ones(1), "v_scale_inv": torch.ones(1)}, "key_cache is torch.float32; only"),
    (gather, {"key": torch.zeros(2, 4, 3)}, "key is"),
    (gather, {"key": TOKEN.half()}, "key is torch.float16"),
    (gather, {"value": torch.zeros(3, 2, 4)}, "value is"),
    (gather, {"key": torch.zeros(3, 2, 4), "hnd": False}, "key is"),
    (gather, {"slot_mapping": torch.tensor([10, -1]), "check": True}, "slot_mapping holds 10"),
    (copy, {"key_caches": torch.zeros(2, 5)}, "key_caches has 2 axes"),
    (copy, {"key_caches": [CACHE, CACHE[:4]]}, "key_caches holds"),
    (copy, {"value_caches": [CACHE, CACHE.half()]}, "value_caches holds"),
    (copy, {"value_caches": [CACHE]}, "value_caches has 1 layers"),
    (copy, {"key_caches": torch.zeros(2, 5, 2, 3, 4).double()}, "key_caches is torch.float64"),
    (copy, {"value_caches": torch.zeros(2, 5, 2, 4, 3).transpose(3, 4)}, "value_caches is not contiguous"),
    (copy, {"block_mapping": torch.tensor([0, 1])}, "block_mapping must be"),
    (copy, {"block_mapping": torch.tensor([[0.0, 1.0]])}, "block_mapping must be"),
    (copy, {"table": torch.zeros(2, 3, dtype=torch.int64)}, "table must be"),
    (copy, {"block_mapping": torch.tensor([[0, 5]]), "check": True}, "block_mapping holds block 5"),
    (copy, {"block_mapping": torch.tensor([[-1, 3]]), "check": True}, "block_mapping holds block -1"),
    (copy, {"block_mapping": torch.tensor([[0, 3], [1, 3]]), "check": True}, "block_mapping writes block 3 twice"),
    (copy, {"block_mapping": torch.tensor([[0, 3], [3, 4]]), "check": True}, "reads and writes block 3"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "given", "message"), BAD)
def test_bad_input(call, given, message):
    call()
    call(check=True)
    with pytest.raises(ValueError, match=message):
        call(**given)


def test_tensors_of_the_cpu_are_refused():
    """Where the interpreter does not run."""
    program = f"""
import importlib.util, torch
token, cache, slots = torch.zeros(2, 3, 4), torch.zeros(5, 2, 3, 4), torch.arange(2)
calls = dict(kv_append=(token, token, cache, cache, slots), kv_gather=(cache, cache, slots),
             kv_copy_blocks=(cache[None], cache[None], torch.tensor([[0, 1]])))
for path in {[str(find(name, ".py")) for name in NAMES]}:
    name = path.split("/")[-1][:-3]
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        getattr(module, name)(*calls[name])
    except ValueError as error:
        print(error)
"""
    plain = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=plain, check=True)
    assert done.stdout.splitlines() == ["key is on the CPU", "key_cache is on the CPU", "block_mapping is on the CPU"]


def test_the_cast_is_the_contract_s():
    """The tests above take `cast_fp8` for true; the contract's cast is the same."""
    x = np.array([[[1.0, -3.0, 1e9, np.nan]]], np.float32)
    arrays = {"k_scale_inv": np.ones(1, np.float32)}
    with np.errstate(all="ignore"):
        assert (_kv.cast(x, arrays, "key").view(np.uint8) == formats.cast_fp8(x).view(np.uint8)).all()
