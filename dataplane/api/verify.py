"""The answer to Verify: the same frames asked of every path of this node, compared, and told."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from dataplane.api import agent_pb2 as pb
from dataplane.contracts import ObservedPath, PacketPaths
from dataplane.core.agreement import (
    Disagreement,
    Observed,
    Question,
    disagreement,
    excusable,
    is_excused,
    unobserved,
)
from dataplane.core.capability import Capability, Departure
from dataplane.core.corpus import MARK_BYTES, Choice, Corpus, Draw, corpus
from dataplane.core.errors import InvalidValueError, OverweaveError
from dataplane.core.model import EntryKey
from dataplane.core.path import UPWARDS, Action
from dataplane.core.snapshot import SWITCH_TARGET, Snapshot

_AT_ONCE = 32
_NOT_SENT = (
    "of a real device it is seen only where frames are really sent, by pods on its host:"
    " overweave verify --send"
)

_ABLE = Capability("", "")  # of what is like Open vSwitch in all


def verify(
    snapshot: Snapshot, paths: PacketPaths, request: pb.VerifyRequest
) -> Iterator[pb.Verified]:
    """Yield what was found, some frames at a time. Raises InvalidValueError.

    Nothing is sent but where the request says so, and a path can be seen at work only.
    """
    asked = _corpus(snapshot, request)
    questions = asked.questions
    judges, truth = [_Judge(paths.fast)], _Judge(paths.ovs)
    is_sent = paths.switch is None and paths.device is not None and request.send
    below, switch = paths.device if is_sent else paths.switch, snapshot.state.switch
    if below is not None:
        judges.insert(0, _Judge(below, switch.capability or _ABLE, switch.held))
    if is_sent:  # what is sent goes together, for each time all wait for what comes out
        questions = tuple(sorted(questions, key=lambda question: not question.harmless))
    absent = [_unasked(switch.error)] if below is None and switch.exists else []
    node, total = snapshot.state.node.name, len(questions)
    yield pb.Verified(node=node, total=total, left_out=asked.left_out, paths=absent)
    for start in range(0, total, _AT_ONCE):
        batch = questions[start : start + _AT_ONCE]
        found = pb.Verified(node=node, total=total, asked=len(batch))
        truths = truth.ask(batch)
        found.paths.append(_tally(truth, truths))
        for judge in judges:
            tally, differences = judge.compared(batch, truths, truth)
            found.paths.append(tally)
            found.differences.extend(differences)
        yield found


def _corpus(snapshot: Snapshot, request: pb.VerifyRequest) -> Corpus:
    desired, nic = snapshot.desired, snapshot.state.bindings.nic
    if desired is None or nic is None:
        raise InvalidValueError("the agent does not know yet what should be, or has no NIC")
    draw = Draw(request.packets, request.seed, secrets.token_bytes(MARK_BYTES))
    return corpus(desired, nic, draw, Choice(request.segment, snapshot.state.bindings.placed))


def _unasked(error: str) -> pb.PathTally:
    return pb.PathTally(path=SWITCH_TARGET, why_not=error or _NOT_SENT)


@dataclass(slots=True)
class _Judge:
    """Asks one path; ``held`` are the entries of a switch; ``why_not``: it could not be asked."""

    path: ObservedPath
    able: Capability = _ABLE
    held: AbstractSet[EntryKey] | None = None
    why_not: str = ""

    def ask(self, questions: Sequence[Question]) -> list[Observed]:
        """Return what the path does with each; nothing observed where it cannot be asked."""
        self.why_not = ""
        try:
            return self.path.observed(questions)
        except OverweaveError as error:
            self.why_not = str(error)
            return [Observed({}, why=str(error)) for _ in questions]

    def compared(
        self, questions: Sequence[Question], truths: Sequence[Observed], truth: _Judge
    ) -> tuple[pb.PathTally, list[pb.Difference]]:
        """Return how often the path agrees, and in what it does not."""
        seen = self.ask(questions)
        tally = _tally(self, seen)
        suspects = []
        for question, here, there in zip(questions, seen, truths, strict=True):
            if found := self._judge(question, here, there):
                suspects.append((question, found))
            elif _is_unjudged(question, here, there):
                tally.unknown += 1
                tally.why_unknown = tally.why_unknown or f"{truth.path.name}: {there.why}"
        excused, differences = self._again(suspects, truth)
        tally.differed, tally.why_not = len(differences), tally.why_not or self.why_not
        for departure, count in excused.items():
            tally.excused[departure] = count
        for here, there in zip(seen, truths, strict=True):
            for name in unobserved(here, there):
                tally.not_observed[name] += 1
        return tally, differences

    def _again(
        self, suspects: Sequence[tuple[Question, Disagreement]], truth: _Judge
    ) -> tuple[Counter[Departure], list[pb.Difference]]:
        """Ask once more: what was asked while something changed is no difference.

        What is not answered this time stays what it was. Return how often each departure of the
        device excuses one, and those that none does.
        """
        excused, differences = Counter[Departure](), list[pb.Difference]()
        if not suspects:
            return excused, differences
        questions = [question for question, _ in suspects]
        answers = zip(suspects, self.ask(questions), truth.ask(questions), strict=True)
        for (question, before), here, there in answers:
            is_lost = here.action is Action.UNKNOWN or _lacks_truth(question, there)
            found = before if is_lost else self._judge(question, here, there)
            if found is None:
                continue
            departure = None if is_lost else self._departure(question, here, there, truth)
            if departure is not None:
                excused[departure] += 1
            else:
                differences.append(
                    _difference(self.path.name, question, found, self._holds(question))
                )
        return excused, differences

    def _departure(
        self, question: Question, here: Observed, there: Observed, truth: _Judge
    ) -> Departure | None:
        """Return which declared departure a difference is."""
        asked = excusable(question, self.able.departures)
        if asked is None or question.excuse is None:
            return None
        (instead,) = truth.ask([asked])
        is_it = is_excused(question, here, (there, instead), self.able.cannot_set)
        return question.excuse.departure if is_it else None

    def _holds(self, question: Question) -> str:
        """Return what a switch has for a frame, in words; empty: this is no switch."""
        if self.held is None or question.about is None:
            return ""
        vni, mac = question.about
        return f"; it holds {'an' if question.about in self.held else 'no'} entry of {mac} in {vni}"

    def _judge(self, question: Question, here: Observed, there: Observed) -> Disagreement | None:
        return disagreement(question, here, there, self.able.cannot_set)


def _is_unjudged(question: Question, here: Observed, there: Observed) -> bool:
    """Say whether what a path did has nothing that it could be held against."""
    is_done = here.action not in (Action.UNKNOWN, Action.COUNTED, *UPWARDS)
    return is_done and _lacks_truth(question, there)


def _lacks_truth(question: Question, there: Observed) -> bool:
    """Say whether Open vSwitch has not said what only it knows."""
    return question.sound and question.fits and there.action is Action.UNKNOWN


def _tally(judge: _Judge, seen: Sequence[Observed]) -> pb.PathTally:
    """Return what a path did, by verdict."""
    counts = Counter(each.action for each in seen)
    unknown = counts.pop(Action.UNKNOWN, 0)
    absent = counts.pop(Action.NONE, 0)
    return pb.PathTally(
        path=judge.path.name,
        why_not=judge.why_not,
        asked=len(seen) - absent,
        verdicts={str(action): count for action, count in counts.items()},
        unknown=unknown,
        why_unknown=_first_why(seen, Action.UNKNOWN),
        absent=absent,
        why_absent=_first_why(seen, Action.NONE),
    )


def _first_why(seen: Sequence[Observed], action: Action) -> str:
    return next((each.why for each in seen if each.why and each.action is action), "")


def _difference(path: str, question: Question, found: Disagreement, holds: str) -> pb.Difference:
    return pb.Difference(
        path=path,
        question=question.name,
        field=found.field,
        said=found.said,
        truth=found.truth,
        rule=f"{found.rule}{holds}",
        truths_rule=found.truths_rule,
        frame=question.frame.hex(),
    )
