"""What ``overweave bench offload`` times of an E2100: rows by P4Runtime batches, and their numbers.

The device is emulated, in Python: so these are figures of our driver beside that server's own pace.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

from finsy.proto import p4r

from bench import switch_entries
from bench.figures import YARDSTICK, Figure, at_least, median
from bench.switch_entries import Scale, all_placed, answers, expect
from dataplane.core.desired import Desired, SegmentView
from dataplane.core.diff import Change, diff
from dataplane.core.model import Guard
from ovs_client import process
from vendors.intel.client import Client, Server
from vendors.registry import Driver

NODE = "d2"
MANY, FEW, TUNNELS, CHURNS = 1_000, 100, 300, 100
_KINDS = 4  # of tunnels: each encapsulation over each family
SCALE = Scale(vteps=TUNNELS // _KINDS, guard=Guard.OFF)
_MOVED = 10  # of a segment's endpoints, in a round of churn
_BACK_S, _CALL_S = 10.0, 5.0
_MS = 1000.0


@dataclass(slots=True)
class Samples:
    """What was measured, a value of each round; times in seconds, rates in rows a second."""

    batched: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    one_more: dict[int, list[float]] = field(default_factory=dict)
    replay: list[float] = field(default_factory=list)
    churn: list[float] = field(default_factory=list)
    leaked: int = 0


def figures(samples: Samples) -> Iterator[Figure]:
    """Yield what is told and judged of ``samples``."""
    name = "E2100, rows through P4Runtime batches"
    yield median(f"{YARDSTICK}{name}", samples.bare, "/s")
    yield at_least(median(name, samples.batched, "/s"), 2000.0)
    for there, took in samples.one_more.items():
        name = f"E2100, one endpoint more beside {there:,}"
        yield median(name, [seconds * _MS for seconds in took], "ms", 20.0)
    name = f"E2100, replay of {MANY:,} endpoints over {TUNNELS} tunnels after a reset"
    yield median(name, samples.replay, "s", 2.0)
    yield median(f"E2100, a round of churn, {MANY:,} endpoints", samples.churn, "s")
    name = f"E2100, rows too many after {CHURNS} rounds of churn"
    yield Figure(name, float(samples.leaked), "rows", 0.0)


class Steps(Protocol):
    """Counts rounds and shows how far they are."""

    def __call__(self, title: str, count: int, /) -> Iterator[int]:
        """Yield each round's number."""
        ...


@dataclass(slots=True)
class Run:
    """Takes ``samples`` of the device that ``switch`` drives and ``server`` is asked at."""

    switch: Driver
    server: Server
    reset: Callable[[], object]
    steps: Steps
    samples: Samples = field(default_factory=Samples)

    def measure(self, wanted: Callable[[int, Scale], Desired], rounds: int) -> None:
        """Take every sample; ``wanted`` gives so many endpoints. Raises OverweaveError."""
        many, few = wanted(MANY, SCALE), wanted(FEW, SCALE)
        for _ in self.steps("P4Runtime batches", rounds):
            self._fill(many)
            self._one_more(many, MANY)
            self._replay(many)
            self._bare()
            self._withdraw()
            self._place(few)
            self._one_more(few, FEW)
            self._withdraw()
        self._churn(many)

    def _place(self, wanted: Desired) -> Change:
        rendering = self.switch.render(wanted, all_placed(wanted))
        expect(NODE, not rendering.pending, f"it cannot be placed: {rendering.pending[:1]}")
        change = diff(rendering, self.switch.observe())
        self.switch.apply(change)
        return change

    def _withdraw(self) -> None:
        self.switch.apply(Change(remove=self.switch.observe()))
        expect(NODE, self.switch.describe().rows == 0, "something of ours is left")

    def _fill(self, wanted: Desired) -> None:
        change = diff(self.switch.render(wanted, all_placed(wanted)), self.switch.observe())
        began = time.monotonic()
        self.switch.apply(change)
        self.samples.batched.append(len(change) / (time.monotonic() - began))
        expect(NODE, self.switch.counters().keys() == switch_entries.keys(wanted), "it lacks some")

    def _one_more(self, wanted: Desired, there: int) -> None:
        """Take an endpoint out, and time it from being wanted to being there, as a worker does."""
        (name, view), *_ = wanted.segments.items()
        less = replace(wanted, segments={**wanted.segments, name: _less(view)})
        self._place(less)
        present = self.switch.observe()
        self.switch.describe()  # as the agent does all along
        began = time.monotonic()
        self.switch.apply(diff(self.switch.render(wanted, all_placed(wanted)), present))
        self.samples.one_more.setdefault(there, []).append(time.monotonic() - began)
        expect(
            NODE, self.switch.counters().keys() == switch_entries.keys(wanted), "it is not there"
        )

    def _replay(self, wanted: Desired) -> None:
        self.reset()
        expect(
            NODE, process.wait_until(lambda: answers(self.switch), _BACK_S), "it does not come back"
        )
        began = time.monotonic()
        change = self._place(wanted)
        self.samples.replay.append(time.monotonic() - began)
        expect(NODE, len(change) > MANY, "it had not lost all")

    def _bare(self) -> None:
        """Write the rows that stand there once more, in one batch after the other, unthinking."""
        raw = Client(self.server, time.time_ns(), _CALL_S)
        before = {row.SerializeToString() for row in raw.read(p4r.TableEntry())}
        self._withdraw()
        theirs = {row.SerializeToString() for row in raw.read(p4r.TableEntry())}
        rows = [p4r.TableEntry.FromString(row) for row in sorted(before - theirs)]
        raw.check_primary()
        began = time.monotonic()
        refused = [each for each in raw.insert(rows) if each is not None]
        self.samples.bare.append(len(rows) / (time.monotonic() - began))
        raw.close()
        expect(NODE, not refused, f"it refuses by hand what it took: {refused[:1]}")
        expect(
            NODE,
            process.wait_until(lambda: answers(self.switch), _BACK_S),
            "the driver is not primary again",
        )

    def _churn(self, wanted: Desired) -> None:
        """Have endpoints move and go at random, and count what is left behind in the end."""
        chance = random.Random(1)  # the same in every run
        self._place(wanted)
        held = self.switch.describe().rows
        for _ in self.steps("churn", CHURNS):
            views = {name: _churned(view, chance) for name, view in wanted.segments.items()}
            began = time.monotonic()
            self._place(replace(wanted, segments=views))
            self.samples.churn.append(time.monotonic() - began)
        self._place(wanted)
        self.samples.leaked = self.switch.describe().rows - held
        self._withdraw()


def _less(view: SegmentView) -> SegmentView:
    return replace(view, remotes=view.remotes[1:])


def _churned(view: SegmentView, chance: random.Random) -> SegmentView:
    """Return a segment some of whose endpoints are behind another VTEP, and some gone."""
    remotes = list(view.remotes)
    for number in chance.sample(range(len(remotes)), _MOVED):
        remotes[number] = replace(remotes[number], vtep=chance.choice(view.flood))
    left = tuple(chance.sample(remotes, len(remotes) - _MOVED))
    flood = tuple(sorted({remote.vtep for remote in left}, key=int))
    return replace(view, remotes=left, flood=flood)
