"""Which rows the placed entries need in the device's tables, by name. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from zlib import crc32

from dataplane.core.desired import Bindings, Desired, Port, PortState, RemoteEndpoint
from dataplane.core.diff import Item, Pending, Rendering
from dataplane.core.model import EntryKey, Guard, IpAddress, Mac, Segment, family_of
from dataplane.core.reasons import Reason
from vendors.intel.pipeline import (
    ANCHORS,
    BRIDGE_FIELD,
    BRIDGES,
    DECAPS,
    ENCAPS,
    FABRIC_SCOPE,
    HOP_FIELD,
    HOPS,
    POINTER_FIELD,
    RECEIVE,
    RIFS,
    SEND,
    SMAC,
    SOURCE_FIELD,
    SOURCE_MAC_FIELD,
    TARGET_MAC_FIELD,
    UDP_PORTS,
    UNDERLAY,
    VLAN_FIELD,
    VPORT_OFFSET,
    Bridge,
    NextHop,
    Router,
    Row,
    Table,
    Tunnel,
    TunnelSource,
    Value,
    Wiring,
    decap_action,
    encap_action,
    underlay_action,
)
from vendors.scene import NO_NIC, Scene

# A source MAC is checked, and nothing else: no router's advertisement, redirect or second tag.
GUARDS = frozenset({Guard.OFF})
_HOP_LIMIT = 64  # as every path's
_Planned = tuple[Table, Mapping[str, Value], str, Mapping[str, Value]]

_FIRST_PORT = 0x8000  # of the outer source ports; constant for a tunnel


def render_rows(desired: Desired, bindings: Bindings, wiring: Wiring) -> Rendering:
    """Return the rows of ``bindings.placed``; an entry that cannot be expressed is pending."""
    plan = _Plan(wiring)
    behind_vteps: dict[Mac, IpAddress] = {}
    for view in sorted(desired.segments.values(), key=lambda each: each.segment.vni):
        _plan_segment(plan, Scene(desired, bindings, view), behind_vteps)
    held = desired.held
    items = dict[Hashable, Item](plan.rows.items())
    return Rendering(items, tuple(plan.pending), held | ({FABRIC_SCOPE} if held else set()))


@dataclass(slots=True)
class _Plan:
    """A Rendering in the making."""

    wiring: Wiring
    rows: dict[Hashable, Row] = field(default_factory=dict)
    pending: list[Pending] = field(default_factory=list)

    def add(
        self,
        what: _Planned,
        entries: AbstractSet[EntryKey],
        owner: EntryKey | None = None,
        *,
        firm: bool = False,
    ) -> None:
        """Add a row: table, match, action and parameters; who needs one twice needs one."""
        table, match, action, params = what
        row = Row(
            table.name,
            tuple(sorted(match.items())),
            action,
            tuple(sorted(params.items())),
            frozenset(entries),
            owner,
            firm,
        )
        known = self.rows.get(row.key)
        if known is not None:
            row = replace(row, entries=known.entries | entries, firm=known.firm or firm)
        self.rows[row.key] = row

    def refuse(self, key: EntryKey, reason: Reason, detail: str) -> None:
        """Call an entry pending."""
        self.pending.append(Pending(key, f"{reason}: {detail}"))


def _plan_segment(plan: _Plan, scene: Scene, behind_vteps: dict[Mac, IpAddress]) -> None:
    """Plan what the placed entries of a segment need; a VF that is not placed has no row."""
    local = dict(_local_entries(plan, scene))
    remotes = list(_remote_entries(plan, scene, behind_vteps, is_reached=bool(local)))
    far = frozenset(key for key, _ in remotes)
    for key, port in local.items():
        _plan_port(plan, scene, port, far | {key})
    by_vtep: dict[IpAddress, set[EntryKey]] = {}
    for key, remote in remotes:
        by_vtep.setdefault(remote.vtep, set()).add(key)
        _plan_remote(plan, scene, remote)
    for vtep, entries in by_vtep.items():
        _plan_member(plan, scene, vtep, entries)


def _why_not(wiring: Wiring, port: Port) -> tuple[Reason, str] | None:
    """Return why the device cannot take what comes in at a port."""
    if port.state is PortState.BLOCKED:
        return port.reason or Reason.PENDING, port.detail or "its port is blocked"
    if port.attachment.netdev not in wiring.vfs:
        detail = f"{port.attachment.access_port} is no representor of this switch"
        return Reason.NO_SWITCH_PORT, detail
    if port.guard not in GUARDS:
        detail = (
            f"its tables cannot check what guard {port.guard} does: no ND, no tags, no addresses"
        )
        return Reason.UNSUPPORTED_GUARD, detail
    return None


def _local_entries(plan: _Plan, scene: Scene) -> Iterator[tuple[EntryKey, Port]]:
    """Yield the placed endpoints behind VFs that can be expressed; say why others cannot."""
    for port in scene.view.ports:
        key = scene.key(port.attachment.mac)
        if key not in scene.bindings.placed:
            continue
        why = _why_not(plan.wiring, port)
        if why is None and scene.bindings.nic is None:
            why = Reason.NO_NEXTHOP, NO_NIC
        if why is None:
            yield key, port
        else:
            plan.refuse(key, *why)


def _remote_entries(
    plan: _Plan, scene: Scene, behind_vteps: dict[Mac, IpAddress], *, is_reached: bool
) -> Iterator[tuple[EntryKey, RemoteEndpoint]]:
    """Yield the placed endpoints of other nodes that can be expressed; say why others cannot."""
    for remote in scene.view.remotes:
        key = scene.key(remote.endpoint.mac)
        if key not in scene.bindings.placed:
            continue
        why = None if is_reached else _why_nobody(plan, scene)
        why = why or _why_not_to(scene, remote.vtep)
        first = behind_vteps.get(key.mac)
        if why is None and first not in (None, remote.vtep):
            detail = f"{key.mac} is behind {first} on another segment, and l2_to_tunnel knows one"
            why = Reason.KEY_CONFLICT, detail
        if why is None:
            behind_vteps[key.mac] = remote.vtep
            yield key, remote
        else:
            plan.refuse(key, *why)


def _why_nobody(plan: _Plan, scene: Scene) -> tuple[Reason, str]:
    """Return why no VF of the segment may send by way of the device."""
    if scene.bindings.nic is None:
        return Reason.NO_NEXTHOP, NO_NIC
    whys = [why for port in scene.view.ports if (why := _why_not(plan.wiring, port))]
    unguarded = next((why for why in whys if why[0] is Reason.UNSUPPORTED_GUARD), None)
    detail = f"no VF of this switch on segment {scene.segment.name} is placed"
    return unguarded or (Reason.NO_SWITCH_PORT, detail)


def _why_not_to(scene: Scene, vtep: IpAddress) -> tuple[Reason, str] | None:
    """Return why there can be no tunnel to a VTEP."""
    encap = scene.segment.encap
    if scene.own(vtep) is None:
        detail = f"this node has no {family_of(vtep)} VTEP address to send from"
        return Reason.UNSUPPORTED_ENCAP, detail
    if (number := scene.desired.fabric.port(encap)) != UDP_PORTS[encap]:
        detail = f"its parser knows {encap} on UDP port {UDP_PORTS[encap]} alone, not on {number}"
        return Reason.UNSUPPORTED_ENCAP, detail
    if vtep not in scene.bindings.next_hops:
        return Reason.NO_NEXTHOP, f"the MAC of the next hop to {vtep} is not known yet"
    return None


# --- the rows of each part -------------------------------------------------------------------


def _plan_port(plan: _Plan, scene: Scene, port: Port, entries: AbstractSet[EntryKey]) -> None:
    """Plan a VF: the segment's bridge, its MAC there, and what is sent to it."""
    vni, mac = scene.segment.vni, port.attachment.mac
    vsi, owner, bridge = plan.wiring.vfs[port.attachment.netdev], scene.key(mac), Bridge(vni)
    to_it: dict[str, Value] = {BRIDGE_FIELD: bridge, "dst_mac": _number(mac)}
    for row in (
        _bridge_row(vsi + VPORT_OFFSET, bridge),
        _smac_row(mac, bridge),
        (RECEIVE, to_it, *_to_vf(vsi)),
        (SEND, to_it, *_to_vf(vsi)),
    ):
        plan.add(row, entries, owner, firm=True)
    source = TunnelSource(vni)
    anchor: dict[str, Value] = {"ipv4_src": source, "vni": vni}
    plan.add((ANCHORS, anchor, "set_source_port", {"source_port": source}), entries, firm=True)
    plan.add(_bridge_row(source, bridge), entries, firm=True)


def _plan_remote(plan: _Plan, scene: Scene, remote: RemoteEndpoint) -> None:
    """Plan an endpoint of another node."""
    segment, vtep, mac = scene.segment, remote.vtep, remote.endpoint.mac
    key, family = scene.key(mac), family_of(vtep)
    plan.add(_smac_row(mac, Bridge(segment.vni)), {key})
    to_vtep: dict[str, Value] = {"dst_addr": int(vtep)}
    if vtep.version == 6:
        words = [vtep.packed[at : at + 4] for at in range(0, 16, 4)]
        to_vtep = {f"ipv6_{n}": int.from_bytes(word) for n, word in enumerate(words, 1)}
    match: dict[str, Value] = {TARGET_MAC_FIELD: _number(mac)}
    plan.add((UNDERLAY[family]["vtep"], match, f"set_tunnel_v{vtep.version}", to_vtep), {key})
    match = {BRIDGE_FIELD: Bridge(segment.vni), "dst_mac": _number(mac)}
    to: dict[str, Value] = {"tunnel_id": Tunnel(vtep, segment.vni)}
    plan.add((SEND, match, underlay_action(segment.encap, family), to), {key})


def _plan_member(
    plan: _Plan, scene: Scene, vtep: IpAddress, entries: AbstractSet[EntryKey]
) -> None:
    """Plan the tunnel with a VTEP on a segment, both ways, and the next hop to it."""
    own, nic = scene.own(vtep), scene.bindings.nic
    if own is None or nic is None:
        return
    segment, family = scene.segment, family_of(vtep)
    tunnel, tables = Tunnel(vtep, segment.vni), UNDERLAY[family]
    pointer: dict[str, Value] = {POINTER_FIELD: tunnel}
    member: dict[str, Value] = {f"ipv{vtep.version}_src": int(vtep), "vni": segment.vni}
    terminate = f"set_{segment.encap}_decap_outer_hdr"
    outer = _outer(segment, own, vtep)
    rows: list[_Planned] = [
        (ENCAPS[segment.encap, family], pointer, encap_action(segment.encap, family), outer),
        (DECAPS[segment.encap], pointer, decap_action(segment.encap), {}),
        (tables["term"], member, terminate, {"tunnel_id": tunnel}),
        (tables["source"], member, "set_source_port", {"source_port": TunnelSource(segment.vni)}),
    ]
    for row in rows:
        plan.add(row, entries)
    hop = NextHop(scene.bindings.next_hops[vtep])
    version = f"ipv{vtep.version}"
    to: dict[str, Value] = {f"{version}_table_lpm_root": 0, f"{version}_dst_match": int(vtep)}
    plan.add((tables["route"], to, f"{version}_set_nexthop_id", {"nexthop_id": hop}), entries)
    plan.add(_hop_row(hop, plan.wiring.wire), entries, firm=True)
    for number, (table, at) in enumerate(zip(RIFS, (32, 16, 0), strict=True)):
        action = next(iter(table.actions))
        arg = _number(nic.mac) >> at & 0xFFFF
        match = {f"rif_mod_map_id{number}": Router()}
        plan.add((table, match, action, {"arg": arg}), entries, firm=True)


def _outer(segment: Segment, own: IpAddress, vtep: IpAddress) -> dict[str, Value]:
    """Return the parameters of the outer headers."""
    port = UDP_PORTS[segment.encap]
    spread = crc32(vtep.packed + segment.vni.to_bytes(3)) % _FIRST_PORT
    outer: dict[str, Value] = {
        "src_addr": int(own),
        "dst_addr": int(vtep),
        "src_port": _FIRST_PORT + spread,
        "dst_port": port,
        "vni": segment.vni,
    }
    if vtep.version == 6:
        outer |= {"ds": 0, "ecn": 0, "flow_label": 0, "hop_limit": _HOP_LIMIT}
    return outer


def _bridge_row(source: Value, bridge: Bridge) -> _Planned:
    match: dict[str, Value] = {SOURCE_FIELD: source, VLAN_FIELD: 0}
    return BRIDGES, match, "set_bridge_id", {"bridge_id": bridge}


def _smac_row(mac: Mac, bridge: Bridge) -> _Planned:
    return SMAC, {SOURCE_MAC_FIELD: _number(mac), BRIDGE_FIELD: bridge}, "NoAction", {}


def _hop_row(hop: NextHop, wire: int) -> _Planned:
    number = _number(hop.mac)
    params: dict[str, Value] = {
        "router_interface_id": Router(),
        "egress_port": wire,
        "dmac_high": number >> 32,
        "dmac_low": number & 0xFFFFFFFF,
    }
    return HOPS, {HOP_FIELD: hop, "bit16_zeros": 0}, "set_nexthop_info_dmac", params


def _to_vf(vsi: int) -> tuple[str, Mapping[str, Value]]:
    return "l2_fwd", {"port": vsi + VPORT_OFFSET}


def _number(mac: str) -> int:
    return int(mac.replace(":", ""), 16)
