"""What the XDP program drops before there is a buffer, and what it must not (BPF_PROG_TEST_RUN)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import IP, UDP, IPOption_Router_Alert
from scapy.layers.inet6 import IPv6, IPv6ExtHdrHopByHop
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet

from bpf.bpffs import Pins
from bpf.layout import XDP_PROGRAM, encode_ifindex
from bpf.loader import load
from bpf.syscalls import open_map
from dataplane.core.model import Encap, Family
from dataplane.core.reasons import Reason
from tests.functional.bpf_support import mounted_bpffs
from tests.packets.paths import SOURCE
from tests.packets.test_fastpath import (
    HOST,
    INSIDE,
    LOOPBACK,
    OWN,
    STRANGER,
    TUNNELS,
    VNI,
    Node,
    World,
    outer,
    tunnel_packet,
)

DROP, PASS = 1, 2  # linux/bpf.h
GENEVE4, GENEVE6 = (tunnel_packet(Encap.GENEVE, family, INSIDE) for family in Family)
VXLAN4 = tunnel_packet(Encap.VXLAN, Family.IPV4, INSIDE)


@pytest.fixture(scope="module")
def pins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pins]:
    with mounted_bpffs(tmp_path_factory.mktemp("xdp") / "bpf") as bpffs:
        yield load(bpffs, SOURCE)


@pytest.fixture
def node(pins: Pins) -> Node:
    return Node(pins)


def judged(node: Node, frame: Packet | bytes) -> Reason | None:
    """Return why a frame is dropped, None if it is passed on; it is counted by that, or not."""
    result = node.run(XDP_PROGRAM, frame)
    counted = node.counted
    assert result.data == bytes(frame)
    assert (result.retval, sum(counted.values())) in {(PASS, 0), (DROP, 1)}
    return next(iter(counted), None)


def put(frame: Packet, at: int, value: bytes) -> bytes:
    data = bytes(frame)
    return data[:at] + value + data[at + len(value) :]


def geneve(inside: bytes, options: int = 0, promised: int | None = None) -> bytes:
    """Return a peer's packet with ``options`` words of Geneve options; ``promised``: it says."""
    words = options if promised is None else promised
    header = bytes([words]) + bytes(GENEVE(vni=VNI, proto=0x6558))[1:] + b"\1\2\3\0" * options
    ends = IP(src=GENEVE4[IP].src, dst=GENEVE4[IP].dst)
    return bytes(Ether(dst=HOST) / ends / UDP(dport=6081, chksum=0) / (header + inside))


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize(("encap", "family"), TUNNELS)
def test_what_a_peer_sends_passes(
    node: Node, encap: Encap, family: Family, *, exclusive: bool
) -> None:
    node.hold(World(encap, family, exclusive_ports=exclusive))
    assert judged(node, tunnel_packet(encap, family, INSIDE)) is None


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize(("encap", "family"), TUNNELS)
def test_strangers_are_dropped_only_where_the_ports_are_ours_alone(
    node: Node, encap: Encap, family: Family, *, exclusive: bool
) -> None:
    node.hold(World(encap, family, exclusive_ports=exclusive))
    reason = Reason.UNKNOWN_VTEP if exclusive else None
    for strange in ({"source": STRANGER[family]}, {"vni": VNI + 1}):
        frame = tunnel_packet(encap, family, INSIDE, **strange)
        assert judged(node, frame) is reason
        node.hold(World(encap, family, exclusive_ports=exclusive))


@pytest.mark.parametrize(
    ("family", "encap", "frame"),
    [
        pytest.param(Family.IPV4, Encap.GENEVE, outer(GENEVE4, chksum=0x1234), id="header-sum"),
        pytest.param(Family.IPV4, Encap.GENEVE, outer(GENEVE4, len=900), id="longer-than-frame"),
        pytest.param(Family.IPV6, Encap.GENEVE, outer(GENEVE6, plen=900), id="longer-ipv6"),
        pytest.param(Family.IPV4, Encap.GENEVE, geneve(b"")[:-1], id="cut-tunnel-header"),
        pytest.param(Family.IPV4, Encap.GENEVE, geneve(bytes(13)), id="short-frame-inside"),
        pytest.param(Family.IPV4, Encap.GENEVE, geneve(bytes(13), 3), id="short-behind-options"),
        pytest.param(Family.IPV4, Encap.GENEVE, geneve(bytes(30), 0, 9), id="options-past-end"),
        pytest.param(Family.IPV4, Encap.GENEVE, put(GENEVE4, 42, b"\x40"), id="geneve-version-1"),
        pytest.param(Family.IPV4, Encap.GENEVE, put(GENEVE4, 42, b"\x80"), id="geneve-version-2"),
        pytest.param(Family.IPV4, Encap.VXLAN, put(VXLAN4, 42, b"\0"), id="vxlan-without-vni"),
    ],
)
def test_malformed_packets_are_dropped(
    node: Node, family: Family, encap: Encap, frame: bytes
) -> None:
    node.hold(World(encap, family))
    assert judged(node, frame) is Reason.DAMAGED


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(geneve(bytes(14)), id="shortest-frame-inside"),
        pytest.param(geneve(bytes(14), 3), id="options"),
        pytest.param(bytes(GENEVE4) + bytes(20), id="padding"),
        pytest.param(outer(GENEVE4, options=[IPOption_Router_Alert()]), id="ip-options"),
        pytest.param(
            outer(GENEVE4, options=[IPOption_Router_Alert()], chksum=0x1234),
            id="ip-options-with-a-sum-that-is-not-made",
        ),
        pytest.param(outer(GENEVE4, flags="MF"), id="fragment"),
        pytest.param(put(GENEVE4, 38, b"\0\1"), id="udp-length-too-small"),
        pytest.param(put(GENEVE4, 38, b"\xff\xff"), id="udp-length-too-large"),
        pytest.param(put(GENEVE4, 42, b"\0\x80"), id="oam"),
        pytest.param(put(GENEVE4, 44, b"\x08\0"), id="geneve-with-ip-inside"),
        pytest.param(outer(GENEVE4, dst="192.0.2.7", chksum=1), id="for-another-address"),
        pytest.param(put(GENEVE4, 36, b"\x17\xc2")[:45], id="for-another-port"),
        pytest.param(put(GENEVE4, 0, b"\xff" * 6)[:45], id="broadcast"),
        pytest.param(put(GENEVE4, 0, b"\2\0\0\0\0\7")[:45], id="for-another-mac"),
        pytest.param(Ether(dst=HOST) / Dot1Q(vlan=5) / bytes(GENEVE4.payload)[:40], id="vlan"),
        pytest.param(
            Ether(dst=HOST)
            / IPv6(dst=str(OWN[Family.IPV6]))
            / IPv6ExtHdrHopByHop()
            / UDP(dport=6081)
            / b"x",
            id="extension-header",
        ),
        pytest.param(bytes(GENEVE4)[:14], id="ethernet-alone"),
        pytest.param(bytes(GENEVE4)[:41], id="cut-udp-header"),
    ],
)
def test_what_somebody_may_take_passes(node: Node, frame: Packet | bytes) -> None:
    node.hold(World(exclusive_ports=True))
    assert judged(node, frame) is None


def test_a_strangers_malformed_tunnel_header_is_for_his_own_tunnel_to_judge(node: Node) -> None:
    node.hold(World())
    frame = tunnel_packet(Encap.GENEVE, Family.IPV4, INSIDE, source=STRANGER[Family.IPV4])
    assert judged(node, put(frame, 42, b"\x40")) is None


def test_a_nic_whose_mac_is_not_known_passes_everything(node: Node) -> None:
    node.hold(World(exclusive_ports=True))
    with open_map(node.pins.map("nics")) as nics:
        nics.delete(encode_ifindex(LOOPBACK))
    assert judged(node, outer(GENEVE4, chksum=0x1234)) is None


def test_switched_off_everything_passes(node: Node) -> None:
    node.hold(World(fastpath=False, exclusive_ports=True))
    for frame in (GENEVE4, outer(GENEVE4, chksum=0x1234), geneve(b"")):
        assert judged(node, frame) is None
