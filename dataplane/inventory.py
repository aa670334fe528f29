"""Looks twice a second at what is to be told of this node's halves of DPUs (core/inventory)."""

from __future__ import annotations

import time
from collections.abc import Callable

from dataplane.contracts import Post
from dataplane.core.events import DevicesTold
from dataplane.core.inventory import Inventory, tell
from dataplane.core.snapshot import Snapshot
from dataplane.looking import Looking

LOOK_S = 0.5  # as the cards are looked for (vendors/discovery.py): one that goes is told within 2 s


class InventoryFeed:
    """Posts DevicesTold where it is news, also by the mere course of time."""

    def __init__(
        self, snapshot: Callable[[], Snapshot], clock: Callable[[], float] = time.time
    ) -> None:
        """Look at what ``snapshot`` returns; ``clock`` gives unix seconds."""
        self._snapshot = snapshot
        self._clock = clock
        self._told = Inventory()
        self._looking = Looking("inventory", LOOK_S)

    def start(self, post: Post) -> None:
        """Begin to look."""
        self._looking.start(lambda: self.look(post))

    def stop(self) -> None:
        """Look no more."""
        self._looking.stop()

    def look(self, post: Post) -> None:
        """Look once."""
        before = self._told
        self._told = tell(before, self._snapshot(), int(self._clock()))
        if self._told.devices != before.devices:
            post(DevicesTold(self._told.devices))
