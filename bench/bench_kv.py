# SPDX-License-Identifier: MIT
"""KV cache: append, gather, copy."""

OPS = ("kv_append", "kv_gather", "kv_copy_blocks")


def bench_kv(spec, measure):
    measure(spec)
