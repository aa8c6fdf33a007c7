# SPDX-License-Identifier: MIT
"""Rows of Triton's kernels, measured on a device that is the host."""

import inspect

import numpy as np
import pytest
from fakes import FakeBench, FakeGpu
from support import SMALL

from roofbench import rivals, rows
from roofbench.backends import triton_
from roofbench.backends.base import Claim
from roofbench.backends.triton_ import Triton
from roofbench.engine import Rules
from roofbench.op import TYPES, Case
from roofbench.ops import OPS
from roofbench.ops.probe import KINDS
from roofbench.results import Look, RowTelemetry
from roofbench.rivals import MlxGpu
from roofbench.rows import RowSpec
from roofbench.trials import Stands

RULES = Rules(cap_s=0.5, min_s=0.005, warmup_s=0.005, min_samples=6)  # the interpreter is slow


class Ticking(FakeGpu):
    """Every launch takes a millisecond, a little more or less."""

    def graph(self, calls):
        replay = super().graph(calls)

        def ticking():
            replay()
            self.spend(1e-3 * len(calls))

        return ticking

    def seconds(self, call, spin_s):
        before = self.time
        call()
        self.spend(1e-6)
        return self.time - before


class Agreeing(Ticking):
    """Launches that are queued one by one take as long."""

    def seconds(self, call, spin_s):
        taken = super().seconds(call, spin_s)
        return taken if taken > 1e-4 else taken + 1e-3 * round((spin_s - 50e-6) / 20e-6)


KV = {"num_tokens": 20, "num_heads": 2, "head_size": 32, "num_blocks": 4, "block_size": 8}
CASES = [
    ("gemv", "bf16", {"M": 1, "N": 24, "K": 128}),
    ("gemv", "f16", {"M": 1, "N": 24, "K": 130}),
    ("gemv", "int4", {"M": 2, "N": 24, "K": 128}),
    ("gemv_moe", "mxfp4", {"M": 2, "N": 16, "K": 64, "E": 4, "top_k": 2, "x_slots": 1}),
    ("gemm", "f16", {"B": 1, "M": 5, "N": 24, "K": 64, "w_batch": 1}),
    ("kv_append", "fp8", KV),
    ("kv_gather", "bf16", {**KV, "hnd": 1}),
    ("kv_copy_blocks", "f32", {"num_layers": 2, "num_blocks": 6, "block_size": 4, "num_heads": 2, "head_size": 8,
                               "num_pairs": 3}),
]  # fmt: skip


@pytest.fixture(scope="module")
def bench():
    backend = Triton(Agreeing())
    backend.warmup_s = 0.005
    return FakeBench(backend, llc_bytes=64)


@pytest.mark.parametrize(("op", "format", "dims"), CASES)
def test_a_row_is_measured_and_checked(bench, op, format, dims):
    row = bench.measure(RowSpec(Case(op, format, "test", dims), "fake"), RULES)
    assert row.status in ("OK", "NOISY"), row.reason
    assert row.numerics.err_over_bound <= 1
    assert row.median_s == pytest.approx(1e-3, rel=0.1)
    assert row.timer == "CUDA graph"
    assert row.clock_mhz == 1500
    look = Look(
        sm_clock_mhz=1500, memory_clock_mhz=2600, power_w=350.5, temperature_c=61, throttle_reasons=["power cap"]
    )
    assert row.telemetry == RowTelemetry(before=look, during=look, after=look)
    assert row.path == ("unaligned" if dims.get("K", 0) % 16 else "vector")
    assert row.kernel_sha256


def test_a_kernel_that_is_wrong_is_incorrect(bench, monkeypatch):
    module = triton_._module("gemv")
    right = module.gemv
    monkeypatch.setattr(module, "gemv", lambda x, w, y: right(x, w * 1.01, y))
    row = bench.measure(RowSpec(Case("gemv", "bf16", "test", {"M": 1, "N": 24, "K": 128}), "fake"), RULES)
    assert row.status == "INCORRECT"


def test_mlx_is_timed_beside_a_kernel_by_its_own_clock(bench, monkeypatch):
    pytest.importorskip("mlx.core", reason="pip install 'mlx[cpu]'")

    class MlxHost(MlxGpu):
        device = "cpu"

    monkeypatch.setattr(rows, "RIVALS", {"fake": (MlxHost(),)})
    monkeypatch.setattr(rivals, "MLX_ROUNDS", 2048)  # its clock is too coarse for fewer of these
    row = bench.measure(RowSpec(Case("gemv", "bf16", "test", {"M": 1, "N": 24, "K": 128}), "fake"), RULES)
    (rival,) = row.rivals
    assert rival.name == "mlx"
    assert rival.reason is None
    assert 0 < rival.median_s < 1e-3 == pytest.approx(row.median_s, rel=0.1)


def test_claims_and_files_agree():
    backend = Triton(FakeGpu())
    for op, formats in TYPES.items():
        for format in formats:
            claim = backend.claim(op, format)
            if op == "gemv_moe" and format not in ("bf16", "int4", "mxfp4"):
                assert "gemv_moe is written for" in claim
                continue
            assert isinstance(claim, Claim), (op, format, claim)
            assert claim.source.stem == OPS[op].stem(format)


def test_every_kernel_has_configurations_to_sweep():
    """What a launch takes is what `pick_config` says for the same sizes."""
    backend = Triton(FakeGpu())
    for op, format in [(o, f) for o in OPS if o != "probe" for f in TYPES[o]]:
        dims = {**SMALL[op], "block_size": 16, "num_heads": 8, "head_size": 128}
        if isinstance(backend.claim(op, format), str):
            assert backend.ways(op, format, dims) is None
            continue
        ways, module = backend.ways(op, format, dims), triton_._module(backend._stem(op, format))
        assert ways.file == f"kernels/{backend._stem(op, format)}.py"
        assert ways.fields == module.Config._fields
        assert eval(ways.present, {"Config": module.Config}) == module.pick_config(**used(module, ways, format))
        assert ways.present not in ways.others
        for name, way in ways.others.items():
            assert backend._configs(op, format, dims)[way["variant"]] == eval(name, {"Config": module.Config})


def used(module, ways, format):
    """Arguments of `pick_config`, as a kernel's launcher gives them."""
    takes = inspect.signature(module.pick_config).parameters
    known = {"format": format, "chip": "sm_90", "w8a8": "w8a8" in format, "x_codes": "_w" in format, **ways.sizes}
    return {name: value for name, value in known.items() if name in takes}


@pytest.mark.parametrize(("op", "format"), [("gemv", "bf16"), ("gemm", "fp8"), ("kv_gather", "fp8")])
def test_configurations_are_tried_beside_the_present_one(bench, op, format):
    dims = {**SMALL[op], **({"M": 1, "N": 8, "K": 64} if op == "gemv" else {})}  # the interpreter is slow
    spec = RowSpec(Case(op, format, "test", dims), "fake")
    ways, stands = Stands(bench).ways(spec), Stands(bench)
    name, way = next(iter(ways.others.items()))
    trial = stands.trial(spec, name, way, RULES, False)
    assert trial.status in ("OK", "NOISY"), (name, trial.reason)
    assert trial.ratio == pytest.approx(1, rel=0.1)
    wrong = stands.trial(spec, "no such", {"variant": 9999}, RULES, False)
    assert (wrong.status, wrong.reason) == ("ERROR", "IndexError: list index out of range")


def test_probes_have_variants_and_a_floor():
    backend = Triton(FakeGpu())
    for kind in ("read", "write", "copy", "triad", "fma", "matrix"):
        assert backend.probe_variants(kind, "f32")
        for format in ("f16", "bf16", "fp8"):
            assert bool(backend.probe_variants(kind, format)) == (kind == "matrix")
    backend.floor()()


@pytest.mark.parametrize("format", TYPES["probe"])
def test_peaks_of_every_type_are_bound(format):
    backend, granule = Triton(FakeGpu()), triton_._module("probe").GRANULE
    dims = {"kind": KINDS.index("matrix"), "n": granule}
    for way in backend.probe_variants("matrix", format).values():
        launch = backend.bind("probe", format, {**dims, **way}, {"count": np.zeros(1, np.int64)})
        launch()
        assert launch.output("count").tolist() == [granule]
