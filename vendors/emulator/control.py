"""Faults on demand: a line of words in, a line of JSON out, over a unix socket."""

from __future__ import annotations

import json
import secrets
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Mapping, Sequence, Sized
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dataplane.core.errors import InvalidValueError, OverweaveError
from dataplane.unix_socket import remove_stale
from vendors.emulator.relay import Relay
from vendors.emulator.trouble import Trouble

MARK_BYTES = 16
_INJECT = "PORT FRAME MARK ..."
_ANSWER_S = 30.0
_CATCH_S = 1.0  # a frame crosses a bridge in about a millisecond; this machine may be busy
_QUIET_S, _PATIENCE = 0.2, 5  # after the last that came out; so many times what that one took
_LOOK_S, _SETTLE_S = 0.005, 0.05  # what comes out twice comes within this

Words = Sequence[str]
Command = Callable[[Words], object]


class FaultError(OverweaveError):
    """An emulated switch did not do what it was told; the text is its own."""


class Device(Protocol):
    """An emulated switch, and what can go wrong with it."""

    trouble: Trouble
    """What is wrong with the way to it."""

    def start(self) -> None:
        """Bring up what is not there, and plug every cable in. Raises OverweaveError."""
        ...

    def stop(self) -> None:
        """End all of it; the TAPs outside stay."""
        ...

    def supervise(self) -> None:
        """Start again what has died by itself, as the device's own supervisor does."""
        ...

    def limit(self, table: str, rows: int) -> None:
        """Let a table have no more than ``rows`` entries."""
        ...

    def hang(self) -> None:
        """Answer nothing, until ``revive`` or ``clear``."""
        ...

    def reset(self) -> None:
        """Lose all that was programmed, as a device does that was reset."""
        ...

    def kill(self) -> None:
        """Crash, and be back at once without what was programmed."""
        ...

    def die(self) -> None:
        """Crash for good, until ``revive`` or ``clear``."""
        ...

    def revive(self) -> None:
        """Start what has died, and go on with what hangs."""
        ...

    def remove_port(self, port: str) -> None:
        """Take a port away."""
        ...

    def return_port(self, port: str) -> None:
        """Have a port back that was taken away."""
        ...

    def lose_one(self) -> str:
        """Drop one entry that is not the device's own, and return it; empty: there was none."""
        ...

    def take(self) -> None:
        """Let somebody else program it."""
        ...

    def clear(self) -> None:
        """End all faults; what was lost stays lost."""
        ...


class Faults:
    """What may be said to an emulated switch."""

    def __init__(self, switch: Device, relay: Relay, wiring: object) -> None:
        """Command these; ``wiring`` says, in JSON, which port is what."""
        self._switch = switch
        self._relay = relay
        self._turn = threading.Lock()
        self._commands: Mapping[str, tuple[str, Command]] = {
            "table-full": ("TABLE ROWS", lambda w: switch.limit(w[0], int(w[1]))),
            "slow": ("SECONDS", lambda w: self._set(delay_s=float(w[0]))),
            "refuse": ("ADDITIONS", lambda w: self._set(refusals=int(w[0]))),
            "garbage": ("", lambda _: self._set(garbage=True)),
            "hang": ("", lambda _: switch.hang()),
            "reset": ("", lambda _: switch.reset()),
            "kill": ("", lambda _: switch.kill()),
            "die": ("", lambda _: switch.die()),
            "revive": ("", lambda _: switch.revive()),
            "port-gone": ("PORT", lambda w: switch.remove_port(w[0])),
            "port-back": ("PORT", lambda w: switch.return_port(w[0])),
            "lose-one": ("", lambda _: switch.lose_one()),
            "take": ("", lambda _: switch.take()),
            "clear": ("", lambda _: switch.clear()),
            "inject": (_INJECT, self._inject),
            "ports": ("", lambda _: wiring),
            "ping": ("", lambda _: "pong"),
        }

    def obey(self, words: Words) -> object:
        """Do what ``words`` say and return what there is to tell. Raises OverweaveError."""
        name, *rest = words or [""]
        usage, command = self._commands.get(name, ("", None))
        if command is None:
            known = ", ".join(self._commands)
            raise InvalidValueError(f"unknown fault {name!r}; there are {known}")
        if not _has_usage(rest, usage):
            raise InvalidValueError(f"usage: {name} {usage}".rstrip())
        with self._turn:
            try:
                return command(rest)
            except ValueError as error:
                raise InvalidValueError(f"{name}: {error}; usage: {name} {usage}") from error

    def supervise(self) -> None:
        """Have the switch look after itself, unless it is being told something."""
        if self._turn.acquire(blocking=False):
            try:
                self._switch.supervise()
            finally:
                self._turn.release()

    def _set(self, **values: object) -> None:
        for name, value in values.items():
            setattr(self._switch.trouble, name, value)

    def _inject(self, words: Words) -> list[dict[str, list[str]]]:
        """Let frames in, and return what of each mark came to each port instead of leaving it."""
        wanted = list(zip(words[::3], words[1::3], words[2::3], strict=True))
        with ExitStack() as stack:
            caught = [
                stack.enter_context(self._relay.catch(bytes.fromhex(mark))) for _, _, mark in wanted
            ]
            for port, frame, _ in wanted:
                self._relay.send(port, bytes.fromhex(frame))
            _wait_for_all(caught)
        return [
            {name: [each.hex() for each in frames] for name, frames in answer.items()}
            for answer in caught
        ]


def _wait_for_all(caught: Sequence[Sized]) -> None:
    """Return once every frame came out somewhere, or none has for longer than any took."""
    began = time.monotonic()
    until, out = began + _CATCH_S, 0
    while (now := time.monotonic()) < until and out < len(caught):
        time.sleep(_LOOK_S)
        before, out = out, sum(map(bool, caught))
        if out > before:
            until = now + max(_QUIET_S, _PATIENCE * (now - began))
    time.sleep(_SETTLE_S)


def _has_usage(words: Words, usage: str) -> bool:
    """Say whether ``words`` are as many as ``usage`` has, or, for _INJECT, some of them over."""
    expected = len(usage.split())
    if usage != _INJECT:
        return len(words) == expected
    return bool(words) and len(words) % 3 == 0


class Control:
    """Serves ``faults`` on ``path``, one connection a command."""

    def __init__(self, path: Path, faults: Faults) -> None:
        """Listen. Raises OverweaveError if ``path`` is taken."""

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                words = self.rfile.readline().decode(errors="replace").split()
                try:
                    answer = {"told": faults.obey(words)}
                except OverweaveError as error:
                    answer = {"error": str(error)}
                self.wfile.write(json.dumps(answer).encode() + b"\n")

        remove_stale(path, "the control socket")
        self._server = socketserver.ThreadingUnixStreamServer(str(path), Handler)
        self._server.daemon_threads = True
        self._path = path
        self._thread = threading.Thread(target=self._server.serve_forever, name="control")

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._path.unlink(missing_ok=True)


def tell(path: Path, *words: str) -> Any:  # noqa: ANN401  # JSON
    """Tell the emulated switch at socket ``path`` and return what it answers. Raises FaultError."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.settimeout(_ANSWER_S)
            asking.connect(str(path))
            asking.sendall(" ".join(words).encode() + b"\n")
            answer = json.loads(asking.makefile("rb").readline())
    except (OSError, ValueError) as error:
        raise FaultError(f"the emulated switch at {path} does not answer: {error}") from error
    if "error" in answer:
        raise FaultError(str(answer["error"]))
    return answer["told"]


@dataclass(frozen=True, slots=True)
class Injection:
    """A frame that comes in at ``port``; ``mark`` is a part of it that no other frame has."""

    port: str
    frame: bytes
    mark: bytes


def inject(path: Path, wanted: Sequence[Injection]) -> list[dict[str, list[bytes]]]:
    """Let frames in, all at once; return for each, by port, what came out that has its mark.

    Nothing of them leaves the switch. Raises FaultError.
    """
    words = [word for each in wanted for word in (each.port, each.frame.hex(), each.mark.hex())]
    found: list[dict[str, list[str]]] = tell(path, "inject", *words)
    return [
        {name: [bytes.fromhex(each) for each in frames] for name, frames in answer.items()}
        for answer in found
    ]


def new_mark() -> bytes:
    """Return what no other frame contains."""
    return secrets.token_bytes(MARK_BYTES)
