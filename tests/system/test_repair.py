"""Things taken away behind the agents' backs are put back, all of them, within a minute."""

import random
import time
from collections.abc import Callable

import pytest

from dataplane.core.model import Endpoint
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


@pytest.mark.parametrize(
    "damages",
    [
        pytest.param(EVERYTHING_SMALL, id="some of everything"),
        pytest.param((take_bridge,), id="a bridge"),
    ],
)
def test_what_is_taken_from_every_node_is_put_back(
    scene: Scene, damages: tuple[Callable[[Node], None], ...]
) -> None:
    seed = time.time_ns()
    print(f"seed {seed}")
    nodes = [Node(scene.paths.node(n.name), random.Random(seed)) for n in scene.topology.agents]
    before = settled(nodes)
    began = time.monotonic()
    for node in nodes:
        for damage in damages:
            damage(node)
    missing = wait_for(nodes, before, began + REPAIRED_S)
    assert missing == {}, f"after {REPAIRED_S:.0f} s"
    print(f"repaired after {time.monotonic() - began:.1f} s")
    for stations in scene.segments.values():
        assert matrix.verify(stations).faults == ()


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


def wait_for(
    nodes: list[Node], before: dict[Node, set[str]], deadline: float
) -> dict[str, tuple[set[str], set[str]]]:
    """Return what is missing and what is too much on each node once nothing is, or time is up."""
    while True:
        different = {
            node.paths.directory.name: (before[node] - now, now - before[node])
            for node in nodes
            if (now := node.state()) != before[node]
        }
        if not different or time.monotonic() > deadline:
            return different
        time.sleep(0.5)


def test_rows_taken_from_the_fabric_come_back(scene: Scene) -> None:
    with FabricStore(lab.fabric_server(scene.paths).remote) as store:
        before = set(store.read())
        rows = [row for row in before if isinstance(row, Endpoint) and row.segment == "blue"]
        began = time.monotonic()
        store.write(deletes=random.Random(began).sample(sorted(rows, key=str), 2))
        while set(store.read()) != before:
            assert time.monotonic() - began < REPAIRED_S, before ^ set(store.read())
            time.sleep(0.2)
    print(f"repaired after {time.monotonic() - began:.1f} s")
    matrix.converge(scene.segments["blue"])
    assert matrix.verify(scene.segments["blue"]).faults == ()


def test_pods_that_come_and_go_do_not_put_repair_off(scene: Scene) -> None:
    chance = random.Random(1)
    nodes = [Node(scene.paths.node(n.name), chance) for n in scene.topology.agents]
    before = settled(nodes)
    began = time.monotonic()
    for node in nodes:
        for damage in (take_flows, take_routes, take_filters):
            damage(node)
    while any(before[node] - node.state() for node in nodes):
        left = {node.paths.directory.name: before[node] - node.state() for node in nodes}
        assert time.monotonic() - began < REPAIRED_S, left
        scene.runtime.add(Pod("guest", "n1", "blue"))
        time.sleep(3)
        scene.runtime.delete("guest")
    print(f"repaired after {time.monotonic() - began:.1f} s")
    assert wait_for(nodes, before, time.monotonic() + 5) == {}
