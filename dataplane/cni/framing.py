"""The bytes between shim and agent: greeting, one request, one answer, each with its lengths.

::

    agent  overweave-cni/1 LF
    shim   ENVIRONMENT-LENGTH CONFIG-LENGTH LF environment config
    agent  EXIT-STATUS STDOUT-LENGTH STDERR-LENGTH LF stdout stderr

The environment is NAME=VALUE, separated by NUL; lengths are decimal numbers of bytes.

The shim sends nothing before the greeting: an agent that hangs must not find, once it wakes, the
request of a runtime that has long gone. Lengths stand first so that a cut-off answer is seen.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass

from dataplane.cni.environment import Invocation
from dataplane.cni.errors import CniError, Code
from dataplane.cni.strict_json import MAX_BYTES

GREETING = b"overweave-cni/1\n"
MAX_ENVIRONMENT = 4 << 20  # execve(2): the kernel gives at most a quarter of the stack's limit
_MAX_HEADER = 64
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Answer:
    """What the plugin's process does: exit with ``status`` after writing both texts."""

    status: int
    stdout: bytes = b""
    stderr: bytes = b""


def pack_answer(answer: Answer) -> bytes:
    """Return ``answer`` as it is sent."""
    header = b"%d %d %d\n" % (answer.status, len(answer.stdout), len(answer.stderr))
    return header + answer.stdout + answer.stderr


def unpack_invocation(data: bytes) -> Invocation:
    """Return the request in ``data``, whole. Raises CniError 5 if it is cut off or malformed."""
    header, _, body = data.partition(b"\n")
    length, config_length = _lengths(header)
    if len(body) != length + config_length:
        raise _malformed(f"{len(body)} of {length + config_length} bytes arrived")
    return Invocation(_environment(body[:length]), body[length:])


def receive(connection: socket.socket, timeout_s: float) -> Invocation:
    """Read one request within ``timeout_s`` seconds. Raises CniError 5 if it is cut off."""
    try:
        return unpack_invocation(_receive_whole(connection, time.monotonic() + timeout_s))
    except OSError as error:
        raise CniError(Code.IO_FAILURE, f"the request was not received: {error}") from None


def _receive_whole(connection: socket.socket, end: float) -> bytes:
    data = bytearray()
    wanted: int | None = None
    while wanted is None or len(data) < wanted:
        connection.settimeout(max(end - time.monotonic(), 0.001))
        chunk = connection.recv(_CHUNK)
        if not chunk:
            raise _malformed(f"it ended after {len(data)} bytes")
        data += chunk
        if wanted is None:
            wanted = _whole_length(bytes(data[:_MAX_HEADER]))
    return bytes(data)


def _whole_length(start: bytes) -> int | None:
    header, newline, _ = start.partition(b"\n")
    if not newline:
        if len(start) < _MAX_HEADER:
            return None
        raise _malformed("it has no header")
    return len(header) + 1 + sum(_lengths(header))


def _lengths(header: bytes) -> tuple[int, int]:
    parts = header.split(b" ")
    if len(header) > _MAX_HEADER or len(parts) != 2 or not all(part.isdigit() for part in parts):
        raise _malformed("it has no header")
    environment, config = (int(part) for part in parts)
    # One byte more than is allowed is let through, so that the parser can say what the limit is.
    if environment > MAX_ENVIRONMENT or config > MAX_BYTES + 1:
        raise _malformed(f"it announces {environment} and {config} bytes")
    return environment, config


def _environment(block: bytes) -> dict[bytes, bytes]:
    pairs = (entry.partition(b"=") for entry in block.split(b"\0") if entry)
    return {name: value for name, _, value in pairs}


def _malformed(cause: str) -> CniError:
    return CniError(Code.IO_FAILURE, f"the request of overweave-cni is not whole: {cause}")
