"""Which entries deserve a place in the small tables of a DPU's switch. Pure.

Software always holds everything, so this is only about speed: an entry comes in when it forwards
much, and goes when another one forwards clearly more, or when it has fallen silent. What serves one
direction of a conversation comes with what serves the other: a remote endpoint is placed together
with the local ones of its segment that are behind the switch. It is ranked by what is sent to it:
one that only sends, and is never answered, stays in software. Where the switch does not count, what
it holds is ranked by what it forwarded before it came, less and less of it (core/state, smoothed).

The administrator's pins overrule traffic, and nothing else. Who is ``always`` there comes before
all others, where it can be there at all; of too many, the first by VNI and MAC. Where two pins on
one endpoint, by its identity and by its MAC, contradict each other, it is ``never`` there.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from operator import attrgetter
from typing import NamedTuple

from dataplane.core.capability import Capability, Part, Table
from dataplane.core.desired import Desired, Port, PortState, RemoteEndpoint, SegmentView
from dataplane.core.functions import Role
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
    holds, None before it was first measured; ``leaving`` are the ports and entries of which it may
    hold what they are not any more (core/withdrawal). ``error`` says why it does not answer now,
    ``capability`` is what it said last; both empty: there is none.
    """

    capability: Capability | None = None
    error: str = ""
    rates: Mapping[EntryKey, float] = field(default_factory=dict)
    held: frozenset[EntryKey] | None = None
    leaving: frozenset[Hashable] = frozenset()

    @property
    def exists(self) -> bool:
        """Say whether there is a switch, answering or not."""
        return self.capability is not None or bool(self.error)

    @property
    def basis(self) -> SwitchView:
        """Return what a choice rests on; only what is told to others is left out."""
        known = self.capability
        return replace(self, capability=known.lasting if known else None)

    @property
    def why_not(self) -> str:
        """Return why nothing can be placed now, in words; empty: it can."""
        return self.why_silent or (self.capability.obstacle if self.capability else "")

    @property
    def why_silent(self) -> str:
        """Return why it does not answer, in words; empty: it does."""
        return self.error or ("" if self.capability else "the switch has not answered yet")


@dataclass(frozen=True, slots=True)
class Choice:
    """The entries that the switch is to hold, and why each other one is not among them."""

    placed: frozenset[EntryKey] = frozenset()
    reasons: Mapping[EntryKey, Reason] = field(default_factory=dict)


class _Candidate(NamedTuple):
    """An entry and those that come with it; it gives the rank, its traffic or that it is pinned.

    ``own`` are the parts that no other candidate needs.
    """

    key: EntryKey
    others: frozenset[EntryKey]
    own: _Parts
    shared: tuple[_Bundle, ...]
    pinned: bool
    is_waiting: bool  # for the rows of its segment: nothing of it is taken out before


_Parts = tuple[tuple[Part, int], ...]
_VERSIONS = 2  # of IP: a port that may send from any address has a way for each


@dataclass(slots=True, eq=False)  # two of the same parts are two
class _Bundle:
    """Parts, and how many of each, that take rows once however many candidates need them."""

    parts: _Parts


def choose(
    desired: Desired,
    view: SwitchView,
    next_hops: Collection[IpAddress],
    before: frozenset[EntryKey],
) -> Choice:
    """Return what to place, given what was chosen ``before`` and to which VTEPs a way is known.

    What the switch holds counts as chosen, too: an agent that was just started remembers nothing.
    """
    if not view.exists:
        return Choice()
    before |= view.held or frozenset()
    capability = view.capability
    segments = [_Segment(each, view, next_hops) for each in desired.segments.values()]
    reasons: dict[EntryKey, Reason] = {}
    candidates: list[_Candidate] = []
    for key, verdict in chain.from_iterable(segment.verdicts() for segment in segments):
        if isinstance(verdict, _Candidate):
            candidates.append(verdict)
        else:
            reasons[key] = verdict
    why = _why_as_before(view)
    if why is not None:
        # What was there comes back as it was, as soon as the device does.
        known = frozenset(each.key for each in candidates)
        return Choice(before & known, {**reasons, **dict.fromkeys(known, why)})
    room = _Room(capability.tables if capability else ())
    return _ranked(candidates, room, view.rates, before, reasons)


def _why_as_before(view: SwitchView) -> Reason | None:
    """Return why nothing is chosen anew, whatever the traffic."""
    if view.error:
        return Reason.DEVICE_DOWN
    if view.capability is None or view.held is None:
        return Reason.PENDING
    return Reason.SWITCH_TAKEN if view.capability.obstacle else None


def _ranked(
    candidates: Iterable[_Candidate],
    room: _Room,
    rates: Mapping[EntryKey, float],
    before: frozenset[EntryKey],
    reasons: Mapping[EntryKey, Reason],
) -> Choice:
    def rate_of(candidate: _Candidate) -> float:
        stays = candidate.is_waiting and candidate.key in before
        return math.inf if candidate.pinned or stays else rates.get(candidate.key, 0.0)

    def rank(candidate: _Candidate) -> float:
        rate = rate_of(candidate)
        return rate * ADVANTAGE if candidate.key in before else rate

    placed: set[EntryKey] = set()
    whys = dict(reasons)
    in_order = sorted(candidates, key=attrgetter("key"))  # and so among those of one rank
    in_order.sort(key=rank, reverse=True)
    for candidate in in_order:
        key, rate = candidate.key, rate_of(candidate)
        if rate < (KEEP_ABOVE if key in before else PROMOTE_AT):
            whys[key] = Reason.BELOW_THRESHOLD
        elif room.take(candidate):
            placed.add(key)
            placed |= candidate.others
        else:
            # Once out, it would not even come back into an empty table: that is why it is out.
            is_small = rate < PROMOTE_AT
            whys[key] = Reason.BELOW_THRESHOLD if is_small else Reason.TABLE_FULL
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
        self._costs: dict[_Parts, Mapping[str, int]] = {}

    def take(self, candidate: _Candidate) -> bool:
        """Take what is not taken yet; False, and nothing taken, if a table lacks the rows."""
        fresh = [bundle for bundle in candidate.shared if bundle not in self._taken]
        needed = dict(self._cost(candidate.own))
        for bundle in fresh:
            for table, rows in self._cost(bundle.parts).items():
                needed[table] = needed.get(table, 0) + rows
        if any(rows > self._left[table] for table, rows in needed.items()):
            return False
        for table, rows in needed.items():
            self._left[table] -= rows
        self._taken.update(fresh)
        return True

    def _cost(self, parts: _Parts) -> Mapping[str, int]:
        if parts not in self._costs:
            cost: Counter[str] = Counter()
            for part, count in parts:
                for table, rows in self._rows[part].items():
                    cost[table] += rows * count
            self._costs[parts] = cost
        return self._costs[parts]


class _Segment:
    """What of one segment may be placed, and why the rest may not, whatever the traffic."""

    def __init__(
        self, view: SegmentView, switch: SwitchView, next_hops: Collection[IpAddress]
    ) -> None:
        self._view = view
        self._capability = switch.capability
        self._leaving = switch.leaving
        self._pins = {
            word: frozenset(pin.endpoint for pin in view.pins if pin.hardware is word)
            for word in Hardware
        }
        self._behind = [port for port in view.ports if self._why_not(port) is None]
        self._whole = self._why_no_remote()
        self._reached = frozenset(vtep for vtep in view.flood if vtep in next_hops)

    def verdicts(self) -> Iterator[tuple[EntryKey, _Candidate | Reason]]:
        """Yield of each entry that it may be placed, or why not."""
        ports: dict[EntryKey, _Bundle] = {}
        waits = not self._view.synced
        neighbours = len(self._behind) - 1
        for port in self._view.ports:
            key, why = self._key(port.attachment.mac), self._why_not(port)
            if why is None:
                ports[key] = _port(port, neighbours)
                pinned = self._is(Hardware.ALWAYS, port.attachment)
                yield key, _Candidate(key, frozenset(), (), (ports[key],), pinned, waits)
            else:
                yield key, why
        local, bundles = frozenset(ports), tuple(ports.values())
        member = (Part.MEMBER, 1), (Part.ARRIVAL, len(local))
        own = (Part.REMOTE, 1), (Part.WAY, sum(map(_senders, self._behind)))
        shared = {vtep: (_Bundle(member), *bundles) for vtep in self._view.flood}
        for remote in self._view.remotes:
            endpoint = remote.endpoint
            key, why = self._key(endpoint.mac), self._why_not_remote(remote)
            if why is None:
                pinned = self._is(Hardware.ALWAYS, endpoint)
                yield key, _Candidate(key, local, own, shared[remote.vtep], pinned, waits)
            else:
                yield key, why

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
        if port.role is not Role.PLAIN:
            return port.reason
        if port.attachment.vlan is not None:
            return Reason.UNSUPPORTED_MATCH
        if known and port.guard not in known.guards[netdev]:
            return Reason.UNSUPPORTED_GUARD
        is_leaving = {netdev, self._key(port.attachment.mac)} & self._leaving
        return Reason.PENDING if is_leaving else None

    def _why_not_remote(self, remote: RemoteEndpoint) -> Reason | None:
        if self._is(Hardware.NEVER, remote.endpoint):
            return Reason.POLICY_OFF
        if self._whole:
            return self._whole
        if self._key(remote.endpoint.mac) in self._leaving:
            return Reason.PENDING
        return None if remote.vtep in self._reached else Reason.NO_NEXTHOP

    def _why_no_remote(self) -> Reason | None:
        """Return why no endpoint of another node may be placed, whichever it is."""
        if not self._behind:
            return self._why_nobody()
        segment, known = self._view.segment, self._capability
        if known and (segment.encap, segment.underlay) not in known.tunnels:
            return Reason.UNSUPPORTED_ENCAP
        return None

    def _why_nobody(self) -> Reason:
        """Return why no port is behind the switch: what comes nearest to being there."""
        allowed = (port for port in self._view.ports if port.state is not PortState.BLOCKED)
        obstacles = {self._obstacle(port) for port in allowed}
        if None in obstacles:
            return Reason.POLICY_OFF
        nearest = (
            Reason.PENDING,
            Reason.NETWORK_FUNCTION,
            Reason.UNSUPPORTED_GUARD,
            Reason.UNSUPPORTED_MATCH,
        )
        return next((why for why in nearest if why in obstacles), Reason.NO_SWITCH_PORT)

    def _is(self, word: Hardware, owner: Attachment | Endpoint) -> bool:
        """Say whether a pin says ``word`` of ``owner``; who is never there is no candidate."""
        names = self._pins[word]
        return owner.identity in names or owner.mac in names

    def _key(self, mac: Mac) -> EntryKey:
        return EntryKey(self._view.segment.vni, mac)


def _port(port: Port, neighbours: int) -> _Bundle:
    addresses = len(port.attachment.ips) if port.guard is Guard.IP else 0
    ways = (Part.WAY, _senders(port) * neighbours)
    return _Bundle(((Part.PORT, 1), (Part.ADDRESS, addresses), (Part.LOCAL, 1), ways))


def _senders(port: Port) -> int:
    return len(port.attachment.ips) if port.guard is Guard.IP else _VERSIONS
