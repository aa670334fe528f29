"""From what is known to what should be: the desired state every Target renders. Pure."""

from __future__ import annotations

from dataclasses import replace

from dataplane.core.addressing import plan_blocks
from dataplane.core.desired import (
    Desired,
    Port,
    PortState,
    Publication,
    RemoteEndpoint,
    SegmentView,
)
from dataplane.core.errors import InvalidValueError
from dataplane.core.mobility import Loss
from dataplane.core.model import (
    Address,
    Attachment,
    Block,
    EndpointKey,
    FabricEntity,
    IpAddress,
    Node,
    Segment,
    in_any,
)
from dataplane.core.overhead import pod_mtu
from dataplane.core.reasons import Reason
from dataplane.core.state import State
from dataplane.core.views import block_addresses, is_granted, known_endpoints, segment_losses, vteps


def derive(state: State) -> Desired | None:
    """Return the desired state, None while the underlay NIC is unknown: all stays as it is."""
    if state.underlay is None:
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
        try:
            views[name] = _view(state, segment, pod_mtu(segment, state.underlay.mtu))
        except InvalidValueError as error:
            problems.append(f"{Reason.UNDERLAY_MTU}: {error}")
        if _own_vtep(state, segment) is None:
            problems.append(
                f"segment {name}: {Reason.NO_VTEP}, node has no {segment.underlay} underlay address"
            )
    return Desired(
        node=state.node,
        fabric=state.fabric.fabric,
        vteps=state.vteps,
        segments=views,
        publication=_publication(state, views),
        attachments=tuple(sorted(state.attachments.values(), key=lambda a: a.slot)),
        kept=_kept(state),
        problems=tuple(problems),
    )


def _own_vtep(state: State, segment: Segment) -> IpAddress | None:
    return Node(state.node.name, state.vteps).vtep(segment.underlay)


def _view(state: State, segment: Segment, mtu: int) -> SegmentView:
    losses = segment_losses(state, segment.name)
    remotes = _remotes(state, segment, losses)
    members = {remote.vtep for remote in remotes}
    return SegmentView(
        segment=segment,
        synced=segment.name in state.fabric.synced,
        mtu=mtu,
        ports=tuple(
            _port(state, segment, attachment, losses, mtu)
            for attachment in sorted(state.local(segment.name), key=lambda a: a.slot)
        ),
        remotes=remotes,
        flood=tuple(sorted(members, key=int)),
    )


def _remotes(
    state: State, segment: Segment, losses: dict[EndpointKey, Loss]
) -> tuple[RemoteEndpoint, ...]:
    where = vteps(state, segment.underlay)
    return tuple(
        RemoteEndpoint(endpoint, where[endpoint.node])
        for endpoint in sorted(known_endpoints(state, segment.name), key=lambda e: e.key)
        if endpoint.node != state.node.name
        and endpoint.node in where
        and endpoint.key not in losses
        and is_granted(state, endpoint)
    )


def _port(
    state: State,
    segment: Segment,
    attachment: Attachment,
    losses: dict[EndpointKey, Loss],
    largest_mtu: int,
) -> Port:
    endpoint = attachment.endpoint(state.node.name)
    mtu = min(attachment.mtu or largest_mtu, largest_mtu)
    port = Port(attachment=attachment, segment=segment, mtu=mtu)
    loss = losses.get(endpoint.key)
    if attachment.superseded_by is not None:
        detail = f"{attachment.identity} has moved to node {attachment.superseded_by}"
        return replace(port, state=PortState.BLOCKED, reason=Reason.SUPERSEDED, detail=detail)
    if loss is not None:
        detail = f"{loss.winner.identity} on node {loss.winner.node} has the same MAC or address"
        return replace(port, state=PortState.BLOCKED, reason=loss.reason, detail=detail)
    if not is_granted(state, endpoint):
        detail = f"no grant covers {attachment.mac} on segment {segment.name} at this node"
        return replace(port, state=PortState.BLOCKED, reason=Reason.NOT_GRANTED, detail=detail)
    return port


def _publication(state: State, views: dict[str, SegmentView]) -> Publication | None:
    me = state.node.name
    if not state.vteps:
        return None
    active = [
        port.attachment
        for view in views.values()
        for port in view.ports
        if port.state is PortState.ACTIVE
    ]
    return Publication(
        node=Node(me, state.vteps),
        endpoints=tuple(a.endpoint(me) for a in active if a.sequence is not None),
        blocks=_blocks(state),
        addresses=_addresses(state, active),
    )


def _blocks(state: State) -> tuple[Block, ...]:
    wanted: list[Block] = []
    for name in sorted(state.interest & state.fabric.synced):
        segment = state.fabric.segment(name)
        if segment is not None and _needs_blocks(state, name):
            blocks = state.fabric.blocks(name)
            wanted += plan_blocks(
                segment, state.node.name, blocks, block_addresses(state, name)
            ).blocks
    return tuple(wanted)


def _needs_blocks(state: State, segment: str) -> bool:
    asking = any(r.segment == segment and not r.ips and not r.ipam for r in state.requests.values())
    return asking or bool(block_addresses(state, segment))


def _kept(state: State) -> tuple[FabricEntity, ...]:
    segments = [s for name in sorted(state.present) if (s := state.fabric.segment(name))]
    blocks = [
        block
        for segment in segments
        for block in state.fabric.blocks(segment.name)
        if block.node == state.node.name
    ]
    return (state.fabric.fabric, *segments, *blocks)


def _addresses(state: State, active: list[Attachment]) -> tuple[Address, ...]:
    """The static-range bindings to hold: of active attachments and of requests that wait."""
    me = state.node.name
    claims = [(a.segment, ip, a.identity) for a in active if not a.ipam for ip in a.ips]
    claims += [
        (r.segment, ip, r.identity) for r in state.requests.values() if not r.ipam for ip in r.ips
    ]
    found = []
    for name, ip, identity in dict.fromkeys(claims):
        segment = state.fabric.segment(name)
        if segment is not None and in_any(ip, segment.static_ranges):
            found.append(Address(name, ip, identity, me))
    return tuple(found)
