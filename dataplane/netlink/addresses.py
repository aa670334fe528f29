"""IP addresses of a netdev (linux/if_addr.h)."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from ipaddress import IPv4Interface, ip_interface

from pyroute2.netlink import nlmsg
from pyroute2.netlink.rtnl import RTM_GETADDR
from pyroute2.netlink.rtnl.ifaddrmsg import (
    IFA_F_DADFAILED,
    IFA_F_NODAD,
    IFA_F_NOPREFIXROUTE,
    IFA_F_OPTIMISTIC,
    IFA_F_TENTATIVE,
    ifaddrmsg,
)

from dataplane.core.model import IpAddress, IpInterface
from dataplane.netlink.messages import attributes
from dataplane.netlink.rtnl import KernelError, Rtnl


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
    flags = IFA_F_NODAD if interface.version == 6 else 0  # IPv4 has none, and refuses the flag
    flags |= 0 if prefix_route else IFA_F_NOPREFIXROUTE
    words = _words(ifindex, interface)
    if isinstance(interface, IPv4Interface) and interface.network.prefixlen < 31:  # RFC 3021
        words["broadcast"] = str(interface.network.broadcast_address)
    with rtnl.doing(f"give address {interface} to netdev {ifindex}") as ip:
        ip.addr("replace", flags=flags, **words)


def delete(rtnl: Rtnl, ifindex: int, interface: IpInterface) -> None:
    """Take an address away; not there, or no such netdev, is success. Raises KernelError."""
    try:
        with rtnl.doing(f"take address {interface} from netdev {ifindex}") as ip:
            ip.addr("del", **_words(ifindex, interface))
    except KernelError as error:
        if error.errno not in (errno.EADDRNOTAVAIL, errno.ENODEV):
            raise


def of(rtnl: Rtnl, ifindex: int) -> tuple[Assigned, ...]:
    """Return the addresses of one netdev in the kernel's order; no such netdev: none.

    Raises KernelError.
    """
    question = ifaddrmsg()
    question["index"] = ifindex
    try:
        replies = rtnl.dump(RTM_GETADDR, question, f"list addresses of netdev {ifindex}")
    except KernelError as error:
        if error.errno == errno.ENODEV:
            return ()
        raise
    return tuple(_assigned(reply) for reply in replies)


def every(rtnl: Rtnl) -> dict[int, tuple[Assigned, ...]]:
    """Return the addresses of every netdev that has any, by ifindex. Raises KernelError."""
    found: dict[int, tuple[Assigned, ...]] = {}
    for reply in rtnl.dump(RTM_GETADDR, ifaddrmsg(), "list addresses"):
        index = reply["index"]
        found[index] = (*found.get(index, ()), _assigned(reply))
    return found


def _words(ifindex: int, interface: IpInterface) -> dict[str, str | int]:
    length = interface.network.prefixlen
    return {"index": ifindex, "address": str(interface.ip), "prefixlen": length}


def _assigned(message: nlmsg) -> Assigned:
    found = attributes(message)
    flags = found.get("IFA_FLAGS", message["flags"])
    # With a peer address, IFA_ADDRESS is the peer and IFA_LOCAL is ours (linux/if_addr.h).
    ip = found["IFA_LOCAL"] if "IFA_LOCAL" in found else found["IFA_ADDRESS"]
    waiting = flags & IFA_F_TENTATIVE and not flags & IFA_F_OPTIMISTIC
    return Assigned(
        interface=ip_interface((ip, message["prefixlen"])),
        prefix_route=not flags & IFA_F_NOPREFIXROUTE,
        usable=not waiting and not flags & IFA_F_DADFAILED,
    )
