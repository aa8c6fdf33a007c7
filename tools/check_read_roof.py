# SPDX-License-Identifier: MIT
"""Sets the measured read roof of the CPU beside likwid-bench (Debian package likwid), in one run.

    python tools/check_read_roof.py [ROUNDS] [--json FILE]

First each chooses its fastest way to read: likwid-bench among its load kernels, we among our variants. Of ours
the fastest without software prefetching comes along, because likwid-bench's kernels do not prefetch. Then all
take turns of about a third of a second, likwid-bench before us and after us, because machines drift: a round
counts as our rate over the mean of its two. All go through as much memory and have the same pages: ours ask
for huge ones with madvise, and so does likwid-bench's malloc under GLIBC_TUNABLES=glibc.malloc.hugetlb=1
(glibc 2.35 or later).

Prints every round, the median ratios and their intervals. Exits with 1 where the like variant is not within
5 % of likwid-bench, or the roof is more than 5 % below it.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from roofbench import ceilings, devices
from roofbench.backends import backend_of
from roofbench.backends.base import Launch
from roofbench.engine import median_interval
from roofbench.rows import COLD_FACTOR
from roofbench.timing import Clock

KERNELS = ("load_avx512", "load_avx", "load_sse", "load_mem", "load")
TURN_S = 0.3
WITHIN = 0.05
PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rounds", type=int, nargs="?", default=25, metavar="ROUNDS")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round there")
    options = parser.parse_args()
    if shutil.which("likwid-bench") is None:
        sys.exit("likwid-bench is not installed: sudo apt install likwid")
    cpu = backend_of("cpu")
    if reason := cpu.missing():
        sys.exit(reason)
    clock = cpu.clock()
    roof = ceilings.calibrate(cpu, clock, COLD_FACTOR * devices.last_level_cache(), kinds=("read",))[0]["read"]
    nbytes = roof.work * len(roof.lane.calls)
    tried = {kernel: [rate(command(kernel, nbytes)) for _ in range(5)] for kernel in KERNELS}
    medians = {kernel: statistics.median(rates) for kernel, rates in tried.items() if None not in rates}
    if not medians:
        sys.exit(f"likwid-bench gives no rate here; try: {' '.join(command(KERNELS[-1], nbytes))}")
    kernel = max(medians, key=medians.__getitem__)
    ways = cpu.probe_variants("read", "f32")
    like = max((v for v in roof.variants if "prefetch" not in v.name), key=lambda variant: variant.rate).name
    buffers = [call.arrays for call in roof.lane.calls]
    lanes = {
        roof.lane.name: roof.lane.calls,
        like: cpu.bind_all("probe", "f32", {**roof.case.dims, **ways[like]}, buffers),
    }
    print(
        f"likwid-bench {kernel}, {cpu.threads()} threads, GB/s; then ours: {', '.join(f'{name!r}' for name in lanes)}"
    )
    mine: dict[str, list[float]] = {name: [] for name in lanes}
    theirs = [measured(kernel, nbytes)]
    for _ in range(options.rounds):
        for name, calls in lanes.items():
            mine[name].append(turn(clock, calls, roof.work))
        theirs.append(measured(kernel, nbytes))
        print("  ", *(f"{rates[-1]:6.1f}" for rates in (theirs, *mine.values())), flush=True)
    ratios = {
        name: [2 * ours / (a + b) for ours, a, b in zip(rates, theirs[:-1], theirs[1:], strict=True)]
        for name, rates in mine.items()
    }
    medians = {name: statistics.median(found) for name, found in ratios.items()}
    for name, found in ratios.items():
        low, high = median_interval(found)
        print(f"{name!r} over likwid-bench: median {medians[name]:.3f}, 95 % interval {low:.3f} to {high:.3f}")
    within = abs(medians[like] - 1) <= WITHIN and medians[roof.lane.name] >= 1 - WITHIN
    if options.json:
        found = {
            "command": shlex.join(["python", *sys.argv]),
            "likwid_command": shlex.join(command(kernel, nbytes)),
            "environment": PAGES,
            "kernel": kernel,
            "roof": roof.lane.name,
            "like": like,
            "threads": cpu.threads(),
            "compiler": cpu.compiler(),
            "likwid_gbs": theirs,  # one more than ours: before the first, between any two, after the last
            "roofbench_gbs": mine,
            "median_ratios": medians,
            "within": within,
        }
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    print(f"within {100 * WITHIN:.0f} %: {'yes' if within else 'no'}")
    sys.exit(not within)


def turn(clock: Clock, calls: Sequence[Launch], work: int) -> float:
    """GB/s of our launches, one after the other for `TURN_S`."""
    seconds, launches = 0.0, 0
    while seconds < TURN_S:
        seconds += clock.run(calls)
        launches += len(calls)
    return work * launches / seconds / 1e9


def command(kernel: str, nbytes: int) -> list[str]:
    """likwid-bench's kernel on all cores, over about `TURN_S`."""
    iterations = max(2, round(TURN_S * 45e9 / nbytes / 2) * 2)
    workgroup = f"S0:{nbytes // 10**6}MB:{backend_of('cpu').threads()}"
    return ["likwid-bench", "-t", kernel, "-i", str(iterations), "-w", workgroup]


def rate(command: list[str]) -> float | None:
    """GB/s; None where the chip cannot run the kernel."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **PAGES})
    found = re.search(r"MByte/s:\s+([\d.]+)", done.stdout)
    return float(found[1]) / 1000 if found else None


def measured(kernel: str, nbytes: int) -> float:
    """GB/s of a kernel that has run before."""
    found = rate(command(kernel, nbytes))
    if found is None:
        sys.exit(f"likwid-bench stopped giving a rate; try: {' '.join(command(kernel, nbytes))}")
    return found


if __name__ == "__main__":
    main()
