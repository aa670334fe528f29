"""Processes, found by what they were started with and held by pidfd: numbers are used again."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

_PROC = Path("/proc")
_POLL_S = 0.02


class Process:
    """A running process; use it as a context manager, it holds a file descriptor."""

    def __init__(self, pid: int) -> None:
        """Take hold of ``pid``. Raises ProcessLookupError if it does not run."""
        self.pid = pid
        self._fd = os.pidfd_open(pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    def signal(self, number: signal.Signals) -> None:
        """Send ``number`` to exactly this process; one that has ended is no error."""
        try:
            signal.pidfd_send_signal(self._fd, number)
        except ProcessLookupError:
            return

    def wait(self, timeout_s: float) -> bool:
        """Return True once the process has ended, False if ``timeout_s`` passes first."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))


def arguments(pid: int) -> tuple[str, ...]:
    """Return the command line of ``pid``; empty if it has ended or is a kernel thread."""
    try:
        raw = (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return ()
    return tuple(raw.decode(errors="replace").rstrip("\0").split("\0")) if raw else ()


def find(argument: str, program: str) -> int | None:
    """Return the pid that runs ``program`` (see is_running) with ``argument``, else None."""
    return next((pid for pid in pids() if is_running(pid, argument, program)), None)


def is_running(pid: int, argument: str, program: str) -> bool:
    """Say whether ``pid`` runs ``program`` (begin of argv[0]'s name) with ``argument`` given."""
    words = arguments(pid)
    return bool(words) and Path(words[0]).name.startswith(program) and argument in words


def names(pid: int, text: str, program: str) -> bool:
    """Say whether ``pid`` runs ``program`` with ``text`` somewhere in its arguments."""
    words = arguments(pid)
    return bool(words) and Path(words[0]).name.startswith(program) and text in " ".join(words)


def lives_in(pid: int, namespaces: Iterable[Path]) -> bool:
    """Say whether the network namespace of ``pid`` is one of ``namespaces``."""
    own = _identity(_PROC / str(pid) / "ns" / "net")
    return own is not None and own in map(_identity, namespaces)


def pids() -> Iterator[int]:
    """Return every process number of this machine."""
    return (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())


def end(numbers: Iterable[int], grace_s: float, still_ours: Callable[[int], bool]) -> None:
    """Ask ``numbers`` to end (SIGTERM), and after ``grace_s`` in all make them (SIGKILL).

    ``still_ours`` is asked once the process is held, so that nothing that took its number is hit.
    """
    deadline = time.monotonic() + grace_s
    held = list(_hold(numbers, still_ours))
    for process in held:
        process.signal(signal.SIGTERM)
    for process in held:
        with process:
            if not process.wait(max(0.0, deadline - time.monotonic())):
                process.signal(signal.SIGKILL)
                process.wait(grace_s)


def kill(number: int, wait_s: float, still_ours: Callable[[int], bool]) -> None:
    """End ``number`` as a crash would (SIGKILL) and wait until it is gone; gone is no error."""
    for process in _hold([number], still_ours):
        with process:
            process.signal(signal.SIGKILL)
            process.wait(wait_s)


def send(number: int, what: signal.Signals, still_ours: Callable[[int], bool]) -> None:
    """Send ``what`` to ``number``; one that is gone is no error."""
    for process in _hold([number], still_ours):
        with process:
            process.signal(what)


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Return True once ``condition`` holds, False if ``timeout_s`` passes first."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _hold(numbers: Iterable[int], still_ours: Callable[[int], bool]) -> Iterator[Process]:
    for number in numbers:
        try:
            process = Process(number)
        except ProcessLookupError:
            continue
        if still_ours(number):
            yield process
        else:
            process.__exit__(None, None, None)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
