# SPDX-License-Identifier: MIT
"""Measures a machine's GPU: numerics of every GPU backend on the device, then the suite, into a folder to commit.

    python tools/measure_gpu.py [--out results] [--suite standard]

Needs Python's packages of roofbench, torch and triton, and no network. It goes on past what fails and says so at the
end; each kernel has a time limit, and each stage's results are on disk when it ends:
results/<device>/<date>/{environment,numerics,standard}.json and standard.txt.
"""

import argparse
import contextlib
import datetime as dt
import io
import json
import re
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from roofbench import cli, devices, environment  # noqa: E402
from roofbench.backends import BACKENDS  # noqa: E402
from roofbench.op import TYPES  # noqa: E402
from roofbench.worker import Worker  # noqa: E402

NUMERICS_S = 150.0  # of all kernels together
LIMIT_S = 60.0  # of one


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "results")
    parser.add_argument("--suite", default="standard")
    options = parser.parse_args()
    backends = [backend for backend in BACKENDS if backend.accelerator]
    missing = {backend.name: reason for backend in backends if (reason := backend.missing())}
    ready = [backend for backend in backends if backend.name not in missing]
    if not ready:
        sys.exit("".join(f"backend {name}: {reason}\n" for name, reason in missing.items()) or "no GPU backend")
    folder = options.out / _slug(_gpu()) / dt.datetime.now(dt.timezone.utc).date().isoformat()
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "environment.json", {**environment.describe(), "gpu": _gpu(), "missing": missing})
    trouble = _numerics([backend.name for backend in ready], folder / "numerics.json")
    words = [part for backend in ready for part in ("--backend", backend.name)]
    table = io.StringIO()
    with contextlib.redirect_stdout(table):
        code = cli.main(["bench", "--suite", options.suite, *words, "--out", str(folder / f"{options.suite}.json")])
    (folder / f"{options.suite}.txt").write_text(table.getvalue())
    print(table.getvalue())
    for line in trouble:
        print(line)
    print(f"results are in {folder}")
    return int(bool(trouble) or code != 0)


def _numerics(backends: list[str], path: Path) -> list[str]:
    """Runs the hazards of every op x format; writes after each. Returns what was wrong."""
    pairs = [(name, op, format) for name in backends for op in TYPES if op != "probe" for format in TYPES[op]]
    found: dict[str, str] = {}
    worker, end = Worker(None), time.monotonic() + NUMERICS_S
    for i, (name, op, format) in enumerate(pairs):
        share = max(1.0, (end - time.monotonic()) / (len(pairs) - i))
        found[f"{name} {op} {format}"] = worker.numerics(name, op, format, share, LIMIT_S)
        print(f"[{i + 1}/{len(pairs)}] {name} {op} {format}: {found[f'{name} {op} {format}']}", file=sys.stderr)
        _write(path, found)
    worker.close()
    return [f"{what}: {result}" for what, result in found.items() if result.startswith(("INCORRECT", "ERROR"))]


def _gpu() -> str:
    return next((found.name for found in devices.detect() if found.kind == "gpu"), "gpu")


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _write(path: Path, content: dict[str, object]) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(content, indent=1, default=str) + "\n")
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())
