"""Frames made by hand, sent from where one likes, and who hears each."""

from __future__ import annotations

import secrets
import select
import socket
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Self

from scapy.packet import Packet, Raw

from dataplane.lab.probes import Station

QUIET_S = 1.0  # how long is listened after the last frame was sent
_ALL = socket.htons(3)  # ETH_P_ALL of include/uapi/linux/if_ether.h


class Ears:
    """Hears every frame that comes to several stations, from when it is made; a context manager."""

    def __init__(self, stations: Iterable[Station]) -> None:
        self._sockets = {raw(station): station.name for station in stations}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for ear in self._sockets:
            ear.close()

    def listen(self, seconds: float = QUIET_S) -> Iterator[tuple[str, bytes]]:
        """Yield who heard what until ``seconds`` have passed."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            for ear in select.select(list(self._sockets), [], [], left)[0]:
                data, where = ear.recvfrom(65535)
                if where[2] != socket.PACKET_OUTGOING:
                    yield self._sockets[ear], data


def behind(frame: Packet, token: bytes) -> bytes:
    """Put ``token`` behind the frame's end, where no protocol looks; a tunnel's end drops it."""
    return bytes(frame) + token


def inside(frame: Packet, token: bytes) -> bytes:
    """Make ``token`` the innermost payload."""
    return bytes(frame / Raw(token))


def deliver(
    sender: Station,
    frames: Mapping[str, Packet],
    listeners: Iterable[Station],
    mark: Callable[[Packet, bytes], bytes] = behind,
) -> Mapping[str, Counter[str]]:
    """Send every frame once; return how often each listener heard it, by the frame's name."""
    tokens = {name: secrets.token_bytes(16) for name in frames}
    marked = [mark(frame, tokens[name]) for name, frame in frames.items()]
    heard: defaultdict[str, Counter[str]] = defaultdict(Counter)
    with Ears(listeners) as ears:
        with raw(sender) as out:
            out.bind((sender.ifname, 0))
            for frame in marked:
                out.send(frame)
        for listener, data in ears.listen():
            for name, token in tokens.items():
                heard[name][listener] += token in data
    return {name: +heard[name] for name in frames}


def raw(station: Station) -> socket.socket:
    """Return a socket that sees every frame of a station and sends any."""
    return station.socket(socket.AF_PACKET, socket.SOCK_RAW, _ALL)
