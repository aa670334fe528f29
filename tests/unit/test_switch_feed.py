"""What is asked of a switch, and when its Target is told to look."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

import pytest

from dataplane.core.capability import Capability
from dataplane.core.errors import TargetError
from dataplane.core.events import Event, SwitchSeen, TrafficMeasured
from dataplane.core.model import EntryKey, Mac, Vni
from dataplane.core.placement import Traffic
from dataplane.switch import MEASURE_S, WATCH_S, SwitchFeed

KEY = EntryKey(Vni(7), Mac("02:00:00:00:00:01"))
OTHER = EntryKey(Vni(7), Mac("02:00:00:00:00:02"))


class Stand:
    """A switch, the fast path beside it, a clock, and who is told."""

    def __init__(self) -> None:
        self.down = ""
        self.in_switch: dict[EntryKey, Traffic] = {}
        self.in_software: dict[EntryKey, Traffic] = {}
        self.now = 100.0
        self.events: list[Event] = []
        self.looks = 0
        self.feed = SwitchFeed(self, self, self._look, lambda: self.now)  # type: ignore[arg-type]  # it is asked for three things alone
        self.feed._post = self.events.append

    def describe(self) -> Capability:
        if self.down:
            raise TargetError(self.down)
        return Capability("test", "switch")

    def counters(self) -> Mapping[EntryKey, Traffic]:
        return dict(self.in_switch)

    def traffic(self) -> Mapping[EntryKey, Traffic]:
        return dict(self.in_software)

    def _look(self) -> None:
        self.looks += 1

    def later(self) -> list[Event]:
        """Let time pass, watch, and return what was posted."""
        self.now += MEASURE_S
        self.events.clear()
        self.feed.watch()
        return list(self.events)


def traffic(packets: int) -> Traffic:
    return Traffic(packets, 100 * packets)


def test_a_rate_is_what_both_paths_forwarded_since() -> None:
    stand = Stand()
    stand.in_switch, stand.in_software = {KEY: traffic(10)}, {KEY: traffic(5), OTHER: traffic(1)}
    assert stand.later() == [SwitchSeen(Capability("test", "switch"))]
    stand.in_switch, stand.in_software = {KEY: traffic(40)}, {KEY: traffic(12), OTHER: traffic(1)}
    (measured,) = stand.later()
    assert measured == TrafficMeasured({KEY: 37 / MEASURE_S, OTHER: 0.0}, frozenset({KEY}))


def test_a_counter_that_begins_anew_is_no_negative_rate() -> None:
    stand = Stand()
    stand.in_switch = {KEY: traffic(1000)}
    stand.later()
    stand.in_switch = {KEY: traffic(8)}
    assert stand.later() == [TrafficMeasured({KEY: 8 / MEASURE_S}, frozenset({KEY}))]


def test_a_switch_is_told_of_when_it_goes_and_comes_and_looked_at_then() -> None:
    stand = Stand()
    stand.later()
    stand.down = "no answer within 1 s"
    assert stand.later() == [SwitchSeen(None, "no answer within 1 s")]
    assert stand.later() == []
    assert stand.looks == 0
    stand.down = ""
    assert stand.later()[0] == SwitchSeen(Capability("test", "switch"))
    assert stand.looks == 1


def test_to_stop_waits_for_no_silent_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at one takes up to fifteen seconds, and who ends an agent waits for ten."""
    stand = Stand()
    asked, answered = threading.Event(), threading.Event()

    def describe() -> Capability:
        asked.set()
        assert answered.wait(30)
        return Capability("test", "switch")

    monkeypatch.setattr(stand, "describe", describe)
    stand.feed.start(stand.events.append)
    assert asked.wait(5)
    began = time.monotonic()
    stand.feed.stop()
    assert time.monotonic() - began < 5 * WATCH_S
    answered.set()
