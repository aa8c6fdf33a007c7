# SPDX-License-Identifier: MIT
"""What decides a result, as the file has it."""

import re
from importlib import metadata
from pathlib import Path

from fakes import FakeBackend, FakeSensors

from roofbench import environment


def test_a_checkout_that_is_not_installed_has_a_version(monkeypatch):
    installed = environment.version()

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(environment.metadata, "version", missing)
    project = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    assert environment.version() == re.search(r'^version = "(.+)"', project, re.MULTILINE)[1] == installed


def test_facts_of_the_gpu_that_is_measured(monkeypatch):
    class Absent(FakeBackend):
        def missing(self):
            return "torch sees no CUDA or ROCm device"

    class There(FakeBackend):
        def facts(self):
            return FakeSensors().facts()

    monkeypatch.setattr(environment, "BACKENDS", (Absent(),))
    assert environment.describe()["gpu"] is None
    monkeypatch.setattr(environment, "BACKENDS", (Absent(), There()))
    assert environment.describe()["gpu"]["power_limit_w"] == 700


def test_what_a_gpu_is_set_to_in_a_line():
    gpu = {"name": "NVIDIA H200", "toolkit": "CUDA 13.0", **FakeSensors().facts()}
    assert environment.of_gpu(gpu) == "driver 600.1, CUDA 13.0, power limit 700 W, ECC on, persistence on"
    gpu |= {"power_limit_w": None, "ecc": None, "mig": True}
    assert environment.of_gpu(gpu) == "driver 600.1, CUDA 13.0, persistence on, an instance of MIG"
    assert environment.of_gpu({"name": "NVIDIA GB10", "toolkit": "CUDA 13.0"}) == "CUDA 13.0"
