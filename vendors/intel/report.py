"""What the device says it can do, and how full it is. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from dataplane.core.agreement import Field
from dataplane.core.capability import Capability, Departure, Part, Table
from dataplane.core.model import Encap, Family
from vendors.intel.assumptions import ASSUMPTIONS
from vendors.intel.numbers import Pools, ours_of
from vendors.intel.pipeline import (
    BRIDGES,
    DECAPS,
    ENCAPS,
    MISSES,
    PIPELINE,
    PORTS,
    SHARED,
    SOURCE_FIELD,
    UNDERLAY,
    VPORT_OFFSET,
    DeviceRow,
    Wiring,
    tables_for,
)
from vendors.intel.rows import GUARDS

VENDOR, PRODUCT = "intel", "Intel IPU E2100"
CANNOT_SET = frozenset({Field.DF, Field.TTL, Field.ECN})
DEPARTURES = frozenset(  # each with its source in the README
    {
        Departure.ND_ANSWERS,
        Departure.FRAME_SIZE,
        Departure.OUTER_ECN,
        Departure.OUTER_TARGET,
    }
)
_KINDS = tuple((encap, family) for encap in Encap for family in Family)
_WITHOUT_COUNTERS = (
    "what comes in from the wire is not counted by endpoint: l2_fwd_rx_table has no counter"
)
_LIMITS = (
    "tunnel packets are taken in on UDP ports 4789 and 6081 alone",
    "a MAC is behind one VTEP, whatever the segment: key-conflict",
    _WITHOUT_COUNTERS,
)


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found: rows, how many each table takes, what is wrong with tables, by name.

    ``obstacle`` is what keeps us from writing at all.
    """

    rows: tuple[DeviceRow, ...]
    sizes: Mapping[str, int]
    faults: Mapping[str, str]
    pools: Pools
    obstacle: str = ""


def capability(findings: Findings, wiring: Wiring, *, emulated: bool) -> Capability:
    """Return what can be placed in this device."""
    lacking = findings.faults
    tunnels = frozenset(kind for kind in _KINDS if not _missing(tables_for(*kind), findings.faults))
    shared = _missing(SHARED, findings.faults)
    ours = ours_of(findings.rows, findings.pools)
    own = frozenset(row.key for row in ours)
    taken = _taken([row for row in findings.rows if row.key not in own], wiring)
    return Capability(
        vendor=VENDOR,
        product=PRODUCT,
        tunnels=tunnels,
        guards={rep: GUARDS for rep, vsi in wiring.vfs.items() if vsi in _ports(findings.rows)},
        tables=tuple(_tables(findings, ours)),
        cannot_set=CANNOT_SET,
        departures=DEPARTURES,
        assumptions=ASSUMPTIONS,
        limits=(*_LIMITS, *(lacking[name] for name in sorted(lacking))),
        obstacle=findings.obstacle
        or (f"its P4 program cannot be used: {lacking[shared]}" if shared else "")
        or (_foreign(taken[0]) if taken else ""),
        forwards=not shared and all(row.table != BRIDGES.name for row in taken),
        offloads=True,
        emulated=emulated,
        rows=len(ours),
    )


def _missing(tables: Collection[object], faults: Mapping[str, str]) -> str:
    """Return a table of ``tables`` that cannot be used."""
    return next((t.name for t in PIPELINE if t in tables and t.name in faults), "")


def _tables(findings: Findings, ours: Collection[DeviceRow]) -> Iterator[Table]:
    used = Counter(row.table for row in findings.rows)
    own = Counter(row.table for row in ours)
    for table in PIPELINE:
        if table.name in findings.sizes and table.name not in findings.faults:
            rows: Mapping[Part, int] = table.rows
            yield Table(
                name=table.name,
                capacity=findings.sizes[table.name],
                used=used[table.name],
                foreign=used[table.name] - own[table.name],
                rows=rows,
            )


def _ports(rows: Collection[DeviceRow]) -> frozenset[int]:
    """Return the VSIs of VFs that are wired as the plugin does it: with a way for their misses."""
    served = {dict(row.match).get(SOURCE_FIELD) for row in rows if row.table == MISSES}
    found = set()
    for row in rows:
        if row.table == PORTS and row.match:
            vsi, vport = row.match[0][1], dict(row.params).get("source_port")
            if vport == vsi + VPORT_OFFSET and vport in served:
                found.add(vsi)
    return frozenset(found)


_OVERLAY = frozenset(
    table.name
    for table in (
        *ENCAPS.values(),
        *DECAPS.values(),
        *(each[what] for each in UNDERLAY.values() for what in ("source", "term")),
    )
)


def _taken(others: Collection[DeviceRow], wiring: Wiring) -> tuple[DeviceRow, ...]:
    """Return which rows of others say that somebody else has tunnels there, or our VFs.

    What we have goes on beside others' tunnels. A VF in their bridge is in none of ours: no row of
    its has a lower priority. The order is always the same, whatever the device's.
    """
    vports = {vsi + VPORT_OFFSET for vsi in wiring.vfs.values()}
    found = (
        row
        for row in others
        if row.table in _OVERLAY
        or (row.table == BRIDGES.name and dict(row.match).get(SOURCE_FIELD) in vports)
    )
    return tuple(sorted(found, key=lambda each: each.key))


def _foreign(row: DeviceRow) -> str:
    match = ", ".join(f"{name}={value:#x}" for name, value in row.match)
    return (
        f"the device is programmed by others: {row.table} has {match} -> {row.action};"
        " stop them and remove it to have entries placed"
    )
