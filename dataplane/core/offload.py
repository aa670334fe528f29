"""Which entries deserve a place in the small tables of a DPU's switch. Pure.

Software always holds everything, so this is only about speed: an entry comes in when it forwards
much, and goes when another one forwards clearly more, or when it has fallen silent. What serves one
direction of a conversation comes with what serves the other: a remote endpoint is placed together
with the local ones of its segment that are behind the switch. It is ranked by what is sent to it:
one that only sends, and is never answered, stays in software.

The administrator's pins overrule traffic, and nothing else. Who is ``always`` there comes before
all others, where it can be there at all; of too many, the first by VNI and MAC. Where two pins on
one endpoint, by its identity and by its MAC, contradict each other, it is ``never`` there.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from dataplane.core.capability import Capability, Part, Table
from dataplane.core.desired import Desired, Port, PortState, RemoteEndpoint, SegmentView
from dataplane.core.model import (
    Attachment,
    Endpoint,
    EntryKey,
    Guard,
    Hardware,
    IpAddress,
    Mac,
)
from dataplane.core.reasons import Reason

PROMOTE_AT = 10.0  # packets per second: below, a row of the table serves nobody
KEEP_ABOVE = 1.0  # packets per second
ADVANTAGE = 1.5  # how much more a newcomer must forward than what it displaces


@dataclass(frozen=True, slots=True)
class SwitchView:
    """What is known of the DPU's switch below this node, and of what the entries forward.

    ``rates`` are packets per second, smoothed; ``held`` are the entries that the switch says it
    holds. Without ``capability`` it does not answer, ``error`` says why; both empty: there is none.
    """

    capability: Capability | None = None
    error: str = ""
    rates: Mapping[EntryKey, float] = field(default_factory=dict)
    held: frozenset[EntryKey] = frozenset()

    @property
    def exists(self) -> bool:
        """Say whether there is a switch, answering or not."""
        return self.capability is not None or bool(self.error)


@dataclass(frozen=True, slots=True)
class Choice:
    """The entries that the switch is to hold, and why each other one is not among them."""

    placed: frozenset[EntryKey] = frozenset()
    reasons: Mapping[EntryKey, Reason] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """An entry and those that come with it; it gives the rank, its traffic or that it is pinned."""

    key: EntryKey
    others: frozenset[EntryKey]
    bundles: tuple[_Bundle, ...]
    pinned: bool


@dataclass(frozen=True, slots=True, eq=False)  # two of the same parts are two
class _Bundle:
    """Parts, and how many of each, that take rows once however many candidates need them."""

    parts: tuple[tuple[Part, int], ...]


def choose(
    desired: Desired,
    view: SwitchView,
    next_hops: Collection[IpAddress],
    before: frozenset[EntryKey],
) -> Choice:
    """Return what to place, given what is placed ``before`` and to which VTEPs a way is known."""
    if not view.exists:
        return Choice()
    capability = view.capability
    segments = [_Segment(each, capability, next_hops) for each in desired.segments.values()]
    reasons = {key: why for segment in segments for key, why in segment.refused()}
    candidates = [candidate for segment in segments for candidate in segment.candidates()]
    if capability is None or capability.obstacle:
        # What was there comes back as it was, as soon as the device does.
        why = Reason.SWITCH_TAKEN if capability else Reason.DEVICE_DOWN
        known = frozenset(each.key for each in candidates)
        return Choice(before & known, {**reasons, **dict.fromkeys(known, why)})
    return _ranked(candidates, _Room(capability.tables), view.rates, before, reasons)


def _ranked(
    candidates: Iterable[_Candidate],
    room: _Room,
    rates: Mapping[EntryKey, float],
    before: frozenset[EntryKey],
    reasons: Mapping[EntryKey, Reason],
) -> Choice:
    def rate_of(candidate: _Candidate) -> float:
        return math.inf if candidate.pinned else rates.get(candidate.key, 0.0)

    def rank(candidate: _Candidate) -> float:
        rate = rate_of(candidate)
        return rate * ADVANTAGE if candidate.key in before else rate

    placed: set[EntryKey] = set()
    whys = dict(reasons)
    for candidate in sorted(candidates, key=lambda each: (-rank(each), each.key)):
        needed = KEEP_ABOVE if candidate.key in before else PROMOTE_AT
        if rate_of(candidate) < needed:
            whys[candidate.key] = Reason.BELOW_THRESHOLD
        elif room.take(candidate.bundles):
            placed.add(candidate.key)
            placed |= candidate.others
        else:
            # Once out, it would not even come back into an empty table: that is why it is out.
            is_small = rate_of(candidate) < PROMOTE_AT
            whys[candidate.key] = Reason.BELOW_THRESHOLD if is_small else Reason.TABLE_FULL
    return Choice(frozenset(placed), {key: why for key, why in whys.items() if key not in placed})


class _Room:
    """The rows that are left in each table, and which bundles have theirs already."""

    def __init__(self, tables: Iterable[Table]) -> None:
        self._left = {table.name: table.room for table in tables}
        self._rows: dict[Part, dict[str, int]] = {part: {} for part in Part}
        for table in tables:
            for part, rows in table.rows.items():
                self._rows[part][table.name] = rows
        self._taken: set[_Bundle] = set()

    def take(self, bundles: Iterable[_Bundle]) -> bool:
        """Take what is not taken yet; False, and nothing taken, if a table lacks the rows."""
        fresh = [bundle for bundle in bundles if bundle not in self._taken]
        needed: Counter[str] = Counter()
        for bundle in fresh:
            for part, count in bundle.parts:
                for table, rows in self._rows[part].items():
                    needed[table] += rows * count
        if any(rows > self._left[table] for table, rows in needed.items()):
            return False
        for table, rows in needed.items():
            self._left[table] -= rows
        self._taken.update(fresh)
        return True


class _Segment:
    """What of one segment may be placed, and why the rest may not, whatever the traffic."""

    def __init__(
        self, view: SegmentView, capability: Capability | None, next_hops: Collection[IpAddress]
    ) -> None:
        self._view = view
        self._capability = capability
        self._next_hops = next_hops
        self._pins = {
            word: frozenset(pin.endpoint for pin in view.pins if pin.hardware is word)
            for word in Hardware
        }
        self._behind = [port for port in view.ports if self._why_not(port) is None]

    def candidates(self) -> Iterator[_Candidate]:
        others = len(self._behind) - 1
        ports = {self._key(port.attachment.mac): _port(port, others) for port in self._behind}
        local = frozenset(ports)
        for port in self._behind:
            own = ports[self._key(port.attachment.mac)]
            yield self._candidate(port.attachment, frozenset(), (own,))
        members = {vtep: _Bundle(((Part.MEMBER, 1),)) for vtep in self._view.flood}
        for remote in self._view.remotes:
            if self._why_not_remote(remote) is None:
                own = _Bundle(((Part.REMOTE, 1), (Part.PAIR, len(ports))))
                bundles = (own, members[remote.vtep], *ports.values())
                yield self._candidate(remote.endpoint, local, bundles)

    def refused(self) -> Iterator[tuple[EntryKey, Reason]]:
        for port in self._view.ports:
            why = self._why_not(port)
            if why:
                yield self._key(port.attachment.mac), why
        for remote in self._view.remotes:
            why = self._why_not_remote(remote)
            if why:
                yield self._key(remote.endpoint.mac), why

    def _why_not(self, port: Port) -> Reason | None:
        if port.state is PortState.BLOCKED:
            return port.reason
        if self._is(Hardware.NEVER, port.attachment):
            return Reason.POLICY_OFF
        return self._obstacle(port)

    def _obstacle(self, port: Port) -> Reason | None:
        """Return why the switch itself could not take what comes in at ``port``."""
        netdev, known = port.attachment.netdev, self._capability
        if not netdev or (known and netdev not in known.guards):
            return Reason.NO_SWITCH_PORT
        if known and port.guard not in known.guards[netdev]:
            return Reason.UNSUPPORTED_GUARD
        return None

    def _why_not_remote(self, remote: RemoteEndpoint) -> Reason | None:
        segment = self._view.segment
        if self._is(Hardware.NEVER, remote.endpoint):
            return Reason.POLICY_OFF
        if not self._behind:
            return self._why_nobody()
        known = self._capability
        if known and (segment.encap, segment.underlay) not in known.tunnels:
            return Reason.UNSUPPORTED_ENCAP
        return None if remote.vtep in self._next_hops else Reason.NO_NEXTHOP

    def _why_nobody(self) -> Reason:
        """Return why no port is behind the switch: what comes nearest to being there."""
        allowed = (port for port in self._view.ports if port.state is not PortState.BLOCKED)
        obstacles = {self._obstacle(port) for port in allowed}
        if None in obstacles:
            return Reason.POLICY_OFF
        unguarded = Reason.UNSUPPORTED_GUARD in obstacles
        return Reason.UNSUPPORTED_GUARD if unguarded else Reason.NO_SWITCH_PORT

    def _candidate(
        self,
        owner: Attachment | Endpoint,
        others: frozenset[EntryKey],
        bundles: tuple[_Bundle, ...],
    ) -> _Candidate:
        pinned = self._is(Hardware.ALWAYS, owner)
        return _Candidate(self._key(owner.mac), others, bundles, pinned)

    def _is(self, word: Hardware, owner: Attachment | Endpoint) -> bool:
        """Say whether a pin says ``word`` of ``owner``; who is never there is no candidate."""
        names = self._pins[word]
        return owner.identity in names or owner.mac in names

    def _key(self, mac: Mac) -> EntryKey:
        return EntryKey(self._view.segment.vni, mac)


def _port(port: Port, others: int) -> _Bundle:
    """Return what a port takes, with what ``others`` of its segment send to it."""
    addresses = len(port.attachment.ips) if port.guard is Guard.IP else 0
    parts = ((Part.PORT, 1), (Part.ADDRESS, addresses), (Part.LOCAL, 1), (Part.PAIR, others))
    return _Bundle(parts)
