"""The loop: one thread folds events into the desired state; everything else only posts events."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from dataplane.contracts import AttachRefusedError, Feed, Target
from dataplane.core.admission import (
    DUPLICATE,
    INVALID_CONFIG,
    NO_FABRIC,
    NOT_GRANTED,
    TRY_AGAIN,
    settle,
)
from dataplane.core.derive import derive
from dataplane.core.desired import Desired, LocalNode, Port
from dataplane.core.errors import InvalidValueError, OverweaveError
from dataplane.core.events import (
    AttachCancelled,
    AttachmentsLoaded,
    AttachRequest,
    Detached,
    Event,
    FabricConnection,
    PodConnected,
    TakenOver,
    TargetReport,
    TrafficMeasured,
)
from dataplane.core.model import Attachment, AttachmentKey, Block, Verdict
from dataplane.core.offload import choose
from dataplane.core.overhead import pod_mtu
from dataplane.core.reasons import Reason
from dataplane.core.snapshot import FABRIC_TARGET, SWITCH_TARGET, Obstacle, Snapshot, obstacle
from dataplane.core.state import State, claim, confirm, fold
from dataplane.core.withdrawal import first_standing, leaving, loaded_standing, next_standing
from dataplane.worker import Job, Worker

_KNOW_SEGMENT_S = 1.0  # how long an ADD just after the start waits for the first rows
_BUSY_FABRIC_S = 10.0  # how long an ADD waits for rows from a database that is connected
_LAST_WORD_S = 2.0  # how long a decision may take once it need not wait for the database
_TAKE_OVER_S = 10.0  # how long local Targets may take to serve a pod that was just connected
_SWITCH_FIRST_S = 0.5  # how long a change waits for a DPU's switch to let go of what it was before
_WITHDRAW_S = 3.0  # how long a DEL waits for that, less than a host waits for its DPU
_CODES = {Reason.DUPLICATE: DUPLICATE, Reason.NOT_GRANTED: NOT_GRANTED}

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Parts:
    """What the loop drives; ``watch`` is told of which segments this node must see the rows.

    Each comes with a number; a FabricSynced of it carries the same.
    """

    targets: Sequence[Target]
    feeds: Sequence[Feed]
    watch: Callable[[Mapping[str, int]], None]


class Agent:
    """The deciding thread, its workers and feeds; implements contracts.Attachments."""

    def __init__(self, node: LocalNode, parts: Parts) -> None:
        """Prepare the loop for ``node``; nothing runs before ``start``."""
        self._parts = parts
        self._feeds: list[Feed] = []  # those that run
        self._inbox: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._is_over = False
        self._workers = [Worker(target, self.post) for target in parts.targets]
        self._snapshot = Snapshot(State(node), tuple(target.name for target in parts.targets))
        self._behind_since: float | None = time.monotonic()
        self._given = 0  # the generation that all Targets were given
        self._held_until: float | None = None  # the newest one is for the DPU's switch alone so far
        self._thread = threading.Thread(target=self._run, name="agent", daemon=True)

    def start(self, loaded: AttachmentsLoaded) -> None:
        """Begin with what the local files hold, then take events from the feeds."""
        if SWITCH_TARGET in self._snapshot.targets:
            standing = loaded_standing(loaded.attachments)
            self._snapshot = replace(self._snapshot, standing=standing)
        self._take([loaded])  # before anybody can ask for, or give up, what the files hold
        self._thread.start()
        for worker in self._workers:
            worker.start()
        for feed in self._parts.feeds:
            feed.start(self.post)
            self._feeds.append(feed)

    def stop(self, timeout_s: float = 5.0) -> None:
        """End all threads, also where ``start`` has failed; the dataplane stays as it is.

        A round that is under way after ``timeout_s`` seconds is left to itself.
        """
        for feed in self._feeds:
            feed.stop()
        for worker in self._workers:
            worker.stop(0.0)  # so that all come to their end at the same time
        give_up = time.monotonic() + timeout_s
        for worker in self._workers:
            worker.stop(max(0.0, give_up - time.monotonic()))
        self._inbox.put(None)
        self._thread.join(timeout_s)
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def post(self, event: Event) -> None:
        """Hand an event to the deciding thread; never blocks, callable from any thread."""
        self._inbox.put(event)

    def poke(self) -> None:
        """Have every Target look at the real thing and repair it now."""
        for worker in self._workers:
            worker.poke()

    def look(self, target: str) -> None:
        """Have one Target look at the real thing and repair it now."""
        for worker in self._workers:
            if worker.target.name == target:
                worker.poke()

    @property
    def snapshot(self) -> Snapshot:
        """Return the newest picture of all that is known."""
        return self._snapshot

    @property
    def overdue(self) -> dict[str, float]:
        """Return by how many seconds each late Target exceeds its deadline."""
        late = {worker.target.name: worker.overdue_s for worker in self._workers}
        return {name: seconds for name, seconds in late.items() if seconds}

    @property
    def fabric_lag_s(self) -> float:
        """Return for how many seconds node and fabric database may have differed; 0: they agree."""
        since = self._behind_since
        return 0.0 if since is None else time.monotonic() - since

    # --- contracts.Attachments -----------------------------------------------------------------

    def admit(self, request: AttachRequest, timeout_s: float) -> Port:
        """Reserve MAC, addresses and slot; waits ``timeout_s`` for the database where it must."""
        self.post(request)
        if not self._wait_answered(request, timeout_s):
            self.post(replace(request, wait_for_fabric=False))
            self.wait(lambda snapshot: _is_answered(snapshot, request), _LAST_WORD_S)
        snapshot = self._snapshot
        refusal = snapshot.state.refusals.get(request.key)
        port = snapshot.port(request.key)
        if port is not None and refusal is None:
            return port
        self.cancel(request.key)
        if refusal is None:
            raise AttachRefusedError(TRY_AGAIN, "the agent could not decide in time; try again")
        raise AttachRefusedError(refusal.code, refusal.message)

    def _wait_answered(self, request: AttachRequest, timeout_s: float) -> bool:
        """Wait ``timeout_s`` for a database that is away, longer for one that is there but busy."""

        def is_settled(snapshot: Snapshot) -> bool:
            return _is_answered(snapshot, request) or not snapshot.state.fabric.connected

        if self.wait(lambda snapshot: _is_answered(snapshot, request), timeout_s):
            return True
        self.wait(is_settled, _BUSY_FABRIC_S)
        return _is_answered(self._snapshot, request)

    def cancel(self, key: AttachmentKey) -> None:
        """Give a reservation or an attachment up; on return no answer to it is left over."""
        self.post(AttachCancelled(key))
        self.wait(lambda snapshot: not snapshot.state.knows(key), _LAST_WORD_S)

    def wait_programmed(self, key: AttachmentKey, timeout_s: float) -> None:
        """Return once every local Target holds the attachment; else AttachRefusedError."""
        if not self.wait(lambda snapshot: not snapshot.unprogrammed(key), timeout_s):
            reasons = "; ".join(self._snapshot.unprogrammed(key))
            raise AttachRefusedError(
                TRY_AGAIN,
                f"the dataplane did not take the attachment within {timeout_s:g} s: {reasons}",
            )

    def publish(self, key: AttachmentKey, timeout_s: float) -> bool:
        """Take the workload over, if another node has it; return whether the database has the row.

        Raises AttachRefusedError if it is not served here, and leaves it where it is; also if
        another node has taken it over, or claims the same, by the time that this one would.
        """
        self.post(PodConnected(key))
        if not self.wait(lambda snapshot: _is_connected(snapshot, key), _LAST_WORD_S):
            raise AttachRefusedError(TRY_AGAIN, "the agent could not decide in time; try again")
        self.wait_programmed(key, _TAKE_OVER_S)
        self.post(TakenOver(key))

        def is_over(snapshot: Snapshot) -> bool:
            return snapshot.is_published(key) or _blocked(snapshot, key) is not None

        self.wait(is_over, timeout_s)
        snapshot = self._snapshot
        blocked = _blocked(snapshot, key)
        if blocked is not None:
            code, why = _CODES.get(blocked.reason, TRY_AGAIN), f"{blocked.reason}, {blocked.detail}"
            raise AttachRefusedError(code, f"{key} is not served here: {why}")
        return snapshot.is_published(key)

    def detach(self, key: AttachmentKey, timeout_s: float) -> None:
        """Forget the attachment and wait until every local Target has, and a DPU's switch."""
        attachment = self._snapshot.state.attachments.get(key)
        if attachment is None:
            return
        self.post(Detached(key))
        self.wait(lambda snapshot: key not in snapshot.since, _LAST_WORD_S)
        generation = self._snapshot.generation
        if not self.wait(lambda snapshot: snapshot.is_programmed(generation), timeout_s):
            log.warning("detach.late", key=key, timeout_s=timeout_s)
        self._wait_released(attachment.netdev, min(timeout_s, _WITHDRAW_S))

    def _wait_released(self, netdev: str, timeout_s: float) -> None:
        """Wait for a switch that answers; the port is not used again before it has let go."""

        def is_over(snapshot: Snapshot) -> bool:
            return not snapshot.unreleased(netdev) or bool(snapshot.state.switch.error)

        self.wait(is_over, timeout_s)
        if why := self._snapshot.unreleased(netdev):
            log.warning("detach.unreleased", netdev=netdev, why=why)

    def find(self, key: AttachmentKey) -> Port | None:
        """Return the port of an attachment as it is desired now."""
        return self._snapshot.port(key)

    def attachment(self, key: AttachmentKey) -> Attachment | None:
        """Return what is held of an attachment, desired or not."""
        return self._snapshot.state.attachments.get(key)

    def keys(self) -> tuple[AttachmentKey, ...]:
        """Return every attachment of this node."""
        return tuple(self._snapshot.state.attachments)

    def faults(self, key: AttachmentKey) -> tuple[str, ...]:
        """Observe what an ADD waits for, and the fabric, anew; return what differs for this one."""
        snapshot = self._snapshot
        desired, attachment = snapshot.desired, snapshot.state.attachments.get(key)
        if desired is None or attachment is None:
            return ("the agent does not know this attachment",)
        others = {k: a for k, a in snapshot.state.attachments.items() if k != key}
        without = derive(replace(snapshot.state, attachments=others)) or desired
        job = Job(snapshot.generation, desired, snapshot.state.bindings)
        names = {*snapshot.local_targets}
        if snapshot.state.fabric.connected:
            names.add(FABRIC_TARGET)
        # Not the DPU's switch: what it holds comes and goes with the traffic.
        workers = [worker for worker in self._workers if worker.target.name in names]
        return tuple(fault for worker in workers for fault in _faults(worker, job, without))

    def segment_mtu(self, segment: str) -> int:
        """Return the pod MTU of a segment in bytes; AttachRefusedError if it is not known."""
        self.wait(lambda snapshot: _is_segment_clear(snapshot, segment), _KNOW_SEGMENT_S)
        state = self._snapshot.state
        known = state.fabric.segment(segment)
        if known is None:
            code = INVALID_CONFIG if _is_told_all(state) else TRY_AGAIN
            why = "" if state.node.in_fabric else f": {NO_FABRIC}"
            raise AttachRefusedError(code, f"segment {segment!r} is not known on this node{why}")
        if state.underlay is None:
            raise AttachRefusedError(
                TRY_AGAIN, f"underlay interface {state.node.underlay_interface} does not exist"
            )
        try:
            return pod_mtu(known, state.underlay.mtu)
        except InvalidValueError as error:
            raise AttachRefusedError(INVALID_CONFIG, str(error)) from error

    def knows_segment(self, segment: str) -> bool:
        """Return whether the segment is known, once the first rows had time to come."""
        self.wait(lambda snapshot: _is_segment_clear(snapshot, segment), _KNOW_SEGMENT_S)
        return self._snapshot.state.fabric.segment(segment) is not None

    def obstacle(self) -> Obstacle | None:
        """Return why an ADD would fail now, None if it would not."""
        return obstacle(self._snapshot)

    # --- the loop ------------------------------------------------------------------------------

    def _run(self) -> None:
        while (events := self._next_events()) is not None:
            self._take_safely(events)

    def _take_safely(self, events: list[Event]) -> None:
        """Take ``events``; one that cannot be taken ends no thread and takes no other along."""
        try:
            self._take(events)
        except Exception:
            log.exception("agent.crashed", events=[type(event).__name__ for event in events])
            if len(events) > 1:
                for event in events:
                    self._take_safely([event])

    def _next_events(self) -> list[Event] | None:
        """Block for one event, then take all that are waiting: a burst is decided once.

        Empty: what was held back is due. None: it is over.
        """
        events: list[Event] = []
        try:
            event = self._inbox.get(timeout=self._patience_s())
        except queue.Empty:
            return []
        while event is not None:
            events.append(event)
            if self._inbox.empty():
                return events
            event = self._inbox.get()
        return None

    def _patience_s(self) -> float | None:
        """Return for how many seconds others wait for the switch; None: they do not."""
        if self._held_until is None or self._given == self._snapshot.generation:
            return None
        return max(0.0, self._held_until - time.monotonic())

    def _take(self, events: list[Event]) -> None:
        before = self._snapshot
        state, reports, written = before.state, dict(before.reports), before.written
        for event in events:
            if not isinstance(event, TargetReport):
                state = fold(state, event)
                continue
            reports[event.target] = event
            if event.target == FABRIC_TARGET and not event.error:
                written = event.generation
                if _confirms_claims(event):
                    state = confirm(state, event.generation)
        after = _decided(replace(before, reports=reports, written=written), state)
        state = after.state
        if after.is_in_step:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = time.monotonic()
        with self._changed:
            self._snapshot = after
            self._changed.notify_all()
        if state.watched != before.state.watched:
            self._parts.watch(state.watched)
        self._look_after(events)
        if after.desired is not None:
            self._hand_out(before, Job(after.generation, after.desired, state.bindings))

    def _hand_out(self, before: Snapshot, job: Job) -> None:
        """Give the workers what is news: what the DPU's switch has to let go of, it hears first.

        The others wait for its word, but not for long, and not where an ADD waits for them.
        """
        after, now = self._snapshot, time.monotonic()
        if not after.is_withdrawing:
            self._held_until = None
        elif after.state.requests or after.since.keys() - before.since.keys():
            self._held_until = now
        elif self._held_until is None:
            self._held_until = now + _SWITCH_FIRST_S
        # What a switch holds is not taken from it before it is known what that is.
        if job.generation != before.generation and after.state.switch.held is not None:
            self._submit(job, lambda name: name == SWITCH_TARGET)
        if job.generation != self._given and (self._held_until is None or self._held_until <= now):
            self._submit(job, lambda name: name != SWITCH_TARGET)
            self._given = job.generation

    def _submit(self, job: Job, is_for: Callable[[str], bool]) -> None:
        for worker in self._workers:
            if is_for(worker.target.name):
                worker.submit(job)

    def _look_after(self, events: Sequence[Event]) -> None:
        """Have those Targets look again that ``events`` give cause to."""
        if FabricConnection(connected=True) in events:
            self.look(FABRIC_TARGET)  # it may be another database, or an older one
        is_measured = any(isinstance(event, TrafficMeasured) for event in events)
        if is_measured and self._snapshot.lacks_entries:
            self.look(SWITCH_TARGET)  # a device that was reset says nothing of it

    def wait(self, condition: Callable[[Snapshot], bool], timeout_s: float) -> bool:
        """Wait until ``condition`` holds of the newest snapshot; return whether it came to that.

        Once the agent has ended no newer one comes, and nobody waits.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_over or condition(self._snapshot), timeout_s)
            return condition(self._snapshot)


def _decided(before: Snapshot, state: State) -> Snapshot:
    standing = before.without_withdrawn()
    if state is before.state and standing is before.standing:
        return before
    after = before if state is before.state else _desired(before, state)
    return _placed(before, replace(after, standing=standing))


def _placed(before: Snapshot, after: Snapshot) -> Snapshot:
    """Return ``after`` with what the switch is to hold, decided anew where there is cause to."""
    desired, switch, standing = after.desired, after.state.switch, after.standing
    if desired is None or SWITCH_TARGET not in after.targets:
        return after
    if before.desired is None:
        standing = first_standing(desired, after.generation, standing)
    if desired is not before.desired or standing is not before.standing:
        switch = replace(switch, leaving=leaving(standing, desired))
    placed, ways = before.state.bindings.placed, after.state.bindings.next_hops
    same = (switch.basis, desired, ways) == (
        before.state.switch.basis,
        before.desired,
        before.state.bindings.next_hops,
    )
    if same:
        return after
    choice = choose(desired, switch, ways, placed)
    bindings = replace(after.state.bindings, placed=choice.placed)
    is_first = before.state.switch.held is None and switch.held is not None
    is_news = (choice.placed != placed or is_first) and after.generation == before.generation
    generation = after.generation + is_news
    return replace(
        after,
        state=replace(after.state, bindings=bindings, switch=switch),
        choice=choice,
        generation=generation,
        standing=next_standing(standing, desired, choice.placed, generation),
    )


def _desired(before: Snapshot, state: State) -> Snapshot:
    if state.is_decided_as(before.state):
        is_news = state.bindings != before.state.bindings
        return replace(before, state=state, generation=before.generation + is_news)
    state = settle(state)
    desired = derive(state) or before.desired
    if desired == before.desired and state.bindings == before.state.bindings:
        return replace(before, state=state)
    generation = before.generation + 1
    known = before.desired.attachments if before.desired else ()
    taken_over = before.state.withheld - state.withheld
    same = {
        a.key: before.since[a.key]
        for a in known
        if state.attachments.get(a.key) == a and a.key not in taken_over
    }
    keys = [attachment.key for attachment in desired.attachments] if desired else []
    publication = desired.publication if desired else None
    return replace(
        before,
        state=claim(state, publication.blocks if publication else (), generation),
        desired=desired,
        generation=generation,
        since={key: same.get(key, generation) for key in keys},
    )


def _confirms_claims(report: TargetReport) -> bool:
    """Say of one without error whether all Blocks that were wanted are ours, not another's."""
    return not any(isinstance(each.about, Block) for each in report.pending)


def _is_segment_clear(snapshot: Snapshot, segment: str) -> bool:
    state = snapshot.state
    known = state.fabric.segment(segment) is not None or _is_told_all(state)
    return known and state.underlay is not None


def _is_told_all(state: State) -> bool:
    """Say whether which segments there are is known: none, for who is in no fabric."""
    return state.fabric.base_synced or not state.node.in_fabric


def _is_connected(snapshot: Snapshot, key: AttachmentKey) -> bool:
    attachment = snapshot.state.attachments.get(key)
    return attachment is None or attachment.connected


def _blocked(snapshot: Snapshot, key: AttachmentKey) -> Verdict | None:
    attachment = snapshot.state.attachments.get(key)
    return attachment.blocked if attachment is not None else None


def _is_answered(snapshot: Snapshot, request: AttachRequest) -> bool:
    return request.key in snapshot.state.refusals or request.key in snapshot.since


def _faults(worker: Worker, job: Job, without: Desired) -> tuple[str, ...]:
    name = worker.target.name
    try:
        change = worker.inspect(job, without)
    except OverweaveError as error:
        return (f"{name}: {error}",)
    missing = tuple(f"{name}: {key} is missing" for key in change.add)
    return missing + tuple(f"{name}: {key} is not as it should be" for key in change.update)
