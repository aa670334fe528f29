"""The tables that entries take in the device's P4 program, as data, and what stands in them. Pure.

What a frame meets in them is said in pipeline.md. Everything is called by the names of the p4info;
what the device has numbers for and we have names is a Symbol here: the numbers are found in the
device, and given, by numbers.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from dataplane.core.capability import Part
from dataplane.core.model import Encap, EntryKey, Family, IpAddress, Mac

VPORT_OFFSET = 16  # of a function's vport from its VSI (pipeline.md, 1)
FABRIC_SCOPE = 0  # no segment has VNI 0: held while any segment's view is incomplete
PRIORITY = 1  # of rows in tables with a ternary field
UDP_PORTS: Mapping[Encap, int] = {
    Encap.GENEVE: 6081,
    Encap.VXLAN: 4789,
}  # its parser knows no other


@dataclass(frozen=True, slots=True)
class Bridge:
    """The L2 domain of the device that a segment is."""

    vni: int


@dataclass(frozen=True, slots=True)
class TunnelSource:
    """The source port of all tunnels of a segment."""

    vni: int


@dataclass(frozen=True, slots=True)
class Tunnel:
    """What is sent to and taken from a VTEP on a segment."""

    vtep: IpAddress
    vni: int


@dataclass(frozen=True, slots=True)
class NextHop:
    """Who the next packets go to on the wire."""

    mac: Mac


@dataclass(frozen=True, slots=True)
class Router:
    """We, as who sends them."""


Symbol = Bridge | TunnelSource | Tunnel | NextHop | Router
Value = int | Symbol
Fields = tuple[tuple[str, Value], ...]
Numbers = tuple[tuple[str, int], ...]


class Stage(IntEnum):
    """When a row is set; what takes a frame comes last, and goes first.

    What says what a number stands for comes before what has it: a change that was not finished
    is gone on with where it ended.
    """

    SOURCE = 0  # whose a source port is
    NAME = 1  # the bridge of a source port, the tunnel of a pointer
    REWRITE = 2  # without it a frame leaves not, or half, rewritten
    KNOWN = 3  # who is where
    TUNNEL = 4  # l2_to_tunnel: ours by its MAC and VTEP (numbers.ours_of)
    ENABLE = 5  # the first row that takes a frame


@dataclass(frozen=True, slots=True)
class Table:
    """A table: what it decides, its fields and actions with their widths in bits, its rows.

    A width of 0 is any: its numbers are given by what the device has. ``rows`` says how many rows
    each part of an entry takes at most.
    """

    name: str
    decides: str
    stage: Stage
    fields: Mapping[str, int]
    actions: Mapping[str, Mapping[str, int]]
    rows: Mapping[Part, int]


BRIDGE_FIELD, SOURCE_FIELD = "user_meta.pmeta.bridge_id", "user_meta.cmeta.source_port"
POINTER_FIELD, HOP_FIELD = "vmeta.common.mod_blob_ptr", "user_meta.cmeta.nexthop_id"
SOURCE_MAC_FIELD = "hdrs.mac[vmeta.common.depth].sa"
TARGET_MAC_FIELD = "hdrs.mac[vmeta.common.depth].da"
VLAN_FIELD = "hdrs.vlan_ext[vmeta.common.depth].hdr.vid"

_NONE: Mapping[str, int] = {}
_TUNNELLED = {"tunnel_id": 0}
_ENCAP4 = {"src_addr": 32, "dst_addr": 32, "src_port": 16, "dst_port": 16, "vni": 24}
_ENCAP6 = {
    "src_addr": 128,
    "dst_addr": 128,
    "ds": 6,
    "ecn": 2,
    "flow_label": 20,
    "hop_limit": 8,
    "src_port": 16,
    "dst_port": 16,
    "vni": 24,
}


def encap_action(encap: Encap, family: Family) -> str:
    """Return the action that writes the outer headers; its table is named after it."""
    return f"{encap}_encap" if family is Family.IPV4 else f"{encap}_encap_v6"


def underlay_action(encap: Encap, family: Family) -> str:
    """Return the action that has a frame sent into a tunnel."""
    return f"set_{encap}_underlay_{'v4' if family is Family.IPV4 else 'v6'}"


def decap_action(encap: Encap) -> str:
    """Return the action that strips the outer headers."""
    return f"{encap}_decap_outer_hdr"


def _encap_table(encap: Encap, family: Family) -> Table:
    action = encap_action(encap, family)
    four = family is Family.IPV4
    return Table(
        f"{action}_mod_table",
        f"outer headers of {encap} over {family}",
        Stage.NAME,
        {POINTER_FIELD: 0},
        {action: _ENCAP4 if four else _ENCAP6},
        {Part.MEMBER: 1},
    )


def _decap_table(encap: Encap) -> Table:
    return Table(
        f"{encap}_decap_mod_table",
        f"the outer headers of {encap} go",
        Stage.REWRITE,
        {POINTER_FIELD: 0},
        {decap_action(encap): _NONE},
        {Part.MEMBER: 1},
    )


def _rif_table(name: str, number: int) -> Table:
    return Table(
        f"rif_mod_table_{name}",
        "two bytes of the outer source MAC",
        Stage.REWRITE,
        {f"rif_mod_map_id{number}": 0},
        {f"set_src_mac_{name}": {"arg": 16}},
        {Part.MEMBER: 1},
    )


def _family_tables(family: Family) -> dict[str, Table]:
    """Return the tables that there is one of for each outer family, by what they are for."""
    version, bits = ("4", 32) if family is Family.IPV4 else ("6", 128)
    tunnelled = {f"set_{encap}_decap_outer_hdr": _TUNNELLED for encap in Encap}
    words = {f"ipv6_{number}": 32 for number in range(1, 5)}
    return {
        "route": Table(
            f"ipv{version}_table",
            "the next hop to a VTEP",
            Stage.REWRITE,
            {f"ipv{version}_table_lpm_root": 32, f"ipv{version}_dst_match": bits},
            {f"ipv{version}_set_nexthop_id": {"nexthop_id": 0}},
            {Part.MEMBER: 1},
        ),
        "source": Table(
            f"rx_ipv{version}_tunnel_source_port",
            "the source port of what a VTEP sends on a segment",
            Stage.SOURCE,
            {f"ipv{version}_src": bits, "vni": 24},
            {"set_source_port": {"source_port": 0}},
            {Part.PORT: 1, Part.MEMBER: 1} if version == "4" else {Part.MEMBER: 1},
        ),
        "vtep": Table(
            f"l2_to_tunnel_v{version}",
            "the VTEP that a MAC is behind, whatever the segment",
            Stage.TUNNEL,
            {TARGET_MAC_FIELD: 48},
            {f"set_tunnel_v{version}": {"dst_addr": 32} if version == "4" else words},
            {Part.REMOTE: 1},
        ),
        "term": Table(
            f"ipv{version}_tunnel_term_table",
            "which VTEP may send on which VNI",
            Stage.ENABLE,
            {f"ipv{version}_src": bits, "vni": 24},
            tunnelled,
            {Part.MEMBER: 1},
        ),
    }


SMAC = Table(
    "l2_fwd_smac_table",
    "which source MACs are known on a segment; what others send is the software's",
    Stage.KNOWN,
    {SOURCE_MAC_FIELD: 48, BRIDGE_FIELD: 0},
    {"NoAction": _NONE},
    {Part.PORT: 1, Part.REMOTE: 1},
)
BRIDGES = Table(
    "source_port_to_bridge_map",
    "the bridge of a VF, and of a segment's tunnels; tagged frames have none of ours",
    Stage.NAME,
    {SOURCE_FIELD: 16, VLAN_FIELD: 12},
    {"set_bridge_id": {"bridge_id": 0}},
    {Part.PORT: 2},
)
SEND = Table(
    "l2_fwd_tx_table",
    "where a frame of a VF goes",
    Stage.ENABLE,
    {BRIDGE_FIELD: 0, "dst_mac": 48},
    {
        "l2_fwd": {"port": 32},
        **{underlay_action(encap, family): _TUNNELLED for encap in Encap for family in Family},
    },
    {Part.LOCAL: 1, Part.REMOTE: 1},
)
RECEIVE = Table(
    "l2_fwd_rx_table",
    "which VF a frame from a tunnel is for",
    Stage.ENABLE,
    {BRIDGE_FIELD: 0, "dst_mac": 48},
    {"l2_fwd": {"port": 32}},
    {Part.LOCAL: 1},
)
HOPS = Table(
    "nexthop_table",
    "wire port and destination MAC of a next hop",
    Stage.REWRITE,
    {HOP_FIELD: 0, "bit16_zeros": 8},
    {
        "set_nexthop_info_dmac": {
            "router_interface_id": 0,
            "egress_port": 32,
            "dmac_high": 16,
            "dmac_low": 32,
        }
    },
    {Part.MEMBER: 1},
)
RIFS = tuple(_rif_table(name, number) for number, name in enumerate(("start", "mid", "last")))
ENCAPS = {(encap, family): _encap_table(encap, family) for encap in Encap for family in Family}
DECAPS = {encap: _decap_table(encap) for encap in Encap}
UNDERLAY = {family: _family_tables(family) for family in Family}
ANCHORS = UNDERLAY[Family.IPV4]["source"]
"""Where the tunnels of a segment have the row that names them, whichever family they are of.

Its address is the number of the source port: of 0.0.0.0/8, which no packet has as its source
(RFC 1122 3.2.1.3), and looked at only after a hit in the termination table, which has no such row.
"""

PORTS, MISSES, LOOPBACK = "tx_source_port", "source_port_to_pr_map", "vsi_to_vsi_loopback"
"""Tables of the plugin's: which VFs there are, where their misses go, who may reach whom."""

SHARED = (SMAC, BRIDGES, SEND, RECEIVE, HOPS, *RIFS, ANCHORS)
PIPELINE = (
    *SHARED,
    *(table for each in UNDERLAY.values() for table in each.values() if table is not ANCHORS),
    *ENCAPS.values(),
    *DECAPS.values(),
)
TABLES: Mapping[str, Table] = {table.name: table for table in PIPELINE}


def tables_for(encap: Encap, family: Family) -> tuple[Table, ...]:
    """Return the tables that a tunnel of this kind needs beside the shared ones."""
    return (ENCAPS[encap, family], DECAPS[encap], *UNDERLAY[family].values())


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """A row as the device has it, by the names of its p4info.

    Not ``plain``: it does not match its fields whole, or has another priority than ours; then
    ``match`` are the values without their masks.
    """

    table: str
    match: Numbers
    action: str
    params: Numbers = ()
    plain: bool = True

    @property
    def key(self) -> tuple[str, Numbers]:
        """Return what makes it the same row."""
        return (self.table, self.match)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of ours, as an item of the diff; ``entries`` cannot be placed without it.

    ``owner`` is the endpoint behind the VF that it is about; without that VF's port nobody else
    misses it. ``firm``: it is wanted whatever an incomplete view may hold.
    """

    table: str
    match: Fields
    action: str
    params: Fields = ()
    entries: frozenset[EntryKey] = field(default=frozenset(), compare=False)
    owner: EntryKey | None = field(default=None, compare=False)
    firm: bool = field(default=False, compare=False)

    @property
    def key(self) -> tuple[str, Fields]:
        """Return what makes it the same row."""
        return (self.table, self.match)

    @property
    def stage(self) -> Stage:
        """Return when it is set."""
        return TABLES[self.table].stage

    @property
    def symbols(self) -> frozenset[Symbol]:
        """Return what it needs numbers for."""
        values = (value for _, value in (*self.match, *self.params))
        return frozenset(value for value in values if not isinstance(value, int))

    @property
    def scope(self) -> int | None:
        """Return the VNI whose fabric view it was derived from; None for what a VF needs."""
        if self.firm:
            return None
        if self.table in _OF_ALL_SEGMENTS:
            return FABRIC_SCOPE
        bridge = dict(self.match).get(BRIDGE_FIELD)
        if self.table == SMAC.name and isinstance(bridge, Bridge):
            return bridge.vni
        tunnels = (symbol for symbol in self.symbols if isinstance(symbol, Tunnel))
        return next((tunnel.vni for tunnel in tunnels), self._member_of)

    @property
    def _member_of(self) -> int | None:
        """Return the segment that this row says a VTEP is a member of."""
        source = dict(self.params).get("source_port")
        is_anchor = any(value == source for _, value in self.match)
        return source.vni if isinstance(source, TunnelSource) and not is_anchor else None


_OF_ALL_SEGMENTS = frozenset(
    [HOPS.name, *(table.name for table in RIFS)]
    + [each[what].name for each in UNDERLAY.values() for what in ("route", "vtep")]
)


@dataclass(frozen=True, slots=True)
class Wiring:
    """The device's ports: VSIs by the DPU's representor of the VF, and the wire port."""

    vfs: Mapping[str, int]
    wire: int = 0
