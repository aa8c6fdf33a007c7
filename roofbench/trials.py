# SPDX-License-Identifier: MIT
"""One configuration of a kernel beside the one that it takes now: right first, then timed in turns, cold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np

from roofbench import ceilings, engine
from roofbench.backends.base import Launch, Unsupported, Ways
from roofbench.engine import Lane, MeasurementError, Rules
from roofbench.gate import Gate, Incorrect, check_buffers
from roofbench.numerics import Limit
from roofbench.op import Case
from roofbench.ops import op_of
from roofbench.results import Positive, Share
from roofbench.rows import Bench, RowSpec, check_memory
from roofbench.timing import Clock


class Trial(msgspec.Struct, kw_only=True):
    """One configuration. ratio: time of the present one over its own, paired by round."""

    config: str
    status: str
    reason: str | None = None
    median_s: Positive | None = None
    present_s: Positive | None = None
    ratio: Positive | None = None
    ratio_ci95: tuple[Share, Share] | None = None
    pct_measured: Share | None = None


@dataclass(slots=True)
class Stand:
    """A case whose buffers are ready, with the launches that its kernel takes now."""

    case: Case
    gate: Gate
    present: list[Launch]
    limit: Limit


class Stands:
    """Tries configurations in the process that has the device."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._stand: Stand | None = None

    def ways(self, spec: RowSpec) -> Ways | str:
        """What there is to try, or why there is nothing."""
        backend, case = self._bench.backend(spec.backend), spec.case
        claim = backend.claim(case.op, case.format)
        if isinstance(claim, str):
            return claim
        return backend.ways(case.op, case.format, case.dims) or f"backend {spec.backend} has no configurations of it"

    def trial(self, spec: RowSpec, config: str, way: Mapping[str, int], rules: Rules, roof: bool) -> Trial:
        """One configuration; whatever goes wrong with it becomes its status."""
        trial = Trial(config=config, status="ERROR")
        clock = self._bench.calibrate(spec.backend).clock
        try:
            self._time(spec, way, rules, trial, clock, roof=roof)
        except Unsupported as error:
            trial.status, trial.reason = "UNSUPPORTED", str(error)
        except Incorrect as error:
            trial.status, trial.reason = "INCORRECT", str(error)
            self._stand = None  # its memory may be damaged
        except MeasurementError as error:
            trial.reason = str(error)
        except Exception as error:  # noqa: BLE001 - one configuration's failure must not end the sweep
            trial.reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        clock.forget()
        return trial

    def _time(
        self, spec: RowSpec, way: Mapping[str, int], rules: Rules, trial: Trial, clock: Clock, *, roof: bool
    ) -> None:
        backend, case = self._bench.backend(spec.backend), spec.case
        claim = backend.claim(case.op, case.format)
        if isinstance(claim, str):
            raise Unsupported(claim)
        if self._stand is None or self._stand.case != case or dict(self._stand.case.dims) != dict(case.dims):
            self._stand = None
            self._stand = self._build(spec, claim.limit(case.dims), clock)
        stand, dims = self._stand, {**case.dims, **way}
        gate, own = stand.gate, claim.limit(dims)
        launches = backend.again(stand.present, case.op, case.format, dims) if way else stand.present
        clock.run(launches[:1])  # compiles; what was drawn is done once more
        gate.watch(launches, Limit(max(own.chain, stand.limit.chain), max(own.u, stand.limit.u)))
        gate.check()
        instruments = self._bench.calibrate(spec.backend)
        bound, ceiling = self._bench.bound(spec) if roof else ("", None)
        tried, present = (
            Lane(name, calls, gate.prepare, gate.verify, backend.floor())
            for name, calls in (("tried", launches), ("present", stand.present))
        )
        measured = engine.measure(
            tried,
            clock,
            instruments.telemetry,
            rules,
            ceiling.fresh() if ceiling else None,
            [present],
            instruments.floor_s,
        )
        gate.check_last()
        gate.check_inputs()
        if present.failed:
            raise MeasurementError(f"the present configuration: {present.failed}")
        ratios = [theirs / ours for theirs, ours in zip(present.turns, tried.turns, strict=True)]
        low, high = engine.median_interval(ratios)
        trial.status, trial.reason = measured.status, measured.reason
        trial.median_s, trial.present_s = tried.median_s, present.median_s
        trial.ratio, trial.ratio_ci95 = float(np.median(ratios)), (low, high) if math.isfinite(low) else None
        if ceiling and measured.roof:
            contract = op_of(case.op)
            work = contract.traffic(case).bytes if bound == "bandwidth" else contract.flops(case)
            trial.pct_measured = 100 * (work / tried.median_s) / (ceiling.work / measured.roof.median_s)
            rate = work / tried.median_s / (1e9 if bound == "bandwidth" else 1e12)
            shares = [ratio * work / ceiling.work for ratio in measured.roof_ratios()]
            vendor = self._bench.vendor(spec, bound, measured.clock_mhz)
            if reason := ceilings.impossible(rate, vendor, shares, ceiling.name):
                trial.status, trial.reason = "SUSPECT", reason

    def _build(self, spec: RowSpec, limit: Limit, clock: Clock) -> Stand:
        """Buffers, and the gate passed by what a launch takes now."""
        backend, case, contract = self._bench.backend(spec.backend), spec.case, op_of(spec.case.op)
        claim = backend.claim(case.op, case.format)
        assert not isinstance(claim, str)
        cold = self._bench.cold_bytes(spec.backend)
        check_memory(contract.footprint(case, cold), backend.free_memory())
        problem = contract.problem(case, self._bench.seed, cold)
        check_buffers(contract, case, problem, cold)
        gate = Gate(backend, case, problem, claim, clock, self._bench.seed)
        gate.check()
        return Stand(case, gate, gate.launches, limit)
