# SPDX-License-Identifier: MIT
"""From a case to a row: buffers, numerics before and after, measurement, ceilings, verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from roofbench import ceilings, engine, numerics, sources
from roofbench.backends import backend_of
from roofbench.backends.base import Backend, Claim
from roofbench.backends.cpu import Cpu
from roofbench.ceilings import Roof
from roofbench.devices import Device
from roofbench.engine import Lane, Measurement, MeasurementError, Rules
from roofbench.numerics import Limit
from roofbench.op import Arrays, Case, Op, Problem
from roofbench.ops import op_of
from roofbench.ops.probe import KINDS
from roofbench.results import Row, RowNumerics, RowRival, RowRoof
from roofbench.rivals import RIVALS
from roofbench.telemetry import Telemetry
from roofbench.timing import Clock

COLD_FACTOR = 5  # last-level caches between two uses of a buffer
RIVAL_TOLERANCE = 0.1  # of the results' root mean square: a rival may be less exact, not wrong
RIVAL_SHARE = 0.25  # of the cap: a rival whose first launch is longer is timed once more, apart


@dataclass(frozen=True, slots=True)
class RowSpec:
    """A row to measure. cache is ``cold`` or ``warm``."""

    case: Case
    backend: str
    cache: str = "cold"

    def blank(self, status: str = "ERROR", reason: str | None = None) -> Row:
        """The row without numbers."""
        case, contract = self.case, op_of(self.case.op)
        return Row(
            op=case.op,
            backend=self.backend,
            format=case.format,
            case=case.name,
            dims=dict(case.dims),
            bytes=contract.traffic(case).bytes,
            flops=contract.flops(case),
            cache=self.cache,
            status=status,
            reason=reason,
        )


class Incorrect(Exception):  # noqa: N818 - a verdict, not a fault
    """Outputs are not what the contract says."""


@dataclass(frozen=True, slots=True)
class Instruments:
    """What measures the rows of one backend, and its ceilings.

    Args:
        floor_s: seconds of an empty launch.
    """

    clock: Clock
    telemetry: Telemetry
    floor_s: float
    roofs: dict[str, Roof]


class Bench:
    """Measures rows on one machine.

    Args:
        device: whose specifications accelerators' rows are set against.
        llc_bytes: last-level cache that cold rows overflow; None for each backend's own.
        rivals: names of those to time; None for all that are installed.
        source: a C file of the user's own, whose kernels are measured instead of ours.
    """

    def __init__(
        self,
        device: Device | None,
        llc_bytes: int | None = None,
        seed: int = 0,
        rivals: Sequence[str] | None = None,
        source: Path | None = None,
    ) -> None:
        self.device = device
        self._llc_bytes = llc_bytes
        self.seed = seed
        self.rivals = rivals
        self._own = Cpu(source) if source else None
        self._instruments: dict[str, Instruments] = {}

    def backend(self, name: str) -> Backend:
        return self._own if self._own and name == self._own.name else backend_of(name)

    def cold_bytes(self, name: str) -> int:
        """What must lie between two uses of a buffer of a backend."""
        return COLD_FACTOR * (self._llc_bytes or self.backend(name).last_level_cache(self.device))

    def calibrate(self, name: str, kinds: Sequence[str] = KINDS) -> Instruments:
        """Set up a backend's instruments and probe its roofs, once."""
        if name not in self._instruments:
            backend = self.backend(name)
            clock = backend.clock()
            roofs = ceilings.calibrate(backend, clock, self.cold_bytes(name), kinds)
            floor_s = engine.floor(clock, backend.floor())
            self._instruments[name] = Instruments(clock, backend.telemetry(), floor_s, roofs)
        return self._instruments[name]

    def measure(self, spec: RowSpec, rules: Rules) -> Row:
        """Measure one row. Whatever goes wrong with it becomes its status."""
        backend, contract = self.backend(spec.backend), op_of(spec.case.op)
        claim = backend.claim(spec.case.op, spec.case.format)
        if isinstance(claim, str):
            return spec.blank("UNSUPPORTED", claim)
        spec = self._with_best_variant(spec)
        row = spec.blank()
        if claim.source:
            row.kernel_sha256 = sources.sha256(claim.source)
        try:
            cold = self.cold_bytes(spec.backend) if spec.cache == "cold" else 0
            need, free = contract.footprint(spec.case, cold), backend.free_memory()
            if free is not None and need > free:
                reason = f"needs {need / 2**30:.1f} GiB of memory, {free / 2**30:.1f} are free"
                return spec.blank("UNSUPPORTED", reason)
            rules = replace(rules, warmup_s=max(rules.warmup_s, backend.warmup_s))
            problem = contract.problem(spec.case, self.seed, cold)
            check_buffers(contract, spec.case, problem, cold)
            run = _Run(backend, contract, spec.case, problem, claim, self.seed)
            row.buffers = len(problem.instances)
            errors = [run.check()]
            try:
                measured, apart = self._time(spec, run, rules)
            except MeasurementError:
                run.check_last()  # no work at all is too fast for any clock
                raise
            errors.append(run.check_last())
            row.numerics = RowNumerics(err_over_bound=max(errors))
            self._fill(row, spec, measured, apart)
        except Incorrect as error:
            row.status, row.reason = "INCORRECT", str(error)
        except MeasurementError as error:
            row.status, row.reason = "ERROR", str(error)
        except MemoryError:
            row.status, row.reason = "ERROR", "out of memory"
        except Exception as error:  # noqa: BLE001 - a kernel's failure must not end the run
            row.status, row.reason = "ERROR", f"{type(error).__name__}: {error}"
        return row

    def _with_best_variant(self, spec: RowSpec) -> RowSpec:
        """A probe's row measures the variant that is the roof."""
        roofs = self.calibrate(spec.backend).roofs
        if spec.case.op != "probe":
            return spec
        dims = {**spec.case.dims, **roofs[spec.case.name].way}
        return replace(spec, case=replace(spec.case, dims=dims))

    def _time(self, spec: RowSpec, run: _Run, rules: Rules) -> tuple[Measurement, list[RowRival]]:
        case, with_ = spec.case, self._instruments[spec.backend]
        kernel = Lane(case.op, run.launches, run.prepare, run.verify)
        traffic, flops = run.contract.traffic(case), run.contract.flops(case)
        _, roof = ceilings.roof_of(traffic, flops, with_.roofs)
        lane = roof.fresh() if roof and case.op != "probe" and (spec.cache == "cold" or not traffic.bytes) else None
        rivals, apart = self._rivals(spec, run, rules)
        measured = engine.measure(kernel, with_.clock, with_.telemetry, rules, lane, rivals, with_.floor_s)
        return measured, apart

    def _rivals(self, spec: RowSpec, run: _Run, rules: Rules) -> tuple[list[Lane], list[RowRival]]:
        """Rivals to interleave, and those that were left out or timed apart, with the reason."""
        lanes, apart = [], []
        clock = self._instruments[spec.backend].clock
        for rival in RIVALS.get(spec.backend, ()):
            if rival.missing() or (self.rivals is not None and rival.name not in self.rivals):
                continue
            bound = rival.bind(spec.case, [launch.arrays for launch in run.launches])
            if not bound:
                continue
            seconds = clock.run([bound[0].call])
            if not run.agrees(bound[0].outputs()):
                apart.append(RowRival(name=rival.name, reason="its result is wrong"))
            elif seconds > RIVAL_SHARE * rules.cap_s:
                seconds = min(seconds, clock.run([bound[0].call]))
                apart.append(RowRival(name=rival.name, median_s=seconds, reason="one launch, apart"))
            else:
                lanes.append(Lane(rival.name, [b.call for b in bound]))
        return lanes, apart

    def _fill(self, row: Row, spec: RowSpec, m: Measurement, apart: list[RowRival]) -> None:
        case, contract = spec.case, op_of(spec.case.op)
        traffic, flops = contract.traffic(case), contract.flops(case)
        samples = m.kernel.samples
        row.median_s, row.ci95_rel = m.kernel.median_s, engine.ci95_rel(m.kernel.turns)
        row.min_s, row.p95_s = min(samples), float(np.quantile(samples, 0.95))
        row.n, row.samples_s = len(samples), samples
        row.timer, row.clock_mhz = self._instruments[spec.backend].clock.name, m.clock_mhz
        row.floor_s, row.launches_per_sample = m.floor_s, m.kernel.per_sample
        row.samples_per_turn = m.kernel.per_turn
        row.status, row.reason = m.status, m.reason
        row.gbps = traffic.bytes / row.median_s / 1e9 if traffic.bytes else None
        row.tflops = flops / row.median_s / 1e12 if flops else None
        row.rivals = [
            RowRival(name=rival.name, median_s=rival.median_s, speedup=rival.median_s / row.median_s)
            for rival in m.rivals
        ]
        for rival in apart:
            rival.speedup = rival.median_s / row.median_s if rival.median_s else None
            row.rivals.append(rival)
        row.bound, roof = ceilings.roof_of(traffic, flops, self._instruments[spec.backend].roofs)
        self._set_ceilings(row, spec, m, roof)

    def _set_ceilings(self, row: Row, spec: RowSpec, m: Measurement, roof: Roof | None) -> None:
        rate = row.gbps if row.bound == "bandwidth" else row.tflops
        if rate is None or (spec.cache == "warm" and row.bound == "bandwidth"):
            return  # no ceiling of the memory bounds a warm row
        case = spec.case
        device = self._catalogued(spec.backend)
        vendor = ceilings.spec_of(device, row.bound or "", ceilings.peak_name(case.types), m.clock_mhz)
        unit = 1e9 if row.bound == "bandwidth" else 1e12
        measured = roof.work / m.roof.median_s / unit if roof and m.roof else None
        row.roof = RowRoof(
            name=roof.name if roof and case.op != "probe" else None,
            spec=vendor.value,
            measured=measured,
            clock=vendor.at_clock,
        )
        row.pct_spec = _percent(rate, vendor.value)
        row.pct_measured = _percent(rate, measured)
        row.pct_clock = _percent(rate, vendor.at_clock)
        shares: list[float] = []
        if roof and m.roof:
            scale = (row.bytes if row.bound == "bandwidth" else row.flops) / roof.work
            shares = [ratio * scale for ratio in m.roof_ratios()]
            low, high = engine.median_interval(shares)
            row.roof.ratio_ci95 = (low, high) if math.isfinite(low) else None
            if row.bound == "compute" and roof.case.types.x != case.types.x:
                shares = []  # other types may have faster instructions
        reason = ceilings.impossible(rate, vendor, shares, row.roof.name or "")
        if reason:
            row.status, row.reason = "SUSPECT", reason

    def _catalogued(self, backend: str) -> Device | None:
        """The catalogue entry whose ceilings bound a backend: cores are not a GPU or a whole SoC."""
        wanted = "gpu" if self.backend(backend).accelerator else "cpu"
        return self.device if self.device and self.device.kind == wanted else None


class _Run:
    """One kernel on the buffers of a problem, and whether its outputs are right."""

    def __init__(self, backend: Backend, contract: Op, case: Case, problem: Problem, claim: Claim, seed: int) -> None:
        self.backend, self.contract, self.case, self.problem = backend, contract, case, problem
        self.limit: Limit = claim.limit(case.dims)
        self.signature = contract.signature(case.format, case.dims)
        self.launches = [backend.bind(case.op, case.format, case.dims, i.arrays) for i in problem.instances]
        self._rng = np.random.default_rng(seed + 1)
        self._keys: list[Any] = [None] * len(problem.instances)
        self._spots: list[Arrays] = [{}] * len(problem.instances)

    def prepare(self, i: int) -> None:
        """Draw new activations and spoil a few outputs, so that neither a kept result nor no launch passes."""
        drawn = self.problem.draw(self._rng)
        self.launches[i].load(drawn.contents)
        self._keys[i] = drawn.key
        self._spots[i] = self.problem.instances[i].spots(self._rng)
        for name, where in self._spots[i].items():
            self.launches[i].spoil(name, where)

    def verify(self, i: int) -> None:
        """See that the launch wrote what was spoilt: at every launch, because only the last ones' results remain."""
        for name, where in self._spots[i].items():
            if self.launches[i].spoilt(name, where):
                raise Incorrect(f"{name} of buffer {i} was not written by a timed launch")

    def check(self) -> float:
        """Launch once on every buffer, outputs poisoned, and compare."""
        for i, launch in enumerate(self.launches):
            for name, arg in self.signature.items():
                if arg.role == "out":
                    launch.poison(name)
            self.prepare(i)
            launch()
        return self.check_last()

    def check_last(self) -> float:
        """Compare what the last launches left. Raises Incorrect; returns the largest error over its bound."""
        worst = 0.0
        for i, (instance, launch) in enumerate(zip(self.problem.instances, self.launches, strict=True)):
            for name, expected in instance.expect(self._keys[i]).items():
                error = expected.error(launch.output(name), self.limit)
                if error > 1:
                    far = "wrong" if math.isinf(error) else f"{error:.3g} times as far off as its bound allows"
                    raise Incorrect(f"{name} of buffer {i} is {far}")
                if not launch.intact(name):
                    raise Incorrect(f"memory beside {name} of buffer {i} was written to")
                worst = max(worst, error)
        return worst

    def agrees(self, outputs: dict[str, np.ndarray]) -> bool:
        """Whether a rival's outputs on buffer 0 are about ours."""
        for name, theirs in outputs.items():
            ours = numerics.to_f64(self.launches[0].output(name))
            difference = numerics.to_f64(theirs).reshape(ours.shape) - ours
            if not np.square(difference).mean() <= RIVAL_TOLERANCE**2 * np.square(ours).mean():
                return False
        return True


def check_buffers(contract: Op, case: Case, problem: Problem, cold_bytes: int) -> None:
    """Raise MeasurementError where buffers cannot hold the bytes that a row counts, or would stay cached."""
    counted = contract.traffic(case).bytes
    seen: set[int] = set()
    distinct = 0
    for instance in problem.instances:
        touched = {a.ctypes.data: a.nbytes for a in contract.touched(case, instance.arrays)}
        held = sum(touched.values())
        if counted > 2 * held:  # an array that is read and written counts twice
            raise MeasurementError(f"counts {counted} bytes a launch, which touches {held} at most")
        distinct += min(counted, sum(nbytes for place, nbytes in touched.items() if place not in seen))
        seen |= touched.keys()
    if distinct < cold_bytes and counted:
        raise MeasurementError(
            f"{len(problem.instances)} buffers of {distinct} bytes in all stay in caches; cold needs {cold_bytes}"
        )


def _percent(value: float, of: float | None) -> float | None:
    return 100 * value / of if of else None
