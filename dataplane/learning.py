"""Listens twice a second to what the ports without given addresses claim (core/learning)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import structlog

from dataplane.contracts import Clock, Post
from dataplane.core.errors import OverweaveError
from dataplane.core.events import AddressesLearned
from dataplane.core.learning import Learned, claimed, learning_ports
from dataplane.core.snapshot import Snapshot
from dataplane.looking import Looking
from dataplane.netlink.overheard import Overheard

LOOK_S = 0.5
_MOST_PORTS = 256  # each has a file open, of which a process has 1,024; a DPU has fewer VFs
_MOST_FRAMES = 32  # of a port at a look: who sends more is not believed sooner

log = structlog.get_logger()


class _Place(NamedTuple):
    """The netdev that an attachment is behind, which was another's before, or was another one."""

    port: str
    netdev: str
    ifindex: int


class LearningFeed:
    """Posts AddressesLearned where it is news; at most twice a second, whatever is sent."""

    def __init__(self, snapshot: Callable[[], Snapshot], clock: Clock = time.monotonic) -> None:
        """Listen on the ports that ``snapshot`` returns; ``clock`` gives seconds."""
        self._snapshot = snapshot
        self._clock = clock
        self._learned = Learned()
        self._told = self._learned.addresses
        self._heard: dict[_Place, Overheard] = {}
        self._looking = Looking("learning", LOOK_S)

    def start(self, post: Post) -> None:
        """Begin to listen."""
        self._looking.start(lambda: self.look(post))

    def stop(self) -> None:
        """Listen no more."""
        self._looking.stop()
        self._listen_to(set())

    def look(self, post: Post) -> None:
        """Take what was claimed since the last look."""
        snapshot, now = self._snapshot(), self._clock()
        if snapshot.desired is None:
            return
        ports = learning_ports(snapshot.desired)[:_MOST_PORTS]
        ifindexes = snapshot.state.bindings.ifindexes
        places = {
            _Place(each.ovs_port, each.access_port, ifindexes[each.access_port]): port
            for port, each in ((port, port.attachment) for port in ports)
            if each.access_port in ifindexes
        }
        self._listen_to(set(places))
        learned = self._learned.age(ports, now)
        for place, overheard in self._heard.items():
            port = places[place]
            told = (claimed(each, port.attachment.mac) for each in overheard.frames(_MOST_FRAMES))
            learned = learned.hear(port, dict.fromkeys(ip for ip in told if ip is not None), now)
        self._learned = learned
        if learned.addresses != self._told:
            self._told = learned.addresses
            post(AddressesLearned(self._told))

    def _listen_to(self, wanted: set[_Place]) -> None:
        """Hear these netdevs, and no others."""
        for place in self._heard.keys() - wanted:
            self._heard.pop(place).close()
        for place in sorted(wanted - self._heard.keys()):
            try:
                self._heard[place] = Overheard(place.netdev)
            except OverweaveError as error:  # it has just gone: the next look knows
                log.info("learning.deaf", error=str(error))
