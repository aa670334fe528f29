"""rtnetlink messages by hand, past everything of ours: linux/rtnetlink.h, pkt_cls.h, tc_act."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

REQUEST, ACK, DUMP, REPLACE, EXCL, CREATE = 0x1, 0x4, 0x300, 0x100, 0x200, 0x400
NEW = REQUEST | ACK | CREATE | EXCL
NEWLINK, GETLINK, NEWQDISC, DELQDISC, GETQDISC = 16, 18, 36, 37, 38
NEWTFILTER, DELTFILTER, GETTFILTER = 44, 45, 46
ERROR, DONE = 2, 3
CLSACT, INGRESS = 0xFFFFFFF1, 0xFFFFFFF2
SKIP_HW, SKIP_SW, IN_HW, NOT_IN_HW, VERBOSE = 1, 2, 4, 8, 16
ALL, IPV4, IPV6 = 0x0300, 0x0008, 0xDD86  # protocols as tcm_info has them
# TCA_FLOWER_KEY_*, and the mask of each in brackets.
KEYS = {
    "eth_dst": (4, 5),
    "eth_src": (6, 7),
    "eth_type": (8, 0),
    "ip_proto": (9, 0),
    "ipv4_src": (10, 11),
    "ipv4_dst": (12, 13),
    "ipv6_src": (14, 15),
    "ipv6_dst": (16, 17),
    "tcp_src": (18, 35),
    "tcp_dst": (19, 36),
    "udp_src": (20, 37),
    "udp_dst": (21, 38),
    "vlan_id": (23, 0),
    "enc_key_id": (26, 0),
    "enc_ipv4_src": (27, 28),
    "enc_ipv4_dst": (29, 30),
    "enc_ipv6_src": (31, 32),
    "enc_ipv6_dst": (33, 34),
    "sctp_dst": (42, 40),
    "enc_udp_src_port": (43, 44),
    "enc_udp_dst_port": (45, 46),
    "flags": (47, 48),
    "arp_op": (61, 62),
    "ip_tos": (73, 74),
    "ip_ttl": (75, 76),
    "enc_ip_ttl": (82, 83),
}
_PIPE, _STOLEN = 3, 4


def attr(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(kind: int, flags: int, body: bytes, sequence: int = 7) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body


def value(given: str | int | bytes, size: int) -> bytes:
    """Return a MAC, an address or a number in network byte order."""
    if isinstance(given, bytes):
        return given
    if isinstance(given, int):
        return given.to_bytes(size)
    if given.count(":") == 5 and len(given) == 17:
        return bytes.fromhex(given.replace(":", ""))
    return ip_address(given).packed


def keys(**wanted: str | int | bytes | tuple[str | int, str | int]) -> bytes:
    """Return the attributes of a match; a pair is value and mask."""
    sizes = {"eth_type": 2, "ip_proto": 1, "enc_key_id": 4, "vlan_id": 2, "flags": 4}
    sizes |= {"ip_tos": 1, "ip_ttl": 1, "arp_op": 1, "enc_ip_ttl": 1}
    found = b""
    for name, given in wanted.items():
        number, mask = KEYS[name]
        size = sizes.get(name, 2)
        pair = given if isinstance(given, tuple) else (given, None)
        found += attr(number, value(pair[0], size))
        if pair[1] is not None:
            found += attr(mask, value(pair[1], size))
    return found


def action(kind: str, options: bytes, cookie: bytes = b"") -> bytes:
    return attr(1, kind.encode() + b"\0") + attr(2, options) + (attr(6, cookie) if cookie else b"")


def generic(control: int) -> bytes:
    return struct.pack("=IIiii", 0, 0, control, 0, 0)


def mirred(ifindex: int, how: int = 1) -> bytes:
    return action("mirred", attr(2, generic(_STOLEN) + struct.pack("=iI", how, ifindex)))


def gact(control: int) -> bytes:
    return action("gact", attr(2, generic(control)))


def tunnel_set(
    source: str,
    target: str,
    number: int,
    *,
    port: int = 0,
    ttl: int = 64,
    tos: int = 0,
    no_csum: int = 1,
    no_frag: bool = True,
) -> bytes:
    src, dst = (3, 4) if "." in source else (5, 6)
    options = attr(2, generic(_PIPE) + struct.pack("=i", 1))
    options += attr(src, value(source, 0)) + attr(dst, value(target, 0))
    options += attr(7, number.to_bytes(4)) + attr(10, bytes([no_csum]))
    options += (attr(9, port.to_bytes(2)) if port else b"") + (attr(14, b"") if no_frag else b"")
    options += (attr(13, bytes([ttl])) if ttl else b"") + (attr(12, bytes([tos])) if tos else b"")
    return action("tunnel_key", options)


def tunnel_release() -> bytes:
    return action("tunnel_key", attr(2, generic(_PIPE) + struct.pack("=i", 2)))


def actions(*each: bytes) -> bytes:
    return attr(3, b"".join(attr(n, one) for n, one in enumerate(each, start=1)))


def flags(number: int) -> bytes:
    return attr(22, struct.pack("=I", number))


def tcm(ifindex: int, handle: int = 0, parent: int = INGRESS, info: int = 0) -> bytes:
    return struct.pack("=BxxxiIII", 0, ifindex, handle, parent, info)


def clsact(ifindex: int, kind: int = NEWQDISC, how: int = NEW) -> bytes:
    body = tcm(ifindex, 0xFFFF0000, CLSACT) + attr(1, b"clsact\0")
    return message(kind, how, body)


def new_filter(
    ifindex: int,
    options: bytes,
    *,
    pref: int = 10,
    handle: int = 0,
    protocol: int = ALL,
    how: int = NEW,
) -> bytes:
    body = tcm(ifindex, handle, INGRESS, pref << 16 | protocol) + attr(1, b"flower\0")
    return message(NEWTFILTER, how, body + attr(2, options))


def one_filter(
    kind: int, ifindex: int, pref: int, handle: int = 0, *, protocol: int = ALL, how: int = ACK
) -> bytes:
    return message(kind, REQUEST | how, tcm(ifindex, handle, INGRESS, pref << 16 | protocol))


def dump(kind: int, ifindex: int = 0) -> bytes:
    body = struct.pack("=BxHiII", 0, 0, 0, 0, 0) if kind == GETLINK else tcm(ifindex)
    return message(kind, REQUEST | DUMP, body)


@dataclass(frozen=True, slots=True)
class Answer:
    """A message that came back; ``error`` is the number in an NLMSG_ERROR."""

    kind: int
    flags: int
    sequence: int
    body: bytes

    @property
    def error(self) -> int:
        assert self.kind == ERROR, self
        return -int(struct.unpack_from("=i", self.body)[0])

    @property
    def words(self) -> str:
        """Return the words of an NLMSG_ERROR."""
        assert self.kind == ERROR, self
        if not self.flags & 0x200:
            return ""
        quoted = 16 if self.flags & 0x100 else struct.unpack_from("=I", self.body, 4)[0]
        start = 4 + quoted + -quoted % 4
        return attributes(self.body[start:])[1].rstrip(b"\0").decode()


def answers(packets: list[bytes]) -> Iterator[Answer]:
    for each in packets:
        rest = each
        while rest:
            size, kind, how, sequence, _ = struct.unpack_from("=IHHII", rest)
            yield Answer(kind, how, sequence, rest[16:size])
            rest = rest[size + -size % 4 :]


def attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while data:
        size, kind = struct.unpack_from("=HH", data)
        found[kind & 0x3FFF] = data[4:size]
        data = data[size + -size % 4 :]
    return found


@dataclass(frozen=True, slots=True)
class Shown:
    """A filter as it was read back; ``options`` are its attributes, by number."""

    ifindex: int
    handle: int
    pref: int
    protocol: int
    options: dict[int, bytes]

    @property
    def flags(self) -> int:
        return int(struct.unpack("=I", self.options[22])[0])

    @property
    def actions(self) -> list[dict[int, bytes]]:
        return [attributes(each) for each in attributes(self.options.get(3, b"")).values()]

    @property
    def counters(self) -> list[tuple[int, int]]:
        """Return packets and bytes of each action."""
        found = []
        for each in self.actions:
            stats = attributes(each[4])
            assert stats[1] == stats[7]
            octets, packets = struct.unpack("=QI4x", stats[1])
            found.append((packets, octets))
        return found


def shown(answer: Answer) -> Shown:
    assert answer.kind == NEWTFILTER, answer
    _, ifindex, handle, _, info = struct.unpack_from("=BxxxiIII", answer.body)
    found = attributes(answer.body[20:])
    options = attributes(found[2]) if 2 in found else {}
    return Shown(ifindex, handle, info >> 16, info & 0xFFFF, options)
