# SPDX-License-Identifier: MIT
"""How fast kernelsim simulates: weights per second of a GEMV, FLOP/s of a GEMM, seconds to compile a small file.

Goals on two cores: f16 GEMV 1.2 G weights/s, matrix GEMM 2 GFLOP/s, a small file compiled in 1 s.
"""

import re
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import kernelsim

KERNELS = Path(__file__).parent.parent / "tests" / "kernelsim" / "kernels"
ROUNDS = 7


def main() -> None:
    rng = np.random.default_rng(0)
    n = 4096
    w, x = rng.standard_normal((n, n)).astype(np.float16), rng.standard_normal(n).astype(np.float16)
    y16, y32 = np.zeros(n, np.float16), np.zeros(n, np.float32)
    m = 512
    a, b = (rng.standard_normal((m, m)).astype(np.float16) for _ in range(2))
    c16, c32 = np.zeros((m, m), np.float16), np.zeros((m, m), np.float32)
    metal = kernelsim.metal.load(KERNELS / "matrix.metal")
    gemv, gemm = metal.kernel("gemv_f16"), metal.kernel("gemm_f16")
    cuda = kernelsim.cuda.load(KERNELS / "matrix.cu", arch="sm_90")
    cuda_gemv, cuda_gemm = cuda.kernel("gemv_f16<4>"), cuda.kernel("gemm_f16")
    sizes = np.array([m, m, m, 0], np.uint32)
    runs = {
        "Metal GEMV f16 4096 x 4096, G weights/s": (
            lambda **o: gemv([w, x, y16, n, n], threadgroups=n // 4, threadgroup=128, **o),
            n * n,
        ),
        "CUDA GEMV f16 4096 x 4096, G weights/s": (
            lambda **o: cuda_gemv([w, x, y32, n, n], grid=n // 4, block=128, **o),
            n * n,
        ),
        "Metal GEMM f16 512^3 simdgroup_matrix, GFLOP/s": (
            lambda **o: gemm([a, b, c16, sizes], threadgroups=(m // 32, m // 32), threadgroup=128, **o),
            2 * m**3,
        ),
        "CUDA GEMM f16 512^3 mma.sync, GFLOP/s": (
            lambda **o: cuda_gemm([a, b, c32, m, m], grid=(m // 64, m // 64), block=128, shared=20480, **o),
            2 * m**3,
        ),
    }
    for name, (run, work) in runs.items():
        for guard in (False, True):
            seconds = [timed(run, guard=guard) for _ in range(ROUNDS)]
            label = "arrays copied behind guard pages" if guard else "arrays in place"
            print(f"{name}: {work / statistics.median(seconds) / 1e9:.2f} ({label})")
    print(f"compiling and loading matrix.metal: {compiled('metal'):.2f} s; matrix.cu: {compiled('cu'):.2f} s")
    again = timed(lambda: kernelsim.metal.load(KERNELS / "matrix.metal").kernel("gemv_f16"))
    print(f"loading matrix.metal again, unchanged: {again:.3f} s")


def timed(run: Callable[..., None], **options: bool) -> float:
    start = time.perf_counter()
    run(**options)
    return time.perf_counter() - start


def compiled(suffix: str) -> float:
    """Seconds for a file that has never been compiled; the runtime's own objects, made once, are there."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"matrix.{suffix}"
        text = (KERNELS / f"matrix.{suffix}").read_text()
        path.write_text(re.sub(r"\bsum\b", f"sum_{time.time_ns()}", text))
        start = time.perf_counter()
        if suffix == "cu":
            kernelsim.cuda.load(path, arch="sm_90").kernel("gemv_f16<4>")
        else:
            kernelsim.metal.load(path).kernel("gemv_f16")
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
