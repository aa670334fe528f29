"""Probes: what they look like, when one that is lost is told, and what of a DPU's health it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from dataplane.core.events import Event, PathProbed
from dataplane.core.model import Mac
from dataplane.core.probe import ETHERTYPE, PROBE_MAC, ProbeFrame, is_probe
from dataplane.probing import ProbeFeed

SENDER = Mac("02:00:00:00:00:07")
PROBE = ProbeFrame(SENDER, bytes(range(16)))
OTHER = ProbeFrame(SENDER, bytes(16))


def test_a_probe_is_the_shortest_frame_and_of_no_other_kind() -> None:
    frame = PROBE.frame
    assert len(frame) == 60
    assert frame[:6] == bytes.fromhex(PROBE_MAC.replace(":", ""))
    assert frame[6:12] == bytes.fromhex(SENDER.replace(":", ""))
    assert frame[12:14] == ETHERTYPE.to_bytes(2)
    assert frame[14:30] == PROBE.mark


@pytest.mark.parametrize(
    ("frame", "answered", "passed", "probe"),
    [
        pytest.param(PROBE.frame, False, True, True, id="as it was sent"),
        pytest.param(PROBE.frame + bytes(4), False, True, True, id="padded"),
        pytest.param(PROBE.frame[6:12] + PROBE.frame[6:], True, False, False, id="answered"),
        pytest.param(OTHER.frame, False, False, True, id="another one"),
        pytest.param(OTHER.frame[6:12] + OTHER.frame[6:], False, False, False, id="another's"),
        pytest.param(PROBE.frame[:40], False, False, True, id="cut"),
        pytest.param(b"", False, False, False, id="nothing"),
    ],
)
def test_what_a_frame_is(frame: bytes, answered: bool, passed: bool, probe: bool) -> None:
    found = (PROBE.is_answered_by(frame), PROBE.is_passed_as(frame), is_probe(frame))
    assert found == (answered, passed, probe)


class Answers:
    """A path whose probes become of what the table says."""

    def __init__(self, answers: Iterator[str | None]) -> None:
        self.answers = answers

    def probe(self) -> str | None:
        return next(self.answers)


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        pytest.param([""], [""], id="well"),
        pytest.param(["", "", ""], [""], id="told once"),
        pytest.param(["lost"], [], id="one miss at the start"),
        pytest.param(["", "lost", "", "lost", ""], [""], id="a miss now and then"),
        pytest.param(["", "lost", "lost", "lost"], ["", "lost"], id="two misses"),
        pytest.param(["lost", "lost", ""], ["lost", ""], id="back at once"),
        pytest.param(["lost", None, "lost"], ["lost"], id="between two that nobody can tell of"),
        pytest.param(["", None, None], [""], id="nobody can tell"),
        pytest.param(["lost", "lost", None], ["lost"], id="nobody can tell once"),
        pytest.param(["lost", "lost", None, None], ["lost", ""], id="nobody can tell any more"),
    ],
)
def test_what_is_told(answers: Sequence[str | None], told: list[str]) -> None:
    posted: list[Event] = []
    feed = ProbeFeed("ovs", Answers(iter(answers)))
    for _ in answers:
        feed.look(posted.append)
    assert posted == [PathProbed("ovs", error) for error in told]
