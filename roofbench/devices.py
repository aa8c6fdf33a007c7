# SPDX-License-Identifier: MIT
"""The catalogue of devices, and which of them this is."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import platformdirs

Positive = Annotated[float, msgspec.Meta(gt=0, le=1e15)]  # TOML has infinity
Count = Annotated[int, msgspec.Meta(gt=0)]


class Units(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What computes: ``kind`` (SM, CU, GPU core, core) and how many."""

    kind: str
    count: Count


class ClockSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """GHz: the clock that the stated peaks assume, for some types another, and the highest the chip reports."""

    spec_ghz: Positive
    max_ghz: Positive | None = None
    peak_ghz: dict[str, Positive] = {}
    source: str

    def of(self, dtype: str) -> float:
        """The clock that the stated peak of a type assumes."""
        return self.peak_ghz.get(dtype, self.spec_ghz)


class Memory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bandwidth is bus_bits x rate_mtps / 8, decimal GB/s; `rounded` where the vendor states another figure."""

    type: str
    size_gb: list[Count]
    bus_bits: Count
    rate_mtps: Positive
    bandwidth_gbs: Positive
    rounded: bool = False
    source: str


class Caches(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """MB: the level that all units share, and the last level before memory where that is another one."""

    l2_mb: Positive | None = None
    llc_mb: Positive | None = None
    source: str


class Device(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of devices.toml. Peaks are TFLOP/s, 1e12, by input type; sums are f32 but for ``_f16acc``."""

    name: str
    vendor: str
    arch: str
    kind: Literal["gpu", "cpu"] = "gpu"
    year: int | None = None
    units: Units | None = None
    clock: ClockSpec | None = None
    memory: Memory | None = None
    caches: Caches | None = None
    flop_per_clock: dict[str, Positive] = {}
    dense_tflops: dict[str, Positive] = {}
    sparse_tflops: dict[str, Positive] = {}
    peaks_source: str = ""
    power: dict[str, Any] = {}
    price_usd: dict[str, Count] = {}
    interconnect: dict[str, Any] = {}
    reports_as: list[str] = []
    sources: list[str] = []
    aliases: list[str] = []
    notes: str = ""
    id: str = ""

    @property
    def llc_bytes(self) -> int | None:
        """What a cold measurement must overflow."""
        if self.caches is None:
            return None
        mb = max(self.caches.l2_mb or 0, self.caches.llc_mb or 0)
        return int(mb * 2**20) or None


class Host:
    """How the machine is asked about itself; tests bring another."""

    platform = sys.platform

    def run(self, *command: str) -> str | None:
        """Output of a command; None where it is missing, fails or takes 10 s."""
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout

    def read(self, path: str) -> str | None:
        try:
            return Path(path).read_text()
        except (OSError, UnicodeDecodeError):
            return None

    def glob(self, pattern: str) -> list[str]:
        return sorted(str(path) for path in Path("/").glob(pattern.lstrip("/")))


class Found(NamedTuple):
    """One device of this machine, as it reports itself.

    Args:
        kind: ``gpu`` or ``cpu``.
        units: GPU cores, compute units or cores; 0 where it does not say.
        memory_gib: 0 where it does not say.
        device: its entry in the catalogue; None where there is none, or no single one.
    """

    kind: str
    name: str
    arch: str
    units: int
    memory_gib: float
    device: Device | None


@cache
def catalogue() -> dict[str, Device]:
    """Every device by id, the user's own file last.

    Raises:
        ValueError: the user's file is wrong; names the file, the table and the field.
    """
    found = _load(Path(__file__).parent / "devices.toml")
    if user_file().exists():
        found |= _load(user_file())
    return found


def user_file() -> Path:
    """Where `roofbench devices add` writes."""
    return Path(platformdirs.user_config_dir("roofbench")) / "devices.toml"


def _load(path: Path) -> dict[str, Device]:
    try:
        tables = msgspec.toml.decode(path.read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from None
    found = {}
    for id, table in tables.items():
        try:
            found[id] = msgspec.structs.replace(msgspec.convert(table, Device), id=id)
        except msgspec.ValidationError as error:
            raise ValueError(f"{path}: [{id}]: {error}") from None
    return found


def device_of(name: str) -> Device:
    """By id or alias. Raises ValueError where there is no such device."""
    for id, device in catalogue().items():
        if name == id or name in device.aliases:
            return device
    raise ValueError(
        f"unknown device {name!r}; `roofbench devices` lists {len(catalogue())}, `roofbench devices add` adds this one"
    )


def detect(host: Host | None = None) -> list[Found]:
    """Devices of this machine, accelerators first, the CPU last."""
    host = host or Host()
    return [*_nvidia(host), *_amd(host), *_apple(host), _cpu(host)]


def _match(kind: str, names: Sequence[str], units: int, memory_gib: float, arch: str) -> Device | None:
    """The one entry that reports such a name and agrees in all else that the machine says."""
    matches = [
        device
        for device in catalogue().values()
        if device.kind == kind
        and any(name in device.reports_as for name in names)
        and (not units or device.units is None or device.units.count == units)
        and (not arch or device.arch.split()[0] in (arch, "metal"))
        and (not memory_gib or device.memory is None or _fits(memory_gib, device.memory.size_gb))
    ]
    return matches[0] if len(matches) == 1 else None


def _fits(gib: float, sizes_gb: list[int]) -> bool:
    """Whether reported memory is one of the sizes sold: firmware keeps up to a tenth."""
    return any(
        0.88 * size <= gib * 2**30 / 1e9 <= 1.08 * size or 0.88 * size <= gib <= 1.01 * size for size in sizes_gb
    )


def _nvidia(host: Host) -> list[Found]:
    text = host.run("nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits")
    found = []
    for line in (text or "").splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) != 3:
            continue
        name, mib, capability = fields
        gib = float(mib) / 1024 if re.fullmatch(r"[\d.]+", mib) else 0.0  # GB10 says [N/A]
        arch = f"sm_{capability.replace('.', '')}"
        found.append(Found("gpu", name, arch, 0, gib, _match("gpu", [name], 0, gib, arch)))
    return found


def _amd(host: Host) -> list[Found]:
    """Through the kernel's KFD topology, which needs no ROCm."""
    found = []
    for path in host.glob("/sys/class/kfd/kfd/topology/nodes/*/properties"):
        fields = dict(line.split()[:2] for line in (host.read(path) or "").splitlines() if len(line.split()) >= 2)
        version = int(fields.get("gfx_target_version", 0))
        if not version:
            continue  # a CPU node
        arch = f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}"
        units = int(fields.get("simd_count", 0)) // max(int(fields.get("simd_per_cu", 0)), 1)
        found.append(Found("gpu", arch, arch, units, 0.0, _match("gpu", [arch], units, 0.0, arch)))
    return found


def _apple(host: Host) -> list[Found]:
    if host.platform != "darwin":
        return []
    name = (host.run("sysctl", "-n", "machdep.cpu.brand_string") or "").strip()
    if not name.startswith("Apple"):
        return []
    cores = re.search(r'"gpu-core-count"\s*=\s*(\d+)', host.run("ioreg", "-rc", "AGXAccelerator", "-d1") or "")
    units = int(cores[1]) if cores else 0
    gib = int((host.run("sysctl", "-n", "hw.memsize") or "0").strip() or 0) / 2**30
    return [Found("gpu", name, "metal", units, gib, _match("gpu", [name], units, gib, "metal"))]


def _cpu(host: Host) -> Found:
    if host.platform == "darwin":
        name = (host.run("sysctl", "-n", "machdep.cpu.brand_string") or "").strip()
    else:
        info = host.read("/proc/cpuinfo") or ""
        fields = dict(re.findall(r"^([^\t:]+?)\s*: (.*)$", info, re.MULTILINE))
        name = fields.get("model name", "") or f"CPU part {fields.get('CPU part', 'unknown')}"
        if "cpu family" in fields:
            name += f" (family {fields['cpu family']}, model {fields['model']})"
    name = name or platform.processor() or platform.machine()
    cores = os.cpu_count() or 1
    return Found("cpu", name, platform.machine(), cores, 0.0, _match("cpu", [name], 0, 0.0, ""))


def last_level_cache(host: Host | None = None) -> int:
    """Bytes of all last-level CPU caches together; 64 MiB where the machine does not say.

    Of an Apple chip, the system cache if it is larger; 96 MiB, the largest, for one that is unknown.
    """
    host = host or Host()
    if host.platform == "darwin":
        l2 = sum(_apple_l2(host, level) for level in (0, 1))
        apple = _apple(host)
        system = (apple[0].device.llc_bytes if apple[0].device else None) or 96 << 20 if apple else 0
        return max(l2, system) or 64 << 20
    caches: dict[tuple[int, str], int] = {}
    for folder in host.glob("/sys/devices/system/cpu/cpu[0-9]*/cache/index*"):
        level, size = host.read(f"{folder}/level"), host.read(f"{folder}/size")
        shared = host.read(f"{folder}/shared_cpu_list")
        if level and size and shared and (host.read(f"{folder}/type") or "").strip() != "Instruction":
            caches[int(level), shared.strip()] = _bytes(size.strip())
    if not caches:
        return 64 << 20
    last = max(level for level, _ in caches)
    return sum(size for (level, _), size in caches.items() if level == last)


def _apple_l2(host: Host, level: int) -> int:
    """Bytes of L2 of all clusters of one kind of core."""
    keys = ("l2cachesize", "cpusperl2", "physicalcpu")
    text = [(host.run("sysctl", "-n", f"hw.perflevel{level}.{key}") or "").strip() for key in keys]
    if not all(value.isdigit() for value in text):
        return 0
    size, sharing, cores = map(int, text)
    return size * -(-cores // max(sharing, 1))


def hybrid(host: Host | None = None) -> bool:
    """Whether the CPU has cores of different speed."""
    host = host or Host()
    if host.platform == "darwin":
        return (host.run("sysctl", "-n", "hw.nperflevels") or "").strip() not in ("", "1")
    capacities = {host.read(path) for path in host.glob("/sys/devices/system/cpu/cpu[0-9]*/cpu_capacity")}
    return len(capacities) > 1 or bool(host.glob("/sys/devices/cpu_atom"))


def _bytes(size: str) -> int:
    factor = {"K": 2**10, "M": 2**20, "G": 2**30}.get(size[-1:], 1)
    return int(size.rstrip("KMG")) * factor


def stub(found: Found) -> str:
    """A table for devices.toml with what the machine says filled in, and what a person must add as comments."""
    id = re.sub(r"[^a-z0-9]+", "-", found.name.lower()).strip("-") or found.kind
    name = json.dumps(found.name, ensure_ascii=False)  # as TOML quotes it
    unit = {"gpu": "GPU core", "cpu": "core"}[found.kind]
    units = (
        f'units = {{ kind = "{unit}", count = {found.units} }}'
        if found.units
        else f'# units = {{ kind = "{unit}", count = ? }}'
    )
    return f"""[{id}]
name = {name}
vendor = "?"
arch = "{found.arch}"
kind = "{found.kind}"
reports_as = [{name}]
{units}
# Each figure with the page that states it. Without `memory` there is no % of spec for bandwidth.
# memory = {{ type = "?", size_gb = [?], bus_bits = ?, rate_mtps = ?, bandwidth_gbs = ?, source = "?" }}
# clock = {{ spec_ghz = ?, max_ghz = ?, source = "?" }}
# caches = {{ l2_mb = ?, llc_mb = ?, source = "?" }}
# flop_per_clock = {{ f32 = ?, bf16 = ? }}
# dense_tflops = {{ f32 = ?, bf16 = ? }}
# peaks_source = "?"
"""


def add_stub(found: Found) -> Path:
    """Append `stub` to the user's file.

    Raises:
        ValueError: the device is known already, or the file cannot be written.
    """
    if found.device is not None:
        raise ValueError(f"{found.name} is known already: {found.device.id}")
    path, text = user_file(), stub(found)
    table = text.splitlines()[0]
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        if table in before.splitlines():
            raise ValueError(f"{path} has a table {table} already: fill in what it lacks")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".tmp")
        partial.write_text(f"{before}\n{text}".lstrip("\n"), encoding="utf-8")
        partial.replace(path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: {error}") from None
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    catalogue.cache_clear()
    return path
