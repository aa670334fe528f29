"""What the DPU's bridge says it can do, and how full it is. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dataplane.core.capability import Capability, Table
from dataplane.core.model import Encap, Guard, IpAddress, family_of
from ovs_client.ofctl import Flow
from vendors.marvell.assumptions import ASSUMPTIONS
from vendors.marvell.common import common_rows
from vendors.marvell.pipeline import (
    LOWEST_PRIORITY,
    PIPELINE,
    TUNNEL_PORTS,
    Category,
    Wiring,
    category,
    is_ours,
)

VENDOR, PRODUCT = "marvell", "Marvell Octeon 10"
UNLIMITED = 1_000_000  # what Open vSwitch says of a table without flow_limit (ofproto.c)


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found: all flows, how many each table takes, ports, addresses of the bridge.

    Flows of others call ports by name; ours, of which there may be many, as the device does.
    ``offloaded``: how many flows the datapath says are in hardware; None: it cannot say.
    ``others`` is how many ports, routes and neighbours of ours there are beside our flows.
    ``holder`` is another node that has its entries there.
    """

    flows: tuple[Flow, ...]
    limits: Mapping[int, int]
    ports: frozenset[str]
    addresses: tuple[IpAddress, ...]
    offloaded: int | None
    others: int = 0
    holder: str = ""


def capability(findings: Findings, wiring: Wiring, *, emulated: bool) -> Capability:
    """Return what can be placed in this bridge."""
    usable = tuple(address for address in findings.addresses if not address.is_link_local)
    families = {family_of(address) for address in usable}
    obstacle = _obstacle(findings, wiring)
    return Capability(
        vendor=VENDOR,
        product=PRODUCT,
        tunnels=frozenset((encap, family) for encap in TUNNEL_PORTS for family in families),
        guards={rep: frozenset(Guard) for rep, vf in wiring.vfs.items() if vf in findings.ports},
        tables=tuple(_tables(findings, common_rows(tuple(Encap), usable))),
        assumptions=ASSUMPTIONS,
        limits=tuple(_limits(findings)),
        obstacle=obstacle,
        forwards=not obstacle,  # what comes before our flows, or takes their ports away
        emulated=emulated,
        rows=sum(map(is_ours, findings.flows)) + findings.others,
    )


def _tables(findings: Findings, fixed: Mapping[str, int]) -> Iterator[Table]:
    """Yield the tables; what every entry relies on, the ``fixed`` rows, is not for entries."""
    for table in PIPELINE:
        held = [flow for flow in findings.flows if flow.table == table.number]
        foreign = sum(not is_ours(flow) for flow in held)
        yield Table(
            name=table.name,
            capacity=max(0, findings.limits.get(table.number, UNLIMITED) - fixed[table.name]),
            used=sum(not is_ours(flow) or category(flow) != Category.PIPELINE for flow in held),
            foreign=foreign,
            rows=table.rows,
        )


def _limits(findings: Findings) -> Iterator[str]:
    if any(findings.limits.get(table.number) == UNLIMITED for table in PIPELINE):
        yield f"tables without a Flow_Table limit take {UNLIMITED} flows, Open vSwitch says"
    yield "a frame too large for the underlay moves its entry's counter, too (check_pkt_larger)"
    said = "does not say" if findings.offloaded is None else f"says {findings.offloaded}"
    yield f"flows in hardware: its datapath {said}"


def _obstacle(findings: Findings, wiring: Wiring) -> str:
    return (
        _held(findings, wiring)
        or _missing_port(findings, wiring)
        or _foreign_flow(findings, wiring)
    )


def _held(findings: Findings, wiring: Wiring) -> str:
    if not findings.holder:
        return ""
    return (
        f"node {findings.holder} has its entries in {wiring.bridge}; stop its agent, and delete"
        f" the ports {', '.join(TUNNEL_PORTS.values())} there, to have it here"
    )


def _missing_port(findings: Findings, wiring: Wiring) -> str:
    missing = {wiring.uplink, wiring.cpu} - findings.ports
    return f"{wiring.bridge} has no port {min(missing)}: add it" if missing else ""


def _foreign_flow(findings: Findings, wiring: Wiring) -> str:
    """Return which flow of others would get, or get a share of, what our flows are for."""
    ours = {*wiring.vfs.values(), wiring.uplink, "LOCAL", *TUNNEL_PORTS.values()}
    numbers = {table.number for table in PIPELINE}
    for flow in findings.flows:
        if is_ours(flow) or flow.table not in numbers:
            continue
        fields = dict(token.partition("=")[::2] for token in flow.match.split(","))
        above = flow.priority >= LOWEST_PRIORITY.get(flow.table, 0)
        if above and fields.get("in_port", "LOCAL") in ours:
            match = f",{flow.match}" if flow.match else ""
            return (
                f"{wiring.bridge} is programmed by others: table={flow.table},"
                f"priority={flow.priority}{match} actions={flow.actions} goes before our flows;"
                " remove it to have entries placed"
            )
    return ""
