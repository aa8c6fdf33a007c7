# SPDX-License-Identifier: MIT
"""pytest-benchmark as the face of roofbench: the engine measures, its samples are replayed here.

Every test is one row. The engine's device times go through a virtual clock, so that pytest-benchmark's
table, ``--benchmark-json`` and ``--benchmark-compare`` show them. The row itself is in ``extra_info``.
"""

from __future__ import annotations

import pytest

from roofbench import cli, progress, session, summary
from roofbench.results import FAILURES

KEY = pytest.StashKey[session.Session]()


class VirtualClock:
    """Stands still but for `advance`."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def __repr__(self) -> str:
        return "device_time"  # goes into pytest-benchmark's JSON

    def advance(self, seconds: float) -> None:
        self.now += seconds


CLOCK = VirtualClock()


def pytest_addoption(parser):
    group = parser.getgroup("roofbench")
    cli.add_bench_options(group.addoption)


@pytest.hookimpl(trylast=True)  # after the terminal reporter
def pytest_configure(config):
    options = config.option
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter:
        reporter.showfspath = False
    try:
        wanted = cli.bench_options(options)
        options.done = session.resume(options.resume, wanted) if options.resume else []
        config.stash[KEY] = session.Session(
            wanted, options.out, say=reporter.write_line if reporter else lambda _: None
        )
    except (ValueError, OSError) as error:
        raise pytest.UsageError(f"roofbench: {error}") from None


def pytest_report_teststatus(report):
    """A row shows itself when it is done: no letters, no file names between."""
    if report.passed and report.when == "call":
        return "passed", "", ""
    return None


def pytest_generate_tests(metafunc):
    if "spec" not in metafunc.fixturenames:
        return
    specs = [spec for spec in metafunc.config.stash[KEY].specs if spec.case.op in metafunc.module.OPS]
    metafunc.parametrize("spec", specs, ids=[spec.blank().id for spec in specs])


def pytest_collection_modifyitems(config, items):
    """Rows in the order of the plan; files without rows say nothing."""
    order = {id(spec): i for i, spec in enumerate(config.stash[KEY].specs)}
    place = {item: order.get(id(item.callspec.params["spec"])) for item in items if hasattr(item, "callspec")}
    empty = [item for item, at in place.items() if at is None]
    items[:] = sorted((item for item in items if item not in empty), key=lambda item: place.get(item, 0))
    config.hook.pytest_deselected(items=empty)
    for item in items:
        item.add_marker(pytest.mark.benchmark(timer=CLOCK))


@pytest.fixture(scope="session")
def run(pytestconfig):
    """The run, started: roofs are probed."""
    it = pytestconfig.stash[KEY]
    capture = pytestconfig.pluginmanager.get_plugin("capturemanager")
    with capture.global_and_fixture_disabled():
        pytestconfig.pluginmanager.get_plugin("terminalreporter").ensure_newline()
        try:
            it.start(pytestconfig.option.done)
        except ValueError as error:
            pytest.exit(f"roofbench: {error}", returncode=2)
    yield it
    it.finish()


@pytest.fixture
def measure(run, benchmark, pytestconfig):
    """Measures a row and replays its samples; a row without numbers fails or is skipped with its reason."""
    reporter = pytestconfig.pluginmanager.get_plugin("terminalreporter")
    capture = pytestconfig.pluginmanager.get_plugin("capturemanager")

    def measure(spec):
        row = run.measure(spec)
        with capture.global_and_fixture_disabled():
            reporter.ensure_newline()
            reporter.write_line(progress.line(run, row))
        if row.status in FAILURES:
            pytest.fail(f"{row.status}: {row.reason}", pytrace=False)
        if not row.samples_s:
            pytest.skip(f"{row.status}: {row.reason}")
        samples = iter(row.samples_s)
        CLOCK.now = 0.0
        benchmark.extra_info.update({key: value for key, value in row.to_dict().items() if key != "samples_s"})
        benchmark.pedantic(lambda: CLOCK.advance(next(samples)), rounds=row.n, iterations=1)

    return measure


def pytest_terminal_summary(terminalreporter, config):
    it = config.stash.get(KEY, None)
    if it is None or not it.run.rows:
        return
    terminalreporter.section("roofbench")
    summary.show(it.run.rows)
    terminalreporter.write_line(f"\n{it.path}")
