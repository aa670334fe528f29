"""What test files say on the kernel here, and on another one, in a virtual machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree as ET

from bench.vm.kernel import StockKernel
from bench.vm.machine import SHARE, run_in, said
from tests.coverage_grid import CELLS, Cell, told_as

ROOT = Path(__file__).resolve().parents[2]
_ENVIRONMENT = {"PYTHONPATH": f"{ROOT}:{ROOT / 'ovs'}"}


@dataclass(frozen=True)
class Results:
    """How each test ended on a kernel; the text of a fault, or None.

    ``proven`` are the cells of the coverage grid that each has told.
    """

    release: str
    faults: Mapping[str, str | None]
    proven: Mapping[str, Sequence[Cell]]

    @property
    def series(self) -> str:
        """Return the first two numbers of the kernel's version."""
        return ".".join(self.release.split(".")[:2])

    def of(self, files: Iterable[str]) -> Results:
        """Return those of the tests in ``files``."""
        modules = tuple(f"{file.removesuffix('.py').replace('/', '.')}::" for file in files)
        faults = {name: fault for name, fault in self.faults.items() if name.startswith(modules)}
        return replace(self, faults=faults)


def run_here(files: Iterable[str], share: Path) -> Results:
    """Return what the tests in ``files`` say on the kernel of this machine."""
    for command in _commands(files, share):
        environment = {**os.environ, **_ENVIRONMENT}
        subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
    return _results(os.uname().release, share)


def run_on(kernel: StockKernel, files: Iterable[str], share: Path) -> Results:
    """Return what the tests in ``files`` say on ``kernel``; each file has a process of its own."""
    run_in(kernel, _commands(files, SHARE), share)
    release = share / "release"
    found = _results(release.read_text(encoding="ascii").strip() if release.exists() else "", share)
    assert found.faults, f"no result from the virtual machine, which said:\n{said(share)}"
    return found


def _commands(files: Iterable[str], share: Path) -> Iterator[list[str]]:
    for file in files:
        results = share / f"{Path(file).stem}.xml"
        words = ["-q", "-p", "no:cacheprovider", f"--junitxml={results}", file]
        yield [sys.executable, "-m", "pytest", *words]


def _results(release: str, share: Path) -> Results:
    faults: dict[str, str | None] = {}
    proven: dict[str, list[Cell]] = {}
    for file in sorted(share.glob("*.xml")):
        written = ET.parse(file)  # noqa: S314 our own pytest wrote it
        for case in written.iter("testcase"):
            bad = [child for child in case if child.tag in {"failure", "error", "skipped"}]
            name = f"{case.get('classname')}::{case.get('name')}"
            faults[name] = f"{bad[0].get('message')}\n{bad[0].text}" if bad else None
            told = {each.get("name") for each in case.iter("property")}
            proven[name] = [cell for cell in CELLS if told_as(cell) in told]
    return Results(release, faults, proven)
