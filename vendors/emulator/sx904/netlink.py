"""Netlink messages and attributes, read as the kernel reads them and written as it writes. Pure.

linux/netlink.h, net/netlink/af_netlink.c, lib/nlattr.c. In the byte order of this machine.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

ERROR, DONE = 2, 3
FIRST_KIND = 0x10  # below are control messages
REQUEST, MULTI, ACK = 0x1, 0x2, 0x4
DUMP = 0x300  # NLM_F_ROOT, NLM_F_MATCH: one of them is enough
REPLACE, EXCL, CREATE = 0x100, 0x200, 0x400
CAPPED, ACK_TLVS = 0x100, 0x200
FLAG = -1  # a length: the attribute has no value
PART_BYTES = 1 << 15

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ERRNO = struct.Struct("=i")
_MESSAGE = 1  # NLMSGERR_ATTR_MSG
_KIND = 0x3FFF  # without NLA_F_NESTED, NLA_F_NET_BYTEORDER
_POLICY = "Attribute failed policy validation"

Lengths = Mapping[int, int]
"""The least length of attributes by number, FLAG: none; others may have any."""


class Refusal(Exception):  # noqa: N818  # what a kernel answers with is no error of its own
    """A request that is refused: an error number, and the kernel's or the driver's words."""

    def __init__(self, number: int, words: str = "") -> None:
        """Keep both; ``number`` is positive."""
        super().__init__(words or os.strerror(number))
        self.number = number
        self.words = words


@dataclass(frozen=True, slots=True)
class Request:
    """A message that was sent to us; ``whole`` is it with its header."""

    kind: int
    flags: int
    sequence: int
    body: bytes
    whole: bytes


def read_requests(packet: bytes) -> Iterator[Request]:
    """Yield the messages in a packet; behind one whose length is wrong there are none."""
    while len(packet) >= _HEADER.size:
        size, kind, flags, sequence, _ = _HEADER.unpack_from(packet)
        if not _HEADER.size <= size <= len(packet):
            return
        yield Request(kind, flags, sequence, packet[_HEADER.size : size], packet[:size])
        packet = packet[_aligned(size) :]


def write_message(kind: int, flags: int, ends: tuple[int, int], body: bytes) -> bytes:
    """Return a message; ``ends`` are its sequence number and port id."""
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, *ends) + _padded(body)


def write_answer(request: Request, port: int, refusal: Refusal | None, words: str = "") -> bytes:
    """Return the NLMSG_ERROR that answers ``request``: a refusal, or 0 with a warning or none."""
    words = words if refusal is None else refusal.words
    flags = CAPPED if refusal is None else 0
    quoted = request.whole if refusal is not None else request.whole[: _HEADER.size]
    body = _ERRNO.pack(-refusal.number if refusal is not None else 0) + quoted
    if words:
        flags |= ACK_TLVS
        body = _padded(body) + write_attribute(_MESSAGE, words.encode() + b"\0")
    return write_message(ERROR, flags, (request.sequence, port), body)


def write_dump(request: Request, port: int, parts: Iterable[tuple[int, bytes]]) -> Iterator[bytes]:
    """Yield the packets of a dump: messages by kind and body, in order, and NLMSG_DONE."""
    ends = (request.sequence, port)
    packet = b""
    for kind, body in parts:
        message = write_message(kind, MULTI, ends, body)
        if packet and len(packet) + len(message) > PART_BYTES:
            yield packet
            packet = b""
        packet += message
    yield packet + write_message(DONE, MULTI, ends, _ERRNO.pack(0))


def read_attributes(data: bytes, lengths: Lengths, words: str = _POLICY) -> dict[int, bytes]:
    """Return attributes by number, the last of each; what is behind a broken one is passed over.

    Raises Refusal (ERANGE) with ``words`` for one that is shorter than it must be.
    """
    found: dict[int, bytes] = {}
    while len(data) >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(data)
        if not _ATTRIBUTE.size <= size <= len(data):
            break
        found[kind & _KIND] = data[_ATTRIBUTE.size : size]
        data = data[_aligned(size) :]
    for kind, value in found.items():
        least = lengths.get(kind, 0)
        if len(value) < least or (least == FLAG and value):
            raise Refusal(errno.ERANGE, words)
    return found


def write_attribute(kind: int, value: bytes) -> bytes:
    """Return an attribute, padded."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + _padded(value)


def write_text(kind: int, text: str) -> bytes:
    """Return an attribute of text, with the zero at its end."""
    return write_attribute(kind, text.encode() + b"\0")


def read_text(value: bytes) -> str:
    """Return the text in an attribute, up to its first zero."""
    return value.split(b"\0", 1)[0].decode(errors="replace")


def _aligned(size: int) -> int:
    return size + -size % 4


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
