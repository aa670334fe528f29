"""What a node tells the fabric of its halves of DPUs, and when it is worth a write. Pure.

A row is written when a condition turns, or something that rarely changes has. Figures and words
change all the time: they come along, and are written at most once a minute by themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from dataplane.core.assumptions import in_use
from dataplane.core.events import HalfHeard
from dataplane.core.model import (
    DATAPLANE_IN_SYNC,
    HEARTBEAT_OK,
    OFFLOADING,
    READY,
    SWITCH_REACHABLE,
    Condition,
    Device,
    Side,
    TableUse,
)
from dataplane.core.placement import placement_in
from dataplane.core.snapshot import FABRIC_TARGET, OVS_PATH, SWITCH_TARGET, Snapshot

REFRESH_S = 60  # a row is never older, while its node lives and reaches the database
LOST_S = 5  # how long a dataplane has to be behind, or a switch empty, until it counts

_NEVER_HEARD = {
    Side.HOST: "the DPU's agent has not been asked yet",
    Side.DPU: "the host's agent has not been heard yet",
}
_GONE = "this machine no longer has it: plug it in again, or take it out of 'devices'"
_READY = {Side.HOST: "the DPU's agent serves it", Side.DPU: "its switch takes entries"}
_HEARD = {Side.HOST: "the DPU's agent answers", Side.DPU: "the host's agent asks"}
_LINGERING = frozenset({DATAPLANE_IN_SYNC, OFFLOADING})


@dataclass(frozen=True, slots=True)
class Inventory:
    """What was told last; ``doubts``: since when, by device and condition, it looks lost."""

    devices: tuple[Device, ...] = ()
    doubts: Mapping[tuple[str, str], int] = field(default_factory=dict)


def tell(before: Inventory, snapshot: Snapshot, now: int) -> Inventory:
    """Return what to tell at ``now``, in unix seconds; devices that are the same: nothing new."""
    told = {device.name: device for device in before.devices}
    devices: list[Device] = []
    doubts: dict[tuple[str, str], int] = {}
    for device in snapshot.state.node.devices:
        found, last = _as_it_is(snapshot, device, now), told.get(device.name)
        conditions = []
        for condition in found.conditions:
            place = (device.name, condition.kind)
            stands, doubted = _stand(condition, last, before.doubts.get(place, now), now)
            conditions.append(stands)
            if doubted is not None:
                doubts[place] = doubted
        ready = next(each.holds for each in conditions if each.kind == READY)
        fresh = replace(found, ready=ready, conditions=tuple(conditions))
        if last is not None and _rare(fresh) == _rare(last) and not _is_old(last, now):
            fresh = last
        devices.append(fresh)
    return Inventory(tuple(devices), doubts)


def other_halves(halves: Iterable[Device]) -> Mapping[tuple[str, str], Device]:
    """Return the other half of the same DPU, by node and name of the one, if both are there.

    A serial alone does not say which: it may be on two nodes of the fabric. The host knows, unless
    it asks nobody; then the DPU is one that is alone, and no other host's.
    """
    of_serial: dict[str, list[Device]] = {}
    for half in halves:
        of_serial.setdefault(half.serial, []).append(half)
    found: dict[tuple[str, str], Device] = {}
    for host, dpu in (pair for same in of_serial.values() for pair in _pairs(same)):
        found[host.node, host.name] = dpu
        found.setdefault((dpu.node, dpu.name), host)
    return found


def _pairs(same: Sequence[Device]) -> Iterator[tuple[Device, Device]]:
    """Yield each host's half with the DPU's, of those that have one serial."""
    dpus = {each.node: each for each in same if each.side is Side.DPU}
    alone = next(iter(dpus)) if len(dpus) == 1 else ""
    asking = {each.node for each in same if each.peer == alone}
    for host in (each for each in same if each.side is Side.HOST):
        dpu = dpus.get(host.peer or ("" if asking - {host.node} else alone))
        if dpu is not None:
            yield host, dpu


def _stand(
    found: Condition, last: Device | None, since: int, now: int
) -> tuple[Condition, int | None]:
    """Return the condition to tell, and, if what was told is in doubt, since when it is."""
    told = next((c for c in last.conditions if c.kind == found.kind), None) if last else None
    if told is None:
        return replace(found, since=now), None
    if told.holds == found.holds:
        return replace(found, since=told.since), None
    if told.holds and found.kind in _LINGERING and 0 <= now - since < LOST_S:
        return told, since
    return replace(found, since=since if told.holds else now), None


def _rare(device: Device) -> Device:
    """Return it without what changes all the time.

    That it is gone is told, and that it is back; that nobody knows yet is true for a moment only.
    """
    at_once = {_GONE, *_NEVER_HEARD.values()}
    conditions = tuple(
        each if each.reason in at_once else replace(each, reason="") for each in device.conditions
    )
    return replace(device, conditions=conditions, tables=(), heard_at=0, told_at=0)


def _is_old(told: Device, now: int) -> bool:
    return not 0 <= now - told.told_at < REFRESH_S


def _as_it_is(snapshot: Snapshot, device: Device, now: int) -> Device:
    state = snapshot.state
    heard, seen = state.heard.get(device.name), state.discovered.half(device)
    found = replace(
        device,
        peer=heard.peer if heard else "",
        heard_at=heard.at if heard else 0,
        told_at=now,
        conditions=tuple(_conditions(snapshot, device, heard)),
        assumptions=seen.assumptions if seen else (),
    )
    return found if device.side is Side.HOST else _with_switch(snapshot, found)


def _with_switch(snapshot: Snapshot, device: Device) -> Device:
    """Return a DPU's half with what is known of its switch, and what it is used for."""
    known = snapshot.state.switch.capability
    attachments = snapshot.state.attachments.values()
    device = replace(device, vfs_used=len({each.netdev for each in attachments} - {""}))
    if known is None:
        return device
    views = snapshot.desired.segments.values() if snapshot.desired else ()
    return replace(
        device,
        assumptions=tuple(sorted({*device.assumptions, *in_use(known, views)})),
        tunnels=tuple(sorted(known.tunnels)),
        tables=tuple(sorted(TableUse(t.name, t.used, t.capacity) for t in known.tables)),
    )


def _conditions(snapshot: Snapshot, device: Device, heard: HalfHeard | None) -> Iterator[Condition]:
    beats, lost = _heartbeat(device.side, heard), snapshot.state.lost
    error = snapshot.state.switch.why_silent or lost.get(SWITCH_TARGET, "")
    why_not = error or snapshot.state.switch.why_not or lost.get(OVS_PATH, "")
    if snapshot.state.discovered.lacks(device):
        why_not = _GONE
    elif device.side is Side.HOST:
        why_not = (heard.obstacle if heard else "") if beats.holds else beats.reason
    yield Condition(READY, holds=not why_not, reason=why_not or _READY[device.side])
    yield beats
    behind = _behind(snapshot)
    yield Condition(DATAPLANE_IN_SYNC, holds=not behind, reason=behind or "it has all it should")
    if device.side is Side.DPU:
        yield Condition(SWITCH_REACHABLE, holds=not error, reason=error or "it answers")
        yield _offloading(snapshot)


def _heartbeat(side: Side, heard: HalfHeard | None) -> Condition:
    error = heard.error if heard else _NEVER_HEARD[side]
    return Condition(HEARTBEAT_OK, holds=not error, reason=error or _HEARD[side])


def _behind(snapshot: Snapshot) -> str:
    """Return why what forwards on this node has not all that is desired; empty: it has."""
    for name in snapshot.targets:
        report = snapshot.reports.get(name)
        if name == FABRIC_TARGET:
            continue
        if report is None or report.error:
            return f"{name}: {report.error if report else 'has not answered yet'}"
        if report.generation < snapshot.generation:
            return f"{name}: has yet to follow"
    lost = snapshot.state.lost.get(OVS_PATH, "")
    return lost or ("the switch lacks entries" if snapshot.lacks_entries else "")


def _offloading(snapshot: Snapshot) -> Condition:
    switch = snapshot.state.switch
    known = switch.capability
    if known is None or switch.error:
        return Condition(OFFLOADING, holds=False, reason=switch.why_not)
    if switch.held and known.forwards:
        return Condition(OFFLOADING, holds=True, reason=str(placement_in(known)))
    reasons = Counter(map(str, snapshot.choice.reasons.values()))
    mostly = min(reasons, key=lambda reason: (-reasons[reason], reason), default="no entries")
    return Condition(OFFLOADING, holds=False, reason=known.obstacle or mostly)
