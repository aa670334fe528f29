"""Workloads that move between real agents over a real database: who has them, whatever dies."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from dataplane.agent import Agent, Parts
from dataplane.contracts import AttachRefusedError
from dataplane.core.desired import LocalNode
from dataplane.core.events import AttachRequest, Link, LinksChanged
from dataplane.core.model import Attachment, AttachmentKey, Endpoint, Segment, Vni
from dataplane.fabric.feed import FabricFeed
from dataplane.fabric.store import FabricStore, agent_database
from dataplane.fabric.target import FabricTarget
from dataplane.statefile import StateFiles
from ovs_client.daemons import DatabaseServer
from tests.functional.fabric_support import running_server, wait_until

BLUE = Segment("blue", Vni(7), subnets=(ip_network("10.1.0.0/20"),))
IDENTITY = "ns/pod/eth0"
OTHER = AttachmentKey("other", "eth0")


class Node:
    """An agent without a dataplane; ``restart`` is a crash: only its files are left."""

    def __init__(self, number: int, directory: Path, remote: str) -> None:
        self.name = f"n{number}"
        self.key = AttachmentKey(f"c{number}", "eth0")
        vtep = ip_address(f"192.0.2.{number}")
        self._nic = Link("eth0", 2, "02:00:00:00:00:aa", 1500, up=True, addresses=(vtep,))
        self._directory = directory / self.name
        self._remote = remote
        self.start()

    def start(self) -> None:
        files = StateFiles(self._directory)
        database = agent_database(self._remote)
        feed = FabricFeed(database, self.name, time.monotonic)
        parts = Parts((files, FabricTarget(database, self.name)), (feed,), feed.watch)
        self.agent = Agent(LocalNode(self.name, "eth0"), parts)
        self.agent.start(files.load())
        self.agent.post(LinksChanged((self._nic,)))
        wait_until(lambda: self.agent.snapshot.is_in_step)

    def stop(self) -> None:
        self.agent.stop()

    def restart(self) -> None:
        self.stop()
        self.start()

    def admit(self) -> None:
        """Do the first half of an ADD."""
        request = AttachRequest(self.key, "/run/netns/pod", "blue", IDENTITY, int(time.time()))
        self.agent.admit(request, 5)
        self.agent.wait_programmed(self.key, 5)

    def add(self) -> bool:
        self.admit()
        return self.agent.publish(self.key, 5)

    @property
    def held(self) -> Attachment:
        found = self.agent.attachment(self.key)
        assert found is not None
        return found


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DatabaseServer]:
    with running_server(tmp_path) as made:
        with FabricStore(made.remote) as store:
            store.read()
            store.write(upserts=[BLUE])
        yield made


@pytest.fixture
def nodes(server: DatabaseServer, tmp_path: Path) -> Iterator[list[Node]]:
    """Provide three nodes; the workload is on the first."""
    with ExitStack() as stack:
        made = [Node(number, tmp_path, server.remote) for number in (1, 2, 3)]
        for node in made:
            stack.callback(node.stop)
        assert made[0].add()
        yield made


def places(server: DatabaseServer) -> list[str]:
    """Return on which nodes the workload is, by the database."""
    with FabricStore(server.remote) as store:
        rows = [row for row in store.read() if isinstance(row, Endpoint)]
    return [row.node for row in rows if row.identity == IDENTITY]


def test_an_agent_that_dies_before_the_pod_is_connected_takes_nothing(
    server: DatabaseServer, nodes: list[Node]
) -> None:
    old, new, _ = nodes
    new.admit()
    new.restart()
    time.sleep(0.5)  # it has heard of the database, and been heard
    assert places(server) == [old.name]
    assert old.held.blocked is None
    assert new.agent.publish(new.key, 5)
    wait_until(lambda: old.held.final)
    assert places(server) == [new.name]
    new.restart()
    assert places(server) == [new.name]


def test_two_that_take_over_at_once(server: DatabaseServer, nodes: list[Node]) -> None:
    """Who says that its ADD succeeded has been heard of; in the end one has it."""
    old, *rivals = nodes
    for node in rivals:
        node.admit()
    with ThreadPoolExecutor() as pool:
        answers = [*pool.map(taken_over, rivals)]
    assert True in answers
    assert False not in answers
    wait_until(lambda: len(places(server)) == 1)
    wait_until(lambda: old.held.final)
    (winner,) = places(server)
    assert winner == rivals[0].name, "of equals the lower VTEP wins"


def taken_over(node: Node) -> bool | None:
    try:
        return node.agent.publish(node.key, 5)
    except AttachRefusedError:
        assert node.held.blocked is not None
        return None


def test_the_database_dies_before_the_pod_is_connected(
    server: DatabaseServer, nodes: list[Node]
) -> None:
    old, new, _ = nodes
    new.admit()
    server.kill()
    assert not new.agent.publish(new.key, 0.5)
    assert old.held.blocked is None
    server.start()
    wait_until(lambda: old.held.final)
    wait_until(lambda: places(server) == [new.name])


def test_an_add_that_fails_while_the_database_comes_back_takes_nothing(
    server: DatabaseServer, nodes: list[Node]
) -> None:
    old, new, _ = nodes
    other = AttachRequest(OTHER, "/run/netns/other", "blue", "ns/other/eth0", int(time.time()))
    new.agent.admit(other, 5)
    assert new.agent.publish(OTHER, 5)
    server.kill()
    wait_until(lambda: not new.agent.snapshot.state.fabric.connected)
    new.admit()
    assert new.held.sequence is None
    server.start()
    wait_until(lambda: new.held.sequence == 1)
    wait_until(lambda: new.agent.snapshot.is_in_step)
    time.sleep(0.5)
    assert (places(server), old.held.blocked) == ([old.name], None)
    new.agent.cancel(new.key)
    time.sleep(0.2)
    assert (places(server), old.held.blocked) == ([old.name], None)
