"""Watches a DPU's switch: what it can do, what it holds, and how much each entry forwards."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import structlog

from dataplane.contracts import Clock, FastPath, Post, Switch
from dataplane.core.capability import Capability
from dataplane.core.errors import OverweaveError
from dataplane.core.events import SwitchSeen, TrafficMeasured
from dataplane.core.model import EntryKey
from dataplane.core.placement import Traffic, forwarded

WATCH_S = 0.5
PING_S = 0.25  # and what a ping takes: a device that is silent is noticed within a second
MEASURE_S = 1.0
_Counts = Mapping[EntryKey, Traffic]

log = structlog.get_logger()


class SwitchFeed:
    """Feed of one Switch; ``look`` asks its Target to look, and repair, what has been lost."""

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
        self._telling = threading.Lock()
        self._counted: tuple[_Counts | None, ...] = ()
        self._measured_at: float | None = None
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(each, pause_s), name=name, daemon=True)
            for name, each, pause_s in (
                ("switch-watch", self.watch, WATCH_S),
                ("switch-ping", self.ping, PING_S),
            )
        ]

    def start(self, post: Post) -> None:
        """Begin to watch."""
        self._post = post
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Watch no more; what the switch holds stays. A look at a silent one ends by itself."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(WATCH_S)

    def _repeat(self, do: Callable[[], None], pause_s: float) -> None:
        while True:
            do()
            if self._stopping.wait(pause_s):
                return

    def ping(self) -> None:
        """Ask whether it answers at all, and post that it does not: a look would take long."""
        try:
            self._switch.ping()
        except Exception as caught:  # noqa: BLE001  # what is wrong is told, and asked again
            if self._seen is None or self._seen.capability is not None:
                self._tell(self._down(caught))

    def watch(self) -> None:
        """Ask once what it can do and holds, and post what is news."""
        measured = None
        try:
            seen = SwitchSeen(self._switch.describe())
            if self._is_due():
                measured = self._measure()
        except Exception as caught:  # noqa: BLE001  # what is wrong is told, and asked again
            seen = self._down(caught)
        before = self._tell(seen)
        if before is not None and _may_lack(before.capability, seen.capability):
            self._look()
        if measured is not None:
            self._post(measured)

    def _down(self, caught: Exception) -> SwitchSeen:
        """Return what to tell of a device that gave no answer; a fault of ours is logged, too."""
        if isinstance(caught, OverweaveError):
            return SwitchSeen(None, str(caught))
        seen = SwitchSeen(None, f"internal error, please report it: {caught!r}")
        if seen != self._seen:
            log.error("switch.crashed", exc_info=caught)
        return seen

    def _tell(self, seen: SwitchSeen) -> SwitchSeen | None:
        """Post it if it is news, and return what was told before."""
        with self._telling:
            before, self._seen = self._seen, seen
            if seen != before:
                self._post(seen)
            return before

    def _is_due(self) -> bool:
        return self._measured_at is None or self._clock() - self._measured_at >= MEASURE_S

    def _measure(self) -> TrafficMeasured | None:
        """Return what was forwarded since the last time; None: this is the first.

        Without the counts of the software what the switch holds is known all the same.
        Raises OverweaveError if it does not answer.
        """
        in_switch, in_software = self._switch.counters(), self._software()
        now, counted = self._clock(), (in_switch, in_software)
        before, since = self._counted, self._measured_at
        self._measured_at, self._counted = now, counted
        if since is None:
            return None
        return TrafficMeasured(_rates(before, counted, now - since), frozenset(in_switch))

    def _software(self) -> _Counts | None:
        """Return what was forwarded in software; None: it cannot be read."""
        try:
            return self._fast.traffic()
        except OverweaveError as error:
            log.warning("switch.unmeasured", error=str(error))
            return None


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
        except Exception:  # noqa: BLE001  # the feed is told the same, and says it
            return None


def _rates(
    before: Sequence[_Counts | None], now: Sequence[_Counts | None], seconds: float
) -> dict[EntryKey, float]:
    """Return packets per second on all paths, of what each path had counted and has counted now.

    Each path for itself: one that has let go of an entry has forwarded nothing of it, however much
    another has counted in its life. One that could not be read says nothing.
    """
    total: Counter[EntryKey] = Counter()
    for earlier, later in zip(before, now, strict=True):
        if earlier is not None and later is not None:
            total.update(forwarded(earlier, later))
    return {key: packets / seconds for key, packets in total.items()}


def _may_lack(before: Capability | None, now: Capability | None) -> bool:
    """Say whether a look is due: the device is back, or has another number of our rows.

    Mostly it was we who changed it, and the look is in vain; but what we add hides what is lost
    meanwhile. Entries are missed by name, too (Snapshot.lacks_entries); what all of them rely on,
    and ARP and ND with them, only here.
    """
    return now is not None and (before is None or now.rows != before.rows)


def _ignore(_event: object) -> None:
    """Post to nobody."""
