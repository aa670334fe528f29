"""A netdev as an end of probes: a packet(7) socket that hears frames of their kind alone.

It sees them before tc: a socket of one protocol would come behind, where eBPF has them already.
"""

from __future__ import annotations

import ctypes
import secrets
import socket
import struct
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from dataplane.core.corpus import MARK_BYTES
from dataplane.core.errors import OverweaveError
from dataplane.core.model import Mac
from dataplane.core.probe import ETHERTYPE, ProbeFrame

_ETH_P_ALL = 3  # linux/if_ether.h
_SO_ATTACH_FILTER = 26  # asm-generic/socket.h
# struct sock_filter of linux/filter.h: load the EtherType; is it the probes'; all of it; nothing.
_FILTER = b"".join(
    struct.pack("=HBBI", *step)
    for step in ((0x28, 0, 0, 12), (0x15, 0, 1, ETHERTYPE), (0x06, 0, 0, 0xFFFF), (0x06, 0, 0, 0))
)
_STEP_BYTES = 8
_LARGEST = 2048
_LOCALLY_ADMINISTERED = 0x02


class ProbePort:
    """A context manager; the netdev is one of the calling thread's namespace."""

    def __init__(self, netdev: str) -> None:
        """Open it. Raises OverweaveError."""
        self._netdev = netdev
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC)
        try:
            self._filter()
            self._socket.bind((netdev, _ETH_P_ALL))
        except OSError as error:
            self._socket.close()
            raise self._wrong(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def send(self, frame: bytes) -> None:
        """Send a frame. Raises OverweaveError."""
        try:
            self._socket.send(frame)
        except OSError as error:
            raise self._wrong(error) from None

    def hears(self, is_wanted: Callable[[bytes], bool], wait_s: float) -> bool:
        """Say whether such a frame is in, or comes within ``wait_s``. Raises OverweaveError."""
        give_up = time.monotonic() + wait_s
        while (left := give_up - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                frame, where = self._socket.recvfrom(_LARGEST)
            except TimeoutError:
                return False
            except OSError as error:
                raise self._wrong(error) from None
            if where[2] != socket.PACKET_OUTGOING and is_wanted(frame):
                return True
        return False

    def _filter(self) -> None:
        steps = ctypes.create_string_buffer(_FILTER, len(_FILTER))
        program = struct.pack("HP", len(_FILTER) // _STEP_BYTES, ctypes.addressof(steps))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)

    def _wrong(self, error: OSError) -> OverweaveError:
        return OverweaveError(f"no probe can be sent at {self._netdev}: {error.strerror}")


def new_probe(source: Mac | None = None) -> ProbeFrame:
    """Return one that nobody has sent before; without ``source`` from a MAC that nobody has."""
    rest = (_LOCALLY_ADMINISTERED, *secrets.token_bytes(5))
    mac = source or Mac(":".join(f"{byte:02x}" for byte in rest))
    return ProbeFrame(mac, secrets.token_bytes(MARK_BYTES))
