# SPDX-License-Identifier: MIT
"""The command line: ``roofbench devices`` and ``roofbench bench``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from roofbench import devices
from roofbench.op import SUITES
from roofbench.results import FAILURES

if TYPE_CHECKING:
    from roofbench.session import Options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. 0: done; 1: a result is impossible or wrong; 2: bad input; 130: interrupted."""
    if sys.platform == "win32":
        print("roofbench does not run on native Windows: open WSL2 (wsl --install) and run it there.", file=sys.stderr)
        return 2
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except (ValueError, OSError) as error:
        print(f"roofbench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("roofbench: interrupted", file=sys.stderr)
        return 130
    return code


def add_bench_options(add: object) -> None:
    """The options that `roofbench bench` and pytest share; `add` is an argparse or pytest ``addoption``."""
    many = {"action": "append", "default": [], "metavar": "NAME"}
    for name, words in (
        ("suite", {"default": "quick", "metavar": "NAME", "help": f"how much: {', '.join(SUITES)}"}),
        ("model", {**many, "help": "a model's layers, instead of the suite's choice; may be repeated"}),
        ("op", {**many, "help": "only this op; may be repeated"}),
        ("format", {**many, "help": "only this weight format; may be repeated"}),
        ("backend", {**many, "help": "only this backend; may be repeated"}),
        ("device", {"default": None, "metavar": "NAME", "help": "the device this is, where it is not recognised"}),
        ("rival", {**many, "help": "only this rival, or none; may be repeated"}),
        ("source", {"type": Path, "default": None, "metavar": "FILE", "help": "a C file of yours with our launchers"}),
        ("seed", {"type": int, "default": 0, "help": "of every buffer's contents"}),
        ("out", {"type": Path, "default": None, "metavar": "FILE", "help": "result file (roofbench-runs/...)"}),
        ("resume", {"type": Path, "default": None, "metavar": "FILE", "help": "keep the rows of an unfinished run"}),
    ):
        add(f"--{name}", **words)  # type: ignore[operator]


def bench_options(given: argparse.Namespace) -> Options:
    """Options of a run from parsed words. Raises ValueError where a name is unknown."""
    from roofbench.session import Options

    rivals = None if not given.rival else tuple(name for name in given.rival if name != "none")
    return Options(
        suite=given.suite,
        models=tuple(given.model),
        ops=tuple(given.op),
        formats=tuple(given.format),
        backends=tuple(given.backend),
        device=given.device,
        rivals=rivals,
        source=given.source,
        seed=given.seed,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="roofbench", description="How close LLM kernels come to the ceilings of this machine."
    )
    parser.add_argument("--version", action="version", version=f"roofbench {metadata.version('roofbench')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    bench = commands.add_parser("bench", help="measure this machine")
    add_bench_options(bench.add_argument)
    bench.add_argument("--json", action="store_true", help="print the result file instead of the table")
    bench.set_defaults(run=_bench)

    show = commands.add_parser("devices", help="the catalogue, and which of it this is")
    show.add_argument("--json", action="store_true", help="print JSON")
    show.set_defaults(run=_devices)
    actions = show.add_subparsers(metavar="add")
    add = actions.add_parser("add", help="write a stub for this device into your own catalogue")
    add.set_defaults(run=_add_device)
    return parser


def _bench(options: argparse.Namespace) -> int:
    from roofbench import session, summary
    from roofbench.progress import Progress

    wanted = bench_options(options)
    done = session.resume(options.resume, wanted) if options.resume else []
    run = session.Session(wanted, options.out, say=lambda line: print(line, file=sys.stderr))
    try:
        run.start(done)
        progress = Progress(run, sys.stderr)
        for spec in run.specs:
            progress.before(spec)
            progress.after(run.measure(spec))
    finally:
        run.finish()
    if options.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(run.run), indent=1).decode() + "\n")
    else:
        summary.show(run.run.rows)
    print(f"\n{run.path}", file=sys.stderr)
    return int(any(row.status in FAILURES for row in run.run.rows))


def _devices(options: argparse.Namespace) -> int:
    found = devices.detect()
    if options.json:
        here = [{**f._asdict(), "device": f.device.id if f.device else None} for f in found]
        catalogue = {id: msgspec.to_builtins(device) for id, device in devices.catalogue().items()}
        print(json.dumps({"found": here, "catalogue": catalogue}, indent=1))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("device", "name"):
        table.add_column(name, overflow="fold")
    for name in ("GB", "GB/s", "f32", "bf16", "fp8", "fp4"):
        table.add_column(name, justify="right", no_wrap=True)
    for id, device in devices.catalogue().items():
        memory, peaks = device.memory, device.dense_tflops
        table.add_row(
            id,
            device.name,
            "/".join(str(size) for size in memory.size_gb) if memory else "-",
            f"{memory.bandwidth_gbs:g}" if memory else "-",
            *(f"{peaks[type]:g}" if type in peaks else "-" for type in ("f32", "bf16", "fp8", "fp4")),
        )
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(table)
    console.print("TFLOP/s are dense, with f32 sums, at the clock that the vendor states.\n")
    for f in found:
        units = f", {f.units} {'cores' if f.kind == 'cpu' else 'units'}" if f.units else ""
        console.print(f"This machine's {f.kind}: {f.name}{units}: {f.device.id if f.device else 'unknown'}")
    if not any(f.device for f in found):
        console.print("An unknown device gets no % of spec. `roofbench devices add` writes a stub to fill in.")
    return 0


def _add_device(_: argparse.Namespace) -> int:
    found = next((f for f in devices.detect() if f.device is None), None)
    if found is None:
        raise ValueError("every device of this machine is known already")
    path = devices.add_stub(found)
    print(f"{path} has a stub for {found.name}: fill in what the comments ask for, each figure with its source.")
    return 0
