"""What a real switch does with a frame: a pod on the host sends it, and what comes out is seen.

Seen are the VFs of the host's pods, and all that the switch hands to the DPU. Not seen is what
leaves by the uplink. That an entry's counter has grown by it says that the entry took it, no more:
what rewrites it and sends it on comes behind.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from dataplane.contracts import Sending, Switch, Witness, Witnessed
from dataplane.core.agreement import Observed, Question, done
from dataplane.core.desired import Port, PortState
from dataplane.core.errors import OverweaveError
from dataplane.core.frames import is_answer, parse_tunnel
from dataplane.core.model import AttachmentKey, EntryKey
from dataplane.core.path import Action
from dataplane.core.placement import Traffic, forwarded
from dataplane.core.snapshot import SWITCH_TARGET
from dataplane.netlink.taps import Taps
from vendors.outputs import Came, Out, Wiring, out

_AT_ONCE = 32  # frames under way at a time
_LISTEN_S = 0.5  # a switch takes microseconds, an emulated one milliseconds; machines are busy
_COUNTED_S = 3.0  # Open vSwitch counts twice a second, hardware about once
_LOOK_S = 0.1
_TURN_S = 30.0
_OTHERS = "others' packets go by the same entry, so that its counter may hide a loss"
_NOT_SENT = "a real switch is asked only about plain frames that pods with a VF can send"


@dataclass(slots=True)
class _Round:
    """What was seen of frames that were under way together; ``came`` is by mark.

    ``counted`` says by how much each entry's counter has grown; ``blind`` why something may have
    come out unseen, ``faults`` at which pods.
    """

    came: Mapping[bytes, Came]
    faults: Mapping[AttachmentKey, str]
    blind: str
    counted: dict[EntryKey, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Awaited:
    """How many frames an entry must have counted if it took all that nobody saw."""

    unseen: int
    in_all: int


class SentPath:
    """An ObservedPath of the switch below this node; any thread may ask, and waits for its turn.

    ``pods`` are the ports behind the representors. Frames really travel: only those of
    ``Question.harmless`` are sent.
    """

    name = SWITCH_TARGET

    def __init__(
        self, switch: Switch, witness: Witness, pods: Callable[[], Sequence[Port]]
    ) -> None:
        self._switch = switch
        self._witness = witness
        self._pods = pods
        self._turn = threading.Lock()  # who counts must be the only one who sends

    def observed(self, questions: Sequence[Question]) -> list[Observed]:
        """Return what was seen of each frame. Raises OverweaveError if none can be sent."""
        pods = {p.attachment.access_port: p for p in self._pods() if p.state is PortState.ACTIVE}
        asked = [each for each in questions if each.harmless and _netdev(each) in pods]
        found: dict[bytes, Observed] = {}
        for start in range(0, len(asked), _AT_ONCE):
            found |= self._ask(asked[start : start + _AT_ONCE], pods)
        not_sent = Observed(done(Action.NONE), why=_NOT_SENT)
        return [found.get(question.mark, not_sent) for question in questions]

    def _ask(
        self, questions: Sequence[Question], pods: Mapping[str, Port]
    ) -> dict[bytes, Observed]:
        """Return what was seen, by mark; of what is doubtful, ask by halves."""
        with self._taking_turns():
            seen = self._send(questions, pods)
        judge = _Judge(questions, pods, seen)
        found = {question.mark: judge.observed(question) for question in questions}
        doubtful = [question for question in questions if judge.is_doubtful(question)]
        for half in (doubtful[::2], doubtful[1::2]):
            if half:
                found |= self._ask(half, pods)
        return found

    @contextmanager
    def _taking_turns(self) -> Iterator[None]:
        if not self._turn.acquire(timeout=_TURN_S):
            raise OverweaveError("others have frames sent all the time; try again")
        try:
            yield
        finally:
            self._turn.release()

    def _send(self, questions: Sequence[Question], pods: Mapping[str, Port]) -> _Round:
        keys = {netdev: port.attachment.key for netdev, port in pods.items()}
        sendings = [Sending(keys[_netdev(q)], q.frame, q.mark) for q in questions]
        before = self._switch.counters()
        with Taps[str]({question.mark for question in questions}) as taps:
            for netdev in {questions[0].nic, *pods}:
                taps.add(netdev, netdev)
            witnessed = self._witness.send(sendings, _LISTEN_S)
            missed = taps.missed()
            seen = _Round(
                came={q.mark: _came(q, taps, witnessed, keys) for q in questions},
                faults=witnessed.faults,
                blind="; ".join(f"{netdev}: {why}" for netdev, why in missed.items()),
            )
        self._count(seen, before, _Judge(questions, pods, seen).awaited)
        return seen

    def _count(
        self,
        seen: _Round,
        before: Mapping[EntryKey, Traffic],
        awaited: Mapping[EntryKey, _Awaited],
    ) -> None:
        """Read the counters until they have grown by all that is awaited, or had the time to."""
        give_up = time.monotonic() + _COUNTED_S
        while True:
            grown = seen.counted = forwarded(before, self._switch.counters())
            is_late = any(grown.get(k, each.in_all) < each.in_all for k, each in awaited.items())
            if not is_late or time.monotonic() > give_up:
                return
            time.sleep(_LOOK_S)


def _netdev(question: Question) -> str:
    return question.entry.access_port if question.entry else ""


def _vf(netdev: str) -> str:
    return f"the VF of {netdev}"


def _came(
    question: Question, taps: Taps[str], witnessed: Witnessed, keys: Mapping[str, AttachmentKey]
) -> Came:
    """Return what the switch has put out for a frame, by port.

    Not what the DPU's software sent to a VF, nor an answer to the frame that quotes it.
    """
    heard = [each for each in taps.heard if each.mark == question.mark]
    came: dict[str, list[bytes]] = {}
    for netdev, key in keys.items():
        frames = [frame for at, frame in witnessed.came if at == key and question.mark in frame]
        for each in heard:
            if each.sent and each.tap == netdev and each.frame in frames:
                frames.remove(each.frame)
        came[_vf(netdev)] = frames
    for each in heard:
        if not each.sent:
            came.setdefault(each.tap, []).append(each.frame)
    return {
        port: [frame for frame in frames if not _is_answer(question, frame)]
        for port, frames in came.items()
    }


def _is_answer(question: Question, frame: bytes) -> bool:
    packet = parse_tunnel(frame)
    return is_answer(question.frame, packet.inner if packet else frame)


class _Judge:
    """Says of frames that were under way together what each did."""

    def __init__(
        self, questions: Sequence[Question], pods: Mapping[str, Port], seen: _Round
    ) -> None:
        self._seen = seen
        self._wiring = Wiring(
            uplink="",
            cpu=questions[0].nic,
            vfs={netdev: _vf(netdev) for netdev in pods},
            misses={netdev: netdev for netdev in pods},
        )
        self._keys = {netdev: port.attachment.key for netdev, port in pods.items()}
        self._behind = {
            EntryKey(port.segment.vni, port.attachment.mac): port.attachment.key
            for port in pods.values()
        }
        self._senders: defaultdict[EntryKey | None, set[AttachmentKey]] = defaultdict(set)
        for question in questions:
            if question.about is not None:
                self._senders[question.about].add(self._sender(question))
        self.awaited = self._awaited(questions)

    def observed(self, question: Question) -> Observed:
        """Return what was seen of a frame, and what follows from its entry's counter."""
        found, about = self._out(question), question.about
        if found.action is not Action.DROP:
            return found.observed
        if why := self._why_unknown(question):
            return Observed({}, found.rule, why)
        counted = self._seen.counted.get(about) if about else None
        if about is None or counted is None:
            return Observed(done(Action.DROP), f"{found.rule}; no entry is there to count it")
        awaited, is_behind = self.awaited[about].in_all, about in self._behind
        rule = f"{found.rule}; its entry has counted {counted} of {awaited}"
        if counted > awaited and not is_behind:
            return Observed({}, rule, _OTHERS)
        is_taken = counted == awaited and not is_behind
        return Observed(done(Action.COUNTED if is_taken else Action.DROP), rule)

    def is_doubtful(self, question: Question) -> bool:
        """Say whether what its entry has counted does not tell of a frame, and might of fewer.

        A part of several unseen ones, or more than was sent at all: others' packets went by it.
        """
        about = question.about
        awaited = self.awaited.get(about) if about else None
        if about is None or awaited is None or about in self._behind:
            return False
        if self._out(question).action is not Action.DROP or self._why_unknown(question):
            return False
        counted, in_all = self._seen.counted.get(about, 0), awaited.in_all
        is_part = awaited.unseen > 1 and in_all - awaited.unseen < counted < in_all
        return is_part or (in_all > 1 and counted > in_all)

    def _awaited(self, questions: Sequence[Question]) -> dict[EntryKey, _Awaited]:
        """Return what the entries of frames that were not seen have to count."""
        unseen, switched = Counter[EntryKey](), Counter[EntryKey]()
        for question in questions:
            action = self._out(question).action
            if question.about is None or self._why_unknown(question):
                continue
            unseen[question.about] += action is Action.DROP
            switched[question.about] += action is not Action.HAND_OVER
        return {key: _Awaited(count, switched[key]) for key, count in unseen.items() if count}

    def _out(self, question: Question) -> Out:
        came = self._seen.came[question.mark]
        return out(question, came, self._wiring, f"sent from {_vf(_netdev(question))}")

    def _sender(self, question: Question) -> AttachmentKey:
        return self._keys[_netdev(question)]

    def _why_unknown(self, question: Question) -> str:
        """Return why of a frame that was not seen nothing follows; empty: all was watched.

        Whoever could not be watched may have sent, and the entry has counted that, too.
        """
        ends = {self._sender(question), *self._senders[question.about]}
        if question.about in self._behind:
            ends.add(self._behind[question.about])
        faults = [why for key, why in self._seen.faults.items() if key in ends]
        return "; ".join(filter(None, (*faults, self._seen.blind)))
