"""``verify``: the same frames through switch, eBPF and Open vSwitch of each node, compared."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import click

from dataplane.api import agent_pb2 as pb
from dataplane.cli.agents import as_record, verified
from dataplane.cli.find import agent_option
from dataplane.cli.outcome import FAILED, OK, UNREACHABLE
from dataplane.cli.output import Format, Listing, Record, output_option, show
from dataplane.core.errors import OverweaveError
from dataplane.core.path import Action

PATHS = Listing(
    "path",
    (
        *("node", "path", "asked", "agree", "handed_over"),
        *("counted", "excused", "differ", "unknown", "not_observed"),
    ),
)
VERIFIES = Listing("verify", ())
_TRUTH = "ovs"
_SHOWN = 20  # differences with -o wide
_COUNTED = "their entries have counted them; what leaves by the uplink is not seen"
_PACKETS, _MOST_PACKETS = 100, 100_000


@dataclass(slots=True)
class Tally:
    """What one path of one node did with all the frames."""

    node: str
    path: str
    why_not: str = ""
    asked: int = 0
    handed_over: int = 0
    counted: int = 0
    differ: int = 0
    unknown: int = 0
    why_unknown: str = ""
    absent: int = 0
    why_absent: str = ""
    not_observed: Counter[str] = field(default_factory=Counter)
    cannot: Counter[str] = field(default_factory=Counter)

    def add(self, tally: pb.PathTally) -> None:
        """Count some more frames."""
        self.why_not = self.why_not or tally.why_not
        self.why_unknown = self.why_unknown or tally.why_unknown
        self.why_absent = self.why_absent or tally.why_absent
        self.asked += tally.asked
        self.absent += tally.absent
        self.handed_over += tally.verdicts.get(Action.HAND_OVER, 0)
        self.counted += tally.verdicts.get(Action.COUNTED, 0)
        self.differ += tally.differed
        self.unknown += tally.unknown
        self.not_observed.update(tally.not_observed)
        self.cannot.update(tally.excused)

    @property
    def record(self) -> Record:
        """Return it as a row."""
        excused = self.cannot.total()
        apart = self.handed_over + self.counted + excused + self.differ + self.unknown
        return {
            "node": self.node,
            "path": self.path,
            "asked": self.asked,
            "agree": self.asked - apart,
            "handed_over": self.handed_over,
            "counted": self.counted,
            "excused": excused,
            "differ": self.differ,
            "unknown": self.unknown,
            "not_observed": dict(self.not_observed),
            "cannot": dict(self.cannot),
            "why_not": self.why_not,
            "why_unknown": self.why_unknown,
            "absent": self.absent,
            "why_absent": self.why_absent,
        }


@dataclass(frozen=True, slots=True)
class Found:
    """What all agents found, and the words on those who were not heard."""

    tallies: Sequence[Tally]
    differences: Sequence[Record]
    frames: int
    left_out: int
    silent: Sequence[str]

    @property
    def nodes(self) -> int:
        """Return how many nodes were heard."""
        return len({tally.node for tally in self.tallies})

    @property
    def unasked(self) -> list[Tally]:
        """Return the paths that could not be asked."""
        return [tally for tally in self.tallies if tally.why_not]

    @property
    def status(self) -> int:
        """Return the exit status that tells it."""
        if self.differences:
            return FAILED
        lost = any(tally.asked for tally in self.unasked)
        blind = any(tally.path == _TRUTH and tally.unknown == tally.asked for tally in self.tallies)
        return UNREACHABLE if self.silent or lost or blind else OK

    @property
    def verdict(self) -> str:
        """Say it in a line."""
        about = f"{self.frames} frames on {self.nodes} nodes"
        if self.differences:
            first = self.differences[0]
            return f"{_blame(first)} differs in {first['field']}; {about}"
        if self.status == UNREACHABLE:
            return f"not known: not every node and path was heard; no difference in {about}"
        return f"all agree{self._but}: {about}"

    @property
    def _but(self) -> str:
        """Return the exceptions to that, if there are any."""
        seen = ", as far as is seen" if any(t.counted for t in self.tallies) else ""
        able = ", but in what the device cannot do" if any(t.cannot for t in self.tallies) else ""
        return seen + able


@click.command()
@click.option(
    "--packets",
    type=click.IntRange(0, _MOST_PACKETS),
    default=_PACKETS,
    show_default=True,
    help="frames drawn on each node, beside a fixed set that goes to the edges",
)
@click.option("--seed", default="overweave", show_default=True, help="of what is drawn")
@click.option("--segment", default="", help="only this segment")
@click.option("--send", is_flag=True, help="let pods with a VF of a real device send frames")
@output_option
@agent_option
def verify(  # noqa: PLR0913, PLR0917 - one for each option
    packets: int,
    seed: str,
    segment: str,
    send: bool,  # noqa: FBT001
    form: str,
    sockets: tuple[Path, ...],
) -> int:
    """Compare what switch, eBPF and Open vSwitch of each node do with the same frames.

    Frames of all kinds, from the node's pods (the first 16 get every kind, others plain ones) and
    from the wire: same verdict, output, inner frame,
    VTEPs, UDP port, VNI, encapsulation, DF, TTL and ECN. Open vSwitch is the truth; a path above
    it may hand over what it does not take, and never do otherwise. Nothing is sent: eBPF programs
    run on the frames, flows are traced, an emulated switch is let catch them; all but Open vSwitch
    count them like any others. What differs is asked twice. What a device declares that it cannot
    do is counted apart, and no difference.

    With --send, the switch of a real device is asked, too, as far as it can be: pods on its host
    that have a VF really send plain UDP, TCP and echo requests of their own to other endpoints,
    which may answer. What comes out at another VF or at the DPU is compared whole. What leaves by
    the uplink is not seen: what comes out nowhere is lost if its entry has not counted it; if it
    has, whether the frame left as it should is not known.

    Exits 0 if all agree, 1 if not, 3 if an agent or its Open vSwitch was not heard.
    """
    request = pb.VerifyRequest(packets=packets, seed=seed, segment=segment, send=send)
    found = _found(*verified(sockets, request, _Progress()))
    if not found.frames and not found.silent:
        raise OverweaveError(
            "no pair to ask about; attach two pods to a segment: overweave get port"
        )
    _tell(found, Format(form))
    return found.status


def _found(heard: Iterable[Sequence[pb.Verified]], silent: Sequence[str]) -> Found:
    tallies: dict[tuple[str, str], Tally] = {}
    differences: list[Record] = []
    frames = left_out = 0
    for each in (each for answer in heard for each in answer):
        frames += each.asked
        left_out += each.left_out
        differences += [{"node": each.node, **as_record(one)} for one in each.differences]
        for tally in each.paths:
            key = each.node, tally.path
            tallies.setdefault(key, Tally(*key)).add(tally)
    return Found([tallies[key] for key in sorted(tallies)], differences, frames, left_out, silent)


class _Progress:
    """Tells a person how far each node is."""

    def __init__(self) -> None:
        self._asked: Counter[str] = Counter()
        self._lock = Lock()

    def __call__(self, each: pb.Verified) -> None:
        with self._lock:
            self._asked[each.node] += each.asked
            if sys.stderr.isatty():
                click.echo(f"{each.node}: {self._asked[each.node]} of {each.total}", err=True)


def _tell(found: Found, form: Format) -> None:
    if form in (Format.JSON, Format.YAML):
        show([_as_one(found)], VERIFIES, form)
        return
    click.echo(found.verdict)
    show([tally.record for tally in found.tallies], PATHS, form)
    for line in _lines(found, _SHOWN if form is Format.WIDE else 1):
        click.echo(line)
    click.echo(f"next: {_next(found)}")


def _lines(found: Found, most: int) -> Iterator[str]:
    for tally in found.tallies:
        if tally.why_not:
            yield f"not asked: {tally.path} of {tally.node}: {tally.why_not}"
        elif tally.unknown:
            why = f"{tally.unknown} frames: {tally.why_unknown}"
            yield f"not observed: {tally.path} of {tally.node}: {why}"
        if tally.why_absent:
            why = f"{tally.absent} frames: {tally.why_absent}" if tally.asked else tally.why_absent
            yield f"not asked: {tally.path} of {tally.node}: {why}"
        if tally.counted:
            yield f"not observed: {tally.path} of {tally.node}: {tally.counted} frames: {_COUNTED}"
        for what, count in sorted(tally.cannot.items()):
            said = f"{count} frames: the device says that it cannot {what}"
            yield f"excused: {tally.path} of {tally.node}: {said}"
    yield from (f"not heard: {words}" for words in found.silent)
    if found.left_out:
        yield f"left out: {found.left_out} pairs of endpoints; ask by --segment"
    for one in found.differences[:most]:
        said = f"{one['said']}, not {one['truth']}"
        yield f"difference: {_blame(one)}: {one['field']}: {said}: {one['question']}"
        yield f"  {one['path']}: {one['rule'] or 'no more is known'}"
        yield f"  {_TRUTH}: {one['truths_rule'] or 'no more is known'}"
    if len(found.differences) > most:
        yield f"{len(found.differences) - most} differences more: -o wide, -o json"


def _blame(difference: Record) -> str:
    return f"{difference['path']} of {difference['node']}"


def _next(found: Found) -> str:
    if found.differences:
        return f"overweave explain {found.differences[0]['node']}"
    return "overweave status" if found.status else "overweave ping --mesh"


def _as_one(found: Found) -> Record:
    return {
        "verdict": found.verdict,
        "status": found.status,
        "frames": found.frames,
        "left_out": found.left_out,
        "paths": [tally.record for tally in found.tallies],
        "differences": list(found.differences),
        "not_heard": list(found.silent),
    }
