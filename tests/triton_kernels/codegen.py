# SPDX-License-Identifier: MIT
"""Compiles `specimens(chip)` of kernel files for every target, without a GPU, and counts what came out.

    python tests/triton_kernels/codegen.py kernels/gemv.py                        a table, and what breaks a gate
    python tests/triton_kernels/codegen.py kernels/gemv.py --target cuda:90 --only M1 --asm /tmp/asm    with listings
    python tests/triton_kernels/codegen.py kernels/*.py --json                    for test_codegen.py

Needs triton outside of its interpreter: TRITON_INTERPRET must not be set. Older ones do not know every target: such
rows say so. TRITON_NVDISASM_PATH names another nvdisasm than the one that Triton brings.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

TARGETS = ("cuda:80", "cuda:90", "cuda:100", "cuda:110", "cuda:120", "cuda:121", "hip:gfx942", "hip:gfx1151")

# Bytes of shared memory that a block may have.
SHARED = {
    "cuda:80": 163 * 1024,
    "cuda:90": 227 * 1024,
    "cuda:100": 227 * 1024,
    "cuda:110": 227 * 1024,
    "cuda:120": 99 * 1024,
    "cuda:121": 99 * 1024,
    "hip:gfx942": 64 * 1024,
    "hip:gfx1151": 64 * 1024,
}

# A line of nvdisasm: "/*0120*/  @!P0 LDG.E.EF.128 R4, desc[UR4][R2.64] ;", the predicate optional.
_SASS = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)([^;]*);")
_GCN = re.compile(r"^\s+()([a-z]\w+)(.*)$")
_LABEL = re.compile(r"^(\.L\w+):")
_TARGET = re.compile(r"\.L\w+")
_MATRIX = re.compile(r"^(?:[HIDQB]MMA|OMMA|[HQI]GMMA|UTC[A-Z]*MMA|v_mfma|v_wmma|v_smfma|v_swmma)")


def chip_of(target):
    """``sm_90``, ``gfx942``: the string that `specimens` and `pick_config` take."""
    return target.replace("cuda:", "sm_").replace("hip:", "")


def load(path):
    """A kernel file as a module."""
    path = Path(path)
    spec = importlib.util.spec_from_file_location(f"codegen_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def specimens(path, target):
    """Those of one file for one chip, by name."""
    found = {}
    for one in load(path).specimens(chip_of(target)):
        assert isinstance(one, dict), f"{path}: a specimen is a dict, not {type(one).__name__}"
        unknown = set(one) - {"name", "kernel", "signature", "constexprs", "options", "divisible", "unaligned", "gates"}
        assert not unknown, f"{path}: unknown fields of a specimen: {unknown}"
        assert one["name"] not in found, f"{path}: two specimens are called {one['name']}"
        found[one["name"]] = one
    return found


class UnservedError(Exception):
    """This Triton's tools do not know the target."""


def source_of(one, target):
    """What triton.compile takes."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel, given, constexprs = one["kernel"], one["signature"], one.get("constexprs", {})
    names = list(kernel.arg_names)
    missing = set(names) ^ {*given, *constexprs}
    assert not missing, f"{one['name']}: arguments of the kernel and of the specimen differ: {missing}"
    signature = {name: "constexpr" if name in constexprs else given[name] for name in names}
    aligned = {name for name, type in given.items() if type[0] == "*"} - set(one.get("unaligned", ()))
    aligned |= set(one.get("divisible", ()))
    attrs = {(names.index(name),): [["tt.divisibility", 16]] for name in aligned if name not in constexprs}
    backend, arch = target.split(":")
    warp = 64 if arch == "gfx942" else 32
    place = GPUTarget(backend, int(arch) if backend == "cuda" else arch, warp)
    return ASTSource(kernel, signature, constexprs, attrs), place


def refuses_one(one, target):
    """Integer arguments with which the kernel cannot be parsed once they are 1, which a launch makes a constant."""
    from triton._C.libtriton import ir
    from triton.compiler import make_backend

    found = []
    for param in one["kernel"].params:
        type = one["signature"].get(param.name, "")
        if type not in ("i32", "i64") or param.name in one.get("constexprs", {}) or param.do_not_specialize:
            continue
        fixed = {**one.get("constexprs", {}), param.name: 1}
        rest = tuple(name for name in one.get("divisible", ()) if name != param.name)
        source, place = source_of({**one, "constexprs": fixed, "divisible": rest}, target)
        backend = make_backend(place)
        options, context = backend.parse_options(dict(one.get("options", {}))), ir.context()
        ir.load_dialects(context)
        backend.load_dialects(context)
        made = backend.get_codegen_implementation(options), backend.get_module_map()
        try:
            source.make_ir(place, options, *made, context)
        except Exception as error:  # noqa: BLE001  whatever a kernel does to it
            found.append(f"{param.name} = 1: {str(error).strip().splitlines()[-1]}")
    return found


def compile_one(one, target):
    """The compiled kernel and its listing."""
    import triton

    source, place = source_of(one, target)
    backend = target.split(":")[0]
    try:
        compiled = triton.compile(source, target=place, options=one.get("options", {}))
    except Exception as error:
        if "is not defined for option 'gpu-name'" in str(error):
            raise UnservedError(f"ptxas of Triton {triton.__version__} does not know it") from error
        raise
    if backend == "hip":
        return compiled, compiled.asm["amdgcn"]
    bundled = Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        tool = os.environ.get("TRITON_NVDISASM_PATH") or str(bundled)
        done = subprocess.run([tool, "-c", file.name], capture_output=True, text=True, check=False)
    if done.returncode and "architecture" in done.stderr:
        raise UnservedError(f"nvdisasm of Triton {triton.__version__} does not know it")
    done.check_returncode()
    return compiled, done.stdout


def instructions(listing, backend):
    """[(operation, its operands)] and [(first, last)], the ranges of loops that hold no other loop."""
    code, labels, jumps, ends = [], {}, {}, set()
    form = _SASS if backend == "cuda" else _GCN
    for line in listing.splitlines():
        label = _LABEL.match(line)
        if label:
            labels[label[1]] = len(code)
            continue
        found = form.match(line)
        if not found or line.lstrip().startswith((".", ";", "//")):
            continue
        predicate, operation, rest = found.groups()
        if operation.startswith(("BRA", "s_cbranch", "s_branch")) and _TARGET.search(rest):
            jumps[len(code)] = _TARGET.search(rest)[0]
            always = not predicate and re.fullmatch(r"BRA(\.\w+)* `\(\S+\)", f"{operation} {rest.strip()}")
            if always or operation == "s_branch":
                ends.add(len(code))
        elif (operation == "EXIT" and not predicate) or operation == "s_endpgm":
            ends.add(len(code))
        code.append((operation, rest))
    after = {i: labels[label] for i, label in jumps.items() if label in labels}

    def reaches(start, goal):
        """Backward jumps may lead to code that was only moved there."""
        seen, left = set(), [start]
        while left:
            i = left.pop()
            while i < len(code) and i not in seen:
                if i == goal:
                    return True
                seen.add(i)
                if i in after:
                    left.append(after[i])
                if i in ends:
                    break
                i += 1
        return False

    # A jump to itself ends every NVIDIA kernel.
    loops = [(to, i) for i, to in after.items() if to < i and reaches(to, i)]
    inner = [a for a in loops if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    return code, inner


def bits_of(operation):
    """Width of a load or store of global memory, in bits per lane; 0 for anything else."""
    if re.match(r"(LDG|STG)\b", operation):
        found = re.search(r"\.(256|128|64|[US]?16|[US]?8)\b", operation)
        return int(found[1].lstrip("US")) if found else 32
    if re.match(r"(global|buffer|flat)_(load|store)_", operation):
        found = re.search(r"_[bui](\d+)", operation)
        if found:
            return int(found[1])
        found = re.search(r"byte|short|dwordx?(\d?)", operation)
        return {"byte": 8, "short": 16}.get(found[0]) or 32 * int(found[1] or 1)
    return 0


def _kind(operation, rest):
    """(what is counted, under which name)."""
    if _MATRIX.match(operation):
        return "matrix", operation
    if operation.startswith(("LDGSTS", "buffer_load", "global_load")) and ("LDGSTS" in operation or " lds" in rest):
        found = re.search(r"\.(128|64)\b", operation) or re.search(r"_dwordx(\d)|_b(\d+)", operation)
        return "async_loads", found[0].strip("._") if found else "32"
    if operation.startswith(("UTMALDG", "UTMASTG", "UBLKCP", "TENSOR_LOAD")):
        return "bulk", operation
    if operation.startswith(("LDL", "STL", "scratch_")):
        return "spills", operation
    bits = bits_of(operation)
    if not bits:
        return "", ""
    # Evicted first: .EF on NVIDIA, nt on AMD. Kernels mark with it what they read once: weights.
    first = ".EF" in operation or re.search(r"\bnt\b", rest) is not None
    kind = "stores" if re.match(r"STG|\w+_store", operation) else "loads"
    return kind, f"{bits}{' once' if first else ''}"


def registers_of(cubin):
    """EIATTR_REGCOUNT of its only kernel: 0x04 0x2f, a size of 8, the symbol, the count."""
    at = cubin.index(b"\x04\x2f\x08\x00")
    return int.from_bytes(cubin[at + 8 : at + 12], "little")


def count(compiled, listing, target):
    """What a snapshot holds of one kernel."""
    backend = target.split(":")[0]
    code, loops = instructions(listing, backend)
    kinds = [_kind(*one) for one in code]

    def tally(first, last):
        out = {}
        for kind, name in kinds[first:last]:
            if kind:
                out.setdefault(kind, Counter())[name] += 1
        return {kind: dict(sorted(names.items())) for kind, names in sorted(out.items())}

    def weight(loop):
        part = kinds[loop[0] : loop[1]]
        moved = [int(name.split()[0]) for kind, name in part if kind in ("loads", "stores")]
        matrix, bulk = (sum(kind in which for kind, _ in part) for which in (("matrix",), ("async_loads", "bulk")))
        return matrix, sum(moved), bulk, loop[1] - loop[0]

    main = max(loops, key=weight, default=None)
    spills = [int(n) for n in re.findall(r"\.[vs]gpr_spill_count:\s+(\d+)", listing)]
    registers = re.search(r"\.vgpr_count:\s+(\d+)", listing)
    return {
        **tally(0, len(code)),
        "loop": tally(*main) if main else {},
        "instructions": sum(op not in ("NOP", "s_nop", "s_code_end") for op, _ in code),
        "loop_instructions": main[1] - main[0] + 1 if main else 0,
        "registers": int(registers[1]) if registers else registers_of(compiled.asm["cubin"]),
        "shared": compiled.metadata.shared,
        "spilled": sum(spills),
    }


def broken(one, target, counts, listing):
    """What of a specimen breaks its gates, in words."""
    gates, out = one.get("gates", {}), []
    unknown = set(gates) - {"matrix", "weights", "loads", "stores", "async_loads", "present", "absent", "shared"}
    if unknown:
        out.append(f"unknown gates: {' '.join(sorted(unknown))}")
    if counts["spilled"] or counts.get("spills"):
        out.append(f"spills registers: {counts.get('spills', counts['spilled'])}")
    limit = gates.get("shared", SHARED[target])
    if counts["shared"] > limit:
        out.append(f"takes {counts['shared']} B of shared memory; the limit is {limit}")
    if "matrix" in gates:
        meant = gates["matrix"]
        found = counts.get("matrix", {})
        other = [name for name in found if not meant or not re.match(meant, name)]
        if meant and len(other) == len(found):
            out.append(f"has no {meant}, but {list(found) or 'no matrix operation'}")
        elif other:
            out.append(f"is meant to have {meant or 'no matrix operations'}, and has {other}")
    if "weights" in gates:
        out += _narrow_weights(gates["weights"], target, counts)
    for kind in ("loads", "stores", "async_loads"):
        where = counts["loop"] if kind in counts["loop"] else counts
        widths = [int(re.findall(r"\d+", name)[0]) for name in where.get(kind, {})]
        if kind in gates and not widths:
            out.append(f"has no {kind}")
        elif kind in gates and min(widths) < gates[kind]:
            out.append(f"has {kind} of {min(widths)} bits; {gates[kind]} are meant")
    out += [f"lacks {form}" for form in gates.get("present", ()) if not re.search(form, listing)]
    out += [f"has {form}" for form in gates.get("absent", ()) if re.search(form, listing)]
    return out


def _narrow_weights(meant, target, counts):
    """Weights are what is marked evict_first; AMD has no such mark, where most bits of the main loop are weights."""
    if target.startswith("cuda"):
        found = {int(name.split()[0]) for name in counts.get("loads", {}) if "once" in name}
        if not found:
            return ["has no load marked evict_first"]
        return [f"reads weights by {min(found)} bits; {meant} are meant"] if min(found) < meant else []
    where = counts["loop"] if counts["loop"].get("loads") else counts
    loads = {int(name.split()[0]): n for name, n in where.get("loads", {}).items()}
    wide = sum(bits * n for bits, n in loads.items() if bits >= meant)
    if wide * 3 < 2 * sum(bits * n for bits, n in loads.items()) or not wide:
        return [f"reads weights by {loads or 'nothing'} in its main loop; {meant} bits are meant"]
    return []


def measure(path, target, name, asm=None):
    """One row: counters, or the error of the compiler."""
    row = {"stem": Path(path).stem, "name": name, "target": target, "broken": []}
    try:
        one = specimens(path, target)[name]
        compiled, listing = compile_one(one, target)
        if asm:
            file = Path(asm) / f"{row['stem']}-{name}-{target}.txt".replace(" ", "_").replace(":", "_")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(listing)
        row["counts"] = count(compiled, listing, target)
        row["broken"] = broken(one, target, row["counts"], listing)
        if target == TARGETS[0]:  # the language is the same for all
            row["broken"] += refuses_one(one, target)
    except UnservedError as error:
        row["unserved"] = str(error)
    except Exception as error:  # noqa: BLE001  compilers raise what they like
        row["broken"] = [f"does not compile: {type(error).__name__}: {str(error)[-1500:]}"]
    return row


def names(path, target):
    """Of its specimens; one that says what is wrong where they cannot be had."""
    try:
        return list(specimens(path, target))
    except Exception:  # noqa: BLE001  `measure` meets it again, and reports it
        return [""]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--target", action="append", choices=TARGETS)
    parser.add_argument("--only", default="", help="specimens with this in their names")
    parser.add_argument("--asm", help="folder for listings")
    parser.add_argument("--jobs", type=int, default=min(8, os.cpu_count() or 1))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    assert not os.environ.get("TRITON_INTERPRET"), "the interpreter compiles nothing: unset TRITON_INTERPRET"
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # Triton 3.10 turns it off
    import triton

    tasks = [
        (path, target, name, args.asm)
        for path in args.files
        for target in args.target or TARGETS
        for name in names(path, target)
        if args.only in name
    ]
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("fork")) as pool:
        rows = list(pool.map(measure, *zip(*tasks, strict=True))) if tasks else []
    if args.json:
        print(json.dumps({"triton": ".".join(triton.__version__.split(".")[:2]), "rows": rows}))
        return 0
    for row in rows:
        counts = row.get("counts")
        print(f"{row['target']:12} {row['stem']} / {row['name']}")
        print(f"{'':13}{json.dumps(counts) if counts else row.get('unserved', '')}")
        for line in row["broken"]:
            print(f"{'':13}GATE: {line}")
    return int(any(row["broken"] for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
