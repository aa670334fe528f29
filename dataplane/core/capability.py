"""What a DPU's switch can do, as data: its driver fills it in, placement reads it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from dataplane.core.model import Encap, Family, Guard


class Part(StrEnum):
    """What an entry of the overlay is made of in a switch; entries of one segment share parts.

    Where tables follow each other, a port and an endpoint have a row each. Where there is one
    alone, there is a row for every pair of them: ways and arrivals.
    """

    PORT = "port"  # a port of the switch on its segment, with what its guard checks
    ADDRESS = "address"  # an address that such a port may send from
    LOCAL = "local"  # frames for the endpoint behind such a port
    MEMBER = "member"  # tunnel packets of one VTEP and VNI
    REMOTE = "remote"  # frames for an endpoint behind a VTEP
    WAY = "way"  # frames of one address, or IP version, of such a port for one endpoint
    ARRIVAL = "arrival"  # tunnel packets of one VTEP and VNI for one such port


class Departure(StrEnum):
    """What a device says that it cannot do, so that it forwards what Open vSwitch would not so.

    None of them has a frame go where it is not addressed to, and no address or MAC that a guard
    asks for is left uncompared: with LENGTHS, malformed packets pass that have them.
    """

    ND_ANSWERS = "answer an ND solicitation that is sent to one: who is asked gets it"
    FRAME_SIZE = "see that a frame is too large for the underlay: it leaves all the same"
    LENGTHS = "see that a packet says it is longer than its frame: it leaves all the same"
    OUTER_ECN = "tell the frame inside what congestion its tunnel packet has met"
    OUTER_TARGET = "compare the address that a tunnel packet is for: others' are taken in"


class Use(StrEnum):
    """What a device is used for; the last four are those of Encap and Family, of its tunnels."""

    DISCOVERY = "discovery"  # the machine that has it tells of it
    DEVICE = "device"  # it is there, and asked
    PORTS = "ports"  # pods are behind its ports
    ENTRIES = "entries"  # what such pods send may be forwarded by its tables
    TUNNELS = "tunnels"  # to and from other nodes, too
    GENEVE = "geneve"
    VXLAN = "vxlan"
    IPV4 = "ipv4"
    IPV6 = "ipv6"


@dataclass(frozen=True, slots=True)
class Assumption:
    """What no document says of a device; what is used so rests on ``statement``."""

    name: str
    use: Use
    statement: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the switch; ``used`` rows of ``capacity`` are taken, ``foreign`` of them not ours.

    ``rows`` says how many of its rows each part of an entry takes.
    """

    name: str
    capacity: int
    used: int = 0
    foreign: int = 0
    rows: Mapping[Part, int] = field(default_factory=dict)

    @property
    def room(self) -> int:
        """Return how many rows entries of ours may take in all."""
        return max(0, self.capacity - self.foreign)


@dataclass(frozen=True, slots=True)
class Capability:
    """What one switch can do, as it says itself.

    ``tunnels`` are the encapsulations with the outer families it writes and strips. ``guards`` are
    those it enforces, by the AccessPort (representor) of each of its ports. ``cannot_set`` names
    (core.agreement.Field) what it writes otherwise than the other paths do, ``departures`` what it
    cannot do, ``limits`` what else to know, in the vendor's words. ``obstacle`` says why nothing
    can be placed at all, empty: it can; ``forwards``: what it holds forwards all the same.
    ``offloads``: it says itself that what it forwards by its tables is forwarded in hardware.
    ``counts``: it says how much each entry has forwarded.
    ``rows`` of ours it holds now in all, those among them that no entry counts as its own, and
    ports and routes that they rely on.
    ``assumptions`` are what is taken to be so on all devices of its kind (core/assumptions says
    which of them are in use). ``emulated`` devices prove nothing about speed.
    """

    vendor: str
    product: str
    tunnels: frozenset[tuple[Encap, Family]] = frozenset()
    guards: Mapping[str, frozenset[Guard]] = field(default_factory=dict)
    tables: tuple[Table, ...] = ()
    cannot_set: frozenset[str] = frozenset()
    departures: frozenset[Departure] = frozenset()
    limits: tuple[str, ...] = ()
    assumptions: tuple[Assumption, ...] = ()
    obstacle: str = ""
    forwards: bool = True
    offloads: bool = False
    counts: bool = True
    emulated: bool = False
    rows: int = 0

    @property
    def lasting(self) -> Capability:
        """Return it without what changes with the traffic: rows in use, and words on that."""
        tables = tuple(replace(table, used=0) for table in self.tables)
        return replace(self, tables=tables, limits=(), rows=0)
