"""``trace``: what becomes of packets between two endpoints, hop by hop, and who is to blame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from dataplane.api import agent_pb2 as pb
from dataplane.cli.agents import as_record, heard_ports, traces
from dataplane.cli.find import agent_option, fabric_option
from dataplane.cli.outcome import FAILED, OK, UNREACHABLE
from dataplane.cli.output import Format, Listing, Record, output_option, show
from dataplane.cli.places import Place, addresses, all_places, the_place
from dataplane.cli.store import open_store
from dataplane.core.errors import InvalidValueError, OverweaveError
from dataplane.core.model import FabricEntity, IpAddress, Node, Segment, Svi
from dataplane.core.reasons import Reason

TRACES = Listing("trace", ())
HOPS = Listing("hop", ("source", "target", "node", "enters", "predicted", "ebpf", "ovs"))
HOPS_OF_DPUS = Listing("hop", (*HOPS.table[:5], "switch", *HOPS.table[5:]))
_VIEW = "fabric view"  # what a node knows of the others
_PATHS = ("switch", "fastpath", "ovs")
_UNSAID = dict.fromkeys(("predicted", *_PATHS))  # of who did not come so far
_STATIC = "static: no agent runs there"


@dataclass(frozen=True, slots=True)
class Asked:
    """Whom a trace is about; ``nodes`` are those of the fabric."""

    source: Place
    target: Place
    nodes: Mapping[str, Node]

    def __str__(self) -> str:
        """Return the command that asks the same elsewhere."""
        return f"overweave trace {self.source} {self.target}"


@dataclass(frozen=True, slots=True)
class Heard:
    """The hops each node told of, and the words on agents that do not answer."""

    hops: Mapping[str, Sequence[Record]]
    silent: Sequence[str]


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict in one line, its exit status, and what to type next."""

    verdict: str
    status: int
    following: str


@click.command()
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@output_option
@fabric_option
@agent_option
def trace(
    source: str, target: str, form: str, remote: str | None, sockets: tuple[Path, ...]
) -> int:
    """Say what becomes of a packet from SRC to DST and of one back, and why.

    SRC and DST are identities as in 'overweave get endpoint', IDENTITY@NODE, MACs or addresses.
    Between two segments of a Vrf the sender's node routes, in Open vSwitch.
    Each node says what should happen, what its live eBPF program and maps do, and what the live
    flows of Open vSwitch do; a DPU with an emulated switch, what that does with a packet injected
    there. Nothing is sent; switch and eBPF program count the packet like any other.
    Shown is all up to the first difference, and whose it is; everything with -o wide, json, yaml.

    Exits 0 if both directions work and all agree, 1 if not, 3 if a node was not heard.
    """
    with open_store(remote) as store:
        rows = store.read()
    places = all_places(rows, heard_ports(sockets))
    ends = the_place(places, source), the_place(places, target)
    if ends[0] == ends[1]:
        raise InvalidValueError(f"{ends[0]} is both SRC and DST: give two endpoints")
    asked = Asked(*ends, {row.name: row for row in rows if isinstance(row, Node)})
    if not _share(rows, ends[0].segment, ends[1].segment):
        return _told(asked, (), Format(form))
    request = _request(asked, rows, addresses(*ends, (source, target)))
    return _told(asked, tuple(hops(asked, Heard(*traces(sockets, request)))), Format(form))


def _request(
    asked: Asked, rows: Iterable[FabricEntity], ips: tuple[IpAddress, IpAddress]
) -> pb.TraceRequest:
    known = {row.name: row for row in rows if isinstance(row, Segment)}
    names = (asked.source.segment, asked.target.segment)
    if gone := [name for name in names if name not in known]:
        raise OverweaveError(f"segment {gone[0]} is not in the fabric database any more")
    there = [known[name] for name in names]
    ways = ((asked.source, ips[0], there), (asked.target, ips[1], there[::-1]))
    source, target = (_end(asked, *way) for way in ways)
    return pb.TraceRequest(segment=asked.source.segment, source=source, target=target)


def _share(rows: Iterable[FabricEntity], one: str, other: str) -> bool:
    """Say whether two segments are the same, or routed between."""
    vrfs = {row.segment: row.vrf for row in rows if isinstance(row, Svi)}
    return one == other or (one in vrfs and vrfs[one] == vrfs.get(other))


def _end(asked: Asked, place: Place, ip: IpAddress, segments: Sequence[Segment]) -> pb.TraceEnd:
    """Return an end of a trace; ``segments`` are its own and the other's."""
    own, other = segments
    end = pb.TraceEnd(name=str(place), node=place.node, mac=place.mac, ip=str(ip))
    end.vtep = _vtep(asked, place.node, own)
    if own != other:
        end.segment, end.vtep_there = own.name, _vtep(asked, place.node, other)
    return end


def _vtep(asked: Asked, node: str, segment: Segment) -> str:
    known = asked.nodes.get(node)
    return str((known.vtep(segment.underlay) if known else None) or "")


# --- what was heard ----------------------------------------------------------------------------


def hops(asked: Asked, heard: Heard) -> Iterator[Record]:
    """Yield every hop of both directions, in order."""
    for way in ((asked.source, asked.target), (asked.target, asked.source)):
        nodes = dict.fromkeys(place.node for place in way)
        yield from _joined([_hop(asked, heard, way, node) for node in nodes])


def _hop(asked: Asked, heard: Heard, way: tuple[Place, Place], node: str) -> Record:
    """Return what ``node`` says; if nothing, it is ``missing`` why."""
    source, target = map(str, way)
    for hop in heard.hops.get(node, ()):
        if (hop["source"], hop["target"]) == (source, target):
            return {**_UNSAID, **hop, "missing": ""}
    enters = "pod" if way[0].node == node else "wire"
    unheard = as_record(pb.Hop(node=node, source=source, target=target, enters=enters))
    return {**_UNSAID, **unheard, "missing": _why_missing(asked, heard, node)}


def _why_missing(asked: Asked, heard: Heard, node: str) -> str:
    known = asked.nodes.get(node)
    if known is not None and known.static:
        return _STATIC
    if node in heard.hops:
        return "its agent does not know yet what should be"
    return "; ".join(heard.silent) or f"not asked: run {asked} on {node}"


def _joined(way: list[Record]) -> list[Record]:
    """Return the hops of one direction; the second must await what the first one sends."""
    if len(way) == 1 or not all(hop["arrives"] for hop in way):
        return way
    sent, awaited = (hop["tunnel"] for hop in way)
    if sent == awaited or _is_steered(way[0]):
        return way
    what = f"{way[0]['node']} sends {sent}, {way[1]['node']} awaits {awaited}"
    return [way[0], {**way[1], "arrives": False, "owner": _VIEW, "difference": what}]


# --- what it means -----------------------------------------------------------------------------


def judge(asked: Asked, found: Sequence[Record]) -> Judgement:
    """Return the verdict on all hops."""
    names = (asked.source.segment, asked.target.segment)
    if not found:
        apart = f"not reachable: no Vrf has both segments, {' and '.join(names)}"
        return Judgement(apart, FAILED, "overweave get segment")
    stuck = next((hop for hop in found if not hop["missing"] and not hop["arrives"]), None)
    if stuck is not None:
        following = "overweave status" if stuck["owner"] else "overweave get port -o wide"
        return Judgement(f"not reachable: {_ends(stuck)}", FAILED, following)
    blamed = next((f", but {_blame(hop)} differs" for hop in found if hop["owner"]), "")
    unheard = dict.fromkeys(hop["node"] for hop in found if hop["missing"] not in ("", _STATIC))
    if unheard:
        rest = "" if all(hop["missing"] for hop in found) else f"; the rest: {_way(found)}{blamed}"
        following = "overweave status" if blamed else f"on {next(iter(unheard))}: {asked}"
        verdict = f"not known: nothing heard of {', '.join(unheard)}{rest}"
        return Judgement(verdict, UNREACHABLE, following)
    if blamed:
        return Judgement(f"reachable, {_way(found)}{blamed}", FAILED, "overweave status")
    mesh = f"overweave ping --mesh --segment {names[0]}"
    through = dict.fromkeys(hop["node"] for hop in found if _is_steered(hop))
    beyond = f"; what the network function of {', '.join(through)} does is not known"
    return Judgement(f"reachable, {_way(found)}{beyond if through else ''}", OK, mesh)


def _is_steered(hop: Record) -> bool:
    """Say whether the packet goes into a network function, which sends it on if it wants to."""
    predicted = hop["predicted"] or {}
    return predicted.get("reason") == Reason.NETWORK_FUNCTION and bool(predicted["detail"])


def _ends(hop: Record) -> str:
    """Say where the packet ends, and why."""
    where = f"{hop['source']} to {hop['target']} ends at {hop['node']}"
    if not hop["owner"]:
        return f"{where}: {_said(hop['predicted'])}"
    is_joint = hop["owner"] == _VIEW
    what = hop["difference"] if is_joint else _said(hop[hop["via"]])
    return f"{where}: {what}; {_blame(hop)} differs"


def _blame(hop: Record) -> str:
    return f"{hop['owner']} of {hop['node']}"


def _way(found: Sequence[Record]) -> str:
    """Say by which path packets go."""
    slow = [hop for hop in found if hop["via"] == "ovs"]
    if slow:
        reasons = {f"{hop['reason'] or 'no fast path'} on {hop['node']}": None for hop in slow}
        return f"over ovs, because {', '.join(reasons)}"
    ways = "fastpath" if any(hop["missing"] for hop in found) else "fastpath both ways"
    switches = dict.fromkeys(hop["node"] for hop in found if hop["via"] == "switch")
    return f"{ways}, in the switch of {', '.join(switches)}" if switches else ways


# --- what is shown -----------------------------------------------------------------------------


def _told(asked: Asked, found: Sequence[Record], form: Format) -> int:
    judgement = judge(asked, found)
    if form in (Format.JSON, Format.YAML):
        show([_as_one(asked, found, judgement)], TRACES, form)
        return judgement.status
    click.echo(judgement.verdict)
    shown = found if form is Format.WIDE else _first(found)
    if shown:
        listing = HOPS_OF_DPUS if any(hop["switch"] for hop in shown) else HOPS
        show([_row(hop) for hop in shown], listing, Format.TABLE)
    for hop in shown:
        if hop["owner"]:
            click.echo(f"difference: {_blame(hop)}: {hop['difference']}")
    click.echo(f"next: {judgement.following}")
    return judgement.status


def _as_one(asked: Asked, found: Sequence[Record], judgement: Judgement) -> Record:
    blamed: Record = next((hop for hop in found if hop["owner"]), {})
    return {
        "verdict": judgement.verdict,
        "status": judgement.status,
        "source": str(asked.source),
        "target": str(asked.target),
        "segment": asked.source.segment,
        "differs": {key: blamed.get(key, "") for key in ("node", "owner", "difference")},
        "hops": list(found),
    }


def _first(found: Sequence[Record]) -> Sequence[Record]:
    """Return the hops up to the first that differs, or ends the way."""
    ends = (n for n, hop in enumerate(found) if _is_last(hop))
    return found[: next(ends, len(found)) + 1]


def _is_last(hop: Record) -> bool:
    return bool(hop["owner"]) or not (hop["missing"] or hop["arrives"])


def _row(hop: Record) -> Record:
    row = {key: hop[key] for key in ("source", "target", "node", "enters")}
    if hop["missing"]:
        return {**row, "predicted": hop["missing"], "switch": "", "ebpf": "", "ovs": ""}
    switch, ebpf, ovs = (_live(hop[path], hop["predicted"]) for path in _PATHS)
    predicted = _said(hop["predicted"])
    return {**row, "predicted": predicted, "switch": switch, "ebpf": ebpf, "ovs": ovs}


def _live(outcome: Record | None, predicted: Record) -> str:
    """Say what a path does, in a word where it does as predicted, and what it asked."""
    if outcome is None:
        return ""
    said = "same" if outcome["says"] == predicted["says"] else _said(outcome)
    return f"{said}: {', '.join(outcome['passed'])}" if outcome["passed"] else said


def _said(outcome: Record) -> str:
    why = ", ".join(filter(None, (outcome["reason"], outcome["detail"])))
    return f"{outcome['says']} ({why})" if why else str(outcome["says"])
