"""devlink of the card's NIC over generic netlink: which port it has, and the eswitch mode.

net/netlink/genetlink.c, net/core/devlink.c, linux/devlink.h; what is refused, and in which words,
is ice's (ice_eswitch_mode_set).
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vendors.emulator.sx904.links import Kind, Links
from vendors.emulator.sx904.netlink import (
    ACK,
    DUMP,
    REQUEST,
    Refusal,
    Request,
    read_attributes,
    read_requests,
    read_text,
    write_answer,
    write_attribute,
    write_dump,
    write_message,
    write_text,
)

LEGACY, SWITCHDEV = 0, 1  # DEVLINK_ESWITCH_MODE_...
BUS, DEVICE = "pci", "0000:01:00.0"
_HEADER = struct.Struct("=BBxx")  # genlmsghdr
_CONTROL, _DEVLINK = 0x10, 0x15  # GENL_ID_CTRL; the kernel gives devlink what is free
_GET_FAMILY, _NEW_FAMILY = 3, 1  # CTRL_CMD_...
_PORT_GET, _PORT_NEW, _ESWITCH_GET, _ESWITCH_SET = 5, 7, 29, 30  # DEVLINK_CMD_...
_FAMILY_ID, _FAMILY_NAME, _VERSION, _HEADER_SIZE, _MOST = 1, 2, 3, 4, 5  # CTRL_ATTR_...
_BUS, _DEVICE, _PORT, _TYPE, _IFINDEX, _NETDEV, _MODE = 1, 2, 3, 4, 6, 7, 25  # DEVLINK_ATTR_...
_ETHERNET = 2  # DEVLINK_PORT_TYPE_ETH
_WORD, _SHORT = struct.Struct("=I"), struct.Struct("=H")
_LENGTHS = {_MODE: _SHORT.size}


@dataclass(frozen=True, slots=True)
class Nic:
    """The card's NIC; ``set_mode`` raises Refusal."""

    links: Links
    mode: Callable[[], int]
    set_mode: Callable[[int], str]


def answer(nic: Nic, packet: bytes, port: int) -> Iterator[bytes]:
    """Yield the packets that answer one packet; ``port`` is the asker's port id."""
    for request in read_requests(packet):
        if not request.flags & REQUEST or len(request.body) < _HEADER.size:
            continue
        refusal: Refusal | None = None
        words, made = "", list[bytes]()
        try:
            words, made = _do(nic, request, port)
        except Refusal as refused:
            refusal = refused
        yield from made
        if refusal is not None or (request.flags & ACK and not request.flags & DUMP):
            yield write_answer(request, port, refusal, words)


def _do(nic: Nic, request: Request, port: int) -> tuple[str, list[bytes]]:
    """Do one request, and return a warning and what comes before its ack. Raises Refusal."""
    command, _ = _HEADER.unpack_from(request.body)
    asked = (request.kind, command, bool(request.flags & DUMP))
    if asked == (_CONTROL, _GET_FAMILY, True):
        return "", list(write_dump(request, port, [(_CONTROL, _family())]))
    if asked == (_DEVLINK, _PORT_GET, True):
        return "", list(write_dump(request, port, [(_DEVLINK, each) for each in _ports(nic)]))
    if asked == (_DEVLINK, _ESWITCH_GET, False):
        _check_handle(request)
        body = _HEADER.pack(_ESWITCH_GET, 1) + _handle()
        body += write_attribute(_MODE, _SHORT.pack(nic.mode()))
        return "", [write_message(_DEVLINK, 0, (request.sequence, port), body)]
    if asked == (_DEVLINK, _ESWITCH_SET, False):
        told = _check_handle(request)
        if _MODE not in told:
            return "", []
        return nic.set_mode(_SHORT.unpack_from(told[_MODE])[0]), []
    raise Refusal(errno.EOPNOTSUPP)


def _family() -> bytes:
    numbers = ((_VERSION, 1), (_HEADER_SIZE, 0), (_MOST, 200))
    return (
        _HEADER.pack(_NEW_FAMILY, 2)
        + write_text(_FAMILY_NAME, "devlink")
        + write_attribute(_FAMILY_ID, _SHORT.pack(_DEVLINK))
        + b"".join(write_attribute(kind, _WORD.pack(number)) for kind, number in numbers)
    )


def _ports(nic: Nic) -> Iterator[bytes]:
    for link in nic.links:
        if link.kind is Kind.UPLINK:
            yield (
                _HEADER.pack(_PORT_NEW, 1)
                + _handle()
                + write_attribute(_PORT, _WORD.pack(0))
                + write_attribute(_TYPE, _SHORT.pack(_ETHERNET))
                + write_attribute(_IFINDEX, _WORD.pack(link.ifindex))
                + write_text(_NETDEV, link.name)
            )


def _handle() -> bytes:
    return write_text(_BUS, BUS) + write_text(_DEVICE, DEVICE)


def _check_handle(request: Request) -> dict[int, bytes]:
    """Return what is said of the one device there is. Raises Refusal."""
    told = read_attributes(request.body[_HEADER.size :], _LENGTHS)
    if _BUS not in told or _DEVICE not in told:
        raise Refusal(errno.EINVAL)
    if (read_text(told[_BUS]), read_text(told[_DEVICE])) != (BUS, DEVICE):
        raise Refusal(errno.ENODEV)
    return told
