# SPDX-License-Identifier: MIT
"""Kernels in tests/wrong/ must fail: the tests of the tests, and of the gate before timing."""

import math
from pathlib import Path

import numpy as np
import pytest
from support import SMALL, hazards, worst

from roofbench import sources
from roofbench.backends.cpu import Cpu
from roofbench.engine import Rules
from roofbench.hazards import KINDS, expected, inputs
from roofbench.op import Case
from roofbench.rows import Bench, RowSpec
from roofbench.worker import Worker

WRONG = Path(__file__).parent / "wrong"

# file -> op, format, whether hazards show it, and whether the gate of a timed row does, whose data are ordinary
FILES = {
    "bf16_sums": ("gemv", "bf16", True, True),
    "cached_answer": ("gemv", "f32", True, True),
    "drops_nan": ("gemv", "f32", True, False),
    "dropped_vector": ("gemv", "f32", True, True),
    "empty": ("gemv", "f32", True, True),
    "first_layer_only": ("kv_copy_blocks", "bf16", True, True),
    "forgets_values": ("kv_append", "bf16", True, True),
    "ignores_k_tail": ("gemv", "f32", True, False),
    "ignores_negative_slots": ("kv_append", "bf16", True, False),
    "leaves_padding": ("kv_gather", "bf16", True, False),
    "low_precision": ("gemv", "f32", True, True),
    "no_saturation": ("kv_append", "fp8", True, True),
    "one_scale_for_both": ("kv_append", "fp8", True, True),
    "one_wrong_column": ("gemv", "f32", True, True),
    "out_of_bounds": ("gemv", "f32", True, True),
    "swapped_nibbles": ("gemv", "int4", True, True),
    "ties_away": ("kv_append", "fp8", True, True),
    "truncates": ("gemv", "bf16", True, True),
    "unwritten_tail": ("gemv", "f32", True, True),
    "wrong_expert": ("gemv_moe", "f32", True, True),
    "wrong_group_scale": ("gemv", "int4", True, True),
    "wrong_last_stride": ("gemm", "f32", True, True),
    "zero": ("gemv", "f32", True, True),
    "asynchronous": ("gemv", "f32", False, None),
    "flushes_subnormals": ("gemv", "fp8", True, False),
    "modifies_weights": ("gemv", "f32", False, True),
    "races": ("gemv", "f32", True, True),
    "remembers_experts": ("gemv_moe", "f32", False, True),
    "remembers_slots": ("kv_append", "bf16", False, True),
    "repairs_poison": ("kv_gather", "bf16", False, True),
    "works_now_and_then": ("gemv", "f32", True, True),
    "writes_far": ("gemv", "f32", True, True),
    "writes_under_weights": ("gemv", "f32", False, True),
}

SIZES = {
    **SMALL,
    "gemv": {"M": 2, "N": 250, "K": 256},
    "gemv_moe": {"M": 2, "N": 40, "K": 128, "E": 8, "top_k": 2, "x_slots": 1},
    "gemm": {"B": 3, "M": 9, "N": 70, "K": 256, "w_batch": 3},
    "kv_append": {"num_tokens": 200, "num_heads": 2, "head_size": 32, "num_blocks": 40, "block_size": 8},
}
SIZES["kv_gather"] = {**SIZES["kv_append"], "hnd": 0}


def test_every_file_is_listed():
    assert {path.stem for path in WRONG.glob("*.c")} == FILES.keys()
    assert len(FILES) >= 12


@pytest.mark.parametrize("name", [name for name, (_, _, hazard, _) in FILES.items() if hazard])
def test_hazards_catch_it(name):
    """Some shape and some kind of data shows that it is wrong."""
    op, format, *_ = FILES[name]
    wrong, rng = Cpu(WRONG / f"{name}.c"), np.random.default_rng(0)
    errors = []
    for kind in KINDS:
        for dims in hazards(op, format):
            arrays = inputs(op, format, dims, rng, kind)
            known = expected(op, format, arrays, kind)
            for _ in range(2):  # some go wrong when they see a buffer again
                wrong.run(op, format, arrays)
                if "x" in arrays:
                    errors.append(worst(op, format, dims, arrays, known))
                    arrays["x"][...] = -arrays["x"]
                    known = expected(op, format, arrays, kind)
                else:
                    errors.append(worst(op, format, dims, arrays, known))
    assert max(errors) > 1


@pytest.mark.parametrize("name", [name for name, (*_, timed) in FILES.items() if timed])
def test_the_gate_of_a_row_catches_it(name):
    """No number is given for it, though it was never tried on hazards."""
    op, format, *_ = FILES[name]
    bench = Bench(None, llc_bytes=1 << 16, rivals=(), source=WRONG / f"{name}.c")
    bench._tried.add((op, format))
    bench.calibrate("cpu", kinds=())
    row = bench.measure(RowSpec(Case(op, format, name, SIZES[op]), "cpu"), Rules(cap_s=0.05, warmup_s=0))
    assert row.status == "INCORRECT", row.reason
    assert row.median_s is None
    assert row.samples_s == []
    assert row.reason


@pytest.mark.parametrize("name", [name for name, (*_, timed) in FILES.items() if timed is False])
def test_a_file_of_a_user_is_tried_on_hazards_first(name):
    op, format, *_ = FILES[name]
    bench = Bench(None, llc_bytes=1 << 16, rivals=(), source=WRONG / f"{name}.c")
    bench.calibrate("cpu", kinds=())
    row = bench.measure(RowSpec(Case(op, format, name, SIZES[op]), "cpu"), Rules(cap_s=0.05, warmup_s=0))
    assert row.status == "INCORRECT"
    assert " at " in row.reason


def test_work_that_goes_on_after_the_launch():
    """In a process of its own: its threads write into memory that is free by then."""
    op, format, *_ = FILES["asynchronous"]
    worker = Worker(None, 1 << 16, rivals=(), source=WRONG / "asynchronous.c")
    try:
        spec = RowSpec(Case(op, format, "asynchronous", SIZES[op]), "cpu")
        row = worker.measure(spec, Rules(cap_s=0.05), timeout_s=60)
    finally:
        worker.close()
    assert row.status in ("INCORRECT", "ERROR")
    assert row.median_s is None


def test_sizes_that_a_file_refuses_are_no_fault_of_it(tmp_path):
    """A kernel for whole vectors only, which says so."""
    path = tmp_path / "whole.c"
    path.write_text(
        "#include <stdint.h>\n"
        "int rb_gemv_f32(const float *x, const float *w, float *y, int64_t M, int64_t N, int64_t K, int threads) {\n"
        "  (void)threads;\n"
        "  if (K % 64) return -6;\n"
        "  for (int64_t i = 0; i < M * N; i++) {\n"
        "    y[i] = 0;\n"
        "    for (int64_t k = 0; k < K; k++) y[i] += x[i / N * K + k] * w[i % N * K + k];\n"
        "  }\n"
        "  return 0;\n}\n"
    )
    bench = Bench(None, llc_bytes=1 << 16, rivals=(), source=path)
    bench.calibrate("cpu", kinds=())
    rules = Rules(cap_s=0.05, warmup_s=0)
    row = bench.measure(RowSpec(Case("gemv", "f32", "whole", SIZES["gemv"]), "cpu"), rules)
    assert row.status in ("OK", "NOISY"), row.reason
    row = bench.measure(RowSpec(Case("gemv", "f32", "odd", {"M": 1, "N": 8, "K": 65}), "cpu"), rules)
    assert (row.status, row.reason) == ("ERROR", "ValueError: rb_gemv_f32 refuses K = 65")


@pytest.mark.parametrize(
    ("code", "status", "says"),
    [
        (1, "ERROR", "out of memory"),
        (2, "UNSUPPORTED", "rb_gemv_f32: this processor cannot run it"),
        (7, "ERROR", "rb_gemv_f32 returned 7, which means nothing"),
        (-99, "ERROR", "rb_gemv_f32 returned -99, which means nothing"),
        (-1, "ERROR", "ValueError: rb_gemv_f32 refuses x"),
    ],
)
def test_codes_of_a_launcher(tmp_path, code, status, says):
    path = tmp_path / "code.c"
    path.write_text(
        "#include <stdint.h>\n"
        "int rb_gemv_f32(const float *x, const float *w, float *y, int64_t M, int64_t N, int64_t K, int threads) {\n"
        f"  (void)x, (void)w, (void)y, (void)M, (void)N, (void)K, (void)threads;\n  return {code};\n}}\n"
    )
    bench = Bench(None, llc_bytes=1 << 16, rivals=(), source=path)
    bench._tried.add(("gemv", "f32"))
    bench.calibrate("cpu", kinds=())
    row = bench.measure(RowSpec(Case("gemv", "f32", "code", SIZES["gemv"]), "cpu"), Rules(cap_s=0.05))
    assert row.status == status
    assert says in row.reason


def test_the_same_harness_passes_what_is_right():
    for op, format in {(op, format) for op, format, *_ in FILES.values()}:
        bench = Bench(None, llc_bytes=1 << 16, rivals=())
        bench.calibrate("cpu", kinds=())
        row = bench.measure(RowSpec(Case(op, format, "right", SIZES[op]), "cpu"), Rules(cap_s=0.05, warmup_s=0))
        assert row.status in ("OK", "NOISY"), (op, format, row.reason)
        assert math.isfinite(row.numerics.err_over_bound)


def test_a_file_that_does_not_compile(tmp_path):
    path = tmp_path / "broken.c"
    path.write_text("int rb_gemv_f32( {\n")
    with pytest.raises(ValueError, match=r"broken.c does not compile:\n.*broken.c:1"):
        sources.compile_c(path, tmp_path / "out.so")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"gone.c: No such file or directory"):
        sources.compile_c(tmp_path / "gone.c", tmp_path / "out.so")


def test_a_launcher_with_another_signature_does_not_compile(tmp_path):
    """The header is included by force: a drifted prototype is an error, not a crash."""
    path = tmp_path / "drifted.c"
    path.write_text("#include <stdint.h>\nint rb_gemv_f32(const float *x, int64_t M) { return x[M] > 0; }\n")
    with pytest.raises(ValueError, match="conflicting types for"):
        sources.compile_c(path, tmp_path / "out.so")


def test_no_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", "/nowhere/cc")
    path = tmp_path / "fine.c"
    path.write_text("int rb_threads(void) { return 1; }\n")
    with pytest.raises(ValueError, match="no C compiler: /nowhere/cc"):
        sources.compile_c(path, tmp_path / "out.so")
