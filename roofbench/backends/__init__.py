# SPDX-License-Identifier: MIT
"""What runs kernels. A backend is one module here and one name in `BACKENDS`."""

from __future__ import annotations

from roofbench.backends.base import Backend
from roofbench.backends.cpu import Cpu
from roofbench.backends.cuda import Cuda
from roofbench.backends.numpy_ import NumPy
from roofbench.backends.triton_ import Triton

# The backend that best uses the machine stands first.
BACKENDS: tuple[Backend, ...] = (Triton(), Cuda(), Cpu(), NumPy())


def backend_of(name: str) -> Backend:
    """Raises ValueError where there is no such backend."""
    for backend in BACKENDS:
        if backend.name == name:
            return backend
    raise ValueError(f"unknown backend {name!r}; known: {' '.join(b.name for b in BACKENDS)}")
