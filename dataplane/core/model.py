"""The nouns of design section 3 as frozen values, each checked once when it is made.

IP addresses and prefixes are ``ipaddress`` objects, MTUs are bytes, VNIs are 24-bit numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_interface,
)
from typing import NamedTuple, Self

from dataplane.core.errors import InvalidValueError
from dataplane.core.reasons import Reason

IpAddress = IPv4Address | IPv6Address
IpNetwork = IPv4Network | IPv6Network
IpInterface = IPv4Interface | IPv6Interface

GENEVE_PORT = 6081  # RFC 8926 section 3.3
VXLAN_PORT = 4789  # RFC 7348 section 5
MIN_MTU = 68  # RFC 791: every IPv4 link carries 68 bytes
MIN_IPV6_MTU = 1280  # RFC 8200 section 5
MAX_MTU = 65535
FIRST_SLOT_OFPORT = 100
MAX_SLOTS = 32768  # ofports stay below OpenFlow's reserved 0xff00 (openflow-common.h, OFPP_MAX)

_FINAL = (Reason.SUPERSEDED, Reason.MAC_FROZEN)
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")


class Mac(str):
    """A unicast Ethernet address in lower case, ``02:00:00:00:00:01``.

    Raises InvalidValueError for anything that cannot be the address of one interface.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Check and normalise ``text``."""
        lower = text.lower()
        if not _MAC.fullmatch(lower):
            raise InvalidValueError(
                f"mac {text!r} is not six hexadecimal bytes like 02:00:00:00:00:01"
            )
        if int(lower[:2], 16) & 1:
            raise InvalidValueError(f"mac {text!r} is a multicast or broadcast address")
        if lower == "00:00:00:00:00:00":
            raise InvalidValueError("mac 00:00:00:00:00:00 cannot belong to an interface")
        return super().__new__(cls, lower)


class Vni(int):
    """A VXLAN/Geneve network identifier, 1 to 2^24-1 (RFC 7348 section 5, RFC 8926 section 3.4)."""

    __slots__ = ()

    def __new__(cls, value: int) -> Self:
        """Check the range of ``value``; 0 is kept free to mean "no segment"."""
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 1 << 24:
            raise InvalidValueError(f"vni {value!r} is not a whole number from 1 to 16777215")
        return super().__new__(cls, value)


def check_name(kind: str, name: str) -> str:
    """Return ``name`` if it is a valid name of a ``kind``, else raise InvalidValueError."""
    if not _NAME.fullmatch(name):
        raise InvalidValueError(
            f"{kind} name {name!r} is not 1-63 lower-case letters, digits, '-' or '.'"
            " that begin and end with a letter or digit"
        )
    return name


class Encap(StrEnum):
    """Tunnel encapsulation of a Segment."""

    GENEVE = "geneve"
    VXLAN = "vxlan"


class Family(StrEnum):
    """Address family of the underlay or of an inner packet."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"


class Guard(StrEnum):
    """What is checked on packets that a port sends."""

    IP = "ip"
    MAC = "mac"
    OFF = "off"


class Hardware(StrEnum):
    """When an Endpoint is in the switch of a DPU, whatever its traffic."""

    ALWAYS = "always"
    NEVER = "never"


class UnknownUnicast(StrEnum):
    """What happens to a unicast frame whose destination no Endpoint owns."""

    DROP = "drop"
    FLOOD = "flood"


def family_of(address: IpAddress | IpNetwork) -> Family:
    """Return the address family of ``address``."""
    return Family.IPV4 if address.version == 4 else Family.IPV6


def interface_of(ip: IpAddress, subnets: tuple[IpNetwork, ...]) -> IpInterface:
    """Return ``ip`` with the prefix length of the narrowest subnet it lies in, else /32 or /128."""
    lengths = [net.prefixlen for net in subnets if net.version == ip.version and ip in net]
    return ip_interface((ip.packed, max(lengths, default=ip.max_prefixlen)))


def in_any(ip: IpAddress, networks: Iterable[IpNetwork]) -> bool:
    """Say whether ``ip`` lies in one of ``networks``."""
    return any(ip.version == network.version and ip in network for network in networks)


@dataclass(frozen=True, slots=True)
class Fabric:
    """What all nodes must agree on: UDP destination ports of the tunnels."""

    name: str = "overweave"
    geneve_port: int = GENEVE_PORT
    vxlan_port: int = VXLAN_PORT

    def port(self, encap: Encap) -> int:
        """Return the UDP destination port of ``encap``."""
        return self.geneve_port if encap is Encap.GENEVE else self.vxlan_port


@dataclass(frozen=True, slots=True)
class Node:
    """A host or DPU: at most one VTEP address per underlay family; static = no agent runs there."""

    name: str
    vteps: tuple[IpAddress, ...]
    static: bool = False

    def vtep(self, family: Family) -> IpAddress | None:
        """Return this node's VTEP address of ``family``, if it has one."""
        return next((vtep for vtep in self.vteps if family_of(vtep) is family), None)


@dataclass(frozen=True, slots=True)
class Segment:
    """One L2 network; ``mtu`` None means the largest the underlay allows.

    ``underlay`` is the family its tunnels use, so that every node computes the same MTU.
    Addresses asked for by name come from ``static_ranges``, which no Block covers.
    """

    name: str
    vni: Vni
    encap: Encap = Encap.GENEVE
    underlay: Family = Family.IPV4
    mtu: int | None = None
    subnets: tuple[IpNetwork, ...] = ()
    static_ranges: tuple[IpNetwork, ...] = ()
    guard: Guard = Guard.IP
    unknown_unicast: UnknownUnicast = UnknownUnicast.DROP


class EntryKey(NamedTuple):
    """Names an entry of the forwarding table (FdbEntry)."""

    vni: Vni
    mac: Mac


class EndpointKey(NamedTuple):
    """Which attachment an Endpoint row is about; static endpoints use identity and ''."""

    node: str
    container_id: str
    ifname: str


@dataclass(frozen=True, slots=True)
class Endpoint:
    """MAC and addresses on a Segment at a Node; ``sequence`` counts the moves of ``identity``.

    ``learned`` are addresses that nobody gave it: it claims them by ARP or ND (core/learning).
    ``moves`` are the times of the newest of them, in whole unix seconds, no two alike, newest last.
    """

    segment: str
    node: str
    mac: Mac
    ips: tuple[IpAddress, ...]
    identity: str
    sequence: int
    container_id: str
    ifname: str
    moves: tuple[int, ...] = ()
    learned: tuple[IpAddress, ...] = ()

    @property
    def key(self) -> EndpointKey:
        """Return the name of this row among all rows of the fabric."""
        return EndpointKey(self.node, self.container_id, self.ifname)

    @property
    def answered(self) -> tuple[IpAddress, ...]:
        """Return the addresses that ARP and ND for it are answered for."""
        return (*self.ips, *self.learned)


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a Segment's subnet that one Node allocates from."""

    segment: str
    prefix: IpNetwork
    node: str

    def __str__(self) -> str:
        """Name it in status or an error."""
        return f"block {self.prefix} of {self.segment}"


@dataclass(frozen=True, slots=True)
class Address:
    """A static-range address bound to an identity, so that it moves with it.

    ``node`` is where the identity was last attached; the node it moves to takes the row over.
    """

    segment: str
    ip: IpAddress
    identity: str
    node: str


@dataclass(frozen=True, slots=True)
class Grant:
    """The administrator's word that ``node`` may claim ``mac`` (None: any), ``ips`` (none: any)."""

    segment: str
    node: str
    mac: Mac | None = None
    ips: tuple[IpNetwork, ...] = ()

    def allows(self, endpoint: Endpoint) -> bool:
        """Say whether ``endpoint`` is covered by this grant."""
        return (
            (self.segment, self.node) == (endpoint.segment, endpoint.node)
            and self.mac in (None, endpoint.mac)
            and (not self.ips or all(in_any(ip, self.ips) for ip in endpoint.ips))
        )


def endpoint_name(text: str) -> str:
    """Return ``text`` as what names an Endpoint on its Segment: its MAC, or its identity.

    An identity has a '/', a MAC has none. Raises InvalidValueError for anything else.
    """
    if "/" in text:
        return text
    try:
        return Mac(text)
    except InvalidValueError as error:
        raise InvalidValueError(
            f"endpoint {text!r} is neither an identity like default/web/eth0 nor a MAC: {error}"
        ) from None


@dataclass(frozen=True, slots=True)
class Pin:
    """The administrator's word on the Endpoint with this ``endpoint_name``, there or not."""

    segment: str
    endpoint: str
    hardware: Hardware


@dataclass(frozen=True, slots=True)
class Vrf:
    """A routing domain: its Segments, those with an Svi in it, reach each other.

    ``vni`` and ``loopback`` are kept for those who name them: no packet carries either.
    """

    name: str
    vni: Vni | None = None
    loopback: IpInterface | None = None


@dataclass(frozen=True, slots=True)
class Svi:
    """The gateway of a Segment into a Vrf, the same MAC and addresses on every node.

    ``prefixes`` are its addresses with the subnets whose hosts are reached through it.
    """

    name: str
    vrf: str
    segment: str
    mac: Mac
    prefixes: tuple[IpInterface, ...]

    @property
    def ips(self) -> tuple[IpAddress, ...]:
        """Return its addresses."""
        return tuple(prefix.ip for prefix in self.prefixes)

    def covers(self, ip: IpAddress) -> bool:
        """Say whether ``ip`` is one that the Vrf reaches through this gateway's Segment."""
        return ip not in self.ips and in_any(ip, (prefix.network for prefix in self.prefixes))


# What a Device's Conditions are on; what READY means, STATUS shows.
READY = "Ready"  # pods on VFs can be served: the switch takes entries, the host hears the DPU
HEARTBEAT_OK = "HeartbeatOK"  # the agents of host and DPU hear each other
SWITCH_REACHABLE = "SwitchReachable"  # the device answers its driver
DATAPLANE_IN_SYNC = "DataplaneInSync"  # whatever forwards on the node has what is desired
OFFLOADING = "Offloading"  # the switch forwards for entries that it holds
CONDITIONS = (READY, HEARTBEAT_OK, SWITCH_REACHABLE, DATAPLANE_IN_SYNC, OFFLOADING)


class Side(StrEnum):
    """Which half of a DPU a Device row is about."""

    HOST = "host"
    DPU = "dpu"


@dataclass(frozen=True, slots=True)
class Condition:
    """A statement on a Device; ``since`` is in whole unix seconds."""

    kind: str
    holds: bool
    reason: str = ""
    since: int = 0


class TableUse(NamedTuple):
    """How many rows of a table of the switch are taken, by whomever."""

    name: str
    used: int
    capacity: int


@dataclass(frozen=True, slots=True)
class Device:
    """One half of a DPU as inventory, told by the node it is on; ``name`` is ``serial-side``.

    No other half of the same node has its name; one of another node may. ``peer`` is the node that
    has the other half, as that one said to this one; empty: it has not, or not to this half.
    ``assumptions`` names what the device is taken to do on no document's word, as far as it is in
    use; ``tunnels`` are what its switch can write and strip. ``heard_at`` is when the other half
    was last heard, ``told_at`` when all this was so, both in unix seconds, 0: never.
    """

    name: str
    serial: str
    vendor: str
    product: str
    side: Side
    node: str
    ready: bool
    emulated: bool = False
    conditions: tuple[Condition, ...] = ()
    assumptions: tuple[str, ...] = ()
    peer: str = ""
    tunnels: tuple[tuple[Encap, Family], ...] = ()
    tables: tuple[TableUse, ...] = ()
    vfs: int = 0
    vfs_used: int = 0
    heard_at: int = 0
    told_at: int = 0


Network = Segment | Vrf | Svi
"""What a tenant may write."""

FabricEntity = (
    Fabric | Node | Segment | Endpoint | Block | Address | Grant | Pin | Device | Vrf | Svi
)


class AttachmentKey(NamedTuple):
    """CNI's name of an attachment: container id and interface name (CNI spec, section 2)."""

    container_id: str
    ifname: str

    def __str__(self) -> str:
        """Name it in a log line or an error."""
        return f"{self.container_id}/{self.ifname}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why an attachment may neither send nor be reached; ``detail`` says it for people."""

    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Attachment:
    """A pod interface on this node, kept in a local file before CNI ADD answers.

    ``slot`` numbers its netdevs (vpN, otN) and its OVS port. ``sequence`` is None until the
    database has told what it must exceed. ``ipam`` says that a named IPAM plugin gave the
    addresses; ``mtu`` is the one asked for, in bytes. ``blocked`` is the last verdict on it, None
    if it is active: a restart does not forget it. ``network`` is the CNI network's name: GC of one
    network leaves the others' attachments alone. ``requested_at`` is when it was asked for, in unix
    seconds (0 in a file of a version that did not keep it), ``moves`` what its Endpoint says.
    ``netdev`` is, on a DPU, the representor that the interface is behind (and ``netns`` is empty:
    the pod is elsewhere), on its host the VF that the interface is; empty: a veth pair of ours.
    ``vlan`` is the tag that its frames have at ``netdev``, a trunk port whose other VLANs are other
    attachments, with the same slot; None: they have none, and it has ``netdev`` for itself.
    ``connected`` is False from when it may take its workload from another node until its pod's end
    is there: the workload stays where it is, also over a restart.
    """

    container_id: str
    ifname: str
    netns: str
    segment: str
    mac: Mac
    ips: tuple[IpAddress, ...]
    identity: str
    slot: int
    sequence: int | None = None
    ipam: bool = False
    mtu: int | None = None
    blocked: Verdict | None = None
    network: str = ""
    requested_at: int = 0
    moves: tuple[int, ...] = ()
    netdev: str = ""
    vlan: int | None = None
    connected: bool = True

    @property
    def key(self) -> AttachmentKey:
        """Return CNI's name of this attachment."""
        return AttachmentKey(self.container_id, self.ifname)

    @property
    def access_port(self) -> str:
        """Return the netdev the endpoint is reached by."""
        return self.netdev or f"vp{self.slot}"

    @property
    def ovs_port(self) -> str:
        """Return the OVS internal port glued to the access port."""
        return f"ot{self.slot}"

    @property
    def ofport(self) -> int:
        """Return the OpenFlow port number asked of OVS, stable across its restarts."""
        return FIRST_SLOT_OFPORT + self.slot

    @property
    def final(self) -> bool:
        """Say whether its verdict stands until DEL: its workload is elsewhere, and stays there."""
        return self.blocked is not None and self.blocked.reason in _FINAL

    def endpoint(self, node: str) -> Endpoint:
        """Return the fabric row that publishes this attachment from ``node``."""
        return Endpoint(
            segment=self.segment,
            node=node,
            mac=self.mac,
            ips=self.ips,
            identity=self.identity,
            sequence=self.sequence or 0,
            container_id=self.container_id,
            ifname=self.ifname,
            moves=self.moves,
        )
