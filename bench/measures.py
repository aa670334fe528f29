"""What is read from traffic, how it becomes figures, and what they should be. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.figures import Figure, least_ratio, median, most_ratio
from bench.paths import BRIDGES, FAST, HOST, KERNEL
from bench.traffic import PACKETS, REQUESTS, TCP1, TCP4, Load, Passed

_GIGA, _KILO = 1e9, 1e3


@dataclass(frozen=True, slots=True)
class Measure:
    """A number that is read from what passed of ``load``."""

    name: str
    unit: str
    load: Load
    read: Callable[[Passed], float]


STREAM1 = Measure("TCP 1 stream", "Gbit/s", TCP1, lambda p: p.received * 8 / p.seconds / _GIGA)
STREAMS4 = Measure("TCP 4 streams", "Gbit/s", TCP4, lambda p: p.received * 8 / p.seconds / _GIGA)
CPU = Measure("CPU", "s/GB", TCP1, lambda p: p.cpu / (p.received / _GIGA))
SMALL = Measure("small packets", "k/s", PACKETS, lambda p: p.received / p.seconds / _KILO)
TURNS = Measure("requests", "k/s", REQUESTS, lambda p: p.round_trips / p.seconds / _KILO)
P50 = Measure("request p50", "us", REQUESTS, lambda p: p.p50_us)
P99 = Measure("request p99", "us", REQUESTS, lambda p: p.p99_us)
MEASURES = (STREAM1, STREAMS4, CPU, SMALL, TURNS, P50, P99)

# What the fast path is to reach of another way, at least.
_LEAST = (
    (STREAM1, HOST, 0.85),
    (STREAM1, BRIDGES, 1.0),
    (STREAM1, KERNEL, 1.05),
    (STREAMS4, HOST, 0.85),
    (STREAMS4, BRIDGES, 1.0),
    (STREAMS4, KERNEL, 1.05),
    (SMALL, BRIDGES, 1.0),
    (SMALL, KERNEL, 1.3),
    (TURNS, BRIDGES, 1.0),
    (TURNS, KERNEL, 1.2),
)
_MOST = ((CPU, KERNEL, 1.0),)

Samples = Mapping[tuple[str, Load], Sequence[Passed]]
"""What passed, one for each round, by the name of the way and the load."""


def values(samples: Samples, way: str, measure: Measure) -> list[float]:
    """Return what was measured on a way, one for each round."""
    return [measure.read(passed) for passed in samples[way, measure.load]]


def absolute(samples: Samples, way: str, measure: Measure) -> Figure:
    """Return the median of what was measured on a way."""
    return median(f"{measure.name}, {way}", values(samples, way, measure), measure.unit)


def ratios(samples: Samples) -> Iterator[Figure]:
    """Yield what the fast path reached of the other ways in the same rounds."""
    for way in FAST:
        for aims, judged in ((_LEAST, least_ratio), (_MOST, most_ratio)):
            for measure, other, aim in aims:
                pairs = zip(*(values(samples, w, measure) for w in (way, other)), strict=True)
                found = [own / reference for own, reference in pairs]
                yield judged(f"{measure.name}, {way} : {other}", found, aim)
