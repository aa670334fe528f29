"""A real ovsdb-server in a temporary directory, and listeners that keep what they were told."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

from dataplane.fabric import SCHEMA
from ovs_client.daemons import DatabaseServer, Place

Told = TypeVar("Told")
PATIENCE_S = 10.0


class Recorder(Generic[Told]):
    """Keeps events in order; waits for what must come."""

    def __init__(self) -> None:
        self.events: list[Told] = []
        self._changed = threading.Condition()

    def __call__(self, event: Told) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def wait(self, seen: Callable[[list[Told]], bool], timeout_s: float = PATIENCE_S) -> None:
        """Return once ``seen`` holds of the events so far; fail with them if it never does."""
        with self._changed:
            arrived = self._changed.wait_for(lambda: seen(self.events), timeout_s)
        assert arrived, f"did not come within {timeout_s} s; came: {self.events[-20:]}"

    def wait_for(self, event: Told, count: int = 1) -> None:
        """Return once ``event`` has come ``count`` times."""
        self.wait(lambda events: events.count(event) >= count)


def wait_until(condition: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
    """Return once ``condition`` holds; fail if it never does."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"did not come true within {timeout_s} s"
        time.sleep(0.01)


@contextmanager
def running_server(directory: Path, schema: Path = SCHEMA) -> Iterator[DatabaseServer]:
    """Run a standalone database server on a unix socket in ``directory``."""
    server = DatabaseServer(Place(directory, directory), schema)
    server.start()
    try:
        yield server
    finally:
        server.stop()
