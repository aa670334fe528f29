"""The frames by which a new endpoint makes itself known; pure, in network byte order."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from dataplane.core.addressing import eui64_link_local
from dataplane.core.model import IpAddress, Mac

_ETH_P_ARP = 0x0806
_ETH_P_IPV6 = 0x86DD
_BROADCAST = b"\xff" * 6
_ALL_NODES = IPv6Address("ff02::1")
_ALL_NODES_MAC = bytes.fromhex("333300000001")  # RFC 2464 section 7
_ICMPV6 = 58
_NEIGHBOR_ADVERTISEMENT = 136  # RFC 4861 section 4.4
_OVERRIDE = 0x20000000
_TARGET_LINK_LAYER_ADDRESS = 2  # RFC 4861 section 4.6.1


def announcement(mac: Mac, ips: tuple[IpAddress, ...]) -> tuple[bytes, ...]:
    """Return one Ethernet frame per address of ``ips``, and one for the EUI-64 link-local address.

    IPv4: an ARP announcement (RFC 5227 section 3). IPv6: an unsolicited neighbour advertisement
    to all nodes, override set, with the target's link-layer address (RFC 4861 section 7.2.6).
    """
    hardware = bytes.fromhex(mac.replace(":", ""))
    return tuple(
        _arp_announcement(hardware, ip)
        if isinstance(ip, IPv4Address)
        else _neighbor_advertisement(hardware, ip)
        for ip in dict.fromkeys((*ips, eui64_link_local(mac)))
    )


def _arp_announcement(hardware: bytes, ip: IPv4Address) -> bytes:
    head = _BROADCAST + hardware + struct.pack("!H", _ETH_P_ARP)
    request = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)  # RFC 826: Ethernet, IPv4, request
    return head + request + hardware + ip.packed + bytes(6) + ip.packed


def _neighbor_advertisement(hardware: bytes, ip: IPv6Address) -> bytes:
    option = struct.pack("!BB", _TARGET_LINK_LAYER_ADDRESS, 1) + hardware
    message = struct.pack("!BBHI", _NEIGHBOR_ADVERTISEMENT, 0, 0, _OVERRIDE) + ip.packed + option
    checksum = _checksum(ip, message)
    message = message[:2] + struct.pack("!H", checksum) + message[4:]
    # Version 6, hop limit 255: anything less is discarded (RFC 4861 section 7.1.2).
    header = struct.pack("!IHBB", 6 << 28, len(message), _ICMPV6, 255) + ip.packed
    ethernet = _ALL_NODES_MAC + hardware + struct.pack("!H", _ETH_P_IPV6)
    return ethernet + header + _ALL_NODES.packed + message


def _checksum(source: IPv6Address, message: bytes) -> int:
    """Return the Internet checksum with its pseudo-header (RFC 4443 2.3, RFC 8200 8.1)."""
    pseudo = source.packed + _ALL_NODES.packed + struct.pack("!II", len(message), _ICMPV6)
    data = pseudo + message
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
