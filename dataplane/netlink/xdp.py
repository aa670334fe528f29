"""XDP programs in drivers of netdevs (linux/if_link.h); what is there, links.py tells.

An attachment by netlink belongs to the netdev: it outlives who made it. Every change names the
program that it expects to find, so that nobody's is exchanged or taken away unseen.
"""

from __future__ import annotations

from pyroute2.netlink.rtnl.ifinfmsg import XDP_FLAGS_DRV_MODE, XDP_FLAGS_REPLACE

from dataplane.netlink.rtnl import Rtnl

_NONE = -1


def replace(rtnl: Rtnl, ifindex: int, program_fd: int, expected_fd: int | None = None) -> None:
    """Attach the program in native mode, in one step in the place of the expected one, or of none.

    Raises KernelError: EEXIST if another one is there, EOPNOTSUPP if the driver has no native XDP.
    """
    _set(rtnl, ifindex, program_fd, expected_fd, f"attach an XDP program to netdev {ifindex}")


def detach(rtnl: Rtnl, ifindex: int, expected_fd: int) -> None:
    """Detach the expected program. Raises KernelError: EEXIST if another one is there."""
    _set(rtnl, ifindex, _NONE, expected_fd, f"detach the XDP program of netdev {ifindex}")


def _set(rtnl: Rtnl, ifindex: int, program_fd: int, expected_fd: int | None, doing: str) -> None:
    words = [
        ("IFLA_XDP_FD", program_fd),
        ("IFLA_XDP_FLAGS", XDP_FLAGS_DRV_MODE | XDP_FLAGS_REPLACE),
        ("IFLA_XDP_EXPECTED_FD", _NONE if expected_fd is None else expected_fd),
    ]
    with rtnl.doing(doing) as ip:
        ip.link("set", index=ifindex, xdp={"attrs": words})
