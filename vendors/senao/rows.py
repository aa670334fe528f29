"""Which filters the placed entries need, with netdevs by name. Pure.

An endpoint behind a VTEP takes filters at the representor of each placed VF of its segment, and
its VTEP one for each of them at the tunnel device, so that its answers arrive. An endpoint behind
a VF takes filters at the representors of the others. A VF that is not placed has none, and none to
it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from dataplane.core.desired import Bindings, Desired, Port, RemoteEndpoint
from dataplane.core.diff import Item, Pending, Rendering
from dataplane.core.model import EntryKey, Guard, IpAddress, Mac, family_of
from dataplane.core.reasons import Reason
from dataplane.netlink.actions import Action, TunnelSet, TunnelUnset
from dataplane.netlink.flower import ETH_P_ALL, ETH_P_IP, ETH_P_IPV6, Match, Skip
from vendors.scene import NO_NIC, Scene
from vendors.senao.pipeline import Kind, Out, Row, Tunnel, Wiring, held_by

_HOP_LIMIT = 64  # as every path's
# ND is heard with a hop limit of 255 alone (RFC 4861 6.1, 7.1), and there is no key for ICMPv6. So
# IPv6 goes by the device with one below 128: no solicitation, advertisement or redirect does.
_NO_ND = (0x00, 0x80)
_TRIAL = 0  # no Kind
_NOBODY = "02:6f:77:74:72:79"
_NOWHERE = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")  # RFC 5737
_ETHERTYPES = {4: ETH_P_IP, 6: ETH_P_IPV6}


def render_rows(desired: Desired, bindings: Bindings, wiring: Wiring) -> Rendering:
    """Return the rows of ``bindings.placed``; an entry that cannot be expressed is pending."""
    plan = _Plan(wiring)
    for view in desired.segments.values():
        _plan_segment(plan, Scene(desired, bindings, view))
    return Rendering(plan.rows, tuple(plan.pending), plan.held)


def trial_row(netdev: str, tunnel: Tunnel, skip: Skip) -> Row:
    """Return a filter for frames that nobody sends, which says whether there can be tunnels."""
    match = Match(destination_mac=_NOBODY, ethertype=ETH_P_IP)
    near, far = _NOWHERE
    outer = TunnelSet(near, far, 1, tunnel.udp_port or 0, ttl=_HOP_LIMIT, dont_fragment=True)
    return Row(netdev, ETH_P_IP, match, (outer, Out(tunnel.netdev)), _TRIAL, 0, skip)


@dataclass(slots=True)
class _Plan:
    """A Rendering in the making."""

    wiring: Wiring
    rows: dict[Hashable, Item] = field(default_factory=dict)
    pending: list[Pending] = field(default_factory=list)
    held: set[int] = field(default_factory=set)

    def add(
        self, netdev: str, match: Match, actions: tuple[Action | Out, ...], why: tuple[Kind, int]
    ) -> None:
        """Add a filter; ``why`` is its kind and the VNI."""
        protocol = match.ethertype or ETH_P_ALL
        row = Row(netdev, protocol, match, actions, *why, self.wiring.skip)
        self.rows[row.key] = row

    def refuse(self, key: EntryKey, reason: Reason, detail: str) -> None:
        """Call an entry pending."""
        self.pending.append(Pending(key, f"{reason}: {detail}"))


def _plan_segment(plan: _Plan, scene: Scene) -> None:
    """Plan what the placed entries of a segment need."""
    local = list(_local_entries(plan, scene))
    remotes = list(_remote_entries(plan, scene, is_reached=bool(local)))
    for port in local:
        if not scene.view.synced:
            own = port.attachment
            sent = _sent(port, own.mac)
            plan.held |= held_by(scene.segment.vni, own.netdev, own.mac, sent)
        for remote in remotes:
            _plan_out(plan, scene, port, remote)
        for other in local:
            if other is not port:
                _plan_between(plan, scene, port, other)
        for vtep in {remote.vtep for remote in remotes}:
            _plan_in(plan, scene, vtep, port)


def _local_entries(plan: _Plan, scene: Scene) -> Iterator[Port]:
    """Yield the placed endpoints behind VFs that can be expressed; say why others cannot."""
    for port in scene.view.ports:
        key = scene.key(port.attachment.mac)
        if key not in scene.bindings.placed:
            continue
        why = scene.why_not_at(port, plan.wiring.representors)
        if why is None:
            yield port
        else:
            plan.refuse(key, *why)


def _remote_entries(plan: _Plan, scene: Scene, *, is_reached: bool) -> Iterator[RemoteEndpoint]:
    """Yield the placed endpoints of other nodes that can be expressed; say why others cannot."""
    for remote in scene.view.remotes:
        key = scene.key(remote.endpoint.mac)
        if key not in scene.bindings.placed:
            continue
        why = _why_not_to(plan, scene, remote.vtep, is_reached=is_reached)
        if why is None:
            yield remote
        else:
            plan.refuse(key, *why)


def _why_not_to(
    plan: _Plan, scene: Scene, vtep: IpAddress, *, is_reached: bool
) -> tuple[Reason, str] | None:
    """Return why no frame can be sent to a VTEP."""
    if scene.bindings.nic is None:
        return Reason.NO_NEXTHOP, NO_NIC
    if not is_reached:
        detail = f"no VF of this switch on segment {scene.segment.name} is placed"
        return Reason.NO_SWITCH_PORT, detail
    if fault := _tunnel_fault(plan, scene):
        return Reason.UNSUPPORTED_ENCAP, fault
    if scene.own(vtep) is None:
        detail = f"this node has no {family_of(vtep)} VTEP address to send from"
        return Reason.UNSUPPORTED_ENCAP, detail
    if vtep not in scene.bindings.next_hops:
        return Reason.NO_NEXTHOP, f"the MAC of the next hop to {vtep} is not known yet"
    return None


def _tunnel_fault(plan: _Plan, scene: Scene) -> str:
    """Return why the device has no tunnels of the segment's encapsulation."""
    encap = scene.segment.encap
    tunnel = plan.wiring.tunnels.get(encap)
    if tunnel is None:
        return f"it has no tunnels of {encap} (describe says why)"
    return tunnel.why_unfit(encap, scene.desired.fabric)


# --- the filters -----------------------------------------------------------------------------


def _plan_out(plan: _Plan, scene: Scene, port: Port, remote: RemoteEndpoint) -> None:
    """Plan frames of a VF to an endpoint behind a VTEP."""
    own, segment, vtep = scene.own(remote.vtep), scene.segment, remote.vtep
    if own is None:
        return  # it has been refused
    outer = TunnelSet(
        source=own,
        target=vtep,
        key=segment.vni,
        port=scene.desired.fabric.port(segment.encap),
        ttl=_HOP_LIMIT,
        checksum=False,
        dont_fragment=vtep.version == 4,
    )
    actions = (outer, Out(plan.wiring.tunnels[segment.encap].netdev))
    for match in _sent(port, remote.endpoint.mac):
        plan.add(port.attachment.netdev, match, actions, (Kind.OUT, segment.vni))


def _plan_between(plan: _Plan, scene: Scene, port: Port, other: Port) -> None:
    """Plan frames of a VF to an endpoint behind another one."""
    actions = (Out(other.attachment.netdev),)
    for match in _sent(port, other.attachment.mac):
        plan.add(port.attachment.netdev, match, actions, (Kind.BETWEEN, scene.segment.vni))


def _plan_in(plan: _Plan, scene: Scene, vtep: IpAddress, port: Port) -> None:
    """Plan tunnel packets of a VTEP for an endpoint behind a VF."""
    own, segment = scene.own(vtep), scene.segment
    if own is None or _tunnel_fault(plan, scene):
        return  # nothing of the kind can arrive
    match = Match(
        destination_mac=port.attachment.mac,
        tunnel_key=segment.vni,
        tunnel_source=vtep,
        tunnel_target=own,
        tunnel_port=scene.desired.fabric.port(segment.encap),
    )
    actions = (TunnelUnset(), Out(port.attachment.netdev))
    plan.add(plan.wiring.tunnels[segment.encap].netdev, match, actions, (Kind.IN, segment.vni))


def _sent(port: Port, target: Mac) -> Iterator[Match]:
    """Yield what a VF may send to an endpoint by way of the device, by its guard.

    Each names an ethertype, so that ARP and tags are left to the software.
    """
    source_mac = None if port.guard is Guard.OFF else port.attachment.mac
    sources = port.attachment.ips if port.guard is Guard.IP else (None, None)
    versions = [ip.version for ip in port.attachment.ips] if port.guard is Guard.IP else [4, 6]
    for version, source in zip(versions, sources, strict=True):
        yield Match(
            destination_mac=target,
            source_mac=source_mac,
            ethertype=_ETHERTYPES[version],
            source=source,
            ttl=_NO_ND if version == 6 else None,
        )
