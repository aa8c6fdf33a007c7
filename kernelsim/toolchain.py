# SPDX-License-Identifier: MIT
"""Finds a clang++ and compiles with it; what was compiled once is kept, by the hash of all that went in."""

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import inspect
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import platformdirs

from kernelsim.errors import ArgumentError, SourceError, ToolchainError

RUNTIME = Path(__file__).parent / "runtime"
OLDEST = 17  # the first with _Float16 on every x86-64 and complete C++20 templates; Apple's 16 is LLVM's 17
COMPILE_SECONDS = 300
CACHE_BYTES = 4 << 30  # beyond them the cache loses what was used longest ago,
CACHE_SECONDS = 86400  # but nothing that was used so lately: a process may be about to load it
_TEMPORARY = "kernelsim_"  # files and folders of the cache that are being written
_NAMES = ("clang++", *(f"clang++-{version}" for version in range(29, OLDEST - 1, -1)))
_HELP = "install clang 17 or later (apt install clang-19, xcode-select --install), or: pip install ziglang"


@dataclass(frozen=True)
class Toolchain:
    """A command that takes clang++'s arguments, and what it says of itself."""

    command: tuple[str, ...]
    version: str

    @property
    def is_zig(self) -> bool:
        return "ziglang" in self.command

    @property
    def driver(self) -> "Toolchain":
        """clang's own driver, which takes languages that zig's does not know."""
        return replace(self, command=(*self.command[:-1], "clang")) if self.is_zig else self

    def run(self, *arguments: str, stdin: str | None = None) -> str:
        """Its standard output; raises SourceError with its messages when it fails."""
        try:
            done = subprocess.run(
                [*self.command, *arguments],
                input=stdin,
                capture_output=True,
                encoding="utf-8",
                errors="surrogateescape",  # sources may be of any encoding
                timeout=COMPILE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise SourceError(f"the compiler took more than {COMPILE_SECONDS} s") from error
        if done.returncode:
            raise SourceError(readable(done.stderr) or f"{self.command[0]} failed with code {done.returncode}")
        return done.stdout

    def preprocess(self, source: Path, *, stubs: Path, include: Sequence[str | Path], defines: Sequence[str]) -> str:
        """The tokens of source and of its own includes, with line markers; system headers come from stubs."""
        return self.run(
            *("-E", "-x", "c++", "-std=c++20", "-nostdinc", "-nostdinc++", "-Wno-everything", "-undef"),
            *(f"-D{define}" for define in defines),
            *(f"-I{folder}" for folder in include),
            f"-I{stubs}",  # before what zig c++ adds in spite of -nostdinc
            str(source),
        )

    def compile(
        self,
        source: str,
        flags: Sequence[str],
        *,
        suffix: str,
        objects: Sequence[Path] = (),
        through: Callable[[str], str] | None = None,
    ) -> Path:
        """A file of suffix .so or .o made of C++ source, from the cache if it has been made before.

        through: changes LLVM's assembly between optimisation and code generation.
        """
        link = [*map(str, objects), "-shared"] if suffix == ".so" else ["-c"]
        if suffix == ".so" and sys.platform == "linux":
            # A function that is nowhere is an error now, not when it is loaded; the engine is linked to though a kernel
            # uses nothing of it.
            link = ["-Wl,-z,defs", "-Wl,--no-as-needed", *link]
        step = inspect.getsource(inspect.getmodule(through) or through) if through else ""
        command = (*self.command, *BASE_FLAGS, *native(), *flags, *link)
        key = digest(source, *command, self.version, runtime_digest(), cpu(), step)
        output = cache() / f"{key}{suffix}"
        if _used(output):
            return output
        prune_once()
        with tempfile.TemporaryDirectory(dir=cache(), prefix=_TEMPORARY) as folder:
            file = Path(folder) / "source.cpp"
            file.write_text(source, encoding="utf-8", errors="surrogateescape")
            built = Path(folder) / f"built{suffix}"
            compiled = [*BASE_FLAGS, *native(), *flags, str(file)]
            if through:
                assembly = Path(folder) / "source.ll"
                self.run(*compiled, "-S", "-emit-llvm", "-o", str(assembly))
                assembly.write_text(through(assembly.read_text()))
                compiled = ["-O2", "-fPIC", "-Wno-everything", "-fno-sanitize=all", *native(), str(assembly)]
                compiled += ["-Xclang", "-disable-llvm-passes"]
            if suffix == ".so" and sys.platform == "darwin":  # the name under which others that link to it look for it
                link.append(f"-Wl,-install_name,{output}")
            self.run(*compiled, *link, "-o", str(built))
            built.replace(output)
        return output

    def engine(self) -> Path:
        """The engine as a shared library, which every library of kernels is linked to: its workers serve them all."""
        objects = [self.compile((RUNTIME / name).read_text(), ENGINE_FLAGS, suffix=".o") for name in ENGINE]
        return self.compile("", ENGINE_FLAGS, suffix=".so", objects=objects)


BASE_FLAGS = (
    "-std=c++20",
    "-O2",
    "-fPIC",
    "-Wno-everything",
    f"-I{RUNTIME}",
    "-fno-sanitize=all",  # zig c++ turns some on
    "-fvisibility=default",
    "-fdebug-compilation-dir=.",  # files are named as they were given, not by their place in the working directory
)
ENGINE_FLAGS = ("-fno-strict-aliasing", "-pthread")


ENGINE = ("engine.cpp", "schedule.cpp", "stacks.cpp", "faults.cpp", "audit.cpp")


def native() -> list[str]:
    """Code for this machine's processor: half-precision arithmetic is many times faster with its instructions."""
    return ["-march=native"] if platform.machine() in ("x86_64", "AMD64") else ["-mcpu=native"]


@functools.cache
def find() -> Toolchain:
    """The compiler that KERNELSIM_CLANG names, else the first clang++ of OLDEST or later, else PyPI's ziglang.

    Raises:
        ToolchainError: there is none.
    """
    named = os.environ.get("KERNELSIM_CLANG", "")
    if named:
        return _probe(tuple(shlex.split(named))) or _missing(f"KERNELSIM_CLANG={named} is not a clang++ >= {OLDEST}")
    for name in _NAMES:
        path = shutil.which(name)
        found = path and _probe((path,))
        if found:
            return found
    if importlib.util.find_spec("ziglang"):
        found = _probe((sys.executable, "-m", "ziglang", "c++"))
        if found:
            return found
    return _missing(f"no clang++ >= {OLDEST} on this machine")


def _missing(reason: str) -> Toolchain:
    raise ToolchainError(f"{reason}: {_HELP}")


def _probe(command: tuple[str, ...]) -> Toolchain | None:
    try:
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = re.search(r"clang version (\d+)\.[^\n]*", done.stdout)
    if not version or int(version[1]) < (OLDEST - 1 if "Apple" in done.stdout else OLDEST):
        return None
    return Toolchain(command, version[0])


def readable(messages: str) -> str:
    """A compiler's errors with their source lines; of its notes, only from where a template was instantiated.

    An instruction that ptx.py does not know has become a function that must not be called; only its message is kept.
    """
    lines: list[str] = []
    keep = True
    for line in messages.splitlines():
        if re.match(r"In file included from |\d+ (errors?|warnings?).*generated\.$", line):
            continue
        refused, known = re.subn(r"call to '[^']*' declared with 'error' attribute: ", "", line)
        if re.search(r": (note|warning): ", line):
            keep = "in instantiation of" in line or "expanded from" in line
        elif re.search(r": (fatal )?error: ", line):
            keep = not known
            if known and refused not in lines:
                lines.append(refused)
        if keep:
            lines.append(line)
    return "\n".join(lines[:40])


@functools.cache
def cache() -> Path:
    """The folder of compiled files; KERNELSIM_CACHE names another."""
    folder = Path(os.environ.get("KERNELSIM_CACHE") or platformdirs.user_cache_dir("kernelsim"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ToolchainError(f"{folder} cannot be written, KERNELSIM_CACHE names another folder: {error}") from None
    return folder


def _used(path: Path) -> bool:
    """Whether a file of the cache is there; from now on it is the one that was used last."""
    with contextlib.suppress(OSError):  # it may be another user's
        os.utime(path)
    return path.exists()


@functools.cache
def prune_once() -> None:
    """Before the first compilation of a process, and not again."""
    prune(cache(), CACHE_BYTES, time.time() - CACHE_SECONDS)


def prune(folder: Path, most: int, before: float) -> None:
    """Removes what was used longest ago until the rest has `most` bytes, but nothing that was used after `before`.

    Other processes may do the same at once; what one of them uses was used now. Files of other names are left alone.
    """
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # another process removed it
            status = path.stat()
            if re.fullmatch(r"(source_)?[0-9a-f]{24}\.\w+", path.name):
                found.append((status.st_mtime, status.st_size, path))
            elif path.name.startswith(_TEMPORARY) and status.st_mtime < before:  # of a compilation that was killed
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    total = sum(size for _, size, _ in found)
    for used, size, path in sorted(found):
        if total <= most or used >= before:
            break
        with contextlib.suppress(OSError):
            if path.stat().st_mtime == used:  # nobody has used it since
                path.unlink()
        total -= size


def load(path: Path) -> ctypes.CDLL:
    """A library that was compiled.

    Raises:
        SourceError: the system refuses it.
    """
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise SourceError(f"the compiled library cannot be loaded: {error}") from error


def write(path: Path, content: str) -> None:
    """Writes a file of the cache as a whole, so that nobody reads half of it."""
    with tempfile.NamedTemporaryFile(
        "w", dir=cache(), prefix=_TEMPORARY, delete=False, encoding="utf-8", errors="surrogateescape"
    ) as file:
        file.write(content)
    Path(file.name).replace(path)


def keep(source: str, suffix: str) -> Path:
    """A file of the cache with this text."""
    path = cache() / f"source_{digest(source)}{suffix}"
    if not _used(path):
        write(path, source)
    return path


def source_file(path: str | Path | None, source: str | None, suffix: str) -> Path:
    """The file of a source that is given by its path or as text.

    Raises:
        ArgumentError: it is given as neither or both, or there is no such file.
    """
    if (path is None) == (source is None):
        raise ArgumentError("give either path or source")
    file = keep(source, suffix) if source is not None else Path(path or "")
    if not file.is_file():
        raise ArgumentError(f"path: there is no file {file}")
    return file


def stubs(name: str, headers: Mapping[str, str]) -> Path:
    """A folder with these headers, to stand in for a system's when a source is preprocessed."""
    folder = cache() / f"stubs_{name}_{digest(*headers, *headers.values())}"
    for header, content in headers.items():
        path = folder / header
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, content)
    return folder


def digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()[:24]


@functools.cache
def runtime_digest() -> str:
    """Of all headers and sources that kernels are compiled with."""
    return digest(*(path.read_text() for path in sorted(RUNTIME.rglob("*")) if path.suffix in (".hpp", ".cpp")))


@functools.cache
def cpu() -> str:
    """What -march=native depends on, for a cache that several machines share."""
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    found = re.search(r"^(?:flags|Features)\s*:.*$", info, re.MULTILINE)
    return found[0] if found else platform.machine()
