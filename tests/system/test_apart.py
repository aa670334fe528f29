"""A host and its DPU in clusters that share nothing but the channel between the two."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import yaml

from dataplane.lab import dpus, lab, matrix, nodes
from dataplane.lab.layout import LabPaths
from dataplane.lab.runtime import PluginError, Pod, Runtime
from dataplane.lab.scene import COLOURS, INTENT, silent
from dataplane.lab.topology import Topology, read_topology

TOPOLOGY = """
nodes:
- {name: h1}
- {name: d1, dpu: {vendor: marvell, host: h1, vfs: 1, apart: true}}
- {name: n2}
"""


@pytest.fixture(scope="module")
def apart() -> Iterator[tuple[LabPaths, Topology]]:
    paths, topology = LabPaths(f"t{os.getpid()}p"), read_topology(TOPOLOGY, "tests")
    try:
        lab.up(paths, topology, silent)
        lab.apply(paths, INTENT)
        yield paths, topology
    finally:
        lab.down(paths, silent)


def test_a_vf_pod_among_others(apart: tuple[LabPaths, Topology]) -> None:
    paths, topology = apart
    blue, runtime = COLOURS[0].name, Runtime(paths)
    device = dpus.device_id(topology, topology.node("d1"), 0)
    config = yaml.safe_load(paths.node("h1").config.read_text())
    assert config["fabric"] == "none"
    assert str(paths.node("d1").directory) not in str(config)
    with pytest.raises(PluginError, match="this node is in no fabric"):
        runtime.add(Pod("veth", "h1", blue))
    stations = [
        runtime.add(Pod("vf", "h1", blue, device=device)),
        runtime.add(Pod("dpu", "d1", blue)),
        runtime.add(Pod("far", "n2", blue)),
    ]
    matrix.converge(stations)
    assert nodes.obstacle(paths.node("h1")) == ""
    assert "ssl:192.0.2.2:50052 with h1" in nodes.modes(paths.node("d1"))["attachment"]
    runtime.delete("vf")
    assert "vf" not in lab.overweave(paths, "get", "endpoint")
