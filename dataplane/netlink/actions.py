"""What a tc filter does with a frame: act_tunnel_key and mirred, as attributes. Pure.

Numbers are those of linux/pkt_cls.h and linux/tc_act. pyroute2 has no tunnel_key, and no cookies.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address

from dataplane.core.model import IpAddress
from dataplane.netlink.messages import attribute, attribute_map, text

COOKIE_BYTES = 16  # TC_COOKIE_MAX_SIZE

_NESTED = 0x8000  # NLA_F_NESTED
_KIND, _OPTIONS, _STATS, _COOKIE = 1, 2, 4, 6  # TCA_ACT_...
_TM, _PARMS = 1, 2  # TCA_TUNNEL_KEY_..., and the same of the others
_BASIC = 1  # TCA_STATS_BASIC: all, the device's share among them
_PIPE, _STOLEN = 3, 4  # TC_ACT_...
_SET, _RELEASE = 1, 2  # TCA_TUNNEL_KEY_ACT_...
_ENDS = {4: (3, 4), 6: (5, 6)}  # TCA_TUNNEL_KEY_ENC_IPV4_SRC, _DST, and of IPv6
_KEY_ID, _PAD, _PORT, _NO_CHECKSUM, _TOS, _TTL, _NO_FRAGMENT = 7, 8, 9, 10, 12, 13, 14
_TUNNEL = frozenset(
    {_TM, _PARMS, _KEY_ID, _PAD, _PORT, _NO_CHECKSUM, _TOS, _TTL, _NO_FRAGMENT}
    | {*_ENDS[4], *_ENDS[6]}
)
_EGRESS_REDIR = 1  # TCA_EGRESS_REDIR
_GENERAL = struct.Struct("=IIiii")  # tc_gen: index, capabilities, verdict, two counts of users
_MIRRED = struct.Struct("=iI")  # behind it in struct tc_mirred
_WORD = struct.Struct("=i")
_BE_WORD, _BE_SHORT = struct.Struct("!I"), struct.Struct("!H")
_COUNTS = struct.Struct("=QI")  # struct gnet_stats_basic: bytes, packets
_CACHED = 4096  # different ones at a time: one for each VTEP and VNI


@dataclass(frozen=True, slots=True)
class TunnelSet:
    """Have the tunnel device that comes next write this; ``key`` is the VNI.

    ``port`` is the UDP port it goes to, ``ttl`` 0 leaves that to the device. Without ``checksum``
    that of the outer UDP header is zero, over IPv6 too (RFC 6935). ``dont_fragment`` is DF of the
    outer IPv4 header; a kernel before 6.4 does not know it, and forgets it without a word.
    """

    source: IpAddress
    target: IpAddress
    key: int
    port: int
    tos: int = 0
    ttl: int = 0
    checksum: bool = True
    dont_fragment: bool = False


@dataclass(frozen=True, slots=True)
class TunnelUnset:
    """Forget by which tunnel the frame came."""


@dataclass(frozen=True, slots=True)
class Redirect:
    """Send the frame out by a netdev, and no further here."""

    ifindex: int


@dataclass(frozen=True, slots=True)
class Unread:
    """An action that has no word here."""

    kind: str
    options: bytes


Action = TunnelSet | TunnelUnset | Redirect | Unread


@dataclass(frozen=True, slots=True)
class Counts:
    """What an action has done, in the device and in the kernel."""

    packets: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class FoundAction:
    """An action as it is there; ``cookie`` is empty if it has none."""

    action: Action
    cookie: bytes
    counts: Counts


@lru_cache(_CACHED)
def encode(actions: tuple[Action, ...], cookie: bytes) -> bytes:
    """Return what TCA_FLOWER_ACT holds; every action has the cookie, unless that is empty.

    Raises ValueError for a cookie of more than 16 bytes, and for an Unread.
    """
    if len(cookie) > COOKIE_BYTES:
        raise ValueError(f"a cookie has at most {COOKIE_BYTES} bytes: {cookie!r}")
    end = attribute(_COOKIE, cookie) if cookie else b""
    return b"".join(
        attribute(place, _encoded(action) + end) for place, action in enumerate(actions, 1)
    )


def decode(payload: bytes) -> tuple[FoundAction, ...]:
    """Return the actions that TCA_FLOWER_ACT holds. Raises ValueError for what is none."""
    return tuple(_found(attribute_map(each)) for each in attribute_map(payload).values())


@lru_cache(_CACHED)
def address(packed: bytes) -> IpAddress:
    """Return an address from its 4 or 16 bytes. Raises ValueError for others."""
    return ip_address(packed)


def _encoded(action: Action) -> bytes:
    match action:
        case TunnelSet():
            kind, options = "tunnel_key", _tunnel_set(action)
        case TunnelUnset():
            kind, options = "tunnel_key", _no_checksum(0) + _parms(_PIPE, _WORD.pack(_RELEASE))
        case Redirect(ifindex):
            kind, options = "mirred", _parms(_STOLEN, _MIRRED.pack(_EGRESS_REDIR, ifindex))
        case _:
            raise ValueError(f"an action {action.kind} that was not understood cannot be made")
    return attribute(_KIND, kind.encode() + b"\0") + attribute(_OPTIONS | _NESTED, options)


def _parms(verdict: int, more: bytes = b"") -> bytes:
    return attribute(_PARMS, _GENERAL.pack(0, 0, verdict, 0, 0) + more)


def _no_checksum(value: int) -> bytes:
    return attribute(_NO_CHECKSUM, bytes([value]))


def _tunnel_set(action: TunnelSet) -> bytes:
    source, target = _ENDS[action.target.version]
    return b"".join(
        [
            attribute(_KEY_ID, _BE_WORD.pack(action.key)),
            attribute(source, action.source.packed),
            attribute(target, action.target.packed),
            attribute(_PORT, _BE_SHORT.pack(action.port)),
            attribute(_TOS, bytes([action.tos])) if action.tos else b"",
            attribute(_TTL, bytes([action.ttl])) if action.ttl else b"",
            _no_checksum(not action.checksum),
            attribute(_NO_FRAGMENT, b"") if action.dont_fragment else b"",
            _parms(_PIPE, _WORD.pack(_SET)),
        ]
    )


def _found(attributes: Mapping[int, bytes]) -> FoundAction:
    kind, options = text(attributes.get(_KIND, b"")), attributes.get(_OPTIONS, b"")
    try:
        action = _read(kind, attribute_map(options))
        stats = attribute_map(attributes.get(_STATS, b""))
        counts = _counted(stats.get(_BASIC))
    except struct.error as error:
        raise ValueError(f"action {kind}: {error}") from None
    return FoundAction(action or Unread(kind, options), attributes.get(_COOKIE, b""), counts)


def _counted(basic: bytes | None) -> Counts:
    if basic is None:
        return Counts()
    octets, packets = _COUNTS.unpack_from(basic)
    return Counts(packets, octets)


def _read(kind: str, options: Mapping[int, bytes]) -> Action | None:
    """Return the action that has a word here, and goes on as that one does.

    What is at ``_PARMS`` is only the same for the kinds below: act_police has nothing there.
    """
    parms = options.get(_PARMS, b"")
    if len(parms) < _GENERAL.size:
        return None
    verdict, rest = _GENERAL.unpack_from(parms)[2], parms[_GENERAL.size :]
    what = _WORD.unpack_from(rest)[0] if len(rest) >= _WORD.size else 0
    if (kind, verdict, what) == ("mirred", _STOLEN, _EGRESS_REDIR):
        return Redirect(_MIRRED.unpack_from(rest)[1])
    if (kind, verdict) == ("tunnel_key", _PIPE) and _TUNNEL.issuperset(options):
        return TunnelUnset() if what == _RELEASE else _read_tunnel(options)
    return None


def _read_tunnel(options: Mapping[int, bytes]) -> TunnelSet | None:
    source, target = next((pair for pair in _ENDS.values() if pair[1] in options), _ENDS[4])
    if source not in options or target not in options or _KEY_ID not in options:
        return None
    return TunnelSet(
        source=address(options[source]),
        target=address(options[target]),
        key=_BE_WORD.unpack(options[_KEY_ID])[0],
        port=_BE_SHORT.unpack(options.get(_PORT, b"\0\0"))[0],
        tos=options.get(_TOS, b"\0")[0],
        ttl=options.get(_TTL, b"\0")[0],
        checksum=not any(options.get(_NO_CHECKSUM, b"")),
        dont_fragment=_NO_FRAGMENT in options,
    )
