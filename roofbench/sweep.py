# SPDX-License-Identifier: MIT
"""Which configuration of a kernel is fastest: each that its file offers, cold, beside the one that it takes now.

A sweep changes nothing: it prints a table, and lines that a person may put into the file. Each configuration passes
the gate first. It is timed in turns with the present one, since machines drift; the best is timed again for longer,
because the best of many is partly the luckiest.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from roofbench import results
from roofbench.engine import Rules
from roofbench.rows import RowSpec
from roofbench.session import Session
from roofbench.trials import Trial
from roofbench.worker import WorkerError

TRIED = Rules(cap_s=0.3, min_s=0.02, warmup_s=0.02, min_samples=20, max_ci95_rel=0.01)
CONFIRMED = Rules(cap_s=2.0, min_s=0.2)
GAIN = 1.01  # what a configuration must be faster by, with 95 % confidence, to be worth a line


class Shape(msgspec.Struct, kw_only=True):
    """One kernel at some sizes. best: confirmed; the present configuration where none is faster."""

    op: str
    backend: str
    format: str
    case: str
    file: str
    chip: str
    sizes: dict[str, int]
    fields: list[str]
    present: str
    best: Trial | None = None
    reason: str | None = None
    trials: list[Trial] = []

    @property
    def counts(self) -> bool:
        """Whether the best was timed and can be true."""
        return self.best is not None and self.best.status in results.COUNTED

    @property
    def gains(self) -> bool:
        """Whether another configuration is worth a line."""
        best = self.best
        return self.counts and best is not None and best.ratio_ci95 is not None and best.ratio_ci95[0] > GAIN


class Sweep(msgspec.Struct, kw_only=True):
    """The file."""

    schema: int = results.SCHEMA
    created: str
    command: str
    finished: bool = False
    interrupted: bool = False
    device: dict[str, object]
    environment: dict[str, object]
    shapes: list[Shape] = []

    @property
    def failed(self) -> bool:
        """Whether a configuration is wrong or impossible, or the best one fails; others may well not run."""
        tried = (trial.status in ("INCORRECT", "SUSPECT") for shape in self.shapes for trial in shape.trials)
        return any(tried) or any(shape.best.status in results.FAILURES for shape in self.shapes if shape.best)


def sweep(run: Session, path: Path, say: Callable[[str], None]) -> Sweep:
    """Try every configuration of every shape of a run's plan. What there is is on disk after each, and when stopped.

    Raises:
        ValueError: there is nothing to try, another run has the machine, or the file cannot be written.
    """
    header = run.run
    file = Sweep(created=header.created, command=header.command, device=header.device, environment=header.environment)
    run.take()
    start, limit_s = time.monotonic(), run.options.seconds or math.inf
    try:
        found = _shapes(run)
        results.save(file, path)
        for i, (spec, shape, ways) in enumerate(found):
            name = f"{shape.op} {shape.format} {_sizes(shape)}"
            say(f"[{i + 1}/{len(found)} {time.monotonic() - start:4.0f} s] {name}: {1 + len(ways)} configurations")
            file.shapes.append(shape)
            if time.monotonic() > start + limit_s:
                shape.reason = "not tried: the time was up"
            else:
                _try_all(run, spec, shape, ways, start + limit_s, say)
            file.finished = len(file.shapes) == len(found) and not any(shape.reason for shape in file.shapes)
            results.save(file, path)
    except KeyboardInterrupt:
        file.interrupted = True
        results.save(file, path)
    except WorkerError as error:
        raise ValueError(str(error)) from None
    return file


def _shapes(run: Session) -> list[tuple[RowSpec, Shape, dict[str, dict[str, int]]]]:
    """Each kernel and sizes once, whatever models have them."""
    found: list[tuple[RowSpec, Shape, dict[str, dict[str, int]]]] = []
    seen: set[tuple[object, ...]] = set()
    reasons: dict[str, None] = {}
    for spec in run.specs:
        case = spec.case
        if spec.cache != "cold" or case.op == "probe":
            continue
        ways = run.worker.ways(spec)
        if isinstance(ways, str):
            reasons[ways] = None
            continue
        key = (spec.backend, case.op, case.format, *ways.sizes.values())
        if key not in seen:
            seen.add(key)
            shape = Shape(op=case.op, backend=spec.backend, format=case.format, case=case.name, file=ways.file,
                          chip=ways.chip, sizes=ways.sizes, fields=list(ways.fields), present=ways.present)  # fmt: skip
            found.append((spec, shape, ways.others))
    if not found:
        raise ValueError(f"nothing to sweep: {'; '.join(reasons) or 'no cold row of a kernel is selected'}")
    return found


def _try_all(
    run: Session,
    spec: RowSpec,
    shape: Shape,
    ways: Mapping[str, dict[str, int]],
    deadline: float,
    say: Callable[[str], None],
) -> None:
    for config, way in ways.items():
        if time.monotonic() > deadline:
            shape.reason = f"{len(ways) - len(shape.trials)} configurations were not tried: the time was up"
            break
        trial = run.worker.trial(spec, config, way, TRIED, roof=False)
        shape.trials.append(trial)
        if trial.median_s is None:
            say(f"  {config}: {trial.status}: {trial.reason}")
    timed = [trial for trial in shape.trials if trial.ratio]
    best = max(timed, key=lambda trial: trial.ratio or 0.0, default=None)
    config = best.config if best and (best.ratio or 0.0) > 1 else shape.present
    shape.best = run.worker.trial(spec, config, ways.get(config, {}), CONFIRMED, roof=True)


def _sizes(shape: Shape) -> str:
    return " ".join(map(str, shape.sizes.values()))


def show(file: Sweep, to: Console) -> None:
    """A table for each kernel, what failed, and lines for the kernel's file."""
    groups: dict[tuple[str, str, str], list[Shape]] = {}
    for shape in file.shapes:
        groups.setdefault((shape.file, shape.format, shape.chip), []).append(shape)
    for (source, format, chip), shapes in groups.items():
        to.print(Text(f"{source}, {format} on {chip}", style="bold"))
        to.print(Text(f"Configurations are {', '.join(shapes[0].fields)}.\n"))
        to.print(_table(shapes))
        for line in (*_failures(shapes), "", *_lines(shapes)):
            to.print(Text(line), soft_wrap=True)
        to.print()


def _table(shapes: Sequence[Shape]) -> Table:
    out = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    for name, justify in ((" ".join(shapes[0].sizes), "left"), ("present", "left"), ("µs", "right"), ("best", "left"),
                          ("µs", "right"), ("×", "right"), ("% roof", "right")):  # fmt: skip
        out.add_column(name, justify=justify)  # type: ignore[arg-type]
    for shape in shapes:
        best, present = shape.best, shape.present.partition("(")[2].rstrip(")")
        if best is None or not shape.counts or best.median_s is None or best.present_s is None:
            out.add_row(_sizes(shape), present, "-", best.status if best else "-", "-", "-", "-")
            continue
        chosen = best.config.partition("(")[2].rstrip(")") if shape.gains else "the same"
        took = best.median_s if shape.gains else best.present_s
        ratio = f"{best.ratio:.2f}" if shape.gains and best.ratio else "1.00"
        share = best.pct_measured and best.pct_measured * best.median_s / took
        out.add_row(
            *(_sizes(shape), present, f"{best.present_s * 1e6:.4g}", chosen, f"{took * 1e6:.4g}", ratio),
            "-" if share is None else f"{share:.0f}",
        )
    return out


def _failures(shapes: Sequence[Shape]) -> Iterator[str]:
    """Configurations that were not timed, and best ones that do not count, by reason."""
    for shape in shapes:
        if shape.reason:
            yield f"{_sizes(shape)}: {shape.reason}"
    failed = [(shape, trial) for shape in shapes for trial in shape.trials if trial.median_s is None]
    failed += [(shape, shape.best) for shape in shapes if shape.best and not shape.counts]
    for reason in dict.fromkeys(f"{trial.status}: {trial.reason}" for _, trial in failed):
        of = [(shape, trial) for shape, trial in failed if f"{trial.status}: {trial.reason}" == reason]
        more = f" and {len(of) - 1} more" if len(of) > 1 else ""
        yield f"{of[0][1].config} at {_sizes(of[0][0])}{more}: {reason}"


def _lines(shapes: Sequence[Shape]) -> Iterator[str]:
    """As the file may have them: sizes -> configuration."""
    better = [shape for shape in shapes if shape.gains]
    untimed = [shape for shape in shapes if shape.best is None or shape.best.median_s is None]
    if untimed:
        yield f"{', '.join(map(_sizes, untimed))}: nothing could be timed."
    if not any(shape.counts for shape in shapes):
        return
    if not better:
        yield "No configuration is faster than the present one by 1 %, with 95 % confidence."
        return
    first = shapes[0]
    yield f"# {first.chip}, {first.format}: ({', '.join(first.sizes)}) -> Config({', '.join(first.fields)})"
    for shape in better:
        assert shape.best is not None
        sizes = ", ".join(map(str, shape.sizes.values()))
        yield f"({sizes}): {shape.best.config},  # {shape.best.ratio:.2f} x {shape.present}"
