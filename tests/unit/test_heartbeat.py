"""When the other half of a DPU is dead, and when it is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.core.heartbeat import ANSWER_S, ASK_S, MISSES, SILENT_S, Pulse

Step = tuple[float, int | None]


def after(*steps: Step) -> Pulse:
    """Return what is known after counts that came at a time, None: there was no answer."""
    pulse = Pulse()
    for now, count in steps:
        pulse = pulse.lacking() if count is None else pulse.told(count, now)
    return pulse


@pytest.mark.parametrize(
    ("steps", "now", "dead"),
    [
        pytest.param([], 0.0, True, id="never heard"),
        pytest.param([(0, 1)], 0.0, False, id="heard"),
        pytest.param([(0, 1)], SILENT_S, False, id="just in time"),
        pytest.param([(0, 1)], SILENT_S + 0.01, True, id="silent"),
        pytest.param([(0, 1), (1, None)], 1.0, False, id="one miss"),
        pytest.param([(0, 1), (1, None), (2, None)], 2.0, True, id="two misses"),
        pytest.param([(0, 1), (1, None), (2, 2), (3, None)], 3.0, False, id="a miss between"),
        pytest.param([(0, 1), (1, None), (2, None), (3, 2)], 3.0, False, id="back"),
        pytest.param([(0, 7), (1, 7)], 1.0, False, id="the same count once"),
        pytest.param([(0, 7), (1, 7), (2, 7)], 2.0, True, id="a count that stands still"),
        pytest.param([(0, 7), (1, 1)], 1.0, False, id="started anew"),
        pytest.param([(0, 0), (1, 0), (2, 0)], 2.0, False, id="it does not count"),
        pytest.param([(1e9, 1)], 1e9 + SILENT_S, False, id="whatever the clock began with"),
    ],
)
def test_pulse(steps: list[Step], now: float, dead: bool) -> None:
    assert after(*steps).is_dead(now) is dead


def test_a_dead_half_is_seen_within_three_seconds() -> None:
    """The worst case: it dies just after an answer, and no question is refused."""
    assert ASK_S + MISSES * ANSWER_S <= SILENT_S
    assert SILENT_S + ASK_S <= 3.0  # and until the inventory looks


@given(
    st.lists(st.one_of(st.none(), st.integers(1, 5)), max_size=30),
    st.floats(0, SILENT_S, exclude_min=True),
)
def test_dead_is_who_lacks_two_or_is_late(counts: list[int | None], late: float) -> None:
    pulse, newest, missed = Pulse(), 0, 0
    for number, count in enumerate(counts):
        is_news = count is not None and count != newest
        newest, missed = (count or newest, 0) if is_news else (newest, missed + 1)
        pulse = pulse.lacking() if count is None else pulse.told(count, float(number))
    assert pulse.missed == missed
    if pulse.at >= 0:
        assert pulse.is_dead(pulse.at + late) is (missed >= MISSES)
    else:
        assert pulse.is_dead(late)
