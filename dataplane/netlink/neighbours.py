"""Next hops and their MACs as the kernel has them (linux/neighbour.h): it resolves, we ask."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from ipaddress import ip_address

from pyroute2.netlink import NLM_F_CREATE
from pyroute2.netlink.rtnl import RTM_GETNEIGH, RTM_GETROUTE, RTM_NEWNEIGH
from pyroute2.netlink.rtnl.ndmsg import (
    NTF_USE,
    NUD_DELAY,
    NUD_PERMANENT,
    NUD_PROBE,
    NUD_REACHABLE,
    NUD_STALE,
    ndmsg,
)
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from dataplane.core.model import IpAddress
from dataplane.netlink.messages import attributes
from dataplane.netlink.rtnl import KernelError, Rtnl

_USABLE = NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE | NUD_PERMANENT
_NO_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL)


@dataclass(frozen=True, slots=True)
class Neighbour:
    """What answers for an address; ``checked``: it has been heard of lately, or is being asked."""

    mac: str
    checked: bool


def next_hop(rtnl: Rtnl, ifindex: int, destination: IpAddress) -> IpAddress | None:
    """Return where packets to ``destination`` go first out of this netdev; None: they do not.

    Raises KernelError.
    """
    question = rtmsg()
    question.update(family=_family(destination), dst_len=destination.max_prefixlen)
    question["attrs"] = [("RTA_DST", str(destination)), ("RTA_OIF", ifindex)]
    try:
        answer = rtnl.get(RTM_GETROUTE, question, f"look up the route to {destination}")
    except KernelError as error:
        if error.errno in _NO_WAY:  # unreachable, prohibited, blackhole
            return None
        raise
    found = attributes(answer)
    if found.get("RTA_OIF") != ifindex:
        return None
    gateway = found.get("RTA_GATEWAY") or found.get("RTA_VIA", {}).get("addr")  # RFC 5549
    return ip_address(gateway) if gateway else destination


def find(rtnl: Rtnl, ifindex: int, address: IpAddress) -> Neighbour | None:
    """Return what the kernel would send to for ``address``, None while it would have to ask.

    Raises KernelError.
    """
    try:
        answer = rtnl.get(RTM_GETNEIGH, _message(ifindex, address), f"look up {address}")
    except KernelError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):
            return None
        raise
    mac = attributes(answer).get("NDA_LLADDR")
    if mac is None or not answer["state"] & _USABLE:
        return None
    return Neighbour(mac, checked=answer["state"] != NUD_STALE)


def use(rtnl: Rtnl, ifindex: int, address: IpAddress) -> None:
    """Have the kernel do what sending to ``address`` would: ask for it, or check what it knows.

    Raises KernelError.
    """
    message = _message(ifindex, address)
    message["flags"] = NTF_USE
    rtnl.ask(RTM_NEWNEIGH, message, NLM_F_CREATE, f"resolve {address} on netdev {ifindex}")


def _message(ifindex: int, address: IpAddress) -> ndmsg:
    message = ndmsg()
    message.update(family=_family(address), ifindex=ifindex)
    message["attrs"] = [("NDA_DST", str(address))]
    return message


def _family(address: IpAddress) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6
