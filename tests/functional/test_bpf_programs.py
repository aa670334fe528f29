"""What each program does with one packet of scapy's where nothing is known but where it goes on.

What is known, tests/packets/test_fastpath.py sends (BPF_PROG_TEST_RUN, too).
"""

from collections.abc import Iterator
from enum import IntEnum
from ipaddress import ip_address

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_Router_Alert
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from bpf.bpffs import Pins
from bpf.layout import (
    PRESENT,
    OwnFlag,
    TunnelSocket,
    encode_ifindex,
    encode_member,
    encode_own,
    encode_socket,
)
from bpf.loader import load
from bpf.syscalls import Program, open_map, open_program
from dataplane.core.model import Encap, Vni
from tests.functional.bpf_support import mounted_bpffs


class Verdict(IntEnum):
    """linux/pkt_cls.h."""

    UNSPEC = -1
    SHOT = 2
    REDIRECT = 7


LOOPBACK = 1  # a packet of BPF_PROG_TEST_RUN comes from the loopback device,
HOST = "00:00:00:00:00:00"  # whose address this is
OTHER_HOST = "02:00:00:00:00:99"
# Ends in the bytes of GENEVE_PORT: a UDP header read from inside the IP header would fit.
OWN4, OTHER4 = "10.9.23.193", "10.9.0.2"
OWN6, OTHER6 = "2001:db8::1", "2001:db8::2"
GENEVE_PORT, VXLAN_PORT = 6081, 4790  # one as assigned, one as configured

VNIS = {Encap.GENEVE: Vni(5001), Encap.VXLAN: Vni(5002)}
INNER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP(dst="10.1.0.2") / ICMP()
GENEVE_PAYLOAD = GENEVE(vni=VNIS[Encap.GENEVE]) / INNER
VXLAN_PAYLOAD = VXLAN(vni=VNIS[Encap.VXLAN], flags="Instance") / INNER
ETHER = Ether(src="02:00:00:00:00:0a", dst=HOST)
TO_GENEVE = UDP(sport=40000, dport=GENEVE_PORT) / GENEVE_PAYLOAD
TO_VXLAN = UDP(sport=40000, dport=VXLAN_PORT) / VXLAN_PAYLOAD
PEER4, PEER6 = "10.9.0.9", "2001:db8::9"
IP4 = IP(src=PEER4, dst=OWN4)
IP6 = IPv6(src=PEER6, dst=OWN6)


@pytest.fixture(scope="module")
def pins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pins]:
    with mounted_bpffs(tmp_path_factory.mktemp("programs") / "bpf") as bpffs:
        pins = load(bpffs)
        with open_map(pins.map("members")) as members:
            for encap, vni in VNIS.items():
                for peer in (PEER4, PEER6):
                    members.update(encode_member(vni, encap, ip_address(peer)), PRESENT)
        yield pins


def take_in(pins: Pins, flags: OwnFlag) -> None:
    with open_map(pins.map("own")) as own:
        for address in (OWN4, OWN6):
            for port, encap in ((GENEVE_PORT, Encap.GENEVE), (VXLAN_PORT, Encap.VXLAN)):
                key = encode_socket(TunnelSocket(ip_address(address), port))
                own.update(key, encode_own(encap, flags))


@pytest.fixture
def glued(pins: Pins) -> Iterator[Pins]:
    with open_map(pins.map("glue")) as glue:
        glue.update(encode_ifindex(LOOPBACK), encode_ifindex(LOOPBACK))
        yield pins
        glue.delete(encode_ifindex(LOOPBACK))


@pytest.fixture(
    params=[
        pytest.param(OwnFlag.NONE, id="fastpath-off"),
        pytest.param(OwnFlag.FAST, id="fastpath-on"),
        pytest.param(OwnFlag.FAST | OwnFlag.EXCLUSIVE, id="exclusive-ports"),
    ],
)
def underlay(glued: Pins, request: pytest.FixtureRequest) -> Iterator[Program]:
    """Return the program that finds the peer, but no MAC: what is for us goes to Open vSwitch."""
    take_in(glued, request.param)
    with open_program(glued.program("underlay")) as program:
        yield program


def verdict(program: Program, frame: bytes | Packet) -> Verdict:
    packet = bytes(frame)
    result = program.test_run(packet)
    assert result.data == packet  # what is handed on is as it came
    return Verdict(result.retval)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(ETHER / IP4 / TO_GENEVE, id="geneve-ipv4"),
        pytest.param(ETHER / IP4 / TO_VXLAN, id="vxlan-ipv4"),
        pytest.param(ETHER / IP6 / TO_GENEVE, id="geneve-ipv6"),
        pytest.param(ETHER / IP6 / TO_VXLAN, id="vxlan-ipv6"),
        pytest.param(ETHER / IP(src=PEER4, dst=OWN4, flags="DF") / TO_GENEVE, id="dont-fragment"),
        pytest.param(
            ETHER / IP(src=PEER4, dst=OWN4, options=[IPOption_Router_Alert()]) / TO_GENEVE,
            id="ipv4-options",
        ),
        pytest.param(
            ETHER / IP(src=PEER4, dst=OWN4, options=[IPOption_Router_Alert()] * 10) / TO_GENEVE,
            id="ipv4-most-options",
        ),
        pytest.param(ETHER / IP4 / UDP(dport=GENEVE_PORT), id="udp-header-only"),
        pytest.param(ETHER / IP4 / UDP(dport=GENEVE_PORT, chksum=0) / b"x", id="no-checksum"),
    ],
)
def test_tunnel_packets_for_us_are_redirected(underlay: Program, frame: Packet) -> None:
    assert verdict(underlay, frame) is Verdict.REDIRECT


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(ETHER / IP(dst=OTHER4) / TO_GENEVE, id="other-address-ipv4"),
        pytest.param(ETHER / IPv6(dst=OTHER6) / TO_GENEVE, id="other-address-ipv6"),
        pytest.param(ETHER / IP(src=OWN4, dst=OTHER4) / TO_GENEVE, id="from-own-address"),
        pytest.param(ETHER / IP(dst="255.255.255.255") / TO_GENEVE, id="broadcast-address"),
        pytest.param(ETHER / IP4 / UDP(dport=GENEVE_PORT + 1), id="next-port-ipv4"),
        pytest.param(ETHER / IP6 / UDP(dport=GENEVE_PORT + 1), id="next-port-ipv6"),
        pytest.param(ETHER / IP4 / UDP(dport=4789), id="assigned-but-not-configured-port"),
        pytest.param(ETHER / IP4 / UDP(sport=GENEVE_PORT, dport=40000), id="source-port-is-ours"),
        pytest.param(
            ETHER / IPv6(dst=f"::ffff:{OWN4}") / TO_GENEVE, id="own-ipv4-mapped-into-ipv6"
        ),
        pytest.param(ETHER / IP(dst=OWN4, flags="MF") / TO_GENEVE, id="first-fragment"),
        pytest.param(ETHER / IP(dst=OWN4, frag=100) / TO_GENEVE, id="last-fragment"),
        pytest.param(ETHER / IP(dst=OWN4, flags="MF", frag=1) / TO_GENEVE, id="middle-fragment"),
        pytest.param(ETHER / IP4 / TCP(dport=GENEVE_PORT), id="tcp-ipv4"),
        pytest.param(ETHER / IP6 / TCP(dport=GENEVE_PORT), id="tcp-ipv6"),
        pytest.param(ETHER / IP4 / ICMP() / TO_GENEVE, id="icmp"),
        pytest.param(ETHER / IP(dst=OWN4, proto=136) / bytes(TO_GENEVE), id="udp-lite"),
        pytest.param(ETHER / ARP(pdst=OWN4), id="arp"),
        pytest.param(ETHER / Dot1Q(vlan=5) / IP4 / TO_GENEVE, id="vlan-tagged"),
        pytest.param(ETHER / IP6 / IPv6ExtHdrHopByHop() / TO_GENEVE, id="ipv6-hop-by-hop"),
        pytest.param(ETHER / IP6 / IPv6ExtHdrDestOpt() / TO_GENEVE, id="ipv6-destination-options"),
        pytest.param(ETHER / IP6 / IPv6ExtHdrRouting() / TO_GENEVE, id="ipv6-routing"),
        pytest.param(ETHER / IP6 / IPv6ExtHdrFragment() / TO_GENEVE, id="ipv6-fragment"),
        pytest.param(ETHER / IP(dst=OWN4, version=6) / TO_GENEVE, id="wrong-version-ipv4"),
        pytest.param(ETHER / IPv6(dst=OWN6, version=4) / TO_GENEVE, id="wrong-version-ipv6"),
        pytest.param(ETHER / IP(dst=OWN4, ihl=4) / TO_GENEVE, id="ipv4-header-too-short"),
        pytest.param(
            ETHER / IP(dst=OWN4, ihl=15) / UDP(dport=GENEVE_PORT), id="ipv4-header-past-the-end"
        ),
        pytest.param(Ether(dst=OTHER_HOST) / IP4 / TO_GENEVE, id="to-the-mac-of-another-host"),
        pytest.param(Ether(dst="ff:ff:ff:ff:ff:ff") / IP4 / TO_GENEVE, id="to-the-broadcast-mac"),
        pytest.param(Ether(dst=HOST, type=0x88B5) / bytes(IP4 / TO_GENEVE), id="other-ethertype"),
    ],
)
def test_packets_of_others_are_left_to_others(underlay: Program, frame: Packet) -> None:
    assert verdict(underlay, frame) is Verdict.UNSPEC


@pytest.mark.parametrize(
    ("header", "least", "whole"),
    [
        pytest.param(IP4, 34, 14 + 20 + 8, id="ipv4"),
        pytest.param(
            IP(dst=OWN4, options=[IPOption_Router_Alert()]), 34, 14 + 24 + 8, id="options"
        ),
        pytest.param(IP6, 54, 14 + 40 + 8, id="ipv6"),
    ],
)
def test_every_truncation_before_the_ports_is_left_to_others(
    underlay: Program, header: Packet, least: int, whole: int
) -> None:
    frame = bytes(ETHER / header / TO_GENEVE)
    # The kernel refuses to test-run less than a whole IP header; test_bpf_target.py sends shorter.
    verdicts = {length: verdict(underlay, frame[:length]) for length in range(least, whole + 3)}
    expected = {
        length: Verdict.REDIRECT if length >= whole else Verdict.UNSPEC for length in verdicts
    }
    assert verdicts == expected


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(min_size=40, max_size=120), kind=st.sampled_from([0x0800, 0x86DD, 0x0806]))
def test_noise_is_left_to_others(underlay: Program, body: bytes, kind: int) -> None:
    frame = bytes(Ether(dst=HOST, type=kind) / Raw(body))
    assert verdict(underlay, frame) is Verdict.UNSPEC


ANY_FRAMES = [
    pytest.param(ETHER / IP4 / TO_GENEVE, id="ipv4"),
    pytest.param(ETHER / IP6 / TCP(), id="ipv6"),
    pytest.param(Ether(dst="ff:ff:ff:ff:ff:ff") / ARP(), id="arp-broadcast"),
    pytest.param(ETHER / Dot1Q(vlan=5) / IP4, id="vlan"),
    pytest.param(Ether(dst=OTHER_HOST, type=0x88B5) / Raw(b"x"), id="plain-l2"),
]


@pytest.mark.parametrize("name", ["access_port", "ovs_port"])
@pytest.mark.parametrize("frame", ANY_FRAMES)
def test_between_unknown_pod_and_ovs_everything_passes(
    glued: Pins, name: str, frame: Packet
) -> None:
    with open_program(glued.program(name)) as program:
        assert verdict(program, frame) is Verdict.REDIRECT


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        pytest.param(ETHER / IP(dst=OTHER4) / TO_GENEVE, Verdict.REDIRECT, id="ipv4"),
        pytest.param(ETHER / IPv6(dst=OTHER6) / TO_VXLAN, Verdict.REDIRECT, id="ipv6"),
        pytest.param(ETHER / ARP(pdst=OTHER4), Verdict.SHOT, id="arp"),
        pytest.param(ETHER / Dot1Q(vlan=5) / IP(dst=OTHER4), Verdict.SHOT, id="vlan"),
        pytest.param(Ether(dst=HOST, type=0x88B5) / Raw(b"x"), Verdict.SHOT, id="other"),
    ],
)
def test_ophy_sends_ip_only(glued: Pins, frame: Packet, expected: Verdict) -> None:
    with open_program(glued.program("ophy")) as program:
        assert verdict(program, frame) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("access_port", Verdict.SHOT, id="pod-never-reaches-the-host"),
        pytest.param("ovs_port", Verdict.SHOT, id="ovs-never-reaches-the-host"),
        pytest.param("ophy", Verdict.SHOT, id="ophy-never-reaches-the-host"),
        pytest.param("underlay", Verdict.UNSPEC, id="nic-stays-with-the-host"),
    ],
)
@pytest.mark.parametrize("flags", [OwnFlag.NONE, OwnFlag.FAST])
def test_netdev_without_glue(pins: Pins, name: str, expected: Verdict, flags: OwnFlag) -> None:
    take_in(pins, flags)
    with open_map(pins.map("glue")) as glue:
        assert not list(glue.items())
    with open_program(pins.program(name)) as program:
        assert verdict(program, ETHER / IP4 / TO_GENEVE) is expected
