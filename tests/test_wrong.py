# SPDX-License-Identifier: MIT
"""Kernels in tests/wrong/ must fail: the tests of the tests, and of the gate before timing."""

import math
from pathlib import Path

import numpy as np
import pytest
from support import KINDS, expected, hazards, inputs, worst

from roofbench import sources
from roofbench.backends.cpu import Cpu
from roofbench.engine import Rules
from roofbench.op import Case
from roofbench.rows import Bench, RowSpec

WRONG = Path(__file__).parent / "wrong"

# file -> op, format, whether the gate of a timed row sees it: its data are ordinary
FILES = {
    "bf16_sums": ("gemv", "bf16", True),
    "cached_answer": ("gemv", "f32", True),
    "drops_nan": ("gemv", "f32", False),
    "dropped_vector": ("gemv", "f32", True),
    "empty": ("gemv", "f32", True),
    "first_layer_only": ("kv_copy_blocks", "bf16", True),
    "forgets_values": ("kv_append", "bf16", True),
    "ignores_k_tail": ("gemv", "f32", False),
    "ignores_negative_slots": ("kv_append", "bf16", False),
    "leaves_padding": ("kv_gather", "bf16", False),
    "low_precision": ("gemv", "f32", True),
    "no_saturation": ("kv_append", "fp8", True),
    "one_scale_for_both": ("kv_append", "fp8", True),
    "one_wrong_column": ("gemv", "f32", True),
    "out_of_bounds": ("gemv", "f32", True),
    "swapped_nibbles": ("gemv", "int4", True),
    "ties_away": ("kv_append", "fp8", True),
    "truncates": ("gemv", "bf16", True),
    "unwritten_tail": ("gemv", "f32", True),
    "wrong_expert": ("gemv_moe", "f32", True),
    "wrong_group_scale": ("gemv", "int4", True),
    "wrong_last_stride": ("gemm", "f32", True),
    "zero": ("gemv", "f32", True),
}

SIZES = {
    "gemv": {"M": 2, "N": 250, "K": 256},
    "gemv_moe": {"M": 2, "N": 40, "K": 128, "E": 8, "top_k": 2, "x_slots": 1},
    "gemm": {"B": 3, "M": 9, "N": 70, "K": 256, "w_batch": 3},
    "kv_append": {"num_tokens": 200, "num_heads": 2, "head_size": 32, "num_blocks": 40, "block_size": 8},
    "kv_copy_blocks": {
        "num_layers": 3,
        "num_blocks": 10,
        "block_size": 4,
        "num_heads": 2,
        "head_size": 16,
        "num_pairs": 4,
    },
}
SIZES["kv_gather"] = {**SIZES["kv_append"], "hnd": 0}


def test_every_file_is_listed():
    assert {path.stem for path in WRONG.glob("*.c")} == FILES.keys()
    assert len(FILES) >= 12


@pytest.mark.parametrize("name", FILES)
def test_hazards_catch_it(name):
    """Some shape and some kind of data shows that it is wrong."""
    op, format, _ = FILES[name]
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
    """No number is given for it."""
    op, format, _ = FILES[name]
    bench = Bench(None, llc_bytes=1 << 16, rivals=(), source=WRONG / f"{name}.c")
    bench.calibrate("cpu", kinds=())
    row = bench.measure(RowSpec(Case(op, format, name, SIZES[op]), "cpu"), Rules(cap_s=0.05, warmup_s=0))
    assert row.status == "INCORRECT", row.reason
    assert row.median_s is None
    assert row.samples_s == []
    assert row.reason


def test_the_same_harness_passes_what_is_right():
    for op, format, _ in set(FILES.values()):
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
    with pytest.raises(ValueError, match="no C compiler: /nowhere/cc is not there; "):
        sources.compile_c(path, tmp_path / "out.so")
