"""A lab for one run of figures: made, measured in, and taken down again, whatever happens."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dataplane.core.errors import OverweaveError
from dataplane.lab import lab, sysdump
from dataplane.lab.layout import LabPaths
from dataplane.lab.topology import Topology


def require_root() -> None:
    """Raise OverweaveError if namespaces cannot be made."""
    if os.geteuid() != 0:
        raise OverweaveError("overweave bench makes namespaces and needs root; run it with sudo")


@contextmanager
def scratch_lab(paths: LabPaths, topology: Topology) -> Iterator[None]:
    """Take down what is left of an earlier run, and at the end what was made of this one.

    What fails in between leaves logs, flows and maps, and its OverweaveError says where.
    """
    with _taken_down(paths):
        lab.down(paths, lambda _line: None)
        try:
            yield
        except OverweaveError as error:
            where = Path(tempfile.mkdtemp(prefix="overweave-bench-"))
            sysdump.collect(paths, topology, where)
            raise OverweaveError(f"{error}; logs, flows and maps are in {where}") from error


def progress() -> Progress:
    """Return bars on standard error, where they do not mix with figures."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True, highlight=False)
    return Progress(*columns, TimeElapsedColumn(), console=console)


def say(bars: Progress, line: str) -> None:
    """Tell above the bars what goes on."""
    bars.console.print(f"[dim]{line}[/dim]")


def steps(bars: Progress, title: str, count: int) -> Iterator[int]:
    """Yield the numbers below ``count``, and show in a bar how far that is."""
    task = bars.add_task(title, total=count)
    for number in range(count):
        yield number
        bars.advance(task)


@contextmanager
def _taken_down(paths: LabPaths) -> Iterator[None]:
    """Take the lab down at the end, also after Ctrl-C or SIGTERM; a second one changes nothing."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        lab.down(paths, lambda _line: None)
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
