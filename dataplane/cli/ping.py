"""``ping --mesh``: every pod of the agents asked to every endpoint of its segment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from statistics import median
from typing import Any

import click

from dataplane.cli.agents import ports
from dataplane.cli.find import agent_option, fabric_option
from dataplane.cli.outcome import FAILED, OK
from dataplane.cli.output import Format, Listing, Record, output_option, show
from dataplane.cli.store import open_store
from dataplane.core.errors import InvalidValueError, OverweaveError
from dataplane.core.model import Endpoint, IpAddress
from dataplane.lab.probes import Pace, Station
from dataplane.lab.probes import ping as probe

_AT_ONCE = 4
PINGS = Listing("pair", ("segment", "source", "target", "ip", "sent", "lost", "median_ms", "fault"))


@dataclass(frozen=True, slots=True)
class Ping:
    """One address of ``target``, to be asked from ``source``."""

    segment: str
    source: Station
    target: str
    ip: IpAddress


@click.command()
@click.option("--mesh", is_flag=True, required=True, help="all pairs of each segment")
@click.option("--segment", help="only this segment")
@click.option("-c", "--count", type=click.IntRange(1, 10_000), default=3, show_default=True)
@output_option
@fabric_option
@agent_option
def ping(  # noqa: PLR0913, PLR0917 - one for each option
    mesh: bool,  # noqa: FBT001
    segment: str | None,
    count: int,
    form: str,
    remote: str | None,
    sockets: tuple[Path, ...],
) -> int:
    """Ping every endpoint of a segment from every pod there, over IPv4 and IPv6.

    Pods of the agents asked send; every endpoint that the fabric knows is asked, also those of
    static nodes. Exits 1 if a packet was lost.
    """
    del mesh
    with open_store(remote) as store:
        endpoints = [row for row in store.read() if isinstance(row, Endpoint)]
    there = ports(sockets)
    pings = list(_pings(there, endpoints, segment))
    if not pings:
        raise OverweaveError("no pair to ping; attach two pods to a segment: overweave get port")
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        records = list(pool.map(lambda one: _result(one, Pace(count)), pings))
    if form in (Format.JSON, Format.YAML):
        show(records, PINGS, Format(form))
    else:
        click.echo(_verdict(records))
        _show(records, wide=form == Format.WIDE)
        if away := [f"{port['identity']}@{port['node']}" for port in there if _is_away(port)]:
            click.echo(f"not asked from here, they are on the DPU's host: {', '.join(away)}")
        click.echo(f"next: {_next(records)}")
    return OK if not any(record["lost"] for record in records) else FAILED


def _pings(
    records: Iterable[Record], endpoints: Sequence[Endpoint], segment: str | None
) -> Iterator[Ping]:
    active = [port for port in records if port["state"] == "active"]
    names = {port["segment"] for port in active}
    if segment is not None and segment not in names:
        there = ", ".join(sorted(names)) or "none"
        raise InvalidValueError(f"no pod here is on segment {segment!r}; pods are on: {there}")
    for port in active:
        if segment in (None, port["segment"]) and not _is_away(port):
            source = _station(port)
            yield from (
                Ping(port["segment"], source, _called(endpoint), ip)
                for endpoint in endpoints
                if endpoint.segment == port["segment"] and endpoint.mac != port["mac"]
                for ip in endpoint.ips
                if any(own.version == ip.version for own in source.ips)
            )


def _is_away(port: Record) -> bool:
    """Say whether the pod's namespace is another machine's: it has a VF of the DPU that told."""
    return not port["netns"]


def _station(port: Record) -> Station:
    return Station(
        name=f"{port['identity']}@{port['node']}",
        netns=Path(port["netns"]),
        ifname=port["ifname"],
        mac=port["mac"],
        ips=tuple(ip_address(text) for text in port["ips"]),
        mtu=port["mtu"],
    )


def _called(endpoint: Endpoint) -> str:
    return f"{endpoint.identity}@{endpoint.node}"


def _result(one: Ping, pace: Pace) -> dict[str, Any]:
    sent, lost, times, fault = pace.count, pace.count, [], ""
    try:
        echo = probe(one.source, one.ip, pace)
        sent, lost, times = echo.sent, echo.lost, echo.round_trips
    except OverweaveError as error:  # the pod's namespace is gone, or it has no route
        fault = str(error)
    return {
        "segment": one.segment,
        "source": one.source.name,
        "target": one.target,
        "ip": str(one.ip),
        "sent": sent,
        "lost": lost,
        "median_ms": round(median(times) * 1000, 3) if times else None,
        "fault": fault,
    }


def _verdict(records: Sequence[Record]) -> str:
    bad = {_pair(record) for record in records if record["lost"]}
    pairs = {_pair(record) for record in records}
    lost = sum(record["lost"] for record in records)
    return f"reachable: {len(pairs) - len(bad)}/{len(pairs)} pairs, lost {lost}"


def _show(records: Sequence[Record], *, wide: bool) -> None:
    """Show a matrix for each segment; ``wide``: each address on a line of its own."""
    if wide:
        show(records, PINGS, Format.TABLE)
        return
    for segment in sorted({record["segment"] for record in records}):
        own = [record for record in records if record["segment"] == segment]
        names = sorted({name for record in own for name in _pair(record)[1:]})
        short = {name: str(number) for number, name in enumerate(names, start=1)}
        listing = Listing("pair", (segment, *short.values()))
        show([_row(name, own, segment, short) for name in names], listing, Format.TABLE)


def _row(
    source: str, records: Sequence[Record], segment: str, short: dict[str, str]
) -> dict[str, Any]:
    row: dict[str, Any] = {segment: f"{short[source]} {source}"}
    for target, number in short.items():
        cell = [r for r in records if (r["source"], r["target"]) == (source, target)]
        row[number] = _cell(cell)
    return row


def _cell(records: Sequence[Record]) -> str:
    """Say loss over all addresses of a pair in percent, else the slowest median in ms."""
    if not records:
        return ""
    lost = sum(record["lost"] for record in records)
    if lost:
        return f"{100 * lost / sum(record['sent'] for record in records):.0f} % lost"
    return f"{max(record['median_ms'] for record in records):.2f} ms"


def _next(records: Sequence[Record]) -> str:
    if any(record["lost"] for record in records):
        return "see each address with -o wide, then the agents: overweave status"
    return "overweave get tunnel"


def _pair(record: Record) -> tuple[str, str, str]:
    return record["segment"], record["source"], record["target"]
