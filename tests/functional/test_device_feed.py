"""The feed of DPUs on trees that change while it looks: what it tells, and how soon."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from dataplane.core.events import DevicesFound, Event
from tests.unit.sysfs_trees import Tree, config_space
from vendors import discovery
from vendors.discovery import DeviceFeed

STATED_S = 2.0
BOUND_S = 5 * STATED_S  # only the benchmark judges by what is stated


class Watch:
    """A feed that looks at ``tree``, and what it has posted."""

    def __init__(self, root: Path) -> None:
        self.tree = Tree(root)
        self.feed = DeviceFeed(root)
        self._posted: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.feed.start(self._posted.put)

    def told(self) -> list[str]:
        """Return the names in the next event, which must come in time."""
        since = time.monotonic()
        event = self._posted.get(timeout=BOUND_S)
        print(f"told after {time.monotonic() - since:.2f} s, stated {STATED_S} s")
        assert isinstance(event, DevicesFound)
        return [half.name for half in event.found]

    def is_silent(self, looks: int = 4) -> bool:
        """Say whether nothing is told in the time of so many looks."""
        time.sleep(looks * discovery.LOOK_S)
        return self._posted.empty()


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    watch = Watch(tmp_path)
    yield watch
    watch.feed.stop()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "LOOK_S", 0.1)


def octeon(tree: Tree, bus: str, serial: str) -> None:
    config = config_space(serial)
    tree.function(f"0000:{bus}:00.0", "177d:b900", [f"enp{bus}s0"], config=config)


ONE, OTHER = "00-0f-b7-ff-ff-00-00-01", "00-0f-b7-ff-ff-00-00-02"


def test_cards_that_come_and_go(watch: Watch) -> None:
    octeon(watch.tree, "03", ONE)
    assert watch.told() == [f"{ONE}-host"]
    octeon(watch.tree, "04", OTHER)
    assert watch.told() == [f"{ONE}-host", f"{OTHER}-host"]
    watch.tree.vfs("0000:03:00.0", "177d:b903", {"0000:03:02.0": "v0"})
    assert watch.told() == [f"{ONE}-host", f"{OTHER}-host"]
    watch.tree.unplug("0000:03:00.0", "0000:03:02.0")
    assert watch.told() == [f"{OTHER}-host"]
    watch.tree.unplug("0000:04:00.0")
    assert watch.told() == []


def test_a_listing_that_cannot_be_read_takes_nothing_away(quick: None, watch: Watch) -> None:
    octeon(watch.tree, "03", ONE)
    assert watch.told() == [f"{ONE}-host"]
    away = watch.tree.listing.with_name("away")
    with capture_logs() as logs:
        watch.tree.listing.rename(away)
        assert watch.is_silent()
        away.rename(watch.tree.listing)
        assert watch.is_silent()
    (told,) = logs
    assert (told["event"], told["faults"]) == ("discovery.unread", 1)
    assert told["first"].endswith("bus/pci/devices: it is not there")


def test_rubbish_is_told_once_and_the_others_come_and_go(quick: None, watch: Watch) -> None:
    with capture_logs() as logs:
        for number in range(5):
            (watch.tree.listing / f"0000:99:00.{number}").mkdir()
        octeon(watch.tree, "03", ONE)
        assert watch.told() == [f"{ONE}-host"]
        watch.tree.unplug("0000:03:00.0")
        assert watch.told() == []
    (told,) = [log for log in logs if log["faults"] == 5]
    assert told["first"].count("vendor: it is not there") == 3


def test_a_fault_of_ours_is_told_once_and_ends_nothing(
    quick: None, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(_machine: object) -> None:
        raise ZeroDivisionError("at work")

    with capture_logs() as logs, monkeypatch.context() as patch:
        patch.setattr(discovery, "discover", crash)
        assert watch.is_silent()
    (told,) = logs
    assert (told["event"], told["thread"]) == ("look.crashed", "devices")
    assert told["error"].startswith("internal error, please report it: ZeroDivisionError")
    octeon(watch.tree, "03", ONE)
    assert watch.told() == [f"{ONE}-host"]
