# SPDX-License-Identifier: MIT
"""A library of CUDA host launchers, as cuda.build() makes it."""

import ctypes
from pathlib import Path
from typing import Any

from kernelsim import arguments, toolchain
from kernelsim.errors import ArgumentError
from kernelsim.launch import CONVERGENCE, SCHEDULES, Bound, Fault, Options, as_error, check_overruns, default_workers
from kernelsim.memory import guarded_arrays


class _Options(ctypes.Structure):  # Options of host.hpp
    _fields_ = [
        ("schedule", ctypes.c_int),
        ("seed", ctypes.c_uint32),
        ("convergence", ctypes.c_int),
        ("workers", ctypes.c_int),
        ("seconds", ctypes.c_double),
    ]


class HostLibrary:
    """A shared library of host launchers.

    Its path can be given to ctypes, cffi or a linker like that of the library that nvcc makes; it needs the engine's
    library, which lies beside it in the cache, as nvcc's needs CUDA's runtime. The cache is pruned: copy both to keep
    them. Device memory is memory of the process:
    launchers may be given NumPy's, or kernelsim.guarded() arrays.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.functions = toolchain.load(path)
        self.functions.ksim_last_error.restype = ctypes.c_char_p
        self.functions.ksim_last_fault.restype = ctypes.POINTER(Fault)
        self.configure()

    def configure(self, **options: Any) -> None:
        """How grids are run from now on, see Options; a fault that nothing worked after is forgotten."""
        chosen = Options(**arguments.known_options(options))
        fields = _Options(
            SCHEDULES.index(chosen.schedule),
            chosen.seed,
            CONVERGENCE.index(chosen.convergence),
            chosen.workers or default_workers(),
            chosen.time_limit,
        )
        self.functions.ksim_configure(ctypes.byref(fields))

    def error(self) -> str:
        """What went wrong last, with file, line, kernel, block and thread where a kernel did it; "" if nothing did."""
        fault = self.fault()
        return str(fault) if fault else str(self.functions.ksim_last_error().decode(errors="replace"))

    def fault(self) -> Exception | None:
        """The last error as an exception, if it was a kernel's fault."""
        name = ctypes.c_char_p()
        found = self.functions.ksim_last_fault(ctypes.byref(name))
        if not found:
            return None
        kernel = (name.value or b"").decode(errors="replace")
        named = [Bound(words, memory, const=False) for memory, words in guarded_arrays()]
        return as_error(found.contents, kernel, self.path, named, "block")

    def check(self, code: int) -> None:
        """Raises what a code other than 0, which a launcher has returned, stands for; looks beside guarded() arrays.

        Raises:
            KernelFault: a kernel did what it must not do. ArgumentError: otherwise, with the error's words.
        """
        if code:
            raise self.fault() or ArgumentError(f"error {code}: {self.error()}")
        check_overruns(
            self.path.name, [Bound(words, memory, const=False) for memory, words in guarded_arrays()], "block"
        )
