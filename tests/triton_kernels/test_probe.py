# SPDX-License-Identifier: MIT
"""kernels/probe.py in Triton's interpreter: every variant does what the contract says, to the bit."""

import os
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from roofbench.numerics import Limit, aligned, guards_intact, poison  # noqa: E402
from roofbench.op import Case  # noqa: E402
from roofbench.ops import OPS, probe  # noqa: E402
from roofbench.sources import find, load_module  # noqa: E402

# It computes with NumPy, which warns of the infinities and NaN that a kernel is to carry through.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

FILE = load_module(find("probe", ".py"))
SIZES = (1, 2, 1023, 1024, 4097, 50_000)


def tensor(array):
    """The same memory, as torch sees it."""
    return torch.from_numpy(array)


def small(config):
    """The same code with fewer warps: the interpreter need not fill a machine."""
    return config._replace(num_warps=1)


@pytest.mark.parametrize("config", FILE.CONFIGS["read"])
def test_read_sums_every_word(config):
    rng = np.random.default_rng(1)
    for n in SIZES:
        for dtype in (np.uint64, np.int64):
            a = aligned((n,), np.dtype(dtype))
            a.view(np.uint64)[...] = rng.integers(0, 1 << 63, n, np.uint64) * np.uint64(2) + np.uint64(1)
            out = FILE.probe_read(tensor(a), config=small(config))
            want = a.view(np.uint64).sum(dtype=np.uint64)  # wraps
            assert out.numpy().view(np.uint64)[0] == want


@pytest.mark.parametrize("config", FILE.CONFIGS["copy"])
@pytest.mark.parametrize("kind", ["write", "copy", "triad"])
def test_streams(kind, config):
    """Against the contract's reference, with guards around what is written."""
    rng = np.random.default_rng(2)
    for n in SIZES:
        signature = OPS["probe"].signature("f32", {"n": n, "kind": probe.KINDS.index(kind)})
        arrays = {name: aligned(arg.shape, arg.dtype) for name, arg in signature.items()}
        for name, arg in signature.items():
            poison(arrays[name])
            if arg.role == "in":
                arrays[name][...] = rng.integers(-1000, 1000, n)
        known = OPS["probe"].reference("f32", arrays)
        getattr(FILE, f"probe_{kind}")(**{name: tensor(a) for name, a in arrays.items()}, config=small(config))
        for name, what in known.items():
            assert guards_intact(arrays[name])
            assert what.error(arrays[name], Limit(1)) == 0, (kind, n)


@pytest.mark.parametrize("config", FILE.CONFIGS["fma"])
def test_fma_counts_its_multiply_adds(config):
    step = config.sums * config.num_warps * 32 * config.unroll
    for n in (step, 5 * step, FILE.GRANULE):
        count = torch.full((1,), -1)
        FILE.probe_fma(n, count, config=config)
        assert int(count) == n


@pytest.mark.parametrize("format", FILE.FORMATS)
def test_matrix_counts_its_multiply_adds(format):
    for config in FILE.variants("matrix", format):
        count = torch.full((1,), -1)
        FILE.probe_matrix(3 * FILE.GRANULE, count, format, config=config)
        assert int(count) == 3 * FILE.GRANULE


def test_chains_of_hopper_s_fp8_add_up(monkeypatch):
    """More steps than one chain holds."""
    monkeypatch.setattr(FILE, "_HOPPER_CHAIN", 96)
    config = FILE.Matrix(16, 16, 32, 1, 1)
    for steps in (1, 2, 3, 20, 41):
        count = torch.full((1,), -1)
        FILE.probe_matrix(steps * 16 * 16 * 32, count, "fp8", config=config)
        assert int(count) == steps * 16 * 16 * 32


@pytest.mark.parametrize(
    "chip", ["sm_80", "sm_89", "sm_90", "sm_100", "sm_110", "sm_120", "sm_121", "gfx942", "gfx1151"]
)
def test_variants_suit_the_granule_and_the_chip(chip):
    for kind in probe.KINDS:
        for format in FILE.FORMATS if kind == "matrix" else ("f32",):
            found = list(FILE.variants(kind, format, chip))
            missing = kind == "matrix" and ((format == "fp8" and chip in ("sm_80", "gfx942", "gfx1151")) or
                                            (format == "tf32" and chip.startswith("gfx")))  # fmt: skip
            assert bool(found) != missing
            assert missing or FILE.pick_config(kind, format, chip) == found[0]
            for config in found:
                if kind == "matrix":
                    size = FILE.FORMATS[format][0].itemsize
                    assert FILE.GRANULE % (config.BLOCK_M * config.BLOCK_N * config.BLOCK_K // size) == 0
                    assert config.BLOCK_K // size >= (32 if size == 1 else 16) or format in ("f32", "tf32")
                if kind == "fma":
                    assert FILE.GRANULE % (config.sums * config.num_warps * 64 * config.unroll) == 0


def test_cases_of_the_contract_run():
    """The sizes that the harness asks for."""
    for case in probe.probes(1 << 16, FILE.GRANULE):
        kind = probe.KINDS[case.dims["kind"]]
        assert isinstance(case, Case)
        instance = OPS["probe"].problem(case, 3, 0)[0]
        arrays = {name: tensor(a) for name, a in instance.arrays.items()}
        sizes = {"n": case.dims["n"]} if kind in probe.PEAKS else {}
        getattr(FILE, f"probe_{kind}")(**arrays, **sizes)
        assert all(what.error(instance.arrays[name], Limit(1)) == 0 for name, what in instance.expect().items())


F = torch.zeros(8)
COUNT = torch.zeros(1, dtype=torch.int64)
BAD = [
    (FILE.probe_read, {"a": F}, "a is torch.float32"),
    (FILE.probe_read, {"a": COUNT, "sum": torch.zeros(2, dtype=torch.int64)}, "sum must be"),
    (FILE.probe_read, {"a": torch.zeros(8, 8, dtype=torch.int64)}, "a is no contiguous vector"),
    (FILE.probe_write, {"a": torch.zeros(16)[::2]}, "a is no contiguous vector"),
    (FILE.probe_write, {"a": F.half()}, "a is torch.float16"),
    (FILE.probe_copy, {"a": F, "b": F[:4]}, "a is|b is"),
    (FILE.probe_copy, {"a": F, "b": F.to("meta")}, "b is on meta"),
    (FILE.probe_triad, {"a": F, "b": F, "c": F[:4]}, "c is"),
    (FILE.probe_triad, {"a": F, "b": F.int(), "c": F}, "b is torch.int32"),
    (FILE.probe_fma, {"n": 1, "count": COUNT}, "n = 1 is no multiple"),
    (FILE.probe_fma, {"n": 0, "count": COUNT}, "n = 0 is no multiple"),
    (FILE.probe_fma, {"n": 1 << 50, "count": COUNT}, "is more than"),
    (FILE.probe_matrix, {"n": FILE.GRANULE + 1, "count": COUNT}, "is no multiple"),
    (FILE.probe_matrix, {"n": FILE.GRANULE, "count": F[:1]}, "count is torch.float32"),
    (FILE.probe_matrix, {"n": FILE.GRANULE, "count": COUNT.repeat(2)}, "count must be"),
    (FILE.probe_matrix, {"n": FILE.GRANULE, "count": COUNT, "format": "int4"}, "format is 'int4'; known: f32"),
]


@pytest.mark.parametrize(("call", "given", "message"), BAD)
def test_bad_input(call, given, message):
    with pytest.raises(ValueError, match=message):
        call(**given)


def test_tensors_of_the_cpu_are_refused():
    """Where the interpreter does not run."""
    program = f"""
import importlib.util, torch
spec = importlib.util.spec_from_file_location("probe", {str(find("probe", ".py"))!r})
probe = importlib.util.module_from_spec(spec)
spec.loader.exec_module(probe)
count = torch.zeros(1, dtype=torch.int64)
calls = ((probe.probe_read, count), (probe.probe_write, torch.zeros(4)), (probe.probe_fma, probe.GRANULE, count))
for call, *given in calls:
    try:
        call(*given)
    except ValueError as error:
        print(error)
"""
    plain = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=plain, check=True)
    assert done.stdout.splitlines() == ["a is on the CPU", "a is on the CPU", "count is on the CPU"]
