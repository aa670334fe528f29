"""The fabric database as a Feed: rows become events, for the segments of interest only."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

import structlog

from dataplane.contracts import Clock, Post
from dataplane.core.events import FabricChanged, FabricConnection, FabricSynced
from dataplane.fabric.ledger import Ledger
from dataplane.fabric.rows import NODE_TABLES, OWNED_TABLES, SEGMENT_TABLES, Faulty, Stored, decode
from ovs_client.database import Database
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

_STOP_TIMEOUT_S = 5.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Watch:
    """The agent wants the rows of other segments than before."""

    wanted: Mapping[str, int]


class FabricFeed:
    """Posts FabricChanged, FabricConnection and FabricSynced; starts and stops the connection.

    ``database`` is one of ``agent_database``. A segment's FabricSynced follows its rows. After an
    outage the rows that changed meanwhile are told as one change, then the connection.
    """

    def __init__(self, database: Database, node: str, clock: Clock) -> None:
        self._database = database
        self._node = node
        self._clock = clock
        self._ledger = Ledger(node)
        self._wanted: Mapping[str, int] = {}
        self._synced: set[tuple[str, int]] = set()
        self._connected = False
        self._inbox: queue.SimpleQueue[DatabaseEvent | _Watch | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        database.set_conditions(_conditions(node, frozenset()), frozenset())

    def start(self, post: Post) -> None:
        """Begin to connect and to post."""
        self._thread = threading.Thread(
            target=self._run, args=(post,), name="fabric-feed", daemon=True
        )
        self._thread.start()
        self._database.start(self._inbox.put)

    def stop(self) -> None:
        """Disconnect and end the thread."""
        self._database.stop()
        self._inbox.put(None)
        if self._thread is not None:
            self._thread.join(_STOP_TIMEOUT_S)

    def watch(self, wanted: Mapping[str, int]) -> None:
        """Post the rows of these segments and no others; returns at once, also while disconnected.

        Rows of a segment that is given up are posted as deleted, and it is no longer synced. One
        that is taken again has another number, which its FabricSynced carries.
        """
        self._inbox.put(_Watch(wanted))  # before the database can tell of it
        token = frozenset(wanted.items())
        self._database.set_conditions(_conditions(self._node, frozenset(wanted)), token)

    def _run(self, post: Post) -> None:
        while True:
            try:
                event = self._inbox.get(timeout=self._patience_s())
            except queue.Empty:
                _post_change(post, self._ledger.look_again())
                continue
            if event is None:
                return
            try:
                self._take(event, post)
            except Exception:  # a row that nobody thought of must not end the thread
                log.exception("fabric.feed.crashed", told=type(event).__name__)

    def _patience_s(self) -> float | None:
        """Return how long nothing need be done; a second look needs the database."""
        due = self._ledger.second_look
        if due is None or not self._connected:
            return None
        return max(0.0, due - self._clock())

    def _take(self, event: DatabaseEvent | _Watch, post: Post) -> None:
        now = self._clock()
        match event:
            case RowsChanged(changes=changes):
                _post_change(post, self._ledger.take(_decoded(changes), now))
            case Connected():
                self._connected = True
                post(FabricConnection(connected=True))
                post(FabricSynced())
            case Disconnected(error=error):
                self._connected = False
                post(FabricConnection(connected=False, error=error))
            case ConditionsSynced(token=asked) if isinstance(asked, frozenset):
                for segment, number in sorted(asked & self._wanted.items() - self._synced):
                    self._synced.add((segment, number))
                    post(FabricSynced(segment, number))
            case _Watch(wanted=wanted):
                self._wanted = wanted
                self._synced &= wanted.items()
                _post_change(post, self._ledger.watch(frozenset(wanted), now))


def _conditions(node: str, segments: frozenset[str]) -> Mapping[str, tuple[Clause, ...]]:
    wanted: tuple[Clause, ...] = tuple(("segment", "==", segment) for segment in sorted(segments))
    own: tuple[Clause, ...] = (("node", "==", node),)
    conditions = {t: wanted + (own if t in OWNED_TABLES else ()) for t in SEGMENT_TABLES}
    return {**conditions, **dict.fromkeys(NODE_TABLES, own)}


def _decoded(changes: tuple[RowChange, ...]) -> dict[UUID, Stored | None]:
    """Return each row's value; None if it is gone, or cannot be what it says."""
    decoded: dict[UUID, Stored | None] = {}
    for change in changes:
        row = change.new or change.old
        if row is None or row.table in NODE_TABLES:  # nothing is decided on those
            continue
        if change.new is not None:
            decoded[change.new.uuid] = _decoded_row(change.new)
        elif change.old is not None:
            decoded[change.old.uuid] = None
    return decoded


def _decoded_row(row: Row) -> Stored | None:
    found = decode(row)
    if isinstance(found, Faulty):
        log.warning("fabric.row.ignored", error=found.text)
        return None
    return found


def _post_change(post: Post, change: FabricChanged) -> None:
    if change.upserts or change.deletes:
        post(change)
