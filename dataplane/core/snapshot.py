"""What the deciding thread shows to others: one immutable picture of all it knows. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dataplane.core.desired import Desired, Port
from dataplane.core.events import TargetReport
from dataplane.core.model import Attachment, AttachmentKey, EntryKey, Side
from dataplane.core.offload import Choice
from dataplane.core.placement import Cause, FullMap, Holdings, Traffic, placement_in
from dataplane.core.reasons import Reason
from dataplane.core.state import State
from dataplane.core.withdrawal import Standing

FABRIC_TARGET = "fabric"
NO_ACCESS = "none"  # how the fabric database is reached by a node that is in no fabric
STATE_TARGET = "state"
SWITCH_TARGET = "switch"
OVS_PATH = "ovs"
_UNDESIRED = "it is not part of the desired state"
_UNWRITTEN = "fabric has yet to write it"
_NOT_AWAITED = frozenset({FABRIC_TARGET, SWITCH_TARGET})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state, what is desired since ``generation``, and what each Target last reported.

    ``since`` is the generation in which an attachment, as it is now, became part of what is
    desired, or one that comes from another node was connected or taken over. ``choice`` says what
    of it the DPU's switch is to hold, ``standing`` what it may hold. ``written`` is the last
    generation that the fabric database took, but for what was pending.
    """

    state: State
    targets: tuple[str, ...]
    desired: Desired | None = None
    generation: int = 0
    reports: Mapping[str, TargetReport] = field(default_factory=dict)
    since: Mapping[AttachmentKey, int] = field(default_factory=dict)
    choice: Choice = field(default_factory=Choice)
    standing: Standing = field(default_factory=dict)
    written: int = -1

    def port(self, key: AttachmentKey) -> Port | None:
        """Return the local port of an attachment."""
        ports = self.desired.ports if self.desired else ()
        return next((port for port in ports if port.attachment.key == key), None)

    @property
    def full_maps(self) -> frozenset[FullMap]:
        """Return the maps of the fast path that have no room for all."""
        pending = (each.about for report in self.reports.values() for each in report.pending)
        return frozenset(about for about in pending if isinstance(about, FullMap))

    @property
    def own_device(self) -> str | None:
        """Return the name of the DPU that this node is, if it is one."""
        devices = self.state.node.devices
        return next((each.name for each in devices if each.side is Side.DPU), None)

    def holdings(
        self, fast: Mapping[EntryKey, Traffic], switched: Mapping[EntryKey, Traffic]
    ) -> Holdings:
        """Return what the paths hold, given what they have counted, and why they hold no more."""
        known = self.state.switch.capability
        if known is not None and not known.forwards:
            switched = {}  # they are there, and forward nothing
        return Holdings(
            fast=fast,
            full=self.full_maps,
            switch=placement_in(known),
            switched=switched,
            unswitched=self._unswitched(),
        )

    @property
    def lacks_entries(self) -> bool:
        """Say whether the DPU's switch neither holds nor has refused something that it should."""
        report, held = self.reports.get(SWITCH_TARGET), self.state.switch.held
        refused = {pending.about for pending in report.pending} if report else set()
        return held is not None and bool(self.choice.placed - held - refused)

    def _unswitched(self) -> dict[EntryKey, Cause]:
        """Return why an entry is not, or not yet, in the DPU's switch; empty: there is none."""
        switch = self.state.switch
        whole = (Reason.DEVICE_DOWN, Reason.SWITCH_TAKEN)
        causes = {
            key: Cause(reason, switch.why_not if reason in whole else "")
            for key, reason in self.choice.reasons.items()
        }
        causes |= {key: Cause(Reason.PENDING) for key in self.choice.placed if key not in causes}
        report = self.reports.get(SWITCH_TARGET)
        refused = report.pending if report else ()
        for pending in refused:
            if isinstance(pending.about, EntryKey) and pending.about in self.choice.placed:
                causes[pending.about] = _cause(pending.reason)
        return causes

    @property
    def local_targets(self) -> tuple[str, ...]:
        """Return the Targets an ADD waits for: all but the fabric database and a DPU's switch.

        For the switch it waits only where it may hold rows of the very same port.
        """
        return tuple(name for name in self.targets if name not in _NOT_AWAITED)

    def unprogrammed(self, key: AttachmentKey) -> tuple[str, ...]:
        """Return why the attachment is not yet in place, one phrase per Target; empty: it is."""
        since = self.since.get(key)
        if since is None:
            return (_UNDESIRED,)
        lag = [self._lag(name, since, key) for name in self.local_targets]
        attachment = self.state.attachments.get(key)
        if attachment is not None:
            lag.append(self.unreleased(attachment.netdev))
        return tuple(reason for reason in lag if reason)

    def unreleased(self, netdev: str) -> str:
        """Return why the DPU's switch may still hold rows of what was behind ``netdev`` before."""
        rows = self.standing.get(netdev)
        if rows is None or netdev not in self.state.switch.leaving:
            return ""
        lag = self._lag(SWITCH_TARGET, rows.unwanted or 0)
        held = f"and may still forward what was behind {netdev} before: overweave get dpu"
        return f"{lag}, {held}" if lag else ""

    def without_withdrawn(self) -> Standing:
        """Return ``standing`` without what the switch has let go of, and software has followed."""
        gone = [
            key
            for key, rows in self.standing.items()
            if rows.unwanted is not None
            and not self._lag(SWITCH_TARGET, rows.unwanted)
            and self.is_programmed(rows.unwanted)
        ]
        kept = {key: rows for key, rows in self.standing.items() if key not in gone}
        return kept if gone else self.standing

    @property
    def is_withdrawing(self) -> bool:
        """Say whether the switch answers and has yet to be heard on what has to go there first."""
        report = self.reports.get(SWITCH_TARGET)
        heard = report.generation if report else -1
        asked = (self.standing[key].unwanted or 0 for key in self.state.switch.leaving)
        return not self.state.switch.error and any(each > heard for each in asked)

    def is_published(self, key: AttachmentKey) -> bool:
        """Say whether the fabric row of the attachment is committed."""
        return not self.unpublished(key)

    def unpublished(self, key: AttachmentKey) -> str:
        """Return why the fabric database has not the attachment's row; empty: it has."""
        since, attachment = self.since.get(key), self.state.attachments.get(key)
        if since is None or attachment is None:
            return _UNDESIRED
        if why := self._unready(attachment):
            return why
        report = self.reports.get(FABRIC_TARGET)
        refused = [p.reason for p in report.pending if p.about == key] if report else []
        if refused:
            return f"{FABRIC_TARGET}: {refused[0]}"
        if since <= self.written:  # what it holds it does not lose by not answering
            return ""
        return self.state.fabric.error or self._lag(FABRIC_TARGET, since) or _UNWRITTEN

    def _unready(self, attachment: Attachment) -> str:
        """Return why no row of ``attachment`` is to be written yet; empty: it is."""
        if attachment.blocked is not None:
            return f"{attachment.blocked.reason}: {attachment.blocked.detail}"
        if attachment.sequence is None:
            return self.state.fabric.error or "the rows of its segment have yet to come"
        if attachment.key in self.state.withheld:
            return "it stays where it was until its pod is connected, and served here"
        return ""

    @property
    def is_in_step(self) -> bool:
        """Say whether the fabric database is followed and holds all rows this node wants there."""
        if not self.state.node.in_fabric:
            return True
        report = self.reports.get(FABRIC_TARGET)
        settled = report is not None and not report.pending
        return (
            settled
            and self.state.fabric.connected
            and not self._lag(FABRIC_TARGET, self.generation)
        )

    def is_programmed(self, generation: int) -> bool:
        """Say whether every local Target has converged on ``generation`` or a later one."""
        return not any(self._lag(name, generation) for name in self.local_targets)

    def _lag(self, target: str, generation: int, key: AttachmentKey | None = None) -> str:
        report = self.reports.get(target)
        if report is None or report.generation < generation:
            return f"{target} has not answered yet" + (
                f" ({report.error})" if report and report.error else ""
            )
        pending = next((p for p in report.pending if p.about == key), None)
        if pending:
            return f"{target}: {pending.reason}"
        return f"{target}: {report.error}" if report.error else ""


def _cause(told: str) -> Cause:
    """Return what a Switch said of an entry (contracts.Switch), its words whole."""
    first, _, words = told.partition(": ")
    known = first in Reason.__members__.values()
    return Cause(Reason(first), words) if known else Cause(Reason.PENDING, told)


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why an ADD would fail now; ``limits_existing``: attachments that exist may suffer, too."""

    message: str
    limits_existing: bool = False


def obstacle(snapshot: Snapshot) -> Obstacle | None:
    """Return why an ADD would fail now, None if it would not (CNI spec, STATUS)."""
    return (
        _underlay_obstacle(snapshot.state)
        or _segments_obstacle(snapshot.state)
        or _target_obstacle(snapshot)
        or _probe_obstacle(snapshot.state)
    )


def _underlay_obstacle(state: State) -> Obstacle | None:
    nic = state.node.underlay_interface
    if state.underlay is None:
        return Obstacle(
            f"underlay interface {nic} does not exist on this node", limits_existing=True
        )
    if not state.vteps:
        return Obstacle(f"underlay interface {nic} has no usable address", limits_existing=True)
    return None


def _target_obstacle(snapshot: Snapshot) -> Obstacle | None:
    for name in snapshot.local_targets:
        report = snapshot.reports.get(name)
        if report is None:
            return Obstacle(f"{name}: not ready yet")
        reason = report.error or _pending_part(snapshot.state, report)
        if reason:
            return Obstacle(f"{name}: {reason}", limits_existing=name != STATE_TARGET)
    return None


def _probe_obstacle(state: State) -> Obstacle | None:
    why = state.lost.get(OVS_PATH)
    return Obstacle(why, limits_existing=True) if why else None


def _pending_part(state: State, report: TargetReport) -> str:
    """Return why a part of the node itself is not there yet: what serves every pod."""
    for pending in report.pending:
        if isinstance(pending.about, str) and state.fabric.segment(pending.about) is None:
            return pending.reason
    return ""


def _segments_obstacle(state: State) -> Obstacle | None:
    fabric = state.fabric
    if fabric.connected or not state.node.in_fabric:
        return None
    away = f"the fabric database is away ({fabric.error})"
    if not state.node.attach_without_fabric:
        return Obstacle(f"{away}, and attach_without_fabric is refuse")
    if not fabric.is_told:
        return Obstacle(f"{away}, and no segment is known here")
    return None
