"""What is asked of a switch, and when its Target is told to look."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

import pytest

from dataplane import switch as module
from dataplane.core.capability import Capability
from dataplane.core.errors import TargetError
from dataplane.core.events import Event, SwitchSeen, TrafficMeasured
from dataplane.core.model import EntryKey, Mac, Vni
from dataplane.core.placement import Traffic
from dataplane.core.reasons import Reason
from dataplane.switch import MEASURE_S, WATCH_S, Counters, SwitchFeed
from tests.unit.test_agent import until

KEY = EntryKey(Vni(7), Mac("02:00:00:00:00:01"))
OTHER = EntryKey(Vni(7), Mac("02:00:00:00:00:02"))
LIFETIME = 1_000_000  # packets


class Stand:
    """A switch, the fast path beside it, a clock, and who is told."""

    def __init__(self) -> None:
        self.down = self.silent = self.mute = ""
        self.rows: int | None = 0  # None: it is down, too
        self.broken = False  # the fast path
        self.bug = ""  # the name of the question at which a fault of ours shows
        self.in_switch: dict[EntryKey, Traffic] = {}
        self.in_software: dict[EntryKey, Traffic] = {}
        self.now = 100.0
        self.events: list[Event] = []
        self.looks = 0
        self.feed = SwitchFeed(self, self, self._look, lambda: self.now)  # type: ignore[arg-type]  # it is asked for four things alone
        self.feed._post = self.events.append

    def ping(self) -> None:
        self._fail("ping")
        if self.mute:
            raise TargetError(self.mute)

    def describe(self) -> Capability:
        self._fail("describe")
        if self.down or self.rows is None:
            raise TargetError(self.down)
        return Capability("test", "switch", rows=self.rows)

    def counters(self) -> Mapping[EntryKey, Traffic]:
        self._fail("counters")
        if self.silent:
            raise TargetError(self.silent)
        return dict(self.in_switch)

    def traffic(self) -> Mapping[EntryKey, Traffic]:
        self._fail("traffic")
        if self.broken:
            raise TargetError("no map")
        return dict(self.in_software)

    def counts(self) -> Mapping[int, Mapping[Reason, int]]:
        return {}

    def _fail(self, question: str) -> None:
        if question == self.bug:
            raise KeyError("dl_dst")

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


@pytest.mark.parametrize(
    ("steps", "rates"),
    [
        pytest.param([(LIFETIME, 40), (LIFETIME, None)], [0.0], id="demoted, and nobody sends"),
        pytest.param([(LIFETIME, 40), (LIFETIME + 3, None)], [3.0], id="demoted, and it goes on"),
        pytest.param([(LIFETIME, None), (LIFETIME, 7)], [7.0], id="promoted"),
        pytest.param([(LIFETIME, 500), (LIFETIME, 8)], [8.0], id="reset"),
        pytest.param([(LIFETIME, 40), (None, 45)], [5.0], id="software lets go of it"),
        pytest.param([(None, None), (9, None)], [9.0], id="new"),
        pytest.param(
            [(LIFETIME, 40), (LIFETIME, None), (LIFETIME, 0), (LIFETIME, 2)],
            [0.0, 0.0, 2.0],
            id="it comes and goes",
        ),
    ],
)
def test_a_path_that_lets_go_of_an_entry_makes_no_flood_of_it(
    steps: list[tuple[int | None, int | None]], rates: list[float]
) -> None:
    """What software has counted in an entry's whole life is no traffic of this second."""
    stand, measured = Stand(), []
    for software, switch in steps:
        stand.in_software = {} if software is None else {KEY: traffic(software)}
        stand.in_switch = {} if switch is None else {KEY: traffic(switch)}
        measured += [e.rates[KEY] for e in stand.later() if isinstance(e, TrafficMeasured)]
    assert measured == [rate / MEASURE_S for rate in rates]


def test_software_that_cannot_be_read_says_nothing_and_hides_nothing() -> None:
    """A restarted agent must know what the switch holds; its counts are no flood afterwards."""
    stand = Stand()
    stand.broken = True
    stand.in_switch, stand.in_software = {KEY: traffic(10)}, {OTHER: traffic(LIFETIME)}
    stand.later()
    stand.in_switch = {KEY: traffic(30)}
    switched = TrafficMeasured({KEY: 20 / MEASURE_S}, frozenset({KEY}))
    assert stand.later() == [switched]
    stand.broken = False
    stand.in_switch = {KEY: traffic(50)}
    assert stand.later() == [switched]
    stand.in_software = {OTHER: traffic(LIFETIME + 3)}
    assert stand.later() == [TrafficMeasured({KEY: 0.0, OTHER: 3 / MEASURE_S}, frozenset({KEY}))]


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


def test_a_switch_that_dies_while_it_is_asked_is_told_of_at_once() -> None:
    stand = Stand()
    stand.later()
    stand.silent = "no answer within 1 s"
    assert stand.later() == [SwitchSeen(None, "no answer within 1 s")]
    stand.silent = ""
    assert stand.later()[0] == SwitchSeen(Capability("test", "switch"))
    assert stand.looks == 1


def hanging(stand: Stand) -> tuple[threading.Event, threading.Event]:
    """Have a look wait for the second event, and tell by the first that it does."""
    asked, answered = threading.Event(), threading.Event()
    describe = stand.describe

    def late() -> Capability:
        asked.set()
        assert answered.wait(30)
        return describe()

    stand.describe = late  # type: ignore[method-assign]
    return asked, answered


def test_a_switch_that_falls_silent_in_the_middle_of_a_look_is_told_of_at_once() -> None:
    """The look may take its time: it has more to wait for than whether anybody is there."""
    stand = Stand()
    stand.later()
    stand.events.clear()
    asked, answered = hanging(stand)
    look = threading.Thread(target=stand.feed.watch)
    look.start()
    assert asked.wait(5)
    stand.feed.ping()
    assert stand.events == []
    stand.mute = "no answer within 0.7 s"
    for _ in range(2):
        stand.feed.ping()
        assert stand.events == [SwitchSeen(None, "no answer within 0.7 s")]
    stand.mute = ""
    stand.feed.ping()
    assert len(stand.events) == 1  # that it is back, a look says
    answered.set()
    look.join()
    assert stand.events[1] == SwitchSeen(Capability("test", "switch"))
    assert stand.looks == 1


def test_who_is_silent_is_told_of_while_a_look_still_waits() -> None:
    """The thread that asks only whether it answers is not the one that waits."""
    stand = Stand()
    stand.mute = "no answer within 0.7 s"
    asked, answered = hanging(stand)
    stand.feed.start(stand.events.append)
    try:
        assert asked.wait(5)
        assert until(lambda: stand.events == [SwitchSeen(None, "no answer within 0.7 s")])
    finally:
        answered.set()
        stand.feed.stop()


def test_to_stop_waits_for_no_silent_switch() -> None:
    """A look at one takes up to fifteen seconds, and who ends an agent waits for ten."""
    stand = Stand()
    asked, answered = hanging(stand)
    stand.feed.start(stand.events.append)
    assert asked.wait(5)
    began = time.monotonic()
    stand.feed.stop()
    assert time.monotonic() - began < 5 * WATCH_S
    answered.set()


@pytest.mark.parametrize(
    ("counts", "looks"),
    [
        pytest.param([7, 7, 7], 0, id="as it was"),
        pytest.param([0, 7, 9, 9], 2, id="more, which hides what is lost meanwhile"),
        pytest.param([9, 8, 8], 1, id="one is lost"),
        pytest.param([9, 8, 9, 9, 0], 3, id="put back, and lost again"),
        pytest.param([9, None, 8], 1, id="down, and one is lost"),
    ],
)
def test_another_number_of_rows_is_looked_at(counts: list[int | None], looks: int) -> None:
    stand = Stand()
    for stand.rows in counts:
        stand.later()
    assert stand.looks == looks


def test_of_a_switch_that_is_down_a_ping_says_nothing_else() -> None:
    stand = Stand()
    stand.down = "what it was asked for is not there"
    stand.later()
    stand.events.clear()
    stand.mute = "no answer within 0.7 s"
    stand.feed.ping()
    assert stand.events == []


def test_a_fault_of_ours_in_a_ping_is_said_and_ends_nothing() -> None:
    stand = Stand()
    stand.later()
    stand.events.clear()
    stand.bug = "ping"
    stand.feed.ping()
    assert stand.events == [
        SwitchSeen(None, "internal error, please report it: KeyError('dl_dst')")
    ]


@pytest.mark.parametrize("question", ["describe", "counters", "traffic"])
def test_a_fault_of_ours_is_said_once_and_ends_nothing(question: str) -> None:
    stand = Stand()
    stand.later()
    stand.bug = question
    assert stand.later() == [
        SwitchSeen(None, "internal error, please report it: KeyError('dl_dst')")
    ]
    assert stand.later() == []
    stand.bug = ""
    assert stand.later()[0] == SwitchSeen(Capability("test", "switch"))
    assert stand.looks == 1


def test_the_thread_outlives_a_fault_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WATCH_S", 0.01)
    stand = Stand()
    stand.bug = "describe"
    stand.feed.start(stand.events.append)
    assert until(lambda: len(stand.events) == 1)
    stand.bug = ""
    assert until(lambda: SwitchSeen(Capability("test", "switch")) in stand.events)
    stand.feed.stop()


def test_who_lists_entries_is_told_that_the_switch_does_not_answer() -> None:
    stand = Stand()
    counters = Counters(stand, stand)  # type: ignore[arg-type]  # it is asked for one thing alone
    assert counters.switched() == {}
    stand.bug = "counters"
    assert counters.switched() is None
