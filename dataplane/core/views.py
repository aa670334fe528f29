"""Questions about a State that both admission and the desired state ask. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from sys import maxsize

from dataplane.core.addressing import Addresses, BlockPlan, plan_blocks
from dataplane.core.mobility import Loss, resolve
from dataplane.core.model import (
    Attachment,
    Block,
    Endpoint,
    EndpointKey,
    Family,
    Grant,
    IpAddress,
    Mac,
    Segment,
)
from dataplane.core.state import State


def known_endpoints(state: State, segment: str) -> list[Endpoint]:
    """Return every endpoint on a segment: other nodes' rows, and our own as they are now."""
    me = state.node.name
    remote = (endpoint for endpoint in state.fabric.endpoints(segment) if endpoint.node != me)
    return [*remote, *(attachment.endpoint(me) for attachment in state.local(segment))]


def addresses_in_use(state: State, segment: str) -> frozenset[IpAddress]:
    """Return the addresses of every endpoint on a segment, and of its gateway."""
    gateway = state.fabric.gateway(segment)
    ips = (ip for endpoint in known_endpoints(state, segment) for ip in endpoint.ips)
    return frozenset((*ips, *(gateway.ips if gateway else ())))


def learned_addresses(
    state: State, segment: str, own: Iterable[Attachment]
) -> dict[EndpointKey, tuple[IpAddress, ...]]:
    """Return what is answered for of all that endpoints claim by ARP and ND, by endpoint.

    Only what nobody was given, and what the endpoint may have; of two the one keeps it whose row
    the database has, and of two rows that came at once the first by name.
    """
    me, grants = state.node.name, grants_of(state, segment)
    rows = [row for row in state.fabric.endpoints(segment) if row.learned]
    claims = [row for row in rows if row.node != me]
    for attachment in own:
        claims_here = state.learned.get(attachment.ovs_port, ())
        if claims_here and not attachment.ips:
            claims.append(replace(attachment.endpoint(me), learned=claims_here))
    if not claims:
        return {}
    gateway = state.fabric.gateway(segment)
    given = addresses_in_use(state, segment) | {a.ip for a in state.fabric.addresses(segment)}
    given |= set(gateway.ips if gateway else ())
    first: dict[IpAddress, EndpointKey] = {}
    for row in sorted(rows, key=lambda row: row.key):
        for ip in row.learned:
            first.setdefault(ip, row.key)
    found: dict[EndpointKey, tuple[IpAddress, ...]] = {}
    for claim in claims:
        found[claim.key] = tuple(
            ip
            for ip in claim.learned
            if ip not in given
            and first.setdefault(ip, claim.key) == claim.key
            and grants.cover(replace(claim, ips=(ip,)))
        )
    return found


def block_addresses(state: State, segment: str) -> frozenset[IpAddress]:
    """Return the addresses of this node's attachments that came from Blocks."""
    return frozenset(
        ip for attachment in state.local(segment) if not attachment.ipam for ip in attachment.ips
    )


def usable_blocks(state: State, segment: str) -> list[Block]:
    """Return the Blocks that this node may give addresses from.

    A row of ours is not enough: what was wanted before may have been to give the Block back, and
    the database may still be doing that. So the claim must have been confirmed since.
    """
    own = [block for block in state.fabric.blocks(segment) if block.node == state.node.name]
    if segment not in state.fabric.synced:
        return own
    return [block for block in own if state.published >= state.claims.get(block, maxsize)]


def block_plan(state: State, segment: Segment) -> BlockPlan:
    """Return which Blocks of ``segment`` this node should own."""
    return plan_blocks(
        segment,
        state.node.name,
        state.fabric.blocks(segment.name),
        Addresses(block_addresses(state, segment.name), addresses_in_use(state, segment.name)),
    )


class Grants:
    """The grants of one segment, found by whom and what they are for; none: it is open."""

    def __init__(self, grants: Iterable[Grant]) -> None:
        """Sort ``grants``."""
        self._sorted: defaultdict[tuple[str, Mac | None], list[Grant]] = defaultdict(list)
        for grant in grants:
            self._sorted[grant.node, grant.mac].append(grant)

    def cover(self, endpoint: Endpoint) -> bool:
        """Say whether ``endpoint`` may be."""
        if not self._sorted:
            return True
        return any(
            grant.allows(endpoint)
            for mac in (endpoint.mac, None)
            for grant in self._sorted.get((endpoint.node, mac), ())
        )


def grants_of(state: State, segment: str) -> Grants:
    """Return the grants of a segment."""
    return Grants(state.fabric.grants(segment))


def vteps(state: State, family: Family) -> dict[str, IpAddress]:
    """Return the VTEP address of every node that has one of ``family``."""
    found = ((name, node.vtep(family)) for name, node in state.nodes.items())
    return {name: vtep for name, vtep in found if vtep is not None}


def claimants(state: State, segment: str, own: Iterable[Attachment]) -> list[Endpoint]:
    """Return who takes part in a contest among other nodes' rows and our ``own`` attachments.

    What is not granted, what is elsewhere for good, and what has no sequence yet takes no part.
    """
    me, grants = state.node.name, grants_of(state, segment)
    remote = (row for row in state.fabric.endpoints(segment) if row.node != me)
    ours = (a.endpoint(me) for a in own if a.sequence is not None and not a.final)
    return [endpoint for endpoint in (*remote, *ours) if grants.cover(endpoint)]


def losses(state: State, segment: Segment, own: Iterable[Attachment]) -> dict[EndpointKey, Loss]:
    """Return who loses a MAC or an address among other nodes' rows and our ``own`` attachments."""
    own = tuple(own)
    return resolve(
        claimants(state, segment.name, own),
        vteps(state, segment.underlay),
        {attachment.endpoint(state.node.name).key for attachment in own if attachment.blocked},
    )


def holder(state: State, attachment: Attachment) -> Endpoint | None:
    """Return where the workload of ``attachment`` is, if it is already somewhere else."""
    others = [a for a in state.local(attachment.segment) if a.key != attachment.key]
    places = [
        endpoint
        for endpoint in claimants(state, attachment.segment, others)
        if endpoint.identity == attachment.identity
    ]
    return max(places, key=lambda endpoint: endpoint.sequence, default=None)
