# SPDX-License-Identifier: MIT
"""The result file: whole or not at all, strict, and never a number in place of nothing."""

import errno
import json
import math
import os

import msgspec
import pytest

from roofbench import results
from roofbench.results import SCHEMA, Look, Row, RowRival, RowRoof, RowTelemetry, Run


def run(**changes):
    row = Row(
        op="gemv",
        backend="cpu",
        format="int4",
        case="llama-3.1-8b/q+o/M1",
        dims={"M": 1, "N": 4096, "K": 4096},
        bytes=9453568,
        flops=33554432,
        median_s=2e-4,
        samples_s=[2e-4, 2.1e-4],
        n=2,
        roof=RowRoof(name="read", measured=40.0, ratio_ci95=(0.9, 1.0)),
        rivals=[RowRival(name="torch", median_s=4e-4, speedup=2.0)],
        status="OK",
    )
    head = {"created": "2026-01-01T00:00:00+00:00", "command": "roofbench bench", "suite": "quick", "seed": 0}
    return Run(**{**head, "device": {}, "environment": {}, "telemetry": {}, "rows": [row], **changes})


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "deep" / "run.json"
    results.save(run(), path)
    assert results.load(path) == run()
    assert [entry.name for entry in path.parent.iterdir()] == ["run.json"]


def test_every_key_of_the_schema_is_there(tmp_path):
    """Rows without numbers have all keys too, null."""
    path = tmp_path / "run.json"
    results.save(
        run(rows=[Row(op="gemv", backend="cpu", format="f32", case="c", dims={}, bytes=1, flops=1, status="ERROR")]),
        path,
    )
    (row,) = json.loads(path.read_text())["rows"]
    for key in (
        "schema op backend format case dims bytes flops gbps tflops median_s ci95_rel min_s p95_s n samples_s timer "
        "cache roof pct_spec pct_measured pct_clock clock_mhz bound rivals numerics status reason kernel_sha256"
    ).split():
        assert key in row
    assert row["roof"].keys() >= {"name", "spec", "measured", "clock"}
    assert row["gbps"] is row["median_s"] is row["numerics"] is None


def test_looks_at_a_device_are_read_back(tmp_path):
    path = tmp_path / "run.json"
    it = run(floors_s={"triton": 2e-6})
    look = Look(sm_clock_mhz=1980.0, power_w=612.3, temperature_c=54.0, throttle_reasons=["power cap"])
    it.rows[0].telemetry = RowTelemetry(before=Look(), during=look, after=look)
    it.rows[0].path = "unaligned"
    results.save(it, path)
    assert results.load(path) == it
    assert json.loads(path.read_text())["rows"][0]["telemetry"]["before"]["memory_clock_mhz"] is None


def test_a_field_that_is_not_known_may_be_a_later_version_s(tmp_path):
    path = tmp_path / "run.json"
    results.save(run(), path)
    path.write_text(path.read_text().replace('"path"', '"route"'))
    with pytest.raises(
        ValueError, match="unknown field `route`.*; if a later roofbench wrote it: pip install --upgrade"
    ):
        results.load(path)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_not_a_number_becomes_null(tmp_path, bad):
    path = tmp_path / "run.json"
    broken = run()
    broken.rows[0].gbps = bad
    results.save(broken, path)
    assert results.load(path).rows[0].gbps is None
    assert "NaN" not in path.read_text()
    assert "Infinity" not in path.read_text()


def test_a_later_schema_is_refused(tmp_path):
    path = tmp_path / "run.json"
    results.save(run(schema=SCHEMA + 1), path)
    with pytest.raises(ValueError, match=f"run.json has schema {SCHEMA + 1}; this roofbench reads up to {SCHEMA}: pip"):
        results.load(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "Input data was truncated"),
        ("{", "Input data was truncated"),
        ("[]", "Expected `object`, got `array`"),
        ('{"schema": "one"}', r"Expected `int`, got `str` - at `\$.schema`"),
        ("{}", "missing required field `schema`"),
        ('{"schema": 1}', "missing required field"),
        ("not json", "JSON is malformed"),
        ('{"schema": 1, "a": ' + "[" * 100_000, "not a roofbench result file: maximum recursion depth"),
        ('{"schema": 0, "created": ""}', r"Expected `int` >= 1 - at `\$.schema`"),
        ('{"schema": 1, "pytest": true}', "missing required field|unknown field"),
        ("\xff\xfe", "JSON is malformed|not a roofbench"),
    ],
)
def test_what_is_no_result_file_is_refused(tmp_path, text, says):
    path = tmp_path / "run.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=says) as caught:
        results.load(path)
    assert "run.json" in str(caught.value)


def test_wrong_types_and_unknown_fields_are_named(tmp_path):
    path = tmp_path / "run.json"
    results.save(run(), path)
    good = json.loads(path.read_text())
    for change, says in (
        (lambda d: d["rows"][0].update(median_s="fast"), r"got `str` - at `\$.rows\[0\].median_s`"),
        (lambda d: d["rows"][0].update(speed=3), "unknown field `speed`"),
        (lambda d: d["rows"][0].update(status="FINE"), "has status 'FINE'; known: OK NOISY"),
        (lambda d: d["rows"][0].pop("op"), "missing required field `op`"),
        (lambda d: d["rows"][0].update(median_s=0), r"Expected `float` > 0.0 - at `\$.rows\[0\].median_s`"),
        (
            lambda d: d["rows"][0].update(median_s=None),
            "run.json: row gemv-cpu-int4-.* is OK without a median or samples",
        ),
        (lambda d: d["rows"][0].update(samples_s=[], n=0), "row gemv-cpu-int4-.* is OK without a median or samples"),
        (lambda d: d["rows"][0].update(n=3), "row gemv-cpu-int4-.* has 2 samples; its n is 3"),
        (lambda d: d["rows"][0].update(samples_s=[1e-3, -1e-3]), r"> 0.0 - at `\$.rows\[0\].samples_s\[1\]`"),
        (lambda d: d["rows"][0].update(pct_measured=-1), r">= 0.0 - at `\$.rows\[0\].pct_measured`"),
        (lambda d: d["rows"][0].update(pct_spec=10**400), "out of range"),
        (lambda d: d["rows"][0]["rivals"][0].update(median_s=-1), r"> 0.0 - at `\$.rows\[0\].rivals\[0\].median_s`"),
        (lambda d: d["rows"].append(d["rows"][0]), "run.json: row gemv-cpu-int4-.* is there twice"),
    ):
        bad = json.loads(json.dumps(good))
        change(bad)
        path.write_text(json.dumps(bad))
        with pytest.raises(ValueError, match=says):
            results.load(path)


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(ValueError, match=r"none.json: No such file or directory"):
        results.load(tmp_path / "none.json")
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo"):
        with pytest.raises(ValueError, match=f"{path} is not a regular file"):
            results.load(path)


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    """The old file stands, no part of the new one is left, and the message says why."""
    path = tmp_path / "run.json"
    results.save(run(), path)
    before = path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(results.os, "fsync", full)
    with pytest.raises(ValueError, match=r"results cannot be written to .*run.json: No space left on device"):
        results.save(run(suite="standard"), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.json"]


def test_a_truly_full_disk():
    """/dev/full is a device on which every write fails."""
    import pathlib

    if not pathlib.Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    with pytest.raises(ValueError, match="results cannot be written to /dev/full"):
        results.save(run(), pathlib.Path("/dev/full/run.json"))


def test_an_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="results cannot be written to .*: (Not a directory|File exists)"):
        results.save(run(), tmp_path / "file" / "run.json")


def test_ids_tell_rows_apart():
    row = run().rows[0]
    assert row.id == "gemv-cpu-int4-llama-3.1-8b/q+o/M1-cold"
    assert row.key != msgspec.structs.replace(row, cache="warm").key
