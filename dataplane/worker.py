"""One thread per Target: the newest desired state is rendered, observed, compared and applied."""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import structlog

from dataplane.contracts import Post, Target
from dataplane.core.desired import Bindings, Desired
from dataplane.core.diff import Change, Item, Pending, Rendering, diff
from dataplane.core.errors import OverweaveError, PartlyRefusedError
from dataplane.core.events import TargetReport

RESYNC_S = 30.0
FIRST_RETRY_S = 0.1
LAST_RETRY_S = 5.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Job:
    """A desired state to converge on; a worker holds at most one, the newest."""

    generation: int
    desired: Desired
    bindings: Bindings


class Worker:
    """Drives one Target; ``submit`` and ``poke`` never block, ``inspect`` waits for its turn."""

    def __init__(self, target: Target, post: Post) -> None:
        """Prepare the thread for ``target``; reports go to ``post``."""
        self.target = target
        self._post = post
        self._wake = threading.Condition()
        self._turn = threading.Lock()
        self._job: Job | None = None
        self._due = False
        self._poked = False
        self._stopping = False
        self._started_at: float | None = None
        # The thread's own:
        self._suspect = True  # the real thing may not be what we think
        self._looked_at = 0.0
        self._rendered: tuple[Job, Rendering] | None = None  # the last rendering, and what of
        self._converged: Rendering | None = None
        self._present: Mapping[Hashable, Item] = {}
        self._complaint = ""
        self._standing: frozenset[Hashable] = frozenset()  # refused in the last round, for good
        self._thread = threading.Thread(target=self._run, name=f"target-{target.name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """End the thread after the round under way, leaving everything programmed as it is."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join(timeout_s)

    def submit(self, job: Job) -> None:
        """Converge on ``job``; it replaces one that has not been begun."""
        with self._wake:
            self._job = job
            self._due = True
            self._wake.notify()

    def poke(self) -> None:
        """Observe and repair now: what was programmed may be gone."""
        with self._wake:
            self._due = self._poked = True
            self._wake.notify()

    @property
    def overdue_s(self) -> float:
        """Return by how many seconds the round under way exceeds the Target's deadline; else 0."""
        started = self._started_at
        elapsed = 0.0 if started is None else time.monotonic() - started
        return max(0.0, elapsed - self.target.deadline_s)

    def inspect(self, job: Job, without: Desired) -> Change:
        """Return what is not as it should be of what is there because of one attachment.

        ``without`` is the desired state had the attachment never been: what differs is its own.
        """
        with self._turn:
            concerned = _concerned(self.target, job, without)
            observed = self.target.observe()
        seen = {key: item for key, item in observed.items() if key in concerned.items}
        return diff(concerned, seen)

    def _run(self) -> None:
        retry_s = FIRST_RETRY_S
        wait_s = RESYNC_S
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._due or self._stopping, timeout=wait_s)
                if self._stopping:
                    return
                if self._due:
                    retry_s = FIRST_RETRY_S  # there is news: what failed so long may go now
                self._suspect = self._suspect or self._poked or self._until_look_s() <= 0
                self._due = self._poked = False
                job = self._job
            if job is None:
                continue
            if self._converge(job):
                retry_s, wait_s = FIRST_RETRY_S, max(0.0, self._until_look_s())
            else:
                wait_s, retry_s = retry_s, min(retry_s * 2, LAST_RETRY_S)

    def _until_look_s(self) -> float:
        """Return in how many seconds the real thing is to be looked at, however much is asked."""
        return self._looked_at + RESYNC_S - time.monotonic()

    def _converge(self, job: Job) -> bool:
        """Return False if it is to be tried again soon.

        What was refused for good is tried once more, for the target may have learned by it.
        """
        name = self.target.name
        self._started_at = time.monotonic()
        rendering = Rendering({})
        refused: tuple[Pending, ...] = ()
        standing: frozenset[Hashable] = frozenset()
        changed, error = 0, ""
        try:
            with self._turn:
                rendering = self._render(job)
                changed = self._repair(rendering)
        except PartlyRefusedError as caught:  # the rest is in place
            refused = tuple(Pending(about, why) for about, why in caught.refused.items())
            standing = frozenset(caught.refused) if caught.standing else frozenset()
            self._rendered = None  # the target may know by now what it need not ask for again
            self._complain("target.refused", str(caught))
        except OverweaveError as caught:
            error = str(caught)
            self._complain("target.failed", error)
        except Exception as caught:  # a fault of ours must not end the thread: say it and retry
            error = f"internal error, please report it: {caught!r}"
            log.exception("target.crashed", target=name, generation=job.generation)
        else:
            self._complaint = ""
        finally:
            self._started_at = None
        if changed:
            log.info("target.applied", target=name, generation=job.generation, changed=changed)
        self._post(TargetReport(name, job.generation, error, rendering.pending + refused))
        is_known = bool(standing) and standing == self._standing
        self._standing = standing
        return not error and (not refused or is_known)

    def _render(self, job: Job) -> Rendering:
        """Return the last rendering where nothing that it was made of has changed."""
        if self._rendered is None or self._differs(job, self._rendered[0]):
            self._rendered = job, self.target.render(job.desired, job.bindings)
        return self._rendered[1]

    def _differs(self, job: Job, before: Job) -> bool:
        return job.desired is not before.desired or any(
            getattr(job.bindings, name) != getattr(before.bindings, name)
            for name in self.target.bound_by
        )

    def _complain(self, event: str, why: str) -> None:
        """Log what keeps us from converging, once: it is tried again every few seconds."""
        if why != self._complaint:
            self._complaint = why
            log.warning(event, target=self.target.name, why=why)

    def _repair(self, rendering: Rendering) -> int:
        """Look at the real thing where there is cause to, and change what differs; return how much.

        Between looks the outcome of the last one and what was applied since stands for the real
        thing: adding and removing are idempotent, so what was taken away meanwhile hurts only
        itself, and the next look (poke, failure, every RESYNC_S) finds it.
        """
        if not self._suspect and _is_same(rendering, self._converged):
            return 0
        if self._suspect:
            self._present = self.target.observe()
            self._looked_at = time.monotonic()
        self._suspect = True  # until the change has succeeded
        change = diff(rendering, self._present)
        if change:
            self.target.apply(change)
        self._present = _after(self._present, change)
        self._converged = rendering
        self._suspect = False
        return len(change)


def _is_same(rendering: Rendering, before: Rendering | None) -> bool:
    """Say whether nothing new is asked: what is pending, or held in addition, asks nothing."""
    return before is rendering or (
        before is not None
        and rendering.items == before.items
        and set(rendering.held) >= set(before.held)
    )


def _after(present: Mapping[Hashable, Item], change: Change) -> Mapping[Hashable, Item]:
    if not change:
        return present
    kept = {key: item for key, item in present.items() if key not in change.remove}
    return {**kept, **change.add, **change.update}


def _concerned(target: Target, job: Job, without: Desired) -> Rendering:
    whole = target.render(job.desired, job.bindings)
    rest = target.render(without, job.bindings).items
    mine = {key: item for key, item in whole.items.items() if rest.get(key) != item}
    return Rendering(mine, whole.pending)
