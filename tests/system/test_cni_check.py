"""overweave-cni against real agents: CHECK and STATUS tell what is the case."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from dataplane.core.model import FIRST_SLOT_OFPORT
from dataplane.fabric.store import FabricStore
from dataplane.lab import lab, matrix, nodes
from dataplane.lab.foreign import ip
from dataplane.lab.scene import Colour, Scene
from ovs_client.daemons import run
from tests.system.cni_node import (
    CniNode,
    cni_node,
    error_of,
    eventually,
    links_of,
    segment,
)

AMBER = Colour("amber", 21, "geneve", "ipv4")
REPAIRS = 3  # an agent looks for damage twice a minute: it may come between ours and a CHECK


@pytest.fixture(scope="module", autouse=True)
def amber(shared: Scene) -> Iterator[None]:
    with segment(shared, AMBER):
        yield


@pytest.fixture
def here(scene: Scene) -> Iterator[CniNode]:
    with cni_node(scene, "n1", AMBER.name) as node:
        yield node


@pytest.mark.parametrize(
    ("damages", "faults"),
    [
        pytest.param(["link set eth0 down"], ["eth0 is down"], id="link down"),
        pytest.param(["link del eth0"], ["interface eth0 does not exist"], id="no link"),
        pytest.param(
            ["link set eth0 mtu 1400", *(f"address del {{ips[{n}]}} dev eth0" for n in (0, 1))],
            ["eth0 has MTU 1400, not 1450", *(f"lacks address {{ips[{n}]}}" for n in (0, 1))],
            id="MTU and addresses",
        ),
    ],
)
def test_check_looks_into_the_pod(here: CniNode, damages: list[str], faults: list[str]) -> None:
    here.pod("c1")
    result = here.run("ADD", "c1").document
    ips = [each["address"] for each in result["ips"]]
    given = here.config(prevResult=result)
    assert here.run("CHECK", "c1", given).status == 0
    for damage in damages:
        ip(here.scene.paths.netns("c1"), *damage.format(ips=ips).split())
    details = error_of(here.run("CHECK", "c1", given), 103, "c1")["details"]
    assert [fault for fault in faults if fault.format(ips=ips) not in details] == []


def take_flows(node: CniNode) -> None:
    port = FIRST_SLOT_OFPORT + slot(node)
    bridge = f"unix:{node.paths.ovs}/ow-int.mgmt"
    run(["ovs-ofctl", "-O", "OpenFlow14", "del-flows", bridge, f"in_port={port}"])


def take_port(node: CniNode) -> None:
    run(["ovs-vsctl", f"--db=unix:{node.paths.ovs}/db.sock", "del-port", f"ot{slot(node)}"])


def slot(node: CniNode) -> int:
    """Return the number of the netdevs of c1."""
    netdevs = links_of(node.paths.netns).values()
    (mine,) = (netdev.name for netdev in netdevs if netdev.alias == "overweave:c1/eth0")
    return int(mine.removeprefix("vp"))


def take_row(node: CniNode) -> None:
    with FabricStore(lab.fabric_server(node.scene.paths).remote) as store:
        store.write(deletes=[row for pod, row in node.endpoints().items() if pod == "c1"])


@pytest.mark.parametrize(
    ("take", "words"),
    [
        pytest.param(take_flows, "ovs-flows: ", id="flows"),
        pytest.param(take_port, "ovs-ports: ", id="port"),
        pytest.param(take_row, "fabric: endpoint c1/eth0 is missing", id="row"),
    ],
)
def test_check_looks_at_the_real_thing(
    here: CniNode, take: Callable[[CniNode], None], words: str
) -> None:
    here.pod("c1")
    given = here.config(prevResult=here.run("ADD", "c1").document)
    assert here.run("CHECK", "c1", given).status == 0
    for _ in range(REPAIRS):
        take(here)
        if (outcome := here.run("CHECK", "c1", given)).status:
            error_of(outcome, 103, words)
            return
    pytest.fail("CHECK finds nothing")


def test_status_is_51_while_open_vswitch_is_away(scene: Scene) -> None:
    node = CniNode(scene, "n4", AMBER.name)
    switch = nodes.switch(node.paths)
    assert node.run("STATUS", "none").status == 0
    switch.kill_switch()
    try:
        told = eventually(lambda: node.run("STATUS", "none").status == 1)
        error_of(node.run("STATUS", "none"), 51, "ovs-vswitchd")
    finally:
        switch.start_switch()
    back = eventually(lambda: node.run("STATUS", "none").status == 0)
    print(f"told after {told:.2f} s, well again after {back:.2f} s")
    matrix.converge(scene.segments["blue"])
