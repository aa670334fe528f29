"""Watches a DPU's switch: what it can do, what it holds, and how much each entry forwards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import structlog

from dataplane.contracts import Clock, FastPath, Post, Switch
from dataplane.core.errors import OverweaveError
from dataplane.core.events import SwitchSeen, TrafficMeasured
from dataplane.core.model import EntryKey
from dataplane.core.placement import Traffic

WATCH_S = 0.5  # a device that has died is noticed within a second
MEASURE_S = 1.0

log = structlog.get_logger()


class SwitchFeed:
    """Feed of one Switch; ``look`` asks its Target to look, and repair, when the device is back."""

    def __init__(
        self, switch: Switch, fast: FastPath, look: Callable[[], None], clock: Clock
    ) -> None:
        """Watch ``switch``; ``fast`` says what the entries forward in software."""
        self._switch = switch
        self._fast = fast
        self._look = look
        self._clock = clock
        self._post: Post = _ignore
        self._seen: SwitchSeen | None = None
        self._packets: Mapping[EntryKey, int] = {}
        self._measured_at: float | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="switch-watch", daemon=True)

    def start(self, post: Post) -> None:
        """Begin to watch."""
        self._post = post
        self._thread.start()

    def stop(self) -> None:
        """Watch no more; what the switch holds stays. A look at a silent one ends by itself."""
        self._stopping.set()
        self._thread.join(WATCH_S)

    def _run(self) -> None:
        while True:
            self.watch()
            if self._stopping.wait(WATCH_S):
                return

    def watch(self) -> None:
        """Ask once, and post what is news."""
        seen = self._ask()
        was_down = self._seen is not None and self._seen.capability is None
        if seen != self._seen:
            self._seen = seen
            self._post(seen)
        if seen.capability is None:
            return
        if was_down:
            self._look()
        if self._measured_at is None or self._clock() - self._measured_at >= MEASURE_S:
            self._measure()

    def _ask(self) -> SwitchSeen:
        try:
            return SwitchSeen(self._switch.describe())
        except OverweaveError as error:
            return SwitchSeen(None, str(error))

    def _measure(self) -> None:
        try:
            in_switch, in_software = self._switch.counters(), self._fast.traffic()
        except OverweaveError as error:
            log.warning("switch.unmeasured", error=str(error))
            return
        now = self._clock()
        packets = {key: each.packets for key, each in in_software.items()}
        for key, each in in_switch.items():
            packets[key] = packets.get(key, 0) + each.packets
        if self._measured_at is not None:
            rates = _rates(self._packets, packets, now - self._measured_at)
            self._post(TrafficMeasured(rates, frozenset(in_switch)))
        self._measured_at, self._packets = now, packets


class Counters:
    """PathCounters over the fast path and the switch below; any thread may ask."""

    def __init__(self, fast: FastPath, switch: Switch) -> None:
        self._switch = switch
        self.traffic = fast.traffic
        self.counts = fast.counts

    def switched(self) -> Mapping[EntryKey, Traffic] | None:
        """Return what each entry the switch holds has forwarded; None: it does not answer."""
        try:
            return self._switch.counters()
        except OverweaveError:
            return None  # the feed notices, too, and says why


def _rates(
    before: Mapping[EntryKey, int], now: Mapping[EntryKey, int], seconds: float
) -> dict[EntryKey, float]:
    """Return packets per second; a counter that has begun anew counts from nothing."""
    return {
        key: (count - before.get(key, 0) if count >= before.get(key, 0) else count) / seconds
        for key, count in now.items()
        if key in before
    }


def _ignore(_event: object) -> None:
    """Post to nobody."""
