"""overweave-cni among other plugins, on real agents: IPAM plugins, chains, a meta plugin."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from dataplane.cni.install import install_plugin
from dataplane.core.model import Endpoint
from dataplane.lab import matrix
from dataplane.lab.probes import Station
from dataplane.lab.runtime import SHIM
from dataplane.lab.scene import Colour, Scene
from ovs_client.daemons import run
from tests.functional.cni_world import Outcome
from tests.system.cni_node import NETWORK, CniNode, cni_node, rows, segment, station

AMBER = Colour("amber", 21, "geneve", "ipv4")
DEBIAN = Path("/usr/lib/cni")
META = Path(__file__).with_name("meta_plugin.py")


@pytest.fixture(scope="module", autouse=True)
def amber(shared: Scene) -> Iterator[None]:
    with segment(shared, AMBER):
        yield


@pytest.fixture
def here(scene: Scene) -> Iterator[CniNode]:
    with cni_node(scene, "n1", AMBER.name) as node:
        yield node


@pytest.fixture
def there(scene: Scene) -> Iterator[CniNode]:
    with cni_node(scene, "n2", AMBER.name) as node:
        yield node


@pytest.mark.parametrize("version", ["0.4.0", "1.0.0"])
def test_addresses_of_host_local(
    here: CniNode, there: CniNode, version: str, tmp_path: Path
) -> None:
    subnets = ([{"subnet": "10.21.0.0/20"}], [{"subnet": "fd00:21::/64"}])
    ipam = {"type": "host-local", "dataDir": str(tmp_path), "ranges": subnets}
    given = {"cniVersion": version, "ipam": ipam}
    delegated = [here.add("h1", **given), there.add("h2", **given)]
    stations = [*delegated, here.add("own1")]  # beside one with an address of the node's Block
    assert leases(tmp_path) == {str(ip) for each in delegated for ip in each.ips}
    assert len({ip for each in stations for ip in each.ips}) == 6
    matrix.converge(stations)
    for node, pod in ((here, "h1"), (there, "h2")):
        for _ in range(2):
            assert node.run("DEL", pod, node.config(**given)).status == 0
    assert leases(tmp_path) == set()


def leases(directory: Path) -> set[str]:
    """Return the addresses that host-local holds; its other files begin with an ``l``."""
    return {path.name for path in (directory / NETWORK).iterdir() if path.name[0] != "l"}


MARTIANS = "net.ipv4.conf.eth0.log_martians"
CHAIN: tuple[tuple[Path, dict[str, object]], ...] = (
    (DEBIAN / "loopback", {"type": "loopback"}),
    (SHIM, {}),
    (DEBIAN / "tuning", {"type": "tuning", "sysctl": {MARTIANS: "1"}}),
)


def test_in_the_middle_of_a_chain(here: CniNode, there: CniNode) -> None:
    here.pod("chained")
    result: Mapping[str, Any] | None = None
    for link in CHAIN:
        result = passed(here, "ADD", link, result).document
    assert result is not None
    assert [each["name"] for each in result["interfaces"]][::2] == ["lo", "eth0"]
    chained = station("chained", result)
    assert inside(chained, "sysctl", "-n", MARTIANS) == "1\n"
    matrix.converge([chained, there.add("peer")])
    for link in CHAIN:
        passed(here, "CHECK", link, result)
    for link in reversed(CHAIN):
        passed(here, "DEL", link, result)


def passed(
    node: CniNode,
    verb: str,
    link: tuple[Path, dict[str, object]],
    previous: Mapping[str, Any] | None,
) -> Outcome:
    plugin, keys = link
    config = node.config(cniVersion="1.0.0", prevResult=previous, **keys)
    outcome = node.run(verb, "chained", config, plugin)
    assert outcome.status == 0, f"{plugin}: {outcome.stdout}"
    return outcome


def inside(pod: Station, *words: str) -> str:
    return run(["nsenter", f"--net={pod.netns}", *words])


def test_as_a_delegate_of_a_meta_plugin(here: CniNode, there: CniNode, tmp_path: Path) -> None:
    install_plugin(tmp_path)
    delegates = [here.config(segment=name, cniVersion=None) for name in (AMBER.name, "lime")]
    keys = {"type": "meta", "cacheDir": str(tmp_path), "delegates": delegates}
    meta = {"cniVersion": "1.0.0", "name": "multi", **keys}
    pod = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=7"
    environment = {"CNI_PATH": str(tmp_path), "CNI_ARGS": pod}
    here.pod("multi")
    here.pods.callback(here.run, "DEL", "multi", meta, META, **environment)
    added = here.run("ADD", "multi", meta, META, **environment)
    assert added.status == 0, added.stdout
    wanted = {(AMBER.name, "shop/web-0/eth0"), ("lime", "shop/web-0/net1")}
    assert {(row.segment, row.identity) for row in published(here)} == wanted
    matrix.converge([station("multi", added.document), there.add("peer")])
    second = json.loads((tmp_path / "multi-net1").read_bytes())
    matrix.converge([station("multi", second, "net1"), there.scene.segments["lime"][2]])
    assert here.run("CHECK", "multi", meta, META, **environment).status == 0
    assert here.run("DEL", "multi", meta, META, **environment).status == 0
    assert published(here) == []


def published(node: CniNode) -> list[Endpoint]:
    every = [row for row in rows(node.scene) if isinstance(row, Endpoint)]
    return [row for row in every if row.container_id == "multi"]
