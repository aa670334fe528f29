"""Redirects by the kernel's own classifier and action, without eBPF (cls_u32, act_mirred).

A u32 filter has no name, so ours are known by the cookie of their action, and by nothing else:
what carries another one, or none, is somebody else's.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pyroute2.netlink import NLM_F_CREATE, NLM_F_EXCL, nlmsg
from pyroute2.netlink.rtnl import RTM_DELTFILTER, RTM_GETTFILTER, RTM_NEWTFILTER
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from dataplane.netlink import actions
from dataplane.netlink.messages import Filter, attribute, attributes, nested, text
from dataplane.netlink.rtnl import KernelError, Rtnl
from dataplane.netlink.tc import INGRESS

ETH_P_ALL = 0x0003
COOKIE = b"overweave"

_KIND = b"u32\0"
_WHOLE = 0  # a handle: to add, one that the kernel chooses; to delete, the whole list of a place
_TCA_KIND, _TCA_OPTIONS = 1, 2  # linux/rtnetlink.h
_U32_SEL, _U32_ACT = 5, 7  # linux/pkt_cls.h: TCA_U32_...
_SELECTOR = struct.Struct("=BBBxHHhhI")  # struct tc_u32_sel, followed by its keys
_MATCH, _WHERE = struct.Struct("!II"), struct.Struct("=ii")  # both halves of struct tc_u32_key
_TERMINAL = 1  # TC_U32_TERMINAL


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """What 32 bits must be, ``offset`` bytes (a multiple of four) behind the Ethernet header."""

    offset: int
    value: int
    mask: int = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Place:
    """The ingress hook of a netdev, and where in it; all filters of a place see one ethertype."""

    ifindex: int
    preference: int
    protocol: int = ETH_P_ALL

    def __str__(self) -> str:
        """Name the place in an error."""
        return f"netdev {self.ifindex} ingress pref {self.preference}"


@dataclass(frozen=True, slots=True)
class Redirect:
    """Frames that have all ``keys`` leave by netdev ``target``; without keys all do.

    The kernel chooses the ``handle``: 0 in one that is not there yet.
    """

    place: Place
    keys: tuple[Key, ...]
    target: int
    handle: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Listing:
    """The redirects of a netdev that are ours, and what others have, by preference: its kind.

    ``heads`` are the preferences that have a list of u32 filters, which may be empty.
    """

    ours: tuple[Redirect, ...]
    others: Mapping[int, str]
    heads: frozenset[int]


def add(rtnl: Rtnl, redirect: Redirect) -> None:
    """Add a redirect behind those in its place. Raises KernelError."""
    selector = _SELECTOR.pack(_TERMINAL, 0, len(redirect.keys), 0, 0, 0, 0, 0)
    action = actions.encode((actions.Redirect(redirect.target),), COOKIE)
    options = attribute(_U32_SEL, selector + b"".join(map(_packed, redirect.keys))) + attribute(
        _U32_ACT, action
    )
    what = f"redirect from {redirect.place} to netdev {redirect.target}"
    rtnl.ask(
        RTM_NEWTFILTER, _message(redirect.place, _WHOLE, options), NLM_F_CREATE | NLM_F_EXCL, what
    )


def delete(rtnl: Rtnl, redirects: Iterable[Redirect]) -> None:
    """Delete redirects that ``listing`` told of, and what is empty then; gone already is success.

    Raises KernelError.
    """
    places = set()
    for redirect in redirects:
        _delete(rtnl, redirect.place, redirect.handle)
        places.add(redirect.place)
    for place in places:
        left = listing(rtnl, place.ifindex)
        kept = {*left.others, *(found.place.preference for found in left.ours)}
        if place.preference in left.heads - kept:
            _delete(rtnl, place, _WHOLE)


def listing(rtnl: Rtnl, ifindex: int) -> Listing:
    """Return what filters a netdev's ingress hook has; no such netdev: none. Raises KernelError."""
    question = tcmsg()
    question.update(index=ifindex, parent=INGRESS)
    ours: list[Redirect] = []
    others: dict[int, str] = {}
    heads: set[int] = set()
    for reply in rtnl.dump(RTM_GETTFILTER, question, f"list filters of netdev {ifindex}"):
        kind, options = _kind_and_options(reply)
        redirect = _redirect(reply, ifindex, options) if kind == "u32" else None
        if redirect is not None:
            ours.append(redirect)
        elif kind != "u32" or nested(options, _U32_SEL):
            others[reply["info"] >> 16] = kind
        else:
            heads.add(reply["info"] >> 16)
    return Listing(tuple(ours), others, frozenset(heads))


def _delete(rtnl: Rtnl, place: Place, handle: int) -> None:
    try:
        rtnl.ask(RTM_DELTFILTER, _message(place, handle), 0, f"delete the redirect of {place}")
    except KernelError:
        # The kernel has many numbers for "nothing there" (no netdev, no clsact, no filter).
        left = listing(rtnl, place.ifindex)
        if any((found.place, found.handle) == (place, handle) for found in left.ours):
            raise


def _message(place: Place, handle: int, options: bytes = b"") -> nlmsg:
    message = Filter()
    message.update(
        index=place.ifindex,
        handle=handle,
        parent=INGRESS,
        info=place.preference << 16 | socket.htons(place.protocol),
    )
    message["attrs"] = [("TCA_KIND", _KIND)]
    if options:
        message["attrs"].append(("TCA_OPTIONS", options))
    return message


def _packed(key: Key) -> bytes:
    return _MATCH.pack(key.mask, key.value) + _WHERE.pack(key.offset, 0)


def _kind_and_options(reply: nlmsg) -> tuple[str, bytes]:
    found = attributes(reply)
    return text(found["TCA_KIND"]), found.get("TCA_OPTIONS", b"")


def _redirect(reply: nlmsg, ifindex: int, options: bytes) -> Redirect | None:
    found = [each for each in actions.decode(nested(options, _U32_ACT)) if each.cookie == COOKIE]
    if len(found) != 1 or not isinstance(found[0].action, actions.Redirect):
        return None
    place = Place(ifindex, reply["info"] >> 16, socket.ntohs(reply["info"] & 0xFFFF))
    target = found[0].action.ifindex
    return Redirect(place, _keys(nested(options, _U32_SEL)), target, reply["handle"])


def _keys(selector: bytes) -> tuple[Key, ...]:
    found = []
    for start in range(_SELECTOR.size, len(selector), _MATCH.size + _WHERE.size):
        mask, value = _MATCH.unpack_from(selector, start)
        offset, _ = _WHERE.unpack_from(selector, start + _MATCH.size)
        found.append(Key(offset, value, mask))
    return tuple(found)
