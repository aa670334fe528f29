"""The tables: what may be written into them, what is in them, and which entry a key hits."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
from finsy.proto import p4r

from vendors.emulator.e2100.entries import (
    BAD,
    DENIED,
    Key,
    Refusal,
    Row,
    check_rest,
    read_action,
    read_key,
    table_of,
    write_action,
    write_entry,
)
from vendors.emulator.e2100.schema import Action, Schema, Table, last

_MISSING = grpc.StatusCode.NOT_FOUND
NO_ACTION = Action(0, "NoAction", {})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a table says of a key: the action, without its control block, and its arguments.

    ``row`` is the entry that was hit, None for the default action.
    """

    action: str
    args: Mapping[str, int]
    row: Row | None = None


Shape = tuple[int, tuple[int, ...]]
"""Priority and masks: entries of one shape differ in their values alone."""


class _Content:
    """The entries of one table. A look-up asks once per shape, of which there are few."""

    def __init__(self, table: Table) -> None:
        self.rows: dict[Key, Row] = {}
        self._number = table.number
        self._counts = Counter[Shape]()
        self._shapes: list[Shape] = []  # the one that wins first

    def add(self, key: Key, row: Row) -> None:
        self.rows[key] = row
        self._counts[_shape(key)] += 1
        self._order()

    def remove(self, key: Key) -> None:
        del self.rows[key]
        self._counts[_shape(key)] -= 1
        self._order()

    def hit(self, values: tuple[int, ...]) -> Row | None:
        """Return the entry of the highest priority, else of the longest prefix."""
        for priority, masks in self._shapes:
            match = tuple((v & mask, mask) for v, mask in zip(values, masks, strict=True))
            if (row := self.rows.get(Key(self._number, match, priority))) is not None:
                return row
        return None

    def _order(self) -> None:
        self._counts += Counter()  # forgets what is 0
        if len(self._shapes) != len(self._counts):
            self._shapes = sorted(self._counts, key=_rank, reverse=True)


def _shape(key: Key) -> Shape:
    return key.priority, tuple(mask for _, mask in key.match)


def _rank(shape: Shape) -> tuple[int, int]:
    priority, masks = shape
    return priority, sum(mask.bit_count() for mask in masks)


class Tables:
    """All tables of a pipeline. Threads may write and match at once."""

    def __init__(self, schema: Schema, limits: Mapping[int, int]) -> None:
        """Begin empty; ``limits`` says by id how many entries a table takes if not its size."""
        self.schema = schema
        self._limits = limits
        self._lock = threading.RLock()
        self._contents = {number: _Content(table) for number, table in schema.tables.items()}
        self._defaults = {t.number: self._first_default(t) for t in schema.tables.values()}
        self._by_name = {
            last(table.name): (table, tuple(last(field.name) for field in table.fields))
            for table in schema.tables.values()
        }

    # --- what P4Runtime asks -------------------------------------------------------------------

    def write(self, kind: p4r.Update.Type.ValueType, entry: p4r.TableEntry) -> None:
        """Insert, modify or delete an entry. Raises Refusal, and then all is as it was."""
        table = table_of(self.schema, entry.table_id)
        with self._lock:
            if entry.is_default_action:
                self._write_default(kind, table, entry)
            elif kind == p4r.Update.INSERT:
                self._insert(table, entry)
            elif kind == p4r.Update.MODIFY:
                self._modify(table, entry)
            else:
                self._delete(table, entry)

    def write_counter(self, entry: p4r.DirectCounterEntry) -> None:
        """Set what an entry has counted. Raises Refusal."""
        with self._lock:
            row = self._counted(entry.table_entry)
            if entry.HasField("data"):
                row.packets, row.octets = entry.data.packet_count, entry.data.byte_count

    def read(self, asked: p4r.TableEntry) -> list[p4r.TableEntry]:
        """Return the entries that ``asked`` selects (9.1.4). Raises Refusal."""
        with self._lock:
            if asked.table_id == 0:
                tables = [t for t in self.schema.tables.values() if not t.unsupported]
                return [entry for t in tables for entry in self._read(t, p4r.TableEntry())]
            return list(self._read(table_of(self.schema, asked.table_id), asked))

    def read_counter(self, asked: p4r.DirectCounterEntry) -> list[p4r.DirectCounterEntry]:
        """Return what entries have counted: one, a table's, or, with table 0, all. Raises Refusal.

        An entry that is not there is an error (9.3.1).
        """
        with self._lock:
            number = asked.table_entry.table_id
            if number and asked.table_entry.match:
                self._counted(asked.table_entry)
            tables = (
                [table_of(self.schema, number)] if number else list(self.schema.tables.values())
            )
            if number and not tables[0].counter:
                raise Refusal(BAD, f"table {tables[0].name} has no direct counter")
            selected = p4r.TableEntry()
            selected.CopyFrom(asked.table_entry)
            selected.counter_data.SetInParent()
            return [
                _counter(entry)
                for table in tables
                if table.counter and not table.unsupported
                for entry in self._read(table, selected if number else _COUNTED)
            ]

    # --- what frames ask -----------------------------------------------------------------------

    @contextmanager
    def still(self) -> Iterator[None]:
        """Hold updates back, so that a frame meets the tables as they are between two (12.2)."""
        with self._lock:
            yield

    def match(self, table: str, /, **key: int) -> Outcome:
        """Return what a key meets; fields by the last part of their names."""
        where, fields = self._by_name[table]
        values = tuple(key[field] for field in fields)
        with self._lock:
            row = self._contents[where.number].hit(values)
            if row is None:
                action, args = self._defaults[where.number]
                return Outcome(last(action.name), args)
            return Outcome(last(row.action.name), row.args, row)

    def count(self, table: str, outcome: Outcome, size: int) -> None:
        """Count a frame of ``size`` bytes at the entry it has hit, if its table counts."""
        with self._lock:
            if outcome.row is not None and self._by_name[table][0].counter:
                outcome.row.packets += 1
                outcome.row.octets += size

    # --- what the device does ------------------------------------------------------------------

    def own(self) -> None:
        """Take all there is for the device's own, as its software wrote it at start."""
        with self._lock:
            for _, row in self._all():
                row.is_own = True

    def size(self, table: Table) -> int:
        """Return how many entries a table takes."""
        return self._limits.get(table.number, table.size)

    def lose_one(self) -> p4r.TableEntry | None:
        """Drop an entry, not one of the device's own, and return it."""
        with self._lock:
            found = [(key, row) for key, row in self._all() if not row.is_own]
            if not found:
                return None
            key, row = random.choice(found)  # noqa: S311  # not a secret
            self._contents[key.table].remove(key)
            return write_entry(self.schema.tables[key.table], key, row)

    # --- how -----------------------------------------------------------------------------------

    def _all(self) -> Iterator[tuple[Key, Row]]:
        return (item for each in self._contents.values() for item in each.rows.items())

    def _first_default(self, table: Table) -> tuple[Action, Mapping[str, int]]:
        """Return the default action of the program: the constant one, else NoAction."""
        action = self.schema.actions.get(table.constant, NO_ACTION)
        return action, {parameter.name: 0 for parameter in action.parameters.values()}

    def _insert(self, table: Table, entry: p4r.TableEntry) -> None:
        self._check_writable(table)
        key = read_key(table, entry)
        check_rest(table, entry)
        action, args = read_action(self.schema, table, entry)
        content = self._contents[table.number]
        if key in content.rows:
            raise Refusal(grpc.StatusCode.ALREADY_EXISTS, f"{table.name} has this entry already")
        if len(content.rows) >= self.size(table):
            told = f"table {table.name} is full: {len(content.rows)} of {self.size(table)} entries"
            raise Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, told)
        counted = entry.counter_data
        content.add(key, Row(action, args, counted.packet_count, counted.byte_count))

    def _modify(self, table: Table, entry: p4r.TableEntry) -> None:
        key = read_key(table, entry)
        check_rest(table, entry)
        has_action = entry.HasField("action")
        if has_action:
            self._check_writable(table)
        row = self._found(table, key)
        if has_action:
            row.action, row.args = read_action(self.schema, table, entry)
            row.told = None
        if entry.HasField("counter_data"):
            row.packets = entry.counter_data.packet_count
            row.octets = entry.counter_data.byte_count

    def _delete(self, table: Table, entry: p4r.TableEntry) -> None:
        self._check_writable(table)
        if entry.is_const:
            raise Refusal(BAD, f"{table.name}: is_const is the server's to say")  # 9.1
        key = read_key(table, entry)
        self._found(table, key)
        self._contents[table.number].remove(key)

    def _write_default(
        self, kind: p4r.Update.Type.ValueType, table: Table, entry: p4r.TableEntry
    ) -> None:
        if kind != p4r.Update.MODIFY:  # 9.1.3
            raise Refusal(BAD, f"{table.name}: a default entry is there always: only modify it")
        if entry.match or entry.priority:
            raise Refusal(BAD, f"{table.name}: a default entry has neither match nor priority")
        if table.constant:
            raise Refusal(DENIED, f"{table.name}: its default action is constant")
        check_rest(table, entry)
        self._defaults[table.number] = (
            read_action(self.schema, table, entry, as_default=True)
            if entry.HasField("action")
            else self._first_default(table)
        )

    def _check_writable(self, table: Table) -> None:
        if table.is_const:  # 9.1.5
            raise Refusal(DENIED, f"the entries of table {table.name} are constant")

    def _found(self, table: Table, key: Key) -> Row:
        row = self._contents[table.number].rows.get(key)
        if row is None:
            raise Refusal(_MISSING, f"table {table.name} has no such entry")
        return row

    def _counted(self, entry: p4r.TableEntry) -> Row:
        table = table_of(self.schema, entry.table_id)
        if not table.counter:
            raise Refusal(BAD, f"table {table.name} has no direct counter")
        return self._found(table, read_key(table, entry))

    def _read(self, table: Table, asked: p4r.TableEntry) -> Iterator[p4r.TableEntry]:
        if asked.is_default_action:
            yield self._read_default(table)
            return
        rows = self._contents[table.number].rows
        key = read_key(table, asked) if asked.match else None
        for each, row in rows.items() if key is None else [(key, rows.get(key))]:
            if row is None or not _selects(asked, each, row):
                continue
            row.told = row.told or write_entry(table, each, row)
            entry = p4r.TableEntry()
            entry.CopyFrom(row.told)
            if asked.HasField("counter_data") and table.counter:
                entry.counter_data.packet_count = row.packets
                entry.counter_data.byte_count = row.octets
            yield entry

    def _read_default(self, table: Table) -> p4r.TableEntry:
        entry = p4r.TableEntry(table_id=table.number, is_default_action=True)
        action, args = self._defaults[table.number]
        if action.number:
            entry.action.action.CopyFrom(write_action(action, args))
        return entry


_COUNTED = p4r.TableEntry(counter_data=p4r.CounterData())


def _selects(asked: p4r.TableEntry, key: Key, row: Row) -> bool:
    wanted = asked.action.action.action_id
    return (
        asked.priority in (0, key.priority)
        and not asked.controller_metadata
        and not asked.metadata  # no entry has any
        and wanted in (0, row.action.number)
    )


def _counter(entry: p4r.TableEntry) -> p4r.DirectCounterEntry:
    named = p4r.TableEntry(table_id=entry.table_id, match=entry.match, priority=entry.priority)
    return p4r.DirectCounterEntry(table_entry=named, data=entry.counter_data)
