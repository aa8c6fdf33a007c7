# SPDX-License-Identifier: MIT
"""Sets the measured read roof of the CPU beside likwid-bench (Debian package likwid), in one run.

    python tools/check_read_roof.py [ROUNDS]

First each chooses its fastest way to read: likwid-bench among its load kernels, we among our variants. Then
the two take turns of about a third of a second, likwid-bench before us and after us, because machines drift:
a round counts as our rate over the mean of its two. Prints every round, the median ratio and its interval,
and the fastest that each was ever seen to be. Nothing is judged.
"""

import re
import shutil
import statistics
import subprocess
import sys

from roofbench import ceilings, devices
from roofbench.backends import backend_of
from roofbench.engine import median_interval
from roofbench.rows import COLD_FACTOR

KERNELS = ("load_avx512", "load_avx", "load_sse", "load_mem", "load")
NBYTES = 400_000_000
TURN_S = 0.3


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 25
    if shutil.which("likwid-bench") is None:
        sys.exit("likwid-bench is not installed: sudo apt install likwid")
    cpu = backend_of("cpu")
    cold = COLD_FACTOR * devices.last_level_cache()
    nbytes = max(NBYTES, cold)
    tried = {kernel: [likwid(kernel, nbytes) for _ in range(5)] for kernel in KERNELS}
    kernel = max(KERNELS, key=lambda name: statistics.median(rate or 0.0 for rate in tried[name]))
    clock = cpu.clock()
    roof = ceilings.calibrate(cpu, clock, cold, kinds=("read",))["read"]
    print(f"likwid-bench {kernel} against our '{roof.lane.name}', {cpu.threads()} threads, GB/s")
    ratios, mine, all_theirs = [], [], [likwid(kernel, nbytes)]
    for _ in range(rounds):
        seconds, launches = 0.0, 0
        while seconds < TURN_S:
            seconds += clock.run(roof.lane.calls)
            launches += len(roof.lane.calls)
        mine.append(roof.work * launches / seconds / 1e9)
        all_theirs.append(likwid(kernel, nbytes))
        theirs = (all_theirs[-2] + all_theirs[-1]) / 2
        ratios.append(mine[-1] / theirs)
        print(f"  {all_theirs[-2]:6.1f} {mine[-1]:6.1f} {all_theirs[-1]:6.1f}   {ratios[-1]:.3f}", flush=True)
    low, high = median_interval(ratios)
    print(f"ours over likwid-bench: median {statistics.median(ratios):.3f}, 95 % interval {low:.3f} to {high:.3f}")
    print(f"medians {statistics.median(mine):.1f} and {statistics.median(all_theirs):.1f}")
    print(f"fastest {max(mine):.1f} and {max(all_theirs):.1f}, ratio {max(mine) / max(all_theirs):.3f}")


def likwid(kernel: str, nbytes: int) -> float | None:
    """GB/s of a likwid-bench kernel on all cores, over about `TURN_S`; None where the chip cannot run it."""
    threads = backend_of("cpu").threads()
    iterations = max(2, round(TURN_S * 45e9 / nbytes / 2) * 2)
    command = ["likwid-bench", "-t", kernel, "-i", str(iterations), "-w", f"S0:{nbytes // 10**6}MB:{threads}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"MByte/s:\s+([\d.]+)", done.stdout)
    return float(found[1]) / 1000 if found else None


if __name__ == "__main__":
    main()
