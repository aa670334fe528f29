"""GlueTarget on real netdevs and with real frames: which are taken away, and whose stay."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet

from dataplane import uninstall
from dataplane.core.desired import Bindings, Desired
from dataplane.core.diff import Change, diff
from dataplane.core.errors import TargetError
from dataplane.host.glue import GlueTarget
from dataplane.lab.probes import Station
from dataplane.netlink import links, tc, u32
from dataplane.netlink.netns import Netns
from dataplane.netlink.rtnl import Rtnl, within
from dataplane.netlink.tc import Slot
from tests.functional.namespaces import ip, name_of, namespace, run
from tests.functional.test_netlink import load_program
from tests.system.frames import Ears, deliver, inside
from tests.unit.overlay_builders import (
    GENEVE4,
    GENEVE6,
    NIC,
    OWN4,
    OWN6,
    VTEP4,
    VTEP6,
    VXLAN4,
    desired,
    port,
    remote,
    view,
)

STRANGER4, STRANGER6 = "192.0.2.77", "2001:db8::77"
PEERS = desired(
    view(GENEVE4, [port(1, GENEVE4)], [remote(11, GENEVE4, VTEP4[0])]),
    view(GENEVE6, (), [remote(12, GENEVE6, VTEP6[0])]),
)
NETDEVS = (NIC.name, "ophy0", "vp1", "ot1")


@dataclass(frozen=True, slots=True)
class Node:
    """A namespace with the netdevs of a node; the other end of each has one of its own."""

    space: Netns
    far: Mapping[str, Netns]

    def add(self, name: str) -> None:
        peer = ("peer", "name", "far", "netns", name_of(self.far[name]))
        ip(self.space, "link", "add", name, "type", "veth", *peer)
        ip(self.space, "link", "set", name, "up")
        ip(self.far[name], "link", "set", "far", "up")

    def ifindex(self, name: str) -> int:
        return self.bindings().ifindexes[name]

    def bindings(self) -> Bindings:
        found = within(self.space, links.every)
        return Bindings(NIC, {netdev.name: netdev.ifindex for netdev in found})

    def station(self, name: str) -> Station:
        return Station(name, Path(self.far[name].path), "far", "", (), 1500)

    def filters(self, netdev: str) -> str:
        return run("tc", "-n", name_of(self.space), "filter", "show", "dev", netdev, "ingress")

    def tc(self, *words: str) -> None:
        run("tc", "-n", name_of(self.space), *words)


@pytest.fixture
def node() -> Iterator[Node]:
    with ExitStack() as stack:
        space, *others = (stack.enter_context(namespace()) for _ in range(1 + len(NETDEVS)))
        made = Node(space, dict(zip(NETDEVS, others, strict=True)))
        for name in NETDEVS:
            made.add(name)
        yield made


def converge(node: Node, wanted: Desired) -> Change:
    """Make the round the agent makes; the next one must find nothing to do."""
    target, seen = GlueTarget(), node.bindings()

    def one_round() -> Change:
        change = diff(target.render(wanted, seen), target.observe())
        if change:
            target.apply(change)
        return change

    made = node.space.run(one_round)
    assert node.space.run(one_round) == Change()
    return made


ETHER = Ether(src="02:00:00:00:00:aa", dst="02:00:00:00:00:bb")
TUNNEL4 = ETHER / IP(src=str(VTEP4[0]), dst=str(OWN4)) / UDP(sport=5, dport=6081)
TUNNEL6 = ETHER / IPv6(src=str(VTEP6[0]), dst=str(OWN6)) / UDP(sport=5, dport=6081)


def changed(packet: Packet, layer: type[Packet], **fields: object) -> Packet:
    copy = packet.copy()
    for name, value in fields.items():
        setattr(copy[layer], name, value)
    return copy


OURS: dict[str, Packet] = {
    "IPv4": TUNNEL4,
    "IPv4, not to be fragmented": changed(TUNNEL4, IP, flags="DF"),
    "IPv4, marked": changed(TUNNEL4, IP, tos=0xFF, ttl=1),
    "IPv6": TUNNEL6,
    "IPv6, marked": changed(TUNNEL6, IPv6, tc=0xFF, fl=0xFFFFF),
}
STRANGERS: dict[str, Packet] = {
    "IPv4 of a stranger": changed(TUNNEL4, IP, src=STRANGER4),
    "IPv6 of a stranger": changed(TUNNEL6, IPv6, src=STRANGER6),
}
HOSTS: dict[str, Packet] = {
    "another port": changed(TUNNEL4, UDP, dport=6082),
    "another port over IPv6": changed(TUNNEL6, UDP, dport=4790),
    "our port as the source": changed(TUNNEL4, UDP, sport=6081, dport=53),
    "to another address": changed(TUNNEL4, IP, dst="192.0.2.9"),
    "to another IPv6 address": changed(TUNNEL6, IPv6, dst="2001:db8::9"),
    "TCP": ETHER / IP(src=str(VTEP4[0]), dst=str(OWN4)) / TCP(dport=6081),
    "TCP over IPv6": ETHER / IPv6(src=str(VTEP6[0]), dst=str(OWN6)) / TCP(dport=6081),
    "first fragment": changed(TUNNEL4, IP, flags="MF"),
    "later fragment": changed(TUNNEL4, IP, frag=185),
    "IPv6 fragment": ETHER
    / IPv6(src=str(VTEP6[0]), dst=str(OWN6))
    / IPv6ExtHdrFragment(m=1)
    / UDP(dport=6081),
    "in a VLAN": ETHER / Dot1Q(vlan=5) / TUNNEL4[IP],
    "ARP": ETHER / ARP(psrc=str(VTEP4[0]), pdst=str(OWN4)),
}


@pytest.mark.parametrize("exclusive", [False, True])
def test_only_our_tunnels_are_taken_from_the_nic(node: Node, *, exclusive: bool) -> None:
    wanted = replace(PEERS, node=replace(PEERS.node, exclusive_ports=exclusive))
    converge(node, wanted)
    frames = {**OURS, **STRANGERS, **HOSTS}
    heard = deliver(node.station(NIC.name), frames, [node.station("ophy0")], inside)
    ours = {*OURS, *(STRANGERS if exclusive else ())}
    assert heard == {name: {"ophy0": 1} if name in ours else {} for name in frames}


@pytest.mark.parametrize(("source", "sink"), [("vp1", "ot1"), ("ot1", "vp1"), ("ophy0", NIC.name)])
def test_everything_is_passed_on_between_the_ends_of_a_joint(
    node: Node, source: str, sink: str
) -> None:
    converge(node, PEERS)
    frames = {**OURS, **STRANGERS, **HOSTS}
    heard = deliver(node.station(source), frames, [node.station(sink)], inside)
    assert heard == {name: {sink: 1} for name in frames}


def by_target() -> None:
    target = GlueTarget()
    target.apply(Change(remove=target.observe()))


def by_uninstall() -> None:
    for thing in list(uninstall._redirects()):
        thing.remove()


@pytest.mark.parametrize("take_away", [by_target, by_uninstall])
def test_what_is_taken_away_leaves_nothing_behind(
    node: Node, take_away: Callable[[], None]
) -> None:
    converge(node, PEERS)
    assert "mirred" in node.filters(NIC.name)
    assert "mirred" in node.filters("vp1")
    node.space.run(take_away)
    assert [node.filters(netdev) for netdev in NETDEVS] == ["", "", "", ""]


@pytest.mark.parametrize("preference", ["101", "102"])
def test_somebody_else_in_our_place_is_named_and_left_alone(node: Node, preference: str) -> None:
    netdev = {"101": "vp1", "102": NIC.name}[preference]
    theirs = ("u32", "match", "ip", "src", "10.0.0.1", "flowid", "1:1")
    node.tc("qdisc", "add", "dev", netdev, "clsact")
    node.tc(
        *("filter", "add", "dev", netdev, "ingress", "pref", preference, "protocol", "ip"), *theirs
    )
    before = node.filters(netdev)
    with pytest.raises(TargetError, match=f"on {netdev}: pref {preference} is taken by a u32 "):
        converge(node, PEERS)
    assert node.filters(netdev).startswith(before)
    assert "mirred" in node.filters("ot1")  # what could be done was done


def test_filters_of_others_stay_where_they_are(node: Node) -> None:
    node.tc("qdisc", "add", "dev", "vp1", "clsact")
    words = ("ingress", "pref", "50", "protocol", "ip", "u32", "match", "u32", "0", "0")
    node.tc("filter", "add", "dev", "vp1", *words, "action", "mirred", "egress", "redirect", "dev",
            "ot1")  # fmt: skip
    before = node.filters("vp1")
    converge(node, PEERS)
    converge(node, desired())
    assert node.filters("vp1").split("used")[0] == before.split("used")[0]
    assert node.filters("vp1").count("mirred") == 1


def test_what_ebpf_has_left_is_taken_away_and_nobody_elses(node: Node) -> None:
    vp1 = node.ifindex("vp1")

    def attach(rtnl: Rtnl) -> None:
        tc.ensure_clsact(rtnl, vp1)
        with load_program() as program:
            tc.replace_bpf(rtnl, Slot(vp1), program.fd, "overweave:access_port")
            tc.replace_bpf(rtnl, Slot(vp1, preference=7), program.fd, "theirs")

    within(node.space, attach)
    converge(node, PEERS)
    left = within(node.space, lambda rtnl: tc.list_bpf(rtnl, vp1))
    assert [each.name for each in left] == ["theirs"]
    assert "mirred" in node.filters("vp1")


def redirects(node: Node, netdev: str) -> list[u32.Redirect]:
    ifindex = node.ifindex(netdev)
    return [*within(node.space, lambda rtnl: u32.listing(rtnl, ifindex)).ours]


def test_an_incomplete_view_takes_no_peer_away(node: Node) -> None:
    converge(node, PEERS)
    assert len(redirects(node, NIC.name)) == 2
    converge(node, desired(view(GENEVE4, [port(1, GENEVE4)], synced=False)))
    assert len(redirects(node, NIC.name)) == 2
    converge(node, desired(view(GENEVE4, [port(1, GENEVE4)])))
    assert redirects(node, NIC.name) == []


def test_a_pod_without_its_other_end_does_not_reach_the_host(node: Node) -> None:
    target = GlueTarget()

    def one_round() -> None:
        change = diff(target.render(PEERS, node.bindings()), target.observe())
        target.apply(change)

    node.space.run(one_round)
    ip(node.space, "link", "del", "ot1")
    for _ in range(2):
        node.space.run(one_round)
    ip(node.space, "address", "add", "10.0.0.1/24", "dev", "vp1")
    question = Ether(src=ETHER.src, dst="ff:ff:ff:ff:ff:ff") / ARP(psrc="10.0.0.2", pdst="10.0.0.1")
    with Ears([node.station("vp1")]) as ears:
        deliver(node.station("vp1"), {"who has": question}, [])
        assert [data for _, data in ears.listen(0.2) if ARP in Ether(data)] == []
    node.add("ot1")
    node.space.run(one_round)
    assert deliver(node.station("vp1"), OURS, [node.station("ot1")], inside) == {
        name: {"ot1": 1} for name in OURS
    }


def test_many_peers(node: Node) -> None:
    vteps = [IPv4Address(f"198.51.{n // 250}.{1 + n % 250}") for n in range(300)]
    views = [
        view(segment, [], [remote(n, segment, vtep) for n, vtep in enumerate(vteps)])
        for segment in (GENEVE4, VXLAN4)
    ]
    began = time.monotonic()
    converge(node, desired(*views))
    print(f"600 redirects after {time.monotonic() - began:.2f} s")
    assert len(redirects(node, NIC.name)) == 600
    converge(node, desired())
    assert node.filters(NIC.name) == ""
