"""What Open vSwitch tells us: port numbers as events, and a poke when it has lost what we gave it.

ovs-vswitchd forgets flows, routes and neighbours when it ends. An idle connection to its control
socket notices the end at once, so that status tells of it; until the next start the socket is tried
ten times a second.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from dataplane.contracts import Post
from overlay_ovs.tables import PIPELINES
from ovs_client.rows import Connected, DatabaseEvent, RowChange, RowsChanged
from ovs_client.unixctl import Unixctl, UnixctlError, Watch
from ovs_client.vswitch import VSwitch, ofport_changes

_RETRY_S = 0.1
_WATCH_S = 0.2  # how long stop() may wait for the watching thread


class OvsFeed:
    """Feed of one Open vSwitch; ``poke`` asks all Targets of it to look, and repair, now.

    The first poke from the database comes after every port number that existed was posted.
    """

    def __init__(self, vswitch: VSwitch, unixctl: Unixctl, poke: Callable[[], None]) -> None:
        self._vswitch = vswitch
        self._unixctl = unixctl
        self._poke = poke
        self._post: Post = _ignore
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="ovs-watch", daemon=True)

    def start(self, post: Post) -> None:
        self._post = post
        self._vswitch.start(self._told)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._vswitch.stop()

    def _told(self, event: DatabaseEvent) -> None:
        for change in ofport_changes(event):
            self._post(change)
        if isinstance(event, Connected) or _is_bridge_replaced(event):
            self._poke()

    def _watch(self) -> None:
        lost = False
        while not self._stopping.is_set():
            try:
                with self._unixctl.watch() as watch:
                    if lost:
                        # A process that is ending may still take a connection: does it answer?
                        self._unixctl.call("version")
                        self._poke()
                    lost = self._wait_end(watch)
                if lost:
                    self._poke()
            except UnixctlError:
                if not lost:  # it ended before it was watched
                    self._poke()
                lost = True
                self._stopping.wait(_RETRY_S)

    def _wait_end(self, watch: Watch) -> bool:
        """Return True once the watched process has ended, False once we shall stop."""
        while not self._stopping.is_set():
            if watch.ended(_WATCH_S):
                return True
        return False


def _is_bridge_replaced(event: DatabaseEvent) -> bool:
    """Say whether a bridge of ours came or went: with it came an empty pipeline."""
    return isinstance(event, RowsChanged) and any(map(_replaces_bridge, event.changes))


def _replaces_bridge(change: RowChange) -> bool:
    if change.old is not None and change.new is not None:
        return False
    row = change.new or change.old
    return row is not None and row.table == "Bridge" and row.columns["name"] in PIPELINES


def _ignore(_event: object) -> None:
    """Post to nobody."""
