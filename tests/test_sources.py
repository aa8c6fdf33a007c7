# SPDX-License-Identifier: MIT
"""Claims and files, header and sources: what one says the other does."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support import CPU, every_format

from roofbench import environment, sources
from roofbench.backends import BACKENDS, cpu
from roofbench.backends.base import Claim
from roofbench.backends.cpu import _launcher
from roofbench.op import TYPES
from roofbench.ops import OPS

builder = sources.build_ffi()
STEMS = {
    *("gemv", "gemv_fp8", "gemv_int", "gemv_mx", "gemv_moe", "gemm", "gemm_fp8", "gemm_int", "gemm_mx"),
    *("kv_append", "kv_gather", "kv_copy_blocks", "probe"),
}


def test_every_stem_has_a_file_and_every_file_a_stem():
    assert {path.stem for path in builder.sources()} == STEMS
    assert {OPS[op].stem(format) for op, format in every_format()} | {"probe"} == STEMS


@pytest.mark.parametrize(("op", "format"), every_format())
def test_every_claim_is_served_by_the_file_it_names(op, format):
    claim = CPU.claim(op, format)
    assert isinstance(claim, Claim)
    assert claim.source.stem == OPS[op].stem(format)
    assert re.search(rf"^int {_launcher(op, format)}\(", claim.source.read_text(), re.MULTILINE)


def test_every_prototype_is_defined_once_and_every_launcher_declared():
    defined = []
    for path in builder.sources():
        defined += re.findall(r"^(?:int|const char \*)\s*(rb_\w+)\(", path.read_text(), re.MULTILINE)
    assert sorted(defined) == sorted(builder.prototypes())
    for name in builder.prototypes():
        assert hasattr(CPU.library.lib, name)


@pytest.mark.parametrize(("op", "format"), every_format())
def test_launchers_name_their_arguments_as_contracts_do(op, format):
    """Binding is by name: a pointer is an array of the contract, a number one of its sizes."""
    from support import small

    dims = dict(small(op, format).dims)
    signature = OPS[op].signature(format, dims)
    arguments = builder.prototypes()[_launcher(op, format)]
    assert [name for kind, name in arguments if "*" in kind] == list(signature)
    assert {name for kind, name in arguments if "*" not in kind} <= {*dims, "threads", "itemsize"}
    widths = {"uint8_t": 1, "uint16_t": 2, "uint32_t": 4, "int32_t": 4, "int64_t": 8, "float": 4}
    for kind, name in arguments:
        base = kind.replace("const", "").replace("*", "").strip()
        if base in widths and "*" in kind:
            assert signature[name].dtype.itemsize == widths[base], name
            assert ("const" in kind) == (signature[name].role == "in")


def test_every_backend_answers_for_every_contract():
    """A claim or a reason, nothing in between."""
    for backend in BACKENDS:
        for op, formats in TYPES.items():
            for format in formats:
                answer = backend.claim(op, format)
                assert isinstance(answer, Claim) or len(answer) > 10


def test_declared_chains_cover_the_sums_of_the_files():
    """The chunk and lanes that the limits assume are those of the sources."""
    for stem in ("gemv", "gemv_fp8", "gemv_int", "gemv_mx", "gemv_moe"):
        text = sources.find(stem, ".c").read_text()
        assert "CHUNK = 1024," in text
        assert "Longest chain of additions: CHUNK / 64 + 8 within a chunk, then one per chunk." in text
    for stem in ("gemm", "gemm_fp8", "gemm_int", "gemm_mx"):
        text = sources.find(stem, ".c").read_text()
        assert "LANES = 16," in text
        assert "Longest chain of additions: K / LANES + 10, roundings of a decoded weight included." in text
    assert CPU.claim("gemv", "f32").limit({"K": 4096}).chain == 16 + 8 + 4
    assert CPU.claim("gemm", "f32").limit({"K": 4096}).chain == 256 + 10


@pytest.mark.parametrize("path", builder.sources(), ids=lambda path: path.name)
def test_files_open_with_what_a_reader_needs(path):
    text = path.read_text()
    assert text.startswith("/* SPDX-License-Identifier: MIT */\n/* ")
    head = text[: text.index("*/", 40)]
    assert "Standalone C11" in head
    assert f"-c {path.name}" in head
    assert re.search(r"[Mm]emory-bound|[Cc]ompute-bound|from memory", head)
    assert "exit(" not in text
    assert "printf" not in text


def test_the_library_knows_what_it_was_built_from(monkeypatch):
    """A file that was edited and not built again is named, not measured."""
    assert cpu._built_from() == {path.name: sources.sha256(path) for path in (builder.HEADER, *builder.sources())}
    assert CPU.missing() is None
    for name, told in (("gemv.c", "0" * 64), ("cpu_kernels.h", "0" * 64), ("gone.c", "1" * 64)):
        table = {**builder.hashes(), name: told}
        monkeypatch.setattr(cpu, "_built_from", lambda table=table: table)
        assert CPU.missing() == f"csrc/{name} has changed since the library was built: pip install -e ."


def test_a_library_too_old_to_say_what_it_was_built_from_is_stale(monkeypatch):
    monkeypatch.setattr(cpu.Cpu, "library", cpu.Library(SimpleNamespace(), None))
    assert cpu._built_from.__wrapped__() == {}


def test_the_compiler_of_the_library_is_recorded(monkeypatch):
    assert re.fullmatch(r"(GCC|Clang|Apple Clang) \d+\..*", CPU.compiler())
    assert environment.describe()["compiler"] == CPU.compiler()
    monkeypatch.setattr(cpu.Cpu, "missing", lambda _: "not built")
    assert environment.describe()["compiler"] is None


def test_a_torch_of_the_outer_python_is_shared(tmp_path, monkeypatch):
    """.venv takes it as it is, keeps all other pins, and is made again where it was made without."""
    tool = sources.load_module(sources.folder("tools") / "make_venv.py")
    monkeypatch.setattr(tool, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(tool, "STATE", tmp_path / ".venv" / "state")
    (tmp_path / ".venv" / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}").mkdir(parents=True)
    for name, version in (("torch", "2.7.0+cu126"), ("mlx", "0.30.1")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
        (tmp_path / f"{name}-{version}.dist-info").mkdir()
        (tmp_path / f"{name}-{version}.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(tool.sys, "platform", "darwin")
    assert tool.outer() == {"torch": "2.7.0+cu126", "mlx": "0.30.1"}
    monkeypatch.setattr(tool.sys, "platform", "linux")
    shared = tool.outer()
    assert shared == {"torch": "2.7.0+cu126"}
    ours = (tool.ROOT / "constraints.txt").read_text().splitlines()
    theirs = Path(tool.constraints(shared)).read_text().splitlines()
    assert [line for line in ours if line not in theirs] == [next(line for line in ours if line.startswith("torch=="))]
    assert [line for line in theirs if line not in ours] == ["torch==2.7.0+cu126"]
    assert tool.outdated(shared)
    assert not tool.outdated({})
    assert tool.digest(shared) != tool.digest({})


def test_missing_files_are_named():
    with pytest.raises(FileNotFoundError, match="no kernel file .*nothing.c"):
        sources.find("nothing", ".c")
    with pytest.raises(FileNotFoundError, match="no folder nowhere in "):
        sources.folder("nowhere")


def test_the_reference_backend_gives_the_reference():
    from roofbench.hazards import inputs

    numpy_backend = BACKENDS[-1]
    dims = {"M": 2, "N": 8, "K": 64}
    arrays = inputs("gemv", "f32", dims, np.random.default_rng(0))
    numpy_backend.run("gemv", "f32", arrays)
    assert (arrays["y"] == (arrays["x"].astype(np.float64) @ arrays["w"].T.astype(np.float64)).astype(np.float32)).all()
