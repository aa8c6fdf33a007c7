# SPDX-License-Identifier: MIT
"""What tests share, and a way to run the C launchers in a process of their own."""

from __future__ import annotations

import math
import os
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from roofbench import numerics, sources
from roofbench.backends import backend_of
from roofbench.hazards import sizes as common
from roofbench.op import TYPES, Case, dtype_of
from roofbench.ops import OPS, probe

CPU = backend_of("cpu")

# Of each op, one at which a whole problem is quick to make.
SMALL = {
    "gemv": {"M": 3, "N": 70, "K": 256},
    "gemv_moe": {"M": 2, "N": 20, "K": 128, "E": 8, "top_k": 2, "x_slots": 1},
    "gemm": {"B": 2, "M": 9, "N": 70, "K": 256, "w_batch": 1},
    "kv_append": {"num_tokens": 20, "num_heads": 2, "head_size": 32, "num_blocks": 12, "block_size": 8},
    "kv_copy_blocks": {
        "num_layers": 3,
        "num_blocks": 10,
        "block_size": 4,
        "num_heads": 2,
        "head_size": 16,
        "num_pairs": 4,
    },
}
SMALL["kv_gather"] = {**SMALL["kv_append"], "hnd": 1}


def small(op, format):
    return Case(op, format, "test", SMALL[op])


def hazards(op, format):
    """Sizes that every kernel meets, and more tokens than one pass of ours over w serves."""
    yield from common(op, format)
    if op == "gemv":
        yield {"M": 17, "N": 3, "K": 64}
    if op == "gemv_moe":
        yield {"M": 17, "N": 1, "K": 192, "E": 5, "top_k": 2, "x_slots": 1}


def limit(op, format, dims):
    return CPU.claim(op, format).limit(dims)


def worst(op, format, dims, arrays, known):
    """Largest error over its bound of every output; infinity where memory beside one was written to."""
    error = 0.0
    for name, what in known.items():
        intact = numerics.guards_intact(arrays[name])
        error = max(error, what.error(arrays[name], limit(op, format, dims)) if intact else math.inf)
    return error


def every_format():
    """(op, format) of every contract but the probes."""
    return [(op, format) for op, contract in OPS.items() if op != "probe" for format in contract.formats]


def case(op, format, dims, name="test"):
    return Case(op, format, name, dims)


class Remote:
    """The C launchers in a program of their own: compiled for another chip, or with sanitisers.

    Calls are collected by `add` and made by `run`, all in one process, probes among them. Every buffer is
    allocated to its exact size. The program is generated from the prototypes in cpu_kernels.h.
    """

    def __init__(self, folder: Path, compiler: list[str], flags: list[str], runner: list[str] | None = None):
        self.folder, self.runner = folder, runner or []
        builder = sources.build_ffi()
        self.prototypes = builder.prototypes()
        plain = {"rb_probe_variant", "rb_probe_launch", "rb_probe_clock"}  # of no contract
        self.names = [name for name, given in self.prototypes.items() if given and name not in plain]
        self.calls = []
        driver, program = folder / "driver.c", str(folder / "driver")
        driver.write_text(self._driver())
        objects = {path: str(folder / f"{path.stem}.o") for path in (driver, *builder.sources())}
        command = [*compiler, *builder.COMPILE, *flags, "-include", str(builder.HEADER), "-c"]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda pair: self._compile([*command, str(pair[0]), "-o", pair[1]]), objects.items()))
        self._compile([*compiler, *flags, *objects.values(), "-o", program, "-lm"])

    def add(self, op, format, dims, arrays):
        """Remember a call; its arrays are overwritten by `run`."""
        from roofbench.backends.cpu import _launcher

        sizes = {"threads": 2, "itemsize": dtype_of(TYPES[op][format].x).itemsize, **dims}
        name = f"rb_probe_{probe.KINDS[dims['kind']]}" if op == "probe" else _launcher(op, format)
        self.calls.append((name, sizes, arrays))

    def run(self):
        """Make the calls. Returns their codes."""
        calls, self.calls = self.calls, []
        out = [struct.pack("<q", len(calls))]
        for name, sizes, arrays in calls:
            out.append(struct.pack("<q", self.names.index(name)))
            for kind, arg in self.prototypes[name]:
                if "*" in kind:
                    array = np.ascontiguousarray(arrays[arg])
                    count = array.shape[0] if kind == "void *const *" else 1
                    out += [struct.pack("<qq", count, array.nbytes), array.tobytes()]
                else:
                    out.append(struct.pack("<q", sizes[arg]))
        (self.folder / "calls").write_bytes(b"".join(out))
        command = [*self.runner, str(self.folder / "driver"), str(self.folder / "calls"), str(self.folder / "results")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{done.returncode}\n{done.stdout}\n{done.stderr}")
        data, codes = (self.folder / "results").read_bytes(), []
        at = 0
        for name, _, arrays in calls:
            codes.append(struct.unpack_from("<q", data, at)[0])
            at += 8
            for kind, arg in self.prototypes[name]:
                if "*" in kind:
                    raw = np.frombuffer(data, np.uint8, arrays[arg].nbytes, at)
                    arrays[arg].reshape(-1).view(np.uint8)[...] = raw
                    at += arrays[arg].nbytes
        return codes

    @staticmethod
    def _compile(command):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr)

    def _driver(self):
        branches = []
        for i, name in enumerate(self.names):
            loads, values = [], []
            align = 64 if name.startswith("rb_probe_") else 16  # probes ask for it
            for j, (kind, _) in enumerate(self.prototypes[name]):
                if "*" in kind:
                    loads.append(f"read_buffer(in, &buffers[{j}], {align});")
                    values.append(f"(void *)buffers[{j}].table" if kind == "void *const *" else f"buffers[{j}].data")
                else:
                    loads.append(f"int64_t s{j} = read_size(in);")
                    values.append(f"s{j}")
            pointers = [j for j, (kind, _) in enumerate(self.prototypes[name]) if "*" in kind]
            stores = "".join(f"write_buffer(out, &buffers[{j}]);" for j in pointers)
            branches.append(
                f"case {i}: {{ {' '.join(loads)} int64_t code = {name}({', '.join(values)});"
                f" fwrite(&code, 8, 1, out); {stores} break; }}"
            )
        return (
            r"""
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
struct buffer { char *data; char **table; int64_t count, bytes; };
static int64_t read_size(FILE *in) { int64_t v; if (fread(&v, 8, 1, in) != 1) exit(90); return v; }
static void read_buffer(FILE *in, struct buffer *b, size_t align) {
  b->count = read_size(in); b->bytes = read_size(in);
  if (posix_memalign((void **)&b->data, align, b->bytes)) exit(95);
  b->table = malloc((b->count + 1) * sizeof *b->table);
  if (b->bytes && fread(b->data, b->bytes, 1, in) != 1) exit(91);
  for (int64_t i = 0; i < b->count; i++) b->table[i] = b->data + i * (b->bytes / b->count);
}
static void write_buffer(FILE *out, struct buffer *b) {
  if (b->bytes) fwrite(b->data, b->bytes, 1, out);
  free(b->data); free(b->table);
}
int main(int argc, char **argv) {
  if (argc != 3) return 92;
  FILE *in = fopen(argv[1], "rb"), *out = fopen(argv[2], "wb");
  if (!in || !out) return 93;
  for (int64_t calls = read_size(in); calls > 0; calls--) {
    struct buffer buffers[16];
    switch (read_size(in)) {
"""
            + "\n".join(branches)
            + "\n      default: return 94;\n    }\n  }\n  return fclose(out) != 0;\n}\n"
        )
