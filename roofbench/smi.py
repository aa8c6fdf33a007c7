# SPDX-License-Identifier: MIT
"""What a GPU's driver says of it: NVML (module pynvml, of nvidia-ml-py) or AMD SMI (module amdsmi), both optional.

The device is the one that torch uses, found by its UUID or its place on the PCI bus: torch's first device need not be
the driver's (CUDA_VISIBLE_DEVICES, MIG). What is not supported, as the memory clock of a GB10, or implausible is None.
"""

from __future__ import annotations

import importlib
from typing import Any, Protocol

from roofbench.telemetry import Reading

# Plausible values: above the first, up to the second.
CLOCK_MHZ, MEMORY_CLOCK_MHZ, POWER_W, TEMPERATURE_C = (0, 10_000), (0, 40_000), (0, 5_000), (0, 150)

# Bits of nvml.h, nvmlClocksEventReason*.
NVML_REASONS = {
    0x001: "idle",
    0x002: "clocks set",
    0x004: "power cap",
    0x008: "hw slowdown",
    0x010: "sync boost",
    0x020: "sw thermal",
    0x040: "hw thermal",
    0x080: "power brake",
    0x100: "display clocks",
    0x200: "board limit",
    0x400: "reliability",
}
# AMD: counters of time spent so, or bits of the kernel's amdgpu_smu.h, SMU_THROTTLER_*_BIT.
AMD_COUNTERS = {
    "ppt_residency_acc": "power cap",
    "prochot_residency_acc": "hw thermal",
    "socket_thm_residency_acc": "hw thermal",
    "vr_thm_residency_acc": "hw thermal",
    "hbm_thm_residency_acc": "hw thermal",
}
AMD_BITS = {0xFFFF: "power cap", 0xFFFF << 16: "current", 0xFFFF << 32: "hw thermal", 0xFFFF << 48: "reliability"}
HOT = {"hw slowdown", "sw thermal", "hw thermal", "power brake"}  # a power cap lowers clocks by design


class Sensors(Protocol):
    """One device's."""

    def read(self) -> Reading:
        """What it does now."""
        ...

    def facts(self) -> dict[str, Any]:
        """What it is set to: ``driver``, ``ecc``, ``power_limit_w``, ``persistence_mode``, ...; None if not known."""
        ...


class Mute:
    """Of a device that nothing is known of."""

    def read(self) -> Reading:
        return Reading(None)

    def facts(self) -> dict[str, Any]:
        return {}


def sensors(properties: Any) -> Sensors:
    """Of the device that torch gives these properties; `Mute` where the library is missing or does not know it."""
    is_amd = str(getattr(properties, "gcnArchName", "")).startswith("gfx")
    try:
        return Amd(properties) if is_amd else Nvidia(properties)
    except Exception:  # noqa: BLE001 - whatever a missing or failing library raises
        return Mute()


class Nvidia:
    """Raises whatever NVML raises, or LookupError."""

    def __init__(self, properties: Any) -> None:
        self._nvml = importlib.import_module("pynvml")
        self._nvml.nvmlInit()
        self._mig = False  # an instance has no sensors of its own: all is of the whole GPU
        self._device = self._find(properties)

    def read(self) -> Reading:
        sm, memory, sensor = (
            getattr(self._nvml, f"NVML_{name}") for name in ("CLOCK_SM", "CLOCK_MEM", "TEMPERATURE_GPU")
        )
        bits = self._get("CurrentClocksEventReasons")
        bits = self._get("CurrentClocksThrottleReasons") if bits is None else bits  # before driver 535
        return _reading(
            _plausible(self._get("ClockInfo", sm), *CLOCK_MHZ),
            _plausible(self._get("ClockInfo", memory), *MEMORY_CLOCK_MHZ),
            _plausible(self._get("PowerUsage"), *POWER_W, scale=1e-3),
            _plausible(self._get("Temperature", sensor), *TEMPERATURE_C),
            None if bits is None else [name for bit, name in NVML_REASONS.items() if bits & bit],
        )

    def facts(self) -> dict[str, Any]:
        ecc, persistence = self._get("EccMode"), self._get("PersistenceMode")
        return {
            "driver": _text(_ask(self._nvml, "nvmlSystemGetDriverVersion")),
            "ecc": None if ecc is None else bool(ecc[0]),
            "power_limit_w": _plausible(self._get("EnforcedPowerLimit"), *POWER_W, scale=1e-3),
            "persistence_mode": None if persistence is None else bool(persistence),
            "max_sm_clock_mhz": _plausible(self._get("MaxClockInfo", self._nvml.NVML_CLOCK_SM), *CLOCK_MHZ),
            "mig": self._mig,
        }

    def _get(self, what: str, *arguments: Any) -> Any:
        return _ask(self._nvml, f"nvmlDeviceGet{what}", self._device, *arguments)

    def _find(self, properties: Any) -> Any:
        nvml, uuid, bus = self._nvml, str(getattr(properties, "uuid", "")), _bus(properties)
        if uuid:
            uuid = uuid.removeprefix("GPU-").removeprefix("MIG-")
            if device := _ask(nvml, "nvmlDeviceGetHandleByUUID", f"GPU-{uuid}"):
                return device
            if instance := _ask(nvml, "nvmlDeviceGetHandleByUUID", f"MIG-{uuid}"):
                self._mig = True
                return nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(instance)
        if bus and (device := _ask(nvml, "nvmlDeviceGetHandleByPciBusId", f"{bus}.0")):
            return device
        if nvml.nvmlDeviceGetCount() == 1:
            return nvml.nvmlDeviceGetHandleByIndex(0)
        raise LookupError("torch's device is none of NVML's")


class Amd:
    """Raises whatever AMD SMI raises, or LookupError."""

    def __init__(self, properties: Any) -> None:
        self._smi = importlib.import_module("amdsmi")
        self._smi.amdsmi_init()
        self._device = self._find(properties)
        self._counters: dict[str, int] = {}

    def read(self) -> Reading:
        clocks, heat = self._smi.AmdSmiClkType, self._smi.AmdSmiTemperatureType
        now = self._smi.AmdSmiTemperatureMetric.CURRENT
        power = self._get("power_info") or {}
        names = ("current_socket_power", "average_socket_power", "socket_power")
        watts = (_plausible(power.get(name), *POWER_W) for name in names)
        degrees = (
            _plausible(self._get("temp_metric", kind, now), *TEMPERATURE_C) for kind in (heat.HOTSPOT, heat.EDGE)
        )
        return _reading(
            _plausible(self._clock(clocks.GFX), *CLOCK_MHZ),
            _plausible(self._clock(clocks.MEM), *MEMORY_CLOCK_MHZ),
            next((w for w in watts if w is not None), None),
            next((c for c in degrees if c is not None), None),
            self._reasons(),
        )

    def facts(self) -> dict[str, Any]:
        blocks, cap = self._get("gpu_ecc_enabled"), (self._get("power_cap_info") or {}).get("power_cap")
        microwatts = isinstance(cap, int) and cap > POWER_W[1]  # newer versions
        clock = self._get("clock_info", self._smi.AmdSmiClkType.GFX) or {}
        return {
            "driver": _text((self._get("gpu_driver_info") or {}).get("driver_version")),
            "ecc": None if blocks is None else bool(blocks),
            "power_limit_w": _plausible(cap, *POWER_W, scale=1e-6 if microwatts else 1.0),
            "persistence_mode": None,
            "max_sm_clock_mhz": _plausible(clock.get("max_clk"), *CLOCK_MHZ),
            "mig": False,
        }

    def _get(self, what: str, *arguments: Any) -> Any:
        return _ask(self._smi, f"amdsmi_get_{what}", self._device, *arguments)

    def _clock(self, kind: Any) -> Any:
        info = self._get("clock_info", kind) or {}
        return info.get("clk", info.get("cur_clk"))

    def _reasons(self) -> list[str] | None:
        """What has counted on since the last look, or what is said to hold now."""
        metrics = self._get("gpu_metrics_info") or {}
        now = {name: metrics[name] for name in AMD_COUNTERS if _is_whole(metrics.get(name))}
        before, self._counters = self._counters, now
        if now:
            return list(dict.fromkeys(AMD_COUNTERS[name] for name in now if now[name] > before.get(name, now[name])))
        bits = metrics.get("indep_throttle_status")
        if isinstance(bits, bool):  # newer versions say no more than that
            return ["throttled"] if bits else []
        return [name for mask, name in AMD_BITS.items() if bits & mask] if isinstance(bits, int) else None

    def _find(self, properties: Any) -> Any:
        smi, devices = self._smi, self._smi.amdsmi_get_processor_handles()
        bus, serial = _bus(properties), _serial(properties)
        for device in devices:
            place = _text(_ask(smi, "amdsmi_get_gpu_device_bdf", device)) or ""
            asic = _ask(smi, "amdsmi_get_gpu_asic_info", device) or {}
            theirs = (_text(asic.get("asic_serial")) or "").lower().removeprefix("0x")
            if (bus and place.lower().startswith(bus)) or (serial and theirs == serial):
                return device
        if len(devices) == 1:
            return devices[0]
        raise LookupError("torch's device is none of AMD SMI's")


def _bus(properties: Any) -> str | None:
    """``0000:c1:00`` where torch says it."""
    try:
        domain, bus, device = (int(getattr(properties, f"pci_{name}_id")) for name in ("domain", "bus", "device"))
    except (AttributeError, TypeError, ValueError):
        return None
    return f"{domain:04x}:{bus:02x}:{device:02x}"


def _serial(properties: Any) -> str | None:
    """HIP's UUID is the text of the serial number, 16 hexadecimal digits."""
    try:
        return bytes.fromhex(str(properties.uuid).replace("-", "")).decode("ascii").lower()
    except (AttributeError, ValueError):
        return None


def _reading(
    clock: float | None, memory: float | None, power: float | None, heat: float | None, reasons: list[str] | None
) -> Reading:
    held = None if reasons is None else tuple(reasons)
    return Reading(clock, bool(HOT & set(held or ())), memory, power, heat, held)


def _ask(library: Any, name: str, *arguments: Any) -> Any:
    """An answer; None where there is none."""
    try:
        return getattr(library, name)(*arguments)
    except Exception:  # noqa: BLE001 - each library has its own, and older ones lack functions
        return None


def _plausible(value: Any, low: float, high: float, scale: float = 1.0) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value * scale if low < value * scale <= high else None


def _text(value: Any) -> str | None:
    return value.decode(errors="replace") if isinstance(value, bytes) else value if isinstance(value, str) else None


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
