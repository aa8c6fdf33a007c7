# SPDX-License-Identifier: MIT
"""Decode: y = x @ w.T for a few tokens, dense and mixtures of experts."""

OPS = ("gemv", "gemv_moe")


def bench_gemv(spec, measure):
    measure(spec)
