# SPDX-License-Identifier: MIT
"""The references themselves, as a backend: slow, right by definition, and never a rival."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from roofbench import devices
from roofbench.backends.base import Backend, Call, Claim, Launch
from roofbench.devices import Device
from roofbench.formats import Array
from roofbench.numerics import Close, Exact, Expected, Limit, Stack
from roofbench.op import TYPES
from roofbench.ops import op_of
from roofbench.telemetry import Silent, Telemetry
from roofbench.timing import Clock, WallClock


class NumPy(Backend):
    """Measured only if asked for."""

    name = "numpy"
    heading = "NumPy reference"
    default = False

    def missing(self) -> str | None:
        return None

    def claim(self, op: str, format: str) -> Claim | str:
        if op == "probe" or format not in TYPES[op]:
            return "the reference has no probes"
        return Claim(lambda _: Limit(1), None)

    def bind(self, op: str, format: str, dims: Mapping[str, int], arrays: Mapping[str, Array]) -> Launch:
        contract = op_of(op)

        def call() -> None:
            for name, expected in contract.reference(format, arrays).items():
                with np.errstate(all="ignore"):
                    arrays[name][...] = _values(expected)

        return Launch(call, arrays)

    def last_level_cache(self, device: Device | None) -> int:
        return devices.last_level_cache()

    def clock(self) -> Clock:
        return WallClock()

    def telemetry(self) -> Telemetry:
        return Silent()

    def probe_variants(self, kind: str, format: str) -> dict[str, dict[str, int]]:
        return {}

    def floor(self) -> Call:
        return lambda: None


def _values(expected: Expected) -> Array:
    if isinstance(expected, Stack):
        return np.stack([_values(expected.item(i)) for i in range(expected.count)]) if expected.count else np.zeros(0)
    assert isinstance(expected, (Close, Exact))
    return expected.value
