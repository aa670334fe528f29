"""ovs-vswitchd dies: host and known pods do not notice, what needs it comes back by itself."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import pytest

from dataplane.lab import matrix, nodes, probes
from dataplane.lab.probes import Station
from dataplane.lab.scene import COLOURS, Scene
from dataplane.lab.topology import LabNode
from dataplane.lab.underlay import NIC
from dataplane.netlink import addresses, links
from dataplane.netlink.netns import Netns
from ovs_client.daemons import OvsInstance
from tests.functional.namespaces import rtnl_in

BACK_S = 5.0  # five times the second after which the overlay should be back
SETTLED_S = 30.0


def machine(scene: Scene, name: str) -> Station:
    """Return a node's own network stack as something to ping from and to."""
    node: LabNode = scene.topology.node(name)
    addresses = tuple(address.ip for address in node.addresses)
    return Station(name, scene.paths.netns(name), NIC, "", addresses, scene.topology.mtu)


def seconds_until_flooded(source: Station, others: Sequence[Station], version: int) -> float:
    """Return when a broadcast arrived at all others: it is Open vSwitch that makes the copies."""
    began = time.monotonic()
    while len(probes.broadcast(source, others, version)) < len(others):
        assert time.monotonic() - began < SETTLED_S, f"{source.name} never reached all again"
    return time.monotonic() - began


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(OvsInstance.kill_switch, id="kill -9"),
        pytest.param(OvsInstance.stop_switch, id="exit"),
        pytest.param(lambda ovs: ovs.stop_switch(cleanup=True), id="exit with cleanup"),
    ],
)
def test_host_traffic_goes_on_and_the_overlay_returns(
    scene: Scene, end: Callable[[OvsInstance], None]
) -> None:
    ovs = nodes.switch(scene.paths.node("n1"))
    here, there = machine(scene, "n1"), machine(scene, "n2")
    segments = [scene.segments[colour.name] for colour in COLOURS]
    with ExitStack() as flows:
        echoes = [
            flows.enter_context(probes.flow(source, sink.ip(version), interval=0.01))
            for source, sink, version in (
                (here, there, 4),
                (there, here, 6),
                *((first, second, 4) for first, second, *_ in segments),
                *((second, first, 6) for first, second, *_ in segments),
            )
        ]
        time.sleep(0.2)
        end(ovs)
        assert not ovs.switch_running()
        first, *others = segments[0]
        assert probes.broadcast(first, others, 4) == Counter()
        ovs.start_switch()
        back = [
            seconds_until_flooded(first, others, version)
            for first, *others in segments
            for version in (4, 6)
        ]
        time.sleep(0.3)
    print(
        f"{sum(echo.sent for echo in echoes)} packets of host and pods;"
        f" broadcasts back after {max(back):.2f} s"
    )
    assert [(echo.lost, echo.duplicates) for echo in echoes] == [(0, 0)] * len(echoes)
    assert max(back) < BACK_S
    for stations in scene.segments.values():
        assert matrix.verify(stations).faults == ()


@pytest.mark.parametrize("restart", [True, False])
def test_the_bridge_with_the_nics_addresses_is_down(scene: Scene, *, restart: bool) -> None:
    """Were it up, two devices would claim the same addresses (ARP, DAD, MLD on the wire)."""
    space = scene.paths.netns("n1")
    if restart:
        nodes.switch(scene.paths.node("n1")).stop_switch(cleanup=True)
        nodes.switch(scene.paths.node("n1")).start_switch()
        first, *others = scene.segments["blue"]
        seconds_until_flooded(first, others, 4)
    with Netns(str(space)) as entered, rtnl_in(entered) as rtnl:
        bridge = links.find(rtnl, "ow-phy")
        assert bridge is not None
        assert not bridge.up
        lent = {each.ip for each in addresses.of(rtnl, bridge.ifindex)}
    assert lent == set(machine(scene, "n1").ips)
