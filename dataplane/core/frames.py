"""Ethernet frames as bytes: what a probe looks like on the wire, and what a tunnel packet holds.

All numbers are in network order.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from dataplane.core.model import Encap, IpAddress, Mac, Vni
from dataplane.core.path import FromPod, Probe, Tunnel

ETHERNET = 14
IPV4, ARP, VLAN, IPV6 = 0x0800, 0x0806, 0x8100, 0x86DD  # IEEE 802 numbers (EtherType)
ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58  # IANA protocol numbers
HOPS = 64
DF, MF = 0x4000, 0x2000  # RFC 791 section 3.1
_FRAGMENT = 0x3FFF
_CE = 3  # RFC 3168 section 5
_ECHO = 7  # RFC 862: the port of the packet that is asked about
_SOURCE_PORT = 49152
_GENEVE_ETHERNET, _VXLAN_FLAGS = 0x6558, 0x08  # RFC 8926 section 3.4, RFC 7348 section 5
_PEER_MAC = Mac("02:00:00:00:00:01")  # the MAC of the next hop, which nobody looks at
_SHIM = 8  # bytes of a UDP, Geneve or VXLAN header


@dataclass(frozen=True, slots=True)
class Ip:
    """What an IP header says beside lengths and sums; ``fragment`` is IPv4's flags and offset.

    ``options`` follow the IPv4 header and are of whole 32-bit words.
    """

    source: IpAddress
    target: IpAddress
    protocol: int
    hops: int = HOPS
    tos: int = 0
    fragment: int = DF
    options: bytes = b""

    def packet(self, payload: bytes) -> bytes:
        """Return the header with ``payload`` behind it."""
        ends = self.source.packed + self.target.packed
        if isinstance(self.source, IPv6Address):
            first = 6 << 28 | self.tos << 20
            return (
                struct.pack("!IHBB", first, len(payload), self.protocol, self.hops) + ends + payload
            )
        words = 5 + len(self.options) // 4
        total = 4 * words + len(payload)
        fields = (0x40 | words, self.tos, total, 0, self.fragment, self.hops, self.protocol, 0)
        head = struct.pack("!BBHHHBBH", *fields) + ends + self.options
        return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload

    def summed(self, message: bytes, place: int) -> bytes:
        """Return a transport message with its checksum, over the pseudo header, at ``place``."""
        length = struct.pack("!I", len(message))
        pseudo = self.source.packed + self.target.packed + length + bytes([0, 0, 0, self.protocol])
        covered = message if self.protocol == ICMP else pseudo + message
        found = checksum(covered + bytes(len(covered) % 2)) or 0xFFFF
        return message[:place] + struct.pack("!H", found) + message[place + 2 :]


@dataclass(frozen=True, slots=True)
class TunnelPacket:
    """A frame in a tunnel, and what its outer headers say; ``df`` is None over IPv6."""

    tunnel: Tunnel
    inner: bytes
    df: bool | None
    ttl: int
    ecn: int


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def mac_bytes(mac: str) -> bytes:
    """Return the six bytes of a MAC."""
    return bytes.fromhex(mac.replace(":", ""))


def ethernet(target: str, source: str, kind: int, payload: bytes) -> bytes:
    """Return a frame of EtherType ``kind``."""
    return mac_bytes(target) + mac_bytes(source) + struct.pack("!H", kind) + payload


def ip_frame(target: str, source: str, packet: bytes) -> bytes:
    """Return the frame of an IP packet."""
    return ethernet(target, source, IPV4 if packet[0] >> 4 == 4 else IPV6, packet)


def udp(port: int, payload: bytes, source: int = _SOURCE_PORT) -> bytes:
    """Return a UDP datagram without checksum."""
    return struct.pack("!HHHH", source, port, _SHIM + len(payload), 0) + payload


def encapsulate(tunnel: Tunnel, mac: str, inner: bytes, tos: int = 0) -> bytes:
    """Return the packet in which ``inner`` reaches the NIC with ``mac``."""
    header = struct.pack("!II", _first(tunnel.encap), tunnel.vni << 8)
    outer = Ip(tunnel.source, tunnel.target, UDP, tos=tos)
    return ip_frame(mac, _PEER_MAC, outer.packet(udp(tunnel.udp_port, header + inner)))


def probe_inner(probe: Probe, mark: bytes = b"") -> bytes:
    """Return what the sender of a probe sends; ``mark`` is its payload."""
    source, target = probe.source, probe.target
    ip = Ip(source.ip, target.ip, UDP)
    return ip_frame(target.mac, source.mac, ip.packet(udp(_ECHO, mark)))


def probe_frame(probe: Probe, mac: str, mark: bytes = b"") -> bytes:
    """Return what the netdev with ``mac``, where a probe comes in, receives."""
    if isinstance(probe.entry, FromPod):
        return probe_sent(probe, probe.entry, mark)
    return encapsulate(probe.entry, mac, probe_inner(probe, mark))


def probe_sent(probe: Probe, entry: FromPod, mark: bytes = b"") -> bytes:
    """Return what a pod sends, with the tag that it has at a trunk port."""
    inner = probe_inner(probe, mark)
    return inner if entry.vlan is None else tagged(inner, entry.vlan)


def tagged(frame: bytes, tag: int) -> bytes:
    """Return ``frame`` with a VLAN tag (IEEE 802.1Q), of priority 0 if ``tag`` is a VLAN id."""
    return frame[:12] + struct.pack("!HH", VLAN, tag) + frame[12:]


def parse_tunnel(frame: bytes) -> TunnelPacket | None:
    """Return what a frame says that is a sound Geneve or VXLAN packet; None: it is none.

    Which of the two it is, the header says, not the port. Options and extension headers are not
    taken, since nobody of ours writes them.
    """
    outer = _outer(frame)
    if outer is None:
        return None
    at, source, target, df, ttl, ecn = outer
    if len(frame) < at + 2 * _SHIM + ETHERNET:
        return None
    _, port, length, _ = struct.unpack_from("!HHHH", frame, at)
    first, last = struct.unpack_from("!II", frame, at + _SHIM)
    encap = next((each for each in Encap if _first(each) == first), None)
    if encap is None or at + length != len(frame) or not last >> 8:
        return None
    tunnel = Tunnel(encap, Vni(last >> 8), source, target, port)
    return TunnelPacket(tunnel, frame[at + 2 * _SHIM :], df, ttl, ecn)


def told_inside(packet: TunnelPacket) -> bytes:
    """Return the inner frame with the congestion that was met outside (RFC 6040 section 4.2).

    Where that cannot be told, what is inside being no ECN transport, it stays as it is.
    """
    inner, kind, at = packet.inner, packet.inner[12:14], ETHERNET
    if packet.ecn != _CE:
        return inner
    if kind == struct.pack("!H", IPV4) and len(inner) >= at + 20 and inner[at + 1] & _CE:
        end = at + 4 * (inner[at] & 0xF)
        head = bytearray(inner[at:end])
        head[1] |= _CE
        head[10:12] = bytes(2)
        head[10:12] = checksum(bytes(head)).to_bytes(2, "big")
        return inner[:at] + bytes(head) + inner[end:]
    if kind == struct.pack("!H", IPV6) and len(inner) >= at + 40 and inner[at + 1] & _CE << 4:
        return inner[: at + 1] + bytes([inner[at + 1] | _CE << 4]) + inner[at + 2 :]
    return inner


def is_answer(asked: bytes, came: bytes) -> bool:
    """Say whether ``came`` is an IP packet to who sent the IP packet ``asked``, from its target.

    An answer may quote what was asked, all of it.
    """
    source, target = ip_ends(asked)
    return bool(source) and ip_ends(came) == (target, source)


def ip_ends(frame: bytes) -> tuple[bytes, bytes]:
    """Return the addresses an IP packet is from and to; empty: it is none."""
    kind, head = frame[12:14], frame[ETHERNET:]
    if kind == struct.pack("!H", IPV4):
        return head[12:16], head[16:20]
    if kind == struct.pack("!H", IPV6):
        return head[8:24], head[24:40]
    return b"", b""


def _outer(frame: bytes) -> tuple[int, IpAddress, IpAddress, bool | None, int, int] | None:
    """Return where UDP begins, both addresses, DF, TTL and ECN; None: there is no whole UDP."""
    if len(frame) < ETHERNET + 40 + _SHIM:
        return None
    kind, head = frame[12:14], frame[ETHERNET:]
    if kind == struct.pack("!H", IPV4) and head[0] == 0x45:
        (_, tos, total, _, fragment, ttl, protocol, _) = struct.unpack_from("!BBHHHBBH", head)
        is_whole = total == len(head) and not fragment & _FRAGMENT
        ends = IPv4Address(head[12:16]), IPv4Address(head[16:20])
        return (
            (34, *ends, bool(fragment & DF), ttl, tos & 3) if is_whole and protocol == UDP else None
        )
    if kind == struct.pack("!H", IPV6) and head[0] >> 4 == 6:
        first, length, protocol, ttl = struct.unpack_from("!IHBB", head)
        ends6 = IPv6Address(head[8:24]), IPv6Address(head[24:40])
        is_whole = length + 40 == len(head)
        return (54, *ends6, None, ttl, first >> 20 & 3) if is_whole and protocol == UDP else None
    return None


def _first(encap: Encap) -> int:
    return _GENEVE_ETHERNET if encap is Encap.GENEVE else _VXLAN_FLAGS << 24
