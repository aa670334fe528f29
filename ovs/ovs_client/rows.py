"""What a database says, as frozen values: rows, and the events of a connection."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from uuid import UUID

Atom = str | int | float | bool | UUID
"""One value of OVSDB (RFC 7047 section 5.1); references to rows are UUIDs."""

Value = Atom | tuple[Atom, ...] | Mapping[str, str]
"""A column's value: optional columns are tuples of none or one."""

Clause = tuple[str, str, str | int | bool]
"""A monitor condition ``(column, function, value)``, as ``("segment", "==", "blue")``."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it was at one moment."""

    table: str
    uuid: UUID
    columns: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class RowChange:
    """A row before and after; ``old`` is None if it is new, ``new`` if it is gone."""

    old: Row | None
    new: Row | None


@dataclass(frozen=True, slots=True)
class Connected:
    """The replica is complete: every row of it was told in events before this one."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The database does not serve us, and why; rows stay as they were last seen.

    ``mismatch``: it answers, but has another schema than this program was written for.
    """

    error: str
    mismatch: bool = False


@dataclass(frozen=True, slots=True)
class RowsChanged:
    """What changed, all that arrived together; after an outage, the sum of what was missed."""

    changes: tuple[RowChange, ...]


@dataclass(frozen=True, slots=True)
class ConditionsSynced:
    """The server acknowledged the conditions set with ``token``, and their rows were told."""

    token: Hashable


DatabaseEvent = Connected | Disconnected | RowsChanged | ConditionsSynced
