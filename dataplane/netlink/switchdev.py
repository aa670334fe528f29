"""The netdevs of a switch: representors, the uplink, and tunnel devices (linux/if_link.h).

Asked for over an Exchange, since a switch may have a socket of its own. What links.py tells of
the machine's netdevs leaves out what is read here.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from pyroute2.netlink.rtnl import RTM_GETLINK

from dataplane.netlink.exchange import Exchange, Request
from dataplane.netlink.messages import attribute, attribute_map, text
from dataplane.netlink.rtnl import KernelError

_IFINFO = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, ifindex, flags, change
_NAME, _LINK_INFO, _MASK, _SWITCH_ID, _PORT_NAME = 3, 18, 29, 36, 38  # IFLA_...
_INFO_KIND, _INFO_DATA = 1, 2  # IFLA_INFO_...
_SKIP_STATS = struct.pack("=I", 8)  # RTEXT_FILTER_SKIP_STATS
_UDP_PORT = {"geneve": 5, "vxlan": 15}  # IFLA_GENEVE_PORT, IFLA_VXLAN_PORT, both big endian


@dataclass(frozen=True, slots=True)
class SwitchNetdev:
    """A netdev; of a switch's port ``switch`` is the switch and ``port`` which it is there.

    A representor's ``port`` is ``pf0vf3`` for VF 3 of PF 0. Of a tunnel device ``kind`` says which
    and ``udp_port`` what it takes in.
    """

    ifindex: int
    name: str
    kind: str = ""
    switch: str = ""
    port: str = ""
    udp_port: int | None = None


def every(exchange: Exchange) -> tuple[SwitchNetdev, ...]:
    """Return every netdev. Raises KernelError."""
    question = Request(RTM_GETLINK, _IFINFO.pack(0, 0, 0, 0, 0) + attribute(_MASK, _SKIP_STATS))
    bodies = exchange.dump(question, "list the switch's netdevs")
    try:
        return tuple(map(decode, bodies))
    except (ValueError, struct.error) as error:
        raise KernelError("list the switch's netdevs", errno.EBADMSG, str(error)) from None


def decode(body: bytes) -> SwitchNetdev:
    """Return the netdev of an RTM_NEWLINK. Raises ValueError or struct.error."""
    _, _, ifindex, _, _ = _IFINFO.unpack_from(body)
    found = attribute_map(body[_IFINFO.size :])
    info = attribute_map(found.get(_LINK_INFO, b""))
    kind = text(info.get(_INFO_KIND, b""))
    return SwitchNetdev(
        ifindex=ifindex,
        name=text(found.get(_NAME, b"")),
        kind=kind,
        switch=found.get(_SWITCH_ID, b"").hex(),
        port=text(found.get(_PORT_NAME, b"")),
        udp_port=_udp_port(kind, attribute_map(info.get(_INFO_DATA, b"")))
        if kind in _UDP_PORT
        else None,
    )


def _udp_port(kind: str, data: Mapping[int, bytes]) -> int | None:
    number = data.get(_UDP_PORT[kind])
    return int.from_bytes(number) if number else None
