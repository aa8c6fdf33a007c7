# SPDX-License-Identifier: MIT
"""What a person asked for, and which rows that gives."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from roofbench import devices, sources
from roofbench.backends import BACKENDS, backend_of
from roofbench.backends.base import Backend
from roofbench.devices import Device
from roofbench.models import model_of
from roofbench.op import SUITES, Case, Suite
from roofbench.ops import OPS, op_of
from roofbench.ops.probe import kind_of, probes
from roofbench.rivals import RIVALS
from roofbench.rows import COLD_FACTOR, RowSpec


@dataclass(frozen=True, slots=True)
class Options:
    """What a person asked for; empty is everything that the suite has.

    Args:
        seconds: what the run may take; None for the suite's budget.

    Raises:
        ValueError: a name is unknown, or two of them do not go together.
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
    seconds: float | None = None

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
            if self.source and backend != "cpu":
                raise ValueError(f"--source {self.source}: --backend {backend} cannot measure it, only cpu")
        if self.device is not None:
            devices.device_of(self.device)
        rivals = {rival.name for group in RIVALS.values() for rival in group}
        for name in self.rivals or ():
            if name not in rivals:
                raise ValueError(f"unknown rival {name!r}; known: {' '.join(sorted(rivals))}")
        if self.source and self.source.suffix != ".c":
            raise ValueError(f"{self.source}: only .c files can be measured by this version")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"--seed {self.seed} must be from 0 to 2^63 - 1")
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise ValueError(f"--seconds {self.seconds:g} must be a positive number")


def plan(options: Options, own: Sequence[tuple[str, str]] = ()) -> list[RowSpec]:
    """Every row of a run, the backend that best uses the machine first; unserved formats included.

    Args:
        own: op x format that the user's file serves.

    Raises:
        ValueError: a backend that was asked for cannot run; or nothing is left.
    """
    if options.source and not own:
        launchers = [name for name in sources.build_ffi().prototypes() if name.startswith(_prefixes())]
        raise ValueError(f"{options.source} defines none of the launchers of cpu_kernels.h: {', '.join(launchers)}")
    suite = SUITES[options.suite]
    rows: list[RowSpec] = []
    reasons = []
    for backend in BACKENDS:
        asked = backend.name in (("cpu",) if options.source else options.backends)
        if not asked and (options.source or options.backends or not backend.default):
            continue
        reason = backend.missing()
        if reason and asked:
            raise ValueError(f"backend {backend.name}: {reason}")
        if reason:
            reasons.append(f"; backend {backend.name}: {reason}")
            continue
        device = devices.device_of(options.device) if options.device else current_device()
        cache_bytes = backend.last_level_cache(device)
        for case in _cases(options, suite, backend, cache_bytes):
            if options.source and (case.op, case.format) not in own:
                continue
            rows.append(RowSpec(case, backend.name))
            contract = op_of(case.op)
            if contract.warm(case) and contract.traffic(case).bytes <= cache_bytes:
                rows.append(RowSpec(case, backend.name, "warm"))
    if not rows:
        if options.source:
            reasons.append(f"; {options.source} has {', '.join(' '.join(pair) for pair in own)}")
        raise ValueError(
            f"nothing to measure: no row of the suite matches --op, --format, --model and --backend{''.join(reasons)}"
        )
    return list({spec.blank().key: spec for spec in rows}.values())  # a model may be named twice


def _cases(options: Options, suite: Suite, backend: Backend, cache_bytes: int) -> Iterable[Case]:
    for name, op in OPS.items():
        if options.ops and name not in options.ops:
            continue
        cases = [case for model in options.models or suite.models for case in op.cases(model_of(model), suite.name)]
        if name == "probe":  # of no model
            cases = [
                case
                for case in probes(*backend.probe_sizes(COLD_FACTOR * cache_bytes))
                if backend.probe_variants(kind_of(case), case.format)
            ]
        yield from (case for case in cases if not options.formats or case.format in options.formats)


def _prefixes() -> tuple[str, ...]:
    """What names of launchers of kernels begin with."""
    return tuple(f"rb_{name}" for name in OPS if name != "probe")


@cache
def current_device() -> Device | None:
    """The first device of this machine that the catalogue knows."""
    return next((found.device for found in devices.detect() if found.device), None)
