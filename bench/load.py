"""Pods attached and detached, one plugin against the other in turns; every call is a sample."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.plugins import Plugin

VERBS = ("ADD", "DEL")
Step = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Side:
    """One plugin and the configuration it gets; ``took`` are seconds, in order, by verb."""

    plugin: Plugin
    config: Mapping[str, Any]
    took: dict[str, list[float]] = field(default_factory=lambda: {verb: [] for verb in VERBS})

    def call(self, verb: str, pod: Path) -> None:
        """Time one call."""
        self.took[verb].append(self.plugin.call(verb, pod, self.config))

    def call_all(self, verb: str, pods: Sequence[Path]) -> float:
        """Time calls for all ``pods`` at once; return the seconds until the last has ended."""
        began = time.monotonic()
        with ThreadPoolExecutor(len(pods), "pod") as pool:
            calls = [pool.submit(self.plugin.call, verb, pod, self.config) for pod in pods]
        wall = time.monotonic() - began
        self.took[verb] += [call.result() for call in calls]
        return wall


def alternate(sides: Sequence[Side], width: int, step: Step) -> None:
    """Attach all pods, ``width`` at once, then detach them so; the sides take turns.

    Who begins changes each time: the second finds warmer caches, and what the first left undone.
    """
    for verb in VERBS:
        for turn, batches in enumerate(
            zip(*(_batches(side, width) for side in sides), strict=True)
        ):
            pairs = list(zip(sides, batches, strict=True))
            for side, pods in reversed(pairs) if turn % 2 else pairs:
                if width == 1:
                    side.call(verb, pods[0])
                else:
                    side.call_all(verb, pods)
            step()


def crowd(sides: Sequence[Side], rounds: int, step: Step) -> list[list[float]]:
    """Attach all pods of a side at once, then detach them; return the seconds ADDs took in all.

    One list for each side, with one value for each round; the sides take turns.
    """
    walls: list[list[float]] = [[] for _ in sides]
    for number in range(rounds):
        pairs = list(zip(sides, walls, strict=True))
        for side, wall in reversed(pairs) if number % 2 else pairs:
            wall.append(side.call_all("ADD", side.plugin.pods))
            side.call_all("DEL", side.plugin.pods)
        step()
    return walls


def _batches(side: Side, width: int) -> Iterator[Sequence[Path]]:
    pods = side.plugin.pods
    for start in range(0, len(pods), width):
        yield pods[start : start + width]
