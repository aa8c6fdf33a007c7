# SPDX-License-Identifier: MIT
"""What NVML and AMD SMI say, by modules in their place."""
# ruff: noqa: N802 - NVML's names

import sys
from types import ModuleType, SimpleNamespace

import pytest

from roofbench import smi
from roofbench.telemetry import Reading

UUID = "3ff94a9d-7a5c-2b6e-9d2c-0123456789ab"


class NVMLError(Exception):
    pass


class FakeNvml(ModuleType):
    """Devices by index; each is a dict of answers, absent ones are not supported."""

    NVMLError = NVMLError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self, *devices):
        super().__init__("pynvml")
        self.devices, self.started = devices, False

    def nvmlInit(self):
        self.started = True

    def nvmlDeviceGetCount(self):
        assert self.started
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index):
        return self.devices[index]

    def _by(self, key, value):
        found = [device for device in self.devices if device.get(key) == value]
        if not found:
            raise NVMLError("not found")
        return found[0]

    def nvmlDeviceGetHandleByUUID(self, uuid):
        instances = [mig for device in self.devices for mig in device.get("instances", ()) if mig["uuid"] == uuid]
        return instances[0] if instances else self._by("uuid", uuid)

    def nvmlDeviceGetHandleByPciBusId(self, bus):
        return self._by("bus", bus)

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, instance):
        return next(device for device in self.devices if instance in device.get("instances", ()))

    def nvmlSystemGetDriverVersion(self):
        return "580.65"

    def __getattr__(self, name):
        if not name.startswith("nvmlDeviceGet"):
            raise AttributeError(name)

        def get(device, *arguments):
            key = (name.removeprefix("nvmlDeviceGet"), *arguments)
            if key not in device:
                raise NVMLError("NVML_ERROR_NOT_SUPPORTED")
            return device[key]

        return get


def h200(**more):
    return {
        ("ClockInfo", 1): 1980,
        ("ClockInfo", 2): 3201,
        ("PowerUsage",): 612_345,
        ("Temperature", 0): 54,
        ("CurrentClocksEventReasons",): 0x4,
        ("EccMode",): [1, 1],
        ("EnforcedPowerLimit",): 700_000,
        ("PersistenceMode",): 1,
        ("MaxClockInfo", 1): 1980,
        **more,
    }


OTHER = h200(uuid="GPU-other", bus="0000:01:00.0") | {("PowerUsage",): 70_000}
MINE = h200(uuid=f"GPU-{UUID}", bus="0000:c1:00.0")


def nvidia(monkeypatch, *devices, **properties):
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(*devices))
    return smi.sensors(SimpleNamespace(name="NVIDIA H200", gcnArchName="NVIDIA H200", **properties))


PCI = {"pci_domain_id": 0, "pci_bus_id": 0xC1, "pci_device_id": 0}


@pytest.mark.parametrize("properties", [{"uuid": UUID}, {"uuid": "unknown", **PCI}, PCI])
def test_torch_s_device_is_found_whatever_its_index(monkeypatch, properties):
    found = nvidia(monkeypatch, OTHER, MINE, **properties)
    assert found.read() == Reading(1980, False, 3201, 612.345, 54, ("power cap",))
    assert found.facts() == {
        "driver": "580.65",
        "ecc": True,
        "power_limit_w": 700.0,
        "persistence_mode": True,
        "max_sm_clock_mhz": 1980,
        "mig": False,
    }


def test_a_mig_instance_has_the_sensors_of_its_gpu(monkeypatch):
    whole = {**MINE, "uuid": "GPU-whole", "instances": [{"uuid": f"MIG-{UUID}"}]}
    found = nvidia(monkeypatch, OTHER, whole, uuid=UUID)
    assert found.read().power_w == 612.345
    assert found.facts()["mig"]


def test_another_device_is_not_asked(monkeypatch):
    """Rather nothing than what another one says."""
    assert nvidia(monkeypatch, OTHER, OTHER, uuid=UUID).read() == Reading(None)
    assert nvidia(monkeypatch, OTHER, OTHER).facts() == {}
    assert nvidia(monkeypatch, OTHER).read().power_w == 70  # the only one


def test_what_a_gb10_does_not_support_is_none(monkeypatch):
    gb10 = {("ClockInfo", 1): 2400, ("PowerUsage",): 45_000, ("CurrentClocksEventReasons",): 0}
    found = nvidia(monkeypatch, gb10, uuid=UUID)
    assert found.read() == Reading(2400, False, None, 45.0, None, ())
    assert found.facts() == {
        "driver": "580.65", "ecc": None, "power_limit_w": None, "persistence_mode": None, "max_sm_clock_mhz": None,
        "mig": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value", "field"),
    [
        (("ClockInfo", 1), 0, "clock_mhz"),
        (("ClockInfo", 1), 0xFFFFFFFF, "clock_mhz"),
        (("ClockInfo", 2), 0, "memory_clock_mhz"),
        (("PowerUsage",), 0, "power_w"),
        (("PowerUsage",), 0xFFFFFFFF, "power_w"),
        (("Temperature", 0), 255, "temperature_c"),
        (("Temperature", 0), 0, "temperature_c"),
        (("Temperature", 0), "N/A", "temperature_c"),
    ],
)
def test_what_is_implausible_is_none(monkeypatch, key, value, field):
    read = nvidia(monkeypatch, {**MINE, key: value}, uuid=UUID).read()
    assert getattr(read, field) is None
    assert sum(value is None for value in read) == 1


@pytest.mark.parametrize(
    ("bits", "reasons", "throttled"),
    [
        (0x0, (), False),
        (0x1, ("idle",), False),
        (0x4, ("power cap",), False),
        (0x24, ("power cap", "sw thermal"), True),
        (0x48, ("hw slowdown", "hw thermal"), True),
        (0x80, ("power brake",), True),
    ],
)
def test_reasons_have_names_and_heat_is_throttling(monkeypatch, bits, reasons, throttled):
    new = {**MINE, ("CurrentClocksEventReasons",): bits}
    read = nvidia(monkeypatch, new, uuid=UUID).read()
    assert (read.reasons, read.throttled) == (reasons, throttled)
    del new["CurrentClocksEventReasons",]
    old = {**new, ("CurrentClocksThrottleReasons",): bits}  # of drivers before 535
    assert nvidia(monkeypatch, old, uuid=UUID).read().reasons == reasons
    assert nvidia(monkeypatch, new, uuid=UUID).read().reasons is None


@pytest.mark.parametrize("name", ["pynvml", "amdsmi"])
def test_without_the_library_nothing_is_known(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    properties = SimpleNamespace(gcnArchName="gfx942:sramecc+" if name == "amdsmi" else "NVIDIA H200", uuid=UUID)
    assert smi.sensors(properties).read() == Reading(None)
    assert smi.sensors(properties).facts() == {}


def test_a_driver_that_does_not_start(monkeypatch):
    class Failing(FakeNvml):
        def nvmlInit(self):
            raise NVMLError("NVML_ERROR_DRIVER_NOT_LOADED")

    monkeypatch.setitem(sys.modules, "pynvml", Failing(MINE))
    assert smi.sensors(SimpleNamespace(uuid=UUID)).read() == Reading(None)


class FakeAmdSmi(ModuleType):
    AmdSmiClkType = SimpleNamespace(GFX="gfx", MEM="mem")
    AmdSmiTemperatureType = SimpleNamespace(HOTSPOT="hotspot", EDGE="edge")
    AmdSmiTemperatureMetric = SimpleNamespace(CURRENT="current")

    def __init__(self, *devices):
        super().__init__("amdsmi")
        self.devices = devices

    def amdsmi_init(self):
        pass

    def amdsmi_get_processor_handles(self):
        return self.devices

    def __getattr__(self, name):
        if not name.startswith("amdsmi_get_"):
            raise AttributeError(name)
        return lambda device, *arguments: device[(name.removeprefix("amdsmi_get_"), *arguments)]


def mi300x(bdf="0000:c1:00.0", serial="0x1A2B3C4D5E6F7081", **more):
    return {
        ("gpu_device_bdf",): bdf,
        ("gpu_asic_info",): {"asic_serial": serial},
        ("clock_info", "gfx"): {"clk": 2100, "max_clk": 2100},
        ("clock_info", "mem"): {"clk": 1300, "max_clk": 1300},
        ("power_info",): {"current_socket_power": 680, "average_socket_power": "N/A"},
        ("temp_metric", "hotspot", "current"): 71,
        ("temp_metric", "edge", "current"): 60,
        ("gpu_metrics_info",): {"ppt_residency_acc": 10, "hbm_thm_residency_acc": 0, "prochot_residency_acc": "N/A"},
        ("gpu_driver_info",): {"driver_version": "6.12.12"},
        ("gpu_ecc_enabled",): 0x7F,
        ("power_cap_info",): {"power_cap": 750_000_000},
        **more,
    }


def amd(monkeypatch, *devices, **properties):
    monkeypatch.setitem(sys.modules, "amdsmi", FakeAmdSmi(*devices))
    return smi.sensors(SimpleNamespace(gcnArchName="gfx942:sramecc+:xnack-", **properties))


HIP_UUID = "31613262-3363-3464-3565-366637303831"  # "1a2b3c4d5e6f7081", a character a byte
FIRST = mi300x("0000:01:00.0", "0x0000000000000001") | {("power_info",): {"current_socket_power": 100}}


@pytest.mark.parametrize("properties", [PCI, {"uuid": HIP_UUID}])
def test_amd_s_device_is_found(monkeypatch, properties):
    found = amd(monkeypatch, FIRST, mi300x(), **properties)
    assert found.read() == Reading(2100, False, 1300, 680, 71, ())
    assert found.facts() == {
        "driver": "6.12.12",
        "ecc": True,
        "power_limit_w": 750.0,
        "persistence_mode": None,
        "max_sm_clock_mhz": 2100,
        "mig": False,
    }
    assert amd(monkeypatch, FIRST, FIRST, **properties).read() == Reading(None)
    assert amd(monkeypatch, FIRST, **properties).read().power_w == 100


def test_older_versions_of_amd_smi(monkeypatch):
    old = mi300x() | {
        ("clock_info", "gfx"): {"cur_clk": 1700},
        ("power_info",): {"current_socket_power": "N/A", "average_socket_power": 300},
        ("power_cap_info",): {"power_cap": 750},
        ("gpu_metrics_info",): {"indep_throttle_status": 1 << 36 | 1},
    }
    found = amd(monkeypatch, old)
    assert found.read()[:4] == (1700, True, 1300, 300)
    assert found.read().reasons == ("power cap", "hw thermal")
    assert found.facts()["power_limit_w"] == 750


def test_an_apu_says_little(monkeypatch):
    found = amd(monkeypatch, {("temp_metric", "edge", "current"): 55, ("gpu_metrics_info",): {}})
    assert found.read() == Reading(None, False, None, None, 55, None)


def test_amd_s_counters_count_from_look_to_look(monkeypatch):
    metrics = {"ppt_residency_acc": 10, "socket_thm_residency_acc": 5}
    found = amd(monkeypatch, mi300x() | {("gpu_metrics_info",): metrics})
    assert found.read().reasons == ()
    metrics["ppt_residency_acc"] += 1
    assert (found.read().reasons, found.read().reasons) == (("power cap",), ())
    metrics["socket_thm_residency_acc"] += 1
    assert found.read()[1:] == (True, 1300, 680, 71, ("hw thermal",))


@pytest.mark.parametrize(("said", "reasons"), [(True, ("throttled",)), (False, ()), ("N/A", None)])
def test_newer_versions_of_amd_smi_say_only_whether(monkeypatch, said, reasons):
    found = amd(monkeypatch, mi300x() | {("gpu_metrics_info",): {"indep_throttle_status": said}})
    assert (found.read().reasons, found.read().throttled) == (reasons, False)


def test_the_names_are_those_of_nvml():
    pynvml = pytest.importorskip("pynvml", reason="pip install nvidia-ml-py")
    for what in (
        "CurrentClocksEventReasons ClockInfo PowerUsage Temperature EccMode PersistenceMode EnforcedPowerLimit "
        "MaxClockInfo HandleByUUID HandleByPciBusId Count HandleByIndex DeviceHandleFromMigDeviceHandle"
    ).split():
        assert hasattr(pynvml, f"nvmlDeviceGet{what}")
    for bit, name in smi.NVML_REASONS.items():
        ours = name.replace(" ", "").replace("clocksset", "applicationsclockssetting").replace("idle", "gpuidle")
        theirs = {
            constant.removeprefix(f"nvmlClocks{kind}Reason").lower()
            for kind in ("Event", "Throttle")
            for constant in dir(pynvml)
            if constant.startswith(f"nvmlClocks{kind}Reason") and getattr(pynvml, constant) == bit
        }
        assert any(ours in constant for constant in theirs), (bit, name, theirs)
