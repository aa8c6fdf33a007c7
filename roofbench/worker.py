# SPDX-License-Identifier: MIT
"""Rows are measured in a child process: a kernel that crashes or hangs costs its row, not the run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from roofbench.backends.base import Claim, Ways
from roofbench.devices import Device
from roofbench.engine import Rules
from roofbench.op import TYPES
from roofbench.results import Row, RunRoof
from roofbench.rows import Bench, RowSpec
from roofbench.trials import Stands, Trial

# Idle threads of one OpenMP runtime spin for milliseconds and so steal from the next contestant, whose
# runtime may be another (torch brings its own). They must sleep soon; the engine wakes them before it times.
ENVIRONMENT = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1", "OPENBLAS_THREAD_TIMEOUT": "14"}


OURS = (signal.SIGINT, signal.SIGHUP)  # the parent's to handle: a terminal sends them to the child too


TRIAL_S, START_S = 60.0, 180.0  # of a configuration, and of a new process to probe the roofs before
LEAVE_S = 10.0  # for a process that was killed to go: a driver may have to stop a kernel first


class WorkerError(Exception):
    """The child died or ran out of time; the message says which."""


class Worker:
    """A child process with a `Bench`, started when it is first needed and again after it died.

    It is also started again after a fault that leaves a device unusable to its process.
    """

    def __init__(
        self,
        device: Device | None,
        llc_bytes: int | None = None,
        seed: int = 0,
        rivals: Sequence[str] | None = None,
        source: Path | None = None,
    ) -> None:
        self._arguments = (device, llc_bytes, seed, rivals, source)
        self._process: Any = None
        self._pipe: Connection | None = None
        self.late = False  # the last call took too long

    @property
    def fresh(self) -> bool:
        """Whether the next call starts a process."""
        return self._process is None

    def calibrate(self, backend: str, timeout_s: float = 180.0) -> tuple[list[RunRoof], float]:
        """Roofs of a backend, every variant with its rate, and seconds of an empty launch. Raises WorkerError."""
        roofs: tuple[list[RunRoof], float] = self._call("calibrate", (backend,), timeout_s)
        return roofs

    def claims(self, timeout_s: float = 120.0) -> list[tuple[str, str]]:
        """Every op x format that the user's file serves. Raises ValueError where it does not compile or load."""
        source = self._arguments[-1]
        try:
            served: list[tuple[str, str]] | str = self._call("claims", (source,), timeout_s)
        except WorkerError as error:
            raise ValueError(f"{source} does not load: {error}") from None
        if isinstance(served, str):
            raise ValueError(served)  # noqa: TRY004
        return served

    def numerics(self, backend: str, op: str, format: str, seconds: float, timeout_s: float) -> str:
        """What came of the hazards of an op x format; ERROR where the child crashed or took too long."""
        try:
            return str(self._call("numerics", (backend, op, format, seconds), timeout_s))
        except WorkerError as error:
            return f"ERROR: {error}"

    def measure(self, spec: RowSpec, rules: Rules, timeout_s: float) -> Row:
        """One row; ERROR where the child crashed or took too long."""
        try:
            row: Row = self._call("measure", (spec, rules), timeout_s)
        except WorkerError as error:
            return spec.blank("ERROR", str(error))
        return row

    def ways(self, spec: RowSpec, timeout_s: float = 120.0) -> Ways | str:
        """What a sweep may try, or why there is nothing. Raises WorkerError."""
        found: Ways | str = self._call("ways", (spec,), timeout_s)
        return found

    def trial(self, spec: RowSpec, config: str, way: Mapping[str, int], rules: Rules, *, roof: bool) -> Trial:
        """One configuration; ERROR where the child crashed or took too long."""
        try:
            trial: Trial = self._call("trial", (spec, config, way, rules, roof), TRIAL_S + START_S * self.fresh)
        except WorkerError as error:
            return Trial(config=config, status="ERROR", reason=str(error))
        return trial

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join(LEAVE_S)
        self._process = self._pipe = None

    def _call(self, method: str, arguments: tuple[Any, ...], timeout_s: float) -> Any:
        self.late = False
        if self._process is None:
            self._start()
        assert self._pipe is not None
        try:
            self._pipe.send((method, arguments))
            if not self._pipe.poll(timeout_s):
                self.close()
                self.late = True
                raise WorkerError(f"no result after {timeout_s:.0f} s")
            answer, usable = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode
            self.close()
            raise WorkerError(f"the process {_death(code)}") from None
        if not usable:
            self.close()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        before = {name: os.environ.get(name) for name in ENVIRONMENT}
        os.environ.update({name: value for name, value in ENVIRONMENT.items() if before[name] is None})
        resource_tracker.ensure_running()  # else it is started below, and takes the mask away
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, OURS)  # the child inherits it
        try:
            self._process = context.Process(target=_serve, args=(theirs, self._arguments), daemon=True)
            self._process.start()
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with code {code}"


def _serve(pipe: Connection, arguments: tuple[Any, ...]) -> None:
    """The child: answers calls until the parent is gone."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    os.dup2(2, 1)  # what a kernel prints is no result
    bench = Bench(*arguments)
    answers: dict[str, Callable[..., Any]] = {"calibrate": _calibrate, "claims": _claims, "measure": Bench.measure}
    answers["numerics"] = Bench.numerics
    stands = Stands(bench)
    answers |= {"ways": lambda _, spec: stands.ways(spec), "trial": lambda _, *given: stands.trial(*given)}
    while True:
        try:
            method, parameters = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer: Any = answers[method](bench, *parameters)
        except Exception as error:  # noqa: BLE001 - the parent decides
            answer = WorkerError(f"{type(error).__name__}: {error}")
        try:
            pipe.send((answer, bench.usable()))
        except OSError:
            return


def _die_with_parent() -> None:
    """Also while a kernel hangs: cffi lets other threads run."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _calibrate(bench: Bench, backend: str) -> tuple[list[RunRoof], float]:
    found = bench.calibrate(backend)
    tried = {name: roof.variants for name, roof in found.roofs.items()}
    roofs = [
        RunRoof(backend=backend, name=name, variants=tried.get(name, []), failed=found.failed.get(name, {}))
        for name in dict.fromkeys([*tried, *found.failed])
    ]
    return roofs, found.floor_s


def _claims(bench: Bench, source: Path) -> list[tuple[str, str]] | str:
    """Of the user's file; a message where it does not compile or load."""
    backend = bench.backend("cpu")
    try:
        pairs = [(op, format) for op in TYPES if op != "probe" for format in TYPES[op]]
        return [pair for pair in pairs if isinstance(backend.claim(*pair), Claim)]
    except ValueError as error:
        return str(error)
    except OSError as error:  # of dlopen, which names the library that we made of it
        return f"{source} does not load: {str(error).rpartition('.so: ')[2].partition('. ')[0]}"
