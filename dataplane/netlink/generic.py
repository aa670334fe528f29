"""Generic netlink: which of its families the kernel has (linux/genetlink.h)."""

from __future__ import annotations

import errno

from pyroute2 import NetlinkError
from pyroute2.netlink import ctrlmsg
from pyroute2.netlink.generic import GenericNetlinkSocket

from dataplane.netlink.rtnl import KernelError


def has_family(name: str) -> bool:
    """Say whether the kernel has family ``name``; it loads the module of one that it knows.

    Raises KernelError.
    """
    doing = f"look up family {name} of generic netlink"
    try:
        with GenericNetlinkSocket() as opened:
            opened.asyncore.module_err_level = "debug"  # that it is not there is an answer, too
            opened.bind(name, ctrlmsg)
    except NetlinkError as error:
        if error.code == errno.ENOENT:
            return False
        raise KernelError(doing, error.code) from error
    except OSError as error:
        raise KernelError(doing, error.errno or 0) from error
    return True
