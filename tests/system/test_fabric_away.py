"""The fabric database ends or crashes and returns: pods talk on, and what came meanwhile counts."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
import yaml

from dataplane.lab import lab, matrix, nodes, probes
from dataplane.lab.probes import Station
from dataplane.lab.scene import Colour, Scene
from ovs_client.daemons import DatabaseServer
from ovs_client.ofctl import OpenFlowBridge
from tests.system.cni_node import CniNode, cni_node, error_of, eventually, segment

CYAN = Colour("cyan", 22, "vxlan", "ipv6")
ADD_S = 5.0  # five times the second that an ADD waits for the database
BACK_S = 10.0
NAMED = {"ips": CYAN.static_ips(5)}


@pytest.fixture(scope="module", autouse=True)
def cyan(shared: Scene) -> Iterator[None]:
    with segment(shared, CYAN):
        yield


@pytest.fixture
def here(scene: Scene) -> Iterator[CniNode]:
    with cni_node(scene, "n1", CYAN.name) as node:
        yield node


@pytest.fixture
def there(scene: Scene) -> Iterator[CniNode]:
    with cni_node(scene, "n2", CYAN.name) as node:
        yield node


@contextmanager
def away(scene: Scene, end: Callable[[DatabaseServer], None]) -> Iterator[None]:
    """Take the database away for a while; no packet between pods may be lost for that."""
    server = lab.fabric_server(scene.paths)
    pairs = [stations[:2] for stations in scene.segments.values()]
    with talking(pairs[0], 4), talking(pairs[1], 6), talking(pairs[2], 6), talking(pairs[3], 4):
        end(server)
        assert not server.running()
        try:
            yield
        finally:
            server.start()
            for node in scene.topology.agents:
                nodes.wait_ready(scene.paths.node(node.name))


@contextmanager
def talking(pair: Sequence[Station], version: int) -> Iterator[None]:
    source, sink = pair
    with probes.flow(source, sink.ip(version), interval=0.02) as echo:
        yield
    assert (echo.lost, echo.duplicates) == (0, 0)
    assert echo.sent > 20


def status(node: CniNode) -> subprocess.CompletedProcess[str]:
    command = [*nodes.OVERWEAVE, "status", "--agent", str(node.paths.api_socket)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def expect_published(node: CniNode, pod: Station, others: list[Station]) -> None:
    """Wait until the other nodes know of a pod that was attached while the database was away."""
    took = eventually(lambda: pod.name in node.endpoints(), BACK_S)
    took += matrix.converge([pod, *others])
    print(f"{pod.name}: published and reached {took:.2f} s after the agents were connected again")
    after = status(node)
    assert (after.returncode, "unpublished" in after.stdout) == (0, False), after.stdout


def test_pods_come_while_it_is_away_and_are_published_later(here: CniNode, there: CniNode) -> None:
    others = [here.add("early"), there.add("peer")]
    matrix.converge(others)
    with away(here.scene, DatabaseServer.kill):
        began = time.monotonic()
        late = here.add("late")
        took = time.monotonic() - began
        print(f"ADD took {took:.2f} s")
        assert took < ADD_S
        told = status(here)
        assert told.returncode == 1
        assert f"unpublished: late/eth0 on cyan ({late.mac})" in told.stdout
        matrix.converge([others[0], late])
        here.pod("named")
        error_of(here.run("ADD", "named", here.config(runtimeConfig=NAMED)), 11, "could not be")
    expect_published(here, late, others)


def test_a_restart_while_it_is_away_changes_nothing(here: CniNode, there: CniNode) -> None:
    others = [here.add("early"), there.add("peer")]
    brief = here.add("brief")
    matrix.converge(others)
    with away(here.scene, DatabaseServer.stop):
        with talking(others, 4), talking(others, 6):
            before = flows(here)
            nodes.kill_agent(here.paths)
            nodes.start_agent(here.paths)
            eventually(lambda: here.run("STATUS", "none").status == 0, BACK_S)
            assert flows(here) == before
        late = here.add("late")
        matrix.converge([others[0], late])
        here.delete("brief")
        again = here.add("brief")
        assert again.ips == brief.ips
    expect_published(here, late, [again, *others])


def flows(node: CniNode) -> set[str]:
    bridges = [OpenFlowBridge(node.paths.ovs / f"{name}.mgmt") for name in ("ow-int", "ow-phy")]
    return {f"{number} {flow}" for number, b in enumerate(bridges) for flow in b.dump_flows()}


def test_who_says_so_refuses_pods_while_it_is_away(scene: Scene) -> None:
    node = CniNode(scene, "n3", CYAN.name)
    written = node.paths.config.read_text(encoding="utf-8")
    changed = {**yaml.safe_load(written), "attach_without_fabric": "refuse"}
    nodes.stop_agent(node.paths)
    try:
        node.paths.config.write_text(yaml.safe_dump(changed), encoding="utf-8")
        lab.start_agents(scene.paths, [scene.topology.node("n3")])
        with node.pods:
            node.add("early")  # so that no address is missing
            with away(scene, DatabaseServer.stop):
                eventually(lambda: "fabric database" in status(node).stdout)
                node.pod("late")
                refused = node.run("ADD", "late")
                error_of(refused, 11, "segment cyan: the fabric database is away", "try again")
                print(f"refused after {refused.seconds:.2f} s")
                assert refused.seconds < ADD_S
                error_of(node.run("STATUS", "late"), 50, "the fabric database is away")
    finally:
        nodes.stop_agent(node.paths)
        node.paths.config.write_text(written, encoding="utf-8")
