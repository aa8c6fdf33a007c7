# SPDX-License-Identifier: MIT
"""Every contract, in the order in which results are shown."""

from __future__ import annotations

from roofbench.op import Op
from roofbench.ops.gemm import Gemm
from roofbench.ops.gemv import Gemv
from roofbench.ops.gemv_moe import GemvMoe
from roofbench.ops.kv_append import KvAppend
from roofbench.ops.kv_copy_blocks import KvCopyBlocks
from roofbench.ops.kv_gather import KvGather
from roofbench.ops.probe import Probe

OPS: dict[str, Op] = {
    op.name: op for op in (Probe(), Gemv(), GemvMoe(), Gemm(), KvAppend(), KvGather(), KvCopyBlocks())
}


def op_of(name: str) -> Op:
    """Raises ValueError where there is no such op."""
    try:
        return OPS[name]
    except KeyError:
        raise ValueError(f"unknown op {name!r}; known: {' '.join(OPS)}") from None
