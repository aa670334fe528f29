"""Runtime commands of ovs-vswitchd over its control socket: no process is started for a call.

The protocol is JSON-RPC 1.0 on a unix socket (ovs-appctl(8)). The library's own client is not used:
it waits without limit and reads JSON a character at a time.
"""

from __future__ import annotations

import json
import select
import socket
import time
from pathlib import Path
from typing import Any, Self

from dataplane.core.errors import OverweaveError

_PROGRAM = "ovs-vswitchd"
_TIMEOUT_S = 5.0
_CHUNK = 1 << 16


class UnixctlError(OverweaveError):
    """ovs-vswitchd cannot be reached, or refused a command; the text keeps its words whole."""


class Unixctl:
    """The control socket of the ovs-vswitchd whose files stand in ``rundir``.

    The socket is looked up at every call, since its name holds the process number.
    """

    def __init__(self, rundir: Path, timeout_s: float = _TIMEOUT_S) -> None:
        self._rundir = rundir
        self._timeout_s = timeout_s

    def call(self, command: str, *arguments: str) -> str:
        """Return what ``command`` prints. Raises UnixctlError."""
        line = " ".join((command, *arguments))
        request = json.dumps({"id": 0, "method": command, "params": arguments}).encode()
        with self._connect() as connection:
            try:
                connection.sendall(request)
                answer = _receive(connection, time.monotonic() + self._timeout_s)
            except TimeoutError as error:
                raise UnixctlError(
                    f"{_PROGRAM}: {line}: no answer within {self._timeout_s:g} s; see its log"
                ) from error
            except OSError as error:
                raise UnixctlError(f"{_PROGRAM}: {line}: {error}; see its log") from error
        if "result" not in answer and answer.get("error") is None:
            raise UnixctlError(f"{_PROGRAM}: {line}: what it answered is no reply: {answer}")
        if (refused := answer.get("error")) is not None:  # then there may be no result
            raise UnixctlError(f"{_PROGRAM}: {line}: {str(refused).strip()}")
        return str(answer["result"])

    def watch(self) -> Watch:
        """Return a hold on the running ovs-vswitchd. Raises UnixctlError if none runs."""
        return Watch(self._connect())

    def _connect(self) -> socket.socket:
        """Return a connection; a process that ended leaves its files, so each step can fail."""
        pidfile = self._rundir / f"{_PROGRAM}.pid"
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(self._timeout_s)
        try:
            pid = int(pidfile.read_text(encoding="ascii"))
            connection.connect(str(self._rundir / f"{_PROGRAM}.{pid}.ctl"))
        except (OSError, ValueError) as error:
            connection.close()
            raise UnixctlError(
                f"{_PROGRAM} of {self._rundir} does not run or is not ours to ask ({error});"
                " start it"
            ) from error
        return connection


class Watch:
    """An idle connection that ends with the ovs-vswitchd it was made to; a context manager."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._connection.close()

    def ended(self, timeout_s: float) -> bool:
        """Return True as soon as that process has ended, False after ``timeout_s``."""
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))  # nothing was asked: only the end is told


def _receive(connection: socket.socket, deadline: float) -> dict[str, Any]:
    """Read one JSON object; nothing but its own end marks the end of a message."""
    data = bytearray()
    while True:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        connection.settimeout(left_s)
        chunk = connection.recv(_CHUNK)
        if not chunk:
            raise ConnectionError("it closed the connection")
        data += chunk
        if chunk.endswith(b"}"):
            try:
                message: dict[str, Any] = json.loads(data)
            except ValueError:
                continue  # a brace inside the text ended this chunk
            return message
