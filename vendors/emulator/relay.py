"""Cables: frames go between the TAPs outside and the ports of the switch.

A port is a socket where the switch has netdevs of its own, else whatever takes frames in.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol, TypeGuard

import structlog

from dataplane.core.errors import OverweaveError
from vendors.emulator.settings import PortConfig
from vendors.emulator.taps import open_tap

_ETH_P_ALL = 3
_PACKET_OUTGOING = 4  # linux/if_packet.h: what we, or others, send into the port
_SOL_PACKET, _PACKET_AUXDATA = 263, 8
_AUXDATA = struct.Struct("=IIIHHHH")  # struct tpacket_auxdata
_VLAN_VALID, _TPID_VALID = 0x10, 0x40
_ETH_P_8021Q = 0x8100
_SO_RCVBUFFORCE = 33
_BUFFER = 8 << 20  # bytes: a burst of a TCP window
_LARGEST = 1 << 16
_BURST = 64  # frames of one cable before the next one's turn
_POLL_S = 0.1  # a TAP that died is made again within this

log = structlog.get_logger()


def open_port(name: str) -> socket.socket:
    """Return a socket on port ``name`` of a bridge, in the namespace of the calling thread."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    made.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
    made.settimeout(0)
    made.bind((name, 0))
    return made


def receive(port: socket.socket) -> bytes | None:
    """Return a frame as it came out of a port of ``open_port``; None: one that was sent into it.

    Raises BlockingIOError: there is none.
    """
    room = socket.CMSG_SPACE(_AUXDATA.size)
    data, ancillary, _, address = port.recvmsg(_LARGEST, room)
    return None if address[2] == _PACKET_OUTGOING else _tagged(data, ancillary)


class Inside(Protocol):
    """The switch's end of a cable; only of a socket, frames come out by themselves."""

    def send(self, frame: bytes, /) -> object:
        """Take a frame in. Raises OSError."""
        ...

    def close(self) -> None:
        """Take nothing in any more."""
        ...


@dataclass(slots=True)
class Entrance:
    """The switch's end of a cable where ports are calls."""

    take_in: Callable[[bytes], None]
    is_closed: bool = False

    def send(self, frame: bytes, /) -> None:
        """Take a frame in. Raises OSError: the port is gone."""
        if self.is_closed:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        self.take_in(frame)

    def close(self) -> None:
        """Take nothing in any more."""
        self.is_closed = True


@dataclass(slots=True)
class _Cable:
    ends: PortConfig
    inside: Inside
    outside: int | None = None  # a descriptor of the TAP, None: it died


class Relay:
    """Carries frames until ``stop``; ``catch`` diverts those that carry a mark."""

    def __init__(self) -> None:
        """Carry nothing yet."""
        self._cables: dict[str, _Cable] = {}
        self._caught: dict[bytes, defaultdict[str, list[bytes]]] = {}
        self._stopping = threading.Event()
        self._lock = threading.RLock()  # what a frame brings about comes out in the same turn
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

    def plug(self, ends: PortConfig, inside: Inside) -> None:
        """Join a TAP and a port of the switch; of a port that is plugged, the TAP stays."""
        with self._lock:
            cable = self._cables.get(ends.port)
            if cable is None:
                self._cables[ends.port] = _Cable(ends, inside, open_tap(ends.netdev, ends.netns))
            else:
                cable.inside.close()
                cable.inside = inside

    def unplug(self, port: str) -> None:
        """Take the switch's end of a cable away; its TAP stays, and nobody listens there."""
        with self._lock:
            cable = self._cables.get(port)
            if cable is not None:
                cable.inside.close()

    def start(self) -> None:
        """Begin to carry."""
        self._thread.start()

    def stop(self) -> None:
        """Carry no more; the TAPs stay."""
        self._stopping.set()
        self._thread.join()
        for cable in self._cables.values():
            cable.inside.close()
            if cable.outside is not None:
                os.close(cable.outside)

    def send(self, port: str, frame: bytes) -> None:
        """Let ``frame`` come in at ``port``, as if by its cable. Raises OverweaveError."""
        with self._lock:
            cable = self._cables.get(port)
            if cable is None:
                known = ", ".join(sorted(self._cables))
                raise OverweaveError(f"there is no port {port!r}; there are {known}")
            try:
                cable.inside.send(frame)
            except OSError as error:
                raise OverweaveError(f"port {port}: {error.strerror}") from error

    def emit(self, port: str, frame: bytes) -> None:
        """Let ``frame`` come out at ``port``, for a switch whose ports are no sockets."""
        with self._lock:
            cable = self._cables.get(port)
            if cable is not None:
                self._outward(cable, frame)

    @contextmanager
    def catch(self, mark: bytes) -> Iterator[defaultdict[str, list[bytes]]]:
        """Divert frames that contain ``mark``: where the bridge would have sent them, by port."""
        caught = self._caught[mark] = defaultdict(list)
        try:
            yield caught
        finally:
            del self._caught[mark]

    def _run(self) -> None:
        while not self._stopping.is_set():
            with self._lock:
                readers = {end: cable for cable in self._cables.values() for end in _ends(cable)}
            poll = select.poll()
            for descriptor in readers:
                poll.register(descriptor, select.POLLIN)
            until = time.monotonic() + _POLL_S
            while not self._stopping.is_set() and time.monotonic() < until:
                for descriptor, _ in poll.poll(_POLL_S * 1000):
                    with self._lock:
                        self._carry(readers[descriptor], descriptor)
            self._revive()

    def _carry(self, cable: _Cable, descriptor: int) -> None:
        for _ in range(_BURST):
            try:
                if descriptor == cable.outside:
                    frame = os.read(descriptor, _LARGEST)
                    with suppress(OSError):  # what cannot be taken in is dropped, as by a NIC
                        cable.inside.send(frame)
                elif _comes_from(cable.inside, descriptor):
                    self._outward(cable, receive(cable.inside))
                else:
                    return
            except OSError as error:  # BlockingIOError too: there is no more
                if error.errno == errno.EBADFD and descriptor == cable.outside:
                    _lose(cable)
                return

    def _outward(self, cable: _Cable, frame: bytes | None) -> None:
        """Carry a frame that came out of the bridge; a TAP that is down drops it."""
        if frame is None or cable.outside is None or self._divert(cable.ends.port, frame):
            return
        try:
            os.write(cable.outside, frame)
        except OSError as error:
            if error.errno == errno.EBADFD:
                _lose(cable)

    def _divert(self, port: str, frame: bytes) -> bool:
        for mark, caught in tuple(self._caught.items()):
            if mark in frame:
                caught[port].append(frame)
                return True
        return False

    def _revive(self) -> None:
        """Make the TAPs again that died, with the namespace they were in."""
        with self._lock:
            for cable in self._cables.values():
                if cable.outside is None:
                    with suppress(OverweaveError):  # tried again in a moment
                        cable.outside = open_tap(cable.ends.netdev, cable.ends.netns)
                        log.info("vf.returned", netdev=cable.ends.netdev)


def _lose(cable: _Cable) -> None:
    """Let go of a TAP that died: EBADFD is the kernel's word for one without netdev (tun.c)."""
    if cable.outside is not None:
        os.close(cable.outside)
        cable.outside = None


def _comes_from(inside: Inside, descriptor: int) -> TypeGuard[socket.socket]:
    return isinstance(inside, socket.socket) and inside.fileno() == descriptor


def _ends(cable: _Cable) -> Iterator[int]:
    if cable.outside is not None:
        yield cable.outside
    if isinstance(cable.inside, socket.socket) and cable.inside.fileno() >= 0:
        yield cable.inside.fileno()


def _tagged(frame: bytes, ancillary: list[tuple[int, int, bytes]]) -> bytes:
    """Return ``frame`` with the VLAN tag that the kernel took off it (packet(7))."""
    for level, kind, data in ancillary:
        if (level, kind) == (_SOL_PACKET, _PACKET_AUXDATA) and len(data) >= _AUXDATA.size:
            status, _, _, _, _, tci, tpid = _AUXDATA.unpack_from(data)
            if status & _VLAN_VALID:
                protocol = tpid if status & _TPID_VALID else _ETH_P_8021Q
                return frame[:12] + struct.pack("!HH", protocol, tci) + frame[12:]
    return frame
