"""Frames of netdevs as they are received and sent: packet(7) sockets, which see them before tc."""

from __future__ import annotations

import re
import selectors
import socket
import struct
import threading
import time
from collections.abc import Collection, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Self, TypeVar

from dataplane.core.errors import OverweaveError

_ETH_P_ALL = 3  # linux/if_ether.h
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h
_SOL_PACKET = 263  # linux/socket.h
_PACKET_STATISTICS, _PACKET_AUXDATA = 6, 8  # linux/if_packet.h
_STATISTICS = struct.Struct("II")  # struct tpacket_stats: frames, and those dropped
_AUXDATA = struct.Struct("IIIHHHH")  # struct tpacket_auxdata
_TOLD = socket.CMSG_SPACE(_AUXDATA.size)
_VLAN_VALID = 0x10  # TP_STATUS_VLAN_VALID
_BUFFER, _LARGEST = 1 << 22, 65535
_NONE = b"(?!)"
_MOST_HEARD = 4096  # frames of one Taps: many times those that are sent at once
_LOOK_S = 0.02
_DRAIN_S = 1.0


_Name = TypeVar("_Name", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Heard(Generic[_Name]):
    """A frame with ``mark`` in it that ``tap`` has received, or, if it is ``sent``, sent."""

    tap: _Name
    mark: bytes
    frame: bytes
    sent: bool


class Taps(Generic[_Name]):
    """Hears the frames with one of ``marks`` in them, of each netdev from when it is added.

    A context manager: in the end nothing is left of it. Netdevs may be in different namespaces.
    """

    def __init__(self, marks: Collection[bytes]) -> None:
        """Hear nothing yet; marks are of equal rank and no part of each other, nor empty."""
        self._marks = re.compile(b"|".join(map(re.escape, marks)) or _NONE, re.DOTALL)
        self._sockets: dict[_Name, socket.socket] = {}
        self._heard: list[Heard[_Name]] = []
        self._missed: dict[_Name, str] = {}
        self._broken = ""
        self._selector = selectors.DefaultSelector()  # takes any number of files: select does not
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="taps", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()
        self._selector.close()
        for each in self._sockets.values():
            each.close()

    def add(self, tap: _Name, netdev: str) -> None:
        """Hear a netdev of the calling thread's namespace as ``tap``. Raises OverweaveError."""
        try:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC)
            try:
                made.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
                with suppress(OSError):  # smaller is no fault: what gets lost is counted
                    made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
                made.bind((netdev, _ETH_P_ALL))
            except OSError:
                made.close()
                raise
        except OSError as error:
            raise OverweaveError(f"frames of {netdev} cannot be seen: {error.strerror}") from None
        self._sockets[tap] = made
        self._selector.register(made, selectors.EVENT_READ, tap)

    def send(self, tap: _Name, frame: bytes) -> None:
        """Send a frame from the netdev that is ``tap``. Raises OverweaveError."""
        try:
            self._sockets[tap].send(frame)
        except OSError as error:
            raise OverweaveError(f"a frame cannot be sent from {tap}: {error.strerror}") from None

    @property
    def heard(self) -> list[Heard[_Name]]:
        """Return what has been heard by now, in order."""
        return list(self._heard)

    def missed(self) -> dict[_Name, str]:
        """Hear what has come by now, and no more; return the taps that missed some, and why."""
        self._end()
        self._drain()
        for tap, each in self._sockets.items():
            told = each.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size)
            _, dropped = _STATISTICS.unpack(told)
            if dropped:
                self._missed.setdefault(tap, f"{dropped} frames came faster than they are read")
        broken = dict.fromkeys(self._sockets, self._broken) if self._broken else {}
        return {**broken, **self._missed}

    def _end(self) -> None:
        self._closing.set()
        self._thread.join()

    def _listen(self) -> None:
        with self._watched():
            while not self._closing.is_set():
                for ready, _ in self._selector.select(_LOOK_S):
                    self._read(ready.data)

    def _drain(self) -> None:
        """Read what waits in the sockets; where more and more comes, for some time only."""
        give_up = time.monotonic() + _DRAIN_S
        with self._watched():
            for tap in self._sockets:
                while self._read(tap):
                    if time.monotonic() > give_up:
                        self._missed.setdefault(tap, "more frames came than could be read")
                        break

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Keep what goes wrong for who asks what was missed."""
        try:
            yield
        except Exception as caught:  # noqa: BLE001  # it is told
            self._broken = f"internal error, please report it: {caught!r}"

    def _read(self, tap: _Name) -> bool:
        """Read a frame; say whether there may be another one."""
        ready = self._sockets[tap]
        try:
            frame, told, _, where = ready.recvmsg(_LARGEST, _TOLD, socket.MSG_DONTWAIT)
        except BlockingIOError:  # as select(2) has it, ready may be nothing
            return False
        except OSError as error:  # the netdev is down or gone
            self._missed[tap] = str(error.strerror)
            return True
        found = self._marks.search(frame)
        if found is not None and len(self._heard) >= _MOST_HEARD:
            self._missed[tap] = f"more than {_MOST_HEARD} frames had a mark in them"
        elif found is not None:
            is_sent = where[2] == socket.PACKET_OUTGOING
            self._heard.append(Heard(tap, found.group(), _tagged(frame, told), is_sent))
        return True


def _tagged(frame: bytes, told: Collection[tuple[int, int, bytes]]) -> bytes:
    """Return a frame with the VLAN tag that the kernel has taken out of it."""
    for level, kind, data in told:
        if (level, kind) == (_SOL_PACKET, _PACKET_AUXDATA):
            status, _, _, _, _, tag, protocol = _AUXDATA.unpack(data[: _AUXDATA.size])
            if status & _VLAN_VALID:
                return frame[:12] + struct.pack("!HH", protocol or 0x8100, tag) + frame[12:]
    return frame
