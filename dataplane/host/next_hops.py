"""The "next-hops" Target: which MAC packets to other VTEPs leave with, where no eBPF asks for it.

What should be there is what the kernel knows, and what we can set right is what we know of it: an
item that differs is asked for again, and told as an event. The kernel resolves and ages; it also
hears of a new MAC (ARP, ND) at once. What nothing was heard of for a while is checked at each look,
as the kernel does with what it sends to itself.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass

from dataplane.contracts import Post
from dataplane.core.desired import Bindings, Desired
from dataplane.core.diff import Change, Item, Rendering
from dataplane.core.events import NextHopsChanged
from dataplane.core.model import IpAddress, Mac
from dataplane.netlink import neighbours
from dataplane.netlink.neighbours import Neighbour
from dataplane.netlink.rtnl import Rtnl


@dataclass(frozen=True, slots=True)
class WayKey:
    """Names the way to a VTEP out of the underlay NIC."""

    ifindex: int
    vtep: IpAddress


@dataclass(frozen=True, slots=True)
class Way:
    """The MAC of the next hop, None: not known. ``checked``: the kernel relies on it."""

    mac: str | None
    checked: bool = True
    scope: int | None = None


class NextHopsTarget:
    """Follows the kernel's next hops towards all peers, and tells them to ``post``."""

    name = "next-hops"
    deadline_s = 5.0
    bound_by = frozenset({"nic", "next_hops"})

    def __init__(self, post: Post) -> None:
        """Follow nothing yet."""
        self._post = post
        self._followed: frozenset[WayKey] = frozenset()

    def render(self, desired: Desired, bindings: Bindings) -> Rendering:
        """Return the ways as they are known; to learn more is up to the kernel."""
        if bindings.nic is None:
            return Rendering({})
        ifindex, known = bindings.nic.ifindex, bindings.next_hops
        return Rendering({WayKey(ifindex, vtep): Way(known.get(vtep)) for vtep in desired.peers})

    def observe(self) -> Mapping[Hashable, Item]:
        """Return the ways that are followed, as the kernel has them."""
        with Rtnl() as rtnl:
            return {key: _way(_find(rtnl, key)[1]) for key in self._followed}

    def apply(self, change: Change) -> None:
        """Have the kernel resolve and check what it must, and tell what it knows."""
        wanted = {**change.add, **change.update}
        gone = _ways(change.remove)
        self._followed = (self._followed | _ways(wanted)) - gone
        news: dict[IpAddress, Mac | None] = dict.fromkeys(
            {key.vtep for key in gone} - {key.vtep for key in self._followed}
        )
        with Rtnl() as rtnl:
            for key in _ways(wanted):
                hop, found = _find(rtnl, key)
                if hop is not None and (found is None or not found.checked):
                    neighbours.use(rtnl, key.ifindex, hop)
                if found is not None and found.mac != wanted[key].mac:
                    news[key.vtep] = Mac(found.mac)
        if news:
            self._post(NextHopsChanged(news))


def _find(rtnl: Rtnl, key: WayKey) -> tuple[IpAddress | None, Neighbour | None]:
    hop = neighbours.next_hop(rtnl, key.ifindex, key.vtep)
    return hop, neighbours.find(rtnl, key.ifindex, hop) if hop is not None else None


def _way(found: Neighbour | None) -> Way:
    return Way(None, checked=False) if found is None else Way(found.mac, found.checked)


def _ways(keys: Iterable[Hashable]) -> frozenset[WayKey]:
    return frozenset(key for key in keys if isinstance(key, WayKey))
