"""The tables that entries take in the DPU's bridge, as data, and what stands in them. Pure.

A frame of a VF walks classify, guard and forward; a tunnel packet of a known VTEP is decapsulated
by Open vSwitch's own tunnels and walks classify, tunnel and forward. What finds nothing goes to
miss: to the representor as it came, or encapsulated again to the CPU. What tunnels write comes
back from the bridge's own port and goes by wire. Registers: reg0 the VNI; reg2 is 1 for a frame
from a tunnel; reg3 is 1 for a frame that the underlay could not carry once it is encapsulated.
Ports are called by name here: their numbers are the device's and change with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache

from dataplane.core.capability import Part
from dataplane.core.model import Encap, EntryKey, IpAddress
from ovs_client.ofctl import Flow, FlowKey, canonical_match
from ovs_client.vswitch import Port

OWNER = 0x4D56  # "MV" in ASCII: whose flow it is
MARK_OUT = OWNER << 16 | 1  # packet marks: what our tunnels write, and by which way it leaves
MARK_BACK = OWNER << 16 | 2
GATEWAY_MAC = "02:00:00:00:77:02"  # what OVS writes; `wire` replaces it
FABRIC_SCOPE = 0  # no segment has VNI 0: held while any segment's view is incomplete
TUNNEL_PORTS: Mapping[Encap, str] = {Encap.GENEVE: "mrv-geneve", Encap.VXLAN: "mrv-vxlan"}
LOCAL_MAC = "@local"  # stands for the MAC of the bridge's own port

_PORT = re.compile(r"(?<=in_port=)[^,]+|(?<=output:)[^,]+")
_IN_PORT = "in_port="
_TEXTS = 1024  # different ones of many flows: an action for each VTEP of a segment
_LOCAL = "LOCAL"
_NUMBERS = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Table:
    """A table: what it decides, and how many rows each part of an entry takes in it at most."""

    number: int
    name: str
    decides: str
    rows: Mapping[Part, int] = field(default_factory=dict)


CLASSIFY = Table(
    0,
    "classify",
    "which frames are looked at: of VFs with a segment, of VTEPs with members, of our tunnels",
    {Part.PORT: 1, Part.MEMBER: 1},
)
GUARD = Table(
    10,
    "guard",
    "whether a VF may send this; ARP, ND, tags, IPv6 fragments are left to the checks above",
    {Part.PORT: 1, Part.ADDRESS: 1},
)
TUNNEL = Table(20, "tunnel", "which VTEP may send on which VNI", {Part.MEMBER: 1})
FORWARD = Table(
    30, "forward", "where the owner of the destination MAC is", {Part.LOCAL: 1, Part.REMOTE: 1}
)
WIRE = Table(50, "wire", "next hop of encapsulated frames, and the way of misses", {Part.MEMBER: 1})
MISS = Table(60, "miss", "a frame without entry goes to the software", {Part.PORT: 1})

PIPELINE = (CLASSIFY, GUARD, TUNNEL, FORWARD, WIRE, MISS)

# Just above the device's own misses: whoever steers these ports by flows keeps them, and is named.
CLASSIFY_PRIORITY = 5
LOWEST_PRIORITY = {CLASSIFY.number: CLASSIFY_PRIORITY}


class Category(IntEnum):
    """Why a flow is there."""

    PIPELINE = 1
    PORT = 2  # a VF: what it may send, and what is sent to it
    VTEP = 3  # a VTEP, whatever the segment
    MEMBER = 4  # a VTEP on a segment
    REMOTE = 5


def cookie(category: Category, vni: int = 0) -> int:
    """Return owner (16 bits), category (8), VNI (24), nothing (16)."""
    return OWNER << 48 | category << 40 | vni << 16


def is_ours(flow: Flow) -> bool:
    """Say whether we put ``flow`` there."""
    return flow.cookie >> 48 == OWNER


def category(flow: Flow) -> int:
    """Return the Category of a flow of ours; any number for one that is not."""
    return flow.cookie >> 40 & 0xFF


def vni_of(flow: Flow) -> int:
    """Return the VNI a flow of ours is about, 0 for none."""
    return flow.cookie >> 16 & 0xFFFFFF


_SCOPED = (Category.MEMBER, Category.REMOTE)


@dataclass(frozen=True, slots=True)
class Row:
    """A flow of ours, as an item of the diff; ``entries`` cannot be placed without it.

    ``firm``: it is wanted whatever an incomplete view may hold. ``owner`` is the endpoint behind
    the VF that it is about; without that VF's port nobody else misses it.
    """

    flow: Flow
    entries: frozenset[EntryKey] = field(default=frozenset(), compare=False)
    firm: bool = field(default=False, compare=False)
    owner: EntryKey | None = field(default=None, compare=False)

    @property
    def key(self) -> FlowKey:
        """Return what makes the flow the same flow."""
        return self.flow.key

    @property
    def table(self) -> int:
        """Return the number of the table that it takes room in."""
        return self.flow.table

    @property
    def scope(self) -> int | None:
        """Return the VNI whose fabric view it was derived from; None for what a VF needs."""
        why = category(self.flow)
        if self.firm or why == Category.PORT:
            return None
        return vni_of(self.flow) if why in _SCOPED else FABRIC_SCOPE


@dataclass(frozen=True, slots=True)
class TunnelPort:
    """A tunnel port of ours in the DPU's bridge."""

    port: Port
    scope: int = FABRIC_SCOPE


@dataclass(frozen=True, slots=True)
class Route:
    """Where Open vSwitch sends packets with ``mark``: to ``gateway``, our own address.

    Not ``live``: it is there, but its tunnels take nothing in at ``gateway``.
    """

    gateway: IpAddress
    mark: int
    live: bool = True
    scope: int = FABRIC_SCOPE

    @property
    def key(self) -> tuple[str, IpAddress, int]:
        """Return what makes it the same route."""
        return ("route", self.gateway, self.mark)


@dataclass(frozen=True, slots=True)
class Neighbour:
    """The MAC that Open vSwitch writes on packets for ``address``."""

    address: IpAddress
    mac: str = GATEWAY_MAC
    scope: int = FABRIC_SCOPE

    @property
    def key(self) -> tuple[str, IpAddress]:
        """Return what makes it the same neighbour."""
        return ("neighbour", self.address)


@dataclass(frozen=True, slots=True)
class Wiring:
    """The ports of the DPU's bridge, and whose node's rows they get.

    ``vfs`` are the bridge's ports by the name of the representor behind which the DPU sees them.
    """

    bridge: str
    uplink: str
    cpu: str
    vfs: Mapping[str, str]
    node: str


def goto(table: Table) -> str:
    """Return the action that goes on in ``table``."""
    return f"goto_table:{table.number}"


def flow(table: Table, priority: int, match: str, actions: str, owner: int) -> Flow:
    """Return a flow with its match in the one order."""
    text = canonical_match(match.split(",")) if match else ""
    return Flow(table.number, priority, text, actions, owner)


def ports_of(item: Flow) -> frozenset[str]:
    """Return the names of the ports that a flow mentions."""
    actions = _ports_in(item.actions)
    return actions | _ports_in(item.match) if _IN_PORT in item.match else actions


@lru_cache(_TEXTS)
def _ports_in(text: str) -> frozenset[str]:
    return frozenset(_PORT.findall(text)) - {_LOCAL}


def to_device(item: Flow, numbers: Mapping[str, int], local_mac: str) -> Flow:
    """Return a flow with the numbers and the MAC that the device has, for what it calls by name.

    A port that is called by number, since it has no name any more, keeps it. Raises KeyError for
    a name without number.
    """

    def numbered(name: re.Match[str]) -> str:
        known = name[0] == _LOCAL or _NUMBERS.fullmatch(name[0])
        return name[0] if known else str(numbers[name[0]])

    actions = _PORT.sub(numbered, item.actions).replace(LOCAL_MAC, local_mac)
    return Flow(item.table, item.priority, _match(item.match, numbered), actions, item.cookie)


def from_device(item: Flow, names: Mapping[int, str], local_mac: str) -> Flow:
    """Return a flow of the device as ``to_device`` was given it; a number without port stays."""

    def named(number: re.Match[str]) -> str:
        known = _NUMBERS.fullmatch(number[0]) is not None
        return names.get(int(number[0]), number[0]) if known else number[0]

    to_local = f"set_field:{local_mac}->eth_dst,LOCAL"
    actions = _PORT.sub(named, item.actions).replace(to_local, _to_local())
    return Flow(item.table, item.priority, _match(item.match, named), actions, item.cookie)


def _match(match: str, other: Callable[[re.Match[str]], str]) -> str:
    """Return a match with its port called otherwise; few have one, and all are in order."""
    if _IN_PORT not in match:
        return match
    return canonical_match(_PORT.sub(other, match).split(","))


def _to_local() -> str:
    return f"set_field:{LOCAL_MAC}->eth_dst,LOCAL"


TO_TUNNELS = _to_local()
"""The actions that hand a packet to the tunnels, which take nothing but what is for their MAC."""
