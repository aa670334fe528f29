"""Whether a packet path does with a packet what Open vSwitch does, and where it first not. Pure.

Not compared, because they differ by design: outer source port, IP id, checksums, flow label, and
the outer MACs, which are the next hop's.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import zip_longest

from dataplane.core.capability import Departure
from dataplane.core.frames import TunnelPacket, parse_tunnel, told_inside
from dataplane.core.model import EntryKey, IpAddress
from dataplane.core.path import ENDS, UPWARDS, Action, FromPod


class Field(StrEnum):
    """What is compared, in this order; ``Capability.cannot_set`` uses these names."""

    VERDICT = "verdict"
    OUTPUT = "output"
    SOURCE = "source VTEP"
    TARGET = "target VTEP"
    UDP_PORT = "UDP port"
    VNI = "VNI"
    ENCAP = "encapsulation"
    DF = "DF"
    TTL = "TTL"
    ECN = "ECN"
    INNER = "inner frame"


_FORWARDS = frozenset({Action.TUNNEL, Action.DELIVER})
Value = str | int | bytes | IpAddress
Values = Mapping[Field, Value]


@dataclass(frozen=True, slots=True)
class Excuse:
    """A device with ``departure`` does with a frame what Open vSwitch does with ``frame``.

    What is inside goes as it came all the same.
    """

    departure: Departure
    frame: bytes


@dataclass(frozen=True, slots=True)
class Question:
    """A frame that a pod sends, or (``entry`` None) that the NIC ``nic`` receives.

    ``mark`` is a part of the frame that no other frame has. Not ``sound``: no path may deliver it.
    Not ``fits``: the underlay cannot carry it. ``glued`` gives the AccessPort that an OVS port
    stands for, ``about`` is the entry of who it is for. ``excuse``: some devices may do otherwise.
    ``harmless``: it may really be sent, being what the pod could send at any time.
    """

    name: str
    frame: bytes
    mark: bytes
    entry: FromPod | None
    nic: str
    sound: bool = True
    fits: bool = True
    glued: Mapping[str, str] = field(default_factory=dict)
    about: EntryKey | None = None
    excuse: Excuse | None = None
    harmless: bool = False


@dataclass(frozen=True, slots=True)
class Observed:
    """What a path did with a frame: a field that is not in ``values`` was not observed.

    ``rule`` is what decided, ``why`` says why something was not observed.
    """

    values: Values
    rule: str = ""
    why: str = ""

    @property
    def action(self) -> Action:
        """Return what was done; UNKNOWN: not observed."""
        return Action(str(self.values.get(Field.VERDICT, Action.UNKNOWN)))


@dataclass(frozen=True, slots=True)
class Disagreement:
    """The first field in which a path differs, with both values and the rule on each side."""

    field: Field
    said: str
    truth: str
    rule: str
    truths_rule: str


def values_of(packet: TunnelPacket) -> dict[Field, Value]:
    """Return what a tunnel packet says, as fields."""
    tunnel = packet.tunnel
    found: dict[Field, Value] = {
        Field.SOURCE: tunnel.source,
        Field.TARGET: tunnel.target,
        Field.UDP_PORT: tunnel.udp_port,
        Field.VNI: tunnel.vni,
        Field.ENCAP: tunnel.encap,
        Field.TTL: packet.ttl,
        Field.ECN: packet.ecn,
        Field.INNER: packet.inner,
    }
    return found if packet.df is None else {**found, Field.DF: int(packet.df)}


def done(action: Action, output: str = "", inner: bytes | None = None) -> dict[Field, Value]:
    """Return the fields of what leaves no tunnel packet; ``output`` empty: it goes nowhere."""
    found: dict[Field, Value] = {Field.VERDICT: action}
    if output:
        found[Field.OUTPUT] = output
    if inner is not None:
        found[Field.INNER] = inner
    return found


def tunnelled(output: str, packet: TunnelPacket) -> dict[Field, Value]:
    """Return the fields of a packet that leaves by ``output`` in a tunnel."""
    return {Field.VERDICT: Action.TUNNEL, Field.OUTPUT: output, **values_of(packet)}


def is_same_miss(frame: bytes, came: bytes) -> bool:
    """Say whether ``came`` is ``frame``, or the same frame between the same VTEPs, written anew.

    Who takes a packet in and writes it anew tells congestion outside to the frame inside.
    """
    if came == frame:
        return True
    one, other = parse_tunnel(frame), parse_tunnel(came)
    if one is None or other is None:
        return False
    return (one.tunnel, told_inside(one)) == (other.tunnel, told_inside(other))


def disagreement(
    question: Question, seen: Observed, truth: Observed, cannot_set: AbstractSet[str] = frozenset()
) -> Disagreement | None:
    """Return where a path above Open vSwitch first does otherwise than that, its ``truth``.

    Such a path may always hand the frame over as it came; it may do nothing else that the truth
    does not. ``cannot_set`` are fields that the device is known to write otherwise. What was not
    observed on either side is no difference.
    """
    expected = _expected(question, seen, truth)
    for name in Field:
        if name in cannot_set or name not in seen.values or name not in expected.values:
            continue
        if not _same(question, name, seen.values[name], expected.values[name]):
            said, meant = _apart(seen.values[name], expected.values[name])
            return Disagreement(name, said, meant, seen.rule, expected.rule)
    return None


def excusable(question: Question, departures: AbstractSet[Departure]) -> Question | None:
    """Return what Open vSwitch is asked in the place of ``question``; None: nothing excuses it."""
    excuse = question.excuse
    if excuse is None or excuse.departure not in departures:
        return None
    return replace(question, frame=excuse.frame, fits=True, excuse=None)


def is_excused(
    question: Question,
    seen: Observed,
    truths: tuple[Observed, Observed],
    cannot_set: AbstractSet[str] = frozenset(),
) -> bool:
    """Say whether a difference is the one that ``question`` has an excuse for, and no other.

    ``truths`` are of the question, and of what is ``excusable`` in its place. What of the latter
    was not observed excuses nothing.
    """
    truth, instead = truths
    if question.excuse is None or seen.action not in _FORWARDS:
        return False
    if question.excuse.departure is Departure.ND_ANSWERS and not _is_answer(question, truth):
        return False
    meant = {**instead.values, Field.INNER: _inside(question)}
    if seen.values.keys() - meant.keys() - cannot_set:
        return False
    asked = replace(question, fits=True)
    return disagreement(asked, seen, Observed(meant), cannot_set) is None


def _is_answer(question: Question, truth: Observed) -> bool:
    """Say whether the sender has got something back."""
    own = question.entry.access_port if question.entry else None
    return truth.action is Action.DELIVER and truth.values.get(Field.OUTPUT) == own


def _inside(question: Question) -> bytes:
    """Return the frame that goes, or came, in a tunnel."""
    packet = None if question.entry else parse_tunnel(question.frame)
    return packet.inner if packet else question.frame


def unobserved(seen: Observed, truth: Observed) -> tuple[Field, ...]:
    """Return what the truth has and the path was not seen to do."""
    if seen.action in UPWARDS | ENDS:
        return ()
    known = {} if seen.action is Action.COUNTED else seen.values
    return tuple(name for name in Field if name in truth.values and name not in known)


def _expected(question: Question, seen: Observed, truth: Observed) -> Observed:
    """Return what ``seen`` is to be compared with: what it must have done, having done that."""
    match seen.action:
        case Action.NONE | Action.COUNTED:
            return Observed({})
        case Action.HAND_OVER:
            return Observed({Field.INNER: question.frame}, "what is handed over goes as it came")
        case Action.FLOOD:
            return Observed({Field.VERDICT: "one output"}, "Open vSwitch alone replicates")
    if not question.sound:
        return Observed({Field.VERDICT: Action.DROP}, "nobody delivers what is damaged")
    if not question.fits:
        return Observed({Field.VERDICT: Action.DROP}, "the underlay cannot carry it")
    return truth


def _apart(one: Value, other: Value) -> tuple[str, str]:
    """Return two values in words; of frames from where they differ."""
    if not isinstance(one, bytes) or not isinstance(other, bytes):
        return str(one), str(other)
    ends = zip_longest(one, other)
    at = next(n for n, (here, there) in enumerate(ends) if here != there)
    said, meant = (f"{len(each)} bytes with {each[at : at + 8].hex()}" for each in (one, other))
    return said, f"{meant} at byte {at}"


def _same(question: Question, name: Field, one: Value, other: Value) -> bool:
    if name is not Field.VERDICT or one not in ENDS:
        return one == other
    if one is Action.DROP and other is Action.HOST:
        # A stranger's tunnel packet may end here or there; what is the host's own may not.
        return parse_tunnel(question.frame) is not None
    return other in ENDS
