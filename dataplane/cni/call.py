"""One request under way: its deadline, how long each phase took, what its delegates complained."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from dataplane.cni.errors import CniError, Code
from dataplane.turns import Turns


class Call:
    """Mutable, for one thread: made when a request arrives, read when it is answered."""

    def __init__(self, timeout_s: float) -> None:
        """Begin to count ``timeout_s`` seconds."""
        self._began = time.monotonic()
        self._end = self._began + timeout_s
        self._phases: list[tuple[str, float]] = []
        self.stderr = bytearray()

    def remaining(self, at_most: float = math.inf) -> float:
        """Return the seconds left, but no more than ``at_most``."""
        return max(min(self._end - time.monotonic(), at_most), 0.0)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what happens inside, also if it fails: slow ADDs are explained by it."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._phases.append((name, time.monotonic() - start))

    @property
    def phases(self) -> str:
        """Return the phases so far, such as ``admit 0.004 s, plumb 0.051 s``."""
        return ", ".join(f"{name} {seconds:.3f} s" for name, seconds in self._phases)

    @property
    def durations(self) -> list[tuple[str, float]]:
        """Return the phases so far with their seconds, and ``total`` for the whole call."""
        return [*self._phases, ("total", time.monotonic() - self._began)]


class ContainerLocks:
    """One request at a time per container; requests of different containers never wait."""

    def __init__(self) -> None:
        self._turns = Turns()

    @contextmanager
    def hold(self, container_id: str, call: Call) -> Iterator[None]:
        """Wait for the container's turn. Raises CniError 11 if the call's time is over before."""
        with self._turns.hold(container_id, call.remaining()) as came:
            if not came:
                raise CniError(
                    Code.TRY_AGAIN,
                    f"another request for container {container_id} is still under way",
                )
            yield
