# SPDX-License-Identifier: MIT
"""Memory and time of GPUs, on a device that is the host."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="pip install torch")

from fakes import FakeGpu  # noqa: E402

from roofbench.backends.gpu import Gpu, GpuTelemetry, GraphClock, put  # noqa: E402
from roofbench.engine import MeasurementError  # noqa: E402
from roofbench.formats import DTYPES  # noqa: E402
from roofbench.hazards import expected, inputs  # noqa: E402
from roofbench.numerics import Limit  # noqa: E402
from roofbench.op import Case  # noqa: E402
from roofbench.rivals import DeviceCopy, TorchGpu  # noqa: E402

NOTHING = lambda tensors: lambda: None  # noqa: E731


@pytest.mark.parametrize("dtype", [*DTYPES.values(), np.dtype(np.uint32), np.dtype(np.uint8), np.dtype(np.uint64),
                                   np.dtype(np.int64), np.dtype(np.int32)])  # fmt: skip
def test_arrays_of_every_type_come_back_as_they_were(dtype):
    array = np.frombuffer(np.random.default_rng(0).bytes(12 * dtype.itemsize), dtype).reshape(3, 4)
    launch = put(FakeGpu(), [{"a": array}], NOTHING)[0]
    assert launch.arrays["a"].shape == (3, 4)
    assert launch.output("a").tobytes() == array.tobytes()
    assert launch.peek("a", np.array([0, 5, 11])).tobytes() == array.reshape(-1)[[0, 5, 11]].tobytes()
    launch.spoil("a", np.array([5]))
    assert launch.output("a").reshape(-1)[5:6].tobytes() == b"\xff" * dtype.itemsize
    assert launch.output("a").reshape(-1)[4].tobytes() == array.reshape(-1)[4].tobytes()
    launch.poison("a")
    assert launch.output("a").tobytes() == b"\xff" * array.nbytes
    launch.load({"a": array})
    assert launch.output("a").tobytes() == array.tobytes()
    assert launch.intact("a")


def test_arrays_that_are_shared_are_shared_on_the_device():
    w, x = np.ones(8, np.float32), np.zeros((2, 8), np.float32)
    first, second = put(FakeGpu(), [{"w": w, "x": x[0]}, {"w": w, "x": x[1]}], NOTHING)
    assert first.arrays["w"].data_ptr() == second.arrays["w"].data_ptr()
    assert first.arrays["x"].data_ptr() != second.arrays["x"].data_ptr()


@pytest.mark.parametrize("at", [-1, 8])
def test_a_write_beside_an_array_is_seen(at):
    def bind(tensors):
        y = tensors["y"]
        return lambda: y.as_strided((1,), (1,), y.storage_offset() + at).fill_(3)

    launch = put(FakeGpu(), [{"y": np.zeros(8, np.float32)}], bind)[0]
    assert launch.intact("y")
    launch()
    assert not launch.intact("y")


def test_empty_arrays_are_bound():
    launch = put(FakeGpu(), [{"y": np.zeros((0, 4), np.float32)}], NOTHING)[0]
    assert launch.output("y").shape == (0, 4)


def test_launches_are_captured_once_for_each_order():
    gpu = FakeGpu()
    clock, done = GraphClock(gpu), []
    calls = [lambda i=i: (done.append(i), gpu.spend(1e-4)) for i in range(3)]
    assert clock.run(calls) == pytest.approx(3e-4)
    assert clock.run(calls) == pytest.approx(3e-4)
    assert gpu.captured == 1
    clock.run(calls[::-1])
    assert gpu.captured == 2
    assert done[-3:] == [2, 1, 0]


def test_a_graph_that_events_contradict_is_an_error():
    gpu = FakeGpu(graph_share=0.5)  # a graph that does half of the work
    with pytest.raises(MeasurementError, match="a graph of 1 launches takes 500.0 us, one by one .* 1000.0 us"):
        GraphClock(gpu).run([lambda: gpu.spend(1e-3)])


def test_what_the_driver_does_not_say_is_none():
    class Mute(FakeGpu):
        clock_mhz, throttled = Gpu.clock_mhz, Gpu.throttled

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU, whose driver says something")
    assert GpuTelemetry(Mute()).read() == (None, False)
    assert GpuTelemetry(FakeGpu()).read() == (1500.0, False)


def test_without_a_device_the_reason_is_said():
    if not torch.cuda.is_available():
        assert Gpu().missing() == "torch sees no CUDA or ROCm device"


RIVALRY = [
    *(("gemv", format, {"M": m, "N": 48, "K": 64}) for format in ("f32", "f16", "bf16") for m in (1, 3)),
    ("gemm", "bf16", {"B": 2, "M": 5, "N": 48, "K": 64, "w_batch": 2}),
    ("gemm", "bf16", {"B": 2, "M": 5, "N": 48, "K": 64, "w_batch": 1}),
    ("gemm", "fp8_w8a8", {"B": 1, "M": 16, "N": 48, "K": 64, "w_batch": 1}),
    ("gemv_moe", "bf16", {"M": 2, "N": 20, "K": 64, "E": 8, "top_k": 2, "x_slots": 1}),
    *(
        (op, "bf16", {"num_tokens": 20, "num_heads": 2, "head_size": 32, "num_blocks": 4, "block_size": 8, **more})
        for op, more in (("kv_append", {}), ("kv_gather", {"hnd": 0}))
    ),
]


@pytest.mark.parametrize(("op", "format", "dims"), RIVALRY)
def test_rivals_on_the_device_do_the_same_work_on_our_tensors(op, format, dims):
    arrays = inputs(op, format, dims, np.random.default_rng(0))
    if op.startswith("kv_"):
        arrays["slot_mapping"][...] = np.random.default_rng(1).permutation(dims["num_blocks"] * dims["block_size"])[:20]
    launch = put(FakeGpu(), [arrays], NOTHING)[0]
    bound = TorchGpu().bind(Case(op, format, "test", dims), [launch.arrays])
    assert len(bound) == 1
    bound[0].call()
    known = expected(op, format, arrays, "random")
    for name, output in bound[0].outputs().items():
        if op == "kv_append":  # slots that were not written are zeros in the rival's copy
            continue
        loose = Limit(100 * dims.get("K", 0))
        assert known[name].error(output.reshape(arrays[name].shape), loose) <= 1


@pytest.mark.parametrize("op", ["kv_append", "kv_gather"])
def test_the_drivers_copy_moves_what_the_op_reads(op):
    dims = {"num_tokens": 20, "num_heads": 2, "head_size": 32, "num_blocks": 4, "block_size": 8, "hnd": 0}
    launch = put(FakeGpu(), [inputs(op, "bf16", dims, np.random.default_rng(0))], NOTHING)[0]
    copied = []
    launch.arrays = {name: tensor.clone() for name, tensor in launch.arrays.items()}
    bound = DeviceCopy().bind(Case(op, "bf16", "test", dims), [launch.arrays])[0]
    original = torch.Tensor.copy_
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "copy_", lambda to, run: (copied.append(run.numel()), original(to, run)))
        bound.call()
    assert copied == [20 * 2 * 32] * 2
