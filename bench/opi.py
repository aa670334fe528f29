"""``overweave bench opi``: a DPU's ports as an OPI client makes them, and DPUs as one pool.

Agents, client and database are real; the switches are emulated, that of the DPU whose ports are
timed by a real Open vSwitch. Its entries are told by that switch itself, to its flow monitor.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.progress import Progress

from bench import one_agent, pool
from bench.figures import YARDSTICK, Figure, fingerprint, median, tail
from bench.in_lab import progress, require_root, say, scratch_lab, steps
from bench.news import FlowMonitor, flow_monitor
from bench.opi_node import (
    OpiClient,
    Published,
    add_representors,
    identity,
    port_mac,
    serve_opi,
)
from bench.report import tell
from dataplane.lab import dpus, lab
from dataplane.lab.layout import LabPaths
from dataplane.lab.topology import Topology, read_topology

NAME = "opi"
_DPU, _MANY, _REFERENCE = "d1", "d2", "n2"
_VFS = 16
_HUNDRED = 100
_FIRST_OF_MANY = 1 << 15  # of their MACs
_SEGMENT = "blue"
TOPOLOGY = f"""\
# The reference's node is one whose agent has nothing to do.
underlay: {{mtu: 1500}}
nodes:
- {{name: {pool.HOST}}}
- {{name: {_DPU}, dpu: {{vendor: marvell, host: {pool.HOST}, vfs: {_VFS}}}}}
- {{name: {_MANY}, dpu: {{vendor: intel, host: {pool.HOST}, vfs: 1}}}}
- {{name: {_REFERENCE}}}
"""
INTENT = f"kind: Segment\nname: {_SEGMENT}\nvni: 2041\nsubnets: [10.41.0.0/20]\n" + "".join(
    f"---\nkind: Pin\nsegment: {_SEGMENT}\nendpoint: {identity(_DPU, vf)}\nhardware: always\n"
    for vf in range(_VFS)
)
_MS = 1000.0


@dataclass(slots=True)
class Samples:
    """What was measured, in seconds but for ``memory_mb``; ``all_ports`` are in order."""

    create: list[float] = field(default_factory=list)
    placed: list[float] = field(default_factory=list)
    delete: list[float] = field(default_factory=list)
    published: list[float] = field(default_factory=list)
    all_ports: list[float] = field(default_factory=list)
    all_took_s: float = 0.0
    memory_mb: float = 0.0
    pool: pool.Samples = field(default_factory=pool.Samples)


def figures(samples: Samples) -> Iterator[Figure]:
    """Yield what is told and judged of ``samples``."""
    create, placed, delete, published = (
        [each * _MS for each in took]
        for took in (samples.create, samples.placed, samples.delete, samples.published)
    )
    name = "CreateBridgePort p50"
    yield median(f"{YARDSTICK}{name}", published, "ms")
    yield median(name, create, "ms")
    yield tail(f"{YARDSTICK}CreateBridgePort p99", published, "ms")
    yield tail("CreateBridgePort p99", create, "ms")
    name = "CreateBridgePort and its entry in the switch"
    yield median(f"{name} p50", placed, "ms", 15.0)
    yield tail(f"{name} p99", placed, "ms")
    yield median("DeleteBridgePort p50", delete, "ms")
    yield tail("DeleteBridgePort p99", delete, "ms")
    yield from _many(samples)
    yield from pool.figures(samples.pool)


def _many(samples: Samples) -> Iterator[Figure]:
    many = samples.all_ports
    title = f"{len(many):,} ports on one agent"
    yield Figure(f"{title}, one after another", samples.all_took_s, "s")
    some = max(1, min(_HUNDRED, len(many) // 2))
    first, last = ([each * _MS for each in part] for part in (many[:some], many[-some:]))
    yield median(f"{title}, p50 of the first {some}", first, "ms")
    yield median(f"{title}, p50 of the last {some}", last, "ms")
    yield Figure(f"{title}, memory", samples.memory_mb, "MB")


@dataclass(slots=True)
class Run:
    """One run over one lab; ``samples`` are those taken so far."""

    paths: LabPaths
    topology: Topology
    rounds: int
    ports: int
    bars: Progress
    samples: Samples = field(default_factory=Samples)

    def measure(self) -> None:
        """Bring the lab up and take every sample. Raises OverweaveError."""
        lab.build(self.paths, self.topology, partial(say, self.bars))
        for name in (_DPU, _MANY):
            serve_opi(self.paths.node(name), _SEGMENT)
        add_representors(self.paths.node(_MANY), self.ports)
        machine = pool.plug_later(self.paths)
        lab.start_agents(self.paths, self.topology.agents)
        lab.apply(self.paths, INTENT)
        self._one_at_a_time()
        pool.Run(self.paths, _DPU, machine, partial(steps, self.bars), self.samples.pool).measure(
            self.rounds
        )
        self._all_ports()

    # --- one port more, among others ---

    def _one_at_a_time(self) -> None:
        """Make and delete a port behind each VF but one, in turns with the published plugins' way.

        The last VF's port stays: the segment is known there, as on a DPU at work.
        """
        node = self.paths.node(_DPU)
        switch = dpus.directory(self.paths, self.topology.node(_DPU)) / "ovs"
        reference = Published(self.paths.node(_REFERENCE), _VFS)
        reference.prepare()
        with (
            OpiClient(node) as client,
            flow_monitor(switch / f"{dpus.BRIDGE}.mgmt", node) as monitor,
        ):
            client.create(_VFS - 1, port_mac(0), _SEGMENT)
            for number in steps(self.bars, "ports, one at a time", self.rounds):
                for vf in range(_VFS - 1):
                    mac = port_mac(1 + number * _VFS + vf)
                    if (number + vf) % 2:
                        self._in_turn(client, monitor, vf, mac)
                        self.samples.published.append(reference.add(vf))
                    else:
                        self.samples.published.append(reference.add(vf))
                        self._in_turn(client, monitor, vf, mac)
                    reference.remove(vf)

    def _in_turn(self, client: OpiClient, monitor: FlowMonitor, vf: int, mac: str) -> None:
        began = time.monotonic()
        client.create(vf, mac, _SEGMENT)
        answered = time.monotonic()
        entered = monitor.arrival(mac)
        self.samples.create.append(answered - began)
        self.samples.placed.append(max(answered, entered) - began)
        began = time.monotonic()
        client.delete(vf)
        self.samples.delete.append(time.monotonic() - began)

    # --- many ports ---

    def _all_ports(self) -> None:
        node = self.paths.node(_MANY)
        with OpiClient(node) as client:
            began = time.monotonic()
            for number in steps(self.bars, f"{self.ports:,} ports", self.ports):
                started = time.monotonic()
                client.create(number, port_mac(_FIRST_OF_MANY + number), _SEGMENT)
                self.samples.all_ports.append(time.monotonic() - started)
            self.samples.all_took_s = time.monotonic() - began
            self.samples.memory_mb = one_agent.resident_mb(node)


def run(rounds: int, ports: int, target: Path | None) -> None:
    """Take all figures, print them, and write them to ``target`` as JSON. Raises OverweaveError."""
    require_root()
    machine = fingerprint()
    paths, topology = LabPaths(NAME), read_topology(TOPOLOGY, "the bench topology")
    with scratch_lab(paths, topology), progress() as bars:
        taken = Run(paths, topology, rounds, ports, bars)
        taken.measure()
    tell(machine, list(figures(taken.samples)), target)
