"""What of a change a device takes when it does not take all of it: whole entries. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from dataplane.core.errors import PartlyRefusedError
from dataplane.core.model import EntryKey
from dataplane.core.reasons import Reason


class Placeable(Protocol):
    """A row of a device's table; ``entries`` cannot be placed without it, none: all need it.

    ``owner`` is the endpoint behind the VF that it is about: without it nobody else misses it.
    """

    @property
    def key(self) -> Hashable:
        """Return what makes it the same row."""
        ...

    @property
    def table(self) -> Hashable:
        """Return the table that it takes room in."""
        ...

    @property
    def entries(self) -> frozenset[EntryKey]:
        """Return who needs it."""
        ...

    @property
    def owner(self) -> EntryKey | None:
        """Return whose VF it is about."""
        ...


RowT = TypeVar("RowT", bound=Placeable)


@dataclass(frozen=True, slots=True)
class Fit(Generic[RowT]):
    """The rows to set, and the entries that go without, each with the reason."""

    rows: tuple[RowT, ...]
    refused: Mapping[EntryKey, str] = field(default_factory=dict)


def check_refused(name: str, refused: Mapping[EntryKey, str]) -> None:
    """Raise PartlyRefusedError, in the name of a driver, if some entries go without."""
    if refused:
        first = next(iter(refused.values()))
        raise PartlyRefusedError(
            f"{name}: {len(refused)} entries stay in software: {first}",
            dict(refused),
            standing=all(why.startswith(Reason.TABLE_FULL) for why in refused.values()),
        )


def without(rows: Iterable[RowT], refused: Mapping[EntryKey, str]) -> tuple[RowT, ...]:
    """Return the rows that some entry still needs, and those that all do."""
    if not refused:
        return tuple(rows)
    return tuple(row for row in rows if not row.entries or row.entries - refused.keys())


def fit(rows: Iterable[RowT], present: Iterable[Hashable], room: Mapping[Any, int]) -> Fit[RowT]:
    """Return as many whole entries as there is room for; rows that are ``present`` take none.

    ``room`` is in rows by table. What all entries rely on comes first. An entry that is there but
    for the rows of a VF that joins its segment stays: it is the VF that goes without.
    """
    wanted = tuple(rows)
    there = set(present)
    left: dict[Hashable, int] = dict(room)
    by_entry: dict[EntryKey, list[RowT]] = defaultdict(list)
    for row in wanted:
        if row.key in there:
            continue
        for entry in row.entries:
            by_entry[entry].append(row)
        if not row.entries:
            _take([row], left)
            there.add(row.key)
    if short := [table for table, rows_left in left.items() if rows_left < 0]:
        why = f"table {short[0]} has no room for what every entry relies on"
        return Fit((), dict.fromkeys(by_entry, why))
    refused: dict[EntryKey, str] = {}
    for entry in sorted(by_entry):
        missing = [row for row in by_entry[entry] if row.key not in there]
        full = _full(missing, left)
        if full is None:
            _take(missing, left)
            there.update(row.key for row in missing)
        else:
            late = {row.owner for row in missing}
            lacking = {entry} if late & {None, entry} else {owner for owner in late if owner}
            refused |= dict.fromkeys(lacking, f"table {full} has no room for it")
    return Fit(tuple(row for row in without(wanted, refused) if row.key in there), refused)


def _take(rows: Iterable[RowT], left: dict[Hashable, int]) -> None:
    """Take the room of ``rows``; a table of which nothing is known has enough."""
    for row in rows:
        if row.table in left:
            left[row.table] -= 1


def _full(rows: Iterable[RowT], left: Mapping[Hashable, int]) -> Hashable | None:
    """Return a table without room for ``rows``, if there is one."""
    needed = Counter(row.table for row in rows)
    return next((table for table, count in needed.items() if count > left.get(table, count)), None)
