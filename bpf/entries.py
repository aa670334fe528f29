"""Entries of the fast path's maps: which they are, and what should be in them. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from bpf.layout import (
    PRESENT,
    EntryKind,
    LocalEntry,
    OwnFlag,
    RemoteEntry,
    TunnelSocket,
    decode_ifindex,
    decode_socket,
    decode_vni,
    encode_entry,
    encode_entry_key,
    encode_ifindex,
    encode_member,
    encode_neighbour,
    encode_neighbour_key,
    encode_nic,
    encode_own,
    encode_port,
    encode_socket,
    is_local_neighbour,
    is_remote_entry,
)
from dataplane.core.addressing import eui64_link_local
from dataplane.core.desired import Bindings, Desired, Port, PortState, RemoteEndpoint, SegmentView
from dataplane.core.events import Link
from dataplane.core.functions import Role
from dataplane.core.model import Encap, Guard, IpAddress, Mac, Svi, Vni, family_of

_BY_VNI = frozenset({"neighbours", "entries", "members"})  # their keys begin with the VNI
_CACHE = 1 << 17
_ALL_SEGMENTS = 0  # no VNI: the scope of what waits for every segment's view


@dataclass(frozen=True, slots=True)
class EntryItem:
    """An entry of a map, in its own bytes (bpf/layout.py)."""

    map_name: str
    map_key: bytes
    value: bytes

    @property
    def key(self) -> Hashable:
        """Return which entry this is."""
        return (self.map_name, self.map_key)

    @property
    def scope(self) -> int | None:
        """Return the VNI of what came from the fabric; what is of this node waits for nothing.

        But for ``own``: it says whether strangers are turned away, and that takes every view.
        """
        if self.map_name == "own":
            return _ALL_SEGMENTS
        if self.map_name not in _BY_VNI:
            return None
        if self.map_name == "entries" and not is_remote_entry(self.value):
            return None
        if self.map_name == "neighbours" and is_local_neighbour(self.value):
            return None
        return decode_vni(self.map_key)

    def __str__(self) -> str:
        """Name the entry in an error."""
        if self.map_name == "own":
            own = decode_socket(self.map_key)
            return f"own address {own.address} with port {own.port}"
        if self.map_name in _BY_VNI:
            return f"entry {self.map_key[4:].hex(':')} of VNI {decode_vni(self.map_key)}"
        return f"{self.map_name} of netdev {decode_ifindex(self.map_key[:4])}"


@dataclass(frozen=True, slots=True)
class _Way:
    """How a segment's other nodes are reached: the NIC, our VTEP, and what is written outside."""

    vni: Vni
    ifindex: int
    local: IpAddress
    encap: Encap
    port: int


def held_scopes(desired: Desired) -> frozenset[int]:
    """Return the scopes that nothing is taken from now: a view of them is not whole."""
    return desired.held | {_ALL_SEGMENTS} if desired.held else desired.held


def own_sockets(desired: Desired) -> Iterator[EntryItem]:
    """Yield the UDP sockets that tunnel packets come to.

    Where none was before, Open vSwitch has them until all peers are known that may send to it.
    """
    fast = desired.node.fastpath and not desired.held
    flags = OwnFlag.FAST if fast else OwnFlag.NONE
    flags |= OwnFlag.EXCLUSIVE if desired.node.exclusive_ports else OwnFlag.NONE
    for vtep in desired.vteps:
        for encap in Encap:
            key = encode_socket(TunnelSocket(vtep, desired.fabric.port(encap)))
            yield EntryItem("own", key, encode_own(encap, flags))


def own_nic(nic: Link) -> EntryItem:
    """Return what the program in the driver of an underlay NIC must know of it."""
    return EntryItem("nics", encode_ifindex(nic.ifindex), encode_nic(nic.mac))


def fast_entries(desired: Desired, bindings: Bindings) -> Iterator[EntryItem]:
    """Yield what the fast path may do by itself; of one key the last counts, our own pods.

    Switched off it still knows the peers: until ``own`` says so, too, they would be strangers.
    """
    for view in desired.segments.values():
        way = _way(desired, bindings, view)
        if way is not None:
            yield from _members(view, way)
        if not desired.node.fastpath:
            continue
        for remote in view.remotes if way is not None else ():
            yield from _remote(way, remote)
        for port in view.ports:
            ifindex = bindings.ifindexes.get(port.attachment.access_port)
            # The programs see no tag, so a trunk port is left to Open vSwitch, both ways.
            is_plain = port.state is PortState.ACTIVE and port.attachment.vlan is None
            if ifindex is not None and is_plain:
                entries = _port_entries(port, ifindex)
                # What a network function has to do with is Open vSwitch's, but who has an address.
                steered = port.role is not Role.PLAIN
                yield from (e for e in entries if not steered or e.map_name == "neighbours")
        if view.gateway is not None:
            yield from _gateway(view.segment.vni, view.gateway)


def _way(desired: Desired, bindings: Bindings, view: SegmentView) -> _Way | None:
    segment = view.segment
    nic = bindings.ifindexes.get(desired.node.underlay_interface)
    own = [vtep for vtep in desired.vteps if family_of(vtep) is segment.underlay]
    if nic is None or not own:
        return None
    return _Way(segment.vni, nic, own[0], segment.encap, desired.fabric.port(segment.encap))


def _members(view: SegmentView, way: _Way) -> Iterator[EntryItem]:
    for vtep in view.members:
        yield EntryItem("members", encode_member(way.vni, way.encap, vtep), PRESENT)


@lru_cache(_CACHE)
def _gateway(vni: Vni, gateway: Svi) -> tuple[EntryItem, ...]:
    """Return what its address is answered with; what is sent to its MAC, Open vSwitch routes."""
    ips = (*gateway.ips, eui64_link_local(gateway.mac))
    return tuple(_neighbours(vni, gateway.mac, ips, local=True))


@lru_cache(_CACHE)
def _remote(way: _Way, remote: RemoteEndpoint) -> tuple[EntryItem, ...]:
    mac = remote.endpoint.mac
    entry = RemoteEntry(way.ifindex, way.encap, way.port, way.local, remote.vtep)
    return (
        EntryItem("entries", encode_entry_key(way.vni, mac), encode_entry(entry)),
        *_neighbours(way.vni, mac, remote.endpoint.answered, local=False),
    )


@lru_cache(_CACHE)
def _port_entries(port: Port, ifindex: int) -> tuple[EntryItem, ...]:
    attachment, vni, guard = port.attachment, port.segment.vni, port.guard
    mac = attachment.mac
    sources = (eui64_link_local(mac), *attachment.ips) if guard is Guard.IP else ()
    value = encode_port(vni, port.mtu, mac, guard, sources)
    # A representor has no other end in a pod's namespace that a packet could be put into.
    kind = EntryKind.NETDEV if attachment.netdev else EntryKind.VETH
    entry = LocalEntry(ifindex, kind)
    return (
        EntryItem("ports", encode_ifindex(ifindex), value),
        EntryItem("entries", encode_entry_key(vni, mac), encode_entry(entry)),
        *_neighbours(vni, mac, port.answered, local=True),
    )


def _neighbours(vni: Vni, mac: Mac, ips: tuple[IpAddress, ...], *, local: bool) -> list[EntryItem]:
    value = encode_neighbour(mac, local=local)
    return [EntryItem("neighbours", encode_neighbour_key(vni, ip), value) for ip in ips]
