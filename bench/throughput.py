"""``overweave bench throughput``: this product beside what it competes with, and beside the limit.

One lab has all ways at once, so that every round measures each of them in the same minute.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.progress import Progress
from rich.table import Table

from bench import paths as ways
from bench import plot, traffic
from bench.figures import Figure, fingerprint, median, number
from bench.in_lab import progress, require_root, scratch_lab
from bench.measures import MEASURES, absolute, ratios
from bench.others import busy_percent
from bench.paths import FAST, NAMES, TOPOLOGY, Way
from bench.report import page, tell
from bench.traffic import LOADS, PACKETS, Load, Passed
from dataplane.core.errors import OverweaveError
from dataplane.lab import lab
from dataplane.lab.layout import LabPaths
from dataplane.lab.topology import Topology, read_topology

NAME = "throughput"
_SECONDS = 1.5
_PROOF_S = 0.3
_PAUSE_S = 0.2


@dataclass(slots=True)
class Run:
    """One run over one lab; ``samples`` has what passed, one for each round.

    ``others`` are the percentages of the machine that were busy in pauses between the loads.
    """

    paths: LabPaths
    topology: Topology
    program: Path
    bars: Progress
    samples: dict[tuple[str, Load], list[Passed]] = field(default_factory=dict)
    others: list[float] = field(default_factory=list)

    def measure(self, rounds: int) -> None:
        """Bring the lab up, make every way in it and measure them. Raises OverweaveError."""
        lab.up(self.paths, self.topology, self._say)
        found = ways.prepare(self.paths, self.topology)
        for way in found:
            self._prove(way)
        task = self.bars.add_task("loads", total=rounds * len(LOADS) * len(found))
        for turn in range(rounds):
            for load in LOADS:
                self.others.append(busy_percent(_PAUSE_S))
                for way in taking_turns(found, turn):
                    passed = traffic.send(self.program, load, way, _SECONDS)
                    self.samples.setdefault((way.name, load), []).append(passed)
                    self.bars.advance(task)

    def _prove(self, way: Way) -> None:
        """Raise OverweaveError if packets do not go the way they are counted for.

        What ways of the product send is found in the fast path's own counters, or not found there.
        """
        before = ways.fast_packets(self.paths)
        passed = traffic.send(self.program, PACKETS, way, _PROOF_S)
        after = ways.fast_packets(self.paths)
        fast = [new - old for new, old in zip(after, before, strict=True)]
        if not as_claimed(way.name, passed.received, fast):
            raise OverweaveError(
                f"{way.name}: {passed.received} packets arrived, and the fast path of the two nodes"
                f" took {fast}: this is another way"
            )

    def _say(self, line: str) -> None:
        self.bars.console.print(f"[dim]{line}[/dim]")


def as_claimed(way: str, arrived: int, fast: Sequence[int]) -> bool:
    """Say whether the packets that ``arrived`` took the fast path where they should, only there.

    ``fast`` are the packets that it took on each node, with those of the warm-up.
    """
    return min(fast) >= arrived if way in FAST else max(fast) == 0


def taking_turns(found: Sequence[Way], turn: int) -> list[Way]:
    """Return all ways, forwards and backwards in turns, and each time beginning with another."""
    start = turn // 2 % len(found)
    order = [*found[start:], *found[:start]]
    return order[::-1] if turn % 2 else order


def run(rounds: int, target: Path | None, picture: Path | None) -> None:
    """Take all figures, print them, and write them to ``target`` as JSON. Raises OverweaveError.

    With ``picture`` they are also drawn, to that name with the suffixes .png and .svg.
    """
    require_root()
    if picture is not None:
        plot.require()
    machine, paths = fingerprint(), LabPaths(NAME)
    topology = read_topology(TOPOLOGY, "the bench topology")
    with (
        tempfile.TemporaryDirectory(prefix="overweave-bench-") as directory,
        scratch_lab(paths, topology),
        progress() as bars,
    ):
        taken = Run(paths, topology, traffic.compiled(Path(directory)), bars)
        taken.measure(rounds)
    every = {(way, m.name): absolute(taken.samples, way, m) for way in NAMES for m in MEASURES}
    page().print(_matrix(every))
    told = [*ratios(taken.samples), median("machine busy between the loads", taken.others, "%")]
    tell(machine, [*every.values(), *told], target, told)
    if picture is not None:
        plot.draw(every, machine, picture)


def _matrix(every: plot.Matrix) -> Table:
    """Return medians in a line for each way, quartiles below them."""
    shown = Table(box=None, padding=(0, 3, 0, 0))
    shown.add_column("median, quartiles")
    for measure in MEASURES:
        shown.add_column(f"{measure.name}\n{measure.unit}", justify="right")
    for way in NAMES:
        cells = [_cell(every[way, measure.name]) for measure in MEASURES]
        shown.add_row(way, *cells)
    return shown


def _cell(figure: Figure) -> str:
    ends = map(number, figure.spread or ())
    return f"{number(figure.value)}\n[dim]{' - '.join(ends)}[/dim]"
