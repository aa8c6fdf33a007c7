# SPDX-License-Identifier: MIT
"""Lines that show a waiting person how far a run is."""

from __future__ import annotations

import sys

from rich.console import Console

from roofbench import output
from roofbench.results import Row
from roofbench.rows import RowSpec
from roofbench.session import Session
from roofbench.summary import headline


def line(session: Session, row: Row) -> str:
    """A row that is done, and how far the run is."""
    return f"{_count(session)} {f'{row.id}  kept: {row.status}' if row.key in session.kept else headline(row)}"


class Progress:
    """One line per row on standard error when it is done; on a terminal also the row that is under way."""

    def __init__(self, session: Session) -> None:
        console = Console(file=sys.stderr)
        self._session, self._width = session, console.width
        self._terminal = console.is_terminal and not console.is_dumb_terminal

    def before(self, spec: RowSpec) -> None:
        if self._terminal:
            output.note(f"{_count(self._session, 1)} {spec.blank().id} ..."[: self._width - 1], end="")

    def after(self, row: Row) -> None:
        if self._terminal:
            output.note("\r\x1b[2K", end="")
        output.note(line(self._session, row))


def _count(session: Session, more: int = 0) -> str:
    done, of = session.shown + more, len(session.specs)
    return f"[{done:>{len(str(of))}}/{of} {session.elapsed():4.0f} s]"
