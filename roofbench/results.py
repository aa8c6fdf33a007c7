# SPDX-License-Identifier: MIT
"""The result file: one versioned schema for every device. Times in seconds, rates in GB/s and TFLOP/s."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Annotated, Any

import msgspec

SCHEMA = 1

Positive = Annotated[float, msgspec.Meta(gt=0)]  # JSON has no infinity
Share = Annotated[float, msgspec.Meta(ge=0)]
Count = Annotated[int, msgspec.Meta(ge=0)]

STATUSES = ("OK", "NOISY", "SUSPECT", "INCORRECT", "THROTTLED", "UNSUPPORTED", "ERROR")
FAILURES = ("SUSPECT", "INCORRECT", "ERROR")  # a run with one of these exits non-zero
COUNTED = ("OK", "NOISY")  # in summaries


class RowRoof(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A row's ceilings in its unit: the vendor's, this unit's measured beside the row, the vendor's at the
    clock held. `ratio_ci95` is the interval of the row's share of the measured roof, paired by round."""

    name: str | None = None
    spec: Positive | None = None
    measured: Positive | None = None
    clock: Positive | None = None
    ratio_ci95: tuple[Share, Share] | None = None


class RowRival(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Another implementation, interleaved with the row. speedup = its median / ours."""

    name: str
    median_s: Positive | None = None
    speedup: Positive | None = None
    reason: str | None = None


class RowNumerics(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Largest error over its bound, of all checks; at most 1 passes."""

    err_over_bound: Share


class Look(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a GPU's driver said. Reasons are what kept its clock from being higher; none is an empty list."""

    sm_clock_mhz: Positive | None = None
    memory_clock_mhz: Positive | None = None
    power_w: Positive | None = None
    temperature_c: Positive | None = None
    throttle_reasons: list[str] | None = None


class RowTelemetry(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Looks at the device: before the row, the medians and all reasons of its rounds, and after it."""

    before: Look
    during: Look
    after: Look


class Row(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One op x case x format x backend x cache state. What could not be measured is null, never 0 or NaN."""

    schema: Annotated[int, msgspec.Meta(ge=1)] = SCHEMA
    op: str
    backend: str
    format: str
    case: str
    dims: dict[str, int]
    bytes: Count
    flops: Count
    gbps: Positive | None = None
    tflops: Positive | None = None
    median_s: Positive | None = None
    ci95_rel: Share | None = None
    min_s: Positive | None = None
    p95_s: Positive | None = None
    n: Count = 0
    samples_s: list[Positive] = []
    timer: str | None = None
    cache: str = "cold"
    roof: RowRoof = msgspec.field(default_factory=RowRoof)
    pct_spec: Share | None = None
    pct_measured: Share | None = None
    pct_clock: Share | None = None
    clock_mhz: Positive | None = None
    bound: str | None = None
    rivals: list[RowRival] = []
    numerics: RowNumerics | None = None
    status: str
    reason: str | None = None
    kernel_sha256: str | None = None
    floor_s: Share | None = None
    first_launch_s: Share | None = None
    warmup_s: Share | None = None
    launches_per_sample: Count | None = None
    samples_per_turn: Count | None = None
    buffers: Count | None = None
    telemetry: RowTelemetry | None = None
    path: str | None = None

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
    rate: Positive
    best: bool


class RunRoof(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A probe, as calibrated before the rows; variants that failed have their reasons."""

    backend: str
    name: str
    variants: list[RoofVariant]
    failed: dict[str, str] = {}


class Run(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One file: rows, and all that is needed to judge or repeat them."""

    schema: Annotated[int, msgspec.Meta(ge=1)] = SCHEMA
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
    floors_s: dict[str, Share] = {}
    missing: dict[str, str] = {}
    rows: list[Row] = []


class _Header(msgspec.Struct):
    schema: int


def save(run: msgspec.Struct, path: Path) -> None:
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
        if path.exists() and not path.is_file():
            raise ValueError(f"{path} is not a regular file")
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
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        hint = (
            "; if a later roofbench wrote it: pip install --upgrade roofbench" if "unknown field" in str(error) else ""
        )
        raise ValueError(f"{path} is not a roofbench result file: {error}{hint}") from None
    seen = set()
    for row in run.rows:
        wrong = _contradiction(row)
        if row.key in seen:
            wrong = "is there twice"
        if wrong:
            raise ValueError(f"{path}: row {row.id} {wrong}")
        seen.add(row.key)
    return run


def _contradiction(row: Row) -> str | None:
    """What cannot be true of a row, though each of its fields could."""
    if row.status not in STATUSES:
        return f"has status {row.status!r}; known: {' '.join(STATUSES)}"
    if row.n != len(row.samples_s):
        return f"has {len(row.samples_s)} samples; its n is {row.n}"
    if row.status in COUNTED and (row.median_s is None or not row.n):
        return f"is {row.status} without a median or samples"
    return None
