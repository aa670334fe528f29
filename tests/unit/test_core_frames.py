"""Frames are what scapy reads in them, and a tunnel packet is read as it was written."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN

from dataplane.core import frames
from dataplane.core.frames import Ip, TunnelPacket, encapsulate, ip_frame, parse_tunnel, told_inside
from dataplane.core.model import Encap, IpAddress, Vni
from dataplane.core.path import Tunnel

NIC = "02:00:00:00:aa:01"
MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")
ENDS = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1", "2001:db8::2")}


def ends(version: int) -> tuple[IpAddress, IpAddress]:
    source, target = ENDS[version]
    return ip_address(source), ip_address(target)


versions = st.sampled_from((4, 6))
tunnels = st.builds(
    lambda encap, vni, version, port: Tunnel(encap, Vni(vni), *ends(version), port),
    st.sampled_from(Encap),
    st.integers(1, (1 << 24) - 1),
    versions,
    st.integers(1, 65535),
)
frames_of_any_kind = st.binary(min_size=14, max_size=200)


def header(version: int, protocol: int = frames.UDP) -> Ip:
    return Ip(*ends(version), protocol)


@given(tunnels, frames_of_any_kind, st.integers(0, 3))
def test_a_tunnel_packet_is_read_as_it_was_written(tunnel: Tunnel, inner: bytes, ecn: int) -> None:
    df = True if tunnel.source.version == 4 else None
    packet = encapsulate(tunnel, NIC, inner, ecn)
    assert parse_tunnel(packet) == TunnelPacket(tunnel, inner, df, 64, ecn)


@given(tunnels, frames_of_any_kind)
def test_scapy_reads_the_same(tunnel: Tunnel, inner: bytes) -> None:
    packet = Ether(encapsulate(tunnel, NIC, inner))
    outer = packet[IP] if tunnel.source.version == 4 else packet[IPv6]
    assert (packet.dst, outer.src, outer.dst) == (NIC, str(tunnel.source), str(tunnel.target))
    datagram = outer[UDP]
    assert (datagram.dport, datagram.len) == (tunnel.udp_port, len(datagram))
    kind = GENEVE if tunnel.encap is Encap.GENEVE else VXLAN
    read = kind(bytes(datagram.payload))
    assert (read.vni, bytes(read.payload)) == (tunnel.vni, inner)
    if tunnel.source.version == 4:
        again = IP(bytes(outer))
        del again.chksum
        assert outer.chksum == IP(bytes(again)).chksum


@given(tunnels, frames_of_any_kind, st.data())
def test_damage_never_raises(tunnel: Tunnel, inner: bytes, data: st.DataObject) -> None:
    packet = encapsulate(tunnel, NIC, inner)
    cut = data.draw(st.integers(0, len(packet)))
    parse_tunnel(packet[:cut])
    at = data.draw(st.integers(0, len(packet) - 1))
    found = parse_tunnel(packet[:at] + data.draw(st.binary(min_size=1, max_size=8)) + packet[at:])
    assert found is None or len(found.inner) >= 14


@given(st.binary(max_size=120))
def test_nonsense_is_no_tunnel_packet(data: bytes) -> None:
    found = parse_tunnel(data)
    assert found is None or data.endswith(found.inner)


@pytest.mark.parametrize(
    ("at", "wrong"),
    [
        pytest.param(14, b"\x46", id="IPv4 options"),
        pytest.param(20, b"\x20\x00", id="fragment"),
        pytest.param(16, b"\0\0", id="IPv4 length"),
        pytest.param(38, b"\0\0", id="UDP length"),
        pytest.param(42, b"\x40", id="Geneve version"),
        pytest.param(46, bytes(3), id="VNI"),
    ],
)
def test_what_is_not_as_it_should_be_is_none(at: int, wrong: bytes) -> None:
    tunnel = Tunnel(Encap.GENEVE, Vni(7), *ends(4), 6081)
    packet = encapsulate(tunnel, NIC, bytes(20))
    assert parse_tunnel(packet) is not None
    assert parse_tunnel(packet[:at] + wrong + packet[at + len(wrong) :]) is None


@given(versions, st.sampled_from((frames.TCP, frames.UDP, frames.ICMP)), st.binary(max_size=99))
def test_sums_are_right(version: int, protocol: int, payload: bytes) -> None:
    if protocol == frames.ICMP and version == 6:
        protocol = frames.ICMPV6
    places = {frames.TCP: 16, frames.UDP: 6, frames.ICMP: 2, frames.ICMPV6: 2}
    head = {frames.TCP: bytes(12) + b"\x50" + bytes(7), frames.UDP: frames.udp(7, payload)[:8]}
    ip = header(version, protocol)
    message = ip.summed(head.get(protocol, b"\x80\0\0\0\0\0\0\0") + payload, places[protocol])
    read = Ether(ip_frame(*MACS, ip.packet(message))).payload
    name = "cksum" if version == 6 and protocol == frames.ICMPV6 else "chksum"
    found = getattr(read.payload, name)
    delattr(read.payload, name)
    again = type(read)(bytes(read))
    assert found == getattr(again.payload, name)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("outer", "inner", "told"),
    [(0, 2, 2), (1, 1, 1), (2, 0, 0), (3, 0, 0), (3, 1, 3), (3, 2, 3), (3, 3, 3)],
)
def test_congestion_is_told_inside(version: int, outer: int, inner: int, told: int) -> None:
    """RFC 6040 section 4.2."""
    ip = replace(header(version), tos=inner | 0xB8)
    frame = ip_frame(*MACS, ip.packet(frames.udp(7, b"x")))
    tunnel = Tunnel(Encap.VXLAN, Vni(7), *ends(4), 4789)
    found = told_inside(TunnelPacket(tunnel, frame, True, 64, outer))
    assert found == ip_frame(*MACS, replace(ip, tos=told | 0xB8).packet(frames.udp(7, b"x")))


def test_what_is_no_ip_inside_is_told_nothing() -> None:
    tunnel = Tunnel(Encap.VXLAN, Vni(7), IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2"), 4789)
    for inner in (b"\xff" * 14, b"\xff" * 60, ip_frame(*MACS, b"\x45\x03")):
        assert told_inside(TunnelPacket(tunnel, inner, True, 64, 3)) == inner


def test_an_answer_goes_the_other_way_and_nothing_else_does() -> None:
    ends = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")
    six = ip_address("fd00::1"), ip_address("fd00::2")
    others = Ip(ends[1], IPv4Address("10.0.0.3"), frames.UDP)
    for one, other in (ends, six):
        question = ip_frame(MACS[1], MACS[0], Ip(one, other, frames.UDP).packet(b"mark"))
        answer = ip_frame(*MACS, Ip(other, one, frames.ICMP).packet(b"quoted" + question))
        swapped = question[6:12] + question[:6] + question[12:]
        assert frames.is_answer(question, answer)
        for each in (
            question,
            swapped,
            ip_frame(*MACS, others.packet(b"")),
            b"",
            answer[:20],
            question[:14],
        ):
            assert not frames.is_answer(question, each)
    for nothing in (b"", bytes(60)):
        assert not frames.is_answer(nothing, nothing)
