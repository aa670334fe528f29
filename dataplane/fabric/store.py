"""The fabric database for whoever reads all of it and writes intent, as frozen values."""

from __future__ import annotations

import threading
from collections.abc import Collection, Hashable, Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

from dataplane.core.errors import FabricUnavailableError, OverweaveError
from dataplane.core.model import Device, FabricEntity, Node, Pin
from dataplane.fabric.intent_rules import key_of
from dataplane.fabric.rows import (
    Faulty,
    Stored,
    Vtep,
    decode,
    encode,
    extent,
    join,
    split,
    table_of,
)
from ovs_client.database import Database, Tls
from ovs_client.errors import DatabaseError, DatabaseUnavailableError
from ovs_client.operations import Delete, Expect, Insert, Operation, Update
from ovs_client.rows import DatabaseEvent, Row, RowsChanged

_Found = tuple[Row, Stored | Faulty]
_Followed = TypeVar("_Followed", Device, Pin)  # those that are read from one row each

_CONNECT_TIMEOUT_S = 5.0
_COMMIT_TIMEOUT_S = 20.0  # a file of intent with thousands of static endpoints is one transaction


def agent_database(remote: str, tls: Tls | None = None) -> Database:
    """Return the agent's connection: of what hangs on a segment only the rows asked for."""
    return Database(remote, extent(conditional=True), tls=tls)


class FabricStore:
    """All rows of a fabric, read and written whole; use it as a context manager.

    Entering raises FabricUnavailableError with the cause, also for another schema version.
    """

    def __init__(self, remote: str, tls: Tls | None = None) -> None:
        self._database = Database(remote, extent(conditional=False), tls=tls)
        self._seen: tuple[_Found, ...] | None = None
        self._news = threading.Event()
        self._followed = ""

    def __enter__(self) -> Self:
        self._database.start(self._hear)
        try:
            self._database.wait_connected(_CONNECT_TIMEOUT_S)
        except DatabaseUnavailableError as error:
            self._database.stop()
            raise FabricUnavailableError(str(error)) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._database.stop()

    def read(self) -> tuple[FabricEntity, ...]:
        """Return everything in the fabric, but for ``faults``; the next write builds on it."""
        self._seen = self._found()
        stored = [value for _, value in self._seen]
        vteps = [value for value in stored if isinstance(value, Vtep)]
        return tuple(
            join(value, vteps) if isinstance(value, Node) else value
            for value in stored
            if not isinstance(value, Vtep | Faulty)
        )

    @property
    def error(self) -> str | None:
        """Return why what is read may be old; None: it is what the database holds."""
        return self._database.error

    def follow(self, kind: type[_Followed], pause_s: float) -> Iterator[tuple[_Followed, ...]]:
        """Yield the entities of ``kind`` but for faulty ones, at once and after each change of one.

        After ``pause_s`` seconds at the latest, and when the database goes away or comes back. Of
        a fabric with many endpoints no others are looked at.
        """
        self._followed = kind.__name__
        while True:
            self._news.clear()
            found = map(decode, self._database.rows(self._followed))
            yield tuple(value for value in found if isinstance(value, kind))
            self._news.wait(pause_s)

    def _hear(self, event: DatabaseEvent) -> None:
        changes = event.changes if isinstance(event, RowsChanged) else ()
        rows = [row for change in changes for row in (change.new, change.old) if row is not None]
        if not changes or any(row.table == self._followed for row in rows):
            self._news.set()

    def faults(self) -> tuple[str, ...]:
        """Return a sentence for each row that cannot be what it says; nodes ignore such rows."""
        return tuple(value.text for _, value in self._found() if isinstance(value, Faulty))

    def write(
        self, upserts: Iterable[FabricEntity] = (), deletes: Iterable[FabricEntity] = ()
    ) -> None:
        """Make ``upserts`` be and ``deletes`` not be, in one durable transaction.

        Raises FabricUnavailableError, or OverweaveError with the database's own words, also where
        what would be overwritten is not as it was last read.
        """
        seen, self._seen = self._seen, None
        operations = _operations(seen or self._found(), tuple(upserts), tuple(deletes))
        try:
            self._database.transact(operations, _COMMIT_TIMEOUT_S)
        except DatabaseUnavailableError as error:
            raise FabricUnavailableError(str(error)) from error
        except DatabaseError as error:
            raise OverweaveError(str(error)) from error

    def _found(self) -> tuple[_Found, ...]:
        tables = self._database.snapshot().values()
        return tuple((row, decode(row)) for rows in tables for row in rows)


def upsert(entity: Stored, row: Row | None) -> tuple[Operation, ...]:
    """Return what makes ``row`` as it was seen, or a new one, hold ``entity``; maybe nothing."""
    columns = encode(entity)
    if row is None:
        return (Insert(table_of(entity), columns),)
    changed = {name: value for name, value in columns.items() if row.columns[name] != value}
    if not changed:
        return ()
    seen = {name: row.columns[name] for name in changed}
    return Expect(row.table, row.uuid, seen), Update(row.table, row.uuid, changed)


def _operations(
    found: tuple[_Found, ...], upserts: tuple[FabricEntity, ...], deletes: tuple[FabricEntity, ...]
) -> list[Operation]:
    present = {_key(value): row for row, value in found}
    wanted = {_key(part): part for entity in upserts for part in _parts(entity)}
    unwanted = {_key(part) for entity in deletes for part in _parts(entity)}
    unwanted |= _hanging(found, _node_names(upserts), _node_names(deletes))
    gone = [present[key] for key in unwanted - wanted.keys() if key in present]
    return [
        *(Delete(row.table, row.uuid) for row in gone),
        *(op for key, entity in wanted.items() for op in upsert(entity, present.get(key))),
    ]


def _hanging(
    found: tuple[_Found, ...], written: Collection[str], deleted: Collection[str]
) -> set[Hashable]:
    """Return what goes along: VTEPs that a node no longer lists, faulty rows of one that goes."""
    return {
        _key(value)
        for _, value in found
        if (isinstance(value, Vtep) and value.node in written)
        or (isinstance(value, Vtep | Faulty) and value.node in deleted)
    }


def _node_names(entities: Iterable[FabricEntity]) -> set[str]:
    return {entity.name for entity in entities if isinstance(entity, Node)}


def _parts(entity: FabricEntity) -> tuple[Stored, ...]:
    return split(entity) if isinstance(entity, Node) else (entity,)


def _key(value: Stored | Faulty) -> Hashable:
    """Return what names a row; a VTEP that changes hands is another row."""
    return value if isinstance(value, Vtep | Faulty) else key_of(value)
