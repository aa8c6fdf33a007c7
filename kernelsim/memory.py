# SPDX-License-Identifier: MIT
"""Memory that ends at an unmapped page, so that an access past its end faults instead of reading what lies there.

Before its start it is NaN up to the page's, where the next unmapped one begins.
"""

import ctypes
import mmap
import sys
import threading
import weakref
from typing import Any

import numpy as np

POISON = 0xFF  # every byte: NaN in all floating types, -1 in integers
ALIGNMENT = 16  # of the widest access of one GPU thread
_AROUND = 1 << 30  # unmapped on both sides: an index gone wrong by 32 bits of bytes does not find other memory
_PAGE = mmap.PAGESIZE
_FILLING = b"\xfe\xff" * (_PAGE // 2 + 1)  # NaN in types of two bytes or more, but not what one who writes NaN writes
_ANONYMOUS = {"linux": 0x22 | 0x4000, "darwin": 0x1002 | 0x40}.get(sys.platform, 0x22)  # private, no swap reserved

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_NONE, _READ, _WRITE = 0, 1, 2


class Guarded:
    """Bytes that end, to a multiple of 16, at an unmapped page; the rest of their pages is filled and looked after."""

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
        if hasattr(mmap, "MADV_HUGEPAGE"):  # a fault for every 4 KiB takes five times as long as the copy
            _libc.madvise(self._start, self._inner, mmap.MADV_HUGEPAGE)
        self._room = (nbytes + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
        self.address = self._end - self._room
        for start, size in self._slack().values():
            ctypes.memmove(start, _FILLING[start % 2 :], size)

    def _protect(self, how: int) -> None:
        if self._inner and _libc.mprotect(self._start, self._inner, how):
            raise OSError(ctypes.get_errno(), "mprotect failed")

    def write_protect(self) -> None:
        """From now on a write faults."""
        self._protect(_READ)

    def _slack(self) -> dict[str, tuple[int, int]]:
        """Where the bytes are that nobody owns: address and size."""
        end = self.address + self.nbytes
        return {"past the end": (end, self._end - end), "before the start": (self._start, self.address - self._start)}

    def overrun(self) -> str | None:
        """Where a byte between the array and the unmapped pages has been written, if one has since this was asked."""
        for where, (start, size) in self._slack().items():
            filling = _FILLING[start % 2 : start % 2 + size]
            if ctypes.string_at(start, size) != filling:
                ctypes.memmove(start, filling, size)
                return where
        return None

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


_guarded: "weakref.WeakKeyDictionary[Guarded, str]" = weakref.WeakKeyDictionary()  # and how messages name them
_lock = threading.Lock()  # of it


def guarded_arrays() -> list[tuple[Guarded, str]]:
    """What lives of the memory that guarded() gave, and how messages name it."""
    with _lock:
        return list(_guarded.items())


def guarded(array: Any, *, writable: bool = True) -> np.ndarray[Any, Any]:
    """A copy of array, any shape and dtype, that ends at an unmapped page and, unless writable, faults when written."""
    array = np.asarray(array, order="C")
    memory = Guarded(array.nbytes)
    copy = memory.array(array.shape, array.dtype)
    copy[...] = array
    with _lock:
        _guarded[memory] = f"a guarded array ({array.nbytes} bytes{'' if writable else ', not writable'})"
    if not writable:
        memory.write_protect()
        copy.flags.writeable = False
    return copy


def poisoned(shape: int | tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    """An array with every byte 0xff: NaN in floating types, so that an element that is never written shows."""
    array: np.ndarray[Any, Any] = np.empty(shape, dtype)
    array.reshape(-1).view(np.uint8)[...] = POISON
    return array
