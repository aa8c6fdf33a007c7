# SPDX-License-Identifier: MIT
"""What is read of a CPU, on machines that are not this one."""

import itertools

from roofbench import telemetry
from roofbench.telemetry import CpuTelemetry, Silent


def cpu(mhz, **options):
    """A core that runs at each of these clocks in turn."""
    clocks = itertools.cycle(mhz)
    return CpuTelemetry(lambda _: None, lambda _: CpuTelemetry.CYCLES / next(clocks) * 1e-6, **options)


def test_the_nominal_clock_is_the_best_seen():
    assert round(cpu([2000.0, 3000.0, 2500.0]).nominal_mhz) == 3000


def test_an_interrupt_does_not_lower_the_clock():
    assert round(cpu([3000.0, 1000.0, 2900.0]).read().clock_mhz) == 3000


def test_no_clock_is_expected_of_a_core_of_either_kind():
    it = cpu([3000.0], hybrid=True)
    assert it.nominal_mhz is None
    assert round(it.read().clock_mhz) == 3000


def test_a_device_that_says_nothing_is_not_throttled():
    assert Silent().read() == (None, False)
    assert Silent().nominal_mhz is None


def test_what_a_system_does_not_have_is_none(monkeypatch):
    monkeypatch.setattr(telemetry, "_text", lambda _: None)
    load = telemetry.host_load()
    assert load["governor"] is load["transparent_hugepages"] is load["steal_share"] is None


def test_stolen_time(monkeypatch):
    monkeypatch.setattr(telemetry, "_text", lambda _: "cpu 10 0 10 60 0 0 0 20 0 0\ncpu0 1 2 3")
    assert telemetry.host_load()["steal_share"] == 0.2


def test_free_memory(monkeypatch):
    monkeypatch.setattr(telemetry, "_text", lambda _: "MemTotal: 100 kB\nMemAvailable:   2048 kB\n")
    assert telemetry.available_memory() == 2 << 20
