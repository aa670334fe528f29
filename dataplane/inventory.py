"""Looks twice a second at what is to be told of this node's halves of DPUs (core/inventory)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from dataplane.contracts import Post
from dataplane.core.events import DevicesTold
from dataplane.core.inventory import Inventory, tell
from dataplane.core.snapshot import Snapshot

LOOK_S = 0.5  # as the cards are looked for (vendors/discovery.py): one that goes is told within 2 s

log = structlog.get_logger()


class InventoryFeed:
    """Posts DevicesTold where it is news, also by the mere course of time."""

    def __init__(
        self, snapshot: Callable[[], Snapshot], clock: Callable[[], float] = time.time
    ) -> None:
        """Look at what ``snapshot`` returns; ``clock`` gives unix seconds."""
        self._snapshot = snapshot
        self._clock = clock
        self._told = Inventory()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, post: Post) -> None:
        """Begin to look."""
        self._thread = threading.Thread(
            target=self._run, args=(post,), name="inventory", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, post: Post) -> None:
        while True:
            try:
                self.look(post)
            except Exception:  # a fault of ours must not end the thread: say it, look again
                log.exception("inventory.crashed")
            if self._stopping.wait(LOOK_S):
                return

    def look(self, post: Post) -> None:
        """Look once."""
        before = self._told
        self._told = tell(before, self._snapshot(), int(self._clock()))
        if self._told.devices != before.devices:
            post(DevicesTold(self._told.devices))
