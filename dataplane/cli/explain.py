"""``explain``: by which path each entry is forwarded, why by no faster one, and what would help."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from dataplane.cli.agents import entries, statuses
from dataplane.cli.find import agent_option, fabric_option
from dataplane.cli.output import Format, Listing, Record, output_option, show
from dataplane.cli.store import open_store
from dataplane.core.errors import InvalidValueError, OverweaveError
from dataplane.core.inventory import other_halves
from dataplane.core.model import Device, Side, Svi
from dataplane.core.placement import Placement
from dataplane.core.reasons import Reason
from vendors.assumed import statement

ENTRIES = Listing(
    "entry", ("node", "mac", "identity", "via", "placement", "reason", "counted"), ("segment",)
)
_PATHS = {
    Placement.HARDWARE: "in hardware",
    Placement.SWITCH: "in a switch that does not say whether that is hardware",
    Placement.EMULATED: "in an emulated switch",
    Placement.FASTPATH: "in eBPF",
    Placement.OVS: "in Open vSwitch",
}

REMEDIES: Mapping[Reason, str] = {
    Reason.SUPERSEDED: "the workload runs elsewhere by now: delete the pod here",
    Reason.DUPLICATE: "another identity has its MAC or address: overweave get endpoint",
    Reason.MAC_FROZEN: "it moved 5 times within 180 s: let it rest, then add it again",
    Reason.NOT_GRANTED: "grant it: overweave apply with a Grant for this node",
    Reason.NO_VTEP: "give this node an address of the segment's underlay family",
    Reason.UNDERLAY_MTU: "raise the MTU of the underlay, or lower the segment's",
    Reason.UNKNOWN_SEGMENT: "make the segment: overweave apply",
    Reason.PENDING: "nothing: it is under way; if it stays so: overweave status",
    Reason.TABLE_FULL: "other entries of that table that fall silent, or a pin: kind: Pin",
    Reason.NO_FASTPATH: "what keeps eBPF off this node: overweave status -o wide",
    Reason.NO_NEXTHOP: "the way to that VTEP: a route, and a neighbour that answers",
    Reason.ROUTED: "nothing: Open vSwitch alone routes between segments",
    Reason.NETWORK_FUNCTION: "nothing, while it is there: overweave status, overweave get port",
    Reason.NO_SWITCH_PORT: "a VF of the DPU, for a pod or for a peer on its segment",
    Reason.BELOW_THRESHOLD: "more traffic, 10 packets a second, or a pin: kind: Pin",
    Reason.UNSUPPORTED_ENCAP: "another encapsulation or underlay family for the segment",
    Reason.UNSUPPORTED_GUARD: "another guard for the segment: the device cannot enforce this one",
    Reason.UNSUPPORTED_MATCH: "nothing here: the device takes no such entry",
    Reason.KEY_CONFLICT: "a MAC that no other segment behind this switch uses",
    Reason.SWITCH_TAKEN: "take out of the switch what is named there",
    Reason.DEVICE_DOWN: "the device must answer again; it is used by itself then",
    Reason.POLICY_OFF: "the pin that says never: overweave delete pin",
}


@click.command()
@click.argument("name", metavar="ENDPOINT|SEGMENT|DEVICE")
@output_option
@fabric_option
@agent_option
def explain(name: str, form: str, remote: str | None, sockets: tuple[Path, ...]) -> None:
    """Say by which path the agents forward, why by no faster one, and what would change it.

    ENDPOINT is an identity or a MAC. DEVICE is a name as in 'overweave get dpu', of either half, or
    a serial, and means the DPU: what is assumed of it is listed, too. A node's name means the node.
    A reason is one of a closed list; behind it stand the words of the kernel or the device.
    """
    found = _named(entries(sockets), name)
    halves = () if found else _halves_of(remote, name)
    if halves:
        found = _named(entries(sockets), halves[0].node)
    elif not found:
        raise InvalidValueError(
            f"{name!r} is no identity, MAC, segment or node with entries on the agents asked,"
            " and no device; see: overweave get entry, overweave get dpu"
        )
    records = [{**record, "remedy": remedy(record["reason"])} for record in found]
    if form in (Format.JSON, Format.YAML):
        show(records, ENTRIES, Format(form))
        return
    click.echo(_verdict(name, records))
    nodes = {record["node"] for record in records} | {half.node for half in halves[:1]}
    for line in _switches(statuses(sockets), nodes):
        click.echo(line)
    if any(record["segment"] == name for record in records):
        click.echo(_gateway(remote, name))
    show(records, ENTRIES, Format(form))
    for reason, why in _causes(records).items():
        click.echo(f"{reason}: {', '.join(why) or 'no more is said'}")
        click.echo(f"  what would change it: {remedy(reason)}")
    for line in _assumptions(halves) if halves else ():
        click.echo(line)
    click.echo("next: overweave trace SRC DST")


def remedy(reason: str) -> str:
    """Return what would move an entry of this reason to a faster path; empty: there is none."""
    return REMEDIES.get(Reason(reason), "") if reason else ""


def _named(records: Sequence[Record], name: str) -> list[Record]:
    keys = ("identity", "mac", "segment", "node")
    return [record for record in records if name in (record[key] for key in keys)]


def _halves_of(remote: str | None, name: str) -> tuple[Device, ...]:
    """Return the halves of the DPU of a name or a serial, first that whose node has the entries."""
    with open_store(remote) as store:
        devices = [row for row in store.read() if isinstance(row, Device)]
    meant = [each for each in devices if name in (each.name, each.serial)]
    others = other_halves(devices)
    found = [
        each if each.side is Side.DPU else others.get((each.node, each.name)) for each in meant
    ]
    dpus = sorted({each.node: each for each in found if each}.items())
    if len(dpus) > 1:
        nodes = ", ".join(node for node, _ in dpus)
        raise InvalidValueError(f"device {name!r} is on several nodes: {nodes}; name one of them")
    if meant and not dpus:
        nodes = ", ".join(sorted({each.node for each in meant}))
        raise InvalidValueError(
            f"device {name!r} is its host's half, on node {nodes}, and no node tells of the DPU,"
            " which has the entries: is the DPU's agent running? See: overweave get dpu -o wide"
        )
    if not dpus:
        return ()
    dpu = dpus[0][1]
    host = others.get((dpu.node, dpu.name))
    return (dpu, host) if host else (dpu,)


def _gateway(remote: str | None, segment: str) -> str:
    """Say which gateway a segment has, and what that reaches."""
    try:
        with open_store(remote) as store:
            svis = [row for row in store.read() if isinstance(row, Svi)]
    except OverweaveError as error:
        return f"gateway: not known: {error}"
    own = next((svi for svi in svis if svi.segment == segment), None)
    if own is None:
        return "gateway: none: it reaches no other segment"
    others = sorted(svi.segment for svi in svis if svi.vrf == own.vrf and svi is not own)
    return (
        f"gateway: {', '.join(map(str, own.prefixes))} with {own.mac} on every node,"
        f" svi {own.name}; vrf {own.vrf} reaches {', '.join(others) or 'no other segment'}"
    )


def _assumptions(halves: Sequence[Device]) -> Iterator[str]:
    """Yield what is taken to be so of the device, as it is used now on either side."""
    assumed = sorted({(name, half.vendor) for half in halves for name in half.assumptions})
    yield f"assumptions in use, on no document's word: {len(assumed)}"
    for name, vendor in assumed:
        yield f"  {name}: {statement(vendor, name) or 'another version knows what it says'}"


def _verdict(name: str, records: Sequence[Record]) -> str:
    counts = Counter(record["placement"] for record in records)
    parts = [f"{counts[path]} {words}" for path, words in _PATHS.items() if counts[path]]
    return f"{name}: {', '.join(parts) or 'no entries'}"


def _switches(told: Sequence[Record], nodes: set[str]) -> list[str]:
    """Return what is below those of ``nodes`` that are DPUs."""
    found = []
    for record in told:
        modes: Mapping[str, Any] = record.get("modes", {})
        if record.get("node") in nodes and "switch" in modes:
            found.append(f"switch of {record['node']}: {modes['switch']}")
    return found


def _causes(records: Sequence[Record]) -> dict[str, list[str]]:
    """Return by reason the different words behind it."""
    causes: dict[str, list[str]] = {}
    for record in records:
        if record["reason"]:
            words = causes.setdefault(record["reason"], [])
            if record["words"] and record["words"] not in words:
                words.append(record["words"])
    return causes
