"""A foreign program, bounded: its time, its output, and what it leaves running."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO

MAX_STDOUT = 1 << 20
MAX_STDERR = 64 << 10  # what is longer is cut: it is for people to read
_CHUNK = 1 << 20  # the largest a pipe can be (pipe(7), pipe-max-size): one read empties it
_REAP_S = 5.0


class OutputTooLongError(Exception):
    """The program printed more than MAX_STDOUT bytes."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended; a negative ``status`` is the signal that killed it."""

    status: int
    stdout: bytes
    stderr: bytes


class PluginProcess:
    """One run of the program at ``path``, leader of its own process group. Raises OSError."""

    def __init__(self, path: str, environment: Mapping[bytes, bytes], stdin: bytes) -> None:
        """Start the program; ``stdin`` is a file to it, so that nobody has to feed it."""
        with os.fdopen(os.memfd_create("stdin"), "w+b") as config:
            config.write(stdin)
            config.seek(0)
            self._process = subprocess.Popen(
                [path],
                bufsize=0,
                env=environment,
                stdin=config,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # so that its children can be killed with it
            )
        self._stdout = bytearray()
        self._stderr = bytearray()

    def wait(self, timeout_s: float) -> Outcome:
        """Read until the program ends, even if children of its keep the pipes open.

        Raises TimeoutError and OutputTooLongError; ``close`` is to follow in any case.
        """
        exited = os.pidfd_open(self._process.pid)
        try:
            self._read_until(exited, time.monotonic() + timeout_s)
        finally:
            os.close(exited)
        status = self._process.wait(_REAP_S)
        return Outcome(status, bytes(self._stdout), bytes(self._stderr))

    def kill(self) -> None:
        """Kill the program with its process group, if it has not been reaped."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Leave neither the program, if it did not end by itself, nor an open pipe."""
        if self._process.poll() is None:
            self.kill()
            self._process.wait(_REAP_S)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def _read_until(self, exited: int, end: float) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(exited, selectors.EVENT_READ)
            for pipe, kept in self._outputs():
                os.set_blocking(pipe.fileno(), False)
                selector.register(pipe, selectors.EVENT_READ, kept)
            over = False
            while not over:
                ready = selector.select(max(end - time.monotonic(), 0))
                if not ready:
                    raise TimeoutError
                over = any(key.fd == exited for key, _ in ready)
                for key, _ in ready:
                    if key.fd != exited and not self._keep(key.fd, key.data):
                        selector.unregister(key.fileobj)
        for pipe, kept in self._outputs():
            self._keep(pipe.fileno(), kept)

    def _outputs(self) -> list[tuple[IO[bytes], bytearray]]:
        pairs = ((self._process.stdout, self._stdout), (self._process.stderr, self._stderr))
        return [(pipe, kept) for pipe, kept in pairs if pipe is not None]

    def _keep(self, descriptor: int, kept: bytearray) -> bool:
        """Read what is there; say whether more may come."""
        try:
            chunk = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return True
        kept += chunk
        if len(self._stdout) > MAX_STDOUT:
            raise OutputTooLongError
        del self._stderr[MAX_STDERR:]
        return bool(chunk)
