"""How much of the machine works for others: figures of a shared machine are read with it."""

from __future__ import annotations

import time
from pathlib import Path

_STAT = Path("/proc/stat")
_IDLE = slice(3, 5)  # idle, iowait: proc_stat(5)
_ALL = slice(0, 8)  # up to steal; guests are in user already


def busy_percent(seconds: float) -> float:
    """Return how busy all processors are while this process sleeps for so long."""
    before = _STAT.read_text(encoding="ascii")
    time.sleep(seconds)
    return share(before, _STAT.read_text(encoding="ascii"))


def share(before: str, after: str) -> float:
    """Return the percentage of time, between two texts of /proc/stat, that was not idle."""
    ticks = [b - a for a, b in zip(_ticks(before), _ticks(after), strict=True)]
    whole = sum(ticks[_ALL])
    return 100.0 * (whole - sum(ticks[_IDLE])) / whole if whole else 0.0


def _ticks(text: str) -> list[int]:
    return [int(word) for word in text.splitlines()[0].split()[1:]]
