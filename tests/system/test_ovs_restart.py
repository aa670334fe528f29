"""ovs-vswitchd dies: the host's own traffic does not notice, the overlay comes back by itself."""

import time
from collections.abc import Callable

import pytest

from dataplane.lab import matrix, nodes, probes
from dataplane.lab.probes import Pace, Station
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


def seconds_until_answered(source: Station, sink: Station, version: int) -> float:
    began = time.monotonic()
    while probes.ping(source, sink.ip(version), Pace(patience=0.05)).lost:
        assert time.monotonic() - began < SETTLED_S, (
            f"{source.name} never reached {sink.name} again"
        )
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
    pairs = [scene.segments[colour.name][:2] for colour in COLOURS]
    with (
        probes.flow(here, there.ip(4), interval=0.01) as outward,
        probes.flow(there, here.ip(6), interval=0.01) as inward,
    ):
        time.sleep(0.2)
        end(ovs)
        assert not ovs.switch_running()
        source, sink = pairs[0]
        assert probes.ping(source, sink.ip(4), Pace(patience=0.3)).lost == 1
        ovs.start_switch()
        back = {
            (source.name, version): seconds_until_answered(source, sink, version)
            for source, sink in pairs
            for version in (4, 6)
        }
        time.sleep(0.3)
    print(
        f"host: {outward.sent + inward.sent} packets; overlay back after {max(back.values()):.2f} s"
    )
    assert (outward.lost, inward.lost) == (0, 0)
    assert (outward.duplicates, inward.duplicates) == (0, 0)
    assert max(back.values()) < BACK_S
    for stations in scene.segments.values():
        assert matrix.verify(stations).faults == ()


@pytest.mark.parametrize("restart", [True, False])
def test_the_bridge_with_the_nics_addresses_is_down(scene: Scene, *, restart: bool) -> None:
    """Were it up, two devices would claim the same addresses (ARP, DAD, MLD on the wire)."""
    space = scene.paths.netns("n1")
    if restart:
        nodes.switch(scene.paths.node("n1")).stop_switch(cleanup=True)
        nodes.switch(scene.paths.node("n1")).start_switch()
        source, sink = scene.segments["blue"][:2]
        seconds_until_answered(source, sink, 4)
    with Netns(str(space)) as entered, rtnl_in(entered) as rtnl:
        bridge = links.find(rtnl, "ow-phy")
        assert bridge is not None
        assert not bridge.up
        lent = {each.ip for each in addresses.of(rtnl, bridge.ifindex)}
    assert lent == set(machine(scene, "n1").ips)
