"""A client of an emulated card's rtnetlink that sends bytes and hands back what came."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.unit.rtnl_by_hand import DONE, ERROR, GETTFILTER, Answer, Shown, answers, dump, shown

TIMEOUT_S = 10.0


class Client:
    """One connection."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(TIMEOUT_S)
        try:
            self.socket.connect(str(path))
        except OSError:
            self.socket.close()
            raise

    def send(self, *messages: bytes) -> None:
        self.socket.send(b"".join(each + bytes(-len(each) % 4) for each in messages))

    def receive(self) -> list[Answer]:
        return list(answers([self.socket.recv(1 << 16)]))

    def ask(self, message: bytes) -> Answer:
        """Return the one answer to a request."""
        self.send(message)
        (answer,) = self.receive()
        return answer

    def do(self, *messages: bytes) -> None:
        """Have changes made, each of which must succeed."""
        for each in messages:
            answer = self.ask(each)
            assert (answer.kind, answer.error) == (ERROR, 0), answer.words

    def dump(self, message: bytes) -> list[Answer]:
        self.send(message)
        found: list[Answer] = []
        while not found or found[-1].kind != DONE:
            found += self.receive()
        return found[:-1]

    def filters(self, ifindex: int) -> list[Shown]:
        """Return the filters at a netdev, without what stands before those of a pref."""
        found = map(shown, self.dump(dump(GETTFILTER, ifindex)))
        return [each for each in found if each.handle]


@contextmanager
def client(path: Path) -> Iterator[Client]:
    made = Client(path)
    try:
        yield made
    finally:
        made.socket.close()
