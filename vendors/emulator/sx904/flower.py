"""Flower filters between the wire and what the driver is asked. Pure.

linux/pkt_cls.h, net/sched/cls_flower.c: what the kernel itself checks.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from vendors.emulator.sx904.actions import Action, Counter, Exists, read_actions, write_action
from vendors.emulator.sx904.netlink import Refusal, read_attributes, write_attribute

SKIP_HW, SKIP_SW, IN_HW, NOT_IN_HW, VERBOSE = 1, 2, 4, 8, 16
_BOTH = SKIP_HW | SKIP_SW
_ACT, _FLAGS, _IN_HW_COUNT = 3, 22, 86
_U32 = struct.Struct("=I")


class Key(Enum):
    """What a filter may compare: the numbers of value and mask (0: none), and bytes."""

    ETH_DST = (4, 5, 6)
    ETH_SRC = (6, 7, 6)
    ETH_TYPE = (8, 0, 2)
    IP_PROTO = (9, 0, 1)
    IPV4_SRC = (10, 11, 4)
    IPV4_DST = (12, 13, 4)
    IPV6_SRC = (14, 15, 16)
    IPV6_DST = (16, 17, 16)
    TCP_SRC = (18, 35, 2)
    TCP_DST = (19, 36, 2)
    UDP_SRC = (20, 37, 2)
    UDP_DST = (21, 38, 2)
    ENC_KEY_ID = (26, 0, 4)
    ENC_IPV4_SRC = (27, 28, 4)
    ENC_IPV4_DST = (29, 30, 4)
    ENC_IPV6_SRC = (31, 32, 16)
    ENC_IPV6_DST = (33, 34, 16)
    ENC_UDP_SRC_PORT = (43, 44, 2)
    ENC_UDP_DST_PORT = (45, 46, 2)
    IP_TOS = (73, 74, 1)
    IP_TTL = (75, 76, 1)

    @property
    def number(self) -> int:
        """Return the number of its attribute."""
        return self.value[0]

    @property
    def size(self) -> int:
        """Return its length in bytes."""
        return self.value[2]


SCTP_KEYS = frozenset({39, 40, 41, 42})
_INDEV, _CLASSID, _KEY_FLAGS = 2, 1, 47
# What else the kernel compares: by number, the number of the mask (0: none) and bytes (0: any).
_REST = {
    _INDEV: (0, 1),
    23: (0, 2),
    24: (0, 1),
    25: (0, 2),
    77: (0, 2),
    78: (0, 1),
    79: (0, 2),
    102: (0, 1),  # VLAN
    41: (39, 2),
    42: (40, 2),
    71: (72, 2),  # SCTP, TCP flags
    87: (0, 2),
    88: (0, 2),
    89: (0, 2),
    90: (0, 2),  # ranges of ports
    49: (50, 1),
    51: (52, 1),
    53: (54, 1),
    55: (56, 1),  # ICMP
    57: (58, 4),
    59: (60, 4),
    61: (62, 1),
    63: (64, 6),
    65: (66, 6),  # ARP
    67: (0, 1),
    68: (0, 1),
    69: (0, 1),
    70: (0, 4),
    99: (0, 0),  # MPLS
    80: (81, 1),
    82: (83, 1),
    84: (85, 0),  # outer TOS, TTL, options
    91: (92, 2),
    93: (94, 2),
    95: (96, 4),
    97: (98, 16),  # connection tracking
    _KEY_FLAGS: (48, 4),
    100: (101, 4),
    103: (0, 2),
    104: (0, 2),
    105: (0, 4),
}
_LENGTHS = (
    {key.number: key.size for key in Key}
    | {key.value[1]: key.size for key in Key if key.value[1]}
    | {number: size for number, (_, size) in _REST.items()}
    | {mask: size for mask, size in _REST.values() if mask}
    | {_CLASSID: 4, _FLAGS: 4}
)
_IP_TYPES = frozenset({0x0800, 0x86DD})
_NEEDS = {Key.IP_PROTO: 0, Key.IP_TOS: 0, Key.IP_TTL: 0} | {
    Key.TCP_SRC: 6,
    Key.TCP_DST: 6,
    Key.UDP_SRC: 17,
    Key.UDP_DST: 17,
}


@dataclass(frozen=True, slots=True)
class Part:
    """That a key is compared with ``value`` where ``mask`` has ones."""

    key: Key
    value: int
    mask: int


@dataclass(frozen=True, slots=True)
class Flower:
    """A filter as the kernel has read it; ``rest`` are attributes of keys that the device lacks."""

    parts: tuple[Part, ...]
    rest: tuple[tuple[int, bytes], ...]
    actions: tuple[Action, ...]
    flags: int

    @property
    def match(self) -> tuple[object, ...]:
        """Return what may be there only once in one pref."""
        return *((p.key, p.value & p.mask, p.mask) for p in self.parts), *self.rest


def read_flower(options: bytes, exists: Exists) -> Flower:
    """Return the filter in TCA_OPTIONS; ``exists`` tells netdevs by ifindex. Raises Refusal."""
    found = read_attributes(options, _LENGTHS, "")
    flags = _U32.unpack_from(found[_FLAGS])[0] if _FLAGS in found else 0
    if flags & ~(SKIP_HW | SKIP_SW | VERBOSE) or flags & _BOTH == _BOTH:
        raise Refusal(errno.EINVAL)
    actions = tuple(read_actions(found.get(_ACT, b""), exists))
    rest = tuple(sorted(_read_rest(found)))
    return Flower(tuple(_read_parts(found)), rest, actions, flags)


def write_flower(flower: Flower, counter: Counter, index: int, *, in_hardware: bool) -> bytes:
    """Return TCA_OPTIONS as they are read back; actions are numbered from ``index`` on."""
    state = IN_HW if in_hardware else NOT_IN_HW
    count = write_attribute(_IN_HW_COUNT, _U32.pack(int(in_hardware)))
    return ask_flower(replace(flower, flags=flower.flags | state), counter, index) + count


def ask_flower(flower: Flower, counter: Counter, index: int) -> bytes:
    """Return TCA_OPTIONS as they are asked for."""
    keys = {part.key.number: _write_part(part) for part in flower.parts}
    keys |= {number: write_attribute(number, value) for number, value in flower.rest}
    actions = b"".join(
        write_attribute(number, write_action(action, counter, index + number))
        for number, action in enumerate(flower.actions, start=1)
    )
    return (
        b"".join(keys[number] for number in sorted(keys))
        + write_attribute(_FLAGS, _U32.pack(flower.flags))
        + (write_attribute(_ACT, actions) if actions else b"")
    )


# --- keys --------------------------------------------------------------------------------------


def _read_parts(found: Mapping[int, bytes]) -> Iterator[Part]:
    ether_type = int.from_bytes(found.get(Key.ETH_TYPE.number, b"")[:2])
    protocol = found.get(Key.IP_PROTO.number, b"")[:1] if ether_type in _IP_TYPES else b""
    for key in Key:
        number, mask_number, size = key.value
        needs = _NEEDS.get(key)
        if number not in found or (needs is not None and ether_type not in _IP_TYPES):
            continue
        if needs and protocol != bytes([needs]):
            continue
        whole = b"\xff" * size
        mask = int.from_bytes(found.get(mask_number, whole)[:size] if mask_number else whole)
        if mask:
            yield Part(key, int.from_bytes(found[number][:size]), mask)


def _write_part(part: Part) -> bytes:
    number, mask_number, size = part.key.value
    written = write_attribute(number, part.value.to_bytes(size))
    return written + (
        write_attribute(mask_number, part.mask.to_bytes(size)) if mask_number else b""
    )


def _read_rest(found: Mapping[int, bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield keys of which we know no more, and their masks; of fragments only if those count."""
    for number, (mask, size) in _REST.items():
        if number not in found or (number == _KEY_FLAGS and not any(found.get(mask, b""))):
            continue
        yield number, found[number]
        if mask:
            yield mask, found.get(mask, b"\xff" * size)
