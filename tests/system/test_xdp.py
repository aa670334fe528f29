"""Native XDP on the NICs of two nodes: pods reach each other, and it outlives the agent."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import yaml

from bpf.layout import XDP_PROGRAM
from dataplane.api.agent_pb2 import GetStatusRequest
from dataplane.api.client import CALL_TIMEOUT_S, connect
from dataplane.core.xdp import VETH
from dataplane.lab import lab, nodes, probes
from dataplane.lab.scene import COLOURS, Colour, Scene
from dataplane.lab.underlay import NIC
from ovs_client.process import wait_until
from tests.functional.bpf_support import run

PAIR = ("n1", "n2")
SIZE = 16_000_000


def mode(scene: Scene, node: str) -> str:
    with connect(scene.paths.node(node).api_socket) as agent:
        status = agent.GetStatus(GetStatusRequest(), timeout=CALL_TIMEOUT_S)
    return str(status.modes["xdp"])


def in_driver(scene: Scene, node: str) -> str:
    """Return the name of the program in the driver of the node's NIC."""
    name = scene.paths.netns(node).name
    link = json.loads(run("ip", "-netns", name, "-j", "-d", "link", "show", "dev", NIC))[0]
    found = link.get("xdp", {"mode": 1, "prog": {"name": ""}})
    assert found["mode"] == 1  # native, never generic
    return str(found["prog"]["name"])


def in_drivers(scene: Scene) -> list[str]:
    return [in_driver(scene, node) for node in PAIR]


def configure(scene: Scene, xdp: str) -> None:
    for node in PAIR:
        paths = scene.paths.node(node)
        config = yaml.safe_load(paths.config.read_text(encoding="utf-8"))
        config["underlay"]["xdp"] = xdp
        nodes.stop_agent(paths)
        paths.config.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    lab.start_agents(scene.paths, [scene.topology.node(node) for node in PAIR])


@pytest.fixture(scope="module")
def forced(shared: Scene) -> Iterator[Scene]:
    configure(shared, "native")
    assert wait_until(lambda: in_drivers(shared) == [XDP_PROGRAM] * 2, 5)
    yield shared
    configure(shared, "auto")
    assert wait_until(lambda: in_drivers(shared) == [""] * 2, 5)
    assert [mode(shared, node) for node in PAIR] == [f"off: {VETH}"] * 2


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("colour", COLOURS, ids=lambda colour: f"{colour.encap}-{colour.underlay}")
def test_tcp_flows_both_ways(forced: Scene, scene: Scene, colour: Colour, version: int) -> None:
    """Its super-packets come to the NIC in segments: TSO of the NIC's peer is off."""
    assert [mode(scene, node) for node in PAIR] == ["native"] * 2
    first, second = scene.segments[colour.name][:2]
    for source, sink in ((first, second), (second, first)):
        took = probes.transfer(source, sink, version, SIZE)
        print(f"{SIZE * 8 / took / 1e9:.2f} Gbit/s")


def test_it_stays_when_the_agent_is_killed(forced: Scene, scene: Scene) -> None:
    first, second = scene.segments[COLOURS[0].name][:2]
    nodes.kill_agent(scene.paths.node("n1"))
    assert in_driver(scene, "n1") == XDP_PROGRAM
    probes.transfer(first, second, 4, SIZE)
    lab.start_agents(scene.paths, [scene.topology.node("n1")])
    assert (in_driver(scene, "n1"), mode(scene, "n1")) == (XDP_PROGRAM, "native")
