"""When a loss of rows is too sudden to be believed at once (design, section 4). Pure."""

from __future__ import annotations

SECOND_LOOK_S = 5.0
"""After how many seconds rows that were lost suddenly are looked for again."""

_SHARE = 0.2
_FEW = 10


def is_sudden(lost: int, seen: int) -> bool:
    """Say whether losing ``lost`` of ``seen`` rows at once waits for a second look.

    More than a fifth does, but not ten rows or fewer: a handful of pods ends together every day.
    """
    return lost > _FEW and lost > seen * _SHARE
