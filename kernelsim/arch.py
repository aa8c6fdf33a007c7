# SPDX-License-Identifier: MIT
"""The architectures that CUDA sources are built for: what nvcc defines for each, and a device's limits.

Limits per compute capability: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability". Macros:
what nvcc 13.0 passes to its preprocessor. Multiprocessors, caches and memory: of one device that many have, since a
launcher asks for them to choose its grid.
"""

from dataclasses import dataclass

from kernelsim.errors import ArgumentError

KB = 1024
DEFAULT_SHARED = 48 * KB  # of a block, until cudaFuncSetAttribute allows more
MOST_BLOCKS = ((1 << 31) - 1, 65535, 65535)  # of a grid in x, y, z, on every device here
MOST_THREADS = (1024, 1024, 64)  # of a block


@dataclass(frozen=True)
class Device:
    """A device of a compute capability, given as 10 * major + minor.

    Attributes:
        shared_optin: bytes of shared memory that a block can have; shared_of_multiprocessor: all that there are.
        shared_reserved: bytes of them that the system takes from each block.
        l2, memory: bytes.
        integrated: memory is shared with the CPU.
    """

    capability: int
    name: str
    multiprocessors: int
    shared_optin: int
    shared_of_multiprocessor: int
    threads_of_multiprocessor: int
    blocks_of_multiprocessor: int
    l2: int
    memory: int
    integrated: bool = False
    shared_reserved: int = 1 * KB


DEVICES = (
    Device(75, "Tesla T4", 40, 64 * KB, 64 * KB, 1024, 16, 4 << 20, 16 << 30, shared_reserved=0),
    Device(80, "A100-SXM4-80GB", 108, 163 * KB, 164 * KB, 2048, 32, 40 << 20, 80 << 30),
    Device(86, "GeForce RTX 3090", 82, 99 * KB, 100 * KB, 1536, 16, 6 << 20, 24 << 30),
    Device(87, "Jetson AGX Orin", 16, 163 * KB, 164 * KB, 1536, 16, 4 << 20, 64 << 30, integrated=True),
    Device(89, "GeForce RTX 4090", 128, 99 * KB, 100 * KB, 1536, 24, 72 << 20, 24 << 30),
    Device(90, "H200", 132, 227 * KB, 228 * KB, 2048, 32, 50 << 20, 141 << 30),
    Device(100, "B200", 148, 227 * KB, 228 * KB, 2048, 32, 126 << 20, 180 << 30),
    Device(103, "B300", 148, 227 * KB, 228 * KB, 2048, 32, 126 << 20, 270 << 30),
    Device(110, "Jetson AGX Thor", 20, 227 * KB, 228 * KB, 1536, 24, 32 << 20, 128 << 30, integrated=True),
    Device(120, "GeForce RTX 5090", 170, 99 * KB, 100 * KB, 1536, 24, 96 << 20, 32 << 30),
    Device(121, "GB10", 48, 99 * KB, 100 * KB, 1536, 24, 24 << 20, 128 << 30, integrated=True),
)


@dataclass(frozen=True)
class Arch:
    """A target of nvcc -arch, such as sm_120a: suffix a is for code of this chip alone, f for its family."""

    device: Device
    suffix: str

    @property
    def name(self) -> str:
        return f"sm_{self.device.capability}{self.suffix}"

    @property
    def macros(self) -> list[str]:
        """What nvcc defines when it compiles for the device."""
        number = 10 * self.device.capability
        macros = [f"__CUDA_ARCH__={number}", f"__CUDA_ARCH_LIST__={number}"]
        if self.suffix:
            macros.append(f"__CUDA_ARCH_FAMILY_SPECIFIC__={number}")
        if self.suffix == "a":
            macros += [f"__CUDA_ARCH_SPECIFIC__={number}", f"__CUDA_ARCH_FEAT_SM{self.device.capability}_ALL=1"]
        return macros


def _targets(device: Device) -> list[Arch]:
    suffixes = ["", *("a" if device.capability >= 90 else ""), *("f" if device.capability >= 100 else "")]
    return [Arch(device, suffix) for suffix in suffixes]


ARCHS = {arch.name: arch for device in DEVICES for arch in _targets(device)}


def find(name: str) -> Arch:
    """The architecture of this name.

    Raises:
        ArgumentError: there is none.
    """
    if name not in ARCHS:
        raise ArgumentError(f"arch: {name!r} is not one of {', '.join(ARCHS)}")
    return ARCHS[name]
