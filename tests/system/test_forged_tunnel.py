"""Tunnel packets that somebody on the underlay makes up: only (VTEP, VNI) pairs of the fabric pass.

Of each forgery there is a twin that differs in nothing but what is forged, and that one arrives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import pytest
from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet

from dataplane.lab import matrix
from dataplane.lab.foreign import mac_of
from dataplane.lab.probes import Station
from dataplane.lab.scene import COLOURS, Colour, Scene
from dataplane.lab.underlay import NIC
from tests.system.cni_node import CniNode, segment
from tests.system.frames import deliver, inside

# A segment with pods on n1 and n3 alone.
PRIVATE = Colour("private", 26, "geneve", "ipv4")
UNKNOWN_VNI = 0xABCDEF
NOBODY = "198.51.100.1"
ALL = "ff:ff:ff:ff:ff:ff"
OTHER = {"geneve": "vxlan", "vxlan": "geneve"}


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A tunnel packet to n1: from which node's VTEP, with which encapsulation, VNI, inner frame."""

    colour: Colour
    source: str
    vni: int
    encap: str
    inner: Packet

    def packet(self, scene: Scene) -> Packet:
        vteps = [self._vtep(scene, name) for name in (self.source, "n1")]
        family = IP if self.colour.underlay == "ipv4" else IPv6
        outer = Ether(src=mac(scene, "k1"), dst=mac(scene, "n1")) / family(
            src=vteps[0], dst=vteps[1]
        )
        if self.encap == "geneve":
            return outer / UDP(sport=50000, dport=6081) / GENEVE(vni=self.vni) / self.inner
        return outer / UDP(sport=50000, dport=4789) / VXLAN(vni=self.vni, flags=8) / self.inner

    def _vtep(self, scene: Scene, node: str) -> str:
        place = ("ipv4", "ipv6").index(self.colour.underlay)
        return str(scene.topology.node(node).addresses[place].ip)


def mac(scene: Scene, node: str) -> str:
    return mac_of(scene.paths.netns(node), NIC)


FORGERIES: dict[str, Callable[[Tunnel], Tunnel]] = {
    "from a stranger": lambda true: replace(true, source="k1"),
    "from ourselves": lambda true: replace(true, source="n1"),
    "with a VNI nobody has": lambda true: replace(true, vni=UNKNOWN_VNI),
    "without VNI": lambda true: replace(true, vni=0),
    "with the VNI of a segment it has no part in": lambda true: replace(true, vni=PRIVATE.vni),
    "in the other encapsulation": lambda true: replace(true, encap=OTHER[true.encap]),
}


@pytest.fixture(scope="module")
def private(shared: Scene) -> Iterator[Station]:
    """A pod on n1 in a segment that n2 has no part in."""
    with segment(shared, PRIVATE):
        here, there = (CniNode(shared, node, PRIVATE.name) for node in ("n1", "n3"))
        with here.pods, there.pods:
            pods = [here.add("private1"), there.add("private3")]
            matrix.converge(pods)
            yield pods[0]


@pytest.fixture(scope="module", params=COLOURS, ids=lambda c: f"{c.encap} over {c.underlay}")
def colour(request: pytest.FixtureRequest) -> Colour:
    found: Colour = request.param
    return found


@pytest.fixture(scope="module")
def heard(shared: Scene, private: Station, colour: Colour) -> Mapping[str, Counter[str]]:
    """Everything k1 sends to n1, to one pod and to all: who has heard it."""
    target, there = shared.segments[colour.name][:2]
    claims = {"to a pod": target.mac, "to the private one": private.mac, "to all": ALL}
    frames = {}
    for name, address in claims.items():
        # To an address that is nobody's: no kernel answers with an error that quotes it.
        inner = Ether(src=there.mac, dst=address) / IP(src=str(there.ip(4)), dst=NOBODY) / UDP()
        true = Tunnel(colour, "n2", colour.vni, colour.encap, inner)
        for forgery, forge in {"true": lambda same: same, **FORGERIES}.items():
            frames[f"{forgery}, {name}"] = forge(true).packet(shared)
    k1 = Station("k1", shared.paths.netns("k1"), NIC, "", (), shared.topology.mtu)
    everyone = [s for stations in shared.segments.values() for s in stations]
    return deliver(k1, frames, [private, *everyone], inside)


def test_what_a_member_says_arrives(
    shared: Scene, colour: Colour, heard: Mapping[str, Counter[str]]
) -> None:
    first, *_, last = shared.segments[colour.name]  # the two that live on n1
    assert heard["true, to a pod"] == {first.name: 1}
    assert heard["true, to all"] == {first.name: 1, last.name: 1}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forgery_arrives_nowhere(heard: Mapping[str, Counter[str]], forgery: str) -> None:
    assert {name: who for name, who in heard.items() if forgery in name and who} == {}
