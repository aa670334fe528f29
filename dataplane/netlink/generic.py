"""Generic netlink: which of its families the kernel has (linux/genetlink.h)."""

from __future__ import annotations

import errno
import socket
import struct

from pyroute2.netlink import (
    CTRL_CMD_GETFAMILY,
    GENL_ID_CTRL,
    NETLINK_GENERIC,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    ctrlmsg,
)

from dataplane.netlink.rtnl import DATAGRAM_BYTES, KernelError

_ANSWER = struct.Struct("=4xH10xi")  # struct nlmsghdr: its type; struct nlmsgerr: its error


def has_family(name: str) -> bool:
    """Say whether the kernel has family ``name``; it loads the module of one that it knows.

    Raises KernelError.
    """
    question = ctrlmsg()
    question["header"]["type"] = GENL_ID_CTRL
    question["header"]["flags"] = NLM_F_REQUEST
    question["cmd"] = CTRL_CMD_GETFAMILY
    question["version"] = 1
    question["attrs"] = [("CTRL_ATTR_FAMILY_NAME", name)]
    question.encode()
    doing = f"look up family {name} of generic netlink"
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC) as opened:
            opened.sendto(question.data, (0, 0))
            kind, error = _ANSWER.unpack_from(opened.recv(DATAGRAM_BYTES))
    except OSError as failed:
        raise KernelError(doing, failed.errno or 0) from failed
    if kind != NLMSG_ERROR:
        return True
    if -error != errno.ENOENT:
        raise KernelError(doing, -error)
    return False
