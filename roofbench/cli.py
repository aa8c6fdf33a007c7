# SPDX-License-Identifier: MIT
"""The command line: ``roofbench devices`` and ``roofbench bench``."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from roofbench import output

if TYPE_CHECKING:
    from roofbench.plan import Options
    from roofbench.session import Session

# All else is imported where it is needed, so that Ctrl-C finds `main` there.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. 0: done; 1: a result is impossible or wrong; 2: bad input; 130: interrupted."""
    output.prepare()
    try:
        return _main(arguments)
    except KeyboardInterrupt:
        output.note("roofbench: interrupted")
        return 130
    finally:
        output.finish()


def _main(arguments: Sequence[str] | None) -> int:
    if sys.platform == "win32":
        output.note("roofbench does not run on native Windows: open WSL2 (wsl --install) and run it there.")
        return 2
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except (ValueError, OSError) as error:
        output.note(f"roofbench: {error}")
        return 2
    return code


def add_bench_options(add: object) -> None:
    """The options that `roofbench bench` and pytest share; `add` is an argparse or pytest ``addoption``."""
    from roofbench.op import SUITES

    many = {"action": "append", "default": [], "metavar": "NAME"}
    for name, words in (
        ("suite", {"default": "quick", "metavar": "NAME", "help": f"how much: {', '.join(SUITES)}"}),
        ("model", {**many, "help": "a model's layers, instead of the suite's choice; may be repeated"}),
        ("op", {**many, "help": "only this op; may be repeated"}),
        ("format", {**many, "help": "only this weight format; may be repeated"}),
        ("backend", {**many, "help": "only this backend; may be repeated"}),
        ("device", {"default": None, "metavar": "NAME", "help": "the device this is, where it is not recognised"}),
        ("rival", {**many, "help": "only this rival, or none; may be repeated"}),
        ("source", {"type": _path, "default": None, "metavar": "FILE", "help": "a C file of yours with our launchers"}),
        ("seconds", {"type": float, "default": None, "metavar": "S", "help": "what the run may take, not the suite's"}),
        ("seed", {"type": int, "default": 0, "help": "of every buffer's contents"}),
        ("out", {"type": _path, "default": None, "metavar": "FILE", "help": "result file (roofbench-runs/...)"}),
        ("resume", {"type": _path, "default": None, "metavar": "FILE", "help": "keep the rows of an unfinished run"}),
    ):
        add(f"--{name}", **words)  # type: ignore[operator]


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("the name is empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{os.fsencode(text)!r} is not valid UTF-8") from None
    return Path(text)


def bench_options(given: argparse.Namespace) -> Options:
    """Options of a run from parsed words. Raises ValueError where a name is unknown."""
    from roofbench.plan import Options

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
        seconds=given.seconds,
    )


def _parser() -> argparse.ArgumentParser:
    from roofbench.environment import version

    parser = argparse.ArgumentParser(
        prog="roofbench", description="How close LLM kernels come to the ceilings of this machine."
    )
    parser.add_argument("--version", action="version", version=f"roofbench {version()}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    bench = commands.add_parser("bench", help="measure this machine")
    add_bench_options(bench.add_argument)
    bench.add_argument("--json", action="store_true", help="print the result file instead of the table")
    bench.add_argument("--sweep", action="store_true", help="try every configuration that kernels offer, cold")
    bench.set_defaults(run=_bench)

    show = commands.add_parser("devices", help="the catalogue, and which of it this is")
    show.add_argument("--json", action="store_true", help="print JSON")
    show.set_defaults(run=_devices)
    actions = show.add_subparsers(metavar="add")
    add = actions.add_parser("add", help="write a stub for this device into your own catalogue")
    add.set_defaults(run=_add_device)
    return parser


def _bench(options: argparse.Namespace) -> int:
    from roofbench import session
    from roofbench.progress import Progress
    from roofbench.results import FAILURES

    wanted = bench_options(options)
    if options.sweep:
        return _sweep(options, wanted)
    before = session.resume(options.resume, wanted) if options.resume else None
    run = session.Session(wanted, options.out, output.note, options.resume)
    trouble: ValueError | KeyboardInterrupt | None = None
    try:
        run.start(before)
        progress = Progress(run)
        for spec in run.specs:
            progress.before(spec)
            progress.after(run.measure(spec))
    except (ValueError, KeyboardInterrupt) as error:
        output.note("")  # below the row that was under way
        trouble = error
    try:
        run.finish()
        if run.run.rows or not trouble:
            _report(run, as_json=options.json)
    except ValueError as error:
        trouble = trouble or error
    again = run.again()
    if again:
        output.note(f"To go on: {again}")
    if isinstance(trouble, ValueError):
        raise trouble
    if trouble:
        output.note("roofbench: interrupted")
        return 130
    return int(any(row.status in FAILURES for row in run.run.rows))


def _sweep(options: argparse.Namespace, wanted: Options) -> int:
    import json

    import msgspec

    from roofbench import session, summary, sweep

    if options.resume:
        raise ValueError("--resume: a sweep starts anew; --op, --format and --model choose what it tries")
    run = session.Session(wanted, options.out, output.note)
    path = run.path if options.out else run.path.with_name(f"{run.path.stem}-sweep.json")
    try:
        file = sweep.sweep(run, path, output.note)
    finally:
        run.finish()
    text = io.StringIO()
    if options.json:
        text.write(json.dumps(msgspec.json.decode(msgspec.json.encode(file)), indent=1) + "\n")
    else:
        sweep.show(file, summary.console(text))
    output.write(text.getvalue())
    output.note(str(path))
    if file.interrupted:
        output.note("roofbench: interrupted")
    return 130 if file.interrupted else int(file.failed)


def _report(run: Session, *, as_json: bool) -> None:
    """Results on standard output; the name of their file in any case."""
    import json

    import msgspec

    from roofbench import summary

    if as_json:
        text = json.dumps(msgspec.json.decode(msgspec.json.encode(run.run)), indent=1) + "\n"  # ASCII only
    else:
        text = summary.text(run.run)
    try:
        output.write(text)
    finally:
        output.note(f"\n{run.path}")


def _devices(options: argparse.Namespace) -> int:
    import json

    import msgspec

    from roofbench import devices, summary

    found = devices.detect()
    if options.json:
        here = [{**f._asdict(), "device": f.device.id if f.device else None} for f in found]
        catalogue = {id: msgspec.to_builtins(device) for id, device in devices.catalogue().items()}
        output.write(json.dumps({"found": here, "catalogue": catalogue}, indent=1) + "\n")
        return 0
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
    text = io.StringIO()
    console = summary.console(text)
    console.print(table)
    console.print("TFLOP/s are dense, with f32 sums, at the clock that the vendor states.\n")
    for f in found:
        units = f", {f.units} {'cores' if f.kind == 'cpu' else 'units'}" if f.units else ""
        console.print(f"This machine's {f.kind}: {f.name}{units}: {f.device.id if f.device else 'unknown'}")
    if not any(f.device for f in found):
        console.print("An unknown device gets no % of spec. `roofbench devices add` writes a stub to fill in.")
    output.write(text.getvalue())
    return 0


def _add_device(_: argparse.Namespace) -> int:
    from roofbench import devices

    found = next((f for f in devices.detect() if f.device is None), None)
    if found is None:
        raise ValueError("every device of this machine is known already")
    path = devices.add_stub(found)
    ask = "fill in what the comments ask for, each figure with its source"
    output.write(f"{path} has a stub for {found.name}: {ask}.\n")
    return 0
