"""Frames as the device's parser sees them, and the outer headers that it writes. Pure."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

ETHERNET, IPV4, IPV6, UDP, SHIM = 14, 20, 40, 8, 8  # header sizes in bytes
ARP, IPV4_TYPE, IPV6_TYPE = 0x0806, 0x0800, 0x86DD
_TAGS = frozenset({0x8100, 0x88A8})
_UDP_PROTOCOL = 17
_FRAGMENT = 0x3FFF  # MF and the offset (RFC 791)
_DF = 0x4000
_TTL = 64
_BRIDGED = 0x6558  # Transparent Ethernet bridging (RFC 8926, 3.4)


class Encap(Enum):
    """A tunnel protocol; the value is the UDP port by which the parser knows it."""

    VXLAN = 4789
    GENEVE = 6081


@dataclass(frozen=True, slots=True)
class Frame:
    """An Ethernet frame: MACs as numbers, the VLAN of its first tag or 0, the type behind its tags.

    ``start`` is where its payload begins.
    """

    destination: int
    source: int
    vid: int
    ether_type: int
    start: int


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A tunnel packet: outer source address of ``version`` 4 or 6, and what it holds."""

    encap: Encap
    version: int
    source: int
    vni: int
    inner: bytes


def parse_frame(data: bytes) -> Frame | None:
    """Return what is in an Ethernet header, or None: it is cut short."""
    if len(data) < ETHERNET:
        return None
    start, vid = ETHERNET, 0
    ether_type = int.from_bytes(data[12:14])
    while ether_type in _TAGS and len(data) >= start + 4:
        if start == ETHERNET:
            vid = int.from_bytes(data[start : start + 2]) & 0xFFF
        ether_type = int.from_bytes(data[start + 2 : start + 4])
        start += 4
    return Frame(int.from_bytes(data[:6]), int.from_bytes(data[6:12]), vid, ether_type, start)


def parse_tunnel(data: bytes) -> Tunnel | None:
    """Return the tunnel packet in a frame, or None: it is an ordinary frame."""
    frame = parse_frame(data)
    if frame is None or frame.start != ETHERNET:
        return None
    if frame.ether_type == IPV4_TYPE:
        return _in_ipv4(data[ETHERNET:])
    return _in_ipv6(data[ETHERNET:]) if frame.ether_type == IPV6_TYPE else None


def encapsulate(encap: Encap, args: Mapping[str, int], inner: bytes, macs: bytes) -> bytes:
    """Return ``inner`` behind outer headers; ``args`` are those of an encapsulation's action.

    ``macs`` are the outer destination and source. UDP checksums are zero.
    """
    payload = _shim(encap, args["vni"]) + inner
    udp = struct.pack("!HHHH", args["src_port"], args["dst_port"], UDP + len(payload), 0)
    if "hop_limit" in args:
        word = 6 << 28 | args["ds"] << 22 | args["ecn"] << 20 | args["flow_label"]
        sizes = struct.pack("!IHBB", word, UDP + len(payload), _UDP_PROTOCOL, args["hop_limit"])
        network = sizes + args["src_addr"].to_bytes(16) + args["dst_addr"].to_bytes(16)
        return macs + IPV6_TYPE.to_bytes(2) + network + udp + payload
    size = IPV4 + UDP + len(payload)
    addresses = (args["src_addr"], args["dst_addr"])
    network = struct.pack("!BBHHHBBHII", 0x45, 0, size, 0, _DF, _TTL, _UDP_PROTOCOL, 0, *addresses)
    network = network[:10] + checksum(network).to_bytes(2) + network[12:]
    return macs + IPV4_TYPE.to_bytes(2) + network + udp + payload


def checksum(data: bytes) -> int:
    """Return the Internet checksum of ``data`` (RFC 1071)."""
    padded = data + bytes(len(data) % 2)
    # The sum of the 16-bit words modulo 2^16 - 1: what folding the carries gives, save for zero.
    total = int.from_bytes(padded) % 0xFFFF
    return 0xFFFF ^ (total if total or not any(padded) else 0xFFFF)


def _shim(encap: Encap, vni: int) -> bytes:
    if encap is Encap.VXLAN:
        return struct.pack("!II", 0x08 << 24, vni << 8)
    return struct.pack("!BBHI", 0, 0, _BRIDGED, vni << 8)


def _in_ipv4(packet: bytes) -> Tunnel | None:
    if len(packet) < IPV4 or packet[0] != 0x45 or checksum(packet[:IPV4]):
        return None
    size, fragment = int.from_bytes(packet[2:4]), int.from_bytes(packet[6:8])
    if packet[9] != _UDP_PROTOCOL or fragment & _FRAGMENT or not IPV4 <= size <= len(packet):
        return None
    pseudo = packet[12:20] + struct.pack("!HH", _UDP_PROTOCOL, size - IPV4)
    return _in_udp(packet[IPV4:size], pseudo, 4, int.from_bytes(packet[12:16]))


def _in_ipv6(packet: bytes) -> Tunnel | None:
    if len(packet) < IPV6 or packet[0] >> 4 != 6 or packet[6] != _UDP_PROTOCOL:
        return None
    size = int.from_bytes(packet[4:6])
    if IPV6 + size > len(packet):
        return None
    pseudo = packet[8:40] + struct.pack("!II", size, _UDP_PROTOCOL)
    return _in_udp(packet[IPV6 : IPV6 + size], pseudo, 6, int.from_bytes(packet[8:24]))


def _in_udp(datagram: bytes, pseudo: bytes, version: int, source: int) -> Tunnel | None:
    if len(datagram) < UDP + SHIM + ETHERNET or int.from_bytes(datagram[4:6]) != len(datagram):
        return None
    if datagram[6:8] != bytes(2) and checksum(pseudo + datagram):
        return None
    port, shim = int.from_bytes(datagram[2:4]), datagram[UDP : UDP + SHIM]
    is_vxlan = port == Encap.VXLAN.value and shim[0] & 0x08  # flag I (RFC 7348, 5)
    # Version, options and the flags O and C are zero (RFC 8926, 3.4).
    plain = shim[0] == 0 and not shim[1] & 0xC0 and int.from_bytes(shim[2:4]) == _BRIDGED
    if not is_vxlan and not (port == Encap.GENEVE.value and plain):
        return None
    vni = int.from_bytes(shim[4:7])
    return Tunnel(Encap(port), version, source, vni, datagram[UDP + SHIM :])
