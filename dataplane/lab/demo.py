"""The main job, to watch: pods on four nodes, two encapsulations, both underlay families."""

from __future__ import annotations

import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from dataplane.core.errors import OverweaveError
from dataplane.lab import lab, matrix, probes, sysdump
from dataplane.lab.layout import LabPaths
from dataplane.lab.matrix import Verdict
from dataplane.lab.probes import Station
from dataplane.lab.runtime import Pod, Runtime
from dataplane.lab.topology import Topology

NAME = "demo"
_SHOWN_FAULTS = 8
_ATTACHING = 2
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Colour:
    """A segment of the demo; the last pod's node is that of the first: a pair within one node."""

    name: str
    number: int
    encap: str
    underlay: str

    @property
    def document(self) -> str:
        """Return the intent that makes it."""
        return (
            f"kind: Segment\nname: {self.name}\nvni: {1000 + self.number}\n"
            f"encap: {self.encap}\nunderlay: {self.underlay}\n"
            f"subnets: [10.{self.number}.0.0/20, 'fd00:{self.number}::/64']\n"
            f"static_ranges: [10.{self.number}.15.0/24, 'fd00:{self.number}::f000/116']\n"
        )

    def pods(self, nodes: Sequence[str]) -> list[Pod]:
        """Return its pods, one on each node and one more on the first."""
        return [
            Pod(f"{self.name}{n}", node, self.name)
            for n, node in enumerate((*nodes, nodes[0]), start=1)
        ]


COLOURS = (
    Colour("blue", 1, "geneve", "ipv4"),
    Colour("green", 2, "vxlan", "ipv4"),
    Colour("teal", 3, "geneve", "ipv6"),
    Colour("lime", 4, "vxlan", "ipv6"),
)
INTENT = "---\n".join(colour.document for colour in COLOURS)
# The workload that moves asks for its addresses by name: they are its own, on every node.
MOVER = Pod(
    "blue2", "n2", "blue", "02:00:00:00:00:b2", ("10.1.15.2/20", "fd00:1::f002/64"), "blue2"
)


@dataclass(slots=True)
class Demo:
    """One run: what it made so far, and what it found wrong."""

    console: Console
    paths: LabPaths
    runtime: Runtime
    topology: Topology | None = None
    segments: dict[str, list[Station]] = field(default_factory=dict)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def run(self) -> bool:
        """Show everything; return whether all of it was as it should be."""
        began = time.monotonic()
        self.console.print("[bold]Overweave[/bold]: one L2 network over four machines\n")
        self._step("lab", self._up)
        self._step("segments", self._apply)
        self._step("pods", self._attach)
        self._step("pairs", self._verify)
        self.console.print(self._table())
        self._step("isolation", self._isolate)
        self._step("move", self._move)
        took = time.monotonic() - began
        self.console.print(f"[dim]done in {took:.0f} s[/dim]")
        return not self.faults

    def last_line(self) -> str:
        """Return the sum of it; N/N pairs and nothing lost is success."""
        verdicts = self.verdicts.values()
        reachable, pairs = sum(v.reachable for v in verdicts), sum(v.pairs for v in verdicts)
        return f"reachable: {reachable}/{pairs} pairs, lost {sum(v.lost for v in verdicts)}"

    def _step(self, name: str, action: Callable[[], str]) -> None:
        with self.console.status(f"{name} ..."):
            began = time.monotonic()
            said = action()
        took = time.monotonic() - began
        self.console.print(f"  [cyan]{name:<10}[/cyan] {said} [dim]{took:.1f} s[/dim]")

    def _up(self) -> str:
        lab.down(self.paths, _silent)
        self.topology = lab.up(self.paths, None, _silent)
        agents = len(self.topology.agents)
        return (
            f"{agents} nodes, each its own Open vSwitch and agent,"
            f" underlay {self.topology.mtu} bytes, IPv4 + IPv6"
        )

    def _apply(self) -> str:
        lab.apply(self.paths, INTENT)
        return f"{', '.join(colour.name for colour in COLOURS)}: overweave apply"

    def _attach(self) -> str:
        assert self.topology is not None
        nodes = [node.name for node in self.topology.agents]
        wanted = [pod for colour in COLOURS for pod in colour.pods(nodes)]
        wanted = [MOVER if pod.name == MOVER.name else pod for pod in wanted]
        with ThreadPoolExecutor(_ATTACHING, "add") as pool:
            added = list(pool.map(lambda pod: _timed(lambda: self.runtime.add(pod)), wanted))
        for pod, (_, station) in zip(wanted, added, strict=True):
            self.segments.setdefault(pod.segment, []).append(station)
        typical = statistics.median(took for took, _ in added)
        return f"{len(added)} attached by overweave-cni, ADD typically {typical * 1000:.0f} ms"

    def _verify(self) -> str:
        for name, stations in self.segments.items():
            self._note(name, matrix.verify(stations))
        return "ping, full MTU with DF, TCP, broadcast; over inner IPv4 and IPv6"

    def _isolate(self) -> str:
        leaks = matrix.leaks(self.segments)
        self.faults += leaks
        pods = sum(map(len, self.segments.values()))
        if leaks:
            return f"[red]{len(leaks)} of {pods} pods heard what they should not, or not[/red]"
        return f"forged frames at {pods} pods: each heard in its own segment, none across"

    def _move(self) -> str:
        stations = self.segments[MOVER.segment]
        before = next(station for station in stations if station.name == MOVER.name)
        watcher = stations[0]
        with probes.flow(watcher, before.ip(4), interval=0.01) as echo:
            time.sleep(0.2)
            moved = replace(MOVER, name=f"{MOVER.name}-moved", node="n4")
            after = self.runtime.add(moved)
            self.runtime.delete(MOVER.name)
            time.sleep(0.5)
        if (after.mac, after.ips) != (before.mac, before.ips):
            self.faults.append(f"moved with another MAC or address: {before} became {after}")
        stations[stations.index(before)] = after
        self._note(MOVER.segment, matrix.verify(stations))
        return (
            f"{MOVER.name} n2 to n4 keeps {after.mac}, {after.ip(4)}, {after.ip(6)};"
            f" unheard for {echo.longest_gap * 1000:.0f} ms"
        )

    def _note(self, segment: str, verdict: Verdict) -> None:
        """Keep the verdict; a segment looked at twice is as good as the worse of both."""
        earlier = self.verdicts.get(segment, verdict)
        self.faults += verdict.faults
        self.verdicts[segment] = min(earlier, verdict, key=lambda found: found.reachable)

    def _table(self) -> Table:
        table = Table(box=None, padding=(0, 2), title_justify="left")
        columns = ("segment", "encap", "underlay", "pods", "MTU", "pairs", "lost", "round trip")
        for column in columns:
            table.add_column(column, justify="left" if column in columns[:3] else "right")
        for colour in COLOURS:
            table.add_row(*self._row(colour))
        return table

    def _row(self, colour: Colour) -> Iterator[str]:
        stations, verdict = self.segments[colour.name], self.verdicts[colour.name]
        mark = "green" if verdict.reachable == verdict.pairs and not verdict.lost else "red"
        yield from (f"[bold]{colour.name}[/bold]", colour.encap, colour.underlay)
        yield str(len(stations))
        yield str(stations[0].mtu)
        yield f"[{mark}]{verdict.reachable}/{verdict.pairs}[/{mark}]"
        yield str(verdict.lost)
        yield f"{verdict.round_trip * 1000:.2f} ms"


def main() -> int:
    """Run the demo and return the exit status; leaves nothing unless KEEP=1."""
    console = Console(highlight=False)
    paths = LabPaths(NAME)
    demo = Demo(console, paths, Runtime(paths))
    good = False
    try:
        with _interruptible():
            good = demo.run()
    except KeyboardInterrupt:
        console.print("[yellow]interrupted[/yellow]")
        return 130
    except OverweaveError as error:
        demo.faults.append(str(error))
    finally:
        _finish(demo, good=good)
    print(demo.last_line())
    return 0 if good else 1


def _finish(demo: Demo, *, good: bool) -> None:
    for fault in demo.faults[:_SHOWN_FAULTS]:
        demo.console.print(f"  [red]{fault}[/red]", soft_wrap=True)
    if demo.faults and demo.topology is not None:
        target = Path(tempfile.mkdtemp(prefix="overweave-demo-"))
        where = sysdump.collect(demo.paths, demo.topology, target)
        demo.console.print(f"logs, flows and maps: {where}")
    if os.environ.get("KEEP") == "1":
        demo.console.print(_NEXT)
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave half a lab
    lab.down(demo.paths, _silent)


_NEXT = f"""\
The lab is up. Try:
  overweave status                                 overweave get endpoint
  overweave lab exec --name {NAME} n1 -- ovs-vsctl show
  overweave lab exec --name {NAME} blue1 -- ping 10.1.15.2
  overweave lab down --name {NAME}"""


@contextmanager
def _interruptible() -> Iterator[None]:
    """Make SIGTERM clean up as Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _timed(action: Callable[[], _Result]) -> tuple[float, _Result]:
    began = time.monotonic()
    result = action()
    return time.monotonic() - began, result


def _silent(_line: str) -> None:
    """Say nothing: the demo has its own words."""


if __name__ == "__main__":
    sys.exit(main())
