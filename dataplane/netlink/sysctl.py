"""Per-interface switches of /proc/sys/net, in the network namespace of the calling thread."""

from __future__ import annotations

import errno
from pathlib import Path

from dataplane.netlink.rtnl import KernelError

_IPV6_CONF = Path("/proc/sys/net/ipv6/conf")


def set_ipv6(interface: str, key: str, value: int) -> None:
    """Set ``net.ipv6.conf.INTERFACE.KEY`` (ip-sysctl.rst); no-op where it is so already.

    Raises KernelError; no such interface, or a kernel without IPv6, is ENOENT.
    """
    if "/" in interface or interface in (".", ".."):
        raise KernelError(f"set {key} of interface {interface!r}", errno.EINVAL)
    path = _IPV6_CONF / interface / key
    wanted = str(value)
    try:
        if path.read_text().strip() != wanted:
            path.write_text(wanted)
    except OSError as error:
        raise KernelError(
            f"set net.ipv6.conf.{interface}.{key} to {value}", error.errno or 0
        ) from None


def has_ipv6() -> bool:
    """Say whether this kernel has IPv6 at all (ipv6.disable=1 takes it away)."""
    return _IPV6_CONF.is_dir()
