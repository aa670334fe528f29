"""Filters of kind flower on the ingress hook of a netdev, in its device or not (cls_flower).

They are asked for over an Exchange, since a switch may have a socket of its own. Packing and
reading are pure, and our own: pyroute2 has no flower. Numbers are those of linux/pkt_cls.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from pyroute2.netlink import NLM_F_CREATE, NLM_F_EXCL
from pyroute2.netlink.rtnl import (
    RTM_DELTFILTER,
    RTM_GETTFILTER,
    RTM_NEWQDISC,
    RTM_NEWTFILTER,
)

from dataplane.core.model import IpAddress
from dataplane.netlink import actions as acts
from dataplane.netlink.actions import Action, Counts
from dataplane.netlink.exchange import Exchange, Request
from dataplane.netlink.messages import attribute, attribute_map, text
from dataplane.netlink.rtnl import KernelError
from dataplane.netlink.tc import INGRESS, Slot

ETH_P_ALL, ETH_P_IP, ETH_P_IPV6 = 0x0003, 0x0800, 0x86DD  # linux/if_ether.h

_TCMSG = struct.Struct("=BBHiIII")  # struct tcmsg: family, two pads, ifindex, handle, parent, info
_CLSACT, _CLSACT_HANDLE = 0xFFFFFFF1, 0xFFFF0000  # TC_H_CLSACT; its handle is TC_H_MAKE(.., 0)
_KIND, _OPTIONS, _CHAIN = 1, 2, 11  # TCA_...
_FLOWER, _CLSACT_NAME = b"flower\0", b"clsact\0"
_ACT, _FLAGS, _IN_HW_COUNT = 3, 22, 86  # TCA_FLOWER_...
_ETH_DST, _ETH_SRC, _ETH_TYPE, _IP_PROTO = 4, 6, 8, 9  # the number behind one is that of its mask
_IP_SRC, _IP_DST = {4: 10, 6: 14}, {4: 12, 6: 16}
_ENC_KEY, _ENC_SRC, _ENC_DST, _ENC_PORT = 26, {4: 27, 6: 31}, {4: 29, 6: 33}, 45
_IP_TTL = 75
_IN_HW = 4  # TCA_CLS_FLAGS_IN_HW
_BE_WORD, _BE_SHORT, _WORD = struct.Struct("!I"), struct.Struct("!H"), struct.Struct("=I")
_NO_KEYS = frozenset({_ACT, _FLAGS, _IN_HW_COUNT})
_ONES = {length: b"\xff" * length for length in (4, 6, 16)}


class Skip(IntEnum):
    """Who is not to have a filter (TCA_CLS_FLAGS_SKIP_...)."""

    NOBODY = 0
    DEVICE = 1
    KERNEL = 2


_SKIPS = {**{each.value: each for each in Skip}, 3: Skip.NOBODY}  # nobody has both


@dataclass(frozen=True, slots=True)
class Match:
    """What a frame must have; None: anything. With ``tunnel_...`` it is the frame inside.

    ``source`` and ``ttl``, a value and its mask, are of the IP header. ``other`` are attributes
    that have no word here, with their numbers.
    """

    destination_mac: str | None = None
    source_mac: str | None = None
    ethertype: int | None = None
    source: IpAddress | None = None
    ttl: tuple[int, int] | None = None
    tunnel_key: int | None = None
    tunnel_source: IpAddress | None = None
    tunnel_target: IpAddress | None = None
    tunnel_port: int | None = None
    other: tuple[tuple[int, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter: ``slot`` says where; its handle 0 leaves that to the kernel.

    All filters of a preference see one ``protocol``. Every action has the ``cookie``.
    """

    slot: Slot
    protocol: int
    match: Match
    actions: tuple[Action, ...]
    skip: Skip = Skip.NOBODY
    cookie: bytes = b""


@dataclass(frozen=True, slots=True)
class Found:
    """A filter as it is there; ``counts`` are those of its first action.

    ``in_hardware``: the device has it.
    """

    filter: Filter
    in_hardware: bool
    counts: Counts


@dataclass(frozen=True, slots=True)
class Listing:
    """The flower filters of a netdev, and what others there are: where, and of which kind."""

    found: tuple[Found, ...]
    others: Mapping[Slot, str] = field(default_factory=dict)


def clsact(ifindex: int) -> Request:
    """Return what gives a netdev its hooks; EEXIST says that it has some (tc.ensure_clsact)."""
    body = _TCMSG.pack(0, 0, 0, ifindex, _CLSACT_HANDLE, _CLSACT, 0)
    return Request(RTM_NEWQDISC, body + attribute(_KIND, _CLSACT_NAME), NLM_F_CREATE | NLM_F_EXCL)


def addition(wanted: Filter) -> Request:
    """Return what adds a filter; one in its place, or with its match, is in the way."""
    return Request(RTM_NEWTFILTER, encode(wanted), NLM_F_CREATE | NLM_F_EXCL)


def deletion(slot: Slot, protocol: int) -> Request:
    """Return what deletes the filter in a place; with handle 0 all of that preference."""
    return Request(RTM_DELTFILTER, _head(slot, protocol) + attribute(_KIND, _FLOWER))


def listing(exchange: Exchange, ifindex: int) -> Listing:
    """Return the filters at a netdev's ingress hook; no such netdev: none. Raises KernelError."""
    what = f"list filters of netdev {ifindex}"
    question = Request(RTM_GETTFILTER, _TCMSG.pack(0, 0, 0, ifindex, 0, INGRESS, 0))
    try:
        bodies = exchange.dump(question, what)
    except KernelError as error:
        if error.errno == errno.ENODEV:
            return Listing(())
        raise
    try:
        return _listing(bodies)
    except (ValueError, struct.error) as error:
        raise KernelError(what, errno.EBADMSG, str(error)) from None


def encode(wanted: Filter) -> bytes:
    """Return a filter as RTM_NEWTFILTER has it behind its header. Raises ValueError (actions)."""
    options = _keys(wanted.match) + attribute(_ACT, acts.encode(wanted.actions, wanted.cookie))
    options += attribute(_FLAGS, _WORD.pack(wanted.skip))
    if wanted.match.ethertype is not None:
        options += attribute(_ETH_TYPE, _BE_SHORT.pack(wanted.match.ethertype))
    return (
        _head(wanted.slot, wanted.protocol)
        + attribute(_KIND, _FLOWER)
        + attribute(_OPTIONS, options)
    )


def decode(body: bytes) -> Found | None:
    """Return the flower filter that RTM_NEWTFILTER tells of; None: it is none, or only a pref's.

    Raises ValueError or struct.error for what is no such message.
    """
    slot, protocol, attributes = _place(body)
    options = attribute_map(attributes.get(_OPTIONS, b""))
    if attributes.get(_KIND) != _FLOWER or not slot.handle or _FLAGS not in options:
        return None
    (flags,) = _WORD.unpack(options[_FLAGS])
    actions = acts.decode(options.get(_ACT, b""))
    found = Filter(
        slot=slot,
        protocol=protocol,
        match=_match(options),
        actions=tuple(each.action for each in actions),
        skip=_SKIPS[flags & 3],
        cookie=actions[0].cookie if actions else b"",
    )
    return Found(found, bool(flags & _IN_HW), actions[0].counts if actions else Counts())


def _listing(bodies: Iterable[bytes]) -> Listing:
    found, others = [], {}
    for body in bodies:
        filter_ = decode(body)
        if filter_ is not None:
            found.append(filter_)
            continue
        slot, _, attributes = _place(body)
        kind = text(attributes.get(_KIND, b""))
        if slot.handle or kind + "\0" != _FLOWER.decode():
            others[slot] = kind
    return Listing(tuple(found), others)


def _head(slot: Slot, protocol: int) -> bytes:
    info = slot.preference << 16 | socket.htons(protocol)
    return _TCMSG.pack(0, 0, 0, slot.ifindex, slot.handle, INGRESS, info)


def _place(body: bytes) -> tuple[Slot, int, dict[int, bytes]]:
    *_, ifindex, handle, _, info = _TCMSG.unpack_from(body)
    slot = Slot(ifindex, info >> 16, handle)
    return slot, socket.ntohs(info & 0xFFFF), attribute_map(body[_TCMSG.size :])


def _keys(match: Match) -> bytes:
    """Return the keys but the ethertype; what has a mask is matched whole."""
    found = []
    if match.tunnel_key is not None:
        found.append(attribute(_ENC_KEY, _BE_WORD.pack(match.tunnel_key)))
    for kinds, address in ((_ENC_SRC, match.tunnel_source), (_ENC_DST, match.tunnel_target)):
        if address is not None:
            found.append(_whole(kinds[address.version], address.packed))
    if match.tunnel_port is not None:
        found.append(attribute(_ENC_PORT, _BE_SHORT.pack(match.tunnel_port)))
    for kind, mac in ((_ETH_DST, match.destination_mac), (_ETH_SRC, match.source_mac)):
        if mac is not None:
            found.append(_whole(kind, bytes.fromhex(mac.replace(":", ""))))
    if match.source is not None:
        found.append(_whole(_IP_SRC[match.source.version], match.source.packed))
    if match.ttl is not None:
        value, mask = match.ttl
        found.append(attribute(_IP_TTL, bytes([value])) + attribute(_IP_TTL + 1, bytes([mask])))
    found += [attribute(kind, value) for kind, value in match.other]
    return b"".join(found)


def _whole(kind: int, value: bytes) -> bytes:
    return attribute(kind, value) + attribute(kind + 1, _ONES[len(value)])


def _match(options: Mapping[int, bytes]) -> Match:
    left = {kind: value for kind, value in options.items() if kind not in _NO_KEYS}

    def whole(kind: int) -> bytes | None:
        """Return a key whose mask has all bits, which is then not left any more."""
        if kind not in left or left.get(kind + 1, b"").strip(b"\xff"):
            return None
        left.pop(kind + 1, None)
        return left.pop(kind)

    def either(kinds: Mapping[int, int]) -> IpAddress | None:
        value = whole(kinds[4]) or whole(kinds[6])
        return acts.address(value) if value else None

    key, ethertype = left.pop(_ENC_KEY, b""), left.pop(_ETH_TYPE, b"")  # they have no mask
    ttl, mask = left.pop(_IP_TTL, b""), left.pop(_IP_TTL + 1, b"\xff")
    port = whole(_ENC_PORT)
    return Match(
        destination_mac=_mac(whole(_ETH_DST)),
        source_mac=_mac(whole(_ETH_SRC)),
        ethertype=_BE_SHORT.unpack(ethertype)[0] if ethertype else None,
        source=either(_IP_SRC),
        ttl=(ttl[0], mask[0]) if ttl and mask else None,
        tunnel_key=_BE_WORD.unpack(key)[0] if key else None,
        tunnel_source=either(_ENC_SRC),
        tunnel_target=either(_ENC_DST),
        tunnel_port=_BE_SHORT.unpack(port)[0] if port else None,
        other=tuple(sorted(left.items())),
    )


def _mac(value: bytes | None) -> str | None:
    return value.hex(":") if value else None
