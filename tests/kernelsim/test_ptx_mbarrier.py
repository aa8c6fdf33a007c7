# SPDX-License-Identifier: MIT
"""mbarrier and the copies that complete on one."""

from pathlib import Path

import numpy as np
import pytest

from kernelsim import cuda
from kernelsim.errors import KernelFault

TEMPLATES = [f"{name}<{flag}>" for name in ("bulk_copy", "async_copy", "bulk_store") for flag in ("true", "false")]
POISON = 0xFFFFFFFF


@pytest.fixture(scope="module")
def library():
    return cuda.load(Path(__file__).parent / "kernels" / "mbarrier.cu", arch="sm_90a", kernels=TEMPLATES)


@pytest.mark.parametrize("schedule", ["forward", "reverse", "random"])
@pytest.mark.parametrize("tiles", [1, 2, 3, 8])
def test_a_pipeline_of_two_stages(library, schedule, tiles):
    x = np.random.default_rng(0).integers(0, 1000, 128 * tiles).astype(np.uint32)
    y = np.zeros(96, np.uint32)
    library.kernel("pipeline")([x, y, tiles], grid=3, block=128, schedule=schedule)
    columns = x.reshape(tiles, 128).sum(0, dtype=np.uint32)
    np.testing.assert_array_equal(y, columns[:96] + np.append(columns[96:], np.zeros(64, np.uint32)))


@pytest.mark.parametrize(("name", "threads"), [("bulk_copy", 128), ("async_copy", 32)])
def test_copies_land_at_a_wait(library, name, threads):
    x, y = np.arange(1, 129, dtype=np.uint32), np.zeros(128, np.uint32)
    library.kernel(f"{name}<true>")([x, y], grid=2, block=threads)
    np.testing.assert_array_equal(y, x)
    library.kernel(f"{name}<false>")([x, y], grid=2, block=threads)
    assert (y == POISON).all()


def test_bulk_stores_read_late(library):
    x, y = np.arange(1, 33, dtype=np.uint32), np.zeros(32, np.uint32)
    library.kernel("bulk_store<false>")([x, y], grid=1, block=32)
    np.testing.assert_array_equal(y, x)
    library.kernel("bulk_store<true>")([x, y], grid=1, block=32)
    assert y[3] == 0


def test_states(library):
    y = np.zeros(1, np.uint32)
    library.kernel("states")([y], grid=1, block=1)
    assert y[0] == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("waits_for_nobody", r"divergent mbarrier\.try_wait\.parity: 32 of 32 threads wait"),
        ("not_initialised", "mbarrier: it has not been initialised"),
        ("too_many", "more arrivals than its phase expects"),
        ("odd_size", "24 bytes, not a multiple of 16"),
    ],
)
def test_mistakes(library, name, message):
    with pytest.raises(KernelFault, match=message):
        library.kernel(name)([np.zeros(32, np.uint32)], grid=1, block=32)
