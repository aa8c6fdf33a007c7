# SPDX-License-Identifier: MIT
"""Rivals do the same work on the same buffers, say what they lack, and are left out where they are wrong."""

import importlib.util
import sys

import numpy as np
import pytest
from support import every_format, hazards

from roofbench import rivals, rows
from roofbench.backends import backend_of
from roofbench.engine import Rules
from roofbench.hazards import inputs
from roofbench.numerics import to_f64
from roofbench.op import Case
from roofbench.ops import OPS
from roofbench.rivals import RIVALS, Bound, Memcpy, MlxCpu, Rival, TorchCpu

FLOATS = ("f32", "f16", "bf16")
SERVED = {  # rival -> op -> formats
    "torch": {
        "gemv": (*FLOATS, "int4"),
        "gemv_moe": FLOATS,
        "gemm": (*FLOATS, "int4"),
        "kv_append": FLOATS,
        "kv_gather": FLOATS,
    },
    "mlx": dict.fromkeys(("gemv", "gemm"), (*FLOATS, "int8", "int4", "mxfp8", "mxfp4")),
    "memcpy": {"kv_append": FLOATS, "kv_gather": FLOATS},
}
KV = {"num_tokens": 20, "num_heads": 2, "head_size": 32, "num_blocks": 4, "block_size": 8}
SIZES = {  # N is a multiple of 16, for torch's int4
    "gemv": ({"M": 1, "N": 80, "K": 256}, {"M": 3, "N": 80, "K": 256}),
    "gemv_moe": (
        {"M": 2, "N": 20, "K": 128, "E": 8, "top_k": 2, "x_slots": 1},
        {"M": 2, "N": 20, "K": 128, "E": 8, "top_k": 2, "x_slots": 2},
    ),
    "gemm": tuple({"B": b, "M": 9, "N": 80, "K": 256, "w_batch": w} for b, w in ((1, 1), (2, 1), (2, 2))),
    "kv_append": (KV,),
    "kv_gather": ({**KV, "hnd": 0}, {**KV, "hnd": 1}),
}
CPU_RIVALS = {rival.name: rival for rival in (TorchCpu(), MlxCpu(), Memcpy())}


def served():
    """(rival, op, format, dims) of everything that a CPU rival is to do."""
    for name, ops in SERVED.items():
        for op, formats in ops.items():
            for dims in SIZES[op]:
                if dims.get("w_batch", 1) > 1 and name == "mlx":
                    continue
                if dims.get("hnd") and name == "torch":
                    continue
                for format in formats:
                    if dims.get("w_batch", 1) == 1 or format in FLOATS:
                        yield name, op, format, dims


def installed(name):
    rival = CPU_RIVALS[name]
    if rival.missing():
        pytest.skip(f"{name} is not installed: {rival.missing()}")
    return rival


def made(op, format, dims, seed=0):
    """Arrays of a call without padding slots, which no suite has."""
    arrays = inputs(op, format, dims, np.random.default_rng(seed))
    if "slot_mapping" in arrays:
        slots = dims["num_blocks"] * dims["block_size"]
        arrays["slot_mapping"][...] = np.random.default_rng(seed + 100).permutation(slots)[: dims["num_tokens"]]
    return arrays


def reference(op, format, dims, arrays):
    """Outputs of the contract's reference, in arrays of their own."""
    arrays = {name: array.copy() for name, array in arrays.items()}
    backend_of("numpy").bind(op, format, dims, arrays)()
    return {name: arrays[name] for name, arg in OPS[op].signature(format, dims).items() if arg.role in ("out", "inout")}


def error(outputs, known):
    """Largest difference of an output, root mean square, in that of what it should be."""
    worst = 0.0
    for name, array in outputs.items():
        right = to_f64(known[name])
        difference = to_f64(array).reshape(right.shape) - right
        worst = max(worst, float(np.sqrt(np.square(difference).mean() / np.square(right).mean())))
    return worst


def launched(rival, op, format, dims, buffers):
    """Bound to the buffers and launched on each; what they hold is unchanged."""
    before = [{name: array.tobytes() for name, array in arrays.items()} for arrays in buffers]
    bound = rival.bind(Case(op, format, "test", dims), buffers)
    assert len(bound) == len(buffers)
    for one in bound:
        one.call()
    assert before == [{name: array.tobytes() for name, array in arrays.items()} for arrays in buffers]
    return bound


def expected_of(name, op, format, dims, buffers, i):
    """What a rival's launch i must give. torch's int4 packs the weights of the first buffer for all of them."""
    arrays = buffers[i]
    if name == "torch" and format == "int4":
        arrays = {key: array if key in ("x", "y") else buffers[0][key] for key, array in arrays.items()}
    return reference(op, format, dims, arrays)


def test_every_rival_of_cores_is_here():
    assert CPU_RIVALS.keys() == SERVED.keys()


@pytest.mark.parametrize(("name", "op", "format", "dims"), list(served()))
def test_each_launch_gives_the_result_of_its_own_buffer(name, op, format, dims):
    rival = installed(name)
    buffers = [made(op, format, dims, seed) for seed in range(3)]
    bound = launched(rival, op, format, dims, buffers)
    if name == "memcpy":
        assert [one.outputs() for one in bound] == [{}] * 3
        return
    known = [expected_of(name, op, format, dims, buffers, i) for i in range(3)]
    for i, one in enumerate(bound):
        outputs = one.outputs()
        assert outputs.keys() == known[i].keys()
        for j in range(3):
            assert (error(outputs, known[j]) <= 0.1) == (i == j)
        assert not any(np.shares_memory(out, mine) for out in outputs.values() for mine in buffers[i].values())


@pytest.mark.parametrize(("name", "op", "format", "dims"), [one for one in served() if one[1] in ("gemv", "gemm")])
def test_activations_that_change_after_binding(name, op, format, dims):
    """torch shares our inputs and finds the new ones; MLX keeps those that it copied."""
    rival = installed(name)
    arrays = made(op, format, dims)
    (bound,) = launched(rival, op, format, dims, [arrays])
    old = reference(op, format, dims, arrays)
    arrays["x"][...] = made(op, format, dims, 1)["x"]
    new = reference(op, format, dims, arrays)
    bound.call()
    assert error(bound.outputs(), old if name == "mlx" else new) <= 0.1
    assert error(bound.outputs(), new if name == "mlx" else old) > 0.1


@pytest.mark.parametrize("op", ["gemv", "gemm"])
def test_torch_int4_reads_other_weights_at_each_launch(op):
    """They hold the same, but lie in memory of their own: else the rival would be timed on a warm cache."""
    rival, dims = installed("torch"), SIZES[op][0]
    from torch.utils._python_dispatch import TorchDispatchMode

    places = []

    class Spy(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if "int4pack" in str(func):
                places.append([arg.data_ptr() for arg in args if hasattr(arg, "data_ptr")])
            return func(*args, **(kwargs or {}))

    bound = rival.bind(Case(op, "int4", "test", dims), [made(op, "int4", dims, seed) for seed in range(3)])
    with Spy():
        for one in bound:
            one.call()
    assert len(places) == 3
    for pointers in zip(*places, strict=True):  # x, weights, scales
        assert len(set(pointers)) == 3


@pytest.mark.parametrize("name", SERVED)
def test_what_a_rival_does_not_serve_it_leaves_out(name):
    rival = installed(name)
    for op, format in every_format():
        if format not in SERVED[name].get(op, ()):
            for dims in SIZES.get(op, ()):
                assert rival.bind(Case(op, format, "test", dims), [made(op, format, dims)]) == []
    if name == "torch":
        dims = SIZES["kv_gather"][1]
        assert rival.bind(Case("kv_gather", "bf16", "test", dims), [made("kv_gather", "bf16", dims)]) == []
    if name == "mlx":
        dims = SIZES["gemm"][2]
        assert rival.bind(Case("gemm", "bf16", "test", dims), [made("gemm", "bf16", dims)]) == []


@pytest.mark.parametrize("name", SERVED)
@pytest.mark.parametrize(("op", "format"), every_format())
def test_sizes_that_a_rival_cannot_serve_do_not_stop_a_row(name, op, format):
    """Edges of every kind: bound or left out, never an exception; what is bound is right."""
    rival = installed(name)
    for dims in hazards(op, format):
        arrays = inputs(op, format, dims, np.random.default_rng(2))
        bound = rival.bind(Case(op, format, "test", dims), [arrays])
        if 0 in (size for key, size in dims.items() if key != "hnd"):
            assert bound == []
        elif "x" in arrays and bound:
            bound[0].call()
            assert error(bound[0].outputs(), reference(op, format, dims, arrays)) <= 0.1, dims


def test_torch_int4_needs_16_outputs_at_a_time():
    rival = installed("torch")
    for n in (1, 8, 24, 70, 16, 48):
        dims = {"M": 2, "N": n, "K": 128}
        bound = rival.bind(Case("gemv", "int4", "test", dims), [made("gemv", "int4", dims)])
        assert len(bound) == (n % 16 == 0)


@pytest.mark.parametrize("op", ["kv_append", "kv_gather"])
@pytest.mark.parametrize("format", FLOATS)
def test_memcpy_copies_every_byte_that_the_op_reads(op, format, monkeypatch):
    dims = SIZES[op][0]
    case, buffers = Case(op, format, "test", dims), [made(op, format, dims, seed) for seed in range(3)]
    bound = Memcpy().bind(case, buffers)
    copies, copyto = [], np.copyto
    monkeypatch.setattr(np, "copyto", lambda dst, src: (copies.append((dst, src)), copyto(dst, src)))
    for arrays, one in zip(buffers, bound, strict=True):
        copies.clear()
        one.call()
        moved = OPS[op].traffic(case).read - arrays["slot_mapping"].nbytes
        assert sum(src.nbytes for _, src in copies) == moved
        names = ("key", "value") if op == "kv_append" else ("key_cache", "value_cache")
        for name, (dst, src) in zip(names, copies, strict=True):
            assert np.shares_memory(src, arrays[name])
            assert not any(np.shares_memory(dst, array) for array in arrays.values())
            assert dst.tobytes() == src.tobytes()


def test_memcpy_of_a_cache_that_is_smaller_than_what_is_gathered():
    """Slots are read twice then, and there is no run of memory of that many bytes."""
    dims = {**KV, "hnd": 0}
    arrays = made("kv_gather", "bf16", dims)
    arrays |= {name: arrays[name][:2] for name in ("key_cache", "value_cache")}
    arrays["slot_mapping"] %= 16
    assert Memcpy().bind(Case("kv_gather", "bf16", "test", {**dims, "num_blocks": 2}), [arrays]) == []


@pytest.mark.parametrize(("device", "rival"), [(d, r) for d, group in RIVALS.items() for r in group])
def test_a_missing_rival_names_its_install_line(device, rival, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert rival.missing() == rival.install
    assert rival.name == "memcpy" or "pip install" in rival.install


def test_an_installed_rival_is_not_missing():
    assert CPU_RIVALS["memcpy"].missing() is None


def test_mlx_without_its_library_is_missing(monkeypatch):
    """On Linux `pip install mlx` alone gives a package that cannot be imported."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    rival, dims = MlxCpu(), SIZES["gemv"][0]
    assert rival.missing() == rival.install
    assert rival.bind(Case("gemv", "f32", "test", dims), [made("gemv", "f32", dims)]) == []


def test_an_mlx_that_is_too_old_for_a_format_is_left_out(monkeypatch):
    rival, dims = installed("mlx"), SIZES["gemv"][0]
    import mlx.core as mx

    def old(x, w, /, scales, biases=None, transpose=True, group_size=64, bits=4, *, stream=None):
        raise AssertionError

    monkeypatch.setattr(mx, "quantized_matmul", old)
    for format in ("int4", "mxfp4"):
        assert rival.bind(Case("gemv", format, "test", dims), [made("gemv", format, dims)]) == []
    assert rival.bind(Case("gemv", "f32", "test", dims), [made("gemv", "f32", dims)])


def test_mlx_launches_that_would_take_too_long_are_left_out(monkeypatch):
    rival, dims = installed("mlx"), {"M": 32, "N": 128, "K": 64}
    arrays = [made("gemv", "f32", dims)]
    for seconds, count in ((0.4, 1), (0.6, 0)):  # of a quarter
        monkeypatch.setattr(rivals, "_seconds", lambda call, seconds=seconds: (call(), seconds)[1])
        assert len(rival.bind(Case("gemv", "f32", "test", dims), arrays)) == count


class Lazy(Rival):
    """Claims what another does, and does nothing."""

    name = "lazy"
    module = "numpy"
    install = ""

    def bind(self, case, buffers):
        arrays = buffers[0]
        known = {name: np.zeros_like(arrays[name]) for name in ("key_cache", "value_cache", "y") if name in arrays}
        return [Bound(lambda: None, lambda: known) for _ in buffers]


class Diligent(Lazy):
    """Does what the reference does."""

    name = "diligent"

    def bind(self, case, buffers):
        def bound(arrays):
            known = {}
            return Bound(lambda: known.update(reference(case.op, case.format, case.dims, arrays)), lambda: known)

        return [bound(arrays) for arrays in buffers]


@pytest.mark.parametrize("op", ["kv_append", "gemv"])
def test_a_rival_that_is_wrong_gets_no_time(op, monkeypatch):
    """Through a real row: it says why, and a rival that is right is timed beside it."""
    monkeypatch.setattr(rows, "RIVALS", {"cpu": (Lazy(), Diligent())})
    bench = rows.Bench(None, llc_bytes=1 << 14)
    bench.calibrate("cpu", kinds=())
    row = bench.measure(rows.RowSpec(Case(op, "bf16", "test", SIZES[op][0]), "cpu"), Rules(cap_s=0.05, warmup_s=0))
    found = {rival.name: rival for rival in row.rivals}
    assert row.status in ("OK", "NOISY"), row.reason
    assert found["lazy"].reason == "its result is wrong"
    assert found["lazy"].median_s is None
    assert found["diligent"].reason is None
    assert found["diligent"].median_s > 0


def test_an_append_that_was_not_launched_is_wrong():
    """torch starts from a copy of a cache that our launch has filled already: its slots are cleared."""
    rival, arrays = installed("torch"), made("kv_append", "bf16", KV)
    arrays |= reference("kv_append", "bf16", KV, arrays)
    (bound,) = rival.bind(Case("kv_append", "bf16", "test", KV), [arrays])
    assert error(bound.outputs(), arrays) > 0.1
    bound.call()
    assert error(bound.outputs(), arrays) == 0
