# SPDX-License-Identifier: MIT
"""What the tests of the KV kernels share: libraries of kernelsim, prototypes, calls with arrays by name."""

import ctypes
import functools
from pathlib import Path

import numpy as np

import kernelsim

FOLDER = Path(__file__).parents[1] / "csrc"
P, I = ctypes.c_void_p, ctypes.c_int64
SCHEDULES = ("forward", "reverse", "random")
SIZES = ("num_tokens", "num_heads", "head_size", "num_blocks", "block_size")
PROTOTYPES = {
    "kv_append": ("key", "value", "key_cache", "value_cache", "slot_mapping", *SIZES, "itemsize"),
    "kv_append_fp8": (
        *("key", "value", "key_cache", "value_cache", "slot_mapping", "k_scale_inv", "v_scale_inv"),
        *SIZES,
    ),
    "kv_gather": ("key_cache", "value_cache", "slot_mapping", "key", "value", *SIZES, "hnd", "itemsize"),
    "kv_gather_fp8": (
        *("key_cache", "value_cache", "slot_mapping", "k_scale_inv", "v_scale_inv", "key", "value"),
        *(*SIZES, "hnd"),
    ),
    "kv_copy_blocks": (
        *("key_caches", "value_caches", "block_mapping", "num_layers", "num_blocks", "block_size"),
        *("num_heads", "head_size", "num_pairs", "itemsize"),
    ),
    "kv_swap_blocks": (
        *("src_key_caches", "src_value_caches", "dst_key_caches", "dst_value_caches", "block_mapping"),
        *("num_layers", "src_blocks", "dst_blocks", "block_size", "num_heads", "head_size", "num_pairs", "itemsize"),
    ),
}
STEMS = {name: "kv_copy_blocks" if name == "kv_swap_blocks" else name.removesuffix("_fp8") for name in PROTOTYPES}


@functools.cache
def library(stem, arch="sm_90a", *, audit=False):
    return kernelsim.cuda.build(FOLDER / f"{stem}.cu", arch=arch, audit=audit)


def call(name, arrays, sizes, arch="sm_90a", schedule="forward", *, audit=False):
    """The launcher's code. Arrays by name, None and addresses too; caches of layers as lists of arrays."""
    lib, names = library(STEMS[name], arch, audit=audit), PROTOTYPES[name]
    lib.configure(schedule=schedule, seed=3)
    function = getattr(lib.functions, f"rb_cuda_{name}")
    given, tables = [], []
    for arg in names:
        value = arrays.get(arg, sizes.get(arg))
        if isinstance(value, list):
            value = np.array([a if isinstance(a, int) else a.ctypes.data for a in value], np.uint64)
            tables.append(value)
        given.append(value.ctypes.data if isinstance(value, np.ndarray) else value)
    function.argtypes = [P if arg in arrays else I for arg in names] + [P]
    function.restype = ctypes.c_int
    return function(*given, None)


def run(name, arrays, sizes, arch="sm_90a", schedule="forward", *, audit=False):
    """The same; raises what a fault or an overrun says."""
    code = call(name, arrays, sizes, arch, schedule, audit=audit)
    library(STEMS[name], arch, audit=audit).check(code)


def guarded(array, shift=0, *, writable=True):
    """A copy that ends at an unmapped page, or so many elements before it, starting as far from 16 bytes."""
    whole = kernelsim.guarded(np.concatenate([np.zeros(shift, array.dtype), array.reshape(-1)]), writable=writable)
    return whole[shift:].reshape(array.shape)
