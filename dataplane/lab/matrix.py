"""Every pod to every other: what a segment promises, asked of real packets."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import permutations

from dataplane.core.errors import OverweaveError
from dataplane.lab import probes
from dataplane.lab.probes import Pace, ProbeError, Station

VERSIONS = (4, 6)
_AT_ONCE = 4
_PINGS = 3
_TRANSFER_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a segment's pods could do; ``faults`` are sentences, none if all is well.

    ``pairs`` are ordered; a pair is ``reachable`` if every probe in that direction succeeded.
    """

    pairs: int
    reachable: int
    lost: int
    round_trip: float
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The probes of one ordered pair."""

    lost: int
    round_trips: tuple[float, ...]
    faults: tuple[str, ...]


def verify(stations: Sequence[Station]) -> Verdict:
    """Probe every ordered pair over IPv4 and IPv6: ping, full MTU with DF, TCP, and broadcast."""
    pairs = list(permutations(stations, 2))
    with ThreadPoolExecutor(_AT_ONCE, "pair") as pool:
        outcomes = list(pool.map(lambda pair: _pair(*pair), pairs))
        heard = dict(pool.map(lambda station: _broadcasts(station, stations), stations))
    failed = {
        (source.name, sink.name)
        for (source, sink), outcome in zip(pairs, outcomes, strict=True)
        if outcome.faults or sink.name in heard[source.name]
    }
    words = [fault for outcome in outcomes for fault in outcome.faults]
    words += [fault for missing in heard.values() for fault in missing.values()]
    times = sorted(time for outcome in outcomes for time in outcome.round_trips)
    return Verdict(
        pairs=len(pairs),
        reachable=len(pairs) - len(failed),
        lost=sum(outcome.lost for outcome in outcomes),
        round_trip=times[len(times) // 2] if times else 0.0,
        faults=tuple(words),
    )


def converge(stations: Sequence[Station], timeout_s: float = 5.0) -> float:
    """Return after how many seconds every pod had heard from every other; for right after ADD.

    ADD waits for its own node only, the others hear of a pod a moment later. Raises ProbeError
    for a pair that has not got through in ``timeout_s``.
    """
    began = time.monotonic()
    pairs = list(permutations(stations, 2))
    with ThreadPoolExecutor(_AT_ONCE, "pair") as pool:
        list(pool.map(lambda pair: _wait(pair[0], pair[1], began + timeout_s), pairs))
    return time.monotonic() - began


def _wait(source: Station, sink: Station, deadline: float) -> None:
    once = Pace(patience=0.05)
    for version in VERSIONS:
        while probes.ping(source, sink.ip(version), once).lost:
            if time.monotonic() > deadline:
                raise ProbeError(f"{source.name} to {sink.name}, IPv{version}: not reached in time")


def leaks(segments: Mapping[str, Sequence[Station]]) -> tuple[str, ...]:
    """Send frames from one pod of each segment to every other pod; return what went wrong.

    Wrong is a frame in another segment, and also one that did not arrive in its own: without that
    second half, silence would prove nothing.
    """
    with ThreadPoolExecutor(len(segments), "leak") as pool:
        found = pool.map(lambda name: list(_leaks_of(name, segments)), segments)
        return tuple(fault for faults in found for fault in faults)


def _leaks_of(segment: str, segments: Mapping[str, Sequence[Station]]) -> Iterator[str]:
    at_home = segments[segment]
    source = at_home[0]
    everyone = [station for stations in segments.values() for station in stations]
    others = [station for station in everyone if station != source]
    arrived = probes.intrude(source, others)
    for other in others:
        wanted = 2 if other in at_home else 0
        if arrived[other.name] != wanted:
            yield f"{source.name} to {other.name}: {arrived[other.name]} frames, not {wanted}"


def _pair(source: Station, sink: Station) -> _Outcome:
    lost, times, faults = 0, [], []
    for version in VERSIONS:
        way = f"{source.name} to {sink.name}, IPv{version}"
        try:
            target = sink.ip(version)
            echo = probes.ping(source, target, Pace(count=_PINGS))
            full = probes.ping(source, target, Pace(size=source.mtu))
            lost += echo.lost + full.lost
            times += echo.round_trips
            for what, one in (("ping", echo), (f"ping of {source.mtu} bytes with DF", full)):
                if one.lost or one.duplicates:
                    faults.append(f"{way}: {what}: {one.lost} lost, {one.duplicates} twice")
            if not echo.lost:
                probes.transfer(source, sink, version, _TRANSFER_BYTES)
        except OverweaveError as error:
            faults.append(f"{way}: {error}")
    return _Outcome(lost, tuple(times), tuple(faults))


def _broadcasts(source: Station, stations: Sequence[Station]) -> tuple[str, dict[str, str]]:
    """Send to all; what a busy machine has dropped nobody sends again, so it is asked once more."""
    others = [station for station in stations if station != source]
    missing = {}
    for version in VERSIONS:
        heard = probes.broadcast(source, others, version)
        if any(not heard[other.name] for other in others):
            heard |= probes.broadcast(source, others, version)
        for other in others:
            if heard[other.name] != 1:
                words = f"broadcast arrived {heard[other.name]} times"
                missing[other.name] = f"{source.name} to {other.name}, IPv{version}: {words}"
    return source.name, missing
