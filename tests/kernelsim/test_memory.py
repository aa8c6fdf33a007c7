# SPDX-License-Identifier: MIT
"""Arrays that end at an unmapped page: what faults is looked at in a child process."""

import ctypes
import subprocess
import sys

import numpy as np
import pytest

from kernelsim import guarded, poisoned
from kernelsim.memory import Guarded


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5), (4096,), (4097,)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float64])
def test_a_guarded_copy_is_a_copy(shape, dtype):
    array = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    copy = guarded(array)
    assert np.array_equal(copy, array)
    assert copy.dtype == array.dtype
    assert copy.ctypes.data % 16 == 0 or not copy.nbytes
    copy[...] = 1


def fault(code):
    done = subprocess.run([sys.executable, "-c", f"import numpy as np, ctypes, kernelsim\n{code}"], check=False)
    return -done.returncode


OFFSETS = [(4095, 0), (4096, 11), (-1, 11), (1 << 20, 11), (-(1 << 20), 11)]


@pytest.mark.parametrize("writable", [True, False])
@pytest.mark.parametrize(("offset", "signal"), OFFSETS)
def test_reads_outside_fault(writable, offset, signal):
    make = f"a = kernelsim.guarded(np.zeros(4096, np.uint8), writable={writable})"
    assert fault(f"{make}; ctypes.string_at(a.ctypes.data + {offset}, 1)") == signal


@pytest.mark.parametrize("writable", [True, False])
def test_writes_to_what_is_read_only_fault(writable):
    code = f"a = kernelsim.guarded(np.zeros(64), writable={writable}); ctypes.memset(a.ctypes.data, 0, 1)"
    assert fault(code) == (0 if writable else 11)


def test_bytes_between_the_end_and_the_page_are_looked_after():
    memory = Guarded(10)
    array = memory.array((10,), np.uint8)
    array[...] = 1
    assert not memory.overrun()
    assert memory.where(memory.address + 12) == "2 bytes past the end"
    assert memory.where(memory.address - 3) == "3 bytes before the start"
    assert memory.where(memory.address + 3) == "at byte 3"
    assert memory.where(0) is None
    np.frombuffer((np.ctypeslib.ctypes.c_uint8 * 16).from_address(memory.address), np.uint8)[12] = 0
    assert memory.overrun() == "past the end"


@pytest.mark.parametrize("offset", [-1, -4080])
def test_what_lies_before_the_start_is_no_number_and_looked_after(offset):
    memory = Guarded(16)
    byte = ctypes.c_uint8.from_address(memory.address + offset)
    assert byte.value in (0xFE, 0xFF)
    byte.value ^= 0xFE ^ 0xFF
    assert memory.overrun() == "before the start"


def test_poison_is_nan_or_minus_one():
    for dtype in (np.float16, np.float32, np.float64):
        assert np.isnan(poisoned((2, 3), dtype)).all()
    assert (poisoned(4, np.int16) == -1).all()
    assert poisoned((), np.int8) == -1
