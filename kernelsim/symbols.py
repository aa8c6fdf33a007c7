# SPDX-License-Identifier: MIT
"""Which line of a kernel's source an instruction of its library belongs to."""

import bisect
import functools
import shutil
import subprocess
import sys
from pathlib import Path

from elftools.elf.elffile import ELFFile

Place = tuple[str, int]


def place(library: Path, offset: int) -> Place | None:
    """File and line of the instruction at `offset` of a library compiled with -gline-tables-only; None if unknown."""
    if not library.exists():  # a cache that was pruned since
        return None
    if sys.platform == "darwin":
        return _atos(library, offset)
    starts, places = _lines(library)
    i = bisect.bisect_right(starts, offset) - 1
    return places[i] if i >= 0 else None


@functools.lru_cache(maxsize=16)
def _lines(library: Path) -> tuple[list[int], list[Place | None]]:
    """Addresses in rising order, and the place of the instructions from each to the next."""
    rows: list[tuple[int, bool, Place | None]] = []
    with library.open("rb") as file:
        elf = ELFFile(file)
        if not elf.has_dwarf_info():
            return [], []
        dwarf = elf.get_dwarf_info()
        for unit in dwarf.iter_CUs():
            program = dwarf.line_program_for_CU(unit)
            if program is None:
                continue
            first = 0 if program.header.version >= 5 else 1  # DWARF 5 counts files from 0
            # Folder 0 is that of the compilation, in which the name is as the compiler was given it.
            folders = ["", *map(_text, program.header.include_directory[1 - first :])]
            files = [str(Path(folders[entry.dir_index], _text(entry.name))) for entry in program.header.file_entry]
            for entry in program.get_entries():
                state = entry.state
                if state is None:
                    continue
                known = state.line and not state.end_sequence and 0 <= state.file - first < len(files)
                spot = (files[state.file - first], state.line) if known else None
                rows.append((state.address, not state.end_sequence, spot))
    rows.sort(key=lambda row: row[:2])
    return [row[0] for row in rows], [row[2] for row in rows]


def _text(name: bytes | str) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else name


def _atos(library: Path, offset: int) -> Place | None:
    tool = shutil.which("atos")
    if not tool:
        return None
    done = subprocess.run(
        [tool, "-o", str(library), "-offset", hex(offset)], capture_output=True, text=True, check=False
    )
    tail = done.stdout.strip().rpartition("(")[2].rstrip(")")
    file, _, line = tail.rpartition(":")
    return (file, int(line)) if line.isdigit() else None
