# SPDX-License-Identifier: MIT
"""What a person reads at the end of a run: one table, one sentence per op."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from statistics import median

from rich.console import Console
from rich.table import Table
from rich.text import Text

from roofbench.backends import BACKENDS
from roofbench.results import COUNTED, FAILURES, Row

_STYLE = {"OK": "green", "NOISY": "yellow", "THROTTLED": "yellow", "UNSUPPORTED": "dim"}
_WIDTH = 140  # where the output is no terminal
_NARROW = 125  # below, each case has a line of its own


def show(rows: Sequence[Row], console: Console | None = None) -> None:
    """Print the table, what is wrong with rows, and a sentence per op."""
    console = console or Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False)
    for backend in dict.fromkeys(row.backend for row in rows):
        mine = [row for row in rows if row.backend == backend]
        console.print(Text(_heading(backend), style="bold"))
        if console.width >= _NARROW:
            console.print(table(mine))
            continue
        groups = dict.fromkeys((row.op, _case(row)) for row in mine)
        for i, (op, case) in enumerate(groups):
            console.print(Text(f"{op} {case} ({backend})", style="italic"))
            console.print(short_table([row for row in mine if (row.op, _case(row)) == (op, case)], header=i == 0))
    for line in (*remarks(rows), *sentences(rows)):
        console.print(line, highlight=False, soft_wrap=True)


def _heading(name: str) -> str:
    """A file may come from a roofbench with more backends."""
    return next((backend.heading for backend in BACKENDS if backend.name == name), name)


def table(rows: Sequence[Row]) -> Table:
    """One line per row; a dash where a value is not known."""
    out = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("op", "case", "format", "backend"):
        out.add_column(name, no_wrap=True)
    for name in _NUMBERS:
        out.add_column(name, justify="right", no_wrap=True)
    out.add_column("status", no_wrap=True)
    for row in rows:
        out.add_row(row.op, _case(row), row.format, row.backend, *_numbers(row), _status(row))
    return out


def short_table(rows: Sequence[Row], *, header: bool) -> Table:
    """The same without op, case and backend, for 80 columns; widths are fixed so that several line up."""
    out = Table(box=None, pad_edge=False, header_style="dim", show_header=header, padding=(0, 1, 0, 0))
    out.add_column("format", no_wrap=True, width=10)
    for name, width in zip(_NUMBERS, (6, 13, 6, 6, 7, 12), strict=True):
        out.add_column(name, justify="right", no_wrap=True, width=width)
    out.add_column("status", no_wrap=True, width=11)
    for row in rows:
        out.add_row(row.format, *_numbers(row), _status(row))
    return out


_NUMBERS = ("µs", "rate", "% spec", "% roof", "% clock", "× rival")


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
    return Text(row.status, style=_STYLE.get(row.status, "bold red"))


def _case(row: Row) -> str:
    return row.case if row.cache == "cold" else f"{row.case} {row.cache}"


def headline(row: Row) -> str:
    """A row in one line."""
    if row.median_s is None:
        return f"{row.id}  {row.status}: {row.reason}"
    share = "" if row.pct_measured is None else f"  {_number(row.pct_measured)} % of the {row.roof.name} roof"
    return f"{row.id}  {_number(row.median_s * 1e6, 4)} µs  {_rate(row)}{share}  {row.status}"


def remarks(rows: Sequence[Row]) -> list[str]:
    """What a reader must know of rows that are not OK."""
    lines = []
    noisy = Counter(_noise(row.reason or "") for row in rows if row.status == "NOISY")
    if noisy:
        parts = ", ".join(f"{count} {kind}" for kind, count in noisy.most_common())
        lines.append(f"NOISY rows: {parts}. Close other programs, or take a longer suite.")
    lines += [
        f"{row.status} {row.id}: {row.reason}" for row in rows if row.status in (*FAILURES, "THROTTLED", "UNSUPPORTED")
    ]
    return lines


def _noise(reason: str) -> str:
    if reason.startswith("drifts"):
        return "drifted"
    if reason.startswith("bimodal"):
        return "had two speeds"
    return "had too few samples" if "are needed" in reason else "varied by more than 0.5 %"


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
        text = f"{op}: {middle:.0f} % of the measured roof"
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
        return f"{_number(row.tflops)} TFLOP/s" if row.tflops >= 1 else f"{_number(row.tflops * 1e3)} GFLOP/s"
    return "-" if row.gbps is None else f"{_number(row.gbps)} GB/s"


def _rival(row: Row) -> str:
    """The fastest rival's time over ours, and its name."""
    timed = [rival for rival in row.rivals if rival.speedup is not None]
    if not timed:
        return "-"
    best = min(timed, key=lambda rival: rival.speedup or 0.0)
    return f"{_number(best.speedup)} {best.name}"
