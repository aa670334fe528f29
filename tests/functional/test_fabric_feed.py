"""The fabric feed against a real database: what the agent is told, and when."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dataplane.core.events import Event, FabricChanged, FabricConnection, FabricSynced
from dataplane.core.model import Block, Endpoint, FabricEntity, Grant, Hardware, Pin
from dataplane.core.state import entity_key
from dataplane.fabric.feed import FabricFeed
from dataplane.fabric.rows import encode, extent
from dataplane.fabric.store import FabricStore, agent_database
from ovs_client.daemons import DatabaseServer, find_program
from ovs_client.database import Database
from ovs_client.operations import Insert
from tests.functional.fabric_support import Recorder, running_server
from tests.unit.fabric_builders import endpoint, node, segment

BLUE, RED = segment("blue", 1), segment("red", 2)
N1 = node("n1", "192.0.2.1", "2001:db8::1")
UP = FabricConnection(connected=True)
BLUE_SYNCED = FabricSynced("blue", 1)


class RealClock:
    """The clock of this machine, with seconds that a test can add."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s


class Agent(Recorder[Event]):
    """Folds events as the agent does, and knows what it was told."""

    def known(self, before: Event | None = None) -> set[FabricEntity]:
        """Return what it has been told; with ``before``, up to the last time that event came."""
        found: dict[object, FabricEntity] = {}
        last = max((n for n, event in enumerate(self.events) if event == before), default=None)
        for event in self.events[:last]:
            if isinstance(event, FabricChanged):
                for entity in event.deletes:
                    del found[type(entity), entity_key(entity)]
                for entity in event.upserts:
                    found[type(entity), entity_key(entity)] = entity
        return set(found.values())

    def wait_known(self, expected: set[FabricEntity]) -> None:
        self.wait(lambda _: self.known() == expected)

    @property
    def states(self) -> list[bool]:
        return [event.connected for event in self.events if isinstance(event, FabricConnection)]

    @property
    def deleted(self) -> list[FabricEntity]:
        changes = (event for event in self.events if isinstance(event, FabricChanged))
        return [entity for change in changes for entity in change.deletes]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DatabaseServer]:
    with running_server(tmp_path) as server:
        yield server


@contextmanager
def fed(
    server: DatabaseServer, agent: Agent, clock: RealClock | None = None
) -> Iterator[FabricFeed]:
    feed = FabricFeed(agent_database(server.remote), "me", clock or RealClock())
    feed.start(agent)
    try:
        yield feed
    finally:
        feed.stop()


def crowd(size: int, at: str = "n1", on: str = "blue") -> list[Endpoint]:
    return [endpoint(at, number, on) for number in range(size)]


def test_base_tables_first_then_the_segments_asked_for(server: DatabaseServer) -> None:
    blue, red = endpoint("n1", 1, "blue"), endpoint("n1", 2, "red")
    block = Block("blue", BLUE.subnets[0], "n1")
    grant, pin = Grant("blue", "n1"), Pin("blue", blue.identity, Hardware.NEVER)
    elsewhere = Pin("red", red.identity, Hardware.ALWAYS)
    with FabricStore(server.remote) as store:
        store.write(upserts=[BLUE, RED, N1, blue, red, block, grant, pin, elsewhere])
        agent = Agent()
        with fed(server, agent) as feed:
            agent.wait_for(FabricSynced())
            assert agent.known(FabricSynced()) == {BLUE, RED, N1}
            feed.watch({"blue": 1})
            agent.wait_for(BLUE_SYNCED)
            whole = {BLUE, RED, N1, blue, block, grant, pin}
            assert agent.known(BLUE_SYNCED) == whole
            feed.watch({"blue": 1, "red": 2})
            agent.wait_for(FabricSynced("red", 2))
            assert agent.known() == {*whole, red, elsewhere}
            assert agent.events.count(BLUE_SYNCED) == 1


def test_asked_for_before_the_connection(server: DatabaseServer) -> None:
    with FabricStore(server.remote) as store:
        store.write(upserts=[BLUE, endpoint("n1", 1)])
    agent = Agent()
    feed = FabricFeed(agent_database(server.remote), "me", RealClock())
    feed.watch({"blue": 1})
    feed.start(agent)
    try:
        agent.wait_for(BLUE_SYNCED)
        assert agent.known() == {BLUE, endpoint("n1", 1)}
    finally:
        feed.stop()


def test_changes_arrive(server: DatabaseServer) -> None:
    agent = Agent()
    with FabricStore(server.remote) as store, fed(server, agent) as feed:
        feed.watch({"blue": 1})
        agent.wait_for(BLUE_SYNCED)
        one, moved = endpoint("n1", 1), endpoint("n1", 1, sequence=2)
        store.write(upserts=[one, endpoint("n1", 2)])
        agent.wait_known({one, endpoint("n1", 2)})
        store.write(upserts=[moved])
        agent.wait_known({moved, endpoint("n1", 2)})
        store.write(deletes=[moved])
        agent.wait_known({endpoint("n1", 2)})
        store.write(upserts=[N1])
        agent.wait_known({endpoint("n1", 2), N1})
        store.write(upserts=[node("n1", "192.0.2.1")])
        agent.wait_known({endpoint("n1", 2), node("n1", "192.0.2.1")})


def test_a_segment_given_up_and_taken_again(server: DatabaseServer) -> None:
    """Also our own row there is told again, though it never left the replica."""
    rows: set[FabricEntity] = {*crowd(30), endpoint("me", 99)}
    with FabricStore(server.remote) as store:
        store.write(upserts=rows)
        agent = Agent()
        with fed(server, agent) as feed:
            feed.watch({"blue": 1})
            agent.wait_for(BLUE_SYNCED)
            assert agent.known() == rows
            feed.watch({})
            agent.wait_known(set())
            feed.watch({"blue": 2})
            agent.wait_for(FabricSynced("blue", 2))
            assert agent.known() == rows


def test_a_segment_given_up_and_taken_again_in_a_hurry(server: DatabaseServer) -> None:
    """It is synced anew each time, and the last word is the whole segment."""
    rows: set[FabricEntity] = {*crowd(30), endpoint("me", 99)}
    with FabricStore(server.remote) as store:
        store.write(upserts=rows)
    agent = Agent()
    with fed(server, agent) as feed:
        feed.watch({"blue": 1})
        agent.wait_for(BLUE_SYNCED)
        for number in range(2, 22):
            feed.watch({})
            feed.watch({"blue": number})
        last = FabricSynced("blue", 21)
        agent.wait_for(last)
        time.sleep(0.2)
        assert agent.known(last) == agent.known() == rows


def test_a_slow_server_does_not_make_a_segment_synced_too_early(server: DatabaseServer) -> None:
    """The condition that gives the segment up is still under way when it is taken again."""
    rows: set[FabricEntity] = set(crowd(30))
    with FabricStore(server.remote) as store:
        store.write(upserts=rows)
    pid = server.place.pid("ovsdb-server")
    assert pid is not None
    agent = Agent()
    with fed(server, agent) as feed:
        feed.watch({"blue": 1})
        agent.wait_for(BLUE_SYNCED)
        os.kill(pid, signal.SIGSTOP)
        try:
            feed.watch({})
            agent.wait_known(set())
            time.sleep(0.1)  # the request is on its way
            feed.watch({"blue": 2})
            time.sleep(0.2)
            assert FabricSynced("blue", 2) not in agent.events
        finally:
            os.kill(pid, signal.SIGCONT)
        agent.wait_for(FabricSynced("blue", 2))
        time.sleep(0.2)
        assert agent.known(FabricSynced("blue", 2)) == agent.known() == rows


def test_a_crash_of_the_server_deletes_nothing(server: DatabaseServer) -> None:
    rows: set[FabricEntity] = {BLUE, N1, *crowd(30)}
    with FabricStore(server.remote) as store:
        store.write(upserts=rows)
    agent = Agent()
    with fed(server, agent) as feed:
        feed.watch({"blue": 1})
        agent.wait_for(BLUE_SYNCED)
        for number in range(3):
            server.kill()
            agent.wait(lambda _, n=number: agent.states.count(False) > n)  # type: ignore[misc]
            server.start()
            agent.wait_for(FabricSynced(), number + 2)
        assert agent.deleted == []
        assert agent.known() == rows
        assert agent.states[-1]


def test_what_happened_during_an_outage_is_told_before_the_connection(
    server: DatabaseServer,
) -> None:
    kept, gone, new = endpoint("n1", 1), endpoint("n1", 2), endpoint("n1", 3)
    with FabricStore(server.remote) as store:
        store.write(upserts=[kept, gone])
    agent = Agent()
    with fed(server, agent) as feed:
        feed.watch({"blue": 1})
        agent.wait_for(BLUE_SYNCED)
        server.kill()
        agent.wait(lambda _: agent.states[-1] is False)
        replace_unseen(server, gone, new)
        server.start()
        agent.wait(lambda _: agent.states.count(True) == 2)
        assert agent.known(UP) == agent.known() == {kept, new}
        assert agent.deleted == [gone]


def replace_unseen(server: DatabaseServer, old: Endpoint, new: Endpoint) -> None:
    """Change the database file while no server runs."""
    row = {
        name: ["set", list(value)] if isinstance(value, tuple) else value
        for name, value in encode(new).items()
    }
    operations = [
        {"op": "delete", "table": "Endpoint", "where": [["container_id", "==", old.container_id]]},
        {"op": "insert", "table": "Endpoint", "row": row},
    ]
    tool = [find_program("ovsdb-tool"), "transact", str(server.database)]
    subprocess.run([*tool, json.dumps(["Overweave", *operations])], check=True, timeout=20)


def test_a_sudden_loss_waits_for_a_second_look(server: DatabaseServer) -> None:
    rows = crowd(30)
    with FabricStore(server.remote) as store:
        store.write(upserts=rows)
        agent, clock = Agent(), RealClock()
        with fed(server, agent, clock) as feed:
            feed.watch({"blue": 1})
            agent.wait_for(BLUE_SYNCED)
            store.write(deletes=rows[:20])
            store.write(upserts=[*rows[:5], endpoint("n2", 100)])
            agent.wait(lambda _: endpoint("n2", 100) in agent.known())
            assert agent.deleted == []
            clock.ahead_s = 5.0
            store.write(upserts=[endpoint("n2", 101)])  # so that the feed looks at its clock
            agent.wait_known({*rows[:5], *rows[20:], endpoint("n2", 100), endpoint("n2", 101)})


def test_an_emptied_database_is_not_believed_at_once(server: DatabaseServer) -> None:
    rows: set[FabricEntity] = {BLUE, N1, *crowd(30)}
    with FabricStore(server.remote) as store:
        store.write(upserts=rows)
    agent = Agent()
    with fed(server, agent) as feed:
        feed.watch({"blue": 1})
        agent.wait_for(BLUE_SYNCED)
        server.kill()
        server.database.unlink()
        server.start()
        agent.wait(lambda _: agent.states.count(True) == 2)
        assert agent.known() == rows
        with FabricStore(server.remote) as store:
            store.write(upserts=rows)
        time.sleep(0.5)
        assert agent.known() == rows
        assert agent.deleted == []


def test_a_faulty_row_is_ignored(server: DatabaseServer) -> None:
    rogue = Database(server.remote, extent(conditional=False))
    rogue.start()
    agent = Agent()
    try:
        rogue.wait_connected(10)
        bad = dict(encode(endpoint("n1", 1))) | {"ips": ("not an address",)}
        rogue.transact([Insert("Endpoint", bad), Insert("Endpoint", encode(endpoint("n1", 2)))])
    finally:
        rogue.stop()
    with fed(server, agent) as feed:
        feed.watch({"blue": 1})
        agent.wait_for(BLUE_SYNCED)
        assert agent.known() == {endpoint("n1", 2)}


def test_what_nobody_thought_of_does_not_end_the_feed(
    server: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = Agent()
    with FabricStore(server.remote) as store, fed(server, agent) as feed:
        feed.watch({"blue": 1})
        agent.wait_for(BLUE_SYNCED)
        failed = threading.Event()
        take = feed._ledger.take

        def fail_once(*arguments: Any) -> FabricChanged:
            monkeypatch.setattr(feed._ledger, "take", take)
            failed.set()
            raise KeyError(arguments)

        monkeypatch.setattr(feed._ledger, "take", fail_once)
        store.write(upserts=[endpoint("n1", 1)])
        assert failed.wait(5)
        store.write(upserts=[endpoint("n1", 2)])
        agent.wait(lambda _: endpoint("n1", 2) in agent.known())


def test_a_server_that_is_away_is_told(tmp_path: Path) -> None:
    agent = Agent()
    away = FabricConnection(connected=False, error="No such file or directory")
    feed = FabricFeed(agent_database(f"unix:{tmp_path}/none.sock"), "me", RealClock())
    feed.start(agent)
    try:
        agent.wait(bool)
        assert agent.events == [away]
    finally:
        feed.stop()


def commit_to_told_s(store: FabricStore, agent: Agent, number: int) -> float:
    """Write one more endpoint; return the seconds until the agent is told."""
    one = endpoint("n3", number)
    started = time.monotonic()
    store._database.transact([Insert("Endpoint", encode(one))])
    agent.wait(lambda events: events[-1] == FabricChanged((one,)))
    return time.monotonic() - started


def test_sync_of_a_large_segment(
    server: DatabaseServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with FabricStore(server.remote) as store:
        store.write(upserts=[N1, *crowd(1000), *crowd(1000, "n2", "red")])
        agent = Agent()
        with fed(server, agent) as feed:
            agent.wait_for(FabricSynced())
            started = time.monotonic()
            feed.watch({"blue": 1})
            agent.wait_for(BLUE_SYNCED)
            sync_s = time.monotonic() - started
            assert len(agent.known()) == 1001
            samples = [commit_to_told_s(store, agent, number) for number in range(2000, 2050)]
    with capsys.disabled():
        median, worst = sorted(samples)[25], max(samples)
        print(
            f"\na segment of 1,000 of 2,000 endpoints synced in {sync_s * 1000:.0f} ms; one more"
            f" told {median * 1000:.1f} ms after its commit began (worst {worst * 1000:.1f})"
        )
