"""The typed connection against a real ovsdb-server: rows, conditions, outages, refusals."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from ovs.jsonrpc import Message

from dataplane.fabric import SCHEMA
from dataplane.fabric.rows import encode, extent
from ovs_client.daemons import DatabaseServer, find_program
from ovs_client.database import Database, Listener
from ovs_client.errors import (
    ConstraintError,
    DatabaseUnavailableError,
    InvalidRowError,
    PreconditionError,
    SchemaMismatchError,
)
from ovs_client.operations import Delete, Expect, Insert, Update
from ovs_client.rows import (
    ConditionsSynced,
    Connected,
    DatabaseEvent,
    Disconnected,
    Row,
    RowsChanged,
)
from tests.functional.fabric_support import Recorder, running_server, wait_until
from tests.unit.fabric_builders import endpoint

Events = Recorder[DatabaseEvent]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DatabaseServer]:
    with running_server(tmp_path) as server:
        yield server


@contextmanager
def connection(
    remote: str, *, conditional: bool = False, listener: Listener | None = None
) -> Iterator[Database]:
    database = Database(remote, extent(conditional=conditional))
    database.start(listener)
    try:
        yield database
    finally:
        database.stop()


@contextmanager
def connected(
    remote: str, *, conditional: bool = False, listener: Listener | None = None
) -> Iterator[Database]:
    with connection(remote, conditional=conditional, listener=listener) as database:
        database.wait_connected(10)
        yield database


def new(node: str, number: int, on: str = "blue") -> Insert:
    return Insert("Endpoint", encode(endpoint(node, number, on)))


def pods(rows: tuple[Row, ...]) -> set[object]:
    return {row.columns["container_id"] for row in rows}


def told_pods(events: list[DatabaseEvent]) -> set[object]:
    changes = [c for event in events if isinstance(event, RowsChanged) for c in event.changes]
    return {change.new.columns["container_id"] for change in changes if change.new is not None}


def dumped(server: DatabaseServer, table: str) -> int:
    """Count rows as another program sees them."""
    select = json.dumps(["Overweave", {"op": "select", "table": table, "where": []}])
    command = [find_program("ovsdb-client"), "transact", server.remote, select]
    answer = subprocess.run(command, capture_output=True, check=True, timeout=20).stdout
    return len(json.loads(answer)[0]["rows"])


class TestReplica:
    def test_another_writer_is_seen(self, server: DatabaseServer) -> None:
        events = Events()
        with connected(server.remote, listener=events), connected(server.remote) as writer:
            writer.transact([new("n1", 1)])
            events.wait(lambda told: told_pods(told) == {"pod1"})

    def test_a_commit_is_visible_on_return(self, server: DatabaseServer) -> None:
        with connected(server.remote) as database:
            for number in range(50):
                database.transact([new("n1", number)])
                assert f"pod{number}" in pods(database.rows("Endpoint"))
            row = database.rows("Endpoint")[0]
            database.transact([Update("Endpoint", row.uuid, {"sequence": 7})])
            assert 7 in {row.columns["sequence"] for row in database.rows("Endpoint")}
            database.transact([Delete("Endpoint", row.uuid)])
            assert len(database.rows("Endpoint")) == 49
        assert dumped(server, "Endpoint") == 49

    def test_rows_come_before_connected(self, server: DatabaseServer) -> None:
        with connected(server.remote) as writer:
            writer.transact([new("n1", 1)])
        events = Events()
        with connected(server.remote, listener=events):
            assert isinstance(events.events[0], RowsChanged)
            assert events.events[1] == Connected()

    def test_snapshots_do_not_change(self, server: DatabaseServer) -> None:
        with connected(server.remote) as database:
            database.transact([new("n1", 1)])
            before = database.rows("Endpoint")[0]
            database.transact([Update("Endpoint", before.uuid, {"sequence": 7})])
            assert before.columns["sequence"] == 1

    def test_sync_of_many_rows(
        self, server: DatabaseServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with connected(server.remote) as writer:
            writer.transact([new("n1", number) for number in range(1000)], 30)
        started = time.monotonic()
        with connected(server.remote) as database:
            took_s = time.monotonic() - started
            assert len(database.rows("Endpoint")) == 1000
        with capsys.disabled():
            print(f"\n1,000 endpoints replicated in {took_s * 1000:.0f} ms")


class TestConditions:
    def test_only_what_was_asked_for_comes(self, server: DatabaseServer) -> None:
        with connected(server.remote) as writer:
            writer.transact([new("n1", n, on=("blue", "red")[n % 2]) for n in range(10)])
        events = Events()
        with connected(server.remote, conditional=True, listener=events) as database:
            assert database.rows("Endpoint") == ()
            database.set_conditions({"Endpoint": [("segment", "==", "red")]}, "red")
            events.wait_for(ConditionsSynced("red"))
            assert pods(database.rows("Endpoint")) == {"pod1", "pod3", "pod5", "pod7", "pod9"}

    def test_synced_comes_after_the_rows(self, server: DatabaseServer) -> None:
        with connected(server.remote) as writer:
            writer.transact([new("n1", number) for number in range(500)], 30)
        events = Events()
        with connected(server.remote, conditional=True, listener=events) as database:
            database.set_conditions({"Endpoint": [("segment", "==", "blue")]}, "blue")
            events.wait_for(ConditionsSynced("blue"))
            place = events.events.index(ConditionsSynced("blue"))
            assert len(told_pods(events.events[:place])) == 500

    def test_an_empty_segment_is_synced_too(self, server: DatabaseServer) -> None:
        events = Events()
        with connected(server.remote, conditional=True, listener=events) as database:
            database.set_conditions({"Endpoint": [("segment", "==", "none")]}, "none")
            events.wait_for(ConditionsSynced("none"))
            database.set_conditions({"Endpoint": [("segment", "==", "none")]}, "same again")
            events.wait_for(ConditionsSynced("same again"))

    def test_clauses_add_up(self, server: DatabaseServer) -> None:
        with connected(server.remote) as writer:
            writer.transact([new("n1", 1, "blue"), new("n2", 2, "red"), new("n3", 3, "green")])
        events = Events()
        with connected(server.remote, conditional=True, listener=events) as database:
            clauses = [("segment", "==", "blue"), ("node", "==", "n2")]
            database.set_conditions({"Endpoint": clauses}, "both")
            events.wait_for(ConditionsSynced("both"))
            assert pods(database.rows("Endpoint")) == {"pod1", "pod2"}

    def test_conditions_in_a_hurry(self, server: DatabaseServer) -> None:
        with connected(server.remote) as writer:
            writer.transact([new("n1", n, on=f"s{n}") for n in range(30)])
        events = Events()
        with connection(server.remote, conditional=True, listener=events) as database:
            for number in range(30):
                database.set_conditions({"Endpoint": [("segment", "==", f"s{number}")]}, number)
            events.wait_for(ConditionsSynced(29))
            assert pods(database.rows("Endpoint")) == {"pod29"}

    def test_asked_for_while_away(self, server: DatabaseServer) -> None:
        """The thread sleeps meanwhile: the library's own loop would spin."""
        with connected(server.remote) as writer:
            writer.transact([new("n1", 1)])
        server.kill()
        events = Events()
        with connection(server.remote, conditional=True, listener=events) as database:
            events.wait(lambda told: any(isinstance(event, Disconnected) for event in told))
            database.set_conditions({"Endpoint": [("segment", "==", "blue")]}, "blue")
            busy_s = time.process_time()
            time.sleep(1.0)
            assert time.process_time() - busy_s < 0.2
            server.start()
            events.wait_for(ConditionsSynced("blue"))
            assert pods(database.rows("Endpoint")) == {"pod1"}


class TestOutages:
    def test_nothing_is_lost_or_invented_by_a_crash(self, server: DatabaseServer) -> None:
        events = Events()
        with connected(server.remote, listener=events) as database:
            database.transact([new("n1", number) for number in range(20)])
            before = database.rows("Endpoint")
            for number in range(3):
                server.kill()
                events.wait(lambda told, n=number: downs(told) > n)  # type: ignore[misc]
                assert database.rows("Endpoint") == before
                server.start()
                database.wait_connected(10)
                events.wait_for(Connected(), number + 2)
            changes = [event for event in events.events if isinstance(event, RowsChanged)]
            assert len(changes) == 1
            assert database.rows("Endpoint") == before
        assert dumped(server, "Endpoint") == 20

    def test_what_was_missed_is_told_as_one_change(self, server: DatabaseServer) -> None:
        """Deletes during the outage too, which the library does not tell."""
        events = Events()
        with connected(server.remote, listener=events) as database:
            database.transact([new("n1", 1), new("n1", 2)])
            server.kill()
            change_unseen(server)
            server.start()
            database.wait_connected(10)
            events.wait_for(Connected(), 2)
            change = next(e for e in reversed(events.events) if isinstance(e, RowsChanged))
            assert {c.old.columns["container_id"] for c in change.changes if c.old} == {"pod1"}
            assert {c.new.columns["container_id"] for c in change.changes if c.new} == {"pod3"}
            assert events.events.index(change) < len(events.events) - 1

    def test_the_cause_is_told(self, server: DatabaseServer) -> None:
        with connected(server.remote) as database:
            server.kill()
            wait_until(lambda: database.error is not None)
            with pytest.raises(DatabaseUnavailableError, match="database Overweave at unix:"):
                database.transact([new("n1", 1)])

    def test_a_server_that_never_was(self, tmp_path: Path) -> None:
        with (
            connection(f"unix:{tmp_path / 'none.sock'}") as database,
            pytest.raises(DatabaseUnavailableError, match="No such file"),
        ):
            database.wait_connected(0.5)

    def test_a_server_of_something_else(self, server: DatabaseServer) -> None:
        other = json.loads(SCHEMA.read_text(encoding="utf-8")) | {"name": "Another"}
        whole = extent(conditional=False)
        database = Database(server.remote, type(whole)(other, whole.tables))
        database.start()
        try:
            with pytest.raises(DatabaseUnavailableError, match="serves no database Another"):
                database.wait_connected(1.5)
        finally:
            database.stop()

    def test_a_hung_server_is_told(self, server: DatabaseServer) -> None:
        with connected(server.remote) as database:
            pid = server.place.pid("ovsdb-server")
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            try:
                with pytest.raises(DatabaseUnavailableError, match=r"no answer within 0\.5 s"):
                    database.transact([new("n1", 1)], timeout_s=0.5)
            finally:
                os.kill(pid, signal.SIGCONT)
            wait_until(lambda: "pod1" in pods(database.rows("Endpoint")))

    def test_a_transaction_whose_outcome_is_unknown_is_not_repeated(
        self, server: DatabaseServer
    ) -> None:
        """Repeated, it would collide with itself had the server committed it before it died."""
        with connected(server.remote) as database, ThreadPoolExecutor(1) as pool:
            pid = server.place.pid("ovsdb-server")
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            outcome = pool.submit(database.transact, [new("n1", 1)], 20)
            time.sleep(0.3)
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not server.running())
            server.start()
            with pytest.raises(DatabaseUnavailableError, match="may have been committed"):
                outcome.result(20)
            database.wait_connected(10)
            assert database.rows("Endpoint") == ()

    def test_reconnects_soon(
        self, server: DatabaseServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with connected(server.remote) as database:
            server.kill()
            wait_until(lambda: database.error is not None)
            time.sleep(1.5)  # so that the back-off has reached its end
            server.start()
            started = time.monotonic()
            database.wait_connected(10)
            took_s = time.monotonic() - started
        with capsys.disabled():
            print(f"\nconnected {took_s * 1000:.0f} ms after the server's return")
        assert took_s < 2.5


def downs(events: list[DatabaseEvent]) -> int:
    """Count the outages told."""
    states = [event for event in events if isinstance(event, Connected | Disconnected)]
    return sum(
        isinstance(before, Connected) and isinstance(after, Disconnected)
        for before, after in pairwise(states)
    )


def change_unseen(server: DatabaseServer) -> None:
    """Replace pod1 by pod3 while no server runs, as happens to a client that is away."""
    columns = encode(endpoint("n1", 3)).items()
    sets = {"ips", "moves", "learned"}
    row = {name: value for name, value in columns if name not in sets}
    operations = [
        {"op": "delete", "table": "Endpoint", "where": [["container_id", "==", "pod1"]]},
        {"op": "insert", "table": "Endpoint", "row": row},
    ]
    tool = [find_program("ovsdb-tool"), "transact", str(server.database)]
    words = [*tool, json.dumps(["Overweave", *operations])]
    done = subprocess.run(words, check=True, timeout=20, capture_output=True, text=True)
    assert "error" not in done.stdout, done.stdout


class TestSchema:
    def test_another_version_is_refused_at_once(self, tmp_path: Path) -> None:
        text = SCHEMA.read_text(encoding="utf-8")
        other = tmp_path / "other.ovsschema"
        version = json.loads(text)["version"]
        other.write_text(text.replace(f'"{version}"', '"9.9.9"', 1), encoding="utf-8")
        with running_server(tmp_path, other) as server, connection(server.remote) as database:
            started = time.monotonic()
            with pytest.raises(SchemaMismatchError, match=r"version 9\.9\.9, this program needs"):
                database.wait_connected(20)
            assert time.monotonic() - started < 10
            with pytest.raises(DatabaseUnavailableError, match=r"9\.9\.9"):
                database.transact([new("n1", 1)])

    def test_a_missing_column_is_named(self, tmp_path: Path) -> None:
        schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
        del schema["tables"]["Segment"]["columns"]["guard"]
        other = tmp_path / "other.ovsschema"
        other.write_text(json.dumps(schema), encoding="utf-8")
        with (
            running_server(tmp_path, other) as server,
            connection(server.remote) as database,
            pytest.raises(SchemaMismatchError, match=r"lacks Segment\.guard"),
        ):
            database.wait_connected(20)


class TestTransactions:
    def test_of_two_that_race_one_wins(self, server: DatabaseServer) -> None:
        """Both claim the same Blocks at the same time, from two connections."""
        with connected(server.remote) as one, connected(server.remote) as two:
            claims = [f"10.0.{n}.0/27" for n in range(100)]
            won: dict[str, list[str]] = {"n1": [], "n2": []}
            ready = threading.Barrier(2)

            def claim(database: Database, node: str) -> None:
                ready.wait()
                for prefix in claims:
                    columns = {"segment": "blue", "prefix": prefix, "node": node}
                    try:
                        database.transact([Insert("Block", columns)])
                        won[node].append(prefix)
                    except ConstraintError:
                        continue

            racers = [
                threading.Thread(target=claim, args=pair) for pair in ((one, "n1"), (two, "n2"))
            ]
            for racer in racers:
                racer.start()
            for racer in racers:
                racer.join()
            assert sorted(won["n1"] + won["n2"]) == sorted(claims)
            assert dumped(server, "Block") == 100

    def test_all_or_nothing(self, server: DatabaseServer) -> None:
        with connected(server.remote) as database:
            database.transact([new("n1", 1)])
            with pytest.raises(ConstraintError, match="container_id"):
                database.transact([new("n1", 2), new("n1", 1)])
            assert pods(database.rows("Endpoint")) == {"pod1"}

    def test_a_bad_value_never_leaves(self, server: DatabaseServer) -> None:
        """The library would log it, leave the column out and commit the rest."""
        columns = dict(encode(endpoint("n1", 1)))
        with connected(server.remote) as database:
            with pytest.raises(InvalidRowError, match=r"Endpoint\.mac"):
                database.transact([Insert("Endpoint", columns | {"mac": "short"})])
            with pytest.raises(InvalidRowError, match="no column colour"):
                database.transact([Insert("Endpoint", columns | {"colour": "blue"})])
            assert database.rows("Endpoint") == ()
            database.transact([new("n1", 1)])

    def test_preconditions(self, server: DatabaseServer) -> None:
        with connected(server.remote) as database:
            database.transact([new("n1", 1)])
            row = database.rows("Endpoint")[0]
            raised = Update("Endpoint", row.uuid, {"sequence": 2})
            database.transact([Expect("Endpoint", row.uuid, {"sequence": 1}), raised])
            with pytest.raises(PreconditionError, match="sequence is 2 and not 1"):
                database.transact([Expect("Endpoint", row.uuid, {"sequence": 1}), raised])
            database.transact([Delete("Endpoint", row.uuid)])
            with pytest.raises(PreconditionError, match="is gone"):
                database.transact([raised])

    def test_a_stale_precondition_is_caught_by_the_server(self, server: DatabaseServer) -> None:
        """Many increments from two clients: none is lost, though each works on its own replica."""
        with connected(server.remote) as one, connected(server.remote) as two:
            one.transact([new("n1", 1)])
            wait_until(lambda: two.rows("Endpoint"))

            def count(database: Database) -> None:
                done = 0
                while done < 50:
                    row = database.rows("Endpoint")[0]
                    now = row.columns["sequence"]
                    assert isinstance(now, int)
                    same = Expect("Endpoint", row.uuid, {"sequence": now})
                    more = Update("Endpoint", row.uuid, {"sequence": now + 1})
                    try:
                        database.transact([same, more])
                        done += 1
                    except PreconditionError:
                        continue

            counters = [threading.Thread(target=count, args=(database,)) for database in (one, two)]
            for counter in counters:
                counter.start()
            for counter in counters:
                counter.join()
            wait_until(lambda: one.rows("Endpoint")[0].columns["sequence"] == 101)

    def test_a_durable_commit_survives_a_crash(self, server: DatabaseServer) -> None:
        with connected(server.remote) as database:
            for number in range(100):
                database.transact([new("n1", number)])
            server.kill()
        server.start()
        assert dumped(server, "Endpoint") == 100

    def test_commits_ask_for_the_disk(
        self, server: DatabaseServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without this the server answers before the file is synced; no crash here shows that."""
        sent: list[object] = []
        to_json = Message.to_json

        def spy(message: Message) -> object:
            if message.method == "transact":
                sent.extend(message.params)
            return to_json(message)

        monkeypatch.setattr(Message, "to_json", spy)
        with connected(server.remote) as database:
            database.transact([new("n1", 1)])
        assert sent[-1] == {"op": "commit", "durable": True}

    def test_a_listener_must_not_transact(self, server: DatabaseServer) -> None:
        caught: list[str] = []

        def listener(event: DatabaseEvent) -> None:
            if isinstance(event, Connected):
                try:
                    database.transact([new("n1", 1)])
                except RuntimeError as error:
                    caught.append(str(error))

        database = Database(server.remote, extent(conditional=False))
        database.start(listener)
        try:
            database.wait_connected(10)
            wait_until(lambda: caught)
        finally:
            database.stop()
