"""``get``: what the fabric database holds, and what the agents hold."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import click

from dataplane.cli.find import agent_option, fabric_option
from dataplane.cli.output import Format, Listing, Record, output_option, show, shown_keys
from dataplane.core.errors import OverweaveError
from dataplane.core.inventory import REFRESH_S, other_halves
from dataplane.core.model import (
    CONDITIONS,
    READY,
    Block,
    Condition,
    Device,
    Endpoint,
    FabricEntity,
    Family,
    Grant,
    IpAddress,
    Node,
    Pin,
    Segment,
    Side,
    Svi,
)

Rows = Sequence[FabricEntity]
Entity = TypeVar("Entity", Node, Segment, Endpoint, Block, Grant, Pin, Device, Svi)

_OLD_S = 3 * REFRESH_S  # what a node has told of a device is no news then
_LOOK_AGAIN_S = 5.0  # time alone makes old what was told

NODES = Listing("node", ("name", "vteps", "static", "segments", "endpoints"), ("blocks",))
SEGMENTS = Listing(
    "segment",
    ("name", "vni", "encap", "underlay", "subnets", "endpoints", "nodes"),
    (
        "mtu",
        "static_ranges",
        "guard",
        "unknown_unicast",
        "blocks",
        "grants",
        "pins",
        "vrf",
        "gateway",
    ),
)
ENDPOINTS = Listing(
    "endpoint",
    ("identity", "segment", "node", "mac", "ips", "learned"),
    ("vtep", "sequence", "container_id", "ifname"),
)
DPUS = Listing(
    "dpu",
    ("name", "dpu_product", "dpu_side", "node", "status"),
    (
        *("vendor", "emulated", "other_half", "encapsulations", "rows_in_use", "vfs", "vfs_used"),
        *("last_heartbeat", "assumptions_in_use", "conditions"),
    ),
    titles={"node": "MODE NAME"},
    truths={"dpu_side": ("false", "true"), "status": ("False", "True")},
)
PORTS = Listing(
    "port",
    ("node", "identity", "segment", "mac", "ips", "access_port", "state", "reason"),
    (
        *("ovs_port", "vni", "mtu", "guard", "published", "container_id", "ifname", "netns"),
        *("handed_over", "detail"),
    ),
)
TUNNELS = Listing(
    "tunnel",
    ("node", "segment", "vni", "encap", "local", "remote", "remote_nodes", "endpoints"),
    ("udp_port", "mtu"),
)

ENTRIES = Listing(
    "entry",
    ("node", "segment", "mac", "identity", "via", "placement", "reason", "packets"),
    ("vni", "bytes", "counted", "words"),
)


@click.group()
def get() -> None:
    """List nodes, segments, endpoints, DPUs of the fabric; ports and so on of its agents."""


@get.command(short_help="nodes and what each owns")
@click.argument("name", required=False)
@output_option
@fabric_option
def node(name: str | None, form: str, remote: str | None) -> None:
    """List the nodes, or the one called NAME."""
    rows = _read(remote)
    show(_named(node_records(rows), name, NODES, ("name",)), NODES, Format(form))


@get.command(short_help="segments and who is on each")
@click.argument("name", required=False)
@output_option
@fabric_option
def segment(name: str | None, form: str, remote: str | None) -> None:
    """List the segments, or the one called NAME."""
    rows = _read(remote)
    show(_named(segment_records(rows), name, SEGMENTS, ("name",)), SEGMENTS, Format(form))


@get.command(short_help="endpoints: MAC, addresses and node")
@click.argument("name", required=False)
@output_option
@fabric_option
def endpoint(name: str | None, form: str, remote: str | None) -> None:
    """List the endpoints, or those whose identity, MAC or one address is NAME."""
    rows = _read(remote)
    keys = ("identity", "mac", "ips")
    show(_named(endpoint_records(rows), name, ENDPOINTS, keys), ENDPOINTS, Format(form))


@get.command(short_help="DPUs: each half, where it is, whether it is ready")
@click.argument("name", required=False)
@click.option("-w", "--watch", is_flag=True, help="print on what changes, until interrupted")
@output_option
@fabric_option
def dpu(name: str | None, form: str, remote: str | None, *, watch: bool) -> None:
    """List the halves of DPUs, or those whose name, serial or node is NAME.

    Each is told by its own node, when a condition turns and else once a minute: figures are of
    then. Who has not told for three minutes is not ready.
    """
    keys = ("name", "serial", "node")
    if watch:
        _watch_dpus(remote, lambda rows: _of(dpu_records(rows), name, keys), Format(form))
        return
    rows = _read(remote)
    show(_named(dpu_records(rows), name, DPUS, keys), DPUS, Format(form))


@get.command(short_help="access ports of the agents")
@click.argument("name", required=False)
@output_option
@agent_option
def port(name: str | None, form: str, sockets: tuple[Path, ...]) -> None:
    """List the access ports, or those whose identity, MAC, address or netdev is NAME."""
    from dataplane.cli.agents import ports

    keys = ("identity", "mac", "ips", "access_port", "ovs_port")
    show(_named(ports(sockets), name, PORTS, keys), PORTS, Format(form))


@get.command(short_help="tunnels of the agents")
@click.argument("name", required=False)
@output_option
@agent_option
def tunnel(name: str | None, form: str, sockets: tuple[Path, ...]) -> None:
    """List the tunnels, or those whose segment, remote node or remote address is NAME."""
    from dataplane.cli.agents import tunnels

    keys = ("segment", "remote", "remote_nodes")
    show(_named(tunnels(sockets), name, TUNNELS, keys), TUNNELS, Format(form))


@get.command(short_help="forwarding entries: which path, and why not a faster one")
@click.argument("name", required=False)
@output_option
@agent_option
def entry(name: str | None, form: str, sockets: tuple[Path, ...]) -> None:
    """List the entries, or those whose MAC, identity, segment or way (port, VTEP) is NAME."""
    from dataplane.cli.agents import entries

    keys = ("mac", "identity", "segment", "via")
    show(_named(entries(sockets), name, ENTRIES, keys), ENTRIES, Format(form))


def node_records(rows: Rows) -> list[Record]:
    """Return the nodes by name, with what each owns."""
    endpoints, blocks = _all(rows, Endpoint), _all(rows, Block)
    return [
        {
            "name": node.name,
            "vteps": [str(vtep) for vtep in node.vteps],
            "static": node.static,
            "segments": sorted({e.segment for e in endpoints if e.node == node.name}),
            "endpoints": sum(e.node == node.name for e in endpoints),
            "blocks": [f"{b.segment}/{b.prefix}" for b in blocks if b.node == node.name],
        }
        for node in sorted(_all(rows, Node), key=lambda node: node.name)
    ]


def segment_records(rows: Rows) -> list[Record]:
    """Return the segments by name, with who is on each."""
    endpoints, blocks, grants = _all(rows, Endpoint), _all(rows, Block), _all(rows, Grant)
    pins, svis = _all(rows, Pin), {svi.segment: svi for svi in _all(rows, Svi)}
    return [
        {
            "name": segment.name,
            "vni": int(segment.vni),
            "encap": segment.encap.value,
            "underlay": segment.underlay.value,
            "mtu": segment.mtu,
            "subnets": [str(prefix) for prefix in segment.subnets],
            "static_ranges": [str(prefix) for prefix in segment.static_ranges],
            "guard": segment.guard.value,
            "unknown_unicast": segment.unknown_unicast.value,
            "endpoints": sum(e.segment == segment.name for e in endpoints),
            "nodes": sorted({e.node for e in endpoints if e.segment == segment.name}),
            "blocks": sum(b.segment == segment.name for b in blocks),
            "grants": sum(g.segment == segment.name for g in grants),
            "pins": sum(pin.segment == segment.name for pin in pins),
            "vrf": svis[segment.name].vrf if segment.name in svis else "",
            "gateway": list(map(str, svis[segment.name].prefixes)) if segment.name in svis else [],
        }
        for segment in sorted(_all(rows, Segment), key=lambda segment: segment.name)
    ]


def endpoint_records(rows: Rows) -> list[Record]:
    """Return the endpoints by segment and identity, with the VTEP each is behind."""
    nodes = {node.name: node for node in _all(rows, Node)}
    underlays = {segment.name: segment.underlay for segment in _all(rows, Segment)}
    return [
        {
            "identity": e.identity,
            "segment": e.segment,
            "node": e.node,
            "vtep": _vtep(nodes.get(e.node), underlays.get(e.segment)),
            "mac": str(e.mac),
            "ips": [str(ip) for ip in e.ips],
            "learned": [str(ip) for ip in e.learned],
            "sequence": e.sequence,
            "container_id": e.container_id,
            "ifname": e.ifname,
        }
        for e in sorted(_all(rows, Endpoint), key=lambda e: (e.segment, e.identity, e.node))
    ]


def dpu_records(rows: Rows, now: float | None = None) -> list[Record]:
    """Return the halves of DPUs by name; what is emulated says so wherever it shows.

    ``now`` is in unix seconds: there, what is told is as old as it is.
    """
    halves = sorted(_all(rows, Device), key=lambda each: (each.name, each.node))
    others, now = other_halves(halves), time.time() if now is None else now
    return [_dpu_record(half, others.get((half.node, half.name)), now) for half in halves]


def _dpu_record(half: Device, other: Device | None, now: float) -> Record:
    ills = [*_untold(half, now), *(_unheard(half, other, now) if other else ())]
    is_dpu = half.side is Side.DPU
    return {
        "name": half.name,
        "dpu_product": half.product + (" (emulated)" if half.emulated else ""),
        "dpu_side": is_dpu,
        "node": half.node,
        "status": half.ready and not ills,
        "serial": half.serial,
        "vendor": half.vendor,
        "emulated": half.emulated,
        "other_half": other.name if other else None,
        "other_node": other.node if other else half.peer or None,
        "encapsulations": [f"{encap}/{family}" for encap, family in half.tunnels],
        "tables": {table.name: f"{table.used}/{table.capacity}" for table in half.tables},
        "rows_in_use": [
            f"{table.name} {table.used}/{table.capacity}" for table in half.tables if table.used
        ],
        "vfs": half.vfs,
        "vfs_used": half.vfs_used if is_dpu else None,  # the host's agent does not tell
        "last_heartbeat": _time(half.heard_at) or None,
        "told": _time(half.told_at) or None,
        "assumptions": list(half.assumptions),
        "assumptions_in_use": len(half.assumptions),
        "conditions": [_condition(each) for each in (*_in_order(half.conditions), *ills)],
    }


def _in_order(conditions: Iterable[Condition]) -> list[Condition]:
    """Return them with what matters most first, what is not known last."""
    places = {kind: place for place, kind in enumerate(CONDITIONS)}
    return sorted(conditions, key=lambda each: (places.get(each.kind, len(places)), each.kind))


def _untold(half: Device, now: float) -> Iterator[Condition]:
    """Yield that ``half`` is no news: its agent tells of it at least every REFRESH_S seconds.

    A dead agent cannot take its own word back.
    """
    if half.told_at and now - half.told_at > _OLD_S:
        reason = f"its agent has told nothing for more than {_OLD_S} s"
        yield Condition("Told", holds=False, reason=reason, since=half.told_at)


def _unheard(half: Device, host: Device, now: float) -> Iterator[Condition]:
    """Yield why a host does not hear the agent that wrote a DPU's ``half``."""
    if half.side is Side.DPU and not any(_untold(host, now)):
        for told in host.conditions:
            if told.kind == READY and not told.holds:
                yield replace(told, kind="Answers", reason=f"{told.reason} (says {host.node})")


def _time(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat() if unix_s else ""


def _condition(condition: Condition) -> str:
    since = _time(condition.since)
    words = (f"{condition.kind}={condition.holds}", since and f"since {since}", condition.reason)
    return " ".join(filter(None, words))


def _vtep(node: Node | None, underlay: Family | None) -> str | None:
    vtep: IpAddress | None = node.vtep(underlay) if node and underlay else None
    return None if vtep is None else str(vtep)


def _all(rows: Rows, kind: type[Entity]) -> list[Entity]:
    return [row for row in rows if isinstance(row, kind)]


def _read(remote: str | None) -> Rows:
    from dataplane.cli.store import open_store

    with open_store(remote) as store:
        for fault in store.faults():
            click.echo(f"overweave: {fault}", err=True)
        return store.read()


def _watch_dpus(
    remote: str | None, records: Callable[[Rows], Sequence[Record]], form: Format
) -> None:
    """Print the records, and then, until interrupted, each of which something shown changes.

    While the database is away nothing is: nodes cannot tell then that all is as it was.
    """
    from dataplane.cli.store import open_store

    keys = shown_keys(DPUS, form)
    shown: dict[tuple[str, str], Record] = {}
    is_away, is_first = False, True
    with open_store(remote) as store:
        for rows in store.follow(Device, _LOOK_AGAIN_S):
            if store.error and not is_away:
                click.echo(f"overweave: {store.error}; what was told last stands", err=True)
            is_away = bool(store.error)
            if is_away:
                continue
            found = {(record["name"], record["node"]): record for record in records(rows)}
            news = [r for place, r in found.items() if _differs(r, shown.get(place), keys)]
            for name, node in shown.keys() - found.keys():
                click.echo(f"overweave: {DPUS.kind} {name} of node {node} is gone", err=True)
            if news or is_first:
                show(news, DPUS, form)
            shown, is_first = found, False


def _differs(record: Record, before: Record | None, keys: Sequence[str] | None) -> bool:
    if before is None or keys is None:
        return record != before
    return any(record[key] != before[key] for key in keys)


def _of(records: Sequence[Record], name: str | None, keys: Iterable[str]) -> Sequence[Record]:
    if name is None:
        return records
    return [record for record in records if any(_is(record[key], name) for key in keys)]


def _named(
    records: Sequence[Record], name: str | None, listing: Listing, keys: Iterable[str]
) -> Sequence[Record]:
    found = _of(records, name, keys)
    if name is not None and not found:
        known = " or ".join(key.replace("_", " ") for key in keys)
        raise OverweaveError(
            f"no {listing.kind} with {known} {name!r}; list all: overweave get {listing.kind}"
        )
    return found


def _is(value: object, name: str) -> bool:
    return name in value if isinstance(value, list) else str(value).lower() == name.lower()
