"""Frames that pods and peers of one world send, and the ways in which they can be wrong.

The classes are those of the robustness plan: what can be wrong with a frame, whoever made it. Its
class 49, headers in another page than the start, is what the native build reads every frame like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from random import Random

from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet

from bpf.entries import EntryItem, fast_entries, own_nic, own_sockets
from dataplane.core.desired import Bindings, Desired, PortState, SegmentView
from dataplane.core.model import Encap, IpAddress
from tests.packets.paths import HOST, LOOPBACK, FastPath, Outcome
from tests.unit.overlay_builders import (
    GENEVE4,
    GENEVE6,
    MAC_ONLY,
    NIC,
    OWN4,
    OWN6,
    UNGUARDED,
    VTEP4,
    VTEP6,
    VXLAN4,
    VXLAN6,
    desired,
    ips_of,
    link_local_of,
    mac_of,
    port,
    remote,
    view,
)

# Workload N is in slot N of this node, or on another: see the builders for its MAC and addresses.
WORLD = (
    view(
        GENEVE4,
        [
            port(1, GENEVE4),
            port(2, GENEVE4),
            port(3, GENEVE4, state=PortState.BLOCKED),
            port(10, GENEVE4, ips=()),
        ],
        [remote(11, GENEVE4, VTEP4[0]), remote(12, GENEVE4, VTEP4[1])],
    ),
    view(
        GENEVE6,
        [port(4, GENEVE6)],
        [remote(13, GENEVE6, VTEP6[0]), remote(14, GENEVE6, VTEP6[1])],
    ),
    view(VXLAN4, [port(5, VXLAN4)], [remote(15, VXLAN4, VTEP4[0])]),
    view(VXLAN6, [port(6, VXLAN6)], [remote(16, VXLAN6, VTEP6[0])]),
    view(MAC_ONLY, [port(7, MAC_ONLY)], [remote(17, MAC_ONLY, VTEP4[0])]),
    view(UNGUARDED, [port(8, UNGUARDED), port(9, UNGUARDED)], [remote(18, UNGUARDED, VTEP4[1])]),
)
SLOTS = range(1, 11)
BROADCAST = "ff:ff:ff:ff:ff:ff"
PORTS = {Encap.GENEVE: 6081, Encap.VXLAN: 4789}
_FIRST_IFINDEX = 1000  # of netdevs that need not exist: nothing is really sent
_ETH = 14


def ifindex_of(slot: int) -> int:
    """Return the number that the AccessPort in ``slot`` has while another one sends."""
    return _FIRST_IFINDEX + slot


def held_items(state: Desired, sender: int) -> list[EntryItem]:
    """Return what is in the maps of a node where the pod in slot ``sender`` is at LOOPBACK."""
    slots = [each.attachment.slot for each in state.ports]
    ifindexes = {f"vp{slot}": ifindex_of(slot) for slot in slots} | {f"vp{sender}": LOOPBACK}
    numbers = Bindings(ifindexes={NIC.name: LOOPBACK, **ifindexes})
    nic = replace(NIC, ifindex=LOOPBACK, mac=HOST.hex(":"))
    return [*fast_entries(state, numbers), *own_sockets(state), own_nic(nic)]


def desired_world() -> Desired:
    """Return the state in which the frames below are sent."""
    return desired(*WORLD)


@dataclass(frozen=True)
class Sample:
    """A frame from the pod in ``slot``, or (0) from the wire, and where its headers begin."""

    slot: int
    data: bytes
    l4: int = 0
    tunnel: int = 0
    inner: int = 0  # Ethernet header of what a pod sent

    @property
    def l3(self) -> int:
        """Return where the IP header of what a pod sent begins."""
        return self.inner + _ETH

    @property
    def is_tunnel(self) -> bool:
        """Say whether it comes from the wire."""
        return self.slot == 0

    @property
    def outer_is_ipv4(self) -> bool:
        """Say whether the first EtherType is that of IPv4."""
        return self.data[12:14] == b"\x08\x00"


def run(path: FastPath, sample: Sample, gso_size: int = 0) -> Outcome | None:
    """Return what a path does with a frame; None: it cannot be run on it."""
    return path.received(sample.data) if sample.is_tunnel else path.sent(sample.data, gso_size)


def put(data: bytes, at: int, value: bytes) -> bytes:
    """Return ``data`` with ``value`` at an offset; what does not fit is left out."""
    return (data[:at] + value + data[at + len(value) :])[: max(len(data), at)]


def insert(data: bytes, at: int, value: bytes) -> bytes:
    """Return ``data`` with ``value`` put in at an offset."""
    return data[:at] + value + data[at:]


# --- what is right -----------------------------------------------------------------------------


def inner_packets(source: int, target: int) -> list[Packet]:
    """Return what workload ``source`` may have to say to ``target``."""
    source4, source6 = map(str, ips_of(source))
    target4, target6 = map(str, ips_of(target))
    eth = Ether(src=mac_of(source), dst=mac_of(target))
    to_all = Ether(src=mac_of(source), dst=BROADCAST)
    to_group = Ether(src=mac_of(source), dst="33:33:ff:00:00:01")
    options = ICMPv6NDOptSrcLLAddr(lladdr=mac_of(source))
    ns = IPv6(src=source6, dst="ff02::1:ff00:1", hlim=255)
    local = IPv6(src=str(link_local_of(source)), dst="ff02::1:ff00:1", hlim=255)
    packets = [
        eth / IP(src=source4, dst=target4, tos=2) / TCP(sport=1, dport=80) / b"hello",
        eth / IP(src=source4, dst=target4) / UDP(sport=1, dport=53) / b"hello",
        eth / IP(src=source4, dst=target4) / ICMP() / b"hello",
        eth / IPv6(src=source6, dst=target6, tc=1) / TCP(sport=1, dport=80) / b"hello",
        eth / IPv6(src=source6, dst=target6) / UDP(sport=1, dport=53) / b"hello",
        eth / IPv6(src=source6, dst=target6) / ICMPv6EchoRequest() / b"hello",
        to_all / ARP(hwsrc=mac_of(source), psrc=source4, pdst=target4),
        to_all / ARP(hwsrc=mac_of(source), psrc="0.0.0.0", pdst=target4),
        to_group / ns / ICMPv6ND_NS(tgt=target6) / options,
        to_group / local / ICMPv6ND_NS(tgt=str(link_local_of(target))) / options,
        to_group / ns / ICMPv6ND_NA(tgt=source6) / options,
    ]
    return [Ether(bytes(packet)) for packet in packets]


def tunnelled(
    encap: Encap, vni: int, source: IpAddress, inner: bytes, *, own: IpAddress | None = None
) -> bytes:
    """Return how ``source`` sends ``inner`` to this node, to the MAC of its NIC."""
    family, target = (IP, OWN4) if source.version == 4 else (IPv6, OWN6)
    header = GENEVE(vni=vni, proto=0x6558) if encap is Encap.GENEVE else VXLAN(vni=vni, flags=8)
    udp = UDP(sport=50000, dport=PORTS[encap], chksum=0)
    outer = family(src=str(source), dst=str(own or target))
    return bytes(Ether(src="02:00:00:00:77:02", dst=HOST.hex(":")) / outer / udp / header / inner)


def _sent(views: Iterable[SegmentView]) -> list[Sample]:
    found = []
    for each in views:
        others = [r.endpoint.mac for r in each.remotes] + [p.attachment.mac for p in each.ports]
        numbers = [int(mac.replace(":", "")[-4:], 16) for mac in others]
        for local in each.ports:
            slot = local.attachment.slot
            for other in numbers:
                found += [Sample(slot, bytes(p)) for p in inner_packets(slot, other)]
    return found


def _received(views: Iterable[SegmentView]) -> list[Sample]:
    found = []
    for each in views:
        for far, local in product(each.remotes, each.ports):
            sender = int(far.endpoint.mac.replace(":", "")[-4:], 16)
            for packet in inner_packets(sender, local.attachment.slot):
                segment = each.segment
                data = tunnelled(segment.encap, segment.vni, far.vtep, bytes(packet))
                l4 = 34 if far.vtep.version == 4 else 54
                found.append(Sample(0, data, l4, l4 + 8, l4 + 16))
    return found


SENT = _sent(WORLD)
RECEIVED = _received(WORLD)


def _ipv4(samples: Iterable[Sample]) -> list[Sample]:
    return [s for s in samples if s.data[12:14] == b"\x08\x00"]


def _kind(samples: Iterable[Sample], ethertype: bytes) -> list[Sample]:
    return [s for s in samples if s.data[s.l3 - 2 : s.l3] == ethertype]


GENEVE_ONLY = [s for s in RECEIVED if s.data[s.l4 + 2 : s.l4 + 4] == b"\x17\xc1"]
VXLAN_ONLY = [s for s in RECEIVED if s.data[s.l4 + 2 : s.l4 + 4] == b"\x12\xb5"]
OUTER4 = _ipv4(RECEIVED)
OUTER6 = [s for s in RECEIVED if not s.outer_is_ipv4]
ANY = [*SENT, *RECEIVED]
INNER4, INNER6 = _kind(ANY, b"\x08\x00"), _kind(ANY, b"\x86\xdd")
QUESTIONS4 = _kind(ANY, b"\x08\x06")
QUESTIONS6 = [s for s in INNER6 if s.data[s.l3 + 6] == 58 and s.data[s.l3 + 40] in (135, 136)]


def summed(data: bytes) -> bytes:
    """Return a tunnel packet whose outer lengths and IPv4 checksum are those of what it holds."""
    length = len(data) - _ETH
    if data[12:14] == b"\x08\x00" and length >= 20:
        header = (data[14] & 15) * 4
        data = put(data, 16, length.to_bytes(2, "big"))
        data = put(data, _ETH + header + 4, max(length - header, 0).to_bytes(2, "big"))
        return with_ipv4_sum(data)
    if data[12:14] == b"\x86\xdd" and length >= 40:
        return put(
            put(data, 18, (length - 40).to_bytes(2, "big")), 58, (length - 40).to_bytes(2, "big")
        )
    return data


def with_ipv4_sum(data: bytes) -> bytes:
    """Return a frame whose first IPv4 header has a right checksum."""
    end = _ETH + max((data[14] & 15) * 4, 20)
    header = put(data[_ETH:end], 10, b"\0\0")
    if len(header) % 2:
        return data
    return put(data, 24, internet_checksum(header))


def has_right_nd_sum(data: bytes) -> bool:
    """Say whether the ICMPv6 checksum of a frame that a pod sent, with 32 bytes in it, is right."""
    pseudo = data[22:54] + b"\0\0\0\x20\0\0\0\x3a"
    return internet_checksum(pseudo + data[54:86]) == b"\0\0"


def internet_checksum(data: bytes) -> bytes:
    """Return what RFC 1071 says."""
    padded = data + bytes(len(data) % 2)
    total = sum(int.from_bytes(padded[i : i + 2], "big") for i in range(0, len(padded), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).to_bytes(2, "big")


def udp_checksum(data: bytes, l4: int) -> bytes:
    """Return the right checksum of a tunnel packet."""
    addresses = data[26:34] if data[12:14] == b"\x08\x00" else data[22:54]
    segment = put(data[l4:], 6, b"\0\0")
    pseudo = addresses + len(segment).to_bytes(4, "big") + b"\0\0\0\x11"
    found = internet_checksum(pseudo + segment)
    return found if found != b"\0\0" else b"\xff\xff"


# --- what can be wrong -------------------------------------------------------------------------

Change = Callable[[Random, Sample], bytes]


@dataclass(frozen=True)
class Mutation:
    """A class of wrong frames: which ones it starts from, and what it does to them."""

    samples: list[Sample]
    change: Change

    def case(self, seed: int | str) -> Sample:
        """Return the frame of this seed."""
        chance = Random(seed)
        sample = chance.choice(self.samples)
        return replace(sample, data=self.change(chance, sample)[:MAX_FRAME])


MAX_FRAME = 1500 + _ETH  # the test's netdevs take no more


def _bytes_at(offset: Callable[[Sample], int], *values: bytes) -> Change:
    return lambda chance, s: put(s.data, offset(s), chance.choice(values))


def _outer(offset: int, *values: bytes) -> Change:
    """Change the outer IP header, and make its checksum right again."""

    def change(chance: Random, s: Sample) -> bytes:
        data = put(s.data, _ETH + offset, chance.choice(values))
        return with_ipv4_sum(data) if s.outer_is_ipv4 else data

    return change


def _cut(chance: Random, s: Sample) -> bytes:
    data = s.data[: chance.randrange(_ETH, len(s.data))]
    return summed(data) if s.is_tunnel and chance.random() < 0.5 else data


def _ihl(*choices: int) -> Change:
    return lambda chance, s: put(s.data, s.l3, bytes([0x40 | chance.choice(choices)]))


def _outer_ihl(*choices: int) -> Change:
    return _outer(0, *(bytes([0x40 | choice]) for choice in choices))


def _outer_options(chance: Random, s: Sample) -> bytes:
    words = chance.randint(1, 10)
    data = insert(s.data, 34, chance.choice([b"\x01\x01\x01\x01", b"\x94\x04\0\0"]) * words)
    return summed(put(data, 14, bytes([0x45 + words])))


def _inner_options(chance: Random, s: Sample) -> bytes:
    words = chance.randint(1, 10)
    data = insert(s.data, s.l3 + 20, b"\x01" * 4 * words)
    data = put(data, s.l3, bytes([0x45 + words]))
    data = put(data, s.l3 + 2, (len(data) - s.l3).to_bytes(2, "big"))
    return summed(data) if s.is_tunnel else data


def _extension_headers(chance: Random, s: Sample) -> bytes:
    """Put headers between IPv6 and the rest: hop by hop, routing, fragment, destination, AH."""
    data = s.data
    at = (_ETH if s.is_tunnel and not s.outer_is_ipv4 and chance.random() < 0.5 else s.l3) + 40
    for _ in range(chance.randint(1, 8)):
        kind = chance.choice([0, 43, 44, 60, 51, 135])
        data = insert(data, at, bytes([data[at - 34]]) + bytes(7))
        data = put(data, at - 34, bytes([kind]))
    length = len(data) - at
    data = put(data, at - 36, length.to_bytes(2, "big"))
    return summed(data) if s.is_tunnel and at != 54 else data


def _udp_length(*choices: int) -> Change:
    return lambda chance, s: put(s.data, s.l4 + 4, chance.choice(choices).to_bytes(2, "big"))


def _udp_length_past_end(chance: Random, s: Sample) -> bytes:
    length = len(s.data) - s.l4 + chance.choice([1, 2, 8, 1000])
    return put(s.data, s.l4 + 4, length.to_bytes(2, "big"))


def _udp_sum(chance: Random, s: Sample) -> bytes:
    right = udp_checksum(s.data, s.l4)
    wrong = bytes([right[0] ^ 0x40, right[1]])
    return put(s.data, s.l4 + 6, chance.choice([right, wrong]))


def _geneve_options(*options: bytes) -> Change:
    def change(chance: Random, s: Sample) -> bytes:
        chosen = b"".join(chance.choices(options, k=chance.randint(1, 3)))
        first = bytes([len(chosen) // 4, chance.choice([0, 0x40])])
        return summed(put(insert(s.data, s.tunnel + 8, chosen), s.tunnel, first))

    return change


def _vni(chance: Random, s: Sample) -> bytes:
    vnis = [0, 0xFFFFFF, 99, *(each.segment.vni for each in WORLD)]
    return put(s.data, s.tunnel + 4, chance.choice(vnis).to_bytes(3, "big"))


def _source(*addresses: str) -> Change:
    def change(chance: Random, s: Sample) -> bytes:
        if not s.outer_is_ipv4:
            packed = bytes.fromhex(chance.choice(addresses[1::2]))
            return put(s.data, 22, packed)
        return with_ipv4_sum(put(s.data, 26, bytes.fromhex(chance.choice(addresses[::2]))))

    return change


def _hex(address: IpAddress) -> str:
    return address.packed.hex()


def _inner_cut(chance: Random, s: Sample) -> bytes:
    return summed(s.data[: s.inner + chance.randrange(_ETH)])


def _mac(number: int) -> bytes:
    return bytes.fromhex(mac_of(number).replace(":", ""))


def _inner_mac(offset: int, *macs: bytes) -> Change:
    return lambda chance, s: put(s.data, s.inner + offset, chance.choice(macs))


def _same_macs(_chance: Random, s: Sample) -> bytes:
    return put(s.data, s.inner, s.data[s.inner + 6 : s.inner + 12])


def _tags(chance: Random, s: Sample) -> bytes:
    tags = b"".join(
        chance.choice([b"\x81\0", b"\x88\xa8", b"\x91\0"]) + chance.choice([b"\0\0", b"\0\x07"])
        for _ in range(chance.randint(1, 3))
    )
    data = insert(s.data, s.inner + 12, tags)
    if chance.random() < 0.2:
        data = data[: s.inner + 12 + chance.randrange(len(tags) + 2)]
    return summed(data) if s.is_tunnel else data


def _tunnel_in_tunnel(chance: Random, s: Sample) -> bytes:
    data = s.data
    for _ in range(chance.randint(1, 8)):
        data = data[: s.inner] + s.data[: s.inner] + data[s.inner :]
        data = data[: s.inner] + summed(data[s.inner :])
    return summed(data)


def _inner_ip(offset: int, *values: bytes) -> Change:
    return lambda chance, s: put(s.data, s.l3 + offset, chance.choice(values))


def _any_inner_length(chance: Random, s: Sample) -> bytes:
    at = s.l3 + (2 if s.data[s.l3] >> 4 == 4 else 4)
    right = int.from_bytes(s.data[at : at + 2], "big")
    wrong = chance.choice([0, 1, 19, 20, 21, right - 1, right + 1, right + 8, 0xFFFF])
    return put(s.data, at, (wrong & 0xFFFF).to_bytes(2, "big"))


def _arp(chance: Random, s: Sample) -> bytes:
    change = chance.choice(
        [
            (1, b"\x02"),  # hardware
            (2, b"\x86\xdd"),
            (4, b"\x08"),
            (4, b"\0"),
            (5, b"\x10"),
            (6, b"\0\0"),
            (6, b"\0\x02"),
            (6, b"\0\x03"),
            (6, b"\x01\x01"),
            (8, _mac(2)),
            (14, ips_of(2)[0].packed),
            (14, ips_of(99)[0].packed),
            (24, bytes(4)),
            (24, ips_of(1)[0].packed),
        ]
    )
    data = put(s.data, s.l3 + change[0], change[1])
    return data if chance.random() < 0.8 else data[: s.l3 + chance.randrange(28)]


def _nd(chance: Random, s: Sample) -> bytes:
    """Change an ND message: hop limit, code, target, option; its checksum stays what it was."""
    icmp = s.l3 + 40
    offset, value = chance.choice(
        [
            (s.l3 + 7, b"\xfe"),
            (icmp + 1, b"\x01"),
            (icmp + 2, b"\x12\x34"),
            (icmp + 24, b"\x02"),
            (icmp + 24, b"\0"),
            (icmp + 25, b"\0"),
            (icmp + 25, b"\x02"),
            (icmp + 26, _mac(2)),
            (icmp + 26, bytes(6)),
            (icmp, b"\x86"),
            (icmp, b"\x89"),
            (icmp, b"\x80"),
            (s.l3 + 8, bytes(16)),
            (s.l3 + 8, bytes.fromhex("ff02") + bytes(13) + b"\x01"),
            (icmp + 8, bytes(16)),
            (icmp + 8, bytes.fromhex("ff02") + bytes(13) + b"\x01"),
            (icmp + 8, ips_of(1)[1].packed),
            (icmp + 8, link_local_of(1).packed),
            (icmp + 8, link_local_of(99).packed),
        ]
    )
    return put(s.data, offset, value)


def _more_nd_options(chance: Random, s: Sample) -> bytes:
    option = chance.choice(
        [
            s.data[s.l3 + 64 : s.l3 + 72],
            b"\x05\x01\0\0\0\0\x05\x78",
            b"\x01\x01" + _mac(2),
            b"\x02\x01" + _mac(2),
            b"\x0e\0" + bytes(6),
        ]
    )
    data = s.data + option
    if chance.random() < 0.5:
        data = s.data[: s.l3 + 64] + option + s.data[s.l3 + 64 :]
    data = put(data, s.l3 + 4, (len(data) - s.l3 - 40).to_bytes(2, "big"))
    return summed(data) if s.is_tunnel else data


def _padded(chance: Random, s: Sample) -> bytes:
    """Put bytes behind what the IP header says, as Ethernet may."""
    return s.data + chance.choice([b"\0", b"\0" * 18, b"\x01\x02\x03"])


def _cut_and_padded(chance: Random, s: Sample) -> bytes:
    """Cut the packet by the word of IP and UDP, and leave bytes behind it in the frame."""
    cut = summed(s.data[: s.tunnel + chance.randrange(40)])
    return cut + s.data[len(cut) :] + bytes(chance.choice([0, 1, 20, 100]))


def _large(chance: Random, s: Sample) -> bytes:
    size = chance.choice([1399, 1400, 1401, 1449, 1450, 1451, 1500])
    data = s.data + bytes(max(size + _ETH - len(s.data), 0))
    at = s.inner
    if data[at + 12 : at + 14] == b"\x08\x00":
        data = put(data, at + 16, (len(data) - at - _ETH).to_bytes(2, "big"))
    return summed(data) if s.is_tunnel else data


def _ecn(chance: Random, s: Sample) -> bytes:
    data = s.data
    for at in {_ETH, s.l3}:
        bits = chance.randrange(4)
        if data[at - 2 : at] == b"\x08\x00":
            data = put(data, at + 1, bytes([bits | chance.choice([0, 0xB8])]))
        elif data[at - 2 : at] == b"\x86\xdd":
            data = put(data, at + 1, bytes([bits << 4 | data[at + 1] & 0xF]))
    return with_ipv4_sum(data) if s.is_tunnel and s.outer_is_ipv4 else data


def _labels(chance: Random, s: Sample) -> bytes:
    labels = b"".join(b"\0\x01\0\x40" for _ in range(chance.randint(1, 8)))
    data = put(insert(s.data, s.l3, labels), s.l3 - 2, b"\x88\x47")
    if chance.random() < 0.5:
        data = data[: s.l3 + chance.randrange(len(labels))]
    return summed(data) if s.is_tunnel else data


def _flips(chance: Random, s: Sample) -> bytes:
    data = bytearray(s.data)
    for _ in range(chance.choice([1, 1, 1, 2, 4, 16])):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    result = bytes(data)
    whole = s.is_tunnel and result[12:15] == b"\x08\x00\x45" and chance.random() < 0.7
    return with_ipv4_sum(result) if whole else result


def _snap(_chance: Random, s: Sample) -> bytes:
    """IEEE 802.2 SNAP: a length where the EtherType stands, and the EtherType behind it."""
    kind = s.data[s.l3 - 2 : s.l3]
    data = insert(s.data, s.l3, b"\xaa\xaa\x03\0\0\0" + kind)
    data = put(data, s.l3 - 2, min(len(s.data) - s.l3 + 8, 1500).to_bytes(2, "big"))
    return summed(data) if s.is_tunnel else data


_MAPPED = [(b"\0" * 10 + b"\xff\xff" + ips_of(number)[0].packed) for number in (1, 2, 5, 8, 11)]


def _mapped(chance: Random, s: Sample) -> bytes:
    """Write IPv4 addresses mapped into IPv6 (RFC 4291 2.5.5.2), which must not be on a wire."""
    own = ips_of(s.slot)[0].packed if s.slot else b""
    address = b"\0" * 10 + b"\xff\xff" + own if own else chance.choice(_MAPPED)
    is_question = s.data[s.l3 + 6] == 58 and s.data[s.l3 + 40] == 135
    if is_question and chance.random() < 0.7:
        return put(s.data, s.l3 + 48, chance.choice(_MAPPED))
    return put(s.data, s.l3 + 8, address)


def _mapped_outside(chance: Random, s: Sample) -> bytes:
    vtep = b"\0" * 10 + b"\xff\xff" + chance.choice(VTEP4).packed
    segment = chance.choice([GENEVE4, GENEVE6, VXLAN4, VXLAN6])
    data = put(s.data, s.tunnel + 4, segment.vni.to_bytes(3, "big"))
    return put(data, chance.choice([22, 22, 22, 38]), vtep)


STRANGERS = ("c0000242", "20010db8" + "0" * 22 + "66")
OTHER_VTEPS = (_hex(VTEP4[1]), _hex(VTEP6[1]), _hex(VTEP4[0]), _hex(VTEP6[0]))
OWN_VTEPS = (_hex(OWN4), _hex(OWN6))
MARTIANS = ("ffffffff", "ff02" + "0" * 27 + "1", "e0000001", "0" * 31 + "1", "7f000001", "0" * 32)

MUTATIONS: Mapping[str, Mutation] = {
    "00-right": Mutation(ANY, lambda _, s: s.data),
    "01-nothing-inside": Mutation(RECEIVED, lambda _, s: summed(s.data[: s.tunnel])),
    "02-shorter-than-ethernet": Mutation(ANY, lambda c, s: s.data[: c.randrange(_ETH)]),
    "03-cut-anywhere": Mutation(ANY, _cut),
    "04-ethertype-lies": Mutation(
        ANY, _bytes_at(lambda _: 12, b"\x08\0", b"\x86\xdd", b"\x08\x06", b"\x88\xb5")
    ),
    "05-ihl-below-5": Mutation([*INNER4, *INNER4], _ihl(0, 1, 2, 3, 4)),
    "05-outer-ihl-below-5": Mutation(OUTER4, _outer_ihl(0, 1, 2, 3, 4)),
    "06-ihl-past-end": Mutation(INNER4, _ihl(6, 10, 13, 14, 15)),
    "06-outer-ihl-past-end": Mutation(OUTER4, _outer_ihl(6, 10, 13, 14, 15)),
    "07-total-length": Mutation(OUTER4, _outer(2, b"\0\0", b"\0\x13", b"\0\x20", b"\xff\xff")),
    "08-ipv4-checksum": Mutation(OUTER4, _bytes_at(lambda _: 24, b"\0\0", b"\x12\x34")),
    "09-first-fragment": Mutation(OUTER4, _outer(6, b"\x20\0", b"\x60\0")),
    "10-later-fragment": Mutation(OUTER4, _outer(6, b"\0\x01", b"\x20\x10", b"\x1f\xff")),
    "09-inner-fragment": Mutation(
        INNER4, _inner_ip(6, b"\x20\0", b"\0\x01", b"\x3f\xff", b"\x80\0")
    ),
    "11-outer-options": Mutation(OUTER4, _outer_options),
    "11-inner-options": Mutation(INNER4, _inner_options),
    "12-ttl": Mutation(OUTER4, _outer(8, b"\0", b"\x01")),
    "12-hop-limit": Mutation(OUTER6, _outer(7, b"\0", b"\x01")),
    "13-extension-headers": Mutation(INNER6, _extension_headers),
    "13-payload-length": Mutation(OUTER6, _outer(4, b"\0\0", b"\0\x08", b"\0\x30", b"\xff\xff")),
    "14-udp-length-below-8": Mutation(RECEIVED, _udp_length(0, 1, 7)),
    "15-udp-length-past-end": Mutation(RECEIVED, _udp_length_past_end),
    "16-udp-checksum": Mutation(RECEIVED, _udp_sum),
    "17-udp-port": Mutation(
        RECEIVED, _bytes_at(lambda s: s.l4 + 2, b"\x17\xc1", b"\x12\xb5", b"\x12\xb6", b"\0\0")
    ),
    "18-vxlan-no-vni": Mutation(VXLAN_ONLY, _bytes_at(lambda s: s.tunnel, b"\0", b"\x80")),
    "19-vxlan-reserved": Mutation(
        VXLAN_ONLY,
        lambda c, s: put(s.data, s.tunnel + c.choice([1, 2, 3, 7]), bytes([1 << c.randrange(8)])),
    ),
    "20-vxlan-gpe": Mutation(
        VXLAN_ONLY, _bytes_at(lambda s: s.tunnel, b"\x0c\0\0\x01", b"\x0c\0\0\x03", b"\x88\0\0\x10")
    ),
    "21-geneve-version": Mutation(
        GENEVE_ONLY, _bytes_at(lambda s: s.tunnel, b"\x40", b"\x80", b"\xc0")
    ),
    "22-geneve-options-past-end": Mutation(
        GENEVE_ONLY, _bytes_at(lambda s: s.tunnel, b"\x3f", b"\x20", b"\x04")
    ),
    "23-geneve-option-length": Mutation(
        GENEVE_ONLY, _geneve_options(b"\x01\x02\x03\x1f", b"\x01\x02\x03\x02" + bytes(4))
    ),
    "24-geneve-critical-without-option": Mutation(
        GENEVE_ONLY, _bytes_at(lambda s: s.tunnel + 1, b"\x40")
    ),
    "25-geneve-critical-option": Mutation(
        GENEVE_ONLY, _geneve_options(b"\x01\x02\x83\x01" + bytes(4), b"\0\0\x80\0")
    ),
    "26-geneve-oam": Mutation(GENEVE_ONLY, _bytes_at(lambda s: s.tunnel + 1, b"\x80", b"\xc0")),
    "27-geneve-protocol": Mutation(
        GENEVE_ONLY,
        _bytes_at(lambda s: s.tunnel + 2, b"\0\0", b"\x08\0", b"\x86\xdd", b"\xff\xff"),
    ),
    "28-geneve-same-option-twice": Mutation(
        GENEVE_ONLY,
        _geneve_options(b"\xff\xff\x80\x01" + bytes(4), b"\xff\xff\x80\x01" + b"\1" * 4),
    ),
    "29-geneve-reserved": Mutation(
        GENEVE_ONLY,
        lambda c, s: put(s.data, s.tunnel + c.choice([1, 7]), bytes([1 << c.randrange(6)])),
    ),
    "30-vni": Mutation(RECEIVED, _vni),
    "31-source-is-no-vtep": Mutation(RECEIVED, _source(*STRANGERS)),
    "32-source-is-vtep-of-others": Mutation(RECEIVED, _source(*OTHER_VTEPS)),
    "33-source-is-our-vtep": Mutation(RECEIVED, _source(*OWN_VTEPS)),
    "34-source-is-martian": Mutation(RECEIVED, _source(*MARTIANS)),
    "35-inner-below-14": Mutation(RECEIVED, _inner_cut),
    "36-inner-source-mac": Mutation(
        ANY, _inner_mac(6, bytes(6), b"\xff" * 6, b"\x01\0\x5e\0\0\x01", b"\x33\x33\0\0\0\x01")
    ),
    "36-same-macs": Mutation(ANY, _same_macs),
    "37-inner-mac-of-another-vtep": Mutation(ANY, _inner_mac(6, *map(_mac, range(11, 19)))),
    "38-inner-mac-of-ours": Mutation(ANY, _inner_mac(6, *map(_mac, SLOTS))),
    "39-inner-to-bridges": Mutation(
        ANY, _inner_mac(0, b"\x01\x80\xc2\0\0\0", b"\x01\x80\xc2\0\0\x02", b"\x01\x80\xc2\0\0\x0e")
    ),
    "39-inner-to-anybody": Mutation(ANY, _inner_mac(0, *map(_mac, range(20)))),
    "40-tags": Mutation(ANY, _tags),
    "41-tunnel-in-tunnel": Mutation(RECEIVED, _tunnel_in_tunnel),
    "42-ip-protocol": Mutation(
        INNER4,
        lambda c, s: put(s.data, s.l3 + 9, bytes([c.choice([0, 1, 2, 4, 41, 58, 132, 255])])),
    ),
    "42-ipv6-next-header": Mutation(
        INNER6, lambda c, s: put(s.data, s.l3 + 6, bytes([c.choice([0, 1, 2, 6, 17, 58, 59, 132])]))
    ),
    "43-inner-length": Mutation([*INNER4, *INNER6], _any_inner_length),
    "44-arp": Mutation(QUESTIONS4, _arp),
    "45-nd": Mutation(QUESTIONS6, _nd),
    "45-nd-options": Mutation(QUESTIONS6, _more_nd_options),
    "46-large": Mutation(ANY, _large),
    "47-ecn": Mutation(ANY, _ecn),
    "48-mpls": Mutation(ANY, _labels),
    "50-flipped-bits": Mutation(ANY, _flips),
    "51-llc-snap": Mutation(ANY, _snap),
    "52-mapped-address": Mutation(INNER6, _mapped),
    "52-mapped-outer-address": Mutation(OUTER6, _mapped_outside),
    "53-padded": Mutation(ANY, _padded),
    "53-cut-and-padded": Mutation(RECEIVED, _cut_and_padded),
}
