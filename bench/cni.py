"""``overweave bench cni``: what attaching a pod costs, beside Debian's bridge and host-local.

One lab is brought up, measured and taken down again, whatever happens in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from rich.progress import Progress

from bench import load, news, one_agent
from bench.figures import YARDSTICK, Figure, fingerprint, median, tail
from bench.in_lab import progress, require_root, scratch_lab
from bench.load import VERBS, Side
from bench.plugins import REFERENCE, Plugin, overweave_config, reference_config
from bench.report import tell
from bench.stage import CROWD, CROWD_VNI, FLAVOURS, INTENT, NODE, PEER, TOPOLOGY, Flavour, plugins
from dataplane.core.errors import OverweaveError
from dataplane.lab import lab
from dataplane.lab.layout import LabPaths
from dataplane.lab.topology import Topology, read_topology
from dataplane.netlink import netns

NAME = "bench"
PODS = 100
_WIDTHS = {1: "one at a time", 20: "20 at once"}
_ROUNDS, _STARTS, _ENDPOINTS, _NEWS = 3, 5, 1000, 20
_MS = 1000.0

_Item = TypeVar("_Item")


@dataclass(slots=True)
class Run:
    """One run over one lab; ``figures`` are those taken so far."""

    paths: LabPaths
    topology: Topology
    pods: int
    progress: Progress
    figures: list[Figure] = field(default_factory=list)

    def measure(self) -> None:
        """Bring the lab up and take every figure. Raises OverweaveError."""
        lab.build(self.paths, self.topology, self._say)
        lab.apply(self.paths, INTENT)
        self._first_starts()
        self._shim()
        ours, theirs = plugins(self.paths, self.pods)
        for pod in self._steps("namespaces for pods", (*ours.pods, *theirs.pods)):
            netns.create(pod.name)
        for flavour in FLAVOURS:
            self._attach(flavour, ours, theirs)
        self._agent(ours)

    def _first_starts(self) -> None:
        """Start the agents one by one; each makes all of its node's Open vSwitch and eBPF."""
        took = []
        for name in self._steps("first start", (NODE, PEER)):
            config = overweave_config(self.paths, name, FLAVOURS[0].segment)
            took.append(one_agent.start(self.paths.node(name), config))
        self._add(median("agent ready, first start", took, "s", 2.0))

    def _shim(self) -> None:
        with one_agent.instant_agent() as path:
            took = [one_agent.run_shim(path) * _MS for _ in self._steps("shim", range(PODS))]
        self._add(median("shim p50", took, "ms", 12.0), tail("shim p99", took, "ms"))

    def _attach(self, flavour: Flavour, ours: Plugin, theirs: Plugin) -> None:
        configs = (
            overweave_config(self.paths, NODE, flavour.segment),
            reference_config(self.paths, flavour.segment, flavour.subnets),
        )

        def sides() -> tuple[Side, Side]:
            return Side(ours, configs[0]), Side(theirs, configs[1])

        for width, words in _WIDTHS.items():
            title, pair = f"{flavour.title}, {words}", sides()
            with self._bar(title, len(VERBS) * -(-self.pods // width)) as advance:
                load.alternate(pair, width, advance)
            self._latencies(title, *pair)
        title = f"{flavour.title}, {self.pods} ADDs at once, all done"
        with self._bar(title, _ROUNDS) as advance:
            own, other = load.crowd(sides(), _ROUNDS, advance)
        aim = 4.0 if self.pods == PODS else None  # of a hundred
        self._add(median(f"{YARDSTICK}{title}", other, "s"), median(title, own, "s", aim))

    def _latencies(self, title: str, ours: Side, theirs: Side) -> None:
        for verb in VERBS:
            own, other = ([each * _MS for each in side.took[verb]] for side in (ours, theirs))
            name = f"{verb} p50, {title}"
            reference = median(f"{YARDSTICK}{name}", other, "ms")
            aim = reference.value if verb == "ADD" else None
            self._add(reference, median(name, own, "ms", aim))
            name = f"{verb} p99, {title}"
            self._add(tail(f"{YARDSTICK}{name}", other, "ms"), tail(name, own, "ms"))

    def _agent(self, plugin: Plugin) -> None:
        """Take the figures of an agent whose node is in a segment of a thousand endpoints."""
        node, remote = self.paths.node(NODE), lab.fabric_server(self.paths).remote
        config = overweave_config(self.paths, NODE, CROWD)
        plugin.call("ADD", plugin.pods[0], config)
        known, new = news.endpoints(CROWD, _ENDPOINTS), news.endpoints(CROWD, _NEWS, _ENDPOINTS)
        for many in self._steps(f"{_ENDPOINTS:,} endpoints", (known,)):
            news.publish(remote, many, node)
        title = f"{_ENDPOINTS:,} endpoints"
        self._add(Figure(f"agent memory, {title}", one_agent.resident_mb(node), "MB", 100.0))
        coming = news.arrivals(remote, CROWD_VNI, new, node)
        took = list(self._steps("one more endpoint", coming, _NEWS))
        flows, entries = (
            [each * _MS for each in side]
            for side in zip(*((each.flow_s, each.entry_s) for each in took), strict=True)
        )
        self._add(median("one more endpoint, from commit to flow", flows, "ms", 50.0))
        # The aim is from when the agent knows, which is a little after the commit.
        self._add(median("one more endpoint, from commit to map entry", entries, "ms", 10.0))
        ready = [one_agent.restart(node, config) for _ in self._steps("restart", range(_STARTS))]
        self._add(median(f"agent ready, {title}", ready, "s", 2.0))

    def _add(self, *figures: Figure) -> None:
        self.figures += figures

    def _say(self, line: str) -> None:
        self.progress.console.print(f"[dim]{line}[/dim]")

    def _steps(
        self, title: str, items: Iterable[_Item], total: int | None = None
    ) -> Iterator[_Item]:
        """Yield ``items`` and show how far they are done; ``total`` if they have no length."""
        count = len(items) if total is None and isinstance(items, Sequence) else total
        with self._bar(title, count) as advance:
            for item in items:
                yield item
                advance()

    @contextmanager
    def _bar(self, title: str, total: int | None) -> Iterator[Callable[[], None]]:
        task = self.progress.add_task(title, total=total)
        yield lambda: self.progress.advance(task)


def run(pods: int, target: Path | None) -> None:
    """Take all figures, print them, and write them to ``target`` as JSON. Raises OverweaveError."""
    require_root()
    if not REFERENCE.exists():
        raise OverweaveError(
            f"the reference {REFERENCE} is not installed: apt install containernetworking-plugins"
        )
    machine = fingerprint()
    paths, topology = LabPaths(NAME), read_topology(TOPOLOGY, "the bench topology")
    with scratch_lab(paths, topology), progress() as bars:
        taken = Run(paths, topology, pods, bars)
        taken.measure()
    tell(machine, taken.figures, target)
