# SPDX-License-Identifier: MIT
"""The fibre engine by itself: kernels in plain C++, without a language's rewriting."""

import ctypes
import time

import numpy as np
import pytest
from simulated import KERNELS

from kernelsim import ArgumentError, KernelFault, TimeLimitExceeded, toolchain
from kernelsim.launch import SCHEDULES, Grid, Options, run

SOURCE = KERNELS / "engine.cpp"
FLAGS = (
    "-fsanitize=integer-divide-by-zero,bounds",
    "-fstrict-flex-arrays=3",
    "-fno-sanitize-recover=all",
    "-gline-tables-only",
)


@pytest.fixture(scope="module")
def engine():
    compiler = toolchain.find()
    path = compiler.compile(SOURCE.read_text(), FLAGS, suffix=".so", objects=[compiler.engine()])
    library = ctypes.CDLL(str(path))

    def launch(name, groups=1, group=64, threads=0, dynamic=0, limit=0, **options):
        out = np.full(max(groups * group, 64), -7, np.int32)
        out[1] = 0
        pointers = (ctypes.c_void_p * 1)(out.ctypes.data)
        grid = Grid((groups, 1, 1), (group, 1, 1), (threads, 1, 1) if threads else (0, 0, 0))
        run(
            library,
            path,
            entry=name,
            kernel=name,
            pointers=pointers,
            grid=grid,
            dynamic=[dynamic],
            shared_limit=limit,
            options=Options(**options),
        )
        return out

    return launch


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("workers", [1, 3])
def test_every_thread_runs_once(engine, schedule, workers):
    out = engine("index", groups=7, group=96, schedule=schedule, workers=workers)
    assert np.array_equal(out, (1000 * np.arange(7)[:, None] + np.arange(96)).reshape(-1))


def test_the_last_group_of_a_grid_in_threads_is_smaller(engine):
    out = engine("index", groups=3, group=32, threads=70)
    assert (out[:70] >= 0).all()
    assert (out[70:] == -7).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_barriers_order_what_stands_on_both_sides(engine, schedule):
    assert np.array_equal(engine("reverse_by_shared", schedule=schedule), np.arange(64)[::-1])


def test_schedules_find_a_race(engine):
    results = [engine("race", schedule=schedule) for schedule in SCHEDULES]
    assert not all(np.array_equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_lanes_meet(engine, schedule):
    out = engine("sums", schedule=schedule)
    assert (out[:32] == sum(range(32))).all()
    assert (out[32:] == sum(range(32, 64))).all()
    masked = engine("sum_of_masked_half", group=32, schedule=schedule)
    assert (masked[:16] == 16).all()
    assert (masked[16:32] == 32).all()
    here = engine("sum_of_those_here", group=32, schedule=schedule)
    assert (here[:32:3] == 11).all()
    returned = engine("returned_are_left_out", schedule=schedule)
    assert (returned[:32] == 32).all()
    assert (returned[32:40] == 8).all()
    named = engine("named_barriers", schedule=schedule)
    assert np.array_equal(named[:64], np.arange(64).reshape(2, 32)[:, ::-1].reshape(-1))


def test_divergent_lanes_wait_apart_where_hardware_does(engine):
    out = engine("sum_of_half", group=32, convergence="hardware")
    assert (out[:16] == 16).all()
    engine("divergent_barrier", convergence="hardware")
    engine("two_barriers", convergence="live")


@pytest.mark.parametrize(
    ("kernel", "group", "convergence", "message"),
    [
        ("sum_and_wait", 32, "live", "divergent wait: 16 of 32 threads wait here, others at sum in line"),
        ("divergent_barrier", 64, "live", "divergent wait: 8 of 32 threads wait here, others at sum"),
        ("two_barriers", 64, "every", "divergent wait: other threads wait at wait in line"),
        ("returned_are_left_out", 64, "every", "divergent wait: 24 of 64 threads have returned before it"),
        ("mask_never_comes", 32, "live", "divergent sum with mask 0000ffff: 8 of 32 threads wait here, others at wait"),
        ("not_in_mask", 32, "live", "lane 1 is not in its own mask 00000001"),
    ],
)
def test_divergence(engine, kernel, group, convergence, message):
    with pytest.raises(KernelFault, match=message) as caught:
        engine(kernel, group=group, convergence=convergence)
    assert caught.value.kind == "divergence"
    assert caught.value.line


@pytest.mark.parametrize(
    ("kernel", "kind", "message", "text"),
    [
        ("past_the_board", "memory", "index 64 is outside of its array", "b.cell[64"),
        ("wild", "memory", "writes unmapped memory", "data(a)[1 << 28]"),
        ("null", "memory", "reads unmapped memory at 0", "(void)*p"),
        ("divide", "division", "integer division by zero", "1 / data(a)[1]"),
        ("recursive", "memory", "stack overflow", "static int deep|page[0] = 1|return n < 0"),
        ("trap", "trap", "a trap", "void trap("),
    ],
)
def test_faults_name_line_kernel_and_thread(engine, kernel, kind, message, text):
    with pytest.raises(KernelFault, match=message) as caught:
        engine(kernel, group=1)
    fault = caught.value
    assert (fault.kernel, fault.kind, fault.group, fault.thread) == (kernel, kind, (0, 0, 0), (0, 0, 0))
    assert fault.line is not None
    found = SOURCE.read_text().splitlines()[fault.line - 1]
    assert any(part in found for part in text.split("|"))
    assert f"{kernel}: " in str(fault)


def test_dynamic_memory_is_guarded_to_the_byte(engine):
    with pytest.raises(KernelFault, match="writes past the end of its dynamic threadgroup memory"):
        engine("past_dynamic", dynamic=100)
    engine("past_dynamic", dynamic=101)


def test_shared_memory_is_poisoned_before_every_group(engine):
    assert (engine("poisoned", groups=3, workers=1)[:64] == -1).all()


def test_more_shared_memory_than_the_device_has(engine):
    with pytest.raises(ArgumentError, match="needs 256 bytes of threadgroup memory .256 static, 0 dynamic."):
        engine("poisoned", limit=255)
    engine("poisoned", limit=256)


@pytest.mark.parametrize("kernel", ["endless", "endless_together"])
def test_an_endless_loop_ends(engine, kernel):
    start = time.monotonic()
    with pytest.raises(TimeLimitExceeded, match="an endless loop"):
        engine(kernel, groups=4, time_limit=0.3)
    assert time.monotonic() - start < 30
    assert (engine("sums")[:32] == sum(range(32))).all()  # and the next launch is well


@pytest.mark.parametrize(("group", "message"), [(0, "1 to 1024 threads, not 0"), (1025, "1 to 1024 threads, not 1025")])
def test_sizes_that_no_device_has(engine, group, message):
    with pytest.raises(ArgumentError, match=message):
        engine("index", group=group)
