"""``overweave bench offload``: how fast entries come into a DPU's switch, and leave a dead one.

The drivers are the product's, and so is what places entries; the switches are emulated, that of an
Octeon 10 by a real Open vSwitch. So these are figures of ours, of Open vSwitch, of the emulated
E2100 (e2100.py) and of the kernel's tc (sx904.py), and none of what a device forwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import Progress

from bench import e2100, switch_entries, sx904
from bench.figures import YARDSTICK, Figure, at_least, fingerprint, median
from bench.in_lab import progress, require_root, say, scratch_lab, steps
from bench.report import tell
from bench.switch_entries import all_placed, answers, expect
from dataplane.api.agent_pb2 import Entry
from dataplane.core.capability import Capability
from dataplane.core.desired import Desired
from dataplane.core.diff import Change, diff
from dataplane.core.offload import choose
from dataplane.core.placement import Placement
from dataplane.core.reasons import Reason
from dataplane.lab import dpus, lab, matrix, nodes, probes
from dataplane.lab.layout import LabPaths
from dataplane.lab.probes import Echo, Station
from dataplane.lab.runtime import Pod, Runtime
from dataplane.lab.topology import Topology, read_topology
from ovs_client import process
from ovs_client.ofctl import OpenFlowBridge
from vendors import registry
from vendors.emulator.control import tell as tell_switch
from vendors.intel.client import Server
from vendors.marvell.pipeline import is_ours
from vendors.registry import Driver, SwitchSettings

NAME = "offload"
MANY, REPLAYED = 10_000, 1_000
TOPOLOGY = f"""\
underlay: {{mtu: 1500}}
nodes:
- {{name: h1}}
- {{name: {switch_entries.NODE}, dpu: {{vendor: marvell, host: h1, vfs: 4}}}}
- {{name: n2}}
- {{name: {e2100.NODE}, dpu: {{vendor: intel, host: h1, vfs: 4}}}}
"""
_SEGMENT = "blue"
_SILENT = "quiet"  # the endpoint that a pin keeps in software
INTENT = f"""\
kind: Segment
name: {_SEGMENT}
vni: 2031
subnets: [10.31.0.0/20, 'fd00:31::/64']
---
kind: Pin
segment: {_SEGMENT}
endpoint: {_SILENT}/eth0
hardware: never
"""
_MS = 1000.0
_CONNECTED_S = 10.0
_PLACED_S = 30.0
_PACE_S = 0.002
_AFTER_S = 2.0  # from the fault on, how long packets are watched
_SAID_S = 10.0


@dataclass(frozen=True, slots=True)
class Outage:
    """What a pair noticed of a fault: packets without answer, and the longest silence."""

    lost: int
    silence_s: float

    @classmethod
    def of(cls, echo: Echo) -> Outage:
        """Return what is in ``echo``."""
        return cls(echo.lost, echo.longest_gap)


@dataclass(slots=True)
class Samples:
    """What was measured, a value of each round; times in seconds."""

    bundle: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    describe: list[float] = field(default_factory=list)
    render: list[float] = field(default_factory=list)
    look: list[float] = field(default_factory=list)
    withdraw: list[float] = field(default_factory=list)
    replay: list[float] = field(default_factory=list)
    decide: dict[str, list[float]] = field(default_factory=dict)
    placed: list[Outage] = field(default_factory=list)
    unplaced: list[Outage] = field(default_factory=list)
    said: dict[str, list[float]] = field(default_factory=dict)
    e2100: e2100.Samples = field(default_factory=e2100.Samples)
    sx904: sx904.Samples = field(default_factory=sx904.Samples)


def figures(samples: Samples) -> Iterator[Figure]:
    """Yield what is told and judged of ``samples``."""
    many = f"{MANY:,} entries"
    name = "entries through OpenFlow bundles"
    rates, bare = ([MANY / took for took in each] for each in (samples.bundle, samples.bare))
    yield median(f"{YARDSTICK}{name}", bare, "/s")
    yield at_least(median(name, rates, "/s"), 5000.0)
    yield median(f"render, {many}", samples.render, "s")
    yield median(f"look and compare, {many}", samples.look, "s")
    yield median(f"withdraw, {many}", samples.withdraw, "s")
    yield median(f"ask what it can do, {many}", samples.describe, "s")
    yield median(f"replay of {REPLAYED:,} entries after a reset", samples.replay, "s", 1.0)
    for name, took in samples.decide.items():
        each = [seconds * _MS for seconds in took]
        yield median(f"placement decision, {many}, {name}", each, "ms", 100.0)
    for begin, outages, aim in ((YARDSTICK, samples.unplaced, None), ("", samples.placed, 1.0)):
        name = f"{begin}switch dies and restarts"
        yield median(f"{name}, silence", [each.silence_s for each in outages], "s", aim)
        lost = [float(each.lost) for each in outages]
        yield median(f"{name}, packets lost", lost, "packets")
    for fault, took in samples.said.items():
        yield median(f"switch that is told to {fault}, said to be down", took, "s", 1.0)
    yield from e2100.figures(samples.e2100)
    yield from sx904.figures(samples.sx904)


@dataclass(slots=True)
class Run:
    """One run over one lab; ``samples`` are those taken so far."""

    paths: LabPaths
    topology: Topology
    rounds: int
    bars: Progress
    samples: Samples = field(default_factory=Samples)

    def measure(self) -> None:
        """Bring the lab up and take every sample. Raises OverweaveError."""
        say(self.bars, "an SX904's filters, in the kernel's tc")
        self.samples.sx904 = sx904.take(self.rounds)
        if why_not := self.samples.sx904.why_not:
            say(self.bars, f"none of an SX904: {why_not}")
        lab.build(self.paths, self.topology, partial(say, self.bars))
        self._e2100()  # first: of what the other leaves in memory Python walks through all
        with closing(self._driver()) as switch:
            self._program(switch)
            self._decide(switch.describe())
        lab.start_agents(self.paths, self.topology.agents)
        lab.apply(self.paths, INTENT)
        self._lose()

    # --- the drivers, and the decision ---

    def _e2100(self) -> None:
        half = self._half(e2100.NODE)
        with closing(registry.make(_settings(half, e2100.NODE))) as switch:
            there = process.wait_until(lambda: answers(switch), _CONNECTED_S)
            expect(e2100.NODE, there, "it does not answer")
            server = Server(half["switch"]["address"])
            run = e2100.Run(
                switch, server, self._reset_e2100, partial(steps, self.bars), self.samples.e2100
            )
            vteps = [address.ip for address in self.topology.node(e2100.NODE).addresses]
            run.measure(
                lambda count, scale: switch_entries.desired(
                    count, vteps, half["representors"], scale
                ),
                self.rounds,
            )

    def _reset_e2100(self) -> None:
        self._fault("reset", node=e2100.NODE)

    def _half(self, name: str) -> dict[str, Any]:
        (half,) = dpus.devices(self.paths, self.topology, self.topology.node(name))
        return half

    def _driver(self) -> Driver:
        half = self._half(switch_entries.NODE)
        # Past the channel that can be disturbed: it is a program in Python, and no device has one.
        half["switch"]["openflow"] = f"unix:{self._management}"
        switch = registry.make(_settings(half, switch_entries.NODE))
        if not process.wait_until(lambda: answers(switch), _CONNECTED_S):
            switch.describe()  # says why
        return switch

    def _program(self, switch: Driver) -> None:
        many, few = self._desired(MANY), self._desired(REPLAYED)
        for _ in steps(self.bars, "bundles", self.rounds):
            self._fill(switch, many)
            self._replay(switch, few)

    def _fill(self, switch: Driver, wanted: Desired) -> None:
        """Place all at once in a switch that holds little, and withdraw it."""
        bound = all_placed(wanted)
        ports = switch_entries.bindings(wanted, switch_entries.local_keys(wanted))
        switch.apply(diff(switch.render(wanted, ports), switch.observe()))
        began = time.monotonic()
        rendering = switch.render(wanted, bound)
        self.samples.render.append(time.monotonic() - began)
        change = diff(rendering, switch.observe())
        self.samples.bundle.append(_timed(lambda: switch.apply(change)))
        began = time.monotonic()
        left = diff(rendering, switch.observe())
        self.samples.look.append(time.monotonic() - began)
        _expect(not left and switch.counters().keys() == bound.placed, "it does not hold all")
        self.samples.describe.append(_timed(switch.describe))
        flows = [flow for flow in self._bridge.dump_flows() if is_ours(flow)]
        gone = Change(remove=switch.observe())
        self.samples.withdraw.append(_timed(lambda: switch.apply(gone)))
        self.samples.bare.append(_timed(lambda: self._bridge.apply_bundle(flows, ())))
        self._bridge.apply_bundle((), flows)

    @property
    def _bridge(self) -> OpenFlowBridge:
        """Return the switch itself, past its driver: the yardstick sends it the same flows."""
        return OpenFlowBridge(self._management)

    @property
    def _management(self) -> Path:
        node = self.topology.node(switch_entries.NODE)
        return dpus.directory(self.paths, node) / "ovs" / f"{dpus.BRIDGE}.mgmt"

    def _replay(self, switch: Driver, wanted: Desired) -> None:
        """Place, let the device lose it all, and bring it back as a worker does."""
        bound = all_placed(wanted)
        rendering = switch.render(wanted, bound)
        switch.apply(diff(rendering, switch.observe()))
        self._fault("reset")
        _expect(process.wait_until(lambda: answers(switch), _CONNECTED_S), "it does not come back")
        began = time.monotonic()
        change = diff(switch.render(wanted, bound), switch.observe())
        switch.apply(change)
        self.samples.replay.append(time.monotonic() - began)
        _expect(len(change) > REPLAYED, "it had not lost all")
        _expect(switch.counters().keys() == bound.placed, "it does not hold all again")
        switch.apply(Change(remove=switch.observe()))

    def _decide(self, capability: Capability) -> None:
        wanted = self._desired(MANY)
        ways, everything = switch_entries.next_hops(wanted), switch_entries.keys(wanted)
        for title, known in (
            ("room for all", capability),
            (f"room for {switch_entries.SMALL_TABLE:,}", switch_entries.small(capability)),
        ):
            view = switch_entries.busy(wanted, known)
            before = choose(wanted, view, ways, frozenset()).placed
            _expect((before == everything) == (known is capability), f"{len(before)} are placed")
            took = self.samples.decide.setdefault(title, [])
            for _ in steps(self.bars, f"decisions, {title}", self.rounds):
                began = time.thread_time()  # it waits for nothing but a processor
                choose(wanted, view, ways, before)
                took.append(time.thread_time() - began)

    def _desired(self, count: int) -> Desired:
        node = self.topology.node(switch_entries.NODE)
        vteps = [address.ip for address in node.addresses]
        return switch_entries.desired(count, vteps, [f"rep{number}" for number in range(4)])

    # --- a device that dies ---

    def _lose(self) -> None:
        """Have two pairs talk, one by the switch and one by software, while the switch fails."""
        runtime = Runtime(self.paths)
        device = dpus.device_id(self.topology, self.topology.node(switch_entries.NODE), 0)
        vf = runtime.add(Pod("vf", "h1", _SEGMENT, device=device))
        fast, slow = (runtime.add(Pod(name, "n2", _SEGMENT)) for name in ("loud", _SILENT))
        matrix.converge([vf, fast, slow])
        for _ in steps(self.bars, "dead switch", self.rounds):
            self._killed(vf, fast, slow)
        for fault in ("die", "hang"):
            for _ in steps(self.bars, f"switch told to {fault}", self.rounds):
                with probes.flow(vf, fast.ip(4), _PACE_S):
                    self._await_placed(vf, fast)
                self._said(fault, switch_entries.NODE, fault)
        for _ in steps(self.bars, "E2100 told to hang", self.rounds):
            self._said("hang", e2100.NODE, "hang, an E2100")

    def _killed(self, vf: Station, fast: Station, slow: Station) -> None:
        with (
            probes.flow(vf, fast.ip(4), _PACE_S) as by_switch,
            probes.flow(vf, slow.ip(4), _PACE_S) as by_software,
        ):
            self._await_placed(vf, fast)
            self._fault("kill")
            time.sleep(_AFTER_S)
        _expect(by_switch.lost > 0, "nothing was lost: the switch was not killed")
        self.samples.placed.append(Outage.of(by_switch))
        self.samples.unplaced.append(Outage.of(by_software))

    def _said(self, fault: str, node: str, title: str) -> None:
        """Take the time until the agent of ``node`` says that its switch is down."""
        up = process.wait_until(lambda: not self._is_down(node), _SAID_S)
        began = time.monotonic()
        self._fault(fault, node=node)
        down = process.wait_until(lambda: self._is_down(node), _SAID_S)
        self.samples.said.setdefault(title, []).append(time.monotonic() - began)
        self._fault("revive", node=node)
        _expect(up and down, f"{fault}: nobody has noticed within {_SAID_S:g} s")

    def _await_placed(self, *stations: Station) -> None:
        def placed() -> bool:
            return all(self._entry(each).placement == Placement.EMULATED for each in stations)

        _expect(process.wait_until(placed, _PLACED_S), "a busy pair is not placed")

    def _is_down(self, node: str) -> bool:
        """Say whether the agent says so; its entries are not asked for, for they ask the switch."""
        modes = nodes.modes(self.paths.node(node))
        return modes["switch"].startswith(Reason.DEVICE_DOWN)

    def _entry(self, station: Station) -> Entry:
        found = nodes.entries(self.paths.node(switch_entries.NODE))
        return next(entry for entry in found if entry.mac == station.mac)

    def _fault(self, *words: str, node: str = switch_entries.NODE) -> None:
        tell_switch(dpus.control(self.paths, self.topology.node(node)), *words)


def run(rounds: int, target: Path | None) -> None:
    """Take all figures, print them, and write them to ``target`` as JSON. Raises OverweaveError."""
    require_root()
    machine = fingerprint()
    paths, topology = LabPaths(NAME), read_topology(TOPOLOGY, "the bench topology")
    with scratch_lab(paths, topology), progress() as bars:
        taken = Run(paths, topology, rounds, bars)
        taken.measure()
    tell(machine, list(figures(taken.samples)), target)


def _settings(half: dict[str, Any], node: str) -> SwitchSettings:
    """Return what an agent's configuration says of the switch, as its driver is told."""
    return SwitchSettings(
        vendor=half["vendor"],
        node=node,
        representors=tuple(half["representors"]),
        values=half["switch"],
        emulated=half["emulated"],
    )


def _timed(action: Callable[[], object]) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began


def _expect(good: bool, fault: str) -> None:  # noqa: FBT001 - what is expected
    expect(switch_entries.NODE, good, fault)
