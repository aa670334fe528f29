"""Which frames the paths of a node are compared on: a fixed corpus, and some drawn. Pure.

The fixed part goes to the edges of what is checked, matched or written; the drawn part is the
same for the same seed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address
from itertools import islice, product

from dataplane.core.addressing import eui64_link_local
from dataplane.core.agreement import Excuse, Question
from dataplane.core.capability import Departure
from dataplane.core.desired import Desired, Port, PortState, SegmentView
from dataplane.core.events import Link
from dataplane.core.frames import (
    ARP,
    DF,
    ETHERNET,
    HOPS,
    ICMP,
    ICMPV6,
    MF,
    TCP,
    UDP,
    Ip,
    encapsulate,
    ethernet,
    ip_frame,
    mac_bytes,
    tagged,
    udp,
)
from dataplane.core.model import Encap, EntryKey, IpAddress, Mac, Node, Vni
from dataplane.core.path import FromPod, Tunnel

MARK_BYTES = 16
MAX_PORTS = 16  # that get the whole corpus
MAX_PAIRS = 256
_BROADCAST = "ff:ff:ff:ff:ff:ff"
_NOBODY = Mac("02:6f:77:76:66:79")  # no agent gives it out: default_mac's are hashes
_LOCAL_EXPERIMENT = 0x88B5  # IEEE 802, for whoever wants it
_LLDP_GROUP = "01:80:c2:00:00:0e"
_DISCARD = 9  # RFC 863: draws no answer, and where nobody listens one that draws none
_RST = 4  # RFC 9293 section 3.10.7.1: draws no answer
_NO_OPTION = b"\x01\x01\x01\x01"  # RFC 791: four times "no operation"


Make = Callable[[bytes], bytes]
"""Makes a frame that has the mark in it which it is given."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """What is asked, and how many pairs of endpoints were left out to keep it short."""

    questions: tuple[Question, ...]
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Draw:
    """How many frames are drawn, from which seed; ``salt`` makes every mark unlike all others."""

    packets: int
    seed: str
    salt: bytes


@dataclass(frozen=True, slots=True)
class Choice:
    """Which segment is asked about, empty: all; ``placed`` are entries in the DPU's switch."""

    segment: str = ""
    placed: frozenset[EntryKey] = frozenset()

    def rank(self, way: _Way) -> int:
        """Return a number that is the lower the more of a way may be in the switch."""
        vni = way.view.segment.vni
        keys = {EntryKey(vni, who.mac) for who in (way.source, way.target)}
        return -len(keys & self.placed)


@dataclass(frozen=True, slots=True)
class _Who:
    """An endpoint, behind ``vtep`` or here."""

    mac: Mac
    ips: tuple[IpAddress, ...]
    vtep: IpAddress | None = None

    def ip(self, version: int) -> IpAddress | None:
        """Return its address of a family; of IPv6 it has one in any case."""
        own = next((ip for ip in self.ips if ip.version == version), None)
        return eui64_link_local(self.mac) if own is None and version == 6 else own


@dataclass(frozen=True, slots=True)
class _Way:
    """Where a frame of the segment goes: from ``source`` to ``target``; ``port`` is of the pod."""

    view: SegmentView
    port: Port
    source: _Who
    target: _Who

    @property
    def mtu(self) -> int:
        """Return how many bytes an IP packet of its source has at most."""
        mtu = self.view.mtu
        return min(mtu, self.port.mtu) if self.source.vtep is None else mtu

    def ip(self, version: int, protocol: int = UDP) -> Ip | None:
        """Return the header of a packet of a family; None: one of the two has no such address."""
        source, target = self.source.ip(version), self.target.ip(version)
        return Ip(source, target, protocol) if source and target else None

    def headers(self) -> list[Ip]:
        """Return the header of a packet of each family that both have."""
        return [ip for ip in (self.ip(4), self.ip(6)) if ip is not None]

    def frame(self, packet: bytes) -> bytes:
        """Return the frame of an IP packet."""
        return ip_frame(self.target.mac, self.source.mac, packet)


@dataclass(frozen=True, slots=True)
class _Case:
    """A frame in the making; ``make`` is given the mark.

    ``instead`` makes the frame that a device with ``departure`` takes it for. ``harmless``: a pod
    that sends it to who is known claims nothing, and draws nothing that it answers in its turn,
    which the same entry would count.
    """

    name: str
    make: Make
    sound: bool = True
    fits: bool = True
    departure: Departure | None = None
    instead: Make | None = None
    harmless: bool = False

    def excuse(self, mark: bytes) -> Excuse | None:
        """Return what excuses a device that does otherwise with it, if anything does."""
        if self.departure is None or self.instead is None:
            return None
        return Excuse(self.departure, self.instead(mark))


def corpus(desired: Desired, nic: Link, draw: Draw, choice: Choice) -> Corpus:
    """Return what is asked of this node; what its switch has most to do with comes first."""
    node = _Node(desired, nic, draw.salt)
    views = [v for name, v in desired.segments.items() if choice.segment in ("", name)]
    sent = [way for view in views for way in _ways(desired, view)]
    ways = sorted(sent, key=choice.rank)[:MAX_PAIRS]
    questions = [*node.boundary(ways), *node.plain(ways), *node.routed(views)]
    if ways:
        questions += islice(node.drawn(ways, draw.seed), draw.packets)
    return Corpus(tuple(questions), len(sent) - len(ways))


def _ways(desired: Desired, view: SegmentView) -> Iterator[_Way]:
    """Yield from every active port of a segment to every other endpoint there.

    Not from or to trunk ports: their frames, with a tag, are Open vSwitch's alone. Not from or to a
    network function: it sends what is others', so what may come from it is not told by its ports.
    """
    ports = _asked(view)
    here = [_Who(port.attachment.mac, port.attachment.ips) for port in ports]
    own = {vtep.version for vtep in desired.vteps}
    far = [
        _Who(each.endpoint.mac, each.endpoint.ips, each.vtep)
        for each in view.remotes
        if each.vtep.version in own
    ]
    for port, source in zip(ports, here, strict=True):
        for target in (*far, *here):
            if target != source:
                yield _Way(view, port, source, target)


def _asked(view: SegmentView) -> list[Port]:
    active = (port for port in view.ports if port.state is PortState.ACTIVE)
    return [port for port in active if port.attachment.vlan is None and not port.role.is_function]


def _routed(desired: Desired, view: SegmentView) -> Iterator[_Way]:
    """Yield from an active port to its gateway, for an endpoint of each segment: here, and away.

    Also for the gateway itself, which has no port: what it answers comes back.
    """
    gateway, ports = view.gateway, _asked(view)
    if gateway is None or not ports:
        return
    source = _Who(ports[0].attachment.mac, ports[0].attachment.ips)
    targets = [gateway.ips]
    for other in desired.of_vrf(gateway):
        here = [p.attachment.ips for p in other.ports if p.state is PortState.ACTIVE]
        away = [remote.endpoint.ips for remote in other.remotes]
        targets += [*here[:1], *away[:1]]
    for ips in targets:
        yield _Way(view, ports[0], source, _Who(gateway.mac, ips))


class _Node:
    """Makes questions for this node."""

    def __init__(self, desired: Desired, nic: Link, salt: bytes) -> None:
        self._desired = desired
        self._nic = nic
        self._salt = salt
        self._count = 0
        self._glued = {p.attachment.ovs_port: p.attachment.access_port for p in desired.ports}

    def boundary(self, ways: list[_Way]) -> Iterator[Question]:
        """Yield the whole corpus for a way to another node, and one within, of each port."""
        chosen: dict[tuple[str, bool], _Way] = {}
        for way in ways:
            chosen.setdefault((way.port.attachment.access_port, way.target.vtep is None), way)
        ports = list(dict.fromkeys(port for port, _ in chosen))[:MAX_PORTS]
        for (port, _), way in chosen.items():
            if port not in ports:
                continue
            yield from (self._sent(way, case) for case in _said(way))
            if way.target.vtep is not None:
                yield from self._from_wire(way)

    def plain(self, ways: list[_Way]) -> Iterator[Question]:
        """Yield a packet of each family for every way, there and back."""
        for way in ways:
            for case in _plain(way):
                yield self._sent(way, case)
                if way.target.vtep is not None:
                    back = replace(way, source=way.target, target=way.source)
                    yield from (self._received(back, each) for each in _plain(back))

    def routed(self, views: list[SegmentView]) -> Iterator[Question]:
        """Yield what is sent to gateways, and what routers of other nodes send into a segment."""
        for view in views:
            ways = list(_routed(self._desired, view))
            for way in ways:
                yield from (self._sent(way, case) for case in _to_gateway(way))
            for vtep in view.routers if ways else ():
                away = _Who(ways[0].target.mac, ways[-1].target.ips, vtep)
                into = _Way(view, ways[0].port, away, ways[0].source)
                yield from (self._received(into, case) for case in _plain(into))

    def drawn(self, ways: list[_Way], seed: str) -> Iterator[Question]:
        """Yield frames without end."""
        number = 0
        while True:
            dice = _Dice(f"{seed}/{number}")
            number += 1
            way = dice.of(ways)
            if way.target.vtep is not None and dice.chance(2):
                back = replace(way, source=way.target, target=way.source)
                yield self._received(back, _any(back, dice, f"drawn {seed}/{number}"))
            else:
                yield self._sent(way, _any(way, dice, f"drawn {seed}/{number}"))

    def _mark(self) -> bytes:
        self._count += 1
        return sha256(self._salt + self._count.to_bytes(8, "big")).digest()[:MARK_BYTES]

    def _sent(self, way: _Way, case: _Case) -> Question:
        attachment, mark = way.port.attachment, self._mark()
        return Question(
            f"{case.name}, {way.source.mac} to {way.target.mac} of {way.view.segment.name}",
            case.make(mark),
            mark,
            FromPod(attachment.access_port, attachment.ovs_port),
            self._nic.name,
            sound=case.sound,
            fits=case.fits,
            glued=self._glued,
            about=EntryKey(way.view.segment.vni, way.target.mac),
            excuse=case.excuse(mark),
            harmless=case.harmless,
        )

    def _received(self, way: _Way, case: _Case) -> Question:
        """Return a question about what comes in a tunnel from where the way's source is."""
        make = self._wrapped(self._tunnel(way), case.make)
        return self._arriving(way, replace(case, make=make, departure=None))

    def _arriving(self, way: _Way, case: _Case) -> Question:
        mark = self._mark()
        return Question(
            f"{case.name}, from the wire to {way.target.mac} of {way.view.segment.name}",
            case.make(mark),
            mark,
            None,
            self._nic.name,
            sound=case.sound,
            fits=case.fits,
            glued=self._glued,
            about=EntryKey(way.view.segment.vni, way.target.mac),
            excuse=case.excuse(mark),
        )

    def _tunnel(self, way: _Way) -> Tunnel:
        segment, vtep = way.view.segment, way.source.vtep
        if vtep is None:
            raise ValueError(f"{way.source.mac} is not behind a VTEP")
        own = Node("", self._desired.vteps).vtep(segment.underlay) or self._desired.vteps[0]
        port = self._desired.fabric.port(segment.encap)
        return Tunnel(segment.encap, segment.vni, vtep, own, port)

    # --- from the wire ---------------------------------------------------------------------------

    def _from_wire(self, sent: _Way) -> Iterator[Question]:
        way = replace(sent, source=sent.target, target=sent.source)
        for case in (*_heard(way), *_astray(way)):
            yield self._received(way, case)
        for case in (*self._congested(way), *self._strange(way), *self._damaged(way)):
            yield self._arriving(way, case)

    def _wrapped(self, tunnel: Tunnel, inner: Make, tos: int = 0) -> Make:
        return lambda mark: encapsulate(tunnel, self._nic.mac, inner(mark), tos)

    def _congested(self, way: _Way) -> Iterator[_Case]:
        """Yield every ECN outside around every ECN inside (RFC 6040 section 4.2)."""
        tunnel = self._tunnel(way)
        for ip in way.headers():
            for outer, inner in product(range(4), range(4)):
                make = _udp(way, replace(ip, tos=inner))
                name = f"ECN {outer} outside, {inner} inside IPv{ip.source.version}"
                yield _Case(
                    name,
                    self._wrapped(tunnel, make, outer),
                    departure=Departure.OUTER_ECN,
                    instead=self._wrapped(tunnel, make),
                )

    def _strange(self, way: _Way) -> Iterator[_Case]:
        """Yield what is not, or not quite, a tunnel packet of a member."""
        tunnel = self._tunnel(way)
        other = Encap.VXLAN if tunnel.encap is Encap.GENEVE else Encap.GENEVE
        others_port = self._desired.fabric.port(other)
        vnis = {view.segment.vni for view in self._desired.segments.values()}
        unknown = next(vni for vni in range(tunnel.vni + 1, tunnel.vni + 999) if vni not in vnis)
        changed = {
            "unknown VTEP": replace(tunnel, source=self._nobody(tunnel.source)),
            "unknown VNI": replace(tunnel, vni=Vni(unknown)),
            "largest VNI": replace(tunnel, vni=Vni(0xFFFFFF)),
            "another UDP port": replace(tunnel, udp_port=53),
            f"{other} of that VNI": replace(tunnel, encap=other, udp_port=others_port),
        }
        for name, each in changed.items():
            yield _Case(name, self._wrapped(each, _plain(way)[0].make))
        away = replace(tunnel, target=self._nobody(tunnel.target))
        yield _Case(
            "not to this node",
            self._wrapped(away, _plain(way)[0].make),
            departure=Departure.OUTER_TARGET,
            instead=self._wrapped(tunnel, _plain(way)[0].make),
        )
        ip = Ip(tunnel.source, tunnel.target, TCP)
        yield _Case(
            "TCP to the node",
            lambda mark: ip_frame(self._nic.mac, _NOBODY, ip.packet(_tcp(ip, mark))),
        )

    def _nobody(self, like: IpAddress) -> IpAddress:
        """Return an address that no VTEP has."""
        known = {*self._desired.peers, *self._desired.vteps}
        return next(like + n for n in range(64, 999) if like + n not in known)

    def _damaged(self, way: _Way) -> Iterator[_Case]:
        """Yield tunnel packets that nobody may deliver."""
        tunnel = self._tunnel(way)
        l4 = ETHERNET + (20 if tunnel.source.version == 4 else 40)
        faults: dict[str, tuple[int, bytes]] = {}  # what is beyond UDP's length, OVS ignores
        if tunnel.source.version == 4:
            faults["wrong IPv4 checksum"] = (24, b"\x12\x34")
        if tunnel.encap is Encap.GENEVE:
            faults["Geneve version 1"] = (l4 + 8, b"\x40")
            faults["no Ethernet in Geneve"] = (l4 + 10, b"\x08\0")
            faults["Geneve options beyond the end"] = (l4 + 8, b"\x3f")
        else:
            faults["VXLAN without VNI"] = (l4 + 8, b"\0")
        whole = self._wrapped(tunnel, _plain(way)[0].make)
        for name, (at, data) in faults.items():
            yield _Case(name, _damage(whole, at, data), sound=False)


def _damage(whole: Make, at: int, data: bytes) -> Make:
    def make(mark: bytes) -> bytes:
        frame = whole(mark)
        return frame[:at] + data + frame[at + len(data) :]

    return make


# --- frames of endpoints -------------------------------------------------------------------------


def _udp(way: _Way, ip: Ip, size: int = 0) -> Make:
    """Return how a UDP frame is made; ``size``: bytes of the IP packet, 0: as small as can be."""

    def make(mark: bytes) -> bytes:
        head = len(ip.packet(b"")) + 8
        payload = mark + bytes(max(0, size - head - len(mark)))
        return way.frame(ip.packet(ip.summed(udp(_DISCARD, payload), 6)))

    return make


def _packet(way: _Way, ip: Ip, message: Callable[[Ip, bytes], bytes]) -> Make:
    return lambda mark: way.frame(ip.packet(message(ip, mark)))


def _behind(way: _Way, ip: Ip, head: bytes) -> Make:
    """Return how a UDP frame with an extension header is made."""
    return lambda mark: way.frame(ip.packet(head + udp(_DISCARD, mark)))


def _datagram(_ip: Ip, payload: bytes) -> bytes:
    return udp(_DISCARD, payload)


def _tcp(ip: Ip, payload: bytes) -> bytes:
    head = struct.pack("!HHIIBBHHH", 49152, _DISCARD, 1, 0, 5 << 4, _RST, 1024, 0, 0)
    return ip.summed(head + payload, 16)


def _ping(ip: Ip, payload: bytes) -> bytes:
    kind = 8 if ip.protocol == ICMP else 128  # RFC 792, RFC 4443: echo request
    return ip.summed(struct.pack("!BBHHH", kind, 0, 0, 1, 1) + payload, 2)


def _plain(way: _Way) -> list[_Case]:
    return [
        _Case(f"UDP over IPv{ip.source.version}", _udp(way, ip), harmless=True)
        for ip in way.headers()
    ]


def _heard(way: _Way) -> Iterator[_Case]:
    """Yield IP packets as they are sent to one who is known."""
    for ip in way.headers():
        over = f"over IPv{ip.source.version}"
        yield from (replace(case, harmless=True) for case in _usual(way, ip, over))
        yield from _rare(way, ip, over)


def _usual(way: _Way, ip: Ip, over: str) -> Iterator[_Case]:
    """Yield whole and sound ones."""
    icmp = ICMP if ip.source.version == 4 else ICMPV6
    yield _Case(f"TCP {over}", _packet(way, replace(ip, protocol=TCP), _tcp))
    yield _Case(f"ping {over}", _packet(way, replace(ip, protocol=icmp), _ping))
    for ecn in (1, 2, 3):
        yield _Case(f"UDP {over}, ECN {ecn}", _udp(way, replace(ip, tos=ecn)))
    yield _Case(f"UDP {over}, DSCP 46", _udp(way, replace(ip, tos=46 << 2)))
    yield _Case(f"UDP {over}, TTL 1", _udp(way, replace(ip, hops=1)))
    yield _Case(f"UDP {over}, TTL 255", _udp(way, replace(ip, hops=255)))
    yield _Case(f"the largest {over}", _udp(way, ip, way.mtu))


def _rare(way: _Way, ip: Ip, over: str) -> Iterator[_Case]:
    """Yield fragments, options and lengths that are wrong."""
    if ip.source.version == 4:
        yield _Case(f"UDP {over} without DF", _udp(way, replace(ip, fragment=0)))
        for name, bits in (("first", MF), ("last", 3)):
            part = replace(ip, fragment=bits)
            yield _Case(f"{name} fragment {over}", _packet(way, part, _datagram))
        yield _Case(f"options {over}", _udp(way, replace(ip, options=_NO_OPTION)))
        at, data = ETHERNET + 2, b"\x05\xdc"
    else:
        for name, protocol, head in (
            ("fragment", 44, struct.pack("!BBHI", UDP, 0, 1, 7)),  # RFC 8200 section 4.5
            ("hop-by-hop", 0, struct.pack("!BBBB4x", UDP, 0, 1, 4)),  # 4.3, with PadN
        ):
            yield _Case(f"{name} {over}", _behind(way, replace(ip, protocol=protocol), head))
        at, data = ETHERNET + 4, b"\x05\xdc"
    yield _Case(
        f"a length beyond the end {over}",
        _damage(_udp(way, ip), at, data),
        departure=Departure.LENGTHS,
        instead=_udp(way, ip),
    )


def _astray(way: _Way) -> Iterator[_Case]:
    """Yield what goes to nobody, to all, or is no IP."""
    made = _plain(way)[0].make
    unknown = replace(way, target=replace(way.target, mac=_NOBODY))
    yield _Case("to an unknown MAC", _plain(unknown)[0].make)
    yield _Case("broadcast", _towards(made, _BROADCAST))
    yield _Case("multicast", _towards(made, "01:00:5e:00:00:fb"))
    yield _Case("to the LLDP group", _towards(made, _LLDP_GROUP))
    yield _Case("back to its sender", _towards(made, way.source.mac))
    for tag in (0, 5):
        yield _Case(f"VLAN tag {tag}", _tagged(made, tag))
    ends = (way.target.mac, way.source.mac)
    yield _Case("no IP", lambda m: ethernet(*ends, _LOCAL_EXPERIMENT, m + bytes(30)))
    yield from _questions(way)


def _said(way: _Way) -> Iterator[_Case]:
    """Yield what a pod may send, and what it may not."""
    yield from _heard(way)
    yield from _astray(way)
    ip = way.ip(4) or way.ip(6)
    if ip is None:
        return
    if way.target.vtep is not None:
        yield _Case(
            "too large",
            _udp(way, ip, way.view.mtu + 4),
            fits=False,
            departure=Departure.FRAME_SIZE,
            instead=_udp(way, ip, way.view.mtu),
        )
    yield _Case("to an address beyond", _udp(way, replace(ip, target=ip.target + 3)))
    yield _Case("from a false address", _udp(way, replace(ip, source=ip.source + 3)))
    yield _Case("from its target's address", _udp(way, replace(ip, source=ip.target)))
    liar = replace(way, source=replace(way.source, mac=_NOBODY))
    yield _Case("from a false MAC", _plain(liar)[0].make)
    yield from _false_claims(way)


def _to_gateway(way: _Way) -> Iterator[_Case]:
    """Yield what a router forwards, what it answers, and what it drops."""
    for ip in way.headers():
        over = f"through the gateway over IPv{ip.source.version}"
        icmp = ICMP if ip.source.version == 4 else ICMPV6
        yield _Case(f"UDP {over}", _udp(way, ip))
        yield _Case(f"ping {over}", _packet(way, replace(ip, protocol=icmp), _ping))
        yield _Case(f"UDP {over}, TTL 1", _udp(way, replace(ip, hops=1)))
        yield _Case(f"from a false address {over}", _udp(way, replace(ip, source=ip.source + 3)))
    yield from _questions(way)


def _towards(make: Make, mac: str) -> Make:
    return lambda mark: mac_bytes(mac) + make(mark)[6:]


def _tagged(make: Make, tag: int) -> Make:
    return lambda mark: tagged(make(mark), tag)


# --- ARP and ND ----------------------------------------------------------------------------------


def _questions(way: _Way) -> Iterator[_Case]:
    """Yield honest questions for the target's address, to all and to one."""
    source, target = way.source.ip(4), way.target.ip(4)
    if isinstance(source, IPv4Address) and isinstance(target, IPv4Address):
        arp = _arp(1, way.source.mac, source, target)
        for name, to in (("all", _BROADCAST), ("one", way.target.mac)):
            yield _Case(f"ARP request to {name}", _to(to, way.source.mac, ARP, arp))
        probe = _arp(1, way.source.mac, IPv4Address(0), target)
        yield _Case("ARP probe", _to(_BROADCAST, way.source.mac, ARP, probe))
        reply = _arp(2, way.source.mac, source, target)
        yield _Case("ARP reply", _to(way.target.mac, way.source.mac, ARP, reply))
    asks, asked = way.source.ip(6), way.target.ip(6)
    if isinstance(asks, IPv6Address) and isinstance(asked, IPv6Address):
        yield _solicitation("ND solicitation to one", way, (asks, asked), way.source.mac)
        yield _Case("ND advertisement", _nd(way, 136, asks, asks, way.source.mac))


def _false_claims(way: _Way) -> Iterator[_Case]:
    """Yield what says of an address that another has it."""
    source, target = way.source.ip(4), way.target.ip(4)
    if isinstance(source, IPv4Address) and isinstance(target, IPv4Address):
        ends = (way.target.mac, way.source.mac, ARP)
        claims = {
            "ARP with a false MAC": _arp(2, _NOBODY, source, target),
            "ARP for another's address": _arp(2, way.source.mac, target, target),
        }
        for name, claim in claims.items():
            yield _Case(name, _to(*ends, claim))
    asks, asked = way.source.ip(6), way.target.ip(6)
    if isinstance(asks, IPv6Address) and isinstance(asked, IPv6Address):
        yield _Case("ND for another's address", _nd(way, 136, asks, asked, way.source.mac))
        yield _solicitation("ND with a false MAC", way, (asks, asked), _NOBODY)
        yield _Case("a router's advertisement", _nd(way, 134, asks, asked, way.source.mac))


def _to(target: str, source: str, kind: int, payload: bytes) -> Make:
    """Return how a frame is made whose mark is its padding."""
    return lambda mark: ethernet(target, source, kind, payload + mark)


def _arp(operation: int, mac: str, source: IPv4Address, target: IPv4Address) -> bytes:
    """Return an ARP packet (RFC 826) in which ``mac`` says that it has ``source``."""
    head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
    return head + mac_bytes(mac) + source.packed + bytes(6) + target.packed


def _nd(way: _Way, kind: int, source: IPv6Address, about: IPv6Address, mac: str) -> Make:
    """Return how an ND message is made (RFC 4861 section 4) with one link-layer option."""
    target = way.target.ip(6)
    ip = Ip(source, target or about, ICMPV6, hops=255)
    option = bytes([1 if kind == 135 else 2, 1]) + mac_bytes(mac)
    body = struct.pack("!BBHI", kind, 0, 0, 0) + about.packed + option
    packet = ip.packet(ip.summed(body, 2))
    return lambda mark: way.frame(packet) + mark


def _solicitation(name: str, way: _Way, ends: tuple[IPv6Address, IPv6Address], mac: str) -> _Case:
    """Return a solicitation; a device that cannot answer takes it for any other ICMPv6 message."""
    return _Case(
        name,
        _nd(way, 135, *ends, mac),
        departure=Departure.ND_ANSWERS,
        instead=_nd(way, 128, *ends, mac),  # RFC 4443: echo request
    )


# --- drawn ---------------------------------------------------------------------------------------


class _Dice:
    """Choices that follow from a text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._thrown = 0

    def below(self, limit: int) -> int:
        """Return a number from 0 to ``limit`` - 1."""
        self._thrown += 1
        digest = sha256(f"{self._text}/{self._thrown}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % limit

    def chance(self, of: int) -> bool:
        """Say yes once in ``of`` times."""
        return self.below(of) == 0

    def of(self, choices: list[_Way]) -> _Way:
        """Return one of them."""
        return choices[self.below(len(choices))]


def _any(way: _Way, dice: _Dice, name: str) -> _Case:
    """Return a UDP, TCP or ICMP packet with all that may vary in it."""
    ip = way.ip(6 if dice.chance(2) else 4) or way.ip(6)
    if ip is None:
        raise ValueError(f"{way.source.mac} has no address")
    ip = replace(
        ip,
        tos=dice.below(256),
        hops=(1, 2, HOPS, 255)[dice.below(4)],
        fragment=(DF, 0)[dice.below(2)],
        source=ip.source + 1 if dice.chance(10) else ip.source,
        target=ip.target + 1 if dice.chance(10) else ip.target,
    )
    if dice.chance(10):
        way = replace(way, target=replace(way.target, mac=_NOBODY))
    if dice.chance(10):
        way = replace(way, source=replace(way.source, mac=_NOBODY))
    size = dice.below(way.view.mtu - 100) + 100
    if dice.chance(3):
        tcp = replace(ip, protocol=TCP)
        return _Case(name, lambda mark: way.frame(tcp.packet(_tcp(tcp, mark + bytes(size % 512)))))
    return _Case(name, _udp(way, ip, size))
