# SPDX-License-Identifier: MIT
"""Roofs: the best a machine was seen to do, the vendor's word, and what is impossible above them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from roofbench import engine
from roofbench.backends.base import Backend, Launch
from roofbench.devices import Device
from roofbench.engine import Lane
from roofbench.formats import Array
from roofbench.numerics import aligned
from roofbench.op import Arrays, Case, Traffic, Types, instances_for
from roofbench.ops import OPS
from roofbench.ops.probe import KINDS, PEAKS, kind_of, probes
from roofbench.results import RoofVariant
from roofbench.telemetry import available_memory
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


def calibrate(
    backend: Backend, clock: Clock, cold_bytes: int, kinds: Sequence[str] = KINDS
) -> tuple[dict[str, Roof], dict[str, dict[str, str]]]:
    """Try every variant of every probe and keep the best of each.

    Args:
        clock: of the backend, as `Backend.clock` gives it.
        cold_bytes: what overflows the device's caches.

    Returns:
        Roofs by probe, empty where the backend has no probes; and by probe the variants that failed, with the reason.
    """
    found: dict[str, Roof] = {}
    failed: dict[str, dict[str, str]] = {}
    contract, pool = OPS["probe"], np.zeros(0, np.uint8)
    for case in probes(*backend.probe_sizes(cold_bytes)):
        ways = backend.probe_variants(kind_of(case), case.format)
        if not ways or kind_of(case) not in kinds:
            continue
        work = contract.flops(case) or contract.traffic(case).bytes
        need = contract.footprint(case, cold_bytes)
        if need > (backend.free_memory() or available_memory()):
            continue
        if pool.nbytes < need:
            pool = aligned((need,), np.uint8, align=4096)
            pool.view(np.uint32)[...] = 0x3F800000  # 1 as f32
        buffers = _buffers(case, cold_bytes, pool)
        lanes, failed[case.name] = _lanes(backend, clock, case, ways, buffers)
        if not lanes:
            continue
        at = 0  # one place in the rotation for all, so that none finds what another left in the caches
        for _ in range(_ROUNDS + 1):  # the first round warms up
            for lane in lanes:
                for _ in range(3):
                    lane.samples.append(clock.run([lane.calls[at % len(buffers)]]))
                    at += 1
        for lane in lanes:
            del lane.samples[:3]
        rates = [work / lane.median_s for lane in lanes]
        best = int(np.argmax(rates))
        tried = [RoofVariant(lane.name, rate, lane is lanes[best]) for lane, rate in zip(lanes, rates, strict=True)]
        found[case.name] = Roof(case.name, case, work, lanes[best], rates[best], tried, ways[lanes[best].name])
        clock.forget()
    return found, {name: reasons for name, reasons in failed.items() if reasons}


def _lanes(
    backend: Backend, clock: Clock, case: Case, ways: Mapping[str, dict[str, int]], buffers: Sequence[Arrays]
) -> tuple[list[Lane], dict[str, str]]:
    """Every variant that runs, all on the same memory, and why others do not."""
    lanes: list[Lane] = []
    failed: dict[str, str] = {}
    launches: list[Launch] = []
    for name, way in ways.items():
        dims = {**case.dims, **way}
        try:
            if not launches:
                launches = backend.bind_all("probe", case.format, dims, buffers)
            lane = Lane(name, backend.again(launches, "probe", case.format, dims))
            clock.run([lane.calls[0]])
        except Exception as error:  # noqa: BLE001 - one that this device cannot run costs no other
            failed[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        else:
            lanes.append(lane)
    return lanes, failed


def _buffers(case: Case, cold_bytes: int, pool: Array) -> list[Arrays]:
    """Arrays of a probe, cut out of one pool that all probes share: their contents do not matter here."""
    contract = OPS["probe"]
    signature = contract.signature(case.format, case.dims)
    found, at = [], 0
    for _ in range(instances_for(contract.traffic(case).bytes, cold_bytes)):
        arrays = {}
        for name, arg in signature.items():
            if arg.shape == (1,):
                arrays[name] = np.zeros(1, arg.dtype)
                continue
            arrays[name] = pool[at : at + arg.nbytes].view(arg.dtype).reshape(arg.shape)
            at += arg.nbytes
        found.append(arrays)
    return found


def roof_of(
    traffic: Traffic, flops: int, x: str, roofs: dict[str, Roof], specs: Mapping[str, float | None]
) -> tuple[str, Roof | None]:
    """Which ceiling bounds a row: ``bandwidth`` or ``compute``, and its measured roof if there is one.

    The ceiling whose time is longer: bytes over the probe with the row's mix of reads and writes, or operations
    over the highest peak of its type (S. Williams et al., "Roofline", 2009). Where a peak of that type was not
    measured, the vendor's decides, or that of another type; but neither is the row's roof.

    Args:
        x: type of the activations.
        specs: the vendor's GB/s and TFLOP/s, as ``bandwidth`` and ``compute``.
    """
    stream = roofs.get(traffic.mix)
    peaks = sorted((roof for roof in roofs.values() if kind_of(roof.case) in PEAKS), key=lambda roof: -roof.rate)
    own = next((roof for roof in peaks if roof.case.types.x == x), None)
    bytes_per_s = stream.rate if stream else (specs.get("bandwidth") or 0) * 1e9
    flops_per_s = own.rate if own else (specs.get("compute") or 0) * 1e12 or (peaks[0].rate if peaks else 0)
    if not traffic.bytes and flops:
        return "compute", own
    if bytes_per_s and flops_per_s and flops / flops_per_s > traffic.bytes / bytes_per_s:
        return "compute", own
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
