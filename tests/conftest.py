"""What holds for every test: a skip that is not expected, in writing, fails the run."""

import re
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

pytest_plugins = ["tests.coverage_grid"]
settings.register_profile("untimed", deadline=None)  # how long one example takes proves nothing
settings.load_profile("untimed")

EXPECTED_SKIPS = Path(__file__).with_name("expected_skips.txt")


# Of the folders where files share a lab, or a machine, those that have one of their own.
SHARED = ("tests/system/dpu/", "tests/system/without_ebpf/", "tests/system/", "tests/vm/")
APART = re.compile(
    r"tests/system/(dpu/test_(intel|senao)|test_(apart|demo|foreign_ovs|jumbo|lab_lifecycle"
    r"|lab_probes|two_machines))\.py"
)


class ByLab(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Gives whole files to a worker, and to one all that share a lab; labs mostly wait."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        if APART.fullmatch(path):
            return path
        return next((folder for folder in SHARED if path.startswith(folder)), path)


@pytest.hookimpl(optionalhook=True)  # known in runs of several workers only
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByLab:
    return ByLab(config, log)


class SkipGuard:
    """Collects what was skipped (or expected to fail) without a line in expected_skips.txt."""

    def __init__(self, expected: frozenset[str]) -> None:
        self._expected = expected
        self.unexpected: list[str] = []

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        excused = report.skipped or hasattr(report, "wasxfail")
        if excused and report.nodeid not in self._expected:
            self.unexpected.append(report.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.unexpected and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for nodeid in self.unexpected:
            terminalreporter.write_line(
                f"UNEXPECTED SKIP {nodeid}: make it run, or name it in {EXPECTED_SKIPS.name}",
                red=True,
            )


SURVIVED = "survived: "  # begins the line of a test where nothing was lost


class Survival:
    """Shows how long the gaps were that known traffic had while something was away."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            said = report.capstdout.splitlines()
            self._lines += [line for line in said if line.startswith(SURVIVED)]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._lines:
            terminalreporter.section("survival: lost 0 of known traffic")
        for line in self._lines:
            terminalreporter.write_line(line.removeprefix(SURVIVED))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--p4info",
        type=Path,
        help="the unmodified p4info of Intel's fxp-net_linux-networking, which is not ours to ship",
    )


@pytest.fixture
def given_p4info(request: pytest.FixtureRequest) -> Path:
    """Return the file of option --p4info; without it there is nothing to test."""
    path: Path | None = request.config.getoption("--p4info")
    if path is None:
        pytest.skip("--p4info names no p4info of Intel's")
    return path


def pytest_configure(config: pytest.Config) -> None:
    lines = EXPECTED_SKIPS.read_text(encoding="utf-8").splitlines()
    expected = frozenset(line for line in lines if line and not line.startswith("#"))
    config.pluginmanager.register(SkipGuard(expected), "skip-guard")
    config.pluginmanager.register(Survival(), "survival")
