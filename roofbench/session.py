# SPDX-License-Identifier: MIT
"""One run: which rows, in which order, within which time, and the file that keeps them."""

from __future__ import annotations

import datetime as dt
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import filelock

from roofbench import devices, environment, results, sources, telemetry
from roofbench.backends import BACKENDS, backend_of
from roofbench.backends.base import Backend, Claim
from roofbench.backends.cpu import Cpu
from roofbench.devices import Device, Found
from roofbench.engine import Rules
from roofbench.models import model_of
from roofbench.op import SUITES, Case, Suite
from roofbench.ops import OPS, op_of
from roofbench.ops.probe import probes
from roofbench.results import Row, Run
from roofbench.rivals import RIVALS
from roofbench.rows import COLD_FACTOR, RowSpec
from roofbench.worker import Worker, WorkerError

LOCK = Path("/tmp/roofbench.lock")  # noqa: S108 - one for all users of the machine
SAVING = 0.05  # of a run at most is spent on writing its file
SETUP_S = 120.0  # what a row may take beside its cap before it counts as hung


@dataclass(frozen=True, slots=True)
class Options:
    """What a person asked for; empty is everything that the suite has.

    Raises:
        ValueError: a name is unknown.
    """

    suite: str = "quick"
    models: tuple[str, ...] = ()
    ops: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    device: str | None = None
    rivals: tuple[str, ...] | None = None
    source: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.suite not in SUITES:
            raise ValueError(f"unknown suite {self.suite!r}; known: {' '.join(SUITES)}")
        for model in self.models:
            model_of(model)
        for op in self.ops:
            op_of(op)
        known = {format for op in OPS.values() for format in op.formats}
        for format in self.formats:
            if format not in known:
                raise ValueError(f"unknown format {format!r}; known: {' '.join(sorted(known))}")
        for backend in self.backends:
            backend_of(backend)
        if self.device is not None:
            devices.device_of(self.device)
        rivals = {rival.name for group in RIVALS.values() for rival in group}
        for name in self.rivals or ():
            if name not in rivals:
                raise ValueError(f"unknown rival {name!r}; known: {' '.join(sorted(rivals))}")


def plan(options: Options) -> list[RowSpec]:
    """Every row of a run, the backend that best uses the machine first; unserved formats included.

    Raises:
        ValueError: a backend that was asked for cannot run; or nothing is left.
    """
    suite = SUITES[options.suite]
    rows = []
    for backend in BACKENDS:
        if options.source:
            if backend.name != "cpu":
                continue
        elif options.backends:
            if backend.name not in options.backends:
                continue
            reason = backend.missing()
            if reason:
                raise ValueError(f"backend {backend.name}: {reason}")
        elif not backend.default or backend.missing():
            continue
        own = Cpu(options.source) if options.source else None
        device = devices.device_of(options.device) if options.device else current_device()
        cache_bytes = backend.last_level_cache(device)
        for case in _cases(options, suite, backend, cache_bytes):
            if own and (case.op == "probe" or isinstance(own.claim(case.op, case.format), str)):
                continue  # of the user's file, what it defines
            rows.append(RowSpec(case, backend.name))
            contract = op_of(case.op)
            if contract.warm(case) and contract.traffic(case).bytes <= cache_bytes:
                rows.append(RowSpec(case, backend.name, "warm"))
    if not rows:
        raise ValueError("nothing to measure: no row of the suite matches --op, --format, --model and --backend")
    return rows


def _cases(options: Options, suite: Suite, backend: Backend, cache_bytes: int) -> Iterable[Case]:
    wanted = not options.formats and (not options.ops or "probe" in options.ops)
    if wanted and backend.probe_variants("read"):
        yield from probes(*backend.probe_sizes(COLD_FACTOR * cache_bytes))
    for name, op in OPS.items():
        if options.ops and name not in options.ops:
            continue
        for model in options.models or suite.models:
            for case in op.cases(model_of(model), suite.name):
                if not options.formats or case.format in options.formats:
                    yield case


class Session:
    """Measures the rows of a plan and keeps the file. Only one runs on a machine at a time.

    Args:
        path: of the result file; it is rewritten after every row.
        say: shows a line to the person who waits.
    """

    def __init__(self, options: Options, path: Path | None = None, say: Callable[[str], None] = print) -> None:
        self.options, self.suite, self.say = options, SUITES[options.suite], say
        self.found = devices.detect()
        self.device = devices.device_of(options.device) if options.device else current_device()
        self.specs = plan(options)
        self.run = self._header()
        stamp = self.run.created.replace(":", "").replace("-", "")[:15]
        self.path = path or Path("roofbench-runs") / f"{stamp}-{self.suite.name}.json"
        self._lock = filelock.FileLock(LOCK, mode=0o666)
        self._worker = Worker(self.device, None, options.seed, options.rivals, options.source)
        self._started = 0.0
        self._next_save = 0.0
        self._overhead: list[float] = []

    def start(self, done: Iterable[Row] = ()) -> None:
        """Take the machine, create the file, probe the roofs.

        Args:
            done: rows of an earlier, unfinished run, which are not measured again.

        Raises:
            ValueError: another run has the machine, or the file cannot be written.
        """
        try:
            self._lock.acquire(blocking=False)
        except filelock.Timeout:
            raise ValueError(
                "another roofbench run is measuring on this machine: two would disturb each other"
            ) from None
        except OSError as error:
            raise ValueError(f"{LOCK}, which keeps other runs off this machine: {error.strerror}; remove it") from None
        self._started = time.monotonic()
        wanted = {spec.blank().key for spec in self.specs}
        self.run.rows = [row for row in done if row.key in wanted and row.status != "ERROR"]
        self._save()
        for line in self.introduction():
            self.say(line)
        for backend in dict.fromkeys(spec.backend for spec in self.specs):
            try:
                self.run.roofs += self._worker.calibrate(backend)
            except WorkerError as error:
                raise ValueError(f"backend {backend}: its roofs cannot be measured: {error}") from None

    def measure(self, spec: RowSpec) -> Row:
        """One row; it is in the file when this returns, or soon after if rows are many and short."""
        for row in self.run.rows:
            if row.key == spec.blank().key:
                return row
        before = time.monotonic()
        cap_s = self._cap()
        rules = Rules(cap_s=cap_s, min_s=min(self.suite.min_s, cap_s / 2))
        row = self._worker.measure(spec, rules, cap_s * 3 + SETUP_S)
        self._overhead.append(max(0.0, time.monotonic() - before - cap_s))
        self.run.rows.append(row)
        if time.monotonic() >= self._next_save:
            self._save()
        return row

    def _save(self) -> None:
        before = time.monotonic()
        results.save(self.run, self.path)
        now = time.monotonic()
        self._next_save = now + (now - before) / SAVING

    def finish(self) -> None:
        """Release the machine; the file is finished if every row is in it."""
        self._worker.close()
        if self._started:
            self.run.finished = len(self.run.rows) == len(self.specs)
            self.run.telemetry["after"] = telemetry.host_load()
            self._save()
        self._lock.release()

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def _cap(self) -> float:
        """The suite's cap; less where the run is behind its budget."""
        left = max(1, len(self.specs) - len(self.run.rows))
        overhead = sum(self._overhead) / len(self._overhead) if self._overhead else 0.0
        share = (self.suite.budget_s - self.elapsed()) / left - overhead
        return min(self.suite.cap_s, max(0.2 * self.suite.cap_s, share))

    def introduction(self) -> list[str]:
        """What is measured, on what, and what is missing."""
        lines = [f"roofbench {metadata.version('roofbench')}, suite {self.suite.name}: {len(self.specs)} rows"]
        for found in self.found:
            known = (
                found.device.id
                if found.device
                else "not in the catalogue: no % of spec (`roofbench devices add` writes a stub)"
            )
            units = f", {found.units} {'cores' if found.kind == 'cpu' else 'units'}" if found.units else ""
            lines.append(f"  {found.kind}: {found.name}{units}: {known}")
        if any(found.kind == "gpu" for found in self.found) and not any(b.accelerator for b in BACKENDS):
            lines.append("  This version has no kernels for the GPU: what follows are the CPU's cores.")
        lines += [f"  missing {name}: {reason}" for name, reason in self.run.missing.items()]
        return lines

    def _header(self) -> Run:
        missing = {f"backend {b.name}": reason for b in BACKENDS if b.default and (reason := b.missing())}
        for backend in dict.fromkeys(spec.backend for spec in self.specs):
            missing |= {f"rival {r.name}": line for r in RIVALS.get(backend, ()) if (line := r.missing())}
        return Run(
            created=dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
            command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            suite=self.suite.name,
            seed=self.options.seed,
            rivals=None if self.options.rivals is None else list(self.options.rivals),
            source=str(self.options.source) if self.options.source else None,
            device=_describe(self.found, self.device),
            environment=environment.describe(),
            telemetry={"before": telemetry.host_load()},
            missing=missing,
        )


@cache
def current_device() -> Device | None:
    """The first device of this machine that the catalogue knows."""
    return next((found.device for found in devices.detect() if found.device), None)


def resume(path: Path, options: Options) -> list[Row]:
    """Rows of an unfinished run that a new one may keep: those whose kernel has not changed since.

    Raises:
        ValueError: the file is no result file, or was measured on another machine or with other settings.
    """
    run = results.load(path)
    asked = {
        "suite": options.suite,
        "seed": options.seed,
        "rivals": None if options.rivals is None else list(options.rivals),
        "source": str(options.source) if options.source else None,
    }
    was = {**run.environment, **{key: getattr(run, key) for key in asked}}
    for key, now in (asked | environment.describe()).items():
        if was.get(key) != now:
            raise ValueError(f"{path} was measured with {key} {was.get(key)!r}; now it is {now!r}")
    return [row for row in run.rows if row.kernel_sha256 == _kernel_sha256(row, options)]


def _kernel_sha256(row: Row, options: Options) -> str | None:
    claim = (Cpu(options.source) if options.source else backend_of(row.backend)).claim(row.op, row.format)
    return sources.sha256(claim.source) if isinstance(claim, Claim) and claim.source else None


def _describe(found: Sequence[Found], device: Device | None) -> dict[str, Any]:
    return {
        "id": device.id if device else None,
        "found": [
            {"kind": f.kind, "name": f.name, "arch": f.arch, "units": f.units, "id": f.device.id if f.device else None}
            for f in found
        ],
    }
