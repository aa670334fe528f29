"""Netlink over a unix socket: what is sent to it is done, and answered as the kernel does.

net/core/rtnetlink.c, net/netlink/af_netlink.c. One connection is one netlink socket.
"""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from dataplane.unix_socket import remove_stale
from vendors.emulator.sx904.links import Links, find_link, write_link
from vendors.emulator.sx904.netlink import (
    ACK,
    DUMP,
    FIRST_KIND,
    REQUEST,
    Refusal,
    Request,
    read_requests,
    write_answer,
    write_dump,
    write_message,
)
from vendors.emulator.sx904.tc import Tc, read_asked
from vendors.emulator.trouble import GARBAGE, Trouble

NEWLINK, GETLINK = 16, 18  # linux/rtnetlink.h
NEWQDISC, DELQDISC, GETQDISC = 36, 37, 38
NEWTFILTER, DELTFILTER, GETTFILTER = 44, 45, 46
_LATE = frozenset({NEWTFILTER, DELTFILTER})
_GET = 2  # of each four kinds the third
_LARGEST = 1 << 20
_ACCEPT_S = 0.2


@dataclass(frozen=True, slots=True)
class Card:
    """What is asked: the netdevs and the filters at them; ``turn`` is held while it is."""

    links: Links
    tc: Tc
    turn: threading.RLock


def answer(card: Card, packet: bytes, port: int) -> Iterator[bytes]:
    """Yield the packets that answer one packet; ``port`` is the asker's port id."""
    for request in read_requests(packet):
        refusal: Refusal | None = None
        words, made = "", list[bytes]()
        if request.flags & REQUEST and request.kind >= FIRST_KIND:
            try:
                with card.turn:
                    words, made = _do(card, request, port)
            except Refusal as refused:
                refusal = refused
        yield from made
        if refusal is not None or (request.flags & ACK and not _is_dump(request)):
            yield write_answer(request, port, refusal, words)


def _is_dump(request: Request) -> bool:
    return request.kind % 4 == _GET and bool(request.flags & DUMP)


def _do(card: Card, request: Request, port: int) -> tuple[str, list[bytes]]:
    """Do one request, and return a warning and what comes before its ack. Raises Refusal."""
    if not request.body:
        return "", []  # too short for any family: passed over
    if _is_dump(request):
        dump = _DUMPS.get(request.kind)
        if dump is None:
            raise Refusal(errno.EOPNOTSUPP)
        return "", list(write_dump(request, port, dump(card, request)))
    change, get = _CHANGES.get(request.kind), _GETS.get(request.kind)
    if change is not None:
        return change(card, request), []
    if get is None:
        raise Refusal(errno.EOPNOTSUPP)
    kind, body = get(card, request)
    return "", [write_message(kind, 0, (request.sequence, port), body)]


def _add_qdisc(card: Card, request: Request) -> str:
    card.tc.add_qdisc(read_asked(request))
    return ""


def _delete_qdisc(card: Card, request: Request) -> str:
    card.tc.delete_qdisc(read_asked(request))
    return ""


def _add_filter(card: Card, request: Request) -> str:
    return card.tc.add_filter(read_asked(request))


def _delete_filters(card: Card, request: Request) -> str:
    card.tc.delete_filters(read_asked(request))
    return ""


def _dump_filters(card: Card, request: Request) -> Iterator[tuple[int, bytes]]:
    return ((NEWTFILTER, body) for body in card.tc.filters(read_asked(request)))


_CHANGES: Mapping[int, Callable[[Card, Request], str]] = {
    NEWQDISC: _add_qdisc,
    DELQDISC: _delete_qdisc,
    NEWTFILTER: _add_filter,
    DELTFILTER: _delete_filters,
}
_GETS: Mapping[int, Callable[[Card, Request], tuple[int, bytes]]] = {
    GETLINK: lambda card, request: (NEWLINK, write_link(find_link(card.links, request.body))),
    GETTFILTER: lambda card, request: (NEWTFILTER, card.tc.filter(read_asked(request))),
}
_DUMPS: Mapping[int, Callable[[Card, Request], Iterator[tuple[int, bytes]]]] = {
    GETLINK: lambda card, _: ((NEWLINK, write_link(link)) for link in card.links),
    GETQDISC: lambda card, _: ((NEWQDISC, body) for body in card.tc.qdiscs()),
    GETTFILTER: _dump_filters,
}


Answer = Callable[[bytes, int], Iterator[bytes]]
"""Returns the packets that answer one packet of the asker with a port id."""


class Server:
    """Listens at ``path``; a thread for each connection."""

    def __init__(self, path: Path, answers: Answer, trouble: Trouble) -> None:
        """Serve nobody yet."""
        self._path = path
        self._answers = answers
        self._trouble = trouble
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._open: dict[int, socket.socket] = {}
        self._ports = count(1)
        self._awake = threading.Event()
        self._awake.set()

    @property
    def is_up(self) -> bool:
        """True if it serves."""
        return self._listener is not None

    def start(self) -> None:
        """Begin to serve. Raises OverweaveError if the path is taken."""
        remove_stale(self._path, "the netlink socket", socket.SOCK_SEQPACKET)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(str(self._path))
        listener.listen()
        listener.settimeout(_ACCEPT_S)
        self._listener = listener
        self._thread = threading.Thread(target=self._run, args=(listener,), name=self._path.name)
        self._thread.start()

    def stop(self) -> None:
        """End every connection, and take no more."""
        listener, self._listener = self._listener, None
        if listener is None or self._thread is None:
            return
        self._awake.set()
        self._thread.join()
        listener.close()
        self._path.unlink(missing_ok=True)
        for each in tuple(self._open.values()):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def hang(self) -> None:
        """Answer nothing more, until ``wake``."""
        self._awake.clear()

    def wake(self) -> None:
        """Answer what has been asked since."""
        self._awake.set()

    def _run(self, listener: socket.socket) -> None:
        while self._listener is listener:
            with suppress(TimeoutError):
                near, _ = listener.accept()
                port = next(self._ports)
                self._open[port] = near
                threading.Thread(target=self._serve, args=(near, port), daemon=True).start()

    def _serve(self, near: socket.socket, port: int) -> None:
        near.settimeout(None)
        with near, suppress(OSError):
            while packet := near.recv(_LARGEST):
                self._awake.wait()
                if self._trouble.garbage:
                    near.send(GARBAGE)
                    continue
                if any(request.kind in _LATE for request in read_requests(packet)):
                    time.sleep(self._trouble.delay_s)
                for part in self._answers(packet, port):
                    near.send(part)
        self._open.pop(port, None)
