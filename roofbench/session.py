# SPDX-License-Identifier: MIT
"""One run: which rows, in which order, within which time, and the file that keeps them."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock

from roofbench import devices, environment, results, sources, summary, telemetry
from roofbench.backends import BACKENDS, backend_of
from roofbench.backends.base import Claim
from roofbench.devices import Device, Found
from roofbench.engine import Rules
from roofbench.op import SUITES
from roofbench.ops import op_of
from roofbench.plan import Options, current_device, plan
from roofbench.results import Row, Run
from roofbench.rivals import RIVALS
from roofbench.rows import RowSpec
from roofbench.worker import Worker, WorkerError

LOCK = Path(os.environ.get("ROOFBENCH_LOCK", "/tmp/roofbench.lock"))  # noqa: S108 - one for all users of a machine
SAVING = 0.05  # of a run at most is spent on writing its file
SETUP_S = 120.0  # what a row may take beside its cap before it counts as hung;
HUNG_SHARE, HUNG_S = 1 / 8, 20.0  # where --seconds limits the run, that share of them at most, but so many
RESTART_S = 60.0  # and so many for a new process to probe the roofs again
LATE = 1.15  # of its suite's budget a run may take, and all of --seconds; what is left then is left out
LIKE_INTERRUPTS = (signal.SIGTERM, signal.SIGHUP)
SAME = ("machine", "cpu", "roofbench", "compiler", "threads", "isa", "llc_bytes", "packages", "gpu")  # of a resumed run


class Session:
    """Measures the rows of a plan and keeps the file. Only one runs on a machine at a time.

    Args:
        path: of the result file; it is rewritten after every row.
        say: shows a line to the person who waits.
        resumed: the file that is gone on with, which alone may be overwritten.

    Raises:
        ValueError: there is nothing to measure, or the file is none that may be written.
    """

    def __init__(
        self,
        options: Options,
        path: Path | None = None,
        say: Callable[[str], None] = print,
        resumed: Path | None = None,
    ) -> None:
        self.options, self.suite, self.say = options, SUITES[options.suite], say
        self._limit_s = LATE * self.suite.budget_s
        if options.seconds:
            self.suite = replace(self.suite, budget_s=0.95 * options.seconds)
            self._limit_s = options.seconds
        self.found = devices.detect()
        self.device = devices.device_of(options.device) if options.device else current_device()
        now = dt.datetime.now(dt.timezone.utc)
        ours = Path("roofbench-runs") / f"{now:%Y%m%dT%H%M%S}-{self.suite.name}.json"
        self.path = destination(path, options.source, resumed) if path else ours
        self._worker = Worker(self.device, None, options.seed, options.rivals, options.source)
        try:
            self.specs = plan(options, self._worker.claims() if options.source else ())
            self.run = self._header(now)
        except BaseException:
            self._worker.close()
            raise
        self.shown = 0  # rows that `measure` has returned
        self.kept: set[tuple[str, ...]] = set()  # keys of rows of the run that is gone on with
        self._lock = machine_lock()
        self._started = 0.0
        self._late = False
        self._hung: dict[tuple[str, str, str], str] = {}  # kernels that took too long -> the row
        self._next_save = 0.0
        self._saved: list[Row] | None = None  # rows in the file; None where there is no file
        self._overhead: list[float] = []

    @property
    def worker(self) -> Worker:
        """Runs kernels."""
        return self._worker

    def take(self) -> None:
        """Take the machine, if this run does not have it yet; what ends the process then interrupts the run.

        Raises:
            ValueError: another run has it.
        """
        if self._lock.is_locked:
            return
        hold(self._lock)
        if threading.current_thread() is threading.main_thread():
            for number in LIKE_INTERRUPTS:
                if signal.getsignal(number) == signal.SIG_DFL:
                    signal.signal(number, signal.default_int_handler)

    def start(self, before: Run | None = None) -> None:
        """Take the machine, create the file, probe the roofs.

        Args:
            before: an earlier, unfinished run, whose rows are not measured again.

        Raises:
            ValueError: another run has the machine, or the file cannot be written.
        """
        self.take()
        self._started = time.monotonic()
        if before:
            wanted = {spec.blank().key for spec in self.specs}
            self.run.rows = [row for row in before.rows if row.key in wanted]
            self.kept = {row.key for row in self.run.rows}
        left = list(dict.fromkeys(spec.backend for spec in self.specs if spec.blank().key not in self.kept))
        if before:
            self.run.roofs = [roof for roof in before.roofs if roof.backend not in left]
            self.run.floors_s = {name: floor_s for name, floor_s in before.floors_s.items() if name not in left}
        self._save()
        for line in self.introduction():
            self.say(line)
        for backend in left:
            try:
                roofs, self.run.floors_s[backend] = self._worker.calibrate(backend)
            except WorkerError as error:
                raise ValueError(f"backend {backend}: its roofs cannot be measured: {error}") from None
            self.run.roofs += roofs

    def measure(self, spec: RowSpec) -> Row:
        """One row; it is in the file when this returns, or soon after if rows are many and short.

        Raises:
            ValueError: the file cannot be written any more.
        """
        self.shown += 1
        for row in self.run.rows:
            if row.key == spec.blank().key:
                return row
        kernel = (spec.backend, spec.case.op, spec.case.format)
        if self.elapsed() > self._limit_s:
            self._late = True
            took = self.options.seconds or self.suite.budget_s
            reason = f"left out: the run has taken its {took:.0f} s; take a longer suite or --resume"
            row = spec.blank("UNSUPPORTED", reason)
        elif kernel in self._hung:
            row = spec.blank("ERROR", f"left out: {self._hung[kernel]} took too long")
        else:
            before = time.monotonic()
            cap_s = self._cap()
            rules = Rules(cap_s=cap_s, min_s=min(self.suite.min_s, cap_s / 2))
            row = self._worker.measure(spec, rules, self._patience(cap_s))
            self._overhead.append(max(0.0, time.monotonic() - before - cap_s))
            if self._worker.late:
                self._hung[kernel] = row.id
        self.run.rows.append(row)
        if time.monotonic() >= self._next_save:
            self._save()
        return row

    def _save(self) -> None:
        before = time.monotonic()
        try:
            results.save(self.run, self.path)
        except ValueError:
            self.run.rows = self._saved or []
            self._started = 0.0
            raise
        self._saved = list(self.run.rows)
        now = time.monotonic()
        self._next_save = now + (now - before) / SAVING

    def finish(self) -> None:
        """Release the machine; the file is finished if every row is in it. Raises ValueError like `measure`."""
        self._worker.close()
        try:
            if self._started:
                place = {spec.blank().key: i for i, spec in enumerate(self.specs)}
                self.run.rows.sort(key=lambda row: place[row.key])
                self.run.finished = len(self.run.rows) == len(self.specs) and not self._late
                self.run.telemetry["after"] = telemetry.host_load()
                self._save()
        finally:
            self._started = 0.0
            for number in LIKE_INTERRUPTS:
                if signal.getsignal(number) == signal.default_int_handler:
                    signal.signal(number, signal.SIG_DFL)
            self._lock.release()

    def again(self) -> str | None:
        """The line that goes on with this run; None where it is finished or has no file."""
        if self.run.finished or self._saved is None:
            return None
        return f"{self.run.command} --resume {shlex.quote(str(self.path))}"

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def _patience(self, cap_s: float) -> float:
        """Seconds after which a row counts as hung."""
        seconds = cap_s * 3 + SETUP_S
        if self.options.seconds:
            seconds = min(seconds, max(HUNG_S, HUNG_SHARE * self.options.seconds))
        return seconds + (RESTART_S if self._worker.fresh else 0.0)

    def _cap(self) -> float:
        """The suite's cap; less where the run is behind its budget."""
        left = max(1, len(self.specs) - len(self.run.rows))
        overhead = sum(self._overhead) / len(self._overhead) if self._overhead else 0.0
        share = (self.suite.budget_s - self.elapsed()) / left - overhead
        return min(self.suite.cap_s, max(0.2 * self.suite.cap_s, share))

    def introduction(self) -> list[str]:
        """What is measured, on what, and what is missing."""
        kept = f", {len(self.kept)} of them kept" if self.kept else ""
        lines = [f"roofbench {environment.version()}, suite {self.suite.name}: {len(self.specs)} rows{kept}"]
        for found in self.found:
            known = found.device.id if found.device else "not in the catalogue"
            units = f", {found.units} {'cores' if found.kind == 'cpu' else 'units'}" if found.units else ""
            lines.append(f"  {found.kind}: {found.name}{units}: {known}")
        if self.run.environment["gpu"]:
            lines.append(f"  {environment.of_gpu(self.run.environment['gpu'])}")
        if not any(found.device for found in self.found):
            lines.append("  so there is no % of spec; `roofbench devices add` writes a stub")
        if any(found.kind == "gpu" for found in self.found) and not any(
            b.accelerator and not b.missing() for b in BACKENDS
        ):
            lines.append("  No backend here runs on the GPU: what follows are the CPU's cores.")
        threads, cores = self.run.environment["threads"], self.run.environment["cores"]
        if threads and threads < cores:
            lines.append(f"  {threads} of {cores} cores used (OMP_NUM_THREADS or affinity)")
        busy = summary.busy(self.run)
        if busy:
            lines.append(f"  {busy}")
        lines += [f"  missing {name}: {reason}" for name, reason in self.run.missing.items()]
        return lines

    def _header(self, now: dt.datetime) -> Run:
        has_gpu = any(found.kind == "gpu" for found in self.found)
        wanted = [b for b in BACKENDS if b.default and (has_gpu or not b.accelerator)]
        missing = {f"backend {b.name}": reason for b in wanted if (reason := b.missing())}
        for backend in dict.fromkeys(spec.backend for spec in self.specs):
            missing |= {f"rival {r.name}": line for r in RIVALS.get(backend, ()) if (line := r.missing())}
        here = environment.describe()
        if here["gpu"] is not None and "driver" not in here["gpu"]:
            amd = here["gpu"]["toolkit"].startswith("ROCm")
            missing["clocks, power, temperature"] = f"pip install {'amdsmi' if amd else 'nvidia-ml-py'}"
        return Run(
            created=now.isoformat(timespec="seconds"),
            command=_command(),
            suite=self.suite.name,
            seed=self.options.seed,
            rivals=None if self.options.rivals is None else list(self.options.rivals),
            source=str(self.options.source) if self.options.source else None,
            device=_describe(self.found, self.device),
            environment=here,
            telemetry={"before": telemetry.host_load()},
            missing=missing,
        )


def machine_lock() -> filelock.BaseFileLock:
    """What only one run on a machine can `hold`."""
    return filelock.FileLock(LOCK, mode=0o666)


def hold(lock: filelock.BaseFileLock) -> None:
    """Take the machine. Raises ValueError where another run has it, or the lock's file cannot be used."""
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise ValueError(
            f"another roofbench run is measuring on this machine: two would disturb each other ({_holder()}{LOCK})"
        ) from None
    except OSError as error:
        raise ValueError(
            f"{LOCK}, which keeps other runs off this machine: {error.strerror}; {_owner()}remove it"
        ) from None
    with contextlib.suppress(OSError), LOCK.open("r+") as file:  # not "w": that may not open another user's
        file.truncate()
        file.write(str(os.getpid()))


def destination(path: Path, source: Path | None, resumed: Path | None) -> Path:
    """Where to write the result file: where a symbolic link leads, else as given.

    Raises:
        ValueError: something is there that must not be overwritten.
    """
    try:
        target = path.resolve()
        if source and target == source.resolve():
            raise ValueError(f"--out {path} is the file of --source")
        if target.exists() and not target.is_file():
            raise ValueError(f"--out {path} is not a regular file")
        if target.exists() and not (resumed and target == resumed.resolve()):
            raise ValueError(f"--out {path} exists already{_nature(target)}")
    except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError before Python 3.13
        raise ValueError(f"--out {path}: {getattr(error, 'strerror', error)}") from None
    return target if path.is_symlink() else path


def _nature(path: Path) -> str:
    try:
        results.load(path)
    except ValueError:
        return " and is not a roofbench result file"
    return f"; --resume {path} goes on with it"


def resume(path: Path, options: Options) -> Run:
    """An unfinished run with the rows that a new one may keep: with a verdict, of kernels that have not changed since.

    Raises:
        ValueError: the file is no result file, or was measured on another machine or with other settings.
    """
    run = results.load(path)
    device = devices.device_of(options.device) if options.device else current_device()
    here = environment.describe()
    now = {
        "suite": options.suite,
        "seed": options.seed,
        "rivals": None if options.rivals is None else list(options.rivals),
        "source": str(options.source) if options.source else None,
        "device": device.id if device else None,
        **{key: here[key] for key in SAME},
    }
    was = {
        **{key: run.environment.get(key) for key in SAME},
        **{key: getattr(run, key) for key in ("suite", "seed", "rivals", "source")},
        "device": run.device.get("id"),
    }
    for key, value in now.items():
        if was[key] != value:
            raise ValueError(f"{path} was measured with {key} {was[key]!r}; now it is {value!r}")
    for row in run.rows:
        try:
            backend_of(row.backend)
            op_of(row.op).types(row.format)
        except ValueError as error:
            raise ValueError(f"{path}: row {row.id}: {error}") from None
    run.rows = [row for row in run.rows if _has_verdict(row) and row.kernel_sha256 == _kernel_sha256(row, options)]
    return run


def _has_verdict(row: Row) -> bool:
    """Whether measuring it again would say nothing new."""
    if row.status in ("SUSPECT", "INCORRECT"):
        return True
    return row.median_s is not None and row.status != "ERROR"


def _kernel_sha256(row: Row, options: Options) -> str | None:
    if options.source:
        return sources.sha256(options.source)
    claim = backend_of(row.backend).claim(row.op, row.format)
    return sources.sha256(claim.source) if isinstance(claim, Claim) and claim.source else None


def _command() -> str:
    """What was typed, for a shell to take again."""
    program = Path(sys.argv[0])
    words = ["python", "-m", program.parent.name] if program.name == "__main__.py" else [program.name]
    return shlex.join([*words, *sys.argv[1:]]).encode(errors="replace").decode()


def _holder() -> str:
    """The process that has the lock, where its file says so."""
    try:
        return f"process {int(LOCK.read_text())}, "
    except (OSError, ValueError):
        return ""


def _owner() -> str:
    """Whose file the lock is, where that can be found out."""
    try:
        return f"owned by {LOCK.owner()}; "
    except (OSError, KeyError):
        return ""


def _describe(found: Sequence[Found], device: Device | None) -> dict[str, Any]:
    return {
        "id": device.id if device else None,
        "found": [
            {"kind": f.kind, "name": f.name, "arch": f.arch, "units": f.units, "id": f.device.id if f.device else None}
            for f in found
        ],
    }
