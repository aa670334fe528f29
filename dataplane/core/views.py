"""Questions about a State that both admission and the desired state ask. Pure."""

from __future__ import annotations

from dataplane.core.mobility import Loss, resolve
from dataplane.core.model import Endpoint, EndpointKey, Family, IpAddress
from dataplane.core.state import State


def known_endpoints(state: State, segment: str) -> list[Endpoint]:
    """Return every endpoint on a segment: other nodes' rows, and our own as they are now."""
    me = state.node.name
    remote = (endpoint for endpoint in state.fabric.endpoints(segment) if endpoint.node != me)
    return [*remote, *(attachment.endpoint(me) for attachment in state.local(segment))]


def block_addresses(state: State, segment: str) -> frozenset[IpAddress]:
    """Return the addresses of this node's attachments that came from Blocks."""
    return frozenset(
        ip for attachment in state.local(segment) if not attachment.ipam for ip in attachment.ips
    )


def is_granted(state: State, endpoint: Endpoint) -> bool:
    """Say whether a grant covers ``endpoint``; a segment without grants is open."""
    grants = state.fabric.grants(endpoint.segment)
    return not grants or any(grant.allows(endpoint) for grant in grants)


def vteps(state: State, family: Family) -> dict[str, IpAddress]:
    """Return the VTEP address of every node that has one of ``family``."""
    found = ((name, node.vtep(family)) for name, node in state.nodes.items())
    return {name: vtep for name, vtep in found if vtep is not None}


def segment_losses(state: State, segment: str) -> dict[EndpointKey, Loss]:
    """Return who loses a MAC or an address on ``segment``; what is not granted takes no part."""
    known = state.fabric.segment(segment)
    me = state.node.name
    superseded = {a.endpoint(me).key for a in state.local(segment) if a.superseded_by is not None}
    claimants = [
        e
        for e in known_endpoints(state, segment)
        if e.key not in superseded and is_granted(state, e)
    ]
    return resolve(claimants, vteps(state, known.underlay if known else Family.IPV4))
