# SPDX-License-Identifier: MIT
"""The result file: one versioned schema for every device. Times in seconds, rates in GB/s and TFLOP/s."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import msgspec

SCHEMA = 1

STATUSES = ("OK", "NOISY", "SUSPECT", "INCORRECT", "THROTTLED", "UNSUPPORTED", "ERROR")
FAILURES = ("SUSPECT", "INCORRECT", "ERROR")  # a run with one of these exits non-zero
COUNTED = ("OK", "NOISY")  # in summaries


class RowRoof(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A row's ceilings in its unit: the vendor's, this unit's measured beside the row, the vendor's at the
    clock held. `ratio_ci95` is the interval of the row's share of the measured roof, paired by round."""

    name: str | None = None
    spec: float | None = None
    measured: float | None = None
    clock: float | None = None
    ratio_ci95: tuple[float, float] | None = None


class RowRival(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Another implementation, interleaved with the row. speedup = its median / ours."""

    name: str
    median_s: float | None = None
    speedup: float | None = None
    reason: str | None = None


class RowNumerics(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Largest error over its bound, of all checks; at most 1 passes."""

    err_over_bound: float


class Row(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One op x case x format x backend x cache state. What could not be measured is null, never 0 or NaN."""

    schema: int = SCHEMA
    op: str
    backend: str
    format: str
    case: str
    dims: dict[str, int]
    bytes: int
    flops: int
    gbps: float | None = None
    tflops: float | None = None
    median_s: float | None = None
    ci95_rel: float | None = None
    min_s: float | None = None
    p95_s: float | None = None
    n: int = 0
    samples_s: list[float] = []
    timer: str | None = None
    cache: str = "cold"
    roof: RowRoof = msgspec.field(default_factory=RowRoof)
    pct_spec: float | None = None
    pct_measured: float | None = None
    pct_clock: float | None = None
    clock_mhz: float | None = None
    bound: str | None = None
    rivals: list[RowRival] = []
    numerics: RowNumerics | None = None
    status: str
    reason: str | None = None
    kernel_sha256: str | None = None
    floor_s: float | None = None
    launches_per_sample: int | None = None
    samples_per_turn: int | None = None
    buffers: int | None = None

    @property
    def id(self) -> str:
        """As pytest shows it: ``gemv-cpu-f16-llama-3.1-8b/q+o/M1-cold``."""
        return f"{self.op}-{self.backend}-{self.format}-{self.case}-{self.cache}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        out: dict[str, Any] = msgspec.to_builtins(self)
        return out

    @property
    def key(self) -> tuple[str, ...]:
        """What tells rows of one run apart."""
        return (self.op, self.backend, self.format, self.case, self.cache)


class RoofVariant(msgspec.Struct, frozen=True):
    """One way to run a probe: bytes/s or FLOP/s, and whether it is the roof."""

    name: str
    rate: float
    best: bool


class RunRoof(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A probe, as calibrated before the rows."""

    backend: str
    name: str
    variants: list[RoofVariant]


class Run(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One file: rows, and all that is needed to judge or repeat them."""

    schema: int = SCHEMA
    created: str
    finished: bool = False
    command: str
    suite: str
    seed: int
    rivals: list[str] | None = None
    source: str | None = None
    device: dict[str, Any]
    environment: dict[str, Any]
    telemetry: dict[str, Any]
    roofs: list[RunRoof] = []
    missing: dict[str, str] = {}
    rows: list[Row] = []


class _Header(msgspec.Struct):
    schema: int


def save(run: Run, path: Path) -> None:
    """Write the file whole or not at all.

    Raises:
        ValueError: the file cannot be written; says why.
    """
    text = msgspec.json.format(msgspec.json.encode(run), indent=1)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise ValueError(f"results cannot be written to {path}: {error.strerror}") from None


def load(path: Path) -> Run:
    """Read and check a result file.

    Raises:
        ValueError: unreadable, not JSON, not of this schema, or of a later one.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    try:
        schema = msgspec.json.decode(text, type=_Header).schema
        if schema > SCHEMA:
            raise ValueError(
                f"{path} has schema {schema}; this roofbench reads up to {SCHEMA}: pip install --upgrade roofbench"
            )
        run = msgspec.json.decode(text, type=Run)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a roofbench result file: {error}") from None
    for row in run.rows:
        if row.status not in STATUSES:
            raise ValueError(f"{path}: row {row.id} has status {row.status!r}; known: {' '.join(STATUSES)}")
    return run
