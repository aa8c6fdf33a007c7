# SPDX-License-Identifier: MIT
"""What the machine can do: streams and multiply-adds."""

OPS = ("probe",)


def bench_ceilings(spec, measure):
    measure(spec)
