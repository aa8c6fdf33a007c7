# SPDX-License-Identifier: MIT
"""pytest-benchmark as the face of roofbench: the engine measures, its samples are replayed here.

Every test is one row. The engine's device times go through a virtual clock, so that pytest-benchmark's
table, ``--benchmark-json`` and ``--benchmark-compare`` show them. The row itself is in ``extra_info``.
"""

from __future__ import annotations

import pytest

from roofbench import cli, progress, session, summary
from roofbench.results import FAILURES
from roofbench.rows import RowSpec

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


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """pytest-benchmark shows its own table to who asks it for something."""
    words = [str(word).split("=")[0] for word in config.invocation_params.args]
    if not any(word.startswith("--benchmark-") and word != "--benchmark-only" for word in words):
        config.option.benchmark_quiet = True


@pytest.hookimpl(trylast=True)  # after the terminal reporter
def pytest_configure(config):
    options = config.option
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    try:
        wanted = cli.bench_options(options)
        options.before = session.resume(options.resume, wanted) if options.resume else None
        say = reporter.write_line if reporter else lambda _: None
        config.stash[KEY] = session.Session(wanted, options.out, say, options.resume)
    except (ValueError, OSError) as error:
        raise pytest.UsageError(f"roofbench: {error}") from None


def pytest_unconfigure(config):
    if KEY in config.stash:
        config.stash[KEY].finish()  # where no test did


def pytest_report_teststatus(report):
    """A row shows itself when it is done: no letters, no file names between."""
    if report.passed and report.when == "call" and "benchmark" in report.keywords:
        return "passed", "", ""
    return None


def pytest_generate_tests(metafunc):
    if not {"spec", "measure"} <= set(metafunc.fixturenames):
        return
    specs = [spec for spec in metafunc.config.stash[KEY].specs if spec.case.op in metafunc.module.OPS]
    metafunc.parametrize("spec", specs, ids=[spec.blank().id for spec in specs])


def pytest_collection_modifyitems(config, items):
    """Rows in the order of the plan, after all else; files without rows say nothing."""
    order = {id(spec): i for i, spec in enumerate(config.stash[KEY].specs)}
    rows = [item for item in items if _spec(item)]
    empty = [item for item in items if "measure" in getattr(item, "fixturenames", ()) and item not in rows]
    items[:] = [item for item in items if item not in rows and item not in empty]
    items += sorted(rows, key=lambda item: order[id(_spec(item))])
    config.hook.pytest_deselected(items=empty)
    for item in rows:
        item.add_marker(pytest.mark.benchmark(timer=CLOCK))


def pytest_collection_finish(session):
    """What -k and names of files left is the run. Where that is all, the machine is taken now."""
    config, run = session.config, session.config.stash[KEY]
    run.specs = [spec for item in session.items if (spec := _spec(item))]
    if not run.specs or len(run.specs) < len(session.items):
        return
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter:
        reporter.showfspath = False
    if not config.option.collectonly:
        _or_exit(run.take)


def _spec(item):
    """The row that an item measures; None for tests of another kind."""
    spec = item.callspec.params.get("spec") if hasattr(item, "callspec") else None
    return spec if isinstance(spec, RowSpec) else None


def _or_exit(do, *arguments):
    """What stops the run is one line."""
    try:
        return do(*arguments)
    except ValueError as error:
        return pytest.exit(f"roofbench: {error}", returncode=2)


@pytest.fixture(scope="session")
def run(pytestconfig):
    """The run, started: roofs are probed."""
    it = pytestconfig.stash[KEY]
    capture = pytestconfig.pluginmanager.get_plugin("capturemanager")
    with capture.global_and_fixture_disabled():
        pytestconfig.pluginmanager.get_plugin("terminalreporter").ensure_newline()
        _or_exit(it.start, pytestconfig.option.before)
    yield it
    _or_exit(it.finish)


@pytest.fixture
def measure(run, benchmark, pytestconfig):
    """Measures a row and replays its samples; a row without numbers fails or is skipped with its reason."""
    reporter = pytestconfig.pluginmanager.get_plugin("terminalreporter")
    capture = pytestconfig.pluginmanager.get_plugin("capturemanager")

    def measure(spec):
        row = _or_exit(run.measure, spec)
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


@pytest.hookimpl(wrapper=True, tryfirst=True)  # below all else
def pytest_terminal_summary(terminalreporter, config):
    yield
    it = config.stash.get(KEY, None)
    if it is None or not it.run.rows:
        return
    terminalreporter.section("roofbench")
    terminalreporter.write(f"{summary.text(it.run)}\n{it.path}\n")
    again = it.again()
    if again:
        terminalreporter.write_line(f"To go on: {again}")
