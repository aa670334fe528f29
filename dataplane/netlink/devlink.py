"""Whether a NIC's embedded switch is on: devlink's eswitch mode, over generic netlink.

Asked over an Exchange, since a switch may have a socket of its own: pyroute2's devlink takes none,
and asks for ports alone. Numbers are those of linux/devlink.h and linux/genetlink.h.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from enum import IntEnum

from dataplane.netlink.exchange import Exchange, Request
from dataplane.netlink.messages import attribute, attribute_map, text
from dataplane.netlink.rtnl import KernelError

_GENL = struct.Struct("=BBxx")  # struct genlmsghdr: command, version
_CONTROL, _GET_FAMILY = 0x10, 3  # GENL_ID_CTRL, CTRL_CMD_GETFAMILY
_FAMILY_ID, _FAMILY_NAME = 1, 2  # CTRL_ATTR_...
_PORT_GET, _ESWITCH_GET, _ESWITCH_SET = 5, 29, 30  # DEVLINK_CMD_...
_BUS, _DEVICE, _NETDEV_IFINDEX, _MODE = 1, 2, 6, 25  # DEVLINK_ATTR_...
_WORD, _SHORT = struct.Struct("=I"), struct.Struct("=H")
_DEVLINK = "devlink"


class Mode(IntEnum):
    """What the embedded switch does (enum devlink_eswitch_mode)."""

    LEGACY = 0
    SWITCHDEV = 1

    def __str__(self) -> str:
        """Return the word of devlink(8)."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Handle:
    """What devlink calls a device, such as ``pci/0000:65:00.0``."""

    bus: str
    device: str

    def __str__(self) -> str:
        """Return it as devlink(8) has it."""
        return f"{self.bus}/{self.device}"


@dataclass(frozen=True, slots=True)
class Eswitch:
    """The embedded switch of a device."""

    handle: Handle
    mode: Mode


def find(exchange: Exchange, ifindex: int) -> Eswitch | None:
    """Return the embedded switch that a netdev is a port of; None: devlink knows of none.

    Raises KernelError.
    """
    try:
        return _find(exchange, ifindex)
    except (ValueError, struct.error) as error:
        raise KernelError("read what devlink says", errno.EBADMSG, str(error)) from None


def _find(exchange: Exchange, ifindex: int) -> Eswitch | None:
    family = _family(exchange)
    if family is None:
        return None
    what = "list devlink's ports"
    ports = exchange.dump(Request(family, _GENL.pack(_PORT_GET, 1)), what)
    handle = next((_handle(at) for at in map(_read, ports) if _ifindex(at) == ifindex), None)
    if handle is None:
        return None
    what = f"ask for the eswitch mode of {handle}"
    try:
        told = _read(exchange.ask(Request(family, _named(_ESWITCH_GET, handle)), what))
    except KernelError as error:
        if error.errno == errno.EOPNOTSUPP:
            return None
        raise
    number = told.get(_MODE)  # a device without the two modes tells none
    return Eswitch(handle, Mode(_SHORT.unpack(number)[0])) if number else None


def set_mode(exchange: Exchange, handle: Handle, mode: Mode) -> None:
    """Put an embedded switch into a mode, which ends its VFs' netdevs. Raises KernelError."""
    family = _family(exchange)
    what = f"set the eswitch mode of {handle} to {mode}"
    if family is None:
        raise KernelError(what, errno.ENOENT, "the kernel has no devlink")
    body = _named(_ESWITCH_SET, handle) + attribute(_MODE, _SHORT.pack(mode))
    (refusal,) = exchange.change([Request(family, body)], what)
    if refusal is not None:
        raise KernelError(what, refusal.errno, refusal.words)


def _family(exchange: Exchange) -> int | None:
    """Return the number of devlink's messages; None: there is no devlink."""
    bodies = exchange.dump(Request(_CONTROL, _GENL.pack(_GET_FAMILY, 1)), "list netlink families")
    for told in map(_read, bodies):
        if text(told.get(_FAMILY_NAME, b"")) == _DEVLINK:
            (number,) = _SHORT.unpack(told[_FAMILY_ID])
            return int(number)
    return None


def _named(command: int, handle: Handle) -> bytes:
    names = ((_BUS, handle.bus), (_DEVICE, handle.device))
    return _GENL.pack(command, 1) + b"".join(
        attribute(kind, name.encode() + b"\0") for kind, name in names
    )


def _read(body: bytes) -> dict[int, bytes]:
    return attribute_map(body[_GENL.size :])


def _handle(told: dict[int, bytes]) -> Handle:
    return Handle(text(told.get(_BUS, b"")), text(told.get(_DEVICE, b"")))


def _ifindex(told: dict[int, bytes]) -> int | None:
    number = told.get(_NETDEV_IFINDEX)
    return int(_WORD.unpack(number)[0]) if number else None
