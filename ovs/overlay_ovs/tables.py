"""The pipelines of our bridges as data, and the check that every flow keeps to them. Pure.

A frame from a pod walks the tables of ow-int from top to bottom; one from a tunnel enters at
``forwarding``. Registers: reg0 the VNI; reg1 is 1 for a frame from a tunnel; reg2 the port to leave
by; reg3 is 1 while a question about a link-local address travels as if to its owner; xreg2
(reg4, reg5) the MAC to answer with; xreg3 (reg6, reg7) the destination such a question had; xreg4
(reg8, reg9) the Vrf that a frame is routed in; reg10 the VNI in a frame from within a network
function (overlay_ovs/steering), else 0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from dataplane.core.desired import Datapath
from ovs_client.ofctl import Flow, FlowKey

INTEGRATION_BRIDGE = "ow-int"
UNDERLAY_BRIDGE = "ow-phy"

_OWNER = 0x4F57  # "OW" in ASCII: whose flow it is
_GOTO = re.compile(r"goto_table:(\d+)")


class PipelineError(ValueError):
    """A flow does not keep to its table's declaration: a fault of ours, not of the switch."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table: what it decides, the fields (ovs-fields(7)) it may match, where it may lead."""

    number: int
    name: str
    decides: str
    match: frozenset[str]
    goto: tuple[str, ...] = ()


Rule = tuple[Table, int, str, str]
"""A flow before it has an owner: table, priority, match, actions."""
Rules = tuple[Rule, ...]


def _fields(names: str) -> frozenset[str]:
    return frozenset(names.split())


CLASSIFY = Table(
    0,
    "classify",
    "which segment a frame belongs to; frames of no segment of ours end here",
    _fields("in_port dl_vlan tun_id tun_src tun_ipv6_src dl_dst dl_type"),
    ("guard", "forwarding"),
)
GUARD = Table(
    10,
    "guard",
    "whether a pod may claim this MAC, and what its ARP and ND messages say",
    _fields(
        "in_port reg0 dl_src dl_dst dl_type arp arp_op arp_spa arp_sha nw_frag nw_ttl icmp6"
        " icmp_type icmp_code nd_target nd_sll nd_tll"
    ),
    ("guard_source", "arp_nd", "forwarding"),
)
GUARD_SOURCE = Table(
    15,
    "guard_source",
    "whether a pod may send from this IP address",
    _fields("in_port reg0 ip nw_src nw_proto ipv6 ipv6_src icmp6 icmp_type nd_target nd_sll"),
    ("arp_nd",),
)
ARP_ND = Table(
    20,
    "arp_nd",
    "whether a frame is a question for a MAC that can be answered here",
    _fields(
        "vlan_tci arp arp_op icmp6 icmp_type icmp_code nw_ttl ipv6_src nd_options_type reg0 reg10"
        " dl_dst"
    ),
    ("owner", "routing", "forwarding", "steering"),
)
OWNER = Table(
    25,
    "owner",
    "who owns the address asked for; never the asking port itself",
    _fields("in_port reg0 arp arp_tpa icmp6 icmp_type nd_target"),
    ("answer", "forwarding"),
)
ROUTING = Table(
    27,
    "routing",
    "who of the Vrf an IP packet to the gateway is for; what is for nobody ends here",
    _fields(
        "reg0 reg8 reg9 ip nw_dst nw_ttl nw_frag icmp ipv6 ipv6_src ipv6_dst icmp6 icmp_type"
        " icmp_code"
    ),
    ("forwarding", "back"),
)
FORWARDING = Table(
    30,
    "forwarding",
    "where the owner of the destination MAC is",
    _fields("reg0 reg1 reg3 dl_dst"),
    ("flood", "steering"),
)
FLOOD = Table(
    40,
    "flood",
    "which VTEPs get a copy; never of a frame that came from one",
    _fields("reg0 reg1 reg10"),
    ("flood_local",),
)
FLOOD_LOCAL = Table(
    50, "flood_local", "which local ports get a copy; OVS spares the sender", _fields("reg0 reg10")
)
STEERING = Table(
    55,
    "steering",
    "whether a frame goes through a network function first",
    _fields("reg0 reg2 reg10"),
    ("output",),
)
OUTPUT = Table(
    60,
    "output",
    "a frame leaves, with its tag at a trunk port, or a question has found its owner",
    _fields("reg0 reg2 reg3"),
    ("answer",),
)
ANSWER = Table(
    70,
    "answer",
    "turns a question into its answer",
    _fields("arp icmp6 icmp_type"),
    ("answer_nd", "back"),
)
# Apart, because OVS lets nd_tll be set only where the match says icmp_type=136.
ANSWER_ND = Table(
    75, "answer_nd", "completes a Neighbor Advertisement", _fields("icmp6 icmp_type"), ("back",)
)
BACK = Table(
    80, "back", "an answer goes to who asked, with its tag at a trunk port", _fields("in_port reg0")
)
WIRE = Table(
    0,
    "wire",
    "joins tunnel traffic and the glue to the NIC; without eBPF it writes the next hop's MAC",
    _fields("in_port ip nw_dst ipv6 ipv6_dst"),
)

PIPELINES: Mapping[str, tuple[Table, ...]] = {
    INTEGRATION_BRIDGE: (
        CLASSIFY,
        GUARD,
        GUARD_SOURCE,
        ARP_ND,
        OWNER,
        ROUTING,
        FORWARDING,
        FLOOD,
        FLOOD_LOCAL,
        STEERING,
        OUTPUT,
        ANSWER,
        ANSWER_ND,
        BACK,
    ),
    UNDERLAY_BRIDGE: (WIRE,),
}
BRIDGES = {
    Datapath.USERSPACE: (INTEGRATION_BRIDGE, UNDERLAY_BRIDGE),
    Datapath.KERNEL: (INTEGRATION_BRIDGE,),
}


class Category(IntEnum):
    """Why a flow is there: it depends on nothing, a local port, or what other nodes have, ..."""

    PIPELINE = 1
    PORT = 2
    REMOTE = 3
    SEGMENT = 4  # all local ports of a segment, or its gateway
    UNDERLAY = 5


def cookie(category: Category, vni: int = 0, port: int = 0) -> int:
    """Return owner (16 bits), category (8), VNI (24), port (16): whose flow, why, about what.

    ``port`` is the OpenFlow number asked of OVS for a pod's port.
    """
    return _OWNER << 48 | category << 40 | vni << 16 | port


def is_ours(flow: Flow) -> bool:
    """Say whether we put ``flow`` there."""
    return flow.cookie >> 48 == _OWNER


@dataclass(frozen=True, slots=True)
class BridgeFlow:
    """A flow of one of our bridges, as an item of the diff.

    ``firm``: it is wanted whatever an incomplete view may hold.
    """

    bridge: str
    flow: Flow
    firm: bool = field(default=False, compare=False)
    key: tuple[str, FlowKey] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        # Made once: a node renders the same thousands of flows at every change.
        object.__setattr__(self, "key", (self.bridge, self.flow.key))

    @property
    def scope(self) -> int | None:
        """Return the VNI whose fabric view it was derived from, else the cookie of what it is for.

        None for what depends on nothing.
        """
        category = self.flow.cookie >> 40 & 0xFF
        if self.firm or category == Category.PIPELINE:
            return None
        is_remote = category == Category.REMOTE
        return self.flow.cookie >> 16 & 0xFFFFFF if is_remote else self.flow.cookie


def check(item: BridgeFlow) -> BridgeFlow:
    """Return ``item`` if its table declares its match fields and its next tables.

    Raises PipelineError, so that an illegal goto fails here and not in the switch.
    """
    flow = item.flow
    table = _BY_NUMBER[item.bridge].get(flow.table)
    if table is None:
        raise PipelineError(f"{item.bridge} has no table {flow.table}: {flow}")
    fields = {token.partition("=")[0] for token in flow.match.split(",") if token}
    if not fields <= table.match:
        undeclared = ", ".join(sorted(fields - table.match))
        raise PipelineError(f"table {table.name} does not declare {undeclared}: {flow}")
    for number in map(int, _GOTO.findall(flow.actions)):
        following = _BY_NUMBER[item.bridge].get(number)
        if following is None or following.name not in table.goto:
            raise PipelineError(f"table {table.name} does not lead to table {number}: {flow}")
    return item


_BY_NUMBER = {
    bridge: {table.number: table for table in tables} for bridge, tables in PIPELINES.items()
}
