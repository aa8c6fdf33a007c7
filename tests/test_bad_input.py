# SPDX-License-Identifier: MIT
"""Bad input gives one error that names the argument, and never a crash."""

import numpy as np
import pytest
from support import CPU, every_format

from roofbench import formats
from roofbench.hazards import inputs
from roofbench.ops import OPS

BF16 = formats.DTYPES["bf16"]
GEMV = {"M": 2, "N": 8, "K": 128}
KV = {"num_tokens": 6, "num_heads": 2, "head_size": 8, "num_blocks": 4, "block_size": 4}
COPY = {"num_layers": 2, "num_blocks": 6, "block_size": 2, "num_heads": 2, "head_size": 4, "num_pairs": 2}
MOE = {"M": 2, "N": 8, "K": 64, "E": 4, "top_k": 2, "x_slots": 1}
GEMM = {"B": 2, "M": 4, "N": 8, "K": 64, "w_batch": 1}


def misaligned(array):
    raw = np.zeros(array.nbytes + 1, np.uint8)
    return raw[1:].view(array.dtype).reshape(array.shape)


def read_only(array):
    out = array.copy()
    out.flags.writeable = False
    return out


def set_(name, index, value):
    def change(arrays):
        arrays[name][index] = value

    return change


def put(name, make):
    def change(arrays):
        arrays[name] = make(arrays[name])

    return change


def alias(name, other):
    def change(arrays):
        arrays[name] = arrays[other]

    return change


@pytest.mark.parametrize(
    ("op", "format", "dims", "change", "says"),
    [
        ("gemv", "int4", GEMV, put("x", lambda a: a[0]), r"x has shape \(128,\); it needs 2 axes \(M, K\)"),
        ("gemv", "int4", GEMV, put("w", lambda a: a[None]), r"w has shape \(1, 8, 16\); it needs 2 axes"),
        (
            "gemv",
            "int4",
            GEMV,
            put("x", lambda a: a.astype(np.float64)),
            "x has dtype float64; gemv int4 takes bfloat16",
        ),
        ("gemv", "int4", GEMV, put("w", lambda a: a.view(np.int32)), "w has dtype int32; gemv int4 takes uint32"),
        ("gemv", "int4", GEMV, put("w_scales", lambda a: a[:, :1]), r"w_scales has shape \(8, 1\)"),
        (
            "gemv",
            "int4",
            GEMV,
            put("x", lambda a: a[:, :100].copy()),
            "K = 100 is not a multiple of int4's group of 64",
        ),
        ("gemv", "mxfp4", GEMV, put("w", lambda a: a[:, :5].copy()), r"w has shape \(8, 5\)"),
        (
            "gemv",
            "bf16",
            GEMV,
            put("w", lambda a: np.zeros((8, 256), BF16)[:, ::2]),
            "w is not contiguous: its strides",
        ),
        ("gemv", "bf16", GEMV, put("w", lambda a: np.asfortranarray(a)), "w is not contiguous"),
        ("gemv", "bf16", GEMV, put("w", misaligned), r"w starts at 0x\w+1, which is not aligned to its 2 bytes"),
        ("gemv", "bf16", GEMV, put("y", read_only), "y is read-only and gemv bf16 writes to it"),
        ("gemv", "bf16", GEMV, put("y", lambda a: a[:, :7].copy()), r"y has shape \(2, 7\); .* takes \(2, 8\)"),
        ("gemv", "bf16", GEMV, lambda a: a.pop("y"), "y is missing: gemv bf16 takes x, w, y"),
        ("gemv", "bf16", GEMV, lambda a: a.pop("x"), "x is missing"),
        ("gemv", "bf16", GEMV, lambda a: a.update(bias=a["y"]), "bias is no argument of gemv bf16"),
        ("gemv", "bf16", GEMV, put("x", lambda a: a.tolist()), "x must be a numpy.ndarray, not list"),
        ("gemv", "bf16", {"M": 8, "N": 128, "K": 128}, alias("y", "w"), r"y has shape \(128, 128\)"),
        ("gemv", "bf16", {"M": 8, "N": 8, "K": 8}, alias("y", "x"), "y overlaps x: outputs need memory of their own"),
        ("gemv_moe", "bf16", MOE, set_("expert_ids", (1, 0), 4), r"expert_ids\[1, 0\] = 4; there are 4 experts"),
        ("gemv_moe", "bf16", MOE, set_("expert_ids", (0, 1), -1), r"expert_ids\[0, 1\] = -1"),
        ("gemv_moe", "bf16", MOE, put("expert_ids", lambda a: a.astype(np.int64)), "expert_ids has dtype int64"),
        (
            "gemv_moe",
            "bf16",
            MOE,
            put("x", lambda a: np.zeros((2, 3, 64), BF16)),
            "x has 3 slots per token; it must have 1 or expert_ids' top_k of 2",
        ),
        (
            "gemm",
            "bf16",
            GEMM,
            put("w", lambda a: np.zeros((3, 8, 64), BF16)),
            "w has a batch of 3; it must be 1 or x's",
        ),
        ("kv_append", "bf16", KV, set_("slot_mapping", 2, 16), r"slot_mapping\[2\] = 16; the cache ends at slot 15"),
        ("kv_append", "bf16", KV, set_("slot_mapping", slice(None), 3), "slot_mapping holds slot 3 twice"),
        ("kv_append", "bf16", KV, put("slot_mapping", lambda a: a.astype(np.int32)), "slot_mapping has dtype int32"),
        ("kv_append", "bf16", KV, put("value", lambda a: a[:5].copy()), r"value has shape \(5, 2, 8\)"),
        ("kv_append", "bf16", KV, alias("value_cache", "key_cache"), "key_cache overlaps value_cache"),
        ("kv_append", "fp8", KV, lambda a: a.pop("k_scale_inv"), "k_scale_inv is missing"),
        ("kv_gather", "bf16", {**KV, "hnd": 0}, set_("slot_mapping", 0, 99), r"slot_mapping\[0\] = 99"),
        ("kv_copy_blocks", "bf16", COPY, set_("block_mapping", (0, 1), 6), r"block_mapping\[0, 1\] = 6; there are 6"),
        ("kv_copy_blocks", "bf16", COPY, set_("block_mapping", (1, 0), -2), r"block_mapping\[1, 0\] = -2"),
        (
            "kv_copy_blocks",
            "bf16",
            COPY,
            set_("block_mapping", ..., [[0, 1], [2, 1]]),
            "block_mapping writes block 1 twice",
        ),
        (
            "kv_copy_blocks",
            "bf16",
            COPY,
            set_("block_mapping", ..., [[0, 1], [1, 2]]),
            "block_mapping both reads and writes block 1: the copies overlap",
        ),
    ],
)
def test_named(op, format, dims, change, says):
    arrays = inputs(op, format, dims, np.random.default_rng(0))
    change(arrays)
    before = {name: array.tobytes() for name, array in arrays.items() if isinstance(array, np.ndarray)}
    with pytest.raises(ValueError, match=says):
        CPU.run(op, format, arrays)
    for name, content in before.items():
        assert arrays[name].tobytes() == content, f"{name} was written to"


def test_unknown_format():
    with pytest.raises(ValueError, match="format 'q4_K' is unknown to gemv; known: f32"):
        CPU.run("gemv", "q4_K", {})
    with pytest.raises(ValueError, match="unknown op 'attention'"):
        CPU.run("attention", "f32", {})


def mutations(arrays, rng):
    """One thing wrong with one argument, at random."""
    name = str(rng.choice(list(arrays)))
    array = arrays[name]
    ways = [
        lambda: arrays.pop(name),
        lambda: arrays.update({f"{name}_": array}),
        lambda: arrays.update({name: None}),
        lambda: arrays.update({name: array.astype(np.complex64) if array.dtype != BF16 else array.view(np.uint16)}),
        lambda: arrays.update({name: array.reshape((*array.shape, 1))}),
        lambda: arrays.update({name: array.reshape(-1)}),
        lambda: arrays.update({name: array[None]}),
        lambda: arrays.update({name: array[:-1]}),
        lambda: arrays.update({name: np.concatenate([array, array])}),
        lambda: arrays.update({name: array[..., ::-1]}),
        lambda: arrays.update({name: array[..., : array.shape[-1] // 2]}),
        lambda: arrays.update({name: misaligned(array)}),
        lambda: arrays.update({name: array[..., :0]}),
        lambda: arrays.update({name: np.zeros((0,) * array.ndim, array.dtype)}),
        lambda: arrays.update({name: array.T}),
        lambda: arrays.update({name: np.broadcast_to(array.reshape(-1)[:1], array.shape) if array.size else array}),
    ]
    if array.dtype.kind in "iu" and name in ("slot_mapping", "block_mapping", "expert_ids") and array.size:
        ways += [lambda v=v: array.reshape(-1).__setitem__(0, v) for v in (2**31 - 1, 10**6, -(2**31))] * 3
        if array.size > 1:
            ways += [lambda: array.reshape(-1).__setitem__(slice(0, 2), 0)]
    ways[rng.integers(len(ways))]()


def test_a_thousand_bad_inputs_crash_nothing():
    """Each is refused in one line, or happens to be good."""
    rng = np.random.default_rng(0)
    sizes = {"gemv": GEMV, "gemv_moe": MOE, "gemm": GEMM, "kv_append": KV, "kv_copy_blocks": COPY}
    sizes["kv_gather"] = {**KV, "hnd": 1}
    refused = 0
    pairs = every_format()
    for i in range(2500):
        op, format = pairs[i % len(pairs)]
        arrays = inputs(op, format, sizes[op], rng)
        for _ in range(rng.integers(1, 3)):
            if arrays:
                mutations(arrays, rng) if all(isinstance(a, np.ndarray) for a in arrays.values()) else None
        try:
            CPU.run(op, format, arrays)
        except ValueError as error:
            refused += 1
            assert 10 < len(str(error)) < 300
            assert "\n" not in str(error)
    assert refused > 1000


class TestLaunchers:
    """The C functions themselves, as one who copied a file would call them: LAPACK's INFO."""

    lib, ffi = CPU.library.lib, CPU.library.ffi

    def pointer(self, kind, array):
        return self.ffi.cast(kind, array.ctypes.data)

    def test_bad_sizes_name_their_argument(self):
        a = np.zeros(64, np.float32)
        p = self.pointer("float *", a)
        assert self.lib.rb_gemv_f32(p, p, p, -1, 1, 1, 0) == -4
        assert self.lib.rb_gemv_f32(p, p, p, 1, -1, 1, 0) == -5
        assert self.lib.rb_gemv_f32(p, p, p, 1, 1, -1, 0) == -6
        assert self.lib.rb_gemm_f32(p, p, p, 2, 1, 1, 1, 3, 0) == -8

    def test_null_and_misaligned_pointers_name_their_argument(self):
        a = np.zeros(64, np.float32)
        p, null = self.pointer("float *", a), self.ffi.NULL
        odd = self.ffi.cast("float *", a.ctypes.data + 1)
        for i, arguments in enumerate(((null, p, p), (p, null, p), (p, p, null))):
            assert self.lib.rb_gemv_f32(*arguments, 1, 1, 1, 0) == -(i + 1)
        for i, arguments in enumerate(((odd, p, p), (p, odd, p), (p, p, odd))):
            assert self.lib.rb_gemv_f32(*arguments, 1, 1, 1, 0) == -(i + 1)

    def test_groups(self):
        a = np.zeros(256, np.uint32)
        x, w, s = (self.pointer(kind, a) for kind in ("uint16_t *", "uint32_t *", "uint8_t *"))
        assert self.lib.rb_gemv_int4(x, w, x, x, x, 1, 1, 63, 0) == -8
        assert self.lib.rb_gemv_mxfp4(x, w, s, x, 1, 1, 31, 0) == -7
        assert self.lib.rb_gemv_nvfp4(x, w, s, self.pointer("float *", a), x, 1, 1, 15, 0) == -8

    def test_indices_are_checked_before_anything_is_written(self):
        key = np.ones((2, 1, 8), np.uint16)
        cache = np.zeros((1, 4, 1, 8), np.uint16)
        slots = np.array([0, 4])
        pointers = [self.pointer("void *", a) for a in (key, key, cache, cache)]
        code = self.lib.rb_kv_append(*pointers, self.pointer("int64_t *", slots), 2, 1, 8, 1, 4, 2, 0)
        assert code == -5
        assert not cache.any()

    def test_every_launcher_refuses_null(self):
        """Each pointer in turn; sizes are 1, or a group, or 64."""
        from roofbench import sources

        memory = self.ffi.new("char[65536]")
        start = int(self.ffi.cast("uintptr_t", memory))
        aligned = -(-start // 64) * 64
        table = self.ffi.new("void *[4]", [self.ffi.cast("void *", aligned)] * 4)
        sizes = {"K": 64, "threads": 1, "itemsize": 2, "hnd": 0, "variant": 0, "n": 64}
        checked = 0
        for name, arguments in sources.build_ffi().prototypes().items():
            if name in ("rb_probe_variant", "rb_probe_launch", "rb_probe_clock", "rb_threads", "rb_probe_fma"):
                continue
            if name == "rb_probe_matrix":
                continue
            pointers = [i for i, (kind, _) in enumerate(arguments) if "*" in kind]
            for null in pointers:
                values = []
                for i, (kind, arg) in enumerate(arguments):
                    if "*" not in kind:
                        values.append(sizes.get(arg, 1))
                    elif i == null:
                        values.append(self.ffi.NULL)
                    else:
                        values.append(table if kind == "void *const *" else self.ffi.cast(kind, aligned))
                self.ffi.memmove(self.ffi.cast("char *", aligned), b"\0" * 4096, 4096)
                assert getattr(self.lib, name)(*values) == -(null + 1), (name, arguments[null][1])
                checked += 1
        assert checked > 100


@pytest.mark.parametrize("name", ["N", "num_tokens", "M"])
def test_negative_sizes_in_a_contract(name):
    dims = {**KV, "hnd": 0} if name == "num_tokens" else GEMV
    op = "kv_gather" if name == "num_tokens" else "gemv"
    with pytest.raises(ValueError, match=f"{name} = -1; it must be at least 0"):
        OPS[op].signature("bf16", {**dims, name: -1})
