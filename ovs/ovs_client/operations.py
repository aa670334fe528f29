"""What a transaction may do, as values, and how each is given to the OVSDB client library."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import ovs.db.error
from ovs.db.data import Datum
from ovs.db.idl import Idl, Transaction
from ovs.db.idl import Row as IdlRow

from ovs_client.errors import InvalidRowError, PreconditionError
from ovs_client.rows import Atom, Value


@dataclass(frozen=True, slots=True)
class Insert:
    """A new row. ``uuid`` names it within the transaction; the server gives it another."""

    table: str
    columns: Mapping[str, Value]
    uuid: UUID | None = None


@dataclass(frozen=True, slots=True)
class Update:
    """New values for some columns of a row; a row that is gone fails the transaction."""

    table: str
    uuid: UUID
    columns: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Mutate:
    """Members to add to and take from a set column, leaving the others alone."""

    table: str
    uuid: UUID
    column: str
    add: tuple[Atom, ...] = ()
    remove: tuple[Atom, ...] = ()


@dataclass(frozen=True, slots=True)
class Delete:
    """A row that shall not be; one that is gone already is success."""

    table: str
    uuid: UUID


@dataclass(frozen=True, slots=True)
class Expect:
    """The values a row must still have when the server commits, else PreconditionError."""

    table: str
    uuid: UUID
    columns: Mapping[str, Value]


Operation = Insert | Update | Mutate | Delete | Expect


def run(operations: Iterable[Operation], idl: Idl, transaction: Transaction) -> None:
    """Add ``operations`` to the transaction. Raises InvalidRowError, PreconditionError."""
    for operation in operations:
        match operation:
            case Insert():
                table = _table(idl, operation.table)
                _write(transaction.insert(table, operation.uuid), operation.columns)
            case Update():
                _write(_existing(idl, operation), operation.columns)
            case Mutate():
                _mutate(_existing(idl, operation), operation)
            case Delete():
                row = _table(idl, operation.table).rows.get(operation.uuid)
                if row is not None:
                    row.delete()
            case Expect():
                _expect(_existing(idl, operation), operation)


def freeze(datum: Datum) -> Value:
    """Return the value of a column; references stay UUIDs, whether or not their row is known."""
    value: Any = datum.to_python(lambda atom, _base: atom)
    return tuple(value) if isinstance(value, list) else value


def _table(idl: Idl, name: str) -> Any:  # noqa: ANN401  # the library has no types
    try:
        return idl.tables[name]
    except KeyError:
        raise InvalidRowError(f"table {name} is not part of this connection") from None


def _existing(idl: Idl, operation: Update | Mutate | Expect) -> IdlRow:
    row = _table(idl, operation.table).rows.get(operation.uuid)
    if row is None:
        raise PreconditionError(f"{operation.table} {operation.uuid} is gone; look again")
    return row


def _write(row: IdlRow, columns: Mapping[str, Value]) -> None:
    for name, value in columns.items():
        _check(row, name, value)
        setattr(row, name, dict(value) if isinstance(value, Mapping) else value)


def _check(row: IdlRow, name: str, value: Value) -> None:
    """Refuse what the library would only log and leave out."""
    table = row._table  # noqa: SLF001  # the library tells a row's table nowhere else
    column = table.columns.get(name)
    if column is None:
        raise InvalidRowError(f"{table.name}: no column {name} in this connection")
    try:
        Datum.from_python(
            column.type, dict(value) if isinstance(value, Mapping) else value, lambda atom: atom
        )
    except ovs.db.error.Error as error:
        raise InvalidRowError(f"{table.name}.{name} cannot hold this: {error}") from error


def _mutate(row: IdlRow, operation: Mutate) -> None:
    for atom in operation.add:
        row.addvalue(operation.column, atom)
    for atom in operation.remove:
        row.delvalue(operation.column, atom)


def _expect(row: IdlRow, operation: Expect) -> None:
    for name, wanted in operation.columns.items():
        found = freeze(row._data[name])  # noqa: SLF001  # the public attribute follows references
        if found != wanted:
            raise PreconditionError(
                f"{operation.table} {operation.uuid}: {name} is {found!r} and not {wanted!r};"
                " look again"
            )
        row.verify(name)
