# SPDX-License-Identifier: MIT
"""Builds sdist and wheel, installs each into a clean environment and uses it from another folder."""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        run(sys.executable, "-m", "build", "--outdir", str(out / "dist"), str(ROOT))
        (wheel,), (sdist,) = out.glob("dist/*.whl"), out.glob("dist/*.tar.gz")
        for built, suite in ((wheel, []), (sdist, ["--op", "kv_append"])):
            print(f"== {built.name}", flush=True)
            env, away = out / f"env-{built.suffix}", out / f"away-{built.suffix}"
            away.mkdir()
            run(sys.executable, "-m", "venv", str(env))
            run(str(env / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", str(built))
            run(str(env / "bin/roofbench"), "devices", cwd=away)
            run(str(env / "bin/roofbench"), "bench", "--suite", "quick", *suite, cwd=away)
            (result,) = (away / "roofbench-runs").glob("*.json")
            print(f"== {built.name} wrote {result.name}", flush=True)
            simulate(env / "bin/python", away)


def simulate(python: Path, away: Path) -> None:
    """Runs a kernel of each language with the kernelsim that was installed."""
    find = subprocess.run([str(python), "-c", "from kernelsim import toolchain; toolchain.find()"], check=False)
    if find.returncode:
        run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "ziglang")
    body = "{ y[i] = i * i; }\n"
    (away / "square.metal").write_text(
        f"kernel void square(device float* y, uint i [[thread_position_in_grid]]) {body}"
    )
    (away / "square.cu").write_text(f"__global__ void square(float* y) {{ int i = threadIdx.x; {body} }}\n")
    for name in ("square.metal", "square.cu"):
        launch = ("--kernel", "square", "--arg", "y=poison:f32:8", "--grid", "8" if ".metal" in name else "1")
        run(str(python), "-m", "kernelsim", "run", name, *launch, "--threadgroup", "8", cwd=away)


def run(*command: str, cwd: Path | None = None) -> None:
    subprocess.run(command, cwd=cwd, check=True)


if __name__ == "__main__":
    main()
