# SPDX-License-Identifier: MIT
"""probe.cu in kernelsim: exact sums and counts of every variant, in every order; and what nvcc makes of it."""

import ctypes
import functools
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import kernelsim

FOLDER = Path(__file__).parents[1] / "csrc"
P = ctypes.c_void_p
SCHEDULES = ("forward", "reverse", "random")
PROBES = ("read", "write", "copy", "triad", "fma", "matrix_bf16", "matrix_f16", "matrix_fp8")
GRANULE, NOT_SUPPORTED = 1 << 20, 801


@functools.cache
def library(arch="sm_110f", *, audit=False):
    return kernelsim.cuda.build(FOLDER / "probe.cu", arch=arch, audit=audit)


def names(probe, arch="sm_110f"):
    function = library(arch).functions.rb_cuda_probe_variant
    function.restype, function.argtypes = ctypes.c_char_p, [ctypes.c_char_p, ctypes.c_int]
    found = []
    while (name := function(probe.encode(), len(found))) is not None:
        found.append(name.decode())
    assert function(probe.encode(), -1) is None
    return found


def call(probe, arrays, n, variant, arch="sm_110f", schedule="forward", *, audit=False):
    lib = library(arch, audit=audit)
    lib.configure(schedule=schedule, seed=5)
    function = getattr(lib.functions, f"rb_cuda_probe_{probe}")
    function.argtypes = [P] * len(arrays) + [ctypes.c_int64, ctypes.c_int, P]
    given = [a.ctypes.data if isinstance(a, np.ndarray) else a for a in arrays]
    return function(*given, n, variant, None)


def run(probe, arrays, n, variant, arch="sm_110f", schedule="forward", *, audit=False):
    library(arch, audit=audit).check(call(probe, arrays, n, variant, arch, schedule, audit=audit))


def test_names():
    for probe in PROBES:
        found = names(probe)
        assert len(found) == len(set(found)) >= 5
        assert "cudaMemcpyAsync" in found if probe == "copy" else "cudaMemcpyAsync" not in found
    for probe in ("matrix", "matrix_f32", "", "reads"):
        assert names(probe) == []
    assert not library().functions.rb_cuda_probe_variant(None, 0)


def data(rng, n, dtype):
    if dtype == np.uint64:
        return rng.integers(0, 1 << 63, n, np.uint64) * np.uint64(3)
    return rng.integers(-1000, 1000, n).astype(dtype)


# Less than an access, than a tile, whole tiles, more tiles than blocks, with rests of every kind.
LENGTHS = (0, 1, 2, 3, 5, 1023, 4096, 16384, 40961, 65536 + 4, 200_002, 200_003, 200_004)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("arch", ["sm_90a", "sm_110f"])
def test_read(arch, schedule):
    rng = np.random.default_rng(1)
    for variant in range(len(names("read"))):
        for n in LENGTHS if variant < 3 or schedule == "random" else LENGTHS[-3:]:
            a, out = (
                kernelsim.guarded(data(rng, n, np.uint64), writable=False),
                kernelsim.guarded(np.full(1, 77, np.uint64)),
            )
            if names("read")[variant].startswith("32 B") and a.ctypes.data % 32:
                assert call("read", [a, out], n, variant, arch) == -1
                continue
            run("read", [a, out], n, variant, arch, schedule)
            assert out[0] == a.sum(dtype=np.uint64), (variant, n)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("probe", ["write", "copy", "triad"])
def test_streams(probe, schedule):
    rng = np.random.default_rng(2)
    for variant in range(len(names(probe))):
        for n in LENGTHS if variant in (0, 3) or schedule == "random" else LENGTHS[-3:]:
            ins = [kernelsim.guarded(data(rng, n, np.float32), writable=False) for _ in range(PROBES.index(probe) - 1)]
            out = kernelsim.guarded(kernelsim.poisoned(n, np.float32))
            run(probe, [*ins, out] if probe == "copy" else [out, *ins], n, variant, schedule=schedule)
            want = [np.ones(n, np.float32), *ins][-1] if len(ins) < 2 else ins[0] + 3 * ins[1]
            assert out.tobytes() == want.tobytes(), (variant, n)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("probe", "arch"), [(p, "sm_120a") for p in PROBES[4:]] + [("matrix_fp8", "sm_89"), ("fma", "sm_90a")]
)
def test_counts(probe, arch, schedule):
    for variant in range(len(names(probe))):
        for n in (0, GRANULE, 3 * GRANULE) + ((70 * GRANULE,) if variant == 0 and schedule == "random" else ()):
            count = kernelsim.guarded(np.full(1, -1, np.int64))
            run(probe, [count], n, variant, arch, schedule)
            assert count[0] == n, (variant, n)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_100f", "sm_110f"])
def test_no_fp8_where_it_is_emulated(arch):
    count = kernelsim.guarded(np.full(1, -1, np.int64))
    assert call("matrix_fp8", [count], GRANULE, 0, arch) == NOT_SUPPORTED
    assert count[0] == -1


def test_launch():
    assert library().functions.rb_cuda_probe_launch(None) == 0


def test_arguments_that_are_refused():
    a, out = np.zeros(64, np.float32), np.zeros(1, np.int64)
    start = a.ctypes.data + -a.ctypes.data % 16
    arrays = {
        "read": [start, out],
        "write": [start],
        "copy": [start, start + 64],
        "triad": [start, start + 64, start + 128],
    }
    for probe in PROBES:
        given, n = (arrays[probe], 4) if probe in arrays else ([out], 0)
        for i, pointer in enumerate(given):
            address = pointer.ctypes.data if isinstance(pointer, np.ndarray) else pointer
            for wrong in (None, address + 4):
                changed = [*given[:i], wrong, *given[i + 1 :]]
                assert call(probe, changed, n, 0, "sm_120a") == -(i + 1), (probe, i)
        count = len(given)
        assert call(probe, given, -4, 0, "sm_120a") == -(count + 1)
        assert call(probe, given, n, -1, "sm_120a") == call(probe, given, n, 99, "sm_120a") == -(count + 2)
    assert call("fma", [out], GRANULE // 2, 0) == call("matrix_f16", [out], GRANULE + 1, 0) == -2


@pytest.mark.parametrize("probe", PROBES[:4])
def test_audit(probe):
    """Every byte once, in whole sectors; as wide as the variant's name says."""
    rng, n = np.random.default_rng(3), 1 << 17
    for variant, name in enumerate(names(probe)):
        if name == "cudaMemcpyAsync":
            continue
        size = np.uint64 if probe == "read" else np.float32
        arrays = [data(rng, n, size) for _ in range({"read": 1, "write": 1, "copy": 2, "triad": 3}[probe])]
        arrays = [kernelsim.guarded(a) for a in arrays]
        assert not any(a.ctypes.data % 4096 for a in arrays)
        out = [kernelsim.guarded(np.zeros(1, np.uint64))] if probe == "read" else []
        buffers = dict(zip("abc", arrays, strict=False))
        with kernelsim.audit.record(library(audit=True), buffers=buffers) as audit:
            run(probe, [*arrays, *out], n, variant, audit=True)
        written = {"read": "", "write": "a", "copy": "b", "triad": "a"}[probe]
        for key, buffer in buffers.items():
            part, other = (
                (audit[key].stores, audit[key].loads) if key == written else (audit[key].loads, audit[key].stores)
            )
            assert part.bytes == part.distinct == buffer.nbytes
            assert other.bytes == 0
            wide = 16 if name.startswith("32") else int(name.split()[0])  # no access of a kernelsim's lane is wider
            assert set(part.widths) == {wide}, name
            if not name.startswith("32"):
                assert part.sectors == part.least_sectors == buffer.nbytes // 32


NVCC = shutil.which("nvcc")
_TRITON = importlib.util.find_spec("triton")  # brings one
NVDISASM = shutil.which("nvdisasm") or (
    str(Path(_TRITON.origin).parent / "backends/nvidia/bin/nvdisasm") if _TRITON else "nvdisasm"
)


@pytest.mark.skipif(not (NVCC and Path(NVDISASM).exists()), reason="needs nvcc and nvdisasm")
@pytest.mark.parametrize("arch", ["sm_80", "sm_89", "sm_90a", "sm_100f", "sm_110f", "sm_120f"])
def test_code(arch, tmp_path):
    """What a name says is in the loop: accesses before the first use, multiply-adds in lanes and matrix units."""
    cubin = tmp_path / "probe.cubin"
    built = [
        NVCC,
        "-std=c++17",
        "-O3",
        f"-arch={arch}",
        "-Xptxas",
        "-v",
        "-cubin",
        "-o",
        str(cubin),
        str(FOLDER / "probe.cu"),
    ]
    done = subprocess.run(built, capture_output=True, text=True, check=True)
    assert "warning" not in done.stderr
    assert set(re.findall(r"(\d+) bytes spill", done.stderr)) == {"0"}
    text = subprocess.run([NVDISASM, "-c", str(cubin)], capture_output=True, text=True, check=True).stdout
    seen = set()
    for part in text.split("//--------------------- .text.")[1:]:
        kind, args = re.search(r"(read|stream|fma|matrix|empty)_kernel(\w*)", part.split()[0]).groups()
        code = re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(.*?);", part, re.MULTILINE)
        ops = [line.split()[0] for line in code]
        seen.add(kind)
        assert not [op for op in ops if re.match(r"UFFMA|LDL|STL", op)], part.split()[0]
        if kind == "fma":
            sums, unroll = re.findall(r"Li(\d+)E", args)[:2]
            assert int(sums) * int(unroll) <= ops.count("FFMA") <= int(sums) * int(unroll) + 2
        elif kind == "matrix":
            unit = {"0": "HMMA.16816.F32.BF16", "1": "HMMA.16816.F32", "2": "QMMA.16832.F32.E4M3.E4M3"}
            type_ = re.search(r"TypeE(\d)", args)[1]
            rows, columns = map(int, re.findall(r"Li(\d+)E", args)[:2])
            made = [line.split()[:2] for line in code if line.split()[0] in unit.values()]
            if type_ == "2" and arch not in ("sm_89", "sm_120f"):  # emulated
                assert not made
            else:
                assert {op for op, _ in made} == {unit[type_]}
                assert len(made) == 32
                assert len({sums for _, sums in made}) == rows * columns  # that do not wait for each other
        elif kind in ("read", "stream"):
            first, unroll = re.findall(r"L[ib](\d+)E", args)[0], re.findall(r"Li(\d+)E", args)[1]
            reads = 1 if kind == "read" else int(first)
            halves = 2 if first == "32" and arch in ("sm_80", "sm_89", "sm_90a") else 1  # no access of 32 bytes
            assert most_in_flight(code) >= reads * int(unroll) * halves, part.split()[0]
            if kind == "stream":
                stores = [op for op in ops if op.startswith("STG") and ".128" in op]
                assert len(stores) == int(unroll)
                assert all((".EF" in op) == ("Lb1" in args) for op in stores)
    assert seen == {"read", "stream", "fma", "matrix", "empty"}


def most_in_flight(code):
    """Loads that follow each other before one of their registers is used."""
    most = count = 0
    pending = set()
    for line in code:
        load = re.match(r"LDG\.(\S*) R(\d+),", line)
        if load:
            width = re.search(r"\b(256|128|64)\b", load[1])
            pending |= {int(load[2]) + i for i in range(int(width[1]) // 32 if width else 1)}
            count += 1
            most = max(most, count)
        elif pending & {int(r) for r in re.findall(r"\bR(\d+)", line)}:
            count, pending = 0, set()
    return most
