"""Which numbers of the device stand for what: found in its rows, and given to what is new. Pure.

Nothing is remembered elsewhere, so a restart finds what stood before it. Ours is the upper half of
what a field can hold: Intel's own plugin uses bridge 0, ovs-p4rt counts up from below.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import TypeVar

from dataplane.core.model import Family, Mac
from vendors.intel.pipeline import (
    ANCHORS,
    BRIDGE_FIELD,
    BRIDGES,
    ENCAPS,
    HOP_FIELD,
    HOPS,
    POINTER_FIELD,
    RECEIVE,
    RIFS,
    SMAC,
    SOURCE_FIELD,
    TABLES,
    TARGET_MAC_FIELD,
    UNDERLAY,
    Bridge,
    DeviceRow,
    Fields,
    NextHop,
    Numbers,
    Router,
    Row,
    Symbol,
    Table,
    Tunnel,
    TunnelSource,
)

KINDS: Mapping[str, type[Bridge | TunnelSource | Tunnel | NextHop | Router]] = {
    BRIDGE_FIELD: Bridge,
    "bridge_id": Bridge,
    SOURCE_FIELD: TunnelSource,
    "source_port": TunnelSource,
    POINTER_FIELD: Tunnel,
    "tunnel_id": Tunnel,
    HOP_FIELD: NextHop,
    "nexthop_id": NextHop,
    "router_interface_id": Router,
    **{next(iter(table.fields)): Router for table in RIFS},
}
"""What is a number of the device's, by the name of the field or parameter."""

_VTEPS = {each["vtep"].name: family for family, each in UNDERLAY.items()}
_ADDRESS: Mapping[Family, type[IPv4Address | IPv6Address]] = {
    Family.IPV4: IPv4Address,
    Family.IPV6: IPv6Address,
}
Named = TypeVar("Named")
_WIDEST = 1 << 24  # of 0.0.0.0/8


@dataclass(frozen=True, slots=True)
class Pools:
    """How many bits the device has for each kind of number."""

    bits: Mapping[type, int]

    def ours(self, kind: type) -> range:
        """Return the numbers of a kind that are ours."""
        return range(1 << (self.bits[kind] - 1), 1 << self.bits[kind])


Names = Mapping[tuple[type, int], Symbol]


@dataclass(frozen=True, slots=True)
class Ids:
    """The numbers of symbols, and which others are ``taken``, by whatever they once stood for."""

    numbers: Mapping[Symbol, int] = field(default_factory=dict)
    taken: frozenset[tuple[type, int]] = frozenset()

    @property
    def names(self) -> Names:
        """Return the symbols by kind and number."""
        return {(type(symbol), number): symbol for symbol, number in self.numbers.items()}


def is_ours(row: DeviceRow, pools: Pools) -> bool:
    """Say whether a row is ours by a number in it; of a MAC's VTEP it cannot be said by the row."""
    return row.plain and any(
        number in pools.ours(KINDS[name])
        for name, number in (*row.match, *row.params)
        if name in KINDS and not (row.table == BRIDGES.name and name == SOURCE_FIELD)
    )


def _anchored(row: DeviceRow) -> tuple[int, int] | None:
    """Return the VNI and the source port that a row says belong together."""
    if row.table != ANCHORS.name:
        return None
    match = dict(row.match)
    address = match.get("ipv4_src", _WIDEST)
    is_anchor = address < _WIDEST and dict(row.params).get("source_port") == address
    return (match["vni"], address) if is_anchor and "vni" in match else None


def ours_of(rows: Iterable[DeviceRow], pools: Pools) -> tuple[DeviceRow, ...]:
    """Return the rows that are ours.

    A MAC's VTEP is where the MAC is known in a bridge of ours, and not behind a VF there, and the
    VTEP is one that we have a tunnel to.
    """
    found, vteps = [], []
    for row in rows:
        if row.table in _VTEPS:
            vteps += [row] if row.plain else []
        elif is_ours(row, pools):
            found.append(row)
    tables = _by_table(found)
    far = _members(tables, SMAC) - _members(tables, RECEIVE)
    macs, tunnelled = {mac for _, mac in far}, {tunnel.vtep for tunnel, _ in _tunnels(tables)}
    known = (row for row in vteps if dict(row.match).get(TARGET_MAC_FIELD) in macs)
    return (*found, *(row for row in known if _does(row) and _vtep(row) in tunnelled))


def _members(tables: Mapping[str, list[DeviceRow]], table: Table) -> set[tuple[int, int]]:
    """Return the bridges and MACs that the rows of a table are about."""
    matches = (dict(row.match) for row in tables[table.name])
    (mac,) = table.fields.keys() - {BRIDGE_FIELD}
    return {
        (match[BRIDGE_FIELD], match[mac])
        for match in matches
        if {BRIDGE_FIELD, mac} <= match.keys()
    }


def _vtep(row: DeviceRow) -> IPv4Address | IPv6Address:
    """Return what a MAC is behind; an address of IPv6 is four words."""
    address = 0
    for _, word in sorted(row.params):
        address = address << 32 | word
    return _ADDRESS[_VTEPS[row.table]](address)


def _by_table(rows: Iterable[DeviceRow]) -> dict[str, list[DeviceRow]]:
    """Return rows by table, but for those that do what no row of ours does."""
    found: dict[str, list[DeviceRow]] = defaultdict(list)
    for row in rows:
        if _does(row):
            found[row.table].append(row)
    return found


def _does(row: DeviceRow) -> bool:
    """Say whether a row has an action that rows of ours have."""
    return row.action in TABLES[row.table].actions


def learn(rows: Iterable[DeviceRow], pools: Pools) -> Ids:
    """Return what the numbers in rows of ours stand for; what contradicts itself has no name."""
    rows = tuple(rows)
    by_table = _by_table(rows)
    taken: set[tuple[type, int]] = set()
    for row in rows:
        for name, number in (*row.match, *row.params):
            if name in KINDS and number in pools.ours(KINDS[name]):
                taken.add((KINDS[name], number))
    segments = _unique(each for row in by_table[ANCHORS.name] if (each := _anchored(row)))
    numbers: dict[Symbol, int] = {Router(): pools.ours(Router)[0]}
    numbers |= {TunnelSource(vni): source for vni, source in segments.items()}
    numbers |= _unique(_bridges(by_table[BRIDGES.name], segments))
    numbers |= _unique(_tunnels(by_table))
    numbers |= _unique(_hops(by_table))
    return Ids(numbers, frozenset(taken))


def allocate(ids: Ids, wanted: Iterable[Symbol], pools: Pools) -> tuple[Ids, frozenset[Symbol]]:
    """Return ``ids`` with a number for each symbol that has none, and for which there is none left.

    A number that anything stands for, known or not, is given to nobody.
    """
    numbers = dict(ids.numbers)
    lacking: set[Symbol] = set()
    free = {kind: _free(kind, ids, pools) for kind in pools.bits}
    for symbol in sorted(set(wanted) - numbers.keys(), key=repr):
        number = next(free[type(symbol)], None)
        if number is None:
            lacking.add(symbol)
        else:
            numbers[symbol] = number
    return Ids(numbers, ids.taken), frozenset(lacking)


def _free(kind: type, ids: Ids, pools: Pools) -> Iterator[int]:
    return (number for number in pools.ours(kind) if (kind, number) not in ids.taken)


def to_device(row: Row, ids: Ids) -> DeviceRow:
    """Return a row with numbers for its symbols. Raises KeyError for one without number."""

    def numbered(fields: Fields) -> Numbers:
        return tuple(
            (name, value if isinstance(value, int) else ids.numbers[value])
            for name, value in fields
        )

    return DeviceRow(row.table, numbered(row.match), row.action, numbered(row.params))


def from_device(row: DeviceRow, names: Names) -> Row:
    """Return a row of ours with symbols for its numbers; what has no name stays a number."""

    def named(fields: Numbers) -> Fields:
        return tuple(
            (name, names.get((KINDS[name], number), number) if name in KINDS else number)
            for name, number in fields
        )

    match = named(row.match)
    source = dict(row.params).get("source_port")
    if row.table == ANCHORS.name and source is not None:
        match = tuple(
            (name, names.get((TunnelSource, source), value) if value == source else value)
            for name, value in match
        )
    return Row(row.table, match, row.action, named(row.params))


# --- what says what a number stands for ------------------------------------------------------


def _bridges(
    rows: Iterable[DeviceRow], segments: Mapping[int, int]
) -> Iterator[tuple[Bridge, int]]:
    """Yield the bridges, by the source port of their segment's tunnels."""
    by_source = {dict(row.match)[SOURCE_FIELD]: dict(row.params)["bridge_id"] for row in rows}
    for vni, source in segments.items():
        if source in by_source:
            yield Bridge(vni), by_source[source]


def _tunnels(tables: Mapping[str, list[DeviceRow]]) -> Iterator[tuple[Tunnel, int]]:
    for (_, family), table in ENCAPS.items():
        for row in tables[table.name]:
            params = dict(row.params)
            yield Tunnel(_ADDRESS[family](params["dst_addr"]), params["vni"]), row.match[0][1]
    for family, each in UNDERLAY.items():
        for row in tables[each["term"].name]:
            address, vni = (number for _, number in row.match)
            yield Tunnel(_ADDRESS[family](address), vni), dict(row.params)["tunnel_id"]


def _hops(tables: Mapping[str, list[DeviceRow]]) -> Iterator[tuple[NextHop, int]]:
    for row in tables[HOPS.name]:
        params = dict(row.params)
        mac = (params.get("dmac_high", 0) << 32 | params.get("dmac_low", 0)).to_bytes(6, "big")
        if mac != bytes(6) and not mac[0] & 1:
            yield NextHop(Mac(mac.hex(":"))), dict(row.match)[HOP_FIELD]


def _unique(pairs: Iterable[tuple[Named, int]]) -> dict[Named, int]:
    """Return the pairs whose first and whose number are in no other pair."""
    found = set(pairs)
    firsts = Counter(first for first, _ in found)
    numbers = Counter(number for _, number in found)
    return {first: each for first, each in found if firsts[first] == numbers[each] == 1}
