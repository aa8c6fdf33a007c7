# SPDX-License-Identifier: MIT
"""The traffic audit on kernels whose answer is known by hand: widths, sectors, bank conflicts, bytes read in vain."""

import ctypes
import json
import re
from pathlib import Path

import numpy as np
import pytest

import kernelsim
from kernelsim import ArgumentError, cuda, metal
from kernelsim.audit import record
from kernelsim.traffic import Traffic

KERNELS = Path(__file__).parent / "kernels"
N = 256  # threads, unless a test says otherwise: 8 warps
F32, F16, U32, U8 = np.float32, np.float16, np.uint32, np.uint8


@pytest.fixture(scope="module")
def library():
    path = KERNELS / "audit.metal"
    return metal.load(path, kernels=re.findall(r"kernel void (\w+)", path.read_text()))


@pytest.fixture(scope="module")
def audited(library):
    def audited(name, *args, grid=N, threadgroup=64, **options):
        return library.kernel(name).audit(list(args), grid=grid, threadgroup=threadgroup, compulsory="all", **options)

    return audited


def zeros(n, dtype=F32):
    return np.zeros(n, dtype)


# name, elements and type of x and y, bytes per lane of x, of y, requests of x, sectors of each, efficiency
SHAPES = [
    ("unit_stride", N, F32, N, F32, 4, 4, 8, 4, 1),
    ("stride_2", 2 * N, F32, N, F32, 4, 4, 8, 8, 1 / 2),
    ("column", 32 * N, F32, N, F32, 4, 4, 8, 32, 1 / 8),
    ("shifted", N + 1, F32, N, F32, 4, 4, 8, 5, 4 / 5),
    ("broadcast", 1, F32, N, F32, 4, 4, 8, 1, 1),
    ("scalar_sum", 4 * N, F32, N, F32, 4, 4, 32, 16, 1 / 4),
    ("scalar_copy", 4 * N, F32, 4 * N, F32, 4, 4, 32, 16, 1 / 4),
    ("bytes_to_word", 4 * N, U8, N, U32, 1, 4, 32, 4, 1 / 4),
    ("word_to_bytes", N, U32, 4 * N, U8, 4, 1, 8, 4, 1),
    ("float4_copy", 4 * N, F32, 4 * N, F32, 16, 16, 8, 16, 1),
    ("uint4_add", 4 * N, U32, 4 * N, U32, 16, 16, 8, 16, 1),
    ("half4x2_sum", 8 * N, F16, N, F32, 16, 4, 8, 16, 1),
    ("half4_to_float4", 4 * N, F16, 4 * N, F32, 8, 16, 8, 8, 1),
    ("cast_to_float4", 4 * N, F32, 4 * N, F32, 16, 16, 8, 16, 1),
    ("packed_to_float3", 3 * N, F32, 4 * N, F32, 4, 16, 24, 12, 1 / 3),
    ("component", 4 * N, F32, N, F32, 4, 4, 8, 16, 1 / 4),
    ("block_copy", 9 * N, F16, 9 * N, F16, 2, 2, 72, 18, 1 / 9),
    ("eight_halves", 8 * N, F16, N, F32, 16, 4, 8, 16, 1),
    ("odd_lanes", N, F32, N, F32, 4, 4, 8, 4, 1 / 2),
    ("lanes_return", N, F32, N, F32, 4, 4, 8, 1, 1),
]


@pytest.mark.parametrize(("name", "nx", "tx", "ny", "ty", "wx", "wy", "requests", "sectors", "efficiency"), SHAPES)
def test_widths_and_sectors(audited, name, nx, tx, ny, ty, wx, wy, requests, sectors, efficiency):
    audit = audited(name, zeros(nx, tx), zeros(ny, ty))
    loads, stores = audit["x"].loads, audit["y"].stores
    assert set(loads.widths) == {wx}
    assert set(stores.widths) == {wy}
    assert loads.requests == requests
    assert loads.sectors_per_request == pytest.approx(sectors, abs=0.2)
    assert loads.sector_efficiency == pytest.approx(efficiency, rel=0.1)
    assert not audit["x"].stores.requests
    assert not audit["y"].loads.requests
    assert not audit.shared.loads.requests


def test_unit_stride_in_every_number(audited):
    audit = audited("unit_stride", zeros(N), zeros(N))
    x, y = audit["x"], audit["y"]
    assert x.loads == Traffic(
        requests=8,
        accesses=N,
        bytes=4 * N,
        unique=4 * N,
        distinct=4 * N,
        sectors=32,
        least_sectors=32,
        lines=8,
        wavefronts=None,  # nobody knows Apple's banks
        least_wavefronts=None,
        widths={4: N},
    )
    assert (x.read_ratio, y.write_ratio, x.sector_efficiency) == (1, 1, 1)
    assert (x.nbytes, x.first_unread, y.first_unwritten, y.first_unread) == (4 * N, 4 * N, 4 * N, 0)
    assert [(site.place, site.buffer, site.write, site.share) for site in audit.sites] == [
        ("audit.metal:9", "x", False, 0.5),
        ("audit.metal:9", "y", True, 0.5),
    ]


def test_lanes_that_want_the_same_bytes(audited):
    loads = audited("broadcast", zeros(1), zeros(N))["x"].loads
    assert (loads.bytes, loads.unique, loads.distinct, loads.sectors) == (4 * N, 4 * 8, 4, 8)


def test_stores_in_loops_stay_scalar(audited):
    assert audited("scalar_copy", zeros(4 * N), zeros(4 * N))["y"].stores.widths == {4: 4 * N}
    assert audited("scalar_zero", zeros(16 * N, U8))["y"].stores.widths == {1: 16 * N}


def test_reads_twice(audited):
    w = audited("reads_twice", zeros(8 * N) + 1, zeros(N))["x"]
    assert w.read_ratio == 2.0
    assert (w.loads.distinct, w.sector_efficiency) == (w.nbytes, 1)


def test_tail_is_never_read(audited):
    audit = audited("leaves_the_tail", zeros(1000), zeros(1000), 1000)
    assert audit["x"].read_ratio == 0.984
    assert (audit["x"].loads.distinct, audit["x"].first_unread) == (4 * 984, 4 * 984)
    assert audit["y"].first_unwritten == 4 * 984
    assert "x: 64 of 4000 bytes are never loaded, the first at 3936" in audit.table()
    assert list(audit.buffers) == ["x", "y"]  # n is no array: it lies where a GPU has its constants


def test_partial_warps_and_grids(audited):
    loads = audited("unit_stride", zeros(90), zeros(90), grid=90, threadgroup=40)["x"].loads
    # Threadgroups of 40, 40 and 10 threads: warps of 32, 8, 32, 8 and 10 lanes.
    assert (loads.requests, loads.accesses, loads.distinct) == (5, 90, 360)
    assert (loads.sectors, loads.least_sectors) == (4 + 1 + 4 + 1 + 2, 4 + 1 + 4 + 1 + 2)


def test_lanes_that_go_on_longer(audited):
    loads = audited("trip_counts", zeros(4 * N), zeros(N))["x"].loads
    assert (loads.requests, loads.accesses) == (4 * 8, (1 + 2 + 3 + 4) * N // 4)
    assert loads.sectors == 4 * 4 * 8  # all lanes, then 3 of 4, 2 of 4, 1 of 4: always all sectors
    assert loads.least_sectors == (4 + 3 + 2 + 1) * 8


def test_no_request_spans_a_barrier(audited):
    loads = audited("takes_turns", zeros(N), zeros(N))["x"].loads
    assert (loads.requests, loads.accesses, loads.sectors) == (2 * 8, N, 4 * 8)


def test_an_atomic_loads_and_stores(audited):
    y = audited("counts", zeros(N, U32))["y"]
    assert (y.loads.widths, y.stores.widths) == ({4: N}, {4: N})
    assert (y.loads.requests, y.sector_efficiency) == (8, 1)


def test_simdgroup_matrix(audited):
    audit = audited("matrix_copy", zeros(256), zeros(256), grid=128, threadgroup=32)
    assert audit["x"].loads.widths == {8: 4 * 32}  # two neighbours each
    assert (audit["x"].loads.requests, audit["x"].sector_efficiency, audit["x"].read_ratio) == (4, 1, 1)
    assert (audit["y"].stores.requests, audit["y"].sector_efficiency, audit["y"].write_ratio) == (4, 1, 1)


def test_threadgroup_memory(audited):
    audit = audited("transpose_tile", zeros(1024), zeros(1024), grid=(32, 32), threadgroup=(32, 32))
    assert (audit["x"].sector_efficiency, audit["y"].sector_efficiency) == (1, 1)
    assert audit.shared.loads.widths == audit.shared.stores.widths == {4: 1024}
    assert audit.shared.loads.requests == 32
    with pytest.raises(ArgumentError, match="not documented"):
        _ = audit.shared.conflicts


@pytest.mark.parametrize("schedule", ["reverse", "random"])
@pytest.mark.parametrize("name", ["trip_counts", "takes_turns", "reads_twice"])
def test_the_order_of_threads_does_not_matter(audited, name, schedule):
    first = audited(name, zeros(8 * N) + 1, zeros(N), workers=1)
    assert audited(name, zeros(8 * N) + 1, zeros(N), workers=2, schedule=schedule) == first


def test_report(audited):
    audit = audited("stride_2", zeros(2 * N), zeros(N))
    lines = audit.table().splitlines()
    assert lines[0] == "stride_2"
    assert lines[1].split()[:2] == ["buffer", "access"]
    assert lines[2].split() == ["x", "load", "1024", "1024", "2048", "0.50", "4", "8", "8.00", "50.0", "%"]
    assert any(line.startswith("audit.metal:10") for line in lines)
    plain = json.loads(json.dumps(audit.to_dict()))
    assert plain["buffers"]["x"]["loads"]["widths"] == {"4": N}
    assert plain["kernels"]["stride_2"]["buffers"] == plain["buffers"]


def test_without_compulsory_bytes_there_is_no_ratio(library):
    audit = library.kernel("unit_stride").audit([zeros(N), zeros(N)], grid=N, threadgroup=64)
    with pytest.raises(ArgumentError, match="compulsory: no bytes were stated for 'x'"):
        _ = audit["x"].read_ratio
    with pytest.raises(ArgumentError, match="there is no buffer 'z'; there are x, y"):
        _ = audit["z"]
    with pytest.raises(ArgumentError, match="compulsory: there is no buffer 'w'"):
        library.kernel("unit_stride").audit([zeros(N), zeros(N)], grid=N, threadgroup=64, compulsory={"w": 1})


def test_results_are_those_of_a_launch(library):
    x, y = np.arange(N, dtype=F32), zeros(N)
    library.kernel("unit_stride").audit([x, y], grid=N, threadgroup=64)
    assert np.array_equal(x, y)


def test_a_fault_ends_the_audit_and_the_next_one_begins_anew(audited):
    with pytest.raises(kernelsim.KernelFault, match="audit.metal:9"):
        audited("unit_stride", zeros(N // 2), zeros(N))
    assert audited("unit_stride", zeros(N), zeros(N))["x"].loads.accesses == N


def test_many_accesses(audited):
    audit = audited("many", zeros(2048 * 2048), zeros(2048), 2048, grid=2048, threadgroup=256)
    assert (audit["x"].loads.accesses, audit["x"].read_ratio, audit["x"].sector_efficiency) == (2048 * 2048, 1, 1)


def test_memory_of_the_audit_is_bounded(audited):
    x, y = zeros(64), zeros(N)
    assert audited("one_lane", x, y, 1000)["x"].loads.requests == 1000
    with pytest.raises(ArgumentError, match="one_lane: the audit holds 1048576 requests"):
        audited("one_lane", x, y, 1 << 21)
    assert audited("one_lane", x, y, 1000)["x"].loads.requests == 1000


# ---- CUDA

TEMPLATES = [
    *("transpose<32>", "transpose<33>", "load_matrix<false>", "load_matrix<true>"),
    *(f"shared_stride<{type}, {n}>" for type, n in [("float", 0), ("float", 1), ("float", 2), ("float", 32)]),
    *(f"shared_stride<{type}, {n}>" for type, n in [("float2", 1), ("float2", 2), ("float4", 1), ("float4", 2)]),
    "shared_stride<float4, 8>",
]


@pytest.fixture(scope="module")
def on_cuda():
    path = KERNELS / "audit.cu"
    plain = re.findall(r"^__global__ void (\w+)", path.read_text(), re.MULTILINE)
    library = cuda.load(path, kernels=[*plain, *TEMPLATES])

    def on_cuda(name, *args, grid=N // 64, block=64):
        return library.kernel(name).audit(list(args), grid=grid, block=block, compulsory="all")

    return on_cuda


@pytest.mark.parametrize(
    ("name", "nx", "tx", "ny", "ty", "wx", "wy", "requests", "sectors", "efficiency"),
    [
        ("unit_stride", N, F32, N, F32, 4, 4, 8, 4, 1),
        ("stride_2", 2 * N, F32, N, F32, 4, 4, 8, 8, 1 / 2),
        ("column", 32 * N, F32, N, F32, 4, 4, 8, 32, 1 / 8),
        ("broadcast", 1, F32, N, F32, 4, 4, 8, 1, 1),
        ("scalar_sum", 4 * N, F32, N, F32, 4, 4, 32, 16, 1 / 4),
        ("bytes_to_word", 4 * N, U8, N, U32, 1, 4, 32, 4, 1 / 4),
        ("uint4_copy", 4 * N, U32, 4 * N, U32, 16, 16, 8, 16, 1),
        ("cast_to_float4", 4 * N, F32, N, F32, 16, 4, 8, 16, 1),
        ("hinted", 4 * N, F32, 4 * N, F32, 16, 16, 8, 16, 1),
        ("half2_to_float2", 2 * N, F16, 2 * N, F32, 4, 8, 8, 4, 1),
        ("eight_halves", 8 * N, F16, N, F32, 16, 4, 8, 16, 1),
        ("inline_ptx", 4 * N, U32, 4 * N, U32, 16, 16, 8, 16, 1),
    ],
)
def test_widths_and_sectors_on_cuda(on_cuda, name, nx, tx, ny, ty, wx, wy, requests, sectors, efficiency):
    audit = on_cuda(name, zeros(nx, tx), zeros(ny, ty))
    loads, stores = audit["x"].loads, audit["y"].stores
    assert (set(loads.widths), set(stores.widths)) == ({wx}, {wy})
    assert (loads.requests, loads.sectors_per_request, loads.sector_efficiency) == (requests, sectors, efficiency)
    assert not audit.shared.loads.requests
    assert audit.shared.conflicts == 0
    assert not audit["y"].loads.requests


def test_reads_twice_on_cuda(on_cuda):
    assert on_cuda("reads_twice", zeros(N), zeros(N))["x"].read_ratio == 2


def test_atomics_load_and_store(on_cuda):
    audit = on_cuda("atomics", zeros(N), zeros(N, np.int32))
    for name in ("y", "n"):
        assert (audit[name].loads.widths, audit[name].stores.widths) == ({4: N}, {4: N})


@pytest.mark.parametrize(("pitch", "conflicts"), [(32, 31), (33, 0)])
def test_transposes(on_cuda, pitch, conflicts):
    audit = on_cuda(f"transpose<{pitch}>", zeros(1024), zeros(1024), grid=1, block=(32, 32))
    assert (audit["x"].sector_efficiency, audit["y"].sector_efficiency) == (1, 1)
    assert (audit.shared.loads.requests, audit.shared.loads.conflicts) == (32, 32 * conflicts)
    assert audit.shared.stores.conflicts == 0
    site = next(site for site in audit.sites if site.buffer == "shared memory" and not site.write)
    assert (site.traffic.conflicts, site.line) == (32 * conflicts, 59)


@pytest.mark.parametrize(
    ("type", "stride", "conflicts"),
    [
        ("float", 0, 0),  # one word for all
        ("float", 1, 0),
        ("float", 2, 1),  # two lanes in each of 16 banks
        ("float", 32, 31),
        ("float2", 1, 0),
        ("float2", 2, 2),  # two lanes of a half warp in a bank, in both halves
        ("float4", 1, 0),
        ("float4", 2, 4),  # two lanes of a quarter
        ("float4", 8, 28),  # all eight of a quarter
    ],
)
def test_bank_conflicts(on_cuda, type, stride, conflicts):
    shared = on_cuda(f"shared_stride<{type}, {stride}>", zeros(32), grid=1, block=32).shared
    assert set(shared.loads.widths) == {{"float": 4, "float2": 8, "float4": 16}[type]}
    assert (shared.loads.requests, shared.loads.conflicts, shared.stores.conflicts) == (1, conflicts, 0)
    assert shared.conflicts == conflicts


@pytest.mark.parametrize(("swizzled", "conflicts"), [("false", 28), ("true", 0)])
def test_ldmatrix(on_cuda, swizzled, conflicts):
    shared = on_cuda(f"load_matrix<{swizzled}>", zeros(32, U32), grid=1, block=32).shared
    assert (shared.loads.widths, shared.loads.requests, shared.loads.conflicts) == ({16: 32}, 1, conflicts)


def test_cp_async(on_cuda):
    audit = on_cuda("async_copy", zeros(128, U32), zeros(128, U32), grid=1, block=32)
    assert audit["x"].loads.widths == audit["y"].stores.widths == {16: 32}
    assert audit.shared.stores.widths == audit.shared.loads.widths == {16: 32}
    assert audit.shared.conflicts == 0


@pytest.fixture(scope="module")
def launchers():
    return cuda.build(KERNELS / "audit.cu", audit=True)


def test_launchers(launchers):
    x, scratch, y = np.arange(N, dtype=F32), zeros(N), zeros(N)
    buffers = {"x": x, "y": y}
    with record(launchers, buffers=buffers, compulsory={"x": x.nbytes}) as audit:
        code = launchers.functions.scale_and_copy(*cuda.addresses(x, scratch, y), ctypes.c_float(2), N)
    assert code == 0
    assert np.array_equal(y, 2 * x)
    assert (audit["x"].read_ratio, audit["y"].stores.widths) == (1, {4: N})
    assert (audit.other.stores.bytes, audit.other.loads.bytes) == (4 * N, 4 * N)  # scratch, and nothing else
    assert (audit.other.stores.distinct, audit.other.sector_efficiency) == (4 * N, pytest.approx(1, abs=0.2))
    assert list(audit.kernels) == ["scale", "unit_stride"]
    assert not audit.kernels["scale"]["y"].stores.requests
    assert audit.kernels["unit_stride"]["y"].stores.requests == 8
    assert audit.name == "scale, unit_stride"


def test_what_the_simulator_does_itself_is_no_traffic(launchers):
    x, y, n = zeros(128, U32), zeros(128, U32), zeros(1, np.int32)
    with record(launchers, buffers={"x": x, "y": y, "n": n}) as audit:
        assert launchers.functions.launch_keeps_books(*cuda.addresses(x, y, n)) == 0
    assert not audit.other.loads.requests
    assert not audit.other.stores.requests
    assert (audit["x"].loads.widths, audit["y"].stores.widths, audit["n"].stores.widths) == ({16: 32}, {16: 32}, {4: 1})
    assert (audit.shared.stores.widths, audit.shared.loads.widths) == ({16: 32, 4: 32}, {4: 32})


def test_recording_needs_a_library_of_the_audit_and_arrays(launchers):
    with pytest.raises(ArgumentError, match="was not built for the audit"), record(cuda.build(KERNELS / "audit.cu")):
        pass
    with pytest.raises(ArgumentError, match="buffers: x takes an array"), record(launchers, buffers={"x": [1.0]}):
        pass
    with pytest.raises(ArgumentError, match="C-contiguous"), record(launchers, buffers={"x": zeros((4, 4)).T}):
        pass
    with record(launchers), pytest.raises(ArgumentError, match="is being audited already"), record(launchers):
        pass
    with record(launchers) as audit:
        pass
    assert (audit.name, audit.sites) == ("", [])
