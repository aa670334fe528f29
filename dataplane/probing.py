"""Sends probes through a path of the DPU that this node is, at a slow and steady rate."""

from __future__ import annotations

from typing import Protocol

from dataplane.contracts import Post
from dataplane.core.events import PathProbed
from dataplane.core.heartbeat import MISSES
from dataplane.looking import Looking

PROBE_S = 1.0
SWITCH_PROBE_S = 2.0  # its host has more to do for it


class PathProbe(Protocol):
    """A way to send a frame through a path."""

    def probe(self) -> str | None:
        """Send one; return why it has not come through, empty: it has, None: nobody can tell."""
        ...


class ProbeFeed:
    """Posts a PathProbed where it is news; one that is lost may be a machine that is busy."""

    def __init__(self, path: str, probe: PathProbe, every_s: float = PROBE_S) -> None:
        """Probe ``path``; until one has come through, or two have not, nothing is told."""
        self._path = path
        self._probe = probe
        self._missed = 0
        self._unknown = 0
        self._told: str | None = None
        self._looking = Looking(f"{path}-probe", every_s)

    def start(self, post: Post) -> None:
        """Begin to probe."""
        self._looking.start(lambda: self.look(post))

    def stop(self) -> None:
        """Probe no more."""
        self._looking.stop()

    def look(self, post: Post) -> None:
        """Probe once."""
        why = self._probe.probe()
        self._unknown = self._unknown + 1 if why is None else 0
        if why is None and self._unknown < MISSES:
            return
        why = why or ""  # what nobody can tell any more is not said of it for ever
        self._missed = self._missed + 1 if why else 0
        is_verdict = not why or self._missed >= MISSES
        if is_verdict and why != self._told:
            self._told = why
            post(PathProbed(self._path, why))
