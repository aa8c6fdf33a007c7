# SPDX-License-Identifier: MIT
"""Memory and time of GPUs, on a device that is the host."""

import gc
import sys
import time
import weakref
from collections import namedtuple
from importlib import metadata
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="pip install torch")

from fakes import FakeGpu  # noqa: E402

from roofbench.backends import triton_  # noqa: E402
from roofbench.backends.gpu import Gpu, GpuTelemetry, GraphClock, put  # noqa: E402
from roofbench.backends.numpy_ import NumPy  # noqa: E402
from roofbench.backends.triton_ import Triton  # noqa: E402
from roofbench.engine import MeasurementError  # noqa: E402
from roofbench.formats import DTYPES  # noqa: E402
from roofbench.gate import RIVAL_TOLERANCE  # noqa: E402
from roofbench.hazards import expected, inputs  # noqa: E402
from roofbench.mlx_ import EvalClock  # noqa: E402
from roofbench.numerics import Limit, to_f64  # noqa: E402
from roofbench.op import Case  # noqa: E402
from roofbench.rivals import MLX_ROUNDS, DeviceCopy, MlxGpu, TorchGpu  # noqa: E402
from roofbench.telemetry import Reading  # noqa: E402

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


def test_a_row_leaves_no_launches_behind():
    """They would keep its memory."""
    gpu = FakeGpu()
    clock = GraphClock(gpu)
    launch = put(gpu, [{"a": np.zeros(4, np.float32)}], lambda tensors: lambda: gpu.spend(1e-4))[0]
    alive = weakref.ref(launch)
    clock.run([launch])
    clock.forget()
    del launch
    gc.collect()
    assert alive() is None


def test_another_launch_on_the_same_memory():
    a = np.ones(4, np.float32)
    (first,) = put(FakeGpu(), [{"a": a}], lambda t: lambda: t["a"].fill_(2))
    second = first.again(lambda: first.arrays["a"].fill_(3))
    second()
    assert first.output("a").tolist() == second.output("a").tolist() == [3] * 4
    first()
    assert second.output("a").tolist() == [2] * 4


def test_a_device_that_a_fault_has_ended():
    class Broken(FakeGpu):
        def synchronize(self):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    assert FakeGpu().usable()
    assert not Broken().usable()


def test_a_graph_that_events_contradict_is_an_error():
    gpu = FakeGpu(graph_share=0.5)  # a graph that does half of the work
    with pytest.raises(MeasurementError, match="a graph of 1 launches takes 500.0 us, one by one .* 1000.0 us"):
        GraphClock(gpu).run([lambda: gpu.spend(1e-3)])


class Queued(FakeGpu):
    """The host takes time for each kernel, too, and behind too short a spin the device waits for it."""

    HOST_S, GAP_S = 6e-6, 1.5e-6
    host_s, gap_s = 0.0, GAP_S

    def kernel(self, seconds, host_s=HOST_S):
        self.spend(seconds + self.gap_s)
        self.host_s += host_s

    def graph(self, calls):
        replay = super().graph(calls)

        def without_gaps():
            self.gap_s = 0.0
            replay()
            self.gap_s, self.host_s = self.GAP_S, 0.0

        return without_gaps

    def seconds(self, call, spin_s):
        self.host_s = 0.0
        return max(super().seconds(call, spin_s), self.host_s - spin_s)

    def queued_s(self, call):
        self.host_s = 0.0
        call()
        return self.host_s


def test_launchers_that_take_long_or_launch_many_kernels_are_timed():
    gpu = Queued()
    slow = lambda: gpu.kernel(1e-5, host_s=1e-4)  # noqa: E731
    many = lambda: [gpu.kernel(2e-6) for _ in range(128)]  # noqa: E731
    assert GraphClock(gpu).run([slow] * 3) == pytest.approx(3e-5)
    assert GraphClock(gpu).run([many]) == pytest.approx(256e-6)
    gpu.graph_share = 0.5
    for calls in ([lambda: gpu.kernel(1e-3, host_s=1e-4)], [lambda: [gpu.kernel(1e-4) for _ in range(128)]]):
        with pytest.raises(MeasurementError, match="a graph of 1 launches"):
            GraphClock(gpu).run(calls)


def test_the_host_is_timed_between_waits_for_the_device():
    done = []

    class Waits(FakeGpu):
        queued_s = Gpu.queued_s

        def synchronize(self):
            done.append("wait")

    assert Waits().queued_s(lambda: (done.append("call"), time.sleep(0.01))) >= 0.01
    assert done == ["wait", "call", "wait"]


def test_sensors_are_read_while_the_device_works():
    done = []

    class Watched(FakeGpu):
        def sensors(self):
            return SimpleNamespace(read=lambda: done.append("read"))

        def synchronize(self):
            done.append("wait")

    gpu = Watched()
    clock, telemetry = GraphClock(gpu), GpuTelemetry(gpu)
    clock.run([lambda: (done.append("call"), gpu.spend(1e-3))])
    for work in (["call"] * 5, []):
        done.clear()
        telemetry.read()
        assert done == ([*work, "read", "wait"] if work else ["read"])
        clock.forget()
    clock.run([lambda: done.append("call")])  # in no time at all
    done.clear()
    telemetry.read()
    assert done.count("call") == 500


def test_what_the_driver_does_not_say_is_none():
    class Unknown(FakeGpu):
        sensors = Gpu.sensors

    assert GpuTelemetry(Unknown()).read() == Reading(None)
    assert GpuTelemetry(FakeGpu()).read() == Reading(1500.0, False, 2600.0, 350.5, 61.0, ("power cap",))


@pytest.mark.parametrize(
    ("torch_is", "triton_is", "reason"),
    [
        ("2.9.1+cu130", "3.6.0", "torch 2.9.1+cu130 is too old: pip install 'torch>=2.10', which brings Triton 3.6 "),
        ("2.10.0a0+b4e4ee81d3.nv26.01", "3.6.0", None),
        ("2.13.0", "3.5.1", "triton 3.5.1 is too old: "),
        ("2.13.0", None, "triton 3.4.0 is too old: "),  # AMD's package: the module says it
        ("3.0", "4.0.0+git1234", None),
        ("unknown", "3.10.0", None),
    ],
)
def test_versions_that_are_too_old_are_named(monkeypatch, torch_is, triton_is, reason):
    def version(name):
        found = {"torch": torch_is, "triton": triton_is}[name]
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(__version__="3.4.0", __spec__=True))
    triton_._version.cache_clear()
    try:
        said = Triton(FakeGpu()).missing()
    finally:
        triton_._version.cache_clear()
    assert said is None if reason is None else said.startswith(reason)


@pytest.mark.parametrize(("stem", "K", "there"), [("gemm", 64, True), ("gemm", 72, False), ("gemv", 72, True)])
def test_no_configuration_is_named_that_is_not_launched(monkeypatch, stem, K, there):
    """Products of an odd K have one of their own in some files."""
    config = namedtuple("Config", "BLOCK")(1)  # noqa: PYI024
    module = SimpleNamespace(pick_config=lambda M, N, K: config, configs=lambda M, N, K: [config])
    if stem == "gemm":
        module.UNALIGNED = config
    monkeypatch.setattr(triton_, "_module", lambda _: module)
    found = Triton(FakeGpu()).ways(stem, "bf16", {"B": 1, "M": 1, "N": 8, "K": K, "w_batch": 1})
    assert bool(found) == there


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


class MlxHost(MlxGpu):
    """The same on the CPU, which MLX has everywhere."""

    device = "cpu"


MLX = [
    *(("gemv", format, {"M": m, "N": 48, "K": 64})
      for format in ("f32", "f16", "bf16", "int8", "int4", "mxfp8", "mxfp4") for m in (1, 3)),
    ("gemm", "bf16", {"B": 2, "M": 5, "N": 48, "K": 64, "w_batch": 1}),
    ("gemm", "int4", {"B": 2, "M": 5, "N": 48, "K": 64, "w_batch": 1}),
]  # fmt: skip


@pytest.fixture
def mx():
    return pytest.importorskip("mlx.core", reason="pip install 'mlx[cpu]'")


@pytest.mark.parametrize(("op", "format", "dims"), MLX)
def test_mlx_does_the_same_work_on_its_own_copies(mx, op, format, dims):
    arrays = [inputs(op, format, dims, np.random.default_rng(i)) for i in range(2)]
    launches = put(FakeGpu(), arrays, NOTHING)
    bound = MlxHost().bind(Case(op, format, "test", dims), [launch.arrays for launch in launches])
    assert len(bound) == 2 * MLX_ROUNDS
    assert bound[2] is bound[0] is not bound[1]
    for one, its in zip(bound, arrays, strict=False):
        assert one.clock.run([one.call] * 3) > 0
        NumPy().bind(op, format, dims, its)()
        right, theirs = to_f64(its["y"]), to_f64(one.outputs()["y"]).reshape(its["y"].shape)
        assert np.square(theirs - right).mean() <= RIVAL_TOLERANCE**2 * np.square(right).mean()


def test_mlx_evaluates_all_of_a_batch(mx):
    """Products that nothing asks for are never made."""
    done = []
    clock = EvalClock(
        SimpleNamespace(**{**vars(mx), "eval": lambda batch: (done.append(len(batch)), mx.eval(batch))}), mx.cpu
    )
    done.clear()
    x = mx.ones((256, 256))
    few, many = (min(clock.run([lambda: x @ x] * n) for _ in range(5)) for n in (1, 40))
    assert done == [1] * 5 + [40] * 5
    assert many > 5 * few or few < 2 * 5 * clock.resolution_s
    assert clock.resolution_s > 0


def test_what_mlx_has_not_is_left_out(mx):
    for op, format, dims in (
        ("gemv", "nvfp4", {"M": 1, "N": 48, "K": 64}),
        ("gemv", "fp8", {"M": 1, "N": 48, "K": 64}),
        ("gemv", "bf16", {"M": 0, "N": 48, "K": 64}),
        ("gemm", "bf16", {"B": 2, "M": 5, "N": 48, "K": 64, "w_batch": 2}),
    ):
        launch = put(FakeGpu(), [inputs(op, format, dims, np.random.default_rng(0))], NOTHING)[0]
        assert MlxHost().bind(Case(op, format, "test", dims), [launch.arrays]) == []


def test_an_mlx_without_cuda_says_what_it_takes(mx, monkeypatch):
    monkeypatch.setattr(mx, "is_available", lambda device: device != mx.gpu)
    assert MlxGpu().missing() == "this mlx has no CUDA: pip install 'mlx[cuda]' (for NVIDIA's GPUs)"
    assert MlxHost().missing() is None
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    assert MlxGpu().missing() == MlxGpu.install


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
