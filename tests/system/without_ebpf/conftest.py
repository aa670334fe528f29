"""A lab like that of the other system tests, where n1 cannot load eBPF and shares its UDP ports."""

import os
from collections.abc import Iterator

import pytest
import yaml

from dataplane.lab import lab, matrix, nodes
from dataplane.lab.layout import LabPaths
from dataplane.lab.runtime import Runtime
from dataplane.lab.scene import INTENT, Scene, silent
from dataplane.lab.topology import read_topology

TOPOLOGY = "nodes: [{name: n1, ebpf: false}, {name: n2}, {name: n3}, {name: k1, kind: bare}]\n"


@pytest.fixture(scope="session")
def shared() -> Iterator[Scene]:
    paths = LabPaths(f"t{os.getpid()}s")
    made = Scene(paths, read_topology(TOPOLOGY, "tests"), Runtime(paths))
    try:
        made.up()
        share_ports(made, "n1")
        lab.apply(paths, INTENT)
        made.attach()
        for stations in made.segments.values():
            matrix.converge(stations)
        yield made
    finally:
        lab.down(paths, silent)


def share_ports(scene: Scene, node: str) -> None:
    """Let ``node`` leave strangers' tunnel packets to its host, as it does outside of labs."""
    paths = scene.paths.node(node)
    config = yaml.safe_load(paths.config.read_text(encoding="utf-8"))
    config["underlay"]["exclusive_ports"] = False
    paths.config.write_text(yaml.safe_dump(config), encoding="utf-8")
    nodes.stop_agent(paths)
    lab.start_agents(scene.paths, scene.topology.agents)
