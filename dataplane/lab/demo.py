"""The main job, to watch: pods on hosts, behind a DPU and on it, over four kinds of tunnel."""

from __future__ import annotations

import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
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
from dataplane.lab.topology import read_topology
from vendors.emulator.control import tell

DEFAULT_NAME = "demo"
_SHOWN_FAULTS = 8
_MOVE_TO = "n3"
TOPOLOGY = """\
# Three plain hosts, and two with a DPU.
nodes:
- {name: n1}
- {name: n2}
- {name: n3}
- {name: h1}
- {name: d1, dpu: {vendor: marvell, host: h1, vfs: 4}}
- {name: h2}
- {name: d2, dpu: {vendor: intel, host: h2, vfs: 4}}
"""
_DPU = "d1"
_IPU = "d2"  # its switch checks no sender, so that guarded entries stay out of it
_FORWARD_TABLE = "30"  # of the Marvell driver's pipeline
_SMALL_TABLE = 10  # rows
_BUSY = 0.02  # seconds between pings: 50 a second deserve a row of the switch
_PLACED_S = 15.0
_KILLED_S = 5.0  # five times the second within which a dead switch's traffic is in software


@dataclass(slots=True)
class Demo:
    """One run: what it made so far, and what it found wrong."""

    console: Console
    scene: Scene
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    is_up: bool = False

    def run(self) -> bool:
        """Show everything; return whether all of it was as it should be."""
        began = time.monotonic()
        self.console.print("[bold]Overweave[/bold]: one L2 network over five hosts and two DPUs\n")
        self._step("lab", self._up)
        self._step("segments", self._apply)
        self._step("pods", self._attach)
        self._step("pairs", self._verify)
        self.console.print(self._table(), "")
        self._step("isolation", self._isolate)
        self._step("move", self._move)
        self._step("switch", self._switch)
        self._step("killed", self._kill)
        self._step("full", self._fill)
        self._step("unguarded", self._unguard)
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
        self.console.print(f"  [cyan]{name:<9}[/cyan] {said:<59} [dim]{took:5.1f} s[/dim]")

    def _up(self) -> str:
        self.scene.up()
        self.is_up = True
        mtu = self.scene.topology.mtu
        return f"{len(self.scene.topology.agents)} nodes with Open vSwitch and agent, MTU {mtu}"

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
        before = self.scene.station(MOVER.name)
        watcher = self.scene.segments[MOVER.segment][0]
        with probes.flow(watcher, before.ip(4), interval=0.01) as echo:
            time.sleep(0.2)
            after = self.scene.move(MOVER, _MOVE_TO)
            time.sleep(0.5)
        if (after.mac, after.ips) != (before.mac, before.ips):
            self.faults.append(f"moved with another MAC or address: {before} became {after}")
        matrix.converge(self.scene.segments[MOVER.segment])
        self._note(MOVER.segment, matrix.verify(self.scene.segments[MOVER.segment]))
        gap = echo.longest_gap * 1000
        return f"{MOVER.name} {MOVER.node} to {_MOVE_TO} with MAC and IPs, {gap:.0f} ms unheard"

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

    def _switch(self) -> str:
        """Have pods on VFs talk until the DPU's switch does it for them, and count there."""
        with self._talks(_DPU, 1) as echoes:
            rows = self._await(self._rows, 2 * len(COLOURS), "rows in the switch")
            before = self._switched()
            time.sleep(1)
            moved = self._switched() - before
        self._none_lost(echoes, "went into the switch")
        return f"{rows} rows on {_DPU} (emulated), {moved:,} packets/s by its own count"

    def _fill(self) -> str:
        """Leave the switch less room than there are conversations."""
        self._tell("table-full", _FORWARD_TABLE, str(_SMALL_TABLE))
        self._tell("reset")  # what it held is refused now, too
        time.sleep(1)
        with self._talks(_DPU, 4) as echoes:
            full = self._await(self._full, 1, "entries that found the table full")
            time.sleep(1)
            full, rows = self._full(), self._rows()
        self._tell("clear")
        self._none_lost(echoes, "found the table full")
        lost = sum(echo.lost for echo in echoes)
        return (
            f"table of {_SMALL_TABLE}: {rows} entries in, {full} in software, {lost} packets lost"
        )

    def _kill(self) -> str:
        """Kill the switch under traffic: what it was asked for meanwhile is lost, no more."""
        with self._talks(_DPU, 1) as echoes:
            self._await(self._rows, 2 * len(COLOURS), "rows in the switch")
            self._tell("kill")
            time.sleep(2)
        gap = max(echo.longest_gap for echo in echoes)
        if gap > _KILLED_S:
            self.faults.append(f"the switch was killed: silence of {gap:.2f} s")
        lost = sum(echo.lost for echo in echoes)
        return f"switch under traffic: {lost} packets lost, {gap * 1000:.0f} ms to software"

    def _unguard(self) -> str:
        """Have the other DPU's switch take a segment whose senders nobody has checked."""
        last = COLOURS[-1]
        with self._talks(_IPU, 1) as echoes:
            wait = 2 * len(COLOURS)
            self._await(lambda: self._for(Reason.UNSUPPORTED_GUARD, _IPU), wait, "guarded entries")
            lab.apply(self.scene.paths, last.document + 'guard: "off"\n')
            rows = self._await(lambda: self._rows(_IPU), 2, "rows in the switch")
            guarded = self._for(Reason.UNSUPPORTED_GUARD, _IPU)
        self._none_lost(echoes, f"of {last.name} went into the switch")
        return f"{rows} rows of {last.name} on {_IPU} (emulated), {guarded} guarded, in software"

    @contextmanager
    def _talks(self, dpu: str, partners: int) -> Iterator[list[Echo]]:
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

    def _on_vfs(self, dpu: str) -> set[str]:
        found = self.scene.topology.node(dpu).dpu
        host = found.host if found else ""
        return {pod.name for pod in self.scene.runtime.pods() if pod.device and pod.node == host}

    def _entries(self, dpu: str = _DPU) -> list[Entry]:
        return nodes.entries(self.scene.paths.node(dpu))

    def _rows(self, dpu: str = _DPU) -> int:
        return sum(entry.placement == Placement.EMULATED for entry in self._entries(dpu))

    def _for(self, reason: Reason, dpu: str = _DPU) -> int:
        """Return how many entries are not in the switch for this reason."""
        return sum(entry.reason == reason for entry in self._entries(dpu))

    def _full(self) -> int:
        return self._for(Reason.TABLE_FULL)

    def _switched(self) -> int:
        return sum(entry.counted[Placement.EMULATED] for entry in self._entries())

    def _tell(self, *words: str) -> None:
        dpu = self.scene.topology.node(_DPU)
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
