"""Frames of a pod in its own name and in those of others, made by an encoder that is not ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from dataplane.core.addressing import eui64_link_local
from dataplane.core.model import Mac
from dataplane.lab.probes import Station

NOBODY_MAC = "02:99:99:99:99:99"
ALL, ALL_NODES, NODES_MAC = "ff:ff:ff:ff:ff:ff", "ff02::1", "33:33:00:00:00:01"


@dataclass(frozen=True, slots=True)
class Pods:
    """``me`` sends, ``other`` is whose name it takes, ``sink`` lives on another node."""

    me: Station
    other: Station
    sink: Station

    def to_sink(self, mac: str = "") -> Packet:
        return Ether(src=mac or self.me.mac, dst=self.sink.mac)

    def to_all(self) -> Packet:
        return Ether(src=self.me.mac, dst=ALL)

    def to_nodes(self) -> Packet:
        return Ether(src=self.me.mac, dst=NODES_MAC)

    def multicast(self, source: str = "", group: str = ALL_NODES) -> Packet:
        tail = ip_address(group).packed[-4:].hex(":")
        outer = Ether(src=self.me.mac, dst=f"33:33:{tail}")
        return outer / IPv6(src=source or v6(self.me), dst=group, hlim=255)


def v4(station: Station) -> str:
    return str(station.ip(4))


def v6(station: Station) -> str:
    return str(station.ip(6))


def local(station: Station) -> str:
    return str(eui64_link_local(Mac(station.mac)))


def unused(station: Station) -> str:
    """Return an address that nobody has, so that no question for it is answered on the spot."""
    return f"{v6(station).split('::')[0]}::e:e"


def group_of(ip: str) -> str:
    """Return the solicited-node group of an address (RFC 4291 section 2.7.1)."""
    return str(IPv6Address(b"\xff\x02" + bytes(9) + b"\x01\xff" + ip_address(ip).packed[-3:]))


def udp4(pods: Pods, source: str) -> Packet:
    return IP(src=source, dst=v4(pods.sink)) / UDP(dport=7)


def udp6(pods: Pods, source: str) -> Packet:
    return IPv6(src=source, dst=v6(pods.sink)) / UDP(dport=7)


def arp_reply(pods: Pods, mac: str, ip: str) -> Packet:
    return ARP(op="is-at", hwsrc=mac, psrc=ip, hwdst=pods.sink.mac, pdst=v4(pods.sink))


def arp_request(pods: Pods, ip: str) -> Packet:
    unknown = ".".join([*v4(pods.me).split(".")[:2], "14.250"])
    return ARP(op="who-has", hwsrc=pods.me.mac, psrc=ip, pdst=unknown)


def na(target: str, mac: str) -> Packet:
    return ICMPv6ND_NA(R=0, S=0, O=1, tgt=target) / ICMPv6NDOptDstLLAddr(lladdr=mac)


def ns(pods: Pods, source: str, mac: str) -> Packet:
    target = unused(pods.me)
    question = ICMPv6ND_NS(tgt=target) / ICMPv6NDOptSrcLLAddr(lladdr=mac)
    return pods.multicast(source, group_of(target)) / question


def dad(pods: Pods, target: str) -> Packet:
    return pods.multicast("::", group_of(target)) / ICMPv6ND_NS(tgt=target)


TAG = Dot1Q(vlan=0)  # a priority tag, which receivers strip
RA = ICMPv6ND_RA(prf=1) / ICMPv6NDOptPrefixInfo(prefix="2001:db8:bad::", prefixlen=64)

Make = Callable[[Pods], Packet]
SPOOFS: dict[str, Make] = {
    "MAC": lambda p: p.to_sink(p.other.mac) / udp4(p, v4(p.me)),
    "MAC of nobody": lambda p: p.to_sink(NOBODY_MAC) / udp6(p, v6(p.me)),
    "IPv4": lambda p: p.to_sink() / udp4(p, v4(p.other)),
    "IPv4 from elsewhere": lambda p: p.to_sink() / udp4(p, "198.51.100.1"),
    "IPv4 fragment": lambda p: (
        p.to_sink() / IP(src=v4(p.other), dst=v4(p.sink), frag=5) / Raw(b"x")
    ),
    "IPv6": lambda p: p.to_sink() / udp6(p, v6(p.other)),
    "link-local": lambda p: p.to_sink() / udp6(p, local(p.other)),
    "ARP sha": lambda p: p.to_sink() / arp_reply(p, p.other.mac, v4(p.me)),
    "ARP spa": lambda p: p.to_sink() / arp_reply(p, p.me.mac, v4(p.other)),
    "ARP request": lambda p: p.to_all() / arp_request(p, v4(p.other)),
    "NA target": lambda p: p.multicast() / na(v6(p.other), p.me.mac),
    "NA option": lambda p: p.multicast() / na(v6(p.me), p.other.mac),
    "NA behind a header": lambda p: p.multicast() / IPv6ExtHdrDestOpt() / na(v6(p.other), p.me.mac),
    "NS option": lambda p: ns(p, v6(p.me), p.other.mac),
    "NS source": lambda p: ns(p, v6(p.other), p.me.mac),
    "DAD": lambda p: dad(p, v6(p.other)),
    "RA": lambda p: p.multicast(local(p.me)) / RA,
    "RA in a fragment": lambda p: p.multicast(local(p.me)) / IPv6ExtHdrFragment(m=1) / RA,
    "redirect": lambda p: (
        p.multicast(local(p.me)) / ICMPv6ND_Redirect(tgt=local(p.me), dst=v6(p.me))
    ),
    "IPv4 behind a tag": lambda p: p.to_sink() / TAG / udp4(p, v4(p.other)),
    "IPv4 behind a service tag": lambda p: p.to_sink() / Dot1AD() / udp4(p, v4(p.other)),
    "IPv4 behind a tag of each": lambda p: p.to_sink() / Dot1AD() / TAG / udp4(p, v4(p.other)),
    "IPv4 behind one, then one": lambda p: p.to_sink() / TAG / Dot1AD() / udp4(p, v4(p.other)),
    "RA behind two": lambda p: p.to_nodes() / TAG / TAG / IPv6(src=local(p.me), dst=ALL_NODES) / RA,
    "IPv4 behind three": lambda p: p.to_sink() / TAG / TAG / TAG / udp4(p, v4(p.other)),
    "IPv4 behind two": lambda p: p.to_sink() / TAG / TAG / udp4(p, v4(p.other)),
}
HONEST: dict[str, Make] = {
    "own IPv4": lambda p: p.to_sink() / udp4(p, v4(p.me)),
    "own IPv6": lambda p: p.to_sink() / udp6(p, v6(p.me)),
    "own link-local": lambda p: p.to_sink() / udp6(p, local(p.me)),
    "own ARP reply": lambda p: p.to_sink() / arp_reply(p, p.me.mac, v4(p.me)),
    "own ARP request": lambda p: p.to_all() / arp_request(p, v4(p.me)),
    "own ARP probe": lambda p: p.to_all() / arp_request(p, "0.0.0.0"),
    "own NA": lambda p: p.multicast() / na(v6(p.me), p.me.mac),
    "own NS": lambda p: ns(p, v6(p.me), p.me.mac),
    "own DAD": lambda p: dad(p, v6(p.me)),
    "own DAD link-local": lambda p: dad(p, local(p.me)),
    "own RS": lambda p: p.multicast("::", "ff02::2") / ICMPv6ND_RS(),
}
