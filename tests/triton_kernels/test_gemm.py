# SPDX-License-Identifier: MIT
"""gemm*.py of kernels/, in Triton's interpreter."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from fakes import FakeGpu
from support import hazards

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from roofbench import formats  # noqa: E402
from roofbench.backends import triton_  # noqa: E402
from roofbench.hazards import KINDS, expected, inputs  # noqa: E402
from roofbench.numerics import Limit, guards_intact, poison  # noqa: E402
from roofbench.ops import OPS  # noqa: E402
from roofbench.sources import find, load_module  # noqa: E402

GEMM = OPS["gemm"]
STEMS = ("gemm", "gemm_fp8", "gemm_int", "gemm_mx", "gemm_mx_scaled")
FILES = {stem: load_module(find(stem, ".py")) for stem in STEMS}
TORCH = {"bfloat16": torch.bfloat16, "float8_e4m3fn": torch.float8_e4m3fn}
BASE = {"B": 2, "M": 17, "N": 18, "K": 192, "w_batch": 1}
CHIPS = ("sm_80", "sm_86", "sm_90", "sm_100", "sm_110", "sm_120", "sm_121", "gfx942", "gfx1151", "gfx1201", "sm_999")


def tensor(array):
    """The same memory, as torch sees it."""
    special = TORCH.get(array.dtype.name)
    if special is None:
        return torch.from_numpy(array)
    return torch.from_numpy(array.view(f"i{array.dtype.itemsize}")).view(special)


def run(format, arrays, stem=None, **options):
    stem = stem or GEMM.stem(format)
    with np.errstate(all="ignore"):  # the interpreter's NumPy warns of infinities
        return getattr(FILES[stem], stem)(**{name: tensor(a) for name, a in arrays.items()}, **options)


def small(format, **sizes):
    """A configuration of small tiles: few of them hold many edges, and the interpreter is soon done."""
    stem = GEMM.stem(format)
    first = FILES[stem].configs(64, 64, 64)[0]
    return first._replace(**{name: size for name, size in sizes.items() if name in first._fields})


def check(format, dims, kind="random", seed=1, **options):
    arrays = inputs("gemm", format, dims, np.random.default_rng(seed), kind)
    known = expected("gemm", format, arrays, kind)["y"]
    before = {name: a.tobytes() for name, a in arrays.items() if name != "y"}
    run(format, arrays, **options)
    assert guards_intact(arrays["y"]), f"{format} {kind} {dims}: y was written beside"
    assert all(arrays[name].tobytes() == was for name, was in before.items()), f"{format} {kind} {dims}: changed inputs"
    chain = FILES[GEMM.stem(format)].chain(dims["M"], dims["N"], dims["K"])
    error = known.error(arrays["y"], Limit(chain))
    assert error <= 1, f"{format} {kind} {dims}: error is {error} times its bound"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("format", GEMM.formats)
def test_hazard_shapes(format, kind):
    config = small(format, BLOCK_M=64, BLOCK_N=16, BLOCK_K=256)
    for dims in hazards("gemm", format):
        check(format, dims, kind, config=config)


@pytest.mark.parametrize("format", GEMM.formats)
def test_what_is_launched_by_itself(format):
    """The tile that `pick_config` takes, other steps along K, more tiles than one group of rows of them."""
    for dims in (BASE, {**BASE, "B": 3, "w_batch": 3}, {**BASE, "K": 320}):
        check(format, dims)
    for size in (
        {"BLOCK_M": 16, "BLOCK_N": 32, "BLOCK_K": 64, "GROUP_M": 2},
        {"BLOCK_M": 32, "BLOCK_N": 16, "GROUP_M": 3},
    ):
        check(format, {**BASE, "B": 1, "M": 90, "N": 70}, config=small(format, **size))


@pytest.mark.parametrize("kind", ["random", "cancelling", "extreme"])
def test_products_of_e4m3(kind):
    """The interpreter's own product of fp8 knows no NaN."""
    config = small("fp8", BLOCK_M=32, BLOCK_N=16, BLOCK_K=128)
    for dims in (BASE, {**BASE, "K": 17}, {**BASE, "B": 3, "w_batch": 3, "M": 33}):
        check("fp8_w8a8", dims, kind, config=config, native=True)


class Counted:
    """A kernel that notes how many programs each launch has."""

    def __init__(self, kernel):
        self.kernel, self.grids = kernel, []

    def __getitem__(self, grid):
        self.grids.append(grid)
        return self.kernel[grid]


@pytest.fixture
def counted(monkeypatch):
    def put(stem, name):
        kernel = Counted(getattr(FILES[stem], name))
        monkeypatch.setattr(FILES[stem], name, kernel)
        return kernel

    return put


ALIGNED = {"B": 2, "M": 35, "N": 88, "K": 80, "w_batch": 1}  # tails of all three in tiles of 32 x 32 x 64


@pytest.mark.parametrize("kind", ["random", "cancelling", "extreme"])
@pytest.mark.parametrize("format", ["bf16", "f16", "tf32", "fp8_w8a8"])
def test_tiles_that_tma_moves(format, kind, counted):
    """Tile after tile in a persistent program, more of them than programs and fewer, and one program per tile."""
    options = {"precision": "tf32"} if format == "tf32" else {"native": True} if format == "fp8_w8a8" else {}
    format = "f32" if format == "tf32" else format
    stem = GEMM.stem(format)
    kernel = counted(stem, f"{stem}_tma_kernel")
    for sizes, persistent, programs in (
        ({}, True, 4), ({}, False, 9), ({"B": 1, "M": 1, "N": 24}, True, 1), ({"B": 1, "M": 64, "N": 32}, True, 2),
        ({"K": 256}, True, 4), ({"K": 16}, True, 4),
    ):  # fmt: skip
        config = small(format, BLOCK_M=32, BLOCK_N=32, BLOCK_K=64, GROUP_M=2, PERSISTENT=persistent)
        check(format, {**ALIGNED, **sizes}, kind, config=config, **options)
        assert kernel.grids.pop() == (programs,)


def test_what_tma_cannot_move_takes_the_other_kernel(counted):
    """A batch of w, rows or pointers that are no multiples of 16 bytes; f32, which has no matrix instructions."""
    kernel = counted("gemm", "gemm_tma_kernel")
    config = small("bf16", BLOCK_M=32, BLOCK_N=32, BLOCK_K=64, PERSISTENT=True)
    for sizes in ({"w_batch": 2}, {"N": 84}, {"K": 72}):
        check("bf16", {**ALIGNED, **sizes}, config=config)
    check("f32", ALIGNED, config=config)
    assert not kernel.grids
    arrays = inputs("gemm", "bf16", ALIGNED, np.random.default_rng(3))
    want = run("bf16", arrays, config=config).clone()
    off = torch.zeros(want.numel() + 1, dtype=want.dtype)[1:].view(want.shape)
    x, w = tensor(arrays["x"]), tensor(arrays["w"])
    assert torch.equal(FILES["gemm"].gemm(x, w, off, config=config), want)
    assert len(kernel.grids) == 1


@pytest.mark.parametrize("kind", ["random", "cancelling", "special"])
@pytest.mark.parametrize("format", ["bf16", "f16", "f32"])
def test_programs_that_share_a_tile(format, kind, counted):
    """Splits of several steps, of one, with a tail, and more of them than there are steps."""
    kernel = counted("gemm", "gemm_kernel")
    for splits, sizes in (
        (2, {"K": 256}), (3, {"K": 330}), (8, {"K": 200}), (4, {"K": 256, "B": 3, "w_batch": 3}), (2, {"K": 17}),
    ):  # fmt: skip
        config = small(format, BLOCK_M=32, BLOCK_N=64, BLOCK_K=64, SPLIT_K=splits)
        check(format, {**BASE, **sizes}, kind, config=config)
        assert kernel.grids[-1][1] == splits


def test_tiles_are_shared_or_persistent_by_their_number():
    gemm, fp8 = FILES["gemm"], FILES["gemm_fp8"]
    for chip in CHIPS:
        few = gemm.pick_config(128, 1024, 4096, 2, chip)
        programs = few.SPLIT_K * -(-128 // few.BLOCK_M) * -(-1024 // few.BLOCK_N)
        assert few.SPLIT_K == 1 or programs <= gemm.SMS.get(chip, 64)
        tma, many = chip in gemm.HAS_TMA, gemm.pick_config(8192, 8192, 8192, 2, chip)
        assert many.SPLIT_K == 1
        assert many.PERSISTENT is tma
        assert fp8.pick_config(8192, 8192, 8192, chip, w8a8=True).PERSISTENT is tma
        assert {c.PERSISTENT for c in gemm.configs(8192, 8192, 8192, 2, chip)} == {False, tma}
        assert not gemm.pick_config(8192, 8192, 8192, 2, chip, B=2).PERSISTENT
        assert not gemm.pick_config(8192, 8192, 8192, 4, chip).PERSISTENT
    assert gemm.pick_config(128, 1024, 4096, 2, "sm_90").SPLIT_K > 1
    assert gemm.pick_config(128, 1024, 256, 2, "sm_90").SPLIT_K == 1


def cut(array, bits):
    """f32 of so many significant bits; the others are cut off, which errs more than rounding."""
    return (array.view(np.uint32) & np.uint32(-1 << (24 - bits) & 0xFFFFFFFF)).view(np.float32)


@pytest.mark.parametrize("kind", ["random", "extreme"])
def test_the_limit_of_tf32_holds_operands_cut_to_11_bits_and_no_fewer(kind):
    """The interpreter does not know tf32: operands are cut here, and their products are f32's."""
    dims = {"B": 1, "M": 64, "N": 48, "K": 1024, "w_batch": 1}
    arrays = inputs("gemm", "f32", dims, np.random.default_rng(9), kind)
    known = expected("gemm", "f32", arrays, kind)["y"]
    limits = [Limit(*FILES["gemm"].limit(64, 48, 1024, precision)) for precision in ("ieee", "tf32")]

    def errors(bits):
        some = {name: cut(arrays[name], bits) for name in ("x", "w")}
        run("f32", {**some, "y": arrays["y"]}, precision="tf32")
        return [known.error(arrays["y"], limit) for limit in limits]

    assert errors(24)[0] <= 1
    ieee, tf32 = errors(11)
    assert tf32 <= 1 < ieee
    assert errors(8)[1] > 1


@pytest.mark.parametrize("kind", ["random", "cancelling", "extreme", "special"])
@pytest.mark.parametrize("format", ["mxfp8_w8a8", "mxfp4_w4a4", "nvfp4_w4a4"])
def test_block_scaled_products(format, kind, monkeypatch):
    """tl.dot_scaled. The interpreter takes every scale for an e8m0: e4m3 ones are looked up here."""
    from triton.runtime import interpreter

    if not hasattr(interpreter, "_dot_scaled_scale_to_f32"):
        pytest.skip("this Triton's interpreter has no tl.dot_scaled")
    known = interpreter._dot_scaled_scale_to_f32

    def scale(handle, compute):
        return known(handle, compute) if handle.dtype.is_int() else formats.E4M3[handle.data.view(np.uint8)]

    monkeypatch.setattr(interpreter, "_dot_scaled_scale_to_f32", scale)
    config = FILES["gemm_mx_scaled"].configs(64, 64, 64)[0]._replace(BLOCK_M=32, BLOCK_N=16, BLOCK_K=128)
    for dims in (BASE, {**BASE, "K": 32}, {**BASE, "B": 3, "w_batch": 3, "M": 33}):
        check(format, dims, kind, stem="gemm_mx_scaled", config=config)


@pytest.mark.parametrize("format", [name for name in GEMM.formats if name in formats.FORMATS])
def test_one_hot_dequantises_exactly(format):
    """y is the column of w that x picks, to the bit."""
    dims = {"B": 1, "M": 64, "N": 19, "K": 64, "w_batch": 1}
    rng = np.random.default_rng(2)
    for kind in ("random", "extreme"):
        arrays = inputs("gemm", format, dims, rng, kind)
        if format == "fp8":
            arrays["w_scales"][...] = 2.0 ** rng.integers(-8, 3, arrays["w_scales"].shape)
        if format == "nvfp4":
            arrays["w_tensor_scale"][...] = 2.0**-6
        arrays["x"][...] = np.eye(64)
        w = formats.unpack({name: a for name, a in arrays.items() if name[0] == "w"}, format)[0]
        run(format, arrays)
        want = w.T.astype(arrays["y"].dtype).astype(np.float32) + np.float32(0)  # a sum of -0 and zeros is 0
        assert (arrays["y"][0].astype(np.float32) == want).all()


@pytest.mark.parametrize("format", GEMM.formats)
def test_two_runs_give_the_same_bits(format):
    arrays = inputs("gemm", format, BASE, np.random.default_rng(5))
    run(format, arrays)
    first = arrays["y"].tobytes()
    poison(arrays["y"])
    run(format, arrays)
    assert first == arrays["y"].tobytes()


def test_y_is_allocated_and_words_may_be_signed():
    arrays = inputs("gemm", "int4", BASE, np.random.default_rng(6))
    run("int4", arrays)
    want = arrays.pop("y").copy()
    arrays["w"] = arrays["w"].view(np.int32)
    got = run("int4", arrays)
    assert got.view(torch.int16).numpy().tobytes() == want.tobytes()


def test_unaligned_pointers_and_k_are_named():
    gemm = FILES["gemm"]
    raw = torch.zeros(3 * 32 + 1, dtype=torch.bfloat16)
    x, off = raw[: 3 * 32].view(1, 3, 32), raw[1:].view(1, 3, 32)
    assert (gemm.path(x, x), gemm.path(off, x), gemm.path(x[..., :30], x)) == ("vector", "unaligned", "unaligned")
    for format, name in (("bf16", "w"), ("bf16", "x"), ("int4", "w"), ("fp8", "w")):
        arrays = inputs("gemm", format, BASE, np.random.default_rng(7))
        run(format, arrays)
        want = arrays["y"].tobytes()
        store = np.zeros(arrays[name].nbytes + arrays[name].itemsize, np.uint8)[arrays[name].itemsize :]
        moved = store.view(arrays[name].dtype).reshape(arrays[name].shape)
        moved[...] = arrays[name]
        run(format, {**arrays, name: moved})
        assert arrays["y"].tobytes() == want


def test_tiles_suit_their_chip():
    shared = {"sm_80": 163, "sm_90": 227, "sm_100": 227, "sm_110": 227, "gfx942": 64, "gfx1151": 64}
    for stem, file in FILES.items():
        for chip in CHIPS:
            for M, N in ((1, 1), (128, 1024), (512, 4096), (8192, 8192)):
                c = file.pick_config(M, N, 4096, chip=chip)
                assert c in file.configs(M, N, 4096, chip=chip)
                assert all(math.log2(n).is_integer() for n in (c.BLOCK_M, c.BLOCK_N, c.num_warps))
                step = 2 * getattr(c, "BLOCK_K", 64) // (4 if stem == "gemm_mx_scaled" else 1)
                assert (c.BLOCK_M + c.BLOCK_N) * step <= shared.get(chip, 99) * 1024, f"{stem} {chip} {c}"
    assert FILES["gemm"].pick_config(128, 1024, 4096, 2, "sm_90").BLOCK_N < 256  # a tile per multiprocessor


def changed(name, change):
    return lambda arrays: arrays | {name: change(arrays[name])}


@pytest.mark.parametrize(
    ("format", "change", "says"),
    [
        ("bf16", changed("x", lambda a: a[0]), "x has shape .* needs 3 axes"),
        ("bf16", changed("x", lambda a: a.double()), "x has dtype torch.float64"),
        ("bf16", changed("w", lambda a: a.half()), "w has dtype torch.float16; it needs torch.bfloat16"),
        ("bf16", changed("w", lambda a: a[..., :-1].contiguous()), "w has shape"),
        ("bf16", changed("w", lambda a: a.expand(3, -1, -1).contiguous()), "w has a batch of 3"),
        ("bf16", changed("w", lambda a: a.mT.contiguous().mT), "w is not contiguous"),
        ("bf16", changed("w", lambda a: a.to("meta")), "w is on meta"),
        ("bf16", changed("y", lambda a: a.float()), "y has dtype"),
        ("bf16", changed("y", lambda a: a[:1]), "y has shape"),
        ("int4", changed("x", lambda a: a[..., :100].contiguous()), "x has K = 100"),
        ("int4", changed("w", lambda a: a[..., 1:].contiguous()), "w has shape"),
        ("int4", changed("w_scales", lambda a: a.half()), "w_scales has dtype"),
        ("int8", changed("w_biases", lambda a: a[..., 1:].contiguous()), "w_biases has shape"),
        ("mxfp8", changed("w", lambda a: a.view(torch.uint8)), "w has shape"),
        ("mxfp4", changed("w_scales", lambda a: a.view(torch.int8)), "w_scales has dtype"),
        ("mxfp4", changed("w_scales", lambda a: a[..., 1:].contiguous()), "w_scales has shape"),
        ("nvfp4", changed("w_tensor_scale", lambda a: a.double()), "w_tensor_scale has dtype"),
        ("nvfp4_w4a4", changed("x_tensor_scale", lambda a: None), "x_tensor_scale is missing"),
        ("mxfp8_w8a8", changed("x", lambda a: a[..., 1:].contiguous()), "x has shape"),
        ("fp8", changed("w", lambda a: a.view(torch.uint8)), "w has dtype"),
        ("fp8", changed("w_scales", lambda a: a[..., 1:].contiguous()), "w_scales has shape"),
        ("fp8_w8a8", changed("x_scales", lambda a: a[..., 1:].contiguous()), "x_scales has shape"),
    ],
)
def test_bad_input_is_named(format, change, says):
    arrays = inputs("gemm", format, BASE, np.random.default_rng(8))
    stem = GEMM.stem(format)
    with pytest.raises(ValueError, match=says):
        getattr(FILES[stem], stem)(**change({name: tensor(a) for name, a in arrays.items()}))


@pytest.mark.parametrize(
    ("format", "precision", "chip", "says"),
    [
        ("f32", "tf16", "sm_90", "precision is 'tf16'; it must be 'ieee' or 'tf32'"),
        ("bf16", "tf32", "sm_90", "precision is 'tf32', which sm_90 does not have for torch.bfloat16"),
        ("f32", "tf32", "gfx1151", "precision is 'tf32', which gfx1151 does not have"),
    ],
)
def test_a_precision_that_is_not_there_is_named(format, precision, chip, says, monkeypatch):
    monkeypatch.setattr(FILES["gemm"], "_chip", lambda device: chip)
    with pytest.raises(ValueError, match=says):
        run(format, inputs("gemm", format, BASE, np.random.default_rng(8)), precision=precision)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (changed("x", lambda a: a[..., 1:].contiguous()), "x has shape"),
        (changed("w", lambda a: a.view(torch.uint8)), "w has shape"),
        (changed("x_scales", lambda a: None), "x_scales is missing"),
        (changed("x_tensor_scale", lambda a: a.double()), "x_tensor_scale has dtype"),
        (changed("y", lambda a: a.mT.contiguous().mT), "y is not contiguous"),
    ],
)
def test_bad_input_of_scaled_products_is_named(change, says):
    arrays = inputs("gemm", "nvfp4_w4a4", BASE, np.random.default_rng(8))
    with pytest.raises(ValueError, match=says):
        FILES["gemm_mx_scaled"].gemm_mx_scaled(**change({name: tensor(a) for name, a in arrays.items()}))


def test_scales_are_given_to_chips_that_take_them(monkeypatch):
    scaled = FILES["gemm_mx_scaled"]
    arrays = inputs("gemm", "mxfp4_w4a4", BASE, np.random.default_rng(8))
    monkeypatch.setattr(scaled, "INTERPRETED", SimpleNamespace(value=False))
    for triton, known in (((3, 7), "sm_100, sm_103, sm_120"), ((3, 8), "sm_100, sm_103, sm_120, sm_121")):
        monkeypatch.setattr(scaled, "_TRITON", triton)
        with pytest.raises(ValueError, match=rf"x is on cpu \(interpreter\); it needs one of {known}$"):
            run("mxfp4_w4a4", arrays, stem="gemm_mx_scaled")


@pytest.mark.parametrize("chip", CHIPS)
def test_the_backend_takes_and_names_the_file_for_its_chip(chip):
    gpu = FakeGpu()
    gpu.chip = lambda: chip
    backend = triton_.Triton(gpu)
    known = chip in ("sm_100", "sm_120") or (chip == "sm_121" and FILES["gemm_mx_scaled"]._TRITON >= (3, 8))
    for format in ("mxfp8_w8a8", "mxfp4_w4a4", "nvfp4_w4a4"):
        assert backend.claim("gemm", format).source == find("gemm_mx_scaled" if known else "gemm_mx", ".py")
    for op, format in (("gemm", "mxfp8"), ("gemm", "nvfp4"), ("gemv", "mxfp4"), ("gemm", "fp8_w8a8")):
        assert backend.claim(op, format).source == find(OPS[op].stem(format), ".py")
    arrays = inputs("gemm", "mxfp4_w4a4", BASE, np.random.default_rng(8))
    backend.bind("gemm", "mxfp4_w4a4", BASE, arrays)()
