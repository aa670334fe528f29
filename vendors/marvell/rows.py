"""Which rows the DPU's bridge should hold for the entries placed in it. Pure.

A remote endpoint takes its own row, those of its VTEP, and those of every placed VF of its
segment: who reaches it must be allowed to, and its answers must arrive. An endpoint behind a VF
takes the rows of that VF, which other VFs reach it by. A VF that is not placed has no row.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from dataplane.core.desired import Bindings, Desired, Port, RemoteEndpoint
from dataplane.core.diff import Item, Pending, Rendering
from dataplane.core.events import Link
from dataplane.core.model import Encap, EntryKey, Guard, IpAddress, family_of
from dataplane.core.overhead import encap_overhead
from dataplane.core.reasons import Reason
from ovs_client.ofctl import Flow, FlowKey
from vendors.marvell.common import common_flows, tunnel_port
from vendors.marvell.pipeline import (
    CLASSIFY,
    CLASSIFY_PRIORITY,
    FABRIC_SCOPE,
    FORWARD,
    GUARD,
    MARK_BACK,
    MARK_OUT,
    MISS,
    TO_TUNNELS,
    TUNNEL,
    TUNNEL_PORTS,
    WIRE,
    Category,
    Neighbour,
    Route,
    Row,
    TunnelPort,
    Wiring,
    cookie,
    flow,
    goto,
)
from vendors.scene import NO_NIC, Scene

_ETHERNET = 14

NO_ENTRIES: frozenset[EntryKey] = frozenset()


def render_rows(desired: Desired, bindings: Bindings, wiring: Wiring) -> Rendering:
    """Return the rows of ``bindings.placed``; an entry that cannot be expressed is pending."""
    plan = _Plan(wiring)
    _plan_claim(plan, desired)
    for view in desired.segments.values():
        _plan_segment(plan, _Scene(desired, bindings, view))
    if plan.rows and bindings.nic is not None:
        _plan_pipeline(plan, bindings.nic)
    held = desired.held
    return Rendering(plan.items(), tuple(plan.pending), held | ({FABRIC_SCOPE} if held else set()))


@dataclass(slots=True)
class _Plan:
    """A Rendering in the making."""

    wiring: Wiring
    rows: dict[FlowKey, Row] = field(default_factory=dict)
    others: dict[Hashable, Item] = field(default_factory=dict)
    pending: list[Pending] = field(default_factory=list)
    sources: set[IpAddress] = field(default_factory=set)  # our own VTEPs that are in use

    def add(
        self,
        item: Flow,
        entries: AbstractSet[EntryKey],
        *,
        firm: bool = False,
        owner: EntryKey | None = None,
    ) -> None:
        """Add a flow; of two that exclude each other one stays, whatever their order."""
        row = Row(item, frozenset(entries), firm, owner)
        known = self.rows.get(item.key)
        if known is not None:
            first = min(known, row, key=lambda each: (each.flow.actions, each.flow.cookie))
            row = replace(first, entries=known.entries | row.entries, firm=known.firm or firm)
        self.rows[item.key] = row

    def refuse(self, key: EntryKey, reason: Reason, detail: str) -> None:
        """Call an entry pending."""
        self.pending.append(Pending(key, f"{reason}: {detail}"))

    def items(self) -> dict[Hashable, Item]:
        """Return all that is planned."""
        return {**self.others, **dict[Hashable, Item](self.rows.items())}


class _Scene(Scene):
    """One segment, and what is known around it."""

    __slots__ = ()

    @property
    def largest_frame(self) -> int:
        """Return the bytes of the largest frame that the underlay carries encapsulated."""
        nic = self.bindings.nic
        mtu = self.view.mtu if nic is None else nic.mtu - self._overhead
        return mtu + _ETHERNET

    @property
    def _overhead(self) -> int:
        return encap_overhead(self.segment.encap, self.segment.underlay)


def _plan_segment(plan: _Plan, scene: _Scene) -> None:
    """Plan what the placed entries of a segment need."""
    local = list(_local_entries(plan, scene))
    remotes = list(_remote_entries(plan, scene, is_reached=bool(local)))
    far = frozenset(key for key, _ in remotes)
    for key, port in local:
        _plan_port(plan, scene, port, far | {key})
    needed_by: dict[IpAddress, set[EntryKey]] = {}
    for key, remote in remotes:
        needed_by.setdefault(remote.vtep, set()).add(key)
        _plan_remote(plan, scene, key, remote.vtep)
    for vtep, entries in needed_by.items():
        _plan_member(plan, scene, vtep, entries)


def _local_entries(plan: _Plan, scene: _Scene) -> Iterator[tuple[EntryKey, Port]]:
    """Yield the placed endpoints behind VFs that can be expressed; say why others cannot."""
    for port in scene.view.ports:
        key = EntryKey(scene.segment.vni, port.attachment.mac)
        if key not in scene.bindings.placed:
            continue
        why = scene.why_not_at(port, plan.wiring.vfs)
        if why is None:
            yield key, port
        else:
            plan.refuse(key, *why)


def _remote_entries(
    plan: _Plan, scene: _Scene, *, is_reached: bool
) -> Iterator[tuple[EntryKey, RemoteEndpoint]]:
    """Yield the placed endpoints of other nodes that can be expressed; say why others cannot."""
    for remote in scene.view.remotes:
        key = EntryKey(scene.segment.vni, remote.endpoint.mac)
        if key not in scene.bindings.placed:
            continue
        if scene.bindings.nic is None:
            plan.refuse(key, Reason.NO_NEXTHOP, NO_NIC)
        elif not is_reached:
            detail = f"no VF of this switch on segment {scene.segment.name} is placed"
            plan.refuse(key, Reason.NO_SWITCH_PORT, detail)
        elif scene.own(remote.vtep) is None:
            detail = f"this node has no {family_of(remote.vtep)} VTEP address to send from"
            plan.refuse(key, Reason.UNSUPPORTED_ENCAP, detail)
        elif remote.vtep not in scene.bindings.next_hops:
            detail = f"the MAC of the next hop to {remote.vtep} is not known yet"
            plan.refuse(key, Reason.NO_NEXTHOP, detail)
        else:
            yield key, remote


# --- the rows of each part -------------------------------------------------------------------


def _plan_port(plan: _Plan, scene: _Scene, port: Port, entries: AbstractSet[EntryKey]) -> None:
    """Plan a VF: what it may send, where its misses go, and what is sent to it."""
    vni, attachment = scene.segment.vni, port.attachment
    vf, owner = plan.wiring.vfs[attachment.netdev], cookie(Category.PORT, vni)
    enter = (
        f"set_field:{vni:#x}->reg0,check_pkt_larger({scene.largest_frame})->NXM_NX_REG3[0],"
        f"{goto(GUARD)}"
    )
    flows = [
        flow(CLASSIFY, CLASSIFY_PRIORITY, f"in_port={vf}", enter, owner),
        *(flow(GUARD, 100, match, goto(FORWARD), owner) for match in _allowed(port, vf)),
        flow(MISS, 100, f"in_port={vf}", f"output:{attachment.netdev}", owner),
        flow(FORWARD, 110, f"dl_dst={attachment.mac},reg0={vni:#x}", f"output:{vf}", owner),
    ]
    for item in flows:
        plan.add(item, entries, firm=True, owner=EntryKey(vni, attachment.mac))


def _allowed(port: Port, vf: str) -> Iterator[str]:
    """Yield what a VF may send, by its guard."""
    here = f"in_port={vf},dl_src={port.attachment.mac}"
    if port.guard is Guard.OFF:
        yield f"in_port={vf}"
    elif port.guard is Guard.MAC:
        yield here
    else:
        for ip in port.attachment.ips:
            yield f"{here},ip,nw_src={ip}" if ip.version == 4 else f"{here},ipv6,ipv6_src={ip}"


def _plan_remote(plan: _Plan, scene: _Scene, key: EntryKey, vtep: IpAddress) -> None:
    """Plan an endpoint of another node, and the next hop to it."""
    vni, encap = scene.segment.vni, scene.segment.encap
    target = "tun_dst" if vtep.version == 4 else "tun_ipv6_dst"
    send = (
        f"set_field:{vni:#x}->tun_id,set_field:{vtep}->{target},"
        f"set_field:{MARK_OUT:#x}->pkt_mark,output:{TUNNEL_PORTS[encap]}"
    )
    match = f"dl_dst={key.mac},reg0={vni:#x},reg2=0,reg3=0"
    plan.add(flow(FORWARD, 100, match, send, cookie(Category.REMOTE, vni)), {key})
    nic, next_hop = scene.bindings.nic, scene.bindings.next_hops[vtep]
    if nic is not None:
        to = f"ip,nw_dst={vtep}" if vtep.version == 4 else f"ipv6,ipv6_dst={vtep}"
        leave = (
            f"set_field:{nic.mac}->eth_src,set_field:{next_hop}->eth_dst,"
            f"output:{plan.wiring.uplink}"
        )
        wire = flow(WIRE, 100, f"{to},pkt_mark={MARK_OUT:#x}", leave, cookie(Category.VTEP))
        plan.add(wire, {key}, firm=True)


def _plan_member(
    plan: _Plan, scene: _Scene, vtep: IpAddress, entries: AbstractSet[EntryKey]
) -> None:
    """Plan what a VTEP sends on a segment; it is taken in by family and UDP port."""
    own, segment = scene.own(vtep), scene.segment
    if own is None:
        return  # nothing of that family can arrive
    number = scene.desired.fabric.port(segment.encap)
    here, source = f"in_port={plan.wiring.uplink}", "tun_src"
    packet = f"{here},udp,nw_src={vtep},nw_dst={own},nw_frag=no,tp_dst={number}"
    if vtep.version == 6:
        source = "tun_ipv6_src"
        packet = f"{here},udp6,ipv6_src={vtep},ipv6_dst={own},nw_frag=no,tp_dst={number}"
    take = flow(CLASSIFY, CLASSIFY_PRIORITY, packet, TO_TUNNELS, cookie(Category.VTEP))
    plan.add(take, entries)
    tunnel = TUNNEL_PORTS[segment.encap]
    match = f"in_port={tunnel},{source}={vtep},tun_id={segment.vni:#x}"
    enter = f"set_field:{segment.vni:#x}->reg0,set_field:0x1->reg2,{goto(FORWARD)}"
    plan.add(flow(TUNNEL, 100, match, enter, cookie(Category.MEMBER, segment.vni)), entries)
    plan.sources.add(own)


# --- what is there as soon as any entry is ---------------------------------------------------


def _plan_claim(plan: _Plan, desired: Desired) -> None:
    """Plan both tunnel ports, whatever is placed: by their names the switch is ours."""
    for encap in Encap:
        port = tunnel_port(encap, desired.fabric.port(encap), plan.wiring)
        plan.others["port", port.name] = TunnelPort(port)


def _plan_pipeline(plan: _Plan, nic: Link) -> None:
    """Plan the flows, routes and neighbours that the rows rely on."""
    for item in common_flows(Encap, plan.sources, nic.mac, plan.wiring.cpu):
        plan.add(item, NO_ENTRIES, firm=True)
    for own in plan.sources:
        for each in (Route(own, MARK_OUT), Route(own, MARK_BACK), Neighbour(own)):
            plan.others[each.key] = each
