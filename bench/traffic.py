"""One load over one way: traffic.c compiled, run, and what it printed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.paths import Way
from dataplane.core.errors import OverweaveError

_SOURCES = Path(__file__).parent
_WARNINGS = ("-Wall", "-Wextra", "-Werror")


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent, as traffic.c calls it; ``streams`` side by side."""

    kind: str
    streams: int = 1


TCP1, TCP4 = Load("tcp"), Load("tcp", 4)
PACKETS, REQUESTS = Load("packets"), Load("requests")
LOADS = (TCP1, TCP4, PACKETS, REQUESTS)


@dataclass(frozen=True, slots=True)
class Passed:
    """What arrived: bytes of TCP or datagrams, and answered requests; ``cpu`` in busy seconds."""

    received: int
    seconds: float
    cpu: float
    round_trips: int
    lost: int
    p50_us: float
    p99_us: float


def compiled(directory: Path, name: str = "traffic") -> Path:
    """Return a program that makes traffic, compiled into ``directory``. Raises OverweaveError."""
    program = directory / name
    run(["gcc", "-O2", *_WARNINGS, "-o", str(program), str(_SOURCES / f"{name}.c")])
    return program


def send(program: Path, load: Load, way: Way, seconds: float) -> Passed:
    """Send ``load`` for ``seconds`` and return what passed. Raises OverweaveError."""
    ends = [str(way.client.netns), str(way.server.netns), str(way.server.ip(4))]
    said = run([str(program), load.kind, *ends, str(seconds), str(load.streams)])
    passed = Passed(**json.loads(said))
    if not passed.received + passed.round_trips:
        raise OverweaveError(f"{way.name}: nothing of the load {load.kind} arrived")
    return passed


def run(words: Sequence[str]) -> str:
    """Run a command and return what it printed. Raises OverweaveError."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise OverweaveError(f"{words[0]} is missing; run: apt-get install {words[0]}") from error
    if done.returncode:
        said = done.stderr.strip() or f"it ended with status {done.returncode}"
        raise OverweaveError(f"{' '.join(words)}: {said}")
    return done.stdout
