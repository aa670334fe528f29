"""Actions of filters between the wire and what the driver is asked. Pure.

linux/pkt_cls.h, linux/tc_act, net/sched/act_*.c: what the kernel itself checks.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from vendors.emulator.sx904.netlink import (
    FLAG,
    Refusal,
    read_attributes,
    read_text,
    write_attribute,
    write_text,
)

SHOT, PIPE, STOLEN = 2, 3, 4  # linux/pkt_cls.h, TC_ACT_*
EGRESS_REDIRECT = 1

_MIRRED_WAYS = range(1, 5)
_LAST_CONTROL, _JUMP_OR_GOTO = 8, (1, 2)  # TC_ACT_TRAP; above 28 bits
_MAX_NAME = 16  # IFNAMSIZ
_MOST_ACTIONS = 32
_KIND, _OPTIONS, _STATS, _COOKIE = 1, 2, 4, 6
_COOKIE_BYTES = 16
_STATS_BASIC, _STATS_QUEUE, _STATS_BASIC_HW = 1, 3, 7
_TM, _PARMS = 1, 2
_GENERIC = struct.Struct("=IIiii")  # tc_gen
_TUNNEL_PARMS = struct.Struct("=IIiiii")
_MIRRED_PARMS = struct.Struct("=IIiiiiI")
_SET, _RELEASE = 1, 2
_SRC4, _DST4, _SRC6, _DST6, _ID, _PORT, _NO_CSUM, _TOS, _TTL, _NO_FRAG = (
    *(3, 4, 5, 6, 7),
    *(9, 10, 12, 13, 14),
)
_TUNNEL_LENGTHS = {
    _PARMS: _TUNNEL_PARMS.size,
    _SRC4: 4,
    _DST4: 4,
    _SRC6: 16,
    _DST6: 16,
    _ID: 4,
    _PORT: 2,
    _NO_CSUM: 1,
    _TOS: 1,
    _TTL: 1,
    _NO_FRAG: FLAG,
}
_OTHER_KINDS = frozenset(
    {"bpf", "connmark", "csum", "ct", "ctinfo", "mpls", "nat", "pedit", "police", "sample"}
    | {"skbedit", "skbmod", "vlan"}
)

Exists = Callable[[int], bool]
"""Says whether there is a netdev of this ifindex."""


@dataclass(frozen=True, slots=True)
class TunnelSet:
    """The outer header that a frame is to get; ``port`` 0 is the tunnel device's own."""

    source: IPv4Address | IPv6Address
    target: IPv4Address | IPv6Address
    number: int
    port: int
    tos: int
    ttl: int
    checksummed: bool
    dont_fragment: bool


@dataclass(frozen=True, slots=True)
class TunnelRelease:
    """That outer headers go."""


@dataclass(frozen=True, slots=True)
class Mirred:
    """That a frame goes to a netdev; ``how`` 1 is egress redirect."""

    how: int
    ifindex: int


@dataclass(frozen=True, slots=True)
class Gact:
    """A verdict alone."""


@dataclass(frozen=True, slots=True)
class Other:
    """An action that the kernel knows and we do not."""

    kind: str
    options: bytes


@dataclass(frozen=True, slots=True)
class Action:
    """One action of a filter: what it does, what is done then, and its owner's mark."""

    does: TunnelSet | TunnelRelease | Mirred | Gact | Other
    control: int = PIPE
    cookie: bytes = b""


@dataclass(slots=True)
class Counter:
    """What a filter has forwarded; times in hundredths of a second since it was made."""

    packets: int = 0
    octets: int = 0


def read_actions(data: bytes, exists: Exists) -> Iterator[Action]:
    """Yield the actions in TCA_FLOWER_ACT. Raises Refusal."""
    found = read_attributes(data, {})
    for number in range(1, _MOST_ACTIONS + 1):
        if number not in found:
            return  # behind a gap the kernel looks no further
        yield _read_action(found[number], exists)


def _read_action(data: bytes, exists: Exists) -> Action:
    found = read_attributes(data, {_KIND: 1})
    cookie = found.get(_COOKIE, b"")
    if len(cookie) > _COOKIE_BYTES:
        raise Refusal(errno.ERANGE, "Attribute failed policy validation")
    if _KIND not in found:
        raise Refusal(errno.EINVAL, "TC action kind must be specified")
    kind = read_text(found[_KIND])
    if len(kind) >= _MAX_NAME:
        raise Refusal(errno.EINVAL, "TC action name too long")
    options = found.get(_OPTIONS)
    if kind in _OTHER_KINDS:
        return Action(Other(kind, options or b""), PIPE, cookie)
    reader = _READERS.get(kind)
    if reader is None:
        raise Refusal(errno.ENOENT, "Failed to load TC action module")
    does, control = reader(options, exists)
    if control > _LAST_CONTROL and control >> 28 not in _JUMP_OR_GOTO:
        raise Refusal(errno.EINVAL, "invalid control action")
    return Action(does, control, cookie)


def _read_gact(data: bytes | None, _exists: Exists) -> tuple[Gact, int]:
    found = read_attributes(data or b"", {_PARMS: _GENERIC.size}, "")
    if _PARMS not in found:
        raise Refusal(errno.EINVAL)
    return Gact(), _GENERIC.unpack_from(found[_PARMS])[2]


def _read_mirred(data: bytes | None, exists: Exists) -> tuple[Mirred, int]:
    if data is None:
        raise Refusal(errno.EINVAL, "act_mirred: Mirred requires attributes to be passed")
    found = read_attributes(data, {_PARMS: _MIRRED_PARMS.size})
    if _PARMS not in found:
        raise Refusal(errno.EINVAL, "act_mirred: Missing required mirred parameters")
    _, _, control, _, _, how, ifindex = _MIRRED_PARMS.unpack_from(found[_PARMS])
    if how not in _MIRRED_WAYS:
        raise Refusal(errno.EINVAL, "act_mirred: Unknown mirred option")
    if not ifindex:
        raise Refusal(errno.EINVAL, "act_mirred: Specified device does not exist")
    if not exists(ifindex):
        raise Refusal(errno.ENODEV)
    return Mirred(how, ifindex), control


def _read_tunnel(data: bytes | None, _exists: Exists) -> tuple[TunnelSet | TunnelRelease, int]:
    if data is None:
        raise Refusal(errno.EINVAL, "Tunnel requires attributes to be passed")
    words = "Failed to parse nested tunnel key attributes"
    found = read_attributes(data, _TUNNEL_LENGTHS, words)
    if _PARMS not in found:
        raise Refusal(errno.EINVAL, "Missing tunnel key parameters")
    _, _, control, _, _, action = _TUNNEL_PARMS.unpack_from(found[_PARMS])
    if action == _RELEASE:
        return TunnelRelease(), control
    if action != _SET:
        raise Refusal(errno.EINVAL, "Unknown tunnel key action")
    return _read_set(found), control


def _read_set(found: Mapping[int, bytes]) -> TunnelSet:
    source: IPv4Address | IPv6Address
    target: IPv4Address | IPv6Address
    if _SRC4 in found and _DST4 in found:
        source, target = IPv4Address(found[_SRC4][:4]), IPv4Address(found[_DST4][:4])
    elif _SRC6 in found and _DST6 in found:
        source, target = IPv6Address(found[_SRC6][:16]), IPv6Address(found[_DST6][:16])
    else:
        raise Refusal(errno.EINVAL, "Missing either ipv4 or ipv6 src and dst")

    def number(kind: int, size: int) -> int:
        return int.from_bytes(found.get(kind, b"")[:size])

    return TunnelSet(
        source,
        target,
        number(_ID, 4),
        number(_PORT, 2),
        number(_TOS, 1),
        number(_TTL, 1),
        not number(_NO_CSUM, 1),
        _NO_FRAG in found,
    )


Does = TunnelSet | TunnelRelease | Mirred | Gact | Other
_READERS: Mapping[str, Callable[[bytes | None, Exists], tuple[Does, int]]] = {
    "gact": _read_gact,
    "mirred": _read_mirred,
    "tunnel_key": _read_tunnel,
}


def write_action(action: Action, counter: Counter, index: int) -> bytes:
    """Return the attributes of one action as they are read back; ``index`` is its number."""
    generic = (index, 0, action.control, 1, 1)
    does = action.does
    time = write_attribute(_TM, bytes(32))
    if isinstance(does, Other):
        kind, options = does.kind, does.options
    elif isinstance(does, Mirred):
        kind = "mirred"
        options = (
            write_attribute(_PARMS, _MIRRED_PARMS.pack(*generic, does.how, does.ifindex)) + time
        )
    elif isinstance(does, Gact):
        kind, options = "gact", write_attribute(_PARMS, _GENERIC.pack(*generic)) + time
    else:
        kind, options = "tunnel_key", _write_tunnel(does, generic) + time
    return (
        write_text(_KIND, kind)
        + write_attribute(_STATS, _write_counter(counter))
        + (write_attribute(_COOKIE, action.cookie) if action.cookie else b"")
        + write_attribute(_OPTIONS, options)
    )


def _write_counter(counter: Counter) -> bytes:
    basic = struct.pack("=QI4x", counter.octets, counter.packets & 0xFFFFFFFF)
    return (
        write_attribute(_STATS_BASIC, basic)
        + write_attribute(_STATS_BASIC_HW, basic)
        + write_attribute(_STATS_QUEUE, bytes(20))
    )


def _write_tunnel(
    does: TunnelSet | TunnelRelease, generic: tuple[int, int, int, int, int]
) -> bytes:
    if isinstance(does, TunnelRelease):
        return write_attribute(_PARMS, _TUNNEL_PARMS.pack(*generic, _RELEASE))
    source, target = (_SRC4, _DST4) if does.source.version == 4 else (_SRC6, _DST6)
    return (
        write_attribute(_PARMS, _TUNNEL_PARMS.pack(*generic, _SET))
        + write_attribute(source, does.source.packed)
        + write_attribute(target, does.target.packed)
        + write_attribute(_ID, does.number.to_bytes(4))
        + (write_attribute(_PORT, does.port.to_bytes(2)) if does.port else b"")
        + write_attribute(_NO_CSUM, bytes([not does.checksummed]))
        + (write_attribute(_NO_FRAG, b"") if does.dont_fragment else b"")
        + (write_attribute(_TOS, bytes([does.tos])) if does.tos else b"")
        + (write_attribute(_TTL, bytes([does.ttl])) if does.ttl else b"")
    )
