"""What a real Open vSwitch does with our flows, frame by frame: the table is the specification."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv6Address, ip_address
from typing import Any, cast

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6MLDone,
    ICMPv6MLReport,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptMTU,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from dataplane.core.addressing import eui64_link_local
from dataplane.core.desired import Port, PortState, RemoteEndpoint
from dataplane.core.diff import diff
from dataplane.core.functions import Role
from dataplane.core.model import Encap, Guard, Mac, Vni
from dataplane.core.reasons import Reason
from overlay_ovs.target import FlowsTarget
from tests.functional.overlay_switch import (
    Switch,
    decapsulate,
    encapsulate,
    outputs,
    running_switch,
)
from tests.unit.overlay_builders import (
    GENEVE4,
    GENEVE6,
    MAC_ONLY,
    ROUTED_A,
    ROUTED_B,
    ROUTED_C,
    ROUTED_D,
    TRUNK_A,
    TRUNK_B,
    UNGUARDED,
    VTEP4,
    VTEP6,
    VXLAN4,
    VXLAN6,
    bindings,
    desired,
    gateway_mac,
    gateway_of,
    ips_of,
    link_local_of,
    mac_of,
    port,
    remote,
    routed_ips,
    routed_remote,
    trunk,
    view,
)

UNIVERSAL = Mac("00:53:00:00:00:13")  # globally administered, as of a VF
UNIVERSAL_LINK_LOCAL = eui64_link_local(UNIVERSAL)


def with_mac(mac: Mac) -> RemoteEndpoint:
    other = remote(19, VXLAN4, VTEP4[0])
    return replace(other, endpoint=replace(other.endpoint, mac=mac))


def with_address(number: int, ip: str) -> RemoteEndpoint:
    other = routed_remote(number, ROUTED_B, VTEP6[0], 3)
    return replace(other, endpoint=replace(other.endpoint, ips=(ip_address(ip),)))


def of_function(made: Port, role: Role) -> Port:
    return replace(made, role=role, reason=Reason.NETWORK_FUNCTION)


FUNCTION = replace(GENEVE4, name="function", vni=Vni(119))
BESIDE = replace(GENEVE4, name="beside", vni=Vni(120))
OPEN = replace(GENEVE4, name="open", vni=Vni(121), guard=Guard.OFF)
BLOCKED = replace(TRUNK_B, name="blocked", vni=Vni(118))

# Workload N is behind otN, or on another node: see the builders for its MAC and addresses.
WORLD = (
    view(
        GENEVE4,
        [
            port(1, GENEVE4),
            port(2, GENEVE4),
            port(3, GENEVE4, state=PortState.BLOCKED),
            port(10, GENEVE4, ips=()),
        ],
        [remote(11, GENEVE4, VTEP4[0]), remote(12, GENEVE4, VTEP4[1])],
    ),
    view(
        GENEVE6,
        [port(4, GENEVE6)],
        [remote(13, GENEVE6, VTEP6[0]), remote(14, GENEVE6, VTEP6[1])],
    ),
    view(VXLAN4, [port(5, VXLAN4)], [remote(15, VXLAN4, VTEP4[0]), with_mac(UNIVERSAL)]),
    view(VXLAN6, [port(6, VXLAN6)], [remote(16, VXLAN6, VTEP6[0])]),
    view(MAC_ONLY, [port(7, MAC_ONLY)], [remote(17, MAC_ONLY, VTEP4[0])]),
    view(
        UNGUARDED,
        [port(8, UNGUARDED), port(9, UNGUARDED)],
        [remote(18, UNGUARDED, VTEP4[1])],
    ),
    replace(
        view(
            ROUTED_A,
            [port(n, ROUTED_A, routed_ips(2, n)) for n in (21, 22)],
            [routed_remote(25, ROUTED_A, VTEP4[0], 2)],
        ),
        gateway=gateway_of(ROUTED_A, 2),
        routers=(VTEP4[1],),
    ),
    replace(
        view(
            ROUTED_B,
            [
                port(23, ROUTED_B, (*routed_ips(3, 23), ip_address("10.77.0.1"))),
                port(24, ROUTED_B, routed_ips(3, 24), state=PortState.BLOCKED),
            ],
            [routed_remote(26, ROUTED_B, VTEP6[0], 3), with_address(29, "10.77.0.2")],
        ),
        gateway=gateway_of(ROUTED_B, 3),
    ),
    replace(
        view(ROUTED_D, [port(28, ROUTED_D, routed_ips(2, 28))]),
        gateway=gateway_of(ROUTED_D, 2, "stock"),
    ),
    # Workload 40 is behind a trunk port, in VLAN 5 guarded, in 6 not, in 7 blocked.
    view(
        TRUNK_A,
        [trunk(40, TRUNK_A, 5), port(41, TRUNK_A), trunk(45, TRUNK_A, 8)],
        [remote(43, TRUNK_A, VTEP4[0])],
    ),
    replace(
        view(TRUNK_B, [trunk(40, TRUNK_B, 6), port(42, TRUNK_B)], [remote(44, TRUNK_B, VTEP4[1])]),
        gateway=gateway_of(TRUNK_B, 5),
    ),
    view(BLOCKED, [trunk(40, BLOCKED, 7, PortState.BLOCKED)], [remote(46, BLOCKED, VTEP4[1])]),
    # VFs 50 and 51 pass function 53 > 54 to all others; 51 is a trunk, its VLAN 6 behind none.
    replace(
        view(
            FUNCTION,
            [
                of_function(port(50, FUNCTION, routed_ips(6, 50)), Role.STEERED),
                of_function(trunk(51, FUNCTION, 5), Role.STEERED),
                port(52, FUNCTION, routed_ips(6, 52)),
                of_function(port(53, FUNCTION), Role.INPUT),
                of_function(port(54, FUNCTION), Role.OUTPUT),
            ],
            [routed_remote(55, FUNCTION, VTEP4[0], 6)],
        ),
        gateway=gateway_of(FUNCTION, 6),
    ),
    view(BESIDE, [trunk(51, BESIDE, 6), port(56, BESIDE)]),
    # The same without a guard: VF 57, function 58 > 59.
    replace(
        view(
            OPEN,
            [
                of_function(port(57, OPEN, routed_ips(7, 57)), Role.STEERED),
                of_function(port(58, OPEN), Role.INPUT),
                of_function(port(59, OPEN), Role.OUTPUT),
            ],
        ),
        gateway=gateway_of(OPEN, 7),
    ),
)
ELSEWHERE = replace(
    view(ROUTED_C, [], [routed_remote(27, ROUTED_C, VTEP4[1], 4)]), gateway=gateway_of(ROUTED_C, 4)
)
SLOTS = (*range(1, 11), *range(21, 25), 28, 40, 41, 42, 45, *range(50, 55), *range(56, 60))
# Where a frame for all goes from pod 1, from pod 8, and from the tunnels of pod 1's segment.
ALL_OF_1 = ["geneve:100>192.0.2.2", "geneve:100>192.0.2.3", "ot10", "ot2"]
ALL_OF_8 = ["ot9", "vxlan:105>192.0.2.3"]
LOCAL_OF_100 = ["ot1", "ot10", "ot2"]
NOWHERE: list[str] = []

BROADCAST = "ff:ff:ff:ff:ff:ff"
NOBODY = "0.0.0.0"  # an address in a packet
Value = Any  # what a field of scapy takes
GROUP_MAC, GROUP = "33:33:00:00:00:01", "ff02::1"


@pytest.fixture(scope="module")
def switch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Switch]:
    with running_switch(tmp_path_factory.mktemp("pipeline"), SLOTS) as started:
        target = FlowsTarget(started.rundir)
        wanted = replace(desired(*WORLD), routed={ROUTED_C.name: ELSEWHERE})
        rendering = target.render(wanted, bindings(*WORLD))
        target.apply(diff(rendering, target.observe()))
        for vtep in (*VTEP4, *VTEP6):
            started.route(vtep)
        yield started


def eth(sender: int, target: int | str = BROADCAST) -> Packet:
    return Ether(src=mac_of(sender), dst=mac_of(target) if isinstance(target, int) else target)


def ip4(number: int) -> str:
    return str(ips_of(number)[0])


def ip6(number: int) -> str:
    return str(ips_of(number)[1])


def udp4(sender: int, target: int, **fields: Value) -> Packet:
    addresses: dict[str, Any] = {"src": ip4(sender), "dst": ip4(target), **fields}
    return eth(sender, target) / IP(**addresses) / UDP(sport=1, dport=2) / b"hello"


def udp6(sender: int, target: int, **fields: Value) -> Packet:
    addresses: dict[str, Any] = {"src": ip6(sender), "dst": ip6(target), **fields}
    return eth(sender, target) / IPv6(**addresses) / UDP(sport=1, dport=2) / b"hello"


def arp(sender: int, asked: str, **fields: Value) -> Packet:
    values: dict[str, Any] = {"hwsrc": mac_of(sender), "psrc": ip4(sender), "pdst": asked, **fields}
    return eth(sender) / ARP(**values)


def solicited_node(asked: str) -> str:
    low = int(IPv6Address(asked)) & 0xFFFFFF
    return str(IPv6Address(int(IPv6Address("ff02::1:ff00:0")) | low))


def icmp6(sender: int, message: Packet, **fields: Value) -> Packet:
    values: dict[str, Any] = {"src": ip6(sender), "dst": GROUP, "hlim": 255, **fields}
    return eth(sender, GROUP_MAC) / IPv6(**values) / message


def sll(number: int) -> Packet:
    return ICMPv6NDOptSrcLLAddr(lladdr=mac_of(number))


def tll(number: int) -> Packet:
    return ICMPv6NDOptDstLLAddr(lladdr=mac_of(number))


def solicitation(sender: int, asked: str, **fields: Value) -> Packet:
    message = ICMPv6ND_NS(tgt=asked) / sll(sender)
    return icmp6(sender, message, **{"dst": solicited_node(asked), **fields})


def detection(sender: int, asked: str) -> Packet:
    """RFC 4862 section 5.4.2."""
    return icmp6(sender, ICMPv6ND_NS(tgt=asked), src="::", dst=solicited_node(asked))


def advertisement(sender: int, claimed: str, *options: Packet) -> Packet:
    message = ICMPv6ND_NA(tgt=claimed, R=0, S=0, O=1)
    for option in options:
        message /= option
    return icmp6(sender, message)


def tagged(packet: Packet, *vlans: int) -> Packet:
    """Put VLAN tags between the MACs and the rest."""
    outer = Ether(src=packet.src, dst=packet.dst)
    for vlan in vlans:
        outer /= Dot1Q(vlan=vlan)
    outer.lastlayer().type = packet.type
    return outer / packet.payload.copy()


def link_local(number: int) -> str:
    return str(link_local_of(number))


GUARD = [
    pytest.param("ot1", udp4(2, 11, src=ip4(1)), NOWHERE, id="another MAC"),
    pytest.param("ot1", udp4(1, 11, src="10.9.9.9"), NOWHERE, id="a foreign IPv4 source"),
    pytest.param("ot1", udp4(1, 11, src=ip4(2)), NOWHERE, id="a neighbour's IPv4 source"),
    pytest.param("ot1", udp4(1, 11, src=NOBODY), NOWHERE, id="IPv4 without source"),
    pytest.param("ot1", udp6(1, 11, src="fd00::9999"), NOWHERE, id="a foreign IPv6 source"),
    pytest.param("ot1", udp6(1, 11, src=link_local(2)), NOWHERE, id="a foreign link-local source"),
    pytest.param("ot1", udp6(1, 11, src="::"), NOWHERE, id="IPv6 UDP without source"),
    pytest.param("ot1", arp(1, ip4(11), psrc=ip4(2)), NOWHERE, id="ARP with a foreign IP"),
    pytest.param("ot1", arp(1, ip4(11), hwsrc=mac_of(2)), NOWHERE, id="ARP with a foreign MAC"),
    pytest.param("ot1", arp(1, ip4(2), psrc=ip4(2), op=2), NOWHERE, id="gratuitous foreign ARP"),
    pytest.param("ot1", arp(1, ip4(2), psrc=NOBODY, op=2), NOWHERE, id="ARP reply from nobody"),
    pytest.param("ot1", tagged(arp(1, ip4(11), psrc=ip4(2)), 0), NOWHERE, id="the same, VLAN 0"),
    pytest.param("ot1", advertisement(1, ip6(2), tll(1)), NOWHERE, id="NA for a foreign target"),
    pytest.param("ot1", advertisement(1, link_local(2), tll(1)), NOWHERE, id="NA, foreign fe80::"),
    pytest.param("ot1", advertisement(1, ip6(1), tll(2)), NOWHERE, id="NA with a foreign MAC"),
    pytest.param("ot1", advertisement(1, ip6(1), tll(2), tll(1)), NOWHERE, id="NA with two MACs"),
    pytest.param("ot1", advertisement(1, ip6(1), tll(1), tll(2)), NOWHERE, id="NA, two, swapped"),
    pytest.param(
        "ot1", icmp6(1, ICMPv6ND_NS(tgt=ip6(11)) / sll(2)), NOWHERE, id="NS with a foreign MAC"
    ),
    pytest.param(
        "ot1", icmp6(1, ICMPv6ND_NS(tgt=ip6(11)) / sll(2) / sll(1)), NOWHERE, id="NS with two MACs"
    ),
    pytest.param(
        "ot1", icmp6(1, ICMPv6ND_NS(tgt=ip6(11)), src=ip6(2)), NOWHERE, id="NS, foreign source"
    ),
    pytest.param(
        "ot1", icmp6(1, ICMPv6ND_NS(tgt=ip6(11), code=1) / sll(1)), NOWHERE, id="NS with a code"
    ),
    pytest.param(
        "ot1", icmp6(1, ICMPv6ND_NA(tgt=ip6(1), code=1) / tll(1)), NOWHERE, id="NA with a code"
    ),
    pytest.param("ot1", detection(1, ip6(2)), NOWHERE, id="DAD for a foreign address"),
    pytest.param("ot1", solicitation(1, ip6(1), src="::"), NOWHERE, id="DAD with a MAC"),
    pytest.param("ot1", icmp6(1, ICMPv6ND_RA()), NOWHERE, id="RA"),
    pytest.param("ot1", icmp6(1, ICMPv6ND_RA(), src=link_local(1)), NOWHERE, id="RA, fe80::"),
    pytest.param(
        "ot1", icmp6(1, IPv6ExtHdrDestOpt() / ICMPv6ND_RA()), NOWHERE, id="RA behind options"
    ),
    pytest.param(
        "ot1", icmp6(1, IPv6ExtHdrFragment(m=1) / ICMPv6ND_RA()), NOWHERE, id="RA in a fragment"
    ),
    pytest.param("ot1", tagged(icmp6(1, ICMPv6ND_RA()), 0), NOWHERE, id="RA in VLAN 0"),
    pytest.param("ot1", icmp6(1, ICMPv6ND_Redirect()), NOWHERE, id="Redirect"),
    pytest.param("ot1", tagged(udp4(1, 11, src=ip4(2)), 0), NOWHERE, id="foreign IPv4 in VLAN 0"),
    pytest.param("ot1", tagged(udp4(1, 11, src=ip4(2)), 7), NOWHERE, id="foreign IPv4 in a VLAN"),
    pytest.param("ot1", tagged(udp4(1, 11), 0, 0), NOWHERE, id="anything in two VLANs"),
    pytest.param(
        "ot1",
        Ether(src=mac_of(1), dst=mac_of(11)) / Dot1AD(vlan=0) / Dot1AD(vlan=0) / IP() / UDP(),
        NOWHERE,
        id="anything in two VLANs, IEEE 802.1ad",
    ),
    pytest.param("ot1", eth(2) / Raw(b"x" * 46), NOWHERE, id="plain L2 with another MAC"),
    pytest.param("ot3", udp4(3, 11), NOWHERE, id="anything from a blocked port"),
    pytest.param("ot7", udp4(8, 17), NOWHERE, id="guard mac: another MAC"),
    pytest.param("ot7", icmp6(7, ICMPv6ND_RA()), NOWHERE, id="guard mac: RA"),
    pytest.param("ot7", tagged(udp4(7, 17), 5, 6), NOWHERE, id="guard mac: two VLANs"),
    pytest.param("ot10", udp4(1, 11), NOWHERE, id="guard ip, no addresses: another MAC"),
    # What must pass.
    pytest.param("ot1", detection(1, ip6(1)), ALL_OF_1, id="DAD passes"),
    pytest.param("ot1", detection(1, link_local(1)), ALL_OF_1, id="DAD for fe80:: passes"),
    pytest.param("ot1", arp(1, ip4(1)), ALL_OF_1, id="gratuitous ARP request passes"),
    pytest.param("ot1", arp(1, ip4(1), op=2), ALL_OF_1, id="gratuitous ARP reply passes"),
    pytest.param("ot1", arp(1, ip4(1), psrc=NOBODY), ALL_OF_1, id="ARP probe passes"),
    pytest.param("ot1", advertisement(1, ip6(1), tll(1)), ALL_OF_1, id="unsolicited NA passes"),
    pytest.param("ot1", advertisement(1, ip6(1)), ALL_OF_1, id="NA without MAC passes"),
    pytest.param(
        "ot1",
        icmp6(1, ICMPv6ND_NA(tgt=link_local(1)) / tll(1), src=link_local(1)),
        ALL_OF_1,
        id="NA from fe80:: passes",
    ),
    pytest.param(
        "ot1",
        icmp6(1, ICMPv6ND_NA(tgt=link_local(1)), src=link_local(1)),
        ALL_OF_1,
        id="NA from fe80:: without MAC passes",
    ),
    pytest.param("ot1", icmp6(1, ICMPv6ND_RS(), src="::"), ALL_OF_1, id="RS without source passes"),
    pytest.param(
        "ot1", icmp6(1, ICMPv6ND_RS() / sll(1), src=link_local(1)), ALL_OF_1, id="RS passes"
    ),
    pytest.param(
        "ot1",
        icmp6(1, IPv6ExtHdrHopByHop() / ICMPv6MLReport2(), src="::", hlim=1),
        ALL_OF_1,
        id="MLDv2 without source passes",
    ),
    pytest.param(
        "ot1",
        icmp6(1, IPv6ExtHdrHopByHop() / ICMPv6MLReport(), src="::", hlim=1),
        ALL_OF_1,
        id="MLDv1 without source passes",
    ),
    pytest.param(
        "ot1",
        icmp6(1, IPv6ExtHdrHopByHop() / ICMPv6MLDone(), src="::", hlim=1),
        ALL_OF_1,
        id="MLDv1 leaving without source passes",
    ),
    pytest.param(
        "ot1",
        eth(1, "01:00:5e:00:00:16") / IP(src=NOBODY, dst="224.0.0.22", proto=2) / Raw(bytes(16)),
        ALL_OF_1,
        id="IGMP without source passes",
    ),
    pytest.param("ot1", udp6(1, 11, src=link_local(1)), ALL_OF_1[:1], id="own fe80:: passes"),
    pytest.param("ot1", eth(1) / Raw(b"x" * 46), ALL_OF_1, id="plain L2 passes"),
    pytest.param(
        "ot1",
        eth(1, 11) / IPv6(src=ip6(1), dst=ip6(11)) / IPv6ExtHdrFragment(m=1) / ICMPv6EchoRequest(),
        ALL_OF_1[:1],
        id="a large ping passes",
    ),
    pytest.param("ot1", tagged(udp4(1, 11), 7), ALL_OF_1[:1], id="own addresses in a VLAN pass"),
    pytest.param(
        "ot7", udp4(7, 17, src="10.9.9.9"), ["geneve:104>192.0.2.2"], id="guard mac: any IPv4"
    ),
    pytest.param(
        "ot10", udp4(10, 11, src="10.9.9.9"), ALL_OF_1[:1], id="guard ip, no addresses: any IPv4"
    ),
    pytest.param("ot8", udp4(2, 18), ALL_OF_8[1:], id="guard off: any MAC"),
    pytest.param("ot8", tagged(udp4(8, 18), 5, 6), ALL_OF_8[1:], id="guard off: two VLANs"),
    pytest.param("ot8", icmp6(8, ICMPv6ND_RA()), ALL_OF_8, id="guard off: RA"),
]

QUESTIONS = [
    pytest.param("ot1", arp(1, ip4(11)), ["ot1"], id="ARP for a remote pod is answered"),
    pytest.param("ot1", arp(1, ip4(2)), ["ot1"], id="ARP for a local pod is answered"),
    pytest.param(
        "ot1", arp(1, ip4(11), psrc=NOBODY), ["ot1"], id="ARP probe for another's is answered"
    ),
    pytest.param(
        "ot1",
        eth(1, 11) / ARP(hwsrc=mac_of(1), psrc=ip4(1), pdst=ip4(11)),
        ["ot1"],
        id="unicast ARP is answered",
    ),
    pytest.param("ot8", arp(8, ip4(9), psrc=ip4(9)), ["ot8"], id="a taken address is defended"),
    pytest.param("ot1", arp(1, "10.1.0.99"), ALL_OF_1, id="ARP for nobody floods"),
    pytest.param("ot1", arp(1, ip4(13)), ALL_OF_1, id="ARP for another segment's pod floods"),
    pytest.param("ot1", arp(1, ip4(3)), ALL_OF_1, id="ARP for a blocked pod floods"),
    pytest.param("ot1", tagged(arp(1, ip4(11)), 7), ALL_OF_1, id="ARP in a VLAN floods"),
    pytest.param(
        "ot1",
        eth(1, 11) / ARP(op=2, hwsrc=mac_of(1), psrc=ip4(1), hwdst=mac_of(11), pdst=ip4(11)),
        ALL_OF_1[:1],
        id="an ARP reply goes to its receiver",
    ),
    pytest.param("ot1", solicitation(1, ip6(11)), ["ot1"], id="NS for a remote pod is answered"),
    pytest.param("ot1", solicitation(1, ip6(2)), ["ot1"], id="NS for a local pod is answered"),
    pytest.param(
        "ot1", solicitation(1, link_local(11)), ["ot1"], id="NS for remote fe80:: is answered"
    ),
    pytest.param(
        "ot1", solicitation(1, link_local(2)), ["ot1"], id="NS for local fe80:: is answered"
    ),
    pytest.param(
        "ot4", solicitation(4, link_local(14)), ["ot4"], id="NS for fe80:: over IPv6 is answered"
    ),
    pytest.param(
        "ot5", solicitation(5, str(UNIVERSAL_LINK_LOCAL)), ["ot5"], id="NS, fe80:: of a bought MAC"
    ),
    pytest.param("ot1", solicitation(1, ip6(1)), ALL_OF_1, id="NS for oneself floods"),
    pytest.param("ot1", solicitation(1, link_local(1)), ALL_OF_1, id="NS for own fe80:: floods"),
    pytest.param("ot1", solicitation(1, "fd00::9999"), ALL_OF_1, id="NS for nobody floods"),
    pytest.param(
        "ot1", solicitation(1, "fe80::ff:fe12:3456"), ALL_OF_1, id="NS for nobody's fe80:: floods"
    ),
    pytest.param(
        "ot1", solicitation(1, "fe80::1"), ALL_OF_1, id="NS for fe80:: without MAC in it floods"
    ),
    pytest.param("ot1", solicitation(1, link_local(3)), ALL_OF_1, id="NS, blocked fe80::, floods"),
    pytest.param("ot1", solicitation(1, link_local(13)), ALL_OF_1, id="NS, other segment, floods"),
    pytest.param(
        "ot1", icmp6(1, ICMPv6ND_NS(tgt=ip6(11))), ALL_OF_1, id="NS without option floods"
    ),
    pytest.param("ot1", solicitation(1, ip6(11), hlim=254), ALL_OF_1, id="NS from afar floods"),
    pytest.param("ot8", detection(8, ip6(9)), ALL_OF_8, id="DAD for another's address floods"),
    pytest.param(
        "ot8", solicitation(8, ip6(9), src="::"), ALL_OF_8, id="NS, no source, with option, floods"
    ),
]

FORWARDING = [
    pytest.param("ot1", udp4(1, 2), ["ot2"], id="local pod"),
    pytest.param("ot1", udp4(1, 11), ["geneve:100>192.0.2.2"], id="remote pod, Geneve, IPv4"),
    pytest.param("ot4", udp4(4, 14), ["geneve:101>2001:db8::3"], id="remote pod, Geneve, IPv6"),
    pytest.param("ot5", udp6(5, 15), ["vxlan:102>192.0.2.2"], id="remote pod, VXLAN, IPv4"),
    pytest.param("ot6", udp6(6, 16), ["vxlan:103>2001:db8::2"], id="remote pod, VXLAN, IPv6"),
    pytest.param("ot1", udp4(1, 1), NOWHERE, id="hairpin"),
    pytest.param("ot1", udp4(1, 3), NOWHERE, id="a blocked pod"),
    pytest.param("ot1", udp4(1, 4), NOWHERE, id="another segment's local pod"),
    pytest.param("ot1", udp4(1, 13), NOWHERE, id="another segment's remote pod"),
    pytest.param("ot1", udp4(1, 99), NOWHERE, id="unknown unicast, drop"),
    pytest.param("ot8", udp4(8, 99), ALL_OF_8, id="unknown unicast, flood"),
    pytest.param("ot1", eth(1) / IP(src=ip4(1)) / UDP(), ALL_OF_1, id="broadcast"),
    pytest.param(
        "ot4",
        eth(4, GROUP_MAC) / IPv6(src=ip6(4), dst=GROUP) / UDP(),
        ["geneve:101>2001:db8::2", "geneve:101>2001:db8::3"],
        id="multicast over IPv6",
    ),
]


def geneve(vni: int, inner: Packet, vtep: int = 0) -> bytes:
    return encapsulate(Encap.GENEVE, vni, VTEP4[vtep], inner)


def vxlan(vni: int, inner: Packet, vtep: int = 0) -> bytes:
    return encapsulate(Encap.VXLAN, vni, VTEP4[vtep], inner)


FROM_TUNNEL = [
    pytest.param(geneve(100, udp4(11, 1)), ["ot1"], id="Geneve, IPv4"),
    pytest.param(encapsulate(Encap.GENEVE, 101, VTEP6[0], udp4(13, 4)), ["ot4"], id="Geneve, IPv6"),
    pytest.param(vxlan(102, udp6(15, 5)), ["ot5"], id="VXLAN, IPv4"),
    pytest.param(encapsulate(Encap.VXLAN, 103, VTEP6[0], udp6(16, 6)), ["ot6"], id="VXLAN, IPv6"),
    pytest.param(geneve(100, udp4(11, 10)), ["ot10"], id="a second port of the segment"),
    pytest.param(geneve(100, arp(11, ip4(1))), LOCAL_OF_100, id="broadcast: split horizon"),
    pytest.param(
        geneve(100, solicitation(11, ip6(1))),
        LOCAL_OF_100,
        id="multicast: split horizon, no answer",
    ),
    pytest.param(geneve(100, udp4(11, 12)), NOWHERE, id="known remote MAC: split horizon"),
    pytest.param(vxlan(105, udp4(18, 99), 1), ["ot8", "ot9"], id="unknown unicast, flood"),
    pytest.param(geneve(100, udp4(11, 99)), NOWHERE, id="unknown unicast, drop"),
    pytest.param(geneve(100, udp4(11, 3)), NOWHERE, id="a blocked pod"),
    pytest.param(
        encapsulate(Encap.GENEVE, 100, ip_address("192.0.2.66"), udp4(11, 1)),
        NOWHERE,
        id="unknown VTEP",
    ),
    pytest.param(geneve(999, udp4(11, 1)), NOWHERE, id="unknown VNI"),
    pytest.param(geneve(105, udp4(18, 8), 1), NOWHERE, id="a VXLAN segment's VNI in Geneve"),
    pytest.param(geneve(104, udp4(17, 7), 1), NOWHERE, id="a VTEP that is in other segments only"),
    pytest.param(
        encapsulate(Encap.GENEVE, 100, VTEP6[0], udp4(11, 1)), NOWHERE, id="the other family"
    ),
]


NETS = {21: 2, 22: 2, 25: 2, 28: 2, 23: 3, 24: 3, 26: 3, 27: 4, 50: 6, 52: 6, 55: 6, 57: 7}


def routed4(sender: int, target: str, **fields: Value) -> Packet:
    """Return a packet to the sender's gateway."""
    net = NETS[sender]
    values: dict[str, Any] = {"src": str(routed_ips(net, sender)[0]), "dst": target, **fields}
    return eth(sender, gateway_mac(net)) / IP(**values) / UDP(sport=1, dport=2) / b"hello"


def routed6(sender: int, target: str, **fields: Value) -> Packet:
    net = NETS[sender]
    values: dict[str, Any] = {"src": str(routed_ips(net, sender)[1]), "dst": target, **fields}
    return eth(sender, gateway_mac(net)) / IPv6(**values) / UDP(sport=1, dport=2) / b"hello"


def ping4(sender: int, target: str) -> Packet:
    packet = routed4(sender, target)
    packet[IP].remove_payload()
    return packet / ICMP(id=7, seq=1) / b"hello"


def ping6(sender: int, target: str, **fields: Value) -> Packet:
    packet = routed6(sender, target, **fields)
    packet[IPv6].remove_payload()
    return packet / ICMPv6EchoRequest(id=7, seq=1, data=b"hello")


def at4(number: int) -> str:
    return str(routed_ips(NETS[number], number)[0])


def at6(number: int) -> str:
    return str(routed_ips(NETS[number], number)[1])


GATEWAY_LINK_LOCAL = str(eui64_link_local(gateway_mac(2)))
ROUTED = [
    pytest.param("ot21", routed4(21, at4(23)), ["ot23"], id="IPv4 to a pod here"),
    pytest.param("ot21", routed6(21, at6(23)), ["ot23"], id="IPv6 to a pod here"),
    pytest.param("ot23", routed4(23, at4(21)), ["ot21"], id="IPv4 back"),
    pytest.param("ot21", routed4(21, at4(26)), ["vxlan:107>2001:db8::2"], id="IPv4, a remote pod"),
    pytest.param("ot21", routed6(21, at6(26)), ["vxlan:107>2001:db8::2"], id="IPv6, a remote pod"),
    pytest.param(
        "ot21", routed4(21, at4(27)), ["geneve:108>192.0.2.3"], id="a segment of other nodes"
    ),
    pytest.param("ot21", routed4(21, at4(22)), ["ot22"], id="its own segment, here"),
    pytest.param("ot21", routed4(21, at4(25)), ["geneve:106>192.0.2.2"], id="its own, a remote"),
    pytest.param("ot21", routed4(21, at4(23), ttl=1), NOWHERE, id="IPv4 at its last hop"),
    pytest.param("ot21", routed6(21, at6(23), hlim=1), NOWHERE, id="IPv6 at its last hop"),
    pytest.param("ot21", routed4(21, at4(23), ttl=0), NOWHERE, id="IPv4 beyond it"),
    pytest.param("ot21", routed6(21, at6(23), hlim=0), NOWHERE, id="IPv6 beyond it"),
    pytest.param("ot21", routed4(21, "10.3.0.99"), NOWHERE, id="nobody there"),
    pytest.param("ot21", routed4(21, "10.77.0.1"), NOWHERE, id="outside the gateway's subnets"),
    pytest.param("ot21", routed4(21, "10.77.0.2"), NOWHERE, id="outside them, of a remote pod"),
    pytest.param("ot21", routed4(21, at4(24)), NOWHERE, id="a blocked pod"),
    pytest.param("ot21", routed4(21, at4(28)), NOWHERE, id="a pod of another Vrf"),
    pytest.param("ot28", routed4(28, at4(23)), NOWHERE, id="from another Vrf"),
    pytest.param("ot21", routed4(21, at4(23), src=at4(22)), NOWHERE, id="a neighbour's IPv4"),
    pytest.param("ot21", routed6(21, at6(23), src=at6(22)), NOWHERE, id="a neighbour's IPv6"),
    pytest.param("ot21", routed4(22, at4(23)), NOWHERE, id="a neighbour's MAC"),
    pytest.param(
        "ot21", routed6(21, at6(23), src=link_local(21)), NOWHERE, id="from a link-local address"
    ),
    pytest.param("ot21", tagged(routed4(21, at4(23)), 7), NOWHERE, id="in a VLAN"),
    pytest.param("ot21", eth(21, gateway_mac(2)) / Raw(b"x" * 46), NOWHERE, id="plain L2"),
    pytest.param("ot21", eth(21, gateway_mac(3)) / IP(src=at4(21), dst=at4(23)), NOWHERE, id="MAC"),
    pytest.param("ot21", ping4(21, "10.2.0.1"), ["ot21"], id="IPv4 ping"),
    pytest.param("ot21", ping6(21, "fd00:2::1"), ["ot21"], id="IPv6 ping"),
    pytest.param(
        "ot21", ping6(21, GATEWAY_LINK_LOCAL, src=link_local(21)), ["ot21"], id="fe80:: ping"
    ),
    pytest.param("ot21", ping4(21, "10.3.0.1"), NOWHERE, id="ping to another's gateway"),
    pytest.param("ot21", arp(21, "10.2.0.1", psrc=at4(21)), ["ot21"], id="ARP"),
    pytest.param("ot21", arp(21, "10.2.0.1", psrc=NOBODY), ["ot21"], id="ARP probe"),
    pytest.param(
        "ot21",
        eth(21, gateway_mac(2)) / ARP(hwsrc=mac_of(21), psrc=at4(21), pdst="10.2.0.1"),
        ["ot21"],
        id="ARP to its MAC",
    ),
    pytest.param(
        "ot21",
        eth(21, gateway_mac(2))
        / IPv6(src=at6(21), dst="fd00:2::1", hlim=255)
        / (ICMPv6ND_NS(tgt="fd00:2::1") / sll(21)),
        ["ot21"],
        id="NS to its MAC",
    ),
    pytest.param("ot21", solicitation(21, "fd00:2::1", src=at6(21)), ["ot21"], id="NS"),
    pytest.param("ot21", solicitation(21, GATEWAY_LINK_LOCAL, src=at6(21)), ["ot21"], id="fe80::"),
]
ROUTED_IN = [
    pytest.param(
        geneve(106, eth(27, 21) / IP(src=at4(27), dst=at4(21)) / UDP(), 1),
        ["ot21"],
        id="from a node that is in the Vrf, not in the segment",
    ),
    pytest.param(
        encapsulate(Encap.GENEVE, 109, VTEP4[1], eth(27, 28) / IP(dst=at4(28)) / UDP()),
        NOWHERE,
        id="the same into another Vrf",
    ),
    pytest.param(geneve(106, routed4(25, at4(23))), NOWHERE, id="to the gateway from a tunnel"),
]


@pytest.mark.parametrize(("device", "frame", "expected"), ROUTED)
def test_gateway(switch: Switch, device: str, frame: Packet, expected: list[str]) -> None:
    assert outputs(switch.ask(device, bytes(frame))) == expected


@pytest.mark.parametrize(("frame", "expected"), ROUTED_IN)
def test_routed_from_tunnel(switch: Switch, frame: bytes, expected: list[str]) -> None:
    assert outputs(switch.ask("ophy0", frame)) == expected


@pytest.mark.parametrize(
    ("sent", "target", "hops"),
    [
        pytest.param(routed4(21, at4(23), ttl=9), 23, {"ttl": 8}, id="IPv4, here"),
        pytest.param(routed4(21, at4(26), ttl=9), 26, {"ttl": 8}, id="IPv4, remote"),
        pytest.param(routed6(21, at6(23), hlim=9), 23, {"hlim": 8}, id="IPv6, here"),
        pytest.param(routed6(21, at6(26), hlim=9), 26, {"hlim": 8}, id="IPv6, remote"),
    ],
)
def test_a_routed_packet(switch: Switch, sent: Packet, target: int, hops: dict[str, int]) -> None:
    """It comes from the target's gateway, a hop further, and nothing else of it has changed."""
    answer = switch.ask("ot21", bytes(sent))
    ((frame,),) = answer.values()
    found = decapsulate(frame)[1] if "ophy0" in answer else frame
    expected = sent.copy()
    expected.src, expected.dst = gateway_mac(NETS[target]), mac_of(target)
    for name, value in hops.items():
        expected.payload.setfieldval(name, value)
    assert found == bytes(expected)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(routed4(21, at4(23), ttl=1), id="IPv4"),
        pytest.param(routed6(21, at6(23), hlim=1), id="IPv6"),
    ],
)
def test_what_is_at_its_last_hop_does_not_trouble_ovs_vswitchd(
    switch: Switch, sent: Packet
) -> None:
    said = switch.control("ofproto/trace", "ow-int", "in_port=ot21", bytes(sent).hex())
    assert "Datapath actions: drop" in said


@pytest.mark.parametrize(
    ("sent", "asked"),
    [
        pytest.param(ping4(21, "10.2.0.1"), "10.2.0.1", id="IPv4"),
        pytest.param(ping6(21, "fd00:2::1"), "fd00:2::1", id="IPv6"),
    ],
)
def test_the_echo_reply(switch: Switch, sent: Packet, asked: str) -> None:
    """RFC 792, RFC 4443 section 4.2: id, number and data come back, with a right checksum."""
    (frame,) = switch.ask("ot21", bytes(sent))["ot21"]
    expected = sent.copy()
    expected.src, expected.dst = gateway_mac(2), mac_of(21)
    network = expected.payload
    network.src, network.dst = asked, network.src
    if network.version == 4:
        network.ttl, network.payload.type = 64, 0
    else:
        network.hlim = 64
        network.remove_payload()
        expected /= ICMPv6EchoReply(id=7, seq=1, data=b"hello")
    assert frame == bytes(expected)


@pytest.mark.parametrize(("device", "frame", "expected"), GUARD)
def test_guard(switch: Switch, device: str, frame: Packet, expected: list[str]) -> None:
    assert outputs(switch.ask(device, bytes(frame))) == expected


@pytest.mark.parametrize(("device", "frame", "expected"), QUESTIONS)
def test_arp_and_nd(switch: Switch, device: str, frame: Packet, expected: list[str]) -> None:
    assert outputs(switch.ask(device, bytes(frame))) == expected


@pytest.mark.parametrize(("device", "frame", "expected"), FORWARDING)
def test_forwarding(switch: Switch, device: str, frame: Packet, expected: list[str]) -> None:
    assert outputs(switch.ask(device, bytes(frame))) == expected


@pytest.mark.parametrize(("frame", "expected"), FROM_TUNNEL)
def test_from_tunnel(switch: Switch, frame: bytes, expected: list[str]) -> None:
    assert outputs(switch.ask("ophy0", frame)) == expected


def answer_of(frame: Packet) -> Packet:
    """Return who asks is told (RFC 826) by the workload it asks for."""
    owner = mac_of(int(frame[ARP].pdst.rpartition(".")[2]))
    told = {"hwsrc": owner, "psrc": frame[ARP].pdst, "hwdst": frame.src, "pdst": frame[ARP].psrc}
    return Ether(src=owner, dst=frame.src) / ARP(op=2, **told)


def advertised(sender: int, owner: int, asked: str) -> Packet:
    head = Ether(src=mac_of(owner), dst=mac_of(sender))
    ip = IPv6(src=asked, dst=ip6(sender), hlim=255)
    return head / ip / ICMPv6ND_NA(tgt=asked, R=0, S=1, O=1) / tll(owner)


A, B = "geneve:116>192.0.2.2", "geneve:117>192.0.2.3"
PING, PONG = ICMP(seq=1) / b"hello", ICMP(type=0, seq=1) / b"hello"
HELLO = arp(40, "10.1.0.99")  # a question that nobody can answer goes to all
TRUNK = [
    pytest.param("ot40", tagged(udp4(40, 43), 5), {A: udp4(40, 43)}, id="VLAN 5 to a tunnel"),
    pytest.param("ot40", tagged(udp4(40, 44), 6), {B: udp4(40, 44)}, id="VLAN 6 to a tunnel"),
    pytest.param("ot40", tagged(udp4(40, 41), 5), {"ot41": udp4(40, 41)}, id="to a plain port"),
    pytest.param(
        "ot40", tagged(udp4(40, 45), 5), {"ot45": tagged(udp4(40, 45), 8)}, id="to another trunk"
    ),
    pytest.param("ot41", udp4(41, 40), {"ot40": tagged(udp4(41, 40), 5)}, id="from a plain port"),
    pytest.param("ot42", udp4(42, 40), {"ot40": tagged(udp4(42, 40), 6)}, id="the other VLAN"),
    pytest.param(
        "ophy0",
        encapsulate(Encap.GENEVE, 116, VTEP4[0], udp6(43, 40)),
        {"ot40": tagged(udp6(43, 40), 5)},
        id="from a tunnel, IPv6",
    ),
    pytest.param(
        "ophy0",
        encapsulate(Encap.GENEVE, 117, VTEP4[1], tagged(udp4(44, 40), 9)),
        {"ot40": tagged(udp4(44, 40), 6, 9)},
        id="with a tag inside the segment",
    ),
    pytest.param(
        "ot40",
        tagged(HELLO, 5),
        {A: HELLO, "ot41": HELLO, "ot45": tagged(HELLO, 8)},
        id="broadcast in VLAN 5",
    ),
    pytest.param("ot40", tagged(HELLO, 6), {B: HELLO, "ot42": HELLO}, id="broadcast in VLAN 6"),
    pytest.param(
        "ophy0",
        encapsulate(Encap.GENEVE, 116, VTEP4[0], arp(43, ip4(99))),
        {
            "ot40": tagged(arp(43, ip4(99)), 5),
            "ot41": arp(43, ip4(99)),
            "ot45": tagged(arp(43, ip4(99)), 8),
        },
        id="broadcast from a tunnel",
    ),
    pytest.param(
        "ot40",
        tagged(eth(40, gateway_mac(5)) / IP(src=ip4(40), dst="10.5.0.1", ttl=9) / PING, 6),
        {
            "ot40": tagged(
                Ether(src=gateway_mac(5), dst=mac_of(40)) / IP(src="10.5.0.1", dst=ip4(40)) / PONG,
                6,
            )
        },
        id="its gateway answers with the tag",
    ),
    pytest.param(
        "ot40",
        tagged(eth(40, gateway_mac(5)) / IP(src=ip4(40), dst=at4(23), ttl=65) / UDP(), 6),
        {"ot23": Ether(src=gateway_mac(3), dst=mac_of(23)) / IP(src=ip4(40), dst=at4(23)) / UDP()},
        id="routed, to a plain port",
    ),
    pytest.param("ot40", udp4(40, 43), {}, id="without a tag"),
    pytest.param("ot40", HELLO, {}, id="broadcast without a tag"),
    pytest.param("ot40", tagged(HELLO, 0), {}, id="a priority tag"),
    pytest.param("ot40", tagged(HELLO, 9), {}, id="an unknown tag"),
    pytest.param("ot40", tagged(HELLO, 7), {}, id="a blocked VLAN"),
    pytest.param("ot40", tagged(HELLO, 8), {}, id="a VLAN of another trunk"),
    pytest.param("ot40", tagged(udp4(40, 44), 5), {}, id="a pod of the other segment"),
    pytest.param("ot40", tagged(udp4(41, 43), 5), {}, id="guard ip: another MAC"),
    pytest.param("ot40", tagged(udp4(40, 43, src="10.9.9.9"), 5), {}, id="guard ip: another IP"),
    pytest.param("ot40", tagged(udp4(40, 43), 5, 6), {}, id="guard ip: two VLANs"),
    pytest.param("ot40", tagged(udp4(41, 44), 6), {B: udp4(41, 44)}, id="guard off: another MAC"),
    pytest.param(
        "ot40", tagged(udp4(40, 44), 6, 5), {B: tagged(udp4(40, 44), 5)}, id="guard off: two VLANs"
    ),
    pytest.param(
        "ot40",
        tagged(arp(40, ip4(43)), 5),
        {"ot40": tagged(answer_of(arp(40, ip4(43))), 5)},
        id="ARP is answered with the tag",
    ),
    pytest.param(
        "ot40",
        tagged(arp(40, ip4(44)), 5),
        {A: arp(40, ip4(44)), "ot41": arp(40, ip4(44)), "ot45": tagged(arp(40, ip4(44)), 8)},
        id="ARP for who is in the other segment",
    ),
    pytest.param(
        "ot40",
        tagged(solicitation(40, ip6(44)), 6),
        {"ot40": tagged(advertised(40, 44, ip6(44)), 6)},
        id="ND is answered with the tag",
    ),
    pytest.param(
        "ot40",
        tagged(solicitation(40, link_local(43)), 5),
        {"ot40": tagged(advertised(40, 43, link_local(43)), 5)},
        id="ND for fe80::",
    ),
    pytest.param(
        "ot41",
        arp(41, ip4(40)),
        {"ot41": answer_of(arp(41, ip4(40)))},
        id="ARP for it is answered without",
    ),
]


def came(answer: dict[str, list[bytes]]) -> Counter[tuple[str, bytes]]:
    """Return which frames came out where; of a tunnel packet the frame within."""
    return Counter(
        (str(decapsulate(each)[0]), decapsulate(each)[1]) if name == "ophy0" else (name, each)
        for name, frames in answer.items()
        for each in frames
    )


def told(expected: dict[str, Packet]) -> Counter[tuple[str, bytes]]:
    return Counter((name, bytes(each)) for name, each in expected.items())


@pytest.mark.parametrize(("device", "frame", "expected"), TRUNK)
def test_a_trunk_port(
    switch: Switch, device: str, frame: Packet | bytes, expected: dict[str, Packet]
) -> None:
    assert came(switch.ask(device, bytes(frame))) == told(expected)


def hopped(sent: Packet, target: int, gateway: Mac) -> Packet:
    """Return the packet as ``gateway`` has routed it to ``target``."""
    found = sent.copy()
    found.src, found.dst = gateway, mac_of(target)
    if IP in found:
        found[IP].ttl -= 1
    else:
        found[IPv6].hlim -= 1
    return found


OF_TRUNK = udp4(51, 52)
FROM_RED, TO_RED, TO_RED6 = routed4(23, at4(50)), routed4(50, at4(23)), routed6(50, at6(23))
OPENLY = eth(90, gateway_mac(7)) / IP(src=at4(57), dst=at4(23)) / UDP()
ECHO = ping4(50, "10.6.0.1")
ECHOED = (
    Ether(src=gateway_mac(6), dst=mac_of(50))
    / IP(src="10.6.0.1", dst=at4(50))
    / (ICMP(type=0, id=7, seq=1) / b"hello")
)
ALL = eth(50) / IP(src=at4(50)) / UDP()
FUNCTIONS = [
    pytest.param("ot50", routed4(50, at4(23)), {"ot53": TO_RED}, id="to the gateway: input first"),
    pytest.param("ot50", TO_RED6, {"ot53": TO_RED6}, id="IPv6 to the gateway: input first"),
    pytest.param(
        "ot54", TO_RED, {"ot23": hopped(TO_RED, 23, gateway_mac(3))}, id="output: routed then"
    ),
    pytest.param(
        "ot54", TO_RED6, {"ot23": hopped(TO_RED6, 23, gateway_mac(3))}, id="output: IPv6, routed"
    ),
    pytest.param(
        "ot54",
        routed4(50, at4(27)),
        {"geneve:108>192.0.2.3": hopped(routed4(50, at4(27)), 27, gateway_mac(4))},
        id="output: routed into a tunnel",
    ),
    pytest.param("ot54", tagged(TO_RED, 7), {}, id="output: in a VLAN, not routed"),
    pytest.param("ot54", routed4(50, at4(50)), {}, id="output: routed back does not turn round"),
    pytest.param(
        "ot54",
        eth(23, gateway_mac(6)) / IP(src=at4(23), dst=at4(23)) / UDP(),
        {},
        id="output: as somebody else",
    ),
    pytest.param(
        "ot54",
        routed4(50, at4(57)),
        {"ot59": hopped(routed4(50, at4(57)), 57, gateway_mac(7))},
        id="output: routed, into another function",
    ),
    pytest.param("ot53", TO_RED, {}, id="input: not routed"),
    pytest.param(
        "ot23", FROM_RED, {"ot54": hopped(FROM_RED, 50, gateway_mac(6))}, id="routed to a VF"
    ),
    pytest.param(
        "ot53",
        hopped(FROM_RED, 50, gateway_mac(6)),
        {"ot50": hopped(FROM_RED, 50, gateway_mac(6))},
        id="input: routed, on to the VF",
    ),
    pytest.param(
        "ot52",
        routed4(52, at4(50)),
        {"ot54": hopped(routed4(52, at4(50)), 50, gateway_mac(6))},
        id="through the gateway to a VF of the segment",
    ),
    pytest.param(
        "ot52",
        routed4(52, at4(23)),
        {"ot23": hopped(routed4(52, at4(23)), 23, gateway_mac(3))},
        id="routed from who is outside",
    ),
    pytest.param("ot57", OPENLY, {"ot58": OPENLY}, id="guard off, to the gateway: input first"),
    pytest.param(
        "ot59", OPENLY, {"ot23": hopped(OPENLY, 23, gateway_mac(3))}, id="guard off, output: routed"
    ),
    pytest.param("ot58", OPENLY, {}, id="guard off, input: not routed"),
    pytest.param("ot59", udp4(90, 57), {}, id="guard off, output: not back"),
    pytest.param("ot57", eth(90), {"ot58": eth(90)}, id="broadcast, of all within"),
    pytest.param("ot50", ECHO, {"ot53": ECHO}, id="a ping to the gateway"),
    pytest.param("ot54", ECHO, {"ot54": ECHOED}, id="output: the gateway answers it"),
    pytest.param("ot53", ECHOED, {"ot50": ECHOED}, id="input: the answer, on to the VF"),
    pytest.param(
        "ot50",
        arp(50, "10.6.0.1", psrc=at4(50)),
        {
            "ot50": Ether(src=gateway_mac(6), dst=mac_of(50))
            / ARP(
                op=2,
                hwsrc=gateway_mac(6),
                psrc="10.6.0.1",
                hwdst=mac_of(50),
                pdst=at4(50),
            )
        },
        id="ARP for the gateway is answered before",
    ),
    pytest.param("ot51", tagged(OF_TRUNK, 5), {"ot53": OF_TRUNK}, id="a trunk: input first"),
    pytest.param("ot54", OF_TRUNK, {"ot52": OF_TRUNK}, id="output: of a trunk"),
    pytest.param(
        "ot52", udp4(52, 51, src=at4(52)), {"ot54": udp4(52, 51, src=at4(52))}, id="to a trunk"
    ),
    pytest.param(
        "ot53",
        udp4(52, 51),
        {"ot51": tagged(udp4(52, 51), 5)},
        id="input: on to the trunk, with its tag",
    ),
    pytest.param("ot51", tagged(udp4(51, 50), 5), {"ot50": udp4(51, 50)}, id="trunk to VF"),
    pytest.param(
        "ot50",
        udp4(50, 51, src=at4(50)),
        {"ot51": tagged(udp4(50, 51, src=at4(50)), 5)},
        id="VF to trunk",
    ),
    pytest.param(
        "ot51", tagged(udp4(51, 56), 6), {"ot56": udp4(51, 56)}, id="a trunk's other VLAN: past it"
    ),
    pytest.param(
        "ot56", udp4(56, 51), {"ot51": tagged(udp4(56, 51), 6)}, id="and there back to it"
    ),
    pytest.param(
        "ot50", ALL, {"ot53": ALL, "ot51": tagged(ALL, 5)}, id="broadcast within, with a trunk"
    ),
    pytest.param("ot54", ALL, {"ot52": ALL, "geneve:119>192.0.2.2": ALL}, id="output: broadcast"),
]


@pytest.mark.parametrize(("device", "frame", "expected"), FUNCTIONS)
def test_what_passes_a_network_function(
    switch: Switch, device: str, frame: Packet, expected: dict[str, Packet]
) -> None:
    """A frame as it comes from a VF, from the function, or from outside; routed, or of a trunk."""
    assert came(switch.ask(device, bytes(frame))) == told(expected)


def test_a_trunk_port_counts_what_is_in_no_vlan_of_its(switch: Switch) -> None:
    def counted() -> int:
        switch.control("revalidator/purge")
        (line,) = switch.openflow(
            "dump-flows", "ow-int", "cookie=0x4f5702000000008c/-1"
        ).splitlines()[1:]
        return int(re.findall(r"n_packets=(\d+)", line)[0])

    before = counted()
    for frame in (HELLO, tagged(HELLO, 9), tagged(HELLO, 5)):
        switch.ask("ot40", bytes(frame))
    assert counted() - before == 2


def kind(line: str) -> str:
    """Return a flow's line without what differs between pods, nodes and segments."""
    head, _, actions = line.partition(" actions=")
    tokens = head.replace(" ", "").split(",")
    telling = ("table=", "priority=", "icmp_type=", "dl_type=", "nw_proto=", "reg3=")
    fields = [token if token.startswith(telling) else token.split("=")[0] for token in tokens]
    if "in_port" in fields and "reg0" in fields:
        fields.remove("reg0")  # of a port in several segments: the same check, of one of them
    verbs = re.findall(r"(?:^|,)(\w+)", actions)
    return f"{','.join(fields)} actions={','.join(verbs)}"


def test_every_kind_of_flow_is_used_by_a_row(switch: Switch) -> None:
    for row in (*GUARD, *QUESTIONS, *FORWARDING, *ROUTED):
        device, frame, _ = cast("tuple[str, Packet, list[str]]", row.values)
        switch.ask(device, bytes(frame))
    for row in (*TRUNK, *FUNCTIONS):
        device, frame, _ = cast("tuple[str, Packet, dict[str, Packet]]", row.values)
        switch.ask(device, bytes(frame))
    for row in (*FROM_TUNNEL, *ROUTED_IN):
        switch.ask("ophy0", cast("bytes", row.values[0]))
    switch.control("revalidator/purge")  # brings the counters up to date
    used: Counter[str] = Counter()
    for bridge in ("ow-int", "ow-phy"):
        for line in switch.openflow("dump-flows", bridge).splitlines():
            if line.startswith("OFPST_FLOW reply"):
                continue  # each part of a long answer has its own
            packets = int(re.findall(r"n_packets=(\d+)", line)[0])
            plain = re.sub(r"(cookie|duration|n_packets|n_bytes|idle_age)=[^,]*, ", "", line)
            used[kind(plain)] += packets
    assert not [name for name, packets in used.items() if not packets]
    assert len(used) > 40


@pytest.mark.parametrize(
    ("sender", "right", "answer"),
    [
        pytest.param(1, ICMPv6ND_NS(tgt=ip6(11)) / sll(1), ["ot1"], id="NS, guard ip"),
        pytest.param(1, ICMPv6ND_NA(tgt=ip6(1)) / tll(1), ALL_OF_1, id="NA, guard ip"),
        pytest.param(8, ICMPv6ND_NS(tgt=ip6(9)) / sll(8), ["ot8"], id="NS, guard off"),
    ],
)
def test_a_wrong_nd_message_takes_no_right_one_with_it(
    switch: Switch, sender: int, right: Packet, answer: list[str]
) -> None:
    """OVS remembers what became of a frame, and must not take another one for the same."""
    wrong = right.copy()
    wrong.code = 1
    switch.control("revalidator/purge")
    switch.ask(f"ot{sender}", bytes(icmp6(sender, wrong)))
    assert outputs(switch.ask(f"ot{sender}", bytes(icmp6(sender, right)))) == answer


@pytest.mark.parametrize(
    ("device", "frame"),
    [
        pytest.param("ot1", udp4(1, 11), id="to a tunnel"),
        pytest.param("ot1", udp4(1, 2), id="to a local pod"),
        pytest.param("ot4", eth(4) / IP(src=ip4(4)) / UDP(), id="to all"),
        pytest.param("ot1", solicitation(1, "fe80::ff:fe12:3456"), id="fe80:: of nobody"),
        pytest.param("ot1", tagged(udp4(1, 11), 7), id="in a VLAN"),
    ],
)
def test_a_forwarded_frame_is_unchanged(switch: Switch, device: str, frame: Packet) -> None:
    answer = switch.ask(device, bytes(frame))
    found = [
        decapsulate(each)[1] if name == "ophy0" else each
        for name, frames in answer.items()
        for each in frames
    ]
    assert found
    assert set(found) == {bytes(frame)}


@pytest.mark.parametrize(
    ("asked", "owner"),
    [
        pytest.param(ip4(11), 11, id="remote"),
        pytest.param(ip4(2), 2, id="local"),
    ],
)
def test_the_arp_answer(switch: Switch, asked: str, owner: int) -> None:
    (frame,) = switch.ask("ot1", bytes(arp(1, asked)))["ot1"]
    expected = Ether(src=mac_of(owner), dst=mac_of(1)) / ARP(
        op=2, hwsrc=mac_of(owner), psrc=asked, hwdst=mac_of(1), pdst=ip4(1)
    )
    assert Ether(frame) == Ether(bytes(expected))


@pytest.mark.parametrize(
    ("asked", "owner"),
    [
        pytest.param(ip6(11), 11, id="remote"),
        pytest.param(ip6(2), 2, id="local"),
        pytest.param(link_local(11), 11, id="remote fe80::"),
        pytest.param(link_local(2), 2, id="local fe80::"),
    ],
)
@pytest.mark.parametrize(
    "more", [pytest.param((), id="alone"), pytest.param((ICMPv6NDOptMTU(),), id="and another")]
)
def test_the_neighbor_advertisement(
    switch: Switch, asked: str, owner: int, more: tuple[Packet, ...]
) -> None:
    """RFC 4861 section 7.2.4: solicited, with the option, with a right checksum."""
    question = solicitation(1, asked)
    message = ICMPv6ND_NA(tgt=asked, R=0, S=1, O=1) / tll(owner)
    for option in more:
        question /= option.copy()
        message /= option.copy()
    (frame,) = switch.ask("ot1", bytes(question))["ot1"]
    expected = (
        Ether(src=mac_of(owner), dst=mac_of(1)) / IPv6(src=asked, dst=ip6(1), hlim=255) / message
    )
    assert Ether(frame) == Ether(bytes(expected))


def test_the_outer_header(switch: Switch) -> None:
    (frame,) = switch.ask("ot1", bytes(udp4(1, 11)))["ophy0"]
    outer = Ether(frame)
    assert (outer[IP].src, outer[IP].flags, outer[IP].ttl) == ("192.0.2.1", "DF", 64)
    header = bytes(outer[UDP].payload)[:8]
    assert header == bytes.fromhex("00006558") + (100).to_bytes(3, "big") + b"\0"  # no options
