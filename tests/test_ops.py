# SPDX-License-Identifier: MIT
"""Contracts: sizes and traffic against numbers worked out by hand, problems that keep their promises."""

import numpy as np
import pytest
from support import CPU, every_format, hazards, limit, small

from roofbench.hazards import inputs
from roofbench.models import Layer, model_of, models
from roofbench.numerics import Exact, guards_intact
from roofbench.op import SUITES, TYPES, Case, Traffic, instances_for
from roofbench.ops import OPS, op_of
from roofbench.ops._product import WARM_PAIRS, chosen
from roofbench.ops.probe import KINDS, PEAKS, kind_of, probes

GEMV = {"M": 1, "N": 4096, "K": 4096}
KV = {"num_tokens": 4096, "num_heads": 8, "head_size": 128, "num_blocks": 288, "block_size": 16}


@pytest.mark.parametrize(
    ("op", "format", "dims", "read", "write"),
    [
        # x and w in bf16, y in bf16
        ("gemv", "bf16", GEMV, 2 * 4096 + 2 * 4096 * 4096, 2 * 4096),
        ("gemv", "f32", GEMV, 4 * 4096 + 4 * 4096 * 4096, 4 * 4096),
        # half a byte per code, 4 bytes per 64 weights of scale and bias
        ("gemv", "int4", GEMV, 2 * 4096 + 4096 * 4096 // 2 + 4096 * 64 * 4, 2 * 4096),
        ("gemv", "int8", GEMV, 2 * 4096 + 4096 * 4096 + 4096 * 64 * 4, 2 * 4096),
        ("gemv", "fp8", GEMV, 2 * 4096 + 4096 * 4096 + 4 * 4096, 2 * 4096),
        ("gemv", "mxfp4", GEMV, 2 * 4096 + 4096 * 4096 // 2 + 4096 * 128, 2 * 4096),
        ("gemv", "mxfp8", GEMV, 2 * 4096 + 4096 * 4096 + 4096 * 128, 2 * 4096),
        ("gemv", "nvfp4", GEMV, 2 * 4096 + 4096 * 4096 // 2 + 4096 * 256 + 4, 2 * 4096),
        # 8 of 128 experts, 4 bytes per id
        (
            "gemv_moe",
            "bf16",
            {"M": 1, "N": 768, "K": 2048, "E": 128, "top_k": 8, "x_slots": 1},
            2 * 2048 + 8 * 2 * 768 * 2048 + 4 * 8,
            2 * 8 * 768,
        ),
        # 16 tokens of 8 experts cannot visit more than there are
        (
            "gemv_moe",
            "bf16",
            {"M": 32, "N": 768, "K": 2048, "E": 128, "top_k": 8, "x_slots": 8},
            2 * 32 * 8 * 2048 + 128 * 2 * 768 * 2048 + 4 * 32 * 8,
            2 * 32 * 8 * 768,
        ),
        (
            "gemm",
            "bf16",
            {"B": 4, "M": 512, "N": 1024, "K": 4096, "w_batch": 1},
            2 * 4 * 512 * 4096 + 2 * 1024 * 4096,
            2 * 4 * 512 * 1024,
        ),
        (
            "gemm",
            "fp8_w8a8",
            {"B": 2, "M": 8, "N": 64, "K": 128, "w_batch": 2},
            2 * 8 * 128 + 4 * 2 * 8 + 2 * 64 * 128 + 4 * 2 * 64,
            2 * 2 * 8 * 64,
        ),
        # key and value, 1024 elements a token, 8 bytes of slot
        ("kv_append", "bf16", KV, 2 * 4096 * 2048 + 8 * 4096, 2 * 4096 * 2048),
        ("kv_append", "fp8", KV, 2 * 4096 * 2048 + 8 * 4096 + 8, 2 * 4096 * 1024),
        ("kv_gather", "bf16", {**KV, "hnd": 1}, 2 * 4096 * 2048 + 8 * 4096, 2 * 4096 * 2048),
        ("kv_gather", "fp8", {**KV, "hnd": 0}, 2 * 4096 * 2048 + 8 * 4096 + 8, 2 * 4096 * 1024),
        (
            "kv_copy_blocks",
            "bf16",
            {
                "num_layers": 32,
                "num_blocks": 576,
                "block_size": 16,
                "num_heads": 8,
                "head_size": 128,
                "num_pairs": 256,
            },
            32 * 2 * 256 * 16 * 2048 + 16 * 256,
            32 * 2 * 256 * 16 * 2048,
        ),
    ],
)
def test_traffic(op, format, dims, read, write):
    assert OPS[op].traffic(Case(op, format, "", dims)) == Traffic(read, write)


@pytest.mark.parametrize(
    ("op", "dims", "flops"),
    [
        ("gemv", {"M": 3, "N": 5, "K": 64}, 2 * 3 * 5 * 64),
        ("gemv_moe", {"M": 3, "N": 5, "K": 64, "E": 8, "top_k": 2, "x_slots": 1}, 2 * 3 * 2 * 5 * 64),
        ("gemm", {"B": 2, "M": 3, "N": 5, "K": 64, "w_batch": 1}, 2 * 2 * 3 * 5 * 64),
        ("kv_append", KV, 0),
    ],
)
def test_flops(op, dims, flops):
    assert OPS[op].flops(Case(op, "bf16", "", dims)) == flops


@pytest.mark.parametrize(
    ("read", "write", "mix"), [(100, 1, "read"), (2, 1, "triad"), (1, 1, "copy"), (0, 1, "write"), (51, 49, "copy")]
)
def test_the_roof_has_the_mix_of_the_row(read, write, mix):
    assert Traffic(read, write).mix == mix


def test_fp8_copies_are_set_against_the_triad():
    """They read two bytes for each that they write."""
    assert OPS["kv_append"].traffic(Case("kv_append", "fp8", "", KV)).mix == "triad"
    assert OPS["kv_append"].traffic(Case("kv_append", "bf16", "", KV)).mix == "copy"


@pytest.mark.parametrize(("touched", "cold", "count"), [(10, 5, 1), (10, 10, 1), (10, 11, 3), (10, 100, 11), (0, 9, 1)])
def test_buffers_to_rotate(touched, cold, count):
    """One if it overflows the caches by itself, else as many as do, and one more."""
    assert instances_for(touched, cold) == count


def test_peaks_need_no_memory():
    """They touch none, so that no number of them would overflow a cache."""
    (peak,) = (case for case in probes(1 << 20, 1 << 20) if case.name == "fma")
    assert OPS["probe"].footprint(peak, 1 << 30) == 8


@pytest.mark.parametrize(("op", "format"), every_format())
def test_problem(op, format):
    """Buffers differ in place and contents, and each launch on one gives what it expects, unlike the one before."""
    case, contract, rng = small(op, format), OPS[op], np.random.default_rng(0)
    problem = contract.problem(case, 3, 3 * contract.traffic(case).bytes + 1)
    outputs = [name for name, arg in contract.signature(format, case.dims).items() if arg.role != "in"]
    assert len(problem) >= 4
    for name in outputs:
        places = [instance.arrays[name].ctypes.data for instance in problem]
        assert len(set(places)) == len(places)
    results, bound = set(), limit(op, format, case.dims)
    for instance in problem:
        for _ in range(4):
            load(instance, rng)
            CPU.run(op, format, instance.arrays)
            for name, expected in instance.expect().items():
                array = instance.arrays[name]
                assert expected.error(array, bound) <= 1
                where = rng.integers(0, array.size, 100)
                assert expected.error_at(array.reshape(-1)[where], where, bound) <= 1
                assert guards_intact(array)
            results.add(b"".join(instance.arrays[name].tobytes() for name in outputs))
    assert len(results) == len(problem) * 4


def load(instance, rng):
    for name, array in instance.draw(rng).items():
        instance.arrays[name][...] = array


@pytest.mark.parametrize(("op", "format"), every_format())
def test_the_result_of_another_launch_is_wrong(op, format):
    """As a whole and, but for luck, in the elements that are compared after every launch."""
    case, contract, rng = small(op, format), OPS[op], np.random.default_rng(0)
    instance, bound = contract.problem(case, 3, 1)[0], limit(op, format, case.dims)
    noticed = 0
    for _ in range(20):
        load(instance, rng)
        CPU.run(op, format, instance.arrays)
        instance.draw(rng)
        spots, expected = instance.spots(rng), instance.expect()
        assert max(what.error(instance.arrays[name], bound) for name, what in expected.items()) > 1
        noticed += any(
            expected[name].error_at(instance.arrays[name].reshape(-1)[where], where, bound) > 1
            for name, where in spots.items()
        )
    assert noticed >= 10


@pytest.mark.parametrize(("op", "format"), every_format())
def test_a_spoilt_output_is_wrong_until_the_next_launch(op, format):
    case, contract, rng = small(op, format), OPS[op], np.random.default_rng(0)
    instance, bound = contract.problem(case, 4, 0)[0], limit(op, format, case.dims)
    launch = CPU.bind(op, format, case.dims, instance.arrays)

    def worst():
        return max(what.error(instance.arrays[name], bound) for name, what in instance.expect().items())

    for _ in range(20):
        load(instance, rng)
        spots, expected = instance.spots(rng), instance.expect()
        for name, where in spots.items():
            launch.spoil(name, where)
            assert expected[name].error_at(launch.peek(name, where), where, bound) > 1
        assert worst() > 1
        launch()
        assert worst() <= 1
        for name, where in spots.items():
            assert expected[name].error_at(launch.peek(name, where), where, bound) <= 1


@pytest.mark.parametrize("format", ["f32", "bf16", "int4", "fp8_w8a8", "mxfp8_w8a8", "mxfp4_w4a4", "nvfp4_w4a4"])
def test_a_large_product_is_sampled(format):
    """Right passes; a wrong column or row fails, in full or at the spots, wherever it is."""
    dims = {"B": 2, "M": 130, "N": 2048, "K": 2048, "w_batch": 1}
    case, rng = Case("gemm", format, "test", dims), np.random.default_rng(0)
    instance, bound = OPS["gemm"].problem(case, 5, 1)[0], limit("gemm", format, dims)
    load(instance, rng)
    CPU.run("gemm", format, instance.arrays)
    y, known = instance.arrays["y"], instance.expect()["y"]
    assert known.error(y, bound) <= 1
    spots = instance.spots(rng)["y"]
    assert known.error_at(y.reshape(-1)[spots], spots, bound) <= 1
    for change in (lambda y: y[1, :, 77], lambda y: y[0, 129, :], lambda y: y[1, 64:, 1024:]):
        wrong = y.copy()
        change(wrong)[...] *= -1
        assert known.error(wrong, bound) > 1
    assert known.error_at(-y.reshape(-1)[spots], spots, bound) > 1


def test_a_warm_row_has_many_pairs_of_x_and_y_on_one_w():
    """Short launches share a sample, and none may find its own inputs of before."""
    problem = OPS["gemv"].problem(small("gemv", "int4"), 0, 0)
    assert len({instance.arrays["y"].ctypes.data for instance in problem}) == WARM_PAIRS
    assert len({instance.arrays["w"].ctypes.data for instance in problem}) == 1


def test_experts_rotate_before_weights_are_copied():
    """Cold decode of a mixture touches other experts of one w; a second w is made when all are used."""
    case = Case("gemv_moe", "bf16", "", {"M": 1, "N": 64, "K": 64, "E": 8, "top_k": 2, "x_slots": 1})
    touched = OPS["gemv_moe"].traffic(case).bytes
    problem = OPS["gemv_moe"].problem(case, 0, 5 * touched)
    weights = [instance.arrays["w"].ctypes.data for instance in problem]
    assert len(problem) == 6
    assert len(set(weights)) == 2
    first = np.concatenate([instance.arrays["expert_ids"][0] for instance in problem[:4]])
    assert sorted(first) == list(range(8))


@pytest.mark.parametrize("suite", SUITES)
def test_cases_are_real_layers(suite):
    for model in models().values():
        layers = {(layer.N, layer.K) for layer in model.matrices()}
        for op in OPS.values():
            for case in op.cases(model, suite):
                assert case.op == op.name
                assert case.format in TYPES[op.name]
                assert case.name.startswith(f"{model.id}/")
                if "K" in case.dims:
                    assert (case.dims["N"], case.dims["K"]) in layers
                op.signature(case.format, case.dims)


def test_full_suite_has_every_layer_of_llama_8b():
    names = {case.name for case in OPS["gemv"].cases(model_of("llama-3.1-8b"), "full")}
    layers = ("q+o", "k+v", "gate+up", "down", "lm_head")
    assert names == {f"llama-3.1-8b/{layer}/M{m}" for layer in layers for m in (1, 2, 4, 8, 16)}


def test_suites_choose_layers_by_any_of_their_names():
    """Layers of one shape are one case, whichever they are in a model."""
    table = {"k": (1,), "q": (1, 8)}
    assert chosen(table, Layer("q+k+v+o", 64, 64, 1)) == (1, 8)
    assert chosen(table, Layer("k+v", 64, 64, 1)) == (1,)
    assert chosen(table, Layer("kv_a", 64, 64, 1)) == ()


def test_standard_suite_has_large_weights_in_every_format():
    """What is to be judged cold needs 64 MB and more."""
    for format in OPS["gemv"].formats:
        sizes = [
            OPS["gemv"].traffic(case).read
            for case in OPS["gemv"].cases(model_of("llama-3.1-8b"), "standard")
            if case.format == format and case.dims["M"] == 1
        ]
        assert max(sizes) >= 64e6


def test_kv_cases_are_4k_and_32k():
    dims = [case.dims for case in OPS["kv_append"].cases(model_of("llama-3.1-70b"), "full")]
    assert {d["num_tokens"] for d in dims} == {4096, 32768}
    assert {(d["num_heads"], d["head_size"]) for d in dims} == {(8, 128)}


@pytest.mark.parametrize("cold", [0, 160 << 20, 4 << 30])
def test_probes(cold):
    kinds = []
    for case in probes(*CPU.probe_sizes(cold)):
        kinds.append(kind_of(case))
        traffic, contract = OPS["probe"].traffic(case), OPS["probe"]
        if kind_of(case) in PEAKS:
            assert contract.flops(case) == 2 * case.dims["n"] > 1e9
            assert case.name == (kinds[-1] if case.format == "f32" else f"{kinds[-1]}_{case.format}")
        else:
            assert traffic.mix == case.name
            assert 30e6 < traffic.bytes < 600e6
    assert tuple(dict.fromkeys(kinds)) == KINDS
    assert kinds.count("matrix") == len(TYPES["probe"]) == len(kinds) - 5


def test_references_do_not_depend_on_backends():
    """What a copy must give is worked out by indexing alone."""
    arrays = inputs("kv_gather", "bf16", {**KV, "num_tokens": 5, "num_blocks": 2, "hnd": 0}, np.random.default_rng(1))
    arrays["slot_mapping"][...] = [3, -1, 0, 31, 3]
    known = OPS["kv_gather"].reference("bf16", arrays)["key"]
    assert isinstance(known, Exact)
    cache = arrays["key_cache"].reshape(32, 8, 128)
    assert (known.value[0].view(np.uint16) == cache[3].view(np.uint16)).all()
    assert not known.value[1].any()
    assert (known.value[3].view(np.uint16) == cache[31].view(np.uint16)).all()


def test_every_op_has_hazards():
    for op, format in every_format():
        assert len(list(hazards(op, format))) >= 4


def test_unknown_names():
    with pytest.raises(ValueError, match="unknown op 'conv'; known: probe gemv"):
        op_of("conv")
    with pytest.raises(ValueError, match="format 'q4_0' is unknown to gemv; known: f32 f16"):
        OPS["gemv"].types("q4_0")
