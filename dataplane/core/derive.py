"""From what is known to what should be: the desired state every Target renders. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import replace

from dataplane.core.desired import (
    Desired,
    Port,
    PortState,
    Publication,
    RemoteEndpoint,
    SegmentView,
)
from dataplane.core.errors import InvalidValueError
from dataplane.core.events import AttachRequest
from dataplane.core.model import (
    MIN_MTU,
    Address,
    Attachment,
    Block,
    Endpoint,
    EndpointKey,
    FabricEntity,
    IpAddress,
    Node,
    Segment,
    Verdict,
    in_any,
)
from dataplane.core.overhead import encap_overhead, pod_mtu
from dataplane.core.reasons import Reason
from dataplane.core.state import State
from dataplane.core.steering import Steering, steering
from dataplane.core.views import (
    block_addresses,
    block_plan,
    grants_of,
    learned_addresses,
    losses,
    vteps,
)

_UNCONNECTED = Verdict(
    Reason.PENDING, "its pod is not connected yet: until then the workload stays where it is"
)


def derive(state: State) -> Desired | None:
    """Return the desired state; None while it cannot be known: all stays as it is.

    That is while the underlay NIC was never seen, or nobody has told which UDP ports are ours, but
    who is in no fabric has none to be told.
    """
    if state.nic is None or (state.node.in_fabric and not state.fabric.is_told):
        return None
    views: dict[str, SegmentView] = {}
    problems: list[str] = []
    for name in sorted(state.present):
        segment = state.fabric.segment(name)
        if segment is None:
            problems.append(
                f"segment {name}: {Reason.UNKNOWN_SEGMENT}, its ports here are not programmed"
            )
            continue
        steered = steering(state, name)
        views[name] = _view(state, segment, _mtu(segment, state.nic.mtu, problems), steered)
        if steered.problem:
            problems.append(f"segment {name}: {Reason.NETWORK_FUNCTION}, {steered.problem}")
        if _own_vtep(state, segment) is None:
            problems.append(
                f"segment {name}: {Reason.NO_VTEP}, node has no {segment.underlay} underlay address"
            )
    present = state.present
    routed = {
        name: _view(state, segment, _mtu(segment, state.nic.mtu, problems), Steering())
        for name in sorted(state.fabric.routed(present) - present)
        if (segment := state.fabric.segment(name)) is not None
    }
    return Desired(
        node=state.node,
        fabric=state.fabric.fabric,
        vteps=state.vteps,
        segments=_with_routers(state, views, routed),
        publication=_publication(state, views),
        attachments=tuple(sorted(state.attachments.values(), key=lambda a: a.slot)),
        kept=_kept(state),
        problems=tuple(problems),
        functions=state.functions,
        routed=routed,
    )


def _with_routers(
    state: State, views: Mapping[str, SegmentView], routed: Mapping[str, SegmentView]
) -> dict[str, SegmentView]:
    """Return ``views`` with the VTEPs of the nodes that may route into them."""
    nodes: defaultdict[str, set[str]] = defaultdict(set)
    for view in (*views.values(), *routed.values()):
        if view.gateway is not None:
            nodes[view.gateway.vrf] |= {remote.endpoint.node for remote in view.remotes}
    return {
        name: view if view.gateway is None else _with_router(state, view, nodes[view.gateway.vrf])
        for name, view in views.items()
    }


def _with_router(state: State, view: SegmentView, nodes: Collection[str]) -> SegmentView:
    where = vteps(state, view.segment.underlay)
    others = {where[node] for node in nodes if node in where}.difference(view.flood)
    return replace(view, routers=tuple(sorted(others, key=int)))


def _mtu(segment: Segment, underlay_mtu: int, problems: list[str]) -> int:
    """Return the pods' MTU in bytes; one that no longer fits is a problem, and kept."""
    try:
        return pod_mtu(segment, underlay_mtu)
    except InvalidValueError as error:
        problems.append(f"{Reason.UNDERLAY_MTU}: {error}")
        largest = underlay_mtu - encap_overhead(segment.encap, segment.underlay)
        return segment.mtu or max(largest, MIN_MTU)


def _own_vtep(state: State, segment: Segment) -> IpAddress | None:
    return Node(state.node.name, state.vteps).vtep(segment.underlay)


def _view(state: State, segment: Segment, mtu: int, steered: Steering) -> SegmentView:
    ports = sorted(state.local(segment.name), key=lambda attachment: attachment.slot)
    mates = state.fabric.routed((segment.name,))  # whose nodes may send to it, too
    learned = learned_addresses(state, segment.name, (a for a in ports if not _why_blocked(a)))
    remotes = _remotes(state, segment, learned)
    return SegmentView(
        segment=segment,
        synced={segment.name, *mates} <= state.fabric.synced,
        mtu=mtu,
        ports=tuple(
            _believed(_port(attachment, segment, mtu, steered), state.node.name, learned)
            for attachment in ports
        ),
        remotes=remotes,
        flood=tuple(sorted({remote.vtep for remote in remotes}, key=int)),
        pins=state.fabric.pins(segment.name),
        gateway=state.fabric.gateway(segment.name),
    )


def _remotes(
    state: State, segment: Segment, learned: Mapping[EndpointKey, tuple[IpAddress, ...]]
) -> tuple[RemoteEndpoint, ...]:
    where, grants = vteps(state, segment.underlay), grants_of(state, segment.name)
    here = [a for a in state.local(segment.name) if _why_blocked(a) is None]
    lost = losses(state, segment, here)
    return tuple(
        RemoteEndpoint(_answered(endpoint, learned), where[endpoint.node])
        for endpoint in sorted(state.fabric.endpoints(segment.name), key=lambda e: e.key)
        if endpoint.node != state.node.name
        and endpoint.node in where
        and endpoint.key not in lost
        and grants.cover(endpoint)
    )


def _believed(port: Port, node: str, learned: Mapping[EndpointKey, tuple[IpAddress, ...]]) -> Port:
    """Return ``port`` with the addresses that it is believed to have."""
    found = learned.get(EndpointKey(node, *port.attachment.key))
    return replace(port, learned=found) if found else port


def _row(port: Port, node: str) -> Endpoint:
    endpoint = port.attachment.endpoint(node)
    return replace(endpoint, learned=port.learned) if port.learned else endpoint


def _answered(endpoint: Endpoint, learned: Mapping[EndpointKey, tuple[IpAddress, ...]]) -> Endpoint:
    """Return ``endpoint`` with what it is believed to have."""
    believed = learned.get(endpoint.key, ())
    return endpoint if endpoint.learned == believed else replace(endpoint, learned=believed)


def _why_blocked(attachment: Attachment) -> Verdict | None:
    return attachment.blocked or (None if attachment.connected else _UNCONNECTED)


def _port(attachment: Attachment, segment: Segment, largest_mtu: int, steered: Steering) -> Port:
    key = attachment.key
    port = Port(attachment, segment, min(attachment.mtu or largest_mtu, largest_mtu))
    blocked = _why_blocked(attachment) or steered.idle.get(key)
    if blocked is None and key in steered.roles:
        role, detail = steered.roles[key], steered.details[key]
        return replace(port, role=role, reason=Reason.NETWORK_FUNCTION, detail=detail)
    if blocked is None:
        return port
    return replace(port, state=PortState.BLOCKED, reason=blocked.reason, detail=blocked.detail)


def _publication(state: State, views: dict[str, SegmentView]) -> Publication | None:
    me = state.node.name
    if not state.vteps:
        return None
    ports = [
        port
        for view in views.values()
        for port in view.ports
        if port.state is PortState.ACTIVE and port.attachment.key not in state.withheld
    ]
    here = [port.attachment for port in ports]
    return Publication(
        node=Node(me, state.vteps),
        endpoints=tuple(_row(port, me) for port in ports if port.attachment.sequence is not None),
        blocks=_blocks(state),
        addresses=_addresses(state, here),
        devices=(
            *(state.inventory or state.node.devices),
            *state.discovered.others(me, state.node.devices),
        ),
    )


def _blocks(state: State) -> tuple[Block, ...]:
    wanted: list[Block] = []
    for name in sorted(state.interest & state.fabric.synced):
        segment = state.fabric.segment(name)
        if segment is not None and _needs_blocks(state, name):
            wanted += block_plan(state, segment).blocks
    return tuple(wanted)


def _needs_blocks(state: State, segment: str) -> bool:
    asking = any(r.segment == segment and not r.ips and not r.ipam for r in state.requests.values())
    return asking or bool(block_addresses(state, segment))


def _kept(state: State) -> tuple[FabricEntity, ...]:
    names = state.present | state.fabric.routed(state.present)
    segments = [s for name in sorted(names) if (s := state.fabric.segment(name))]
    gateways = [svi for name in sorted(names) if (svi := state.fabric.gateway(name))]
    blocks = [
        block
        for segment in segments
        for block in state.fabric.blocks(segment.name)
        if block.node == state.node.name
    ]
    pins = [pin for segment in segments for pin in state.fabric.pins(segment.name)]
    return (state.fabric.fabric, *segments, *blocks, *pins, *gateways)


def _may_claim(state: State, owner: AttachRequest | Attachment, ip: IpAddress) -> bool:
    """Say whether one that waits may have an address already: only what nobody has.

    What its identity has elsewhere stays there until it need not wait any more.
    """
    bound = (a for a in state.fabric.addresses(owner.segment) if a.ip == ip)
    return all((a.identity, a.node) == (owner.identity, state.node.name) for a in bound)


def _addresses(state: State, here: list[Attachment]) -> tuple[Address, ...]:
    """The static-range bindings to hold: of attachments that are ``here`` and of who waits."""
    me = state.node.name
    waiting: list[AttachRequest | Attachment] = [
        *(r for r in state.requests.values() if r.segment in state.fabric.synced),
        *(a for a in state.attachments.values() if a.key in state.withheld and not a.blocked),
    ]
    claims = [(a.segment, ip, a.identity) for a in here if not a.ipam for ip in a.ips]
    claims += [
        (owner.segment, ip, owner.identity)
        for owner in waiting
        if not owner.ipam
        for ip in owner.ips
        if _may_claim(state, owner, ip)
    ]
    found = []
    for name, ip, identity in dict.fromkeys(claims):
        segment = state.fabric.segment(name)
        if segment is not None and in_any(ip, segment.static_ranges):
            found.append(Address(name, ip, identity, me))
    return tuple(found)
