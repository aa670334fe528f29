"""``get``: what the fabric database holds, and what the agents hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import click

from dataplane.cli.find import agent_option, fabric_option
from dataplane.cli.output import Format, Listing, Record, output_option, show
from dataplane.core.errors import OverweaveError
from dataplane.core.model import (
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
)

Rows = Sequence[FabricEntity]
Entity = TypeVar("Entity", Node, Segment, Endpoint, Block, Grant, Pin, Device)

NODES = Listing("node", ("name", "vteps", "static", "segments", "endpoints"), ("blocks",))
SEGMENTS = Listing(
    "segment",
    ("name", "vni", "encap", "underlay", "subnets", "endpoints", "nodes"),
    ("mtu", "static_ranges", "guard", "unknown_unicast", "blocks", "grants", "pins"),
)
ENDPOINTS = Listing(
    "endpoint",
    ("identity", "segment", "node", "mac", "ips"),
    ("vtep", "sequence", "container_id", "ifname"),
)
DPUS = Listing(
    "dpu",
    ("name", "dpu_product", "dpu_side", "node", "status"),
    ("vendor", "emulated", "assumptions_in_use", "conditions"),
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
@output_option
@fabric_option
def dpu(name: str | None, form: str, remote: str | None) -> None:
    """List the halves of DPUs, or those whose name, serial or node is NAME."""
    rows = _read(remote)
    keys = ("name", "serial", "node")
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
    pins = _all(rows, Pin)
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
            "sequence": e.sequence,
            "container_id": e.container_id,
            "ifname": e.ifname,
        }
        for e in sorted(_all(rows, Endpoint), key=lambda e: (e.segment, e.identity, e.node))
    ]


def dpu_records(rows: Rows) -> list[Record]:
    """Return the halves of DPUs by name; what is emulated says so wherever it shows."""
    halves = sorted(_all(rows, Device), key=lambda each: (each.name, each.node))
    return [_dpu_record(half, tuple(_unheard(half, halves))) for half in halves]


def _dpu_record(half: Device, unheard: tuple[Condition, ...]) -> Record:
    return {
        "name": half.name,
        "dpu_product": half.product + (" (emulated)" if half.emulated else ""),
        "dpu_side": half.side is Side.DPU,
        "node": half.node,
        "status": half.ready and not unheard,
        "serial": half.serial,
        "vendor": half.vendor,
        "emulated": half.emulated,
        "assumptions": list(half.assumptions),
        "assumptions_in_use": len(half.assumptions) if half.side is Side.DPU else None,
        "conditions": [_condition(each) for each in (*half.conditions, *unheard)],
    }


def _unheard(half: Device, halves: Sequence[Device]) -> Iterator[Condition]:
    """Yield why a host does not hear the agent that wrote a DPU's ``half``.

    A dead agent cannot take its own word back.
    """
    for other in halves:
        is_host = half.side is Side.DPU and other.side is Side.HOST and other.serial == half.serial
        for told in other.conditions if is_host and not other.ready else ():
            yield replace(told, kind="Answers", reason=f"{told.reason} (says {other.node})")


def _condition(condition: Condition) -> str:
    since = datetime.fromtimestamp(condition.since, UTC).isoformat() if condition.since else ""
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


def _named(
    records: Sequence[Record], name: str | None, listing: Listing, keys: Iterable[str]
) -> Sequence[Record]:
    if name is None:
        return records
    found = [record for record in records if any(_is(record[key], name) for key in keys)]
    if not found:
        known = " or ".join(key.replace("_", " ") for key in keys)
        raise OverweaveError(
            f"no {listing.kind} with {known} {name!r}; list all: overweave get {listing.kind}"
        )
    return found


def _is(value: object, name: str) -> bool:
    return name in value if isinstance(value, list) else str(value).lower() == name.lower()
