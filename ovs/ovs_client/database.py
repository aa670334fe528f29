"""A typed connection to an OVSDB database of any schema, over ovsdbapp, on a thread of its own."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ovs.db.idl
import ovs.poller
from ovs.stream import Stream
from ovsdbapp import exceptions
from ovsdbapp.backend.ovs_idl.command import BaseCommand
from ovsdbapp.backend.ovs_idl.connection import Connection
from ovsdbapp.backend.ovs_idl.transaction import Transaction

from ovs_client.errors import (
    ConstraintError,
    DatabaseError,
    DatabaseUnavailableError,
    NotPermittedError,
    RefusedError,
    SchemaMismatchError,
)
from ovs_client.operations import Operation, run
from ovs_client.replica import Extent, Replica
from ovs_client.rows import Clause, Connected, DatabaseEvent, Disconnected, Row

_STOP_TIMEOUT_S = 12.0  # a hung server is given up after two probes of 5 s
_REFUSAL = "OVSDB Error: "  # what ovsdbapp puts before the server's words
_REFUSALS: Mapping[str, type[RefusedError]] = {
    "constraint violation": ConstraintError,
    "referential integrity violation": ConstraintError,
    "permission error": NotPermittedError,
}

Listener = Callable[[DatabaseEvent], None]
"""Called on the connection's own thread: it only hands the event on, and never transacts."""


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files for ``ssl:`` remotes; one set for the whole process (a limit of the library)."""

    private_key: Path
    certificate: Path
    ca_cert: Path


class Database:
    """A replica of part of a database, kept up to date, and transactions on it.

    ``remote`` is one or more of ``unix:PATH``, ``tcp:IP:PORT``, ``ssl:IP:PORT``, separated by
    commas. Reconnects by itself, within 0.5 s of a server's return. With ``durable``, a commit
    is on the disk when transact() returns. Rows can be read at any time from any thread.
    """

    def __init__(
        self, remote: str, extent: Extent, *, durable: bool = True, tls: Tls | None = None
    ) -> None:
        if tls is not None:
            _use(tls)
        self.remote = remote
        self._extent = extent
        self._durable = durable
        self._listener: Listener = _ignore
        self._settled = threading.Condition()
        self._state: DatabaseEvent = Disconnected("not connected yet")
        self._replica = Replica(remote, extent, self._told)
        self._connection = _Connection(self._replica)

    def start(self, listener: Listener | None = None) -> None:
        """Begin to connect; returns at once. ``listener`` is told everything from the first row."""
        self._listener = listener or _ignore
        self._connection.start()

    def stop(self) -> None:
        """Disconnect and end the thread."""
        if not self._connection.is_running:
            return
        if self._connection.stop(_STOP_TIMEOUT_S):
            self._connection.txns.close()
            self._replica.release()
        self._settle(Disconnected("stopped"))

    @property
    def error(self) -> str | None:
        """Return why the database cannot be used now; None if it can."""
        state = self._state
        return self._named(state.error) if isinstance(state, Disconnected) else None

    def wait_connected(self, timeout_s: float) -> None:
        """Return once the replica is complete.

        Raises DatabaseUnavailableError with the cause; SchemaMismatchError without waiting.
        """
        with self._settled:
            self._settled.wait_for(self._is_settled, timeout_s)
            state = self._state
        if isinstance(state, Disconnected):
            kind = SchemaMismatchError if state.mismatch else DatabaseUnavailableError
            raise kind(self._named(state.error))

    def rows(self, table: str) -> tuple[Row, ...]:
        """Return the rows of ``table`` as last seen; what transact() committed is among them."""
        return self._replica.rows(table)

    def snapshot(self) -> Mapping[str, tuple[Row, ...]]:
        """Return the rows of all tables as they were at one moment."""
        return self._replica.snapshot()

    def set_conditions(self, conditions: Mapping[str, Iterable[Clause]], token: Hashable) -> None:
        """Choose the rows of all conditional tables; a row is wanted if one clause fits it.

        Returns at once, from any thread; works while disconnected. The listener is told
        ConditionsSynced(token) after the rows, unless newer conditions replace these first.
        """
        self._replica.want(conditions, token)

    def transact(self, operations: Sequence[Operation], timeout_s: float = 5.0) -> None:
        """Commit ``operations``, all or none; rows() shows them on return. Never on the listener.

        Raises DatabaseUnavailableError, PreconditionError, InvalidRowError, ConstraintError,
        NotPermittedError, RefusedError.
        """
        if threading.current_thread() is self._connection.thread:
            raise RuntimeError("a listener must not transact: it would wait for itself")
        if self.error is not None:
            raise DatabaseUnavailableError(self.error)
        transaction = _Transaction(self._connection, timeout_s, durable=self._durable)
        transaction.add(_Operations(self._connection, tuple(operations)))
        try:
            transaction.commit()
        except exceptions.TimeoutException as error:
            raise DatabaseUnavailableError(
                self._named(f"no answer within {timeout_s:g} s")
            ) from error
        except RuntimeError as error:
            raise self._refusal(str(error)) from error

    def _named(self, error: str) -> str:
        return f"database {self._extent.name} at {self.remote}: {error}"

    def _told(self, event: DatabaseEvent) -> None:
        if isinstance(event, Connected | Disconnected):
            self._settle(event)
        self._listener(event)

    def _settle(self, state: DatabaseEvent) -> None:
        with self._settled:
            self._state = state
            self._settled.notify_all()

    def _is_settled(self) -> bool:
        state = self._state
        return not isinstance(state, Disconnected) or state.mismatch

    def _refusal(self, text: str) -> DatabaseError:
        if not text.startswith(_REFUSAL):
            return DatabaseUnavailableError(self._named(text))
        words = text.removeprefix(_REFUSAL)
        try:
            answer = json.loads(words)
        except ValueError:
            answer = {"error": words}
        kind, details = str(answer.get("error", "")), str(answer.get("details", ""))
        message = f"database {self._extent.name} refused: {kind}: {details}".rstrip(": ")
        return _REFUSALS.get(kind, RefusedError)(message, kind, details)


class _Connection(Connection):
    """ovsdbapp's connection and thread, without its wait for a server that may be away."""

    def __init__(self, replica: Replica) -> None:
        super().__init__(replica, timeout=_STOP_TIMEOUT_S)

    def start(self) -> None:
        """Start the thread."""
        self.poller = ovs.poller.Poller()
        self.is_running = True
        self.thread = threading.Thread(target=self.run, name="ovsdb", daemon=True)
        self.thread.start()


class _Transaction(Transaction):
    """ovsdbapp's transaction: durable, and not repeated once its outcome is unknown."""

    def __init__(self, connection: _Connection, timeout_s: float, *, durable: bool) -> None:
        super().__init__(connection, connection, timeout_s, check_error=True, log_errors=False)
        self._durable = durable
        self._session: int | None = None

    def pre_commit(self, txn: ovs.db.idl.Transaction) -> None:
        """Called before every try, also those after another client was faster."""
        session = self.api.idl.session_number
        if self._session not in (None, session):
            raise DatabaseUnavailableError(
                "the connection to the database was lost during a transaction: it may have been"
                " committed; look again"
            )
        self._session = session
        if self._durable:
            txn.add_op({"op": "commit", "durable": True})  # RFC 7047 section 5.2.7

    def time_remaining(self) -> float:
        """Return the seconds left; ovsdbapp takes 0 or less as no limit at all."""
        return max(0.001, float(super().time_remaining()))


class _Operations(BaseCommand):
    """Our operations as one command of ovsdbapp."""

    def __init__(self, connection: _Connection, operations: tuple[Operation, ...]) -> None:
        super().__init__(connection)
        self._operations = operations

    def run_idl(self, txn: ovs.db.idl.Transaction) -> None:
        """Called on the connection's thread, once per try."""
        run(self._operations, self.api.idl, txn)


def _ignore(_event: DatabaseEvent) -> None:
    """Listen to nothing."""


def _use(tls: Tls) -> None:
    Stream.ssl_set_private_key_file(str(tls.private_key))
    Stream.ssl_set_certificate_file(str(tls.certificate))
    Stream.ssl_set_ca_cert_file(str(tls.ca_cert))
