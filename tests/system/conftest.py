"""One lab for all system tests: four agents, two machines of others, a pod on every node."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dataplane.lab import lab, matrix, sysdump
from dataplane.lab.layout import LabPaths
from dataplane.lab.runtime import Runtime
from dataplane.lab.scene import INTENT, Scene, silent
from dataplane.lab.topology import read_topology

TOPOLOGY = """
nodes:
  [{name: n1}, {name: n2}, {name: n3}, {name: n4}, {name: k1, kind: bare}, {name: k2, kind: bare}]
"""
_DUMPS = 5  # later failures are mostly the same one again


@contextmanager
def standing(name: str, topology: str) -> Iterator[Scene]:
    """Yield a lab with its pods attached, when every pair has found each other."""
    paths = LabPaths(name)
    made = Scene(paths, read_topology(topology, "tests"), Runtime(paths))
    try:
        made.up()
        lab.apply(paths, INTENT)
        made.attach()
        for stations in made.segments.values():
            matrix.converge(stations)
        yield made
    finally:
        lab.down(paths, silent)


@pytest.fixture(scope="session")
def shared() -> Iterator[Scene]:
    """The lab as it came up; use ``scene``, which also checks that a test left it whole."""
    with standing(f"t{os.getpid()}", TOPOLOGY) as made:
        yield made


@pytest.fixture
def scene(shared: Scene) -> Iterator[Scene]:
    yield shared
    lab.start_agents(shared.paths, shared.topology.agents)


class Dumper:
    """Keeps what there is to see of the lab when a test that uses it fails."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._made = 0

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Iterator[None]:
        outcome: Any = yield
        report: pytest.TestReport = outcome.get_result()
        found = getattr(item, "funcargs", {}).get("scene")
        if report.failed and isinstance(found, Scene) and self._made < _DUMPS:
            self._made += 1
            target = self._directory / f"{self._made}-{item.name.replace('/', '-')[:60]}"
            sysdump.collect(found.paths, found.topology, target)
            report.sections.append(("logs, flows and maps of the lab", str(target)))


@pytest.fixture(scope="session", autouse=True)
def dumper(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("sysdump")
    request.config.pluginmanager.register(Dumper(directory))
