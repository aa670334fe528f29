"""The replica that the OVSDB client library keeps of a database, told as frozen rows and events.

Everything here runs on the connection's one thread, except ``rows``, ``snapshot`` and ``want``.
The library's own notices are taken only as hints of which rows to look at: after a reconnect it
tells no deletes, so the whole replica is compared with what was told before.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from uuid import UUID

import ovs.jsonrpc
import ovs.poller
from ovs.db.idl import Row as IdlRow
from ovs.db.idl import SchemaHelper
from ovsdbapp.backend.ovs_idl.connection import OvsdbIdl

from ovs_client.operations import freeze
from ovs_client.rows import (
    Clause,
    ConditionsSynced,
    Connected,
    DatabaseEvent,
    Disconnected,
    Row,
    RowChange,
    RowsChanged,
)
from ovs_client.session import open_session

_SERVER_TABLE = "Database"  # of the _Server database: ovsdb-server(5)
_NO_ROWS: list[bool] = [False]

Emit = Callable[[DatabaseEvent], None]


@dataclass(frozen=True, slots=True)
class Extent:
    """Which part of a database is replicated.

    ``schema`` is the parsed ovsschema file, or the part of it that holds ``tables`` (name ->
    columns). The rows of ``conditional`` tables come only as conditions are set. With ``exact``
    the server's schema must have the very same version, else tables and columns are enough.
    """

    schema: Mapping[str, Any]
    tables: Mapping[str, tuple[str, ...]]
    conditional: frozenset[str] = frozenset()
    exact: bool = False

    @property
    def name(self) -> str:
        """Return the name of the database."""
        return str(self.schema["name"])

    def mismatch(self, found: Mapping[str, Any]) -> str:
        """Return why a server with the schema ``found`` cannot be used; empty if it can."""
        if self.exact and found["version"] != self.schema["version"]:
            return (
                f"its schema {self.name} is version {found['version']},"
                f" this program needs {self.schema['version']}"
            )
        lacking = [
            f"{table}.{column}"
            for table, columns in self.tables.items()
            for column in columns
            if column not in found["tables"].get(table, {}).get("columns", {})
        ]
        return f"its schema {self.name} lacks {', '.join(lacking)}" if lacking else ""


class Replica(OvsdbIdl):
    """The library's replica, telling ``emit`` what changed after every batch of messages."""

    def __init__(self, remote: str, extent: Extent, emit: Emit) -> None:
        self._extent = extent
        self._emit = emit
        self._lock = threading.Lock()  # guards _rows and _wanted
        self._rows: dict[str, dict[UUID, Row]] = {table: {} for table in extent.tables}
        self._wanted: tuple[Mapping[str, list[Any]], Hashable] | None = None
        self._applied: tuple[Mapping[str, list[Any]], Hashable] | None = None
        self._touched: set[tuple[str, UUID]] = set()
        self._resync = True
        self._told: DatabaseEvent | None = None  # the last Connected or Disconnected
        self._released = False
        self._wake_in, self._wake_out = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        helper = SchemaHelper(None, json.loads(json.dumps(dict(extent.schema))))
        for table, columns in extent.tables.items():
            helper.register_columns(table, list(columns))
        super().__init__(remote, helper, leader_only=False)
        self._session = open_session(self._parse_remotes(remote))
        for table in extent.conditional:
            self.cond_change(table, _NO_ROWS)

    @property
    def synced(self) -> bool:
        """Say whether the server answers and the replica is complete."""
        return bool(
            self.state == self.IDL_S_MONITORING
            and self._session.is_connected()
            and self._session.get_seqno() == self._last_seqno
        )

    @property
    def session_number(self) -> int:
        """Return a number that changes with every lost or new connection."""
        return int(self._session.get_seqno())

    def rows(self, table: str) -> tuple[Row, ...]:
        """Return the rows of ``table`` as last seen."""
        with self._lock:
            return tuple(self._rows[table].values())

    def snapshot(self) -> dict[str, tuple[Row, ...]]:
        """Return all rows as they were at one moment."""
        with self._lock:
            return {table: tuple(rows.values()) for table, rows in self._rows.items()}

    def want(self, conditions: Mapping[str, Iterable[Clause]], token: Hashable) -> None:
        """Ask for these rows of conditional tables; a row comes if it fits one of the clauses."""
        wanted = {
            table: [list(clause) for clause in sorted(set(conditions.get(table, ())))] or _NO_ROWS
            for table in self._extent.conditional
        }
        with self._lock:
            self._wanted = (wanted, token)
        self._wake()

    def release(self) -> None:
        """Close the wake-up pipe; the thread must have ended."""
        with self._lock:
            self._released = True
        os.close(self._wake_in)
        os.close(self._wake_out)

    def _wake(self) -> None:
        with self._lock:
            if self._released:
                return
            try:
                os.write(self._wake_out, b"!")
            except BlockingIOError:
                return  # the pipe is full of wake-ups: one more changes nothing

    # What follows is called by the library.

    def wait(self, poller: ovs.poller.Poller) -> None:
        """Sleep until there is something to do.

        The library's own version spins while a condition waits for a connection.
        """
        self._session.wait(poller)
        self._session.recv_wait(poller)
        poller.fd_wait(self._wake_in, ovs.poller.POLLIN)
        if self.cond_changed and self._session.is_connected() and self._request_id is None:
            poller.immediate_wake()

    def run(self) -> bool:
        """Take in what arrived, then tell the sum of it."""
        self._drain()
        self._apply_wanted()
        changed: bool = super().run()
        self._tell()
        return changed

    def notify(self, event: str, row: IdlRow, updates: IdlRow | None = None) -> None:  # noqa: ARG002  # the library's hook
        """Note that a row changed."""
        self._touched.add((row._table.name, row.uuid))  # noqa: SLF001  # told nowhere else

    def cooperative_yield(self) -> None:
        """Do nothing: ovsdbapp would yield at every row, for the sake of green threads."""

    def restart_fsm(self) -> None:
        """Expect a new dump, of which the library will not tell the deletes."""
        self._resync = True
        super().restart_fsm()

    def force_reconnect(self) -> None:
        """Leave this server; if it is one that cannot serve us, remember why."""
        self._session.reconnect.cause = self._obstacle() or self._session.reconnect.cause
        super().force_reconnect()

    def send_request(self, request: ovs.jsonrpc.Message) -> Any:  # noqa: ANN401  # the library has no types
        """Send ``request``, but monitor only a schema that this program was written for."""
        monitors = request.method.startswith("monitor") and request.params[0] == self._extent.name
        if monitors and self._obstacle() is not None:
            self.force_reconnect()
            return None
        return super().send_request(request)

    def _obstacle(self) -> Disconnected | None:
        """Return why this server cannot serve us, as far as it has told of itself."""
        if self.server_tables is None:
            return None
        served = list(self.server_tables[_SERVER_TABLE].rows.values())
        found = next((row for row in served if row.name == self._extent.name), None)
        if found is None:
            return Disconnected(f"it serves no database {self._extent.name}") if served else None
        if not found.connected:
            return Disconnected("it has lost contact with its cluster")
        text = self._extent.mismatch(json.loads(found.schema[0])) if found.schema else ""
        return Disconnected(text, mismatch=True) if text else None

    def _drain(self) -> None:
        try:
            while os.read(self._wake_in, 4096):
                pass
        except BlockingIOError:
            return

    def _apply_wanted(self) -> None:
        with self._lock:
            wanted, self._wanted = self._wanted, None
        if wanted is not None:
            self._applied = wanted
            for table, condition in wanted[0].items():
                self.cond_change(table, condition)

    def _tell(self) -> None:
        if not self.synced:
            self._tell_state(self._session.reconnect.cause)
            return
        self._tell_rows()
        self._resync = False
        self._touched.clear()
        self._session.reconnect.cause = None
        self._tell_state(Connected())
        self._tell_conditions()

    def _tell_state(self, state: DatabaseEvent | None) -> None:
        """Tell what has changed; None is a connection still on its way."""
        if state is not None and state != self._told:
            self._told = state
            self._emit(state)

    def _tell_rows(self) -> None:
        keys = self._all_keys() if self._resync else self._touched
        changes = [change for key in keys if (change := self._change(*key)) is not None]
        if not changes:
            return
        with self._lock:
            for change in changes:
                self._remember(change)
        self._emit(RowsChanged(tuple(changes)))

    def _all_keys(self) -> set[tuple[str, UUID]]:
        known = {(table, uuid) for table, rows in self._rows.items() for uuid in rows}
        return known | {(name, uuid) for name, table in self.tables.items() for uuid in table.rows}

    def _change(self, table: str, uuid: UUID) -> RowChange | None:
        old = self._rows[table].get(uuid)
        found = self.tables[table].rows.get(uuid)
        new = None if found is None else self._frozen(table, found)
        return None if old == new else RowChange(old, new)

    def _frozen(self, table: str, row: IdlRow) -> Row:
        data = row._data  # noqa: SLF001  # the public attributes rebuild and resolve every set
        columns = {name: freeze(data[name]) for name in self._extent.tables[table]}
        return Row(table, row.uuid, MappingProxyType(columns))

    def _remember(self, change: RowChange) -> None:
        if change.new is not None:
            self._rows[change.new.table][change.new.uuid] = change.new
        elif change.old is not None:
            del self._rows[change.old.table][change.old.uuid]

    def _tell_conditions(self) -> None:
        if self._applied is None:
            return
        conditions, token = self._applied
        # A state is (not sent, not acknowledged, acknowledged): what an earlier wish asked for may
        # still be under way, and take the rows away that this one has.
        if all(
            [*self.tables[name].condition_state] == [None, None, condition]
            for name, condition in conditions.items()
        ):
            self._applied = None
            self._emit(ConditionsSynced(token))
