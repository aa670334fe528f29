"""Unicast routes of the main table (linux/rtnetlink.h)."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from pyroute2.netlink import nlmsg
from pyroute2.netlink.rtnl import RTM_GETROUTE, rt_type
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from dataplane.core.model import IpAddress, IpNetwork
from dataplane.netlink.messages import attributes
from dataplane.netlink.rtnl import KernelError, Rtnl

_MAIN_TABLE = 254
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
    found: list[Route] = []
    for family in _EVERYWHERE:
        question = rtmsg()
        question.update(family=family, table=_MAIN_TABLE, type=rt_type["unicast"])
        question["attrs"] = [("RTA_OIF", ifindex)]
        try:
            replies = rtnl.dump(RTM_GETROUTE, question, f"list routes of netdev {ifindex}")
        except KernelError as error:
            if error.errno != errno.ENOENT:  # a family without any address has no table yet
                raise
        else:
            # One out of several netdevs names none, and is none of ours.
            found += [_route(reply) for reply in replies if reply.get_attr("RTA_OIF") is not None]
    return tuple(found)


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
