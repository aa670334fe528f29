"""The fabric database for whoever reads all of it and writes intent, as frozen values."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from types import TracebackType
from typing import Self

from dataplane.core.errors import FabricUnavailableError, OverweaveError
from dataplane.core.model import FabricEntity, Node
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
from ovs_client.operations import Delete, Insert, Operation, Update
from ovs_client.rows import Row

_Found = tuple[Row, Stored | Faulty]

_CONNECT_TIMEOUT_S = 5.0
_COMMIT_TIMEOUT_S = 20.0  # a file of intent with thousands of static endpoints is one transaction


def agent_database(remote: str, tls: Tls | None = None) -> Database:
    """Return the agent's connection: of Endpoint, Block, Address, Grant only the rows asked for."""
    return Database(remote, extent(conditional=True), tls=tls)


class FabricStore:
    """All rows of a fabric, read and written whole; use it as a context manager.

    Entering raises FabricUnavailableError with the cause, also for another schema version.
    """

    def __init__(self, remote: str, tls: Tls | None = None) -> None:
        self._database = Database(remote, extent(conditional=False), tls=tls)

    def __enter__(self) -> Self:
        self._database.start()
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
        """Return everything in the fabric, but for ``faults``."""
        stored = [value for _, value in self._rows()]
        vteps = [value for value in stored if isinstance(value, Vtep)]
        return tuple(
            join(value, vteps) if isinstance(value, Node) else value
            for value in stored
            if not isinstance(value, Vtep | Faulty)
        )

    def faults(self) -> tuple[str, ...]:
        """Return a sentence for each row that cannot be what it says; nodes ignore such rows."""
        return tuple(value.text for _, value in self._rows() if isinstance(value, Faulty))

    def write(
        self, upserts: Iterable[FabricEntity] = (), deletes: Iterable[FabricEntity] = ()
    ) -> None:
        """Make ``upserts`` be and ``deletes`` not be, in one durable transaction.

        Raises FabricUnavailableError, or OverweaveError with the database's own words.
        """
        operations = _operations(tuple(self._rows()), tuple(upserts), tuple(deletes))
        try:
            self._database.transact(operations, _COMMIT_TIMEOUT_S)
        except DatabaseUnavailableError as error:
            raise FabricUnavailableError(str(error)) from error
        except DatabaseError as error:
            raise OverweaveError(str(error)) from error

    def _rows(self) -> tuple[_Found, ...]:
        tables = self._database.snapshot().values()
        return tuple((row, decode(row)) for rows in tables for row in rows)


def upsert(entity: Stored, row: Row | None) -> tuple[Operation, ...]:
    """Return what makes ``row``, or a new one, hold ``entity``; nothing if it does."""
    columns = encode(entity)
    if row is None:
        return (Insert(table_of(entity), columns),)
    changed = {name: value for name, value in columns.items() if row.columns[name] != value}
    return (Update(row.table, row.uuid, changed),) if changed else ()


def _operations(
    found: tuple[_Found, ...], upserts: tuple[FabricEntity, ...], deletes: tuple[FabricEntity, ...]
) -> list[Operation]:
    wanted = {_key(part): part for entity in upserts for part in _parts(entity)}
    unwanted = {_key(entity) for entity in deletes}
    nodes = {entity.name for entity in (*upserts, *deletes) if isinstance(entity, Node)}
    present = {_key(value): row for row, value in found if not isinstance(value, Faulty)}
    removed = [
        row
        for row, value in found
        if (_hangs_on(value, nodes) or _key(value) in unwanted) and _key(value) not in wanted
    ]
    return [
        *(Delete(row.table, row.uuid) for row in removed),
        *(op for key, entity in wanted.items() for op in upsert(entity, present.get(key))),
    ]


def _hangs_on(value: Stored | Faulty, nodes: Collection[str]) -> bool:
    """Say whether ``value`` is a VTEP or a faulty row of a node that is written or deleted."""
    return isinstance(value, Vtep | Faulty) and value.node in nodes


def _parts(entity: FabricEntity) -> tuple[Stored, ...]:
    return split(entity) if isinstance(entity, Node) else (entity,)


def _key(value: Stored | Faulty) -> Hashable:
    match value:
        case Vtep(address=address):
            return Vtep, address
        case Faulty():
            return value
        case _:
            return key_of(value)
