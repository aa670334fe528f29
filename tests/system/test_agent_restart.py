"""The dataplane does not need the agent: it dies, ends, comes back, and no packet notices."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dataplane.lab import lab, matrix, nodes, probes
from dataplane.lab.layout import NodePaths
from dataplane.lab.probes import Station
from dataplane.lab.runtime import PluginError, Pod
from dataplane.lab.scene import COLOURS, Colour, Scene
from dataplane.lab.topology import LabNode
from ovs_client.ofctl import OpenFlowBridge

READY_S = 10.0  # five times what an agent may take to be ready
BRIDGES = ("ow-int", "ow-phy")


def flows(paths: NodePaths) -> dict[str, set[str]]:
    return {
        bridge: {str(flow) for flow in OpenFlowBridge(paths.ovs / f"{bridge}.mgmt").dump_flows()}
        for bridge in BRIDGES
    }


def start(scene: Scene, node: LabNode) -> float:
    began = time.monotonic()
    lab.start_agents(scene.paths, [node])
    return time.monotonic() - began


def pair(scene: Scene, colour: Colour) -> tuple[Station, Station]:
    """Return the pods on n1 and n2."""
    first, second = scene.segments[colour.name][:2]
    return first, second


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(nodes.kill_agent, id="kill -9"),
        pytest.param(nodes.stop_agent, id="SIGTERM"),
    ],
)
@pytest.mark.parametrize("colour", COLOURS, ids=lambda colour: f"{colour.encap}-{colour.underlay}")
def test_traffic_flows_on_while_the_agent_is_away_and_returns(
    scene: Scene, colour: Colour, end: Callable[[NodePaths], None]
) -> None:
    node = scene.topology.node("n1")
    paths = scene.paths.node("n1")
    source, sink = pair(scene, colour)
    before = flows(paths)
    with (
        probes.flow(source, sink.ip(4), interval=0.01) as outward,
        probes.flow(sink, source.ip(6), interval=0.01) as inward,
    ):
        time.sleep(0.2)
        end(paths)
        assert nodes.agent_pid(paths) is None
        time.sleep(0.5)
        assert flows(paths) == before
        took = start(scene, node)
        time.sleep(0.5)
    print(f"ready after {took:.2f} s; {outward.sent + inward.sent} packets")
    assert (outward.lost, inward.lost) == (0, 0)
    assert (outward.duplicates, inward.duplicates) == (0, 0)
    assert flows(paths) == before
    assert took < READY_S


def test_all_agents_at_once_and_then_everything_still_works(scene: Scene) -> None:
    watched = [pair(scene, colour) for colour in COLOURS]
    for node in scene.topology.agents:
        nodes.kill_agent(scene.paths.node(node.name))
    for source, sink in watched:
        for version in (4, 6):
            assert probes.ping(source, sink.ip(version), probes.Pace(count=20)).lost == 0
    lab.start_agents(scene.paths, scene.topology.agents)
    for stations in scene.segments.values():
        assert matrix.verify(stations).faults == ()


@pytest.fixture
def guest(scene: Scene) -> Iterator[Pod]:
    pod = Pod("guest", "n1", "blue")
    yield pod
    scene.runtime.delete(pod.name)


def test_what_was_attached_is_known_after_a_restart(scene: Scene, guest: Pod) -> None:
    paths = scene.paths.node(guest.node)
    station = scene.runtime.add(guest)
    nodes.kill_agent(paths)
    start(scene, scene.topology.node(guest.node))
    scene.runtime.check(guest.name)
    scene.runtime.delete(guest.name)
    again = scene.runtime.add(guest)
    assert again.mac == station.mac
    matrix.converge([again, *scene.segments["blue"]])
    assert matrix.verify([again, *scene.segments["blue"]]).faults == ()


def test_add_without_agent_fails_soon_and_del_is_kept(scene: Scene, guest: Pod) -> None:
    paths = scene.paths.node(guest.node)
    scene.runtime.add(guest)
    nodes.kill_agent(paths)
    began = time.monotonic()
    with pytest.raises(PluginError, match="cannot be asked") as refused:
        scene.runtime.add(Pod("late", guest.node, "blue"))
    assert refused.value.code == 11
    assert time.monotonic() - began < 10.0
    scene.runtime.delete(guest.name)
    start(scene, scene.topology.node(guest.node))
    wait_until_gone(paths, "guest")
    assert "guest" not in {pod.name for pod in scene.runtime.pods()}


def wait_until_gone(paths: NodePaths, container: str) -> None:
    deadline = time.monotonic() + READY_S
    while any(container in path.name for path in tombs(paths)):
        assert time.monotonic() < deadline, f"the DEL of {container} was not replayed"
        time.sleep(0.1)


def tombs(paths: NodePaths) -> list[Path]:
    return [*(paths.run / "tombstones").glob("*@*")]
