"""What of a change the device takes when it does not take all of it. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dataplane.core.model import EntryKey
from ovs_client.ofctl import FlowKey
from vendors.marvell.pipeline import Row


@dataclass(frozen=True, slots=True)
class Fit:
    """The rows to set, and the entries that go without, each with the reason."""

    rows: tuple[Row, ...]
    refused: Mapping[EntryKey, str] = field(default_factory=dict)


def without(rows: Iterable[Row], refused: Mapping[EntryKey, str]) -> tuple[Row, ...]:
    """Return the rows that some entry still needs, and those that all do."""
    if not refused:
        return tuple(rows)
    return tuple(row for row in rows if not row.entries or row.entries - refused.keys())


def fit(rows: Iterable[Row], present: Iterable[FlowKey], room: Mapping[int, int]) -> Fit:
    """Return as many whole entries as there is room for; rows that are ``present`` take none.

    ``room`` is in rows by table number. What all entries rely on comes first. An entry that is
    there but for the rows of a VF that joins its segment stays: it is the VF that goes without.
    """
    wanted = tuple(rows)
    there = set(present)
    left = Counter(room)
    by_entry: dict[EntryKey, list[Row]] = defaultdict(list)
    for row in wanted:
        if row.key in there:
            continue
        for entry in row.entries:
            by_entry[entry].append(row)
        if not row.entries:
            left[row.flow.table] -= 1
            there.add(row.key)
    if short := [table for table, rows_left in left.items() if rows_left < 0]:
        why = f"table {short[0]} has no room for what every entry relies on"
        return Fit((), dict.fromkeys(by_entry, why))
    refused: dict[EntryKey, str] = {}
    for entry in sorted(by_entry):
        missing = [row for row in by_entry[entry] if row.key not in there]
        full = _full(missing, left)
        if full is None:
            left.subtract(row.flow.table for row in missing)
            there.update(row.key for row in missing)
        else:
            late = {row.owner for row in missing}
            lacking = {entry} if late & {None, entry} else {owner for owner in late if owner}
            refused |= dict.fromkeys(lacking, f"table {full} has no room for it")
    return Fit(tuple(row for row in without(wanted, refused) if row.key in there), refused)


def _full(rows: Iterable[Row], left: Mapping[int, int]) -> int | None:
    """Return a table without room for ``rows``, if there is one."""
    needed = Counter(row.flow.table for row in rows)
    return next((table for table, count in needed.items() if count > left.get(table, count)), None)
