"""Things taken away behind the agents' backs are put back, all of them, within a minute."""

import random
import time
from collections.abc import Iterator

import pytest

from dataplane.core.model import Endpoint, FabricEntity
from dataplane.fabric.store import FabricStore
from dataplane.lab import lab, matrix
from dataplane.lab.runtime import Pod
from dataplane.lab.scene import Scene
from tests.system.damage import (
    EVERYTHING_SMALL,
    Node,
    take_bridge,
    take_filters,
    take_flows,
    take_routes,
)

REPAIRED_S = 60.0
State = dict[str, set[str]]


@pytest.fixture
def nodes(scene: Scene) -> list[Node]:
    seed = time.time_ns()
    print(f"seed {seed}")
    return [Node(scene.paths.node(n.name), random.Random(seed)) for n in scene.topology.agents]


@pytest.fixture
def store(scene: Scene) -> Iterator[FabricStore]:
    with FabricStore(lab.fabric_server(scene.paths).remote) as opened:
        yield opened


def test_what_is_taken_from_nodes_and_database_is_put_back(
    scene: Scene, nodes: list[Node], store: FabricStore
) -> None:
    before = settled(nodes)
    rows = set(store.read())
    began = time.monotonic()
    for node in nodes:
        for damage in EVERYTHING_SMALL:
            damage(node)
    store.write(deletes=some_endpoints(rows, nodes[0].chance))
    wait_until_back(nodes, before, began + REPAIRED_S)
    print(f"repaired after {time.monotonic() - began:.1f} s")
    assert set(store.read()) == rows
    check(scene)


def test_pods_that_come_and_go_do_not_put_repair_off(scene: Scene, nodes: list[Node]) -> None:
    before = settled(nodes)
    began = time.monotonic()
    for node in nodes:
        for damage in (take_flows, take_routes, take_filters):
            damage(node)
    while missing := lacking(nodes, before):
        assert time.monotonic() - began < REPAIRED_S, missing
        come_and_go(scene)
    print(f"repaired after {time.monotonic() - began:.1f} s")
    wait_until_back(nodes, before, time.monotonic() + 10)
    check(scene)


def test_a_bridge_taken_away_is_put_back(scene: Scene, nodes: list[Node]) -> None:
    before = settled(nodes)
    began = time.monotonic()
    for node in nodes:
        take_bridge(node)
    wait_until_back(nodes, before, began + REPAIRED_S)
    print(f"repaired after {time.monotonic() - began:.1f} s")
    check(scene)


def some_endpoints(rows: set[FabricEntity], chance: random.Random) -> list[FabricEntity]:
    endpoints = sorted((row for row in rows if isinstance(row, Endpoint)), key=str)
    return [*chance.sample(endpoints, 4)]


def come_and_go(scene: Scene) -> None:
    """Attach and detach a pod, so that every node hears of a change."""
    guest = Pod("guest", "n1", "blue")
    scene.runtime.add(guest)
    time.sleep(2)
    scene.runtime.delete(guest.name)


def lacking(nodes: list[Node], before: dict[Node, set[str]]) -> State:
    found = {node.paths.directory.name: before[node] - node.state() for node in nodes}
    return {name: lines for name, lines in found.items() if lines}


def wait_until_back(nodes: list[Node], before: dict[Node, set[str]], deadline: float) -> None:
    while any(node.state() != before[node] for node in nodes):
        states = {node: node.state() for node in nodes}
        differences = {
            node.paths.directory.name: (before[node] - state, state - before[node])
            for node, state in states.items()
            if state != before[node]
        }
        assert time.monotonic() < deadline, f"missing, and too much: {differences}"
        time.sleep(0.5)


def settled(nodes: list[Node]) -> dict[Node, set[str]]:
    """Return the state of each node once it has stayed the same for a second."""
    before = {node: node.state() for node in nodes}
    for _ in range(20):
        time.sleep(1)
        now = {node: node.state() for node in nodes}
        if now == before:
            return now
        before = now
    pytest.fail("the nodes never came to rest")


def check(scene: Scene) -> None:
    for stations in scene.segments.values():
        matrix.converge(stations)
        assert matrix.verify(stations).faults == ()
