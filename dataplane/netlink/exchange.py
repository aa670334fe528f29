"""Netlink messages over a socket that is handed in: the kernel's, or one with the same messages.

One packet of it is what one send(2) or recv(2) of a netlink socket carries: whole messages, each
with its header (linux/netlink.h). So whoever has such a socket can stand in the kernel's place.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

from dataplane.netlink.messages import nested, text
from dataplane.netlink.rtnl import DATAGRAM_BYTES, KernelError

Open = Callable[[], socket.socket]
"""Open a socket that takes and gives packets of netlink messages. Raises OSError."""

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_ERROR_NUMBER = struct.Struct("=i")  # begins struct nlmsgerr, and what ends a list
_REQUEST, _MULTI, _ACK, _INTERRUPTED, _DUMP = 0x1, 0x2, 0x4, 0x10, 0x300  # NLM_F_...
_CAPPED, _TLVS = 0x100, 0x200  # NLM_F_... of an NLMSG_ERROR
_ERROR, _DONE = 2, 3  # NLMSG_...
_WORDS = 1  # NLMSGERR_ATTR_MSG
GENERIC = 16  # linux/netlink.h, NETLINK_GENERIC
_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _STRICT = 270, 10, 11, 12  # linux/socket.h, NETLINK_...
# A refusal takes about a kilobyte of the receive buffer: all that a batch may cause fit.
_BATCH, _BATCH_BYTES = 64, 1 << 16
_DUMP_TRIES = 8
_CONNECT_S = 1.0


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for: RTM_... ``kind``, NLM_F_... ``flags``, and all behind the header.

    Of generic netlink ``kind`` is the number of the family.
    """

    kind: int
    body: bytes
    flags: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request was refused: the error number, and the answerer's own words if it has any."""

    errno: int
    words: str = ""

    def __str__(self) -> str:
        """Return it as a KernelError says it."""
        return os.strerror(self.errno) + (f" ({self.words})" if self.words else "")


@dataclass(frozen=True, slots=True)
class _Message:
    kind: int
    flags: int
    sequence: int
    body: bytes


def kernel_socket(protocol: int = socket.NETLINK_ROUTE) -> socket.socket:
    """Open the kernel's rtnetlink, or another netlink, in the calling thread's namespace."""
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    for option in (_CAP_ACK, _EXT_ACK, _STRICT):
        opened.setsockopt(_SOL_NETLINK, option, 1)
    return opened


def unix_socket(path: Path) -> Open:
    """Return what connects to the SOCK_SEQPACKET socket at ``path``, or raises KernelError."""

    def connected() -> socket.socket:
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        opened.settimeout(_CONNECT_S)  # who does not accept has a queue that may be full
        try:
            with _kernel_errors(f"connect to {path}"):
                opened.connect(str(path))
        except KernelError:
            opened.close()
            raise
        return opened

    return connected


class Exchange:
    """Requests and their answers over a socket of its own, which ``with`` closes; for one thread.

    What is not answered within ``answer_s``, or not all within ``whole_s``, is a KernelError with
    ETIMEDOUT.
    """

    def __init__(self, opens: Open, answer_s: float, whole_s: float) -> None:
        """Open the socket. Raises KernelError."""
        self._sequence = count(1)
        self._answer_s = answer_s
        self._until = time.monotonic() + whole_s
        with _kernel_errors("open the netlink socket"):
            self._socket = opens()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def change(self, requests: Sequence[Request], what: str) -> list[Refusal | None]:
        """Ask for changes in order, and return why each was refused; None: it was made.

        A refusal ends nothing: what follows is tried. Many go in one packet, and of a packet the
        last alone is acknowledged. Raises KernelError, which begins with ``what``, if nobody
        answers: then it is not known how much was done.
        """
        answers: list[Refusal | None] = []
        with _kernel_errors(what):
            for batch in _batches(requests):
                answers += self._changed(batch)
        return answers

    def ask(self, request: Request, what: str) -> bytes:
        """Return the body of the one message that ``request`` asks for.

        Raises KernelError, which begins with ``what``.
        """
        with _kernel_errors(what):
            sequence = next(self._sequence)
            self._send([_packed(request, _REQUEST, sequence)])
            answers: list[_Message] = []
            while not answers:
                answers += (each for each in self._received() if each.sequence == sequence)
            refusal = _refusal(answers[0]) if answers[0].kind == _ERROR else None
        if refusal is not None:
            raise KernelError(what, refusal.errno, refusal.words)
        return answers[0].body

    def dump(self, request: Request, what: str) -> list[bytes]:
        """Return the bodies of all that ``request`` asks for, as one consistent view.

        Raises KernelError, which begins with ``what``, with EINTR where it changed all the while.
        """
        for _ in range(_DUMP_TRIES):
            with _kernel_errors(what):
                answers = self._listed(request)
                refusal = _refusal(answers.pop())
            if refusal is not None:
                raise KernelError(what, refusal.errno, refusal.words)
            if not any(each.flags & _INTERRUPTED for each in answers):
                return [each.body for each in answers]
        raise KernelError(what, errno.EINTR, "it changed while it was listed; try again")

    def _changed(self, batch: Sequence[Request]) -> list[Refusal | None]:
        numbers = [next(self._sequence) for _ in batch]
        last = numbers[-1]
        self._send(
            _packed(each, _REQUEST | (_ACK if number == last else 0), number)
            for each, number in zip(batch, numbers, strict=True)
        )
        refused: dict[int, Refusal | None] = {}
        while last not in refused:
            for message in self._received():
                if message.kind == _ERROR:
                    refused[message.sequence] = _refusal(message)
        return [refused.get(number) for number in numbers]

    def _listed(self, request: Request) -> list[_Message]:
        """Return what is listed, and the message that ends it."""
        sequence = next(self._sequence)
        self._send([_packed(request, _REQUEST | _DUMP, sequence)])
        answers: list[_Message] = []
        while not answers or answers[-1].kind not in (_ERROR, _DONE):
            answers += (each for each in self._received() if each.sequence == sequence)
        return answers

    def _send(self, messages: Iterable[bytes]) -> None:
        self._be_patient()
        self._socket.send(b"".join(messages))

    def _be_patient(self) -> None:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(min(left, self._answer_s))

    def _received(self) -> Iterator[_Message]:
        self._be_patient()
        packet = self._socket.recv(DATAGRAM_BYTES)
        if not packet:
            raise ConnectionResetError(errno.ECONNRESET, "the other end has closed")
        offset = 0
        while offset < len(packet):
            head = packet[offset : offset + _HEADER.size].ljust(_HEADER.size, b"\0")
            length, kind, flags, sequence, _ = _HEADER.unpack(head)
            if not _HEADER.size <= length <= len(packet) - offset:
                raise OSError(errno.EBADMSG, "a message is cut short")
            yield _Message(kind, flags, sequence, packet[offset + _HEADER.size : offset + length])
            offset += (length + 3) & ~3


@contextmanager
def _kernel_errors(what: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise KernelError(what, errno.ETIMEDOUT) from None
    except OSError as error:
        raise KernelError(what, error.errno or 0) from None


def _packed(request: Request, flags: int, sequence: int) -> bytes:
    length = _HEADER.size + len(request.body)
    head = _HEADER.pack(length, request.kind, request.flags | flags, sequence, 0)
    return head + request.body + bytes(-length % 4)


def _batches(requests: Sequence[Request]) -> Iterator[Sequence[Request]]:
    start = size = 0
    for at, request in enumerate(requests):
        more = _HEADER.size + len(request.body)
        if at > start and (at - start == _BATCH or size + more > _BATCH_BYTES):
            yield requests[start:at]
            start, size = at, 0
        size += more
    if requests:
        yield requests[start:]


def _refusal(message: _Message) -> Refusal | None:
    """Return what an NLMSG_ERROR, or the NLMSG_DONE of a list, refuses."""
    body = message.body
    if len(body) < _ERROR_NUMBER.size:
        raise OSError(errno.EBADMSG, "an answer without a number")
    (number,) = _ERROR_NUMBER.unpack_from(body)
    if number == 0:
        return None
    start = _ERROR_NUMBER.size
    if message.kind == _ERROR:  # what was refused stands first, whole unless it was capped
        (length,) = struct.unpack_from("=I", body.ljust(start + 4, b"\0"), start)
        start += _HEADER.size if message.flags & _CAPPED else (length + 3) & ~3
    words = nested(body[start:], _WORDS) if message.flags & _TLVS else b""
    return Refusal(-number, text(words))
