"""Which addresses the endpoints here say are theirs, where nobody has given them any. Pure.

A claim is a frame of an endpoint's own MAC: an ARP packet's sender (RFC 826), the target of a
neighbour advertisement, the source of a solicitation (RFC 4861). Probes claim nothing yet, and of
IPv6 no link-local address is learned: each endpoint owns its EUI-64 one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from dataplane.core.desired import Desired, Port, PortState
from dataplane.core.model import IpAddress, Mac, in_any

AGE_S = 60.0  # how long a claim stands that is not repeated; who talks repeats it by then
MOST = 8  # addresses of a port

_ARP, _IPV6 = b"\x08\x06", b"\x86\xdd"
_ARP_HEAD = bytes.fromhex("0001080006040001"), bytes.fromhex("0001080006040002")
_ARP_LENGTH = 14 + 28
_ICMPV6, _HOPS = 58, 255
_SOLICITATION, _ADVERTISEMENT = 135, 136
_LINK_ADDRESS = {_SOLICITATION: 1, _ADVERTISEMENT: 2}  # the option that carries the MAC
_OPTIONS = 14 + 40 + 24


def learning_ports(desired: Desired) -> tuple[Port, ...]:
    """Return the ports whose addresses are to be learned: nobody has given them any.

    Not of trunk ports: a netdev there has several segments.
    """
    ports = (port for port in desired.ports if port.state is PortState.ACTIVE)
    return tuple(p for p in ports if not p.attachment.ips and p.attachment.vlan is None)


def claimed(frame: bytes, mac: Mac) -> IpAddress | None:
    """Return the address that an Ethernet frame of ``mac`` claims; None: it claims none."""
    own = bytes.fromhex(mac.replace(":", ""))
    if frame[6:12] != own:
        return None
    ip = _arp_sender(frame, own) if frame[12:14] == _ARP else _nd_claim(frame, own)
    return ip if ip is not None and _is_of_one_interface(ip) else None


def _arp_sender(frame: bytes, own: bytes) -> IpAddress | None:
    if len(frame) < _ARP_LENGTH or frame[14:22] not in _ARP_HEAD or frame[22:28] != own:
        return None
    return IPv4Address(frame[28:32])


def _nd_claim(frame: bytes, own: bytes) -> IpAddress | None:
    is_nd = frame[12:14] == _IPV6 and frame[20:22] == bytes((_ICMPV6, _HOPS))
    if not is_nd or len(frame) < _OPTIONS or frame[54] not in _LINK_ADDRESS or frame[55]:
        return None
    if own not in _link_addresses(frame[_OPTIONS:], _LINK_ADDRESS[frame[54]]):
        return None
    return IPv6Address(frame[62:78] if frame[54] == _ADVERTISEMENT else frame[22:38])


def _link_addresses(options: bytes, kind: int) -> Iterator[bytes]:
    while len(options) >= 8 and options[1]:
        if options[:2] == bytes((kind, 1)):
            yield options[2:8]
        options = options[8 * options[1] :]


def _is_of_one_interface(ip: IpAddress) -> bool:
    return not (ip.is_unspecified or ip.is_multicast or ip.is_loopback or ip.is_link_local) and (
        ip != IPv4Address("255.255.255.255")
    )


@dataclass(frozen=True, slots=True)
class Claim:
    """Whose an address is, by the name of its OVS port, and when that was last heard.

    That name is its own: who is behind the same netdev later has another.
    """

    port: str
    heard_at: float


@dataclass(frozen=True, slots=True)
class Learned:
    """What was learned, by segment and address: of two that claim one the first keeps it.

    Once its claim is too old, the address is whose claim comes next.
    """

    claims: Mapping[tuple[str, IpAddress], Claim] = field(default_factory=dict)

    def hear(self, port: Port, ips: Collection[IpAddress], now: float) -> Learned:
        """Return what is known once ``port`` has claimed ``ips`` at ``now``, in seconds."""
        name, subnets = port.attachment.ovs_port, port.segment.subnets
        claims = dict(self.claims)
        room = MOST - sum(each.port == name for each in claims.values())
        for ip in ips:
            if subnets and not in_any(ip, subnets):
                continue  # as an IPAM plugin's own would be refused
            place = port.segment.name, ip
            before = claims.get(place)
            if before is None and room <= 0:
                continue
            if before is None or before.port == name:
                room -= before is None
                claims[place] = Claim(name, now)
        return Learned(claims)

    def age(self, ports: Collection[Port], now: float) -> Learned:
        """Return what is left at ``now``, of those ``ports`` that still are there."""
        here = {(port.segment.name, port.attachment.ovs_port) for port in ports}
        return Learned(
            {
                (segment, ip): each
                for (segment, ip), each in self.claims.items()
                if now - each.heard_at < AGE_S and (segment, each.port) in here
            }
        )

    @property
    def addresses(self) -> Mapping[str, tuple[IpAddress, ...]]:
        """Return the addresses by OVS port, sorted."""
        found: dict[str, list[IpAddress]] = {}
        for (_, ip), each in self.claims.items():
            found.setdefault(each.port, []).append(ip)
        return {port: tuple(sorted(ips, key=_order)) for port, ips in sorted(found.items())}


def _order(ip: IpAddress) -> tuple[int, int]:
    return ip.version, int(ip)
