"""rtnetlink messages for pyroute2 to decode into: no more of each than is read here.

Numbers are those of linux/if_link.h, linux/pkt_cls.h and linux/ipv6.h. None of these derives from
pyroute2's own message of its kind: it would go on decoding the attributes of that one.
"""

from __future__ import annotations

import socket
import struct
import sys
from typing import Any

from pyroute2.netlink import NLMSG_DONE, nla, nlmsg
from pyroute2.netlink.rtnl import (
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWTFILTER,
)
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.tcmsg import tcmsg

_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: length, type (linux/netlink.h)
_NLA_TYPE_MASK = 0x3FFF
_UNKNOWN = "UNKNOWN"  # pyroute2's name of an attribute that is in no nla_map
_INET6, _CONF = socket.AF_INET6, 2  # IFLA_AF_SPEC holds families, that of IPv6 its switches
_XDP_DRV_PROG_ID = 5  # IFLA_XDP holds a program id for each mode
_PORTS = {"geneve": 5, "vxlan": 15}  # IFLA_GENEVE_PORT, IFLA_VXLAN_PORT
_DISABLE_IPV6 = slice(26 * 4, 27 * 4)  # DEVCONF_DISABLE_IPV6 is an index of 32-bit numbers


class Link(nlmsg):  # type: ignore[misc]  # pyroute2 has no types
    """RTM_NEWLINK: what a Netdev holds. Texts are bytes: not all that they may be is UTF-8."""

    prefix = "IFLA_"
    fields = ifinfmsg.fields
    nla_map = (
        (1, "IFLA_ADDRESS", "hex"),  # of any length: a tunnel's has four or sixteen bytes
        (3, "IFLA_IFNAME", "cdata"),
        (4, "IFLA_MTU", "uint32"),
        (5, "IFLA_LINK", "uint32"),
        (16, "IFLA_OPERSTATE", "uint8"),
        (18, "IFLA_LINKINFO", "Info"),
        (20, "IFLA_IFALIAS", "cdata"),
        (26, "IFLA_AF_SPEC", "cdata"),
        (27, "IFLA_GROUP", "uint32"),
        (37, "IFLA_LINK_NETNSID", "int32"),
        (43, "IFLA_XDP", "cdata"),
    )
    chosen = frozenset(number for number, _name, _type in nla_map)
    data: bytes | bytearray
    offset: int  # in data, of this message
    length: int

    class Info(nla):  # type: ignore[misc]
        """What kind of netdev it is, and what that kind has of its own."""

        nla_map = ((1, "IFLA_INFO_KIND", "cdata"), (2, "IFLA_INFO_DATA", "cdata"))

    def decode_nlas(self, offset: int) -> None:
        """Let pyroute2 decode what is left when what is not chosen is cut out.

        The kernel tells some forty attributes of a netdev, and pyroute2 would make objects of all:
        three times the work, and all of it for the garbage collector.
        """
        kept = bytearray(self.data[self.offset : offset])
        start, end = len(kept), self.offset + self.length - _ATTRIBUTE.size
        while offset <= end:
            length, kind = _ATTRIBUTE.unpack_from(self.data, offset)
            following = offset + max((length + 3) & ~3, _ATTRIBUTE.size)
            if kind & _NLA_TYPE_MASK in self.chosen:
                kept += self.data[offset:following]
            offset = following
        self.data, self.offset, self.length = kept, 0, len(kept)
        super().decode_nlas(start)


class Filter(nlmsg):  # type: ignore[misc]
    """RTM_NEWTFILTER: pyroute2's own knows of no program id, and of no cookie of an action.

    What the options of a kind mean, ``nested`` tells.
    """

    prefix = "TCA_"
    fields = tcmsg.fields
    nla_map = ((1, "TCA_KIND", "cdata"), (2, "TCA_OPTIONS", "cdata"))


class End(nlmsg):  # type: ignore[misc]
    """NLMSG_DONE: the end of a list, with an error that pyroute2 does not look at."""

    fields = (("error", "i"),)


class LinkNotice(nlmsg):  # type: ignore[misc]
    """RTM_NEWLINK, RTM_DELLINK, where nothing matters but which netdev they are about."""

    fields = ifinfmsg.fields


class AddressNotice(nlmsg):  # type: ignore[misc]
    """RTM_NEWADDR, RTM_DELADDR, where nothing matters but which netdev they are about."""

    fields = ifaddrmsg.fields


ANSWERS = {RTM_NEWLINK: Link, RTM_NEWTFILTER: Filter, NLMSG_DONE: End}
NOTICES = {
    RTM_NEWLINK: LinkNotice,
    RTM_DELLINK: LinkNotice,
    RTM_NEWADDR: AddressNotice,
    RTM_DELADDR: AddressNotice,
}


def attributes(message: nlmsg) -> dict[str, Any]:
    """Return the decoded attributes by name; the last of a name wins."""
    return {each[0]: each[1] for each in message["attrs"] if each[0] != _UNKNOWN}


def has_ipv6(families: bytes) -> bool:
    """Say whether IFLA_AF_SPEC tells of IPv6 that is not switched off."""
    switches = nested(nested(families, _INET6), _CONF)
    return bool(switches) and not any(switches[_DISABLE_IPV6])


def attribute(kind: int, payload: bytes) -> bytes:
    """Return an attribute as it stands inside another one."""
    length = _ATTRIBUTE.size + len(payload)
    return _ATTRIBUTE.pack(length, kind) + payload + bytes(-length % 4)


def xdp_program(modes: bytes) -> int | None:
    """Return the id of the native XDP program that IFLA_XDP tells of."""
    number = nested(modes, _XDP_DRV_PROG_ID)
    return int.from_bytes(number, sys.byteorder) if number else None


def tunnel_port(kind: str, data: bytes) -> int | None:
    """Return the UDP port that IFLA_INFO_DATA tells of a netdev of ``kind``, if it has one."""
    number = nested(data, _PORTS[kind]) if kind in _PORTS else b""
    return int.from_bytes(number, "big") if number else None


def nested(payload: bytes, wanted: int) -> bytes:
    """Return what one attribute holds, empty if it is not there; pyroute2 is ten times slower."""
    offset = 0
    while offset + _ATTRIBUTE.size <= len(payload):
        length, kind = _ATTRIBUTE.unpack_from(payload, offset)
        if kind & _NLA_TYPE_MASK == wanted:
            return payload[offset + _ATTRIBUTE.size : offset + length]
        offset += max((length + 3) & ~3, _ATTRIBUTE.size)
    return b""


def attribute_map(payload: bytes) -> dict[int, bytes]:
    """Return what each attribute holds, by its type, in their order; the last of a type wins.

    Raises ValueError for one that is cut short. A list of filters is full of them: so no generator.
    """
    found = {}
    offset, end, head = 0, len(payload), _ATTRIBUTE.size
    while offset + head <= end:
        length, kind = _ATTRIBUTE.unpack_from(payload, offset)
        if not head <= length <= end - offset:
            raise ValueError(f"attribute {kind & _NLA_TYPE_MASK} is cut short")
        found[kind & _NLA_TYPE_MASK] = payload[offset + head : offset + length]
        offset += (length + 3) & ~3
    return found


def text(payload: bytes) -> str:
    """Return the string that an attribute holds, without its NUL."""
    return payload.split(b"\0", 1)[0].decode(errors="replace")
