"""Frames as a device's parser sees them, and the outer headers that it writes. Pure.

Shares nothing with ``bpf/``: only so is it evidence that the two agree.
"""

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
_BRIDGED = 0x6558  # Transparent Ethernet bridging (RFC 8926, 3.4)


class Encap(Enum):
    """A tunnel protocol; the value is its own UDP port (RFC 7348, RFC 8926)."""

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
    """A tunnel packet to UDP ``port``: outer addresses of ``version`` 4 or 6, what it holds."""

    encap: Encap
    port: int
    version: int
    source: int
    target: int
    vni: int
    inner: bytes


@dataclass(frozen=True, slots=True)
class Outer:
    """What is written around a frame; ``tos`` is the traffic class of version 6."""

    encap: Encap
    version: int
    source: int
    target: int
    vni: int
    source_port: int
    target_port: int
    tos: int
    ttl: int
    flow_label: int = 0
    dont_fragment: bool = True
    checksummed: bool = False


@dataclass(frozen=True, slots=True)
class Sent:
    """A frame that leaves by a port."""

    port: str
    frame: bytes


KNOWN_PORTS: Mapping[int, Encap] = {encap.value: encap for encap in Encap}


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


def parse_tunnel(data: bytes, ports: Mapping[int, Encap] = KNOWN_PORTS) -> Tunnel | None:
    """Return the tunnel packet in a frame, or None: it is an ordinary frame.

    ``ports`` are the UDP destination ports by which it is known.
    """
    frame = parse_frame(data)
    if frame is None or frame.start != ETHERNET:
        return None
    if frame.ether_type == IPV4_TYPE:
        found = _in_ipv4(data[ETHERNET:])
    else:
        found = _in_ipv6(data[ETHERNET:]) if frame.ether_type == IPV6_TYPE else None
    return None if found is None else _in_udp(found, ports)


def encapsulate(outer: Outer, inner: bytes, macs: bytes) -> bytes:
    """Return ``inner`` behind outer headers; ``macs`` are the outer destination and source."""
    payload = _shim(outer.encap, outer.vni) + inner
    size = UDP + len(payload)
    octets = 4 if outer.version == 4 else 16
    addresses = outer.source.to_bytes(octets) + outer.target.to_bytes(octets)
    udp = struct.pack("!HHHH", outer.source_port, outer.target_port, size, 0)
    if outer.checksummed:
        pseudo = addresses + struct.pack("!II", size, _UDP_PROTOCOL)
        # A sum of zero is written as ones: zero says that there is none (RFC 768).
        udp = udp[:6] + (checksum(pseudo + udp + payload) or 0xFFFF).to_bytes(2)
    if outer.version == 6:
        word = 6 << 28 | outer.tos << 20 | outer.flow_label
        network = struct.pack("!IHBB", word, size, _UDP_PROTOCOL, outer.ttl) + addresses
        return macs + IPV6_TYPE.to_bytes(2) + network + udp + payload
    fragment = _DF if outer.dont_fragment else 0
    head = (0x45, outer.tos, IPV4 + size, 0, fragment, outer.ttl, _UDP_PROTOCOL, 0)
    network = struct.pack("!BBHHHBBH", *head) + addresses
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


@dataclass(frozen=True, slots=True)
class _Datagram:
    version: int
    addresses: bytes
    data: bytes


def _in_ipv4(packet: bytes) -> _Datagram | None:
    if len(packet) < IPV4 or packet[0] != 0x45 or checksum(packet[:IPV4]):
        return None
    size, fragment = int.from_bytes(packet[2:4]), int.from_bytes(packet[6:8])
    if packet[9] != _UDP_PROTOCOL or fragment & _FRAGMENT or not IPV4 <= size <= len(packet):
        return None
    return _Datagram(4, packet[12:20], packet[IPV4:size])


def _in_ipv6(packet: bytes) -> _Datagram | None:
    if len(packet) < IPV6 or packet[0] >> 4 != 6 or packet[6] != _UDP_PROTOCOL:
        return None
    size = int.from_bytes(packet[4:6])
    if IPV6 + size > len(packet):
        return None
    return _Datagram(6, packet[8:40], packet[IPV6 : IPV6 + size])


def _in_udp(datagram: _Datagram, ports: Mapping[int, Encap]) -> Tunnel | None:
    data, addresses = datagram.data, datagram.addresses
    if len(data) < UDP + SHIM + ETHERNET or int.from_bytes(data[4:6]) != len(data):
        return None
    pseudo = addresses + struct.pack("!II", len(data), _UDP_PROTOCOL)
    if data[6:8] != bytes(2) and checksum(pseudo + data):
        return None
    port, shim = int.from_bytes(data[2:4]), data[UDP : UDP + SHIM]
    encap = ports.get(port)
    if encap is None or not _is_sound(encap, shim):
        return None
    source, target = (int.from_bytes(half) for half in _halves(addresses))
    vni, inner = int.from_bytes(shim[4:7]), data[UDP + SHIM :]
    return Tunnel(encap, port, datagram.version, source, target, vni, inner)


def _is_sound(encap: Encap, shim: bytes) -> bool:
    if encap is Encap.VXLAN:
        return bool(shim[0] & 0x08)  # flag I (RFC 7348, 5)
    # Version, options and the flags O and C are zero (RFC 8926, 3.4).
    return shim[0] == 0 and not shim[1] & 0xC0 and int.from_bytes(shim[2:4]) == _BRIDGED


def _halves(data: bytes) -> tuple[bytes, bytes]:
    return data[: len(data) // 2], data[len(data) // 2 :]
