# SPDX-License-Identifier: MIT
"""What a person reads at the end of a run: one table, what the machine can do, one sentence per op."""

from __future__ import annotations

import io
import sys
from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from roofbench.backends import BACKENDS
from roofbench.backends.base import VECTOR
from roofbench.results import COUNTED, FAILURES, Row, Run

_STYLE = {"OK": "green", "NOISY": "yellow", "THROTTLED": "yellow", "UNSUPPORTED": "dim"}
_WIDTH = 140  # where the output is no terminal
_BUSY = 0.1  # of all cores, used by other programs
_NUMBERS = {"µs": 6, "rate": 13, "% spec": 6, "% roof": 6, "% clock": 7, "× rival": 12}  # widths where tables line up


def text(run: Run) -> str:
    """Table and sentences as standard output takes them."""
    file = io.StringIO()
    show(run, console(file))
    return file.getvalue()


def console(file: TextIO) -> Console:
    """Collects what is meant for standard output, as wide as the terminal."""
    terminal = sys.stdout.isatty()
    width = None if terminal else _WIDTH
    return Console(file=file, force_terminal=terminal, width=width, highlight=False, markup=False)


def show(run: Run, to: Console) -> None:
    """Print the table, what is wrong with rows, and a sentence per op."""
    for backend in dict.fromkeys(row.backend for row in run.rows):
        mine = [row for row in run.rows if row.backend == backend]
        columns = [name for i, name in enumerate(_NUMBERS) if any(_numbers(row)[i] != "-" for row in mine)]
        to.print(Text(_heading(backend), style="bold"))
        tables = (table(mine, tuple(_NUMBERS), backend=True), table(mine, columns, backend=False))
        fits = [one for one in tables if to.measure(one, options=to.options.update(width=1000)).maximum <= to.width]
        if fits:
            to.print(fits[0])
            continue
        groups = dict.fromkeys((row.op, _case(row)) for row in mine)
        for i, (op, case) in enumerate(groups):
            to.print(Text(f"{op} {case}", style="italic"))
            rows = [row for row in mine if (row.op, _case(row)) == (op, case)]
            to.print(short_table(rows, columns, header=i == 0))
    to.print()
    for line in (busy(run), *machine(run), *remarks(run.rows), *sentences(run.rows)):
        if line:
            to.print(Text(line))


def _heading(name: str) -> str:
    """A file may come from a roofbench with more backends."""
    return next((backend.heading for backend in BACKENDS if backend.name == name), name)


def table(rows: Sequence[Row], columns: Sequence[str], *, backend: bool) -> Table:
    """One line per row; a dash where a value is not known. No wider than its contents: see `show`."""
    out = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("op", "case", "format", *(["backend"] if backend else [])):
        out.add_column(name, no_wrap=True)
    for name in columns:
        out.add_column(name, justify="right", no_wrap=True)
    out.add_column("status", no_wrap=True)
    for row in rows:
        first = (row.op, _case(row), row.format, *([row.backend] if backend else []))
        out.add_row(*first, *_some(row, columns), _status(row))
    return out


def short_table(rows: Sequence[Row], columns: Sequence[str], *, header: bool) -> Table:
    """The same without op and case, for narrow terminals; widths are fixed so that several line up."""
    out = Table(box=None, pad_edge=False, header_style="dim", show_header=header, padding=(0, 1, 0, 0))
    out.add_column("format", no_wrap=True, width=10)
    for name in columns:
        out.add_column(name, justify="right", no_wrap=True, width=_NUMBERS[name])
    out.add_column("status", no_wrap=True, width=11)
    for row in rows:
        out.add_row(row.format, *_some(row, columns), _status(row))
    return out


def _some(row: Row, columns: Sequence[str]) -> list[str]:
    return [text for name, text in zip(_NUMBERS, _numbers(row), strict=True) if name in columns]


def _numbers(row: Row) -> tuple[str, ...]:
    return (
        _number(row.median_s and row.median_s * 1e6, 4),
        _rate(row),
        _number(row.pct_spec),
        _number(row.pct_measured),
        _number(row.pct_clock),
        _rival(row),
    )


def _status(row: Row) -> Text:
    return Text(row.status + "*" * _is_narrow(row), style=_STYLE.get(row.status, "bold red"))


def _is_narrow(row: Row) -> bool:
    """Whether its launch took another path than that of wide accesses."""
    return row.path not in (None, VECTOR)


def _case(row: Row) -> str:
    return row.case if row.cache == "cold" else f"{row.case} {row.cache}"


def headline(row: Row) -> str:
    """A row in one line."""
    if row.median_s is None:
        return f"{row.id}  {row.status}: {row.reason}"
    share = "" if row.pct_measured is None else f"  {_number(row.pct_measured)} % of the {row.roof.name} roof"
    return f"{row.id}  {_number(row.median_s * 1e6, 4)} µs  {_rate(row)}{share}  {row.status}"


def busy(run: Run) -> str | None:
    """That other programs were using the machine when the run began."""
    share = run.telemetry["before"]["busy_share"]
    if share <= _BUSY:
        return None
    return f"The machine is busy: others use {share:.0%} of its cores; results will be off."


def machine(run: Run) -> list[str]:
    """What each backend's probes found that its device can do, and what an empty launch takes."""
    lines = []
    for backend in dict.fromkeys([*(roof.backend for roof in run.roofs), *run.floors_s]):
        mine = [roof for roof in run.roofs if roof.backend == backend]
        rates = {roof.name: max(variant.rate for variant in roof.variants) for roof in mine if roof.variants}
        rows = [row for row in run.rows if (row.op, row.backend) == ("probe", backend)]  # measured for longer
        rates |= {row.case: 1e9 * row.gbps for row in rows if row.gbps is not None}
        rates |= {row.case: 1e12 * row.tflops for row in rows if row.tflops is not None}
        verbs = {"read": "reads", "write": "writes", "copy": "copies"}
        parts = [f"{verb} {_number(rates[name] / 1e9)} GB/s" for name, verb in verbs.items() if name in rates]
        peak = max((rates[name] for name in ("fma", "matrix") if name in rates), default=None)
        parts += [f"{_flops(peak / 1e12)} of f32 multiply-adds"] if peak else []
        others = ((name.removeprefix("matrix_"), rate) for name, rate in rates.items() if name.startswith("matrix_"))
        parts += [f"{_flops(rate / 1e12)} of {format}" for format, rate in others]
        how = [", ".join(parts)] if parts else []
        if backend == "cpu":
            how.append(f"{run.environment['threads']} threads, {run.environment['isa']}")
        if run.floors_s.get(backend):
            how.append(f"an empty launch takes {_number(run.floors_s[backend] * 1e6, 2)} µs")
        name = "This machine" if _alone(run.rows) else _heading(backend)
        lines += [f"{name}: {'; '.join(how)}."] if how else []
        for roof in mine:
            if roof.failed:
                of, reason = len(roof.variants) + len(roof.failed), next(iter(roof.failed.values()))
                lines.append(f"{len(roof.failed)} of {of} variants of the probe {roof.name} failed: {reason}")
    return lines


def _alone(rows: Sequence[Row]) -> bool:
    """Whether all rows are of one backend, which then need not be named."""
    return len({row.backend for row in rows}) <= 1


def remarks(rows: Sequence[Row]) -> list[str]:
    """What a reader must know of rows that are not OK."""
    lines = []
    noisy = Counter(_noise(row.reason or "") for row in rows if row.status == "NOISY")
    if noisy:
        parts = ", ".join(f"{count} {kind}" for kind, count in noisy.most_common())
        lines.append(f"NOISY rows: {parts}. Close other programs, or take a longer suite.")
    for path in dict.fromkeys(row.path for row in rows if _is_narrow(row)):
        ids = [row.id for row in rows if row.path == path]
        more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
        lines.append(f"* {path}: {ids[0]}{more}: its sizes or addresses allow no wide loads and stores.")
    bad = [row for row in rows if row.status in (*FAILURES, "THROTTLED", "UNSUPPORTED")]
    for status, reason in dict.fromkeys((row.status, row.reason) for row in bad):
        ids = [row.id for row in bad if (row.status, row.reason) == (status, reason)]
        more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
        lines.append(f"{status} {ids[0]}{more}: {reason}")
    return lines


def _noise(reason: str) -> str:
    """The kind of a reason of the engine's."""
    for words, kind in (
        ("drifts", "drifted"),
        ("bimodal", "had two speeds"),
        ("too short", "were too short for the clock"),
        ("samples fitted", "had too few samples"),
        ("turns fitted", "had too few turns"),
    ):
        if words in reason:
            return kind
    return "varied by more than 0.5 %"


def sentences(rows: Sequence[Row]) -> list[str]:
    """How far each op of each backend is from the measured roof, and where most can be gained."""
    lines = []
    for backend, op in dict.fromkeys((row.backend, row.op) for row in rows if row.op != "probe"):
        mine = [
            row
            for row in rows
            if (row.backend, row.op) == (backend, op) and row.status in COUNTED and row.pct_measured is not None
        ]
        if not mine:
            continue
        shares = sorted(row.pct_measured or 0.0 for row in mine)
        worst = min(mine, key=lambda row: row.pct_measured or 0.0)
        middle = median(shares)
        name = op if _alone(rows) else f"{_heading(backend)}, {op}"
        text = f"{name}: {middle:.0f} % of the measured roof"
        if len(mine) > 1:
            text += f" (median of {len(mine)} rows, {shares[0]:.0f} to {shares[-1]:.0f})"
        text += f": {_verdict(middle)}"
        if len(mine) > 1 and shares[0] < 90:
            text += f"; most in {worst.format} {worst.case}"
        lines.append(f"{text}.")
    return lines


def _verdict(percent: float) -> str:
    if percent >= 95:
        return "nothing left to gain"
    if percent >= 85:
        return "little left to gain"
    if percent >= 60:
        return f"up to {100 / percent:.1f} × left to gain"
    return f"most of the machine is unused, up to {100 / percent:.1f} × left to gain"


def _number(value: float | None, digits: int = 3) -> str:
    if value is None:
        return "-"
    whole = f"{value:.0f}"
    return whole if len(whole) >= digits else f"{value:.{digits}g}"


def _rate(row: Row) -> str:
    if row.bound == "compute" and row.tflops is not None:
        return _flops(row.tflops)
    return "-" if row.gbps is None else f"{_number(row.gbps)} GB/s"


def _flops(tflops: float) -> str:
    return f"{_number(tflops)} TFLOP/s" if tflops >= 1 else f"{_number(tflops * 1e3)} GFLOP/s"


def _rival(row: Row) -> str:
    """The fastest rival's time over ours, and its name."""
    timed = [rival for rival in row.rivals if rival.speedup is not None]
    if not timed:
        return "-"
    best = min(timed, key=lambda rival: rival.speedup or 0.0)
    return f"{_number(best.speedup)} {best.name}"
