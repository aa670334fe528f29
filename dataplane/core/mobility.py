"""Who owns a MAC or an address that several Endpoints claim (RFC 7432 section 15). Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import count

from dataplane.core.model import Endpoint, EndpointKey, IpAddress
from dataplane.core.reasons import Reason

MAX_MOVES = 5  # RFC 7432 section 15.1: N and M, with its defaults
MOVES_PERIOD_S = 180


@dataclass(frozen=True, slots=True)
class Loss:
    """Why an Endpoint is not programmed: ``winner`` moved it away or claims the same thing."""

    winner: Endpoint
    reason: Reason

    @property
    def detail(self) -> str:
        """Return one phrase for people."""
        if self.reason is Reason.SUPERSEDED:
            return f"{self.winner.identity} has moved to node {self.winner.node}"
        return f"{self.winner.identity} on node {self.winner.node} has the same MAC or address"


def resolve(
    endpoints: Iterable[Endpoint],
    vteps: Mapping[str, IpAddress],
    withdrawn: Collection[EndpointKey] = (),
) -> dict[EndpointKey, Loss]:
    """Return the losers among the Endpoints of one segment; the same input loses on every node.

    Equal identity is a move: the higher sequence wins, a tie goes to the lower VTEP. Another
    identity is a duplicate: the lower VTEP wins. ``vteps`` gives each node's VTEP address. Who
    attached while one was ``withdrawn`` could not know of it: that one loses a tie.
    """
    contested = _contested(endpoints)
    if not contested:
        return {}
    losses: dict[EndpointKey, Loss] = {}
    accepted: list[Endpoint] = []
    for endpoint in sorted(
        contested, key=lambda e: (-e.sequence, e.key in withdrawn, *_rank(e, vteps))
    ):
        winner = next(
            (w for w in accepted if w.identity == endpoint.identity and _shares(w, endpoint)), None
        )
        if winner:
            losses[endpoint.key] = Loss(winner, Reason.SUPERSEDED)
        else:
            accepted.append(endpoint)
    settled: list[Endpoint] = []
    for endpoint in sorted(accepted, key=lambda e: _rank(e, vteps)):
        winner = next((w for w in settled if _shares(w, endpoint)), None)
        if winner:
            losses[endpoint.key] = Loss(winner, Reason.DUPLICATE)
        else:
            settled.append(endpoint)
    return losses


def recent_moves(moves: Iterable[int], now: int) -> tuple[int, ...]:
    """Return those of ``moves`` that count at ``now``, oldest first."""
    # Clocks differ, and a move may be newer than the request that comes upon it: what lies ahead
    # of ``now`` counts as now, and keeps its time, for the next node may be the one to judge it.
    return tuple(sorted(time for time in moves if time > now - MOVES_PERIOD_S))


def moves_after(moves: Iterable[int], now: int) -> tuple[int, ...]:
    """Return ``moves`` as they are after one more at ``now``."""
    recent = recent_moves(moves, now)
    # The database keeps a set: of two moves in one second the second would not be counted.
    free = next(time for time in count(now) if time not in recent)
    return tuple(sorted((*recent, free)))


def frozen_for(moves: Iterable[int], now: int) -> int:
    """Return how many seconds from ``now`` on another move would be one too many; 0: it is none."""
    recent = recent_moves(moves, now)
    if len(recent) < MAX_MOVES:
        return 0
    return min(recent[-MAX_MOVES], now) + MOVES_PERIOD_S - now


def _contested(endpoints: Iterable[Endpoint]) -> Collection[Endpoint]:
    """Return the endpoints that share a claim: as a rule none, so only those are compared."""
    first: dict[object, Endpoint] = {}
    found: dict[EndpointKey, Endpoint] = {}
    for endpoint in endpoints:
        for claim in (endpoint.mac, *endpoint.ips):
            other = first.setdefault(claim, endpoint)
            if other is not endpoint:
                found |= {other.key: other, endpoint.key: endpoint}
    return found.values()


def _shares(one: Endpoint, other: Endpoint) -> bool:
    return one.mac == other.mac or not set(one.ips).isdisjoint(other.ips)


_NO_VTEP = ip_address("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")


def _rank(endpoint: Endpoint, vteps: Mapping[str, IpAddress]) -> tuple[int, int, EndpointKey]:
    vtep = vteps.get(endpoint.node, _NO_VTEP)
    return vtep.version, int(vtep), endpoint.key
