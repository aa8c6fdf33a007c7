# SPDX-License-Identifier: MIT
"""What is read of a CPU, on machines that are not this one."""

import itertools

from roofbench import telemetry
from roofbench.telemetry import CpuTelemetry, Reading, Silent


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
    assert Silent().read() == Reading(None)
    assert not Silent().read().throttled
    assert Silent().nominal_mhz is None


def test_what_a_system_does_not_have_is_none(monkeypatch):
    monkeypatch.setattr(telemetry, "_text", lambda _: None)
    load = telemetry.host_load()
    assert load["governor"] is load["transparent_hugepages"] is None


def test_shares_of_the_machine():
    load = telemetry.host_load()
    assert 0 <= load["busy_share"] <= 1
    assert load["steal_share"] is None or 0 <= load["steal_share"] <= 1


def test_memory_of_a_container(monkeypatch):
    """Half a gigabyte of its limit is used."""
    files = {"/sys/fs/cgroup/memory.max": str(1 << 30), "/sys/fs/cgroup/memory.current": str(1 << 29)}
    monkeypatch.setattr(telemetry, "_text", files.get)
    assert telemetry.available_memory() == 1 << 29


def test_memory_without_a_limit(monkeypatch):
    monkeypatch.setattr(telemetry, "_text", {"/sys/fs/cgroup/memory.max": "max"}.get)
    assert telemetry.available_memory() > 1 << 20
