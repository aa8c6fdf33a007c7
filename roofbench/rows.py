# SPDX-License-Identifier: MIT
"""From a case to a row: buffers, numerics before and after, measurement, ceilings, verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from roofbench import ceilings, engine, sources
from roofbench.backends import backend_of
from roofbench.backends.base import VECTOR, Backend, Launch, Unsupported
from roofbench.backends.cpu import Cpu
from roofbench.ceilings import Roof
from roofbench.devices import Device
from roofbench.engine import Lane, Measurement, MeasurementError, Rules
from roofbench.gate import Gate, Incorrect, check_buffers, try_hazards
from roofbench.op import Case
from roofbench.ops import op_of
from roofbench.ops.probe import KINDS
from roofbench.results import Look, Row, RowNumerics, RowRival, RowRoof, RowTelemetry
from roofbench.rivals import RIVALS
from roofbench.telemetry import Reading, Telemetry, available_memory
from roofbench.timing import Clock

COLD_FACTOR = 5  # last-level caches between two uses of a buffer
RIVAL_SHARE = 0.25  # of the cap: a rival whose launch is longer is not interleaved


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


@dataclass(frozen=True, slots=True)
class Instruments:
    """What measures the rows of one backend, and its ceilings.

    Args:
        floor_s: seconds of an empty launch.
        failed: variants of probes that do not run here, by probe, with the reason.
    """

    clock: Clock
    telemetry: Telemetry
    floor_s: float
    roofs: dict[str, Roof]
    failed: dict[str, dict[str, str]]


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
        self._tried: set[tuple[str, str]] = set()  # op x format of its own whose hazards passed
        self._instruments: dict[str, Instruments] = {}
        self._used: set[str] = set()

    def backend(self, name: str) -> Backend:
        self._used.add(name)
        return self._own if self._own and name == self._own.name else backend_of(name)

    def usable(self) -> bool:
        """Whether every device that was used still works: a fault of one kernel may end a process's use of it."""
        return all(self.backend(name).usable() for name in list(self._used))

    def cold_bytes(self, name: str) -> int:
        """What must lie between two uses of a buffer of a backend."""
        return COLD_FACTOR * (self._llc_bytes or self.backend(name).last_level_cache(self.device))

    def calibrate(self, name: str, kinds: Sequence[str] = KINDS) -> Instruments:
        """Set up a backend's instruments and probe its roofs, once."""
        if name not in self._instruments:
            backend = self.backend(name)
            clock = backend.clock()
            roofs, failed = ceilings.calibrate(backend, clock, self.cold_bytes(name), kinds)
            floor_s = engine.floor(clock, backend.floor())
            self._instruments[name] = Instruments(clock, backend.telemetry(), floor_s, roofs, failed)
        return self._instruments[name]

    def numerics(self, backend: str, op: str, format: str, seconds: float) -> str:
        """What came of the hazards, as many as fit into so many seconds: ``right at 96 of 96``, or what is wrong."""
        claim = self.backend(backend).claim(op, format)
        if isinstance(claim, str):
            return f"UNSUPPORTED: {claim}"
        try:
            tried = try_hazards(self.backend(backend), op, format, claim, seconds)
        except Incorrect as error:
            return f"INCORRECT: {error}"
        if tried.refused:  # our own kernels serve them all
            return f"INCORRECT: {tried.refused} of {tried.of} problems are refused"
        return f"right at {tried.right} of {tried.of}"

    def measure(self, spec: RowSpec, rules: Rules) -> Row:
        """Measure one row. Whatever goes wrong with it becomes its status."""
        row = spec.blank()
        try:
            try:
                self._measure(spec, rules, row)
            finally:
                if spec.backend in self._instruments:
                    self._instruments[spec.backend].clock.forget()
        except Unsupported as error:
            row.status, row.reason = "UNSUPPORTED", str(error)
        except Incorrect as error:
            row.status, row.reason = "INCORRECT", str(error)
        except MeasurementError as error:
            row.status, row.reason = "ERROR", str(error)
        except MemoryError:
            row.status, row.reason = "ERROR", "out of memory"
        except Exception as error:  # noqa: BLE001 - a kernel's failure must not end the run
            row.status, row.reason = "ERROR", f"{type(error).__name__}: {error}"
        return row

    def _measure(self, spec: RowSpec, rules: Rules, row: Row) -> None:
        backend, contract, case = self.backend(spec.backend), op_of(spec.case.op), spec.case
        claim = backend.claim(case.op, case.format)
        if isinstance(claim, str):
            raise Unsupported(claim)
        if claim.source:
            row.kernel_sha256 = sources.sha256(claim.source)
        instruments = self.calibrate(spec.backend)
        if case.op == "probe":  # the variant that is the roof
            if case.name not in instruments.roofs:
                raise Unsupported("there is no such probe, or too little memory for it")
            case = replace(case, dims={**case.dims, **instruments.roofs[case.name].way})
            spec = replace(spec, case=case)
            row.dims = dict(case.dims)
        cold = self.cold_bytes(spec.backend) if spec.cache == "cold" else 0
        check_memory(contract.footprint(case, cold), backend.free_memory())
        if self._own is backend and (case.op, case.format) not in self._tried:
            try_hazards(backend, case.op, case.format, claim)
            self._tried.add((case.op, case.format))
        problem = contract.problem(case, self.seed, cold)
        check_buffers(contract, case, problem, cold)
        gate = Gate(backend, case, problem, claim, instruments.clock, self.seed)
        row.buffers = len(problem)
        row.path = _path(gate.launches)
        before, row.first_launch_s = gate.check()
        rules = replace(rules, warmup_s=max(rules.warmup_s, backend.warmup_s))
        first = instruments.telemetry.read()
        try:
            measured, apart = self._time(spec, gate, rules)
        except MeasurementError:
            gate.check_last()  # no work at all is too fast for any clock
            raise
        if backend.accelerator:
            row.telemetry = telemetry_of(first, measured.readings, instruments.telemetry.read())
        row.numerics = RowNumerics(err_over_bound=max(before, gate.check_last()))
        gate.check_inputs()
        self._fill(row, spec, measured, apart)

    def _time(self, spec: RowSpec, gate: Gate, rules: Rules) -> tuple[Measurement, list[RowRival]]:
        case, instruments = spec.case, self._instruments[spec.backend]
        kernel = Lane(case.op, gate.launches, gate.prepare, gate.verify, self.backend(spec.backend).floor())
        roof = self.bound(spec)[1]
        unbounded = case.op == "probe" or (spec.cache == "warm" and op_of(case.op).traffic(case).bytes)
        lane = roof.fresh() if roof and not unbounded else None
        rivals, apart = self._rivals(spec, gate, rules)
        measured = engine.measure(
            kernel, instruments.clock, instruments.telemetry, rules, lane, rivals, instruments.floor_s
        )
        return measured, apart

    def bound(self, spec: RowSpec) -> tuple[str, Roof | None]:
        """What bounds a row, and its measured roof."""
        case, contract = spec.case, op_of(spec.case.op)
        return ceilings.roof_of(
            contract.traffic(case),
            contract.flops(case),
            case.types.x,
            self._instruments[spec.backend].roofs,
            {bound: self.vendor(spec, bound, None).value for bound in ("bandwidth", "compute")},
        )

    def vendor(self, spec: RowSpec, bound: str, clock_mhz: float | None) -> ceilings.Spec:
        """The vendor's ceilings of a row, at the clock that was held."""
        return ceilings.spec_of(self._catalogued(spec.backend), bound, ceilings.peak_name(spec.case.types), clock_mhz)

    def _rivals(self, spec: RowSpec, gate: Gate, rules: Rules) -> tuple[list[Lane], list[RowRival]]:
        """Rivals to interleave, and those that were left out or timed apart, with the reason."""
        lanes, apart = [], []
        for rival in RIVALS.get(spec.backend, ()):
            if rival.missing() or (self.rivals is not None and rival.name not in self.rivals):
                continue
            try:
                bound = rival.bind(spec.case, [launch.arrays for launch in gate.launches])
                if not bound:
                    continue
                clock = bound[0].clock or self._instruments[spec.backend].clock
                bound[0].call()  # libraries set themselves up
                seconds = clock.run([bound[0].call])
                if not gate.agrees(bound[0].outputs()):
                    apart.append(RowRival(name=rival.name, reason="its result is wrong"))
                elif seconds > RIVAL_SHARE * rules.cap_s:
                    apart.append(RowRival(name=rival.name, median_s=seconds, reason="one launch, apart"))
                else:
                    lanes.append(Lane(rival.name, [b.call for b in bound], clock=clock))
            except Exception as error:  # noqa: BLE001 - a rival's failure is not ours
                apart.append(RowRival(name=rival.name, reason=f"{type(error).__name__}: {error}"))
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
        row.samples_per_turn, row.warmup_s = m.kernel.per_turn, m.warmup_s
        row.status, row.reason = m.status, m.reason
        row.gbps = traffic.bytes / row.median_s / 1e9 if traffic.bytes else None
        row.tflops = flops / row.median_s / 1e12 if flops else None
        row.rivals = [
            RowRival(name=rival.name, median_s=rival.median_s, speedup=rival.median_s / row.median_s)
            if not rival.failed
            else RowRival(name=rival.name, reason=rival.failed)
            for rival in m.rivals
        ]
        for rival in apart:
            rival.speedup = rival.median_s / row.median_s if rival.median_s else None
            row.rivals.append(rival)
        row.bound, roof = self.bound(spec)
        self._set_ceilings(row, spec, m, roof)

    def _set_ceilings(self, row: Row, spec: RowSpec, m: Measurement, roof: Roof | None) -> None:
        rate = row.gbps if row.bound == "bandwidth" else row.tflops
        if rate is None or (spec.cache == "warm" and row.bound == "bandwidth"):
            return  # no ceiling of the memory bounds a warm row
        case = spec.case
        vendor = self.vendor(spec, row.bound or "", m.clock_mhz)
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
        reason = ceilings.impossible(rate, vendor, shares, row.roof.name or "")
        if reason:
            row.status, row.reason = "SUSPECT", reason

    def _catalogued(self, backend: str) -> Device | None:
        """The catalogue entry whose ceilings bound a backend: cores are not a GPU or a whole SoC."""
        wanted = "gpu" if self.backend(backend).accelerator else "cpu"
        return self.device if self.device and self.device.kind == wanted else None


def telemetry_of(before: Reading, during: Sequence[Reading], after: Reading) -> RowTelemetry:
    """What the driver said, as the file has it."""
    return RowTelemetry(before=_look([before]), during=_look(during), after=_look([after]))


def _look(readings: Sequence[Reading]) -> Look:
    """Medians, and every reason."""

    def middle(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.median(known)) if known else None

    said = [reading.reasons for reading in readings if reading.reasons is not None]
    return Look(
        sm_clock_mhz=middle(reading.clock_mhz for reading in readings),
        memory_clock_mhz=middle(reading.memory_clock_mhz for reading in readings),
        power_w=middle(reading.power_w for reading in readings),
        temperature_c=middle(reading.temperature_c for reading in readings),
        throttle_reasons=sorted({reason for reasons in said for reason in reasons}) if said else None,
    )


def _path(launches: Sequence[Launch]) -> str | None:
    """The one that is not ``vector``, where there is one."""
    paths = [launch.path for launch in launches]
    return next((path for path in paths if path != VECTOR), paths[0])


def check_memory(need: int, free: int | None) -> None:
    """Raise Unsupported where buffers, and as much again on the host for references, do not fit.

    Args:
        need: bytes of the buffers.
        free: bytes of a device with memory of its own.
    """
    host = available_memory()
    for bytes_, of, place in ((need, free, "of the device's memory"), (2 * need, host, "of memory")):
        if of is not None and bytes_ > of:
            raise Unsupported(f"needs {bytes_ / 2**30:.1f} GiB {place}, {of / 2**30:.1f} are free")


def _percent(value: float, of: float | None) -> float | None:
    return 100 * value / of if of else None
