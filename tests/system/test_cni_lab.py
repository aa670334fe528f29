"""overweave-cni against real agents: nothing stays behind a DEL, whatever it comes after."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dataplane.lab import lab, matrix, nodes
from dataplane.lab.probes import Station
from dataplane.lab.scene import Colour, Scene
from dataplane.netlink import netns
from ovs_client.daemons import run
from tests.system.cni_node import (
    CniNode,
    cni_node,
    error_of,
    eventually,
    segment,
    station,
)

AMBER = Colour("amber", 21, "geneve", "ipv4")
AWAY_S = 10.0  # five times the two seconds after which an ADD without agent fails
MANY = 30


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


@pytest.mark.parametrize("name", ["present", "gone", "not named"])
def test_del_whatever_became_of_the_namespace(here: CniNode, name: str) -> None:
    before = here.traces()
    added = here.add("c1")
    if name == "gone":
        netns.delete(added.netns.name)
    for _ in range(3):
        here.delete("c1", None if name == "not named" else str(added.netns))
        assert here.traces() == before
    here.pod("c1")
    assert here.add("c1").ips == added.ips  # free again: the Block's lowest address


def test_the_namespace_of_a_process(here: CniNode, there: CniNode) -> None:
    holder = subprocess.Popen(["unshare", "--net", "sleep", "60"])
    space = f"/proc/{holder.pid}/ns/net"
    try:
        eventually(lambda: Path(space).readlink() != Path("/proc/self/ns/net").readlink())
        added = here.run("ADD", "c1", CNI_NETNS=space)
        assert added.status == 0, added.stdout
        matrix.converge([station("c1", added.document), there.add("c2")])
    finally:
        holder.kill()
        holder.wait()
    here.delete("c1", space)


def test_a_del_without_agent_is_made_up_for(here: CniNode, there: CniNode) -> None:
    before, agent = here.traces(), here.scene.topology.node(here.name)
    peer, added = there.add("peer"), here.add("c1")
    nodes.kill_agent(here.paths)
    here.pod("c2")
    refused = here.run("ADD", "c2")
    error_of(refused, 11, str(here.paths.cni_socket))
    print(f"ADD without agent: refused after {refused.seconds:.2f} s")
    assert refused.seconds < AWAY_S
    error_of(here.run("STATUS", "c2"), 50, str(here.paths.cni_socket))
    for _ in range(2):
        here.delete("c1")
    assert here.traces() > before  # nobody was there to do it
    lab.start_agents(here.scene.paths, [agent])
    took = eventually(lambda: here.traces() == before, AWAY_S)
    print(f"made up for {took:.2f} s after the agent was ready")
    assert list((here.paths.run / "tombstones").iterdir()) == []
    again = here.add("c2")
    assert again.ips == added.ips
    matrix.converge([again, peer])


def test_gc_takes_what_the_list_does_not_name(here: CniNode) -> None:
    others = set(here.endpoints())
    kept = [here.add("c1"), here.add("c2")]
    for pod in ("c3", "c4"):
        here.add(pod)
    here.run("ADD", "c1", CNI_IFNAME="net1")
    valid = [{"containerID": pod, "ifname": "eth0"} for pod in ("c1", "c2", "unheard-of")]
    outcome = here.run("GC", "c1", here.config(**{"cni.dev/valid-attachments": valid}))
    assert (outcome.status, outcome.stdout) == (0, "")
    eventually(lambda: set(here.endpoints()) == others | {"c1", "c2"})
    matrix.converge(kept)
    assert "net1" not in run(["nsenter", f"--net={kept[0].netns}", "ip", "link"])


def test_thirty_at_once_leave_nothing(here: CniNode, there: CniNode) -> None:
    before = here.traces()
    peer = there.add("peer")
    pods = [here.pod(f"m{number}") and f"m{number}" for number in range(MANY)]
    with ThreadPoolExecutor(MANY) as pool:
        began = time.monotonic()
        added = list(pool.map(lambda pod: (pod, here.run("ADD", pod)), pods))
        took = time.monotonic() - began
        assert [outcome.stdout for _, outcome in added if outcome.status] == []
        stations: list[Station] = [station(pod, outcome.document) for pod, outcome in added]
        assert len({address for each in stations for address in each.ips}) == 2 * MANY
        assert set(pods) <= set(here.endpoints())
        for each in (stations[0], stations[-1]):
            matrix.converge([each, peer])
        began = time.monotonic()
        list(pool.map(here.delete, pods))
    print(f"{MANY} ADDs {took:.2f} s, DELs {time.monotonic() - began:.2f} s")
    eventually(lambda: here.traces() == before)
