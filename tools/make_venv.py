# SPDX-License-Identifier: MIT
"""Makes .venv for `make bench`, `make test` or `make lint`, and says what is missing and how to get it.

Runs with any Python 3 and its standard library alone. Does nothing where the environment is up to date.
A torch, and on macOS an mlx, that the Python has which runs this are shared, not installed again: they may be
a vendor's own.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STATE = VENV / ".roofbench-outer"  # what it shares
INPUTS = ("pyproject.toml", "setup.py", "constraints.txt", "csrc/*")  # what an environment depends on

COMMANDS = {"bench": ["pytest"], "test": ["pytest"], "lint": ["pytest", "mypy", "ruff", "clang-format"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("extra", choices=["bench", "test", "lint"])
    parser.add_argument("--rivals", action="store_true", help="install torch, to be timed beside our kernels")
    parser.add_argument("--index", default="", help="another package index for torch's CPU wheels")
    options = parser.parse_args()
    check_machine()
    extras = [options.extra, *(["rivals"] if options.rivals else [])]
    stamp = VENV / f".roofbench-{'-'.join(extras)}"
    shared = outer()
    wanted = digest(shared)
    if PYTHON.exists() and stamp.exists() and stamp.read_text() == wanted:
        return
    if not PYTHON.exists() or outdated(shared):
        make(shared)
    STATE.write_text(json.dumps(shared))
    print(f"roofbench: installing into {VENV.name} ({', '.join(extras)}) ...", flush=True)
    index = ["--extra-index-url", options.index] if options.index else []
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *index]
    pins = os.devnull if extras == ["bench"] and not shared else constraints(shared)
    done = subprocess.run([*pip, "-c", pins, "-e", f".[{','.join(extras)}]"], cwd=ROOT, check=False)
    if shared and not done.returncode:  # a package that the outer Python has brings no command into .venv
        absent = [name for name in COMMANDS[options.extra] if not (VENV / "bin" / name).exists()]
        if absent:
            done = subprocess.run([*pip, "--ignore-installed", "--no-deps", *absent], check=False)
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


def outer() -> dict:
    """Package -> version of what the environment shares with the Python that runs this."""
    if Path(sys.prefix).resolve() == VENV.resolve():  # activated: what it was made with
        return json.loads(STATE.read_text()) if STATE.exists() else {}
    from importlib import metadata, util  # Python 3.8

    found = {}
    for name in ["torch", *(["mlx"] if sys.platform == "darwin" else [])]:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        old = name == "torch" and [int(part) for part in re.findall(r"\d+", version)[:2]] < [2, 3]  # not for NumPy 2
        if util.find_spec(name) and not old:
            found[name] = version
    return found


def outdated(shared: dict) -> bool:
    """Whether .venv was made for another Python, or to share something else."""
    before = json.loads(STATE.read_text()) if STATE.exists() else {}
    same_python = (VENV / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}").exists()
    return before.keys() != shared.keys() or not same_python


def make(shared: dict) -> None:
    over = ", ".join(f"{name} {version}" for name, version in shared.items())
    print(f"roofbench: making {VENV.name}{f' over {over}' if over else ''} ...", flush=True)
    # --system-site-packages would pass over an environment, which is named in a .pth file instead
    site = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    nested = sys.prefix != sys.base_prefix
    options = ["--clear", *(["--system-site-packages"] if shared and not nested else [])]
    subprocess.run([sys.executable, "-m", "venv", *options, str(VENV)], check=True)
    if shared and nested:
        here = next(VENV.glob("lib*/python*/site-packages"))
        (here / "outer.pth").write_text("\n".join(site))


def constraints(shared: dict) -> str:
    """A file of constraints.txt's pins, with the torch that is shared in place of ours."""
    pins = (ROOT / "constraints.txt").read_text()
    if "torch" in shared:
        pins = re.sub(r"^torch==.*$", f"torch=={shared['torch']}", pins, flags=re.MULTILINE)
    path = VENV / "constraints.txt"
    path.write_text(pins)
    return str(path)


def digest(shared: dict) -> str:
    """Of the files that decide what is installed, of the Python that it is for, and of what it shares."""
    found = hashlib.sha256(f"{sys.version} {sorted(shared.items())}".encode())
    for pattern in INPUTS:
        for path in sorted(ROOT.glob(pattern)):
            if path.is_file():
                found.update(path.read_bytes())
    return found.hexdigest()


if __name__ == "__main__":
    main()
