# SPDX-License-Identifier: MIT
"""Problems that find bugs, and a way to run the C launchers in a process of their own."""

from __future__ import annotations

import math
import struct
import subprocess
from pathlib import Path

import numpy as np

from roofbench import formats, numerics, sources
from roofbench.backends import backend_of
from roofbench.op import Case
from roofbench.ops import OPS

CPU = backend_of("cpu")
KINDS = ("random", "cancelling", "extreme", "special")
GEMV_TILE, GEMM_TILE, CHUNK = 16, 128, 1024  # rows per task, tokens per block, weights per step of csrc/*.c


def multiples(format, *ks):
    """Each K, rounded up to what a format's group allows; duplicates dropped."""
    weights = formats.FORMATS[format.split("_")[0]]
    step = weights.group or 1
    return sorted({-(-k // step) * step for k in ks})


def hazards(op, format):
    """Sizes around the edges of tiles and vectors, smaller than one of each, and empty."""
    if op == "gemv":
        for k in multiples(format, 1, 15, 16, 17, 62, 66, CHUNK - 2, CHUNK, CHUNK + 2, 2 * CHUNK + 66):
            yield {"M": 1, "N": 5, "K": k}
        for n in (1, GEMV_TILE - 2, GEMV_TILE, GEMV_TILE + 2, 3 * GEMV_TILE + 1):
            yield {"M": 2, "N": n, "K": 192}
        for m in range(1, 18):
            yield {"M": m, "N": 3, "K": 64}
        yield from ({"M": 0, "N": 3, "K": 64}, {"M": 2, "N": 0, "K": 64}, {"M": 2, "N": 3, "K": 0})
    elif op == "gemv_moe":
        base = {"M": 3, "N": 18, "K": 192, "E": 5, "top_k": 2, "x_slots": 1}
        yield from ({**base, "x_slots": 2}, {**base, "E": 1, "top_k": 1}, {**base, "M": 17, "N": 1})
        for k in multiples(format, 1, 17, CHUNK + 2):
            yield {**base, "K": k}
        yield from ({**base, "M": 0}, {**base, "N": 0}, {**base, "K": 0})
    elif op == "gemm":
        base = {"B": 1, "M": 5, "N": 18, "K": 192, "w_batch": 1}
        for k in multiples(format, 1, 15, 17, 510, 512, 514):
            yield {**base, "K": k}
        for m in (1, 2, GEMM_TILE - 2, GEMM_TILE, GEMM_TILE + 2):
            yield {**base, "M": m}
        for n in (1, 3, 14, 16):
            yield {**base, "N": n}
        yield from ({**base, "B": 3}, {**base, "B": 3, "w_batch": 3, "M": 130}, {**base, "B": 2, "M": 17})
        yield from ({**base, "B": 0}, {**base, "M": 0}, {**base, "N": 0}, {**base, "K": 0})
    elif op in ("kv_append", "kv_gather"):
        base = {"num_tokens": 19, "num_heads": 3, "head_size": 20, "num_blocks": 7, "block_size": 4}
        sizes = [base, {**base, "num_tokens": 0}, {**base, "num_tokens": 1}, {**base, "head_size": 1}]
        sizes += [{**base, "head_size": d, "num_heads": h} for d in (15, 16, 17, 127, 128) for h in (1, 2)]
        sizes += [{**base, "block_size": 1, "num_blocks": 40}]
        for one in sizes:
            yield from [{**one, "hnd": hnd} for hnd in (0, 1)] if op == "kv_gather" else [one]
    else:
        base = {"num_layers": 3, "num_blocks": 9, "block_size": 4, "num_heads": 2, "head_size": 5, "num_pairs": 4}
        yield from (base, {**base, "num_pairs": 0}, {**base, "num_layers": 0}, {**base, "num_layers": 1})
        yield {**base, "head_size": 128, "num_pairs": 1}


def inputs(op, format, dims, rng, kind="random"):
    """Arrays of a call, outputs poisoned.

    kind: ``random``; ``cancelling``: sums that nearly vanish; ``extreme``: largest codes, smallest and
    largest scales, zeros of both signs; ``special``: NaN and infinities.
    """
    contract = OPS[op]
    signature = contract.signature(format, dims)
    arrays = {}
    for name, arg in signature.items():
        arrays[name] = numerics.aligned(arg.shape, arg.dtype)
        numerics.poison(arrays[name])
    if op.startswith("kv_"):
        _fill_cache(op, format, dims, arrays, rng, kind)
        return arrays
    types = contract.types(format)
    x_shape = signature["x"].shape
    if "x_scales" in signature:
        x_shape = (dims["B"], dims["M"], dims["K"])
    lead = {"gemv": (), "gemv_moe": (dims.get("E"),), "gemm": (dims.get("w_batch"),)}[op]
    x, w = _values(rng, x_shape, kind), _values(rng, (*lead, dims["N"], dims["K"]), kind)
    if kind == "cancelling" and dims["K"] >= 2:
        half = dims["K"] // 2
        x[..., half : 2 * half] = x[..., :half]
        w[..., half : 2 * half] = -w[..., :half]
    _store(arrays, "w", types.w, types.x if types.x in ("f32", "f16", "bf16") else types.y, w, rng, kind)
    if "x_scales" in signature:
        _store(arrays, "x", types.x, types.y, x, rng, kind)
    else:
        arrays["x"][...] = x
    if op == "gemv_moe":
        ids = arrays["expert_ids"]
        ids[...] = rng.integers(0, dims["E"], ids.shape)
    return arrays


def _values(rng, shape, kind):
    out = rng.standard_normal(shape).astype(np.float32)
    if kind == "extreme":
        out *= rng.choice([1e-4, 1.0, 64.0], shape).astype(np.float32)
        out[rng.random(shape) < 0.2] = -0.0
    return out


def _store(arrays, prefix, format, x, values, rng, kind):
    if values.size == 0:
        for name in arrays:
            if name.startswith(prefix):
                arrays[name][...] = 0
        return
    parts = formats.pack(values, format, x)
    for key, part in parts.items():
        arrays[key.replace("w", prefix, 1)][...] = part
    codes, scales = arrays[prefix], arrays.get(f"{prefix}_scales")
    if kind == "extreme":
        raw = codes.view(np.uint8)
        pick = rng.random(raw.shape) < 0.3
        if format in ("fp8", "mxfp8"):
            raw[pick] = rng.choice([0x7E, 0xFE, 0x01, 0x81, 0x80, 0x00], pick.sum())  # +-448, +-2^-9, -0, 0
        elif format in ("mxfp4", "nvfp4"):
            raw[pick] = rng.choice([0x77, 0xFF, 0x7F, 0x80, 0x18], pick.sum())  # +-6, -0, +-0.5
        if format.startswith("mx"):
            scales[...] = rng.choice([0, 1, 127, 140, 180], scales.shape)  # 2^-127 ... 2^53
        elif format == "nvfp4":
            scales[...] = rng.choice([0x7E, 0x01, 0x38, 0x00], scales.shape)
    elif kind == "special":
        if format in ("f32", "f16", "bf16"):
            some = rng.random(codes.shape)
            codes[some < 0.02] = np.nan
            codes[(some > 0.02) & (some < 0.03)] = np.inf
            codes[(some > 0.03) & (some < 0.04)] = -np.inf
        elif format in ("fp8", "mxfp8"):
            raw = codes.view(np.uint8)
            raw[rng.random(raw.shape) < 0.01] = 0x7F
        elif format == "mxfp4":
            scales[rng.random(scales.shape) < 0.05] = 255
        elif format == "nvfp4":
            scales[rng.random(scales.shape) < 0.05] = 0x7F


def _fill_cache(op, format, dims, arrays, rng, kind):
    for name, array in arrays.items():
        if name.endswith("_scale_inv"):
            array[...] = rng.choice([1, 64]) if kind == "extreme" else rng.uniform(0.5, 300)  # ties need a power of 2
        elif name == "slot_mapping":
            slots = dims["num_blocks"] * dims["block_size"]
            array[...] = rng.choice(slots, array.size, replace=False)
            array[rng.random(array.size) < 0.2] = -1 - rng.integers(0, 5)
        elif name == "block_mapping":
            array[...] = rng.permutation(dims["num_blocks"])[: array.size].reshape(array.shape)
        elif op == "kv_gather" and name in ("key", "value"):
            continue
        else:
            raw = array.view(np.uint8)
            raw[...] = rng.integers(0, 256, raw.shape, np.uint8)  # every bit pattern, NaN among them
            if kind == "random" and array.dtype.itemsize > 1:
                array[...] = rng.standard_normal(array.shape)


def expected(op, format, arrays, kind):
    return OPS[op].reference(format, arrays, random=kind == "random")


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

    Calls are collected by `add` and made by `run`, all in one process. Every buffer is allocated to its
    exact size. The program is generated from the prototypes in cpu_kernels.h.
    """

    def __init__(self, folder: Path, compiler: list[str], flags: list[str], runner: list[str] | None = None):
        self.folder, self.runner = folder, runner or []
        builder = sources.build_ffi()
        self.prototypes = builder.prototypes()
        self.names = [name for name, given in self.prototypes.items() if given and not name.startswith("rb_probe_")]
        self.calls = []
        (folder / "driver.c").write_text(self._driver())
        command = [*compiler, *builder.COMPILE, *flags, "-include", str(builder.HEADER), str(folder / "driver.c")]
        command += [str(path) for path in builder.sources()]
        done = subprocess.run(
            [*command, "-o", str(folder / "driver"), "-lm"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(done.stderr)

    def add(self, op, format, dims, arrays):
        """Remember a call; its arrays are overwritten by `run`."""
        from roofbench.backends.cpu import _itemsize, _launcher

        sizes = {"threads": 2, "itemsize": _itemsize(arrays), **dims}
        self.calls.append((_launcher(op, format), sizes, arrays))

    def run(self):
        """Make the calls. Returns their codes."""
        out = [struct.pack("<q", len(self.calls))]
        for name, sizes, arrays in self.calls:
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
        for name, _, arrays in self.calls:
            codes.append(struct.unpack_from("<q", data, at)[0])
            at += 8
            for kind, arg in self.prototypes[name]:
                if "*" in kind:
                    raw = np.frombuffer(data, np.uint8, arrays[arg].nbytes, at)
                    arrays[arg].reshape(-1).view(np.uint8)[...] = raw
                    at += arrays[arg].nbytes
        self.calls = []
        return codes

    def _driver(self):
        branches = []
        for i, name in enumerate(self.names):
            loads, values = [], []
            for j, (kind, _) in enumerate(self.prototypes[name]):
                if "*" in kind:
                    loads.append(f"read_buffer(in, &buffers[{j}]);")
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
static void read_buffer(FILE *in, struct buffer *b) {
  b->count = read_size(in); b->bytes = read_size(in);
  b->data = malloc(b->bytes); b->table = malloc((b->count + 1) * sizeof *b->table);
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
