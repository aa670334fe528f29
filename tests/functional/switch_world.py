"""The switches that the contract is proven on: each a device, and what a test does to it by hand.

A vendor joins with a World of its own and one entry in WORLDS (and in FORWARDING, if it forwards).
Whatever a World does goes past the driver, with other tools.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from dataplane.core.desired import Bindings, Desired, SegmentView
from dataplane.core.diff import Change, diff
from dataplane.core.model import EntryKey, Guard, IpAddress, Mac
from tests.functional import intel_device, senao_device
from tests.functional.marvell_device import BRIDGE, Device, running_device
from tests.unit.overlay_builders import NIC, VTEP4, VTEP6
from vendors.intel.driver import IntelSwitch
from vendors.marvell.driver import MarvellSwitch
from vendors.marvell.pipeline import PIPELINE
from vendors.noop import NoSwitch
from vendors.registry import Driver

NEXT_HOPS: Mapping[IpAddress, Mac] = {
    vtep: Mac(f"02:00:00:00:bb:{number:02x}") for number, vtep in enumerate((*VTEP4, *VTEP6))
}
UP, CPU = "up", "cpu0"
Answer = dict[str, list[bytes]]


class World(Protocol):
    """A device. VFs are vf0.., their representors rep0.., the wire is up, the DPU's CPU cpu0."""

    full_words: str
    """What the device itself says when a table is full."""
    guard: Guard
    """The strictest that it enforces: OFF, and segments of the suite have none."""
    counts_arrivals: bool
    """Whether it counts by endpoint what comes in from the wire."""
    takes_any_source: bool
    """Whether it forwards frames from MACs that nobody has, where the guard is off."""
    left: frozenset[str]
    """What it leaves to the software though the guard allows it, by name."""
    says_room: bool
    """Whether it says how many rows its tables take."""
    unseen: frozenset[str]
    """What it forwards by its tables though the suite would leave it to the software, by name."""

    def driver(self) -> Driver:
        """Return a driver of the device that is connected to it."""
        ...

    def others(self) -> object:
        """Return all that is in the device and not the driver's."""
        ...

    def leftovers(self) -> object:
        """Return what of the driver's is in the device, found by hand; false: nothing."""
        ...

    def refresh(self) -> None:
        """Return once frames and counters follow what was changed last."""
        ...


class ForwardingWorld(World, Protocol):
    """A device with tables."""

    def ask(self, port: str, frame: bytes) -> Answer:
        """Return what comes out of which ports when ``frame`` comes in at ``port``."""
        ...

    def limit(self, table: str, rows: int) -> None:
        """Let a table of the device hold no more than ``rows`` rows in all."""
        ...

    def unlimit(self) -> None:
        """Let all tables be as large as they were."""
        ...

    def losses(self) -> Mapping[str, Callable[[], None]]:
        """Return in which ways the device may lose what was placed, by name."""
        ...

    def taken(self) -> AbstractContextManager[str]:
        """Let somebody else have programmed it; provide a word of the obstacle to be told."""
        ...

    def shared(self, table: str) -> AbstractContextManager[None]:
        """Let a row of somebody else, that is in nobody's way, stand in a table."""
        ...

    def hung(self) -> AbstractContextManager[None]:
        """Let it not answer."""
        ...


class NoWorld:
    """A plain host."""

    full_words = ""
    guard = Guard.IP
    counts_arrivals = True
    takes_any_source = True
    left = frozenset[str]()
    says_room = True
    unseen = frozenset[str]()

    def driver(self) -> Driver:
        return NoSwitch()

    def others(self) -> object:
        return None

    def leftovers(self) -> object:
        return None

    def refresh(self) -> None:
        """Do nothing."""


class MarvellWorld:
    """A real Open vSwitch furnished as that of an Octeon 10."""

    full_words = "OFPFMFC_TABLE_FULL"
    guard = Guard.IP
    counts_arrivals = True
    takes_any_source = True
    left = frozenset[str]()
    says_room = True
    unseen = frozenset[str]()

    def __init__(self, device: Device) -> None:
        self.device = device

    def driver(self) -> Driver:
        made = MarvellSwitch(self.device.place, "node-a", time.monotonic, emulated=True)
        made._vswitch.wait_connected(5)
        return made

    def others(self) -> object:
        ports = self.device.configure("list-ports", BRIDGE).split()
        owned = self.device.configure("get", "bridge", BRIDGE, "external_ids", "controller")
        return self.device.others(), [p for p in ports if not p.startswith("mrv-")], owned

    def leftovers(self) -> object:
        flows = [line for line in self.device.dumped().splitlines() if "cookie=0x4d56" in line]
        ports = self.device.configure("list-ports", BRIDGE).split()
        routes = self.device.control("ovs/route/show").splitlines()
        return [
            *flows,
            *(port for port in ports if port.startswith("mrv-")),
            *(route for route in routes if route.startswith("User:")),
        ]

    def refresh(self) -> None:
        self.device.control("revalidator/purge")  # its cache goes, its counts are told

    def ask(self, port: str, frame: bytes) -> Answer:
        return self.device.ask(port, frame)

    def limit(self, table: str, rows: int) -> None:
        number = next(each.number for each in PIPELINE if each.name == table)
        self.device.limit(number, rows)

    def unlimit(self) -> None:
        self.device.configure("clear", "bridge", BRIDGE, "flow_tables")

    def losses(self) -> Mapping[str, Callable[[], None]]:
        device = self.device
        return {
            "all flows": self._lose_flows,
            "a tunnel port": lambda: _quietly(
                device.configure, *(f"--if-exists del-port {BRIDGE} mrv-geneve".split())
            ),
            "the routes": self._lose_routes,
            "the neighbours": lambda: _quietly(device.control, "tnl/arp/flush"),
            "a restart": self._restart,
        }

    @contextmanager
    def taken(self) -> Iterator[str]:
        self.device.add("priority=65535,actions=NORMAL")  # as Marvell's own plugin leaves it
        try:
            yield "NORMAL"
        finally:
            self.device.openflow("del-flows", BRIDGE, "--strict", "priority=65535")

    @contextmanager
    def shared(self, table: str) -> Iterator[None]:
        number = next(each.number for each in PIPELINE if each.name == table)
        match = f"table={number},priority=1,in_port={CPU},dl_type=0x88b5"
        self.device.add(f"{match},actions=drop")
        try:
            yield
        finally:
            self.device.openflow("del-flows", BRIDGE, "--strict", match)

    @contextmanager
    def hung(self) -> Iterator[None]:
        pid = self.device.ovs.place.pid("ovs-vswitchd")
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def _lose_flows(self) -> None:
        self.device.openflow("del-flows", BRIDGE)
        self.device.add_misses()

    def _lose_routes(self) -> None:
        for line in self.device.control("ovs/route/show").splitlines():
            words = line.split()
            if words[0] == "User:" and "MARK" in words:
                mark = words[words.index("MARK") + 1]
                self.device.control("ovs/route/del", words[1], f"pkt_mark={mark}")

    def _restart(self) -> None:
        self.device.restart()


_ND = {"ND to one", "NA", "NA behind a header", "NA in a fragment", "a fragment of its own"}


class IntelWorld:
    """An emulated Intel IPU E2100."""

    full_words = "RESOURCE_EXHAUSTED"
    guard = Guard.OFF
    counts_arrivals = False  # pipeline.md, 8
    takes_any_source = False  # 4: l2_fwd_smac_table
    left = frozenset[str]()
    says_room = True
    # 6: no look at the size; 3: at ARP alone, and VLAN 0 is none
    unseen = frozenset({"too large", "IPv4 behind a tag", *_ND})

    def __init__(self, device: intel_device.Device) -> None:
        self.device = device
        self._others = device.rows()  # what its plugin has written

    def driver(self) -> Driver:
        server, wiring = self.device.server, intel_device.WIRING
        return IntelSwitch(server, wiring, time.time_ns(), emulated=True)

    def others(self) -> object:
        return self.device.rows() & self._others

    def leftovers(self) -> object:
        return self.device.rows() - self._others

    def refresh(self) -> None:
        """Do nothing: it tells its counts as they are."""

    def ask(self, port: str, frame: bytes) -> Answer:
        return self.device.ask(port, frame)

    def limit(self, table: str, rows: int) -> None:
        self.device.tell("table-full", table, str(rows))

    def unlimit(self) -> None:
        self.device.tell("clear")

    def losses(self) -> Mapping[str, Callable[[], None]]:
        device = self.device
        return {
            "all rows": lambda: _quietly(device.tell, "reset"),
            "one row": lambda: _quietly(device.tell, "lose-one"),
            "a restart": lambda: _quietly(device.tell, "kill"),
        }

    @contextmanager
    def taken(self) -> Iterator[str]:
        self.device.tell("take")
        try:
            yield "ipv4_tunnel_term_table"
        finally:
            self.device.tell("clear")

    @contextmanager
    def shared(self, table: str) -> Iterator[None]:
        assert table == "l2_fwd_smac_table"
        match = {"hdrs.mac[vmeta.common.depth].sa": 9, "user_meta.pmeta.bridge_id": 5}
        with self.device.standing(self.device.row(table, match, "NoAction", {})):
            yield

    @contextmanager
    def hung(self) -> Iterator[None]:
        self.device.tell("hang")
        try:
            yield
        finally:
            self.device.tell("clear")


class SenaoWorld:
    """An emulated Senao SX904."""

    full_words = "No space left on device"
    guard = Guard.IP
    counts_arrivals = True
    takes_any_source = True
    says_room = False  # pipeline.md, 7
    # pipeline.md, 5: no look at the size; 6: nor at what is a fragment, which is no ND below 255
    unseen = frozenset({"too large", "a fragment of its own"})
    left = frozenset({"no IP"})  # 3: an ethertype to each filter

    def __init__(self, device: senao_device.Device) -> None:
        self.device = device
        device.furnish({str(vtep): mac for vtep, mac in NEXT_HOPS.items()})

    def driver(self) -> Driver:
        return self.device.driver()

    def others(self) -> object:
        return self.device.filters(ours=False)

    def leftovers(self) -> object:
        return self.device.filters(ours=True)

    def refresh(self) -> None:
        """Do nothing: it tells its counts as they are."""

    def ask(self, port: str, frame: bytes) -> Answer:
        return self.device.ask(port, frame)

    def limit(self, table: str, rows: int) -> None:
        self.device.tell("table-full", table, str(rows))

    def unlimit(self) -> None:
        self.device.tell("clear")

    def losses(self) -> Mapping[str, Callable[[], None]]:
        device = self.device
        return {
            "all filters": lambda: _quietly(device.tell, "reset"),
            "one filter": lambda: _quietly(device.tell, "lose-one"),
            "a restart": lambda: _quietly(device.tell, "kill"),
        }

    @contextmanager
    def taken(self) -> Iterator[str]:
        self.device.tell("take")
        try:
            yield "rep0 is programmed by others"
        finally:
            self.device.tell("clear")

    @contextmanager
    def shared(self, table: str) -> Iterator[None]:
        assert table == "filters"
        with self.device.standing("rep2"):
            yield

    @contextmanager
    def hung(self) -> Iterator[None]:
        self.device.tell("hang")
        try:
            yield
        finally:
            self.device.tell("clear")


def _quietly(call: Callable[..., object], *words: str) -> None:
    call(*words)


@contextmanager
def _no_world(_directory: Path) -> Iterator[World]:
    yield NoWorld()


@contextmanager
def _marvell(directory: Path) -> Iterator[ForwardingWorld]:
    with running_device(directory) as device:
        yield MarvellWorld(device)


@contextmanager
def _intel(directory: Path) -> Iterator[ForwardingWorld]:
    with intel_device.running_device(directory) as device:
        yield IntelWorld(device)


@contextmanager
def _senao(directory: Path) -> Iterator[ForwardingWorld]:
    with senao_device.running_device(directory) as device:
        yield SenaoWorld(device)


FORWARDING: Mapping[str, Callable[[Path], AbstractContextManager[ForwardingWorld]]] = {
    "intel": _intel,
    "marvell": _marvell,
    "senao": _senao,
}
WORLDS: Mapping[str, Callable[[Path], AbstractContextManager[World]]] = {
    "noop": _no_world,
    **FORWARDING,
}


class Stage:
    """A driver, and what has been asked of it."""

    def __init__(self, world: World, *, eased: bool = True) -> None:
        """Have segments with no stricter guard than the device enforces, unless not ``eased``."""
        self.switch = world.driver()
        self._world = world
        self._is_eased = eased and world.guard is not Guard.IP
        self._others = world.others()

    def change(self, wanted: Desired, bound: Bindings) -> Change:
        """Return what is to be done."""
        return diff(self.switch.render(self.suited(wanted), bound), self.switch.observe())

    def suited(self, wanted: Desired) -> Desired:
        """Return ``wanted`` with guards no stricter than what the device enforces."""
        if not self._is_eased:
            return wanted
        return replace(wanted, segments={n: _eased(v) for n, v in wanted.segments.items()})

    def place(self, wanted: Desired, placed: frozenset[EntryKey] | None = None) -> Bindings:
        """Have all entries placed, or only ``placed``, as the agent would."""
        bound = Bindings(NIC, next_hops=NEXT_HOPS, placed=entries(wanted))
        if placed is not None:
            bound = Bindings(NIC, next_hops=NEXT_HOPS, placed=placed)
        self.repair(wanted, bound)
        return bound

    def repair(self, wanted: Desired, bound: Bindings) -> None:
        """Do what is to be done, and see that then there is nothing left to do."""
        if change := self.change(wanted, bound):
            self.switch.apply(change)
        assert not self.change(wanted, bound)
        self._world.refresh()

    def strike(self) -> None:
        """Take everything out; nothing may be left, nor anything of others be touched."""
        change = Change(remove=self.switch.observe())
        if change:
            self.switch.apply(change)
        assert not self.switch.observe()
        assert not self._world.leftovers()
        assert self._world.others() == self._others
        self._world.refresh()


def _eased(view: SegmentView) -> SegmentView:
    """Return a segment whose senders nobody checks."""
    segment = replace(view.segment, guard=Guard.OFF)
    ports = tuple(replace(port, segment=segment) for port in view.ports)
    return replace(view, segment=segment, ports=ports)


def entries(wanted: Desired) -> frozenset[EntryKey]:
    """Return the keys of all entries."""
    views = wanted.segments.values()
    local = {EntryKey(v.segment.vni, p.attachment.mac) for v in views for p in v.ports}
    remote = {EntryKey(v.segment.vni, r.endpoint.mac) for v in views for r in v.remotes}
    return frozenset(local | remote)


def unmasked(frame: bytes) -> bytes:
    """Return a tunnel packet without what may differ: source port, IP id, checksums, label, MACs.

    TTL and DF differ too where a device writes a miss anew.
    """
    packet = Ether(frame)
    outer = packet.payload
    if not isinstance(outer, IP | IPv6) or UDP not in outer:
        return frame
    outer[UDP].sport = outer[UDP].chksum = 0
    if isinstance(outer, IP):
        outer.id = outer.chksum = outer.flags = outer.ttl = 0
    else:
        outer.fl = outer.hlim = 0
    packet.src = packet.dst = "02:00:00:00:00:00"
    return bytes(packet)
