"""Which whole entries fit where the device does not take all filters. Pure.

vendors/fit.py has rows that an entry needs whoever sends. Here a filter joins a VF with an endpoint
or a VTEP, and goes with either.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping
from collections.abc import Set as AbstractSet

from dataplane.core.model import EntryKey, IpAddress
from dataplane.netlink.actions import TunnelSet
from vendors.senao.pipeline import Kind, Row

Vtep = tuple[int, IpAddress]
"""A VTEP on a VNI."""
End = EntryKey | Vtep


def behind(rows: Iterable[Row]) -> dict[str, EntryKey | None]:
    """Return the entries behind VFs, by representor."""
    return {row.to: row.target for row in rows if row.kind != Kind.OUT}


def ends(rows: Collection[Row]) -> Mapping[Hashable, frozenset[End]]:
    """Return by each filter's key without whom it serves nobody: its target, its VTEP, its VF."""
    there = behind(rows)
    every = {row.key: (row.target, _vtep(row), there.get(row.netdev)) for row in rows}
    return {key: frozenset(end for end in each if end) for key, each in every.items()}


def lacking(rows: Collection[Row], present: AbstractSet[Hashable], room: int) -> set[End]:
    """Return who goes without if there is room for ``room`` filters that are not ``present``.

    What is there comes first, so that it is not displaced by what joins it, and stays where there
    is less than no room: the device has lost some of what was ``present``. VFs come before VTEPs,
    and those before the endpoints behind them.
    """
    needs, local = ends(rows), frozenset(behind(rows).values())
    by_end: dict[End, list[Hashable]] = defaultdict(list)
    for key, each in needs.items():
        for end in each:
            by_end[end].append(key)
    there = {end for end, keys in by_end.items() if not present.isdisjoint(keys)}

    def order(end: End) -> tuple[bool, int, str]:
        rank = 0 if end in local else 1 if not isinstance(end, EntryKey) else 2
        return end not in there, rank, str(end)

    accepted: set[End] = set()
    for end in sorted(by_end, key=order):
        serving = [key for key in by_end[end] if needs[key] <= accepted | {end}]
        cost = sum(key not in present for key in serving)
        if cost <= max(room, 0) and (serving or end in local):
            room -= cost
            accepted.add(end)
    used = {end for each in needs.values() if each <= accepted for end in each}
    return by_end.keys() - used


def _vtep(row: Row) -> Vtep | None:
    outer = next((each.target for each in row.actions if isinstance(each, TunnelSet)), None)
    address = outer or row.match.tunnel_source
    return (row.vni, address) if address else None
