# SPDX-License-Identifier: MIT
"""What compilers make of kernels/, for every chip and without one: gates, and snapshots of what was counted.

A snapshot holds, per version of Triton, specimen and target, what codegen.py counts. It changes on purpose only:
ROOFBENCH_UPDATE_CODEGEN=1 pytest tests/triton_kernels/test_codegen.py writes those of the installed version anew.
Of other versions everything must compile; what breaks a gate there is a warning.
"""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

pytest.importorskip("torch")
triton = pytest.importorskip("triton")

from roofbench.sources import load_module  # noqa: E402

HERE = Path(__file__).parent
KERNELS = HERE.parents[1] / "kernels"
STEMS = sorted(path.stem for path in KERNELS.glob("*.py"))
SNAPSHOTS = HERE / "codegen"
UPDATE = os.environ.get("ROOFBENCH_UPDATE_CODEGEN") == "1"
codegen = load_module(HERE / "codegen.py")
VERSION = ".".join(triton.__version__.split(".")[:2])
SNAPSHOTS_OF = {version for path in SNAPSHOTS.glob("*.json") for version in json.loads(path.read_text())}

if not (Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm").exists():
    pytest.skip("this Triton brings no nvdisasm", allow_module_level=True)


def compiled(stems):
    """{stem: rows} of codegen.py, in a process without the interpreter."""
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    env["TRITON_DEFAULT_FP_FUSION"] = "1"  # Triton 3.10 turns it off
    files = [str(KERNELS / f"{stem}.py") for stem in stems]
    command = [sys.executable, str(HERE / "codegen.py"), "--json", *files]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    return {stem: [row for row in rows if row["stem"] == stem] for stem in stems}


@pytest.fixture(scope="session")
def rows(request):
    """Of the stems that this run tests, all compiled at once."""
    ours = [item for item in request.session.items if item.path == Path(__file__) and "rows" in item.fixturenames]
    wanted = {item.callspec.params["stem"] for item in ours}
    return compiled(sorted(wanted))


def flat(counts, prefix=""):
    """{"loop loads 128": 4}"""
    out = {}
    for name, value in counts.items():
        out |= flat(value, f"{prefix}{name} ") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return out


def differences(old, new):
    """One line per count that differs, and per row that came or went."""
    lines = []
    for name in sorted({*old, *new}):
        for target in sorted({*old.get(name, {}), *new.get(name, {})}):
            was, now = (rows.get(name, {}).get(target) for rows in (old, new))
            where = f"{name} on {target}"
            if was is None or now is None:
                lines.append(f"{where}: {'is new' if was is None else 'is gone'}")
                continue
            was, now = flat(was), flat(now)
            changed = [key for key in sorted({*was, *now}) if was.get(key, 0) != now.get(key, 0)]
            lines += [f"{where}: {key} {was.get(key, 0)} -> {now.get(key, 0)}" for key in changed]
    return lines


def test_differences_are_readable():
    old = {"a": {"cuda:90": {"loads": {"128": 4}, "loop": {"loads": {"128": 4}}, "shared": 0}, "cuda:80": {}}}
    new = {"a": {"cuda:90": {"loads": {"128": 3, "16": 8}, "loop": {"loads": {"16": 8}}, "shared": 0}}}
    assert differences(old, new) == [
        "a on cuda:80: is gone",
        "a on cuda:90: loads 128 4 -> 3",
        "a on cuda:90: loads 16 0 -> 8",
        "a on cuda:90: loop loads 128 4 -> 0",
        "a on cuda:90: loop loads 16 0 -> 8",
    ]
    assert not differences(new, new)


SASS = """
	.text.kernel:
        /*0000*/                   LDC R1, c[0x0][0x37c] ;
.L_x_0:
        /*0010*/                   LDG.E.EF.128 R4, desc[UR4][R2.64] ;
        /*0020*/              @!P0 LDG.E.U16 R9, desc[UR4][R2.64+0x10] ;
        /*0030*/                   HMMA.16816.F32.BF16 R8, R4, R6, R8 ;
        /*0040*/               @P1 BRA `(.L_x_0) ;
        /*0050*/                   LDGSTS.E.BYPASS.128 [R7], desc[UR4][R2.64] ;
        /*0060*/                   LDGDEPBAR ;
        /*0070*/                   STL [R1], R4 ;
        /*0080*/                   STG.E desc[UR4][R2.64], R5 ;
        /*0090*/                   EXIT ;
.L_x_1:
        /*00a0*/                   BRA `(.L_x_1);
"""
GCN = """
kernel:
; %bb.0:
	s_load_dwordx4 s[0:3], s[4:5], 0x0
	s_branch .LBB0_2
.LBB0_1:
	global_store_short v[0:1], v2, off
	s_endpgm
.LBB0_2:
	global_load_dwordx4 v[2:5], v[4:5], off nt
	buffer_load_u8 v6, v7, s[0:3], 0 offen
	v_mfma_f32_32x32x8_bf16 a[0:15], v[2:3], v[4:5], a[0:15]
	s_cbranch_scc1 .LBB0_2
	global_load_d16_hi_b16 v2, v[0:1], off
	s_branch .LBB0_1
"""


def test_what_is_counted():
    """Loops are where a jump can come round again, wherever blocks lie; a tail's narrow store is none of theirs."""
    code, loops = codegen.instructions(SASS, "cuda")
    assert [[code[i][0] for i in loop] for loop in loops] == [["LDG.E.EF.128", "BRA"]]
    kinds = [codegen._kind(*one) for one in code]
    assert kinds[1:5] == [("loads", "128 once"), ("loads", "16"), ("matrix", "HMMA.16816.F32.BF16"), ("", "")]
    assert kinds[5:9] == [("async_loads", "128"), ("", ""), ("spills", "STL"), ("stores", "32")]
    code, loops = codegen.instructions(GCN, "hip")
    assert [[code[i][0] for i in loop] for loop in loops] == [["global_load_dwordx4", "s_cbranch_scc1"]]
    kinds = [kind for kind in (codegen._kind(*one) for one in code) if kind[0]]
    assert kinds == [
        ("stores", "16"), ("loads", "128 once"), ("loads", "8"), ("matrix", "v_mfma_f32_32x32x8_bf16"), ("loads", "16"),
    ]  # fmt: skip


WIDTHS = {
    "LDG.E": 32, "LDG.E.64.CONSTANT": 64, "LDG.E.EF.128": 128, "LDG.E.S8": 8, "LDG.E.U16": 16, "LDG.E.ENL2.256": 256,
    "STG.E.U8": 8, "LDGDEPBAR": 0, "LDS.128": 0, "global_load_b128": 128, "global_load_dword": 32,
    "global_load_dwordx3": 96, "global_load_ubyte": 8, "global_load_u8": 8, "global_load_i16": 16,
    "global_load_short_d16_hi": 16, "global_load_d16_hi_b16": 16, "global_store_byte": 8, "global_store_b64": 64,
    "buffer_load_dwordx2": 64, "buffer_store_short": 16, "global_load_sbyte": 8, "global_load_ushort": 16,
    "global_load_ubyte_d16": 8, "global_load_d16_u8": 8, "buffer_store_b8": 8, "ds_read_b128": 0,
}  # fmt: skip


@pytest.mark.parametrize("operation", WIDTHS)
def test_widths(operation):
    assert codegen.bits_of(operation) == WIDTHS[operation]


GOOD = {"loads": {"128 once": 4}, "stores": {"128": 1}, "matrix": {"HMMA.1": 2}, "loop": {}, "shared": 0, "spilled": 0}
BROKEN = [
    ({"matrix": "HGMMA"}, {}, "has no HGMMA"),
    ({"matrix": None}, {}, "is meant to have no matrix operations"),
    ({"matrix": "HMMA"}, {"matrix": {"HMMA.1": 1, "QMMA.1": 1}}, "has ['QMMA.1']"),
    ({"matrix": "HMMA"}, {"matrix": {}}, "no matrix operation"),
    ({"weights": 128}, {"loads": {"128 once": 4, "64 once": 1}}, "reads weights by 64 bits"),
    ({"weights": 128}, {"loads": {"128": 4}}, "no load marked evict_first"),
    ({"loads": 128}, {"loop": {"loads": {"128": 1, "16": 1}}}, "loads of 16 bits"),
    ({"stores": 128}, {"stores": {"32": 1}}, "stores of 32 bits"),
    ({"async_loads": 128}, {}, "has no async_loads"),
    ({}, {"spills": {"STL": 1}}, "spills registers"),
    ({}, {"spilled": 3}, "spills registers"),
    ({}, {"shared": 100 * 1024}, "B of shared memory"),
    ({"shared": 1024}, {"shared": 2048}, "the limit is 1024"),
    ({"present": ("FFMA",)}, {}, "lacks FFMA"),
    ({"absent": ("EXIT",)}, {}, "has EXIT"),
    ({"wheights": 128}, {}, "unknown gates: wheights"),
]


@pytest.mark.parametrize(("gates", "counts", "message"), BROKEN)
def test_gates_break(gates, counts, message):
    assert not codegen.broken({"gates": {"weights": 128, "matrix": "HMMA"}}, "cuda:120", GOOD, SASS)
    found = codegen.broken({"gates": gates}, "cuda:120", {**GOOD, **counts}, SASS)
    assert len(found) == 1
    assert message in found[0]


def test_weights_of_amd_are_most_of_what_the_loop_loads():
    gates = {"gates": {"weights": 128}}
    for loads, good in (({"128": 4, "32": 2}, True), ({"128": 1, "64": 4}, False), ({"64": 1}, False), ({}, True)):
        assert (not codegen.broken(gates, "hip:gfx942", {**GOOD, "loop": {"loads": loads}}, "")) == good


def test_every_file_is_there():
    """A snapshot of a file that went is a mistake, too."""
    assert STEMS
    assert {path.stem for path in SNAPSHOTS.glob("*.json")} <= set(STEMS)


@pytest.mark.filterwarnings("default::UserWarning")
@pytest.mark.parametrize("stem", STEMS)
def test_gates(rows, stem):
    """No spills, no more shared memory than there is, and what each specimen asks for."""
    assert rows[stem], f"{stem}.py has no specimens"
    for target, reason in {row["target"]: row["unserved"] for row in rows[stem] if "unserved" in row}.items():
        warnings.warn(f"{target} is not tested: {reason}", stacklevel=1)
    known = VERSION in SNAPSHOTS_OF
    failed = [row for row in rows[stem] if row["broken"] and (known or "counts" not in row)]
    for row in rows[stem]:
        if row["broken"] and row not in failed:
            warnings.warn(f"Triton {VERSION}: {sentences(row)}", stacklevel=1)
    assert not failed, "\n" + "\n".join(map(sentences, failed))


def sentences(row):
    """What is wrong with a row."""
    return "\n".join(f"{row['stem']} {row['name']} on {row['target']}: {line}" for line in row["broken"])


@pytest.mark.parametrize("stem", STEMS)
def test_snapshot(rows, stem):
    path = SNAPSHOTS / f"{stem}.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    now = {}
    for row in rows[stem]:
        now.setdefault(row["name"], {})[row["target"]] = row.get("counts", {})
    if UPDATE:
        lines = differences(stored.get(VERSION, {}), now)
        path.parent.mkdir(exist_ok=True)
        path.write_text(written({**stored, VERSION: now}))
        print("\n".join(lines))
        return
    if stored and VERSION not in stored:
        pytest.skip(f"snapshots are of Triton {' '.join(stored)}; this is {VERSION}")
    changed = differences(stored.get(VERSION, {}), now)
    assert not changed, "\n" + "\n".join(changed) + "\nROOFBENCH_UPDATE_CODEGEN=1 takes this as meant"


def written(snapshots):
    """JSON with a line per target, which a diff shows as such."""
    lines = ["{"]
    for i, (version, names) in enumerate(sorted(snapshots.items())):
        lines.append(f" {json.dumps(version)}: {{")
        for j, (name, targets) in enumerate(sorted(names.items())):
            lines.append(f"  {json.dumps(name)}: {{")
            rows = [f"   {json.dumps(target)}: {json.dumps(counts)}" for target, counts in sorted(targets.items())]
            lines.append(",\n".join(rows))
            lines.append("  }" + ("," if j < len(names) - 1 else ""))
        lines.append(" }" + ("," if i < len(snapshots) - 1 else ""))
    return "\n".join([*lines, "}"]) + "\n"
