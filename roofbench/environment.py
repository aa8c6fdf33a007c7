# SPDX-License-Identifier: MIT
"""Software and hardware that decide a result."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from roofbench import devices
from roofbench.backends import BACKENDS
from roofbench.backends.cpu import Cpu


def describe() -> dict[str, Any]:
    """By name; None where something cannot be found out."""
    cpu, cpu_backend = devices.detect()[-1], Cpu()
    built = cpu_backend.missing() is None
    packages = {}
    for name in ("numpy", "ml_dtypes", "torch", "mlx", "triton"):
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "os": platform.platform(),
        "machine": platform.machine(),
        "cpu": cpu.name,
        "cores": cpu.units,
        "isa": cpu_backend.isa() if built else None,
        "threads": cpu_backend.threads() if built else None,
        "llc_bytes": devices.last_level_cache(),
        "python": platform.python_version(),
        "compiler": cpu_backend.compiler() if built else None,
        "packages": packages,
        "roofbench": version(),
        "gpu": next((b.facts() for b in BACKENDS if b.accelerator and not b.missing()), None),
        "commit": _commit(),
    }


def of_gpu(gpu: Mapping[str, Any]) -> str:
    """What the GPU's driver says, in a line."""
    parts = [f"driver {gpu['driver']}"] if gpu.get("driver") else []
    parts.append(gpu["toolkit"])
    parts += [f"power limit {gpu['power_limit_w']:.0f} W"] if gpu.get("power_limit_w") else []
    for key, name in (("ecc", "ECC"), ("persistence_mode", "persistence")):
        if gpu.get(key) is not None:
            parts.append(f"{name} {'on' if gpu[key] else 'off'}")
    return ", ".join([*parts, *(["an instance of MIG"] if gpu.get("mig") else [])])


def version() -> str:
    """Of roofbench; in a checkout that is not installed, what its pyproject.toml says."""
    try:
        return metadata.version("roofbench")
    except metadata.PackageNotFoundError:
        text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
        found = re.search(r'^version = "(.+)"$', text, re.MULTILINE)
        return found[1] if found else "unknown"


def _commit() -> str | None:
    """Of the checkout that this runs from, with ``+changes`` where it has some; None in a wheel."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        dirty = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}+changes" if dirty else commit
