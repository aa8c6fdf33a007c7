# SPDX-License-Identifier: MIT
"""A device whose time is a number: faults can be planted in it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from roofbench import engine
from roofbench.backends.base import Backend, Claim, Launch
from roofbench.backends.gpu import Gpu
from roofbench.backends.numpy_ import NumPy
from roofbench.engine import Lane, Rules
from roofbench.numerics import Limit
from roofbench.op import Case
from roofbench.ops import OPS
from roofbench.rows import Bench, RowSpec
from roofbench.telemetry import Reading

RULES = Rules(cap_s=3.0, min_s=0.1)


class FakeClock:
    """Virtual seconds; `spend` passes them. Each way of being wrong is an attribute."""

    name = "fake"

    def __init__(self, resolution_s=1e-8):
        self.resolution_s = resolution_s
        self.time = 0.0
        self.step = 0.0  # readings are whole multiples of this
        self.backwards_at = None  # number of the window that ends before it began
        self.slept = 0.0
        self.windows = 0

    def spend(self, seconds):
        self.time += seconds

    def run(self, calls):
        self.windows += 1
        start = self._read()
        for call in calls:
            call()
        if self.backwards_at is not None and self.windows >= self.backwards_at:
            return -1e-6
        return self._read() - start

    def now(self):
        return self.time

    def sleep(self, seconds):
        self.slept += seconds
        self.time += seconds

    def forget(self):
        pass

    def _read(self):
        return self.time // self.step * self.step if self.step else self.time


class FakeTelemetry:
    """Says what `clock_of` says of the virtual time."""

    def __init__(self, clock, nominal_mhz=2000.0, clock_of=lambda _: 2000.0):
        self.clock, self.nominal_mhz, self.clock_of = clock, nominal_mhz, clock_of

    def read(self):
        return Reading(self.clock_of(self.clock.now()))


class Machine:
    """Lanes whose launches take as long as a function of the virtual time says."""

    def __init__(self, noise=0.002, seed=0, **clock):
        self.clock = FakeClock(**clock)
        self.telemetry = FakeTelemetry(self.clock)
        self.rng = np.random.default_rng(seed)
        self.noise = noise

    def lane(self, name, seconds, buffers=5):
        takes = seconds if callable(seconds) else lambda _: seconds

        def call():
            self.clock.spend(takes(self.clock.now()) * np.exp(self.noise * self.rng.standard_normal()))

        return Lane(name, [call] * buffers)

    def measure(self, kernel, roof=None, rivals=(), rules=RULES, floor_s=0.0, buffers=5):
        lanes = [self.lane(f"rival {i}", seconds) for i, seconds in enumerate(rivals)]
        return engine.measure(
            self.lane("kernel", kernel, buffers),
            self.clock,
            self.telemetry,
            rules,
            self.lane("roof", roof) if roof else None,
            lanes,
            floor_s,
        )


class FakeGpu(Gpu):
    """The host as a device of torch; `spend` passes its virtual seconds. Graphs may take another share of them."""

    device = "cpu"

    def __init__(self, graph_share=1.0):
        self.graph_share, self.time, self.captured = graph_share, 0.0, 0

    def spend(self, seconds):
        self.time += seconds

    def missing(self):
        return None

    def chip(self):
        return "sm_90"

    def stream(self):
        return 0

    def properties(self):
        return SimpleNamespace(L2_cache_size=1 << 14, major=9, minor=0, multi_processor_count=4)

    def free_memory(self):
        return 1 << 34

    def synchronize(self):
        pass

    def graph(self, calls):
        self.captured += 1

        def replay():
            before = self.time
            for call in calls:
                call()
            self.time = before + self.graph_share * (self.time - before)

        return replay

    def seconds(self, call, spin_s):
        before = self.time
        call()
        return self.time - before

    def queued_s(self, call):
        return 0.0  # the device waits for no host

    def sensors(self):
        return FakeSensors()

    def facts(self):
        return {"name": "Fake", **self.sensors().facts()}


class FakeSensors:
    def read(self):
        return Reading(1500.0, False, 2600.0, 350.5, 61.0, ("power cap",))

    def facts(self):
        return {"driver": "600.1", "ecc": True, "power_limit_w": 700.0, "persistence_mode": True}


class FakeBackend(Backend):
    """Runs references, and takes the virtual time that `seconds` says. `kernel(dims, arrays, right)` may cheat."""

    name = "fake"
    heading = "A fake"
    accelerator = True

    def __init__(self, seconds=1e-3, kernel=None):
        self.machine = Machine()
        self.seconds, self.kernel = seconds, kernel
        self.launches = 0

    def missing(self):
        return None

    def claim(self, op, format):
        return Claim(lambda dims: Limit(dims.get("K", 0)), None)

    def bind(self, op, format, dims, arrays):
        right = NumPy().bind(op, format, dims, arrays)

        def call():
            self.launches += 1
            self.machine.clock.spend(self.seconds * (1 + 0.002 * self.machine.rng.standard_normal()))
            self.kernel(self, arrays, right) if self.kernel else right()

        return Launch(call, arrays)

    def last_level_cache(self, device):
        return 1 << 14

    def clock(self):
        return self.machine.clock

    def telemetry(self):
        return self.machine.telemetry

    def probe_variants(self, kind, format):
        return {}

    def floor(self):
        return lambda: self.machine.clock.spend(1e-6)


class FakeBench(Bench):
    """A bench on a fake backend, without probes."""

    def __init__(self, backend, device=None, llc_bytes=1 << 14):
        super().__init__(device, llc_bytes)
        self._backend = backend
        self.calibrate("fake", kinds=())

    def backend(self, name):
        return self._backend


CASES = {
    "gemv": Case("gemv", "bf16", "test", {"M": 2, "N": 64, "K": 128}),
    "kv_append": Case(
        "kv_append",
        "bf16",
        "test",
        {"num_tokens": 20, "num_heads": 2, "head_size": 32, "num_blocks": 4, "block_size": 8},
    ),
    "kv_gather": Case(
        "kv_gather",
        "bf16",
        "test",
        {"num_tokens": 20, "num_heads": 2, "head_size": 32, "num_blocks": 4, "block_size": 8, "hnd": 0},
    ),
}


def row(kernel=None, op="gemv", seconds=1e-3, device=None, rules=RULES):
    """A row of a fake backend with such a kernel."""
    assert op in OPS
    return FakeBench(FakeBackend(seconds, kernel), device).measure(RowSpec(CASES[op], "fake"), rules)
