"""Many entries for a DPU's switch: four segments with a VF each, and endpoints behind VTEPs."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from itertools import cycle

from dataplane.core.capability import Capability
from dataplane.core.desired import (
    Bindings,
    Desired,
    LocalNode,
    Port,
    RemoteEndpoint,
    SegmentView,
)
from dataplane.core.errors import OverweaveError
from dataplane.core.events import Link
from dataplane.core.model import (
    Attachment,
    Encap,
    Endpoint,
    EntryKey,
    Fabric,
    Family,
    Guard,
    IpAddress,
    Mac,
    Segment,
    Vni,
)
from dataplane.core.offload import PROMOTE_AT, SwitchView
from vendors.registry import Driver

NODE = "d1"
SMALL_TABLE = 1024  # rows: the smallest table of the three vendors' switches
_MTU = 1400
_NIC = Link("eth0", 1, "02:00:00:00:00:01", 1500, up=True)


@dataclass(frozen=True, slots=True)
class Scale:
    """Behind how many VTEPs a segment's endpoints are, and what checks their senders."""

    vteps: int = 16
    guard: Guard = Guard.IP


_SEGMENTS = tuple(
    Segment(f"{encap}-{family}", Vni(5001 + number), encap, family)
    for number, (encap, family) in enumerate((e, f) for e in Encap for f in Family)
)


def desired(
    count: int,
    vteps: Sequence[IpAddress],
    representors: Sequence[str],
    scale: Scale = Scale(),  # a frozen one
) -> Desired:
    """Return a node's desired state with ``count`` endpoints in all, of which each VF is one.

    ``vteps`` are the node's own. No two endpoints share a MAC.
    """
    far = (count - len(_SEGMENTS)) // len(_SEGMENTS)
    segments = [replace(segment, guard=scale.guard) for segment in _SEGMENTS]
    views = {
        segment.name: _view(segment, number, _remotes(segment, number, far, scale), representor)
        for number, (segment, representor) in enumerate(zip(segments, representors, strict=False))
    }
    return Desired(
        node=LocalNode(NODE, _NIC.name),
        fabric=Fabric(),
        vteps=tuple(vteps),
        segments=views,
        publication=None,
        attachments=tuple(port.attachment for view in views.values() for port in view.ports),
    )


def local_keys(wanted: Desired) -> frozenset[EntryKey]:
    """Return the keys of the entries of VFs."""
    views = wanted.segments.values()
    return frozenset(
        EntryKey(view.segment.vni, port.attachment.mac) for view in views for port in view.ports
    )


def keys(wanted: Desired) -> frozenset[EntryKey]:
    """Return the keys of all entries."""
    views = wanted.segments.values()
    far = {EntryKey(view.segment.vni, each.endpoint.mac) for view in views for each in view.remotes}
    return local_keys(wanted) | far


def bindings(wanted: Desired, placed: frozenset[EntryKey]) -> Bindings:
    """Return bindings in which the way to every VTEP is known and ``placed`` is to be held."""
    return Bindings(_NIC, next_hops=next_hops(wanted), placed=placed)


def all_placed(wanted: Desired) -> Bindings:
    """Return bindings in which everything is to be held."""
    return bindings(wanted, keys(wanted))


def answers(switch: Driver) -> bool:
    """Say whether the device is there, and ours to write."""
    try:
        return not switch.describe().obstacle
    except OverweaveError:
        return False


def expect(node: str, good: bool, fault: str) -> None:  # noqa: FBT001 - what is expected
    """Raise OverweaveError, of the switch of ``node``, unless ``good``."""
    if not good:
        raise OverweaveError(f"the switch of {node}: {fault}")


def next_hops(wanted: Desired) -> Mapping[IpAddress, Mac]:
    """Return a MAC for every VTEP."""
    vteps = sorted({vtep for view in wanted.segments.values() for vtep in view.flood}, key=int)
    return {vtep: _mac(0xBB, number) for number, vtep in enumerate(vteps)}


def busy(wanted: Desired, capability: Capability) -> SwitchView:
    """Return the view of a switch all of whose entries forward enough for a row."""
    chance = random.Random(1)  # the same in every run
    rates = {key: PROMOTE_AT * (1 + 1000 * chance.random()) for key in sorted(keys(wanted))}
    return SwitchView(capability, rates=rates, held=frozenset())


def small(capability: Capability) -> Capability:
    """Return a switch that is as ``capability`` says, but for its small tables."""
    tables = tuple(
        replace(table, capacity=min(table.capacity, SMALL_TABLE)) for table in capability.tables
    )
    return replace(capability, tables=tables)


def _view(
    segment: Segment, number: int, remotes: tuple[RemoteEndpoint, ...], representor: str
) -> SegmentView:
    flood = tuple(sorted({remote.vtep for remote in remotes}, key=int))
    port = Port(_attachment(segment, number, representor), segment, _MTU)
    return SegmentView(segment, synced=True, mtu=_MTU, ports=(port,), remotes=remotes, flood=flood)


def _attachment(segment: Segment, number: int, representor: str) -> Attachment:
    return Attachment(
        container_id=f"vf{number}",
        ifname="eth0",
        netns="",
        segment=segment.name,
        mac=_mac(0xAA, number),
        ips=(IPv4Address("10.0.0.1"), IPv6Address("fd00::1")),
        identity=f"vf{number}/eth0",
        slot=number,
        sequence=1,
        netdev=representor,
    )


def _remotes(segment: Segment, number: int, far: int, scale: Scale) -> tuple[RemoteEndpoint, ...]:
    vteps = [_vtep(segment.underlay, each) for each in range(scale.vteps)]
    macs = [_mac(0xC0 + number, each) for each in range(far)]
    ends = enumerate(zip(macs, cycle(vteps), strict=False))
    return tuple(_remote(segment, each, mac, vtep) for each, (mac, vtep) in ends)


def _remote(segment: Segment, number: int, mac: Mac, vtep: IpAddress) -> RemoteEndpoint:
    name = f"far{number}"
    ips = (IPv4Address("10.0.0.2") + number, IPv6Address("fd00::2") + number)
    endpoint = Endpoint(segment.name, f"n{vtep}", mac, ips, f"{name}/eth0", 1, name, "eth0")
    return RemoteEndpoint(endpoint, vtep)


@cache  # endpoints of a node share what its row says
def _vtep(family: Family, number: int) -> IpAddress:
    first = "198.51.100.1" if family is Family.IPV4 else "2001:db8:51::1"
    return (IPv4Address if family is Family.IPV4 else IPv6Address)(first) + number


def _mac(kind: int, number: int) -> Mac:
    return Mac(f"02:{kind:02x}:00:00:{number >> 8:02x}:{number & 0xFF:02x}")
