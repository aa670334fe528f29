"""The typed store against a real database: what is written is what is read."""

import json
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from dataplane.core.errors import FabricUnavailableError, OverweaveError
from dataplane.core.model import (
    Address,
    Block,
    Fabric,
    FabricEntity,
    Grant,
    Hardware,
    Mac,
    Pin,
)
from dataplane.fabric import SCHEMA
from dataplane.fabric.rows import encode, extent, normal
from dataplane.fabric.store import FabricStore
from ovs_client.daemons import DatabaseServer
from ovs_client.database import Database
from ovs_client.operations import Insert
from tests.functional.fabric_support import running_server, wait_until
from tests.unit.fabric_builders import endpoint, node, segment

BLUE, RED = segment("blue", 1), segment("red", 2)
WORLD: tuple[FabricEntity, ...] = (
    Fabric("lab", 6081, 4789),
    node("n1", "192.0.2.1", "2001:db8::1"),
    node("tor", "192.0.2.9", static=True),
    BLUE,
    RED,
    endpoint("n1", 1),
    endpoint("tor", 2),
    Block("blue", ip_network("10.1.0.0/27"), "n1"),
    Block("blue", ip_network("fd00:1::/120"), "n1"),
    Address("blue", ip_address("10.1.9.9"), "default/db/eth0", "n1"),
    Grant("blue", "n1", Mac("02:00:00:00:00:01"), BLUE.subnets),
    Grant("blue", "tor"),
    Pin("blue", "default/pod1/eth0", Hardware.ALWAYS),
    Pin("red", Mac("02:00:00:00:00:01"), Hardware.NEVER),
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DatabaseServer]:
    with running_server(tmp_path) as server:
        yield server


@pytest.fixture
def store(server: DatabaseServer) -> Iterator[FabricStore]:
    with FabricStore(server.remote) as store:
        yield store


def known(store: FabricStore) -> set[FabricEntity]:
    return set(store.read())


def world(*without: FabricEntity) -> set[FabricEntity]:
    return {normal(entity) for entity in WORLD if entity not in without}


def test_all_kinds_are_read_as_written(server: DatabaseServer, store: FabricStore) -> None:
    store.write(upserts=WORLD)
    assert known(store) == world()
    with FabricStore(server.remote) as another:
        assert known(another) == world()


def test_writing_again_changes_nothing(server: DatabaseServer, store: FabricStore) -> None:
    store.write(upserts=WORLD)
    with FabricStore(server.remote) as another:
        before = another._database.snapshot()
        store.write(upserts=WORLD)
        store.write(upserts=[segment("green", 3)])
        assert {
            name: rows for name, rows in another._database.snapshot().items() if name != "Segment"
        } == {name: rows for name, rows in before.items() if name != "Segment"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(WORLD[0], Fabric("lab", 6081, 8472), id="fabric"),
        pytest.param(WORLD[1], node("n1", "192.0.2.1"), id="node loses a vtep"),
        pytest.param(WORLD[1], node("n1", "192.0.2.77", "2001:db8::1"), id="node changes a vtep"),
        pytest.param(BLUE, replace(BLUE, mtu=1400, subnets=BLUE.subnets[:1]), id="segment"),
        pytest.param(WORLD[6], replace(endpoint("tor", 2), sequence=9, ips=()), id="endpoint"),
        pytest.param(WORLD[10], Grant("blue", "n1", Mac("02:00:00:00:00:01")), id="grant"),
        pytest.param(WORLD[12], Pin("blue", "default/pod1/eth0", Hardware.NEVER), id="pin"),
    ],
)
def test_updates(store: FabricStore, old: FabricEntity, new: FabricEntity) -> None:
    store.write(upserts=WORLD)
    store.write(upserts=[new])
    assert known(store) == world(old) | {normal(new)}


@pytest.mark.parametrize("entity", [pytest.param(e, id=type(e).__name__) for e in WORLD])
def test_deletes(store: FabricStore, entity: FabricEntity) -> None:
    store.write(upserts=WORLD)
    store.write(deletes=[entity])
    assert known(store) == world(entity)
    store.write(deletes=[entity])
    store.write(upserts=[entity])
    assert known(store) == world()


def test_a_vtep_can_change_hands_at_once(store: FabricStore) -> None:
    one, two = node("n1", "192.0.2.1"), node("n2", "192.0.2.2")
    store.write(upserts=[one, two])
    swapped = [replace(one, vteps=two.vteps), replace(two, vteps=one.vteps)]
    store.write(upserts=swapped)
    assert known(store) == set(swapped)
    store.write(upserts=[replace(one, vteps=one.vteps)], deletes=[swapped[1]])
    assert known(store) == {one}


@pytest.mark.parametrize(
    ("taken", "text"),
    [
        pytest.param(node("n2", "192.0.2.1"), "192.0.2.1", id="vtep address"),
        pytest.param(replace(RED, name="rouge"), "vni", id="vni"),
    ],
)
def test_the_database_refuses_duplicates(
    store: FabricStore, taken: FabricEntity, text: str
) -> None:
    store.write(upserts=WORLD)
    with pytest.raises(OverweaveError, match=text):
        store.write(upserts=[segment("green", 3), taken])
    assert known(store) == world()


def test_what_was_changed_since_it_was_read_is_not_overwritten(
    server: DatabaseServer, store: FabricStore
) -> None:
    store.write(upserts=WORLD)
    store.read()
    with FabricStore(server.remote) as another:
        another.write(upserts=[replace(BLUE, mtu=1300)])
    with pytest.raises(OverweaveError, match=r"mtu is .* look again"):
        store.write(upserts=[replace(BLUE, mtu=1400)])
    assert replace(BLUE, mtu=1300) in known(store)
    store.write(upserts=[replace(BLUE, mtu=1400)])
    assert replace(BLUE, mtu=1400) in known(store)


def test_faulty_rows_are_left_out_and_told(server: DatabaseServer, store: FabricStore) -> None:
    rogue = Database(server.remote, extent(conditional=False))
    rogue.start()
    try:
        rogue.wait_connected(10)
        columns = dict(encode(endpoint("n1", 66)))
        rogue.transact([Insert("Endpoint", columns | {"mac": "xx:xx:xx:xx:xx:xx"})])
    finally:
        rogue.stop()
    store.write(upserts=WORLD)
    assert known(store) == world()
    assert [fault for fault in store.faults() if "xx:xx:xx:xx:xx:xx" in fault]
    store.write(deletes=[WORLD[1]])
    assert store.faults() == ()


def test_another_schema_version(tmp_path: Path) -> None:
    text = SCHEMA.read_text(encoding="utf-8")
    other = tmp_path / "other.ovsschema"
    other.write_text(text.replace(json.loads(text)["version"], "0.9.0", 1), encoding="utf-8")
    with (
        running_server(tmp_path, other) as server,
        pytest.raises(FabricUnavailableError, match=r"version 0\.9\.0, this program needs"),
        FabricStore(server.remote),
    ):
        pass


def test_no_server(tmp_path: Path) -> None:
    with (
        pytest.raises(FabricUnavailableError, match=r"none\.sock: No such file"),
        FabricStore(f"unix:{tmp_path}/none.sock"),
    ):
        pass


def test_the_server_goes_away(server: DatabaseServer, store: FabricStore) -> None:
    server.kill()
    with pytest.raises(FabricUnavailableError):
        store.write(upserts=[BLUE])


def test_following_a_kind(server: DatabaseServer, store: FabricStore) -> None:
    """Its own changes and the way to the database are told at once, other kinds not at all."""
    with FabricStore(server.remote) as reader:
        told = reader.follow(Pin, pause_s=200.0)
        assert next(told) == ()
        store.write(upserts=[BLUE])
        wait_until(lambda: set(reader.read()) == {normal(BLUE)})
        assert not reader._news.is_set()
        store.write(upserts=[WORLD[12]])
        assert next(told) == (WORLD[12],)
        store.write(deletes=[WORLD[12]])
        assert next(told) == ()
        server.stop()
        assert next(told) == ()
        assert reader.error is not None
