# SPDX-License-Identifier: MIT
"""kv_append.cu, kv_gather.cu and kv_copy_blocks.cu in kernelsim, to the bit."""

import mmap

import numpy as np
import pytest
from cuda_kv import SCHEDULES, call, guarded, library, run

import kernelsim
from roofbench import formats, hazards
from roofbench.numerics import Limit
from roofbench.ops import OPS

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
ARCHS = ("sm_80", "sm_90a", "sm_110f")  # bit arithmetic; many multiprocessors; few, so that small problems fill them
KV = ("kv_append", "kv_gather", "kv_copy_blocks")
CASTS = [("kv_append", "fp8"), ("kv_gather", "fp8")]
EVERY = [(op, format) for op in KV for format in OPS[op].formats]
TOKENS = ("key", "value", "key_cache", "value_cache", "key_caches", "value_caches")


def launch(op, format, dims, arrays, arch="sm_90a", schedule="forward", shift=0):
    """Runs it on guarded copies; inputs cannot be written. Returns the outputs."""
    signature = OPS[op].signature(format, dims)
    copies = {
        name: guarded(arrays[name], shift if name in TOKENS else 0, writable=arg.role != "in")
        for name, arg in signature.items()
    }
    given = dict(copies)
    for name in ("key_caches", "value_caches"):
        if name in given:
            given[name] = list(given[name])
    sizes = {**dims, "itemsize": arrays[next(n for n in arrays if n in TOKENS)].dtype.itemsize}
    run(op + ("_fp8" if "k_scale_inv" in arrays else ""), given, sizes, arch, schedule)
    return {name: copies[name] for name, arg in signature.items() if arg.role != "in"}


def check(op, format, dims, kind="random", seed=1, **options):
    arrays = hazards.inputs(op, format, dims, np.random.default_rng(seed), kind)
    known = hazards.expected(op, format, arrays, kind)
    for name, array in launch(op, format, dims, arrays, **options).items():
        assert known[name].error(array, Limit(1)) == 0, f"{op} {format} {kind} {dims} {options}: {name} is wrong"


@pytest.mark.parametrize("kind", hazards.KINDS)
@pytest.mark.parametrize(("op", "format"), EVERY)
def test_hazard_shapes(op, format, kind):
    for dims in hazards.sizes(op, format):
        check(op, format, dims, kind)


def shapes(op, count, seed):
    """Some small, some that fill sm_110's twenty multiprocessors; head sizes of every alignment."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        head_size = int(
            rng.choice([1, 3, 5, 8, 12, 14, 16, 20, 31, 32, 33, 40, 64, 72, 80, 96, 112, 128, 130, 192, 256])
        )
        heads, block_size = int(rng.integers(1, 9)), int(rng.choice([1, 3, 16, 32]))
        tokens = int(rng.integers(1, 60)) if i % 3 else 2_000_000 // (heads * head_size * int(rng.integers(2, 6)))
        tokens = min(tokens, 4000)
        blocks = tokens // block_size + 1 + int(rng.integers(0, 5))
        dims = {"num_blocks": blocks, "block_size": block_size, "num_heads": heads, "head_size": head_size}
        if op == "kv_copy_blocks":
            dims |= {"num_blocks": blocks + 1, "num_layers": int(rng.integers(1, 4)), "num_pairs": (blocks + 1) // 2}
        else:
            dims |= {"num_tokens": tokens}
        if op == "kv_gather":
            dims |= {"hnd": int(rng.integers(0, 2))}
        yield dims


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(("op", "format"), EVERY)
def test_random_shapes_in_every_order(op, format, arch):
    for i, dims in enumerate(shapes(op, 9, EVERY.index((op, format)))):
        check(op, format, dims, hazards.KINDS[i % 4], i, arch=arch, schedule=SCHEDULES[i // 3 % 3])


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("op", "format"), EVERY)
def test_a_layer_of_a_model_in_every_order(op, format, schedule):
    """The path of many tokens: tiles outnumber the blocks of the grid."""
    dims = {"num_tokens": 1100, "num_heads": 8, "head_size": 128, "num_blocks": 80, "block_size": 16}
    if op == "kv_copy_blocks":
        dims |= {"num_layers": 2, "num_pairs": 33}
        del dims["num_tokens"]
    for hnd in (0, 1) if op == "kv_gather" else (0,):
        dims |= {"hnd": hnd} if op == "kv_gather" else {}
        check(op, format, dims, "special", arch="sm_110f", schedule=schedule)


@pytest.mark.parametrize("shift", [1, 2, 3, 4, 7, 8])
@pytest.mark.parametrize(("op", "format"), EVERY)
def test_views_that_are_not_aligned(op, format, shift):
    """So many elements past 16 bytes: narrower accesses, of 1 to 8 bytes."""
    base = {"num_heads": 2, "head_size": 32, "num_blocks": 5, "block_size": 4}
    if op == "kv_copy_blocks":
        check(op, format, {**base, "num_layers": 2, "num_pairs": 2}, shift=shift)
        return
    for hnd in (0, 1) if op == "kv_gather" else (None,):
        check(op, format, {**base, "num_tokens": 13, **({} if hnd is None else {"hnd": hnd})}, shift=shift)


@pytest.mark.parametrize("arch", ["sm_80", "sm_89", "sm_90a", "sm_120a"])
@pytest.mark.parametrize("scale", [1.0, 0.25, 3.7, 448.0, 1e-3, 1e30, -2.0, 2.0**-140])
def test_cast_of_every_bf16(scale, arch):
    """To the bit, the sign of a NaN as well: a product may lose it. By bit arithmetic and by the instruction."""
    x = np.arange(65536, dtype=np.uint16)
    wide = formats.bf16_to_f32(x)
    with np.errstate(all="ignore"):
        want = formats.cast_fp8(np.where(np.isnan(wide), wide, wide * np.float32(scale))).view(np.uint8)
    scales = {name: guarded(np.array([scale], np.float32), writable=False) for name in ("k_scale_inv", "v_scale_inv")}
    for head_size in (256, 1):  # sixteen bytes, a single element
        tokens, slots = 65536 // head_size, np.arange(65536 // head_size)
        sizes = {"num_tokens": tokens, "num_heads": 1, "head_size": head_size, "num_blocks": tokens, "block_size": 1}
        arrays = {"key": guarded(x), "value": guarded(x), "slot_mapping": guarded(slots), **scales}
        out = {name: guarded(np.zeros(65536, np.uint8)) for name in ("key_cache", "value_cache")}
        run("kv_append_fp8", {**arrays, **out}, sizes, arch)
        for array in out.values():
            assert (array == want).all()
        arrays = {"key_cache": arrays["key"], "value_cache": arrays["value"], "slot_mapping": arrays["slot_mapping"]}
        out = {name: guarded(np.zeros(65536, np.uint8)) for name in ("key", "value")}
        run("kv_gather_fp8", {**arrays, **scales, **out}, {**sizes, "hnd": 0}, arch)
        for array in out.values():
            assert (array == want).all()


@pytest.mark.parametrize("arch", ARCHS)
def test_padding_gives_zeros_whatever_the_scale(arch):
    dims = {"num_tokens": 9, "num_heads": 2, "head_size": 16, "num_blocks": 3, "block_size": 4, "hnd": 0}
    arrays = hazards.inputs("kv_gather", "fp8", dims, np.random.default_rng(5))
    arrays["slot_mapping"][...] = -7
    arrays["k_scale_inv"][...], arrays["v_scale_inv"][...] = np.nan, -np.inf
    for array in launch("kv_gather", "fp8", dims, arrays, arch).values():
        assert not array.view(np.uint8).any()


@pytest.mark.parametrize("slot", [12, 13, 1 << 31, 1 << 40, (1 << 63) - 1, -1, -(1 << 63)])
def test_slots_outside_of_the_cache_do_nothing(slot):
    dims = {"num_tokens": 3, "num_heads": 2, "head_size": 16, "num_blocks": 3, "block_size": 4}
    arrays = hazards.inputs("kv_append", "bf16", dims, np.random.default_rng(5))
    arrays["slot_mapping"][...] = slot
    for name, array in launch("kv_append", "bf16", dims, arrays).items():
        assert array.tobytes() == arrays[name].tobytes()
    arrays = hazards.inputs("kv_gather", "bf16", {**dims, "hnd": 0}, np.random.default_rng(5))
    arrays["slot_mapping"][...] = slot
    for array in launch("kv_gather", "bf16", {**dims, "hnd": 0}, arrays).values():
        assert not array.view(np.uint16).any()


@pytest.mark.parametrize("pair", [(0, 9), (9, 0), (-1, 2), (2, -1), (1 << 40, 0)])
def test_pairs_outside_of_the_caches_do_nothing(pair):
    dims = {"num_layers": 2, "num_blocks": 9, "block_size": 4, "num_heads": 2, "head_size": 16, "num_pairs": 1}
    arrays = hazards.inputs("kv_copy_blocks", "bf16", dims, np.random.default_rng(5))
    arrays["block_mapping"][...] = pair
    for name, array in launch("kv_copy_blocks", "bf16", dims, arrays).items():
        assert array.tobytes() == arrays[name].tobytes()


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("arch", ARCHS)
def test_layers_of_every_alignment(arch, schedule):
    """Each cache of a layer where it likes, as a table of pointers allows."""
    rng = np.random.default_rng(8)
    sizes = {"num_layers": 6, "num_blocks": 7, "block_size": 16, "num_heads": 3, "head_size": 40, "num_pairs": 3}
    sizes["itemsize"] = 1
    shifts = [(0, 0), (1, 0), (0, 2), (4, 4), (8, 12), (16, 3)]
    before = [[rng.integers(0, 256, (7, 16, 3, 40), np.uint8) for _ in range(2)] for _ in shifts]
    caches = [[guarded(a, s) for a, s in zip(*both, strict=True)] for both in zip(before, shifts, strict=True)]
    pairs = rng.permutation(7)[:6].reshape(3, 2)
    keys, values = (list(c) for c in zip(*caches, strict=True))
    given = {"key_caches": keys, "value_caches": values, "block_mapping": guarded(pairs, writable=False)}
    run("kv_copy_blocks", given, sizes, arch, schedule)
    for both, old in zip(caches, before, strict=True):
        for now, was in zip(both, old, strict=True):
            was[pairs[:, 1]] = was[pairs[:, 0]]
            assert (now == was).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("arch", ["sm_90a", "sm_121a"])  # a bus; memory that is the host's, too
@pytest.mark.parametrize("shifts", [(0, 0, 0, 0), (1, 1, 1, 1), (0, 0, 0, 1), (0, 0, 2, 0), (0, 4, 0, 0), (6, 0, 0, 0)])
def test_swaps_to_the_host_and_back(arch, schedule, shifts):
    rng = np.random.default_rng(9)
    sizes = {"num_layers": 3, "block_size": 16, "num_heads": 4, "head_size": 64, "itemsize": 2, "num_pairs": 20}
    device = [rng.integers(0, 65536, (40, 16, 4, 64), np.uint16) for _ in range(6)]
    host = [rng.integers(0, 65536, (25, 16, 4, 64), np.uint16) for _ in range(6)]
    there = np.stack([rng.integers(0, 40, 20), rng.permutation(25)[:20]], 1)  # a source may come twice
    moved = [shift for shift in shifts for _ in range(3)]  # each table may lie where it likes
    src = [guarded(a, shift, writable=False) for a, shift in zip(device, moved[:6], strict=True)]
    dst = [guarded(a, shift) for a, shift in zip(host, moved[6:], strict=True)]
    tables = {
        "src_key_caches": src[:3],
        "src_value_caches": src[3:],
        "dst_key_caches": dst[:3],
        "dst_value_caches": dst[3:],
    }
    given = {**tables, "block_mapping": guarded(there, writable=False)}
    run("kv_swap_blocks", given, {**sizes, "src_blocks": 40, "dst_blocks": 25}, arch, schedule)
    for now, was, of in zip(dst, host, device, strict=True):
        was[there[:, 1]] = of[there[:, 0]]
        assert (now == was).all()
    back = np.stack([rng.permutation(25)[:20], rng.permutation(40)[:20]], 1)
    src, dst = [guarded(a, writable=False) for a in host], [guarded(a) for a in device]
    tables = {
        "src_key_caches": src[:3],
        "src_value_caches": src[3:],
        "dst_key_caches": dst[:3],
        "dst_value_caches": dst[3:],
    }
    given = {**tables, "block_mapping": guarded(back, writable=False)}
    run("kv_swap_blocks", given, {**sizes, "src_blocks": 25, "dst_blocks": 40}, arch, schedule)
    for now, was, of in zip(dst, device, host, strict=True):
        was[back[:, 1]] = of[back[:, 0]]
        assert (now == was).all()


def sparse(nbytes, dtype, shape):
    """Zeros that take no memory until they are written."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    return np.frombuffer(mmap.mmap(-1, nbytes, flags=flags), dtype).reshape(shape)


@pytest.mark.parametrize("format", ["bf16", "fp8"])
def test_offsets_beyond_32_bits(format):
    """The last slots of caches of more than 2^32 elements."""
    blocks, block_size, heads, head_size = (1 << 21) + 3, 16, 1, 136
    shape, item = (blocks, block_size, heads, head_size), 1 if format == "fp8" else 2
    cache = {name: sparse(int(np.prod(shape)) * item, f"u{item}", shape) for name in ("key_cache", "value_cache")}
    limit = blocks * block_size
    slots = np.array([limit - 1, 0, -1, limit - 17, (1 << 31) // 136 + 1, (1 << 32) // 136 + 1])
    rng = np.random.default_rng(10)
    x = rng.standard_normal((6, heads, head_size)).astype(formats.DTYPES["bf16"])
    sizes = {
        "num_tokens": 6,
        "num_heads": heads,
        "head_size": head_size,
        "num_blocks": blocks,
        "block_size": block_size,
    }
    one = {n: np.ones(1, np.float32) for n in ("k_scale_inv", "v_scale_inv")} if format == "fp8" else {}
    name = "_fp8" if format == "fp8" else ""
    run(f"kv_append{name}", {"key": x, "value": x, **cache, "slot_mapping": slots, **one}, {**sizes, "itemsize": 2})
    want = formats.cast_fp8(x.astype(np.float32)).view(np.uint8) if format == "fp8" else x.view(np.uint16)
    for array in cache.values():
        flat = array.reshape(-1, heads, head_size)
        for token, slot in enumerate(slots):
            if slot >= 0:
                assert (flat[slot] == want[token]).all()
        assert not flat[1].any()
        assert not flat[limit - 2].any()
    if format == "bf16":
        pairs = np.array([[blocks - 1, 5], [0, blocks - 2]])
        tables = {"key_caches": [cache["key_cache"]], "value_caches": [cache["value_cache"]], "block_mapping": pairs}
        run("kv_copy_blocks", tables, {**sizes, "num_layers": 1, "num_pairs": 2, "itemsize": 2})
        for array in cache.values():
            assert (array[5, -1] == want[0]).all()
            assert (array[blocks - 2, 0] == want[1]).all()


@pytest.mark.parametrize("head_size", [1, 137])
def test_more_accesses_than_32_bits_count(head_size):
    """Caches of bytes: more than 2^32 accesses of the narrowest kind, and slots."""
    limit = ((1 << 32) + 1000) // head_size
    sizes = {"num_heads": 1, "head_size": head_size, "num_blocks": limit, "block_size": 1, "itemsize": 1}
    cache = {name: sparse(limit * head_size, np.uint8, (limit, head_size)) for name in ("key_cache", "value_cache")}
    slots = np.array([limit - 1, 3, limit - 3])
    x = np.random.default_rng(14).integers(1, 256, (3, head_size), np.uint8)
    given = {"key": x, "value": x, **cache, "slot_mapping": slots}
    run("kv_append", given, {**sizes, "num_tokens": 3})
    for array in cache.values():
        assert (array[slots] == x).all()
        assert not array[[0, 1, 2, 4, 5, 900 // head_size, limit - 2, limit - 4]].any()
    for hnd in (0, 1):
        out = {n: guarded(np.zeros((3, head_size), np.uint8)) for n in ("key", "value")}
        run("kv_gather", {**cache, "slot_mapping": slots, **out}, {**sizes, "num_tokens": 3, "hnd": hnd})
        for array in out.values():
            assert (array == x).all()
    pairs = np.array([[limit - 1, 0], [3, limit - 2]])
    tables = {"key_caches": [cache["key_cache"]], "value_caches": [cache["value_cache"]], "block_mapping": pairs}
    run("kv_copy_blocks", tables, {**sizes, "num_layers": 1, "num_pairs": 2})
    for array in cache.values():
        assert (array[[0, limit - 2]] == x[:2]).all()


def test_short_tokens_are_read_side_by_side():
    """Nine accesses to a token: whole sectors all the same, as neighbours in a warp are neighbours in memory."""
    rng, tokens = np.random.default_rng(15), 64
    sizes = {"num_tokens": tokens, "num_heads": 1, "head_size": 72, "num_blocks": 8, "block_size": 16, "itemsize": 2}
    arrays = {n: page((tokens, 72), np.uint16, rng) for n in ("key", "value")}
    arrays |= {n: page((128, 72), np.uint16) for n in ("key_cache", "value_cache")}
    arrays["slot_mapping"] = np.arange(tokens)
    audit = audited("kv_append", arrays, sizes, "sm_110f")
    for name in ("key", "value"):
        loads, stores = audit[name].loads, audit[f"{name}_cache"].stores
        assert loads.sectors == stores.sectors == tokens * 144 // 32


def test_arguments_that_are_refused():
    """Each by its number, and nothing is written."""
    dims = {"num_tokens": 3, "num_heads": 2, "head_size": 16, "num_blocks": 3, "block_size": 4}
    sizes = {**dims, "itemsize": 2, "hnd": 0}
    wrong = {
        "num_tokens": -1,
        "num_heads": 0,
        "head_size": 0,
        "num_blocks": 0,
        "block_size": 0,
        "hnd": 2,
        "itemsize": 3,
    }
    huge = {"num_tokens": (1 << 42) + (12345 << 10), "num_heads": 1 << 40, "head_size": 1 << 40, "block_size": 1 << 62}
    from cuda_kv import PROTOTYPES

    for name, args in PROTOTYPES.items():
        if name in ("kv_copy_blocks", "kv_swap_blocks"):
            continue
        op, format = name.removesuffix("_fp8"), "fp8" if name.endswith("fp8") else "bf16"
        arrays = hazards.inputs(op, format, {**dims, "hnd": 0} if "hnd" in args else dims, np.random.default_rng(1))
        arrays = {n: guarded(a, writable=False) for n, a in arrays.items()}
        for number, arg in enumerate(args, 1):
            if arg in arrays:
                assert call(name, {**arrays, arg: None}, sizes) == -number, (name, arg)
                if arrays[arg].dtype.itemsize > 1:
                    assert call(name, {**arrays, arg: arrays[arg].ctypes.data + 1}, sizes) == -number, (name, arg)
                assert call(name, {**arrays, arg: None}, {**sizes, "num_tokens": 0}) == 0, (name, arg)
            else:
                assert call(name, arrays, {**sizes, arg: wrong[arg]}) == -number, (name, arg)
                if arg in huge:
                    assert call(name, arrays, {**sizes, arg: huge[arg]}) == -number, (name, arg)
                if arg == "num_tokens":
                    assert call(name, arrays, {**sizes, arg: (1 << 63) - 1}) == -number
    sizes = {"num_layers": 2, "num_blocks": 9, "src_blocks": 9, "dst_blocks": 9, "block_size": 4, "num_heads": 2}
    sizes |= {"head_size": 16, "num_pairs": 2, "itemsize": 2}
    wrong = {**dict.fromkeys(sizes, 0), "num_layers": -1, "num_pairs": -1, "itemsize": 8}
    huge = {
        "block_size": 1 << 62,
        "num_heads": 1 << 62,
        "head_size": 1 << 62,
        "num_pairs": 1 << 40,
        "num_layers": 1 << 40,
    }
    for name in ("kv_copy_blocks", "kv_swap_blocks"):
        args = PROTOTYPES[name]
        caches = {
            arg: [guarded(np.zeros((9, 4, 2, 16), np.uint16)) for _ in range(2)] for arg in args if "caches" in arg
        }
        arrays = {**caches, "block_mapping": guarded(np.array([[0, 1], [2, 3]]))}
        for number, arg in enumerate(args, 1):
            if arg in arrays:
                assert call(name, {**arrays, arg: None}, sizes) == -number, (name, arg)
                assert call(name, {**arrays, arg: None}, {**sizes, "num_pairs": 0}) == 0
                assert call(name, {**arrays, arg: None}, {**sizes, "num_layers": 0}) == 0
            else:
                assert call(name, arrays, {**sizes, arg: wrong[arg]}) == -number, (name, arg)
                if arg in huge:
                    assert call(name, arrays, {**sizes, arg: huge[arg]}) == -number, (name, arg)


def test_more_tiles_than_can_be_counted():
    cache, most = np.zeros((9, 4, 2, 16), np.uint16), (1 << 31) - 1
    sizes = {"num_blocks": 9, "src_blocks": 9, "dst_blocks": 9, "block_size": 4, "num_heads": 2, "head_size": 16}
    sizes |= {"num_layers": 2, "num_pairs": most, "itemsize": 2}
    tables = {"key_caches": [cache], "value_caches": [cache], "block_mapping": np.zeros((1, 2), np.int64)}
    assert call("kv_copy_blocks", tables, sizes) == -9
    tables |= {f"{side}_{name}_caches": [cache] for side in ("src", "dst") for name in ("key", "value")}
    assert call("kv_swap_blocks", tables, sizes) == -12
    assert call("kv_swap_blocks", tables, {**sizes, "num_layers": most, "num_pairs": 2}) == -12


def audited(name, arrays, sizes, arch):
    stem = {"kv_swap_blocks": "kv_copy_blocks"}.get(name, name.removesuffix("_fp8"))
    buffers = {}
    for arg, a in arrays.items():
        buffers |= {f"{arg}{i}": one for i, one in enumerate(a)} if isinstance(a, list) else {arg: a}
    with kernelsim.audit.record(library(stem, arch, audit=True), buffers=buffers) as audit:
        run(name, arrays, sizes, arch, audit=True)
    return audit


def page(shape, dtype, rng=None):
    """Memory that starts at a page, as a device's does at 256 bytes."""
    nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    array = np.frombuffer(mmap.mmap(-1, max(1, nbytes)), np.uint8, nbytes)
    if rng is not None:
        array[...] = rng.integers(0, 256, nbytes, np.uint8)
    return array.view(dtype).reshape(shape)


@pytest.mark.parametrize("tokens", [24, 1100])  # small tiles, large ones
@pytest.mark.parametrize("name", ["kv_append", "kv_append_fp8"])
def test_audit_of_append(name, tokens):
    """Every byte once, 16 bytes a lane, whole sectors."""
    rng, cast = np.random.default_rng(11), name.endswith("fp8")
    sizes = {"num_tokens": tokens, "num_heads": 8, "head_size": 128, "num_blocks": 80, "block_size": 16, "itemsize": 2}
    arrays = {n: page((tokens, 8, 128), np.uint16, rng) for n in ("key", "value")}
    arrays |= {n: page((80, 16, 8, 128), np.uint8 if cast else np.uint16) for n in ("key_cache", "value_cache")}
    arrays["slot_mapping"] = rng.permutation(1280)[:tokens]
    if cast:
        arrays |= {n: np.ones(1, np.float32) for n in ("k_scale_inv", "v_scale_inv")}
    audit = audited(name, arrays, sizes, "sm_110f")
    for n in ("key", "value"):
        loads, stores = audit[n].loads, audit[f"{n}_cache"].stores
        assert loads.bytes == arrays[n].nbytes
        assert set(loads.widths) == {16}
        assert loads.sectors == loads.least_sectors == arrays[n].nbytes // 32
        assert stores.bytes == arrays[n].nbytes // (2 if cast else 1)
        assert set(stores.widths) == {8 if cast else 16}
        assert stores.sectors == stores.least_sectors == stores.bytes // 32
        assert audit[n].stores.bytes == audit[f"{n}_cache"].loads.bytes == 0
    slots = audit["slot_mapping"].loads
    assert slots.unique == 8 * tokens * 2048 // 512  # each warp asks once for its token's


@pytest.mark.parametrize("hnd", [0, 1])
@pytest.mark.parametrize("tokens", [24, 1100])
@pytest.mark.parametrize("name", ["kv_gather", "kv_gather_fp8"])
def test_audit_of_gather(name, tokens, hnd):
    rng, cast = np.random.default_rng(12), name.endswith("fp8")
    sizes = {"num_tokens": tokens, "num_heads": 8, "head_size": 128, "num_blocks": 80, "block_size": 16}
    sizes |= {"itemsize": 2, "hnd": hnd}
    arrays = {n: page((80, 16, 8, 128), np.uint16, rng) for n in ("key_cache", "value_cache")}
    arrays |= {n: page((tokens, 8, 128), np.uint8 if cast else np.uint16) for n in ("key", "value")}
    arrays["slot_mapping"] = rng.permutation(1280)[:tokens]
    if cast:
        arrays |= {n: np.ones(1, np.float32) for n in ("k_scale_inv", "v_scale_inv")}
    audit = audited(name, arrays, sizes, "sm_110f")
    for n in ("key", "value"):
        loads, stores = audit[f"{n}_cache"].loads, audit[n].stores
        assert loads.bytes == 2 * arrays[n].size
        assert set(loads.widths) == {16}
        assert loads.sectors == loads.least_sectors == loads.bytes // 32
        assert stores.bytes == arrays[n].nbytes
        assert set(stores.widths) == {8 if cast else 16}
        assert stores.sectors == stores.least_sectors == stores.bytes // 32


@pytest.mark.parametrize("pairs", [1, 40])
@pytest.mark.parametrize("name", ["kv_copy_blocks", "kv_swap_blocks"])
def test_audit_of_copies(name, pairs):
    rng = np.random.default_rng(13)
    sizes = {"num_layers": 2, "block_size": 16, "num_heads": 8, "head_size": 128, "num_pairs": pairs, "itemsize": 2}
    mapping = rng.permutation(90)[: 2 * pairs].reshape(pairs, 2)
    block = 16 * 8 * 128 * 2
    caches = [page((90, 16, 8, 128), np.uint16, rng) for _ in range(4)]
    if name == "kv_copy_blocks":
        arrays = {"key_caches": caches[:2], "value_caches": caches[2:], "block_mapping": mapping}
        audit = audited(name, arrays, {**sizes, "num_blocks": 90}, "sm_110f")
        moved = [(f"{n}{i}", f"{n}{i}") for n in ("key_caches", "value_caches") for i in range(2)]
    else:
        to = [page((90, 16, 8, 128), np.uint16) for _ in range(4)]
        arrays = {"src_key_caches": caches[:2], "src_value_caches": caches[2:], "block_mapping": mapping}
        arrays |= {"dst_key_caches": to[:2], "dst_value_caches": to[2:]}
        audit = audited(name, arrays, {**sizes, "src_blocks": 90, "dst_blocks": 90}, "sm_90a")
        moved = [(f"src_{n}{i}", f"dst_{n}{i}") for n in ("key_caches", "value_caches") for i in range(2)]
    for source, to in moved:
        for part in (audit[source].loads, audit[to].stores):
            assert part.bytes == pairs * block
            assert set(part.widths) == {16}
            assert part.sectors == part.least_sectors == part.bytes // 32
    assert len(audit.kernels) == 1  # one launch for all layers
