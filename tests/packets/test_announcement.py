"""The announcement frames, byte for byte those of another encoder."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from dataplane.core.model import Mac
from dataplane.host.announcement import announcement

MAC = Mac("02:aa:00:00:00:01")
LINK_LOCAL = "fe80::aa:ff:fe00:1"  # RFC 4291 appendix A: the universal/local bit is inverted


def arp(ip: str) -> Packet:
    request = ARP(op="who-has", hwsrc=MAC, psrc=ip, hwdst="00:00:00:00:00:00", pdst=ip)
    return Ether(src=MAC, dst="ff:ff:ff:ff:ff:ff") / request


def na(ip: str) -> Packet:
    header = IPv6(src=ip, dst="ff02::1", hlim=255)
    advertisement = ICMPv6ND_NA(R=0, S=0, O=1, tgt=ip) / ICMPv6NDOptDstLLAddr(lladdr=MAC)
    return Ether(src=MAC, dst="33:33:00:00:00:01") / header / advertisement


@pytest.mark.parametrize(
    ("ips", "frames"),
    [
        pytest.param([], [na(LINK_LOCAL)], id="no-address"),
        pytest.param(["10.0.0.5"], [arp("10.0.0.5"), na(LINK_LOCAL)], id="ipv4"),
        pytest.param(["fd00::5"], [na("fd00::5"), na(LINK_LOCAL)], id="ipv6"),
        pytest.param(
            ["10.0.0.5", "fd00::5", "10.1.255.254", "2001:db8:ffff::ffff"],
            [
                arp("10.0.0.5"),
                na("fd00::5"),
                arp("10.1.255.254"),
                na("2001:db8:ffff::ffff"),
                na(LINK_LOCAL),
            ],
            id="several",
        ),
        pytest.param([LINK_LOCAL], [na(LINK_LOCAL)], id="link-local-once"),
    ],
)
def test_frames_are_those_of_scapy(ips: list[str], frames: list[Packet]) -> None:
    made = announcement(MAC, tuple(ip_address(ip) for ip in ips))
    assert [frame.hex() for frame in made] == [bytes(frame).hex() for frame in frames]
