"""A pod speaks as itself only: what it sends in others' names reaches nobody, anywhere.

Every spoof is also sent on a segment without guard, where it must arrive: that it does not on the
guarded one is then the guard's doing.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from ipaddress import ip_address

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from dataplane.lab import matrix
from dataplane.lab.foreign import ip
from dataplane.lab.scene import Colour, Scene
from ovs_client.daemons import run
from tests.system.cni_node import CniNode, eventually, segment
from tests.system.frames import Ears, deliver
from tests.system.spoofs import HONEST, SPOOFS, Pods, v4, v6

GUARDED = Colour("ward", 24, "geneve", "ipv4")
OPEN = Colour("open", 25, "vxlan", "ipv6")
Heard = Mapping[str, Counter[str]]


@pytest.fixture(scope="module")
def pods(shared: Scene) -> Iterator[dict[Colour, Pods]]:
    with ExitStack() as stack:
        stack.enter_context(segment(shared, GUARDED))
        stack.enter_context(segment(shared, OPEN, "guard: off\n"))
        yield {colour: attach(shared, colour, stack) for colour in (GUARDED, OPEN)}


def attach(scene: Scene, colour: Colour, stack: ExitStack) -> Pods:
    here, there = (CniNode(scene, node, colour.name) for node in ("n1", "n2"))
    stack.enter_context(here.pods)
    stack.enter_context(there.pods)
    me, other, sink = (node.add(f"{colour.name}{n}") for n, node in enumerate((here, here, there)))
    matrix.converge([me, other, sink])
    return Pods(me, other, sink)


@pytest.fixture(scope="module")
def heard(pods: dict[Colour, Pods]) -> dict[Colour, Heard]:
    """All frames at once, on both segments: each is told by its name."""
    return {
        colour: deliver(
            there.me,
            {name: make(there) for name, make in {**SPOOFS, **HONEST}.items()},
            [there.other, there.sink],
        )
        for colour, there in pods.items()
    }


@pytest.mark.parametrize("name", SPOOFS)
def test_a_spoof_reaches_nobody(
    pods: dict[Colour, Pods], heard: dict[Colour, Heard], name: str
) -> None:
    assert heard[OPEN][name][pods[OPEN].sink.name] == 1
    assert heard[GUARDED][name] == {}


@pytest.mark.parametrize("name", HONEST)
def test_what_a_pod_says_of_itself_arrives(
    pods: dict[Colour, Pods], heard: dict[Colour, Heard], name: str
) -> None:
    for colour in (GUARDED, OPEN):
        assert heard[colour][name][pods[colour].sink.name] == 1
