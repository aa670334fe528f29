"""The agent's end of the socket: one thread per request, one answer per connection."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import struct
import threading
from collections.abc import Mapping
from pathlib import Path

import structlog

from dataplane.cni.call import Call, ContainerLocks
from dataplane.cni.environment import Invocation, Verb
from dataplane.cni.errors import CniError, as_cni_error, shown
from dataplane.cni.framing import GREETING, Answer, pack_answer, receive
from dataplane.cni.handler import Handler
from dataplane.cni.request import AddRequest, DelRequest, Request, parse, version_of
from dataplane.cni.strict_json import JsonObject
from dataplane.cni.tombstones import Tombstones
from dataplane.contracts import Timed
from dataplane.core.errors import OverweaveError
from dataplane.core.model import AttachmentKey
from dataplane.unix_socket import remove_stale

MAX_REQUESTS = 256  # more than a node has pods (kubelet: 110 by default, 250 is usual at most)
RECEIVE_S = 10.0
SEND_S = 5.0
SWEEP_S = 30.0
RETRY_S = 0.1
JOIN_S = 1.0
_BACKLOG = 512
_UCRED = struct.Struct("iII")  # bits/socket.h: pid, uid, gid

log = structlog.get_logger()


class CniServer:
    """Serves ``handler`` on a unix socket in a directory that only this user can enter.

    The peer's uid must be root's or ours: a request names programs that we then run.
    """

    def __init__(self, socket_path: Path, handler: Handler, timed: Timed) -> None:
        """Prepare to serve at ``socket_path``; nothing is touched before ``start``.

        ``timed`` is told of every request that was answered, well or not.
        """
        self._path = socket_path
        self._handler = handler
        self._timed = timed
        self._tombstones = Tombstones(socket_path)
        self._replays = ContainerLocks()
        self._places = threading.BoundedSemaphore(MAX_REQUESTS)
        self._connections: set[socket.socket] = set()
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._listener: socket.socket | None = None
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Listen, and make up for the DELs missed. Raises OverweaveError if the path is taken."""
        listener = _listen(self._path)
        self._listener = listener
        self._threads = [
            threading.Thread(target=self._accept_all, args=(listener,), name="cni-accept"),
            threading.Thread(target=self._sweep_all, name="cni-tombstones"),
        ]
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    def stop(self, grace_s: float) -> None:
        """Take no more requests, wait ``grace_s`` seconds for those under way, then cut them off.

        The shim of a request that was cut off tells its runtime to try again.
        """
        self._stopping.set()
        if self._listener is None:
            return
        self._path.unlink(missing_ok=True)
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept(2); close would not
        with self._changed:
            self._changed.wait_for(lambda: not self._connections, grace_s)
        self._handler.stop()
        with self._changed:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(JOIN_S)
        self._listener.close()

    def _accept_all(self, listener: socket.socket) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = listener.accept()
            except OSError as error:
                if not self._stopping.wait(RETRY_S):
                    log.warning("cni.accept.failed", error=str(error))
                continue
            self._begin(connection)

    def _begin(self, connection: socket.socket) -> None:
        uid = _peer_uid(connection)
        if uid not in (0, os.geteuid()):
            log.warning("cni.refused", uid=uid)
            connection.close()
            return
        self._places.acquire()
        with self._changed:
            self._connections.add(connection)
        try:
            # At once: the shim takes an agent that does not greet it for one that hangs.
            connection.settimeout(0)
            connection.sendall(GREETING)
            threading.Thread(
                target=self._serve, args=(connection,), name="cni-request", daemon=True
            ).start()
        except (OSError, RuntimeError) as error:
            log.warning("cni.begin.failed", error=str(error))
            self._end(connection)

    def _end(self, connection: socket.socket) -> None:
        connection.close()
        with self._changed:
            self._connections.discard(connection)
            self._changed.notify_all()
        self._places.release()

    def _serve(self, connection: socket.socket) -> None:
        try:
            answer = self._answer(connection)
            connection.settimeout(SEND_S)
            connection.sendall(pack_answer(answer))
        except OSError as error:
            log.warning("cni.answer.undelivered", error=str(error))
        finally:
            self._end(connection)

    def _answer(self, connection: socket.socket) -> Answer:
        call = Call(self._handler.limits.request)
        invocation = Invocation({}, b"")
        try:
            with as_cni_error():
                invocation = receive(connection, RECEIVE_S)
                document = self._carry_out(parse(invocation), call)
        except CniError as error:
            _log_failure(invocation, error)
            text = _line(error.document(version_of(invocation.config), call.phases))
            return Answer(1, text, bytes(call.stderr))
        finally:
            self._take_note(invocation, call)
        return Answer(0, _line(document) if document else b"", bytes(call.stderr))

    def _take_note(self, invocation: Invocation, call: Call) -> None:
        named = invocation.environment.get(b"CNI_COMMAND", b"").decode(errors="replace")
        for verb in {named} & set(Verb):  # nobody else's words become a label
            for phase, seconds in call.durations:
                self._timed(verb, phase, seconds)

    def _carry_out(self, request: Request, call: Call) -> JsonObject | None:
        if isinstance(request, AddRequest):
            self._make_up(request.key, call)
        document = self._handler.handle(request, call)
        if isinstance(request, DelRequest):
            self._tombstones.at(request.key).remove()
        return document

    # --- DELs that came while the agent was away ---

    def _make_up(self, key: AttachmentKey, call: Call) -> None:
        """Do the DEL that is owed for ``key``, if one is, before anything else happens to it.

        The lock is taken in any case: a sweep must not do, after an ADD, a DEL that came before it.
        """
        with self._replays.hold(key.container_id, call):
            tombstone = self._tombstones.at(key)
            if not tombstone.exists():
                return
            try:
                request = parse(tombstone.read())
            except CniError as error:
                log.warning("cni.tombstone.unreadable", path=str(tombstone.path), error=str(error))
            else:
                self._handler.handle(request, call)
                log.info("cni.tombstone.done", key=key)
            tombstone.remove()

    def _sweep_all(self) -> None:
        while True:
            for key in self._tombstones.keys():  # noqa: SIM118 - not a mapping
                try:
                    with as_cni_error():
                        self._make_up(key, Call(self._handler.limits.request))
                except CniError as error:
                    log.warning("cni.tombstone.failed", key=key, error=str(error))
            if self._stopping.wait(SWEEP_S):
                return


def _log_failure(invocation: Invocation, error: CniError) -> None:
    names = (b"CNI_COMMAND", b"CNI_CONTAINERID", b"CNI_IFNAME")
    values = (invocation.environment.get(name, b"") for name in names)
    verb, container, ifname = (shown(value.decode(errors="replace")) for value in values)
    log.warning(
        "cni.failed",
        verb=verb,
        container=container,
        ifname=ifname,
        code=error.code,
        error=str(error),
    )


def _line(document: Mapping[str, object]) -> bytes:
    return json.dumps(document).encode() + b"\n"


def _peer_uid(connection: socket.socket) -> int:
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    uid: int = _UCRED.unpack(raw)[1]
    return uid


def _listen(path: Path) -> socket.socket:
    _private_directory(path.parent)
    remove_stale(path, "the CNI socket")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise OverweaveError(f"the CNI socket {path} cannot be opened: {error}") from error
    return listener


def _private_directory(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.stat()
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid != os.geteuid() or mode & 0o077:
        raise OverweaveError(
            f"the directory {path} of the CNI socket has mode {mode:04o} and owner"
            f" {found.st_uid}: it must be 0700 and belong to {os.geteuid()}"
        )
