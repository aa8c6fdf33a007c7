# SPDX-License-Identifier: MIT
"""Claims and files, header and sources: what one says the other does."""

import re

import numpy as np
import pytest
from support import CPU, every_format

from roofbench import sources
from roofbench.backends import BACKENDS
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
    from test_ops import small

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


def test_missing_files_are_named():
    with pytest.raises(FileNotFoundError, match="no kernel file .*nothing.c"):
        sources.find("nothing", ".c")
    with pytest.raises(FileNotFoundError, match="no folder nowhere in "):
        sources.folder("nowhere")


def test_the_reference_backend_gives_the_reference():
    from support import inputs

    numpy_backend = BACKENDS[-1]
    dims = {"M": 2, "N": 8, "K": 64}
    arrays = inputs("gemv", "f32", dims, np.random.default_rng(0))
    numpy_backend.run("gemv", "f32", arrays)
    assert (arrays["y"] == (arrays["x"].astype(np.float64) @ arrays["w"].T.astype(np.float64)).astype(np.float32)).all()
