"""Whether the other half of a DPU is alive: by its counter, and a clock that never goes back. Pure.

The host asks, the DPU answers, and each tells how often it has. No time that the other one says
is looked at: clocks of two machines differ, and jump.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

ASK_S = 0.5  # from one question to the next, unless the answer takes longer
ANSWER_S = 1.0  # how long an answer may take
MISSES = 2  # so many in a row: one may be a machine that is busy
SILENT_S = ASK_S + MISSES * ANSWER_S  # after the last sign of life


@dataclass(frozen=True, slots=True)
class Pulse:
    """The other half's newest ``count``, ``at`` which second it came, and how often none did since.

    A count that is there already is no sign of life; 0 is told by a version that does not count.
    """

    count: int = 0
    at: float = -math.inf
    missed: int = 0

    def told(self, count: int, now: float) -> Pulse:
        """Return it after a ``count`` has come at ``now``."""
        return self.lacking() if count and count == self.count else Pulse(count, now)

    def lacking(self) -> Pulse:
        """Return it after one that has not come."""
        return replace(self, missed=self.missed + 1)

    def is_dead(self, now: float) -> bool:
        """Say whether so many are missing, or so long, that nobody is there."""
        return self.missed >= MISSES or now - self.at > SILENT_S
