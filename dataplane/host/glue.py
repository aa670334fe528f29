"""The "glue" Target: joins netdevs by the kernel's own filters, on a node without eBPF.

vpN is joined with otN, and the underlay NIC with ophy0, as the eBPF programs do it: whatever a pod
sends and whatever peers send to our tunnels is for Open vSwitch. With the kernel's datapath nothing
is done at the NIC: the kernel's own tunnel sockets receive. What an earlier agent with eBPF
has left is taken away once the redirects are there; the other way round, bpf/target.py does it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import NamedTuple

from dataplane.core.desired import Bindings, Datapath, Desired
from dataplane.core.diff import Change, Item, Pending, Rendering
from dataplane.core.errors import OverweaveError, TargetError
from dataplane.core.model import Encap, Family, IpAddress, family_of
from dataplane.host.target import UNDERLAY_PORT
from dataplane.netlink import links, tc, u32
from dataplane.netlink.rtnl import Rtnl
from dataplane.netlink.tc import BpfFilter
from dataplane.netlink.u32 import Key, Listing, Place, Redirect

# Behind eBPF's 100, which goes first while both are there; hardware offload takes 1 to 99.
_PREFERENCE = 101
_PREFERENCES = {Family.IPV4: 102, Family.IPV6: 103}  # a place sees one ethertype

_ETHERTYPES = {Family.IPV4: 0x0800, Family.IPV6: 0x86DD}
_UDP = 17
_FABRIC_SCOPE = 0  # no segment has VNI 0: held while any segment's view is incomplete


class Match(NamedTuple):
    """What a redirect takes along, and where among the filters of its netdev it stands."""

    preference: int
    protocol: int
    keys: tuple[Key, ...]

    def redirect(self, source: int, target: int) -> Redirect:
        """Return the redirect from netdev ``source`` to ``target``."""
        return Redirect(Place(source, self.preference, self.protocol), self.keys, target)


_ALL = (Match(_PREFERENCE, u32.ETH_P_ALL, ()),)


@dataclass(frozen=True, slots=True)
class Joint:
    """A redirect as an item of the diff; ``netdev`` is the name it has, for messages only.

    One that is there may have to stay: a peer's whom an incomplete view does not show, or a pod's
    while its other end is gone, for the kernel drops then what would come to the host without it.
    """

    redirect: Redirect
    netdev: str = field(compare=False)
    scope: int | None = field(default=None, compare=False)

    @property
    def key(self) -> Hashable:
        """Return which joint this is."""
        return self.redirect.place, self.redirect.keys

    def __str__(self) -> str:
        """Name the netdev in an error."""
        return f"redirect on {self.netdev}"


@dataclass(frozen=True, slots=True)
class Foregone:
    """An eBPF filter of ours that nobody fills the maps of any more.

    It stays until the redirects of its netdev are there: without either, packets come to the host.
    """

    filter: BpfFilter
    netdev: str = field(compare=False)

    @property
    def scope(self) -> int:
        """Return the netdev it waits for."""
        return self.filter.slot.ifindex

    @property
    def key(self) -> Hashable:
        """Return which filter this is."""
        return self.filter.slot

    def __str__(self) -> str:
        """Name the netdev in an error."""
        return f"filter {self.filter.name} on {self.netdev}"


class GlueTarget:
    """The redirects of all netdevs in the calling thread's netns."""

    name = "glue"
    deadline_s = 5.0
    bound_by = frozenset({"ifindexes"})

    def render(self, desired: Desired, bindings: Bindings) -> Rendering:
        """Return the redirects between netdevs that exist; half a joint is pending."""
        items: dict[Hashable, Joint] = {}
        pending: list[Pending] = []
        held = set()
        if desired.held and desired.node.datapath is Datapath.USERSPACE:
            held = {_FABRIC_SCOPE, bindings.ifindexes.get(desired.node.underlay_interface, 0)}
        for about, source, target, matches in _wanted(desired):
            ends = [bindings.ifindexes.get(netdev) for netdev in (source, target)]
            if ends[0] is None or ends[1] is None:
                missing = source if ends[0] is None else target
                pending.append(Pending(about, f"there is no netdev {missing} yet"))
                held |= {ends[0]} if ends[0] is not None else set()
                continue
            for match in matches:
                # One wanted for a peer is wanted whatever an incomplete view may hold.
                scope = ends[0] if match in _ALL else None
                joint = Joint(match.redirect(ends[0], ends[1]), source, scope)
                items[joint.key] = joint
        return Rendering(items, tuple(dict.fromkeys(pending)), frozenset(held))

    def observe(self) -> Mapping[Hashable, Item]:
        """Return our redirects on all netdevs, and the filters that eBPF has left."""
        found: list[Joint | Foregone] = []
        with Rtnl() as rtnl:
            for netdev in links.every(rtnl):
                ours = u32.listing(rtnl, netdev.ifindex).ours
                found += (Joint(each, netdev.name, _scope(each)) for each in ours)
                found += (
                    Foregone(each, netdev.name)
                    for each in tc.list_bpf(rtnl, netdev.ifindex)
                    if each.name.startswith(tc.OWNER)
                )
        return {item.key: item for item in found}

    def apply(self, change: Change) -> None:
        """Make every change that can be made, then raise TargetError with all that could not."""
        faults = []
        with Rtnl() as rtnl:
            for item, step in _steps(rtnl, change):
                try:
                    step()
                except OverweaveError as error:
                    faults.append(f"{item}: {error}")
        if faults:
            raise TargetError("; ".join(dict.fromkeys(faults)))


def _steps(rtnl: Rtnl, change: Change) -> Iterator[tuple[object, Callable[[], None]]]:
    """Yield single changes in an order that no packet falls through."""
    present = cache(partial(u32.listing, rtnl))
    for joint in [*change.add.values(), *change.update.values()]:
        yield joint, partial(_attach, rtnl, joint, present)
    gone = [item.redirect for item in change.remove.values() if isinstance(item, Joint)]
    yield "redirects", partial(u32.delete, rtnl, gone)
    for item in change.remove.values():
        if isinstance(item, Foregone):
            yield item, partial(tc.delete_bpf, rtnl, item.filter.slot)


def _attach(rtnl: Rtnl, joint: Joint, present: Callable[[int], Listing]) -> None:
    """Add a redirect; one that led to another netdev is deleted then."""
    wanted, place = joint.redirect, joint.redirect.place
    tc.ensure_clsact(rtnl, place.ifindex)
    before = present(place.ifindex)
    other = before.others.get(place.preference)
    if other is not None:
        raise TargetError(
            f"pref {place.preference} is taken by a {other} filter of someone else; to list it run:"
            f" tc filter show dev {joint.netdev} ingress"
        )
    u32.add(rtnl, wanted)
    u32.delete(rtnl, [r for r in before.ours if (r.place, r.keys) == (place, wanted.keys)])


def _scope(redirect: Redirect) -> int:
    takes_all = redirect.place.preference == _PREFERENCE
    return redirect.place.ifindex if takes_all else _FABRIC_SCOPE


def _wanted(desired: Desired) -> Iterator[tuple[Hashable, str, str, tuple[Match, ...]]]:
    """Yield whom a joint is for, the netdevs it leads from and to, and what it takes along."""
    if desired.node.datapath is Datapath.USERSPACE:
        nic = desired.node.underlay_interface
        yield nic, nic, UNDERLAY_PORT, tuple(_tunnels(desired))
        yield nic, UNDERLAY_PORT, nic, _ALL
    # A blocked port is joined too: it is Open vSwitch that says who may send.
    for port in desired.ports:
        attachment = port.attachment
        access, inner = attachment.access_port, attachment.ovs_port
        yield attachment.key, access, inner, _ALL
        yield attachment.key, inner, access, _ALL


def _tunnels(desired: Desired) -> Iterator[Match]:
    """Yield what of the NIC's packets is ours: sent to our tunnels, by those that have some here.

    With exclusive ports strangers are Open vSwitch's, too, which lets none of them in.
    """
    fabric = desired.fabric
    for own in desired.vteps:
        family = family_of(own)
        if desired.node.exclusive_ports:
            for encap in Encap:
                yield _tunnel(own, None, fabric.port(encap))
            continue
        peers = {
            (vtep, fabric.port(view.segment.encap))
            for view in desired.segments.values()
            for vtep in view.members
            if family_of(vtep) is family
        }
        for vtep, port in sorted(peers, key=lambda peer: (int(peer[0]), peer[1])):
            yield _tunnel(own, vtep, port)


def _tunnel(own: IpAddress, peer: IpAddress | None, port: int) -> Match:
    """Return how to know a whole UDP packet without IP options (RFC 791, 768, 8200)."""
    family = family_of(own)
    if family is Family.IPV4:
        head = [Key(0, 0x45 << 24, 0xFF << 24), Key(4, 0, 0x3FFF), Key(8, _UDP << 16, 0xFF << 16)]
        source, destination, udp = 12, 16, 20
    else:
        head = [Key(4, _UDP << 8, 0xFF << 8)]  # a fragment has another header in between
        source, destination, udp = 8, 24, 40
    sender = _address(source, peer) if peer is not None else ()
    # The port comes first: it is what most packets of the host differ in.
    keys = (Key(udp, port, 0xFFFF), *head, *_address(destination, own), *sender)
    return Match(_PREFERENCES[family], _ETHERTYPES[family], keys)


def _address(offset: int, address: IpAddress) -> tuple[Key, ...]:
    words = struct.unpack(f"!{len(address.packed) // 4}I", address.packed)
    return tuple(Key(offset + 4 * number, word) for number, word in enumerate(words))
