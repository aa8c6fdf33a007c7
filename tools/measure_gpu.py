# SPDX-License-Identifier: MIT
"""Measures a machine's GPU: numerics of every GPU kernel on the device, then the suite, into a folder to commit.

    python tools/measure_gpu.py [--out results] [--suite standard] [--seconds 480] [options of roofbench bench]

Needs torch, triton and `PACKAGES`, and no network: see docs/methodology.md, "A GPU without a network". It takes no
longer than --seconds, goes on past kernels that fail or hang, and each stage is on disk when it ends:
results/<device>/<date>/{environment,numerics,standard,standard-benchmark}.json and standard.txt. A second run of a day
gets a folder of its own. Exits with 0; 1: something is wrong, and said at the end; 2: nothing to measure; 130: stopped.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib.util
import io
import json
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

PACKAGES: tuple[str, ...] = (
    "filelock",
    "ml_dtypes",
    "msgspec",
    "numpy",
    "platformdirs",
    "psutil",
    "rich",
)
if sys.version_info < (3, 11):
    PACKAGES += ("tomli",)
FACES = ("pytest", "pytest_benchmark")  # without them, roofbench bench
NUMERICS_SHARE = 150 / 480  # of the time, for all kernels together
HUNG_SHARE = 60 / 480  # for one
VERDICTS = ("right", "right as far as time allowed", "not tried", "INCORRECT", "ERROR", "UNSUPPORTED")
STOP_SHARE = 20 / 480  # for a suite whose time is up to write what it has


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "results")
    parser.add_argument("--suite", default="standard")
    parser.add_argument("--seconds", type=float, default=480.0)
    for name in ("backend", "op", "format"):
        parser.add_argument(f"--{name}", action="append", default=[])
    options, rest = parser.parse_known_args()
    end = time.monotonic() + options.seconds
    if missing := _lacks(PACKAGES):
        return _refuse(_carry(missing))
    from roofbench import devices, session
    from roofbench.backends import BACKENDS

    try:
        _check(options)
    except ValueError as error:
        return _refuse(str(error))

    chosen = [backend for backend in BACKENDS if backend.name in options.backend or not options.backend]
    backends = {backend.name: backend.missing() for backend in chosen if backend.accelerator}
    ready = [name for name, reason in backends.items() if not reason]
    if not ready:
        return _refuse("\n".join(f"backend {name}: {reason}" for name, reason in backends.items()) or "no GPU backend")
    gpu = next((found.name for found in devices.detect() if found.kind == "gpu"), "gpu")
    lock = session.machine_lock()
    try:
        session.hold(lock)
        folder = _folder(options.out.resolve() / _slug(gpu))
    except ValueError as error:
        return _refuse(str(error))
    except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError before Python 3.13
        lock.release()
        return _refuse(f"--out {options.out}: {getattr(error, 'strerror', None) or error}")
    trouble: list[str] = []
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores one
            signal.signal(number, signal.default_int_handler)
    try:
        _environment(folder / "environment.json", gpu, backends)
        trouble += _numerics(ready, options, folder / "numerics.json")
        lock.release()  # the suite takes it
        trouble += _suite(ready, options, rest, folder, end - time.monotonic())
    except KeyboardInterrupt:
        trouble.append("interrupted")
    finally:
        lock.release()
    said = _said(folder / "numerics.json")
    table = _table(folder / f"{options.suite}.json")
    (folder / f"{options.suite}.txt").write_text("\n".join([gpu, *said, "", table, *trouble, ""]), encoding="utf-8")
    print("\n".join([*said, *trouble, f"results are in {folder}"]))
    return 130 if "interrupted" in trouble else int(bool(trouble))


def _check(options: argparse.Namespace) -> None:
    """Refuse words that the suite would refuse in some minutes. Raises ValueError, or exits as argparse does."""
    from roofbench import cli

    suite = argparse.ArgumentParser(prog="measure_gpu", add_help=False)
    cli.add_bench_options(suite.add_argument)
    given = suite.parse_args()
    given.suite, given.seconds = options.suite, options.seconds
    cli.bench_options(given)


def _lacks(names: Sequence[str]) -> list[str]:
    return [name for name in names if importlib.util.find_spec(name) is None]


def _refuse(why: str) -> int:
    print(f"measure_gpu: {why}", file=sys.stderr)
    return 2


def _carry(missing: Sequence[str]) -> str:
    """How modules come to a machine without a network."""
    names = " ".join(name.replace("_", "-") for name in missing)
    version = ".".join(platform.python_version_tuple()[:2])
    wheels = " ".join(f"--platform {tag}_{platform.machine()}" for tag in ("manylinux2014", "manylinux_2_28"))
    python = shlex.quote(sys.executable)
    return (
        f"missing: {names}\n"
        f"With a network: {python} -m pip install {names}\nWithout one, on a machine that has it:\n"
        f"  pip download -d wheels --only-binary=:all: --python-version {version} {wheels} {names}\n"
        "then here, with the folder wheels:\n"
        f"  {python} -m pip install --no-index --find-links wheels --target build/packages {names}\n"
        f"  PYTHONPATH=build/packages make gpu PYTHON={python}"
    )


def _folder(device: Path) -> Path:
    """A new one for today: results/<device>/2026-11-23, 2026-11-23-2, ..."""
    today = dt.datetime.now(dt.timezone.utc).date().isoformat()
    for i in range(1, 1000):
        folder = device / (today if i == 1 else f"{today}-{i}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(f"{device} has a thousand runs of today")


def _environment(path: Path, gpu: str, backends: dict[str, str | None]) -> None:
    from roofbench import environment

    missing = {f"backend {name}": reason for name, reason in backends.items() if reason}
    missing |= dict.fromkeys(_lacks(FACES), "measured by roofbench bench, without pytest-benchmark's file")
    _write(path, {**environment.describe(), "device": gpu, "missing": missing})


def _numerics(backends: Sequence[str], options: argparse.Namespace, path: Path) -> list[str]:
    """Runs the hazards of every op x format; writes after each. Returns what was wrong."""
    from roofbench.op import TYPES
    from roofbench.worker import Worker

    ops = [op for op in TYPES if op != "probe" and op in (options.op or TYPES)]
    kernels = [
        (name, op, format)
        for name in backends
        for op in ops
        for format in TYPES[op]
        if format in (options.format or TYPES[op])
    ]
    found: dict[str, str] = {}
    limit_s = HUNG_SHARE * options.seconds
    worker, end = Worker(None), time.monotonic() + NUMERICS_SHARE * options.seconds
    try:
        for i, (name, op, format) in enumerate(kernels):
            what, left = f"{name} {op} {format}", end - time.monotonic()
            if left > 0:
                found[what] = worker.numerics(name, op, format, left / (len(kernels) - i), limit_s)
            else:
                found[what] = "not tried: the time was up"
            print(f"[{i + 1}/{len(kernels)}] {what}: {found[what]}", file=sys.stderr)
            _write(path, found)
    finally:
        worker.close()
    for line in _said(path):
        print(line, file=sys.stderr)
    untried = [what for what, result in found.items() if _verdict(result) == VERDICTS[2]]
    trouble = [f"{what}: {result}" for what, result in found.items() if result.startswith(("INCORRECT", "ERROR"))]
    return trouble + ([f"{len(untried)} not tried: {', '.join(untried)}"] if untried else [])


def _said(path: Path) -> list[str]:
    """Numerics in one line."""
    if not path.exists():
        return []
    found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    counts = Counter(sorted((_verdict(result) for result in found.values()), key=VERDICTS.index))
    return [f"numerics of {len(found)} kernels: {', '.join(f'{n} {verdict}' for verdict, n in counts.items())}"]


def _verdict(result: str) -> str:
    """What came of a kernel, without its figures."""
    if right := re.fullmatch(r"right at (\d+) of (\d+)", result):
        return VERDICTS[0] if right[1] == right[2] else VERDICTS[1] if right[1] != "0" else VERDICTS[2]
    return result.partition(":")[0]


def _suite(
    backends: Sequence[str], options: argparse.Namespace, rest: Sequence[str], folder: Path, seconds: float
) -> list[str]:
    """Measures the rows. Returns what was wrong."""
    rows, stop_s = folder / f"{options.suite}.json", STOP_SHARE * options.seconds
    words = ["--suite", options.suite, "--out", str(rows), "--seconds", f"{max(1.0, seconds - 2 * stop_s):.0f}"]
    for name, values in (("backend", backends), ("op", options.op), ("format", options.format)):
        words += [word for value in values for word in (f"--{name}", value)]
    replayed = f"--benchmark-json={folder / f'{options.suite}-benchmark.json'}"
    faces = [["pytest", "bench/", "--benchmark-only", "--benchmark-quiet", "-q", "-p", "no:cacheprovider", replayed]]
    code: int | str = 0
    end = time.monotonic() + seconds - stop_s
    for face in [*([] if _lacks(FACES) else faces), ["roofbench", "bench"]]:
        code = _limited([sys.executable, "-m", *face, *words, *rest], max(1.0, end - time.monotonic()), stop_s)
        if rows.exists() or isinstance(code, str):  # else that pytest is too old, or a plugin of it fails
            break
    return [] if code == 0 else [f"the suite ended with {code}"] if isinstance(code, int) else [code]


def _limited(command: Sequence[str], seconds: float, stop_s: float) -> int | str:
    """Its exit code, or why it had to be stopped: by an interrupt, and where that does not help, at once."""
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        why = "the suite was stopped: its time was up"
    except KeyboardInterrupt:
        why = "interrupted"
    process.send_signal(signal.SIGINT)
    try:
        process.wait(stop_s)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return why


def _table(path: Path) -> str:
    from rich.console import Console

    from roofbench import results, summary

    text = io.StringIO()
    try:
        summary.show(results.load(path), Console(file=text, width=140, highlight=False, markup=False))
    except ValueError as error:
        return f"no rows: {error}\n"
    return text.getvalue()


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _write(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())
