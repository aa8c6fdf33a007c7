# SPDX-License-Identifier: MIT
"""Makes .venv for `make bench`, `make test` or `make lint`, and says what is missing and how to get it.

Runs with any Python 3 and its standard library alone. Does nothing where the environment is up to date.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
INPUTS = ("pyproject.toml", "setup.py", "constraints.txt", "csrc/*")  # what an environment depends on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("extra", choices=["bench", "test", "lint"])
    parser.add_argument("--rivals", action="store_true", help="install torch, to be timed beside our kernels")
    parser.add_argument("--index", default="", help="another package index for torch's CPU wheels")
    options = parser.parse_args()
    check_machine()
    extras = [options.extra, *(["rivals"] if options.rivals else [])]
    stamp = VENV / f".roofbench-{'-'.join(extras)}"
    wanted = digest()
    if PYTHON.exists() and stamp.exists() and stamp.read_text() == wanted:
        return
    torch = gpu_torch()
    if not PYTHON.exists():
        make(torch)
    print(f"roofbench: installing into {VENV.name} ({', '.join(extras)}) ...", flush=True)
    index = ["--extra-index-url", options.index] if options.index else []
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *index]
    pins = keep(torch) if torch else "constraints.txt" if extras != ["bench"] else os.devnull
    done = subprocess.run([*pip, "-c", pins, "-e", f".[{','.join(extras)}]"], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit("roofbench: the installation failed; what pip says is above")
    stamp.write_text(wanted)


def check_machine() -> None:
    """Exit with one message where something is missing that pip cannot bring."""
    system = {"darwin": "xcode-select --install"}.get(
        sys.platform, "sudo apt install {}   # or your system's name for it"
    )
    if sys.platform == "win32":
        sys.exit("roofbench does not run on native Windows: install WSL2 (wsl --install) and run make there")
    if sys.version_info < (3, 10):
        sys.exit(
            f"roofbench needs Python 3.10 or later; {sys.executable} is {sys.version.split()[0]}: "
            "make PYTHON=python3.12"
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        sys.exit(f"roofbench: Python's venv is missing: {system.format('python3-venv')}")
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        sys.exit(f"roofbench: Python's headers are missing: {system.format('python3-dev')}")
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    try:
        subprocess.run([compiler, "--version"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        sys.exit(f"roofbench: there is no C compiler ({compiler}): {system.format('gcc')}")


def gpu_torch() -> str:
    """Version of this Python's torch if it is one for CUDA or ROCm, which the environment then shares; else empty."""
    code = "import torch; print(torch.__version__ if torch.version.cuda or torch.version.hip else '')"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stdout.strip()


def make(torch: str) -> None:
    shared = ["--system-site-packages"] if torch else []
    print(f"roofbench: making {VENV.name}{f' over torch {torch}' if torch else ''} ...", flush=True)
    subprocess.run([sys.executable, "-m", "venv", *shared, str(VENV)], check=True)
    if torch and sys.prefix != sys.base_prefix:  # an environment itself, which --system-site-packages passes over
        here = next(VENV.glob("lib*/python*/site-packages"))
        (here / "outer.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))


def keep(torch: str) -> str:
    """A constraints file that leaves the vendor's torch where it is."""
    path = VENV / "constraints.txt"
    path.write_text(f"torch=={torch}\n")
    return str(path)


def digest() -> str:
    """Of the files that decide what is installed, and of the Python that it is for."""
    found = hashlib.sha256(sys.version.encode())
    for pattern in INPUTS:
        for path in sorted(ROOT.glob(pattern)):
            if path.is_file():
                found.update(path.read_bytes())
    return found.hexdigest()


if __name__ == "__main__":
    main()
