"""Looks at something again and again, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

log = structlog.get_logger()


class Looking:
    """Calls a function every ``every_s`` seconds; a fault of ours does not end it.

    It is said once, until it is another one or there is none.
    """

    def __init__(self, name: str, every_s: float) -> None:
        """Call the thread ``name``."""
        self._name = name
        self._every_s = every_s
        self._fault = ""
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, look: Callable[[], None]) -> None:
        """Begin to call ``look``."""
        self._thread = threading.Thread(
            target=self._run, args=(look,), name=self._name, daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Call it no more; return when the last call has."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, look: Callable[[], None]) -> None:
        while True:
            fault = ""
            try:
                look()
            except Exception as caught:
                fault = f"internal error, please report it: {caught!r}"
                if fault != self._fault:
                    log.exception("look.crashed", thread=self._name, error=fault)
            self._fault = fault
            if self._stopping.wait(self._every_s):
                return
