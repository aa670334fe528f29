"""The kernel's half of tc: clsact, prefs, handles, what it checks itself (section 4 of the page).

net/sched/sch_api.c, cls_api.c, cls_flower.c.
"""

from __future__ import annotations

import errno
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from vendors.emulator.sx904.actions import Counter
from vendors.emulator.sx904.driver import rule_of
from vendors.emulator.sx904.flower import (
    SKIP_HW,
    SKIP_SW,
    VERBOSE,
    Flower,
    read_flower,
    write_flower,
)
from vendors.emulator.sx904.links import Link, Links
from vendors.emulator.sx904.netlink import (
    CREATE,
    EXCL,
    FLAG,
    Refusal,
    Request,
    read_attributes,
    read_text,
    write_attribute,
    write_text,
)
from vendors.emulator.sx904.table import Entry, Table

FLOWER = "flower"
CLSACT, INGRESS, _EGRESS = 0xFFFFFFF1, 0xFFFFFFF2, 0xFFFFFFF3  # TC_H_CLSACT; its two hooks
_CLSACT_HANDLE, _ROOT = 0xFFFF0000, 0xFFFFFFFF
_HEADER = struct.Struct("=BxxxiIII")  # tcmsg: family, ifindex, handle, parent, info
_KIND, _OPTIONS, _DUMP_INVISIBLE, _CHAIN = 1, 2, 10, 11
_LENGTHS = {_KIND: 1, _DUMP_INVISIBLE: FLAG, _CHAIN: 4}
_U32 = struct.Struct("=I")
_MAX_NAME = 16  # IFNAMSIZ
_FIRST_AUTO, _LEAST_AUTO = 0xC000, 0x8000
_NOT_FOUND = "Filter with specified priority/protocol not found"
_NEEDS_CREATE = "Need both RTM_NEWTFILTER and NLM_F_CREATE to create a new filter"
_NO_CHAIN = "Cannot find specified filter chain"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request about a qdisc or a filter; ``protocol`` as it stands in tcm_info."""

    ifindex: int
    handle: int
    parent: int
    pref: int
    protocol: int
    flags: int
    kind: str | None
    options: bytes | None
    chain: int


@dataclass(frozen=True, slots=True)
class Held:
    """A filter as the kernel holds it; without ``entry`` it is not in the device."""

    flower: Flower
    counter: Counter
    entry: Entry | None
    index: int


@dataclass(slots=True)
class _Pref:
    """The filters of one pref by handle; only what replaces another may match as a third does."""

    protocol: int
    filters: dict[int, Held] = field(default_factory=dict)
    _matches: dict[object, int] = field(default_factory=dict)
    _lowest: int = 1  # below all handles are taken

    def handle(self) -> int:
        """Return the lowest handle that is free."""
        while self._lowest in self.filters:
            self._lowest += 1
        return self._lowest

    def has(self, flower: Flower) -> bool:
        """Say whether a filter has this match."""
        return flower.match in self._matches

    def put(self, handle: int, held: Held) -> None:
        """Hold a filter at a handle that is free."""
        self.filters[handle] = held
        self._matches.setdefault(held.flower.match, handle)

    def pop(self, handle: int) -> Held | None:
        """Let a filter go, and return it; None: there is none."""
        held = self.filters.pop(handle, None)
        if held is not None:
            if self._matches.get(held.flower.match) == handle:
                del self._matches[held.flower.match]
            self._lowest = min(self._lowest, handle)
        return held


class Tc:
    """All clsact qdiscs and their ingress filters, by ifindex."""

    def __init__(self, links: Links, table: Table, *, tunnels: bool) -> None:
        """Hold nothing yet; ``tunnels``: the driver takes tunnel_key."""
        self._links = links
        self._table = table
        self._tunnels = tunnels
        self._hooks: dict[int, dict[int, _Pref]] = {}
        self._actions = 0

    # --- qdiscs --------------------------------------------------------------------------------

    def add_qdisc(self, asked: Asked) -> None:
        """Have a clsact. Raises Refusal."""
        link = self._link(asked)
        if asked.parent == _ROOT:
            raise Refusal(errno.EOPNOTSUPP)
        if asked.parent != CLSACT or asked.handle not in (0, _CLSACT_HANDLE):
            raise Refusal(errno.ENOENT, "Failed to find specified qdisc")
        if link.ifindex in self._hooks:
            if asked.flags & EXCL:
                raise Refusal(errno.EEXIST, "Exclusivity flag on, cannot modify")
            if asked.kind not in (None, "clsact"):
                raise Refusal(errno.EINVAL, "Invalid qdisc name")
            return
        if not asked.flags & CREATE:
            words = "Qdisc not found. To create specify NLM_F_CREATE flag"
            raise Refusal(errno.ENOENT, words)
        if asked.kind != "clsact":
            raise Refusal(errno.ENOENT, "Specified qdisc kind is unknown")
        self._hooks[link.ifindex] = {}

    def delete_qdisc(self, asked: Asked) -> None:
        """Have a clsact no more, and none of its filters. Raises Refusal."""
        link = self._link(asked)
        if asked.parent != CLSACT or link.ifindex not in self._hooks:
            raise Refusal(errno.EINVAL, "Invalid handle")
        self.forget(link.ifindex)

    def qdiscs(self) -> Iterator[bytes]:
        """Yield the body of an RTM_NEWQDISC for each."""
        for ifindex in self._hooks:
            yield _HEADER.pack(0, ifindex, _CLSACT_HANDLE, CLSACT, 1) + write_text(_KIND, "clsact")

    def forget(self, ifindex: int) -> None:
        """Drop all that stands at a netdev."""
        for pref in self._hooks.pop(ifindex, {}).values():
            for held in pref.filters.values():
                self._take_out(held)

    def reset(self) -> None:
        """Drop everything."""
        for ifindex in tuple(self._hooks):
            self.forget(ifindex)

    # --- filters -------------------------------------------------------------------------------

    def add_filter(self, asked: Asked) -> str:
        """Take a filter, or put it in another's place; return a warning. Raises Refusal."""
        if not asked.pref and not asked.flags & CREATE:
            raise Refusal(errno.ENOENT, "Invalid filter command with priority of zero")
        link, prefs = self._hook(asked)
        if asked.kind is not None and len(asked.kind) >= _MAX_NAME:
            raise Refusal(errno.EINVAL, "Specified TC filter name too long")
        number = asked.pref or _auto_pref(prefs)
        pref = _pref_of(prefs, number, asked)
        if pref is None:
            _check_new(asked)
            pref = _Pref(asked.protocol)
        elif asked.kind not in (None, FLOWER):
            raise Refusal(errno.EINVAL, "Specified filter kind does not match existing one")
        warning = self._put(asked, link, pref)
        prefs[number] = pref
        return warning

    def delete_filters(self, asked: Asked) -> None:
        """Drop one filter, a pref of them, or all. Raises Refusal."""
        if not asked.pref and (asked.protocol or asked.handle or asked.kind is not None):
            words = "Cannot flush filters with protocol, handle or kind set"
            raise Refusal(errno.ENOENT, words)
        link, prefs = self._hook(asked)
        if not asked.pref:
            self.forget(link.ifindex)
            self._hooks[link.ifindex] = {}
            return
        if not prefs:
            raise Refusal(errno.ENOENT, _NO_CHAIN)
        pref = self._known(prefs, asked)
        if asked.handle and asked.handle not in pref.filters:
            raise Refusal(errno.ENOENT, "Specified filter handle not found")
        for handle in [asked.handle] if asked.handle else [*pref.filters]:
            self._drop(prefs, asked.pref, handle)

    def filter(self, asked: Asked) -> bytes:
        """Return the body of the RTM_NEWTFILTER for one filter. Raises Refusal."""
        if not asked.pref:
            raise Refusal(errno.ENOENT, "Invalid filter command with priority of zero")
        link, prefs = self._hook(asked)
        if not prefs:
            raise Refusal(errno.EINVAL, _NO_CHAIN)
        pref = self._known(prefs, asked)
        held = pref.filters.get(asked.handle)
        if held is None:
            raise Refusal(errno.ENOENT, "Specified filter handle not found")
        return _write_filter(link.ifindex, asked.pref, pref, (asked.handle, held))

    def filters(self, asked: Asked) -> Iterator[bytes]:
        """Yield the bodies of a dump; of a netdev without clsact, or of none, there are none."""
        if asked.parent != INGRESS:
            return
        for number, pref in sorted(self._hooks.get(asked.ifindex, {}).items()):
            if asked.pref not in (0, number) or asked.protocol not in (0, pref.protocol):
                continue
            yield _write_filter(asked.ifindex, number, pref, None)
            for item in sorted(pref.filters.items()):
                yield _write_filter(asked.ifindex, number, pref, item)

    def lose_one(self) -> str:
        """Drop a filter at random and say which; empty: there is none."""
        found = [
            (ifindex, number, handle)
            for ifindex, prefs in self._hooks.items()
            for number, pref in prefs.items()
            for handle in pref.filters
        ]
        if not found:
            return ""
        ifindex, number, handle = random.choice(found)  # noqa: S311  # not a secret
        prefs = self._hooks[ifindex]
        self._drop(prefs, number, handle)
        link = self._links.get(ifindex)
        return f"{link.name if link else ifindex} pref {number} handle {handle:#x}"

    # --- how -----------------------------------------------------------------------------------

    def _put(self, asked: Asked, link: Link, pref: _Pref) -> str:
        old = pref.filters.get(asked.handle)
        if old is None and not asked.flags & CREATE:
            raise Refusal(errno.ENOENT, _NEEDS_CREATE)
        if old is not None and asked.flags & EXCL:
            raise Refusal(errno.EEXIST, "Filter already exists")
        if asked.options is None:
            raise Refusal(errno.EINVAL)
        flower = read_flower(asked.options, lambda ifindex: self._links.get(ifindex) is not None)
        if old is None and pref.has(flower):
            raise Refusal(errno.EEXIST)
        counter = Counter()
        entry, warning = self._offload(flower, link, counter)
        if old is not None:
            pref.pop(asked.handle)
            self._take_out(old)
        pref.put(asked.handle or pref.handle(), Held(flower, counter, entry, self._actions))
        self._actions += len(flower.actions)
        return warning

    def _offload(self, flower: Flower, link: Link, counter: Counter) -> tuple[Entry | None, str]:
        """Ask the device, and return its entry, or why there is none. Raises Refusal."""
        if flower.flags & SKIP_HW:
            return None, ""
        try:
            rule = rule_of(flower, link, self._links, tunnels=self._tunnels)
            return self._table.add(rule, counter), ""
        except Refusal as refusal:
            if flower.flags & SKIP_SW:
                raise
            return None, refusal.words if flower.flags & VERBOSE else ""

    def _drop(self, prefs: dict[int, _Pref], number: int, handle: int) -> None:
        """Let one filter go, with its pref if it was the last."""
        held = prefs[number].pop(handle)
        if held is not None:
            self._take_out(held)
        if not prefs[number].filters:
            del prefs[number]

    def _take_out(self, held: Held) -> None:
        if held.entry is not None:
            self._table.remove(held.entry)

    def _link(self, asked: Asked) -> Link:
        found = self._links.get(asked.ifindex)
        if found is None:
            raise Refusal(errno.ENODEV)
        return found

    def _hook(self, asked: Asked) -> tuple[Link, dict[int, _Pref]]:
        found = self._links.get(asked.ifindex)
        if found is None:
            raise Refusal(errno.ENODEV)
        prefs = self._hooks.get(found.ifindex)
        if prefs is None or asked.parent & 0xFFFF0000 != _CLSACT_HANDLE:
            raise Refusal(errno.EINVAL, "Parent Qdisc doesn't exists")
        if asked.parent == _EGRESS:
            raise Refusal(errno.EOPNOTSUPP)
        if asked.parent != INGRESS:
            raise Refusal(errno.ENOENT, "Specified class doesn't exist")
        if asked.chain:
            raise Refusal(errno.EOPNOTSUPP, "Chain not supported")
        return found, prefs

    @staticmethod
    def _known(prefs: dict[int, _Pref], asked: Asked) -> _Pref:
        pref = _pref_of(prefs, asked.pref, asked)
        if pref is None:
            raise Refusal(errno.ENOENT, _NOT_FOUND)
        if asked.kind not in (None, FLOWER):
            raise Refusal(errno.EINVAL, "Specified filter kind does not match existing one")
        return pref


def read_asked(request: Request) -> Asked:
    """Return what a request about a qdisc or a filter says. Raises Refusal."""
    if len(request.body) < _HEADER.size:
        raise Refusal(errno.EINVAL, "Invalid header length")
    _, ifindex, handle, parent, info = _HEADER.unpack_from(request.body)
    found = read_attributes(request.body[_HEADER.size :], _LENGTHS)
    return Asked(
        ifindex,
        handle,
        parent,
        info >> 16,
        info & 0xFFFF,
        request.flags,
        read_text(found[_KIND]) if _KIND in found else None,
        found.get(_OPTIONS),
        _U32.unpack_from(found[_CHAIN])[0] if _CHAIN in found else 0,
    )


def _check_new(asked: Asked) -> None:
    """Check what a pref that is not there needs. Raises Refusal."""
    if asked.kind is None or not asked.protocol:
        raise Refusal(errno.EINVAL, "Filter kind and protocol must be specified")
    if not asked.flags & CREATE:
        raise Refusal(errno.ENOENT, _NEEDS_CREATE)
    if asked.kind != FLOWER:
        raise Refusal(errno.ENOENT, "TC classifier not found")


def _pref_of(prefs: dict[int, _Pref], number: int, asked: Asked) -> _Pref | None:
    """Return the filters of one pref, None: there are none. Raises Refusal: of another protocol."""
    pref = prefs.get(number)
    if pref is not None and asked.protocol not in (0, pref.protocol):
        raise Refusal(errno.EINVAL, _NOT_FOUND)
    return pref


def _auto_pref(prefs: dict[int, _Pref]) -> int:
    return min((number - 1 for number in prefs if number >= _LEAST_AUTO), default=_FIRST_AUTO)


def _write_filter(ifindex: int, number: int, pref: _Pref, item: tuple[int, Held] | None) -> bytes:
    """Return a filter; without ``item`` what stands before those of its pref."""
    handle = 0 if item is None else item[0]
    body = (
        _HEADER.pack(0, ifindex, handle, INGRESS, number << 16 | pref.protocol)
        + write_text(_KIND, FLOWER)
        + write_attribute(_CHAIN, _U32.pack(0))
    )
    if item is None:
        return body
    held = item[1]
    options = write_flower(
        held.flower, held.counter, held.index, in_hardware=held.entry is not None
    )
    return body + write_attribute(_OPTIONS, options)
