# SPDX-License-Identifier: MIT
"""The catalogue's arithmetic, and detection from what machines print."""

import msgspec
import pytest

from roofbench import devices
from roofbench.devices import Host

CATALOGUE = devices.catalogue()


class Recorded(Host):
    """A machine that prints what it is given."""

    def __init__(self, platform="linux", commands=None, files=None):
        self.platform, self.commands, self.files = platform, commands or {}, files or {}

    def run(self, *command):
        return self.commands.get(" ".join(command[:3])) or self.commands.get(command[0])

    def read(self, path):
        return self.files.get(path)

    def glob(self, pattern):
        folder, _, name = pattern.rpartition("/")
        start = folder.split("*")[0].split("[")[0]
        paths = {path.rpartition("/")[0] if name.startswith("index") else path for path in self.files}
        return sorted(path for path in paths if path.startswith(start) and (name.rstrip("*") in path))


def mac(chip, cores, gib):
    return Recorded(
        "darwin",
        {
            "sysctl -n machdep.cpu.brand_string": f"{chip}\n",
            "sysctl -n hw.memsize": f"{gib * 2**30}\n",
            "ioreg": f'    | |   "gpu-core-count" = {cores}\n',
        },
    )


def nvidia(line):
    return Recorded(commands={"nvidia-smi": f"{line}\n"})


@pytest.mark.parametrize("id", CATALOGUE)
class TestArithmetic:
    def test_bandwidth(self, id):
        memory = CATALOGUE[id].memory
        derived = memory.bus_bits * memory.rate_mtps / 8 / 1000
        assert derived == pytest.approx(memory.bandwidth_gbs, rel=0.03 if memory.rounded else 0.005)

    def test_dense_peaks(self, id):
        device = CATALOGUE[id]
        assert device.dense_tflops.keys() == device.flop_per_clock.keys()
        for name, peak in device.dense_tflops.items():
            derived = device.units.count * device.flop_per_clock[name] * device.clock.of(name) / 1000
            assert derived == pytest.approx(peak, rel=0.005), name

    def test_sparse_peaks_are_apart_and_twice_the_dense(self, id):
        device = CATALOGUE[id]
        for name, peak in device.sparse_tflops.items():
            assert peak == pytest.approx(2 * device.dense_tflops[name], rel=0.001), name

    def test_clocks(self, id):
        clock = CATALOGUE[id].clock
        assert 0.5 < clock.spec_ghz < 4
        assert clock.max_ghz is None or clock.max_ghz >= max([clock.spec_ghz, *clock.peak_ghz.values()])

    def test_every_group_has_a_source(self, id):
        device = CATALOGUE[id]
        groups = [device.clock, device.memory, *([device.caches] if device.caches else [])]
        assert all(len(group.source) > 5 for group in groups)
        assert device.peaks_source
        assert device.sources


def test_every_chip_of_the_published_results_is_there():
    for name in (
        "gb10 rtxpro6000 rtx5090 m1-ultra-48 m1-ultra-64 m1-max-32 m1-pro-16 m2-pro-19 m2-max-38 m2-ultra-60 "
        "m2-ultra-76 m3-pro-18 m3-max-40 m3-ultra-60 m3-ultra-80 m4-10 m4-pro-16 m4-pro-20 m4-max-32 m4-max-40 "
        "h200-sxm strix-halo rtx4090 a100-80 b200 m2-max m5-10 m1-max h100-pcie mi300x h100-sxm a19-5core "
        "m5-pro-20 m5-max-32 m5-max-40 m5-ultra-80 thor rtx-3090 rtx-4080 rtx-5080"
    ).split():
        assert devices.device_of(name)


def test_names_are_as_people_say_them():
    assert devices.device_of("mac-studio-m3-ultra").memory.bandwidth_gbs == 819.2
    assert devices.device_of("dgx-spark").memory.bandwidth_gbs == 273.1
    assert devices.device_of("rtx-5090").dense_tflops["bf16"] == 209.5


def test_no_name_stands_for_two_devices():
    names = [name for id, device in CATALOGUE.items() for name in (id, *device.aliases)]
    assert len(names) == len(set(names))


def test_marketing_figures_are_not_taken_for_dense():
    """1 PFLOP of the Spark, 3352 TOPS of the 5090 and 1979 TFLOPS of the H100 are with sparsity."""
    assert devices.device_of("dgx-spark").dense_tflops["fp4"] == pytest.approx(501, abs=1)
    assert devices.device_of("rtx-5090").dense_tflops["fp4"] == pytest.approx(1676, abs=1)
    assert devices.device_of("h100").dense_tflops["bf16"] == pytest.approx(989, abs=1)


@pytest.mark.parametrize(
    ("host", "id"),
    [
        (nvidia("NVIDIA H200, 143771, 9.0"), "h200"),
        (nvidia("NVIDIA H100 80GB HBM3, 81559, 9.0"), "h100"),
        (nvidia("NVIDIA H100 PCIe, 81559, 9.0"), "h100-pcie"),
        (nvidia("NVIDIA GeForce RTX 5090, 32607, 12.0"), "rtx-5090"),
        (nvidia("NVIDIA GeForce RTX 3090, 24576, 8.6"), "rtx-3090"),
        (nvidia("NVIDIA A100-SXM4-80GB, 81920, 8.0"), "a100"),
        (nvidia("NVIDIA B200, 183359, 10.0"), "b200"),
        (nvidia("NVIDIA GB10, [N/A], 12.1"), "dgx-spark"),
        (nvidia("NVIDIA Thor, [N/A], 11.0"), "jetson-thor"),
        (mac("Apple M3 Ultra", 80, 512), "mac-studio-m3-ultra"),
        (mac("Apple M3 Ultra", 60, 96), "mac-studio-m3-ultra-60"),
        (mac("Apple M4 Max", 40, 128), "mac-studio-m4-max"),
        (mac("Apple M1 Ultra", 48, 64), "mac-studio-m1-ultra-48"),
        (
            Recorded(
                files={
                    "/sys/class/kfd/kfd/topology/nodes/0/properties": "cpu_cores_count 32\ngfx_target_version 0\n",
                    "/sys/class/kfd/kfd/topology/nodes/1/properties": (
                        "simd_count 80\nsimd_per_cu 2\ngfx_target_version 110501\n"
                    ),
                }
            ),
            "strix-halo",
        ),
        (
            Recorded(
                files={
                    "/sys/class/kfd/kfd/topology/nodes/2/properties": (
                        "simd_count 1216\nsimd_per_cu 4\ngfx_target_version 90402\n"
                    )
                }
            ),
            "mi300x",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_detection(host, id):
    gpu, cpu = devices.detect(host)
    assert gpu.kind == "gpu"
    assert gpu.device is not None
    assert gpu.device.id == id
    assert cpu.kind == "cpu"


@pytest.mark.parametrize(
    "host",
    [
        nvidia("NVIDIA H200 NVL, 143771, 9.0"),
        nvidia("NVIDIA GH200 480GB, 97871, 9.0"),
        nvidia("NVIDIA H200, 71885, 9.0"),  # another memory size: a slice of one
        nvidia("NVIDIA GeForce RTX 4080 SUPER, 16376, 8.9"),
        nvidia("NVIDIA GeForce RTX 5090, 32607, 8.9"),  # another chip
        mac("Apple M3 Ultra", 72, 512),
        mac("Apple M9", 10, 16),
    ],
)
def test_what_differs_in_one_property_is_unknown(host):
    assert devices.detect(host)[0].device is None


def test_a_machine_without_accelerator_has_its_cpu():
    host = Recorded(files={"/proc/cpuinfo": "model name\t: Test CPU\ncpu family\t: 6\nmodel\t\t: 7\n"})
    (cpu,) = devices.detect(host)
    assert (cpu.kind, cpu.name, cpu.device) == ("cpu", "Test CPU (family 6, model 7)", None)


def test_last_level_caches_add_up():
    files = {}
    for cpu, l3 in ((0, "0-1"), (1, "0-1"), (2, "2-3"), (3, "2-3")):
        base = f"/sys/devices/system/cpu/cpu{cpu}/cache"
        for index, level, kind, size, shared in (
            (0, 1, "Data", "48K", str(cpu)),
            (1, 1, "Instruction", "32K", str(cpu)),
            (2, 2, "Unified", "1024K", str(cpu)),
            (3, 3, "Unified", "32768K", l3),
        ):
            for name, value in (("level", level), ("type", kind), ("size", size), ("shared_cpu_list", shared)):
                files[f"{base}/index{index}/{name}"] = f"{value}\n"
    assert devices.last_level_cache(Recorded(files=files)) == 64 << 20


def test_cache_of_a_machine_that_says_nothing():
    assert devices.last_level_cache(Recorded()) == 64 << 20


def test_mac_uses_the_system_level_cache_of_its_chip():
    assert devices.last_level_cache(mac("Apple M1 Ultra", 64, 64)) == 96 << 20


def test_an_unknown_apple_chip_may_have_the_largest_cache():
    """A rotation that is too long is slow; one that is too short is wrong."""
    assert devices.last_level_cache(mac("Apple M9 Ultra", 80, 256)) == 96 << 20


def test_l2_of_every_cluster_of_a_mac_counts():
    host = mac("Apple M1", 8, 16)
    for key, value in (("l2cachesize", 16 << 20), ("cpusperl2", 2), ("physicalcpu", 15)):
        host.commands[f"sysctl -n hw.perflevel0.{key}"] = f"{value}\n"
    assert devices.last_level_cache(host) == 8 * (16 << 20)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (Recorded(), False),
        (Recorded(files={"/sys/devices/cpu_atom/type": "10\n"}), True),
        (Recorded(files={f"/sys/devices/system/cpu/cpu{i}/cpu_capacity": "1024\n" for i in range(4)}), False),
        (Recorded(files={f"/sys/devices/system/cpu/cpu{i}/cpu_capacity": f"{i}\n" for i in range(4)}), True),
        (Recorded("darwin", {"sysctl -n hw.nperflevels": "2\n"}), True),
        (Recorded("darwin", {"sysctl -n hw.nperflevels": "1\n"}), False),
    ],
)
def test_cores_of_different_speed(host, expected):
    assert devices.hybrid(host) == expected


def test_a_cpu_is_not_the_gpu_of_the_same_chip():
    """Both report the name of the chip; the catalogue has the ceilings of one."""
    gpu, cpu = devices.detect(mac("Apple M3 Ultra", 80, 256))
    assert (gpu.kind, gpu.device.id) == ("gpu", "mac-studio-m3-ultra")
    assert (cpu.kind, cpu.device) == ("cpu", None)


class TestStub:
    @pytest.fixture(autouse=True)
    def own_folder(self, tmp_path, monkeypatch):
        monkeypatch.setattr(devices.platformdirs, "user_config_dir", lambda _: str(tmp_path / "roofbench"))
        devices.catalogue.cache_clear()
        yield
        devices.catalogue.cache_clear()

    def test_it_is_valid_and_read_back(self):
        found = devices.Found("gpu", "Apple M9 Max", "metal", 64, 128.0, None)
        path = devices.add_stub(found)
        assert path == devices.user_file()
        device = devices.device_of("apple-m9-max")
        assert (device.name, device.units.count, device.memory) == ("Apple M9 Max", 64, None)
        assert devices.detect(mac("Apple M9 Max", 64, 128))[0].device == device

    def test_twice_is_refused(self):
        found = devices.Found("gpu", "Apple M9 Max", "metal", 64, 128.0, None)
        devices.add_stub(found)
        with pytest.raises(ValueError, match=r"has a table \[apple-m9-max\] already"):
            devices.add_stub(found)

    def test_a_second_device_is_added_behind_the_first(self):
        for name in ("Chip A", "Chip B"):
            devices.add_stub(devices.Found("cpu", name, "x86_64", 8, 0.0, None))
        assert devices.device_of("chip-a")
        assert devices.device_of("chip-b")

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("vendor = 5", r"Expected `str`, got `int` - at `\$.vendor`"),
            ('kind = "tpu"', r"Invalid enum value 'tpu' - at `\$.kind`"),
            ('units = { kind = "SM", count = 0 }', r"Expected `int` >= 1 - at `\$.units.count`"),
            ('clock = { spec_ghz = nan, source = "s" }', r"Expected `float` > 0.0 - at `\$.clock.spec_ghz`"),
            ("dense_tflops = { f32 = inf }", r"Expected `float` <= .* - at `\$.dense_tflops\[...\]`"),
            ("dense_tflops = { f32 = -1.0 }", r"Expected `float` > 0.0 - at `\$.dense_tflops\[...\]`"),
            ('caches = { l2_mb = 0, source = "s" }', r"Expected `float` > 0.0 - at `\$.caches.l2_mb`"),
            (
                'memory = { type = "t", size_gb = [-8], bus_bits = 1, rate_mtps = 1, bandwidth_gbs = 1, source = "s" }',
                r"Expected `int` >= 1 - at `\$.memory.size_gb\[0\]`",
            ),
        ],
    )
    def test_a_wrong_table_is_named(self, text, says):
        devices.user_file().parent.mkdir(parents=True)
        good = '[good]\nname = "x"\nvendor = "v"\narch = "a"\n'
        devices.user_file().write_text(
            f'{good}[my-gpu]\nname = "x"\narch = "a"\n{text}\n' + 'vendor = "v"\n' * ("vendor" not in text)
        )
        with pytest.raises(ValueError, match=rf"devices.toml: \[my-gpu\]: {says}"):
            devices.catalogue()

    @pytest.mark.parametrize("content", [b"a = \xff", b"[x", b"x = 5"])
    def test_a_file_that_is_no_catalogue_is_named(self, content):
        devices.user_file().parent.mkdir(parents=True)
        devices.user_file().write_bytes(content)
        with pytest.raises(ValueError, match="roofbench/devices.toml: "):
            devices.catalogue()

    def test_a_stub_goes_into_no_file_that_cannot_be_read(self):
        devices.user_file().parent.mkdir(parents=True)
        devices.user_file().write_bytes(b"# \xff")
        with pytest.raises(ValueError, match="devices.toml: 'utf-8' codec"):
            devices.add_stub(devices.Found("cpu", "Chip A", "x86_64", 8, 0.0, None))
        assert devices.user_file().read_bytes() == b"# \xff"

    @pytest.mark.parametrize("name", ['Chip "A" \\ 3', "龙芯", "Chip µ"])
    def test_odd_names_are_valid_too(self, name):
        devices.add_stub(devices.Found("cpu", name, "x86_64", 8, 0.0, None))
        devices.catalogue.cache_clear()
        assert any(device.name == name for device in devices.catalogue().values())


def test_known_device_needs_no_stub():
    found = devices.detect(nvidia("NVIDIA H200, 143771, 9.0"))[0]
    with pytest.raises(ValueError, match="NVIDIA H200 is known already: h200"):
        devices.add_stub(found)


def test_unknown_device_is_named():
    with pytest.raises(ValueError, match="unknown device 'gtx-480'"):
        devices.device_of("gtx-480")


def test_catalogue_is_strict_about_fields():
    with pytest.raises(msgspec.ValidationError):
        msgspec.toml.decode('[x]\nname = "x"\nvendor = "y"\narch = "z"\nbandwith = 3\n', type=dict[str, devices.Device])
