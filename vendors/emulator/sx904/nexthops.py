"""Outer MACs, as the card's kernel has them: its route, its neighbour, its uplink's own MAC."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address, IPv6Address

from dataplane.core.errors import OverweaveError
from dataplane.netlink import links, neighbours
from dataplane.netlink.netns import Netns
from dataplane.netlink.rtnl import Rtnl, within
from vendors.emulator.settings import PortConfig
from vendors.emulator.sx904.actions import TunnelSet

_KNOWN_S, _UNKNOWN_S = 0.5, 0.05  # how long an answer of the kernel's counts


@dataclass(slots=True)
class NextHops:
    """Asks the kernel of the namespace that ``uplink``, the card's netdev, is in."""

    uplink: PortConfig
    _answers: dict[IPv4Address | IPv6Address, tuple[float, bytes | None]] = field(
        default_factory=dict
    )

    def macs(self, header: TunnelSet) -> bytes | None:
        """Return destination and source of packets with such a header; None: not known yet.

        What is not known, the kernel is asked to find out.
        """
        until, macs = self._answers.get(header.target, (0.0, None))
        if time.monotonic() < until:
            return macs
        macs = None
        with suppress(OverweaveError), Netns(str(self.uplink.netns)) as space:
            macs = within(space, partial(self._ask, header.target))
        age = _UNKNOWN_S if macs is None else _KNOWN_S
        self._answers[header.target] = (time.monotonic() + age, macs)
        return macs

    def _ask(self, target: IPv4Address | IPv6Address, rtnl: Rtnl) -> bytes | None:
        own = links.find(rtnl, self.uplink.netdev)
        hop = None if own is None else neighbours.next_hop(rtnl, own.ifindex, target)
        if own is None or hop is None:
            return None
        found = neighbours.find(rtnl, own.ifindex, hop)
        if found is None or not found.checked:
            neighbours.use(rtnl, own.ifindex, hop)
        return None if found is None else _packed(found.mac) + _packed(own.mac)


def _packed(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))
