# SPDX-License-Identifier: MIT
"""csrc/*.cu against the contracts, on a CPU: kernelsim runs what nvcc would compile, behind the CUDA backend."""

import numpy as np
import pytest

pytest.importorskip("torch")

from fakes import FakeGpu
from support import every_format, hazards

from roofbench.backends.cuda import Cuda, prototypes
from roofbench.cuda_build import Simulator
from roofbench.hazards import KINDS, expected, inputs
from roofbench.op import TYPES

CUDA = Cuda(FakeGpu(), Simulator())
SERVED = [(op, format) for op, format in every_format() if not isinstance(CUDA.claim(op, format), str)]


def worst(op, format, dims, arrays, known):
    limit = CUDA.claim(op, format).limit(dims)
    return max(what.error(arrays[name], limit) for name, what in known.items())


@pytest.mark.parametrize(("op", "format"), SERVED)
def test_hazards(op, format):
    """Every value and size at which kernels go wrong. Memory beside every array is looked at."""
    rng = np.random.default_rng(1)
    for dims in hazards(op, format):
        for kind in KINDS:
            arrays = inputs(op, format, dims, rng, kind)
            known = expected(op, format, arrays, kind)
            [launch] = CUDA.bind_all(op, format, dims, [arrays])
            launch()
            for name in arrays:
                assert launch.intact(name), f"{op} {format} {kind} {dims}: writes beside {name}"
                arrays[name][...] = launch.output(name)
            error = worst(op, format, dims, arrays, known)
            assert error <= 1, f"{op} {format} {kind} {dims}: error is {error} times its bound"


def test_what_is_served():
    assert {format for op, format in SERVED if op == "gemv"} == set(TYPES["gemv"])
    assert {format for op, format in SERVED if op == "gemv_moe"} == {"bf16", "int4", "mxfp4"}
    assert {op for op, _ in SERVED} >= {"kv_append", "kv_gather", "kv_copy_blocks"}
    launchers = [arguments for name, arguments in prototypes().items() if name != "rb_cuda_probe_variant"]
    assert all(arguments[-1] == ("void *", "stream") for arguments in launchers)
