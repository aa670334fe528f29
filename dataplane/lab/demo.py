"""The main job, to watch: pods on hosts, behind a DPU and on it, over four kinds of tunnel."""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from textwrap import indent
from types import FrameType

from rich.console import Console
from rich.table import Table

from dataplane.api.agent_pb2 import Entry
from dataplane.core.errors import OverweaveError
from dataplane.core.placement import Placement
from dataplane.core.reasons import Reason
from dataplane.lab import dpus, lab, matrix, nodes, probes, sysdump
from dataplane.lab.layout import LabPaths
from dataplane.lab.matrix import Verdict
from dataplane.lab.probes import Echo
from dataplane.lab.runtime import Runtime
from dataplane.lab.scene import COLOURS, INTENT, MOVER, Colour, Scene, silent
from dataplane.lab.topology import LabNode, read_topology
from vendors.emulator.control import tell

DEFAULT_NAME = "demo"
_SHOWN_FAULTS = 8
TOPOLOGY = """\
# A plain host, and one with a DPU of each vendor.
nodes:
- {name: n1}
- {name: h1}
- {name: d1, dpu: {vendor: marvell, host: h1, vfs: 5}}
- {name: h2}
- {name: d2, dpu: {vendor: intel, host: h2, vfs: 5}}
- {name: h3}
- {name: d3, dpu: {vendor: senao, host: h3, vfs: 5}}
"""
_DPU = "d1"  # whose table is filled
_UNGUARDED = COLOURS[-1]  # the one segment that a switch takes which checks no sender
# A VF pod and who it talks to, of each segment that the switch takes; MOVER has left the first.
_ROWS = {"d1": 2 * len(COLOURS) - 2, "d2": 2, "d3": 2 * len(COLOURS)}
_FORWARD_TABLE = "30"  # of the Marvell driver's pipeline
_SMALL_TABLE = 10  # rows
_BUSY = 0.02  # seconds between pings: 50 a second deserve a row of the switch
_PLACED_S = 30.0
_KILLED_S = 5.0  # five times the second within which a dead switch's traffic is in software


@dataclass(slots=True)
class Demo:
    """One run: what it made so far, and what it found wrong."""

    console: Console
    scene: Scene
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    is_up: bool = False
    pool: str = ""

    def run(self) -> bool:
        """Show everything; return whether all of it was as it should be."""
        began = time.monotonic()
        self.console.print("[bold]Overweave[/bold]: one L2 network over hosts and DPUs")
        self._step("lab", self._up)
        self._step("pool", self._pool)
        self.console.print(self.pool, end="", highlight=False, soft_wrap=True)
        self._step("segments", self._apply)
        self._step("pods", self._attach)
        self._step("pairs", self._verify)
        self.console.print(self._table())
        self._step("isolation", self._isolate)
        self._step("move", self._move)
        self._step("unguarded", self._unguard)
        for dpu in self.scene.topology.dpus:
            self._step(f"switch {dpu.name}", partial(self._switch, dpu))
        self._step("killed", self._kill)
        self._step("full", self._fill)
        self._step("placement", self._placement)
        took = time.monotonic() - began
        self.console.print(f"[dim]done in {took:.0f} s[/dim]")
        return not self.faults

    def last_line(self) -> str:
        """Return the sum of it; N/N pairs, nothing lost and not a word more is success."""
        verdicts = self.verdicts.values()
        reachable, pairs = sum(v.reachable for v in verdicts), sum(v.pairs for v in verdicts)
        lost, more = sum(v.lost for v in verdicts), f", faults {len(self.faults)}"
        return f"reachable: {reachable}/{pairs} pairs, lost {lost}{more if self.faults else ''}"

    def _step(self, name: str, action: Callable[[], str]) -> None:
        with self.console.status(f"{name} ..."):
            began = time.monotonic()
            said = action()
        took = time.monotonic() - began
        self.console.print(f"  [cyan]{name:<9}[/cyan] {said:<60} [dim]{took:5.1f} s[/dim]")

    def _up(self) -> str:
        self.scene.up()
        self.is_up = True
        mtu = self.scene.topology.mtu
        return f"{len(self.scene.topology.agents)} nodes with Open vSwitch and agent, MTU {mtu}"

    def _pool(self) -> str:
        """Have the halves of all DPUs in one list, and each ready."""
        wanted = 2 * len(self.scene.topology.dpus)
        ready = self._await(self._ready_halves, wanted, "halves of DPUs ready")
        self.pool = indent(lab.overweave(self.scene.paths, "get", "dpu"), " " * 12)
        return f"{ready} halves of DPUs of {len(_ROWS)} vendors are ready: overweave get dpu"

    def _ready_halves(self) -> int:
        halves = json.loads(lab.overweave(self.scene.paths, "get", "dpu", "-o", "json"))
        return sum(half["status"] for half in halves)

    def _apply(self) -> str:
        lab.apply(self.scene.paths, INTENT)
        return f"{', '.join(colour.name for colour in COLOURS)}: applied"

    def _attach(self) -> str:
        took = self.scene.attach()
        for stations in self.scene.segments.values():
            matrix.converge(stations)
        typical = statistics.median(took) * 1000
        return f"{len(took)} attached by overweave-cni, ADD typically {typical:.0f} ms"

    def _verify(self) -> str:
        for name, stations in self.scene.segments.items():
            self._note(name, matrix.verify(stations))
        return "ping, TCP, broadcast, full MTU with DF; inner IPv4, IPv6"

    def _isolate(self) -> str:
        leaks = matrix.leaks(self.scene.segments)
        self.faults += leaks
        if leaks:
            return f"[red]forged frames: {len(leaks)} went where they should not[/red]"
        pods = sum(map(len, self.scene.segments.values()))
        return f"forged frames to {pods} pods: none left its segment"

    def _move(self) -> str:
        """Take a workload from vendor to vendor, under traffic."""
        first, *others = (dpu.dpu.host for dpu in self.scene.topology.dpus if dpu.dpu)
        gaps = [self._move_to(node) for node in others]
        matrix.converge(self.scene.segments[MOVER.segment])
        self._note(MOVER.segment, matrix.verify(self.scene.segments[MOVER.segment]))
        way, unheard = ", ".join((first, *others)), ", ".join(f"{gap:.0f}" for gap in gaps)
        return f"{MOVER.name}, VFs of {way}, same MAC, IPs: {unheard} ms unheard"

    def _move_to(self, node: str) -> float:
        """Move it, and return for how many milliseconds it was not heard."""
        (before,) = (s for s in self.scene.segments[MOVER.segment] if s.mac == MOVER.mac)
        watcher = self.scene.segments[MOVER.segment][0]
        with probes.flow(watcher, before.ip(4), interval=0.005) as echo:
            time.sleep(0.2)
            after = self.scene.move(MOVER, node)
            time.sleep(0.5)
        if (after.mac, after.ips) != (before.mac, before.ips):
            self.faults.append(f"moved with another MAC or address: {before} became {after}")
        return echo.unheard * 1000

    def _placement(self) -> str:
        """Say which path carried all that: what is known is known to every node by now."""
        each = [self.scene.paths.node(node.name) for node in self.scene.topology.agents]
        entries = [entry for paths in each for entry in nodes.entries(paths)]
        ports = [port for paths in each for port in nodes.ports(paths)]
        slow = sum(entry.placement == Placement.OVS for entry in entries)
        fast = sum(entry.packets for entry in entries)
        handed = sum(sum(port.handed_over.values()) for port in ports)
        if slow:
            self.faults.append(f"{slow} of {len(entries)} entries are on no fast path")
        placed = f"{len(entries) - slow}/{len(entries)} entries above OVS"
        return f"{placed}: {fast:,} packets, {handed:,} to OVS"

    def _unguard(self) -> str:
        """Have the switches that check no sender take one segment all the same."""
        lab.apply(self.scene.paths, _UNGUARDED.document + 'guard: "off"\n')
        return f"{_UNGUARDED.name}, so that a switch takes it which checks no sender"

    def _switch(self, dpu: LabNode) -> str:
        """Have pods on VFs talk until the switch does it for them, and count there."""
        with self._talks(dpu, 1) as echoes:
            rows = self._await(partial(self._rows, dpu), _ROWS[dpu.name], f"rows in {dpu.name}")
            before = self._switched(dpu)
            time.sleep(1)
            moved = self._switched(dpu) - before
        self._none_lost(echoes, f"went into the switch of {dpu.name}")
        vendor = dpu.dpu.vendor.value if dpu.dpu else ""
        return f"{rows} rows (emulated {vendor}), {moved:,} packets/s by its own count"

    def _kill(self) -> str:
        """Kill every switch under traffic: what it was asked for meanwhile is lost, no more."""
        all_dpus = self.scene.topology.dpus
        with ExitStack() as stack:
            talks = [stack.enter_context(self._talks(dpu, 1)) for dpu in all_dpus]
            for dpu in all_dpus:
                self._await(partial(self._rows, dpu), _ROWS[dpu.name], f"rows in {dpu.name}")
            for dpu in all_dpus:
                self._tell(dpu, "kill")
            time.sleep(2)
        gaps = [max(echo.longest_gap for echo in echoes) for echoes in talks]
        for dpu, gap in zip(all_dpus, gaps, strict=True):
            if gap > _KILLED_S:
                self.faults.append(f"the switch of {dpu.name} was killed: silence of {gap:.2f} s")
        lost = sum(echo.lost for echoes in talks for echo in echoes)
        each = ", ".join(
            f"{dpu.name} {gap * 1000:.0f}" for dpu, gap in zip(all_dpus, gaps, strict=True)
        )
        return f"all: {lost} lost; ms until software: {each}"

    def _fill(self) -> str:
        """Leave a switch less room than there are conversations."""
        dpu = self.scene.topology.node(_DPU)
        self._tell(dpu, "table-full", _FORWARD_TABLE, str(_SMALL_TABLE))
        self._tell(dpu, "reset")  # what it held is refused now, too
        time.sleep(1)
        with self._talks(dpu, 4) as echoes:
            full = self._await(self._full, 1, "entries that found the table full")
            time.sleep(1)
            full, rows = self._full(), self._rows(dpu)
        self._tell(dpu, "clear")
        self._none_lost(echoes, "found the table full")
        lost = sum(echo.lost for echo in echoes)
        return (
            f"table of {_SMALL_TABLE} in {_DPU}: {rows} entries in, {full} in software, {lost} lost"
        )

    @contextmanager
    def _talks(self, dpu: LabNode, partners: int) -> Iterator[list[Echo]]:
        """Have the pods on VFs of ``dpu`` ping so many of the others meanwhile."""
        on_vfs = self._on_vfs(dpu)
        with ExitStack() as stack:
            yield [
                stack.enter_context(probes.flow(vf, other.ip(version), _BUSY))
                for stations in self.scene.segments.values()
                for vf in stations
                if vf.name in on_vfs
                for other in [each for each in stations if each != vf][:partners]
                for version in (4, 6)
            ]

    def _on_vfs(self, dpu: LabNode) -> set[str]:
        host = dpu.dpu.host if dpu.dpu else ""
        return {pod.name for pod in self.scene.runtime.pods() if pod.device and pod.node == host}

    def _entries(self, dpu: LabNode) -> list[Entry]:
        return nodes.entries(self.scene.paths.node(dpu.name))

    def _rows(self, dpu: LabNode) -> int:
        return sum(entry.placement == Placement.EMULATED for entry in self._entries(dpu))

    def _full(self) -> int:
        entries = self._entries(self.scene.topology.node(_DPU))
        return sum(entry.reason == Reason.TABLE_FULL for entry in entries)

    def _switched(self, dpu: LabNode) -> int:
        return sum(entry.counted[Placement.EMULATED] for entry in self._entries(dpu))

    def _tell(self, dpu: LabNode, *words: str) -> None:
        tell(dpus.control(self.scene.paths, dpu), *words)

    def _await(self, count: Callable[[], int], wanted: int, what: str) -> int:
        """Return the count once it is as wanted, or as it is by then, which is a fault."""
        until = time.monotonic() + _PLACED_S
        while (found := count()) < wanted and time.monotonic() < until:
            time.sleep(0.2)
        if found < wanted:
            self.faults.append(f"{found} {what}, not {wanted}")
        return found

    def _none_lost(self, echoes: list[Echo], when: str) -> None:
        lost = sum(echo.lost for echo in echoes)
        if lost:
            self.faults.append(f"{lost} packets were lost when entries {when}")

    def _note(self, segment: str, verdict: Verdict) -> None:
        """Keep the verdict; a segment looked at twice is as good as the worse of both."""
        earlier = self.verdicts.get(segment, verdict)
        self.faults += verdict.faults
        self.verdicts[segment] = min(earlier, verdict, key=lambda found: found.reachable)

    def _table(self) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 2), header_style="dim")
        columns = ("segment", "encap", "underlay", "pods", "MTU", "pairs", "lost", "round trip")
        for column in columns:
            table.add_column(column, justify="left" if column in columns[:3] else "right")
        for colour in COLOURS:
            table.add_row(*self._row(colour))
        return table

    def _row(self, colour: Colour) -> Iterator[str]:
        stations, verdict = self.scene.segments[colour.name], self.verdicts[colour.name]
        mark = "green" if verdict.reachable == verdict.pairs and not verdict.lost else "red"
        yield from (f"[bold]{colour.name}[/bold]", colour.encap, colour.underlay)
        yield str(len(stations))
        yield str(stations[0].mtu)
        yield f"[{mark}]{verdict.reachable}/{verdict.pairs}[/{mark}]"
        yield str(verdict.lost)
        yield f"{verdict.round_trip * 1000:.2f} ms"


def main() -> int:
    """Run the demo and return the exit status; leaves nothing unless KEEP=1.

    A first argument names the lab it makes, instead of "demo".
    """
    console = Console(highlight=False)
    paths = LabPaths(sys.argv[1] if len(sys.argv) > 1 else DEFAULT_NAME)
    demo = Demo(
        console, Scene(paths, read_topology(TOPOLOGY, "the demo's topology"), Runtime(paths))
    )
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
        _finish(demo)
    print(demo.last_line())
    return 0 if good else 1


def _finish(demo: Demo) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave half a lab
    for fault in demo.faults[:_SHOWN_FAULTS]:
        demo.console.print(f"  [red]{fault}[/red]", soft_wrap=True)
    if demo.faults and demo.is_up:  # a lab that did not come up has told where to look
        target = Path(tempfile.mkdtemp(prefix="overweave-demo-"))
        where = sysdump.collect(demo.scene.paths, demo.scene.topology, target)
        demo.console.print(f"logs, flows and maps: {where}", soft_wrap=True)
    if os.environ.get("KEEP") == "1":
        demo.console.print(_NEXT.format(name=demo.scene.paths.name))
    else:
        lab.down(demo.scene.paths, silent)


_NEXT = """\
The lab is up. Try:
  overweave status                           # is every agent ready, and if not, why
  overweave get endpoint                     # who is where, as the fabric knows it
  overweave get entry                        # by which path it is reached, and how often it was
  overweave ping --mesh                      # all pairs: loss and latency
  overweave lab exec --name {name} n1 -- ovs-vsctl show
  overweave lab exec --name {name} blue1 -- ping -c 3 10.1.15.2
  overweave lab down --name {name}"""


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


if __name__ == "__main__":
    sys.exit(main())
