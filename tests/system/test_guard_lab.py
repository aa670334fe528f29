"""A pod speaks as itself only: what it sends in others' names reaches nobody, anywhere.

Every spoof is also sent on a segment without guard, where it must arrive: that it does not on the
guarded one is then the guard's doing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS
from scapy.layers.l2 import ARP, Ether

from dataplane.lab import matrix
from dataplane.lab.foreign import ip
from dataplane.lab.probes import Station
from dataplane.lab.scene import Colour, Scene
from ovs_client.daemons import run
from tests.system.cni_node import CniNode, eventually, segment
from tests.system.frames import Ears, deliver
from tests.system.spoofs import HONEST, SPOOFS, Pods, local, unused, v4, v6

GUARDED = Colour("ward", 24, "geneve", "ipv4")
OPEN = Colour("open", 25, "vxlan", "ipv6")
AGAIN_S = 10.0  # five times the two seconds after which an announcement is repeated
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


def test_the_kernel_finds_its_addresses_unique(scene: Scene, pods: dict[Colour, Pods]) -> None:
    """Nothing of ours may answer for a pod's own address: duplicate detection would fail then."""
    me, sink = pods[GUARDED].me, pods[GUARDED].sink
    own, another = v6(me), unused(me)
    with Ears([sink]) as ears:
        run(["nsenter", f"--net={me.netns}", "sysctl", "-qw", "net.ipv6.conf.eth0.accept_dad=1"])
        ip(me.netns, "address", "del", f"{own}/64", "dev", me.ifname)
        for address in (own, another):
            ip(me.netns, "address", "add", f"{address}/64", "dev", me.ifname)
        assert flags(me)[own] == {"tentative"}
        eventually(lambda: "tentative" not in flags(me)[own] | flags(me)[another])
        asked = [Ether(data)[ICMPv6ND_NS].tgt for _, data in ears.listen(0.1) if is_dad(data)]
    assert flags(me)[own] == flags(me)[another] == set()
    assert asked == [own]  # the other one is not its own to ask for
    ip(me.netns, "address", "del", f"{another}/64", "dev", me.ifname)
    matrix.converge([me, sink])


def flags(station: Station) -> dict[str, set[str]]:
    words = ["ip", "-n", station.netns.name, "-j", "-6", "address", "show", "dev", station.ifname]
    (shown,) = json.loads(run(words))
    known = ("tentative", "dadfailed")
    return {a["local"]: {word for word in known if a.get(word)} for a in shown["addr_info"]}


def is_dad(data: bytes) -> bool:
    frame = Ether(data)
    return ICMPv6ND_NS in frame and frame.payload.src == "::"


@pytest.mark.parametrize("where", ["n1", "n3"])
def test_a_new_pod_makes_itself_known(scene: Scene, pods: dict[Colour, Pods], where: str) -> None:
    """On a node where the segment is already, and on one where it is not.

    It says so twice: where the machine is busy both may be lost, as any broadcast may.
    """
    node = CniNode(scene, where, GUARDED.name)
    listeners = [pods[GUARDED].other, pods[GUARDED].sink]
    with node.pods:
        left = unheard(node, f"new-{where}", listeners) and unheard(
            node, f"next-{where}", listeners
        )
    assert not left


def unheard(node: CniNode, name: str, listeners: Sequence[Station]) -> set[tuple[str, str]]:
    """Add a pod; return who has not heard in time of which of its addresses."""
    with Ears(listeners) as ears:
        new = node.add(name)
        left = {(each.name, said) for each in listeners for said in (v4(new), v6(new), local(new))}
        for who, data in ears.listen(AGAIN_S):
            left -= {(who, said) for said in announced(data, new.mac)}
            if not left:
                break
    return left


def announced(data: bytes, mac: str) -> set[str]:
    """Return the address that a frame announces to be at ``mac``, if it does."""
    frame = Ether(data)
    if frame.src == mac and ARP in frame and frame.pdst == frame.psrc and frame.hwsrc == mac:
        return {frame.psrc}
    if frame.src == mac and ICMPv6ND_NA in frame and frame.lladdr == mac:
        return {frame.tgt}
    return set()
