"""The answer to Trace: predicted by the desired state, asked of the live paths, compared."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from ipaddress import ip_address

from dataplane.api import agent_pb2 as pb
from dataplane.contracts import PacketPath, PacketPaths
from dataplane.core.errors import OverweaveError
from dataplane.core.model import Mac
from dataplane.core.path import (
    Action,
    End,
    Hop,
    Live,
    Outcome,
    Probe,
    Tunnel,
    arrives,
    compare,
    hops,
    why_ovs,
)
from dataplane.core.snapshot import SWITCH_TARGET, Snapshot

_FASTPATH = "fastpath"


def trace(snapshot: Snapshot, paths: PacketPaths, request: pb.TraceRequest) -> Iterator[pb.Hop]:
    """Yield this node's hops; none while nothing is desired. Raises InvalidValueError."""
    if snapshot.desired is None:
        return
    ends = (_end(request.source), _end(request.target))
    full = frozenset(f"{_FASTPATH}: {each}" for each in snapshot.full_maps)
    for hop in hops(snapshot.desired, request.segment, ends):
        yield _message(snapshot.state.node.name, hop, _live(paths, hop), full)


def _end(end: pb.TraceEnd) -> End:
    vtep, there = (ip_address(each) if each else None for each in (end.vtep, end.vtep_there))
    return End(end.name, end.node, Mac(end.mac), ip_address(end.ip), vtep, end.segment, there)


def _live(paths: PacketPaths, hop: Hop) -> Live | None:
    if hop.probe is None:
        return None
    fast, ovs = _ask(paths.fast, hop.probe), _ask(paths.ovs, hop.probe)
    if paths.switch is None:
        return Live(fast, ovs)
    return Live(fast, ovs, _ask(paths.switch, hop.probe))


def _ask(path: PacketPath, probe: Probe) -> Outcome:
    try:
        return path.outcome(probe)
    except OverweaveError as error:
        return Outcome(Action.UNKNOWN, owner=path.name, detail=str(error))


def _message(node: str, hop: Hop, live: Live | None, full: Collection[str]) -> pb.Hop:
    message = pb.Hop(
        node=node,
        source=hop.source.name,
        target=hop.target.name,
        enters="pod" if hop.source.node == node else "wire",
        predicted=_outcome(hop.predicted),
    )
    if live is not None:
        message.MergeFrom(_judged(hop, live, full))
        if live.switch.action is not Action.NONE:
            message.switch.CopyFrom(_outcome(live.switch))
        found = compare(hop.predicted, live, full)
        if found is not None:
            message.owner, message.difference = found.owner, found.what
    return message


def _judged(hop: Hop, live: Live, full: Collection[str]) -> pb.Hop:
    return pb.Hop(
        fastpath=_outcome(live.fast),
        ovs=_outcome(live.ovs),
        arrives=arrives(hop.predicted, live),
        via=_via(live),
        reason=why_ovs(hop.predicted, live, full) or "",
        tunnel=str(_tunnel(hop, live) or ""),
    )


def _via(live: Live) -> str:
    names = ((live.switch, SWITCH_TARGET), (live.fast, _FASTPATH))
    return next((name for outcome, name in names if outcome is live.decides), "ovs")


def _tunnel(hop: Hop, live: Live) -> Tunnel | None:
    """Return the outer headers that are written, or awaited."""
    entry = hop.probe.entry if hop.probe else None
    return entry if isinstance(entry, Tunnel) else live.decides.tunnel


def _outcome(outcome: Outcome) -> pb.Outcome:
    return pb.Outcome(
        action=outcome.action,
        says=outcome.says,
        reason=outcome.reason or "",
        detail=outcome.detail,
        passed=outcome.passed,
    )
