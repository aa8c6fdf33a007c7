# SPDX-License-Identifier: MIT
"""Standard streams as they come: closed, cut off, full, or without the signs that we write."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TextIO


def prepare() -> None:
    """Open what the caller closed, whose numbers would become those of other files, and replace unknown signs."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, mode)  # noqa: PTH123, SIM115 - as long as the process
            os.set_inheritable(stream.fileno(), True)  # the child's too
            setattr(sys, name, stream)
        elif isinstance(stream, io.TextIOWrapper) and mode == "w":
            stream.reconfigure(errors="replace")


def write(text: str) -> None:
    """To standard output, at once. Raises ValueError where it takes no more; who stopped reading is not told."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _silence(sys.stdout)
    except OSError as error:
        _silence(sys.stdout)
        raise ValueError(f"standard output: {error.strerror}") from None


def note(text: str, end: str = "\n") -> None:
    """To standard error, at once, where it can be written."""
    try:
        sys.stderr.write(f"{text}{end}")
        sys.stderr.flush()
    except OSError:
        _silence(sys.stderr)


def finish() -> None:
    """Leave nothing behind that Python would fail to write when it exits."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            _silence(stream)


def _silence(stream: TextIO) -> None:
    """From now on it goes nowhere."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
