"""Unicast routes of the main table (linux/rtnetlink.h)."""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from dataplane.core.model import IpAddress, IpNetwork
from dataplane.netlink.rtnl import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    KernelError,
    Message,
    Rtnl,
    attribute,
    parse_attributes,
    read_u32,
    u32,
)

_RTM_NEWROUTE = 24
_RTM_GETROUTE = 26
_RT_TABLE_MAIN = 254
_RTPROT_BOOT = 3
_RT_SCOPE_UNIVERSE = 0
_RT_SCOPE_LINK = 253
_RTN_UNICAST = 1
_RTA_DST = 1
_RTA_OIF = 4
_RTA_GATEWAY = 5

# family, destination length, source length, tos, table, protocol, scope, type, flags
_RTMSG = struct.Struct("=BBBBBBBBI")


@dataclass(frozen=True, slots=True)
class Route:
    """A route out of netdev ``ifindex``; without ``gateway`` its destinations are on the link."""

    ifindex: int
    destination: IpNetwork
    gateway: IpAddress | None = None

    def __str__(self) -> str:
        """Name the route in an error."""
        via = f" via {self.gateway}" if self.gateway is not None else ""
        return f"route {self.destination}{via} out of netdev {self.ifindex}"


def ensure(rtnl: Rtnl, route: Route) -> None:
    """Make a route; another one to the same destination wins over it, as with other CNI plugins.

    Raises KernelError.
    """
    scope = _RT_SCOPE_UNIVERSE if route.gateway is not None else _RT_SCOPE_LINK
    body = (
        _rtmsg(route.destination, scope)
        + attribute(_RTA_DST, route.destination.network_address.packed)
        + u32(_RTA_OIF, route.ifindex)
    )
    if route.gateway is not None:
        body += attribute(_RTA_GATEWAY, route.gateway.packed)
    message = Message(_RTM_NEWROUTE, body, NLM_F_CREATE | NLM_F_EXCL)
    try:
        rtnl.change(message, f"make {route}")
    except KernelError as error:
        if error.errno != errno.EEXIST:
            raise


def of(rtnl: Rtnl, ifindex: int) -> tuple[Route, ...]:
    """Return the unicast routes of the main table out of one netdev. Raises KernelError."""
    found: list[Route] = []
    for family in (socket.AF_INET, socket.AF_INET6):
        body = _RTMSG.pack(family, 0, 0, 0, _RT_TABLE_MAIN, 0, 0, _RTN_UNICAST, 0)
        message = Message(_RTM_GETROUTE, body + u32(_RTA_OIF, ifindex))
        try:
            replies = rtnl.dump(message, f"list routes of netdev {ifindex}")
        except KernelError as error:
            if error.errno != errno.ENOENT:  # a family without any address has no table yet
                raise
        else:
            found += [_route(reply) for reply in replies]
    return tuple(found)


def _rtmsg(destination: IpNetwork, scope: int) -> bytes:
    family = socket.AF_INET if destination.version == 4 else socket.AF_INET6
    length = destination.prefixlen
    return _RTMSG.pack(family, length, 0, 0, _RT_TABLE_MAIN, _RTPROT_BOOT, scope, _RTN_UNICAST, 0)


def _route(message: Message) -> Route:
    family, length, *_rest = _RTMSG.unpack_from(message.body)
    found = parse_attributes(message.body, _RTMSG.size)
    everywhere = bytes(4 if family == socket.AF_INET else 16)
    return Route(
        ifindex=read_u32(found[_RTA_OIF]),
        destination=ip_network((found.get(_RTA_DST, everywhere), length)),
        gateway=ip_address(found[_RTA_GATEWAY]) if _RTA_GATEWAY in found else None,
    )
