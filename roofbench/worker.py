# SPDX-License-Identifier: MIT
"""Rows are measured in a child process: a kernel that crashes or hangs costs its row, not the run."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from roofbench.devices import Device
from roofbench.engine import Rules
from roofbench.results import Row, RunRoof
from roofbench.rows import Bench, RowSpec

# Idle threads of one OpenMP runtime spin for milliseconds and so steal from the next contestant, whose
# runtime may be another (torch brings its own). They must sleep soon; the engine wakes them before it times.
ENVIRONMENT = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}


class WorkerError(Exception):
    """The child died or ran out of time; the message says which."""


class Worker:
    """A child process with a `Bench`, started when it is first needed and again after it died."""

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

    def calibrate(self, backend: str, timeout_s: float = 120.0) -> list[RunRoof]:
        """Roofs of a backend, every variant with its rate. Raises WorkerError."""
        roofs: list[RunRoof] = self._call("calibrate", (backend,), timeout_s)
        return roofs

    def measure(self, spec: RowSpec, rules: Rules, timeout_s: float) -> Row:
        """One row; ERROR where the child crashed or took too long."""
        try:
            row: Row = self._call("measure", (spec, rules), timeout_s)
        except WorkerError as error:
            return spec.blank("ERROR", str(error))
        return row

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._process = self._pipe = None

    def _call(self, method: str, arguments: tuple[Any, ...], timeout_s: float) -> Any:
        if self._process is None:
            self._start()
        assert self._pipe is not None
        try:
            self._pipe.send((method, arguments))
            if not self._pipe.poll(timeout_s):
                self.close()
                raise WorkerError(f"no result after {timeout_s:.0f} s")
            answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode
            self.close()
            raise WorkerError(f"the process {_death(code)}") from None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        before = {name: os.environ.get(name) for name in ENVIRONMENT}
        os.environ.update({name: value for name, value in ENVIRONMENT.items() if before[name] is None})
        try:
            self._process = context.Process(target=_serve, args=(theirs, self._arguments), daemon=True)
            self._process.start()
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
        theirs.close()


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with code {code}"


def _serve(pipe: Connection, arguments: tuple[Any, ...]) -> None:
    """The child: answers calls until the pipe closes. An interrupt is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    bench = Bench(*arguments)
    while True:
        try:
            method, parameters = pipe.recv()
        except EOFError:
            return
        try:
            if method == "calibrate":
                (backend,) = parameters
                roofs = bench.calibrate(backend).roofs
                answer: Any = [
                    RunRoof(backend=backend, name=name, variants=roof.variants) for name, roof in roofs.items()
                ]
            else:
                answer = bench.measure(*parameters)
        except Exception as error:  # noqa: BLE001 - the parent decides
            answer = WorkerError(f"{type(error).__name__}: {error}")
        pipe.send(answer)
