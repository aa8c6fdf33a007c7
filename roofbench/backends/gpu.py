# SPDX-License-Identifier: MIT
"""GPUs through torch.cuda, which is CUDA and ROCm: memory between guards, graphs, events, clocks.

`Gpu` is all that touches the device; tests put another in its place.
"""

from __future__ import annotations

import copy
import importlib.util
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from roofbench import smi
from roofbench.backends.base import Backend, Call, Launch
from roofbench.devices import Device
from roofbench.engine import MeasurementError
from roofbench.formats import DTYPES, Array
from roofbench.numerics import GUARD_BYTES
from roofbench.smi import Sensors
from roofbench.telemetry import Reading, Telemetry
from roofbench.timing import Clock

_GUARD = 0xA5
_ALIGN = 256  # of every array, as cudaMalloc aligns
_GRAPHS = 512  # kept: one for each place in a rotation at which a sample starts
_SPIN_S = 50e-6  # and for each launch at least what follows: the host queues everything while the device spins
_SPIN_LAUNCH_S = 20e-6
_SPIN_SLACK = 2  # times what the host took before, where that is more: launchers that do much in Python
_SPIN_HZ = 3e9  # no GPU clocks higher: one that is slower spins for longer
_AGREEMENT = 0.15  # between a graph and the same launches behind a spinning kernel,
_GAP_S = 3e-6  # which leave gaps of up to this for each call,
_GAP_SHARE = 0.5  # or, where a call launches many kernels, of this share of the host's time: some us for each
_LOOK_S = 5e-3  # a look at the sensors takes a few ms; so much work is queued meanwhile,
_LOOK_LAUNCHES = 500  # in so many graphs at most: the driver's queue is finite


class Gpu:
    """The first device of torch.cuda."""

    device = "cuda:0"
    work: tuple[Call, float] | None = None  # what was timed last, and its seconds

    def missing(self) -> str | None:
        """Why there is none, and the line that helps; None where there is one."""
        if not importlib.util.find_spec("torch"):
            return "torch is not installed: pip install torch"
        import torch

        if not torch.cuda.is_available():
            return "torch sees no CUDA or ROCm device"
        return None

    def properties(self) -> Any:
        import torch

        return torch.cuda.get_device_properties(0)

    def chip(self) -> str:
        """``sm_90``, or AMD's name, ``gfx942``."""
        properties = self.properties()
        amd = getattr(properties, "gcnArchName", "").partition(":")[0]
        return amd if amd.startswith("gfx") else f"sm_{properties.major}{properties.minor}"

    def free_memory(self) -> int:
        import torch

        torch.cuda.empty_cache()  # what torch keeps is free, too
        return int(torch.cuda.mem_get_info(0)[0])

    def stream(self) -> int:
        """The cudaStream_t or hipStream_t that launches go to, which may be one that is captured."""
        import torch

        return int(torch.cuda.current_stream(0).cuda_stream)

    def synchronize(self) -> None:
        import torch

        torch.cuda.synchronize(0)

    def usable(self) -> bool:
        """Whether it still works: an illegal access of a kernel ends a process's use of the device."""
        try:
            self.synchronize()
        except Exception:  # noqa: BLE001 - whatever torch raises
            return False
        return True

    def graph(self, calls: Sequence[Call]) -> Call:
        """The calls as one graph, captured after each has run once, outside of it."""
        import torch

        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for call in calls:
                call()
        return graph.replay

    def seconds(self, call: Call, spin_s: float) -> float:
        """Of the device, between two events around what `call` queues, all of it queued behind a kernel that spins."""
        import torch

        cuda: Any = torch.cuda
        start, stop = (cuda.Event(enable_timing=True) for _ in range(2))
        cuda._sleep(int(spin_s * _SPIN_HZ))  # noqa: SLF001 - cycles
        start.record()
        call()
        stop.record()
        stop.synchronize()
        return float(start.elapsed_time(stop)) * 1e-3

    def queued_s(self, call: Call) -> float:
        """Seconds that the host takes to queue it, on a device that has nothing else to do."""
        self.synchronize()
        start = time.perf_counter()
        call()
        took = time.perf_counter() - start
        self.synchronize()
        return took

    def sensors(self) -> Sensors:
        return smi.sensors(self.properties())

    def facts(self) -> dict[str, Any]:
        """What the driver says that the device is and is set to."""
        import torch

        toolkit = f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
        return {"name": self.properties().name, "toolkit": toolkit, **self.sensors().facts()}


class GpuTelemetry:
    """What the device's driver says while the launches that were timed last run again, untimed: idle clocks differ."""

    nominal_mhz: float | None = None  # a power cap lowers clocks by design

    def __init__(self, gpu: Gpu) -> None:
        self._gpu, self._sensors = gpu, gpu.sensors()

    def read(self) -> Reading:
        if self._gpu.work is None:
            return self._sensors.read()
        replay, seconds = self._gpu.work
        for _ in range(math.ceil(min(_LOOK_LAUNCHES, _LOOK_S / max(seconds, 1e-9)))):
            replay()
        reading = self._sensors.read()
        self._gpu.synchronize()
        return reading


class GraphClock:
    """Times launches as a graph, between events.

    The first time that it sees launches, it also queues them one by one behind a spinning kernel: both must agree.
    """

    name = "CUDA graph"
    resolution_s = 0.5e-6  # of events: CUDA Runtime API, cudaEventElapsedTime

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._graphs: OrderedDict[tuple[int, ...], tuple[Sequence[Call], Call]] = OrderedDict()
        self._known: dict[int, Call] = {}  # have run once, and agreed

    def run(self, calls: Sequence[Call]) -> float:
        key = tuple(map(id, calls))
        if key not in self._graphs:
            self._graphs[key] = (list(calls), self._captured(calls))
        self._graphs.move_to_end(key)
        while len(self._graphs) > _GRAPHS:
            self._graphs.popitem(last=False)
        replay = self._graphs[key][1]
        seconds = self._gpu.seconds(replay, _SPIN_S)
        self._gpu.work = replay, seconds
        return seconds

    def now(self) -> float:
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def forget(self) -> None:
        self._graphs.clear()
        self._known.clear()
        self._gpu.work = None

    def _captured(self, calls: Sequence[Call]) -> Call:
        new = [call for call in calls if id(call) not in self._known]
        for call in new:
            call()
        self._gpu.synchronize()
        replay = self._gpu.graph(calls)
        if new:
            self._compare(calls, replay)
            self._known |= {id(call): call for call in new}
        return replay

    def _compare(self, calls: Sequence[Call], replay: Call) -> None:
        def eager() -> None:
            for call in calls:
                call()

        host_s = self._gpu.queued_s(eager)
        spin_s = _SPIN_S + max(len(calls) * _SPIN_LAUNCH_S, _SPIN_SLACK * host_s)
        gaps_s = max(len(calls) * _GAP_S, _GAP_SHARE * host_s)
        graph = min(self._gpu.seconds(replay, _SPIN_S) for _ in range(3))
        events = min(self._gpu.seconds(eager, spin_s) for _ in range(3))
        if abs(graph - events) > _AGREEMENT * graph + gaps_s:
            raise MeasurementError(
                f"a graph of {len(calls)} launches takes {graph * 1e6:.1f} us, "
                f"one by one behind a spinning kernel they take {events * 1e6:.1f} us"
            )


class GpuBackend(Backend):
    """Kernels on a device of torch.cuda: all that does not depend on what they are written in.

    Args:
        gpu: another than the first.
    """

    accelerator = True
    warmup_s = 0.2

    def __init__(self, gpu: Gpu | None = None) -> None:
        self._gpu = gpu or Gpu()

    def clock(self) -> Clock:
        return GraphClock(self._gpu)

    def telemetry(self) -> Telemetry:
        return GpuTelemetry(self._gpu)

    def facts(self) -> dict[str, Any] | None:
        return self._gpu.facts()

    def last_level_cache(self, device: Device | None) -> int:
        """What the driver says, or the catalogue's where that is more: the system's cache of an iGPU."""
        of_catalogue = device.llc_bytes if device and device.kind == "gpu" else None
        return max(int(self._gpu.properties().L2_cache_size), of_catalogue or 0)

    def free_memory(self) -> int | None:
        return self._gpu.free_memory()

    def usable(self) -> bool:
        return self._gpu.usable()


class DeviceLaunch(Launch):
    """A kernel bound to a device's copies of one buffer's arrays.

    Args:
        memory: name -> bytes of the device between guards; `arrays` are tensors in it.
    """

    def __init__(
        self, call: Call, arrays: Mapping[str, Any], memory: Mapping[str, Any], like: Mapping[str, Array]
    ) -> None:
        super().__init__(call, arrays)
        self._memory, self._dtypes = memory, {name: array.dtype for name, array in like.items()}

    def again(self, call: Call) -> DeviceLaunch:
        """Another launch on the same memory."""
        other = copy.copy(self)
        Launch.__init__(other, call, self.arrays)
        return other

    def load(self, contents: Mapping[str, Array]) -> None:
        for name, content in contents.items():
            self._bytes(name).copy_(_host_bytes(content))

    def poison(self, name: str) -> None:
        self._bytes(name).fill_(0xFF)

    def spoil(self, name: str, where: Array) -> None:
        self._elements(name)[self._index(where)] = 0xFF

    def peek(self, name: str, where: Array) -> Array:
        raw = self._elements(name)[self._index(where)].cpu().numpy()
        return np.ascontiguousarray(raw).view(self._dtypes[name]).reshape(-1)

    def output(self, name: str) -> Array:
        raw: Array = self._bytes(name).cpu().numpy()
        return raw.view(self._dtypes[name]).reshape(tuple(self.arrays[name].shape))

    def intact(self, name: str) -> bool:
        raw, nbytes = self._memory[name], self._bytes(name).numel()
        before, after = raw[:GUARD_BYTES], raw[GUARD_BYTES + nbytes :]
        return bool((before == _GUARD).all()) and bool((after == _GUARD).all())

    def _bytes(self, name: str) -> Any:
        tensor = self.arrays[name]
        return self._memory[name][GUARD_BYTES : GUARD_BYTES + tensor.numel() * tensor.element_size()]

    def _elements(self, name: str) -> Any:
        return self._bytes(name).view(-1, self._dtypes[name].itemsize)

    def _index(self, where: Array) -> Any:
        import torch

        return torch.from_numpy(np.ascontiguousarray(where, np.int64)).to(self._memory_device())

    def _memory_device(self) -> Any:
        return next(iter(self._memory.values())).device


def put(gpu: Gpu, sets: Sequence[Mapping[str, Array]], bind: Callable[[Mapping[str, Any]], Call]) -> list[DeviceLaunch]:
    """Launches on copies of these arrays; one that is in several sets is copied once.

    Args:
        bind: tensors, by the names of the arrays -> what launches once.
    """
    memory: dict[tuple[int, int], Any] = {}
    launches = []
    for arrays in sets:
        raw, tensors = {}, {}
        for name, array in arrays.items():
            key = (array.ctypes.data, array.nbytes)
            if key not in memory:
                memory[key] = _guarded(gpu, array)
            raw[name] = memory[key]
            tensors[name] = _view(raw[name], array)
        launches.append(DeviceLaunch(bind(tensors), tensors, raw, arrays))
    return launches


def _guarded(gpu: Gpu, array: Array) -> Any:
    import torch

    memory = torch.full((array.nbytes + 2 * GUARD_BYTES + -array.nbytes % _ALIGN,), _GUARD, dtype=torch.uint8)
    memory = memory.to(gpu.device)
    memory[GUARD_BYTES : GUARD_BYTES + array.nbytes].copy_(_host_bytes(array))
    return memory


def _host_bytes(array: Array) -> Any:
    import torch

    raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return torch.from_numpy(raw if raw.flags.writeable else raw.copy())  # torch takes no others without a warning


def _view(memory: Any, array: Array) -> Any:
    """A tensor of the array's type and shape; unsigned words are torch's, 64 of them signed."""
    import torch

    names = {DTYPES["bf16"]: torch.bfloat16, DTYPES["fp8"]: torch.float8_e4m3fn, np.dtype(np.uint64): torch.int64}
    dtype = names.get(array.dtype) or getattr(torch, array.dtype.name)
    raw = memory[GUARD_BYTES : GUARD_BYTES + array.nbytes]
    return (raw.view(dtype) if array.size else torch.empty(0, dtype=dtype, device=memory.device)).view(array.shape)
