"""The emulated SX904's engine: golden frames in and out, and what each key and action does."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from tests.packets.sx904_frames import (
    DEVICES,
    FAR,
    KINDS,
    MISSES,
    NEAR,
    OWN,
    POD,
    REMOTE,
    VNI,
    arriving,
    golden,
    inner,
    inward,
    local,
    outward,
    portless,
)
from tests.unit.rtnl_by_hand import (
    DELTFILTER,
    SKIP_SW,
    actions,
    flags,
    gact,
    keys,
    mirred,
    new_filter,
    one_filter,
    tunnel_release,
    tunnel_set,
)
from tests.unit.sx904_card import (
    GENEVE_DEVICE,
    REP0,
    REP1,
    VXLAN_DEVICE,
    HandCard,
    hand_card,
)
from vendors.emulator.packets import Encap

SHOT = 2
HARD = flags(SKIP_SW)
TO_REP1 = actions(mirred(REP1)) + HARD


def card(*filters: bytes, tunnels: bool = True) -> HandCard:
    made = hand_card(tunnels=tunnels)
    made.do(*filters)
    return made


def sent(head: Packet, destination: str = FAR) -> bytes:
    return bytes(Ether(src=POD, dst=destination) / head / Raw(b"x" * 30))


@pytest.mark.parametrize(("source", "target"), MISSES.items())
def test_what_no_filter_is_for_is_a_miss(source: str, target: str) -> None:
    found = card()
    for data in (inner(), inner(tag=5), inner(destination="ff:ff:ff:ff:ff:ff"), b"\0" * 14):
        assert found.forward(source, data) == (target, data)


@pytest.mark.parametrize("port", MISSES)
def test_what_is_no_frame_goes_nowhere(port: str) -> None:
    assert card().forward(port, b"\0" * 13) is None


@pytest.mark.parametrize("port", ["rep0", "cpu0", "vf1", "up"])
def test_a_filter_is_for_its_own_vf_alone(port: str) -> None:
    found = card(new_filter(REP0, local()), new_filter(REP0, outward(Encap.VXLAN, 4)))
    for data in (inner(destination=NEAR), inner()):
        assert found.forward(port, data) == (MISSES[port], data)


@pytest.mark.parametrize(("encap", "version"), KINDS)
class TestTunnels:
    def test_from_a_vf_into_a_tunnel(self, encap: Encap, version: int) -> None:
        found = card(new_filter(REP0, outward(encap, version)))
        port, frame = found.forward("vf0", inner()) or ("", b"")
        assert port == "up"
        assert portless(frame, version) == bytes(golden(encap, version, inner()))
        assert found.filters(REP0)[0].counters == [(1, len(inner()))] * 2

    def test_from_a_tunnel_to_a_vf(self, encap: Encap, version: int) -> None:
        found = card(new_filter(DEVICES[encap], inward(version)))
        back = inner(FAR, POD)
        came = bytes(arriving(encap, version, back))
        assert found.forward("up", came) == ("vf0", back)
        assert found.filters(DEVICES[encap])[0].counters == [(1, len(came))] * 2

    def test_a_next_hop_that_is_not_known_is_a_miss_and_does_not_count(
        self, encap: Encap, version: int
    ) -> None:
        found = card(new_filter(REP0, outward(encap, version)))
        found.hops.clear()
        assert found.forward("vf0", inner()) == ("rep0", inner())
        assert found.filters(REP0)[0].counters == [(0, 0)] * 2

    @pytest.mark.parametrize(
        ("options", "changes"),
        [
            pytest.param({"no_csum": 0}, {"udp_chksum": None}, id="checksum"),
            pytest.param({"port": 12162}, {"udp_dport": 12162}, id="UDP port"),
        ],
    )
    def test_what_a_header_says(
        self, encap: Encap, version: int, options: dict[str, int], changes: dict[str, object]
    ) -> None:
        header = tunnel_set(OWN[version], REMOTE[version], VNI, **options)  # type: ignore[arg-type]
        made = keys(eth_dst=FAR) + actions(header, mirred(DEVICES[encap])) + HARD
        _, frame = card(new_filter(REP0, made)).forward("vf0", inner()) or ("", b"")
        source = int.from_bytes(frame[{4: 34, 6: 54}[version] :][:2])
        assert source >= 49152
        expected = golden(encap, version, inner(), **changes, udp_sport=source)
        assert frame == bytes(expected)

    def test_another_id_or_sender_or_receiver_is_a_miss(self, encap: Encap, version: int) -> None:
        found = card(new_filter(DEVICES[encap], inward(version)))
        back = inner(FAR, POD)
        ends = ("198.51.100.9", "2001:db8::9")[version == 6]
        for changes in ({"ip_src": ends}, {"ip_dst": ends}):
            came = bytes(arriving(encap, version, back, **changes))
            assert found.forward("up", came) == ("cpu0", came)
        came = bytes(arriving(encap, version, back)).replace(VNI.to_bytes(3), b"\0\0\1")
        assert found.forward("up", came) == ("cpu0", came)

    def test_the_other_encapsulation_is_a_miss(self, encap: Encap, version: int) -> None:
        (other,) = set(Encap) - {encap}
        found = card(new_filter(DEVICES[encap], inward(version)))
        came = bytes(arriving(other, version, inner(FAR, POD)))
        assert found.forward("up", came) == ("cpu0", came)


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        pytest.param({"ttl": 9}, {"ip_ttl": 9}, id="TTL"),
        pytest.param({"ttl": 0}, {"ip_ttl": 0}, id="no TTL is 0"),
        pytest.param({"tos": 0xB9}, {"ip_tos": 0xB9}, id="TOS"),
        pytest.param({"no_frag": False}, {"ip_flags": 0}, id="no DF"),
    ],
)
def test_what_an_ipv4_header_says(options: dict[str, int], changes: dict[str, object]) -> None:
    header = tunnel_set(OWN[4], REMOTE[4], VNI, **options)  # type: ignore[arg-type]
    made = keys(eth_dst=FAR) + actions(header, mirred(GENEVE_DEVICE)) + HARD
    _, frame = card(new_filter(REP0, made)).forward("vf0", inner()) or ("", b"")
    assert portless(frame, 4) == bytes(golden(Encap.GENEVE, 4, inner(), **changes))


def test_what_an_ipv6_header_says() -> None:
    header = tunnel_set(OWN[6], REMOTE[6], VNI, ttl=9, tos=0xB9)
    made = keys(eth_dst=FAR) + actions(header, mirred(VXLAN_DEVICE)) + HARD
    _, frame = card(new_filter(REP0, made)).forward("vf0", inner()) or ("", b"")
    expected = golden(Encap.VXLAN, 6, inner(), ip_hlim=9, ip_tc=0xB9)
    assert portless(frame, 6) == bytes(expected)


def test_the_ecn_inside_is_not_copied() -> None:
    marked = sent(IP(src="10.0.0.1", dst="10.0.0.2", tos=3) / UDP())
    found = card(new_filter(REP0, outward(Encap.GENEVE, 4)))
    _, frame = found.forward("vf0", marked) or ("", b"")
    assert portless(frame, 4) == bytes(golden(Encap.GENEVE, 4, marked))


def test_a_flow_has_one_source_port_and_flows_have_several() -> None:
    found = card(new_filter(REP0, outward(Encap.GENEVE, 4)))
    ports = set()
    for number in range(20):
        data = sent(IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1000 + number))
        _, frame = found.forward("vf0", data) or ("", b"")
        assert found.forward("vf0", data) == ("up", frame)
        ports.add(frame[34:36])
    assert len(ports) > 10


V4 = IP(src="10.0.0.1", dst="10.0.0.2", tos=8, ttl=33)
V6 = IPv6(src="fd00::1", dst="fd00::2", tc=0x88, hlim=33)
TCP4, UDP6 = V4 / TCP(sport=80, dport=81), V6 / UDP(sport=80, dport=81)
OTHER_TOS = IP(src="10.0.0.1", dst="10.0.0.2", tos=4) / UDP()
LONG4 = IP(src="10.0.0.1", dst="10.0.0.2", len=1500) / UDP()
LONG6 = IPv6(src="fd00::1", dst="fd00::2", plen=1500) / UDP()
FRAGMENT = IP(src="10.0.0.1", dst="10.0.0.2", tos=8, ttl=33, frag=5, proto=6)
FIRST = IP(src="10.0.0.1", dst="10.0.0.2", flags="MF") / TCP(sport=80, dport=81)
BY_TCP = keys(eth_type=0x800, ip_proto=6, tcp_dst=81)


@pytest.mark.parametrize(
    ("match", "hits", "misses"),
    [
        pytest.param(keys(eth_dst=FAR), [TCP4, UDP6, ARP()], [], id="destination"),
        pytest.param(keys(eth_dst=NEAR), [], [TCP4], id="another destination"),
        pytest.param(keys(eth_src=POD), [TCP4], [], id="source"),
        pytest.param(
            keys(eth_dst=("02:00:00:ff:ff:ff", "ff:ff:ff:00:00:00")), [TCP4], [], id="half a MAC"
        ),
        pytest.param(keys(eth_dst=FAR, eth_type=0x800), [TCP4, FRAGMENT], [UDP6, ARP()], id="type"),
        pytest.param(keys(eth_dst=FAR, eth_type=3), [TCP4, UDP6, ARP()], [], id="every type"),
        pytest.param(
            keys(eth_dst=FAR, eth_src=bytes(6)), [TCP4], [], id="a key of zeros is left out"
        ),
        pytest.param(keys(ipv4_src="10.0.0.1"), [TCP4, FRAGMENT], [UDP6, ARP()], id="IPv4 source"),
        pytest.param(keys(ipv4_dst="10.0.0.1"), [], [TCP4], id="another IPv4 destination"),
        pytest.param(keys(ipv4_src="10.0.0.1"), [LONG4], [LONG6], id="whose length lies"),
        pytest.param(keys(ipv6_src="fd00::1"), [LONG6], [LONG4], id="IPv6 whose length lies"),
        pytest.param(
            keys(ipv4_src=("10.0.0.0", "255.255.255.0")), [TCP4], [UDP6], id="an IPv4 prefix"
        ),
        pytest.param(keys(ipv6_src="fd00::1"), [UDP6], [TCP4], id="IPv6 source"),
        pytest.param(keys(ipv6_dst=("fd00::", "ffff::")), [UDP6], [TCP4], id="an IPv6 prefix"),
        pytest.param(keys(ipv6_dst="fd00::1"), [], [UDP6], id="another IPv6 destination"),
        pytest.param(keys(eth_type=0x800, ip_tos=(8, 0xFC)), [TCP4], [OTHER_TOS], id="TOS"),
        pytest.param(keys(eth_type=0x86DD, ip_tos=(0x88, 255)), [UDP6], [TCP4], id="traffic class"),
        pytest.param(keys(eth_type=0x800, ip_ttl=(33, 255)), [TCP4], [UDP6], id="TTL"),
        pytest.param(keys(eth_type=0x800, ip_ttl=(32, 255)), [], [TCP4], id="another TTL"),
        pytest.param(keys(eth_type=0x86DD, ip_ttl=(33, 255)), [UDP6], [TCP4], id="hop limit"),
        pytest.param(BY_TCP, [TCP4], [FRAGMENT, FIRST, V4 / UDP(dport=81)], id="TCP port"),
        pytest.param(keys(eth_type=0x86DD, ip_proto=17, udp_src=80), [UDP6], [TCP4], id="UDP port"),
        pytest.param(
            keys(eth_dst=FAR, eth_type=0x800, ip_proto=17),
            [TCP4, V4 / UDP()],
            [UDP6],
            id="the protocol by itself is not looked at",
        ),
        pytest.param(
            keys(eth_dst=FAR, tcp_dst=5), [TCP4, UDP6], [], id="a port without its type is not"
        ),
        pytest.param(
            keys(eth_type=0x800, ip_proto=17, tcp_dst=5),
            [TCP4],
            [UDP6],
            id="nor of another protocol",
        ),
        pytest.param(keys(eth_dst=FAR, ip_ttl=(5, 255)), [TCP4, UDP6], [], id="nor a TTL of none"),
        pytest.param(
            keys(eth_dst=FAR, ipv6_src=("fd00::9", "::")), [TCP4, UDP6], [], id="nor by no mask"
        ),
    ],
)
def test_a_match(match: bytes, hits: list[Packet], misses: list[Packet]) -> None:
    found = card(new_filter(REP0, match + TO_REP1))
    assert [found.forward("vf0", sent(each)) for each in hits] == [
        ("vf1", sent(each)) for each in hits
    ]
    assert [found.forward("vf0", sent(each)) for each in misses] == [
        ("rep0", sent(each)) for each in misses
    ]
    assert found.filters(REP0)[0].counters == [(len(hits), sum(len(sent(each)) for each in hits))]


def test_of_a_tagged_frame_the_tag_is_the_type() -> None:
    found = card(
        new_filter(REP0, keys(eth_type=0x8100) + TO_REP1),
        new_filter(REP0, keys(eth_type=0x800) + actions(gact(SHOT)) + HARD, pref=11),
    )
    assert found.forward("vf0", inner(tag=5)) == ("vf1", inner(tag=5))
    assert found.forward("vf0", inner()) is None


@pytest.mark.parametrize("cut", [15, 33])
def test_of_a_header_that_is_cut_short_nothing_is_compared(cut: int) -> None:
    found = card(new_filter(REP0, keys(ipv4_src="10.0.0.1") + TO_REP1))
    assert found.forward("vf0", inner()[:cut]) == ("rep0", inner()[:cut])


def test_what_comes_in_and_is_only_redirected_keeps_its_outer_headers() -> None:
    made = keys(enc_key_id=VNI) + actions(mirred(REP0)) + HARD
    found = card(new_filter(GENEVE_DEVICE, made), tunnels=False)
    came = bytes(arriving(Encap.GENEVE, 4, inner(FAR, POD)))
    assert found.forward("up", came) == ("vf0", came)
    assert found.filters(GENEVE_DEVICE)[0].counters == [(0, 0)]  # it counts nothing


def test_what_comes_in_may_be_dropped() -> None:
    made = keys(enc_key_id=VNI, eth_dst=POD) + actions(gact(SHOT)) + HARD
    found = card(new_filter(GENEVE_DEVICE, made))
    assert found.forward("up", arriving(Encap.GENEVE, 4, inner(FAR, POD))) is None
    other = bytes(arriving(Encap.GENEVE, 4, inner(FAR, NEAR)))
    assert found.forward("up", other) == ("cpu0", other)


def test_the_udp_port_of_a_match_is_not_looked_at() -> None:
    made = keys(enc_key_id=VNI, enc_udp_dst_port=5)
    made += actions(tunnel_release(), mirred(REP0)) + HARD
    found = card(new_filter(GENEVE_DEVICE, made))
    back = inner(FAR, POD)
    assert found.forward("up", arriving(Encap.GENEVE, 4, back)) == ("vf0", back)


def test_of_an_id_24_bits_count() -> None:
    made = keys(enc_key_id=0xFF000000 | VNI) + actions(tunnel_release(), mirred(REP0)) + HARD
    back = inner(FAR, POD)
    found = card(new_filter(GENEVE_DEVICE, made))
    assert found.forward("up", arriving(Encap.GENEVE, 4, back)) == ("vf0", back)


def test_prefs_are_not_looked_at_and_the_last_filter_wins() -> None:
    first = new_filter(REP0, keys(eth_dst=NEAR) + actions(gact(SHOT)) + HARD, pref=1)
    second = new_filter(REP0, keys(eth_src=POD) + TO_REP1, pref=99)
    data = inner(destination=NEAR)
    for order, expected in (((first, second), ("vf1", data)), ((second, first), None)):
        assert card(*order).forward("vf0", data) == expected


def test_deleted_it_is_a_miss_again() -> None:
    found = card(new_filter(REP0, local()))
    data = inner(destination=NEAR)
    assert found.forward("vf0", data) == ("vf1", data)
    found.do(one_filter(DELTFILTER, REP0, 10, 1))
    assert found.forward("vf0", data) == ("rep0", data)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"ip_flags": "MF"}, id="a fragment"),
        pytest.param({"ip_chksum": 1}, id="a wrong header checksum"),
        pytest.param({"ip_len": 30}, id="a wrong length"),
        pytest.param({"udp_len": 9}, id="a wrong UDP length"),
        pytest.param({"udp_chksum": 1}, id="a wrong UDP checksum"),
        pytest.param({"udp_dport": 6082}, id="another port"),
        pytest.param({"eth_type": 0x88B5}, id="another type"),
    ],
)
def test_what_is_no_tunnel_packet_is_a_miss(change: dict[str, object]) -> None:
    found = card(new_filter(GENEVE_DEVICE, inward(4)))
    came = bytes(arriving(Encap.GENEVE, 4, inner(FAR, POD), **change))
    assert found.forward("up", came) == ("cpu0", came)


@pytest.mark.parametrize(
    "shim",
    [
        pytest.param(GENEVE(vni=VNI, proto=0x6558, version=1), id="version"),
        pytest.param(GENEVE(vni=VNI, proto=0x6558, oam=1), id="OAM"),
        pytest.param(GENEVE(vni=VNI, proto=0x6558, critical=1), id="critical"),
        pytest.param(GENEVE(vni=VNI, proto=0x0800), id="IP inside"),
        pytest.param(GENEVE(vni=VNI, proto=0x6558, options=b"\0\1\2\1\0\0\0\0"), id="options"),
    ],
)
def test_another_geneve_header_is_a_miss(shim: Packet) -> None:
    found = card(new_filter(GENEVE_DEVICE, keys(enc_key_id=VNI) + actions(gact(SHOT)) + HARD))
    head = Ether() / IP(src=REMOTE[4], dst=OWN[4]) / UDP(sport=1, dport=6081, chksum=0)
    came = bytes(head / shim / Raw(inner(FAR, POD)))
    assert found.forward("up", came) == ("cpu0", came)


@settings(deadline=None, max_examples=200)
@given(at=st.integers(0, 70), value=st.integers(0, 255), version=st.sampled_from([4, 6]))
def test_a_byte_that_is_changed_makes_no_other_frame(at: int, value: int, version: int) -> None:
    """A tunnel packet with any byte changed is taken out of its tunnel, or comes as it is."""
    found = card(new_filter(GENEVE_DEVICE, inward(version)))
    came = bytearray(bytes(arriving(Encap.GENEVE, version, inner(FAR, POD))))
    came[at] = value
    start = {4: 50, 6: 70}[version]
    expected = {("vf0", bytes(came[start:])), ("cpu0", bytes(came))}
    assert found.forward("up", bytes(came)) in expected


@settings(deadline=None, max_examples=200)
@given(port=st.sampled_from([*MISSES]), data=st.binary(max_size=120))
def test_rubbish_is_a_miss_or_nothing(port: str, data: bytes) -> None:
    found = card(new_filter(REP0, outward(Encap.GENEVE, 4)), new_filter(GENEVE_DEVICE, inward(4)))
    assert found.forward(port, data) == ((MISSES[port], data) if len(data) >= 14 else None)
