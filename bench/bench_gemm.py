# SPDX-License-Identifier: MIT
"""Prefill: y = x @ w.T for whole prompts."""

OPS = ("gemm",)


def bench_gemm(spec, measure):
    measure(spec)
