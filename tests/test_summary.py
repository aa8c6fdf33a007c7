# SPDX-License-Identifier: MIT
"""Table and sentences."""

from io import StringIO

import pytest
from rich.console import Console

from roofbench import engine, summary
from roofbench.engine import Lane, Rules
from roofbench.results import RoofVariant, Row, RowRival, RowRoof, Run, RunRoof


def row(**changes):
    base = {"op": "gemv", "backend": "cpu", "format": "f32", "case": "m/l/M1", "dims": {}, "bytes": 1, "flops": 1}
    return Row(**{**base, "status": "OK", "gbps": 40.0, "median_s": 1e-3, "bound": "bandwidth", **changes})


def run(rows, load=0.0, roofs=()):
    return Run(
        created="2026-01-01T00:00:00+00:00",
        command="roofbench bench",
        suite="quick",
        seed=0,
        device={},
        environment={"cores": 2, "threads": 2, "isa": "x86-64-v4"},
        telemetry={"before": {"busy_share": load}},
        roofs=list(roofs),
        rows=rows,
    )


def shown(rows, width=140, **changes):
    file = StringIO()
    summary.show(run(rows, **changes), Console(file=file, width=width, highlight=False, markup=False))
    return file.getvalue()


def roof(name, *rates):
    return RunRoof(backend="cpu", name=name, variants=[RoofVariant(f"v{i}", r, False) for i, r in enumerate(rates)])


ROOFS = [roof("read", 30e9, 44e9), roof("write", 20e9), roof("copy", 35e9), roof("fma", 1e9), roof("matrix", 489e9)]
MACHINE = (
    "This machine: reads 44 GB/s, writes 20 GB/s, copies 35 GB/s, 489 GFLOP/s of f32 multiply-adds; "
    "2 threads, x86-64-v4."
)


def test_nothing_left_to_gain():
    (line,) = summary.sentences([row(pct_measured=96.2)])
    assert line == "gemv: 96 % of the measured roof: nothing left to gain."


def test_where_most_can_be_gained():
    rows = [row(pct_measured=50.0, format="int4"), row(pct_measured=90.0), row(pct_measured=70.0, format="fp8")]
    (line,) = summary.sentences(rows)
    assert line.startswith("gemv: 70 % of the measured roof (median of 3 rows, 50 to 90): up to 1.4 × left to gain")
    assert line.endswith("most in int4 m/l/M1.")


def test_sentences_name_the_backend_where_there_are_several():
    rows = [row(pct_measured=90.0), row(pct_measured=50.0, backend="numpy")]
    ours, theirs = summary.sentences(rows)
    assert ours.startswith("CPU cores, gemv: 90 %")
    assert theirs.startswith("NumPy reference, gemv: 50 %")


@pytest.mark.parametrize("status", ["SUSPECT", "INCORRECT", "THROTTLED", "ERROR", "UNSUPPORTED"])
def test_only_good_rows_count(status):
    rows = [row(pct_measured=90.0), row(pct_measured=400.0, status=status, reason="because")]
    assert "90 % of the measured roof:" in summary.sentences(rows)[0]
    assert any(line.endswith(": because") for line in summary.remarks(rows))


def test_rows_with_one_reason_are_one_remark():
    rows = [row(status="UNSUPPORTED", reason="left out", case=f"m/l/M{i}") for i in range(9)]
    assert summary.remarks(rows) == ["UNSUPPORTED gemv-cpu-f32-m/l/M0-cold and 8 more: left out"]


def judged(turns, *, per_turn=10, samples=None, short=False, **rules):
    """What the engine says of a kernel with such turns."""
    lane = Lane("kernel", [])
    lane.turns = turns
    lane.samples = samples or [turn for turn in turns for _ in range(per_turn)]
    lane.short = short
    return engine._judge(lane, Rules(cap_s=1.0, **rules), throttled=False)


@pytest.mark.parametrize(
    ("says", "kind", "lane"),
    [
        ("samples fitted", "had too few samples", {"turns": [1.0] * 6, "per_turn": 1}),
        ("turns fitted", "had too few turns", {"turns": [1.0] * 5}),
        ("bimodal", "had two speeds", {"turns": [1.0] * 8, "samples": [1.0, 1.2] * 20}),
        ("drifts", "drifted", {"turns": [1.0] * 10 + [1.03] * 10}),
        ("interval", "varied by more than 0.5 %", {"turns": [1.0, 1.02, 0.98, 1.01, 0.99, 1.0]}),
        ("too short", "were too short for the clock", {"turns": [1.0] * 6, "short": True}),
    ],
)
def test_every_reason_of_the_engine_has_its_kind(says, kind, lane):
    status, reason = judged(**lane)
    assert status == "NOISY"
    assert says in reason
    assert summary.remarks([row(status=status, reason=reason)])[0].startswith(f"NOISY rows: 1 {kind}.")


def test_a_table_shows_dashes_for_what_is_not_known():
    out = shown([row(gbps=None, median_s=None, status="ERROR", reason="no"), row()])
    assert "CPU cores" in out
    assert " - " in out
    assert "nan" not in out.lower()
    assert "None" not in out


def test_columns_that_no_row_fills_are_left_out_where_space_is_short():
    rows = [row(pct_measured=90.0), row(case="m/l/M2")]
    for width in (60, 70):
        out = shown(rows, width)
        assert "% roof" in out
        assert not any(name in out for name in ("backend", "% spec", "% clock", "× rival"))
    assert "% spec" in shown([*rows, row(case="m/l/M4", pct_spec=50.0)], 60)
    assert all(name in shown(rows) for name in ("backend", "% spec", "% roof", "% clock", "× rival"))


def test_numbers_are_as_people_write_them():
    rows = [
        row(
            median_s=1234.5e-6,
            pct_spec=12.34,
            pct_measured=98.76,
            pct_clock=100.0,
            roof=RowRoof(name="read"),
            rivals=[RowRival(name="torch", median_s=2e-3, speedup=1.62)],
        ),
        row(op="gemm", bound="compute", tflops=0.456, gbps=1.0),
        row(op="gemm", bound="compute", tflops=123.4),
    ]
    out = shown(rows)
    for text in ("1234", "40 GB/s", "12.3", "98.8", "100", "1.62 torch", "456 GFLOP/s", "123 TFLOP/s"):
        assert text in out


def test_the_fastest_rival_is_shown():
    rivals = [RowRival(name="slow", speedup=9.0), RowRival(name="fast", speedup=0.5), RowRival(name="none")]
    assert summary._rival(row(rivals=rivals)) == "0.5 fast"


def test_rows_that_are_not_wide_are_marked():
    rows = [row(path="vector"), row(path="unaligned", case="m/l/M2"), row(path="unaligned", case="m/l/M3"), row()]
    out = shown(rows)
    assert [line.split()[-1] for line in out.splitlines() if line.startswith("gemv  ")] == ["OK", "OK*", "OK*", "OK"]
    line = "* unaligned: gemv-cpu-f32-m/l/M2-cold and 1 more: its sizes or addresses allow no wide loads and stores."
    assert line in out
    assert "unaligned" not in shown([row(path="vector"), row()])


def test_peaks_of_types_and_an_empty_launch():
    roofs = [*ROOFS, roof("matrix_bf16", 2e12), roof("matrix_fp8", 4.4e12)]
    it = run([row()], roofs=roofs)
    it.floors_s = {"cpu": 3.21e-6, "numpy": 0.0}
    (line,) = summary.machine(it)
    assert "489 GFLOP/s of f32 multiply-adds, 2 TFLOP/s of bf16, 4.4 TFLOP/s of fp8; 2 threads" in line
    assert line.endswith("x86-64-v4; an empty launch takes 3.2 µs.")


def test_variants_of_probes_that_failed_are_told_of():
    broken = roof("copy", 35e9)
    broken.failed = {"wide": "RuntimeError: out of resource", "wider": "RuntimeError: no"}
    lost = roof("triad")
    lost.failed = {"wide": "RuntimeError: no"}
    lines = summary.machine(run([row()], roofs=[broken, lost]))
    assert lines[0].startswith("This machine: copies 35 GB/s; ")
    assert lines[1:] == [
        "2 of 3 variants of the probe copy failed: RuntimeError: out of resource",
        "1 of 1 variants of the probe triad failed: RuntimeError: no",
    ]


def test_what_the_machine_can_do_comes_first():
    assert summary.machine(run([row()], roofs=ROOFS)) == [MACHINE]
    out = shown([row(pct_measured=50.0)], roofs=ROOFS)
    assert out.index("This machine: ") < out.index("gemv: 50 %")


def test_a_machine_without_probes_says_nothing():
    assert summary.machine(run([row()])) == []
    several = run([row(), row(backend="numpy")], roofs=ROOFS)
    assert summary.machine(several)[0].startswith("CPU cores: reads 44 GB/s")


def test_a_busy_machine_is_told_again():
    says = "The machine is busy: others use 52% of its cores; results will be off."
    assert says in shown([row()], load=0.52)
    assert "busy" not in shown([row()], load=0.05)


LONG = [
    row(
        op="kv_copy_blocks" if i else "gemv_moe",
        case="qwen3-30b-a3b/experts_gate+up/M1",
        cache="warm" if i else "cold",
        format="bf16",
        pct_measured=80.0 - i,
        rivals=[RowRival(name="memcpy", speedup=1.04)],
    )
    for i in range(3)
]


@pytest.mark.parametrize("width", [80, 120, 200])
def test_nothing_is_cut_and_lines_break_between_words(width):
    bad = row(status="ERROR", reason="the process was killed by SIGSEGV " * 5)
    lines = shown([*LONG, bad], width, roofs=ROOFS, load=0.52).splitlines()
    assert all(len(line) <= width for line in lines)
    assert "…" not in "".join(lines)
    words = " ".join(lines).split()
    assert words.count("SIGSEGV") == 5
    assert MACHINE in " ".join(" ".join(lines).split())


def test_one_table_at_120_columns_groups_at_80():
    assert len([line for line in shown(LONG, 120).splitlines() if line.startswith("op ")]) == 1
    assert not [line for line in shown(LONG, 80).splitlines() if line.startswith("op ")]
    assert "gemv_moe qwen3-30b-a3b/experts_gate+up/M1" in shown(LONG, 80)
