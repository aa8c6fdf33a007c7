# SPDX-License-Identifier: MIT
"""Rows of Triton's kernels, measured on a device that is the host."""

import pytest
from fakes import FakeBench, FakeGpu

from roofbench.backends.base import Claim
from roofbench.backends.triton_ import Triton
from roofbench.engine import Rules
from roofbench.op import TYPES, Case
from roofbench.ops import OPS
from roofbench.rows import RowSpec

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
    assert row.kernel_sha256


def test_a_kernel_that_is_wrong_is_incorrect(bench, monkeypatch):
    from roofbench.backends import triton_

    module = triton_._module("gemv")
    right = module.gemv
    monkeypatch.setattr(module, "gemv", lambda x, w, y: right(x, w * 1.01, y))
    row = bench.measure(RowSpec(Case("gemv", "bf16", "test", {"M": 1, "N": 24, "K": 128}), "fake"), RULES)
    assert row.status == "INCORRECT"


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


def test_probes_have_variants_and_a_floor():
    backend = Triton(FakeGpu())
    for kind in ("read", "write", "copy", "triad", "fma", "matrix"):
        assert backend.probe_variants(kind, "f32")
    backend.floor()()
