"""A NETLINK_ROUTE socket and the bytes on it, all in host byte order (linux/netlink.h)."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from types import TracebackType
from typing import Self

from dataplane.core.errors import TargetError

# linux/netlink.h
NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_DUMP = 0x300
_NLM_F_CAPPED = 0x100
_NLM_F_ACK_TLVS = 0x200
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLMSGERR_ATTR_MSG = 1
_NLA_F_NESTED = 0x8000
_NLA_TYPE_MASK = 0x3FFF
_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_NETLINK_GET_STRICT_CHK = 12

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port id
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: length, type
_ERRNO = struct.Struct("=i")
_U32 = struct.Struct("=I")
_DATAGRAM_BYTES = 1 << 16  # twice the largest dump datagram (net/netlink/af_netlink.c)
_DUMP_TRIES = 8

Attributes = dict[int, bytes]


class KernelError(TargetError):
    """The kernel refused a request; ``errno`` is its number, the text holds its own words."""

    def __init__(self, doing: str, number: int, hint: str = "") -> None:
        """Make the sentence from what was tried, the error number and the extended ack."""
        super().__init__(f"{doing}: {os.strerror(number)}" + (f" ({hint})" if hint else ""))
        self.errno = number


@dataclass(frozen=True, slots=True)
class Message:
    """One rtnetlink message: ``kind`` is RTM_..., ``body`` what follows the netlink header."""

    kind: int
    body: bytes
    flags: int = 0
    sequence: int = 0


def attribute(kind: int, payload: bytes) -> bytes:
    """Return one attribute, padded to four bytes."""
    length = _ATTRIBUTE.size + len(payload)
    return _ATTRIBUTE.pack(length, kind) + payload + bytes(_aligned(length) - length)


def text(kind: int, value: str) -> bytes:
    """Return a NUL-terminated string attribute."""
    return attribute(kind, value.encode() + b"\0")


def u32(kind: int, value: int) -> bytes:
    """Return an unsigned 32-bit attribute in host byte order."""
    return attribute(kind, _U32.pack(value))


def nested(kind: int, *attributes: bytes) -> bytes:
    """Return an attribute that holds ``attributes``."""
    return attribute(kind | _NLA_F_NESTED, b"".join(attributes))


def parse_attributes(data: bytes, start: int = 0) -> Attributes:
    """Return the attributes of ``data`` from ``start`` on, by type; the last of a type wins."""
    found: Attributes = {}
    end = len(data)
    while start + _ATTRIBUTE.size <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, start)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _NLA_TYPE_MASK] = data[start + _ATTRIBUTE.size : start + length]
        start += _aligned(length)
    return found


def read_u32(payload: bytes) -> int:
    """Return the unsigned 32-bit number that an attribute holds."""
    value: int = _U32.unpack_from(payload)[0]
    return value


def read_text(payload: bytes) -> str:
    """Return the string that an attribute holds, without its NUL."""
    return payload.split(b"\0", 1)[0].decode(errors="replace")


def parse_messages(datagram: bytes) -> Iterator[Message]:
    """Yield the messages of one datagram."""
    start = 0
    while start + _HEADER.size <= len(datagram):
        length, kind, flags, sequence, _port = _HEADER.unpack_from(datagram, start)
        if length < _HEADER.size:
            break
        yield Message(kind, datagram[start + _HEADER.size : start + length], flags, sequence)
        start += _aligned(length)


class Rtnl:
    """A socket in the network namespace of the thread that makes it, wherever it is used later.

    One thread at a time: opening another one costs about 20 microseconds.
    """

    def __init__(self) -> None:
        """Open the socket, with the kernel's own words in errors and filters kept to the letter."""
        self._sequence = count(1)
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the socket."""
        self._socket.close()

    def change(self, message: Message, doing: str) -> None:
        """Make one change and wait for it. Raises KernelError, which begins with ``doing``."""
        for _ in self._exchange(message, NLM_F_ACK, doing):
            pass

    def get(self, message: Message, doing: str) -> Message:
        """Return the one thing that ``message`` asks for. Raises KernelError."""
        replies = list(self._exchange(message, NLM_F_ACK, doing))
        return replies[0]

    def dump(self, message: Message, doing: str) -> list[Message]:
        """Return everything that ``message`` asks for, as one consistent view.

        Raises KernelError, with EINTR where what is listed changed during every try.
        """
        for _ in range(_DUMP_TRIES):
            replies = list(self._exchange(message, NLM_F_DUMP, doing))
            if not any(reply.flags & NLM_F_DUMP_INTR for reply in replies):
                return replies
        raise KernelError(doing, errno.EINTR, "it changed while it was listed; try again")

    def _exchange(self, message: Message, flags: int, doing: str) -> Iterator[Message]:
        sequence = next(self._sequence)
        flags |= NLM_F_REQUEST | message.flags
        length = _HEADER.size + len(message.body)
        header = _HEADER.pack(length, message.kind, flags, sequence, 0)
        self._socket.send(header + message.body)
        while True:
            for reply in parse_messages(self._socket.recv(_DATAGRAM_BYTES)):
                if reply.sequence != sequence:
                    continue  # the rest of an answer whose asker was interrupted
                if reply.kind in (_NLMSG_ERROR, _NLMSG_DONE):
                    _raise_error(reply, doing)
                    return
                yield reply


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _raise_error(reply: Message, doing: str) -> None:
    if len(reply.body) < _ERRNO.size:
        return
    number = -_ERRNO.unpack_from(reply.body)[0]
    if number > 0:
        raise KernelError(doing, number, _extended_ack(reply))


def _extended_ack(reply: Message) -> str:
    """Return the kernel's own sentence, where it gave one (struct nlmsgerr, NLMSGERR_ATTR_MSG)."""
    if not reply.flags & _NLM_F_ACK_TLVS:
        return ""
    start = _ERRNO.size
    if reply.kind == _NLMSG_ERROR:
        # With NETLINK_CAP_ACK only the header of our request comes back, else the whole of it.
        capped = bool(reply.flags & _NLM_F_CAPPED)
        start += _HEADER.size if capped else _aligned(_U32.unpack_from(reply.body, start)[0])
    return read_text(parse_attributes(reply.body, start).get(_NLMSGERR_ATTR_MSG, b""))
