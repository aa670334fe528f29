"""What becomes of a frame by the rules of the table (sections 2, 5 and 6 of the page).

Pure but for what rules count and where the next hop is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from zlib import crc32

from vendors.emulator.packets import (
    ETHERNET,
    IPV4,
    IPV4_TYPE,
    IPV6,
    IPV6_TYPE,
    Outer,
    Sent,
    encapsulate,
    parse_tunnel,
)
from vendors.emulator.sx904.actions import TunnelSet
from vendors.emulator.sx904.driver import Deliver, Drop, Encapsulate
from vendors.emulator.sx904.flower import Key
from vendors.emulator.sx904.links import Links
from vendors.emulator.sx904.table import Entry, Table

_TCP, _UDP = 6, 17
_FRAGMENT = 0x3FFF
_VNI_MASK = 0xFFFFFF
_EPHEMERAL, _SPREAD = 49152, 0x3FFF
_L4 = {_TCP: (Key.TCP_SRC, Key.TCP_DST), _UDP: (Key.UDP_SRC, Key.UDP_DST)}

Fields = dict[Key, int]
NextHop = Callable[[TunnelSet], bytes | None]
"""Returns the outer MACs, destination and source, of packets with such a header, or None."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """Names of ports; ``misses`` says by port where frames without rule go."""

    uplink: str
    misses: Mapping[str, str]
    vfs: frozenset[str]


@dataclass(frozen=True, slots=True)
class Engine:
    """Forwards by ``table``, whose rules stand at ``links``; ``counts``: it keeps counters."""

    table: Table
    links: Links
    wiring: Wiring
    next_hop: NextHop
    counts: bool

    def forward(self, port: str, data: bytes) -> Sent | None:
        """Return what comes out where of a frame that comes in at ``port``; None: nothing."""
        if len(data) < ETHERNET:
            return None
        miss = Sent(self.wiring.misses[port], data)
        if port == self.wiring.uplink:
            return self._from_wire(data, miss)
        return self._from_vf(port, data, miss) if port in self.wiring.vfs else miss

    def _from_vf(self, port: str, data: bytes, miss: Sent) -> Sent | None:
        link = self.links.representor(port)
        fields = fields_of(data)
        entry = None if link is None else self.table.hit(link.ifindex, fields)
        if entry is None:
            return miss
        verdict = entry.rule.verdict
        if isinstance(verdict, Deliver):
            return self._counted(entry, data, Sent(verdict.port, data))
        if isinstance(verdict, Drop):
            return self._counted(entry, data, None)
        macs = self.next_hop(verdict.header)
        if macs is None:
            return miss
        outer = outer_of(verdict, fields)
        return self._counted(entry, data, Sent(self.wiring.uplink, encapsulate(outer, data, macs)))

    def _from_wire(self, data: bytes, miss: Sent) -> Sent | None:
        ports = {port: link.encap for port, link in self.links.tunnel_ports.items()}
        tunnel = parse_tunnel(data, ports)
        if tunnel is None:
            return miss
        link = self.links.tunnel_ports[tunnel.port]
        fields = fields_of(tunnel.inner) | {Key.ENC_KEY_ID: tunnel.vni}
        if tunnel.version == 4:
            fields |= {Key.ENC_IPV4_SRC: tunnel.source, Key.ENC_IPV4_DST: tunnel.target}
        else:
            fields |= {Key.ENC_IPV6_SRC: tunnel.source, Key.ENC_IPV6_DST: tunnel.target}
        entry = self.table.hit(link.ifindex, fields)
        if entry is None:
            return miss
        verdict = entry.rule.verdict
        if isinstance(verdict, Deliver):
            frame = tunnel.inner if verdict.bare else data
            return self._counted(entry, data, Sent(verdict.port, frame))
        return self._counted(entry, data, None)

    def _counted(self, entry: Entry, data: bytes, sent: Sent | None) -> Sent | None:
        if self.counts:
            entry.counter.packets += 1
            entry.counter.octets += len(data)
        return sent


def fields_of(frame: bytes) -> Fields:
    """Return what rules can compare in a frame of at least an Ethernet header."""
    ether_type = int.from_bytes(frame[12:14])
    fields = {
        Key.ETH_DST: int.from_bytes(frame[:6]),
        Key.ETH_SRC: int.from_bytes(frame[6:12]),
        Key.ETH_TYPE: ether_type,
    }
    packet = frame[ETHERNET:]
    if ether_type == IPV4_TYPE and len(packet) >= IPV4 and packet[0] >> 4 == 4:
        return fields | _in_ipv4(packet)
    if ether_type == IPV6_TYPE and len(packet) >= IPV6 and packet[0] >> 4 == 6:
        return fields | _in_ipv6(packet)
    return fields


def _in_ipv4(packet: bytes) -> Fields:
    fields = {
        Key.IP_TOS: packet[1],
        Key.IP_TTL: packet[8],
        Key.IPV4_SRC: int.from_bytes(packet[12:16]),
        Key.IPV4_DST: int.from_bytes(packet[16:20]),
    }
    if int.from_bytes(packet[6:8]) & _FRAGMENT:
        return fields
    return fields | _ports(packet[9], packet[(packet[0] & 0xF) * 4 :])


def _in_ipv6(packet: bytes) -> Fields:
    fields = {
        Key.IP_TOS: int.from_bytes(packet[:2]) >> 4 & 0xFF,
        Key.IP_TTL: packet[7],
        Key.IPV6_SRC: int.from_bytes(packet[8:24]),
        Key.IPV6_DST: int.from_bytes(packet[24:40]),
    }
    return fields | _ports(packet[6], packet[IPV6:])


def _ports(protocol: int, data: bytes) -> Fields:
    names = _L4.get(protocol)
    if names is None or len(data) < 4:
        return {}
    return {names[0]: int.from_bytes(data[:2]), names[1]: int.from_bytes(data[2:4])}


def outer_of(verdict: Encapsulate, fields: Fields) -> Outer:
    """Return the outer header of a frame with these fields (section 5)."""
    header = verdict.header
    flow = sorted((key.number, value) for key, value in fields.items())
    return Outer(
        verdict.encap,
        header.source.version,
        int(header.source),
        int(header.target),
        header.number & _VNI_MASK,
        _EPHEMERAL + (crc32(repr(flow).encode()) & _SPREAD),
        verdict.port,
        tos=header.tos,
        ttl=header.ttl,
        dont_fragment=header.dont_fragment,
        checksummed=header.checksummed,
    )
