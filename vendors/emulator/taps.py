"""TAPs: the host's, the DPU's and the underlay's end of an emulated switch's cables.

They are persistent: a switch that restarts finds them, with the addresses they were given. A TAP
has no offloads unless its user asks for them, so each frame comes whole: no larger than the MTU,
with its checksums in it.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

from dataplane.core.errors import OverweaveError
from dataplane.netlink.netns import Netns

_TUNSETIFF, _TUNSETPERSIST = 0x400454CA, 0x400454CB  # linux/if_tun.h
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_IFREQ = struct.Struct("16sH22x")


class TapError(OverweaveError):
    """A TAP cannot be made; the text names it."""


def open_tap(name: str, netns: Path) -> int:
    """Return a non-blocking descriptor of TAP ``name`` in ``netns``, made if there is none.

    One read or write is one Ethernet frame. Raises TapError, NetnsError.
    """
    with Netns(str(netns)) as space:
        try:
            return space.run(lambda: _open(name))
        except OSError as error:
            raise TapError(f"TAP {name} in {netns}: {error.strerror}") from error


def _open(name: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, _IFREQ.pack(name.encode(), _IFF_TAP | _IFF_NO_PI))
        fcntl.ioctl(descriptor, _TUNSETPERSIST, 1)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
