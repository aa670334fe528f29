"""One at a time per name: who works on the same thing waits, others do not."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager


class Turns:
    """Locks by name; a name that nobody uses takes no memory."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[Hashable, tuple[threading.Lock, int]] = {}

    @contextmanager
    def hold(self, name: Hashable, timeout_s: float) -> Iterator[bool]:
        """Wait at most ``timeout_s`` seconds for the turn of ``name``; yields whether it came."""
        lock = self._enter(name)
        came = lock.acquire(timeout=max(timeout_s, 0.0))
        try:
            yield came
        finally:
            if came:
                lock.release()
            self._leave(name)

    def _enter(self, name: Hashable) -> threading.Lock:
        with self._guard:
            lock, users = self._locks.get(name, (threading.Lock(), 0))
            self._locks[name] = (lock, users + 1)
            return lock

    def _leave(self, name: Hashable) -> None:
        with self._guard:
            lock, users = self._locks.pop(name)
            if users > 1:
                self._locks[name] = (lock, users - 1)
