# SPDX-License-Identifier: MIT
"""Roofs: the best a machine was seen to do, the vendor's word, and what is impossible above them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from roofbench import engine
from roofbench.backends.base import Backend
from roofbench.devices import Device
from roofbench.engine import Lane
from roofbench.op import Case, Traffic, Types
from roofbench.ops import OPS
from roofbench.ops.probe import KINDS, PEAKS, probes
from roofbench.results import RoofVariant
from roofbench.timing import Clock

MEASURED_SLACK = 1.03  # a kernel may beat its probe by that much before it is impossible
LEAST_ROUNDS = 8  # paired, before a verdict

_ROUNDS = 7  # of all variants, one after the other, so that a drifting machine favours none


@dataclass(slots=True)
class Roof:
    """One probe of one backend, in its best variant.

    Args:
        work: bytes, or floating-point operations, of one launch.
        lane: launches of the best variant, for interleaving with rows.
        variants: every variant that was tried, with its rate.
        way: what the best one adds to the probe's dims.
    """

    name: str
    case: Case
    work: int
    lane: Lane
    rate: float
    variants: list[RoofVariant]
    way: dict[str, int]

    def fresh(self) -> Lane:
        """The same launches with no samples yet."""
        return Lane(self.lane.name, self.lane.calls)


def calibrate(backend: Backend, clock: Clock, cold_bytes: int, kinds: Sequence[str] = KINDS) -> dict[str, Roof]:
    """Try every variant of every probe and keep the best of each.

    Args:
        clock: of the backend, as `Backend.clock` gives it.
        cold_bytes: what overflows the device's caches.

    Returns:
        Roofs by probe; empty where the backend has no probes.
    """
    found = {}
    for case in probes(*backend.probe_sizes(cold_bytes)):
        ways = backend.probe_variants(case.name)
        if not ways or case.name not in kinds:
            continue
        contract = OPS["probe"]
        problem = contract.problem(case, 0, 0 if case.name in PEAKS else cold_bytes)
        work = contract.flops(case) or contract.traffic(case).bytes
        buffers = [instance.arrays for instance in problem.instances]
        lanes = [
            Lane(name, [backend.bind("probe", case.format, {**case.dims, **way}, arrays) for arrays in buffers])
            for name, way in ways.items()
        ]
        for _ in range(_ROUNDS + 1):  # the first round warms up
            for lane in lanes:
                for call in lane.calls[:3]:
                    lane.samples.append(clock.run([call]))
        for lane in lanes:
            del lane.samples[:3]
        rates = [work / lane.median_s for lane in lanes]
        best = int(np.argmax(rates))
        tried = [RoofVariant(name, rate, i == best) for i, (name, rate) in enumerate(zip(ways, rates, strict=True))]
        found[case.name] = Roof(case.name, case, work, lanes[best], rates[best], tried, ways[lanes[best].name])
    return found


def roof_of(traffic: Traffic, flops: int, roofs: dict[str, Roof]) -> tuple[str, Roof | None]:
    """Which ceiling bounds a row: ``bandwidth`` or ``compute``, and its roof.

    The roof whose time is longer: bytes over the probe with the row's mix of reads and writes, or
    operations over the higher peak (S. Williams et al., "Roofline", 2009).
    """
    stream = roofs.get(traffic.mix)
    peak = max((roofs[kind] for kind in PEAKS if kind in roofs), key=lambda roof: roof.rate, default=None)
    if peak and stream and flops / peak.rate > traffic.bytes / stream.rate:
        return "compute", peak
    if not stream and flops and not traffic.bytes:
        return "compute", None
    return "bandwidth", stream


@dataclass(frozen=True, slots=True)
class Spec:
    """The vendor's word on a row's ceiling.

    Args:
        value: GB/s or TFLOP/s at the spec clock.
        at_clock: the same at the clock that was held; None where no clock is known.
        limit: what no honest result exceeds; None where that is not known.
    """

    value: float | None
    at_clock: float | None
    limit: float | None


def peak_name(types: Types) -> str:
    """The peak of devices.toml that bounds a product: its activations', which decide the instruction."""
    return {"mxfp8": "fp8", "mxfp4": "fp4", "nvfp4": "fp4"}.get(types.x, types.x)


def spec_of(device: Device | None, bound: str, peak: str, clock_mhz: float | None) -> Spec:
    """Spec ceilings of a row on a device.

    Args:
        peak: its name in devices.toml, such as ``bf16``.
        clock_mhz: held while the row was measured.
    """
    if device is None:
        return Spec(None, None, None)
    if bound == "bandwidth":
        gbs = device.memory.bandwidth_gbs if device.memory else None
        return Spec(gbs, gbs, gbs)  # the memory's clock is not the units'
    stated = device.dense_tflops.get(peak)
    if stated is None or device.clock is None:
        return Spec(stated, None, None)
    assumed_ghz = device.clock.of(peak)
    held_ghz = clock_mhz / 1e3 if clock_mhz else None
    most_ghz = held_ghz or device.clock.max_ghz
    return Spec(
        stated,
        stated * held_ghz / assumed_ghz if held_ghz else None,
        stated * most_ghz / assumed_ghz if most_ghz else None,
    )


def impossible(rate: float, spec: Spec, shares: Sequence[float], roof_name: str) -> str | None:
    """Why a result cannot be, None where it can.

    Args:
        rate: GB/s or TFLOP/s.
        shares: of the measured roof, per round; empty where that bounds nothing.
    """
    if spec.limit is not None and rate > spec.limit:
        return f"{rate:.4g} exceeds the {spec.limit:.4g} that the device can do"
    low, _ = engine.median_interval(shares)
    if len(shares) >= LEAST_ROUNDS and low > MEASURED_SLACK:
        return f"{low:.0%} of the measured {roof_name} roof at least, with 95 % confidence"
    return None
