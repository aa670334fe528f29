"""Netdevs: list, make, change, delete (linux/if_link.h, linux/if.h, linux/veth.h)."""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass

from dataplane.netlink.rtnl import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Attributes,
    KernelError,
    Message,
    Rtnl,
    attribute,
    nested,
    parse_attributes,
    read_text,
    read_u32,
    text,
    u32,
)

_RTM_NEWLINK = 16
_RTM_DELLINK = 17
_RTM_GETLINK = 18
_RTM_GETNSID = 90
_IFF_UP = 1
_IFLA_ADDRESS = 1
_IFLA_IFNAME = 3
_IFLA_MTU = 4
_IFLA_LINK = 5
_IFLA_MASTER = 10
_IFLA_LINKINFO = 18
_IFLA_IFALIAS = 20
_IFLA_AF_SPEC = 26
_IFLA_GROUP = 27
_IFLA_NET_NS_FD = 28
_IFLA_EXT_MASK = 29
_IFLA_LINK_NETNSID = 37
_IFLA_INFO_KIND = 1
_IFLA_INFO_DATA = 2
_VETH_INFO_PEER = 1
_IFLA_INET6_CONF = 2
_DEVCONF_DISABLE_IPV6 = 26  # linux/ipv6.h, an index into an array of 32-bit numbers
_RTEXT_FILTER_SKIP_STATS = 8  # linux/rtnetlink.h
_NETNSA_NSID = 1
_NETNSA_FD = 3

_IFINFOMSG = struct.Struct("=BxHiII")  # family, ARPHRD type, index, flags, change mask
_RTGENMSG = struct.Struct("=Bxxx")
_I32 = struct.Struct("=i")


@dataclass(frozen=True, slots=True)
class Netdev:
    """A netdev as the kernel describes it; ``mtu`` in bytes, ``up`` is its administrative state.

    ``peer`` is the ifindex of a veth's other end, in the namespace that this namespace knows by
    the number ``peer_nsid`` (None: this very namespace). ``ipv6`` is False with disable_ipv6=1.
    """

    ifindex: int
    name: str
    kind: str
    mac: str
    mtu: int
    up: bool
    alias: str
    group: int
    ipv6: bool
    peer: int | None
    peer_nsid: int | None


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """A netdev to be made; ``mtu`` in bytes; without ``mac`` the kernel draws one.

    ``netns`` is the descriptor of the network namespace it is made in, None: the socket's own.
    ``group`` marks it from its first moment on; an alias can only be given later.
    """

    name: str
    mtu: int | None = None
    mac: str | None = None
    group: int = 0
    netns: int | None = None


@dataclass(frozen=True, slots=True)
class LinkChange:
    """What to change of a netdev; None: leave it. ``controller`` is the ifindex of a bridge."""

    up: bool | None = None
    mtu: int | None = None
    mac: str | None = None
    alias: str | None = None
    controller: int | None = None


def find(rtnl: Rtnl, name: str) -> Netdev | None:
    """Return the netdev of that name, None if there is none. Raises KernelError."""
    body = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + text(_IFLA_IFNAME, name) + _no_stats()
    return _get(rtnl, body, f"look up netdev {name}")


def at(rtnl: Rtnl, ifindex: int) -> Netdev | None:
    """Return the netdev of that number, None if there is none. Raises KernelError."""
    body = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, ifindex, 0, 0) + _no_stats()
    return _get(rtnl, body, f"look up netdev {ifindex}")


def every(rtnl: Rtnl) -> tuple[Netdev, ...]:
    """Return every netdev of the socket's namespace. Raises KernelError."""
    body = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + _no_stats()
    replies = rtnl.dump(Message(_RTM_GETLINK, body), "list netdevs")
    return tuple(_netdev(reply) for reply in replies)


def create(rtnl: Rtnl, spec: LinkSpec, kind: str) -> None:
    """Make a netdev of ``kind`` ("bridge", "dummy"), down. Raises KernelError."""
    body = _spec_body(spec) + nested(_IFLA_LINKINFO, text(_IFLA_INFO_KIND, kind))
    _create(rtnl, body, f"make {kind} {spec.name}")


def create_veth(rtnl: Rtnl, spec: LinkSpec, peer: LinkSpec) -> None:
    """Make both ends of a veth pair, down, each in its namespace, in one step.

    Raises KernelError; EEXIST if either name is taken, and then neither end is made.
    """
    data = nested(_IFLA_INFO_DATA, attribute(_VETH_INFO_PEER, _spec_body(peer)))
    info = nested(_IFLA_LINKINFO, text(_IFLA_INFO_KIND, "veth"), data)
    _create(rtnl, _spec_body(spec) + info, f"make veth pair {spec.name}, {peer.name}")


def change(rtnl: Rtnl, ifindex: int, wanted: LinkChange) -> None:
    """Make ``wanted`` true of a netdev. Raises KernelError; ENODEV if it is gone."""
    flags = _IFF_UP if wanted.up else 0
    mask = _IFF_UP if wanted.up is not None else 0
    body = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, ifindex, flags, mask) + b"".join(
        [
            u32(_IFLA_MTU, wanted.mtu) if wanted.mtu is not None else b"",
            attribute(_IFLA_ADDRESS, _mac_bytes(wanted.mac)) if wanted.mac is not None else b"",
            text(_IFLA_IFALIAS, wanted.alias) if wanted.alias is not None else b"",
            u32(_IFLA_MASTER, wanted.controller) if wanted.controller is not None else b"",
        ]
    )
    rtnl.change(Message(_RTM_NEWLINK, body), f"change netdev {ifindex} to {wanted}")


def delete(rtnl: Rtnl, ifindex: int) -> None:
    """Delete a netdev, a veth with its other end; gone already is success. Raises KernelError."""
    body = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, ifindex, 0, 0)
    try:
        rtnl.change(Message(_RTM_DELLINK, body), f"delete netdev {ifindex}")
    except KernelError as error:
        if error.errno != errno.ENODEV:
            raise


def nsid(rtnl: Rtnl, netns: int) -> int | None:
    """Return the number by which the socket's namespace knows another one, given its descriptor.

    None if it does not know it, so that no veth of ours leads there. Raises KernelError.
    """
    body = _RTGENMSG.pack(socket.AF_UNSPEC) + u32(_NETNSA_FD, netns)
    reply = rtnl.get(Message(_RTM_GETNSID, body), "look up the id of a network namespace")
    number = _i32(parse_attributes(reply.body, _RTGENMSG.size)[_NETNSA_NSID])
    return number if number >= 0 else None


def ifindex_of(message: Message) -> int:
    """Return the netdev that an RTM_NEWLINK or RTM_DELLINK message is about."""
    ifindex: int = _IFINFOMSG.unpack_from(message.body)[2]
    return ifindex


def _get(rtnl: Rtnl, body: bytes, doing: str) -> Netdev | None:
    try:
        return _netdev(rtnl.get(Message(_RTM_GETLINK, body), doing))
    except KernelError as error:
        if error.errno == errno.ENODEV:
            return None
        raise


def _netdev(message: Message) -> Netdev:
    _family, _type, ifindex, flags, _mask = _IFINFOMSG.unpack_from(message.body)
    found = parse_attributes(message.body, _IFINFOMSG.size)
    return Netdev(
        ifindex=ifindex,
        name=read_text(found[_IFLA_IFNAME]),
        kind=_kind(found),
        mac=found.get(_IFLA_ADDRESS, b"").hex(":"),
        mtu=read_u32(found[_IFLA_MTU]),
        up=bool(flags & _IFF_UP),
        alias=read_text(found.get(_IFLA_IFALIAS, b"")),
        group=read_u32(found.get(_IFLA_GROUP, bytes(4))),
        ipv6=_ipv6(found),
        peer=read_u32(found[_IFLA_LINK]) if _IFLA_LINK in found else None,
        peer_nsid=_i32(found[_IFLA_LINK_NETNSID]) if _IFLA_LINK_NETNSID in found else None,
    )


def _create(rtnl: Rtnl, body: bytes, doing: str) -> None:
    rtnl.change(Message(_RTM_NEWLINK, body, NLM_F_CREATE | NLM_F_EXCL), doing)


def _spec_body(spec: LinkSpec) -> bytes:
    return _IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + b"".join(
        [
            text(_IFLA_IFNAME, spec.name),
            u32(_IFLA_MTU, spec.mtu) if spec.mtu is not None else b"",
            attribute(_IFLA_ADDRESS, _mac_bytes(spec.mac)) if spec.mac is not None else b"",
            u32(_IFLA_GROUP, spec.group),
            u32(_IFLA_NET_NS_FD, spec.netns) if spec.netns is not None else b"",
        ]
    )


def _no_stats() -> bytes:
    return u32(_IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS)


def _mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _i32(payload: bytes) -> int:
    value: int = _I32.unpack_from(payload)[0]
    return value


def _kind(found: Attributes) -> str:
    info = parse_attributes(found.get(_IFLA_LINKINFO, b""))
    return read_text(info.get(_IFLA_INFO_KIND, b""))


def _ipv6(found: Attributes) -> bool:
    families = parse_attributes(found.get(_IFLA_AF_SPEC, b""))
    inet6 = parse_attributes(families.get(socket.AF_INET6, b""))
    conf = inet6.get(_IFLA_INET6_CONF)
    return conf is not None and _i32(conf[4 * _DEVCONF_DISABLE_IPV6 :]) == 0
