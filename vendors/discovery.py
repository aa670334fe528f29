"""Which DPUs this machine has a half of: every vendor looks at the same picture of the machine.

A new vendor is a discovery module in its folder and one line here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import structlog

from dataplane.contracts import Post
from dataplane.core.discovered import Found
from dataplane.core.events import DevicesFound
from dataplane.looking import Looking
from vendors.intel import discovery as intel
from vendors.marvell import discovery as marvell
from vendors.pci import Machine
from vendors.senao import discovery as senao
from vendors.sysfs import Sysfs

LOOK_S = 0.5  # with what follows, a card that comes or goes is shown well within 2 s
_MOST_LOGGED = 3
_LOOKERS = (intel, marvell, senao)
IDS = frozenset().union(*(looker.IDS for looker in _LOOKERS))

log = structlog.get_logger()


def discover(machine: Machine) -> tuple[Found, ...]:
    """Return the halves of DPUs that ``machine`` has, no two of one name. Pure."""
    found = [half for looker in _LOOKERS for half in looker.find(machine)]
    return tuple(sorted(_told_apart(found), key=lambda half: half.name))


def _told_apart(found: list[Found]) -> Iterator[Found]:
    """Yield ``found`` without the serials that two have: those are nobody's.

    What each is called last is made of where it is.
    """
    counts = Counter((half.side, serial) for half in found for serial in half.serials)
    for half in found:
        own = tuple(serial for serial in half.serials if counts[half.side, serial] == 1)
        if own:
            yield replace(half, serials=own)


class DeviceFeed:
    """Posts DevicesFound when what the machine has is news, looking every ``LOOK_S`` seconds."""

    def __init__(self, root: Path) -> None:
        """Look below ``root``, which is /sys but for a recorded tree."""
        self._sysfs = Sysfs(root, IDS)
        self._told: tuple[Found, ...] = ()
        self._faults: tuple[str, ...] = ()
        self._looking = Looking("devices", LOOK_S)

    def start(self, post: Post) -> None:
        """Begin to look."""
        self._looking.start(lambda: self._look(post))

    def stop(self) -> None:
        """Look no more."""
        self._looking.stop()

    def _look(self, post: Post) -> None:
        machine = self._sysfs.look()
        found = self._told if machine.blind else discover(machine)
        self._log(machine.faults)
        if found != self._told:
            self._told = found
            post(DevicesFound(found))

    def _log(self, faults: tuple[str, ...]) -> None:
        if faults and faults != self._faults:
            first = "; ".join(faults[:_MOST_LOGGED])
            log.warning("discovery.unread", faults=len(faults), first=first)
        self._faults = faults
