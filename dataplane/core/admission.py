"""Whether and how a requested attachment can be: ``settle`` answers every open request. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dataplane.core.addressing import allocate, default_mac
from dataplane.core.errors import InvalidValueError
from dataplane.core.events import AttachRequest
from dataplane.core.mobility import (
    MOVES_PERIOD_S,
    Loss,
    frozen_for,
    moves_after,
    recent_moves,
)
from dataplane.core.model import (
    MAX_SLOTS,
    Attachment,
    IpAddress,
    Segment,
    Verdict,
    family_of,
    in_any,
)
from dataplane.core.overhead import pod_mtu
from dataplane.core.reasons import Reason
from dataplane.core.state import Refusal, State, follow_interest
from dataplane.core.views import (
    addresses_in_use,
    block_plan,
    grants_of,
    holder,
    known_endpoints,
    losses,
    usable_blocks,
)

TRY_AGAIN = 11  # CNI spec, Error: "try again later"
INVALID_CONFIG = 7  # CNI spec, Error: "invalid network config"
ALREADY_ATTACHED = 101
DUPLICATE = 110  # ours: codes from 100 on are the plugin's (CNI spec, Error)
NOT_GRANTED = 111
EXHAUSTED = 112
NO_UNDERLAY = 113
NO_FABRIC = (
    "this node is in no fabric (fabric: none in its agent's configuration); only pods with the"
    " deviceID of a VF can be attached here"
)


@dataclass(frozen=True, slots=True)
class Wait:
    """The request cannot be answered yet; ``refusal`` is the answer once waiting has to end."""

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class _Freeze:
    """Why a workload must not move now, and for how many seconds."""

    detail: str
    wait_s: int


class _RefusedError(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.refusal = Refusal(code, message)


class _WaitingError(Exception):
    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.refusal = Refusal(TRY_AGAIN, message)


def settle(state: State) -> State:
    """Return ``state`` with verdicts given, sequences taken and answerable requests answered."""
    state = _judge(_take_sequences(state))
    for request in state.requests.values():
        outcome = admit(state, request)
        if not isinstance(outcome, Wait):
            state = _judge(_answer(state, request, outcome))
    return follow_interest(state)


def _answer(state: State, request: AttachRequest, outcome: Attachment | Refusal) -> State:
    state = replace(state, requests={k: r for k, r in state.requests.items() if k != request.key})
    if isinstance(outcome, Refusal):
        return replace(state, refusals={**state.refusals, request.key: outcome})
    if request.key not in state.attachments and _may_move(state, outcome):
        outcome = replace(outcome, connected=False)
        state = replace(state, withheld=state.withheld | {request.key})
    shared = any(each.slot == outcome.slot for each in state.attachments.values())
    return replace(
        state,
        attachments={**state.attachments, request.key: outcome},
        last_slot=state.last_slot if shared else outcome.slot,
    )


def _may_move(state: State, attachment: Attachment) -> bool:
    """Say whether a new one takes its workload from another node, as far as is known yet."""
    return attachment.sequence is None or _comes_from_elsewhere(state, attachment)


def _comes_from_elsewhere(state: State, attachment: Attachment) -> bool:
    place = holder(state, attachment)
    return place is not None and place.node != state.node.name


def admit(state: State, request: AttachRequest) -> Attachment | Refusal | Wait:
    """Decide one request; asking again for an attachment that exists returns it unchanged."""
    existing = state.attachments.get(request.key)
    if existing:
        return existing
    try:
        return _admit(state, request)
    except _RefusedError as refused:
        return refused.refusal
    except _WaitingError as waiting:
        return Wait(waiting.refusal) if request.wait_for_fabric else waiting.refusal


def _admit(state: State, request: AttachRequest) -> Attachment:
    segment = _segment(state, request)
    _check_underlay(state, segment, request)
    _check_fabric(state, segment, request)
    mac = request.mac or default_mac(segment.name, request.identity)
    attachment = Attachment(
        container_id=request.key.container_id,
        ifname=request.key.ifname,
        netns=request.netns,
        segment=segment.name,
        mac=mac,
        ips=(),
        identity=request.identity,
        slot=_slot(state, request),
        ipam=request.ipam,
        mtu=request.mtu,
        network=request.network,
        requested_at=request.requested_at,
        netdev=request.netdev,
        vlan=request.vlan,
    )
    if state.fabric.is_current(segment.name):
        _refuse_frozen(state, attachment)
        _refuse_moved(state, request, attachment)
        attachment = _take_sequence(state, attachment)
    elif request.again:
        raise _WaitingError(f"segment {segment.name}: {_unsynced_cause(state)}")
    attachment = replace(attachment, ips=_ips(state, segment, request))
    _refuse_duplicate(state, attachment)
    _refuse_ungranted(state, attachment)
    return attachment


def _segment(state: State, request: AttachRequest) -> Segment:
    segment = state.fabric.segment(request.segment)
    if segment:
        return segment
    if not state.node.in_fabric:
        raise _RefusedError(INVALID_CONFIG, f"segment {request.segment!r}: {NO_FABRIC}")
    if not state.fabric.base_synced:
        raise _WaitingError(
            f"segment {request.segment} is not known here: {_unsynced_cause(state)}"
        )
    raise _RefusedError(
        INVALID_CONFIG,
        f"segment {request.segment!r} does not exist in this fabric;"
        " list those that do with 'overweave get segment'",
    )


def _check_fabric(state: State, segment: Segment, request: AttachRequest) -> None:
    """Wait for what the database has to tell; what it has told serves also while it is away."""
    told = segment.name in state.fabric.synced
    if not state.node.attach_without_fabric:
        told = state.fabric.is_current(segment.name)
    elif not request.wait_for_fabric:
        told = True
    if not told:
        raise _WaitingError(f"segment {segment.name}: {_unsynced_cause(state)}")


def _unsynced_cause(state: State) -> str:
    if not state.fabric.connected:
        cause = state.fabric.error or "no answer"
        return f"the fabric database is away ({cause}); try again when it is back"
    return "the fabric database has not sent its rows yet; try again"


def _check_underlay(state: State, segment: Segment, request: AttachRequest) -> None:
    node = state.node
    if state.underlay is None:
        raise _RefusedError(
            NO_UNDERLAY,
            f"node {node.name}: underlay interface {node.underlay_interface} does not exist",
        )
    if not any(family_of(vtep) is segment.underlay for vtep in state.vteps):
        raise _RefusedError(
            NO_UNDERLAY,
            f"segment {segment.name} uses an {segment.underlay} underlay, and node {node.name}"
            f" has no such address on {node.underlay_interface}",
        )
    try:
        largest = pod_mtu(segment, state.underlay.mtu)
    except InvalidValueError as error:
        raise _RefusedError(NO_UNDERLAY, str(error)) from error
    if request.mtu is not None and request.mtu > largest:
        raise _RefusedError(
            INVALID_CONFIG, f"mtu {request.mtu} is larger than segment {segment.name}'s {largest}"
        )


def _refuse_frozen(state: State, attachment: Attachment) -> None:
    freeze = _freeze(state, attachment)
    if freeze is not None:
        raise _RefusedError(
            TRY_AGAIN,
            f"{freeze.detail}: wait {freeze.wait_s} s, or find out whether two workloads claim"
            f" the identity {attachment.identity}",
        )


def _refuse_moved(state: State, request: AttachRequest, attachment: Attachment) -> None:
    """Leave a workload where it is that has gone elsewhere from where it is asked for again."""
    place = holder(state, attachment)
    if request.again and place is not None and place.node != state.node.name:
        raise _RefusedError(
            TRY_AGAIN, f"{attachment.identity} is on node {place.node} by now: delete its pod here"
        )


def _freeze(state: State, attachment: Attachment) -> _Freeze | None:
    """Return why ``attachment`` must not take its workload from another node, None if it may."""
    place = holder(state, attachment)
    if place is None or place.node == state.node.name:
        return None
    wait_s = frozen_for(place.moves, attachment.requested_at)
    if not wait_s:
        return None
    count = len(recent_moves(place.moves, attachment.requested_at))
    return _Freeze(
        f"MAC {place.mac} on segment {place.segment} has moved {count} times within"
        f" {MOVES_PERIOD_S} s and stays on node {place.node}",
        wait_s,
    )


def _take_sequence(state: State, attachment: Attachment) -> Attachment:
    """Return ``attachment`` above all others of its identity; coming from another node is a move.

    A second one on the node that has the workload moves nothing, and takes over what is counted.
    """
    place, now = holder(state, attachment), attachment.requested_at
    counted = place.moves if place else ()
    moved = _comes_from_elsewhere(state, attachment)
    return replace(
        attachment,
        sequence=_next_sequence(state, attachment),
        moves=moves_after(counted, now) if moved else recent_moves(counted, now),
    )


def _next_sequence(state: State, attachment: Attachment) -> int:
    own = attachment.endpoint(state.node.name).key
    seen = [
        endpoint.sequence
        for endpoint in known_endpoints(state, attachment.segment)
        if endpoint.identity == attachment.identity and endpoint.key != own
    ]
    return max(seen, default=-1) + 1


def _ips(state: State, segment: Segment, request: AttachRequest) -> tuple[IpAddress, ...]:
    if request.ipam:
        return _as_given(segment, request, "from the IPAM plugin")
    if request.again and not any(in_any(ip, segment.static_ranges) for ip in request.ips):
        return _as_given(segment, request, "that the pod has")
    if request.ips:
        return _static_ips(state, segment, request)
    if not segment.subnets:
        return ()
    return _block_ips(state, segment)


def _as_given(segment: Segment, request: AttachRequest, which: str) -> tuple[IpAddress, ...]:
    """Take the addresses as they are."""
    for ip in request.ips:
        if segment.subnets and not in_any(ip, segment.subnets):
            raise _RefusedError(
                INVALID_CONFIG,
                f"address {ip} {which} is in no subnet of segment {segment.name}",
            )
    return request.ips


def _static_ips(state: State, segment: Segment, request: AttachRequest) -> tuple[IpAddress, ...]:
    bound = {address.ip: address for address in state.fabric.addresses(segment.name)}
    for ip in request.ips:
        if not in_any(ip, segment.static_ranges):
            raise _RefusedError(
                INVALID_CONFIG,
                f"address {ip} is not in a static range of segment {segment.name}"
                f" ({', '.join(map(str, segment.static_ranges)) or 'it has none'})",
            )
        owner = bound.get(ip)
        if owner is None:
            raise _WaitingError(
                f"address {ip} of segment {segment.name} could not be claimed in the database"
            )
        if owner.identity != request.identity:
            raise _RefusedError(
                DUPLICATE, f"address {ip} of segment {segment.name} belongs to {owner.identity}"
            )
    return request.ips


def _block_ips(state: State, segment: Segment) -> tuple[IpAddress, ...]:
    in_use = addresses_in_use(state, segment.name)
    chosen = allocate(segment, usable_blocks(state, segment.name), in_use)
    if chosen is not None:
        return chosen
    plan = block_plan(state, segment)
    if plan.exhausted:
        raise _RefusedError(
            EXHAUSTED,
            f"segment {segment.name}: subnet {plan.exhausted[0]} is exhausted, every block is"
            " taken; add a subnet",
        )
    raise _WaitingError(
        f"segment {segment.name}: no free address here, and {_unsynced_cause(state)}"
    )


def _slot(state: State, request: AttachRequest) -> int:
    """Return the slot of a trunk port that has one: all its VLANs come in by one netdev."""
    if request.vlan is not None:
        for other in state.attachments.values():
            if other.vlan is not None and other.netdev == request.netdev:
                return other.slot
    return _free_slot(state)


def _free_slot(state: State) -> int:
    """Return the slot after the last one given: what is left of an old one has time to go."""
    used = {attachment.slot for attachment in state.attachments.values()}
    following = range(state.last_slot + 1, state.last_slot + 1 + MAX_SLOTS)
    slot = next((n % MAX_SLOTS for n in following if n % MAX_SLOTS not in used), None)
    if slot is None:
        raise _RefusedError(
            EXHAUSTED, f"node {state.node.name} has no free port, {MAX_SLOTS} are in use"
        )
    return slot


def _refuse_duplicate(state: State, attachment: Attachment) -> None:
    gateway = state.fabric.gateway(attachment.segment)
    if gateway and (shared := {attachment.mac, *attachment.ips} & {gateway.mac, *gateway.ips}):
        raise _RefusedError(
            DUPLICATE,
            f"{min(map(str, shared))} on segment {attachment.segment} is that of its gateway,"
            f" svi {gateway.name}",
        )
    for other in known_endpoints(state, attachment.segment):
        if other.identity == attachment.identity:
            continue
        shared = {attachment.mac, *attachment.ips} & {other.mac, *other.ips}
        if shared:
            raise _RefusedError(
                DUPLICATE,
                f"{min(map(str, shared))} on segment {attachment.segment} is already used by"
                f" {other.identity} on node {other.node}",
            )


def _refuse_ungranted(state: State, attachment: Attachment) -> None:
    endpoint = attachment.endpoint(state.node.name)
    if not grants_of(state, attachment.segment).cover(endpoint):
        raise _RefusedError(
            NOT_GRANTED,
            f"no grant lets node {state.node.name} claim {attachment.mac} with"
            f" {', '.join(map(str, attachment.ips)) or 'no address'}"
            f" on segment {attachment.segment}",
        )


def _take_sequences(state: State) -> State:
    late = [
        a
        for a in state.attachments.values()
        if a.sequence is None and not a.final and state.fabric.is_current(a.segment)
    ]
    for attachment in late:
        freeze = _freeze(state, attachment)
        if freeze is None:
            taken = _take_sequence(state, attachment)
        else:
            detail = f"{freeze.detail}: once it stands still, detach and attach it here again"
            taken = replace(attachment, blocked=Verdict(Reason.MAC_FROZEN, detail))
        state = replace(state, attachments={**state.attachments, taken.key: taken})
    return state


def _judge(state: State) -> State:
    """Return ``state`` with a verdict on every attachment of which all is known."""
    judged = {}
    for segment in filter(None, map(state.fabric.segment, sorted(state.present))):
        if not _can_judge(state, segment):
            continue
        local, grants = state.local(segment.name), grants_of(state, segment.name)
        lost = losses(state, segment, local)
        for attachment in local:
            endpoint = attachment.endpoint(state.node.name)
            verdict = _verdict(attachment, lost.get(endpoint.key), granted=grants.cover(endpoint))
            if verdict != attachment.blocked:
                judged[attachment.key] = replace(attachment, blocked=verdict)
    return replace(state, attachments={**state.attachments, **judged}) if judged else state


def _can_judge(state: State, segment: Segment) -> bool:
    """Say whether the rows are complete, and which VTEP is the lower can be said."""
    reachable = any(family_of(vtep) is segment.underlay for vtep in state.vteps)
    return reachable and segment.name in state.fabric.synced


def _verdict(attachment: Attachment, loss: Loss | None, *, granted: bool) -> Verdict | None:
    if attachment.final:
        return attachment.blocked
    if loss is not None:
        return Verdict(loss.reason, loss.detail)
    if not granted:
        detail = f"no grant covers {attachment.mac} on segment {attachment.segment} at this node"
        return Verdict(Reason.NOT_GRANTED, detail)
    return None
