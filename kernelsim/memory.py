# SPDX-License-Identifier: MIT
"""Memory that ends at an unmapped page, so that an access past its end faults instead of reading what lies there."""

import ctypes
import mmap
import sys
from typing import Any

import numpy as np

POISON = 0xFF  # every byte: NaN in all floating types, -1 in integers
ALIGNMENT = 16  # of the widest access of one GPU thread
_AROUND = 1 << 30  # unmapped on both sides: an index gone wrong by 32 bits of bytes does not find other memory
_PAGE = mmap.PAGESIZE
_ANONYMOUS = {"linux": 0x22 | 0x4000, "darwin": 0x1002 | 0x40}.get(sys.platform, 0x22)  # private, no swap reserved

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_NONE, _READ, _WRITE = 0, 1, 2


class Guarded:
    """Bytes that end at an unmapped page; what is left to a multiple of 16 bytes is filled and looked after."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self._inner = (nbytes + _PAGE - 1) // _PAGE * _PAGE
        self._size = self._inner + 2 * _AROUND
        base = _libc.mmap(None, self._size, _NONE, _ANONYMOUS, -1, 0)
        if base in (None, ctypes.c_void_p(-1).value):
            raise MemoryError(f"cannot reserve address space for {nbytes} bytes")
        self._base = int(base)
        self._start = self._base + _AROUND
        self._end = self._start + self._inner
        self._protect(_READ | _WRITE)
        self._room = (nbytes + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
        self.address = self._end - self._room
        ctypes.memset(self.address + nbytes, POISON, self._room - nbytes)

    def _protect(self, how: int) -> None:
        if self._inner and _libc.mprotect(self._start, self._inner, how):
            raise OSError(ctypes.get_errno(), "mprotect failed")

    def write_protect(self) -> None:
        """From now on a write faults."""
        self._protect(_READ)

    def overrun(self) -> bool:
        """Whether a byte between the end and the unmapped page has been written."""
        return any(byte != POISON for byte in ctypes.string_at(self.address + self.nbytes, self._room - self.nbytes))

    def array(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
        """These bytes as an array, which keeps them alive."""
        raw: Any = (ctypes.c_ubyte * self.nbytes).from_address(self.address)
        raw.owner = self
        array: np.ndarray[Any, Any] = np.frombuffer(raw, dtype=np.uint8).view(dtype).reshape(shape)
        return array

    def where(self, address: int) -> str | None:
        """How `address` lies to these bytes, if it lies near."""
        if not self._base <= address < self._base + self._size:
            return None
        if address < self.address:
            return f"{self.address - address} bytes before the start"
        if address < self.address + self.nbytes:
            return f"at byte {address - self.address}"
        return f"{address - self.address - self.nbytes} bytes past the end"

    def __del__(self) -> None:
        if getattr(self, "_base", 0):
            _libc.munmap(self._base, self._size)


def guarded(array: Any, *, writable: bool = True) -> np.ndarray[Any, Any]:
    """A copy of array, any shape and dtype, that ends at an unmapped page and, unless writable, faults when written."""
    array = np.asarray(array, order="C")
    memory = Guarded(array.nbytes)
    copy = memory.array(array.shape, array.dtype)
    copy[...] = array
    if not writable:
        memory.write_protect()
        copy.flags.writeable = False
    return copy


def poisoned(shape: int | tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    """An array with every byte 0xff: NaN in floating types, so that an element that is never written shows."""
    array: np.ndarray[Any, Any] = np.empty(shape, dtype)
    array.reshape(-1).view(np.uint8)[...] = POISON
    return array
