"""What is kept of a failed lab says everything that one would ask it."""

from pathlib import Path

import pytest

from dataplane.lab import nodes, sysdump
from dataplane.lab.scene import COLOURS, Scene
from ovs_client.daemons import OvsInstance


@pytest.fixture(scope="module")
def dumped(shared: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sysdump.collect(shared.paths, shared.topology, tmp_path_factory.mktemp("dump"))


@pytest.mark.parametrize(
    ("file", "words"),
    [
        pytest.param("n1/log/agent.log", ["agent.started"], id="agent's log"),
        pytest.param("n1/log/ovs-vswitchd.log", ["ow-int"], id="switch's log"),
        pytest.param("n1/agent.yaml", ["node: n1", "rundir:"], id="configuration"),
        pytest.param("n1/ovs-show.txt", ["Bridge ow-int", "ow-geneve"], id="OVS database"),
        pytest.param("n1/ovs-interfaces.txt", ["ofport", "ow-vxlan"], id="interfaces"),
        pytest.param(
            "n1/ovs-vswitchd.txt", ["n_packets=", "User: 192.0.2.2/32"], id="flows, routes"
        ),
        pytest.param("n1/tc.txt", ["direct-action"], id="filters"),
        pytest.param("n1/maps/glue.txt", [" -> "], id="map that glues"),
        pytest.param("n1/maps/own.txt", [" -> "], id="map of own sockets"),
        pytest.param("n1/maps/entries.txt", [" -> "], id="map of forwarding entries"),
        pytest.param("fabric.txt", [*(c.name for c in COLOURS), "Endpoint table"], id="fabric"),
        pytest.param("fabric.log", ["ovsdb-server"], id="fabric's log"),
        pytest.param("namespaces/n1.txt", ["ophy0", "192.0.2.1/24"], id="a node's links"),
        pytest.param("namespaces/blue1.txt", ["eth0", "10.1."], id="a pod's links"),
    ],
)
def test_it_holds(dumped: Path, file: str, words: list[str]) -> None:
    text = (dumped / file).read_text(encoding="utf-8")
    assert [word for word in words if word not in text] == []


def test_a_dead_switch_is_said_and_stops_nothing(scene: Scene, tmp_path: Path) -> None:
    switch: OvsInstance = nodes.switch(scene.paths.node("n2"))
    switch.kill_switch()
    try:
        sysdump.collect(scene.paths, scene.topology, tmp_path)
    finally:
        switch.start_switch()
    assert "does not run" in (tmp_path / "n2" / "ovs-vswitchd.txt").read_text(encoding="utf-8")
    assert "Bridge ow-int" in (tmp_path / "n2" / "ovs-show.txt").read_text(encoding="utf-8")
