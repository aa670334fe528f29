"""From events to the desired state: ``fold`` remembers, ``derive`` decides. Both are pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from dataplane.core.events import Link
from dataplane.core.functions import NetworkFunction, Role, WithoutFunction
from dataplane.core.model import (
    Address,
    Attachment,
    Block,
    Device,
    Endpoint,
    EntryKey,
    Fabric,
    FabricEntity,
    Guard,
    IpAddress,
    IpNetwork,
    Mac,
    Node,
    Pin,
    Segment,
    Side,
    Svi,
)
from dataplane.core.reasons import Reason


class Xdp(StrEnum):
    """Whether an XDP program in the NIC's driver drops what nobody would take."""

    AUTO = "auto"
    OFF = "off"
    NATIVE = "native"


class Datapath(StrEnum):
    """Which of its datapaths Open vSwitch carries the overlay with: its own, or the kernel's."""

    USERSPACE = "userspace"
    KERNEL = "kernel"


@dataclass(frozen=True, slots=True)
class LocalNode:
    """What the configuration file says of this node; empty ``vteps``: the NIC's own addresses.

    ``ebpf`` is what the start-up found: without it the kernel's own filters join the netdevs.
    So is ``datapath``: with the kernel's, the kernel itself sends and receives tunnel packets, and
    nothing lies between the underlay NIC and Open vSwitch.
    ``devices`` are the halves of DPUs that this node is, none of them ready yet.
    ``without_function`` says what becomes of traffic whose network function is gone.
    One that is not ``in_fabric`` has no pods of its own: those on VFs are its DPUs' to serve.
    """

    name: str
    underlay_interface: str
    vteps: tuple[IpAddress, ...] = ()
    attach_without_fabric: bool = True
    fastpath: bool = True
    ebpf: bool = True
    datapath: Datapath = Datapath.USERSPACE
    exclusive_ports: bool = False
    xdp: Xdp = Xdp.AUTO
    devices: tuple[Device, ...] = ()
    without_function: WithoutFunction = WithoutFunction.BLOCK
    in_fabric: bool = True

    @property
    def is_dpu(self) -> bool:
        """Say whether the node is a DPU itself."""
        return any(device.side is Side.DPU for device in self.devices)


@dataclass(frozen=True, slots=True)
class Bindings:
    """What the kernel and OVS gave: the underlay NIC, ifindexes and OpenFlow ports by name.

    ``port_faults`` is what OVS says of interfaces that it could not give a port. ``next_hops`` are
    the MACs that packets to other VTEPs leave the NIC with, known only where OVS or a DPU's switch
    has to write them. ``placed`` are the entries that this switch is to hold (core/placement).
    """

    nic: Link | None = None
    ifindexes: Mapping[str, int] = field(default_factory=dict)
    ofports: Mapping[str, int] = field(default_factory=dict)
    port_faults: Mapping[str, str] = field(default_factory=dict)
    next_hops: Mapping[IpAddress, Mac] = field(default_factory=dict)
    placed: frozenset[EntryKey] = frozenset()


class PortState(StrEnum):
    """Whether a local port may send and be reached."""

    ACTIVE = "active"
    BLOCKED = "blocked"


@dataclass(frozen=True, slots=True)
class Port:
    """A local attachment with the verdict on it; ``mtu`` in bytes.

    ``reason`` says why it is blocked, or left to Open vSwitch by its ``role``. ``learned`` are
    the addresses that it claims and nobody else has.
    """

    attachment: Attachment
    segment: Segment
    mtu: int
    state: PortState = PortState.ACTIVE
    reason: Reason | None = None
    detail: str = ""
    learned: tuple[IpAddress, ...] = ()
    role: Role = Role.PLAIN

    @property
    def answered(self) -> tuple[IpAddress, ...]:
        """Return the addresses that ARP and ND for it are answered for."""
        return (*self.attachment.ips, *self.learned)

    @property
    def guard(self) -> Guard:
        """Return what is checked; without known addresses nothing but the MAC can be."""
        guard = self.segment.guard
        return Guard.MAC if guard is Guard.IP and not self.attachment.ips else guard

    @property
    def on_link(self) -> tuple[IpNetwork, ...]:
        """Return the subnets that are on its link, too: others of the segment, of its families."""
        ips = self.attachment.ips
        families = {ip.version for ip in ips}
        others = (net for net in self.segment.subnets if not any(ip in net for ip in ips))
        return tuple(net for net in others if net.version in families)


@dataclass(frozen=True, slots=True)
class RemoteEndpoint:
    """An Endpoint of another node that won on its Segment, and the VTEP it is behind."""

    endpoint: Endpoint
    vtep: IpAddress


@dataclass(frozen=True, slots=True)
class SegmentView:
    """One Segment that is present here; ``flood`` are the VTEPs of its other members, sorted.

    ``pins`` are the administrator's words on endpoints there, sorted by what names them.
    ``gateway`` routes between it and the others of its Vrf. ``routers``, sorted, are the VTEPs of
    these that ``flood`` has not: what they send was routed into this Segment.
    """

    segment: Segment
    synced: bool
    mtu: int
    ports: tuple[Port, ...]
    remotes: tuple[RemoteEndpoint, ...]
    flood: tuple[IpAddress, ...]
    pins: tuple[Pin, ...] = ()
    gateway: Svi | None = None
    routers: tuple[IpAddress, ...] = ()

    @property
    def members(self) -> tuple[IpAddress, ...]:
        """Return the VTEPs that may send to this Segment here."""
        return (*self.flood, *self.routers)


@dataclass(frozen=True, slots=True)
class Publication:
    """The rows this node should have in the fabric database."""

    node: Node
    endpoints: tuple[Endpoint, ...]
    blocks: tuple[Block, ...]
    addresses: tuple[Address, ...] = ()
    devices: tuple[Device, ...] = ()


@dataclass(frozen=True, slots=True)
class Desired:
    """Everything the targets render from; immutable, complete, free of kernel numbers.

    ``segments`` are those present here, by name; ``routed`` others that share a Vrf with one of
    them: they are routed into, and nothing of theirs comes in. ``publication`` is None until the
    underlay address is known. ``kept`` are the rows to keep in local files, so that ADD works
    after a restart without the fabric database. ``functions`` are the network functions, kept
    there, too.
    """

    node: LocalNode
    fabric: Fabric
    vteps: tuple[IpAddress, ...]
    segments: Mapping[str, SegmentView]
    publication: Publication | None
    attachments: tuple[Attachment, ...]
    kept: tuple[FabricEntity, ...] = ()
    problems: tuple[str, ...] = ()
    routed: Mapping[str, SegmentView] = field(default_factory=dict)
    functions: tuple[NetworkFunction, ...] = ()

    @property
    def held(self) -> frozenset[int]:
        """Return the VNIs whose fabric view is incomplete: nothing of theirs may be taken away."""
        return frozenset(view.segment.vni for view in self._views if not view.synced)

    @property
    def peers(self) -> frozenset[IpAddress]:
        """Return the VTEPs of other nodes that this one can have tunnels with."""
        own = {vtep.version for vtep in self.vteps}
        others = (vtep for view in self._views for vtep in view.members)
        return frozenset(vtep for vtep in others if vtep.version in own)

    def of_vrf(self, gateway: Svi) -> tuple[SegmentView, ...]:
        """Return the views of all segments that ``gateway`` routes into, its own among them."""
        found = ((view, view.gateway) for view in self._views)
        return tuple(view for view, other in found if other and other.vrf == gateway.vrf)

    @property
    def _views(self) -> tuple[SegmentView, ...]:
        return (*self.segments.values(), *self.routed.values())

    @property
    def ports(self) -> tuple[Port, ...]:
        """Return every local port, in the order of its slot."""
        ports = [port for view in self.segments.values() for port in view.ports]
        return tuple(sorted(ports, key=lambda port: port.attachment.slot))

    @property
    def link_mtus(self) -> Mapping[int, int]:
        """Return the MTU of the netdevs of each slot, in bytes: of a trunk port the largest."""
        found: dict[int, int] = {}
        for port in self.ports:
            slot = port.attachment.slot
            found[slot] = max(port.mtu, found.get(slot, port.mtu))
        return found
