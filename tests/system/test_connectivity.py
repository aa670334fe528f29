"""Every pod reaches every other of its segment and no other, whatever lies between them."""

import pytest

from dataplane.lab import matrix, probes
from dataplane.lab.probes import Pace, ProbeError
from dataplane.lab.scene import COLOURS, Colour, Scene
from dataplane.netlink import links
from dataplane.netlink.netns import Netns
from tests.coverage_grid import FAMILIES, Proven
from tests.functional.namespaces import rtnl_in

SEGMENTS = pytest.mark.parametrize(
    "colour",
    [pytest.param(colour, id=f"{colour.encap} over {colour.underlay}") for colour in COLOURS],
)
INNER = pytest.mark.parametrize(
    "version", [pytest.param(4, id="inner4"), pytest.param(6, id="inner6")]
)
# RFC 8926, RFC 7348: outer IP 20 or 40, UDP 8, tunnel 8, inner Ethernet 14, from 1500.
POD_MTU = {"ipv4": 1450, "ipv6": 1430}


@SEGMENTS
def test_every_pair_by_ping_full_mtu_tcp_and_broadcast(
    scene: Scene, colour: Colour, proven: Proven
) -> None:
    verdict = matrix.verify(scene.segments[colour.name])
    print(f"{colour.name}: typical round trip {verdict.round_trip * 1000:.2f} ms")
    assert verdict.faults == ()
    assert (verdict.pairs, verdict.reachable, verdict.lost) == (20, 20, 0)
    for inner in FAMILIES:
        proven(colour.encap, colour.underlay, inner)


def test_no_frame_leaves_its_segment(scene: Scene) -> None:
    assert matrix.leaks(scene.segments) == ()


@SEGMENTS
@INNER
def test_mtu_is_the_underlays_less_the_overhead(scene: Scene, colour: Colour, version: int) -> None:
    first, second = scene.segments[colour.name][:2]
    with Netns(str(first.netns)) as pod, rtnl_in(pod) as rtnl:
        eth0 = links.find(rtnl, "eth0")
    assert eth0 is not None
    assert eth0.mtu == first.mtu == POD_MTU[colour.underlay]
    with pytest.raises(ProbeError, match="Message too long"):
        probes.ping(first, second.ip(version), Pace(size=first.mtu + 1))


@SEGMENTS
@INNER
def test_a_long_flow_loses_and_doubles_nothing(
    scene: Scene, colour: Colour, version: int, proven: Proven
) -> None:
    first, second = scene.segments[colour.name][:2]
    echo = probes.ping(first, second.ip(version), Pace(count=300, interval=0.005))
    assert (echo.sent, echo.lost, echo.duplicates) == (300, 0, 0)
    proven(colour.encap, colour.underlay, f"ipv{version}")


@SEGMENTS
@INNER
def test_bulk_tcp_arrives_whole(scene: Scene, colour: Colour, version: int, proven: Proven) -> None:
    first, second = scene.segments[colour.name][:2]
    size = 8 << 20
    took = probes.transfer(first, second, version, size)
    print(f"{colour.name}: {size * 8 / took / 1e6:.0f} Mbit/s")
    proven(colour.encap, colour.underlay, f"ipv{version}")


def test_unknown_unicast_reaches_nobody(scene: Scene) -> None:
    source, *others = scene.segments["blue"]
    heard = probes.stray(source, "02:99:99:99:99:99", others)
    assert heard == {}
