"""Everything the deciding thread can be told; nothing else changes its mind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dataplane.core.capability import Capability
from dataplane.core.diff import Pending
from dataplane.core.discovered import Found
from dataplane.core.functions import NetworkFunction
from dataplane.core.model import (
    Attachment,
    AttachmentKey,
    Device,
    EntryKey,
    FabricEntity,
    IpAddress,
    Mac,
)


@dataclass(frozen=True, slots=True)
class Link:
    """A netdev of this node as the kernel reports it; ``mtu`` in bytes; ``kind``: "veth" or so.

    Without a ``carrier``, or down, it takes no frames.
    """

    name: str
    ifindex: int
    mac: str
    mtu: int
    up: bool
    addresses: tuple[IpAddress, ...] = ()
    kind: str = ""
    carrier: bool = True


@dataclass(frozen=True, slots=True)
class LinksChanged:
    """Netdevs that exist (new or changed) and names of those that ceased to; the first: all."""

    links: tuple[Link, ...] = ()
    gone: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NextHopsChanged:
    """The MACs that packets to these VTEPs leave the NIC with; None: it is not asked for now."""

    macs: Mapping[IpAddress, Mac | None]


@dataclass(frozen=True, slots=True)
class OfportChanged:
    """OVS gave an interface its OpenFlow port number; None: it has none, ``error`` says why."""

    interface: str
    ofport: int | None
    error: str = ""


@dataclass(frozen=True, slots=True)
class SwitchSeen:
    """What the DPU's switch says it can do; None: it does not answer, ``error`` says why."""

    capability: Capability | None
    error: str = ""


@dataclass(frozen=True, slots=True)
class PathProbed:
    """Whether probes come through ``path`` of the DPU that this node is; ``error``: why not."""

    path: str
    error: str = ""


@dataclass(frozen=True, slots=True)
class HalfHeard:
    """The other half of ``device``, one of this node's, is heard, or is not and ``error`` why.

    ``at`` is when it last was, in unix seconds, 0: never. ``peer`` is the node it says that it is,
    ``obstacle`` why it is of no use although it answers.
    """

    device: str
    at: int
    peer: str = ""
    error: str = ""
    obstacle: str = ""


@dataclass(frozen=True, slots=True)
class DevicesConfigured:
    """The halves of DPUs that this node has from now on, as its configuration says."""

    devices: tuple[Device, ...]


@dataclass(frozen=True, slots=True)
class DevicesTold:
    """What this node tells the fabric of the halves of DPUs that it is (core/inventory)."""

    devices: tuple[Device, ...]


@dataclass(frozen=True, slots=True)
class DevicesFound:
    """Every half of a DPU that this machine has now; before the first word it has none."""

    found: tuple[Found, ...]


@dataclass(frozen=True, slots=True)
class AddressesLearned:
    """All that the endpoints here claim by ARP and ND, by OVS port (core/learning)."""

    addresses: Mapping[str, tuple[IpAddress, ...]]


@dataclass(frozen=True, slots=True)
class TrafficMeasured:
    """How much each entry forwards, on all paths together, in packets per second.

    ``held`` are the entries that the switch itself says it holds.
    """

    rates: Mapping[EntryKey, float]
    held: frozenset[EntryKey] = frozenset()


@dataclass(frozen=True, slots=True)
class FabricChanged:
    """Rows of the fabric database that exist (new or changed) and rows that ceased to exist."""

    upserts: tuple[FabricEntity, ...] = ()
    deletes: tuple[FabricEntity, ...] = ()


@dataclass(frozen=True, slots=True)
class FabricConnection:
    """The fabric database answers, or does not and why."""

    connected: bool
    error: str = ""


@dataclass(frozen=True, slots=True)
class FabricSynced:
    """The rows seen are complete: for the base tables (``segment`` None) or for one segment.

    ``watch`` is the number under which the segment was asked for: a word on an earlier time, since
    when the rows were given up, does not count.
    """

    segment: str | None = None
    watch: int = 0


@dataclass(frozen=True, slots=True)
class AttachRequest:
    """A container runtime asks for an interface; empty ``ips`` and no ``mac``: we choose.

    ``ipam`` is true if addresses come from a named IPAM plugin (then ``ips`` are taken as given).
    ``wait_for_fabric`` is false once the caller has waited long enough for the database.
    ``network`` is the name in the CNI network configuration. ``requested_at`` is when it was made,
    in whole unix seconds. ``netdev`` is the representor of the DPU's port that the interface is
    behind, empty: a veth pair is made. ``vlan`` is the tag of its frames there, None: they have
    none. ``again``: it has had ``mac`` and ``ips`` from this node,
    which has forgotten it.
    """

    key: AttachmentKey
    netns: str
    segment: str
    identity: str
    requested_at: int
    mac: Mac | None = None
    ips: tuple[IpAddress, ...] = ()
    ipam: bool = False
    mtu: int | None = None
    wait_for_fabric: bool = True
    network: str = ""
    netdev: str = ""
    vlan: int | None = None
    again: bool = False


@dataclass(frozen=True, slots=True)
class PodConnected:
    """The pod's end of an attachment is there: what is for the workload may come to it."""

    key: AttachmentKey


@dataclass(frozen=True, slots=True)
class TakenOver:
    """All of this node serves an attachment with its pod: others may be told that it is here."""

    key: AttachmentKey


@dataclass(frozen=True, slots=True)
class AttachCancelled:
    """A request is given up: what was reserved for it is free again."""

    key: AttachmentKey


@dataclass(frozen=True, slots=True)
class AttachmentsLoaded:
    """What the local files of an earlier run hold: attachments, segments, blocks, functions."""

    attachments: tuple[Attachment, ...]
    entities: tuple[FabricEntity, ...]
    functions: tuple[NetworkFunction, ...] = ()


@dataclass(frozen=True, slots=True)
class Detached:
    """An attachment is gone: DEL, GC, or a tombstone."""

    key: AttachmentKey


@dataclass(frozen=True, slots=True)
class FunctionCreated:
    """The traffic of a segment is to pass a network function on this node."""

    function: NetworkFunction


@dataclass(frozen=True, slots=True)
class FunctionDeleted:
    """It is not to pass it any more."""

    function: NetworkFunction


@dataclass(frozen=True, slots=True)
class TargetReport:
    """A Target has converged on ``generation``, or says why not."""

    target: str
    generation: int
    error: str = ""
    pending: tuple[Pending, ...] = ()


StateEvent = (
    LinksChanged
    | NextHopsChanged
    | OfportChanged
    | SwitchSeen
    | PathProbed
    | HalfHeard
    | DevicesConfigured
    | DevicesTold
    | DevicesFound
    | AddressesLearned
    | TrafficMeasured
    | FabricChanged
    | FabricConnection
    | FabricSynced
    | AttachRequest
    | PodConnected
    | TakenOver
    | AttachCancelled
    | AttachmentsLoaded
    | Detached
    | FunctionCreated
    | FunctionDeleted
)
Event = StateEvent | TargetReport
