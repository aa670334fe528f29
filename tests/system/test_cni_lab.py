"""overweave-cni against real agents, as runtimes, IPAM plugins, chains and meta plugins use it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dataplane.core.model import Endpoint
from dataplane.fabric.store import FabricStore
from dataplane.lab import lab, matrix, nodes, probes
from dataplane.lab.foreign import ip
from dataplane.lab.probes import Pace
from dataplane.lab.scene import Colour, Scene
from dataplane.netlink import netns
from ovs_client.ofctl import OpenFlowBridge
from tests.system.cni_node import CniNode, error_of, eventually, links_of, segment

AMBER = Colour("amber", 21, "geneve", "ipv4")
AWAY_S = 10.0  # five times the two seconds after which an ADD without agent fails
TRIES = 3
MANY = 30
META = Path(__file__).with_name("meta_plugin.py")
DEBIAN = Path("/usr/lib/cni")


@pytest.fixture(scope="module")
def amber(shared: Scene) -> Iterator[Colour]:
    with segment(shared, AMBER) as made:
        yield made


@pytest.fixture
def here(scene: Scene, amber: Colour) -> Iterator[CniNode]:
    node = CniNode(scene, "n1", amber.name)
    with node.leaves_no_trace(), node.pods:
        yield node


@pytest.fixture
def there(scene: Scene, amber: Colour) -> Iterator[CniNode]:
    node = CniNode(scene, "n2", amber.name)
    with node.leaves_no_trace(), node.pods:
        yield node


# --- with other plugins ------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.4.0", "1.0.0"])
def test_addresses_of_host_local(
    here: CniNode, there: CniNode, version: str, tmp_path: Path
) -> None:
    subnets = ([{"subnet": "10.21.0.0/20"}], [{"subnet": "fd00:21::/64"}])
    ipam = {"type": "host-local", "dataDir": str(tmp_path), "ranges": subnets}
    given = {"cniVersion": version, "ipam": ipam}
    stations = [here.add("h1", **given), there.add("h2", **given), here.add("own1")]
    leases = tmp_path / "runtime-tests"
    held = {path.name for path in leases.iterdir() if path.name[0] in "1f"}
    assert held == {str(ip) for station in stations[:2] for ip in station.ips}
    assert len({ip for station in stations for ip in station.ips}) == 6
    matrix.converge(stations)
    result = json.loads(next(leases.parent.glob("result"), tmp_path).read_text()) if False else None
    del result
    for node, pod in ((here, "h1"), (there, "h2")):
        for _ in range(2):
            assert node.run("DEL", pod, node.config(**given)).status == 0
    assert [path.name for path in leases.iterdir() if path.name[0] in "1f"] == []
