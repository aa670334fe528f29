"""IP addresses of a netdev (linux/if_addr.h)."""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_interface

from dataplane.core.model import IpAddress
from dataplane.netlink.rtnl import (
    NLM_F_CREATE,
    NLM_F_REPLACE,
    KernelError,
    Message,
    Rtnl,
    attribute,
    parse_attributes,
    read_u32,
    u32,
)

RTM_NEWADDR = 20
RTM_DELADDR = 21
_RTM_GETADDR = 22
_IFA_ADDRESS = 1
_IFA_LOCAL = 2
_IFA_BROADCAST = 4
_IFA_FLAGS = 8
_IFA_F_NODAD = 0x02
_IFA_F_OPTIMISTIC = 0x04
_IFA_F_DADFAILED = 0x08
_IFA_F_TENTATIVE = 0x40
_IFA_F_NOPREFIXROUTE = 0x200

_IFADDRMSG = struct.Struct("=BBBBi")  # family, prefix length, flags, scope, ifindex

IpInterface = IPv4Interface | IPv6Interface


@dataclass(frozen=True, slots=True)
class Assigned:
    """An address with its prefix, as the kernel holds it.

    ``usable`` is False while duplicate detection runs and after it has failed (RFC 4862 5.4).
    """

    interface: IpInterface
    prefix_route: bool
    usable: bool

    @property
    def ip(self) -> IpAddress:
        """Return the bare address."""
        return self.interface.ip


def replace(rtnl: Rtnl, ifindex: int, interface: IpInterface, *, prefix_route: bool = True) -> None:
    """Give a netdev an address, without duplicate detection; there already is success.

    ``prefix_route`` False: no route to its prefix is made. Raises KernelError.
    """
    flags = _IFA_F_NODAD if interface.version == 6 else 0  # IPv4 has none, and refuses the flag
    flags |= 0 if prefix_route else _IFA_F_NOPREFIXROUTE
    body = _body(ifindex, interface) + u32(_IFA_FLAGS, flags)
    if isinstance(interface, IPv4Interface) and interface.network.prefixlen < 31:  # RFC 3021
        body += attribute(_IFA_BROADCAST, interface.network.broadcast_address.packed)
    message = Message(RTM_NEWADDR, body, NLM_F_CREATE | NLM_F_REPLACE)
    rtnl.change(message, f"give address {interface} to netdev {ifindex}")


def delete(rtnl: Rtnl, ifindex: int, interface: IpInterface) -> None:
    """Take an address away; not there, or no such netdev, is success. Raises KernelError."""
    message = Message(RTM_DELADDR, _body(ifindex, interface))
    try:
        rtnl.change(message, f"take address {interface} from netdev {ifindex}")
    except KernelError as error:
        if error.errno not in (errno.EADDRNOTAVAIL, errno.ENODEV):
            raise


def of(rtnl: Rtnl, ifindex: int) -> tuple[Assigned, ...]:
    """Return the addresses of one netdev in the kernel's order; no such netdev: none.

    Raises KernelError.
    """
    body = _IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, ifindex)
    try:
        replies = rtnl.dump(Message(_RTM_GETADDR, body), f"list addresses of netdev {ifindex}")
    except KernelError as error:
        if error.errno == errno.ENODEV:
            return ()
        raise
    return tuple(_assigned(reply) for reply in replies)


def every(rtnl: Rtnl) -> dict[int, tuple[Assigned, ...]]:
    """Return the addresses of every netdev that has any, by ifindex. Raises KernelError."""
    body = _IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    found: dict[int, tuple[Assigned, ...]] = {}
    for reply in rtnl.dump(Message(_RTM_GETADDR, body), "list addresses"):
        index = ifindex_of(reply)
        found[index] = (*found.get(index, ()), _assigned(reply))
    return found


def ifindex_of(message: Message) -> int:
    """Return the netdev that an RTM_NEWADDR or RTM_DELADDR message is about."""
    ifindex: int = _IFADDRMSG.unpack_from(message.body)[4]
    return ifindex


def _body(ifindex: int, interface: IpInterface) -> bytes:
    family = socket.AF_INET if interface.version == 4 else socket.AF_INET6
    head = _IFADDRMSG.pack(family, interface.network.prefixlen, 0, 0, ifindex)
    packed = interface.ip.packed
    return head + attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed)


def _assigned(message: Message) -> Assigned:
    _family, prefix_length, small_flags, _scope, _ifindex = _IFADDRMSG.unpack_from(message.body)
    found = parse_attributes(message.body, _IFADDRMSG.size)
    flags = read_u32(found[_IFA_FLAGS]) if _IFA_FLAGS in found else small_flags
    # With a peer address, IFA_ADDRESS is the peer and IFA_LOCAL is ours (linux/if_addr.h).
    packed = found[_IFA_LOCAL] if _IFA_LOCAL in found else found[_IFA_ADDRESS]
    waiting = flags & _IFA_F_TENTATIVE and not flags & _IFA_F_OPTIMISTIC
    return Assigned(
        interface=ip_interface((packed, prefix_length)),
        prefix_route=not flags & _IFA_F_NOPREFIXROUTE,
        usable=not waiting and not flags & _IFA_F_DADFAILED,
    )
