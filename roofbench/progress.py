# SPDX-License-Identifier: MIT
"""Lines that show a waiting person how far a run is."""

from __future__ import annotations

from typing import TextIO

from roofbench.results import Row
from roofbench.rows import RowSpec
from roofbench.session import Session
from roofbench.summary import headline


def line(session: Session, row: Row) -> str:
    """A row that is done, and how far the run is."""
    return f"{_count(session)} {headline(row)}"


class Progress:
    """One line per row when it is done; on a terminal also the row that is under way."""

    def __init__(self, session: Session, stream: TextIO) -> None:
        self._session, self._stream = session, stream
        self._terminal = stream.isatty()

    def before(self, spec: RowSpec) -> None:
        if self._terminal:
            self._stream.write(f"{_count(self._session, 1)} {spec.blank().id} ...")
            self._stream.flush()

    def after(self, row: Row) -> None:
        if self._terminal:
            self._stream.write("\r\x1b[2K")
        self._stream.write(f"{line(self._session, row)}\n")
        self._stream.flush()


def _count(session: Session, more: int = 0) -> str:
    done, of = len(session.run.rows) + more, len(session.specs)
    return f"[{done:>{len(str(of))}}/{of} {session.elapsed():4.0f} s]"
