"""Two real switches, each with the flows of its own node, and a wire between their NICs."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from dataplane.core.diff import Change, diff
from dataplane.core.model import Segment
from overlay_ovs.target import FlowsTarget
from tests.functional.overlay_switch import FIRST_NODE, Switch, Underlay, running_switch
from tests.unit.overlay_builders import (
    GENEVE4,
    GENEVE6,
    MTU,
    VTEP4,
    VTEP6,
    VXLAN4,
    VXLAN6,
    bindings,
    desired,
    ips_of,
    mac_of,
    port,
    remote,
    view,
)

SECOND_NODE = Underlay("02:00:00:00:aa:02", VTEP4[0], VTEP6[0])
SEGMENTS = (GENEVE4, GENEVE6, VXLAN4, VXLAN6)
# On segment number n, pods 2n+1 and 2n+2 are on the first node, 2n+11 and 2n+12 on the second.
CASES = [pytest.param(n, segment, id=segment.name) for n, segment in enumerate(SEGMENTS)]


def pods(n: int, first: int) -> tuple[int, int]:
    return (2 * n + first, 2 * n + first + 1)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Switch, Switch]]:
    with (
        running_switch(tmp_path_factory.mktemp("first"), range(1, 9), underlay=FIRST_NODE) as first,
        running_switch(
            tmp_path_factory.mktemp("second"), range(11, 19), underlay=SECOND_NODE
        ) as second,
    ):
        program(first, here=1, there=11, other=SECOND_NODE)
        program(second, here=11, there=1, other=FIRST_NODE)
        yield first, second


def program(switch: Switch, here: int, there: int, other: Underlay) -> None:
    views = []
    for n, segment in enumerate(SEGMENTS):
        vtep = other.address4 if segment.underlay.value == "ipv4" else other.address6
        ports = [port(slot, segment) for slot in pods(n, here)]
        views.append(view(segment, ports, [remote(slot, segment, vtep) for slot in pods(n, there)]))
    target = FlowsTarget(switch.rundir)
    numbers = bindings(*views)
    target.apply(diff(target.render(desired(*views), numbers), target.observe()))
    switch.route(other.address4)
    switch.route(other.address6)


def relay(frames: list[bytes], receiver: Switch) -> dict[str, list[bytes]]:
    """Do what ophy0's program and the kernel do: write the next hop's MAC, send."""
    answer: dict[str, list[bytes]] = {}
    for frame in frames:
        arrived = bytes.fromhex(receiver.underlay.mac.replace(":", "")) + frame[6:]
        for device, found in receiver.ask("ophy0", arrived).items():
            answer.setdefault(device, []).extend(found)
    return answer


def datagram(sender: int, target: int, family: int, size: int) -> Packet:
    """Return a datagram of ``size`` bytes of IP from pod to pod."""
    source, destination = str(ips_of(sender)[family]), str(ips_of(target)[family])
    network = (IP, IPv6)[family](src=source, dst=destination)
    header = len(network) + len(UDP())
    frame = Ether(src=mac_of(sender), dst=mac_of(target)) / network / UDP(sport=1, dport=2)
    return frame / Raw(b"x" * (size - header))


@pytest.mark.parametrize(("n", "segment"), CASES)
@pytest.mark.parametrize("family", [pytest.param(0, id="IPv4"), pytest.param(1, id="IPv6")])
@pytest.mark.parametrize("size", [pytest.param(100, id="small"), pytest.param(MTU, id="full")])
def test_there_and_back(
    nodes: tuple[Switch, Switch], n: int, segment: Segment, family: int, size: int
) -> None:
    first, second = nodes
    here, there = pods(n, 1)[0], pods(n, 11)[1]
    for sender, receiver, source, target in (
        (first, second, here, there),
        (second, first, there, here),
    ):
        frame = bytes(datagram(source, target, family, size))
        answer = sender.ask(f"ot{source}", frame)
        assert list(answer) == ["ophy0"]
        assert relay(answer["ophy0"], receiver) == {f"ot{target}": [frame]}


@pytest.mark.parametrize(("n", "segment"), CASES)
def test_a_broadcast_reaches_each_pod_of_its_segment_once(
    nodes: tuple[Switch, Switch], n: int, segment: Segment
) -> None:
    first, second = nodes
    sender, neighbour = pods(n, 1)
    network = IP(src=str(ips_of(sender)[0]), dst="255.255.255.255")
    frame = bytes(Ether(src=mac_of(sender), dst="ff:ff:ff:ff:ff:ff") / network / UDP())
    answer = first.ask(f"ot{sender}", frame)
    sent = answer.pop("ophy0")
    assert answer == {f"ot{neighbour}": [frame]}
    assert relay(sent, second) == {f"ot{slot}": [frame] for slot in pods(n, 11)}


def test_the_second_node_takes_nothing_from_a_third(nodes: tuple[Switch, Switch]) -> None:
    first, second = nodes
    frame = datagram(1, 11, 0, 100)
    (sent,) = first.ask("ot1", bytes(frame))["ophy0"]
    forged = Ether(sent)
    forged[IP].src = str(VTEP4[1])
    del forged[IP].chksum
    assert relay([sent], second) == {"ot11": [bytes(frame)]}
    assert relay([bytes(forged)], second) == {}


def test_a_moved_pod_is_reached_where_it_is(nodes: tuple[Switch, Switch]) -> None:
    """The flows of a pod that is here take the place of those that say it is elsewhere."""
    first, _ = nodes
    views = [view(GENEVE4, [port(1, GENEVE4), port(11, GENEVE4)], [remote(12, GENEVE4, VTEP4[0])])]
    numbers = bindings(*views)
    came = replace(numbers, ofports={**numbers.ofports, "ot11": 102})
    target = FlowsTarget(first.rundir)
    before = target.observe()
    change = diff(target.render(desired(*views), came), before)
    frame = bytes(datagram(1, 11, 0, 100))
    target.apply(change)
    first.ask_until("ot1", frame, {"ot2": [frame]})
    target.apply(Change(add=before, remove=change.add))
    assert list(first.ask("ot1", frame)) == ["ophy0"]
