"""Which combinations real packets have passed in, printed at the end; empty ones are named.

A test calls ``proven`` after its packets have arrived. It counts if the test passes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import product
from typing import Literal, NamedTuple, Protocol

import pytest

Port = Literal["veth", "netdev", "representor"]
Datapath = Literal["userspace", "kernel"]

ENCAPS, FAMILIES = ("geneve", "vxlan"), ("ipv4", "ipv6")
PORTS: tuple[Port, ...] = ("veth", "netdev", "representor")
DATAPATHS: tuple[Datapath, ...] = ("userspace", "kernel")


class Cell(NamedTuple):
    """One combination: encapsulation, outer and inner family, kind of AccessPort, datapath."""

    encap: str
    outer: str
    inner: str
    port: Port
    datapath: Datapath


class Proven(Protocol):
    """Says that packets of ``inner`` family have arrived that were, or could be, tunnelled so."""

    def __call__(
        self, encap: str, outer: str, inner: str, port: Port = "veth", datapath: Datapath = ...
    ) -> None: ...


@pytest.fixture
def proven(request: pytest.FixtureRequest) -> Proven:
    def record(
        encap: str, outer: str, inner: str, port: Port = "veth", datapath: Datapath = "userspace"
    ) -> None:
        cell = Cell(encap, outer, inner, port, datapath)
        assert cell in CELLS, f"{cell} is no cell of the grid"
        request.node.user_properties.append((told_as(cell), True))

    return record


CELLS = tuple(Cell(*words) for words in product(ENCAPS, FAMILIES, FAMILIES, PORTS, DATAPATHS))


def told_as(cell: Cell) -> str:
    """Return the name of the property of a test that has proven ``cell``."""
    return f"proven: {' '.join(cell)}"


class Grid:
    """How many passed tests have proven each cell."""

    def __init__(self) -> None:
        self._tests: Counter[Cell] = Counter()
        self._faulty: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.passed:
            self._faulty.add(report.nodeid)
        elif report.when == "teardown" and report.nodeid not in self._faulty:
            told = {name for name, _ in report.user_properties}
            self._tests.update(cell for cell in CELLS if told_as(cell) in told)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._tests:  # else nothing that ran sends packets
            terminalreporter.section("coverage grid: passed tests by encapsulation, outer, inner")
            for line in self.lines():
                terminalreporter.write_line(line)

    def lines(self) -> Iterator[str]:
        columns = list(product(PORTS, DATAPATHS))
        yield " " * 20 + "".join(f"{port:>13}" for port, _ in columns)
        yield " " * 20 + "".join(f"{datapath:>13}" for _, datapath in columns)
        for row in product(ENCAPS, FAMILIES, FAMILIES):
            counts = (self._tests[Cell(*row, *column)] for column in columns)
            cells = "".join(f"{count or '-':>13}" for count in counts)
            yield f"{row[0]:<7}{row[1]:<6}{row[2]:<7}{cells}"
        yield from self._empty()

    def _empty(self) -> Iterator[str]:
        for cell in CELLS:
            if not self._tests[cell]:
                yield f"EMPTY: {cell.encap} over {cell.outer}, {' '.join(cell[2:])}"


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Grid(), "coverage-grid")
