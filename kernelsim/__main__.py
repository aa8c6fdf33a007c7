# SPDX-License-Identifier: MIT
"""python -m kernelsim run|check|audit FILE: one kernel of a .metal or .cu file, from the command line."""

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from kernelsim import metal, poisoned
from kernelsim.errors import ArgumentError, KernelSimError

_EPILOG = """arguments, in any order: --arg NAME=VALUE, where VALUE is
  64 or 0.5             a number, converted to the parameter's type
  random:f16:64x1024    an array of this type and shape, standard normal or uniform over an integer's range
  zeros:f32:64          zeros; ones: and poison: (all bits set, so that an element never written shows) likewise
  u32:512,256,64,0      an array of these values: a vector, a struct
  weights.npy           a file that numpy.save wrote
  null                  no array

types are f64 f32 f16 bf16 i64 i32 i16 i8 u64 u32 u16 u8 and bool

examples:
  python -m kernelsim run gemv.metal --kernel gemv_f16 --grid 4096 --threadgroup 128 \\
      --arg w=random:f16:128x512 --arg x=random:f16:512 --arg y=poison:f16:128 --arg N=128 --arg K=512
  python -m kernelsim check gemv.metal
  python -m kernelsim audit gemv.cu --kernel 'gemv<half>' --grid 128 --block 32 --arg ...
"""
_MOST = 1 << 33  # elements of an array: more is a mistake
_TYPES = {"f": "float", "i": "int", "u": "uint"}


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    try:
        return int(options.do(options))
    except KernelSimError as error:
        print(f"kernelsim: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m kernelsim", description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="run|check|audit")
    for name, function, text in (
        ("run", _run, "run a kernel once and print what it wrote"),
        ("check", _check, "look for what a device's compiler refuses; with --kernel run it in three schedules too"),
        ("audit", _audit, "count what a kernel reads and writes, how wide and how coalesced"),
    ):
        command = commands.add_parser(
            name, help=text, description=text, epilog=_EPILOG, formatter_class=argparse.RawTextHelpFormatter
        )
        command.set_defaults(do=function)
        command.add_argument("file", type=Path, help="a .metal or .cu file")
        command.add_argument("--kernel", required=name != "check", help="its name; CUDA: gemv<half, 4> for a template")
        command.add_argument("--grid", type=_sizes, help="Metal: threads; CUDA: blocks; as X, X,Y or X,Y,Z")
        command.add_argument("--threadgroup", "--block", type=_sizes, help="threads of a threadgroup or block")
        command.add_argument("--threadgroup-memory", "--shared", type=_sizes, default=[], help="bytes, dynamic")
        command.add_argument("--arg", action="append", default=[], metavar="NAME=VALUE", help="see below")
        command.add_argument("--constant", action="append", default=[], metavar="NAME=VALUE", help="function constant")
        command.add_argument("-I", dest="include", action="append", default=[], help="folder for #include")
        command.add_argument("-D", dest="defines", action="append", default=[], help="macro, NAME or NAME=value")
        command.add_argument("--arch", default="sm_90", help="CUDA: the device's architecture (default sm_90)")
        command.add_argument("--schedule", default="forward", help="forward, reverse or random")
        command.add_argument("--convergence", default="live", help="every, live or hardware")
        command.add_argument("--seed", type=_natural, default=1, help="of random arrays")
        command.add_argument("--time-limit", type=float, default=60.0, help="seconds")
        command.add_argument("--workers", type=_natural, help="threads of the CPU (default: all)")
        command.add_argument("--no-guard", action="store_true", help="no guard pages beside arrays")
    return parser


def _sizes(value: str) -> list[int]:
    try:
        return [int(part) for part in value.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{value!r} is not X, X,Y or X,Y,Z") from None


def _natural(value: str) -> int:
    if not value.isdigit():
        raise argparse.ArgumentTypeError(f"{value!r} is no natural number")
    return int(value)


def _load(options: argparse.Namespace) -> Any:
    if options.file.suffix == ".cu":
        from kernelsim import cuda

        return cuda.load(options.file, arch=options.arch, include=options.include, defines=options.defines)
    return metal.load(options.file, include=options.include, defines=options.defines)


def _kernel(options: argparse.Namespace) -> Any:
    library = _load(options)
    if not options.constant:
        return library.kernel(options.kernel)
    if options.file.suffix == ".cu":
        raise ArgumentError("--constant: CUDA has no function constants")
    constants: dict[str, float] = {}
    for name, value in map(_named, options.constant):
        try:
            constants[name] = float(value)
        except ValueError:
            raise ArgumentError(f"--constant {name}: {value!r} is no number") from None
    return library.kernel(options.kernel, constants=constants)


def _launch(options: argparse.Namespace) -> dict[str, Any]:
    if options.grid is None or options.threadgroup is None:
        raise ArgumentError("--grid and --threadgroup (CUDA: --block) are needed to run a kernel")
    launch = {name: getattr(options, name) for name in ("grid", "convergence", "time_limit", "workers")}
    launch["guard"] = not options.no_guard
    if options.file.suffix == ".cu":
        shared = options.threadgroup_memory[0] if options.threadgroup_memory else 0
        return {**launch, "block": options.threadgroup, "shared": shared}
    return {**launch, "threadgroup": options.threadgroup, "threadgroup_memory": options.threadgroup_memory}


def _run(options: argparse.Namespace) -> int:
    kernel, args = _kernel(options), _arguments(options)
    kernel(args, **_launch(options), schedule=options.schedule)
    _print(kernel, args)
    return 0


def _check(options: argparse.Namespace) -> int:
    library = _load(options)
    findings = library.check()
    for finding in findings:
        print(finding)
    print(f"{options.file}: {len(library.kernels)} kernels, {len(findings)} findings")
    if options.kernel:
        kernel, args = _kernel(options), _arguments(options)
        kernel.check(args, **_launch(options))
        print(f"{options.kernel}: the same bits in three schedules")
    return bool(findings)


def _audit(options: argparse.Namespace) -> int:
    print(_kernel(options).audit(_arguments(options), **_launch(options), compulsory="all").table())
    return 0


def _named(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ArgumentError(f"{text!r} is not NAME=VALUE")
    return name, value


def _arguments(options: argparse.Namespace) -> dict[str, Any]:
    rng = np.random.default_rng(options.seed)
    names = [_named(text)[0] for text in options.arg]
    for name in names:
        if names.count(name) > 1:
            raise ArgumentError(f"--arg {name} is given twice")
    return {name: _value(name, value, rng) for name, value in map(_named, options.arg)}


def _value(name: str, value: str, rng: np.random.Generator) -> Any:
    if value.endswith(".npy"):
        try:
            return np.load(value)
        except (OSError, ValueError) as error:
            raise ArgumentError(f"--arg {name}: {error}") from None
    if value == "null":
        return None
    kind, *rest = value.split(":")
    if not rest:
        try:
            return float(value) if "." in value or "e" in value else int(value, 0)
        except ValueError:
            raise ArgumentError(f"--arg {name}: {value!r} is no number and no kind:type:shape") from None
    if "," in rest[0] or _is_type(kind):
        try:
            return np.array([float(n) if "." in n or "e" in n else int(n, 0) for n in rest[0].split(",")], _dtype(kind))
        except (OverflowError, TypeError, ValueError) as error:
            raise ArgumentError(f"--arg {name}: {value!r} is not type:values such as u32:512,256,64: {error}") from None
    try:
        dtype, shape = _dtype(rest[0]), tuple(_natural(n) for n in rest[1].split("x"))
    except (IndexError, TypeError, argparse.ArgumentTypeError):
        shape = ()
    if not shape or math.prod(shape) > _MOST:
        raise ArgumentError(f"--arg {name}: {value!r} is not kind:type:shape such as random:f16:64x1024")
    if kind == "poison":
        return poisoned(shape, dtype)
    if kind in ("zeros", "ones"):
        return np.full(shape, kind == "ones", dtype)
    if kind != "random":
        raise ArgumentError(f"--arg {name}: {kind!r} is not random, zeros, ones or poison")
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    return rng.standard_normal(shape).astype(dtype)


def _is_type(name: str) -> bool:
    try:
        return bool(_dtype(name))
    except TypeError:
        return False


def _dtype(name: str) -> np.dtype[Any]:
    if name == "bf16":
        import ml_dtypes

        bfloat: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat
    if name == "bool":
        return np.dtype(bool)
    if name[:1] not in _TYPES:
        raise TypeError(name)
    return np.dtype(f"{_TYPES[name[0]]}{name[1:]}")


def _print(kernel: Any, args: dict[str, Any]) -> None:
    """The arrays that the kernel may have written."""
    for parameter in kernel.parameters:
        array = args.get(parameter.name)
        if parameter.const or not isinstance(array, np.ndarray):
            continue
        flat = array.reshape(-1)
        bad = int(np.isnan(flat.astype(np.float64)).sum()) if array.dtype.kind not in "iu" else 0
        values = " ".join(str(v) for v in flat[:8]) + (" ..." if flat.size > 8 else "")
        print(f"{parameter.name} {array.dtype}{list(array.shape)}: {values}" + (f"  ({bad} NaN)" if bad else ""))


if __name__ == "__main__":
    sys.exit(main())
