# SPDX-License-Identifier: MIT
"""Software and hardware that decide a result."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from roofbench import devices
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
        "roofbench": metadata.version("roofbench"),
        "commit": _commit(),
    }


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
