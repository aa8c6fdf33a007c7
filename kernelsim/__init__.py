# SPDX-License-Identifier: MIT
"""Runs .metal and .cu sources on a CPU, with checks that a GPU does not give.

kernelsim.metal.load(path).kernel(name)(args, grid=, threadgroup=) runs Metal kernels; kernelsim.cuda.load() and
kernelsim.cuda.build() CUDA's. docs/kernelsim.md tells the rest.
"""

from kernelsim import cuda, metal
from kernelsim.errors import (
    ArgumentError,
    KernelFault,
    KernelSimError,
    ScheduleError,
    SourceError,
    TimeLimitExceeded,
    ToolchainError,
)
from kernelsim.memory import guarded, poisoned

__all__ = [
    "ArgumentError",
    "KernelFault",
    "KernelSimError",
    "ScheduleError",
    "SourceError",
    "TimeLimitExceeded",
    "ToolchainError",
    "cuda",
    "guarded",
    "metal",
    "poisoned",
]
