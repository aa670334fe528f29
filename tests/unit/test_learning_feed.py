"""The feed that hears claims: where it listens, and how often it tells; frames are given."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from dataplane import learning
from dataplane.core.events import AddressesLearned, Event, Link, LinksChanged
from dataplane.core.learning import AGE_S
from dataplane.core.snapshot import Snapshot
from dataplane.learning import LearningFeed
from tests.unit.test_core_learning import OWN, arp, unnumbered
from tests.unit.test_core_state import after, desired, synced

NETDEV = Link("vp0", 7, "02:00:00:00:00:bb", 1500, up=True)


class Wire:
    """What was opened and is not closed, and what comes on it next."""

    def __init__(self) -> None:
        self.open: list[str] = []
        self.frames: list[bytes] = []

    def overheard(self, netdev: str) -> Wire.End:
        return Wire.End(self, netdev)

    class End:
        def __init__(self, wire: Wire, netdev: str) -> None:
            self._wire, self._netdev = wire, netdev
            wire.open.append(netdev)

        def frames(self, most: int) -> list[bytes]:
            told, self._wire.frames = self._wire.frames[:most], self._wire.frames[most:]
            return told

        def close(self) -> None:
            self._wire.open.remove(self._netdev)


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    made = Wire()
    monkeypatch.setattr(learning, "Overheard", made.overheard)
    yield made
    assert made.open == []


def test_claims_are_told_once_until_they_are_too_old(wire: Wire) -> None:
    state = after(*synced(), unnumbered(), LinksChanged((NETDEV,)))
    (port,) = desired(state).ports
    snapshot, now = Snapshot(state, (), desired=desired(state)), 100.0
    told: list[Event] = []
    feed = LearningFeed(lambda: snapshot, lambda: now)
    feed.look(told.append)
    assert (wire.open, told) == (["vp0"], [])
    frame = bytes(arp(hwsrc=port.attachment.mac, psrc="10.0.0.9")).replace(
        bytes.fromhex(OWN.replace(":", "")), bytes.fromhex(port.attachment.mac.replace(":", ""))
    )
    for _ in range(3):
        wire.frames = [frame] * 1000
        feed.look(told.append)
    known = AddressesLearned({"ot0": (ip_address("10.0.0.9"),)})
    assert told == [known]
    assert len(wire.frames) > 900  # what is more waits, or is lost in the kernel
    wire.frames, now = [], now + AGE_S
    feed.look(told.append)
    assert told == [known, AddressesLearned({})]
    snapshot = Snapshot(after(*synced()), (), desired=desired(after(*synced())))
    feed.look(told.append)
    assert wire.open == []
    feed.stop()


def test_a_netdev_that_was_made_anew_is_heard_anew(wire: Wire) -> None:
    state = after(*synced(), unnumbered(), LinksChanged((NETDEV,)))
    snapshot = Snapshot(state, (), desired=desired(state))
    feed = LearningFeed(lambda: snapshot)
    feed.look(lambda _: None)
    (before,) = feed._heard
    again = after(LinksChanged((Link("vp0", 8, NETDEV.mac, 1500, up=True),)), state=state)
    snapshot = Snapshot(again, (), desired=desired(again))
    feed.look(lambda _: None)
    (now,) = feed._heard
    assert (before, now) == (("ot0", "vp0", 7), ("ot0", "vp0", 8))
    assert wire.open == ["vp0"]
    feed.stop()
