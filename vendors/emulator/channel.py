"""The OpenFlow channel of an emulated switch, and what can be wrong with it.

A proxy before the bridge's own socket: it passes OpenFlow 1.4 messages on whole, late, or changed
so that the bridge itself refuses them (Open vSwitch lets nobody write its own table).
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from dataplane.unix_socket import remove_stale
from vendors.emulator.trouble import GARBAGE, Trouble

_HEADER = 8
_XID = slice(4, 8)  # what an answer repeats of its question
_ERROR, _FLOW_MOD, _BUNDLE_ADD = 1, 14, 34  # OpenFlow 1.4, section 7.1
_BUNDLED = 16  # where the message begins in a bundle's (7.3.9.6)
_QUOTED = 12  # where an error quotes it (7.5.4)
_TABLE, _COMMAND = 24, 25  # in a flow mod (7.3.4.1)
_ADD = 0
_REFUSED_TABLE = 254  # Open vSwitch: TBL_INTERNAL, refused with OFPBRC_EPERM
_CHUNK = 1 << 16
_ACCEPT_S = 0.2


@dataclass(slots=True)
class _Talk:
    """One connection; what was changed in it is changed back in its answers."""

    tables: dict[bytes, int] = field(default_factory=dict)  # by transaction (xid)


class Channel:
    """Listens at ``front`` and passes on to ``back``, a connection for each."""

    def __init__(self, front: Path, back: Path, trouble: Trouble) -> None:
        """Listen at once. Raises OverweaveError if ``front`` is taken."""
        self._trouble = trouble
        self._back = back
        self._stopping = threading.Event()
        remove_stale(front, "the OpenFlow socket")
        self._front = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._front.bind(str(front))
        self._front.listen()
        self._front.settimeout(_ACCEPT_S)
        self._thread = threading.Thread(target=self._run, name="openflow", daemon=True)

    def start(self) -> None:
        """Begin to accept."""
        self._thread.start()

    def stop(self) -> None:
        """Accept no more."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self._front.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            with suppress(TimeoutError):
                near, _ = self._front.accept()
                near.settimeout(None)
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as far:
            if self._trouble.garbage:
                with suppress(OSError):
                    near.sendall(GARBAGE)
                return
            with suppress(OSError):
                far.connect(str(self._back))
                talk = _Talk()
                late = partial(self._pump, far, near, talk, lambda: self._trouble.delay_s)
                back = threading.Thread(target=late, daemon=True)
                back.start()
                self._pump(near, far, talk)
                far.shutdown(socket.SHUT_WR)
                back.join()

    def _pump(
        self,
        source: socket.socket,
        target: socket.socket,
        talk: _Talk,
        delay: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Pass messages on; all parts of one answer are late together."""
        rest, asked = b"", b""
        with suppress(OSError):
            while chunk := source.recv(_CHUNK):
                rest += chunk
                while len(rest) >= _HEADER:
                    size = max(_HEADER, int.from_bytes(rest[2:4]))
                    if len(rest) < size:
                        break
                    message, rest = rest[:size], rest[size:]
                    if message[_XID] != asked:
                        asked = message[_XID]
                        time.sleep(delay())
                    target.sendall(self._passed(message, talk))
            target.shutdown(socket.SHUT_WR)

    def _passed(self, message: bytes, talk: _Talk) -> bytes:
        kind = message[1]
        if kind == _ERROR and message[_QUOTED + 1 : _QUOTED + 2] == bytes([_FLOW_MOD]):
            return _restored(message, talk)
        start = {_FLOW_MOD: 0, _BUNDLE_ADD: _BUNDLED}.get(kind)
        if start is None or message[start + 1] != _FLOW_MOD:
            return message
        if message[start + _COMMAND] != _ADD or not self._trouble.refuses():
            return message
        talk.tables[message[start + 4 : start + 8]] = message[start + _TABLE]
        return _with_table(message, start, _REFUSED_TABLE)


def _restored(error: bytes, talk: _Talk) -> bytes:
    """Return an error about a message of ours as one about the message that was sent."""
    table = talk.tables.get(error[_QUOTED + 4 : _QUOTED + 8])
    return error if table is None else _with_table(error, _QUOTED, table)


def _with_table(message: bytes, start: int, table: int) -> bytes:
    place = start + _TABLE
    return message[:place] + bytes([table]) + message[place + 1 :]
