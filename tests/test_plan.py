# SPDX-License-Identifier: MIT
"""Which rows a person's words give, and what is said of words that give none."""

import math
from pathlib import Path

import pytest

from roofbench.backends import BACKENDS, backend_of
from roofbench.op import SUITES
from roofbench.plan import Options, plan
from roofbench.rows import RowSpec


def test_quick_has_every_op_and_every_format():
    specs = plan(Options())
    assert {spec.case.op for spec in specs} == {
        "probe",
        "gemv",
        "gemv_moe",
        "gemm",
        "kv_append",
        "kv_gather",
        "kv_copy_blocks",
    }
    formats = {spec.case.format for spec in specs if spec.case.op == "gemv"}
    assert formats == {"f32", "f16", "bf16", "fp8", "int8", "int4", "mxfp8", "mxfp4", "nvfp4"}


def test_rows_are_distinct():
    for suite in SUITES:
        keys = [spec.blank().key for spec in plan(Options(suite=suite))]
        assert len(keys) == len(set(keys))


def test_warm_rows_stand_beside_their_cold_ones():
    specs = plan(Options())
    warm = [spec for spec in specs if spec.cache == "warm"]
    assert warm
    assert all(RowSpec(spec.case, spec.backend, "cold") in specs for spec in warm)


def test_what_no_cache_holds_has_no_warm_row(monkeypatch):
    monkeypatch.setattr(type(backend_of("cpu")), "last_level_cache", lambda *_: 4 << 20)
    warm = [spec for spec in plan(Options(suite="standard")) if spec.cache == "warm"]
    assert {spec.case.format for spec in warm} == {"int4"}  # 2.4 of 33.6, 16.8 and 2.4 MB


@pytest.mark.parametrize(
    ("options", "check"),
    [
        (Options(ops=("gemm",)), lambda s: s.case.op == "gemm"),
        (Options(formats=("int4",)), lambda s: s.case.format == "int4"),
        (Options(models=("qwen3-32b",), ops=("gemv",)), lambda s: s.case.name.startswith("qwen3-32b/")),
        (Options(backends=("numpy",), ops=("gemv",)), lambda s: s.backend == "numpy"),
        (Options(ops=("probe",), formats=("f32",)), lambda s: s.case.op == "probe"),
    ],
)
def test_filters(options, check):
    specs = plan(options)
    assert specs
    assert all(check(spec) for spec in specs)


def test_the_reference_is_not_measured_unasked():
    assert {spec.backend for spec in plan(Options())} == {b.name for b in BACKENDS if b.default and not b.missing()}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"suite": "slow"}, "unknown suite 'slow'; known: quick standard full"),
        ({"models": ("gpt-5",)}, "unknown model 'gpt-5'"),
        ({"ops": ("conv",)}, "unknown op 'conv'"),
        ({"formats": ("int3",)}, "unknown format 'int3'"),
        ({"backends": ("opencl",)}, "unknown backend 'opencl'; known: triton cuda cpu numpy"),
        ({"device": "gtx-480"}, "unknown device 'gtx-480'"),
        ({"rivals": ("blis",)}, "unknown rival 'blis'"),
        ({"seed": -1}, "--seed -1 must be from 0 to"),
        ({"seconds": 0.0}, "--seconds 0 must be a positive number"),
        ({"seconds": math.nan}, "--seconds nan must be a positive number"),
        ({"seconds": math.inf}, "--seconds inf must be a positive number"),
        ({"seed": 2**63}, "--seed 9223372036854775808 must be from 0 to"),
        ({"source": Path("my.cu")}, "my.cu: only .c files can be measured by this version"),
        ({"source": Path("my.C")}, "my.C: only .c files can be measured by this version"),
        ({"source": Path("a.c"), "backends": ("numpy",)}, "--source a.c: --backend numpy cannot measure it, only cpu"),
    ],
)
def test_unknown_names(options, says):
    with pytest.raises(ValueError, match=says):
        Options(**options)


def test_nothing_left():
    with pytest.raises(ValueError, match="nothing to measure"):
        plan(Options(ops=("gemm",), formats=("mxfp8",)))


def test_a_backend_that_cannot_run_says_why(monkeypatch):
    monkeypatch.setattr(type(backend_of("cpu")), "missing", lambda _: "no compiler: apt install gcc")
    with pytest.raises(ValueError, match="backend cpu: no compiler: apt install gcc"):
        plan(Options(backends=("cpu",)))


def test_reasons_of_backends_that_cannot_run_are_given_where_nothing_is_left(monkeypatch):
    monkeypatch.setattr(type(backend_of("cpu")), "missing", lambda _: "no compiler: apt install gcc")
    with pytest.raises(ValueError, match="nothing to measure: .*; backend cpu: no compiler: apt install gcc"):
        plan(Options())


def test_probes_are_planned_where_the_backend_has_variants(monkeypatch):
    monkeypatch.setattr(
        type(backend_of("cpu")), "probe_variants", lambda _, kind, *more: {"v": {}} if kind == "copy" else {}
    )
    assert [spec.case.name for spec in plan(Options(ops=("probe",)))] == ["copy"]


def test_formats_leave_probes_of_others_out():
    assert all(spec.case.op != "probe" for spec in plan(Options(formats=("int4",))))


def test_a_model_that_is_named_twice_is_measured_once():
    once = plan(Options(models=("llama-3.1-8b",), ops=("gemm",)))
    assert plan(Options(models=("llama-3.1-8b",) * 2, ops=("gemm",))) == once


def test_of_a_file_what_it_serves():
    specs = plan(Options(source=Path("my.c")), [("gemv", "bf16")])
    assert specs
    assert {(spec.case.op, spec.case.format) for spec in specs} == {("gemv", "bf16")}


def test_a_file_that_serves_nothing():
    says = "my.c defines none of the launchers of cpu_kernels.h: rb_gemv_f32, .*rb_kv_copy_blocks$"
    with pytest.raises(ValueError, match=says) as caught:
        plan(Options(source=Path("my.c")))
    assert "probe" not in str(caught.value)


def test_a_file_that_serves_other_ops_than_asked():
    with pytest.raises(ValueError, match="nothing to measure: .*; my.c has gemv bf16, gemv f32"):
        plan(Options(source=Path("my.c"), ops=("gemm",)), [("gemv", "bf16"), ("gemv", "f32")])
