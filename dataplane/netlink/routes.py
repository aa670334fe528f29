"""Unicast routes of the main table, and those to a netdev's own addresses (linux/rtnetlink.h)."""

from __future__ import annotations

import errno
import socket
import time
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from pyroute2.netlink import nlmsg
from pyroute2.netlink.rtnl import RTM_GETROUTE, rt_type
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from dataplane.core.model import IpAddress, IpNetwork
from dataplane.netlink.messages import attributes
from dataplane.netlink.rtnl import KernelError, Rtnl

_MAIN_TABLE = 254
_LOCAL_TABLE = 255
_OWN_ROUTE_S = 0.5  # some milliseconds, unless the machine is very busy
_EVERYWHERE = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}  # noqa: S104 - nothing is bound


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
    words: dict[str, str | int] = {"scope": "universe" if route.gateway is not None else "link"}
    if route.gateway is not None:
        words["gateway"] = str(route.gateway)
    destination = {"family": _family(route), "dst": str(route.destination)}
    try:
        with rtnl.doing(f"make {route}") as ip:
            ip.route("add", oif=route.ifindex, proto="boot", **destination, **words)
    except KernelError as error:
        if error.errno != errno.EEXIST:
            raise


def of(rtnl: Rtnl, ifindex: int) -> tuple[Route, ...]:
    """Return the unicast routes of the main table out of one netdev. Raises KernelError."""
    found = _dump(rtnl, ifindex, _MAIN_TABLE, "unicast")
    # One out of several netdevs names none, and is none of ours.
    return tuple(_route(each) for each in found if each.get_attr("RTA_OIF") is not None)


def own(rtnl: Rtnl, ifindex: int) -> frozenset[IpAddress]:
    """Return the addresses of a netdev by which the kernel takes packets in. Raises KernelError.

    It makes such a route for every address, also on a netdev that is down.
    """
    found = _dump(rtnl, ifindex, _LOCAL_TABLE, "local")
    return frozenset(_route(each).destination.network_address for each in found)


def delete_own(rtnl: Rtnl, ifindex: int, address: IpAddress) -> None:
    """Let the kernel take no packet in by an address that a netdev was just given, and keeps.

    Waits for the kernel to make that route, which for IPv6 it does a moment after it has given the
    address. None comes, or no such netdev: success. Raises KernelError.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    words = {"dst": f"{address}/{address.max_prefixlen}", "oif": ifindex, "family": family}
    give_up = time.monotonic() + _OWN_ROUTE_S
    while address not in own(rtnl, ifindex) and time.monotonic() < give_up:
        time.sleep(_OWN_ROUTE_S / 1000)  # the shorter it is there, the fewer look at it
    try:
        with rtnl.doing(f"delete the route to address {address} of netdev {ifindex}") as ip:
            ip.route("del", table=_LOCAL_TABLE, type="local", scope="host", **words)
    except KernelError as error:
        if error.errno not in (errno.ESRCH, errno.ENODEV):
            raise


def _dump(rtnl: Rtnl, ifindex: int, table: int, kind: str) -> list[nlmsg]:
    found: list[nlmsg] = []
    for family in _EVERYWHERE:
        question = rtmsg()
        question.update(family=family, table=table, type=rt_type[kind])
        question["attrs"] = [("RTA_OIF", ifindex)]
        try:
            found += rtnl.dump(RTM_GETROUTE, question, f"list routes of netdev {ifindex}")
        except KernelError as error:
            if error.errno != errno.ENOENT:  # a family without any address has no table yet
                raise
    return found


def _family(route: Route) -> int:
    return socket.AF_INET if route.destination.version == 4 else socket.AF_INET6


def _route(message: nlmsg) -> Route:
    found = attributes(message)
    base = found.get("RTA_DST", _EVERYWHERE[message["family"]])
    gateway = found.get("RTA_GATEWAY")
    return Route(
        ifindex=found["RTA_OIF"],
        destination=ip_network((base, message["dst_len"])),
        gateway=ip_address(gateway) if gateway is not None else None,
    )
